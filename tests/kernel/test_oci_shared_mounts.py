"""Containers without a mount namespace of their own: a chroot in the runtime's, of which nothing is left behind."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.support.oci import Bundle, OciRuntime

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")

MAPPING = [{"containerID": 0, "hostID": 100000, "size": 65536}]


@pytest.fixture
def shared(bundle: Bundle) -> Bundle:
    """A bundle that shares the runtime's mount namespace."""
    linux: dict[str, Any] = bundle.config["linux"]
    linux["namespaces"] = [each for each in linux["namespaces"] if each["type"] != "mount"]
    return bundle


def mounts_below(path: Path) -> list[str]:
    lines = Path("/proc/self/mountinfo").read_text().splitlines()
    return [line.split()[4] for line in lines if line.split()[4].startswith(str(path))]


def test_its_mounts_are_the_hosts_until_it_is_deleted(ours: OciRuntime, shared: Bundle) -> None:
    identity = ours.started(shared.sh("mkdir /tmp/m; sleep 1000"))
    link = os.readlink("/proc/self/ns/mnt")
    assert os.readlink(f"/proc/{ours.state(identity)['pid']}/ns/mnt") == link
    seen = mounts_below(shared.root)
    assert seen[0] == str(shared.root) and f"{shared.root}/proc" in seen
    script = f"readlink /proc/self/ns/mnt; ls -d /bin/busybox {shared.root}; touch /sys/x"
    inside = ours.exec(identity, "sh", "-c", script, check=False)
    assert inside.stdout.split() == [link, "/bin/busybox"]
    assert "Read-only" in inside.stderr
    ours("delete", "--force", identity)
    assert mounts_below(shared.root) == []
    assert (shared.root / "bin/busybox").exists() and not list((shared.root / "proc").iterdir())


def test_a_root_that_is_shared_with_others_keeps_its_mounts_to_itself(ours: OciRuntime, shared: Bundle) -> None:
    """In a mount namespace of the test's own whose mounts are shared with a second one, as systemd's services are."""
    place = f"/{ours.parent}/c"
    shared.config["linux"]["cgroupsPath"] = place
    shared.config["process"]["args"] = ["/bin/sleep", "1000"]
    shared.write()
    runtime = " ".join(f"'{word}'" for word in ours.command)
    identity = ours.new_id()
    script = f"""
        mount --make-rshared /
        unshare --mount --propagation unchanged sh -c 'echo; exec sleep 1000' > {shared.directory}/ready & other=$!
        until [ -s {shared.directory}/ready ]; do sleep 0.01; done
        {runtime} run --detach --bundle {shared.directory} {identity} > /dev/null 2>&1 || exit 9
        grep -c ' {shared.root}' /proc/self/mountinfo; grep -c ' {shared.root}' /proc/$other/mountinfo
        {runtime} delete --force {identity}
        grep -c ' {shared.root}' /proc/self/mountinfo; grep -c ' {shared.root}' /proc/$other/mountinfo
        kill $other; wait $other
        exit 0
    """
    command = ["unshare", "--mount", "--propagation", "private", "sh", "-c", script]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    own, other, *after = (int(word) for word in done.stdout.split())
    assert own > 5 and other == 1 and after == [0, 0]


def test_what_fails_leaves_nothing(ours: OciRuntime, shared: Bundle, tmp_path: Path) -> None:
    shared.config["process"]["args"] = ["/none"]
    assert ours.run(shared, check=False).returncode != 0
    assert mounts_below(shared.root) == []
    shared.config["mounts"].append({"destination": "/x", "type": "none such", "source": "none"})
    assert ours.run(shared.sh("true"), check=False).returncode != 0
    assert mounts_below(shared.root) == []


def test_with_a_user_namespace_and_a_root_that_is_a_mount(ours: OciRuntime, shared: Bundle, tmp_path: Path) -> None:
    for each in (tmp_path, *tmp_path.parents[:2]):
        each.chmod(0o755)  # the container's root is nobody here
    shared.config["linux"]["namespaces"].append({"type": "user"})
    shared.config["linux"] |= {"uidMappings": MAPPING, "gidMappings": MAPPING}
    subprocess.run(["mount", "--bind", shared.root, shared.root], check=True)
    try:
        script = (
            "id -u; readlink /proc/self/ns/mnt; cat /proc/self/uid_map; mount -t tmpfs x /mnt 2>&1 | grep -c denied"
        )
        found = ours.run(shared.sh(script)).stdout.split()
        assert found == ["0", os.readlink("/proc/self/ns/mnt"), "0", "100000", "65536", "1"]
        assert mounts_below(shared.root) == [str(shared.root)], "the mount that was there before is not ours to take"
    finally:
        subprocess.run(["umount", shared.root], check=True)


def test_the_hosts_own_root(ours: OciRuntime, shared: Bundle) -> None:
    shared.config["root"] = {"path": "/", "readonly": True}
    shared.config["mounts"] = [{"destination": "/proc", "type": "proc", "source": "proc"}]
    before = Path("/proc/self/mountinfo").read_text()
    done = ours.run(shared.sh(f"readlink /proc/1/exe >/dev/null; test -e {shared.root}/bin/busybox && echo found"))
    assert done.stdout == "found\n"
    assert Path("/proc/self/mountinfo").read_text() == before
