"""From a request to the graph of its steps.

Owns: finding and reading the Dockerfile, resolving the images that it names, telling what there is to do. Does not own:
the language (`proto.dockerfile`).
"""

from __future__ import annotations

import asyncio
import os
import stat
from collections.abc import Callable

from dockyard.engine.builds import sources
from dockyard.engine.builds.ground import Session, Tree
from dockyard.model.build import Planned, StepInfo, VertexInfo
from dockyard.model.errors import InvalidArgument
from dockyard.model.oci import ImageConfig
from dockyard.proto.dockerfile import parse
from dockyard.proto.dockerfile.ops import Plan, Vertex
from dockyard.proto.dockerfile.plan import bases
from dockyard.proto.dockerfile.plan import plan as make_plan
from dockyard.store.mergedtree import MergedTree

_MAX_DOCKERFILE = 1 << 20


async def plan(session: Session) -> Plan:
    """Read and plan. DockerfileError with its position; InvalidArgument for a Dockerfile that is not there."""
    request, options = session.request, session.options
    text = request.dockerfile_text
    if text is None:
        text = await asyncio.to_thread(_read, session.contexts.get(""), options.dockerfile)
    dockerfile = parse.parse(text, options.dockerfile)
    configs: dict[tuple[str, str], ImageConfig] = {}
    while missing := bases(dockerfile, options, configs):
        found = await asyncio.gather(*(sources.resolve(session, base) for base in missing))
        configs |= {base.key: config for base, config in zip(missing, found, strict=True)}
    return make_plan(dockerfile, options, configs)


def _read(context: Tree | None, name: str) -> bytes:
    shown = name or "Dockerfile"
    if context is not None:
        with MergedTree(context.layers) as tree:
            found = tree.lookup(os.fsencode(shown), follow=True)
            if found is None and shown == "Dockerfile":
                found = tree.lookup(b"dockerfile", follow=True)
            if found is not None and stat.S_ISREG(found.status.st_mode):
                if found.status.st_size > _MAX_DOCKERFILE:
                    raise InvalidArgument(f"the Dockerfile ({shown}) is larger than {_MAX_DOCKERFILE} bytes")
                with os.fdopen(tree.open(found), "rb") as file:
                    return file.read()
    raise InvalidArgument(f"Cannot locate specified Dockerfile: {shown}")


def announce(planned: Plan, name: Callable[[int], str]) -> Planned:
    """What there is to do, for those who show it."""
    return Planned(
        tuple(_info(vertex, number, name) for number, vertex in enumerate(planned.vertices)),
        tuple(
            StepInfo(step.number, step.of, step.text, None if step.vertex is None else name(step.vertex), step.triggers)
            for step in planned.steps
        ),
    )


def _info(vertex: Vertex, number: int, name: Callable[[int], str]) -> VertexInfo:
    return VertexInfo(
        name(number),
        vertex.name,
        tuple(name(other) for other in vertex.inputs),
        vertex.stage,
        vertex.platform,
        vertex.range.first,
        vertex.range.last,
    )
