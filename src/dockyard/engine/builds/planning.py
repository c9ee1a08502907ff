"""From a request to the graph of its steps.

Owns: finding and reading the Dockerfile, resolving the images that it names, telling what there is to do. Does not own:
the language (`proto.dockerfile`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence

from dockyard.engine.builds import emulation, sources
from dockyard.engine.builds.ground import Session
from dockyard.model.build import UNUSED_ARGUMENT, Planned, StepInfo, VertexInfo, Warned
from dockyard.model.errors import DockyardError
from dockyard.model.oci import ImageConfig
from dockyard.proto.dockerfile import lint, parse
from dockyard.proto.dockerfile.checks import url
from dockyard.proto.dockerfile.graph import target_platform
from dockyard.proto.dockerfile.instructions import Dockerfile, Warning
from dockyard.proto.dockerfile.merging import merge
from dockyard.proto.dockerfile.ops import BaseRef, Plan, Vertex
from dockyard.proto.dockerfile.plan import bases, unresolved
from dockyard.proto.dockerfile.plan import plan as make_plan


async def plan(session: Session) -> list[Plan]:
    """Read, and plan for each platform over one list of vertices. DockerfileError with its position; InvalidArgument
    for a Dockerfile that is not there, or a RUN that this host cannot carry out."""
    dockerfile = await _dockerfile(session)
    names = tuple(dict.fromkeys(target_platform(session.options, name) for name in session.options.platforms))
    plans = merge([await _plan(session, dockerfile, name) for name in names or ("",)])
    session.epoch = plans[0].epoch
    _warn(session, dict.fromkeys(warning for plan in plans for warning in plan.warnings), dockerfile)
    if unused := [name for name in plans[0].unused_args if all(name in plan.unused_args for plan in plans)]:
        text = f"One or more build-args [{' '.join(unused)}] were not consumed"
        session.emit(Warned(UNUSED_ARGUMENT, text))
    await asyncio.to_thread(emulation.check, plans[0].vertices)
    return plans


async def _plan(session: Session, dockerfile: Dockerfile, platform: str) -> Plan:
    options = session.options
    configs: dict[tuple[str, str], ImageConfig] = {}
    while missing := bases(dockerfile, options, configs, platform):
        found = await asyncio.gather(*(_resolved(session, dockerfile, base) for base in missing))
        configs |= {base.key: config for base, config in zip(missing, found, strict=True)}
    return make_plan(dockerfile, options, configs, platform)


async def check(session: Session) -> None:
    """Only look (`--check`): every finding in every stage is told, nothing is pulled. DockerfileError for what would
    break the build."""
    dockerfile = await _dockerfile(session)
    configs: dict[tuple[str, str], ImageConfig] = {}
    asked: set[tuple[str, str]] = set()
    while missing := [b for b in bases(dockerfile, session.options, configs, every_stage=True) if b.key not in asked]:
        for base in missing:
            asked.add(base.key)
            image = sources.local(session, base)
            if image is not None:
                configs[base.key] = image.record.config
    found, error = lint.check(dockerfile, session.options, configs)
    _warn(session, found, dockerfile)
    if error is not None:
        raise error


async def _dockerfile(session: Session) -> Dockerfile:
    name = session.options.dockerfile
    text = session.request.dockerfile_text or session.dockerfile
    if text is None:
        text = await asyncio.to_thread(sources.read_dockerfile, session.contexts.get(""), name)
    return parse.parse(text, name)


async def _resolved(session: Session, dockerfile: Dockerfile, base: BaseRef) -> ImageConfig:
    try:
        return await sources.resolve(session, base)
    except DockyardError as error:
        raise unresolved(dockerfile, base, str(error)) from error


def _warn(session: Session, warnings: Iterable[Warning], dockerfile: Dockerfile) -> None:
    for warning in warnings:
        where = warning.range
        source = "\n".join(dockerfile.source[where.first - 1 : where.last]) if where.first else ""
        session.emit(
            Warned(
                warning.rule,
                warning.text,
                url=url(warning.rule),
                first_line=where.first,
                last_line=where.last,
                source=source,
            )
        )


def announce(plans: Sequence[Plan], name: Callable[[int], str]) -> Planned:
    """What there is to do, for those who show it."""
    return Planned(
        tuple(_info(vertex, number, name) for number, vertex in enumerate(plans[0].vertices)),
        tuple(
            StepInfo(step.number, step.of, step.text, None if step.vertex is None else name(step.vertex), step.triggers)
            for plan in plans
            for step in plan.steps
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
