"""What `docker cp` means by its two paths.

Owns: which argument names a container, paths taken apart with their final `/` and `/.`, where the content of an archive
goes and under which name. Does not own: looking at either side (`local`, the daemon). Pure; the rules are those of
docker's documentation of `cp` (the table of SRC_PATH and DEST_PATH).
"""

from __future__ import annotations

import posixpath

from dockyard.edge.cli.errors import CliError


class Place:
    """A file or directory on either side, symbolic links resolved as far as docker does.

    `rename`: the name that was asked for, where resolving has changed the last component.
    """

    __slots__ = ("exists", "is_directory", "path", "rename")

    def __init__(self, path: str, exists: bool = True, is_directory: bool = False, rename: str = "") -> None:
        self.path = path
        self.exists = exists
        self.is_directory = is_directory
        self.rename = rename


def split_argument(text: str) -> tuple[str, str]:
    """(container, path), the container "" for a path of this host. A host path with a colon begins with `/` or `.`."""
    if text.startswith(("/", ".")) or ":" not in text:
        return "", text
    container, _, path = text.partition(":")
    return container, path


def ends_in_dot(path: str) -> bool:
    """Whether a path asks for the content of a directory (`dir/.`)."""
    return path.rstrip("/").rpartition("/")[2] == "." if path.strip("/") else False


def is_asserted_directory(path: str) -> bool:
    return path.endswith("/") or ends_in_dot(path)


def keep_ending(cleaned: str, original: str) -> str:
    """A cleaned path with the final `/` or `/.` that the original has."""
    if ends_in_dot(original) and not ends_in_dot(cleaned):
        cleaned = cleaned.rstrip("/") + "/."
    elif original.endswith("/") and not cleaned.endswith("/"):
        cleaned += "/"
    return cleaned


def split_entry(path: str) -> tuple[str, str]:
    """(directory, last component), the component "." for a path that ends so."""
    cleaned = posixpath.normpath(path or ".")
    if ends_in_dot(path) and cleaned != ".":
        return cleaned, "."
    return posixpath.dirname(cleaned) or ".", posixpath.basename(cleaned) or "/"


def renamed(asked: str, resolved: str) -> tuple[str, str]:
    """(the resolved path with the ending that was asked for, the name to give it if that is another one now)."""
    resolved = keep_ending(resolved, asked)
    name = split_entry(asked)[1]
    return resolved, "" if split_entry(resolved)[1] == name else name


def joined(path: str, target: str) -> str:
    """Where a symbolic link at `path` leads."""
    return target if target.startswith("/") else posixpath.normpath(posixpath.join(split_entry(path)[0], target))


def destination(source: Place, target: Place) -> tuple[str, str]:
    """(the directory to unpack into, the name of the archive's topmost entry there; "" leaves it its own).

    CliError in docker's words for what cannot be copied so.
    """
    directory, name = split_entry(target.path)
    if target.exists and target.is_directory:
        return target.path, source.rename
    if target.exists and source.is_directory:
        raise CliError("cannot copy directory")
    if not target.exists and not source.is_directory and is_asserted_directory(target.path):
        raise CliError("no such directory")
    return directory, name
