"""The engine's networks on a simulated host: allocation, upkeep, a daemon that comes back."""

from __future__ import annotations

import asyncio
import importlib
import os
import socket
import subprocess
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from dockyard.engine.bridges import BridgeOptions
from dockyard.engine.endpoints import Allocation
from dockyard.engine.networks import Networks
from dockyard.model.container import ContainerConfig, EndpointIPAMConfig, EndpointSettings, HostConfig, PortBinding
from dockyard.model.errors import Forbidden, InvalidArgument, NotFound, SystemFailure
from dockyard.proto import netplan
from dockyard.proto.filters import Filters
from dockyard.runtime import network
from dockyard.store.db import Database
from dockyard.store.networks import NetworkStore
from tests.support import netns

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
BRIDGE = "dyt78"


@dataclass
class Box:
    """What the engine asks of a container."""

    id: str
    name: str = "box"
    config: ContainerConfig = field(default_factory=ContainerConfig)
    host: HostConfig = field(default_factory=HostConfig)
    spec: Any = field(default_factory=lambda: SimpleNamespace(networks={}))
    endpoints: dict[str, EndpointSettings] = field(default_factory=dict)
    ports: dict[str, list[PortBinding] | None] = field(default_factory=dict)


def box(
    number: int = 1, *, mode: str = "", bindings: dict[str, list[tuple[str, str]]] | None = None, **host: Any
) -> Box:
    ports = {
        port: [PortBinding(host_ip=ip, host_port=text) for ip, text in wanted]
        for port, wanted in (bindings or {}).items()
    }
    config = ContainerConfig(exposed_ports={port: {} for port in ports})
    return Box(
        f"{number:064x}"[::-1], f"box{number}", config, HostConfig(network_mode=mode, port_bindings=ports, **host)
    )


class Stage:
    """One data root on one simulated host; daemons on it come and go."""

    def __init__(self, root: Path, host: netns.NetNamespace) -> None:
        self.root, self.host = root, host
        self.calls: list[str] = []

    async def call(self, function: str, arguments: dict[str, Any]) -> Any:
        """In place of a worker."""
        self.calls.append(function.rpartition(":")[2])
        module, _, name = function.partition(":")
        return getattr(importlib.import_module(module), name)(**arguments)

    def run(self, use: Callable[[Networks], Awaitable[None]], *, close: bool = True, **options: Any) -> None:
        """A daemon's life: start, `use`, and a clean stop (or none)."""

        async def life() -> None:
            database = Database(self.root / "dockyard.db")
            database.open()
            networks = Networks(
                NetworkStore(database),
                BridgeOptions(**({"name": BRIDGE, "bip": "10.231.78.1/24"} | options)),
                self.call,
                clock=time.time_ns,
            )
            try:
                await networks.start()
                await use(networks)
                if close:
                    await networks.close()
                elif networks._watch is not None:
                    networks._watch.close()
            finally:
                database.close()

        with netns.entered(self.host.path):
            asyncio.run(life())


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    host = netns.NetNamespace()
    yield Stage(tmp_path, host)
    host.close()


async def nothing(_networks: Networks) -> None:
    pass


def test_the_three_default_networks_keep_their_ids(stage: Stage) -> None:
    seen: list[dict[str, str]] = []

    async def look(networks: Networks) -> None:
        seen.append({row.name: row.id for row in networks.list()})
        for name in ("bridge", "host", "none"):
            row = networks.get(name)
            assert networks.get(row.id) is networks.get(row.id[:12]) is row
        assert networks.get("none").driver == "null"
        assert (networks.get("bridge").subnet, networks.gateway) == ("10.231.78.0/24", "10.231.78.1")
        for wanted, names in (
            ({"driver": ["bridge"]}, {"bridge"}),
            ({"type": ["custom"]}, set()),
            ({"name": ["o"]}, {"host", "none"}),
            ({"scope": ["swarm"]}, set()),
            ({"dangling": ["true"]}, set()),
        ):
            assert {row.name for row in networks.list(Filters(wanted))} == names
        with pytest.raises(NotFound, match="network nosuch not found"):
            networks.get("nosuch")
        with pytest.raises(InvalidArgument):
            networks.list(Filters({"type": ["odd"]}))
        with pytest.raises(Forbidden):
            await networks.remove("bridge")
        with pytest.raises(Forbidden):
            await networks.create("host")

    stage.run(look)
    stage.run(look)
    assert seen[0] == seen[1]
    assert set(seen[0]) == {"bridge", "host", "none"}
    assert all(len(id_) == 64 for id_ in seen[0].values())


