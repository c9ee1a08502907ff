"""Control groups that systemd makes: a transient scope a container, on cgroup v2.

Owns: the notation `slice:prefix:name` and where such a group lies, scopes by D-Bus, limits as properties of a scope (so
that `systemctl daemon-reload`, which writes all that systemd manages anew, does not reset them). What systemd has no
property for (devices, hugetlb, limits of single block devices) is written into the files as ever: the scope is
delegated, which makes that ours. Does not own: which limits a container has.

systemd puts processes into a scope, it cannot be born in one: the container's first process waits until it is there
(`Scope.adopt`). Sources: org.freedesktop.systemd1(5), systemd.resource-control(5), "Control Group APIs and Delegation".
"""

from __future__ import annotations

import functools
import os
import re
import time
from typing import Any

from dockyard.linux import dbus
from dockyard.runtime.cgroups.v2 import CgroupV2, oom_count, settings

SLICE = "system.slice"
PREFIX = "dockyard"
PRIVATE, BUS = "/run/systemd/private", "/run/dbus/system_bus_socket"
BOOTED = "/run/systemd/system"  # sd_booted(3)
_NAME = "org.freedesktop.systemd1"
_MANAGER = ("/org/freedesktop/systemd1", f"{_NAME}.Manager")
_INFINITY = (1 << 64) - 1
_PATIENCE = 30.0  # s that systemd may take for an answer or a job
_BRIEFLY = 10.0  # s, when it is only asked whether it is there
_AGAIN = 2.0  # s that a scope of the same name, of a container that has just ended, is waited for
_HIGHEST = 8191  # the kernel's largest CONFIG_NR_CPUS
_ACCOUNTING = ("CPUAccounting", "MemoryAccounting", "TasksAccounting", "IOAccounting")
_SLICE_NAME = re.compile(r"(?:-|[A-Za-z0-9:_.\\@]+(?:-[A-Za-z0-9:_.\\@]+)*)\.slice\Z")

Property = tuple[str, tuple[str, Any]]  # as in a D-Bus array of (sv)


def is_slice(name: str) -> bool:
    return len(name) > len(".slice") and _SLICE_NAME.match(name) is not None


def slice_path(name: str) -> str:
    """Where a slice lies: "a-b.slice" is "a.slice/a-b.slice", "-.slice" the root. ValueError if it is no slice."""
    if not is_slice(name):
        raise ValueError(f"{name!r} is not the name of a slice")
    if name == "-.slice":
        return ""
    parts = name.removesuffix(".slice").split("-")
    return "/".join("-".join(parts[: count + 1]) + ".slice" for count in range(len(parts)))


def split(notation: str) -> tuple[str, str]:
    """(slice, unit) of a notation. ValueError."""
    parent, prefix, name = notation.split(":")
    unit = f"{prefix}-{name}.scope" if prefix else f"{name}.scope"
    slice_path(parent or SLICE)
    if not name:
        raise ValueError(f"{notation!r} names no unit")
    return parent or SLICE, unit


def location(notation: str) -> str:
    """The group of a notation, relative to the root of the tree. ValueError."""
    parent, unit = split(notation)
    return f"{slice_path(parent)}/{unit}".strip("/")


@functools.cache
def available() -> bool:
    """Whether systemd is PID 1 here and answers. Looked at once a process."""
    if not os.path.isdir(BOOTED):
        return False
    try:
        with _connect(_BRIEFLY) as connection:
            connection.call(_NAME, _MANAGER[0], "org.freedesktop.DBus.Properties", "Get", "ss", _MANAGER[1], "Version")
    except OSError:
        return False
    return True


