"""What a start needs on disk and as values: a container's files, its bundle, its launch.

Owns: turning a container into `BundleInput` and `Launch`, writing the files of /etc, making missing bind sources.
Does not own: the order of a start and its undoing (`starting`).
"""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, cast

import msgspec
from msgspec import Struct

from dockyard.engine import container_volumes, etcfiles, links, shipping
from dockyard.engine.container import Container
from dockyard.engine.context import Context
from dockyard.engine.logspec import log_spec
from dockyard.model.container import EndpointSettings, PortBinding
from dockyard.model.errors import Conflict, InvalidArgument, NotFound, SystemFailure, reason
from dockyard.model.lifecycle import State
from dockyard.model.mounts import MountPoint
from dockyard.runtime import hostfiles
from dockyard.runtime.bundle import BundleInput, BundleMount, from_mount_point
from dockyard.runtime.launch import Launch, Rootfs

_CONNECTIONS = "connections.json"
_ETC = ("/etc/resolv.conf", "/etc/hostname", "/etc/hosts")


def default_hostname(container_id: str, network_mode: str, uts_mode: str) -> str:
    """The hostname of a container that was given none."""
    return socket.gethostname() if "host" in (network_mode, uts_mode) else container_id[:12]


def peer(context: Context, mode: str, kind: str) -> Container | None:
    """The running container that a `container:ID` mode names; None for any other mode.

    NotFound, or Conflict if it does not run: its namespaces are not there.
    """
    if not mode.startswith("container:"):
        return None
    other_id = mode.removeprefix("container:")
    other = context.registry.find(other_id)
    if other is None:
        raise NotFound(f"No such container: {other_id}")
    if other.state is State.RESTARTING:
        raise Conflict(f"cannot join {kind} namespace of container: container {other.id} is restarting, "
                       "wait until the container is running")  # fmt: skip
    if not other.running:
        state = f"container /{other.name} is {other.state.value}"
        raise Conflict(f"cannot join {kind} namespace of a non running container: {state}")
    return other


def _network_owner(context: Context, container: Container) -> Container | None:
    """Whose network the container is in, over any number of containers that share it; None: it has its own."""
    owner, other = None, peer(context, container.host.network_mode, "network")
    while other is not None:
        owner, mode = other, other.host.network_mode
        other = context.registry.find(mode.removeprefix("container:")) if mode.startswith("container:") else None
    return owner


def _joins(context: Context, container: Container) -> dict[str, str]:
    host = container.host
    joins = {}
    for kind, mode, name in (
        ("network", host.network_mode, "net"),
        ("pid", host.pid_mode, "pid"),
        ("ipc", host.ipc_mode, "ipc"),
    ):
        other = peer(context, mode, name if kind == "network" else kind)
        if other is not None:
            if kind == "ipc":
                _check_shareable(other)
            joins[kind] = f"/proc/{other.status.pid}/ns/{name}"
            joins.setdefault("user", f"/proc/{other.status.pid}/ns/user")  # what belongs to it can be used in it only
    return joins


def _check_shareable(other: Container) -> None:
    if other.host.ipc_mode not in ("shareable", "host"):
        hint = "hint: use IpcMode:shareable for the donor container"
        raise InvalidArgument(f"cannot join IPC namespace: container {other.id}: non-shareable IPC ({hint})")


def _shm(context: Context, container: Container) -> tuple[str, str]:
    """(the host's "/dev/shm" or "" for a new one, the mount namespace with which /dev/shm is shared or "")."""
    mode = container.host.ipc_mode
    other = peer(context, mode, "ipc")
    if mode == "host" or (other is not None and other.host.ipc_mode == "host"):
        return "/dev/shm", ""
    return "", f"/proc/{other.status.pid}/ns/mnt" if other is not None else ""


def bundle_input(context: Context, container: Container) -> BundleInput:
    """The container as the bundler wants it. NotFound or Conflict when a container it joins is not there."""
    network_peer = _network_owner(context, container)
    named = network_peer or container
    labels = context.labels.of(container)
    shm_source, shm_namespace = _shm(context, container)
    return BundleInput(
        id=container.id,
        name=container.name,
        config=container.config,
        host=container.host,
        args=[container.path, *container.args],
        hostname=named.config.hostname,
        domainname=named.config.domainname,
        mounts=_bundle_mounts(context, container, network_peer),
        joins=_joins(context, container),
        env=links.variables(context, container),
        shm_source=shm_source,
        shm_namespace=shm_namespace,
        process_label=labels.process,
        mount_label=labels.mount,
    )


def _bundle_mounts(context: Context, container: Container, network_peer: Container | None) -> list[BundleMount]:
    mounts = [
        from_mount_point(
            point,
            container_volumes.image_rootfs(context, point) if point.type == "image" else None,
            remap=point.type == "volume" and not container_volumes.is_mount(context, point),
        )
        for point in container.mounts
    ]
    taken = {mount.destination for mount in mounts}
    files = network_peer or container  # who shares a network shares its names
    sources = (files.resolv_path, files.hostname_path, files.hosts_path)
    mounts += [
        BundleMount(destination=target, source=str(source), read_only=container.host.readonly_rootfs, remap=True)
        for target, source in zip(_ETC, sources, strict=True)
        if target not in taken
    ]
    return mounts


