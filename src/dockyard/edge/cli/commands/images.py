"""`dockyard images`, `rmi`, `tag`."""

from __future__ import annotations

import time

from dockyard.edge.cli.api import quote
from dockyard.edge.cli.call import Body, Call, complain, each, say
from dockyard.edge.cli.commands.ps import FORMAT_HELP
from dockyard.edge.cli.errors import CliError
from dockyard.edge.cli.flags import FILTER, flag, many, value
from dockyard.edge.cli.imagetree import show_tree
from dockyard.edge.cli.show import ago, local_time, short_id, show_rows
from dockyard.model.errors import DockyardError
from dockyard.proto.references import parse
from dockyard.proto.units import human_size

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

HEADERS = {
    "ID": "IMAGE ID",
    "Repository": "REPOSITORY",
    "Tag": "TAG",
    "Digest": "DIGEST",
    "CreatedSince": "CREATED",
    "CreatedAt": "CREATED AT",
    "Size": "SIZE",
    "SharedSize": "SHARED SIZE",
    "UniqueSize": "UNIQUE SIZE",
    "VirtualSize": "VIRTUAL SIZE",
    "Containers": "CONTAINERS",
}
NONE = "<none>"


def _ls(call: Call) -> None:
    filters = call.filters()
    if call.arguments:
        filters["reference"] = [call.arguments[0]]
    query = {"all": call.on("all"), "filters": filters or None}
    if call.on("tree"):
        if not call.api.at_least("1.47"):
            raise CliError(f'"--tree" requires API version 1.47, but the daemon\'s API version is {call.api.version}')
        query["manifests"] = True
    images = call.api.get("/images/json", query)
    images.sort(key=lambda image: image["Created"], reverse=True)
    if call.on("tree"):
        show_tree(images, call.on("no-trunc"))
        return
    digests = call.on("digests") or ".Digest" in call.text("format")
    now = time.time_ns()
    rows = [row for image in images for row in image_rows(image, now, call.on("no-trunc"), digests)]
    if call.on("quiet"):
        if call.text("format"):
            complain("WARNING: Ignoring custom format, because both --format and --quiet are set.")
        for row in rows:
            say(row["ID"])
        return
    columns = ["Repository", "Tag", "ID", "CreatedSince", "Size"]
    if call.on("digests"):
        columns.insert(2, "Digest")
    show_rows(call.text("format"), columns, HEADERS, rows)


def image_rows(image: dict[str, Any], now: int, full: bool, digests: bool) -> Iterator[dict[str, Any]]:
    """One row for every name of an image; one with `<none>` where it has no name."""
    for repository, tag, digest in _names(image, digests):
        yield {
            "ID": image["Id"] if full else short_id(image["Id"]),
            "Repository": repository,
            "Tag": tag,
            "Digest": digest,
            "CreatedSince": ago(image["Created"], now) if image["Created"] else "N/A",
            "CreatedAt": local_time(image["Created"]),
            "Size": human_size(image["Size"], 3),
            "VirtualSize": human_size(image.get("VirtualSize") or image["Size"]),
            "SharedSize": _known(image.get("SharedSize", -1)),
            "UniqueSize": _unique(image),
            "Containers": "N/A" if image.get("Containers", -1) < 0 else str(image["Containers"]),
        }


def _known(size: int) -> str:
    return "N/A" if size < 0 else human_size(size)


def _unique(image: dict[str, Any]) -> str:
    shared = image.get("SharedSize", -1)
    return "N/A" if shared < 0 else human_size(image["Size"] - shared)


def _names(image: dict[str, Any], digests: bool) -> list[tuple[str, str, str]]:
    tags = [tag for tag in image.get("RepoTags") or [] if tag != "<none>:<none>"]
    with_digest = [name for name in image.get("RepoDigests") or [] if name != "<none>@<none>"]
    by_repository: dict[str, list[str]] = {}
    for name in with_digest:
        repository, _, digest = name.partition("@")
        by_repository.setdefault(repository, []).append(digest)
    out = []
    for tag in tags:
        repository, _, label = tag.rpartition(":")
        for digest in by_repository.get(repository, [NONE]) if digests else [NONE]:
            out.append((repository, label, digest))
    if digests or not tags:
        tagged = {repository for repository, _, _ in out}
        out += [(r, NONE, digest) for r, all_of in by_repository.items() if r not in tagged for digest in all_of]
    return out or [(NONE, NONE, NONE)]


def _remove(call: Call) -> int:
    query = {"force": call.on("force"), "noprune": call.on("no-prune")}

    def remove(name: str) -> None:
        for gone in call.api.delete(f"/images/{quote(name, b'/:@')}", query) or []:
            say(f"Deleted: {gone['Deleted']}" if gone.get("Deleted") else f"Untagged: {gone['Untagged']}")

    code = each(call.arguments, remove)
    return 0 if call.on("force") and not code else code


def _tag(call: Call) -> None:
    source, target = call.arguments
    try:
        reference = parse(target).with_default_tag()
    except DockyardError as error:
        raise CliError(f'Error parsing reference: "{target}" is not a valid repository/tag: {error}') from None
    if reference.digest:
        raise CliError("refusing to create a tag with a digest reference")
    query = {"repo": reference.familiar_repository, "tag": reference.tag}
    call.api.post(f"/images/{quote(source, b'/:@')}/tag", query)


ls = Body(
    _ls,
    (
        flag("-a --all", "Show all images (default hides intermediate images)"),
        flag("--digests", "Show digests"),
        many("-f --filter", "Filter output based on conditions provided", FILTER),
        value("--format", FORMAT_HELP),
        flag("--no-trunc", "Don't truncate output"),
        flag("-q --quiet", "Only show image IDs"),
        flag("--tree", "List multi-platform images as a tree"),
    ),
)
remove = Body(
    _remove,
    (flag("-f --force", "Force removal of the image"), flag("--no-prune", "Do not delete untagged parents")),
)
tag = Body(_tag)
