"""The functions a template may call, and how Go prints and judges values.

Owns: text/template's own functions, Docker's additions (json, split, join, title, lower, upper, pad, truncate), and
fmt's verbs as far as templates use them. A wrong argument is a ValueError (or the TypeError of the call itself).
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from typing import Any


class Row(dict[str, Any]):
    """One row of a listing: fields by name. Its JSON leaves methods out, sorted and escaped as Go's Marshal does."""


def truth(value: Any) -> bool:
    """Go templates' truth: false, 0, nil and what is empty are false."""
    return bool(value)


def go_text(value: Any) -> str:
    """What fmt's %v prints."""
    if isinstance(value, str):
        return value
    if value is None:
        return "<nil>"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return _go_float(value)
    if isinstance(value, Mapping):
        if set(value) == {"HostIp", "HostPort"}:  # a struct in Docker's types, and often printed
            return f"{{{value['HostIp']} {value['HostPort']}}}"
        items = sorted((key, each) for key, each in value.items() if not callable(each))
        return "map[" + " ".join(f"{go_text(key)}:{go_text(each)}" for key, each in items) + "]"
    if isinstance(value, list | tuple):
        return "[" + " ".join(go_text(each) for each in value) + "]"
    return str(value)


def _go_float(value: float) -> str:
    if value.is_integer() and abs(value) < 1e21:
        return str(int(value))
    return re.sub(r"e([+-])(\d)\Z", r"e\g<1>0\2", repr(value))


def go_json(value: Any) -> str:
    """Compact JSON without HTML escapes, but for a `Row`."""
    if isinstance(value, Row):
        return row_json(value)
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False, default=str)


