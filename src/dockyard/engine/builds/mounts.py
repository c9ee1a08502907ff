"""`RUN --mount`: what a step sees besides its file system, and for how long.

Owns: turning the mounts of one RUN into entries of the OCI configuration: binds of other steps' files (written changes
thrown away), cache directories, secrets, the ssh agent, tmpfs, here-documents. Does not own: the container.

A path that a build may have filled with links is never given to the runtime by name alone: trees that nobody changes
any more are looked up here, layer by layer, links followed within their root; a directory of a cache, which other steps
may be changing right now, is opened beneath the cache's root when it is mounted (S40). Secrets lie on a tmpfs until the
container has ended (`store.builds.secretfiles`).
"""

from __future__ import annotations

import asyncio
import os
from contextlib import AsyncExitStack, ExitStack
from dataclasses import dataclass, field
from typing import Any, Final

from dockyard.engine.builds import cachemounts, sources, sshagent, work
from dockyard.engine.builds.ground import Session, Tree
from dockyard.model.errors import InvalidArgument
from dockyard.proto.dockerfile.ops import Exec, ExecMount
from dockyard.runtime.remap import Remap
from dockyard.store.builds.binds import Place, locate
from dockyard.store.builds.secretfiles import write

_QUIET: Final = ("nosuid", "nodev", "noexec")
_FILES: Final = "/dev/pipes"


@dataclass(slots=True)
class Planned:
    """`mounts`: OCI, in order; `env`: what the program gets besides (values of secrets!)."""

    mounts: list[dict[str, Any]] = field(default_factory=list)
    env: list[str] = field(default_factory=list)


@dataclass(slots=True)
class _Making:
    session: Session
    inputs: list[Tree]
    container_id: str
    directory: str  # the container's run directory
    stack: AsyncExitStack
    remap: Remap | None
    number: int = 0
    secrets: str = ""  # the directory for them, once there are any
    env: list[str] = field(default_factory=list)

    def owner(self, uid: int, gid: int) -> tuple[int, int]:
        """Whose a file is that lies outside of the store: no mount maps its owner. InvalidArgument."""
        return (uid, gid) if self.remap is None else self.remap.outside(uid, gid)

    def next_name(self, kind: str) -> str:
        self.number += 1
        return f"{kind}-{self.number}"


async def plan(
    session: Session,
    op: Exec,
    inputs: list[Tree],
    container_id: str,
    directory: str,
    stack: AsyncExitStack,
    remap: Remap | None = None,
) -> Planned:
    """The mounts of a RUN, whose ids are `remap`'s. What has to be undone after it is left on `stack`.
    InvalidArgument, NotFound."""
    making = _Making(session, inputs, container_id, directory, stack, remap)
    kinds = {"bind": _bind, "cache": _cache, "secret": _secret, "ssh": _ssh, "tmpfs": _tmpfs}
    mounts: list[dict[str, Any]] = []
    for mount in sorted(op.mounts, key=lambda mount: mount.target.count("/")):
        mounts += await kinds[mount.type](making, mount)
    if op.files:
        mounts.append(_documents(making, op))
    return Planned(mounts, making.env)


# --- bind -----------------------------------------------------------------------------------------------------------


async def _bind(making: _Making, mount: ExecMount) -> list[dict[str, Any]]:
    tree = await sources.as_directory(making.session, making.inputs[mount.input or 0])
    place = await asyncio.to_thread(locate, tree.layers, mount.source)
    if mount.read_only and len(place.layers) <= 1:
        directory = tree.layers[place.layers[0]]
        return [_bound(mount.target, directory, place.path, read_only=True)]
    if place.is_directory and making.session.ground.context.snapshots.overlays:
        return [_overlay(making, mount, tree, place)]
    target = making.session.ground.context.snapshots.scratch(making.container_id) / making.next_name("bind")
    if place.is_directory:
        os.mkdir(target, 0o755)
    arguments = {"source": tree.source(), "path": mount.source, "target": str(target)}
    await work.call(making.session.ground, "dockyard.store.builds.binds:fill", arguments, small=False)
    return [_bound(mount.target, str(target), "", read_only=mount.read_only)]


