"""A real distribution as a test image: Debian bookworm, made by `dockyard image bootstrap` and kept in .cache/.

Owns: where it is kept and how it is made once. Does not own: the making (`edge.cli.commands.bootstrap`).
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from tests.support.engines import Engine

NAME = "debian:bookworm"
CACHE = Path(__file__).parents[2] / ".cache"
DOCKYARD = str(Path(sys.executable).with_name("dockyard"))
_NOT_HERE = ("the mirror cannot be reached", "is not installed", "needs root")


def bootstrap(engine: Engine, *flags: str, name: str = NAME) -> str:
    """The id of a fresh image on the engine. Skips where it cannot be made, saying why."""
    environment = {**engine.environment(), "DOCKYARD_HOST": engine.url}
    done = subprocess.run(
        [DOCKYARD, "image", "bootstrap", "-q", *flags, name], env=environment, capture_output=True, text=True,
        timeout=120, check=False,
    )  # fmt: skip
    if done.returncode != 0 and any(text in done.stderr for text in _NOT_HERE):
        pytest.skip(done.stderr.strip())
    assert done.returncode == 0, done
    return done.stdout.strip()


def load(engine: Engine) -> None:
    """`debian:bookworm` on the engine, from .cache/ if it was made before."""
    if _kept().exists():
        engine.docker("load", "-q", "-i", str(_kept()))
        return
    bootstrap(engine)
    keep(engine)


def keep(engine: Engine) -> None:
    """Put the engine's image into .cache/ for other tests."""
    CACHE.mkdir(exist_ok=True)
    fd, temporary = tempfile.mkstemp(dir=CACHE)
    os.close(fd)
    engine.docker("save", "-o", temporary, NAME)
    os.rename(temporary, _kept())


def _kept() -> Path:
    return CACHE / "debian-bookworm.tar"
