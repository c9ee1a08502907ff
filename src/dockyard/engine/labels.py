"""SELinux labels: which container gets which, and which files are labelled when.

Owns: `Labelling`: drawing labels at creation, giving their level back at removal, what is relabelled before a start.
Does not own: labels as values (`model.selinux`), writing them (`runtime.relabelling`), putting processes and mounts
under them (`runtime.init`).

Labels are of the container's row: they stay the same over restarts of the container and of the daemon, and hold where
the daemon's option has been switched off since. A kernel without SELinux gets none of them.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from dockyard.model.container import HostConfig
from dockyard.model.errors import InvalidArgument
from dockyard.model.mounts import MountPoint, label_options
from dockyard.model.selinux import Labels, Levels, make_labels, same_options
from dockyard.model.selinux import label_options as security_labels
from dockyard.runtime import relabelling
from dockyard.runtime.relabelling import Policy
from dockyard.store.inline import Call
from dockyard.store.layout import Layout

if TYPE_CHECKING:
    from dockyard.engine.container import Container, Registry
    from dockyard.engine.context import Context

_RELABEL: Final = "dockyard.runtime.relabelling:relabel"
NONE: Final = "SELinux is not supported"
OFF: Final = "SELinux is off (--selinux-enabled switches it on)"


class Labelling:
    """One per engine."""

    def __init__(self, policy: Policy = Policy()) -> None:  # noqa: B008
        self._contexts = policy.contexts
        self._kernel = policy.kernel
        self._levels = Levels(secrets.randbelow)

    @property
    def enabled(self) -> bool:
        """Whether new containers get labels."""
        return self._contexts is not None

    @property
    def layers(self) -> str:
        """The label of files in the store; "" for none. The kernel looks at it beneath the label of an overlay, when a
        program maps its file (mprotect(2))."""
        return str(self._contexts.layers) if self._contexts is not None else ""

    def draw(self, host: HostConfig) -> Labels:
        """Labels for a new container, with a level that no other one has; `release` gives it back.

        InvalidArgument in Docker's words, or naming a label that the policy does not know.
        """
        if self._contexts is None:
            return Labels()
        options = security_labels(host.security_opt or ()) or (["disable"] if host.privileged else [])
        labels = make_labels(self._contexts, options, self._levels)
        for label in labels:
            if label and not relabelling.known(label):
                self.release(labels.process)
                raise InvalidArgument(f"invalid SELinux label {label}: the policy does not know it")
        return labels

    def reserve(self, process_label: str) -> None:
        """The level of a container that was there before is in use."""
        self._levels.reserve(process_label)

    def release(self, process_label: str) -> None:
        """Its container is gone."""
        self._levels.release(process_label)

    def of(self, container: Container) -> Labels:
        """Those that a container runs under. A privileged one's processes have none, whatever was asked for."""
        if not self._kernel:
            return Labels()
        spec = container.spec
        return Labels("" if spec.host.privileged else spec.process_label, spec.mount_label)

    def warnings(self, host: HostConfig, mounts: Iterable[MountPoint]) -> list[str]:
        """What of a new container's settings has no effect, because it gets no labels."""
        if self.enabled:
            return []
        why, found = OFF if self._kernel else NONE, []
        if labelled := label_options(mounts):
            found.append(f"{why}: options z and Z have no effect on {', '.join(labelled)}")
        options = [option for option in security_labels(host.security_opt or ()) if option != "disable"]
        if options:
            found.append(f"{why}: {', '.join(f'label={option}' for option in options)} has no effect")
        return found


def implied_options(host: HostConfig, registry: Registry) -> list[str]:
    """The labels that other settings of a new container bring along, as options of `--security-opt`; Docker's rules.

    Who sees the host's processes or IPC has none; who sees another container's has that one's. `host` names containers
    by their ids. InvalidArgument if those are two different ones.
    """
    if any(option.partition("=")[0] == "label" for option in host.security_opt or ()):
        return []
    if host.privileged or "host" in (host.ipc_mode, host.pid_mode):
        return ["label=disable"]
    found = []
    for mode in (host.ipc_mode, host.pid_mode):
        other = registry.find(mode.removeprefix("container:")) if mode.startswith("container:") else None
        if other is not None and (options := same_options(other.spec.process_label)):
            found.append(options)
    if len(found) == 2 and found[0] != found[1]:
        raise InvalidArgument("--ipc and --pid containers SELinux labels aren't the same")
    return found[0] if found else []


