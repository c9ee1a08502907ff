"""The life of dockyardd: builds every service once, wires them, runs, stops in reverse order.

Owns: the order of start and end, the log's form, signals, the pid file, telling systemd. Does not own: flags and file
(`configuration`), any service, the copy of the package that all is imported from (`daemon`).

Start: kernel, data root (lock), database, zygote, stores, networks, containers found again, sockets, READY.
End (SIGTERM, SIGINT): sockets, requests in progress, services in reverse; containers run on.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import os
import resource
import signal
import socket
import ssl
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace

import uvloop

from dockyard import __version__, configuration
from dockyard.assembly import assemble, reload
from dockyard.configuration import Configuration, Invocation
from dockyard.edge.api.routes import all_routes
from dockyard.edge.listeners import Address, Listener, listen, parse_address, refuse_open_tcp
from dockyard.edge.metrics import MetricsServer
from dockyard.edge.metrics import parse_address as metrics_address
from dockyard.edge.server import ApiServer
from dockyard.edge.tls import TlsFiles, server_context
from dockyard.engine import Engine, kernel
from dockyard.model.container import Ulimit
from dockyard.model.errors import DockyardError, SystemFailure
from dockyard.proto.times import format_rfc3339
from dockyard.runtime.sealed import Code

DEFAULT_SOCKET = "/run/dockyard.sock"
_LEVELS = {"debug": "DEBUG", "info": "INFO", "warn": "WARNING", "error": "ERROR", "fatal": "CRITICAL"}

log = logging.getLogger("dockyard")


class _LogFormat(logging.Formatter):
    """One line a record: time="…" level=… msg="…"; a traceback follows on lines of its own."""

    def format(self, record: logging.LogRecord) -> str:
        moment = format_rfc3339(int(record.created * 1000) * 1_000_000)
        message = record.getMessage().replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
        line = f'time="{moment}" level={record.levelname.lower()} msg="{message}"'
        if record.exc_info:
            line += "\n" + self.formatException(record.exc_info)
        return line


def set_up_log(settings: Configuration) -> None:
    """Log to stderr at the level asked for; called again at SIGHUP."""
    root = logging.getLogger()
    if not root.handlers:
        handler = logging.StreamHandler()
        handler.setFormatter(_LogFormat())
        root.addHandler(handler)
    root.setLevel("DEBUG" if settings.debug else _LEVELS[settings.log_level])
    logging.getLogger("asyncio").setLevel("WARNING")


class Daemon:
    """One run of dockyardd."""

    def __init__(self, settings: Configuration, invocation: Invocation, code: Code) -> None:
        self._settings = settings
        self._code = code
        self._invocation = invocation
        self._stop = asyncio.Event()
        self._server: ApiServer | None = None
        self._engine: Engine | None = None

    async def run(self) -> None:
        """Serve until a signal ends it. DockyardError if it cannot start."""
        async with contextlib.AsyncExitStack() as stack:
            self._watch_signals()
            addresses = self._addresses()
            for key in configuration.without_effect(self._settings):
                log.warning("the option %s has no effect in this version", key)
            _set_oom_score(self._settings.oom_score_adjust)
            self._engine = engine = await assemble(self._settings, stack, self._code)
            stack.enter_context(_pid_file(self._settings.pidfile))
            server = await self._serve(engine, addresses)
            stack.push_async_callback(self._close, server)
            await self._serve_metrics(engine, stack)
            gc.collect()
            gc.freeze()
            notify("READY=1")
            log.info("Dockyard %s serves on %s", __version__, ", ".join(self._hosts()))
            await self._stop.wait()
            notify("STOPPING=1")
            log.info("stopping; containers run on")

    def _hosts(self) -> list[str]:
        return self._settings.hosts or [f"unix://{DEFAULT_SOCKET}"]

    def _addresses(self) -> list[Address]:
        settings = self._settings
        tls = bool(settings.tls or settings.tlsverify)
        addresses = [parse_address(host, DEFAULT_SOCKET, tls=tls) for host in self._hosts()]
        refuse_open_tcp(addresses, client_verified=bool(settings.tlsverify), forced=settings.open_tcp_forced)
        return addresses

    async def _serve(self, engine: Engine, addresses: Sequence[Address]) -> ApiServer:
        listeners: list[Listener] = []
        tls = _tls_context(self._settings)
        try:
            for address in addresses:
                listeners += listen(address, self._settings.group, os.environ)
        except BaseException:
            for listener in listeners:
                listener.close()
            raise
        for name in ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"):
            os.environ.pop(name, None)
        for address in addresses:
            if address.kind == "tcp" and not self._settings.tlsverify:
                log.warning("tcp://%s:%d is open: who reaches it is root on this host", address.host, address.port)
        server = ApiServer(engine, all_routes(), logging.getLogger("dockyard.api"))
        await server.start(listeners, [address.host for address in addresses if address.kind == "tcp"], tls)
        self._server = server
        return server

    async def _close(self, server: ApiServer) -> None:
        await server.close(float(self._settings.shutdown_timeout))

    async def _serve_metrics(self, engine: Engine, stack: contextlib.AsyncExitStack) -> None:
        if self._settings.metrics_addr:
            metrics = MetricsServer(engine)
            stack.push_async_callback(metrics.close)
            await metrics.start(metrics_address(self._settings.metrics_addr))

    def _watch_signals(self) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop.set)
        loop.add_signal_handler(signal.SIGHUP, self._reload)

    def _reload(self) -> None:
        """SIGHUP: what of the file can change while the daemon runs (`assembly.reload`), and what is in the
        certificates' files, hold from now on; the rest needs a restart. What cannot be changes nothing."""
        try:
            read = configuration.load(self._invocation)
            tls = _tls_context(self._settings)
            if self._engine is not None:
                self._settings = reload(self._engine, self._settings, read)
                set_up_log(self._settings)
            if self._server is not None and tls is not None:
                self._server.use_certificates(tls)
            log.info("configuration read again")
        except DockyardError as error:
            log.error("configuration not read again: %s", error.message)


