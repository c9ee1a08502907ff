"""One command of the client, as the tables of this package have it."""

from __future__ import annotations

ANY = 1 << 30


class Entry:
    """One command.

    `path`: "container ls"; `body`: "ps:ls"; `usage`: behind the command's name; `aliases`: other paths;
    `options_first`: flags end at the first argument; `complete`: what completes each argument, the last one goes on;
    `more`: what the command's own help says behind the summary; several forms of `usage` are lines.
    """

    __slots__ = ("aliases", "body", "complete", "least", "more", "most", "options_first", "path", "summary", "usage")

    def __init__(
        self,
        path: str,
        body: str,
        summary: str,
        usage: str,
        least: int = 0,
        most: int = ANY,
        aliases: tuple[str, ...] = (),
        options_first: bool = False,
        complete: tuple[str, ...] = (),
        more: str = "",
    ) -> None:
        self.path = path
        self.body = body
        self.summary = summary
        self.usage = usage
        self.least = least
        self.most = most
        self.aliases = aliases
        self.options_first = options_first
        self.complete = complete
        self.more = more

    @property
    def paths(self) -> tuple[str, ...]:
        return (self.path, *self.aliases)
