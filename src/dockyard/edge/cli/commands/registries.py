"""`dockyard pull`, `push` and `search`."""

from __future__ import annotations

import os

from dockyard.edge.cli.api import quote
from dockyard.edge.cli.call import Body, Call, say
from dockyard.edge.cli.commands.ps import FORMAT_HELP
from dockyard.edge.cli.credentials import Credentials, folder
from dockyard.edge.cli.errors import CliError
from dockyard.edge.cli.flags import FILTER, INT, flag, many, value
from dockyard.edge.cli.platform import asked_platform
from dockyard.edge.cli.progress import show_messages
from dockyard.edge.cli.show import show_rows
from dockyard.model.errors import DockyardError
from dockyard.proto.references import DEFAULT_DOMAIN, Reference, parse

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

HEADERS = {
    "Name": "NAME",
    "Description": "DESCRIPTION",
    "StarCount": "STARS",
    "IsOfficial": "OFFICIAL",
    "IsAutomated": "AUTOMATED",
}
_DESCRIPTION = 45  # characters of a description that a table shows


def reference_of(text: str) -> Reference:
    """A name as it was typed. CliError if it is none."""
    try:
        return parse(text)
    except DockyardError as error:
        raise CliError(str(error)) from None


def credentials(call: Call) -> Credentials:
    return Credentials(folder(call.options, os.environ), os.environ)


def pull_reference(call: Call, reference: Reference, *, fd: int = 1, quiet: bool = False) -> None:
    """Lets the daemon pull one image, or a whole repository where the reference names neither tag nor digest."""
    query = {
        "fromImage": reference.familiar_repository,
        "tag": reference.digest or reference.tag or None,
        "platform": call.text("platform").lower() or None,
    }
    headers = credentials(call).header(reference.domain)
    show_messages(call.api.stream("POST", "/images/create", query, headers=headers), fd=fd, quiet=quiet)


def _pull(call: Call) -> None:
    reference, quiet = reference_of(call.arguments[0]), call.on("quiet")
    if call.on("all-tags"):
        _refuse_tag(reference)
    elif not (reference.tag or reference.digest):
        reference = reference.with_default_tag()
        if not quiet:
            say(f"Using default tag: {reference.tag}")
    pull_reference(call, reference, quiet=quiet)
    say(reference.complete)


def _push(call: Call) -> None:
    reference, quiet = reference_of(call.arguments[0]), call.on("quiet")
    if reference.digest:
        raise CliError("cannot push a digest reference")
    if call.on("all-tags"):
        _refuse_tag(reference)
    elif not reference.tag:
        reference = reference.with_default_tag()
        if not quiet:
            say(f"Using default tag: {reference.tag}")
    query: dict[str, Any] = {"tag": reference.tag or None, "platform": asked_platform(call, "1.46")}
    path = f"/images/{quote(reference.familiar_repository, b'/:')}/push"
    headers = credentials(call).header(reference.domain)
    show_messages(call.api.stream("POST", path, query, headers=headers), quiet=quiet)
    if quiet:
        say(reference.complete)


def _refuse_tag(reference: Reference) -> None:
    if reference.tag or reference.digest:
        raise CliError("tag can't be used with --all-tags/-a")


def _search(call: Call) -> None:
    term = call.arguments[0]
    limit = call.number("limit")
    if limit is not None and not 0 <= limit <= 100:
        raise CliError(f"limit {limit} is outside the range of [1, 100]")
    query = {"term": term, "limit": limit or None, "filters": call.filters() or None}
    first = term.partition("/")[0]
    is_host = "/" in term and ("." in first or ":" in first or first == "localhost")
    headers = credentials(call).header(first if is_host else DEFAULT_DOMAIN)
    found = json_of(call, query, headers)
    rows = [_row(entry, call.on("no-trunc")) for entry in sorted(found, key=lambda entry: -entry.get("star_count", 0))]
    columns = ["Name", "Description", "StarCount", "IsOfficial"]
    show_rows(call.text("format"), columns, HEADERS, rows)


def json_of(call: Call, query: dict[str, Any], headers: dict[str, str]) -> list[dict[str, Any]]:
    from dockyard.edge.cli.api import decode

    found = decode(call.api.send("GET", "/images/search", query, headers=headers).read())
    return found if isinstance(found, list) else []


def _row(entry: dict[str, Any], full: bool) -> dict[str, str]:
    text = str(entry.get("description") or "").replace("\n", " ").replace("\r", " ")
    if not full and len(text) > _DESCRIPTION:
        text = text[: _DESCRIPTION - 1] + "…"
    return {
        "Name": str(entry.get("name", "")),
        "Description": text,
        "StarCount": str(entry.get("star_count", 0)),
        "IsOfficial": "[OK]" if entry.get("is_official") else "",
        "IsAutomated": "[OK]" if entry.get("is_automated") else "",
    }


_TRUST = flag("--disable-content-trust", "Accepted; images are verified by their digests", hidden=True)
pull = Body(
    _pull,
    (
        flag("-a --all-tags", "Download all tagged images in the repository"),
        _TRUST,
        value("--platform", "Set platform if server is multi-platform capable"),
        flag("-q --quiet", "Suppress verbose output"),
    ),
)
push = Body(
    _push,
    (
        flag("-a --all-tags", "Push all tags of an image to the repository"),
        _TRUST,
        value("--platform", 'Push a platform-specific manifest as a single-platform image, "os[/arch[/variant]]"'),
        flag("-q --quiet", "Suppress verbose output"),
    ),
)
search = Body(
    _search,
    (
        many("-f --filter", "Filter output based on conditions provided", FILTER),
        value("--format", FORMAT_HELP),
        value("--limit", "Max number of search results", INT),
        flag("--no-trunc", "Don't truncate output"),
    ),
)
