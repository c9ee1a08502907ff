"""Building in tests of use cases: contexts as tars, a build's outcome, what an image has in it.

Owns: `context`, `Outcome`, `build`, `files_of`. Does not own: the engine (`tests.support.engineground`).
"""

from __future__ import annotations

import io
import os
import stat
import tarfile
from collections.abc import AsyncIterator, Mapping
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any

from dockyard.engine import Engine
from dockyard.engine.builds import BuildRequest
from dockyard.model.build import BuildEvent, BuildOptions, BuildResult, Planned, VertexDone, VertexLog, VertexStarted
from dockyard.store.mergedtree import MergedTree

MTIME = 1_700_000_000


@dataclass(frozen=True)
class File:
    """One entry of a context."""

    content: bytes = b""
    mode: int = 0o644
    mtime: int = MTIME
    link: str = ""
    kind: bytes = tarfile.REGTYPE
    uid: int = 0


def context(files: Mapping[str, bytes | str | File]) -> bytes:
    """A context's tar."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for name, value in files.items():
            file = value if isinstance(value, File) else File(value.encode() if isinstance(value, str) else value)
            entry = tarfile.TarInfo(name)
            entry.mode, entry.mtime, entry.linkname, entry.uid = file.mode, file.mtime, file.link, file.uid
            entry.type = file.kind if not file.link or file.kind != tarfile.REGTYPE else tarfile.SYMTYPE
            entry.size = len(file.content) if entry.type == tarfile.REGTYPE else 0
            tar.addfile(entry, io.BytesIO(file.content) if entry.size else None)
    return out.getvalue()


@dataclass
class Outcome:
    """What a build told."""

    events: list[BuildEvent] = field(default_factory=list)

    @property
    def result(self) -> BuildResult:
        last = self.events[-1]
        assert isinstance(last, BuildResult)
        return last

    @property
    def image(self) -> str:
        return self.result.image_id

    @property
    def log(self) -> str:
        return b"".join(event.data for event in self.events if isinstance(event, VertexLog)).decode()

    def names(self) -> dict[str, str]:
        planned = [event for event in self.events if isinstance(event, Planned)]
        return {vertex.id: vertex.name for event in planned for vertex in event.vertices}

    def cached(self) -> list[str]:
        """Names of the steps (sources left out) that came from the cache."""
        names = self.names()
        done = [event for event in self.events if isinstance(event, VertexDone) and event.cached]
        return [names[event.vertex] for event in done if not _is_source(names[event.vertex])]

    def carried_out(self) -> list[str]:
        names = self.names()
        begun = [event for event in self.events if isinstance(event, VertexStarted)]
        return [names[event.vertex] for event in begun if not _is_source(names[event.vertex])]


def _is_source(name: str) -> bool:
    return " FROM " in name or "internal" in name or "context" in name


async def chunks(data: bytes) -> AsyncIterator[bytes]:
    for start in range(0, len(data), 1 << 18):
        yield data[start : start + (1 << 18)]


async def build(
    engine: Engine,
    text: str,
    files: Mapping[str, bytes | str | File] | None = None,
    *,
    outcome: Outcome | None = None,
    request: Mapping[str, Any] | None = None,
    **options: Any,
) -> Outcome:
    """Build a Dockerfile with `files` as its context. Raises what the build raises; `outcome` has the events then."""
    told = outcome if outcome is not None else Outcome()
    asked = BuildRequest(BuildOptions(**options), **(request or {}))
    data = context({"Dockerfile": text, **(files or {})})
    async with aclosing(engine.builds.build(asked, chunks(data))) as events:
        async for event in events:
            told.events.append(event)
    return told


def files_of(engine: Engine, image_id: str, below: str = "") -> dict[str, str]:
    """What an image has at and below a path: {path: "mode uid:gid content or kind"}."""
    snapshots = engine.context.snapshots
    found: dict[str, str] = {}
    with MergedTree(snapshots.trees(engine.images.get(image_id).chain_id)) as tree:
        waiting = [below.strip("/").encode()]
        while waiting:
            path = waiting.pop()
            entry = tree.lookup(path)
            if entry is None:
                continue
            status = entry.status
            head = f"{stat.S_IMODE(status.st_mode):04o} {status.st_uid}:{status.st_gid}"
            if entry.is_directory:
                found[os.fsdecode(path) + "/"] = head
                waiting += [path + b"/" + name if path else name for name in tree.names(entry.path)]
            elif entry.is_symlink:
                found[os.fsdecode(path)] = f"-> {os.fsdecode(tree.read_link(entry))}"
            elif stat.S_ISREG(status.st_mode):
                content = tree.read(path) or b""
                found[os.fsdecode(path)] = f"{head} {content.decode(errors='replace')}".rstrip()
            else:
                found[os.fsdecode(path)] = f"{head} special"
    return dict(sorted(found.items()))
