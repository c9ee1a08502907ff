"""How a command of the client ends badly.

Owns: the exceptions that end a command, and the one table of exit codes. A message is one sentence that names the
thing; `main` prints it as `dockyard: MESSAGE` on stderr and no traceback is ever shown.
"""

from __future__ import annotations

FAILED = 1
BAD_USAGE = 125  # a flag that does not exist or does not take this value: as docker's, for every command
DAEMON_FAILED = 125  # `run`: the daemon refused, so the number is no container's
NOT_EXECUTABLE = 126
NOT_FOUND = 127
SIGNALLED = 128  # + the signal's number


class CliError(Exception):
    """Ends the command with `code`. An empty message prints nothing (everything has been said)."""

    def __init__(self, message: str, code: int = FAILED, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.code = code
        self.hint = hint  # printed below, on lines of its own


class ApiError(CliError):
    """The daemon answered with an error. `status`: the HTTP status."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(f"Error response from daemon: {message}")
        self.status = status
        self.reason = message


class NotReachable(CliError):
    """No daemon answers at the address."""


def run_code(error: CliError) -> int:
    """The exit code of `run` for a failed create or start: 127 no such command, 126 not executable, else 125."""
    text = error.message.lower()
    if "executable file not found" in text or "no such file or directory" in text or "system cannot find" in text:
        return NOT_FOUND if isinstance(error, ApiError) else DAEMON_FAILED
    if "permission denied" in text or "is a directory" in text:
        return NOT_EXECUTABLE if isinstance(error, ApiError) else DAEMON_FAILED
    return DAEMON_FAILED
