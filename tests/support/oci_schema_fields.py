"""The fields that the OCI runtime specification's schemas describe, by their dotted names.

Owns: `fields`. Lists are written `name[]`, maps of any keys `name.*`; a list or map of plain values is one field.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

DIRECTORY = Path(__file__).parents[1] / "data" / "oci-runtime-schema"


def fields(schema: str) -> set[str]:
    """Of one document: "config", "state" or "features"."""
    documents = {path.name: json.loads(path.read_text()) for path in DIRECTORY.glob("*.json")}
    return _leaves(documents, f"{schema}-schema.json", documents[f"{schema}-schema.json"], "")


def _leaves(documents: dict[str, Any], file: str, node: dict[str, Any], name: str) -> set[str]:
    if "$ref" in node:
        target, _, pointer = node["$ref"].partition("#")
        file = target or file
        if file not in documents:  # another system's
            return {name}
        node = documents[file]
        for part in filter(None, pointer.split("/")):
            node = node[part]
        return _leaves(documents, file, node, name)
    found: set[str] = set()
    for each in (*node.get("allOf", ()), *node.get("anyOf", ())):
        found |= _leaves(documents, file, each, name) - {name}
    for key, each in node.get("properties", {}).items():
        found |= _leaves(documents, file, each, f"{name}.{key}" if name else key)
    for mark, each in (("[]", node.get("items")), (".*", node.get("additionalProperties"))):
        if isinstance(each, dict):
            found |= _leaves(documents, file, each, name + mark) - {name + mark}
    return found or {name}
