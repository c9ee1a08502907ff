"""What names a build context: a directory, standard input, a git repository, a file on the web.

Owns: telling them apart, the grammar of git URLs (`URL#ref:subdir` and `URL?branch=…`), refusing what git would take
for an option. Does not own: fetching, reading.

Pure. S44: no part of a `GitSource` begins with "-", no sub-directory leaves the checkout.
Source: docker build's documentation, "Build context"; Dockerfile reference, "ADD".
"""

from __future__ import annotations

import posixpath
import re
from typing import Final, Literal
from urllib.parse import parse_qsl, urlsplit

from msgspec import Struct, structs

from dockyard.model.errors import InvalidArgument

_SCP: Final = re.compile(
    r"(?P<user>[A-Za-z0-9_][A-Za-z0-9_.-]*)@(?P<host>[A-Za-z0-9][A-Za-z0-9.-]*):(?!//)(?P<path>.+)\Z"
)
_SCHEMES: Final = ("http", "https", "git", "ssh")
_CONTROL: Final = re.compile(r"[\0-\x20\x7f]")
_COMMIT: Final = re.compile(r"[0-9a-fA-F]{1,64}\Z")
_REF: Final = re.compile(r"[^-/\s~^:?*\[\\\0-\x20\x7f][^\s~^:?*\[\\\0-\x20\x7f]*\Z")
_BOOLEANS: Final = {"": True, "1": True, "t": True, "true": True, "0": False, "f": False, "false": False}
_MAX_URL: Final = 8192


class GitSource(Struct, frozen=True):
    """A repository. `ref` "" = the default branch; `subdir`: relative, clean, "" = all of it; `checksum`: a commit."""

    url: str
    ref: str = ""
    subdir: str = ""
    checksum: str = ""
    keep_git_dir: bool | None = None
    submodules: bool = True


class Context(Struct, frozen=True):
    """`kind` directory: `path`; stdin; http: `url`; git: `git`."""

    kind: Literal["directory", "stdin", "git", "http"]
    path: str = ""
    url: str = ""
    git: GitSource | None = None


def parse(argument: str) -> Context:
    """PATH | URL | - of `docker build`. InvalidArgument for a URL that is malformed."""
    if argument == "-":
        return Context("stdin")
    git = parse_git(argument, context=True)
    if git is not None:
        return Context("git", git=git)
    if is_http(argument):
        return Context("http", url=check_http(argument))
    return Context("directory", path=argument)


def is_http(text: str) -> bool:
    return text.startswith(("http://", "https://"))


def check_http(url: str) -> str:
    """The URL itself. InvalidArgument for one without a host, with control characters or too long."""
    _check_url(url)
    return url


def parse_git(text: str, *, context: bool = False) -> GitSource | None:
    """A git repository's URL, or None if it is something else. InvalidArgument if it is one, but a bad one.

    `context`: "github.com/user/repo" (without a scheme) is one too, as the argument of `docker build`.
    """
    if text.startswith(("./", "../", "/")):
        return None
    if context and text.startswith("github.com/"):
        return _with_scheme(f"https://{text}")
    scheme, separator, _ = text.partition("://")
    if separator:
        if scheme not in _SCHEMES:
            return None
        if scheme in ("http", "https") and not _path(text).endswith(".git"):
            return None
        return _with_scheme(text)
    match = _SCP.match(text)
    return _scp(match, text) if match else None


def _path(url: str) -> str:
    return re.split(r"[?#]", url, maxsplit=1)[0]


def _with_scheme(text: str) -> GitSource:
    _check_url(text)
    bare, _, fragment = text.partition("#")
    bare, _, query = bare.partition("?")
    parts = urlsplit(bare)
    if not parts.path.strip("/"):
        raise InvalidArgument(f"invalid git URL {_show(text)}: no repository")
    return _with_query(_with_fragment(GitSource(bare), fragment, text), query, text)


def _scp(match: re.Match[str], text: str) -> GitSource:
    _check_length(text)
    rest, _, fragment = match["path"].partition("#")
    rest, _, query = rest.partition("?")
    if not rest or rest.startswith("-"):
        raise InvalidArgument(f"invalid git URL {_show(text)}")
    url = f"{match['user']}@{match['host']}:{rest}"
    return _with_query(_with_fragment(GitSource(url), fragment, text), query, text)


