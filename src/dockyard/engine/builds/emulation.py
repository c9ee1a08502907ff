"""Whether this host can run the programs of a platform.

Owns: what runs without help, looking at the kernel's interpreters, the refusal. Does not own: their entries' form
(`proto.binfmt`). Source: binfmt_misc; an interpreter must be registered with the flag F to be seen in containers.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Final

from dockyard.engine.images.variants import host_platform
from dockyard.model.errors import InvalidArgument
from dockyard.model.oci import Platform
from dockyard.proto import binfmt, platforms
from dockyard.proto.dockerfile.ops import Exec, Vertex

DIRECTORY: Final = "/proc/sys/fs/binfmt_misc"
_NATIVE: Final = {("amd64", "386"), ("arm64", "arm")}  # the kernel runs the second on the first
_SPECIAL: Final = ("register", "status")


def check(vertices: Iterable[Vertex]) -> None:
    """InvalidArgument naming the first RUN whose programs nothing here can run."""
    runnable: dict[str, bool] = {}
    for vertex in vertices:
        if not isinstance(vertex.op, Exec):
            continue
        if vertex.platform not in runnable:
            runnable[vertex.platform] = can_run(vertex.platform)
        if not runnable[vertex.platform]:
            raise InvalidArgument(
                f"{vertex.name} (line {vertex.range.first}): this host ({platforms.show(host_platform())}) cannot run "
                f"programs for {vertex.platform}: no interpreter for them is registered, with the flag F, in "
                f"{DIRECTORY} (install qemu-user-static); COPY and stages FROM --platform=$BUILDPLATFORM need none"
            )


def can_run(platform: str) -> bool:
    host = host_platform()
    wanted = platforms.parse(platform, host) if platform else host
    if wanted.os != host.os:
        return False
    if wanted.architecture == host.architecture or (host.architecture, wanted.architecture) in _NATIVE:
        return True
    return any(entry.fixed and binfmt.takes(entry, wanted.architecture) for entry in _entries())


def _entries() -> list[binfmt.Entry]:
    found = []
    try:
        names = [name for name in os.listdir(DIRECTORY) if name not in _SPECIAL]
    except OSError:
        return []
    for name in names:
        try:
            with open(f"{DIRECTORY}/{name}", encoding="utf-8", errors="replace") as file:
                entry = binfmt.parse(file.read())
        except OSError:
            continue
        if entry is not None:
            found.append(entry)
    return found


def platform_of(text: str) -> Platform:
    """A plan's platform as documents have it."""
    return platforms.parse(text, host_platform())
