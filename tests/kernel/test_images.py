"""Images and snapshots on a real file system: life, crashes, a full disk, archives of other tools."""

from __future__ import annotations

import asyncio
import gzip
import hashlib
import io
import json
import os
import shutil
import sqlite3
import stat
import subprocess
import tarfile
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from dockyard.engine.images import Images
from dockyard.linux import mounts
from dockyard.model import oci
from dockyard.model.errors import Conflict, DockyardError, InvalidArgument, NotFound, SystemFailure
from dockyard.model.oci import Platform
from dockyard.proto.filters import Filters
from dockyard.proto.imagegc import Policy
from dockyard.store import inline
from dockyard.store.db import Database
from dockyard.store.layout import Layout
from dockyard.store.snapshots import Snapshots
from tests.support import busybox, loopfs

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
CONTAINER = "c0ffee" + "0" * 58


class Store:
    """A store of its own, with everything from layout to images; `reopen` is a daemon's restart."""

    def __init__(self, root: Path, driver: str = "") -> None:
        self.root = root
        self.driver = driver
        self.events: list[tuple[str, str, str]] = []
        self.users: dict[str, list[tuple[str, bool]]] = {}
        self.options: dict[str, Any] = {}
        self.now = 0

    def publish(self, type: str, action: str, actor_id: str, attributes: Any = None) -> None:
        self.events.append((action, actor_id, attributes.get("name", "")))

    async def open(self) -> None:
        self.layout = Layout(self.root / "data", self.root / "run")
        self.layout.open()
        self.database = Database(self.layout.database)
        self.database.open()
        self.snapshots = Snapshots(self.layout, self.database, inline.call, driver=self.driver)
        await self.snapshots.open()
        self.images = Images(
            self.layout, self.database, self.snapshots, inline.call, events=self,
            clock=lambda: self.now or time.time_ns(),
            **self.options,
        )  # fmt: skip
        await self.images.open()
        self.images.set_users(lambda image_id: self.users.get(image_id, []))

    async def close(self) -> None:
        await self.images.close()
        await self.snapshots.close()
        self.database.close()
        self.layout.drain()
        self.layout.close()

    async def reopen(self) -> None:
        await self.close()
        await self.open()

    @property
    def base(self) -> Path:
        return self.layout.snapshots / self.snapshots.driver

    def left(self) -> dict[str, list[str]]:
        """Everything on disk that belongs to images: blobs, layers, temporary files."""
        places = {"blobs": self.layout.blobs / "sha256", "l": self.base / "l", "r": self.base / "r"}
        found = {name: sorted(set(os.listdir(path)) - {"empty"}) for name, path in places.items()}
        return {**found, "ingest": os.listdir(self.layout.ingest)}


EMPTY: dict[str, list[str]] = {"blobs": [], "l": [], "r": [], "ingest": []}


def run(root: Path, work: Callable[[Store], Coroutine[Any, Any, None]], driver: str = "") -> None:
    async def main() -> None:
        store = Store(root, driver)
        await store.open()
        try:
            await work(store)
        finally:
            await store.close()

    asyncio.run(main())


async def chunks(data: bytes, size: int = 70_000) -> AsyncIterator[bytes]:
    for start in range(0, len(data), size):
        yield data[start : start + size]


async def whole(stream: AsyncIterator[bytes]) -> bytes:
    return b"".join([chunk async for chunk in stream])


LAYERS = [
    busybox.layer_tar({"a": b"1" * 5000, "d/one": b"1", "d/two": b"2"}),
    busybox.layer_tar({"d/.wh.one": b"", "d/three": b"3", "e/.wh..wh..opq": b""}),
]


def archive(name: str = "app:1", layers: list[bytes] | None = None, config: dict[str, Any] | None = None) -> bytes:
    return busybox.docker_archive([name], LAYERS if layers is None else layers, config or {})


# --- life -------------------------------------------------------------------------------------------------------------


DRIVERS = ["overlay", "btrfs", "vfs"]


@pytest.fixture
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    """A directory whose file system suits the driver that the test is asked to use."""
    if request.getfixturevalue("driver") != "btrfs":
        yield tmp_path
        return
    with loopfs.mounted("btrfs", tmp_path, 256) as mounted:
        yield mounted


@pytest.mark.parametrize("driver", DRIVERS)
def test_load_save_remove_and_load_again(place: Path, driver: str) -> None:
    async def work(store: Store) -> None:
        (loaded,) = await store.images.load(chunks(gzip.compress(archive(), 1)))
        assert loaded.names == ["app:1"]
        image = store.images.get("app:1")
        assert [layer.diff_id for layer in store.snapshots.chain(image.chain_id)][::-1] == [
            f"sha256:{hashlib.sha256(layer).hexdigest()}" for layer in LAYERS
        ]
        saved = await whole(store.images.save(["app:1"]))
        assert await whole(store.images.save(["app:1"])) == saved
        gone = await store.images.remove("app:1")
        assert (gone[0].untagged, gone[1].deleted, len(gone)) == ("app:1", image.id, 4)
        assert store.left() == EMPTY
        await store.images.load(chunks(saved))
        assert store.images.get("app:1").id == image.id
        assert await whole(store.images.save(["app:1"])) == saved
        assert [event[0] for event in store.events] == ["load", "save", "save", "untag", "delete", "load", "save"]

    run(place, work, driver)


