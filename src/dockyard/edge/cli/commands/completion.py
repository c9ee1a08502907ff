"""`dockyard completion bash|zsh|fish`."""

from __future__ import annotations

from dockyard.edge.cli.call import Body, Call, say
from dockyard.edge.cli.flags import flag


def _script(shell: str) -> Body:
    def run(call: Call) -> None:
        from dockyard.edge.cli.completion import script

        say(script(shell, described=not call.on("no-descriptions")))

    return Body(run, (flag("--no-descriptions", "Leave the descriptions of commands and flags out"),))


bash = _script("bash")
fish = _script("fish")
zsh = _script("zsh")
