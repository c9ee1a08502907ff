"""A Dockerfile's bytes → typed instructions in stages.

Owns: the grammar of each instruction, the order that FROM imposes. Does not own: logical lines (`lines`), words and
variables (`words`), what an instruction does (`plan`), style (`lint`).

Source: Dockerfile reference; texts of errors as BuildKit's.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, Final, TypeVar

from dockyard.proto.dockerfile import healthchecks, lines, mounts
from dockyard.proto.dockerfile.errors import DockerfileError, Problem, located, quoted, suggest
from dockyard.proto.dockerfile.flags import LIST, SWITCH, TEXT, Flags
from dockyard.proto.dockerfile.instructions import (
    Add,
    Arg,
    Cmd,
    Copy,
    Dockerfile,
    Entrypoint,
    Env,
    Expose,
    From,
    Heredoc,
    Instruction,
    KeyValue,
    Label,
    Maintainer,
    Onbuild,
    Range,
    Run,
    Shell,
    Stage,
    Stopsignal,
    User,
    Volume,
    Workdir,
)
from dockyard.proto.dockerfile.words import json_words, split, split_line

_STAGE_NAME: Final = re.compile(r"[a-z][a-z0-9_.-]*\Z")
_ONBUILD: Final = re.compile(r"\s*onbuild\s+", re.IGNORECASE)
_TRANSFER_FLAGS: Final = {"chown": TEXT, "chmod": TEXT, "link": SWITCH, "exclude": LIST}

FLAGS: Final[dict[str, dict[str, str]]] = {
    "FROM": {"platform": TEXT},
    "RUN": {"mount": LIST, "network": TEXT, "security": TEXT, "device": LIST},
    "COPY": {**_TRANSFER_FLAGS, "from": TEXT, "parents": SWITCH},
    "ADD": {**_TRANSFER_FLAGS, "checksum": TEXT, "keep-git-dir": SWITCH, "unpack": SWITCH},
    "HEALTHCHECK": healthchecks.FLAGS,
}

T = TypeVar("T", bound=Instruction)


def parse(data: bytes, name: str = "Dockerfile") -> Dockerfile:
    """DockerfileError, with line and column, for everything that is not a Dockerfile."""
    text = lines.read(data, name)
    if not text.lines:
        problem = "file with no instructions" if data else "the Dockerfile cannot be empty"
        raise DockerfileError(problem, name, 1, 1, text.source)
    global_args: list[Arg] = []
    stages: list[tuple[From, list[Instruction]]] = []
    for line in text.lines:
        try:
            instruction = _instruction(line, text.escape)
            if isinstance(instruction, From):
                stages.append((instruction, []))
            elif stages:
                stages[-1][1].append(instruction)
            elif isinstance(instruction, Arg):
                global_args.append(instruction)
            else:
                raise Problem("no build stage in current context: the first instruction must be FROM (or ARG)")
        except Problem as problem:
            raise located(problem, line.range, text.source, name, parsing=True) from None
    if not stages:
        raise DockerfileError("dockerfile contains no stages to build: there is no FROM", name, 1, 1, text.source)
    return Dockerfile(
        source=text.source,
        escape=text.escape,
        directives=text.directives,
        global_args=tuple(global_args),
        stages=tuple(Stage(index, base, tuple(rest)) for index, (base, rest) in enumerate(stages)),
        name=name,
    )


def parse_trigger(text: str, escape: str, where: Range, name: str) -> Instruction:
    """An ONBUILD trigger of a base image; it stands where the FROM stands. DockerfileError there."""
    found = lines.read_trigger(text, escape, where, name).lines
    try:
        if len(found) != 1:
            raise Problem("onbuild trigger should be a single expression")
        instruction = _instruction(found[0], escape)
        if isinstance(instruction, From | Maintainer | Onbuild):
            raise Problem(f"{instruction.keyword.upper()} isn't allowed as an ONBUILD trigger")
    except Problem as problem:
        text = f"in the base image's trigger ONBUILD {quoted(text)[1:-1]}: {problem.text}"
        raise DockerfileError(text, name, where.first, where.column) from None
    return instruction


class _Request:
    """One line, taken apart."""

    def __init__(self, line: lines.Line, escape: str) -> None:
        self.line, self.escape = line, escape
        self.keyword, self.flag_words, self.rest = split_line(line.text, escape)
        self.name = self.keyword.upper()

    def make(self, kind: type[T], **fields: Any) -> T:
        return kind(
            range=self.line.range,
            text=self.line.text.strip(),
            keyword=self.keyword,
            flags=tuple(self.flag_words),
            heredocs=self.line.heredocs,
            comments=self.line.comments,
            empty_continuation=self.line.empty_continuation,
            **fields,
        )

    def flags(self) -> Flags:
        return Flags(self.flag_words, FLAGS.get(self.name, {}))

    def words(self) -> list[str]:
        """Divided at blanks, quotes mean nothing yet."""
        return self.rest.split()

    def words_or_json(self) -> list[str]:
        words = json_words(self.rest)
        return self.words() if words is None else list(words)

    def command(self) -> tuple[tuple[str, ...], bool]:
        """The exec or the shell form: arguments and whether it is the shell's."""
        words = json_words(self.rest)
        if words is not None:
            return words, False
        return ((self.rest,) if self.rest else ()), True

    def needs_one(self) -> None:
        if not self.rest:
            raise Problem(f"{self.name} requires at least one argument")

    def exactly_one(self) -> str:
        if not self.rest:
            raise Problem(f"{self.name} requires exactly one argument")
        return self.rest