def test_a_container_sees_its_layers(tmp_path: Path) -> None:
    async def work(store: Store) -> None:
        layers = [busybox.layer_tar({"d/one": b"1", "d/two": b"2", "e/old": b"o"}), LAYERS[1]]
        await store.images.load(chunks(archive(layers=layers)))
        await store.snapshots.prepare(CONTAINER, store.images.get("app:1").chain_id)
        rootfs = store.snapshots.rootfs(CONTAINER)
        target = tmp_path / "merged"
        target.mkdir()
        lower = ":".join(rootfs["lower"])
        data = f"lowerdir={lower},upperdir={rootfs['upper']},workdir={rootfs['work']},index=off,metacopy=off"
        here = os.getcwd()
        os.chdir(rootfs["base"])
        try:
            mounts.mount("overlay", str(target), "overlay", 0, data + ",redirect_dir=off")
        finally:
            os.chdir(here)
        try:
            assert sorted(os.listdir(target / "d")) == ["three", "two"]
            assert os.listdir(target / "e") == []
            (target / "new").write_bytes(b"x" * 1000)
        finally:
            mounts.umount(str(target))
        assert await store.snapshots.usages([CONTAINER]) == [1000]
        store.snapshots.remove(CONTAINER)
        assert os.listdir(store.base / "c") == []

    run(tmp_path, work)


@pytest.mark.parametrize("driver", ["btrfs", "vfs"])
def test_a_container_sees_its_layers_without_overlay(place: Path, driver: str) -> None:
    async def work(store: Store) -> None:
        layers = [busybox.layer_tar({"d/one": b"1", "d/two": b"2", "e/old": b"o"}), LAYERS[1]]
        await store.images.load(chunks(archive(layers=layers)))
        await store.snapshots.prepare(CONTAINER, store.images.get("app:1").chain_id)
        rootfs = store.snapshots.rootfs(CONTAINER)
        assert rootfs["type"] == "directory"
        tree = Path(rootfs["path"])
        assert sorted(os.listdir(tree / "d")) == ["three", "two"]
        assert os.listdir(tree / "e") == []
        assert await store.snapshots.usages([CONTAINER]) == [0]  # what its image has is not its own
        (tree / "new").write_bytes(b"mine")
        (tree / "d/two").write_bytes(b"22")
        os.link(tree / "new", tree / "again")
        assert await store.snapshots.usages([CONTAINER]) == [6]
        assert await whole(store.images.save(["app:1"]))  # and every layer's tar can still be rebuilt
        store.snapshots.remove(CONTAINER)
        await store.images.remove("app:1")
        assert store.layout.drain()
        assert store.left() == EMPTY and os.listdir(store.base / "c") == []

    run(place, work, driver)


@pytest.mark.parametrize("driver", DRIVERS)
def test_what_gives_way_within_a_layer_is_kept_for_its_tar(place: Path, driver: str) -> None:
    """On btrfs the recipe is another subvolume: what is moved there has to be copied."""

    def twice() -> bytes:
        out = io.BytesIO()
        with tarfile.open(fileobj=out, mode="w") as tar:
            for name, data in (("a", b"first"), ("d/x", b"beneath"), ("a", b"second"), ("d", b"a file now")):
                entry = tarfile.TarInfo(name)
                entry.size = len(data)
                tar.addfile(entry, io.BytesIO(data))
        return out.getvalue()

    async def work(store: Store) -> None:
        layers = [LAYERS[0], twice()]
        await store.images.load(chunks(archive(layers=layers)))
        image = store.images.get("app:1")
        tree = Path(store.snapshots.tree_of(store.snapshots.layer(str(image.chain_id))))
        assert (tree / "a").read_bytes() == b"second" and (tree / "d").read_bytes() == b"a file now"
        assert layers[1] in await whole(store.images.save(["app:1"]))

    run(place, work, driver)


@pytest.mark.parametrize("driver", ["btrfs", "overlay"])
def test_a_driver_that_cannot_work_is_refused_and_not_remembered(tmp_path: Path, driver: str) -> None:
    async def main() -> None:
        root = tmp_path / "t"
        root.mkdir()
        store = Store(root, driver if driver == "btrfs" else "nonsense")
        with pytest.raises(InvalidArgument, match=r"btrfs does not work|unknown storage driver 'nonsense'"):
            await store.open()
        store.database.close()
        store.layout.close()
        store.driver = ""
        await store.open()
        assert store.snapshots.driver == "overlay"
        await store.close()

    asyncio.run(main())


def test_a_data_root_that_is_an_overlay_falls_back_to_vfs_with_a_warning(tmp_path: Path) -> None:
    async def work(store: Store) -> None:
        assert store.snapshots.driver == "vfs"
        assert "using vfs, slowly" in store.snapshots.warnings[0] and str(root) in store.snapshots.warnings[0]
        await store.images.load(chunks(archive()))
        assert await whole(store.images.save(["app:1"]))

    for name in ("lower", "upper", "work", "merged"):
        (tmp_path / name).mkdir()
    root = tmp_path / "merged"
    options = f"lowerdir={tmp_path}/lower,upperdir={tmp_path}/upper,workdir={tmp_path}/work"
    mounts.mount("overlay", str(root), "overlay", 0, options)
    try:
        run(root, work)
    finally:
        mounts.umount(str(root))


