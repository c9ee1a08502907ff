"""What this engine is and what its host offers.

Owns: `System`: facts about host and kernel, counts, settings as they stand. Does not own: Docker's JSON of them
(`edge.api.system`). Nothing here waits for a container: counts come from memory.
"""

from __future__ import annotations

import os
import platform
import socket
import uuid
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from dockyard import __version__
from dockyard.engine.containers import Containers
from dockyard.engine.events import Events
from dockyard.engine.runtimes import OURS, OciRuntime
from dockyard.model.container import HostConfig
from dockyard.model.lifecycle import State
from dockyard.proto.netplan import Pool
from dockyard.proto.registries import RegistryRules
from dockyard.runtime import hostfiles
from dockyard.runtime.bundle.cdi import Devices
from dockyard.runtime.cgroups.facts import CgroupFacts


@dataclass(frozen=True, slots=True)
class Settings:
    """How the daemon was set up, as far as clients are told."""

    data_root: str
    storage_driver: str = "overlay"
    debug: bool = False
    labels: list[str] = field(default_factory=list)
    log_driver: str = "json-file"
    default_runtime: str = "dockyard"
    runtimes: Mapping[str, OciRuntime] = field(default_factory=dict)
    registries: RegistryRules = field(default_factory=RegistryRules)
    address_pools: list[Pool] = field(default_factory=list)  # that were asked for
    devices: Devices = field(default_factory=Devices)
    userns: bool = False  # containers get a user namespace of their own
    selinux: bool = False  # containers get labels
    no_new_privileges: bool = False
    # what containers get that say nothing about it
    log_opts: Mapping[str, str] = field(default_factory=dict)
    cgroup_parent: str = ""
    cgroup_driver: str = "cgroupfs"
    dns: list[str] = field(default_factory=list)
    dns_opts: list[str] = field(default_factory=list)
    dns_search: list[str] = field(default_factory=list)
    init: bool = False
    ipc_mode: str = ""
    cgroupns_mode: str = ""
    shm_size: int = 0

    def fill_in(self, host: HostConfig) -> None:
        """Give a new container the daemon's defaults for what it leaves open."""
        host.log_config.type = host.log_config.type or self.log_driver
        if host.log_config.type == self.log_driver and self.log_opts:
            host.log_config.config = {**self.log_opts, **(host.log_config.config or {})}
        if not host.runtime and self.default_runtime != "dockyard":
            host.runtime = self.default_runtime
        host.cgroup_parent = host.cgroup_parent or self.cgroup_parent
        if self.init and host.init is None and host.runtime in ("", OURS):
            host.init = True
        host.ipc_mode = host.ipc_mode or self.ipc_mode
        if self.cgroupns_mode == "host" or not host.privileged:  # privileged has a rule of its own
            host.cgroupns_mode = host.cgroupns_mode or self.cgroupns_mode
        host.shm_size = host.shm_size or self.shm_size
        if host.network_mode != "host" and not host.network_mode.startswith("container:"):
            host.dns = host.dns or self.dns or host.dns
            host.dns_options = host.dns_options or self.dns_opts or host.dns_options
            host.dns_search = host.dns_search or self.dns_search or host.dns_search


@dataclass(frozen=True, slots=True)
class HostFacts:
    """What does not change while the daemon runs. `memory` in bytes."""

    hostname: str
    kernel: str
    architecture: str
    operating_system: str
    os_version: str
    memory: int
    cgroups: CgroupFacts
    backing_filesystem: str
    seccomp: bool
    apparmor: bool


@dataclass(frozen=True, slots=True)
class Counts:
    containers: int
    running: int
    paused: int
    stopped: int


