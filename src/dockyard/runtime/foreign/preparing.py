"""A `Launch` as a bundle for any OCI runtime.

Owns: laying the root file system and the mounts that only we can make (mapped owners, parts of volumes, images) where
the runtime finds them, and a config.json without our extensions. Does not own: calling the runtime (`making`).

Runs in the setup process, which has unshared its mount namespace: what is mounted here is seen nowhere else.

With a user namespace the runtime makes that, and does the rest as the container's root: this one has to get to the root
file system and to the binds, so the run directory is passable for its group, and all binds are laid here, the mounts
below a bind also by themselves (crun 1.8 leaves them out then, runc binds nothing without them).
"""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Iterator
from typing import Any

from dockyard.linux import abi, mounts, userns
from dockyard.runtime import owners, program, rootfs
from dockyard.runtime.cgroups import is_notation
from dockyard.runtime.following import SpawnFailed
from dockyard.runtime.foreign.command import own_mounts
from dockyard.runtime.sources import open_bind_source
from dockyard.runtime.users import Users, ranges

_VERSION = "1.0.2"  # what every runtime reads
_PATH = os.O_PATH | os.O_CLOEXEC
_PING, _ALL_GROUPS = "net.ipv4.ping_group_range", "0 2147483647"  # the engine's default


def prepare(launch: dict[str, Any]) -> tuple[str, Users | None]:
    """Write the bundle and mount what it names; its directory, and the container's ids where it has ids of its own.
    SpawnFailed, OSError."""
    directory = launch["state_dir"]
    own_mounts()
    hide_mounts_below(directory)
    root = f"{directory}/rootfs"
    os.makedirs(root, 0o755, exist_ok=True)
    config = dict(launch["config"])
    config["linux"], users = _users(config["linux"])
    if users is not None:
        _let_pass(directory, users)
        users.act()  # else overlayfs could make nothing on layers with mapped owners
    try:
        rootfs.lay_root(launch["rootfs"], root, config["linux"].get("mountLabel") or "", users)
    finally:
        os.chdir(directory)
        if users is not None:
            users.rest()
    at = os.open(root, _PATH | os.O_DIRECTORY)
    try:
        config["process"] = plain_process(config["process"], at, users)
        stage = _Stage(directory, launch["config"], at, users)
        config["mounts"] = stage.lay(config.get("mounts") or [])
    finally:
        os.close(at)
        if users is not None:
            os.close(users.namespace)
    config["root"] = {**(config.get("root") or {}), "path": root}
    _write(f"{directory}/bundle", plain_config(config))
    return f"{directory}/bundle", users


def _users(linux: dict[str, Any]) -> tuple[dict[str, Any], Users | None]:
    """`config.linux` as the runtime is to have it, and the ids of the container's user namespace; None: the host's.

    Its descriptor is of a namespace that has the same mappings: the one that the runtime will make is not there yet.
    """
    spaces = linux.get("namespaces") or []
    entry = next((each for each in spaces if each["type"] == "user"), None)
    if entry is None:
        return linux, None
    if entry.get("path"):  # another container's, which shares namespaces with this one
        joined = os.open(entry["path"], os.O_RDONLY | os.O_CLOEXEC)
        if os.fstat(joined).st_ino != os.stat("/proc/self/ns/user").st_ino:
            held = userns.Held((), (), joined=joined)
            uids, gids = held.mappings()
            held.close()
            return {**linux, "uidMappings": uids, "gidMappings": gids}, Users(uids, gids, joined)
        os.close(joined)
        linux = {**linux, "namespaces": [each if each is not entry else {"type": "user"} for each in spaces]}
    uids, gids = linux["uidMappings"], linux["gidMappings"]
    return linux, Users(uids, gids, userns.open_mapping(ranges(uids), ranges(gids)))


