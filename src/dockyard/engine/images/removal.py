"""Images lose names and go: `docker rmi`, `docker image prune`.

Owns: when an image may go, in Docker's words where it may not. Does not own: the rows and layers (`services`).
"""

from __future__ import annotations

from typing import NamedTuple

from dockyard.engine.images.catalogue import Image
from dockyard.engine.images.services import Services
from dockyard.engine.images.variants import is_subordinate, subordinates
from dockyard.model.errors import Conflict, InvalidArgument
from dockyard.proto import references
from dockyard.proto.filters import Filters
from dockyard.proto.references import Reference
from dockyard.proto.times import parse_moment


class Deleted(NamedTuple):
    """One line of the answer: exactly one of the two is given."""

    untagged: str = ""
    deleted: str = ""


async def remove_image(services: Services, ref: str, *, force: bool, prune: bool) -> list[Deleted]:
    """See `Images.remove`."""
    if not ref.strip():
        raise InvalidArgument("image name cannot be blank")
    image = services.catalogue.get(ref)
    followers = subordinates(services, image)
    records: list[Deleted] = []
    named = not services.catalogue.is_id(image, ref)
    if named:
        reference = references.parse(ref).with_default_tag()
        if not force and _is_single(image.references):
            _refuse_used_name(services, image, ref)
        await _untag(services, image, [reference], records)
        image = _again(services, image)
        await _drop_lone_digests(services, image, reference, records)
        image = _again(services, image)
        if image.references:
            return records
    elif _is_single(image.references):
        conflict = _conflict(services, image, soft=not force, names=False)
        if conflict:
            raise conflict
        await _untag(services, image, image.references, records)
        image = _again(services, image)
    await _delete(services, image, records, force=force, quiet=named)
    await _drop_followers(services, image, followers, records)
    return records


async def prune_images(services: Services, filters: Filters, now: int) -> tuple[list[Deleted], int]:
    """See `Images.prune`."""
    filters.check({"dangling", "until", "label", "label!"})
    dangling = filters.boolean("dangling", True)
    until = _until(filters, now)
    records: list[Deleted] = []
    before = _bytes_used(services)
    for image in sorted(services.catalogue, key=lambda image: -image.created):
        if (dangling and image.complete_names) or services.users(image) or is_subordinate(services, image):
            continue
        if until is not None and image.created >= until:
            continue
        if not (filters.labels(image.labels) and filters.not_labels(image.labels)):
            continue
        followers = subordinates(services, image)
        await _untag(services, image, image.references, records)
        await _delete(services, _again(services, image), records, force=False, quiet=True)
        await _drop_followers(services, image, followers, records)
    freed = max(before - _bytes_used(services), 0)
    services.publish_pruned(freed)
    return records, freed


async def remove_unused(services: Services, image: Image) -> bool:
    """Remove an image with all its names, unless a container uses it; whether it went."""
    records: list[Deleted] = []
    followers = subordinates(services, image)
    await _untag(services, image, image.references, records)
    image = _again(services, image)
    await _delete(services, image, records, force=False, quiet=True)
    await _drop_followers(services, image, followers, records)
    return image.id not in services.catalogue


def _until(filters: Filters, now: int) -> int | None:
    texts = filters.get("until")
    if len(texts) > 1:
        raise filters.invalid("until")
    try:
        return parse_moment(texts[0], now) if texts else None
    except ValueError:
        raise filters.invalid("until") from None


def _bytes_used(services: Services) -> int:
    layers = {
        layer.chain_id: layer for image in services.catalogue for layer in services.snapshots.chain(image.chain_id)
    }
    return sum(layer.document.size for layer in layers.values())


def _again(services: Services, image: Image) -> Image:
    return services.catalogue.by_id(image.id) or Image(image.record, ())


def _is_single(names: list[Reference]) -> bool:
    """Whether all names are of one repository with at most one tag among them."""
    tags = [name for name in names if name.tag]
    return len(names) <= 1 or (len(tags) <= 1 and len({name.repository for name in names}) == 1)


def _refuse_used_name(services: Services, image: Image, ref: str) -> None:
    for container_id, _ in services.users(image)[:1]:
        raise Conflict(
            f'conflict: unable to remove repository reference "{ref}" (must force) - '
            f"container {container_id[:12]} is using its referenced image {image.short_id}"
        )


def _conflict(services: Services, image: Image, *, soft: bool, names: bool) -> Conflict | None:
    """Why an image must not go. A running container always stands against it, the rest only without force."""
    users = services.users(image)
    reason = ""
    running = [container_id for container_id, runs in users if runs]
    if running:
        how, reason = "cannot be forced", f"image is being used by running container {running[0][:12]}"
    elif soft and names and len(image.references) > 1:
        how, reason = "must be forced", "image is referenced in multiple repositories"
    elif soft and users:
        how, reason = "must be forced", f"image is being used by stopped container {users[0][0][:12]}"
    return Conflict(f"conflict: unable to delete {image.short_id} ({how}) - {reason}") if reason else None


async def _delete(services: Services, image: Image, records: list[Deleted], *, force: bool, quiet: bool) -> None:
    conflict = _conflict(services, image, soft=not force, names=True)
    if conflict:
        if quiet:
            return  # its name is gone, as asked; the image stays for those who use it
        raise conflict
    await _untag(services, image, image.references, records)
    await _forget(services, image, records)


async def _drop_followers(services: Services, image: Image, followers: list[Image], records: list[Deleted]) -> None:
    """With an image go the other platforms of its index, which nobody could see; but not what a container uses."""
    if image.id in services.catalogue:
        return
    for other in followers:
        current = services.catalogue.by_id(other.id)
        if current is not None and not current.complete_names and not services.users(current):
            await _untag(services, current, current.references, records)
            await _forget(services, _again(services, current), records)


async def _forget(services: Services, image: Image, records: list[Deleted]) -> None:
    removed = await services.forget(image)
    services.publish("delete", image.id, image.id)
    records.append(Deleted(deleted=image.id))
    records.extend(Deleted(deleted=layer.chain_id) for layer in removed)


async def _untag(services: Services, image: Image, names: list[Reference], records: list[Deleted]) -> None:
    tags = [name.complete for name in names if not name.digest]
    digests = [f"{name.repository}@{name.digest}" for name in names if name.digest]
    if digests:
        image.record.digests = [name for name in image.record.digests if name not in digests]
        await services.commit([(image.record, [])])
    if tags:
        await services.untag(tags)
    for complete in tags + digests:
        familiar = references.from_complete(complete).familiar
        records.append(Deleted(untagged=familiar))
        services.publish("untag", image.id, image.id, image.labels)


async def _drop_lone_digests(services: Services, image: Image, gone: Reference, records: list[Deleted]) -> None:
    """When a repository's last tag goes, its digests go too: nobody could see them."""
    same = [name for name in image.references if name.repository == gone.repository]
    if same and all(name.digest for name in same):
        await _untag(services, image, same, records)
