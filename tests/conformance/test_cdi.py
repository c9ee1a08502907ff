"""Devices by the Container Device Interface: specifications of made-up vendors, seen from inside the container."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conformance.test_dockyard_cli import dockyard
from tests.support import steps
from tests.support.engines import Engine
from tests.support.rawhttp import Connection

pytestmark = pytest.mark.dockyardd_only("CDI came after 20.10")

YAML = """
cdiVersion: "0.7.0"
kind: vendor.com/thing
containerEdits:
  env: [COMMON=1]
devices:
  - name: full
    containerEdits:
      env: [THING=full]
      additionalGids: [4321]
      deviceNodes:
        - {path: /dev/thing, hostPath: /dev/full, permissions: rw}
      mounts:
        - {hostPath: HOST, containerPath: /opt/vendor, options: [ro, bind]}
"""


@pytest.fixture
def directory(engine: Engine, tmp_path: Path) -> Iterator[Path]:
    """The engine's directory of specifications, with that of vendor.com/thing in it."""
    made = engine.root / "cdi"
    made.mkdir()
    (tmp_path / "library").write_text("driver\n")
    (made / "vendor.yaml").write_text(YAML.replace("HOST", str(tmp_path)))
    yield made
    for file in made.iterdir():
        file.unlink()
    made.rmdir()


def gpu(path: Path, vendor: str, *names: str) -> None:
    devices = [{"name": name, "containerEdits": {"env": [f"GPU_{name.upper()}={vendor}"]}} for name in names]
    path.write_text(json.dumps({"cdiVersion": "0.5.0", "kind": f"{vendor}.com/gpu", "devices": devices}))


def requests(**fields: Any) -> dict[str, Any]:
    return {"host": {"DeviceRequests": [fields]}}


SCRIPT = "echo $COMMON $THING; id -G; cat /opt/vendor/library; echo x > /dev/thing"


def test_a_device_by_name(engine: Engine, api: Connection, directory: Path) -> None:
    code, out, err = steps.run(api, "sh", "-c", SCRIPT, **requests(Driver="cdi", DeviceIDs=["vendor.com/thing=full"]))
    assert out.splitlines()[0] == "1 full" and "4321" in out.splitlines()[1].split() and out.splitlines()[2] == "driver"
    assert code == 1 and "No space left on device" in err  # /dev/full: it may be opened and written to
    done = dockyard(engine, "run", "--rm", "--device", "vendor.com/thing=full", "bb", "sh", "-c", "echo $THING")
    assert done.stdout.decode().strip() == "full"


def test_gpus(engine: Engine, api: Connection, directory: Path) -> None:
    gpus = {"Count": -1, "Capabilities": [["gpu"]]}
    answer = api.post("/containers/create", {"Image": "bb", "HostConfig": requests(**gpus)["host"]})
    assert (answer.status, answer.message) == (400, 'could not select device driver "" with capabilities: [[gpu]]')
    gpu(directory / "amd.json", "amd", "0", "1")
    assert "GPU_0=amd\nGPU_1=amd" in steps.run(api, "sh", "-c", "env | sort", **requests(**gpus))[1]
    gpu(directory / "nvidia.json", "nvidia", "0", "1", "all")
    done = engine.docker("run", "--rm", "--gpus", "all", "bb", "sh", "-c", "env | grep GPU")
    assert done.stdout.decode().split() == ["GPU_ALL=nvidia"]
    done = engine.docker("run", "--rm", "--gpus", "device=1", "bb", "sh", "-c", "env | grep GPU")
    assert done.stdout.decode().split() == ["GPU_1=nvidia"]


def test_bad_specifications_are_told_and_leave_the_others_usable(
    engine: Engine, api: Connection, directory: Path
) -> None:
    (directory / "bad.json").write_text('{"cdiVersion": "0.5.0", "kind": "a/b", "devices": [], "secret": 1}')
    info = api.get("/info").json()
    assert info["CDISpecDirs"] == [str(directory), f"{directory}-run"]
    assert info["DiscoveredDevices"] == [{"Source": "cdi", "ID": "vendor.com/thing=full"}]
    (told,) = [each for each in info["Warnings"] if "CDI" in each]
    assert told.startswith(f"WARNING: CDI: {directory}/bad.json: ")
    wanted = requests(Driver="cdi", DeviceIDs=["vendor.com/thing=none"])
    answer = api.post("/containers/create", {"Image": "bb", "HostConfig": wanted["host"]})
    assert answer.status == 400
    assert answer.message.startswith("CDI device injection failed: unresolvable CDI devices vendor.com/thing=none")
    assert "  cdi: vendor.com/thing=full\n" in dockyard(engine, "info").stdout.decode()


def test_a_specification_that_goes_before_the_start(engine: Engine, api: Connection, directory: Path) -> None:
    identifier = steps.create(api, "true", **requests(Driver="cdi", DeviceIDs=["vendor.com/thing=full"]))
    (directory / "vendor.yaml").rename(directory / "vendor.away")
    answer = api.post(f"/containers/{identifier}/start")
    assert answer.status == 400 and "unresolvable CDI devices vendor.com/thing=full" in answer.message
    (directory / "vendor.away").rename(directory / "vendor.yaml")
    assert api.post(f"/containers/{identifier}/start").status == 204


@pytest.mark.parametrize("runtime", ["dockyard", "runc", "crun"])
def test_hooks_of_a_device_are_run_once(api: Connection, directory: Path, tmp_path: Path, runtime: str) -> None:
    if runtime not in api.get("/info").json()["Runtimes"]:
        pytest.skip(f"{runtime} is not installed")
    program = tmp_path / "hook"
    program.write_text(f"#!/bin/sh\ncat >> {tmp_path}/$1\n")
    program.chmod(0o755)
    hooks = [{"hookName": name, "path": str(program), "args": ["hook", name]} for name in ("createRuntime", "poststop")]
    devices = [{"name": "hooked", "containerEdits": {"hooks": hooks}}]
    (directory / "hooks.json").write_text(
        json.dumps({"cdiVersion": "0.5.0", "kind": "hook.com/it", "devices": devices})
    )
    wanted = requests(Driver="cdi", DeviceIDs=["hook.com/it=hooked"])
    wanted["host"]["Runtime"] = runtime
    identifier = steps.create(api, "true", **wanted)
    steps.start(api, identifier)
    assert steps.wait(api, identifier) == 0
    assert json.loads((tmp_path / "createRuntime").read_text())["id"] == identifier
    steps.eventually(lambda: (tmp_path / "poststop").exists() and (tmp_path / "poststop").read_text())
    steps.remove(api, identifier)
    assert json.loads((tmp_path / "poststop").read_text())["id"] == identifier
