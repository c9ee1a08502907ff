"""`POST /images/create?fromSrc=…`: an archive becomes an image, sent by the client or fetched from a web address.

Owns: decoding the request, telling how the download goes. Does not own: the download (`engine.transfers`), unpacking.
"""

from __future__ import annotations

import asyncio
from typing import Any, Final

from aiohttp import web

from dockyard.edge.routing import Call, JsonStream
from dockyard.engine.images import Image
from dockyard.model.errors import InvalidArgument
from dockyard.proto import buildcontext

_SECOND: Final = 1_000_000_000
_BETWEEN: Final = 0.25  # s between two lines about a download


async def import_(call: Call, source: str) -> web.StreamResponse:
    """`source`: "-" for the request's body, else an address, of which `http://` may be left out."""
    options = _options(call)  # wrong ones are told before anything is fetched
    async with call.progress() as out:
        if source == "-":
            image = await call.engine.images.import_(call.incoming(), **(options | _message(call, "-")))
            call.body_read = True
        else:
            image = await _from_web(call, source, out, options)
        await out.send({"status": image.id})
    return out.response


def _options(call: Call) -> dict[str, Any]:
    return {
        "repository": call.text("repo"),
        "tag": call.text("tag"),
        "changes": call.texts("changes"),
        "platform": call.text("platform"),
        "created": _moment(call, "created"),
    }


def _message(call: Call, source: str) -> dict[str, str]:
    return {"message": call.text("message") or f"Imported from {source}"}


async def _from_web(call: Call, source: str, out: JsonStream, options: dict[str, Any]) -> Image:
    url = source if "://" in source else f"http://{source}"
    if not url.startswith(("http://", "https://")):
        raise InvalidArgument(f"cannot import from {buildcontext.public(url)[:200]!r}: neither http:// nor https://")
    shown = buildcontext.public(url)
    so_far, told = (0, 0), (0, 0)

    def progress(current: int, total: int) -> None:
        nonlocal so_far
        so_far = current, total

    async def work() -> Image:
        async with call.engine.transfers.fetch(url, progress) as chunks:
            return await call.engine.images.import_(chunks, **(options | _message(call, shown)))

    task = asyncio.create_task(work())
    try:
        while not task.done():
            await asyncio.wait({task}, timeout=_BETWEEN)
            if so_far != told:
                if not out.opened:
                    await out.send({"status": f"Downloading from {shown}"})
                told = so_far
                await out.send({"status": "Importing", "progressDetail": {"current": told[0], "total": told[1]}})
        return await task
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def _moment(call: Call, name: str) -> int | None:
    """Seconds as ns. An extension of ours: other daemons take no notice and date the image themselves."""
    text = call.text(name)
    if text and not (text.isdecimal() and len(text) < 12):
        raise InvalidArgument(f"invalid {name} {text[:40]!r}: seconds since 1970 are expected")
    return int(text) * _SECOND if text else None
