"""Links, addresses, routes and neighbours: the messages of rtnetlink(7) that containers need.

Owns: `Message` builders for bridges, veth pairs, link settings, bridge ports, IPv4 addresses, routes and neighbours,
and the lists of links, addresses and routes. Does not own: the socket (`linux.netlink`), which link belongs to whom.

Addresses are text ("172.17.0.2"), MACs too ("02:42:ac:11:00:02"). Standard library only.
"""

from __future__ import annotations

import socket
import struct
from typing import NamedTuple

from dockyard.linux.netlink import (
    NLM_F_CREATE,
    NLM_F_EXCL,
    NLM_F_REPLACE,
    Message,
    Netlink,
    attribute,
    attributes,
    number,
    text,
)

_NEWLINK, _DELLINK, _GETLINK = 16, 17, 18
_NEWADDR, _DELADDR, _GETADDR = 20, 21, 22
_NEWROUTE, _GETROUTE = 24, 26
_NEWNEIGH, _DELNEIGH = 28, 29

_IFF_UP = 0x1
_IFLA_ADDRESS, _IFLA_IFNAME, _IFLA_MTU, _IFLA_LINK, _IFLA_MASTER = 1, 3, 4, 5, 10
_IFLA_LINKINFO, _IFLA_NET_NS_PID, _IFLA_NET_NS_FD = 18, 19, 28
_IFLA_NUM_TX_QUEUES, _IFLA_NUM_RX_QUEUES = 31, 32
_INFO_KIND, _INFO_DATA, _INFO_SLAVE_KIND, _INFO_SLAVE_DATA = 1, 2, 4, 5
_VETH_INFO_PEER = 1
_BRPORT_MODE, _BRPORT_ISOLATED = 4, 33
_IFA_ADDRESS, _IFA_LOCAL, _IFA_BROADCAST = 1, 2, 4
_IFA_F_PERMANENT, _UNIVERSE = 0x80, 0
_IFA_KEPT = (_IFA_ADDRESS, _IFA_LOCAL, _IFA_BROADCAST, 8, 9)  # and IFA_FLAGS, IFA_RT_PRIORITY
_RTA_DST, _RTA_OIF, _RTA_GATEWAY = 1, 4, 5
_NDA_DST, _NDA_LLADDR = 1, 2
_NUD_PERMANENT = 0x80

_IFINFO = struct.Struct("=BxHiII")  # family, type, index, flags, change
_IFADDR = struct.Struct("=BBBBi")  # family, prefix length, flags, scope, index
_RTMSG = struct.Struct("=BBBBBBBBI")  # family, dst_len, src_len, tos, table, protocol, scope, type, flags
_NDMSG = struct.Struct("=BxxxiHBB")  # family, index, state, flags, type


class Link(NamedTuple):
    """A network interface as the kernel lists it. `master`: its bridge's ifindex, 0 for none."""

    ifindex: int
    name: str
    up: bool
    mac: str
    mtu: int
    master: int
    kind: str


class LinkAddress(NamedTuple):
    """`address` as "172.17.0.1/16" or "fe80::1/64"."""

    ifindex: int
    address: str


def mac_bytes(mac: str) -> bytes:
    """ "02:42:ac:11:00:02" -> 6 bytes. ValueError otherwise."""
    data = bytes.fromhex(mac.replace(":", ""))
    if len(data) != 6:
        raise ValueError(f"invalid MAC address: {mac}")
    return data


def _ifinfo(index: int = 0, up: bool | None = None, family: int = 0) -> bytes:
    return _IFINFO.pack(family, 0, index, _IFF_UP if up else 0, 0 if up is None else _IFF_UP)


def add_bridge(name: str, mac: str, mtu: int) -> Message:
    """A bridge that is up, with a fixed MAC (else it takes the lowest of its ports', which come and go)."""
    body = (
        _ifinfo(up=True)
        + text(_IFLA_IFNAME, name)
        + attribute(_IFLA_ADDRESS, mac_bytes(mac))
        + number(_IFLA_MTU, mtu)
        + attribute(_IFLA_LINKINFO, text(_INFO_KIND, "bridge"))
    )
    return Message(f"add bridge {name}", _NEWLINK, NLM_F_CREATE | NLM_F_EXCL, body)


