"""Flags of `run` and `create` → the body of `POST /containers/create`.

Owns: what each flag becomes in the API's objects, and the checks that need more than one flag. Everything is decided
here but for files that flags name (`--env-file`, `--label-file`, a seccomp profile), which are read here too. Errors
are `CliError`, naming the flag or the text.
"""

from __future__ import annotations

import json
import os

from dockyard.edge.cli.call import Call, complain
from dockyard.edge.cli.errors import CliError
from dockyard.edge.cli.resource_flags import RESOURCE_FIELDS
from dockyard.proto import envfile, mountspec, portspec

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    Object = dict[str, Any]


def build(call: Call) -> Object:
    """The whole body: config, `HostConfig`, `NetworkingConfig`."""
    try:
        body = _config(call)
        body["HostConfig"] = _host_config(call)
        body["NetworkingConfig"] = {"EndpointsConfig": _endpoints(call)}
        _ports(call, body)
        _volumes(call, body)
    except ValueError as error:
        raise CliError(str(error)) from None
    return body


def _some(pairs: Mapping[str, Any]) -> Object:
    """Without what was not given: a missing field lets the image or the daemon decide."""
    return {name: each for name, each in pairs.items() if each not in (None, "", [], {}, False)}


# -- the portable part ------------------------------------------------------------------------------------------------


def _config(call: Call) -> Object:
    image, *command = call.arguments
    streams = call.texts("attach")
    stdin = call.on("interactive") or "stdin" in streams
    config = _some(
        {
            "Hostname": call.text("hostname"),
            "Domainname": call.text("domainname"),
            "User": call.text("user"),
            "AttachStdin": stdin,
            "AttachStdout": not streams or "stdout" in streams,
            "AttachStderr": not streams or "stderr" in streams,
            "Tty": call.on("tty"),
            "OpenStdin": call.on("interactive"),
            "StdinOnce": call.on("interactive") and stdin,
            "Env": _environment(call),
            "Cmd": command,
            "Image": image,
            "WorkingDir": call.text("workdir"),
            "Labels": _labels(call),
            "StopSignal": call.text("stop-signal"),
            "Healthcheck": _health(call),
        }
    )
    if call.given("entrypoint"):
        config["Entrypoint"] = [call.text("entrypoint")]
    if call.given("stop-timeout"):
        config["StopTimeout"] = call.number("stop-timeout")
    return config


