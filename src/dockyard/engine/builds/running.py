"""RUN: one program in a container that exists only for this step.

Owns: the container of a step: its settings, start, output, end and removal, and the layer that is left of it. Does not
own: mounts (`engine.builds.mounts`), whether it has to run at all (`engine.builds.steps`).

No row is written for it. What a killed daemon leaves of it is swept by the next: the monitor and the run directory by
`engine.restoring`, the writable layer by `store.snapshots`.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import time
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import Any, Final, cast

from msgspec import structs

from dockyard.engine import etcfiles, failures, labels, names
from dockyard.engine import ground as container_ground
from dockyard.engine.builds import mounts, work
from dockyard.engine.builds.ground import Emit, Session, Tree
from dockyard.engine.builds.request import BuildFailed
from dockyard.engine.endpoints import Allocation
from dockyard.engine.exits import remove_directory
from dockyard.model.build import BuildOptions, VertexLog
from dockyard.model.container import ContainerConfig, EndpointSettings, HostConfig, PortBinding
from dockyard.model.errors import DockyardError, Forbidden, InvalidArgument, SystemFailure
from dockyard.proto.dockerfile.ops import Exec
from dockyard.proto.frames import STDOUT, FrameReader
from dockyard.runtime import hostfiles
from dockyard.runtime.bundle import BundleInput, BundleMount
from dockyard.runtime.bundle.mounts import DEFAULT_SHM_SIZE
from dockyard.runtime.handles import ContainerHandle
from dockyard.runtime.launch import Launch, Rootfs
from dockyard.runtime.link import StartFailed
from dockyard.store import inline
from dockyard.store.snapshots import Layer

HOSTNAME: Final = "buildkitsandbox"  # what BuildKit calls it: some Makefiles look
_KILLED: Final = 20.0  # seconds in which a killed container has to be gone


@dataclass(slots=True)
class _Asked:
    """What `Networks.allocate` wants to know of a container."""

    id: str
    name: str
    config: ContainerConfig
    host: HostConfig
    spec: Any
    endpoints: dict[str, EndpointSettings] = field(default_factory=dict)
    ports: dict[str, list[PortBinding] | None] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _NoNetworks:
    networks: dict[str, EndpointSettings] = field(default_factory=dict)


def network_of(op: Exec, options: BuildOptions) -> str:
    """The network mode that a RUN gets: its own, or the build's. Forbidden for the host's without the entitlement."""
    if op.network == "default":
        return options.network_mode or "default"
    if op.network == "host" and "network.host" not in options.allow and options.network_mode != "host":
        raise Forbidden("network.host is not allowed")
    return op.network


async def run(session: Session, op: Exec, inputs: list[Tree], vertex: str, emit: Emit) -> Layer | None:
    """Run it and make a layer of what it wrote. BuildFailed with its exit code if it failed; nothing is left then."""
    context = session.ground.context
    host = _host_config(op, session.options)
    remap = context.bundler.remapping(host)
    container_id = names.new_id()
    directory = f"{context.layout.run_container(container_id)}"
    chain = inputs[0].chain
    async with AsyncExitStack() as stack:
        os.mkdir(directory, 0o700)
        stack.callback(remove_directory, directory)
        await context.snapshots.prepare(container_id, chain)
        stack.callback(context.snapshots.remove, container_id)
        planned = await mounts.plan(session, op, inputs, container_id, directory, stack, remap)
        asked = _Asked(container_id, container_id[:12], _config(op), host, _NoNetworks())
        stack.push_async_callback(context.networks.release, container_id)
        allocation = await context.networks.allocate(asked)
        given = context.labels.draw(host)
        stack.callback(context.labels.release, given.process)
        asked_for = _bundle_input(session, op, asked, allocation, directory, planned.env)
        bundle = context.bundler.make(structs.replace(asked_for, process_label=given.process, mount_label=given.mount))
        items = [{"path": f"{directory}/{name}", "label": given.mount} for name in ("hosts", "resolv.conf")]
        items += labels.bound_files(planned.mounts, given, context.layout)
        await labels.label_step(context, container_id, items, given)
        bundle.config["mounts"] += planned.mounts
        launch = _launch(session, container_id, bundle.config, allocation, directory)
        code = await _run_to_its_end(session, op, launch, bundle.seccomp, vertex, emit)
        if code:
            shown = " ".join(op.args)
            raise BuildFailed(f"The command '{shown}' returned a non-zero code: {code}", code)
        await labels.label_result(context, container_id)
        stubs = [mount["destination"] for mount in bundle.config["mounts"]]
        small = work.is_small([f"{context.snapshots.writable(container_id)}"])
        return await context.snapshots.commit(
            container_id,
            session.lease,
            consume=True,
            stubs=stubs,
            epoch=session.epoch,
            call=inline.call if small else context.runtime.call,
        )


def _host_config(op: Exec, options: BuildOptions) -> HostConfig:
    insecure = op.security == "insecure"
    if insecure and "security.insecure" not in options.allow:
        raise Forbidden("security.insecure is not allowed")
    if op.devices:
        raise InvalidArgument("RUN --device: devices of the host are not given to builds")
    host = HostConfig(
        network_mode=network_of(op, options),
        shm_size=options.shm_size or DEFAULT_SHM_SIZE,
        ulimits=list(options.ulimits) or None,
        cgroup_parent=options.cgroup_parent,
        memory=options.memory,
        memory_swap=options.memory_swap or options.memory * 2,
        cpu_shares=options.cpu_shares,
        cpu_period=options.cpu_period,
        cpu_quota=options.cpu_quota,
        cpuset_cpus=options.cpuset_cpus,
        cpuset_mems=options.cpuset_mems,
        extra_hosts=list(options.extra_hosts) or None,
        security_opt=list(options.security_opt) or None,
        privileged=insecure,
        ipc_mode="private",
        cgroupns_mode="private",
        userns_mode="host" if insecure else "",  # as Docker: what is privileged has the host's ids
    )
    if 0 < host.memory < 6 << 20:
        raise InvalidArgument("Minimum memory limit allowed is 6MB")
    return host


def _config(op: Exec) -> ContainerConfig:
    return ContainerConfig(user=op.user, working_dir=op.cwd, hostname=op.hostname or HOSTNAME, env=list(op.env))


def _bundle_input(
    session: Session, op: Exec, asked: _Asked, allocation: Allocation, directory: str, env: list[str]
) -> BundleInput:
    context = session.ground.context
    peer = container_ground.peer(context, asked.host.network_mode, "network")
    spaces = f"/proc/{peer.status.pid}/ns" if peer is not None else ""
    joins = {"network": f"{spaces}/net", "user": f"{spaces}/user"} if peer is not None else {}
    remap = context.bundler.remapping(asked.host)
    _write_etc(session, asked, allocation, directory, remap.outside(0, 0) if remap is not None else (0, 0))
    config = asked.config
    config.env = [*op.env, *op.proxy, *env]
    return BundleInput(
        id=asked.id,
        name=asked.name,
        config=config,
        host=asked.host,
        args=list(op.args),
        hostname=config.hostname,
        mounts=[
            BundleMount(destination="/etc/hosts", source=f"{directory}/hosts"),
            BundleMount(destination="/etc/resolv.conf", source=f"{directory}/resolv.conf"),
        ],
        joins=joins,
    )


def _write_etc(session: Session, asked: _Asked, allocation: Allocation, directory: str, owner: tuple[int, int]) -> None:
    context, host = session.ground.context, asked.host
    extra = etcfiles.parse_extra_hosts(host.extra_hosts or (), context.networks.gateway)
    own = [(e.ip_address, [asked.config.hostname]) for e in allocation.endpoints.values() if e.ip_address]
    shared = host.network_mode == "host"
    hosts = etcfiles.hosts_text(() if shared else own, extra, *([hostfiles.text("/etc/hosts")] if shared else ()))
    resolv = etcfiles.resolv_text(hostfiles.text("/etc/resolv.conf"), (), (), (), keep_local=shared)
    for name, text in (("hosts", hosts), ("resolv.conf", resolv)):
        fd = os.open(f"{directory}/{name}", os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
        with os.fdopen(fd, "w") as file:
            file.write(text)
            os.fchown(fd, *owner)


def _launch(
    session: Session, container_id: str, config: dict[str, Any], allocation: Allocation, directory: str
) -> Launch:
    return Launch(
        id=container_id,
        config=config,
        rootfs=cast(Rootfs, session.ground.context.snapshots.rootfs(container_id)),
        stdio={"tty": False, "open_stdin": False, "stdin_once": False, "console_size": None},
        log=None,
        network=dict(allocation.plan) if allocation.plan is not None else None,
        state_dir=directory,
    )


async def _run_to_its_end(
    session: Session, op: Exec, launch: Launch, seccomp: bytes | None, vertex: str, emit: Emit
) -> int:
    """The exit code. Cancelled, it is killed and gone before this returns."""
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    runtime = session.ground.context.runtime
    with ours:
        try:
            handle = await runtime.launch(launch, seccomp=seccomp, attached=[(theirs, False, True, True)])
        except StartFailed as error:
            text = failures.told(error, failures.CREATE)
            raise BuildFailed(text, error.exit_code) from error
        try:
            await _relay(ours, vertex, emit)
            record = await asyncio.shield(handle.exit)
        except BaseException:
            await _kill(handle)
            raise
    if record["error"]:
        raise SystemFailure(f"RUN {' '.join(op.args)[:100]}: {record['error']}")
    if record["oom_killed"] and record["code"]:
        emit(VertexLog(vertex, b"the memory limit was reached: killed\n", "stderr", time.time_ns()))
    return record["code"]


async def _relay(sock: socket.socket, vertex: str, emit: Emit) -> None:
    """Tell everything that the program says, until it has ended."""
    loop, frames = asyncio.get_running_loop(), FrameReader()
    while data := await loop.sock_recv(sock, 65536):
        for stream, part in frames.feed(data):
            emit(VertexLog(vertex, part, "stdout" if stream == STDOUT else "stderr", time.time_ns()))


async def _kill(handle: ContainerHandle) -> None:
    try:
        await handle.kill(signal.SIGKILL)
    except DockyardError:
        pass  # it is gone
    waiting = asyncio.ensure_future(asyncio.wait({handle.exit}, timeout=_KILLED))
    while not waiting.done():
        try:
            await asyncio.shield(waiting)
        except asyncio.CancelledError:
            continue  # what comes next needs it gone
