"""What Docker lacks, over the API and by the `dockyard` command: docs/extensions.md."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tests.support import steps
from tests.support.engines import Engine
from tests.support.rawhttp import Connection

pytestmark = pytest.mark.dockyardd_only("Docker has none of this")
SECOND = 1_000_000_000


BINARY = str(Path(sys.executable).with_name("dockyard"))


def dockyard(engine: Engine, *words: str, check: bool = True, **more: Any) -> subprocess.CompletedProcess[str]:
    """Our command on the engine."""
    environment = {**engine.cli_environment(), **more.pop("env", {})}
    done = subprocess.run(
        [BINARY, *words], capture_output=True, text=True, timeout=60, env=environment, check=False, **more
    )
    assert not check or done.returncode == 0, done
    return done


def test_time_out_and_kill_of_an_exec(engine: Engine, api: Connection) -> None:
    box = steps.sleeper(api, name="box")
    begun = time.monotonic()
    script = "echo begun; (setsid sleep 5001 &); sleep 5001"
    done = dockyard(engine, "exec", "--timeout", "400ms", "box", "sh", "-c", script, check=False)
    assert done.returncode == 137 and time.monotonic() - begun < 5
    assert done.stdout == "begun\n" and "did not end in time" in done.stderr
    waiting = subprocess.Popen(
        [
            BINARY,
            "exec",
            "box",
            "sh",
            "-c",
            "(setsid sleep 5001 &); sleep 5001",
        ],
        env=engine.cli_environment(),
    )
    row = steps.eventually(lambda: dockyard(engine, "container", "execs", "--format", "json", "box").stdout)
    assert json.loads(row)["Command"].startswith('"sh -c (setsid sleep')
    (exec_id,) = dockyard(engine, "container", "execs", "-q", "box").stdout.split()
    body = api.get(f"/exec/{exec_id}/json").json()
    assert body["Running"] and "TimedOut" not in body
    assert api.post(f"/exec/{exec_id}/kill", None, signal="NOSUCH").status == 400
    assert dockyard(engine, "container", "exec-kill", "box", exec_id[:12]).stdout == f"{exec_id[:12]}\n"
    assert waiting.wait(10) == 137
    steps.eventually(lambda: b"5001" not in api.get(f"/containers/{box}/top").body)
    assert api.post(f"/exec/{exec_id}/kill").status == 409
    assert api.post("/exec/nosuch/kill").status == 404
    bad = {"Cmd": ["true"], "Timeout": -1}
    assert api.post(f"/containers/{box}/exec", bad).status == 400


def test_settings_of_a_container(engine: Engine, api: Connection) -> None:
    """A flag, a field, a label: all end in the same place; Docker's clients see nothing of it unless it is set."""
    flags = ("--restart-on-unhealthy", "--restart", "on-failure:3", "--max-runtime", "1h30m")
    ours = dockyard(engine, "create", *flags, "bb", "true").stdout.strip()
    labels = {"dockyard.restart-on-unhealthy": "true", "dockyard.max-runtime": "1h30m"}
    theirs = steps.create(api, "true", Labels=labels)
    plain = steps.create(api, "true")
    host = steps.inspect(api, ours)["HostConfig"]
    assert host["RestartPolicy"] == {"Name": "on-failure", "MaximumRetryCount": 3, "OnUnhealthy": True}
    assert host["MaximumRuntime"] == 5400 * SECOND
    host = steps.inspect(api, theirs)["HostConfig"]
    assert host["RestartPolicy"]["OnUnhealthy"] is True and host["MaximumRuntime"] == 5400 * SECOND
    host = steps.inspect(api, plain)["HostConfig"]
    assert "OnUnhealthy" not in host["RestartPolicy"] and "MaximumRuntime" not in host
    words = ("--max-runtime", "0", "--restart-on-unhealthy=false", "--label", "a=b", "--env", "X=1", "--env-rm", "PATH")
    dockyard(engine, "update", *words, ours)
    found = steps.inspect(api, ours)
    assert "MaximumRuntime" not in found["HostConfig"] and found["Config"]["Labels"]["a"] == "b"
    assert found["Config"]["Env"] == ["X=1"]
    dockyard(engine, "update", "--label-rm", "a", ours)
    assert "a" not in steps.inspect(api, ours)["Config"]["Labels"]
    for useless in ((), ("--label", "=x")):
        assert dockyard(engine, "update", *useless, ours, check=False).returncode != 0
    for body in ({"MaximumRuntime": -1}, {"RestartPolicy": {"Name": "x"}}, {"Labels": {"dockyard.lease": "x"}}):
        assert api.post(f"/containers/{ours}/update", body).status == 400
    auto = {"AutoRemove": True, "RestartPolicy": {"OnUnhealthy": True}}
    answer = api.post("/containers/create", {"Image": "bb", "HostConfig": auto})
    assert answer.status == 400 and "AutoRemove" in answer.message


