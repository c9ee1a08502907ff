"""Pull and push: a registry that lies, breaks off, forgets, and Debian's own with the docker CLI and skopeo."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import json
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest
import zstandard
from aiohttp import web

from dockyard.engine.images import Images
from dockyard.engine.transfers import Limits, Message, Transfers
from dockyard.model.errors import DockyardError, Forbidden, InvalidArgument, NotFound, Unavailable
from dockyard.proto.dockerconfig import Credentials
from dockyard.proto.filters import Filters
from dockyard.proto.registries import RegistryRules
from dockyard.store import inline
from dockyard.store.db import Database
from dockyard.store.layout import Layout
from dockyard.store.snapshots import Snapshots
from tests.support import busybox
from tests.support.engines import Dockyardd
from tests.support.fakeregistry import (
    DOCKER_MANIFEST,
    OCI_INDEX,
    OCI_MANIFEST,
    FakeRegistry,
    digest_of,
    error,
)

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")

IMPATIENT = Limits(connect=2, silence=0.5, tries=3, delay=0.01)
TARS = [busybox.layer_tar({f"f{n}": bytes([n]) * 5000, f"n{n}": os.urandom(300_000)}) for n in range(3)]
EMPTY: dict[str, list[str]] = {"blobs": [], "l": [], "r": [], "ingest": []}


class Client:
    """A store with what pulls into it and pushes from it; `reopen` is a daemon's restart."""

    def __init__(self, root: Path, rules: RegistryRules | None, driver: str) -> None:
        self.root, self.rules, self.driver = root, rules, driver
        self.messages: list[Message] = []
        self.events: list[tuple[str, str]] = []

    def publish(self, type: str, action: str, actor_id: str, attributes: Any = None) -> None:
        self.events.append((action, actor_id))

    async def open(self) -> None:
        self.layout = Layout(self.root / "data", self.root / "run")
        self.layout.open()
        self.database = Database(self.layout.database)
        self.database.open()
        self.snapshots = Snapshots(self.layout, self.database, inline.call, driver=self.driver)
        await self.snapshots.open()
        self.images = Images(self.layout, self.database, self.snapshots, inline.call, events=self)
        await self.images.open()
        certificates = (str(self.root / "certs.d"),)
        self.transfers = Transfers(self.images.services, self.rules, limits=IMPATIENT, certificates=certificates)

    async def close(self) -> None:
        await self.transfers.close()
        await self.snapshots.close()
        self.database.close()
        self.layout.drain()
        self.layout.close()

    async def reopen(self) -> None:
        await self.close()
        await self.open()

    async def pull(self, name: str, **options: Any) -> list[str]:
        """The statuses that were told. They are in `messages` too, if it fails."""
        told: list[Message] = []
        self.messages = told
        async for message in self.transfers.pull(name, tag=options.pop("tag", "latest"), **options):
            told.append(message)
        return [f"{m.id}: {m.status}" if m.id else m.status for m in told]

    async def push(self, name: str, **options: Any) -> list[Message]:
        return [message async for message in self.transfers.push(name, tag="latest", **options)]

    async def refused(self, name: str, kind: type[DockyardError] = DockyardError, **options: Any) -> str:
        """What a pull fails with; nothing of an image may be left then but a part to go on with."""
        with pytest.raises(kind) as raised:
            await self.pull(name, **options)
        self.layout.drain()
        left = self.left()
        assert [left["blobs"], left["l"], left["r"]] == [[], [], []]
        assert all(entry.startswith("partial-") for entry in left["ingest"])
        assert self.images.count() == 0
        return str(raised.value)

    def left(self) -> dict[str, list[str]]:
        base = self.layout.snapshots / self.snapshots.driver
        places = {"blobs": self.layout.blobs / "sha256", "l": base / "l", "r": base / "r"}
        found = {name: sorted(set(os.listdir(path)) - {"empty"}) for name, path in places.items()}
        return {**found, "ingest": os.listdir(self.layout.ingest)}


Work = Callable[[Client, FakeRegistry], Coroutine[Any, Any, None]]


def run(root: Path, work: Work, rules: RegistryRules | None = None, driver: str = "") -> None:
    async def main() -> None:
        client = Client(root, rules, driver)
        await client.open()
        try:
            async with FakeRegistry() as registry:
                await work(client, registry)
        finally:
            await client.close()

    asyncio.run(main())


# --- pulling what is right --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("driver", ["overlay", "vfs"])
def test_pull(tmp_path: Path, driver: str) -> None:
    async def work(client: Client, registry: FakeRegistry) -> None:
        manifest = registry.add_image(TARS)
        name = f"{registry.host}/team/app"
        told = await client.pull(name)
        ids = [layer["digest"][7:19] for layer in manifest["layers"]]
        assert told[:4] == ["latest: Pulling from team/app", *[f"{i}: Pulling fs layer" for i in ids]]
        for i in ids:
            mine = [line.partition(": ")[2] for line in told if line.startswith(i)]
            moments = ["Pulling fs layer", "Waiting", "Verifying Checksum", "Download complete", "Pull complete"]
            assert [line for line in mine if line in moments] == moments
            assert {"Downloading", "Extracting"} <= set(mine)
        digest = digest_of(registry.manifests["latest"][1])
        assert told[-2:] == [f"Digest: {digest}", f"Status: Downloaded newer image for {name}:latest"]
        image = client.images.get(name)
        assert image.digests == [f"{name}@{digest}"]
        assert client.events == [("pull", f"{name}:latest")]
        again = await client.pull(name)
        assert again[-1] == f"Status: Image is up to date for {name}:latest"
        assert [f"{i}: Already exists" for i in ids] == again[1:4]
        by_digest = await client.pull(name, tag=digest)
        assert by_digest[-1] == f"Status: Image is up to date for {name}@{digest}"
        await client.reopen()
        assert client.images.get(f"{name}@{digest}").id == image.id
        await client.images.remove(image.id, force=True)
        client.layout.drain()
        assert client.left() == EMPTY

    run(tmp_path, work, driver=driver)


