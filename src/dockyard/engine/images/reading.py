"""What an image archive says: the images in it, before anything of it is stored.

Owns: docker-archive and OCI layout archives (which of them is found out), indexes and what lies beneath them,
the names. Does not own: storing (`loading`), the archive's container format (`store.archive`).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import msgspec
from msgspec import Struct

from dockyard.engine.images.variants import host_platform
from dockyard.model import oci, untrusted
from dockyard.model.errors import InvalidArgument
from dockyard.model.oci import Descriptor, Manifest, Platform
from dockyard.proto import platforms, references
from dockyard.store.archive import Spool

WHAT = "archive to load"
_MAX_IMAGES = 1000
_DEPTH = 4  # indexes within indexes
_NAME = "io.containerd.image.name"  # complete name, on a descriptor of an index
_REF_NAME = "org.opencontainers.image.ref.name"  # a tag, or what the writer took for a name


class _DockerEntry(Struct, rename="pascal"):
    """One image in a docker-archive's manifest.json."""

    config: str
    repo_tags: list[str] | None = None
    layers: list[str] | None = None


class Source(NamedTuple):
    """Where one layer of an image lies in the archive, and what is known of it. `blob`: its digest, if it is stated."""

    member: str
    blob: Descriptor | None


class Index(NamedTuple):
    """An index of several platforms: its bytes, and what else has to be kept so that it can leave as it came.

    `documents`: indexes within it. `attached`: blobs of what it has beside images (attestations).
    """

    digest: str
    media_type: str
    data: bytes
    documents: list[bytes]
    attached: list[Descriptor]


class Found(NamedTuple):
    """An image in an archive. `manifest`: (bytes, media type) if it has one."""

    config: bytes
    layers: list[Source]
    names: list[str]
    manifest: tuple[bytes, str] | None = None
    variants: Index | None = None


def find_images(spool: Spool, wanted: Platform | None = None) -> list[Found]:
    """The images of an archive; an OCI layout's index comes first, names of a docker-archive's manifest are added.

    Of an index all images that are in the archive, or the best for `wanted`, which then every image has to be for. Its
    name is that of the best for `wanted`, or for this host. InvalidArgument says what is wrong.
    """
    docker = _docker_entries(spool) if "manifest.json" in spool else []
    if "index.json" in spool and "oci-layout" in spool:
        images = _Layout(spool, docker, wanted).images()
    elif docker:
        images = [_docker_image(spool, entry) for entry in docker]
    else:
        raise InvalidArgument(f"{WHAT}: neither a docker-archive (manifest.json) nor an OCI layout (index.json)")
    if wanted is not None:
        images = [image for image in images if platforms.rank(_platform(image.config), wanted) is not None]
    if not images:
        what = platforms.show(wanted) if wanted is not None else "this platform"
        raise InvalidArgument(f"{WHAT}: no image for {what} in it")
    return images


def _platform(config: bytes) -> Platform:
    parsed = oci.parse_config(config, f"{WHAT}: image configuration")
    return Platform(parsed.architecture, parsed.os, variant=parsed.variant)


# --- docker-archive --------------------------------------------------------------------------------------------------


def _docker_entries(spool: Spool) -> list[_DockerEntry]:
    data = spool.read("manifest.json", f"{WHAT}: manifest.json", oci.MAX_DOCUMENT)
    try:
        entries = untrusted.decode(data, list[_DockerEntry])
    except msgspec.MsgspecError as error:
        raise InvalidArgument(f"{WHAT}: manifest.json: {error}") from None
    if len(entries) > _MAX_IMAGES:
        raise InvalidArgument(f"{WHAT}: more than {_MAX_IMAGES} images")
    return entries


def _docker_image(spool: Spool, entry: _DockerEntry) -> Found:
    config = spool.read(entry.config, f"{WHAT}: image configuration", oci.MAX_DOCUMENT)
    layers = [Source(member, None) for member in entry.layers or []]
    return Found(config, layers, _names(entry.repo_tags))


def _names(texts: list[str] | None) -> list[str]:
    """Complete names. A name with a digest is refused: a digest is a statement, not a name to give away."""
    names = []
    for text in texts or ():
        reference = references.parse(text)
        if reference.digest or not reference.tag:
            raise InvalidArgument(f"{WHAT}: invalid tag {text[:200]!r}")
        names.append(reference.complete)
    return list(dict.fromkeys(names))


# --- OCI layout ------------------------------------------------------------------------------------------------------


