"""A container's streams on the client's own: what attach, run, start and exec have in common.

Owns: the loop between stdin, the hijacked connection, stdout and stderr (frames taken apart, half-close at the end of
stdin, detach keys), and the signals that arrive meanwhile (SIGWINCH → resize, others → proxied). One thread; a slow
container is never written to with blocking calls, or its output would not be read. Does not own: asking the daemon for
the stream (`commands`), raw mode (`terminal`).
"""

from __future__ import annotations

import os
import select
import signal
from _socket import SHUT_WR
from _socket import socket as Socket

from dockyard.edge.cli.call import complain
from dockyard.edge.cli.errors import CliError
from dockyard.proto.detach import DetachMatcher, parse_keys
from dockyard.proto.frames import STDERR, FrameReader

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType

    from dockyard.edge.cli.api import Hijacked

_CHUNK = 65536
_NOT_PROXIED = (signal.SIGCHLD, signal.SIGPIPE, signal.SIGURG, signal.SIGKILL, signal.SIGSTOP, signal.SIGWINCH)
_IMPATIENT = 3  # that many SIGINT or SIGTERM end the client itself


class Detached(Exception):
    """The detach keys were typed."""


class Signals:
    """Signals that arrive while inside, as bytes on a pipe: one number each.

    `resize` gets SIGWINCH; `proxy` every other signal that may be proxied. None leaves a signal as it was.
    """

    def __init__(self, resize: Callable[[], None] | None, proxy: Callable[[str], None] | None) -> None:
        self.resize = resize
        self.proxy = proxy
        self.ending = 0
        self.reader, self._writer = os.pipe()
        os.set_blocking(self.reader, False)
        os.set_blocking(self._writer, False)
        self._saved: dict[int, object] = {}
        self._saved_wakeup = -1

    def __enter__(self) -> Signals:
        wanted = {signal.SIGWINCH} if self.resize else set()
        if self.proxy:
            wanted |= {each for each in signal.valid_signals() if each not in _NOT_PROXIED and each < 32}
        if not wanted:
            return self
        self._saved_wakeup = signal.set_wakeup_fd(self._writer, warn_on_full_buffer=False)
        for each in wanted:
            try:
                self._saved[each] = signal.signal(each, _ignore)
            except (OSError, ValueError):
                continue
        return self

    def __exit__(self, *problem: object) -> None:
        if self._saved:
            signal.set_wakeup_fd(self._saved_wakeup)
        for number, handler in self._saved.items():
            signal.signal(number, handler)  # type: ignore[arg-type]
        os.close(self.reader)
        os.close(self._writer)

    def handle(self) -> None:
        """Acts on what has arrived."""
        try:
            numbers = os.read(self.reader, 256)
        except BlockingIOError:
            return
        if self.resize and signal.SIGWINCH in numbers:
            self.resize()
        for number in numbers:
            if number == signal.SIGWINCH or not self.proxy:
                continue
            self.ending += number in (signal.SIGINT, signal.SIGTERM)
            if self.ending >= _IMPATIENT:
                raise CliError(f"got {_IMPATIENT} SIGTERM/SIGINTs, forcefully exiting")
            self.proxy(signal.Signals(number).name.removeprefix("SIG"))


def _ignore(number: int, frame: FrameType | None) -> None:
    """Being handled at all is what puts the number on the pipe."""


class Pump:
    """The loop. `framed`: stdout and stderr come in frames; `stdin`: whether ours goes there."""

    def __init__(self, stream: Hijacked, signals: Signals, *, framed: bool, stdin: bool, keys: str | None) -> None:
        self.connection = stream.connection
        self.sock = stream.connection.sock
        self.signals = signals
        self.frames = FrameReader() if framed else None
        self.stdin = stdin
        self.matcher = DetachMatcher(parse_keys(keys)) if keys is not None else None
        self.outgoing = b""

    def run(self) -> None:
        """Until the daemon ends the stream. Detached when the keys are typed."""
        self.receive(self.connection.buffer)
        self.connection.buffer = b""
        self.sock.setblocking(False)
        poll = select.poll()
        poll.register(self.signals.reader, select.POLLIN)
        open_ = True
        while open_:
            poll.register(self.sock.fileno(), select.POLLIN | (select.POLLOUT if self.outgoing else 0))
            self._watch_stdin(poll)
            pending = not isinstance(self.sock, Socket) and self.sock.pending()
            for fd, event in poll.poll(0 if pending else None):
                if fd == self.signals.reader:
                    self.signals.handle()
                elif fd == 0:
                    self.typed()
                elif event & select.POLLOUT:
                    self.flush()
            open_ = self.incoming()
        self.sock.setblocking(True)

    def _watch_stdin(self, poll: select.poll) -> None:
        if self.stdin and not self.outgoing:
            poll.register(0, select.POLLIN)
        else:
            try:
                poll.unregister(0)
            except KeyError:
                pass

    def typed(self) -> None:
        """Takes what stdin has; at its end closes our half of the connection."""
        try:
            data = os.read(0, _CHUNK)
        except BlockingIOError:
            return
        except OSError:  # closed, or a terminal that is not ours any more
            data = b""
        if not data:
            self.stdin = False
            self.close_write()
            return
        detached = False
        if self.matcher is not None:
            data, detached = self.matcher.feed(data)
        self.outgoing += data
        self.flush()
        if detached:
            raise Detached

    def flush(self) -> None:
        try:
            while self.outgoing:
                self.outgoing = self.outgoing[self.sock.send(self.outgoing) :]
        except BlockingIOError:
            pass
        except OSError:
            self.outgoing, self.stdin = b"", False  # nobody reads it: the output says why

    def close_write(self) -> None:
        while self.outgoing:  # all of it, or it is not the end
            select.select([], [self.sock.fileno()], [])
            self.flush()
        try:
            if isinstance(self.sock, Socket):
                self.sock.shutdown(SHUT_WR)
            else:
                self.sock.close_write()
        except OSError:
            pass

    def incoming(self) -> bool:
        """Takes what the daemon has sent; False at its end."""
        try:
            data = self.sock.recv(_CHUNK)
        except BlockingIOError:
            return True
        except ConnectionResetError:
            return False
        self.receive(data)
        return bool(data)

    def receive(self, data: bytes) -> None:
        if self.frames is None:
            _write(1, data)
            return
        for stream, part in self.frames.feed(data):
            if stream > STDERR:  # the daemon's own complaint
                raise CliError(f"error from daemon in stream: {part.decode('utf-8', 'replace')}")
            _write(2 if stream == STDERR else 1, part)


def _write(fd: int, data: bytes) -> None:
    while data:
        try:
            data = data[os.write(fd, data) :]
        except BlockingIOError:
            select.select([], [fd], [])


def proxy_to(kill: Callable[[str], object]) -> Callable[[str], None]:
    """A proxy that tells, but does not mind, when the container is not there (any more)."""

    def one(name: str) -> None:
        try:
            kill(name)
        except CliError as error:
            if "is not running" not in error.message and "No such container" not in error.message:
                complain(f"dockyard: signal {name}: {error.message}")

    return one
