"""Images from repository to repository, in one registry or from one to another, byte for byte.

Owns: `Copier`: what a manifest needs goes before it, blobs are mounted where that goes and streamed where not, each
verified on the way, indexes with everything below them. Does not own: single requests (`registry`).
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator

from dockyard.edge.cli.errors import CliError
from dockyard.edge.cli.registry import BrokenError, Found, Registry
from dockyard.model import oci
from dockyard.model.errors import DockyardError
from dockyard.model.oci import Descriptor
from dockyard.proto.references import Reference

_CHUNK = 1 << 20
_TRIES = 3
_DEPTH = 4  # indexes within indexes
_FOREIGN = (".foreign.", ".nondistributable.")


class Copier:
    """`registry_of`: the registry of a reference."""

    def __init__(self, registry_of: Callable[[Reference], Registry]) -> None:
        self._of = registry_of
        self._done: set[tuple[str, str]] = set()  # (repository, digest)

    def copy(self, source: Reference, found: Found, target: Reference, depth: int = 0) -> bool:
        """Have a manifest, or an index with its manifests, in `target`'s repository, under its digest.

        Returns False if it was there already, by being of the same repository. CliError naming blob or manifest.
        """
        if source.repository == target.repository:
            return False
        if (target.repository, found.digest) in self._done:
            return True
        if depth > _DEPTH:
            raise CliError(f"{source.familiar}: indexes within indexes, more than {_DEPTH} deep")
        try:
            manifest = oci.parse_manifest(found.data, source.familiar)
        except DockyardError as error:
            raise CliError(str(error)) from None
        for child in manifest.manifests or ():
            inner = source._replace(tag="", digest=child.digest)
            self.copy(inner, self._of(source).manifest(inner), target, depth + 1)
        parts = [*([manifest.config] if manifest.config is not None else []), *(manifest.layers or ())]
        for part in parts:
            if not (part.urls and any(word in part.media_type for word in _FOREIGN)):
                self._blob(source, part, target)
        self._of(target).put_manifest(target._replace(tag="", digest=found.digest), found)
        self._done.add((target.repository, found.digest))
        return True

    def _blob(self, source: Reference, blob: Descriptor, target: Reference) -> None:
        if (target.repository, blob.digest) in self._done:
            return
        to = self._of(target)
        if not to.has_blob(target, blob.digest):
            location = to.begin(target, mount=blob.digest, source=source if source.domain == target.domain else None)
            for attempt in range(1, _TRIES + 1):
                if not location:
                    break
                try:
                    to.put_blob(location, lambda: self._chunks(source, blob), blob.size, blob.digest)
                    break
                except BrokenError as error:
                    if attempt == _TRIES:
                        raise CliError(f"blob {blob.digest} of {source.familiar}: {error}") from None
                    location = to.begin(target)
            if location and os.isatty(2):
                os.write(2, f"copied {blob.digest[:19]} ({blob.size} bytes) to {target.familiar_repository}\n".encode())
        self._done.add((target.repository, blob.digest))

    def _chunks(self, source: Reference, blob: Descriptor) -> Iterator[bytes]:
        """The blob, which is not ended unless it is the right one: the other side then has too few bytes."""
        hasher, size, held = hashlib.sha256(), 0, b""
        with self._of(source).open_blob(source, blob.digest) as stream:
            while data := stream.read(_CHUNK):
                hasher.update(data)
                size += len(data)
                if size > blob.size:
                    raise CliError(f"{source.familiar}: blob {blob.digest} has more than its {blob.size} bytes")
                if held:
                    yield held
                held = data
        found = f"sha256:{hasher.hexdigest()}"
        if size == blob.size and found != blob.digest:
            raise CliError(f"{source.familiar}: blob {blob.digest}: the registry answered with {found}")
        if size < blob.size:
            raise BrokenError(f"the registry sent {size} of {blob.size} bytes")
        if held:
            yield held
