"""Where a builder's blocking work runs: small work in a thread of the daemon, large work in a worker process.

Owns: that choice. Does not own: the functions. A worker takes some 30 ms until it has imported what it needs; a thread
starts at once, but shares the interpreter with everything else.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, Final

from dockyard.store import inline
from dockyard.store.builds.spool import SpoolTree

if TYPE_CHECKING:
    from dockyard.engine.builds.ground import Ground

SMALL_ENTRIES: Final = 200
SMALL_BYTES: Final = 8 << 20


def is_small(paths: list[str], entries: int = SMALL_ENTRIES, size: int = SMALL_BYTES) -> bool:
    """Whether the trees at `paths` have few entries and few bytes together. Looks at no more than that many."""
    waiting = list(paths)
    while waiting:
        try:
            with os.scandir(waiting.pop()) as found:
                for entry in found:
                    entries -= 1
                    if entry.is_dir(follow_symlinks=False):
                        waiting.append(entry.path)
                    else:
                        size -= entry.stat(follow_symlinks=False).st_size
                    if entries < 0 or size < 0:
                        return False
        except NotADirectoryError:
            continue
        except OSError:
            return False
    return True


async def call(ground: Ground, function: str, arguments: dict[str, Any], *, small: bool) -> Any:
    """Run a worker function where it belongs. A context's spool among the arguments is told to a worker by its
    directory."""
    if small:
        return await inline.call(function, arguments)
    return await ground.context.runtime.call(function, _for_worker(arguments))


def _for_worker(value: Any) -> Any:
    if isinstance(value, SpoolTree):
        value.save()
        return value.directory
    if isinstance(value, dict):
        return {key: _for_worker(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_for_worker(inner) for inner in value]
    return value
