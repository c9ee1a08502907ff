"""`dockyard container prune`, `image prune`, `system prune`."""

from __future__ import annotations

from dockyard.edge.cli.call import Body, Call, confirm, say
from dockyard.edge.cli.errors import ApiError, CliError
from dockyard.edge.cli.flags import FILTER, flag, many
from dockyard.proto.units import human_size


def _may(call: Call, warning: str) -> None:
    if not call.on("force") and not confirm(f"WARNING! {warning}\nAre you sure you want to continue?"):
        raise CliError("", 0)


def _containers(call: Call) -> None:
    _may(call, "This will remove all stopped containers.")
    result = call.api.post("/containers/prune", {"filters": call.filters() or None})
    gone = result.get("ContainersDeleted") or []
    if gone:
        say("Deleted Containers:\n" + "\n".join(gone) + "\n")
    say(f"Total reclaimed space: {human_size(result.get('SpaceReclaimed') or 0)}")


def _images(call: Call) -> None:
    every = call.on("all")
    what = "all images without at least one container associated to them" if every else "all dangling images"
    _may(call, f"This will remove {what}.")
    filters = {"dangling": ["false" if every else "true"], **call.filters()}
    result = call.api.post("/images/prune", {"filters": filters})
    gone = result.get("ImagesDeleted") or []
    if gone:
        say("Deleted Images:")
        for each in gone:
            say(_image(each))
        say("")
    say(f"Total reclaimed space: {human_size(result.get('SpaceReclaimed') or 0)}")


def _system(call: Call) -> None:
    every, volumes, filters = call.on("all"), call.on("volumes"), call.filters()
    if volumes and "until" in filters:
        raise CliError('ERROR: The "until" filter is not supported with "--volumes"')
    what = [
        "all stopped containers",
        "all networks not used by at least one container",
        *(["all anonymous volumes not used by at least one container"] if volumes else []),
        "all images without at least one container associated to them" if every else "all dangling images",
        "all build cache" if every else "unused build cache",
    ]
    items = [f"  - {each}" for each in what]
    if filters:
        items.append("\n  Items to be pruned will be filtered with:")
        items += [f"  - {name}={text}" for name, texts in filters.items() for text in texts]
    _may(call, "This will remove:\n" + "\n".join(items) + "\n")
    freed = _step(call, "/containers/prune", filters, "ContainersDeleted", "Deleted Containers:")
    freed += _step(call, "/networks/prune", filters, "NetworksDeleted", "Deleted Networks:")
    if volumes:
        freed += _step(call, "/volumes/prune", filters, "VolumesDeleted", "Deleted Volumes:")
    dangling = {"dangling": ["false" if every else "true"]}
    freed += _step(call, "/images/prune", {**dangling, **filters}, "ImagesDeleted", "Deleted Images:")
    kept = {name: texts for name, texts in filters.items() if not name.startswith("label")}
    freed += _step(call, "/build/prune", kept, "CachesDeleted", "Deleted build cache objects:", all=every)
    say(f"Total reclaimed space: {human_size(freed)}")


def _step(call: Call, path: str, filters: dict[str, list[str]], key: str, heading: str, **query: object) -> int:
    """One prune; prints what went, returns the bytes that this gave back."""
    try:
        result = call.api.post(path, {"filters": filters or None, **query}) or {}
    except ApiError as error:
        if error.status != 501:
            raise
        return 0  # this daemon keeps nothing of that kind
    gone = result.get(key) or []
    if gone:
        say(heading)
        for each in gone:
            say(_image(each) if isinstance(each, dict) else each)
        say("")
    return int(result.get("SpaceReclaimed") or 0)


def _image(entry: dict[str, str]) -> str:
    return f"untagged: {entry['Untagged']}" if entry.get("Untagged") else f"deleted: {entry['Deleted']}"


_FILTER = many("--filter", 'Provide filter values (e.g. "until=<timestamp>")', FILTER)
_FORCE = flag("-f --force", "Do not prompt for confirmation")
containers = Body(_containers, (_FILTER, _FORCE))
images = Body(_images, (flag("-a --all", "Remove all unused images, not just dangling ones"), _FILTER, _FORCE))
system = Body(
    _system,
    (
        flag("-a --all", "Remove all unused images, not just dangling ones"),
        many("--filter", 'Provide filter values (e.g. "label=<key>=<value>")', FILTER),
        _FORCE,
        flag("--volumes", "Prune anonymous volumes"),
    ),
)
