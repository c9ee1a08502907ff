"""`dockyard build --check`: the build checks' findings, nothing is built.

Owns: asking the daemon to check, the report. Does not own: the checks (`proto.dockerfile.lint`, in the daemon).
"""

from __future__ import annotations

from dockyard.edge.cli.building import session
from dockyard.edge.cli.building.packing import Packer
from dockyard.edge.cli.building.plain import excerpt
from dockyard.edge.cli.building.source import DOCKERFILE, Source
from dockyard.edge.cli.call import Call, say
from dockyard.edge.cli.errors import FAILED

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def check(call: Call, source: Source) -> int:
    """1 if there is anything to complain about. Of a directory only the Dockerfile is sent."""
    if source.text is not None:
        source.dockerfile, source.body = "", Packer("", extra={DOCKERFILE: source.text})
    found = session.run(call, source, {}, [], check=True).warnings
    say(report(found, source))
    return FAILED if found else 0


def report(found: list[dict[str, Any]], source: Source) -> str:
    """Each finding with its lines, as docker build --check writes them."""
    if not found:
        return "Check complete, no warnings found."
    blocks = []
    for each in found:
        lines = [f"WARNING: {each['rule']}" + (f" - {each['url']}" if each.get("url") else ""), each["text"]]
        first = int(each.get("line") or 0)
        if first and source.text is not None:
            lines.append(excerpt(source.name, source.text, first, int(each.get("lastLine") or first)))
        blocks.append("\n".join(lines))
    count = "1 warning has" if len(found) == 1 else f"{len(found)} warnings have"
    return "\n\n".join([*blocks, f"Check complete, {count} been found!"])