def _let_pass(directory: str, users: Users) -> None:
    """Let the container's root pass the run directory; what is in it has modes of its own. SpawnFailed naming a
    directory above that it cannot pass."""
    os.chown(directory, 0, users.gid(0))
    os.chmod(directory, 0o710)
    above = os.path.dirname(directory)
    while above != "/":
        if not os.stat(above).st_mode & 0o001:
            raise SpawnFailed(
                f"{above}: other OCI runtimes with user namespaces need a directory that all users may pass"
            )
        above = os.path.dirname(above)


def plain_config(config: dict[str, Any]) -> dict[str, Any]:
    """config.json without our extensions and newer fields. SpawnFailed for one that has no other form."""
    plain = {name: value for name, value in config.items() if name not in ("dockyard", "domainname")}
    if (config.get("dockyard") or {}).get("init"):
        raise SpawnFailed("--init works with the runtime dockyard only")
    plain["ociVersion"] = _VERSION
    linux = plain["linux"] = dict(config["linux"])
    group = linux.get("cgroupsPath") or ""
    linux["cgroupsPath"] = group if is_notation(group) else "/" + group.strip("/")
    if is_notation(group):  # crun: limits on the scope itself, where updates go, too
        plain["annotations"] = {**(plain.get("annotations") or {}), "run.oci.systemd.subgroup": ""}
    resources = linux.get("resources") or {}
    if ((resources.get("pids") or {}).get("limit") or 0) <= 0:  # crun writes -1 as it is, and the kernel refuses
        linux["resources"] = {name: value for name, value in resources.items() if name != "pids"}
    sysctls = linux["sysctl"] = dict(linux.get("sysctl") or {})
    if config.get("domainname"):  # a field only since version 1.1
        sysctls["kernel.domainname"] = config["domainname"]
    if linux.get("gidMappings") and sysctls.get(_PING) == _ALL_GROUPS:  # the runtime writes it with the container's ids
        sysctls[_PING] = f"0 {sum(each['size'] for each in linux['gidMappings']) - 1}"
    return plain


def plain_process(spec: dict[str, Any], root: int, users: Users | None) -> dict[str, Any]:
    """A `process` with the user as numbers, found beneath `root`, and HOME. program.ProgramFailed, also for a number
    that is not among the ids of `users`."""
    uid, gid, groups, home = program.resolve_user(spec, root)
    if users is not None:
        users.uid(uid)
        for group in (gid, *groups):
            users.gid(group)
    plain = {name: value for name, value in spec.items() if name != "seccompFlags"}
    user = {name: value for name, value in (spec.get("user") or {}).items() if name not in ("username", "groupAdd")}
    plain["user"] = {**user, "uid": uid, "gid": gid, "additionalGids": groups}
    environment = program.environment(spec, home)
    plain["env"] = [(name + b"=" + value).decode("utf-8", "surrogateescape") for name, value in environment.items()]
    caps = spec.get("capabilities") or {}
    if uid != 0 and "username" in (spec.get("user") or {}):  # what execve leaves to a user that is not root
        ambient = caps.get("ambient") or []
        plain["capabilities"] = {**caps, "effective": ambient, "permitted": ambient}
    return plain


