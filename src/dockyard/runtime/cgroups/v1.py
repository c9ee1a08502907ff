"""Control groups v1: one directory in each controller's hierarchy.

Sources: Documentation/admin-guide/cgroup-v1/*.rst; the OCI runtime spec's config-linux.md for the meaning of resources.
"""

from __future__ import annotations

import functools
import os
import time
from typing import Any

from dockyard.runtime.cgroups.files import kill_all, rdma_lines, read, remove_tree, tree_pids, write

_CONTROLLERS = (
    "cpu", "cpuacct", "cpuset", "memory", "devices", "freezer", "blkio", "pids",
    "hugetlb", "net_cls", "net_prio", "perf_event", "rdma", "misc", "systemd",
)  # fmt: skip


@functools.cache
def hierarchies(root: str) -> dict[str, str]:
    """Controller -> directory of its hierarchy (cpu and cpuacct may share one). Looked up once a process: a host does
    not move its hierarchies, and the zygote has them for all monitors."""
    found = {}
    for name in os.listdir(root):
        if name == "unified" or os.path.islink(f"{root}/{name}") or not os.path.exists(f"{root}/{name}/cgroup.procs"):
            continue  # the last: a directory that somebody made where nothing is mounted
        for controller in name.split(","):
            if controller in _CONTROLLERS:
                found[controller] = f"{root}/{name}"
    return found


