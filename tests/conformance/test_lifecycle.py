"""create, start, stop, restart, kill, pause, wait, rename, remove, prune: states, statuses and texts."""

from __future__ import annotations

import threading
import time

import docker
import pytest

from tests.support import steps
from tests.support.engines import Engine
from tests.support.rawhttp import Connection


def test_from_created_to_exited(engine: Engine, api: Connection) -> None:
    identifier = steps.create(api, "sh", "-c", "sleep 0.05; exit 7", name="one")
    state = steps.inspect(api, identifier)["State"]
    assert (state["Status"], state["Running"], state["Pid"]) == ("created", False, 0)
    assert state["StartedAt"] == "0001-01-01T00:00:00Z"
    steps.start(api, identifier)
    assert steps.wait(api, identifier) == 7
    state = steps.inspect(api, identifier)["State"]
    assert (state["Status"], state["ExitCode"], state["Pid"], state["Error"]) == ("exited", 7, 0, "")
    assert state["StartedAt"] < state["FinishedAt"]


def test_running_state(engine: Engine, api: Connection) -> None:
    identifier = steps.sleeper(api)
    state = steps.inspect(api, identifier)["State"]
    assert (state["Status"], state["Running"], state["Paused"]) == ("running", True, False)
    assert state["Pid"] > 1
    assert state["FinishedAt"] == "0001-01-01T00:00:00Z"


def test_start_and_stop_twice_are_not_modified(engine: Engine, api: Connection) -> None:
    identifier = steps.sleeper(api)
    assert api.post(f"/containers/{identifier}/start").status == 304
    assert api.post(f"/containers/{identifier}/stop").status == 204
    assert steps.inspect(api, identifier)["State"]["ExitCode"] == 0
    assert api.post(f"/containers/{identifier}/stop").status == 304


def test_stop_kills_after_the_timeout(engine: Engine, api: Connection) -> None:
    identifier = steps.started(api, "sh", "-c", "trap '' TERM; echo up; while :; do sleep 1; done")
    steps.eventually(lambda: steps.logs(api, identifier)[0])
    begun = time.monotonic()
    assert api.post(f"/containers/{identifier}/stop", None, t=1).status == 204
    assert 0.9 < time.monotonic() - begun < 6
    assert steps.inspect(api, identifier)["State"]["ExitCode"] == 137


def test_stop_signal_and_timeout_of_the_container(engine: Engine, api: Connection) -> None:
    script = "trap 'echo got; exit 3' USR1; echo up; while :; do sleep 0.05; done"
    identifier = steps.started(api, "sh", "-c", script, StopSignal="SIGUSR1", StopTimeout=5)
    steps.eventually(lambda: steps.logs(api, identifier)[0])
    assert api.post(f"/containers/{identifier}/stop").status == 204
    assert steps.inspect(api, identifier)["State"]["ExitCode"] == 3
    assert steps.logs(api, identifier)[0] == "up\ngot\n"


def test_restart(engine: Engine, api: Connection) -> None:
    identifier = steps.sleeper(api)
    before = steps.inspect(api, identifier)["State"]
    assert api.post(f"/containers/{identifier}/restart", None, t=1).status == 204
    after = steps.inspect(api, identifier)["State"]
    assert after["Running"] and after["Pid"] != before["Pid"] and after["StartedAt"] > before["StartedAt"]


def test_started_again_it_keeps_its_files(engine: Engine, api: Connection) -> None:
    identifier = steps.create(api, "sh", "-c", "echo line >> /data/file; cat /data/file | wc -l")
    for count in (1, 2, 3):
        steps.start(api, identifier)
        assert steps.wait(api, identifier) == 0
        assert steps.logs(api, identifier)[0].split() == [str(number + 1) for number in range(count)]


@pytest.mark.parametrize(("signal", "code"), [("KILL", 137), ("SIGINT", 130), ("15", 143), ("SIGKILL", 137)])
def test_kill(engine: Engine, api: Connection, signal: str, code: int) -> None:
    identifier = steps.started(
        api, "sh", "-c", "trap 'exit 130' INT; trap 'exit 143' TERM; echo up; while :; do sleep 0.05; done"
    )
    steps.eventually(lambda: steps.logs(api, identifier)[0])
    assert api.post(f"/containers/{identifier}/kill", None, signal=signal).status == 204
    assert steps.wait(api, identifier) == code
    answer = steps.expect(api.post(f"/containers/{identifier}/kill"), 409)
    assert "is not running" in answer.message and identifier in answer.message


@pytest.mark.parametrize("signal", ["NOSUCH", "999"])
def test_kill_with_an_unknown_signal(engine: Engine, api: Connection, signal: str) -> None:
    identifier = steps.sleeper(api)
    answer = api.post(f"/containers/{identifier}/kill", None, signal=signal)
    assert answer.status in (400, 500 if engine.name == "dockerd" else 400)
    assert signal in answer.message
    assert steps.inspect(api, identifier)["State"]["Running"]


