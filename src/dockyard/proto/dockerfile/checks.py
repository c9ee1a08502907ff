"""The build checks: which rules there are, which of them are on, what they have found.

Owns: names, descriptions and texts of the rules, `# check=…` of the file and above an instruction, the error that
`error=true` asks for. Does not own: finding violations (`lint`, `evaluate`).

Source: Docker's build checks reference.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple

from dockyard.proto.dockerfile.errors import Problem, located, quoted, suggest
from dockyard.proto.dockerfile.instructions import Dockerfile, Instruction, Range, Warning
from dockyard.proto.dockerfile.scope import boolean

RULES: Final = {
    "StageNameCasing": "Stage names should be lowercase",
    "FromAsCasing": "The 'as' keyword should match the case of the 'from' keyword",
    "NoEmptyContinuation": "Empty continuation lines will become errors in a future release",
    "ConsistentInstructionCasing": (
        "All commands within the Dockerfile should use the same casing (either upper or lower)"
    ),
    "DuplicateStageName": "Stage names should be unique",
    "ReservedStageName": "Reserved words should not be used as stage names",
    "JSONArgsRecommended": (
        "JSON arguments recommended for ENTRYPOINT/CMD to prevent unintended behavior related to OS signals"
    ),
    "MaintainerDeprecated": "The MAINTAINER instruction is deprecated, use a label instead to define an image author",
    "UndefinedArgInFrom": "FROM command must use declared ARGs",
    "WorkdirRelativePath": (
        "Relative workdir without an absolute workdir declared within the build can have unexpected results if the "
        "base image changes"
    ),
    "UndefinedVar": "Variables should be defined before their use",
    "MultipleInstructionsDisallowed": "Multiple instructions of the same type should not be used in the same stage",
    "LegacyKeyValueFormat": "Legacy key/value format with whitespace separator should not be used",
    "InvalidBaseImagePlatform": "Base image platform does not match expected target platform",
    "RedundantTargetPlatform": (
        "Setting platform to predefined $TARGETPLATFORM in FROM is redundant as this is the default behavior"
    ),
    "SecretsUsedInArgOrEnv": "Sensitive data should not be used in the ARG or ENV commands",
    "InvalidDefaultArgInFrom": "Default value for global ARG results in an empty or invalid base image name",
    "FromPlatformFlagConstDisallowed": "FROM --platform flag should not use a constant value",
    "CopyIgnoredFile": "Attempting to Copy file that is excluded by .dockerignore",
    "InvalidDefinitionDescription": (
        "Comment for build stage or argument should follow the format: `# <arg/stage name> <description>`. If this is "
        "not intended to be a description comment, add an empty line or comment between the instruction and the "
        "comment."
    ),
    "ExposeProtoCasing": "Protocol in EXPOSE instruction should be lowercase",
    "ExposeInvalidFormat": (
        "IP address and host-port mapping should not be used in EXPOSE instruction. This will become an error in a "
        "future release"
    ),
}
EXPERIMENTAL: Final = frozenset({"InvalidDefinitionDescription"})
_ALL: Final = "all"
_COMMENT: Final = re.compile(r"check\s*=\s*(\S+)", re.IGNORECASE)


def url(rule: str) -> str:
    """Docker's page about a rule."""
    words = re.sub(r"(?<=[a-z])(?=[A-Z])|(?<=JSON)(?=[A-Z])", "-", rule).lower()
    return f"https://docs.docker.com/go/dockerfile/rule/{words}/" if rule != "InvalidBaseImagePlatform" else ""


class Settings(NamedTuple):
    skip: frozenset[str] = frozenset()
    experimental: frozenset[str] = frozenset()
    error: bool = False

    def wants(self, rule: str) -> bool:
        if rule in EXPERIMENTAL:
            return bool({rule, _ALL} & self.experimental)
        return not {rule, _ALL} & self.skip

    def merged(self, other: Settings) -> Settings:
        return Settings(self.skip | other.skip, self.experimental | other.experimental, self.error)


def parse_settings(text: str) -> Settings:
    """`skip=A,B;experimental=all;error=true`. Problem."""
    settings = Settings()
    for part in filter(None, (part.strip() for part in text.split(";"))):
        key, equals, value = (piece.strip() for piece in part.partition("="))
        if not equals or key not in ("skip", "experimental", "error"):
            hint = suggest(key, ("skip", "experimental", "error"))
            raise Problem(f"invalid check option {quoted(key)}{hint}", at=part)
        if key == "error":
            if value.lower() not in ("true", "false", "1", "0", "t", "f"):
                raise Problem(f"failed to parse check option {quoted(part)}: error is true or false", at=part)
            settings = settings._replace(error=boolean({"error": value}, "error"))
        else:
            rules = frozenset(rule.strip() for rule in value.split(","))
            settings = settings._replace(skip=rules) if key == "skip" else settings._replace(experimental=rules)
    return settings


def settings_of(dockerfile: Dockerfile, build_args: dict[str, str]) -> Settings:
    """The file's `# check=…`, or BUILDKIT_DOCKERFILE_CHECK in its place. DockerfileError."""
    line, text = 1, build_args.get("BUILDKIT_DOCKERFILE_CHECK", "")
    if not text:
        for directive in dockerfile.directives:
            if directive.name == "check":
                line, text = directive.line, directive.value
    try:
        return parse_settings(text)
    except Problem as problem:
        raise located(problem, Range(line, line), dockerfile.source, dockerfile.name) from None


def _local(comments: Sequence[str]) -> Settings | None:
    """The settings that a comment above an instruction makes for it alone."""
    for comment in comments:
        match = _COMMENT.match(comment)
        if match:
            try:
                return parse_settings(match[1])
            except Problem:
                return None
    return None


class Checks:
    """Collects findings, each once."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._found: dict[tuple[str, str, Range], Warning] = {}

    def report(self, rule: str, text: str, instruction: Instruction, where: Range | None = None) -> None:
        """`where`: another instruction's range, if that is the one to blame."""
        local = _local(instruction.comments)
        settings = self.settings.merged(local) if local else self.settings
        if settings.wants(rule):
            where = where or instruction.range
            self._found.setdefault((rule, text, where), Warning(rule, text, where))

    @property
    def found(self) -> tuple[Warning, ...]:
        """In the order of the file."""
        return tuple(sorted(self._found.values(), key=lambda one: (one.range.first, one.range.column)))


def enforce(warnings: Iterable[Warning], dockerfile: Dockerfile, build_args: dict[str, str]) -> None:
    """DockerfileError if there is a finding and the file says `error=true`."""
    found = list(warnings)
    if found and settings_of(dockerfile, build_args).error:
        rules = ", ".join(sorted({warning.rule for warning in found}))
        problem = Problem(f"lint violation found for rules: {rules}")
        raise located(problem, found[0].range, dockerfile.source, dockerfile.name)
