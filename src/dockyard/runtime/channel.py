"""Messages with descriptors over SOCK_SEQPACKET: how daemon, zygote and monitors speak.

Owns: one JSON object a message, up to 64 descriptors beside it, sealed memfds for what a message cannot hold (a message
ends at the socket's buffer, about 200 KiB), sockets at paths longer than sun_path through a directory's descriptor.
Does not own: what the messages say. Standard library only.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import socket
import struct
import time
from collections.abc import Sequence
from typing import Any

_SIZE = 200 * 1024
_EXHAUSTED = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)
_PAUSE = 0.05  # seconds
_MAX_FDS = 64
_ANCILLARY = socket.CMSG_SPACE(_MAX_FDS * 4)


def send(sock: socket.socket, message: dict[str, Any], fds: Sequence[int] = ()) -> None:
    """One message. OSError as of sendmsg(2); EMSGSIZE for what belongs into a memfd."""
    sock.sendmsg([json.dumps(message, separators=(",", ":")).encode()], rights(fds), socket.MSG_NOSIGNAL)


def rights(fds: Sequence[int]) -> list[tuple[int, int, bytes]]:
    """Descriptors as sendmsg's ancillary data."""
    return [(socket.SOL_SOCKET, socket.SCM_RIGHTS, struct.pack(f"{len(fds)}i", *fds))] if fds else []


def receive(sock: socket.socket) -> tuple[dict[str, Any], list[int]] | None:
    """The next message and its descriptors (close-on-exec), None at the end. BlockingIOError if there is none yet."""
    received = receive_raw(sock)
    if received is None:
        return None
    data, fds = received
    message = json.loads(data)
    if not isinstance(message, dict):
        close_all(fds)
        raise OSError(74, "a message is not an object")
    return message, fds


def hear(sock: socket.socket) -> tuple[dict[str, Any], list[int]] | None:
    """As `receive`, of a non-blocking socket: one that breaks, or says what is no message, has ended."""
    try:
        return receive(sock)
    except BlockingIOError:
        raise
    except (OSError, ValueError):
        return None


def receive_raw(sock: socket.socket) -> tuple[bytes, list[int]] | None:
    """As `receive`, the message not yet decoded."""
    data, ancillary, flags, _ = sock.recvmsg(_SIZE, _ANCILLARY, socket.MSG_CMSG_CLOEXEC)
    fds: list[int] = []
    for level, kind, payload in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            fds.extend(struct.unpack(f"{len(payload) // 4}i", payload[: len(payload) // 4 * 4]))
    if not data:
        close_all(fds)
        return None
    if flags & (socket.MSG_TRUNC | socket.MSG_CTRUNC):
        close_all(fds)
        raise OSError(90, "a message was cut off")
    return data, fds


def close_all(fds: Sequence[int]) -> None:
    for fd in fds:
        os.close(fd)


def seal(data: bytes, name: str = "dockyard") -> int:
    """`data` in a memfd that nobody can change any more."""
    fd = os.memfd_create(name, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        view = memoryview(data)
        while view:
            view = view[os.write(fd, view) :]
        seals = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, seals)
    except OSError:
        os.close(fd)
        raise
    return fd


def unseal(fd: int) -> bytes:
    """All of a memfd's bytes; the descriptor is closed."""
    try:
        return content(fd)
    finally:
        os.close(fd)


def content(fd: int) -> bytes:
    """All of a memfd's bytes; the descriptor stays open."""
    return os.pread(fd, os.fstat(fd).st_size, 0)


def listen(directory: int, name: str) -> socket.socket:
    """A listening socket `name` (0600) in the directory `directory` (a descriptor: no limit on its path's length)."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        sock.bind(f"/proc/self/fd/{directory}/{name}")
        os.chmod(name, 0o600, dir_fd=directory)
        sock.listen(16)
    except OSError as error:
        sock.close()
        error.filename = name
        raise
    return sock


def connect(directory: int, name: str) -> socket.socket:
    """Connect to the socket `name` in `directory`. OSError: ENOENT, ECONNREFUSED when nobody serves it."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        sock.setblocking(False)  # who does not accept any more must not make us wait
        sock.connect(f"/proc/self/fd/{directory}/{name}")
        sock.setblocking(True)
    except OSError:
        sock.close()
        raise
    return sock


def accept(listener: socket.socket) -> socket.socket | None:
    """The next connection of a peer that we serve (S47; a stranger's is closed). None if there is none now."""
    try:
        connection, _ = listener.accept()
    except OSError as error:
        if error.errno in _EXHAUSTED:
            time.sleep(_PAUSE)  # it waits still: an event loop would ask again at once, for ever
        return None
    if peer_is_root(connection):
        return connection
    connection.close()
    return None


def peer_is_root(sock: socket.socket) -> bool:
    """SO_PEERCRED: whether the other side runs as the user that we run as, or as root (S47)."""
    _, uid, _ = struct.unpack("3i", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
    return uid in (0, os.geteuid())


def write_record(directory: int, name: str, record: dict[str, Any], instead_of: str = "") -> None:
    """A small JSON file in `directory`, whole or not at all: temporary name, rename. Run-time state, not synced.

    `instead_of`: a file there that is of no use any more. Where there is no room for another, it becomes this one.
    """
    data = json.dumps(record, separators=(",", ":")).encode()
    temporary = f".{name}.tmp"
    try:
        _write_all(os.open(temporary, _NEW_FILE, 0o600, dir_fd=directory), data)
    except OSError:
        _unlink(directory, temporary)
        if not instead_of:
            raise
        temporary = instead_of
        fd = os.open(temporary, os.O_WRONLY | os.O_CLOEXEC | os.O_NOFOLLOW, dir_fd=directory)
        _write_all(fd, data.ljust(os.fstat(fd).st_size))  # JSON may end in spaces
    os.rename(temporary, name, src_dir_fd=directory, dst_dir_fd=directory)


_NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC


def _write_all(fd: int, data: bytes) -> None:
    """All of `data` into `fd`, which is closed."""
    try:
        while data:
            data = data[os.write(fd, data) :]
    finally:
        os.close(fd)


def _unlink(directory: int, name: str) -> None:
    try:
        os.unlink(name, dir_fd=directory)
    except OSError:
        pass  # it was not made
