"""Make a container: the client's request and its image merged, checked, and written as one row.

Owns: the merge rules, defaults of a host configuration, which mounts a container gets, the order of steps and their
undoing. Does not own: what is allowed between settings (`validation`), mount notations (`model.mounts`), starting.

Order: everything is checked before anything is made; then volumes and the writable layer; the row comes last, so that
a crash leaves orphans for the sweep and never a row without its ground.
"""

from __future__ import annotations

import os
import re
from typing import Any, Final, cast

from msgspec.structs import replace

from dockyard.engine import (
    cgroup_driver,
    container_volumes,
    extensions,
    labels,
    links,
    names,
    resources,
    runtimes,
    validation,
)
from dockyard.engine.container import Container
from dockyard.engine.context import Context, Origin
from dockyard.engine.ground import default_hostname
from dockyard.engine.images.variants import host_platform
from dockyard.engine.metrics import timed
from dockyard.model.container import ContainerConfig, EndpointSettings, HostConfig, PortBinding
from dockyard.model.errors import DockyardError, InvalidArgument, NotFound, SystemFailure
from dockyard.model.lifecycle import Desired, Status
from dockyard.model.mounts import (
    MountPoint,
    image_volume,
    parse_bind,
    parse_mount,
    parse_tmpfs,
    parse_volumes_from,
)
from dockyard.proto import platforms
from dockyard.proto.units import parse_size
from dockyard.runtime.bundle.mounts import DEFAULT_SHM_SIZE, tmpfs_options
from dockyard.store.containers import ContainerRow, ContainerSpec, NameTaken
from dockyard.store.volumes import insert

_RANGE: Final = re.compile(r"([0-9]+)-([0-9]+)/(tcp|udp|sctp)\Z")


@timed("create")
async def create(
    context: Context,
    config: ContainerConfig,
    host: HostConfig,
    networks: dict[str, EndpointSettings],
    *,
    name: str,
    platform: str,
    image: Origin | None = None,
    copy_of: Container | None = None,
) -> tuple[Container, list[str]]:
    """See `Containers.create`. `image`: instead of the one that the settings name. `copy_of`: a container of the same
    layers, standing still, whose files and anonymous volumes it begins with."""
    if not config.image:
        raise InvalidArgument("No image specified" if config.cmd or config.entrypoint else "No command specified")
    container_id = names.new_id()
    name = _take_name(context, name, container_id)
    try:
        wanted = platforms.parse(platform, host_platform()) if platform else None
        image = image or context.images.get_for(config.image, wanted)
        spec, warnings = _specify(context, config, host, networks, image, name)
        if not spec.config.hostname and not spec.host.network_mode.startswith("container:"):
            spec.config.hostname = default_hostname(container_id, spec.host.network_mode, spec.host.uts_mode)
        spec.process_label, spec.mount_label = context.labels.draw(spec.host)
        try:
            async with context.leases.joining(config.labels):
                container = await _make(context, container_id, name, spec, copy_of)
        except BaseException:
            context.labels.release(spec.process_label)
            raise
    except BaseException:
        context.registry.release(name)
        raise
    context.publish(container, "create")
    return container, warnings


def _take_name(context: Context, name: str, container_id: str) -> str:
    """Reserve the wanted name, or a made-up one. Conflict naming the holder."""
    if name:
        name = names.check_name(name)
        holder = context.registry.holder(name)
        if holder is not None:
            raise names.name_conflict(name, holder)
    else:
        name = names.make_name(lambda candidate: context.registry.holder(candidate) is not None)
    context.registry.reserve(name, container_id)
    return name


# --- the specification ---


