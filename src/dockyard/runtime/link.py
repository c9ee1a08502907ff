"""A daemon's connection to one monitor, and what can become of what is asked over it.

Owns: requests with answers, events, how long an answer is waited for, the errors. Does not own: what is asked
(`runtime.handles`), the connection's making (`runtime.client`), the monitor's side (`runtime.monitor`).
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Callable, Sequence
from typing import Any, Final

import msgspec

from dockyard.model.errors import DockyardError, ErrorKind, SystemFailure
from dockyard.runtime import channel, leftovers

PATIENCE: Final = 45.0  # s that a monitor has for an answer: an exec may hold it up for 30
LOOK: Final = 2.0  # s after which it is looked whether it has been stopped


class StartFailed(DockyardError):
    """The process could not be started; nothing of it is left behind.

    `exit_code` is what `docker run` shows: 127 not found, 126 not executable, 128 anything else.
    """

    kind = ErrorKind.INVALID

    def __init__(self, message: str, exit_code: int = 128) -> None:
        super().__init__(message)
        self.exit_code = exit_code


class MonitorGone(SystemFailure):
    """The monitor has ended, and the container with it, while it was to be asked something."""

    kind = ErrorKind.CONFLICT

    def __init__(self) -> None:
        super().__init__("the container is not running: its monitor is gone")


class StartLost(SystemFailure):
    """What was to make the container has been killed; nothing of it is left behind, and nothing is wrong with it."""

    def __init__(self) -> None:
        super().__init__("the container's monitor ended before the container started")


class MonitorStuck(SystemFailure):
    """The monitor lives and does not answer: somebody has stopped it, or it waits for something."""


class Link:
    """One connection to a monitor: requests with answers, and events. For use by one event loop."""

    def __init__(self, sock: socket.socket, state_dir: str) -> None:
        self._sock = sock
        self._state_dir = state_dir
        self._loop = asyncio.get_running_loop()
        self._sequence = 0
        self._waiting: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self._events: asyncio.Queue[dict[str, Any] | None] = asyncio.Queue()
        self.closed = False
        sock.setblocking(False)
        self._loop.add_reader(sock.fileno(), self._on_readable)

    def _on_readable(self) -> None:
        while not self.closed:
            try:
                received = channel.hear(self._sock)
            except BlockingIOError:
                return
            if received is None:
                self.close()
                return
            message, fds = received
            channel.close_all(fds)
            if "event" in message:
                self._events.put_nowait(message)
            else:
                future = self._waiting.pop(message.get("seq") or 0, None)
                if future is not None and not future.done():
                    future.set_result(message)

    async def event(self) -> dict[str, Any] | None:
        """The next event, None when the monitor is gone."""
        return await self._events.get()

    async def request(
        self, op: str, fds: Sequence[int] = (), *, patience: float = PATIENCE, **arguments: Any
    ) -> dict[str, Any]:
        """Ask and await the answer, for `patience` s. MonitorGone, MonitorStuck; SystemFailure when it refuses,
        StartFailed with its code."""
        if self.closed:
            raise MonitorGone
        self._sequence += 1
        sequence = self._sequence
        future: asyncio.Future[dict[str, Any]] = self._loop.create_future()
        self._waiting[sequence] = future
        timer = self._loop.call_later(LOOK, self._look, sequence, self._loop.time() + patience)
        try:
            await send(self._sock, msgspec.json.encode({"op": op, "seq": sequence, **arguments}), fds, future.done)
            answer = await future
        except OSError as error:
            self._waiting.pop(sequence, None)
            raise MonitorGone from error
        finally:
            timer.cancel()
        if "gone" in answer:
            raise MonitorGone
        if "stuck" in answer:
            raise MonitorStuck(f"the container's monitor does not answer{answer['stuck']}")
        if "error" in answer:
            if "code" in answer:
                raise StartFailed(answer["error"], answer["code"])
            raise SystemFailure(answer["error"])
        return answer

    def _look(self, sequence: int, until: float) -> None:
        """There is no answer yet: is it still worth waiting?"""
        if sequence not in self._waiting:
            return
        stopped = leftovers.is_stopped(self._state_dir)
        if not stopped and self._loop.time() < until:
            self._loop.call_later(LOOK, self._look, sequence, until)
            return
        future = self._waiting.pop(sequence)
        if not future.done():
            future.set_result({"stuck": ": it is stopped" if stopped else ""})

    def post(self, op: str, **arguments: Any) -> None:
        """Say something that is not answered, if there is room: what a stuck monitor is to do when it goes on."""
        with contextlib.suppress(OSError):
            self._sock.sendmsg([msgspec.json.encode({"op": op, **arguments})], (), socket.MSG_NOSIGNAL)

    def close(self) -> None:
        if self.closed:
            return
        self.closed = True
        self._loop.remove_reader(self._sock.fileno())
        self._sock.close()
        for future in self._waiting.values():
            if not future.done():
                future.set_result({"gone": True})
        self._waiting.clear()
        self._events.put_nowait(None)


async def send(
    sock: socket.socket, message: bytes, fds: Sequence[int] = (), given_up: Callable[[], bool] = lambda: False
) -> None:
    """One message, waiting for room unless it is `given_up`."""
    while not given_up():
        try:
            sock.sendmsg([message], channel.rights(fds), socket.MSG_NOSIGNAL)
            return
        except BlockingIOError:
            await asyncio.sleep(0.002)  # a SEQPACKET socket whose reader is busy: rare, and soon over
