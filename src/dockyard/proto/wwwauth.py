"""What a registry asks for in WWW-Authenticate.

Owns: the header's grammar: several challenges in one line or several, quoted strings. Does not own: what is done about
them (`store.remote.authorization`). Pure.

Grammar: RFC 9110, 11.6.1; the parameters of Bearer: distribution's token specification.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import NamedTuple

_TOKEN = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_PARAMETER = re.compile(rf'\s*({_TOKEN})\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^\s,"=][^\s,"]*))\s*(?:,|\Z)')
_SCHEME = re.compile(rf"[\s,]*({_TOKEN})(?:\s+|\Z|(?=,))")
_TOKEN68 = re.compile(r"[A-Za-z0-9._~+/-]+=*\s*(?:,|\Z)")
_MAX = 16_384  # characters that are looked at


class Challenge(NamedTuple):
    """One way to log in. `scheme` and the parameters' names are in lower case."""

    scheme: str
    parameters: dict[str, str]


def parse(lines: Iterable[str]) -> list[Challenge]:
    """All challenges, in order. What is malformed is left out: a challenge that nobody understands helps nobody."""
    found: list[Challenge] = []
    for line in lines:
        found += _line(line[:_MAX])
    return found


def _line(line: str) -> list[Challenge]:
    found: list[Challenge] = []
    position = 0
    while position < len(line):
        scheme = _SCHEME.match(line, position)
        if not scheme:
            break
        position = scheme.end()
        challenge = Challenge(scheme[1].lower(), {})
        found.append(challenge)
        blob = _TOKEN68.match(line, position)
        if blob and not _PARAMETER.match(line, position):
            position = blob.end() if "," in blob[0] or blob.end() == len(line) else position
        while parameter := _PARAMETER.match(line, position):
            name, quoted, plain = parameter.groups()
            value = re.sub(r"\\(.)", r"\1", quoted) if quoted is not None else plain
            challenge.parameters.setdefault(name.lower(), value)
            position = parameter.end()
    return found
