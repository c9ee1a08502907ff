"""Bad input: Docker's status, a message that names the thing, nothing half made left behind."""

from __future__ import annotations

from typing import Any

import pytest

from tests.support import busybox, steps
from tests.support.engines import Engine
from tests.support.rawhttp import Connection


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "json"),
        ("POST", "start"),
        ("POST", "stop"),
        ("POST", "kill"),
        ("POST", "pause"),
        ("POST", "unpause"),
        ("POST", "restart"),
        ("POST", "wait"),
        ("POST", "rename?name=x1"),
        ("GET", "top"),
        ("GET", "logs?stdout=1"),
        ("POST", "resize?h=1&w=1"),
        ("DELETE", ""),
    ],
)
def test_unknown_container(engine: Engine, api: Connection, method: str, path: str) -> None:
    answer = api.request(method, f"/containers/nobody/{path}".rstrip("/"))
    assert answer.status == 404 and answer.message.endswith("No such container: nobody")


def test_unknown_image(engine: Engine, api: Connection) -> None:
    answer = api.post("/containers/create", {"Image": "nothing:1", "Cmd": ["true"]})
    assert answer.status == 404 and "No such image: nothing:1" in answer.message
    assert steps.expect(api.delete("/images/nothing"), 404).message == "No such image: nothing:latest"
    assert api.get("/images/nothing/history").status == 404


@pytest.mark.parametrize(
    "body", [b"{", b"[]", b'"text"', b'{"Cmd": 5}', b'{"Image": 7}', b'{"HostConfig": []}', b"\xff\xfe"]
)
def test_malformed_bodies(engine: Engine, api: Connection, body: bytes) -> None:
    answer = api.request("POST", "/containers/create", raw=body, headers={"Content-Type": "application/json"})
    assert answer.status == (400 if engine.name == "dockyardd" else answer.status)
    assert answer.status in (400, 500)
    assert answer.message and "Traceback" not in answer.message


def test_an_empty_body(engine: Engine, api: Connection) -> None:
    answer = api.request("POST", "/containers/create", raw=b"", headers={"Content-Type": "application/json"})
    assert answer.status in (400, 500 if engine.name == "dockerd" else 400)


@pytest.mark.dockyardd_only("20.10 makes a container of nothing")
def test_no_image_named(engine: Engine, api: Connection) -> None:
    assert api.post("/containers/create", {"Cmd": ["true"]}).status in (400, 404)


@pytest.mark.parametrize(
    ("method", "path", "query", "text"),
    [
        ("POST", "/images/bb/tag", {"repo": "sha256", "tag": "x"}, "refusing to create an ambiguous tag"),
        ("POST", "/images/create", {"fromImage": "a", "tag": "b", "platform": "foobar"}, "unknown operating system or"),
    ],
)
def test_names_that_cannot_be(api: Connection, method: str, path: str, query: dict[str, str], text: str) -> None:
    answer = api.request(method, path, query=query)
    assert answer.status == 400 and text in answer.message


def test_text_that_is_no_json(api: Connection) -> None:
    answer = api.request("POST", "/volumes/create", raw=b"{bad", headers={"Content-Type": "application/json"})
    assert answer.status == 400
    assert "invalid character 'b' looking for beginning of object key string" in answer.message


def test_wrong_content_type(engine: Engine, api: Connection) -> None:
    answer = api.request("POST", "/containers/create", raw=b'{"Image":"bb"}', headers={"Content-Type": "text/plain"})
    assert answer.status == 400


def test_unknown_fields_are_ignored(engine: Engine, api: Connection) -> None:
    identifier = steps.create(api, "true", Nonsense={"a": [1]}, host={"MoreNonsense": True, "Memory": 32 << 20})
    assert steps.inspect(api, identifier)["HostConfig"]["Memory"] == 32 << 20


def test_field_names_match_in_any_case(engine: Engine, api: Connection) -> None:
    """As Go's JSON decoder does."""
    answer = api.post("/containers/create", {"image": "bb", "CMD": ["true"], "hostconfig": {"memory": 32 << 20}})
    found = steps.inspect(api, steps.expect(answer, 201).json()["Id"])
    assert (found["Path"], found["HostConfig"]["Memory"]) == ("true", 32 << 20)


