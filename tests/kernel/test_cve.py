"""Real vulnerabilities of other runtimes, tried on ours; each test has the number of its CVE in its name.

Beside the statements S1 to S59, which have theirs (`test_security`, …). Through the OCI command and through zygote and
monitor. A runtime without the protection fails them, and nothing of the host is harmed by that: what would be written
to are parameters of the container's own namespaces.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from dockyard.model.container import HostConfig
from dockyard.runtime.bundle import BundleMount, Bundler
from tests.support.ground import Ground
from tests.support.oci import Bundle, docker_config

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")


@pytest.fixture
def make(tmp_path: Path, bundler: Bundler) -> Callable[..., Bundle]:
    return lambda *mounts: Bundle(tmp_path / "bundle", docker_config(bundler, mounts=list(mounts)))


@pytest.fixture
def volume(tmp_path: Path) -> Path:
    """Content that a stranger chose: where the engine writes a parameter, it leads to another one."""
    directory = tmp_path / "volume"
    (directory / "ipv4").mkdir(parents=True)
    (directory / "ipv4" / "ip_unprivileged_port_start").symlink_to("/proc/sys/kernel/domainname")
    return directory


@pytest.mark.parametrize("place", ["/proc", "/proc/sys/net", "/proc/self", "/link"])
def test_cve_2025_52881_content_of_others_is_not_mounted_into_proc(
    ground: Ground, make: Callable[..., Bundle], volume: Path, place: str
) -> None:
    """Neither where the mount says so, nor where a link of the image leads."""
    bundle = make(BundleMount(place, str(volume)))
    (bundle.root / "link").symlink_to("/proc/sys/net")
    result = ground.run(bundle.sh("cat /proc/sys/kernel/domainname"))
    reason = "it is not of type proc" if place == "/proc" else "it is inside /proc"
    assert reason in result.error, result


def test_cve_2025_52881_parameters_are_written_to_themselves_only(
    ground: Ground, make: Callable[..., Bundle], tmp_path: Path
) -> None:
    """Also if something is mounted over them that may be: an empty file system."""
    bundle = make(BundleMount("/proc/sys/net", type="tmpfs"))
    bundle.config["linux"]["sysctl"] = {"net.ipv4.ip_unprivileged_port_start": "0"}
    assert "/proc/sys/net/ipv4/ip_unprivileged_port_start" in ground.run(bundle.sh("true")).error


def test_cve_2025_31133_what_hides_paths_is_not_led_astray(ground: Ground, make: Callable[..., Bundle]) -> None:
    """Paths are hidden by descriptor, so nothing that lies in the container's /proc is asked where."""
    bundle = make(BundleMount("/proc/self/fd", type="tmpfs"))
    hidden = " ".join(path for path in bundle.config["linux"]["maskedPaths"] if os.path.isdir(path))
    assert hidden, "this host has nothing to hide"
    found = ground.run(
        bundle.sh(f"for d in {hidden}; do ls -A $d; touch $d/x 2> /dev/null && echo writable; done; true")
    )
    assert found.output == ""


def test_what_only_tells_something_may_be_replaced_in_proc(
    ground: Ground, make: Callable[..., Bundle], tmp_path: Path
) -> None:
    """lxcfs serves such files; and whoever has the host's process ids binds the host's /proc."""
    (tmp_path / "meminfo").write_text("MemTotal: 1 kB\n")
    bundle = make(BundleMount("/proc", "/proc"), BundleMount("/proc/meminfo", str(tmp_path / "meminfo")))
    bundle.config["linux"]["sysctl"] = {}
    assert ground.run(bundle.sh("cat /proc/meminfo")).output == "MemTotal: 1 kB\n"


def test_cve_2016_9962_what_joins_a_container_brings_nothing_of_the_host(
    ground: Ground, bundler: Bundler, tmp_path: Path
) -> None:
    """A container that may trace looks into every process that appears in it, all the time: one that is on its way to
    its program has neither the host's root directory nor descriptors that lead there."""
    bundle = Bundle(tmp_path / "bundle", docker_config(bundler, host=HostConfig(cap_add=["SYS_PTRACE"])))
    up = "/.." * len(tmp_path.parts)
    look = (
        f"for d in $p/root $p/cwd $p/fd/*; do [ -e $d{up}{tmp_path} ] || [ -e $d{tmp_path} ] && echo $d >> /seen; done"
    )
    running = ground.start(bundle.sh(f"while :; do for p in /proc/[0-9]*; do {look}; done; done 2> /dev/null"))
    process = {**bundle.config["process"], "args": ["/bin/true"]}
    for _ in range(6):
        assert running.exec(process).output == ""
    seen = bundle.root / "seen"
    assert not seen.exists() or seen.read_text() == ""
