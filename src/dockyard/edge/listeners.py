"""The sockets that the API is served on.

Owns: reading `-H` values, making and unmaking the sockets, who may reach them (S46: a unix socket is 0660 and belongs
to a group; TCP without TLS client certificates is refused unless it is forced). Does not own: what is spoken on them.
"""

from __future__ import annotations

import contextlib
import errno
import grp
import os
import socket
import stat
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from dockyard.model.errors import Conflict, InvalidArgument, SystemFailure

_FIRST_PASSED = 3  # sd_listen_fds(3)
_BACKLOG = 1024
_LONGEST_PATH = 107  # bytes of sun_path, unix(7), without the zero at the end
_GROUPS = ("dockyard", "docker")  # the first that exists owns the socket, unless --group says otherwise


@dataclass(frozen=True, slots=True)
class Address:
    """One `-H` value. `kind`: unix (`path`), tcp (`host`, `port`), fd (`path` is what stood after `fd://`)."""

    kind: str
    path: str = ""
    host: str = ""
    port: int = 0


@dataclass(slots=True)
class Listener:
    """A listening socket. `untrusted`: TCP, where browsers can reach it. `unlink`: (path, device, inode) at the end."""

    socket: socket.socket
    untrusted: bool
    unlink: tuple[str, int, int] | None = None

    def close(self) -> None:
        """Stop listening; the socket's file goes too, if it is still ours."""
        self.socket.close()
        if self.unlink:
            path, device, inode = self.unlink
            with contextlib.suppress(OSError):
                found = os.lstat(path)
                if (found.st_dev, found.st_ino) == (device, inode):
                    os.unlink(path)


def parse_address(text: str, default_socket: str, tls: bool) -> Address:
    """Read a `-H` value. InvalidArgument naming it when it is none."""
    scheme, separator, rest = text.partition("://")
    if not separator:
        raise InvalidArgument(f"unable to parse host {text!r}: expected unix://PATH, tcp://HOST:PORT or fd://")
    if scheme == "unix":
        return Address("unix", path=rest or default_socket)
    if scheme == "fd":
        return Address("fd", path=rest)
    if scheme == "tcp":
        return _parse_tcp(text, rest.rstrip("/"), 2376 if tls else 2375)
    raise InvalidArgument(f"unable to parse host {text!r}: unknown scheme {scheme!r}")


def _parse_tcp(text: str, rest: str, default_port: int) -> Address:
    host, colon, port = rest.rpartition(":")
    if not colon or (rest.startswith("[") and rest.endswith("]")):
        host, port = rest, ""
    number = default_port if not port else int(port) if port.isascii() and port.isdecimal() else -1
    if not 0 <= number <= 65535:
        raise InvalidArgument(f"unable to parse host {text!r}: bad port")
    return Address("tcp", host=host.strip("[]") or "127.0.0.1", port=number)


def refuse_open_tcp(addresses: Sequence[Address], *, client_verified: bool, forced: bool) -> None:
    """S46: whoever reaches the API is root. InvalidArgument for TCP without client certificates, unless forced."""
    for address in addresses:
        if address.kind == "tcp" and not client_verified and not forced:
            raise InvalidArgument(
                f"refusing to listen on tcp://{address.host}:{address.port} without TLS client verification: anyone "
                "who reaches it is root on this host; give --tlsverify with certificates, or --tls=false (or --tls "
                "--tlsverify=false) to force it"
            )


def listen(address: Address, group: str, environment: Mapping[str, str]) -> list[Listener]:
    """Make the listening sockets of one address (several for `fd://`)."""
    if address.kind == "unix":
        return [_listen_unix(address.path, group)]
    if address.kind == "tcp":
        return _listen_tcp(address)
    return _passed(address.path, environment)


def _listen_unix(path: str, group: str) -> Listener:
    _clear_stale(path)
    Path(path).parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        _bind_private(sock, path)
    except BaseException:
        sock.close()
        raise
    try:
        _hand_to_group(path, group)
        os.chmod(path, 0o660)
        sock.listen(_BACKLOG)
    except BaseException:
        sock.close()
        os.unlink(path)
        raise
    sock.setblocking(False)
    found = os.lstat(path)
    return Listener(sock, untrusted=False, unlink=(path, found.st_dev, found.st_ino))


def _bind_private(sock: socket.socket, path: str) -> None:
    """Bind so that nobody reaches the socket before its mode and group are right."""
    before = os.umask(0o177)
    try:
        with _short(path) as name:
            sock.bind(name)
    except OSError as error:
        raise SystemFailure(f"cannot listen on unix://{path}: {error.strerror}") from error
    finally:
        os.umask(before)


@contextlib.contextmanager
def _short(path: str) -> Iterator[str]:
    """A name for a socket that fits: one ends at 108 bytes, so a longer path goes through a directory descriptor."""
    if len(os.fsencode(path)) <= _LONGEST_PATH:
        yield path
        return
    directory = os.open(os.path.dirname(path), os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{directory}/{os.path.basename(path)}"
    finally:
        os.close(directory)


def _clear_stale(path: str) -> None:
    """Remove a socket that nobody serves. Conflict when somebody does, or when it is no socket."""
    try:
        mode = os.lstat(path).st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise Conflict(f"cannot listen on unix://{path}: the path exists and is not a socket")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe, _short(path) as name:
        probe.settimeout(2)
        outcome = probe.connect_ex(name)
    if outcome not in (errno.ECONNREFUSED, errno.ENOENT):
        raise Conflict(f"cannot listen on unix://{path}: another process serves it")
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)


def _hand_to_group(path: str, group: str) -> None:
    for name in (group,) if group else _GROUPS:
        try:
            gid = int(name) if name.isdecimal() else grp.getgrnam(name).gr_gid
        except KeyError:
            if group:
                raise InvalidArgument(f"group {group} not found") from None
            continue
        os.chown(path, -1, gid)
        return


def _listen_tcp(address: Address) -> list[Listener]:
    try:
        found = socket.getaddrinfo(
            address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE | socket.AI_ADDRCONFIG
        )
        return [_tcp_listener(family, target) for family, _, _, _, target in dict.fromkeys(found)]
    except OSError as error:
        raise SystemFailure(f"cannot listen on tcp://{address.host}:{address.port}: {error.strerror}") from error


def _tcp_listener(family: int, target: tuple[object, ...]) -> Listener:
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        # A client that vanished without a word is noticed within two minutes; accepted sockets inherit this.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 60)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 15)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 4)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.bind(target)
        sock.listen(_BACKLOG)
    except BaseException:
        sock.close()
        raise
    sock.setblocking(False)
    return Listener(sock, untrusted=True)


def _passed(name: str, environment: Mapping[str, str]) -> list[Listener]:
    """The sockets that systemd holds open for us (sd_listen_fds(3)). `name`: "" or "*" all, else number or name."""
    count = environment.get("LISTEN_FDS", "")
    if environment.get("LISTEN_PID") != str(os.getpid()) or not count.isdecimal() or count == "0":
        raise InvalidArgument("no sockets found via socket activation: make sure the service was started by systemd")
    names = environment.get("LISTEN_FDNAMES", "").split(":")
    listeners = []
    for index in range(int(count)):
        number = _FIRST_PASSED + index
        if name not in ("", "*", str(number), names[index] if index < len(names) else ""):
            continue
        os.set_inheritable(number, False)
        sock = socket.socket(fileno=number)
        sock.setblocking(False)
        listeners.append(Listener(sock, untrusted=sock.family != socket.AF_UNIX))
    if not listeners:
        raise InvalidArgument(f"socket activation passed no socket for fd://{name}")
    return listeners
