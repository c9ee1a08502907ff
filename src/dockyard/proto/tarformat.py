"""The tar format: header blocks to entries and back.

Owns: `Entry`, reading a 512-byte header (v7, ustar, GNU), PAX records, and making headers (ustar, with PAX records
where a value does not fit). Bytes in, values out: no files. Does not own: the order of blocks in a stream
(`proto.tarread`, `store.pack`) nor what an entry means for a directory (`store.layertree`).

Formats: POSIX.1-2001 pax(1) "ustar Interchange Format" and "pax Extended Header"; GNU tar manual, "Standard" header.
Names are bytes: Linux paths have no encoding.
"""

from __future__ import annotations

import zlib
from functools import lru_cache
from typing import Final, NamedTuple

BLOCK: Final = 512
ZERO_BLOCK: Final = bytes(BLOCK)
MAX_EXTENSION: Final = 1 << 20  # bytes of all extended headers of an entry; more is an attack on memory

FILE, HARDLINK, SYMLINK, CHARACTER, BLOCK_DEVICE, DIRECTORY, FIFO = (bytes([b]) for b in b"0123456")
PAX, PAX_GLOBAL, GNU_NAME, GNU_LINK, GNU_SPARSE = (bytes([b]) for b in b"xgLKS")
WHITEOUT: Final = b".wh."
OPAQUE: Final = b".wh..wh..opq"

_XATTR = b"SCHILY.xattr."
_USTAR_MAGIC = b"ustar\x00"
_MAX_PATH = 4096


class TarError(ValueError):
    """The bytes are no acceptable tar; the text says why, without naming the archive."""


class Sparse(NamedTuple):
    """`size`: the file's, with its holes. `pieces`: (offset, length) of what the payload holds, in order."""

    size: int
    pieces: list[tuple[int, int]]


class Entry:
    """One member. `kind` is the type flag (regular files: always b"0"); `size` counts payload bytes in the stream."""

    __slots__ = ("gid", "kind", "link", "major", "minor", "mode", "mtime_ns", "name", "size", "sparse", "uid", "xattrs")

    def __init__(
        self,
        name: bytes,
        kind: bytes = FILE,
        mode: int = 0o644,
        uid: int = 0,
        gid: int = 0,
        size: int = 0,
        mtime_ns: int = 0,
        link: bytes = b"",
        major: int = 0,
        minor: int = 0,
        xattrs: dict[bytes, bytes] | None = None,
    ) -> None:
        self.name = name
        self.kind = kind
        self.mode = mode
        self.uid = uid
        self.gid = gid
        self.size = size
        self.mtime_ns = mtime_ns
        self.link = link
        self.major = major
        self.minor = minor
        self.xattrs = xattrs
        self.sparse: Sparse | None = None  # a file with holes: where the pieces go that the payload consists of

    @property
    def base(self) -> bytes:
        """The last component of the name."""
        return self.name.rstrip(b"/").rpartition(b"/")[2]

    @property
    def is_tree_file(self) -> bool:
        """Whether the payload becomes a file of the same size in the tree (and need not be kept elsewhere)."""
        return self.kind == FILE and self.sparse is None and not self.base.startswith(WHITEOUT)

    def __repr__(self) -> str:
        return f"Entry({self.name!r}, kind={self.kind!r}, size={self.size})"


# --- reading ---------------------------------------------------------------------------------------------------------


def parse_header(block: bytes) -> Entry:
    """A header block that is not all zero. TarError for a wrong checksum or a field that is no number."""
    if not _checksum_holds(block):
        raise TarError("not a tar header (its checksum is wrong)")
    name = _text(block[0:100])
    if block[257:263] == _USTAR_MAGIC and block[345]:
        name = _text(block[345:500]) + b"/" + name
    kind = block[156:157]
    if kind == b"\0":
        kind = DIRECTORY if name.endswith(b"/") else FILE
    elif kind == b"7":  # "contiguous": a plain file to everyone today
        kind = FILE
    entry = Entry(
        name,
        kind,
        _number(block[100:108], "mode") & 0o7777,
        _number(block[108:116], "uid"),
        _number(block[116:124], "gid"),
        _number(block[124:136], "size"),
        _number(block[136:148], "mtime", signed=True) * 1_000_000_000,
    )
    if kind in (HARDLINK, SYMLINK):
        entry.link = _text(block[157:257])
    elif kind in (CHARACTER, BLOCK_DEVICE):
        entry.major = _number(block[329:337], "devmajor")
        entry.minor = _number(block[337:345], "devminor")
    if kind in (HARDLINK, SYMLINK, CHARACTER, BLOCK_DEVICE, DIRECTORY, FIFO):
        entry.size = 0  # these have a header only, whatever the field says
    return entry


