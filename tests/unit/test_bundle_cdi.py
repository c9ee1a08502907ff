"""CDI in bundles: the files on a host, and what of them is in a configuration."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import yaml

from dockyard.model.container import ContainerConfig, DeviceRequest, HostConfig
from dockyard.model.errors import InvalidArgument
from dockyard.runtime.bundle import Bundler
from dockyard.runtime.bundle.cdi import Devices
from tests.support.oci_schema import check_config
from tests.unit.test_bundle import HOST, mount, spec

EDITS: dict[str, Any] = {
    "env": ["DEVICE=full", "PATH=/vendor/bin"],
    "deviceNodes": [
        {"path": "/dev/thing", "hostPath": "/dev/full", "permissions": "rw"},
        {"path": "/dev/made", "type": "c", "major": 240, "minor": 7, "fileMode": 0o600, "uid": 3, "gid": 4},
        {"path": "/dev/fifo", "type": "p"},
    ],
    "mounts": [
        {"hostPath": "/usr", "containerPath": "/vendor/", "options": ["ro", "nosuid", "bind"]},
        {"hostPath": "/etc", "containerPath": "/dev/shm", "type": "bind"},
    ],
    "additionalGids": [0, 44, 44],
}


def document(edits: dict[str, Any], kind: str = "vendor.com/thing", version: str = "0.7.0") -> dict[str, Any]:
    return {"cdiVersion": version, "kind": kind, "devices": [{"name": "full", "containerEdits": edits}]}


def asking(*names: str) -> HostConfig:
    return HostConfig(device_requests=[DeviceRequest(driver="cdi", device_ids=list(names))])


@pytest.fixture
def bundler(tmp_path: Path) -> Bundler:
    (tmp_path / "thing.yaml").write_text(yaml.safe_dump(document(EDITS)))
    return Bundler(HOST, cdi_devices=Devices([str(tmp_path)]))


@pytest.mark.parametrize("user", ["", "7:8"])
def test_every_edit_is_in_the_configuration(bundler: Bundler, user: str) -> None:
    bundle = bundler.make(spec(ContainerConfig(user=user, env=["DEVICE=own"]), asking("vendor.com/thing=full")))
    check_config(bundle.config)
    check_config(bundle.document())
    process, linux = bundle.config["process"], bundle.config["linux"]
    assert process["env"][0] == "PATH=/vendor/bin" and process["env"][-1] == "DEVICE=full"
    devices = {device.pop("path"): device for device in linux["devices"]}
    status = os.stat("/dev/full")
    owner = {"uid": 7, "gid": 8} if user else {"uid": 0, "gid": 0}
    assert devices["/dev/thing"] == {"type": "c", "major": 1, "minor": 7, "fileMode": status.st_mode & 0o777, **owner}
    assert devices["/dev/made"] == {"type": "c", "major": 240, "minor": 7, "fileMode": 0o600, "uid": 3, "gid": 4}
    assert devices["/dev/fifo"] == {"type": "p", **owner}
    assert linux["resources"]["devices"][-2:] == [
        {"allow": True, "type": "c", "major": 1, "minor": 7, "access": "rw"},
        {"allow": True, "type": "c", "major": 240, "minor": 7, "access": "rwm"},
    ]
    assert mount(bundle, "/vendor")["options"] == ["ro", "nosuid", "bind"]
    assert mount(bundle, "/dev/shm") == {
        "destination": "/dev/shm", "type": "bind", "source": "/etc", "options": ["rbind"],
    }  # fmt: skip
    assert process["user"]["groupAdd"] == ["44"]
    assert process["user"].get("additionalGids") == ([8, 44] if user else None)


def test_an_exec_is_as_without(bundler: Bundler) -> None:
    before = bundler.make(spec(None, HostConfig())).config
    bundler.make(spec(None, asking("vendor.com/thing=full")))
    assert bundler.make(spec(None, HostConfig())).config == before


@pytest.mark.parametrize(
    ("edits", "said"),
    [
        ({"deviceNodes": [{"path": "/dev/none-such"}]}, "failed to stat CDI host device /dev/none-such: no such file"),
        ({"deviceNodes": [{"path": "/dev/full", "type": "b"}]}, "CDI host device /dev/full is not what is asked for"),
        ({"deviceNodes": [{"path": "/etc/passwd"}]}, "CDI host device /etc/passwd is not"),
        ({"intelRdt": {"closID": "x"}}, "intelRdt is not supported"),
    ],
)
def test_edits_that_cannot_be(tmp_path: Path, edits: dict[str, Any], said: str) -> None:
    (tmp_path / "a.json").write_text(json.dumps(document(edits)))
    with pytest.raises(InvalidArgument, match=said):
        Bundler(HOST, cdi_devices=Devices([str(tmp_path)])).make(spec(None, asking("vendor.com/thing=full")))


def test_what_is_asked_for_is_looked_up_at_creation(bundler: Bundler) -> None:
    bundler.validate(ContainerConfig(), asking("vendor.com/thing=full"))
    with pytest.raises(InvalidArgument, match=r"unresolvable CDI devices vendor\.com/thing=none"):
        bundler.validate(ContainerConfig(), asking("vendor.com/thing=none"))


def test_bad_files_are_told_by_name_and_leave_the_others_usable(tmp_path: Path) -> None:
    low, high = tmp_path / "etc", tmp_path / "run"
    low.mkdir()
    (low / "good.json").write_text(json.dumps(document({"env": ["FROM=low"]})))
    (low / "broken.json").write_text("{")
    (low / "broken.yaml").write_text("a: [")
    (low / "list.yaml").write_text("[]")
    (low / "deep.json").write_text("[" * 100_000)
    (low / "ignored.txt").write_text("{")
    (low / "gone.json").symlink_to(low / "nowhere")
    os.mkfifo(low / "fifo.json")
    devices = Devices([str(low), str(high)])
    catalog = devices.catalog()
    assert list(catalog.devices) == ["vendor.com/thing=full"]
    named = {problem.partition(": ")[0].rpartition("/")[2] for problem in catalog.problems}
    assert named == {"broken.json", "broken.yaml", "list.yaml", "deep.json", "gone.json", "fifo.json"}
    assert not any("\n" in problem for problem in catalog.problems)
    high.mkdir()  # it comes later, is seen, and comes first
    (high / "good.yaml").write_text(yaml.safe_dump(document({"env": ["FROM=high"]})))
    requests = asking("vendor.com/thing=full").device_requests or []
    assert devices.edits(requests)[-1].env == ["FROM=high"]
    (high / "good.yaml").write_text(yaml.safe_dump(document({"env": ["FROM=changed"]})))
    assert devices.edits(requests)[-1].env == ["FROM=changed"]
    (high / "good.yaml").unlink()
    assert devices.edits(requests)[-1].env == ["FROM=low"]
