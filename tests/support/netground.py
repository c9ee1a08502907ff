"""A host, its LAN and its containers, all of them network namespaces of the tests.

Owns: `Ground` (the simulated host with bridge and rules of `runtime.network_host`), containers that are nothing but a
namespace, small servers and clients in any of them. Does not own: what is tested with it.
"""

from __future__ import annotations

import secrets
import socket
import subprocess
import threading
from collections.abc import Callable
from typing import Any, TypeVar

from dockyard.runtime import network, network_host
from tests.support import netns

T = TypeVar("T")

SUBNET, GATEWAY = "10.231.77.0/24", "10.231.77.1"
HOST_LAN, LAN = "198.51.100.1", "198.51.100.2"
BRIDGE_MAC = "02:42:0a:e7:4d:01"


class Ground:
    """A host with one bridge (`bridge`) and one machine on its LAN. Rules are not set up before `set_up`."""

    def __init__(self, bridge: str = "dyt77") -> None:
        self.bridge = bridge
        self.table = f"dockyard_{bridge}"
        self.host, self.lan = netns.NetNamespace(), netns.NetNamespace()
        self.guests: list[Guest] = []
        self.plans: list[network.NetworkPlan] = []
        self._sockets: list[socket.socket] = []
        self.relay = ""  # the directory of a relay's socket, for ports on IPv6 addresses
        pid = self.lan.path.split("/")[2]
        self.host.run("ip", "link", "add", "lan0", "type", "veth", "peer", "name", "lan0", "netns", pid)
        self.host.run("sh", "-c", f"ip address add {HOST_LAN}/24 dev lan0 && ip link set lan0 up")
        self.lan.run("sh", "-c", f"ip address add {LAN}/24 dev lan0 && ip link set lan0 up")
        self.lan.run("ip", "route", "add", SUBNET, "via", HOST_LAN)

    def close(self) -> None:
        for one in self._sockets:
            one.close()
        for guest in self.guests:
            guest.namespace.close()
        self.lan.close()
        self.host.close()

    def bridge_setup(self, **changes: Any) -> network_host.BridgeSetup:
        setup: dict[str, Any] = {
            "name": self.bridge, "address": f"{GATEWAY}/24", "subnet": SUBNET, "mac": BRIDGE_MAC, "mtu": 1500,
            "icc": True, "masquerade": True, "owned": True,
        }  # fmt: skip
        return network_host.BridgeSetup(**(setup | changes))  # type: ignore[typeddict-item]

    def set_up(self, **changes: Any) -> network_host.HostReport:
        return self.on_host(
            network_host.set_up, table=self.table, bridges=[self.bridge_setup(**changes)], plans=self.plans
        )

    def tear_down(self) -> None:
        self.on_host(network_host.tear_down, table=self.table, bridges=[self.bridge_setup()])

    def on_host(self, function: Callable[..., T], *arguments: Any, **named: Any) -> T:
        with netns.entered(self.host.path):
            return function(*arguments, **named)

    def guest(self, *ports: tuple[str, str, int, int], number: int = 0) -> Guest:
        """A started container; `ports` are (proto, host ip, host port, port)."""
        guest = Guest(self, number or len(self.guests) + 2, ports)
        self.guests.append(guest)
        self.plans.append(guest.plan)
        guest.start()
        return guest

    def nft(self, *arguments: str) -> str:
        return self.host.run("nft", *arguments).stdout

    def keep(self, one: socket.socket) -> None:
        self._sockets.append(one)


class Guest:
    """A simulated container: a namespace that went through what monitor and init do."""

    def __init__(self, ground: Ground, number: int, ports: tuple[tuple[str, str, int, int], ...]) -> None:
        self.ground = ground
        self.namespace = netns.NetNamespace()
        self.pid = int(self.namespace.path.split("/")[2])
        self.id = secrets.token_hex(32)
        self.endpoint = secrets.token_hex(32)
        self.ip = f"10.231.77.{number}"
        self.plan = network.NetworkPlan(
            container=self.id,
            name=f"guest{number}",
            endpoint=self.endpoint,
            table=ground.table,
            interfaces=[
                network.Interface(
                    name="eth0",
                    veth=network_host.veth_name(self.id, self.endpoint),
                    bridge=ground.bridge,
                    bridge_mac=BRIDGE_MAC,
                    mac=f"02:42:0a:e7:4d:{number:02x}",
                    ip=self.ip,
                    prefix=24,
                    gateway=GATEWAY,
                    mtu=1500,
                    isolated=False,
                )
            ],
            ports=[
                network.Port(proto=proto, host_ip=host_ip, host_port=host_port, ip=self.ip, port=port)
                for proto, host_ip, host_port, port in ports
                if ":" not in host_ip
            ],
            relayed=[
                network.Port(proto=proto, host_ip=host_ip, host_port=host_port, ip=self.ip, port=port)
                for proto, host_ip, host_port, port in ports
                if ":" in host_ip
            ],
            relay=ground.relay,
        )
        self.held: list[socket.socket] = []

    def start(self) -> None:
        self.held = self.ground.on_host(network.bind_ports, self.plan)
        for one in self.held:
            self.ground.keep(one)
        self.ground.on_host(network.attach_host, self.plan, self.pid)
        with netns.entered(self.namespace.path):
            network.configure_inside(self.plan)

    def stop(self) -> None:
        self.ground.on_host(network.detach_host, self.plan)
        for one in self.held:
            one.close()
        self.namespace.close()
        self.ground.guests.remove(self)
        self.ground.plans.remove(self.plan)


def serve_tcp(path: str, port: int, keep: Callable[[socket.socket], None]) -> None:
    """In the namespace at `path`: tells every client the address that it was seen under."""
    with netns.entered(path):
        listener = socket.create_server(("0.0.0.0", port))
    keep(listener)

    def loop() -> None:
        while True:
            try:
                client, address = listener.accept()
            except OSError:
                return
            with client:
                client.sendall(address[0].encode())

    threading.Thread(target=loop, daemon=True).start()


def serve_udp(path: str, port: int, keep: Callable[[socket.socket], None]) -> None:
    """As `serve_tcp`, by datagrams."""
    with netns.entered(path):
        server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        server.bind(("0.0.0.0", port))
    keep(server)

    def loop() -> None:
        while True:
            try:
                _, address = server.recvfrom(100)
                server.sendto(address[0].encode(), address)
            except OSError:
                return

    threading.Thread(target=loop, daemon=True).start()


def ask_tcp(path: str, host: str, port: int, timeout: float = 2.0, source: str = "") -> str | None:
    """What the server at host:port says to a client in the namespace at `path`; None: no connection."""
    with _client(path, host, socket.SOCK_STREAM, timeout) as client:
        try:
            if source:
                client.bind((source, 0))
            client.connect((host, port))
            return client.recv(100).decode()
        except OSError:
            return None


def ask_udp(path: str, host: str, port: int, timeout: float = 2.0) -> str | None:
    with _client(path, host, socket.SOCK_DGRAM, timeout) as client:
        try:
            client.connect((host, port))
            client.send(b"?")
            return client.recv(100).decode()
        except OSError:
            return None


def _client(path: str, host: str, kind: socket.SocketKind, timeout: float) -> socket.socket:
    with netns.entered(path):
        client = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, kind)
    client.settimeout(timeout)
    return client


def ping(namespace: netns.NetNamespace, ip: str) -> bool:
    done: subprocess.CompletedProcess[str] = namespace.run("busybox", "ping", "-c1", "-W1", ip, check=False)
    return done.returncode == 0