@pytest.mark.parametrize(
    ("compress", "kind"),
    [
        (gzip.compress, "application/vnd.docker.image.rootfs.diff.tar.gzip"),
        (zstandard.ZstdCompressor().compress, "application/vnd.oci.image.layer.v1.tar+zstd"),
        (bytes, "application/vnd.oci.image.layer.v1.tar"),
    ],
)
def test_pull_every_compression(tmp_path: Path, compress: Callable[[bytes], bytes], kind: str) -> None:
    async def work(client: Client, registry: FakeRegistry) -> None:
        empty = busybox.layer_tar({})
        registry.add_image([TARS[0], empty, TARS[1], empty], compress=compress, layer_type=kind)
        await client.pull(f"{registry.host}/x")
        image = client.images.get(f"{registry.host}/x")
        assert [layer.diff_id for layer in reversed(client.snapshots.chain(image.chain_id))] == [
            digest_of(tar) for tar in (TARS[0], empty, TARS[1], empty)
        ]
        assert client.left()["ingest"] == []

    run(tmp_path, work)


def test_platforms(tmp_path: Path) -> None:
    async def work(client: Client, registry: FakeRegistry) -> None:
        entries = []
        for number, (architecture, variant) in enumerate([("amd64", ""), ("arm", "v6"), ("arm", "v7"), ("arm64", "")]):
            registry.add_image([TARS[number % 3]], f"t{number}", config={"architecture": architecture})
            data = registry.manifests.pop(f"t{number}")[1]
            platform = {"os": "linux", "architecture": architecture, **({"variant": variant} if variant else {})}
            entries.append(
                {"mediaType": OCI_MANIFEST, "digest": digest_of(data), "size": len(data), "platform": platform}
            )
        index = registry.add_manifest({"schemaVersion": 2, "manifests": entries}, kind=OCI_INDEX)
        for wanted, number in (("", 0), ("linux/arm/v7", 2), ("linux/arm", 2), ("linux/arm/v6", 1), ("linux/arm64", 3)):
            await client.pull(f"{registry.host}/x", platform=wanted)
            image = client.images.get(f"{registry.host}/x")
            assert image.record.manifest == entries[number]["digest"], wanted
            assert image.digests == [f"{registry.host}/x@{index}"]
            await client.images.remove(image.id, force=True)
        text = await client.refused(f"{registry.host}/x", NotFound, platform="linux/s390x")
        assert "no matching manifest for linux/s390x in the manifest list entries" in text
        registry.add_image([TARS[0]], "single")
        text = await client.refused(f"{registry.host}/x", NotFound, tag="single", platform="linux/arm64")
        assert "does not match the specified platform: wanted linux/arm64, actual: linux/amd64" in text

    run(tmp_path, work)


def test_all_tags(tmp_path: Path) -> None:
    async def work(client: Client, registry: FakeRegistry) -> None:
        registry.add_image(TARS[:1], "one")
        registry.add_image(TARS[1:2], "two")
        await client.pull(f"{registry.host}/x", tag="")
        assert client.images.get(f"{registry.host}/x:one").id != client.images.get(f"{registry.host}/x:two").id

    run(tmp_path, work)


def test_what_is_no_image_is_refused(tmp_path: Path) -> None:
    async def work(client: Client, registry: FakeRegistry) -> None:
        config = {"digest": registry.add_blob(b"{}"), "size": 2}
        base = {"schemaVersion": 2, "mediaType": OCI_MANIFEST, "layers": []}
        chart = "application/vnd.cncf.helm.config.v1+json"
        registry.add_manifest({**base, "config": {**config, "mediaType": chart}}, "chart")
        assert "is not an image but an artifact" in await client.refused(f"{registry.host}/x", tag="chart")
        plugin = "application/vnd.docker.plugin.v1+json"
        registry.add_manifest({**base, "config": {**config, "mediaType": plugin}}, "plugin")
        assert f'Encountered remote "{plugin}"(plugin config)' in await client.refused(
            f"{registry.host}/x", tag="plugin"
        )
        registry.add_image(TARS[:1], "layer", layer_type="text/plain")
        text = await client.refused(f"{registry.host}/x", tag="layer")
        assert text.startswith("layer sha256:") and "'text/plain' is not that of a file system's layer" in text
        registry.add_image(TARS[:1], "windows", config={"os": "windows"})
        assert 'operating system "windows"' in await client.refused(f"{registry.host}/x", tag="windows")
        registry.manifests["old"] = ("application/vnd.docker.distribution.manifest.v1+prettyjws", b"{}")
        assert "schema 1) is no longer supported" in await client.refused(f"{registry.host}/x", tag="old")
        assert client.left() == EMPTY

    run(tmp_path, work)


# --- registries that lie ----------------------------------------------------------------------------------------------


def test_s31_wrong_digest(tmp_path: Path) -> None:
    """Other bytes of the right number: damaged gzip, and a fine layer that is not the one."""

    async def work(client: Client, registry: FakeRegistry) -> None:
        manifest = registry.add_image(TARS)
        digest = manifest["layers"][1]["digest"]
        good = registry.blobs[digest]
        for bad in (good[:1000] + bytes([good[1000] ^ 1]) + good[1001:], os.urandom(len(good))):
            registry.blobs[digest] = bad
            text = await client.refused(f"{registry.host}/x", InvalidArgument)
            assert text == (
                f"layer {digest}: verification failed: the digest of what the registry sent is {digest_of(bad)}"
            )
        await client.reopen()
        assert not [entry for entry in client.left()["ingest"] if digest[7:] in entry]
        registry.blobs[digest] = good
        await client.pull(f"{registry.host}/x")

    run(tmp_path, work)


