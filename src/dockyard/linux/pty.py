"""Pseudo-terminals of a devpts instance other than the host's.

Owns: opening a master/slave pair beneath a given /dev/pts by descriptor, verified to be devpts; window sizes.
"""

from __future__ import annotations

import fcntl
import os
import struct
import termios

_TIOCGPTPEER = 0x5441
_TIOCGPTN = 0x80045430
_TIOCSPTLCK = 0x40045431
_DEVPTS_SUPER_MAGIC = 0x1CD1


def open_pair(ptmx: str) -> tuple[int, int, int]:
    """(master, slave, number) from the multiplexer `ptmx` of a devpts instance.

    The slave comes from the master by TIOCGPTPEER, never by a path that somebody could have swapped (S5).
    """
    master = os.open(ptmx, os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC)
    try:
        fcntl.ioctl(master, _TIOCSPTLCK, struct.pack("i", 0))
        number = struct.unpack("i", fcntl.ioctl(master, _TIOCGPTN, b"\0\0\0\0"))[0]
        slave = fcntl.ioctl(master, _TIOCGPTPEER, os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC)
    except OSError:
        os.close(master)
        raise
    return master, slave, number


def set_size(master: int, height: int, width: int) -> None:
    """TIOCSWINSZ: characters."""
    fcntl.ioctl(master, termios.TIOCSWINSZ, struct.pack("HHHH", height, width, 0, 0))


def make_controlling(slave: int) -> None:
    """TIOCSCTTY: the session leader that calls gets `slave` as its terminal."""
    fcntl.ioctl(slave, termios.TIOCSCTTY, 0)
