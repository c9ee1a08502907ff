"""A daemon on another host, reached through ssh.

Owns: the address (`ssh://[USER@]HOST[:PORT][/SOCKET]`), the ssh command line, and starting ssh with a socket as its
standard input and output. At the other end `dockyard system dial-stdio` joins them to the daemon's socket. Imported
only for such addresses. Does not own: keys, known hosts and configuration, which are ssh's.
"""

from __future__ import annotations

import _socket
import os

from dockyard.edge.cli.errors import CliError, NotReachable
from dockyard.edge.cli.host import Host

FORM = "ssh://[USER@]HOST[:PORT][/SOCKET] is understood"


def address(text: str, rest: str) -> Host:
    """`rest`: behind `ssh://`. CliError for what has no host, or a password."""
    authority, _, path = rest.partition("/")
    user, at, place = authority.rpartition("@")
    name, colon, port = place.rpartition(":")
    if not colon or "]" in port:
        name, port = place, ""
    name = name.removeprefix("[").removesuffix("]")
    if ":" in user:
        raise CliError("ssh://…: a password in the address is not taken; ssh asks its agent and its keys")
    if not name or (at and not user) or (port and not (port.isdecimal() and int(port) < 65536)):
        raise CliError(f"{text}: {FORM}")
    options = [*(["-l", user] if user else []), *(["-p", port] if port else []), "-o", "ConnectTimeout=30", "-T"]
    there = ["-H", f"unix:///{path}"] if path else []
    command = ["ssh", *options, "--", name, "dockyard", *(_quoted(each) for each in there), "system", "dial-stdio"]
    return Host(text, "", name, int(port or 22), command=command)


def _quoted(word: str) -> str:
    """The shell at the other end reads it."""
    from shlex import quote

    return quote(word)


def connect(host: Host) -> _socket.socket:
    """Our end of a running ssh. NotReachable if there is none here; what goes wrong later ssh says on stderr."""
    ours, theirs = _socket.socketpair(_socket.AF_UNIX, _socket.SOCK_STREAM | _socket.SOCK_CLOEXEC)
    actions = [(os.POSIX_SPAWN_DUP2, theirs.fileno(), fd) for fd in (0, 1)]
    try:
        # in a session of its own: Ctrl-C is for the command, and ssh asks nothing on the terminal
        os.posix_spawnp(host.command[0], host.command, os.environ, file_actions=actions, setsid=True)
    except OSError as error:
        ours.close()
        raise NotReachable(f"{host.text} needs the command {host.command[0]}: {error.strerror}") from None
    finally:
        theirs.close()
    return ours
