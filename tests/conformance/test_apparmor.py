"""AppArmor profiles of containers, where the kernel has AppArmor (in CI: in the virtual machine)."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from dockyard.linux import apparmor
from tests.support import steps
from tests.support.engines import Dockyardd, Engine
from tests.support.rawhttp import Connection

pytestmark = [pytest.mark.vm, pytest.mark.skipif(not apparmor.enabled(), reason="the kernel has no AppArmor")]

CURRENT = "cat /proc/self/attr/current"


@pytest.mark.dockyardd_only("the profile has another name there")
def test_containers_and_execs_are_confined(engine: Engine, api: Connection) -> None:
    container = steps.sleeper(api)
    assert steps.inspect(api, container)["AppArmorProfile"] == "dockyard-default"
    assert "name=apparmor" in api.get("/info").json()["SecurityOptions"]
    pid = steps.inspect(api, container)["State"]["Pid"]
    with open(f"/proc/{pid}/attr/current") as file:
        assert file.read().strip() == "dockyard-default (enforce)"
    assert steps.exec_sh(api, container, CURRENT)[1].strip() == "dockyard-default (enforce)"


def test_the_profile_forbids_mounting(api: Connection) -> None:
    script = "mkdir /m; mount -t tmpfs none /m 2>&1; echo $?"
    assert steps.sh(api, script, host={"CapAdd": ["SYS_ADMIN"]}).strip().endswith(("1", "255"))
    options = ["apparmor=unconfined"]
    assert steps.sh(api, script, host={"CapAdd": ["SYS_ADMIN"], "SecurityOpt": options}).strip() == "0"


def test_unconfined_and_privileged(api: Connection) -> None:
    assert steps.sh(api, CURRENT, host={"SecurityOpt": ["apparmor=unconfined"]}).strip() == "unconfined"
    assert steps.sh(api, CURRENT, host={"Privileged": True}).strip() == "unconfined"


@pytest.mark.dockyardd_only("the profile has another name there")
def test_s19_privileged_keeps_a_profile_that_is_asked_for(api: Connection) -> None:
    host = {"Privileged": True, "SecurityOpt": ["apparmor=dockyard-default"]}
    assert steps.sh(api, CURRENT, host=host).strip() == "dockyard-default (enforce)"


def test_an_unknown_profile_is_named(api: Connection) -> None:
    container = steps.create(api, "true", host={"SecurityOpt": ["apparmor=nosuch"]})
    answer = api.post(f"/containers/{container}/start")
    assert answer.status in (400, 500) and "nosuch" in answer.message, answer.message


def test_s19_the_profile_is_loaded_anew_at_each_start() -> None:
    weak = b"profile dockyard-default flags=(complain) { file, }\n"
    subprocess.run(["apparmor_parser", "-K", "-r"], input=weak, check=True, timeout=30)
    with Dockyardd() as engine:
        loaded = Path("/sys/kernel/security/apparmor/profiles").read_text().splitlines()
        assert "dockyard-default (enforce)" in loaded, engine.log_tail()
