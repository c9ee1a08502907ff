"""Manifest lists while they are put together, kept in the client's folder as docker keeps them.

Owns: `Lists`: one directory a list, one file an image in it (`manifests/LIST/IMAGE`), the index that they make.
Does not own: talking to registries (`registry`).
"""

from __future__ import annotations

import base64
import json
import os
import shutil
from typing import Any

from dockyard.edge.cli.errors import CliError
from dockyard.edge.cli.registry import Found, Registry
from dockyard.model import oci
from dockyard.proto.references import Reference, parse

_PLATFORM = ("architecture", "os", "os.version", "os.features", "variant")


class Entry:
    """An image of a list: where it is, its descriptor (with a platform), its manifest."""

    def __init__(self, reference: Reference, descriptor: dict[str, Any], data: bytes) -> None:
        self.reference = reference
        self.descriptor = descriptor
        self.data = data

    @property
    def found(self) -> Found:
        return Found(self.data, self.descriptor["mediaType"], self.descriptor["digest"])

    def shown(self) -> dict[str, Any]:
        """As `manifest inspect --verbose` shows it."""
        name = "OCIManifest" if self.descriptor["mediaType"] == oci.OCI_MANIFEST else "SchemaV2Manifest"
        return {"Ref": self.reference.complete, "Descriptor": self.descriptor, name: json.loads(self.data)}


class Lists:
    def __init__(self, folder: str) -> None:
        self._base = os.path.join(folder, "manifests")

    def __contains__(self, reference: Reference) -> bool:
        return os.path.isdir(self._place(reference))

    def entries(self, reference: Reference) -> list[Entry]:
        """CliError "No such manifest: NAME" if the list is not there."""
        place = self._place(reference)
        if not os.path.isdir(place):
            raise CliError(f"No such manifest: {reference.familiar}")
        found = []
        for name in sorted(os.listdir(place)):
            with open(os.path.join(place, name), encoding="utf-8") as file:
                values = json.load(file)
            found.append(Entry(parse(values["Ref"]), values["Descriptor"], base64.b64decode(values["Raw"])))
        return found

    def put(self, reference: Reference, entry: Entry) -> None:
        place = self._place(reference)
        os.makedirs(place, mode=0o700, exist_ok=True)
        values = {**entry.shown(), "Raw": base64.b64encode(entry.data).decode()}
        target = os.path.join(place, _file(entry.reference))
        with open(f"{target}.new", "w", encoding="utf-8") as file:
            json.dump(values, file)
        os.rename(f"{target}.new", target)

    def remove(self, reference: Reference) -> None:
        self.entries(reference)
        shutil.rmtree(self._place(reference))

    def _place(self, reference: Reference) -> str:
        return os.path.join(self._base, _file(reference))


def _file(reference: Reference) -> str:
    return reference.with_default_tag().complete.replace("/", "_").replace(":", "-").replace("@", "-")


def describe(registry: Registry, reference: Reference, found: Found) -> Entry:
    """A list's entry for one image; its platform comes from its configuration."""
    manifest = oci.parse_manifest(found.data, reference.familiar)
    descriptor: dict[str, Any] = {"mediaType": found.media_type, "digest": found.digest, "size": len(found.data)}
    if manifest.config is not None:
        values = json.loads(registry.blob(reference, manifest.config.digest))
        platform = {name: values[name] for name in _PLATFORM if values.get(name)}
        if platform:
            descriptor["platform"] = platform
    return Entry(reference, descriptor, found.data)


def index(entries: list[Entry], annotations: dict[str, str] | None = None) -> Found:
    """The index of some images: Docker's list if all are Docker's and nothing is annotated, else OCI's."""
    docker = not annotations and all(entry.descriptor["mediaType"] == oci.DOCKER_MANIFEST for entry in entries)
    media_type = oci.DOCKER_INDEX if docker else oci.OCI_INDEX
    document: dict[str, Any] = {
        "schemaVersion": 2,
        "mediaType": media_type,
        "manifests": [entry.descriptor for entry in entries],
    }
    if annotations:
        document["annotations"] = annotations
    data = json.dumps(document, indent=3).encode()
    return Found(data, media_type, oci.sha256(data))
