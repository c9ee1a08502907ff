"""What a command is given, and what it consists of.

Owns: `Body` (flags and function of a command) and `Call` (one invocation: flag values with types, arguments, the
connection to the daemon, messages). Does not own: reading the command line (`flags`), dispatch (`main`).
"""

from __future__ import annotations

import os
import sys

from dockyard.edge.cli.errors import CliError
from dockyard.edge.cli.flags import Flag

TYPE_CHECKING = False  # typing's own constant, without the 6 ms that importing typing takes (docs/cli.md)
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from dockyard.edge.cli.api import Api


class Body:
    """A command: `run` returns the exit code (None = 0)."""

    __slots__ = ("flags", "run")

    def __init__(self, run: Callable[[Call], int | None], flags: tuple[Flag, ...] = ()) -> None:
        self.run = run
        self.flags = flags


class Call:
    """One invocation of a command."""

    def __init__(
        self, name: str, flags: tuple[Flag, ...], values: dict[str, Any], arguments: list[str], options: dict[str, Any]
    ) -> None:
        self.name = name  # "dockyard run", as it was typed
        self.flags = flags
        self.values = values
        self.arguments = arguments
        self.options = options  # global ones
        self._api: Api | None = None

    @property
    def api(self) -> Api:
        """The daemon. Connecting happens with the first request."""
        if self._api is None:
            from dockyard.edge.cli.api import Api
            from dockyard.edge.cli.host import find

            self._api = Api(find(self.options, os.environ), os.environ)
        return self._api

    def given(self, key: str) -> bool:
        return key in self.values

    def get(self, key: str) -> Any:
        """The value of a flag, or its default (False for a switch, [] for a repeated one, else None)."""
        if key in self.values:
            return self.values[key]
        flag = next(each for each in self.flags if each.key == key)
        if flag.default is None:
            return [] if flag.many else None if flag.kind.word else False
        return flag.default

    def on(self, key: str) -> bool:
        return bool(self.get(key))

    def text(self, key: str) -> str:
        """The text of a flag, "" when it was not given."""
        return self.get(key) or ""

    def texts(self, key: str) -> list[str]:
        value = self.get(key)
        assert isinstance(value, list)
        return value

    def number(self, key: str) -> int | None:
        value = self.get(key)
        assert value is None or isinstance(value, int)
        return value

    def filters(self, key: str = "filter") -> dict[str, list[str]]:
        """`-f name=value` flags as the API takes them."""
        out: dict[str, list[str]] = {}
        for name, value in self.get(key):
            out.setdefault(name, []).append(value)
        return out


def say(text: str) -> None:
    """One line to stdout."""
    sys.stdout.write(text + "\n")


def complain(text: str) -> None:
    """One line to stderr, behind what stdout has so far."""
    sys.stdout.flush()
    sys.stderr.write(text + "\n")
    sys.stderr.flush()


def each(arguments: list[str], action: Callable[[str], str | None]) -> int:
    """Does `action` to every argument and prints what it returns; errors are told one by one and give exit code 1."""
    code = 0
    for argument in arguments:
        try:
            text = action(argument)
        except CliError as error:
            from dockyard.edge.cli.errors import NotReachable

            if isinstance(error, NotReachable):
                raise
            complain(f"dockyard: {error.message}")
            code = error.code
        else:
            if text is not None:
                say(text)
    return code


def confirm(question: str) -> bool:
    """Asks on stdout, reads stdin; anything but y or yes is no."""
    sys.stdout.write(f"{question} [y/N] ")
    sys.stdout.flush()
    return sys.stdin.readline().strip().lower() in ("y", "yes")
