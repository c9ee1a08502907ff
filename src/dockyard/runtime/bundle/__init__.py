"""Container settings → OCI runtime bundle: where Docker's vocabulary ends and the runtime's begins.

Owns: `Bundler`, which compiles a container's settings into an OCI runtime-spec 1.2 config.json and a seccomp program,
and a `process` object for each exec. Does not own: resolving names, volumes and namespaces of other containers
(engine), carrying any of it out (`runtime.init`, `runtime.cgroups`).

Our extensions to config.json, which our own init reads and other runtimes ignore:

- `process.user.username`: the raw Docker user specification ("", "app", "1000", "app:staff"), always there. Init
  resolves it with `linux.passwd` in the container's root (which also finds HOME) and ignores uid and gid, which are
  right only if both were given as numbers. A user who is not known to be other than root is given all default
  capabilities as effective and permitted: init leaves only the bounding set to one that turns out not to be root.
- `process.user.groupAdd`: list of str, `--group-add` as given.
- `process.seccompFlags`: int, the flags for seccomp(2) with the program; absent without one.
- `config["dockyard"]["init"]`: true for `--init`.
- `mounts[].dockyard`: `subpath` (of a bind: only this below the source), `chown` (a bind is given to the container's
  user), `idmap: "owner"` (its owner and the container's user change places), `image` (type "image": a Rootfs to lie
  there read-only), `remap` (with a user namespace: on disk its owners have the numbers that are seen inside), `mapped`
  (of an overlay, likewise: directories that have layers of it and are not where the root's layers are), `namespace`
  (of a bind: the mount namespace in which the source is looked up).

HOME is not in `process.env` unless it was asked for: init appends the one that `linux.passwd` found.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from msgspec import Struct

from dockyard.linux import capabilities, seccomp
from dockyard.model.container import ContainerConfig, HostConfig, Ulimit
from dockyard.model.errors import InvalidArgument, SystemFailure
from dockyard.runtime import profiles
from dockyard.runtime.bundle import cdi, security
from dockyard.runtime.bundle.devices import container_devices
from dockyard.runtime.bundle.host import Host
from dockyard.runtime.bundle.mounts import (
    BundleMount,
    DefaultMounts,
    from_mount_point,
    root_propagation,
    tmpfs_options,
    without_extensions,
)
from dockyard.runtime.bundle.resources import oci_resources
from dockyard.runtime.bundle.security import SecurityOptions
from dockyard.runtime.bundle.shortfalls import shortfalls
from dockyard.runtime.cgroups import systemd
from dockyard.runtime.remap import Remap

__all__ = ["Bundle", "BundleInput", "BundleMount", "Bundler", "ExecInput", "Host", "from_mount_point", "tmpfs_options"]

OCI_VERSION: Final = "1.2.0"
DEFAULT_PATH: Final = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_MAX_ID: Final = (1 << 31) - 1
_PROGRAMS_KEPT: Final = 64


class BundleInput(Struct, frozen=True):
    """One container, everything resolved that needs more than its settings."""

    id: str
    name: str
    config: ContainerConfig  # the image's settings merged in: env, user, working_dir
    host: HostConfig
    args: list[str]  # the argv of the container: entrypoint and command
    hostname: str = ""
    domainname: str = ""
    mounts: Sequence[BundleMount] = ()  # binds, volumes, tmpfs and the three etc files
    cgroup_path: str = ""  # "": by `cgroup_path`
    joins: dict[str, str] = {}  # OCI namespace kind ("pid", "network", "ipc", "user") -> path, for container:X
    shm_source: str = ""  # "/dev/shm" for ipc host: bound at /dev/shm
    shm_namespace: str = ""  # of container:X: the mount namespace whose /dev/shm is bound there
    rootfs: str = "rootfs"  # root.path
    env: Sequence[str] = ()  # what it is told of others (`--link`), below its settings
    process_label: str = ""  # SELinux; "": none of its own
    mount_label: str = ""


class ExecInput(Struct, frozen=True):
    """One exec in a container. None for user, cwd: the container's own."""

    args: list[str]
    env: Sequence[str] = ()
    user: str = ""
    cwd: str = ""
    tty: bool = False
    privileged: bool = False
    console_size: list[int] | None = None  # [height, width]


