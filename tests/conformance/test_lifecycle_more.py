"""The corners of a container's life: time-outs of a stop, restart policies, updates, names, filters of prune."""

from __future__ import annotations

import threading
import time
from typing import Any

import pytest

from tests.support import steps
from tests.support.engines import Engine
from tests.support.rawhttp import Connection

DEAF = ("sh", "-c", "trap '' TERM; echo up; while :; do sleep 0.1; done")


def deaf(api: Connection, **more: Any) -> str:
    """A container that does not hear SIGTERM."""
    identifier = steps.started(api, *DEAF, **more)
    steps.eventually(lambda: steps.logs(api, identifier)[0])
    return identifier


@pytest.mark.parametrize("timeouts", [{"t": 0}, {"StopTimeout": 0}])
def test_a_stop_without_patience_kills_at_once(engine: Engine, api: Connection, timeouts: dict[str, int]) -> None:
    query = {name: value for name, value in timeouts.items() if name == "t"}
    config = {name: value for name, value in timeouts.items() if name != "t"}
    identifier = deaf(api, **config)
    begun = time.monotonic()
    assert api.post(f"/containers/{identifier}/stop", None, **query).status == 204
    assert time.monotonic() - begun < 5
    assert steps.inspect(api, identifier)["State"]["ExitCode"] == 137


def test_a_stop_with_endless_patience_waits_until_it_is_killed(engine: Engine, api: Connection) -> None:
    identifier = deaf(api, StopTimeout=1)
    answered = threading.Event()

    def stop() -> None:
        with engine.api() as own:
            own.post(f"/containers/{identifier}/stop", None, t=-1)
        answered.set()

    thread = threading.Thread(target=stop)
    thread.start()
    assert not answered.wait(2.5)
    assert api.post(f"/containers/{identifier}/kill").status == 204
    assert answered.wait(10)
    thread.join()


def test_back_off_between_restarts(engine: Engine, api: Connection) -> None:
    """100 ms at first, twice as long each time."""
    since = time.time()
    policy = {"RestartPolicy": {"Name": "on-failure", "MaximumRetryCount": 4}}
    identifier = steps.started(api, "false", host=policy)
    steps.eventually(lambda: steps.inspect(api, identifier)["State"]["Status"] == "exited", seconds=30)
    assert steps.inspect(api, identifier)["RestartCount"] == 4
    found = api.get("/events", since=f"{since:.6f}", until=f"{time.time():.6f}").lines()
    moments = [(e["Action"], e["timeNano"]) for e in found if e["Action"] in ("die", "start")]
    assert [action for action, _ in moments] == ["start", "die"] * 5
    pauses = [(moments[i + 1][1] - moments[i][1]) / 1e6 for i in range(1, len(moments) - 1, 2)]
    for pause, least in zip(pauses, (100, 200, 400, 800), strict=True):
        assert least <= pause < least * 2 + 600


def test_a_restarting_container(engine: Engine, api: Connection) -> None:
    """What it says of itself, what it refuses, and that a stop keeps it down."""
    identifier = steps.started(api, "false", host={"RestartPolicy": {"Name": "always"}})
    steps.eventually(lambda: steps.inspect(api, identifier)["RestartCount"] >= 3)
    steps.eventually(lambda: steps.inspect(api, identifier)["State"]["Restarting"])
    row = api.get("/containers/json").json()[0]
    assert row["State"] == "restarting" and row["Status"].startswith("Restarting (1)")
    answer = steps.expect(api.post(f"/containers/{identifier}/exec", {"Cmd": ["true"]}), 409)
    assert "is restarting, wait until the container is running" in answer.message
    assert api.post(f"/containers/{identifier}/stop", None, t=0).status == 204
    count = steps.inspect(api, identifier)["RestartCount"]
    time.sleep(1)
    state = steps.inspect(api, identifier)
    assert state["State"]["Status"] == "exited" and state["RestartCount"] == count


def test_rename_a_running_container(engine: Engine, api: Connection) -> None:
    identifier = steps.sleeper(api, name="before")
    assert api.post("/containers/before/rename", None, name="after").status == 204
    state = steps.inspect(api, "after")
    assert state["Id"] == identifier and state["State"]["Running"]
    assert steps.create(api, "true", name="before") != identifier
    assert api.post("/containers/after/stop", None, t=0).status == 204
    assert api.post("/containers/after/start").status == 204


def test_a_name_is_free_when_rm_returns(engine: Engine, api: Connection) -> None:
    for _ in range(5):
        steps.started(api, "sleep", "1000", name="again")
        assert api.delete("/containers/again", force=True).status == 204
    auto = steps.create(api, "true", name="again", host={"AutoRemove": True})
    api.send_head("POST", f"/containers/{auto}/wait?condition=removed", None, None, None)
    status, headers = api._read_head()
    assert status == 200
    with engine.api() as other:
        steps.start(other, auto)
        api._read_body(headers)
        steps.create(other, "true", name="again")


