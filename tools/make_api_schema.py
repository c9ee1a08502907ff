"""Makes tests/data/engine-api-vX.json out of the Engine API's swagger file: `make_api_schema.py YAML JSON`.

The swagger file is part of moby (Apache-2.0, https://github.com/moby/moby, api/swagger.yaml); what is kept of it is the
shapes alone: definitions and response schemas, without descriptions and examples, as JSON Schema.

Swagger 2.0 cannot say null; `x-nullable` can. Go encodes a nil slice, map or pointer as null, whatever the file says,
so those three may be null here too.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import yaml

KEPT = ("type", "properties", "items", "required", "enum", "additionalProperties", "allOf", "$ref")


def shape(node: dict[str, Any], nullable: bool = False) -> dict[str, Any]:
    """A swagger schema as JSON Schema."""
    kept: dict[str, Any] = {key: node[key] for key in KEPT if key in node}
    if "$ref" in kept:
        reference = {"$ref": kept["$ref"]}
        return {"anyOf": [reference, {"type": "null"}]} if nullable else reference
    if "properties" in kept:
        kept["properties"] = {name: shape(value, True) for name, value in kept["properties"].items()}
        kept.setdefault("type", "object")
    if isinstance(kept.get("additionalProperties"), dict):
        kept["additionalProperties"] = shape(kept["additionalProperties"], True)
    if "items" in kept:
        kept["items"] = shape(kept["items"])
    if "allOf" in kept:
        kept["allOf"] = [shape(part) for part in kept["allOf"]]
    if node.get("x-nullable") or kept.get("type") in ("array", "object"):
        if "enum" in kept:
            kept["enum"] = [*kept["enum"], None]
        kept["type"] = [kept.get("type", "object"), "null"]
    return kept


def compact(document: dict[str, Any]) -> dict[str, Any]:
    """{"version", "definitions": {name: schema}, "responses": {"GET /path": {"200": schema}}}."""
    responses: dict[str, dict[str, Any]] = {}
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            found = {
                str(status): shape(answer["schema"])
                for status, answer in operation.get("responses", {}).items()
                if "schema" in answer
            }
            responses[f"{method.upper()} {path}"] = found
    definitions = {name: shape(node) for name, node in document["definitions"].items()}
    return {"version": document["info"]["version"], "definitions": definitions, "responses": responses}


def main() -> None:
    source, target = map(Path, sys.argv[1:3])
    document = compact(yaml.safe_load(source.read_text()))
    target.write_text(json.dumps(document, separators=(",", ":"), sort_keys=True) + "\n")
    print(f"{target}: {target.stat().st_size} bytes, {len(document['definitions'])} definitions")


if __name__ == "__main__":
    main()
