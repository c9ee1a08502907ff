"""`--volume`, `--mount` and `--tmpfs` texts → what the Engine API takes.

Owns: the three grammars. Does not own: whether a source exists, what the mount does. Relative sources (`./data`) are
made absolute against a directory that the caller gives. Every error is a ValueError that names the text.
"""

from __future__ import annotations

import posixpath
import re
from typing import Any

from dockyard.proto.units import parse_size

_TYPES = ("bind", "volume", "tmpfs", "image", "cluster", "npipe")
_ALIASES = {"src": "source", "destination": "target", "dst": "target", "ro": "readonly", "u": "chown"}
_FLAGS = ("readonly", "volume-nocopy", "bind-nonrecursive", "bind-create-src", "chown", "idmap")
_RECURSIVE = ("enabled", "disabled", "writable", "readonly")


def absolute(path: str, directory: str) -> str:
    """`.`, `./x`, `../x` against `directory`; anything else (a volume's name, an absolute path) as it is."""
    if path in (".", "..") or path.startswith(("./", "../")):
        return posixpath.normpath(posixpath.join(directory, path))
    return path


def parse_volume(text: str, directory: str) -> tuple[str, bool]:
    """`-v` value → (text for the API, whether it has a source: a bind or named volume, else an anonymous volume)."""
    if not text:
        raise ValueError("invalid empty volume spec")
    source, colon, rest = text.partition(":")
    if not colon:
        return text, False
    if not source or not rest:
        raise ValueError(f"invalid volume specification: '{text}'")
    return f"{absolute(source, directory)}:{rest}", True


def parse_tmpfs(text: str) -> tuple[str, str]:
    """`/run:size=64m` → (`/run`, `size=64m`)."""
    path, _, options = text.partition(":")
    return path, options


def parse_mount(text: str, directory: str) -> dict[str, Any]:
    """A `--mount` value (comma-separated, CSV quoting) → a `Mount` object of the API."""
    mount: dict[str, Any] = {"Type": "volume"}
    for field in fields(text):
        key, equals, value = field.partition("=")
        key = _ALIASES.get(key.lower(), key.lower())
        if not equals and key not in _FLAGS:
            raise ValueError(f"invalid field '{field}' must be a key=value pair")
        _set(mount, key, value if equals else "true", field)
    _ownership(mount)
    _check(mount)
    if mount["Type"] == "bind":
        mount["Source"] = absolute(mount["Source"], directory)
    return mount


_FIELD = re.compile(r'"((?:[^"]|"")*)"|([^",]*)')


def fields(text: str) -> list[str]:
    """The fields of one line of CSV (RFC 4180: quotes round a field, doubled inside). ValueError where it is none."""
    if not text:
        raise ValueError("value is empty")
    if text.strip() != text:
        raise ValueError("value has whitespace around it")
    out, position = [], 0
    while True:
        match = _FIELD.match(text, position)
        assert match is not None  # an empty field matches anywhere
        position = match.end()
        if text[position : position + 1] not in ("", ","):
            raise ValueError(f'parse error on column {position + 1}: bare " in field')
        out.append(match[2] if match[1] is None else match[1].replace('""', '"'))
        if position == len(text):
            return out
        position += 1


