"""ps: the listing, every filter, port."""

from __future__ import annotations

import re
from typing import Any

import docker
import pytest

from tests.support import schema, steps
from tests.support.engines import Engine
from tests.support.rawhttp import Connection


@pytest.fixture
def family(engine: Engine, api: Connection) -> dict[str, str]:
    """Containers in every state: name → ID, oldest first."""
    made = {"created": steps.create(api, "true", name="created", Labels={"role": "db", "team": "x"})}
    made["ended"] = steps.started(api, "sh", "-c", "exit 3", name="ended", Labels={"role": "web"})
    steps.wait(api, made["ended"])
    ports = {"80/tcp": [{"HostIp": "127.0.0.1", "HostPort": "18080"}]}
    host = {"PortBindings": ports, "Binds": ["/tmp:/mnt"], "Tmpfs": {"/scratch": ""}}
    made["up"] = steps.started(
        api, "sleep", "1000", name="up", Labels={"role": "web", "team": "y"}, ExposedPorts={"80/tcp": {}}, host=host
    )
    made["still"] = steps.started(api, "sleep", "1000", name="still")
    api.post("/containers/still/pause")
    return made


def names(api: Connection, filters: dict[str, Any] | None = None, **query: Any) -> list[str]:
    if filters is not None:
        query["filters"] = filters
    return [row["Names"][0][1:] for row in steps.expect(api.get("/containers/json", **query), 200).json()]


def test_running_newest_first(api: Connection, engine: Engine, family: dict[str, str]) -> None:
    assert names(api) == ["still", "up"]
    assert names(api, all=True) == ["still", "up", "ended", "created"]
    assert names(api, limit=1) == ["still"]
    assert names(api, limit=3) == ["still", "up", "ended"]


@pytest.mark.parametrize(
    ("filters", "found"),
    [
        ({"status": ["running"]}, ["up"]),
        ({"status": ["paused"]}, ["still"]),
        ({"status": ["exited"]}, ["ended"]),
        ({"status": ["created", "exited"]}, ["ended", "created"]),
        ({"name": ["ende"]}, ["ended"]),
        ({"name": ["^up$"]}, ["up"]),
        ({"name": ["/up"]}, ["up"]),
        ({"label": ["role"]}, ["up", "ended", "created"]),
        ({"label": ["role=web"]}, ["up", "ended"]),
        ({"label": ["role=web", "team=y"]}, ["up"]),
        ({"exited": ["3"]}, ["ended"]),
        ({"exited": ["0"]}, []),
        ({"ancestor": ["bb"]}, ["still", "up", "ended", "created"]),
        ({"ancestor": ["bb:latest"]}, ["still", "up", "ended", "created"]),
        ({"ancestor": ["nothing"]}, []),
        ({"before": ["up"]}, ["ended", "created"]),
        ({"since": ["ended"]}, ["still", "up"]),
        ({"publish": ["18080"]}, ["up"]),
        ({"publish": ["18080/tcp"]}, ["up"]),
        ({"publish": ["18080/udp"]}, []),
        ({"publish": ["18070-18090/tcp"]}, ["up"]),
        ({"expose": ["80"]}, ["up"]),
        ({"expose": ["80-81/tcp"]}, ["up"]),
        ({"volume": ["/mnt"]}, ["up"]),
        ({"volume": ["/tmp"]}, ["up"]),
        ({"volume": ["/nowhere"]}, []),
        ({"network": ["bridge"]}, ["still", "up", "ended", "created"]),
        ({"network": ["nonet"]}, []),
        ({"health": ["none"]}, ["still", "up", "ended", "created"]),
        ({"is-task": ["false"]}, ["still", "up", "ended", "created"]),
        ({"status": {"paused": True}}, ["still"]),  # the older form
    ],
    ids=lambda value: str(value).replace("'", "") if isinstance(value, dict) else "",
)
def test_filters(engine: Engine, api: Connection, family: dict[str, str], filters: Any, found: list[str]) -> None:
    assert names(api, filters, all=True) == found


def test_filter_by_id(engine: Engine, api: Connection, family: dict[str, str]) -> None:
    assert names(api, {"id": [family["up"][:10]]}, all=True) == ["up"]
    assert names(api, {"id": [family["up"]]}, all=True) == ["up"]


def test_filter_by_the_id_of_a_network(engine: Engine, api: Connection, family: dict[str, str]) -> None:
    """Also of those that do not run (Docker: that have run)."""
    (network,) = (each["Id"] for each in api.get("/networks").json() if each["Name"] == "bridge")
    for wanted in (network, network[:12]):
        assert {"still", "up", "ended"} <= set(names(api, {"network": [wanted]}, all=True))
    assert names(api, {"network": ["0" * 64]}, all=True) == []


