"""What the pages of the documentation say: examples, commands in them, links.

Owns: reading Markdown as far as these need it. Does not own: whether what is said is true (`tests/unit/test_docs.py`,
`tests/conformance/test_docs_examples.py`).
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / name for name in ("README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "CHANGELOG.md")]
PAGES += sorted((ROOT / "docs").glob("*.md"))
PROGRAMS = ("docker", "dockyard", "dockyardd", "dockyard-runtime", "dockerd", "podman")
_FENCE = re.compile(r"^ *```(\w*)\n(.*?)^ *```", re.M | re.S)
_OPERATORS = re.compile(r"[;&|()<>]+")


class Block(NamedTuple):
    """A code block. `language`: "" for none; `indented`: by four blanks, without fences."""

    page: Path
    language: str
    text: str
    indented: bool = False


def blocks(page: Path) -> list[Block]:
    text = page.read_text()
    found = [Block(page, language, body) for language, body in _FENCE.findall(text)]
    rest = _FENCE.sub("", text)
    for paragraph in re.findall(r"(?:(?<=\n\n)|\A)((?: {4}.*\n|\n(?= {4}))+)", rest):
        found.append(Block(page, "", re.sub(r"^ {4}", "", paragraph, flags=re.M), indented=True))
    return found


def shell_examples(page: Path) -> Iterator[list[str]]:
    """The commands of all blocks with one of `PROGRAMS`, as words; what a console printed is not among them."""
    for block in blocks(page):
        if block.language not in ("", "sh", "console"):
            continue
        for line in block.text.replace("\\\n", " ").splitlines():
            if block.language == "console":
                if not line.startswith("$ "):
                    continue
                line = line[2:]
            yield from commands(line)


def commands(line: str) -> Iterator[list[str]]:
    """The commands of one line of shell that are one of `PROGRAMS`. ValueError for a quote that does not end."""
    lexer = shlex.shlex(_without_comment(line), posix=True, punctuation_chars=True)
    lexer.wordchars += "…[]{}@,%:!^#$+"
    lexer.commenters = ""
    words: list[str] = []
    for word in [*lexer, ";"]:
        if not _OPERATORS.fullmatch(word):
            words.append(word)
            continue
        yield from _command(words)
        words = []
    yield from _command(words)


def _without_comment(line: str) -> str:
    for match in re.finditer(r"(?:^|\s)#", line):
        before = line[: match.start()]
        if before.count("'") % 2 == before.count('"') % 2 == 0:
            return before
    return line


def _command(words: list[str]) -> Iterator[list[str]]:
    while words and (words[0] == "export" or re.match(r"\w+=", words[0]) or words[0] == "--"):
        words = words[1:]
    if words and Path(words[0]).name in PROGRAMS:
        yield [Path(words[0]).name, *words[1:]]


def inline_commands(page: Path) -> Iterator[list[str]]:
    """`dockyard …` in the text; brackets are taken off, `a|b|c` is each of them."""
    text = _FENCE.sub("", page.read_text())
    for span in re.findall(r"(?<!`)`([^`]+)`(?!`)", text):
        words = re.sub(r"(?:(?<=\s)\[)|(?:\](?=\s|$))", " ", " ".join(span.split())).replace("…", " … ").split(" ")
        words = [word for word in words if word]
        if len(words) < 2 or words[0] not in PROGRAMS:
            continue
        several = next((at for at, word in enumerate(words) if re.fullmatch(r"[a-z-]+([|/][a-z-]+)+", word)), 0)
        for each in re.split(r"[|/]", words[several]) if several else [words[0]]:
            yield [*words[:several], each, *words[several + 1 :]]


def inline_flags(page: Path) -> set[str]:
    """Long flags with which code in the text begins."""
    text = _FENCE.sub("", page.read_text())
    return {flag for flag in re.findall(r"(?<!`)`(--[a-z][\w-]+)", text) if not flag.endswith("-")}  # `--cpu-rt-*`


def links(page: Path) -> Iterator[str]:
    """Targets within the project."""
    text = re.sub(r"`[^`\n]*`", "", _FENCE.sub("", page.read_text()))
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if "://" not in target:
            yield target


def anchors(page: Path) -> set[str]:
    """What headings are called in links."""
    headings = re.findall(r"^#+ (.+)$", _FENCE.sub("", page.read_text()), re.M)
    return {re.sub(r"[^\w\- ]", "", re.sub(r"[`*]", "", each).lower()).replace(" ", "-") for each in headings}
