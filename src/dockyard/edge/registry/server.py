"""The registry as a process.

Owns: sockets, TLS, signals, the order of start and end. Does not own: the command line (`__main__`).
"""

from __future__ import annotations

import asyncio
import logging
import signal
import ssl
from collections.abc import Callable

from aiohttp import web

from dockyard.edge.registry.configuration import Configuration, Tls, parse_address
from dockyard.edge.registry.dispatch import Dispatcher
from dockyard.edge.registry.service import Service
from dockyard.model.errors import InvalidArgument

log = logging.getLogger("dockyard.registry")
_READ_BUFFER = 1 << 20  # bytes of a body that may wait for the disk, per connection
_SHUTDOWN = 10.0  # seconds for requests in progress


async def serve(configuration: Configuration, ready: Callable[[list[str]], None] | None = None) -> None:
    """Serve until SIGTERM or SIGINT. `ready` is told the addresses. InvalidArgument if it cannot start."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    service = Service(configuration)
    runner = web.ServerRunner(
        web.Server(Dispatcher(service), access_log=None, read_bufsize=_READ_BUFFER, keepalive_timeout=75.0),
        shutdown_timeout=_SHUTDOWN,
    )
    try:
        await service.start()
        await runner.setup()
        for address in configuration.listen:
            host, port = parse_address(address)
            site = web.TCPSite(runner, host or None, port, ssl_context=_tls(configuration.tls), backlog=1024)
            try:
                await site.start()
            except OSError as error:
                raise InvalidArgument(f"listen {address}: {error.strerror}") from None
        addresses = [f"{each[0]}:{each[1]}" for each in runner.addresses]
        log.info("registry serves on %s", ", ".join(addresses))
        if ready:
            ready(addresses)
        await stop.wait()
        log.info("stopping")
    finally:
        await runner.cleanup()
        await service.close()


def _tls(settings: Tls | None) -> ssl.SSLContext | None:
    """InvalidArgument naming what cannot be read."""
    if settings is None:
        return None
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_cert_chain(settings.certificate, settings.key)
        if settings.client_ca:
            context.load_verify_locations(settings.client_ca)
            context.verify_mode = ssl.CERT_REQUIRED
    except (OSError, ssl.SSLError) as error:
        raise InvalidArgument(f"tls: {error}") from None
    return context
