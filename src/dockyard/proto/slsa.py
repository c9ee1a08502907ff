"""What a provenance attestation says: in-toto statements with SLSA's predicate, and the documents around them.

Owns: the statement in SLSA's versions 0.2 and 1 as BuildKit fills them, the attestation's manifest. Does not own: which
facts there are (`engine.builds.provenance`), storing. Pure.
Source: slsa.dev/spec/v0.2/provenance, slsa.dev/spec/v1.1/provenance; docs.docker.com, "SLSA definitions" and "Image
attestation storage".
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple
from urllib.parse import quote

import msgspec

from dockyard.model import oci
from dockyard.model.oci import Descriptor, ImageConfig, Manifest, Platform, RootFS

IN_TOTO: Final = "application/vnd.in-toto+json"
UNKNOWN: Final = Platform("unknown", "unknown")
_STATEMENT: Final = "https://in-toto.io/Statement/v0.1"
_PREDICATES: Final = {"v0.2": "https://slsa.dev/provenance/v0.2", "v1": "https://slsa.dev/provenance/v1"}
_BUILD_TYPES: Final = {
    "v0.2": "https://mobyproject.org/buildkit@v1",
    "v1": "https://github.com/moby/buildkit/blob/master/docs/attestations/slsa-definitions.md",
}
VERSIONS: Final = tuple(_PREDICATES)


class Material(NamedTuple):
    """Something that went into the build; `digest`: {"sha256": hex}, empty if it is not known."""

    uri: str
    digest: dict[str, str]


class Facts(NamedTuple):
    """One platform's build. `arguments`, `secrets`, `ssh`, `steps`: only for mode=max. Times are RFC 3339."""

    platform: str
    builder: str
    invocation: str
    started: str
    finished: str
    source: str  # a remote context's URL, or ""
    source_digest: dict[str, str]
    dockerfile: str
    arguments: dict[str, str]
    contexts: list[str]
    secrets: list[str]
    ssh: list[str]
    steps: list[dict[str, Any]]
    materials: list[Material]
    complete: bool  # nothing went in but what `materials` tells of


def image_url(name: str, tag: str, platform: str) -> str:
    """A package URL (purl) of an image: "pkg:docker/alpine@3.19?platform=linux%2Famd64"."""
    version = f"@{quote(tag, safe='')}" if tag else ""
    return f"pkg:docker/{quote(name, safe='/')}{version}?platform={quote(platform, safe='')}"


def predicate(facts: Facts, version: str) -> dict[str, Any]:
    return _first(facts) if version == "v0.2" else _second(facts)


def statement(content: dict[str, Any], version: str, subjects: list[str], digest: str) -> bytes:
    """The attestation: `content` holds for the manifest `digest`, which is called `subjects`."""
    plain = digest.removeprefix("sha256:")
    document = {
        "_type": _STATEMENT,
        "predicateType": _PREDICATES[version],
        "subject": [{"name": name, "digest": {"sha256": plain}} for name in subjects],
        "predicate": content,
    }
    return msgspec.json.encode(document)


def manifest(statement: bytes, version: str) -> tuple[bytes, bytes]:
    """(manifest, configuration) of an attestation whose only layer is `statement`."""
    digest = oci.sha256(statement)
    config = ImageConfig(architecture="unknown", os="unknown", config={}, rootfs=RootFS(diff_ids=[digest]))
    data = msgspec.json.encode(config)
    layer = Descriptor(IN_TOTO, digest, len(statement), annotations={"in-toto.io/predicate-type": _PREDICATES[version]})
    document = Manifest(2, oci.OCI_MANIFEST, Descriptor(oci.OCI_CONFIG, oci.sha256(data), len(data)), [layer])
    return msgspec.json.encode(document), data


def descriptor(manifest: bytes, digest: str) -> Descriptor:
    """How an index names the attestation `manifest` of the image `digest`."""
    return Descriptor(
        oci.OCI_MANIFEST, oci.sha256(manifest), len(manifest), platform=UNKNOWN,
        annotations={"vnd.docker.reference.digest": digest, "vnd.docker.reference.type": "attestation-manifest"},
    )  # fmt: skip


def _parameters(facts: Facts) -> dict[str, Any]:
    found: dict[str, Any] = {"frontend": "dockerfile.v0", "locals": [{"name": name} for name in facts.contexts]}
    if facts.arguments:
        found["args"] = facts.arguments
    if facts.secrets:
        found["secrets"] = [{"id": name} for name in facts.secrets]
    if facts.ssh:
        found["ssh"] = [{"id": name} for name in facts.ssh]
    return found


def _materials(facts: Facts) -> list[dict[str, Any]]:
    return [{"uri": material.uri, "digest": material.digest} for material in facts.materials]


def _first(facts: Facts) -> dict[str, Any]:
    source = {"uri": facts.source, "digest": facts.source_digest} if facts.source else {}
    found: dict[str, Any] = {
        "builder": {"id": facts.builder},
        "buildType": _BUILD_TYPES["v0.2"],
        "materials": _materials(facts),
        "invocation": {
            "configSource": {**source, "entryPoint": facts.dockerfile},
            "parameters": _parameters(facts),
            "environment": {"platform": facts.platform},
        },
        "metadata": {
            "buildInvocationID": facts.invocation,
            "buildStartedOn": facts.started,
            "buildFinishedOn": facts.finished,
            "completeness": {"parameters": bool(facts.steps), "environment": True, "materials": facts.complete},
            "reproducible": False,
            "https://mobyproject.org/buildkit@v1#metadata": {},
        },
    }
    if facts.steps:
        found["buildConfig"] = {"llbDefinition": facts.steps}
    return found


def _second(facts: Facts) -> dict[str, Any]:
    source = {"uri": facts.source, "digest": facts.source_digest} if facts.source else {}
    internal: dict[str, Any] = {"builderPlatform": facts.platform}
    if facts.steps:
        internal["buildConfig"] = {"llbDefinition": facts.steps}
    return {
        "buildDefinition": {
            "buildType": _BUILD_TYPES["v1"],
            "externalParameters": {
                "configSource": {**source, "path": facts.dockerfile},
                "request": _parameters(facts),
            },
            "internalParameters": internal,
            "resolvedDependencies": _materials(facts),
        },
        "runDetails": {
            "builder": {"id": facts.builder},
            "metadata": {
                "invocationID": facts.invocation,
                "startedOn": facts.started,
                "finishedOn": facts.finished,
                "buildkit_completeness": {
                    "request": bool(facts.steps), "resolvedDependencies": facts.complete,
                },
                "buildkit_metadata": {},
            },
        },
    }  # fmt: skip
