""".dockerignore: Go's rules by table, walking, and time."""

from __future__ import annotations

import time

import pytest

from dockyard.model.errors import InvalidArgument
from dockyard.proto.dockerignore import Ignore, State, clean, matcher

SINGLE = [
    # ** stands for any number of directories, also none
    ("**", "file", True),
    ("**", "dir/file", True),
    ("**/", "file", True),
    ("**/**", "dir/file", True),
    ("dir/**", "dir/file", True),
    ("dir/**", "dir/sub/file", True),
    ("dir/**", "dir", False),
    ("dir/**", "dirs/file", False),
    ("**/name", "name", True),
    ("**/name", "name/below", True),
    ("**/name", "a/b/name", True),
    ("**/name", "a/myname", False),
    ("**name", "a/myname", True),
    ("**/dir/*", "a/dir/file", True),
    ("**/dir/*", "dir/file", True),
    ("**/dir/**", "a/dir/b/file", True),
    ("**/*.txt", "a.txt", True),
    ("**/*.txt", "a/b/c.txt", True),
    ("**/**/*.txt", "a/c.txt", True),
    ("**/**/*.txt", "a/c.text", False),
    ("**/f*x*.txt", "a/fox.old.txt", True),
    ("a/**/b", "a/b", True),
    ("a/**/b", "a/x/y/b", True),
    ("a/**/b/**/c", "a/b/b/x/c", True),
    ("a/**/b", "ab", False),
    ("a**/*.txt", "a/b/c.txt", True),
    ("a**b", "ab", True),
    ("a**b", "a/x/b", True),
    ("**a**b", "a/ab", True),
    ("a/*.t**", "a/b.text", True),
    # * and ? stay within a component
    ("*", "file", True),
    ("*", "dir/file", True),  # by its parent
    ("a/*.txt", "a/b.txt", True),
    ("a/*.txt", "a/b/c.txt", False),
    ("*.txt", "a/b.txt", False),
    ("a*c", "abc", True),
    ("a*c", "a/c", False),
    ("a?c", "abc", True),
    ("a?c", "a☺c", True),
    ("a?c", "a/c", False),
    ("a?c", "ac", False),
    ("a*b?c*x", "abxbbxdbxebxczzx", True),
    ("a*b?c*x", "abxbbxdbxebxczzy", False),
    ("a*b*c*d*e*/f", "axbxcxdxexxx/f", True),
    ("a*b*c*d*e*/f", "axbxcxdxe/xxx/f", False),
    # sets
    ("a[b-d]e", "ace", True),
    ("a[b-d]e", "aae", False),
    ("a[^b-d]e", "aze", True),
    ("a[^b-d]e", "ace", False),
    ("[a-ζ]*", "α", True),
    ("a[\\]]b", "a]b", True),
    ("a[\\-x]b", "a-b", True),
    ("a[z-b]c", "ayc", False),
    ("x[*?]y", "x*y", True),
    # escapes
    ("a\\*b", "a*b", True),
    ("a\\*b", "axb", False),
    ("a\\\\", "a\\", True),
    ("\\**", "*x", True),
    # what means something elsewhere
    (".*", ".foo", True),
    (".*", "foo", False),
    ("a.c", "abc", False),
    ("a(b)c", "a(b)c", True),
    ("a.|)$(}+{bc", "a.|)$(}+{bc", True),
    ("dist/*.whl", "dist/p-2.4.0rc3.dev36+g08-py3-none-any.whl", True),
    ("{a,b}", "a", False),
    # a directory takes along what is below it
    ("dir", "dir/a/b", True),
    ("dir/sub", "dir/sub/a", True),
    ("dir/sub", "dir/subs", False),
    ("dir", "directory", False),
    ("Dir", "dir", False),
]


@pytest.mark.parametrize(("pattern", "path", "expected"), SINGLE)
def test_one_pattern(pattern: str, path: str, expected: bool) -> None:
    assert Ignore([pattern]).excluded(path) is expected
    assert Ignore([pattern]).excluded(path + "/") is expected


