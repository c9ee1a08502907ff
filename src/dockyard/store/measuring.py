"""How much many trees take, asked of a few workers.

Owns: `sizes`, which gives each worker a portion of the trees, and `measure`, which is such a portion. Does not own:
what the size of a tree is (`store.copytree.usage`, `store.ownsize.own_size`), which trees there are.

To begin a worker takes as long as to measure a hundred empty trees, and there may be ten thousand.
"""

from __future__ import annotations

import asyncio
import itertools
import math
import os
from collections.abc import Generator, Iterable, Sequence
from typing import Any, Final, NamedTuple

from dockyard.store import copytree, ownsize
from dockyard.store.inline import Call

GONE: Final = -1  # the size of a tree that is not there
_PORTION: Final = 500  # trees a worker at most
_AT_ONCE: Final = 4  # workers


class Tree(NamedTuple):
    """A directory; with `base`, only what that other tree has not, or has otherwise, counts."""

    path: str
    base: str = ""


async def sizes(call: Call, trees: Iterable[Tree], count: int) -> list[int]:
    """Bytes of the regular files of each of `count` trees, each file once; `GONE` for one that is not there. Raises
    what the worker does: a tree that cannot be read."""
    portions = _portions(trees, min(math.ceil(count / _AT_ONCE), _PORTION))
    found: dict[int, list[int]] = {}

    async def one_worker_after_the_other() -> None:
        for number, portion in portions:
            result: dict[str, Any] = await call("dockyard.store.measuring:measure", {"trees": portion})
            found[number] = result["sizes"]

    try:
        await asyncio.gather(*(one_worker_after_the_other() for _ in range(_AT_ONCE)))
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
