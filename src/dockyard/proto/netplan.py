"""Which address, which ports: the arithmetic of networks.

Owns: choosing a subnet, allocating IPv4 addresses (with a quarantine for those whose link may still be there), MACs,
published ports and their conflicts. Does not own: asking the kernel (what is in use, whether a port is free, the
clock: all arguments), carrying out (`runtime.network`). Pure.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from ipaddress import IPv4Address, IPv4Network, ip_address
from typing import NamedTuple

from dockyard.model.errors import InvalidArgument

ANY = "0.0.0.0"
ANY6 = "::"
BRIDGE_PORTS = 1023  # a Linux bridge has no more (BR_MAX_PORTS less the reserved one)
QUARANTINE = 60.0  # seconds after which a released address is given out even if its link is still there


class Exhausted(Exception):
    """No address is left in a pool."""


class AddressTaken(Exception):
    """The wanted address is in use, or not one of the pool's."""


class PortTaken(Exception):
    """`str(error)` in Docker's words: "Bind for 0.0.0.0:8080 failed: port is already allocated"."""


# --- subnets ---------------------------------------------------------------------------------------------------------


class Pool(NamedTuple):
    """A range that networks get theirs from: `base` "10.10.0.0/16", cut into ranges with a prefix of `size` bits."""

    base: str
    size: int

    @property
    def network(self) -> IPv4Network:
        return IPv4Network(self.base, strict=False)


def check_pools(pools: Iterable[Pool]) -> None:
    """InvalidArgument in Docker's words for a pool that is none."""
    for pool in pools:
        try:
            network = pool.network if "/" in pool.base else None
        except ValueError:
            network = None
        if network is None:
            raise InvalidArgument(f'invalid base pool "{pool.base}": invalid CIDR address: {pool.base}')
        if not network.prefixlen <= pool.size <= 30 or pool.size <= 0:
            raise InvalidArgument(f"invalid pools size: {pool.size}")


def default_subnets(pools: Sequence[Pool] = ()) -> Iterator[IPv4Network]:
    """Candidates for the default bridge, best first: those of `pools`, Docker's without any."""
    for pool in pools:
        yield from pool.network.subnets(new_prefix=pool.size)
    if pools:
        return
    for second in range(17, 32):
        yield IPv4Network((f"172.{second}.0.0", 16))
    yield from IPv4Network("192.168.0.0/16").subnets(new_prefix=20)


def choose_subnet(used: Iterable[str], pools: Sequence[Pool] = ()) -> IPv4Network | None:
    """The first default subnet that overlaps with nothing in `used` ("10.0.0.0/8", "192.0.2.2/24", …); None: all do."""
    networks = [IPv4Network(text, strict=False) for text in used]
    for candidate in default_subnets(pools):
        if not any(candidate.overlaps(network) for network in networks):
            return candidate
    return None


# --- addresses -------------------------------------------------------------------------------------------------------


def mac_of(address: str) -> str:
    """The MAC that goes with an IPv4 address: 172.17.0.2 → 02:42:ac:11:00:02."""
    return f"02:42:{IPv4Address(address).packed.hex(':')}"


class AddressPool:
    """The addresses of one subnet: the lowest free one is given out.

    A released address rests in quarantine under the name of its link until that link is gone or `QUARANTINE` seconds
    have passed: for that long an old link may answer for it.
    """

    def __init__(self, subnet: str, gateway: str) -> None:
        network = IPv4Network(subnet)
        self.prefix = network.prefixlen
        self.gateway = gateway
        edges = 1 if network.prefixlen < 31 else 0  # the network's own address and broadcast are not for use
        self._first = int(network.network_address) + edges
        self._last = int(network.broadcast_address) - edges
        self._used = {int(IPv4Address(gateway))}
        self._resting: dict[int, tuple[str, float]] = {}
        self._low = self._first  # nothing below is free

    def __len__(self) -> int:
        """Addresses in use, without the gateway."""
        return len(self._used) - 1

    def allocate(self, now: float, link_exists: Callable[[str], bool]) -> str:
        """The lowest free address. `now`: monotonic seconds. Raises Exhausted."""
        candidate, low_is_known = self._low, True
        while candidate <= self._last:
            if candidate not in self._used:
                if self._rested(candidate, now, link_exists):
                    self._used.add(candidate)
                    if low_is_known:
                        self._low = candidate + 1
                    return str(IPv4Address(candidate))
                if low_is_known:
                    self._low, low_is_known = candidate, False  # free again one day
            candidate += 1
        raise Exhausted

    def take(self, address: str) -> None:
        """A certain address, without regard to quarantine. Raises AddressTaken."""
        number = int(IPv4Address(address))
        if number in self._used or not self._first <= number <= self._last:
            raise AddressTaken(address)
        self._resting.pop(number, None)
        self._used.add(number)

    def release(self, address: str, link: str, now: float) -> None:
        number = int(IPv4Address(address))
        if number in self._used and address != self.gateway:
            self._used.discard(number)
            self._resting[number] = (link, now + QUARANTINE)
            self._low = min(self._low, number)

    def _rested(self, number: int, now: float, link_exists: Callable[[str], bool]) -> bool:
        resting = self._resting.get(number)
        if resting is None:
            return True
        link, until = resting
        if now < until and link_exists(link):
            return False
        del self._resting[number]
        return True