def _specify(
    context: Context,
    config: ContainerConfig,
    host: HostConfig,
    networks: dict[str, EndpointSettings],
    image: Origin,
    name: str,
) -> tuple[ContainerSpec, list[str]]:
    merged = merge(config, image.config)
    host = extensions.apply(config.labels, _with_defaults(host, context.cgroups.version))
    command = [*(merged.entrypoint or []), *(merged.cmd or [])]
    if not command:
        raise InvalidArgument("No command specified")
    warnings = validation.validate(merged, host, cpus=os.cpu_count() or 1, runtimes=context.runtimes)
    if host.network_mode == "bridge":
        asked = [networks[each].links or () for each in ("default", "bridge") if each in networks]
        host.links = [*(host.links or ()), *(link for given in asked for link in given)] or host.links
    _resolve(context, host, name)
    cgroup_driver.check_parent(host.cgroup_parent, context.cgroup_driver)
    host, discarded = resources.settle(host, context.cgroups)
    warnings += discarded
    context.bundler.validate(merged, host)
    warnings += context.bundler.shortfalls(host)
    runtimes.check(host)
    try:
        context.networks.check(host, networks)
    except NotFound:
        pass  # as Docker, which looks for a network at the start; clients take a 404 here for a missing image
    spec = ContainerSpec(
        created_at=context.clock(),
        config=merged,
        host=host,
        image_id=image.id,
        image_ref=config.image,
        path=command[0],
        args=command[1:],
        chain_id=image.chain_id,
        networks=_networks(host, networks),
        mounts=mount_points(context, merged, host),
        log_driver=host.log_config.type,
        log_options=host.log_config.config or {},
    )
    _writable_size(context, host)
    return spec, [*warnings, *context.labels.warnings(host, spec.mounts)]


def merge(config: ContainerConfig, image: ContainerConfig) -> ContainerConfig:
    """What a client asked for, over what the image brings along (Docker's rules).

    A given entrypoint drops the image's command; environment, labels, exposed ports and volumes are joined, the
    client's value wins; anything else is the image's where the client gave nothing.
    """
    merged: ContainerConfig = replace(config)
    merged.env = _merge_env(config.env, image.env)
    merged.labels = {**extensions.without(image.labels), **(config.labels or {})}
    merged.exposed_ports = _expand_ports({**(image.exposed_ports or {}), **(config.exposed_ports or {})}) or None
    merged.volumes = {**(image.volumes or {}), **(config.volumes or {})} or None
    merged.user = config.user or image.user
    merged.working_dir = config.working_dir or image.working_dir
    merged.stop_signal = config.stop_signal or image.stop_signal
    merged.shell = config.shell or image.shell
    if config.stop_timeout is None:
        merged.stop_timeout = image.stop_timeout
    if not config.entrypoint:
        if not config.cmd:
            merged.cmd, merged.args_escaped = image.cmd, image.args_escaped
        if config.entrypoint is None:
            merged.entrypoint = image.entrypoint
    if merged.entrypoint == [""]:  # `--entrypoint ""` means none at all, not the image's
        merged.entrypoint = []
    merged.healthcheck = _merge_health(config, image)
    return merged


def _merge_env(given: list[str] | None, inherited: list[str] | None) -> list[str]:
    keys = {variable.partition("=")[0] for variable in given or ()}
    return [*(given or ()), *(v for v in inherited or () if v.partition("=")[0] not in keys)]


def _merge_health(config: ContainerConfig, image: ContainerConfig) -> Any:
    if image.healthcheck is None or config.healthcheck is None:
        return config.healthcheck or image.healthcheck
    mine, theirs = config.healthcheck, image.healthcheck
    return replace(
        mine,
        test=mine.test or theirs.test,
        interval=mine.interval or theirs.interval,
        timeout=mine.timeout or theirs.timeout,
        retries=mine.retries or theirs.retries,
        start_period=mine.start_period or theirs.start_period,
        start_interval=mine.start_interval or theirs.start_interval,
    )


def _expand_ports(ports: dict[str, Any]) -> dict[str, Any]:
    """Every port by itself and with its protocol: "80" → "80/tcp", "8000-8001/udp" → two."""
    expanded: dict[str, Any] = {}
    for key, value in ports.items():
        key = key if "/" in key else f"{key}/tcp"
        match = _RANGE.match(key)
        if match and int(match[1]) <= int(match[2]) <= 65535:
            expanded.update({f"{port}/{match[3]}": value for port in range(int(match[1]), int(match[2]) + 1)})
        else:
            expanded[key] = value
    return expanded


