"""Looking over the store, over HTTP: an addition to Docker's API.

Owns: the JSON stream of it. Does not own: what is looked at (`engine.checking`).
"""

from __future__ import annotations

from contextlib import aclosing
from dataclasses import asdict
from typing import Any

from aiohttp import web

from dockyard.edge.routing import Call, Route
from dockyard.engine.checking import Checked, Damage


async def check(call: Call) -> web.StreamResponse:
    """One document a thing that was looked at, one a damage, as they are found; it ends with its client."""
    wanted = {"quick": call.flag("quick"), "repair": call.flag("repair")}
    async with call.progress() as out, aclosing(call.engine.check.run(**wanted)) as found:
        await out.open()
        async for each in found:
            await out.send(_document(each))
    return out.response


def _document(found: Damage | Checked) -> dict[str, Any]:
    if isinstance(found, Checked):
        return {"checked": asdict(found)}
    return {"damage": asdict(found)}


ROUTES = [Route("POST", "/system/check", check)]