class CgroupV1:
    """One container's control group in every v1 hierarchy of the host."""

    def __init__(self, path: str, root: str) -> None:
        self.path = path
        self._root = root
        self._controllers = hierarchies(root)
        self._directories = {c: f"{top}/{path}" for c, top in self._controllers.items()}
        self._unique = list(dict.fromkeys(self._directories.values()))

    def create(self) -> None:
        made: list[str] = []
        try:
            for controller, directory in self._directories.items():
                self._make(controller, directory, made)
        except BaseException:
            for directory in made:
                os.rmdir(directory)
            raise

    def _make(self, controller: str, directory: str, made: list[str]) -> None:
        try:
            os.mkdir(directory, 0o755)
            made.append(directory)
        except FileExistsError:
            if read(f"{directory}/cgroup.procs").strip():
                raise FileExistsError(17, f"container's cgroup is not empty: {self.path}") from None
            if controller == "freezer" and read(f"{directory}/freezer.state").strip() != "THAWED":
                raise OSError(16, f"container's cgroup unexpectedly frozen: {self.path}") from None
        except FileNotFoundError:
            self._make_parents(controller)
            os.mkdir(directory, 0o755)
            made.append(directory)
        if controller == "cpuset":
            self._inherit_cpuset(directory)

    def _make_parents(self, controller: str) -> None:
        directory = self._controllers[controller]
        for part in self.path.split("/")[:-1]:
            directory = f"{directory}/{part}"
            try:
                os.mkdir(directory, 0o755)
            except FileExistsError:
                continue
            if controller == "cpuset":
                self._inherit_cpuset(directory)
                write(f"{directory}/cgroup.clone_children", "1")
            if controller == "memory":
                try:
                    write(f"{directory}/memory.use_hierarchy", "1")
                except OSError:
                    pass  # gone from newer kernels, where it is always on

    def _inherit_cpuset(self, directory: str) -> None:
        """A v1 cpuset starts empty and lets no process in until it has CPUs and memory nodes, as those above it have:
        one that somebody else has made may be empty, too."""
        for name in ("cpuset.cpus", "cpuset.mems"):
            if not read(f"{directory}/{name}").strip():
                above = os.path.dirname(directory)
                if above != self._controllers["cpuset"] and not read(f"{above}/{name}").strip():
                    self._inherit_cpuset(above)
                write(f"{directory}/{name}", read(f"{above}/{name}"))

    def limit(self, resources: dict[str, Any]) -> None:
        for controller, name, value in settings(resources):
            if controller in self._directories:
                self._write(controller, name, value)
            else:
                raise OSError(95, f"cannot set {name}: the cgroup controller {controller} is not available")
        if "devices" in self._directories:
            self._limit_devices(device_rules(resources.get("devices") or []))

    def _file(self, controller: str, name: str) -> str:
        """A control file; weights of block devices belong to the BFQ scheduler where CFQ's are gone (Linux 5.0)."""
        path = f"{self._directories[controller]}/{name}"
        if name.startswith("blkio.weight") and not os.path.exists(path):
            return f"{self._directories[controller]}/{name.replace('blkio.', 'blkio.bfq.')}"
        return path

    def update(self, resources: dict[str, Any]) -> None:
        memory = resources.get("memory") or {}
        limit, swap = memory.get("limit"), memory.get("swap")
        with_swap = self._file("memory", "memory.memsw.limit_in_bytes") if limit is not None else ""
        if limit is not None and limit < 0 and swap is None and os.path.exists(with_swap):
            swap = -1  # no limit at all cannot be below one
            resources = {**resources, "memory": {**memory, "swap": swap}}
        changes = settings(resources)
        if limit is not None and swap is not None:
            # The kernel refuses a limit above the one with swap, at any moment: the one that grows goes first.
            now = int(read(with_swap))
            if swap < 0 or limit > now:
                changes.sort(key=lambda change: change[1] != "memory.memsw.limit_in_bytes")
        for at, (controller, name, value) in enumerate(changes):
            try:
                self._write(controller, name, value)
            except OSError as error:
                # A shorter period makes the old quota a larger part, perhaps above the parent's: the new quota first.
                if error.errno != 22 or (name, "cpu.cfs_quota_us") != ("cpu.cfs_period_us", _name(changes[at + 1 :])):
                    raise
                changes.append((controller, name, value))

    def _write(self, controller: str, name: str, value: str) -> None:
        path = self._file(controller, name)
        write(path, value)
        if controller == "hugetlb":  # what is reserved counts, too, where the kernel tells it apart
            reserved = path.replace(".limit_in_bytes", ".rsvd.limit_in_bytes")
            if os.path.exists(reserved):
                write(reserved, value)

    def _limit_devices(self, rules: list[tuple[str, str]]) -> None:
        """One write a rule, through one descriptor a file."""
        directory, opened = self._directories["devices"], dict[str, int]()
        try:
            for name, rule in rules:
                if name not in opened:
                    opened[name] = os.open(f"{directory}/{name}", os.O_WRONLY | os.O_CLOEXEC)
                try:
                    os.write(opened[name], rule.encode())
                except OSError as error:
                    text = f"cannot write {rule!r} to {name}: {os.strerror(error.errno or 0)}"
                    raise OSError(error.errno, text) from error
        finally:
            for fd in opened.values():
                os.close(fd)

    def adopt(self, pid: int, resources: dict[str, Any]) -> bool:
        return False

    def join(self) -> None:
        for directory in self._unique:
            # the caller has one thread. Through cgroup.procs it would have to get a lock that every fork and exit of
            # the host respects: 2 to 6 ms for nine hierarchies, against 0.07
            write(f"{directory}/tasks", "0")

    def directories(self) -> dict[str, str]:
        return dict(self._directories)

    def part(self, name: str) -> str:
        freezer = self._directories.get("freezer")
        return f"{freezer}/{name}" if freezer else ""

    def _any(self) -> str:
        return self._directories.get("freezer") or self._unique[0]

    def pids(self) -> list[int]:
        return tree_pids(self._any())

    def freeze(self, frozen: bool) -> None:
        state = f"{self._directories['freezer']}/freezer.state"
        wanted = "FROZEN" if frozen else "THAWED"
        deadline = time.monotonic() + 10
        while True:
            write(state, wanted)
            if read(state).strip() == wanted:
                return
            if time.monotonic() > deadline:
                write(state, "THAWED")
                raise OSError(16, f"the processes of cgroup {self.path} do not freeze")
            time.sleep(0.001)

    def kill(self) -> None:
        kill(self._any())

    def oom_kills(self, since: int = 0) -> int:
        directory = self._directories.get("memory")
        if directory:
            for line in read(f"{directory}/memory.oom_control").splitlines():
                if line.startswith("oom_kill "):
                    return int(line.split()[1])
        return 0

    def oom_file(self) -> str:
        directory = self._directories.get("memory")
        return f"{directory}/memory.oom_control" if directory else ""

    def remove(self) -> None:
        for directory in self._unique:
            remove_tree(directory)

    def rename(self, path: str) -> None:
        other = CgroupV1(path.strip("/"), self._root)
        done: list[tuple[str, str]] = []
        try:
            for old, new in zip(self._unique, other._unique, strict=True):
                _rename(old, new)
                done.append((old, new))
        except OSError:
            for old, new in done:
                os.rename(new, old)
            raise
        self.path, self._directories, self._unique = other.path, other._directories, other._unique

    def descriptor(self) -> int:
        return -1

    def hierarchies(self) -> list[tuple[str, str]]:
        tops = dict.fromkeys(self._controllers.values())
        names = [os.path.basename(top) for top in tops]
        return [(name, "none,name=systemd" if name == "systemd" else name) for name in names]


def kill(directory: str) -> None:
    """SIGKILL all processes of a group and beneath it, in the freezer's hierarchy if there is one."""
    state = f"{directory}/freezer.state"
    freezes = os.path.exists(state)
    for _ in range(100):
        pids = tree_pids(directory)
        if not pids:
            return
        if freezes:
            write(state, "FROZEN")  # no fork outruns the list
            pids = tree_pids(directory)
        kill_all(pids)
        if freezes:
            write(state, "THAWED")
        time.sleep(0.001)


