"""What a build is for: an image in the store.

Owns: the configuration blob, the image's row and names, when it was made. Does not own: the plan's configuration
(`proto.dockerfile.plan`), other outputs.

A build of which every step came from the cache gives the very image that it gave before: it was made when the last of
its steps was, and if it has none, when such an image was first built here (a row of the cache tells).
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec
from msgspec.structs import replace

from dockyard.engine.builds import cachetransfer, platformindex
from dockyard.engine.builds.ground import Session, Tree
from dockyard.engine.images.variants import host_platform
from dockyard.model.build import BuildResult
from dockyard.model.oci import History, ImageConfig, RootFS
from dockyard.proto import platforms, references
from dockyard.proto.dockerfile.ops import Plan
from dockyard.proto.times import format_rfc3339
from dockyard.store.builds.cache import INTERNAL, REGULAR, Record
from dockyard.store.images import ImageRecord

_SECOND: Final = 1_000_000_000  # ns


async def make_images(session: Session, plans: Sequence[Plan], trees: Mapping[int, Tree]) -> BuildResult:
    """Write the image of each platform, and of several, or with attestations, an index; let the build's names stand for
    it."""
    services = session.ground.services
    names = [references.parse(tag).with_default_tag() for tag in session.options.tags]
    with services.making():
        records = [await _record(session, plan, trees, named=bool(names)) for plan in plans]
        digest, metadata = await platformindex.join(session, plans, records, trees)
        first = records[_native([plan.platform for plan in plans])]
        rest = [(record, list[str]()) for record in records if record is not first]
        await services.commit([(first, [name.complete for name in names]), *rest])
    labels = (first.config.config or {}).get("Labels")
    for name in names:
        services.publish("tag", first.id, name.familiar, labels)
    return BuildResult(
        first.id,
        digest=digest,
        names=tuple(name.familiar for name in names),
        platforms={plan.platform: record.id for plan, record in zip(plans, records, strict=True)},
        metadata=metadata,
    )


def _native(shown: Sequence[str]) -> int:
    """Which of several platforms has the name: this host's, else the first."""
    host = host_platform()
    ranks = [platforms.rank(platforms.parse(text, host), host) if text else 0 for text in shown]
    return min(range(len(shown)), key=lambda place: (ranks[place] is None, ranks[place] or 0, place))


async def _record(session: Session, plan: Plan, trees: Mapping[int, Tree], *, named: bool) -> ImageRecord:
    services = session.ground.services
    chain, config, created = await _configured(session, plan, trees)
    image_id = await services.content.put(_encode(config, cachetransfer.inline(session, trees, chain)))
    old = services.catalogue.by_id(image_id)
    if old is not None:
        if named:
            old.record.tagged_at = services.clock()
        return old.record
    return ImageRecord(
        image_id, config, chain,
        size=sum(layer.document.size for layer in session.ground.context.snapshots.chain(chain)),
        created=plan.epoch * _SECOND if plan.epoch is not None else created,
        tagged_at=services.clock() if named else 0,
    )  # fmt: skip


def _encode(config: ImageConfig, more: dict[str, Any]) -> bytes:
    """The configuration blob: plain JSON with sorted keys, so that equal images are one image."""
    document = {**msgspec.to_builtins(config), **more} if more else config
    return msgspec.json.encode(document, order="sorted")


async def _configured(session: Session, plan: Plan, trees: Mapping[int, Tree]) -> tuple[str | None, ImageConfig, int]:
    """(the image's layers, its configuration, when it was made in ns)."""
    chain, base = trees[plan.result].chain, trees[plan.base].chain
    diff_ids = _diff_ids(session, chain)
    with_layer = {number for number in plan.layers if trees[number].made}
    created = _created(session, plan, trees, diff_ids, with_layer)
    shown = format_rfc3339(created)
    config = plan.image(diff_ids, with_layer, shown)
    if not session.options.squash or chain == base:
        return chain, config, created
    squashed = await _squash(session, chain, base)
    config = plan.image(_diff_ids(session, base), set(), shown)  # its steps made no layers
    merged = History(created=config.created, comment=f"merge {chain} to {base or 'scratch'}")
    rootfs = RootFS(diff_ids=list(_diff_ids(session, squashed)))
    history = [*(config.history or ()), *([merged] if squashed != base else ())]
    return squashed, replace(config, rootfs=rootfs, history=history), created


def _diff_ids(session: Session, chain: str | None) -> tuple[str, ...]:
    return tuple(layer.diff_id for layer in session.ground.context.snapshots.chain(chain)[::-1])


async def _squash(session: Session, chain: str | None, base: str | None) -> str | None:
    """The chain of one layer on `base` that has what all of `chain`'s have."""
    snapshots, cache = session.ground.context.snapshots, session.ground.cache
    key = hashlib.sha256(f"squash\0{chain}\0{base}".encode()).hexdigest()
    record = cache.find(key)
    if record is None:
        below = snapshots.trees(base)
        layers = snapshots.trees(chain)
        own = layers[: len(layers) - len(below)] if snapshots.overlays else layers
        arguments = {"layers": list(own), "base": list(below), "whole": not snapshots.overlays}

        async def work(place: dict[str, Any]) -> dict[str, Any]:
            function = "dockyard.store.builds.squashing:squash"
            result: dict[str, Any] = await session.ground.context.runtime.call(function, arguments | place)
            return result

        layer = await snapshots.make(work, base, session.lease, what="squashing")
        found = layer.chain_id if layer is not None else base
        size = layer.document.size if layer is not None else 0
        record = cache.put(
            Record("", REGULAR, "squashed layers", chain=found, made=layer is not None, size=size), [key]
        )
    session.hold(record)
    if record.chain is not None:
        session.lease.add(record.chain)
    return record.chain


def _created(
    session: Session, plan: Plan, trees: Mapping[int, Tree], diff_ids: tuple[str, ...], with_layer: set[int]
) -> int:
    """When the image was made, in ns: see above."""
    times = [trees[number].created for number in plan.layers if trees[number].created]
    if times:
        return max(times)
    cache, now = session.ground.cache, session.ground.context.clock()
    bare = msgspec.json.encode(plan.image(diff_ids, with_layer, ""), order="sorted")
    key = hashlib.sha256(b"image\0" + bare).hexdigest()
    record = cache.find(key)
    if record is None:
        record = cache.put(Record("", INTERNAL, "image configuration", created=now), [key])
    session.hold(record)
    return record.created
