"""events: what is told, in which order, filters, since and until."""

from __future__ import annotations

import json
import threading
import time
from typing import Any

import docker
import pytest

from tests.support import schema, steps
from tests.support.engines import Engine
from tests.support.rawhttp import Connection


def events(api: Connection, since: float, **query: Any) -> list[dict[str, Any]]:
    return api.get("/events", since=f"{since:.9f}", until=f"{time.time():.9f}", **query).lines()


def actions(found: list[dict[str, Any]], kind: str = "container") -> list[str]:
    return [event["Action"] for event in found if event["Type"] == kind]


def test_a_containers_life(engine: Engine, api: Connection) -> None:
    since = time.time()
    identifier = steps.started(api, "true", name="lived", Labels={"colour": "red"})
    steps.wait(api, identifier)
    steps.eventually(lambda: "die" in actions(events(api, since)))
    steps.remove(api, identifier)
    found = steps.eventually(lambda: events(api, since), lambda f: "destroy" in actions(f))
    assert actions(found) == ["create", "start", "die", "destroy"]
    assert set(actions(found, "network")) == {"connect", "disconnect"}
    die = next(event for event in found if event["Action"] == "die")
    assert die["Actor"]["ID"] == identifier and die["scope"] == "local"
    attributes = die["Actor"]["Attributes"]
    assert (attributes["name"], attributes["image"], attributes["colour"]) == ("lived", "bb:latest", "red")
    assert attributes["exitCode"] == "0"
    assert die["timeNano"] // 1_000_000_000 == die["time"]
    assert [event["timeNano"] for event in found] == sorted(event["timeNano"] for event in found)


@pytest.mark.dockyardd_only("20.10 also sends the fields of API 1.21")
def test_events_follow_the_specification(engine: Engine, api: Connection) -> None:
    since = time.time()
    steps.create(api, "true")
    for event in events(api, since):
        extra = {"status", "id", "from"}
        trimmed = {name: value for name, value in event.items() if name not in extra}
        assert not schema.problems(trimmed, schema.definition("EventMessage"))


def test_stop_kill_pause_rename_exec(engine: Engine, api: Connection) -> None:
    since = time.time()
    identifier = steps.sleeper(api, name="busy")
    api.post("/containers/busy/pause")
    api.post("/containers/busy/unpause")
    api.post("/containers/busy/rename", None, name="busier")
    steps.exec_sh(api, identifier, "true")
    api.post("/containers/busier/stop", None, t=5)
    found = steps.eventually(lambda: events(api, since), lambda f: "stop" in actions(f))
    told = actions(found)
    assert told[:5] == ["create", "start", "pause", "unpause", "rename"]
    assert any(action.startswith("exec_create: sh -c true") for action in told)
    assert any(action.startswith("exec_start: sh -c true") for action in told)
    assert "exec_die" in told
    ending = [action for action in told if action in ("kill", "die", "stop")]
    assert ending == ["kill", "die", "stop"]
    rename = next(event for event in found if event["Action"] == "rename")
    assert rename["Actor"]["Attributes"]["oldName"] == "/busy"
    kill = next(event for event in found if event["Action"] == "kill")
    assert kill["Actor"]["Attributes"]["signal"] == "15"


def test_streams_restarts_and_the_rest(engine: Engine, api: Connection) -> None:
    """Every other event of a container that its life and its streams bring about."""
    since = time.time()
    identifier = steps.started(api, "cat", name="box", Tty=True, OpenStdin=True)
    keys = {"stream": 1, "stdin": 1, "stdout": 1, "detachKeys": "ctrl-a"}
    with engine.api() as own, own.hijack("/containers/box/attach", None, keys) as stream:
        assert api.post("/containers/box/resize", None, h=30, w=90).status == 200
        stream.send(b"x")
        stream.read_until(b"x")
        stream.send(b"\x01")
        stream.read_all()
    body = {"Cmd": ["cat"], "Tty": True, "AttachStdin": True, "AttachStdout": True, "DetachKeys": "ctrl-a"}
    process = steps.expect(api.post("/containers/box/exec", body), 201).json()["Id"]
    with engine.api() as own, own.hijack(f"/exec/{process}/start", {"Detach": False, "Tty": True}) as stream:
        stream.send(b"x")
        stream.read_until(b"x")
        stream.send(b"\x01")
        stream.read_all()
    api.get("/containers/box/top")
    api.post("/containers/box/update", {"RestartPolicy": {"Name": "no"}})
    api.post("/containers/box/restart", None, t=0)
    api.post("/containers/box/kill", None, signal="HUP")
    steps.remove(api, identifier)
    steps.create(api, "true")
    api.post("/containers/prune")
    found = steps.eventually(lambda: events(api, since), lambda f: "prune" in actions(f))
    told = actions(found)
    expected = {"attach", "resize", "detach", "exec_create: cat ", "exec_start: cat ", "top", "update"}
    assert expected <= set(told)
    restart = told[told.index("update") + 1 : told.index("restart") + 1]
    assert [action for action in restart if action != "exec_die"] == ["kill", "kill", "die", "stop", "start", "restart"]
    assert told[told.index("restart") + 1 :].count("kill") >= 1
    assert told[-3:] == ["create", "destroy", "prune"] or told.count("destroy") == 2
    by_action = {event["Action"]: event["Actor"]["Attributes"] for event in found}
    assert (by_action["resize"]["height"], by_action["resize"]["width"]) == ("30", "90")
    if engine.name == "dockyardd":  # 20.10 does not tell
        assert by_action["exec_detach"]["execID"] == process
    assert by_action["prune"]["reclaimed"].isdigit()


