"""What a build is for: an image in the store.

Owns: the configuration blob, the image's row and names, when it was made. Does not own: the plan's configuration
(`proto.dockerfile.plan`), other outputs.

A build of which every step came from the cache gives the very image that it gave before: it was made when the last of
its steps was, and if it has none, when such an image was first built here (a row of the cache tells).
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import msgspec

from dockyard.engine.builds.ground import Session, Tree
from dockyard.model.build import BuildResult
from dockyard.proto import references
from dockyard.proto.dockerfile.ops import Plan
from dockyard.proto.times import format_rfc3339
from dockyard.store.builds.cache import INTERNAL, Record
from dockyard.store.images import ImageRecord


async def make_image(session: Session, plan: Plan, trees: Mapping[int, Tree]) -> BuildResult:
    """Write the image and let its names stand for it."""
    services = session.ground.services
    snapshots = session.ground.context.snapshots
    chain = trees[plan.result].chain
    layers = snapshots.chain(chain)[::-1]
    diff_ids = tuple(layer.diff_id for layer in layers)
    with_layer = {number for number in plan.layers if trees[number].made}
    created = _created(session, plan, diff_ids, with_layer)
    config = plan.image(diff_ids, with_layer, format_rfc3339(created))
    names = [references.parse(tag).with_default_tag() for tag in session.options.tags]
    with services.making():
        image_id = await services.content.put(msgspec.json.encode(config, order="sorted"))
        old = services.catalogue.by_id(image_id)
        if old is not None:
            record = old.record
            if names:
                record.tagged_at = services.clock()
        else:
            record = ImageRecord(
                image_id, config, chain, size=sum(layer.document.size for layer in layers),
                created=plan.epoch * 1_000_000_000 if plan.epoch is not None else created,
                tagged_at=services.clock() if names else 0,
            )  # fmt: skip
        await services.commit([(record, [name.complete for name in names])])
    for name in names:
        services.publish("tag", image_id, name.familiar)
    return BuildResult(image_id, names=tuple(name.familiar for name in names))


def _created(session: Session, plan: Plan, diff_ids: tuple[str, ...], with_layer: set[int]) -> int:
    """When the image was made, in ns: see above."""
    cache, now = session.ground.cache, session.ground.context.clock()
    bare = msgspec.json.encode(plan.image(diff_ids, with_layer, ""), order="sorted")
    key = hashlib.sha256(b"image\0" + bare).hexdigest()
    record = None if session.fresh else cache.find(key)
    if record is None:
        record = cache.put(Record("", INTERNAL, "image configuration", created=now), [key])
    session.hold(record)
    return record.created
