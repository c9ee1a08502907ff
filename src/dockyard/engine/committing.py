"""A container becomes an image: `docker commit`.

Owns: the order (files taken while the container stands still, a layer of them, then the image's configuration and row),
what the image's settings and history say. Does not own: the layer (`store.snapshots`), instructions (`proto.changes`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

import msgspec
from msgspec.structs import replace

from dockyard.engine.container import Container
from dockyard.engine.context import Context
from dockyard.engine.creation import merge
from dockyard.engine.freezing import still
from dockyard.engine.images.importing import host_architecture
from dockyard.engine.metrics import timed
from dockyard.engine.signals import parse_signal
from dockyard.model.container import ContainerConfig
from dockyard.model.errors import Conflict
from dockyard.model.lifecycle import State
from dockyard.model.oci import History, ImageConfig, RootFS, config_document
from dockyard.proto import changes as instructions
from dockyard.proto.references import Reference
from dockyard.proto.times import format_rfc3339
from dockyard.store.images import ImageRecord

if TYPE_CHECKING:
    from dockyard.engine.images.services import Services
    from dockyard.store.snapshots import Layer, Lease

# What mounting leaves in a writable layer where the image has nothing: Docker keeps these in a layer of its own.
STUBS: Final = (
    "/dev", "/dev/console", "/dev/mqueue", "/dev/pts", "/dev/shm", "/etc/hostname", "/etc/hosts", "/etc/resolv.conf",
    "/proc", "/sys", "/sys/fs/cgroup",
)  # fmt: skip


@timed("commit")
async def commit(
    context: Context,
    services: Services,
    container: Container,
    ref: str,
    *,
    config: ContainerConfig | None,
    changes: Sequence[str],
    author: str,
    comment: str,
    pause: bool,
    reference: Reference | None,
) -> str:
    """See `Files.commit`."""
    for state, what in ((State.DEAD, "Dead"), (State.REMOVING, "being removed")):
        if container.state is state:
            raise Conflict(f"You cannot commit container {container.id} which is {what}")
    settings = settings_of(container, config, changes)
    failed = True
    try:
        with services.making(), services.snapshots.lease() as lease:
            layer = await _take(context, container, ref, lease, pause)
            document = _document(services, container, layer, settings, author, comment)
            image_id = await services.content.put(msgspec.json.encode(document, order="sorted"))
            chain = layer.chain_id if layer is not None else container.spec.chain_id
            now = services.clock()
            size = sum(below.document.size for below in services.snapshots.chain(chain))
            record = ImageRecord(
                image_id, document, chain, size=size, created=now, tagged_at=now if reference else 0
            )  # fmt: skip
            await services.commit([(record, [reference.complete] if reference else [])])
        failed = False
    finally:
        await services.collect_after_making(failed)
    name = reference.familiar if reference else ""
    if reference is not None:
        services.publish("tag", image_id, name, document_labels(document))
    context.publish(container, "commit", comment=comment, imageID=image_id, imageRef=name)
    return image_id


def settings_of(container: Container, config: ContainerConfig | None, changes: Sequence[str]) -> ContainerConfig:
    """The new image's: what the client gave (or the container has), changed by the instructions; the container's
    fill in what is missing, as an image's do for a container. InvalidArgument for what is no instruction."""
    settings = replace(config if config is not None else container.config)
    instructions.apply(settings, changes)
    if settings.stop_signal:
        parse_signal(settings.stop_signal)
    return merge(settings, container.config)


async def _take(context: Context, container: Container, ref: str, lease: Lease, pause: bool) -> Layer | None:
    """The layer; None if the container has written nothing. It stands still only while its files are copied."""
    if container.spec.chain_id is not None:
        lease.add(container.spec.chain_id)
    stubs = {*STUBS, *(point.destination for point in container.mounts)}
    async with still(context, container, ref, freeze=pause) as go_on:
        return await context.snapshots.commit(container.id, lease, consume=False, stubs=sorted(stubs), taken=go_on)


def _document(
    services: Services, container: Container, layer: Layer | None, settings: ContainerConfig, author: str, comment: str
) -> ImageConfig:
    """The configuration: that of the image below, with one more step in its history."""
    now = format_rfc3339(services.clock())
    below = services.catalogue.by_id(container.image_id)
    if below is not None:
        document: ImageConfig = replace(below.record.config)
        diff_ids, history = list(document.rootfs.diff_ids or ()), list(document.history or ())
    else:  # the image is gone, its layers are not
        document = ImageConfig(architecture=host_architecture(), os="linux")
        chain = services.snapshots.chain(container.spec.chain_id)
        diff_ids = [each.diff_id for each in reversed(chain)]
        history = [History() for _ in chain]
    command = " ".join(container.config.cmd or ())
    history.append(History(now, command, author, comment, empty_layer=layer is None))
    if layer is not None:
        diff_ids.append(layer.diff_id)
    document.created, document.author, document.comment = now, author, comment
    document.config = config_document(settings)
    document.rootfs, document.history = RootFS(diff_ids=diff_ids), history
    document.parent = container.image_id
    document.container, document.container_config = container.id, config_document(container.config)
    return document


def document_labels(document: ImageConfig) -> dict[str, str]:
    return (document.config or {}).get("Labels") or {}
