"""Forgetting what connection tracking remembers of UDP flows, by raw ctnetlink.

Owns: finding flows by destination port and deleting them. Does not own: when that is needed (`runtime.network`).

A flow that began before its port was published (or when another container had it) stays with the translation that it
began with for as long as datagrams come: none, or one to an address where nobody is. Standard library only. Wire form:
linux/netfilter/nfnetlink_conntrack.h; filters need Linux 5.8.
"""

from __future__ import annotations

import errno
import socket
import struct
from collections.abc import Collection

from dockyard.linux.netlink import Message, Netlink, attribute, attributes

_CT_NEW, _CT_GET, _CT_DELETE = 0x100, 0x101, 0x102  # NFNL_SUBSYS_CTNETLINK << 8
_NESTED = 0x8000
_TUPLE_ORIG, _FILTER = 1, 25
_TUPLE_IP, _TUPLE_PROTO = 1, 2
_PROTO_NUM, _PROTO_DST_PORT = 1, 3
_FILTER_ORIG_FLAGS, _FILTER_REPLY_FLAGS = 1, 2
_FLAG_PROTO_NUM, _FLAG_PROTO_DST_PORT = 1 << 3, 1 << 5
_HEADER = struct.pack("!BBH", socket.AF_INET, 0, 0)
_FEW = 8  # ports up to which the kernel is asked for each


def forget_udp(netlink: Netlink, ports: Collection[int]) -> int:
    """Delete every IPv4 UDP flow to one of these destination ports (as the sender wrote them); how many there were.

    `netlink`: a socket of NETLINK_NETFILTER. Returns 0 where the kernel tracks no connections.
    """
    deleted = 0
    for asked in [{port} for port in ports] if len(ports) <= _FEW else [set(ports)]:
        for original in _flows(netlink, asked):
            message = Message("delete flow", _CT_DELETE, 0, _HEADER + attribute(_TUPLE_ORIG | _NESTED, original))
            try:
                netlink.batch([message])
                deleted += 1
            except OSError as error:
                if error.errno != errno.ENOENT:  # it has ended meanwhile
                    raise
    return deleted


def _flows(netlink: Netlink, ports: set[int]) -> list[bytes]:
    """The original tuples (attribute payloads, to be sent back as they came) of UDP flows to `ports`."""
    proto = attribute(_PROTO_NUM, bytes([socket.IPPROTO_UDP]))
    flags = _FLAG_PROTO_NUM
    if len(ports) == 1:
        proto += attribute(_PROTO_DST_PORT, struct.pack("!H", *ports))
        flags |= _FLAG_PROTO_DST_PORT
    body = (
        _HEADER
        + attribute(_TUPLE_ORIG | _NESTED, attribute(_TUPLE_PROTO | _NESTED, proto))
        + attribute(
            _FILTER | _NESTED,
            attribute(_FILTER_ORIG_FLAGS, struct.pack("=I", flags)) + attribute(_FILTER_REPLY_FLAGS, bytes(4)),
        )
    )
    try:
        answers = netlink.dump(Message("list UDP flows", _CT_GET, 0, body))
    except OSError as error:
        if error.errno in (errno.EINVAL, errno.EOPNOTSUPP, errno.ENOENT):
            return []  # no connection tracking, or none that can be asked
        raise
    found = [attributes(answer, len(_HEADER)).get(_TUPLE_ORIG, b"") for kind, answer in answers if kind == _CT_NEW]
    return [original for original in found if _destination_port(original) in ports]


def _destination_port(original: bytes) -> int:
    proto = attributes(attributes(original).get(_TUPLE_PROTO, b""))
    port = proto.get(_PROTO_DST_PORT, b"")
    is_udp = proto.get(_PROTO_NUM) == bytes([socket.IPPROTO_UDP])
    return int(struct.unpack("!H", port)[0]) if is_udp and len(port) == 2 else -1
