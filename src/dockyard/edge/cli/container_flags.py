"""The flags that `run` and `create` share, and the kinds of values they take.

Owns: names, help and the value of each flag, as far as a single value can be judged (`container_spec` puts them
together). Errors name the flag: `invalid argument "x" for "-m, --memory" flag: …`.
"""

from __future__ import annotations

import os

from dockyard.edge.cli.flags import BYTES, DURATION, INT, Kind, flag, many, value
from dockyard.edge.cli.resource_flags import RESOURCE_FLAGS
from dockyard.proto import envfile, mountspec

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_SYSCTLS = {"kernel.shmall", "kernel.shmmax", "kernel.shmmni", "kernel.shm_rmid_forced"}
_SYSCTLS |= {"kernel.msgmax", "kernel.msgmnb", "kernel.msgmni", "kernel.sem"}


def _attach(text: str) -> str:
    if text.lower() not in ("stdin", "stdout", "stderr"):
        raise ValueError("valid streams are STDIN, STDOUT and STDERR")
    return text.lower()


def _host(text: str) -> str:
    separator = "=" if "=" in text else ":"
    name, _, address = text.partition(separator)
    if not name or not address:
        raise ValueError(f'bad format for add-host: "{text}"')
    if address != "host-gateway":
        address = address[1:-1] if address.startswith("[") and address.endswith("]") else address
        if not _is_address(address):
            raise ValueError(f'invalid IP address in add-host: "{address}"')
    return f"{name}:{address}"


def _is_address(text: str) -> bool:
    import ipaddress

    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def _dns(text: str) -> str:
    if not _is_address(text.strip()):
        raise ValueError(f"IP address is not correctly formatted: {text}")
    return text.strip()


def _environment(text: str) -> str:
    return envfile.environment_value(text, os.environ)


def _label(text: str) -> str:
    if not text.partition("=")[0]:
        raise ValueError(f'invalid label format: "{text}"')
    return text


def _link(text: str) -> str:
    parts = text.split(":")
    if not text or len(parts) > 2 or not parts[0]:
        raise ValueError(f"bad format for links: {text}")
    return text


def _mount(text: str) -> dict[str, Any]:
    return mountspec.parse_mount(text, os.getcwd())


def _network(text: str) -> dict[str, Any]:
    """`NAME`, or `name=NAME,alias=A,ip=…,ip6=…,mac-address=…,link-local-ip=…,driver-opt=k=v,gw-priority=N`."""
    out: dict[str, Any] = {"Target": ""}
    if "=" not in text:
        return {"Target": text}
    for field in mountspec.fields(text):
        key, equals, given = field.partition("=")
        key, given = key.strip().lower(), given.strip()
        if not equals:
            raise ValueError(f"invalid field {field}")
        if key == "name":
            out["Target"] = given
        elif key in ("alias", "link-local-ip"):
            out.setdefault(key, []).append(given)
        elif key in ("ip", "ip6", "mac-address"):
            out[key] = given
        elif key == "driver-opt":
            name, _, option = given.partition("=")
            out.setdefault(key, {})[name.lower()] = option
        elif key == "gw-priority":
            if not given.lstrip("-").isdecimal():
                raise ValueError(f"invalid gw-priority: {given}")
            out[key] = int(given)
        else:
            raise ValueError(f"invalid field key {key}")
    if not out["Target"]:
        raise ValueError("network name/id is not specified")
    return out


def _sysctl(text: str) -> str:
    name, equals, _ = text.partition("=")
    if not equals or not (name in _SYSCTLS or name.startswith(("net.", "fs.mqueue."))):
        raise ValueError(f"sysctl '{text}' is not allowed")
    return text


def _ulimit(text: str) -> dict[str, Any]:
    name, equals, limits = text.partition("=")
    soft, colon, hard = limits.partition(":")
    try:
        low = int(soft)
        high = int(hard) if colon else low
    except ValueError:
        raise ValueError(f"invalid ulimit argument: {text}") from None
    if not equals or not name:
        raise ValueError(f"invalid ulimit argument: {text}")
    if low > high != -1:
        raise ValueError(f"ulimit soft limit must be less than or equal to hard limit: {low} > {high}")
    return {"Name": name, "Soft": low, "Hard": high}


ULIMIT = Kind("ulimit", _ulimit)


