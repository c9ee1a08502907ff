"""`--since` and `--until` → what the API takes.

Owns: the local zone and the clock that `proto.times` asks for, and the error that names the flag.
"""

from __future__ import annotations

import time

from dockyard.edge.cli.errors import CliError
from dockyard.proto.times import SECOND, parse_moment


def moment(text: str, flag: str, now: int) -> str | None:
    """`2013-01-02T13:23:37Z`, `42m`, `1700000000.5` → `SECONDS.NANOSECONDS`; None for "". `now` in ns."""
    if not text:
        return None
    try:
        ns = parse_moment(text, now, time.localtime(now // SECOND).tm_gmtoff)
    except ValueError:
        raise CliError(f'invalid value for "{flag}": failed to parse value as time or duration: "{text}"') from None
    seconds, fraction = divmod(ns, SECOND)
    return f"{seconds}.{fraction:09d}"
