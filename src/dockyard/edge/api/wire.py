"""Docker's JSON spelling of our values, both ways.

Owns: the table of names (`docker_name`), wire structs derived from the snake_case structs of `model` (and of this
package), reading a body as Go's encoding/json would (field names without regard to case, unknown fields ignored, null
leaves a field alone, the last of duplicate keys wins, half a surrogate pair is a replacement character), writing a
value. Does not own: what a body means.

A struct that is renamed already (`class Body(Struct, rename=docker_name)`) is its own wire struct; a snake_case one
gets a twin: `wire_type(HostConfig)` has the same attributes under Docker's names. `decode` gives back the snake_case
type, `outgoing` turns it into the twin for encoding.
"""

from __future__ import annotations

import functools
import json
import operator
import re
import types
import typing
from collections.abc import Hashable
from functools import cache
from typing import Annotated, Any, Final, TypeVar, cast

import msgspec
from msgspec import NODEFAULT, UNSET, Struct, structs

from dockyard.model import container
from dockyard.model.errors import InvalidArgument

T = TypeVar("T")

# Words and whole names that Docker does not write in plain PascalCase.
_WHOLE = {
    "id": "Id",
    "ipam": "IPAM",
    "io_maximum_iops": "IOMaximumIOps",
    "container_id_file": "ContainerIDFile",
    "dns_names": "DNSNames",
    "exec_ids": "ExecIDs",
    "host_ip": "HostIp",
    "ip": "IP",
    "link_local_ips": "LinkLocalIPs",
    "min_api_version": "MinAPIVersion",
    "os": "Os",
    "uts_mode": "UTSMode",
}
_WORDS = {
    "id": "ID",
    "ids": "IDs",
    "io": "IO",
    "iops": "IOps",
    "ip": "IP",
    "ipam": "IPAM",
    "ipv4": "IPv4",
    "ipv6": "IPv6",
    "tcp": "TCP",
}
# Fields that Docker leaves out when they are empty (`omitempty`), of structs that otherwise show everything.
_OMIT_EMPTY: dict[type[Struct], tuple[str, ...]] = {
    container.ContainerConfig: (
        "exposed_ports", "healthcheck", "args_escaped", "network_disabled", "mac_address", "stop_signal",
        "stop_timeout", "shell",
    ),
    container.HostConfig: (
        "annotations", "init", "storage_opt", "tmpfs", "sysctls", "runtime", "mounts", "kernel_memory_tcp",
        "maximum_runtime",
    ),
}  # fmt: skip
# Structs of which Docker leaves out every empty field, wherever they stand.
_OMIT_DEFAULTS = frozenset({container.EndpointIPAMConfig})
# Fields that take one string for a list of one (Go's strslice).
_ONE_OR_MANY = frozenset({"Cmd", "Entrypoint", "Shell"})
_INT64 = Annotated[int, msgspec.Meta(ge=-(1 << 63), le=(1 << 63) - 1)]  # what Go's fields hold
_LONE_SURROGATE = re.compile("[\ud800-\udfff]")
_TOO_DEEP = "invalid JSON: exceeded max depth"
_AT = re.compile(r"(?P<problem>.*?)(?: - at `(?P<path>(?:key in )?\$.*)`)?\Z", re.DOTALL)
_JSON_KINDS = {"str": "string", "int": "integer", "bool": "boolean", "float": "number", "array": "array"}


def docker_name(name: str) -> str:
    """Docker's spelling of a field's name: `ipc_mode` -> `IpcMode`, `ip_address` -> `IPAddress`."""
    whole = _WHOLE.get(name)
    if whole is not None:
        return whole
    return "".join(_WORDS.get(word) or word[:1].upper() + word[1:] for word in name.split("_"))


@cache
def wire_type(model: type[Struct]) -> type[Struct]:
    """The struct with Docker's names for a snake_case struct; a struct renamed already is returned as it is."""
    if model.__struct_fields__ != model.__struct_encode_fields__:
        return model
    return _twin(model, strict=False)


