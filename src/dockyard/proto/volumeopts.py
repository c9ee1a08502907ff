"""Options of the local volume driver: `type`, `o`, `device`, `size`, as `docker volume create --opt` gives them.

Owns: which there are and which need each other, with Docker's texts; which host a network file system's address names.
Does not own: looking hosts up, mounting. Pure.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final, NamedTuple

from dockyard.model.errors import InvalidArgument
from dockyard.proto.units import parse_size

_KNOWN: Final = frozenset({"type", "o", "device", "size"})
_NEEDS: Final = {"device": ("type",), "type": ("device",), "o": ("device", "type")}
_ADDRESS: Final = re.compile(r"(?:^|,)addr=([^,]+)")


class VolumeMount(NamedTuple):
    """What mount(2) is given. `host`: a name in `options` or `device` to be replaced by an address, "" for none."""

    kind: str
    device: str
    options: str
    host: str = ""


def check(options: Mapping[str, str] | None) -> None:
    """Raises InvalidArgument naming the first option that is wrong, or missing."""
    for name in options or {}:
        if name not in _KNOWN:
            raise InvalidArgument(f'invalid option: "{name}"')
    for name, needed in _NEEDS.items():
        for other in needed if name in (options or {}) else ():
            if other not in (options or {}):
                raise InvalidArgument(f'missing required option: "{other}"')
    size(options)
    if size(options) and mount_of(options):
        raise InvalidArgument('invalid option: "size" limits a directory, not a mount: give it in "o"')


def size(options: Mapping[str, str] | None) -> int:
    """The limit in bytes, 0 for none. InvalidArgument."""
    text = (options or {}).get("size", "")
    if not text:
        return 0
    try:
        return parse_size(text)
    except ValueError as error:
        raise InvalidArgument(str(error)) from None


def mount_of(options: Mapping[str, str] | None) -> VolumeMount | None:
    """What such a volume mounts; None for one that is a directory of its own."""
    given = options or {}
    kind, device, flags = given.get("type", ""), given.get("device", ""), given.get("o", "")
    if not kind and not device:
        return None
    host = ""
    if kind.startswith("nfs"):
        found = _ADDRESS.search(flags)
        host = found[1] if found else ""
    elif kind == "cifs" and device.startswith("//") and not _ADDRESS.search(flags):
        host = device[2:].split("/", 1)[0].split(":", 1)[0]
    return VolumeMount(kind, device, flags, host)


def with_address(mount: VolumeMount, address: str) -> VolumeMount:
    """The kernel resolves no names: `addr=` gets the address of `mount.host`."""
    if _ADDRESS.search(mount.options):
        flags = _ADDRESS.sub(lambda match: match[0].replace(f"addr={match[1]}", f"addr={address}"), mount.options, 1)
    else:
        flags = ",".join(filter(None, (mount.options, f"addr={address}")))
    return mount._replace(options=flags, host="")
