"""A `Launch` as a bundle for any OCI runtime.

Owns: laying the root file system and the mounts that only we can make (mapped owners, parts of volumes, images) where
the runtime finds them, and a config.json without our extensions. Does not own: calling the runtime (`making`).

Runs in the setup process, which has unshared its mount namespace: what is mounted here is seen nowhere else.
"""

from __future__ import annotations

import json
import os
import stat
from typing import Any

from dockyard.linux import abi, mounts
from dockyard.runtime import owners, program, rootfs
from dockyard.runtime.cgroups import is_notation
from dockyard.runtime.foreign.command import own_mounts
from dockyard.runtime.spawn import SpawnFailed, open_bind_source

_VERSION = "1.0.2"  # what every runtime reads
_PATH = os.O_PATH | os.O_CLOEXEC


def prepare(launch: dict[str, Any]) -> str:
    """Write the bundle and mount what it names; its directory. SpawnFailed, OSError."""
    directory = launch["state_dir"]
    own_mounts()
    hide_mounts_below(directory)
    root = f"{directory}/rootfs"
    os.makedirs(root, 0o700, exist_ok=True)
    try:
        rootfs.lay_root(launch["rootfs"], root)
    finally:
        os.chdir(directory)
    config = dict(launch["config"])
    at = os.open(root, _PATH | os.O_DIRECTORY)
    try:
        config["process"] = plain_process(config["process"], at)
        config["mounts"] = _Stage(directory, launch["config"]["process"], at).lay(config.get("mounts") or [])
    finally:
        os.close(at)
    config["root"] = {**(config.get("root") or {}), "path": root}
    _write(f"{directory}/bundle", plain_config(config))
    return f"{directory}/bundle"


def plain_config(config: dict[str, Any]) -> dict[str, Any]:
    """config.json without our extensions and newer fields. SpawnFailed for one that has no other form."""
    plain = {name: value for name, value in config.items() if name not in ("dockyard", "domainname")}
    if (config.get("dockyard") or {}).get("init"):
        raise SpawnFailed("--init works with the runtime dockyard only")
    plain["ociVersion"] = _VERSION
    linux = plain["linux"] = dict(config["linux"])
    if any(entry["type"] == "user" for entry in linux.get("namespaces") or []):
        raise SpawnFailed("user namespaces work with the runtime dockyard only (--userns=host does without)")
    group = linux.get("cgroupsPath") or ""
    linux["cgroupsPath"] = group if is_notation(group) else "/" + group.strip("/")
    if is_notation(group):  # crun: limits on the scope itself, where updates go, too
        plain["annotations"] = {**(plain.get("annotations") or {}), "run.oci.systemd.subgroup": ""}
    resources = linux.get("resources") or {}
    if ((resources.get("pids") or {}).get("limit") or 0) <= 0:  # crun writes -1 as it is, and the kernel refuses
        linux["resources"] = {name: value for name, value in resources.items() if name != "pids"}
    if config.get("domainname"):  # a field only since version 1.1
        linux["sysctl"] = {**(linux.get("sysctl") or {}), "kernel.domainname": config["domainname"]}
    return plain


def plain_process(spec: dict[str, Any], root: int) -> dict[str, Any]:
    """A `process` with the user as numbers, found beneath `root`, and HOME. program.ProgramFailed."""
    uid, gid, groups, home = program.resolve_user(spec, root)
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
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as file:
        fields = next(line.split() for line in file if line.split(None, 1)[0] == number)
    point = fields[4].encode("utf-8", "surrogateescape").decode("unicode_escape").encode("latin-1")
    mounts.mount("", os.fsdecode(point), "", abi.MS_PRIVATE)


class _Stage:
    """Mounts that are made here and bound from here by the runtime."""

    def __init__(self, directory: str, spec: dict[str, Any], root: int) -> None:
        self._directory = f"{directory}/mounts"
        self._process = spec
        self._root = root

    def lay(self, entries: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """The mounts as the runtime is to make them."""
        return [self._lay_one(index, entry) for index, entry in enumerate(entries)]

    def _lay_one(self, index: int, entry: dict[str, Any]) -> dict[str, Any]:
        own = entry.get("dockyard") or {}
        if not own and not owners.is_mapped(entry):
            return entry
        os.makedirs(self._directory, 0o700, exist_ok=True)
        if "image" in own:
            self._lay_image(index, entry)
            options = ["rbind", "ro", "rprivate"]
        else:
            self._lay_bind(index, entry)
            options = [option for option in entry.get("options") or [] if option not in ("idmap", "ridmap")]
        source = f"{self._directory}/{index}"
        return {"destination": entry["destination"], "type": "bind", "source": source, "options": options}

    def _lay_image(self, index: int, entry: dict[str, Any]) -> None:
        stage = os.open(self._directory, _PATH | os.O_DIRECTORY)
        try:
            rootfs.mount_image(stage, {**entry, "destination": f"/{index}"})
        finally:
            os.close(stage)
            os.chdir(os.path.dirname(self._directory))

    def _lay_bind(self, index: int, entry: dict[str, Any]) -> None:
        options, own = entry.get("options") or [], entry.get("dockyard") or {}
        tree = open_bind_source(entry, "rbind" in options)
        if owners.is_mapped(entry):
            owners.map_tree(tree, entry, self._process, self._root, "ridmap" in options)
        if own.get("chown"):
            uid, gid, _, _ = program.resolve_user(self._process, self._root)
            given = open_bind_source(entry, False)
            owners.give(given, uid, gid)
            os.close(given)
        path = f"{self._directory}/{index}"
        if stat.S_ISDIR(os.fstat(tree).st_mode):
            os.makedirs(path, 0o700, exist_ok=True)
        else:
            os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600))
        target = os.open(path, _PATH)
        mounts.move_mount(tree, target)
        os.close(target)
        os.close(tree)