def _instruction(line: lines.Line, escape: str) -> Instruction:
    request = _Request(line, escape)
    reader = _READERS.get(request.name)
    if reader is None:
        hint = suggest(request.keyword, _READERS)
        raise Problem(f"unknown instruction: {quoted(request.keyword)[1:-1]}{hint}", at=request.keyword)
    return reader(request)


def _from(request: _Request) -> From:
    flags, words = request.flags(), request.words()
    if len(words) not in (1, 3) or (len(words) == 3 and words[1].lower() != "as"):
        hint = ""
        if len(words) == 3:
            hint = f": {quoted(words[1])} stands where AS is expected"
        raise Problem(f"FROM requires either one or three arguments{hint}", at=words[1] if len(words) > 1 else "")
    name = words[2].lower() if len(words) == 3 else ""
    if name and not _STAGE_NAME.match(name):
        problem = "name can't start with a number or contain symbols"
        raise Problem(f"invalid name for build stage: {quoted(words[2])}, {problem}", at=words[2])
    return request.make(
        From,
        image=words[0],
        platform=flags.text("platform"),
        name=name,
        name_written=words[2] if name else "",
        as_keyword=words[1] if name else "",
    )


def _arg(request: _Request) -> Arg:
    request.flags()
    request.needs_one()
    items = []
    for word in split(request.rest, request.escape):
        key, equals, value = word.partition("=")
        if not key:
            raise Problem("ARG names can not be blank", at=word)
        items.append(KeyValue(key, value if equals else None))
    return request.make(Arg, items=tuple(items))


def _pairs(request: _Request) -> tuple[KeyValue, ...]:
    """ENV and LABEL: `k=v k=v` or, of old, `k everything else`. Which of them, the first word decides."""
    request.flags()
    request.needs_one()
    words = split(request.rest, request.escape)
    if "=" not in words[0]:
        parts = request.rest.split(None, 1)
        if len(parts) < 2:
            raise Problem(f"{request.name} must have two arguments", at=parts[0])
        return (KeyValue(parts[0], parts[1], legacy=True),)
    items = []
    for word in words:
        key, equals, value = word.partition("=")
        if not equals:
            raise Problem(f"Syntax error - can't find = in {quoted(word)}. Must be of the form: name=value", at=word)
        if not key:
            raise Problem(f"{request.name} names can not be blank", at=word)
        items.append(KeyValue(key, value))
    return tuple(items)


def _env(request: _Request) -> Env:
    return request.make(Env, items=_pairs(request))


def _label(request: _Request) -> Label:
    return request.make(Label, items=_pairs(request))


def _transfer(request: _Request) -> dict[str, Any]:
    words = request.words_or_json()
    if not words:
        raise Problem(f"{request.name} requires at least two arguments, but none was provided")
    if len(words) < 2:
        problem = "requires at least two arguments, but only one was provided. Destination could not be determined"
        raise Problem(f"{request.name} {problem}", at=words[0])
    *sources, dest = _joined_heredocs(words, request)
    if request.line.heredocs and lines.heredoc_word(dest):
        raise Problem(f"{request.name} cannot accept a heredoc as a destination", at=dest)
    if not sources:
        raise Problem(f"{request.name} requires at least two arguments", at=dest)
    contents = {document.name: document for document in request.line.heredocs}
    plain: list[str] = []
    documents: list[Heredoc] = []
    for source in sources:
        announced = lines.heredoc_word(source) if contents else None
        if announced is None:
            plain.append(source)
        else:
            documents.append(contents.get(announced.name, announced))
    return {"sources": tuple(plain), "dest": dest, "documents": tuple(documents)}


def _joined_heredocs(words: list[str], request: _Request) -> list[str]:
    """`<< EOF` is one word; division at blanks has made two of it."""
    if not request.line.heredocs:
        return words
    joined: list[str] = []
    for word in words:
        if joined and joined[-1].endswith("<<"):
            joined[-1] += word
        else:
            joined.append(word)
    return joined


def _copy(request: _Request) -> Copy:
    flags = request.flags()
    return request.make(
        Copy,
        from_=flags.text("from"),
        parents=flags.switch("parents"),
        **_common(flags),
        **_transfer(request),
    )


