"""The build cache to and from a directory of the client: `--cache-to type=local`, `--cache-from type=local`.

Owns: what a cache is as an OCI layout, keeping one until its client fetches it, reading one that a client sent. Does
not own: the document (`cachetransfer`), receiving and unpacking (`sources`, `engine.transfers.downloads`), the
directory itself: the client's half is `edge.cli.building.cachedirectory`.

The daemon never looks at paths of the client. A cache leaves as a tar, fetched after the build as outputs are; it comes
as a further context does, so what was sent is a spool here, under a random id, and gone when the build is over. Layers
in it are not compressed. Whom to believe about keys is the user's choice, as with registries; blobs are verified.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import stat
from collections.abc import AsyncGenerator, Sequence
from contextlib import ExitStack, aclosing
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from dockyard.engine.builds import sources
from dockyard.engine.builds.cachetransfer import (
    CACHE_CONFIG,
    Document,
    RemoteCache,
    describe,
    parse_document,
    steps_within,
)
from dockyard.engine.builds.ground import Ground, Session, Tree
from dockyard.model import oci, untrusted
from dockyard.model.build import BuildOptions, TypedSpec, Warned
from dockyard.model.errors import DockyardError, InvalidArgument, NotFound, SystemFailure
from dockyard.model.oci import Descriptor, Manifest
from dockyard.store.snapshots import Layer, Lease
from dockyard.store.spooling import worker_output
from dockyard.store.treeview import TreeView

_LIFE: Final = 600.0  # seconds that a cache waits for its client
_LAYOUT: Final = '{"imageLayoutVersion":"1.0.0"}'
_REF_NAME: Final = "org.opencontainers.image.ref.name"
_TAG: Final = "latest"
_UPLOAD: Final = "upload:"
_PREFIX: Final = "cache:"
_CHUNK: Final = 1 << 20


# --- out --------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Kept:
    """A cache that waits. `lease` holds its layers."""

    document: Document
    layers: Sequence[Layer]
    tag: str
    lease: Lease
    stack: ExitStack
    timer: asyncio.TimerHandle


class Shelf:
    """Caches that wait for their clients, ten minutes at most. For the event loop's thread."""

    def __init__(self, ground: Ground) -> None:
        self._ground = ground
        self._kept: dict[str, _Kept] = {}

    def close(self) -> None:
        for identifier in list(self._kept):
            self._drop(identifier)

    def put(
        self, session: Session, trees: Sequence[Tree], results: Sequence[str | None]
    ) -> tuple[tuple[int, str], ...]:
        """(its number in `cache_to`, the ID to fetch it by) of every cache that the client keeps itself."""
        found: list[tuple[int, str]] = []
        for number, spec in enumerate(session.options.cache_to):
            if spec.type != "local":
                continue
            document, layers = describe(session, trees, steps_within(spec, results))
            if spec.fields.get("compression", "uncompressed") != "uncompressed":
                session.emit(Warned("CacheExport", "cache-to type=local: its layers are not compressed"))
            found.append((number, self._keep(document, layers, spec.fields.get("tag") or _TAG)))
        return tuple(found)

    def _keep(self, document: Document, layers: Sequence[Layer], tag: str) -> str:
        identifier = _PREFIX + secrets.token_hex(16)
        stack = ExitStack()
        lease = stack.enter_context(self._ground.context.snapshots.lease())
        for layer in layers:
            lease.add(layer.chain_id)
        timer = asyncio.get_running_loop().call_later(_LIFE, self._drop, identifier)
        self._kept[identifier] = _Kept(document, layers, tag, lease, stack, timer)
        return identifier

    def _drop(self, identifier: str) -> None:
        kept = self._kept.pop(identifier, None)
        if kept is not None:
            kept.timer.cancel()
            kept.stack.close()

    def has(self, identifier: str) -> bool:
        """Whether the ID is one of a cache at all."""
        return identifier.startswith(_PREFIX)

    async def fetch(self, identifier: str) -> AsyncGenerator[bytes, None]:
        """The OCI layout as a tar, once. NotFound for what is not, or no longer, there."""
        kept = self._kept.get(identifier)
        if kept is None:
            raise NotFound(f"no such output: {identifier[:100]}")
        with self._ground.context.snapshots.lease() as lease:  # its time may be over before the last byte is sent
            for layer in kept.layers:
                lease.add(layer.chain_id)
            arguments = {"members": _members(self._ground, kept)}
            call = self._ground.context.runtime.call
            async with aclosing(worker_output(call, "dockyard.store.archive:write", arguments)) as chunks:
                async for chunk in chunks:
                    yield chunk
        self._drop(identifier)


def _members(ground: Ground, kept: _Kept) -> list[dict[str, Any]]:
    """What `store.archive.write` makes the tar of: index.json comes last, so that a tar without an end is no cache."""
    snapshots = ground.context.snapshots
    blobs: dict[str, dict[str, Any]] = {}
    described: list[Descriptor] = []
    for layer in kept.layers:
        size = layer.document.tar_size
        described.append(Descriptor(oci.OCI_LAYER, layer.diff_id, size))
        blobs[layer.diff_id] = {
            "layer": {
                "recipe": snapshots.recipe_of(layer), "tree": snapshots.tree_of(layer),
                "size": size, "digest": layer.diff_id,
            }
        }  # fmt: skip
    config = _document(blobs, CACHE_CONFIG, kept.document)
    manifest = _document(blobs, oci.OCI_MANIFEST, Manifest(2, oci.OCI_MANIFEST, config, described))
    manifest.annotations = {_REF_NAME: kept.tag}
    index = Manifest(2, oci.OCI_INDEX, manifests=[manifest])
    return [
        {"name": "oci-layout", "text": _LAYOUT},
        {"name": "blobs/"},
        {"name": "blobs/sha256/"},
        *({"name": _path(digest), **blobs[digest]} for digest in sorted(blobs)),
        {"name": "index.json", "text": _json(index)},
    ]


