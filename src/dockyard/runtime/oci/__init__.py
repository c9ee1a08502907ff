"""`dockyard-runtime`: our runtime as an OCI command, with runc's grammar.

Owns: the entry point, global options, the log, how errors are told: one line on stderr and, with --log, a record in the
log (text or JSON), exit code 1. Does not own: the commands (`runtime.oci.commands`).

It runs the same `runtime.spawn` and `runtime.init` as the daemon's monitors, but no monitor: streams are the caller's,
and who reaps orphans (conmon, a containerd shim) waits for the container. Standard library only, so that the commands
that enter a container can run under `python -I -S`. What a command needs is imported when it is known: the first
process only becomes the protected copy.
"""

from __future__ import annotations

import os
import sys
from typing import Final, NoReturn

from dockyard.linux import userns
from dockyard.runtime.oci import protection
from dockyard.runtime.oci.arguments import Arguments, Option, parse
from dockyard.runtime.oci.errors import OciError

VERSION: Final = "0.1.0"
_ENTERING: Final = ("create", "exec", "run")  # commands that go onto a container's ground
_WRAPPING: Final = ("exec", "ps")  # commands that end in the arguments of another program
_ROOT: Final = "/run/dockyard-runtime"
_GLOBAL: Final = (
    Option(("root",)),
    Option(("log",)),
    Option(("log-format",)),
    Option(("debug",), value=False),
    Option(("systemd-cgroup",), value=False),
    Option(("cgroup-manager",)),
    Option(("rootless",)),
    Option(("criu",)),
    Option(("version", "v"), value=False),
    Option(("help", "h"), value=False),
)


def main() -> NoReturn:
    """The console script. Ends the process."""
    if protection.protected():
        protection.settle()
    arguments = Arguments({}, [])
    try:
        arguments = parse(sys.argv[1:], _GLOBAL, "dockyard-runtime")
        code = _dispatch(arguments)
    except OciError as error:
        code = _tell(arguments, error.message, error.code)
    except OSError as error:
        text = error.strerror or str(error)
        code = _tell(arguments, f"{error.filename}: {text}" if error.filename else text, 1)
    except KeyboardInterrupt:
        code = 130
    sys.stdout.flush()
    os._exit(code)


def _dispatch(arguments: Arguments) -> int:
    if arguments.flag("version"):
        from dockyard.runtime.oci.containers import SPECIFICATION

        print(f"dockyard-runtime version {VERSION}\nspec: {SPECIFICATION}")
        return 0
    if arguments.flag("help") or not arguments.rest or arguments.rest[0] == "help":
        _help(arguments.rest[1] if len(arguments.rest) > 1 else "")
        return 0
    if arguments.rest[1:] and arguments.rest[1] in ("-h", "-help", "--help"):
        _help(arguments.rest[0])
        return 0
    if arguments.text("criu"):
        raise OciError("--criu is not supported: there is neither checkpoint nor restore")
    if arguments.text("log-format", "text") not in ("text", "json"):
        raise OciError(f"--log-format: {arguments.text('log-format')!r} is neither text nor json")
    if arguments.text("cgroup-manager", "cgroupfs") not in ("cgroupfs", "systemd"):
        raise OciError(f"--cgroup-manager: {arguments.text('cgroup-manager')!r} is neither cgroupfs nor systemd")
    if arguments.text("rootless", "auto") not in ("auto", "true", "false"):
        raise OciError(f"--rootless: {arguments.text('rootless')!r} is neither auto, true nor false")
    name, *words = arguments.rest
    if arguments.flag("debug") and (protection.protected() or name not in _ENTERING):
        _log(arguments, "debug", " ".join([name, *words]))
    if name in ("checkpoint", "restore"):
        raise OciError(f"{name}: not supported: the OCI runtime specification has neither checkpoint nor restore")
    if os.geteuid() != 0:
        _become_root(arguments, name, words)
    if name in _ENTERING and not protection.protected():
        protection.execute_copy(sys.argv[1:])
    from dockyard.runtime.oci.commands import COMMANDS

    command = COMMANDS.get(name)
    if command is None:
        raise OciError(f"unknown command {name!r}")
    given = parse(words, command.options, name, scattered=name not in _WRAPPING)
    if arguments.flag("systemd-cgroup") or arguments.text("cgroup-manager") == "systemd":
        given.switch_on("systemd-cgroup")
    if name in _ENTERING:
        _look_for_limits(arguments, given)
    return command.run(_root(arguments), given)


