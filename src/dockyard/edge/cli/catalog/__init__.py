"""Every command of the client, as a table.

Owns: names, aliases, usage lines, one-line descriptions, how many arguments each takes, what completes them, and which
module carries a command out (`module:attribute` under `edge.cli.commands`, imported only when the command runs).
"""

from __future__ import annotations

from dockyard.edge.cli.catalog.containers import CONTAINERS
from dockyard.edge.cli.catalog.entry import ANY, Entry
from dockyard.edge.cli.catalog.images import IMAGES
from dockyard.edge.cli.catalog.others import OTHERS

__all__ = ["ANY", "COMMON", "ENTRIES", "GROUPS", "Entry", "find"]

COMMON = (
    "run", "exec", "ps", "build", "pull", "push", "images", "login", "logout", "search", "version", "info",
)  # fmt: skip
GROUPS = {
    "builder": "Manage builds",
    "completion": "Generate the autocompletion script for a shell",
    "container": "Manage containers",
    "image": "Manage images",
    "imagetools": "Work on images in a registry",
    "lease": "Manage leases: what belongs to one goes when it ends",
    "manifest": "Manage manifests and manifest lists",
    "network": "Manage networks",
    "registry": "Serve and look after a registry",
    "system": "Manage Dockyard",
    "volume": "Manage volumes",
}
ENTRIES = (*CONTAINERS, *IMAGES, *OTHERS)


def find(words: list[str]) -> tuple[Entry | None, int]:
    """The command that `words` begin with, and how many words name it; (None, n): the first n are no command."""
    path = " ".join(words[:2]) if words and words[0] in GROUPS else words[0] if words else ""
    for entry in ENTRIES:
        if path == entry.path or path in entry.aliases:
            return entry, path.count(" ") + 1
    return None, path.count(" ") + 1
