"""`dockyard version`."""

from __future__ import annotations

import os

from dockyard.edge.cli.call import Body, Call, say
from dockyard.edge.cli.errors import CliError
from dockyard.edge.cli.flags import value
from dockyard.edge.cli.versions import API_NEWEST, CLIENT_VERSION

TYPE_CHECKING = False  # typing's own constant, without the 6 ms that importing typing takes (docs/cli.md)
if TYPE_CHECKING:
    from typing import Any

_MACHINES = {"x86_64": "amd64", "aarch64": "arm64"}


def _client() -> dict[str, Any]:
    import sys

    system = os.uname()
    python = ".".join(str(part) for part in sys.version_info[:3])
    return {
        "Version": CLIENT_VERSION,
        "ApiVersion": API_NEWEST,
        "DefaultAPIVersion": API_NEWEST,
        "PythonVersion": python,
        "Os": system.sysname.lower(),
        "Arch": _MACHINES.get(system.machine, system.machine),
    }


def _version(call: Call) -> int:
    client, server, problem = _client(), None, None
    try:
        client["ApiVersion"] = call.api.version
        server = call.api.get("/version")
    except CliError as error:
        problem = error
    if call.text("format"):
        from dockyard.edge.cli.show import show_one

        show_one(call.text("format"), {"Client": client, "Server": server})
    else:
        _print(client, server)
    if problem:
        raise problem
    return 0


def _print(client: dict[str, Any], server: dict[str, Any] | None) -> None:
    api = client["ApiVersion"]
    if api != API_NEWEST:
        api = f"{api} (downgraded from {API_NEWEST})"
    say("Client:")
    rows = {"Version": client["Version"], "API version": api, "Python version": client["PythonVersion"]}
    for name, text in (rows | {"OS/Arch": f"{client['Os']}/{client['Arch']}"}).items():
        say(f" {name + ':':<18} {text}")
    if server is None:
        return
    platform = (server.get("Platform") or {}).get("Name")
    say(f"\nServer: {platform}" if platform else "\nServer:")
    for component in server.get("Components") or [{"Name": "Engine", "Version": server["Version"], "Details": server}]:
        details = component.get("Details") or {}
        say(f" {component['Name']}:")
        say(f"  {'Version:':<17} {component['Version']}")
        for name, text in _details(component["Name"], details):
            say(f"  {name + ':':<17} {text}")


def _details(name: str, details: dict[str, Any]) -> list[tuple[str, str]]:
    if name != "Engine":
        return [("GitCommit", details["GitCommit"])] if "GitCommit" in details else []
    minimum = details.get("MinAPIVersion", "")
    rows = [
        ("API version", f"{details.get('ApiVersion', '')} (minimum version {minimum})"),
        ("Go version", details.get("GoVersion", "")),
        ("Python version", details.get("PythonVersion", "")),
        ("Git commit", details.get("GitCommit", "")),
        ("Built", details.get("BuildTime", "")),
        ("OS/Arch", f"{details.get('Os', '')}/{details.get('Arch', '')}"),
        ("Experimental", str(details.get("Experimental", "")).lower()),
    ]
    return [(name, text) for name, text in rows if text]


version = Body(_version, (value("-f --format", "Format output: 'json' or a Go template"),))
