"""Which stages a target needs, and what each of them is based on and copies from.

Owns: names (stages, indices, named contexts, images), the order that references must obey, ONBUILD triggers. Does not
own: what instructions do (`evaluate`).

A reference is to an earlier stage only, so stages in the order of the file are in an order that works.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Final, Literal, NamedTuple

from dockyard.model.build import BuildOptions, NamedContext
from dockyard.model.errors import InvalidArgument
from dockyard.model.oci import ImageConfig, Platform, run_config
from dockyard.proto import platforms, references
from dockyard.proto.dockerfile import mounts, scope
from dockyard.proto.dockerfile.errors import DockerfileError, Problem, closest, located, quoted, suggest
from dockyard.proto.dockerfile.instructions import Copy, Dockerfile, Instruction, Onbuild, Range, Run, Stage
from dockyard.proto.dockerfile.ops import BaseRef
from dockyard.proto.dockerfile.parse import parse_trigger
from dockyard.proto.dockerfile.words import Expanded, Rules, expand

Configs = Mapping[tuple[str, str], ImageConfig]

SCRATCH: Final = "scratch"
RESERVED: Final = (SCRATCH, "context")
_IMAGE_ID: Final = re.compile(r"(?:sha256:)?[0-9a-f]{64}\Z")
_MAX_TRIGGERS: Final = 1000


class Ref(NamedTuple):
    """What a name stands for. stage: `stage`; image: `image`; context: `name` ("" is the build context); scratch."""

    kind: Literal["stage", "image", "context", "scratch"]
    stage: int = -1
    image: BaseRef | None = None
    name: str = ""


class Node(NamedTuple):
    """A stage with its names resolved. `triggers`: of its base, they come before its own instructions."""

    stage: Stage
    base: Ref
    base_name: str  # of an image, as resolved
    platform: str
    triggers: tuple[Instruction, ...]

    @property
    def instructions(self) -> tuple[Instruction, ...]:
        return self.triggers + self.stage.instructions


class FromTexts(NamedTuple):
    """FROM's words with variables resolved, for the checks too."""

    image: Expanded
    platform: Expanded | None


