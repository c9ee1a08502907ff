"""Lists: repositories, tags, search.

Owns: what is listed in which order and which page of it. Source: OCI distribution-spec 1.1 "Content Discovery" (tags in
case-insensitive order). Does not own: Link headers.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable

from dockyard.registry import names
from dockyard.registry.backend import Backend
from dockyard.registry.errors import RegistryError


class Catalogue:
    def __init__(self, backend: Backend) -> None:
        self._backend = backend

    async def repositories(self, below: str = "") -> AsyncIterator[str]:
        """Every repository that has a manifest, in order of the names' components."""
        async for name in self.stems(below):
            if (await self._backend.below(names.manifests(name))).files:
                yield name

    async def stems(self, below: str = "") -> AsyncIterator[str]:
        """Every name under which anything is kept."""
        folders = (await self._backend.below(names.repository(below) if below else names.REPOSITORIES)).folders
        if below and any(folder.startswith("_") for folder in folders):
            yield below
        for folder in folders:
            if not folder.startswith("_"):
                async for name in self.stems(f"{below}/{folder}" if below else folder):
                    yield name

    async def tags(self, repository: str, count: int | None, last: str) -> tuple[list[str], bool]:
        """A page of tags, and whether there are more. NAME_UNKNOWN."""
        found = [entry.name for entry in (await self._backend.below(names.tags(repository))).files if entry.size]
        if not found and not (await self._backend.below(names.manifests(repository))).files:
            raise RegistryError("NAME_UNKNOWN", detail={"name": repository})
        return page(found, count, last, _order)

    async def search(self, term: str, allowed: Callable[[str], bool], count: int) -> list[str]:
        """Repositories whose name has the term in it."""
        found: list[str] = []
        async for name in self.repositories():
            if term.lower() in name and allowed(name):
                found.append(name)
                if len(found) == count:
                    break
        return found


def _order(text: str) -> tuple[str, str]:
    return text.lower(), text


def page(
    items: Iterable[str], count: int | None, last: str, order: Callable[[str], tuple[str, str]] = _order
) -> tuple[list[str], bool]:
    """`count` of the items behind `last`, in order; and whether there are more."""
    found = sorted(items, key=order)
    if last:
        found = [item for item in found if order(item) > order(last)]
    if count is None:
        return found, False
    return found[:count], len(found) > count
