"""Address allocation, subnets and published ports: pure rules."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dockyard.proto import netplan
from dockyard.proto.netplan import AddressPool, Binding, Ports, PortTaken, Request


def gone(_link: str) -> bool:
    return False


def there(_link: str) -> bool:
    return True


def test_subnets_in_order_and_around_what_is_used() -> None:
    assert str(netplan.choose_subnet([])) == "172.17.0.0/16"
    assert str(netplan.choose_subnet(["172.17.3.0/24", "172.18.0.1/16"])) == "172.19.0.0/16"
    assert str(netplan.choose_subnet(["172.16.0.0/12"])) == "192.168.0.0/20"
    assert str(netplan.choose_subnet(["172.16.0.0/12", "192.168.0.10/24"])) == "192.168.16.0/20"
    assert netplan.choose_subnet(["172.16.0.0/12", "192.168.0.0/16"]) is None
    pools = [netplan.Pool("10.9.0.0/23", 24), netplan.Pool("10.7.7.7/16", 26)]
    assert str(netplan.choose_subnet([], pools)) == "10.9.0.0/24"
    assert str(netplan.choose_subnet(["10.9.0.0/25"], pools)) == "10.9.1.0/24"
    assert str(netplan.choose_subnet(["10.9.0.0/23", "10.7.0.3/32"], pools)) == "10.7.0.64/26"
    assert netplan.choose_subnet(["10.0.0.0/8"], pools) is None, "no others than those that are given"
    assert len(list(netplan.default_subnets())) == 15 + 16


@given(st.lists(st.tuples(st.integers(0, 2**32 - 1), st.integers(8, 32)), max_size=8))
def test_a_chosen_subnet_overlaps_with_nothing(used: list[tuple[int, int]]) -> None:
    networks = [ipaddress.IPv4Network((address, prefix), strict=False) for address, prefix in used]
    chosen = netplan.choose_subnet(map(str, networks))
    assert chosen is None or not any(chosen.overlaps(network) for network in networks)


def test_mac_goes_with_the_address() -> None:
    assert netplan.mac_of("172.17.0.2") == "02:42:ac:11:00:02"


def test_lowest_free_address_without_gateway_and_edges() -> None:
    pool = AddressPool("10.0.0.0/29", "10.0.0.1")
    assert [pool.allocate(0, gone) for _ in range(5)] == [f"10.0.0.{n}" for n in range(2, 7)]
    with pytest.raises(netplan.Exhausted):
        pool.allocate(0, gone)
    pool.release("10.0.0.4", "l4", 0)
    assert len(pool) == 4
    assert pool.allocate(0, gone) == "10.0.0.4"


def test_quarantine_ends_with_the_link_or_in_time() -> None:
    pool = AddressPool("10.0.0.0/24", "10.0.0.1")
    assert pool.allocate(0, gone) == "10.0.0.2"
    pool.release("10.0.0.2", "link2", 100)
    assert pool.allocate(100, there) == "10.0.0.3", "its link is still there"
    assert pool.allocate(100, lambda link: link != "link2") == "10.0.0.2", "the link is gone"
    pool.release("10.0.0.2", "link2", 100)
    assert pool.allocate(100 + netplan.QUARANTINE - 1, there) == "10.0.0.4"
    assert pool.allocate(100 + netplan.QUARANTINE, there) == "10.0.0.2", "long enough"


def test_a_full_pool_in_quarantine_is_exhausted() -> None:
    pool = AddressPool("10.0.0.0/30", "10.0.0.1")
    assert pool.allocate(0, gone) == "10.0.0.2"
    pool.release("10.0.0.2", "link", 0)
    with pytest.raises(netplan.Exhausted):
        pool.allocate(0, there)
    assert pool.allocate(0, gone) == "10.0.0.2"


def test_taking_a_certain_address() -> None:
    pool = AddressPool("10.0.0.0/24", "10.0.0.1")
    pool.take("10.0.0.9")
    for address in ("10.0.0.9", "10.0.0.1", "10.0.0.0", "10.0.0.255", "10.0.1.5"):
        with pytest.raises(netplan.AddressTaken):
            pool.take(address)
    assert pool.allocate(0, gone) == "10.0.0.2"


@given(st.lists(st.one_of(st.none(), st.integers(0, 20)), max_size=80))
def test_no_address_twice(steps: list[int | None]) -> None:
    """None allocates, a number gives back the so-many-th address held."""
    pool, held = AddressPool("10.0.0.0/27", "10.0.0.1"), []
    for step in steps:
        if step is None and len(held) < 29:
            address = pool.allocate(0, gone)
            assert address not in held
            assert address == min({f"10.0.0.{n}" for n in range(2, 31)} - {*held}, key=ipaddress.IPv4Address)
            held.append(address)
        elif step is not None and held:
            pool.release(held.pop(step % len(held)), "link", 0)
    assert len(pool) == len(held)


# --- ports -----------------------------------------------------------------------------------------------------------


def free(_proto: str, _ip: str, _port: int) -> bool:
    return True


def asked(port: int, ip: str = netplan.ANY, last: int = 0, proto: str = "tcp") -> Request:
    return Request(proto, (ip,), port, last or port, 80)


@pytest.mark.parametrize(
    ("first", "second", "clash"),
    [
        (asked(8080), asked(8080), True),
        (asked(8080), asked(8080, "127.0.0.1"), True),
        (asked(8080, "127.0.0.1"), asked(8080), True),
        (asked(8080, "127.0.0.1"), asked(8080, "127.0.0.1"), True),
        (asked(8080, "127.0.0.1"), asked(8080, "127.0.0.2"), False),
        (asked(8080), asked(8080, proto="udp"), False),
        (asked(8080), asked(8081), False),
    ],
)
def test_conflicts(first: Request, second: Request, clash: bool) -> None:
    ports = Ports(range(40000, 40003))
    held = ports.allocate([first], free)
    if clash:
        with pytest.raises(PortTaken) as refused:
            ports.allocate([second], free)
        assert str(refused.value) == f"Bind for {second.host_ips[0]}:8080 failed: port is already allocated"
    else:
        ports.release(ports.allocate([second], free))
    ports.release(held)
    ports.allocate([second], free)


def test_all_or_none() -> None:
    ports = Ports(range(40000, 40003))
    ports.allocate([asked(81)], free)
    with pytest.raises(PortTaken):
        ports.allocate([asked(80), asked(81)], free)
    assert ports.allocate([asked(80)], free) == [Binding("tcp", netplan.ANY, 80, 80)]


def test_dynamic_ports_go_round_and_skip_what_the_host_holds() -> None:
    ports = Ports(range(40000, 40004))
    given_out = [ports.allocate([asked(0)], lambda _p, _i, port: port != 40001)[0].host_port for _ in range(3)]
    assert given_out == [40000, 40002, 40003]
    with pytest.raises(PortTaken, match="all ports are allocated"):
        ports.allocate([asked(0)], lambda _p, _i, port: port != 40001)
    ports.release([Binding("tcp", netplan.ANY, 40002, 80)])
    assert ports.allocate([asked(0)], free)[0].host_port in (40001, 40002)


def test_what_is_asked_for_by_number_comes_first() -> None:
    ports = Ports(range(40000, 40004))
    found = ports.allocate([asked(0), asked(40001), asked(40000, last=40002)], free)
    assert [binding.host_port for binding in found] == [40002, 40001, 40000], "and all in the order of the requests"


def test_range_takes_the_first_free_one() -> None:
    ports = Ports([])
    wanted = asked(8000, last=8002)
    assert [ports.allocate([wanted], lambda _p, _i, port: port != 8001)[0].host_port for _ in range(2)] == [8000, 8002]
    with pytest.raises(PortTaken, match=r"Bind for 0\.0\.0\.0:8000-8002 failed: port is already allocated"):
        ports.allocate([wanted], lambda _p, _i, port: port != 8001)


def test_dynamic_range_without_reserved() -> None:
    assert netplan.dynamic_ports("32768\t32772\n", "32769,32771-32780\n") == [32768, 32770]
    assert netplan.dynamic_ports("10 12", "") == [10, 11, 12]


def test_what_is_published() -> None:
    bindings = {"80/tcp": [("", "8080"), ("127.0.0.1", "")], "53/udp": None, "90/tcp": [("[::1]", "9000-9010")]}
    assert netplan.port_requests(bindings, ["80/tcp", "443/tcp"], False) == [
        Request("tcp", ("0.0.0.0",), 8080, 8080, 80),
        Request("tcp", ("127.0.0.1",), 0, 0, 80),
        Request("udp", ("0.0.0.0",), 0, 0, 53),
        Request("tcp", ("::1",), 9000, 9010, 90),
    ]
    assert netplan.port_requests({"80/tcp": [("", "8080")]}, ["80/tcp", "443/tcp"], True, ("127.0.0.1",)) == [
        Request("tcp", ("127.0.0.1",), 8080, 8080, 80),
        Request("tcp", ("127.0.0.1",), 0, 0, 443),
    ]


def test_everywhere_is_one_port_of_both_protocols() -> None:
    ports = Ports(range(40000, 40004))
    everywhere = Request("tcp", ("0.0.0.0", "::"), 0, 0, 80)
    held = ports.allocate([everywhere], lambda _p, ip, port: not (ip == "::" and port == 40000))
    assert held == [Binding("tcp", "0.0.0.0", 40001, 80), Binding("tcp", "::", 40001, 80)]
    with pytest.raises(PortTaken, match="Bind for ::1:40001 failed"):
        ports.allocate([asked(40001, "::1")], free)
    ports.release(held[1:])
    ports.allocate([asked(40001, "::1")], free)
