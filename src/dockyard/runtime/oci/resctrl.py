"""linux.intelRdt: a container's class of service and its monitoring group in the resctrl file system.

Owns: finding the file system, making, joining, changing and removing the groups. Does not own: when.
Sources: OCI runtime-spec 1.3, config-linux.md, "IntelRdt"; the kernel's Documentation/filesystems/resctrl.rst.

Processes inherit their group from who makes them, so this command joins it before it makes the container's.
"""

from __future__ import annotations

import os
from typing import Any, Final

from dockyard.runtime.cgroups.files import read, write
from dockyard.runtime.oci.errors import OciError
from dockyard.runtime.oci.members import get

_TEXTS: Final = ("closID", "l3CacheSchema", "memBwSchema")
_GONE: Final = ("enableCMT", "enableMBM")


def check(linux: dict[str, Any]) -> None:
    """Raises OciError naming the field, also where there is no resctrl file system."""
    wanted = get(linux, "intelRdt", dict, "linux.intelRdt", optional=True)
    for name in _GONE:
        if wanted.get(name):
            raise OciError(f"linux.intelRdt.{name}: not supported: version 1.3 has enableMonitoring in its place")
    lines = [get(wanted, name, str, f"linux.intelRdt.{name}", optional=True) for name in _TEXTS]
    lines += get(wanted, "schemata", list, "linux.intelRdt.schemata", optional=True)
    if not all(isinstance(line, str) and "\n" not in line for line in lines):
        raise OciError("linux.intelRdt: must be texts of one line")
    identity = wanted.get("closID") or "x"
    if identity != "/" and ("/" in identity or identity in (".", "..", "info", "mon_groups", "mon_data")):
        raise OciError(f"linux.intelRdt.closID: {identity!r} is no name of a group")
    if wanted.get("memBwSchema") and not wanted["memBwSchema"].startswith("MB:"):
        raise OciError("linux.intelRdt.memBwSchema: must begin with MB:")
    if wanted:
        mount_point()


def mount_point(mounts: str = "/proc/self/mountinfo") -> str:
    """Where resctrl is mounted. Raises OciError."""
    with open(mounts, encoding="utf-8", errors="surrogateescape") as file:
        for line in file:
            fields = line.split()
            if fields[fields.index("-") + 1] == "resctrl":
                return fields[4]
    raise OciError("linux.intelRdt: this host has no resctrl file system (nothing of that type is mounted)")


def make(top: str, identity: str, wanted: dict[str, Any]) -> dict[str, Any]:
    """The groups of a container, joined by the calling process. What `remove` and `update` need. Raises OciError."""
    name = wanted.get("closID") or identity
    group = top if name == "/" else os.path.join(top, name)
    lines = _schemata(wanted)
    made = _open_group(group, bool(lines), fresh="closID" not in wanted or not wanted["closID"])
    state = {"group": group, "made": [group] if made and not wanted.get("closID") else []}
    try:
        if lines:
            _set_schemata(group, lines, made)
        write(f"{group}/tasks", str(os.getpid()))
        if wanted.get("enableMonitoring"):
            monitor = f"{group}/mon_groups/{identity}"
            os.mkdir(monitor)
            state["made"] = [monitor, *state["made"]]
            write(f"{monitor}/tasks", str(os.getpid()))
            state["monitor"] = monitor
    except OSError as error:
        remove(state)
        if made:
            remove({"made": [group]})
        raise OciError(f"linux.intelRdt: {error.strerror or error}") from None
    return state


def join(state: dict[str, Any]) -> None:
    """Before an exec: what this process makes is in the container's groups. OSError."""
    write(f"{state['group']}/tasks", str(os.getpid()))
    if state.get("monitor"):
        write(f"{state['monitor']}/tasks", str(os.getpid()))


def update(state: dict[str, Any], wanted: dict[str, Any]) -> None:
    """OSError."""
    _set_schemata(state["group"], _schemata(wanted), True)


def remove(state: dict[str, Any]) -> None:
    for path in state["made"]:
        try:
            os.rmdir(path)
        except FileNotFoundError:
            continue


def _schemata(wanted: dict[str, Any]) -> list[str]:
    """In the order that the specification has."""
    return [*(wanted[name] for name in _TEXTS[1:] if wanted.get(name)), *(wanted.get("schemata") or ())]


def _open_group(group: str, has_schemata: bool, *, fresh: bool) -> bool:
    """Whether it was made."""
    try:
        if fresh or has_schemata:
            os.mkdir(group)
            return True
    except FileExistsError:
        if fresh:
            raise OciError(f"linux.intelRdt: {group} is there already") from None
    except OSError as error:
        raise OciError(f"linux.intelRdt: {group}: {error.strerror}") from None
    if not os.path.isdir(group):
        raise OciError(f"linux.intelRdt.closID: {group}: no such class of service")
    return False


def _set_schemata(group: str, lines: list[str], made: bool) -> None:
    if made:
        for line in lines:
            write(f"{group}/schemata", line + "\n")
        return
    present = {each for line in read(f"{group}/schemata").splitlines() for each in _parts(line)}
    for line in lines:
        if not _parts(line) <= present:
            raise OciError(f"linux.intelRdt: {line} is not what the class of service {group} has")


def _parts(line: str) -> set[tuple[str, str, str]]:
    """ "L3:0=ff;1=0f" → {("L3", "0", "ff"), ("L3", "1", "f")}."""
    kind, _, rest = line.strip().partition(":")
    pairs = (each.partition("=") for each in rest.split(";") if each)
    return {(kind.strip(), domain.strip(), value.strip().lstrip("0") or "0") for domain, _, value in pairs}