def row_json(row: Row) -> str:
    """A row as one line of JSON."""
    plain = {name: value for name, value in sorted(row.items()) if not callable(value)}
    text = json.dumps(plain, separators=(",", ":"), ensure_ascii=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _index(value: Any, *keys: Any) -> Any:
    for key in keys:
        if isinstance(value, Mapping):
            value = value.get(key)
        elif isinstance(value, list | tuple | str):
            if not isinstance(key, int) or isinstance(key, bool):
                raise ValueError(f"cannot index slice/array with type {type(key).__name__}")
            if not 0 <= key < len(value):
                raise ValueError(f"index out of range: {key}")
            value = value[key] if not isinstance(value, str) else value.encode()[key]
        elif value is None:
            raise ValueError("index of untyped nil")
        else:
            raise ValueError(f"can't index item of type {type(value).__name__}")
    return value


def _slice(value: Any, *bounds: int) -> Any:
    if not isinstance(value, str | list):
        raise ValueError(f"can't slice item of type {type(value).__name__}")
    low, high = (
        (*bounds, 0, len(value))[:2] if not bounds else (bounds[0], bounds[1] if len(bounds) > 1 else len(value))
    )
    if not 0 <= low <= high <= len(value):
        raise ValueError(f"index out of range: {high}")
    return value[low:high]


def _length(value: Any) -> int:
    if isinstance(value, str):
        return len(value.encode())
    if isinstance(value, list | tuple | Mapping):
        return len(value)
    raise ValueError(f"len of type {'nil' if value is None else type(value).__name__}")


def _equal(first: Any, *others: Any) -> bool:
    if not others:
        raise ValueError("missing argument for comparison")
    return any(_same_kind(first, other) and first == other for other in others)


def _same_kind(first: Any, second: Any) -> bool:
    if first is None or second is None:
        return first is second
    kinds = [str if isinstance(v, str) else bool if isinstance(v, bool) else float for v in (first, second)]
    if kinds[0] is not kinds[1]:
        raise ValueError("incompatible types for comparison")
    return True


def _less(first: Any, second: Any) -> bool:
    _same_kind(first, second)
    return bool(first < second)


def _print(*values: Any) -> str:
    """fmt.Sprint: a space between neighbours when neither is a string."""
    out = ""
    for index, value in enumerate(values):
        if index and not isinstance(value, str) and not isinstance(values[index - 1], str):
            out += " "
        out += go_text(value)
    return out


def _println(*values: Any) -> str:
    return " ".join(go_text(value) for value in values) + "\n"


_VERB = re.compile(r"%([-+# 0]*)(\d+|\*)?(?:\.(\d+|\*)?)?([a-zA-Z%])")


def _printf(format_: str, *values: Any) -> str:
    """fmt.Sprintf for the verbs that make sense on JSON: v s q d x X o b c t f e g."""
    queue = list(values)

    def one(match: re.Match[str]) -> str:
        flags, width, precision, verb = match.groups()
        if verb == "%":
            return "%"
        width = str(queue.pop(0)) if width == "*" else width
        if not queue:
            return f"%!{verb}(MISSING)"
        text = _format_verb(queue.pop(0), flags, precision, verb)
        size = int(width or 0)
        return text.ljust(size) if "-" in flags else text.zfill(size) if "0" in flags else text.rjust(size)

    text = _VERB.sub(one, format_)
    if queue:
        text += "%!(EXTRA " + ", ".join(f"{type(v).__name__}={go_text(v)}" for v in queue) + ")"
    return text


def _format_verb(value: Any, flags: str, precision: str | None, verb: str) -> str:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if verb in "vs" or (verb == "t" and isinstance(value, bool)):
        text = go_text(value)
        return text[: int(precision)] if precision and verb == "s" else text
    if verb == "q" and isinstance(value, str):
        return json.dumps(value, ensure_ascii=False)
    if verb == "c" and isinstance(value, int):
        return chr(value)
    if verb in "dobxX" and isinstance(value, int):
        return format(value, ("+" if "+" in flags else "") + verb)
    if verb in "xX" and isinstance(value, str):
        return value.encode().hex() if verb == "x" else value.encode().hex().upper()
    if verb in "feEgG" and number:
        return format(float(value), ("+" if "+" in flags else "") + f".{precision or 6}{verb}")
    return f"%!{verb}({type(value).__name__}={go_text(value)})"


def _html(value: Any) -> str:
    text = go_text(value)
    for character, entity in (("&", "&amp;"), ("<", "&lt;"), (">", "&gt;"), ('"', "&#34;"), ("'", "&#39;")):
        text = text.replace(character, entity)
    return text


def _urlquery(*values: Any) -> str:
    from urllib.parse import quote_plus

    return quote_plus(_print(*values))


def _join(values: Any, separator: str) -> str:
    return separator.join(go_text(value) for value in values or [])


def _split(text: str, separator: str) -> list[str]:
    return text.split(separator) if separator else list(text)


def _title(text: str) -> str:
    return re.sub(r"(^|\s)(\S)", lambda match: match[1] + match[2].upper(), text)


def _pad(text: str, before: int, after: int) -> str:
    return text if not text else " " * before + text + " " * after


def _truncate(text: str, length: int) -> str:
    return text[:length] if len(text) > length else text


FUNCTIONS: Mapping[str, Callable[..., Any]] = {
    "eq": _equal,
    "ge": lambda a, b: not _less(a, b),
    "gt": lambda a, b: _less(b, a),
    "html": _html,
    "index": _index,
    "join": _join,
    "js": lambda value: json.dumps(go_text(value))[1:-1],
    "json": go_json,
    "le": lambda a, b: not _less(b, a),
    "len": _length,
    "lower": lambda text: text.lower(),
    "lt": _less,
    "ne": lambda a, b: not _equal(a, b),
    "not": lambda value: not truth(value),
    "pad": _pad,
    "print": _print,
    "printf": _printf,
    "println": _println,
    "slice": _slice,
    "split": _split,
    "title": _title,
    "truncate": _truncate,
    "upper": lambda text: text.upper(),
    "urlquery": _urlquery,
}
