"""`dockyard completion bash|zsh|fish`."""

from __future__ import annotations

from dockyard.edge.cli.call import Body, Call, say


def _script(shell: str) -> Body:
    def run(call: Call) -> None:
        from dockyard.edge.cli.completion import script

        say(script(shell))

    return Body(run)


bash = _script("bash")
fish = _script("fish")
zsh = _script("zsh")