def parse_pax(data: bytes) -> dict[bytes, bytes]:
    """The records `LENGTH KEY=VALUE\\n` of an extended header. TarError if they are not.

    Of the sparse format 0.0, whose records come again and again, one is made: GNU.sparse.map, as 0.1 has it.
    """
    records: dict[bytes, bytes] = {}
    sparse: list[bytes] = []
    position = 0
    while position < len(data):
        space = data.find(b" ", position, position + 21)
        digits = data[position:space]
        if space < 0 or not digits.isdigit():
            raise TarError("malformed PAX record")
        end = position + int(digits)
        if end > len(data) or end <= space + 1 or data[end - 1 : end] != b"\n":
            raise TarError("malformed PAX record")
        key, equals, value = data[space + 1 : end - 1].partition(b"=")
        if not equals or not key:
            raise TarError("malformed PAX record")
        if key in (b"GNU.sparse.offset", b"GNU.sparse.numbytes"):
            sparse.append(value)
        else:
            records[key] = value
        position = end
    if sparse:
        records[b"GNU.sparse.map"] = b",".join(sparse)
    return records


def apply_pax(entry: Entry, records: dict[bytes, bytes]) -> None:
    """Let an extended header's records override the header's fields; an empty value takes the record back."""
    for key, value in records.items():
        if key.startswith(_XATTR):
            entry.xattrs = entry.xattrs or {}
            entry.xattrs[_without_nul(key[len(_XATTR) :])] = value
        elif not value:
            continue
        elif key in (b"path", b"GNU.sparse.name"):
            entry.name = _without_nul(value)
            if entry.kind == FILE and entry.name.endswith(b"/"):
                entry.kind, entry.size = DIRECTORY, 0
        elif key == b"linkpath":
            entry.link = _without_nul(value)
        elif key == b"size":
            if entry.kind not in (HARDLINK, SYMLINK, CHARACTER, BLOCK_DEVICE, DIRECTORY, FIFO):
                entry.size = _decimal(value, "size")
        elif key == b"uid":
            entry.uid = _decimal(value, "uid")
        elif key == b"gid":
            entry.gid = _decimal(value, "gid")
        elif key == b"mtime":
            entry.mtime_ns = _pax_time(value)


def check(entry: Entry) -> Entry:
    """Bounds that hold whatever the source of a field was. TarError naming the field."""
    if not entry.name:
        raise TarError("an entry has no name")
    if len(entry.name) > _MAX_PATH or len(entry.link) > _MAX_PATH:
        raise TarError(f"a name has more than {_MAX_PATH} bytes")
    if entry.uid >= 0xFFFFFFFF or entry.gid >= 0xFFFFFFFF:
        raise TarError("owner out of range")
    if entry.major >= 1 << 12 or entry.minor >= 1 << 20:  # what Linux has
        raise TarError("device number out of range")
    if not -(1 << 62) < entry.mtime_ns < 1 << 62:
        entry.mtime_ns = 0
    return entry


def _checksum_holds(block: bytes) -> bool:
    """The sum of all bytes, those of the checksum itself taken as blanks.

    Half of Adler-32 is one more than the sum of the bytes modulo 65521, at the speed of C; the slow signed sum, which
    old tars used, is tried after it.
    """
    try:
        expected = _number(block[148:156], "checksum")
    except TarError:
        return False
    running = zlib.adler32(block[156:], zlib.adler32(b"        ", zlib.adler32(block[:148])))
    if running & 0xFFFF == (expected + 1) % 65521:
        return True
    rest = block[:148] + block[156:]
    return expected == sum(byte - 256 if byte > 127 else byte for byte in rest) + 256


def _text(field: bytes) -> bytes:
    return field.partition(b"\0")[0]


def _without_nul(value: bytes) -> bytes:
    if b"\0" in value:
        raise TarError("a name contains NUL")
    return value


@lru_cache(4096)  # modes, owners and even times are the same in thousands of headers
def _number(field: bytes, what: str, signed: bool = False) -> int:
    """Octal digits, or GNU's base-256 with the top bit set. Negative only where `signed`."""
    if field[0] & 0x80:
        value = int.from_bytes(bytes([field[0] & 0x7F]) + field[1:], "big")
        if field[0] & 0x40:
            value -= 1 << (8 * len(field) - 1)
        if value < 0 and not signed:
            raise TarError(f"negative {what}")
        if value >= 1 << 63:
            raise TarError(f"{what} out of range")
        return value
    digits = field.partition(b"\0")[0].strip(b" ")
    if not digits:
        return 0
    if digits.startswith(b"-"):
        raise TarError(f"negative {what}")
    if not digits.isdigit():
        raise TarError(f"{what} is not a number")
    try:
        return int(digits, 8)
    except ValueError:
        raise TarError(f"{what} is not a number") from None


