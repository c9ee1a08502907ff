"""Who `docker run --user` means: a user specification against a container's /etc/passwd and /etc/group.

Owns: the parsing of both files, the rules of lookup, and reading them from an image that may be hostile.
Does not own: when it runs (`runtime.init` and exec, inside the container, after pivot_root) and changing user.

It runs on the container's ground, so it works on bytes, imports nothing when called, and uses no codec and no NSS.
The rules are Docker's (moby/sys/user GetExecUser and runc, observed), with one deviation: an entry whose numbers are
not numbers is skipped, where Docker reads them as 0, that is as root.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator, Sequence
from typing import Final, NamedTuple

from dockyard.linux import abi, calls

LIMIT: Final = 1 << 20  # bytes of a passwd or group file that are read; a larger file is refused by name
MAX_ID: Final = (1 << 31) - 1
PASSWD: Final = b"/etc/passwd"
GROUP: Final = b"/etc/group"
_OPEN: Final = os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC


class LookupFailed(Exception):
    """The user or group cannot be determined; the message is Docker's."""


class User(NamedTuple):
    uid: int
    gid: int
    groups: tuple[int, ...]  # supplementary groups, the primary one among them
    home: bytes


Reader = Callable[[], bytes]


def resolve_user(spec: bytes, group_add: Sequence[bytes], read_passwd: Reader, read_group: Reader) -> User:
    """The identity that `spec` ("", "name", "uid", "name:group", "uid:gid", …) and `--group-add` ask for.

    A number is never looked up as a name (S16). A name that is absent is an error, a number that is absent is itself.
    The primary group is always among the supplementary ones (S16): without it a program that drops it by setgid
    would pass checks that deny by group. Files are read only if something needs them.
    Raises LookupFailed, and what the readers raise.
    """
    user_part, _, group_part = spec.partition(b":")
    passwd = read_passwd()
    uid, gid, login = _find_user(user_part, passwd)
    by_name = [name for name in (group_part, *group_add) if name and _number(name) is None]
    group = read_group() if by_name or (login and not group_part) else b""
    groups: list[int] = []
    if group_part:
        gid = _find_group(group_part, group)
    elif login:
        groups = [entry_gid for _, entry_gid, members in _groups(group) if login in members]
    if gid not in groups:
        groups.insert(0, gid)
    groups += [_find_group(name, group) for name in group_add]
    return User(uid, gid, tuple(dict.fromkeys(groups)), home_of(uid, passwd))


def read_etc_file(path: bytes, root: int = abi.AT_FDCWD) -> bytes:
    """The content of /etc/passwd or /etc/group of an image that may be hostile (S17).

    Absent, unreadable, and anything but a regular file (FIFO, device, directory, socket): b"", as if it were absent,
    so that numbers still work. O_NONBLOCK keeps a FIFO or a device from blocking, O_NOCTTY keeps a terminal from
    becoming ours. Symbolic links are followed (after pivot_root they end inside the container), magic links of procfs
    are not: they would lead to descriptors of ours. `root`: a directory taken for the root, for who is not inside yet.
    Raises LookupFailed for a file larger than LIMIT; never reads more than that.
    """
    try:
        inside = 0 if root == abi.AT_FDCWD else abi.RESOLVE_IN_ROOT
        fd = calls.openat2(root, path, _OPEN, resolve=abi.RESOLVE_NO_MAGICLINKS | inside)
    except OSError:
        return b""
    try:
        return _read_regular(fd, path)
    except OSError:
        return b""
    finally:
        os.close(fd)


def _read_regular(fd: int, path: bytes) -> bytes:
    status = os.fstat(fd)
    if not stat.S_ISREG(status.st_mode):
        return b""
    chunks: list[bytes] = []
    left = LIMIT + 1
    while left > 0 and status.st_size <= LIMIT:  # files of procfs have size 0 and content
        chunk = os.read(fd, min(left, 65536))
        if not chunk:
            return b"".join(chunks)
        chunks.append(chunk)
        left -= len(chunk)
    raise LookupFailed(f"{_text(path)}: larger than {LIMIT} bytes")


def _find_user(name: bytes, passwd: bytes) -> tuple[int, int, bytes]:
    """uid, gid and login name (b"" if there is no entry) of `name`; b"" is uid 0."""
    number = _number(name) if name else 0
    for login, uid, gid, _ in _users(passwd):
        if login == name if number is None else uid == number:
            return _in_range(uid), _in_range(gid), login
    if number is None:
        raise LookupFailed(f"unable to find user {_text(name)}: no matching entries in passwd file")
    return _in_range(number), 0, b""


def _find_group(name: bytes, group: bytes) -> int:
    number = _number(name)
    if number is not None:
        return _in_range(number)
    for entry, gid, _ in _groups(group):
        if entry == name:
            return _in_range(gid)
    raise LookupFailed(f"unable to find group {_text(name)}: no matching entries in group file")


def home_of(uid: int, passwd: bytes) -> bytes:
    """HOME: that of the first entry with this uid, whatever the name asked for; "/" without one."""
    for _, entry_uid, _, home in _users(passwd):
        if entry_uid == uid:
            return home or b"/"
    return b"/"


def _users(passwd: bytes) -> Iterator[tuple[bytes, int, int, bytes]]:
    """(login, uid, gid, home) of each well-formed line of passwd(5)."""
    for line in passwd.split(b"\n"):
        fields = line.strip().split(b":")
        if len(fields) < 4:
            continue
        uid, gid = _number(fields[2]), _number(fields[3])
        if uid is not None and gid is not None:
            yield fields[0], uid, gid, fields[5] if len(fields) > 5 else b""


def _groups(group: bytes) -> Iterator[tuple[bytes, int, list[bytes]]]:
    """(name, gid, members) of each well-formed line of group(5)."""
    for line in group.split(b"\n"):
        fields = line.strip().split(b":")
        gid = _number(fields[2]) if len(fields) > 2 else None
        if gid is not None:
            yield fields[0], gid, fields[3].split(b",") if len(fields) > 3 else []


def _number(text: bytes) -> int | None:
    """`text` as a number if it is decimal digits (a sign allowed, as in Docker), else None."""
    digits = text[1:] if text[:1] in (b"-", b"+") else text
    if not digits.isdigit():
        return None
    if len(digits) > 10:  # int() itself has a limit on digits; this is out of range in any case
        digits = b"9999999999"
    return -int(digits) if text[:1] == b"-" else int(digits)


def _in_range(number: int) -> int:
    if not 0 <= number <= MAX_ID:
        raise LookupFailed(f"uids and gids must be in range 0-{MAX_ID}")
    return number


def _text(name: bytes) -> str:
    return name.decode("utf-8", "replace")
