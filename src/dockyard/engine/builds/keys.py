"""What a step's result depends on, as one digest: the key of the cache.

Owns: how keys are put together. Does not own: what is done with them (`engine.builds.steps`), the digest of chosen
files (`store.builds.selecting`).

A key never contains a name of an image or a time: file systems go in as the digest of their layers, files as what they
contain, with mode, owner and name. Secrets go in by name only.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from msgspec.structs import replace

from dockyard.engine.builds.ground import Tree
from dockyard.proto.dockerfile.ops import CopyOp, Exec, MakeDirectory

_VERSION = b"1"  # raised when results of the same key may differ from those of earlier versions


def of_tree(tree: Tree) -> bytes:
    """What another step's file system is called."""
    return f"chain:{tree.chain or ''}".encode() if tree.is_rootfs else f"tree:{tree.identity}".encode()


def exec_key(op: Exec, inputs: Sequence[bytes], network: str, epoch: int | None, platform: str) -> str:
    """`inputs`: what each is called (`of_tree`), or of a context the digest of what is mounted of it."""
    return _digest([b"exec", op.key(), network.encode(), str(epoch).encode(), platform.encode(), *inputs])


def directory_key(op: MakeDirectory, base: Tree, epoch: int | None) -> str:
    return _digest([b"mkdir", op.key(), str(epoch).encode(), of_tree(base)])


def copy_key(op: CopyOp, base: Tree, files: bytes, epoch: int | None) -> str:
    """`files`: digest of exactly what is copied, or of the trees that it is chosen from."""
    bare = replace(op, sources=tuple(replace(source, input=None) for source in op.sources))
    return _digest([b"copy", bare.key(), str(epoch).encode(), b"" if op.link else of_tree(base), files])


def _digest(parts: Sequence[bytes]) -> str:
    hasher = hashlib.sha256(_VERSION)
    for part in parts:
        hasher.update(len(part).to_bytes(8, "big") + part)
    return hasher.hexdigest()
