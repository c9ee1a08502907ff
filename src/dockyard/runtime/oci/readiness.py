"""sd_notify(3) of a container: who starts it is told when its program says that it is ready.

Owns: the socket at /run/notify in the container, which stands for the one that NOTIFY_SOCKET of ours names, and handing
on what comes there. Does not own: waiting for the container (`runtime.oci.launching`, `runtime.oci.foreground`).

As with runc: `create` and `run` make the place and tell the program, the command that starts it (`start`, `run`)
serves the socket; detached, it ends when the program is ready or has ended. The words come from a container: only those
below are handed on, and which process is the main one is ours to say.
"""

from __future__ import annotations

import os
import select
import socket
import sys
from typing import Any, Final

from dockyard.linux import selinux
from dockyard.runtime.oci.containers import Container

_VARIABLE: Final = "NOTIFY_SOCKET"
_PLACE: Final = "/run/notify"
_DIRECTORY, _NAME = "notify", "notify.sock"
_LONGEST: Final = 8192  # bytes of a message that is handed on
_READY: Final = b"READY=1"
_HANDED_ON: Final = (
    b"READY", b"RELOADING", b"STOPPING", b"STATUS", b"ERRNO", b"BUSERROR", b"EXIT_STATUS", b"WATCHDOG",
    b"MONOTONIC_USEC", b"EXTEND_TIMEOUT_USEC",
)  # fmt: skip


def make_place(container: Container, config: dict[str, Any]) -> tuple[str, ...]:
    """If there is somebody to tell: mount the place of the socket, and give the program its variable."""
    if not os.environ.get(_VARIABLE):
        return ()
    directory = container.file(_DIRECTORY)
    os.mkdir(directory)
    os.chmod(directory, 0o755)
    _label(directory, config["linux"])
    options = ["bind", "nosuid", "noexec", "nodev", "ro"]
    mount = {"destination": _PLACE, "type": "bind", "source": directory, "options": options}
    config["mounts"] = [*(config.get("mounts") or []), mount]
    return (f"{_VARIABLE}={_PLACE}/{_NAME}",)


class Readiness:
    """The socket of one container, as long as somebody listens at it."""

    def __init__(self, container: Container, address: str, main: int) -> None:
        """`address`: as in NOTIFY_SOCKET; `main`: the process that is told to be the main one. OSError."""
        self._address = "\0" + address[1:] if address.startswith("@") else address
        self._main = main
        self.ready = False
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        at = os.open(container.file(_DIRECTORY), os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        path = f"/proc/self/fd/{at}/{_NAME}"  # a socket's path is short
        try:
            if os.path.lexists(path):
                os.unlink(path)  # of a start that was killed
            self._socket.bind(path)
            os.chmod(path, 0o777)
            _label(path, container.config["linux"])
        except BaseException:
            self._socket.close()
            raise
        finally:
            os.close(at)

    def fileno(self) -> int:
        return self._socket.fileno()

    def hand_on(self) -> None:
        """Everything that has come. Who cannot be told is no reason to fail: the container runs."""
        while True:
            try:
                said = self._socket.recv(_LONGEST)
            except OSError:
                return
            lines = [line for line in said.split(b"\n") if line.partition(b"=")[0] in _HANDED_ON]
            if _READY in lines and not self.ready:
                self.ready = True
                lines.append(b"MAINPID=%d" % self._main)
            if lines:
                self._tell(b"\n".join(lines))

    def _tell(self, text: bytes) -> None:
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
                sock.sendto(text, self._address)
        except OSError as error:
            print(f"dockyard-runtime: warning: {_VARIABLE}: {error.strerror or error}", file=sys.stderr, flush=True)

    def wait(self, pidfd: int) -> None:
        """Hand on until the program is ready or the process has ended. Closes the socket."""
        poll = select.poll()
        poll.register(self._socket, select.POLLIN)
        poll.register(pidfd, select.POLLIN)
        ended = False
        while not self.ready and not ended:
            ended = any(fd == pidfd for fd, _ in poll.poll())
            self.hand_on()
        self.close()

    def close(self) -> None:
        self._socket.close()


def listen(container: Container, main: int) -> Readiness | None:
    """The container's socket, if its place was made and there is somebody to tell. OSError."""
    address = os.environ.get(_VARIABLE, "")
    if not address or not os.path.isdir(container.file(_DIRECTORY)):
        return None
    return Readiness(container, address, main)


def forget(container: Container) -> None:
    """Take the place away."""
    directory = container.file(_DIRECTORY)
    try:
        for name in os.listdir(directory):
            os.unlink(f"{directory}/{name}")
    except FileNotFoundError:
        pass


def _label(path: str, linux: dict[str, Any]) -> None:
    """So that the container may reach it under SELinux; who has none, or may not, goes without."""
    if label := linux.get("mountLabel"):
        try:
            os.setxattr(path, selinux.XATTR, label.encode() + b"\0")
        except OSError:
            pass
