"""Networks: which there are, what a container gets from them at its start, and keeping the host in order for them.

Owns: the three default networks, addresses and ports of running containers (in memory; the containers' rows are their
record), bringing bridge and rules up and back when somebody flushed them. Does not own: the arithmetic
(`proto.netplan`), carrying out a plan (`runtime.network`, in the container's monitor), the host's side
(`runtime.network_host`, in a worker), rows (`store.networks`).
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import socket
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

from msgspec.structs import replace

from dockyard.engine import endpoints, probes
from dockyard.engine.bridges import BridgeOptions, choose_bridge, host_resolvers
from dockyard.engine.endpoints import Allocation, Requester
from dockyard.engine.metrics import Metrics
from dockyard.model.container import EndpointSettings, HostConfig
from dockyard.model.errors import DockyardError, Forbidden, InvalidArgument, NotFound, NotServed, SystemFailure
from dockyard.proto import netplan
from dockyard.proto.filters import Filters
from dockyard.runtime import network, network_host, network_rules, relay
from dockyard.runtime.network_watch import FirewallWatch
from dockyard.store.networks import NetworkRow, NetworkStore

log = logging.getLogger(__name__)

Call = Callable[[str, dict[str, Any]], Awaitable[Any]]
Bindings = list[netplan.Binding]  # `list` is a method's name below
Members = list[tuple[Any, EndpointSettings]]  # (Requester, what it got)
Setups = list[network_host.BridgeSetup]
PREDEFINED = ("bridge", "host", "none")
_DRIVERS = {"none": "null", "host": "host", "bridge": "bridge"}
_HOST = "dockyard.runtime.network_host"


class Networks:
    """All networks of one engine. `start` before anything else, `close` at the end."""

    def __init__(
        self,
        store: NetworkStore,
        options: BridgeOptions,
        call: Call,
        *,
        clock: Callable[[], int],
        relay_directory: str = "",
        metrics: Metrics | None = None,
    ) -> None:
        """`call`: `Runtime.call`. `clock`: wall clock in ns. `relay_directory`: where the relay of IPv6 ports has its
        socket (the exec root); "": ports are published on IPv4 addresses only."""
        self._timed = (metrics or Metrics()).networks.timed
        self._store = store
        self._options = options
        self._call = call
        self._clock = clock
        self._relay_directory = relay_directory
        self._relay: socket.socket | None = None  # it lives as long as somebody is connected
        self._rows: dict[str, NetworkRow] = {}  # by name
        self._pool: netplan.AddressPool | None = None
        self._ports = netplan.Ports(probes.dynamic_ports())
        self._allocations: dict[str, Allocation] = {}  # by container id
        self._notes: list[str] = []
        self._watch: FirewallWatch | None = None
        self._refreshing: asyncio.Task[None] | None = None
        self._refresh_again = False

    # --- the engine's life -------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Make the default networks, and the host ready for them. InvalidArgument for bad options, SystemFailure."""
        self._rows = {row.name: row for row in await self._store.load()}
        survey = await self._call(f"{_HOST}:survey", {})
        for name in ("none", "host"):
            if name not in self._rows:
                await self._save(self._new_row(name))
        if self._options.name == "none":
            self._rows.pop("bridge", None)
            return
        known = self._rows.get("bridge")
        wanted = choose_bridge(self._options, known or self._new_row("bridge"), known is None, survey, host_resolvers())
        if wanted != known:
            await self._save(wanted)
        self._pool = netplan.AddressPool(wanted.subnet, wanted.gateway)
        await self._set_up()
        self._watch = FirewallWatch(asyncio.get_running_loop(), self._table, self._refresh_soon)

    async def close(self) -> None:
        """Leave the host as it was found if no container needs its bridge; leave everything otherwise."""
        if self._watch is not None:
            self._watch.close()
            self._watch = None
        if self._relay is not None:
            self._relay.close()
        if self._refreshing is not None:
            self._refreshing.cancel()
            await asyncio.gather(self._refreshing, return_exceptions=True)
        if self._pool is None or any(a.plan and a.plan["interfaces"] for a in self._allocations.values()):
            return
        await self._call(f"{_HOST}:tear_down", {"table": self._table, "bridges": self._bridges()})

    async def restore(self, running: Iterable[Requester]) -> None:
        """After a restart of the daemon: take over what running containers hold, sweep what nobody holds."""
        for container in running:
            self._allocations[container.id] = self._readopt(container)
        await self.sweep()
        if any(allocation.bindings for allocation in self._allocations.values()):
            await self._set_up()  # rules may have been flushed meanwhile

    async def sweep(self) -> dict[str, list[str]]:
        """Remove veths and port elements of containers that are gone: {"veths", "ports"} as text."""
        if self._pool is None:
            return {"veths": [], "ports": []}
        bridges = [bridge["name"] for bridge in self._bridges()]
        plans = [allocation.plan for allocation in self._allocations.values() if allocation.plan is not None]
        arguments = {
            "table": self._table,
            "bridges": bridges,
            "live": [*self._allocations],
            "veths": [interface["veth"] for plan in plans for interface in plan["interfaces"]],
        }
        swept: dict[str, list[str]] = await self._call(f"{_HOST}:sweep", arguments)
        for kind, names in swept.items():
            if names:
                log.warning("swept %s of containers that are gone: %s", kind, ", ".join(names))
        return swept

    def firewall_notes(self) -> list[str]:
        """What stands in other people's firewalls for us, for `info`."""
        return list(self._notes)

    @property
    def gateway(self) -> str:
        """What `host-gateway` means: what the daemon was told, or the default bridge's address; "" with neither."""
        row = self._rows.get("bridge")
        return self._options.host_gateway or (row.gateway if row else "")

    # --- networks ----------------------------------------------------------------------------------------------------

    def get(self, ref: str) -> NetworkRow:
        """By name, id or unambiguous beginning of an id. NotFound "network REF not found"."""
        if ref in self._rows:
            return self._rows[ref]
        found = [row for row in self._rows.values() if ref and row.id.startswith(ref)]
        if len(found) > 1 and all(row.id != ref for row in found):
            raise InvalidArgument(f"network {ref} is ambiguous ({len(found)} matches found based on ID prefix)")
        if not found:
            raise NotFound(f"network {ref} not found")
        return found[0]

    def list(self, filters: Filters | None = None) -> list[NetworkRow]:
        """Those that pass driver, id, label, name, scope, type (custom, builtin) and dangling."""
        wanted = filters or Filters()
        return [row for row in self._rows.values() if self._passes(row, wanted)]

    def members(self, row: NetworkRow) -> Members:
        """The running containers on a network, and what each got there."""
        return [
            (allocation.container, allocation.endpoints[row.name])
            for allocation in self._allocations.values()
            if row.name in allocation.endpoints
        ]

    async def create(self, name: str) -> NetworkRow:
        """Networks of users are not served yet. Forbidden for the name of a predefined one."""
        if name in PREDEFINED:
            raise Forbidden(f"operation is not permitted on predefined {name} network ")
        raise NotServed(f"network {name}: creating networks is not implemented yet")

    async def remove(self, ref: str) -> None:
        """Forbidden for a predefined network: there are no others yet."""
        row = self.get(ref)
        raise Forbidden(f"{row.name} is a pre-defined network and cannot be removed")

    def _passes(self, row: NetworkRow, filters: Filters) -> bool:
        for value in filters.get("type"):
            if value not in ("custom", "builtin"):
                raise InvalidArgument(f"invalid filter: 'type'='{value}'")
        builtin = "builtin" if row.name in PREDEFINED else "custom"
        dangling = filters.boolean("dangling")
        return (
            filters.exact("driver", row.driver)
            and filters.prefix("id", row.id)
            and filters.labels(row.labels)
            and filters.regex("name", row.name)
            and filters.exact("scope", "local")
            and filters.exact("type", builtin)
            and (dangling is None or dangling == (builtin == "custom" and not self.members(row)))
        )

    # --- containers --------------------------------------------------------------------------------------------------

    def check(self, host: HostConfig, asked: dict[str, EndpointSettings]) -> None:
        """What no predefined network grants, in Docker's words. InvalidArgument; NotFound for an unknown network."""
        for name, endpoint in asked.items():
            row = self.get("bridge" if name == "default" else name)
            wanted = endpoint.ipam_config
            problems = []
            if wanted is not None and (wanted.ipv4_address or wanted.ipv6_address):
                problems.append("user specified IP address is supported on user defined networks only")
            if wanted is not None and wanted.link_local_ips:
                problems.append("link-local addresses are not supported")
            if endpoint.driver_opts:
                problems.append("driver options of an endpoint are not supported")
            if endpoint.aliases:
                problems.append("network-scoped alias is supported only for containers in user defined networks")
            if problems:
                reasons = "\n".join(problems)
                raise InvalidArgument(f"invalid config for network {row.name}: invalid endpoint settings:\n{reasons}")
        if host.network_mode not in ("", "default", *PREDEFINED) and ":" not in host.network_mode:
            self.get(host.network_mode)

    async def allocate(self, container: Requester) -> Allocation:
        """Addresses and ports for a start. In memory only: what it got is kept with the container's row.

        SystemFailure in Docker's words when a port is taken or no address is left. Ends with `release`.
        """
        with self._timed("allocate"):
            return await self._allocate(container)

    async def _allocate(self, container: Requester) -> Allocation:
        await self.release(container.id)
        mode = container.host.network_mode
        if mode in ("", "default"):
            mode = "bridge"
        if mode.startswith("container:"):
            return self._keep(Allocation(container, None, {}, {}, []))
        if container.config.network_disabled or (mode == "bridge" and self._pool is None):  # --bridge=none: as Docker
            return self._keep(Allocation(container, self._plan(container, ""), {}, {}, []))
        row = self.get(mode)
        asked: dict[str, EndpointSettings] = container.spec.networks
        self.check(container.host, asked)
        endpoint = replace(asked.get(row.name) or EndpointSettings(), network_id=row.id, endpoint_id=_new_id())
        if row.driver == "bridge":
            with self._timed("connect"):
                allocation = self._on_bridge(container, row, endpoint)
            if allocation.plan is not None and allocation.plan["relayed"]:
                self._keep(allocation)  # released by whoever sees the relay's failure
                await self._ensure_relay()
        else:
            plan = self._plan(container, endpoint.endpoint_id) if row.driver == "null" else None
            allocation = Allocation(container, plan, {row.name: endpoint}, {}, [])
        return self._keep(allocation)

    async def release(self, container_id: str) -> None:
        """Give back what a container had; nothing if it had nothing."""
        allocation = self._allocations.pop(container_id, None)
        if allocation is None:
            return
        with self._timed("release"):
            self._give_back(allocation)

    def _keep(self, allocation: Allocation) -> Allocation:
        self._allocations[allocation.container.id] = allocation
        return allocation

    def _on_bridge(self, container: Requester, row: NetworkRow, endpoint: EndpointSettings) -> Allocation:
        assert self._pool is not None
        if len(self._pool) >= netplan.BRIDGE_PORTS:
            raise SystemFailure(
                f"network {row.name} is full: bridge {row.bridge} has {netplan.BRIDGE_PORTS} ports, "
                "and a Linux bridge has no more"
            )
        loop = asyncio.get_running_loop()
        try:
            address = self._pool.allocate(loop.time(), probes.link_exists)
        except netplan.Exhausted:
            raise SystemFailure(
                f"no available IPv4 addresses on this network's address pools: {row.name} ({row.id})"
            ) from None
        try:
            bindings = self._publish(container, endpoint.endpoint_id)
            mac = endpoint.mac_address or container.config.mac_address or netplan.mac_of(address)
            endpoint = replace(
                endpoint,
                mac_address=endpoints.checked_mac(mac),
                gateway=row.gateway,
                ip_address=address,
                ip_prefix_len=self._pool.prefix,
            )
        except BaseException:
            self._pool.release(address, "", loop.time())
            raise
        plan = self._plan(container, endpoint.endpoint_id)
        plan["interfaces"].append(endpoints.interface(container.id, row, endpoint))
        endpoints.add_ports(plan, bindings, address)
        return Allocation(container, plan, {row.name: endpoint}, endpoints.shown_ports(container, bindings), bindings)

    def _publish(self, container: Requester, endpoint_id: str) -> Bindings:
        host = container.host
        asked = {
            port: [(binding.host_ip, binding.host_port) for binding in bindings or ()]
            for port, bindings in (host.port_bindings or {}).items()
        }
        requests = netplan.port_requests(
            asked, container.config.exposed_ports or (), host.publish_all_ports, self._default_ips()
        )
        if not self._relay_directory and any(":" in ip for request in requests for ip in request.host_ips):
            raise SystemFailure("ports cannot be published on an IPv6 address: this engine has no relay for them")
        try:
            return self._ports.allocate(requests, probes.is_free)
        except netplan.PortTaken as taken:
            raise SystemFailure(
                f"driver failed programming external connectivity on endpoint {container.name} ({endpoint_id}): {taken}"
            ) from None

    def _default_ips(self) -> tuple[str, ...]:
        """Where a port appears that names no address: everywhere."""
        if self._options.default_ip != netplan.ANY:
            return (self._options.default_ip,)
        return (netplan.ANY, netplan.ANY6) if self._relay_directory and probes.has_ipv6() else (netplan.ANY,)

    async def _ensure_relay(self) -> None:
        """The relay runs, and will not end while we are connected to it."""
        if self._relay is not None and probes.is_open(self._relay):
            return
        await self._call("dockyard.runtime.relay:start", {"directory": self._relay_directory})
        try:
            self._relay = relay.connect(self._relay_directory)
        except OSError as error:
            raise SystemFailure(f"the relay of IPv6 ports does not answer: {error.strerror}") from None

    def _plan(self, container: Requester, endpoint_id: str) -> network.NetworkPlan:
        return network.NetworkPlan(
            container=container.id,
            name=container.name,
            endpoint=endpoint_id,
            table=self._table,
            interfaces=[],
            ports=[],
            relayed=[],
            relay=self._relay_directory,
        )

    def _give_back(self, allocation: Allocation) -> None:
        self._ports.release(allocation.bindings)
        if self._pool is None or allocation.plan is None:
            return
        for interface in allocation.plan["interfaces"]:
            self._pool.release(interface["ip"], interface["veth"], asyncio.get_running_loop().time())

    def _readopt(self, container: Requester) -> Allocation:
        """The allocation of a container that runs, from what its row says that it got."""
        allocation = Allocation(container, None, dict(container.endpoints), dict(container.ports), [])
        row, endpoint = self._rows.get("bridge"), container.endpoints.get("bridge")
        if row is None or endpoint is None or self._pool is None or not endpoint.ip_address:
            return allocation
        try:
            self._pool.take(endpoint.ip_address)
        except netplan.AddressTaken:
            log.warning("container %s has the address %s beside another", container.id, endpoint.ip_address)
        plan = self._plan(container, endpoint.endpoint_id)
        plan["interfaces"].append(endpoints.interface(container.id, row, endpoint))
        allocation.bindings = [self._ports.take(binding) for binding in endpoints.bindings_of(container.ports)]
        endpoints.add_ports(plan, allocation.bindings, endpoint.ip_address)
        allocation.plan = plan
        return allocation

    # --- the host ----------------------------------------------------------------------------------------------------

    @property
    def _table(self) -> str:
        return network_rules.table_name(self._options.name)

    def _bridges(self) -> Setups:
        return [
            network_host.BridgeSetup(
                name=row.bridge,
                address=f"{row.gateway}/{row.subnet.partition('/')[2]}",
                subnet=row.subnet,
                mac=netplan.mac_of(row.gateway),
                mtu=row.mtu,
                icc=row.icc,
                masquerade=row.masquerade,
                owned=row.owned,
            )
            for row in self._rows.values()
            if row.driver == "bridge"
        ]

    async def _set_up(self) -> None:
        plans = [allocation.plan for allocation in self._allocations.values() if allocation.bindings]
        arguments = {"table": self._table, "bridges": self._bridges(), "plans": plans}
        report: network_host.HostReport = await self._call(f"{_HOST}:set_up", arguments)
        notes = [note["text"] for note in report["notes"]]
        for text in [*report["messages"], *(note for note in notes if note not in self._notes)]:
            log.info("network: %s", text)
        self._notes = notes

    def _refresh_soon(self) -> None:
        """Somebody changed firewalls: look after ours, once for all changes that come together."""
        self._refresh_again = True
        if self._refreshing is None or self._refreshing.done():
            self._refreshing = asyncio.get_running_loop().create_task(self._refresh())

    async def _refresh(self) -> None:
        while self._refresh_again:
            self._refresh_again = False
            await asyncio.sleep(0.02)
            before = set(self._allocations)
            try:
                await self._set_up()
                if before - set(self._allocations):
                    await self.sweep()  # ports that were brought back for a container that ended meanwhile
            except DockyardError as error:
                log.error("network: %s", error)

    # --- rows --------------------------------------------------------------------------------------------------------

    def _new_row(self, name: str) -> NetworkRow:
        return NetworkRow(id=_new_id(), name=name, driver=_DRIVERS[name], created_at=self._clock())

    async def _save(self, row: NetworkRow) -> None:
        await self._store.save(row)
        self._rows[row.name] = row


def _new_id() -> str:
    return secrets.token_hex(32)
