"""What a control group has used: processors, memory, processes, block devices.

Owns: `Meter`, which keeps a group's files open and reads them again and again (a read through an open descriptor costs
a third of one by name), and the meaning of their lines in both versions. Does not own: limits (`v1`, `v2`), networks,
how often somebody asks.

Sources: Documentation/admin-guide/cgroup-v1/{cpuacct,memory,blkio-controller,pids}.rst, cgroup-v2.rst.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from dockyard.runtime.cgroups import ROOT, location, v1, version

_TICK_NS = 1_000_000_000 // os.sysconf("SC_CLK_TCK")
_UNLIMITED = 1 << 62  # bytes: v1 says "no limit" by a number near 2^63
_READ, _NUMBER = 1 << 16, 32  # bytes


class BlockCount(NamedTuple):
    """One line of block I/O: what was done to the device `major`:`minor` by `op` ("read", "write", …)."""

    major: int
    minor: int
    op: str
    value: int


class Usage(NamedTuple):
    """One reading. Times in ns, sizes in bytes; None or empty where the kernel does not tell."""

    cpu_total: int = 0
    cpu_user: int = 0
    cpu_system: int = 0
    cpu_each: list[int] | None = None
    periods: int = 0
    throttled_periods: int = 0
    throttled_time: int = 0
    memory: int = 0
    memory_peak: int = 0
    memory_limit: int = 0  # 0: none
    memory_failures: int = 0
    memory_details: bytes = b""  # memory.stat as the kernel wrote it: `fields` reads it, `fields_json` writes it anew
    pids: int = 0
    pids_limit: int = 0  # 0: none
    io_bytes: list[BlockCount] | None = None
    io_count: list[BlockCount] | None = None


class Meter:
    """The open files of one group. `close` it; a file that this host lacks is left out."""

    def __init__(self, path: str, root: str = ROOT) -> None:
        """FileNotFoundError if the group is not there."""
        self._files: dict[str, int] = {}
        relative = location(path)
        try:
            if version(root) == 2:
                self._reader: Callable[[], Usage] = self._read_v2
                self._open({name: f"{root}/{relative}/{name}" for name in _V2})
            else:
                self._reader = self._read_v1
                tops = v1.hierarchies(root)
                self._open({n: f"{tops[c]}/{relative}/{n}" for c, names in _V1.items() if c in tops for n in names})
            if not self._files:
                raise FileNotFoundError(2, f"cgroup {path} is not there")
        except BaseException:
            self.close()
            raise

    def _open(self, names: dict[str, str]) -> None:
        for name, path in names.items():
            try:
                self._files[name] = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            except FileNotFoundError:
                continue

    def close(self) -> None:
        """Twice is fine."""
        for fd in self._files.values():
            os.close(fd)
        self._files.clear()

    def read(self) -> Usage:
        """OSError (ENODEV) when the group has gone."""
        return self._reader()

    def _bytes(self, name: str) -> bytes:
        fd = self._files.get(name)
        return os.pread(fd, _READ, 0) if fd is not None else b""

    def _text(self, name: str) -> str:
        return self._bytes(name).decode()

    def _number(self, name: str) -> int:
        """The one number of a file; 0 for "max" and where the file is not there."""
        fd = self._files.get(name)
        try:
            return int(os.pread(fd, _NUMBER, 0)) if fd is not None else 0
        except ValueError:
            return 0

    def _read_v1(self) -> Usage:
        ticks, throttled = fields(self._text("cpuacct.stat")), fields(self._text("cpu.stat"))
        limit = self._number("memory.limit_in_bytes")
        return Usage(
            cpu_total=self._number("cpuacct.usage"),
            cpu_user=ticks.get("user", 0) * _TICK_NS,
            cpu_system=ticks.get("system", 0) * _TICK_NS,
            cpu_each=[int(word) for word in self._text("cpuacct.usage_percpu").split()],
            periods=throttled.get("nr_periods", 0),
            throttled_periods=throttled.get("nr_throttled", 0),
            throttled_time=throttled.get("throttled_time", 0),
            memory=self._number("memory.usage_in_bytes"),
            memory_peak=self._number("memory.max_usage_in_bytes"),
            memory_limit=limit if limit < _UNLIMITED else 0,
            memory_failures=self._number("memory.failcnt"),
            memory_details=self._bytes("memory.stat"),
            pids=self._number("pids.current"),
            pids_limit=self._number("pids.max"),
            io_bytes=block_counts_v1(self._text("blkio.throttle.io_service_bytes_recursive")),
            io_count=block_counts_v1(self._text("blkio.throttle.io_serviced_recursive")),
        )

    def _read_v2(self) -> Usage:
        cpu, io = fields(self._text("cpu.stat")), self._text("io.stat")
        return Usage(
            cpu_total=cpu.get("usage_usec", 0) * 1000,
            cpu_user=cpu.get("user_usec", 0) * 1000,
            cpu_system=cpu.get("system_usec", 0) * 1000,
            periods=cpu.get("nr_periods", 0),
            throttled_periods=cpu.get("nr_throttled", 0),
            throttled_time=cpu.get("throttled_usec", 0) * 1000,
            memory=self._number("memory.current"),
            memory_peak=self._number("memory.peak"),
            memory_limit=self._number("memory.max"),
            memory_failures=fields(self._text("memory.events")).get("max", 0),
            memory_details=self._bytes("memory.stat"),
            pids=self._number("pids.current"),
            pids_limit=self._number("pids.max"),
            io_bytes=block_counts_v2(io, (("rbytes", "read"), ("wbytes", "write"))),
            io_count=block_counts_v2(io, (("rios", "read"), ("wios", "write"))),
        )


_V1 = {
    "cpuacct": ("cpuacct.usage", "cpuacct.usage_percpu", "cpuacct.stat"),
    "cpu": ("cpu.stat",),
    "memory": ("memory.usage_in_bytes", "memory.max_usage_in_bytes", "memory.limit_in_bytes", "memory.failcnt",
               "memory.stat"),
    "pids": ("pids.current", "pids.max"),
    "blkio": ("blkio.throttle.io_service_bytes_recursive", "blkio.throttle.io_serviced_recursive"),
}  # fmt: skip
_V2 = (
    "cpu.stat", "memory.current", "memory.peak", "memory.max", "memory.events", "memory.stat", "pids.current",
    "pids.max", "io.stat",
)  # fmt: skip


def fields(text: str) -> dict[str, int]:
    """`name number` lines."""
    words = text.split()
    return dict(zip(words[::2], map(int, words[1::2]), strict=True))


def fields_json(text: bytes) -> bytes:
    """`fields` of the lines as a JSON object, in a tenth of the time: every second for each watched container."""
    lines = text.strip().replace(b" ", b'":').replace(b"\n", b',"')
    return b'{"' + lines + b"}" if lines else b"{}"


def block_counts_v1(text: str) -> list[BlockCount]:
    """`8:0 Read 4096` lines; the sum at the end is left out."""
    found = []
    for line in text.splitlines():
        words = line.split()
        if len(words) == 3:
            found.append(_count(words[0], words[1].lower(), words[2]))
    return found


def block_counts_v2(text: str, wanted: Iterable[tuple[str, str]]) -> list[BlockCount]:
    """`8:0 rbytes=4096 wbytes=0 …` lines: the values of `wanted` (key, what it is called)."""
    found = []
    for line in text.splitlines():
        device, *pairs = line.split()
        values: dict[str, Any] = dict(pair.partition("=")[::2] for pair in pairs)
        found += [_count(device, name, values[key]) for key, name in wanted if key in values]
    return found


def _count(device: str, op: str, value: str) -> BlockCount:
    major, _, minor = device.partition(":")
    return BlockCount(int(major), int(minor), op, int(value))
