"""The commands of `dockyard-runtime`, each a function of the parsed arguments.

Owns: options of each command, what it prints, its exit code. Does not own: what it does to containers
(`runtime.oci.launching`).
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from dockyard.runtime import following
from dockyard.runtime.oci import foreground, launching, measuring
from dockyard.runtime.oci.arguments import Arguments, Option
from dockyard.runtime.oci.configuration import check_process, read_json
from dockyard.runtime.oci.containers import CREATED, PAUSED, RUNNING, Container
from dockyard.runtime.oci.errors import OciError
from dockyard.runtime.oci.launching import Wanted

_EXEC_FAILED = 255  # the exit code of an exec that did not get to its program, as with runc


class Command(NamedTuple):
    """`run(root, arguments)` returns the exit code."""

    run: Callable[[str, Arguments], int]
    options: Sequence[Option]
    usage: str


def _one_id(arguments: Arguments) -> str:
    if not arguments.rest:
        raise OciError("a container ID is needed")
    if len(arguments.rest) > 1:
        raise OciError(f"one container ID is needed, not {len(arguments.rest)} arguments")
    return arguments.rest[0]


def _wanted(arguments: Arguments, *, foreground: bool = False) -> Wanted:
    return Wanted(
        arguments.text("pid-file"),
        arguments.text("console-socket"),
        arguments.number("preserve-fds"),
        arguments.flag("no-pivot"),
        arguments.flag("no-new-keyring"),
        foreground,
        arguments.flag("systemd-cgroup"),
        arguments.flag("limited"),
        arguments.flag("entered"),
        tuple(arguments.many("cgroup")),
    )


def _making(arguments: Arguments, *, foreground: bool = False) -> Wanted:
    """With the sockets that systemd, or who else speaks its protocol, gave us for the container (sd_listen_fds(3))."""
    wanted = _wanted(arguments, foreground=foreground)
    text = os.environ.get("LISTEN_FDS", "")
    if not text.isdecimal() or text == "0" or os.environ.get("LISTEN_PID", str(os.getpid())) != str(os.getpid()):
        return wanted
    told = [f"LISTEN_FDS={text}", "LISTEN_PID=1"]
    if names := os.environ.get("LISTEN_FDNAMES"):
        told.append(f"LISTEN_FDNAMES={names}")
    return wanted._replace(preserved=wanted.preserved + int(text), listening=tuple(told))


def config_file(arguments: Arguments) -> str:
    """The configuration: relative to the bundle, or absolute."""
    return os.path.abspath(arguments.text("config")) if arguments.text("config") else "config.json"


def _create(root: str, arguments: Arguments) -> int:
    launching.create(
        root, _one_id(arguments), arguments.text("bundle", "."), _making(arguments), config_file(arguments)
    )
    return 0


def _run(root: str, arguments: Arguments) -> int:
    detach = arguments.flag("detach")
    wanted = _making(arguments, foreground=not detach)
    bundle, file = arguments.text("bundle", "."), config_file(arguments)
    container, spawned = launching.create(root, _one_id(arguments), bundle, wanted, file)
    try:
        if not detach:
            foreground.hand_on_signals(spawned)  # the program may run, and say so, before `start` has returned
        ready = launching.start(container, follower=0 if detach else os.getpid())
        if detach:
            return 0
        code = foreground.follow(spawned, ready)
    except BaseException:
        launching.destroy(container)
        raise
    if not arguments.flag("keep"):
        launching.destroy(container)
    return code


def _start(root: str, arguments: Arguments) -> int:
    launching.start(Container.load(root, _one_id(arguments)))
    return 0


def _state(root: str, arguments: Arguments) -> int:
    print(json.dumps(Container.load(root, _one_id(arguments)).document(), indent=2))
    return 0


def _kill(root: str, arguments: Arguments) -> int:
    if not 1 <= len(arguments.rest) <= 2:
        raise OciError("kill: a container ID and at most one signal are needed")
    number = parse_signal(arguments.rest[1] if len(arguments.rest) == 2 else "SIGTERM")
    everyone = arguments.flag("all")
    if arguments.flag("regex"):
        return _each(root, arguments.rest[0], lambda container: launching.kill(container, number, everyone))
    launching.kill(Container.load(root, arguments.rest[0]), number, everyone)
    return 0


def _each(root: str, pattern: str, act: Callable[[Container], None]) -> int:
    """What crun calls --regex: all with an ID that has the pattern in it. One that fails is told of."""
    import re

    try:
        expression = re.compile(pattern)
    except re.error as error:
        raise OciError(f"--regex: {pattern!r} is no regular expression: {error}") from None
    for container in Container.all(root):
        if expression.search(container.id):
            try:
                act(container)
            except OciError as error:
                print(f"dockyard-runtime: warning: {container.id}: {error.message}", file=sys.stderr)
    return 0


def parse_signal(text: str) -> int:
    """ "15", "TERM", "SIGTERM", "RTMIN+1" as a number. Raises OciError."""
    if text.isdecimal() and int(text) <= 64:  # 0 only asks whether there is somebody
        return int(text)
    name, plus, offset = text.upper().removeprefix("SIG").partition("+")
    found = signal.Signals.__members__.get(f"SIG{name}")
    if found is None or (plus and not offset.isdecimal()):
        raise OciError(f"unknown signal {text!r}")
    return int(found) + (int(offset) if plus else 0)


def _delete(root: str, arguments: Arguments) -> int:
    force = arguments.flag("force")
    identity = _one_id(arguments)
    if arguments.flag("regex"):
        return _each(root, identity, lambda container: launching.delete(container, force))
    try:
        container = Container.load(root, identity)
    except OciError:
        if force:
            return 0
        raise
    launching.delete(container, force)
    return 0


def _exec(root: str, arguments: Arguments) -> int:
    if not arguments.rest:
        raise OciError("exec: a container ID is needed")
    try:
        return _execute(root, arguments)
    except OciError as error:  # 1 could be the program's own
        raise OciError(error.message, _EXEC_FAILED if error.code == 1 else error.code) from None
    except OSError as error:
        raise OciError(f"exec: {following.describe(error)}", _EXEC_FAILED) from None


def _execute(root: str, arguments: Arguments) -> int:
    container = Container.load(root, arguments.rest[0])
    if container.status() == PAUSED and not arguments.flag("ignore-paused"):
        raise OciError(f"cannot exec in a paused container (use --ignore-paused to override): {container.id}")
    command = arguments.rest[1:]
    if command[:1] == ["--"]:
        command = command[1:]
    spec = _exec_process(container, arguments, command)
    detach = arguments.flag("detach")
    spawned = launching.execute(container, spec, _wanted(arguments, foreground=not detach))
    return 0 if detach else foreground.follow(spawned)


def _exec_process(container: Container, arguments: Arguments, command: list[str]) -> dict[str, Any]:
    path = arguments.text("process")
    if path:
        spec = read_json(path)
    else:
        if not command:
            raise OciError("exec: a command or --process is needed")
        spec = container.config["process"]
        spec["args"] = command
        spec["terminal"] = arguments.flag("tty")
        spec["env"] = [*(spec.get("env") or []), *arguments.many("env")]
        spec["cwd"] = arguments.text("cwd", spec["cwd"])
        _change_user(spec, arguments)
        if arguments.flag("no-new-privs"):
            spec["noNewPrivileges"] = True
        if arguments.text("apparmor"):
            spec["apparmorProfile"] = arguments.text("apparmor")
        if arguments.text("process-label"):
            spec["selinuxLabel"] = arguments.text("process-label")
        capabilities = spec.setdefault("capabilities", {})
        for name in arguments.many("cap"):
            for kind in ("bounding", "effective", "permitted"):  # never inheritable (S11)
                capabilities[kind] = [*(capabilities.get(kind) or []), name]
    check_process(spec, "process")
    return spec


def _change_user(spec: dict[str, Any], arguments: Arguments) -> None:
    text = arguments.text("user")
    groups = arguments.many("additional-gids")
    user: dict[str, Any] = spec.setdefault("user", {})
    if text:
        uid, _, gid = text.partition(":")
        if not uid.isdecimal() or (gid and not gid.isdecimal()):
            raise OciError(f"exec: --user: {text!r} is not UID[:GID]")
        for extension in ("username", "groupAdd"):  # of bundles that our engine made
            user.pop(extension, None)
        user["uid"] = int(uid)
        if gid:
            user["gid"] = int(gid)
    if groups:
        if not all(group.isdecimal() for group in groups):
            raise OciError(f"exec: --additional-gids: {groups} are not numbers")
        user["additionalGids"] = [*(user.get("additionalGids") or []), *map(int, groups)]


def _list(root: str, arguments: Arguments) -> int:
    documents = [container.document() for container in Container.all(root)]
    if arguments.flag("quiet"):
        for document in documents:
            print(document["id"])
        return 0
    form = arguments.text("format", "table")
    if form == "json":
        print(json.dumps(documents, separators=(",", ":")))
    elif form == "table":
        _print_table(documents)
    else:
        raise OciError(f"list: --format: {form!r} is neither table nor json")
    return 0


def _print_table(documents: list[dict[str, Any]]) -> None:
    columns = ("id", "pid", "status", "bundle", "created", "owner")
    rows = [[column.upper() for column in columns]]
    rows += [[str(document[column]) for column in columns] for document in documents]
    widths = [max(len(row[at]) for row in rows) for at in range(len(columns))]
    for row in rows:
        print("   ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def _ps(root: str, arguments: Arguments) -> int:
    if not arguments.rest:
        raise OciError("ps: a container ID is needed")
    import subprocess

    container = Container.load(root, arguments.rest[0])
    pids = container.needed_cgroup().pids()
    form = arguments.text("format", "table")
    if form == "json":
        print(json.dumps(pids, separators=(",", ":")))
        return 0
    if form != "table":
        raise OciError(f"ps: --format: {form!r} is neither table nor json")
    options = arguments.rest[1:] or ["-ef"]
    table = subprocess.run(["ps", *options], capture_output=True, text=True, check=False)
    if table.returncode != 0:
        raise OciError(f"ps: {table.stderr.strip()}")
    lines = table.stdout.splitlines()
    if "PID" not in lines[0].split():
        raise OciError("ps: its output has no column PID")
    column = lines[0].split().index("PID")
    print(lines[0])
    for line in lines[1:]:
        if line.split()[column].isdecimal() and int(line.split()[column]) in pids:
            print(line)
    return 0


def _pause(root: str, arguments: Arguments) -> int:
    container = Container.load(root, _one_id(arguments))
    status = container.status()
    if status not in (RUNNING, CREATED):
        raise OciError(f"container not running: {container.id}: {status}")
    container.needed_cgroup().freeze(True)
    with open(container.file("paused"), "wb"):
        return 0


def _resume(root: str, arguments: Arguments) -> int:
    container = Container.load(root, _one_id(arguments))
    if container.status() != PAUSED:
        raise OciError(f"container not paused: {container.id}")
    container.needed_cgroup().freeze(False)
    os.unlink(container.file("paused"))
    return 0


def _update(root: str, arguments: Arguments) -> int:
    measuring.update(Container.load(root, _one_id(arguments)), arguments)
    return 0


def _events(root: str, arguments: Arguments) -> int:
    return measuring.events(Container.load(root, _one_id(arguments)), arguments)


def _spec(_root: str, arguments: Arguments) -> int:
    from dockyard.runtime.oci.specification import default_config, rootless_config

    config = rootless_config(os.geteuid(), os.getegid()) if arguments.flag("rootless") else default_config()
    path = os.path.join(arguments.text("bundle", "."), "config.json")
    try:
        with open(path, "x", encoding="utf-8") as file:
            json.dump(config, file, indent="\t")
    except FileExistsError:
        raise OciError(f"file {path} exists: remove it first") from None
    except OSError as error:
        raise OciError(f"{path}: {error.strerror}") from None
    return 0


def _features(_root: str, _arguments: Arguments) -> int:
    from dockyard.runtime.oci.specification import features

    json.dump(features(), sys.stdout, indent=4)
    print()
    return 0


_BUNDLE = Option(("bundle", "b"))
_MAKING = (
    _BUNDLE,
    Option(("config", "f")),
    Option(("console-socket",)),
    Option(("pid-file",)),
    Option(("preserve-fds",)),
    Option(("no-pivot",), value=False),
    Option(("no-new-keyring",), value=False),
    Option(("no-subreaper",), value=False),  # nor is it ever one
)
_EXEC = (
    Option(("console-socket",)),
    Option(("pid-file",)),
    Option(("preserve-fds",)),
    Option(("process", "p")),
    Option(("detach", "d"), value=False),
    Option(("tty", "t"), value=False),
    Option(("cwd",)),
    Option(("env", "e"), many=True),
    Option(("user", "u")),
    Option(("additional-gids", "g"), many=True),
    Option(("no-new-privs",), value=False),
    Option(("cap", "c"), many=True),
    Option(("apparmor",)),
    Option(("process-label",)),
    Option(("cgroup",), many=True),
    Option(("ignore-paused",), value=False),
)
_REGEX = Option(("regex", "r"), value=False)
_FORMAT = Option(("format", "f"))

COMMANDS: dict[str, Command] = {
    "create": Command(_create, _MAKING, "make a container that waits for start"),
    "delete": Command(_delete, (Option(("force", "f"), value=False), _REGEX), "take a stopped container away"),
    "events": Command(_events, measuring.EVENTS_OPTIONS, "print what a container uses, again and again"),
    "exec": Command(_exec, _EXEC, "run a further process in a container"),
    "features": Command(_features, (), "print what is supported, as JSON"),
    "kill": Command(_kill, (Option(("all", "a"), value=False), _REGEX), "send a signal (default SIGTERM)"),
    "list": Command(_list, (_FORMAT, Option(("quiet", "q"), value=False)), "list the containers of --root"),
    "pause": Command(_pause, (), "freeze all processes of a container"),
    "ps": Command(_ps, (_FORMAT,), "list the processes of a container"),
    "resume": Command(_resume, (), "let a paused container go on"),
    "run": Command(
        _run,
        (*_MAKING, Option(("detach", "d"), value=False), Option(("keep",), value=False)),
        "make a container, start it, wait for its end",
    ),
    "spec": Command(_spec, (_BUNDLE, Option(("rootless",), value=False)), "write a config.json to begin with"),
    "start": Command(_start, (), "let a created container execute its program"),
    "state": Command(_state, (), "print the state of a container, as JSON"),
    "update": Command(_update, measuring.UPDATE_OPTIONS, "change limits of a container"),
}
