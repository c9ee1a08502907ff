"""The default bridge: addresses, published ports, what reaches what."""

from __future__ import annotations

import socket
import time
from typing import Any

import pytest

from tests.support import busybox, netns, steps
from tests.support.engines import Engine
from tests.support.rawhttp import Connection

SERVE = ["httpd", "-f", "-p", "80", "-h", "/www"]


def published(port: int, host_ip: str = "", inside: str = "80/tcp") -> dict[str, object]:
    return {"PortBindings": {inside: [{"HostIp": host_ip, "HostPort": str(port) if port else ""}]}}


def web(api: Connection, host: dict[str, object] | None = None, **more: object) -> str:
    return steps.started(api, *SERVE, host=host, ExposedPorts={"80/tcp": {}}, **more)


def fetch(engine: Engine, port: int, host: str = "127.0.0.1") -> bytes:
    end = time.monotonic() + 5
    while True:
        try:
            with engine.connect(port, host) as sock:
                sock.sendall(b"GET / HTTP/1.0\r\n\r\n")
                pieces = []
                while piece := sock.recv(65536):
                    pieces.append(piece)
                if pieces:
                    return b"".join(pieces).partition(b"\r\n\r\n")[2]
        except ConnectionError:
            pass  # docker-proxy accepts before the server inside listens
        assert time.monotonic() < end, "the page never came"
        time.sleep(0.02)


def address(api: Connection, identifier: str) -> str:
    return str(steps.inspect(api, identifier)["NetworkSettings"]["Networks"]["bridge"]["IPAddress"])


def test_address_gateway_and_route(engine: Engine, api: Connection) -> None:
    identifier = steps.sleeper(api)
    settings = steps.inspect(api, identifier)["NetworkSettings"]
    network = settings["Networks"]["bridge"]
    prefix = engine.subnet.rsplit(".", 1)[0]
    assert network["IPAddress"].startswith(prefix) and network["IPPrefixLen"] == 24
    assert network["Gateway"] == engine.gateway
    code, printed = steps.exec_sh(api, identifier, "ip -4 -o addr show eth0; ip route; ip link show eth0")
    assert code == 0
    assert f"{network['IPAddress']}/24" in printed and f"default via {engine.gateway} dev eth0" in printed
    assert network["MacAddress"] in printed and "mtu 1500" in printed


def test_a_mac_address_of_ones_own(engine: Engine, api: Connection) -> None:
    """The container's, and of API 1.44 on the endpoint's."""
    asked: list[dict[str, Any]] = [{"MacAddress": "02:42:ac:11:00:7a"}]
    if engine.name == "dockyardd":
        settings = {"bridge": {"MacAddress": "02:42:ac:11:00:7a"}}
        asked.append({"NetworkingConfig": {"EndpointsConfig": settings}})
    for settings in asked:
        identifier = steps.sleeper(api, **settings)
        assert steps.exec_sh(api, identifier, "cat /sys/class/net/eth0/address") == (0, "02:42:ac:11:00:7a\n")
        network = steps.inspect(api, identifier)["NetworkSettings"]["Networks"]["bridge"]
        assert network["MacAddress"] == "02:42:ac:11:00:7a"
        steps.remove(api, identifier)


def test_the_host_and_a_container_reach_each_other(engine: Engine, api: Connection) -> None:
    identifier = web(api)
    assert fetch(engine, 80, address(api, identifier)) == busybox.PAGE
    printed = steps.sh(api, f"ping -c 1 -W 2 {engine.gateway} >/dev/null && echo reached")
    assert printed == "reached\n"


def test_containers_reach_each_other(engine: Engine, api: Connection) -> None:
    where = address(api, web(api))
    printed = steps.sh(api, f"for i in 1 2 3 4 5 6 7 8 9; do wget -q -O - http://{where}/ && break; sleep 0.1; done")
    assert printed.encode() == busybox.PAGE


@pytest.mark.parametrize("host_ip", ["", "0.0.0.0", "127.0.0.1"])
def test_published_port(engine: Engine, api: Connection, host_ip: str) -> None:
    identifier = web(api, published(18081, host_ip))
    assert fetch(engine, 18081) == busybox.PAGE
    ports = steps.inspect(api, identifier)["NetworkSettings"]["Ports"]["80/tcp"]
    assert {"HostIp": host_ip or "0.0.0.0", "HostPort": "18081"} in ports
    if host_ip == "127.0.0.1":
        with pytest.raises(OSError):
            engine.connect(18081, engine.gateway, timeout=0.3)
    else:
        assert fetch(engine, 18081, engine.gateway) == busybox.PAGE