def test_s31_lying_diff_id(tmp_path: Path) -> None:
    async def work(client: Client, registry: FakeRegistry) -> None:
        registry.add_image(TARS[:1], config={"rootfs": {"type": "layers", "diff_ids": [digest_of(b"other")]}})
        text = await client.refused(f"{registry.host}/x", InvalidArgument)
        assert f"its content has the digest {digest_of(TARS[0])}, not {digest_of(b'other')}" in text
        registry.add_image(TARS[:1], config={"rootfs": {"type": "layers", "diff_ids": []}})
        assert "layers length mismatch" in await client.refused(f"{registry.host}/x", InvalidArgument)
        assert client.left() == EMPTY

    run(tmp_path, work)


@pytest.mark.parametrize(
    "digest", ["sha256:../../../../etc/passwd", "sha256:" + "A" * 64, "md5:" + "0" * 64, "sha256:" + "0" * 63, "/", ""]
)
def test_s31_digest_grammar(tmp_path: Path, digest: str) -> None:
    async def work(client: Client, registry: FakeRegistry) -> None:
        manifest = registry.add_image(TARS[:1])
        manifest["layers"][0]["digest"] = digest
        registry.add_manifest(manifest)
        assert "invalid digest" in await client.refused(f"{registry.host}/x", InvalidArgument)
        assert not registry.asked("/blobs/")

    run(tmp_path, work)


@pytest.mark.parametrize("change", [-1, 1, 10_000])
def test_wrong_size(tmp_path: Path, change: int) -> None:
    async def work(client: Client, registry: FakeRegistry) -> None:
        manifest = registry.add_image(TARS)
        layer = manifest["layers"][2]
        layer["size"] += change
        registry.add_manifest(manifest)
        text = await client.refused(f"{registry.host}/x", InvalidArgument)
        real = len(registry.blobs[layer["digest"]])
        assert text == f"layer {layer['digest']}: the registry has {real} bytes, its manifest says {layer['size']}"

    run(tmp_path, work)


def streaming(data: Callable[[], list[bytes]], pause: float = 0.0, die: bool = False) -> Any:
    """A hook that answers with these pieces, without a length."""

    async def hook(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        response.enable_chunked_encoding()
        await response.prepare(request)
        for piece in data():
            await response.write(piece)
            await asyncio.sleep(pause)
        if die and request.transport is not None:
            request.transport.abort()
        return response

    return hook


def test_endless(tmp_path: Path) -> None:
    async def work(client: Client, registry: FakeRegistry) -> None:
        digest = registry.add_image(TARS[:1])["layers"][0]["digest"]
        size = len(registry.blobs[digest])
        registry.hooks.append((digest, streaming(lambda: [registry.blobs[digest], *[b"x" * 65536] * 100])))
        text = await client.refused(f"{registry.host}/x", InvalidArgument)
        assert text == f"layer {digest}: the registry sends more than its {size} bytes"

    run(tmp_path, work)


def test_endless_documents(tmp_path: Path) -> None:
    async def work(client: Client, registry: FakeRegistry) -> None:
        registry.hooks.append(("/manifests/", streaming(lambda: [b" " * 65536] * 100)))
        assert "larger than 4194304 bytes" in await client.refused(f"{registry.host}/x", InvalidArgument)

    run(tmp_path, work)


@pytest.mark.parametrize("die", [False, True])
def test_truncated_every_time(tmp_path: Path, die: bool) -> None:
    async def work(client: Client, registry: FakeRegistry) -> None:
        digest = registry.add_image(TARS[:1])["layers"][0]["digest"]
        data = registry.blobs[digest]
        registry.range = False
        registry.hooks.append((digest, streaming(lambda: [data[:100_000]], die=die)))
        text = await client.refused(f"{registry.host}/x", Unavailable)
        assert f"layer {digest}: " in text
        if not die:
            assert f"the registry sent 100000 of {len(data)} bytes (unexpected EOF)" in text
        assert "Retrying in 1 second" in [message.status for message in client.messages]
        assert client.left()["ingest"] == [f"partial-{digest.replace(':', '-')}"]

    run(tmp_path, work)


def test_slow(tmp_path: Path) -> None:
    async def work(client: Client, registry: FakeRegistry) -> None:
        digest = registry.add_image(TARS[:1])["layers"][0]["digest"]
        registry.hooks.append((digest, streaming(lambda: [registry.blobs[digest][:1000]], pause=3)))
        begun = time.monotonic()
        text = await client.refused(f"{registry.host}/x", Unavailable)
        assert f"layer {digest}: " in text and "i/o timeout" in text
        assert time.monotonic() - begun < 10

    run(tmp_path, work)


def test_redirect_loop(tmp_path: Path) -> None:
    async def work(client: Client, registry: FakeRegistry) -> None:
        digest = registry.add_image(TARS[:1])["layers"][0]["digest"]

        async def hook(request: web.Request) -> web.StreamResponse:
            return web.Response(status=307, headers={"Location": str(request.url)})

        registry.hooks.append((digest, hook))
        text = await client.refused(f"{registry.host}/x", InvalidArgument)
        assert text == f"layer {digest}: stopped after 5 redirects"

    run(tmp_path, work)


def test_a_bad_layer_of_good_digest(tmp_path: Path) -> None:
    async def work(client: Client, registry: FakeRegistry) -> None:
        digest = registry.add_image([TARS[0][:-2000] + b"\xff" * 1000, b"no tar at all" * 100])["layers"][1]["digest"]
        text = await client.refused(f"{registry.host}/x", InvalidArgument)
        assert digest in text or "layer sha256:" in text
        registry.add_image([TARS[0]], compress=lambda tar: gzip.compress(tar)[:-5000], tag="cut")
        text = await client.refused(f"{registry.host}/x", InvalidArgument, tag="cut")
        assert "the gzip data is truncated" in text
        assert client.left()["ingest"] == []

    run(tmp_path, work)


def test_s32_manifest_confusion(tmp_path: Path) -> None:
    async def work(client: Client, registry: FakeRegistry) -> None:
        manifest = registry.add_image(TARS[:1])
        registry.add_manifest({**manifest, "manifests": []}, "both")
        assert "both an index and a manifest" in await client.refused(f"{registry.host}/x", tag="both")
        registry.add_manifest(manifest, "type", kind=DOCKER_MANIFEST)
        assert "does not match its Content-Type" in await client.refused(f"{registry.host}/x", tag="type")
        bare = {key: value for key, value in manifest.items() if key != "mediaType"}
        registry.add_manifest(bare, "index", kind=OCI_INDEX)
        assert "not of the type that its Content-Type" in await client.refused(f"{registry.host}/x", tag="index")
        registry.add_manifest(manifest, "text", kind="text/plain")
        assert "unsupported manifest media type 'text/plain'" in await client.refused(f"{registry.host}/x", tag="text")
        entry = {"mediaType": DOCKER_MANIFEST, "digest": registry.add_manifest(manifest, "inner"), "size": 1}
        registry.add_manifest({"schemaVersion": 2, "manifests": [entry]}, "outer", kind=OCI_INDEX)
        assert "its index says" in await client.refused(f"{registry.host}/x", tag="outer")
        other = registry.manifests["inner"]
        wanted = "sha256:" + "1" * 64
        registry.manifests[wanted] = other
        assert "manifest verification failed" in await client.refused(f"{registry.host}/x", tag=wanted)

    run(tmp_path, work)


def test_full_disk_names_the_layer(tmp_path: Path) -> None:
    """A file system of its own, with room for less than the image."""
    place = tmp_path / "small"
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=70m", "tmpfs", str(place)], check=True)
    try:

        async def work(client: Client, registry: FakeRegistry) -> None:
            big = busybox.layer_tar({"big": os.urandom(30_000_000)})
            registry.add_image([TARS[0], big])
            with pytest.raises(DockyardError, match="layer sha256:"):
                await client.pull(f"{registry.host}/x")
            client.layout.drain()
            assert client.images.count() == 0
            small = registry.manifests["latest"][1].decode().partition('"layers"')[2].partition("sha256:")[2][:64]
            left = client.left()
            assert set(left.pop("ingest")) <= {f"partial-sha256-{small}"}  # whole, for the next try
            assert not any(left.values())
            registry.add_image(TARS[:1], "small")
            await client.pull(f"{registry.host}/x", tag="small")

        run(place, work)
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)


