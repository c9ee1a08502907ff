"""The OCI command without root: as an ordinary user, or as root of a user namespace (podman starts it so).

Owns: becoming root of the container's user namespace before anything else, so that all the rest is done as with root,
only less of it; what cannot be had then: control groups that nobody delegated, device rules, groups where setgroups is
denied. Does not own: the namespace (`linux.userns`), the steps that differ (`runtime.rootfs`, `runtime.init`: they are
told by `Launch.options.limited`).
Sources: user_namespaces(7), newuidmap(1), cgroups(7) "Cgroups delegation".
"""

from __future__ import annotations

import errno
import os
from typing import Any, Final

from dockyard.linux import abi, process, userns
from dockyard.runtime.cgroups import is_notation, open_cgroup, version
from dockyard.runtime.oci.containers import STOPPED, Container
from dockyard.runtime.oci.errors import OciError

_ENTERED: Final = "_DOCKYARD_RUNTIME_ENTERED"  # tells the protected copy that it is in the container's user namespace
_NOT_OURS: Final = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOENT)


def state_root() -> str:
    """Where containers are kept by default. Raises OciError where there is no such place."""
    directory = os.environ.get("XDG_RUNTIME_DIR", "")
    if not directory:
        raise OciError("--root: needed by a user without XDG_RUNTIME_DIR")
    return os.path.join(directory, "dockyard-runtime")


def enter_new(config: dict[str, Any]) -> None:
    """As an ordinary user: become root of the user namespace that `config` asks for. Raises OciError."""
    linux = config.get("linux") or {}
    entries = [each for each in linux.get("namespaces") or [] if isinstance(each, dict) and each.get("type") == "user"]
    if not entries:
        raise OciError("linux.namespaces: without root, a user namespace is needed")
    if entries[0].get("path"):
        _become(_open(entries[0]["path"], "linux.namespaces"))
    else:
        _become(_make(_ranges(linux, "uidMappings"), _ranges(linux, "gidMappings")))
    process.unshare(abi.CLONE_NEWNS)
    os.environ[_ENTERED] = "1"


def enter_container(container: Container, *, own_mounts: bool) -> None:
    """As an ordinary user: become root of the user namespace of a container that lives. `own_mounts`: and have a mount
    namespace that belongs to it. Raises OciError."""
    if container.status() == STOPPED:
        return
    _become(_open(f"/proc/{container.state['pid']}/ns/user", container.id))
    if own_mounts:
        process.unshare(abi.CLONE_NEWNS)


def entered() -> bool:
    """Whether `enter_new` was called before this program was executed anew. Asked once: nobody else is to see it."""
    return os.environ.pop(_ENTERED, "") == "1"


def keeps_groups() -> bool:
    """Whether setgroups(2) is denied here."""
    with open("/proc/self/setgroups", encoding="ascii") as file:
        return file.read().strip() == "deny"


def settle(config: dict[str, Any], identity: str, *, entered: bool) -> None:
    """Take out of a checked configuration what has been done already or cannot be done. Raises OciError for limits that
    cannot be had."""
    linux = config["linux"]
    if linux.get("netDevices"):
        raise OciError("linux.netDevices: only root may move the host's network devices")
    if entered:
        linux["namespaces"] = [each for each in linux["namespaces"] if each["type"] != "user"]
        linux.pop("uidMappings", None)
        linux.pop("gidMappings", None)
    for mount in config.get("mounts") or []:
        options = mount.get("options") or []
        if "rbind" in options and "ro" in options and (mount["source"] + "/").startswith("/sys/"):
            mount["options"] = [*options, "rro"]  # the control groups beneath, too (S10)
    resources = linux.get("resources") or {}
    resources.pop("devices", None)  # the user's own rights are all that there is
    if is_notation(linux.get("cgroupsPath") or ""):
        raise OciError("--systemd-cgroup: not supported without root")
    path = linux.get("cgroupsPath") or (_default_group(identity) if version() == 2 else f"/dockyard-runtime-{identity}")
    linux["cgroupsPath"] = _usable_group(path, any(resources.values()))


