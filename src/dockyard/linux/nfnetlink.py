"""Elements of nftables maps by raw nfnetlink: what a container's start and end do to the rules.

Owns: adding, deleting and listing elements of maps whose key and data are concatenations of 4-byte cells (protocol,
IPv4 address, port), each with a comment, in one transaction; what the kernel tells about changes of tables.
Does not own: tables, maps and rules (`linux.nftables`, through libnftables: rendered, parsed and checked there).

A transaction of elements needs no parser: this takes a third of libnftables' time and none of its memory, and it runs
in every container's monitor. Standard library only. Wire form: linux/netfilter/nf_tables.h.
"""

from __future__ import annotations

import errno
import fcntl
import os
import struct
import time
from collections.abc import Collection, Iterable, Sequence
from typing import NamedTuple

from dockyard.linux.conntrack import forget_udp
from dockyard.linux.netlink import (
    NETLINK_NETFILTER,
    NLM_F_ACK,
    NLM_F_CREATE,
    Message,
    Netlink,
    Watch,
    attribute,
    attribute_list,
    attributes,
)

_BATCH_BEGIN, _BATCH_END = 16, 17
_NFTABLES = 10 << 8  # NFNL_SUBSYS_NFTABLES
_DELTABLE, _NEWCHAIN = 2, 3
_NEWSETELEM, _GETSETELEM, _DELSETELEM = 12, 13, 14
_AF_IPV4 = 2
_NFNLGRP_NFTABLES = 7

_NESTED = 0x8000
_TABLE_NAME = 1
_CHAIN_TABLE, _CHAIN_HOOK = 1, 4
_LIST_TABLE, _LIST_SET, _LIST_ELEMENTS = 1, 2, 3
_LIST_ELEM = 1
_ELEM_KEY, _ELEM_DATA, _ELEM_USERDATA = 1, 2, 6
_DATA_VALUE = 1
_UDATA_COMMENT = 0  # a type-length-value inside the user data, as libnftnl writes it
_PER_MESSAGE = 200  # elements: some 200 bytes each in an attribute of at most 64 KiB

_HEADER = struct.Struct("!BBH")  # nfgenmsg: family, version, resource id (big endian)


class Element(NamedTuple):
    """One element of a map: cells of 4 bytes each, concatenated, and who it belongs to."""

    map: str
    key: bytes
    data: bytes
    comment: str = ""


class Elements:
    """Transactions on the maps of IPv4 tables, over one socket."""

    def __init__(self) -> None:
        self._netlink = Netlink(NETLINK_NETFILTER)

    def __enter__(self) -> Elements:
        return self

    def __exit__(self, *_: object) -> None:
        self._netlink.close()

    def add(self, table: str, elements: Sequence[Element]) -> None:
        """All or none; what is there already stays. EEXIST or EBUSY if a key is there with other data, ENOENT if the
        table or map is not there."""
        self._transaction(table, elements, _NEWSETELEM, NLM_F_CREATE, "add port elements")

    def delete(self, table: str, elements: Sequence[Element]) -> None:
        """All or none: ENOENT if one is not there."""
        self._transaction(table, elements, _DELSETELEM, 0, "delete port elements")

    def discard(self, table: str, elements: Sequence[Element]) -> None:
        """Delete those that are there."""
        try:
            self.delete(table, elements)
        except OSError as error:
            if error.errno != errno.ENOENT:
                raise
            for element in elements if len(elements) > 1 else ():
                self.discard(table, [element])

    def forget_udp(self, ports: Collection[int]) -> None:
        """Make connection tracking forget UDP flows to these ports: see `linux.conntrack`."""
        if ports:
            forget_udp(self._netlink, ports)

    def list(self, table: str, map: str) -> list[Element]:
        """The elements of a map; empty when there is no such map."""
        body = _HEADER.pack(_AF_IPV4, 0, 0) + _name(_LIST_TABLE, table) + _name(_LIST_SET, map)
        try:
            answers = self._netlink.dump(Message(f"list map {map}", _NFTABLES | _GETSETELEM, 0, body))
        except OSError as error:
            if error.errno == errno.ENOENT:
                return []
            raise
        return [_element(map, raw) for _, answer in answers for raw in _raw_elements(answer)]

    def _transaction(self, table: str, elements: Sequence[Element], kind: int, flags: int, name: str) -> None:
        if not elements:
            return
        names: dict[int, str] = {}
        begin = Message("begin", _BATCH_BEGIN, 0, _HEADER.pack(0, 0, 10))
        out = [self._netlink.pack(begin)]
        for map, portion in _by_map(elements):
            body = _HEADER.pack(_AF_IPV4, 0, 0) + _name(_LIST_TABLE, table) + _name(_LIST_SET, map)
            body += attribute(_LIST_ELEMENTS | _NESTED, b"".join(_packed(e, kind == _NEWSETELEM) for e in portion))
            out.append(self._netlink.pack(Message(name, _NFTABLES | kind, flags, body), NLM_F_ACK))
            names[self._netlink.sequence] = f"{name} ({table} {map})"
        out.append(self._netlink.pack(Message("end", _BATCH_END, 0, _HEADER.pack(0, 0, 10))))
        self._netlink.send(b"".join(out), len(names))
        failure = self._netlink.acknowledgements(names, also=name)
        if failure is not None:
            raise failure