# --- going on ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("with_range", [True, False])
def test_a_broken_connection_is_gone_on_with(tmp_path: Path, with_range: bool) -> None:
    async def work(client: Client, registry: FakeRegistry) -> None:
        digest = registry.add_image(TARS[:1])["layers"][0]["digest"]
        data = registry.blobs[digest]
        registry.range = with_range
        breaks = iter([50_000, 120_000])

        async def hook(request: web.Request) -> web.StreamResponse | None:
            end = next(breaks, None)
            if end is None:
                return None
            start = request.http_range.start or 0 if with_range else 0
            headers = {"Content-Range": f"bytes {start}-{len(data) - 1}/{len(data)}"} if start else {}
            response = web.StreamResponse(status=206 if start else 200, headers=headers)
            response.content_length = len(data) - start
            await response.prepare(request)
            await response.write(data[start:end])
            assert request.transport is not None
            request.transport.close()
            return response

        registry.hooks.append((digest, hook))
        told = await client.pull(f"{registry.host}/x")
        assert told[-1].startswith("Status: Downloaded")
        assert [h.get("Range") for h in registry.asked(digest)] == [None, "bytes=50000-", "bytes=120000-"]

    run(tmp_path, work)


def test_a_broken_pull_resumes_after_a_restart(tmp_path: Path) -> None:
    async def work(client: Client, registry: FakeRegistry) -> None:
        digest = registry.add_image(TARS)["layers"][1]["digest"]
        data = registry.blobs[digest]
        registry.hooks.append((digest, streaming(lambda: [data[:100_000]], pause=2)))
        await client.refused(f"{registry.host}/x", Unavailable)
        registry.hooks.clear()
        await client.reopen()
        registry.log.clear()
        await client.pull(f"{registry.host}/x")
        (asked,) = registry.asked(digest)
        assert asked["Range"] == "bytes=100000-"
        assert client.left()["ingest"] == []

    run(tmp_path, work)


def test_whole_layers_of_a_broken_pull_are_not_fetched_again(tmp_path: Path) -> None:
    async def work(client: Client, registry: FakeRegistry) -> None:
        layers = registry.add_image(TARS)["layers"]
        gate = asyncio.Event()

        async def hook(request: web.Request) -> web.StreamResponse:
            await gate.wait()
            return web.Response(status=404)

        registry.hooks.append((layers[2]["digest"], hook))
        pull = asyncio.create_task(client.pull(f"{registry.host}/x"))
        while len([m for m in client.messages if m.status == "Pull complete"]) < 2:
            await asyncio.sleep(0.01)
        gate.set()
        with pytest.raises(NotFound, match=layers[2]["digest"]):
            await pull
        await client.reopen()
        registry.hooks.clear()
        registry.log.clear()
        await client.pull(f"{registry.host}/x")
        assert [len(registry.asked(layer["digest"])) for layer in layers] == [0, 0, 1]
        assert client.left()["ingest"] == [] and len(client.left()["blobs"]) == 5

    run(tmp_path, work)


def test_a_damaged_part_begins_anew(tmp_path: Path) -> None:
    async def work(client: Client, registry: FakeRegistry) -> None:
        digest = registry.add_image(TARS[:1])["layers"][0]["digest"]
        client.layout.partial(digest).write_bytes(bytes(100_000))
        await client.pull(f"{registry.host}/x")
        assert [h.get("Range") for h in registry.asked(digest)] == ["bytes=100000-", None]
        assert client.left()["ingest"] == []

    run(tmp_path, work)


