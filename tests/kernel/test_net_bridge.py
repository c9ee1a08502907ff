"""Containers on a bridge, on the real kernel: who reaches whom, and what is left behind."""

from __future__ import annotations

import errno
import os
import socket
import struct
import time
from collections.abc import Iterator

import pytest

from dockyard.linux import rtnetlink
from dockyard.linux.netlink import Netlink
from dockyard.linux.nfnetlink import Element, Elements, SharedElements
from dockyard.runtime import network, network_host
from tests.support import netns
from tests.support.netground import (
    GATEWAY,
    HOST_LAN,
    LAN,
    Ground,
    Guest,
    ask_tcp,
    ask_udp,
    ping,
    serve_tcp,
    serve_udp,
)
from tests.support.steps import eventually

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")


@pytest.fixture(params=["0", "1"], ids=["bridge-nf=0", "bridge-nf=1"])
def ground(request: pytest.FixtureRequest) -> Iterator[Ground]:
    """A host with its rules, with and without bridged packets passing iptables."""
    ground = Ground()
    try:
        setting = "/proc/sys/net/bridge/bridge-nf-call-iptables"
        ground.host.run("sh", "-c", f"test ! -e {setting} || echo {request.param} > {setting}")
        ground.set_up()
        yield ground
    finally:
        ground.close()


def veths(ground: Ground) -> list[str]:
    def listed() -> list[str]:
        with Netlink() as netlink:
            return [link.name for link in rtnetlink.links(netlink) if link.name.startswith("dyv")]

    return ground.on_host(listed)


def wait_until_gone(ground: Ground) -> None:
    end = time.monotonic() + 10
    while veths(ground):
        assert time.monotonic() < end, veths(ground)
        time.sleep(0.02)


def test_containers_reach_each_other_and_the_lan(ground: Ground) -> None:
    one, two = ground.guest(), ground.guest()
    serve_tcp(two.namespace.path, 80, ground.keep)
    serve_tcp(ground.lan.path, 8000, ground.keep)
    assert ping(one.namespace, two.ip)
    assert ping(one.namespace, GATEWAY)
    assert ask_tcp(one.namespace.path, two.ip, 80) == one.ip
    assert ask_tcp(one.namespace.path, LAN, 8000) == HOST_LAN, "outgoing connections carry the host's address"


def test_published_port_from_everywhere(ground: Ground) -> None:
    one, two = ground.guest(("tcp", "0.0.0.0", 8080, 80), ("udp", "0.0.0.0", 5353, 53)), ground.guest()
    serve_tcp(one.namespace.path, 80, ground.keep)
    serve_udp(one.namespace.path, 53, ground.keep)
    assert ask_tcp(ground.lan.path, HOST_LAN, 8080) == LAN, "the client's address is kept"
    assert ask_udp(ground.lan.path, HOST_LAN, 5353) == LAN
    assert ask_tcp(ground.host.path, HOST_LAN, 8080) == HOST_LAN
    assert ask_tcp(ground.host.path, "127.0.0.1", 8080) == GATEWAY
    assert ask_udp(ground.host.path, "127.0.0.1", 5353) == GATEWAY
    for target in (GATEWAY, HOST_LAN):
        assert ask_tcp(two.namespace.path, target, 8080), f"a neighbour, by {target}"
        assert ask_tcp(one.namespace.path, target, 8080), f"the container itself, by {target}"
        assert ask_udp(one.namespace.path, target, 5353), f"the container itself, by {target}, UDP"


def test_udp_clients_that_never_stop_asking_reach_the_new_container(ground: Ground) -> None:
    """Connection tracking remembers where their first datagram went: nowhere, or to a container that has ended."""
    with netns.entered(ground.lan.path):
        clients = [socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(3)]
    for client in clients:
        ground.keep(client)
        client.settimeout(0.5)
        client.connect((HOST_LAN, 5353))

    def ask(attempts: int = 4) -> list[str]:
        return [ask_one(client, attempts) for client in clients]

    def ask_one(client: socket.socket, attempts: int) -> str:
        for _ in range(attempts):  # a flow that is remembered wrongly stays so, however often it is tried
            try:
                client.send(b"?")
                return client.recv(100).decode()
            except OSError:
                continue
        return ""

    assert ask(1) == ["", "", ""]
    for number in (5, 6):
        guest = ground.guest(("udp", "0.0.0.0", 5353, 53), number=number)
        serve_udp(guest.namespace.path, 53, ground.keep)
        assert ask() == [LAN] * 3, f"container {number}"
        guest.stop()


def test_unpublished_ports_stay_closed(ground: Ground) -> None:
    one = ground.guest(("tcp", "0.0.0.0", 8080, 80))
    serve_tcp(one.namespace.path, 80, ground.keep)
    serve_tcp(one.namespace.path, 81, ground.keep)
    for port in (80, 81):
        assert ask_tcp(ground.lan.path, one.ip, port, timeout=0.3) is None, "the LAN has a route, and no business"
        assert ask_tcp(ground.host.path, one.ip, port) == GATEWAY


