"""Reading and writing in a tree that somebody goes on changing: the workers of `cp` without a daemon around them."""

from __future__ import annotations

import io
import json
import os
import signal
import stat
import tarfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from dockyard.linux import abi, process
from dockyard.linux.calls import libc
from dockyard.model.errors import DockyardError, Unavailable
from dockyard.store import comparing, copytree, extracting, inline, reading, roots
from tests.kernel.test_commit import CONTAINER, OTHER, change, prepared
from tests.kernel.test_commit import mounted as container_root
from tests.kernel.test_images import DRIVERS, Store, place, run
from tests.support.loopfs import mounted

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")

__all__ = ["place"]
TRIES = 10_000
_EXCHANGE = 2  # RENAME_EXCHANGE


@contextmanager
def swapping(directory: Path) -> Iterator[None]:
    """A process that goes on exchanging `d` (a directory, a link to outside) and `s` (the other one)."""
    pid = os.fork()
    if pid == 0:
        try:
            fd = os.open(directory, os.O_RDONLY)
            while True:
                libc.renameat2(fd, b"d", fd, b"s", _EXCHANGE)
        finally:
            os._exit(1)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


@pytest.fixture
def ground(tmp_path: Path) -> tuple[Path, Path]:
    """(a container's root with /w/d and /w/s, a directory of the host)."""
    root, outside = tmp_path / "root", tmp_path / "outside"
    (root / "w/d").mkdir(parents=True)
    outside.mkdir()
    (outside / "secret").write_text("of the host")
    (root / "w/d/secret").write_text("mine")
    (root / "w/s").symlink_to(outside)
    return root, outside


def test_s20_ten_thousand_reads_while_components_are_swapped(ground: tuple[Path, Path]) -> None:
    root, _ = ground
    top = os.open(root, os.O_PATH)
    seen = set()
    with swapping(root / "w"), open(os.devnull, "wb") as null:
        for number in range(TRIES):
            path = (b"/w/d/secret", b"/w/d/", b"/w/d")[number % 3]
            try:
                fd = roots.open_entry(top, path)
            except (FileNotFoundError, NotADirectoryError):
                seen.add("refused")
                continue
            out = _Kept(null.fileno())
            try:
                reading._TreeTar(fd, out).run(b"x")
            finally:
                os.close(fd)
            data = b"".join(out.parts)
            assert b"of the host" not in data
            seen.add("mine" if b"mine" in data else "link")
    os.close(top)
    assert seen == {"refused", "mine", "link"}


class _Kept(reading._Out):
    """Keeps what is written."""

    def __init__(self, fd: int) -> None:
        super().__init__(fd)
        self.parts: list[bytes] = []

    def add(self, data: bytes) -> None:
        self.parts.append(data)

    def flush(self) -> None:
        pass


