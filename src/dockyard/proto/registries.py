"""Which hosts stand for a registry, and what is trusted about them.

Owns: `RegistryRules`: mirrors, insecure registries, realms that may get credentials; the names of hosts.
Does not own: connections (`store.remote`), resolving names: addresses are arguments. Pure.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple
from urllib.parse import urlsplit

from dockyard.model.errors import InvalidArgument
from dockyard.proto.references import DEFAULT_DOMAIN

HUB_HOST: Final = "registry-1.docker.io"  # where docker.io really is
HUB_INDEX: Final = "index.docker.io"  # its search
HOST_GRAMMAR: Final = re.compile(r"(?:[A-Za-z0-9](?:[A-Za-z0-9.-]*[A-Za-z0-9])?|\[[0-9a-fA-F:.]+\])(?::[0-9]{1,5})?\Z")
_SECOND_LEVEL = frozenset({"co", "com", "org", "net", "gov", "ac", "edu", "or", "ne", "go"})

IPAddress = ipaddress.IPv4Address | ipaddress.IPv6Address


class TLSFiles(NamedTuple):
    """Paths: more authorities, certificates of ours each with its key ("": in the same file)."""

    authorities: tuple[str, ...] = ()
    clients: tuple[tuple[str, str], ...] = ()
    skip_verify: bool = False


NO_FILES: Final = TLSFiles()


class Place(NamedTuple):
    """A host that is asked for a registry's content. `schemes`: those to try, in order; `prefix` of repositories;
    `root` of the API; `namespace`: the registry that it stands for, which it is told; `resolve`: whether it is asked
    for tags."""

    host: str
    schemes: tuple[str, ...]
    prefix: str = ""
    mirror: bool = False
    root: str = "/v2"
    namespace: str = ""
    resolve: bool = True
    headers: tuple[tuple[str, str], ...] = ()
    tls: TLSFiles = NO_FILES


class Mirror(NamedTuple):
    domain: str
    url: str


def parse_mirror(text: str) -> Mirror:
    """`https://host[/prefix]` (of docker.io) or `REGISTRY=https://host[/prefix]`. InvalidArgument."""
    domain, separator, url = text.partition("=")
    if not separator or "://" in domain:
        domain, url = DEFAULT_DOMAIN, text
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not HOST_GRAMMAR.match(parts.netloc):
        raise InvalidArgument(f'invalid mirror: "{text}" is not [REGISTRY=]http(s)://HOST[/PREFIX]')
    if parts.query or parts.fragment or parts.username:
        raise InvalidArgument(f'invalid mirror: query, fragment or user in "{text}"')
    return Mirror(domain.lower(), url.rstrip("/"))


def check_host(text: str, what: str) -> str:
    """A host, host:port or address range. InvalidArgument in Docker's words: "insecure registry X …"."""
    if "://" in text:
        raise InvalidArgument(f"{what} {text} should not contain '://'")
    if "/" in text:
        try:
            ipaddress.ip_network(text, strict=False)
        except ValueError:
            raise InvalidArgument(f"{what} {text} is not valid: no address range") from None
    elif not HOST_GRAMMAR.match(text):
        raise InvalidArgument(f"{what} {text} is not valid: no host")
    return text


