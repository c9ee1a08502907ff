"""The small languages of a build's flags: `type=registry,ref=x`, `id=token,env=TOKEN`, `default=/run/agent.sock`.

Owns: reading them, for the client's command line and for the values of `POST /build` alike. Does not own: what the
fields mean (`engine.builds`), which contexts there are (`proto.buildcontext`). Pure.
Source: docs.docker.com "docker buildx build". A list of fields is one record of CSV (RFC 4180), as in all of Docker.
"""

from __future__ import annotations

from typing import NamedTuple

from dockyard.model.errors import InvalidArgument

OUTPUTS = ("docker", "image", "local", "oci", "registry", "tar")


class Secret(NamedTuple):
    """Where the client finds a secret: in the file `source` or in the variable `variable`."""

    id: str
    source: str = ""
    variable: str = ""


class Agent(NamedTuple):
    """One SSH agent that RUN steps may use: a socket, or files with keys; neither: the client's own agent."""

    id: str
    paths: tuple[str, ...] = ()


def fields(text: str, flag: str) -> dict[str, str]:
    """`a=b,"c=d,e"` → names in lower case and values. InvalidArgument naming the flag for a field without `=`."""
    found = {}
    for part in _record(text, flag):
        name, equals, value = part.partition("=")
        if not equals:
            raise InvalidArgument(f"invalid value {text!r} for {flag}: {part!r} must be a name=value pair")
        found[name.strip().lower()] = value
    return found


def _record(text: str, flag: str) -> list[str]:
    import csv

    try:
        rows = list(csv.reader([text], strict=True))
    except csv.Error as error:
        raise InvalidArgument(f"invalid value {text!r} for {flag}: {error}") from None
    if len(rows) != 1 or not rows[0]:
        raise InvalidArgument(f"invalid value {text!r} for {flag}: one list of fields is expected")
    return rows[0]


def cache(text: str, flag: str) -> tuple[str, dict[str, str]]:
    """A cache's type and its other fields. A plain image name, as the classic builder knows it, is type=registry."""
    if "=" not in text:
        return "registry", {"ref": text}
    found = fields(text, flag)
    kind = found.pop("type", "")
    if not kind:
        raise InvalidArgument(f"invalid value {text!r} for {flag}: type is missing")
    if kind in ("registry", "image") and not found.get("ref"):
        raise InvalidArgument(f"invalid value {text!r} for {flag}: type={kind} needs ref=NAME")
    return kind, found


def output(text: str) -> tuple[str, dict[str, str]]:
    """`--output`: its type and the other fields. A path alone is a directory to fill, `-` a tar on stdout."""
    if "=" not in text:
        return ("tar", {"dest": "-"}) if text == "-" else ("local", {"dest": text})
    found = fields(text, "--output")
    kind = found.pop("type", "")
    if kind not in OUTPUTS:
        raise InvalidArgument(f"invalid value {text!r} for --output: type must be one of {', '.join(OUTPUTS)}")
    if kind == "registry":
        kind, found = "image", {**found, "push": "true"}
    if kind in ("local", "tar", "oci") and not found.get("dest"):
        if kind == "local":
            raise InvalidArgument(f"invalid value {text!r} for --output: dest is required for a local output")
        found["dest"] = "-"
    return kind, found


def secret(text: str) -> Secret:
    """`--secret`. Without a source it is the variable of that name, if the client has it, else the file."""
    found = fields(text, "--secret")
    unknown = set(found) - {"id", "src", "source", "env", "type"}
    if unknown:
        raise InvalidArgument(f"invalid value {text!r} for --secret: unexpected key {sorted(unknown)[0]!r}")
    identifier = found.get("id", "")
    if not identifier:
        raise InvalidArgument(f"invalid value {text!r} for --secret: id is missing")
    source, variable = found.get("src") or found.get("source", ""), found.get("env", "")
    kind = found.get("type", "")
    if kind not in ("", "file", "env"):
        raise InvalidArgument(f"invalid value {text!r} for --secret: unsupported type {kind!r}")
    if kind == "env" and not variable:
        source, variable = "", source or identifier
    return Secret(identifier, source, variable)


def agent(text: str) -> Agent:
    """`--ssh`: `default`, `id=socket` or `id=key,key`."""
    identifier, equals, paths = text.partition("=")
    if not identifier or (equals and not paths):
        raise InvalidArgument(f"invalid value {text!r} for --ssh: default or id=socket|key[,key] is expected")
    return Agent(identifier, tuple(paths.split(",")) if equals else ())


def named_context(text: str) -> tuple[str, str]:
    """`--build-context name=value`."""
    name, equals, value = text.partition("=")
    if not equals or not name or not value:
        raise InvalidArgument(f"invalid value {text!r} for --build-context: name=path-or-URL is expected")
    return name.lower(), value


def pair(text: str, flag: str) -> tuple[str, str | None]:
    """`KEY=VALUE`; None for a key alone (its value comes from the environment)."""
    key, equals, value = text.partition("=")
    if not key:
        raise InvalidArgument(f"invalid value {text!r} for {flag}: the name is missing")
    return key, value if equals else None
