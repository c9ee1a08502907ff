"""The query and the headers of `POST /build` → `BuildOptions`.

Owns: every parameter of Docker's API for builds and our additions (docs/build.md): their spelling, the API versions
that have them, which values are refused. Does not own: the body, what the options mean (`engine.builds`).
"""

from __future__ import annotations

import base64
import binascii
from typing import Any, TypeVar

import msgspec

from dockyard.edge.routing import Call
from dockyard.model import untrusted
from dockyard.model.build import BuildOptions, NamedContext, TypedSpec
from dockyard.model.container import Ulimit
from dockyard.model.errors import InvalidArgument
from dockyard.proto import buildcontext, buildspec, references

T = TypeVar("T")

SECRETS = "X-Build-Secrets"
_MAX_SECRET = 500 * 1024  # bytes, as BuildKit's
_MAX_TEXT = 100  # characters of a bad value that its complaint repeats
_UPLOAD = "upload:"
_ISOLATIONS = ("", "default")
_ALLOWED = ("network.host", "security.insecure", "device")
_WORDS = {"buildargs": "build args", "cachefrom": "cache-from"}  # Docker's, where they are not the parameter's name
_PLATFORMS = {  # what may stand alone
    "linux", "windows", "amd64", "arm64", "arm", "386", "s390x", "ppc64le", "riscv64", "mips64le", "loong64", "x86_64",
    "aarch64", "armhf", "armel", "i386",
}  # fmt: skip
_SCHEMES = {"docker-image://": "image", "oci-layout://": "oci-layout"}


class _Ulimit(msgspec.Struct, rename="pascal"):
    name: str
    soft: int = 0
    hard: int = 0


def options(call: Call, secret_ids: frozenset[str], ssh_ids: frozenset[str]) -> BuildOptions:
    """What the client asks for. InvalidArgument naming the parameter that cannot be."""
    _refuse_secrets(call)
    if call.text("isolation") not in _ISOLATIONS:
        raise InvalidArgument(f"invalid isolation {_cut(call.text('isolation'))}: there is only default on Linux")
    quota = _positive(call, "cpuquota")
    return BuildOptions(
        dockerfile=call.text("dockerfile") or "Dockerfile",
        target=call.text("target") if call.version >= (1, 29) else "",
        build_args=_json(call, "buildargs", dict[str, str | None], {}),
        labels=_json(call, "labels", dict[str, str], {}),
        annotations=_json(call, "annotations", dict[str, str], {}),
        tags=_tags(call),
        platforms=_platforms(call),
        contexts=_contexts(call),
        pull=call.flag("pull"),
        no_cache=call.flag("nocache"),
        no_cache_filter=tuple(_json(call, "nocachefilter", list[str], [])),
        cache_from=_caches(call, "cachefrom"),
        cache_to=_caches(call, "cacheto"),
        outputs=_outputs(call),
        squash=call.flag("squash"),
        remove=call.flag("rm", True),
        force_remove=call.flag("forcerm"),
        allow=_allow(call),
        attestations=tuple(_attestation(text) for text in _json(call, "attests", list[str], [])),
        secret_ids=secret_ids,
        ssh_ids=ssh_ids,
        check=_is_check(call),
        network_mode=_network(call),
        extra_hosts=tuple(host for text in call.texts("extrahosts") for host in text.split(",") if host),
        shm_size=_positive(call, "shmsize"),
        ulimits=tuple(_ulimits(call)),
        cgroup_parent=call.text("cgroupparent"),
        memory=_positive(call, "memory"),
        memory_swap=call.integer("memswap") or 0,
        cpu_shares=_positive(call, "cpushares"),
        cpu_period=_positive(call, "cpuperiod"),
        cpu_quota=quota,
        cpuset_cpus=call.text("cpusetcpus"),
        cpuset_mems=call.text("cpusetmems"),
        security_opt=tuple(call.texts("securityopt")),
        isolation=call.text("isolation"),
    )


def uploads(call: Call) -> dict[str, str]:
    """Named contexts that were received before: name → the ID that `POST /build/contexts` answered."""
    given = _json(call, "contexts", dict[str, str], {})
    return {name: value[len(_UPLOAD) :] for name, value in given.items() if value.startswith(_UPLOAD)}


def secrets(call: Call) -> dict[str, bytes]:
    """The values of X-Build-Secrets: base64url of `{"id": "base64 of the value"}`. They never reach a message (S50)."""
    header = call.request.headers.get(SECRETS, "")
    if not header:
        return {}
    try:
        document = untrusted.decode(base64.b64decode(_standard(header), validate=True), dict[str, str])
        values = {name: base64.b64decode(_standard(value), validate=True) for name, value in document.items()}
    except (binascii.Error, msgspec.MsgspecError, ValueError):
        raise InvalidArgument(f"{SECRETS}: base64 of a JSON object of base64 values is expected") from None
    for name, value in values.items():
        if not name or len(value) > _MAX_SECRET:
            raise InvalidArgument(
                f"{SECRETS}: secret {_cut(name)}: a name and at most {_MAX_SECRET} bytes are expected"
            )
    return values


def _standard(text: str) -> str:
    """Either alphabet of base64, with or without padding."""
    plain = text.strip().replace("-", "+").replace("_", "/").rstrip("=")
    return plain + "=" * (-len(plain) % 4)


