"""Archives whose layers are unpacked while they arrive: what is taken, what is not read, what is dropped."""

from __future__ import annotations

import asyncio
import gzip
import hashlib
import json
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from dockyard.linux import mounts
from dockyard.model import oci
from dockyard.model.errors import SystemFailure
from dockyard.store import ahead
from tests.kernel.test_images import EMPTY, LAYERS, Store, archive, chunks, run, whole
from tests.support import busybox
from tests.support.platforms import Layout

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
BIG = busybox.layer_tar({"big": os.urandom(3_000_000)})


def packed(images: list[tuple[str, list[bytes]]], last: bool = True) -> bytes:
    """A docker-archive of images that may share layers; its manifest at the end, or first."""
    members: dict[str, bytes] = {}
    entries = []
    for name, layers in images:
        config = busybox.image_config(layers, {"Labels": {"name": name}})
        members[f"{busybox.sha256(config)}.json"] = config
        members |= {f"{busybox.sha256(layer)}.tar": layer for layer in layers}
        entries.append({
            "Config": f"{busybox.sha256(config)}.json", "RepoTags": [name],
            "Layers": [f"{busybox.sha256(layer)}.tar" for layer in layers],
        })  # fmt: skip
    manifest = {"manifest.json": json.dumps(entries).encode()}
    return busybox.archive({**members, **manifest} if last else {**manifest, **members})


@pytest.mark.parametrize("driver", ["overlay", "vfs"])
@pytest.mark.parametrize("last", [True, False], ids=["manifest-last", "manifest-first"])
def test_a_layer_may_lie_on_several_others(tmp_path: Path, driver: str, last: bool) -> None:
    """One member for three layers: twice in one image, once at the bottom of another."""
    one, two = LAYERS[0], busybox.layer_tar({"x": b"x" * 2000})

    async def work(store: Store) -> None:
        await store.images.load(chunks(packed([("a:1", [one, two, one]), ("b:1", [two])], last)))
        assert len(store.snapshots.chain(store.images.get("a:1").chain_id)) == 3
        saved = await whole(store.images.save(["a:1", "b:1"]))
        for name in ("a:1", "b:1"):
            await store.images.remove(name)
        store.layout.drain()
        assert store.left() == EMPTY
        assert len(await store.images.load(chunks(saved))) == 2

    run(tmp_path, work, driver)


def test_what_is_there_is_not_read_again(tmp_path: Path) -> None:
    bars: list[tuple[str, int, int]] = []

    async def work(store: Store) -> None:
        await store.images.load(chunks(packed([("a:1", [BIG])])), progress=lambda *bar: bars.append(bar))
        name = busybox.sha256(BIG)[:12]
        assert bars and {bar[0] for bar in bars} == {name} and bars[-1] == (name, len(BIG), len(BIG))
        bars.clear()
        # Upon another layer, and with bytes that are not those of its name: they are not looked at.
        data = packed([("b:1", [LAYERS[0], BIG])]).replace(BIG[-3_000_000:-2_000_000], bytes(1_000_000))
        await store.images.load(chunks(data), progress=lambda *bar: bars.append(bar))
        assert {bar[0] for bar in bars} == {busybox.sha256(LAYERS[0])[:12]}
        saved = await whole(store.images.save(["b:1"]))
        assert hashlib.sha256(BIG).digest() and BIG[:2_000_000] in saved

    run(tmp_path, work)


def test_layers_that_nobody_wants_are_dropped(tmp_path: Path) -> None:
    config = busybox.image_config(LAYERS, {})
    strays = {"stray.tar": BIG, "stray.tar.gz": gzip.compress(BIG, 1), "bad.gz": b"\x1f\x8b\x08" + bytes(600)}
    manifest = json.dumps([{"Config": "c", "RepoTags": ["a:1"], "Layers": ["l0", "l1"]}]).encode()
    members = {**strays, "l0": LAYERS[0], "l1": LAYERS[1], "c": config, "manifest.json": manifest}

    async def work(store: Store) -> None:
        await store.images.load(chunks(busybox.archive(members)))
        assert [len(store.left()[place]) for place in ("l", "r", "ingest")] == [2, 2, 0]

    run(tmp_path, work)