def _default_group(identity: str) -> str:
    """Beside the group that we are in: with processes in it, that one can hand no controllers down."""
    return f"{os.path.dirname(_own_group())}/dockyard-runtime-{identity}"


def _own_group() -> str:
    with open("/proc/self/cgroup", encoding="utf-8", errors="surrogateescape") as file:
        return next((line[3:].rstrip("\n") for line in file if line.startswith("0::")), "/")


def _usable_group(path: str, needed: bool) -> str:
    """`path` if such a control group can be made and joined, else "". Raises OciError if it is `needed`."""
    try:
        cgroup = open_cgroup(path)
        cgroup.create()
        cgroup.remove()
        if version() == 2:
            common = os.path.commonpath((f"/{cgroup.path}", _own_group()))
            with open(f"/sys/fs/cgroup{common}/cgroup.procs", "ab"):
                return path
        return path
    except OSError as error:
        if error.errno not in _NOT_OURS:
            raise
        if needed:
            reason = os.strerror(error.errno or 0).lower()
            raise OciError(
                f"linux.resources: limits need control groups that are delegated to this user: {path}: {reason}"
            ) from None
        return ""


def _make(uids: userns.Ranges, gids: userns.Ranges) -> int:
    try:
        held = userns.Held(uids, gids, write=_write_maps)
    except OSError as error:
        raise OciError(f"linux.namespaces: no user namespace can be made: {error.strerror or error}") from None
    try:
        return held.open("user")
    finally:
        held.close()


def _write_maps(pid: int, uids: userns.Ranges, gids: userns.Ranges) -> None:
    """The user itself may map its own ids alone; newuidmap and newgidmap those of /etc/subuid and /etc/subgid."""
    if [each[1:] for each in map(tuple, gids)] == [(os.getegid(), 1)]:
        with open(f"/proc/{pid}/setgroups", "w", encoding="ascii") as file:
            file.write("deny")
        userns.write_map(f"/proc/{pid}/gid_map", gids)
    else:
        _call("newgidmap", pid, gids)
    if [each[1:] for each in map(tuple, uids)] == [(os.geteuid(), 1)]:
        userns.write_map(f"/proc/{pid}/uid_map", uids)
    else:
        _call("newuidmap", pid, uids)


def _call(program: str, pid: int, ranges: userns.Ranges) -> None:
    import subprocess

    words = [str(number) for each in ranges for number in each]
    try:
        done = subprocess.run([program, str(pid), *words], capture_output=True, text=True, check=False)
    except FileNotFoundError:
        raise OciError(f"{program} is needed to map more ids than the user's own (Debian: uidmap)") from None
    if done.returncode != 0:
        raise OciError(f"{done.stderr.strip() or program} (see /etc/subuid and /etc/subgid)")


def _open(path: str, what: str) -> int:
    try:
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise OciError(f"{what}: {path}: {(error.strerror or str(error)).lower()}") from None


def _become(namespace: int) -> None:
    """Root of the namespace."""
    try:
        process.setns(namespace, abi.CLONE_NEWUSER)
    except OSError as error:
        raise OciError(f"the user namespace cannot be entered: {os.strerror(error.errno or 0).lower()}") from None
    finally:
        os.close(namespace)
    if not keeps_groups():
        os.setgroups([])
    try:
        os.setresgid(0, 0, 0)
        os.setresuid(0, 0, 0)
    except OSError:
        raise OciError(
            "linux.uidMappings, linux.gidMappings: the user namespace needs a root (containerID 0)"
        ) from None


def _ranges(linux: dict[str, Any], name: str) -> userns.Ranges:
    from dockyard.runtime.oci.members import check_ranges

    if not linux.get(name):
        raise OciError(f"linux.{name}: missing for a user namespace of its own in linux.namespaces")
    check_ranges(linux, name, f"linux.{name}")
    return [(each["containerID"], each["hostID"], each["size"]) for each in linux[name]]
