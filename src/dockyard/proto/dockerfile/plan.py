"""A Dockerfile and options -> the graph of what to do and the resulting image's configuration.

Pure. Two calls:

    configs = {}
    while missing := bases(dockerfile, options, configs, platform):
        for ref in missing:
            configs[ref.key] = <resolved>          # ImageConfig
    graph = plan(dockerfile, options, configs, platform)

(A loop, because ONBUILD triggers of a base image may name further images.)
"""

from __future__ import annotations

from collections.abc import Mapping

from dockyard.model.build import BuildOptions
from dockyard.model.oci import ImageConfig
from dockyard.proto.dockerfile.instructions import Dockerfile
from dockyard.proto.dockerfile.ops import BaseRef, Plan

Configs = Mapping[tuple[str, str], ImageConfig]


def bases(dockerfile: Dockerfile, options: BuildOptions, configs: Configs, platform: str = "") -> list[BaseRef]:
    """Images that the target needs and `configs` has not yet. DockerfileError where the file makes no sense."""
    raise NotImplementedError


def plan(dockerfile: Dockerfile, options: BuildOptions, configs: Configs, platform: str = "") -> Plan:
    """The graph for one target platform ("" = the build platform). DockerfileError with a position."""
    raise NotImplementedError
