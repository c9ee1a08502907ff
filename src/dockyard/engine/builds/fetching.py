"""ADD of URLs and git repositories, and remote contexts."""

from __future__ import annotations

from dockyard.engine.builds.ground import Session, Tree
from dockyard.model.errors import NotServed
from dockyard.proto.dockerfile.ops import FetchGit, FetchUrl, Vertex


async def url(session: Session, op: FetchUrl, vertex: Vertex, name: str) -> Tree:
    raise NotServed("ADD of a URL")


async def git(session: Session, op: FetchGit, vertex: Vertex, name: str) -> Tree:
    raise NotServed("ADD of a git repository")
