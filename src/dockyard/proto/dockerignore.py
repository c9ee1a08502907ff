"""`.dockerignore`: which files of a context do not belong to it.

Owns: reading the file, Go's patternmatcher rules (which `COPY --exclude` uses too). Does not own: walking the tree, nor
which ignore file counts (`DOCKERFILE.dockerignore` before `.dockerignore`: `edge.cli`).

Pure. Paths are relative to the context's root, "/"-separated, without a leading or trailing slash. Matching takes time
polynomial in the lengths of pattern and path, whatever they are: patterns come from strangers.
Source: moby/patternmatcher's documentation and behaviour; Go's path/filepath.Match for the single pattern.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Callable, Iterable, Iterator
from typing import Final, NamedTuple

from dockyard.model.errors import InvalidArgument

_MAX_PATTERNS: Final = 10_000
_MAX_PATTERN: Final = 4096  # characters: PATH_MAX
_SPECIAL: Final = frozenset("*?[\\")


class _Token(NamedTuple):
    """One element of a pattern. kind: "c" literal, "?" , "*", "**" (to a slash), ".*" (at the end), "[" a set."""

    kind: str
    text: str = ""  # literal, or the set as a regular expression


Match = Callable[[str], bool]
State = tuple[bool, ...]  # per pattern: it has matched this path or one of its parents


class Pattern(NamedTuple):
    """One line. `exclusion`: it began with "!" and takes back what earlier lines left out."""

    text: str
    exclusion: bool
    matches: Match


class Ignore:
    """An ignore file. Immutable."""

    def __init__(self, patterns: Iterable[str]) -> None:
        """`patterns` as lines of the file, in order. InvalidArgument naming the one that is malformed."""
        self._patterns = tuple(_pattern(text) for text in patterns)
        if len(self._patterns) > _MAX_PATTERNS:
            raise InvalidArgument(f"more than {_MAX_PATTERNS} ignore patterns")
        self.has_exclusions = any(pattern.exclusion for pattern in self._patterns)

    @classmethod
    def parse(cls, text: str) -> Ignore:
        """A whole file. Lines that begin with "#" are comments; blank lines and blanks at either end mean nothing."""
        return cls(_lines(text))

    @property
    def patterns(self) -> tuple[str, ...]:
        """Cleaned, with their "!"."""
        return tuple(("!" if pattern.exclusion else "") + pattern.text for pattern in self._patterns)

    def __bool__(self) -> bool:
        return bool(self._patterns)

    def excluded(self, path: str) -> bool:
        """Whether a path (of any kind of file) is left out. The root itself never is."""
        state: State | None = None
        excluded = False
        for parent in _chain(path):
            excluded, state = self.step(parent, state)
        return excluded

    def step(self, path: str, parent: State | None) -> tuple[bool, State]:
        """`excluded` for a walk: with what this function returned for the directory above (None at the top)."""
        state: list[bool] = []
        excluded = False
        for number, pattern in enumerate(self._patterns):
            matched = parent is not None and parent[number]
            if not matched and pattern.exclusion == excluded:  # else it could change nothing
                matched = pattern.matches(path)
            state.append(matched)
            if matched:
                excluded = not pattern.exclusion
        return excluded, tuple(state)

    def prunable(self, directory: str) -> bool:
        """Whether nothing below a directory that is excluded can come back: it need not be walked."""
        below = directory + "/"
        for pattern in self._patterns:
            if not pattern.exclusion:
                continue
            fixed, plain = _fixed_part(pattern.text)
            if fixed.startswith(below) or (not plain and below.startswith(fixed)):
                return False
        return True

    @property
    def excludes_root(self) -> bool:
        """Whether a pattern leaves out everything at the top, so that "." is an empty context."""
        return any(not pattern.exclusion and pattern.text in ("*", "**", "**/*") for pattern in self._patterns)


def matcher(pattern: str, *, double_star: bool = True) -> Match:
    """One pattern by itself, against whole paths: a source of COPY (`double_star` only with --parents).

    InvalidArgument if it is no pattern in Go's sense ("[" without "]", a trailing backslash).
    """
    if not double_star:
        pattern = re.sub(r"((?:^|[^\\])(?:\\\\)*)\*{2,}", r"\1*", pattern)
    return _compile(pattern)


def clean(path: str) -> str:
    """Go's filepath.Clean."""
    cleaned = posixpath.normpath(path) if path else "."
    return cleaned[1:] if cleaned.startswith("//") else cleaned


