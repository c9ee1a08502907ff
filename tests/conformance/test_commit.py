"""Containers become images (commit) and other containers (fork, an extension)."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import docker
import pytest

from tests.support import steps
from tests.support.engines import Dockyardd, Engine, why_no_dockyardd
from tests.support.flagged import load_images
from tests.support.rawhttp import Connection

DOCKYARD = str(Path(sys.executable).with_name("dockyard"))


@pytest.fixture(autouse=True)
def no_images_left(request: pytest.FixtureRequest) -> Iterator[None]:
    yield
    if "engine" not in request.fixturenames:
        return
    engine: Engine = request.getfixturevalue("engine")
    engine.remove_containers()
    for row in engine.request("GET", "/images/json", None, all=True).json():
        if "bb:latest" not in (row["RepoTags"] or []):
            engine.request("DELETE", f"/images/{row['Id']}", None, force=True)


def image(api: Connection, name: str) -> dict[str, Any]:
    answer = api.get(f"/v1.41/images/{name}/json")
    assert answer.status == 200, answer
    found: dict[str, Any] = answer.json()
    return found


def run(engine: Engine, script: str, *options: str) -> None:
    """The container `cc`, which has done `script` and sleeps."""
    engine.docker("run", "-d", "--name", "cc", *options, "bb", "sh", "-c", f"{script}; echo ready; exec sleep 1000")
    end = time.monotonic() + 15
    while b"ready" not in engine.docker("logs", "cc").stdout:
        assert time.monotonic() < end
        time.sleep(0.02)


def test_the_image_has_what_the_container_wrote_and_says_so(engine: Engine, api: Connection) -> None:
    run(engine, "echo new > /new; rm /etc/group; echo v > /vol/f", "-e", "FOO=1", "-v", "/vol", "--label", "x=1")
    since = time.time()
    changes = ['CMD ["cat","/new"]', "ENV BAR=2", "LABEL y=$BAR", "EXPOSE 80", "WORKDIR /tmp", "USER 1", "VOLUME /vv"]
    changes += ['HEALTHCHECK CMD ["true"]', "ONBUILD RUN x"]
    words = [word for change in changes for word in ("-c", change)]
    printed = engine.docker("commit", "-a", "An Author", "-m", "A comment", *words, "cc", "made:1").stdout.decode()
    found = image(api, "made:1")
    assert printed.strip() == found["Id"]
    below = image(api, "bb")
    assert (found["Author"], found["Comment"], found["Parent"]) == ("An Author", "A comment", below["Id"])
    assert found["RootFS"]["Layers"][:-1] == below["RootFS"]["Layers"] and found["Architecture"] == "amd64"
    assert found["Size"] == below["Size"] + len("new\n")
    config = found["Config"]
    assert config["Cmd"] == ["cat", "/new"] and config["User"] == "1" and config["WorkingDir"] == "/tmp"
    assert {"FOO=1", "BAR=2"} <= set(config["Env"]) and config["Labels"] == {"x": "1", "y": "2"}
    assert set(config["Volumes"]) == {"/vol", "/vv"} and set(config["ExposedPorts"]) == {"80/tcp"}
    assert config["Healthcheck"]["Test"] == ["CMD", "true"] and config["OnBuild"] == ["RUN x"]
    assert found["Container"].startswith(engine.docker("inspect", "-f", "{{.Id}}", "cc").stdout.decode().strip())
    assert found["ContainerConfig"]["Image"] == "bb"
    step = api.get("/images/made:1/history").json()[0]
    assert step["Comment"] == "A comment" and step["CreatedBy"].startswith("sh -c echo new > /new")
    assert engine.docker("run", "--rm", "made:1").stdout == b"new\n"
    gone = engine.docker("run", "--rm", "made:1", "ls", "/vol", "/etc/group", check=False)
    assert gone.stdout.strip() == b"/vol:" and b"/etc/group" in gone.stderr
    query = {"since": f"{since:.9f}", "until": f"{time.time():.9f}"}
    told = [(event["Type"], event["Action"]) for event in api.get("/events", **query).lines()]
    assert told[:4] == [
        ("container", "pause"),
        ("container", "unpause"),
        ("image", "tag"),
        ("container", "commit"),
    ] or (engine.name == "dockerd" and ("container", "commit") in told)


def test_a_layer_has_only_what_the_container_wrote(engine: Engine, api: Connection) -> None:
    """No mount points, no files of the engine's own; nothing written: no layer, and the step says so."""
    run(engine, "echo x > /tmp/f", "--tmpfs", "/t")
    engine.docker("kill", "cc")
    engine.docker("commit", "cc", "made:1")
    with tarfile.open(fileobj=io.BytesIO(engine.docker("save", "made:1").stdout)) as archive:
        layer = json.load(archive.extractfile("manifest.json"))[0]["Layers"][-1]  # type: ignore[arg-type]
        with tarfile.open(fileobj=archive.extractfile(layer)) as inside:
            names = {member.name.strip("./") for member in inside}
    assert names - {"", "t"} == {"tmp", "tmp/f"}
    engine.docker("create", "--name", "untouched", "bb")
    engine.docker("commit", "-m", "nothing", "untouched", "made:2")
    if engine.name == "dockyardd":
        assert image(api, "made:2")["RootFS"] == image(api, "bb")["RootFS"]
    step = api.get("/images/made:2/history").json()[0]
    assert (step["Size"], step["Comment"]) == (0, "nothing")


