"""What a killed daemon leaves of volumes, and what the next start makes of it; creation, removal, filling."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Coroutine, Iterator
from pathlib import Path
from typing import Any, TypeVar

import pytest

from dockyard.engine.volumes import ANONYMOUS, DOUBTFUL, KEPT, Volumes
from dockyard.model.errors import Conflict, DockyardError, InvalidArgument, NotFound, SystemFailure
from dockyard.store import copyup, inline
from dockyard.store.db import Database
from dockyard.store.layout import Layout
from dockyard.store.volumes import VolumeStore

T = TypeVar("T")


class Ground:
    """A data root with its database; `volumes()` is a daemon's view after a start."""

    def __init__(self, path: Path) -> None:
        self.layout = Layout(path / "data", path / "exec")
        self.layout.open()
        self.database = Database(self.layout.database)
        self.database.open()
        self.store = VolumeStore(self.database)

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run(work)

    async def volumes(self, *used: str, running: dict[str, set[str]] | None = None) -> Volumes:
        made = Volumes(self.layout, self.store, inline.call, lambda: 1_000)
        await made.open(used, running or {})
        return made

    def names(self) -> set[str]:
        return {path.name for path in self.layout.volumes.iterdir()}

    def mode(self, name: str) -> int:
        return (self.layout.volumes / name).stat().st_mode & 0o777


@pytest.fixture
def ground(tmp_path: Path) -> Iterator[Ground]:
    made = Ground(tmp_path)
    yield made
    made.database.close()
    made.layout.close()


def nobody() -> None:
    """Nobody uses it."""


def test_records_outlive_the_daemon(ground: Ground) -> None:
    async def steps() -> None:
        volumes = await ground.volumes()
        made, new = await volumes.make("mine", {"type": "tmpfs", "device": "tmpfs"}, {"a": "b"})
        assert new and made.is_mount
        again, new = await volumes.make("mine", None, {"other": "label"})
        assert again is made and not new
        found = (await ground.volumes()).get("mine")
        assert (found.labels, found.options, found.created_at) == ({"a": "b"}, made.options, 1_000)
        unnamed, _ = await volumes.make("", None, None)
        assert unnamed.labels == {ANONYMOUS: ""} and unnamed.row.anonymous

    ground.run(steps())
    assert ground.mode("mine") == KEPT


def test_many_at_once_make_one(ground: Ground) -> None:
    async def steps() -> None:
        volumes = await ground.volumes()
        found = await asyncio.gather(*(volumes.make("mine") for _ in range(10)))
        assert sum(new for _, new in found) == 1 and len({id(volume) for volume, _ in found}) == 1

    ground.run(steps())


def test_a_creation_that_was_cut_before_its_row(ground: Ground) -> None:
    async def steps() -> None:
        volumes = await ground.volumes()
        cut, kept = volumes.begin(), volumes.begin()
        await ground.store.insert([kept.row])
        volumes.keep([kept])
        again = await ground.volumes()
        assert again.find(cut.name) is None
        assert ground.names() == {kept.name}

    ground.run(steps())


def test_cut_between_the_row_and_the_mark(ground: Ground) -> None:
    async def steps() -> None:
        name = (await ground.volumes()).begin().name
        assert ground.mode(name) == DOUBTFUL
        await ground.volumes(name)  # a container's row names it
        assert ground.mode(name) == KEPT
        assert (await ground.volumes()).get(name).row.anonymous  # left by a removal without -v later on

    ground.run(steps())


@pytest.mark.parametrize("row_gone", [False, True])
def test_a_removal_that_was_cut(ground: Ground, row_gone: bool) -> None:
    async def steps() -> None:
        volumes = await ground.volumes()
        await volumes.make("mine")
        volumes.doubt(["mine"])
        if row_gone:
            await ground.store.delete(["mine"])
        assert ((await ground.volumes()).find("mine") is None) == row_gone

    ground.run(steps())
    assert ground.names() == (set() if row_gone else {"mine"})


