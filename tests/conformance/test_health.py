"""Health checks as clients see them: states, the log of probes, events, filters, what the image brings along."""

from __future__ import annotations

import time
from typing import Any

import pytest

from tests.support import busybox, steps
from tests.support.engines import Engine
from tests.support.rawhttp import Connection

SECOND = 1_000_000_000
IMAGE = "checked:latest"


def check(*test: str, interval: float = 0.3, **more: Any) -> dict[str, Any]:
    return {"Test": list(test), "Interval": int(interval * SECOND), "Retries": 2, **more}


def health(api: Connection, identifier: str) -> dict[str, Any]:
    found: dict[str, Any] = steps.inspect(api, identifier)["State"].get("Health") or {"Status": "none"}
    return found


def becomes(api: Connection, identifier: str, status: str) -> dict[str, Any]:
    found: dict[str, Any] = steps.eventually(
        lambda: health(api, identifier), lambda now: now["Status"] == status, seconds=20
    )
    return found


def test_a_life_of_health(engine: Engine, api: Connection) -> None:
    """starting, healthy, unhealthy and back; what `inspect`, `ps`, its filter and the events tell."""
    since = time.time()
    script = "echo out; echo err >&2; test ! -e /bad || exit 3"
    box = steps.started(api, "sleep", "1000", name="box", Healthcheck=check("CMD-SHELL", script))
    assert health(api, box) == {"Status": "starting", "FailingStreak": 0, "Log": []} or engine.name == "dockerd"
    row = api.get("/containers/json", filters={"health": ["starting"]}).json()[0]
    assert row["Id"] == box and row["Status"].endswith("(health: starting)")
    found = becomes(api, box, "healthy")
    entry = found["Log"][0]
    assert set(entry) == {"Start", "End", "ExitCode", "Output"} and entry["ExitCode"] == 0
    assert sorted(entry["Output"].split()) == ["err", "out"] and entry["Start"] < entry["End"]
    assert engine.out("ps", "--filter", "health=healthy", "--format", "{{.Status}}").endswith("(healthy)")
    assert steps.exec_sh(api, box, "touch /bad")[0] == 0
    found = becomes(api, box, "unhealthy")
    assert found["FailingStreak"] >= 2 and found["Log"][-1]["ExitCode"] == 3
    steps.eventually(lambda: len(health(api, box)["Log"]) == 5)
    time.sleep(0.5)
    assert len(health(api, box)["Log"]) == 5
    assert steps.exec_sh(api, box, "rm /bad")[0] == 0
    assert becomes(api, box, "healthy")["FailingStreak"] == 0
    told = [e["Action"] for e in events(api, since) if e["Type"] == "container" and e["Actor"]["ID"] == box]
    changes = [action for action in told if action.startswith("health_status")]
    assert changes == ["health_status: healthy", "health_status: unhealthy", "health_status: healthy"]
    assert f"exec_create: /bin/sh -c {script}" in told and f"exec_start: /bin/sh -c {script}" in told
    only = events(api, since, event=["health_status"], container=["box"])
    assert [event["Action"] for event in only] == changes
    assert api.post(f"/containers/{box}/stop", None, t=0).status == 204
    assert health(api, box)["Status"] == "unhealthy"  # what does not run is not healthy


def events(api: Connection, since: float, **filters: list[str]) -> list[dict[str, Any]]:
    query = {"since": f"{since:.6f}", "until": f"{time.time():.6f}", "filters": filters}
    return list(api.get("/events", **query).lines())