@pytest.mark.parametrize(
    ("patterns", "path", "expected"),
    [
        (["*.go", "!main.go"], "main.go", False),
        (["!main.go", "*.go"], "main.go", True),
        (["docs", "!docs/README.md"], "docs/README.md", False),
        (["docs", "!docs/README.md"], "docs/other", True),
        (["docs/*", "!docs/README.md"], "docs/README.md", False),
        (["**", "!util/web"], "util/web/x", False),
        (["**", "!util/web", "util/web/x"], "util/web/x", True),
        (["**", "!util/web"], "util", True),
        (["*", "!a", "a/b", "!a/b/c"], "a/b/c", False),
        (["*", "!a", "a/b", "!a/b/c"], "a/b/d", True),
        (["!a"], "a", False),
        ([], "a", False),
    ],
)
def test_several_patterns(patterns: list[str], path: str, expected: bool) -> None:
    assert Ignore(patterns).excluded(path) is expected


def test_the_file() -> None:
    text = "\ufeff# comment\n\n /a/b/ \r\n  #no-comment\n!  /c\n./d/../e\n\t\n//f\n.\n"
    assert Ignore.parse(text).patterns == ("a/b", "#no-comment", "!c", "e", "f", ".")


@pytest.mark.parametrize("pattern", ["[", "a[", "a[]b", "[-]", "[x-]", "[]", "[^]", "a\\", "[a", "[a-", "[\\", "!"])
def test_malformed(pattern: str) -> None:
    with pytest.raises(InvalidArgument):
        Ignore.parse(pattern)


def test_limits() -> None:
    with pytest.raises(InvalidArgument, match="longer than"):
        Ignore(["x" * 5000])
    with pytest.raises(InvalidArgument, match="more than"):
        Ignore(["x"] * 10_001)


def test_a_walk_gives_the_same() -> None:
    ignore = Ignore(["**", "!a/b", "a/b/*.o", "!**/keep.o", "[^x]*/z"])
    for path in ("a", "a/b", "a/b/c.o", "a/b/keep.o", "a/b/d/e", "x", "x/z", "q/z/keep.o"):
        state: State | None = None
        excluded = False
        parts = path.split("/")
        for depth in range(1, len(parts) + 1):
            excluded, state = ignore.step("/".join(parts[:depth]), state)
        assert excluded is ignore.excluded(path), path


@pytest.mark.parametrize(
    ("patterns", "directory", "expected"),
    [
        (["node_modules"], "node_modules", True),
        (["a", "!b"], "a", True),
        (["a", "!a/b"], "a", False),
        (["a", "!a/b"], "a/c", True),
        (["a", "!a/b/c"], "a/b", False),
        (["a", "!**/b"], "a", False),
        (["a", "!a*/b"], "a", False),
        (["a", "!b*/c"], "a", True),
        (["*", "!*.md"], "docs", False),
    ],
)
def test_which_directories_need_not_be_walked(patterns: list[str], directory: str, expected: bool) -> None:
    assert Ignore(patterns).prunable(directory) is expected


def test_sources_of_copy() -> None:
    assert matcher("/a**b", double_star=False)("/axb")
    assert not matcher("/a**b", double_star=False)("/a/b")
    assert matcher("/a/**/b")("/a/x/b")
    assert not matcher("/*")("/a/b")


@pytest.mark.parametrize(
    ("path", "cleaned"),
    [("", "."), ("a//b/./c", "a/b/c"), ("a/../../b", "../b"), ("//a", "/a"), ("/..", "/"), ("a/", "a")],
)
def test_clean(path: str, cleaned: str) -> None:
    assert clean(path) == cleaned


@pytest.mark.parametrize(
    ("pattern", "path"),
    [
        ("*a" * 200 + "b", "a" * 4000),
        ("**/a*/" * 200 + "b", "a/" * 2000 + "c"),
        ("**a" * 200 + "b", "a" * 4000),
        ("[^x]*" * 200, "a/" * 2000),
        ("?*" * 500 + "/x", "a" * 4000),
        ("**/" * 1000 + "x", "a/" * 2000),
    ],
)
def test_time_is_polynomial(pattern: str, path: str) -> None:
    started = time.monotonic()
    matcher(pattern)(path)
    assert time.monotonic() - started < 10
