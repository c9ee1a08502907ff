"""A container's processes in the columns of ps(1).

Owns: which of ps's arguments are understood, the columns, reading /proc. Does not own: which processes there are (the
runtime knows the control group). Nothing of the image is run or opened (S27): no ps, no /etc/passwd from inside.
Sources: ps(1), proc(5).
"""

from __future__ import annotations

import math
import os
import pwd
import re
import time
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

from dockyard.model.errors import InvalidArgument

Style = tuple[str, ...]

_TICKS: Final = os.sysconf("SC_CLK_TCK")
_PAGE: Final = os.sysconf("SC_PAGE_SIZE")
_FULL: Final[Style] = ("user:UID", "pid", "ppid", "c", "stime", "tname:TTY", "time", "cmd")
_PLAIN: Final[Style] = ("pid", "tname:TTY", "time", "comm:CMD")
_USER: Final[Style] = (
    "user", "pid", "pcpu", "pmem", "vsz", "rss", "tname:TTY", "stat", "start", "bsdtime", "args:COMMAND",
)  # fmt: skip
_LONG: Final[Style] = (
    "f", "s", "uid:UID", "pid", "ppid", "c", "pri", "ni", "vsz:SZ", "wchan", "tname:TTY", "time", "comm:CMD",
)  # fmt: skip
_BAD: Final = re.compile(r"[^\w,=%:./+ -]")


class Process(NamedTuple):
    """What /proc tells of one process."""

    pid: int
    stat: list[str]  # from field 3 (state) on
    comm: str
    command: str
    uid: int
    gid: int
    now: float  # seconds since boot
    memory: int  # bytes of the host's memory

    def field(self, number: int) -> int:
        """Field `number` of /proc/PID/stat, as proc(5) counts them."""
        return int(self.stat[number - 3])

    @property
    def cpu_seconds(self) -> float:
        return (self.field(14) + self.field(15)) / _TICKS

    @property
    def age(self) -> float:
        return max(0.0, self.now - self.field(22) / _TICKS)

    @property
    def started(self) -> time.struct_time:
        return time.localtime(time.time() - self.age)

    @property
    def cpu_share(self) -> float:
        return 100 * self.cpu_seconds / self.age if self.age else 0.0


def _user(process: Process) -> str:
    try:
        name = pwd.getpwuid(process.uid).pw_name
    except KeyError:
        return str(process.uid)
    return name if len(name) <= 8 else f"{name[:7]}+"


def _group(process: Process) -> str:
    return str(process.gid)


def _clock(seconds: float) -> str:
    days, rest = divmod(int(seconds), 86400)
    text = f"{rest // 3600:02d}:{rest // 60 % 60:02d}:{rest % 60:02d}"
    return f"{days}-{text}" if days else text


def _elapsed(seconds: float) -> str:
    text = _clock(seconds)
    return text[3:] if text.startswith("00:") else text


def _bsd_time(seconds: float) -> str:
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"


def _start(process: Process) -> str:
    return time.strftime("%H:%M" if process.age < 86400 else "%b%d", process.started)


def _terminal(process: Process) -> str:
    device = process.field(7)
    major, minor = os.major(device), os.minor(device)
    if 136 <= major <= 143:
        return f"pts/{(major - 136) * 256 + minor}"
    return f"tty{minor}" if major == 4 else "?"


def _state(process: Process) -> str:
    flags = process.stat[0]
    flags += "<" if process.field(19) < 0 else "N" if process.field(19) > 0 else ""
    flags += "s" if process.field(6) == process.pid else ""
    flags += "l" if process.field(20) > 1 else ""
    return flags + ("+" if process.field(8) == process.field(5) else "")


class Column(NamedTuple):
    title: str
    value: Callable[[Process], str]