def add_veth(
    name: str, *, master: int, mtu: int, peer: str, peer_mac: str, peer_pid: int = 0, peer_fd: int = -1
) -> Message:
    """A veth pair: `name` here, up, a port of the bridge with index `master`; `peer` in another network namespace.

    That namespace is the one of the process `peer_pid`, or the one behind the descriptor `peer_fd`.
    """
    where = number(_IFLA_NET_NS_FD, peer_fd) if peer_fd >= 0 else number(_IFLA_NET_NS_PID, peer_pid)
    # One queue each: a pair has as many as there are processors otherwise, all to be allocated and freed.
    queues = number(_IFLA_NUM_TX_QUEUES, 1) + number(_IFLA_NUM_RX_QUEUES, 1)
    inside = (
        _ifinfo()
        + text(_IFLA_IFNAME, peer)
        + attribute(_IFLA_ADDRESS, mac_bytes(peer_mac))
        + number(_IFLA_MTU, mtu)
        + queues
        + where
    )
    info = text(_INFO_KIND, "veth") + attribute(_INFO_DATA, attribute(_VETH_INFO_PEER, inside))
    body = (
        _ifinfo(up=True)
        + text(_IFLA_IFNAME, name)
        + number(_IFLA_MTU, mtu)
        + number(_IFLA_MASTER, master)
        + queues
        + attribute(_IFLA_LINKINFO, info)
    )
    return Message(f"add veth {name}", _NEWLINK, NLM_F_CREATE | NLM_F_EXCL, body)


def set_link(index: int, *, up: bool | None = None, mtu: int = 0, mac: str = "", master: int | None = None) -> Message:
    """Change what is given; `master` 0 takes the link out of its bridge."""
    body = _ifinfo(index, up)
    if mac:
        body += attribute(_IFLA_ADDRESS, mac_bytes(mac))
    if mtu:
        body += number(_IFLA_MTU, mtu)
    if master is not None:
        body += number(_IFLA_MASTER, master)
    return Message(f"set link {index}", _NEWLINK, 0, body)


def move_link(index: int, namespace: int, name: str) -> Message:
    """Into the network namespace behind a descriptor, down and without its addresses. `name`: there; for "eth%d" the
    kernel finds a number. EEXIST if there is one of that name."""
    body = _ifinfo(index, up=False) + number(_IFLA_NET_NS_FD, namespace) + text(_IFLA_IFNAME, name)
    return Message(f"move link {index} as {name}", _NEWLINK, 0, body)


def set_port(name: str, *, hairpin: bool | None = None, isolated: bool | None = None) -> Message:
    """Flags of a bridge's port: `hairpin` lets a frame leave by the port it came in by; ports that are `isolated` do
    not hear each other."""
    flags = b""
    if hairpin is not None:
        flags += attribute(_BRPORT_MODE, bytes([hairpin]))
    if isolated is not None:
        flags += attribute(_BRPORT_ISOLATED, bytes([isolated]))
    info = text(_INFO_SLAVE_KIND, "bridge") + attribute(_INFO_SLAVE_DATA, flags)
    body = _ifinfo() + text(_IFLA_IFNAME, name) + attribute(_IFLA_LINKINFO, info)
    return Message(f"set bridge port {name}", _NEWLINK, 0, body)


def delete_link(name: str) -> Message:
    """Takes 15 ms and more: never on a request's path. ENODEV when there is none."""
    return Message(f"delete link {name}", _DELLINK, 0, _ifinfo() + text(_IFLA_IFNAME, name))


def add_address(index: int, ip: str, prefix: int) -> Message:
    """An IPv4 address with its subnet's broadcast address. One that is there already is left as it is."""
    packed = socket.inet_aton(ip)
    body = _IFADDR.pack(socket.AF_INET, prefix, 0, 0, index)
    body += attribute(_IFA_LOCAL, packed) + attribute(_IFA_ADDRESS, packed)
    if prefix < 31:
        last = int.from_bytes(packed, "big") | (0xFFFFFFFF >> prefix)
        body += attribute(_IFA_BROADCAST, last.to_bytes(4, "big"))
    return Message(f"add address {ip}/{prefix}", _NEWADDR, NLM_F_CREATE | NLM_F_REPLACE, body)


def delete_address(index: int, ip: str, prefix: int) -> Message:
    """EADDRNOTAVAIL when there is none."""
    body = _IFADDR.pack(socket.AF_INET, prefix, 0, 0, index) + attribute(_IFA_LOCAL, socket.inet_aton(ip))
    return Message(f"delete address {ip}/{prefix}", _DELADDR, 0, body)


def add_default_route(index: int, gateway: str) -> Message:
    """Everything else goes to `gateway` by the link `index`: main table, protocol "boot", as ip(8) makes it."""
    main, boot, universe, unicast = 254, 3, 0, 1
    body = _RTMSG.pack(socket.AF_INET, 0, 0, 0, main, boot, universe, unicast, 0)
    body += attribute(_RTA_GATEWAY, socket.inet_aton(gateway)) + number(_RTA_OIF, index)
    return Message(f"add default route via {gateway}", _NEWROUTE, NLM_F_CREATE | NLM_F_EXCL, body)


