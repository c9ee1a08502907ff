"""What is asked of the builder beside its options, and how a build fails.

Owns: `BuildRequest`, `BuildFailed`. Does not own: the options themselves (`model.build`).
"""

from __future__ import annotations

import socket
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field

from dockyard.model.build import BuildOptions
from dockyard.model.errors import DockyardError, ErrorKind
from dockyard.proto.dockerconfig import Credentials

Agent = Callable[[], Awaitable[socket.socket]]  # a fresh connection to a client's ssh agent, non-blocking


@dataclass(frozen=True)
class BuildRequest:
    """One build. Values of secrets are never shown."""

    options: BuildOptions
    dockerfile_text: bytes | None = None  # instead of `options.dockerfile` of the context
    context_id: str = ""  # what `Builds.receive` gave, instead of a body
    remote: str = ""  # a git or http URL, instead of a body
    contexts: Mapping[str, str] = field(default_factory=dict)  # named contexts that are directories: context ids
    secrets: Mapping[str, bytes] = field(default_factory=dict, repr=False)
    ssh: Mapping[str, Agent] = field(default_factory=dict, repr=False)
    credentials: Mapping[str, Credentials] = field(default_factory=dict, repr=False)  # by registry
    build_id: str = ""  # by which it can be cancelled


class BuildFailed(DockyardError):
    """A step failed. `exit_code`: of a RUN's program, None for others."""

    kind = ErrorKind.INVALID

    def __init__(self, message: str, exit_code: int | None = None) -> None:
        super().__init__(message)
        self.exit_code = exit_code
