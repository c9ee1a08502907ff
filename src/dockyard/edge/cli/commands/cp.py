"""`dockyard cp`."""

from __future__ import annotations

import os
import sys
import time

from dockyard.edge.cli.api import container_path
from dockyard.edge.cli.call import Body, Call
from dockyard.edge.cli.copying import local, paths
from dockyard.edge.cli.copying.packing import pack
from dockyard.edge.cli.copying.paths import Place
from dockyard.edge.cli.copying.unpacking import unpack
from dockyard.edge.cli.errors import ApiError, CliError
from dockyard.edge.cli.flags import flag
from dockyard.edge.cli.terminal import is_terminal
from dockyard.proto.units import human_size

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import Any

_STAT_HEADER = "x-docker-container-path-stat"
_DIRECTORY, _SYMLINK = 1 << 31, 1 << 27  # of Go's os.FileMode
_SPECIAL = 1 << 26 | 1 << 25 | 1 << 24 | 1 << 21  # devices, pipes, sockets
_PIECE = 1 << 18  # bytes
_PAUSE = 0.1  # seconds between two looks of the progress


def _cp(call: Call) -> None:
    source, target = call.arguments
    if not source:
        raise CliError("source can not be empty")
    if not target:
        raise CliError("destination can not be empty")
    from_container, from_path = paths.split_argument(source)
    to_container, to_path = paths.split_argument(target)
    if from_container and to_container:
        raise CliError("copying between containers is not supported")
    if from_container:
        _copy_out(call, from_container, from_path, to_path)
    elif to_container:
        _copy_in(call, from_path, to_container, to_path)
    else:
        raise CliError("must specify at least one container source")


def _copy_out(call: Call, container: str, path: str, to: str) -> None:
    if to != "-":
        to = local.absolute(to)
        local.check_output(to)
    rename = ""
    if call.on("follow-link"):
        found = _look(call, container, path)
        if found is not None and found["mode"] & _SYMLINK:
            path, rename = paths.renamed(path, paths.joined(path, found["linkTarget"]))
    response = call.api.send("GET", f"{container_path(container)}/archive", {"path": path}, fresh=True)
    found = _stat(response.headers.get(_STAT_HEADER, ""))
    if to == "-":
        for data in response.chunks():
            _write_all(1, data)
        return
    place = Place(path, True, bool(found["mode"] & _DIRECTORY), rename)
    progress = _Progress(call, "Copying from container")
    chunks = progress.counted(response.chunks())
    directory, name = paths.destination(place, local.target(to))
    unpack(chunks, directory, paths.split_entry(path)[1], name, call.on("archive") and os.geteuid() == 0)
    progress.close(to)


def _copy_in(call: Call, path: str, container: str, to: str) -> None:
    target = _target(call, container, to)
    progress = _Progress(call, "Copying to container")
    body: Iterable[bytes]
    if path == "-":
        if not target.is_directory:
            raise CliError(f'destination "{container}:{to}" must be a directory')
        directory, body = target.path, _stdin()
    else:
        source = local.source(local.absolute(path), call.on("follow-link"))
        directory, name = paths.destination(source, target)
        own = paths.split_entry(source.path)[1]
        body = pack(source.path, name or ("." if own == "/" else own))
    query = {"path": directory, "noOverwriteDirNonDir": "true", "copyUIDGID": "true" if call.on("archive") else None}
    sent = call.api.send(
        "PUT", f"{container_path(container)}/archive", query, raw=progress.counted(iter(body)), fresh=True
    )
    sent.read()
    progress.close(f"{container}:{to}")


def _target(call: Call, container: str, path: str) -> Place:
    """What is at the destination; a symbolic link there is followed. One that is not there may have a parent."""
    found = _look(call, container, path)
    place = path
    if found is not None and found["mode"] & _SYMLINK:
        place = paths.joined(path, found["linkTarget"])
        found = _look(call, container, place)
    if found is None:
        return Place(place, False)
    if found["mode"] & _SPECIAL:
        what = "got a device" if found["mode"] & (1 << 26) else "got an irregular file"
        raise CliError(f'destination "{container}:{path}" must be a directory or a regular file: {what}')
    return Place(place, True, bool(found["mode"] & _DIRECTORY))


def _look(call: Call, container: str, path: str) -> dict[str, Any] | None:
    """The daemon's description of a path; None if it has none to give. What is wrong, the copying itself will tell."""
    try:
        response = call.api.send("HEAD", f"{container_path(container)}/archive", {"path": path}, fresh=True)
    except ApiError:
        return None
    return _stat(response.headers.get(_STAT_HEADER, ""))


def _stat(header: str) -> dict[str, Any]:
    import binascii
    import json

    try:
        found = json.loads(binascii.a2b_base64(header))
        return {"mode": int(found["mode"]), "linkTarget": str(found.get("linkTarget") or "")}
    except (ValueError, KeyError, TypeError, AttributeError):
        raise CliError("unable to decode container path stat header") from None


class _Progress:
    """One line on stderr that counts what is copied, while stdout is a terminal and `-q` is not given."""

    def __init__(self, call: Call, what: str) -> None:
        quiet = call.on("quiet") if call.given("quiet") else not is_terminal(1)
        self._what = what
        self._shown = not quiet
        self._live = self._shown and is_terminal(2)
        self._size = 0
        self._next = time.monotonic() + _PAUSE

    def counted(self, chunks: Iterator[bytes]) -> Iterator[bytes]:
        for data in chunks:
            self._size += len(data)
            if self._live and time.monotonic() >= self._next:
                self._next = time.monotonic() + _PAUSE
                _write_all(2, f"\r\x1b[K{self._what} - {human_size(self._size, 3)}".encode())
            yield data

    def close(self, where: str) -> None:
        if self._live:
            _write_all(2, b"\r\x1b[K")
        if self._shown:
            _write_all(2, f"Successfully copied {human_size(self._size, 3)} to {where}\n".encode())


def _stdin() -> Iterator[bytes]:
    while data := os.read(0, _PIECE):
        yield data


def _write_all(fd: int, data: bytes) -> None:
    sys.stdout.flush()
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


cp = Body(
    _cp,
    (
        flag("-a --archive", "Archive mode (copy all uid/gid information)"),
        flag("-L --follow-link", "Always follow symbol link in SRC_PATH"),
        flag("-q --quiet", "Suppress progress output during copy (there is none without a terminal)"),
    ),
)
