"""What a build context's name means, and what never reaches git (S44)."""

from __future__ import annotations

import pytest

from dockyard.model.errors import InvalidArgument
from dockyard.proto.buildcontext import Context, GitSource, check_http, parse, parse_git, public


@pytest.mark.parametrize(
    ("argument", "expected"),
    [
        ("-", Context("stdin")),
        (".", Context("directory", path=".")),
        ("/abs/dir", Context("directory", path="/abs/dir")),
        ("a:b", Context("directory", path="a:b")),
        ("./git@host:x", Context("directory", path="./git@host:x")),
        ("ftp://host/x", Context("directory", path="ftp://host/x")),
        ("https://host/x.tar.gz", Context("http", url="https://host/x.tar.gz")),
        ("http://host", Context("http", url="http://host")),
        ("https://host/r.git", Context("git", git=GitSource("https://host/r.git"))),
        ("https://u:p@host:1/r.git#v1", Context("git", git=GitSource("https://u:p@host:1/r.git", "v1"))),
        ("github.com/u/r#main:docs", Context("git", git=GitSource("https://github.com/u/r", "main", "docs"))),
        ("git://host/r", Context("git", git=GitSource("git://host/r"))),
        ("ssh://git@host:22/r", Context("git", git=GitSource("ssh://git@host:22/r"))),
        ("git@host:u/r.git#:sub", Context("git", git=GitSource("git@host:u/r.git", "", "sub"))),
        ("user@host:r", Context("git", git=GitSource("user@host:r"))),
    ],
)
def test_contexts(argument: str, expected: Context) -> None:
    assert parse(argument) == expected


@pytest.mark.parametrize(
    ("fragment", "ref", "subdir"),
    [
        ("", "", ""),
        ("#", "", ""),
        ("#main", "main", ""),
        ("#feature/x:a/b", "feature/x", "a/b"),
        ("#:a", "", "a"),
        ("#v1:", "v1", ""),
        ("#refs/pull/1/head", "refs/pull/1/head", ""),
        ("#v1:/abs/dir/", "v1", "abs/dir"),
        ("#v1:a/../b/./c", "v1", "b/c"),
        ("#v1:dir with space", "v1", "dir with space"),
    ],
)
def test_fragments(fragment: str, ref: str, subdir: str) -> None:
    text = f"git@h:r{fragment}" if " " in fragment else f"https://h/r.git{fragment}"
    if " " in fragment:
        with pytest.raises(InvalidArgument):
            parse_git(text)
        return
    found = parse_git(text)
    assert found is not None and (found.ref, found.subdir) == (ref, subdir)


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("?ref=v1", GitSource("https://h/r.git", "v1")),
        ("?tag=v1", GitSource("https://h/r.git", "refs/tags/v1")),
        ("?branch=main&subdir=a/b", GitSource("https://h/r.git", "refs/heads/main", "a/b")),
        ("?commit=BE1F38E", GitSource("https://h/r.git", checksum="be1f38e")),
        ("?checksum=be1f38e#v1", GitSource("https://h/r.git", "v1", checksum="be1f38e")),
        ("?keep-git-dir&submodules=0", GitSource("https://h/r.git", keep_git_dir=True, submodules=False)),
    ],
)
def test_queries(query: str, expected: GitSource) -> None:
    assert parse_git(f"https://h/r.git{query}") == expected


@pytest.mark.parametrize(
    "query",
    [
        "?ref=a&branch=b",
        "?ref=a#b",
        "?tag=a&branch=b",
        "?subdir=a#v:b",
        "?ref=",
        "?ref=a&ref=b",
        "?unknown=1",
        "?checksum=xyz",
        "?submodules=maybe",
        "?mtime=now",
    ],
)
def test_bad_queries(query: str) -> None:
    with pytest.raises(InvalidArgument):
        parse_git(f"https://h/r.git{query}")


@pytest.mark.parametrize(
    "text",
    [
        "https://h/r.git#-x",
        "https://h/r.git#--upload-pack=touch /tmp/x",
        "https://h/r.git?ref=--upload-pack",
        "https://h/r.git#v1:-x",
        "https://h/r.git#v1:../-x",
        "https://h/r.git#a..b",
        "https://h/r.git#a\nb",
        "https://h/r.git#a b",
        "https://h/r.git#v@{1}",
        "https://h/r.git#a:b\nc",
        "https://-oProxyCommand=x/r.git",
        "ssh://-oProxyCommand=x/r",
        "ssh://-l@host/r",
        "git@host:-r",
        "git@host:--upload-pack=x",
        "https:///r.git",
        "git://",
        "ssh://host",
        "https://[bad/r.git",
        "https://h:port/r.git",
        "https://h/" + "x" * 9000 + ".git",
    ],
)
def test_s44_what_git_would_take_for_an_option_is_refused(text: str) -> None:
    with pytest.raises(InvalidArgument):
        parse_git(text)


@pytest.mark.parametrize("subdir", ["../../etc", "a/../../../etc", "/../etc", "..", "a/.."])
def test_s44_the_sub_directory_stays_in_the_checkout(subdir: str) -> None:
    found = parse_git(f"https://h/r.git#v1:{subdir}")
    assert found is not None
    assert ".." not in found.subdir.split("/") and not found.subdir.startswith("/")


def test_what_is_no_repository() -> None:
    for text in ("https://h/x", "https://h/x?y.git", "file", "../x.git", "/x.git", "github.com/u/r", "-x@h:y"):
        assert parse_git(text) is None


def test_urls() -> None:
    assert check_http("https://h/a%20b?c#d") == "https://h/a%20b?c#d"
    for text in ("https://", "https://-x/", "https://h/a b", "https://h/\x1b[31m", "https://h:99999/"):
        with pytest.raises(InvalidArgument):
            check_http(text)
    assert public("https://u:secret@h/x") == "https://u:xxxxx@h/x"
    with pytest.raises(InvalidArgument) as raised:
        parse_git("https://u:secret@h/r.git#-x")
    assert "secret" not in str(raised.value)