def test_old_parts_are_swept(tmp_path: Path) -> None:
    async def work(client: Client, registry: FakeRegistry) -> None:
        old, young = client.layout.partial("sha256:" + "0" * 64), client.layout.partial("sha256:" + "1" * 64)
        for path in (old, young):
            path.write_bytes(b"x")
        os.utime(old, (time.time() - 10 * 86400,) * 2)
        await client.reopen()
        assert client.left()["ingest"] == [young.name]

    run(tmp_path, work)


def test_identical_pulls_share_one_transfer(tmp_path: Path) -> None:
    async def work(client: Client, registry: FakeRegistry) -> None:
        layers = registry.add_image(TARS)["layers"]
        registry.add_image([*TARS[:2], busybox.layer_tar({"other": b"1"})], "other")
        gate = asyncio.Event()

        async def hook(request: web.Request) -> None:
            await gate.wait()

        registry.hooks.append(("/blobs/" + layers[0]["digest"], hook))
        pulls = [asyncio.create_task(client.pull(f"{registry.host}/x", tag=t)) for t in ("latest", "latest", "other")]
        await asyncio.sleep(0.2)
        gate.set()
        told = await asyncio.gather(*pulls)
        assert all(lines[-1].startswith("Status:") for lines in told)
        assert "latest: Pulling from x" in told[1]
        for layer in layers:
            assert len(registry.asked(layer["digest"])) == 1

    run(tmp_path, work)


def test_a_transfer_ends_with_its_last_client(tmp_path: Path) -> None:
    async def work(client: Client, registry: FakeRegistry) -> None:
        digest = registry.add_image(TARS[:1])["layers"][0]["digest"]
        registry.hooks.append((digest, streaming(lambda: [registry.blobs[digest][:60_000]], pause=0.4)))
        first, second = [asyncio.create_task(client.pull(f"{registry.host}/x")) for _ in range(2)]
        await asyncio.sleep(0.2)
        first.cancel()
        await asyncio.gather(first, return_exceptions=True)
        assert not second.done() and len(client.transfers._pool) == 1
        second.cancel()
        await asyncio.gather(second, return_exceptions=True)
        assert len(client.transfers._pool) == 0
        client.layout.drain()
        left = client.left()
        assert left["l"] == left["blobs"] == [] and len(left["ingest"]) == 1
        registry.hooks.clear()
        await client.pull(f"{registry.host}/x")

    run(tmp_path, work)


# --- limits, mirrors, users -------------------------------------------------------------------------------------------


def test_rate_limit_is_shown(tmp_path: Path) -> None:
    async def work(client: Client, registry: FakeRegistry) -> None:
        registry.add_image(TARS[:1])
        told = "You have reached your pull rate limit."

        async def hook(request: web.Request) -> web.StreamResponse:
            return error(429, "TOOMANYREQUESTS", told)

        registry.hooks.append(("/manifests/", hook))
        assert await client.refused(f"{registry.host}/x", Unavailable) == f"toomanyrequests: {told}"
        assert len(registry.asked("/manifests/")) == 1

    run(tmp_path, work)


def test_server_errors_are_tried_again(tmp_path: Path) -> None:
    async def work(client: Client, registry: FakeRegistry) -> None:
        registry.add_image(TARS[:1])
        failures = iter([503, 500])

        async def hook(request: web.Request) -> web.StreamResponse | None:
            status = next(failures, None)
            return web.Response(status=status) if status else None

        registry.hooks.append(("/manifests/", hook))
        await client.pull(f"{registry.host}/x")
        assert len(registry.asked("/manifests/")) == 3

    run(tmp_path, work)


def test_mirror_first_then_the_registry(tmp_path: Path) -> None:
    async def main() -> None:
        async with FakeRegistry() as origin, FakeRegistry("127.0.0.2") as mirror:
            rules = RegistryRules.make([f"{origin.host}=http://{mirror.host}/cache"], [])
            client = Client(tmp_path, rules, "")
            await client.open()
            try:
                origin.user = ("me", "secret")
                manifest = origin.add_image(TARS)
                me = Credentials("me", "secret")
                await client.pull(f"{origin.host}/a/x", credentials=me)  # the mirror has nothing
                await client.images.remove(f"{origin.host}/a/x", force=True)
                mirror.blobs, mirror.manifests = dict(origin.blobs), dict(origin.manifests)
                del mirror.blobs[manifest["layers"][1]["digest"]]
                origin.log.clear()
                await client.pull(f"{origin.host}/a/x", credentials=me)
                assert [path for _, path, _ in origin.log if "/blobs/" in path] == [
                    f"/v2/a/x/blobs/{manifest['layers'][1]['digest']}"
                ]
                assert mirror.asked("/v2/cache/a/x/manifests/latest")
                assert not [h for h in mirror.asked("/") if "Authorization" in h]  # S38
            finally:
                await client.close()

    asyncio.run(main())


