"""Unpacking: what tars become, what comes out again, and hostile ones (S28, S29, S30)."""

from __future__ import annotations

import gzip
import hashlib
import os
import shutil
import stat
import subprocess
import tarfile
import time
from pathlib import Path

import pytest
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dockyard.model.errors import InvalidArgument, SystemFailure
from dockyard.proto import tarformat as fmt
from tests.unit.store.tars import CHR, DIR, FIFO, HARD, SYM, Member, Unpacked, member, tar

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="makes device nodes")


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


FORMATS = {"ustar": tarfile.USTAR_FORMAT, "gnu": tarfile.GNU_FORMAT, "pax": tarfile.PAX_FORMAT}


@pytest.mark.parametrize("format", FORMATS.values(), ids=FORMATS.keys())
def test_every_kind_of_entry(tmp_path: Path, format: int) -> None:
    long = "long/" + "n" * 90 + "/" + "m" * 90
    data = tar(
        member("./", DIR, mode=0o751),
        member("bin/", DIR, mode=0o2755, mtime=1000),
        member("bin/tool", data=b"#!" * 5000, mode=0o4711, mtime=1234567890, uid=7, gid=8),
        member("bin/same", HARD, link="bin/tool"),
        member("bin/link", SYM, link="/bin/tool", mtime=99),
        member("pipe", FIFO),
        member(long, data=b"deep"),
        member("empty"),
        format=format,
    )
    got = Unpacked(tmp_path, data)
    tool = got.root / "bin/tool"
    assert tool.read_bytes() == b"#!" * 5000
    found = tool.lstat()
    assert (stat.S_IMODE(found.st_mode), found.st_mtime, found.st_nlink) == (0o4711, 1234567890, 2)
    if os.geteuid() == 0:
        assert (found.st_uid, found.st_gid) == (7, 8)
    assert os.readlink(got.root / "bin/link") == "/bin/tool"
    assert (got.root / "bin/link").lstat().st_mtime == 99
    assert (got.root / "bin").stat().st_mtime == 1000  # although things were made in it afterwards
    assert stat.S_IMODE((got.root / "bin").stat().st_mode) == 0o2755
    assert stat.S_ISFIFO((got.root / "pipe").lstat().st_mode)
    assert (got.root / long).read_bytes() == b"deep"
    assert got.result["root"] == (0o751, 0, 0)
    assert got.result["size"] == 10004
    assert got.result["digest"] == digest(data)
    assert got.rebuilt() == data


@pytest.mark.parametrize(
    "pack",
    [
        bytes,
        gzip.compress,
        lambda d: zstandard.compress(d, 1),
        lambda d: gzip.compress(d[:7000]) + gzip.compress(d[7000:]),
    ],
    ids=["plain", "gzip", "zstd", "gzip-members"],
)
def test_compression_is_found_out(tmp_path: Path, pack: object) -> None:
    data = tar(*(member(f"f{i}", data=os.urandom(3000)) for i in range(50)))
    got = Unpacked(tmp_path, pack(data))  # type: ignore[operator]
    assert got.result["digest"] == digest(data)
    assert got.rebuilt() == data


def test_mtime_fractions_and_attributes_of_pax(tmp_path: Path) -> None:
    info = member("f", data=b"x")
    info.pax_headers = {
        "mtime": "1700000000.123456789",
        "SCHILY.xattr.user.note": "hello",
        "SCHILY.xattr.trusted.overlay.redirect": "/etc",
        "SCHILY.xattr.user.overlay.opaque": "y",
    }
    got = Unpacked(tmp_path, tar(info))
    path = got.root / "f"
    assert path.stat().st_mtime_ns == 1700000000123456789
    names = os.listxattr(path)
    assert os.getxattr(path, "user.note") == b"hello" if "user.note" in names else True
    assert not [name for name in names if "overlay" in name]


def test_names_in_any_encoding(tmp_path: Path) -> None:
    raw = tar(member("AAAA", data=b"x"), format=tarfile.USTAR_FORMAT)
    block = bytearray(raw[:512])
    block[0:4] = b"\xff\xe9\x01 "
    block[148:156] = b"        "
    block[148:156] = b"%06o\0 " % sum(block)
    got = Unpacked(tmp_path, bytes(block) + raw[512:])
    assert os.listdir(os.fsencode(got.root)) == [b"\xff\xe9\x01 "]


def test_old_signed_checksums(tmp_path: Path) -> None:
    raw = bytearray(tar(member("AAAA", data=b"x"), format=tarfile.USTAR_FORMAT))
    raw[0:2] = b"\xff\xfe"
    raw[148:156] = b"        "
    signed = sum(b - 256 if b > 127 else b for b in raw[:512])
    raw[148:156] = b"%06o\0 " % signed
    assert Unpacked(tmp_path, bytes(raw)).result["entries"] == 1


