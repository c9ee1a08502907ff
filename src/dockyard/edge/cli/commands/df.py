"""`dockyard system df`."""

from __future__ import annotations

import time

from dockyard.edge.cli.call import Body, Call, say
from dockyard.edge.cli.commands.images import HEADERS as IMAGE_HEADERS
from dockyard.edge.cli.commands.images import image_rows
from dockyard.edge.cli.commands.ps import FORMAT_HELP, container_row
from dockyard.edge.cli.commands.ps import HEADERS as CONTAINER_HEADERS
from dockyard.edge.cli.errors import CliError
from dockyard.edge.cli.flags import flag, value
from dockyard.edge.cli.show import ago, show_rows
from dockyard.proto.units import human_size

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

HEADERS = {
    "Type": "TYPE",
    "TotalCount": "TOTAL",
    "Active": "ACTIVE",
    "Size": "SIZE",
    "Reclaimable": "RECLAIMABLE",
}
CACHE_HEADERS = {
    "ID": "CACHE ID",
    "Type": "CACHE TYPE",
    "Size": "SIZE",
    "Created": "CREATED",
    "Used": "LAST USED",
    "Usage": "USAGE",
    "Shared": "SHARED",
}


def _df(call: Call) -> None:
    usage = call.api.get("/system/df")
    if call.on("verbose"):
        if call.text("format"):
            raise CliError("--format cannot be used with --verbose")
        _verbose(usage)
        return
    rows = [_images(usage), _containers(usage), _volumes(usage), _cache(usage)]
    show_rows(call.text("format"), list(HEADERS), HEADERS, rows)


def _row(kind: str, total: int, active: int, size: int, reclaimable: int, share: bool = True) -> dict[str, Any]:
    text = human_size(reclaimable)
    if share and size > 0:
        text += f" ({reclaimable * 100 // size}%)"
    names = {"Type": kind, "TotalCount": str(total), "Active": str(active)}
    return {**names, "Size": human_size(size), "Reclaimable": text}


def _images(usage: dict[str, Any]) -> dict[str, Any]:
    images = usage.get("Images") or []
    used = 0
    for image in images:
        if image["Containers"] > 0 and image["Size"] != -1 and image["SharedSize"] != -1:
            used += image["Size"] - image["SharedSize"]
    size = usage.get("LayersSize") or 0
    active = sum(image["Containers"] > 0 for image in images)
    return _row("Images", len(images), active, size, size - used if images else 0)


def _containers(usage: dict[str, Any]) -> dict[str, Any]:
    containers = usage.get("Containers") or []
    running = [each for each in containers if each["State"] in ("running", "paused", "restarting")]
    size = sum(each.get("SizeRw") or 0 for each in containers)
    held = sum(each.get("SizeRw") or 0 for each in running)
    return _row("Containers", len(containers), len(running), size, size - held)


def _volumes(usage: dict[str, Any]) -> dict[str, Any]:
    volumes = [(each, each.get("UsageData") or {}) for each in usage.get("Volumes") or []]
    size = sum(max(data.get("Size", 0), 0) for _, data in volumes)
    used = sum(max(data.get("Size", 0), 0) for _, data in volumes if data.get("RefCount"))
    active = sum(bool(data.get("RefCount")) for _, data in volumes)
    return _row("Local Volumes", len(volumes), active, size, size - used)


def _cache(usage: dict[str, Any]) -> dict[str, Any]:
    records = usage.get("BuildCache") or []
    size = sum(each["Size"] for each in records if not each.get("Shared"))
    used = sum(each["Size"] for each in records if each.get("InUse") and not each.get("Shared"))
    active = sum(bool(each.get("InUse")) for each in records)
    return _row("Build Cache", len(records), active, size, size - used, share=False)


def _verbose(usage: dict[str, Any]) -> None:
    now = time.time_ns()
    say("Images space usage:\n")
    images = [row for image in usage.get("Images") or [] for row in image_rows(image, now, False, False)]
    columns = ["Repository", "Tag", "ID", "CreatedSince", "Size", "SharedSize", "UniqueSize", "Containers"]
    show_rows("", columns, IMAGE_HEADERS, images)
    if "BlobsSize" in usage:
        unpacked = human_size(usage.get("LayersSize") or 0)
        say(f"\nUnpacked layers: {unpacked}, blobs as they came: {human_size(usage['BlobsSize'])}")
    say("\nContainers space usage:\n")
    containers = [container_row(each, now, False, False) for each in usage.get("Containers") or []]
    columns = ["ID", "Image", "Command", "LocalVolumes", "Size", "RunningFor", "Status", "Names"]
    show_rows("", columns, CONTAINER_HEADERS, containers)
    say("\nLocal Volumes space usage:\n")
    show_rows("", ["Name", "Links", "Size"], {"Name": "VOLUME NAME", "Links": "LINKS", "Size": "SIZE"}, _rows(usage))
    say(f"\nBuild cache usage: {_cache(usage)['Size']}\n")
    rows = [cache_row(each, now) for each in usage.get("BuildCache") or []]
    show_rows("", list(CACHE_HEADERS), CACHE_HEADERS, rows)


def _rows(usage: dict[str, Any]) -> list[dict[str, Any]]:
    out = []
    for volume in usage.get("Volumes") or []:
        data = volume.get("UsageData") or {}
        out.append({"Name": volume["Name"], "Links": data.get("RefCount", 0), "Size": human_size(data.get("Size", 0))})
    return out


def cache_row(record: dict[str, Any], now: int) -> dict[str, Any]:
    from dockyard.proto.times import SECOND, parse_rfc3339

    row = {"ID": record["ID"][:12], "Type": record["Type"], "Size": human_size(record["Size"])}
    for name, key in (("Created", "CreatedAt"), ("Used", "LastUsedAt")):
        row[name] = ago(parse_rfc3339(record[key]) // SECOND, now) if record.get(key) else ""
    return row | {"Usage": str(record.get("UsageCount", 0)), "Shared": "true" if record.get("Shared") else "false"}


df = Body(_df, (value("--format", FORMAT_HELP), flag("-v --verbose", "Show detailed information on space usage")))