@dataclass(frozen=True, slots=True)
class RegistryRules:
    """The daemon's settings of registries, checked. `insecure`: hosts; `ranges` of addresses."""

    mirrors: Sequence[Mirror] = ()
    insecure: Sequence[str] = ()
    trusted_realms: Sequence[str] = ()  # hosts that may be sent credentials, and may be local, though they are others
    ranges: Sequence[ipaddress.IPv4Network | ipaddress.IPv6Network] = ()
    nondistributable: Sequence[str] = ()  # registries that get foreign layers too; hosts and address ranges

    @classmethod
    def make(
        cls,
        mirrors: Iterable[str],
        insecure: Iterable[str],
        trusted_realms: Iterable[str] = (),
        nondistributable: Iterable[str] = (),
    ) -> RegistryRules:
        """From the texts of the configuration. InvalidArgument naming the wrong one."""
        names = [check_host(text, "insecure registry") for text in insecure]
        ranges = [ipaddress.ip_network(text, strict=False) for text in names if "/" in text]
        hosts = [text.lower() for text in names if "/" not in text]
        allowed = [check_host(text, "allow-nondistributable-artifacts registry").lower() for text in nondistributable]
        found = [parse_mirror(text) for text in mirrors]
        return cls(found, hosts, [realm.lower() for realm in trusted_realms], ranges, allowed)

    def is_insecure(self, host: str, addresses: Iterable[IPAddress] = ()) -> bool:
        """Whether a registry may go without TLS, or with a certificate that nobody vouches for.

        By name, or because an address of it is in a range. Loopback always is, as in Docker.
        """
        if host.lower() in self.insecure or hostname(host) in self.insecure:
            return True
        own = address_of(host)
        known: list[IPAddress] = [*addresses, own] if own else [*addresses]
        return any(a.is_loopback or any(a in r for r in self.ranges if r.version == a.version) for a in known)

    def gets_foreign_layers(self, host: str) -> bool:
        """Whether layers that belong elsewhere are pushed to this registry too."""
        own = address_of(host)
        for entry in self.nondistributable:
            if entry in (host.lower(), hostname(host)):
                return True
            if "/" in entry and own is not None and own in ipaddress.ip_network(entry, strict=False):
                return True
        return False

    def may_be_local(self, host: str) -> bool:
        """Whether somebody said that this host may be at a loopback or link-local address."""
        return any(name in self.trusted_realms or name in self.insecure for name in (host.lower(), hostname(host)))

    def realm_gets_credentials(self, registry: str, realm: str) -> bool:
        """Whether a token server may get the registry's credentials: the same host, a relative, or a trusted one."""
        if realm.lower() in self.trusted_realms or hostname(realm) in self.trusted_realms:
            return True
        return are_related(hostname(registry), hostname(realm))


def hostname(host: str) -> str:
    """Without the port, in lower case."""
    if host.startswith("["):
        return host.partition("]")[0][1:].lower()
    return host.rpartition(":")[0].lower() if host.count(":") == 1 else host.lower()


def address_of(host: str) -> IPAddress | None:
    """The address, if the host is written as one."""
    try:
        return ipaddress.ip_address(hostname(host))
    except ValueError:
        return None


def is_local(address: IPAddress) -> bool:
    """Loopback, link-local (where clouds keep their secrets) or nowhere."""
    mapped = getattr(address, "ipv4_mapped", None)
    return is_local(mapped) if mapped else address.is_loopback or address.is_link_local or address.is_unspecified


def are_related(one: str, other: str) -> bool:
    """The same host, or both beneath one registrable domain ("registry-1.docker.io", "auth.docker.io")."""
    if one == other:
        return True
    if address_of(one) or address_of(other):
        return False
    left, right = _registrable(one), _registrable(other)
    return bool(left) and left == right


def _registrable(host: str) -> str:
    labels = host.rstrip(".").split(".")
    count = 3 if len(labels) > 2 and len(labels[-1]) == 2 and labels[-2] in _SECOND_LEVEL else 2
    return ".".join(labels[-count:]) if len(labels) >= count else ""


def places(
    rules: RegistryRules,
    domain: str,
    insecure: bool,
    *,
    mirrors: bool = True,
    server: Place | None = None,
    others: Sequence[Place] = (),
) -> list[Place]:
    """The hosts to ask for a registry's content, in order: its mirrors, `others`, then itself, which is at `server`."""
    found = []
    for mirror in rules.mirrors if mirrors else ():
        if mirror.domain == domain:
            parts = urlsplit(mirror.url)
            found.append(Place(parts.netloc.lower(), (parts.scheme,), parts.path.strip("/"), mirror=True))
    found += others if mirrors else []
    schemes = ("https", "http") if insecure else ("https",)
    found.append(server or Place(HUB_HOST if domain == DEFAULT_DOMAIN else domain, schemes))
    return found