class Bundle(Struct, frozen=True):
    """`config` is for our own init (no linux.seccomp: `seccomp` is its program, None for unconfined)."""

    config: dict[str, Any]
    seccomp: bytes | None
    seccomp_profile: dict[str, Any] | None

    def document(self) -> dict[str, Any]:
        """config.json for any OCI runtime: with linux.seccomp, without our extensions. The caller has put a numeric
        user into process.user."""
        config = _without(self.config, "dockyard")
        config["process"] = _without(config["process"], "seccompFlags")
        config["process"]["user"] = _without(config["process"]["user"], "username", "groupAdd")
        config["mounts"] = without_extensions(config["mounts"])
        if self.seccomp_profile is not None:
            config["linux"] = {**config["linux"], "seccomp": self.seccomp_profile}
        return config

    def foreign_config(self) -> dict[str, Any]:
        """`config` for another runtime, which compiles linux.seccomp itself. Our extensions are still in it:
        `runtime.foreign.preparing` carries them out."""
        if self.seccomp_profile is None:
            return self.config
        return {**self.config, "linux": {**self.config["linux"], "seccomp": self.seccomp_profile}}


class _Filter(Struct, frozen=True):
    profile: dict[str, Any]
    program: bytes
    flags: int


def cgroup_path(identity: str, host: HostConfig, driver: str = "cgroupfs") -> str:
    """The control group that a container gets: relative to the root of each hierarchy, or in systemd's notation."""
    if driver == "systemd":
        if host.cgroup_parent and not systemd.is_slice(host.cgroup_parent):  # made when the driver was another one
            raise InvalidArgument('cgroup-parent for systemd cgroup should be a valid slice named as "xxx.slice"')
        return f"{host.cgroup_parent or systemd.SLICE}:{systemd.PREFIX}:{identity}"
    return f"{host.cgroup_parent or 'dockyard'}/{identity}"


