"""A build cache that arrives in a directory of the user's: whole and verified, or not at all."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dockyard.edge.cli.building import cachedirectory
from dockyard.edge.cli.errors import CliError

OURS = "application/vnd.dockyard.build.cache.v1+json"
REF = "org.opencontainers.image.ref.name"


def digest(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


def cache(*layers: bytes, tag: str = "latest", media_type: str = OURS) -> dict[str, bytes]:
    """The members of a cache's tar."""
    config = json.dumps({"steps": [digest(each) for each in layers]}).encode()
    described = [{"digest": digest(each)} for each in layers]
    manifest = json.dumps({"config": {"mediaType": media_type, "digest": digest(config)}, "layers": described}).encode()
    index = {"schemaVersion": 2, "manifests": [{"digest": digest(manifest), "annotations": {REF: tag}}]}
    blobs = {f"blobs/sha256/{digest(each)[7:]}": each for each in (*layers, config, manifest)}
    return {"oci-layout": b"{}", **blobs, "index.json": json.dumps(index).encode()}


def tar(members: dict[str, bytes], link: str = "") -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for name, data in members.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
        if link:
            entry = tarfile.TarInfo(link)
            entry.type, entry.linkname = tarfile.SYMTYPE, "/etc"
            archive.addfile(entry)
    return out.getvalue()


def pieces(data: bytes) -> Iterator[bytes]:
    for at in range(0, len(data), 1000):
        yield data[at : at + 1000]


def write(target: Path, members: dict[str, bytes], **more: Any) -> None:
    cachedirectory._write(pieces(tar(members, **more)), str(target))


def blobs(target: Path) -> set[str]:
    return {path.name for path in (target / "blobs/sha256").iterdir()}


def named(members: dict[str, bytes]) -> set[str]:
    return {name[13:] for name in members if name.startswith("blobs/")}


def test_tags_stay_and_what_nothing_needs_goes(tmp_path: Path) -> None:
    first, second, other = cache(b"base", b"one"), cache(b"base", b"two"), cache(b"one", tag="other")
    write(tmp_path, first)
    (tmp_path / "blobs/sha256/mine").write_text("somebody else's")
    write(tmp_path, other)
    write(tmp_path, second)
    assert blobs(tmp_path) == named(second) | named(other) | {"mine"}  # "one" is the other tag's
    write(tmp_path, cache(b"new", tag="other"))
    assert blobs(tmp_path) == named(second) | named(cache(b"new", tag="other")) | {"mine"}
    assert len(json.loads((tmp_path / "index.json").read_text())["manifests"]) == 2


def test_what_a_killed_client_left_is_swept(tmp_path: Path) -> None:
    write(tmp_path, cache(b"one"))
    left, going_on = (tmp_path / "blobs/sha256" / f"{'0' * 64}.dockyard-{pid}" for pid in (1 << 30, 1))
    left.touch()
    going_on.touch()
    write(tmp_path, cache(b"one"))
    assert not left.exists() and going_on.exists()


def test_beside_something_else_nothing_is_removed(tmp_path: Path) -> None:
    buildkit = cache(b"base", tag="theirs", media_type="application/vnd.buildkit.cacheconfig.v0")
    write(tmp_path, buildkit)
    write(tmp_path, cache(b"one"))
    write(tmp_path, cache(b"two"))
    assert blobs(tmp_path) == named(buildkit) | named(cache(b"one")) | named(cache(b"two"))


@pytest.mark.parametrize("cut", [100, 700, 3000, -2000])
def test_what_does_not_arrive_whole_changes_nothing(tmp_path: Path, cut: int) -> None:
    write(tmp_path, cache(b"one"))
    before = (tmp_path / "index.json").read_bytes()
    with pytest.raises(CliError, match="did not arrive"):
        data = tar(cache(b"two" * 500)).rstrip(b"\0")
        cachedirectory._write(pieces(data[:cut]), str(tmp_path))
    assert (tmp_path / "index.json").read_bytes() == before
    assert named(cache(b"one")) <= blobs(tmp_path) and not [name for name in blobs(tmp_path) if len(name) != 64]


def test_s43_nothing_of_it_lies_elsewhere(tmp_path: Path) -> None:
    target = tmp_path / "cache"
    hostile = {"../x": b"x", "/x": b"x", "blobs/sha256/../../../x": b"x", "blobs/sha512/x": b"x", "other": b"x"}
    write(target, hostile | cache(b"one"), link="blobs/sha256/" + "0" * 64)
    assert sorted(path.name for path in tmp_path.rglob("*") if path.is_file()) == sorted(
        named(cache(b"one")) | {"oci-layout", "index.json"}
    )
    damaged = cache(b"one")
    damaged["blobs/sha256/" + "0" * 64] = b"not that"
    with pytest.raises(CliError, match="damaged: blobs/sha256/000"):
        write(target, damaged)
    assert blobs(target) == named(cache(b"one"))


@pytest.mark.parametrize("text", ["", "[]", '{"manifests": {}}', '{"manifests": [1, {"digest": "sha256:../x"}]}'])
def test_an_index_that_is_none_is_replaced(tmp_path: Path, text: str) -> None:
    (tmp_path / "index.json").write_text(text)
    write(tmp_path, cache(b"one"))
    assert len(json.loads((tmp_path / "index.json").read_text())["manifests"]) == 1
