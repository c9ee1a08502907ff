"""Calling another OCI runtime.

Owns: the argument vector (runc's grammar, which all of them share), waiting for the end, what its log says of a
failure. Does not own: what is called for (`making`, `joining`).
"""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import stat
import struct
from collections.abc import Sequence
from typing import Any

from dockyard.linux import abi, mounts, process
from dockyard.runtime import cgroups
from dockyard.runtime.following import SpawnFailed
from dockyard.runtime.init import is_null
from dockyard.runtime.users import Users

_LOG = "oci.log"
_PREFIXES = ("unable to start container process: ", "runc create failed: ", "runc run failed: ", "exec failed: ")
_NOT_FOUND = ("executable file not found", "not found in $path", "no such file or directory")
_NOT_EXECUTABLE = ("permission denied", "is a directory", "not a directory", "exec format error")
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_CRUN = (  # what it says, and Docker's words, which clients look for
    (re.compile(r"executable file `([^`]*)` not found in \$PATH.*"), r'exec: "\1": executable file not found in $PATH'),
    (re.compile(r"open executable: (Operation not permitted|Permission denied)"), "exec: permission denied"),
)
_MAX_LOG = 1 << 20  # bytes that are read of it


class Command:
    """The program of one container. `runtime`: as `launch.RuntimeProgram`; `directory`: its run directory."""

    def __init__(self, runtime: dict[str, Any], directory: str) -> None:
        self._runtime = runtime
        self.directory = directory

    def call(self, *arguments: str, stdio: tuple[int, int, int] | None = None, log: str = _LOG) -> None:
        """Run one command to its end. `stdio`: what the container's process is to have, else /dev/null. SpawnFailed
        with its words and, where they tell, Docker's exit code."""
        path = f"{self.directory}/{log}"
        _remove(path)
        program = self._runtime["path"]
        words = [program, *(self._runtime.get("args") or ()), "--root", f"{self.directory}/oci", "--log", path]
        words += ["--log-format", "json", *arguments]
        status = self._run(program, words, stdio)
        if status == 0:
            _remove(path)
            return
        text = _last_error(path) or f"{os.path.basename(program)} {arguments[0]}: ended with {status}"
        _remove(path)
        raise SpawnFailed(text, _code(text))

    def _run(self, program: str, words: list[str], stdio: tuple[int, int, int] | None) -> int:
        null = own_null()
        given = [null if is_null(fd) else fd for fd in stdio] if stdio is not None else (null, null, null)
        actions = [(os.POSIX_SPAWN_DUP2, fd, number) for number, fd in enumerate(given)]
        environment = {"PATH": _PATH}
        try:
            pid = os.posix_spawnp(
                program, words, environment, file_actions=actions, setsigmask=(), setsigdef=_catchable()
            )
        except OSError as error:
            raise SpawnFailed(f"cannot run the OCI runtime {program}: {error.strerror}") from None
        finally:
            os.close(null)
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def give_streams(stdio: tuple[int, int, int] | None, users: Users | None) -> None:
    """Let pipes belong to the root of a user namespace: the runtime, who gives them to the container's user, is only
    that."""
    for fd in stdio or ():
        if users is not None and stat.S_ISFIFO(os.fstat(fd).st_mode):
            os.fchown(fd, users.uid(0), users.gid(0))


def own_null() -> int:
    """A null device that is nobody else's: crun gives that of the streams to the container's user, who could change its
    mode."""
    tree = mounts.new_tree("tmpfs")
    try:
        os.mknod("null", stat.S_IFCHR | 0o600, os.makedev(1, 3), dir_fd=tree)
        os.chmod("null", 0o666, dir_fd=tree)
        return os.open("null", os.O_RDWR | os.O_CLOEXEC, dir_fd=tree)
    finally:
        os.close(tree)


def _catchable() -> set[signal.Signals]:
    return set(signal.Signals) - {signal.SIGKILL, signal.SIGSTOP}


def _remove(path: str) -> None:
    try:
        os.unlink(path)
    except FileNotFoundError:
        pass


def _last_error(path: str) -> str:
    """The last message of level error, without what only says who speaks."""
    found = ""
    try:
        with open(path, "rb") as file:
            lines = file.read(_MAX_LOG).splitlines()
    except OSError:
        return ""
    for line in lines:
        try:
            record = json.loads(line)
        except ValueError:
            continue
        if isinstance(record, dict) and record.get("level") in ("error", "fatal"):
            found = str(record.get("msg") or "")
    for prefix in _PREFIXES:
        found = found.replace(prefix, "", 1)
    for pattern, words in _CRUN:
        found = pattern.sub(words, found)
    return found


def _code(text: str) -> int:
    """Docker's exit code for a failure: the runtimes tell it in words only."""
    lowered = text.lower()
    if "exec" not in lowered and "chdir" not in lowered:
        return 128
    if any(words in lowered for words in _NOT_FOUND):
        return 127
    return 126 if any(words in lowered for words in _NOT_EXECUTABLE) else 128


def own_mounts() -> None:
    """A mount namespace of its own for the calling process and the runtime that it calls. On a host with control groups
    v1 beside the tree of v2 that tree is hidden there: we use v1, and crun refuses to work with both."""
    process.unshare(abi.CLONE_NEWNS)
    if cgroups.version() == 1 and os.path.exists(f"{_UNIFIED}/cgroup.controllers"):
        mounts.mount("", cgroups.ROOT, "", abi.MS_PRIVATE)  # so that nobody else misses it
        mounts.umount(_UNIFIED, abi.MNT_DETACH)


_UNIFIED = f"{cgroups.ROOT}/unified"


class Console:
    """A socket to which the runtime sends the terminal's master."""

    def __init__(self, directory: str, name: str) -> None:
        """`path`: where the runtime finds it, through our descriptor of the directory: it is to be under 108 bytes."""
        self._full = f"{directory}/{name}"
        _remove(self._full)
        self._at = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        self.path = f"/proc/{os.getpid()}/fd/{self._at}/{name}"
        self._sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._sock.bind(self.path)
        self._sock.listen(1)

    def terminal(self, size: Sequence[int] | None) -> tuple[int, int]:
        """(master, slave), the slave so that the terminal does not hang up before its process has it open."""
        import fcntl
        import termios

        self._sock.settimeout(10)
        try:
            connection, _ = self._sock.accept()
            with connection:
                _, ancillary, _, _ = connection.recvmsg(4096, socket.CMSG_SPACE(4), socket.MSG_CMSG_CLOEXEC)
        except TimeoutError:
            raise SpawnFailed("the OCI runtime did not send the terminal") from None
        if not ancillary:
            raise SpawnFailed("the OCI runtime did not send the terminal")
        (master,) = struct.unpack("i", ancillary[0][2][:4])
        if size:
            fcntl.ioctl(master, termios.TIOCSWINSZ, struct.pack("HHHH", size[0], size[1], 0, 0))
        slave = fcntl.ioctl(master, _TIOCGPTPEER, os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC)
        return master, slave

    def close(self) -> None:
        self._sock.close()
        os.close(self._at)
        _remove(self._full)


_TIOCGPTPEER = 0x5441  # Linux 4.13: the slave of a master, whatever mount namespace its devpts is in