def test_hosts_toml(tmp_path: Path) -> None:
    """Two mirrors, the first for digests only, then the registry, which lies elsewhere; read anew for each pull."""

    async def main() -> None:
        async with FakeRegistry() as origin, FakeRegistry("127.0.0.2") as one, FakeRegistry("127.0.0.3") as two:
            client = Client(tmp_path, None, "")
            await client.open()
            try:
                manifest = origin.add_image(TARS)
                one.blobs = dict(origin.blobs)
                two.manifests = dict(origin.manifests)
                origin.user = ("me", "secret")
                place = tmp_path / "certs.d" / "r.example"
                place.mkdir(parents=True)
                (place / "hosts.toml").write_text(f"""
                    server = "http://{origin.host}"
                    [host."http://{one.host}"]
                      capabilities = ["pull"]
                    [host."http://{two.host}/v2/proxy"]
                      capabilities = ["pull", "resolve"]
                      override_path = true
                    [host."http://{two.host}/v2/proxy".header]
                      x-tenant = "7"
                """)
                me = Credentials("me", "secret")
                await client.pull("r.example/a/x", credentials=me)
                assert not one.asked("/manifests/") and len(one.asked("/blobs/")) == 4
                (asked,) = two.asked("/v2/proxy/a/x/manifests/latest?ns=r.example")
                assert asked["x-tenant"] == "7"
                assert not origin.log
                assert not [h for h in (*one.asked("/"), *two.asked("/")) if "Authorization" in h]  # S38
                del one.blobs[manifest["layers"][0]["digest"]]
                await client.images.remove("r.example/a/x", force=True)
                await client.pull("r.example/a/x", credentials=me)
                assert [path for _, path, _ in origin.log if "/blobs/" in path] == [
                    f"/v2/a/x/blobs/{manifest['layers'][0]['digest']}"
                ]
                await client.push("r.example/a/x", credentials=me)  # to the registry itself
                assert origin.asked("/manifests/latest", "PUT") and not two.asked("/", "PUT")
                (place / "hosts.toml").write_text("[host.x]\nwhat = 1")
                with pytest.raises(InvalidArgument, match=f"{place}/hosts.toml: host 'x': unknown key 'what'"):
                    await client.pull("r.example/a/x", credentials=me)
            finally:
                await client.close()

    asyncio.run(main())


def test_foreign_layers(tmp_path: Path) -> None:
    """They come from where their descriptor leads and are not pushed, unless that is permitted."""

    async def main() -> None:
        async with FakeRegistry() as registry, FakeRegistry("127.0.0.2") as vendor, FakeRegistry("127.0.0.3") as third:
            client = Client(tmp_path, RegistryRules.make([], [], [], [third.host]), "")
            await client.open()
            try:
                manifest = registry.add_image(TARS[:2])
                layer = manifest["layers"][0]
                layer["mediaType"] = "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip"
                layer["urls"] = ["ftp://x.example/y", f"https://{vendor.host}/files/base"]
                digest = registry.add_manifest(manifest)
                data = registry.blobs.pop(layer["digest"])

                # TLS of the vendor is not what is tested here: the registry itself answers for the address
                async def lead(request: web.Request) -> web.StreamResponse | None:
                    return web.Response(body=data) if request.method == "GET" else None

                text = await client.refused(f"{registry.host}/x")
                assert f"layer {layer['digest']}" in text or vendor.host in text
                registry.hooks.append((layer["digest"], lead))
                await client.pull(f"{registry.host}/x")
                registry.hooks.clear()
                registry.log.clear()
                statuses = [m.status for m in await client.push(f"{registry.host}/x")]
                assert statuses.count("Skipped foreign layer") == statuses.count("Layer already exists") == 1
                assert layer["digest"] not in registry.blobs and not registry.asked(layer["digest"])
                assert digest_of(registry.manifests["latest"][1]) == digest
                await client.images.tag(f"{registry.host}/x", f"{third.host}/x")
                statuses = [m.status for m in await client.push(f"{third.host}/x")]
                assert "Skipped foreign layer" not in statuses and third.blobs[layer["digest"]] == data
                assert digest_of(third.manifests["latest"][1]) == digest
            finally:
                await client.close()

    asyncio.run(main())


def test_a_long_wait_that_a_registry_asks_for(tmp_path: Path) -> None:
    """429 with Retry-After: waited out if it is short, told if it is long."""

    async def work(client: Client, registry: FakeRegistry) -> None:
        digest = registry.add_image(TARS[:1])["layers"][0]["digest"]
        waits = iter(["1", None])

        async def hook(request: web.Request) -> web.StreamResponse | None:
            wait = next(waits, None)
            return error(429, "TOOMANYREQUESTS", "slower", {"Retry-After": wait}) if wait else None

        registry.hooks.append((digest, hook))
        told = await client.pull(f"{registry.host}/x")
        assert f"{digest[7:19]}: Retrying in 1 second" in told
        await client.images.remove(f"{registry.host}/x", force=True)
        waits = iter(["86400"])
        text = await client.refused(f"{registry.host}/x", Unavailable)
        assert text == f"layer {digest}: toomanyrequests: slower (it asks to wait for 86400 seconds)"

    run(tmp_path, work)


def test_bearer_and_basic(tmp_path: Path) -> None:
    async def work(client: Client, registry: FakeRegistry) -> None:
        registry.add_image(TARS[:1])
        name = f"{registry.host}/x"
        registry.user = ("me", "secret")
        text = await client.refused(name, NotFound)
        assert text == (
            f"pull access denied for {name}, repository does not exist or may require 'docker login': "
            "no basic auth credentials"
        )
        assert "docker login" in await client.refused(name, NotFound, credentials=Credentials("me", "wrong"))
        await client.pull(name, credentials=Credentials("me", "secret"))
        await client.images.remove(name, force=True)
        registry.token, registry.realm = "t0k3n", f"http://{registry.host}/token"
        await client.pull(name, credentials=Credentials("me", "secret"))
        query = next(path for _, path, _ in registry.log if path.startswith("/token"))
        assert "service=fake" in query and "scope=repository:x:pull" in query and "account=me" in query
        registry.log.clear()
        await client.images.remove(name, force=True)
        await client.pull(name, credentials=Credentials("me", "secret"))
        assert not registry.asked("/token")  # cached

    run(tmp_path, work)