def _root(arguments: Arguments) -> str:
    """Where containers are kept. Root of a user namespace (podman's) keeps them with the user's things."""
    given = arguments.text("root")
    if given or (os.geteuid() == 0 and not os.environ.get("XDG_RUNTIME_DIR")):
        return given or _ROOT
    from dockyard.runtime.oci import rootless

    return _ROOT if os.geteuid() == 0 and userns.initial() else rootless.state_root()


def _become_root(arguments: Arguments, name: str, words: list[str]) -> None:
    """An ordinary user: what touches containers is done as root of their user namespace."""
    from dockyard.runtime.oci import rootless
    from dockyard.runtime.oci.commands import COMMANDS, config_file
    from dockyard.runtime.oci.configuration import read_json
    from dockyard.runtime.oci.containers import Container

    if name in ("create", "run"):
        given = parse(words, COMMANDS[name].options, name, scattered=name not in _WRAPPING)
        rootless.enter_new(read_json(os.path.join(given.text("bundle", "."), config_file(given))))
    elif name in ("exec", "kill", "delete"):
        given = parse(words, COMMANDS[name].options, name, scattered=name not in _WRAPPING)
        if given.rest and os.path.isdir(Container(_root(arguments), given.rest[0]).directory):
            rootless.enter_container(Container.load(_root(arguments), given.rest[0]), own_mounts=name == "exec")


def _look_for_limits(arguments: Arguments, given: Arguments) -> None:
    """Tell the command whether it has but the rights of a user, and whether it is in the container's namespace."""
    asked, full = arguments.text("rootless", "auto"), userns.initial()
    if asked == "true" and full:
        raise OciError("--rootless: this is root of the host, whose containers need control groups and device rules")
    if not full and asked != "false":
        given.switch_on("limited")
        from dockyard.runtime.oci import rootless

        if rootless.entered():
            given.switch_on("entered")


def _help(name: str) -> None:
    """Of one command, or of all. OciError for one that is not there."""
    from dockyard.runtime.oci.commands import COMMANDS

    if name:
        if name not in COMMANDS:
            raise OciError(f"unknown command {name!r}")
        print(f"usage: dockyard-runtime {name} [OPTIONS] …\n\n{COMMANDS[name].usage}\n")
        for option in COMMANDS[name].options:
            names = ", ".join(f"{'--' if len(each) > 1 else '-'}{each}" for each in option.names)
            print(f"  {names}{' VALUE' if option.value else ''}{' (may be repeated)' if option.many else ''}")
        return
    print("usage: dockyard-runtime [--root DIR] [--log FILE] [--log-format text|json] COMMAND [OPTIONS] [ID] …\n")
    for name, command in COMMANDS.items():
        options = " ".join(f"--{option.names[0]}" for option in command.options)
        print(f"  {name:<9} {command.usage}{f' ({options})' if options else ''}")


def _tell(arguments: Arguments, message: str, code: int) -> int:
    line = message.replace("\n", " ")
    print(f"dockyard-runtime: {line}", file=sys.stderr, flush=True)
    if arguments.text("log"):
        _log(arguments, "error", line)
    return code


def _log(arguments: Arguments, level: str, line: str) -> None:
    """A record in the log, or, without one, on stderr."""
    import json
    import time

    now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    if arguments.text("log-format") == "json":
        record = json.dumps({"level": level, "msg": line, "time": now}, separators=(",", ":"))
    else:
        record = f"time={json.dumps(now)} level={level} msg={json.dumps(line)}"
    if not arguments.text("log"):
        print(record, file=sys.stderr, flush=True)
        return
    try:
        with open(arguments.text("log"), "a", encoding="utf-8") as file:
            file.write(record + "\n")
    except OSError as error:
        print(f"dockyard-runtime: --log: {error.strerror}", file=sys.stderr)