# --- entries that replace others --------------------------------------------------------------------------------------


def test_the_last_of_equal_names_wins_and_the_tar_is_still_rebuilt(tmp_path: Path) -> None:
    data = tar(
        member("a", data=b"first"),
        member("a", data=b"second!"),
        member("d/", DIR),
        member("d/x", data=b"under a directory"),
        member("d", SYM, link="e"),
        member("d", data=b"now a file"),
        member("a", SYM, link="d"),
        member("a", data=b"third"),
    )
    got = Unpacked(tmp_path, data)
    assert (got.root / "a").read_bytes() == b"third"
    assert not (got.root / "a").is_symlink()
    assert (got.root / "d").read_bytes() == b"now a file"
    assert got.rebuilt() == data


def test_a_directory_stays_with_its_content(tmp_path: Path) -> None:
    data = tar(member("d/", DIR), member("d/x", data=b"1"), member("d/", DIR, mode=0o700))
    got = Unpacked(tmp_path, data)
    assert (got.root / "d/x").read_bytes() == b"1"
    assert stat.S_IMODE((got.root / "d").stat().st_mode) == 0o700


def test_a_symlink_in_the_way_of_a_directory_gives_way(tmp_path: Path) -> None:
    got = Unpacked(tmp_path, tar(member("real/", DIR), member("l", SYM, link="real"), member("l/", DIR)))
    assert not (got.root / "l").is_symlink()


def test_links_between_directories_are_followed_inside(tmp_path: Path) -> None:
    data = tar(
        member("usr/lib/", DIR),
        member("lib", SYM, link="usr/lib"),
        member("abs", SYM, link="/usr/lib"),
        member("lib/one", data=b"1"),
        member("abs/two", data=b"2"),
        member("lib", data=b"replaced afterwards"),
    )
    got = Unpacked(tmp_path, data)
    assert sorted(os.listdir(got.root / "usr/lib")) == ["one", "two"]
    assert got.rebuilt() == data


# --- S28: nothing outside the root ------------------------------------------------------------------------------------

HOSTILE = {
    "dot-dot": [member("../escape", data=b"x")],
    "dot-dot-inside": [member("a/../../escape", data=b"x")],
    "absolute": [member("/VICTIM/escape", data=b"x")],
    "symlink-parent": [member("l", SYM, link="/VICTIM"), member("l/escape", data=b"x")],
    "symlink-parent-relative": [member("l", SYM, link="../victim"), member("l/escape", data=b"x")],
    "symlink-chain": [member("a", SYM, link="."), member("b", SYM, link="a/.."), member("b/victim/escape", data=b"x")],
    "symlink-file": [member("s", SYM, link="/VICTIM/secret"), member("s", data=b"x")],
    "hardlink-outside": [member("h", HARD, link="../victim/secret")],
    "hardlink-absolute": [member("h", HARD, link="/VICTIM/secret")],
    "hardlink-through-symlink": [
        member("l", SYM, link="/VICTIM"), member("h", HARD, link="l/secret"), member("h", data=b"x")
    ],
    "hardlink-to-symlink": [
        member("l", SYM, link="/VICTIM/secret"), member("h", HARD, link="l"), member("h", data=b"x")
    ],
    "whiteout-through-symlink": [member("l", SYM, link="/VICTIM"), member("l/.wh.secret")],
    "whiteout-up": [member("d/.wh..."), member("../victim/.wh.secret")],
    "whiteout-of-parent": [member("d/.wh...")],
    "opaque-through-symlink": [member("l", SYM, link="/VICTIM"), member("l/.wh..wh..opq")],
    "directory-through-symlink": [member("l", SYM, link="/VICTIM"), member("l/made/", DIR)],
    "fifo-through-symlink": [member("l", SYM, link="/VICTIM"), member("l/fifo", FIFO)],
    "proc-magic": [member("l", SYM, link="/proc/self/root/VICTIM"), member("l/escape", data=b"x")],
    "chmod-root": [member("../victim/", DIR, mode=0o777)],
    "nul-name": [member("a", data=b"x", pax_headers={"path": "a\0/../../victim/escape"})],
}  # fmt: skip


def aimed(members: list[Member], victim: Path) -> bytes:
    copies = []
    for info in members:
        copy = member(info.name.replace("/VICTIM", str(victim)), info.type, info.data, mode=info.mode)
        copy.linkname = info.linkname.replace("/VICTIM", str(victim))
        copy.pax_headers = info.pax_headers
        copies.append(copy)
    return tar(*copies)


