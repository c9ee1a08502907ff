"""OCI documents: what is taken, what is refused."""

from __future__ import annotations

import msgspec
import pytest

from dockyard.model import oci
from dockyard.model.container import ContainerConfig, HealthConfig
from dockyard.model.errors import InvalidArgument

D = "sha256:" + "a" * 64


@pytest.mark.parametrize(
    "text",
    ["", "sha256:", "sha256:" + "A" * 64, "sha256:" + "a" * 63, "sha256:" + "a" * 65, "../" + "a" * 64,
     "sha256:../../../../etc/passwd", D + "\n", "sha256:" + "a" * 32 + "/" + "a" * 31, "sha512:" + "a" * 64],
)  # fmt: skip
def test_s31_digests_are_checked_before_they_become_paths(text: str) -> None:
    with pytest.raises(InvalidArgument, match="invalid digest"):
        oci.check_digest(text)


def test_chain_ids() -> None:
    assert oci.chain_id(D, None) == D
    # echo -n "sha256:aaaa… sha256:aaaa…" | sha256sum
    assert oci.chain_id(D, D) == oci.sha256(f"{D} {D}".encode())


CONFIG = {"mediaType": oci.OCI_CONFIG, "digest": D, "size": 1}


@pytest.mark.parametrize(
    "document",
    [
        {"schemaVersion": 2, "config": CONFIG, "layers": [], "manifests": []},
        {"schemaVersion": 2, "layers": [], "manifests": []},
        {"schemaVersion": 2, "mediaType": oci.OCI_INDEX, "config": CONFIG, "layers": []},
        {"schemaVersion": 2, "mediaType": oci.OCI_MANIFEST, "manifests": []},
        {"schemaVersion": 2},
        {"schemaVersion": 2, "config": {**CONFIG, "digest": "sha256:../x"}},
        {"schemaVersion": 2, "config": {**CONFIG, "size": -1}},
        {"schemaVersion": 2, "config": CONFIG, "layers": {}},
        [],
    ],
)
def test_s32_documents_that_are_two_things_or_none(document: object) -> None:
    with pytest.raises(InvalidArgument, match="manifest X"):
        oci.parse_manifest(msgspec.json.encode(document), "manifest X")


def test_configurations_of_old_images() -> None:
    document = {
        "created": "2020-01-01T00:00:00Z",
        "architecture": "amd64",
        "os": "linux",
        "config": {"Env": None, "Cmd": "echo hi", "Entrypoint": None, "Labels": None, "ExposedPorts": {"80/tcp": {}}},
        "rootfs": {"type": "layers", "diff_ids": None},
        "history": None,
        "container_config": {"Hostname": "x"},
    }
    image = oci.parse_config(msgspec.json.encode(document), "config X")
    found = oci.run_config(image)
    assert (found.cmd, found.env, found.exposed_ports) == (["echo hi"], None, {"80/tcp": {}})


@pytest.mark.parametrize(
    "document",
    [b"", b"null", b"[]", b"{", b'{"config": 5}', b'{"config": {"Env": 5}}', b'{"rootfs": {"type": "other"}}',
     b'{"rootfs": {"type": "layers", "diff_ids": ["x"]}}', b"\xff", b"[" * 100_000],
)  # fmt: skip
def test_broken_configurations(document: bytes) -> None:
    with pytest.raises(InvalidArgument, match="config X"):
        oci.parse_config(document, "config X")


def test_too_many_layers() -> None:
    document = {"rootfs": {"type": "layers", "diff_ids": [D] * 129}}
    with pytest.raises(InvalidArgument, match="max depth exceeded"):
        oci.parse_config(msgspec.json.encode(document), "config X")


def test_a_configuration_comes_back_as_it_was_written() -> None:
    config = ContainerConfig(
        cmd=["sh"], env=["A=1"], on_build=["RUN x"], stop_timeout=0, labels={"a": "b"},
        healthcheck=HealthConfig(test=["CMD", "x"], start_period=5),
    )  # fmt: skip
    document = oci.config_document(config)
    assert document["Healthcheck"] == {"Test": ["CMD", "x"], "StartPeriod": 5}
    assert oci.run_config(oci.ImageConfig(config=document)) == config