def _weight_device(text: str) -> dict[str, Any]:
    path, rate = _device_value(text)
    if not rate.isdecimal() or (rate != "0" and not 10 <= int(rate) <= 1000):
        raise ValueError(f"invalid weight for device: {text}")
    return {"Path": path, "Weight": int(rate)}


def _device_bytes(text: str) -> dict[str, Any]:
    path, rate = _device_value(text)
    try:
        return {"Path": path, "Rate": BYTES.convert(rate)}
    except ValueError:
        raise ValueError(
            f"invalid rate for device: {text}. The correct format is <device-path>:<number>[<unit>]. "
            "Number must be a positive integer. Unit is optional and can be kb, mb, or gb"
        ) from None


def _device_operations(text: str) -> dict[str, Any]:
    path, rate = _device_value(text)
    if not rate.isdecimal():
        raise ValueError(f"invalid rate for device: {text}. The correct format is <device-path>:<number>")
    return {"Path": path, "Rate": int(rate)}


def _device_value(text: str) -> tuple[str, str]:
    path, colon, rate = text.rpartition(":")
    if not colon:
        raise ValueError(f"bad format: {text}")
    if not path.startswith("/dev/"):
        raise ValueError(f"bad format for device path: {text}")
    return path, rate


_LIST = "list"
ENVIRONMENT = Kind(_LIST, _environment)
LABEL = Kind(_LIST, _label)
_DEVICE_BYTES = Kind(_LIST, _device_bytes)
_DEVICE_OPERATIONS = Kind(_LIST, _device_operations)
_MAP = Kind("map", str)