@pytest.mark.parametrize("driver", ["overlay", "vfs"])
def test_s30_a_bomb_stops_at_the_limit(tmp_path: Path, driver: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("dockyard.store.ahead", "dockyard.store.unpack"):
        monkeypatch.setattr(f"{module}.free_space", lambda root: 5_000_000)
    bomb = busybox.layer_tar({"zeros": bytes(50_000_000)})

    async def work(store: Store) -> None:
        data = busybox.oci_archive("bomb:1", [bomb], {}, True)
        with pytest.raises(SystemFailure, match="no space left on device: more than 5000000 bytes when unpacked"):
            await store.images.load(chunks(data))
        assert store.left() == EMPTY
        await store.images.load(chunks(archive()))

    run(tmp_path, work, driver)


def test_a_client_that_stalls_and_goes_leaves_nothing(tmp_path: Path) -> None:
    async def stalled(data: bytes) -> AsyncIterator[bytes]:
        yield data
        await asyncio.sleep(3600)

    async def work(store: Store) -> None:
        descriptors = len(os.listdir("/proc/self/fd"))
        data = packed([("a:1", [LAYERS[0], BIG])])
        task = asyncio.create_task(store.images.load(stalled(data[: len(data) // 2])))
        await asyncio.sleep(0.3)
        assert any(store.left()["l"])  # under way
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert store.left() == EMPTY
        assert store.layout.drain()  # who deletes has descriptors too
        assert len(os.listdir("/proc/self/fd")) == descriptors

    run(tmp_path, work)


def test_a_disk_that_is_full_ends_the_load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*arguments: Any) -> Any:
        raise SystemFailure("layer: entry 'big': No space left on device")

    async def work(store: Store) -> None:
        with monkeypatch.context() as patch:
            patch.setattr(ahead, "apply_source", full)
            with pytest.raises(SystemFailure, match="archive to load: layer: entry 'big': no space left"):
                await store.images.load(chunks(packed([("a:1", [BIG])])))
        assert store.left() == EMPTY
        await store.images.load(chunks(packed([("a:1", [BIG])])))

    run(tmp_path, work)


def test_what_a_killed_daemon_left_is_swept(tmp_path: Path) -> None:
    async def work(store: Store) -> None:
        for place in (store.base / "l", store.base / "r"):
            (place / ("ab" * 13)).mkdir()
        (store.layout.ingest / ("ab" * 13)).write_bytes(b"half a blob")
        await store.reopen()
        assert store.left() == EMPTY

    run(tmp_path, work)


@pytest.mark.parametrize("driver", ["overlay", "vfs"])
def test_a_disk_that_fills_up_underway(tmp_path: Path, driver: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel says so, not a look at what is free."""
    for module in ("dockyard.store.ahead", "dockyard.store.unpack"):
        monkeypatch.setattr(f"{module}.free_space", lambda root: 1 << 40)
    monkeypatch.setattr("dockyard.store.archive.free_space_of", lambda fd: 1 << 40)
    big = busybox.layer_tar({f"n{number}": os.urandom(1 << 20) for number in range(24)})
    place = tmp_path / "small"
    place.mkdir()
    mounts.mount("tmpfs", str(place), "tmpfs", 0, "size=20m,mode=711")

    async def work(store: Store) -> None:
        for attempt in (
            lambda: store.images.load(chunks(packed([("a:1", [LAYERS[0], big])]))),
            lambda: store.images.load(chunks(busybox.oci_archive("a:1", [big], {}, True))),
            lambda: store.images.import_(chunks(big), repository="a"),
        ):
            with pytest.raises(SystemFailure, match=r"archive to (load|import): .*no space left on device"):
                await attempt()
            store.layout.drain()
            assert store.left() == EMPTY
        await store.images.load(chunks(archive()))

    try:
        run(place, work, driver)
    finally:
        mounts.umount(str(place))


def test_empty_and_foreign_layers(tmp_path: Path) -> None:
    """A tar of nothing, twice; a layer that its manifest says is to be had elsewhere."""
    layout = Layout()
    nothing = bytes(1024)
    layers = [LAYERS[0], nothing, nothing, LAYERS[1]]
    config = layout.blob(busybox.image_config(layers, {}), oci.OCI_CONFIG)
    kinds = ["application/vnd.oci.image.layer.nondistributable.v1.tar", *[oci.OCI_LAYER] * 3]
    found = [layout.blob(layer, kind) for layer, kind in zip(layers, kinds, strict=True)]
    found[0]["urls"] = ["https://elsewhere.example/layer"]
    manifest = layout.document({"config": config, "layers": found}, oci.OCI_MANIFEST)
    layout.named(manifest, "odd:1")

    async def work(store: Store) -> None:
        await store.images.load(chunks(layout.archive()))
        image = store.images.get("odd:1")
        assert [layer.document.size for layer in store.snapshots.chain(image.chain_id)][1:3] == [0, 0]
        saved = await whole(store.images.save(["odd:1"]))
        assert manifest["digest"].encode() in saved and b"https://elsewhere.example/layer" in saved
        await store.images.remove("odd:1")
        assert store.left() == EMPTY
        await store.images.load(chunks(saved))
        assert store.images.get("odd:1").record.manifest == manifest["digest"]

    run(tmp_path, work)
