"""SELinux labels of containers as values: contexts, options, levels, what may be relabelled.

Owns: taking contexts apart, the policy's file of container contexts, `--security-opt label=…`, drawing categories that
no other container has, which paths of the host keep their labels. Does not own: asking the kernel (`linux.selinux`),
which container gets what when (`engine.labels`), writing labels (`runtime.relabelling`).

A container has two labels: that of its processes, and that of its files; both have the same level, "s0:c1,c2", whose
two categories keep containers apart (multi-category security). Pure. Sources: selinux(8), Docker's and Podman's
documentation of `--security-opt label`, contexts of container-selinux.
"""

from __future__ import annotations

import posixpath
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Final, NamedTuple

from dockyard.model.errors import InvalidArgument, SystemFailure

CATEGORIES: Final = 1024
# Files of containers that are not labelled: categories that no container gets.
NOBODYS: Final = f"s0:c{CATEGORIES - 2},c{CATEGORIES - 1}"
SHARED: Final = "s0"  # of files that all containers may use
_TRIES: Final = 64
_OPTIONS: Final = ("user", "role", "type", "level", "filetype")
# Relabelling one of these would take the host away from its own programs.
_SYSTEM: Final = frozenset({
    "/", "/bin", "/boot", "/dev", "/etc", "/etc/passwd", "/etc/pki", "/etc/shadow", "/home", "/lib", "/lib64", "/media",
    "/opt", "/proc", "/root", "/run", "/sbin", "/srv", "/sys", "/tmp", "/usr", "/var", "/var/lib", "/var/log",
})  # fmt: skip


class SecurityContext(NamedTuple):
    """user:role:type[:level]. A policy without levels has none."""

    user: str
    role: str
    type: str
    level: str = ""

    @classmethod
    def parse(cls, text: str) -> SecurityContext:
        """ValueError for what is none."""
        parts = text.split(":", 3)
        if len(parts) < 3 or not all(parts):
            raise ValueError(f"{text!r} is not an SELinux context")
        return cls(*parts)

    def __str__(self) -> str:
        return ":".join(part for part in self if part)


class Labels(NamedTuple):
    """Of a container's processes and files; "" is without a label of its own."""

    process: str = ""
    mount: str = ""

    @property
    def shared(self) -> str:
        """Of files that other containers may use, too."""
        return shared(self.mount)


class Contexts(NamedTuple):
    """What containers get, without their categories."""

    process: SecurityContext
    file: SecurityContext
    layers: SecurityContext  # of files that all may read: an overlay's, below the label of its mount


FALLBACKS: Final = tuple(  # for policies that have no file of container contexts
    Contexts(
        SecurityContext("system_u", "system_r", process, "s0"),
        SecurityContext("system_u", "object_r", file, "s0"),
        SecurityContext("system_u", "object_r", file, "s0"),
    )
    for process, file in (("container_t", "container_file_t"), ("svirt_lxc_net_t", "svirt_sandbox_file_t"))
)


def parse_contexts(text: str) -> Contexts | None:
    """A policy's lxc_contexts: lines of NAME = "CONTEXT". None if it lacks one of those that are needed."""
    found: dict[str, str] = {}
    for line in text.splitlines():
        name, equals, value = line.partition("=")
        if equals and not name.lstrip().startswith(("#", ";")):
            found[name.strip()] = value.strip().strip('"')
    try:
        process, file = SecurityContext.parse(found["process"]), SecurityContext.parse(found["file"])
        return Contexts(process, file, SecurityContext.parse(found.get("ro_file") or found["file"]))
    except (KeyError, ValueError):
        return None


def policy_type(text: str) -> str:
    """SELINUXTYPE of /etc/selinux/config; "" if it does not say."""
    for line in text.splitlines():
        name, _, value = line.partition("=")
        if name.strip() == "SELINUXTYPE":
            return value.strip()
    return ""


def label_options(security_options: Iterable[str]) -> list[str]:
    """What comes after `label=` among the options of `--security-opt`."""
    found = []
    for option in security_options:
        key, separator, value = option.partition("=" if "=" in option else ":")
        if option == "disable" or (separator and key == "label"):
            found.append(value if separator else option)
    return found