@cache
def _twin(model: type[Struct], strict: bool) -> type[Struct]:
    fields: list[tuple[str, Any, Any]] = []
    hints = typing.get_type_hints(model)
    for field in structs.fields(model):
        if field.default_factory is not NODEFAULT:
            default = msgspec.field(default_factory=_wire_factory(field.default_factory, strict))
        elif field.default is not NODEFAULT:
            default = msgspec.field(default=field.default)
        else:
            fields.append((field.name, _wire_annotation(hints[field.name], strict), msgspec.field()))
            continue
        fields.append((field.name, _wire_annotation(hints[field.name], strict), default))
    return msgspec.defstruct(
        model.__name__,
        fields,
        rename=docker_name,
        omit_defaults=model.__struct_config__.omit_defaults or model in _OMIT_DEFAULTS,
        forbid_unknown_fields=strict,
        kw_only=True,
    )


def _wire_factory(factory: Any, strict: bool) -> Any:
    return _twin(factory, strict) if _is_plain_struct(factory) else factory


def _is_plain_struct(hint: Any) -> bool:
    if not (isinstance(hint, type) and issubclass(hint, Struct)):
        return False
    return hint.__struct_fields__ == hint.__struct_encode_fields__


def _wire_annotation(hint: Any, strict: bool) -> Any:
    """The same annotation with every snake_case struct in it replaced by its twin."""
    if _is_plain_struct(hint):
        return _twin(hint, strict)
    if hint is int:
        return _INT64
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if not arguments or origin in (typing.Literal, typing.Annotated):
        return hint
    replaced = tuple(_wire_annotation(argument, strict) for argument in arguments)
    if origin is types.UnionType or origin is typing.Union:
        return functools.reduce(operator.or_, replaced)
    return origin[replaced] if len(replaced) > 1 else origin[replaced[0]]


# --- reading ---------------------------------------------------------------------------------------------------------


@cache
def _decoder(target: Any, strict: bool) -> msgspec.json.Decoder[Any]:
    return msgspec.json.Decoder(_wire_annotation(target, strict))


def decode(data: bytes, target: type[T]) -> T:
    """Read a JSON body. InvalidArgument in Docker's words; one of a wrong type names the field.

    The common case costs one pass of msgspec; names in another case, unknown fields, nulls and single strings for
    lists make it fail, and only then is the body read again and straightened out.
    """
    try:
        value = _decoder(cast(Hashable, target), True).decode(data)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        value = _decode_leniently(data, target)
    if _is_plain_struct(target):
        return msgspec.convert(value, target, from_attributes=True)
    return cast(T, value)


def fields(data: bytes) -> dict[str, Any]:
    """What stands in a body of an object, as it was sent but for the case of the names, which are lower.

    For who has to know which fields a client gave; `decode` has said before that the body is all right.
    """
    document = _parsed(data)
    pairs = document if isinstance(document, _Pairs) else ()
    return {key.lower(): dict(value) if isinstance(value, _Pairs) else value for key, value in pairs}


def _parsed(data: bytes) -> Any:
    try:
        text = data.decode("utf-8", "replace")
        return json.loads(text, object_pairs_hook=_Pairs, parse_constant=_refuse_constant)
    except json.JSONDecodeError as error:
        raise InvalidArgument(_syntax_problem(error, data)) from None
    except RecursionError:
        raise InvalidArgument(_TOO_DEEP) from None
    except ValueError:
        raise InvalidArgument("invalid JSON: the body is not JSON") from None


def _decode_leniently(data: bytes, target: Any) -> Any:
    annotation = _wire_annotation(target, False)
    document = _parsed(data)
    if document is None and _is_plain_struct(target):
        document = _Pairs()
    try:
        return msgspec.convert(_straighten(document, annotation), annotation)
    except msgspec.ValidationError as error:
        raise InvalidArgument(_type_problem(str(error))) from None
    except RecursionError:
        raise InvalidArgument(_TOO_DEEP) from None


class _Pairs(list[tuple[str, Any]]):
    """A JSON object as read: every pair, in order, duplicates included."""


def _refuse_constant(name: str) -> Any:
    raise ValueError(name)


# What Python misses, as Go's decoder says it.
_WANTED: Final = {
    "Expecting property name": "looking for beginning of object key string",
    "Expecting ':'": "after object key",
    "Expecting value": "looking for beginning of value",
}


