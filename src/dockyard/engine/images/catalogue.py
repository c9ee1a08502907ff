"""Which images there are and what they are called, in memory.

Owns: `Image` (what others see of one), `Catalogue` (lookup by name, digest, id and beginning of an id).
Does not own: the rows (`store.images`): whoever changes the catalogue has committed the change before.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from dockyard.model.container import ContainerConfig
from dockyard.model.errors import InvalidArgument, NotFound
from dockyard.model.oci import run_config
from dockyard.proto import references
from dockyard.proto.references import Reference
from dockyard.store.images import ImageRecord

_ID_PREFIX = re.compile(r"(?:sha256:)?([0-9a-f]{1,64})\Z")


class Image:
    """An image as it is at the moment of asking: later tags do not change it."""

    __slots__ = ("_config", "complete_names", "record")

    def __init__(self, record: ImageRecord, complete_names: Iterable[str]) -> None:
        self.record = record
        self.complete_names = sorted(complete_names)
        self._config: ContainerConfig | None = None

    @property
    def id(self) -> str:
        """ "sha256:…" """
        return self.record.id

    @property
    def short_id(self) -> str:
        """The first twelve hex digits, as messages show it."""
        return self.record.id.partition(":")[2][:12]

    @property
    def config(self) -> ContainerConfig:
        """What its containers inherit."""
        if self._config is None:
            self._config = run_config(self.record.config)
        return self._config

    @property
    def chain_id(self) -> str | None:
        """Of its topmost layer; None: it has no layers."""
        return self.record.chain_id

    @property
    def names(self) -> list[str]:
        """As users write them: "busybox:latest"."""
        return [references.from_complete(name).familiar for name in self.complete_names]

    @property
    def digests(self) -> list[str]:
        """As users write them: "busybox@sha256:…"."""
        return [references.from_complete(name).familiar for name in self.record.digests]

    @property
    def references(self) -> list[Reference]:
        """All names, tags before digests."""
        return [references.from_complete(name) for name in [*self.complete_names, *self.record.digests]]

    @property
    def size(self) -> int:
        """Bytes of the files of all its layers."""
        return self.record.size

    @property
    def created(self) -> int:
        """ns since the epoch; 0: not stated."""
        return self.record.created

    @property
    def labels(self) -> dict[str, str]:
        return self.config.labels or {}

    def descends_from(self, other: Image) -> bool:
        """Whether it was made on top of the other: its layers and its history begin with those, and go on."""
        mine, theirs = self.record.config, other.record.config
        layers, layers_below = mine.rootfs.diff_ids or [], theirs.rootfs.diff_ids or []
        steps, steps_below = mine.history or [], theirs.history or []
        return (
            layers[: len(layers_below)] == layers_below
            and steps[: len(steps_below)] == steps_below
            and (len(layers), len(steps)) != (len(layers_below), len(steps_below))
        )

    @property
    def os(self) -> str:
        return self.record.config.os or "linux"

    @property
    def architecture(self) -> str:
        return self.record.config.architecture


class Catalogue:
    """Every image and every name."""

    def __init__(self) -> None:
        self._records: dict[str, ImageRecord] = {}
        self._names: dict[str, str] = {}
        self._names_of: dict[str, set[str]] = {}
        self._of_index: dict[str, set[str]] = {}  # index -> images that came with it
        self._index_of: dict[str, str] = {}  # and the other way round, as it was put: records are changed in place

    def __iter__(self) -> Iterator[Image]:
        return iter([self._image(record) for record in self._records.values()])

    def __len__(self) -> int:
        return len(self._records)

    def __contains__(self, image_id: str) -> bool:
        return image_id in self._records

    def by_id(self, image_id: str) -> Image | None:
        record = self._records.get(image_id)
        return self._image(record) if record is not None else None

    def siblings(self, image: Image) -> list[Image]:
        """The other images of the same index, those with names first."""
        ids = sorted(self._of_index.get(image.record.index, ()) if image.record.index else ())
        found = [self._image(self._records[image_id]) for image_id in ids if image_id != image.id]
        return sorted(found, key=lambda sibling: not sibling.complete_names)

    def holder(self, complete_name: str) -> str | None:
        """The id of the image that a complete name stands for."""
        return self._names.get(complete_name)

    def get(self, ref: str) -> Image:
        """By name, name@digest, id or unambiguous beginning of an id; the digest of an index is that of its image.

        NotFound "No such image: …" in Docker's words; InvalidArgument for what is no reference, or begins several ids.
        """
        full_id = ref if ref.startswith("sha256:") else f"sha256:{ref}"
        if full_id in self._records:
            return self._image(self._records[full_id])
        prefix = _ID_PREFIX.match(ref)
        if prefix and len(prefix[1]) == 64:
            member = self._by_index(f"sha256:{prefix[1]}")
            if member is not None:
                return self._image(self._records[member])
            raise NotFound(f"No such image: {ref}")
        reference = references.parse(ref)
        image_id = self._by_reference(reference)
        if image_id is None and prefix:
            image_id = self._by_prefix(prefix[1])
        if image_id is None:
            raise NotFound(f"No such image: {reference.with_default_tag().familiar}")
        return self._image(self._records[image_id])

    def is_id(self, image: Image, ref: str) -> bool:
        """Whether `ref` found the image by its id (or the beginning of it), not by a name."""
        prefix = _ID_PREFIX.match(ref)
        if not prefix or not image.id.partition(":")[2].startswith(prefix[1]):
            return False
        return len(prefix[1]) == 64 or self._by_reference(references.parse(ref)) is None

    def in_repository(self, reference: Reference) -> list[str]:
        """Complete names (with tags) of a repository."""
        return sorted(name for name in self._names if name.rpartition(":")[0] == reference.repository)

    def _by_reference(self, reference: Reference) -> str | None:
        if reference.digest:
            wanted = f"{reference.repository}@{reference.digest}"
            return next((record.id for record in self._records.values() if wanted in record.digests), None)
        return self._names.get(reference.with_default_tag().complete)

    def _by_prefix(self, prefix: str) -> str | None:
        found = [image_id for image_id in self._records if image_id.startswith(f"sha256:{prefix}")]
        if len(found) > 1:
            raise InvalidArgument(f"multiple IDs found with provided prefix: {prefix}")
        return found[0] if found else None

    def _by_index(self, digest: str) -> str | None:
        """The image of an index: the one that has a name, if any has."""
        members = sorted(self._of_index.get(digest, ()))
        return next((member for member in members if self._names_of.get(member)), members[0] if members else None)

    def _image(self, record: ImageRecord) -> Image:
        return Image(record, self._names_of.get(record.id, ()))

    # --- changes, after they were committed ------------------------------------------------------------------------

    def put(self, record: ImageRecord, names: Iterable[str] = ()) -> None:
        self._leave_index(record.id)
        self._records[record.id] = record
        if record.index:
            self._of_index.setdefault(record.index, set()).add(record.id)
            self._index_of[record.id] = record.index
        for name in names:
            self.untag(name)
            self._names[name] = record.id
            self._names_of.setdefault(record.id, set()).add(name)

    def untag(self, name: str) -> None:
        holder = self._names.pop(name, None)
        if holder is not None:
            self._names_of[holder].discard(name)

    def remove(self, image_id: str) -> None:
        for name in list(self._names_of.get(image_id, ())):
            self.untag(name)
        self._names_of.pop(image_id, None)
        self._leave_index(image_id)
        self._records.pop(image_id, None)

    def _leave_index(self, image_id: str) -> None:
        index = self._index_of.pop(image_id, "")
        if index:
            members = self._of_index[index]
            members.discard(image_id)
            if not members:
                del self._of_index[index]
