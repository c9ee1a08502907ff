"""`--storage-opt` of the daemon: options of storage drivers.

Owns: which there are, and what they mean for a driver. Does not own: whether a file system can do that (`store`), the
options of a container (`engine.creation`). Pure.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

from dockyard.model.errors import InvalidArgument
from dockyard.proto.units import parse_size

# option -> the driver that it is for
_SIZES: Final = {"overlay2.size": "overlay", "overlay.size": "overlay", "btrfs.size": "btrfs"}
_ACCEPTED: Final = ("overlay2.override_kernel_check",)  # and without effect, as with Docker


def parse(options: Iterable[str]) -> dict[str, str]:
    """Option → value; of one that is given twice the last holds. InvalidArgument naming what is none, or its value."""
    found = {}
    for option in options:
        key, separator, value = (part.strip() for part in option.partition("="))
        if not separator or not key:
            raise InvalidArgument(f"Unable to parse key/value option: {option}")
        if key.lower() not in (*_SIZES, *_ACCEPTED):
            raise InvalidArgument(f"storage-opt: unknown option {key}")
        if key.lower() in _SIZES:
            try:
                parse_size(value)
            except ValueError as error:
                raise InvalidArgument(f"storage-opt {key}: {error}") from None
        found[key.lower()] = value
    return found


def container_size(options: Mapping[str, str], driver: str) -> int:
    """Bytes that a container may write which names no size itself, 0: any. InvalidArgument for another driver's."""
    size = 0
    for key, value in options.items():
        if key not in _SIZES:
            continue
        if _SIZES[key] != driver:
            raise InvalidArgument(f"storage-opt: unknown option {key} for the storage driver {driver}")
        size = parse_size(value)
    return size