def test_settings_of_a_body_come_before_the_containers(client: docker.DockerClient, engine: Engine) -> None:
    engine.docker("create", "--name", "cc", "-e", "A=1", "-e", "B=1", "--entrypoint", "sh", "bb", "-c", "true")
    made = client.containers.get("cc").commit(
        "made", "body", conf={"Env": ["A=2"], "Cmd": ["new"], "Labels": {"k": "v"}}
    )
    config = made.attrs["Config"]
    assert {"A=2", "B=1"} <= set(config["Env"]) and "A=1" not in config["Env"]
    assert (config["Cmd"], config["Entrypoint"], config["Labels"]) == (["new"], ["sh"], {"k": "v"})
    assert made.tags == ["made:body"]


def test_what_is_wrong_leaves_nothing(engine: Engine, api: Connection) -> None:
    run(engine, "true")
    before = api.get("/images/json", all=True).json()
    for query, status, text in (
        ({"container": "nosuch"}, 404, "No such container: nosuch"),
        ({"container": "cc", "changes": "RUN x"}, 400, "is not a valid change command"),
        ({"container": "cc", "changes": "ENV"}, 400, "requires at least one argument"),
        ({"container": "cc", "changes": "STOPSIGNAL nope"}, 400, "invalid signal: nope"),
        ({"container": "cc", "repo": "Bad"}, 400, "must be lowercase"),
        ({"container": "cc", "repo": "good", "tag": "not a tag"}, 400, "invalid"),
    ):
        answer = api.request("POST", "/commit", None, query)
        if engine.name == "dockyardd":
            assert answer.status == status and text in answer.message, (query, answer)
        else:
            assert answer.status >= 400, (query, answer)
    if engine.name == "dockyardd":  # dockerd 20.10 makes the image before it looks at the name
        assert api.get("/images/json", all=True).json() == before
    assert engine.docker("inspect", "-f", "{{.State.Status}}", "cc").stdout == b"running\n"


def test_a_paused_container_stays_so_and_a_running_one_need_not_be(engine: Engine, api: Connection) -> None:
    run(engine, "true")
    since = time.time()
    assert api.post("/commit", None, container="cc", pause="0").status == 201
    query = {"since": f"{since:.9f}", "until": f"{time.time():.9f}", "filters": {"event": ["pause", "unpause"]}}
    assert not api.get("/events", **query).lines()
    engine.docker("pause", "cc")
    assert api.post("/commit", None, container="cc").status == 201
    assert engine.docker("inspect", "-f", "{{.State.Status}}", "cc").stdout == b"paused\n"
    engine.docker("unpause", "cc")


@pytest.mark.dockyardd_only
def test_the_clients_commit(engine: Engine, api: Connection) -> None:
    run(engine, "echo x > /x")
    done = dockyard(engine, "commit", "-m", "msg", "-a", "me", "-c", "CMD cat /x", "--pause=false", "cc", "made:1")
    found = image(api, "made:1")
    assert done.strip() == found["Id"] and (found["Comment"], found["Author"]) == ("msg", "me")
    assert engine.docker("run", "--rm", "made:1").stdout == b"x\n"


def dockyard(engine: Engine, *words: str) -> str:
    environment = engine.cli_environment()
    done = subprocess.run([DOCKYARD, *words], env=environment, capture_output=True, timeout=60, check=False)
    assert done.returncode == 0, done
    return done.stdout.decode()


# --- fork ------------------------------------------------------------------------------------------------------------


@pytest.mark.dockyardd_only
def test_a_fork_has_the_files_of_one_moment(engine: Engine, api: Connection) -> None:
    """Two files that always change together, one of them in an anonymous volume, are alike in every fork."""
    change = "; ".join(f"echo $i > {path}.new; mv {path}.new {path}" for path in ("/one", "/vol/two"))  # each at once
    loop = f"i=0; while :; do i=$((i+1)); {change}; done"
    begun = "until [ -e /vol/two ]; do sleep 0.05; done"
    run(engine, f"rm /etc/group; ({loop}) & {begun}", "-v", "/vol", "-v", "forked:/named")
    for _ in range(5):
        made = api.post("/containers/cc/fork").json()["Id"]
        one, two = (_read(api, made, path) for path in ("/one", "/vol/two"))
        assert abs(int(one) - int(two)) <= 1, (one, two)
        assert api.request("HEAD", f"/containers/{made}/archive", query={"path": "/etc/group"}).status == 404
        other, mine = (api.get(f"/containers/{name}/json").json() for name in (made, "cc"))
        volumes = [{point["Destination"]: point["Name"] for point in each["Mounts"]} for each in (other, mine)]
        assert volumes[0]["/named"] == volumes[1]["/named"] and volumes[0]["/vol"] != volumes[1]["/vol"]
        assert other["Image"] == mine["Image"] and other["Config"]["Hostname"] == made[:12]
        engine.docker("rm", "-fv", made)
    assert api.get("/containers/cc/json").json()["State"]["Status"] == "running"
    before = engine.out("exec", "cc", "cat", "/vol/two")
    steps.eventually(lambda: engine.out("exec", "cc", "cat", "/vol/two") != before)  # it goes on


