"""`--userns-remap`: which ids of this host the containers' ids are.

Owns: who the option names, its ranges in /etc/subuid and /etc/subgid, ranges for `default`, whether a directory can be
mounted with mapped owners. Does not own: the files' grammar (`proto.subids`), the namespaces (`runtime.users`).
"""

from __future__ import annotations

import grp
import os
import pwd
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from msgspec import Struct

from dockyard.linux import abi, mounts, userns
from dockyard.model.errors import InvalidArgument, SystemFailure
from dockyard.model.idmaps import IDENTITY, MAX_RANGES, IdMap, Range
from dockyard.proto import subids
from dockyard.runtime import hostfiles
from dockyard.runtime.program import ProgramFailed
from dockyard.runtime.users import Users

DEFAULT_USER: Final = "dockremap"  # Docker's, so that both have the same ids
_OVERLAYS: Final = (5, 19)


class Remap(Struct, frozen=True):
    """OCI's `linux.uidMappings` and `gidMappings` of every container that does not ask for the host's ids."""

    uids: list[dict[str, int]]
    gids: list[dict[str, int]]

    def outside(self, uid: int, gid: int) -> tuple[int, int]:
        """The host's numbers. InvalidArgument naming the one that has none."""
        users = Users(self.uids, self.gids, -1)
        try:
            return users.uid(uid), users.gid(gid)
        except ProgramFailed as failed:
            raise InvalidArgument(failed.message) from None

    def through(self, mapping: IdMap) -> IdMap:
        """A mapping of owners whose second numbers are the host's instead of those seen inside. What it leaves as it is
        on disk stays so: the host's ids are nobody's inside. InvalidArgument naming a range that has no place."""
        return IdMap(_through(mapping.uids, self.uids), _through(mapping.gids, self.gids))


def _through(ranges: tuple[Range, ...], mappings: list[dict[str, int]]) -> tuple[Range, ...]:
    if ranges == IDENTITY:
        return ranges
    found: list[Range] = []
    for disk, seen, size in ranges:
        parts = [
            Range(disk + first - seen, each["hostID"] + first - each["containerID"], last - first)
            for each in mappings
            if (first := max(seen, each["containerID"]))
            < (last := min(seen + size, each["containerID"] + each["size"]))
        ]
        if sum(part.size for part in parts) != size:
            raise InvalidArgument(f"ids {seen} to {seen + size - 1} are not all among those of the user namespace")
        found += parts
    return tuple(found)


def resolve(option: str, etc: Path = Path("/etc")) -> Remap | None:
    """The mapping that the option means; None for "" and for root, who cannot be mapped to himself.

    `default`, `user[:group]` or `uid[:gid]`. InvalidArgument naming who does not exist or has no ranges.
    """
    if not option:
        return None
    if option == "default":
        users = groups = {DEFAULT_USER}
        _make_ranges(etc)
    else:
        user, separator, group = option.partition(":")
        users = _user(user)
        groups = users | (_group(group) if separator else set())
    if "root" in users:
        return None
    return Remap(_mapping(etc / "subuid", users), _mapping(etc / "subgid", groups))


def _user(name: str) -> set[str]:
    try:
        found = pwd.getpwuid(int(name)) if name.isdecimal() else pwd.getpwnam(name)
    except KeyError:
        raise InvalidArgument(f"--userns-remap: user {name!r} does not exist") from None
    return {found.pw_name, str(found.pw_uid)}


def _group(name: str) -> set[str]:
    try:
        found = grp.getgrgid(int(name)) if name.isdecimal() else grp.getgrnam(name)
    except KeyError:
        raise InvalidArgument(f"--userns-remap: group {name!r} does not exist") from None
    return {found.gr_name, str(found.gr_gid)}


def _mapping(path: Path, owners: set[str]) -> list[dict[str, int]]:
    try:
        found = subids.mapping(subids.ranges(hostfiles.text(path), owners))
    except InvalidArgument as error:
        raise InvalidArgument(f"Can't create ID mappings: {path}: {error}") from None
    if len(found) > MAX_RANGES:
        raise InvalidArgument(f"Can't create ID mappings: {path}: more than {MAX_RANGES} ranges")
    if not found:
        listed = ", ".join(sorted(owners))
        raise InvalidArgument(f"Can't create ID mappings: no {path.name} ranges found for {listed} in {path}")
    return found


def _make_ranges(etc: Path) -> None:
    """Ranges for DEFAULT_USER, behind everybody else's, where there are none. SystemFailure if they cannot be kept."""
    files = [etc / "subuid", etc / "subgid"]
    start = subids.free_start(*map(hostfiles.text, files))
    for path in files:
        text = hostfiles.text(path)
        if any(line.startswith(f"{DEFAULT_USER}:") for line in text.splitlines()):
            continue
        line = ("\n" if text and not text.endswith("\n") else "") + f"{DEFAULT_USER}:{start}:{subids.SIZE}\n"
        try:
            fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
            try:
                os.write(fd, line.encode())
            finally:
                os.close(fd)
        except OSError as error:
            raise SystemFailure(f"--userns-remap=default: {path}: {error.strerror}") from error


def probe(*, fds: list[int], path: str, uids: list[dict[str, int]], gids: list[dict[str, int]]) -> Mapping[str, Any]:
    """A worker: can `path` be mounted with mapped owners? {"error": why not, or ""}."""
    if tuple(map(int, re.findall(r"\d+", os.uname().release)[:2])) < _OVERLAYS:
        return {"error": "Linux {}.{} is needed for overlays of such mounts".format(*_OVERLAYS)}
    ranges = [[(each["containerID"], each["hostID"], each["size"]) for each in side] for side in (uids, gids)]
    try:
        namespace = userns.open_mapping(*ranges)
        tree = mounts.open_tree(abi.AT_FDCWD, path, recursive=False)
        mounts.set_attributes(tree, abi.MOUNT_ATTR_IDMAP, userns=namespace)
    except OSError as error:
        return {"error": os.strerror(error.errno or 0).lower()}
    return {"error": ""}
