"""A container's writable layer becomes a layer: on overlay, btrfs and vfs."""

from __future__ import annotations

import asyncio
import io
import os
import stat
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from dockyard.linux import mounts
from dockyard.model.errors import NotFound
from dockyard.store import inline
from dockyard.store.snapshots import Layer
from tests.kernel.test_images import DRIVERS, Store, archive, chunks, place, run
from tests.support import busybox

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
CONTAINER = "c0ffee" + "0" * 58
OTHER = "beef00" + "0" * 58
BASE = busybox.layer_tar({"a": b"1" * 5000, "d/one": b"1", "d/two": b"2", "etc/conf": b"c"})
__all__ = ["place"]


async def prepared(store: Store, container: str = CONTAINER) -> str | None:
    """A container on a small image; the image's chain."""
    await store.images.load(chunks(archive(layers=[BASE])))
    chain = store.images.get("app:1").chain_id
    await store.snapshots.prepare(container, chain)
    return chain


@contextmanager
def mounted(store: Store, tmp_path: Path, container: str = CONTAINER) -> Iterator[Path]:
    """A container's root file system, as it would see it."""
    rootfs = store.snapshots.rootfs(container)
    if rootfs["type"] == "directory":
        yield Path(rootfs["path"])
        return
    target = tmp_path / "mounted"
    target.mkdir(exist_ok=True)
    base = rootfs["base"]
    lower = ":".join(f"{base}/{part}" for part in rootfs["lower"])
    options = f"lowerdir={lower},upperdir={base}/{rootfs['upper']},workdir={base}/{rootfs['work']}"
    mounts.mount("overlay", str(target), "overlay", 0, options + ",index=off,metacopy=off,redirect_dir=off")
    try:
        yield target
    finally:
        mounts.umount(str(target))


def change(root: Path) -> None:
    """A little of everything that a layer can say."""
    (root / "d" / "one").unlink()
    (root / "d" / "three").write_bytes(b"3" * 70_000)
    os.chmod(root / "a", 0o640)
    (root / "new" / "deep").mkdir(parents=True)
    os.symlink("/a", root / "new" / "link")
    (root / "new" / "deep" / "x").write_bytes(b"x")
    os.link(root / "new" / "deep" / "x", root / "new" / "y")
    os.setxattr(root / "new" / "deep" / "x", "user.colour", b"blue")
    for name in ("conf",):
        (root / "etc" / name).unlink()
    (root / "etc").rmdir()
    (root / "etc").mkdir()
    (root / "etc" / "other").write_bytes(b"o")


async def tar_of(store: Store, layer: Layer) -> dict[str, tarfile.TarInfo]:
    """The entries of the tar that a registry would get."""
    read, write = os.pipe()

    async def reading() -> bytes:

        def all_of_it() -> bytes:
            with os.fdopen(read, "rb") as file:
                return file.read()

        return await asyncio.to_thread(all_of_it)

    reader = asyncio.ensure_future(reading())

    def rebuilding() -> None:
        from dockyard.store.bytestream import write_all
        from dockyard.store.recipe import rebuild

        try:
            rebuild(store.snapshots.recipe_of(layer), store.snapshots.tree_of(layer), write_all(write))
        finally:
            os.close(write)

    await asyncio.to_thread(rebuilding)
    raw = await reader
    assert f"sha256:{busybox.sha256(raw)}" == layer.diff_id
    with tarfile.open(fileobj=io.BytesIO(raw)) as tar:
        return {entry.name.removeprefix("./"): entry for entry in tar}


@pytest.mark.parametrize("driver", DRIVERS)
@pytest.mark.parametrize("consume", [True, False])
def test_what_a_container_wrote_becomes_a_layer(place: Path, tmp_path: Path, driver: str, consume: bool) -> None:
    async def work(store: Store) -> None:
        chain = await prepared(store)
        with mounted(store, tmp_path) as root:
            change(root)
        with store.snapshots.lease() as lease:
            layer = await store.snapshots.commit(CONTAINER, lease, consume=consume)
            assert layer is not None and layer.parent == chain
            assert layer.document.size in (70_000 + 1 + 1 + 5000, 70_000 + 1 + 1)  # chmod copies a up on overlay
            entries = await tar_of(store, layer)
            names = set(entries)
            assert {"d/.wh.one", "d/three", "a", "new/deep", "new/link", "new/deep/x", "new/y", "etc/other"} <= names
            assert names & {"etc/.wh..wh..opq", "etc/.wh.conf"} and "d/two" not in names
            assert entries["a"].mode == 0o640 and entries["new/link"].linkname == "/a"
            assert {entries["new/y"].type, entries["new/deep/x"].type} == {tarfile.REGTYPE, tarfile.LNKTYPE}
            if not consume:  # the container has what it had
                with mounted(store, tmp_path) as root:
                    assert (root / "d" / "three").stat().st_size == 70_000
            store.snapshots.remove(CONTAINER)
            await store.snapshots.prepare(OTHER, layer.chain_id)
            with mounted(store, tmp_path, OTHER) as root:
                assert sorted(os.listdir(root / "d")) == ["three", "two"] and os.listdir(root / "etc") == ["other"]
                assert stat.S_IMODE((root / "a").stat().st_mode) == 0o640
                assert os.getxattr(root / "new" / "y", "user.colour") == b"blue"
            store.snapshots.remove(OTHER)
        await store.images.services.collect()
        assert len(store.left()["l"]) == len(store.left()["r"]) == 1  # no image took it

    run(place, work, driver)


