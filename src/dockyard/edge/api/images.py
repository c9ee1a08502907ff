"""Images over HTTP: `/images/...`.

Owns: decoding these requests, encoding their answers, differences between API versions. Does not own: what happens.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

import msgspec
from aiohttp import web
from msgspec import UNSET

from dockyard.edge.api import auth, wire
from dockyard.edge.api.imports import import_
from dockyard.edge.routing import Call, Route
from dockyard.engine.images import Deleted, HistoryEntry, Image, Listed, LoadedImage, Variant
from dockyard.engine.transfers import Message
from dockyard.engine.transfers.progress import Feed
from dockyard.model import untrusted
from dockyard.model.container import ContainerConfig
from dockyard.model.errors import DockyardError, InvalidArgument, NotServed
from dockyard.model.oci import ImageConfig, Platform, run_config
from dockyard.proto.times import ZERO_TIME, format_rfc3339
from dockyard.proto.units import human_size

LIST_FILTERS = frozenset({"before", "since", "reference", "dangling", "label", "label!", "until"})
PRUNE_FILTERS = frozenset({"dangling", "until", "label", "label!"})
SEARCH_FILTERS = frozenset({"is-official", "is-automated", "stars"})
_BAR = 50  # characters
_SECOND = 1_000_000_000
_TAR = "application/x-tar"
_EMPTY: tuple[Any, ...] = (None, "", False, [], {}, UNSET)
# What an image may say of its containers; everything else of a container's configuration is a container's alone.
_IMAGE_CONFIG = frozenset({
    "User", "ExposedPorts", "Env", "Cmd", "Healthcheck", "ArgsEscaped", "Volumes", "WorkingDir", "Entrypoint",
    "OnBuild", "Labels", "StopSignal", "Shell",
})  # fmt: skip


async def list_(call: Call) -> web.StreamResponse:
    filters = call.filters(LIST_FILTERS)
    listed = call.engine.images.list(filters, shared_size=call.flag("shared-size"))
    if not (call.flag("manifests") and call.version >= (1, 47)):
        return call.json(await call.encoded(summary_body(entry, call.version) for entry in listed))
    variants = call.engine.images.variants
    return call.json(
        [summary_body(e, call.version) | {"Manifests": [_variant(v) for v in variants(e.image)]} for e in listed]
    )


def summary_body(entry: Listed, version: tuple[int, int]) -> dict[str, Any]:
    names, digests = entry.names, entry.digests
    if not names and not digests and version < (1, 43):
        names, digests = ["<none>:<none>"], ["<none>@<none>"]
    image = entry.image
    summary: dict[str, Any] = {
        "Id": image.id,
        "ParentId": image.record.config.parent,
        "RepoTags": names,
        "RepoDigests": digests,
        "Created": image.created // _SECOND,
        "Size": image.size,
        "SharedSize": entry.shared_size,
        "Labels": image.labels,
        "Containers": -1,
    }
    if version < (1, 44):
        summary["VirtualSize"] = image.size
    return summary


async def inspect(call: Call) -> web.StreamResponse:
    images = call.engine.images
    wanted = _wanted_platform(call, (1, 49))
    with_manifests = call.flag("manifests") and call.version >= (1, 48)
    if wanted is not None and with_manifests:
        raise InvalidArgument("conflicting options: manifests and platform options cannot both be set")
    image = images.get_for(call.path("name"), wanted)
    driver, data = images.graph_data(image)
    answer = _inspected(image, call.version) | {"GraphDriver": {"Name": driver, "Data": data}}
    if with_manifests:
        answer["Manifests"] = [_variant(variant) for variant in images.variants(image)]
    return call.json(answer)


def _wanted_platform(call: Call, since: tuple[int, int]) -> Platform | None:
    """`platform`: a JSON object, as newer clients send it. None if it is not given. InvalidArgument."""
    text = call.text("platform")
    if not text or call.version < since:
        return None
    try:
        wanted = untrusted.decode(text, Platform)
    except msgspec.MsgspecError as error:
        raise InvalidArgument(f"failed to parse platform: {error}") from None
    if not wanted.os or not wanted.architecture:
        raise InvalidArgument("both OS and Architecture must be provided")
    return wanted


def _variant(variant: Variant) -> dict[str, Any]:
    common = {
        "ID": variant.descriptor.digest,
        "Descriptor": variant.descriptor,
        "Available": variant.available,
        "Size": {"Content": variant.content, "Total": variant.content + variant.unpacked},
    }
    if variant.attests:
        return common | {"Kind": "attestation", "AttestationData": {"For": variant.attests}}
    if not variant.platform.os:
        return common | {"Kind": "unknown"}
    return common | {
        "Kind": "image",
        "ImageData": {
            "Platform": variant.platform,
            "Containers": variant.containers,
            "Size": {"Unpacked": variant.unpacked},
        },
    }


def _inspected(image: Image, version: tuple[int, int]) -> dict[str, Any]:
    config = image.record.config
    tagged = image.record.tagged_at
    answer: dict[str, Any] = {
        "Id": image.id,
        "RepoTags": image.names,
        "RepoDigests": image.digests,
        "Parent": config.parent,
        "Comment": config.comment or (config.history[-1].comment if config.history else ""),
        "DockerVersion": config.docker_version,
        "Author": config.author,
        "Config": _config(image, version),
        "Architecture": config.architecture,
        "Os": image.os,
        "Size": image.size,
        "RootFS": {"Type": "layers", "Layers": config.rootfs.diff_ids or []},
        "Metadata": {"LastTagTime": format_rfc3339(tagged) if tagged else ZERO_TIME},
    }
    if config.created or version < (1, 44):
        answer["Created"] = config.created or ZERO_TIME
    if config.variant:
        answer["Variant"] = config.variant
    if config.os_version:
        answer["OsVersion"] = config.os_version
    if version < (1, 44):
        answer["VirtualSize"] = image.size
    if version < (1, 45):
        answer["Container"] = config.container
        answer["ContainerConfig"] = _container_config(config)
    return answer


def _container_config(image: ImageConfig) -> Any:
    """The settings of the container that an image was committed from; empty for any other image."""
    try:
        return wire.outgoing(run_config(ImageConfig(config=image.container_config)))
    except InvalidArgument:
        return wire.outgoing(ContainerConfig())


def _config(image: Image, version: tuple[int, int]) -> Any:
    """Since 1.50 only what an image can say; before, everything that a container's configuration has."""
    document = wire.outgoing(image.config)
    if version < (1, 50):
        return document
    fields = {name: getattr(document, attribute) for attribute, name in _names(document)}
    return {name: value for name, value in fields.items() if name in _IMAGE_CONFIG and value not in _EMPTY}


