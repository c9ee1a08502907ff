"""An index of several platforms goes to a registry: its images, what else it has, the index last.

Owns: the order, so that nothing in the registry ever refers to what is not there. Does not own: one image's way
(`pushing`), which index is complete (`engine.images.variants`).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from dockyard.engine.images import variants
from dockyard.engine.images.catalogue import Image
from dockyard.engine.images.services import Services
from dockyard.engine.images.variants import Branch
from dockyard.engine.transfers.contents import Stored
from dockyard.model.oci import Descriptor
from dockyard.store.remote.repository import Repository
from dockyard.store.remote.uploading import Upload

PushImage = Callable[[Image], Awaitable[object]]


async def push_index(
    services: Services, repository: Repository, holder: Image, tree: Branch, tag: str, push: PushImage
) -> tuple[str, int]:
    """Push the index `tree` of `holder` under `tag`; digest and size of the index. `push(image)` has one image in the
    registry under the digest of its manifest."""
    for child in tree.children:
        await _child(services, repository, holder, child, push)
    await _put(services, repository, tree.descriptor, tag)
    return tree.descriptor.digest, tree.descriptor.size


async def _child(services: Services, repository: Repository, holder: Image, branch: Branch, push: PushImage) -> None:
    if branch.image is not None:
        await push(branch.image)
        return
    for child in branch.children:
        await _child(services, repository, holder, child, push)
    for digest in variants.attached_blobs(services, holder, branch):
        if digest != branch.descriptor.digest:
            await _blob(services, repository, digest)
    await _put(services, repository, branch.descriptor, branch.descriptor.digest)


async def _blob(services: Services, repository: Repository, digest: str) -> None:
    what = f"blob {digest}"
    if await repository.session.again(lambda: repository.has_blob(digest, what)) is None:
        await Upload(repository, Stored(services, digest, services.content.size(digest)), what).run()


async def _put(services: Services, repository: Repository, descriptor: Descriptor, reference: str) -> None:
    data = services.content.read(descriptor.digest)
    what = f"manifest {descriptor.digest}"
    await repository.session.again(lambda: repository.put_manifest(reference, data, descriptor.media_type, what))
