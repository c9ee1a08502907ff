"""dockyardd's flags and configuration file, read into one value.

Owns: the table of options (their names on the command line and in the file, as dockerd has them), reading both, the
rule that a key stands in one of them only, defaults. Does not own: what the options do (`daemon`).
"""

from __future__ import annotations

import argparse
import ipaddress
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

from dockyard import __version__
from dockyard.engine.runtimes import OciRuntime, known
from dockyard.model.container import Ulimit
from dockyard.model.errors import InvalidArgument
from dockyard.proto import logdrivers
from dockyard.proto.imagegc import Policy
from dockyard.proto.units import parse_size

DEFAULT_FILE = "/etc/dockyard/daemon.json"
LOG_LEVELS = ("debug", "info", "warn", "error", "fatal")


@dataclass(frozen=True, slots=True)
class Configuration:
    """How a daemon is to run. Sizes in bytes, times in seconds."""

    hosts: list[str] = field(default_factory=list)
    data_root: str = "/var/lib/dockyard"
    exec_root: str = "/run/dockyard"
    pidfile: str = "/run/dockyard.pid"
    group: str = ""
    debug: bool = False
    log_level: str = "info"
    shutdown_timeout: int = 15
    labels: list[str] = field(default_factory=list)
    # containers
    default_runtime: str = "dockyard"
    runtimes: dict[str, OciRuntime] = field(default_factory=dict)
    default_ulimits: list[Ulimit] = field(default_factory=list)
    log_driver: str = "json-file"
    log_opts: dict[str, str] = field(default_factory=dict)
    storage_driver: str = ""
    # images
    discard_blobs: bool = False
    image_gc_high: int = 0  # percent of the data root's disk; 0: off
    image_gc_low: int = 0
    image_gc_keep_last: int = 0  # images of a repository; 0: all
    cgroup_parent: str = ""
    exec_opts: list[str] = field(default_factory=list)
    seccomp_profile: str = ""
    cdi_spec_dirs: list[str] = field(default_factory=lambda: ["/etc/cdi", "/var/run/cdi"])
    features: dict[str, bool] = field(default_factory=dict)
    userns_remap: str = ""  # "default", USER[:GROUP]; "": containers have the host's ids
    no_new_privileges: bool = False  # of containers that say nothing about it
    init: bool = False
    default_ipc_mode: str = ""  # "": private
    default_cgroupns_mode: str = ""  # "": private
    default_shm_size: int = 0  # 0: 64 MiB
    selinux_enabled: bool = False  # containers get labels, where the kernel has SELinux
    # networks
    bridge: str = "dockyard0"  # made if it does not exist; "none": no default network
    bip: str = ""
    fixed_cidr: str = ""
    default_gateway: str = ""
    ip: str = ""  # of published ports that name none
    mtu: int = 0
    icc: bool = True
    ip_forward: bool = True
    iptables: bool = True
    userland_proxy: bool = True
    dns: list[str] = field(default_factory=list)
    dns_opts: list[str] = field(default_factory=list)
    dns_search: list[str] = field(default_factory=list)
    host_gateway_ip: str = ""  # what host-gateway means; "": the default bridge's address
    # registries
    insecure_registries: list[str] = field(default_factory=list)
    registry_mirrors: list[str] = field(default_factory=list)
    allow_nondistributable_artifacts: list[str] = field(default_factory=list)
    trusted_realms: list[str] = field(default_factory=list)
    max_concurrent_downloads: int = 3
    max_concurrent_uploads: int = 5
    # accepted for the sake of existing configurations
    live_restore: bool = True
    containerd: str = ""
    containerd_namespace: str = ""
    containerd_plugins_namespace: str = ""
    experimental: bool = False
    init_path: str = ""
    # TLS
    tls: bool | None = None
    tlsverify: bool | None = None
    tlscacert: str = ""
    tlscert: str = ""
    tlskey: str = ""

    @property
    def open_tcp_forced(self) -> bool:
        """Whether TCP without clients' certificates was asked for in so many words (S46)."""
        return self.tls is False or bool(self.tls and self.tlsverify is False)

    @property
    def cgroup_driver(self) -> str:
        """What native.cgroupdriver says; "" if nothing does."""
        found = [value for name, _, value in (option.partition("=") for option in self.exec_opts) if name]
        return found[-1].strip() if found else ""

    @property
    def cdi_directories(self) -> list[str]:
        """Where CDI specifications are looked for; none where it is switched off."""
        return self.cdi_spec_dirs if self.features.get("cdi", True) else []


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError("a string is expected")
    return value


