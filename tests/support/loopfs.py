"""File systems in files, mounted over a loop device, for tests that need one of a kind or one that is full.

Owns: making, mounting and taking away again. Does not own: what is tested on them.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


@contextmanager
def mounted(kind: str, beneath: Path, megabytes: int) -> Iterator[Path]:
    """A fresh file system of that kind ("btrfs", "ext4"), mounted beneath `beneath`. Skips without its mkfs."""
    program = shutil.which(f"mkfs.{kind}") or f"/sbin/mkfs.{kind}"
    if not os.path.exists(program):
        pytest.skip(f"mkfs.{kind} is not installed ({'btrfs-progs' if kind == 'btrfs' else 'e2fsprogs'})")
    image, place = beneath / f"{kind}.img", beneath / kind
    with open(image, "wb") as file:
        file.truncate(megabytes << 20)
    subprocess.run([program, *(["-q"] if kind == "btrfs" else ["-q", "-F"]), image], check=True, capture_output=True)
    place.mkdir()
    subprocess.run(["mount", "-o", "loop", image, place], check=True, capture_output=True)
    try:
        place.chmod(0o711)
        yield place
    finally:
        subprocess.run(["umount", place], check=True, capture_output=True)
        image.unlink()
