"""Manifests as documents: what one says, and whether it may come in.

Owns: `Document` and the rules of S32 (one media type, in header and body alike; an index or a manifest, never both).
Pure. Source: OCI image-spec 1.1 manifest.md and image-index.md; distribution-spec 1.1 "Pushing manifests with subject".
"""

from __future__ import annotations

from typing import Any, Final

import msgspec
from msgspec import Struct

from dockyard.model import oci, untrusted
from dockyard.registry import names
from dockyard.registry.errors import RegistryError

MAX_MANIFEST: Final = 4 << 20  # bytes, as the distribution spec recommends
KNOWN: Final = oci.MANIFESTS | oci.INDEXES
_FOREIGN = ("application/vnd.docker.image.rootfs.foreign.", "application/vnd.oci.image.layer.nondistributable.")


class Descriptor(Struct, omit_defaults=True, rename="camel"):
    media_type: str
    digest: str
    size: int
    urls: list[str] | None = None
    annotations: dict[str, str] | None = None
    artifact_type: str = ""
    platform: dict[str, Any] | None = None


class Document(Struct, rename="camel"):
    """An image manifest or an index. `layers` and `manifests`: None where the document has none."""

    schema_version: int
    media_type: str = ""
    artifact_type: str | None = ""
    config: Descriptor | None = None
    layers: list[Descriptor] | None = None
    manifests: list[Descriptor] | None = None
    subject: Descriptor | None = None
    annotations: dict[str, str] | None = None

    @property
    def is_index(self) -> bool:
        return self.manifests is not None

    def blobs(self) -> list[Descriptor]:
        """What has to be in the repository as blobs: configuration and layers, but for those fetched elsewhere."""
        found = [self.config] if self.config else []
        return found + [each for each in self.layers or () if not (each.media_type.startswith(_FOREIGN) and each.urls)]

    def children(self) -> list[Descriptor]:
        return list(self.manifests or ())

    def artifact(self) -> str:
        """The type under which referrers list it."""
        if self.artifact_type:
            return self.artifact_type
        return self.config.media_type if self.config else ""


def parse(content: bytes, content_type: str) -> tuple[Document, str]:
    """(document, media type). MANIFEST_INVALID naming what is wrong; DIGEST_INVALID, SIZE_INVALID of descriptors."""
    if len(content) > MAX_MANIFEST:
        raise RegistryError("MANIFEST_INVALID", f"manifest larger than {MAX_MANIFEST} bytes", status=413)
    try:
        document = untrusted.decode(content, Document)
    except msgspec.MsgspecError as error:
        raise _invalid(str(error)) from None
    given = content_type.partition(";")[0].strip()
    if document.media_type and given and document.media_type != given:
        raise _invalid(f"the manifest says it is {document.media_type}, its Content-Type {given}")
    media_type = document.media_type or given
    if media_type not in KNOWN:
        raise _invalid(f"media type {media_type!r} is not served")
    _check(document, media_type)
    return document, media_type


def _check(document: Document, media_type: str) -> None:
    if document.schema_version != 2:
        raise _invalid(f"schema version {document.schema_version}")
    if document.is_index and (document.layers is not None or document.config is not None):
        raise _invalid("both an index and a manifest")
    if document.is_index != (media_type in oci.INDEXES):
        raise _invalid(f"its content is not of the type {media_type}")
    if not document.is_index and (document.config is None or document.layers is None):
        raise _invalid("neither an index nor a manifest")
    everything = [*document.children(), *(document.layers or ()), document.config, document.subject]
    for descriptor in everything:
        if descriptor is None:
            continue
        names.check_digest(descriptor.digest)
        if descriptor.size < 0:
            raise RegistryError("SIZE_INVALID", detail={"digest": descriptor.digest, "size": descriptor.size})


def _invalid(reason: str) -> RegistryError:
    return RegistryError("MANIFEST_INVALID", detail=reason)
