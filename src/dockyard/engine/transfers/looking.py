"""Looks at registries that change nothing here: a manifest's descriptor, a search.

Owns: `inspect`, `search` and their results. Does not own: Docker's JSON of them (`edge.api`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple
from urllib.parse import urlencode

import msgspec
from msgspec import Struct

from dockyard.engine.transfers.pulling import resolve
from dockyard.model import oci, untrusted
from dockyard.model.errors import InvalidArgument, NotFound
from dockyard.model.oci import Descriptor, Platform
from dockyard.proto.filters import Filters
from dockyard.proto.references import DEFAULT_DOMAIN, Reference
from dockyard.proto.registries import HUB_INDEX
from dockyard.store.remote.authorization import read_limited
from dockyard.store.remote.repository import Repository
from dockyard.store.remote.session import Session

_MAX_RESULTS = 100


class Distribution(NamedTuple):
    descriptor: Descriptor
    platforms: list[Platform]


class SearchResult(Struct):
    """As registries spell it."""

    name: str = ""
    description: str | None = ""
    star_count: int = 0
    is_official: bool = False
    is_automated: bool = False


class _Answer(Struct):
    results: list[SearchResult] | None = None


async def inspect(repositories: Sequence[Repository], reference: Reference) -> Distribution:
    """The manifest's descriptor and the platforms that it is for. NotFound, Unauthorized as the registry says."""
    source, fetched = await resolve(repositories, reference)
    descriptor = Descriptor(fetched.media_type, fetched.digest, len(fetched.data))
    manifest = fetched.manifest
    if manifest.manifests is not None:
        return Distribution(descriptor, [m.platform for m in manifest.manifests if m.platform is not None])
    assert manifest.config is not None
    what = f"configuration {manifest.config.digest}"
    config = oci.parse_config(await source.small_blob(manifest.config, what), what)
    return Distribution(
        descriptor, [Platform(config.architecture, config.os, config.os_version, variant=config.variant)]
    )


def split_term(term: str) -> tuple[str, str]:
    """ "HOST/words" → (registry, words). InvalidArgument for an empty term."""
    if "://" in term:
        raise InvalidArgument(f"invalid repository name: repository name ({term[:100]}) should not have a scheme")
    first, slash, rest = term.partition("/")
    if slash and ("." in first or ":" in first or first == "localhost"):
        domain, words = first.lower(), rest
    else:
        domain, words = DEFAULT_DOMAIN, term
    if domain == HUB_INDEX:
        domain = DEFAULT_DOMAIN
    if not words:
        raise InvalidArgument("a word to search for is missing")
    return domain, words.removeprefix("library/") if domain == DEFAULT_DOMAIN else words


def search_host(domain: str) -> str:
    """Where a registry's search is."""
    return HUB_INDEX if domain == DEFAULT_DOMAIN else domain


async def search(session: Session, domain: str, words: str, limit: int, filters: Filters) -> list[SearchResult]:
    """Asks `/v1/search`, as Docker does. NotFound if the registry has no search."""
    if not 1 <= limit <= _MAX_RESULTS:
        raise InvalidArgument(f"limit {limit} is outside the range of [1, {_MAX_RESULTS}]")
    wanted = _Wanted(filters)
    what = f"search at {domain}"
    url = "/v1/search?" + urlencode({"q": words, "n": limit})
    try:
        data = await session.again(lambda: _get(session, url, what))
    except NotFound:
        raise NotFound(f"registry {domain} offers no search") from None
    try:
        answer = untrusted.decode(data, _Answer)
    except msgspec.MsgspecError:
        raise InvalidArgument(f"{what}: the answer is no list of results") from None
    return [result for result in answer.results or [] if wanted.fits(result)][:limit]


async def _get(session: Session, url: str, what: str) -> bytes:
    async with session.request("GET", url, (), what, headers={"X-Docker-Token": "true"}) as response:
        return await read_limited(response, oci.MAX_DOCUMENT, what)


class _Wanted:
    """The filters is-official, is-automated and stars."""

    def __init__(self, filters: Filters) -> None:
        self._official = filters.boolean("is-official")
        self._automated = filters.boolean("is-automated")
        try:
            self._stars = max((int(value) for value in filters.get("stars")), default=0)
        except ValueError:
            raise filters.invalid("stars") from None

    def fits(self, result: SearchResult) -> bool:
        return (
            (self._official is None or result.is_official == self._official)
            and (self._automated is None or result.is_automated == self._automated)
            and result.star_count >= self._stars
        )
