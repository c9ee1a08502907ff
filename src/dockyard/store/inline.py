"""Worker functions run in a thread of this process: for embedding, and until there is a runtime to fork workers.

Owns: `call`, with the signature of `runtime.client.Runtime.call`. Does not own: the functions.
"""

from __future__ import annotations

import asyncio
import importlib
import os
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Protocol


class Call(Protocol):
    """Runs `package.module:function(**arguments, fds=fds)` elsewhere and returns its JSON-able result."""

    def __call__(self, function: str, arguments: dict[str, Any], fds: Sequence[int] = ()) -> Awaitable[Any]: ...


async def call(function: str, arguments: dict[str, Any], fds: Sequence[int] = ()) -> Any:
    """Run the function in a thread. A cancelled call runs on to its end: it keeps descriptors of its own."""
    module, _, name = function.partition(":")
    target: Callable[..., Any] = getattr(importlib.import_module(module), name)
    own = [os.dup(fd) for fd in fds]

    def run() -> Any:
        try:
            return target(**arguments, fds=own)
        finally:
            for fd in own:
                os.close(fd)

    work = asyncio.get_running_loop().run_in_executor(None, run)
    work.add_done_callback(lambda done: done.cancelled() or done.exception())  # somebody has to look at it
    return await asyncio.shield(work)  # cancelled before it began, it would never close the descriptors
