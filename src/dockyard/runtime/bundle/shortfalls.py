"""What a container is not given because the engine itself has not got it: told at the creation, in warnings.

Owns: capabilities of privileged containers, limits above the engine's own, a lower OOM score, where the engine lacks
CAP_SYS_RESOURCE or another capability (it runs in a container, say). Does not own: what is refused (`security`).
Sources: capabilities(7), setrlimit(2), proc_pid_oom_score_adj(5).
"""

from __future__ import annotations

import resource
from collections.abc import Iterable, Sequence
from pathlib import Path

from dockyard.model.container import HostConfig, Ulimit

_RAISES = "CAP_SYS_RESOURCE"


def shortfalls(host: HostConfig, known: Sequence[str], available: frozenset[str]) -> list[str]:
    """One sentence each. `known`: capabilities in the kernel's order; `available`: those that the engine can give."""
    found = []
    every = any(name.upper() in ("ALL", "CAP_ALL") for name in host.cap_add or ())
    if host.privileged or every:
        lacking = [name for name in known[: _last_capability() + 1] if name not in available]
        if lacking:
            found.append(f"The engine has no {', '.join(lacking)}, and neither has the container")
    if _RAISES not in available:
        found += [f"The engine's own limit holds for ulimit {name}: {own}" for name, own in _limits(host.ulimits or ())]
        if host.oom_score_adj and host.oom_score_adj < (own := int(_read("/proc/self/oom_score_adj"))):
            found.append(f"The engine cannot lower an OOM score below its own. OomScoreAdj stays at {own}")
    return found


def _limits(ulimits: Iterable[Ulimit]) -> Iterable[tuple[str, int]]:
    """Those above the engine's hard limits, with these."""
    for limit in ulimits:
        kind = getattr(resource, f"RLIMIT_{limit.name.upper().removeprefix('RLIMIT_')}", None)
        own = resource.RLIM_INFINITY if kind is None else resource.getrlimit(kind)[1]
        if own != resource.RLIM_INFINITY and (limit.hard < 0 or limit.hard > own):
            yield limit.name, own


def _last_capability() -> int:
    return int(_read("/proc/sys/kernel/cap_last_cap"))


def _read(path: str) -> str:
    return Path(path).read_text()
