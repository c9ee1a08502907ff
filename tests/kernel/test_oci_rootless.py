"""`dockyard-runtime` as an ordinary user, by itself and under podman."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from dockyard.runtime.cgroups import version
from tests.support import busybox, ordinary_user
from tests.support.leaks import CGROUPS
from tests.support.oci import unpack_root
from tests.support.oci_schema import check_config
from tests.support.ordinary_user import OrdinaryUser
from tests.support.steps import eventually

pytestmark = pytest.mark.skipif(bool(ordinary_user.missing()), reason=ordinary_user.missing())

MANY_IDS = pytest.mark.skipif(not shutil.which("newuidmap"), reason="newuidmap is not installed")
WRITES = """
cd /sys/fs/cgroup
for f in cgroup.procs */cgroup.procs */release_agent; do [ -e $f ] && echo 0 > $f && echo wrote $f; done 2>/dev/null
mkdir mine */mine 2>/dev/null && echo made
grep /sys/fs/cgroup /proc/self/mountinfo
"""


@pytest.fixture(scope="module")
def user() -> Iterator[OrdinaryUser]:
    found = OrdinaryUser()
    try:
        yield found
    finally:
        found.close()


@pytest.fixture(scope="module")
def default(user: OrdinaryUser) -> dict[str, Any]:
    """config.json as `spec --rootless` writes it, without a terminal."""
    bundle = user.directory / "bundle"
    (bundle / "rootfs").mkdir(parents=True)
    unpack_root(bundle / "rootfs")
    user.own(bundle)
    user(user.runtime, "spec", "--rootless", "--bundle", bundle)
    config: dict[str, Any] = json.loads((bundle / "config.json").read_text())
    check_config(config)
    config["process"]["terminal"] = False
    return config


@pytest.fixture
def run(user: OrdinaryUser, default: dict[str, Any]) -> Iterator[Callable[..., Any]]:
    """run(script, change, *options): the bundle with this script and what `change` does to its config.json."""

    def run(script: str, change: Callable[[dict[str, Any]], Any] = dict, *options: str, check: bool = True) -> Any:
        config = json.loads(json.dumps(default))
        config["process"]["args"] = ["sh", "-c", script]
        change(config)
        (user.directory / "bundle/config.json").write_text(json.dumps(config))
        return user(user.runtime, "run", "--bundle", "bundle", *(options or ["c"]), check=check)

    yield run
    user(user.runtime, "delete", "--force", "c")


def with_cgroups(config: dict[str, Any]) -> None:
    config["mounts"].append({"destination": "/sys/fs/cgroup", "type": "cgroup", "options": ["rw"]})


def bound_read_only(config: dict[str, Any]) -> None:
    config["mounts"][-1]["options"] = ["rbind", "ro"]  # as others write it: of the first mount alone, by the letter


def without_its_own_view(config: dict[str, Any]) -> None:
    with_cgroups(config)
    config["linux"]["namespaces"] = [each for each in config["linux"]["namespaces"] if each["type"] != "cgroup"]


@pytest.mark.parametrize("change", [dict, bound_read_only, with_cgroups, without_its_own_view])
def test_s10_control_groups_cannot_be_written(
    run: Callable[..., Any], change: Callable[[dict[str, Any]], None]
) -> None:
    found = run(WRITES, change).stdout.splitlines()
    assert found and not [line for line in found if line.startswith(("wrote", "made"))], found
    options = [line.split()[5].split(",") for line in found]
    assert all("ro" in each for each in options), found


def without_mounts_of_its_own(config: dict[str, Any]) -> None:
    config["linux"]["namespaces"] = [each for each in config["linux"]["namespaces"] if each["type"] != "mount"]


def test_in_the_mount_namespace_of_the_command(user: OrdinaryUser, run: Callable[..., Any]) -> None:
    before = Path("/proc/self/mountinfo").read_text()
    run("sleep 1000", without_mounts_of_its_own, "--detach", "c")
    inside = user(user.runtime, "exec", "c", "sh", "-c", "ls -d /bin/busybox /usr/lib/x86_64*; id -u", check=False)
    assert inside.stdout.split() == ["/bin/busybox", "0"]
    user(user.runtime, "delete", "--force", "c")
    assert Path("/proc/self/mountinfo").read_text() == before, "the command has made one that it is root in"


def test_a_life(user: OrdinaryUser, run: Callable[..., Any]) -> None:
    script = "id -u; cat /proc/self/uid_map; touch /dev/shm/x; echo > /dev/null && stat -c %t:%T /dev/tty; exit 3"
    done = run(script, check=False)
    assert done.returncode == 3, done.stderr
    assert done.stdout.splitlines() == [
        "0", f"         0 {user.uid:10} {1:10}", "5:0",
    ]  # fmt: skip
    run("sleep 1000", dict, "--detach", "--pid-file", "pid", "c")
    state = json.loads(user(user.runtime, "state", "c").stdout)
    assert (state["status"], state["pid"]) == ("running", int((user.directory / "pid").read_text()))
    assert Path(f"/proc/{state['pid']}").stat().st_uid == user.uid
    done = user(user.runtime, "exec", "c", "sh", "-c", "id -u; readlink /proc/1/ns/user; exit 4", check=False)
    assert (done.returncode, done.stdout.split()) == (4, ["0", os.readlink(f"/proc/{state['pid']}/ns/user")])
    pause = user(user.runtime, "pause", "c", check=False)
    assert pause.returncode == 1 and "no control group: none was delegated" in pause.stderr
    assert user(user.runtime, "delete", "c", check=False).returncode == 1
    user(user.runtime, "kill", "c", "KILL")
    eventually(lambda: json.loads(user(user.runtime, "state", "c").stdout)["status"] == "stopped")
    user(user.runtime, "delete", "c")
    assert user(user.runtime, "list", "--quiet").stdout == ""


@MANY_IDS
def test_many_ids(user: OrdinaryUser, run: Callable[..., Any]) -> None:
    def many(config: dict[str, Any]) -> None:
        for name, own in (("uidMappings", user.uid), ("gidMappings", user.gid)):
            config["linux"][name] = [
                {"containerID": 0, "hostID": own, "size": 1},
                {"containerID": 1, "hostID": user.first, "size": 1000},
            ]
        config["process"]["user"] = {"uid": 7, "gid": 8, "additionalGids": [9]}

    run("trap '' TERM; while :; do sleep 0.1; done", many, "--detach", "c")
    pid = json.loads(user(user.runtime, "state", "c").stdout)["pid"]
    assert Path(f"/proc/{pid}").stat().st_uid == user.first + 6
    found = user(user.runtime, "exec", "--additional-gids", "5", "c", "id").stdout
    assert found.startswith("uid=7 gid=8") and set(found.strip().partition("groups=")[2].split(",")) >= {"5", "9"}
    user(user.runtime, "delete", "--force", "c")
    eventually(lambda: not Path(f"/proc/{pid}").exists() or " Z " in Path(f"/proc/{pid}/stat").read_text())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c["linux"].update(namespaces=[{"type": "mount"}]), "without root, a user namespace is needed"),
        (
            lambda c: c["linux"].update(resources={"pids": {"limit": 5}}),
            "limits need control groups that are delegated",
        ),
        pytest.param(
            lambda c: c["linux"]["uidMappings"][0].update(hostID=0),
            "newuidmap: uid range [0-1) -> [0-1) not allowed",
            marks=MANY_IDS,
        ),
        (lambda c: c["linux"]["uidMappings"][0].update(containerID=5), "needs a root (containerID 0)"),
        (lambda c: c["process"].update(user={"additionalGids": [0]}), "process.user.additionalGids"),
        (
            lambda c: c["linux"].update(devices=[{"type": "c", "path": "/dev/x", "major": 1, "minor": 3}]),
            "/dev/x cannot be made without root, and the host has none",
        ),
        (
            lambda c: c["linux"].update(devices=[{"type": "c", "path": "/dev/full", "major": 1, "minor": 3}]),
            "that of the host is another device",
        ),
        (
            lambda c: c["linux"].update(devices=[{"type": "c", "path": "/dev/null", "major": 1, "minor": 3, "uid": 5}]),
            "fileMode, uid and gid of a device cannot be set without root",
        ),
        (lambda c: c["linux"].update(cgroupsPath="a:b:c"), "--systemd-cgroup: not supported without root"),
    ],
)
def test_what_needs_root(
    user: OrdinaryUser, run: Callable[..., Any], change: Callable[[Any], None], message: str
) -> None:
    done = run("true", change, check=False)
    assert done.returncode == 1 and message in done.stderr, done.stderr
    assert not list((user.state / "dockyard-runtime").glob("*"))
    assert user(user.runtime, "list", "--quiet").stdout == ""


@pytest.fixture
def delegated(user: OrdinaryUser) -> Iterator[Path]:
    """A control group that is the user's, ourselves (and so what we start) in a group below it."""
    top = CGROUPS / f"dockyard-test-{user.name}"
    before = next(line[4:] for line in Path("/proc/self/cgroup").read_text().splitlines() if line.startswith("0::/"))
    try:
        for path in (top, top / "session"):
            path.mkdir()
            for name in ("", "cgroup.procs", "cgroup.threads", "cgroup.subtree_control"):
                os.chown(path / name, user.uid, user.gid)
        (top / "session/cgroup.procs").write_text("0")
        yield top
    finally:
        (CGROUPS / before / "cgroup.procs").write_text("0")
        for path in (top / "session", top):
            path.rmdir()