def _with_fragment(source: GitSource, fragment: str, text: str) -> GitSource:
    ref, _, subdir = fragment.partition(":")
    return structs.replace(source, ref=_check_ref(ref, text), subdir=_check_subdir(subdir, text))


def _with_query(source: GitSource, query: str, text: str) -> GitSource:
    if not query:
        return source
    given: dict[str, str] = {}
    try:
        pairs = parse_qsl(query, keep_blank_values=True, strict_parsing=False, max_num_fields=32)
    except ValueError:
        raise InvalidArgument(f"invalid git URL {_show(text)}: its query") from None
    for key, value in pairs:
        if key in given:
            raise InvalidArgument(f"query {key!r} has multiple values")
        given[key] = value
    changes: dict[str, object] = {}
    refs = {source.ref} - {""}
    for key, value in given.items():
        if not value and key not in ("submodules", "keep-git-dir", "fetch-by-commit"):
            raise InvalidArgument(f"query {key[:40]!r} has no value")
        if key in ("ref", "tag", "branch"):
            prefix = {"ref": "", "tag": "refs/tags/", "branch": "refs/heads/"}[key]
            refs.add(_check_ref(prefix + value.removeprefix(prefix), text))
        elif key == "subdir":
            if source.subdir and source.subdir != _check_subdir(value, text):
                raise InvalidArgument(f"subdir conflicts: {source.subdir!r} vs {value!r}")
            changes["subdir"] = _check_subdir(value, text)
        elif key in ("checksum", "commit"):
            changes["checksum"] = check_commit(value)
        elif key in ("keep-git-dir", "submodules", "fetch-by-commit"):
            if value.lower() not in _BOOLEANS:
                raise InvalidArgument(f"invalid {key} value: {value[:40]!r}")
            if key != "fetch-by-commit":
                changes[key.replace("-", "_")] = _BOOLEANS[value.lower()]
        elif key == "mtime":
            if value not in ("checkout", "commit"):
                raise InvalidArgument(f'invalid mtime value: {value[:40]!r} (must be "checkout" or "commit")')
        else:
            raise InvalidArgument(f"unexpected query {key[:40]!r}")
    if len(refs) > 1:
        raise InvalidArgument("ref conflicts: " + " vs ".join(sorted(refs)))
    if refs:
        changes["ref"] = refs.pop()
    return structs.replace(source, **changes)


def check_commit(text: str) -> str:
    """A commit's hash or the beginning of one."""
    if not _COMMIT.match(text):
        raise InvalidArgument(f"invalid commit {_show(text)}: it must be hexadecimal")
    return text.lower()


def _check_ref(ref: str, text: str) -> str:
    if ref and (not _REF.match(ref) or ".." in ref or "@{" in ref or ref.endswith(("/", ".lock"))):
        raise InvalidArgument(f"invalid git URL {_show(text)}: invalid ref {_show(ref)}")
    return ref


def _check_subdir(subdir: str, text: str) -> str:
    """Clean and relative; it cannot leave the checkout by its text (links in the checkout are the fetcher's care)."""
    if _CONTROL.sub("", subdir.replace(" ", "")) != subdir.replace(" ", ""):
        raise InvalidArgument(f"invalid git URL {_show(text)}: invalid subdirectory")
    cleaned = posixpath.normpath("/" + subdir).lstrip("/")
    if cleaned.startswith("-"):
        raise InvalidArgument(f"invalid git URL {_show(text)}: invalid subdirectory {_show(subdir)}")
    return cleaned


def _check_length(text: str) -> None:
    if len(text) > _MAX_URL:
        raise InvalidArgument(f"a URL longer than {_MAX_URL} characters")
    if _CONTROL.search(text):
        raise InvalidArgument(f"invalid URL {_show(text)}: blanks or control characters")


def _check_url(url: str) -> None:
    _check_length(url)
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError as error:
        raise InvalidArgument(f"invalid URL {_show(url)}: {error}") from None
    if not host or host.startswith("-") or (parts.username or "").startswith("-"):
        raise InvalidArgument(f"invalid URL {_show(url)}: invalid host")


def public(url: str) -> str:
    """A URL for messages: without its password."""
    return re.sub(r"(://[^/@:]*):[^/@]*@", r"\1:xxxxx@", url)


def _show(text: str) -> str:
    """Without a password, short."""
    text = public(text)
    return repr(text[:200])