def test_128_layers_lie_within_one_page_of_mount_options(tmp_path: Path) -> None:
    """And a 129th is refused."""
    layers = [busybox.layer_tar({f"f{number}": b"%d" % number, "last": b"%d" % number}) for number in range(128)]

    async def work(store: Store) -> None:
        await store.images.load(chunks(archive("deep:1", layers)))
        await store.snapshots.prepare(CONTAINER, store.images.get("deep:1").chain_id)
        rootfs = store.snapshots.rootfs(CONTAINER)
        target = tmp_path / "merged"
        target.mkdir()
        lower = ":".join(rootfs["lower"])
        options = f"lowerdir={lower},upperdir={rootfs['upper']},workdir={rootfs['work']}"
        options += ",index=off,metacopy=off,redirect_dir=off"
        assert len(rootfs["lower"]) == 128 and len(options) < 4096
        here = os.getcwd()
        os.chdir(rootfs["base"])
        try:
            mounts.mount("overlay", str(target), "overlay", 0, options)
        finally:
            os.chdir(here)
        try:
            assert (target / "last").read_bytes() == b"127" and (target / "f0").read_bytes() == b"0"
            assert len(os.listdir(target)) == 129
        finally:
            mounts.umount(str(target))
        store.snapshots.remove(CONTAINER)
        with pytest.raises(InvalidArgument, match="max depth exceeded"):
            await store.images.load(chunks(archive("deeper:1", [*layers, busybox.layer_tar({"one": b"more"})])))
        assert len(store.left()["l"]) == 128

    run(tmp_path, work)


def test_the_writable_layer_is_like_the_images_root(tmp_path: Path) -> None:
    def rooted(mode: int, uid: int) -> bytes:
        out = io.BytesIO()
        with tarfile.open(fileobj=out, mode="w") as tar:
            root = tarfile.TarInfo("./")
            root.type, root.mode, root.uid = tarfile.DIRTYPE, mode, uid
            tar.addfile(root)
        return out.getvalue()

    async def work(store: Store) -> None:
        await store.images.load(chunks(archive("a:1", [rooted(0o1777, 5), LAYERS[0]])))
        old = os.umask(0o077)
        try:
            await store.snapshots.prepare(CONTAINER, store.images.get("a:1").chain_id)
            await store.snapshots.prepare("d" * 64, None)
        finally:
            os.umask(old)
        found = (store.base / "c" / CONTAINER[:26] / "fs").stat()
        assert (stat.S_IMODE(found.st_mode), found.st_uid) == (0o1777, 5)
        assert stat.S_IMODE((store.base / "c" / ("d" * 26) / "fs").stat().st_mode) == 0o755
        assert store.snapshots.rootfs("d" * 64)["lower"] == ["l/empty"]

    run(tmp_path, work)


def test_import(tmp_path: Path) -> None:
    async def work(store: Store) -> None:
        image = await store.images.import_(
            chunks(gzip.compress(LAYERS[0])), repository="made", message="m", changes=["CMD x", "ENV A=1"]
        )
        assert image.names == ["made:latest"]
        assert (image.config.cmd, image.config.env) == (["/bin/sh", "-c", "x"], ["A=1"])
        (step,) = store.images.history("made")
        assert (step.comment, step.size, step.tags) == ("m", 5002, ["made:latest"])
        assert store.events == [("import", image.id, "made:latest")]

    run(tmp_path, work)


def test_lookup(tmp_path: Path) -> None:
    async def work(store: Store) -> None:
        await store.images.load(chunks(archive()))
        image = store.images.get("app:1")
        for ref in (image.id, image.id[7:], image.id[7:19], image.id[:15], "docker.io/library/app:1"):
            assert store.images.get(ref).id == image.id
        for ref, text in {
            "app": "No such image: app:latest",
            "f" * 64: f"No such image: {'f' * 64}",
            f"app@sha256:{'a' * 64}": f"No such image: app@sha256:{'a' * 64}",
        }.items():
            with pytest.raises(NotFound) as caught:
                store.images.get(ref)
            assert str(caught.value) == text
        with pytest.raises(InvalidArgument, match="invalid reference format"):
            store.images.get("App:1")
        for number in range(16):  # with the first, two of them begin with the same digit
            await store.images.load(chunks(archive(f"more:{number}", [], {"Labels": {"n": str(number)}})))
        ids = [listed.image.id[7] for listed in store.images.list()]
        ambiguous = next(digit for digit in ids if ids.count(digit) > 1)
        with pytest.raises(InvalidArgument, match=f"multiple IDs found with provided prefix: {ambiguous}"):
            store.images.get(ambiguous)

    run(tmp_path, work)


