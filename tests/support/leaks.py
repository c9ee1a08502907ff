"""What is there on the machine, so that before and after can be compared and what was left can be named.

Owns: `Snapshot` (mounts, cgroups, links, nftables, namespaces, processes, open files) and their difference. Does not
own: cleaning up.

On a machine where others work too, a snapshot is narrowed to what belongs to one engine (`Ground`): its directory, its
network namespace, the containers it was seen to make.
"""

from __future__ import annotations

import os
import re
import subprocess
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

CGROUPS = Path("/sys/fs/cgroup")
CONTAINER_ID = re.compile(r"[0-9a-f]{64}")
MEANT_TO_STAY = "/memfd:dockyard-rules"  # linux.nfnetlink.SharedElements: closing it would make others wait


@dataclass(frozen=True)
class Ground:
    """What counts as ours: a directory, a network namespace (None: not looked at), container IDs."""

    root: str
    netns: str | None = None
    ids: frozenset[str] = frozenset()


@dataclass
class Snapshot:
    """Named sets of things; `left(before)` tells what is new."""

    things: dict[str, set[str]] = field(default_factory=dict)

    def left(self, before: Snapshot) -> list[str]:
        return [
            f"{kind}: {name}"
            for kind, names in sorted(self.things.items())
            for name in sorted(names - before.things.get(kind, set()))
        ]


def mounts(under: str = "") -> set[str]:
    """Mount points of this mount namespace below `under` (all with "")."""
    lines = Path("/proc/self/mountinfo").read_text().splitlines()
    return {point for line in lines if (point := line.split()[4]).startswith(under)}


def cgroups(wanted: Callable[[str], bool]) -> set[str]:
    """Cgroup directories whose own name is wanted; their children are not looked at."""
    found: set[str] = set()
    for directory, names, _ in os.walk(CGROUPS):
        for name in list(names):
            if wanted(name):
                found.add(os.path.join(directory, name))
                names.remove(name)
    return found


def _tool(netns: str | None, *argv: str) -> str:
    prefix = ["nsenter", f"--net={netns}"] if netns else []
    return subprocess.run([*prefix, *argv], capture_output=True, text=True, check=False, timeout=30).stdout


def links(netns: str | None = None) -> set[str]:
    """Network interfaces but lo."""
    lines = _tool(netns, "ip", "-o", "link").splitlines()
    return {name for line in lines if (name := line.split(": ")[1].split("@")[0]) != "lo"}


def nft_elements(netns: str | None = None) -> set[str]:
    """Every line of the ruleset, its counters cut off: tables, chains, rules, elements."""
    text = re.sub(r"counter packets \d+ bytes \d+", "counter", _tool(netns, "nft", "list", "ruleset"))
    table, lines = "", set()
    for line in text.splitlines():
        if line.startswith("table"):
            table = line.rstrip(" {")
        for piece in line.split(", ") if "elements" in line or ":" in line else [line]:
            if piece.strip(" \t{}"):
                lines.add(f"{table} | {piece.strip()}")
    return lines


def named_netns() -> set[str]:
    """Network namespaces kept by name."""
    return set(os.listdir("/run/netns")) if os.path.isdir("/run/netns") else set()


def children(pid: int) -> set[int]:
    """All descendants of a process."""
    parents: dict[int, int] = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                parents[int(entry)] = int(Path(f"/proc/{entry}/stat").read_text().rpartition(")")[2].split()[1])
            except OSError:
                continue
    found, grown = {pid}, True
    while grown:
        more = {child for child, parent in parents.items() if parent in found} - found
        found |= more
        grown = bool(more)
    return found - {pid}


def describe(pid: int) -> str:
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ")
        return f"{pid} {words.decode(errors='replace').strip()}"
    except OSError:
        return str(pid)


def open_files(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))


def files(root: Path) -> set[str]:
    """Everything below a directory, as relative paths."""
    return {
        str(Path(directory, name).relative_to(root))
        for directory, names, plain in os.walk(root)
        for name in (*names, *plain)
    }


# One relay for all containers: comes with the first port, ends after the last one. Spare monitors come and go with
# every start; that they end with their daemon is tests/kernel/test_runtime.py's to see.
SHARED_HELPERS = ("dockyard-relay", "dockyard-spare")


def processes_on(ground: Ground) -> set[str]:
    """Processes that touch the ground: a descriptor, cwd, root, mount, cgroup or network namespace of it."""
    home = os.stat(ground.netns).st_ino if ground.netns and os.path.exists(ground.netns) else None
    found = set()
    for entry in os.listdir("/proc"):
        stranger = entry.isdigit() and int(entry) != os.getpid()
        if stranger and _touches(entry, ground, home) and _comm(entry) not in SHARED_HELPERS:
            found.add(describe(int(entry)))
    return found


def _comm(pid: str) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return ""


def _touches(pid: str, ground: Ground, home: int | None) -> bool:
    base = f"/proc/{pid}"
    try:
        if home is not None and os.stat(f"{base}/ns/net").st_ino == home:
            return True
        links_of = [os.readlink(f"{base}/{name}") for name in ("cwd", "root")]
        links_of += [os.readlink(f"{base}/fd/{fd}") for fd in os.listdir(f"{base}/fd")]
        if any(link.startswith(ground.root) for link in links_of):
            return True
        text = Path(f"{base}/cgroup").read_text() + Path(f"{base}/cmdline").read_bytes().decode(errors="replace")
        return ground.root in text or any(name in ground.ids for name in CONTAINER_ID.findall(text))
    except OSError:
        return False  # it ended meanwhile, or is a zombie


def snapshot(ground: Ground) -> Snapshot:
    """All of a ground's traces at this moment."""
    return Snapshot(
        {
            "mount": mounts(ground.root),
            "cgroup": cgroups(lambda name: any(found in ground.ids for found in CONTAINER_ID.findall(name))),
            "link": links(ground.netns) if ground.netns else set(),
            "nftables": nft_elements(ground.netns) if ground.netns else set(),
            "process": processes_on(ground),
        }
    )


def settle(look: Callable[[], Iterable[str]], seconds: float = 5.0) -> list[str]:
    """Ask until nothing is left or the time is over; returns what is left."""
    end = time.monotonic() + seconds
    while (left := list(look())) and time.monotonic() < end:
        time.sleep(0.05)
    return left


def _descriptor(fd: str) -> str:
    try:
        target = os.readlink(f"/proc/self/fd/{fd}")
    except OSError:
        return ""  # the one that listed the directory
    return "" if target.startswith(MEANT_TO_STAY) else f"{fd} -> {target}"


def machine(alone: bool) -> Snapshot:
    """This process's children and descriptors; when we are `alone` on the machine, also all that the kernel keeps."""
    things = {
        "child": {describe(pid) for pid in children(os.getpid())},
        "descriptor": {found for fd in os.listdir("/proc/self/fd") if (found := _descriptor(fd))},
    }
    if alone:
        things |= {
            "mount": mounts(),
            "link": links(),
            "nftables": nft_elements(),
            "named netns": named_netns(),
            "cgroup": {
                path
                for path in cgroups(lambda name: name.startswith("test") or bool(CONTAINER_ID.fullmatch(name)))
                if "/dyt-" not in path  # the parent of a peer's: whoever started that engine looks there
            },
        }
    return Snapshot(things)
