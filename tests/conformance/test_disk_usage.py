"""`system df`, and what `inspect` says of a container's ground."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.support import schema, steps
from tests.support.engines import Engine
from tests.support.rawhttp import Connection

MEGABYTE = 1 << 20


def test_everything_is_counted(engine: Engine, api: Connection) -> None:
    script = "head -c 1048576 /dev/zero > /big; head -c 2097152 /dev/zero > /data/big; sleep 1000"
    name = steps.started(api, "sh", "-c", script, Volumes={"/data": {}})
    steps.eventually(lambda: sizes(api, name)[1] == 2 * MEGABYTE)
    usage = steps.expect(api.get("/system/df"), 200).json()
    image = next(entry for entry in usage["Images"] if entry["RepoTags"] == ["bb:latest"])
    assert image["Containers"] == 1
    assert 0 < image["Size"] <= usage["LayersSize"]
    assert 0 <= image["SharedSize"] <= image["Size"]
    assert sizes(api, name)[0] == MEGABYTE
    container = next(entry for entry in usage["Containers"] if entry["Id"] == name)
    assert container["SizeRootFs"] == container["SizeRw"] + image["Size"]
    volume = usage["Volumes"][0]
    assert (volume["Driver"], volume["Scope"]) == ("local", "local")
    assert volume["Mountpoint"] == steps.inspect(api, name)["Mounts"][0]["Source"]
    assert volume["UsageData"] == {"RefCount": 1, "Size": 2 * MEGABYTE}
    assert usage["BuildCache"] in ([], None)


def sizes(api: Connection, name: str) -> tuple[int, int]:
    """Bytes of the writable layer, and of the only volume."""
    usage = api.get("/system/df").json()
    found = next(entry for entry in usage["Containers"] if entry["Id"] == name)
    return int(found.get("SizeRw") or 0), int(usage["Volumes"][0]["UsageData"]["Size"])


def test_a_volume_outlives_its_container(engine: Engine, api: Connection) -> None:
    name = steps.create(api, "true", Volumes={"/data": {}})
    assert api.delete(f"/containers/{name}").status == 204
    left = api.get("/system/df").json()["Volumes"]
    assert [volume["UsageData"]["RefCount"] for volume in left] == [0]


@pytest.mark.dockyardd_only("20.10 knows no types")
def test_by_type(engine: Engine, api: Connection) -> None:
    steps.create(api, "true")
    usage = steps.expect(api.get("/system/df?type=container&type=volume"), 200).json()
    assert (usage["Images"], usage["BuildCache"]) == (None, None)
    assert len(usage["Containers"]) == 1
    assert isinstance(usage["Volumes"], list)
    everything = api.get("/system/df").json()
    assert isinstance(everything.pop("BlobsSize", 0), int)  # an addition of ours (docs/images.md)
    assert not schema.problems(everything, schema.response_schema("GET /system/df"))
    assert steps.expect(api.get("/system/df?type=moons"), 400).message == "unknown object type: moons"


def test_cli(engine: Engine, api: Connection) -> None:
    name = steps.create(api, "true", name="measured", Volumes={"/data": {}})
    lines = engine.out("system", "df", "--format", "{{.Type}}={{.TotalCount}}/{{.Active}}").splitlines()
    assert {"Images=1/1", "Containers=1/0", "Build Cache=0/0"} <= set(lines)
    text = engine.out("system", "df", "-v")
    volume = steps.inspect(api, name)["Mounts"][0]["Name"]
    assert "measured" in text and volume in text and "bb" in text


def test_an_overlay_tells_its_directories(engine: Engine, api: Connection) -> None:
    name = steps.started(api, "sh", "-c", "echo here > /mark; sleep 1000")
    body = steps.inspect(api, name)
    if body["GraphDriver"]["Name"] not in ("overlay", "overlay2"):
        pytest.skip(f"the driver is {body['GraphDriver']['Name']}")
    data = body["GraphDriver"]["Data"]
    assert set(data) == {"LowerDir", "UpperDir", "WorkDir", "MergedDir"}
    steps.eventually(lambda: Path(data["UpperDir"], "mark").exists())
    assert os.path.isdir(data["WorkDir"]) and all(map(os.path.isdir, data["LowerDir"].split(":")))
    if engine.name == "dockyardd":  # Docker's is mounted in a namespace of its own
        assert Path(data["MergedDir"], "mark").read_text() == "here\n"


def test_hidden_paths_are_told(engine: Engine, api: Connection) -> None:
    host = steps.inspect(api, steps.create(api, "true"))["HostConfig"]
    assert {"/proc/kcore", "/proc/keys", "/sys/firmware"} <= set(host["MaskedPaths"])
    assert {"/proc/sys", "/proc/sysrq-trigger"} <= set(host["ReadonlyPaths"])
    host = steps.inspect(api, steps.create(api, "true", host={"Privileged": True}))["HostConfig"]
    assert host["MaskedPaths"] is None and host["ReadonlyPaths"] is None
    host = steps.inspect(api, steps.create(api, "true", host={"MaskedPaths": ["/proc/keys"], "ReadonlyPaths": []}))[
        "HostConfig"
    ]
    assert (host["MaskedPaths"], host["ReadonlyPaths"]) == (["/proc/keys"], [])


def test_no_address_of_ones_own_on_the_default_bridge(engine: Engine, api: Connection) -> None:
    done = engine.docker("run", "--name", "addressed", "--ip", "172.17.0.77", "bb", "true", check=False)
    assert done.returncode == 125
    assert b"user specified IP address is supported on user defined networks only" in done.stderr
    assert api.get("/containers/addressed/json").status == (404 if engine.name == "dockyardd" else 200)


@pytest.mark.dockyardd_only("needs to know the bridge's address")
@pytest.mark.parametrize("mode", ["bridge", "none", "host"])
def test_host_gateway(engine: Engine, api: Connection, mode: str) -> None:
    text = steps.sh(api, "cat /etc/hosts", host={"ExtraHosts": ["gate:host-gateway"], "NetworkMode": mode})
    assert f"{engine.gateway}\tgate" in text  # type: ignore[attr-defined]


@pytest.mark.dockyardd_only("it says nothing of firewalls")
def test_what_stands_in_the_firewall_is_told(engine: Engine, api: Connection) -> None:
    """A forward chain that drops gets an accept from us, and whoever asks is told."""
    for command in (
        "add table ip foreign",
        "add chain ip foreign FORWARD { type filter hook forward priority 0; policy drop; }",
    ):
        engine.in_network("nft", *command.split(" ", 2))
    try:
        warnings = steps.eventually(lambda: [w for w in api.get("/info").json()["Warnings"] or () if "foreign" in w])
        assert "drops forwarded packets" in warnings[0]
        assert warnings[0] in engine.docker("info").stderr.decode()
    finally:
        engine.in_network("nft", "delete", "table", "ip", "foreign")
