"""How much a container may write (`--storage-opt size`), and a volume (`-o size=`), where the file system limits it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from dockyard.store import quotas
from tests.support import loopfs
from tests.support.engines import Dockyardd
from tests.support.flagged import load_images

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
MIB = 1 << 20
FILL = "head -c 30000000 /dev/zero > {}/f; sync; ls -l {}/f | awk '{{print $5}}'"


@contextmanager
def engine_on(place: Path, driver: str) -> Iterator[Dockyardd]:
    made = Dockyardd(parent=str(place), bridge="dyq0", subnet="10.231.15.0/24")
    made.config_file.write_text(json.dumps({"storage-driver": driver}))
    with made as engine:
        load_images(engine)
        assert engine.out("info", "-f", "{{.Driver}}") == driver
        yield engine


def test_a_size_on_btrfs(tmp_path: Path) -> None:
    with loopfs.mounted("btrfs", tmp_path, 512) as place, engine_on(place, "btrfs") as engine:
        words = ["run", "--rm", "--storage-opt", "size=20M", "bb", "sh", "-c", FILL.format("", "")]
        done = engine.docker(*words, check=False)
        assert b"error" in done.stderr and 0 < int(done.stdout) < 20 << 20
        printed = engine.out("run", "--rm", "bb", "sh", "-c", FILL.format("", ""))
        assert printed == "30000000", "no other container is limited"
        failed = engine.docker("run", "--rm", "--storage-opt", "size=lots", "bb", "true", check=False)
        assert b"invalid size: 'lots'" in failed.stderr
        engine.stop()
        engine.config_file.write_text(json.dumps({"storage-driver": "btrfs", "storage-opts": ["btrfs.size=20M"]}))
        engine.start()
        done = engine.docker("run", "--rm", "bb", "sh", "-c", FILL.format("", ""), check=False)
        assert b"error" in done.stderr and 0 < int(done.stdout) < 20 << 20, "the daemon's, where a container names none"
        more = ["run", "--rm", "--storage-opt", "size=60M", "bb", "sh", "-c", FILL.format("", "")]
        assert engine.out(*more) == "30000000"


@contextmanager
def with_project_quotas(kind: str, beneath: Path) -> Iterator[Path]:
    """xfs with pquota, as Docker demands it; ext4 with prjquota. Skips where the kernel has none."""
    flags, option = {"xfs": (["-q"], "pquota"), "ext4": (["-q", "-F", "-O", "project,quota"], "prjquota")}[kind]
    program = shutil.which(f"mkfs.{kind}")
    if not program:
        pytest.skip(f"mkfs.{kind} is not installed (xfsprogs, e2fsprogs)")
    image, place = beneath / f"{kind}.img", beneath / kind
    with open(image, "wb") as file:
        file.truncate(512 << 20)
    subprocess.run([program, *flags, image], check=True)
    place.mkdir()
    if subprocess.run(["mount", "-o", f"loop,{option}", image, place], check=False, capture_output=True).returncode:
        pytest.skip(f"this kernel has no project quotas on {kind}")
    try:
        yield place
    finally:
        subprocess.run(["umount", place], check=True)
        image.unlink()


@pytest.mark.vm
@pytest.mark.parametrize("kind", ["xfs", "ext4"])
def test_trees_with_a_limit(kind: str, tmp_path: Path) -> None:
    """Two directories share one limit; a third has another; released, they are as any."""

    def holds(directory: Path) -> int:
        """Bytes that a root as in a container gets into a file there. (ext4 lets CAP_SYS_RESOURCE beyond limits.)"""
        path = directory / "f"
        path.unlink(missing_ok=True)
        try:
            with open(path, "wb") as file:
                words = ["setpriv", "--bounding-set=-sys_resource", "head", "-c", str(6 * MIB), "/dev/zero"]
                subprocess.run(words, stdout=file, stderr=subprocess.DEVNULL, check=False)
        except OSError:
            return 0  # xfs: not even an inode
        return path.stat().st_size

    with with_project_quotas(kind, tmp_path) as place:
        assert quotas.supported(place)
        for name in ("a", "b", "c"):
            (place / name).mkdir()
        quotas.limit([place / "a", place / "b"], 4 * MIB)
        quotas.limit([place / "c"], 2 * MIB)
        assert 3 * MIB < holds(place / "a") <= 4 * MIB
        assert holds(place / "b") < MIB, "a has taken what they share"
        assert MIB < holds(place / "c") <= 2 * MIB
        assert shutil.disk_usage(place / "c").total == 2 * MIB, "statfs tells the limit"
        quotas.release(place / "a")
        assert holds(place / "a") == 6 * MIB


@pytest.mark.parametrize("kind", [pytest.param("xfs", marks=pytest.mark.vm), "ext4"])
def test_a_size_where_there_are_project_quotas(kind: str, tmp_path: Path) -> None:
    """overlay's writable layers and volumes."""
    with with_project_quotas(kind, tmp_path) as place:
        assert quotas.supported(place)
        with engine_on(place, "overlay") as engine:
            words = ["run", "--name", "small", "--storage-opt", "size=20M", "bb", "sh", "-c", FILL.format("", "")]
            done = engine.docker(*words, check=False)
            assert b"error" in done.stderr and 0 < int(done.stdout) <= 20 << 20
            engine.docker("rm", "small")
            engine.docker("volume", "create", "-o", "size=10M", "little")
            words = ["run", "--rm", "-v", "little:/v", "bb", "sh", "-c", FILL.format("/v", "/v")]
            done = engine.docker(*words, check=False)
            assert b"error" in done.stderr and 0 < int(done.stdout) <= 10 << 20
            engine.docker("volume", "rm", "little")
            assert engine.out("run", "--rm", "bb", "sh", "-c", FILL.format("", "")) == "30000000"
