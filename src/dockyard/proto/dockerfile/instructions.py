"""The instructions of a Dockerfile as values.

Owns: one frozen struct an instruction, stages and the parsed file. Texts are as written (quotes and variables not yet
resolved, except where a field says so): what a variable is worth is known only when the instruction's turn comes
(`plan`). Does not own: reading them (`parse`), what they do (`plan`).
"""

from __future__ import annotations

from typing import Literal

from msgspec import Struct, field


class Range(Struct, frozen=True):
    """Where an instruction stands; lines and columns from 1."""

    first: int = 0
    last: int = 0
    column: int = 1


class Heredoc(Struct, frozen=True):
    """A here-document. `content` ends with a newline unless empty; `<<-`'s leading tabs are already gone.

    `expand`: the delimiter was not quoted, so variables in it mean something.
    `raw` is the content as written (with the tabs), for shells that are given the document themselves.
    """

    name: str
    content: str = ""
    expand: bool = True
    chomp: bool = False
    raw: str = ""
    descriptor: int = 0


class Instruction(Struct, frozen=True, kw_only=True, tag=True):
    """Base. `text`: the instruction as one line, continuations joined ("RUN make"); `heredocs`: its documents."""

    range: Range = Range()
    text: str = ""
    keyword: str = ""  # as written ("run")
    flags: tuple[str, ...] = ()  # as written ("--mount=type=cache,target=/x")
    heredocs: tuple[Heredoc, ...] = ()
    comments: tuple[str, ...] = ()  # the lines above it, without "#"; "" stands for a blank line between
    empty_continuation: bool = False  # a blank line stands within it


class KeyValue(Struct, frozen=True):
    key: str
    value: str | None = None  # None only for ARG without "="
    legacy: bool = False  # "KEY value" instead of "KEY=value"


class From(Instruction, frozen=True, kw_only=True):
    image: str
    platform: str = ""
    name: str = ""  # AS, lower case
    name_written: str = ""
    as_keyword: str = ""


class Arg(Instruction, frozen=True, kw_only=True):
    items: tuple[KeyValue, ...]


class Env(Instruction, frozen=True, kw_only=True):
    items: tuple[KeyValue, ...]


class Label(Instruction, frozen=True, kw_only=True):
    items: tuple[KeyValue, ...]


class Transfer(Instruction, frozen=True, kw_only=True):
    """What COPY and ADD share. `sources`: words; those that are here-documents stand in `documents` instead."""

    sources: tuple[str, ...]
    dest: str
    documents: tuple[Heredoc, ...] = ()
    chown: str = ""
    chmod: str = ""
    link: bool = False
    excludes: tuple[str, ...] = ()


class Copy(Transfer, frozen=True, kw_only=True):
    from_: str = ""
    parents: bool = False


class Add(Transfer, frozen=True, kw_only=True):
    checksum: str = ""
    keep_git_dir: bool | None = None
    unpack: bool | None = None


class RunMount(Struct, frozen=True, kw_only=True):
    """One `--mount`. Which fields mean something depends on `type`; None = not given."""

    type: Literal["bind", "cache", "secret", "ssh", "tmpfs"] = "bind"
    target: str = ""
    source: str = ""
    from_: str = ""
    read_only: bool = False
    id: str = ""
    sharing: Literal["shared", "private", "locked"] = "shared"
    required: bool = False
    mode: int | None = None
    uid: int | None = None
    gid: int | None = None
    size: int = 0
    env: str | None = None


class Run(Instruction, frozen=True, kw_only=True):
    """`command`: one text for the shell form, the arguments for the exec form."""

    command: tuple[str, ...]
    shell: bool
    mounts: tuple[str, ...] = ()  # as written: variables in them are resolved first, `mounts.parse` reads them then
    network: str = ""
    security: str = ""
    devices: tuple[str, ...] = ()


class Cmd(Instruction, frozen=True, kw_only=True):
    command: tuple[str, ...]
    shell: bool


class Entrypoint(Instruction, frozen=True, kw_only=True):
    command: tuple[str, ...]
    shell: bool


class Shell(Instruction, frozen=True, kw_only=True):
    command: tuple[str, ...]


class Expose(Instruction, frozen=True, kw_only=True):
    ports: tuple[str, ...]


class Volume(Instruction, frozen=True, kw_only=True):
    paths: tuple[str, ...]


class User(Instruction, frozen=True, kw_only=True):
    user: str


class Workdir(Instruction, frozen=True, kw_only=True):
    path: str


class Onbuild(Instruction, frozen=True, kw_only=True):
    trigger: str  # "COPY . /app"


class Stopsignal(Instruction, frozen=True, kw_only=True):
    signal: str


class Healthcheck(Instruction, frozen=True, kw_only=True):
    """`command` None: NONE. Times in ns, 0 = not given."""

    command: tuple[str, ...] | None
    shell: bool = False
    interval: int = 0
    timeout: int = 0
    start_period: int = 0
    start_interval: int = 0
    retries: int = 0


class Maintainer(Instruction, frozen=True, kw_only=True):
    name: str


class Stage(Struct, frozen=True):
    """FROM and what follows it. `instructions` begins after the FROM."""

    index: int
    base: From
    instructions: tuple[Instruction, ...] = ()

    @property
    def name(self) -> str:
        return self.base.name


class Directive(Struct, frozen=True):
    name: str
    value: str
    line: int


class Warning(Struct, frozen=True):
    """One finding of the build checks. `rule` is Docker's name of it."""

    rule: str
    text: str
    range: Range = Range()


class Dockerfile(Struct, frozen=True):
    """A whole file. `source`: its lines, for messages."""

    source: tuple[str, ...] = ()
    escape: str = "\\"
    directives: tuple[Directive, ...] = ()
    global_args: tuple[Arg, ...] = ()
    stages: tuple[Stage, ...] = ()
    name: str = field(default="Dockerfile")