def read_file(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError as error:
        raise CliError(f"open {path}: {(error.strerror or str(error)).lower()}") from None


def _environment(call: Call) -> list[str]:
    entries = [
        each for path in call.texts("env-file") for each in envfile.parse_lines(read_file(path), path, os.environ)
    ]
    entries += call.texts("env")
    return entries + _proxies(call, entries)


def _proxies(call: Call, entries: list[str]) -> list[str]:
    """`proxies` of the client's config.json, where the command line does not say otherwise."""
    from dockyard.edge.cli.credentials import Credentials, folder

    path = folder(call.options, os.environ)
    if not os.path.exists(os.path.join(path, "config.json")):
        return []
    try:
        found = Credentials(path, os.environ).proxies(call.api.host.text)
    except CliError as error:  # as docker: a container is not refused for it
        complain(f"WARNING: {error.message}")
        return []
    given = {entry.partition("=")[0] for entry in entries}
    return [f"{name}={value}" for name, value in found.items() if name not in given]


def _labels(call: Call) -> dict[str, str]:
    entries = [each for path in call.texts("label-file") for each in envfile.parse_lines(read_file(path), path, None)]
    if call.text("lease"):
        entries.append(f"dockyard.lease={call.text('lease')}")
    return envfile.as_mapping(entries + call.texts("label"))


def _health(call: Call) -> Object | None:
    keys = ("health-cmd", "health-interval", "health-timeout", "health-start-period", "health-start-interval")
    if call.on("no-healthcheck"):
        if any(call.given(key) for key in (*keys, "health-retries")):
            raise CliError("--no-healthcheck conflicts with --health-* options")
        return {"Test": ["NONE"]}
    names = {"Interval": keys[1], "Timeout": keys[2], "StartPeriod": keys[3], "StartInterval": keys[4]}
    for key in (*keys[1:], "health-retries"):
        if (call.number(key) or 0) < 0:
            raise CliError(f"--{key} cannot be negative")
    health = _some({name: call.number(key) for name, key in names.items()})
    if call.text("health-cmd"):
        health["Test"] = ["CMD-SHELL", call.text("health-cmd")]
    if call.number("health-retries"):
        health["Retries"] = call.number("health-retries")
    return health or None


# -- the part that belongs to the host --------------------------------------------------------------------------------

_PLAIN = {  # field of HostConfig → flag; the value goes as it is
    "AutoRemove": "rm",
    "BlkioDeviceReadBps": "device-read-bps",
    "BlkioDeviceReadIOps": "device-read-iops",
    "BlkioDeviceWriteBps": "device-write-bps",
    "BlkioDeviceWriteIOps": "device-write-iops",
    "BlkioWeightDevice": "blkio-weight-device",
    "CgroupParent": "cgroup-parent",
    "ContainerIDFile": "cidfile",
    "DeviceCgroupRules": "device-cgroup-rule",
    "Dns": "dns",
    "DnsSearch": "dns-search",
    "ExtraHosts": "add-host",
    "GroupAdd": "group-add",
    "Isolation": "isolation",
    "Links": "link",
    "MaximumRuntime": "max-runtime",
    "Mounts": "mount",
    "OomScoreAdj": "oom-score-adj",
    "Privileged": "privileged",
    "PublishAllPorts": "publish-all",
    "ReadonlyRootfs": "read-only",
    "Runtime": "runtime",
    "ShmSize": "shm-size",
    "Ulimits": "ulimit",
    "VolumeDriver": "volume-driver",
    "VolumesFrom": "volumes-from",
}
_EVEN_IF_FALSE = {"Init": "init", "OomKillDisable": "oom-kill-disable", **RESOURCE_FIELDS}


def _host_config(call: Call) -> Object:
    config = _some({name: call.get(key) for name, key in _PLAIN.items()})
    config |= {name: call.get(key) for name, key in _EVEN_IF_FALSE.items() if call.given(key)}
    networks = _networks(call)
    config |= _some(
        {
            "Annotations": _pairs(call, "annotation"),
            **_capabilities(call),
            "CgroupnsMode": _mode(call, "cgroupns", ("host", "private"), "--cgroupns: invalid CGROUP mode"),
            "Devices": [_device(each) for each in call.texts("device") if not _is_cdi(each)],
            "DeviceRequests": _device_requests(call),
            "DnsOptions": call.texts("dns-option") + call.texts("dns-opt"),
            "IpcMode": call.text("ipc"),
            "LogConfig": _logging(call),
            "NetworkMode": networks[0]["Target"] if networks else "default",
            "PidMode": _mode(call, "pid", ("host",), "--pid: invalid PID mode"),
            "RestartPolicy": _restart(call),
            "StorageOpt": _pairs(call, "storage-opt"),
            "Sysctls": _pairs(call, "sysctl"),
            "Tmpfs": dict(mountspec.parse_tmpfs(each) for each in call.texts("tmpfs")),
            "UTSMode": _mode(call, "uts", ("host",), "--uts: invalid UTS mode"),
            "UsernsMode": _mode(call, "userns", ("host",), "--userns: invalid USER mode"),
        }
    )
    _swappiness(call, config)
    _security(call, config)
    return config


def _swappiness(call: Call, config: Object) -> None:
    swappiness = call.number("memory-swappiness")
    if swappiness is None:
        return
    if not -1 <= swappiness <= 100:
        raise CliError(f"invalid value: {swappiness}. Valid memory swappiness range is 0-100")
    if swappiness >= 0:
        config["MemorySwappiness"] = swappiness


def _pairs(call: Call, key: str) -> dict[str, str]:
    return envfile.as_mapping(call.texts(key))


def _mode(call: Call, key: str, words: tuple[str, ...], complaint: str) -> str:
    text = call.text(key)
    shared = key == "pid" and text.startswith("container:") and len(text) > len("container:")
    shared = shared or (key == "uts" and text.startswith("container:"))
    if text and text not in words and not shared:
        raise CliError(complaint)
    return text


def _capabilities(call: Call) -> Object:
    """`--cap-add` and `--cap-drop` in the kernel's spelling; what is added is not dropped, ALL stands for the rest."""
    adds, drops = ({_capability(each) for each in call.texts(key)} for key in ("cap-add", "cap-drop"))
    both = {"CapAdd": adds, "CapDrop": drops - adds}
    return {name: ["ALL"] if "ALL" in each else sorted(each) for name, each in both.items()}


def _capability(text: str) -> str:
    name = text.strip().upper()
    return name if name == "ALL" or name.startswith("CAP_") else f"CAP_{name}"


def _restart(call: Call) -> Object | None:
    policy = parse_restart(call.text("restart") or "no")
    if call.on("rm") and policy["Name"] != "no":
        raise CliError("conflicting options: cannot specify both --restart and --rm")
    if call.on("restart-on-unhealthy"):
        if call.on("rm"):
            raise CliError("conflicting options: cannot specify both --restart-on-unhealthy and --rm")
        policy["OnUnhealthy"] = True
    return policy


def parse_restart(text: str) -> Object:
    """`on-failure:3` → a RestartPolicy."""
    name, colon, count = text.partition(":")
    if colon and not count.isdecimal():
        raise CliError("invalid restart policy format: maximum retry count must be an integer")
    if not name:
        raise CliError("invalid restart policy format: no policy provided before colon")
    return {"Name": name, "MaximumRetryCount": int(count or 0)}


def _logging(call: Call) -> Object | None:
    options = _pairs(call, "log-opt")
    if call.text("log-driver") == "none" and options:
        raise CliError("invalid logging opts for driver none")
    return _some({"Type": call.text("log-driver"), "Config": options}) or None


def _is_cdi(text: str) -> bool:
    """`vendor.com/class=name` instead of a path."""
    return not text.startswith("/") and "=" in text and "/" in text.partition("=")[0]


def _device(text: str) -> Object:
    parts = text.split(":")
    if len(parts) > 3 or not parts[0]:
        raise CliError(f"bad format for path: {text}")
    inside, permissions = parts[0], "rwm"
    if len(parts) == 3:
        inside, permissions = parts[1] or parts[0], parts[2]
    elif len(parts) == 2 and set(parts[1]) <= set("rwm") and parts[1]:
        permissions = parts[1]
    elif len(parts) == 2:
        inside = parts[1]
    if not inside.startswith("/"):
        raise CliError(f"{inside} is not an absolute path")
    if not permissions or not set(permissions) <= set("rwm"):
        raise CliError(f"bad mode specified: {permissions}")
    return {"PathOnHost": parts[0], "PathInContainer": inside, "CgroupPermissions": permissions}


def _device_requests(call: Call) -> list[Object]:
    out: list[Object] = []
    if call.text("gpus"):
        out.append(_gpus(call.text("gpus")))
    cdi = [each for each in call.texts("device") if _is_cdi(each)]
    if cdi:
        out.append({"Driver": "cdi", "DeviceIDs": cdi})
    return out


def _gpus(text: str) -> Object:
    """`all`, a number, or `device=0,capabilities=utility` with CSV quoting."""
    request: Object = {"Count": 1, "Capabilities": [["gpu"]]}
    for field in mountspec.fields(text):
        key, equals, given = field.partition("=")
        if not equals or key == "count":
            request["Count"] = -1 if (given or key) == "all" else _gpu_count(given or key)
        elif key == "device":
            request |= {"Count": 0, "DeviceIDs": given.split(",")}
        elif key == "driver":
            request["Driver"] = given
        elif key == "capabilities":
            request["Capabilities"] = [[*given.split(","), "gpu"]]
        elif key == "options":
            request["Options"] = envfile.as_mapping(given.split(","))
        else:
            raise CliError(f"unexpected key '{key}' in '{field}'")
    return request


def _gpu_count(text: str) -> int:
    if not text.isdecimal():
        raise CliError(f'invalid count ({text}): value must be either "all" or an integer')
    return int(text)


def _security(call: Call, config: Object) -> None:
    """`--security-opt`: profiles of seccomp are sent, not named; `systempaths=unconfined` is another field."""
    options = []
    for option in call.texts("security-opt"):
        name, separator, given = option.partition("=")
        if not separator:
            name, separator, given = option.partition(":")
        if not separator and name != "no-new-privileges":
            raise CliError(f'Invalid --security-opt: "{option}"')
        if option == "systempaths=unconfined":
            config |= {"MaskedPaths": [], "ReadonlyPaths": []}
            continue
        if name == "seccomp" and given not in ("unconfined", "builtin"):
            option = f"seccomp={_profile(given)}"
        options.append(option)
    if options:
        config["SecurityOpt"] = options


def _profile(path: str) -> str:
    try:
        return json.dumps(json.loads(read_file(path)), separators=(",", ":"))
    except CliError as error:
        raise CliError(f"opening seccomp profile ({path}) failed: {error.message}") from None
    except ValueError as error:
        raise CliError(f"compacting json for seccomp profile ({path}) failed: {error}") from None


# -- network, ports, volumes ------------------------------------------------------------------------------------------


def _networks(call: Call) -> list[Object]:
    networks: list[Object] = call.texts("network") + call.texts("net")  # type: ignore[assignment]
    return networks


def _endpoints(call: Call) -> Object:
    """One endpoint for each `--network`; the plain flags (`--ip`, `--network-alias`, …) belong to the first."""
    networks = [dict(each) for each in _networks(call)] or [{"Target": "default"}]
    first = networks[0]
    for key in ("ip", "ip6", "mac-address"):
        if call.text(key):
            if first.get(key):
                raise CliError(f"conflicting options: cannot specify both --{key} and per-network {key}")
            first[key] = call.text(key)
    aliases = call.texts("network-alias") + call.texts("net-alias")
    if aliases:
        first["alias"] = [*first.get("alias", []), *aliases]
    if call.texts("link-local-ip"):
        first["link-local-ip"] = [*first.get("link-local-ip", []), *call.texts("link-local-ip")]
    private = [each["Target"] for each in networks if each["Target"] in ("none", "host")]
    private += [each["Target"] for each in networks if each["Target"].startswith("container:")]
    if private and len(networks) > 1:
        raise CliError("conflicting options: cannot attach both user-defined and non-user-defined network-modes")
    endpoints: Object = {}
    for each in networks:
        if each["Target"] in endpoints:
            raise CliError(f'network "{each["Target"]}" is specified multiple times')
        endpoints[each["Target"]] = _endpoint(call, each)
    return {name: each for name, each in endpoints.items() if each or len(networks) > 1 or not _built_in(name)}


def _built_in(name: str) -> bool:
    return name in ("default", "bridge", "host", "none") or name.startswith("container:")


def _endpoint(call: Call, network: Object) -> Object:
    addresses = {"IPv4Address": "ip", "IPv6Address": "ip6", "LinkLocalIPs": "link-local-ip"}
    named = not _built_in(network["Target"])
    return _some(
        {
            "IPAMConfig": _some({name: network.get(key) for name, key in addresses.items()}),
            "Aliases": network.get("alias"),
            "Links": call.texts("link") if named else None,
            "MacAddress": network.get("mac-address"),
            "DriverOpts": network.get("driver-opt"),
            "GwPriority": network.get("gw-priority"),
        }
    )


def port_bindings(publish: list[str]) -> dict[str, list[Object]]:
    """What `-p` flags mean: PortBindings."""
    bindings: dict[str, list[Object]] = {}
    for text in publish:
        for each in portspec.parse_publish(text):
            bindings.setdefault(each.port, []).append({"HostIp": each.host_ip, "HostPort": each.host_port})
    return bindings


def _ports(call: Call, body: Object) -> None:
    bindings = port_bindings(call.texts("publish"))
    exposed = set(bindings) | {port for text in call.texts("expose") for port in portspec.parse_expose(text)}
    if bindings:
        body["HostConfig"]["PortBindings"] = bindings
    if exposed:
        body["ExposedPorts"] = {port: {} for port in sorted(exposed)}


def _volumes(call: Call, body: Object) -> None:
    binds: list[str] = []
    anonymous: Object = {}
    for text in call.texts("volume"):
        volume, bound = mountspec.parse_volume(text, os.getcwd())
        if bound:
            binds.append(volume)
        else:
            anonymous[volume] = {}
    if binds:
        body["HostConfig"]["Binds"] = binds
    if anonymous:
        body["Volumes"] = anonymous
