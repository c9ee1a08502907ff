"""What each instruction does to a stage.

Owns: going through the stages in order, the instructions that only change the configuration, FROM, WORKDIR.
Does not own: RUN, COPY and ADD (`evaluate_run`, `evaluate_copy`), which stages there are (`graph`).

Source: Dockerfile reference; history and environment as BuildKit has them.
"""

from __future__ import annotations

import re
import signal
from collections.abc import Callable
from typing import Any, Final

from msgspec import structs

from dockyard.model.container import HealthConfig
from dockyard.model.errors import InvalidArgument
from dockyard.model.oci import ImageConfig, Platform
from dockyard.proto import platforms, references
from dockyard.proto.dockerfile import gotext, ports, scope
from dockyard.proto.dockerfile.building import Budget, Building, Vertices, as_problem
from dockyard.proto.dockerfile.checks import Checks
from dockyard.proto.dockerfile.errors import Problem, quoted, suggest
from dockyard.proto.dockerfile.evaluate_copy import context_vertex, copy
from dockyard.proto.dockerfile.evaluate_run import absolute, run
from dockyard.proto.dockerfile.graph import Graph, Ref
from dockyard.proto.dockerfile.instructions import (
    Add,
    Arg,
    Cmd,
    Copy,
    Entrypoint,
    Env,
    Expose,
    Healthcheck,
    Instruction,
    Label,
    Maintainer,
    Onbuild,
    Run,
    Shell,
    Stopsignal,
    User,
    Volume,
    Workdir,
)
from dockyard.proto.dockerfile.ops import MakeDirectory, Scratch, SourceImage, Vertex
from dockyard.proto.dockerignore import Ignore

_SECRET: Final = re.compile(
    r"(?:_|^)(?:apikey|auth|credentials?|key|password|pword|passwd|secret|token)(?:_|$)", re.IGNORECASE
)
_NO_SECRET: Final = re.compile(r"(?:_|^)(?:public|file|version)(?:_|$)", re.IGNORECASE)
_MAX_ENV: Final = 128 * 1024  # bytes of one variable: what execve takes (MAX_ARG_STRLEN)