def _names(document: Any) -> list[tuple[str, str]]:
    return list(zip(document.__struct_fields__, document.__struct_encode_fields__, strict=True))


async def history(call: Call) -> web.StreamResponse:
    images, name = call.engine.images, call.path("name")
    wanted = _wanted_platform(call, (1, 48))
    return call.json([_step(entry) for entry in images.history(name, wanted)])


def _step(entry: HistoryEntry) -> dict[str, Any]:
    return {
        "Id": entry.id,
        "Created": entry.created // _SECOND,
        "CreatedBy": entry.created_by,
        "Tags": entry.tags,
        "Size": entry.size,
        "Comment": entry.comment,
    }


async def create(call: Call) -> web.StreamResponse:
    """Pull (`fromImage`) or import (`fromSrc`)."""
    if call.text("fromImage"):
        return await _pull(call)
    return await import_(call, call.text("fromSrc"))


async def _pull(call: Call) -> web.StreamResponse:
    messages = call.engine.transfers.pull(
        call.text("fromImage"),
        tag=call.text("tag"),
        platform=call.text("platform"),
        credentials=auth.given(call),
    )
    return await _tell(call, messages)


async def push(call: Call) -> web.StreamResponse:
    messages = call.engine.transfers.push(
        call.path("name"),
        tag=call.text("tag"),
        credentials=auth.given(call),
        wanted=_wanted_platform(call, (1, 46)),
    )
    return await _tell(call, messages)


async def _tell(call: Call, messages: AsyncGenerator[Message, None]) -> web.StreamResponse:
    """A transfer's messages as Docker's progress JSON."""
    async with call.progress() as out, aclosing(messages):
        async for message in messages:
            await out.send(_progress(message))
    return out.response


def _progress(message: Message) -> dict[str, Any]:
    if message.aux is not None:
        return {"progressDetail": {}, "aux": message.aux}
    if not message.id:
        return {"status": message.status}
    body: dict[str, Any] = {"status": message.status}
    if message.current is not None:
        body["progressDetail"] = {"current": message.current, "total": message.total}
        body["progress"] = _bar(message.current, message.total or 0)
    elif not message.status.startswith("Pulling from "):
        body["progressDetail"] = {}
    return body | {"id": message.id}