class Bundler:
    """Makes bundles. Built once; keeps compiled seccomp programs by (profile, capabilities)."""

    def __init__(
        self,
        host: Host,
        *,
        seccomp_profile: str = security.BUILTIN,
        apparmor_profile: str = "",
        default_ulimits: Sequence[Ulimit] = (),
        cdi_devices: cdi.Devices | None = None,
        cgroup_driver: str = "cgroupfs",
        remap: Remap | None = None,
        no_new_privileges: bool = False,
    ) -> None:
        """`seccomp_profile`: the daemon's default, "builtin", "unconfined" or a profile's JSON text;
        `apparmor_profile`: name of the loaded default profile, "" for none; `cdi_devices`: None is without CDI;
        `remap`: the ids of containers that do not ask for the host's user namespace;
        `no_new_privileges`: of containers that say nothing about it."""
        self._host = host
        self._seccomp_default = seccomp_profile
        self._apparmor_default = apparmor_profile
        self._ulimits = tuple(default_ulimits)
        self._cgroup_driver = cgroup_driver
        self._cdi = cdi_devices or cdi.Devices()
        self._remap = remap
        self._no_new_privileges = no_new_privileges
        self._mounts = DefaultMounts()
        self._builtin = profiles.default_profile()
        self._filters: dict[tuple[str, frozenset[str]], _Filter | None] = {}

    def warm(self) -> None:
        """Compile the default filter now (20 ms) rather than in the first start."""
        self._filter(self._seccomp_default, frozenset(security.DEFAULT_CAPABILITIES) & self._host.capabilities)

    def validate(self, config: ContainerConfig, host: HostConfig) -> None:
        """Refuse at create what `make` would refuse at start. Raises InvalidArgument in Docker's words."""
        options = self._options(host)
        caps = security.select_capabilities(host, capabilities.NAMES, self._host.capabilities)
        security.rlimits(host.ulimits or (), self._ulimits)
        self._container_filter(host, options, caps)
        self._cdi.edits(host.device_requests or ())
        if self.remapping(host) is not None:
            security.check_user_namespace(host)

    def shortfalls(self, host: HostConfig) -> list[str]:
        """What this host has not got for such a container, one sentence each."""
        return shortfalls(host, capabilities.NAMES, self._host.capabilities)

    def make(self, spec: BundleInput) -> Bundle:
        """The bundle of a container. Raises InvalidArgument in Docker's words, naming the setting.

        Takes some 0.1 ms (privileged: some ms, it lists /dev; a filter seen for the first time: 20 ms).
        """
        host = spec.host
        options = self._options(host)
        caps = security.select_capabilities(host, capabilities.NAMES, self._host.capabilities)
        kept = self._container_filter(host, options, caps)
        config: dict[str, Any] = {
            "ociVersion": OCI_VERSION,
            "process": self._process(spec, options, caps, kept),
            "root": {"path": spec.rootfs, "readonly": host.readonly_rootfs},
            "mounts": self._mounts.make(
                host,
                spec.mounts,
                shm_source=spec.shm_source,
                shm_namespace=spec.shm_namespace,
                writable_cgroups=options.writable_cgroups,
                remap=self.remapping(host),
            ),
            "linux": self._linux(spec, options),
            "dockyard": {"init": True} if host.init else {},
        }
        if host.uts_mode != "host":
            config["hostname"] = spec.hostname
            if spec.domainname:
                config["domainname"] = spec.domainname
        if host.annotations:
            config["annotations"] = dict(host.annotations)
        if host.device_requests:
            cdi.apply(config, self._cdi.edits(host.device_requests))
        if kept is None:
            return Bundle(config, None, None)
        return Bundle(config, kept.program, kept.profile)

    def exec_process(self, spec: BundleInput, wanted: ExecInput) -> dict[str, Any]:
        """The `process` object of an exec: the container's own, changed by what was asked. Raises InvalidArgument."""
        options = self._options(spec.host)
        host = spec.host
        own = security.select_capabilities(host, capabilities.NAMES, self._host.capabilities)
        if wanted.privileged:
            caps = tuple(name for name in capabilities.NAMES if name in self._host.capabilities)
        else:
            caps = own
        kept = self._container_filter(host, options, own)  # also of a privileged exec: as Docker
        user = wanted.user or spec.config.user
        process = self._base_process(spec, options, caps, kept, user, tty=wanted.tty, size=wanted.console_size)
        process["args"] = list(wanted.args)
        process["cwd"] = wanted.cwd or spec.config.working_dir or "/"
        process["env"] = environment(spec.hostname, wanted.tty, (*spec.env, *(spec.config.env or ()), *wanted.env))
        if wanted.privileged and not options.apparmor:
            process.pop("apparmorProfile", None)
        return process

    def _process(
        self, spec: BundleInput, options: SecurityOptions, caps: tuple[str, ...], kept: _Filter | None
    ) -> dict[str, Any]:
        config = spec.config
        process = self._base_process(
            spec, options, caps, kept, config.user, tty=config.tty, size=spec.host.console_size
        )
        process["args"] = list(spec.args)
        process["cwd"] = config.working_dir or "/"
        process["env"] = environment(spec.hostname, config.tty, (*spec.env, *(config.env or ())))
        return process

    def _base_process(
        self,
        spec: BundleInput,
        options: SecurityOptions,
        caps: tuple[str, ...],
        kept: _Filter | None,
        user: str,
        *,
        tty: bool,
        size: list[int] | None,
    ) -> dict[str, Any]:
        host = spec.host
        identity = oci_user(user, host.group_add or ())
        root = identity["uid"] == 0 if "additionalGids" in identity else None
        process: dict[str, Any] = {
            "terminal": tty,
            "user": identity,
            "capabilities": security.oci_capabilities(caps, root),
            "noNewPrivileges": options.no_new_privileges,
            "oomScoreAdj": host.oom_score_adj,
        }
        if kept is not None:
            process["seccompFlags"] = kept.flags
        if tty and size and size[0] and size[1]:
            process["consoleSize"] = {"height": size[0], "width": size[1]}
        limits = security.rlimits(host.ulimits or (), self._ulimits)
        if limits:
            process["rlimits"] = limits
        apparmor = self._apparmor(host, options)
        if apparmor:
            process["apparmorProfile"] = apparmor
        if spec.process_label:
            process["selinuxLabel"] = spec.process_label
        return process

    def _options(self, host: HostConfig) -> SecurityOptions:
        return security.parse_security_options(
            host.security_opt or (), SecurityOptions(no_new_privileges=self._no_new_privileges)
        )

    def apparmor_profile(self, host: HostConfig) -> str:
        """The AppArmor profile that a container's processes run under; "" where there is none."""
        return self._apparmor(host, security.parse_security_options(host.security_opt or ()))

    def _apparmor(self, host: HostConfig, options: SecurityOptions) -> str:
        if not self._host.apparmor:
            return ""
        if options.apparmor:  # also for a privileged container (S19)
            return options.apparmor
        return security.UNCONFINED if host.privileged else self._apparmor_default

    def _linux(self, spec: BundleInput, options: SecurityOptions) -> dict[str, Any]:
        host = spec.host
        devices, rules = container_devices(host)
        resources = oci_resources(host)
        resources["devices"] = rules
        masked, readonly = security.system_paths(host, options, self._host.thermal_paths)
        linux: dict[str, Any] = {
            "cgroupsPath": spec.cgroup_path or cgroup_path(spec.id, host, self._cgroup_driver),
            "namespaces": self._namespaces(spec),
            "devices": devices,
            "resources": resources,
            "maskedPaths": masked,
            "readonlyPaths": readonly,
        }
        remap = self.remapping(host)
        if remap is not None:
            other = spec.joins.get("user")
            linux["namespaces"].append({"type": "user", "path": other} if other else {"type": "user"})
            linux["uidMappings"], linux["gidMappings"] = remap.uids, remap.gids
        sysctls = self._sysctls(spec)
        if sysctls:
            linux["sysctl"] = sysctls
        if spec.mount_label:
            linux["mountLabel"] = spec.mount_label
        propagation = root_propagation(spec.mounts)
        if propagation:
            linux["rootfsPropagation"] = propagation
        return linux

    def _namespaces(self, spec: BundleInput) -> list[dict[str, str]]:
        host, joins = spec.host, spec.joins
        modes = {
            "network": host.network_mode,
            "ipc": host.ipc_mode,
            "uts": host.uts_mode,
            "pid": host.pid_mode,
            "cgroup": self._cgroup_mode(host),
        }
        namespaces = [{"type": "mount"}]
        for kind, mode in modes.items():
            if kind in joins:
                namespaces.append({"type": kind, "path": joins[kind]})
            elif mode.startswith("container:"):
                raise SystemFailure(f"cannot join the {kind} namespace of {mode}: no path given")
            elif mode != "host":
                namespaces.append({"type": kind})
        return namespaces

    def _cgroup_mode(self, host: HostConfig) -> str:
        """Private unless asked otherwise, also on cgroup v1, where Docker still shares the host's: the container sees
        no path of the host (S10). A privileged container on v1 gets the host's, as engines inside one expect."""
        if host.cgroupns_mode:
            return host.cgroupns_mode
        return "host" if host.privileged and self._host.cgroup_version == 1 else "private"

    def remapping(self, host: HostConfig) -> Remap | None:
        """The ids of a container with these settings; None for the host's."""
        return None if host.userns_mode == "host" else self._remap

    def _sysctls(self, spec: BundleInput) -> dict[str, str]:
        own_network = spec.host.network_mode != "host" and "network" not in spec.joins
        return {**(self._host.net_sysctls if own_network else {}), **(spec.host.sysctls or {})}

    def _container_filter(self, host: HostConfig, options: SecurityOptions, caps: tuple[str, ...]) -> _Filter | None:
        if host.privileged and not options.seccomp:
            return None
        if not self._host.seccomp:
            if options.seccomp not in ("", security.UNCONFINED, security.BUILTIN):
                raise InvalidArgument("seccomp is not enabled in your kernel, cannot run a custom seccomp profile")
            return None
        return self._filter(options.seccomp or self._seccomp_default, frozenset(caps))

    def _filter(self, profile: str, caps: frozenset[str]) -> _Filter | None:
        if profile == security.UNCONFINED:
            return None
        key = (profile, caps)
        if key not in self._filters:
            while len(self._filters) >= _PROGRAMS_KEPT:
                del self._filters[next(iter(self._filters))]
            self._filters[key] = self._compile(profile, caps)
        return self._filters[key]

    def _compile(self, profile: str, caps: frozenset[str]) -> _Filter | None:
        document = self._builtin if profile == security.BUILTIN else profiles.decode(profile)
        resolved = profiles.resolve(document, caps, self._host.machine, self._host.kernel)
        if resolved is None:
            return None
        try:
            return _Filter(resolved, seccomp.compile(resolved), seccomp.flags_of(resolved))
        except seccomp.SeccompError as error:
            raise InvalidArgument(str(error)) from None


