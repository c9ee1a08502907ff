"""The wire form of netlink messages, without a kernel."""

from __future__ import annotations

import errno

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dockyard.linux import nfnetlink, rtnetlink
from dockyard.linux.netlink import Message, attribute, attribute_list, attributes, parse
from dockyard.runtime.network_rules import Bridge, render, table_name


def test_s58_attributes_that_do_not_fit_are_refused_not_cut() -> None:
    assert len(attribute(1, b"x" * (0xFFFF - 4))) == 0x10000
    with pytest.raises(OSError, match="do not fit") as refused:
        attribute(1, b"x" * (0xFFFF - 3))
    assert refused.value.errno == errno.EMSGSIZE


@given(st.lists(st.tuples(st.integers(1, 0x3FFF), st.binary(max_size=40)), max_size=8))
def test_attributes_come_back(wanted: list[tuple[int, bytes]]) -> None:
    assert attribute_list(b"".join(attribute(kind, data) for kind, data in wanted)) == wanted


@given(st.binary(max_size=200))
def test_any_bytes_are_read_without_harm(data: bytes) -> None:
    attributes(data)
    list(parse(data))


def test_macs() -> None:
    assert rtnetlink.mac_bytes("02:42:ac:11:00:02") == bytes((2, 0x42, 0xAC, 0x11, 0, 2))
    with pytest.raises(ValueError, match="invalid MAC address"):
        rtnetlink.mac_bytes("02:42:ac:11:00")


def test_requests_name_themselves() -> None:
    assert rtnetlink.add_address(3, "10.0.0.2", 24).name == "add address 10.0.0.2/24"
    assert isinstance(rtnetlink.delete_link("x"), Message)


def test_broadcast_address_of_a_subnet() -> None:
    body = rtnetlink.add_address(3, "10.1.2.3", 20).body
    assert attributes(body, 8)[4] == bytes((10, 1, 15, 255))
    assert 4 not in attributes(rtnetlink.add_address(3, "10.1.2.3", 31).body, 8)


def test_elements_in_portions_by_map() -> None:
    elements = [nfnetlink.Element(f"m{number % 2}", b"k", b"d") for number in range(500)]
    portions = nfnetlink._by_map(elements)
    assert [(map, len(portion)) for map, portion in portions] == [("m0", 200), ("m0", 50), ("m1", 200), ("m1", 50)]


def test_a_table_for_each_daemon() -> None:
    assert table_name("dockyard0") == "dockyard"
    assert table_name("my-br.1") == "dockyard_my_br_1"


def test_rules_of_a_bridge() -> None:
    text = render("dockyard", [Bridge(name="dockyard0", subnet="172.17.0.0/16", icc=False, masquerade=False)])
    assert 'forward oifname "dockyard0" drop' in text
    assert 'iifname "dockyard0" oifname "dockyard0" accept' not in text, "icc=false"
    assert 'oifname != "dockyard0"' not in text, "no masquerade"
    assert text.index("flush table ip dockyard") > text.index("add map ip dockyard host_ports")
