"""What Docker shows of a container: the bodies of `inspect` and of the list.

Owns: these two shapes, with the differences between API versions. Does not own: the values (`engine.container`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from msgspec import UNSET

from dockyard.edge.api import wire
from dockyard.engine.container import Container
from dockyard.engine.containers import Sizes
from dockyard.engine.details import Ground
from dockyard.model.container import EndpointSettings, PortBinding
from dockyard.model.health import Health
from dockyard.model.lifecycle import State, Status, status_text
from dockyard.model.mounts import MountPoint
from dockyard.proto.times import SECOND, format_rfc3339

_BUILT_IN_NETWORKS = ("bridge", "host", "none", "default")
_SHORT_ID = 12

Version = tuple[int, int]
Ports = Mapping[str, list[PortBinding] | None]


def inspect_body(container: Container, version: Version, ground: Ground, sizes: Sizes | None) -> dict[str, Any]:
    """ContainerInspectResponse."""
    status = container.status
    body: dict[str, Any] = {
        "Id": container.id,
        "Created": format_rfc3339(container.created_at),
        "Path": container.path,
        "Args": container.args,
        "State": _state(status),
        "Image": container.image_id,
        "ResolvConfPath": str(container.resolv_path),
        "HostnamePath": str(container.hostname_path),
        "HostsPath": str(container.hosts_path),
        "LogPath": container.log_path,
        "Name": f"/{container.name}",
        "RestartCount": status.restart_count,
        "Driver": ground.driver,
        "Platform": container.spec.platform,
        "MountLabel": container.spec.mount_label,
        "ProcessLabel": container.spec.process_label,
        "AppArmorProfile": ground.apparmor_profile,
        "ExecIDs": list(container.exec_ids) or None,
        "HostConfig": _host_config(container, ground),
        "GraphDriver": {"Name": ground.driver, "Data": _graph_data(ground)},
        "Mounts": _mounts(container),
        "Config": wire.outgoing(container.config),
        "NetworkSettings": _network_settings(container, version),
    }
    if sizes is not None:
        body["SizeRw"], body["SizeRootFs"] = sizes.rw, sizes.root_fs
    return body


def summary_body(
    container: Container, version: Version, now: int, sizes: Sizes | None, image: str = "", linked: Sequence[str] = ()
) -> dict[str, Any]:
    """ContainerSummary. `now`: wall clock, ns; `image`: how the image is called now ("": as at the creation);
    `linked`: the names that other containers' links give it."""
    host: dict[str, Any] = {"NetworkMode": container.host.network_mode}
    if container.host.annotations and version >= (1, 46):
        host["Annotations"] = container.host.annotations
    body: dict[str, Any] = {
        "Id": container.id,
        "Names": [f"/{name}" for name in (container.name, *linked)],
        "Image": image or container.image_ref,
        "ImageID": container.image_id,
        "Command": _command(container.path, container.args),
        "Created": container.created_at // SECOND,
        "Ports": list(_published(container.ports)),
        "Labels": container.labels,
        "State": container.state.value,
        "Status": status_text(container.status, now),
        "HostConfig": host,
        "NetworkSettings": {"Networks": _networks(container, version)},
        "Mounts": _mounts(container),
    }
    if sizes is not None:
        body["SizeRw"], body["SizeRootFs"] = sizes.rw, sizes.root_fs
    return body


def _graph_data(ground: Ground) -> dict[str, str] | None:
    """Docker's names of an overlay's parts; null for any other driver. MergedDir only while there is such a view."""
    if ground.upper is None:
        return None
    data = {"LowerDir": ":".join(ground.lower), "UpperDir": ground.upper, "WorkDir": ground.work}
    return {**data, "MergedDir": ground.merged} if ground.merged else data


def _host_config(container: Container, ground: Ground) -> Any:
    body: Any = wire.outgoing(container.host)
    body.masked_paths, body.readonly_paths = ground.masked_paths, ground.readonly_paths
    body.console_size = body.console_size or [0, 0]  # never null in Docker
    body.links = [f"/{other}:/{container.name}/{alias}" for other, alias in ground.links] or body.links
    body.restart_policy.on_unhealthy = body.restart_policy.on_unhealthy or UNSET  # ours: shown where it says something
    return body