def _lines(text: str) -> Iterator[str]:
    for number, line in enumerate(text.split("\n")):
        if number == 0:
            line = line.removeprefix("\ufeff")
        if line.startswith("#"):
            continue
        line = line.strip()
        if not line:
            continue
        exclusion = line.startswith("!")
        if exclusion:
            line = line[1:].strip()
        if line:
            line = clean(line)
            if len(line) > 1 and line.startswith("/"):
                line = line[1:]
        yield ("!" if exclusion else "") + line


def _pattern(text: str) -> Pattern:
    text = text.strip()
    exclusion = text.startswith("!")
    if exclusion:
        text = text[1:]
        if not text:
            raise InvalidArgument('illegal exclusion pattern: "!"')
    text = clean(text)
    if len(text) > _MAX_PATTERN:
        raise InvalidArgument(f"ignore pattern longer than {_MAX_PATTERN} characters")
    return Pattern(text, exclusion, _compile(text))


def _chain(path: str) -> Iterator[str]:
    """a/b/c → a, a/b, a/b/c"""
    path = path.strip("/")
    at = path.find("/")
    while at > 0:
        yield path[:at]
        at = path.find("/", at + 1)
    yield path


def _fixed_part(text: str) -> tuple[str, bool]:
    """What a pattern begins with for certain, and whether that is all of it."""
    for at, character in enumerate(text):
        if character in _SPECIAL:
            return text[:at], False
    return text, True


# A single pattern ------------------------------------------------------------------------------------------------


def _compile(text: str) -> Match:
    tokens = _tokens(text)
    if all(token.kind == "c" for token in tokens) and "\\" not in text:
        return text.__eq__
    if text.startswith("**") and not _SPECIAL & set(text[2:]):
        return _suffix(text[2:])
    if text.endswith("**") and not _SPECIAL & set(text[:-2]):
        prefix = text[:-2]
        return lambda path: path.startswith(prefix)
    expression = _expression(tokens)
    if expression is not None:
        match = re.compile(expression, re.DOTALL).match
        return lambda path: match(path) is not None
    return _Automaton(tokens).matches


def _suffix(suffix: str) -> Match:
    if suffix.startswith("/"):
        return lambda path: path.endswith(suffix) or path == suffix[1:]
    return lambda path: path.endswith(suffix)


def _tokens(text: str) -> list[_Token]:
    """InvalidArgument as Go's ErrBadPattern."""
    tokens: list[_Token] = []
    at, end = 0, len(text)
    while at < end:
        character = text[at]
        at += 1
        if character == "*" and text.startswith("*", at):
            at += 1
            if text.startswith("/", at):
                at += 1
            tokens.append(_Token("**" if at < end else ".*"))
        elif character in "*?":
            tokens.append(_Token(character))
        elif character == "[":
            at, members = _set(text, at)
            tokens.append(_Token("[", members))
        elif character == "\\":
            if at == end:
                raise _malformed(text)
            tokens.append(_Token("c", text[at]))
            at += 1
        else:
            tokens.append(_Token("c", character))
    return tokens


def _malformed(text: str) -> InvalidArgument:
    return InvalidArgument(f"syntax error in pattern: {text[:200]!r}")


def _set(text: str, at: int) -> tuple[int, str]:
    """A `[…]` from behind its bracket → where it ends, and the same as a regular expression."""
    negated = text.startswith("^", at)
    at += negated
    ranges: list[str] = []
    while True:
        if ranges and text.startswith("]", at):
            body = "".join(ranges)
            return at + 1, f"[{'^' if negated else ''}{body}]"
        at, low = _set_member(text, at)
        high = low
        if text.startswith("-", at):
            at, high = _set_member(text, at + 1)
        if low <= high:
            ranges.append(f"{re.escape(low)}-{re.escape(high)}")
        else:
            ranges.append("")  # an empty range is no error, it matches nothing
        if at >= len(text):
            raise _malformed(text)


