"""The build checks that look at a file as it is written, and `check`: all of them over the whole file.

Owns: style of keywords and names, FROM's arguments and platforms, comments as descriptions. Does not own: checks that
need a stage's variables (`evaluate` reports those), the rules' names and settings (`checks`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from dockyard.model.build import BuildOptions
from dockyard.model.errors import InvalidArgument
from dockyard.model.oci import Platform
from dockyard.proto import platforms, references
from dockyard.proto.dockerfile import scope
from dockyard.proto.dockerfile.checks import Checks, settings_of
from dockyard.proto.dockerfile.errors import DockerfileError, Problem, closest
from dockyard.proto.dockerfile.evaluate import Evaluator
from dockyard.proto.dockerfile.gotext import quote
from dockyard.proto.dockerfile.graph import RESERVED, Configs, Graph, target_platform
from dockyard.proto.dockerfile.instructions import Arg, Dockerfile, From, Instruction, Maintainer, Warning
from dockyard.proto.dockerfile.words import Expanded, Rules, expand
from dockyard.proto.dockerignore import Ignore

_TARGETPLATFORM: Final = "TARGETPLATFORM"


def check(
    dockerfile: Dockerfile,
    options: BuildOptions,
    configs: Configs,
    platform: str = "",
    *,
    ignore: Ignore | None = None,
) -> tuple[tuple[Warning, ...], DockerfileError | None]:
    """`--check`: every finding in every stage, and the error that would break the build.

    Nothing is said about variables of a base image that `configs` does not have.
    """
    checks = Checks(settings_of(dockerfile, scope.given(options)))
    look(dockerfile, options, checks, platform)
    error = None
    try:
        graph = Graph(dockerfile, options, configs, platform)
        Evaluator(graph, checks, ignore, lenient=True).run(list(range(len(dockerfile.stages))))
    except DockerfileError as raised:
        error = raised
    return checks.found, error


def look(dockerfile: Dockerfile, options: BuildOptions, checks: Checks, platform: str = "") -> None:
    """What needs no evaluation, over the whole file."""
    instructions = list(_all(dockerfile))
    _casing(instructions, dockerfile, checks)
    for instruction in instructions:
        if instruction.empty_continuation:
            checks.report("NoEmptyContinuation", "Empty continuation line", instruction)
        if isinstance(instruction, Maintainer):
            text = "Maintainer instruction is deprecated in favor of using label"
            checks.report("MaintainerDeprecated", text, instruction)
        _description(instruction, checks)
    _stage_names(dockerfile, checks)
    target = options.target or dockerfile.stages[-1].name
    automatic = scope.platform_args(options, target_platform(options, platform), target)
    _from_arguments(dockerfile, automatic, scope.given(options), checks)
    _default_arguments(dockerfile, automatic, checks)


def _all(dockerfile: Dockerfile) -> list[Instruction]:
    found: list[Instruction] = list(dockerfile.global_args)
    for stage in dockerfile.stages:
        found += [stage.base, *stage.instructions]
    return found


def _casing(instructions: list[Instruction], dockerfile: Dockerfile, checks: Checks) -> None:
    """All in capitals or all in small letters, whichever most are. ARGs before the first FROM do not count."""
    counted = instructions[len(dockerfile.global_args) :]
    lower = sum(one.keyword.islower() for one in counted)
    upper = sum(one.keyword.isupper() for one in counted)
    wanted = "lowercase" if lower > upper else "uppercase"
    for one in counted:
        if not (one.keyword.islower() if lower > upper else one.keyword.isupper()):
            text = f"Command '{one.keyword}' should match the case of the command majority ({wanted})"
            checks.report("ConsistentInstructionCasing", text, one)


def _stage_names(dockerfile: Dockerfile, checks: Checks) -> None:
    seen: set[str] = set()
    for stage in dockerfile.stages:
        base = stage.base
        if not base.name:
            continue
        if base.name_written != base.name:
            text = f"Stage name '{base.name_written}' should be lowercase"
            checks.report("StageNameCasing", text, base)
        if base.name in RESERVED:
            text = f"Stage name should not use the same name as reserved stage {quote(base.name)}"
            checks.report("ReservedStageName", text, base)
        if base.name in seen:
            text = f"Duplicate stage name {quote(base.name)}, stage names should be unique"
            checks.report("DuplicateStageName", text, base)
        seen.add(base.name)
        _as_casing(base, checks)


def _as_casing(base: From, checks: Checks) -> None:
    if not (base.keyword.islower() or base.keyword.isupper()):
        return  # the keyword itself is objected to
    if base.as_keyword.islower() != base.keyword.islower() or base.as_keyword.isupper() != base.keyword.isupper():
        text = f"'{base.as_keyword}' and '{base.keyword}' keywords' casing do not match"
        checks.report("FromAsCasing", text, base)


def _description(instruction: Instruction, checks: Checks) -> None:
    if isinstance(instruction, From):
        names, example = ([instruction.name] if instruction.name else []), instruction.name
    elif isinstance(instruction, Arg):
        names = [item.key for item in instruction.items]
        example = names[0] if len(names) == 1 else "<arg_key>"
    else:
        return
    last = instruction.comments[-1] if instruction.comments else ""
    if names and last and last.split(" ")[0] not in names:
        text = f"Comment for {instruction.keyword.upper()} should follow the format: `# {example} <description>`"
        checks.report("InvalidDefinitionDescription", text, instruction)


def _from_arguments(
    dockerfile: Dockerfile, automatic: Mapping[str, str], build_args: Mapping[str, str], checks: Checks
) -> None:
    try:
        variables = scope.global_scope(dockerfile, automatic, build_args)
    except DockerfileError:
        return  # it stops the build anyway
    known = {*variables, *scope.declared(dockerfile.global_args)}
    rules = Rules(dockerfile.escape)
    for stage in dockerfile.stages:
        base = stage.base
        try:
            image, platform = expand(base.image, variables, rules), expand(base.platform, variables, rules)
        except Problem:
            continue
        for name in sorted((image.unset | platform.unset) - known):
            meant = closest(name, known)
            hint = f" (did you mean {meant}?)" if meant else ""
            checks.report("UndefinedArgInFrom", f"FROM argument '{name}' is not declared{hint}", base)
        if base.platform:
            _platform(base, platform, variables[_TARGETPLATFORM], checks)


def _platform(base: From, found: Expanded, target: str, checks: Checks) -> None:
    if found.used == {_TARGETPLATFORM} and not found.unset and found.text == target:
        text = f"Setting platform to predefined {base.platform} in FROM is redundant as this is the default behavior"
        checks.report("RedundantTargetPlatform", text, base)
    if found.used or found.unset:
        return
    try:
        platform = platforms.parse(found.text, Platform("amd64", "linux"))
    except InvalidArgument:
        return
    if platform.os not in base.name and platform.architecture not in base.name:
        text = f"FROM --platform flag should not use constant value {quote(found.text)}"
        checks.report("FromPlatformFlagConstDisallowed", text, base)


def _default_arguments(dockerfile: Dockerfile, automatic: Mapping[str, str], checks: Checks) -> None:
    """A file should make sense without any --build-arg."""
    try:
        defaults = scope.global_scope(dockerfile, automatic, {})
    except DockerfileError:
        return
    for stage in dockerfile.stages:
        try:
            references.parse(expand(stage.base.image, defaults, Rules(dockerfile.escape)).text)
        except Problem:
            return
        except InvalidArgument:
            text = f"Default value for ARG {stage.base.image} results in empty or invalid base image name"
            checks.report("InvalidDefaultArgInFrom", text, stage.base)
