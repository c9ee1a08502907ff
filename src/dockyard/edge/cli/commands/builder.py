"""`dockyard builder prune`, `df` (`du`), `export`, `import`: the build cache, cache mounts as tars."""

from __future__ import annotations

import time

from dockyard.edge.cli.call import Body, Call, confirm, say
from dockyard.edge.cli.commands.archive import save_stream
from dockyard.edge.cli.commands.df import CACHE_HEADERS, cache_row
from dockyard.edge.cli.commands.ps import FORMAT_HELP
from dockyard.edge.cli.errors import CliError
from dockyard.edge.cli.flags import BYTES, FILTER, flag, many, value
from dockyard.edge.cli.show import show_rows
from dockyard.edge.cli.terminal import is_terminal
from dockyard.proto.units import human_size

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import BinaryIO

_ALL = "This will remove all build cache."
_DANGLING = "This will remove all dangling build cache."


def _prune(call: Call) -> None:
    warning = _ALL if call.on("all") else _DANGLING
    if not call.on("force") and not confirm(f"WARNING! {warning} Are you sure you want to continue?"):
        raise CliError("", 0)
    query = {
        "all": call.on("all"),
        "filters": call.filters() or None,
        "keep-storage": call.get("keep-storage"),
        "reserved-space": call.get("reserved-space"),
        "max-used-space": call.get("max-used-space"),
        "min-free-space": call.get("min-free-space"),
    }
    result = call.api.post("/build/prune", query)
    gone = result.get("CachesDeleted") or []
    if gone:
        say("Deleted build cache objects:\n" + "\n".join(gone) + "\n")
    say(f"Total reclaimed space: {human_size(result.get('SpaceReclaimed') or 0)}")


def _df(call: Call) -> None:
    records = call.api.get("/system/df", {"type": "build-cache"}).get("BuildCache") or []
    now = time.time_ns()
    if call.on("verbose"):
        for record in records:
            for name, text in (("ID", record["ID"]), ("Parents", ", ".join(record.get("Parents") or []) or "-")):
                say(f"{name + ':':<14}{text}")
            row = cache_row(record, now)
            say(f"{'Description:':<14}{record.get('Description') or ''}")
            say("".join(f"{name + ':':<14}{row[name]}\n" for name in ("Type", "Size", "Created", "Used", "Usage")))
        return
    rows = [cache_row(record, now) | {"Description": record.get("Description") or ""} for record in records]
    show_rows(call.text("format"), list(CACHE_HEADERS), CACHE_HEADERS, rows)
    if not call.text("format"):
        size = sum(record["Size"] for record in records)
        free = sum(record["Size"] for record in records if not record.get("InUse"))
        say(f"\nReclaimable:\t{human_size(free)}\nTotal:\t\t{human_size(size)}")


def _export(call: Call) -> None:
    if not call.text("output") and is_terminal(1):
        raise CliError("cowardly refusing to save to a terminal. Use the -o flag or redirect")
    response = call.api.send("GET", "/build/mounts", {"id": call.arguments[0]}, fresh=True)
    save_stream(call.text("output"), response.chunks(), "failed to save the cache mount")


def _import(call: Call) -> None:
    path = call.text("input") or "-"
    if path == "-" and is_terminal(0):
        raise CliError("requested import from stdin, but stdin is a terminal. Use the -i flag or redirect")
    try:
        with open(0 if path == "-" else path, "rb", closefd=path != "-") as file:
            call.api.send("POST", "/build/mounts", {"id": call.arguments[0]}, raw=_pieces(file), fresh=True).read()
    except OSError as error:
        raise CliError(f"open {path}: {(error.strerror or str(error)).lower()}") from None


def _pieces(file: BinaryIO) -> Iterator[bytes]:
    while piece := file.read(1 << 18):
        yield piece


export = Body(_export, (value("-o --output", "Write to a file, instead of STDOUT", complete="file"),))
import_ = Body(_import, (value("-i --input", "Read from a file, instead of STDIN", complete="file"),))
prune = Body(
    _prune,
    (
        flag("-a --all", "Remove all unused build cache, not just dangling ones"),
        many("--filter", 'Provide filter values (e.g. "until=24h")', FILTER),
        flag("-f --force", "Do not prompt for confirmation"),
        value("--keep-storage", "Amount of disk space to keep for cache", BYTES),
        value("--max-used-space", "Maximum amount of disk space allowed to keep for cache", BYTES),
        value("--min-free-space", "Target amount of free disk space after pruning", BYTES),
        value("--reserved-space", "Amount of disk space always allowed to keep for cache", BYTES),
    ),
)
df = Body(
    _df,
    (value("--format", FORMAT_HELP), flag("-v --verbose", "Show every record with its parents and its description")),
)