def _connect(timeout: float = _PATIENCE) -> dbus.Connection:
    """Straight to systemd, which needs no bus; else by the bus. OSError naming both."""
    try:
        return dbus.Connection(PRIVATE, private=True, timeout=timeout)
    except OSError:
        pass
    try:
        connection = dbus.Connection(BUS, private=False, timeout=timeout)
    except OSError as error:
        text = f"systemd does not answer on {PRIVATE} nor {BUS}: {error.strerror}"
        raise OSError(error.errno, text) from error
    match = f"type='signal',interface='{_MANAGER[1]}',member='JobRemoved'"
    connection.call("org.freedesktop.DBus", "/org/freedesktop/DBus", "org.freedesktop.DBus", "AddMatch", "s", match)
    connection.call(_NAME, *_MANAGER, "Subscribe")
    return connection


def _job(connection: dbus.Connection, member: str, signature: str, *arguments: Any) -> str:
    """Call a method that gives a job and wait for the job; its result, such as "done"."""
    (job,) = connection.call(_NAME, *_MANAGER, member, signature, *arguments)
    deadline = time.monotonic() + _PATIENCE
    while time.monotonic() < deadline:
        signal = connection.signal()
        if signal.member == "JobRemoved" and signal.body[1] == job:
            return str(signal.body[3])
    raise TimeoutError(110, f"systemd does not end its job for {arguments[0]}")


class Scope(CgroupV2):
    """One container's control group, made by systemd. `path` is the notation."""

    def __init__(self, notation: str, root: str) -> None:
        super().__init__(location(notation), root)
        self.path = notation
        self._slice, self._unit = split(notation)

    def create(self) -> None:
        """Nothing yet: a scope begins with a process in it (`adopt`)."""

    def descriptor(self) -> int:
        return -1

    def adopt(self, pid: int, resources: dict[str, Any]) -> bool:
        """Make the scope with the process `pid` in it and its limits. OSError in systemd's words."""
        wanted: list[Property] = [
            ("Description", ("s", f"container {self._unit.removesuffix('.scope')}")),
            ("Slice", ("s", self._slice)),
            ("Delegate", ("b", True)),
            ("DefaultDependencies", ("b", False)),  # it lives through the daemon's end, and needs no target
            ("CollectMode", ("s", "inactive-or-failed")),
            ("PIDs", ("au", [pid])),
            *((name, ("b", True)) for name in _ACCOUNTING),
        ]
        given = properties(resources)
        if "TasksMax" not in dict(given):
            given.append(("TasksMax", ("t", _INFINITY)))  # else DefaultTasksMax= of the host
        with _connect() as connection:
            self._begin(connection, wanted + given)
        self.limit(resources)
        return True

    def _begin(self, connection: dbus.Connection, wanted: list[Property]) -> None:
        deadline = time.monotonic() + _AGAIN
        while True:
            try:
                result = _job(connection, "StartTransientUnit", "ssa(sv)a(sa(sv))", self._unit, "fail", wanted, [])
                break
            except dbus.DbusError as error:
                if not error.name.endswith(".UnitExists") or time.monotonic() > deadline or self.pids():
                    raise OSError(error.errno, f"systemd does not make {self._unit}: {error.strerror}") from error
            self._stop(connection)
            time.sleep(0.01)
        if result != "done":
            raise OSError(5, f"systemd does not make {self._unit}: {result}")

    def limit(self, resources: dict[str, Any]) -> None:
        if resources.get("hugepageLimits"):  # a controller that systemd does not know
            directory = self._root
            for part in self._directory.removeprefix(f"{self._root}/").split("/"):
                self._delegate(directory)
                directory = f"{directory}/{part}"
        super().limit(resources)

    def update(self, resources: dict[str, Any]) -> None:
        """Into the scope, then into the files, which take what systemd rounds or does not know."""
        changed = properties(resources)
        if changed:
            with _connect() as connection:
                try:
                    connection.call(_NAME, *_MANAGER, "SetUnitProperties", "sba(sv)", self._unit, True, changed)
                except dbus.DbusError as error:
                    raise OSError(error.errno, f"systemd does not limit {self._unit}: {error.strerror}") from error
        self.write(resources)

    def oom_kills(self, since: int = 0) -> int:
        """systemd removes a group as soon as it is empty, with all that it had counted: then the slice says whether
        there can have been any, and the kernel's log which."""
        found = super().oom_kills()
        if found or os.path.exists(self._directory) or not oom_count(os.path.dirname(self._directory)):
            return found
        return logged_kills(self._directory.removeprefix(self._root), since)

    def remove(self) -> None:
        """Stop the scope; systemd removes the group."""
        try:
            with _connect() as connection:
                self._stop(connection)
        except OSError:
            pass  # systemd is busy or gone; the directory is what counts
        super().remove()

    def _stop(self, connection: dbus.Connection) -> None:
        for member, arguments in (("StopUnit", ("ss", self._unit, "replace")), ("ResetFailedUnit", ("s", self._unit))):
            try:
                if member == "StopUnit":
                    _job(connection, member, *arguments)
                else:
                    connection.call(_NAME, *_MANAGER, member, *arguments)
            except dbus.DbusError:
                continue  # it is not loaded any more, which is what is wanted

    def rename(self, path: str) -> None:
        raise OSError(95, f"the scope {self._unit} cannot be renamed to {path}")


