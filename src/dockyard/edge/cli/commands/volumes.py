"""`dockyard volume create`, `ls`, `rm`, `prune`, `update`."""

from __future__ import annotations

from dockyard.edge.cli.api import quote
from dockyard.edge.cli.call import Body, Call, confirm, each, say
from dockyard.edge.cli.commands.ps import FORMAT_HELP
from dockyard.edge.cli.errors import CliError
from dockyard.edge.cli.flags import FILTER, flag, many, value
from dockyard.edge.cli.show import labels_text, show_rows
from dockyard.proto import envfile
from dockyard.proto.units import human_size

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

HEADERS = {
    "Name": "VOLUME NAME",
    "Driver": "DRIVER",
    "Scope": "SCOPE",
    "Mountpoint": "MOUNTPOINT",
    "Labels": "LABELS",
    "Links": "LINKS",
    "Size": "SIZE",
    "Group": "GROUP",
    "Availability": "AVAILABILITY",
    "Status": "STATUS",
}


def _create(call: Call) -> None:
    name = call.arguments[0] if call.arguments else ""
    if call.text("name"):
        if name:
            raise CliError(
                "conflicting options: cannot specify a volume-name through both --name and as a positional arg"
            )
        name = call.text("name")
    body = {
        "Name": name,
        "Driver": call.text("driver"),
        "DriverOpts": _pairs(call.texts("opt")),
        "Labels": envfile.as_mapping(call.texts("label")),
    }
    say(call.api.post("/volumes/create", body=body)["Name"])


def _pairs(texts: list[str]) -> dict[str, str]:
    found = {}
    for text in texts:
        name, equals, given = text.partition("=")
        if not equals or not name:
            raise CliError(f'invalid argument "{text}" for "-o, --opt" flag: must be name=value')
        found[name] = given
    return found


def _ls(call: Call) -> None:
    volumes = call.api.get("/volumes", {"filters": call.filters() or None}).get("Volumes") or []
    volumes.sort(key=lambda volume: volume["Name"])
    if call.on("quiet"):
        for volume in volumes:
            say(volume["Name"])
        return
    show_rows(call.text("format"), ["Driver", "Name"], HEADERS, [_row(volume) for volume in volumes])


def _row(volume: dict[str, Any]) -> dict[str, Any]:
    labels, usage = volume.get("Labels") or {}, volume.get("UsageData")
    return {
        **{name: volume.get(name, "") for name in ("Name", "Driver", "Scope", "Mountpoint")},
        "Labels": labels_text(labels),
        "Label": lambda name: labels.get(name, ""),
        "Links": str(usage["RefCount"]) if usage else "N/A",
        "Size": human_size(usage["Size"]) if usage else "N/A",
        **dict.fromkeys(("Group", "Availability", "Status"), "N/A"),
    }


def _remove(call: Call) -> int:
    force = call.on("force")

    def one(name: str) -> str:
        call.api.delete(f"/volumes/{quote(name)}", {"force": force})
        return name

    return each(call.arguments, one)


def _prune(call: Call) -> None:
    filters = call.filters()
    modern = call.api.at_least("1.42")
    if call.on("all"):
        if not modern:
            raise CliError('"--all" requires API version 1.42')
        if "all" in filters:
            raise CliError("conflicting options: cannot specify both --all and --filter all=1")
        filters["all"] = ["true"]
    what = "anonymous local" if modern and not call.on("all") else "all local"
    warning = f"WARNING! This will remove {what} volumes not used by at least one container."
    if not call.on("force") and not confirm(f"{warning}\nAre you sure you want to continue?"):
        raise CliError("", 0)
    result = call.api.post("/volumes/prune", {"filters": filters or None})
    gone = result.get("VolumesDeleted") or []
    if gone:
        say("Deleted Volumes:\n" + "\n".join(gone) + "\n")
    say(f"Total reclaimed space: {human_size(result.get('SpaceReclaimed') or 0)}")


def _update(call: Call) -> None:
    name = call.arguments[0]
    volume = call.api.get(f"/volumes/{quote(name)}")
    if not volume.get("ClusterVolume"):
        raise CliError("Can only update cluster volumes")
    spec = {"Availability": call.text("availability") or "active"}
    version = volume["ClusterVolume"].get("Version", {}).get("Index", 0)
    call.api.call("PUT", f"/volumes/{quote(name)}", {"version": version}, body={"Spec": spec})


_FORCE = flag("-f --force", "Do not prompt for confirmation")
create = Body(
    _create,
    (
        value("-d --driver", "Specify volume driver name", default="local", shown_default='"local"'),
        many("--label", "Set metadata for a volume"),
        value("--name", "Specify volume name", hidden=True),
        many("-o --opt", "Set driver specific options"),
    ),
)
ls = Body(
    _ls,
    (
        many("-f --filter", 'Provide filter values (e.g. "dangling=true")', FILTER),
        value("--format", FORMAT_HELP),
        flag("-q --quiet", "Only display volume names"),
    ),
)
remove = Body(_remove, (flag("-f --force", "Force the removal of one or more volumes"),))
prune = Body(
    _prune,
    (
        flag("-a --all", "Remove all unused volumes, not just anonymous ones"),
        many("--filter", 'Provide filter values (e.g. "label=<label>")', FILTER),
        _FORCE,
    ),
)
update = Body(_update, (value("--availability", 'Cluster Volume availability ("active", "pause", "drain")'),))