def test_maximum_runtime(engine: Engine, api: Connection) -> None:
    done = dockyard(
        engine,
        "run",
        "--max-runtime",
        "300ms",
        "--stop-timeout",
        "0",
        "--name",
        "box",
        "bb",
        "sleep",
        "100",
        check=False,
    )
    assert done.returncode == 137
    state = steps.inspect(api, "box")["State"]
    assert (state["Status"], state["Error"]) == ("exited", "maximum run time of 300ms exceeded")


def test_restart_on_unhealthy(engine: Engine, api: Connection) -> None:
    check = ("--health-cmd", "test ! -e /bad", "--health-interval", "200ms", "--health-retries", "1")
    flags = ("--label", "dockyard.restart-on-unhealthy=true", "--stop-signal", "KILL")  # sleep minds no other
    identifier = engine.out("run", "-d", *check, *flags, "bb", "sleep", "1000")
    pid = steps.inspect(api, identifier)["State"]["Pid"]
    engine.out("exec", identifier, "touch", "/bad")
    engine.out("update", "--restart", "always", identifier)  # does not switch it off
    steps.eventually(lambda: steps.inspect(api, identifier)["RestartCount"] == 1, seconds=20)
    steps.eventually(lambda: steps.inspect(api, identifier)["State"]["Pid"] not in (0, pid))
    assert steps.inspect(api, identifier)["HostConfig"]["RestartPolicy"]["OnUnhealthy"] is True


# --- leases ---


def lease_of(api: Connection, ttl: Any = "60s") -> str:
    return str(steps.expect(api.post("/leases", {"TTL": ttl}), 201).json()["Id"])


def test_what_belongs_to_a_lease_goes_with_it(engine: Engine, api: Connection) -> None:
    """By header, by label, by flag; and what docker-py, the docker CLI and our command make."""
    lease = lease_of(api)
    head = {"X-Dockyard-Lease": lease}
    body = {"Image": "bb", "Cmd": ["sleep", "1000"], "HostConfig": {"Binds": ["leased-a:/data"]}}
    created = api.request("POST", "/containers/create", body, None, headers=head)
    assert created.status == 201
    steps.start(api, created.json()["Id"])
    assert api.request("POST", "/volumes/create", {"Name": "leased-b"}, None, headers=head).status == 201
    engine.out("run", "-d", "--label", f"dockyard.lease={lease}", "bb", "sleep", "1000")
    dockyard(engine, "create", "--lease", lease, "bb", "true")
    dockyard(engine, "volume", "create", "leased-c", env={"DOCKYARD_LEASE": lease})
    found = api.get(f"/leases/{lease}").json()
    assert len(found["Containers"]) == 3 and sorted(found["Volumes"]) == ["leased-a", "leased-b", "leased-c"]
    assert found["TTL"] == 60 * SECOND and found["Holders"] == 0 and found["ExpiresAt"] > found["CreatedAt"]
    rows = [json.loads(line) for line in dockyard(engine, "lease", "ls", "--format", "json").stdout.splitlines()]
    assert [(row["ID"], row["Containers"], row["TTL"]) for row in rows] == [(lease, "3", "1m0s")]
    removed = steps.expect(api.delete(f"/leases/{lease}"), 200).json()
    assert len(removed["Containers"]) == 3 and len(removed["Volumes"]) == 3
    assert api.get("/containers/json", all=True).json() == [] and not api.get("/volumes").json()["Volumes"]
    assert api.get(f"/leases/{lease}").status == 404
    answer = api.request("POST", "/containers/create", {"Image": "bb"}, None, headers=head)
    assert answer.status == 400 and "no such lease" in answer.message
    for ttl in (0, -1, "soon", "1ms"):
        assert api.post("/leases", {"TTL": ttl}).status == 400