@pytest.mark.parametrize(
    ("config", "named"),
    [
        ({"HostConfig": {"RestartPolicy": {"Name": "sometimes"}}}, "sometimes"),
        ({"HostConfig": {"RestartPolicy": {"Name": "always", "MaximumRetryCount": 3}}}, "maximum retry count"),
        ({"HostConfig": {"Memory": 1 << 10}}, "emory"),
        ({"HostConfig": {"NetworkMode": "container:"}}, "container"),
        ({"HostConfig": {"PidMode": "container:"}}, "pid"),
        ({"HostConfig": {"IpcMode": "sideways"}}, "sideways"),
        ({"HostConfig": {"PortBindings": {"80/tcp": [{"HostPort": "high"}]}}}, "high"),
        ({"HostConfig": {"PortBindings": {"99999/tcp": [{"HostPort": "1"}]}}}, "99999"),
        ({"HostConfig": {"Binds": ["relative:/x:ro:extra"]}}, "relative:/x:ro:extra"),
        ({"HostConfig": {"Binds": ["/tmp:relative"]}}, "relative"),
        ({"HostConfig": {"Mounts": [{"Type": "bind", "Source": "/nonexistent-x", "Target": "/y"}]}}, "/nonexistent-x"),
        ({"HostConfig": {"Mounts": [{"Type": "sideways", "Target": "/y"}]}}, "sideways"),
        ({"HostConfig": {"Mounts": [{"Type": "tmpfs", "Source": "/a", "Target": "/y"}]}}, "Source"),
        ({"HostConfig": {"LogConfig": {"Type": "pigeon"}}}, "pigeon"),
        ({"HostConfig": {"SecurityOpt": ["nonsense"]}}, "nonsense"),
        ({"HostConfig": {"CapAdd": ["CAP_NONSENSE"]}}, "NONSENSE"),
        ({"HostConfig": {"Runtime": "nonsense"}}, "nonsense"),
        ({"HostConfig": {"CpusetCpus": "0-"}}, "0-"),
        ({"HostConfig": {"NanoCpus": 10_000_000_000_000}}, "CPU"),
        ({"StopSignal": "SIGNONSENSE"}, "SIGNONSENSE"),
        ({"WorkingDir": "relative"}, "relative"),
        ({"Env": ["=x"]}, "nvalid"),
        ({"Hostname": "x" * 70}, "hostname"),
    ],
    ids=lambda value: str(value)[:60] if isinstance(value, dict) else "",
)
def test_values_that_make_no_sense(engine: Engine, api: Connection, config: dict[str, Any], named: str) -> None:
    """Refused at create or at start, by name; never a container that half exists."""
    if engine.name == "dockerd" and named == "pigeon":
        pytest.skip("20.10 looks for a plugin of that name for 15 s")
    answer = api.post("/containers/create", {"Image": "bb", "Cmd": ["true"], **config})
    if answer.status == 201:
        identifier = answer.json()["Id"]
        answer = api.post(f"/containers/{identifier}/start")
        assert steps.inspect(api, identifier)["State"]["Status"] == "created"
    else:
        assert api.get("/containers/json", all=True).json() == []
    assert answer.status in ((400, 404, 409, 500) if engine.name == "dockerd" else (400, 404))
    assert named.lower() in answer.message.lower()


@pytest.mark.parametrize(
    ("command", "code", "text"),
    [
        ("no-such-program", 127, 'exec: "no-such-program": executable file not found in $PATH'),
        ("/no/such", 127, "no such file or directory"),
        ("./also-not", 127, "no such file or directory"),
        ("/etc", 126, "permission denied"),
        ("/etc/passwd", 126, "permission denied"),
        ("/bin/cannot-run", 126, "exec format error"),
    ],
)
def test_commands_that_cannot_run(engine: Engine, api: Connection, command: str, code: int, text: str) -> None:
    identifier = steps.create(api, command)
    answer = api.post(f"/containers/{identifier}/start")
    if text == "exec format error" and answer.status == 204:  # found out too late by runc
        assert steps.wait(api, identifier) in (1, 255)
        return
    assert answer.status == 400 and text in answer.message
    state = steps.inspect(api, identifier)["State"]
    assert (state["Status"], state["ExitCode"], state["Pid"]) == ("created", code, 0)
    assert text in state["Error"]
    done = engine.docker("run", "--rm", "bb", command, check=False)
    # the CLI finds its exit code in the text, and knows nothing of exec formats
    assert done.returncode == (125 if text == "exec format error" else code) and text in done.stderr.decode()
    steps.eventually(lambda: len(api.get("/containers/json", all=True).json()) == 1)