@pytest.mark.vm
@pytest.mark.skipif(version() != 2, reason="needs cgroup v2")
def test_s10_a_delegated_control_group(user: OrdinaryUser, delegated: Path, run: Callable[..., Any]) -> None:
    def limited(config: dict[str, Any]) -> None:
        with_cgroups(config)
        config["linux"]["resources"] = {"pids": {"limit": 30}}

    script = (
        "cat /proc/self/cgroup; mkdir /sys/fs/cgroup/mine && rmdir /sys/fs/cgroup/mine && ls /sys/fs/cgroup; sleep 1000"
    )
    run(f"({script}) > /dev/shm/said; sleep 1000", limited, "--detach", "c")
    group = delegated / "dockyard-runtime-c"
    assert (group / "pids.max").read_text() == "30\n"
    said = eventually(
        lambda: user(user.runtime, "exec", "c", "cat", "/dev/shm/said").stdout.split(), lambda t: len(t) > 5
    )
    assert "0::/" in said and "pids.max" in said and "session" not in said
    user(user.runtime, "pause", "c")
    assert "frozen 1" in (group / "cgroup.events").read_text()
    user(user.runtime, "resume", "c")
    user(user.runtime, "update", "--pids-limit", "40", "c")
    assert (group / "pids.max").read_text() == "40\n"
    assert len(json.loads(user(user.runtime, "ps", "--format", "json", "c").stdout)) >= 2
    user(user.runtime, "delete", "--force", "c")
    assert not group.exists()