def test_a_directory_without_a_row_is_somebodys(ground: Ground) -> None:
    """Of a version that kept no rows, or under an older database: never swept."""
    data = ground.layout.volumes / "mine" / "_data"
    data.mkdir(parents=True)
    (data / "x").write_text("kept")
    os.chmod(data.parent, KEPT)
    assert ground.run(ground.volumes()).get("mine").labels is None
    assert (data / "x").read_text() == "kept"


def test_a_row_without_a_directory_is_made_anew(ground: Ground) -> None:
    async def steps() -> None:
        volumes = await ground.volumes()
        made, _ = await volumes.make("mine")
        os.rmdir(made.path)
        os.rmdir(os.path.dirname(made.path))
        volumes = await ground.volumes()
        await volumes.attach(volumes.get("mine"), "c")
        assert os.path.isdir(made.path)

    ground.run(steps())


def test_removal(ground: Ground) -> None:
    async def steps() -> None:
        volumes = await ground.volumes()
        await volumes.make("mine")

        def used() -> None:
            raise Conflict("in use")

        with pytest.raises(Conflict):
            await volumes.remove("mine", used)
        assert ground.mode("mine") == KEPT
        await volumes.remove("mine", nobody)
        assert await ground.store.load() == [] and ground.names() == set()
        with pytest.raises(NotFound, match="get mine: no such volume"):
            await volumes.remove("mine", nobody)

    ground.run(steps())


@pytest.mark.parametrize(
    ("name", "options", "text"),
    [
        ("../up", None, 'create ../up: "../up" includes invalid characters for a local volume name'),
        ("a", None, "create a: volume name is too short, names should be at least two alphanumeric characters"),
        ("x" * 300, None, "longer than 255"),
        ("ok", {"foo": "1"}, 'create ok: invalid option: "foo"'),
        ("ok", {"device": "/x"}, 'create ok: missing required option: "type"'),
        ("ok", {"o": "bind"}, 'create ok: missing required option: "device"'),
        ("ok", {"size": "zz"}, "create ok: invalid size: 'zz'"),
        ("ok", {"size": "1m"}, "create ok: quota size requested but no quota support"),
    ],
)
def test_s26_bad_names_and_options_leave_nothing(
    ground: Ground, name: str, options: dict[str, str] | None, text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dockyard.store.quotas.supported", lambda directory: False)
    with pytest.raises(InvalidArgument) as caught:
        ground.run(_make(ground, name, options))
    assert text in str(caught.value)
    assert ground.names() == set()


async def _make(ground: Ground, name: str, options: dict[str, str] | None) -> None:
    await (await ground.volumes()).make(name, options)


def test_one_that_goes_while_it_is_measured_has_no_size(ground: Ground) -> None:
    async def steps() -> None:
        volumes = await ground.volumes()
        made, _ = await volumes.make("mine")
        Path(made.path, "x").write_bytes(b"12345")
        assert await volumes.usages([made]) == {"mine": 5}
        await volumes.remove("mine", nobody)
        assert await volumes.usages([made]) == {"mine": 0}

    ground.run(steps())


def test_who_claims_a_volume(ground: Ground) -> None:
    volumes = ground.run(ground.volumes())
    with volumes.claim(["a", "a", "b"]):
        assert volumes.claimed("a") and volumes.claimed("b")
        with volumes.claim(["a"]):
            pass
        assert volumes.claimed("a")
    assert not volumes.claimed("a") and not volumes.claimed("b")


# --- filling ---


@pytest.fixture
def layers(tmp_path: Path) -> list[str]:
    """Two layers: `data` with an own mode, a file, a link, a hard link; the upper one hides a file and adds one."""
    lower, upper = tmp_path / "lower", tmp_path / "upper"
    (lower / "data" / "sub").mkdir(parents=True)
    (lower / "data" / "a").write_text("A")
    (lower / "data" / "gone").write_text("hidden")
    os.link(lower / "data" / "a", lower / "data" / "sub" / "same")
    os.symlink("/etc/passwd", lower / "data" / "link")
    (lower / "empty").mkdir(mode=0o700)
    (lower / "file").write_text("x")
    os.symlink("data", lower / "alias")
    (upper / "data").mkdir(parents=True)
    (upper / "data" / "b").write_text("B")
    os.mknod(upper / "data" / "gone", 0o020000, 0)  # a whiteout
    os.chmod(upper / "data", 0o2750)
    return [str(upper), str(lower)]


needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="whiteouts are device nodes")