def test_out_of_memory_is_told_when_it_happens(engine: Engine, api: Connection) -> None:
    """Of a child, too, while the container's first process goes on."""
    since = time.time()
    limit = {"Memory": 16 << 20, "MemorySwap": 16 << 20}
    identifier = steps.started(api, "sh", "-c", "tail /dev/zero; exec sleep 1000", host=limit)
    found = steps.eventually(lambda: events(api, since), lambda f: "oom" in actions(f, "container"))
    assert actions(found, "container").count("oom") == 1
    assert steps.inspect(api, identifier)["State"]["Running"]
    api.post(f"/containers/{identifier}/kill")
    steps.wait(api, identifier)
    if engine.name == "dockyardd":
        assert actions(events(api, since), "container").count("oom") == 1, "once, not at the end again"


def test_images(engine: Engine, api: Connection) -> None:
    engine.docker("image", "prune", "-f")  # what other tests have left
    since = time.time()
    engine.docker("commit", "-c", "LABEL of=it", steps.create(api, "true"), "labelled:1")
    engine.docker("tag", "bb", "other:1")
    engine.docker("rmi", "other:1", "labelled:1")
    engine.docker("image", "prune", "-f")
    found = steps.eventually(lambda: events(api, since), lambda f: "prune" in actions(f, "image"))
    assert actions(found, "image") == ["tag", "tag", "untag", "untag", "delete", "prune"]
    told = [event["Actor"]["Attributes"] for event in found if event["Type"] == "image"]
    assert told[1]["name"] == "other:1" and told[5] == {"reclaimed": "0"}
    assert [each.get("of") for each in told[:5]] == ["it", None, None, "it", None]


@pytest.mark.parametrize(
    ("filters", "expected"),
    [
        ({"event": ["start"]}, {("one", "start"), ("two", "start")}),
        ({"container": ["one"], "event": ["create", "start"]}, {("one", "create"), ("one", "start")}),
        ({"type": ["container"], "label": ["kind=two"]}, {("two", "create"), ("two", "start"), ("two", "die")}),
        ({"image": ["bb"], "event": ["die"]}, {("one", "die"), ("two", "die")}),
        ({"type": ["volume"]}, set()),
    ],
    ids=str,
)
def test_filters(
    engine: Engine, api: Connection, filters: dict[str, list[str]], expected: set[tuple[str, str]]
) -> None:
    since = time.time()
    for name in ("one", "two"):
        identifier = steps.started(api, "true", name=name, Labels={"kind": name})
        steps.wait(api, identifier)
    steps.eventually(lambda: actions(events(api, since)).count("die") == 2)
    found = {(event["Actor"]["Attributes"]["name"], event["Action"]) for event in events(api, since, filters=filters)}
    assert found == expected


def test_live(engine: Engine, api: Connection) -> None:
    """A listener gets each event as it happens."""
    seen: list[str] = []
    ready = threading.Event()

    def listen() -> None:
        with engine.api() as own:
            body = own.stream(
                "GET", "/events", query={"filters": {"container": ["live"]}, "until": f"{time.time() + 4}"}
            )
            ready.set()
            for piece in body:
                seen.extend(json.loads(line)["Action"] for line in piece.splitlines())
                if "die" in seen:
                    return

    thread = threading.Thread(target=listen)
    thread.start()
    ready.wait(5)
    time.sleep(0.2)
    steps.started(api, "true", name="live")
    thread.join(10)
    assert seen == ["create", "start", "die"]


def test_cli(engine: Engine) -> None:
    since = str(time.time())
    engine.docker("run", "--name", "told", "bb", "true")
    lines = engine.out(
        "events", "--since", since, "--until", str(time.time()), "--filter", "container=told", "--format", "{{.Action}}"
    )
    assert lines.split("\n")[:1] == ["create"] and "start" in lines and "die" in lines
    text = engine.out("events", "--since", since, "--until", str(time.time()), "--filter", "event=die")
    assert "container die" in text and "name=told" in text


def test_docker_py(client: docker.DockerClient, engine: Engine) -> None:
    since = time.time()
    client.containers.run("bb", "true")
    found = list(client.events(since=since, until=time.time(), decode=True))
    assert "start" in [event["Action"] for event in found]


def test_errors(engine: Engine, api: Connection) -> None:
    assert api.get("/events", since="yesterday", until="1").status in (400, 500 if engine.name == "dockerd" else 400)
    assert api.get("/events", since="20", until="10").status == 400
