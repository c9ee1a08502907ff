"""dockyardd's flags and configuration file, read into one value.

Owns: the values and their defaults, reading flags and file, the rule that a key stands in one of them only, what cannot
be. Does not own: the options' names (`options`), what they do (`service`, `assembly`).
"""

from __future__ import annotations

import argparse
import ipaddress
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, NoReturn

from dockyard import __version__
from dockyard.configuration.options import MAPS, OPTIONS, REPEATED, Option
from dockyard.configuration.values import boolean, flag_boolean, integer
from dockyard.edge import metrics
from dockyard.engine.runtimes import OciRuntime, known
from dockyard.model.container import Ulimit
from dockyard.model.errors import InvalidArgument
from dockyard.proto import logdrivers, netplan, storageopts
from dockyard.proto.imagegc import Policy
from dockyard.proto.netplan import Pool

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
    metrics_addr: str = ""  # where figures are told to Prometheus; "": nowhere
    oom_score_adjust: int = 0  # the daemon's own; 0: as it was started
    authorization_plugins: list[str] = field(default_factory=list)  # refused
    labels: list[str] = field(default_factory=list)
    # containers
    default_runtime: str = "dockyard"
    runtimes: dict[str, OciRuntime] = field(default_factory=dict)
    default_ulimits: list[Ulimit] = field(default_factory=list)
    log_driver: str = "json-file"
    log_opts: dict[str, str] = field(default_factory=dict)
    storage_driver: str = ""
    storage_opts: list[str] = field(default_factory=list)
    # images
    discard_blobs: bool = False
    image_gc_high: int = 0  # percent of the data root's disk; 0: off
    image_gc_low: int = 0
    image_gc_keep_last: int = 0  # images of a repository; 0: all
    cgroup_parent: str = ""
    exec_opts: list[str] = field(default_factory=list)
    cpu_rt_period: int = 0  # µs, and
    cpu_rt_runtime: int = 0  # µs of it: real time for the groups above containers'; 0: what they have
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
    default_address_pools: list[Pool] = field(default_factory=list)  # none: Docker's
    fixed_cidr: str = ""
    default_gateway: str = ""
    ip: str = ""  # of published ports that name none
    mtu: int = 0
    icc: bool = True
    ip_forward: bool = True
    iptables: bool = True
    ip_masq: bool = True
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
    max_download_attempts: int = 5
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


@dataclass(frozen=True, slots=True)
class Invocation:
    """The command line: what it says (attribute -> value), and which file to read."""

    given: Mapping[str, Any]
    file: str
    file_given: bool
    validate: bool


def parse_arguments(arguments: Sequence[str]) -> Invocation:
    """Read the command line; ends the program for --help, --version and mistakes, as argparse does."""
    parser = _Parser(
        prog="dockyardd", usage="dockyardd [OPTIONS]", description="The Dockyard container engine.", allow_abbrev=False,
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
        if option.read in MAPS and option.target in values:
            values[option.target] = dict(values[option.target])
    return Invocation(values, file or DEFAULT_FILE, file is not None, validate)


class _Parser(argparse.ArgumentParser):
    """Ends as everything does that keeps the daemon from starting: one line on stderr and exit code 1."""

    def error(self, message: str) -> NoReturn:
        self.exit(1, f"{self.prog}: {message}\nRun '{self.prog} --help' for more information\n")


def _help(option: Option) -> str:
    default = getattr(Configuration(), option.target)
    shown = (
        default and isinstance(default, (str, int)) and not isinstance(default, bool) and "default" not in option.help
    )
    return f"{option.help} (default {default})".replace("%", "%%") if shown else option.help


def _add_flag(parser: argparse.ArgumentParser, option: Option) -> None:
    if option.read is boolean:
        parser.add_argument(
            *option.flags, dest=option.target, help=option.help, nargs="?", const=True, type=flag_boolean,
            metavar="BOOL",
        )  # fmt: skip
    elif option.read in REPEATED:
        parser.add_argument(
            *option.flags, dest=option.target, help=_help(option), action="append", type=option.item, metavar="VALUE"
        )
    else:
        kind = int if option.read is integer else option.item
        parser.add_argument(*option.flags, dest=option.target, help=_help(option), type=kind, metavar="VALUE")


def parse_file(text: str, name: str) -> dict[str, Any]:
    """Read the file's JSON: attribute -> value. InvalidArgument naming the file and what is wrong in it."""
    problem = f"unable to configure the Dockyard daemon with file {name}: "
    try:
        document = json.loads(text) if text.strip() else {}
    except (ValueError, RecursionError) as error:
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
    _check_host(configuration)
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
    if min(configuration.cpu_rt_period, configuration.cpu_rt_runtime) < 0:
        raise InvalidArgument("cpu-rt-period and cpu-rt-runtime must not be negative")
    if configuration.host_gateway_ip:
        try:
            ipaddress.ip_address(configuration.host_gateway_ip)
        except ValueError:
            raise InvalidArgument(f"host-gateway-ip is not an IP address: {configuration.host_gateway_ip}") from None


def _check_host(configuration: Configuration) -> None:
    """What concerns the daemon itself, transfers and networks."""
    if configuration.authorization_plugins:
        plugins = ", ".join(configuration.authorization_plugins)
        raise InvalidArgument(f"authorization-plugins: {plugins}: authorization plugins are not supported")
    if not -1000 <= configuration.oom_score_adjust <= 1000:
        raise InvalidArgument(f"invalid oom-score-adjust: {configuration.oom_score_adjust}, range is [-1000, 1000]")
    if configuration.max_download_attempts <= 0:
        raise InvalidArgument(f"invalid max download attempts: {configuration.max_download_attempts}")
    for name in ("max_concurrent_downloads", "max_concurrent_uploads"):
        if getattr(configuration, name) < 1:
            raise InvalidArgument(f"invalid {name.replace('_', ' ')}: {getattr(configuration, name)}")
    if configuration.metrics_addr:
        metrics.parse_address(configuration.metrics_addr)
    netplan.check_pools(configuration.default_address_pools)
    storageopts.parse(configuration.storage_opts)


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
