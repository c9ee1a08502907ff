"""The log of a container that never waits for it (`mode=non-blocking`).

Owns: a bounded queue in the monitor and the child behind it, which does what `writer` does and may wait for the disk.
What finds no room is dropped and told. Does not own: the file (`writer`).

Messages to the child: stream (1, 2), time (ns), then the bytes; from it: what is wrong with the log, as text. At the
end of the socket it writes the rest and ends, also when the monitor was killed. Standard library only.
"""

from __future__ import annotations

import os
import select
import signal
import socket
import time
import traceback
from collections import deque
from collections.abc import Callable
from struct import Struct
from typing import TYPE_CHECKING, NoReturn

from dockyard.linux import abi, calls, process
from dockyard.store.journal.writer import Host, LogWriter, Stream

if TYPE_CHECKING:
    from dockyard.model.journal import LogSpec

_HEADER = Struct("<BQ")
_NUMBERS: dict[Stream, int] = {"stdout": 1, "stderr": 2}
_STREAMS: dict[int, Stream] = {1: "stdout", 2: "stderr"}
_PIECE = 64 * 1024  # a message has to fit into the socket's buffer
_PATIENCE = 5.0  # seconds that the end of a container waits for its log
_PAUSE = 1.0  # seconds between starts of a child


class BufferedLog:
    """As `LogWriter`, but `write` never waits."""

    def __init__(self, spec: LogSpec, host: Host) -> None:
        """`spec["buffer"]`: how many bytes may wait, beside what the socket holds (some 200 KiB)."""
        self._spec, self._host = spec, host
        self._limit = spec["buffer"]
        self._queue: deque[bytes] = deque()
        self._queued = 0
        self._sock: socket.socket | None = None
        self._pid = self._pidfd = -1
        self._started = 0.0
        self._telling = False
        self._within: dict[Stream, bool] = {}  # what was taken last ended within a line
        self._cut: dict[Stream, bool] = {}  # something was dropped since; True: it ended within a line
        self.dropped = 0  # bytes for which there was no room
        self._start()

    @property
    def child(self) -> int:
        """The pid of the child that writes, 0 if there is none."""
        return max(self._pid, 0)

    def write(self, stream: Stream, data: bytes, now_ns: int) -> None:
        """As `LogWriter.write`."""
        for at in range(0, len(data), _PIECE):
            piece = data[at : at + _PIECE]
            if self._queued + len(piece) > self._limit:
                self._cut[stream] = not piece.endswith(b"\n")
                self._drop(len(piece))
                continue
            if stream in self._cut:
                piece = self._after_cut(stream, piece)
            if not piece:
                continue
            self._within[stream] = not piece.endswith(b"\n")
            self._queue.append(_HEADER.pack(_NUMBERS[stream], now_ns) + piece)
            self._queued += len(piece)
        self._flush()

    def close(self, now_ns: int | None = None) -> None:
        """Let the child write the rest and wait for it, but not forever: a disk may stand still."""
        deadline = time.monotonic() + _PATIENCE
        if self._queue and self._sock is None:  # the child was lost a moment ago: one more tries
            self._started = 0.0
            self._flush()
        while self._queue and self._sock is not None and (left := deadline - time.monotonic()) > 0:
            poll = select.poll()
            poll.register(self._sock, select.POLLOUT)
            poll.poll(left * 1000)
            self._flush()
        if self._sock is None:
            return
        self._host.unwatch(self._sock.fileno())
        self._sock.shutdown(socket.SHUT_WR)
        poll = select.poll()
        poll.register(self._pidfd, select.POLLIN)
        if poll.poll(max(0.0, deadline - time.monotonic()) * 1000):
            self._hear_all()
            self._forget()
        else:
            self._host.log_trouble(f"the log is still being written: {self._spec['path']}")
            self._sock.close()
            self._sock = None

    def _after_cut(self, stream: Stream, piece: bytes) -> bytes:
        """What of `piece` begins a line, so that no line is glued to what is left of another."""
        if self._cut[stream]:
            begin = piece.find(b"\n") + 1
            self._drop(begin or len(piece))
            if not begin:
                return b""
            piece = piece[begin:]
        del self._cut[stream]
        return b"\n" + piece if piece and self._within.get(stream) else piece

    def _drop(self, count: int) -> None:
        self.dropped += count
        if not self._telling:
            self._telling = True
            self._host.log_trouble(f"output is not logged, the log is slower than the container: {self._spec['path']}")

    def _flush(self) -> None:
        if self._sock is None:
            self._start()
        while self._queue and self._sock is not None:
            try:
                self._sock.send(self._queue[0], socket.MSG_NOSIGNAL)
            except BlockingIOError:
                self._host.watch(self._sock.fileno(), select.EPOLLIN | select.EPOLLOUT, self._on_ready)
                return
            except OSError:  # the child is gone; another takes up what waits
                self._forget()
                return
            self._queued -= len(self._queue.popleft()) - _HEADER.size
        if self._sock is not None:
            self._host.watch(self._sock.fileno(), select.EPOLLIN, self._on_ready)
            self._telling = False

    def _on_ready(self, events: int) -> None:
        if events & (select.EPOLLHUP | select.EPOLLERR):
            self._forget()
            return
        if events & select.EPOLLIN:
            self._hear_all()
        if events & select.EPOLLOUT:
            self._flush()

    def _hear_all(self) -> None:
        try:
            while self._sock is not None and (text := self._sock.recv(4096)):
                self._host.log_trouble(text.decode("utf-8", "replace"))
        except OSError:
            pass  # no more

    def _start(self) -> None:
        now = time.monotonic()
        if self._started and now - self._started < _PAUSE:
            return
        self._started = now
        try:
            ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            self._pid, self._pidfd = self._host.clone()
        except OSError as error:
            self._host.log_trouble(f"output is not logged: {error.strerror}: {self._spec['path']}")
            return
        if self._pid == 0:
            _serve(theirs, self._spec)
        theirs.close()
        ours.setblocking(False)
        self._sock = ours
        self._host.watch(ours.fileno(), select.EPOLLIN, self._on_ready)

    def _forget(self) -> None:
        """The child has ended, or is ended now: it has lost its socket."""
        if self._sock is not None:
            self._host.unwatch(self._sock.fileno())
            self._sock.close()
            self._sock = None
        if self._pid > 0:
            try:
                process.pidfd_send_signal(self._pidfd, signal.SIGKILL)
                os.waitpid(self._pid, 0)
            except OSError:
                pass  # reaped already
            os.close(self._pidfd)
        self._pid = self._pidfd = -1


