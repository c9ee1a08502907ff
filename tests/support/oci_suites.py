"""Test suites of other OCI runtimes: which tests are not run against ours, and why; where the sources come from.

Owns: the lists that docs/runtime.md shows, fetching the source of a Debian package by apt. Does not own: running them
(`kernel/test_oci_suites.py`).
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Final

CACHE: Final = Path(__file__).parents[2] / ".cache"
CRUN: Final = "crun_1.8.1.orig.tar.xz"
CRUN_SHA256: Final = "01b68269d94e5fe11106a9b14c2f144be03b16ec798951f4efa6aa16ba9da29a"
_HELPER: Final = "/usr/lib/apt/apt-helper"

# What of crun's tests is left out, by file and by the name that the test has in its file.
CRUN_LEFT_OUT: Final = {
    "test_delete.py test_simple_delete": (
        "freezes the process in a control group of its own and deletes the container: crun cannot either, and leaves it"
    ),
    "test_exec.py exec-root-netns-with-userns": (
        "joins the network namespace of process 1, which machines that are containers themselves do not allow"
    ),
    "test_exec.py exec_add_no_new_privileges": (
        "expects an exec to be without the container's `noNewPrivileges`; ours keeps it, as runc's"
    ),
    "test_exec.py exec_write_pid_file": "wants a process ID of five digits: it may be a shorter one",
    "test_mounts.py mount-idmapped-mounts": "fails with crun on newer kernels, too",
    "test_seccomp.py seccomp-listener": (
        "wants the listener to be told of a filter in which no call is notified; ours is told of filters that notify"
    ),
    "test_start.py start": "reads a state file of crun's own",
    "test_tty.py test-detach-tty": "has a number in `process.args`, which ours refuses before it looks at the terminal",
    "test_uid_gid.py keep-groups": "an annotation of crun's (`run.oci.keep_original_groups`)",
}
CRUN_PASSING: Final = 80  # a run that collects nothing is no success


class NotToBeHad(Exception):
    """The source cannot be fetched; the message says why."""


def source(package: str, file: str, sha256: str) -> Path:
    """A file that lies beside Debian's `package` on the mirror that this machine has it from. Raises NotToBeHad."""
    path = CACHE / file
    if path.exists():
        return path
    asked = subprocess.run(
        ["apt-get", "download", "--print-uris", package], capture_output=True, text=True, timeout=30, check=False
    )
    address = asked.stdout.partition("'")[2].partition("'")[0]
    if not address or not os.path.exists(_HELPER):
        raise NotToBeHad(f"apt does not know where {package} is: {asked.stderr.strip()[-200:]}")
    CACHE.mkdir(exist_ok=True)
    command = [_HELPER, "download-file", f"{os.path.dirname(address)}/{file}", str(path), f"SHA256:{sha256}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    if done.returncode != 0:
        path.unlink(missing_ok=True)
        raise NotToBeHad(f"{file} is not where Debian's {package} comes from: {done.stderr.strip()[-200:]}")
    return path
