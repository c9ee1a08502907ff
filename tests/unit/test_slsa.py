"""Provenance statements: SLSA's two forms, the documents around them."""

from __future__ import annotations

import hashlib
import json

import pytest

from dockyard.model import oci
from dockyard.proto import slsa
from dockyard.proto.slsa import Facts, Material

FACTS = Facts(
    platform="linux/arm64", builder="https://ci/1", invocation="abc", started="2024-01-01T00:00:00Z",
    finished="2024-01-01T00:00:09Z", source="https://h/r.git#main", source_digest={"sha1": "12"}, dockerfile="D",
    arguments={}, contexts=[], secrets=[], ssh=[], steps=[], materials=[Material("pkg:docker/a@1", {"sha256": "ab"})],
    complete=True,
)  # fmt: skip
MOST = FACTS._replace(arguments={"build-arg:A": "b"}, secrets=["s"], ssh=["default"], steps=[{"id": "step0"}])


def test_version_0_2() -> None:
    least, most = slsa.predicate(FACTS, "v0.2"), slsa.predicate(MOST, "v0.2")
    assert least["builder"] == {"id": "https://ci/1"} and least["buildType"] == "https://mobyproject.org/buildkit@v1"
    source = {"uri": "https://h/r.git#main", "digest": {"sha1": "12"}, "entryPoint": "D"}
    assert least["invocation"]["configSource"] == source
    assert least["invocation"]["parameters"] == {"frontend": "dockerfile.v0", "locals": []}
    assert least["materials"] == [{"uri": "pkg:docker/a@1", "digest": {"sha256": "ab"}}]
    assert least["metadata"]["completeness"] == {"parameters": False, "environment": True, "materials": True}
    assert "buildConfig" not in least and most["buildConfig"] == {"llbDefinition": [{"id": "step0"}]}
    assert most["invocation"]["parameters"]["args"] == {"build-arg:A": "b"}
    assert most["invocation"]["parameters"]["secrets"] == [{"id": "s"}]


def test_version_1() -> None:
    most = slsa.predicate(MOST, "v1")
    definition, run = most["buildDefinition"], most["runDetails"]
    assert definition["externalParameters"]["configSource"]["path"] == "D"
    assert definition["externalParameters"]["request"]["ssh"] == [{"id": "default"}]
    assert definition["internalParameters"]["builderPlatform"] == "linux/arm64"
    assert definition["resolvedDependencies"] == [{"uri": "pkg:docker/a@1", "digest": {"sha256": "ab"}}]
    assert run["metadata"]["startedOn"] < run["metadata"]["finishedOn"] and run["builder"]["id"] == "https://ci/1"


def test_the_documents_name_each_other() -> None:
    about = "sha256:" + "7" * 64
    data = slsa.statement(slsa.predicate(FACTS, "v1"), "v1", ["pkg:docker/a@1"], about)
    statement = json.loads(data)
    assert statement["_type"].startswith("https://in-toto.io/Statement/")
    assert statement["subject"] == [{"name": "pkg:docker/a@1", "digest": {"sha256": "7" * 64}}]
    text, config = slsa.manifest(data, "v1")
    manifest = oci.parse_manifest(text, "attestation")
    assert manifest.layers is not None and manifest.layers[0].digest == f"sha256:{hashlib.sha256(data).hexdigest()}"
    assert manifest.config is not None and manifest.config.digest == f"sha256:{hashlib.sha256(config).hexdigest()}"
    oci.parse_config(config, "attestation's configuration")
    descriptor = slsa.descriptor(text, about)
    assert oci.is_attestation(descriptor) and descriptor.size == len(text)
    assert (descriptor.annotations or {})["vnd.docker.reference.digest"] == about


@pytest.mark.parametrize(
    ("name", "tag", "shown"),
    [
        ("alpine", "3.19", "pkg:docker/alpine@3.19?platform=linux%2Farm%2Fv7"),
        ("host:5000/a/b", "", "pkg:docker/host%3A5000/a/b?platform=linux%2Farm%2Fv7"),
    ],
)
def test_package_urls(name: str, tag: str, shown: str) -> None:
    assert slsa.image_url(name, tag, "linux/arm/v7") == shown
