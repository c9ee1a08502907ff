"""Running out of a read-only copy, so that nothing in a container can write to our interpreter (S1, CVE-2019-5736).

Owns: executing this command anew from detached read-only clones of the interpreter's prefix and of the package.
Does not own: the clones themselves (`runtime.launcher`).
"""

from __future__ import annotations

import fcntl
import os
import sys
from collections.abc import Sequence
from typing import Final, NoReturn

import dockyard
from dockyard.linux import signals
from dockyard.runtime.launcher import clone_read_only

_HIGH: Final = 200  # above what --preserve-fds may name
_CODE: Final = "import sys; sys.path.insert(0, sys.argv.pop(1)); from dockyard.runtime.oci import main; main()"
_MARK: Final = "/proc/self/fd/"


def protected() -> bool:
    """Whether this interpreter is the copy."""
    return sys.orig_argv[0].startswith(_MARK)


def settle() -> None:
    """In the copy: what it was started with is not for hooks and containers."""
    os.environ.pop("LD_LIBRARY_PATH", None)
    signals.default_all()
    for name in os.listdir("/proc/self/fd"):
        if int(name) >= _HIGH:
            try:
                os.set_inheritable(int(name), False)
            except OSError:
                continue  # the descriptor that listed them


def execute_copy(arguments: Sequence[str]) -> NoReturn:
    """Become the copy. Raises OSError where the mount API refuses."""
    prefix = os.path.realpath(sys.base_prefix)
    executable = os.path.relpath(os.path.realpath("/proc/self/exe"), prefix)
    package = os.path.dirname(os.path.dirname(os.path.realpath(dockyard.__file__)))
    python_tree, package_tree = (_keep(clone_read_only(path)) for path in (prefix, package))
    python = f"{_MARK}{python_tree}/{executable}"
    environment = {**os.environ, "LD_LIBRARY_PATH": f"{_MARK}{python_tree}/lib"}
    os.execve(python, [python, "-I", "-S", "-c", _CODE, f"{_MARK}{package_tree}", *arguments], environment)


def _keep(fd: int) -> int:
    """The same descriptor, high and open across execve."""
    return fcntl.fcntl(fd, fcntl.F_DUPFD, _HIGH)