# --- ports -----------------------------------------------------------------------------------------------------------


class Binding(NamedTuple):
    """One published port, decided."""

    proto: str
    host_ip: str  # ANY, ANY6 or one address
    host_port: int
    port: int


class Request(NamedTuple):
    """One published port, as asked for; `first`-`last` are the host ports that will do, 0-0: any.

    One host port serves all of `host_ips`.
    """

    proto: str
    host_ips: tuple[str, ...]
    first: int
    last: int
    port: int


class Ports:
    """Which host ports this engine's containers hold."""

    def __init__(self, dynamic: Sequence[int]) -> None:
        """`dynamic`: ports to give out when none is asked for, in order (`dynamic_ports`)."""
        self._dynamic = dynamic
        self._taken: dict[tuple[str, int], set[str]] = {}
        self._cursor = 0

    def allocate(self, requests: Iterable[Request], is_free: Callable[[str, str, int], bool]) -> list[Binding]:
        """A host port for each request, all or none. Raises PortTaken.

        `is_free(proto, ip, port)` asks the host; a port that was asked for by number is not asked about: its binding
        tells (and names who refuses). Those come first, lest any port be given out that is asked for by number.
        """
        wanted = list(enumerate(requests))
        held: dict[int, list[Binding]] = {}
        try:
            for place, request in sorted(wanted, key=lambda each: not each[1].first):
                held[place] = self._one(request, is_free)
        except BaseException:
            self.release(binding for bindings in held.values() for binding in bindings)
            raise
        return [binding for place, _ in wanted for binding in held[place]]

    def _one(self, request: Request, is_free: Callable[[str, str, int], bool]) -> list[Binding]:
        proto, ips = request.proto, request.host_ips
        asked_by_number = request.first == request.last and request.first
        for port in self._candidates(request):
            if any(self._conflicts(proto, ip, port) for ip in ips):
                continue
            if asked_by_number or all(is_free(proto, ip, port) for ip in ips):
                return [self.take(Binding(proto, ip, port, request.port)) for ip in ips]
        if not request.first:
            raise PortTaken(f"Bind for {ips[0]}:0 failed: all ports are allocated")
        asked = f"{request.first}" if asked_by_number else f"{request.first}-{request.last}"
        raise PortTaken(f"Bind for {ips[0]}:{asked} failed: port is already allocated")

    def _candidates(self, request: Request) -> Iterator[int]:
        if request.first:
            yield from range(request.first, request.last + 1)
            return
        for _ in range(len(self._dynamic)):  # goes on where it stopped: a port just given back rests the longest
            self._cursor = (self._cursor + 1) % len(self._dynamic)
            yield self._dynamic[self._cursor - 1]

    def _conflicts(self, proto: str, ip: str, port: int) -> bool:
        holders = self._taken.get((proto, port))
        if holders is None:
            return False
        if ip in (ANY, ANY6):
            return any((":" in holder) == (":" in ip) for holder in holders)
        return ip in holders or (ANY6 if ":" in ip else ANY) in holders

    def take(self, binding: Binding) -> Binding:
        self._taken.setdefault((binding.proto, binding.host_port), set()).add(binding.host_ip)
        return binding

    def release(self, bindings: Iterable[Binding]) -> None:
        for binding in bindings:
            key = (binding.proto, binding.host_port)
            holders = self._taken.get(key, set())
            holders.discard(binding.host_ip)
            if not holders:
                self._taken.pop(key, None)


def dynamic_ports(local_range: str, reserved: str) -> list[int]:
    """From the texts of net.ipv4.ip_local_port_range and ip_local_reserved_ports ("8080,9000-9010")."""
    first, last = (int(word) for word in local_range.split())
    excluded: set[int] = set()
    for part in reserved.strip().split(","):
        if part:
            low, _, high = part.partition("-")
            excluded.update(range(int(low), int(high or low) + 1))
    return [port for port in range(first, last + 1) if port not in excluded]


def port_requests(
    bindings: Mapping[str, Sequence[tuple[str, str]] | None],
    exposed: Iterable[str],
    publish_all: bool,
    default_ips: tuple[str, ...] = (ANY,),
) -> list[Request]:
    """What is to be published. `bindings`: "80/tcp" → (host ip, host port) texts, as clients give them; no host port
    (or no binding at all) is any port, no host ip is `default_ips`. With `publish_all` every exposed port is, too.

    ValueError for text that is no address or port (the engine has refused it at creation).
    """
    requests = []
    for name, wanted in bindings.items():
        for host_ip, host_port in wanted or [("", "")]:
            ips = (str(ip_address(host_ip.strip("[]"))),) if host_ip else default_ips
            requests.append(_request(name, ips, host_port))
    if publish_all:
        requests += [_request(name, default_ips, "") for name in exposed if not bindings.get(name)]
    return list(dict.fromkeys(requests))


def _request(name: str, host_ips: tuple[str, ...], host_port: str) -> Request:
    port, _, proto = name.partition("/")
    first, _, last = host_port.partition("-")
    low = int(first or 0)
    return Request(proto or "tcp", host_ips, low, int(last or low), int(port))
