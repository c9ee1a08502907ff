"""Importing modules out of one file: what a zygote and a daemon do with the copy that `sealed` makes.

Owns: the file's form, and the finder in sys.meta_path. Does not own: what is in the file, who holds it open.

The file: the marshalled code of this module (so that an interpreter with nothing but a descriptor can begin), those of
all others, data files, the marshalled index, and its offset in the last eight bytes. A package has no search path, so
that nothing of it is ever found elsewhere. zipimport would do the same; with it the daemon's start takes 35 ms more
(writing the archive, parsing its directory twice). Standard library only, nothing of ours.
"""

from __future__ import annotations

import marshal
import os
import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from types import CodeType, ModuleType
from typing import Any, Final

PREFIX: Final = "sealed:"  # of what modules have as __file__
# to be executed with the descriptor of such a file in place of %d; afterwards imports are out of it
BEGIN: Final = (
    "import marshal, os, sys; module = type(sys)('dockyard.runtime.importer'); sys.modules[module.__name__] = module; "
    "exec(marshal.loads(os.pread(%d, 1 << 16, 0)), module.__dict__); module.install(%d); "
)


class Importer:
    """Finds and loads what is in the file `fd`. `index`: a module's name, or a data file's path, to where it is there
    (offset and size in bytes) and whether it is a package."""

    def __init__(self, fd: int, index: dict[str, tuple[int, int, bool]]) -> None:
        self.fd = fd
        self._index = index

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        place = self._index.get(name)
        if place is None:
            return None
        origin = PREFIX + name.replace(".", "/") + ("/__init__.py" if place[2] else ".py")
        loader: Any = self  # of no base class: importlib.abc is an import more
        spec = ModuleSpec(name, loader, origin=origin, is_package=place[2])
        spec.has_location = True
        return spec

    def create_module(self, spec: ModuleSpec) -> None:
        """As usual."""

    def exec_module(self, module: ModuleType) -> None:
        code: CodeType = marshal.loads(self._read(module.__name__))
        exec(code, module.__dict__)

    def get_data(self, path: str) -> bytes:
        """A data file beside a module, as pkgutil.get_data asks for it. FileNotFoundError."""
        try:
            return self._read(path.removeprefix(PREFIX))
        except KeyError:
            raise FileNotFoundError(2, "no such file in the copy of the package", path) from None

    def _read(self, name: str) -> bytes:
        offset, size, _ = self._index[name]
        return os.pread(self.fd, size, offset)


def install(fd: int) -> None:
    """From now on this process finds modules in the file `fd` first; it must stay open."""
    size = os.fstat(fd).st_size
    offset = int.from_bytes(os.pread(fd, 8, size - 8), "little")
    sys.meta_path.insert(0, Importer(fd, marshal.loads(os.pread(fd, size - offset, offset))))


def descriptors() -> list[int]:
    """The descriptors that this process needs to import: those of such files, and directories beneath descriptors."""
    parts = [path.split("/")[1:5] for path in sys.path]
    directories = [int(part[3]) for part in parts if part[:3] == ["proc", "self", "fd"]]
    return [one.fd for one in sys.meta_path if isinstance(one, Importer)] + directories
