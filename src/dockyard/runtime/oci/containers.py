"""What the OCI command remembers of a container: a directory <root>/<id>.

Owns: that directory (state.json, config.json, seccomp.bpf, exec.fifo, error.fifo) and the status that follows from it
and from the process. Does not own: making or ending the process (`runtime.oci.launching`).
"""

from __future__ import annotations

import json
import os
import stat
from typing import Any, Final

from dockyard.linux import process
from dockyard.runtime.cgroups import Cgroup, open_cgroup
from dockyard.runtime.oci.configuration import read_json
from dockyard.runtime.oci.errors import OciError

_ID: Final = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_+.-")
SPECIFICATION: Final = "1.3.0"  # the version of the runtime specification that is followed
CREATED, RUNNING, PAUSED, STOPPED = "created", "running", "paused", "stopped"


class Container:
    """One container of `root`. `state` is state.json: pid, start_time, bundle, rootfs, created, cgroup, annotations."""

    def __init__(self, root: str, identity: str) -> None:
        """Raises OciError for an ID that is no plain name."""
        if not identity or not _ID.issuperset(identity) or identity in (".", "..") or len(identity) > 255:
            raise OciError(f"invalid container ID format: {identity!r}")
        self.id = identity
        self.directory = os.path.join(root, identity)
        self.state: dict[str, Any] = {}

    @classmethod
    def load(cls, root: str, identity: str) -> Container:
        """Raises OciError if there is none."""
        container = cls(root, identity)
        if not os.path.isdir(container.directory):
            raise OciError(f"container does not exist: {identity}")
        if os.path.exists(container.file("state.json")):
            container.state = read_json(container.file("state.json"))
        return container

    @classmethod
    def all(cls, root: str) -> list[Container]:
        try:
            names = sorted(os.listdir(root))
        except FileNotFoundError:
            return []
        found = []
        for name in names:
            try:
                container = cls.load(root, name)
            except OciError:
                continue  # not ours, or gone meanwhile
            if container.state:
                found.append(container)
        return found

    def file(self, name: str) -> str:
        return os.path.join(self.directory, name)

    def make_directory(self) -> None:
        """Raises OciError if the ID is taken."""
        os.makedirs(os.path.dirname(self.directory), mode=0o711, exist_ok=True)
        try:
            os.mkdir(self.directory, 0o700)
        except FileExistsError:
            raise OciError(f"container with given ID already exists: {self.id}") from None

    def save(self, state: dict[str, Any]) -> None:
        self.state = state
        write_whole(self.file("state.json"), json.dumps(state).encode())

    @property
    def config(self) -> dict[str, Any]:
        return read_json(self.file("config.json"))

    def seccomp(self) -> bytes | None:
        """The container's compiled filter."""
        try:
            with open(self.file("seccomp.bpf"), "rb") as file:
                return file.read()
        except FileNotFoundError:
            return None

    def status(self) -> str:
        if not self.state or not self._alive():
            return STOPPED
        if os.path.exists(self.file("exec.fifo")):
            return CREATED
        return PAUSED if os.path.exists(self.file("paused")) else RUNNING

    def _alive(self) -> bool:
        """The process with this pid is the one we made, and is no zombie."""
        try:
            with open(f"/proc/{self.state['pid']}/stat", "rb") as file:
                fields = file.read().rpartition(b")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            return False
        return fields[0] not in (b"Z", b"X") and int(fields[19]) == self.state["start_time"]

    def open_process(self) -> int:
        """A pidfd of the container's first process. Raises OciError if it has ended."""
        try:
            return process.open_process(self.state["pid"], self.state["start_time"])
        except (OSError, KeyError):
            raise OciError(f"container not running: {self.id}") from None

    def cgroup(self) -> Cgroup | None:
        path = self.state.get("cgroup")
        return open_cgroup(path) if path else None

    def needed_cgroup(self) -> Cgroup:
        """Raises OciError where a user without root has none."""
        cgroup = self.cgroup()
        if cgroup is None:
            raise OciError(f"container {self.id} has no control group: none was delegated to its user")
        return cgroup

    def document(self) -> dict[str, Any]:
        """The state as the specification has it (runtime.md, State), with runc's additions."""
        status = self.status()
        document: dict[str, Any] = {
            "ociVersion": self.state.get("ociVersion", SPECIFICATION),
            "id": self.id,
            "pid": 0 if status == STOPPED else self.state["pid"],
            "status": status,
            "bundle": self.state.get("bundle", ""),
            "rootfs": self.state.get("rootfs", ""),
            "created": self.state.get("created", ""),
            "owner": "",
        }
        if self.state.get("annotations"):
            document["annotations"] = self.state["annotations"]
        return document

    def forget(self) -> None:
        if not os.path.isdir(self.directory):
            return
        for name in os.listdir(self.directory):
            path = self.file(name)
            if os.path.isdir(path) and not os.path.islink(path):
                os.rmdir(path)  # "root": the mount point, empty outside the container
            else:
                os.unlink(path)
        os.rmdir(self.directory)


def write_whole(path: str, data: bytes, mode: int = 0o600) -> None:
    """Temporary name, rename: a reader sees all of it or nothing. Run-time state, not synced."""
    temporary = f"{path}.tmp"
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, mode)
    try:
        os.write(fd, data)
    finally:
        os.close(fd)
    os.rename(temporary, path)


def is_fifo(path: str) -> bool:
    try:
        return stat.S_ISFIFO(os.lstat(path).st_mode)
    except FileNotFoundError:
        return False
