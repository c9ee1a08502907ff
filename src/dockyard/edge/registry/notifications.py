"""Webhooks.

Owns: events in the envelope that Docker's registry sends, and their delivery: each is kept in the storage until its
endpoint has taken it (at least once; the queue of each endpoint is bounded, and what comes above it is dropped and
counted), retried with a growing pause, taken over by another replica or the next start if this process dies.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
import uuid
from typing import TYPE_CHECKING, Any

import msgspec

from dockyard.edge.registry.configuration import Endpoint
from dockyard.edge.registry.metrics import Metrics
from dockyard.proto.times import format_rfc3339
from dockyard.registry.backend import Backend, Missing

if TYPE_CHECKING:
    from dockyard.edge.registry.service import Exchange

log = logging.getLogger("dockyard.registry")
_ENVELOPE = "application/vnd.docker.distribution.events.v2+json"
_FOLDER = "notifications"
_ABANDONED = 300.0  # seconds after which an event that lies in the storage is taken over
_LONGEST_PAUSE = 60.0


class Notifier:
    """One task an endpoint."""

    def __init__(self, endpoints: list[Endpoint], backend: Backend, metrics: Metrics) -> None:
        self._queues = [_Queue(each, backend, metrics) for each in endpoints]

    async def start(self) -> None:
        for queue in self._queues:
            queue.start()

    async def close(self) -> None:
        """Events that are not delivered stay in the storage."""
        await asyncio.gather(*(queue.close() for queue in self._queues))

    async def pull(self, call: Exchange, digest: str, size: int, media_type: str) -> None:
        await self._publish(call, "pull", _target(call, digest, size, media_type))

    async def push_blob(self, call: Exchange, digest: str, size: int) -> None:
        await self._publish(call, "push", _target(call, digest, size, "application/octet-stream", "blobs"))

    async def push_manifest(self, call: Exchange, digest: str, size: int, media_type: str) -> None:
        await self._publish(call, "push", _target(call, digest, size, media_type))

    async def mount(self, call: Exchange, digest: str, source: str) -> None:
        target = _target(call, digest, 0, "application/octet-stream", "blobs")
        await self._publish(call, "mount", target | {"fromRepository": source})

    async def delete(self, call: Exchange, digest: str = "", tag: str = "") -> None:
        target = {"repository": call.repository} | ({"digest": digest} if digest else {"tag": tag})
        await self._publish(call, "delete", target)

    async def _publish(self, call: Exchange, action: str, target: dict[str, Any]) -> None:
        if not any(action in queue.endpoint.actions for queue in self._queues):
            return
        event = _event(call, action, target)
        for queue in self._queues:
            if action in queue.endpoint.actions:
                await queue.put(event)


def _target(call: Exchange, digest: str, size: int, media_type: str, kind: str = "") -> dict[str, Any]:
    if not kind:
        kind = "blobs" if media_type == "application/octet-stream" else "manifests"
    target = {
        "mediaType": media_type,
        "digest": digest,
        "size": size,
        "length": size,
        "repository": call.repository,
        "url": f"{call.request.scheme}://{call.request.host}/v2/{call.repository}/{kind}/{digest}",
    }
    return target | {"tag": call.argument} if kind == "manifests" and ":" not in call.argument else target


def _event(call: Exchange, action: str, target: dict[str, Any]) -> dict[str, Any]:
    request = call.request
    return {
        "id": str(uuid.uuid4()),
        "timestamp": format_rfc3339(time.time_ns()),
        "action": action,
        "target": target,
        "request": {
            "id": str(uuid.uuid4()),
            "addr": request.remote or "",
            "host": request.host,
            "method": request.method,
            "useragent": request.headers.get("User-Agent", ""),
        },
        "actor": {"name": call.user} if call.user else {},
        "source": {},
    }


class _Queue:
    """Events on their way to one endpoint."""

    def __init__(self, endpoint: Endpoint, backend: Backend, metrics: Metrics) -> None:
        self.endpoint = endpoint
        self._backend = backend
        self._metrics = metrics
        self._folder = f"{_FOLDER}/{endpoint.name}"
        self._waiting: asyncio.Queue[str] = asyncio.Queue()
        self._ours: set[str] = set()
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        self._tasks = [asyncio.create_task(self._deliver()), asyncio.create_task(self._adopt())]

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def put(self, event: dict[str, Any]) -> None:
        if len(self._ours) >= self.endpoint.queue:
            self._metrics.notified(self.endpoint.name, "dropped")
            return
        name = f"{time.time_ns():020}-{event['id']}"
        self._ours.add(name)
        await self._backend.write(f"{self._folder}/{name}", msgspec.json.encode(event), durable=False)
        self._waiting.put_nowait(name)

    async def _adopt(self) -> None:
        """What another process has left behind."""
        while True:
            with contextlib.suppress(OSError):
                now = await self._backend.now()
                for entry in (await self._backend.below(self._folder)).files:
                    if entry.name not in self._ours and now - entry.modified > _ABANDONED:
                        self._ours.add(entry.name)
                        self._waiting.put_nowait(entry.name)
            await asyncio.sleep(_ABANDONED / 2)

    async def _deliver(self) -> None:
        import aiohttp

        timeout = aiohttp.ClientTimeout(total=self.endpoint.timeout)
        async with aiohttp.ClientSession(timeout=timeout) as session:
            while True:
                name = await self._waiting.get()
                key = f"{self._folder}/{name}"
                try:
                    event = msgspec.json.decode(await self._backend.read(key))
                    outcome = await self._send(session, event)
                    self._metrics.notified(self.endpoint.name, outcome)
                    await self._backend.delete(key)
                except Missing:
                    pass  # another replica delivered it
                except (OSError, msgspec.DecodeError) as error:
                    log.error("notifications to %s: %s", self.endpoint.name, error)
                self._ours.discard(name)

    async def _send(self, session: Any, event: dict[str, Any]) -> str:
        import aiohttp

        body = msgspec.json.encode({"events": [event]})
        headers = {"Content-Type": _ENVELOPE} | self.endpoint.headers
        pause = self.endpoint.backoff
        for attempt in range(1, self.endpoint.attempts + 1):
            try:
                async with session.post(self.endpoint.url, data=body, headers=headers, allow_redirects=False) as answer:
                    if 200 <= answer.status < 400:
                        return "delivered"
                    reason = f"status {answer.status}"
            except (TimeoutError, aiohttp.ClientError) as error:
                reason = str(error) or type(error).__name__
            log.warning("notification to %s, attempt %d: %s", self.endpoint.name, attempt, reason)
            await asyncio.sleep(pause)
            pause = min(pause * 2, _LONGEST_PAUSE)
        return "failed"