class Evaluator:
    """Goes through stages. `lenient`: a base image that is not known counts as one nothing is known of (checks)."""

    def __init__(self, graph: Graph, checks: Checks, ignore: Ignore | None = None, *, lenient: bool = False) -> None:
        self.graph, self.checks, self.ignore, self.lenient = graph, checks, ignore, lenient
        self.vertices = Vertices()
        self.stages: dict[int, Building] = {}
        self._budget = Budget()

    def run(self, indices: list[int]) -> None:
        """These stages, in order; what they refer to must be among them. DockerfileError."""
        for index in indices:
            self.stages[index] = self._stage(index)

    def _stage(self, index: int) -> Building:
        node = self.graph.node(index)
        stage = Building(self.graph, node, self.checks, self.vertices, self._budget)
        self._begin(stage)
        for number, instruction in enumerate(node.instructions):
            stage.in_trigger = number < len(node.triggers)
            before = len(stage.layers)
            try:
                self._carry_out(stage, instruction)
            except Problem as problem:
                if stage.in_trigger:
                    problem = Problem(f"in the base image's trigger ONBUILD {instruction.text}: {problem.text}")
                raise self.graph.error(problem, instruction.range) from None
            if not stage.in_trigger:
                stage.ends.append(stage.vertex if len(stage.layers) > before else None)
        return stage

    # FROM -------------------------------------------------------------------------------------------------------

    def _begin(self, stage: Building) -> None:
        node = stage.node
        base, where = node.base, node.stage.base.range
        if base.kind == "stage":
            try:
                stage.from_stage(self.stages[base.stage])
            except Problem as problem:
                raise self.graph.error(problem, where) from None
            return
        position = self._source(stage, base)
        assert position is not None
        stage.vertex = stage.base = position
        if base.image is None:
            stage.from_nothing(node.platform)
            return
        stage.number(position, f"FROM {_complete(base.image.ref)}")
        config = self.graph.configs.get(base.image.key)
        if config is None:
            if not self.lenient:
                raise self.graph.error(Problem(f"the image {quoted(base.image.ref)} is not resolved"), where)
            stage.from_nothing(node.platform)
            stage.unknown = True
            return
        try:
            stage.from_image(config, base.image.ref)
        except InvalidArgument as error:
            raise self.graph.error(as_problem(error, at=node.stage.base.image), where) from None
        self._check_platform(stage, config)

    def _check_platform(self, stage: Building, config: ImageConfig) -> None:
        base = stage.node.stage.base
        actual = platforms.show(Platform(config.architecture, config.os))
        expected = "/".join(stage.node.platform.split("/")[:2])
        if config.architecture and actual != expected:
            text = f'Base image {stage.node.base_name} was pulled with platform "{actual}", expected "{expected}"'
            self.checks.report("InvalidBaseImagePlatform", f"{text} for current build", base)

    def _source(self, stage: Building, ref: Ref) -> int | None:
        """The vertex that a name stands for; None for the build context, which is a vertex only when it is read."""
        if ref.kind == "stage":
            return self.stages[ref.stage].vertex
        where = stage.node.stage.base.range
        if ref.kind == "scratch":
            return self.vertices.share(Vertex(op=Scratch()))
        if ref.kind == "context":
            return context_vertex(stage, ref.name, where) if ref.name else None
        assert ref.image is not None
        name = "" if ref is stage.node.base else f"FROM {_complete(ref.image.ref)}"
        op = SourceImage(ref.image.ref, ref.image.platform)
        return self.vertices.share(Vertex(op=op, name=name, range=ref.image.range, platform=ref.image.platform))

    # Instructions -----------------------------------------------------------------------------------------------

    def _carry_out(self, stage: Building, instruction: Instruction) -> None:
        if isinstance(instruction, Run):
            refs = self.graph.sources(stage.node, instruction)
            run(stage, instruction, [self._mount_source(stage, ref, text) for ref, text in
                                     zip(refs, instruction.mounts, strict=True)])  # fmt: skip
        elif isinstance(instruction, Copy):
            source = None
            for ref in self.graph.sources(stage.node, instruction):
                source = self._source(stage, ref)
            copy(stage, instruction, source, self.ignore)
        elif isinstance(instruction, Add):
            copy(stage, instruction, None, self.ignore)
        else:
            _CHANGES[type(instruction)](stage, instruction)

    def _mount_source(self, stage: Building, ref: Ref, text: str) -> int | None:
        position = self._source(stage, ref)
        if position is None and _reads_context(text):
            return context_vertex(stage, "")
        return position


def _reads_context(mount: str) -> bool:
    """Whether a mount without `from` needs the build context: of type bind, which is also what a variable may say."""
    types = [field.partition("=")[2] for field in mount.split(",") if field.lower().startswith("type=")]
    return not types or types[-1].lower() == "bind" or "$" in types[-1]


def _complete(reference: str) -> str:
    try:
        return references.parse(reference).with_default_tag().complete
    except InvalidArgument:
        return reference


def _env(stage: Building, instruction: Env) -> None:
    pairs = []
    for item in instruction.items:
        _check_legacy(stage, instruction, item.legacy)
        pairs.append((stage.expand(item.key, instruction), stage.expand(item.value or "", instruction)))
    for key, value in pairs:
        _check_variable(key, value)
        _check_secret(stage, instruction, "ENV", key)
        stage.env[key] = stage.image_env[key] = value
    stage.record("ENV " + " ".join(f"{key}={value}" for key, value in pairs))


def _check_variable(key: str, value: str) -> None:
    if not key or "=" in key:
        raise Problem(f"invalid name of a variable: {quoted(key)}", at=key)
    if len(key.encode()) + len(value.encode()) > _MAX_ENV - 2:
        raise Problem(
            f"the variable {quoted(key)} is longer than {_MAX_ENV} bytes: no program could be started", at=key
        )


def _check_legacy(stage: Building, instruction: Instruction, legacy: bool) -> None:
    if legacy:
        name = instruction.keyword.upper()
        text = f'"{name} key=value" should be used instead of legacy "{name} key value" format'
        stage.checks.report("LegacyKeyValueFormat", text, instruction)


