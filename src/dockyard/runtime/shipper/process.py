"""The shipper: a process that outlives the daemon, and the socket on which it is told of containers.

Owns: being started, which containers it follows, its end. Does not own: one container's log (`shipping`).

Started by a worker, as the relay of ports is. Requests on `<exec-root>/shipper.sock`, one JSON object each: {"op":
"look", "id"} (a container has started or is gone; without an id: look at all), {"op": "end"}. Who connects is told
{"version"} (and build) first, then {"text"} of troubles. It ends by itself when there is no spool. Killed, it is
started again by the daemon, and goes on where it was.
"""

from __future__ import annotations

import asyncio
import contextlib
import encodings.idna  # noqa: F401 - for getaddrinfo: nothing can be imported later
import fcntl
import os
import signal
import socket
import sys
from typing import NoReturn

from dockyard.linux import abi, calls, process
from dockyard.runtime import channel, importer
from dockyard.runtime.shipper import sinks, spool
from dockyard.runtime.shipper.shipping import Connect, Shipment
from dockyard.runtime.shipper.spool import Spool
from dockyard.store.journal.follow import Watcher

SOCKET = "shipper.sock"
_PATIENCE = 1.0  # seconds without work before it ends
_SWEEP = 600.0  # seconds between sweeps of what waits for nothing


def start(*, directory: str, spools: str, version: str, fds: object = ()) -> bool:
    """In a worker: make sure that a shipper serves `directory` (the exec root) and follows `spools`; True if it had to
    be started. `version`: what it says of itself to who connects. OSError."""
    home = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        channel.connect(home, SOCKET).close()
        return False
    except OSError:
        pass  # nobody, or the socket of one that ended
    os.makedirs(spools, mode=0o700, exist_ok=True)
    lock = os.open(f"{spools}/lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False  # one that is about to end, or to begin
    with contextlib.suppress(FileNotFoundError):
        os.unlink(SOCKET, dir_fd=home)
    listener = channel.listen(home, SOCKET)
    if os.fork() == 0:
        _become_shipper(listener, home, lock, spools, version)
    return True


def _become_shipper(listener: socket.socket, home: int, lock: int, spools: str, version: str) -> NoReturn:
    """The child: a session of its own, nothing of the worker's kept open but its errors and where modules lie."""
    code = 1
    try:
        os.setsid()
        signal.signal(signal.SIGIO, signal.SIG_IGN)
        listener.listen(16)  # again: who connects sees this process's credentials, not the worker's
        os.chdir("/")
        calls.prctl(abi.PR_SET_NAME, b"dockyard-ship")
        process.close_others(0, 2, listener.fileno(), home, lock, *importer.descriptors())
        asyncio.run(Shipper(listener, home, spools, version).run())
        code = 0
    finally:
        os._exit(code)


class Shipper:
    """The containers it follows and who is connected."""

    def __init__(
        self, listener: socket.socket, home: int, spools: str, version: str, connect: Connect = sinks.connect
    ) -> None:
        self._listener, self._home, self._spools, self._connect = listener, home, spools, connect
        self._version = version
        self._watcher = Watcher()
        self._shipments: dict[str, tuple[Shipment, asyncio.Task[None]]] = {}
        self._company: set[socket.socket] = set()
        self._end = asyncio.Event()
        listener.setblocking(False)

    async def run(self) -> None:
        """Until it is told to end, or nothing is left to do."""
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, self._end.set)
        loop.add_reader(self._listener, self._accept)
        self._look_at_all()
        swept = quiet_since = loop.time()
        while not self._end.is_set():
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._end.wait(), _PATIENCE / 2)
            now = loop.time()
            if now - swept > _SWEEP:
                swept = now
                spool.sweep(self._spools)
                self._look_at_all()
            if not os.path.isdir(self._spools):
                break  # the data root has been taken away
            if self._shipments:
                quiet_since = now
            elif now - quiet_since > _PATIENCE:
                break
        loop.remove_reader(self._listener)
        with contextlib.suppress(OSError):
            os.unlink(SOCKET, dir_fd=self._home)
        await self._stop()

    async def _stop(self) -> None:
        tasks = [task for _, task in self._shipments.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._watcher.close()

    def _look_at_all(self) -> None:
        found = {one.id for one in spool.spools(self._spools)}
        for identity in found | set(self._shipments):
            self._look(identity)

    def _look(self, identity: str) -> None:
        """A container has begun, or has gone."""
        if "/" in identity or identity.startswith("."):
            return
        known = self._shipments.get(identity)
        place = Spool(f"{self._spools}/{identity}")
        if known is not None:
            if place.directory.is_dir():
                known[0].look()
            else:
                known[1].cancel()
        elif place.settings() is not None:
            shipment = Shipment(place, self._watcher, self._tell, self._connect)
            task = asyncio.get_running_loop().create_task(shipment.run())
            self._shipments[identity] = (shipment, task)
            task.add_done_callback(lambda done: self._ended(place, shipment, done))
        elif place.removed_at:
            place.destroy()

    def _ended(self, place: Spool, shipment: Shipment, task: asyncio.Task[None]) -> None:
        self._shipments.pop(place.id, None)
        if task.cancelled():
            return
        if (error := task.exception()) is not None:
            self._tell(f"container {place.id}: its log is not sent: {error!r}")
        elif shipment.removed:
            place.destroy()

    # company ---------------------------------------------------------------------------------------------------------

    def _tell(self, text: str) -> None:
        if not self._company:
            print(text, file=sys.stderr, flush=True)
        for connection in list(self._company):
            self._send(connection, {"text": text})

    def _send(self, connection: socket.socket, message: dict[str, str]) -> None:
        try:
            channel.send(connection, message)
        except BlockingIOError:
            pass  # it does not listen
        except OSError:
            self._drop(connection)

    def _accept(self) -> None:
        """Whatever fails here would fail at once again: the connection is still waiting."""
        try:
            connection = channel.accept(self._listener)
            if connection is not None:
                self._welcome(connection)
        except Exception as error:
            self._tell(f"the shipper of logs cannot take a connection: {error!r}")
            loop = asyncio.get_running_loop()
            loop.remove_reader(self._listener)
            loop.call_later(_PATIENCE, self._accept_again)

    def _accept_again(self) -> None:
        if not self._end.is_set():
            asyncio.get_running_loop().add_reader(self._listener, self._accept)

    def _welcome(self, connection: socket.socket) -> None:
        connection.setblocking(False)
        self._company.add(connection)
        asyncio.get_running_loop().add_reader(connection, self._hear, connection)
        self._send(connection, {"version": self._version})

    def _hear(self, connection: socket.socket) -> None:
        try:
            self._answer(connection)
        except Exception as error:
            self._drop(connection)  # else it is heard again at once
            self._tell(f"the shipper of logs does not understand a message: {error!r}")

    def _answer(self, connection: socket.socket) -> None:
        try:
            received = channel.hear(connection)
        except BlockingIOError:
            return
        if received is None:
            self._drop(connection)
            return
        message, fds = received
        channel.close_all(fds)
        if message.get("op") == "end":
            self._end.set()
        elif message.get("op") == "look" and "id" in message:
            self._look(str(message["id"]))
        elif message.get("op") == "look":
            self._look_at_all()

    def _drop(self, connection: socket.socket) -> None:
        if connection in self._company:
            self._company.discard(connection)
            asyncio.get_running_loop().remove_reader(connection)
            connection.close()
