"""What a kernel lacks is refused by name."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import Any

import pytest

from dockyard.engine.kernel import CAPABILITIES, NAMESPACES, KernelFacts, check, missing, probe, version
from dockyard.model.errors import SystemFailure

GOOD = KernelFacts(
    release="6.1.0-13-amd64",
    namespaces=frozenset(NAMESPACES),
    seccomp_actions=frozenset({"kill_process", "errno", "allow"}),
    cgroup_mounts=frozenset({"cgroup2"}),
    devices_controlled=True,
    nftables=True,
    capabilities=sum(1 << number for number in CAPABILITIES),
    filesystems=frozenset({"proc", "overlay"}),
)


def test_nothing_is_missing() -> None:
    check(GOOD)
    assert missing(GOOD, bridge=True) == []


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"release": "5.13.19-generic"}, "Linux 5.13.19-generic is too old: 5.14 or newer is needed"),
        ({"release": "4.19"}, "too old"),
        ({"namespaces": frozenset(NAMESPACES) - {"pid"}}, "there are no pid namespaces (CONFIG_PID_NS)"),
        ({"namespaces": frozenset()}, "there are no mnt namespaces: is /proc mounted?"),
        ({"seccomp_actions": frozenset()}, "CONFIG_SECCOMP_FILTER"),
        ({"cgroup_mounts": frozenset()}, "no control groups are mounted at /sys/fs/cgroup"),
        (
            {"cgroup_mounts": frozenset({"cgroup"}), "devices_controlled": False},
            "the control group v1 controller 'devices'",
        ),
        ({"nftables": False}, "CONFIG_NF_TABLES"),
        ({"capabilities": 0}, "needs to be started with root privileges: it lacks CAP_SYS_ADMIN"),
        ({"capabilities": GOOD.capabilities & ~(1 << 12)}, "it lacks CAP_NET_ADMIN"),
        ({"filesystems": frozenset()}, "/proc is not mounted"),
    ],
)
def test_what_is_missing_is_named(change: dict[str, Any], named: str) -> None:
    with pytest.raises(SystemFailure) as caught:
        check(replace(GOOD, **change))
    assert named in str(caught.value)
    assert str(caught.value).startswith(f"Dockyard cannot run here (Linux {change.get('release', GOOD.release)}): ")


def test_everything_is_told_at_once() -> None:
    assert len(missing(KernelFacts(release="3.10"), bridge=True)) == 6 + len(NAMESPACES)


def test_without_a_bridge_nftables_is_not_needed() -> None:
    check(replace(GOOD, nftables=False), bridge=False)


@pytest.mark.parametrize(
    ("release", "numbers"), [("6.18.5-fc-v10", (6, 18)), ("5.14", (5, 14)), ("5.4.0-rc1+", (5, 4)), ("odd", (0, 0))]
)
def test_versions(release: str, numbers: tuple[int, int]) -> None:
    assert version(release) == numbers


def test_this_machine() -> None:
    facts = probe()
    assert set(NAMESPACES) <= facts.namespaces
    if os.geteuid() == 0:
        assert missing(facts, bridge=False) == []