def logged_kills(group: str, since: int, log: str = "/dev/kmsg") -> int:
    """How many processes of a group (absolute) the kernel says it has killed for lack of memory since a time (wall
    clock, ns). 0 where its log cannot be read. Source: Documentation/ABI/testing/dev-kmsg."""
    oldest = (time.monotonic_ns() - (time.time_ns() - since)) // 1000
    victim, count = f"task_memcg={group}".encode(), 0
    try:
        fd = os.open(log, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return 0
    try:
        while True:
            try:
                record = os.read(fd, 8192)  # one a read
            except BrokenPipeError:
                continue  # records that we had not read are overwritten
            except OSError:
                return count  # EAGAIN: that was the last
            if not record:
                return count
            head, _, text = record.partition(b";")
            count += text.startswith(b"oom-kill:") and victim in text and int(head.split(b",")[2]) >= oldest
    finally:
        os.close(fd)


def properties(resources: dict[str, Any]) -> list[Property]:
    """OCI resources -> properties of a scope where systemd has one, by way of the files' values (`v2.settings`)."""
    found: dict[str, tuple[str, Any]] = {}
    for name, value in settings(resources):
        if name in _NUMBERS:
            found[_NUMBERS[name]] = ("t", _INFINITY if value == "max" else int(value))
        elif name == "cpu.max":
            quota, period = value.split()
            found["CPUQuotaPeriodUSec"] = ("t", int(period))
            found["CPUQuotaPerSecUSec"] = ("t", _INFINITY if quota == "max" else _per_second(int(quota), int(period)))
        elif name in _MASKS:
            found[_MASKS[name]] = ("ay", mask(value))
        elif name == "io.weight" and value.startswith("default "):
            found["IOWeight"] = ("t", int(value.split()[1]))
    return list(found.items())


_NUMBERS = {
    "memory.max": "MemoryMax",
    "memory.high": "MemoryHigh",
    "memory.low": "MemoryLow",
    "memory.min": "MemoryMin",
    "memory.swap.max": "MemorySwapMax",
    "cpu.weight": "CPUWeight",
    "pids.max": "TasksMax",
}
_MASKS = {"cpuset.cpus": "AllowedCPUs", "cpuset.mems": "AllowedMemoryNodes"}


def _per_second(quota: int, period: int) -> int:
    """µs of a second, up to the whole percent: systemd keeps it so and would reset to less at a reload."""
    return -(-quota * 1_000_000 // period // 10_000) * 10_000


def mask(listed: str) -> list[int]:
    """A list such as "0-2,5" as the bytes of a bit mask, the lowest first. OSError (EINVAL)."""
    bits = 0
    for part in listed.split(","):
        first, _, last = part.strip().partition("-")
        if not first.isdecimal() or not (last or first).isdecimal() or int(last or first) > _HIGHEST:
            raise OSError(22, f"{listed!r} is no list of processors or memory nodes")
        for number in range(int(first), int(last or first) + 1):
            bits |= 1 << number
    return list(bits.to_bytes((bits.bit_length() + 7) // 8, "little"))