@pytest.mark.parametrize("overlay", [True, False], ids=["overlay", "vfs"])
@pytest.mark.parametrize("kind", sorted(HOSTILE))
def test_s28_s29_nothing_is_touched_outside_the_root(tmp_path: Path, kind: str, overlay: bool) -> None:
    victim = tmp_path / "victim"
    victim.mkdir()
    (victim / "secret").write_text("unchanged")
    before = victim.stat()
    try:
        Unpacked(tmp_path, aimed(HOSTILE[kind], victim), overlay=overlay)
    except InvalidArgument as error:
        assert str(error).startswith("layer X: ")
    assert sorted(os.listdir(tmp_path)) == ["archive", "recipe", "root", "victim"]
    assert os.listdir(victim) == ["secret"]
    assert (victim / "secret").read_text() == "unchanged"
    after = (victim / "secret").stat()
    assert after.st_nlink == 1
    assert (victim.stat().st_mode, victim.stat().st_mtime_ns) == (before.st_mode, before.st_mtime_ns)


@needs_root
def test_s28_device_nodes_are_nodes_and_not_opened(tmp_path: Path) -> None:
    got = Unpacked(
        tmp_path, tar(member("null", CHR, devmajor=1, devminor=3), member("n/zero", CHR, devmajor=1, devminor=5))
    )
    found = (got.root / "null").lstat()
    assert stat.S_ISCHR(found.st_mode) and found.st_rdev == os.makedev(1, 3)


@needs_root
def test_whiteouts_become_overlays_marks(tmp_path: Path) -> None:
    data = tar(
        member("d/", DIR), member("d/.wh.gone"), member("e/.wh..wh..opq"), member("f/.wh..wh.plnk"), member("d/x")
    )
    got = Unpacked(tmp_path, data)
    gone = (got.root / "d/gone").lstat()
    assert stat.S_ISCHR(gone.st_mode) and gone.st_rdev == 0
    assert os.getxattr(got.root / "e", "trusted.overlay.opaque") == b"y"
    assert os.listdir(got.root) and not (got.root / "f").exists()
    assert got.rebuilt() == data


def test_whiteouts_delete_without_overlay(tmp_path: Path) -> None:
    root = tmp_path / "x" / "root"
    data = tar(member("d/.wh.gone"), member("e/new", data=b"n"), member("e/.wh..wh..opq"))

    def below() -> None:
        for name in ("d", "e"):
            (root / name).mkdir(parents=True)
        for name in ("d/gone", "d/stays", "e/old"):
            (root / name).write_text("lower")

    below()
    recipe = tmp_path / "x" / "recipe"
    recipe.mkdir()
    (tmp_path / "t").write_bytes(data)
    from dockyard.store.unpack import apply

    with open(tmp_path / "t", "rb") as file:
        apply(fds=[file.fileno()], root=str(root), recipe=str(recipe), what="layer X", overlay=False)
    assert os.listdir(root / "d") == ["stays"]
    assert os.listdir(root / "e") == ["new"]


# --- S30: broken archives end in an error that names archive and cause ------------------------------------------------

WHOLE = tar(member("a", data=b"x" * 3000), member("b", data=b"y" * 3000))


def patched(offset: int, field: bytes) -> bytes:
    raw = bytearray(WHOLE)
    raw[offset : offset + len(field)] = field
    raw[148:156] = b"        "
    raw[148:156] = b"%06o\0 " % sum(raw[:512])
    return bytes(raw)


