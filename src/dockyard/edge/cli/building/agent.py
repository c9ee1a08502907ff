"""`--ssh`: the client's ssh agent for `RUN --mount=type=ssh`.

Owns: connections to the daemon that carry an agent's conversations, an agent of the client's own for key files. Does
not own: the flag's form (`proto.buildspec`). The keys never leave this machine: only what an agent answers does.

The daemon cannot call: for every agent one connection waits there (`POST /build/agent`, docs/build.md). When a step has
taken it, which shows by its first byte, the next one is opened.
"""

from __future__ import annotations

import os
import socket
import threading

from dockyard.edge.cli.api import Api
from dockyard.edge.cli.errors import CliError

TYPE_CHECKING = False
if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable, Sequence
    from typing import Any

    from dockyard.edge.cli.http import Connection
    from dockyard.proto.buildspec import Agent

_PIECE = 1 << 16


class Agents:
    """The agents of one build. `token` is what the build calls them by; `close()` at its end."""

    def __init__(self, api: Api, wanted: Sequence[Agent]) -> None:
        self.token = os.urandom(16).hex()
        self.ids = [each.id for each in wanted]
        self._api = api
        self._own: list[OwnAgent] = []
        self._open: set[Connection] = set()
        self._closed = False
        for each in wanted:
            path = self._path(each)
            first = self._connect(each.id)
            threading.Thread(target=self._serve, args=(each.id, path, first), daemon=True).start()

    def close(self) -> None:
        self._closed = True
        for connection in list(self._open):
            _shut(connection.sock)
        for agent in self._own:
            agent.close()

    def _path(self, wanted: Agent) -> str:
        """The socket of the agent that is meant. CliError where there is none."""
        paths = [os.path.expanduser(path) for path in wanted.paths]
        if not paths:
            path = os.environ.get("SSH_AUTH_SOCK", "")
            if not path:
                raise CliError(f"--ssh {wanted.id}: SSH_AUTH_SOCK names no agent: start one, or name a key or a socket")
            return path
        if len(paths) == 1 and _is_socket(paths[0]):
            return paths[0]
        self._own.append(OwnAgent(paths))
        return self._own[-1].path

    def _connect(self, identifier: str) -> Connection:
        stream = self._api.hijack("/build/agent", {"session": self.token, "id": identifier})
        self._open.add(stream.connection)
        return stream.connection

    def _serve(self, identifier: str, path: str, waiting: Connection) -> None:
        while not self._closed:
            try:
                first = waiting.some(_PIECE, at_end=b"")
                if not first:
                    return
                taken, waiting = waiting, self._connect(identifier)
            except (CliError, OSError):
                return
            threading.Thread(target=self._converse, args=(path, taken, first), daemon=True).start()

    def _converse(self, path: str, connection: Connection, first: bytes) -> None:
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as agent:
                agent.connect(path)
                agent.sendall(first)
                back = threading.Thread(target=_copy, args=(agent.recv, connection.sock), daemon=True)
                back.start()
                while data := connection.some(_PIECE, at_end=b""):
                    agent.sendall(data)
                agent.shutdown(socket.SHUT_WR)
                back.join()
        except (CliError, OSError):
            pass
        finally:
            _shut(connection.sock)
            self._open.discard(connection)
            connection.close()


def _copy(read: Callable[[int], bytes], target: Any) -> None:
    try:
        while data := read(_PIECE):
            target.sendall(data)
    except OSError:
        pass
    finally:
        _shut(target)


def _shut(sock: Any) -> None:
    try:
        sock.shutdown(socket.SHUT_RDWR)
    except OSError:
        pass


def _is_socket(path: str) -> bool:
    import stat

    try:
        return stat.S_ISSOCK(os.stat(path).st_mode)
    except OSError as error:
        raise CliError(f"--ssh: {path}: {(error.strerror or str(error)).lower()}") from None


class OwnAgent:
    """An ssh-agent(1) with nothing but the keys that the user names, as long as the build takes."""

    def __init__(self, keys: Sequence[str]) -> None:
        import tempfile

        self._folder = tempfile.mkdtemp(prefix="dockyard-ssh-")
        self.path = os.path.join(self._folder, "agent")
        self._process: subprocess.Popen[bytes] | None = None
        try:
            self._start(keys)
        except BaseException:
            self.close()
            raise

    def _start(self, keys: Sequence[str]) -> None:
        import subprocess

        try:
            self._process = subprocess.Popen(["ssh-agent", "-D", "-a", self.path], stdout=subprocess.DEVNULL)
        except OSError as error:
            raise CliError(f"ssh-agent cannot be run: {error.strerror}: --ssh with key files needs it") from None
        self._wait()
        environment = {**os.environ, "SSH_AUTH_SOCK": self.path}
        done = subprocess.run(["ssh-add", *keys], env=environment, capture_output=True, text=True, check=False)
        if done.returncode:
            raise CliError(f"ssh-add {' '.join(keys)}: {done.stderr.strip()[:500]}")

    def _wait(self) -> None:
        import time

        end = time.monotonic() + 5
        while not os.path.exists(self.path):
            assert self._process is not None
            if self._process.poll() is not None or time.monotonic() > end:
                raise CliError("ssh-agent does not start")
            time.sleep(0.005)

    def close(self) -> None:
        import shutil

        if self._process is not None:
            self._process.terminate()
            self._process.wait()
        shutil.rmtree(self._folder, ignore_errors=True)