@pytest.mark.parametrize(
    "filters",
    [{"nonsense": ["x"]}, {"status": ["flying"]}, {"exited": ["x"]}, {"before": ["nobody"]}, {"health": ["so-so"]}],
)
def test_bad_filters(engine: Engine, api: Connection, filters: dict[str, list[str]]) -> None:
    answer = api.get("/containers/json", filters=filters)
    value = next(iter(filters.values()))[0]
    assert answer.status == (404 if value == "nobody" else 400) or engine.name == "dockerd"
    assert next(iter(filters)) in answer.message or value in answer.message


def test_malformed_filters(engine: Engine, api: Connection) -> None:
    assert api.get("/containers/json", filters="{not json").status == (500 if engine.name == "dockerd" else 400)


def test_a_row(engine: Engine, api: Connection, family: dict[str, str]) -> None:
    row = api.get("/containers/json", filters={"name": ["up"]}).json()[0]
    assert (row["Id"], row["Names"], row["Image"], row["Command"]) == (family["up"], ["/up"], "bb:latest", "sleep 1000")
    assert (row["State"], row["Labels"]) == ("running", {"role": "web", "team": "y"})
    assert re.fullmatch(r"Up (Less than a second|\d+ seconds?)", row["Status"])
    assert row["Ports"] == [{"IP": "127.0.0.1", "PrivatePort": 80, "PublicPort": 18080, "Type": "tcp"}]
    assert row["HostConfig"]["NetworkMode"] in ("default", "bridge")
    assert row["NetworkSettings"]["Networks"]["bridge"]["IPAddress"].startswith("10.231.")
    mount = next(mount for mount in row["Mounts"] if mount["Type"] == "bind")
    assert (mount["Source"], mount["Destination"], mount["RW"]) == ("/tmp", "/mnt", True)
    ended = api.get("/containers/json", all=True, filters={"name": ["ended"]}).json()[0]
    assert re.fullmatch(r"Exited \(3\) (Less than a second|\d+ seconds?) ago", ended["Status"])
    assert api.get("/containers/json", all=True, filters={"name": ["created"]}).json()[0]["Status"] == "Created"


@pytest.mark.dockyardd_only("20.10 has older fields")
def test_rows_follow_the_specification(engine: Engine, api: Connection, family: dict[str, str]) -> None:
    rows = api.get("/containers/json", all=True).json()
    assert not schema.problems(rows, schema.response_schema("GET /containers/json"))


def test_size(engine: Engine, api: Connection) -> None:
    identifier = steps.started(api, "sh", "-c", "head -c 50000 /dev/zero > /data/x")
    steps.wait(api, identifier)
    row = api.get("/containers/json", all=True, size=True).json()[0]
    assert 50_000 <= row["SizeRw"] < 200_000
    assert row["SizeRootFs"] > row["SizeRw"] + 500_000
    found = api.get(f"/containers/{identifier}/json", size=True).json()
    assert found["SizeRw"] == row["SizeRw"]


def test_cli(engine: Engine, family: dict[str, str]) -> None:
    assert engine.out("ps", "-q", "--no-trunc").split() == [family["still"], family["up"]]
    assert engine.out("ps", "-aq", "--no-trunc", "-f", "status=exited") == family["ended"]
    assert engine.out("ps", "-lq", "--no-trunc") == family["still"]
    assert engine.out("ps", "-a", "-n", "2", "--format", "{{.Names}}").split() == ["still", "up"]
    assert "127.0.0.1:18080->80/tcp" in engine.out("ps", "--format", "{{.Ports}}")
    table = engine.out("ps", "-a", "-s")
    assert table.split("\n")[0].split()[:2] == ["CONTAINER", "ID"] and "virtual" in table


def test_port(engine: Engine, family: dict[str, str]) -> None:
    assert engine.out("port", "up") == "80/tcp -> 127.0.0.1:18080"
    assert engine.out("port", "up", "80") == "127.0.0.1:18080"
    assert engine.docker("port", "up", "81", check=False).returncode == 1


def test_docker_py(client: docker.DockerClient, engine: Engine, family: dict[str, str]) -> None:
    assert [c.name for c in client.containers.list()] == ["still", "up"]
    assert [c.name for c in client.containers.list(all=True, filters={"label": "team"})] == ["up", "created"]


def test_descendants_of_an_image(engine: Engine, api: Connection) -> None:
    """Containers of images that were made on top of it."""
    steps.create(api, "true", name="old")
    engine.docker("commit", "old", "young:1")
    try:
        engine.docker("create", "--name", "new1", "young:1", "true")
        engine.docker("commit", "-c", "LABEL a=b", "new1", "young:2")
        engine.docker("create", "--name", "new2", "young:2", "true")
        assert names(api, all=True, filters={"ancestor": ["bb"]}) == ["new2", "new1", "old"]
        assert names(api, all=True, filters={"ancestor": ["young:1"]}) == ["new2", "new1"]
        assert names(api, all=True, filters={"ancestor": ["young:2"]}) == ["new2"]
    finally:
        engine.remove_containers()
        engine.docker("rmi", "young:2", "young:1")
