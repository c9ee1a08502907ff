"""`dockyard run` and `dockyard create`."""

from __future__ import annotations

import os

from dockyard.edge.cli import container_spec, terminal
from dockyard.edge.cli.api import Api, container_path
from dockyard.edge.cli.attached import Session, ask_exit, attach, resize
from dockyard.edge.cli.call import Body, Call, complain, say
from dockyard.edge.cli.container_flags import FLAGS, RUN_FLAGS
from dockyard.edge.cli.errors import ApiError, CliError, run_code
from dockyard.edge.cli.flags import FlagError
from dockyard.edge.cli.streams import Detached

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

PULLS = ("always", "missing", "never")


def _create(call: Call) -> None:
    say(create_container(call, container_spec.build(call)))


def create_container(call: Call, body: dict[str, Any]) -> str:
    """Creates the container, pulling its image as `--pull` says, and writes the ID to `--cidfile`."""
    from dockyard.model.errors import DockyardError
    from dockyard.proto.references import parse

    pull, image = call.text("pull"), body["Image"]
    if pull not in PULLS:
        raise CliError(f"""invalid pull option: '{pull}': must be one of "always", "missing" or "never\"""")
    try:
        named = parse(image).with_default_tag().familiar
    except DockyardError as error:
        raise CliError(str(error)) from None
    cid = CidFile(call.text("cidfile"))
    query = {"name": call.text("name") or None, "platform": call.text("platform") or None}
    try:
        if pull == "always":
            pull_image(call, image)
        try:
            created = call.api.post("/containers/create", query, body)
        except ApiError as error:
            if error.status != 404 or pull != "missing" or "image" not in error.reason.lower():
                raise
            if not call.on("quiet"):
                complain(f"Unable to find image '{named}' locally")
            pull_image(call, image)
            created = call.api.post("/containers/create", query, body)
        for warning in created.get("Warnings") or []:
            complain(f"WARNING: {warning}")
        identifier = created["Id"]
        assert isinstance(identifier, str)
        cid.write(identifier)
    finally:
        cid.close()
    return identifier


def pull_image(call: Call, image: str) -> None:
    """Lets the daemon pull; progress goes to stderr."""
    from dockyard.edge.cli.commands.registries import pull_reference
    from dockyard.proto.references import parse

    pull_reference(call, parse(image).with_default_tag(), fd=2, quiet=call.on("quiet"))


class CidFile:
    """The file of `--cidfile`: made before the container, filled after, removed again if there was none."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.fd: int | None = None
        if not path:
            return
        try:
            self.fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
        except FileExistsError:
            what = "container ID file found, make sure the other container isn't running or delete"
            raise CliError(f"{what} {path}") from None
        except OSError as error:
            reason = (error.strerror or str(error)).lower()
            raise CliError(f"failed to create the container ID file: open {path}: {reason}") from None

    def write(self, identifier: str) -> None:
        if self.fd is not None:
            os.write(self.fd, identifier.encode())
            self.path = ""

    def close(self) -> None:
        if self.fd is not None:
            os.close(self.fd)
            self.fd = None
            if self.path:
                os.unlink(self.path)


def _run(call: Call) -> int:
    try:
        return _run_container(call)
    except FlagError:
        raise
    except CliError as error:
        if error.code == 1 and not isinstance(error, _Plain):
            error.code = run_code(error)
            error.hint = error.hint or f"\nRun 'dockyard {call.name} --help' for more information"
        raise


class _Plain(CliError):
    """An error that docker tells without a hint, with exit code 1."""


def _run_container(call: Call) -> int:
    body = container_spec.build(call)
    if call.on("detach"):
        if call.texts("attach"):
            raise _Plain("conflicting options: cannot specify both --attach and --detach")
        for name in ("AttachStdin", "AttachStdout", "AttachStderr", "StdinOnce"):
            body.pop(name, None)
    elif body.get("AttachStdin") and body.get("Tty") and not terminal.is_terminal(0):
        raise _Plain("the input device is not a TTY")
    if body.get("Tty"):
        body["HostConfig"]["ConsoleSize"] = list(terminal.size())
    identifier = create_container(call, body)
    if call.on("detach"):
        call.api.post(f"{container_path(identifier)}/start")
        say(identifier)
        return 0
    return _attached(call, identifier, body)


def _attached(call: Call, identifier: str, body: dict[str, Any]) -> int:
    """Attach, then wait, then start: nothing that the program writes or does can be missed."""
    api, keys = call.api, call.text("detach-keys")
    streams = {name: bool(body.get(f"Attach{name.capitalize()}")) for name in ("stdin", "stdout", "stderr")}
    session = Session(api, identifier, tty=bool(body.get("Tty")), sig_proxy=bool(call.get("sig-proxy")))
    with session.signals:
        stream = attach(api, identifier, keys=keys, **streams) if any(streams.values()) else None
        waiting = ask_exit(api, identifier, "removed" if call.on("rm") else "next-exit")
        _start(api, identifier, call.on("rm"))
        if not any(streams.values()):
            say(identifier)
        if session.tty and terminal.is_terminal(1):
            resize(api, session.path)
        try:
            if stream is not None:
                session.pump(stream, stdin=streams["stdin"], keys=keys)
        except Detached:
            return 0
        return session.exit_code(waiting)


def _start(api: Api, identifier: str, auto_remove: bool) -> None:
    try:
        api.post(f"{container_path(identifier)}/start")
    except CliError:
        if auto_remove:
            try:
                api.delete(container_path(identifier), {"force": True, "v": True})
            except CliError:
                pass  # the daemon has removed it, or says so itself
        raise


create = Body(_create, FLAGS)
run = Body(_run, RUN_FLAGS)
