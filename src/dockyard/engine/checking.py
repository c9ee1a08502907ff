"""Whether everything that is kept is still there and still what it was: `dockyard system check`.

Owns: what is looked at, in which order, what a damage means for images and containers, what `repair` takes away. Does
not own: reading and hashing (`store.verifying`), removal (`engine.images`, `store.builds.cache`).

Nothing of a user's is changed without `repair`; and with it only goes what is of no use any more and can be had again:
a compressed layer of which the files are there, steps of the build cache, and images that are damaged and that no
container uses. Containers and volumes are told about, and never touched.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from dockyard.model.errors import DockyardError

if TYPE_CHECKING:
    from dockyard.engine.context import Context
    from dockyard.engine.images import Image, Images
    from dockyard.store.builds.cache import BuildCache
    from dockyard.store.snapshots import Layer

_VERIFY: Final = "dockyard.store.verifying:"


@dataclass(slots=True)
class Damage:
    """One thing that is not as it should be. `kind`: image, layer, blob, container, volume."""

    kind: str
    id: str
    problem: str
    images: list[str] = field(default_factory=list)  # that cannot be relied on because of it: names, or ids
    containers: list[str] = field(default_factory=list)  # the same: names
    repaired: str = ""  # what was done about it; "": nothing


@dataclass(frozen=True, slots=True)
class Checked:
    """So many of a kind have been looked at."""

    kind: str
    done: int
    total: int


class Check:
    """One look over the store."""

    def __init__(self, context: Context, images: Images, cache: BuildCache) -> None:
        self._context, self._images, self._cache = context, images, cache
        self._services = images.services
        self._content, self._snapshots = images.services.content, context.snapshots

    async def run(self, *, quick: bool = False, repair: bool = False) -> AsyncGenerator[Damage | Checked]:
        """`quick`: only whether what records name is there; otherwise all of the images is read and hashed."""
        for damage in [*self._images_without(), *self._containers_without(), *self._volumes_without()]:
            yield await self._settled(damage, repair)
        if quick:
            return
        digests = list(self._content.digests())
        for number, digest in enumerate(digests, 1):
            if problem := await self._verify("blob", path=str(self._content.path(digest)), digest=digest):
                yield await self._settled(self._of_blob(digest, problem), repair)
            yield Checked("blob", number, len(digests))
        layers = self._snapshots.all_layers()
        for number, layer in enumerate(layers, 1):
            if problem := await self._verify_layer(layer):
                yield await self._settled(self._of_layer(layer, problem), repair)
            yield Checked("layer", number, len(layers))

    # --- what is missing ---------------------------------------------------------------------------------------------

    def _images_without(self) -> Iterator[Damage]:
        for image in list(self._services.catalogue):
            needed = [image.id, image.record.manifest, image.record.index, *image.record.attached]
            missing = [digest for digest in needed if digest and not self._content.has(digest)]
            if image.chain_id is not None and not self._snapshots.has(image.chain_id):
                missing.append(f"layers {image.chain_id}")
            if missing:
                users = [self._name(user) for user, _ in self._services.users(image)]
                yield Damage("image", image.id, f"missing: {', '.join(missing)}", [_shown(image)], users)
        for layer in self._snapshots.all_layers():
            if not self._snapshots.is_whole(layer):
                yield self._of_layer(layer, "its files are missing")

    def _containers_without(self) -> Iterator[Damage]:
        for container in list(self._context.registry):
            missing = [] if self._context.layout.container(container.id).is_dir() else ["its directory"]
            if not self._snapshots.writable(container.id).is_dir():
                missing.append("its writable layer")
            if missing:
                problem = f"missing: {', '.join(missing)}"
                yield Damage("container", container.id, problem, containers=[container.name])

    def _volumes_without(self) -> Iterator[Damage]:
        for volume in self._context.volumes.list():
            if not self._context.volumes.is_there(volume):
                users = [each.name for each in self._context.registry.of_volume(volume.name)]
                yield Damage("volume", volume.name, "missing: its directory", containers=users)

    # --- what has changed --------------------------------------------------------------------------------------------

    async def _verify(self, what: str, **arguments: str) -> str:
        return str((await self._services.call(_VERIFY + what, arguments))["problem"])

    async def _verify_layer(self, layer: Layer) -> str:
        """ "" also for one that has gone since the list was made, or that is told about already."""
        if not (self._snapshots.has(layer.chain_id) and self._snapshots.is_whole(layer)):
            return ""
        places = {"tree": self._snapshots.tree_of(layer), "recipe": self._snapshots.recipe_of(layer)}
        with self._snapshots.lease() as lease:
            lease.add(layer.chain_id)
            return await self._verify("layer", diff_id=layer.diff_id, **places)

    def _of_blob(self, digest: str, problem: str) -> Damage:
        damage = Damage("blob", digest, problem)
        if digest in self._snapshots.blobs():  # its files are unpacked: only pushing and saving would want it
            return damage
        for image in self._services.catalogue:
            if digest in (image.id, image.record.manifest, image.record.index, *image.record.attached):
                damage.images.append(_shown(image))
                damage.containers += [self._name(user) for user, _ in self._services.users(image)]
        return damage

    def _of_layer(self, layer: Layer, problem: str) -> Damage:
        damage = Damage("layer", layer.diff_id, problem)
        damage.images = [_shown(image) for image in self._on(layer)]
        damage.containers = [
            container.name
            for container in self._context.registry
            if layer in self._layers(self._snapshots.chain_of(container.id))
        ]
        return damage

    def _on(self, layer: Layer) -> list[Image]:
        return [image for image in self._services.catalogue if layer in self._layers(image.chain_id)]

    def _layers(self, top: str | None) -> list[Layer]:
        """Those that are there."""
        return self._snapshots.chain(top) if top is not None and self._snapshots.has(top) else []

    def _name(self, container_id: str) -> str:
        container = self._context.registry.find(container_id)
        return container.name if container is not None else container_id[:12]

    # --- repair ------------------------------------------------------------------------------------------------------

    async def _settled(self, damage: Damage, repair: bool) -> Damage:
        if not repair or damage.kind in ("container", "volume"):
            return damage
        try:
            damage.repaired = await self._repair(damage)
        except DockyardError as error:
            damage.problem += f"; not repaired: {error.message}"
        return damage

    async def _repair(self, damage: Damage) -> str:
        if damage.kind == "blob" and damage.id in self._snapshots.blobs():
            self._content.remove(damage.id)
            return "removed; it is made or fetched anew when it is wanted"
        done = []
        if damage.kind == "layer" and (steps := self._forget_steps(damage.id)):
            done.append(f"{steps} steps of the build cache removed")
        for ref in [] if damage.containers else damage.images:
            await self._images.remove(self._services.catalogue.get(ref).id, force=True)
            done.append(f"image {ref} removed")
        await self._services.collect()
        return ", ".join(done)

    def _forget_steps(self, diff_id: str) -> int:
        """Builds must not go on from a damaged layer."""
        doomed = [
            record
            for record in self._cache
            if diff_id in [layer.diff_id for layer in self._layers(record.chain)] and not self._cache.in_use(record)
        ]
        self._cache.remove(doomed)
        return len(doomed)


def _shown(image: Image) -> str:
    return image.names[0] if image.names else image.id
