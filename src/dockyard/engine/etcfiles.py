"""The three files of /etc that every container gets from the engine: hostname, hosts, resolv.conf.

Owns: their text. Does not own: where they lie, mounting. Pure. Source: hosts(5), resolv.conf(5), Docker's documented
defaults (localhost resolvers of the host are of no use inside and are left out).
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Sequence

_LOCAL = """\
127.0.0.1\tlocalhost
::1\tlocalhost ip6-localhost ip6-loopback
fe00::\tip6-localnet
ff00::\tip6-mcastprefix
ff02::1\tip6-allnodes
ff02::2\tip6-allrouters
"""
_FALLBACK = ("8.8.8.8", "8.8.4.4")


def hosts_text(own: Iterable[tuple[str, Sequence[str]]], extra: Iterable[tuple[str, str]], base: str = _LOCAL) -> str:
    """/etc/hosts: `base`, then `extra` as (name, address), then `own` as (address, names)."""
    lines = [f"{address}\t{name}\n" for name, address in extra]
    lines += [f"{address}\t{' '.join(names)}\n" for address, names in own]
    return (base if base.endswith("\n") or not base else base + "\n") + "".join(lines)


def own_names(hostname: str, domainname: str) -> list[str]:
    """The names a container has for itself: the full one, which may have been given as the host name, then its first
    label."""
    full = f"{hostname}.{domainname}" if domainname else hostname
    return list(dict.fromkeys((full, full.partition(".")[0] or full)))


def parse_extra_hosts(entries: Iterable[str], gateway: str) -> list[tuple[str, str]]:
    """`name:address` or `name=address` → (name, address); `host-gateway` is `gateway`. IPv6 has colons of its own."""
    pairs = []
    for entry in entries:
        name, separator, address = entry.partition("=")
        if not separator or ":" in name:
            name, _, address = entry.partition(":")
        address = address.strip("[]")
        pairs.append((name, (gateway or "127.0.0.1") if address == "host-gateway" else address))
    return pairs


def resolv_text(
    host_text: str, servers: Sequence[str], search: Sequence[str], options: Sequence[str], *, keep_local: bool
) -> str:
    """/etc/resolv.conf: what is given replaces what the host has, line kind by line kind.

    `keep_local`: the container shares the host's network, where a resolver on 127.0.0.1 is reachable. A search of "."
    means none.
    """
    host_servers, host_search, host_options = _parse_resolv(host_text)
    if not keep_local:
        host_servers = [server for server in host_servers if not _is_local(server)]
        if not host_servers and not servers:
            host_servers = list(_FALLBACK)
    lines = [f"nameserver {server}\n" for server in servers or host_servers]
    wanted = [domain for domain in (search or host_search) if domain != "."]
    if wanted:
        lines.append(f"search {' '.join(wanted)}\n")
    if options or host_options:
        lines.append(f"options {' '.join(options or host_options)}\n")
    return "".join(lines)


def _parse_resolv(text: str) -> tuple[list[str], list[str], list[str]]:
    servers: list[str] = []
    search: list[str] = []
    options: list[str] = []
    for line in text.splitlines():
        words = line.split("#", 1)[0].split(";", 1)[0].split()
        if len(words) < 2:
            continue
        if words[0] == "nameserver":
            servers.append(words[1])
        elif words[0] in ("search", "domain"):
            search = words[1:]
        elif words[0] == "options":
            options += words[1:]
    return servers, search, options


def _is_local(server: str) -> bool:
    try:
        return ipaddress.ip_address(server.partition("%")[0]).is_loopback
    except ValueError:
        return True
