"""Images of several platforms as OCI layouts.

Owns: `Layout`, the members of such an archive, built from images; `multi`, the usual one. Does not own: assertions.
"""

from __future__ import annotations

import gzip
import json
from typing import Any

from dockyard.model import oci
from tests.support import busybox

NAME = "multi:1"
_UNKNOWN = {"os": "unknown", "architecture": "unknown"}


class Layout:
    """`members`: name → content; `archive()` is the tar."""

    def __init__(self) -> None:
        self.members: dict[str, bytes] = {"oci-layout": b'{"imageLayoutVersion":"1.0.0"}'}

    def blob(self, data: bytes, media_type: str, **more: Any) -> dict[str, Any]:
        """Keep a blob; its descriptor."""
        self.members[f"blobs/sha256/{busybox.sha256(data)}"] = data
        return {"mediaType": media_type, "digest": f"sha256:{busybox.sha256(data)}", "size": len(data), **more}

    def document(self, value: dict[str, Any], media_type: str, **more: Any) -> dict[str, Any]:
        return self.blob(
            json.dumps({"schemaVersion": 2, "mediaType": media_type, **value}).encode(), media_type, **more
        )

    def image(self, architecture: str, layers: list[bytes], compress: bool) -> dict[str, Any]:
        """An image; the descriptor of its manifest."""
        config = {**json.loads(busybox.image_config(layers, {})), "architecture": architecture}
        packed = [gzip.compress(layer, 1, mtime=0) if compress else layer for layer in layers]
        kind = oci.OCI_LAYER + ("+gzip" if compress else "")
        manifest = {
            "config": self.blob(json.dumps(config).encode(), oci.OCI_CONFIG),
            "layers": [self.blob(data, kind) for data in packed],
        }
        platform = {"os": "linux", "architecture": architecture}
        return self.document(manifest, oci.OCI_MANIFEST, platform=platform)

    def attestation(self, subject: dict[str, Any]) -> dict[str, Any]:
        """What BuildKit adds for an image."""
        statement = self.blob(b'{"_type":"https://in-toto.io/Statement/v0.1"}', "application/vnd.in-toto+json")
        config = self.blob(b'{"rootfs":{"type":"layers","diff_ids":[]}}', oci.OCI_CONFIG)
        annotations = {
            "vnd.docker.reference.type": "attestation-manifest",
            "vnd.docker.reference.digest": subject["digest"],
        }
        value = {"config": config, "layers": [statement]}
        return self.document(value, oci.OCI_MANIFEST, platform=_UNKNOWN, annotations=annotations)

    def named(self, descriptor: dict[str, Any], name: str = NAME) -> None:
        """Write index.json: one entry, with a name."""
        annotations = {"io.containerd.image.name": f"docker.io/library/{name}"}
        index = {"schemaVersion": 2, "manifests": [{**descriptor, "annotations": annotations}]}
        self.members["index.json"] = json.dumps(index).encode()

    def archive(self) -> bytes:
        return busybox.archive(self.members)


def multi(
    architectures: tuple[str, ...] = ("arm64", "amd64"), *, attest: bool = True, compress: bool = True
) -> tuple[Layout, dict[str, Any]]:
    """(layout, descriptor of the index): images that share their first layer, with an attestation for each."""
    layout = Layout()
    shared = busybox.layer_tar({"shared": b"s" * 3000})
    entries = []
    for architecture in architectures:
        image = layout.image(architecture, [shared, busybox.layer_tar({"arch": architecture.encode()})], compress)
        entries += [image, layout.attestation(image)] if attest else [image]
    index = layout.document({"manifests": entries}, oci.OCI_INDEX)
    layout.named(index)
    return layout, index
