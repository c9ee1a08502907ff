"""A throw-away user of this machine, for what is done without root.

Owns: the user, its directory and its processes: all are gone in the end. Does not own: what it does.
"""

from __future__ import annotations

import fcntl
import os
import pwd
import shutil
import signal
import subprocess
import sys
import tempfile
import uuid
from pathlib import Path
from typing import Any

from tests.support.steps import eventually

PYTHON = "/usr/bin/python3"  # one that every user may execute
_NS_GET_OWNER_UID = 0xB704
SOURCES = Path(__file__).parents[2] / "src"


def missing() -> str:
    """What this machine lacks for it; "" if nothing."""
    if os.geteuid() != 0:
        return "needs root"
    if not shutil.which("useradd"):
        return "useradd is not installed"
    readable = os.path.exists(PYTHON) and all(
        os.stat(path).st_mode & 0o005 == 0o005 for path in (SOURCES, *SOURCES.parents)
    )
    return "" if readable else "other users cannot read the sources or have no Python"


class OrdinaryUser:
    """`directory` is its home, `state` its XDG_RUNTIME_DIR, `runtime` dockyard-runtime for it."""

    def __init__(self) -> None:
        self.name = f"dy{uuid.uuid4().hex[:8]}"
        self.directory = Path(tempfile.mkdtemp(prefix="dockyard-user-"))
        subprocess.run(["useradd", "-M", "-d", self.directory, "-s", "/bin/sh", self.name], check=True)
        entry = pwd.getpwnam(self.name)
        self.uid, self.gid = entry.pw_uid, entry.pw_gid
        ranges = (line.split(":") for line in Path("/etc/subuid").read_text().splitlines())
        self.first, self.count = next(((int(r[1]), int(r[2])) for r in ranges if r[0] == self.name), (0, 0))
        self.runtime = self.directory / "dockyard-runtime"
        self.runtime.write_text(
            f"#!{PYTHON} -IS\nimport sys\nsys.path.insert(0, {str(SOURCES)!r})\n"
            "from dockyard.runtime.oci import main\nmain()\n"
        )
        self.runtime.chmod(0o755)
        self.state = self.directory / "run"
        self.state.mkdir()
        self.directory.chmod(0o755)
        self.own(self.directory)

    def __call__(self, *words: object, check: bool = True, **environment: str) -> subprocess.CompletedProcess[str]:
        """A command as this user, in its directory. AssertionError with stderr if it fails and `check`."""
        variables = {"PATH": os.environ["PATH"], "HOME": str(self.directory), "XDG_RUNTIME_DIR": str(self.state)}
        options: dict[str, Any] = {"user": self.uid, "group": self.gid, "extra_groups": [], "cwd": self.directory}
        with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as errors:  # a container may hold them
            done = subprocess.run(
                list(map(str, words)), stdin=subprocess.DEVNULL, stdout=out, stderr=errors, timeout=60, check=False,
                env={k: v for k, v in (variables | environment).items() if v}, **options,
            )  # fmt: skip
            for file in (out, errors):
                file.seek(0)
            found = subprocess.CompletedProcess(done.args, done.returncode, out.read(), errors.read())
        if check:
            assert found.returncode == 0, f"{words}: {found.returncode}: {found.stderr}"
        return found

    def own(self, top: Path) -> None:
        """Give everything below `top` to the user."""
        for current, directories, files in os.walk(top):
            for name in (".", *directories, *files):
                os.chown(os.path.join(current, name), self.uid, self.gid, follow_symlinks=False)

    def processes(self) -> list[int]:
        """The user's, and those of its other ids: in user namespaces that it made, for others may use such ids, too."""
        found = []
        for name in filter(str.isdigit, os.listdir("/proc")):
            try:
                uid = os.stat(f"/proc/{name}").st_uid
                if uid == self.uid or (self.first <= uid < self.first + self.count and self._made(name)):
                    found.append(int(name))
            except OSError:
                continue
        return found

    def _made(self, pid: str) -> bool:
        owner = bytearray(4)
        with open(f"/proc/{pid}/ns/user", "rb") as namespace:
            fcntl.ioctl(namespace, _NS_GET_OWNER_UID, owner)
        return int.from_bytes(owner, sys.byteorder) == self.uid

    def close(self) -> None:
        def gone() -> bool:
            for pid in self.processes():
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    continue
            return not self.processes()

        eventually(gone)
        subprocess.run(["userdel", self.name], check=True, capture_output=True)
        shutil.rmtree(self.directory, ignore_errors=True)
