"""`dockyard images --tree`: under each name the platforms of its index.

Owns: that table. Does not own: the request, the plain list (`commands.images`).
"""

from __future__ import annotations

from dockyard.edge.cli.call import say
from dockyard.edge.cli.show import short_id
from dockyard.proto.units import human_size

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_COLUMNS = ("IMAGE", "ID", "DISK USAGE", "CONTENT SIZE", "EXTRA")


def show_tree(images: list[dict[str, Any]], full: bool) -> None:
    """Print the images of a list with `manifests`. Platforms that are not here have 0B."""
    rows: list[tuple[str, ...]] = [_COLUMNS]
    for image in images:
        rows += _rows(image, full)
    widths = [max(len(row[place]) for row in rows) for place in range(len(_COLUMNS))]
    for row in rows:
        name, identity, *rest = row
        cells = [name.ljust(widths[0]), identity.ljust(widths[1])]
        cells += [cell.rjust(width) for cell, width in zip(rest, widths[2:], strict=True)]
        say("   ".join(cells).rstrip())


def _rows(image: dict[str, Any], full: bool) -> list[tuple[str, ...]]:
    shown = (lambda digest: digest) if full else short_id
    manifests = [entry for entry in image.get("Manifests") or [] if entry.get("Kind") == "image"]
    content = sum(entry["Size"]["Content"] for entry in image.get("Manifests") or [])
    total = sum(entry["Size"]["Total"] for entry in image.get("Manifests") or []) or image["Size"]
    used = any(entry["ImageData"]["Containers"] for entry in manifests)
    size = (human_size(total, 3), human_size(content, 3))
    names = [name for name in image.get("RepoTags") or [] if name != "<none>:<none>"] or ["<untagged>"]
    rows: list[tuple[str, ...]] = [(name, shown(image["Id"]), *size, "U" if used else "") for name in names]
    for place, entry in enumerate(manifests):
        branch = "└─ " if place == len(manifests) - 1 else "├─ "
        sizes = (human_size(entry["Size"]["Total"], 3), human_size(entry["Size"]["Content"], 3))
        mark = "U" if entry["ImageData"]["Containers"] else ""
        rows.append((branch + _platform(entry["ImageData"]["Platform"]), shown(entry["ID"]), *sizes, mark))
    return rows


def _platform(platform: dict[str, Any]) -> str:
    parts = (platform.get("os"), platform.get("architecture"), platform.get("variant"))
    return "/".join(part for part in parts if part) or "unknown"
