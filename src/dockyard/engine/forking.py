"""A container made of another one's files: an extension of ours.

Owns: `fork`: which settings the new container has, and that its files are those of one moment. Does not own: making it
(`creation`), copying (`store.snapshots`, `store.copytree`).

The new container lies on the same image layers and begins with a copy of what the other has written; the other is
frozen while that is copied. Its anonymous volumes are copied too, named ones and binds are shared. What can be only one
container's is not taken over: the name, the host name made of the id, MAC and fixed IP addresses.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from msgspec import Struct
from msgspec.structs import replace

from dockyard.engine import creation
from dockyard.engine.container import Container
from dockyard.engine.context import Context
from dockyard.engine.freezing import still
from dockyard.engine.ground import default_hostname
from dockyard.model.container import ContainerConfig, EndpointSettings, HostConfig

# Of these the container's are joined with, or give way to, what is asked for: as an image's for a container of it.
_MERGED: Final = frozenset({
    "env", "labels", "exposed_ports", "volumes", "user", "working_dir", "stop_signal", "shell", "stop_timeout",
    "entrypoint", "cmd", "healthcheck",
})  # fmt: skip


class Overrides(Struct):
    """What a client wants different: fields of the settings by our names, and the networks to join instead."""

    config: Mapping[str, Any] = {}
    host: Mapping[str, Any] = {}
    networks: dict[str, EndpointSettings] | None = None


class _Origin(Struct):
    """The container in the place of an image."""

    id: str
    config: ContainerConfig
    chain_id: str | None


async def fork(
    context: Context, container: Container, ref: str, name: str, overrides: Overrides, *, pause: bool = True
) -> tuple[Container, list[str]]:
    """See `Files.fork`."""
    origin = _Origin(container.image_id, container.config, container.spec.chain_id)
    async with still(context, container, ref, freeze=pause):
        return await creation.create(
            context,
            _config(container, overrides.config),
            _host(container.host, overrides.host),
            _networks(container, overrides),
            name=name,
            platform=container.spec.platform,
            image=origin,
            copy_of=container,
        )


def _config(container: Container, given: Mapping[str, Any]) -> ContainerConfig:
    own = container.config
    host = container.host
    untouched = {name: getattr(ContainerConfig(), name) for name in _MERGED}
    settings = replace(own, **untouched, mac_address="")
    if own.hostname == default_hostname(container.id, host.network_mode, host.uts_mode):
        settings.hostname = ""
    return replace(settings, **{**given, "image": own.image})


def _host(own: HostConfig, given: Mapping[str, Any]) -> HostConfig:
    derived = {"memory_swap": 0} if "memory" in given and own.memory_swap == 2 * own.memory else {}
    return replace(own, **{"container_id_file": "", **derived, **given})


def _networks(container: Container, overrides: Overrides) -> dict[str, EndpointSettings]:
    if overrides.networks is not None:
        return overrides.networks
    if overrides.host.get("network_mode"):
        return {}
    return {
        name: EndpointSettings(
            links=asked.links, aliases=asked.aliases, driver_opts=asked.driver_opts, gw_priority=asked.gw_priority
        )
        for name, asked in container.spec.networks.items()
    }
