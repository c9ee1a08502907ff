"""The engine itself over HTTP: `/_ping`, `/version`, `/info`, `/system/df`.

Owns: Docker's JSON of these. Does not own: the facts (`engine.system`).
"""

from __future__ import annotations

import asyncio
import os
import platform
import time
from typing import Any

from aiohttp import web

from dockyard.edge.api import images
from dockyard.edge.api.bodies import summary_body
from dockyard.edge.api.build import cache_records
from dockyard.edge.api.volumes import volume_body
from dockyard.edge.routing import Call, Route
from dockyard.engine.disk import KINDS, VolumeUsage
from dockyard.engine.runtimes import OciRuntime
from dockyard.engine.system import System
from dockyard.model.errors import InvalidArgument
from dockyard.proto import logdrivers
from dockyard.proto.references import DEFAULT_DOMAIN
from dockyard.proto.registries import RegistryRules
from dockyard.proto.times import format_rfc3339

_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}


async def ping(call: Call) -> web.StreamResponse:
    return web.Response(
        text="OK",
        headers={"Builder-Version": "1", "Swarm": "inactive", "Cache-Control": "no-cache, no-store, must-revalidate",
                 "Pragma": "no-cache"},
    )  # fmt: skip


async def version(call: Call) -> web.StreamResponse:
    with call.engine.context.metrics.host.timed("system_version"):
        return call.json(_version(call.engine.system))


def _version(system: System) -> dict[str, Any]:
    host = system.host
    architecture = _ARCHITECTURES.get(host.architecture, host.architecture)
    details = {
        "ApiVersion": "1.50",
        "Arch": architecture,
        "BuildTime": "",
        "Experimental": "false",
        "GitCommit": "",
        "GoVersion": _python(),
        "KernelVersion": host.kernel,
        "MinAPIVersion": "1.24",
        "Os": "linux",
    }
    return {
        "Platform": {"Name": f"Dockyard {system.version}"},
        "Components": [{"Name": "Engine", "Version": system.version, "Details": details}],
        "Version": system.version,
        "ApiVersion": "1.50",
        "MinAPIVersion": "1.24",
        "GitCommit": "",
        "GoVersion": _python(),
        "Os": "linux",
        "Arch": architecture,
        "KernelVersion": host.kernel,
        "BuildTime": "",
    }


def _python() -> str:
    """Clients expect the language's version under Go's name."""
    return f"python{platform.python_version()}"


async def info(call: Call) -> web.StreamResponse:
    with call.engine.context.metrics.host.timed("system_info"):
        return call.json(_info(call))


def _info(call: Call) -> dict[str, Any]:
    system = call.engine.system
    old = {"BridgeNfIptables": True, "BridgeNfIp6tables": True} if call.version < (1, 50) else {}
    catalog = system.settings.devices.catalog()
    problems = [f"WARNING: CDI: {problem}" for problem in catalog.problems]
    return {
        **_counts(system, call.engine.images.count()),
        **old,
        **_limits(system),
        **_process(system),
        **_host(system),
        **_settings(system, call.version),
        **_constants(),
        "CDISpecDirs": list(system.settings.devices.directories),
        "DiscoveredDevices": [{"Source": "cdi", "ID": name} for name in sorted(catalog.devices)],
        "Warnings": (system.warnings() + problems) or None,
    }


def _counts(system: System, images: int) -> dict[str, Any]:
    counts = system.counts()
    return {
        "ID": system.id,
        "Containers": counts.containers,
        "ContainersRunning": counts.running,
        "ContainersPaused": counts.paused,
        "ContainersStopped": counts.stopped,
        "Images": images,
    }


def _limits(system: System) -> dict[str, Any]:
    groups = system.host.cgroups
    return {
        "MemoryLimit": groups.memory_limit,
        "SwapLimit": groups.swap_limit,
        "CpuCfsPeriod": groups.cpu_quota,
        "CpuCfsQuota": groups.cpu_quota,
        "CPUShares": groups.cpu_shares,
        "CPUSet": groups.cpuset,
        "PidsLimit": groups.pids_limit,
        "OomKillDisable": groups.oom_kill_disable,
        "CgroupDriver": system.settings.cgroup_driver,
        "CgroupVersion": str(groups.version),
        "IPv4Forwarding": system.forwarding(),
    }


def _process(system: System) -> dict[str, Any]:
    return {
        "NFd": system.descriptors(),
        "NGoroutines": len(asyncio.all_tasks()),
        "SystemTime": format_rfc3339(time.time_ns()),
        "NEventsListener": system.listeners(),
    }


def _host(system: System) -> dict[str, Any]:
    host = system.host
    security = ["name=cgroupns"]
    if system.settings.selinux:
        security.insert(0, "name=selinux")  # seccomp and apparmor come before it, as with Docker
    if system.settings.userns:
        security.append("name=userns")
    if system.settings.no_new_privileges:
        security.append("name=no-new-privileges")
    if host.seccomp:
        security.insert(0, "name=seccomp,profile=builtin")
    if host.apparmor:
        security.insert(0, "name=apparmor")
    return {
        "KernelVersion": host.kernel,
        "OperatingSystem": host.operating_system,
        "OSVersion": host.os_version,
        "OSType": "linux",
        "Architecture": host.architecture,
        "NCPU": system.cpus(),
        "MemTotal": host.memory,
        "Name": host.hostname,
        "SecurityOptions": security,
        "HttpProxy": _proxy("HTTP_PROXY"),
        "HttpsProxy": _proxy("HTTPS_PROXY"),
        "NoProxy": os.environ.get("NO_PROXY", ""),
    }


