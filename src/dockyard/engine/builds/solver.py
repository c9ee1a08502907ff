"""The graph of a build: what can be done at once is done at once.

Owns: the tasks of one build, each waiting for its inputs; the first failure ends the others (what was finished stays in
the cache). Does not own: a step (`engine.builds.steps`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from dockyard.engine.builds import steps
from dockyard.engine.builds.ground import Session, Tree
from dockyard.proto.dockerfile.ops import Vertex


class Solver:
    """One build's graph, of all its platforms."""

    def __init__(self, session: Session, vertices: Sequence[Vertex]) -> None:
        self._session = session
        self._vertices = vertices
        self._tasks: dict[int, asyncio.Task[Tree]] = {}

    def name(self, number: int) -> str:
        """What a vertex is called in events."""
        return str(number)

    async def solve(self, results: Sequence[int]) -> dict[int, Tree]:
        """Everything that `results` need, by vertex. The first error is raised when all other steps have ended."""
        self._start(results)
        tasks = list(self._tasks.values())
        try:
            await asyncio.gather(*tasks)
        except BaseException:
            for task in tasks:
                task.cancel()
            await _ended(tasks)
            raise
        return {number: task.result() for number, task in self._tasks.items()}

    def _start(self, results: Sequence[int]) -> None:
        """A task for each result and all that it needs; nothing else of the graph is touched. Inputs come before."""
        wanted: set[int] = set()
        waiting = list(results)
        while waiting:
            number = waiting.pop()
            if number not in wanted:
                wanted.add(number)
                waiting += self._vertices[number].inputs
        for number in sorted(wanted):
            self._tasks[number] = asyncio.ensure_future(self._one(number))

    async def _one(self, number: int) -> Tree:
        vertex = self._vertices[number]
        inputs = [await asyncio.shield(self._tasks[other]) for other in vertex.inputs]
        return await steps.carry_out(self._session, vertex, self.name(number), inputs)


async def _ended(tasks: Sequence[asyncio.Task[Any]]) -> None:
    """Until all have ended, even if the caller is cancelled (again) meanwhile: they take things away."""
    left = asyncio.gather(*tasks, return_exceptions=True)
    cancelled = False
    while not left.done():
        try:
            await asyncio.shield(left)
        except asyncio.CancelledError:
            cancelled = True
    if cancelled:
        raise asyncio.CancelledError