def _integer(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise ValueError("a whole number is expected")
    return value


def _boolean(value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError("true or false is expected")
    return value


def _texts(value: Any) -> list[str]:
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise ValueError("a list of strings is expected")
    return value


def _bytes(value: Any) -> int:
    if isinstance(value, str):
        return parse_size(value)
    return _integer(value)


def _text_map(value: Any) -> dict[str, str]:
    if not isinstance(value, dict) or not all(isinstance(item, str) for item in value.values()):
        raise ValueError("an object of strings is expected")
    return value


def _switches(value: Any) -> dict[str, bool]:
    if not isinstance(value, dict) or not all(isinstance(item, bool) for item in value.values()):
        raise ValueError("an object of true and false is expected")
    return value


def _runtimes(value: Any) -> dict[str, OciRuntime]:
    if not isinstance(value, dict) or not all(isinstance(item, dict) for item in value.values()):
        raise ValueError("an object of objects with a path is expected")
    for name, item in value.items():
        unknown = sorted(set(item) - {"path", "runtimeArgs"})
        if unknown:  # runtimeType, options: shims of containerd's
            raise ValueError(f"{name}: {', '.join(unknown)}: not supported, only path and runtimeArgs are")
    return {
        name: OciRuntime(_text(item.get("path", name)), tuple(_texts(item.get("runtimeArgs") or [])))
        for name, item in value.items()
    }


def _ulimits(value: Any) -> list[Ulimit]:
    if not isinstance(value, dict) or not all(isinstance(item, dict) for item in value.values()):
        raise ValueError("an object of objects with Name, Soft and Hard is expected")
    return [
        Ulimit(_text(item.get("Name", name)), _integer(item.get("Soft", 0)), _integer(item.get("Hard", 0)))
        for name, item in value.items()
    ]


def _flag_boolean(text: str) -> bool:
    if text.lower() in ("true", "t", "1"):
        return True
    if text.lower() in ("false", "f", "0"):
        return False
    raise argparse.ArgumentTypeError(f"{text!r} is neither true nor false")


def _flag_pair(text: str) -> tuple[str, str]:
    name, separator, value = text.partition("=")
    if not separator or not name:
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=VALUE")
    return name, value


def _flag_switch(text: str) -> tuple[str, bool]:
    name, _, value = text.partition("=")
    if not name:
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=BOOL")
    return name, _flag_boolean(value or "true")


def _flag_runtime(text: str) -> tuple[str, OciRuntime]:
    name, path = _flag_pair(text)
    return name, OciRuntime(path)


def _flag_bytes(text: str) -> int:
    try:
        return parse_size(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _flag_ulimit(text: str) -> Ulimit:
    name, separator, limits = text.partition("=")
    soft, _, hard = limits.partition(":")
    try:
        if not separator:
            raise ValueError
        return Ulimit(name, int(soft), int(hard or soft))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=SOFT[:HARD]") from None


@dataclass(frozen=True, slots=True)
class Option:
    """`key` in the file, `flags` on the command line; `attribute` of `Configuration` when it differs from the key."""

    key: str
    flags: tuple[str, ...]
    read: Callable[[Any], Any]
    help: str
    attribute: str = ""
    item: Callable[[str], Any] = str  # one value of a repeated flag

    @property
    def target(self) -> str:
        return self.attribute or self.key.replace("-", "_")


OPTIONS = (
    Option("hosts", ("-H", "--host"), _texts, "where to listen: unix://PATH, tcp://HOST:PORT, fd:// (repeatable)"),
    Option("data-root", ("--data-root",), _text, "directory of everything that is kept"),
    Option("exec-root", ("--exec-root",), _text, "directory of what is lost at a reboot"),
    Option("pidfile", ("-p", "--pidfile"), _text, "file for the daemon's process id"),
    Option("group", ("-G", "--group"), _text, "group that may use the unix socket"),
    Option("debug", ("-D", "--debug"), _boolean, "log more"),
    Option("log-level", ("-l", "--log-level"), _text, "debug, info, warn, error or fatal"),
    Option("shutdown-timeout", ("--shutdown-timeout",), _integer, "seconds that running requests get at the end"),
    Option("labels", ("--label",), _texts, "label of this engine, NAME=VALUE (repeatable)"),
    Option("default-runtime", ("--default-runtime",), _text, "OCI runtime of containers that name none"),
    Option("runtimes", ("--add-runtime",), _runtimes, "another OCI runtime, NAME=PATH (repeatable)",
           item=_flag_runtime),
    Option("default-ulimits", ("--default-ulimit",), _ulimits, "NAME=SOFT[:HARD] for containers (repeatable)",
           item=_flag_ulimit),
    Option("log-driver", ("--log-driver",), _text, "log driver of containers that name none"),
    Option("log-opts", ("--log-opt",), _text_map, "option of that driver, NAME=VALUE (repeatable)", item=_flag_pair),
    Option("storage-driver", ("-s", "--storage-driver"), _text, "overlay, btrfs or vfs; chosen by a probe otherwise"),
    Option("discard-blobs", ("--discard-blobs",), _boolean, "keep no compressed layer that a registry has"),
    Option("image-gc-high", ("--image-gc-high",), _integer, "percent of the disk at which unused images go; 0: never"),
    Option("image-gc-low", ("--image-gc-low",), _integer, "percent of the disk at which that ends (10 below)"),
    Option("image-gc-keep-last", ("--image-gc-keep-last",), _integer,
           "newest images of a repository that stay; older unused ones go; 0: all stay"),
    Option("cgroup-parent", ("--cgroup-parent",), _text, "parent of the containers' control groups"),
    Option("exec-opts", ("--exec-opt",), _texts, "native.cgroupdriver=systemd|cgroupfs: who makes control groups"),
    Option("seccomp-profile", ("--seccomp-profile",), _text, "default seccomp profile of containers"),
    Option("userns-remap", ("--userns-remap",), _text,
           "USER[:GROUP] whose subordinate ids containers get, or default; empty: the host's ids"),
    Option("no-new-privileges", ("--no-new-privileges",), _boolean, "setuid programs gain nothing in containers"),
    Option("init", ("--init",), _boolean, "an init is PID 1 of containers that say nothing about it"),
    Option("default-ipc-mode", ("--default-ipc-mode",), _text, "IPC namespace of such containers: private, shareable"),
    Option("default-cgroupns-mode", ("--default-cgroupns-mode",), _text, "their cgroup namespace: private, host"),
    Option("default-shm-size", ("--default-shm-size",), _bytes, "size of their /dev/shm", item=_flag_bytes),
    Option("selinux-enabled", ("--selinux-enabled",), _boolean, "containers get SELinux labels"),
    Option("cdi-spec-dirs", ("--cdi-spec-dir",), _texts,
           "directory of CDI specifications; a later one comes before an earlier (repeatable)"),
    Option("features", ("--feature",), _switches, "switch a feature, NAME=BOOL: cdi (repeatable)", item=_flag_switch),
    Option("bridge", ("-b", "--bridge"), _text, "bridge of the default network, made if missing; none: no network"),
    Option("bip", ("--bip",), _text, "address of that bridge, ADDRESS/PREFIX"),
    Option("fixed-cidr", ("--fixed-cidr",), _text, "range that containers on it get addresses from"),
    Option("default-gateway", ("--default-gateway",), _text, "gateway of containers on it"),
    Option("ip", ("--ip",), _text, "address of published ports that name none"),
    Option("mtu", ("--mtu",), _integer, "MTU of container networks"),
    Option("icc", ("--icc",), _boolean, "containers on the default network may reach each other"),
    Option("ip-forward", ("--ip-forward",), _boolean, "switch forwarding on"),
    Option("iptables", ("--iptables",), _boolean, "make firewall rules"),
    Option("userland-proxy", ("--userland-proxy",), _boolean, "accepted; ports need no proxy here"),
    Option("dns", ("--dns",), _texts, "name server of containers (repeatable)"),
    Option("dns-opts", ("--dns-opt",), _texts, "resolver option of containers (repeatable)"),
    Option("dns-search", ("--dns-search",), _texts, "search domain of containers (repeatable)"),
    Option("host-gateway-ip", ("--host-gateway-ip",), _text, "what host-gateway means; the bridge's address otherwise"),
    Option("insecure-registries", ("--insecure-registry",), _texts, "registry without TLS (repeatable)"),
    Option("registry-mirrors", ("--registry-mirror",), _texts,
           "mirror, [REGISTRY=]URL; docker.io's if it names none (repeatable)"),
    Option("allow-nondistributable-artifacts", ("--allow-nondistributable-artifacts",), _texts,
           "registry that foreign layers are pushed to (repeatable)"),
    Option("trusted-realms", ("--trusted-realm",), _texts,
           "token server that gets credentials of registries elsewhere (repeatable)"),
    Option("max-concurrent-downloads", ("--max-concurrent-downloads",), _integer, "layers pulled at a time"),
    Option("max-concurrent-uploads", ("--max-concurrent-uploads",), _integer, "layers pushed at a time"),
    Option("live-restore", ("--live-restore",), _boolean, "accepted; containers always outlive the daemon"),
    Option("containerd", ("--containerd",), _text, "accepted; there is no containerd here"),
    Option("containerd-namespace", ("--containerd-namespace",), _text, "accepted"),
    Option("containerd-plugin-namespace", ("--containerd-plugins-namespace",), _text, "accepted",
           attribute="containerd_plugins_namespace"),
    Option("experimental", ("--experimental",), _boolean, "accepted; nothing here is switched on by it"),
    Option("init-path", ("--init-path",), _text, "accepted; the init is built in"),
    Option("tls", ("--tls",), _boolean, "TLS on TCP; false: TCP for everybody who reaches it (dangerous)"),
    Option("tlsverify", ("--tlsverify",), _boolean, "TLS, and clients need a certificate"),
    Option("tlscacert", ("--tlscacert",), _text, "certificates that sign the clients'"),
    Option("tlscert", ("--tlscert",), _text, "this server's certificate"),
    Option("tlskey", ("--tlskey",), _text, "its key"),
)  # fmt: skip
_REPEATED = (_texts, _text_map, _runtimes, _ulimits, _switches)
_MAPS = (_text_map, _runtimes, _switches)


@dataclass(frozen=True, slots=True)
class Invocation:
    """The command line: what it says (attribute -> value), and which file to read."""

    given: Mapping[str, Any]
    file: str
    file_given: bool
    validate: bool


def parse_arguments(arguments: Sequence[str]) -> Invocation:
    """Read the command line; ends the program for --help, --version and mistakes, as argparse does."""
    parser = argparse.ArgumentParser(
        prog="dockyardd", description="The Dockyard container engine.", allow_abbrev=False,
        formatter_class=lambda prog: argparse.HelpFormatter(prog, max_help_position=32, width=110),
    )  # fmt: skip
    parser.add_argument("-v", "--version", action="version", version=f"Dockyard version {__version__}")
    parser.add_argument("--config-file", metavar="FILE", help=f"configuration (default {DEFAULT_FILE})")
    parser.add_argument("--validate", action="store_true", help="check the configuration and exit")
    for option in OPTIONS:
        _add_flag(parser, option)
    given = vars(parser.parse_args(arguments))
    file, validate = given.pop("config_file"), given.pop("validate")
    values = {name: value for name, value in given.items() if value is not None}
    for option in OPTIONS:
        if option.read in _MAPS and option.target in values:
            values[option.target] = dict(values[option.target])
    return Invocation(values, file or DEFAULT_FILE, file is not None, validate)


def _add_flag(parser: argparse.ArgumentParser, option: Option) -> None:
    if option.read is _boolean:
        parser.add_argument(
            *option.flags, dest=option.target, help=option.help, nargs="?", const=True, type=_flag_boolean,
            metavar="BOOL",
        )  # fmt: skip
    elif option.read in _REPEATED:
        parser.add_argument(
            *option.flags, dest=option.target, help=option.help, action="append", type=option.item, metavar="VALUE"
        )
    else:
        kind = int if option.read is _integer else option.item
        parser.add_argument(*option.flags, dest=option.target, help=option.help, type=kind, metavar="VALUE")


def parse_file(text: str, name: str) -> dict[str, Any]:
    """Read the file's JSON: attribute -> value. InvalidArgument naming the file and what is wrong in it."""
    problem = f"unable to configure the Dockyard daemon with file {name}: "
    try:
        document = json.loads(text) if text.strip() else {}
    except ValueError as error:
        raise InvalidArgument(f"{problem}{error}") from None
    if not isinstance(document, dict):
        raise InvalidArgument(f"{problem}a JSON object is expected")
    known = {option.key: option for option in OPTIONS}
    unknown = [key for key in document if key not in known]
    if unknown:
        raise InvalidArgument(
            f"{problem}the following directives don't match any configuration option: {', '.join(unknown)}"
        )
    values = {}
    for key, value in document.items():
        try:
            values[known[key].target] = known[key].read(value)
        except ValueError as error:
            raise InvalidArgument(f"{problem}{key}: {error}") from None
    return values


def combine(given: Mapping[str, Any], read: Mapping[str, Any], file: str) -> Configuration:
    """One configuration out of flags and file. InvalidArgument for a key in both, or a value that cannot be."""
    twice = [option for option in OPTIONS if option.target in given and option.target in read]
    if twice:
        listed = ", ".join(
            f"{option.key}: (from flag: {given[option.target]}, from file: {read[option.target]})" for option in twice
        )
        raise InvalidArgument(
            f"unable to configure the Dockyard daemon with file {file}: the following directives are specified both "
            f"as a flag and in the configuration file: {listed}"
        )
    configuration = replace(Configuration(), **{**read, **given})
    _check(configuration)
    return configuration


def _check(configuration: Configuration) -> None:
    if configuration.log_level not in LOG_LEVELS:
        raise InvalidArgument(f"invalid logging level: {configuration.log_level}")
    try:
        logdrivers.check(configuration.log_driver, configuration.log_opts)
    except InvalidArgument as error:
        raise InvalidArgument(f"failed to set log opts: {error.message}") from None
    if configuration.bridge == "none" and configuration.bip:
        raise InvalidArgument("--bip needs a bridge, and --bridge=none is given")
    for label in configuration.labels:
        if "=" not in label:
            raise InvalidArgument(f"bad attribute format: {label}")
    for option in configuration.exec_opts:
        name, separator, value = option.partition("=")
        if name.strip().lower() != "native.cgroupdriver" or not separator:
            raise InvalidArgument(f"exec option {option!r} is unknown, only native.cgroupdriver=VALUE is one")
        if value.strip() not in ("systemd", "cgroupfs"):
            raise InvalidArgument(f"native.cgroupdriver option {value.strip()} not supported")
    _check_defaults(configuration)
    if configuration.default_runtime not in known(configuration.runtimes):
        raise InvalidArgument(f"specified default runtime '{configuration.default_runtime}' does not exist")
    Policy.make(configuration.image_gc_high, configuration.image_gc_low, configuration.image_gc_keep_last)
    for path in ("data_root", "exec_root"):
        if not getattr(configuration, path).startswith("/"):
            raise InvalidArgument(f"{path.replace('_', '-')} must be an absolute path: {getattr(configuration, path)}")


def _check_defaults(configuration: Configuration) -> None:
    """What containers get that say nothing about it."""
    if configuration.default_ipc_mode not in ("", "private", "shareable"):
        raise InvalidArgument(
            f'IPC mode "{configuration.default_ipc_mode}" is not supported as default value; '
            "valid modes are private and shareable"
        )
    if configuration.default_cgroupns_mode not in ("", "private", "host"):
        raise InvalidArgument(
            f'default cgroup namespace mode ({configuration.default_cgroupns_mode}) is invalid; use "host" or "private"'
        )
    if configuration.default_shm_size < 0:
        raise InvalidArgument(f"default-shm-size must not be negative: {configuration.default_shm_size}")
    if configuration.host_gateway_ip:
        try:
            ipaddress.ip_address(configuration.host_gateway_ip)
        except ValueError:
            raise InvalidArgument(f"host-gateway-ip is not an IP address: {configuration.host_gateway_ip}") from None


def load(invocation: Invocation) -> Configuration:
    """Read the file that the command line names, if it is there, and combine. InvalidArgument as above."""
    text = ""
    try:
        with open(invocation.file, encoding="utf-8") as file:
            text = file.read()
    except FileNotFoundError:
        if invocation.file_given:
            raise InvalidArgument(f"configuration file {invocation.file} does not exist") from None
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidArgument(f"configuration file {invocation.file}: {error}") from None
    return combine(invocation.given, parse_file(text, invocation.file), invocation.file)


# Options that are read and checked and change nothing yet, with the value that asks for nothing.
_WITHOUT_EFFECT = {
    "fixed_cidr": "", "default_gateway": "", "ip_forward": True, "iptables": True, "live_restore": True,
    "containerd": "", "containerd_namespace": "", "containerd_plugins_namespace": "", "experimental": False,
    "init_path": "",
}  # fmt: skip


def without_effect(configuration: Configuration) -> list[str]:
    """The keys of options that were given and have no effect, for a warning."""
    options = [
        option.key
        for option in OPTIONS
        if option.target in _WITHOUT_EFFECT and getattr(configuration, option.target) != _WITHOUT_EFFECT[option.target]
    ]
    return options + [f"features.{name}" for name in configuration.features if name != "cdi"]


def attributes() -> frozenset[str]:
    """The names that `Configuration` has; every option sets one of them."""
    return frozenset(item.name for item in fields(Configuration))
