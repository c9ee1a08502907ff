"""`dockyard container prune`, `image prune`."""

from __future__ import annotations

from dockyard.edge.cli.call import Body, Call, confirm, say
from dockyard.edge.cli.errors import CliError
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
            say(f"untagged: {each['Untagged']}" if each.get("Untagged") else f"deleted: {each['Deleted']}")
        say("")
    say(f"Total reclaimed space: {human_size(result.get('SpaceReclaimed') or 0)}")


_FILTER = many("--filter", 'Provide filter values (e.g. "until=<timestamp>")', FILTER)
_FORCE = flag("-f --force", "Do not prompt for confirmation")
containers = Body(_containers, (_FILTER, _FORCE))
images = Body(_images, (flag("-a --all", "Remove all unused images, not just dangling ones"), _FILTER, _FORCE))
