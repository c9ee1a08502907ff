"""Scopes of systemd: names, properties, and the D-Bus messages that make them (a peer in a thread answers)."""

from __future__ import annotations

import socket
import struct
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from dockyard.configuration import combine
from dockyard.engine import cgroup_driver
from dockyard.linux import dbus
from dockyard.model.container import HostConfig
from dockyard.model.errors import InvalidArgument
from dockyard.runtime import cgroups
from dockyard.runtime.bundle import cgroup_path
from dockyard.runtime.cgroups import systemd

INFINITY = (1 << 64) - 1


@pytest.mark.parametrize(
    ("notation", "expected"),
    [
        ("system.slice:dockyard:abc", "system.slice/dockyard-abc.scope"),
        (":runc:abc", "system.slice/runc-abc.scope"),
        ("a-b-c.slice:dockyard:abc", "a.slice/a-b.slice/a-b-c.slice/dockyard-abc.scope"),
        ("-.slice:dockyard:abc", "dockyard-abc.scope"),
        ("/plain/../group/", "group"),
    ],
)
def test_where_a_group_lies(notation: str, expected: str) -> None:
    assert cgroups.location(notation) == expected


@pytest.mark.parametrize(
    "parent", ["system", ".slice", "a/b.slice", "/a.slice", "-a.slice", "a-.slice", "a--b.slice", "..slice/x"]
)
def test_what_is_no_slice(parent: str) -> None:
    with pytest.raises(InvalidArgument, match=r'should be a valid slice named as "xxx\.slice"'):
        cgroup_driver.check_parent(parent, cgroup_driver.SYSTEMD)
    with pytest.raises(InvalidArgument, match=r'should be a valid slice named as "xxx\.slice"'):
        cgroup_path("abc", HostConfig(cgroup_parent=parent), "systemd")
    cgroup_driver.check_parent(parent, cgroup_driver.CGROUPFS)


def test_the_path_of_a_container_by_driver() -> None:
    host = HostConfig()
    assert cgroup_path("abc", host) == "dockyard/abc"
    assert cgroup_path("abc", host, "systemd") == "system.slice:dockyard:abc"
    assert cgroup_path("abc", HostConfig(cgroup_parent="my.slice"), "systemd") == "my.slice:dockyard:abc"


def test_limits_as_properties() -> None:
    resources = {
        "memory": {"limit": 64 << 20, "swap": 96 << 20, "reservation": 32 << 20},
        "cpu": {"shares": 1024, "quota": 12345, "period": 100000, "cpus": "0-2,9", "mems": "0"},
        "pids": {"limit": -1},
        "blockIO": {"weight": 10, "throttleReadBpsDevice": [{"major": 8, "minor": 0, "rate": 5}]},
    }
    assert dict(systemd.properties(resources)) == {
        "MemoryMax": ("t", 64 << 20),
        "MemorySwapMax": ("t", 32 << 20),
        "MemoryLow": ("t", 32 << 20),
        "CPUWeight": ("t", 39),
        "CPUQuotaPeriodUSec": ("t", 100000),
        "CPUQuotaPerSecUSec": ("t", 130000),
        "AllowedCPUs": ("ay", [0b111, 0b10]),
        "AllowedMemoryNodes": ("ay", [1]),
        "TasksMax": ("t", INFINITY),
        "IOWeight": ("t", 1),
    }
    assert dict(systemd.properties({"cpu": {"quota": -1}}))["CPUQuotaPerSecUSec"] == ("t", INFINITY)
    for listed in ("0-99999999", "x", ""):
        with pytest.raises(OSError, match="no list"):
            systemd.mask(listed)


def test_exec_opts() -> None:
    assert combine({}, {"exec_opts": ["native.cgroupdriver=systemd"]}, "f").cgroup_driver == "systemd"
    assert combine({}, {}, "f").cgroup_driver == ""
    with pytest.raises(InvalidArgument, match=r"native\.cgroupdriver option none"):
        combine({"exec_opts": ["native.cgroupdriver=none"]}, {}, "f")
    with pytest.raises(InvalidArgument, match="exec option 'isolation=x' is unknown"):
        combine({"exec_opts": ["isolation=x"]}, {}, "f")


