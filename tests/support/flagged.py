"""Engines of a test module's own: with flags that the session's engine has not.

Owns: the choice of dockerd or dockyardd by a fixture's parameter and `--engine`, the start with flags, the images that
tests take for granted. Does not own: running the daemons (`support.engines`).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.support import busybox
from tests.support.engines import Dockyardd, Engine, PeerDocker, why_no_dockyardd, why_no_peer


def load_images(engine: Engine) -> None:
    """The images that the tests take for granted: `bb`."""
    rootfs = busybox.rootfs_tar({"bin/cannot-run": b"no program\n"})
    done = engine.docker("load", "-q", input=busybox.docker_archive(["bb:latest"], [rootfs], {"Cmd": ["sh"]}))
    assert b"bb:latest" in done.stdout, done


@contextmanager
def flagged(request: pytest.FixtureRequest, *flags: str, bridge: str, subnet: str) -> Iterator[Engine]:
    """The engine that `request.param` names, with these flags and the images; skips where it is not asked for.

    `bridge`, `subnet`: dockyardd's, which are nobody else's.
    """
    wanted = request.config.getoption("--engine")
    missing = why_no_peer() if request.param == "dockerd" else why_no_dockyardd()
    if missing or wanted not in ("both", request.param):
        pytest.skip(missing or f"{wanted} only")
    made = PeerDocker() if request.param == "dockerd" else Dockyardd(bridge=bridge, subnet=subnet)
    try:
        made.start(*flags)
        load_images(made)
        yield made
    finally:
        made.close()
