"""What may be asked of a container in which state: the same table on both engines."""

from __future__ import annotations

import json
import re
import time
from typing import Any

import pytest

from tests.support import steps
from tests.support.engines import Engine
from tests.support.rawhttp import Connection

NAME = "stately"
STATES = ("created", "running", "paused", "exited")
# Method, what follows the container's path, body, query.
REQUESTS: dict[str, tuple[str, str, Any, dict[str, Any]]] = {
    "start": ("POST", "/start", None, {}),
    "stop": ("POST", "/stop", None, {"t": 0}),
    "restart": ("POST", "/restart", None, {"t": 0}),
    "kill": ("POST", "/kill", None, {}),
    "kill -s USR1": ("POST", "/kill", None, {"signal": "USR1"}),
    "pause": ("POST", "/pause", None, {}),
    "unpause": ("POST", "/unpause", None, {}),
    "rename": ("POST", "/rename", None, {"name": "other"}),
    "rename to the same": ("POST", "/rename", None, {"name": NAME}),
    "rename to nothing": ("POST", "/rename", None, {"name": ""}),
    "rename to nonsense": ("POST", "/rename", None, {"name": "-x"}),
    "rm": ("DELETE", "", None, {}),
    "rm -f": ("DELETE", "", None, {"force": True}),
    "exec": ("POST", "/exec", {"Cmd": ["true"]}, {}),
    "attach": ("POST", "/attach", None, {"stream": 1, "stdout": 1}),
    "resize": ("POST", "/resize", None, {"h": 20, "w": 30}),
    "top": ("GET", "/top", None, {}),
    "inspect": ("GET", "/json", None, {}),
    "logs": ("GET", "/logs", None, {"stdout": 1}),
}
# Status, and the state afterwards, for each of STATES; as Docker 20.10 answers.
TABLE = {
    "start": ("204 running", "304 running", "409 paused", "204 running"),
    "stop": ("304 created", "204 exited", "204 exited", "304 exited"),
    "restart": ("204 running", "204 running", "204 running", "204 running"),
    "kill": ("409 created", "204 exited", "204 exited", "409 exited"),
    "kill -s USR1": ("409 created", "204 running", "204 running", "409 exited"),  # it is thawed to act on it
    "pause": ("409 created", "204 paused", "409 paused", "409 exited"),
    "unpause": ("500 created", "500 running", "204 running", "500 exited"),
    "rename": ("204 created", "204 running", "204 paused", "204 exited"),
    "rename to the same": ("400 created", "400 running", "400 paused", "400 exited"),
    "rename to nothing": ("400 created", "400 running", "400 paused", "400 exited"),
    "rename to nonsense": ("400 created", "400 running", "400 paused", "400 exited"),
    "rm": ("204 gone", "409 running", "409 paused", "204 gone"),
    "rm -f": ("204 gone", "204 gone", "204 gone", "204 gone"),
    "exec": ("409 created", "201 running", "409 paused", "409 exited"),
    "attach": ("101 created", "101 running", "409 paused", "101 exited"),
    "resize": ("409 created", "200 running", "200 paused", "409 exited"),  # without a terminal it has no effect
    "top": ("409 created", "200 running", "200 paused", "409 exited"),
    "inspect": ("200 created", "200 running", "200 paused", "200 exited"),
    "logs": ("200 created", "200 running", "200 paused", "200 exited"),
}
# What Docker says, in lower case: its letters have changed between versions. {} is the container's ID.
TEXTS = {
    ("kill", "exited"): "cannot kill container: {}: container {} is not running",
    ("pause", "created"): "container {} is not running",
    ("pause", "paused"): "container {} is already paused",
    ("unpause", "running"): "container {} is not paused",
    ("exec", "exited"): "container {} is not running",
    ("exec", "paused"): "container {} is paused, unpause the container before exec",
    ("attach", "paused"): "container {} is paused, unpause the container before attach",
    ("start", "paused"): "cannot start a paused container, try unpause instead",
    ("resize", "exited"): "container {} is not running",
    ("top", "created"): "container {} is not running",
    ("rename to the same", "running"): "renaming a container with the same name as its current name",
    ("rename to nothing", "running"): "neither old nor new names may be empty",
}


