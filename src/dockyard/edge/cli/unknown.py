"""A command that is not there: what was probably meant, and why some of docker's are missing.

Owns: the words of that answer. Imported only when it is given. Does not own: which commands there are (`catalog`).
"""

from __future__ import annotations

from dockyard.edge.cli import catalog
from dockyard.edge.cli.errors import CliError

NETWORKS = "Networks that users make are not served yet: there are bridge, host, none and those of other containers."
SWARM = "There is no swarm: this engine runs containers on one host."
ABSENT = {
    "buildx": "'dockyard build' has what it builds; 'dockyard builder' and 'dockyard imagetools' have the rest.",
    "checkpoint": "Checkpoints of running containers are not supported.",
    "completion powershell": "There are scripts for bash, zsh and fish.",
    "compose": "Compose files need networks that users make, which are not served yet.",
    "context": "There are no contexts: -H, DOCKYARD_HOST or DOCKER_HOST name the daemon.",
    "plugin": "There are no plugins.",
    "trust": "Signatures of images are not supported.",
    **dict.fromkeys(("config", "node", "secret", "service", "stack", "swarm"), SWARM),
    **dict.fromkeys((f"network {verb}" for verb in ("connect", "create", "disconnect", "prune", "rm")), NETWORKS),
}


def error(path: str, words: list[str]) -> CliError:
    """`path`: what was taken for the command's name; `words`: the whole command line behind the global flags."""
    group = f"{words[0]} " if words[0] in catalog.GROUPS else ""
    said = ABSENT.get(path) or ABSENT.get(words[0]) or _meant(path)
    lines = ["", *([said] if said else []), f"Run 'dockyard {group}--help' for more information"]
    return CliError(f"unknown command: dockyard {path}", hint="\n".join(lines))


def _meant(path: str) -> str:
    names = {known for entry in catalog.ENTRIES for known in entry.paths} | catalog.GROUPS.keys()
    close = sorted((distance(path, name), name) for name in names)
    least = close[0][0]
    word = path.rpartition(" ")[2]
    if least > (1 if len(word) < 6 else 2):
        return ""
    nearest = [f"'dockyard {name}'" for far, name in close if far == least][:3]
    return f"Did you mean {' or '.join(nearest)}?"


def distance(a: str, b: str) -> int:
    """How many letters were left out, added, mistaken, or swapped with the next one."""
    before, last = [0] * (len(b) + 1), list(range(len(b) + 1))
    for i in range(1, len(a) + 1):
        row = [i]
        for j in range(1, len(b) + 1):
            step = min(last[j] + 1, row[j - 1] + 1, last[j - 1] + (a[i - 1] != b[j - 1]))
            if i > 1 and j > 1 and a[i - 1] == b[j - 2] and a[i - 2] == b[j - 1]:
                step = min(step, before[j - 2] + 1)
            row.append(step)
        before, last = last, row
    return last[-1]
