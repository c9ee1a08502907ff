"""Images as files: import, load, save."""

from __future__ import annotations

import os
import sys

from dockyard.edge.cli.call import Body, Call
from dockyard.edge.cli.errors import CliError
from dockyard.edge.cli.flags import flag, many, value
from dockyard.edge.cli.platform import asked_platform
from dockyard.edge.cli.progress import show_messages
from dockyard.edge.cli.terminal import is_terminal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

_CHUNK = 1 << 18
_REMOTE = ("http://", "https://", "git://", "ftp://")


def _import(call: Call) -> None:
    source, *name = call.arguments
    query = {
        "fromSrc": source if source.startswith(_REMOTE) else "-",
        "repo": None,
        "tag": None,
        "message": call.text("message") or None,
        "changes": call.texts("change") or None,
        "platform": call.text("platform").lower() or None,
    }
    if name:
        query["repo"], query["tag"] = _split(name[0])
    body = None if source.startswith(_REMOTE) else _read(source)
    headers = {"Content-Type": "text/plain"}
    show_messages(call.api.stream("POST", "/images/create", query, raw=body, headers=headers))


def _split(name: str) -> tuple[str, str | None]:
    from dockyard.model.errors import DockyardError
    from dockyard.proto.references import parse

    try:
        reference = parse(name)
    except DockyardError as error:
        raise CliError(str(error)) from None
    return reference.familiar_repository, reference.tag or None


def _load(call: Call) -> None:
    path = call.text("input")
    if not path and is_terminal(0):
        raise CliError("requested load from stdin, but stdin is empty")
    quiet = call.on("quiet") or not is_terminal(1)
    query = {"quiet": "1" if quiet else "0", "platform": asked_platform(call, "1.48")}
    response = call.api.send("POST", "/images/load", query, raw=_read(path or "-"), fresh=True)
    if response.headers.get("content-type", "").startswith("application/json"):
        from dockyard.edge.cli.api import json_values

        show_messages(json_values(response.chunks()), quiet=call.on("quiet"))
        return
    for data in response.chunks():
        sys.stdout.buffer.write(data)


def _read(path: str) -> Iterator[bytes]:
    """A file's or stdin's bytes in pieces; opened at once, so that a missing file is told before anything is sent."""
    if path == "-":
        fd = 0
    else:
        try:
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise CliError(f"open {path}: {(error.strerror or str(error)).lower()}") from None
    return _pieces(fd, path)


def _pieces(fd: int, path: str) -> Iterator[bytes]:
    while True:
        try:
            data = os.read(fd, _CHUNK)
        except OSError as error:
            raise CliError(f"read {path}: {(error.strerror or str(error)).lower()}") from None
        if not data:
            return
        yield data


def _save(call: Call) -> None:
    path = call.text("output")
    if not path and is_terminal(1):
        raise CliError("cowardly refusing to save to a terminal. Use the -o flag or redirect")
    folder = os.path.dirname(path)
    if folder and not os.path.isdir(folder):
        raise CliError(f"failed to save image: invalid output path: stat {folder}: no such file or directory")
    response = call.api.send("GET", "/images/get", {"names": call.arguments, "platform": asked_platform(call, "1.48")})
    save_stream(path, response.chunks(), "failed to save image")


def save_stream(path: str, chunks: Iterator[bytes], failed: str) -> None:
    """Write an archive to a file, or to stdout if `path` is "". CliError that begins with `failed`."""
    if not path:
        for data in chunks:
            _write_all(1, data)
        return
    temporary = f"{path}.dockyard-{os.getpid()}"
    try:
        _save_to(temporary, path, chunks)
    except OSError as error:
        raise CliError(f"{failed}: {path}: {(error.strerror or str(error)).lower()}") from None


def _save_to(temporary: str, path: str, chunks: Iterator[bytes]) -> None:
    """A regular file appears whole or not at all; what exists and is none (a device, a pipe) is written directly."""
    direct = os.path.exists(path) and not os.path.isfile(path)
    fd = os.open(path if direct else temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        for data in chunks:
            _write_all(fd, data)
        if not direct:
            os.rename(temporary, path)
    except BaseException:
        if not direct:
            os.unlink(temporary)
        raise
    finally:
        os.close(fd)


def _write_all(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


import_ = Body(
    _import,
    (
        many("-c --change", "Apply Dockerfile instruction to the created image"),
        value("-m --message", "Set commit message for imported image"),
        value("--platform", "Set platform if server is multi-platform capable"),
    ),
)
load = Body(
    _load,
    (
        value("-i --input", "Read from tar archive file, instead of STDIN", complete="file"),
        value("--platform", 'Load only the given platform variant, "os[/arch[/variant]]"'),
        flag("-q --quiet", "Suppress the load output"),
    ),
)
save = Body(
    _save,
    (
        value("-o --output", "Write to a file, instead of STDOUT", complete="file"),
        value("--platform", 'Save only the given platform variant, "os[/arch[/variant]]"'),
    ),
)