def test_a_place_for_containers(user: OrdinaryUser) -> None:
    done = user(user.runtime, "list", check=False, XDG_RUNTIME_DIR="")
    assert done.returncode == 1 and "--root: needed by a user without XDG_RUNTIME_DIR" in done.stderr
    assert "neither auto, true nor false" in user(user.runtime, "--rootless", "x", "list", check=False).stderr


@pytest.mark.skipif(not shutil.which("podman") or not shutil.which("conmon"), reason="podman is not installed")
def test_podman_without_root(user: OrdinaryUser) -> None:
    podman = [
        "podman", "--root", "root", "--runroot", "runroot", "--tmpdir", "tmp", "--cgroup-manager=cgroupfs",
        "--events-backend=file", "--storage-driver=vfs", "--runtime", user.runtime,
    ]  # fmt: skip
    (user.directory / "bb.tar").write_bytes(busybox.rootfs_tar())
    user(*podman, "import", "bb.tar", "bb:latest")
    own = ("--rm", "--network=none")
    done = user(*podman, "run", *own, "-u", "7", "bb", "sh", "-c", "id -u; cat /proc/self/uid_map; exit 5", check=False)
    assert (done.returncode, done.stdout.split()[:4]) == (5, ["7", "0", str(user.uid), "1"]), done.stderr
    assert user(*podman, "run", *own, "--userns=keep-id", "bb", "id", "-u").stdout == f"{user.uid}\n"
    for options in (("--network=none",), ("--network=none", "--cgroupns=private"), ("--network=host",)):  # S10
        found = user(*podman, "run", "--rm", *options, "bb", "sh", "-c", WRITES).stdout.splitlines()
        assert found and all("ro" in line.split()[5].split(",") for line in found), found
    program = "trap 'echo stopping; exit 3' TERM; echo begun; while :; do sleep 0.1; done"
    user(*podman, "run", "-d", "--name", "c", "--network=none", "bb", "sh", "-c", program)
    assert user(*podman, "exec", "c", "sh", "-c", "id -u; exit 4", check=False).stdout == "0\n"
    user(*podman, "stop", "-t", "5", "c")
    assert user(*podman, "inspect", "-f", "{{.State.ExitCode}}", "c").stdout == "3\n"
    assert user(*podman, "logs", "c").stdout == "begun\nstopping\n"
    user(*podman, "start", "c")
    user(*podman, "kill", "--signal", "KILL", "c")
    user(*podman, "rm", "-f", "c")
    assert not list((user.state / "dockyard-runtime").glob("*"))
    user("podman", "unshare", "rm", "-rf", "root", "runroot")  # files of its other ids
