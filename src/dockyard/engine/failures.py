"""Why a program could not be run, in the words of Docker.

Owns: the sentence around the runtime's reason, which clients search for the exit code that they end with. Does not own:
the reasons (`runtime.program`, `linux.passwd`).
"""

from __future__ import annotations

from typing import Final

from dockyard.runtime.link import StartFailed

CREATE: Final = "failed to create task for container: OCI runtime create failed: unable to start container process"
EXEC: Final = "OCI runtime exec failed: exec failed: unable to start container process"
# Docker looks users up by itself, before it asks a runtime.
_LOOKUPS: Final = ("unable to find user ", "unable to find group ", "uids and gids must be in range ")


def is_lookup(error: StartFailed) -> bool:
    """Whether the user or group that was asked for is the reason."""
    return str(error).startswith(_LOOKUPS)


def told(error: StartFailed, stage: str) -> str:
    """The reason as clients are told it; `stage`: CREATE or EXEC."""
    return str(error) if is_lookup(error) else f"{stage}: {error}: unknown"
