"""`dockyard`: the client's entry point.

Owns: global options, finding and importing the one command that is meant, and ending: exit codes, errors on stderr,
a broken pipe or Ctrl-C without a traceback. It imports almost nothing, because every command pays for it.
"""

from __future__ import annotations

import gc
import os
import sys

from dockyard.edge.cli import catalog
from dockyard.edge.cli.call import Body, Call, complain
from dockyard.edge.cli.errors import FAILED, SIGNALLED, CliError
from dockyard.edge.cli.flags import FlagError, flag, many, parse, value

LEVELS = "debug info warn error fatal"
GLOBAL_FLAGS = (
    value("--config", "Folder of the client's files", shown_default='"~/.docker"', complete="file"),
    value("-c --context", "Refused: -H, DOCKYARD_HOST or DOCKER_HOST name the daemon", hidden=True),
    flag("-D --debug", "Show a traceback when the client itself fails"),
    many("-H --host", "Daemon socket to connect to", shown_default='"unix:///run/dockyard.sock"'),
    value("-l --log-level", 'Accepted for docker\'s sake ("debug", "info", "warn", "error", "fatal")', complete=LEVELS),
    flag("--tls", "Use TLS; implied by --tlsverify"),
    value("--tlscacert", "Trust certs signed only by this CA", complete="file"),
    value("--tlscert", "Path to TLS certificate file", complete="file"),
    value("--tlskey", "Path to TLS key file", complete="file"),
    flag("--tlsverify", "Use TLS and verify the remote"),
    flag("-v --version", "Print version information and quit"),
)


def main() -> None:
    """The console script. Leaves with os._exit: taking the interpreter down again costs 3 ms."""
    _open_standard_streams()
    gc.disable()  # a client is gone before garbage matters; collections cost 3 ms of the start
    code = run(sys.argv[1:])
    try:
        sys.stdout.flush()
    except OSError:
        code = code or FAILED
    os._exit(code)


def run(arguments: list[str]) -> int:
    """One command line → exit code. Everything that can go wrong has been told on stderr."""
    debug = False
    try:
        if "_DOCKYARD_COMPLETE" in os.environ:
            from dockyard.edge.cli.completion import answer

            return answer(os.environ["_DOCKYARD_COMPLETE"])
        debug = any(each in ("-D", "--debug") for each in arguments)
        return _dispatch(arguments)
    except CliError as error:
        if error.message:
            complain(f"dockyard: {error.message}")
        if error.hint:
            complain(error.hint)
        return error.code
    except BrokenPipeError:
        _silence_stdout()
        return SIGNALLED + 13
    except KeyboardInterrupt:
        return SIGNALLED + 2
    except OSError as error:  # requests tell theirs themselves: what is left is a file or a standard stream
        _silence_stdout()
        complain(f"dockyard: {f'{error.filename}: ' if error.filename else ''}{error.strerror or error}")
        return FAILED
    except Exception as error:
        if debug:
            raise
        complain(f"dockyard: the client failed: {type(error).__name__}: {error} (-D shows where)")
        return FAILED


def _dispatch(arguments: list[str]) -> int:
    try:
        options = parse(GLOBAL_FLAGS, arguments, interspersed=False)
    except FlagError as error:
        error.hint = "\nUsage:  dockyard [OPTIONS] COMMAND\n\nRun 'dockyard --help' for more information"
        raise
    _check(options.values)
    words = options.arguments
    if options.values.get("version"):
        from dockyard.edge.cli.versions import CLIENT_VERSION

        print(f"Dockyard version {CLIENT_VERSION}")
        return 0
    if words[:1] == ["help"]:
        words, options.help = words[1:], True
    if not words:
        return _show_help(words)
    entry, length = catalog.find(words)
    path = " ".join(words[:length])
    if entry is None:
        if words[0] in catalog.GROUPS and (len(words) == 1 or words[1] in ("--help", "-h")):
            return _show_help(words[:1], asked=options.help or len(words) > 1)
        from dockyard.edge.cli import unknown

        raise unknown.error(path, words)
    body = load(entry)
    rest = words[length:] if not options.help else ["--help"]
    return _invoke(entry, path, body, rest, options.values)


def _check(values: dict[str, object]) -> None:
    """Global flags of docker's that mean something else here, or nothing."""
    if values.get("context", "default") != "default":
        raise CliError(f"context {values['context']}: there are no contexts; name the daemon with -H or DOCKYARD_HOST")
    if values.get("log-level", "info") not in (*LEVELS.split(), "warning", "panic", "trace"):
        raise CliError(f"unable to parse logging level: {values['log-level']}")


def _invoke(entry: catalog.Entry, path: str, body: Body, words: list[str], options: dict[str, object]) -> int:
    try:
        parsed = parse(body.flags, words, interspersed=not entry.options_first)
    except FlagError as error:
        from dockyard.edge.cli import help

        error.hint = help.hint(entry, path)
        raise
    if parsed.help:
        from dockyard.edge.cli import help

        print(help.of_command(entry, path, body.flags))
        return 0
    for old in parsed.deprecated:
        complain(f"Flag {old.names[-1]} has been deprecated, use --{old.instead} instead")
    if not entry.least <= len(parsed.arguments) <= entry.most:
        from dockyard.edge.cli import help

        raise CliError(help.arity(entry, path), hint=help.hint(entry, path))
    call = Call(path, body.flags, parsed.values, parsed.arguments, options)
    try:
        return body.run(call) or 0
    except FlagError as error:
        from dockyard.edge.cli import help

        error.hint = error.hint or help.hint(entry, path)
        raise


def load(entry: catalog.Entry) -> Body:
    """Imports the command's module."""
    from importlib import import_module

    module, _, name = entry.body.partition(":")
    body = getattr(import_module(f"dockyard.edge.cli.commands.{module}"), name)
    assert isinstance(body, Body)
    return body


def _show_help(words: list[str], asked: bool = True) -> int:
    from dockyard.edge.cli import help

    text = help.of_group(words[0]) if words else help.of_program(GLOBAL_FLAGS)
    print(text, file=sys.stderr if words and not asked else sys.stdout)
    return 0


def _open_standard_streams() -> None:
    """Closed ones become /dev/null, or the first socket would be taken for one of them."""
    for fd, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest free number: this one
            setattr(sys, name, os.fdopen(fd, "w" if fd else "r", closefd=False))


def _silence_stdout() -> None:
    """What is still buffered for a reader that is gone goes nowhere."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
