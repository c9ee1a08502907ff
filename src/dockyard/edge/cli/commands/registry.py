"""`dockyard registry serve`, `gc`, `check`.

Owns: their flags. The work is done by a process that takes this one's place (`python -m dockyard.edge.registry`): the
client imports no server, and the registry talks to no daemon.
"""

from __future__ import annotations

import os
import sys

from dockyard.edge.cli.call import Body, Call
from dockyard.edge.cli.errors import CliError
from dockyard.edge.cli.flags import flag, many, value

TYPE_CHECKING = False  # typing's own constant, without the 6 ms that importing typing takes (docs/cli.md)
if TYPE_CHECKING:
    from collections.abc import Callable

WHERE = (
    value("--config", "Configuration file (JSON or YAML)", complete="file"),
    value("--root", "Folder of the content, when it is kept in files", complete="file"),
)
SERVE = (
    *WHERE,
    many("--listen", "Address to serve on", shown_default="127.0.0.1:5000"),
    value("--log-level", '"debug", "info", "warning" or "error"', shown_default='"info"'),
    flag("--read-only", "Refuse every push and deletion"),
)
GC = (
    *WHERE,
    flag("--once", "One round: delete what an earlier one has condemned, condemn, do not wait"),
    flag("--untagged", "Also manifests that no tag, index or subject keeps"),
)
CHECK = (*WHERE, flag("--quick", "Do not read the blobs"))


def _execute(action: str) -> Callable[[Call], int | None]:
    def run(call: Call) -> int | None:
        if not call.text("config") and not call.text("root"):
            raise CliError("where is the registry? Give --root DIR, or --config FILE")
        words = [sys.executable, "-m", "dockyard.edge.registry", action]
        for each in call.flags:
            given = call.get(each.key)
            if each.many:
                words += [f"--{each.key}={text}" for text in given]
            elif given is True:
                words.append(f"--{each.key}")
            elif given:
                words.append(f"--{each.key}={given}")
        sys.stdout.flush()
        os.execv(words[0], words)

    return run


serve = Body(_execute("serve"), SERVE)
collect = Body(_execute("gc"), GC)
check = Body(_execute("check"), CHECK)
