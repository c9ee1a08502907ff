"""Build arguments: the global scope, the platform's, the predefined ones.

Owns: which variables FROM sees, what an ARG in a stage is worth. Does not own: the environment of a stage (`evaluate`).
Source: Dockerfile reference, "ARG".
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

from dockyard.model.build import BuildOptions
from dockyard.model.errors import InvalidArgument
from dockyard.model.oci import Platform
from dockyard.proto import platforms
from dockyard.proto.dockerfile.errors import Problem, located, quoted
from dockyard.proto.dockerfile.instructions import Arg, Dockerfile
from dockyard.proto.dockerfile.words import Rules, expand

PROXIES: Final = ("HTTP_PROXY", "HTTPS_PROXY", "FTP_PROXY", "NO_PROXY", "ALL_PROXY")
PREDEFINED: Final = frozenset({*PROXIES, *(name.lower() for name in PROXIES)})
PLATFORM: Final = (
    "BUILDPLATFORM", "BUILDOS", "BUILDOSVERSION", "BUILDARCH", "BUILDVARIANT",
    "TARGETPLATFORM", "TARGETOS", "TARGETOSVERSION", "TARGETARCH", "TARGETVARIANT", "TARGETSTAGE",
)  # fmt: skip
NOT_ENVIRONMENT: Final = frozenset({"BUILDKIT_SBOM_SCAN_CONTEXT", "BUILDKIT_SBOM_SCAN_STAGE"})
_BUILDER_PREFIX: Final = "BUILDKIT_"
_EPOCH: Final = "SOURCE_DATE_EPOCH"
_MAX_EPOCH: Final = 253_402_300_799  # the end of year 9999, the last that RFC 3339 can write


def given(options: BuildOptions) -> dict[str, str]:
    """Build arguments that have a value."""
    return {key: value for key, value in options.build_args.items() if value is not None}


def platform_args(options: BuildOptions, platform: str, target: str) -> dict[str, str]:
    """The automatic ones, unless the client gives another value."""
    values: dict[str, str] = {}
    for prefix, text in (("BUILD", options.build_platform), ("TARGET", platform)):
        parsed = platforms.parse(text, Platform("amd64", "linux"))
        values[f"{prefix}PLATFORM"] = platforms.show(parsed)
        values[f"{prefix}OS"] = parsed.os
        values[f"{prefix}OSVERSION"] = parsed.os_version
        values[f"{prefix}ARCH"] = parsed.architecture
        values[f"{prefix}VARIANT"] = parsed.variant
    values["TARGETSTAGE"] = target or "default"
    return values | {key: value for key, value in given(options).items() if key in values}


def global_scope(dockerfile: Dockerfile, automatic: Mapping[str, str], build_args: Mapping[str, str]) -> dict[str, str]:
    """What FROM lines may use. DockerfileError for a default value that cannot be resolved."""
    scope = dict(automatic)
    for instruction in dockerfile.global_args:
        try:
            for item in instruction.items:
                if item.key in build_args:
                    scope[item.key] = build_args[item.key]
                elif item.value is not None:
                    scope[item.key] = expand(item.value, scope, Rules(dockerfile.escape)).text
        except Problem as problem:
            raise located(problem, instruction.range, dockerfile.source, dockerfile.name) from None
    return scope


def declared(arguments: Iterable[Arg]) -> set[str]:
    return {item.key for instruction in arguments for item in instruction.items}


def unused(options: BuildOptions, names: set[str]) -> tuple[str, ...]:
    """Build arguments that nothing in the file asks for: probably misspelt."""
    known = names | PREDEFINED | set(PLATFORM) | {_EPOCH}
    return tuple(sorted(key for key in options.build_args if key not in known and not key.startswith(_BUILDER_PREFIX)))


def epoch(options: BuildOptions, scope: Mapping[str, str]) -> int | None:
    """SOURCE_DATE_EPOCH in seconds. InvalidArgument."""
    if options.source_date_epoch is not None:
        value = options.source_date_epoch
    else:
        text = given(options).get(_EPOCH, scope.get(_EPOCH, "")).strip()
        if not text:
            return None
        if not (text.isascii() and text.isdigit() and len(text) <= 12):
            raise InvalidArgument(f"invalid SOURCE_DATE_EPOCH: {quoted(text)}")
        value = int(text)
    if not 0 <= value <= _MAX_EPOCH:
        raise InvalidArgument(f"invalid SOURCE_DATE_EPOCH: {value}")
    return value


def proxies(build_args: Mapping[str, str]) -> tuple[str, ...]:
    """For a process: each in both spellings, as programs look for either."""
    values: dict[str, str] = {}
    for key, value in build_args.items():
        if key in PREDEFINED:
            values[key] = value
            values.setdefault(key.swapcase(), value)
    return tuple(f"{key}={value}" for key, value in sorted(values.items()))


def boolean(build_args: Mapping[str, str], name: str) -> bool:
    """A BUILDKIT_… switch."""
    return build_args.get(name, "").lower() in ("1", "t", "true")
