"""A container that ends while it is being frozen for a copy."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from dockyard.engine import freezing
from dockyard.model.errors import SystemFailure


class Handle:
    """A container's monitor that cannot freeze it any more."""

    def __init__(self) -> None:
        self.exit: asyncio.Future[Any] = asyncio.get_running_loop().create_future()

    async def pause(self, *, held: bool) -> None:
        raise SystemFailure("the container's monitor is gone")


class Container:
    watcher = None
    handle: Any = None


def test_its_end_is_as_good_as_a_freeze() -> None:
    async def main() -> None:
        handle = Handle()
        asyncio.get_running_loop().call_later(0.05, handle.exit.set_result, {"code": 0})
        assert not await freezing._freeze(Container(), handle)  # type: ignore[arg-type]

    asyncio.run(main())


def test_one_that_goes_on_cannot_be_copied(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(freezing, "_END", 0.01)

    async def main() -> None:
        with pytest.raises(SystemFailure, match="monitor is gone"):
            await freezing._freeze(Container(), Handle())  # type: ignore[arg-type]

    asyncio.run(main())
