"""Containers with new volumes: the image `filled` has a VOLUME with files in it and one that is empty.

Owns: the image and the two pieces of work. Does not own: turns and rows (`bench.__main__`).
"""

from __future__ import annotations

import time
from typing import Any

from tests.support import busybox, steps
from tests.support.rawhttp import Connection

FILES = 300


def archive() -> bytes:
    """The image, for `docker load`."""
    files = {f"data/{number:03d}": b"x" * 4000 for number in range(FILES)}
    layers = [busybox.rootfs_tar(), busybox.layer_tar(files)]
    return busybox.docker_archive(["filled:latest"], layers, {"Cmd": ["true"]})


def run(api: Connection, target: str) -> float:
    """create, start, wait, remove with its volume, of a container with a new volume at `target`; seconds."""
    body: dict[str, Any] = {
        "Image": "filled", "Cmd": ["true"], "Volumes": {target: {}}, "HostConfig": {"NetworkMode": "none"},
    }  # fmt: skip
    begun = time.perf_counter()
    identifier = steps.expect(api.post("/containers/create", body), 201).json()["Id"]
    steps.expect(api.post(f"/containers/{identifier}/start"), 204)
    steps.expect(api.post(f"/containers/{identifier}/wait"), 200)
    steps.expect(api.delete(f"/containers/{identifier}", v=True), 204)
    return time.perf_counter() - begun