def test_wait_for_the_next_exit_of_a_running_one(engine: Engine, api: Connection) -> None:
    """So does not-running: an exit ends it even if the container is started again."""
    policy = {"RestartPolicy": {"Name": "on-failure", "MaximumRetryCount": 2}}
    identifier = steps.create(api, "sh", "-c", "sleep 0.3; exit 9", host=policy)
    steps.start(api, identifier)
    assert steps.wait(api, identifier, condition="next-exit") == 9
    assert steps.inspect(api, identifier)["RestartCount"] < 2
    assert steps.wait(api, identifier, condition="not-running") == 9
    assert steps.inspect(api, identifier)["RestartCount"] == 2


@pytest.mark.parametrize(
    ("filters", "kept"),
    [
        ({"until": ["1h"]}, {"plain", "red", "blue"}),
        ({"label": ["colour"]}, {"plain"}),
        ({"label": ["colour=red"]}, {"plain", "blue"}),
        ({"label!": ["colour"]}, {"red", "blue"}),
        ({"label!": ["colour=red"]}, {"red"}),
        ({"label": ["colour"], "label!": ["colour=blue"]}, {"plain", "blue"}),
    ],
)
def test_filters_of_prune(engine: Engine, api: Connection, filters: dict[str, list[str]], kept: set[str]) -> None:
    for name, labels in (("plain", {}), ("red", {"colour": "red"}), ("blue", {"colour": "blue"})):
        steps.create(api, "true", name=name, Labels=labels)
    steps.expect(api.post("/containers/prune", None, filters=filters), 200)
    assert {row["Names"][0][1:] for row in api.get("/containers/json", all=True).json()} == kept


def test_conflicts_of_pause(engine: Engine, api: Connection) -> None:
    identifier = steps.sleeper(api)
    answer = steps.expect(api.post(f"/containers/{identifier}/unpause"), 409, 500)
    assert "is not paused" in answer.message
    steps.expect(api.post(f"/containers/{identifier}/pause"), 204)
    assert "already paused" in steps.expect(api.post(f"/containers/{identifier}/pause"), 409).message
    answer = steps.expect(api.post(f"/containers/{identifier}/start"), 304, 409, 500)
    assert answer.status == 304 or "cannot start a paused container, try unpause instead" in answer.message
    assert "is paused" in steps.expect(api.post(f"/containers/{identifier}/exec", {"Cmd": ["true"]}), 409).message
    steps.expect(api.post(f"/containers/{identifier}/restart", None, t=0), 204)
    assert steps.inspect(api, identifier)["State"]["Status"] == "running"


# --- update ---


def test_update_of_the_restart_policy(engine: Engine, api: Connection) -> None:
    since = time.time()
    identifier = steps.create(api, "sh", "-c", "exit 2")
    policy = {"Name": "on-failure", "MaximumRetryCount": 2}
    answer = steps.expect(api.post(f"/containers/{identifier}/update", {"RestartPolicy": policy}), 200)
    assert not answer.json()["Warnings"]
    found = steps.inspect(api, identifier)["HostConfig"]["RestartPolicy"]
    assert found == policy
    steps.start(api, identifier)
    steps.eventually(lambda: steps.inspect(api, identifier)["State"]["Status"] == "exited")
    assert steps.inspect(api, identifier)["RestartCount"] == 2
    engine.out("update", "--restart", "no", identifier)
    assert steps.inspect(api, identifier)["HostConfig"]["RestartPolicy"]["Name"] == "no"
    told = [e["Action"] for e in api.get("/events", since=f"{since:.6f}", until=f"{time.time():.6f}").lines()]
    assert told.count("update") == 2


def test_updates_that_are_refused(engine: Engine, api: Connection) -> None:
    identifier = steps.create(api, "true", host={"AutoRemove": True})
    path = f"/containers/{identifier}/update"
    answer = steps.expect(api.post(path, {"RestartPolicy": {"Name": "always"}}), 409)
    assert "Restart policy cannot be updated because AutoRemove is enabled for the container" in answer.message
    other = steps.create(api, "true")
    path = f"/containers/{other}/update"
    steps.expect(api.post(path, {"RestartPolicy": {"Name": "sometimes"}}), 400)
    steps.expect(api.post(path, {"RestartPolicy": {"Name": "always", "MaximumRetryCount": 3}}), 400)
    assert steps.expect(api.post("/containers/nosuch/update", {}), 404).message == "No such container: nosuch"
    assert steps.inspect(api, other)["HostConfig"]["RestartPolicy"]["Name"] in ("no", "")
