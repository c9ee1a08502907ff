"""Which programs the kernel gives to an interpreter: the entries of binfmt_misc.

Owns: reading an entry, whether it takes ELF programs of an architecture. Does not own: the file system. Pure.
Source: Documentation/admin-guide/binfmt-misc.rst; e_machine of elf(5).
"""

from __future__ import annotations

from typing import Final, NamedTuple

_MACHINES: Final = {  # OCI's architecture → (EI_CLASS, EI_DATA, e_machine)
    "386": (1, 1, 3), "amd64": (2, 1, 62), "arm": (1, 1, 40), "arm64": (2, 1, 183), "loong64": (2, 1, 258),
    "mips": (1, 2, 8), "mipsle": (1, 1, 8), "mips64": (2, 2, 8), "mips64le": (2, 1, 8), "ppc64": (2, 2, 21),
    "ppc64le": (2, 1, 21), "riscv64": (2, 1, 243), "s390x": (2, 2, 22),
}  # fmt: skip
_EXECUTABLE: Final = 2  # e_type


class Entry(NamedTuple):
    """One interpreter. `fixed`: it was opened when it was registered (flag F), so that containers need no copy."""

    interpreter: str
    offset: int
    magic: bytes
    mask: bytes
    fixed: bool


def parse(text: str) -> Entry | None:
    """A file of binfmt_misc; None for one that is disabled, or goes by the name's extension."""
    lines = text.splitlines()
    values = dict(line.partition(" ")[::2] for line in lines)
    if not lines or lines[0] != "enabled" or "magic" not in values:
        return None
    try:
        magic = bytes.fromhex(values["magic"])
        mask = bytes.fromhex(values["mask"]) if "mask" in values else b"\xff" * len(magic)
        offset = int(values.get("offset", "0"))
    except ValueError:
        return None
    return Entry(values.get("interpreter", ""), offset, magic, mask, "F" in values.get("flags:", ""))


def takes(entry: Entry, architecture: str) -> bool:
    """Whether programs of that architecture are given to it."""
    if architecture not in _MACHINES:
        return False
    head = _head(architecture)[entry.offset : entry.offset + len(entry.magic)]
    if len(head) < len(entry.magic) or len(entry.mask) < len(entry.magic):
        return False
    return all(have & mask == want & mask for have, mask, want in zip(head, entry.mask, entry.magic, strict=False))


def _head(architecture: str) -> bytes:
    """The beginning of an ELF program: e_ident, e_type, e_machine."""
    size, data, machine = _MACHINES[architecture]
    order = "little" if data == 1 else "big"
    ident = b"\x7fELF" + bytes([size, data, 1]) + bytes(9)
    return ident + _EXECUTABLE.to_bytes(2, order) + machine.to_bytes(2, order)  # type: ignore[arg-type]
