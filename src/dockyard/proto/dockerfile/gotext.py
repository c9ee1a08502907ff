"""Values as Go's fmt writes them: the history of an image has them so.

Owns: %q, %v of lists, the health check's %+v. Pure.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from dockyard.model.container import HealthConfig
from dockyard.proto.times import format_duration

_ESCAPES: Final = {
    "\a": "\\a", "\b": "\\b", "\f": "\\f", "\n": "\\n", "\r": "\\r", "\t": "\\t", "\v": "\\v", "\\": "\\\\", '"': '\\"',
}  # fmt: skip


def quote(text: str) -> str:
    """%q of a string."""
    return f'"{"".join(map(_escaped, text))}"'


def _escaped(character: str) -> str:
    if character in _ESCAPES:
        return _ESCAPES[character]
    if character.isprintable():
        return character
    code = ord(character)
    if code < 0x80:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def quotes(texts: Iterable[str]) -> str:
    """%q of a list: `["a" "b"]`"""
    return f"[{' '.join(map(quote, texts))}]"


def plain(texts: Iterable[str]) -> str:
    """%v of a list: `[a b]`"""
    return f"[{' '.join(texts)}]"


def health(config: HealthConfig) -> str:
    """%+v of a health check."""
    times = (
        ("Interval", config.interval),
        ("Timeout", config.timeout),
        ("StartPeriod", config.start_period),
        ("StartInterval", config.start_interval),
    )
    middle = " ".join(f"{name}:{format_duration(value)}" for name, value in times)
    return f"{{Test:{plain(config.test or ())} {middle} Retries:{config.retries}}}"
