"""Records of a json-file log into the stream that a client reads.

Owns: choosing records (stream, since, until), their text (timestamps, details) and the 8-byte frames.
Does not own: files (`reader`). Pure.

A frame: stream (1 stdout, 2 stderr), three zero bytes, length as a big-endian 32-bit number, then the text.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from struct import Struct as Layout
from typing import Any, Final, TypeVar
from urllib.parse import quote_plus

import msgspec
from msgspec import Struct

from dockyard.store.journal.writer import format_time

_NUMBERS: Final = {"stdout": 1, "stderr": 2}
_HEAD: Final = Layout(">BxxxI").pack
_KEPT: Final = 20_000  # longest text whose frame's head is kept
R = TypeVar("R")


class Query(Struct):
    """What of a log is wanted. Times in ns since the epoch, None: no limit. `tail`: the last N records, None: all."""

    stdout: bool = True
    stderr: bool = True
    since: int | None = None
    until: int | None = None
    timestamps: bool = False
    details: bool = False
    tail: int | None = None


class _Text(Struct, gc=False):
    log: str = ""


class _Line(Struct, gc=False):
    log: str = ""
    stream: str = "stdout"


class _Heads(dict[int, bytes]):
    """The heads of one stream's frames by the texts' lengths, each made once."""

    def __init__(self, number: int) -> None:
        self._number = number

    def __missing__(self, length: int) -> bytes:
        head = _HEAD(self._number, length)
        if length <= _KEPT:
            self[length] = head
        return head


class _FullLine(Struct):
    log: str = ""
    stream: str = "stdout"
    time: str = ""
    attrs: dict[str, str] | None = None


class Encoder:
    """Turns whole records into a client's bytes. `finished` once a record lies behind `until`."""

    def __init__(self, query: Query, *, raw: bool) -> None:
        """`raw`: text alone, as from a terminal; otherwise frames."""
        self._query = query
        self._raw = raw
        self._wanted = {name for name, on in (("stdout", query.stdout), ("stderr", query.stderr)) if on}
        self.since = None if query.since is None else sortable(format_time(query.since))
        self._until = None if query.until is None else sortable(format_time(query.until))
        self._plain = not (query.timestamps or query.details) and self.since is None and self._until is None
        self._decode = _decoder(_Line) if self._plain else _decoder(_FullLine)
        self._decode_texts = _decoder(_Text)
        self._heads = {name: _Heads(number) for name, number in _NUMBERS.items()}
        self.finished = False

    def encode(self, records: bytes) -> bytes:
        """The stream of `records` (whole lines of the file). Damaged ones are skipped."""
        if self._plain and not self._raw and "stdout" in self._wanted and b'"stream":"stderr"' not in records:
            heads = self._heads["stdout"]  # the common case, a million times: quotes within a text are escaped
            return b"".join([heads[len(text := line.log.encode())] + text for line in self._decode_texts(records)])
        lines: Iterable[Any] = self._decode(records)
        if not self._plain:
            return self._join([(line.stream, self._text(line)) for line in self._select(lines)])
        return self._join([(line.stream, line.log) for line in lines if line.stream in self._wanted])

    def _join(self, texts: list[tuple[str, str]]) -> bytes:
        if self._raw:
            return "".join([text for _, text in texts]).encode()
        heads, other = self._heads, self._heads["stdout"]
        return b"".join([heads.get(name, other)[len(data := text.encode())] + data for name, text in texts])

    def _select(self, lines: Iterable[_FullLine]) -> list[_FullLine]:
        chosen = []
        for line in lines:
            moment = sortable(line.time)
            if self._until is not None and moment > self._until:
                self.finished = True
                break
            if line.stream in self._wanted and (self.since is None or moment >= self.since):
                chosen.append(line)
        return chosen

    def _text(self, line: _FullLine) -> str:
        text = line.log
        if self._query.details:
            text = f"{_details(line.attrs)} {text}"
        if self._query.timestamps:
            text = f"{_fixed(line.time)} {text}"
        return text


def _decoder(kind: type[R]) -> Callable[[bytes], list[R]]:
    decoder = msgspec.json.Decoder(kind)
    decode_lines = decoder.decode_lines

    def decode(records: bytes) -> list[R]:
        try:
            return decode_lines(records)
        except (msgspec.MsgspecError, UnicodeDecodeError):
            return [line for record in records.split(b"\n") if (line := _decode_one(decoder, record)) is not None]

    return decode


def _decode_one(decoder: msgspec.json.Decoder[R], record: bytes) -> R | None:
    """A single record, or None if a crash or a full disk damaged it."""
    try:
        return decoder.decode(record) if record else None
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return None


def sortable(moment: str) -> str:
    """Without the Z, times of different precision compare as text ("…00" < "…00.25" < "…00.5")."""
    return moment[:-1]


def _fixed(moment: str) -> str:
    """With all nine digits of the fraction, as `logs -t` shows it."""
    whole, _, fraction = moment.rstrip("Z").partition(".")
    return f"{whole}.{fraction:0<9}Z"


def _details(attrs: dict[str, str] | None) -> str:
    """`a=1,b=2`, each part escaped as in a URL's query."""
    return ",".join(f"{quote_plus(key)}={quote_plus(value)}" for key, value in sorted((attrs or {}).items()))