def test_exit_code_125_is_the_daemons(engine: Engine) -> None:
    assert engine.docker("run", "--name", "-bad", "bb", "true", check=False).returncode == 125
    done = engine.docker("run", "--pull", "never", "nothing:1", "true", check=False)
    assert done.returncode == 125 and b"No such image: nothing:1" in done.stderr


def test_working_directory_that_is_a_file(engine: Engine, api: Connection) -> None:
    for path in ("/etc/passwd", "/etc/passwd/below"):
        answer = api.post("/containers/create", {"Image": "bb", "Cmd": ["true"], "WorkingDir": path}, name="half")
        assert answer.status in (400, 500) and "not a directory" in answer.message
        assert path == "/etc/passwd/below" or answer.message == "Cannot mkdir: /etc/passwd is not a directory"
    assert api.get("/containers/half/json").status == 404


@pytest.mark.parametrize("user", ["nobody-here", "33:no-group"])
def test_unknown_users(engine: Engine, api: Connection, user: str) -> None:
    identifier = steps.create(api, "true", User=user)
    answer = api.post(f"/containers/{identifier}/start")
    assert answer.status in (400, 500 if engine.name == "dockerd" else 400)
    assert answer.message.startswith("unable to find ") and user.rpartition(":")[2] in answer.message
    assert steps.inspect(api, identifier)["State"]["ExitCode"] == 128


def test_a_failed_start_can_be_tried_again(engine: Engine, api: Connection, tmp_path: Any) -> None:
    source = tmp_path / "later"
    identifier = steps.create(api, "/mnt/run", host={"Binds": [f"{tmp_path}:/mnt"]})
    for _ in range(2):
        assert api.post(f"/containers/{identifier}/start").status == 400
    (tmp_path / "run").write_bytes(b"#!/bin/sh\necho now\n")
    (tmp_path / "run").chmod(0o755)
    steps.start(api, identifier)
    assert steps.wait(api, identifier) == 0
    assert steps.logs(api, identifier)[0] == "now\n"
    assert not source.exists()


def test_no_command_at_all(engine: Engine, api: Connection) -> None:
    steps.expect(
        api.request("POST", "/images/create", query={"fromSrc": "-", "repo": "bare"}, raw=busybox.layer_tar({})), 200
    )
    try:
        answer = api.post("/containers/create", {"Image": "bare"})
        assert answer.status == 400 and "o command specified" in answer.message
    finally:
        api.delete("/images/bare")


@pytest.mark.parametrize("query", ["all=maybe", "limit=many", "size=x"])
def test_bad_query_values(engine: Engine, api: Connection, query: str) -> None:
    answer = api.get(f"/containers/json?{query}")
    if engine.name == "dockyardd":
        assert answer.status in (200, 400)
    assert "Traceback" not in answer.body.decode()


def test_wrong_method(engine: Engine, api: Connection) -> None:
    assert api.request("PUT", "/containers/json").status in (404, 405)


def test_garbage_instead_of_http(engine: Engine) -> None:
    with engine.api() as api:
        api.get("/_ping")
        assert api._sock is not None
        api._sock.sendall(b"\x00\x01\x02 nonsense\r\n\r\n")
        assert b"Traceback" not in api._sock.recv(65536)
    assert engine.answers()


def test_a_client_that_goes_away(engine: Engine, api: Connection) -> None:
    for _ in range(20):
        with engine.api() as gone:
            gone.send_head("POST", "/images/load", None, {"Content-Length": "100000"}, None)
    assert engine.answers()


def test_s26_names_are_single_path_components(engine: Engine, api: Connection) -> None:
    for name in ("../x", "a/b", ".", "..", "a\0b", "a\nb"):
        assert api.request("POST", "/containers/create", {"Image": "bb"}, {"name": name}).status == 400
