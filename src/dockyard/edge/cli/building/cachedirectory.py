"""A build cache in a directory of the user's: `--cache-to type=local,dest=…`, `--cache-from type=local,src=…`.

Owns: sending one to the daemon before a build, writing the one that a build has made. Does not own: what the documents
in it say (the daemon's `engine.builds.localcache`), sending a directory (`packing`).

The directory is an OCI layout with a manifest a tag (`tag=`, latest). It is as before until index.json, written last,
is replaced; then the blobs that only the replaced manifest had are removed, so that it does not grow from build to
build. What else lies in it stays.
"""

from __future__ import annotations

import hashlib
import json
import os
import re

from dockyard.edge.cli.api import quote
from dockyard.edge.cli.building.output import Pieces
from dockyard.edge.cli.building.packing import Packer
from dockyard.edge.cli.call import Call, complain
from dockyard.edge.cli.errors import CliError
from dockyard.model.errors import InvalidArgument
from dockyard.proto import buildspec

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import IO, Any

_LAYOUT = "oci-layout"
_INDEX = "index.json"
_BLOBS = "blobs/sha256/"
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}\Z")
_MEMBER = re.compile(r"blobs/sha256/[0-9a-f]{64}\Z")
_HALF = re.compile(r"[0-9a-f]{64}\.dockyard-([0-9]+)\Z")
_REF_NAME = "org.opencontainers.image.ref.name"
_OURS = "application/vnd.dockyard.build.cache.v1+json"
_MAX_DOCUMENT = 8 << 20  # bytes
_CHUNK = 1 << 20
_TRUE = ("1", "true")


# --- to the daemon ----------------------------------------------------------------------------------------------------


def send(call: Call, texts: list[str], *, unused: bool = False) -> list[str]:
    """`--cache-from` as the daemon takes it: each directory is uploaded first. One that is not there, or is no cache,
    is a warning, as with buildx: the build goes on without it. `unused`: nobody will look into them, they stay here."""
    found: list[str] = []
    for text in texts:
        kind, fields = buildspec.cache(text, "--cache-from")
        if kind != "local":
            found.append(text)
            continue
        source = fields.get("src", "")
        if not source:
            raise CliError(f"invalid value {text!r} for --cache-from: type=local needs src=DIRECTORY")
        if unused:
            continue
        try:
            packer = Packer(source, _Only(_needed(source, fields)))
        except (OSError, ValueError) as error:
            complain(f"WARNING: local cache import at {source} not found due to err: {error}")
            continue
        reply = call.api.send("POST", "/build/contexts", raw=packer, fresh=True)
        fields |= {"type": "local", "src": f"upload:{json.loads(reply.read())['ID']}", "name": source}
        found.append(_line(fields))
    return found


def _line(fields: dict[str, str]) -> str:
    """Fields as they are written in a flag: one line of CSV."""
    import csv
    import io

    line = io.StringIO()
    csv.writer(line, lineterminator="").writerow([f"{name}={value}" for name, value in fields.items()])
    return line.getvalue()


class _Only:
    """Rules for the packer: just these files."""

    def __init__(self, names: set[str]) -> None:
        self._names = names

    def excluded(self, path: str) -> bool:
        return path not in self._names

    def prunable(self, directory: str) -> bool:
        return directory not in ("blobs", "blobs/sha256")


def _needed(directory: str, fields: dict[str, str]) -> set[str]:
    """The files of the manifest that is asked for. What of it is missing, the daemon says."""
    index = _read(os.path.join(directory, _INDEX))
    digest, tag = fields.get("digest"), fields.get("tag") or "latest"
    found = {_LAYOUT, _INDEX}
    for each in _manifests(index):
        if each.get("digest") == digest or (not digest and _tag(each) == tag):
            found |= {_BLOBS + each["digest"][7:]}
            try:
                found |= {_BLOBS + name[7:] for name in _blobs(directory, each)}
            except (OSError, ValueError):
                pass
    return found


def _read(path: str) -> dict[str, Any]:
    """A document. OSError; ValueError if it is none."""
    with open(path, "rb") as file:
        found = json.loads(file.read(_MAX_DOCUMENT))
    if not isinstance(found, dict):
        raise ValueError(f"{path} is no OCI document")
    return found


def _manifests(index: dict[str, Any]) -> list[dict[str, Any]]:
    entries = index.get("manifests")
    return [
        each
        for each in (entries if isinstance(entries, list) else [])
        if isinstance(each, dict) and _DIGEST.match(str(each.get("digest")))
    ]


def _tag(entry: dict[str, Any]) -> str:
    annotations = entry.get("annotations")
    return str(annotations.get(_REF_NAME, "")) if isinstance(annotations, dict) else ""


def _blobs(directory: str, entry: dict[str, Any]) -> set[str]:
    """Digests that a manifest, which is one of ours, names. OSError; ValueError if it is none."""
    manifest = _read(os.path.join(directory, _BLOBS, entry["digest"][7:]))
    config = manifest.get("config")
    if not isinstance(config, dict) or config.get("mediaType") != _OURS:
        raise ValueError("no cache of this builder")
    layers = manifest.get("layers")
    named = [config, *(layers if isinstance(layers, list) else [])]
    digests = {str(each.get("digest")) for each in named if isinstance(each, dict)}
    return {digest for digest in digests if _DIGEST.match(digest)}