def send_loopback_by(namespace: netns.NetNamespace, gateway: str) -> None:
    """From now on, packets to 127.0.0.1 leave the namespace by its gateway."""
    namespace.run(
        "sh",
        "-ec",
        "echo 1 > /proc/sys/net/ipv4/conf/all/route_localnet; ip route del local 127.0.0.1 dev lo table local; "
        f"ip route del local 127.0.0.0/8 dev lo table local; ip route add 127.0.0.1 via {gateway}",
    )


def hears(path: str, ip: str, port: int, sender: netns.NetNamespace, target: tuple[str, int]) -> bool:
    """Whether a datagram from `sender` to `target` arrives at ip:port in the namespace at `path`: an attacker needs no
    answer."""
    with netns.entered(path):
        server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    with netns.entered(sender.path):
        client = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    with server, client:
        server.bind((ip, port))
        server.settimeout(0.3)
        try:
            client.sendto(b"!", target)
            return server.recv(10) == b"!"
        except OSError:
            return False


def test_s52_port_on_loopback_is_unreachable_from_lan(ground: Ground) -> None:
    one = ground.guest(("tcp", "127.0.0.1", 8080, 80), ("udp", "127.0.0.1", 5353, 53))
    serve_tcp(one.namespace.path, 80, ground.keep)
    send_loopback_by(ground.lan, HOST_LAN)
    ground.host.run("sh", "-c", "echo 1 > /proc/sys/net/ipv4/conf/all/route_localnet")  # the worst case
    for again in (False, True):
        if again:
            ground.nft("flush", "ruleset")
            ground.set_up()
        assert ask_tcp(ground.host.path, "127.0.0.1", 8080), "from the host itself"
        eventually(lambda: hears(one.namespace.path, "0.0.0.0", 53, ground.host, ("127.0.0.1", 5353)))
        assert not hears(one.namespace.path, "0.0.0.0", 53, ground.lan, ("127.0.0.1", 5353))
        assert not hears(one.namespace.path, "0.0.0.0", 53, ground.lan, (one.ip, 53))
        assert ask_tcp(ground.lan.path, HOST_LAN, 8080, timeout=0.3) is None
        assert ask_tcp(ground.lan.path, one.ip, 80, timeout=0.3) is None


def test_a_container_does_not_reach_the_hosts_loopback(ground: Ground) -> None:
    """Bridges have route_localnet: nothing but the drop of 127/8 keeps a container from services on 127.0.0.1."""
    one = ground.guest()
    eventually(lambda: hears(ground.host.path, GATEWAY, 9000, one.namespace, (GATEWAY, 9000)))  # the way is there
    send_loopback_by(one.namespace, GATEWAY)
    assert not hears(ground.host.path, "127.0.0.1", 9000, one.namespace, ("127.0.0.1", 9000))


def test_port_on_one_address(ground: Ground) -> None:
    one = ground.guest(("tcp", HOST_LAN, 8080, 80))
    serve_tcp(one.namespace.path, 80, ground.keep)
    assert ask_tcp(ground.lan.path, HOST_LAN, 8080) == LAN
    assert ask_tcp(ground.host.path, "127.0.0.1", 8080) is None
    assert ask_tcp(one.namespace.path, HOST_LAN, 8080), "hairpin"


def test_ports_come_back_after_a_flush_and_a_repeated_set_up_changes_nothing(ground: Ground) -> None:
    one = ground.guest(("tcp", "0.0.0.0", 8080, 80), ("tcp", HOST_LAN, 8081, 80))
    serve_tcp(one.namespace.path, 80, ground.keep)
    before = ground.nft("-s", "list", "table", "ip", ground.table)
    ground.set_up()
    assert ground.nft("-s", "list", "table", "ip", ground.table) == before
    ground.nft("flush", "ruleset")
    assert ask_tcp(ground.lan.path, HOST_LAN, 8080, timeout=0.5) is None
    ground.set_up()
    assert ground.nft("-s", "list", "table", "ip", ground.table) == before
    assert ask_tcp(ground.lan.path, HOST_LAN, 8080) == LAN


def test_elements_name_their_container(ground: Ground) -> None:
    one = ground.guest(("tcp", "0.0.0.0", 8080, 80))
    listing = ground.nft("list", "map", "ip", ground.table, "ports")
    assert f'tcp . 8080 comment "{one.id}" : {one.ip} . 80' in listing


