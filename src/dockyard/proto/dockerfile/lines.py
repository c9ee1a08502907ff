"""The text of a Dockerfile → logical lines.

Owns: decoding, parser directives, comments, continuation lines, here-documents, limits of size. Does not own: what a
line means (`parse`).

Source: Dockerfile reference ("Format", "Parser directives", "Here-Documents"); behaviour as BuildKit's parser.
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple

from dockyard.proto.dockerfile.errors import DockerfileError, Problem, located, quoted
from dockyard.proto.dockerfile.instructions import Directive, Heredoc, Range
from dockyard.proto.dockerfile.words import PLAIN, Rules, expand, json_words, split_line

MAX_SIZE: Final = 4 << 20  # bytes
MAX_INSTRUCTIONS: Final = 10_000
DIRECTIVES: Final = ("syntax", "escape", "check")

_DIRECTIVE: Final = re.compile(r"#\s*([a-zA-Z][a-zA-Z0-9]*)\s*=\s*(.+?)\s*\Z")
_BAD: Final = "\ufffd"
_HEREDOC: Final = re.compile(r"(\d{0,9})<<(-?)\s*([^<]+)\Z")
_WITH_HEREDOCS: Final = ("add", "copy", "run")


class Line(NamedTuple):
    """One instruction as text. `comments`: those right before it ("" stands for a blank line).

    `heredocs` are the documents that follow it; `empty_continuation`: a blank line within it.
    """

    text: str
    range: Range
    comments: tuple[str, ...] = ()
    heredocs: tuple[Heredoc, ...] = ()
    empty_continuation: bool = False


class Text(NamedTuple):
    source: tuple[str, ...]
    escape: str
    directives: tuple[Directive, ...]
    lines: tuple[Line, ...]


def read(data: bytes, name: str) -> Text:
    """DockerfileError for what is no text, for repeated directives, here-documents without end, and too much of it."""
    if len(data) > MAX_SIZE:
        raise DockerfileError(f"the Dockerfile is larger than {MAX_SIZE} bytes", name, 1, 1)
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise DockerfileError("the Dockerfile is encoded in UTF-16, it must be UTF-8", name, 1, 1)
    raw = data.removeprefix(b"\xef\xbb\xbf").split(b"\n")
    ended = raw[-1] == b""
    if ended:
        raw.pop()
    return _Reader([line.decode("utf-8", "replace") for line in raw], raw, name, ended).read()


def read_trigger(text: str, escape: str, where: Range, name: str) -> Text:
    """An ONBUILD trigger: one instruction, perhaps with documents. Its position is the FROM's that runs it."""
    lines = text.split("\n")
    reader = _Reader(lines, [line.encode("utf-8", "replace") for line in lines], name, False)
    reader.fixed, reader.escape, reader.directives_over = where, escape, True
    return reader.read()


def heredocs_of(text: str) -> list[Heredoc]:
    """The here-documents that a line announces, without contents. Quoted text announces none."""
    return [found for word in _shell_words(text) if (found := heredoc_word(word)) is not None]


def heredoc_word(word: str) -> Heredoc | None:
    """`<<EOF`, `<<-EOF`, `3<<"EOF"` → the document it announces; None for any other word."""
    match = _HEREDOC.match(word)
    if not match:
        return None
    descriptor, dash, rest = match.groups()
    try:
        plain = expand(rest, {}, Rules(keep_unset=True)).words
        quotes = expand(rest, {}, Rules(keep_unset=True, keep_quotes=True)).text
    except Problem:
        return None
    if len(plain) != 1 or not plain[0]:
        return None
    name = plain[0]
    expands = sum(map(name.count, "'\"")) == sum(map(quotes.count, "'\""))
    return Heredoc(name, expand=expands, chomp=bool(dash), descriptor=int(descriptor or 0))


def _shell_words(text: str) -> list[str]:
    """Divided as a shell would, quotes kept; `<<` belongs to the word behind it. [] if a quote has no end."""
    words: list[str] = []
    word: list[str] = []
    at, size = 0, len(text)
    while at < size:
        character = text[at]
        at += 1
        if character.isspace():
            if word:
                words.append("".join(word))
                word = []
            continue
        word.append(character)
        if character == "\\":
            word.append(text[at : at + 1])
            at += 1
        elif character == "'":
            end = text.find("'", at)
            if end < 0:
                return []
            word.append(text[at : end + 1])
            at = end + 1
        elif character == '"':
            end = at
            while end < size and text[end] != '"':
                end += 2 if text[end] == "\\" else 1
            if end >= size:
                return []
            word.append(text[at : end + 1])
            at = end + 1
        elif character == "<" and text.startswith("<", at):
            at += 1
            word.append("<")
            while at < size and text[at] in "\t\r ":
                word.append(text[at])
                at += 1
    if word:
        words.append("".join(word))
    return words