def test_s20_ten_thousand_writes_while_components_are_swapped(ground: tuple[Path, Path]) -> None:
    """Entries of every kind beneath a directory that is a link to outside half of the time."""
    root, outside = ground
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        for name, kind in (
            ("d/f", tarfile.REGTYPE), ("d/n", tarfile.DIRTYPE), ("d/l", tarfile.SYMTYPE), ("d/p", tarfile.FIFOTYPE),
            ("d/secret", tarfile.REGTYPE),
        ):  # fmt: skip
            entry = tarfile.TarInfo(name)
            entry.type, entry.linkname, entry.mode = kind, "x", 0o4777
            tar.addfile(entry)
    top = os.open(root, os.O_PATH)
    done = {True: 0, False: 0}
    with swapping(root / "w"):
        for _ in range(TRIES // 5):
            tree = extracting._ContainerTree(top, b"w", False, None)
            reader = extracting.TarReader(extracting.ByteStream(iter([archive.getvalue()])))
            try:
                while (entry := reader.next()) is not None:
                    tree.make(entry, reader)
                tree.finish()
                done[True] += 1
            except (OSError, ValueError):
                done[False] += 1
            finally:
                tree.close()
    os.close(top)
    assert [each.name for each in outside.iterdir()] == ["secret"]
    assert (outside / "secret").read_text() == "of the host"
    assert stat.S_IMODE(outside.stat().st_mode) == 0o755 and stat.S_IMODE((outside / "secret").stat().st_mode) == 0o644
    assert done[True] and done[False]


def in_worker(function: Any, *, fds: list[int] | None = None, **arguments: Any) -> Any:
    """Run a worker function in a child, as the zygote would; its result, or the error that it raised, by name."""
    reading_end, writing_end = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            try:
                answer = {"result": function(fds=fds or [], **arguments)}
            except DockyardError as error:
                answer = {"error": type(error).__name__, "text": error.message}
            os.write(writing_end, json.dumps(answer).encode())
        finally:
            os._exit(0)
    os.close(writing_end)
    with os.fdopen(reading_end, "rb") as file:
        data = file.read()
    os.waitpid(pid, 0)
    return json.loads(data)


@pytest.fixture
def layers(tmp_path: Path) -> dict[str, Any]:
    """An overlay of one layer and a writable one, as a place."""
    base = tmp_path / "base"
    for part in ("l/a/etc", "l/a/gone", "c/x/fs", "c/x/work", "r"):
        (base / part).mkdir(parents=True)
    (base / "l/a/etc/f").write_text("below")
    os.mknod(base / "c/x/fs/gone", stat.S_IFCHR, 0)
    rootfs = {"type": "overlay", "base": str(base), "lower": ["l/a"], "upper": "c/x/fs", "work": "c/x/work"}
    return {"rootfs": rootfs, "mounts": [], "read_only": False, "writable": False}


def test_reading_a_stopped_container_changes_nothing_of_it(layers: dict[str, Any], tmp_path: Path) -> None:
    volume = tmp_path / "volume"
    volume.mkdir()
    (volume / "v").write_text("v")
    layers["mounts"] = [
        {"source": str(volume), "destination": "/new/mount", "read_only": True},
        {"source": str(volume / "v"), "destination": "/etc/f", "read_only": True},
        {"source": str(tmp_path / "nowhere"), "destination": "/nowhere", "read_only": True},
    ]
    before = Path("/proc/self/mountinfo").read_text()
    assert in_worker(reading.look, place=layers, path="/new/mount/v")["result"]["size"] == 1
    assert in_worker(reading.look, place=layers, path="/etc/f")["result"]["size"] == 1
    assert in_worker(reading.look, place=layers, path="/gone")["error"] == "NotFound"
    assert os.listdir(tmp_path / "base/c/x/fs") == ["gone"] and os.listdir(tmp_path / "base/r") == []
    assert Path("/proc/self/mountinfo").read_text() == before
    changed = in_worker(
        comparing.changes, tree=str(tmp_path / "base/c/x/fs"), lower=[str(tmp_path / "base/l/a")], overlay=True
    )
    assert changed["result"] == [["/gone", 2]]


def test_a_process_that_is_another_now_is_not_entered(layers: dict[str, Any]) -> None:
    mine = {"pid": os.getpid(), "start_time": process.start_time(os.getpid()) + 1}
    assert in_worker(reading.look, place=mine, path="/")["error"] == Unavailable.__name__
    gone = {"pid": 2**22 - 1, "start_time": 1}
    assert in_worker(reading.look, place=gone, path="/")["error"] == Unavailable.__name__


def test_a_container_that_ends_in_the_middle_is_read_to_its_end(tmp_path: Path) -> None:
    """Its mount namespace is kept as long as it is read, with what is mounted beneath."""
    inner = tmp_path / "inner"
    inner.mkdir()
    ready, go = os.pipe(), os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            process.unshare(abi.CLONE_NEWNS)
            from dockyard.linux import mounts

            mounts.mount("", "/", "", abi.MS_PRIVATE | abi.MS_REC)
            mounts.mount("tmpfs", str(inner), "tmpfs")
            (inner / "f").write_text("on a tmpfs")
            os.write(ready[1], b"x")
            os.read(go[0], 1)
        finally:
            os._exit(0)
    os.read(ready[0], 1)
    place = {"pid": pid, "start_time": process.start_time(pid)}

    def work(fds: list[int]) -> int:
        with roots.standing(place) as root:
            os.write(go[1], b"x")
            time.sleep(0.2)
            fd = roots.open_entry(root, os.fsencode(inner / "f"))
            return os.fstat(fd).st_size

    assert in_worker(work)["result"] == len("on a tmpfs")
    os.waitpid(pid, 0)
    for fd in (*ready, *go):
        os.close(fd)
    assert not (inner / "f").exists()


def test_copies_share_nothing_but_keep_everything(tmp_path: Path) -> None:
    source, target = tmp_path / "from", tmp_path / "to"
    deep = source
    for _ in range(600):  # deeper than what is held open or recursed into
        deep = deep / "d"
    deep.mkdir(parents=True)
    target.mkdir()
    (deep / "end").write_text("deep")
    with open(source / "sparse", "wb") as file:
        file.seek(10 << 20)
        file.write(b"end")
    (source / "one").write_text("1")
    os.link(source / "one", source / "two")
    os.setxattr(source / "d", b"trusted.overlay.opaque", b"y")
    os.mknod(source / "white", stat.S_IFCHR, 0)
    os.utime(source / "d", ns=(1, 2))
    copytree.copy(fds=[], source=str(source), target=str(target), marks=True)
    assert (target / deep.relative_to(source) / "end").read_text() == "deep"
    assert (target / "sparse").stat().st_size == (10 << 20) + 3 and (target / "sparse").stat().st_blocks < 1000
    assert (target / "one").stat().st_ino == (target / "two").stat().st_ino != (source / "one").stat().st_ino
    assert os.getxattr(target / "d", b"trusted.overlay.opaque") == b"y" and (target / "d").stat().st_mtime_ns == 2
    assert stat.S_ISCHR((target / "white").lstat().st_mode)


@pytest.mark.parametrize("kind", ["btrfs", "xfs"])
def test_copies_share_blocks_where_the_file_system_can(tmp_path: Path, kind: str) -> None:
    with mounted(kind, tmp_path, 320 if kind == "xfs" else 128) as place:
        for name in ("from", "to"):
            (place / name).mkdir()
        data = os.urandom(20 << 20)
        (place / "from/big").write_bytes(data)
        before = _free(place)
        copytree.copy(fds=[], source=str(place / "from"), target=str(place / "to"))
        assert before - _free(place) < 5 << 20
        assert (place / "to/big").read_bytes() == data


def _free(place: Path) -> int:
    os.sync()
    state = os.statvfs(place)
    return state.f_bavail * state.f_frsize


@pytest.mark.parametrize("driver", DRIVERS)
def test_a_container_may_begin_as_a_copy_of_another(place: Path, tmp_path: Path, driver: str) -> None:
    async def work(store: Store) -> None:
        chain = await prepared(store)
        with container_root(store, tmp_path) as root:
            change(root)
        await store.snapshots.prepare(OTHER, chain, copy_of=CONTAINER)
        for container in (CONTAINER, OTHER):
            found = await inline.call("dockyard.store.comparing:changes", store.snapshots.written(container))
            changes = dict(found)
            assert changes["/d/one"] == 2 and changes["/d/three"] == 1 and changes["/a"] == 0 and changes["/new/y"] == 1
            assert changes["/etc/conf"] == 2 and changes["/etc/other"] == 1 and changes["/etc"] == 0
            assert "/d/two" not in changes
        with container_root(store, tmp_path, OTHER) as root:
            assert (root / "d/three").read_bytes() == b"3" * 70_000 and not (root / "etc/conf").exists()
            (root / "d/three").write_bytes(b"4")
            (root / "d/two").unlink()
        with container_root(store, tmp_path) as root:
            assert (root / "d/three").read_bytes() == b"3" * 70_000 and (root / "d/two").exists()
        store.snapshots.remove(CONTAINER)
        with container_root(store, tmp_path, OTHER) as root:
            assert (root / "new/y").read_bytes() == b"x"
        store.snapshots.remove(OTHER)

    run(place, work, driver)