def _with_defaults(host: HostConfig, cgroups: int) -> HostConfig:
    """The host configuration with Docker's defaults filled in. `cgroups`: the version of the hierarchy."""
    host = replace(host)
    if host.network_mode in ("", "default"):
        host.network_mode = "bridge"
    host.ipc_mode = host.ipc_mode or "private"
    host.cgroupns_mode = host.cgroupns_mode or ("host" if host.privileged and cgroups == 1 else "private")
    host.shm_size = host.shm_size or DEFAULT_SHM_SIZE
    host.log_config = replace(host.log_config, type=host.log_config.type or "json-file")
    if not host.restart_policy.name:
        host.restart_policy = replace(host.restart_policy, name="no")
    host.runtime = host.runtime or "dockyard"
    if host.port_bindings:
        host.port_bindings = cast(dict[str, list[PortBinding] | None], _expand_ports(host.port_bindings))
    if host.memory_swappiness == -1:
        host.memory_swappiness = None
    if host.pids_limit is not None and host.pids_limit <= 0:
        host.pids_limit = None  # clients' words for no limit
    if host.memory and not host.memory_swap:
        host.memory_swap = min(host.memory * 2, (1 << 63) - 1)  # Docker's default: as much swap as memory
    return host


def _resolve(context: Context, host: HostConfig, own_name: str) -> None:
    """Names of other containers become ids, in place, so that they survive a rename; what follows from those."""
    if host.network_mode == f"container:{own_name}":
        raise InvalidArgument("cannot join own network namespace")
    host.network_mode = _by_id(context, host.network_mode, "network")
    host.pid_mode = _by_id(context, host.pid_mode, "PID")
    host.ipc_mode = _by_id(context, host.ipc_mode, "IPC")
    if host.links and host.network_mode == "bridge":
        host.links = links.resolve(context, host.links)
    if implied := labels.implied_options(host, context.registry):
        host.security_opt = [*(host.security_opt or ()), *implied]


def _by_id(context: Context, mode: str, kind: str) -> str:
    """`container:NAME` with the name replaced by the id.

    Not NotFound when there is none: clients take a 404 at creation for a missing image.
    """
    if not mode.startswith("container:") or mode == "container:":
        return mode
    ref = mode.removeprefix("container:")
    other = context.registry.find(ref)
    if other is None:
        raise InvalidArgument(f"cannot join {kind} namespace of container: No such container: {ref}")
    return f"container:{other.id}"


def _networks(host: HostConfig, asked: dict[str, EndpointSettings]) -> dict[str, EndpointSettings]:
    """The networks to join at start. Clients may repeat the network mode's name as an endpoint, or leave it out."""
    mode = host.network_mode
    if mode.startswith("container:"):
        return {}
    wanted = {("bridge" if name == "default" else name): endpoint for name, endpoint in asked.items()}
    if mode in ("host", "none"):
        if others := [name for name in wanted if name != mode]:
            raise InvalidArgument(
                f"conflicting options: cannot attach both user-defined and non-user-defined network-modes: {others[0]}"
            )
        return {mode: wanted.get(mode) or EndpointSettings()}
    return {mode: wanted.pop(mode, None) or EndpointSettings(), **wanted}


def mount_points(context: Context, config: ContainerConfig, host: HostConfig) -> list[MountPoint]:
    """Everything to be mounted, checked, each target once. Raises InvalidArgument in Docker's words.

    Order of precedence: `-v`, `--mount`, `--tmpfs`; then `--volumes-from`; then the image's volumes.
    """
    points: dict[str, MountPoint] = {}
    for spec in host.binds or ():
        point = parse_bind(spec)
        if point.type == "volume":
            point.driver = host.volume_driver
        _add(points, point)
    for mount in host.mounts or ():
        point = parse_mount(mount)
        if point.type == "image":
            point.chain_id = _mounted_image(context, point.source)
        if point.type == "bind" and not point.create_source and not os.path.lexists(point.source):
            raise InvalidArgument(
                f'invalid mount config for type "bind": bind source path does not exist: {point.source}'
            )
        _add(points, point)
    for target, options in (host.tmpfs or {}).items():
        _add(points, parse_tmpfs(target, options))
    for point in points.values():
        if point.type == "tmpfs":
            tmpfs_options(point.mode)
    inherited = {point.destination: point for ref in host.volumes_from or () for point in _volumes_from(context, ref)}
    points = {**inherited, **points}  # of two containers' mounts at one place, the later one's
    for target in config.volumes or {}:
        volume = image_volume(target)
        if volume is not None:
            volume.driver = host.volume_driver
            points.setdefault(volume.destination, volume)
    return list(points.values())


