"""The closed set of kinds of error that may leave the engine.

Owns: `ErrorKind`, `DockyardError` and one subclass a kind. Every error that crosses from a lower room into `edge`
is one of these; kind -> HTTP status (`edge.server`) and kind -> exit code (`edge.cli`) are one table each. Anything
else that arrives there is a bug and is reported as such, without a traceback to the client.
Does not own: the texts of single errors (they are written where the error is raised, in Docker's words where clients
match on them; tests/unit/test_texts.py holds the goldens).
"""

from __future__ import annotations

import errno
import os
from enum import Enum
from typing import Final

# As Go says it, and so Docker: programs look for these words in an error to tell a full disk from other failures.
NO_SPACE: Final = "no space left on device"
_AS_GO_SAYS: Final = {os.strerror(errno.ENOSPC): NO_SPACE, os.strerror(errno.EDQUOT): "disk quota exceeded"}
_HOSTS: Final = frozenset(
    {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EAGAIN}
)


class ErrorKind(Enum):
    INVALID = "invalid"  # the request itself is wrong (400)
    UNAUTHORIZED = "unauthorized"  # who are you (401)
    FORBIDDEN = "forbidden"  # not allowed (403)
    NOT_FOUND = "not-found"  # the named thing does not exist (404)
    CONFLICT = "conflict"  # the thing's state or name stands against it (409)
    NOT_MODIFIED = "not-modified"  # it already is as asked (304)
    UNAVAILABLE = "unavailable"  # not now, or not on this node (503)
    NOT_IMPLEMENTED = "not-implemented"  # known, not served (501)
    SYSTEM = "system"  # the host or the engine failed (500)


class DockyardError(Exception):
    """Base of every error that leaves the engine. `str(error)` is the message for the user: it names the thing."""

    kind = ErrorKind.SYSTEM

    def __init__(self, message: str) -> None:
        for said, wanted in _AS_GO_SAYS.items():
            message = message.replace(said, wanted)
        super().__init__(message)
        self.message = message


class InvalidArgument(DockyardError):
    kind = ErrorKind.INVALID


class Unauthorized(DockyardError):
    kind = ErrorKind.UNAUTHORIZED


class Forbidden(DockyardError):
    kind = ErrorKind.FORBIDDEN


class NotFound(DockyardError):
    kind = ErrorKind.NOT_FOUND


class Conflict(DockyardError):
    kind = ErrorKind.CONFLICT


class NotModified(DockyardError):
    kind = ErrorKind.NOT_MODIFIED


class Unavailable(DockyardError):
    kind = ErrorKind.UNAVAILABLE


class NotServed(DockyardError):
    kind = ErrorKind.NOT_IMPLEMENTED


class SystemFailure(DockyardError):
    kind = ErrorKind.SYSTEM


def reason(error: OSError) -> str:
    """What the system said, and of which file if it knows: "No space left on device: /var/lib/…"."""
    said = error.strerror or str(error) or type(error).__name__
    return f"{said}: {os.fsdecode(error.filename)}" if isinstance(error.filename, (str, bytes)) else said


def passes(error: BaseException) -> bool:
    """Whether what failed may succeed unchanged once somebody has made room."""
    return any(lack in str(error) for lack in _LACKS)


_LACKS: Final = (
    *_AS_GO_SAYS.values(),
    *(os.strerror(number) for number in (errno.ENOMEM, errno.EMFILE, errno.ENFILE, errno.EAGAIN)),
)


def of_host(error: OSError) -> SystemFailure | None:
    """What a failure is that nobody has put into words nearer to it: the host lacks something (room, descriptors,
    memory), or its disk has failed. None: it is a bug of ours."""
    return SystemFailure(reason(error)) if error.errno in _HOSTS else None