def _syntax_problem(error: json.JSONDecodeError, data: bytes) -> str:
    if not data.strip():
        return "invalid JSON: got EOF while reading request body"
    if error.msg == "Extra data":
        return "unexpected content after JSON"
    if error.pos >= len(error.doc):
        return "invalid JSON: unexpected EOF"
    found = f"invalid JSON: invalid character {error.doc[error.pos]!r}"
    wanted = next((text for beginning, text in _WANTED.items() if error.msg.startswith(beginning)), "")
    return f"{found} {wanted}" if wanted else f"{found} at offset {error.pos}"


def _type_problem(text: str) -> str:
    match = _AT.match(text)
    problem, path = (match["problem"], match["path"]) if match else (text, None)
    problem = problem.replace("`", "").replace(" | null", "")
    problem = re.sub(r"\b(str|int|bool|float)\b", lambda m: _JSON_KINDS[m[1]], problem)
    where = (path or "").replace("key in ", "").removeprefix("$").removeprefix(".")
    problem = problem[:1].lower() + problem[1:]
    return f"invalid JSON: field {where}: {problem}" if where else f"invalid JSON: {problem}"


def _straighten(value: Any, annotation: Any) -> Any:
    """The document in the shape that `annotation` wants: names respelled, nulls dropped, objects as dicts."""
    if isinstance(value, _Pairs):
        struct = _pick(annotation, lambda hint: isinstance(hint, type) and issubclass(hint, Struct))
        return _straighten_mapping(value, annotation) if struct is None else _straighten_struct(value, struct)
    if isinstance(value, list):
        sequence = _pick(annotation, lambda hint: typing.get_origin(hint) is list)
        item = typing.get_args(sequence)[0] if sequence is not None else Any
        return [_straighten(element, item) for element in value]
    return _whole(value) if isinstance(value, str) else value


def _whole(text: str) -> str:
    """Text that can be written again: JSON can name one half of a surrogate pair, UTF-8 cannot."""
    return text if text.isascii() else _LONE_SURROGATE.sub("\ufffd", text)


def _pick(annotation: Any, wanted: typing.Callable[[Any], bool]) -> Any:
    """The member of a union (or the annotation itself) that satisfies `wanted`."""
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        return next((member for member in typing.get_args(annotation) if wanted(member)), None)
    return annotation if wanted(annotation) else None


def _straighten_mapping(pairs: _Pairs, annotation: Any) -> dict[str, Any]:
    mapping = _pick(annotation, lambda hint: typing.get_origin(hint) is dict)
    item = typing.get_args(mapping)[1] if mapping is not None else Any
    return {_whole(key): _straighten(element, item) for key, element in pairs}


def _straighten_struct(pairs: _Pairs, struct: type[Struct]) -> dict[str, Any]:
    hints = _wire_fields(struct)
    by_folded_name = {name.lower(): name for name in hints}
    out: dict[str, Any] = {}
    for key, element in pairs:
        name = key if key in hints else by_folded_name.get(key.lower())
        if name is None or element is None:
            continue
        if name in _ONE_OR_MANY and isinstance(element, str):
            element = [element]
        out[name] = _straighten(element, hints[name])
    return out


@cache
def _wire_fields(struct: type[Struct]) -> dict[str, Any]:
    return {field.encode_name: field.type for field in structs.fields(struct)}


def narrow(value: Struct, target: type[T]) -> T:
    """The part of a request that is a struct of its own: a `CreateRequest` as a `ContainerConfig`."""
    return msgspec.convert(value, target, from_attributes=True)


# --- writing ---------------------------------------------------------------------------------------------------------


def outgoing(value: Struct) -> Struct:
    """The twin of a snake_case struct under Docker's names, ready for `encode`."""
    twin = msgspec.convert(value, wire_type(type(value)), from_attributes=True)
    return _omit_empty(twin, type(value))


def _omit_empty(twin: Struct, model: type[Struct]) -> Struct:
    for name in _OMIT_EMPTY.get(model, ()):
        if not getattr(twin, name) and not (name in ("stop_timeout", "init") and getattr(twin, name) is not None):
            setattr(twin, name, UNSET)
    return twin


def _encode_unknown(value: Any) -> Any:
    raise TypeError(f"{type(value).__name__} has no JSON form")


def encode(value: Any) -> bytes:
    """JSON of wire structs, dicts, lists and plain values. Snake_case structs must go through `outgoing` first."""
    return msgspec.json.encode(value, enc_hook=_encode_unknown)
