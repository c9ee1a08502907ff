"""`dockyard port`."""

from __future__ import annotations

from dockyard.edge.cli.api import container_path
from dockyard.edge.cli.call import Body, Call, say
from dockyard.edge.cli.errors import CliError
from dockyard.proto.portspec import parse_range, split_protocol

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def _port(call: Call) -> None:
    container = call.api.get(f"{container_path(call.arguments[0])}/json")
    ports = container["NetworkSettings"].get("Ports") or {}
    if len(call.arguments) == 1:
        pairs = [(port, each) for port, bindings in ports.items() for each in bindings or []]
        for port, binding in sorted(pairs, key=lambda pair: (_number(pair[0]), pair[0])):
            say(f"{port} -> {_text(binding)}")
        return
    wanted = call.arguments[1]
    number, protocol = split_protocol(wanted)
    try:
        parse_range(number)
    except ValueError as error:
        raise CliError(f"Error: invalid port ({wanted}): {error}") from None
    bindings = ports.get(f"{number}/{protocol}")
    if not bindings:
        raise CliError(f"Error: No public port '{wanted}' published for {call.arguments[0]}")
    for binding in bindings:
        say(_text(binding))


def _number(port: str) -> int:
    return int(port.partition("/")[0])


def _text(binding: dict[str, Any]) -> str:
    ip = binding["HostIp"]
    return f"[{ip}]:{binding['HostPort']}" if ":" in ip else f"{ip}:{binding['HostPort']}"


port = Body(_port)
