"""Long lists."""

from __future__ import annotations

import asyncio
import itertools
import json
from typing import Any, cast

from dockyard.edge.api import wire
from dockyard.edge.routing import Call


def test_other_requests_are_served_while_a_long_list_is_made() -> None:
    turns = []
    asked = []

    def values() -> Any:
        for number in range(1000):
            asked.append(number)
            yield {"Number": number}

    async def another() -> None:
        while True:
            turns.append(len(asked))
            await asyncio.sleep(0)

    async def steps() -> bytes:
        other = asyncio.create_task(another())
        done = await Call.encoded(cast(Call, None), values())
        other.cancel()
        return wire.encode(done)

    assert json.loads(asyncio.run(steps())) == [{"Number": number} for number in range(1000)]
    assert max(after - before for before, after in itertools.pairwise(turns)) <= 100