def _set_oom_score(score: int) -> None:
    """Ours, and of all that we start but containers, which have their own. 0 changes nothing, as with dockerd; nor does
    a kernel that forbids it. SystemFailure."""
    if not score:
        return
    try:
        with open("/proc/self/oom_score_adj", "w", encoding="ascii") as file:
            file.write(str(score))
    except PermissionError as error:
        log.debug("oom-score-adjust %d: %s", score, error.strerror)
    except OSError as error:
        raise SystemFailure(f"oom-score-adjust {score}: {error.strerror}") from error


def _tls_context(settings: Configuration) -> ssl.SSLContext | None:
    """None without TLS. Files that nobody names are where dockerd looks for them. InvalidArgument naming bad ones."""
    if not (settings.tls or settings.tlsverify):
        return None
    usual = os.environ.get("DOCKER_CERT_PATH") or os.path.expanduser("~/.docker")
    cert, key = settings.tlscert or f"{usual}/cert.pem", settings.tlskey or f"{usual}/key.pem"
    return server_context(TlsFiles(cert, key, (settings.tlscacert or f"{usual}/ca.pem") if settings.tlsverify else ""))


@contextlib.contextmanager
def _pid_file(path: str) -> Iterator[None]:
    """Our process id in a file while we run; an old file is replaced (the data root's lock is what excludes)."""
    if not path:
        yield
        return
    temporary = f"{path}.{os.getpid()}"
    os.makedirs(os.path.dirname(path) or ".", mode=0o755, exist_ok=True)
    with open(temporary, "w", encoding="ascii") as file:
        file.write(f"{os.getpid()}\n")
    os.rename(temporary, path)
    try:
        yield
    finally:
        with contextlib.suppress(OSError), open(path, encoding="ascii") as file:
            if file.read() == f"{os.getpid()}\n":  # another daemon may have been given the same path since
                os.unlink(path)


def notify(state: str) -> None:
    """Tell systemd (sd_notify(3)); nothing happens where nobody listens."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock, contextlib.suppress(OSError):
        sock.connect("\0" + address[1:] if address.startswith("@") else address)
        sock.send(state.encode())


def _with_descriptors(settings: Configuration) -> Configuration:
    """Take as many descriptors as the hard limit allows: a thousand clients need more than the 1,024 that are usual.
    Containers get what we were started with, unless they are told otherwise."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == hard:
        return settings
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    if any(limit.name.lower() in ("nofile", "rlimit_nofile") for limit in settings.default_ulimits):
        return settings
    return replace(settings, default_ulimits=[*settings.default_ulimits, Ulimit("nofile", soft, hard)])


def main(arguments: Sequence[str] | None, code: Code) -> int:
    """Read the settings and run. `code`: what we are imported from. Exit code 1 with one line on stderr when it cannot
    start."""
    invocation = configuration.parse_arguments(sys.argv[1:] if arguments is None else arguments)
    try:
        settings = configuration.load(invocation)
        if invocation.validate:
            print("configuration OK")
            return 0
        set_up_log(settings)
        kernel.check(kernel.probe(), bridge=settings.bridge != "none")
        settings = _with_descriptors(settings)
        started = time.monotonic()
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(Daemon(settings, invocation, code).run())
        log.info("ended after %.1f s", time.monotonic() - started)
    except DockyardError as error:
        print(f"dockyardd: {error.message}", file=sys.stderr)
        return 1
    except Exception:
        log.exception("dockyardd failed")
        return 1
    return 0
