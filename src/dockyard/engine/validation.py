"""What is wrong with a container's settings before anything is made.

Owns: the rules between settings, with Docker's texts. Pure but for the number of CPUs, which is an argument.
Does not own: logs (`proto.logdrivers`), mounts (`model.mounts`), security options, capabilities and ulimits
(`runtime.bundle`), limits (`resources`), names.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Collection
from typing import Final

from dockyard.engine import resources
from dockyard.engine.links import HOST_NETWORK
from dockyard.engine.signals import parse_signal
from dockyard.model.container import ContainerConfig, HealthConfig, HostConfig
from dockyard.model.errors import InvalidArgument
from dockyard.model.health import TEST_KINDS
from dockyard.proto import logdrivers

MILLISECOND: Final = 1_000_000  # ns
_PORT: Final = re.compile(r"([0-9]{1,5})(?:-([0-9]{1,5}))?(?:/(tcp|udp|sctp))?\Z")
_HOST_PORT: Final = re.compile(r"([0-9]{0,5})(?:-([0-9]{1,5}))?\Z")


def validate(config: ContainerConfig, host: HostConfig, *, cpus: int, runtimes: Collection[str]) -> list[str]:
    """Refuse what cannot be; returns warnings about what will have no effect. Raises InvalidArgument."""
    _check_config(config)
    _check_modes(host, runtimes)
    _check_conflicts(config, host)
    _check_network_mode(config, host)
    _check_restart(host)
    _check_ports(config, host)
    resources.check(host, cpus=cpus)
    logdrivers.check(host.log_config.type or "json-file", host.log_config.config or {})
    return _warnings(config, host)


def check_update(config: ContainerConfig, host: HostConfig) -> None:
    """Refuse what an update may have made of a container's environment, restart policy or run time."""
    _check_environment(config)
    _check_restart(host)
    _check_runtime(host)


def _refuse(text: str) -> InvalidArgument:
    return InvalidArgument(text)


def _check_config(config: ContainerConfig) -> None:
    if config.working_dir and not config.working_dir.startswith("/"):
        raise _refuse(f"the working directory '{config.working_dir}' is invalid, it needs to be an absolute path")
    _check_environment(config)
    if len(config.hostname.encode()) > 64:
        raise _refuse(f"invalid hostname: {config.hostname}: longer than 64 bytes")
    if len(config.domainname.encode()) > 64:
        raise _refuse(f"invalid domainname: {config.domainname}: longer than 64 bytes")
    if config.stop_signal:
        parse_signal(config.stop_signal)
    for word in (*(config.entrypoint or ()), *(config.cmd or ())):
        if "\0" in word:
            raise _refuse("invalid command: it contains a NUL byte")
    if config.healthcheck is not None:
        _check_health(config.healthcheck)


def _check_environment(config: ContainerConfig) -> None:
    for variable in config.env or ():
        if variable.startswith("=") or not variable:
            raise _refuse(f"invalid environment variable: {variable}")
        if "\0" in variable:
            raise _refuse("invalid environment variable: it contains a NUL byte")


def _check_health(health: HealthConfig) -> None:
    for value, name in (
        (health.interval, "Interval"),
        (health.timeout, "Timeout"),
        (health.start_period, "StartPeriod"),
        (health.start_interval, "StartInterval"),
    ):
        if value != 0 and value < MILLISECOND:
            raise _refuse(f"{name} in Healthcheck cannot be less than 1ms")
    if health.retries < 0:
        raise _refuse("Retries in Healthcheck cannot be negative")
    if health.test and health.test[0] not in TEST_KINDS:
        raise _refuse(
            f"unknown kind of test in Healthcheck: {health.test[0]!r}, must be one of {', '.join(TEST_KINDS)}"
        )
    if health.test and health.test[0] != "NONE" and not any(health.test[1:]):
        raise _refuse(f"Test in Healthcheck has no command behind {health.test[0]}")
    if any("\0" in word for word in health.test or ()):
        raise _refuse("Test in Healthcheck contains a NUL byte")


def _is_container(mode: str) -> bool:
    return mode.startswith("container:") and len(mode) > len("container:")


def _check_modes(host: HostConfig, runtimes: Collection[str]) -> None:
    if host.ipc_mode not in ("", "none", "private", "host", "shareable") and not _is_container(host.ipc_mode):
        raise _refuse(f"invalid IPC mode: {host.ipc_mode}")
    if host.pid_mode not in ("", "host") and not _is_container(host.pid_mode):
        raise _refuse(f"invalid PID mode: {host.pid_mode}")
    if host.uts_mode not in ("", "host"):
        raise _refuse(f"invalid UTS mode: {host.uts_mode}")
    if host.cgroupns_mode not in ("", "private", "host"):
        raise _refuse(f"invalid cgroup namespace mode: {host.cgroupns_mode}")
    if host.cgroup:
        raise _refuse(f"invalid cgroup ({host.cgroup}): a control group of another container is not supported")
    if host.userns_mode not in ("", "host"):
        raise _refuse(f"invalid user namespace mode: {host.userns_mode}")
    if host.isolation not in ("", "default"):
        raise _refuse(f"invalid isolation ({host.isolation}): only 'default' is supported on linux")
    if host.network_mode.partition(":")[0] == "container" and not _is_container(host.network_mode):
        raise _refuse("Invalid network mode: invalid container format container:<name|id>")
    if host.runtime and host.runtime not in runtimes:
        raise _refuse(f"unknown or invalid runtime name: {host.runtime}")
    if len(host.console_size or (0, 0)) != 2:
        raise _refuse("invalid console size: it has a height and a width")