@pytest.mark.parametrize("driver", DRIVERS)
def test_nothing_written_is_no_layer_and_stubs_are_nothing(place: Path, tmp_path: Path, driver: str) -> None:
    async def work(store: Store) -> None:
        await prepared(store)
        with mounted(store, tmp_path) as root:  # what mounting leaves
            (root / "etc" / "hosts").write_bytes(b"")
            (root / "run" / "secrets").mkdir(parents=True)
            (root / "run" / "secrets" / "key").write_bytes(b"")
            os.chmod(root / "run", 0o755)
            os.chmod(root / "run" / "secrets", 0o755)
            (root / "proc").mkdir(mode=0o755)
        stubs = ["/etc/hosts", "/run/secrets/key", "/proc", "/missing/thing", "/a/b", "/"]
        with store.snapshots.lease() as lease:
            assert await store.snapshots.commit(CONTAINER, lease, consume=False, stubs=stubs) is None
            plain = await store.snapshots.commit(CONTAINER, lease, consume=False)
            assert plain is not None and "run/secrets/key" in await tar_of(store, plain)
            assert await store.snapshots.commit(CONTAINER, lease, consume=True, stubs=stubs) is None
        store.snapshots.remove(CONTAINER)
        await store.images.services.collect()
        assert len(store.left()["l"]) == 1

    run(place, work, driver)


def test_s41_stubs_are_looked_for_in_the_layer_only(tmp_path: Path) -> None:
    async def work(store: Store) -> None:
        await prepared(store)
        outside = tmp_path / "outside"
        (outside / "empty").mkdir(parents=True)
        (outside / "file").write_bytes(b"")
        with mounted(store, tmp_path) as root:
            os.symlink(outside, root / "trap")
            os.symlink(outside / "file", root / "file")
            (root / "full").mkdir()
            (root / "full" / "kept").write_bytes(b"")
            (root / "kept").write_bytes(b"k")
        up = "/".join([".."] * 12)
        stubs = ["/trap/empty", "/trap/file", "/file", "/full", "/kept", f"/{up}{outside}/file", "/trap", "/d"]
        with store.snapshots.lease() as lease:
            layer = await store.snapshots.commit(CONTAINER, lease, consume=True, stubs=stubs)
            assert layer is not None
            assert {"trap", "file", "full", "full/kept", "kept"} <= set(await tar_of(store, layer))
        assert sorted(os.listdir(outside)) == ["empty", "file"]
        store.snapshots.remove(CONTAINER)

    run(tmp_path / "store", work, "overlay")


@pytest.mark.parametrize("driver", ["overlay", "vfs"])
def test_an_epoch_makes_layers_the_same(place: Path, tmp_path: Path, driver: str) -> None:
    async def work(store: Store) -> None:
        await prepared(store)
        found = []
        for container in (CONTAINER, OTHER):
            if container == OTHER:
                await store.snapshots.prepare(OTHER, store.images.get("app:1").chain_id)
            with mounted(store, tmp_path, container) as root:
                change(root)
            with store.snapshots.lease() as lease:
                layer = await store.snapshots.commit(container, lease, consume=True, epoch=1_700_000_123)
                assert layer is not None
                found.append(layer.diff_id)
                assert max(entry.mtime for entry in (await tar_of(store, layer)).values()) <= 1_700_000_123
            store.snapshots.remove(container)
        assert found[0] == found[1]

    run(place, work, driver)


def test_a_commit_that_fails_or_is_of_nothing_leaves_nothing(tmp_path: Path) -> None:
    async def work(store: Store) -> None:
        await prepared(store)
        before = store.left()

        async def broken(function: str, arguments: dict[str, object], fds: object = ()) -> object:
            raise OSError(28, "No space left on device")

        with store.snapshots.lease() as lease:
            with pytest.raises(NotFound):
                await store.snapshots.commit("f" * 64, lease, consume=False)
            with pytest.raises(OSError):
                await store.snapshots.commit(CONTAINER, lease, consume=False, call=broken)  # type: ignore[arg-type]
            with mounted(store, tmp_path) as root:
                (root / ".wh.odd").write_bytes(b"")
            with pytest.raises(Exception, match="whiteout"):
                await store.snapshots.commit(CONTAINER, lease, consume=True, call=inline.call)
        assert store.left() == before
        store.snapshots.remove(CONTAINER)

    run(tmp_path / "store", work, "overlay")
