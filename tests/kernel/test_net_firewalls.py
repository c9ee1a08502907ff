"""Beside other people's firewalls: a FORWARD that drops, in each of the ways in which it can be said."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator

import pytest

from dockyard.runtime import network_firewall
from tests.support.netground import HOST_LAN, LAN, Ground, ask_tcp, ping, serve_tcp

pytestmark = pytest.mark.skipif(
    os.geteuid() != 0 or not shutil.which("iptables-nft") or not shutil.which("nft"), reason="needs root, nft, iptables"
)

NATIVE = "add table inet admin; add chain inet admin transit { type filter hook forward priority 10; policy %s; }"
# what somebody did before us, in the shell of the host
FIREWALLS = {
    "iptables-nft": ["iptables-nft -P FORWARD DROP"],
    "iptables-legacy": ["iptables-legacy -P FORWARD DROP"],
    "both": ["iptables-nft -P FORWARD DROP", "iptables-legacy -P FORWARD DROP"],
    "docker": [
        "iptables-nft -P FORWARD DROP",
        "iptables-nft -N DOCKER-USER",
        "iptables-nft -A DOCKER-USER -j RETURN",
        "iptables-nft -A FORWARD -j DOCKER-USER",
        "iptables-nft -A FORWARD -o docker0 -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT",
    ],
    "iptables-nft, last rule": ["iptables-nft -A FORWARD -j REJECT --reject-with icmp-host-prohibited"],
    "iptables-legacy, last rule": ["iptables-legacy -A FORWARD -j DROP"],
    "nftables": [f"nft '{NATIVE % 'drop'}'"],
    "nftables, last rule": [f"nft '{NATIVE % 'accept'}'", "nft add rule inet admin transit counter reject"],
}


@pytest.fixture(params=["0", "1"], ids=["bridge-nf=0", "bridge-nf=1"])
def ground(request: pytest.FixtureRequest) -> Iterator[Ground]:
    ground = Ground()
    try:
        setting = "/proc/sys/net/bridge/bridge-nf-call-iptables"
        ground.host.run("sh", "-c", f"test ! -e {setting} || echo {request.param} > {setting}")
        yield ground
    finally:
        ground.close()


def prepare(ground: Ground, commands: list[str]) -> None:
    for command in commands:
        try:
            ground.host.run("sh", "-c", command)
        except subprocess.CalledProcessError as error:
            pytest.fail(f"{command}: {error.stderr}")


def foreign_rules(ground: Ground) -> str:
    legacy = "filter" in ground.host.run("sh", "-c", "cat /proc/thread-self/net/ip_tables_names").stdout
    return ground.nft("-s", "list", "ruleset") + (
        ground.host.run("iptables-legacy", "-S").stdout if legacy else ""
    )  # listing would make the table


def check_traffic(ground: Ground) -> None:
    one, two = ground.guest(("tcp", "0.0.0.0", 8080, 80)), ground.guest()
    serve_tcp(one.namespace.path, 80, ground.keep)
    serve_tcp(ground.lan.path, 8000, ground.keep)
    assert ask_tcp(ground.lan.path, HOST_LAN, 8080) == LAN
    assert ask_tcp(ground.host.path, "127.0.0.1", 8080)
    assert ask_tcp(one.namespace.path, LAN, 8000) == HOST_LAN
    assert ask_tcp(two.namespace.path, one.ip, 80) == two.ip
    assert ping(two.namespace, one.ip)
    assert ask_tcp(two.namespace.path, HOST_LAN, 8080)
    assert ask_tcp(one.namespace.path, HOST_LAN, 8080), "the container itself"
    assert ask_tcp(ground.lan.path, one.ip, 80, timeout=0.3) is None, "not published"


@pytest.mark.parametrize("kind", FIREWALLS)
def test_traffic_passes_a_forward_that_drops(ground: Ground, kind: str) -> None:
    prepare(ground, FIREWALLS[kind])
    before = foreign_rules(ground)
    report = ground.set_up()
    assert [note["text"] for note in report["notes"] if ground.bridge in note["text"]]
    check_traffic(ground)
    once = foreign_rules(ground)
    again = ground.set_up()
    assert again["notes"] == report["notes"]
    assert foreign_rules(ground) == once, "a second time changes nothing"
    for guest in list(ground.guests):
        guest.stop()
    ground.tear_down()
    assert foreign_rules(ground) == before, "everything of ours is gone"


def test_without_the_accepts_nothing_passes(ground: Ground) -> None:
    """That the simulated firewall bites: otherwise the tests above prove nothing."""
    prepare(ground, FIREWALLS["iptables-nft"])
    ground.set_up()
    ground.on_host(network_firewall.withdraw, [ground.table], [ground.bridge])
    one = ground.guest(("tcp", "0.0.0.0", 8080, 80))
    serve_tcp(one.namespace.path, 80, ground.keep)
    assert ask_tcp(ground.lan.path, HOST_LAN, 8080, timeout=0.3) is None


def test_what_an_administrator_forbids_stays_forbidden(ground: Ground) -> None:
    prepare(ground, ["iptables-nft -P FORWARD DROP", f"iptables-nft -A FORWARD -s {LAN} -p tcp --dport 80 -j DROP"])
    ground.set_up()
    one = ground.guest(("tcp", "0.0.0.0", 8080, 80))
    serve_tcp(one.namespace.path, 80, ground.keep)
    assert ask_tcp(ground.lan.path, HOST_LAN, 8080, timeout=0.3) is None
    assert ask_tcp(ground.host.path, HOST_LAN, 8080)


def test_a_firewall_that_accepts_is_left_alone(ground: Ground) -> None:
    prepare(ground, ["iptables-nft -P FORWARD ACCEPT", f"nft '{NATIVE % 'accept'}'"])
    before = foreign_rules(ground)
    report = ground.set_up()
    assert report["notes"] == []
    ground.tear_down()
    assert foreign_rules(ground) == before


def test_accepts_follow_a_firewall_that_comes_and_goes(ground: Ground) -> None:
    ground.set_up()
    prepare(ground, FIREWALLS["iptables-nft"])
    assert ground.set_up()["notes"]
    check_traffic(ground)
    ground.host.run("iptables-nft", "-A", "FORWARD", "-j", "DROP")
    assert ground.set_up()["notes"]
    listing = ground.host.run("iptables-nft", "-S", "FORWARD").stdout.splitlines()
    assert listing[-1] == "-A FORWARD -j DROP", "the accepts have moved before it"
    ground.host.run("iptables-nft", "-D", "FORWARD", "-j", "DROP")
    ground.host.run("iptables-nft", "-P", "FORWARD", "ACCEPT")
    assert ground.set_up()["notes"] == []
    assert "dockyard:" not in ground.host.run("iptables-nft", "-S").stdout


def test_iptables_is_not_brought_into_being(ground: Ground) -> None:
    ground.set_up()
    assert "table ip filter" not in ground.nft("list", "ruleset")
    assert ground.host.run("cat", "/proc/thread-self/net/ip_tables_names").stdout == ""


def test_two_daemons_share_a_host(ground: Ground) -> None:
    prepare(ground, FIREWALLS["iptables-nft"])
    ground.set_up()
    first = ground.nft("-s", "list", "table", "ip", ground.table)
    other = Ground.__new__(Ground)
    other.__dict__.update(ground.__dict__)
    other.bridge, other.table = "dyt7", "dockyard_dyt7"  # a beginning of the first one's name
    other.plans = []
    try:
        other.set_up(address="10.231.78.1/24", subnet="10.231.78.0/24", mac="02:42:0a:e7:4e:01")
        assert ground.nft("-s", "list", "table", "ip", ground.table) == first
        check_traffic(ground)
        first = ground.nft("-s", "list", "table", "ip", ground.table)
    finally:
        other.tear_down()
    assert ground.nft("-s", "list", "table", "ip", ground.table) == first
    shown = ground.host.run("iptables-nft", "-S", "FORWARD").stdout
    assert f"dockyard:{ground.bridge}" in shown
    assert "dockyard:dyt7 " not in shown
