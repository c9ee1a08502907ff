"""Carries out a container's network plan: its veth pairs, addresses, routes and published ports.

Owns: the plan's shape; what the container's monitor does on the host's side (`bind_ports`, `attach_host`,
`detach_host`) and what init does inside (`configure_inside`). Does not own: bridges and rules (`runtime.network_host`,
`runtime.network_rules`), which addresses and ports to take (`engine.networks`, `proto.netplan`).

Standard library only; used in processes forked from the zygote. A start is one netlink batch on each side and one
nftables transaction. A veth is never deleted on a request's path: it ends with its network namespace.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
import time
from collections.abc import Callable, Sequence
from typing import TypedDict

from dockyard.linux import rtnetlink
from dockyard.linux.netlink import Message, Netlink
from dockyard.linux.nfnetlink import Element, Elements, SharedElements
from dockyard.runtime import relay

PORTS, HOST_PORTS = "ports", "host_ports"  # maps of the daemon's table: any address of the host, one address
ANY = "0.0.0.0"

_LOOPBACK = 1  # the first link of every network namespace
_RULES_WAIT = 1.0  # seconds that the daemon is given to bring back rules that somebody flushed
_RELAY_WAIT = 0.3  # seconds that the relay is given to close what a container that has ended had
_BACKLOG = 4096
_RIGHTS = 250  # descriptors in one message (SCM_MAX_FD is 253)
_LOOSE = 32  # sockets that a monitor keeps one by one; more of them are kept in a parcel
_IPPROTO = {"tcp": socket.IPPROTO_TCP, "udp": socket.IPPROTO_UDP, "sctp": 132}
_SYSCTL_IPV6 = "/proc/sys/net/ipv6/conf"


class Interface(TypedDict):
    """One connection to a bridge. Addresses and MACs are text."""

    name: str  # inside: "eth0"
    veth: str  # the host's end
    bridge: str
    bridge_mac: str
    mac: str
    ip: str
    prefix: int
    gateway: str  # "": no default route by this interface
    mtu: int
    isolated: bool  # may not talk to its neighbours (icc=false)


class Port(TypedDict):
    """One published port: `host_ip`:`host_port` on the host reaches `ip`:`port`. `host_ip` 0.0.0.0: any address."""

    proto: str  # tcp, udp, sctp
    host_ip: str
    host_port: int
    ip: str
    port: int


class NetworkPlan(TypedDict):
    """All that monitor and init need (JSON). No interfaces: a namespace with nothing but `lo`."""

    container: str  # 64 hex digits
    name: str  # for error texts
    endpoint: str  # for error texts
    table: str  # the daemon's nftables table
    interfaces: list[Interface]
    ports: list[Port]  # on IPv4 addresses: translated by the kernel
    relayed: list[Port]  # on IPv6 addresses: by the relay
    relay: str  # the directory of the relay's socket, where `relayed` is not empty


class PortUnavailable(OSError):
    """A published port cannot be had; `str(error)` is the text for the user, in Docker's words."""

    def __str__(self) -> str:
        return str(self.strerror)


def bind_ports(plan: NetworkPlan | None) -> list[socket.socket]:
    """Take every published port on the host, so that no other process gets it while the container lives.

    The sockets are bound and do nothing: packets are translated before they could reach them, and when they are not,
    a TCP client is refused. Closing all that is returned (there may be fewer sockets than ports) lets them go.
    PortUnavailable (EADDRINUSE, EADDRNOTAVAIL, …) names the port; then none is held.
    """
    held: list[socket.socket] = []
    if not plan:
        return held
    try:
        for port in plan["ports"]:
            held += _bound(plan, port, _hold)
        relayed: list[socket.socket] = []
        for port in plan["relayed"]:
            held += (bound := _bound(plan, port, _hold_for_relay))
            relayed += bound
        if relayed:
            held.append(relay.hand_over(plan["relay"], [dict(port) for port in plan["relayed"]], relayed))
        if len(held) > _LOOSE:
            held = [_parcel(held)]
    except BaseException:
        for one in held:
            one.close()
        raise
    return held


