"""`dockyard builder prune`, `dockyard builder df` (`du`): the build cache."""

from __future__ import annotations

import time

from dockyard.edge.cli.call import Body, Call, confirm, say
from dockyard.edge.cli.commands.df import CACHE_HEADERS, cache_row
from dockyard.edge.cli.commands.ps import FORMAT_HELP
from dockyard.edge.cli.errors import CliError
from dockyard.edge.cli.flags import BYTES, FILTER, flag, many, value
from dockyard.edge.cli.show import show_rows
from dockyard.proto.units import human_size

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
