"""The package's compiled modules in sealed memory: what a daemon runs out of, so that no upgrade can mix with it.

Owns: making that copy. Does not own: importing out of it (`importer`), who does (`dockyard.daemon`, `launcher`).

The files of a package may be replaced at any moment while a daemon runs (an upgrade, a checkout), and much is imported
later: workers import what they need for each piece of work, a zygote that was lost is started anew. So `dockyardd`
reads all of its modules once, into a sealed memfd. Nobody can write to that, not even root (S1). Standard library only.
"""

from __future__ import annotations

import fcntl
import hashlib
import importlib.util
import marshal
import os
import struct
import sys
from collections.abc import Iterator
from importlib.machinery import SourceFileLoader
from typing import Final, NamedTuple

import dockyard
from dockyard.runtime import importer

_ELSEWHERE: Final = ("edge/cli", "edge/registry", "registry", "runtime/oci")  # programs of their own
_SEALS: Final = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE
_HEAD: Final = struct.Struct("<4sIII")  # of a .pyc: magic, flags (0), the source's time and size


class Code(NamedTuple):
    """`fd`: the copy, open as long as anything is imported out of it. `build`: a digest of all that is in it."""

    fd: int
    build: str


def seal_package() -> Code:
    """Read the package as it is now. OSError, SyntaxError (a file that is being written)."""
    index: dict[str, tuple[int, int, bool]] = {}
    parts: list[bytes] = []
    offset = 0
    files = dict(_files(os.path.dirname(os.path.realpath(dockyard.__file__)), "dockyard"))
    first = "dockyard/runtime/importer.py"
    for path, data in ((first, files.pop(first)), *files.items()):
        name, package = _module(path)
        if name in index:  # a package, and a module of that name which an older version has left
            continue
        index[name] = (offset, len(data), package)
        parts.append(data)
        offset += len(data)
    parts += marshal.dumps(index), offset.to_bytes(8, "little")
    whole = b"".join(parts)
    return Code(_sealed(whole), hashlib.blake2b(whole, digest_size=16).hexdigest())


def import_from(code: Code) -> None:
    """From now on this process imports the package out of `code`; what it has imported already is imported anew."""
    for name in [name for name in sys.modules if name.partition(".")[0] == "dockyard"]:
        del sys.modules[name]
    importer.install(code.fd)


def _sealed(data: bytes) -> int:
    fd = os.memfd_create("dockyard-code", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        view = memoryview(data)
        while view:
            view = view[os.write(fd, view) :]
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, _SEALS)
    except BaseException:
        os.close(fd)
        raise
    return fd


def _module(path: str) -> tuple[str, bool]:
    """What a file is in the index, and whether that is a package."""
    if not path.endswith(".py"):
        return path, False
    name, package = path.removesuffix(".py"), path.endswith("/__init__.py")
    return (name.removesuffix("/__init__") if package else name).replace("/", "."), package


def _files(directory: str, inside: str) -> Iterator[tuple[str, bytes]]:
    """Every module (its code, marshalled) and data file below `directory`, by its path below the package's parent."""
    with os.scandir(directory) as found:
        entries = sorted(found, key=lambda entry: entry.name)
    for entry in entries:
        path = f"{inside}/{entry.name}"
        if path.endswith(".py"):
            yield path, _compiled(directory, entry)
        elif path.endswith(".json"):
            yield path, _read(entry.path)
        elif entry.name != "__pycache__" and entry.is_dir() and path.partition("/")[2] not in _ELSEWHERE:
            yield from _files(entry.path, path)


def _compiled(directory: str, entry: os.DirEntry[str]) -> bytes:
    """A module's code: out of the .pyc on disk if it is of this source, else compiled now."""
    name = entry.name.removesuffix(".py")
    try:
        data = _read(f"{directory}/__pycache__/{name}.{sys.implementation.cache_tag}.pyc")
        status = entry.stat()
        if data.startswith(
            _HEAD.pack(importlib.util.MAGIC_NUMBER, 0, int(status.st_mtime) & 0xFFFFFFFF, status.st_size)
        ):
            return data[_HEAD.size :]
    except OSError:
        pass
    return marshal.dumps(SourceFileLoader(name, entry.path).get_code(name))


def _read(path: str) -> bytes:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        parts = []
        while part := os.read(fd, 1 << 20):
            parts.append(part)
        return b"".join(parts)
    finally:
        os.close(fd)