def _parcel(sockets: Sequence[socket.socket]) -> socket.socket:
    """One socket that holds many: they are on their way through it (unix(7), SCM_RIGHTS) and end with it."""
    entrance, parcel = socket.socketpair()
    try:
        entrance.setblocking(False)  # a full queue is an error, not a wait
        for start in range(0, len(sockets), _RIGHTS):
            portion = sockets[start : start + _RIGHTS]
            fds = struct.pack(f"{len(portion)}i", *(one.fileno() for one in portion))
            entrance.sendmsg([b"p"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, fds)])
    except BaseException:
        parcel.close()
        raise
    finally:
        entrance.close()
    for one in sockets:
        one.close()
    return parcel


def _bound(plan: NetworkPlan, port: Port, hold: Callable[[str, str, int], socket.socket]) -> list[socket.socket]:
    try:
        return [hold(port["proto"], port["host_ip"], port["host_port"])]
    except OSError as error:
        if error.errno == errno.EPROTONOSUPPORT:
            return []  # sctp on a kernel without it: translated all the same
        raise PortUnavailable(error.errno, _port_text(plan, port, error)) from error


def _hold(proto: str, ip: str, port: int) -> socket.socket:
    """A socket bound to the port in a way that makes every other bind to it fail.

    TCP: SO_REUSEADDR lets us past connections in TIME_WAIT, but would let others with the same flag share the port;
    listening once makes the kernel forget that the port may be shared, and the flag is cleared before listening ends.
    """
    kind = socket.SOCK_DGRAM if proto == "udp" else socket.SOCK_STREAM
    holder = socket.socket(socket.AF_INET, kind | socket.SOCK_CLOEXEC, _IPPROTO[proto])
    try:
        if proto != "tcp":
            holder.bind((ip, port))
            return holder
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        holder.bind((ip, port))
        holder.listen(1)
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 0)
        holder.shutdown(socket.SHUT_RDWR)
    except BaseException:
        holder.close()
        raise
    return holder


def _hold_for_relay(proto: str, ip: str, port: int) -> socket.socket:
    """A socket on an IPv6 address, ready to be served. What the relay has not let go yet is waited for."""
    kind = socket.SOCK_DGRAM if proto == "udp" else socket.SOCK_STREAM
    end = time.monotonic() + _RELAY_WAIT
    while True:
        holder = socket.socket(socket.AF_INET6, kind | socket.SOCK_CLOEXEC)
        try:
            holder.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            if proto == "tcp":
                holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            holder.bind((ip, port))
            if proto == "tcp":
                holder.listen(_BACKLOG)
            return holder
        except OSError as error:
            holder.close()
            if error.errno != errno.EADDRINUSE or time.monotonic() > end:
                raise
        time.sleep(0.005)


def _port_text(plan: NetworkPlan, port: Port, error: OSError) -> str:
    reason = os.strerror(error.errno).lower() if error.errno else str(error)
    host_ip = f"[{port['host_ip']}]" if ":" in port["host_ip"] else port["host_ip"]
    where = f"{host_ip}:{port['host_port']}:{port['ip']}:{port['port']}/{port['proto']}"
    return (
        f"driver failed programming external connectivity on endpoint {plan['name']} ({plan['endpoint']}): "
        f"failed to bind host port for {where}: {reason}"
    )


def attach_host(plan: NetworkPlan | None, pid: int, rules: SharedElements | None = None) -> None:
    """The host's side: a veth pair per interface with its peer in `pid`'s network namespace, then the ports.

    `rules`: the zygote's socket for transactions; without it one is opened and closed (15 ms after a deletion).
    All or nothing. OSError naming what failed; `ports` of a table that was just flushed are tried again for a second.
    """
    if not plan or not plan["interfaces"]:
        return
    with Netlink() as netlink:
        try:
            netlink.batch(_host_messages(plan, pid))
            _add_ports(plan, rules)
        except BaseException:
            _undo(netlink, plan)
            raise


def _host_messages(plan: NetworkPlan, pid: int) -> list[Message]:
    messages: list[Message] = []
    for interface in plan["interfaces"]:
        bridge = _index(interface["bridge"])
        messages += (
            rtnetlink.add_veth(
                interface["veth"],
                master=bridge,
                mtu=interface["mtu"],
                peer=interface["name"],
                peer_mac=interface["mac"],
                peer_pid=pid,
            ),
            # Where bridged packets pass iptables (bridge-nf-call-iptables), a container that calls its own published
            # port is answered by the port it came from.
            rtnetlink.set_port(interface["veth"], hairpin=True, isolated=interface["isolated"] or None),
            rtnetlink.add_neighbour(bridge, interface["ip"], interface["mac"]),
        )
    return messages


