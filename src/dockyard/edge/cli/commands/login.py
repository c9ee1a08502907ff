"""`dockyard login` and `logout`."""

from __future__ import annotations

import os
import sys

from dockyard.edge.cli.call import Body, Call, complain, say
from dockyard.edge.cli.credentials import Credentials, folder, server_key
from dockyard.edge.cli.errors import ApiError, CliError
from dockyard.edge.cli.flags import flag, value
from dockyard.edge.cli.terminal import is_terminal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def _login(call: Call) -> None:
    user, password = call.text("username"), call.text("password")
    if call.given("password") and call.on("password-stdin"):
        raise CliError("--password and --password-stdin are mutually exclusive")
    if call.given("password"):
        complain("WARNING! Using --password via the CLI is insecure. Use --password-stdin.")
    if call.on("password-stdin"):
        if not user:
            raise CliError("Must provide --username with --password-stdin")
        password = sys.stdin.read().rstrip("\r\n")
    server = server_key(call.arguments[0] if call.arguments else "")
    kept = Credentials(folder(call.options, os.environ), os.environ)
    known = kept.get(server)
    if not user and not password and known:
        say("Authenticating with existing credentials...")
        try:
            _succeed(call, kept, server, known)
            return
        except ApiError as error:
            complain(f"Login did not succeed, error: {error.message}")
    user, password = _ask(user or known.get("username", ""), password, bool(user))
    _succeed(call, kept, server, {"username": user, "password": password, "serveraddress": server})


def _succeed(call: Call, kept: Credentials, server: str, found: dict[str, str]) -> None:
    """Lets the daemon try the credentials, then keeps them. ApiError if the registry refuses."""
    answer: dict[str, Any] = call.api.post("/auth", None, found) or {}
    if answer.get("IdentityToken"):
        found = {**found, "password": "", "identitytoken": str(answer["IdentityToken"])}
    kept.adopt_default_helper()
    if kept.put(server, found):
        complain(
            f"\nWARNING! Your credentials are stored unencrypted in '{kept.path}'.\n"
            "Configure a credential helper (credsStore) to keep them in a safe place.\n"
        )
    if answer.get("Status"):
        say(str(answer["Status"]))


def _ask(user: str, password: str, named: bool) -> tuple[str, str]:
    """Asks on the terminal for what was not given. CliError where there is none."""
    if user and password and named:
        return user, password
    if not is_terminal(0):
        raise CliError("cannot perform an interactive login from a non-TTY device: give -u and --password-stdin")
    import getpass

    if not named:
        typed = input(f"Username ({user}): " if user else "Username: ").strip()
        user = typed or user
    if not user:
        raise CliError("username is required")
    password = password or getpass.getpass("Password: ")
    if not password:
        raise CliError("password is required")
    return user, password


def _logout(call: Call) -> None:
    server = server_key(call.arguments[0] if call.arguments else "")
    say(f"Removing login credentials for {server}")
    try:
        Credentials(folder(call.options, os.environ), os.environ).erase(server)
    except CliError as error:
        complain(f"WARNING: could not erase credentials:\n{error.message}")


login = Body(
    _login,
    (
        value("-p --password", "Password or Personal Access Token (PAT)"),
        flag("--password-stdin", "Take the Password or Personal Access Token (PAT) from stdin"),
        value("-u --username", "Username"),
    ),
)
logout = Body(_logout)
