"""RUN → an `Exec`.

Owns: the forms of the command, here-documents of RUN, mounts, entitlements (S42), what RUN's history says. Does not
own: running it.
"""

from __future__ import annotations

import posixpath
from typing import Final

from dockyard.proto.dockerfile import mounts, scope
from dockyard.proto.dockerfile.building import Building
from dockyard.proto.dockerfile.errors import Problem, quoted
from dockyard.proto.dockerfile.instructions import Heredoc, Run, RunMount
from dockyard.proto.dockerfile.lines import heredoc_word
from dockyard.proto.dockerfile.ops import Exec, ExecMount, HeredocFile

DOCUMENTS: Final = "/dev/pipes"
SSH_SOCKET: Final = "/run/buildkit/ssh_agent."
SECRETS: Final = "/run/secrets"
_MAX_MOUNTS: Final = 200


def run(stage: Building, instruction: Run, inputs: list[int | None]) -> int:
    """The vertex. `inputs`: per mount the vertex it reads from, None if it reads from nothing. Problem."""
    args, files, summary = _command(instruction)
    if instruction.shell and not files:
        args = (*stage.shell, *args)
    read, positions = _mounts(stage, instruction, inputs)
    _check_entitlements(stage, instruction)
    env = dict(stage.env)
    _add_agent(env, read)
    complete = tuple(f"{key}={value}" for key, value in env.items())
    stage.budget.spend_size(sum(map(len, complete)))
    op = Exec(
        args=args,
        env=complete,
        cwd=stage.cwd,
        user=stage.config.user,
        mounts=read,
        network=instruction.network or "default",  # type: ignore[arg-type]  # checked when parsed
        security=instruction.security or "sandbox",  # type: ignore[arg-type]
        devices=instruction.devices,
        files=files,
        hostname=stage.graph.build_args.get("BUILDKIT_SANDBOX_HOSTNAME", ""),
        proxy=scope.proxies(stage.graph.build_args),
        epoch=scope.epoch(stage.graph.options, stage.graph.scope),
    )
    masked = {mount.env: "****" for mount in read if mount.env}
    name = stage.display(instruction.text, masked) + summary
    vertex = stage.step(op, positions, instruction, name)
    stage.record(f"RUN {_with_arguments(stage, args)} # buildkit", vertex)
    return vertex


def _command(instruction: Run) -> tuple[tuple[str, ...], tuple[HeredocFile, ...], str]:
    """→ arguments (without the shell), files below /dev/pipes, what the progress adds to the name."""
    documents = instruction.heredocs
    if not documents or not instruction.shell:
        return instruction.command, (), ""
    text = instruction.command[0]
    if heredoc_word(text) is None:  # the shell reads the documents itself
        whole = text + "".join(f"\n{document.raw}{document.name}" for document in documents)
        return (whole,), (), ""
    first = documents[0]
    summary = f" ({_summary(first)})"
    if first.content.startswith("#!"):
        file = HeredocFile(_file_name(first.name), first.content, 0o755)
        return (f"{DOCUMENTS}/{file.name}",), (file,), summary
    return (first.content,), (), summary


def _summary(document: Heredoc) -> str:
    first, *more = document.content.strip().splitlines() or [""]
    return first[:200] + ("..." if more else "")


def _file_name(name: str) -> str:
    """A here-document's name is any word: S43, it must not leave its directory."""
    if "/" in name or name in (".", "..") or len(name.encode()) > 255:
        raise Problem(f"the name of a here-document cannot be a path: {quoted(name)}", at=name)
    return name


def _with_arguments(stage: Building, args: tuple[str, ...]) -> str:
    """`|1 FOO=bar /bin/sh -c make`: build arguments are part of what was run."""
    values = [f"{key}={stage.env.get(key, value or '')}" for key, value in stage.args.items()]
    return " ".join([*([f"|{len(values)}", *values] if values else ()), *args])


def _check_entitlements(stage: Building, instruction: Run) -> None:
    wanted = {
        "network.host": (instruction.network == "host", "host"),
        "security.insecure": (instruction.security == "insecure", "insecure"),
        "device": (bool(instruction.devices), "--device"),
    }
    for entitlement, (needed, at) in wanted.items():
        if needed and entitlement not in stage.graph.options.allow:
            problem = f"granting entitlement {entitlement} is not allowed by build request"
            raise Problem(f"{problem}: it needs --allow {entitlement}", at=at)


