"""`dockyard info`."""

from __future__ import annotations

from dockyard.edge.cli.call import Body, Call, complain, say
from dockyard.edge.cli.errors import CliError
from dockyard.edge.cli.flags import value
from dockyard.edge.cli.versions import CLIENT_VERSION
from dockyard.proto.units import binary_size

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def _info(call: Call) -> None:
    try:
        info = call.api.get("/info")
    except CliError:
        if not call.text("format"):
            _client()
            say("\nServer:")
        raise
    if call.text("format"):
        from dockyard.edge.cli.show import show_one

        show_one(call.text("format"), {**info, "ClientInfo": {"Version": CLIENT_VERSION, "Debug": False}})
        return
    _client()
    say("\nServer:")
    _counts(info)
    _storage(info)
    _devices(info)
    _runtime(info)
    _host(info)
    for warning in info.get("Warnings") or []:
        complain(warning)


def _client() -> None:
    say("Client:")
    say(f" Version:    {CLIENT_VERSION}")
    say(" Debug Mode: false")


def _line(name: str, text: Any, indent: int = 1) -> None:
    say(f"{' ' * indent}{name}: {text}")


def _truth(value_: Any) -> str:
    return "true" if value_ else "false"


def _optional(info: dict[str, Any], name: str, key: str) -> None:
    if info.get(key):
        _line(name, info[key])


def _counts(info: dict[str, Any]) -> None:
    _line("Containers", info["Containers"])
    for name in ("Running", "Paused", "Stopped"):
        _line(name, info[f"Containers{name}"], 2)
    _line("Images", info["Images"])
    _optional(info, "Server Version", "ServerVersion")
    _line("Storage Driver", info["Driver"])


def _storage(info: dict[str, Any]) -> None:
    for name, text in info.get("DriverStatus") or []:
        _line(name, text, 2)
    _line("Logging Driver", info.get("LoggingDriver", ""))
    _line("Cgroup Driver", info.get("CgroupDriver", ""))
    _optional(info, "Cgroup Version", "CgroupVersion")
    say(" Plugins:")
    plugins = info.get("Plugins") or {}
    for name in ("Volume", "Network", "Authorization", "Log"):
        if plugins.get(name) or name in ("Volume", "Network"):
            _line(name, " ".join(plugins.get(name) or []), 2)


def _devices(info: dict[str, Any]) -> None:
    if info.get("CDISpecDirs"):
        say(" CDI spec directories:")
        for directory in info["CDISpecDirs"]:
            say(f"  {directory}")
    if info.get("DiscoveredDevices"):
        say(" Discovered Devices:")
        for device in info["DiscoveredDevices"]:
            say(f"  {device['Source']}: {device['ID']}")


def _runtime(info: dict[str, Any]) -> None:
    swarm = info.get("Swarm") or {}
    _line("Swarm", swarm.get("LocalNodeState") or "inactive")
    _line("Runtimes", " ".join(sorted(info.get("Runtimes") or {})))
    _line("Default Runtime", info.get("DefaultRuntime", ""))
    _line("Init Binary", info.get("InitBinary", ""))
    for name, key in (("containerd", "ContainerdCommit"), ("runc", "RuncCommit"), ("init", "InitCommit")):
        commit = info.get(key) or {}
        if commit.get("ID"):
            _line(f"{name} version", commit.get("ID", ""))
    options = info.get("SecurityOptions") or []
    if options:
        say(" Security Options:")
    for option in options:
        pairs = dict(part.partition("=")[::2] for part in option.split(","))
        say(f"  {pairs.pop('name', option)}")
        for key, text in pairs.items():
            _line(key.capitalize(), text, 3)


def _host(info: dict[str, Any]) -> None:
    _line("Kernel Version", info["KernelVersion"])
    _line("Operating System", info["OperatingSystem"])
    _line("OSType", info["OSType"])
    _line("Architecture", info["Architecture"])
    _line("CPUs", info["NCPU"])
    _line("Total Memory", binary_size(info["MemTotal"]))
    _line("Name", info["Name"])
    _line("ID", info["ID"])
    _line("Docker Root Dir", info["DockerRootDir"])
    _line("Debug Mode", _truth(info.get("Debug")))
    if info.get("Debug"):
        _line("File Descriptors", info.get("NFd", 0), 2)
        _line("Goroutines", info.get("NGoroutines", 0), 2)
        _line("System Time", info.get("SystemTime", ""), 2)
        _line("EventsListeners", info.get("NEventsListener", 0), 2)
    for name, key in (("HTTP Proxy", "HttpProxy"), ("HTTPS Proxy", "HttpsProxy"), ("No Proxy", "NoProxy")):
        _optional(info, name, key)
    if info.get("Labels"):
        say(" Labels:")
        for label in info["Labels"]:
            say(f"  {label}")
    _line("Experimental", _truth(info.get("ExperimentalBuild")))
    registries = info.get("RegistryConfig") or {}
    insecure = [name for name, each in (registries.get("IndexConfigs") or {}).items() if not each.get("Secure")]
    say(" Insecure Registries:")
    for name in insecure + (registries.get("InsecureRegistryCIDRs") or []):
        say(f"  {name}")
    mirrors = list(registries.get("Mirrors") or []) + [
        f"{name}={url}"
        for name, each in (registries.get("IndexConfigs") or {}).items()
        for url in each.get("Mirrors") or []
        if not each.get("Official")
    ]
    if mirrors:
        say(" Registry Mirrors:")
        for url in mirrors:
            say(f"  {url}")
    _line("Live Restore Enabled", _truth(info.get("LiveRestoreEnabled")))
    _optional(info, "Product License", "ProductLicense")


info = Body(_info, (value("-f --format", "Format output: 'json' or a Go template"),))