def test_s54_no_ipv6_but_on_loopback(ground: Ground) -> None:
    one = ground.guest()
    time.sleep(0.1)
    shown = one.namespace.run("ip", "-6", "-o", "address").stdout
    assert "eth0" not in shown
    assert "::1/128" in shown
    assert one.namespace.run("ip", "-6", "route", "show", "dev", "eth0", check=False).stdout == ""


def test_what_the_container_sees(ground: Ground) -> None:
    one = ground.guest()
    link = one.namespace.run("ip", "-o", "link", "show", "eth0").stdout
    assert "02:42:0a:e7:4d:02" in link
    assert "mtu 1500" in link
    assert one.namespace.run("ip", "route").stdout.splitlines() == [
        f"default via {GATEWAY} dev eth0 ",
        f"10.231.77.0/24 dev eth0 proto kernel scope link src {one.ip} ",
    ]
    assert f"{GATEWAY} lladdr 02:42:0a:e7:4d:01 PERMANENT" in one.namespace.run("ip", "neigh", "show").stdout.replace(
        "dev eth0 ", ""
    )


def test_a_port_in_use_is_refused_by_name(ground: Ground) -> None:
    with netns.entered(ground.host.path):
        listener = socket.create_server(("0.0.0.0", 8080))
        datagrams = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        datagrams.bind(("127.0.0.1", 5353))
    with listener, datagrams:
        for ports in ([("tcp", "0.0.0.0", 8080, 80)], [("udp", "0.0.0.0", 9, 9), ("udp", "127.0.0.1", 5353, 53)]):
            guest = Guest(ground, 9, tuple(ports))
            with pytest.raises(network.PortUnavailable) as refused:
                ground.on_host(network.bind_ports, guest.plan)
            proto, ip, host_port, port = ports[-1]
            assert str(refused.value) == (
                f"driver failed programming external connectivity on endpoint guest9 ({guest.endpoint}): "
                f"failed to bind host port for {ip}:{host_port}:10.231.77.9:{port}/{proto}: address already in use"
            )
            assert refused.value.errno == errno.EADDRINUSE
            guest.namespace.close()


@pytest.mark.parametrize("reuse", [False, True])
def test_held_ports_cannot_be_taken(ground: Ground, reuse: bool) -> None:
    one = ground.guest(("tcp", "0.0.0.0", 8080, 80), ("udp", "0.0.0.0", 8080, 80))
    with netns.entered(ground.host.path):
        for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
            with socket.socket(socket.AF_INET, kind) as other:
                if reuse:
                    other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                with pytest.raises(OSError, match="Address already in use"):
                    other.bind(("127.0.0.1", 8080))
        with pytest.raises(network.PortUnavailable):
            network.bind_ports(one.plan)


def test_many_ports_are_held_by_few_descriptors(ground: Ground) -> None:
    one = ground.guest(*(("tcp", "0.0.0.0", 20000 + number, 80) for number in range(600)))
    serve_tcp(one.namespace.path, 80, ground.keep)
    assert len(one.held) == 1
    assert ask_tcp(ground.lan.path, HOST_LAN, 20599) == LAN
    with netns.entered(ground.host.path):
        for number in (20000, 20599):
            with socket.socket() as other, pytest.raises(OSError, match="Address already in use"):
                other.bind(("", number))
        one.stop()
        for number in (20000, 20599):
            with socket.socket() as other:
                other.bind(("", number))
    assert "elements" not in ground.nft("list", "map", "ip", ground.table, "ports")


def test_an_address_that_the_host_lacks(ground: Ground) -> None:
    guest = Guest(ground, 9, (("tcp", "203.0.113.9", 8080, 80),))
    with pytest.raises(network.PortUnavailable, match=r"203\.0\.113\.9:8080.*cannot assign requested address"):
        ground.on_host(network.bind_ports, guest.plan)
    guest.namespace.close()


def test_a_failed_attach_leaves_nothing(ground: Ground) -> None:
    first = ground.guest(("tcp", "0.0.0.0", 8080, 80))
    second = Guest(ground, 9, (("tcp", "0.0.0.0", 8081, 80), ("tcp", "0.0.0.0", 8080, 80)))
    with pytest.raises(OSError, match=r"add port elements .*(busy|exists)"):
        ground.on_host(network.attach_host, second.plan, second.pid)
    second.namespace.close()
    wanted = [interface["veth"] for interface in first.plan["interfaces"]]
    assert veths(ground) == wanted
    assert "8081" not in ground.nft("list", "ruleset")
    assert second.ip not in ground.host.run("ip", "neigh").stdout
    third = Guest(ground, 10, ())
    third.plan["interfaces"][0]["bridge"] = "nosuch0"
    with pytest.raises(OSError, match="network interface nosuch0"):
        ground.on_host(network.attach_host, third.plan, third.pid)
    third.namespace.close()