def _mounted_image(context: Context, ref: str) -> str | None:
    """The layers of an image that is mounted. Not NotFound: clients would go and pull the container's own image."""
    try:
        return context.images.get(ref).chain_id
    except NotFound as error:
        raise InvalidArgument(str(error)) from None


def _writable_size(context: Context, host: HostConfig) -> int:
    """Bytes of `--storage-opt size`, the daemon's without; 0: any. InvalidArgument in Docker's words."""
    for name in host.storage_opt or {}:
        if name.lower() != "size":
            raise InvalidArgument(f"Unknown option {name}")
    for text in (host.storage_opt or {}).values():
        try:
            size = parse_size(text)
        except ValueError as error:
            raise InvalidArgument(str(error)) from None
        if reason := context.snapshots.why_no_limit():
            raise InvalidArgument(reason)
        return size
    return context.container_size


def _add(points: dict[str, MountPoint], point: MountPoint) -> None:
    if point.destination in points:
        raise InvalidArgument(f"Duplicate mount point: {point.destination}")
    points[point.destination] = point


def _volumes_from(context: Context, spec: str) -> list[MountPoint]:
    ref, mode = parse_volumes_from(spec)
    other = context.registry.find(ref)
    if other is None:
        raise InvalidArgument(f"No such container: {ref}")
    writable = "ro" not in mode.split(",")
    return [
        replace(p, rw=p.rw and writable, mode=mode or p.mode, no_copy=True) for p in other.mounts if p.type != "tmpfs"
    ]


# --- making it ---


async def _make(
    context: Context, container_id: str, name: str, spec: ContainerSpec, copy_of: Container | None
) -> Container:
    """Volumes, directory, writable layer, row; undone in reverse if one fails."""
    async with container_volumes.Making(context) as volumes:
        row = await _prepare(context, container_id, name, spec, volumes, copy_of)
        layout = context.layout
        places = layout.container(container_id), layout.run_container(container_id), layout.spool(container_id)
        container = Container(row, *places)
        volumes.done()
        context.registry.add(container)
    return container


async def _make_working_directory(context: Context, container_id: str, spec: ContainerSpec) -> None:
    """Clients copy files there before the first start. On a volume the start makes it."""
    path = spec.config.working_dir.rstrip("/")
    if path and not await context.snapshots.has_directory(spec.chain_id, path):
        await context.snapshots.make_directory(container_id, path)


async def _prepare_layer(context: Context, container_id: str, spec: ContainerSpec, copy_of: Container | None) -> None:
    views = [point.chain_id for point in spec.mounts if point.type == "image" and point.chain_id]
    size = _writable_size(context, spec.host)
    origin = copy_of.id if copy_of is not None else None
    await context.snapshots.prepare(container_id, spec.chain_id, views=views, size=size, copy_of=origin)
    if copy_of is None:
        await _make_working_directory(context, container_id, spec)


async def remake(context: Context, container: Container) -> None:
    """Its directory, if it is missing, and a new writable layer. NotFound if what that lies on is missing, too."""
    context.layout.container(container.id).mkdir(mode=0o710, exist_ok=True)
    context.snapshots.remove(container.id)
    await _prepare_layer(context, container.id, container.spec, None)


async def _prepare(
    context: Context,
    container_id: str,
    name: str,
    spec: ContainerSpec,
    volumes: container_volumes.Making,
    copy_of: Container | None,
) -> ContainerRow:
    directory = context.layout.container(container_id)
    prepared = False
    try:
        await volumes.resolve(spec, copy_of)
        directory.mkdir(mode=0o710)
        prepared = True
        await _prepare_layer(context, container_id, spec, copy_of)
        row = ContainerRow(container_id, name, spec, Status(), Desired())
        rows = [volume.row for volume in volumes.new]
        await context.store.insert(row, also=lambda connection: insert(connection, rows))
        return row
    except BaseException as error:
        if prepared:
            context.snapshots.remove(container_id)
            context.layout.discard(directory)
        if isinstance(error, NameTaken):
            raise names.name_conflict(name, container_id) from error
        if isinstance(error, OSError) and not isinstance(error, DockyardError):
            raise SystemFailure(f"container {container_id}: {error.strerror}: {error.filename}") from error
        raise