def _overlay(making: _Making, mount: ExecMount, tree: Tree, place: Place) -> dict[str, Any]:
    """Paths are relative to where the layers lie, as those of the root's own overlay (its data has one page)."""
    snapshots = making.session.ground.context.snapshots
    base = str(snapshots.scratch(making.container_id).parent.parent)
    lower = [_relative(os.path.join(tree.layers[index], place.path).rstrip("/"), base) for index in place.layers]
    options = ["index=off", "metacopy=off", "redirect_dir=off"]
    if mount.read_only:
        options = [f"lowerdir={':'.join(lower)}", *options, "ro"]
    else:
        scratch = snapshots.scratch(making.container_id) / making.next_name("bind")
        for name in ("u", "w"):
            os.makedirs(scratch / name, 0o700)
        status = os.stat(os.path.join(tree.layers[place.layers[0]], place.path))
        os.chown(scratch / "u", status.st_uid, status.st_gid)
        os.chmod(scratch / "u", status.st_mode & 0o7777)
        upper, work_ = (_relative(str(scratch / name), base) for name in ("u", "w"))
        options = [f"lowerdir={':'.join(lower)}", f"upperdir={upper}", f"workdir={work_}", *options]
    if sum(map(len, options)) > 3900:
        raise InvalidArgument(f"RUN --mount=type=bind,target={mount.target}: too many layers for one mount")
    entry = {"destination": mount.target, "type": "overlay", "source": "overlay", "options": [*options, "nodev"]}
    elsewhere = [tree.layers[index] for index in place.layers if not tree.layers[index].startswith(f"{base}/")]
    return {**entry, "dockyard": {"mapped": elsewhere}} if elsewhere else entry


def _relative(path: str, base: str) -> str:
    text = path.removeprefix(base + "/")
    return text.replace("\\", "\\\\").replace(":", "\\:").replace(",", "\\,")


def _bound(
    target: str, source: str, subpath: str, *, read_only: bool, more: tuple[str, ...] = (), stored: bool = True
) -> dict[str, Any]:
    """`stored`: its files lie in the store, with the numbers that are seen inside."""
    options = ["bind", "rprivate", *more]
    if read_only:
        options.append("ro")
    entry: dict[str, Any] = {"destination": target, "type": "bind", "source": source, "options": options}
    own: dict[str, Any] = {"subpath": subpath, "remap": stored}  # a subpath is opened beneath the source (`sources`)
    if any(own.values()):
        entry["dockyard"] = {name: value for name, value in own.items() if value}
    return entry


# --- cache, tmpfs -----------------------------------------------------------------------------------------------------


async def _cache(making: _Making, mount: ExecMount) -> list[dict[str, Any]]:
    content = making.inputs[mount.input] if mount.input is not None else None
    directory = await cachemounts.take(making.session, mount, content, making.stack)
    subpath = "" if content is not None else mount.source.strip("/")
    if subpath:
        await asyncio.to_thread(os.makedirs, f"{directory}", 0o755, True)
    return [_bound(mount.target, str(directory), subpath, read_only=mount.read_only)]


async def _tmpfs(making: _Making, mount: ExecMount) -> list[dict[str, Any]]:
    options = ["nosuid", "nodev", "mode=1777", *([f"size={mount.size}"] if mount.size else [])]
    return [{"destination": mount.target, "type": "tmpfs", "source": "tmpfs", "options": options}]


# --- what the client gives --------------------------------------------------------------------------------------------


async def _secret(making: _Making, mount: ExecMount) -> list[dict[str, Any]]:
    value = making.session.request.secrets.get(mount.id)
    if value is None:
        if mount.required:
            raise InvalidArgument(f"secret {mount.id}: not found")
        return []
    if mount.env:
        making.env.append(f"{mount.env}={value.decode('utf-8', 'surrogateescape')}")
    if not mount.target:
        return []
    if not making.secrets:
        with ExitStack() as taken:
            making.secrets = making.session.ground.secret_files.directory(making.directory, taken)
            making.stack.push(taken.pop_all())
    path = f"{making.secrets}/{making.next_name('secret')}"
    write(path, value, 0o400 if mount.mode is None else mount.mode, *making.owner(mount.uid, mount.gid))
    return [_bound(mount.target, path, "", read_only=True, more=_QUIET, stored=False)]


async def _ssh(making: _Making, mount: ExecMount) -> list[dict[str, Any]]:
    agent = making.session.request.ssh.get(mount.id or "default")
    if agent is None:
        if mount.required:
            raise InvalidArgument(f"unset ssh forward key {mount.id or 'default'}")
        return []
    path = f"{making.directory}/{making.next_name('ssh')}"
    await sshagent.serve(path, agent, making.stack)
    os.chown(path, *making.owner(mount.uid, mount.gid))
    os.chmod(path, 0o600 if mount.mode is None else mount.mode)
    making.env.append(f"SSH_AUTH_SOCK={mount.target}")
    return [_bound(mount.target, path, "", read_only=False, more=_QUIET, stored=False)]


def _documents(making: _Making, op: Exec) -> dict[str, Any]:
    directory = f"{making.directory}/{making.next_name('pipes')}"
    os.mkdir(directory, 0o755)
    owner = making.owner(0, 0)
    os.chown(directory, *owner)
    for file in op.files:
        name = file.name.rpartition("/")[2]
        write(f"{directory}/{name}", file.content.encode("utf-8", "surrogateescape"), file.mode, *owner)
    return _bound(_FILES, directory, "", read_only=True, stored=False)
