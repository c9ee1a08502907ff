"""Give a container another name.

Owns: the rules of a rename and its event. Does not own: the grammar of names (`names`).
"""

from __future__ import annotations

from typing import Final

from dockyard.engine import names
from dockyard.engine.container import Container
from dockyard.engine.context import Context
from dockyard.model.errors import Conflict, InvalidArgument, NotFound
from dockyard.store.containers import NameTaken

_STAGE: Final = "Error when allocating new name"


async def rename(context: Context, container: Container, name: str) -> None:
    """See `Containers.rename`. The name is held from the check to the row, so two renames cannot both win."""
    if not name:
        raise InvalidArgument("Neither old nor new names may be empty")
    try:
        name = names.check_name(name)
    except InvalidArgument as error:
        raise InvalidArgument(f"{_STAGE}: {error}") from None
    async with container.lock:
        if container.removed:
            raise NotFound(f"No such container: {container.id}")
        old = container.name
        if name == old:
            raise InvalidArgument("Renaming a container with the same name as its current name")
        holder = context.registry.holder(name)
        if holder is not None:
            raise Conflict(f"{_STAGE}: {names.name_conflict(name, holder)}")
        context.registry.reserve(name, container.id)
        try:
            await context.store.rename(container.id, name)
        except NameTaken as error:
            context.registry.release(name)
            raise Conflict(f"{_STAGE}: {names.name_conflict(name, 'another container')}") from error
        except BaseException:
            context.registry.release(name)
            raise
        context.registry.rename(container, name)
    context.publish(container, "rename", oldName=f"/{old}")
