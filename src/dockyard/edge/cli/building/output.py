"""Outputs that come back to the client: `--output type=local|tar|oci|docker`.

Owns: fetching one and putting it where the user wants it. Does not own: making it (the daemon does).
"""

from __future__ import annotations

import os

from dockyard.edge.cli.api import quote
from dockyard.edge.cli.call import Call
from dockyard.edge.cli.errors import CliError
from dockyard.edge.cli.terminal import is_terminal

TYPE_CHECKING = False
if TYPE_CHECKING:
    import tarfile
    from collections.abc import Iterable, Iterator


def fetch(call: Call, identifier: str, kind: str, target: str, platform: str = "") -> None:
    """One output of a build: a directory filled (`local`), or a tar as a file or on stdout (`-`). `platform`: the
    directory in it for this one of several."""
    if platform:
        if "/" in platform or platform in (".", ".."):  # the daemon's word does not lead out of `target` (S43)
            raise CliError(f"the daemon names no directory: {platform!r}")
        target = os.path.join(target, platform)
    if target == "-" and is_terminal(1):
        raise CliError("dest file is required for a tar: stdout is a terminal")
    response = call.api.send("GET", f"/build/outputs/{quote(identifier)}", fresh=True)
    try:
        if kind == "local":
            unpack(response.chunks(), target)
        elif target == "-":
            for piece in response.chunks():
                _write_all(1, piece)
        else:
            _save(response.chunks(), target)
    except OSError as error:
        raise CliError(f"{error.filename or target}: {(error.strerror or str(error)).lower()}") from None


def _save(pieces: Iterable[bytes], target: str) -> None:
    """The file appears whole or not at all."""
    os.makedirs(os.path.dirname(target) or ".", exist_ok=True)
    if os.path.isdir(target):
        raise CliError(f"{target} is a directory: --output type=tar writes a file")
    temporary = f"{target}.dockyard-{os.getpid()}"
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o666)
    try:
        for piece in pieces:
            _write_all(fd, piece)
        os.rename(temporary, target)
    except BaseException:
        os.unlink(temporary)
        raise
    finally:
        os.close(fd)


def unpack(pieces: Iterable[bytes], target: str) -> None:
    """A tar into a directory that may have contents. Nothing of the tar leads out of it (S43): names with `..`, and
    what would be written through a symbolic link, are refused. Owners are the user's own unless that is root."""
    import tarfile
    from typing import Any, cast

    os.makedirs(target, exist_ok=True)
    root = os.path.realpath(target)
    with tarfile.open(fileobj=cast(Any, Pieces(iter(pieces))), mode="r|") as archive:
        archive.extractall(root, filter=_checked, numeric_owner=True)


def _checked(member: tarfile.TarInfo, root: str) -> tarfile.TarInfo | None:
    name = member.name.lstrip("/")
    if member.isdev():
        return None
    place = os.path.join(os.path.realpath(os.path.join(root, os.path.dirname(name))), os.path.basename(name))
    targets = [place, *([os.path.realpath(os.path.join(root, member.linkname))] if member.islnk() else [])]
    if any(os.path.commonpath([root, each]) != root for each in targets) or ".." in name.split("/"):
        raise CliError(f"the output has an entry that leads out of the directory: {member.name!r}")
    if not member.isdir() and (os.path.islink(place) or os.path.isfile(place)):
        os.unlink(place)
    elif member.isdir() and os.path.islink(place):
        raise CliError(f"{place} is a symbolic link; the output has a directory there")
    return member.replace(name=name)


class Pieces:
    """Pieces as a file that tarfile can read."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self._pieces = pieces
        self._held = b""

    def read(self, size: int) -> bytes:
        parts, count = [self._held], len(self._held)
        while count < size and (piece := next(self._pieces, b"")):
            parts.append(piece)
            count += len(piece)
        data = b"".join(parts)
        self._held = data[size:]
        return data[:size]


def _write_all(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]
