"""`dockyard stats`.

Owns: the figures' arithmetic, the table that is drawn over and over. Does not own: reading (the daemon).

One thread a container reads its stream; the main thread draws twice a second and hears of containers that start.
"""

from __future__ import annotations

import sys
import threading
import time

from dockyard.edge.cli.api import container_path
from dockyard.edge.cli.call import Body, Call
from dockyard.edge.cli.errors import CliError
from dockyard.edge.cli.flags import flag, value
from dockyard.edge.cli.show import short_id, show_rows
from dockyard.edge.cli.terminal import is_terminal
from dockyard.proto.units import binary_size, human_size

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

COLUMNS = ["ID", "Name", "CPUPerc", "MemUsage", "MemPerc", "NetIO", "BlockIO", "PIDs"]
HEADERS = {
    "ID": "CONTAINER ID",
    "Container": "CONTAINER",
    "Name": "NAME",
    "CPUPerc": "CPU %",
    "MemUsage": "MEM USAGE / LIMIT",
    "MemPerc": "MEM %",
    "NetIO": "NET I/O",
    "BlockIO": "BLOCK I/O",
    "PIDs": "PIDS",
}
_CLEAR = "\033[H"  # home; each line then clears its rest, and what is below goes
_PERIOD = 0.5  # seconds


def _stats(call: Call) -> None:
    watched = _Watched(call)
    watched.refresh()
    if call.on("no-stream"):
        show_rows(call.text("format"), COLUMNS, HEADERS, watched.rows())
        return
    listing = call.text("format") in ("", "table") or call.text("format").startswith("table")
    while True:
        rows = watched.rows()
        if listing and is_terminal(1):
            sys.stdout.write(_CLEAR)
        show_rows(call.text("format"), COLUMNS, HEADERS, rows)
        if listing and is_terminal(1):
            sys.stdout.write("\033[J")
        sys.stdout.flush()
        if watched.over:
            return
        time.sleep(_PERIOD)
        watched.refresh()


class _Watched:
    """The containers that are shown, each with its latest reading."""

    def __init__(self, call: Call) -> None:
        self._call = call
        self._latest: dict[str, dict[str, Any]] = {}
        self._errors: dict[str, str] = {}
        self._threads: dict[str, threading.Thread] = {}
        self._once = call.on("no-stream")

    @property
    def over(self) -> bool:
        """All those that were named have gone."""
        return bool(self._call.arguments) and not any(thread.is_alive() for thread in self._threads.values())

    def refresh(self) -> None:
        """Watch what is new; wait for the first readings. CliError for a name that there is not."""
        new = [name for name in self._names() if name not in self._threads]
        for name in new:
            thread = threading.Thread(target=self._follow, args=(name,), daemon=True)
            self._threads[name] = thread
            thread.start()
        for name in new:
            while name not in self._latest and self._threads[name].is_alive():
                self._threads[name].join(0.01)
        for name, error in self._errors.items():
            if name in self._call.arguments:
                raise CliError(error)

    def _names(self) -> list[str]:
        if self._call.arguments:
            return self._call.arguments
        rows = self._call.api.get("/containers/json", {"all": self._call.on("all")})
        names = [row["Id"] for row in rows]
        for gone in set(self._latest) - set(names):
            self._forget(gone)
        return names

    def _forget(self, name: str) -> None:
        self._latest.pop(name, None)
        self._threads.pop(name, None)

    def _follow(self, name: str) -> None:
        path = f"{container_path(name)}/stats"
        try:
            for reading in self._call.api.stream("GET", path, {"stream": not self._once}):
                self._latest[name] = reading
        except CliError as error:
            self._errors[name] = str(error)

    def rows(self) -> list[dict[str, Any]]:
        full = self._call.on("no-trunc")
        return [stats_row(name, self._latest[name], full) for name in self._threads if name in self._latest]


def stats_row(asked: str, reading: dict[str, Any], full: bool) -> dict[str, Any]:
    """The fields of one container, as templates name them."""
    memory = reading.get("memory_stats") or {}
    usage, limit = _used_memory(memory), memory.get("limit") or 0
    networks = (reading.get("networks") or {}).values()
    received, sent = (sum(each[key] for each in networks) for key in ("rx_bytes", "tx_bytes"))
    read, written = _block(reading, "r"), _block(reading, "w")
    runs = bool(reading.get("pids_stats"))
    return {
        "ID": reading["id"] if full else short_id(reading["id"]),
        "Container": asked,
        "Name": reading["name"].lstrip("/"),
        "CPUPerc": f"{cpu_percent(reading):.2f}%" if runs else "--",
        "MemUsage": f"{binary_size(usage)} / {binary_size(limit)}" if runs else "-- / --",
        "MemPerc": f"{usage / limit * 100 if limit else 0:.2f}%" if runs else "--",
        "NetIO": f"{human_size(received, 3)} / {human_size(sent, 3)}" if runs else "--",
        "BlockIO": f"{human_size(read, 3)} / {human_size(written, 3)}" if runs else "--",
        "PIDs": str(reading["pids_stats"].get("current", 0)) if runs else "--",
    }


def cpu_percent(reading: dict[str, Any]) -> float:
    """Of one processor, so that two busy ones are 200."""
    now, before = reading["cpu_stats"], reading["precpu_stats"]
    used = now["cpu_usage"]["total_usage"] - before["cpu_usage"]["total_usage"]
    passed = now.get("system_cpu_usage", 0) - before.get("system_cpu_usage", 0)
    if used <= 0 or passed <= 0:
        return 0.0
    return float(used / passed * (now.get("online_cpus") or 1) * 100)


def _used_memory(memory: dict[str, Any]) -> int:
    """Without the file cache that the kernel would drop at once."""
    details = memory.get("stats") or {}
    idle = details.get("total_inactive_file", details.get("inactive_file", 0))
    usage: int = memory.get("usage") or 0
    return usage - idle if idle < usage else usage


def _block(reading: dict[str, Any], op: str) -> int:
    counts = (reading.get("blkio_stats") or {}).get("io_service_bytes_recursive") or []
    return sum(each["value"] for each in counts if each["op"][:1].lower() == op)


stats = Body(
    _stats,
    (
        flag("-a --all", "Show all containers (default shows just running)"),
        value("--format", "Format output: 'table', 'table TEMPLATE', 'json' or a Go template"),
        flag("--no-stream", "Disable streaming stats and only pull the first result"),
        flag("--no-trunc", "Do not truncate output"),
    ),
)