def same_options(process_label: str) -> list[str]:
    """The options of a container that shares a namespace with the one whose processes have this label."""
    if not process_label:
        return []
    context = SecurityContext.parse(process_label)
    named = zip(("user", "role", "type", "level"), context, strict=True)
    return [f"label={name}:{value}" for name, value in named if value]


class Levels:
    """The levels in use. One per engine."""

    def __init__(self, random_below: Callable[[int], int]) -> None:
        """`random_below(n)`: a random number from 0 to n - 1."""
        self._random = random_below
        self._used: Counter[str] = Counter({NOBODYS: 1})

    def draw(self) -> str:
        """A level of two categories that nobody has; it is reserved. SystemFailure if there is none left."""
        for _ in range(_TRIES):
            low, high = sorted((self._random(CATEGORIES), self._random(CATEGORIES)))
            if low != high and self._take(f"s0:c{low},c{high}"):
                return f"s0:c{low},c{high}"
        for high in range(1, CATEGORIES):
            for low in range(high):
                if self._take(f"s0:c{low},c{high}"):
                    return f"s0:c{low},c{high}"
        raise SystemFailure("there is no SELinux level left that no container has")

    def _take(self, level: str) -> bool:
        if level in self._used:
            return False
        self._used[level] += 1
        return True

    def reserve(self, label: str) -> None:
        """The level of a container's label is in use (once more)."""
        if level := _level(label):
            self._used[level] += 1

    def release(self, label: str) -> None:
        """It is not any more; undoes one `draw` or `reserve`."""
        if level := _level(label):
            self._used[level] -= 1
            if self._used[level] <= 0:
                del self._used[level]


def _level(label: str) -> str:
    return (label.split(":", 3) + ["", "", "", ""])[3]


def make_labels(contexts: Contexts, options: Iterable[str], levels: Levels) -> Labels:
    """The labels of a new container; its level is reserved under the process label. InvalidArgument in Docker's words.

    `options`: as `label_options` gives them. `disable`: processes get no label, and files one that only such processes
    can use.
    """
    changes = {}
    for option in options:
        if option == "disable":
            return Labels("", str(_with_level(contexts.file, NOBODYS)))
        name, separator, value = option.partition(":")
        if not separator or not value:
            raise InvalidArgument(
                f"Bad label option {_quoted(option)}, valid options 'disable' or \n"
                "'user, role, level, type, filetype' followed by ':' and a value"
            )
        if name not in _OPTIONS:
            raise InvalidArgument(
                f"Bad label option {_quoted(name)}, valid options 'disable, user, role, level, type, filetype'"
            )
        changes[name] = value
    return _changed(contexts, changes, levels)


def _changed(contexts: Contexts, changes: Mapping[str, str], levels: Levels) -> Labels:
    process = contexts.process._replace(**{name: value for name, value in changes.items() if name != "filetype"})
    file = contexts.file._replace(**{name: changes[name] for name in ("user", "level") if name in changes})
    if "filetype" in changes:
        file = file._replace(type=changes["filetype"])
    if "level" in changes:
        levels.reserve(str(process))
        return Labels(str(process), str(file))
    level = levels.draw() if process.level else ""
    return Labels(str(_with_level(process, level)), str(_with_level(file, level)))


def _with_level(context: SecurityContext, level: str) -> SecurityContext:
    """With another level, where the policy has levels at all."""
    return context._replace(level=level) if context.level else context


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def shared(label: str) -> str:
    """The label of files that all containers may use, from that of one container's."""
    return str(_with_level(SecurityContext.parse(label), SHARED)) if label else ""


def check_relabelling(path: str, more: Collection[str] = ()) -> None:
    """InvalidArgument, in Docker's words, for a path of the host that keeps its label: system directories, and the
    directories `more` and what they lie in. `path`: without links."""
    path = posixpath.normpath(path)
    if path.startswith("/usr/"):
        raise _refused(path, "relabeling content in /usr is not allowed")
    if path in _SYSTEM or any(f"{other}/".startswith(f"{path}/") for other in more):
        raise _refused(path, f"SELinux relabeling of {path} is not allowed")


def _refused(path: str, reason: str) -> InvalidArgument:
    return InvalidArgument(f"error setting label on mount source '{path}': {reason}")