async def label_store(labels: Labelling, snapshots: Path, call: Call) -> None:
    """Label the layers, at the daemon's start: what is made there later gets that of its directory. The first time this
    takes as long as there are files."""
    if labels.layers:
        item = {"path": str(snapshots), "label": labels.layers, "tree": True, "done": True}
        await call(_RELABEL, {"items": [item], "keep": []})


async def label_files(context: Context, container: Container) -> None:
    """Before a start: label what is bound into a container as its settings say. InvalidArgument, SystemFailure.

    Files of our own for it alone get its label; volumes, and what others use too, the shared one; a bind of the host's
    only with z (shared) or Z. Layers in an overlay are not touched: that mount has the label.
    """
    labels = context.labels.of(container)
    if not labels.mount:
        return
    relabelling.relabel(fds=(), items=_own_files(context, container, labels), keep=[])
    items = _mounted(context, container, labels)
    rootfs: Any = context.snapshots.rootfs(container.id)
    if rootfs["type"] == "directory":
        items.append({"path": rootfs["path"], "label": labels.mount, "tree": True, "done": True})
    await relabel(context, items)


async def relabel(context: Context, items: list[dict[str, Any]]) -> None:
    """See `runtime.relabelling.relabel`; trees may be large, so a worker does it."""
    if not items:
        return
    keep = [str(context.layout.data_root), str(context.layout.exec_root)]
    await context.runtime.call(_RELABEL, {"items": items, "keep": keep})


def _own_files(context: Context, container: Container, labels: Labels) -> list[dict[str, Any]]:
    mode = container.host.network_mode
    other = context.registry.find(mode.removeprefix("container:")) if mode.startswith("container:") else None
    files, label = other or container, labels.mount if other is None else labels.shared
    return [{"path": path, "label": label} for path in (files.resolv_path, files.hostname_path, files.hosts_path)]


def _mounted(context: Context, container: Container, labels: Labels) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    for point in container.mounts:
        options = point.mode.split(",")
        label = labels.mount if "Z" in options else labels.shared
        if point.type == "volume":
            found.append({"path": point.source, "label": label, "tree": True})
        elif point.type == "bind" and {"z", "Z"} & set(options):
            found.append({"path": point.source, "label": label, "tree": True, "theirs": True})
    return found


def bound_files(mounts: Iterable[dict[str, Any]], labels: Labels, layout: Layout) -> list[dict[str, Any]]:
    """What is to be labelled of the binds of a build's step, whose sources are all ours: contexts and caches are
    shared, what the client has given and what is thrown away is the step's own. Layers have their label."""
    found = []
    for mount in mounts:
        source = mount["source"]
        if mount["type"] != "bind" or (source.startswith(f"{layout.snapshots}/") and "ro" in mount["options"]):
            continue
        label = labels.shared if source.startswith(f"{layout.builds}/") else labels.mount
        found.append({"path": source, "label": label, "tree": True})
    return found


async def label_step(context: Context, container_id: str, items: list[dict[str, Any]], labels: Labels) -> None:
    """Before a build's step: what is bound into it (`bound_files`), and its root where that is a copy of its own."""
    if not labels.mount:
        return
    rootfs: Any = context.snapshots.rootfs(container_id)
    if rootfs["type"] == "directory":
        items.append({"path": rootfs["path"], "label": labels.mount, "tree": True})
    await relabel(context, items)


async def label_result(context: Context, container_id: str) -> None:
    """What a step has written is about to be a layer: others must be able to read it."""
    if context.labels.layers:
        written = str(context.snapshots.writable(container_id))
        await relabel(context, [{"path": written, "label": context.labels.layers, "tree": True}])
