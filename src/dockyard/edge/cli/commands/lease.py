"""`dockyard lease`: create, ls, inspect, renew, rm, run."""

from __future__ import annotations

import os
import sys

from dockyard.edge.cli.api import quote
from dockyard.edge.cli.call import Body, Call, complain, each, say
from dockyard.edge.cli.commands.ps import FORMAT_HELP
from dockyard.edge.cli.errors import SIGNALLED, CliError
from dockyard.edge.cli.flags import DURATION, flag, value
from dockyard.edge.cli.show import show_one, show_rows

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

VARIABLE = "DOCKYARD_LEASE"  # what the client makes belongs to the lease of this id
HEADERS = {
    "ID": "LEASE ID",
    "TTL": "TTL",
    "Expires": "EXPIRES",
    "Holders": "HOLDERS",
    "Containers": "CONTAINERS",
    "Networks": "NETWORKS",
    "Volumes": "VOLUMES",
}


def _path(lease: str) -> str:
    if not lease.strip():
        raise CliError("invalid lease: value is empty")
    return f"/leases/{quote(lease)}"


def _ttl(call: Call) -> dict[str, Any]:
    return {"TTL": call.number("ttl")} if call.given("ttl") else {}


def _create(call: Call) -> None:
    say(call.api.post("/leases", None, _ttl(call))["Id"])


def _ls(call: Call) -> None:
    leases = call.api.get("/leases")
    if call.on("quiet"):
        for lease in leases:
            say(lease["Id"])
        return
    columns = list(HEADERS)
    show_rows(call.text("format"), columns, HEADERS, [_row(lease) for lease in leases])


def _row(lease: dict[str, Any]) -> dict[str, Any]:
    from dockyard.proto.times import format_duration

    counts = {name: str(len(lease[name] or [])) for name in ("Containers", "Networks", "Volumes")}
    ttl = format_duration(lease["TTL"])
    expires = "ending" if lease["Ending"] else _in(lease["ExpiresAt"]) if lease["ExpiresAt"] else "held"
    return {"ID": lease["Id"], "TTL": ttl, "Expires": expires, "Holders": str(lease["Holders"]), **counts}


def _in(moment: str) -> str:
    import time

    from dockyard.proto.times import parse_rfc3339
    from dockyard.proto.units import human_duration

    return f"in {human_duration(max(parse_rfc3339(moment) - time.time_ns(), 0))}"


def _inspect(call: Call) -> None:
    found = [call.api.get(_path(lease)) for lease in call.arguments]
    if call.text("format"):
        for lease in found:
            show_one(call.text("format"), lease)
        return
    import json

    say(json.dumps(found, indent=4))


def _renew(call: Call) -> int:
    def one(lease: str) -> str:
        call.api.post(f"{_path(lease)}/renew", None, _ttl(call))
        return lease

    return each(call.arguments, one)


def _remove(call: Call) -> int:
    def one(lease: str) -> str:
        call.api.delete(_path(lease))
        return lease

    return each(call.arguments, one)


def _run(call: Call) -> int:
    """The connection that holds the lease is open as long as this process lives, however it ends."""
    lease = call.api.post("/leases", None, _ttl(call))["Id"]
    held = call.api.send("GET", f"{_path(lease)}/hold", fresh=True)
    next(iter(held.chunks()))
    try:
        code = _execute(call.arguments, {**os.environ, VARIABLE: lease})
    finally:
        held.connection.close()
        try:
            call.api.delete(_path(lease))
        except CliError as error:
            complain(f"dockyard: lease {lease}: {error.message}; what belongs to it goes when its time is over")
    return code


def _execute(arguments: list[str], environment: dict[str, str]) -> int:
    """Run a program; SIGINT and SIGTERM are left to it. Exit code as a shell tells it."""
    import signal

    sys.stdout.flush()
    child = -1

    def hand_on(number: int, _frame: object) -> None:
        if child > 0:
            os.kill(child, number)

    signal.signal(signal.SIGTERM, hand_on)
    signal.signal(signal.SIGHUP, hand_on)
    signal.signal(signal.SIGINT, lambda _number, _frame: None)  # the terminal tells the whole group
    try:
        child = os.posix_spawnp(
            arguments[0], arguments, environment, setsigdef=[signal.SIGINT, signal.SIGTERM, signal.SIGHUP]
        )
    except OSError as error:
        raise CliError(f"{arguments[0]}: {error.strerror}", 127) from None
    _, status = os.waitpid(child, 0)
    code = os.waitstatus_to_exitcode(status)
    return code if code >= 0 else SIGNALLED - code


_TTL = value("--ttl", "Time that the lease lasts unless it is renewed or held (s|m|h)", DURATION, shown_default="30s")
_FORMAT = value("--format", FORMAT_HELP)
create = Body(_create, (_TTL,))
ls = Body(_ls, (_FORMAT, flag("-q --quiet", "Only display lease IDs")))
inspect = Body(_inspect, (value("-f --format", FORMAT_HELP),))
renew = Body(_renew, (value("--ttl", "Change how long the lease lasts (s|m|h)", DURATION),))
remove = Body(_remove)
run = Body(_run, (_TTL,))
