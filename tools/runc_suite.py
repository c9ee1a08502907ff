"""runc's integration tests (bats), as they come with Debian's source of it, against `dockyard-runtime` or another.

    .venv/bin/python tools/runc_suite.py [--runtime COMMAND] [--debian TAR] [--agent PROGRAM] [FILE.bats …]

Needs root and bats, jq and gawk. The images are made here: busybox; a Debian tree (for hooks.bats) where one is given,
as `mmdebstrap --variant=minbase bookworm debian.tar` makes it. seccomp-notify.bats wants the compiled program of runc's
contrib/cmd/seccompagent. checkpoint.bats is left out. Prints what fails, and a line of figures for each file;
docs/runtime.md says which are known and why. Takes five to ten minutes.
"""

from __future__ import annotations

import argparse
import io
import os
import re
import shlex
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from tests.support.busybox import rootfs_tar
from tests.support.oci import OURS
from tests.support.oci_suites import NotToBeHad, source

SOURCE = "runc_1.1.5+ds1.orig.tar.xz"
SHA256 = "e936cc563c4557178b3416aa1bb9e8231c53011beb8df67adedbfbaba4eacce7"
MADE_LATER = ("proc", "sys", "dev", "home/dock", "data", "www")  # the tests put links and users there themselves

# Takes the terminals that come over a socket, and throws away what they print.
RECVTTY = """#!{python}
import array, os, socket, sys, threading
options = dict(zip(sys.argv[1:-1:2], sys.argv[2:-1:2]))
with open(options["--pid-file"], "w") as file:
    file.write(str(os.getpid()))
listener = socket.socket(socket.AF_UNIX)
listener.bind(sys.argv[-1])
listener.listen()

def drain(fd):
    try:
        while os.read(fd, 65536):
            pass
    except OSError:
        os.close(fd)

while True:
    connection, _ = listener.accept()
    rights = connection.recvmsg(4096, socket.CMSG_SPACE(4))[1]
    for fd in array.array("i", rights[0][2]) if rights else ():
        threading.Thread(target=drain, args=(fd,), daemon=True).start()
"""


def busybox_tar(target: Path) -> None:
    """A busybox root with no user but root and nobody."""
    with tarfile.open(fileobj=io.BytesIO(rootfs_tar())) as old, tarfile.open(target, "w") as new:
        for member in old:
            if member.name.rstrip("/").startswith(MADE_LATER):
                continue
            content = old.extractfile(member) if member.isfile() else None
            if member.name == "etc/passwd":
                text = b"root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/home:/bin/false\n"
                member.size, content = len(text), io.BytesIO(text)
            new.addfile(member, content)


def lay_out(directory: Path, runtime: list[str], debian: str) -> Path:
    """The tests and what they need below `directory`; where they are run. Raises NotToBeHad."""
    with tarfile.open(source("runc", SOURCE, SHA256)) as tar:
        parts = ("/tests/integration/", "/contrib/cmd/seccompagent/")
        wanted = [member for member in tar.getmembers() if any(part in member.name for part in parts)]
        tar.extractall(directory, wanted, filter="data")
    tests = next(directory.glob("runc-*/tests/integration"))
    busybox_tar(directory / "busybox.tar")
    helper = tests.parents[1] / "contrib/cmd/recvtty/recvtty"
    helper.parent.mkdir(parents=True)
    for path, text in (
        (directory / "runtime", f'#!/bin/sh\nexec {shlex.join(runtime)} "$@"\n'),
        (helper, RECVTTY.format(python=sys.executable)),
        (
            tests / "get-images.sh",
            f"#!/bin/sh\necho BUSYBOX_IMAGE={directory}/busybox.tar\necho DEBIAN_IMAGE={debian}\n",
        ),
    ):
        path.write_text(text)
        path.chmod(0o755)
    # The tests make directories for every controller that the kernel has, also where none is mounted.
    lines = Path("/proc/cgroups").read_text().splitlines(keepends=True)
    (directory / "cgroups").write_text("".join(line for line in lines if line.split()[1] != "0"))
    (directory / "tmp").mkdir()
    (directory / "tmp").chmod(0o711)
    return tests


def run(directory: Path, tests: Path, file: str) -> str:
    """What one file's tests print: in a mount namespace of their own, on a terminal."""
    bind = "mount --bind " + shlex.quote(f"{directory}/cgroups") + " /proc/cgroups; " if os.path.exists(
        "/sys/fs/cgroup/memory"
    ) else ""  # fmt: skip
    inner = f"{bind}exec script -qec {shlex.quote(f'bats --tap {file}')} /dev/null"
    environment = {**os.environ, "RUNC": f"{directory}/runtime", "TMPDIR": f"{directory}/tmp"}
    environment["PATH"] += ":/usr/sbin:/sbin"
    done = subprocess.run(
        ["unshare", "--mount", "--propagation", "private", "sh", "-c", inner], cwd=tests, env=environment,
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True, errors="replace", check=False,
    )  # fmt: skip
    return done.stdout


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--runtime", default=shlex.join(OURS))
    parser.add_argument("--debian", default="")
    parser.add_argument("--agent", default="")
    parser.add_argument("files", nargs="*")
    given = parser.parse_args()
    missing = [name for name in ("bats", "jq", "gawk", "script", "unshare") if shutil.which(name) is None]
    if missing or os.geteuid() != 0:
        print(f"needs root and: {' '.join(missing)}", file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory(prefix="runc-suite-") as name:
        directory = Path(name)
        directory.chmod(0o711)
        try:
            tests = lay_out(
                directory, shlex.split(given.runtime), os.path.abspath(given.debian) if given.debian else ""
            )
        except NotToBeHad as error:
            print(error, file=sys.stderr)
            return 2
        if given.agent:
            shutil.copy(given.agent, tests.parents[1] / "contrib/cmd/seccompagent/seccompagent")
        left_out = {"checkpoint.bats"} | (set() if given.debian else {"hooks.bats"})
        failed = False
        for file in given.files or sorted({path.name for path in tests.glob("*.bats")} - left_out):
            said = run(directory, tests, file)
            lines = re.findall(r"^(ok|not ok) \d+ (.*?)(# skip.*)?\r?$", said, re.MULTILINE)
            bad = sum(kind == "not ok" for kind, _, _ in lines)
            skipped = sum(bool(skip) for _, _, skip in lines)
            if bad:
                failed = True
                print(said)
            print(f"{file}: {len(lines) - bad - skipped} passed, {bad} failed, {skipped} skipped", flush=True)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
