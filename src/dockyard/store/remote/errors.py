"""What went wrong at a registry, as errors of the engine.

Owns: reading a registry's error document, status → kind, which failures are worth another try. Does not own: trying.

Texts are those of Docker where clients match them: "manifest unknown", "unauthorized", "toomanyrequests".
"""

from __future__ import annotations

import msgspec
from msgspec import Struct

from dockyard.model import untrusted
from dockyard.model.errors import DockyardError, Forbidden, InvalidArgument, NotFound, Unauthorized, Unavailable

_MAX_TEXT = 1000  # characters of a registry's own words


class Temporary(Unavailable):
    """A failure that another try may mend. `after`: seconds that the registry asked for."""

    def __init__(self, message: str, after: float | None = None) -> None:
        super().__init__(message)
        self.after = after


class TooManyRequests(Temporary):
    """The registry's limit is reached (429)."""


class _Error(Struct):
    code: str = ""
    message: str = ""


class _Errors(Struct):
    errors: list[_Error] | None = None
    details: str = ""
    message: str = ""


def explain(status: int, body: bytes, what: str, retry_after: str = "") -> DockyardError:
    """The error of an answer. `what`: what was asked for, for answers that say nothing ("manifest for x:1")."""
    code, text = _told(body)
    told = f"{code}: {text}" if code and text else code or text
    if status == 429 or code == "toomanyrequests":
        after = float(retry_after) if retry_after.isdecimal() and len(retry_after) < 10 else None
        text = told or f"toomanyrequests: {what}: the registry's rate limit is reached"
        wait = f" (it asks to wait for {after:.0f} seconds)" if after else ""
        return TooManyRequests(text + wait, after)
    if status == 401:
        return Unauthorized(told or "unauthorized: authentication required")
    if status == 403:
        return Forbidden(told or "denied: requested access to the resource is denied")
    if status == 404:
        return NotFound(told or f"{what}: not found")
    if status >= 500 or status in (408, 409):  # 409: an upload whose broken request has not ended there yet
        return Temporary(f"{what}: received unexpected HTTP status: {status}{f' ({told})' if told else ''}")
    return InvalidArgument(told or f"{what}: received unexpected HTTP status: {status}")


def _told(body: bytes) -> tuple[str, str]:
    """(code as Docker's Go prints it, message) of the first error of an answer's body."""
    try:
        document = untrusted.decode(body, _Errors)
    except msgspec.MsgspecError:
        return "", ""
    if document.errors:
        first = document.errors[0]
        return _plain(first.code.lower().replace("_", " ")), _plain(first.message)
    return "", _plain(document.details or document.message)


def _plain(text: str) -> str:
    return "".join(character if character.isprintable() else " " for character in text[:_MAX_TEXT]).strip()
