"""Are an answer's fields and types those of the Engine API's specification?

Owns: `problems` (wrong types, unknown fields) and `absent` (fields of the specification that an answer lacks).
Does not own: the specification (tests/data, made by tools/make_api_schema.py).
"""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema

DATA = Path(__file__).parent.parent / "data" / "engine-api-v1.50.json"


@cache
def specification() -> dict[str, Any]:
    document: dict[str, Any] = json.loads(DATA.read_text())
    return document


def response_schema(operation: str, status: int = 200) -> dict[str, Any]:
    """The schema of `"GET /containers/json"`, with the definitions it refers to."""
    document = specification()
    return {**document["responses"][operation][str(status)], "definitions": document["definitions"]}


def definition(name: str) -> dict[str, Any]:
    document = specification()
    return {**document["definitions"][name], "definitions": document["definitions"]}


def problems(value: Any, schema: dict[str, Any], unknown: bool = True) -> list[str]:
    """What is wrong with `value`, one line each: `path: what`. `unknown`: fields the schema does not name are wrong."""
    validator = jsonschema.Draft7Validator(schema)
    found = [
        f"{leaf.json_path}: {leaf.message[:300]}" for error in validator.iter_errors(value) for leaf in _leaves(error)
    ]
    return found + (list(_unknown(value, schema, "$")) if unknown else [])


def _leaves(error: jsonschema.ValidationError) -> list[jsonschema.ValidationError]:
    """Of an error in a choice (value or null), the errors of the first branch: those say what is wrong."""
    inner = [cause for cause in error.context or [] if cause.schema_path[0] == 0]
    return [leaf for cause in inner for leaf in _leaves(cause)] or [error]


def _resolve(schema: dict[str, Any]) -> list[dict[str, Any]]:
    """The object or array schemas that `schema` stands for: references followed, allOf and anyOf opened."""
    if "$ref" in schema:
        return _resolve(specification()["definitions"][schema["$ref"].rpartition("/")[2]])
    parts = [part for key in ("allOf", "anyOf") for inner in schema.get(key, []) for part in _resolve(inner)]
    return [schema, *parts]


def _unknown(value: Any, schema: dict[str, Any], path: str) -> Any:
    parts = _resolve(schema)
    if isinstance(value, list):
        for items in [part["items"] for part in parts if "items" in part][:1]:
            for number, item in enumerate(value):
                yield from _unknown(item, items, f"{path}[{number}]")
    if not isinstance(value, dict):
        return
    named = {name: inner for part in parts for name, inner in part.get("properties", {}).items()}
    others = [part["additionalProperties"] for part in parts if isinstance(part.get("additionalProperties"), dict)]
    closed = bool(named) and not any("additionalProperties" in part for part in parts)
    for name, inner in value.items():
        if name in named:
            yield from _unknown(inner, named[name], f"{path}.{name}")
        elif others:
            yield from _unknown(inner, others[0], f"{path}.{name}")
        elif closed:
            yield f"{path}: the specification has no field {name!r}"


def absent(value: dict[str, Any], schema: dict[str, Any]) -> set[str]:
    """Top-level fields that the specification names and `value` lacks."""
    named = {name for part in _resolve(schema) for name in part.get("properties", {})}
    return named - set(value)
