"""Docker's filter arguments: `{"label": ["a=b"], "status": {"running": true}}` in a query string.

Owns: reading them, refusing keys that a list does not know, and the ways in which a value is compared with a thing
(exact, by regular expression, by prefix, as a label). Does not own: which keys a list knows and what they mean.
Pure: text in, values out.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any

import msgspec

from dockyard.model import untrusted
from dockyard.model.errors import InvalidArgument

_TRUE = frozenset({"1", "true", "True", "TRUE", "t", "T"})
_FALSE = frozenset({"0", "false", "False", "FALSE", "f", "F"})


class Filters:
    """The filters of one request: key -> values, in the order given, without repetitions."""

    __slots__ = ("_values",)

    def __init__(self, values: Mapping[str, Iterable[str]] | None = None) -> None:
        self._values: dict[str, list[str]] = {key: list(dict.fromkeys(vs)) for key, vs in (values or {}).items()}

    @classmethod
    def parse(cls, text: str, allowed: Collection[str] | None = None) -> Filters:
        """Read the JSON of a `filters` query parameter ("" = none); `allowed`: the keys that the list knows.

        InvalidArgument "invalid filter" for anything that is not filters, "invalid filter 'x'" for an unknown key.
        """
        if not text:
            return cls()
        try:
            document = untrusted.decode(text)
        except msgspec.MsgspecError:
            raise InvalidArgument("invalid filter") from None
        if document is None:
            return cls()
        if not isinstance(document, dict):
            raise InvalidArgument("invalid filter")
        filters = cls({key: _values_of(values) for key, values in document.items()})
        if allowed is not None:
            filters.check(allowed)
        return filters

    def check(self, allowed: Collection[str]) -> None:
        """Refuse keys outside `allowed`. Raises InvalidArgument naming the key."""
        for key in self._values:
            if key not in allowed:
                raise InvalidArgument(f"invalid filter '{key}'")

    def __bool__(self) -> bool:
        return bool(self._values)

    def __contains__(self, key: str) -> bool:
        return key in self._values

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Filters) and self._values == other._values

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"Filters({self._values!r})"

    def get(self, key: str) -> list[str]:
        """The values of a key; empty when it is not given."""
        return self._values.get(key, [])

    def boolean(self, key: str, default: bool | None = None) -> bool | None:
        """The value of a yes/no key. Anything but one of 1/true/0/false is InvalidArgument."""
        values = self.get(key)
        if not values:
            return default
        if len(values) == 1:
            if values[0] in _TRUE:
                return True
            if values[0] in _FALSE:
                return False
        raise self.invalid(key)

    def invalid(self, key: str) -> InvalidArgument:
        """The error for a value that a key cannot have, in Docker's words."""
        return InvalidArgument(f"invalid filter '{key}=[{' '.join(self.get(key))}]'")

    def exact(self, key: str, *candidates: str) -> bool:
        """Whether the key is absent, or one of its values equals one of the candidates."""
        values = self._values.get(key)
        return not values or any(candidate in values for candidate in candidates)

    def prefix(self, key: str, *candidates: str) -> bool:
        """Whether the key is absent, or one of its values is the beginning of one of the candidates."""
        values = self._values.get(key)
        return not values or any(candidate.startswith(value) for value in values for candidate in candidates)

    def regex(self, key: str, *candidates: str) -> bool:
        """Whether the key is absent, or a value equals or is found as a regular expression in a candidate.

        A value that is no regular expression matches nothing by itself, as in Docker.
        """
        values = self._values.get(key)
        if not values:
            return True
        return any(candidate in values or _search(value, candidate) for value in values for candidate in candidates)

    def labels(self, labels: Mapping[str, str] | None, key: str = "label") -> bool:
        """Whether all of `label`'s values ("name" or "name=value") hold of `labels`."""
        return all(_has_label(labels or {}, wanted) for wanted in self.get(key))

    def not_labels(self, labels: Mapping[str, str] | None, key: str = "label!") -> bool:
        """Whether none of `label!`'s values ("name" or "name=value") holds of `labels`."""
        return not any(_has_label(labels or {}, unwanted) for unwanted in self.get(key))


def _values_of(values: Any) -> Iterable[str]:
    """The values of one key, from either of the two spellings."""
    if values is None:
        return []
    if isinstance(values, list) and all(isinstance(value, str) for value in values):
        return values
    if isinstance(values, dict) and all(isinstance(value, bool) for value in values.values()):
        return values
    raise InvalidArgument("invalid filter")


def _search(pattern: str, text: str) -> bool:
    try:
        return re.search(pattern, text) is not None
    except (re.error, RecursionError, OverflowError):
        return False


def _has_label(labels: Mapping[str, str], wanted: str) -> bool:
    name, separator, value = wanted.partition("=")
    return name in labels and (not separator or labels[name] == value)
