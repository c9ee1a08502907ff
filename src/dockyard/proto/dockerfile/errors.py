"""What is wrong with a Dockerfile, and where.

Owns: `DockerfileError` (position, source line, caret), finding a word's column, "did you mean". Does not own: the texts
of single problems (they stand where they are raised, in BuildKit's words where it has any).

Every problem of the language is raised as `Problem` by pure helpers that know no position and is turned into a
`DockerfileError` by whoever holds the instruction.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

from dockyard.model.errors import InvalidArgument
from dockyard.proto.dockerfile.instructions import Range

_WIDTH: Final = 160  # characters of a source line that are shown
_SHOWN_LINES: Final = 4
_MAX_TEXT: Final = 2000  # characters of a problem's text


class Problem(Exception):
    """Something is wrong with an instruction. `at`: the text in it that is to blame ("" = its keyword)."""

    def __init__(self, text: str, at: str = "") -> None:
        super().__init__(text)
        self.text = text
        self.at = at


class DockerfileError(InvalidArgument):
    """A Dockerfile that cannot be built. `line` and `column` from 1; `problem` is the text without position and source.

    `str()` is what a person should see: the problem, the file's name with line and column, the line with a caret.
    """

    def __init__(self, problem: str, name: str, line: int, column: int, source: Sequence[str] = (), width: int = 1,
                 last: int = 0) -> None:  # fmt: skip
        self.problem, self.name, self.line, self.column = problem, name, line, column
        super().__init__("\n".join([problem, *_excerpt(name, line, column, source, width, last)]))


def located(problem: Problem, where: Range, source: Sequence[str], name: str, *, parsing: bool = False
            ) -> DockerfileError:  # fmt: skip
    """The error for a problem with the instruction at `where`; `parsing` words it as the parser's."""
    line, column = find(problem.at, where, source)
    text = problem.text[:_MAX_TEXT]
    if parsing:
        text = f"dockerfile parse error on line {where.first}: {text}"
    first_line = problem.at.split("\n", 1)[0]
    return DockerfileError(text, name, line, column, source, max(len(first_line), 1), where.last)


def find(text: str, where: Range, source: Sequence[str]) -> tuple[int, int]:
    """Line and column of a text within an instruction: as a whole word if it is one anywhere, else anywhere."""
    text = text.split("\n", 1)[0]
    if text:
        partly: tuple[int, int] | None = None
        for number in range(where.first, min(where.last, len(source)) + 1):
            line = source[number - 1]
            at = line.find(text, where.column - 1 if number == where.first else 0)
            while at >= 0:
                before, after = line[at - 1 : at], line[at + len(text) : at + len(text) + 1]
                if not (before.isalnum() or after.isalnum()):
                    return number, at + 1
                partly = partly or (number, at + 1)
                at = line.find(text, at + 1)
        if partly:
            return partly
    return where.first, where.column


def _excerpt(name: str, line: int, column: int, source: Sequence[str], width: int, last: int) -> list[str]:
    shown = [f"{name}:{line}:{column}"]
    if not 0 < line <= len(source):
        return shown
    margin = len(str(line)) + 1
    text = source[line - 1]
    start = max(0, column - _WIDTH // 2) if len(text) > _WIDTH else 0
    cut = _printable(text[start : start + _WIDTH])
    before, after = "…" if start else "", "…" if start + _WIDTH < len(text) else ""
    shown.append(f"{line:>{margin}} | {before}{cut}{after}")
    offset = min(column - 1 - start, _WIDTH) + len(before)
    lead = "".join("\t" if character == "\t" else " " for character in (before + cut)[:offset])
    carets = max(1, min(width, len(cut) + len(before) - offset))
    shown.append(f"{'':>{margin}} | {lead}{'^' * carets}")
    return shown


def _printable(text: str) -> str:
    """Without what would move a terminal's cursor: the file may be a stranger's."""
    return "".join(character if character.isprintable() or character == "\t" else "\ufffd" for character in text)


def quoted(text: str, limit: int = 100) -> str:
    """A short quotation for a message."""
    text = text if len(text) <= limit else text[:limit] + "…"
    return f'"{_printable(text)}"'


def suggest(word: str, options: Iterable[str]) -> str:
    """ " (did you mean X?)" if one of the options is close enough, else ""."""
    match = closest(word, options)
    return f" (did you mean {match}?)" if match else ""


def closest(word: str, options: Iterable[str]) -> str:
    """The option that somebody who wrote `word` probably meant, or ""."""
    if not 1 < len(word) <= 64:
        return ""
    best, best_distance = "", 1 + max(1, (len(word) + 1) // 3)
    for option in sorted(set(options)):
        if len(word) > 2 and len(option) > len(word) and option.lower().startswith(word.lower()) and best_distance > 1:
            best, best_distance = option, 1
        elif option and abs(len(option) - len(word)) < best_distance:
            distance = _distance(word.lower(), option.lower())
            if distance < best_distance and distance < max(len(option), len(word)) and option != word:
                best, best_distance = option, distance
    return best


def _distance(one: str, other: str) -> int:
    """Edits (insert, delete, replace, swap neighbours) from one word to the other."""
    before: list[int] = []
    row = list(range(len(other) + 1))
    for i, a in enumerate(one, 1):
        before, previous, row = row, before, [i]
        for j, b in enumerate(other, 1):
            cost = min(before[j] + 1, row[j - 1] + 1, before[j - 1] + (a != b))
            if i > 1 and j > 1 and a == other[j - 2] and one[i - 2] == b:
                cost = min(cost, previous[j - 2] + 1)
            row.append(cost)
    return row[-1]
