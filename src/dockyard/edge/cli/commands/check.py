"""`dockyard system check`."""

from __future__ import annotations

import sys

from dockyard.edge.cli.call import Body, Call, say
from dockyard.edge.cli.errors import CliError
from dockyard.edge.cli.flags import flag, value
from dockyard.edge.cli.show import renderer

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def _check(call: Call) -> None:
    show = renderer(call.text("format")) if call.text("format") else None
    query = {"quick": call.on("quick"), "repair": call.on("repair")}
    done: dict[str, int] = {}
    left = repaired = 0
    for document in call.api.stream("POST", "/system/check", query):
        if checked := document.get("checked"):
            done[checked["kind"]] = checked["done"]
            _progress(f"{checked['kind']}s: {checked['done']} of {checked['total']}")
        elif damage := document.get("damage"):
            _progress("")
            say(show(_fields(damage)) if show else _text(damage))
            left, repaired = left + (not damage["repaired"]), repaired + bool(damage["repaired"])
    _progress("")
    if show is None:
        looked = ", ".join(f"{count} {kind}s" for kind, count in done.items()) or "what records name"
        say(
            f"Checked {looked}: {left + repaired or 'nothing'} damaged" + (f", {repaired} repaired" if repaired else "")
        )
    if left:
        raise CliError("", 1)


def _progress(text: str) -> None:
    if sys.stderr.isatty():
        sys.stderr.write(f"\r\x1b[K{text}")
        sys.stderr.flush()


def _fields(damage: dict[str, Any]) -> dict[str, Any]:
    return {key.capitalize() if key != "id" else "ID": each for key, each in damage.items()}


def _text(damage: dict[str, Any]) -> str:
    lines = [f"{damage['kind']} {damage['id']}: {damage['problem']}"]
    lines += [f"  {kind}: {', '.join(damage[kind])}" for kind in ("images", "containers") if damage[kind]]
    return "\n".join(lines + ([f"  repaired: {damage['repaired']}"] if damage["repaired"] else []))


check = Body(
    _check,
    (
        flag("--quick", "Only look whether everything is there, without reading it"),
        flag("--repair", "Remove what is damaged, if it can be had again and no container uses it"),
        value("--format", "Format output using a Go template, or 'json'"),
    ),
)
