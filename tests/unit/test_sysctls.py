"""Which kernel parameters a container may set."""

from __future__ import annotations

from typing import Any

import pytest

from dockyard.runtime import sysctls

OWN: list[dict[str, Any]] = [{"type": kind} for kind in ("network", "ipc", "uts", "mount")]


@pytest.mark.parametrize(
    "name, path",
    [
        ("net.ipv4.ip_forward", "net/ipv4/ip_forward"),
        ("net/ipv4/conf/eth0.100/forwarding", "net/ipv4/conf/eth0.100/forwarding"),
        ("net.ipv4.conf.eth0/100.forwarding", "net/ipv4/conf/eth0.100/forwarding"),
        ("plain", "plain"),
    ],
)
def test_both_separators_as_sysctl_has_them(name: str, path: str) -> None:
    assert sysctls.path_of(name) == path


@pytest.mark.parametrize("name", ["net.ipv4.ip_forward", "kernel.msgmax", "fs.mqueue.queues_max", "kernel.domainname"])
def test_those_of_own_namespaces_may_be_set(name: str) -> None:
    assert sysctls.refusal({name: "1"}, OWN) == ""
    assert "is not allowed in the host's" in sysctls.refusal({name: "1"}, [{"type": "mount"}])


@pytest.mark.parametrize("kind, name", [("network", "net.x"), ("ipc", "kernel.sem"), ("uts", "kernel.domainname")])
def test_a_namespace_to_join_must_not_be_the_hosts(kind: str, name: str) -> None:
    file = {"network": "net"}.get(kind, kind)
    assert f"host's {kind} namespace" in sysctls.refusal({name: "1"}, [{"type": kind, "path": f"/proc/self/ns/{file}"}])
    assert sysctls.refusal({name: "1"}, [{"type": kind, "path": "/proc/self/ns/mnt"}]) == ""
    assert sysctls.refusal({name: "1"}, [{"type": kind, "path": "/no/such"}]) == "", "joining it tells that"


@pytest.mark.parametrize(
    "name",
    [
        "kernel.core_pattern",
        "vm.overcommit_memory",
        "fs.mqueue",
        "net",
        "net/../kernel/core_pattern",
        "net//x",
        "",
        "/net/x",
    ],
)
def test_no_other_may_be_set(name: str) -> None:
    assert "is not in a separate kernel namespace" in sysctls.refusal({"net.x": "1", name: "1"}, OWN)


def test_the_hostname_has_a_field() -> None:
    assert "conflicts with the field hostname" in sysctls.refusal({"kernel.hostname": "x"}, OWN)