def _add(request: _Request) -> Add:
    flags = request.flags()
    return request.make(
        Add,
        checksum=flags.text("checksum"),
        keep_git_dir=flags.maybe("keep-git-dir"),
        unpack=flags.maybe("unpack"),
        **_common(flags),
        **_transfer(request),
    )


def _common(flags: Flags) -> dict[str, Any]:
    return {
        "chown": flags.text("chown"),
        "chmod": flags.text("chmod"),
        "link": flags.switch("link"),
        "excludes": flags.list("exclude"),
    }


def _run(request: _Request) -> Run:
    flags = request.flags()
    command, shell = request.command()
    if not command or not any(command):
        raise Problem("RUN requires at least one argument")
    for mount in flags.list("mount"):
        mounts.check_early(mount)
    network, security = flags.text("network"), flags.text("security")
    _one_of("network", network, ("default", "none", "host"), "network" in flags.used)
    _one_of("security", security, ("sandbox", "insecure"), "security" in flags.used)
    return request.make(
        Run,
        command=command,
        shell=shell,
        mounts=flags.list("mount"),
        network=network,
        security=security,
        devices=flags.list("device"),
    )


def _one_of(flag: str, value: str, options: tuple[str, ...], given: bool) -> None:
    if given and value not in options:
        hint = suggest(value, options)
        raise Problem(f"invalid {flag} mode: {quoted(value)}, it is one of {', '.join(options)}{hint}", at=value)


def _cmd(request: _Request) -> Cmd:
    request.flags()
    command, shell = request.command()
    return request.make(Cmd, command=command, shell=shell)


def _entrypoint(request: _Request) -> Entrypoint:
    request.flags()
    command, shell = request.command()
    return request.make(Entrypoint, command=command, shell=shell)


def _shell(request: _Request) -> Shell:
    request.flags()
    command, shell = request.command()
    if shell and command:
        raise Problem('SHELL requires the arguments to be in JSON form: SHELL ["/bin/sh", "-c"]', at=request.rest)
    if not command:
        raise Problem("SHELL requires at least one argument")
    return request.make(Shell, command=command)


def _expose(request: _Request) -> Expose:
    request.flags()
    request.needs_one()
    return request.make(Expose, ports=tuple(sorted(request.words())))


def _volume(request: _Request) -> Volume:
    request.flags()
    paths = [path.strip() for path in request.words_or_json()]
    if not paths:
        raise Problem("VOLUME requires at least one argument")
    if "" in paths:
        raise Problem("VOLUME specified can not be an empty string")
    return request.make(Volume, paths=tuple(paths))


def _user(request: _Request) -> User:
    request.flags()
    return request.make(User, user=request.exactly_one())


def _workdir(request: _Request) -> Workdir:
    request.flags()
    return request.make(Workdir, path=request.exactly_one())


def _stopsignal(request: _Request) -> Stopsignal:
    request.flags()
    return request.make(Stopsignal, signal=request.exactly_one())


def _maintainer(request: _Request) -> Maintainer:
    request.flags()
    return request.make(Maintainer, name=request.exactly_one())


def _onbuild(request: _Request) -> Onbuild:
    request.flags()
    request.needs_one()
    inner = request.rest.split(None, 1)[0].upper()
    if inner == "ONBUILD":
        raise Problem("Chaining ONBUILD via `ONBUILD ONBUILD` isn't allowed", at=request.rest)
    if inner in ("FROM", "MAINTAINER"):
        raise Problem(f"{inner} isn't allowed as an ONBUILD trigger", at=request.rest)
    # what it says must be right already here, not when somebody builds on the image
    _instruction(request.line._replace(text=_ONBUILD.sub("", request.line.text, count=1)), request.escape)
    text = _ONBUILD.sub("", request.line.text.strip(), count=1)
    for document in request.line.heredocs:
        text += f"\n{document.raw}{document.name}"
    return request.make(Onbuild, trigger=text)


def _healthcheck(request: _Request) -> Instruction:
    return healthchecks.read(request.rest, request.flags(), request.make)


_READERS: Final[dict[str, Callable[[_Request], Instruction]]] = {
    "ADD": _add,
    "ARG": _arg,
    "CMD": _cmd,
    "COPY": _copy,
    "ENTRYPOINT": _entrypoint,
    "ENV": _env,
    "EXPOSE": _expose,
    "FROM": _from,
    "HEALTHCHECK": _healthcheck,
    "LABEL": _label,
    "MAINTAINER": _maintainer,
    "ONBUILD": _onbuild,
    "RUN": _run,
    "SHELL": _shell,
    "STOPSIGNAL": _stopsignal,
    "USER": _user,
    "VOLUME": _volume,
    "WORKDIR": _workdir,
}

INSTRUCTIONS: Final = tuple(_READERS)