def _bar(current: int, total: int) -> str:
    """What clients print that draw no bar themselves."""
    filled = min(current * _BAR // total, _BAR) if total else 0
    arrow = "=" * filled + ">" if filled < _BAR else "=" * _BAR
    return f"[{arrow:<{_BAR}}]  {human_size(current):>6}/{human_size(total)}"


async def search(call: Call) -> web.StreamResponse:
    found = await call.engine.transfers.search(
        call.text("term"),
        limit=call.integer("limit") or 25,
        filters=call.filters(SEARCH_FILTERS),
        credentials=auth.given(call),
    )
    return call.json(found)


async def load(call: Call) -> web.StreamResponse:
    wanted = _wanted_platform(call, (1, 48))
    quiet = call.flag("quiet", True)
    feed = Feed()

    def progress(what: str, current: int, total: int) -> None:
        if not quiet:
            feed.put(Message("Loading layer", what, current, total))

    async with call.progress() as out:
        loading = asyncio.create_task(call.engine.images.load(call.incoming(), wanted, progress))
        loading.add_done_callback(lambda _: feed.close())
        try:
            async for message in feed:
                await out.send(_progress(message))
            for image in await asyncio.shield(loading):
                for text in _loaded(image):
                    await out.send({"stream": text + "\n"})
            call.body_read = True
        except DockyardError:
            await (
                out.open()
            )  # Docker's status is 200 here, whatever the archive is; docker-py's ImageLoadError needs it
            raise
        finally:
            loading.cancel()
            await asyncio.gather(loading, return_exceptions=True)
    return out.response


def _loaded(image: LoadedImage) -> list[str]:
    """What a client is told of an image that was loaded."""
    if image.part:
        return []
    texts = [
        f"The image {name} already exists, renaming the old one with ID {former} to empty string"
        for name, former in image.displaced
    ]
    return texts + ([f"Loaded image: {name}" for name in image.names] or [f"Loaded image ID: {image.id}"])


async def save(call: Call) -> web.StreamResponse:
    names = [name for text in call.texts("names") for name in text.split(",") if name]
    if not names:
        raise InvalidArgument('"names" parameter is required')
    return await _send(call, names)


async def save_one(call: Call) -> web.StreamResponse:
    return await _send(call, [call.path("name")])


async def _send(call: Call, names: list[str]) -> web.StreamResponse:
    wanted = _wanted_platform(call, (1, 48))
    async with aclosing(call.engine.images.save(names, wanted)) as chunks:
        response = await call.stream(_TAR)
        async for chunk in chunks:
            await response.write(chunk)
    return response


async def tag(call: Call) -> web.StreamResponse:
    await call.engine.images.tag(call.path("name"), call.text("repo"), call.text("tag"))
    return call.empty(201)


async def remove(call: Call) -> web.StreamResponse:
    if call.text("platforms"):  # to take no notice of it would remove all
        raise NotServed(f"image {call.path('name')}: removing single platforms of an image is not implemented")
    gone = await call.engine.images.remove(call.path("name"), force=call.flag("force"), prune=not call.flag("noprune"))
    return call.json([_gone(entry) for entry in gone])


def _gone(entry: Deleted) -> dict[str, str]:
    return {"Untagged": entry.untagged} if entry.untagged else {"Deleted": entry.deleted}


async def prune(call: Call) -> web.StreamResponse:
    gone, freed = await call.engine.images.prune(call.filters(PRUNE_FILTERS))
    return call.json({"ImagesDeleted": [_gone(entry) for entry in gone] or None, "SpaceReclaimed": freed})


ROUTES = [
    Route("GET", "/images/json", list_),
    Route("GET", "/images/get", save),
    Route("GET", "/images/search", search),
    Route("POST", "/images/create", create),
    Route("POST", "/images/load", load),
    Route("POST", "/images/prune", prune, since=(1, 25)),
    Route("GET", "/images/{name:.+}/json", inspect),
    Route("GET", "/images/{name:.+}/history", history),
    Route("GET", "/images/{name:.+}/get", save_one),
    Route("POST", "/images/{name:.+}/push", push),
    Route("POST", "/images/{name:.+}/tag", tag),
    Route("DELETE", "/images/{name:.+}", remove),
]