def _refuse_secrets(call: Call) -> None:
    for name in ("secret", "secrets"):
        if call.has(name):
            raise InvalidArgument(f"secrets do not belong into a URL, which is logged: send them as {SECRETS}")


def _cut(text: str) -> str:
    return repr(text[:_MAX_TEXT])


def _json(call: Call, name: str, kind: type[T], default: T) -> T:
    """A parameter that is JSON; absent, "" and null are `default`."""
    text = call.text(name)
    if not text or text == "null":
        return default
    try:
        return untrusted.decode(text, kind)
    except msgspec.MsgspecError as error:
        raise InvalidArgument(f"error reading {_WORDS.get(name, name)}: {error}: {_cut(text)}") from None


def _positive(call: Call, name: str) -> int:
    value = call.integer(name) or 0
    if value < 0:
        raise InvalidArgument(f"invalid value {value} for parameter {name}: it cannot be negative")
    return value


def _tags(call: Call) -> tuple[str, ...]:
    names = []
    for text in call.texts("t"):
        if not text:
            continue
        reference = references.parse(text)
        if reference.digest:
            raise InvalidArgument(f"build tag cannot contain a digest: {_cut(text)}")
        names.append(references.for_image(reference).familiar)
    return tuple(dict.fromkeys(names))


def _platforms(call: Call) -> tuple[str, ...]:
    if call.version < (1, 32):
        return ()
    names = tuple(dict.fromkeys(each.strip() for each in call.text("platform").split(",") if each.strip()))
    for name in names:
        parts = name.lower().split("/")
        if len(parts) == 1 and parts[0] not in _PLATFORMS:
            raise InvalidArgument(f'"{name[:100]}": unknown operating system or architecture: invalid argument')
    return names


def _network(call: Call) -> str:
    mode = call.text("networkmode")
    return "" if mode == "default" else mode


def _ulimits(call: Call) -> list[Ulimit]:
    text = call.text("ulimits")
    if not text or text == "null":
        return []
    try:
        found = untrusted.decode(text, list[_Ulimit])
    except msgspec.MsgspecError:
        raise InvalidArgument(f"error reading ulimit settings: {_cut(text)}") from None
    return [Ulimit(each.name, each.soft, each.hard) for each in found]


def _allow(call: Call) -> frozenset[str]:
    names = frozenset(_json(call, "allow", list[str], []))
    for name in names:
        if name.partition("=")[0] not in _ALLOWED:
            raise InvalidArgument(f"invalid entitlement {_cut(name)}: one of {', '.join(_ALLOWED)} is expected")
    return names


def _is_check(call: Call) -> bool:
    method = call.text("call")
    if method not in ("", "build", "check", "lint"):
        raise InvalidArgument(f"invalid value {_cut(method)} for parameter call: build or check is expected")
    return method in ("check", "lint")


def _caches(call: Call, name: str) -> tuple[TypedSpec, ...]:
    found = [buildspec.cache(text, name) for text in _json(call, name, list[str], [])]
    return tuple(TypedSpec(kind, values) for kind, values in found)


def _attestation(text: str) -> TypedSpec:
    values = buildspec.fields(text, "attests")
    kind = values.pop("type", "")
    if kind not in ("provenance", "sbom"):
        raise InvalidArgument(f"invalid value {_cut(text)} for attests: type=provenance or type=sbom is expected")
    return TypedSpec(kind, values)


def _outputs(call: Call) -> tuple[TypedSpec, ...]:
    if call.version < (1, 40):
        return ()
    found = []
    for document in _json(call, "outputs", list[dict[str, Any]], []):
        given = {str(name).lower(): value for name, value in document.items()}
        kind = str(given.get("type") or "")
        attributes = given.get("attrs") or {}
        if not isinstance(attributes, dict):
            raise InvalidArgument(f"invalid outputs: Attrs of type {_cut(kind)} is not an object")
        values = {str(name): str(value) for name, value in attributes.items()}
        if kind == "moby":  # the engine's own image store, under the name that BuildKit's clients use
            kind = values.pop("type", "image")
        if kind not in buildspec.OUTPUTS:
            raise InvalidArgument(f"invalid outputs: type {_cut(kind)} is none of {', '.join(buildspec.OUTPUTS)}")
        found.append(TypedSpec(kind, values))
    return tuple(found)


def _contexts(call: Call) -> dict[str, NamedContext]:
    return {name: _context(name, value) for name, value in _json(call, "contexts", dict[str, str], {}).items()}


def _context(name: str, value: str) -> NamedContext:
    if not name:
        raise InvalidArgument("invalid contexts: a context has no name")
    if value.startswith(_UPLOAD):
        return NamedContext("directory", value[len(_UPLOAD) :])
    for prefix, kind in _SCHEMES.items():
        if value.startswith(prefix):
            return msgspec.convert({"kind": kind, "value": value[len(prefix) :]}, NamedContext)
    found = buildcontext.parse(value)
    if found.kind in ("git", "http"):
        return msgspec.convert({"kind": found.kind, "value": value}, NamedContext)
    raise InvalidArgument(
        f"invalid contexts: {_cut(name)} is {_cut(value)}: docker-image://NAME, a URL or upload:ID is expected"
    )
