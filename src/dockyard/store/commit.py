"""A container's writable layer becomes a layer of its own: what workers do for `Snapshots.commit`.

Owns: `seal` (mount-point stubs taken away, times clamped, tar hashed, recipe written) and, for trees that hold
everything (btrfs, vfs), what has changed since the layer beneath. Does not own: packing an entry (`store.pack`), where
the tree lies and its row (`store.snapshots`).

A *stub* is the empty file or directory that mounting left in the writable layer because the image had none: it is of
the container, not of what was made in it. It goes only if it is still empty, by names opened one by one beneath the
layer's own root, never through a symbolic link (S41); so do directories above it that were only copied up for it.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence
from typing import Any

from dockyard.linux import abi
from dockyard.linux.calls import openat2
from dockyard.linux.walking import walk
from dockyard.model.errors import SystemFailure
from dockyard.store.delta import pack_changes
from dockyard.store.layertree import OPAQUE_XATTR, allowed_xattr
from dockyard.store.mergedtree import Found, MergedTree
from dockyard.store.pack import pack

_RESOLVE = abi.RESOLVE_BENEATH | abi.RESOLVE_NO_SYMLINKS | abi.RESOLVE_NO_MAGICLINKS
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW


def seal(
    *,
    fds: Sequence[int],
    tree: str,
    recipe: str,
    overlay: bool,
    lower: Sequence[str] = (),
    stubs: Sequence[str] = (),
    epoch: int | None = None,
) -> dict[str, Any]:
    """Worker: make `tree`, which nobody changes any more, a layer; its recipe goes into the empty directory `recipe`.

    `lower`: the trees beneath, topmost first (not overlay: the one beneath, with everything). `stubs`: mount points of
    the container. `epoch`: seconds; what is younger gets this time. Returns what `store.unpack.apply` does, and
    "empty": nothing differs from what lies beneath. SystemFailure names the file and the cause.
    """
    try:
        with MergedTree(lower) as below:
            _take_stubs_away(tree, below, stubs, overlay)
        if epoch is not None:
            clamp_times(tree, epoch * 1_000_000_000)
    except OSError as error:
        raise SystemFailure(f"sealing a layer: {error.strerror}") from error
    if overlay or not lower:
        result = pack(fds=(), tree=tree, recipe=recipe, overlay=overlay)
        return {**result, "empty": result["entries"] == 1 and not _is_opaque(tree)}
    result = pack_changes(tree, lower[0], recipe)
    return {**result, "empty": result["entries"] == 0}


def clamp_times(tree: str, latest: int) -> None:
    """No file or directory of `tree` is younger than `latest` (ns) afterwards."""
    for directory in walk(tree):
        for name in directory.names:
            if os.stat(name, dir_fd=directory.fd, follow_symlinks=False).st_mtime_ns > latest:
                os.utime(name, ns=(latest, latest), dir_fd=directory.fd, follow_symlinks=False)
        if os.fstat(directory.fd).st_mtime_ns > latest:
            os.utime(directory.fd, ns=(latest, latest))


def _take_stubs_away(tree: str, below: MergedTree, stubs: Sequence[str], overlay: bool) -> None:
    root = os.open(tree, _DIRECTORY | os.O_CLOEXEC)
    try:
        for stub in sorted(stubs, key=lambda path: -path.count("/")):
            parts = [os.fsencode(part) for part in stub.split("/") if part not in ("", ".")]
            if parts and b".." not in parts:
                _take_stub_away(root, below, parts, overlay)
    finally:
        os.close(root)


def _take_stub_away(root: int, below: MergedTree, parts: list[bytes], overlay: bool) -> None:
    """The stub itself, then upwards each directory that the layer has only because of it."""
    for depth in range(len(parts), 0, -1):
        path = b"/".join(parts[:depth])
        beneath = below.lookup(path)
        if beneath is not None and (not overlay or depth == len(parts)):
            return  # the image has it; (overlay) what it made of that is to be kept
        try:
            parent = openat2(root, b"/".join(parts[: depth - 1]) or b".", _DIRECTORY, 0, _RESOLVE)
        except OSError:
            return  # a symbolic link, or not there: then the stub is elsewhere, or nowhere
        try:
            if not _remove_empty(parent, parts[depth - 1], beneath, exact=depth == len(parts)):
                return
        finally:
            os.close(parent)


def _remove_empty(parent: int, name: bytes, beneath: Found | None, *, exact: bool) -> bool:
    """Remove an empty directory (`exact`: or file) that is as `beneath` has it, or that mounting made; whether."""
    try:
        found = os.stat(name, dir_fd=parent, follow_symlinks=False)
        if stat.S_ISDIR(found.st_mode):
            if not _is_as_made(parent, name, found, beneath, exact=exact):
                return False
            os.rmdir(name, dir_fd=parent)
        elif exact and stat.S_ISREG(found.st_mode) and found.st_size == 0:
            os.unlink(name, dir_fd=parent)
        else:
            return False
    except OSError:
        return False  # not empty, or gone
    return True


def _is_as_made(parent: int, name: bytes, found: os.stat_result, beneath: Found | None, *, exact: bool) -> bool:
    path = f"/proc/self/fd/{parent}/{os.fsdecode(name)}"
    xattrs = {os.fsencode(key) for key in os.listxattr(path, follow_symlinks=False)}
    if any(allowed_xattr(key) for key in xattrs) or OPAQUE_XATTR in xattrs:
        return False
    mode, uid, gid = stat.S_IMODE(found.st_mode), found.st_uid, found.st_gid
    if beneath is None:
        return (uid, gid) == (0, 0) and (mode == 0o755 or (exact and mode == 0o1777))  # a tmpfs's is for everybody
    status = beneath.status
    return stat.S_ISDIR(status.st_mode) and (mode, uid, gid) == (
        stat.S_IMODE(status.st_mode), status.st_uid, status.st_gid,
    )  # fmt: skip


def _is_opaque(tree: str) -> bool:
    try:
        return os.getxattr(tree, OPAQUE_XATTR) == b"y"
    except OSError:
        return False
