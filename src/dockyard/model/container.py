"""What a container is asked to be: the settings of a container as values.

Owns: the settings records (`ContainerConfig`, `HostConfig`, `EndpointSettings` and their parts) that the engine
stores, compares and gives to the runtime. Field names are ours (snake_case); Docker's spelling of each is derived
in `edge.api.wire`. Does not own: what a container *is* at the moment (`model.lifecycle`), nor how any of this is
carried out.

Units: sizes are bytes, periods and intervals are nanoseconds unless a field says otherwise.
`None` means "not given"; an empty list or string means "given as empty".
"""

from __future__ import annotations

from typing import Any

from msgspec import Struct, field


class HealthConfig(Struct, omit_defaults=True):
    """How to find out whether the program is healthy. Intervals in ns; 0 inherits."""

    test: list[str] | None = None
    interval: int = 0
    timeout: int = 0
    retries: int = 0
    start_period: int = 0
    start_interval: int = 0


class ContainerConfig(Struct):
    """The portable part: what an image may bring along and a client may override."""

    hostname: str = ""
    domainname: str = ""
    user: str = ""
    attach_stdin: bool = False
    attach_stdout: bool = False
    attach_stderr: bool = False
    exposed_ports: dict[str, Any] | None = None  # "80/tcp" -> {}
    tty: bool = False
    open_stdin: bool = False
    stdin_once: bool = False
    env: list[str] | None = None
    cmd: list[str] | None = None
    healthcheck: HealthConfig | None = None
    args_escaped: bool = False
    image: str = ""
    volumes: dict[str, Any] | None = None  # "/path" -> {}
    working_dir: str = ""
    entrypoint: list[str] | None = None
    network_disabled: bool = False
    mac_address: str = ""
    on_build: list[str] | None = None
    labels: dict[str, str] | None = None
    stop_signal: str = ""
    stop_timeout: int | None = None  # seconds
    shell: list[str] | None = None


class PortBinding(Struct):
    """Where a container's port appears on the host; both as text, as clients give them ("" = any)."""

    host_ip: str = ""
    host_port: str = ""


class RestartPolicy(Struct):
    name: str = ""  # "", "no", "always", "unless-stopped", "on-failure"
    maximum_retry_count: int = 0
    on_unhealthy: bool = False  # ours: also when its health check says so, whatever the name


class LogConfig(Struct):
    type: str = ""
    config: dict[str, str] | None = None


class DeviceMapping(Struct):
    path_on_host: str = ""
    path_in_container: str = ""
    cgroup_permissions: str = ""


class DeviceRequest(Struct):
    driver: str = ""
    count: int = 0
    device_ids: list[str] | None = None
    capabilities: list[list[str]] | None = None
    options: dict[str, str] | None = None


class ThrottleDevice(Struct):
    path: str = ""
    rate: int = 0


class WeightDevice(Struct):
    path: str = ""
    weight: int = 0


class Ulimit(Struct):
    name: str = ""
    soft: int = 0
    hard: int = 0


class BindOptions(Struct, omit_defaults=True):
    propagation: str = ""
    non_recursive: bool = False
    create_mountpoint: bool = False
    read_only_non_recursive: bool = False
    read_only_force_recursive: bool = False
    chown: bool = False  # ours: give what is there to the container's user at each start
    id_map: str = ""  # ours: see `model.idmaps`


class DriverConfig(Struct, omit_defaults=True):
    name: str = ""
    options: dict[str, str] | None = None


class VolumeOptions(Struct, omit_defaults=True):
    no_copy: bool = False
    labels: dict[str, str] | None = None
    driver_config: DriverConfig | None = None
    subpath: str = ""
    chown: bool = False  # ours, as with binds
    id_map: str = ""


class ImageOptions(Struct, omit_defaults=True):
    subpath: str = ""


class TmpfsOptions(Struct, omit_defaults=True):
    size_bytes: int = 0
    mode: int = 0
    options: list[list[str]] | None = None


