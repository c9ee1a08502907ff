"""Layers of an archive unpacked while it arrives, before anybody has said what they are.

Owns: `Ahead`: which members of an archive look like layers, their trees, recipes and (compressed ones) blobs, made and
hashed on the way, and the telling of how far they are. Does not own: the archive (`store.archive`), which of them are
wanted and on what they lie (`engine.images.loading`): until then they are directories with names of the caller's, who
takes or discards them.

Archives name what their members are at the end (docker save writes `manifest.json` and `index.json` last). What a
member is shows in its first bytes: a tar header, or a compression's magic. One that turns out to be no layer, or a bad
one, costs its directories only: its error is kept for the manifest that may refer to it.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

from dockyard.model.errors import InvalidArgument
from dockyard.proto import tarformat as fmt
from dockyard.proto.tarformat import TarError
from dockyard.proto.tarread import StreamError, TarReader
from dockyard.store.bytestream import CHUNK, RawInput, Source, compression
from dockyard.store.unpack import apply_source, free_space

WHAT = "layer"  # how errors begin; the caller, who knows more, says which
_MOST = 1000  # layers of one archive; what comes after them is kept as it is
_STEP = 0.1  # seconds between two messages about the same member
_HEX = re.compile(r"[0-9a-f]{64}")


class Place(NamedTuple):
    """Where layers are put: TREES/NAME and RECIPES/NAME with names `token` + ten hex digits, BLOBS/NAME."""

    trees: str
    recipes: str
    blobs: str
    token: str


class Ahead:
    """`take` for each regular member; `results` tells what was unpacked."""

    def __init__(self, place: Place, known: Sequence[str], progress: int) -> None:
        """`known`: digests of what is there already and need not be read. `progress`: a pipe for `_Progress`."""
        self._place = place
        self._known = frozenset(known)
        self._progress = _Progress(progress)
        self.results: list[dict[str, Any]] = []

    def take(self, reader: TarReader, name: str, size: int) -> dict[str, Any] | None:
        """What became of the reader's current entry: {"layer": place in `results`}, {"known": digest}, or None: it is
        no layer, and the payload is still there. StreamError, SystemFailure: the archive as a whole cannot be read.
        """
        digest = stated_digest(name)
        if digest in self._known:
            return {"known": digest}
        if len(self.results) >= _MOST or size < fmt.BLOCK:
            return None
        head = reader.peek(fmt.BLOCK)
        if not (compression(head) or _begins_tar(head)):
            return None
        self.results.append(self._unpack(reader, name, size, bool(compression(head))))
        return {"layer": len(self.results) - 1}

    def _unpack(self, reader: TarReader, name: str, size: int, compressed: bool) -> dict[str, Any]:
        place = self._place
        short = f"{place.token}{len(self.results):010x}"
        tree, recipe = os.path.join(place.trees, short), os.path.join(place.recipes, short)
        os.mkdir(tree, 0o755)
        os.mkdir(recipe, 0o700)
        blob = os.path.join(place.blobs, short)
        kept = os.open(blob, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600) if compressed else -1
        try:
            member = _Member(reader, size, kept, self._progress.of(name, size))
            found: dict[str, Any] = {"name": short, "bytes": size}
            try:
                limit = free_space(tree)
                found |= apply_source(lambda: Source(-1, raw=member, limit=limit), tree, recipe, WHAT, True, False)
            except InvalidArgument as error:
                if member.broken is not None:
                    raise member.broken from None
                found["error"] = error.message
            member.drain()
        finally:
            if kept >= 0:
                os.close(kept)
        if member.hash is not None:
            found["blob"] = f"sha256:{member.hash.hexdigest()}"
            found["path"] = blob
        return found


class _Member(RawInput):
    """A member's payload; a compressed one is kept in `kept` and hashed."""

    def __init__(self, reader: TarReader, size: int, kept: int, progress: _Bar) -> None:
        super().__init__(-1, length=size, hash_=hashlib.sha256() if kept >= 0 else None)
        self._reader = reader
        self._kept = kept
        self._progress = progress
        self.broken: StreamError | None = None  # the archive itself cannot be read on

    def _read_some(self, size: int) -> bytes:
        try:
            data = self._reader.some(size)
        except StreamError as error:
            self.broken = error
            raise
        if self._kept >= 0:
            view = memoryview(data)
            while view:
                view = view[os.write(self._kept, view) :]
        self._progress.add(len(data))
        return data

    def drain(self) -> None:
        """Read what is left, whatever it is."""
        while self.chunk(CHUNK):
            pass


class _Progress:
    """Lines [id, bytes so far, bytes in all] for whoever reads the pipe; lost if nobody does so in time."""

    def __init__(self, pipe: int) -> None:
        self._pipe = pipe
        os.set_blocking(pipe, False)

    def of(self, name: str, size: int) -> _Bar:
        found = _HEX.search(name)
        shown = found[0] if found else name.rpartition("/")[2]
        return _Bar(self, shown[:12], size)

    def tell(self, shown: str, current: int, total: int) -> None:
        try:
            os.write(self._pipe, json.dumps([shown, current, total]).encode() + b"\n")
        except OSError:
            pass


class _Bar:
    """One member's."""

    def __init__(self, progress: _Progress, shown: str, total: int) -> None:
        self._progress = progress
        self._shown = shown
        self._total = total
        self._current = 0
        self._told = 0.0

    def add(self, count: int) -> None:
        self._current += count
        now = time.monotonic()
        if now - self._told >= _STEP or self._current == self._total:
            self._told = now
            self._progress.tell(self._shown, self._current, self._total)


def stated_digest(name: str) -> str:
    """The digest that a member's name says its content has: blobs/sha256/HEX, or HEX.tar as skopeo writes; else ""."""
    head, _, base = name.rpartition("/")
    base = base.removesuffix(".tar") if not head else base
    return f"sha256:{base}" if head in ("", "blobs/sha256") and _HEX.fullmatch(base) else ""


def _begins_tar(head: bytes) -> bool:
    """Whether a block could be a tar's first: a header, or the mark of an empty one's end."""
    if head == fmt.ZERO_BLOCK:
        return True
    try:
        fmt.parse_header(head)
    except (TarError, StreamError):
        return False
    return True
