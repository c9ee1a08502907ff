"""Which addresses the default bridge has.

Owns: the options of the default bridge and the choice of its subnet: what the options say, else what an existing bridge
has, else what was chosen before, else a range that the host does not use. Does not own: making the bridge.
"""

from __future__ import annotations

import ipaddress
from ipaddress import IPv4Interface, IPv4Network
from typing import Any

from msgspec import Struct
from msgspec.structs import replace

from dockyard.model.errors import InvalidArgument, SystemFailure
from dockyard.proto import netplan
from dockyard.store.networks import NetworkRow

_RESOLV_CONF = "/etc/resolv.conf"


class BridgeOptions(Struct, frozen=True):
    """How the default network is to be. `name` "none": there is none. `bip`: "172.17.0.1/16", "": chosen."""

    name: str = "dockyard0"
    bip: str = ""
    mtu: int = 1500
    icc: bool = True
    masquerade: bool = True
    pools: tuple[netplan.Pool, ...] = ()  # where its range is chosen from; none: Docker's
    default_ip: str = "0.0.0.0"  # where ports are published when no address is asked for
    host_gateway: str = ""  # what `host-gateway` means; "": the bridge's address


def choose_bridge(
    options: BridgeOptions, row: NetworkRow, fresh: bool, survey: dict[str, Any], resolvers: list[str]
) -> NetworkRow:
    """The row as it should be. `survey`: of `runtime.network_host`; `fresh`: the row is not in the store.

    InvalidArgument for a bad `bip`; SystemFailure when the host uses every default range.
    """
    existing = survey["bridges"].get(options.name)
    ours = not fresh and row.owned and row.bridge == options.name
    interface = _wanted_interface(options)
    if interface is None and existing is not None and not ours:
        interface = next((IPv4Interface(address) for address in existing["addresses"]), None)
    if interface is None and not fresh and row.subnet and _still_good(row, existing, survey, options):
        interface = IPv4Interface(f"{row.gateway}/{row.subnet.partition('/')[2]}")
    if interface is None:
        subnet = netplan.choose_subnet([*_used(survey, options.name), *resolvers], options.pools)
        if subnet is None:
            raise SystemFailure(
                "could not find an available, non-overlapping IPv4 address pool among the defaults to assign to the "
                "network: give one with --bip"
            )
        interface = IPv4Interface((subnet.network_address + 1, subnet.prefixlen))
    chosen: NetworkRow = replace(
        row,
        bridge=options.name,
        owned=ours or existing is None,
        subnet=str(interface.network),
        gateway=str(interface.ip),
        mtu=options.mtu,
        icc=options.icc,
        masquerade=options.masquerade,
        options={} if ours or existing is None else {"mac": existing["mac"]},
    )
    return chosen


def _wanted_interface(options: BridgeOptions) -> IPv4Interface | None:
    if not options.bip:
        return None
    try:
        interface = IPv4Interface(options.bip)
    except ValueError as error:
        raise InvalidArgument(f"invalid bip {options.bip}: {error}") from None
    if "/" not in options.bip or interface.network.prefixlen > 30:
        raise InvalidArgument(f"invalid bip {options.bip}: an address and a prefix of at most 30 bits are needed")
    if interface.ip in (interface.network.network_address, interface.network.broadcast_address):
        raise InvalidArgument(f"invalid bip {options.bip}: it is the address of a network, not of a bridge")
    return interface


def _still_good(row: NetworkRow, existing: Any, survey: dict[str, Any], options: BridgeOptions) -> bool:
    """Whether the range chosen before is nobody else's, and of the pools that are given now; while the bridge is there,
    containers may be using it."""
    if existing is not None:
        return True
    subnet = IPv4Network(row.subnet)
    if options.pools and not any(subnet.subnet_of(pool.network) for pool in options.pools):
        return False
    return not any(subnet.overlaps(IPv4Network(text, strict=False)) for text in _used(survey, options.name))


def _used(survey: dict[str, Any], bridge: str) -> list[str]:
    return [text for text, link in survey["networks"] if link != bridge]


def host_resolvers(path: str = _RESOLV_CONF) -> list[str]:
    """IPv4 nameservers of the host: a range that holds one of them would cut containers off from it."""
    found = []
    try:
        with open(path, errors="replace") as file:
            lines = [line.split() for line in file]
    except OSError:
        return []
    for words in lines:
        if len(words) > 1 and words[0] == "nameserver":
            try:
                found.append(str(ipaddress.IPv4Address(words[1])))
            except ValueError:
                continue  # IPv6, or not an address
    return found
