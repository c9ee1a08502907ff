"""The containers of an engine in memory: how they are found, and that few are looked at where few matter."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from pathlib import Path
from types import SimpleNamespace
from typing import Any, TypeVar

import pytest

from dockyard.engine import links, listing, removal
from dockyard.engine.container import Container, Registry
from dockyard.model.container import ContainerConfig, HostConfig
from dockyard.model.errors import InvalidArgument, NotFound
from dockyard.model.lifecycle import Desired, State, Status
from dockyard.model.mounts import MountPoint
from dockyard.proto.filters import Filters
from dockyard.store.containers import ContainerRow, ContainerSpec

T = TypeVar("T")


def made(
    name: str,
    *,
    image: str = "sha256:1",
    volumes: tuple[str, ...] = (),
    linked: list[str] | None = None,
    state: State = State.EXITED,
    anonymous: bool = False,
) -> Container:
    spec = ContainerSpec(
        created_at=1, config=ContainerConfig(), host=HostConfig(network_mode="bridge", links=linked), image_id=image,
        image_ref="image", path="sh", args=[],
        mounts=[MountPoint(type="volume", name=v, destination=f"/{v}", anonymous=anonymous) for v in volumes],
    )  # fmt: skip
    row = ContainerRow((name.encode().hex() + "0" * 64)[:64], name, spec, Status(state=state), Desired())
    return Container(row, Path("/data") / name, Path("/run") / name)


def looped(make: Callable[[], Coroutine[Any, Any, T]]) -> T:
    return asyncio.run(make())


def test_by_image_and_volume_while_they_are_there() -> None:
    async def steps() -> None:
        registry = Registry()
        a, b, c = made("a", volumes=("v", "w")), made("b", volumes=("v",)), made("c", image="sha256:2")
        for container in (a, b, c):
            registry.add(container)
        assert registry.of_image("sha256:1") == [a, b] and registry.of_image("sha256:2") == [c]
        assert registry.of_volume("v") == [a, b] and registry.of_volume("w") == [a]
        assert registry.of_image("sha256:3") == [] == registry.of_volume("x")
        registry.discard(a)
        registry.discard(a)
        assert registry.of_image("sha256:1") == [b] == registry.of_volume("v") and registry.of_volume("w") == []
        registry.rename(b, "other")
        assert registry.of_volume("v") == [b] == [registry.get("other")]
        registry.discard(b)
        registry.discard(c)
        assert not list(registry) and registry.find("other") is None
        for groups in (registry._by_image, registry._by_volume):
            assert not groups._groups, "nothing stays of what has gone"

    looped(steps)


def test_by_the_beginning_of_an_id() -> None:
    async def steps() -> None:
        registry = Registry()
        for name in ("ab", "ac", "b"):
            registry.add(made(name))
        assert registry.get("6162").name == "ab" and registry.get("/b").name == "b"
        with pytest.raises(InvalidArgument, match="multiple IDs found with provided prefix: 61"):
            registry.get("61")
        with pytest.raises(NotFound):
            registry.get("ff")

    looped(steps)


def test_a_link_that_was_taken_away_is_none() -> None:
    async def steps() -> None:
        registry = Registry()
        db, app = made("db", state=State.RUNNING), made("app", linked=["db:x"], state=State.RUNNING)
        registry.add(db)
        registry.add(app)
        context: Any = SimpleNamespace(registry=registry)
        assert list(links.linking(context, db)) == [app] and links.names_given(context) == {db.id: ["app/x"]}
        app.spec.host.links = None
        assert not list(links.linking(context, db)) and not links.names_given(context)
        registry.discard(app)
        assert registry.made_with_links() == []

    looped(steps)


class Untouchable(Registry):
    """Nobody goes through all of it."""

    def __iter__(self) -> Any:
        raise AssertionError("all containers were looked at")


def test_a_start_and_a_removal_look_at_those_that_they_concern_only() -> None:
    async def steps() -> None:
        registry = Untouchable()
        one, other = made("one", volumes=("mine", "ours"), anonymous=True), made("other", volumes=("ours",))
        registry.add(one)
        registry.add(other)
        volumes = SimpleNamespace(claimed=lambda name: False)
        context: Any = SimpleNamespace(registry=registry, volumes=volumes)
        assert not list(links.linking(context, one)) and not links.names_given(context)
        assert removal._own_volumes(context, one) == {"mine"}, "what another has too stays"

    looped(steps)


def test_the_list_is_newest_first_and_each_filter_asks_about_what_the_others_left() -> None:
    async def steps() -> None:
        registry = Registry()
        context: Any = SimpleNamespace(registry=registry)
        for name, state in (("a", State.EXITED), ("b", State.RUNNING), ("c", State.PAUSED), ("d", State.EXITED)):
            registry.add(made(name, state=state))

        def names(filters: Filters | None = None, *, all: bool = False, limit: int = 0) -> list[str]:
            return [c.name for c in listing.choose(context, filters or Filters(), all=all, limit=limit)]

        assert names() == ["c", "b"] and names(all=True) == ["d", "c", "b", "a"]
        assert names(limit=3) == ["d", "c", "b"] and names(limit=9) == ["d", "c", "b", "a"]
        assert names(Filters({"status": ["exited"]})) == ["d", "a"]
        assert names(Filters({"status": ["exited"], "name": ["a"]}), limit=1) == ["a"]
        registry.get("c").removed = True
        assert names() == ["b"]

    looped(steps)