def _set_member(text: str, at: int) -> tuple[int, str]:
    if at >= len(text) or text[at] in "-]":
        raise _malformed(text)
    if text[at] == "\\":
        at += 1
        if at >= len(text):
            raise _malformed(text)
    if at + 1 >= len(text):
        raise _malformed(text)
    return at + 1, text[at]


def _expression(tokens: list[_Token]) -> str | None:
    """A regular expression that cannot backtrack badly, or None if the pattern is not of the usual kind.

    Usual: `**` stands between slashes and no set can match a slash. Then the leftmost match of everything but the last
    piece is as good as any other, so each piece may be atomic.
    """
    pieces: list[list[_Token]] = [[]]  # between the "**"
    for number, token in enumerate(tokens):
        if token.kind == "[" and (token.text == "[]" or token.text.startswith("[^") or re.match(token.text, "/")):
            return None
        if token.kind == "**":
            if number and tokens[number - 1] != _Token("c", "/") and tokens[number - 1].kind != "**":
                return None
            pieces.append([])
        else:
            pieces[-1].append(token)
    out = []
    for number, piece in enumerate(pieces):
        last = number == len(pieces) - 1
        body = _components(piece)
        if number == 0:
            out.append(body)
        elif last:
            out.append(f"(?:.*/)?{body}")
        else:
            out.append(f"(?>(?:[^/]*/)*?{body})")
    return "".join(out) + r"\Z"


def _components(piece: list[_Token]) -> str:
    """Literals, `?`, sets and `*`; all but the last `*` of a component lazily and atomically."""
    out: list[str] = []
    component: list[_Token] = []
    for token in [*piece, None]:
        if token is None or token == _Token("c", "/") or token.kind == ".*":
            out.append(_component(component))
            component = []
            if token is not None:
                out.append("/" if token.kind == "c" else ".*")
        else:
            component.append(token)
    return "".join(out)


def _component(tokens: list[_Token]) -> str:
    segments: list[str] = [""]
    for token in tokens:
        if token.kind == "*":
            segments.append("")
        else:
            segments[-1] += {"c": re.escape(token.text), "?": "[^/]", "[": token.text}[token.kind]
    if len(segments) == 1:
        return segments[0]
    middle = "".join(f"(?>[^/]*?{segment})" for segment in segments[1:-1] if segment)
    return f"{segments[0]}{middle}[^/]*{segments[-1]}"


class _Automaton:
    """Any pattern, by simulating its automaton: slow, but never more than pattern times path."""

    def __init__(self, tokens: list[_Token]) -> None:
        self._tokens = tokens
        self._sets = {token.text: _set_test(token.text) for token in tokens if token.kind == "["}

    def matches(self, path: str) -> bool:
        states = self._closure({0})
        for character in path:
            states = self._closure(self._advance(states, character))
            if not states:
                return False
        return len(self._tokens) * 2 in states

    # State 2n: before token n. State 2n+1: within a "**" that has taken something and waits for its slash.

    def _closure(self, states: set[int]) -> set[int]:
        todo = list(states)
        while todo:
            state = todo.pop()
            number, within = divmod(state, 2)
            if not within and number < len(self._tokens) and self._tokens[number].kind in ("*", "**", ".*"):
                after = (number + 1) * 2
                if after not in states:
                    states.add(after)
                    todo.append(after)
        return states

    def _advance(self, states: set[int], character: str) -> set[int]:
        reached: set[int] = set()
        for state in states:
            number = state // 2
            if number == len(self._tokens):
                continue
            token = self._tokens[number]
            after = (number + 1) * 2
            if token.kind == "**":
                reached.add(number * 2 + 1)
                if character == "/":
                    reached.add(after)
            elif token.kind == ".*" or (token.kind == "*" and character != "/"):
                reached.add(number * 2)
            elif (
                (token.kind == "c" and token.text == character)
                or (token.kind == "?" and character != "/")
                or (token.kind == "[" and self._sets[token.text](character))
            ):
                reached.add(after)
        return reached


def _set_test(text: str) -> Callable[[str], bool]:
    if text == "[]":
        return lambda character: False
    if text == "[^]":
        return lambda character: True
    match = re.compile(text, re.DOTALL).match
    return lambda character: match(character) is not None
