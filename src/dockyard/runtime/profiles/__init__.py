"""seccomp profiles in Docker's format, and what one means for one container.

Owns: the default profile (`seccomp-default.json`), decoding, and the selection of rules by capability, architecture and
kernel. Does not own: compiling (`linux.seccomp`), who gets which profile (`runtime.bundle`).

The default is moby's, with one deviation: `socketcall` is left out. Its arguments lie in memory, where a filter cannot
see them, so that on 32-bit x86 it would be the way around the denial of AF_ALG and AF_VSOCK (S14). C libraries since
Linux 4.3 use the separate calls.
"""

from __future__ import annotations

import json
import pkgutil
from collections.abc import Collection, Mapping
from typing import Any, Final

from dockyard.model.errors import InvalidArgument

_RULE_KEYS: Final = ("names", "action", "errnoRet", "args")
# machine (uname) -> the architecture's name in `includes.arches` (Go's) and in `archMap` (libseccomp's)
ARCHITECTURES: Final = {
    "x86_64": ("amd64", "SCMP_ARCH_X86_64"),
    "aarch64": ("arm64", "SCMP_ARCH_AARCH64"),
}


def default_profile() -> dict[str, Any]:
    """The default profile, read from the package (10 KB; the caller keeps it)."""
    document: dict[str, Any] = json.loads(pkgutil.get_data(__name__, "seccomp-default.json") or b"")
    return document


def decode(text: str) -> dict[str, Any]:
    """A profile that a client sent. Raises InvalidArgument in Docker's words."""
    try:
        document = json.loads(text)
    except ValueError as error:
        raise InvalidArgument(f"Decoding seccomp profile failed: {error}") from None
    if not isinstance(document, dict):
        raise InvalidArgument("Decoding seccomp profile failed: not a JSON object")
    return document


def resolve(
    profile: Mapping[str, Any], capabilities: Collection[str], machine: str, kernel: tuple[int, int]
) -> dict[str, Any] | None:
    """The OCI `linux.seccomp` object that `profile` comes to for a container with these bounding capabilities.

    None if the profile is empty. Raises InvalidArgument in Docker's words where it contradicts itself.
    """
    if not profile:
        return None
    if profile.get("architectures") and profile.get("archMap"):
        raise InvalidArgument(
            "both 'architectures' and 'archMap' are specified in the seccomp profile, "
            "use either 'architectures' or 'archMap'"
        )
    if not profile.get("defaultAction"):
        raise InvalidArgument("Decoding seccomp profile failed: defaultAction is missing")
    goarch, native = ARCHITECTURES.get(machine, (machine, ""))
    resolved: dict[str, Any] = {"defaultAction": profile["defaultAction"]}
    for key in ("defaultErrnoRet", "flags", "listenerPath", "listenerMetadata"):
        if profile.get(key) is not None:
            resolved[key] = profile[key]
    architectures = list(profile.get("architectures") or ()) or _mapped(profile.get("archMap") or (), native)
    if architectures:
        resolved["architectures"] = architectures
    resolved["syscalls"] = [
        _rule(rule)
        for rule in profile.get("syscalls") or ()
        if _selected(rule, frozenset(capabilities), goarch, kernel)
    ]
    return resolved


def _mapped(arch_map: Collection[Mapping[str, Any]], native: str) -> list[str]:
    for entry in arch_map:
        if entry.get("architecture") == native:
            return [native, *(entry.get("subArchitectures") or ())]
    return []


def _rule(rule: Mapping[str, Any]) -> dict[str, Any]:
    if rule.get("name") and rule.get("names"):
        raise InvalidArgument(
            "both 'name' and 'names' are specified in the seccomp profile, use either 'name' or 'names'"
        )
    plain = {key: rule[key] for key in _RULE_KEYS if rule.get(key)}
    if rule.get("name"):
        plain["names"] = [rule["name"]]
    return plain


def _selected(rule: Mapping[str, Any], capabilities: frozenset[str], goarch: str, kernel: tuple[int, int]) -> bool:
    includes, excludes = rule.get("includes") or {}, rule.get("excludes") or {}
    if goarch in (excludes.get("arches") or ()) or capabilities & set(excludes.get("caps") or ()):
        return False
    if excludes.get("minKernel") and kernel >= _version(excludes["minKernel"]):
        return False
    if includes.get("arches") and goarch not in includes["arches"]:
        return False
    if not capabilities.issuperset(includes.get("caps") or ()):
        return False
    return not (includes.get("minKernel") and kernel < _version(includes["minKernel"]))


def _version(text: str) -> tuple[int, int]:
    major, _, minor = text.partition(".")
    if not (major.isdecimal() and minor.isdecimal()):
        raise InvalidArgument(f"Decoding seccomp profile failed: minKernel {text!r} is not MAJOR.MINOR")
    return int(major), int(minor)
