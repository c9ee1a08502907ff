"""Images as lists and histories: `docker images`, `docker history`.

Owns: which images a list shows and with which names, what each shares with others, the history of one.
Does not own: Docker's JSON (`edge.api.images`).
"""

from __future__ import annotations

import re
from collections import Counter
from typing import NamedTuple

from dockyard.engine.images.catalogue import Image
from dockyard.engine.images.services import Services
from dockyard.engine.images.variants import is_subordinate
from dockyard.proto import references
from dockyard.proto.filters import Filters
from dockyard.proto.times import parse_moment, parse_rfc3339
from dockyard.store.snapshots import Layer

FILTER_KEYS = frozenset({"before", "since", "reference", "dangling", "label", "label!", "until"})


class Listed(NamedTuple):
    """An image with the names that the list shows. `shared_size`: bytes that other images have too; -1: not asked."""

    image: Image
    names: list[str]
    digests: list[str]
    shared_size: int


class HistoryEntry(NamedTuple):
    """One step of an image's making. `id` is "<missing>" for all but the image itself; `size` in bytes."""

    id: str
    created: int  # ns
    created_by: str
    tags: list[str]
    size: int
    comment: str


def list_images(services: Services, filters: Filters, *, shared_size: bool, every: bool, now: int) -> list[Listed]:
    """See `Images.list`."""
    filters.check(FILTER_KEYS)
    dangling = filters.boolean("dangling")
    before = _bound(services, filters, "before", now)
    since = _bound(services, filters, "since", now)
    until = _until(filters, now)
    users = _users_of_layers(services) if shared_size else Counter[str]()
    listed = []
    for image in services.catalogue:
        if not every and is_subordinate(services, image):
            continue  # seen with the image that has the name
        if (before is not None and image.created >= before) or (until is not None and image.created >= until):
            continue
        if since is not None and image.created <= since:
            continue
        if not (filters.labels(image.labels) and filters.not_labels(image.labels)):
            continue
        if dangling is not None and dangling == bool(image.complete_names):  # a digest is no name, as with Docker
            continue
        names = [r.familiar for r in image.references if not r.digest and _matches(filters, r)]
        digests = [r.familiar for r in image.references if r.digest and _matches(filters, r)]
        if "reference" in filters and not names and not digests:
            continue
        shared = -1
        if shared_size:
            shared = sum(la.document.size for la in _layers(services, image) if users[la.chain_id] > 1)
        listed.append(Listed(image, names, digests, shared))
    return sorted(listed, key=lambda entry: (-entry.image.created, entry.image.id))


def _users_of_layers(services: Services) -> Counter[str]:
    """How many images have each layer."""
    return Counter(layer.chain_id for image in services.catalogue for layer in _layers(services, image))


def _layers(services: Services, image: Image) -> list[Layer]:
    return services.snapshots.chain(image.chain_id)


def _bound(services: Services, filters: Filters, key: str, now: int) -> int | None:
    """When the image that a filter names was made. With several, the last counts, as in Docker."""
    moments = [services.catalogue.get(ref).created for ref in filters.get(key)]
    return moments[-1] if moments else None


def _until(filters: Filters, now: int) -> int | None:
    texts = filters.get("until")
    try:
        return parse_moment(texts[-1], now) if texts else None
    except ValueError:
        raise filters.invalid("until") from None


def _matches(filters: Filters, reference: references.Reference) -> bool:
    """`reference` filters: shell patterns on the whole familiar name or on it without its tag; `*` stops at slashes."""
    patterns = filters.get("reference")
    candidates = (reference.familiar, reference.familiar_repository)
    return not patterns or any(_glob(pattern).match(text) for pattern in patterns for text in candidates)


def _glob(pattern: str) -> re.Pattern[str]:
    """Go's path.Match as a regular expression; a malformed pattern matches itself only."""
    out: list[str] = []
    position = 0
    while position < len(pattern):
        char = pattern[position]
        position += 1
        if char == "*":
            out.append("[^/]*")
        elif char == "?":
            out.append("[^/]")
        elif char == "[" and (end := pattern.find("]", position + 1)) > 0:
            inner = pattern[position:end].replace("\\", "\\\\").replace("[", "\\[")
            out.append(f"[{inner}]")
            position = end + 1
        else:
            out.append(re.escape(char))
    try:
        return re.compile("".join(out) + r"\Z")
    except re.error:
        return re.compile(re.escape(pattern) + r"\Z")


def image_history(services: Services, image: Image) -> list[HistoryEntry]:
    """See `Images.history`."""
    layers = list(reversed(_layers(services, image)))
    entries: list[HistoryEntry] = []
    position = 0
    for step in image.record.config.history or []:
        size = 0
        if not step.empty_layer and position < len(layers):
            size = layers[position].document.size
            position += 1
        entries.append(HistoryEntry("<missing>", _time(step.created), step.created_by, [], size, step.comment))
    for layer in layers[position:]:  # layers that the configuration's history does not tell of
        entries.append(HistoryEntry("<missing>", image.created, "", [], layer.document.size, ""))
    entries.reverse()
    if entries:
        entries[0] = entries[0]._replace(id=image.id, tags=image.names)
    return entries


def _time(text: str | None) -> int:
    try:
        return parse_rfc3339(text) if text else 0
    except ValueError:
        return 0