def _write(bundle: str, config: dict[str, Any]) -> None:
    os.makedirs(bundle, 0o700, exist_ok=True)
    fd = os.open(f"{bundle}/config.json", os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with open(fd, "w", encoding="utf-8", errors="surrogateescape") as file:
        json.dump(config, file)


def hide_mounts_below(directory: str) -> None:
    """Keep what will be mounted in `directory` from reaching the host: the mount that holds it gets no peers any more.
    All other mounts keep theirs, so that shared binds of the container work."""
    at = os.open(directory, _PATH | os.O_DIRECTORY)
    try:
        with open(f"/proc/self/fdinfo/{at}", encoding="ascii") as file:
            number = next(line.split()[1] for line in file if line.startswith("mnt_id:"))
    finally:
        os.close(at)
    mounts.mount("", next(point for own, point in _points() if own == number), "", abi.MS_PRIVATE)


def _mounts_below(path: str) -> list[str]:
    """The mount points below a directory, relative to it (with a slash before), in the order of mounting."""
    return [point.removeprefix(path) for _, point in _points() if point.startswith(f"{path}/")]


def _points() -> Iterator[tuple[str, str]]:
    """(number, mount point) of each mount. Source: proc_pid_mountinfo(5)."""
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as file:
        for line in file:
            fields = line.split(None, 5)
            point = fields[4].encode("utf-8", "surrogateescape").decode("unicode_escape").encode("latin-1")
            yield fields[0], os.fsdecode(point)


def _without_recursion(entry: dict[str, Any]) -> dict[str, Any]:
    """A bind of a file with "ro" instead of "rro": crun asks for a directory then."""
    options = entry.get("options") or []
    if "rro" not in options or os.path.isdir(entry.get("source") or ""):
        return entry
    return {**entry, "options": ["ro" if option == "rro" else option for option in options]}


class _Stage:
    """Mounts that are made here and bound from here by the runtime."""

    def __init__(self, directory: str, config: dict[str, Any], root: int, users: Users | None) -> None:
        self._directory = f"{directory}/mounts"
        self._process = config["process"]
        self._label = config["linux"].get("mountLabel") or ""
        self._root = root
        self._users = users

    def lay(self, entries: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """The mounts as the runtime is to make them."""
        return [made for index, entry in enumerate(entries) for made in self._lay_one(index, entry)]

    def _lay_one(self, index: int, entry: dict[str, Any]) -> list[dict[str, Any]]:
        own = entry.get("dockyard") or {}
        bind = self._users is not None and entry.get("type") == "bind"
        if not own and not owners.is_mapped(entry) and not bind:
            return [_without_recursion(entry)]
        os.makedirs(self._directory, 0o755, exist_ok=True)
        if "image" in own:
            self._lay_image(index, entry)
            options = ["rbind", "ro", "rprivate"]
        else:
            self._lay_bind(index, entry)
            options = [option for option in entry.get("options") or [] if option not in ("idmap", "ridmap")]
        source, destination = f"{self._directory}/{index}", entry["destination"]
        made = _without_recursion({"destination": destination, "type": "bind", "source": source, "options": options})
        if self._users is None or "rbind" not in options:
            return [made]
        return [
            {**made, "destination": f"{destination}{below}", "source": f"{source}{below}"}
            for below in ("", *_mounts_below(source))
        ]

    def _lay_image(self, index: int, entry: dict[str, Any]) -> None:
        stage = os.open(self._directory, _PATH | os.O_DIRECTORY)
        try:
            rootfs.mount_image(stage, {**entry, "destination": f"/{index}"}, self._users, self._label)
        finally:
            os.close(stage)
            os.chdir(os.path.dirname(self._directory))

    def _lay_bind(self, index: int, entry: dict[str, Any]) -> None:
        options, own = entry.get("options") or [], entry.get("dockyard") or {}
        tree = open_bind_source(entry, "rbind" in options)
        users = self._users if own.get("remap") else None
        if users is not None:
            mounts.set_attributes(tree, abi.MOUNT_ATTR_IDMAP, userns=users.namespace)
        if owners.is_mapped(entry):
            owners.map_tree(tree, entry, self._process, self._root, "ridmap" in options, self._users)
        if own.get("chown"):
            uid, gid, _, _ = program.resolve_user(self._process, self._root)
            given = open_bind_source(entry, False)
            if users is not None:
                mounts.set_attributes(given, abi.MOUNT_ATTR_IDMAP, userns=users.namespace)
            if self._users is not None:
                uid, gid = self._users.uid(uid), self._users.gid(gid)
            owners.give(given, uid, gid)
            os.close(given)
        path = f"{self._directory}/{index}"
        if stat.S_ISDIR(os.fstat(tree).st_mode):
            os.makedirs(path, 0o755, exist_ok=True)
        else:
            os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600))
        target = os.open(path, _PATH)
        mounts.move_mount(tree, target)
        os.close(target)
        os.close(tree)