FLAGS = (
    *RESOURCE_FLAGS,
    many("--add-host", "Add a custom host-to-IP mapping (host:ip)", Kind(_LIST, _host)),
    many("--annotation", "Add an annotation to the container (passed through to the OCI runtime)", _MAP),
    many("-a --attach", "Attach to STDIN, STDOUT or STDERR", Kind(_LIST, _attach), complete="stdin stdout stderr"),
    many("--blkio-weight-device", "Block IO weight (relative device weight)", Kind(_LIST, _weight_device)),
    many("--cap-add", "Add Linux capabilities"),
    many("--cap-drop", "Drop Linux capabilities"),
    value("--cgroup-parent", "Optional parent cgroup for the container"),
    value(
        "--cgroupns", "Cgroup namespace to use (host|private); the daemon's choice by default", complete="host private"
    ),
    value("--cidfile", "Write the container ID to the file", complete="file"),
    many("--device", "Add a host device to the container", complete="file"),
    many("--device-cgroup-rule", "Add a rule to the cgroup allowed devices list"),
    many("--device-read-bps", "Limit read rate (bytes per second) from a device", _DEVICE_BYTES),
    many("--device-read-iops", "Limit read rate (IO per second) from a device", _DEVICE_OPERATIONS),
    many("--device-write-bps", "Limit write rate (bytes per second) to a device", _DEVICE_BYTES),
    many("--device-write-iops", "Limit write rate (IO per second) to a device", _DEVICE_OPERATIONS),
    flag("--disable-content-trust", "Skip image verification", hidden=True),
    many("--dns", "Set custom DNS servers", Kind(_LIST, _dns)),
    many("--dns-opt", "Set DNS options", hidden=True),
    many("--dns-option", "Set DNS options"),
    many("--dns-search", "Set custom DNS search domains"),
    value("--domainname", "Container NIS domain name"),
    value("--entrypoint", "Overwrite the default ENTRYPOINT of the image"),
    many("-e --env", "Set environment variables", ENVIRONMENT),
    many("--env-file", "Read in a file of environment variables", complete="file"),
    many("--expose", "Expose a port or a range of ports"),
    value("--gpus", "GPU devices to add to the container ('all' to pass all GPUs)", Kind("gpu-request", str)),
    many("--group-add", "Add additional groups to join"),
    value("--health-cmd", "Command to run to check health"),
    value("--health-interval", "Time between running the check (ms|s|m|h)", DURATION),
    value("--health-retries", "Consecutive failures needed to report unhealthy", INT),
    value("--health-start-interval", "Time between checks during the start period (ms|s|m|h)", DURATION),
    value("--health-start-period", "Time to initialize before failures count (ms|s|m|h)", DURATION),
    value("--health-timeout", "Maximum time to allow one check to run (ms|s|m|h)", DURATION),
    value("-h --hostname", "Container host name"),
    flag("--init", "Run an init inside the container that forwards signals and reaps processes"),
    flag("-i --interactive", "Keep STDIN open even if not attached"),
    value("--ip", "IPv4 address (e.g., 172.30.100.104)"),
    value("--ip6", "IPv6 address (e.g., 2001:db8::33)"),
    value("--ipc", "IPC mode to use", complete="none private shareable host"),
    value("--isolation", "Container isolation technology"),
    value("--kernel-memory", "Kernel memory limit", BYTES, hidden=True),
    many("-l --label", "Set meta data on a container", LABEL),
    many("--label-file", "Read in a line delimited file of labels", complete="file"),
    value("--lease", "Lease that the container belongs to; it goes when the lease ends"),
    many("--link", "Add link to another container", Kind(_LIST, _link), complete="container"),
    many("--link-local-ip", "Container IPv4/IPv6 link-local addresses"),
    value("--log-driver", "Logging driver for the container"),
    many("--log-opt", "Log driver options"),
    value("--mac-address", "Container MAC address (e.g., 92:d0:c6:0a:29:33)"),
    value("--max-runtime", "Stop the container that long after its start (s|m|h)", DURATION),
    value("--memory-swappiness", "Tune container memory swappiness (0 to 100)", INT, shown_default="-1"),
    many("--mount", "Attach a filesystem mount to the container", Kind("mount", _mount)),
    value("--name", "Assign a name to the container"),
    many("--network", "Connect a container to a network", Kind("network", _network), complete="network"),
    many("--net", "Connect a container to a network", Kind("network", _network), hidden=True),
    many("--network-alias", "Add network-scoped alias for the container"),
    many("--net-alias", "Add network-scoped alias for the container", hidden=True),
    flag("--no-healthcheck", "Disable any container-specified HEALTHCHECK"),
    flag("--oom-kill-disable", "Disable OOM Killer"),
    value("--oom-score-adj", "Tune host's OOM preferences (-1000 to 1000)", INT),
    value("--pid", "PID namespace to use", complete="host"),
    value("--platform", "Set platform if server is multi-platform capable"),
    flag("--privileged", "Give extended privileges to this container"),
    many("-p --publish", "Publish a container's port(s) to the host"),
    flag("-P --publish-all", "Publish all exposed ports to random ports"),
    value(
        "--pull",
        'Pull image before running ("always", "missing", "never")',
        default="missing",
        shown_default='"missing"',
        complete="always missing never",
    ),
    flag("-q --quiet", "Suppress the pull output"),
    flag("--read-only", "Mount the container's root filesystem as read only"),
    value(
        "--restart",
        "Restart policy to apply when a container exits",
        shown_default='"no"',
        complete="no always unless-stopped on-failure",
    ),
    flag("--restart-on-unhealthy", "Restart the container when its health check says unhealthy"),
    flag("--rm", "Automatically remove the container and its associated anonymous volumes when it exits"),
    value("--runtime", "Runtime to use for this container"),
    many("--security-opt", "Security Options"),
    value("--shm-size", "Size of /dev/shm", BYTES),
    value("--stop-signal", "Signal to stop the container"),
    value("--stop-timeout", "Timeout (in seconds) to stop a container", INT),
    many("--storage-opt", "Storage driver options for the container"),
    many("--sysctl", "Sysctl options", Kind("map", _sysctl)),
    many("--tmpfs", "Mount a tmpfs directory"),
    flag("-t --tty", "Allocate a pseudo-TTY"),
    many("--ulimit", "Ulimit options", ULIMIT),
    value("-u --user", "Username or UID (format: <name|uid>[:<group|gid>])"),
    value("--userns", "User namespace to use", complete="host"),
    value("--uts", "UTS namespace to use", complete="host"),
    many("-v --volume", "Bind mount a volume", complete="file"),
    value("--volume-driver", "Optional volume driver for the container"),
    many("--volumes-from", "Mount volumes from the specified container(s)", complete="container"),
    value("-w --workdir", "Working directory inside the container"),
)
RUN_FLAGS = (
    *FLAGS,
    flag("-d --detach", "Run container in background and print container ID"),
    value("--detach-keys", "Override the key sequence for detaching a container"),
    flag("--sig-proxy", "Proxy received signals to the process", default=True, shown_default="true"),
)