def test_removal_in_docker_s_words(tmp_path: Path) -> None:
    async def work(store: Store) -> None:
        images = store.images
        await images.load(chunks(archive()))
        image = images.get("app:1")
        store.users[image.id] = [("1234567890abcdef", False)]
        with pytest.raises(Conflict) as caught:
            await images.remove("app:1")
        assert str(caught.value) == (
            'conflict: unable to remove repository reference "app:1" (must force) - '
            f"container 1234567890ab is using its referenced image {image.short_id}"
        )
        with pytest.raises(
            Conflict, match=r"\(must be forced\) - image is being used by stopped container 1234567890ab"
        ):
            await images.remove(image.id)
        store.users[image.id] = [("1234567890abcdef", True)]
        with pytest.raises(Conflict, match=r"\(cannot be forced\) - image is being used by running container 12345"):
            await images.remove(image.id, force=True)
        gone = await images.remove("app:1", force=True)  # its name goes, the image stays for its container
        assert [entry.untagged for entry in gone] == ["app:1"]
        assert images.get(image.id).names == []
        store.users.clear()
        await images.tag(image.id, "one")
        await images.tag(image.id, "two", "x")
        with pytest.raises(Conflict, match=r"\(must be forced\) - image is referenced in multiple repositories"):
            await images.remove(image.short_id)
        gone = await images.remove(image.short_id, force=True)
        assert [entry.untagged for entry in gone][:2] == ["one:latest", "two:x"]
        assert store.left() == EMPTY

    run(tmp_path, work)


def test_layers_outlive_an_image_whose_container_is_there(tmp_path: Path) -> None:
    async def work(store: Store) -> None:
        await store.images.load(chunks(archive()))
        chain = store.images.get("app:1").chain_id
        await store.snapshots.prepare(CONTAINER, chain)
        await store.images.remove("app:1", force=True)
        assert len(store.left()["l"]) == 2
        store.snapshots.remove(CONTAINER)
        await store.snapshots.close()  # waits for the collection behind
        assert store.left() == EMPTY

    run(tmp_path, work)


def test_prune_and_list(tmp_path: Path) -> None:
    async def work(store: Store) -> None:
        images = store.images
        await images.load(chunks(archive("app:1", LAYERS, {"Labels": {"k": "v"}})))
        await images.load(chunks(archive("base:1", LAYERS[:1])))
        await images.load(chunks(archive("app:2", LAYERS[1:])))
        await images.tag("base:1", "app", "1")  # takes the name from the first
        shown = {tuple(entry.names): entry.shared_size for entry in images.list(shared_size=True)}
        assert shown[("app:1", "base:1")] == 5002 and shown[("app:2",)] == 0
        assert len(images.list(Filters({"dangling": ["true"]}))) == 1
        assert [entry.names for entry in images.list(Filters({"reference": ["app:*"]}))] in (
            [["app:1"], ["app:2"]], [["app:2"], ["app:1"]],
        )  # fmt: skip
        assert images.list(Filters({"label": ["k=v"]}))[0].names == []
        gone, freed = await images.prune()
        assert len(gone) == 2 and freed == 1  # the image and its upper layer; the lower one is base's
        store.users[images.get("app:2").id] = [("c" * 64, False)]
        gone, _ = await images.prune(Filters({"dangling": ["false"]}))
        assert {entry.untagged for entry in gone if entry.untagged} == {"app:1", "base:1"}
        assert [entry.names for entry in images.list()] == [["app:2"]]

    run(tmp_path, work)


def test_two_loads_of_the_same_layers_at_once(tmp_path: Path) -> None:
    async def work(store: Store) -> None:
        data = [archive(f"app:{n}", LAYERS, {"Labels": {"n": str(n)}}) for n in range(4)]
        await asyncio.gather(*(store.images.load(chunks(one)) for one in data))
        assert len(store.images.list()) == 4
        assert len(store.left()["l"]) == 2
        store.layout.drain()

    run(tmp_path, work)


# --- OCI layouts and other tools --------------------------------------------------------------------------------------


@pytest.mark.parametrize("compress", [True, False], ids=["gzip", "plain"])
def test_an_oci_manifest_survives_load_and_save(tmp_path: Path, compress: bool) -> None:
    async def work(store: Store) -> None:
        data = busybox.oci_archive("oci:9", LAYERS, {"Cmd": ["x"]}, compress)
        (loaded,) = await store.images.load(chunks(data))
        assert loaded.names == ["oci:9"]

        def manifests(raw: bytes) -> set[str]:
            with tarfile.open(fileobj=io.BytesIO(raw)) as tar:
                index = json.loads(tar.extractfile("index.json").read())  # type: ignore[union-attr]
            return {entry["digest"] for entry in index["manifests"]}

        saved = await whole(store.images.save(["oci:9"]))
        assert manifests(saved) == manifests(data)
        assert bool(store.snapshots.blobs()) == compress
        await store.images.remove("oci:9")
        assert store.left() == EMPTY

    run(tmp_path, work)