def make_sources(mounts: Iterable[MountPoint]) -> None:
    """Make missing bind sources of `-v`, as directories. InvalidArgument for one that `--mount` names."""
    for point in mounts:
        if point.type != "bind" or os.path.lexists(point.source):
            continue
        if not point.create_source:
            raise InvalidArgument(
                f'invalid mount config for type "bind": bind source path does not exist: {point.source}'
            )
        try:
            os.makedirs(point.source, 0o755, exist_ok=True)
        except OSError as error:
            raise SystemFailure(f"error while creating mount source path '{point.source}': {error.strerror}") from error


class Connections(Struct):
    """What a start got from the networks, kept in the run-time directory: a daemon that was killed before it wrote
    the container's status finds it there."""

    endpoints: dict[str, EndpointSettings]
    ports: dict[str, list[PortBinding] | None]


def read_connections(container: Container) -> Connections | None:
    """What `write_files` kept; None if it is not there."""
    try:
        data = Path(container.run_directory, _CONNECTIONS).read_bytes()
        return msgspec.json.decode(data, type=Connections)
    except (OSError, msgspec.MsgspecError):
        return None


def write_files(context: Context, container: Container) -> None:
    """The run-time directory and the three files of /etc. SystemFailure naming the file."""
    host = container.host
    try:
        _make_run_directory(container.run_directory)
        shipping.prepare(container)
        kept = Connections(container.status.endpoints, container.status.ports)
        _write(f"{container.run_directory}/{_CONNECTIONS}", msgspec.json.encode(kept))
        if host.network_mode.startswith("container:"):
            return  # that container's files are mounted
        _write(container.hostname_path, f"{container.config.hostname}\n".encode())
        links.check(context, container)
        write_hosts(context, container)
        given = (host.dns or (), host.dns_search or (), host.dns_options or ())
        text = etcfiles.resolv_text(hostfiles.text("/etc/resolv.conf"), *given, keep_local=host.network_mode == "host")
        _write(container.resolv_path, text.encode())
    except OSError as error:
        raise SystemFailure(f"container {container.id}: {reason(error)}") from error


def _make_run_directory(path: str) -> None:
    """Empty: what an earlier run has left there, because the disk would not take its end, is not this one's."""
    try:
        os.makedirs(path, 0o700)
    except FileExistsError:
        shutil.rmtree(path)
        os.mkdir(path, 0o700)


def write_hosts(context: Context, container: Container) -> None:
    """/etc/hosts, with the addresses that it has now; in place, because it is a mount point. OSError."""
    _write(container.hosts_path, _hosts(context, container, container.status.endpoints).encode())


def tell_linking(context: Context, container: Container) -> None:
    """The address that it has now, to those that run with a link to it."""
    for other in links.linking(context, container):
        with contextlib.suppress(OSError):  # that one's files are broken, which is no reason not to start this one
            write_hosts(context, other)


def _write(path: str, data: bytes) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)
    try:
        while data:
            data = data[os.write(fd, data) :]
    except OSError as error:
        error.filename = path
        raise
    finally:
        os.close(fd)


def _hosts(context: Context, container: Container, endpoints: Mapping[str, EndpointSettings]) -> str:
    host, config = container.host, container.config
    gateway = context.networks.gateway
    if not gateway and any(entry.endswith("host-gateway") for entry in host.extra_hosts or ()):
        raise InvalidArgument("unable to derive the IP value for host-gateway: there is no default bridge")
    extra = etcfiles.parse_extra_hosts(host.extra_hosts or (), gateway)
    if host.network_mode == "host":
        return etcfiles.hosts_text((), extra, hostfiles.text("/etc/hosts"))
    names = etcfiles.own_names(config.hostname, config.domainname)
    own: list[tuple[str, list[str]]] = list(links.hosts(context, container))
    own += [(endpoint.ip_address, names) for endpoint in endpoints.values() if endpoint.ip_address]
    return etcfiles.hosts_text(own, extra)


def launch(context: Context, container: Container, config: dict[str, Any], network: Mapping[str, Any] | None) -> Launch:
    """All that the runtime needs. `config`: the bundle's; `network`: the plan, None where nothing is to be set up."""
    settings = container.config
    return Launch(
        id=container.id,
        config=config,
        rootfs=cast(Rootfs, context.snapshots.rootfs(container.id)),
        stdio={
            "tty": settings.tty,
            "open_stdin": settings.open_stdin,
            "stdin_once": settings.stdin_once,
            "console_size": console_size(container.host.console_size),
        },
        log=log_spec(container),
        network=dict(network) if network is not None else None,
        state_dir=container.run_directory,
    )


def console_size(size: list[int] | None) -> list[int] | None:
    """[height, width], or None where a client gave none or zeros."""
    return size if size and len(size) == 2 and all(size) else None
