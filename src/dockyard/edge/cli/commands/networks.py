"""`dockyard network ls`."""

from __future__ import annotations

from dockyard.edge.cli.call import Body, Call, say
from dockyard.edge.cli.commands.ps import FORMAT_HELP
from dockyard.edge.cli.flags import FILTER, flag, many, value
from dockyard.edge.cli.show import labels_text, short_id, show_rows

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

HEADERS = {
    "ID": "NETWORK ID",
    "Name": "NAME",
    "Driver": "DRIVER",
    "Scope": "SCOPE",
    "IPv4": "IPV4",
    "IPv6": "IPV6",
    "Internal": "INTERNAL",
    "Labels": "LABELS",
    "CreatedAt": "CREATED AT",
}


def _ls(call: Call) -> None:
    networks = call.api.get("/networks", {"filters": call.filters() or None})
    networks.sort(key=lambda network: network["Name"])
    rows = [_row(network, call.on("no-trunc")) for network in networks]
    if call.on("quiet"):
        for row in rows:
            say(row["ID"])
        return
    show_rows(call.text("format"), ["ID", "Name", "Driver", "Scope"], HEADERS, rows)


def _row(network: dict[str, Any], full: bool) -> dict[str, Any]:
    labels = network.get("Labels") or {}
    return {
        "ID": network["Id"] if full else short_id(network["Id"]),
        "Name": network["Name"],
        "Driver": network["Driver"],
        "Scope": network["Scope"],
        "IPv4": _bool(network.get("EnableIPv4", False)),
        "IPv6": _bool(network.get("EnableIPv6", False)),
        "Internal": _bool(network.get("Internal", False)),
        "Labels": labels_text(labels),
        "Label": lambda name: labels.get(name, ""),
        "CreatedAt": network.get("Created", "").replace("T", " ").replace("Z", " +0000 UTC"),
    }


def _bool(value: object) -> str:
    return "true" if value else "false"


ls = Body(
    _ls,
    (
        many("-f --filter", 'Provide filter values (e.g. "driver=bridge")', FILTER),
        value("--format", FORMAT_HELP),
        flag("--no-trunc", "Do not truncate the output"),
        flag("-q --quiet", "Only display network IDs"),
    ),
)