def put_into(api: Connection, state: str) -> str:
    name = steps.create(api, "sleep", "1000", name=NAME)
    if state != "created":
        steps.start(api, name)
    if state == "paused":
        steps.expect(api.post(f"/containers/{name}/pause"), 204)
    if state == "exited":
        steps.expect(api.post(f"/containers/{name}/kill"), 204)
        steps.wait(api, name)
    return name


def ask(engine: Engine, name: str, request: str) -> tuple[int, str]:
    """(status, message) on a connection of its own: a hijacked one is of no further use."""
    method, path, body, query = REQUESTS[request]
    with engine.api() as api:
        if request != "attach":
            answer = api.request(method, f"/containers/{name}{path}", body, query)
            return answer.status, answer.message if answer.status >= 400 else ""
        try:
            with api.hijack(f"/containers/{name}{path}", body, query) as stream:
                return stream.status, ""
        except AssertionError as error:
            status, _, rest = str(error).split(": ", 1)[1].partition(" ")
            text = re.sub(r"(\\r|\\n)+$", "", rest[2:-1])
            return int(status), json.loads(text)["message"] if text.startswith("{") else text


def state_of(api: Connection, name: str) -> str:
    answer = api.get(f"/containers/{name}/json")
    return str(answer.json()["State"]["Status"]) if answer.status == 200 else "gone"


def settled(api: Connection, name: str, wanted: str) -> str:
    """The state a moment later: dockerd learns of some changes from containerd, after its answer."""
    end = time.monotonic() + 2
    while (state := state_of(api, name)) != wanted and time.monotonic() < end:
        time.sleep(0.02)
    return state


@pytest.mark.parametrize("state", STATES)
def test_requests_in_each_state(engine: Engine, api: Connection, state: str) -> None:
    seen, texts = {}, {}
    for request in REQUESTS:
        name = put_into(api, state)
        status, message = ask(engine, name, request)
        wanted = TABLE[request][STATES.index(state)].split()[1]
        seen[request] = f"{status} {settled(api, name, wanted)}"
        texts[request, state] = re.sub(r"(\\r|\\n|\s)+$", "", message.lower().replace(name, "{}"))
        api.delete(f"/containers/{name}", force=True)
    assert seen == {request: answers[STATES.index(state)] for request, answers in TABLE.items()}
    said = {key: text for key, text in TEXTS.items() if key[1] == state}
    assert {key: texts[key] for key in said} == said


@pytest.mark.parametrize(("state", "statuses"), [("paused", (409,)), ("exited", (404, 409)), ("gone", (404,))])
def test_an_exec_made_before(engine: Engine, api: Connection, state: str, statuses: tuple[int, ...]) -> None:
    """The container changes between the making of an exec and its start. Docker 20.10 forgets it at the exit;
    here it can be inspected for a while."""
    name = put_into(api, "running")
    process = steps.expect(api.post(f"/containers/{name}/exec", {"Cmd": ["true"]}), 201).json()["Id"]
    how = {"paused": "/pause", "exited": "/kill"}
    if state == "gone":
        api.delete(f"/containers/{name}", force=True)
    else:
        api.post(f"/containers/{name}{how[state]}")
        steps.eventually(lambda: state_of(api, name) == state)
    assert api.post(f"/exec/{process}/start", {"Detach": True}).status in statuses


def test_an_exec_runs_once(engine: Engine, api: Connection) -> None:
    name = put_into(api, "running")
    process = steps.expect(api.post(f"/containers/{name}/exec", {"Cmd": ["sleep", "0.1"]}), 201).json()["Id"]
    assert api.post(f"/exec/{process}/resize", None, h=10, w=10).status in (409, 500)
    assert api.post(f"/exec/{process}/start", {"Detach": True}).status == 200
    assert api.post(f"/exec/{process}/start", {"Detach": True}).status == 409
    steps.eventually(lambda: not api.get(f"/exec/{process}/json").json()["Running"])
    assert api.post(f"/exec/{process}/start", {"Detach": True}).status == 409