def test_pause_and_unpause(engine: Engine, api: Connection) -> None:
    identifier = steps.started(api, "sh", "-c", "while :; do echo tick; sleep 0.05; done", name="pausing")
    steps.eventually(lambda: steps.logs(api, identifier)[0])
    assert api.post(f"/containers/{identifier}/pause").status == 204
    state = steps.inspect(api, identifier)["State"]
    assert (state["Status"], state["Running"], state["Paused"]) == ("paused", True, True)
    assert "is already paused" in steps.expect(api.post(f"/containers/{identifier}/pause"), 409).message
    time.sleep(0.1)
    before = steps.logs(api, identifier)[0]
    time.sleep(0.25)
    assert steps.logs(api, identifier)[0] == before
    assert "is paused" in steps.expect(api.post(f"/containers/{identifier}/exec", {"Cmd": ["true"]}), 409).message
    assert api.get("/containers/json").json()[0]["Status"].endswith("(Paused)")
    assert api.post(f"/containers/{identifier}/unpause").status == 204
    steps.eventually(lambda: len(steps.logs(api, identifier)[0]) > len(before))
    assert "is not paused" in steps.expect(api.post(f"/containers/{identifier}/unpause"), 409, 500).message


def test_pause_needs_a_running_container(engine: Engine, api: Connection) -> None:
    identifier = steps.create(api, "true")
    assert "is not running" in steps.expect(api.post(f"/containers/{identifier}/pause"), 409).message


def test_stop_and_remove_a_paused_container(engine: Engine, api: Connection) -> None:
    identifier = steps.sleeper(api)
    api.post(f"/containers/{identifier}/pause")
    answer = steps.expect(api.delete(f"/containers/{identifier}"), 409)
    assert named(api, identifier, answer.message) and "paused" in answer.message
    steps.remove(api, identifier)
    assert api.get(f"/containers/{identifier}/json").status == 404


def named(api: Connection, identifier: str, message: str) -> bool:
    """20.10 names containers by ID in its errors, newer ones by name."""
    return identifier in message or steps.inspect(api, identifier)["Name"] in message


def test_wait_conditions(engine: Engine, api: Connection) -> None:
    assert steps.wait(api, steps.create(api, "true"), condition="not-running") == 0
    codes: dict[str, int] = {}

    def waiting(condition: str, identifier: str) -> None:
        with engine.api() as own:
            codes[condition] = steps.wait(own, identifier, condition=condition)

    for condition in ("next-exit", "removed"):
        identifier = steps.create(api, "sh", "-c", "exit 5", host={"AutoRemove": condition == "removed"})
        thread = threading.Thread(target=waiting, args=(condition, identifier))
        thread.start()
        time.sleep(0.2)
        assert condition not in codes
        steps.start(api, identifier)
        thread.join(10)
    assert codes == {"next-exit": 5, "removed": 5}


def test_wait_answers_its_head_at_once(engine: Engine, api: Connection) -> None:
    """The docker CLI waits for the head of /wait before it starts the container."""
    identifier = steps.create(api, "true")
    api.send_head("POST", f"/containers/{identifier}/wait?condition=next-exit", None, None, None)
    status, _ = api._read_head()
    assert status == 200
    with engine.api() as other:
        steps.start(other, identifier)
    api.close()


@pytest.mark.dockyardd_only("20.10 takes any word")
def test_wait_with_an_unknown_condition(engine: Engine, api: Connection) -> None:
    identifier = steps.create(api, "true")
    answer = steps.expect(api.post(f"/containers/{identifier}/wait", None, condition="never"), 400)
    assert "invalid condition" in answer.message and "never" in answer.message


def test_rename(engine: Engine, api: Connection) -> None:
    identifier = steps.create(api, "true", name="old")
    steps.create(api, "true", name="taken")
    assert api.post("/containers/old/rename", None, name="new").status == 204
    assert steps.inspect(api, "new")["Id"] == identifier
    assert steps.inspect(api, "new")["Name"] == "/new"
    assert api.get("/containers/old/json").status == 404
    assert api.post("/containers/new/rename", None, name="taken").status == 409
    assert api.post("/containers/new/rename", None, name="in valid").status in (400, 500)
    assert api.post("/containers/new/rename", None, name="").status in (400, 500)


def test_name_in_use_names_the_holder(engine: Engine, api: Connection) -> None:
    holder = steps.create(api, "true", name="web")
    answer = api.request("POST", "/containers/create", {"Image": "bb"}, {"name": "web"})
    assert answer.status == 409
    assert answer.message == (
        f'Conflict. The container name "/web" is already in use by container "{holder}". You have to remove (or '
        "rename) that container to be able to reuse that name."
    )