def _read(api: Connection, name: str, path: str) -> str:
    answer = api.request("GET", f"/containers/{name}/archive", query={"path": path})
    with tarfile.open(fileobj=io.BytesIO(answer.body)) as archive:
        file = archive.extractfile(path.rpartition("/")[2])
        assert file is not None
        return file.read().decode().strip()


@pytest.mark.dockyardd_only
def test_a_fork_takes_over_settings_and_a_body_changes_them(engine: Engine, api: Connection) -> None:
    run(engine, "echo 1 > /f", "-e", "A=1", "--label", "k=v", "-p", "0:80", "--memory", "64m", "--hostname", "given")
    assert dockyard(engine, "fork", "-e", "B=2", "-l", "m=n", "--no-publish", "--start", "cc", "copy").strip()
    copy = api.get("/containers/copy/json").json()
    assert copy["State"]["Running"] and copy["Config"]["Hostname"] == "given" and not copy["HostConfig"]["PortBindings"]
    assert {"A=1", "B=2"} <= set(copy["Config"]["Env"]) and copy["Config"]["Labels"] == {"k": "v", "m": "n"}
    assert copy["HostConfig"]["Memory"] == 64 << 20 and copy["Config"]["Cmd"][0] == "sh"
    body = {"Cmd": ["cat", "/f"], "HostConfig": {"Memory": 0, "NetworkMode": "none"}, "Unknown": 1}
    answer = api.request("POST", "/containers/copy/fork", body, {"name": "again"})
    assert answer.status == 201, answer
    again = api.get("/containers/again/json").json()
    assert again["HostConfig"]["Memory"] == 0 and list(again["NetworkSettings"]["Networks"]) == ["none"]
    engine.docker("kill", "copy")
    assert engine.docker("start", "-a", "again").stdout == b"1\n"


@pytest.mark.dockyardd_only
def test_forks_that_cannot_be_leave_nothing(engine: Engine, api: Connection) -> None:
    run(engine, "true", "-v", "/vol")
    volumes = api.get("/volumes").json()
    for path, body, query, status, text in (
        ("nosuch", None, {}, 404, "No such container: nosuch"),
        ("cc", None, {"name": "cc"}, 409, "is already in use"),
        ("cc", None, {"name": "../x"}, 400, "Invalid container name"),
        ("cc", {"HostConfig": {"Memory": 1}}, {}, 400, "Minimum memory"),
        ("cc", {"HostConfig": 1}, {}, 400, ""),
    ):
        answer = api.request("POST", f"/containers/{path}/fork", body, query)
        assert answer.status == status and text.lower() in answer.message.lower(), answer
    assert [row["Names"] for row in api.get("/containers/json", all=True).json()] == [["/cc"]]
    assert api.get("/volumes").json() == volumes
    assert api.get("/containers/cc/json").json()["State"]["Status"] == "running"


def test_a_daemon_that_is_killed_in_the_middle_leaves_nothing_frozen_and_nothing_half() -> None:
    if missing := why_no_dockyardd():
        pytest.skip(missing)
    with Dockyardd(bridge="dytf0", subnet="10.231.77.0/24") as own:
        load_images(own)
        run(own, "head -c 150000000 /dev/zero | tr '\\0' x > /big")
        for path in ("/commit?container=cc", "/containers/cc/fork?name=half"):
            _kill_while_frozen(own, path)
        assert [row["Names"] for row in own.request("GET", "/containers/json", None, all=True).json()] == [["/cc"]]
        snapshots = own.data_root / "snapshots/overlay"
        assert len(os.listdir(snapshots / "c")) == 1 and len(os.listdir(snapshots / "l")) == 2


def _kill_while_frozen(engine: Engine, path: str) -> None:
    with engine.api() as api, engine.api() as other:
        api.send_head("POST", path, None, None, None)
        end = time.monotonic() + 10
        while other.get("/containers/cc/json").json()["State"]["Status"] != "paused":
            assert time.monotonic() < end, "it is not frozen"
        engine.kill()
    engine.start()
    state = engine.request("GET", "/containers/cc/json").json()["State"]
    assert (state["Running"], state["Paused"]) == (True, False)
    assert engine.docker("exec", "cc", "echo", "goes on", timeout=10).stdout == b"goes on\n"
    assert len(engine.request("GET", "/images/json", None, all=True).json()) == 1
