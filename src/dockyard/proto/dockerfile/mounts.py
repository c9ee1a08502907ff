"""`RUN --mount=…`.

Owns: the fields of each type of mount and their checks. Does not own: where sources come from (`plan`), mounting.
Source: Dockerfile reference, "RUN --mount"; behaviour as BuildKit's.
"""

from __future__ import annotations

import csv
from collections.abc import Callable
from typing import Any, Final

from dockyard.proto.dockerfile.errors import Problem, quoted, suggest
from dockyard.proto.dockerfile.instructions import RunMount
from dockyard.proto.units import parse_size

TYPES: Final = ("bind", "cache", "secret", "ssh", "tmpfs")
SHARING: Final = ("shared", "private", "locked")

NAMES: Final = {
    "type": "type", "from": "from", "source": "source", "src": "source", "target": "target", "dst": "target",
    "destination": "target", "readonly": "readonly", "ro": "readonly", "readwrite": "readwrite", "rw": "readwrite",
    "required": "required", "size": "size", "id": "id", "sharing": "sharing", "mode": "mode", "uid": "uid",
    "gid": "gid", "env": "env",
}  # fmt: skip
_SWITCHES: Final = ("readonly", "readwrite", "required")
_ONLY: Final = {
    "required": ("secret", "ssh"), "size": ("tmpfs",), "sharing": ("cache",), "mode": ("cache", "secret", "ssh"),
    "uid": ("cache", "secret", "ssh"), "gid": ("cache", "secret", "ssh"), "env": ("secret",),
    "from": ("bind", "cache"), "source": ("bind", "cache", "secret"), "id": ("cache", "secret", "ssh"),
}  # fmt: skip
_TRUE: Final = ("1", "t", "T", "true", "TRUE", "True")
_FALSE: Final = ("0", "f", "F", "false", "FALSE", "False")
_MAX_ID: Final = (1 << 32) - 1
_MAX_SIZE: Final = (1 << 63) - 1


def fields_of(text: str) -> list[str]:
    """Comma-separated, a field may be in double quotes. Problem."""
    try:
        rows = list(csv.reader([text], strict=True))
    except csv.Error as error:
        raise Problem(f"failed to parse csv mounts: {error}", at=text) from None
    if len(rows) != 1:
        raise Problem("failed to parse csv mounts: a line break", at=text)
    return rows[0]


def from_of(text: str) -> str:
    """What a mount's `from` says (no variables are allowed there), before anything else of it is known."""
    found = ""
    for field in fields_of(text):
        key, equals, value = field.partition("=")
        if equals and key.strip().lower() == "from":
            found = value
    return found


def check_early(text: str) -> None:
    """What is certainly wrong before variables have values. Problem."""
    source = from_of(text)
    if "$" in source[:-1]:
        raise Problem("'from' doesn't support variable expansion, define alias stage instead", at=source)
    if "$" not in text:
        parse(text, str)


def parse(text: str, expand: Callable[[str], str]) -> RunMount:
    """One --mount, variables in its values replaced by `expand`. Problem naming the field."""
    given: dict[str, str] = {}
    for field in fields_of(text):
        key, equals, value = field.partition("=")
        key = key.lower()
        name = NAMES.get(key)
        if name is None:
            raise Problem(f"unexpected key {_single(key)} in {_single(field)}{suggest(key, NAMES)}", at=field)
        if not equals and name not in _SWITCHES:
            raise Problem(f"invalid field {_single(field)} must be a key=value pair", at=field)
        given[name] = expand(value) if equals else "true"
        if name in _SWITCHES and given[name] not in (*_TRUE, *_FALSE):
            raise Problem(f"invalid value for {key}: {quoted(given[name])}", at=field)
        if name == "readwrite":  # the last of ro and rw counts
            given.pop("readonly", None)
        elif name == "readonly":
            given.pop("readwrite", None)
    return _build(given, text)


def _build(given: dict[str, str], text: str) -> RunMount:
    kind = given.pop("type", "bind").lower()
    if kind not in TYPES:
        raise Problem(f"unsupported mount type {quoted(kind)}{suggest(kind, TYPES)}", at=kind)
    for name, types in _ONLY.items():
        if name in given and kind not in types:
            raise Problem(f"{name} is not allowed for a mount of type {kind}", at=name)
    values: dict[str, Any] = {"type": kind}
    for name, value in given.items():
        if name == "readonly":
            values["read_only"] = value in _TRUE
        elif name == "readwrite":
            values["read_only"] = value not in _TRUE
        elif name == "required":
            values["required"] = value in _TRUE
        elif name in ("uid", "gid"):
            values[name] = _number(name, value, 10)
        elif name == "mode":
            values[name] = _number(name, value, 8)
        elif name == "size":
            values[name] = _size(value)
        elif name == "sharing":
            if value.lower() not in SHARING:
                raise Problem(f"unsupported sharing value {quoted(value)}{suggest(value, SHARING)}", at=value)
            values[name] = value.lower()
        else:
            values["from_" if name == "from" else name] = value
    values.setdefault("read_only", kind in ("bind", "secret", "ssh"))
    mount = RunMount(**values)
    _check(mount, text)
    return mount


def _check(mount: RunMount, text: str) -> None:
    if mount.type == "secret":
        if mount.source and mount.id:
            raise Problem("both source and id can't be set", at=text)
        if not (mount.source or mount.id or mount.target):
            raise Problem("invalid secret mount. one of source, target required", at=text)
        if mount.env is not None and (not mount.env or "=" in mount.env):
            raise Problem(f"invalid name of a variable for a secret: {quoted(mount.env)}", at=text)
    for value in (mount.target, mount.source, mount.id, mount.from_):
        if "\0" in value or "\n" in value:
            raise Problem("a control character in a mount", at=text)


def _number(name: str, text: str, base: int) -> int:
    digits = "01234567" if base == 8 else "0123456789"
    if not text or len(text) > 12 or set(text) - set(digits) or int(text, base) > _MAX_ID:
        raise Problem(f"invalid value {quoted(text)} for {name}", at=text)
    return int(text, base)


def _size(text: str) -> int:
    try:
        size = parse_size(text[:40])
    except ValueError:
        raise Problem(f"invalid value for size: {quoted(text)}", at=text) from None
    if size > _MAX_SIZE:
        raise Problem(f"invalid value for size: {quoted(text)}", at=text)
    return size


def _single(text: str) -> str:
    return f"'{quoted(text)[1:-1]}'"
