"""Moments and durations as Docker writes them.

Owns: RFC 3339 with nanoseconds, `seconds.nanoseconds` since the epoch, Go's durations, and the mixture of all of them
that `since` and `until` take. Everything inside is `int` nanoseconds since the epoch; 0 stands for "never" and is
written as Go's zero time. Does not own: the clock (a reference moment is an argument).
"""

from __future__ import annotations

import re
from calendar import timegm
from datetime import UTC, datetime, timedelta, timezone, tzinfo
from functools import lru_cache

SECOND = 1_000_000_000
ZERO_TIME = "0001-01-01T00:00:00Z"

_UNITS = {
    "ns": 1,
    "us": 1_000,
    "µs": 1_000,  # U+00B5
    "μs": 1_000,  # U+03BC
    "ms": 1_000_000,
    "s": SECOND,
    "m": 60 * SECOND,
    "h": 3_600 * SECOND,
}
_DURATION_PART = re.compile(r"([0-9]*)(?:\.([0-9]*))?(ns|us|µs|μs|ms|s|m|h)")
_UNIX = re.compile(r"(-?)([0-9]{1,18})(?:\.([0-9]{1,9})[0-9]*)?\Z")
_RFC3339 = re.compile(
    r"(\d{4})-(\d\d)-(\d\d)(?:[Tt](\d\d)(?::(\d\d)(?::(\d\d)(?:[.,](\d{1,9})\d*)?)?)?)?([Zz]|[+-]\d\d:?\d\d)?\Z"
)


def format_rfc3339(ns: int) -> str:
    """`2025-06-01T12:00:00.5Z`: as many digits as needed, in UTC; 0 is Go's zero time."""
    if not ns:
        return ZERO_TIME
    seconds, fraction = divmod(ns, SECOND)
    text = _format_seconds(seconds)
    return f"{text}.{f'{fraction:09d}'.rstrip('0')}Z" if fraction else f"{text}Z"


@lru_cache(maxsize=16)
def _format_seconds(seconds: int) -> str:
    """Kept for a few: log lines and readings come many in a second."""
    return datetime.fromtimestamp(seconds, UTC).isoformat()[:19]


def parse_rfc3339(text: str, utc_offset: int = 0) -> int:
    """RFC 3339 with or without time, seconds, fraction and zone -> ns. `utc_offset`: seconds, when there is no zone.

    ValueError naming the text when it is something else.
    """
    if text == ZERO_TIME:
        return 0
    match = _RFC3339.match(text)
    if not match:
        raise ValueError(f'parsing time "{text}": not RFC 3339')
    year, month, day, hour, minute, second, fraction, zone = match.groups()
    try:
        moment = datetime(int(year), int(month), int(day), int(hour or 0), int(minute or 0), int(second or 0))
        moment = moment.replace(tzinfo=_zone(zone, utc_offset))
    except ValueError as error:
        raise ValueError(f'parsing time "{text}": {error}') from None
    return timegm(moment.utctimetuple()) * SECOND + int((fraction or "").ljust(9, "0") or 0)


def _zone(zone: str | None, utc_offset: int) -> tzinfo:
    if zone is None:
        return timezone(timedelta(seconds=utc_offset))
    if zone in "Zz":
        return UTC
    digits = zone[1:].replace(":", "")
    minutes = int(digits[:2]) * 60 + int(digits[2:])
    return timezone(timedelta(minutes=-minutes if zone[0] == "-" else minutes))


def parse_unix(text: str) -> int:
    """`1700000000` or `1700000000.25` (seconds since the epoch) -> ns. ValueError naming the text otherwise."""
    match = _UNIX.match(text)
    if not match:
        raise ValueError(f'invalid timestamp "{text}"')
    sign, seconds, fraction = match.groups()
    ns = int(seconds) * SECOND + int((fraction or "").ljust(9, "0") or 0)
    return -ns if sign else ns


def parse_duration(text: str) -> int:
    """A Go duration (`1h30m`, `1.5s`, `-2m`, `0`) -> ns. ValueError naming the text otherwise."""
    body = text[1:] if text[:1] in ("-", "+") else text
    if body == "0":
        return 0
    total, position = 0, 0
    while position < len(body):
        match = _DURATION_PART.match(body, position)
        if not match or not (match[1] or match[2]):
            break
        unit = _UNITS[match[3]]
        total += int(match[1] or 0) * unit
        if match[2]:
            total += int(match[2]) * unit // 10 ** len(match[2])
        position = match.end()
    if not body or position < len(body):
        raise ValueError(f'invalid duration "{text}"')
    return -total if text[0] == "-" else total


def format_duration(ns: int) -> str:
    """As Go writes a duration: `1m30s`, `1.5s`, `250ms`, `0s`."""
    if ns < 0:
        return f"-{format_duration(-ns)}"
    if ns < SECOND:
        unit, size = next(((u, s) for u, s in (("ms", 1_000_000), ("µs", 1_000)) if ns >= s), ("ns", 1))
        return f"{_decimal(ns, size)}{unit}" if ns else "0s"
    minutes, rest = divmod(ns, 60 * SECOND)
    hours, minutes = divmod(minutes, 60)
    text = f"{_decimal(rest, SECOND)}s"
    if hours or minutes:
        text = f"{minutes}m{text}"
    return f"{hours}h{text}" if hours else text


def _decimal(ns: int, size: int) -> str:
    whole, fraction = divmod(ns, size)
    digits = str(fraction).rjust(len(str(size)) - 1, "0").rstrip("0")
    return f"{whole}.{digits}" if fraction else str(whole)


def parse_moment(text: str, now: int, utc_offset: int = 0) -> int:
    """What `since` and `until` take -> ns: a duration before `now`, RFC 3339 (zone optional), or seconds.nanoseconds.

    ValueError naming the text when it is none of them.
    """
    try:
        if _UNIX.match(text):
            return parse_unix(text)
        if text[:4].isdecimal() and text[4:5] == "-":
            return parse_rfc3339(text, utc_offset)
        return now - parse_duration(text)
    except ValueError:
        raise ValueError(f'failed to parse value as time or duration: "{text}"') from None
