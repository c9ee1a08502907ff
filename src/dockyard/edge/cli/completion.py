"""Shell completion.

Owns: what may follow on a command line: commands, flags, values of flags, names of containers, images and networks as
the daemon knows them. The scripts and their protocol are click's (`_DOCKYARD_COMPLETE=bash_complete dockyard`), which
is imported here only. Nothing is ever printed about errors: a shell is waiting for words.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from typing import Any

from click import Command
from click.shell_completion import BashComplete, CompletionItem, FishComplete, ShellComplete, ZshComplete

from dockyard.edge.cli import catalog
from dockyard.edge.cli.api import Api
from dockyard.edge.cli.call import say
from dockyard.edge.cli.errors import CliError
from dockyard.edge.cli.flags import BOOL, Flag, parse
from dockyard.edge.cli.host import find
from dockyard.edge.cli.main import GLOBAL_FLAGS, load

_VARIABLE = "_DOCKYARD_COMPLETE"


class _Bash(BashComplete):
    """bash breaks words at `:` and `=` too, and puts what is answered in the place of the last piece only."""

    _cut = 0

    def get_completion_args(self) -> tuple[list[str], str]:
        words, incomplete = super().get_completion_args()
        words, incomplete, self._cut = glued(words, incomplete)
        return words, incomplete

    def format_completion(self, item: CompletionItem[Any]) -> str:
        return f"{item.type},{item.value[self._cut :]}"


_SHELLS: dict[str, type[ShellComplete]] = {"bash": _Bash, "fish": FishComplete, "zsh": ZshComplete}


def glued(pieces: list[str], incomplete: str) -> tuple[list[str], str, int]:
    """Words as they were typed, the incomplete one, and how much of that stands before its last piece."""
    words: list[str] = []
    going_on = False
    for piece in pieces:
        breaks = not piece.strip(":=")
        if words and (breaks or going_on):
            words[-1] += piece
        else:
            words.append(piece)
        going_on = breaks
    breaks = not incomplete.strip(":=")
    if not incomplete or not words or not (breaks or going_on):
        return words, incomplete, 0
    before = words.pop()
    return words, before + incomplete, len(before) + (len(incomplete) if breaks else 0)


def script(shell: str, described: bool = True) -> str:
    """The script that a shell has to source. `described`: with what commands and flags do, where the shell shows it."""
    text = _completer(shell).source()
    return text if described else text.replace(f"{_VARIABLE}={shell}_complete", f"{_VARIABLE}={shell}_complete_bare")


def answer(instruction: str) -> int:
    """Carries out `bash_complete`, `bash_source` and the like; the command line comes in the environment."""
    shell, _, action = instruction.partition("_")
    if shell not in _SHELLS:
        return 1
    completer = _completer(shell, described=not action.endswith("_bare"))
    say(completer.complete() if action.startswith("complete") else script(shell))
    return 0


def _completer(shell: str, described: bool = True) -> ShellComplete:
    kind = _SHELLS[shell]

    class Completer(kind):  # type: ignore[misc, valid-type]
        def get_completions(self, args: list[str], incomplete: str) -> list[CompletionItem[Any]]:
            found = complete(args, incomplete)
            return found if described else [CompletionItem(each.value, each.type) for each in found]

        def source(self) -> str:
            text: str = self.source_template % self.source_vars()  # without asking bash for its version
            return text

    return Completer(Command("dockyard"), {}, "dockyard", _VARIABLE)


def complete(words: list[str], incomplete: str) -> list[CompletionItem[Any]]:
    """What may stand where `incomplete` stands, after `words`."""
    options = parse(GLOBAL_FLAGS, words, interspersed=False, lenient=True)
    rest = options.arguments
    if not rest:
        return _flag_or(GLOBAL_FLAGS, words, incomplete, options.values, lambda: _commands("", incomplete))
    entry, length = catalog.find(rest)
    if entry is None:
        return _commands(rest[0], incomplete) if rest == [rest[0]] and rest[0] in catalog.GROUPS else []
    flags = load(entry).flags
    parsed = parse(flags, rest[length:], interspersed=not entry.options_first, lenient=True)
    kinds = entry.complete or ("",)
    kind = kinds[min(len(parsed.arguments), len(kinds) - 1)] if len(parsed.arguments) < entry.most else ""
    if entry.options_first and parsed.arguments:
        flags = ()
    return _flag_or(flags, rest[length:], incomplete, options.values, lambda: _values(kind, incomplete, options.values))


def _flag_or(
    flags: tuple[Flag, ...],
    words: list[str],
    incomplete: str,
    options: dict[str, Any],
    otherwise: Callable[[], list[CompletionItem[Any]]],
) -> list[CompletionItem[Any]]:
    """A flag, a flag's value, or what `otherwise` gives."""
    by_name = {name: each for each in flags for name in each.names}
    last = words[-1] if words else ""
    if last in by_name and by_name[last].kind is not BOOL:
        return _values(by_name[last].complete, incomplete, options)
    name, equals, value = incomplete.partition("=")
    if equals and name in by_name:
        return [CompletionItem(f"{name}={each.value}") for each in _values(by_name[name].complete, value, options)]
    if incomplete.startswith("-"):
        shown = sorted((each for each in flags if not each.hidden), key=lambda each: each.key)
        return [
            CompletionItem(n, help=each.help) for each in shown for n in each.names[::-1] if n.startswith(incomplete)
        ]
    return otherwise()


def _commands(group: str, incomplete: str) -> list[CompletionItem[Any]]:
    found = {} if group else dict(catalog.GROUPS)
    for entry in catalog.ENTRIES:
        for path in entry.paths:
            inside, space, name = path.rpartition(" ")
            if inside == group and (space or not group):
                found[name] = entry.summary
    return [CompletionItem(name, help=found[name]) for name in sorted(found) if name.startswith(incomplete)]


def _values(kind: str, incomplete: str, options: dict[str, Any]) -> list[CompletionItem[Any]]:
    if kind == "file":
        return [CompletionItem(incomplete, type="file")]
    if not kind:
        return []
    try:
        names = _NAMES[kind](Api(find(options, os.environ), os.environ)) if kind in _NAMES else kind.split()
        return [CompletionItem(name) for name in sorted(set(names)) if name.startswith(incomplete)]
    except (CliError, OSError, KeyError, TypeError):
        return []


def _containers(filters: dict[str, list[str]] | None) -> Callable[[Api], Iterable[str]]:
    def names(api: Api) -> list[str]:
        query = {"all": filters is None or "status" in filters, "filters": filters}
        return [each["Names"][0].lstrip("/") for each in api.get("/containers/json", query)]

    return names


def _images(api: Api) -> list[str]:
    tags = [tag for image in api.get("/images/json") for tag in image.get("RepoTags") or [] if "<none>" not in tag]
    return tags + [tag.removesuffix(":latest") for tag in tags if tag.endswith(":latest")]


def _networks(api: Api) -> list[str]:
    return [each["Name"] for each in api.get("/networks")]


def _volumes(api: Api) -> list[str]:
    return [each["Name"] for each in api.get("/volumes").get("Volumes") or []]


def _leases(api: Api) -> list[str]:
    return [each["Id"] for each in api.get("/leases")]


_NAMES: dict[str, Callable[[Api], Iterable[str]]] = {
    "container": _containers(None),
    "running": _containers({}),
    "stopped": _containers({"status": ["created", "exited", "dead"]}),
    "image": _images,
    "network": _networks,
    "lease": _leases,
    "volume": _volumes,
    "anything": lambda api: [*_containers(None)(api), *_images(api), *_networks(api), *_volumes(api)],
}
