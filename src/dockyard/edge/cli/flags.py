"""Flags as docker takes them: what one is, and how a command line is read.

Owns: `Flag`, the kinds of values, and `parse`, which has the conventions of docker's flag library: `--rm=false`,
`-m=512m`, `-e=A=b`, `-itd`, a value glued to its shorthand, options that end at the first argument where a command asks
for that. click's parser has none of these, and importing click takes as long as everything else together (docs/cli.md
has the figures), so click is left to shell completion. Does not own: the layout of help (`help`).
"""

from __future__ import annotations

from dockyard.edge.cli.errors import BAD_USAGE, CliError

TYPE_CHECKING = False  # typing's own constant, without the 6 ms that importing typing takes (docs/cli.md)
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any


class Kind:
    """What a flag's value is: the word that help shows, and text → value (ValueError saying what is wrong)."""

    __slots__ = ("convert", "word")

    def __init__(self, word: str, convert: Callable[[str], Any]) -> None:
        self.word = word
        self.convert = convert


class FlagError(CliError):
    """A flag that does not exist, lacks its value or does not take it."""

    def __init__(self, message: str) -> None:
        super().__init__(message, BAD_USAGE)


def _bool(text: str) -> bool:
    if text.lower() in ("1", "t", "true"):
        return True
    if text.lower() in ("0", "f", "false"):
        return False
    raise ValueError("neither true nor false")


def _int(text: str) -> int:
    try:
        return int(text, 10)
    except ValueError:
        raise ValueError("not a whole number") from None


def _filter(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals:
        raise ValueError("bad format of filter (expected name=value)")
    return name.strip().lower(), value.strip()


def _size(text: str) -> int:
    from dockyard.proto.units import parse_size

    return int(text) if text.lstrip("-").isdecimal() else parse_size(text)


def _duration(text: str) -> int:
    from dockyard.proto.times import parse_duration

    try:
        return parse_duration(text)
    except ValueError as error:
        raise ValueError(f"{error}; it is one or more numbers with units, such as 90s or 1h30m") from None


BOOL = Kind("", _bool)
STRING = Kind("string", str)
INT = Kind("int", _int)
BYTES = Kind("bytes", _size)  # bytes
DURATION = Kind("duration", _duration)  # ns
FILTER = Kind("filter", _filter)


class Flag:
    """One flag of a command.

    `names`: the shorthand, if any, then the long name. `many`: may be repeated, and then its value is a list.
    `instead`: the flag that a deprecated spelling gives way to. `complete`: what completes its value (container,
    image, network, file, or words separated by spaces).
    """

    __slots__ = ("complete", "default", "help", "hidden", "instead", "kind", "many", "names", "shown_default")

    def __init__(
        self,
        names: tuple[str, ...],
        help: str,
        kind: Kind = STRING,
        many: bool = False,
        default: Any = None,
        shown_default: str = "",
        hidden: bool = False,
        instead: str = "",
        complete: str = "",
    ) -> None:
        self.names = names
        self.help = help
        self.kind = kind
        self.many = many
        self.default = default
        self.shown_default = shown_default
        self.hidden = hidden
        self.instead = instead
        self.complete = complete

    @property
    def key(self) -> str:
        """The name that a command asks by: the long name without dashes."""
        return self.names[-1].lstrip("-")

    @property
    def word(self) -> str:
        """What help says the value is; "" for a switch."""
        return "list" if self.many and self.kind is STRING else self.kind.word


def flag(names: str, help: str, **more: Any) -> Flag:
    """A switch: `flag("-a --all", …)`."""
    return Flag(tuple(names.split()), help, BOOL, **more)


def value(names: str, help: str, kind: Kind = STRING, **more: Any) -> Flag:
    """A flag with a value; the last one given counts."""
    return Flag(tuple(names.split()), help, kind, **more)


def many(names: str, help: str, kind: Kind = STRING, **more: Any) -> Flag:
    """A flag that may be repeated."""
    return Flag(tuple(names.split()), help, kind, many=True, **more)


class Parsed:
    """What a command line says. `values`: by key; flags not given are absent. `help`: help is asked for."""

    __slots__ = ("arguments", "deprecated", "help", "values")

    def __init__(self, values: dict[str, Any], arguments: list[str], help: bool, deprecated: list[Flag]) -> None:
        self.values = values
        self.arguments = arguments
        self.help = help
        self.deprecated = deprecated


def parse(flags: Sequence[Flag], tokens: Sequence[str], *, interspersed: bool, lenient: bool = False) -> Parsed:
    """Reads a command line. FlagError with docker's wording where it does not fit; never when `lenient`."""
    return _Reader(flags, interspersed, lenient).read(list(tokens))


class _Reader:
    def __init__(self, flags: Sequence[Flag], interspersed: bool, lenient: bool) -> None:
        self.by_name = {name: each for each in flags for name in each.names}
        self.interspersed, self.lenient = interspersed, lenient
        self.values: dict[str, Any] = {}
        self.deprecated: list[Flag] = []

    def read(self, tokens: list[str]) -> Parsed:
        arguments: list[str] = []
        queue = tokens[::-1]
        while queue:
            token = queue.pop()
            if token == "--":
                arguments += queue[::-1]
                break
            if token == "--help" or (token == "-h" and "-h" not in self.by_name):
                return Parsed(self.values, arguments, not self.lenient, self.deprecated)
            try:
                if token.startswith("--"):
                    self.long(token, queue)
                elif token.startswith("-") and len(token) > 1:
                    self.short(token, queue)
                elif self.interspersed:
                    arguments.append(token)
                else:
                    arguments += [token, *queue[::-1]]
                    break
            except FlagError:
                if not self.lenient:
                    raise
        return Parsed(self.values, arguments, False, self.deprecated)

    def long(self, token: str, queue: list[str]) -> None:
        name, equals, text = token.partition("=")
        found = self.by_name.get(name)
        if found is None:
            raise FlagError(f"unknown flag: {name}")
        if equals:
            self.store(found, text)
        elif found.kind is BOOL:
            self.store(found, "true")
        elif queue:
            self.store(found, queue.pop())
        else:
            raise FlagError(f"flag needs an argument: {name}")

    def short(self, token: str, queue: list[str]) -> None:
        rest = token[1:]
        while rest:
            letter, rest = rest[0], rest[1:]
            found = self.by_name.get(f"-{letter}")
            if found is None:
                raise FlagError(f"unknown shorthand flag: '{letter}' in {token}")
            if rest.startswith("="):
                self.store(found, rest[1:])
                return
            if found.kind is BOOL:
                self.store(found, "true")
                continue
            if not rest and not queue:
                raise FlagError(f"flag needs an argument: '{letter}' in {token}")
            self.store(found, rest or queue.pop())
            return

    def store(self, found: Flag, text: str) -> None:
        try:
            value = found.kind.convert(text)
        except ValueError as error:
            names = ", ".join(found.names)
            raise FlagError(f'invalid argument "{text}" for "{names}" flag: {error}') from None
        if found.instead:
            self.deprecated.append(found)
        key = found.instead or found.key
        if found.many:
            self.values.setdefault(key, []).append(value)
        else:
            self.values[key] = value