class System:
    """Facts for `version`, `info` and `system df`. One per engine."""

    def __init__(
        self,
        settings: Settings,
        containers: Containers,
        events: Events,
        cgroups: CgroupFacts,
        firewall_notes: Callable[[], list[str]] = list,
    ) -> None:
        """`firewall_notes`: what stands in other people's firewalls for us."""
        self.settings = settings
        self._firewall_notes = firewall_notes
        self.host = read_host(settings.data_root, cgroups)
        self.version = __version__
        self.id = engine_id(settings.data_root)
        self._containers = containers
        self._events = events

    def counts(self) -> Counts:
        """As `info` shows them: a restarting container runs."""
        states = [container.state for container in self._containers.list(all=True)]
        paused = states.count(State.PAUSED)
        running = states.count(State.RUNNING) + states.count(State.RESTARTING)
        return Counts(len(states), running, paused, len(states) - running - paused)

    def cpus(self) -> int:
        return len(os.sched_getaffinity(0))

    def descriptors(self) -> int:
        return len(os.listdir("/proc/self/fd"))

    def listeners(self) -> int:
        return self._events.subscribers

    def forwarding(self) -> bool:
        return hostfiles.text("/proc/sys/net/ipv4/ip_forward").strip() == "1"

    def warnings(self) -> list[str]:
        """What is missing on this host, in Docker's words; what somebody else's firewall holds of ours."""
        groups = self.host.cgroups
        found = [
            (groups.memory_limit, "No memory limit support"),
            (groups.swap_limit, "No swap limit support"),
            (groups.oom_kill_disable or groups.version == 2, "No oom kill disable support"),
            (groups.cpu_quota, "No cpu cfs quota support"),
            (groups.cpu_quota, "No cpu cfs period support"),
            (groups.cpu_shares, "No cpu shares support"),
            (groups.cpuset, "No cpuset support"),
            (self.forwarding(), "IPv4 forwarding is disabled"),
        ]
        missing = [f"WARNING: {text}" for present, text in found if not present]
        return missing + [f"NOTE: {note}" for note in self._firewall_notes()]


def engine_id(data_root: str) -> str:
    """The same for the same data root on the same machine."""
    machine = hostfiles.text("/etc/machine-id").strip() or socket.gethostname()
    return str(uuid.uuid5(uuid.NAMESPACE_URL, f"dockyard:{machine}:{os.path.realpath(data_root)}"))


def read_host(data_root: str, cgroups: CgroupFacts) -> HostFacts:
    """Look at the host once."""
    release = _os_release()
    uname = os.uname()
    return HostFacts(
        hostname=uname.nodename,
        kernel=uname.release,
        architecture=uname.machine,
        operating_system=release.get("PRETTY_NAME") or release.get("NAME") or "Linux",
        os_version=release.get("VERSION_ID", ""),
        memory=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        cgroups=cgroups,
        backing_filesystem=_filesystem(data_root),
        seccomp=os.path.exists("/proc/sys/kernel/seccomp/actions_avail"),
        apparmor=hostfiles.text("/sys/module/apparmor/parameters/enabled").strip() == "Y",
    )


def _os_release() -> dict[str, str]:
    try:
        return platform.freedesktop_os_release()
    except OSError:
        return {}


def _filesystem(path: str) -> str:
    """The type of the filesystem under a path, from the longest mount point that contains it."""
    real, found, kind = os.path.realpath(path), "", "unknown"
    for target, type_ in _mounts(hostfiles.text("/proc/self/mountinfo").splitlines()):
        inside = real == target or real.startswith(target.rstrip("/") + "/")
        if inside and len(target) >= len(found):
            found, kind = target, type_
    return {"ext4": "extfs", "ext3": "extfs", "ext2": "extfs"}.get(kind, kind)


def _mounts(lines: Iterable[str]) -> Iterable[tuple[str, str]]:
    """(mount point, type) of each line of mountinfo (proc(5)); lines of another form are passed over."""
    for line in lines:
        before, separator, after = line.partition(" - ")
        fields = before.split(" ")
        if separator and len(fields) > 4:
            yield fields[4].replace("\\040", " "), after.split(" ", 1)[0]