BROKEN = {
    "empty": (b"", "truncated"),
    "cut-in-header": (WHOLE[:300], "truncated"),
    "cut-in-payload": (WHOLE[:2000], "truncated"),
    "cut-at-an-entry": (WHOLE[: 512 + 3072], "truncated"),
    "text": (b"this is no archive" * 100, "checksum"),
    "negative-size": (patched(124, b"-0000000001\0"), "negative size"),
    "negative-binary-size": (patched(124, b"\xff" * 12), "negative size"),
    "huge-size": (patched(124, b"\x80\0\0\0\x7f" + b"\xff" * 7), "truncated"),
    "beyond-63-bits": (patched(124, b"\x80\0\0\0\xff" + b"\xff" * 7), "out of range"),
    "size-no-number": (patched(124, b"12x45678901\0"), "not a number"),
    "underscores": (patched(124, b"1_0\0"), "not a number"),
    "checksum": (b"b" + WHOLE[1:], "checksum"),
    "unknown-type": (patched(156, b"Z"), "type"),
    "sparse": (patched(156, b"S"), "sparse"),
    "lone-zero-block": (WHOLE[:3584] + bytes(512) + WHOLE[3584:], "lone zero block"),
    "gzip-cut": (gzip.compress(tar(member("a", data=os.urandom(9000))))[:8000], "truncated"),
    "gzip-damaged": (gzip.compress(WHOLE)[:-8] + b"\0\0\0\0\0\0\0\0", "gzip"),
    "gzip-and-garbage": (gzip.compress(WHOLE) + b"garbage", "gzip"),
    "zstd-cut": (zstandard.compress(tar(member("a", data=os.urandom(9000))))[:8000], "zstd data is truncated"),
    "zstd-cut-in-checksum": (
        zstandard.ZstdCompressor(write_checksum=True).compress(WHOLE)[:-1],
        "zstd data is truncated",
    ),
    "zstd-damaged": (zstandard.compress(WHOLE)[:9] + b"\xff" * 50, "zstd"),
    "no-name": (patched(0, bytes(100)), "no name"),
}


@pytest.mark.parametrize("kind", sorted(BROKEN))
def test_s30_broken_archives(tmp_path: Path, kind: str) -> None:
    data, cause = BROKEN[kind]
    with pytest.raises(InvalidArgument, match=cause) as caught:
        Unpacked(tmp_path, data)
    assert str(caught.value).startswith("layer X: ")


@pytest.mark.parametrize(
    "records",
    [
        b"99 path=a\n",
        b"5 a=b",
        b"x path=a\n",
        b"8 path=a\n",
        b"0 =\n",
        b"-5 a=b\n",
        b"11 size=-1\n",
        b"12 size=1e9\n",
    ],
)
def test_s30_malformed_pax_records(tmp_path: Path, records: bytes) -> None:
    header = fmt.make_header(fmt.Entry(b"pax", kind=fmt.PAX, size=len(records)))
    with pytest.raises(InvalidArgument, match=r"layer X: "):
        Unpacked(tmp_path, header + records + fmt.padding(len(records)) + WHOLE)


def test_s30_a_giant_extended_header_is_not_read(tmp_path: Path) -> None:
    header = fmt.make_header(fmt.Entry(b"pax", kind=fmt.PAX, size=1 << 40))
    with pytest.raises(InvalidArgument, match="extended header"):
        Unpacked(tmp_path, header + bytes(4096))


def extended(count: int, size: int) -> bytes:
    """`count` extended headers in front of one entry, each with a record of `size` bytes under a name of its own."""
    records = [fmt._record(b"k%d" % number, bytes(size)) for number in range(count)]
    heads = [fmt.make_header(fmt.Entry(b"pax", kind=fmt.PAX, size=len(record))) for record in records]
    return b"".join(head + record + fmt.padding(len(record)) for head, record in zip(heads, records, strict=True))


def test_s30_extended_headers_without_end_are_not_kept(tmp_path: Path) -> None:
    """Each is small enough, together they would fill the memory."""
    with pytest.raises(InvalidArgument, match="extended headers of"):
        Unpacked(tmp_path, extended(20, 100_000) + WHOLE)


def test_s30_a_map_of_a_million_records_is_read_in_linear_time() -> None:
    records = b"".join(
        fmt._record(b"GNU.sparse.offset", b"1") + fmt._record(b"GNU.sparse.numbytes", b"0") for _ in range(20_000)
    )
    began = time.process_time()
    assert fmt.parse_pax(records)[b"GNU.sparse.map"].startswith(b"1,0,1,0")
    assert time.process_time() - began < 1


@pytest.mark.parametrize(
    ("members", "cause"),
    [
        ([member("d", CHR, devmajor=1 << 20, devminor=1 << 20)], "device number"),
        ([member("d", DIR), member("e", HARD, link="d")], "is a directory"),
        ([member("d", pax_headers={"SCHILY.xattr.user.a\0b": "x"})], "NUL"),
        ([member("d", pax_headers={"SCHILY.xattr.user." + "a" * 300: "x"})], "out of range"),
    ],
    ids=["device", "link", "attribute", "long attribute"],
)
def test_s30_what_the_system_refuses_is_the_archives_fault(tmp_path: Path, members: list[Member], cause: str) -> None:
    data = tar(*members) if members[0].type != CHR else tar(*members, format=tarfile.GNU_FORMAT)
    with pytest.raises(InvalidArgument, match=cause):
        Unpacked(tmp_path, data)