def test_an_image_with_a_digest_only_is_dangling(tmp_path: Path) -> None:
    async def work(client: Client, registry: FakeRegistry) -> None:
        registry.add_image(TARS[:1])
        name = f"{registry.host}/x"
        dangling = Filters({"dangling": ["true"]})
        await client.pull(name, tag=digest_of(registry.manifests["latest"][1]))
        assert len(client.images.list(dangling)) == 1
        await client.pull(name)
        assert not client.images.list(dangling) and (await client.images.prune()) == ([], 0)
        await client.images.remove(f"{name}:latest")
        await client.pull(name, tag=digest_of(registry.manifests["latest"][1]))
        await client.images.prune()
        assert not client.images.list()

    run(tmp_path, work)


def test_a_host_that_asks_for_nobody_any_more(tmp_path: Path) -> None:
    async def work(client: Client, registry: FakeRegistry) -> None:
        registry.add_image(TARS[:1])
        registry.user = ("me", "secret")
        assert "no basic auth" in await client.refused(f"{registry.host}/x", NotFound)
        registry.user = None
        await client.pull(f"{registry.host}/x")

    run(tmp_path, work)


def test_log_in(tmp_path: Path) -> None:
    async def work(client: Client, registry: FakeRegistry) -> None:
        registry.user = ("me", "secret")
        await client.transfers.log_in(Credentials("me", "secret", server=registry.host))
        with pytest.raises(DockyardError, match="unauthorized: authentication required"):
            await client.transfers.log_in(Credentials("me", "wrong", server=registry.host))

    run(tmp_path, work)


def test_s38_credentials_do_not_follow_redirects_or_realms(tmp_path: Path) -> None:
    async def main() -> None:
        client = Client(tmp_path, None, "")
        await client.open()
        async with FakeRegistry() as registry, FakeRegistry("127.0.0.2") as stranger:
            try:
                registry.user = ("me", "secret")
                me = Credentials("me", "secret")
                digest = registry.add_image(TARS[:1])["layers"][0]["digest"]
                stranger.blobs = dict(registry.blobs)

                async def away(request: web.Request) -> web.StreamResponse:
                    return web.Response(status=307, headers={"Location": f"http://{stranger.host}{request.path}"})

                registry.hooks.append((digest, away))
                await client.pull(f"{registry.host}/x", credentials=me)
                (asked,) = stranger.asked(digest)
                assert "Authorization" not in asked
                await client.images.remove(f"{registry.host}/x", force=True)
                registry.token, registry.realm = "t", f"http://{stranger.host}/token"
                text = await client.refused(f"{registry.host}/x", Forbidden, credentials=me)
                assert "unrelated token server" in text and not stranger.asked("/token")
                registry.user, registry.token = ("me", "secret"), None
                other = Credentials("me", "secret", server="registry.example")
                assert "no basic auth" in await client.refused(f"{registry.host}/x", NotFound, credentials=other)
            finally:
                await client.close()

    asyncio.run(main())


# --- pushing ----------------------------------------------------------------------------------------------------------


def test_push_and_pull_again(tmp_path: Path) -> None:
    async def chunks(data: bytes) -> Any:
        yield data

    async def work(client: Client, registry: FakeRegistry) -> None:
        name = f"{registry.host}/a/x"
        await client.images.load(chunks(busybox.docker_archive([f"{name}:latest"], TARS, {})))
        told = await client.push(name)
        assert told[0].status == f"The push refers to repository [{name}]"
        statuses = [message.status for message in told]
        assert statuses.count("Preparing") == statuses.count("Pushed") == 3
        digest = digest_of(registry.manifests["latest"][1])
        size = len(registry.manifests["latest"][1])
        assert statuses[-2] == f"latest: digest: {digest} size: {size}"
        assert told[-1].aux == {"Tag": "latest", "Digest": digest, "Size": size}
        assert client.images.get(name).digests == [f"{name}@{digest}"]
        uploads = len(registry.asked("uploads", "POST"))
        assert [m.status for m in await client.push(name)].count("Layer already exists") == 3
        assert len(registry.asked("uploads", "POST")) == uploads
        before = client.images.get(name).id
        await client.images.remove(name, force=True)
        await client.pull(name)
        assert client.images.get(name).id == before
        registry.blobs.clear()
        registry.manifests.clear()
        await client.push(name)  # now the blobs are here: as they came, with the same manifest
        assert digest_of(registry.manifests["latest"][1]) == digest

    run(tmp_path, work)


def test_push_errors(tmp_path: Path) -> None:
    async def chunks(data: bytes) -> Any:
        yield data

    async def work(client: Client, registry: FakeRegistry) -> None:
        name = f"{registry.host}/x"
        with pytest.raises(NotFound, match="An image does not exist locally with the tag"):
            await client.push(name)
        await client.images.load(chunks(busybox.docker_archive([f"{name}:latest", f"{name}:2"], TARS, {})))
        registry.user = ("me", "secret")
        with pytest.raises(DockyardError, match="no basic auth credentials"):
            await client.push(name)
        await client.push(name, credentials=Credentials("me", "secret"))

    run(tmp_path, work)


@pytest.mark.parametrize(
    ("status", "code", "message", "expected"),
    [
        (413, "DENIED", "quota exceeded", "layer sha256:[0-9a-f]{64}: denied: quota exceeded"),
        (400, "DIGEST_INVALID", "it is another", "layer sha256:[0-9a-f]{64}: digest invalid: it is another"),
        (507, "UNAVAILABLE", "no space left", r"layer sha256:[0-9a-f]{64}: .* 507 \(unavailable: no space left\)"),
        (429, "TOOMANYREQUESTS", "slower",
         r"layer sha256:[0-9a-f]{64}: toomanyrequests: slower \(it asks to wait for 3600 seconds\)"),
        (403, "DENIED", "not yours", "^denied: not yours$"),  # in Docker's words
    ],
)  # fmt: skip
def test_what_a_registry_refuses_in_a_push_is_told(
    tmp_path: Path, status: int, code: str, message: str, expected: str
) -> None:
    async def chunks(data: bytes) -> Any:
        yield data

    async def work(client: Client, registry: FakeRegistry) -> None:
        name = f"{registry.host}/x"
        await client.images.load(chunks(busybox.docker_archive([f"{name}:latest"], TARS[:1], {})))

        async def refuse(request: web.Request) -> web.StreamResponse | None:
            if request.method not in ("PATCH", "PUT"):
                return None
            await request.read()
            return error(status, code, message, {"Retry-After": "3600"} if status == 429 else None)

        registry.hooks.append(("/blobs/uploads/", refuse))
        with pytest.raises(DockyardError, match=expected):
            await client.push(name)
        assert not registry.manifests
        registry.hooks.clear()
        await client.push(name)  # nothing is left that would be in the way

    run(tmp_path, work)


