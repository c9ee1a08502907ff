"""OCI values: digests, descriptors, manifests, image configurations.

Owns: their shapes as documents have them, the grammar of a digest, the chain of layers, and what `config` of an image
means as our `ContainerConfig`. Does not own: bytes of blobs (`store.content`), names of images (`proto.references`).

Source: OCI image-spec v1.1 (descriptor.md, manifest.md, image-index.md, config.md); Docker's image spec v1.2 for the
fields that only Docker writes.
"""

from __future__ import annotations

import hashlib
import re
from typing import Any, Final

import msgspec
from msgspec import Struct, field

from dockyard.model import untrusted
from dockyard.model.container import ContainerConfig, HealthConfig
from dockyard.model.errors import InvalidArgument

OCI_INDEX: Final = "application/vnd.oci.image.index.v1+json"
OCI_MANIFEST: Final = "application/vnd.oci.image.manifest.v1+json"
OCI_CONFIG: Final = "application/vnd.oci.image.config.v1+json"
OCI_LAYER: Final = "application/vnd.oci.image.layer.v1.tar"
DOCKER_INDEX: Final = "application/vnd.docker.distribution.manifest.list.v2+json"
DOCKER_MANIFEST: Final = "application/vnd.docker.distribution.manifest.v2+json"
MANIFESTS: Final = frozenset({OCI_MANIFEST, DOCKER_MANIFEST})
INDEXES: Final = frozenset({OCI_INDEX, DOCKER_INDEX})
CONFIGS: Final = frozenset({
    OCI_CONFIG, "application/vnd.docker.container.image.v1+json", "application/octet-stream",
})  # fmt: skip
LAYERS: Final = frozenset(
    kind + compression
    for kind, compressions in {
        OCI_LAYER: ("", "+gzip", "+zstd"),
        "application/vnd.oci.image.layer.nondistributable.v1.tar": ("", "+gzip", "+zstd"),
        "application/vnd.docker.image.rootfs.diff.tar": ("", ".gzip", ".zstd"),
        "application/vnd.docker.image.rootfs.foreign.diff.tar": ("", ".gzip"),
    }.items()
    for compression in compressions
)
MAX_LAYERS: Final = 128  # with our short names they fit into a page of mount options (Docker takes 127)
MAX_DOCUMENT: Final = 4 << 20  # bytes of a manifest, index or configuration (the distribution spec's recommendation)

_DIGEST = re.compile(r"[a-z0-9]+(?:[+._-][a-z0-9]+)*:[0-9a-f]{64}\Z")


def check_digest(text: str, what: str = "") -> str:
    """The digest itself if it is `sha256:` and 64 hex digits, else InvalidArgument: it goes into paths and URLs."""
    if not _DIGEST.match(text) or not text.startswith("sha256:"):
        raise InvalidArgument(f"{what}: invalid digest {text[:100]!r}" if what else f"invalid digest {text[:100]!r}")
    return text


def sha256(data: bytes) -> str:
    """The digest of some bytes."""
    return "sha256:" + hashlib.sha256(data).hexdigest()


def chain_id(diff_id: str, parent: str | None) -> str:
    """The identity of a layer on top of others: config.md, "Layer ChainID"."""
    return diff_id if parent is None else sha256(f"{parent} {diff_id}".encode())


class Platform(Struct, omit_defaults=True, rename={"os_version": "os.version", "os_features": "os.features"}):
    architecture: str = ""
    os: str = ""
    os_version: str = ""
    os_features: list[str] | None = None
    variant: str = ""


class Descriptor(Struct, omit_defaults=True, rename={"media_type": "mediaType"}):
    media_type: str = ""
    digest: str = ""
    size: int = 0
    urls: list[str] | None = None
    annotations: dict[str, str] | None = None
    platform: Platform | None = None


def is_attestation(descriptor: Descriptor) -> bool:
    """Whether an index has this manifest to state something of another one (BuildKit's provenance, an SBOM)."""
    platform = descriptor.platform or Platform()
    annotations = descriptor.annotations or {}
    return platform.os == "unknown" or "vnd.docker.reference.type" in annotations


class Manifest(Struct, omit_defaults=True, rename={"schema_version": "schemaVersion", "media_type": "mediaType"}):
    """An image manifest or an index; which of them, `parse_manifest` has checked."""

    schema_version: int = 0
    media_type: str = ""
    config: Descriptor | None = None
    layers: list[Descriptor] | None = None
    manifests: list[Descriptor] | None = None
    annotations: dict[str, str] | None = None


class RootFS(Struct):
    type: str = "layers"
    diff_ids: list[str] | None = None


class History(Struct, omit_defaults=True):
    created: str | None = None
    created_by: str = ""
    author: str = ""
    comment: str = ""
    empty_layer: bool = False


