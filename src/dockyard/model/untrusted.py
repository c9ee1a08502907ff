"""JSON out of strange hands.

Owns: `decode`, for which everything that can be wrong with such a text is one kind of error. Does not own: what the
document means, and bodies of requests, which are read as Go reads them (`edge.api.wire`).

msgspec tells two things apart from damaged JSON that its caller does not: text that is not UTF-8 (UnicodeDecodeError)
and nesting beyond the interpreter's stack (RecursionError). Each was once forgotten somewhere.
"""

from __future__ import annotations

from typing import Any, TypeVar, overload

import msgspec

T = TypeVar("T")


@overload
def decode(data: bytes | str) -> Any: ...
@overload
def decode(data: bytes | str, type: type[T]) -> T: ...
def decode(data: bytes | str, type: Any = Any) -> Any:
    """The document as `type`. msgspec.DecodeError (ValidationError is a kind of it) for whatever is no such thing."""
    try:
        return msgspec.json.decode(data, type=type)
    except UnicodeError:
        raise msgspec.DecodeError("the text is not UTF-8") from None
    except RecursionError:
        raise msgspec.DecodeError("exceeded max depth") from None