def test_probes_that_take_too_long_or_cannot_run(engine: Engine, api: Connection) -> None:
    slow = check("CMD", "sh", "-c", "echo begun; sleep 100", Timeout=SECOND // 2)
    box = steps.started(api, "sleep", "1000", Healthcheck=slow)
    missing = steps.started(api, "sleep", "1000", Healthcheck=check("CMD", "/no/such"))
    entry = becomes(api, box, "unhealthy")["Log"][0]
    assert entry["ExitCode"] == -1 and entry["Output"].startswith("Health check exceeded timeout (500ms)")
    entry = becomes(api, missing, "unhealthy")["Log"][0]
    assert entry["ExitCode"] != 0 and "/no/such" in entry["Output"]
    if engine.name == "dockyardd":  # dockerd leaves them behind
        running = api.get(f"/containers/{box}/top").json()["Processes"]
        assert len(running) <= 3


def test_output_is_kept_up_to_a_limit(engine: Engine, api: Connection) -> None:
    box = steps.started(api, "sleep", "1000", Healthcheck=check("CMD-SHELL", "yes | head -c 20000"))
    assert becomes(api, box, "healthy")["Log"][0]["Output"] == "y\n" * 2048 + "..."


def test_a_start_period_forgives(engine: Engine, api: Connection) -> None:
    forgiving = {**check("CMD", "false", interval=0.2), "StartPeriod": 60 * SECOND, "Retries": 1}
    if engine.name == "dockyardd":
        forgiving["StartInterval"] = SECOND // 10
    box = steps.started(api, "sleep", "1000", Healthcheck=forgiving)
    steps.eventually(lambda: len(health(api, box)["Log"]) >= 3)
    assert health(api, box)["Status"] == "starting" and health(api, box)["FailingStreak"] == 0


def test_a_paused_container_is_not_probed(engine: Engine, api: Connection) -> None:
    box = steps.started(api, "sleep", "1000", Healthcheck=check("CMD", "true"))
    becomes(api, box, "healthy")
    assert api.post(f"/containers/{box}/pause").status == 204
    time.sleep(0.1)
    before = health(api, box)["Log"]
    assert steps.inspect(api, box)["State"]["Status"] == "paused"
    time.sleep(0.7)
    assert health(api, box)["Log"] == before
    assert api.post(f"/containers/{box}/unpause").status == 204
    becomes(api, box, "healthy")


def test_the_images_check_is_inherited_changed_and_switched_off(engine: Engine, api: Connection) -> None:
    config = {"Cmd": ["sleep", "1000"], "Healthcheck": {"Test": ["CMD", "true"], "Interval": 200_000_000, "Retries": 7}}
    engine.docker("load", "-q", input=busybox.docker_archive([IMAGE], [busybox.rootfs_tar()], config))
    try:
        inherited = engine.out("run", "-d", IMAGE)
        changed = engine.out("run", "-d", "--health-cmd", "exit 4", "--health-retries", "1", IMAGE)
        off = engine.out("run", "-d", "--no-healthcheck", IMAGE)
        assert becomes(api, inherited, "healthy")
        assert becomes(api, changed, "unhealthy")["Log"][0]["ExitCode"] == 4
        asked = steps.inspect(api, changed)["Config"]["Healthcheck"]
        assert (asked["Test"], asked["Retries"]) == (["CMD-SHELL", "exit 4"], 1)
        assert asked["Interval"] == 200_000_000
        assert steps.inspect(api, off)["Config"]["Healthcheck"]["Test"] == ["NONE"]
        assert health(api, off) == {"Status": "none"}
        none = api.get("/containers/json", filters={"health": ["none"]}).json()
        assert off in [row["Id"] for row in none] and inherited not in [row["Id"] for row in none]
    finally:
        engine.docker("rm", "-f", *engine.out("ps", "-aq").split(), check=False)
        engine.docker("rmi", IMAGE, check=False)


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ({"Test": ["CMD", "true"], "Interval": 1000}, "Interval in Healthcheck cannot be less than 1ms"),
        ({"Test": ["CMD", "true"], "Timeout": -1}, "Timeout in Healthcheck cannot be less than 1ms"),
        ({"Test": ["CMD", "true"], "Retries": -1}, "Retries in Healthcheck cannot be negative"),
    ],
)
def test_what_is_refused(engine: Engine, api: Connection, given: dict[str, Any], text: str) -> None:
    answer = steps.expect(api.post("/containers/create", {"Image": "bb", "Healthcheck": given}), 400)
    assert text in answer.message


@pytest.mark.dockyardd_only("dockerd takes it and never probes")
def test_an_unknown_test_is_refused(engine: Engine, api: Connection) -> None:
    for test in (["SHELL", "true"], ["CMD"], ["CMD-SHELL", ""]):
        answer = steps.expect(api.post("/containers/create", {"Image": "bb", "Healthcheck": {"Test": test}}), 400)
        assert "Healthcheck" in answer.message
