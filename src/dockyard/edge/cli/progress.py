"""Progress that the daemon reports while it pulls, loads and imports.

Owns: turning its JSON messages into lines, and on a terminal into lines that update in place (rich, imported only
there). Does not own: where the messages come from.
"""

from __future__ import annotations

import os

from dockyard.edge.cli.errors import CliError
from dockyard.edge.cli.terminal import is_terminal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any


def show_messages(messages: Iterable[dict[str, Any]], fd: int = 1, quiet: bool = False) -> None:
    """Shows messages as they come. CliError with the text of an error among them."""
    if is_terminal(fd) and not quiet:
        _live(messages, fd)
        return
    for message in messages:
        _raise_error(message)
        if not quiet or "stream" in message:
            _plain(message, fd)


def _raise_error(message: dict[str, Any]) -> None:
    if "error" in message:
        raise CliError(str((message.get("errorDetail") or {}).get("message") or message["error"]))


def _plain(message: dict[str, Any], fd: int) -> None:
    """Without a terminal progress bars are left out: every line is said once."""
    if message.get("progressDetail") or message.get("progress"):
        return
    text = message.get("stream")
    if text is None and message.get("status"):
        text = f"{message['id']}: {message['status']}\n" if message.get("id") else f"{message['status']}\n"
    if text:
        os.write(fd, text.encode())


def _live(messages: Iterable[dict[str, Any]], fd: int) -> None:
    """One line for every part that is under way, updated in place; what is not progress is printed above them."""
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TaskID, TextColumn

    with open(fd, "w", closefd=False) as file:
        columns = (TextColumn("{task.fields[part]}"), TextColumn("{task.description}"), BarColumn(), DownloadColumn())
        with Progress(*columns, console=Console(file=file, highlight=False), transient=True) as progress:
            tasks: dict[str, TaskID] = {}
            for message in messages:
                _raise_error(message)
                detail = message.get("progressDetail") or {}
                part = message.get("id") or ""
                if "current" in detail:
                    if part not in tasks:
                        tasks[part] = progress.add_task("", total=None, part=part)
                    total = detail.get("total") or None
                    progress.update(
                        tasks[part], description=message.get("status", ""), completed=detail["current"], total=total
                    )
                elif text := (message.get("stream") or message.get("status") or "").rstrip("\n"):
                    progress.console.print(f"{part}: {text}" if part else text, markup=False)
