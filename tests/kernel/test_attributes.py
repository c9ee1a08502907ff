"""/proc/thread-self/attr is written to only where nobody has mounted anything else (S6). Needs no security module."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable

import pytest

from dockyard.linux import abi, attributes, mounts, process

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")


def in_own_mounts(work: Callable[[], None]) -> str:
    """What writing an attribute says in a mount namespace that `work` has changed."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            process.unshare(abi.CLONE_NEWNS)
            mounts.mount("", "/", "", abi.MS_PRIVATE | abi.MS_REC)
            work()
            attributes.write(("nosuch", "exec"), "label")
            said = "written"
        except OSError as error:
            said = f"{error.errno} {error.strerror}"
        os.write(write, said.encode())
        os._exit(0)
    os.close(write)
    os.waitpid(child, 0)
    with os.fdopen(read) as pipe:
        return pipe.read()


def over_the_attribute(source: str) -> Callable[[], None]:
    return lambda: mounts.mount(
        source, f"/proc/self/task/{threading.get_native_id()}/attr/exec", "", abi.MS_BIND
    )  # fmt: skip


def another_directory() -> None:
    mounts.mount("tmpfs", "/proc", "tmpfs")
    os.makedirs("/proc/thread-self/attr")
    with open("/proc/thread-self/attr/exec", "w"):
        pass


def part_of_procfs() -> None:
    mounts.mount("/proc/sys", "/proc", "", abi.MS_BIND)


@pytest.mark.parametrize("source", ["/proc/self/comm", "/dev/null"])
def test_s6_a_file_mounted_over_the_attribute(source: str) -> None:
    assert "1 /proc/thread-self/attr/exec has something mounted over it" in in_own_mounts(over_the_attribute(source))


@pytest.mark.parametrize("work", [another_directory, part_of_procfs])
def test_s6_something_else_at_proc(work: Callable[[], None]) -> None:
    assert in_own_mounts(work) == "1 /proc is not a proc file system"


def test_where_nothing_is_changed_the_kernel_answers() -> None:
    assert in_own_mounts(lambda: None).startswith(("22 ", "2 "))  # it knows no such label, or takes none
