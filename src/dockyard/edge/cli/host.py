"""Which daemon is meant.

Owns: the address (`-H`, DOCKYARD_HOST, DOCKER_HOST, the default socket) and the TLS files that go with it. Does not
own: connecting (`http`).
"""

from __future__ import annotations

import os

from dockyard.edge.cli.errors import CliError

TYPE_CHECKING = False  # typing's own constant, without the 6 ms that importing typing takes (docs/cli.md)
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any

DEFAULT = "unix:///run/dockyard.sock"
VARIABLES = ("DOCKYARD_HOST", "DOCKER_HOST")


class Tls:
    """Paths, "" = none. `verify`: the daemon's certificate must be good."""

    def __init__(self, verify: bool, ca: str, cert: str, key: str) -> None:
        self.verify = verify
        self.ca = ca
        self.cert = cert
        self.key = key


class Host:
    """An address. `text`: for messages; `path`: a unix socket's, "" for others; `command`: ssh's, [] for others;
    `origin`: the variable that it comes from, "" for none."""

    def __init__(
        self,
        text: str,
        path: str,
        name: str = "",
        port: int = 0,
        tls: Tls | None = None,
        command: Sequence[str] = (),
        origin: str = "",
    ) -> None:
        self.text = text
        self.path = path
        self.name = name
        self.port = port
        self.tls = tls
        self.command = list(command)
        self.origin = origin


def find(options: Mapping[str, Any], environment: Mapping[str, str]) -> Host:
    """The address to talk to. CliError naming one that is not understood."""
    given = options.get("host") or []
    if len(given) > 1:
        raise CliError("specify only one -H")
    origin = "" if given else next((name for name in VARIABLES if environment.get(name)), "")
    host = _parse(given[0] if given else environment[origin] if origin else DEFAULT, _tls(options, environment))
    host.origin = origin
    return host


def _parse(text: str, tls: Tls | None) -> Host:
    scheme, separator, rest = text.partition("://")
    if not separator:
        scheme, rest = ("unix", text) if text.startswith("/") else ("tcp", text)
    if scheme == "unix":
        return Host(f"unix://{rest}", rest or "/run/dockyard.sock")
    if scheme in ("tcp", "http", "https"):
        return _tcp(text, scheme, rest, tls)
    if scheme == "ssh":
        from dockyard.edge.cli import ssh

        return ssh.address(text, rest)
    raise CliError(f"{text}: unsupported address; unix:///path/to.sock, tcp://host:port and ssh://host are understood")


def _tcp(text: str, scheme: str, rest: str, tls: Tls | None) -> Host:
    address = rest.rstrip("/")
    name, colon, port = address.rpartition(":")
    if not colon or "]" in port:
        name, port = address, ""
    if port and not (port.isdecimal() and int(port) < 65536):
        raise CliError(f"{text}: the port is not a number below 65536")
    if scheme == "https" and tls is None:
        tls = Tls(True, "", "", "")
    return Host(f"tcp://{address}", "", name.strip("[]") or "localhost", int(port or (2376 if tls else 2375)), tls)


def _tls(options: Mapping[str, Any], environment: Mapping[str, str]) -> Tls | None:
    verify = options.get("tlsverify")
    if verify is None:
        verify = bool(environment.get("DOCKYARD_TLS_VERIFY") or environment.get("DOCKER_TLS_VERIFY"))
    if not (verify or options.get("tls")):
        return None
    folder = environment.get("DOCKYARD_CERT_PATH") or environment.get("DOCKER_CERT_PATH") or options.get("config")
    folder = folder or os.path.expanduser("~/.docker")

    def chosen(option: str, file: str) -> str:
        path = options.get(option) or os.path.join(folder, file)
        return path if options.get(option) or os.path.exists(path) else ""

    return Tls(bool(verify), chosen("tlscacert", "ca.pem"), chosen("tlscert", "cert.pem"), chosen("tlskey", "key.pem"))