# --- from the daemon --------------------------------------------------------------------------------------------------


def check(call: Call) -> list[dict[str, str]]:
    """The fields of each `--cache-to`. CliError, before anything is built, for a directory that cannot be."""
    found: list[dict[str, str]] = []
    for text in call.texts("cache-to"):
        kind, fields = buildspec.cache(text, "--cache-to")
        if kind == "local":
            target = fields.get("dest", "")
            if not target:
                raise CliError(f"invalid value {text!r} for --cache-to: type=local needs dest=DIRECTORY")
            if os.path.exists(target) and not os.path.isdir(target):
                raise CliError(f"--cache-to type=local: {target} is no directory")
        found.append(fields)
    return found


def receive(call: Call, identifier: str, fields: dict[str, str]) -> None:
    """Write the cache that a build has made. CliError; with `ignore-error=true` that is only a warning."""
    target = fields["dest"]
    try:
        response = call.api.send("GET", f"/build/outputs/{quote(identifier)}", fresh=True)
        try:
            _write(response.chunks(), target)
        except OSError as error:
            raise CliError(f"{error.filename or target}: {(error.strerror or str(error)).lower()}") from None
    except (CliError, InvalidArgument) as error:
        if fields.get("ignore-error", "").lower() not in _TRUE:
            raise
        complain(f"WARNING: cache export to {target} failed: {error}")


def _write(pieces: Iterable[bytes], target: str) -> None:
    import tarfile
    from typing import cast

    os.makedirs(os.path.join(target, _BLOBS), exist_ok=True)
    _sweep(os.path.join(target, _BLOBS))
    documents: dict[str, bytes] = {}
    try:
        with tarfile.open(fileobj=cast("Any", Pieces(iter(pieces))), mode="r|") as archive:
            for member in archive:
                content = archive.extractfile(member) if member.isreg() else None
                if content is None:
                    continue
                if _MEMBER.match(member.name):
                    _write_blob(content, target, member.name)
                elif member.name in (_LAYOUT, _INDEX):
                    documents[member.name] = content.read(_MAX_DOCUMENT)
    except tarfile.TarError as error:
        raise CliError(f"the cache did not arrive: {error}") from None
    if len(documents) != 2:
        raise CliError("the cache did not arrive whole")
    _replace(os.path.join(target, _LAYOUT), documents[_LAYOUT])
    _join(target, json.loads(documents[_INDEX]))


def _sweep(directory: str) -> None:
    """Remove what clients that were killed have left half-written."""
    for name in os.listdir(directory):
        match = _HALF.match(name)
        if match is None:
            continue
        try:
            os.kill(int(match[1]), 0)
        except ProcessLookupError:
            os.unlink(os.path.join(directory, name))
        except (OSError, OverflowError):
            pass  # somebody else's, at work


def _write_blob(content: IO[bytes], target: str, name: str) -> None:
    """The blob appears whole and verified, or not at all."""
    path = os.path.join(target, name)
    temporary = f"{path}.dockyard-{os.getpid()}"
    hasher = hashlib.sha256()
    try:
        with open(temporary, "wb") as file:
            while data := content.read(_CHUNK):
                hasher.update(data)
                file.write(data)
        if hasher.hexdigest() != os.path.basename(name):
            raise CliError(f"the cache arrived damaged: {name}")
        os.rename(temporary, path)
    finally:
        if os.path.exists(temporary):
            os.unlink(temporary)


def _join(target: str, arrived: dict[str, Any]) -> None:
    """Let index.json name what has arrived, beside the other tags; take away what nothing names any more."""
    path = os.path.join(target, _INDEX)
    try:
        before = _read(path)
    except (OSError, ValueError):
        before = {}
    new = _manifests(arrived)
    tags = {_tag(each) for each in new}
    kept = [each for each in _manifests(before) if _tag(each) not in tags]
    replaced = [each for each in _manifests(before) if _tag(each) in tags]
    _replace(path, json.dumps({**arrived, "manifests": [*kept, *new]}).encode())
    try:
        needed = _all(target, [*kept, *new])
    except (OSError, ValueError):
        return  # something else lies here, too: who knows what it needs
    for each in replaced:
        try:
            gone = _all(target, [each]) - needed
        except (OSError, ValueError):
            continue
        for digest in gone:
            try:
                os.unlink(os.path.join(target, _BLOBS, digest[7:]))
            except FileNotFoundError:
                pass


def _all(target: str, entries: list[dict[str, Any]]) -> set[str]:
    return {digest for each in entries for digest in (each["digest"], *_blobs(target, each))}


def _replace(path: str, data: bytes) -> None:
    temporary = f"{path}.dockyard-{os.getpid()}"
    try:
        with open(temporary, "wb") as file:
            file.write(data)
        os.rename(temporary, path)
    finally:
        if os.path.exists(temporary):
            os.unlink(temporary)
