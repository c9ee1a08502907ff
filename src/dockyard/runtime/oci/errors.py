"""The one error of the OCI command. Owns nothing else."""

from __future__ import annotations


class OciError(Exception):
    """What was asked cannot be done; the message is one line and names the thing. Exit code 1 unless given."""

    def __init__(self, message: str, code: int = 1) -> None:
        super().__init__(message)
        self.message = message
        self.code = code