def test_adding_the_same_ports_twice_is_no_conflict(ground: Ground) -> None:
    """The daemon may bring rules back while a monitor adds its own."""
    one = ground.guest(("tcp", "0.0.0.0", 8080, 80))

    def again() -> None:
        with Elements() as transactions:
            transactions.add(ground.table, network.elements(one.plan))

    ground.on_host(again)


def test_shared_transactions_of_forked_processes(ground: Ground) -> None:
    """Many processes over one socket at once: every one gets its own answers, also after one died half-way."""

    def in_children() -> list[int]:
        rules = SharedElements()
        children = []
        for number in range(8):
            pid = os.fork()
            if pid == 0:
                code = 1
                try:
                    for round in range(6):
                        element = Element(
                            network.PORTS,
                            bytes((6, 0, 0, 0)) + struct.pack("!Hxx", 1000 + number * 50 + round),
                            b"\1" * 8,
                        )
                        with rules as transactions:
                            transactions.add(ground.table, [element])
                            transactions.delete(ground.table, [element])
                            try:
                                transactions.delete(ground.table, [element])
                            except FileNotFoundError:
                                code = 0
                finally:
                    os._exit(code)
            children.append(pid)
        return [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in children]

    assert ground.on_host(in_children) == [0] * 8
    assert "elements" not in ground.nft("list", "map", "ip", ground.table, "ports")


def test_sweep_takes_what_belongs_to_nobody(ground: Ground) -> None:
    one, two = ground.guest(("tcp", "0.0.0.0", 8080, 80)), ground.guest(("tcp", "127.0.0.1", 8081, 80))
    kept = [interface["veth"] for interface in one.plan["interfaces"]]
    swept = ground.on_host(network_host.sweep, table=ground.table, bridges=[ground.bridge], live=[one.id], veths=kept)
    assert swept["veths"] == [two.plan["interfaces"][0]["veth"]]
    assert swept["ports"] == [f"8081 of {two.id[:12]}"]
    assert veths(ground) == [one.plan["interfaces"][0]["veth"]]
    listing = ground.nft("list", "ruleset")
    assert one.id in listing
    assert two.id not in listing


def test_tear_down_leaves_the_host_as_it_was(ground: Ground) -> None:
    guest = ground.guest(("tcp", "0.0.0.0", 8080, 80))
    guest.stop()
    wait_until_gone(ground)
    ground.tear_down()
    assert ground.nft("list", "ruleset") == ""
    assert ground.bridge not in ground.host.run("ip", "link").stdout


def test_two_hundred_starts_leave_nothing(ground: Ground) -> None:
    """Each attach and detach in turn, with a port; prints what a start costs."""
    took: list[float] = []
    descriptors = len(os.listdir("/proc/self/fd"))
    for round in range(200):
        guest = Guest(ground, 2 + round % 200, (("tcp", "0.0.0.0", 8080, 80),))
        ground.guests.append(guest)
        ground.plans.append(guest.plan)
        held = ground.on_host(network.bind_ports, guest.plan)
        with netns.entered(ground.host.path):
            begun = time.perf_counter()
            network.attach_host(guest.plan, guest.pid)
            middle = time.perf_counter()
        with netns.entered(guest.namespace.path):
            again = time.perf_counter()
            network.configure_inside(guest.plan)
            took.append(middle - begun + time.perf_counter() - again)
        for one in held:
            one.close()
        guest.stop()
    wait_until_gone(ground)
    print(f"attach_host + configure_inside: median {sorted(took)[100] * 1e3:.2f} ms, p95 {sorted(took)[190] * 1e3:.2f}")
    assert "8080" not in ground.nft("list", "ruleset")
    assert ground.host.run("ip", "neigh", "show", "dev", ground.bridge).stdout == ""
    assert len(os.listdir("/proc/self/fd")) <= descriptors + 1


@pytest.mark.parametrize("ground", ["0"], indirect=True)
def test_a_transaction_of_any_size(ground: Ground) -> None:
    """More than a socket's buffers usually take, of requests and of acknowledgements: all of it or nothing."""
    many = [
        Element(name, bytes((protocol, 0, 0, 0)) + address + struct.pack("!Hxx", port), b"\1" * 8, "c" * 64)
        for name, address in ((network.PORTS, b""), (network.HOST_PORTS, b"\1\2\3\4"))
        for protocol in (6, 17)
        for port in range(1, 1 << 14)
    ]

    def steps() -> None:
        with Elements() as transactions:
            transactions.add(ground.table, many)
            assert len(transactions.list(ground.table, network.PORTS)) == len(many) // 2
            with pytest.raises(FileNotFoundError):
                transactions.delete(ground.table, [*many, many[0]])
            assert len(transactions.list(ground.table, network.HOST_PORTS)) == len(many) // 2
            transactions.delete(ground.table, many)
            assert not transactions.list(ground.table, network.PORTS)

    ground.on_host(steps)