def test_published_to_the_host_by_ipv6_loopback(engine: Engine, api: Connection) -> None:
    web(api, published(18082))
    assert fetch(engine, 18082, "::1") == busybox.PAGE


def test_port_of_choice(engine: Engine, api: Connection) -> None:
    identifier = web(api, published(0))
    port = int(steps.inspect(api, identifier)["NetworkSettings"]["Ports"]["80/tcp"][0]["HostPort"])
    assert port >= 32768 and fetch(engine, port) == busybox.PAGE


def test_publish_all(engine: Engine, api: Connection) -> None:
    identifier = web(api, {"PublishAllPorts": True})
    port = int(steps.inspect(api, identifier)["NetworkSettings"]["Ports"]["80/tcp"][0]["HostPort"])
    assert fetch(engine, port) == busybox.PAGE


def test_port_range_takes_a_free_one(engine: Engine, api: Connection) -> None:
    bindings = {"PortBindings": {"80/tcp": [{"HostPort": "18090-18092"}]}}
    ports = set()
    for _ in range(3):
        found = steps.inspect(api, web(api, bindings))["NetworkSettings"]["Ports"]["80/tcp"][0]["HostPort"]
        assert fetch(engine, int(found)) == busybox.PAGE
        ports.add(int(found))
    assert ports == {18090, 18091, 18092}


def test_udp(engine: Engine, api: Connection) -> None:
    """The server is a socket of ours in the container's namespace: busybox has none for UDP."""
    identifier = steps.sleeper(api, host=published(18083, "", "7/udp"), ExposedPorts={"7/udp": {}})
    pid = steps.inspect(api, identifier)["State"]["Pid"]
    with netns.entered(f"/proc/{pid}/ns/net"):
        server = udp_socket(("0.0.0.0", 7))
    with netns.entered(engine.netns_path or "/proc/self/ns/net"):
        asking = udp_socket(("0.0.0.0", 0))
    with server, asking:
        asking.connect(("127.0.0.1", 18083))

        def asked() -> bytes:
            """One exchange; a datagram may be lost while the bridge learns its ports."""
            try:
                asking.send(b"hello")
                data, peer = server.recvfrom(100)
                server.sendto(data.upper(), peer)
                return asking.recv(100)
            except TimeoutError:
                return b""

        assert steps.eventually(asked) == b"HELLO"


def udp_socket(where: tuple[str, int]) -> socket.socket:
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.settimeout(0.5)
    sock.bind(where)
    return sock


def test_a_container_reaches_a_published_port_of_another(engine: Engine, api: Connection) -> None:
    web(api, published(18084))
    fetch(engine, 18084)
    assert steps.sh(api, f"timeout 3 wget -q -O - http://{engine.gateway}:18084/").encode() == busybox.PAGE


def test_a_container_reaches_its_own_published_port(engine: Engine, api: Connection) -> None:
    identifier = web(api, published(18085))
    fetch(engine, 18085)
    code, printed = steps.exec_sh(api, identifier, f"timeout 3 wget -q -O - http://{engine.gateway}:18085/")
    assert (code, printed.encode()) == (0, busybox.PAGE)


def test_port_in_use_by_another_container(engine: Engine, api: Connection) -> None:
    web(api, published(18086))
    identifier = steps.create(api, *SERVE, host=published(18086), ExposedPorts={"80/tcp": {}})
    answer = api.post(f"/containers/{identifier}/start")
    assert answer.status == 500
    assert "18086" in answer.message and "port is already allocated" in answer.message
    state = steps.inspect(api, identifier)["State"]
    assert state["Status"] == "created" and "18086" in state["Error"]
    done = engine.docker("run", "-p", "18086:80", "bb", "true", check=False)
    assert done.returncode == 125


def test_port_in_use_by_a_process_of_the_host(engine: Engine, api: Connection) -> None:
    with netns.entered(engine.netns_path or "/proc/self/ns/net"):
        holder = socket.create_server(("0.0.0.0", 18087))
    with holder:
        identifier = steps.create(api, *SERVE, host=published(18087), ExposedPorts={"80/tcp": {}})
        answer = api.post(f"/containers/{identifier}/start")
        assert answer.status == 500 and "18087" in answer.message and "address already in use" in answer.message
    steps.start(api, identifier)
    assert fetch(engine, 18087) == busybox.PAGE


