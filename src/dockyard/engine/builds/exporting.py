"""What leaves the engine after a build: files and archives for the client, images for a registry.

Owns: which outputs there are, the bytes of one, pushing with progress as steps of the build. Does not own: the image in
the store (`output`), archives (`engine.images`), the registry client (`engine.transfers`).

An output for a client is fetched after the build (its image is in the store by then), so that the build's answer stays
a stream of events. An image that has no name and that nothing uses goes when its files have been fetched.
"""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Final

from dockyard.engine.builds.ground import Ground, Session
from dockyard.engine.images import saving
from dockyard.engine.images.catalogue import Image
from dockyard.engine.images.removal import remove_image
from dockyard.model.build import (
    BuildOptions,
    BuildResult,
    Planned,
    VertexDone,
    VertexInfo,
    VertexProgress,
    VertexStarted,
)
from dockyard.model.errors import Conflict, DockyardError, InvalidArgument, NotFound
from dockyard.model.oci import INDEXES
from dockyard.proto import references
from dockyard.proto.dockerconfig import Credentials
from dockyard.store.spooling import worker_output

ARCHIVES: Final = ("docker", "oci")
FETCHED: Final = ("docker", "local", "oci", "tar")  # what a client fetches
_FILES: Final = ("local", "tar")
_ID = re.compile(r"(docker|local|oci|tar)(\+index)?:([0-9a-f]{64})\Z")
_TRUE: Final = ("1", "true", "t", "yes")
_NOBODY: Final = Credentials()


def to_fetch(options: BuildOptions, result: BuildResult) -> list[tuple[int, str, str]]:
    """(number of the output, the ID to fetch it by, the directory within `dest` that it fills) of every output that the
    client keeps itself. Of several platforms `local` has a directory each, as with buildx: linux_arm64."""
    found = []
    whole = result.metadata.get("containerimage.descriptor", {}).get("mediaType") in INDEXES
    for number, spec in enumerate(options.outputs):
        if spec.type in ARCHIVES:
            name = f"{spec.type}{'+index' if whole else ''}:{_hex(result.image_id)}"
            found.append((number, name, ""))
        elif spec.type == "local" and len(result.platforms) > 1:
            for platform, image_id in result.platforms.items():
                found.append((number, f"local:{_hex(image_id)}", platform.replace("/", "_")))
        elif spec.type in FETCHED:
            found.append((number, f"{spec.type}:{_hex(result.image_id)}", ""))
    return found


def _hex(digest: str) -> str:
    return digest.removeprefix("sha256:")


async def fetch(ground: Ground, identifier: str) -> AsyncGenerator[bytes, None]:
    """The tar of an output. NotFound for an ID that names none, or whose image has gone."""
    match = _ID.match(identifier)
    if match is None:
        raise NotFound(f"no such output: {identifier[:100]}")
    image = ground.services.catalogue.get(f"sha256:{match[3]}")
    source = _files(ground, image) if match[1] in _FILES else _archive(ground, image, whole=bool(match[2]))
    async with aclosing(source) as chunks:
        async for chunk in chunks:
            yield chunk
    await _forget(ground, image)


async def _files(ground: Ground, image: Image) -> AsyncGenerator[bytes, None]:
    """All files of the result; an empty archive for an image without layers."""
    if image.chain_id is None:
        yield bytes(1024)
        return
    with ground.context.snapshots.lease() as lease:
        lease.add(image.chain_id)
        place = {
            "rootfs": ground.context.snapshots.view(image.chain_id),
            "mounts": [],
            "read_only": True,
            "writable": False,
        }
        call = ground.context.runtime.call
        async with aclosing(worker_output(call, "dockyard.store.reading:export", {"place": place})) as chunks:
            async for chunk in chunks:
                yield chunk


async def _archive(ground: Ground, image: Image, *, whole: bool) -> AsyncGenerator[bytes, None]:
    """A docker-archive that is an OCI layout too, with all names of the image; `whole`: with all of its index."""
    async with aclosing(saving.save_images(ground.services, [(image, image.complete_names)], whole=whole)) as chunks:
        async for chunk in chunks:
            yield chunk


async def _forget(ground: Ground, image: Image) -> None:
    if image.names or image.digests:
        return
    try:
        await remove_image(ground.services, image.id, force=False, prune=True)
    except (Conflict, NotFound):
        pass  # a container is made of it; or it has gone


def names_to_push(session: Session) -> list[str]:
    """`--output type=image,push=true[,name=…]`: the names given there, else all that the build gives."""
    names: list[str] = []
    for spec in session.options.outputs:
        if spec.type == "image" and spec.fields.get("push", "").lower() in _TRUE:
            given = [name for name in spec.fields.get("name", "").split(",") if name]
            names += given or session.options.tags
    return list(dict.fromkeys(names))


def check(session: Session) -> None:
    """Before anything is built: InvalidArgument for an output that cannot be."""
    for spec in session.options.outputs:
        if spec.type == "tar" and len(session.options.platforms) > 1:
            raise InvalidArgument("output type=tar is for one platform; type=local has a directory for each")
        pushes = spec.type == "image" and spec.fields.get("push", "").lower() in _TRUE
        if pushes and not (spec.fields.get("name") or session.options.tags):
            raise InvalidArgument("an image that shall be pushed needs a name: --tag")


async def push(session: Session) -> None:
    """Send the image to the registries of its names, each a step of the build. DockyardError of the first failure."""
    ground = session.ground
    for name in names_to_push(session):
        reference = references.parse(name).with_default_tag()
        vertex = f"push:{reference.complete}"
        session.emit(Planned((VertexInfo(vertex, f"pushing {reference.familiar}"),)))
        session.emit(VertexStarted(vertex, ground.context.clock()))
        known = session.request.credentials.get(reference.domain, _NOBODY)
        messages = ground.transfers.push(reference.familiar_repository, tag=reference.tag, credentials=known)
        try:
            async with aclosing(messages) as told:
                async for message in told:
                    if message.current is not None:
                        session.emit(VertexProgress(vertex, message.id, message.current, message.total or 0))
        except DockyardError as error:
            session.emit(VertexDone(vertex, error=error.message, time_ns=ground.context.clock()))
            raise
        session.emit(VertexDone(vertex, time_ns=ground.context.clock()))
