"""The daemon's side of the shipper.

Owns: that a shipper of this version and build runs while it is needed, the connection to it, what it has to say into
the daemon's log. Does not own: what is written into spools and when (`engine.shipping`).
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from collections.abc import Awaitable, Callable
from typing import Any, Final

from dockyard import __version__
from dockyard.model.errors import DockyardError
from dockyard.runtime import channel
from dockyard.runtime.shipper.process import SOCKET
from dockyard.runtime.shipper.spool import spools

log = logging.getLogger(__name__)

_TRIES: Final = 100
_PAUSE: Final = 0.1  # seconds between tries, while another one ends
_AGAIN: Final = 1.0  # seconds before a lost one is replaced


class ShipperClient:
    """One a daemon, for one event loop."""

    def __init__(self, call: Callable[..., Awaitable[Any]], directory: str, root: str, build: str = "") -> None:
        """`call`, `build`: of `Runtime`; `directory`: the exec root; `root`: where spools lie."""
        self._call, self._directory, self._spools = call, directory, root
        self._version = f"{__version__} {build}"
        self._sock: socket.socket | None = None
        self._starting = asyncio.Lock()
        self._replacing: asyncio.Task[None] | None = None
        self._closed = False
        self._replaced = False  # one of another version was; what came then is what there is on disk

    async def look(self, container_id: str = "") -> None:
        """Tell the shipper, which is started if need be, to look at a container's spool (""; at all of them)."""
        message = {"op": "look", "id": container_id} if container_id else {"op": "look"}
        try:
            sock = await self._connected()
            if sock is not None:
                channel.send(sock, message)
        except (OSError, DockyardError) as error:
            log.warning("logs are not sent to their receivers yet: %s", error)
            self._lost()

    def close(self) -> None:
        """The shipper goes on without us."""
        self._closed = True
        if self._replacing is not None:
            self._replacing.cancel()
        self._disconnect()

    async def _connected(self) -> socket.socket | None:
        async with self._starting:
            for _ in range(_TRIES):
                if self._closed or self._sock is not None:
                    break
                arguments = {"directory": self._directory, "spools": self._spools, "version": self._version}
                await self._call("dockyard.runtime.shipper.process:start", arguments)
                await self._connect()
                if self._sock is None:
                    await asyncio.sleep(_PAUSE)
            return self._sock

    async def _connect(self) -> None:
        """To one of our version; another one is told to end."""
        home = os.open(self._directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            sock = channel.connect(home, SOCKET)
        except OSError:
            return  # it is about to end, or has just begun
        finally:
            os.close(home)
        sock.setblocking(False)
        greeting = await _receive(sock)
        other = greeting is not None and greeting.get("version") != self._version and not self._replaced
        if greeting is None or other or self._closed:
            if other and not self._closed:
                self._replaced = True
                log.info("replacing a shipper of another version")
                channel.send(sock, {"op": "end"})
            sock.close()
            return
        self._sock = sock
        asyncio.get_running_loop().add_reader(sock, self._hear)

    def _hear(self) -> None:
        if self._sock is None:
            return
        try:
            received = channel.hear(self._sock)
        except BlockingIOError:
            return
        if received is None:
            if spools(self._spools):
                log.warning("the shipper of logs is gone; starting another")
                self._lost()
            else:
                self._disconnect()  # it had nothing left to do
            return
        message, fds = received
        channel.close_all(fds)
        log.warning("%s", message.get("text", ""))

    def _lost(self) -> None:
        self._disconnect()
        if not self._closed and (self._replacing is None or self._replacing.done()):
            self._replacing = asyncio.get_running_loop().create_task(self._replace())

    async def _replace(self) -> None:
        await asyncio.sleep(_AGAIN)
        self._replacing = None
        await self.look()

    def _disconnect(self) -> None:
        if self._sock is not None:
            asyncio.get_running_loop().remove_reader(self._sock)
            self._sock.close()
            self._sock = None


async def _receive(sock: socket.socket) -> dict[str, Any] | None:
    loop = asyncio.get_running_loop()
    readable = asyncio.Event()
    loop.add_reader(sock, readable.set)
    try:
        async with asyncio.timeout(5):
            await readable.wait()
        received = channel.receive(sock)
    except (OSError, ValueError, TimeoutError):
        return None
    finally:
        loop.remove_reader(sock)
    return received[0] if received is not None else None
