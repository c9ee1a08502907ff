"""Where hosts.toml lies: certs.d/HOST[:PORT]/, or certs.d/_default/ for registries without one of their own.

Owns: finding and reading it; names of files in it become paths. Does not own: what it says (`proto.hostsfile`).
"""

from __future__ import annotations

import os
from collections.abc import Sequence

from dockyard.model.errors import SystemFailure
from dockyard.proto import hostsfile
from dockyard.proto.hostsfile import Hosts
from dockyard.proto.registries import Place

_NAME = "hosts.toml"
_LIMIT = 1 << 20  # bytes


def read(domain: str, directories: Sequence[str]) -> Hosts:
    """What the administrator has written down for a registry. InvalidArgument, SystemFailure naming the file."""
    for name in dict.fromkeys((domain, _with_underscores(domain), "_default")):
        for directory in directories:
            path = os.path.join(directory, name, _NAME)
            try:
                with open(path, encoding="utf-8") as file:
                    text = file.read(_LIMIT)
            except FileNotFoundError:
                continue
            except (OSError, UnicodeDecodeError) as error:
                raise SystemFailure(f"{path}: {getattr(error, 'strerror', None) or error}") from error
            found = hostsfile.parse(text, domain, path)
            base = os.path.dirname(path)
            server = _absolute(found.server, base) if found.server is not None else None
            return Hosts(server, [_absolute(place, base) for place in found.mirrors])
    return hostsfile.NONE


def _with_underscores(domain: str) -> str:
    """containerd's other spelling of a host with a port: "host_5000_"."""
    host, colon, port = domain.rpartition(":")
    return f"{host}_{port}_" if colon and port.isdigit() else domain


def _absolute(place: Place, base: str) -> Place:
    def at(name: str) -> str:
        return os.path.join(base, name) if name else ""

    files = place.tls
    return place._replace(
        tls=files._replace(
            authorities=tuple(at(name) for name in files.authorities),
            clients=tuple((at(certificate), at(key)) for certificate, key in files.clients),
        )
    )
