"""Whether this kernel, and this process on it, can carry containers: asked once, before anything is made.

Owns: `KernelFacts`, looking at them cheaply (some files of /proc and one netlink question), and the sentence for each
thing that is missing. Does not own: what only some containers need (`system.warnings`), which snapshot driver works
(`store.snapshots` falls back to vfs and warns).
"""

from __future__ import annotations

import errno
import os
import re
import socket
import struct
from dataclasses import dataclass, field
from typing import Final

from dockyard.model.errors import SystemFailure
from dockyard.runtime import hostfiles

MINIMUM: Final = (5, 14)  # mount_setattr and cgroup.kill, among others
NAMESPACES: Final = {
    "mnt": "", "pid": "CONFIG_PID_NS", "net": "CONFIG_NET_NS", "ipc": "CONFIG_IPC_NS", "uts": "CONFIG_UTS_NS",
    "cgroup": "CONFIG_CGROUPS",
}  # fmt: skip
CAPABILITIES: Final = {21: "CAP_SYS_ADMIN", 12: "CAP_NET_ADMIN", 18: "CAP_SYS_CHROOT", 7: "CAP_SETUID", 6: "CAP_SETGID"}
_NETFILTER: Final = 12  # NETLINK_NETFILTER
_GET_GENERATION: Final = (10 << 8) | 16  # NFNL_SUBSYS_NFTABLES, NFT_MSG_GETGEN
_ERROR: Final = 2  # NLMSG_ERROR


@dataclass(frozen=True, slots=True)
class KernelFacts:
    """What there is."""

    release: str
    namespaces: frozenset[str] = frozenset()  # names below /proc/self/ns
    seccomp_actions: frozenset[str] = frozenset()  # empty: no filters at all
    cgroup_mounts: frozenset[str] = frozenset()  # types of what is mounted at and below /sys/fs/cgroup
    devices_controlled: bool = False  # access to devices can be limited: v1's controller, or v2
    nftables: bool = False
    capabilities: int = 0  # effective, as a bit mask
    filesystems: frozenset[str] = field(default_factory=frozenset)


def probe() -> KernelFacts:
    """Look at this kernel and this process. What cannot be read counts as missing."""
    types = _cgroup_mounts(hostfiles.text("/proc/self/mountinfo"))
    return KernelFacts(
        release=os.uname().release,
        namespaces=_listed("/proc/self/ns"),
        seccomp_actions=frozenset(hostfiles.text("/proc/sys/kernel/seccomp/actions_avail").split()),
        cgroup_mounts=types,
        devices_controlled=os.path.isdir("/sys/fs/cgroup/devices") or "cgroup" not in types,
        nftables=_has_nftables(),
        capabilities=int(_field(hostfiles.text("/proc/self/status"), "CapEff") or "0", 16),
        filesystems=frozenset(
            line.split()[-1] for line in hostfiles.text("/proc/filesystems").splitlines() if line.split()
        ),
    )


def check(facts: KernelFacts, *, bridge: bool = True) -> None:
    """Refuse what cannot work. `bridge`: whether there will be a bridge, which needs nftables.

    SystemFailure naming everything that is missing, one sentence each.
    """
    problems = list(missing(facts, bridge=bridge))
    if problems:
        raise SystemFailure(f"Dockyard cannot run here (Linux {facts.release}): " + "; ".join(problems))


def missing(facts: KernelFacts, *, bridge: bool) -> list[str]:
    """A sentence for each thing that is needed and not there."""
    found = []
    if version(facts.release) < MINIMUM:
        found.append(f"Linux {facts.release} is too old: {MINIMUM[0]}.{MINIMUM[1]} or newer is needed")
    lacking = [name for number, name in CAPABILITIES.items() if not facts.capabilities >> number & 1]
    if lacking:
        found.append(f"dockyardd needs to be started with root privileges: it lacks {', '.join(lacking)}")
    for name, option in NAMESPACES.items():
        if name not in facts.namespaces:
            found.append(f"there are no {name} namespaces" + (f" ({option})" if option else ": is /proc mounted?"))
    if not {"errno", "allow"} <= facts.seccomp_actions:
        found.append("system calls cannot be filtered: there is no seccomp (CONFIG_SECCOMP_FILTER)")
    if "proc" not in facts.filesystems:
        found.append("/proc is not mounted or cannot be read")
    if not facts.cgroup_mounts:
        found.append("no control groups are mounted at /sys/fs/cgroup (mount -t cgroup2 cgroup2 /sys/fs/cgroup)")
    elif not facts.devices_controlled:
        found.append("access to devices cannot be limited: the control group v1 controller 'devices' is not mounted")
    if bridge and not facts.nftables:
        found.append("there is no nftables (CONFIG_NF_TABLES, module nf_tables), or use --bridge=none")
    return found


def version(release: str) -> tuple[int, int]:
    """(major, minor) of a release's name; (0, 0) for one that has no numbers."""
    match = re.match(r"([0-9]+)\.([0-9]+)", release)
    return (int(match[1]), int(match[2])) if match else (0, 0)


def _cgroup_mounts(mountinfo: str) -> frozenset[str]:
    """Types of the control group file systems at and below /sys/fs/cgroup (proc(5), mountinfo)."""
    found = set()
    for line in mountinfo.splitlines():
        before, _, after = line.partition(" - ")
        fields = before.split(" ")
        kind = after.partition(" ")[0]
        if len(fields) > 4 and fields[4].startswith("/sys/fs/cgroup") and kind in ("cgroup", "cgroup2"):
            found.add(kind)
    return frozenset(found)


def _has_nftables() -> bool:
    """Ask nf_tables for its generation (netlink(7)); the kernel loads the module for it where it can. Not being allowed
    to ask is another matter."""
    message = struct.pack("=IHHIIBBH", 20, _GET_GENERATION, 1, 1, 0, 0, 0, 0)
    try:
        with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _NETFILTER) as netlink:
            netlink.settimeout(5)
            netlink.send(message)
            answer = netlink.recv(4096)
            failed = struct.unpack_from("=IH", answer)[1] == _ERROR
            return not failed or -struct.unpack_from("=i", answer, 16)[0] == errno.EPERM
    except OSError:
        return False


def _listed(directory: str) -> frozenset[str]:
    try:
        return frozenset(os.listdir(directory))
    except OSError:
        return frozenset()


def _field(text: str, name: str) -> str:
    match = re.search(rf"^{name}:\s*(\S+)", text, re.MULTILINE)
    return match[1] if match else ""
