"""Names of images: Docker's grammar, its defaults and its complaints.

Owns: `Reference`, parsing what users type ("busybox", "localhost:5000/a/b:1@sha256:…"), short names for showing.
Does not own: which image a name stands for (`engine.images`). Pure.

Grammar: distribution/reference's documentation. `domain` and `path` are complete: "docker.io", "library/busybox".
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple

from dockyard.model.errors import InvalidArgument

DEFAULT_DOMAIN: Final = "docker.io"
_LEGACY_DOMAIN: Final = "index.docker.io"
_OFFICIAL: Final = "library/"
DEFAULT_TAG: Final = "latest"
_MAX_NAME: Final = 255

_HEX64 = re.compile(r"[0-9a-f]{64}\Z")
_LABEL = r"(?:[a-zA-Z0-9]|[a-zA-Z0-9][a-zA-Z0-9-]*[a-zA-Z0-9])"
_DOMAIN = rf"(?:{_LABEL}(?:\.{_LABEL})*|\[[a-fA-F0-9:]+\])(?::[0-9]+)?"
_COMPONENT = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_TAG = r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}"
_REFERENCE = re.compile(
    rf"(?P<name>(?:{_DOMAIN}/)?{_COMPONENT}(?:/{_COMPONENT})*)(?::(?P<tag>{_TAG}))?"
    rf"(?:@(?P<digest>[A-Za-z][A-Za-z0-9]*(?:[-_+.][A-Za-z][A-Za-z0-9]*)*:[0-9a-fA-F]{{32,}}))?\Z"
)
_TAG_ONLY = re.compile(rf"{_TAG}\Z")
_SHA256 = re.compile(r"sha256:[0-9a-f]{64}\Z")


class Reference(NamedTuple):
    """A parsed name. `tag` and `digest` are "" when not given."""

    domain: str
    path: str
    tag: str = ""
    digest: str = ""

    @property
    def repository(self) -> str:
        """The complete name without tag and digest: "docker.io/library/busybox"."""
        return f"{self.domain}/{self.path}"

    @property
    def familiar_repository(self) -> str:
        """The name as users type it: "busybox", "user/app", "localhost:5000/app"."""
        if self.domain != DEFAULT_DOMAIN:
            return self.repository
        short = self.path.removeprefix(_OFFICIAL)
        return self.path if "/" in short else short

    @property
    def complete(self) -> str:
        """The key under which the store keeps it."""
        return self.repository + self._suffix

    @property
    def familiar(self) -> str:
        return self.familiar_repository + self._suffix

    @property
    def _suffix(self) -> str:
        return (f":{self.tag}" if self.tag else "") + (f"@{self.digest}" if self.digest else "")

    def with_default_tag(self) -> Reference:
        """With ":latest" where neither tag nor digest is given."""
        return self if self.tag or self.digest else self._replace(tag=DEFAULT_TAG)


def parse(text: str) -> Reference:
    """What a user typed. InvalidArgument in Docker's words if it is no name."""
    if _HEX64.match(text):
        raise InvalidArgument(f"invalid repository name ({text}), cannot specify 64-byte hexadecimal strings")
    domain, remainder = _split_domain(text)
    repository = remainder.partition(":")[0].partition("@")[0]
    if repository != repository.lower():
        raise InvalidArgument(f"invalid reference format: repository name ({repository}) must be lowercase")
    match = _REFERENCE.match(f"{domain}/{remainder}")
    if not match:
        raise InvalidArgument("invalid reference format")
    name, tag, digest = match["name"], match["tag"] or "", match["digest"] or ""
    if len(name) - len(domain) - 1 > _MAX_NAME:
        raise InvalidArgument(f"repository name must not be more than {_MAX_NAME} characters")
    if digest and not _SHA256.match(digest):
        raise InvalidArgument("invalid reference format" if ":" in digest else "unsupported digest algorithm")
    return Reference(domain, name[len(domain) + 1 :], tag, digest)


def for_image(reference: Reference) -> Reference:
    """A name that an image is to get, with its tag. InvalidArgument for one that would read as an image's id."""
    if reference.familiar_repository == "sha256":
        raise InvalidArgument("refusing to create an ambiguous tag using digest algorithm as name")
    return reference.with_default_tag()


def check_tag(tag: str) -> str:
    """A tag by itself. InvalidArgument if it is none."""
    if not _TAG_ONLY.match(tag):
        raise InvalidArgument("invalid tag format" if tag else "invalid reference format")
    return tag


def is_tag(text: str) -> bool:
    return _TAG_ONLY.match(text) is not None


def from_complete(text: str) -> Reference:
    """A name as the store keeps it (`Reference.complete`)."""
    name, _, digest = text.partition("@")
    domain, _, rest = name.partition("/")
    path, _, tag = rest.partition(":")
    return Reference(domain, path, tag, digest)


def _split_domain(text: str) -> tuple[str, str]:
    first, slash, rest = text.partition("/")
    is_domain = "." in first or ":" in first or first == "localhost" or first != first.lower()
    domain, remainder = (first, rest) if slash and is_domain else (DEFAULT_DOMAIN, text)
    if domain == _LEGACY_DOMAIN:
        domain = DEFAULT_DOMAIN
    if domain == DEFAULT_DOMAIN and "/" not in remainder:
        remainder = _OFFICIAL + remainder
    return domain, remainder
