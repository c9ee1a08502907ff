"""Control groups v2: one directory in the unified tree.

Sources: Documentation/admin-guide/cgroup-v2.rst; the OCI runtime spec's config-linux.md. Device access is a BPF program
attached to the directory (`linux.bpf`).
"""

from __future__ import annotations

import os
import time
from typing import Any

from dockyard.linux import bpf
from dockyard.runtime.cgroups.files import kill_all, rdma_lines, read, remove_tree, tree_pids, write


class CgroupV2:
    """One container's control group in the unified tree."""

    def __init__(self, path: str, root: str) -> None:
        self.path = path
        self._root = root
        self._directory = f"{root}/{path}"

    def create(self) -> None:
        directory = self._root
        for part in self.path.split("/"):
            self._delegate(directory)
            directory = f"{directory}/{part}"
            try:
                os.mkdir(directory, 0o755)
            except FileExistsError:
                continue
        if read(f"{self._directory}/cgroup.procs").strip():
            raise FileExistsError(17, f"container's cgroup is not empty: {self.path}")
        if "frozen 1" in read(f"{self._directory}/cgroup.events"):
            raise OSError(16, f"container's cgroup unexpectedly frozen: {self.path}")

    @staticmethod
    def _delegate(directory: str) -> None:
        """Make every controller of `directory` available to its children."""
        missing = set(read(f"{directory}/cgroup.controllers").split())
        missing -= set(read(f"{directory}/cgroup.subtree_control").split())
        for controller in sorted(missing):
            try:
                write(f"{directory}/cgroup.subtree_control", f"+{controller}")
            except OSError:
                continue  # a controller that cannot be delegated is missed where a limit needs it, by name

    def limit(self, resources: dict[str, Any]) -> None:
        self.write(resources)
        devices = resources.get("devices")
        if devices:
            bpf.attach_device_filter(self._directory, devices)

    def update(self, resources: dict[str, Any]) -> None:
        memory = resources.get("memory") or {}
        limit = memory.get("limit")
        if memory.get("checkBeforeUpdate") and limit is not None and limit >= 0:
            used = int(read(f"{self._directory}/memory.current"))
            if used > limit:  # v1 refuses it; v2 would kill
                raise OSError(16, f"memory limit {limit} is below what cgroup {self.path} uses: {used}")
        self.write(resources)

    def write(self, resources: dict[str, Any]) -> None:
        """All limits but those of devices, into the files."""
        for name, value in settings(resources):
            if name == "io.weight" and not os.path.exists(f"{self._directory}/{name}"):
                name, value = "io.bfq.weight", bfq_weight(value)
            write(f"{self._directory}/{name}", value)
            if name.startswith("hugetlb.") and name.endswith("B.max"):
                reserved = f"{self._directory}/{name.removesuffix('max')}rsvd.max"
                if os.path.exists(reserved):  # what is reserved counts, too, where the kernel tells it apart
                    write(reserved, value)

    def adopt(self, pid: int, resources: dict[str, Any]) -> bool:
        return False

    def join(self) -> None:
        write(f"{self._directory}/cgroup.procs", "0")

    def directories(self) -> dict[str, str]:
        return {"": self._directory}

    def part(self, name: str) -> str:
        return f"{self._directory}/{name}"

    def pids(self) -> list[int]:
        return tree_pids(self._directory)

    def freeze(self, frozen: bool) -> None:
        write(f"{self._directory}/cgroup.freeze", "1" if frozen else "0")
        wanted = f"frozen {int(frozen)}"
        deadline = time.monotonic() + 10
        while wanted not in read(f"{self._directory}/cgroup.events"):
            if time.monotonic() > deadline:
                write(f"{self._directory}/cgroup.freeze", "0")
                raise OSError(16, f"the processes of cgroup {self.path} do not freeze")
            time.sleep(0.001)

    def kill(self) -> None:
        kill(self._directory)

    def oom_kills(self, since: int = 0) -> int:
        return oom_count(self._directory)

    def oom_file(self) -> str:
        return f"{self._directory}/memory.events"

    def remove(self) -> None:
        remove_tree(self._directory)

    def rename(self, path: str) -> None:
        raise OSError(95, f"cgroup {self.path} cannot be renamed to {path}: cgroup v2 has no rename")

    def descriptor(self) -> int:
        return os.open(self._directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)

    def hierarchies(self) -> list[tuple[str, str]]:
        return []