class Mount(Struct, omit_defaults=True):
    """One mount as `--mount` states it. `type`: bind, volume, tmpfs, image, npipe, cluster."""

    target: str = ""
    source: str = ""
    type: str = ""
    read_only: bool = False
    consistency: str = ""
    bind_options: BindOptions | None = None
    volume_options: VolumeOptions | None = None
    image_options: ImageOptions | None = None
    tmpfs_options: TmpfsOptions | None = None


class HostConfig(Struct):
    """The part that belongs to this host: resources, namespaces, mounts, security."""

    cpu_shares: int = 0
    memory: int = 0
    cgroup_parent: str = ""
    blkio_weight: int = 0
    blkio_weight_device: list[WeightDevice] | None = None
    blkio_device_read_bps: list[ThrottleDevice] | None = None
    blkio_device_write_bps: list[ThrottleDevice] | None = None
    blkio_device_read_iops: list[ThrottleDevice] | None = None
    blkio_device_write_iops: list[ThrottleDevice] | None = None
    cpu_period: int = 0  # microseconds
    cpu_quota: int = 0  # microseconds
    cpu_realtime_period: int = 0  # microseconds
    cpu_realtime_runtime: int = 0  # microseconds
    cpuset_cpus: str = ""
    cpuset_mems: str = ""
    devices: list[DeviceMapping] | None = None
    device_cgroup_rules: list[str] | None = None
    device_requests: list[DeviceRequest] | None = None
    kernel_memory_tcp: int = 0
    memory_reservation: int = 0
    memory_swap: int = 0
    memory_swappiness: int | None = None
    nano_cpus: int = 0  # 1e-9 CPUs
    oom_kill_disable: bool | None = None
    init: bool | None = None
    pids_limit: int | None = None
    ulimits: list[Ulimit] | None = None
    cpu_count: int = 0
    cpu_percent: int = 0
    io_maximum_iops: int = 0
    io_maximum_bandwidth: int = 0
    binds: list[str] | None = None
    container_id_file: str = ""
    log_config: LogConfig = field(default_factory=LogConfig)
    network_mode: str = ""
    port_bindings: dict[str, list[PortBinding] | None] | None = None  # "80/tcp" -> bindings
    restart_policy: RestartPolicy = field(default_factory=RestartPolicy)
    auto_remove: bool = False
    volume_driver: str = ""
    volumes_from: list[str] | None = None
    mounts: list[Mount] | None = None
    console_size: list[int] | None = None  # [height, width] in characters
    annotations: dict[str, str] | None = None
    cap_add: list[str] | None = None
    cap_drop: list[str] | None = None
    cgroupns_mode: str = ""
    dns: list[str] | None = None
    dns_options: list[str] | None = None
    dns_search: list[str] | None = None
    extra_hosts: list[str] | None = None
    group_add: list[str] | None = None
    ipc_mode: str = ""
    cgroup: str = ""
    links: list[str] | None = None
    oom_score_adj: int = 0
    pid_mode: str = ""
    privileged: bool = False
    publish_all_ports: bool = False
    readonly_rootfs: bool = False
    security_opt: list[str] | None = None
    storage_opt: dict[str, str] | None = None
    tmpfs: dict[str, str] | None = None
    uts_mode: str = ""
    userns_mode: str = ""
    shm_size: int = 0
    sysctls: dict[str, str] | None = None
    runtime: str = ""
    isolation: str = ""
    masked_paths: list[str] | None = None
    readonly_paths: list[str] | None = None
    maximum_runtime: int = 0  # ns; ours: it is stopped that long after its start; 0: never


class EndpointIPAMConfig(Struct):
    ipv4_address: str = ""
    ipv6_address: str = ""
    link_local_ips: list[str] | None = None


class EndpointSettings(Struct):
    """A container's connection to one network: what was asked (first part) and what it got (second part)."""

    ipam_config: EndpointIPAMConfig | None = None
    links: list[str] | None = None
    mac_address: str = ""
    aliases: list[str] | None = None
    driver_opts: dict[str, str] | None = None
    gw_priority: int = 0
    # operational
    network_id: str = ""
    endpoint_id: str = ""
    gateway: str = ""
    ip_address: str = ""
    ip_prefix_len: int = 0
    ipv6_gateway: str = ""
    global_ipv6_address: str = ""
    global_ipv6_prefix_len: int = 0
    dns_names: list[str] | None = None
