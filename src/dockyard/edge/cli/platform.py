"""`--platform os[/arch[/variant]]` of commands that send it as an object.

Owns: the flag's text as the API's JSON, and the API version that knows it. Does not own: the commands.
"""

from __future__ import annotations

from dockyard.edge.cli.call import Call
from dockyard.edge.cli.errors import CliError


def asked_platform(call: Call, since: str) -> dict[str, str] | None:
    """The flag's value; None if it is not given. CliError in docker's words where the daemon is older than `since`."""
    text = call.text("platform")
    if not text:
        return None
    if not call.api.at_least(since):
        raise CliError(
            f'"--platform" requires API version {since}, but the daemon\'s API version is {call.api.version}'
        )
    return dict(zip(("os", "architecture", "variant"), text.lower().split("/"), strict=False))
