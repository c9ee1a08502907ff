"""Namespaces that a bundle names by their path: user and mount namespaces, alone and with others."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dockyard.linux import abi, userns
from dockyard.runtime.bundle import Bundler
from tests.support.oci import Bundle, OciRuntime, docker_config

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")

RANGE = (0, 100000, 65536)
MAPPING = [{"containerID": 0, "hostID": 100000, "size": 65536}]
LINK = {"user": "user", "network": "net", "ipc": "ipc", "uts": "uts", "mount": "mnt", "pid": "pid", "cgroup": "cgroup"}


@pytest.fixture
def bundle(tmp_path: Path, bundler: Bundler) -> Bundle:
    for each in (tmp_path, *tmp_path.parents[:2]):
        each.chmod(0o755)  # the container's root is nobody here
    return Bundle(tmp_path / "bundle", docker_config(bundler))


@pytest.fixture
def held() -> Iterator[userns.Held]:
    found = userns.Held((RANGE,), (RANGE,), abi.CLONE_NEWNET | abi.CLONE_NEWIPC | abi.CLONE_NEWUTS)
    yield found
    found.close()


def place(bundle: Bundle, **paths: str) -> None:
    """Namespaces of these kinds by their paths ("": a new one), those that every container has beside them."""
    kinds = dict.fromkeys(("pid", "network", "ipc", "uts", "mount", "cgroup"), "") | paths
    bundle.config["linux"]["namespaces"] = [{"type": k, "path": p} if p else {"type": k} for k, p in kinds.items()]


def test_a_user_namespace_by_its_path(ours: OciRuntime, bundle: Bundle, held: userns.Held) -> None:
    place(bundle, user=f"/proc/{held.pid}/ns/user")
    os.chown(bundle.root, 100000, 100000)
    script = "id -u; readlink /proc/self/ns/user; touch /new; stat -c %u /new; hostname inside; hostname"
    del bundle.config["linux"]["seccomp"]  # which was made for fewer capabilities
    bundle.config["process"]["capabilities"] = {k: ["CAP_SYS_ADMIN"] for k in ("bounding", "effective", "permitted")}
    link = os.readlink(f"/proc/{held.pid}/ns/user")
    assert ours.run(bundle.sh(script)).stdout.split() == ["0", link, "0", "inside"]
    assert (bundle.root / "new").stat().st_uid == 100000
    identity = ours.started(bundle.sh("sleep 1000"))
    assert ours.exec(identity, "sh", "-c", "id -u; readlink /proc/self/ns/user").stdout.split() == ["0", link]
    assert Path(f"/proc/{ours.state(identity)['pid']}/uid_map").read_text().split() == ["0", "100000", "65536"]


def test_a_user_namespace_with_what_belongs_to_it(ours: OciRuntime, bundle: Bundle, held: userns.Held) -> None:
    kinds = ("user", "network", "ipc", "uts")
    del bundle.config["hostname"]
    place(bundle, **{kind: f"/proc/{held.pid}/ns/{LINK[kind]}" for kind in kinds})
    found = ours.run(
        bundle.sh(f"for n in {' '.join(LINK[kind] for kind in kinds)}; do readlink /proc/self/ns/$n; done")
    ).stdout.split()
    assert found == [os.readlink(f"/proc/{held.pid}/ns/{LINK[kind]}") for kind in kinds]


def test_mappings_beside_a_path_are_its_own_or_an_error(ours: OciRuntime, bundle: Bundle, held: userns.Held) -> None:
    place(bundle, user=f"/proc/{held.pid}/ns/user")
    bundle.config["linux"] |= {"uidMappings": MAPPING, "gidMappings": MAPPING}
    assert ours.run(bundle.sh("id -u")).stdout == "0\n"
    bundle.config["linux"]["gidMappings"] = [{"containerID": 0, "hostID": 7, "size": 1}]
    done = ours.run(bundle, check=False)
    assert done.returncode == 1
    assert "linux.gidMappings: cannot be set for a user namespace that is joined by its path" in done.stderr


def test_the_runtimes_own_user_namespace_by_its_path(ours: OciRuntime, bundle: Bundle) -> None:
    place(bundle, user="/proc/self/ns/user")
    assert ours.run(bundle.sh("readlink /proc/self/ns/user")).stdout.strip() == os.readlink("/proc/self/ns/user")


@pytest.fixture
def mounts_of_its_own(tmp_path: Path) -> Iterator[str]:
    """/proc/PID/ns/mnt of a process with a mount namespace of its own."""
    with subprocess.Popen(
        ["unshare", "--mount", "sh", "-c", "echo; exec sleep 1000"], stdout=subprocess.PIPE
    ) as holder:
        assert holder.stdout is not None and holder.stdout.readline()
        try:
            yield f"/proc/{holder.pid}/ns/mnt"
        finally:
            holder.kill()


@pytest.mark.parametrize("with_users", [False, True])
def test_a_mount_namespace_by_its_path(
    ours: OciRuntime, bundle: Bundle, mounts_of_its_own: str, with_users: bool
) -> None:
    place(bundle, mount=mounts_of_its_own, **({"user": ""} if with_users else {}))
    if with_users:
        bundle.config["linux"] |= {"uidMappings": MAPPING, "gidMappings": MAPPING}
    root = next(line for line in Path("/proc/self/mountinfo").read_text().splitlines() if line.split()[4] == "/")
    identity = ours.started(bundle.sh("mount | wc -l > /dev/shm/count; sleep 1000"))
    assert os.readlink(f"/proc/{ours.state(identity)['pid']}/ns/mnt") == os.readlink(mounts_of_its_own)
    inside = ours.exec(
        identity, "sh", "-c", "ls -d /rootfs /bin/busybox; readlink /proc/self/ns/mnt; id -u", check=False
    )
    assert inside.stdout.split() == ["/bin/busybox", os.readlink(mounts_of_its_own), "0"]
    ours("delete", "--force", identity)
    assert root in Path("/proc/self/mountinfo").read_text().splitlines(), "the host's mounts are as they were"


@pytest.mark.parametrize(
    ("paths", "message"),
    [
        ({"user": "/proc/self/ns/net"}, "/proc/self/ns/net is not a namespace of type user"),
        ({"mount": "/etc/passwd"}, "/etc/passwd is not a namespace of type mount"),
        ({"network": "/nowhere"}, "/nowhere: no such file or directory"),
        ({"uts": "proc/self/ns/uts"}, "'proc/self/ns/uts' is not an absolute path"),
        ({"mount": "/proc/self/ns/mnt"}, "the runtime's own mount namespace"),
    ],
)
def test_paths_that_are_no_such_namespace(
    ours: OciRuntime, bundle: Bundle, paths: dict[str, Any], message: str
) -> None:
    place(bundle, **paths)
    done = ours.run(bundle, check=False)
    assert done.returncode == 1 and "linux.namespaces[" in done.stderr and message in done.stderr, done.stderr


def test_a_mount_with_the_owners_of_the_user_namespace(ours: OciRuntime, bundle: Bundle, tmp_path: Path) -> None:
    place(bundle, user="")
    bundle.config["linux"] |= {"uidMappings": MAPPING, "gidMappings": MAPPING}
    source = tmp_path / "source"
    source.mkdir()
    os.chown(source, 5, 6)
    bundle.config["mounts"].append(
        {"destination": "/mapped", "type": "bind", "source": str(source), "options": ["bind", "idmap"]}
    )
    assert ours.run(bundle.sh("stat -c %u:%g /mapped")).stdout == "5:6\n"
