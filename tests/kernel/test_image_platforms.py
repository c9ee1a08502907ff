"""Images of several platforms in the store: kept with their index, found by platform, leaving as they came."""

from __future__ import annotations

import io
import json
import os
import tarfile
from pathlib import Path
from typing import Any

import pytest

from dockyard.model.errors import InvalidArgument, NotFound
from dockyard.model.oci import Platform
from dockyard.proto.filters import Filters
from tests.kernel.test_images import EMPTY, Store, chunks, run, whole
from tests.kernel.test_registry_client import Client
from tests.kernel.test_registry_client import run as run_with_registry
from tests.support import busybox
from tests.support.fakeregistry import OCI_INDEX, FakeRegistry
from tests.support.platforms import NAME, Layout, multi

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
ARM, AMD = Platform("arm64", "linux"), Platform("amd64", "linux")


def top(archive: bytes) -> dict[str, Any]:
    """The one entry of an archive's index.json."""
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        (entry,) = json.loads(tar.extractfile("index.json").read())["manifests"]  # type: ignore[union-attr]
    return dict(entry)


@pytest.mark.parametrize("compress", [True, False], ids=["gzip", "plain"])
def test_an_index_is_kept_with_all_its_images(tmp_path: Path, compress: bool) -> None:
    layout, index = multi(compress=compress)

    async def work(store: Store) -> None:
        images = store.images
        loaded = await images.load(chunks(layout.archive()))
        assert [image.names for image in loaded] in ([[NAME], []], [[], [NAME]])
        host = images.get(NAME)
        assert (
            images.get_for(NAME, host.record.config.architecture and Platform(host.architecture, "linux")).id == host.id
        )
        assert {images.get_for(NAME, wanted).architecture for wanted in (ARM, AMD)} == {"arm64", "amd64"}
        with pytest.raises(
            NotFound, match=r"\(linux/\w+, linux/\w+\) does not match the specified platform \(linux/s390x\)"
        ):
            images.get_for(NAME, Platform("s390x", "linux"))
        assert [entry.image.id for entry in images.list()] == [host.id]  # the other one is seen with it
        found = images.variants(host)
        assert [entry.available for entry in found] == [True] * 4
        assert [entry.attests for entry in found][1::2] == [entry.descriptor.digest for entry in found][::2]
        await store.reopen()
        images = store.images
        saved = await whole(images.save([NAME]))
        assert top(saved)["digest"] == index["digest"]
        arm = await whole(images.save([NAME], ARM))
        assert top(arm)["digest"] == images.get_for(NAME, ARM).record.manifest
        await images.prune(Filters())
        assert len(images.variants(images.get(NAME))) == 4  # an image without a name, yet not a dangling one
        gone = await images.remove(NAME)
        assert sum(bool(entry.deleted) for entry in gone) >= 2
        assert store.left() == EMPTY
        await images.load(chunks(saved))
        assert top(await whole(images.save([NAME])))["digest"] == index["digest"]
        await images.remove(NAME)
        assert store.left() == EMPTY

    run(tmp_path, work)


def test_one_platform_first_and_the_others_later(tmp_path: Path) -> None:
    layout, index = multi()

    async def work(store: Store) -> None:
        images = store.images
        (loaded,) = await images.load(chunks(layout.archive()), ARM)
        assert images.get(NAME).id == loaded.id and images.get(NAME).architecture == "arm64"
        with pytest.raises(NotFound):
            images.get_for(NAME, AMD)
        assert sorted(entry.available for entry in images.variants(images.get(NAME))) == [False, True, True, True]
        assert top(await whole(images.save([NAME])))["digest"] == images.get(NAME).record.manifest
        await images.load(chunks(layout.archive()))
        assert top(await whole(images.save([NAME])))["digest"] == index["digest"]
        (used,) = [image for image in (images.get_for(NAME, ARM), images.get_for(NAME, AMD)) if not image.names]
        store.users = {used.id: [("c" * 64, False)]}
        await images.remove(NAME)
        assert [entry.image.id for entry in images.list()] == [used.id]  # a container needs it
        store.users = {}
        await images.prune(Filters())
        assert store.left() == EMPTY

    run(tmp_path, work)