def _mounts(
    stage: Building, instruction: Run, inputs: list[int | None]
) -> tuple[tuple[ExecMount, ...], tuple[int, ...]]:
    """The mounts and the further inputs of the vertex (the first is the root file system)."""
    if len(instruction.mounts) > _MAX_MOUNTS:
        raise Problem(f"more than {_MAX_MOUNTS} mounts")
    positions: list[int] = []
    made: list[ExecMount] = []
    agents = 0
    for text, vertex in zip(instruction.mounts, inputs, strict=True):
        mount = mounts.parse(text, lambda value: stage.expand(value, instruction))
        if mount.type == "secret":
            made.append(_secret(stage, mount))
        elif mount.type == "ssh":
            made.append(_agent(stage, mount, agents))
            agents += 1
        elif mount.type == "tmpfs":
            made.append(ExecMount(type="tmpfs", target=_target(stage, mount, text), size=mount.size))
        else:
            position = None
            if vertex is not None and (mount.type == "bind" or mount.from_):
                positions.append(vertex)
                position = len(positions)
            made.append(_tree(stage, mount, text, position))
    return tuple(made), tuple(positions)


def _target(stage: Building, mount: RunMount, text: str) -> str:
    target = absolute(stage.cwd, mount.target)
    if target == "/":
        raise Problem(f"invalid mount target {quoted(mount.target)}", at=text)
    return target


def _tree(stage: Building, mount: RunMount, text: str, position: int | None) -> ExecMount:
    """bind and cache."""
    cache = mount.type == "cache"
    namespace = stage.graph.build_args.get("BUILDKIT_CACHE_MOUNT_NS", "")
    identity = (mount.id or posixpath.normpath(mount.target)) if cache else ""
    if cache and namespace:
        identity = f"{namespace}/{identity}"
    return ExecMount(
        type=mount.type,
        target=_target(stage, mount, text),
        input=position,
        source=absolute("/", mount.source),
        read_only=mount.read_only,
        id=identity,
        sharing=mount.sharing,
        mode=mount.mode,
        uid=mount.uid or 0,
        gid=mount.gid or 0,
    )


def _secret(stage: Building, mount: RunMount) -> ExecMount:
    identity = mount.id or mount.source or posixpath.basename(mount.target)
    if not identity:
        raise Problem("invalid secret mount. one of source, target required", at=mount.target)
    target = mount.target
    if not target and mount.env is None:
        target = f"{SECRETS}/{posixpath.basename(identity)}"
    if target:
        target = absolute(stage.cwd, target)
        if target == "/" or target == SECRETS:
            raise Problem(f"invalid mount target {quoted(target)}", at=mount.target or identity)
    return ExecMount(
        type="secret",
        target=target,
        read_only=True,
        id=identity,
        required=mount.required,
        mode=0o400 if mount.mode is None else mount.mode,
        uid=mount.uid or 0,
        gid=mount.gid or 0,
        env=mount.env,
    )


def _agent(stage: Building, mount: RunMount, number: int) -> ExecMount:
    target = absolute(stage.cwd, mount.target) if mount.target else f"{SSH_SOCKET}{number}"
    if target == "/":
        raise Problem(f"invalid mount target {quoted(mount.target)}", at=mount.target)
    return ExecMount(
        type="ssh",
        target=target,
        read_only=True,
        id=mount.id or "default",
        required=mount.required,
        mode=0o600 if mount.mode is None else mount.mode,
        uid=mount.uid or 0,
        gid=mount.gid or 0,
    )


def _add_agent(env: dict[str, str], made: tuple[ExecMount, ...]) -> None:
    for mount in made:
        if mount.type == "ssh":
            env.setdefault("SSH_AUTH_SOCK", mount.target)


def absolute(cwd: str, path: str) -> str:
    """Clean and absolute; ".." does not lead out (S43)."""
    return "/" + posixpath.normpath(posixpath.join("/", cwd, path)).lstrip("/")