def names_secret(key: str) -> bool:
    """Whether a variable of this name is likely to hold what nobody should read."""
    return bool(_SECRET.search(key) and not _NO_SECRET.search(key))


def _check_secret(stage: Building, instruction: Instruction, kind: str, key: str) -> None:
    if names_secret(key):
        text = f"Do not use ARG or ENV instructions for sensitive data ({kind} {gotext.quote(key)})"
        stage.checks.report("SecretsUsedInArgOrEnv", text, instruction)


def _label(stage: Building, instruction: Label) -> None:
    pairs = []
    for item in instruction.items:
        _check_legacy(stage, instruction, item.legacy)
        pairs.append((stage.expand(item.key, instruction), stage.expand(item.value or "", instruction)))
    for key, value in pairs:
        if not key:
            raise Problem("LABEL names can not be blank")
        stage.labels[key] = value
    stage.record("LABEL " + " ".join(f"{key}={value}" for key, value in pairs))


def _arg(stage: Building, instruction: Arg) -> None:
    written = []
    for item in instruction.items:
        key = item.key
        _check_secret(stage, instruction, "ARG", key)
        if key in stage.graph.build_args:
            value: str | None = stage.graph.build_args[key]
        elif item.value is not None:
            value = stage.expand(item.value, instruction)
        else:
            value = stage.graph.scope.get(key)
        if value is not None:
            _check_variable(key, value)
            if key not in scope.NOT_ENVIRONMENT:
                stage.env[key] = value
        stage.args[key] = value
        written.append(key if value is None else f"{key}={value}")
    stage.record("ARG " + " ".join(written))


def _workdir(stage: Building, instruction: Workdir) -> None:
    path = stage.expand(instruction.path, instruction)
    if not stage.workdir_set and not path.startswith("/"):
        text = f"Relative workdir {gotext.quote(path)} can have unexpected results if the base image changes"
        stage.checks.report("WorkdirRelativePath", text, instruction)
    stage.workdir_set = True
    path = absolute(stage.cwd, path)
    stage.config = structs.replace(stage.config, working_dir=path)
    vertex = None
    if path != "/":
        op = MakeDirectory(path=path, user=stage.config.user, epoch=scope.epoch(stage.graph.options, stage.graph.scope))
        vertex = stage.step(op, (), instruction, stage.display(instruction.text))
    stage.record(f"WORKDIR {path}", vertex)


def _user(stage: Building, instruction: User) -> None:
    user = stage.expand(instruction.user, instruction)
    stage.config = structs.replace(stage.config, user=user)
    stage.record(f"USER {user}")


def _volume(stage: Building, instruction: Volume) -> None:
    paths = [stage.expand(path, instruction) for path in instruction.paths]
    if "" in paths:
        raise Problem("VOLUME specified can not be an empty string")
    stage.volumes.update((path, {}) for path in paths)
    stage.record(f"VOLUME {gotext.plain(paths)}")


def _expose(stage: Building, instruction: Expose) -> None:
    found: list[str] = []
    for word in instruction.ports:
        for text in stage.expand_words(word, instruction):
            exposed = ports.parse(text)
            if exposed.odd_case:
                problem = f"Defined protocol '{text}' in EXPOSE instruction should be lowercase"
                stage.checks.report("ExposeProtoCasing", problem, instruction)
            if exposed.mapped:
                problem = "EXPOSE instruction should not define an IP address or host-port mapping"
                stage.checks.report("ExposeInvalidFormat", f"{problem}, found '{text}'", instruction)
            found += exposed.ports
    stage.exposed.update((port, {}) for port in found)
    stage.record(f"EXPOSE {gotext.plain(found)}")


def _stopsignal(stage: Building, instruction: Stopsignal) -> None:
    text = stage.expand(instruction.signal, instruction)
    _check_signal(text)
    stage.config = structs.replace(stage.config, stop_signal=text)
    stage.record(f"STOPSIGNAL {text}")


