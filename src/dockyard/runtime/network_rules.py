"""The daemon's nftables table as text for nft.

Owns: the rules for bridges and published ports. Does not own: carrying them out (`runtime.network_host`), the elements
of the maps (`runtime.network`), other people's chains (`runtime.network_firewall`). Pure.

One table for each daemon. Publishing a port adds an element to a map, never a rule:

    ports        protocol . port → address . port               published on every address of the host
    host_ports   protocol . address . port → address . port     published on one address

Published ports pass the host's own rules: the translation happens at the usual place (dstnat), and the packet then
goes through every forward chain like any other; nothing here is accepted on behalf of other tables.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TypedDict

from dockyard.runtime.network import HOST_PORTS, PORTS

_UNSAFE = re.compile(r"[^A-Za-z0-9_]")


class Bridge(TypedDict):
    """A bridge as the rules see it. `subnet` as "172.17.0.0/16"."""

    name: str
    subnet: str
    icc: bool
    masquerade: bool


def table_name(bridge: str, default: str = "dockyard0") -> str:
    """The table of the daemon whose default bridge is `bridge`: several daemons can share a host."""
    return "dockyard" if bridge == default else f"dockyard_{_UNSAFE.sub('_', bridge)}"


def render(table: str, bridges: Sequence[Bridge]) -> str:
    """Make the table or bring it up to date, in one transaction; elements of the maps stay."""
    lines = [
        f"add table ip {table}",
        f"add map ip {table} {PORTS} {{ type inet_proto . inet_service : ipv4_addr . inet_service; }}",
        f"add map ip {table} {HOST_PORTS} {{ type inet_proto . ipv4_addr . inet_service : ipv4_addr . inet_service; }}",
        *(f"add chain ip {table} {name} {{ {hook} policy accept; }}" for name, hook in _BASE_CHAINS),
        f"add chain ip {table} publish",
        f"flush table ip {table}",
        *(f"add rule ip {table} {rule}" for rule in _rules(bridges)),
    ]
    return "\n".join(lines) + "\n"


_BASE_CHAINS = (
    ("early", "type filter hook prerouting priority raw;"),
    ("prerouting", "type nat hook prerouting priority dstnat;"),
    ("output", "type nat hook output priority -100;"),
    ("postrouting", "type nat hook postrouting priority srcnat;"),
    ("forward", "type filter hook forward priority filter;"),
)


def _rules(bridges: Sequence[Bridge]) -> list[str]:
    rules = [
        # Bridges have route_localnet, so that 127.0.0.1:port can be translated; nobody outside may use that.
        'early iifname != "lo" ip daddr 127.0.0.0/8 drop',
        'early iifname != "lo" ip saddr 127.0.0.0/8 drop',
        "prerouting fib daddr type local jump publish",
        "output fib daddr type local jump publish",
        f"publish dnat ip addr . port to meta l4proto . ip daddr . th dport map @{HOST_PORTS}",
        f"publish dnat ip addr . port to meta l4proto . th dport map @{PORTS}",
    ]
    for bridge in bridges:
        rules += _postrouting(bridge) + _forward(bridge)
    return rules


def _postrouting(bridge: Bridge) -> list[str]:
    name, subnet = bridge["name"], bridge["subnet"]
    rules = [
        # The answer must come back through the host: from its 127.0.0.1, and from a neighbour on the same bridge.
        f'postrouting oifname "{name}" ip saddr 127.0.0.0/8 ct status dnat masquerade',
        f'postrouting oifname "{name}" ip saddr {subnet} ct status dnat masquerade',
    ]
    if bridge["masquerade"]:
        rules.append(f'postrouting oifname != "{name}" ip saddr {subnet} masquerade')
    return rules


def _forward(bridge: Bridge) -> list[str]:
    name = bridge["name"]
    rules = [
        f'forward oifname "{name}" ct state established,related accept',
        f'forward oifname "{name}" ct status dnat accept',
    ]
    if bridge["icc"]:
        rules.append(f'forward iifname "{name}" oifname "{name}" accept')
    # Whatever else wants to a container was not published: not from a LAN that has a route, nor another network.
    rules.append(f'forward oifname "{name}" drop')
    return rules
