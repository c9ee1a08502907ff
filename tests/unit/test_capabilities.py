"""Capabilities: the table, and giving them up in a child process."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from dockyard.linux import capabilities

root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")


def _status_after(steps: Callable[[], None]) -> dict[str, str]:
    """Fields of /proc/self/status of a forked child after `steps`."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            steps()
            os.write(writer, Path("/proc/thread-self/status").read_bytes())
            os._exit(0)
        except BaseException as error:
            os.write(writer, repr(error).encode())
            os._exit(1)
    os.close(writer)
    with os.fdopen(reader) as pipe:
        text = pipe.read()
    assert os.waitpid(pid, 0)[1] == 0, text
    return {key: value.strip() for key, _, value in (line.partition(":") for line in text.splitlines())}


def test_numbers_are_the_kernels() -> None:
    header = Path("/usr/include/linux/capability.h")
    if not header.exists():
        pytest.skip("no kernel headers")
    defined = {}
    for line in header.read_text().splitlines():
        words = line.split()
        if len(words) == 3 and words[0] == "#define" and words[1].startswith("CAP_") and words[2].isdigit():
            defined[words[1]] = int(words[2])
    assert {name: defined[name] for name in capabilities.NAMES} == capabilities.NUMBERS


def test_numbers_are_capshs() -> None:
    capsh = shutil.which("capsh") or "/sbin/capsh"
    if not os.path.exists(capsh):
        pytest.skip("no capsh")
    for name, number in capabilities.NUMBERS.items():
        answer = subprocess.run([capsh, f"--decode={1 << number:x}"], capture_output=True, text=True, check=True)
        assert answer.stdout.strip().endswith(f"={name.lower()}")


def test_unknown_names_are_left_out_of_masks() -> None:
    assert capabilities.to_mask(["CAP_CHOWN", "CAP_NO_SUCH", "CAP_SETUID"]) == 1 | 1 << 7


@root
def test_sets_of_a_root_process() -> None:
    def steps() -> None:
        capabilities.apply_bounding(["CAP_CHOWN", "CAP_KILL"])
        capabilities.set_capabilities(["CAP_CHOWN"], ["CAP_CHOWN", "CAP_KILL"], [], [])

    status = _status_after(steps)
    assert int(status["CapBnd"], 16) == 1 | 1 << 5
    assert int(status["CapPrm"], 16) == 1 | 1 << 5
    assert int(status["CapEff"], 16) == 1
    assert int(status["CapInh"], 16) == int(status["CapAmb"], 16) == 0


@root
def test_the_documented_order_keeps_capabilities_over_a_change_of_user() -> None:
    names = ["CAP_NET_BIND_SERVICE", "CAP_BPF"]  # one in the low, one in the high word

    def steps() -> None:
        capabilities.apply_bounding(names)
        capabilities.keep_capabilities(True)
        os.setgroups([])
        os.setresgid(1000, 1000, 1000)
        os.setresuid(1000, 1000, 1000)
        capabilities.set_capabilities(names, names, names, names)
        capabilities.keep_capabilities(False)

    status = _status_after(steps)
    for field in ("CapBnd", "CapPrm", "CapEff", "CapInh", "CapAmb"):
        assert int(status[field], 16) == 1 << 10 | 1 << 39, field


@root
def test_what_the_process_lacks_is_left_out() -> None:
    def steps() -> None:
        capabilities.set_capabilities(["CAP_CHOWN"], ["CAP_CHOWN"], [], [])
        capabilities.set_capabilities(list(capabilities.NAMES), list(capabilities.NAMES), [], [])

    assert int(_status_after(steps)["CapEff"], 16) == 1


@root
def test_dropping_the_bounding_set_without_setpcap_is_an_error() -> None:
    def steps() -> None:
        capabilities.set_capabilities(["CAP_CHOWN"], ["CAP_CHOWN"], [], [])
        with pytest.raises(OSError, match="PR_CAPBSET_DROP"):
            capabilities.apply_bounding([])

    _status_after(steps)