@pytest.mark.parametrize("pack", [gzip.compress, lambda d: zstandard.compress(d, 3)], ids=["gzip", "zstd"])
def test_s30_a_bomb_ends_at_the_limit(tmp_path: Path, pack: object) -> None:
    bomb = pack(tar(member("zeros", data=bytes(64 << 20))))  # type: ignore[operator]
    assert len(bomb) < 100_000
    with pytest.raises(SystemFailure, match="more than 1048576 bytes"):
        Unpacked(tmp_path, bomb, limit=1 << 20)
    written = sum(path.stat().st_size for path in (tmp_path / "root").rglob("*"))
    assert written <= 1 << 20


def test_s30_a_path_deeper_than_the_system_takes(tmp_path: Path) -> None:
    with pytest.raises(InvalidArgument, match="4096"):
        Unpacked(tmp_path, tar(member("d/" * 3000 + "f")))


def test_an_archive_without_its_end_marker_is_taken_where_the_digest_is_known(tmp_path: Path) -> None:
    data = WHOLE[: 2 * (512 + 3072)]
    assert Unpacked(tmp_path, data, need_end=False).result["digest"] == digest(data)


def test_a_failing_consumer_does_not_wait_for_a_stalled_client(tmp_path: Path) -> None:
    from dockyard.store.unpack import apply

    reading, writing = os.pipe()
    os.write(writing, b"garbage" * 100)  # and then nothing, the pipe stays open
    (tmp_path / "root").mkdir()
    (tmp_path / "recipe").mkdir()
    with pytest.raises(InvalidArgument):
        apply(fds=[reading], root=str(tmp_path / "root"), recipe=str(tmp_path / "recipe"), what="layer X")
    os.close(reading)
    os.close(writing)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_any_damage_ends_in_a_clear_error_or_a_faithful_tree(tmp_path: Path, data: st.DataObject) -> None:
    """Bytes flipped anywhere: either refused, or the very same stream can be rebuilt from what was made of it."""
    raw = bytearray(
        tar(member("d/", DIR), member("d/a", data=b"x" * 700), member("l", SYM, link="d"), member("l/b", data=b"2"))
    )
    for _ in range(data.draw(st.integers(1, 4))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    for start in range(0, 4096, 512):  # let damaged headers pass for whole ones
        if raw[start + 257 : start + 262] == b"ustar":
            raw[start + 148 : start + 156] = b"        "
            raw[start + 148 : start + 156] = b"%06o\0 " % sum(raw[start : start + 512])
    place = tmp_path / "case"
    try:
        got = Unpacked(place, bytes(raw))
        assert got.result["digest"] == digest(bytes(raw))
        assert got.rebuilt() == bytes(raw)
    except InvalidArgument as error:
        assert str(error).startswith("layer X: ")
    finally:
        shutil.rmtree(place, ignore_errors=True)


# --- archives that others wrote ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "command",
    [
        ["tar", "--format=gnu", "-cf", "-"],
        ["tar", "--format=pax", "--xattrs", "-cf", "-"],
        ["tar", "--format=ustar", "-cf", "-"],
        ["tar", "--format=v7", "-cf", "-"],
        ["bsdtar", "-cf", "-"],
        ["busybox", "tar", "-cf", "-"],
        ["sh", "-c", "find . | cpio -o -H ustar 2>/dev/null", "--"],
    ],
    ids=["gnu", "pax", "ustar", "v7", "bsdtar", "busybox", "cpio"],
)
def test_archives_of_other_programs(tmp_path: Path, command: list[str]) -> None:
    if not shutil.which(command[0]) or (command[0] == "sh" and not shutil.which("cpio")):
        pytest.skip(f"{command[0]} is not installed")
    source = tmp_path / "source"
    (source / "sub").mkdir(parents=True)
    (source / "sub" / "file").write_bytes(os.urandom(5000))
    (source / "sub" / "exec").write_bytes(b"x")
    (source / "sub" / "exec").chmod(0o755)
    (source / "link").symlink_to("sub/file")
    os.link(source / "sub" / "file", source / "hard")
    done = subprocess.run(
        [*command, "."] if command[0] != "sh" else command, cwd=source, capture_output=True, check=True
    )
    got = Unpacked(tmp_path / "got", done.stdout)
    assert (got.root / "hard").read_bytes() == (source / "hard").read_bytes()
    assert (got.root / "hard").stat().st_nlink == 2
    assert os.readlink(got.root / "link") == "sub/file"
    assert (got.root / "sub/exec").stat().st_mode == (source / "sub/exec").stat().st_mode
    assert int((got.root / "sub").stat().st_mtime) == int((source / "sub").stat().st_mtime)
    assert got.rebuilt() == done.stdout