COLUMNS: Final[dict[str, Column]] = {
    "user": Column("USER", _user),
    "uid": Column("UID", lambda p: str(p.uid)),
    "group": Column("GROUP", _group),
    "gid": Column("GID", _group),
    "pid": Column("PID", lambda p: str(p.pid)),
    "ppid": Column("PPID", lambda p: str(p.field(4))),
    "pgid": Column("PGID", lambda p: str(p.field(5))),
    "sid": Column("SID", lambda p: str(p.field(6))),
    "c": Column("C", lambda p: str(min(99, int(p.cpu_share)))),
    "pcpu": Column("%CPU", lambda p: f"{p.cpu_share:.1f}"),
    "pmem": Column("%MEM", lambda p: f"{100 * p.field(24) * _PAGE / p.memory:.1f}"),
    "vsz": Column("VSZ", lambda p: str(p.field(23) // 1024)),
    "rss": Column("RSS", lambda p: str(p.field(24) * _PAGE // 1024)),
    "tname": Column("TTY", _terminal),
    "stat": Column("STAT", _state),
    "s": Column("S", lambda p: p.stat[0]),
    "f": Column("F", lambda p: str(p.field(9) >> 6 & 7)),
    "stime": Column("STIME", _start),
    "start": Column("START", _start),
    "lstart": Column("STARTED", lambda p: time.strftime("%a %b %e %H:%M:%S %Y", p.started)),
    "time": Column("TIME", lambda p: _clock(p.cpu_seconds)),
    "bsdtime": Column("TIME", lambda p: _bsd_time(p.cpu_seconds)),
    "etime": Column("ELAPSED", lambda p: _elapsed(p.age)),
    "etimes": Column("ELAPSED", lambda p: str(int(p.age))),
    "comm": Column("COMMAND", lambda p: p.comm),
    "args": Column("COMMAND", lambda p: p.command),
    "cmd": Column("CMD", lambda p: p.command),
    "ni": Column("NI", lambda p: str(p.field(19))),
    "pri": Column("PRI", lambda p: str(39 - p.field(18))),
    "nlwp": Column("NLWP", lambda p: str(p.field(20))),
    "psr": Column("PSR", lambda p: str(p.field(39))),
    "wchan": Column("WCHAN", lambda p: "-"),
}
_ALIASES: Final = {
    "%cpu": "pcpu", "%mem": "pmem", "cputime": "time", "command": "args", "ucmd": "comm", "ucomm": "comm",
    "euser": "user", "ruser": "user", "uname": "user", "euid": "uid", "ruid": "uid", "egid": "gid", "rgid": "gid",
    "egroup": "group", "rgroup": "group", "pgrp": "pgid", "sess": "sid", "session": "sid", "tty": "tname",
    "tt": "tname",
    "vsize": "vsz", "rssize": "rss", "rsz": "rss", "state": "s", "nice": "ni", "thcount": "nlwp", "bsdstart": "start",
    "start_time": "stime",
}  # fmt: skip


def columns_of(arguments: str) -> list[tuple[str, Column]]:
    """(title, column) for ps's arguments; "" is -ef. InvalidArgument naming what is not understood.

    Understood: -e -A -a -x -w -f -l -F, the BSD letters a u x w e, -o / o / --format with names and titles, and --sort
    (see `order_of`).
    """
    if _BAD.search(arguments):
        raise InvalidArgument(f"unsupported ps arguments: {arguments!r}")
    chosen: list[str] = []
    style = _PLAIN
    words, _ = _without_sort(arguments)
    words = words or ["-ef"]
    while words:
        word = words.pop(0)
        grouped = word.endswith("o") and (word.startswith("-") or set(word) <= set("auxweo"))
        if word == "--format" or grouped:
            if not words:
                raise InvalidArgument("Error running ps: format specification must follow -o")
            chosen += _split_format(words.pop(0))
            letters = word.strip("-").removesuffix("o") if word != "--format" else ""
        elif word.startswith("--format="):
            chosen += _split_format(word.removeprefix("--format="))
            letters = ""
        elif word.startswith("-o"):
            chosen += _split_format(word[2:])
            letters = ""
        else:
            letters = word.lstrip("-") if word.startswith("-") or set(word) <= set("auxwe") else "?"
        if not set(letters) <= set("eAafFlxuwj"):
            raise InvalidArgument(f"unsupported ps arguments: {arguments!r}")
        if "u" in letters:
            style = _USER
        elif "f" in letters or "F" in letters:
            style = _FULL
        elif "l" in letters:
            style = _LONG
    return [_column(name) for name in chosen or style]


def order_of(arguments: str) -> list[tuple[Column, bool]]:
    """What `--sort KEY[,KEY…]` asks for: (column, downwards). A key has `-` for downwards, perhaps `+` for upwards."""
    _, keys = _without_sort(arguments)
    return [(_column(key.lstrip("+-"))[1], key.startswith("-")) for key in keys]


def _without_sort(arguments: str) -> tuple[list[str], list[str]]:
    """The words without `--sort`, and its keys."""
    words, keys = [], list[str]()
    given = arguments.split()
    while given:
        word = given.pop(0)
        if word.startswith("--sort="):
            keys = word.removeprefix("--sort=").split(",")
        elif word in ("--sort", "k") and given:
            keys = given.pop(0).split(",")
        else:
            words.append(word)
    return words, keys


def _split_format(text: str) -> list[str]:
    """`pid,comm=NAME` → names, each with its title; everything behind the first `=` of a word is its title."""
    names = []
    while text:
        name, separator, rest = text.partition(",")
        if "=" in name:
            names.append(name.replace("=", ":", 1))
        elif name:
            names.append(name)
        text = rest if separator else ""
    return names


def _column(spec: str) -> tuple[str, Column]:
    name, separator, title = spec.partition(":")
    key = _ALIASES.get(name.lower(), name.lower())
    column = COLUMNS.get(key)
    if column is None:
        raise InvalidArgument(f'Error running ps: error: unknown user-defined format specifier "{name}"')
    if separator and not title.isdigit():  # `name:width` sets a width, which a list does not have
        return title, column
    return (name.upper() if name.lower() in ("cmd", "tty", "tt", "uname", "ruser", "euser") else column.title), column


def listing(
    pids: list[int], columns: list[tuple[str, Column]], order: Sequence[tuple[Column, bool]] = ()
) -> list[list[str]]:
    """One row a process, by `order`, else in order of pid; those that end meanwhile are left out. Blocks on /proc."""
    now = _uptime()
    memory = os.sysconf("SC_PHYS_PAGES") * _PAGE
    processes = [process for pid in sorted(pids) if (process := _read(pid, now, memory)) is not None]
    for column, downwards in reversed(order):
        processes.sort(key=lambda process, column=column: _comparable(column.value(process)), reverse=downwards)  # type: ignore[misc]
    return [[column.value(process) for _, column in columns] for process in processes]


def _comparable(value: str) -> tuple[float, str]:
    """Numbers as numbers, before words."""
    try:
        return float(value), ""
    except ValueError:
        return math.inf, value


def titles(columns: list[tuple[str, Column]]) -> list[str]:
    return [title for title, _ in columns]


def _uptime() -> float:
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def _read(pid: int, now: float, memory: int) -> Process | None:
    try:
        owner = os.stat(f"/proc/{pid}")
        with open(f"/proc/{pid}/stat", "rb") as file:
            stat = file.read().decode(errors="replace")
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            command = file.read(4096)
    except OSError:
        return None
    head, _, tail = stat.rpartition(")")
    comm = head.partition("(")[2]
    words = command.rstrip(b"\0").replace(b"\0", b" ").decode(errors="replace")
    printable = "".join(c if c.isprintable() else "?" for c in words)
    return Process(pid, tail.split(), comm, printable or f"[{comm}]", owner.st_uid, owner.st_gid, now, memory)
