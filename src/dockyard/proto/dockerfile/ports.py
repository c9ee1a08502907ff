"""EXPOSE: `[ip:][host:]port[-port][/protocol]` → the ports of the container.

Owns: the grammar, which of the forms the build checks object to. Does not own: publishing.
"""

from __future__ import annotations

import ipaddress
from typing import Final, NamedTuple

from dockyard.proto.dockerfile.errors import Problem, quoted, suggest

PROTOCOLS: Final = ("tcp", "udp", "sctp")


class Exposed(NamedTuple):
    """`ports`: "80/tcp" each. `mapped`: an address or a port of the host was given. `odd_case`: "80/TCP"."""

    ports: tuple[str, ...]
    mapped: bool
    odd_case: bool


def parse(text: str) -> Exposed:
    """One word of EXPOSE. Problem."""
    address, host, container = _split(text)
    container, _, protocol = container.partition("/")
    if not container:
        raise Problem(f"invalid port: {quoted(text)}: no port specified", at=text)
    if protocol and protocol.lower() not in PROTOCOLS:
        problem = f"invalid port: {quoted(text)}: invalid proto: {quoted(protocol)[1:-1]}"
        raise Problem(problem + suggest(protocol, PROTOCOLS), at=text)
    if address:
        _check_address(address, text)
    first, last = _range(container, "containerPort", text)
    if host:
        host_first, host_last = _range(host, "hostPort", text)
        if last - first not in (host_last - host_first, 0):
            problem = f"invalid ranges specified for container and host Ports: {container} and {host}"
            raise Problem(problem, at=text)
    protocol = protocol or "tcp"
    ports = tuple(f"{port}/{protocol.lower()}" for port in range(first, last + 1))
    return Exposed(ports, bool(address or host), protocol != protocol.lower())


def _split(text: str) -> tuple[str, str, str]:
    rest, _, container = text.rpartition(":")
    address, _, host = rest.rpartition(":")
    return address, host, container


def _check_address(address: str, text: str) -> None:
    bare = address[1:-1] if address.startswith("[") and address.endswith("]") else address
    try:
        ipaddress.ip_address(bare)
    except ValueError:
        raise Problem(f"invalid IP address: {quoted(address)[1:-1]}", at=text) from None


def _range(ports: str, what: str, text: str) -> tuple[int, int]:
    first, dash, last = ports.partition("-")
    low, high = _number(first), _number(last if dash else first)
    if low is None or high is None or high < low:
        raise Problem(f"invalid {what}: {quoted(ports)[1:-1]}", at=text)
    return low, high


def _number(text: str) -> int | None:
    if not (text.isascii() and text.isdigit() and len(text) <= 5) or int(text) > 65535:
        return None
    return int(text)
