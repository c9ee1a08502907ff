"""Use cases, one noun each: what may happen, in which order, undone how. Usable without `edge`."""

from dockyard.engine.engine import Engine

__all__ = ["Engine"]
