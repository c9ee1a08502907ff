"""How much many trees take.

Owns: `sizes`: which trees are measured by a thread and which by workers; `measure`, what a worker does. Does not own:
what the size of a tree is (`store.copytree.usage`, `store.ownsize.own_size`), which trees there are.

Most trees are small, and to begin a worker takes as long as to look at a thousand files. So a thread begins, and what
it does not get through with so many files is left to workers, a portion of the trees each: there may be ten thousand.
"""

from __future__ import annotations

import asyncio
import itertools
import math
import os
from collections.abc import Generator, Iterable, Sequence
from typing import Any, Final, NamedTuple

from dockyard.linux.walking import walk
from dockyard.model.errors import SystemFailure
from dockyard.store import copytree, ownsize
from dockyard.store.inline import Call

GONE: Final = -1  # the size of a tree that is not there
_BY_THREAD: Final = 2000  # directories and files that a thread looks at
_AT_A_TIME: Final = 100  # trees that it is given
_AT_ONCE: Final = 4  # workers
_LEAST, _MOST = 100, 500  # trees a worker


class Tree(NamedTuple):
    """A directory; with `base`, only what that other tree has not, or has otherwise, counts."""

    path: str
    base: str = ""


async def sizes(call: Call, trees: Iterable[Tree], count: int) -> list[int]:
    """Bytes of the regular files of each of `count` trees, each file once; `GONE` for one that is not there.
    SystemFailure for one that cannot be read."""
    waiting = iter(trees)
    found: list[int] = []
    budget = _BY_THREAD
    while portion := list(itertools.islice(waiting, _AT_A_TIME)):
        try:
            done, budget = await asyncio.to_thread(_measure_small, portion, budget)
        except OSError as error:
            raise SystemFailure(f"{error.strerror}: {os.fsdecode(error.filename or '')}") from error
        found += done
        if len(done) < len(portion):
            rest = itertools.chain(portion[len(done) :], waiting)
            return found + await _by_workers(call, rest, count - len(found))
    return found


def _measure_small(trees: Sequence[Tree], budget: int) -> tuple[list[int], int]:
    """(sizes of as many as `budget` directories and files are enough for, what is left of it)."""
    done: list[int] = []
    for tree in trees:
        budget -= _entries(tree.path, budget)
        if budget < 0:
            break
        done.append(_size(tree))
    return done, budget


def _entries(path: str, enough: int) -> int:
    """How many directories and files a tree has; nobody counts further than to one more than `enough`."""
    count = 0
    try:
        for directory in walk(path):
            count += 1 + len(directory.names)
            if count > enough:
                break
    except FileNotFoundError:
        pass
    return count


async def _by_workers(call: Call, trees: Iterable[Tree], count: int) -> list[int]:
    portions = _portions(trees, min(max(math.ceil(count / _AT_ONCE), _LEAST), _MOST))
    found: dict[int, list[int]] = {}

    async def one_after_the_other() -> None:
        for number, portion in portions:
            result: dict[str, Any] = await call("dockyard.store.measuring:measure", {"trees": portion})
            found[number] = result["sizes"]

    try:
        await asyncio.gather(*(one_after_the_other() for _ in range(_AT_ONCE)))
    finally:
        portions.close()
    return [size for number in sorted(found) for size in found[number]]


def _portions(trees: Iterable[Tree], length: int) -> Generator[tuple[int, list[Tree]], None, None]:
    """Made one by one: ten thousand paths at once would hold up others."""
    waiting = iter(trees)
    number = 0
    while portion := list(itertools.islice(waiting, length)):
        yield number, portion
        number += 1


def measure(*, fds: Sequence[int], trees: Sequence[Sequence[str]]) -> dict[str, Any]:
    """Worker: {"sizes": as `sizes` has them}. `trees`: [path, base] each."""
    return {"sizes": [_size(Tree(*tree)) for tree in trees]}


def _size(tree: Tree) -> int:
    try:
        if tree.base:
            return int(ownsize.own_size(fds=(), path=tree.path, base=tree.base)["size"])
        return int(copytree.usage(fds=(), path=tree.path)["size"])
    except FileNotFoundError:
        if os.path.exists(tree.path):
            raise
        return GONE
