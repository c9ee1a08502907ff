"""Files with holes in layers: every format that GNU tar writes, rebuilt byte for byte, and maps that lie."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from dockyard.model.errors import InvalidArgument
from dockyard.proto.tarread import ByteStream, TarError, TarReader
from tests.unit.store.tars import Unpacked, member, tar

FORMATS = {
    "old": ["--format=gnu"],
    **{form: ["--format=pax", f"--sparse-version={form}"] for form in ("0.0", "0.1", "1.0")},
}


def written(place: Path, options: list[str]) -> tuple[bytes, dict[str, bytes]]:
    """(what tar --sparse makes of some files, the files): one has more pieces than a header holds."""
    source = place / "source"
    source.mkdir()
    with open(source / "few", "wb") as file:
        file.write(b"begin")
        file.seek(3 << 20)
        file.write(b"middle" * 1000)
        file.truncate(5 << 20)
    with open(source / "many", "wb") as file:
        for piece in range(60):
            file.seek(piece * 16384)
            file.write(b"%d" % piece * 999)
    with open(source / "hole", "wb") as file:
        file.truncate(1 << 20)
    (source / "small").write_bytes(b"small")
    names = sorted(os.listdir(source))
    command = ["tar", "--sparse", *options, "-C", str(source), "-cf", "-", *names]
    data = subprocess.run(command, check=True, capture_output=True).stdout
    return data, {name: (source / name).read_bytes() for name in names}


@pytest.mark.parametrize("form", FORMATS)
def test_files_with_holes_come_and_go(tmp_path: Path, form: str) -> None:
    data, files = written(tmp_path, FORMATS[form])
    assert len(data) < 3 << 20, "tar found no holes"
    layer = Unpacked(tmp_path / "x", data)
    assert {path.name: path.read_bytes() for path in layer.root.iterdir()} == files
    assert (layer.root / "few").stat().st_blocks * 512 < 1 << 20
    assert layer.rebuilt() == data
    assert layer.result["size"] == sum(map(len, files.values()))
    with pytest.raises(TarError, match="sparse files are not supported"):  # where nobody asks for them
        reader = TarReader(ByteStream(iter([data])))
        while reader.next():
            pass


def pax(records: dict[str, str], payload: bytes = b"") -> bytes:
    return tar(member("f", data=payload, pax_headers=records))


ONE = {"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.name": "f"}
LIES = {
    "overlap": pax({"GNU.sparse.map": "0,4,2,4", "GNU.sparse.size": "9"}, b"12345678"),
    "backwards": pax({"GNU.sparse.map": "4,4,0,4", "GNU.sparse.size": "9"}, b"12345678"),
    "beyond": pax({"GNU.sparse.map": "0,8", "GNU.sparse.size": "7"}, b"12345678"),
    "more-than-there-is": pax({"GNU.sparse.map": "0,9", "GNU.sparse.size": "9"}, b"12345678"),
    "less-than-there-is": pax({"GNU.sparse.map": "0,4", "GNU.sparse.size": "9"}, b"12345678"),
    "odd": pax({"GNU.sparse.map": "0,4,9", "GNU.sparse.size": "9"}, b"1234"),
    "letters": pax({"GNU.sparse.map": "0,x", "GNU.sparse.size": "9"}, b"1234"),
    "no-size": pax({"GNU.sparse.map": "0,4"}, b"1234"),
    "unknown-version": pax({"GNU.sparse.major": "2", "GNU.sparse.minor": "0"}, b"1234"),
    "no-map": pax({**ONE, "GNU.sparse.realsize": "9"}, b"abc"),
    "map-of-letters": pax({**ONE, "GNU.sparse.realsize": "9"}, b"x" * 600),
    "map-without-end": pax({**ONE, "GNU.sparse.realsize": "9"}, b"50\n" + b"1\n" * 254 + b"1"),
    "map-of-millions": pax({**ONE, "GNU.sparse.realsize": "9"}, b"99999999\n".ljust(512, b"\0")),
    "exabytes": pax({"GNU.sparse.map": "0,4", "GNU.sparse.size": str(1 << 60)}, b"1234"),
    "beyond-63-bits": pax({"GNU.sparse.map": "0,4", "GNU.sparse.size": str(1 << 63)}, b"1234"),
}


@pytest.mark.parametrize("kind", LIES)
def test_s30_maps_that_lie(tmp_path: Path, kind: str) -> None:
    with pytest.raises(InvalidArgument, match=r"layer X: .*(sparse|pieces)"):
        Unpacked(tmp_path, LIES[kind])
