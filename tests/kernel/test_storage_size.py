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
from tests.conformance.conftest import load_images
from tests.support import loopfs
from tests.support.engines import Dockyardd

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
FILL = "head -c 60000000 /dev/zero > {}/f; sync; ls -l {}/f | awk '{{print $5}}'"


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
        assert printed == "60000000", "no other container is limited"
        failed = engine.docker("run", "--rm", "--storage-opt", "size=lots", "bb", "true", check=False)
        assert b"invalid size: 'lots'" in failed.stderr


@pytest.mark.vm
def test_a_size_where_there_are_project_quotas(tmp_path: Path) -> None:
    """xfs with pquota, as Docker demands it: overlay's writable layers and volumes."""
    if not shutil.which("mkfs.xfs"):
        pytest.skip("mkfs.xfs is not installed (xfsprogs)")
    image, place = tmp_path / "img", tmp_path / "xfs"
    with open(image, "wb") as file:
        file.truncate(512 << 20)
    subprocess.run(["mkfs.xfs", "-q", image], check=True)
    place.mkdir()
    if subprocess.run(["mount", "-o", "loop,pquota", image, place], check=False, capture_output=True).returncode:
        pytest.skip("this kernel has no quotas on xfs")
    try:
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
            assert engine.out("run", "--rm", "bb", "sh", "-c", FILL.format("", "")) == "60000000"
    finally:
        subprocess.run(["umount", place], check=True)
