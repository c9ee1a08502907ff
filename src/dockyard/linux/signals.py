"""Signal dispositions as a container's program must find them.

Owns: setting every signal back to its default, those included that Python does not name: glibc's posix_spawn(3) leaves
32 and 33 ignored, and what is ignored survives execve. Does not own: signal masks and handlers (the standard library).
Source: rt_sigaction(2).
"""

from __future__ import annotations

import ctypes

from dockyard.linux import abi
from dockyard.linux.calls import _syscall

_LAST = 64
_UNCHANGEABLE = (9, 19)  # SIGKILL, SIGSTOP
_PYTHONS = (13, 25)  # SIGPIPE, SIGXFSZ: the interpreter relies on EPIPE and EFBIG
_DEFAULT = (ctypes.c_uint64 * 4)()  # struct kernel_sigaction: SIG_DFL, no flags, no restorer, empty mask
_MASK_SIZE = ctypes.c_size_t(8)


def default_all() -> None:
    """Every signal of the calling process to SIG_DFL, but those that Python ignores for itself (SIGPIPE, SIGXFSZ).

    Python's own handlers go too: for processes that fork and exec.
    """
    for number in range(1, _LAST + 1):
        if number not in _UNCHANGEABLE and number not in _PYTHONS:
            _syscall(abi.NR["rt_sigaction"], number, ctypes.byref(_DEFAULT), None, _MASK_SIZE)