class SharedElements(Elements):
    """The same for a process and all that it forks, over one socket that is never closed.

    The kernel, when a netfilter socket is closed, waits until what was deleted before is really gone: 10 to 20 ms in
    which no other transaction begins (nft_rcv_nl_event). So the zygote opens one socket and its children share it, one
    at a time: the exchange of 20 µs is under a record lock, which ends with its holder.
    """

    def __init__(self) -> None:
        super().__init__()
        self._lock = os.memfd_create("dockyard-rules", os.MFD_CLOEXEC)

    def __exit__(self, *_: object) -> None:
        """Stays open: it belongs to others too."""

    def _transaction(self, table: str, elements: Sequence[Element], kind: int, flags: int, name: str) -> None:
        fcntl.lockf(self._lock, fcntl.LOCK_EX)
        try:
            self._netlink.forget(time.monotonic_ns())
            super()._transaction(table, elements, kind, flags, name)
        finally:
            fcntl.lockf(self._lock, fcntl.LOCK_UN)

    def forget_udp(self, ports: Collection[int]) -> None:
        if not ports:
            return
        fcntl.lockf(self._lock, fcntl.LOCK_EX)
        try:
            self._netlink.forget(time.monotonic_ns())
            super().forget_udp(ports)
        finally:
            fcntl.lockf(self._lock, fcntl.LOCK_UN)


class TableWatch:
    """Hears when tables are deleted and base chains made or changed, whoever does it."""

    def __init__(self) -> None:
        self._watch = Watch(NETLINK_NETFILTER, [_NFNLGRP_NFTABLES])

    def fileno(self) -> int:
        return self._watch.fileno()

    def close(self) -> None:
        self._watch.close()

    def read(self) -> TableChanges:
        """Names of tables; {"*"}: news were lost."""
        heard = self._watch.read()
        if heard is None:
            return TableChanges({"*"}, {"*"})
        changes = TableChanges(set(), set())
        for kind, body in heard:
            if kind == _NFTABLES | _DELTABLE:
                changes.deleted.add(_string(attributes(body, _HEADER.size), _TABLE_NAME))
            elif kind == _NFTABLES | _NEWCHAIN:
                own = attributes(body, _HEADER.size)
                if _CHAIN_HOOK in own:
                    changes.hooked.add(_string(own, _CHAIN_TABLE))
        return changes


class TableChanges(NamedTuple):
    """Tables that were deleted, and tables with a base chain that was made or changed (its policy, for one)."""

    deleted: set[str]
    hooked: set[str]


def _string(own: dict[int, bytes], kind: int) -> str:
    return own.get(kind, b"").rstrip(b"\0").decode(errors="replace")


def _by_map(elements: Iterable[Element]) -> list[tuple[str, list[Element]]]:
    """Grouped by map, in portions that fit one message."""
    groups: dict[str, list[Element]] = {}
    for element in elements:
        groups.setdefault(element.map, []).append(element)
    return [
        (map, group[start : start + _PER_MESSAGE])
        for map, group in groups.items()
        for start in range(0, len(group), _PER_MESSAGE)
    ]


def _name(kind: int, value: str) -> bytes:
    return attribute(kind, value.encode() + b"\0")


def _packed(element: Element, whole: bool) -> bytes:
    body = attribute(_ELEM_KEY | _NESTED, attribute(_DATA_VALUE, element.key))
    if whole:
        body += attribute(_ELEM_DATA | _NESTED, attribute(_DATA_VALUE, element.data))
        if element.comment:
            comment = element.comment.encode()[:127] + b"\0"
            body += attribute(_ELEM_USERDATA, bytes([_UDATA_COMMENT, len(comment)]) + comment)
    return attribute(_LIST_ELEM | _NESTED, body)


def _raw_elements(answer: bytes) -> list[bytes]:
    elements = attributes(answer, _HEADER.size).get(_LIST_ELEMENTS, b"")
    return [raw for kind, raw in attribute_list(elements) if kind == _LIST_ELEM]


def _element(map: str, raw: bytes) -> Element:
    own = attributes(raw)
    key = attributes(own.get(_ELEM_KEY, b"")).get(_DATA_VALUE, b"")
    data = attributes(own.get(_ELEM_DATA, b"")).get(_DATA_VALUE, b"")
    return Element(map, key, data, _comment(own.get(_ELEM_USERDATA, b"")))


def _comment(userdata: bytes) -> str:
    offset = 0
    while offset + 2 <= len(userdata):
        kind, length = userdata[offset], userdata[offset + 1]
        if kind == _UDATA_COMMENT:
            return userdata[offset + 2 : offset + 2 + length].rstrip(b"\0").decode(errors="replace")
        offset += 2 + length
    return ""
