"""Members of a JSON object of the expected type, for checks that name the field.

Owns: `get`, ranges of ids. Does not own: which members there are (`runtime.oci.configuration`).
"""

from __future__ import annotations

from typing import Any, Final

from dockyard.runtime.oci.errors import OciError


def get(parent: dict[str, Any], name: str, kind: type, field: str = "", *, optional: bool = False) -> Any:
    """A member of the expected type; missing or null with `optional`: an empty one. Raises OciError."""
    value = parent.get(name)
    if value is None:
        if optional:
            return kind()
        raise OciError(f"{field or name}: missing")
    if not isinstance(value, kind):
        raise OciError(f"{field or name}: must be {_NAMES[kind]}")
    return value


_NAMES: Final[dict[type, str]] = {str: "a string", list: "a list", dict: "an object"}


def check_ranges(parent: dict[str, Any], name: str, field: str) -> None:
    """`parent[name]` is a list of LinuxIDMapping, if it is there. Raises OciError."""
    for index, each in enumerate(get(parent, name, list, field, optional=True)):
        numbers = [each.get(key) if isinstance(each, dict) else None for key in ("containerID", "hostID", "size")]
        if not all(isinstance(number, int) and 0 <= number < 2**32 for number in numbers):
            raise OciError(f"{field}[{index}]: containerID, hostID and size are needed")
