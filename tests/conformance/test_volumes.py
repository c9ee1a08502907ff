"""Volumes by name: what a client may do with them."""

from __future__ import annotations

import pytest

from tests.support.engines import Engine
from tests.support.rawhttp import Connection


def test_a_volume_keeps_what_containers_write(engine: Engine) -> None:
    assert engine.out("volume", "create", "keeps") == "keeps"
    engine.docker("run", "--rm", "-v", "keeps:/data", "bb", "sh", "-c", "echo hello > /data/x")
    assert engine.out("run", "--rm", "-v", "keeps:/data", "bb", "cat", "/data/x") == "hello"
    assert "keeps" in engine.out("volume", "ls", "-q").split()
    assert engine.out("volume", "inspect", "-f", "{{.Name}} {{.Driver}} {{.Scope}}", "keeps") == "keeps local local"
    engine.docker("volume", "rm", "keeps")
    assert "keeps" not in engine.out("volume", "ls", "-q").split()


def test_a_volume_in_use_stays(engine: Engine, api: Connection) -> None:
    identifier = engine.out("create", "--name", "user", "-v", "used:/data", "bb", "true")
    answer = api.request("DELETE", "/volumes/used")
    assert answer.status == 409
    assert answer.json()["message"] == f"remove used: volume is in use - [{identifier}]"
    engine.docker("rm", "user")
    assert api.request("DELETE", "/volumes/used").status == 204


@pytest.mark.parametrize(("method", "status"), [("GET", 404), ("DELETE", 404)])
def test_an_unknown_volume(api: Connection, method: str, status: int) -> None:
    answer = api.request(method, "/volumes/nosuch")
    assert answer.status == status
    assert "nosuch" in answer.json()["message"] and "no such volume" in answer.json()["message"]


def test_a_bad_name_and_a_missing_driver(api: Connection) -> None:
    assert api.request("POST", "/volumes/create", {"Name": "../up"}).status == 400
    assert api.request("POST", "/volumes/create", {"Name": "v", "Driver": "nosuch"}).status in (400, 404, 500)


def test_filters(engine: Engine) -> None:
    engine.docker("volume", "create", "lonely")
    engine.docker("create", "--name", "owner", "-v", "owned:/data", "bb", "true")
    dangling = engine.out("volume", "ls", "-q", "--filter", "dangling=true").split()
    assert "lonely" in dangling and "owned" not in dangling
    assert engine.out("volume", "ls", "-q", "--filter", "name=lone") == "lonely"
    engine.docker("rm", "owner")
    engine.docker("volume", "rm", "owned", "lonely")


def test_inspect_of_what_is_nowhere(engine: Engine) -> None:
    failed = engine.docker("inspect", "nosuch", check=False)
    assert failed.returncode == 1
    assert b"no such object: nosuch" in failed.stderr.lower()
