"""`dockyard top`."""

from __future__ import annotations

from dockyard.edge.cli.api import container_path
from dockyard.edge.cli.call import Body, Call, say
from dockyard.proto.tabwriter import align


def _top(call: Call) -> None:
    name, *arguments = call.arguments
    listing = call.api.get(f"{container_path(name)}/top", {"ps_args": " ".join(arguments)} if arguments else None)
    rows = [listing["Titles"], *(listing["Processes"] or [])]
    for line in align(["\t".join(row) for row in rows], least=20):
        say(line)


top = Body(_top)
