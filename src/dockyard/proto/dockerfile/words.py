"""Words of a Dockerfile: quotes, escapes and `$variables`, as BuildKit's small shell has them.

Owns: substitution with every modifier, splitting into words at blanks, splitting off `--flags`. Does not own: which
variables there are (a mapping is given), which texts are subject to it (`plan`).

Bounded: nesting to `MAX_DEPTH`, results to `MAX_RESULT` characters; time is linear in text and results.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Final

import msgspec
from msgspec import Struct, field

from dockyard.model import untrusted
from dockyard.proto.dockerfile import globs
from dockyard.proto.dockerfile.errors import Problem

MAX_DEPTH: Final = 64
MAX_RESULT: Final = 1 << 20

_SPECIAL: Final = frozenset("@*#?-$!0")
_BLANKS: Final = " \t\v\f\r\n"


class Expanded(Struct):
    """`used`: variables that had a value; `unset`: variables that had none."""

    text: str = ""
    words: list[str] = field(default_factory=list)
    used: set[str] = field(default_factory=set)
    unset: set[str] = field(default_factory=set)


class Rules(Struct, frozen=True):
    """`escape`: the escape character. `keep_quotes`: quotes stay in the result. `keep_unset`: a variable without a
    value stays as written. `ignore_quotes`: a quote is a character like any other (here-documents)."""

    escape: str = "\\"
    keep_quotes: bool = False
    keep_unset: bool = False
    ignore_quotes: bool = False


PLAIN: Final = Rules()


def expand(text: str, variables: Mapping[str, str], rules: Rules = PLAIN) -> Expanded:
    """The text with quotes removed and variables replaced. Problem for bad syntax and for `${x:?…}` that is not met."""
    return _Reader(text, variables, rules).read()


class _Words:
    """Collects the words of a result: blanks divide it, unless they were quoted."""

    def __init__(self) -> None:
        self.done: list[str] = []
        self._word: list[str] = []
        self._open = False

    def add(self, text: str, *, raw: bool) -> None:
        if raw:
            self._word.append(text)
            self._open = True
            return
        start = 0
        for at, character in enumerate(text):
            if character in _BLANKS:
                if at > start:
                    self.add(text[start:at], raw=True)
                self._close()
                start = at + 1
        if start < len(text):
            self.add(text[start:], raw=True)

    def _close(self) -> None:
        if self._open:
            self.done.append("".join(self._word))
            self._word, self._open = [], False

    def finish(self) -> list[str]:
        self._close()
        return self.done


class _Reader:
    """Reads one text once, from left to right."""

    def __init__(self, text: str, variables: Mapping[str, str], rules: Rules) -> None:
        self._text, self._variables, self._rules = text, variables, rules
        self._at = 0
        self._depth = 0
        self._size = 0
        self._result = Expanded()

    def read(self) -> Expanded:
        words = _Words()
        self._result.text = self._until("", words)
        self._result.words = words.finish()
        return self._result

    def _peek(self) -> str:
        return self._text[self._at : self._at + 1]

    def _next(self) -> str:
        character = self._text[self._at : self._at + 1]
        self._at += len(character)
        return character

    def _spend(self, text: str) -> str:
        self._size += len(text)
        if self._size > MAX_RESULT:
            raise Problem(f"the text would be longer than {MAX_RESULT} characters with its variables replaced")
        return text

    def _until(self, stop: str, words: _Words | None = None, *, keep_escapes: bool = False) -> str:
        """Everything up to `stop` (consumed) or, if that is "", to the end."""
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise Problem(f"substitutions nested deeper than {MAX_DEPTH}")
        out: list[str] = []
        while character := self._peek():
            if character == stop:
                self._at += 1
                self._depth -= 1
                return "".join(out)
            raw = True
            if character == "$":
                piece, raw = self._spend(self._dollar()), False
            elif character == "'" and not self._rules.ignore_quotes:
                piece = self._single()
            elif character == '"' and not self._rules.ignore_quotes:
                piece = self._double()
            elif character == self._rules.escape:
                piece = self._escaped(keep_escapes)
            else:
                piece, raw = self._run(stop), False
            out.append(piece)
            if words is not None and (piece or raw):
                words.add(piece, raw=raw)
        if stop:
            raise Problem(f"syntax error: missing '{stop}' in substitution", at=self._text[-40:])
        self._depth -= 1
        return "".join(out)

    def _run(self, stop: str) -> str:
        """Characters that mean nothing, as many as there are."""
        start = self._at
        self._at += 1
        while (character := self._peek()) and character not in "$'\"" and character not in (self._rules.escape, stop):
            self._at += 1
        return self._text[start : self._at]

    def _escaped(self, keep: bool) -> str:
        escape = self._next()
        return (escape if keep else "") + self._next()

    def _single(self) -> str:
        end = self._text.find("'", self._at + 1)
        if end < 0:
            raise Problem("unexpected end of statement while looking for matching single-quote", at=self._rest())
        inner = self._text[self._at + 1 : end]
        self._at = end + 1
        return f"'{inner}'" if self._rules.keep_quotes else inner

    def _double(self) -> str:
        opening = self._rest()
        self._at += 1
        quote = '"' if self._rules.keep_quotes else ""
        out = [quote]
        while character := self._peek():
            if character == '"':
                self._at += 1
                return "".join(out) + quote
            if character == "$":
                out.append(self._spend(self._dollar()))
                continue
            self._at += 1
            if character == self._rules.escape:
                following = self._peek()
                if not following:
                    break
                if following in ('"', "$", self._rules.escape):
                    character = self._next()
            out.append(character)
        raise Problem("unexpected end of statement while looking for matching double-quote", at=opening)

    def _rest(self) -> str:
        return self._text[self._at : self._at + 40]

    # $name and ${name…} ------------------------------------------------------------------------------------------

    def _value(self, name: str) -> str | None:
        value = self._variables.get(name)
        (self._result.unset if value is None else self._result.used).add(name)
        return value

    def _name(self) -> str:
        start = self._at
        first = self._peek()
        if first.isdecimal():
            while self._peek().isdecimal():
                self._at += 1
        elif first and first in _SPECIAL:
            self._at += 1
        else:
            while (character := self._peek()) and (character.isalnum() or character == "_"):
                self._at += 1
        return self._text[start : self._at]

    def _dollar(self) -> str:
        start = self._at
        self._at += 1
        if self._peek() == "{":
            return self._braces(start)
        name = self._name()
        if not name:
            return "$"
        value = self._value(name)
        if value is None:
            return f"${name}" if self._rules.keep_unset else ""
        return value

    def _braces(self, start: int) -> str:
        self._at += 1
        written = self._text[start : start + 40]
        first = self._peek()
        if not first:
            raise Problem("syntax error: missing '}'", at=written)
        if first in "{}:":
            raise Problem("syntax error: bad substitution", at=written)
        name = self._name()
        modifier = self._next()
        if modifier == "}":
            value = self._value(name)
        elif modifier == "/":
            value = self._replacement(name)
        elif modifier and modifier in ":+-?#%":
            value = self._modified(name, modifier, written)
        elif not modifier:
            raise Problem("syntax error: missing '}'", at=written)
        else:
            raise Problem(f"unsupported modifier ({modifier}) in substitution", at=written)
        if value is None:
            return self._text[start : self._at] if self._rules.keep_unset else ""
        return value

    def _modified(self, name: str, modifier: str, written: str) -> str | None:
        empty_counts = modifier == ":"
        if empty_counts:
            modifier = self._next()
            if not modifier or modifier not in "+-?":
                raise Problem(f"unsupported modifier (:{modifier}) in substitution", at=written)
        word = self._until("}", keep_escapes=modifier in "#%")
        value = self._value(name)
        if value is None and self._rules.keep_unset:
            return None
        missing = value is None or (empty_counts and not value)
        if modifier == "-":
            return word if missing else value
        if modifier == "+":
            return "" if missing else word
        if modifier == "?":
            if missing:
                state = "unset" if value is None else "empty"
                raise Problem(f"{name}: {word or f'is not allowed to be {state}'}", at=written)
            return value
        longest = word.startswith(modifier)
        trim = globs.without_prefix if modifier == "#" else globs.without_suffix
        return trim(word[1:] if longest else word, value or "", longest=longest)

    def _replacement(self, name: str) -> str | None:
        everywhere = self._peek() == "/"
        self._at += everywhere
        pattern = self._until("/", keep_escapes=True)
        replacement = self._until("}")
        value = self._value(name)
        if value is None and self._rules.keep_unset:
            return None
        return globs.replace(pattern, value or "", replacement, everywhere=everywhere, limit=MAX_RESULT)


# Splitting -------------------------------------------------------------------------------------------------------


def split_line(text: str, escape: str) -> tuple[str, list[str], str]:
    """An instruction → its keyword as written, its flags, its arguments."""
    keyword, _, rest = text.strip().partition(" ")
    if keyword != (first := keyword.split(None, 1)[0] if keyword else ""):  # another kind of blank came first
        rest = f"{keyword[len(first) :]} {rest}"
    flags, rest = split_flags(rest, escape)
    return first, flags, rest


def json_words(text: str) -> tuple[str, ...] | None:
    """The exec form: a JSON array of strings. None if the text is no JSON array; Problem for one of other things."""
    if not text.lstrip().startswith("["):
        return None
    try:
        values = untrusted.decode(text)
    except msgspec.DecodeError:
        return None
    if not all(isinstance(value, str) for value in values):
        raise Problem("when using JSON array syntax, arrays must be comprised of strings only", at=text[:40])
    return tuple(values)


def split(text: str, escape: str) -> list[str]:
    """At blanks that are neither quoted nor escaped; quotes and escapes stay (ENV, LABEL, ARG)."""
    return [word for word, _ in _scan(text, escape, keep=True)]


def split_flags(text: str, escape: str) -> tuple[list[str], str]:
    """The leading words that begin with `--`, without their quotes, and what follows. A lone `--` ends them."""
    flags: list[str] = []
    at = 0
    for word, end in _scan(text, escape, keep=False, only=lambda at: text.startswith("--", at)):
        at = end
        if word == "--":
            break
        flags.append(word)
    return flags, text[at:].strip()


def _scan(
    text: str, escape: str, *, keep: bool, only: Callable[[int], bool] = lambda at: True
) -> Iterator[tuple[str, int]]:
    """Words and where each ends. `keep`: with quotes and escapes; escapes mean nothing within single quotes then."""
    at, size = 0, len(text)
    while True:
        while at < size and text[at].isspace():
            at += 1
        if at >= size or not only(at):
            return
        word: list[str] = []
        quote = ""
        while at < size:
            character = text[at]
            if not quote and character.isspace():
                break
            at += 1
            if character == escape and not (keep and quote == "'"):
                if at < size:
                    word.append((character if keep else "") + text[at])
                    at += 1
                continue
            if character == quote or (not quote and character in "'\""):
                quote = "" if quote else character
                if not keep:
                    continue
            word.append(character)
        yield "".join(word), at
