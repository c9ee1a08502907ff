"""Names of images as the client has to understand them.

Owns: splitting `repository[:tag][@digest]` and telling at once what can be no name. Does not own: what names exist.
Grammar: https://pkg.go.dev/github.com/distribution/reference.
"""

from __future__ import annotations

import re

from dockyard.edge.cli.errors import CliError

_HOST = (
    r"(?:(?:[a-zA-Z0-9]|[a-zA-Z0-9][a-zA-Z0-9-]*[a-zA-Z0-9])(?:\.(?:[a-zA-Z0-9]|[a-zA-Z0-9][a-zA-Z0-9-]*[a-zA-Z0-9]))*"
)
_HOST += r"|\[[a-fA-F0-9:]+\])(?::[0-9]+)?"
_PART = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_REFERENCE = re.compile(
    rf"(?P<name>(?:{_HOST}/)?{_PART}(?:/{_PART})*)(?::(?P<tag>\w[\w.-]{{0,127}}))?"
    r"(?:@(?P<digest>[A-Za-z][A-Za-z0-9]*(?:[-_+.][A-Za-z][A-Za-z0-9]*)*:[0-9a-fA-F]{32,}))?\Z",
    re.ASCII,
)
_HEX = re.compile(r"[0-9a-f]{64}\Z")


def split_tag(text: str, prefix: str = "") -> tuple[str, str]:
    """(repository, tag), the tag "" where there is none. CliError naming what is no reference."""
    match = _REFERENCE.match(text)
    if not match or _HEX.match(text):
        raise CliError(_complaint(text, prefix))
    return match["name"], match["tag"] or ""


def check(text: str) -> None:
    """CliError for what can be neither a name nor an ID."""
    if not re.match(r"(sha256:)?[0-9a-f]{64}\Z", text):
        split_tag(text)


def familiar(text: str) -> str:
    """The name with its tag: `busybox` → `busybox:latest`; what has a tag or a digest stays."""
    match = _REFERENCE.match(text)
    return f"{text}:latest" if match and not (match["tag"] or match["digest"]) else text


def _complaint(text: str, prefix: str) -> str:
    reason = "invalid reference format"
    if text != text.lower() and _REFERENCE.match(text.lower()):
        reason += f": repository name ({text.partition('@')[0].rpartition(':')[0] or text}) must be lowercase"
    quoted = f'"{text}" is not a valid repository/tag: '
    return f"{prefix}: {quoted}{reason}" if prefix else f"{quoted}{reason}"
