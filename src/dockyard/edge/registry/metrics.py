"""Figures for Prometheus.

Owns: which figures there are. prometheus-client comes with the extra `registry` and takes 75 ms to import, so it is
imported only when metrics are on; without it everything works and /metrics says what is missing.
"""

from __future__ import annotations

from typing import Any, Protocol

from dockyard.registry.errors import RegistryError


class Metrics(Protocol):
    def answered(self, operation: str, method: str, status: int, seconds: float) -> None: ...
    def sent(self, count: int) -> None: ...
    def received(self, count: int) -> None: ...
    def collected(self, blobs: int, count: int) -> None: ...
    def notified(self, endpoint: str, outcome: str) -> None: ...
    def text(self) -> bytes: ...


class NoMetrics:
    """Counts nothing."""

    def answered(self, operation: str, method: str, status: int, seconds: float) -> None: ...
    def sent(self, count: int) -> None: ...
    def received(self, count: int) -> None: ...
    def collected(self, blobs: int, count: int) -> None: ...
    def notified(self, endpoint: str, outcome: str) -> None: ...

    def text(self) -> bytes:
        raise RegistryError("UNSUPPORTED", "metrics are off, or the extra registry is not installed", status=404)


class PrometheusMetrics:
    def __init__(self, library: Any) -> None:
        self._library = library
        self._registry = library.CollectorRegistry()
        here = {"registry": self._registry}
        library.ProcessCollector(registry=self._registry)
        self._seconds = library.Histogram(
            "dockyard_registry_request_seconds", "Time to answer", ("operation", "method"), **here
        )
        self._answers = library.Counter(
            "dockyard_registry_answers", "Answers", ("operation", "method", "status"), **here
        )
        self._sent = library.Counter("dockyard_registry_blob_sent_bytes", "Bytes of blobs sent", **here)
        self._received = library.Counter("dockyard_registry_blob_received_bytes", "Bytes of blobs received", **here)
        self._blobs = library.Counter("dockyard_registry_collected_blobs", "Blobs collected", **here)
        self._freed = library.Counter("dockyard_registry_collected_bytes", "Bytes of blobs collected", **here)
        self._notified = library.Counter(
            "dockyard_registry_notifications", "Events for webhooks", ("endpoint", "outcome"), **here
        )

    def answered(self, operation: str, method: str, status: int, seconds: float) -> None:
        self._seconds.labels(operation, method).observe(seconds)
        self._answers.labels(operation, method, str(status)).inc()

    def sent(self, count: int) -> None:
        self._sent.inc(count)

    def received(self, count: int) -> None:
        self._received.inc(count)

    def collected(self, blobs: int, count: int) -> None:
        self._blobs.inc(blobs)
        self._freed.inc(count)

    def notified(self, endpoint: str, outcome: str) -> None:
        self._notified.labels(endpoint, outcome).inc()

    def text(self) -> bytes:
        found: bytes = self._library.generate_latest(self._registry)
        return found


def make_metrics(wanted: bool) -> Metrics:
    if not wanted:
        return NoMetrics()
    try:
        import prometheus_client
    except ImportError:
        return NoMetrics()
    return PrometheusMetrics(prometheus_client)