_CONFIG_NAMES = {
    name: {"attach_stdin": "AttachStdin", "attach_stdout": "AttachStdout", "attach_stderr": "AttachStderr"}.get(
        name, "".join(part.capitalize() for part in name.split("_"))
    )
    for name in ContainerConfig.__struct_fields__
}
_HEALTH_NAMES = {
    name: "".join(part.capitalize() for part in name.split("_")) for name in HealthConfig.__struct_fields__
}


class ImageConfig(Struct, omit_defaults=True, rename={"os_version": "os.version", "os_features": "os.features"}):
    """The configuration blob. `config` stays as the document has it; `run_config` reads, `config_document` makes it."""

    created: str | None = None
    author: str = ""
    architecture: str = ""
    variant: str = ""
    os: str = ""
    os_version: str = ""
    os_features: list[str] | None = None
    config: dict[str, Any] | None = None
    rootfs: RootFS = field(default_factory=RootFS)
    history: list[History] | None = None
    comment: str = ""
    docker_version: str = ""
    parent: str = ""
    container: str = ""  # that it was committed from; Docker tells of it to clients older than API 1.45
    container_config: dict[str, Any] | None = None


def parse_manifest(data: bytes, what: str) -> Manifest:
    """An image manifest or an index. InvalidArgument, naming `what`, for anything else or for something of both."""
    manifest: Manifest = _decode(data, Manifest, what)
    if manifest.manifests is not None and (manifest.layers is not None or manifest.config is not None):
        raise InvalidArgument(f"{what}: both an index and a manifest")
    if manifest.manifests is None and manifest.config is None:
        raise InvalidArgument(f"{what}: neither an index nor a manifest")
    expected = MANIFESTS if manifest.manifests is None else INDEXES
    if manifest.media_type and manifest.media_type not in expected:
        raise InvalidArgument(f"{what}: media type {manifest.media_type!r} does not fit its content")
    for descriptor in [*(manifest.manifests or ()), *(manifest.layers or ()), *filter(None, [manifest.config])]:
        check_digest(descriptor.digest, what)
        if descriptor.size < 0:
            raise InvalidArgument(f"{what}: negative size")
    return manifest


def parse_config(data: bytes, what: str) -> ImageConfig:
    """An image's configuration. InvalidArgument naming `what` if it is none."""
    config: ImageConfig = _decode(data, ImageConfig, what)
    if config.rootfs.type != "layers":
        raise InvalidArgument(f"{what}: rootfs of type {config.rootfs.type!r}")
    for diff_id in config.rootfs.diff_ids or ():
        check_digest(diff_id, what)
    if len(config.rootfs.diff_ids or ()) > MAX_LAYERS:
        raise InvalidArgument(f"{what}: max depth exceeded: more than {MAX_LAYERS} layers")
    run_config(config, what)
    return config


def run_config(image: ImageConfig, what: str = "image configuration") -> ContainerConfig:
    """What containers of the image inherit. Strings where lists belong (old images) are taken as lists of one."""
    document = {key: value for key, value in (image.config or {}).items() if value is not None}
    values: dict[str, Any] = {}
    for name, key in _CONFIG_NAMES.items():
        if key in document:
            value = document[key]
            values[name] = [value] if name in ("cmd", "entrypoint", "shell") and isinstance(value, str) else value
    health = values.get("healthcheck")
    if isinstance(health, dict):
        values["healthcheck"] = {n: health[k] for n, k in _HEALTH_NAMES.items() if health.get(k) is not None}
    try:
        return msgspec.convert(values, ContainerConfig)
    except msgspec.ValidationError as error:
        raise InvalidArgument(f"{what}: config: {error}") from None


def config_document(config: ContainerConfig) -> dict[str, Any]:
    """The `config` object of a configuration blob: Docker's names, empty fields left out."""
    document: dict[str, Any] = {}
    for name, key in _CONFIG_NAMES.items():
        value = getattr(config, name)
        if isinstance(value, HealthConfig):
            value = {k: v for n, k in _HEALTH_NAMES.items() if (v := getattr(value, n))}
        if value not in (None, "", False, 0) or (name in ("stop_timeout",) and value is not None):
            document[key] = value
    return document


def _decode(data: bytes, target: type[Any], what: str) -> Any:
    if len(data) > MAX_DOCUMENT:
        raise InvalidArgument(f"{what}: larger than {MAX_DOCUMENT} bytes")
    try:
        return untrusted.decode(data, target)
    except msgspec.MsgspecError as error:
        try:  # null stands for "not given" in documents that Go wrote
            return msgspec.convert(_without_nulls(untrusted.decode(data)), target)
        except (msgspec.MsgspecError, RecursionError):
            raise InvalidArgument(f"{what}: {error}") from None


def _without_nulls(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nulls(inner) for key, inner in value.items() if inner is not None}
    if isinstance(value, list):
        return [_without_nulls(inner) for inner in value]
    return value