def _check_signal(text: str) -> None:
    names = {name.removeprefix("SIG") for name in signal.Signals.__members__} | {"POLL", "CLD", "IOT"}
    names |= {f"RTMIN+{number}" for number in range(1, 16)} | {f"RTMAX-{number}" for number in range(1, 15)}
    if re.fullmatch(r"[0-9]{1,9}", text):
        if not 0 < int(text) <= 64:
            raise Problem(f"invalid signal: {text}", at=text)
    elif text.upper().removeprefix("SIG") not in names:
        hint = suggest(text.upper(), [f"SIG{name}" for name in names])
        raise Problem(f"invalid signal: {quoted(text)[1:-1]}{hint}", at=text)


def _shell(stage: Building, instruction: Shell) -> None:
    stage.config = structs.replace(stage.config, shell=list(instruction.command))
    stage.record(f"SHELL {gotext.plain(instruction.command)}")


def _in_shell(stage: Building, instruction: Cmd | Entrypoint) -> list[str]:
    """The arguments, with the shell in front for the shell form."""
    if not instruction.shell:
        return list(instruction.command)
    if not stage.config.shell:
        text = f"JSON arguments recommended for {instruction.keyword.upper()} to prevent unintended behavior"
        stage.checks.report("JSONArgsRecommended", f"{text} related to OS signals", instruction)
    return [*stage.shell, " ".join(instruction.command)]


def _place(stage: Building, instruction: Instruction, name: str) -> None:
    """CMD, ENTRYPOINT and HEALTHCHECK: only the last of a stage counts."""
    earlier = stage.placed.get(name)
    if earlier is not None:
        text = (
            f"Multiple {name} instructions should not be used in the same stage because only the last one will be used"
        )
        stage.checks.report("MultipleInstructionsDisallowed", text, instruction, earlier.range)
    stage.placed[name] = instruction


def _cmd(stage: Building, instruction: Cmd) -> None:
    _place(stage, instruction, "CMD")
    args = _in_shell(stage, instruction)
    stage.config = structs.replace(stage.config, cmd=args)
    stage.record(f"CMD {gotext.quotes(args)}")


def _entrypoint(stage: Building, instruction: Entrypoint) -> None:
    """It resets a CMD that was inherited: that was meant for another program."""
    _place(stage, instruction, "ENTRYPOINT")
    args = _in_shell(stage, instruction)
    stage.config = structs.replace(stage.config, entrypoint=args or None)
    if "CMD" not in stage.placed:
        stage.config = structs.replace(stage.config, cmd=None)
    stage.record(f"ENTRYPOINT {gotext.quotes(args)}")


def _healthcheck(stage: Building, instruction: Healthcheck) -> None:
    _place(stage, instruction, "HEALTHCHECK")
    if instruction.command is None:
        health = HealthConfig(test=["NONE"])
    else:
        health = HealthConfig(
            test=["CMD-SHELL" if instruction.shell else "CMD", *instruction.command],
            interval=instruction.interval,
            timeout=instruction.timeout,
            retries=instruction.retries,
            start_period=instruction.start_period,
            start_interval=instruction.start_interval,
        )
    stage.config = structs.replace(stage.config, healthcheck=health)
    stage.record(f"HEALTHCHECK {gotext.health(health)}")


def _onbuild(stage: Building, instruction: Onbuild) -> None:
    stage.on_build.append(stage.budget.spend(instruction.trigger))


def _maintainer(stage: Building, instruction: Maintainer) -> None:
    stage.author = instruction.name
    stage.record(f"MAINTAINER {instruction.name}")


_CHANGES: Final[dict[type[Instruction], Callable[[Building, Any], None]]] = {
    Arg: _arg,
    Cmd: _cmd,
    Entrypoint: _entrypoint,
    Env: _env,
    Expose: _expose,
    Healthcheck: _healthcheck,
    Label: _label,
    Maintainer: _maintainer,
    Onbuild: _onbuild,
    Shell: _shell,
    Stopsignal: _stopsignal,
    User: _user,
    Volume: _volume,
    Workdir: _workdir,
}