def test_a_push_from_a_full_disk(tmp_path: Path) -> None:
    """It needs no room but for a row: it comes through or says that there is none, and the store works on."""
    place = tmp_path / "small"
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=80m", "tmpfs", str(place)], check=True)
    try:

        async def chunks(data: bytes) -> Any:
            yield data

        async def work(client: Client, registry: FakeRegistry) -> None:
            name = f"{registry.host}/x"
            await client.images.load(chunks(busybox.docker_archive([f"{name}:latest"], TARS, {})))
            with open(place / "filler", "wb", buffering=0) as filler:
                with contextlib.suppress(OSError):
                    while filler.write(bytes(1 << 20)):
                        pass
                while True:
                    try:
                        filler.write(b"x" * 4096)
                    except OSError:
                        break
            try:
                await client.push(name)
            except DockyardError as error:
                assert "full" in str(error) or "space" in str(error)
            os.unlink(place / "filler")
            told = await client.push(name)
            assert told[-1].aux is not None and digest_of(registry.manifests["latest"][1]) == told[-1].aux["Digest"]
            assert client.images.get(name).digests == [f"{name}@{told[-1].aux['Digest']}"]
            assert client.left()["ingest"] == []

        run(place, work)
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)


# --- Debian's registry ------------------------------------------------------------------------------------------------


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def debian(tmp_path: Path) -> Iterator[str]:
    """docker-registry on loopback; its host."""
    program = shutil.which("docker-registry")
    if program is None:
        pytest.skip("docker-registry is not installed")
    host = f"127.0.0.1:{free_port()}"
    settings = tmp_path / "registry.yml"
    storage = {"filesystem": {"rootdirectory": str(tmp_path / "registry")}, "delete": {"enabled": True}}
    settings.write_text(json.dumps({"version": 0.1, "storage": storage, "http": {"addr": host}}))
    with open(tmp_path / "registry.log", "wb") as log:
        process = subprocess.Popen([program, "serve", str(settings)], stdout=log, stderr=log)
    try:
        for _ in range(200):
            try:
                socket.create_connection(("127.0.0.1", int(host.rpartition(":")[2])), 1).close()
                break
            except OSError:
                time.sleep(0.05)
        yield host
    finally:
        process.terminate()
        process.wait()


@pytest.fixture
def engine() -> Iterator[Dockyardd]:
    with Dockyardd(private_network=False, bridge="dyrc1", subnet="10.231.72.0/24") as engine:
        yield engine


def test_docker_cli_with_debians_registry(debian: str, engine: Dockyardd) -> None:
    name = f"{debian}/team/app:1"
    engine.docker("load", input=busybox.docker_archive([name], [busybox.rootfs_tar(), *TARS], {"Cmd": ["echo", "hi"]}))
    pushed = engine.docker("push", name).stdout.decode()
    digest = next(word for word in pushed.split() if word.startswith("sha256:"))
    engine.docker("rmi", name)
    pulled = engine.docker("pull", name).stdout.decode()
    assert f"Digest: {digest}" in pulled and "Status: Downloaded newer image" in pulled
    assert engine.docker("run", "--rm", "--network=none", name).stdout == b"hi\n"
    assert engine.docker("pull", "-q", f"{debian}/team/app@{digest}").returncode == 0
    engine.docker("tag", name, f"{debian}/other:2")
    assert "Mounted from team/app" in engine.docker("push", f"{debian}/other:2").stdout.decode()
    missing = engine.docker("pull", f"{debian}/team/app:no", check=False)
    assert b"manifest for" in missing.stderr and b"not found: manifest unknown" in missing.stderr
    found = json.loads(engine.request("GET", f"/distribution/{name}/json").body)
    assert found["Descriptor"]["digest"] == digest
    assert found["Platforms"] == [{"architecture": "amd64", "os": "linux"}]
    search = engine.docker("search", f"{debian}/app", check=False)
    assert b"offers no search" in search.stderr


def test_skopeo_with_debians_registry(debian: str, engine: Dockyardd, tmp_path: Path) -> None:
    if shutil.which("skopeo") is None:
        pytest.skip("skopeo is not installed")
    archive = tmp_path / "in.tar"
    archive.write_bytes(busybox.docker_archive(["in:1"], TARS, {}))
    for number, form in enumerate(("oci", "v2s2")):
        target = f"{debian}/sk{number}:1"
        command = ["skopeo", "--insecure-policy", "copy", "--dest-tls-verify=false", f"--format={form}"]
        subprocess.run([*command, f"docker-archive:{archive}", f"docker://{target}"], check=True, capture_output=True)
        inspect = ["skopeo", "inspect", "--tls-verify=false", "--format={{.Digest}}"]
        digest = subprocess.run(
            [*inspect, f"docker://{target}"], check=True, capture_output=True, text=True
        ).stdout.strip()
        engine.docker("pull", target)
        engine.docker("tag", target, f"{debian}/back{number}:1")
        assert digest in engine.docker("push", f"{debian}/back{number}:1").stdout.decode()
        back = subprocess.run(
            [*inspect, f"docker://{debian}/back{number}:1"], check=True, capture_output=True, text=True
        )
        assert back.stdout.strip() == digest