@needs_root
@pytest.mark.parametrize("seen", [False, True])
@pytest.mark.parametrize("path", ["/data", "/alias"])
def test_an_empty_volume_is_filled(ground: Ground, layers: list[str], seen: bool, path: str) -> None:
    async def steps() -> str:
        volumes = await ground.volumes()
        made, _ = await volumes.make("mine")
        await volumes.fill(made, layers, path, seen=seen)
        return made.path

    data = Path(ground.run(steps()))
    assert {entry.name for entry in data.iterdir()} == {"a", "b", "link", "sub"}
    assert data.stat().st_mode & 0o7777 == 0o2750
    assert os.readlink(data / "link") == "/etc/passwd"
    assert (data / "a").stat().st_ino == (data / "sub" / "same").stat().st_ino
    assert {entry.name for entry in data.parent.iterdir()} == {"_data"}


@needs_root
def test_what_has_content_stays_as_it_is(ground: Ground, layers: list[str]) -> None:
    async def steps() -> None:
        volumes = await ground.volumes()
        made, _ = await volumes.make("mine")
        Path(made.path, "own").write_text("x")
        await volumes.fill(made, layers, "/data", seen=False)
        assert os.listdir(made.path) == ["own"]
        other, _ = await volumes.make("other")
        await volumes.fill(other, layers, "/empty", seen=False)
        assert os.stat(other.path).st_mode & 0o777 == 0o700
        await volumes.fill(other, layers, "/nothing/there", seen=False)
        with pytest.raises(InvalidArgument, match="cannot mount volume over existing file, file exists /file"):
            await volumes.fill(other, layers, "/file", seen=False)

    ground.run(steps())


@needs_root
def test_a_copy_that_was_cut_is_made_again(ground: Ground, layers: list[str]) -> None:
    async def steps() -> None:
        volumes = await ground.volumes()
        made, _ = await volumes.make("mine")
        staged = Path(made.path).parent / copyup.STAGED
        staged.mkdir()
        (staged / "half").write_text("")
        volumes = await ground.volumes()
        assert not staged.exists() and os.listdir(made.path) == []
        await volumes.fill(volumes.get("mine"), layers, "/data", seen=False)
        assert sorted(os.listdir(made.path)) == ["a", "b", "link", "sub"]

    ground.run(steps())


def test_a_copy_that_was_complete_is_finished(ground: Ground) -> None:
    async def steps() -> None:
        made, _ = await (await ground.volumes()).make("mine")
        complete = Path(made.path).parent / copyup.COMPLETE
        complete.mkdir(mode=0o750)
        for name in ("a", "b"):
            (complete / name).write_text("from the image")
        Path(made.path, "a").write_text("the container's")
        await ground.volumes()
        assert not complete.exists()
        assert Path(made.path, "a").read_text() == "the container's"
        assert Path(made.path, "b").read_text() == "from the image"

    ground.run(steps())


@needs_root
def test_a_full_disk_leaves_the_volume_empty(
    ground: Ground, layers: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("dockyard.store.copytree.copy_content", full)

    async def steps() -> None:
        volumes = await ground.volumes()
        made, _ = await volumes.make("mine")
        with pytest.raises(DockyardError, match="no space left") as caught:
            await volumes.fill(made, layers, "/data", seen=False)
        assert isinstance(caught.value, SystemFailure)
        assert os.listdir(made.path) == [] and os.listdir(os.path.dirname(made.path)) == ["_data"]

    ground.run(steps())