def _state(status: Status) -> dict[str, Any]:
    body: dict[str, Any] = {
        "Status": status.state.value,
        "Running": status.active,
        "Paused": status.state is State.PAUSED,
        "Restarting": status.state is State.RESTARTING,
        "OOMKilled": status.oom_killed,
        "Dead": status.state is State.DEAD,
        "Pid": status.pid,
        "ExitCode": status.exit_code,
        "Error": status.error,
        "StartedAt": format_rfc3339(status.started_at),
        "FinishedAt": format_rfc3339(status.finished_at),
    }
    if status.health is not None:
        body["Health"] = _health(status.health)
    return body


def _health(health: Health) -> dict[str, Any]:
    return {
        "Status": health.status,
        "FailingStreak": health.failing_streak,
        "Log": [
            {
                "Start": format_rfc3339(result.start),
                "End": format_rfc3339(result.end),
                "ExitCode": result.exit_code,
                "Output": result.output,
            }
            for result in health.log
        ],
    }


def _command(path: str, arguments: list[str]) -> str:
    return " ".join([path, *(f"'{argument}'" if " " in argument else argument for argument in arguments)])


def _mounts(container: Container) -> list[dict[str, Any]]:
    """Not those of `--tmpfs`, which are in HostConfig.Tmpfs only."""
    return [_mount(mount) for mount in container.mounts if mount.type != "tmpfs" or mount.from_mount]


def _mount(mount: MountPoint) -> dict[str, Any]:
    body: dict[str, Any] = {"Type": mount.type}
    if mount.name:
        body["Name"] = mount.name
    body["Source"] = mount.source
    body["Destination"] = mount.destination
    if mount.driver:
        body["Driver"] = mount.driver
    return {**body, "Mode": mount.mode, "RW": mount.rw, "Propagation": mount.propagation}


def _published(ports: Ports) -> list[dict[str, Any]]:
    """The `Ports` of the list: one entry a binding, and one for a port that is exposed only."""
    entries: list[dict[str, Any]] = []
    for name, bindings in ports.items():
        number, _, protocol = name.partition("/")
        private = {"PrivatePort": int(number), "Type": protocol or "tcp"}
        for binding in bindings or ():
            ip = {"IP": binding.host_ip} if binding.host_ip else {}
            entries.append({**ip, **private, "PublicPort": int(binding.host_port or 0)})
        if not bindings:
            entries.append(private)
    return entries


def _port_map(ports: Ports) -> dict[str, Any]:
    """The `Ports` of inspect. A port that is not published is null."""
    return {
        name: [{"HostIp": b.host_ip, "HostPort": b.host_port} for b in bindings] if bindings else None
        for name, bindings in ports.items()
    }


def _network_settings(container: Container, version: Version) -> dict[str, Any]:
    running = container.running
    main = container.endpoints.get("bridge") or EndpointSettings()
    if not running:
        main = EndpointSettings()
    return {
        "Bridge": "",
        "SandboxID": container.id if running else "",
        "SandboxKey": f"/proc/{container.status.pid}/ns/net" if running else "",
        "Ports": _port_map(container.ports),
        "HairpinMode": False,
        "LinkLocalIPv6Address": "",
        "LinkLocalIPv6PrefixLen": 0,
        "SecondaryIPAddresses": None,
        "SecondaryIPv6Addresses": None,
        "EndpointID": main.endpoint_id,
        "Gateway": main.gateway,
        "GlobalIPv6Address": main.global_ipv6_address,
        "GlobalIPv6PrefixLen": main.global_ipv6_prefix_len,
        "IPAddress": main.ip_address,
        "IPPrefixLen": main.ip_prefix_len,
        "IPv6Gateway": main.ipv6_gateway,
        "MacAddress": main.mac_address if running else "",
        "Networks": _networks(container, version),
    }


def _networks(container: Container, version: Version) -> dict[str, Any]:
    return {name: _endpoint(container, name, endpoint, version) for name, endpoint in container.endpoints.items()}


def _endpoint(container: Container, network: str, endpoint: EndpointSettings, version: Version) -> Any:
    body: Any = wire.outgoing(endpoint)
    if version < (1, 45) and network not in _BUILT_IN_NETWORKS:
        # Until 1.44 the short ID and the hostname were told as aliases.
        names = [*(endpoint.aliases or ()), container.id[:_SHORT_ID], container.config.hostname]
        body.aliases = list(dict.fromkeys(name for name in names if name))
    return body
