"""Settings of ours that a label can give, for clients that know no field or flag for them.

Owns: the labels' names and what their values mean. Does not own: what the settings do. A label beats the field that it
stands for. Labels of an image never count (`without`): an image must not decide how long its containers live. Pure.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from msgspec.structs import replace

from dockyard.model.container import HostConfig
from dockyard.model.errors import InvalidArgument
from dockyard.proto.times import parse_duration

ON_UNHEALTHY: Final = "dockyard.restart-on-unhealthy"  # true, false
MAXIMUM_RUNTIME: Final = "dockyard.max-runtime"  # "1h30m"; "0": none
LEASE: Final = "dockyard.lease"  # the id of a lease
LABELS: Final = frozenset({ON_UNHEALTHY, MAXIMUM_RUNTIME, LEASE})

_TRUTHS: Final = {"true": True, "1": True, "false": False, "0": False}


def without(labels: Mapping[str, str] | None) -> dict[str, str]:
    """An image's labels without those that are settings."""
    return {name: value for name, value in (labels or {}).items() if name not in LABELS}


def with_lease(labels: Mapping[str, str] | None, owner: Mapping[str, str] | None) -> dict[str, str] | None:
    """The labels of a thing that is made along with its owner: it belongs to the same lease."""
    lease = (owner or {}).get(LEASE)
    return {LEASE: lease, **(labels or {})} if lease else dict(labels) if labels is not None else None


def apply(labels: Mapping[str, str | None] | None, host: HostConfig) -> HostConfig:
    """The host configuration with what these labels say; one that is taken away (None) switches its setting off.

    InvalidArgument naming the label whose value means nothing.
    """
    labels = labels or {}
    if ON_UNHEALTHY in labels:
        policy = replace(host.restart_policy, on_unhealthy=_truth(labels[ON_UNHEALTHY]))
        host = replace(host, restart_policy=policy)
    if MAXIMUM_RUNTIME in labels:
        host = replace(host, maximum_runtime=_duration(labels[MAXIMUM_RUNTIME]))
    return host


def _truth(text: str | None) -> bool:
    if text is None:
        return False
    if text.lower() not in _TRUTHS:
        raise InvalidArgument(f'invalid value "{text}" of label {ON_UNHEALTHY}: must be true or false')
    return _TRUTHS[text.lower()]


def _duration(text: str | None) -> int:
    if text is None:
        return 0
    try:
        return parse_duration(text)
    except ValueError as error:
        raise InvalidArgument(f"invalid value of label {MAXIMUM_RUNTIME}: {error}") from None
