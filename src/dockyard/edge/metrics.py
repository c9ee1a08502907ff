"""`--metrics-addr`: figures for Prometheus, over plain HTTP.

Owns: reading the address, the socket, GET /metrics. Does not own: the figures (`engine.metrics`). Nothing can be
changed here, and as with dockerd nobody is asked who he is: the address is for a loopback or a network of one's own.
"""

from __future__ import annotations

import asyncio
import logging

from aiohttp import web

from dockyard.edge.listeners import Address, Listener, listen
from dockyard.engine import Engine, metrics
from dockyard.model.errors import InvalidArgument

log = logging.getLogger(__name__)

_TYPE = "text/plain; version=0.0.4"


def parse_address(text: str) -> Address:
    """HOST:PORT; without a host every IPv4 address. InvalidArgument naming it when it is none."""
    host, colon, port = text.rpartition(":")
    bare = host.removeprefix("[").removesuffix("]")
    if not colon or not (port.isascii() and port.isdecimal() and int(port) <= 65535) or (":" in host and bare == host):
        raise InvalidArgument(f"invalid metrics-addr {text!r}: expected ADDRESS:PORT")
    return Address("tcp", host=bare or "0.0.0.0", port=int(port))


class MetricsServer:
    """One a daemon, for one event loop."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._runner = web.ServerRunner(web.Server(self._answer, access_log=None), handle_signals=False)

    async def start(self, address: Address) -> None:
        """Serve. SystemFailure when the address cannot be had."""
        listeners: list[Listener] = listen(address, "", {})
        await self._runner.setup()
        for listener in listeners:
            await web.SockSite(self._runner, listener.socket).start()
            host, port = listener.socket.getsockname()[:2]
            log.info("metrics are told on %s:%d", f"[{host}]" if ":" in host else host, port)

    async def close(self) -> None:
        await self._runner.cleanup()

    async def _answer(self, request: web.BaseRequest) -> web.StreamResponse:
        await asyncio.sleep(0)  # a burst of them lets others in between
        if request.path != "/metrics":
            return web.Response(status=404, text="404 page not found\n")
        if request.method not in ("GET", "HEAD"):
            return web.Response(status=405, text="Method Not Allowed\n", headers={"Allow": "GET, HEAD"})
        body = metrics.text(self._engine)
        return web.Response(body=body.encode(), headers={"Content-Type": f"{_TYPE}; charset=utf-8"})
