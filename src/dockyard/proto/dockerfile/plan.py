"""A Dockerfile and options -> the graph of what to do and the resulting image's configuration.

Owns: `bases`, `plan`, the classic builder's numbering of steps. Does not own: names and reachability (`graph`), what
instructions do (`evaluate`), carrying the plan out (`engine.builds`).

Pure. Two calls:

    configs = {}
    while missing := bases(dockerfile, options, configs, platform):
        for ref in missing:
            configs[ref.key] = <resolved>          # ImageConfig
    graph = plan(dockerfile, options, configs, platform)

(A loop, because ONBUILD triggers of a base image may name further images.)
"""

from __future__ import annotations

from msgspec import structs

from dockyard.model.build import BuildOptions
from dockyard.model.oci import ImageConfig, Platform
from dockyard.proto import platforms
from dockyard.proto.dockerfile import lint, scope
from dockyard.proto.dockerfile.building import Building
from dockyard.proto.dockerfile.checks import Checks, enforce, settings_of
from dockyard.proto.dockerfile.errors import DockerfileError, Problem, located
from dockyard.proto.dockerfile.evaluate import Evaluator
from dockyard.proto.dockerfile.graph import Configs, Graph
from dockyard.proto.dockerfile.instructions import Arg, Dockerfile
from dockyard.proto.dockerfile.ops import BaseRef, Plan, Step
from dockyard.proto.dockerignore import Ignore

__all__ = ["Configs", "bases", "plan", "unresolved"]


def bases(
    dockerfile: Dockerfile, options: BuildOptions, configs: Configs, platform: str = "", *, every_stage: bool = False
) -> list[BaseRef]:
    """Images that the target (`every_stage`: the whole file, for the checks) needs and `configs` has not yet.

    `platform`: the one to build for, "" = `options.platforms`' first or the build platform. DockerfileError where the
    file makes no sense, InvalidArgument for a target that is not there.
    """
    graph = Graph(dockerfile, options, configs, platform)
    target = graph.target()
    return graph.missing(list(range(len(dockerfile.stages))) if every_stage else graph.reachable([target.index]))


def unresolved(dockerfile: Dockerfile, base: BaseRef, problem: str) -> DockerfileError:
    """The error to raise when an image of `bases` cannot be had: `problem` with its place and what may be meant."""
    wrong = Problem(f"{base.ref}: {problem}{base.hint}", at=base.ref)
    return located(wrong, base.range, dockerfile.source, dockerfile.name)


def plan(
    dockerfile: Dockerfile,
    options: BuildOptions,
    configs: Configs,
    platform: str = "",
    *,
    ignore: Ignore | None = None,
) -> Plan:
    """The graph for one target platform. `ignore` is for the checks only (CopyIgnoredFile).

    DockerfileError with a position; InvalidArgument for options that fit no file (target, SOURCE_DATE_EPOCH).
    """
    graph = Graph(dockerfile, options, configs, platform)
    epoch = scope.epoch(options, graph.scope)
    target = graph.target()
    reachable = graph.reachable([target.index])
    checks = Checks(settings_of(dockerfile, graph.build_args))
    lint.look(dockerfile, options, checks, platform)
    evaluator = Evaluator(graph, checks, ignore)
    evaluator.run(reachable)
    enforce(checks.found, dockerfile, graph.build_args)
    several = len(dockerfile.stages) + len(_implicit_images(graph, reachable)) > 1
    for stage in evaluator.stages.values():
        stage.name_vertices(several=several, with_platform=len(options.platforms) > 1)
    result = evaluator.stages[target.index]
    return Plan(
        vertices=tuple(evaluator.vertices.all),
        result=result.vertex,
        base=result.base,
        layers=tuple(result.layers),
        config=_config(graph, result),
        made=tuple(result.made),
        steps=_steps(graph, evaluator, reachable),
        epoch=epoch,
        platform=graph.platform,
        stage=result.label,
        warnings=checks.found,
        unused_args=scope.unused(options, _declared(dockerfile, graph, reachable)),
    )


def _config(graph: Graph, stage: Building) -> ImageConfig:
    config = stage.finished()
    if graph.options.labels:
        document = dict(config.config or {})
        document["Labels"] = {**document.get("Labels", {}), **graph.options.labels}
        config = structs.replace(config, config=document)
    wanted = platforms.parse(graph.platform, Platform("amd64", "linux"))
    if graph.explicit_platform or not config.architecture:
        same = (config.os, config.architecture) == (wanted.os, wanted.architecture)
        variant = config.variant if same and not wanted.variant else wanted.variant
        config = structs.replace(config, os=wanted.os, architecture=wanted.architecture, variant=variant)
    return config


def _implicit_images(graph: Graph, reachable: list[int]) -> set[tuple[str, str]]:
    """Images that are copied or mounted from without being a stage's base."""
    found = set()
    for index in reachable:
        node = graph.node(index)
        found |= {ref.image.key for ref in graph.references(node) if ref.image is not None and ref is not node.base}
    return found


def _steps(graph: Graph, evaluator: Evaluator, reachable: list[int]) -> tuple[Step, ...]:
    """Global ARGs, then FROM and the instructions of each stage that is built; triggers belong to their FROM."""
    found: list[tuple[str, int | None, int]] = []
    found += [(instruction.text, None, 0) for instruction in graph.dockerfile.global_args]
    for index in reachable:
        stage, node = evaluator.stages[index], graph.node(index)
        found.append((node.stage.base.text, stage.base, len(node.triggers)))
        ends = zip(node.stage.instructions, stage.ends, strict=True)
        found += [(instruction.text, vertex, 0) for instruction, vertex in ends]
    return tuple(Step(number, len(found), *one) for number, one in enumerate(found, 1))


def _declared(dockerfile: Dockerfile, graph: Graph, reachable: list[int]) -> set[str]:
    instructions = [one for index in reachable for one in graph.node(index).instructions]
    arguments = [one for one in instructions if isinstance(one, Arg)]
    return scope.declared([*dockerfile.global_args, *arguments])
