"""`--name=value` of instructions.

Owns: which kinds of flags there are, checking them against what an instruction knows. Does not own: which flags those
are (`parse`), the language within a value (`mounts` for --mount).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from dockyard.proto.dockerfile.errors import Problem, quoted, suggest

TEXT: Final = "text"  # needs a value, may stand once
SWITCH: Final = "switch"  # a boolean, its value may be left out
LIST: Final = "list"  # needs a value, may be repeated

_BOOLEANS: Final = {"": True, "true": True, "false": False}


class Flags:
    """The flags of one instruction, checked. Problem for unknown, repeated and malformed ones."""

    def __init__(self, words: Sequence[str], known: Mapping[str, str]) -> None:
        self._known = known
        self._texts: dict[str, str] = {}
        self._switches: dict[str, bool] = {}
        self._lists: dict[str, list[str]] = {}
        self.used: set[str] = set()
        for word in words:
            self._add(word)

    def _add(self, word: str) -> None:
        written, equals, value = word.partition("=")
        name = written[2:]
        kind = self._known.get(name)
        if kind is None:
            hint = suggest(written, [f"--{option}" for option in self._known])
            raise Problem(f"unknown flag: {_short(written)}{hint}", at=written)
        if name in self.used and kind != LIST:
            raise Problem(f"duplicate flag specified: {written}", at=word)
        self.used.add(name)
        if kind == SWITCH:
            if equals and not value:
                raise Problem(f"missing a value on flag: {written}", at=word)
            if value.lower() not in _BOOLEANS:
                raise Problem(f"expecting boolean value for flag {written}, not: {_short(value)}", at=value)
            self._switches[name] = _BOOLEANS[value.lower()]
            return
        if not equals:
            raise Problem(f"missing a value on flag: {written}", at=word)
        if kind == LIST:
            self._lists.setdefault(name, []).append(value)
        else:
            self._texts[name] = value

    def text(self, name: str) -> str:
        return self._texts.get(name, "")

    def switch(self, name: str) -> bool:
        return self._switches.get(name, False)

    def maybe(self, name: str) -> bool | None:
        """None if it was not given."""
        return self._switches.get(name)

    def list(self, name: str) -> tuple[str, ...]:
        return tuple(self._lists.get(name, ()))


def _short(text: str) -> str:
    return quoted(text)[1:-1]
