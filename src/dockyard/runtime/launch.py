"""The values that travel between the engine's side of the runtime and a container's monitor.

Owns: the shapes (`Launch`, `ExecSpec`, `ExitRecord`, …) as TypedDicts of plain JSON types, so that the daemon can
build them and the monitor (standard library only, no msgspec) can read them without a second definition.
Does not own: any behaviour.
"""

from __future__ import annotations

from typing import Any, Literal, NotRequired, TypedDict

from dockyard.model.journal import LogSpec


class OverlayRootfs(TypedDict):
    """An overlay of image layers with a writable upper directory.

    Paths of `lower`, `upper`, `work` are relative to `base` (mounted by short relative names: mount(2) cuts its
    options at a page). `lower` is topmost first, as overlayfs wants it.
    """

    type: Literal["overlay"]
    base: str
    lower: list[str]
    upper: str
    work: str


class DirectoryRootfs(TypedDict):
    """A plain directory: the vfs driver, an OCI bundle's `root.path`, a btrfs subvolume."""

    type: Literal["directory"]
    path: str
    owned: NotRequired[bool]  # by the ids of the container's user namespace: not to be mapped
    tree: NotRequired[int]  # a detached copy of it, in this process's descriptors


Rootfs = OverlayRootfs | DirectoryRootfs


class Stdio(TypedDict):
    tty: bool
    open_stdin: bool
    stdin_once: bool
    console_size: list[int] | None  # [height, width]


class RuntimeProgram(TypedDict):
    """Another OCI runtime: its program and what comes before the command on its command line."""

    path: str
    args: list[str]


class Launch(TypedDict):
    """All that a monitor needs to make and run one container.

    `config` is an OCI runtime-spec config.json (root.path is ignored when `rootfs` is given). Namespaces to join are
    in config.linux.namespaces[].path. `network` is runtime.network's plan, or None for no network set-up (host,
    container:, none without even lo is never wanted: a new netns always gets lo up).
    """

    id: str  # 64 hex digits, or an OCI id
    config: dict[str, Any]
    rootfs: Rootfs
    stdio: Stdio
    log: LogSpec | None
    network: dict[str, Any] | None
    state_dir: str  # <exec-root>/containers/<id>, exists, 0700
    bundle: NotRequired[str]  # the directory that hooks are told; the run directory if there is none
    options: NotRequired[dict[str, bool]]  # "pivot", "new_keyring": false where the OCI command was told so
    runtime: NotRequired[RuntimeProgram]  # who makes it, if not we; `config` then has linux.seccomp


class ExecSpec(TypedDict):
    """A process to run in a running container. `process` is an OCI runtime-spec `process` object."""

    id: str
    process: dict[str, Any]
    open_stdin: bool
    own_cgroups: NotRequired[bool]  # the container has a cgroup namespace of its own


class ExitRecord(TypedDict):
    """How a process ended. `code` is 0-255, 128+N for signal N. `finished_at` in ns since the epoch."""

    code: int
    finished_at: int
    oom_killed: bool
    error: str
    timed_out: NotRequired[bool]  # of an exec'd process: it was killed because its time was over


class StartedRecord(TypedDict):
    pid: int  # in the host's pid namespace
    start_time: int  # field 22 of /proc/PID/stat, clock ticks: with pid, the process's identity
    started_at: int  # ns since the epoch
