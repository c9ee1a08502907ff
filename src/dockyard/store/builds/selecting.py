"""Which files of a tree a COPY means.

Owns: wildcards resolved against a tree, exclusions, the order of what is found, and the digest of it that the cache
goes by. Does not own: copying them (`store.builds.copying`).

Sources are resolved as BuildKit does: a link that *is* the source is followed (within the root), links inside a copied
directory stay links; a wildcard is expanded level by level and does not go through linked directories.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

from dockyard.model.errors import NotFound, SystemFailure
from dockyard.proto.dockerignore import Ignore, matcher
from dockyard.store.builds.spool import SpoolTree
from dockyard.store.bytestream import CHUNK
from dockyard.store.layertree import allowed_xattr
from dockyard.store.mergedtree import MergedTree
from dockyard.store.treeview import Found, TreeView


def has_wildcards(pattern: str) -> bool:
    """Whether anything in it stands for more than itself (a backslash does, too)."""
    return any(character in pattern for character in "*?[\\")


def open_source(source: dict[str, Any]) -> TreeView:
    """The tree that a source is chosen from: {"trees": directories, topmost first}, or {"spool": a context (in a
    worker: its directory)}."""
    spool = source.get("spool")
    if spool is not None:
        return spool if isinstance(spool, SpoolTree) else SpoolTree.load(spool)
    return MergedTree(source["trees"])


class Source(NamedTuple):
    """One thing to copy. `found`: what it is, links followed; `name`: how it is called in a directory it goes to."""

    found: Found
    name: bytes


class Entry(NamedTuple):
    """Something within a source: `path` relative to the source, b"" for the source itself."""

    path: bytes
    found: Found


class Excluder:
    """`--exclude`: patterns as in .dockerignore, relative to what is copied."""

    def __init__(self, patterns: Sequence[str]) -> None:
        self._ignore = Ignore.parse("\n".join(patterns)) if patterns else None

    def __call__(self, path: bytes) -> bool:
        return self._ignore is not None and bool(path) and self._ignore.excluded(os.fsdecode(path))


def choose(tree: TreeView, path: str, *, pattern: bool) -> list[Source]:
    """What `path` means. NotFound, naming it, if that is nothing (a wildcard may mean nothing: BuildKit)."""
    if not (pattern and has_wildcards(path)):
        found = tree.lookup(os.fsencode(path), follow=True)
        if found is None:
            raise NotFound(f'"{path}": not found')
        return [Source(found, os.fsencode(path).rstrip(b"/").rpartition(b"/")[2])]
    return list(_expanded(tree, path))


def _expanded(tree: TreeView, path: str) -> Iterator[Source]:
    parts = [part for part in path.split("/") if part]
    fixed = 0
    while not has_wildcards(parts[fixed]):
        fixed += 1
    start = tree.resolve(os.fsencode("/".join(parts[:fixed])), follow=True)
    waiting = [(start, fixed)]
    matchers = [matcher(part, double_star=False) for part in parts[fixed:]]
    while waiting:
        directory, depth = waiting.pop()
        deeper = []
        for name in tree.names(directory):
            if not matchers[depth - fixed](os.fsdecode(name)):
                continue
            found = tree.child(directory, name)
            if found is None:
                continue
            if depth + 1 < len(parts):
                if found.is_directory:
                    deeper.append((found.path, depth + 1))
                continue
            followed = tree.lookup(found.path, follow=True)
            if followed is not None:
                yield Source(followed, name)
        waiting += reversed(deeper)


def walk(tree: TreeView, top: Found, excluded: Callable[[bytes], bool]) -> Iterator[Entry]:
    """`top` and everything in it, directories before what they have, in the order of names."""
    waiting = [Entry(b"", top)]
    while waiting:
        entry = waiting.pop()
        yield entry
        if not entry.found.is_directory:
            continue
        inner = []
        for name in tree.names(entry.found.path):
            path = entry.path + b"/" + name if entry.path else name
            if excluded(path):
                continue
            found = tree.child(entry.found.path, name)
            if found is not None:
                inner.append(Entry(path, found))
        waiting += reversed(inner)


def matching(tree: TreeView, top: Found, pattern: str, *, pattern_allowed: bool) -> list[tuple[bytes, Found]]:
    """(path below `top`, what is there) of everything that `pattern` (`**` too) matches, but not what lies in it.
    NotFound if a path without wildcards means nothing."""
    if not pattern_allowed or not has_wildcards(pattern):
        found = tree.lookup(top.path + b"/" + os.fsencode(pattern))
        if found is None:
            raise NotFound(f'"{pattern}": not found')
        return [(os.fsencode(pattern), found)]
    matches = matcher(pattern)
    out: list[tuple[bytes, Found]] = []
    hit: set[bytes] = set()
    for entry in walk(tree, top, lambda path: path.rpartition(b"/")[0] in hit):
        if not entry.path or entry.path.rpartition(b"/")[0] in hit:
            continue
        if matches(os.fsdecode(entry.path)):
            hit.add(entry.path)
            out.append((entry.path, entry.found))
    return out


def digest_entries(
    tree: TreeView,
    entries: Iterator[Entry],
    hasher: hashlib._Hash,
    *,
    top: bool = False,
) -> None:
    """Put everything about the entries that a copy depends on into `hasher`: names, kinds, modes, contents; no times.

    `top`: the first entry's own mode counts even if it is a directory (whose contents, but not itself, are copied).
    """
    for number, (path, found) in enumerate(entries):
        mode = found.status.st_mode
        if number == 0 and found.is_directory and not top:
            hasher.update(b"contents\0")
            continue
        head = b"%s\0%o\0%d:%d\0" % (path, mode, found.status.st_uid, found.status.st_gid)
        hasher.update(head)
        if stat.S_ISREG(mode):
            hasher.update(tree.digest(found) or file_digest(tree, found))
        elif stat.S_ISLNK(mode):
            hasher.update(tree.read_link(found) + b"\0")
        elif stat.S_ISCHR(mode) or stat.S_ISBLK(mode):
            hasher.update(b"%d\0" % found.status.st_rdev)


def digest_sources(
    *,
    sources: Sequence[dict[str, Any]],
    excludes: Sequence[str],
    parents: bool,
) -> bytes:
    """Digest of exactly what these sources of a COPY mean (see `store.builds.copying.copy`). NotFound naming one."""
    hasher = hashlib.sha256()
    excluder = Excluder(excludes)
    for source in sources:
        if "content" in source:
            continue  # it is part of the instruction
        with open_source(source) as tree:
            if parents:
                _digest_parents(tree, source, excluder, hasher)
                continue
            for found, name in choose(tree, source["path"], pattern=source["pattern"]):
                if found.path and excluder(name):
                    continue
                hasher.update(b"source\0" + (b"" if found.is_directory else name) + b"\0")
                digest_entries(tree, walk(tree, found, excluder), hasher)
    return hasher.digest()


def is_small(
    *, sources: Sequence[dict[str, Any]], excludes: Sequence[str], parents: bool, entries: int, size: int
) -> bool:
    """Whether these sources of a COPY mean few entries with few bytes. Looks at no more than that many; True for
    sources that are not there (whoever reads them will say so)."""
    excluder = Excluder(excludes)
    try:
        for source in sources:
            if "content" in source:
                continue
            with open_source(source) as tree:
                for top in _tops(tree, source, parents):
                    for entry in walk(tree, top, excluder):
                        entries -= 1
                        size -= entry.found.status.st_size if stat.S_ISREG(entry.found.status.st_mode) else 0
                        if entries < 0 or size < 0:
                            return False
    except (NotFound, OSError):
        return True
    return True


def _tops(tree: TreeView, source: dict[str, Any], parents: bool) -> Iterator[Found]:
    if parents:
        yield pivoted(tree, source)[0]  # its patterns may look at everything below it
    else:
        for found, _ in choose(tree, source["path"], pattern=source["pattern"]):
            yield found


def digest(
    *, fds: Sequence[int], sources: Sequence[dict[str, Any]], excludes: Sequence[str], parents: bool
) -> dict[str, Any]:
    """Worker: {"digest"} of `digest_sources` in hex, every file read. SystemFailure naming the cause."""
    try:
        found = digest_sources(sources=sources, excludes=excludes, parents=parents)
    except OSError as error:
        raise SystemFailure(f"reading what is to be copied: {error.strerror}") from error
    return {"digest": found.hex()}


def pivoted(tree: TreeView, source: dict[str, Any]) -> tuple[Found, str]:
    """With --parents: (the directory of which nothing is recreated, the pattern below it). NotFound."""
    parts = [part for part in source["path"].split("/") if part]
    pivot = source.get("pivot", 0)
    top = tree.lookup(os.fsencode("/".join(parts[:pivot])), follow=True)
    if top is None or not top.is_directory:
        raise NotFound(f'"{source["path"]}": not found')
    return top, "/".join(parts[pivot:])


def _digest_parents(tree: TreeView, source: dict[str, Any], excluder: Excluder, hasher: hashlib._Hash) -> None:
    top, pattern = pivoted(tree, source)
    if not pattern:
        digest_entries(tree, walk(tree, top, excluder), hasher)
        return
    for inside, found in matching(tree, top, pattern, pattern_allowed=source["pattern"]):
        if not excluder(inside):
            hasher.update(b"source\0" + inside + b"\0")
            below = walk(tree, found, lambda path, inside=inside: excluder(inside + b"/" + path))  # type: ignore[misc]
            digest_entries(tree, below, hasher, top=True)


def file_digest(tree: TreeView, found: Found) -> bytes:
    """sha256 of a file's content and of the attributes that are part of it."""
    hasher = hashlib.sha256()
    fd = tree.open(found)
    try:
        while data := os.read(fd, CHUNK):
            hasher.update(data)
        for name in sorted(map(os.fsencode, os.listxattr(fd))):
            if allowed_xattr(name):
                hasher.update(b"\0" + name + b"\0" + os.getxattr(fd, name))
    finally:
        os.close(fd)
    return hasher.digest()