def oom_count(directory: str) -> int:
    """How many processes the kernel has killed for lack of memory in a group and beneath it."""
    try:
        events = read(f"{directory}/memory.events")
    except OSError:  # no memory controller, or (ENOENT, ENODEV) no group any more
        return 0
    return next((int(line.split()[1]) for line in events.splitlines() if line.startswith("oom_kill ")), 0)


def kill(directory: str) -> None:
    """SIGKILL all processes of a group and beneath it."""
    try:
        write(f"{directory}/cgroup.kill", "1")  # Linux 5.14
        return
    except FileNotFoundError:
        pass
    for _ in range(100):
        pids = tree_pids(directory)
        if not pids:
            return
        kill_all(pids)
        time.sleep(0.001)


def _shares_to_weight(shares: int) -> int:
    """OCI cpu.shares (2..262144) -> cpu.weight (1..10000), the linear map that the OCI runtimes agree on."""
    return 1 + ((min(max(shares, 2), 262144) - 2) * 9999) // 262142


def _block_weight(weight: int) -> int:
    """OCI's 10..1000 -> io.weight's 1..10000."""
    return 1 + (weight - 10) * 9999 // 990


def bfq_weight(line: str) -> str:
    """A line for io.weight as the BFQ scheduler's file has it: 1..1000."""
    name, _, weight = line.rpartition(" ")
    return f"{name} {max(int(weight) // 10, 1)}"


def settings(resources: dict[str, Any]) -> list[tuple[str, str]]:
    """OCI resources -> (file, value)."""
    found: list[tuple[str, str]] = []
    memory, cpu = resources.get("memory") or {}, resources.get("cpu") or {}

    def number(value: int) -> str:
        return "max" if value < 0 else str(value)

    limit, swap = memory.get("limit"), memory.get("swap")
    if limit is not None:
        found.append(("memory.max", number(limit)))
    if swap is not None and (limit is not None or swap < 0):
        # OCI counts memory and swap together, v2 swap alone
        found.append(("memory.swap.max", "max" if swap < 0 else str(max(swap - max(limit or 0, 0), 0))))
    if memory.get("reservation") is not None:
        found.append(("memory.low", number(memory["reservation"])))
    if cpu.get("shares"):
        found.append(("cpu.weight", str(_shares_to_weight(cpu["shares"]))))
    if cpu.get("quota") is not None or cpu.get("period") is not None:
        quota = cpu.get("quota") or -1
        found.append(("cpu.max", f"{'max' if quota < 0 else quota} {cpu.get('period') or 100000}"))
    if cpu.get("burst") is not None:
        found.append(("cpu.max.burst", str(cpu["burst"])))
    if cpu.get("idle") is not None:
        found.append(("cpu.idle", str(cpu["idle"])))
    found.extend(("rdma.max", line) for line in rdma_lines(resources))
    if cpu.get("cpus"):
        found.append(("cpuset.cpus", cpu["cpus"]))
    if cpu.get("mems"):
        found.append(("cpuset.mems", cpu["mems"]))
    pids = (resources.get("pids") or {}).get("limit")
    if pids is not None:
        found.append(("pids.max", "max" if pids <= 0 else str(pids)))
    block = resources.get("blockIO") or {}
    if block.get("weight"):
        found.append(("io.weight", f"default {_block_weight(block['weight'])}"))
    for device in block.get("weightDevice") or []:
        found.append(("io.weight", f"{device['major']}:{device['minor']} {_block_weight(device['weight'])}"))
    for key, name in (
        ("throttleReadBpsDevice", "rbps"),
        ("throttleWriteBpsDevice", "wbps"),
        ("throttleReadIOPSDevice", "riops"),
        ("throttleWriteIOPSDevice", "wiops"),
    ):
        found.extend(("io.max", f"{d['major']}:{d['minor']} {name}={d['rate']}") for d in block.get(key) or [])
    for page in resources.get("hugepageLimits") or []:
        found.append((f"hugetlb.{page['pageSize']}.max", str(page["limit"])))
    found.extend((name, value) for name, value in (resources.get("unified") or {}).items())
    return found
