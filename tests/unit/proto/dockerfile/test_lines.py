"""From text to logical lines: directives, comments, continuation, here-documents, positions."""

from __future__ import annotations

import pytest

from dockyard.proto.dockerfile.errors import DockerfileError
from dockyard.proto.dockerfile.lines import MAX_INSTRUCTIONS, MAX_SIZE, read


def texts(data: str) -> list[str]:
    return [line.text for line in read(data.encode(), "Dockerfile").lines]


def ranges(data: str) -> list[tuple[int, int, int]]:
    lines = read(data.encode(), "Dockerfile").lines
    return [(line.range.first, line.range.last, line.range.column) for line in lines]


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        ("A b\nC d\n", ["A b", "C d"]),
        ("A b\r\nC d\r\n", ["A b", "C d"]),
        ("A b\\\nc\n", ["A bc"]),
        ("A b \\\n  c", ["A b   c"]),
        ("A b\\ \t\nc", ["A bc"]),
        ("A b\\\\\nC d", ["A b\\\\", "C d"]),
        ("A b \\\n# comment\n  # another\nc", ["A b c"]),
        ("A b \\\n\n\nc", ["A b c"]),
        ("\\\nA b", ["A b"]),
        ("A b \\", ["A b"]),
        ("A b # no comment", ["A b # no comment"]),
        ("  # comment\n\t A b", ["A b"]),
        ("\ufeffA b", ["A b"]),
        ("\n\n\n", []),
        ("# escape=`\nA `\nb\nC d\\", ["A b", "C d\\"]),
    ],
)
def test_logical_lines(data: str, expected: list[str]) -> None:
    assert texts(data) == expected


def test_ranges() -> None:
    assert ranges("\nA\n  B \\\n # x\n\n c\nRUN <<E\nx\nE\n") == [(2, 2, 1), (3, 6, 3), (7, 9, 1)]


def test_comments_belong_to_what_follows() -> None:
    lines = read(b"# one\n# two\nA\n# three\n\nB\n# four\n#\nC\nD", "f").lines
    assert [line.comments for line in lines] == [("one", "two"), ("three", ""), (), ()]


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        ("# syntax=a\n# escape=`\n#\tCheck = skip=all \nA", {"syntax": "a", "escape": "`", "check": "skip=all"}),
        ("#syntax=a\n# comment\n# escape=`\nA", {"syntax": "a"}),
        ("# unknown=a\n# syntax=b\nA", {}),
        ("\n# syntax=b\nA", {}),
        ("A\n# syntax=b", {}),
        ("#!/usr/bin/env x\n# syntax=b\nA", {"syntax": "b"}),
    ],
)
def test_directives(data: str, expected: dict[str, str]) -> None:
    assert {one.name: one.value for one in read(data.encode(), "f").directives} == expected


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        ("# escape=x\nA", "invalid escape token 'x'"),
        ("# syntax=a\n# SYNTAX=b\nA", "only one syntax parser directive can be used"),
    ],
)
def test_bad_directives(data: str, problem: str) -> None:
    with pytest.raises(DockerfileError, match=problem):
        read(data.encode(), "f")


@pytest.mark.parametrize(
    ("line", "names"),
    [
        ("RUN <<EOF", ["EOF"]),
        ("RUN cat <<EOF > x", ["EOF"]),
        ("RUN cat << EOF", ["EOF"]),
        ("RUN 3<<-EOF cat", ["EOF"]),
        ("RUN <<A <<'B' <<\"C\" <<D\\E", ["A", "B", "C", "DE"]),
        ("COPY <<a.txt <<b.txt /", ["a.txt", "b.txt"]),
        ("ADD <<A /", ["A"]),
        ("ONBUILD RUN <<A", ["A"]),
        ("RUN cat <<<word", []),
        ('RUN echo "<<EOF"', []),
        ("RUN echo '<<EOF'", []),
        ("RUN echo \\<<EOF", []),
        ("RUN echo $((1<<2))", []),
        ("RUN echo a<<2", []),
        ('RUN ["a", "<<EOF"]', []),
        ("ENV a=<<EOF", []),
        ("CMD <<EOF", []),
        ("RUN <<", []),
        ("RUN echo 'unbalanced <<EOF", []),
    ],
)
def test_announced_documents(line: str, names: list[str]) -> None:
    data = "\n".join([line, *(f"x\n{name}" for name in names), "LAST"])
    first, *rest = read(data.encode(), "f").lines
    assert [document.name for document in first.heredocs] == names
    assert [one.text for one in rest] == ["LAST"]


def test_contents_of_documents() -> None:
    text = "RUN <<A <<-'B'\n  one $x\\\n# no comment\n\nA\n\t\ttwo\n\t B\n\tB\nLAST"
    first, last = read(text.encode(), "f").lines
    one, two = first.heredocs
    assert (one.content, one.expand, one.chomp) == ("  one $x\\\n# no comment\n\n", True, False)
    assert (two.content, two.raw, two.expand, two.chomp) == ("two\n B\n", "\t\ttwo\n\t B\n", False, True)
    assert last.text == "LAST"


def test_an_empty_document() -> None:
    (line,) = read(b"RUN <<A\nA", "f").lines
    assert line.heredocs[0].content == ""


@pytest.mark.parametrize(
    ("data", "line", "column", "problem"),
    [
        (b"FROM x\nRUN a <<EOF\nb\n", 2, 9, 'unterminated heredoc: no line "EOF" follows'),
        (b"FROM x\nRUN \xff", 2, 5, "not valid UTF-8"),
        (b"FROM x\nRUN a\0b", 2, 6, "a NUL character"),
        (b"FROM x\nRUN <<E\na\xffb\nE", 3, 2, "not valid UTF-8"),
        (b"\xff\xfeF\0R\0", 1, 1, "UTF-16"),
        (b"FROM x\n" * (MAX_INSTRUCTIONS + 1), MAX_INSTRUCTIONS + 1, 1, "more than 10000 instructions"),
        (b"#" * (MAX_SIZE + 1), 1, 1, "larger than"),
    ],
)
def test_bad_text(data: bytes, line: int, column: int, problem: str) -> None:
    with pytest.raises(DockerfileError) as raised:
        read(data, "f")
    assert problem in raised.value.problem
    assert (raised.value.line, raised.value.column) == (line, column)


def test_comments_may_be_in_any_encoding() -> None:
    assert [one.text for one in read(b"# \xe4\nRUN a \\\n# \xe4\n b", "f").lines] == ["RUN a  b"]


def test_a_replacement_character_is_text() -> None:
    assert texts("ENV a=\ufffd") == ["ENV a=\ufffd"]
