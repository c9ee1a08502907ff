"""Reading one value of an option: of the file's JSON, and of a flag's text.

Owns: the kinds of values and what is said of a bad one. Does not own: which options there are (`options`).
"""

from __future__ import annotations

import argparse
from typing import Any

from dockyard.engine.runtimes import OciRuntime
from dockyard.model.container import Ulimit
from dockyard.proto.netplan import Pool
from dockyard.proto.units import parse_size


def text(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError("a string is expected")
    return value


def integer(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise ValueError("a whole number is expected")
    return value


def boolean(value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError("true or false is expected")
    return value


def texts(value: Any) -> list[str]:
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise ValueError("a list of strings is expected")
    return value


def size(value: Any) -> int:
    if isinstance(value, str):
        return parse_size(value)
    return integer(value)


def text_map(value: Any) -> dict[str, str]:
    if not isinstance(value, dict) or not all(isinstance(item, str) for item in value.values()):
        raise ValueError("an object of strings is expected")
    return value


def switches(value: Any) -> dict[str, bool]:
    if not isinstance(value, dict) or not all(isinstance(item, bool) for item in value.values()):
        raise ValueError("an object of true and false is expected")
    return value


def runtimes(value: Any) -> dict[str, OciRuntime]:
    if not isinstance(value, dict) or not all(isinstance(item, dict) for item in value.values()):
        raise ValueError("an object of objects with a path is expected")
    for name, item in value.items():
        unknown = sorted(set(item) - {"path", "runtimeArgs"})
        if unknown:  # runtimeType, options: shims of containerd's
            raise ValueError(f"{name}: {', '.join(unknown)}: not supported, only path and runtimeArgs are")
    return {
        name: OciRuntime(text(item.get("path", name)), tuple(texts(item.get("runtimeArgs") or [])))
        for name, item in value.items()
    }


def ulimits(value: Any) -> list[Ulimit]:
    if not isinstance(value, dict) or not all(isinstance(item, dict) for item in value.values()):
        raise ValueError("an object of objects with Name, Soft and Hard is expected")
    return [
        Ulimit(text(item.get("Name", name)), integer(item.get("Soft", 0)), integer(item.get("Hard", 0)))
        for name, item in value.items()
    ]


def pools(value: Any) -> list[Pool]:
    if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
        raise ValueError("a list of objects with base and size is expected")
    return [Pool(text(item.get("base", "")), integer(item.get("size", 0))) for item in value]


def flag_boolean(text: str) -> bool:
    if text.lower() in ("true", "t", "1"):
        return True
    if text.lower() in ("false", "f", "0"):
        return False
    raise argparse.ArgumentTypeError(f"{text!r} is neither true nor false")


def flag_pair(text: str) -> tuple[str, str]:
    name, separator, value = text.partition("=")
    if not separator or not name:
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=VALUE")
    return name, value


def flag_switch(text: str) -> tuple[str, bool]:
    name, _, value = text.partition("=")
    if not name:
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=BOOL")
    return name, flag_boolean(value or "true")


def flag_runtime(text: str) -> tuple[str, OciRuntime]:
    name, path = flag_pair(text)
    return name, OciRuntime(path)


def flag_bytes(text: str) -> int:
    try:
        return parse_size(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def flag_ulimit(text: str) -> Ulimit:
    name, separator, limits = text.partition("=")
    soft, _, hard = limits.partition(":")
    try:
        if not separator:
            raise ValueError
        return Ulimit(name, int(soft), int(hard or soft))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=SOFT[:HARD]") from None


def flag_pool(text: str) -> Pool:
    """base=RANGE,size=PREFIX"""
    found = {"base": "", "size": "0"}
    for field in text.split(","):
        key, separator, value = field.partition("=")
        if not separator:
            raise argparse.ArgumentTypeError(f"invalid field '{field}' must be a key=value pair")
        if key.lower() not in found:
            raise argparse.ArgumentTypeError(f"unexpected key '{key.lower()}' in '{field}'")
        found[key.lower()] = value.lower()
    try:
        return Pool(found["base"], int(found["size"]))
    except ValueError:
        raise argparse.ArgumentTypeError(f'invalid size value: "{found["size"]}" (must be integer)') from None
