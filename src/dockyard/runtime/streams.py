"""A process's standard streams in its monitor: to the log, to and from attached clients.

Owns: the pipes or the terminal of one process and the sockets of the clients attached to it. Back-pressure: while a
client has more than `_PENDING` bytes waiting, the process's output is not read on. A client that leaves is forgotten.
Does not own: the format of the log (`store.journal.writer`), the protocol with the daemon (`runtime.monitor`).

Output travels to clients raw with a terminal, else in frames of Docker's stream protocol: one byte stream number, three
zero bytes, length as big-endian 32 bits. Standard library only, and careful with memory: one of these runs for every
container.
"""

from __future__ import annotations

import os
import select
import socket
import struct
from collections.abc import Callable
from typing import Literal, Protocol

_CHUNK = 16384
_PENDING = 256 * 1024
_READABLE = select.EPOLLIN | select.EPOLLHUP | select.EPOLLERR
STDOUT, STDERR = 1, 2


class Poller(Protocol):
    """What streams need of the monitor's loop."""

    def watch(self, fd: int, events: int, callback: Callable[[int], None]) -> None: ...

    def unwatch(self, fd: int) -> None: ...


class Log(Protocol):
    def write(self, stream: Literal["stdout", "stderr"], data: bytes, now_ns: int) -> None: ...


class _Client:
    """One attached client."""

    __slots__ = ("output", "pending", "shut", "sock", "stdin")

    def __init__(self, sock: socket.socket, stdin: bool, stdout: bool, stderr: bool) -> None:
        self.sock = sock
        self.stdin = stdin
        self.output = (stdout and 1 << STDOUT) | (stderr and 1 << STDERR)
        self.pending = b""
        self.shut = False  # it has sent its end of file