def _document(blobs: dict[str, dict[str, Any]], media_type: str, value: Any) -> Descriptor:
    text = _json(value)
    digest = oci.sha256(text.encode())
    blobs[digest] = {"text": text}
    return Descriptor(media_type, digest, len(text.encode()))


def _json(value: Any) -> str:
    return msgspec.json.encode(value, order="sorted").decode()


def _path(digest: str) -> str:
    return "blobs/sha256/" + digest.partition(":")[2]


# --- in ---------------------------------------------------------------------------------------------------------------


def uploads(options: BuildOptions) -> list[str]:
    """The contexts' ids that `--cache-from type=local` names. InvalidArgument for a path: the daemon reads none."""
    found: list[str] = []
    for spec in options.cache_from:
        if spec.type == "local":
            source = spec.fields.get("src", "")
            if not source.startswith(_UPLOAD):
                raise InvalidArgument(
                    "cache-from type=local: src=upload:ID is expected, of a directory sent to POST /build/contexts"
                )
            found.append(source.removeprefix(_UPLOAD))
    return found


async def load(session: Session) -> list[RemoteCache]:
    """Every directory that `--cache-from` names; one that is no cache, or is damaged, is told as a warning."""
    found: list[RemoteCache] = []
    for spec in session.options.cache_from:
        if spec.type != "local":
            continue
        name = spec.fields.get("name") or "local cache"
        identifier = spec.fields["src"].removeprefix(_UPLOAD)
        tree = await asyncio.to_thread(sources.open_context, session.ground.context.layout, identifier)
        if tree.spool is not None:
            session.stack.callback(tree.spool.dispose)
        try:
            found.append(await asyncio.to_thread(_load, tree, spec, name))
        except DockyardError as error:
            session.emit(Warned("CacheImport", f"cache from {name}: {error.message}"))
    return found


def _load(tree: Tree, spec: TypedSpec, name: str) -> RemoteCache:
    with tree.open() as view:
        chosen = _chosen(_read_index(view), spec)
        manifest = _decode(_blob(view, chosen.digest, "manifest"), "manifest")
        if manifest.config is None or manifest.config.media_type != CACHE_CONFIG:
            raise InvalidArgument("not a cache of this builder (BuildKit's are not understood)")
        document = parse_document(_blob(view, manifest.config.digest, "list of steps"), CACHE_CONFIG)
        assert document is not None
        return RemoteCache(document, manifest.layers or (), [_Directory(tree)], name)


def _read_index(view: TreeView) -> Manifest:
    data = view.read(b"index.json", oci.MAX_DOCUMENT)
    if data is None:
        raise NotFound("no index.json in it")
    return _decode(data, "index.json")


def _chosen(index: Manifest, spec: TypedSpec) -> Descriptor:
    """The manifest of `digest=`, else of `tag=`, else of latest."""
    digest, tag = spec.fields.get("digest", ""), spec.fields.get("tag") or _TAG
    for each in index.manifests or ():
        if each.digest == digest or (not digest and (each.annotations or {}).get(_REF_NAME) == tag):
            return each
    raise NotFound(f"its index.json has no {digest or tag}")


def _decode(data: bytes, what: str) -> Manifest:
    try:
        return untrusted.decode(data, Manifest)
    except msgspec.MsgspecError as error:
        raise InvalidArgument(f"its {what} is damaged: {error}") from None


def _blob(view: TreeView, digest: str, what: str) -> bytes:
    """A document, verified."""
    oci.check_digest(digest, f"its {what}")
    data = view.read(os.fsencode(_path(digest)), oci.MAX_DOCUMENT)
    if data is None:
        raise NotFound(f"its {what} ({digest}) is missing")
    if oci.sha256(data) != digest:
        raise InvalidArgument(f"its {what} is damaged: the digest is {oci.sha256(data)}, not {digest}")
    return data


class _Directory:
    """A directory's blobs as `Downloads` reads those of a registry."""

    def __init__(self, tree: Tree) -> None:
        self._tree = tree

    async def blob(
        self, descriptor: Descriptor, start: int, what: str, waiting: Any = None, tries: int | None = None
    ) -> AsyncGenerator[bytes, None]:
        """The blob from `start`, not yet verified. NotFound, InvalidArgument (another size), SystemFailure."""
        oci.check_digest(descriptor.digest, what)
        try:
            fd = await asyncio.to_thread(self._open, descriptor, what)
            try:
                while data := await asyncio.to_thread(os.pread, fd, _CHUNK, start):
                    yield data
                    start += len(data)
            finally:
                os.close(fd)
        except OSError as error:
            raise SystemFailure(f"{what}: {error.strerror}") from error

    def _open(self, descriptor: Descriptor, what: str) -> int:
        with self._tree.open() as view:
            found = view.lookup(os.fsencode(_path(descriptor.digest)), follow=True)
            if found is None or not stat.S_ISREG(found.status.st_mode):
                raise NotFound(f"{what}: it is missing in the directory")
            if found.status.st_size != descriptor.size:
                raise InvalidArgument(f"{what}: {found.status.st_size} of {descriptor.size} bytes are in the directory")
            return view.open(found)
