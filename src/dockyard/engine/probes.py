"""What the host says about ports and links, asked of its kernel without blocking.

Owns: the questions. Does not own: what follows from the answers (`engine.networks`, `proto.netplan`).
"""

from __future__ import annotations

import ipaddress
import socket

from dockyard.proto import netplan


def link_exists(name: str) -> bool:
    try:
        socket.if_nametoindex(name)
    except OSError:
        return False
    return True


def is_free(proto: str, ip: str, port: int) -> bool:
    """Whether the host lets a port be bound now; the monitor's binding decides."""
    kind = socket.SOCK_DGRAM if proto == "udp" else socket.SOCK_STREAM
    family = socket.AF_INET6 if ipaddress.ip_address(ip).version == 6 else socket.AF_INET
    with socket.socket(family, kind) as probe:
        if family == socket.AF_INET6:
            probe.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        if kind == socket.SOCK_STREAM:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((ip, port))
        except OSError:
            return False
    return True


def is_open(connection: socket.socket) -> bool:
    """Whether the other side, which says nothing by itself, is still there."""
    try:
        return bool(connection.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT))
    except BlockingIOError:
        return True
    except OSError:
        return False


def has_ipv6() -> bool:
    """Whether this host has any IPv6 address to publish on."""
    try:
        with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as probe:
            probe.bind((netplan.ANY6, 0))
        with open("/proc/thread-self/net/if_inet6") as addresses:
            return bool(addresses.readline())
    except OSError:
        return False


def dynamic_ports() -> list[int]:
    """Ports to give out when none is asked for: net.ipv4.ip_local_port_range without the reserved ones."""
    return netplan.dynamic_ports(_sysctl("ip_local_port_range"), _reserved_ports())


def _sysctl(name: str) -> str:
    with open(f"/proc/sys/net/ipv4/{name}") as file:
        return file.read()


def _reserved_ports() -> str:
    try:
        return _sysctl("ip_local_reserved_ports")
    except OSError:
        return ""