class Streams:
    """The streams of one process."""

    def __init__(self, poller: Poller, clock: Callable[[], int], log: Log | None, *, stdin_once: bool) -> None:
        self._poller = poller
        self._clock = clock
        self._log = log
        self._stdin_once = stdin_once
        self._outputs: dict[int, int] = {}  # descriptor -> stream number
        self._stdin = -1
        self._stdin_pending = b""
        self._stdin_closing = False
        self._clients: dict[int, _Client] = {}
        self._paused = False
        self._terminal = False

    def use_pipes(self, stdin: int, stdout: int, stderr: int) -> None:
        """Our ends of the process's pipes; `stdin` may be -1."""
        self._outputs = {stdout: STDOUT, stderr: STDERR}
        self._stdin = stdin
        self._start()

    def use_terminal(self, master: int) -> None:
        """The master side of the process's terminal."""
        self._terminal = True
        self._outputs = {master: STDOUT}
        self._stdin = master
        self._start()

    def _start(self) -> None:
        for fd in (*self._outputs, self._stdin):
            if fd >= 0:
                os.set_blocking(fd, False)
        for fd in self._outputs:
            self._watch_output(fd)
        if self._stdin >= 0 and not self._terminal and self._stdin_once and self._stdin_closing:
            self._flush_stdin()

    # output ---------------------------------------------------------------------------------------------------------

    def _watch_output(self, fd: int) -> None:
        events = select.EPOLLIN | (select.EPOLLOUT if self._terminal and self._stdin_pending else 0)
        self._poller.watch(fd, events, self._on_terminal if self._terminal else lambda _events: self._on_output(fd))

    def _on_terminal(self, events: int) -> None:
        if events & select.EPOLLOUT:
            self._flush_stdin()
        if events & _READABLE:
            for fd in list(self._outputs):
                self._on_output(fd)

    def _on_output(self, fd: int) -> None:
        try:
            data = os.read(fd, _CHUNK)
        except BlockingIOError:
            return
        except OSError:  # EIO: no process holds the terminal open any more
            data = b""
        if not data:
            self._close_output(fd)
            return
        stream = self._outputs[fd]
        if self._log is not None:
            self._log.write("stdout" if stream == STDOUT else "stderr", data, self._clock())
        if self._clients:
            frame = data if self._terminal else struct.pack(">BxxxI", stream, len(data)) + data
            for client in list(self._clients.values()):
                if client.output >> stream & 1:
                    self._send(client, frame)

    def _close_output(self, fd: int) -> None:
        del self._outputs[fd]
        self._poller.unwatch(fd)
        if not self._terminal or self._stdin != fd:
            os.close(fd)
        self._release_served()

    def _send(self, client: _Client, data: bytes) -> None:
        if client.pending:
            client.pending += data
        else:
            try:
                sent = client.sock.send(data, socket.MSG_NOSIGNAL)
            except BlockingIOError:
                sent = 0
            except OSError:
                self._forget(client)
                return
            if sent == len(data):
                return
            client.pending = data[sent:]
            self._watch_client(client)
        if len(client.pending) > _PENDING and not self._paused:
            self._paused = True
            for fd in self._outputs:
                self._poller.watch(fd, 0, lambda _events: None)

    def _resume(self) -> None:
        if self._paused and all(len(client.pending) <= _PENDING // 2 for client in self._clients.values()):
            self._paused = False
            for fd in self._outputs:
                self._watch_output(fd)

    def drain_ready(self) -> None:
        """The process has ended: take what its pipes hold, back-pressure or not (at most what a pipe can hold)."""
        self._paused = False
        for fd in list(self._outputs):
            poll = select.poll()
            poll.register(fd, select.POLLIN)
            for _ in range(64):  # 2 MiB: more than a pipe holds; a stranger may be writing on and on
                if fd not in self._outputs or not poll.poll(0):
                    break
                self._on_output(fd)

    def drain(self) -> None:
        """As `drain_ready`, then let go of the pipes, whoever else may hold them open."""
        self.drain_ready()
        for fd in list(self._outputs):
            self._close_output(fd)
        self._close_stdin()
        self._release_served()

    @property
    def complete(self) -> bool:
        """All output has been read."""
        return not self._outputs

    @property
    def settled(self) -> bool:
        """All output has been read and every attached client has received it or is gone."""
        return not self._outputs and not self._clients

    def _release_served(self) -> None:
        if self._outputs:
            return
        for client in list(self._clients.values()):
            if not client.pending:
                self._forget(client)

    def abort(self) -> None:
        """Forget every client, served or not."""
        for client in list(self._clients.values()):
            self._forget(client)

    # clients --------------------------------------------------------------------------------------------------------

    def attach(self, sock: socket.socket, *, stdin: bool, stdout: bool, stderr: bool) -> None:
        """Serve `sock` (taken over) from now on."""
        sock.setblocking(False)
        client = _Client(sock, stdin, stdout, stderr)
        self._clients[sock.fileno()] = client
        self._watch_client(client)

    def _watch_client(self, client: _Client) -> None:
        events = select.EPOLLOUT if client.pending else 0
        if not client.shut and not (client.stdin and self._stdin_pending):
            events |= select.EPOLLIN | select.EPOLLRDHUP
        self._poller.watch(client.sock.fileno(), events, lambda ready: self._on_client(client, ready))

    def _on_client(self, client: _Client, events: int) -> None:
        if events & (select.EPOLLERR | select.EPOLLHUP) and not events & select.EPOLLIN:
            self._forget(client)
            self._resume()
            return
        if events & select.EPOLLOUT:
            self._flush_client(client)
        if events & select.EPOLLIN and client.sock.fileno() >= 0:
            self._take_input(client)

    def _flush_client(self, client: _Client) -> None:
        try:
            sent = client.sock.send(client.pending, socket.MSG_NOSIGNAL)
        except BlockingIOError:
            return
        except OSError:
            self._forget(client)
            self._resume()
            return
        client.pending = client.pending[sent:]
        if not client.pending:
            self._watch_client(client)
            if not self._outputs:
                self._forget(client)
                self._release_served()
        self._resume()

    def _take_input(self, client: _Client) -> None:
        try:
            data = client.sock.recv(_CHUNK)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            client.shut = True
            self._watch_client(client)
            if client.stdin and self._stdin_once and not self._terminal:
                self._stdin_closing = True
                self._flush_stdin()
            return
        if client.stdin and self._stdin >= 0:
            self._stdin_pending += data
            self._flush_stdin()

    def _forget(self, client: _Client) -> None:
        fd = client.sock.fileno()
        if fd < 0:
            return
        self._clients.pop(fd, None)
        self._poller.unwatch(fd)
        client.sock.close()

    # input ----------------------------------------------------------------------------------------------------------

    def _flush_stdin(self) -> None:
        held = bool(self._stdin_pending)
        while self._stdin_pending and self._stdin >= 0:
            try:
                written = os.write(self._stdin, self._stdin_pending)
            except BlockingIOError:
                break
            except OSError:  # EPIPE: the program reads no more
                self._stdin_pending = b""
                self._close_stdin()
                break
            self._stdin_pending = self._stdin_pending[written:]
        if self._stdin_pending:
            self._wait_for_stdin()
        else:
            if held and self._stdin >= 0:
                self._stop_waiting_for_stdin()
            if self._stdin_closing:
                self._close_stdin()
        if held or self._stdin_pending:
            for client in self._clients.values():
                if client.stdin:
                    self._watch_client(client)

    def _wait_for_stdin(self) -> None:
        if self._terminal:
            for fd in self._outputs:
                self._watch_output(fd)
        else:
            self._poller.watch(self._stdin, select.EPOLLOUT, lambda _events: self._flush_stdin())

    def _stop_waiting_for_stdin(self) -> None:
        if self._terminal:
            for fd in self._outputs:
                self._watch_output(fd)
        else:
            self._poller.unwatch(self._stdin)

    def _close_stdin(self) -> None:
        if self._stdin < 0:
            return
        if self._terminal and self._stdin in self._outputs:
            return  # the one descriptor also carries the output
        self._poller.unwatch(self._stdin)
        os.close(self._stdin)
        self._stdin = -1
