"""What a registry answers when it refuses: the closed set of codes.

Owns: codes, their statuses and default messages. Source: OCI distribution-spec 1.1, "Error Codes"; statuses where the
spec leaves them open are those that Docker's registry answers, because clients know them. Does not own: HTTP.
"""

from __future__ import annotations

from typing import Any, Final

from dockyard.model.errors import DockyardError, ErrorKind

CODES: Final[dict[str, tuple[int, str]]] = {
    "BLOB_UNKNOWN": (404, "blob unknown to registry"),
    "BLOB_UPLOAD_INVALID": (400, "blob upload invalid"),
    "BLOB_UPLOAD_UNKNOWN": (404, "blob upload unknown to registry"),
    "DIGEST_INVALID": (400, "provided digest did not match uploaded content"),
    "MANIFEST_BLOB_UNKNOWN": (400, "manifest references a manifest or blob unknown to registry"),
    "MANIFEST_INVALID": (400, "manifest invalid"),
    "MANIFEST_UNKNOWN": (404, "manifest unknown"),
    "NAME_INVALID": (400, "invalid repository name"),
    "NAME_UNKNOWN": (404, "repository name not known to registry"),
    "SIZE_INVALID": (400, "provided length did not match content length"),
    "UNAUTHORIZED": (401, "authentication required"),
    "DENIED": (403, "requested access to the resource is denied"),
    "UNSUPPORTED": (405, "the operation is unsupported"),
    "TOOMANYREQUESTS": (429, "too many requests"),
    "PAGINATION_NUMBER_INVALID": (400, "invalid number of results requested"),
    "UNAVAILABLE": (503, "service unavailable"),
    "UNKNOWN": (500, "unknown error"),
}
_KINDS = {
    400: ErrorKind.INVALID,
    401: ErrorKind.UNAUTHORIZED,
    403: ErrorKind.FORBIDDEN,
    404: ErrorKind.NOT_FOUND,
    405: ErrorKind.NOT_IMPLEMENTED,
    503: ErrorKind.UNAVAILABLE,
}


class RegistryError(DockyardError):
    """One refusal. `others`: further errors of the same answer (several missing blobs of one manifest)."""

    def __init__(
        self,
        code: str,
        message: str = "",
        detail: Any = None,
        *,
        status: int = 0,
        headers: dict[str, str] | None = None,
        others: tuple[RegistryError, ...] = (),
    ) -> None:
        default_status, default_message = CODES[code]
        super().__init__(message or default_message)
        self.code = code
        self.status = status or default_status
        self.detail = detail
        self.headers = headers or {}
        self.others = others
        self.kind = _KINDS.get(self.status, ErrorKind.SYSTEM)

    def document(self) -> dict[str, Any]:
        """The body of the answer."""
        return {"errors": [each.entry() for each in (self, *self.others)]}

    def entry(self) -> dict[str, Any]:
        entry: dict[str, Any] = {"code": self.code, "message": self.message}
        return entry if self.detail is None else entry | {"detail": self.detail}


class Busy(DockyardError):
    """Another request writes to the same upload."""

    kind = ErrorKind.CONFLICT


class WrongOffset(DockyardError):
    """An append does not begin where the upload ends."""

    kind = ErrorKind.INVALID

    def __init__(self, size: int) -> None:
        super().__init__(f"the upload has {size} bytes")
        self.size = size


class WrongDigest(DockyardError):
    """Bytes are not what their digest says."""

    kind = ErrorKind.INVALID
