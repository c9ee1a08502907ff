"""The host's side of networks: bridges, kernel settings, the rules, and the sweep.

Owns: making and removing bridges, the sysctls that they need, bringing the daemon's nftables table up to date, finding
what containers that are gone left behind. Does not own: which networks there are (`engine.networks`), what a start
does (`runtime.network`), the rules' text (`runtime.network_rules`).

Every function takes and returns JSON values: the daemon calls them in a worker (`Runtime.call`).
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Sequence
from typing import Any, TypedDict

from dockyard.linux import rtnetlink
from dockyard.linux.netlink import Netlink
from dockyard.linux.nfnetlink import Element, Elements
from dockyard.linux.nftables import Nft
from dockyard.model.errors import SystemFailure
from dockyard.runtime import network_firewall, network_rules
from dockyard.runtime.network import HOST_PORTS, PORTS, NetworkPlan, discard_ports, elements

VETH_PREFIX = "dyv"


class BridgeSetup(TypedDict):
    """A bridge to have. `address` "172.17.0.1/16"; `owned`: made by us, so it may be changed and removed."""

    name: str
    address: str
    subnet: str
    mac: str
    mtu: int
    icc: bool
    masquerade: bool
    owned: bool


class HostReport(TypedDict):
    """What had to be done, for the log, and what stands in other firewalls, for `info`."""

    messages: list[str]
    notes: list[network_firewall.Note]


def survey(*, fds: Sequence[int] = ()) -> dict[str, Any]:
    """What the host uses: `networks` [(text, link name)], and `bridges` name -> {"mac", "mtu", "addresses"}."""
    with Netlink() as netlink:
        links = {link.ifindex: link for link in rtnetlink.links(netlink)}
        addresses = rtnetlink.addresses(netlink)
        routes = rtnetlink.ipv4_routes(netlink)
    names = {index: link.name for index, link in links.items()}
    used = [(text, names.get(index, "")) for text, index in routes]
    used += [(item.address, names.get(item.ifindex, "")) for item in addresses if ":" not in item.address]
    bridges = {
        link.name: {
            "mac": link.mac,
            "mtu": link.mtu,
            "addresses": [a.address for a in addresses if a.ifindex == link.ifindex and ":" not in a.address],
        }
        for link in links.values()
        if link.kind == "bridge"
    }
    return {"networks": used, "bridges": bridges}


def set_up(*, table: str, bridges: list[BridgeSetup], plans: list[NetworkPlan], fds: Sequence[int] = ()) -> HostReport:
    """Make everything that is missing, leave what is right; `plans` are of running containers (their ports).

    May be called at any time, also with containers running. SystemFailure naming what the host refused.
    """
    messages: list[str] = []
    try:
        with Netlink() as netlink:
            for bridge in bridges:
                _set_up_bridge(netlink, bridge, messages)
        _forwarding(messages)
        _rules(table, bridges, plans)
        notes = network_firewall.accept([table], [bridge["name"] for bridge in bridges])
    except OSError as error:
        raise SystemFailure(f"cannot set up networking: {error.strerror or error}") from error
    return HostReport(messages=messages, notes=notes)


def tear_down(*, table: str, bridges: list[BridgeSetup], fds: Sequence[int] = ()) -> None:
    """Leave the host as it was found: accepts elsewhere, the table, the bridges that are ours."""
    try:
        network_firewall.withdraw([table], [bridge["name"] for bridge in bridges])
        with Nft() as nft:
            nft.run(f"add table ip {table}\ndelete table ip {table}\n")
        with Netlink() as netlink:
            for bridge in bridges:
                if bridge["owned"]:
                    _delete_link(netlink, bridge["name"])
    except OSError as error:
        raise SystemFailure(f"cannot take networking down: {error.strerror or error}") from error


def sweep(
    *, table: str, bridges: list[str], live: list[str], veths: list[str], fds: Sequence[int] = ()
) -> dict[str, list[str]]:
    """Remove veths on our bridges that are none of `veths`, and port elements of none of the `live` container IDs."""
    with Netlink() as netlink:
        links = rtnetlink.links(netlink)
        ours = {link.ifindex for link in links if link.name in bridges}
        stray = [
            link.name
            for link in links
            if link.master in ours and link.name.startswith(VETH_PREFIX) and link.name not in veths
        ]
        for name in stray:
            _delete_link(netlink, name)
    with Elements() as transactions:
        listed = [*transactions.list(table, PORTS), *transactions.list(table, HOST_PORTS)]
    gone = [element for element in listed if element.comment not in live]
    discard_ports(table, gone)
    return {"veths": stray, "ports": [_shown(element) for element in gone]}


def veth_name(container: str, endpoint: str) -> str:
    """The host's end of a connection: 15 characters, of the container's ID first.

    The endpoint's ID is another at every start: the link of the start before lives until the kernel has taken its
    namespace apart, which may be later than the next start.
    """
    return f"{VETH_PREFIX}{container[:7]}{endpoint[:5]}"


def _shown(element: Element) -> str:
    return f"{struct.unpack('!H', element.key[-4:-2])[0]} of {element.comment[:12] or 'nobody'}"


def _set_up_bridge(netlink: Netlink, bridge: BridgeSetup, messages: list[str]) -> None:
    name = bridge["name"]
    link = next((link for link in rtnetlink.links(netlink) if link.name == name), None)
    if link is None:
        netlink.batch([rtnetlink.add_bridge(name, bridge["mac"], bridge["mtu"])])
        messages.append(f"made bridge {name} with {bridge['address']}")
    elif link.kind != "bridge":
        raise OSError(errno.EEXIST, f"network interface {name} exists and is not a bridge")
    index = socket.if_nametoindex(name)
    if bridge["owned"]:
        _write(f"ipv6/conf/{name}/disable_ipv6", "1")
    else:
        _write(f"ipv6/conf/{name}/accept_ra", "0")
    if bridge["owned"] and link is not None:
        _remove_other_addresses(netlink, index, bridge["address"])
    if link is not None:  # said explicitly, a bridge's MAC no longer follows its ports
        netlink.batch([rtnetlink.set_link(index, up=True, mac=bridge["mac"] if bridge["owned"] else link.mac)])
    ip, _, prefix = bridge["address"].partition("/")
    netlink.batch([rtnetlink.add_address(index, ip, int(prefix))])
    _write(f"ipv4/conf/{name}/route_localnet", "1")


def _remove_other_addresses(netlink: Netlink, index: int, wanted: str) -> None:
    for item in rtnetlink.addresses(netlink):
        if item.ifindex == index and ":" not in item.address and item.address != wanted:
            ip, _, prefix = item.address.partition("/")
            netlink.batch([rtnetlink.delete_address(index, ip, int(prefix))])


def _forwarding(messages: list[str]) -> None:
    with open("/proc/sys/net/ipv4/ip_forward") as file:
        if file.read().strip() == "1":
            return
    _write("ipv4/ip_forward", "1")
    messages.append("net.ipv4.ip_forward was 0 and is now 1: this host forwards packets between its interfaces")


def _rules(table: str, bridges: Sequence[BridgeSetup], plans: Sequence[NetworkPlan]) -> None:
    rules = [
        network_rules.Bridge(name=b["name"], subnet=b["subnet"], icc=b["icc"], masquerade=b["masquerade"])
        for b in bridges
    ]
    with Nft() as nft:
        nft.run(network_rules.render(table, rules))
    wanted = [element for plan in plans for element in elements(plan)]
    if not wanted:
        return
    with Elements() as transactions:
        present = {
            (element.map, element.key) for map in (PORTS, HOST_PORTS) for element in transactions.list(table, map)
        }
        transactions.add(table, [element for element in wanted if (element.map, element.key) not in present])


def _delete_link(netlink: Netlink, name: str) -> None:
    try:
        netlink.batch([rtnetlink.delete_link(name)])
    except OSError as error:
        if error.errno != errno.ENODEV:
            raise


def _write(name: str, value: str) -> None:
    """A sysctl under net/ of the namespace of this thread. Not there (no IPv6): fine. OSError naming it otherwise."""
    path = f"/proc/sys/net/{name}"
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    try:
        os.write(fd, value.encode())
    except OSError as error:
        raise OSError(error.errno, f"{path}: {os.strerror(error.errno or 0)}") from error
    finally:
        os.close(fd)
