"""What a container has got of the networks, in the shapes that others want.

Owns: `Allocation`; the parts of a plan for the container's monitor, what clients are shown, and the way back from there
after a restart. Pure. Does not own: which addresses and ports are free (`engine.networks`).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from dockyard.model.container import ContainerConfig, EndpointSettings, HostConfig, PortBinding
from dockyard.model.errors import InvalidArgument
from dockyard.proto import netplan
from dockyard.runtime import network, network_host
from dockyard.store.networks import NetworkRow


class Requester(Protocol):
    """What is asked of a container: `engine.container.Container` is one."""

    @property
    def id(self) -> str: ...
    @property
    def name(self) -> str: ...
    @property
    def config(self) -> ContainerConfig: ...
    @property
    def host(self) -> HostConfig: ...
    @property
    def spec(self) -> Any:
        """`.networks`: the endpoints asked for, by network name."""

    @property
    def endpoints(self) -> dict[str, EndpointSettings]:
        """What it got, while it runs."""

    @property
    def ports(self) -> dict[str, list[PortBinding] | None]: ...


@dataclass(slots=True)
class Allocation:
    """What a container got: the plan for `Launch.network` (None: nothing to set up), and what to show of it."""

    container: Requester
    plan: network.NetworkPlan | None
    endpoints: dict[str, EndpointSettings]
    ports: dict[str, list[PortBinding] | None]
    bindings: list[netplan.Binding]


def interface(container_id: str, row: NetworkRow, endpoint: EndpointSettings) -> network.Interface:
    """A container's end on the bridge of `row`."""
    return network.Interface(
        name="eth0",
        veth=network_host.veth_name(container_id, endpoint.endpoint_id),
        bridge=row.bridge,
        bridge_mac=row.options.get("mac") or netplan.mac_of(row.gateway),
        mac=endpoint.mac_address,
        ip=endpoint.ip_address,
        prefix=endpoint.ip_prefix_len,
        gateway=endpoint.gateway,
        mtu=row.mtu,
        isolated=not row.icc,
    )


def add_ports(plan: network.NetworkPlan, bindings: Iterable[netplan.Binding], address: str) -> None:
    """Those on IPv6 addresses go to the relay."""
    for binding in bindings:
        plan["relayed" if ":" in binding.host_ip else "ports"].append(_port(binding, address))


def _port(binding: netplan.Binding, address: str) -> network.Port:
    return network.Port(
        proto=binding.proto, host_ip=binding.host_ip, host_port=binding.host_port, ip=address, port=binding.port
    )


def shown_ports(container: Requester, bindings: Sequence[netplan.Binding]) -> dict[str, list[PortBinding] | None]:
    """`NetworkSettings.Ports`: every exposed port, None where it is not published."""
    shown: dict[str, list[PortBinding] | None] = {}
    for binding in bindings:
        entry = shown.setdefault(f"{binding.port}/{binding.proto}", [])
        assert entry is not None
        entry.append(PortBinding(host_ip=binding.host_ip, host_port=str(binding.host_port)))
    for port in container.config.exposed_ports or ():
        shown.setdefault(port, None)
    return shown


def bindings_of(ports: dict[str, list[PortBinding] | None]) -> list[netplan.Binding]:
    """The way back from `shown_ports`."""
    return [
        netplan.Binding(name.partition("/")[2], binding.host_ip, int(binding.host_port), int(name.partition("/")[0]))
        for name, bindings in ports.items()
        for binding in bindings or ()
    ]


def checked_mac(mac: str) -> str:
    """Six bytes, not a group address; lower case with colons."""
    try:
        raw = bytes.fromhex(mac.replace(":", "").replace("-", ""))
    except ValueError:
        raw = b""
    if len(raw) != 6 or raw[0] & 1:
        raise InvalidArgument(f"invalid MAC address: {mac}")
    return raw.hex(":")
