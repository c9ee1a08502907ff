"""Sizes and spans of time as people read and write them, in Docker's units.

Owns: bytes ↔ text (decimal `1.98MB`, binary `512MiB`, `-m 512m`) and spans ↔ words (`About a minute`). Durations in
Go's spelling (`1m30s`) and moments are `proto.times`. Behaviour follows docker's go-units; nothing here reads a clock.
"""

from __future__ import annotations

import re

_DECIMAL = ("B", "kB", "MB", "GB", "TB", "PB", "EB", "ZB", "YB")
_BINARY = ("B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB", "ZiB", "YiB")
_SIZE = re.compile(r"(\d+(?:\.\d+)?) ?(?:([kKmMgGtTpP])?[iI]?[bB]?)?\Z")
_POWERS = {"": 0, "k": 1, "m": 2, "g": 3, "t": 4, "p": 5}


def human_size(size: float, digits: int = 4) -> str:
    """Bytes in powers of 1000 with `digits` significant digits: 1982411 → `1.982MB` (3 digits: `1.98MB`)."""
    return _scaled(size, 1000.0, _DECIMAL, digits)


def binary_size(size: float) -> str:
    """Bytes in powers of 1024: 536870912 → `512MiB`."""
    return _scaled(size, 1024.0, _BINARY, 4)


def _scaled(size: float, base: float, names: tuple[str, ...], digits: int) -> str:
    value, index = float(size), 0
    while value >= base and index < len(names) - 1:
        value /= base
        index += 1
    return f"{value:.{digits}g}{names[index]}"


def parse_size(text: str) -> int:
    """`512m`, `1.5GiB`, `64kb`, `1024` → bytes, in powers of 1024. ValueError naming the text otherwise."""
    match = _SIZE.match(text)
    if not match:
        raise ValueError(f"invalid size: '{text}'")
    number, unit = match.groups()
    return int(float(number) * 1024 ** _POWERS[(unit or "").lower()])


def human_duration(ns: int) -> str:
    """A span in ns in words, at one unit's precision: `Less than a second`, `5 minutes`, `About an hour`, `3 weeks`."""
    seconds = ns // 1_000_000_000
    if seconds < 1:
        return "Less than a second"
    if seconds < 60:
        return "1 second" if seconds == 1 else f"{seconds} seconds"
    minutes = seconds // 60
    if minutes < 60:
        return "About a minute" if minutes == 1 else f"{minutes} minutes"
    hours = (ns + 1_800_000_000_000) // 3_600_000_000_000  # rounded to the nearest, as go-units does
    if hours < 48:
        return "About an hour" if hours == 1 else f"{hours} hours"
    for unit, hours_each, below in (("days", 24, 24 * 14), ("weeks", 24 * 7, 24 * 60), ("months", 24 * 30, 24 * 730)):
        if hours < below:
            return f"{hours // hours_each} {unit}"
    return f"{seconds // 3600 // 24 // 365} years"