def _serve(sock: socket.socket, spec: LogSpec) -> NoReturn:
    """The child."""
    code = 1
    try:
        calls.prctl(abi.PR_SET_NAME, b"dockyard-log")
        process.close_others(0, 1, 2, sock.fileno())
        _Child(sock, spec).run()
        code = 0
    except Exception:
        traceback.print_exc()
    finally:
        os._exit(code)


class _Child(Host):
    """What the writer needs, and the loop around it."""

    def __init__(self, sock: socket.socket, spec: LogSpec) -> None:
        self._sock = sock
        self._poll = select.poll()
        self._poll.register(sock, select.POLLIN)
        self._callbacks: dict[int, Callable[[int], None]] = {}
        self._log = LogWriter(spec, self)

    def watch(self, fd: int, events: int, callback: Callable[[int], None]) -> None:
        self._callbacks[fd] = callback
        self._poll.register(fd, events)

    def unwatch(self, fd: int) -> None:
        if self._callbacks.pop(fd, None) is not None:
            self._poll.unregister(fd)

    def log_trouble(self, text: str) -> None:
        try:
            self._sock.send(text.encode()[:4096], socket.MSG_NOSIGNAL | socket.MSG_DONTWAIT)
        except OSError:
            pass  # nobody listens

    def run(self) -> None:
        """Until the monitor closes its end."""
        while True:
            for fd, events in self._poll.poll():
                if fd != self._sock.fileno():
                    self._callbacks[fd](events)
                    continue
                message = self._sock.recv(_HEADER.size + _PIECE)
                if not message:
                    self._log.close()
                    return
                stream, now = _HEADER.unpack_from(message)
                self._log.write(_STREAMS[stream], message[_HEADER.size :], now)
