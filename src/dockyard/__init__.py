"""Dockyard: a container platform that any Docker client can use."""

__version__ = "0.1.0"