@pytest.mark.parametrize("name", ["-x", "a b", "x/y", "ä", "_"])
def test_invalid_names(engine: Engine, api: Connection, name: str) -> None:
    answer = api.request("POST", "/containers/create", {"Image": "bb"}, {"name": name})
    assert answer.status == 400
    assert "Invalid container name" in answer.message and "[a-zA-Z0-9][a-zA-Z0-9_.-]" in answer.message


def test_found_by_name_short_id_and_slash(engine: Engine, api: Connection) -> None:
    identifier = steps.create(api, "true", name="findme")
    for reference in ("findme", identifier[:12], identifier[:5], identifier):
        assert steps.inspect(api, reference)["Id"] == identifier


def test_remove_a_running_container(engine: Engine, api: Connection) -> None:
    identifier = steps.sleeper(api)
    answer = steps.expect(api.delete(f"/containers/{identifier}"), 409)
    assert named(api, identifier, answer.message) and "running" in answer.message
    assert api.delete(f"/containers/{identifier}", force=True).status == 204
    assert steps.expect(api.delete(f"/containers/{identifier}"), 404).message == f"No such container: {identifier}"


def test_auto_remove(engine: Engine, api: Connection) -> None:
    identifier = steps.started(api, "true", host={"AutoRemove": True})
    steps.eventually(lambda: api.get(f"/containers/{identifier}/json").status == 404)


def test_prune(engine: Engine, api: Connection) -> None:
    ended = [steps.create(api, "true", Labels={"kind": kind}) for kind in ("a", "b")]
    running = steps.sleeper(api)
    answer = steps.expect(api.post("/containers/prune", None, filters={"label": ["kind=a"]}), 200).json()
    assert answer["ContainersDeleted"] == [ended[0]]
    assert answer["SpaceReclaimed"] >= 0
    answer = steps.expect(api.post("/containers/prune"), 200).json()
    assert answer["ContainersDeleted"] == [ended[1]]
    assert [row["Id"] for row in api.get("/containers/json", all=True).json()] == [running]


def test_top(engine: Engine, api: Connection) -> None:
    identifier = steps.started(api, "sh", "-c", "sleep 100 & sleep 200 & wait")
    steps.eventually(lambda: len(api.get(f"/containers/{identifier}/top").json()["Processes"]) == 3)
    top = api.get(f"/containers/{identifier}/top").json()
    assert {"UID", "PID", "PPID", "CMD"} <= set(top["Titles"])
    command = top["Titles"].index("CMD")
    assert {row[command] for row in top["Processes"]} >= {"sleep 100", "sleep 200"}
    table = api.get(f"/containers/{identifier}/top", ps_args="-o pid,comm").json()
    assert table["Titles"] == ["PID", "COMMAND"] and len(table["Processes"]) == 3
    assert "sleep 200" in engine.out("top", identifier)


def test_top_of_a_stopped_container(engine: Engine, api: Connection) -> None:
    identifier = steps.create(api, "true")
    answer = api.get(f"/containers/{identifier}/top")
    assert (answer.status, "is not running" in answer.message) in ((409, True), (500, True))


def test_cli_session(engine: Engine) -> None:
    """The commands of a day, by the docker CLI."""
    script = "trap 'exit 0' TERM; echo up; while :; do sleep 0.05; done"
    identifier = engine.out("run", "-d", "--name", "day", "bb", "sh", "-c", script)
    assert len(identifier) == 64
    assert engine.out("pause", "day") == "day"
    assert engine.out("unpause", "day") == "day"
    assert engine.out("rename", "day", "night") == ""
    assert engine.out("restart", "-t", "1", "night") == "night"
    assert engine.out("stop", "-t", "1", "night") == "night"
    assert engine.out("start", "night") == "night"
    assert engine.out("kill", "-s", "TERM", "night") == "night"
    assert engine.out("wait", "night") == "0"
    assert engine.out("rm", "night") == "night"
    assert engine.out("ps", "-aq") == ""


def test_docker_py(client: docker.DockerClient) -> None:
    assert client.containers.run("bb", ["echo", "hello"], remove=True) == b"hello\n"
    with pytest.raises(docker.errors.ContainerError) as caught:
        client.containers.run("bb", ["sh", "-c", "echo bad >&2; exit 3"], remove=True)
    assert caught.value.exit_status == 3 and b"bad" in caught.value.stderr
    container = client.containers.run("bb", ["sleep", "100"], detach=True, name="py")
    container.reload()
    assert container.status == "running"
    assert container.exec_run("echo inside").output == b"inside\n"
    container.stop(timeout=0)
    assert container.wait()["StatusCode"] == 137
    container.remove()
    with pytest.raises(docker.errors.NotFound):
        client.containers.get("py")
