"""Tars made for tests, with everything that is wrong in them on purpose."""

from __future__ import annotations

import io
import os
import tarfile
from pathlib import Path
from typing import Any

from dockyard.store.unpack import apply

DIR, FILE, SYM, HARD, CHR, FIFO = (
    tarfile.DIRTYPE, tarfile.REGTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE,
)  # fmt: skip


class Member(tarfile.TarInfo):
    """An entry with its payload."""

    __slots__ = ("data",)

    data: bytes


def member(name: str, kind: bytes = FILE, data: bytes = b"", link: str = "", **more: Any) -> Member:
    info = Member(name)
    info.type, info.linkname, info.size = kind, link, len(data)
    info.mode = 0o755 if kind == DIR else 0o644
    for key, value in more.items():
        setattr(info, key, value)
    info.data = data
    return info


def tar(*members: Member, format: int = tarfile.PAX_FORMAT) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=format) as file:
        for info in members:
            file.addfile(info, io.BytesIO(info.data))
    return out.getvalue()


class Unpacked:
    """A tar unpacked below `place`: `.root` the tree, `.recipe` its recipe, `.result` what `apply` said."""

    def __init__(self, place: Path, data: bytes, **options: Any) -> None:
        self.root, self.recipe = place / "root", place / "recipe"
        self.root.mkdir(parents=True)
        self.recipe.mkdir()
        archive = place / "archive"
        archive.write_bytes(data)
        fd = os.open(archive, os.O_RDONLY)
        try:
            self.result = apply(
                fds=[fd], root=str(self.root), recipe=str(self.recipe), what="layer X", **{"need_end": True, **options}
            )
        finally:
            os.close(fd)

    def rebuilt(self) -> bytes:
        from dockyard.store.recipe import rebuild

        parts: list[bytes] = []
        rebuild(str(self.recipe), str(self.root), lambda view: parts.append(bytes(view)))
        return b"".join(parts)
