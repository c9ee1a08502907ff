"""SELinux labels on the host's side: which contexts the policy has for containers, and files that get new ones.

Owns: finding the policy's contexts at the daemon's start, `relabel` (a worker function). Does not own: which container
gets which label and which of its files (`engine.labels`), labels of mounts and processes (`runtime.init`).

Nothing is followed: a directory is held by a descriptor while its entries are labelled, the top comes last, so that a
tree whose top has its label is done.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

from dockyard.linux import selinux
from dockyard.linux.walking import walk
from dockyard.model.errors import DockyardError, SystemFailure
from dockyard.model.selinux import FALLBACKS, Contexts, check_relabelling, parse_contexts, policy_type
from dockyard.runtime import hostfiles

_OWN_FILE: Final = "/usr/share/containers/selinux/contexts"  # of container-selinux
_CONFIG: Final = "/etc/selinux/config"
_UNLABELLED: Final = (errno.ENOTSUP, errno.EROFS)


class Policy(NamedTuple):
    """What there is of SELinux for containers, and a sentence on what was wanted and is not there."""

    kernel: bool = False  # the kernel has it, with a policy
    contexts: Contexts | None = None  # None: new containers get no labels
    warning: str = ""


def find_policy(wanted: bool) -> Policy:
    """`wanted`: whether the daemon is to label containers."""
    kernel = selinux.enabled()
    if not wanted:
        return Policy(kernel)
    if not kernel:
        return Policy(warning="could not enable SELinux: this kernel has none, or no policy is loaded")
    contexts = find_contexts()
    if contexts is None:
        return Policy(True, warning="could not enable SELinux: the policy has no contexts for containers")
    permissive = "SELinux is permissive: what containers must not do is logged, not refused"
    return Policy(True, contexts, "" if selinux.enforcing() else permissive)


def known(label: str) -> bool:
    """Whether the loaded policy knows this context."""
    return selinux.known(label)


def find_contexts() -> Contexts | None:
    """What the loaded policy has for containers; None if it knows none of what may be meant."""
    policy = policy_type(hostfiles.text(_CONFIG)) or "targeted"
    files = (_OWN_FILE, f"/etc/selinux/{policy}/contexts/lxc_contexts")
    candidates = [parse_contexts(hostfiles.text(path)) for path in files]
    for found in (*candidates, *FALLBACKS):
        if found is not None and all(selinux.known(str(context)) for context in found):
            return found
    return None


def relabel(*, fds: Sequence[int], items: list[dict[str, Any]], keep: list[str]) -> None:
    """Worker: give files labels.

    Each of `items`: `path`, `label`; `tree`: with everything below; `done`: not if the top has its label already;
    `theirs`: a path of the host, which is not allowed for system directories and for `keep`. What cannot carry a label
    is passed over. InvalidArgument, SystemFailure in Docker's words.
    """
    for item in items:
        try:
            _relabel(item, keep)
        except DockyardError:
            raise
        except OSError as error:
            raise SystemFailure(
                f"error setting label on mount source '{item['path']}': {os.strerror(error.errno or 0).lower()}"
            ) from error


def _relabel(item: dict[str, Any], keep: list[str]) -> None:
    at = os.open(item["path"], os.O_PATH | os.O_CLOEXEC)
    try:
        place, label = f"/proc/self/fd/{at}", item["label"]
        if item.get("theirs"):
            check_relabelling(os.readlink(place), [os.path.realpath(path) for path in keep])
        if item.get("done") and _context(place) == label:
            return
        if item.get("tree") and stat.S_ISDIR(os.fstat(at).st_mode):
            _below(at, label)
        _set_followed(place, label)
    finally:
        os.close(at)


def _below(directory: int, label: str) -> None:
    for found in walk(".", dir_fd=directory):
        for name in found.names:
            _set(f"/proc/self/fd/{found.fd}/{os.fsdecode(name)}", label)
        if found.path:
            _set_followed(f"/proc/self/fd/{found.fd}", label)


def _set(path: str, label: str) -> None:
    """Of an entry, not of what a link leads to. One that somebody has removed meanwhile is no error."""
    try:
        if selinux.file_context(path) != label:
            selinux.set_file(path, label)
    except OSError as error:
        if error.errno not in (errno.ENOENT, *_UNLABELLED):
            raise


def _context(place: str) -> str:
    """Of what a descriptor stands for."""
    try:
        return os.getxattr(place, selinux.XATTR).rstrip(b"\0").decode(errors="replace")
    except OSError:
        return ""


def _set_followed(place: str, label: str) -> None:
    try:
        if _context(place) != label:
            os.setxattr(place, selinux.XATTR, label.encode() + b"\0")
    except OSError as error:
        if error.errno not in _UNLABELLED:
            raise