def _name(changes: list[tuple[str, str, str]]) -> str:
    return changes[0][1] if changes else ""


def sweep(parent: str, prefix: str, root: str) -> None:
    """See `cgroups.sweep`."""
    for top in set(hierarchies(root).values()):
        try:
            names = os.listdir(f"{top}/{parent}")
        except FileNotFoundError:
            continue
        for name in names:
            if name.startswith(prefix) and not os.path.exists(f"/proc/{name.removeprefix(prefix)}"):
                try:
                    os.rmdir(f"{top}/{parent}/{name}")
                except OSError:
                    continue  # somebody waits in it


def device_rules(devices: list[dict[str, Any]]) -> list[tuple[str, str]]:
    """OCI device rules -> (control file, line) in order."""
    rules = []
    for device in devices:
        name = "devices.allow" if device.get("allow") else "devices.deny"
        kind = device.get("type") or "a"
        access = device.get("access") or "rwm"
        if kind == "a" and device.get("major") is None and device.get("minor") is None:
            rules.append((name, "a"))
            continue
        major, minor = (("*" if n in (None, -1) else str(n)) for n in (device.get("major"), device.get("minor")))
        rules.append((name, f"{kind} {major}:{minor} {access}"))
    return rules


def settings(resources: dict[str, Any]) -> list[tuple[str, str, str]]:
    """OCI resources -> (controller, file, value) in an order that the kernel accepts."""
    memory, cpu = resources.get("memory") or {}, resources.get("cpu") or {}
    found: list[tuple[str, str, Any]] = [
        ("memory", "memory.limit_in_bytes", memory.get("limit")),
        ("memory", "memory.memsw.limit_in_bytes", memory.get("swap")),
        ("memory", "memory.soft_limit_in_bytes", memory.get("reservation")),
        ("memory", "memory.kmem.tcp.limit_in_bytes", memory.get("kernelTCP")),
        ("memory", "memory.swappiness", memory.get("swappiness")),
        ("memory", "memory.oom_control", 1 if memory.get("disableOOMKiller") else None),
        ("cpuset", "cpuset.cpus", cpu.get("cpus") or None),
        ("cpuset", "cpuset.mems", cpu.get("mems") or None),
        ("cpu", "cpu.shares", cpu.get("shares")),
        ("cpu", "cpu.cfs_period_us", cpu.get("period")),
        ("cpu", "cpu.cfs_quota_us", cpu.get("quota")),
        ("cpu", "cpu.rt_period_us", cpu.get("realtimePeriod")),
        ("cpu", "cpu.rt_runtime_us", cpu.get("realtimeRuntime")),
    ]
    if cpu.get("burst") is not None:
        found.append(("cpu", "cpu.cfs_burst_us", cpu["burst"]))
    if cpu.get("idle") is not None:
        found.append(("cpu", "cpu.idle", cpu["idle"]))
    network = resources.get("network") or {}
    if network.get("classID") is not None:
        found.append(("net_cls", "net_cls.classid", network["classID"]))
    found.extend(
        ("net_prio", "net_prio.ifpriomap", f"{p['name']} {p['priority']}") for p in network.get("priorities") or []
    )
    found.extend(("rdma", "rdma.max", line) for line in rdma_lines(resources))
    pids = (resources.get("pids") or {}).get("limit")
    if pids is not None:
        found.append(("pids", "pids.max", "max" if pids <= 0 else pids))
    block = resources.get("blockIO") or {}
    found.append(("blkio", "blkio.weight", block.get("weight")))
    weights = block.get("weightDevice") or []
    found.extend(("blkio", "blkio.weight_device", f"{d['major']}:{d['minor']} {d['weight']}") for d in weights)
    for key, name in (
        ("throttleReadBpsDevice", "blkio.throttle.read_bps_device"),
        ("throttleWriteBpsDevice", "blkio.throttle.write_bps_device"),
        ("throttleReadIOPSDevice", "blkio.throttle.read_iops_device"),
        ("throttleWriteIOPSDevice", "blkio.throttle.write_iops_device"),
    ):
        found.extend(("blkio", name, f"{d['major']}:{d['minor']} {d['rate']}") for d in block.get(key) or [])
    for page in resources.get("hugepageLimits") or []:
        found.append(("hugetlb", f"hugetlb.{page['pageSize']}.limit_in_bytes", page["limit"]))
    return [(controller, name, str(value)) for controller, name, value in found if value is not None]


def _rename(old: str, new: str) -> None:
    """What a monitor that was killed has left of an earlier run gives way."""
    try:
        os.rename(old, new)
    except FileExistsError:
        try:
            remove_tree(new, patience=0)
        except OSError:
            raise FileExistsError(17, f"container's cgroup is not empty: {new}") from None
        os.rename(old, new)