def add_neighbour(index: int, ip: str, mac: str) -> Message:
    """A permanent entry: no ARP, and not counted against gc_thresh3. Replaces what is there."""
    body = _neighbour(index, ip) + attribute(_NDA_LLADDR, mac_bytes(mac))
    return Message(f"add neighbour {ip}", _NEWNEIGH, NLM_F_CREATE | NLM_F_REPLACE, body)


def delete_neighbour(index: int, ip: str) -> Message:
    """ENOENT when there is none."""
    return Message(f"delete neighbour {ip}", _DELNEIGH, 0, _neighbour(index, ip))


def _neighbour(index: int, ip: str) -> bytes:
    return _NDMSG.pack(socket.AF_INET, index, _NUD_PERMANENT, 0, 0) + attribute(_NDA_DST, socket.inet_aton(ip))


def links(netlink: Netlink) -> list[Link]:
    """Every link of the namespace."""
    found = []
    for kind, body in netlink.dump(Message("list links", _GETLINK, 0, _ifinfo())):
        if kind != _NEWLINK:
            continue
        _, _, index, flags, _ = _IFINFO.unpack_from(body)
        own = attributes(body, _IFINFO.size)
        info = attributes(own.get(_IFLA_LINKINFO, b""))
        found.append(
            Link(
                ifindex=index,
                name=_string(own.get(_IFLA_IFNAME, b"")),
                up=bool(flags & _IFF_UP),
                mac=own.get(_IFLA_ADDRESS, b"").hex(":"),
                mtu=_integer(own.get(_IFLA_MTU)),
                master=_integer(own.get(_IFLA_MASTER)),
                kind=_string(info.get(_INFO_KIND, b"")),
            )
        )
    return found


def addresses(netlink: Netlink) -> list[LinkAddress]:
    """Every IPv4 and IPv6 address of the namespace."""
    found = []
    for kind, body in netlink.dump(Message("list addresses", _GETADDR, 0, _IFADDR.pack(0, 0, 0, 0, 0))):
        if kind != _NEWADDR:
            continue
        family, prefix, _, _, index = _IFADDR.unpack_from(body)
        own = attributes(body, _IFADDR.size)
        raw = own.get(_IFA_LOCAL) or own.get(_IFA_ADDRESS)
        if raw is not None and family in (socket.AF_INET, socket.AF_INET6):
            found.append(LinkAddress(index, f"{socket.inet_ntop(family, raw)}/{prefix}"))
    return found


def lasting_addresses(netlink: Netlink, index: int) -> list[bytes]:
    """A link's permanent addresses of global scope, of every family, for `restore_address`."""
    found = []
    for kind, body in netlink.dump(Message("list addresses", _GETADDR, 0, _IFADDR.pack(0, 0, 0, 0, 0))):
        _, _, flags, scope, link = _IFADDR.unpack_from(body)
        if kind == _NEWADDR and link == index and scope == _UNIVERSE and flags & _IFA_F_PERMANENT:
            found.append(body)
    return found


def restore_address(index: int, body: bytes) -> Message:
    """One of `lasting_addresses` for the link `index`."""
    family, prefix, flags, scope, _ = _IFADDR.unpack_from(body)
    own = attributes(body, _IFADDR.size)
    kept = b"".join(attribute(kind, own[kind]) for kind in _IFA_KEPT if kind in own)
    packed = _IFADDR.pack(family, prefix, flags, scope, index)
    return Message(f"add address to link {index}", _NEWADDR, NLM_F_CREATE | NLM_F_REPLACE, packed + kept)


def ipv4_routes(netlink: Netlink) -> list[tuple[str, int]]:
    """(destination as "172.17.0.0/16", ifindex) of all IPv4 routes of all tables but the default routes."""
    found = []
    request = Message("list routes", _GETROUTE, 0, _RTMSG.pack(socket.AF_INET, 0, 0, 0, 0, 0, 0, 0, 0))
    for kind, body in netlink.dump(request):
        if kind != _NEWROUTE:
            continue
        prefix, own = body[1], attributes(body, _RTMSG.size)
        if prefix and _RTA_DST in own:
            found.append((f"{socket.inet_ntoa(own[_RTA_DST])}/{prefix}", _integer(own.get(_RTA_OIF))))
    return found


def _string(raw: bytes) -> str:
    return raw.split(b"\0", 1)[0].decode(errors="replace")


def _integer(raw: bytes | None) -> int:
    return struct.unpack("=I", raw)[0] if raw is not None and len(raw) == 4 else 0