def test_a_holder_that_vanishes_ends_its_lease(engine: Engine, api: Connection) -> None:
    lease = lease_of(api, "500ms")
    name = steps.create(api, "true", Labels={"dockyard.lease": lease})
    with engine.api() as holder:
        holder.send_head("GET", f"/leases/{lease}/hold", None, None, None)
        assert holder._read_head()[0] == 200
        time.sleep(1)
        assert api.get(f"/leases/{lease}").json()["Holders"] == 1
        assert api.get(f"/containers/{name}/json").status == 200
    steps.eventually(lambda: api.get(f"/leases/{lease}").status == 404)
    assert api.get(f"/containers/{name}/json").status == 404


def test_renewals(engine: Engine, api: Connection) -> None:
    lease = lease_of(api, "600ms")
    for _ in range(3):
        time.sleep(0.3)
        assert api.post(f"/leases/{lease}/renew").status == 200
    assert dockyard(engine, "lease", "renew", "--ttl", "1h", lease).stdout.strip() == lease
    assert api.get(f"/leases/{lease}").json()["TTL"] == 3600 * SECOND
    assert dockyard(engine, "lease", "rm", lease).stdout.strip() == lease
    assert api.post(f"/leases/{lease}/renew").status == 404


def test_lease_run(engine: Engine, api: Connection) -> None:
    """The program's exit code; everything goes at its end, also if our command is killed."""
    script = f"{BINARY} run -d bb sleep 1000 >/dev/null && {BINARY} ps -q | wc -l; exit 7"
    done = dockyard(engine, "lease", "run", "sh", "-c", script, check=False)
    assert (done.returncode, done.stdout.strip()) == (7, "1")
    assert api.get("/containers/json", all=True).json() == []
    script = f"{BINARY} run -d bb sleep 1000 >/dev/null; exec sleep 30"
    running = subprocess.Popen(
        [BINARY, "lease", "run", "--ttl", "300ms", "sh", "-c", script],
        env=engine.cli_environment(),
        start_new_session=True,
    )
    steps.eventually(lambda: len(api.get("/containers/json").json()) == 1)
    os.killpg(running.pid, signal.SIGKILL)
    running.wait()
    steps.eventually(lambda: api.get("/containers/json", all=True).json() == [])


# --- system prune ---


def test_system_prune(engine: Engine, api: Connection) -> None:
    kept = steps.sleeper(api)
    gone = steps.create(api, "true", Labels={"x": "1"}, host={"Binds": ["/anonymous"]})
    dockyard(engine, "volume", "create", "named")
    done = dockyard(engine, "system", "prune", input="n\n", check=False)
    assert "all stopped containers" in done.stdout and "anonymous volumes" not in done.stdout
    dockyard(engine, "system", "prune", "-f", "--filter", "label=x=2")
    assert api.get(f"/containers/{gone}/json").status == 200
    done = dockyard(engine, "system", "prune", "-f", "--volumes")
    assert f"Deleted Containers:\n{gone}\n" in done.stdout and "Total reclaimed space:" in done.stdout
    assert [row["Id"] for row in api.get("/containers/json", all=True).json()] == [kept]
    assert [volume["Name"] for volume in api.get("/volumes").json()["Volumes"]] == ["named"]
    done = dockyard(engine, "system", "prune", "-f", "--volumes", "--filter", "until=1h", check=False)
    assert done.returncode == 1 and "until" in done.stderr
    assert dockyard(engine, "volume", "rm", "named").returncode == 0