def _index(name: str) -> int:
    try:
        return socket.if_nametoindex(name)
    except OSError as error:
        raise OSError(error.errno, f"network interface {name}: {os.strerror(error.errno or 0)}") from None


def _add_ports(plan: NetworkPlan, rules: SharedElements | None) -> None:
    wanted = elements(plan)
    if not wanted:
        return
    end = time.monotonic() + _RULES_WAIT
    with rules or Elements() as transactions:
        while True:
            try:
                transactions.add(plan["table"], wanted)
                transactions.forget_udp({port["host_port"] for port in plan["ports"] if port["proto"] == "udp"})
                return
            except OSError as error:
                if error.errno != errno.ENOENT or time.monotonic() > end:
                    raise
            time.sleep(0.02)


def _undo(netlink: Netlink, plan: NetworkPlan) -> None:
    """After a failure half-way; errors of its own would hide the first one."""
    for interface in plan["interfaces"]:
        for message in (rtnetlink.delete_link(interface["veth"]), *_neighbour_gone(interface)):
            try:
                netlink.batch([message])
            except OSError:
                pass  # it was not there yet


def configure_inside(plan: NetworkPlan | None) -> None:
    """The container's side, called in its network namespace after `attach_host`: `lo` and every interface.

    OSError naming what failed. Reads and writes /proc/sys of the host's /proc (before pivot_root).
    """
    messages = [rtnetlink.set_link(_LOOPBACK, up=True)]
    for interface in plan["interfaces"] if plan else ():
        _ipv4_only(interface["name"])
        index = _index(interface["name"])
        messages.append(rtnetlink.set_link(index, up=True))
        messages.append(rtnetlink.add_address(index, interface["ip"], interface["prefix"]))
        if interface["gateway"]:
            messages.append(rtnetlink.add_neighbour(index, interface["gateway"], interface["bridge_mac"]))
            messages.append(rtnetlink.add_default_route(index, interface["gateway"]))
    with Netlink() as netlink:
        netlink.batch(messages)


def _ipv4_only(name: str) -> None:
    """No IPv6 on an interface of an IPv4 network: no link-local address, no router advertisement is heard."""
    try:
        fd = os.open(f"{_SYSCTL_IPV6}/{name}/disable_ipv6", os.O_WRONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return  # a kernel without IPv6
    try:
        os.write(fd, b"1")
    finally:
        os.close(fd)


def detach_host(plan: NetworkPlan | None, rules: SharedElements | None = None) -> None:
    """Take away the ports and what belongs to the addresses. What is gone already is no error. `rules`: as above."""
    if not plan:
        return
    discard_ports(plan["table"], elements(plan), rules)
    with Netlink() as netlink:
        for interface in plan["interfaces"]:
            for message in _neighbour_gone(interface):
                try:
                    netlink.batch([message])
                except OSError as error:
                    if error.errno not in (errno.ENOENT, errno.ENODEV):
                        raise


def discard_ports(table: str, gone: Sequence[Element], rules: SharedElements | None = None) -> None:
    """Delete those of the elements that are there."""
    if gone:
        with rules or Elements() as transactions:
            transactions.discard(table, gone)


def _neighbour_gone(interface: Interface) -> list[Message]:
    try:
        return [rtnetlink.delete_neighbour(socket.if_nametoindex(interface["bridge"]), interface["ip"])]
    except OSError:
        return []  # the bridge is gone, and its neighbours with it


def elements(plan: NetworkPlan) -> list[Element]:
    """The published ports as elements of the daemon's maps, marked with the container's ID."""
    return [_element(port, plan["container"]) for port in plan["ports"]]


def _element(port: Port, container: str) -> Element:
    protocol = bytes((_IPPROTO[port["proto"]], 0, 0, 0))
    host_port, data = _port_cell(port["host_port"]), socket.inet_aton(port["ip"]) + _port_cell(port["port"])
    if port["host_ip"] == ANY:
        return Element(PORTS, protocol + host_port, data, container)
    return Element(HOST_PORTS, protocol + socket.inet_aton(port["host_ip"]) + host_port, data, container)


def _port_cell(port: int) -> bytes:
    return struct.pack("!Hxx", port)