def environment(hostname: str, tty: bool, given: Sequence[str]) -> list[str]:
    """Docker's environment: PATH, HOSTNAME and TERM, then `given`: "KEY=value" replaces in place, "KEY" removes."""
    values = {"PATH": DEFAULT_PATH, "HOSTNAME": f"HOSTNAME={hostname}"}
    if tty:
        values["TERM"] = "TERM=xterm"
    for variable in given:
        key, equals, _ = variable.partition("=")
        if equals:
            values[key] = variable
        else:
            values.pop(key, None)
    return list(values.values())


def oci_user(user: str, group_add: Sequence[str]) -> dict[str, Any]:
    """`process.user`: the raw text for our init, and for every runtime the numbers if both are given as such."""
    identity: dict[str, Any] = {"uid": 0, "gid": 0, "username": user}
    if group_add:
        identity["groupAdd"] = list(group_add)
        return identity
    uid, _, gid = user.partition(":")
    certain = uid.isascii() and uid.isdigit() and gid.isascii() and gid.isdigit() and max(len(uid), len(gid)) < 11
    if certain and max(int(uid), int(gid)) <= _MAX_ID:
        identity |= {"uid": int(uid), "gid": int(gid), "additionalGids": [int(gid)]}
    return identity


def _without(value: dict[str, Any], *keys: str) -> dict[str, Any]:
    return {key: value[key] for key in value if key not in keys}