def test_without_a_bridge_its_containers_have_the_loopback_only(stage: Stage) -> None:
    async def use(networks: Networks) -> None:
        got = await networks.allocate(box(1, bindings={"80/tcp": [("", "8080")]}))
        assert got.plan is not None and got.plan["interfaces"] == []
        assert (got.endpoints, got.ports, networks.gateway) == ({}, {}, "1.2.3.4")

    stage.run(use, name="none", bip="", host_gateway="1.2.3.4")


def test_what_a_container_on_the_bridge_gets(stage: Stage) -> None:
    async def use(networks: Networks) -> None:
        one = box(1, bindings={"80/tcp": [("", "8080")], "53/udp": [("127.0.0.1", "")]})
        one.config.exposed_ports = {"80/tcp": {}, "443/tcp": {}}
        got = await networks.allocate(one)
        endpoint = got.endpoints["bridge"]
        assert endpoint.network_id == networks.get("bridge").id
        assert len(endpoint.endpoint_id) == 64
        assert (endpoint.ip_address, endpoint.ip_prefix_len, endpoint.gateway, endpoint.mac_address) == (
            "10.231.78.2", 24, "10.231.78.1", "02:42:0a:e7:4e:02",
        )  # fmt: skip
        assert got.ports["80/tcp"] == [PortBinding(host_ip="0.0.0.0", host_port="8080")]
        assert got.ports["443/tcp"] is None
        dynamic = got.ports["53/udp"]
        assert dynamic is not None and dynamic[0].host_ip == "127.0.0.1" and 32768 <= int(dynamic[0].host_port) < 61000
        assert got.plan is not None
        assert got.plan["interfaces"][0]["bridge_mac"] == "02:42:0a:e7:4e:01"
        assert [(container.name, e.ip_address) for container, e in networks.members(networks.get("bridge"))] == [
            ("box1", "10.231.78.2")
        ]
        two = await networks.allocate(box(2))
        assert two.endpoints["bridge"].ip_address == "10.231.78.3"
        await networks.release(one.id)
        again = await networks.allocate(box(3, bindings={"80/tcp": [("", "8080")]}))
        assert again.endpoints["bridge"].ip_address == "10.231.78.2", "its link never was"

    stage.run(use)


def test_a_container_starts_again_while_its_old_link_is_there(stage: Stage) -> None:
    """The kernel takes a network namespace apart later than the container ends."""
    holders = [hold_namespace(), hold_namespace()]

    async def use(networks: Networks) -> None:
        for holder in holders:
            got = await networks.allocate(box(1, bindings={"80/tcp": [("", "8080")]}))
            network.attach_host(got.plan, holder.pid)
            network.detach_host(got.plan)
            await networks.release(got.container.id)

    try:
        stage.run(use)
    finally:
        for holder in holders:
            holder.communicate()


def test_modes_without_a_bridge(stage: Stage) -> None:
    async def use(networks: Networks) -> None:
        none = await networks.allocate(box(1, mode="none"))
        assert none.plan is not None and none.plan["interfaces"] == []
        assert none.endpoints["none"].network_id == networks.get("none").id
        host = await networks.allocate(box(2, mode="host", bindings={"80/tcp": [("", "8080")]}))
        assert (host.plan, host.ports) == (None, {})
        assert [c.name for c, _ in networks.members(networks.get("host"))] == ["box2"]
        joined = await networks.allocate(box(3, mode="container:" + "a" * 64))
        assert (joined.plan, joined.endpoints) == (None, {})
        off = box(4)
        off.config.network_disabled = True
        disabled = await networks.allocate(off)
        assert disabled.plan is not None and (disabled.plan["interfaces"], disabled.endpoints) == ([], {})
        with pytest.raises(NotFound, match="network mine not found"):
            await networks.allocate(box(5, mode="mine"))

    stage.run(use)