def test_what_a_writer_left_out_is_not_missed_and_what_is_broken_is(tmp_path: Path) -> None:
    layout, index = multi(attest=False)
    manifests = json.loads(layout.members[f"blobs/sha256/{index['digest'][7:]}"])["manifests"]
    arm = f"blobs/sha256/{manifests[0]['digest'][7:]}"
    layer = json.loads(layout.members[arm])["layers"][1]["digest"]
    partial = {name: data for name, data in layout.members.items() if name != arm}
    broken = {**layout.members, f"blobs/sha256/{layer[7:]}": b"\x1f\x8b\x08" + b"x" * (len(layout.members[arm]) + 600)}
    absent = {name: data for name, data in layout.members.items() if name != f"blobs/sha256/{layer[7:]}"}

    async def work(store: Store) -> None:
        for members, text in ((broken, layer[:19]), (absent, r"is not in the archive")):
            with pytest.raises(InvalidArgument, match=text):
                await store.images.load(chunks(busybox.archive(members)))
            assert store.left() == EMPTY
        (loaded,) = await store.images.load(chunks(busybox.archive(partial)))
        assert store.images.get(loaded.id).architecture == "amd64"
        assert [entry.available for entry in store.images.variants(store.images.get(NAME))] == [False, True]

    run(tmp_path, work)


def test_artifacts_are_refused_by_name(tmp_path: Path) -> None:
    layout = Layout()
    config = layout.blob(b"{}", "application/vnd.cncf.helm.config.v1+json")
    chart = layout.blob(b"chart", "application/vnd.cncf.helm.chart.content.v1.tar+gzip")
    layout.named(layout.document({"config": config, "layers": [chart]}, "application/vnd.oci.image.manifest.v1+json"))

    async def work(store: Store) -> None:
        with pytest.raises(InvalidArgument, match=r"not an image but an artifact: .*helm\.config"):
            await store.images.load(chunks(layout.archive()))
        assert store.left() == EMPTY

    run(tmp_path, work)


def test_push_and_pull_of_all_platforms(tmp_path: Path) -> None:
    layout, index = multi()
    bare, bare_index = multi(attest=False)

    async def work(client: Client, registry: FakeRegistry) -> None:
        name = f"{registry.host}/multi"
        await client.images.load(chunks(layout.archive()))
        await client.images.tag(NAME, name, "latest")
        await client.push(name)
        kind, data = registry.manifests["latest"]
        assert kind == OCI_INDEX and f"sha256:{busybox.sha256(data)}" == index["digest"]
        present = {*registry.blobs, *registry.manifests}
        assert {f"sha256:{member[13:]}" for member in layout.members if member.startswith("blobs/")} <= present
        arm = client.images.get_for(NAME, ARM)
        await client.push(name, wanted=ARM)
        assert busybox.sha256(registry.manifests["latest"][1]) == arm.record.manifest[7:]

        await client.images.load(chunks(bare.archive()))
        await client.images.tag(NAME, name, "latest")
        await client.push(name)
        for image in [entry.image for entry in client.images.list()]:
            await client.images.remove(image.id, force=True)
        assert client.images.count() == 0
        for platform in ("linux/arm64", "linux/amd64"):
            await client.pull(name, platform=platform)
            assert client.images.get(name).architecture == platform[6:]
        assert client.images.get_for(name, ARM).architecture == "arm64"
        (listed,) = client.images.list()
        assert listed.image.architecture == "amd64"
        assert top(await whole(client.images.save([name])))["digest"] == bare_index["digest"]
        told = await client.push(name)
        assert any((message.aux or {}).get("Digest") == bare_index["digest"] for message in told)
        await client.images.remove(name)
        assert client.images.count() == 0 and client.left()["l"] == []

    run_with_registry(tmp_path, work)


def test_an_index_that_is_not_here_whole_is_told_of_by_a_push(tmp_path: Path) -> None:
    layout, index = multi()

    async def work(client: Client, registry: FakeRegistry) -> None:
        name = f"{registry.host}/multi"
        await client.images.load(chunks(layout.archive()), ARM)
        await client.images.tag(NAME, name, "latest")
        notes = [message.aux for message in await client.push(name) if message.aux]
        assert notes[-1]["manifestPushedInsteadOfIndex"] is True
        assert notes[-1]["originalIndex"]["digest"] == index["digest"]
        assert busybox.sha256(registry.manifests["latest"][1]) == notes[-1]["selectedManifest"]["digest"][7:]

    run_with_registry(tmp_path, work)
