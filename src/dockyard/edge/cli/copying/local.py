"""Where `cp` finds and puts files on this host.

Owns: how the paths of this host resolve, and what is refused before the daemon is asked. Does not own: what is copied
where (`paths`), packing and unpacking.
"""

from __future__ import annotations

import os
import stat

from dockyard.edge.cli.copying.paths import Place, joined, keep_ending, renamed, split_entry
from dockyard.edge.cli.errors import CliError

_LINKS = 10  # symbolic links that a destination may go through, as in docker


def absolute(path: str) -> str:
    return keep_ending(os.path.abspath(path), path)


def source(path: str, follow: bool) -> Place:
    """What is to be copied. Symbolic links before the last component are resolved, the last one only if `follow` or if
    a directory is asked for. CliError if it is not there."""
    try:
        if follow:
            found, name = renamed(path, os.path.realpath(path, strict=True))
        else:
            directory, _, base = path.rpartition("/")
            found = f"{os.path.realpath(directory or '/', strict=True).rstrip('/')}/{base}"
            name = split_entry(path)[1] if path.endswith("/") else ""
            name = "" if name == split_entry(found)[1] else name
        return Place(found, True, stat.S_ISDIR(os.lstat(found).st_mode), name)
    except OSError as error:
        raise CliError(f"lstat {path}: {(error.strerror or str(error)).lower()}") from None


def target(path: str) -> Place:
    """Where something is to be copied to: what a chain of symbolic links ends at, or nothing in a directory that is
    there. CliError if that directory is not."""
    original = path
    for _ in range(_LINKS):
        try:
            found = os.lstat(path)
        except (FileNotFoundError, NotADirectoryError):
            break
        if not stat.S_ISLNK(found.st_mode):
            return Place(path, True, stat.S_ISDIR(found.st_mode))
        path = joined(path, os.readlink(path))
    else:
        raise CliError(f"too many symlinks in {original}")
    if not os.path.isdir(split_entry(path)[0]):
        raise CliError("not a directory")
    return Place(path, False)


def check_output(path: str) -> None:
    """CliError unless a file or directory can be at `path`: as docker tells it before anything is asked for."""
    directory = os.path.dirname(os.path.normpath(path))
    if directory and not os.path.exists(directory):
        raise CliError(f'invalid output path: directory "{directory}" does not exist')
    try:
        mode = os.stat(path).st_mode
    except OSError:
        return
    if not (stat.S_ISDIR(mode) or stat.S_ISREG(mode)):
        what = "a device" if stat.S_ISCHR(mode) or stat.S_ISBLK(mode) else "an irregular file"
        raise CliError(f'invalid output path: "{path}" must be a directory or a regular file: got {what}')