class Graph:
    """A Dockerfile under given options. Building it checks every FROM; the rest is looked at as it is asked for."""

    def __init__(self, dockerfile: Dockerfile, options: BuildOptions, configs: Configs, platform: str = "") -> None:
        self.dockerfile, self.options, self.configs = dockerfile, options, configs
        self.platform = target_platform(options, platform)
        self.explicit_platform = bool(platform or options.platforms)
        self._contexts = {_context_key(name): (name, context) for name, context in options.contexts.items()}
        self.build_args = scope.given(options)
        self.names: dict[str, int] = {}
        last = dockerfile.stages[-1]
        automatic = scope.platform_args(options, self.platform, options.target or last.name)
        self.scope = scope.global_scope(dockerfile, automatic, self.build_args)
        self.rules = Rules(dockerfile.escape)
        self.texts = [self.from_texts(stage, self.scope) for stage in dockerfile.stages]
        self._bases: list[tuple[Ref, str, str]] = []
        for stage in dockerfile.stages:
            self._bases.append(self._base(stage))
            if stage.name:
                self.names[stage.name] = stage.index
        self._nodes: dict[int, Node] = {}

    # Errors -----------------------------------------------------------------------------------------------------

    def error(self, problem: Problem, where: Range) -> DockerfileError:
        return located(problem, where, self.dockerfile.source, self.dockerfile.name)

    # FROM -------------------------------------------------------------------------------------------------------

    def from_texts(self, stage: Stage, variables: Mapping[str, str]) -> FromTexts:
        base = stage.base
        try:
            image = expand(base.image, variables, self.rules)
            platform = expand(base.platform, variables, self.rules) if base.platform else None
            if not image.text:
                raise Problem(f"base name ({quoted(base.image)[1:-1]}) should not be blank", at=base.image)
            if platform is not None and not platform.text:
                hint = next(filter(None, (suggest(name, variables) for name in sorted(platform.unset))), "")
                problem = f"empty platform value from expression {quoted(base.platform)[1:-1]}{hint}"
                raise Problem(problem, at=base.platform)
        except Problem as problem:
            raise self.error(problem, base.range) from None
        return FromTexts(image, platform)

    def _base(self, stage: Stage) -> tuple[Ref, str, str]:
        texts = self.texts[stage.index]
        name = texts.image.text
        try:
            platform = self._stage_platform(stage, texts)
            override = self._override(stage.name, platform or self.platform, stage.base.range) if stage.name else None
            if override is not None:
                return override, stage.name, platform or self.platform
            if name.lower() in self.names and self._overriding(name, platform) is None:
                index = self.names[name.lower()]
                return Ref("stage", index), name, self._bases[index][2]  # as its base, whatever --platform says
            ref = self._outside(name, platform or self.platform, stage.base.range, stage.base.image, stage.index)
        except Problem as problem:
            raise self.error(problem, stage.base.range) from None
        return ref, name, platform or self.platform

    def _stage_platform(self, stage: Stage, texts: FromTexts) -> str:
        if texts.platform is None:
            return ""
        try:
            return _platform(texts.platform.text)
        except InvalidArgument as error:
            hint = next(filter(None, (suggest(name, self.scope) for name in sorted(texts.platform.unset))), "")
            written = stage.base.platform
            problem = f"failed to parse platform {quoted(written)[1:-1]}: {error}{hint}"
            raise Problem(problem, at=written) from None

    # Names ------------------------------------------------------------------------------------------------------

    def overridden(self, stage: Stage) -> bool:
        """Whether a named context stands for this stage: its instructions do not run."""
        return bool(stage.name) and self._overriding(stage.name, "") is not None

    def _overriding(self, name: str, platform: str) -> tuple[str, NamedContext] | None:
        if name.lower() in RESERVED:
            return None
        key = _context_key(name)
        return self._contexts.get(f"{key}::{platform}") or self._contexts.get(key)

    def _override(self, name: str, platform: str, where: Range) -> Ref | None:
        found = self._overriding(name, platform)
        if found is None:
            return None
        given_name, context = found
        if context.kind == "image":
            return Ref("image", image=BaseRef(_check_image(context.value), platform, where))
        if context.kind == "oci-layout":
            return Ref("image", image=BaseRef(f"oci-layout://{context.value}", platform, where, oci_layout=True))
        if context.kind == "target":
            raise Problem(f"named context {quoted(given_name)}: targets of bake files are not supported")
        return Ref("context", name=given_name)

    def _outside(self, name: str, platform: str, where: Range, written: str, before: int) -> Ref:
        """Not a stage: scratch, a named context or an image."""
        if name == SCRATCH:
            return Ref(SCRATCH)
        override = self._override(name, platform, where)
        if override is not None:
            return override
        meant = closest(name, self._stage_names(before))
        hint = f" (did you mean {meant}?)" if meant else ""
        try:
            image = _check_image(name)
        except InvalidArgument as error:
            raise Problem(f"failed to parse stage name {quoted(name)}: {error}{hint}", at=written) from None
        return Ref("image", image=BaseRef(image, platform, where, hint=hint))

    def _stage_names(self, before: int) -> Iterator[str]:
        return (stage.name for stage in self.dockerfile.stages[:before] if stage.name)

    def resolve(self, name: str, user: Stage, where: Range, platform: str, doing: str) -> Ref:
        """What `--from=NAME` or `from=NAME` in a stage stands for. Problem. `doing`: "copy", "mount"."""
        if not name:
            return Ref("context")
        index = self.names.get(name.lower(), -1)
        if name.isascii() and name.isdigit() and index < 0:
            index = int(name) if len(name) < 9 else len(self.dockerfile.stages)
            if index >= len(self.dockerfile.stages):
                raise Problem(f"invalid stage index {quoted(name)[1:-1]}", at=name)
        elif index < 0:
            return self._outside(name, platform, where, name, user.index)
        if index == user.index:
            raise Problem(f"circular dependency detected on stage: {label(user)}", at=name)
        if index > user.index:
            problem = (
                f'cannot {doing} from stage {quoted(name)}, it needs to be defined before current stage "{label(user)}"'
            )
            raise Problem(problem, at=name)
        return Ref("stage", index)

    # Stages -----------------------------------------------------------------------------------------------------

    def target(self) -> Stage:
        """The stage to build. InvalidArgument naming it if there is none."""
        wanted = self.options.target
        stages = self.dockerfile.stages
        if not wanted:
            return stages[-1]
        index = self.names.get(wanted.lower(), -1)
        if index < 0 and wanted.isascii() and wanted.isdigit() and len(wanted) < 9:
            index = int(wanted)
        if not 0 <= index < len(stages):
            hint = suggest(wanted, self.names)
            raise InvalidArgument(f"target stage {quoted(wanted)} could not be found{hint}")
        return stages[index]

    def node(self, index: int) -> Node:
        """A stage with the triggers of its base, as far as that is known."""
        node = self._nodes.get(index)
        if node is None:
            stage = self._stage(index)
            base, name, platform = self._bases[index]
            node = Node(stage, base, name, platform, self._triggers(stage, base))
            if base.image is None or base.image.key in self.configs:
                self._nodes[index] = node
        return node

    def _stage(self, index: int) -> Stage:
        stage = self.dockerfile.stages[index]
        return Stage(stage.index, stage.base) if self.overridden(stage) else stage

    def _triggers(self, stage: Stage, base: Ref) -> tuple[Instruction, ...]:
        if base.kind == "stage":
            texts = [one.trigger for one in self._stage(base.stage).instructions if isinstance(one, Onbuild)]
        elif base.image is not None and base.image.key in self.configs and not self.overridden(stage):
            texts = run_config(self.configs[base.image.key], base.image.ref).on_build or []
        else:
            return ()
        if len(texts) > _MAX_TRIGGERS:
            raise self.error(
                Problem(f"the base image has more than {_MAX_TRIGGERS} ONBUILD triggers"), stage.base.range
            )
        escape = self.dockerfile.escape if base.kind == "stage" else "\\"
        where, name = stage.base.range, self.dockerfile.name
        return tuple(parse_trigger(text, escape, where, name) for text in texts)

    def references(self, node: Node) -> Iterator[Ref]:
        """Everything that a stage needs, its base first. DockerfileError."""
        yield node.base
        for instruction in node.instructions:
            yield from self.sources(node, instruction)

    def sources(self, node: Node, instruction: Instruction) -> list[Ref]:
        """What a COPY or the mounts of a RUN read from, one each. DockerfileError."""
        found = []
        try:
            if isinstance(instruction, Copy):
                self._check_from(instruction)
                names, doing = [instruction.from_], "copy"
            elif isinstance(instruction, Run):
                names, doing = [mounts.from_of(text) for text in instruction.mounts], "mount"
            else:
                return []
            for name in names:
                found.append(self.resolve(name, node.stage, instruction.range, self.platform, doing))
        except Problem as problem:
            raise self.error(problem, instruction.range) from None
        return found

    @staticmethod
    def _check_from(instruction: Copy) -> None:
        if instruction.from_ and expand(instruction.from_, {}).text != instruction.from_:
            problem = "variable expansion is not supported for --from, define a new stage with FROM using ARG from "
            raise Problem(f"{problem}global scope as a workaround", at=instruction.from_)

    def reachable(self, targets: list[int]) -> list[int]:
        """The stages that these need, in the order of the file, themselves included."""
        seen: set[int] = set()
        todo = list(targets)
        while todo:
            index = todo.pop()
            if index not in seen:
                seen.add(index)
                todo += [ref.stage for ref in self.references(self.node(index)) if ref.kind == "stage"]
        return sorted(seen)

    def missing(self, stages: list[int]) -> list[BaseRef]:
        """Images that must be resolved for these stages and are not yet; each once."""
        found: dict[tuple[str, str], BaseRef] = {}
        for index in stages:
            for ref in self.references(self.node(index)):
                if ref.image is not None and ref.image.key not in self.configs:
                    found.setdefault(ref.image.key, ref.image)
        return list(found.values())


def target_platform(options: BuildOptions, platform: str = "") -> str:
    """What is built for, in normal form. InvalidArgument."""
    return _platform(platform or (options.platforms[0] if options.platforms else options.build_platform))


def label(stage: Stage) -> str:
    """How messages and progress call a stage."""
    return stage.name or f"stage-{stage.index}"


def _platform(text: str) -> str:
    return platforms.show(platforms.parse(text, Platform("amd64", "linux")))


def _context_key(name: str) -> str:
    """ "docker.io/library/alpine:latest" and "alpine" are one."""
    bare, separator, platform = name.partition("::")
    try:
        familiar = references.parse(bare).familiar.removesuffix(":latest")
    except InvalidArgument:
        familiar = bare.lower()
    return familiar + separator + platform


def _check_image(name: str) -> str:
    """The reference as written. InvalidArgument if it is none; an image's ID is one too."""
    if not _IMAGE_ID.match(name):
        references.parse(name)
    return name
