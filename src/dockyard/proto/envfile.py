"""Files of `NAME=value` lines (`--env-file`, `--label-file`) and single `-e` and `-l` texts.

Owns: the grammar and its errors (ValueError naming the file and the line). Does not own: reading the file; the
environment that bare names are looked up in is an argument.
"""

from __future__ import annotations

from collections.abc import Mapping


def parse_lines(data: bytes, origin: str, environment: Mapping[str, str] | None) -> list[str]:
    """Lines of a file, comments (`#`) and empty ones left out.

    A bare name takes its value from `environment` and is left out where that has none; with `environment` None
    (labels) it stays bare. Whitespace before a name is dropped; values are taken to the end of the line.
    """
    out = []
    for number, raw in enumerate(data.removeprefix(b"\xef\xbb\xbf").split(b"\n"), 1):
        try:
            line = raw.removesuffix(b"\r").decode("utf-8")
        except UnicodeDecodeError:
            raise ValueError(f"invalid utf8 bytes at line {number} of {origin}") from None
        line = line.lstrip()
        if not line or line.startswith("#"):
            continue
        out += _entry(line, origin, environment)
    return out


def _entry(line: str, origin: str, environment: Mapping[str, str] | None) -> list[str]:
    name, equals, value = line.partition("=")
    if not name:
        raise ValueError(f"no variable name on line '{line}' of {origin}")
    if any(c.isspace() for c in name):
        raise ValueError(f"variable '{name}' contains whitespaces in {origin}")
    if equals:
        return [f"{name}={value}"]
    if environment is None:
        return [name]
    return [f"{name}={environment[name]}"] if name in environment else []


def environment_value(text: str, environment: Mapping[str, str]) -> str:
    """An `-e` value: `A=b` as it is; a bare `A` with its value here, or bare (which unsets it in the container)."""
    name, equals, _ = text.partition("=")
    if not name:
        raise ValueError(f"invalid environment variable: {text}")
    if not equals and name in environment:
        return f"{name}={environment[name]}"
    return text


def as_mapping(entries: list[str]) -> dict[str, str]:
    """`["a=b", "c"]` → `{"a": "b", "c": ""}`; the last of a name wins."""
    return {name: value for name, _, value in (entry.partition("=") for entry in entries)}
