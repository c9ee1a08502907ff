"""`--publish` and `--expose` texts → ports.

Owns: the grammar `[[ip:]hostPort:]containerPort[/proto]` with ranges and brackets round IPv6, and the long form
`target=80,published=8080,protocol=tcp`. Every error is a ValueError that names the text. Does not own: whether a port
is free, which address "any" is.
"""

from __future__ import annotations

import ipaddress
from typing import NamedTuple

PROTOCOLS = ("tcp", "udp", "sctp")


class Published(NamedTuple):
    """One container port and where it shall appear; `host_port` "" = any, "8000-8010" = any of these."""

    port: str  # "80/tcp"
    host_ip: str
    host_port: str


def parse_range(text: str) -> tuple[int, int]:
    """`80` or `80-90` → (first, last), 0…65535. ValueError otherwise."""
    first, dash, last = text.partition("-")
    low, high = _number(first), _number(last if dash else first)
    if high < low:
        raise ValueError(f"invalid range specified for port: {text}")
    return low, high


def _number(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= 5 and int(text) < 65536):
        raise ValueError(f'"{text}" is not a port number')
    return int(text)


def split_protocol(text: str) -> tuple[str, str]:
    """`80/udp` → (`80`, `udp`); tcp where none is given."""
    port, slash, protocol = text.partition("/")
    return port, protocol.lower() if slash and protocol else "tcp"


def parse_publish(text: str) -> list[Published]:
    """One `--publish` value, ranges expanded. ValueError naming what is wrong."""
    raw, protocol = split_protocol(_standard_form(text))
    host_ip, host, container = _split(raw)
    if not container:
        raise ValueError(f"no port specified: {text}<empty>")
    first, last = _range("containerPort", container)
    if protocol not in PROTOCOLS:
        raise ValueError(f"invalid proto: {protocol}")
    if host_ip:
        host_ip = _address(host_ip)
    if not host:
        return [Published(f"{port}/{protocol}", host_ip, "") for port in range(first, last + 1)]
    host_first, host_last = _range("hostPort", host)
    if first == last and host_first != host_last:
        return [Published(f"{first}/{protocol}", host_ip, f"{host_first}-{host_last}")]
    if last - first != host_last - host_first:
        raise ValueError(f"invalid ranges specified for container and host Ports: {container} and {host}")
    offset = host_first - first
    return [Published(f"{port}/{protocol}", host_ip, str(port + offset)) for port in range(first, last + 1)]


def parse_expose(text: str) -> list[str]:
    """One `--expose` value → `80/tcp` each. ValueError naming the text."""
    if ":" in text:
        raise ValueError(f"invalid port format for --expose: {text}")
    raw, protocol = split_protocol(text)
    try:
        first, last = parse_range(raw)
    except ValueError as error:
        raise ValueError(f"invalid range format for --expose: {text}, error: {error}") from None
    if protocol not in PROTOCOLS:
        raise ValueError(f"invalid proto: {protocol}")
    return [f"{port}/{protocol}" for port in range(first, last + 1)]


def _standard_form(text: str) -> str:
    if "=" not in text:
        return text
    given = {"protocol": "tcp", "target": "", "published": ""}
    for part in text.split(","):
        key, equals, value = part.partition("=")
        if not equals or key not in given:
            raise ValueError(f"invalid publish opts format (should be name=value but got '{part}')")
        given[key] = value
    return f"{given['published']}:{given['target']}/{given['protocol']}"


def _split(raw: str) -> tuple[str, str, str]:
    """→ (ip, host port, container port) as text."""
    if raw.startswith("["):
        address, bracket, rest = raw[1:].partition("]")
        if not bracket or not rest.startswith(":"):
            raise ValueError(f"invalid port specification: {raw}")
        host, _, container = rest[1:].rpartition(":")
        return address, host, container
    parts = raw.split(":")
    if len(parts) == 1:
        return "", "", parts[0]
    if len(parts) == 2:
        return "", parts[0], parts[1]
    return ":".join(parts[:-2]), parts[-2], parts[-1]


def _range(what: str, text: str) -> tuple[int, int]:
    try:
        return parse_range(text)
    except ValueError:
        raise ValueError(f"invalid {what}: {text}") from None


def _address(text: str) -> str:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        raise ValueError(f"invalid IP address: {text}") from None
    return text
