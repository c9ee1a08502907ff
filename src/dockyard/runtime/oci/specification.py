"""What the OCI command says of itself: a config.json to begin with (`spec`), what is supported (`features`).

Owns: both documents. Sources: OCI runtime-spec 1.3, config.md and features.md. The configuration is what users of
`runc spec` expect: a shell on a terminal in a read-only root, few capabilities.
"""

from __future__ import annotations

from typing import Any

from dockyard.linux import capabilities, mounts, process, seccomp
from dockyard.runtime.cgroups import version
from dockyard.runtime.oci.configuration import HOOKS
from dockyard.runtime.oci.containers import SPECIFICATION

_OWN_OPTIONS = ("idmap", "ridmap", "tmpcopyup")
_CAPABILITIES = ("CAP_AUDIT_WRITE", "CAP_KILL", "CAP_NET_BIND_SERVICE")
_MOUNTS: tuple[tuple[str, str, str, tuple[str, ...]], ...] = (
    ("/proc", "proc", "proc", ()),
    ("/dev", "tmpfs", "tmpfs", ("nosuid", "strictatime", "mode=755", "size=65536k")),
    ("/dev/pts", "devpts", "devpts", ("nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5")),
    ("/dev/shm", "tmpfs", "shm", ("nosuid", "noexec", "nodev", "mode=1777", "size=65536k")),
    ("/dev/mqueue", "mqueue", "mqueue", ("nosuid", "noexec", "nodev")),
    ("/sys", "sysfs", "sysfs", ("nosuid", "noexec", "nodev", "ro")),
    ("/sys/fs/cgroup", "cgroup", "cgroup", ("nosuid", "noexec", "nodev", "relatime", "ro")),
)
_MASKED = (
    *("/proc/acpi", "/proc/asound", "/proc/interrupts", "/proc/kcore", "/proc/keys", "/proc/latency_stats"),
    *("/proc/sched_debug", "/proc/scsi", "/proc/timer_list", "/proc/timer_stats"),
    *("/sys/devices/virtual/powercap", "/sys/firmware"),
)
_NAMESPACES = ("pid", "network", "ipc", "uts", "mount", "cgroup")  # the last on v2, as scripts around runc expect it
_READONLY = ("/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger")


def default_config() -> dict[str, Any]:
    """A config.json that runs `sh` in ./rootfs."""
    caps = list(_CAPABILITIES)
    return {
        "ociVersion": SPECIFICATION,
        "process": {
            "terminal": True,
            "user": {"uid": 0, "gid": 0},
            "args": ["sh"],
            "env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "TERM=xterm"],
            "cwd": "/",
            "capabilities": {"bounding": caps, "effective": caps, "permitted": caps},
            "rlimits": [{"type": "RLIMIT_NOFILE", "hard": 1024, "soft": 1024}],
            "noNewPrivileges": True,
        },
        "root": {"path": "rootfs", "readonly": True},
        "hostname": "dockyard",
        "mounts": [
            {
                "destination": destination,
                "type": kind,
                "source": source,
                **({"options": list(options)} if options else {}),
            }
            for destination, kind, source, options in _MOUNTS
        ],
        "linux": {
            "resources": {"devices": [{"allow": False, "access": "rwm"}]},
            "namespaces": [{"type": kind} for kind in _NAMESPACES if kind != "cgroup" or version() == 2],
            "maskedPaths": list(_MASKED),
            "readonlyPaths": list(_READONLY),
        },
    }


def rootless_config(uid: int, gid: int) -> dict[str, Any]:
    """The same for an ordinary user: its own ids as root of a user namespace, the host's network, no control groups."""
    config = default_config()
    config["mounts"] = [mount for mount in config["mounts"] if mount["type"] not in ("sysfs", "cgroup")]
    for mount in config["mounts"]:
        if mount["type"] == "devpts":
            mount["options"].remove("gid=5")
    options = ["rbind", "nosuid", "noexec", "nodev", "ro", "rro"]  # with all beneath (S10)
    config["mounts"].append({"destination": "/sys", "type": "none", "source": "/sys", "options": options})
    linux = config["linux"]
    del linux["resources"]
    linux["namespaces"] = [{"type": kind} for kind in ("pid", "ipc", "uts", "mount", "cgroup", "user")]
    linux["uidMappings"] = [{"containerID": 0, "hostID": uid, "size": 1}]
    linux["gidMappings"] = [{"containerID": 0, "hostID": gid, "size": 1}]
    return config


def features() -> dict[str, Any]:
    """The features document. What the host cannot do is in it all the same, as the specification wants it; only the
    flags of seccomp are told apart."""
    return {
        "ociVersionMin": "1.0.0",
        "ociVersionMax": SPECIFICATION,
        "hooks": list(HOOKS),
        "mountOptions": sorted({*mounts.FLAGS, *mounts.PROPAGATION, *mounts.ATTRIBUTES, *_OWN_OPTIONS}),
        "annotations": {"org.opencontainers.runc.checkpoint.enabled": "false"},
        "potentiallyUnsafeConfigAnnotations": [],  # none changes what is done
        "linux": {
            "namespaces": sorted(process.NAMESPACE_FLAGS),
            "capabilities": list(capabilities.NAMES),
            "cgroup": {"v1": True, "v2": True, "systemd": True, "systemdUser": False, "rdma": True},
            "seccomp": {
                "enabled": True,
                "actions": sorted(seccomp.ACTIONS),
                "operators": sorted(seccomp.OPERATORS),
                "archs": sorted(seccomp.ARCHITECTURES),
                "knownFlags": sorted(seccomp.FLAGS),
                "supportedFlags": sorted(seccomp.supported_flags()),
            },
            "apparmor": {"enabled": True},
            "selinux": {"enabled": True},
            "intelRdt": {"enabled": True},
            "mountExtensions": {"idmap": {"enabled": True}},
            "netDevices": {"enabled": True},
        },
    }