def test_no_process_of_the_host_takes_a_published_port(engine: Engine, api: Connection) -> None:
    web(api, published(18088))
    with netns.entered(engine.netns_path or "/proc/self/ns/net"), pytest.raises(OSError):
        socket.create_server(("0.0.0.0", 18088)).close()


def test_ports_are_free_again(engine: Engine, api: Connection) -> None:
    for _ in range(3):
        identifier = web(api, published(18089))
        assert fetch(engine, 18089) == busybox.PAGE
        api.post(f"/containers/{identifier}/kill")
        steps.wait(api, identifier)
        with pytest.raises(OSError):
            engine.connect(18089, timeout=0.1)


def test_restart_keeps_the_published_port(engine: Engine, api: Connection) -> None:
    identifier = web(api, published(18080))
    assert fetch(engine, 18080) == busybox.PAGE
    api.post(f"/containers/{identifier}/restart", None, t=0)
    assert fetch(engine, 18080) == busybox.PAGE


def test_network_of_another_container_shares_ports(engine: Engine, api: Connection) -> None:
    base = steps.sleeper(api, host=published(18079), ExposedPorts={"80/tcp": {}})
    guest = steps.started(api, *SERVE, host={"NetworkMode": f"container:{base}"})
    assert fetch(engine, 18079) == busybox.PAGE
    through = {"NetworkMode": f"container:{guest}"}
    assert base[:12] in steps.run(api, "cat", "/etc/hosts", host=through)[1], "the names come with the network"


def test_outside_is_reached_by_nat(engine: Engine, api: Connection) -> None:
    """A host behind another link sees the engine's address, not the container's."""
    if engine.namespace is None:
        pytest.skip("needs a network of our own")
    outside = netns.NetNamespace()
    try:
        pid = outside.path.split("/")[2]
        engine.in_network("ip", "link", "add", "out0", "type", "veth", "peer", "name", "out1", "netns", pid)
        engine.in_network("ip", "addr", "add", "192.0.2.1/24", "dev", "out0")
        engine.in_network("ip", "link", "set", "out0", "up")
        outside.run("ip", "addr", "add", "192.0.2.2/24", "dev", "out1")
        outside.run("ip", "link", "set", "out1", "up")
        with netns.entered(outside.path):
            server = socket.create_server(("192.0.2.2", 9999))
        with server:
            server.settimeout(5)
            identifier = steps.started(api, "sh", "-c", "echo hi | nc -w 3 192.0.2.2 9999")
            accepted, peer = server.accept()
            with accepted:
                assert peer[0] == "192.0.2.1" and accepted.recv(100) == b"hi\n"
        steps.wait(api, identifier)
        # and from there a published port answers
        web(api, published(18078))
        fetch(engine, 18078)
        with netns.connect(outside.path, "192.0.2.1", 18078) as sock:
            sock.sendall(b"GET / HTTP/1.0\r\n\r\n")
            assert b"200 OK" in sock.recv(1000)
    finally:
        engine.in_network("ip", "link", "del", "out0", check=False)
        outside.close()


def test_networks_are_listed(engine: Engine, api: Connection) -> None:
    rows = {row["Name"]: row for row in api.get("/networks").json()}
    assert {"bridge", "host", "none"} <= set(rows)
    assert {row["Name"] for row in api.get("/networks/").json()} == set(rows)
    assert rows["bridge"]["Driver"] == "bridge" and rows["bridge"]["IPAM"]["Config"][0]["Subnet"] == engine.subnet
    identifier = steps.sleeper(api)
    found = api.get("/networks/bridge").json()["Containers"]
    assert found[identifier]["IPv4Address"] == f"{address(api, identifier)}/24"
    assert api.get("/networks/nonet").status == 404


def test_unknown_network(engine: Engine, api: Connection) -> None:
    body = {"Image": "bb", "HostConfig": {"NetworkMode": "nonet"}}
    answer = api.post("/containers/create", body)
    if answer.status == 201:  # 20.10 looks at the start
        answer = api.post(f"/containers/{answer.json()['Id']}/start")
    assert answer.status == 404 and "network nonet not found" in answer.message