class _Layout:
    """The images of one OCI layout."""

    def __init__(self, spool: Spool, docker: list[_DockerEntry], wanted: Platform | None) -> None:
        self._spool = spool
        self._wanted = wanted
        self._target = wanted or host_platform()
        self._docker = {_config_digest(spool, entry): entry for entry in docker}
        self._found: dict[str, Found] = {}  # digest of the configuration -> image
        self._artifact = ""  # media type of the configuration of something that is no image
        _check_layout(spool)

    def images(self) -> list[Found]:
        what = f"{WHAT}: index.json"
        index = oci.parse_manifest(self._spool.read("index.json", what, oci.MAX_DOCUMENT), what)
        if index.manifests is None:
            raise InvalidArgument(f"{what} is no index")
        for descriptor in index.manifests[:_MAX_IMAGES]:
            names = _annotated_names(descriptor)
            if descriptor.media_type in oci.MANIFESTS:
                self._image(descriptor, names, None)
            elif descriptor.media_type in oci.INDEXES:
                self._index(descriptor, names)
        if not self._found and self._artifact:
            shown = f"its configuration has the media type {self._artifact[:200]!r}"
            raise InvalidArgument(f"{WHAT}: not an image but an artifact: {shown}")
        return list(self._found.values())

    def _index(self, descriptor: Descriptor, names: list[str]) -> None:
        data, top = self._manifest(descriptor)
        documents: list[bytes] = []
        present = list(self._children(top, documents, 0))
        offers = [entry for entry, manifest in present if _is_image(entry, manifest)]
        best = platforms.choose(offers, self._target)
        if self._wanted is not None:
            offers = [best] if best is not None else []
        elif best is None and offers:
            best = offers[0]
        attached = [
            blob for entry, manifest in present if not _is_image(entry, manifest) for blob in _blobs_of(entry, manifest)
        ]
        index = Index(descriptor.digest, descriptor.media_type, data, documents, attached)
        for entry in offers:
            self._image(entry, names if entry is best else [], index)

    def _children(self, index: Manifest, documents: list[bytes], depth: int) -> Iterator[tuple[Descriptor, Manifest]]:
        """The manifests beneath an index that are in the archive: writers leave out platforms they do not have."""
        for entry in (index.manifests or [])[:_MAX_IMAGES]:
            if entry.media_type not in oci.MANIFESTS | oci.INDEXES or _member(entry.digest) not in self._spool:
                continue
            data, manifest = self._manifest(entry)
            if manifest.config is not None:
                if _member(manifest.config.digest) in self._spool:
                    yield entry, manifest
            elif depth < _DEPTH:
                documents.append(data)
                yield from self._children(manifest, documents, depth + 1)

    def _image(self, descriptor: Descriptor, names: list[str], index: Index | None) -> None:
        data, manifest = self._manifest(descriptor)
        assert manifest.config is not None
        if not _is_image(descriptor, manifest):
            self._artifact = manifest.config.media_type
            return
        digest = manifest.config.digest
        config = self._blob(manifest.config, "image configuration")
        entry = self._docker.get(digest)
        known = self._found.get(digest)
        names = [*(known.names if known else ()), *names, *_names(entry.repo_tags if entry else None)]
        layers = [Source(_member(layer.digest), layer) for layer in manifest.layers or []]
        names = list(dict.fromkeys(names))
        self._found[digest] = Found(
            config, layers, names, (data, descriptor.media_type), index or (known and known.variants)
        )

    def _manifest(self, descriptor: Descriptor) -> tuple[bytes, Manifest]:
        what = f"{WHAT}: manifest {descriptor.digest}"
        data = self._blob(descriptor, "manifest")
        manifest = oci.parse_manifest(data, what)
        if (descriptor.media_type in oci.INDEXES) != (manifest.manifests is not None):
            raise InvalidArgument(f"{what}: it is not of the type that its descriptor says")
        return data, manifest

    def _blob(self, descriptor: Descriptor, kind: str) -> bytes:
        """A small blob of a layout, verified."""
        what = f"{WHAT}: {kind} {descriptor.digest[:80]}"
        data = self._spool.read(_member(descriptor.digest), what, oci.MAX_DOCUMENT)
        if len(data) != descriptor.size or oci.sha256(data) != descriptor.digest:
            raise InvalidArgument(f"{what}: its content does not fit its digest")
        return data


def _check_layout(spool: Spool) -> None:
    data = spool.read("oci-layout", f"{WHAT}: oci-layout", 4096)
    try:
        version = untrusted.decode(data, dict[str, str]).get("imageLayoutVersion", "")
    except msgspec.MsgspecError as error:
        raise InvalidArgument(f"{WHAT}: oci-layout: {error}") from None
    if not version.startswith("1."):
        raise InvalidArgument(f"{WHAT}: oci-layout: unknown version {version[:20]!r}")


def _config_digest(spool: Spool, entry: _DockerEntry) -> str:
    return oci.sha256(spool.read(entry.config, f"{WHAT}: image configuration", oci.MAX_DOCUMENT))


def _is_image(descriptor: Descriptor, manifest: Manifest) -> bool:
    """Whether a manifest is that of a file system, not of an attestation or another artifact."""
    return (
        manifest.config is not None
        and manifest.config.media_type in oci.CONFIGS
        and not oci.is_attestation(descriptor)
        and all(layer.media_type in oci.LAYERS for layer in manifest.layers or ())
    )


def _blobs_of(descriptor: Descriptor, manifest: Manifest) -> list[Descriptor]:
    """A manifest and all that it refers to."""
    return [descriptor, *([manifest.config] if manifest.config else []), *(manifest.layers or ())]


def _annotated_names(descriptor: Descriptor) -> list[str]:
    """The names that an index gives to a manifest; what is no complete name is no name."""
    annotations = descriptor.annotations or {}
    for key in (_NAME, _REF_NAME):
        text = annotations.get(key, "")
        if ":" not in text.rpartition("/")[2] or "@" in text:
            continue  # a mere tag
        try:
            return [references.parse(text).complete]
        except InvalidArgument:
            continue
    return []


def _member(digest: str) -> str:
    return f"blobs/sha256/{oci.check_digest(digest).partition(':')[2]}"
