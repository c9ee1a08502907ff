"""CDI: specifications, their precedence, requests for devices. Made-up vendors."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from dockyard.model.container import DeviceRequest
from dockyard.model.errors import InvalidArgument
from dockyard.proto import cdi

NODE = {"deviceNodes": [{"path": "/dev/thing0"}]}
SPEC: dict[str, Any] = {
    "cdiVersion": "0.5.0",
    "kind": "vendor.com/thing",
    "containerEdits": {"env": ["COMMON=1"]},
    "devices": [
        {"name": "0", "containerEdits": NODE},
        {"name": "both", "containerEdits": {"env": ["BOTH=1"]}},
    ],
}


TYPED = {"hostPath": "/", "containerPath": "/x", "type": "bind"}


def found(path: str, priority: int = 0, **changes: Any) -> cdi.Found:
    return cdi.Found(path, priority, cdi.convert({**SPEC, **changes}))


def device(name: str, **edits: Any) -> dict[str, Any]:
    return {"name": name, "containerEdits": edits or {"env": ["A=b"]}}


def test_a_specification_is_read_and_its_own_edits_come_first_and_once() -> None:
    catalog = cdi.Catalog.make([found("a.json")])
    assert sorted(catalog.devices) == ["vendor.com/thing=0", "vendor.com/thing=both"]
    edits = catalog.edits(["vendor.com/thing=both", "vendor.com/thing=0", "vendor.com/thing=both"])
    assert [each.env for each in edits] == [["COMMON=1"], ["BOTH=1"], []]
    assert edits[2].device_nodes[0].path == "/dev/thing0"


@pytest.mark.parametrize("version", ["0.3.0", "0.4.0", "0.5.0", "0.6.0", "0.7.0", "0.8.0", "1.0.0"])
def test_versions(version: str) -> None:
    assert cdi.convert({**SPEC, "cdiVersion": version, "devices": [device("a")]}).cdi_version == version


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"cdiVersion": "0.9.0"}, 'unknown cdiVersion "0.9.0"'),
        ({"cdiVersion": 1}, "Expected `str`"),
        ({"kind": "thing"}, 'invalid kind "thing"'),
        ({"kind": "-x.com/thing"}, "invalid kind"),
        ({"devices": []}, "no devices"),
        ({"devices": [{"name": "a"}]}, "containerEdits"),
        ({"devices": [{"name": "a", "containerEdits": {}}]}, 'device "a" has no edits'),
        ({"devices": [device("a"), device("a")]}, 'device "a" is there twice'),
        ({"devices": [device("a/b")]}, 'invalid device name "a/b"'),
        ({"devices": [device("a", env=["=x"])]}, "invalid environment variable"),
        ({"devices": [device("a", env=["SECRET"])]}, 'device "a": invalid environment variable "SECRET"'),
        ({"devices": [device("a", deviceNodes=[{"path": "thing"}])]}, "an absolute path is needed"),
        ({"devices": [device("a", deviceNodes=[{"path": "/dev/x", "type": "z"}])]}, 'invalid type "z"'),
        ({"devices": [device("a", deviceNodes=[{"path": "/dev/x", "permissions": "rx"}])]}, 'permissions "rx"'),
        ({"devices": [device("a", mounts=[{"hostPath": "/x", "containerPath": "x"}])]}, "absolute containerPath"),
        ({"devices": [device("a", hooks=[{"hookName": "never", "path": "/x"}])]}, 'unknown hook "never"'),
        ({"devices": [device("a", hooks=[{"hookName": "poststop", "path": "x"}])]}, "no absolute path"),
        ({"unknown": 1}, "unknown"),
        ({"annotations": {"a": "b"}}, "0.6.0 has"),
        ({"devices": [device("a", additionalGids=[5])]}, "0.7.0 has"),
        ({"cdiVersion": "0.4.0"}, "0.5.0 has"),
        ({"cdiVersion": "0.3.0", "devices": [device("a", mounts=[TYPED])]},
         "0.4.0 has"),
    ],
)  # fmt: skip
def test_what_cannot_be_used(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(cdi.SpecError) as caught:
        cdi.convert({**copy.deepcopy(SPEC), **changes})
    assert said in str(caught.value)


def test_the_later_directory_comes_first_and_a_conflict_in_one_takes_the_device_away() -> None:
    low = found("low", 0, devices=[device("a", env=["FROM=low"]), device("b")])
    high = found("high", 1, devices=[device("a", env=["FROM=high"])])
    catalog = cdi.Catalog.make([high, low])
    assert catalog.edits(["vendor.com/thing=a"])[1].env == ["FROM=high"]
    assert "vendor.com/thing=b" in catalog.devices and not catalog.problems
    catalog = cdi.Catalog.make([low, found("twin", 0, devices=[device("a"), device("c")])])
    assert sorted(catalog.devices) == ["vendor.com/thing=b", "vendor.com/thing=c"]
    assert catalog.problems == ["conflicting device vendor.com/thing=a: low, twin"]


def test_devices_that_are_not_there() -> None:
    catalog = cdi.Catalog.make([found("a")], ["/etc/cdi/bad.json: broken"])
    with pytest.raises(InvalidArgument) as caught:
        catalog.edits(["vendor.com/thing=9", "vendor.com/thing=0", "x.com/y=z"])
    text = "CDI device injection failed: unresolvable CDI devices vendor.com/thing=9, x.com/y=z"
    assert str(caught.value) == f"{text}; /etc/cdi/bad.json: broken"


GPUS = cdi.Catalog.make(
    [found("n", kind="nvidia.com/gpu", devices=[device(n) for n in ("10", "2", "0", "all")]),
     found("a", kind="amd.com/gpu", devices=[device(n) for n in ("0", "1")])]
)  # fmt: skip
AMD = cdi.Catalog.make([found("a", kind="amd.com/gpu", devices=[device(n) for n in ("0", "1")])])


@pytest.mark.parametrize(
    ("catalog", "request_", "names"),
    [
        (GPUS, DeviceRequest(count=-1, capabilities=[["gpu"]]), ["nvidia.com/gpu=all"]),
        (GPUS, DeviceRequest(count=2, capabilities=[["gpu"]]), ["nvidia.com/gpu=0", "nvidia.com/gpu=2"]),
        (GPUS, DeviceRequest(device_ids=["2", "GPU-1"], capabilities=[["gpu", "utility"]]),
         ["nvidia.com/gpu=2", "nvidia.com/gpu=GPU-1"]),
        (GPUS, DeviceRequest(driver="nvidia", count=1, capabilities=[["tpu"], ["gpu"]]), ["nvidia.com/gpu=0"]),
        (GPUS, DeviceRequest(driver="amd", count=-1, capabilities=[["gpu"]]), ["amd.com/gpu=0", "amd.com/gpu=1"]),
        (AMD, DeviceRequest(count=-1, capabilities=[["gpu"]]), ["amd.com/gpu=0", "amd.com/gpu=1"]),
        (AMD, DeviceRequest(driver="cdi", device_ids=["amd.com/gpu=1"]), ["amd.com/gpu=1"]),
    ],
)  # fmt: skip
def test_requests(catalog: cdi.Catalog, request_: DeviceRequest, names: list[str]) -> None:
    assert cdi.wanted([request_], catalog) == names


@pytest.mark.parametrize(
    ("catalog", "request_", "said"),
    [
        (None, DeviceRequest(driver="cdi", device_ids=["a.b/c=d"]), 'could not select device driver "cdi" with'),
        (cdi.Catalog({}, []), DeviceRequest(count=-1, capabilities=[["gpu"]]),
         'could not select device driver "" with capabilities: [[gpu]]'),
        (GPUS, DeviceRequest(count=-1, capabilities=[["gpu", "tpu"]]), "with capabilities: [[gpu tpu]]"),
        (GPUS, DeviceRequest(count=-1), 'driver "" with capabilities: []'),
        (AMD, DeviceRequest(driver="nvidia", count=-1, capabilities=[["gpu"]]), 'driver "nvidia" with'),
        (AMD, DeviceRequest(count=3, capabilities=[["gpu"]]), "there are 2"),
        (AMD, DeviceRequest(driver="cdi", count=1, device_ids=["amd.com/gpu=1"]), "unexpected count in CDI"),
        (AMD, DeviceRequest(driver="cdi", options={"a": "b"}), "unexpected options in CDI"),
    ],
)  # fmt: skip
def test_requests_that_cannot_be(catalog: cdi.Catalog | None, request_: DeviceRequest, said: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        cdi.wanted([request_], catalog)
    assert said in str(caught.value)