def _set(mount: dict[str, Any], key: str, value: str, field: str) -> None:
    """Puts one `key=value` where the API has it."""
    match key:
        case "type":
            if value.lower() not in _TYPES:
                raise ValueError(f"invalid mount type '{value}' (one of {', '.join(_TYPES[:4])})")
            mount["Type"] = value.lower()
        case "source":
            mount["Source"] = value
        case "target":
            mount["Target"] = value
        case "readonly":
            mount["ReadOnly"] = _bool(key, value)
        case "consistency":
            mount["Consistency"] = value.lower()
        case "bind-propagation":
            _part(mount, "BindOptions")["Propagation"] = value.lower()
        case "bind-nonrecursive":
            _part(mount, "BindOptions")["NonRecursive"] = _bool(key, value)
        case "bind-create-src":
            _part(mount, "BindOptions")["CreateMountpoint"] = _bool(key, value)
        case "bind-recursive":
            _recursive(_part(mount, "BindOptions"), value)
        case "volume-nocopy":
            _part(mount, "VolumeOptions")["NoCopy"] = _bool(key, value)
        case "volume-subpath":
            _part(mount, "VolumeOptions")["Subpath"] = value
        case "image-subpath":
            _part(mount, "ImageOptions")["Subpath"] = value
        case "volume-label":
            name, _, text = value.partition("=")
            _part(_part(mount, "VolumeOptions"), "Labels")[name] = text
        case "volume-driver":
            _part(_part(mount, "VolumeOptions"), "DriverConfig")["Name"] = value
        case "volume-opt":
            name, _, text = value.partition("=")
            _part(_part(_part(mount, "VolumeOptions"), "DriverConfig"), "Options")[name] = text
        case "tmpfs-size":
            _part(mount, "TmpfsOptions")["SizeBytes"] = _size(key, value)
        case "tmpfs-opt":
            name, equals, text = value.partition("=")
            _part(mount, "TmpfsOptions").setdefault("Options", []).append([name, text] if equals else [name])
        case "chown":  # ours
            mount["chown"] = _bool(key, value)
        case "idmap":  # ours
            mount["idmap"] = "owner" if value in ("true", "owner") else value
        case "tmpfs-mode":
            _part(mount, "TmpfsOptions")["Mode"] = _mode(key, value)
        case _:
            raise ValueError(f"unexpected key '{key}' in '{field}'")


def _part(owner: dict[str, Any], name: str) -> dict[str, Any]:
    part = owner.setdefault(name, {})
    assert isinstance(part, dict)
    return part


def _bool(key: str, value: str) -> bool:
    match value:
        case "1" | "true" | "True" | "TRUE" | "t" | "T":
            return True
        case "0" | "false" | "False" | "FALSE" | "f" | "F":
            return False
    raise ValueError(f"invalid value for {key}: {value}")


def _size(key: str, value: str) -> int:
    try:
        return parse_size(value)
    except ValueError:
        raise ValueError(f"invalid value for {key}: {value}") from None


def _mode(key: str, value: str) -> int:
    try:
        return int(value, 8)
    except ValueError:
        raise ValueError(f"invalid value for {key}: {value}") from None


def _recursive(options: dict[str, Any], value: str) -> None:
    if value not in _RECURSIVE:
        raise ValueError(f"invalid value for bind-recursive: {value} (must be one of {', '.join(_RECURSIVE)})")
    if value == "disabled":
        options["NonRecursive"] = True
    elif value == "writable":
        options["ReadOnlyNonRecursive"] = True
    elif value == "readonly":
        options["ReadOnlyForceRecursive"] = True


def _ownership(mount: dict[str, Any]) -> None:
    """`chown` and `idmap`, which binds and volumes have, to where the API has them."""
    own = {"Chown": mount.pop("chown", False), "IDMap": mount.pop("idmap", "")}
    given = {name: value for name, value in own.items() if value}
    if not given:
        return
    if mount["Type"] not in ("bind", "volume"):
        raise ValueError(f"cannot use 'chown' or 'idmap' with mount type '{mount['Type']}'")
    _part(mount, f"{mount['Type'].capitalize()}Options").update(given)


_OPTIONS_OF = {"BindOptions": "bind", "VolumeOptions": "volume", "ImageOptions": "image", "TmpfsOptions": "tmpfs"}


def _check(mount: dict[str, Any]) -> None:
    kind = mount["Type"]
    if not mount.get("Target"):
        raise ValueError("target is required")
    for name, owner in _OPTIONS_OF.items():
        if name in mount and kind != owner:
            raise ValueError(f"cannot mix '{owner}-*' options with mount type '{kind}'")
    if kind == "bind" and not mount.get("Source"):
        raise ValueError("source is required for type=bind")
    if kind == "tmpfs" and mount.get("Source"):
        raise ValueError("source is not allowed for type=tmpfs")
    bind = mount.get("BindOptions", {})
    if bind.get("ReadOnlyForceRecursive") and not mount.get("ReadOnly"):
        raise ValueError("option 'bind-recursive=readonly' requires 'readonly' to be specified in conjunction")
    if bind.get("ReadOnlyForceRecursive") and bind.get("Propagation") != "rprivate":
        raise ValueError(
            "option 'bind-recursive=readonly' requires 'bind-propagation=rprivate' to be specified in conjunction"
        )
    if bind.get("ReadOnlyNonRecursive") and not mount.get("ReadOnly"):
        raise ValueError("option 'bind-recursive=writable' requires 'readonly' to be specified in conjunction")