def test_systemd_is_refused_where_it_cannot(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(systemd, "available", lambda: False)
    with pytest.raises(InvalidArgument, match=r"native\.cgroupdriver=systemd"):
        cgroup_driver.choose("systemd")
    assert cgroup_driver.choose("") == "cgroupfs"


def test_kills_that_only_the_log_knows(tmp_path: Path) -> None:
    group, other = "/system.slice/dockyard-abc.scope", "/system.slice/dockyard-abd.scope"
    now = time.monotonic_ns() // 1000
    text = "oom-kill:constraint=CONSTRAINT_MEMCG,oom_memcg={0},task_memcg={0},task=tail,pid=5,uid=0"

    def found(at: int, where: str) -> int:
        record = tmp_path / "kmsg"  # a file gives all records at once, the device one a read
        record.write_text(f"6,339,{at},-;{text.format(where)}\n")
        return systemd.logged_kills(group, time.time_ns() - 1_000_000_000, str(record))

    assert found(now, group) == found(now, f"{group}/exec-1") == 1
    assert found(now - 5_000_000, group) == 0, "of an earlier run"
    assert found(now, other) == 0
    assert systemd.logged_kills(group, 0, str(tmp_path / "nosuch")) == 0


# -- D-Bus --


def _message(kind: int, fields: list[tuple[int, tuple[str, Any]]], signature: str = "", *body: Any) -> bytes:
    if signature:
        fields = [*fields, (8, ("g", signature))]
    content = dbus.marshal(signature, body)
    head = dbus.marshal("yyyyuua(yv)", [ord("l"), kind, 0, 1, len(content), 7, fields])
    head.extend(bytes(-len(head) % 8))
    return bytes(head + content)


class Peer:
    """A service that answers each call with the next of the prepared messages."""

    def __init__(self, path: Path, answers: list[list[bytes]]) -> None:
        self.calls: list[bytes] = []
        self._answers = answers
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen()
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        connection, _ = self._listener.accept()
        with connection:
            connection.settimeout(10)
            greeting = connection.recv(100)
            assert greeting.startswith(b"\0AUTH EXTERNAL ") and greeting.endswith(b"\r\nBEGIN\r\n")
            connection.sendall(b"OK 1234\r\n")
            for answers in self._answers:
                head = connection.recv(16, socket.MSG_WAITALL)
                body, _serial, fields = struct.unpack("<4xIII", head)
                rest = connection.recv(fields + -fields % 8 + body, socket.MSG_WAITALL)
                self.calls.append(head + rest)
                for answer in answers:
                    connection.sendall(answer)

    def close(self) -> None:
        self._thread.join(10)
        self._listener.close()


def test_a_scope_is_asked_for_and_its_job_awaited(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job = "/org/freedesktop/systemd1/job/5"
    name = [(3, ("s", "JobRemoved"))]
    other = _message(dbus.SIGNAL, name, "uoss", 4, "/org/freedesktop/systemd1/job/4", "x.service", "done")
    removed = _message(dbus.SIGNAL, name, "uoss", 5, job, "dockyard-abc.scope", "done")
    peer = Peer(tmp_path / "s", [[other, _message(dbus.RETURN, [(5, ("u", 1))], "o", job), removed]])
    monkeypatch.setattr(systemd, "PRIVATE", str(tmp_path / "s"))
    monkeypatch.setattr(systemd.Scope, "limit", lambda *_: None)
    try:
        assert systemd.Scope("my.slice:dockyard:abc", str(tmp_path)).adopt(4711, {"memory": {"limit": 1 << 26}})
    finally:
        peer.close()
    (call,) = peer.calls
    for wanted in (b"StartTransientUnit", b"dockyard-abc.scope", b"my.slice", b"Delegate", b"TasksMax", b"MemoryMax"):
        assert wanted in call
    assert struct.pack("<I", 4711) in call and struct.pack("<Q", 1 << 26) in call


def test_what_systemd_refuses_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    error = _message(
        dbus.ERROR, [(4, ("s", "org.freedesktop.DBus.Error.InvalidArgs")), (5, ("u", 1))], "s", "Bad slice"
    )
    peer = Peer(tmp_path / "s", [[error]])
    monkeypatch.setattr(systemd, "PRIVATE", str(tmp_path / "s"))
    try:
        with pytest.raises(OSError, match=r"systemd does not make dockyard-abc\.scope: Bad slice"):
            systemd.Scope(":dockyard:abc", str(tmp_path)).adopt(1, {})
    finally:
        peer.close()


def test_without_systemd_both_ways_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(systemd, "PRIVATE", str(tmp_path / "private"))
    monkeypatch.setattr(systemd, "BUS", str(tmp_path / "bus"))
    with pytest.raises(OSError, match=f"{tmp_path}/private nor {tmp_path}/bus"):
        systemd.Scope(":dockyard:abc", str(tmp_path)).adopt(1, {})


def test_alignment_and_nesting() -> None:
    """Against bytes written by hand from the specification's rules."""
    made = dbus.marshal("ya(sv)", [1, [("A", ("t", 2)), ("B", ("ay", [3, 4]))]])
    first = struct.pack("<I2s3s7xQ", 1, b"A\0", b"\1t\0", 2)
    second = struct.pack("<I2s4s2xI", 1, b"B\0", b"\2ay\0", 2) + b"\3\4"
    assert made == struct.pack("<B3xI", 1, 42) + first + second
    assert dbus.single("a(sa(sv))u") == ("a(sa(sv))", "u")