class _Reader:
    def __init__(self, lines: list[str], raw: list[bytes], name: str, ended: bool) -> None:
        self._source, self._raw, self._name, self._ended = lines, raw, name, ended
        self.escape = PLAIN.escape
        self.fixed: Range | None = None
        self.directives_over = False
        self._at = 0  # lines read so far: also the number of the last one
        self._directives: list[Directive] = []
        self._comments: list[str] = []
        self._lines: list[Line] = []

    def read(self) -> Text:
        while self._at < len(self._source):
            line = self._take().lstrip()
            if self._is_directive(line):
                continue
            if line.startswith("#"):
                comment = line[1:].strip()
                if comment:
                    self._comments.append(comment)
                else:
                    self._comments = []
            elif line:
                self._instruction(line)
            elif self._comments:
                self._comments.append("")
        return Text(tuple(self._source), self.escape, tuple(self._directives), tuple(self._lines))

    def _take(self) -> str:
        self._at += 1
        return self._source[self._at - 1].rstrip("\r")

    def _is_directive(self, line: str) -> bool:
        if self.directives_over:
            return False
        if self._at == 1 and line.startswith("#!"):
            return True
        match = _DIRECTIVE.match(line)
        key = match[1].lower() if match else ""
        if not match or key not in DIRECTIVES:
            self.directives_over = True
            return False
        if any(directive.name == key for directive in self._directives):
            raise self._error(f"only one {key} parser directive can be used", match[1], self._at)
        value = match[2]
        if key == "escape":
            if value not in ("\\", "`"):
                raise self._error(f"invalid escape token '{value[:20]}' does not match ` or \\", value, self._at)
            self.escape = value
        self._directives.append(Directive(key, value, self._at))
        return True

    def _instruction(self, line: str) -> None:
        first = self._at
        column = self._source[first - 1].find(line[0]) + 1
        pieces: list[str] = []
        blank = False
        line, continued = self._without_continuation(line)
        pieces.append(line)
        self._check(first)
        while continued and self._at < len(self._source):
            line = self._take()
            stripped = line.lstrip()
            if stripped.startswith("#"):
                continue
            if not stripped:
                blank = True
                continue
            self._check(self._at)
            line, continued = self._without_continuation(line)
            pieces.append(line)
        text = "".join(pieces).rstrip()
        if not text.strip():
            return
        where = Range(first, self._at, column)
        documents = self._documents(text, where)
        where = self.fixed or Range(first, self._at, column)
        self._lines.append(Line(text, where, tuple(self._comments), documents, blank))
        self._comments = []
        if len(self._lines) > MAX_INSTRUCTIONS:
            raise self._error(f"more than {MAX_INSTRUCTIONS} instructions", "", first)

    def _without_continuation(self, line: str) -> tuple[str, bool]:
        bare = line.rstrip(" \t")
        if bare.endswith(self.escape) and not bare.endswith(self.escape * 2):
            return bare[:-1], True
        return line, False

    def _documents(self, text: str, where: Range) -> tuple[Heredoc, ...]:
        if "<<" not in text:
            return ()
        keyword, _, rest = split_line(text, self.escape)
        if keyword.lower() == "onbuild":
            keyword, _, rest = split_line(rest, self.escape)
        if keyword.lower() not in _WITH_HEREDOCS or _is_json(rest):
            return ()
        return tuple(self._document(announced, where) for announced in heredocs_of(text))

    def _document(self, announced: Heredoc, where: Range) -> Heredoc:
        begin = self._at
        while self._at < len(self._source):
            line = self._take()
            if (line.lstrip("\t") if announced.chomp else line) == announced.name:
                raw = self._between(begin, self._at - 1)
                content = re.sub(r"(?m)^\t+", "", raw) if announced.chomp else raw
                return Heredoc(announced.name, content, announced.expand, announced.chomp, raw, announced.descriptor)
        where = Range(where.first, where.first, where.column)
        problem = f"unterminated heredoc: no line {quoted(announced.name)} follows"
        raise self._error(problem, announced.name, where.first, where)

    def _between(self, begin: int, end: int) -> str:
        for number in range(begin + 1, end + 1):
            self._check(number)
        return "".join(f"{line}\n" for line in self._source[begin:end])

    def _check(self, number: int) -> None:
        """Only what becomes part of an instruction must be text: comments may be in any encoding."""
        line = self._source[number - 1]
        if "\0" in line:
            raise self._error("a NUL character", "\0", number)
        if _BAD in line and _BAD.encode() not in self._raw[number - 1]:
            raise self._error("not valid UTF-8", _BAD, number)

    def _error(self, text: str, at: str, number: int, where: Range | None = None) -> DockerfileError:
        if self.fixed:
            return DockerfileError(text, self._name, self.fixed.first, self.fixed.column)
        where = where or Range(number, number, 1)
        return located(Problem(text, at=at), where, self._source, self._name, parsing=True)


def _is_json(rest: str) -> bool:
    """The exec form announces no documents."""
    try:
        return json_words(rest) is not None
    except Problem:
        return True
