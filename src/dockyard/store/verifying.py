"""Looking whether what is stored is still what its name says.

Owns: worker functions that read a blob, or make a layer's tar again, and hash it. Does not own: what is done about it
(`engine.checking`). Neither changes anything.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from typing import Any

from dockyard.proto.tarformat import TarError
from dockyard.proto.tarread import StreamError
from dockyard.store.bytestream import CHUNK
from dockyard.store.recipe import rebuild


def blob(*, fds: Sequence[int], path: str, digest: str) -> dict[str, Any]:
    """{"problem"}: "" if the file's SHA-256 is `digest`."""
    hasher = hashlib.sha256()
    try:
        with open(path, "rb", buffering=0) as file:
            while data := file.read(CHUNK):
                hasher.update(data)
    except FileNotFoundError:
        return {"problem": ""}  # removed meanwhile; whether anything misses it is another question
    except OSError as error:
        return {"problem": f"cannot be read: {error.strerror}"}
    found = f"sha256:{hasher.hexdigest()}"
    return {"problem": "" if found == digest else f"its content has the digest {found}"}


def layer(*, fds: Sequence[int], tree: str, recipe: str, diff_id: str) -> dict[str, Any]:
    """{"problem"}: "" if the layer's tar, made anew of its files, is the one that `diff_id` names."""
    hasher = hashlib.sha256()
    try:
        rebuild(recipe, tree, hasher.update)
    except OSError as error:
        return {"problem": f"{os.fsdecode(error.filename or '')}: {error.strerror}".removeprefix(": ")}
    except (StreamError, TarError, ValueError) as error:
        return {"problem": str(error)}
    found = f"sha256:{hasher.hexdigest()}"
    return {"problem": "" if found == diff_id else "the content of its files has changed"}
