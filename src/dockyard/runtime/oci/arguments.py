"""The command line of an OCI runtime: runc's grammar.

Owns: reading options. They end at "--", and, where what follows is another program's, at the first positional argument;
`--name value`, `--name=value`, `-n value`, one dash or two. Does not own: what they mean (`runtime.oci.commands`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from dockyard.runtime.oci.errors import OciError


class Option(NamedTuple):
    """One option; `value`: it takes one; `many`: it may be given again."""

    names: tuple[str, ...]
    value: bool = True
    many: bool = False


class Arguments:
    """What was given: options by their first name, and the rest."""

    def __init__(self, values: Mapping[str, list[str]], rest: list[str]) -> None:
        self._values = values
        self.rest = rest

    def text(self, name: str, default: str = "") -> str:
        """The last value given."""
        return self._values.get(name, [default])[-1]

    def many(self, name: str) -> list[str]:
        return list(self._values.get(name, ()))

    def flag(self, name: str) -> bool:
        return self._values.get(name, ["false"])[-1] in ("", "true", "1")

    def switch_on(self, name: str) -> None:
        """As if the flag had been given to the command itself."""
        self._values = {**self._values, name: ["true"]}

    def number(self, name: str, default: int = 0) -> int:
        text = self.text(name)
        if text and not text.isdecimal():
            raise OciError(f"--{name}: {text!r} is not a number")
        return int(text) if text else default


def parse(arguments: Sequence[str], options: Sequence[Option], command: str, *, scattered: bool = False) -> Arguments:
    """Raises OciError naming the option. `scattered`: options may also come behind positional arguments."""
    known = {name: option for option in options for name in option.names}
    values: dict[str, list[str]] = {}
    rest: list[str] = []
    at = 0
    while at < len(arguments):
        word = arguments[at]
        if word == "--":
            return Arguments(values, [*rest, *arguments[at + 1 :]])
        if not word.startswith("-") or word == "-":
            if not scattered:
                break
            rest.append(word)
            at += 1
            continue
        name, equals, value = word.lstrip("-").partition("=")
        option = known.get(name)
        if option is None:
            raise OciError(f"{command}: flag provided but not defined: {word.partition('=')[0]}")
        at += 1
        if option.value and not equals:
            if at == len(arguments):
                raise OciError(f"{command}: flag needs an argument: {word}")
            value = arguments[at]
            at += 1
        given = values.setdefault(option.names[0], [])
        if not option.many:
            given.clear()
        given.append(value)
    return Arguments(values, [*rest, *arguments[at:]])