@pytest.mark.skipif(not shutil.which("skopeo"), reason="skopeo is not installed")
def test_skopeo_reads_what_we_save_and_we_read_what_it_writes(tmp_path: Path) -> None:
    def skopeo(*arguments: str) -> None:
        environment = {**os.environ, "TMPDIR": str(tmp_path), "XDG_RUNTIME_DIR": str(tmp_path)}
        done = subprocess.run(
            ["skopeo", "--insecure-policy", *arguments], capture_output=True, text=True, env=environment
        )
        assert done.returncode == 0, done.stderr

    async def work(store: Store) -> None:
        await store.images.load(chunks(archive("app:1", [busybox.rootfs_tar(), *LAYERS])))
        image = store.images.get("app:1")
        ours = tmp_path / "ours.tar"
        ours.write_bytes(await whole(store.images.save(["app:1"])))
        skopeo("copy", f"docker-archive:{ours}:app:1", f"oci:{tmp_path}/layout:app")
        skopeo("copy", f"oci-archive:{ours}", f"docker-archive:{tmp_path}/docker.tar:again:1")
        skopeo("copy", f"oci:{tmp_path}/layout:app", f"oci-archive:{tmp_path}/oci.tar:third:1")
        skopeo("copy", "--dest-compress-format", "zstd", f"oci-archive:{ours}", f"oci-archive:{tmp_path}/zstd.tar:z:1")
        await store.images.remove("app:1")
        for name in ("docker.tar", "oci.tar", "zstd.tar"):
            (loaded,) = await store.images.load(chunks((tmp_path / name).read_bytes()))
            found = store.images.get(loaded.id)
            assert found.record.config.rootfs.diff_ids == image.record.config.rootfs.diff_ids, name
            assert await whole(store.images.save([loaded.id]))
            await store.images.remove(loaded.id, force=True)
            assert store.left() == EMPTY

    run(tmp_path, work)


# --- bad input: a clear error, nothing left ---------------------------------------------------------------------------


