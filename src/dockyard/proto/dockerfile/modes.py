"""`--chmod` and `--chown`: their grammar.

Owns: octal and symbolic modes, "user:group" as text, applying a mode. Does not own: looking names up.
Source: chmod(1) of POSIX; Dockerfile reference, "COPY --chmod".
"""

from __future__ import annotations

import re
from typing import Final

from dockyard.proto.dockerfile.errors import Problem, quoted

_CLAUSE: Final = re.compile(r"(?P<who>[ugoa]*)(?P<actions>(?:[-+=](?:[ugo]|[rwxXst]*))+)\Z")
_ACTION: Final = re.compile(r"([-+=])([ugo]|[rwxXst]*)")
_NUMERIC: Final = re.compile(r"[0-9]+\Z")
_OWNER: Final = re.compile(r"[^:\s\0/]*\Z")
_SHIFTS: Final = {"u": 6, "g": 3, "o": 0}
_BITS: Final = {"r": 4, "w": 2, "x": 1}
_MAX_LENGTH: Final = 256


def check_mode(text: str) -> str:
    """An octal mode as four digits, a symbolic one as written. Problem."""
    if _NUMERIC.match(text):
        if set(text) <= set("01234567") and len(text) <= 12 and int(text, 8) <= 0o7777:
            return f"{int(text, 8):04o}"
    elif 0 < len(text) <= _MAX_LENGTH and all(_CLAUSE.match(clause) for clause in text.split(",")):
        return text
    problem = f"invalid chmod parameter: '{quoted(text)[1:-1]}'. it should be octal string and between 0 and 07777"
    raise Problem(f"{problem}, or symbolic (u=rwX,go=rX)", at=text)


def apply(mode: str, old: int, *, directory: bool) -> int:
    """The permission bits (0…07777) of a file that had `old`, after a mode that `check_mode` has passed."""
    if _NUMERIC.match(mode):
        return int(mode, 8)
    for clause in mode.split(","):
        match = _CLAUSE.match(clause)
        who = (match["who"] if match else "").replace("a", "ugo") or "ugo"
        for operator, what in _ACTION.findall(match["actions"] if match else ""):
            old = _apply(old, who, operator, what, directory)
    return old


def _apply(old: int, who: str, operator: str, what: str, directory: bool) -> int:
    bits = 0
    for user in who:
        bits |= _permissions(old, what, directory) << _SHIFTS[user]
    if "s" in what:
        bits |= (0o4000 if "u" in who else 0) | (0o2000 if "g" in who else 0)
    if "t" in what and "o" in who:
        bits |= 0o1000
    if operator == "+":
        return old | bits
    if operator == "-":
        return old & ~bits
    cleared = 0
    for user in who:
        cleared |= 0o7 << _SHIFTS[user]
    if not directory:
        cleared |= (0o4000 if "u" in who else 0) | (0o2000 if "g" in who else 0) | (0o1000 if "o" in who else 0)
    return (old & ~cleared) | bits


def _permissions(old: int, what: str, directory: bool) -> int:
    if what in ("u", "g", "o") and what:
        return old >> _SHIFTS[what] & 0o7
    bits = 0
    for letter in what:
        bits |= _BITS.get(letter, 0)
    if "X" in what and (directory or old & 0o111):
        bits |= 1
    return bits


def check_owner(text: str) -> str:
    """ "user", "user:group", by names or numbers. Problem."""
    user, colon, group = text.partition(":")
    if len(text) > _MAX_LENGTH or not _OWNER.match(user) or not _OWNER.match(group) or (not user and not group):
        raise Problem(f"invalid chownStr passed ({quoted(text)[1:-1]})", at=text)
    if colon and not group:
        raise Problem(f"invalid chownStr passed ({quoted(text)[1:-1]}): no group behind the colon", at=text)
    return text
