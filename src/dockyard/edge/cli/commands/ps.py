"""`dockyard ps`."""

from __future__ import annotations

import time

from dockyard.edge.cli.call import Body, Call, complain, say
from dockyard.edge.cli.flags import FILTER, INT, flag, many, value
from dockyard.edge.cli.show import ago, labels_text, local_time, short_id, show_rows
from dockyard.proto.units import human_size

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

HEADERS = {
    "ID": "CONTAINER ID",
    "Image": "IMAGE",
    "Command": "COMMAND",
    "CreatedAt": "CREATED AT",
    "RunningFor": "CREATED",
    "Ports": "PORTS",
    "State": "STATE",
    "Status": "STATUS",
    "Size": "SIZE",
    "Labels": "LABELS",
    "Mounts": "MOUNTS",
    "LocalVolumes": "LOCAL VOLUMES",
    "Networks": "NETWORKS",
    "Names": "NAMES",
    "Platform": "PLATFORM",
}


def _ls(call: Call) -> None:
    last = call.number("last")
    latest = call.on("latest")
    wants_size = call.on("size") or any(use in call.text("format") for use in (".Size", "json ."))
    query = {
        "all": call.on("all") or latest or (last or -1) > 0,
        "limit": 1 if latest else last if last and last > 0 else None,
        "size": wants_size,
        "filters": call.filters() or None,
    }
    containers = call.api.get("/containers/json", query)
    full = call.on("no-trunc")
    if call.on("quiet"):
        if call.text("format"):
            complain("WARNING: Ignoring custom format, because both --format and --quiet are set.")
        for each in containers:
            say(each["Id"] if full else short_id(each["Id"]))
        return
    columns = ["ID", "Image", "Command", "RunningFor", "Status", "Ports", "Names"]
    if call.on("size"):
        columns.append("Size")
    now = time.time_ns()
    rows = (container_row(each, now, full, wants_size) for each in containers)
    show_rows(call.text("format"), columns, HEADERS, rows)


def container_row(container: dict[str, Any], now: int, full: bool, wants_size: bool = True) -> dict[str, Any]:
    """The fields of one container, as templates name them."""
    labels = container.get("Labels") or {}
    command = container["Command"]
    mounts = [each.get("Name") or each.get("Source", "") for each in container.get("Mounts") or []]
    networks = (container.get("NetworkSettings") or {}).get("Networks") or {}
    names = [name.lstrip("/") for name in container.get("Names") or []]
    if not full:
        command = ellipsis(command, 20)
        mounts = [ellipsis(each, 15) for each in mounts]
        names = [name for name in names if "/" not in name]
    platform = container.get("ImageManifestDescriptor") or {}
    return {
        "ID": container["Id"] if full else short_id(container["Id"]),
        "Names": ",".join(names),
        "Image": _image(container, full),
        "Command": f'"{command}"',
        "CreatedAt": local_time(container["Created"]),
        "RunningFor": ago(container["Created"], now),
        "Ports": ports_text(container.get("Ports") or []),
        "State": container["State"],
        "Status": container["Status"],
        "Size": _size(container, wants_size),
        "Labels": labels_text(labels),
        "Label": lambda name: labels.get(name, ""),
        "Mounts": ",".join(mounts),
        "LocalVolumes": str(sum(each.get("Driver") == "local" for each in container.get("Mounts") or [])),
        "Networks": ",".join(sorted(networks)),
        "Platform": platform.get("platform"),
    }


def _image(container: dict[str, Any], full: bool) -> str:
    image: str = container["Image"] or "<no image>"
    if full or not image.startswith("sha256:"):
        return image
    return short_id(image)


def _size(container: dict[str, Any], wanted: bool) -> str:
    written, virtual = container.get("SizeRw") or 0, container.get("SizeRootFs") or 0
    text = human_size(written, 3)
    return f"{text} (virtual {human_size(virtual, 3)})" if virtual and wanted else text


def ellipsis(text: str, width: int) -> str:
    return text if len(text) <= width else text[: width - 1] + "…"


def ports_text(ports: list[dict[str, Any]]) -> str:
    """Ports in one line, neighbours joined: `0.0.0.0:8080->80/tcp, 127.0.0.1:9000-9001->9000-9001/udp`."""
    joined: list[list[Any]] = []  # [ip, protocol, first private, last private, first public, last public]
    key = lambda port: (port["PrivatePort"], port.get("IP", ""), port.get("PublicPort", 0), port["Type"])  # noqa: E731
    single: list[tuple[int, str]] = []
    for port in sorted(ports, key=key):
        ip, private, public = port.get("IP", ""), port["PrivatePort"], port.get("PublicPort", 0)
        if public and public != private:
            single.append((private, f"{_address(ip)}{public}->{private}/{port['Type']}"))
            continue
        group = next((g for g in joined if g[:2] == [ip, port["Type"]] and bool(g[4]) == bool(public)), None)
        if group and group[3] + 1 == private:
            group[3] = private
        else:
            joined.insert(0, [ip, port["Type"], private, private, public])
    texts = [(group[2], _range_text(*group)) for group in joined]
    return ", ".join(text for _, text in sorted(texts, key=lambda pair: pair[0]) + single)


def _address(ip: str) -> str:
    return f"[{ip}]:" if ":" in ip else f"{ip}:" if ip else ""


def _range_text(ip: str, protocol: str, first: int, last: int, public: int) -> str:
    span = str(first) if first == last else f"{first}-{last}"
    return f"{_address(ip)}{span}->{span}/{protocol}" if public else f"{span}/{protocol}"


FORMAT_HELP = "Format output: 'table', 'table TEMPLATE', 'json' or a Go template"
ls = Body(
    _ls,
    (
        flag("-a --all", "Show all containers (default shows just running)"),
        many("-f --filter", "Filter output based on conditions provided", FILTER),
        value("--format", FORMAT_HELP),
        value("-n --last", "Show n last created containers (includes all states)", INT, shown_default="-1"),
        flag("-l --latest", "Show the latest created container (includes all states)"),
        flag("--no-trunc", "Don't truncate output"),
        flag("-q --quiet", "Only display container IDs"),
        flag("-s --size", "Display total file sizes"),
    ),
)