def damaged() -> dict[str, tuple[bytes, str]]:
    good = archive()
    config = busybox.image_config(LAYERS, {})
    manifest = [{"Config": "c.json", "RepoTags": ["x:1"], "Layers": ["l0", "l1"]}]
    members = {"l0": LAYERS[0], "l1": LAYERS[1], "c.json": config}

    def packed(entries: dict[str, bytes], document: Any) -> bytes:
        return busybox.archive({**entries, "manifest.json": json.dumps(document).encode()})

    liar = {**members, "l1": LAYERS[1] + bytes(512)}
    no_layer = {name: data for name, data in members.items() if name != "l1"}
    return {
        "truncated": (good[: len(good) // 2], "truncated"),
        "nothing": (b"", "truncated|empty"),
        "no-tar": (b"x" * 2000, "checksum"),
        "no-manifest": (busybox.archive({"x": b"1"}), "neither a docker-archive"),
        "no-config": (packed({}, manifest), "'c.json' is not in the archive"),
        "no-layer": (packed(no_layer, manifest), r"layer sha256:\w+: 'l1' is not in the archive"),
        "wrong-layer": (packed(liar, manifest), r"layer sha256:\w+: its content has the digest sha256:\w+, not"),
        "too-few-layers": (packed(members, [{**manifest[0], "Layers": ["l0"]}]), "layers length mismatch"),
        "bad-name": (packed(members, [{**manifest[0], "RepoTags": ["Bad:1"]}]), "invalid reference format"),
        "name-with-digest": (packed(members, [{**manifest[0], "RepoTags": [f"a@sha256:{'0' * 64}"]}]), "invalid tag"),
        "second-image-bad": (packed(members, [manifest[0], {"Config": "none"}]), "'none' is not in the archive"),
    }


@pytest.mark.parametrize("kind", sorted(damaged()))
def test_s30_s31_bad_archives_leave_nothing(tmp_path: Path, kind: str) -> None:
    data, text = damaged()[kind]

    async def work(store: Store) -> None:
        with pytest.raises(InvalidArgument, match=text):
            await store.images.load(chunks(data))
        assert store.left() == EMPTY
        assert store.images.list() == [] and store.events == []

    run(tmp_path, work)


def test_s31_an_oci_layout_with_a_wrong_blob(tmp_path: Path) -> None:
    async def work(store: Store) -> None:
        data = busybox.oci_archive("oci:9", LAYERS, {}, True)
        members: dict[str, bytes] = {}
        with tarfile.open(fileobj=io.BytesIO(data)) as tar:
            for info in tar:
                if info.isfile():
                    members[info.name] = tar.extractfile(info).read()  # type: ignore[union-attr]
        for name in [name for name in members if name.startswith("blobs/")]:
            broken = {**members, name: bytes([members[name][0] ^ 1]) + members[name][1:]}
            with pytest.raises(InvalidArgument, match=name.rpartition("/")[2][:12]):
                await store.images.load(chunks(busybox.archive(broken)))
            assert store.left() == EMPTY, name

    run(tmp_path, work)


def test_s34_an_archive_reads_no_host_file_and_moves_only_the_names_it_states(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_bytes(LAYERS[0])

    async def work(store: Store) -> None:
        await store.images.load(chunks(archive("mine:1", LAYERS[1:])))
        mine = store.images.get("mine:1").id
        config = busybox.image_config(LAYERS[:1], {})
        out = io.BytesIO()
        with tarfile.open(fileobj=out, mode="w") as tar:
            for link in (str(secret), f"../../../../../../../..{secret}", "/proc/self/root" + str(secret)):
                info = tarfile.TarInfo(f"l{len(link)}")
                info.type, info.linkname = tarfile.SYMTYPE, link
                tar.addfile(info)
            manifest = json.dumps(
                [{"Config": "c", "RepoTags": ["evil:1"], "Layers": [f"l{len(str(secret))}"]}]
            ).encode()
            for name, data in {"c": config, "manifest.json": manifest}.items():
                info = tarfile.TarInfo(name)
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
        with pytest.raises(InvalidArgument, match=r"leads outside|not in the archive"):
            await store.images.load(chunks(out.getvalue()))
        (loaded,) = await store.images.load(chunks(archive("other:1")))
        assert store.images.get("mine:1").id == mine
        (loaded,) = await store.images.load(chunks(archive("mine:1")))
        assert loaded.displaced == [("mine:1", mine)]  # said, and the former one is still there
        assert store.images.get(mine).names == []

    run(tmp_path, work)


def test_links_inside_an_archive_are_followed(tmp_path: Path) -> None:
    async def work(store: Store) -> None:
        config = busybox.image_config([LAYERS[0], LAYERS[0]], {})
        manifest = json.dumps([{"Config": "c", "RepoTags": ["a:1"], "Layers": ["x/layer.tar", "y/layer.tar"]}]).encode()
        out = io.BytesIO()
        with tarfile.open(fileobj=out, mode="w") as tar:
            for name, data in {"x/layer.tar": LAYERS[0], "c": config, "manifest.json": manifest}.items():
                info = tarfile.TarInfo(name)
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
            info = tarfile.TarInfo("y/layer.tar")
            info.type, info.linkname = tarfile.SYMTYPE, "../x/layer.tar"
            tar.addfile(info)
        await store.images.load(chunks(out.getvalue()))
        assert len(store.snapshots.chain(store.images.get("a:1").chain_id)) == 2

    run(tmp_path, work)


def test_a_client_that_goes_away_leaves_nothing(tmp_path: Path) -> None:
    async def broken(data: bytes) -> AsyncIterator[bytes]:
        yield data[: len(data) // 2]
        raise ConnectionResetError("gone")

    async def work(store: Store) -> None:
        with pytest.raises(ConnectionResetError):
            await store.images.import_(broken(LAYERS[0]), repository="x")
        with pytest.raises(ConnectionResetError):
            await store.images.load(broken(archive()))
        task = asyncio.create_task(store.images.import_(stalled(LAYERS[0]), repository="x"))
        await asyncio.sleep(0.1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await asyncio.sleep(0.3)
        assert store.left() == EMPTY
        before = len(os.listdir("/proc/self/fd"))
        with pytest.raises(ConnectionResetError):
            await store.images.import_(broken(LAYERS[0]), repository="x")
        await asyncio.sleep(0.3)
        assert len(os.listdir("/proc/self/fd")) == before

    async def stalled(data: bytes) -> AsyncIterator[bytes]:
        yield data[:1000]
        await asyncio.sleep(3600)

    run(tmp_path, work)


def test_of_several_platforms_the_one_that_is_asked_for_is_loaded(tmp_path: Path) -> None:
    def both() -> bytes:
        """One index of two images, for amd64 and for arm64."""
        members: dict[str, bytes] = {"oci-layout": b'{"imageLayoutVersion":"1.0.0"}'}

        def blob(data: bytes, media_type: str, **more: Any) -> dict[str, Any]:
            members[f"blobs/sha256/{busybox.sha256(data)}"] = data
            return {"mediaType": media_type, "digest": f"sha256:{busybox.sha256(data)}", "size": len(data), **more}

        inner = []
        for architecture in ("arm64", "amd64"):
            layer = busybox.layer_tar({"arch": architecture.encode()})
            config = json.loads(busybox.image_config([layer], {}))
            manifest = {
                "schemaVersion": 2,
                "mediaType": oci.OCI_MANIFEST,
                "config": blob(json.dumps({**config, "architecture": architecture}).encode(), oci.OCI_CONFIG),
                "layers": [blob(layer, oci.OCI_LAYER)],
            }
            platform = {"os": "linux", "architecture": architecture}
            inner.append(blob(json.dumps(manifest).encode(), oci.OCI_MANIFEST, platform=platform))
        index = {"schemaVersion": 2, "mediaType": oci.OCI_INDEX, "manifests": inner}
        name = {"io.containerd.image.name": "docker.io/library/multi:1"}
        outer = {"schemaVersion": 2, "manifests": [blob(json.dumps(index).encode(), oci.OCI_INDEX, annotations=name)]}
        return busybox.archive({**members, "index.json": json.dumps(outer).encode()})

    async def work(store: Store) -> None:
        for architecture in ("arm64", "amd64"):
            wanted = Platform(architecture, "linux")
            (loaded,) = await store.images.load(chunks(both()), wanted)
            image = store.images.get_for("multi:1", wanted)
            assert image.id == loaded.id and image.architecture == architecture
            (variant,) = [found for found in store.images.variants(image) if found.available]
            assert variant.platform.architecture == architecture and variant.unpacked == len(architecture)
            assert len(store.images.variants(image)) == 2
            with pytest.raises(NotFound, match="does not match the specified platform"):
                store.images.get_for("multi:1", Platform("riscv64", "linux"))
            await store.images.remove("multi:1")
        with pytest.raises(InvalidArgument, match="no image for linux/riscv64 in it"):
            await store.images.load(chunks(both()), Platform("riscv64", "linux"))
        with pytest.raises(InvalidArgument, match="no image for linux/arm64 in it"):
            await store.images.load(chunks(archive()), Platform("arm64", "linux"))
        assert store.left() == EMPTY

    run(tmp_path, work)


# --- collection -------------------------------------------------------------------------------------------------------


def test_unattended_collection_keeps_the_newest_and_what_is_used(tmp_path: Path) -> None:
    async def work(store: Store) -> None:
        store.options = {"collection": Policy.make(0, 0, 2)}
        await store.reopen()
        start = time.time_ns()
        for number in range(5):
            store.now = start + number * 10**9
            layer = busybox.layer_tar({"n": b"%d" % number})
            await store.images.load(chunks(archive(f"app:{number}", [LAYERS[0], layer])))
        store.users[store.images.get("app:0").id] = [(CONTAINER, False)]
        assert await store.images.collect() == []  # too young
        store.now = start + 10**12
        gone = await store.images.collect()
        assert len(gone) == 2
        assert sorted(name for listed in store.images.list() for name in listed.names) == ["app:0", "app:3", "app:4"]
        assert len(store.left()["l"]) == 4 and await store.images.collect() == []
        assert [event[0] for event in store.events if event[0] != "load"] == ["untag", "delete"] * 2

    run(tmp_path, work)


def test_the_last_use_of_an_image_outlives_a_restart(tmp_path: Path) -> None:
    async def work(store: Store) -> None:
        store.options = {"collection": Policy.make(0, 0, 2)}
        await store.reopen()
        await store.images.load(chunks(archive("used:1")))
        image = store.images.get("used:1")
        store.users[image.id] = [(CONTAINER, False)]
        store.now = late = time.time_ns() + 10**13
        for moment in (late, late + 60 * 10**9):  # a minute later nothing is written
            store.now = moment
            assert await store.images.collect() == []
        await store.reopen()
        assert store.images.get("used:1").record.used_at == late

    run(tmp_path, work)


def test_collection_on_a_disk_that_fills(disk: Path) -> None:
    async def work(store: Store) -> None:
        store.options = {"collection": Policy.make(17, 14, 0)}
        await store.reopen()
        start = time.time_ns()
        for number in range(4):
            store.now = start + number * 10**9
            layer = busybox.layer_tar({"n": os.urandom(10 << 20)})
            await store.images.import_(chunks(layer), repository=f"app{number}")
        store.now = start + 10**12
        assert len(await store.images.collect()) == 2
        assert [listed.names for listed in store.images.list()] == [["app3:latest"], ["app2:latest"]]

    run(disk, work)


def test_discarded_blobs_of_images_that_a_registry_has(tmp_path: Path) -> None:
    def layout(name: str) -> bytes:
        return busybox.oci_archive(name, LAYERS, {})

    async def work(store: Store) -> None:
        await store.images.load(chunks(layout("pulled:1")))
        image = store.images.get("pulled:1")
        compressed = {layer.blob for layer in store.snapshots.chain(image.chain_id)}
        assert all(compressed) and await store.images.blobs_size() > 0
        store.options = {"discard_blobs": True}
        await store.reopen()
        assert compressed <= {f"sha256:{name}" for name in store.left()["blobs"]}  # no registry has them
        image = store.images.get("pulled:1")
        image.record.digests = [f"docker.io/library/pulled@sha256:{'a' * 64}"]
        await store.images.services.commit([(image.record, [])])
        before = await store.images.blobs_size()
        await store.reopen()
        assert not compressed & {f"sha256:{name}" for name in store.left()["blobs"]}
        assert 0 < await store.images.blobs_size() < before
        assert await whole(store.images.save(["pulled:1"]))

    run(tmp_path, work)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """So small that an archive may take 6 MB of it."""
    yield from memory_disk(tmp_path / "small", 70)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """200 MB, all free."""
    yield from memory_disk(tmp_path / "disk", 200)


def memory_disk(place: Path, megabytes: int) -> Iterator[Path]:
    place.mkdir()
    mounts.mount("tmpfs", str(place), "tmpfs", 0, f"size={megabytes}m,mode=711")
    yield place
    mounts.umount(str(place))


def test_a_full_disk_is_named_and_leaves_nothing(small_disk: Path) -> None:
    async def work(store: Store) -> None:
        big = busybox.layer_tar({"zeros": os.urandom(1 << 20) * 100})
        with pytest.raises(DockyardError, match=r"no space left on device") as caught:
            await store.images.import_(chunks(big), repository="big")
        assert "archive to import" in str(caught.value)
        with pytest.raises(DockyardError, match=r"no space left on device"):
            await store.images.load(chunks(archive("big:1", [big])))
        store.layout.drain()
        assert store.left() == EMPTY
        await store.images.import_(chunks(LAYERS[0]), repository="small")

    run(small_disk, work)


# --- crashes ----------------------------------------------------------------------------------------------------------


def test_images_and_containers_are_there_after_a_restart(tmp_path: Path) -> None:
    async def work(store: Store) -> None:
        await store.images.load(chunks(archive()))
        await store.images.import_(chunks(LAYERS[0]), repository="made")
        chain = store.images.get("app:1").chain_id
        await insert_container(store, CONTAINER, chain)
        await store.snapshots.prepare(CONTAINER, chain)
        rootfs = store.snapshots.rootfs(CONTAINER)
        before, saved = store.left(), await whole(store.images.save(["app:1"]))
        await store.reopen()
        assert store.left() == before
        assert store.snapshots.rootfs(CONTAINER) == rootfs
        assert await whole(store.images.save(["app:1"])) == saved
        assert store.images.get("made").names == ["made:latest"]
        assert store.snapshots.warnings == [] and store.images.warnings == []

    run(tmp_path, work)


def test_layers_are_looked_through_when_the_last_container_on_them_goes(tmp_path: Path) -> None:
    async def work(store: Store) -> None:
        await store.images.load(chunks(archive()))
        chain = store.images.get("app:1").chain_id
        asked: list[int] = []
        store.snapshots.on_release(lambda: asked.append(1))
        for identifier in ("1" * 64, "2" * 64, "3" * 64):
            await store.snapshots.prepare(identifier, chain)
        store.snapshots.remove("2" * 64)
        store.snapshots.remove("1" * 64)
        assert not asked
        store.snapshots.remove("3" * 64)
        assert asked == [1]

    run(tmp_path, work)


async def insert_container(store: Store, identifier: str, chain: str | None) -> None:
    row = (identifier, "name", json.dumps({"chain_id": chain, "mounts": []}), "{}", "{}")
    await store.database.write(lambda c: c.execute("INSERT INTO containers VALUES (?, ?, ?, ?, ?)", row) and None)


def test_what_a_crash_left_is_swept(tmp_path: Path) -> None:
    async def work(store: Store) -> None:
        await store.images.load(chunks(archive()))
        good = store.left()
        (store.layout.blobs / "sha256" / ("e" * 64)).write_bytes(b"orphan")
        for name in ("l/orphan", "r/orphan", "r/lonely", "c/orphan/fs"):
            (store.base / name).mkdir(parents=True)
        (store.layout.ingest / "spool-x").write_bytes(b"half")
        await store.reopen()
        store.layout.drain()
        assert store.left() == good
        assert os.listdir(store.base / "c") == []

    run(tmp_path, work)


def test_layers_that_were_not_on_disk_when_the_power_went_are_dropped(tmp_path: Path) -> None:
    async def work(store: Store) -> None:
        await store.images.load(chunks(archive("lost:1")))
        await store.images.load(chunks(archive("kept:1", LAYERS[1:])))
        lost = store.snapshots.chain(store.images.get("lost:1").chain_id)[-1]
        await store.snapshots.close()
        assert all(layer.document.boot_id == "" for layer in store.snapshots.chain(store.images.get("lost:1").chain_id))
        path = store.layout.database
        await store.close()
        with closing(sqlite3.connect(path)) as connection, connection:  # the store's own has it for itself
            connection.execute(
                "UPDATE layers SET document = json_set(document, '$.boot_id', 'another boot') WHERE chain_id = ?",
                (lost.chain_id,),
            )
        await store.open()
        assert [listed.names for listed in store.images.list()] == [["kept:1"]]
        assert len(store.left()["l"]) == 1 and len(store.left()["blobs"]) == 1
        assert "not on disk" in store.snapshots.warnings[0] and "dropped" in store.images.warnings[0]

    run(tmp_path, work)


def test_a_layer_that_has_changed_on_disk_is_not_saved_as_if_it_had_not(tmp_path: Path) -> None:
    async def work(store: Store) -> None:
        await store.images.load(chunks(archive()))
        layer = store.snapshots.chain(store.images.get("app:1").chain_id)[-1]
        path = Path(store.snapshots.tree_of(layer)) / "a"
        path.write_bytes(b"2" * 5000)
        with pytest.raises(SystemFailure, match="changed in the store"):
            await whole(store.images.save(["app:1"]))

    run(tmp_path, work)


def test_a_save_that_is_given_up_leaves_no_descriptor(tmp_path: Path) -> None:
    async def work(store: Store) -> None:
        big = busybox.layer_tar({"noise": os.urandom(4 << 20)})
        await store.images.load(chunks(archive("app:1", [big])))
        before = len(os.listdir("/proc/self/fd"))
        stream = store.images.save(["app:1"])
        await anext(stream)
        await stream.aclose()
        await asyncio.sleep(0.3)
        assert len(os.listdir("/proc/self/fd")) <= before

    run(tmp_path, work)


def test_a_data_root_on_overlay_or_by_choice_uses_vfs_and_keeps_to_it(tmp_path: Path) -> None:
    async def work(store: Store) -> None:
        assert store.snapshots.driver == "vfs"
        store.driver = ""
        await store.reopen()
        assert store.snapshots.driver == "vfs"
        store.driver = "overlay"
        await store.close()
        with pytest.raises(InvalidArgument, match="made with vfs"):
            await store.open()
        store.database.close()
        store.layout.close()
        store.driver = "vfs"
        await store.open()

    run(tmp_path, work, "vfs")
