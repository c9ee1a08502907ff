"""The flags of `dockyard build` → the query and the headers of `POST /build`.

Owns: that translation, what the environment and config.json add (build arguments without a value, proxies,
SOURCE_DATE_EPOCH), reading secrets. Does not own: the flags' table (`commands.build`), the context (`source`).
"""

from __future__ import annotations

import os
from binascii import b2a_base64

from dockyard.edge.cli.call import Call
from dockyard.edge.cli.errors import CliError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from dockyard.edge.cli.credentials import Credentials
    from dockyard.proto.buildspec import Secret

SECRETS = "X-Build-Secrets"
_MAX_SECRET = 500 * 1024  # bytes, as in BuildKit
_EPOCH = "SOURCE_DATE_EPOCH"
_PLAIN = {  # flag → parameter that every Docker engine knows
    "cgroup-parent": "cgroupparent",
    "cpu-period": "cpuperiod",
    "cpu-quota": "cpuquota",
    "cpu-shares": "cpushares",
    "cpuset-cpus": "cpusetcpus",
    "cpuset-mems": "cpusetmems",
    "isolation": "isolation",
    "memory": "memory",
    "memory-swap": "memswap",
    "network": "networkmode",
    "shm-size": "shmsize",
    "target": "target",
}


def query(call: Call, ours: bool) -> dict[str, Any]:
    """What every engine understands; `ours`: what only Dockyard's `POST /build` has is added, else it is refused.
    Directories of `--cache-from` are sent now (`cachedirectory.send`)."""
    environment = dict(os.environ)
    found: dict[str, Any] = {parameter: call.get(name) or None for name, parameter in _PLAIN.items()}
    found |= {
        "t": call.texts("tag") or None,
        "rm": "1" if call.get("rm") else "0",
        "forcerm": call.on("force-rm"),
        "nocache": call.on("no-cache"),
        "pull": call.on("pull"),
        "squash": call.on("squash"),
        "buildargs": arguments(call, environment) or None,
        "labels": pairs(call, "label") or None,
        "extrahosts": [_host(each) for each in call.texts("add-host")] or None,
        "securityopt": call.texts("security-opt") or None,
        "ulimits": _json(call.get("ulimit")),
        "cachefrom": _json(_cache_from(call, ours)),
        "platform": ",".join(_words(call, "platform")) or None,
    }
    extra = _additions(call)
    if ours:
        return {**found, **extra, "version": "2"}
    if extra:
        raise CliError(f"the daemon is no Dockyard: it has no {', '.join(sorted(extra))} for a build")
    return {**found, "q": call.on("quiet")}


def _cache_from(call: Call, ours: bool) -> list[str]:
    words = _words(call, "cache-from")
    if not ours or not any("type=local" in word for word in words):
        return words
    from dockyard.edge.cli.building import cachedirectory

    unused = call.on("no-cache") or call.on("check") or call.text("call") == "check"
    return cachedirectory.send(call, words, unused=unused)


def _additions(call: Call) -> dict[str, Any]:
    """Parameters of our own, only those that say something."""
    provenance, sbom = call.text("provenance"), call.text("sbom")
    attests = [*call.texts("attest"), *_attests("provenance", provenance), *_attests("sbom", sbom)]
    found = {
        "nocachefilter": _words(call, "no-cache-filter"),
        "cacheto": call.texts("cache-to"),
        "allow": _words(call, "allow"),
        "attests": attests,
        "annotations": pairs(call, "annotation"),
        "call": call.text("call") if call.text("call") not in ("", "build") else "",
    }
    return {name: value if isinstance(value, str) else _json(value) for name, value in found.items() if value}


def _attests(kind: str, text: str) -> list[str]:
    """`--provenance=mode=max`, `--sbom=true` as `--attest`."""
    if not text or text.lower() == "false":
        return []
    return [f"type={kind}" if text.lower() == "true" else f"type={kind},{text}"]


def _json(value: Any) -> str | None:
    import json

    return json.dumps(value) if value else None


def _words(call: Call, key: str) -> list[str]:
    """A repeated flag; names may also stand in one, separated by commas (a list of fields stays whole)."""
    return [word for text in call.texts(key) for word in ([text] if "=" in text else text.split(",")) if word]


def _host(text: str) -> str:
    """`name=address` is a newer spelling of `name:address`; brackets around an IPv6 address go."""
    name, equals, address = text.partition("=")
    if not equals:
        name, _, address = text.partition(":")
    return f"{name}:{address.removeprefix('[').removesuffix(']')}"


def pairs(call: Call, key: str) -> dict[str, str]:
    return {name: value or "" for name, value in (_pair(text, key) for text in call.texts(key))}


def _pair(text: str, key: str) -> tuple[str, str | None]:
    from dockyard.proto.buildspec import pair

    return pair(text, f"--{key}")


def _credentials(call: Call) -> Credentials:
    from dockyard.edge.cli.credentials import Credentials, folder

    return Credentials(folder(call.options, os.environ), os.environ)


def arguments(call: Call, environment: dict[str, str]) -> dict[str, str]:
    """Build arguments. One without a value takes the environment's, or is not given at all."""
    found: dict[str, str] = _credentials(call).proxies(call.api.host.text)
    if _EPOCH in environment:
        found[_EPOCH] = environment[_EPOCH]
    for text in call.texts("build-arg"):
        name, value = _pair(text, "build-arg")
        if value is None:
            value = environment.get(name)
        if value is not None:
            found[name] = value
    return found


def headers(call: Call, ours: bool) -> dict[str, str]:
    """Credentials of every registry that the client knows, and the secrets: neither ever stands in a URL."""
    found = {"Content-Type": "application/x-tar", "X-Registry-Config": _encoded(_credentials(call).everything())}
    secrets = _secrets(call) if call.texts("secret") else {}
    if secrets and not ours:
        raise CliError("the daemon is no Dockyard: it takes no secrets for a build")
    if secrets:
        found[SECRETS] = _encoded({name: b2a_base64(value, newline=False).decode() for name, value in secrets.items()})
    return found


def _secrets(call: Call) -> dict[str, bytes]:
    from dockyard.proto.buildspec import secret

    return {each.id: _secret(each) for each in map(secret, call.texts("secret"))}


def _secret(secret: Secret) -> bytes:
    variable = secret.variable or (secret.id if not secret.source and secret.id in os.environ else "")
    if variable:
        if variable not in os.environ:
            raise CliError(f"secret {secret.id}: the variable {variable} is not set")
        value = os.fsencode(os.environ[variable])
    else:
        path = secret.source or secret.id
        try:
            with open(os.path.expanduser(path), "rb") as file:
                value = file.read(_MAX_SECRET + 1)
        except OSError as error:
            raise CliError(f"secret {secret.id}: open {path}: {(error.strerror or str(error)).lower()}") from None
    if len(value) > _MAX_SECRET:
        raise CliError(f"secret {secret.id} is larger than {_MAX_SECRET} bytes")
    return value


def _encoded(value: Any) -> str:
    import json

    text = b2a_base64(json.dumps(value).encode(), newline=False).decode()
    return text.replace("+", "-").replace("/", "_")
