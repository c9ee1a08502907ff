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

_PACKAGES = {"btrfs": "btrfs-progs", "ext4": "e2fsprogs", "xfs": "xfsprogs"}
_FLAGS = {"btrfs": ["-q"], "ext4": ["-q", "-F"], "xfs": ["-q", "-f"]}


@contextmanager
def mounted(kind: str, beneath: Path, megabytes: int) -> Iterator[Path]:
    """A fresh file system of that kind ("btrfs", "ext4", "xfs" from 300 MB on), mounted beneath `beneath`.

    Skips without its mkfs.
    """
    program = shutil.which(f"mkfs.{kind}") or f"/sbin/mkfs.{kind}"
    if not os.path.exists(program):
        pytest.skip(f"mkfs.{kind} is not installed (apt-get install {_PACKAGES[kind]})")
    image, place = beneath / f"{kind}.img", beneath / kind
    with open(image, "wb") as file:
        file.truncate(megabytes << 20)
    subprocess.run([program, *_FLAGS[kind], image], check=True, capture_output=True)
    place.mkdir()
    subprocess.run(["mount", "-o", "loop", image, place], check=True, capture_output=True)
    try:
        place.chmod(0o711)
        yield place
    finally:
        subprocess.run(["umount", place], check=True, capture_output=True)
        image.unlink()