def _decimal(value: bytes, what: str) -> int:
    if value.startswith(b"-"):
        raise TarError(f"negative {what}")
    if not value.isdigit() or len(value) > 19 or int(value) >= 1 << 63:
        raise TarError(f"{what} out of range")
    return int(value)


def _pax_time(value: bytes) -> int:
    """`seconds[.fraction]`, maybe negative, to ns."""
    negative = value.startswith(b"-")
    seconds, _, fraction = value.removeprefix(b"-").partition(b".")
    if not seconds.isdigit() or len(seconds) > 19 or (fraction and not fraction.isdigit()):
        raise TarError("mtime is not a time")
    total = int(seconds) * 1_000_000_000 + int(fraction[:9].ljust(9, b"0") or b"0")
    return -total if negative else total


# --- making ----------------------------------------------------------------------------------------------------------


def make_header(entry: Entry) -> bytes:
    """The block(s) before an entry's payload: a ustar header, after a PAX header where a field does not fit.

    Deterministic: the same entry gives the same bytes. mtime is written in whole seconds.
    """
    records: dict[bytes, bytes] = {_XATTR + key: value for key, value in (entry.xattrs or {}).items()}
    name, prefix = _split_name(entry.name)
    if name is None:
        records[b"path"] = entry.name
        name, prefix = entry.name[:100], b""
    link = entry.link
    if len(link) > 100 or not link.isascii():
        records[b"linkpath"] = link
        link = link[:100]
    seconds = entry.mtime_ns // 1_000_000_000
    numbers = {b"uid": (entry.uid, 8), b"gid": (entry.gid, 8), b"size": (entry.size, 12), b"mtime": (seconds, 12)}
    fields: dict[bytes, bytes] = {}
    for key, (value, width) in numbers.items():
        if 0 <= value < 8 ** (width - 1):
            fields[key] = _octal(value, width)
        else:
            records[key] = str(value).encode()
            fields[key] = _octal(0, width)
    header = _header(name, prefix, entry.kind, entry.mode, fields, link, entry.major, entry.minor)
    return make_pax(entry.name, records) + header if records else header


def make_pax(name: bytes, records: dict[bytes, bytes]) -> bytes:
    """An extended header block with its records, padded."""
    data = b"".join(_record(key, records[key]) for key in sorted(records))
    base = name.rstrip(b"/").rpartition(b"/")[2]
    fields = {b"uid": _octal(0, 8), b"gid": _octal(0, 8), b"size": _octal(len(data), 12), b"mtime": _octal(0, 12)}
    shown = (b"PaxHeaders.0/" + base)[:100]
    return _header(shown, b"", PAX, 0o644, fields, b"", 0, 0) + data + padding(len(data))


def padding(size: int) -> bytes:
    """The zeros between a payload of `size` bytes and the next block."""
    return bytes(-size % BLOCK)


def _header(
    name: bytes, prefix: bytes, kind: bytes, mode: int, fields: dict[bytes, bytes], link: bytes, major: int, minor: int
) -> bytes:
    block = b"".join((
        name.ljust(100, b"\0"), _octal(mode, 8), fields[b"uid"], fields[b"gid"], fields[b"size"], fields[b"mtime"],
        b"        ", kind, link.ljust(100, b"\0"), b"ustar\x0000", bytes(64), _octal(major, 8), _octal(minor, 8),
        prefix.ljust(155, b"\0"), bytes(12),
    ))  # fmt: skip
    return block[:148] + b"%06o\0 " % sum(block) + block[156:]


def _octal(value: int, width: int) -> bytes:
    return b"%0*o\0" % (width - 1, value)


def _split_name(name: bytes) -> tuple[bytes | None, bytes]:
    """(name, prefix) of ustar, or (None, b"") if the name needs a PAX record."""
    if not name.isascii():
        return None, b""
    if len(name) <= 100:
        return name, b""
    slash = name.rfind(b"/", 0, 156)
    if slash <= 0 or len(name) - slash - 1 > 100 or len(name) - slash - 1 == 0:
        return None, b""
    return name[slash + 1 :], name[:slash]


def _record(key: bytes, value: bytes) -> bytes:
    length = len(key) + len(value) + 3
    total = length + len(str(length))
    if len(str(total)) != len(str(length)):
        total = length + len(str(total))
    return b"%d %s=%s\n" % (total, key, value)
