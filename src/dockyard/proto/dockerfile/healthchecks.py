"""HEALTHCHECK: its grammar.

Owns: `CMD …` and NONE, the flags and their durations. Does not own: running checks.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from dockyard.proto.dockerfile.errors import Problem, quoted, suggest
from dockyard.proto.dockerfile.flags import TEXT, Flags
from dockyard.proto.dockerfile.instructions import Healthcheck
from dockyard.proto.dockerfile.words import json_words
from dockyard.proto.times import parse_duration

DURATIONS: Final = ("interval", "timeout", "start-period", "start-interval")
FLAGS: Final = {**dict.fromkeys(DURATIONS, TEXT), "retries": TEXT}

_MILLISECOND: Final = 1_000_000
_MAX_DURATION: Final = (1 << 63) - 1
_MAX_RETRIES: Final = (1 << 31) - 1


def read(text: str, flags: Flags, make: Callable[..., Healthcheck]) -> Healthcheck:
    """What follows the flags. Problem."""
    words = text.split(None, 1)
    if not words:
        raise Problem("HEALTHCHECK requires at least one argument")
    kind, rest = words[0], words[1] if len(words) > 1 else ""
    if kind.upper() == "NONE":
        if rest:
            raise Problem("HEALTHCHECK NONE takes no arguments", at=rest)
        return make(Healthcheck, command=None)
    if kind.upper() != "CMD":
        hint = suggest(kind, ("CMD", "NONE")) or " (try CMD)"
        raise Problem(f"Unknown type {quoted(kind)} in HEALTHCHECK{hint}", at=kind)
    command = json_words(rest)
    shell = command is None
    if command is None:
        command = (rest,) if rest else ()
    if not command:
        raise Problem("Missing command after HEALTHCHECK CMD", at=kind)
    times = {name.replace("-", "_"): _duration(name, flags.text(name)) for name in DURATIONS}
    return make(Healthcheck, command=command, shell=shell, retries=_retries(flags.text("retries")), **times)


def _duration(name: str, text: str) -> int:
    """ns; 0 for "" and for zero."""
    if not text:
        return 0
    try:
        duration = parse_duration(text)
    except ValueError as error:
        raise Problem(f"--{name}: {error}", at=text) from None
    if duration and duration < _MILLISECOND:
        raise Problem(f'Interval "{name}" cannot be less than 1ms', at=text)
    if duration > _MAX_DURATION:
        raise Problem(f"--{name}: invalid duration {quoted(text)}", at=text)
    return duration


def _retries(text: str) -> int:
    if not text:
        return 0
    digits = text.removeprefix("-").removeprefix("+")
    if not (digits.isascii() and digits.isdigit() and len(digits) <= 10) or int(digits) > _MAX_RETRIES:
        raise Problem(f"--retries must be a number, not {quoted(text)}", at=text)
    if int(text) < 0:
        raise Problem(f"--retries cannot be negative ({int(text)})", at=text)
    return int(text)