def _check_conflicts(config: ContainerConfig, host: HostConfig) -> None:
    if host.uts_mode == "host" and config.hostname:
        raise _refuse("conflicting options: hostname and the UTS mode")
    _check_runtime(host)
    if host.auto_remove and (host.restart_policy.name not in ("", "no") or host.restart_policy.on_unhealthy):
        raise _refuse("can't create 'AutoRemove' container with restart policy")
    if host.oom_score_adj < -1000 or host.oom_score_adj > 1000:
        raise _refuse(f"Invalid value {host.oom_score_adj}, range for oom score adj is [-1000, 1000]")
    if host.shm_size < 0:
        raise _refuse("SHM size can not be less than 0")
    own_network = host.network_mode != "host"
    for name in host.sysctls or ():
        if name.startswith("net.") and not own_network:
            raise _refuse(f"sysctl '{name}' not allowed in host network namespace")
    for entry in host.extra_hosts or ():
        _check_extra_host(entry)
    for server in host.dns or ():
        _check_address(server, f"bad nameserver address: {server}")


def _check_runtime(host: HostConfig) -> None:
    if host.maximum_runtime < 0 or 0 < host.maximum_runtime < MILLISECOND:
        raise _refuse("MaximumRuntime cannot be negative or less than 1ms")


def _check_extra_host(entry: str) -> None:
    name, separator, address = entry.partition(":")
    if not separator:
        name, separator, address = entry.partition("=")
    if not name or not address:
        raise _refuse(f'bad format for add-host: "{entry}"')
    if address != "host-gateway":
        _check_address(address.strip("[]"), f'invalid IP address in add-host: "{address}"')


def _check_address(address: str, problem: str) -> None:
    try:
        ipaddress.ip_address(address)
    except ValueError:
        raise _refuse(problem) from None


def _check_network_mode(config: ContainerConfig, host: HostConfig) -> None:
    if host.network_mode == "host" and host.links:
        raise _refuse(HOST_NETWORK)
    if host.network_mode == "host" and config.mac_address:
        raise _refuse("conflicting options: mac-address and the network mode")
    if not host.network_mode.startswith("container:"):
        return
    if host.links:
        raise _refuse(
            "conflicting options: container type network can't be used with links. "
            "This would result in undefined behavior"
        )
    for given, problem in (
        (config.hostname, "hostname and the network mode"),
        (host.dns, "dns and the network mode"),
        (host.extra_hosts, "custom host-to-IP mapping and the network mode"),
        (config.mac_address, "mac-address and the network mode"),
        (host.port_bindings or host.publish_all_ports, "port publishing and the container type network mode"),
        (config.exposed_ports, "port exposing and the container type network mode"),
    ):
        if given:
            raise _refuse(f"conflicting options: {problem}")


def _check_restart(host: HostConfig) -> None:
    policy = host.restart_policy
    if policy.name not in ("", "no", "always", "unless-stopped", "on-failure"):
        raise _refuse(
            f"invalid restart policy: unknown policy '{policy.name}'; "
            "use one of 'no', 'always', 'on-failure', or 'unless-stopped'"
        )
    if policy.maximum_retry_count < 0:
        raise _refuse("invalid restart policy: maximum retry count cannot be negative")
    if policy.maximum_retry_count and policy.name != "on-failure" and not policy.on_unhealthy:
        raise _refuse("invalid restart policy: maximum retry count can only be used with 'on-failure'")


def _check_ports(config: ContainerConfig, host: HostConfig) -> None:
    for port in (*(config.exposed_ports or ()), *(host.port_bindings or ())):
        match = _PORT.match(port)
        if not match or not 0 < int(match[1]) < 65536 or int(match[2] or 1) > 65535:
            raise _refuse(f"invalid port specification: {port!r}".replace("'", '"'))
    for port, bindings in (host.port_bindings or {}).items():
        for binding in bindings or ():
            match = _HOST_PORT.match(binding.host_port)
            if not match or int(match[1] or 0) > 65535 or int(match[2] or 0) > 65535:
                raise _refuse(f'invalid port specification: "{binding.host_port}" for {port}')
            if binding.host_ip:
                _check_address(binding.host_ip.strip("[]"), f"invalid IP address: {binding.host_ip}")


def _warnings(config: ContainerConfig, host: HostConfig) -> list[str]:
    warnings = []
    if host.network_mode == "host" and (host.port_bindings or host.publish_all_ports):
        warnings.append("Published ports are discarded when using host network mode")
    if host.network_mode == "none" and (host.port_bindings or host.publish_all_ports):
        warnings.append("Published ports are discarded when the container has no network")
    return warnings
