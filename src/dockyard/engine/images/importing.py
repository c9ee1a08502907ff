"""A root file system becomes an image: `docker import`.

Owns: the streaming from a client into a worker, the configuration of the new image. Does not own: unpacking.
"""

from __future__ import annotations

import asyncio
import platform
from collections.abc import AsyncIterator, Sequence
from typing import Any, TypeVar

import msgspec

from dockyard.engine.images.arriving import reading
from dockyard.engine.images.catalogue import Image
from dockyard.engine.images.services import Services
from dockyard.engine.signals import parse_signal
from dockyard.model.container import ContainerConfig
from dockyard.model.errors import InvalidArgument
from dockyard.model.oci import History, ImageConfig, RootFS, config_document
from dockyard.proto import changes as instructions
from dockyard.proto.references import Reference
from dockyard.proto.times import format_rfc3339
from dockyard.store.connection import Connection
from dockyard.store.images import ImageRecord
from dockyard.store.snapshots import Layer, Lease

T = TypeVar("T")

_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64", "armv7l": "arm", "ppc64le": "ppc64le", "s390x": "s390x"}


async def import_image(
    services: Services,
    incoming: AsyncIterator[bytes] | Connection,
    reference: Reference | None,
    *,
    message: str,
    changes: Sequence[str],
    platform_name: str,
    created: int | None,
) -> Image:
    """See `Images.import_`."""
    config = ContainerConfig()
    instructions.apply(config, changes)
    if config.stop_signal:
        parse_signal(config.stop_signal)
    operating_system, architecture, variant = _platform(platform_name)
    failed = True
    try:
        with services.making(), services.snapshots.lease() as lease:
            layer = await _layer(services, incoming, lease)
            now = services.clock()
            moment = now if created is None else created
            shown = format_rfc3339(moment)
            document = ImageConfig(
                created=shown,
                architecture=architecture,
                variant=variant,
                os=operating_system,
                config=config_document(config),
                rootfs=RootFS(diff_ids=[layer.diff_id]),
                history=[History(created=shown, comment=message)],
                comment=message,
            )
            data = _encode(document)
            image_id = await services.content.put(data)
            record = ImageRecord(
                image_id, document, layer.chain_id, size=layer.document.size, created=moment,
                tagged_at=now if reference else 0, used_at=now,
            )  # fmt: skip
            await services.commit([(record, [reference.complete] if reference else [])])
        failed = False
    finally:
        await services.collect_after_making(failed)
    image = services.catalogue.by_id(image_id)
    assert image is not None
    services.publish("import", image_id, reference.familiar if reference else image_id, image.labels)
    return image


async def first_failure(feeding: asyncio.Task[None], working: asyncio.Task[T]) -> T:
    """The worker's result; if the client fails first, its error, and the worker is ended. Both have ended then.

    A worker that fails is told at once: what the client still sends is nobody's concern.
    """
    try:
        await asyncio.wait({feeding, working}, return_when=asyncio.FIRST_EXCEPTION)
        if feeding.done() and not feeding.cancelled() and (error := feeding.exception()) is not None:
            raise error
        return await working
    finally:
        for task in (feeding, working):
            task.cancel()
        await asyncio.gather(feeding, working, return_exceptions=True)


async def _layer(services: Services, incoming: AsyncIterator[bytes] | Connection, lease: Lease) -> Layer:
    """Unpack while the client sends. An error of the client's side ends the worker."""
    what = "archive to import"

    async def work(place: dict[str, Any]) -> dict[str, Any]:
        async def read(fd: int, body: dict[str, Any] | None) -> dict[str, Any]:
            arguments = {"what": what, "need_end": True, "body": body, **place}
            result: dict[str, Any] = await services.call("dockyard.store.unpack:apply", arguments, [fd])
            return result

        return await reading(incoming, read)

    async def nothing() -> None:
        return None

    return await services.snapshots.unpack_by(work, nothing, lease, what=what)


def _encode(document: ImageConfig) -> bytes:
    """The configuration blob: plain JSON with sorted keys, so that equal images are one image."""
    return msgspec.json.encode(document, order="sorted")


def host_architecture() -> str:
    """This machine's, in OCI's spelling."""
    return _ARCHITECTURES.get(platform.machine(), platform.machine())


def _platform(text: str) -> tuple[str, str, str]:
    """ "linux/arm64/v8" → (os, architecture, variant); what is not given is the host's."""
    host = host_architecture()
    parts = text.lower().split("/") if text else []
    if len(parts) > 3 or any(not part for part in parts):
        raise InvalidArgument(f"invalid platform {text!r}")
    if len(parts) == 1:
        parts = [parts[0], host] if parts[0] == "linux" else ["linux", parts[0]]
    if parts and parts[0] != "linux":
        raise InvalidArgument(f"operating system {parts[0]!r} is not supported")
    parts = [*parts, *["linux", host, ""][len(parts) :]]
    return parts[0], parts[1], parts[2]
