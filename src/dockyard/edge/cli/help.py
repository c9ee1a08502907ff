"""Help texts in docker's layout.

Owns: Usage, Aliases, Commands, Options, and the short usage below an error. Does not own: what is said (`catalog` and
the flags of each command). Imported only when a text is shown.
"""

from __future__ import annotations

import os
import shutil
import sys
import textwrap
from collections.abc import Sequence

from dockyard.edge.cli.catalog import COMMON, ENTRIES, GROUPS, Entry
from dockyard.edge.cli.flags import Flag

PROGRAM = "dockyard"


def of_program(flags: Sequence[Flag]) -> str:
    """`dockyard --help`."""
    top = {path: entry for entry in ENTRIES for path in entry.paths if " " not in path}
    lines = [f"Usage:  {PROGRAM} [OPTIONS] COMMAND", "", "A fast container platform that any Docker client can use", ""]
    lines += ["Common Commands:", *_commands({name: top[name].summary for name in COMMON}), ""]
    lines += ["Management Commands:", *_commands(GROUPS), ""]
    rest = {name: top[name].summary for name in sorted(top) if name not in COMMON}
    lines += ["Commands:", *_commands(rest), ""]
    lines += ["Global Options:", *_options(flags), ""]
    lines += [f"Run '{PROGRAM} COMMAND --help' for more information on a command."]
    pages = os.path.join(sys.prefix, "share/doc/dockyard")
    return "\n".join([*lines, *(["", f"More is in {pages}"] if os.path.isdir(pages) else [])])


def of_group(group: str) -> str:
    """`dockyard container --help`."""
    inside = {e.path.split()[1]: e.summary for e in ENTRIES if e.path.startswith(f"{group} ")}
    lines = [f"Usage:  {PROGRAM} {group} COMMAND", "", GROUPS[group], "", "Commands:", *_commands(inside), ""]
    return "\n".join([*lines, f"Run '{PROGRAM} {group} COMMAND --help' for more information on a command."])


def of_command(entry: Entry, path: str, flags: Sequence[Flag]) -> str:
    """`dockyard run --help`."""
    lines = [usage(entry, path), "", entry.summary + entry.more]
    if entry.aliases:
        names = ", ".join(f"{PROGRAM} {each}" for each in entry.paths)
        lines += ["", "Aliases:", f"  {names}"]
    if flags:
        lines += ["", "Options:", *_options(flags)]
    return "\n".join(lines)


def usage(entry: Entry, path: str) -> str:
    forms = [f"{PROGRAM} {path} {form}".rstrip() for form in entry.usage.split("\n")]
    return "Usage:  " + "\n\t".join(forms)


def hint(entry: Entry, path: str) -> str:
    """What stands below a usage error."""
    return f"\n{usage(entry, path)}\n\n{see(path)}"


def see(path: str) -> str:
    return f"Run '{PROGRAM} {path} --help' for more information"


def arity(entry: Entry, path: str) -> str:
    """The complaint about a wrong number of arguments."""
    least, most = entry.least, entry.most
    if most == 0:
        return f"'{PROGRAM} {path}' accepts no arguments"
    few = least if least == most else least if most > 1 << 20 else None
    if few is None and least == 0:
        return f"'{PROGRAM} {path}' requires at most {most} argument{'s' if most != 1 else ''}"
    if few is None:
        return f"'{PROGRAM} {path}' requires between {least} and {most} arguments"
    at_least = "" if least == most else "at least "
    return f"'{PROGRAM} {path}' requires {at_least}{few} argument{'s' if few != 1 else ''}"


def _commands(summaries: dict[str, str]) -> list[str]:
    width = max(11, *(len(name) + 2 for name in summaries))
    return [f"  {name:<{width}} {summary}" for name, summary in summaries.items()]


def _options(flags: Sequence[Flag]) -> list[str]:
    shown = sorted((each for each in flags if not each.hidden), key=lambda each: each.key)
    left = [_left(each) for each in shown]
    width = max(len(text) for text in left) + 3
    columns = max(40, min(shutil.get_terminal_size().columns, 100) - width)
    lines = []
    for text, each in zip(left, shown, strict=True):
        paragraphs = [wrapped for part in _help(each).split("\n") for wrapped in textwrap.wrap(part, columns) or [""]]
        lines.append(f"{text:<{width}}{paragraphs[0]}".rstrip())
        lines += [" " * width + paragraph for paragraph in paragraphs[1:]]
    return lines


def _left(flag: Flag) -> str:
    names = ", ".join(flag.names) if len(flag.names) > 1 else f"    {flag.names[0]}"
    return f"  {names} {flag.word}".rstrip()


def _help(flag: Flag) -> str:
    return f"{flag.help} (default {flag.shown_default})" if flag.shown_default else flag.help