def test_refusals_in_dockers_words(stage: Stage) -> None:
    async def use(networks: Networks) -> None:
        first = await networks.allocate(box(1, bindings={"80/tcp": [("", "8080")]}))
        with pytest.raises(
            SystemFailure,
            match=r"driver failed programming external connectivity on endpoint box2 \([0-9a-f]{64}\): "
            r"Bind for 127\.0\.0\.1:8080 failed: port is already allocated",
        ):
            await networks.allocate(box(2, bindings={"80/tcp": [("127.0.0.1", "8080")]}))
        assert (await networks.allocate(box(3))).endpoints["bridge"].ip_address == "10.231.78.3", "nothing was kept"
        await networks.release(first.container.id)
        await networks.allocate(box(4, bindings={"80/tcp": [("", "8080")]}))
        asking = box(5)
        asking.spec.networks = {"bridge": EndpointSettings(ipam_config=EndpointIPAMConfig(ipv4_address="10.231.78.9"))}
        with pytest.raises(InvalidArgument) as refused:
            await networks.allocate(asking)
        assert str(refused.value) == (
            "invalid config for network bridge: invalid endpoint settings:\n"
            "user specified IP address is supported on user defined networks only"
        )
        odd = box(6)
        odd.config.mac_address = "not a mac"
        with pytest.raises(InvalidArgument, match="invalid MAC address: not a mac"):
            await networks.allocate(odd)
        wanted = box(7)
        wanted.config.mac_address = "02-42-AC-11-00-99"
        assert (await networks.allocate(wanted)).endpoints["bridge"].mac_address == "02:42:ac:11:00:99"

    stage.run(use)


def test_dynamic_ports_pass_over_what_the_host_holds(stage: Stage) -> None:
    stage.host.run("sh", "-c", "echo 40000 40002 > /proc/sys/net/ipv4/ip_local_port_range")

    async def use(networks: Networks) -> None:
        with socket.create_server(("127.0.0.1", 40000)):
            got = await networks.allocate(box(1, bindings={"80/tcp": [("", "")]}))
        assert got.ports["80/tcp"] == [PortBinding(host_ip="0.0.0.0", host_port="40001")]

    stage.run(use)


def test_a_full_subnet_and_a_full_bridge_say_so(stage: Stage) -> None:
    async def small(networks: Networks) -> None:
        for number in range(5):
            await networks.allocate(box(number))
        with pytest.raises(SystemFailure, match="no available IPv4 addresses on this network's address pools: bridge"):
            await networks.allocate(box(9))

    stage.run(small, bip="10.231.78.1/29")

    async def large(networks: Networks) -> None:
        begun = time.perf_counter()
        for number in range(netplan.BRIDGE_PORTS):
            await networks.allocate(box(number))
        print(f"allocate: {(time.perf_counter() - begun) / netplan.BRIDGE_PORTS * 1e6:.0f} µs")
        with pytest.raises(SystemFailure, match="network bridge is full: bridge dyt78 has 1023 ports"):
            await networks.allocate(box(2000))

    stage.run(large, bip="10.231.72.1/21", close=False)


def test_a_clean_stop_leaves_nothing_and_one_with_containers_leaves_all(stage: Stage) -> None:
    async def use(networks: Networks) -> None:
        await networks.allocate(box(1, mode="host"))

    stage.run(use)
    assert BRIDGE not in stage.host.run("ip", "link").stdout
    assert stage.host.run("nft", "list", "ruleset").stdout == ""

    async def keep(networks: Networks) -> None:
        await networks.allocate(box(1))

    stage.run(keep)
    assert BRIDGE in stage.host.run("ip", "link").stdout
    assert f"table ip dockyard_{BRIDGE}" in stage.host.run("nft", "list", "ruleset").stdout


