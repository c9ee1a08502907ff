"""The OCI runtime specification's JSON schemas (tests/data/oci-runtime-schema), for documents of ours.

Owns: `check_config`, `check_state`, `check_features`. The files of other systems (Solaris, Windows, …) are not kept:
they count as schemas that allow nothing, so that a document with such a part fails.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from jsonschema import Draft4Validator
from referencing import Registry, Resource
from referencing.jsonschema import DRAFT4

_DIRECTORY = Path(__file__).parents[1] / "data" / "oci-runtime-schema"
_ABSENT = ("freebsd", "solaris", "vm", "windows", "zos")


def _registry() -> Registry[Any]:
    documents = {path.name: json.loads(path.read_text()) for path in _DIRECTORY.glob("*.json")}
    documents |= {f"config-{system}.json": {system: {"not": {}}} for system in _ABSENT}
    resources = [(name, Resource(contents=document, specification=DRAFT4)) for name, document in documents.items()]
    return Registry().with_resources(resources)


def _check(schema: str, document: Any) -> None:
    registry = _registry()
    validator = Draft4Validator({"$ref": schema}, registry=registry)
    problems = [f"{'.'.join(map(str, e.absolute_path))}: {e.message}" for e in validator.iter_errors(document)]
    assert not problems, problems


def check_config(document: Any) -> None:
    _check("config-schema.json", document)


def check_state(document: Any) -> None:
    _check("state-schema.json", document)


def check_features(document: Any) -> None:
    _check("features-schema.json", document)
