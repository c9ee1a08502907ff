"""`dockyard system install`: the daemon as a systemd service.

Owns: the unit and the socket (as text, pure) and where they go. The service's restart leaves containers alone:
KillMode=process ends the daemon only, Delegate keeps systemd out of the containers' cgroups. Source:
systemd.service(5), systemd.kill(5), systemd.resource-control(5), systemd.socket(5).
"""

from __future__ import annotations

import os
import shutil
import sys

from dockyard.edge.cli.call import Body, Call, say
from dockyard.edge.cli.errors import CliError
from dockyard.edge.cli.flags import flag, value

SERVICE = """\
[Unit]
Description=Dockyard container engine
After=network-online.target nss-lookup.target firewalld.service time-set.target dockyard.socket
Wants=network-online.target
Requires=dockyard.socket
StartLimitIntervalSec=60
StartLimitBurst=3

[Service]
Type=notify
ExecStart={daemon} -H fd://
ExecReload=/bin/kill -s HUP $MAINPID
TimeoutStartSec=0
Restart=always
RestartSec=2
# A restart ends the daemon only: containers, their monitors and the zygote run on and are found again.
KillMode=process
# The containers' cgroups are the daemon's to manage.
Delegate=yes
TasksMax=infinity
LimitNOFILE=infinity
LimitNPROC=infinity
LimitCORE=infinity
OOMScoreAdjust=-500

[Install]
WantedBy=multi-user.target
"""
SOCKET = """\
[Unit]
Description=Dockyard API socket

[Socket]
ListenStream=/run/dockyard.sock
SocketMode=0660
SocketUser=root
SocketGroup={group}

[Install]
WantedBy=sockets.target
"""


def units(daemon: str, group: str) -> dict[str, str]:
    """File name → text."""
    return {"dockyard.service": SERVICE.format(daemon=quote(daemon)), "dockyard.socket": SOCKET.format(group=group)}


def quote(path: str) -> str:
    """A path as ExecStart takes it: `%` doubled, and quoted where it has spaces."""
    escaped = path.replace("%", "%%").replace("$", "$$")
    return (
        '"' + escaped.replace("\\", "\\\\").replace('"', '\\"') + '"' if any(c in path for c in " \t\"'\\") else escaped
    )


def _install(call: Call) -> None:
    root, prefix = call.text("root"), call.text("prefix")
    daemon = os.path.join(prefix, "bin", "dockyardd") if prefix else _daemon()
    files = units(daemon, _group(root))
    if call.on("print"):
        for name, text in files.items():
            say(f"# {name}\n{text}")
        return
    if not root and not os.path.isdir("/run/systemd/system"):
        raise CliError("systemd does not run here; give --root DIR to write the unit into a tree, or --print to see it")
    inside = os.path.join(root, daemon.lstrip("/")) if root else daemon
    if not os.access(inside, os.X_OK) and not root:
        raise CliError(f"{daemon} is not there or not executable; give --prefix where dockyardd is installed")
    folder = os.path.join(root or "/", "etc/systemd/system")
    for name, text in files.items():
        _write(folder, name, text)
        say(f"wrote {os.path.join(folder, name)}")
    say("\nNow run:")
    option = f" --root={root}" if root else ""
    if not root:
        say("  systemctl daemon-reload")
    say(f"  systemctl{option} enable{'' if root else ' --now'} dockyard.socket dockyard.service")
    if not root:
        say("  dockyard version")


def _daemon() -> str:
    """The dockyardd beside this program, else the one on the PATH."""
    beside = os.path.join(os.path.dirname(os.path.abspath(sys.argv[0])), "dockyardd")
    return beside if os.access(beside, os.X_OK) else shutil.which("dockyardd") or "/usr/local/bin/dockyardd"


def _group(root: str) -> str:
    """The group that may use the socket: `dockyard`, else `docker`, as for a daemon that makes it itself; else root."""
    try:
        with open(os.path.join(root or "/", "etc/group"), encoding="utf-8", errors="replace") as file:
            there = {line.partition(":")[0] for line in file}
    except OSError:
        there = set()
    return next((name for name in ("dockyard", "docker") if name in there), "root")


def _write(folder: str, name: str, text: str) -> None:
    path = os.path.join(folder, name)
    temporary = f"{path}.new"
    try:
        os.makedirs(folder, exist_ok=True)
        with open(temporary, "w", encoding="utf-8") as file:
            os.fchmod(file.fileno(), 0o644)
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.rename(temporary, path)
    except OSError as error:
        raise CliError(f"{path}: {(error.strerror or str(error)).lower()}") from None


install = Body(
    _install,
    (
        value("--prefix", "Where Dockyard is installed (the daemon is PREFIX/bin/dockyardd)", complete="file"),
        flag("--print", "Print the unit and the socket instead of writing them"),
        value("--root", "Write into the tree below this directory instead of /", complete="file"),
    ),
)