def hold_namespace() -> subprocess.Popen[bytes]:
    process = subprocess.Popen(
        ["unshare", "--net", "sh", "-c", "echo; exec cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    process.stdout.readline()
    return process


def test_a_new_daemon_takes_over_and_sweeps(stage: Stage) -> None:
    living, dead = (box(number, bindings={"80/tcp": [("", str(8080 + number))]}) for number in (1, 2))
    holders = [hold_namespace(), hold_namespace()]
    held: list[socket.socket] = []
    try:

        async def first(networks: Networks) -> None:
            for container, holder in zip((living, dead), holders, strict=True):
                got = await networks.allocate(container)
                container.endpoints, container.ports = got.endpoints, got.ports
                held.extend(network.bind_ports(got.plan))
                network.attach_host(got.plan, holder.pid)

        stage.run(first, close=False)
        stage.host.run("nft", "flush", "ruleset")

        async def second(networks: Networks) -> None:
            await networks.restore([living])
            rules = stage.host.run("nft", "list", "ruleset").stdout
            assert living.id in rules, "brought back after the flush"
            assert dead.id not in rules
            links = stage.host.run("ip", "-o", "link").stdout
            assert f"dyv{living.id[:7]}" in links
            assert f"dyv{dead.id[:7]}" not in links
            with pytest.raises(SystemFailure, match="port is already allocated"):
                await networks.allocate(box(3, bindings={"80/tcp": [("", "8081")]}))
            assert (await networks.allocate(box(4))).endpoints["bridge"].ip_address == "10.231.78.3"
            [(_, endpoint)] = [m for m in networks.members(networks.get("bridge")) if m[0] is living]
            assert endpoint.ip_address == "10.231.78.2"

        stage.run(second)
    finally:
        for one in held:
            one.close()
        for holder in holders:
            holder.communicate()


def test_rules_come_back_by_themselves(stage: Stage) -> None:
    async def eventually(wanted: Callable[[], bool]) -> None:
        for _ in range(200):
            await asyncio.sleep(0.02)
            if wanted():
                return
        raise AssertionError("it never came")

    def rules() -> str:
        return stage.host.run("nft", "list", "ruleset").stdout

    async def use(networks: Networks) -> None:
        one = await networks.allocate(box(1, bindings={"80/tcp": [("", "8080")]}))
        stage.host.run("nft", "flush", "ruleset")
        await eventually(lambda: one.container.id in rules() and "masquerade" in rules())
        assert networks.firewall_notes() == []
        stage.host.run("iptables-nft", "-P", "FORWARD", "DROP")
        await eventually(lambda: bool(networks.firewall_notes()))
        assert "iptables-nft FORWARD drops forwarded packets" in networks.firewall_notes()[0]
        await asyncio.sleep(0.1)
        calls = len(stage.calls)
        await asyncio.sleep(0.3)
        assert len(stage.calls) == calls, "our own changes do not wake us"
        await networks.release(one.container.id)

    stage.run(use)
    assert "dockyard" not in rules()


def test_a_chosen_range_avoids_what_the_host_uses(stage: Stage) -> None:
    stage.host.run("ip", "address", "add", "172.17.5.5/24", "dev", "lo")
    stage.host.run("sh", "-c", "ip route add blackhole 172.18.0.0/16")
    chosen: list[str] = []

    async def look(networks: Networks) -> None:
        chosen.append(networks.get("bridge").subnet)

    stage.run(look, bip="")
    assert chosen == ["172.19.0.0/16"]
    stage.host.run("ip", "route", "del", "172.18.0.0/16")
    stage.run(look, bip="")
    assert chosen[1] == "172.19.0.0/16", "the choice is kept"
    stage.host.run("ip", "address", "add", "172.19.1.1/16", "dev", "lo")
    stage.run(look, bip="")
    assert chosen[2] == "172.18.0.0/16", "somebody else has taken it meanwhile"


def test_a_bridge_of_the_administrator_is_used_and_left(stage: Stage) -> None:
    stage.host.run("ip", "link", "add", BRIDGE, "type", "bridge")
    stage.host.run("ip", "address", "add", "10.231.79.7/24", "dev", BRIDGE)

    async def use(networks: Networks) -> None:
        got: Allocation = await networks.allocate(box(1))
        assert got.endpoints["bridge"].gateway == "10.231.79.7"
        mac = stage.host.run("cat", f"/sys/class/net/{BRIDGE}/address", check=False).stdout
        shown = stage.host.run("ip", "-o", "link", "show", BRIDGE).stdout
        assert got.plan is not None
        assert got.plan["interfaces"][0]["bridge_mac"] in shown, mac
        await networks.release(got.container.id)

    stage.run(use, bip="")
    assert BRIDGE in stage.host.run("ip", "link").stdout


@pytest.mark.parametrize("bip", ["10.0.0.1", "10.0.0.0/24", "10.0.0.255/24", "nonsense", "10.0.0.1/31", "fd00::1/64"])
def test_bad_bip_is_refused_by_name(stage: Stage, bip: str) -> None:
    with pytest.raises(InvalidArgument, match=f"invalid bip {bip}"):
        stage.run(nothing, bip=bip)


def test_no_default_bridge(stage: Stage) -> None:
    async def use(networks: Networks) -> None:
        assert {row.name for row in networks.list()} == {"host", "none"}
        got = await networks.allocate(box(1))
        assert got.endpoints == {} and got.plan is not None  # a namespace of its own with nothing but its loopback

    stage.run(use, name="none", bip="")
    assert stage.host.run("nft", "list", "ruleset").stdout == ""