def _proxy(name: str) -> str:
    """A proxy's address without its user and password (S50)."""
    value = os.environ.get(name, "")
    scheme, separator, rest = value.rpartition("://")
    user, at, address = rest.rpartition("@")
    return f"{scheme}{separator}xxxxx:xxxxx@{address}" if at and user else value


def _runtime(runtime: OciRuntime) -> dict[str, Any]:
    found: dict[str, Any] = {"path": runtime.path}
    return {**found, "runtimeArgs": list(runtime.args)} if runtime.args else found


def _settings(system: System, version: tuple[int, int]) -> dict[str, Any]:
    settings = system.settings
    pools = [{"Base": pool.base, "Size": pool.size} for pool in settings.address_pools]
    return {
        "Driver": settings.storage_driver,
        "DriverStatus": [["Backing Filesystem", system.host.backing_filesystem]],
        "DockerRootDir": settings.data_root,
        "Debug": settings.debug,
        "LoggingDriver": settings.log_driver,
        "Labels": settings.labels,
        "ServerVersion": system.version,
        "Runtimes": {name: _runtime(found) for name, found in settings.runtimes.items()},
        "DefaultRuntime": settings.default_runtime,
        "RegistryConfig": registry_config(settings.registries, version),
        **({"DefaultAddressPools": pools} if pools else {}),
    }  # fmt: skip


def registry_config(rules: RegistryRules, version: tuple[int, int]) -> dict[str, Any]:
    """Docker's view of the settings: hosts and ranges apart, loopback always insecure, docker.io always there."""

    def index(name: str, secure: bool) -> dict[str, Any]:
        mirrors = [f"{mirror.url}/" for mirror in rules.mirrors if mirror.domain == name]
        return {"Name": name, "Mirrors": mirrors, "Secure": secure, "Official": name == DEFAULT_DOMAIN}

    names = dict.fromkeys([DEFAULT_DOMAIN, *rules.insecure, *(mirror.domain for mirror in rules.mirrors)])
    ranges = [str(network) for network in rules.ranges]
    allowed = rules.nondistributable
    foreign = {
        "AllowNondistributableArtifactsCIDRs": [name for name in allowed if "/" in name],
        "AllowNondistributableArtifactsHostnames": [name for name in allowed if "/" not in name],
    }
    return {
        **(foreign if version < (1, 49) else {}),
        "InsecureRegistryCIDRs": [*ranges, "::1/128", "127.0.0.0/8"],
        "IndexConfigs": {name: index(name, not rules.is_insecure(name)) for name in names},
        "Mirrors": index(DEFAULT_DOMAIN, True)["Mirrors"],
    }


def _constants() -> dict[str, Any]:
    commit = {"ID": ""}
    return {
        "Plugins": {
            "Volume": ["local"],
            "Network": ["bridge", "host", "null"],
            "Authorization": None,
            "Log": [name for name in logdrivers.DRIVERS if name != "none"],
        },
        "IndexServerAddress": "https://index.docker.io/v1/",
        "GenericResources": None,
        "ExperimentalBuild": False,
        "Swarm": {
            "NodeID": "",
            "NodeAddr": "",
            "LocalNodeState": "inactive",
            "ControlAvailable": False,
            "Error": "",
            "RemoteManagers": None,
        },
        "LiveRestoreEnabled": True,
        "Isolation": "",
        "InitBinary": "dockyard-init",
        "ContainerdCommit": commit,
        "RuncCommit": commit,
        "InitCommit": commit,
        "ProductLicense": "",
    }


async def disk_usage(call: Call) -> web.StreamResponse:
    """What takes space. `type` restricts it to some kinds; the rest is null."""
    kinds = call.texts("type")
    for kind in kinds:
        if kind not in KINDS:
            raise InvalidArgument(f"unknown object type: {kind}")
    usage = await call.engine.disk.usage(kinds)
    now = time.time_ns()
    body: dict[str, Any] = {"LayersSize": usage.layers_size}
    if "image" in usage.kinds:
        body["BlobsSize"] = await call.engine.images.blobs_size()  # ours: what --discard-blobs could spare is in it
    body["Images"] = usage.images and await call.encoded(
        images.summary_body(entry.image, call.version) | {"Containers": entry.containers} for entry in usage.images
    )
    body["Containers"] = usage.containers and await call.encoded(
        summary_body(entry.container, call.version, now, entry.sizes) for entry in usage.containers
    )
    body["Volumes"] = usage.volumes and [_volume(entry) for entry in usage.volumes]
    body["BuildCache"] = await cache_records(call) if "build-cache" in usage.kinds else None
    return call.json(body)


def _volume(usage: VolumeUsage) -> dict[str, Any]:
    return {**volume_body(usage.volume), "UsageData": {"RefCount": usage.containers, "Size": usage.size}}


ROUTES = [
    Route("GET", "/_ping", ping),
    Route("HEAD", "/_ping", ping),
    Route("GET", "/version", version),
    Route("GET", "/info", info),
    Route("GET", "/system/df", disk_usage),
]
