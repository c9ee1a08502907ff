"""What becomes of a container's files: `dockyard diff`, `export`, `commit`, `fork`."""

from __future__ import annotations

import os

from dockyard.edge.cli.api import container_path
from dockyard.edge.cli.call import Body, Call, complain, say
from dockyard.edge.cli.commands.archive import save_stream
from dockyard.edge.cli.errors import CliError
from dockyard.edge.cli.flags import flag, many, value
from dockyard.edge.cli.terminal import is_terminal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_KINDS = "CAD"  # modified, added, deleted


def _diff(call: Call) -> None:
    for change in call.api.get(f"{container_path(call.arguments[0])}/changes") or ():
        say(f"{_KINDS[change['Kind']]} {change['Path']}")


def _export(call: Call) -> None:
    path = call.text("output")
    if not path and is_terminal(1):
        raise CliError("cowardly refusing to save to a terminal. Use the -o flag or redirect")
    folder = os.path.dirname(path)
    if folder and not os.path.isdir(folder):
        raise CliError(f'failed to export container: invalid output path: directory "{folder}" does not exist')
    response = call.api.send("GET", f"{container_path(call.arguments[0])}/export", fresh=True)
    save_stream(path, response.chunks(), "failed to export container")


def _commit(call: Call) -> None:
    container, *name = call.arguments
    repository, tag = "", ""
    if name:
        repository, tag = _split(name[0])
    query = {
        "container": container,
        "repo": repository or None,
        "tag": tag or None,
        "comment": call.text("message") or None,
        "author": call.text("author") or None,
        "changes": call.texts("change") or None,
        "pause": None if call.get("pause") else "0",
    }
    say(call.api.post("/commit", query)["Id"])


def _split(name: str) -> tuple[str, str]:
    from dockyard.model.errors import DockyardError
    from dockyard.proto.references import parse

    try:
        reference = parse(name)
    except DockyardError as error:
        raise CliError(str(error)) from None
    return reference.familiar_repository, reference.tag


def _fork(call: Call) -> None:
    container, *name = call.arguments
    query = {"name": name[0] if name else None, "pause": None if call.get("pause") else "0"}
    made = call.api.post(f"{container_path(container)}/fork", query, _overrides(call))
    for warning in made.get("Warnings") or ():
        complain(f"WARNING: {warning}")
    if call.on("start"):
        call.api.post(f"{container_path(made['Id'])}/start")
    say(made["Id"])


def _overrides(call: Call) -> dict[str, Any] | None:
    """Of the body of a create only what was asked for."""
    body: dict[str, Any] = {}
    host: dict[str, Any] = {}
    if call.texts("env"):
        body["Env"] = [each if "=" in each else f"{each}={os.environ[each]}" for each in _known(call.texts("env"))]
    if call.texts("label"):
        body["Labels"] = {key: text for key, _, text in (each.partition("=") for each in call.texts("label"))}
    if call.texts("publish"):
        from dockyard.edge.cli.container_spec import port_bindings

        host["PortBindings"] = port_bindings(call.texts("publish"))
        body["ExposedPorts"] = {port: {} for port in host["PortBindings"]}
    elif call.on("no-publish"):
        host["PortBindings"] = {}
    if call.text("network"):
        host["NetworkMode"] = call.text("network")
    if call.given("rm"):
        host["AutoRemove"] = call.on("rm")
        host["RestartPolicy"] = {"Name": "no"}
    if host:
        body["HostConfig"] = host
    return body or None


def _known(variables: list[str]) -> list[str]:
    """`-e NAME` takes the value from here, and is nothing where there is none."""
    return [each for each in variables if "=" in each or each in os.environ]


diff = Body(_diff)
export = Body(
    _export, (value("-o --output", "Write to a file, instead of STDOUT", complete="file"),)
)  # fmt: skip
commit = Body(
    _commit,
    (
        value("-a --author", 'Author (e.g., "John Hannibal Smith <hannibal@a-team.com>")'),
        many("-c --change", "Apply Dockerfile instruction to the created image"),
        value("-m --message", "Commit message"),
        flag("-p --pause", "Pause container during commit", default=True, shown_default="true"),
    ),
)
fork = Body(
    _fork,
    (
        many("-e --env", "Set environment variables of the new container"),
        many("-l --label", "Set labels of the new container"),
        value("--network", "Connect the new container to this network instead"),
        flag("--no-publish", "Publish no ports of the new container"),
        flag("--pause", "Pause the container while its files are copied", default=True, shown_default="true"),
        many("-p --publish", "Publish these ports of the new container instead"),
        flag("--rm", "Remove the new container when it exits"),
        flag("--start", "Start the new container"),
    ),
)
