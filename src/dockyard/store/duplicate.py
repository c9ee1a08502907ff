"""A layer that is there once more, to lie upon another one.

Owns: the worker function `duplicate`: the layer's tar comes out of its tree and recipe and is unpacked again. Does not
own: either of the two steps (`store.recipe`, `store.unpack`).
"""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from typing import Any

from dockyard.model.errors import SystemFailure
from dockyard.proto.tarformat import TarError
from dockyard.proto.tarread import StreamError
from dockyard.store.bytestream import write_all
from dockyard.store.recipe import rebuild
from dockyard.store.unpack import apply


def duplicate(*, fds: Sequence[int], layer: dict[str, Any], root: str, recipe: str, what: str, overlay: bool) -> Any:
    """Worker: unpack `layer` ({"tree", "recipe"}) into `root` and `recipe`. Returns what `store.unpack:apply` does.

    SystemFailure if the layer is damaged: the digest is the caller's to compare.
    """
    reading, writing = os.pipe2(os.O_CLOEXEC)
    failures: list[Exception] = []

    def write() -> None:
        try:
            rebuild(layer["recipe"], layer["tree"], write_all(writing))
        except BrokenPipeError:
            pass  # the other side has its reasons
        except (OSError, StreamError, TarError) as error:
            failures.append(error)
        finally:
            os.close(writing)

    thread = threading.Thread(target=write, name="duplicate")
    thread.start()
    try:
        return apply(fds=[reading], root=root, recipe=recipe, what=what, overlay=overlay)
    finally:
        os.close(reading)
        thread.join()
        if failures:
            raise SystemFailure(f"{what}: {failures[0]}")
