"""The engine: every use case in one place, wired once.

Owns: which services there are. Does not own: building what lies below (the composition root does), nor any use case.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from dockyard.engine.containers import Containers
from dockyard.engine.events import Events
from dockyard.engine.execs import Execs
from dockyard.engine.logs import Logs
from dockyard.engine.system import System

if TYPE_CHECKING:
    from dockyard.engine.images import Images
    from dockyard.engine.networks import Networks


@dataclass(frozen=True, slots=True)
class Engine:
    """All services. Built by the composition root (or by a program that embeds it)."""

    containers: Containers
    execs: Execs
    events: Events
    logs: Logs
    images: Images
    networks: Networks
    system: System
