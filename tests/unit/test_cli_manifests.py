"""`dockyard manifest` and `imagetools` between registries: the client alone, no daemon."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from dockyard.edge.cli import main
from tests.support.fakeregistry import FakeRegistry
from tests.unit.registry.support import CONFIG, LAYER, OCI_INDEX, OCI_MANIFEST, Client, Registry, descriptor, digest_of

USER, PASSWORD = "ann", "secret"


@pytest.fixture
def one(tmp_path: Path) -> Iterator[Registry]:
    with Registry.on_files(tmp_path / "one") as registry:
        yield registry


@pytest.fixture
def two(tmp_path: Path) -> Iterator[Registry]:
    """With a password."""
    bcrypt = pytest.importorskip("bcrypt")
    line = f"{USER}:{bcrypt.hashpw(PASSWORD.encode(), bcrypt.gensalt(4)).decode()}\n"
    (tmp_path / "htpasswd").write_text(line)
    auth = {"htpasswd": {"path": str(tmp_path / "htpasswd")}}
    with Registry.on_files(tmp_path / "two", auth=auth) as registry:
        yield registry


class Cli:
    def __init__(self, folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
        self._folder, self._capfd = folder, capfd

    def __call__(self, *words: str) -> str:
        done, out, err = self.run(*words)
        assert done == 0, err
        return out

    def run(self, *words: str) -> tuple[int, str, str]:
        self._capfd.readouterr()
        done = main.run(["--config", str(self._folder), *words])
        captured = self._capfd.readouterr()
        return done, captured.out, captured.err


@pytest.fixture
def cli(tmp_path: Path, capfd: pytest.CaptureFixture[str], two: Registry) -> Cli:
    (tmp_path / "cli").mkdir()
    auth = base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
    (tmp_path / "cli" / "config.json").write_text(json.dumps({"auths": {two.address: {"auth": auth}}}))
    return Cli(tmp_path / "cli", capfd)


def known(registry: Registry) -> Client:
    return registry.client(Authorization="Basic " + base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode())


def push_for(client: Client, repository: str, tag: str, architecture: str, *layers: bytes) -> str:
    """An image for a platform; returns its manifest's digest."""
    config = json.dumps({"architecture": architecture, "os": "linux", "rootfs": {"diff_ids": []}}).encode()
    for content in (config, *layers):
        client.push_blob(repository, content)
    document = {"schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": descriptor(CONFIG, config),
                "layers": [descriptor(LAYER, layer) for layer in layers]}  # fmt: skip
    data = json.dumps(document).encode()
    assert client("PUT", f"/v2/{repository}/manifests/{tag}", data, Content_Type=OCI_MANIFEST).status == 201
    return digest_of(data)


def test_a_list_of_images_of_two_registries_in_a_third_place(one: Registry, two: Registry, cli: Cli) -> None:
    shared, big = b"shared" * 1000, os.urandom(3_000_000)
    amd = push_for(one.client(), "a/amd", "1", "amd64", shared, big)
    arm = push_for(known(two), "b/arm", "1", "arm64", shared)
    target = f"{two.address}/all/app:1"
    cli("manifest", "create", target, f"{one.address}/a/amd:1", f"{two.address}/b/arm:1")
    cli("manifest", "annotate", "--variant", "v8", target, f"{two.address}/b/arm:1")
    pushed = cli("manifest", "push", "--purge", target).splitlines()
    told = [f"Pushed ref {two.address}/all/app@{each} with digest: {each}" for each in (amd, arm)]
    assert sorted(pushed[:2]) == sorted(told)
    client = known(two)
    found = client("GET", f"/v2/all/app/manifests/{pushed[2]}").json()
    listed = {each["digest"]: each["platform"] for each in found["manifests"]}
    assert listed == {
        amd: {"architecture": "amd64", "os": "linux"},
        arm: {"architecture": "arm64", "os": "linux", "variant": "v8"},
    }
    assert client("GET", f"/v2/all/app/blobs/{digest_of(big)}").body == big
    assert client("GET", f"/v2/all/app/manifests/{arm}").status == 200
    assert two.run("check").returncode == 0
    assert cli.run("manifest", "inspect", target)[0] == 0


def test_an_index_goes_to_another_registry_as_it_is(one: Registry, two: Registry, cli: Cli) -> None:
    client = one.client()
    digests = [push_for(client, "app", name, name, name.encode() * 999) for name in ("amd64", "arm64")]
    manifests = [
        {**descriptor(OCI_MANIFEST, client("GET", f"/v2/app/manifests/{each}").body),
         "platform": {"os": "linux", "architecture": name}}
        for each, name in zip(digests, ("amd64", "arm64"), strict=True)
    ]  # fmt: skip
    data = json.dumps({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": manifests, "x": "kept"}).encode()
    assert client("PUT", "/v2/app/manifests/all", data, Content_Type=OCI_INDEX).status == 201
    out = cli(
        "imagetools", "create", "-t", f"{two.address}/copy:1", "-t", f"{one.address}/x/y:2", f"{one.address}/app:all"
    )
    assert out == f"{digest_of(data)} {two.address}/copy:1\n{digest_of(data)} {one.address}/x/y:2\n"
    assert known(two)("GET", "/v2/copy/manifests/1").body == data == client("GET", "/v2/x/y/manifests/2").body
    assert one.run("check").returncode == two.run("check").returncode == 0
    format = "{{.Name}} {{.Manifest.digest}} {{range $k, $v := .Image}}{{$k}}={{$v.architecture}} {{end}}"
    shown = cli("imagetools", "inspect", "--format", format, f"{two.address}/copy:1")
    assert shown.strip() == f"{two.address}/copy:1 {digest_of(data)} linux/amd64=amd64 linux/arm64=arm64"
    assert cli("imagetools", "inspect", "--raw", f"{two.address}/copy:1").encode() == data


def test_imagetools_create(one: Registry, cli: Cli, tmp_path: Path) -> None:
    client = one.client()
    amd, arm = (push_for(client, "app", name, name, name.encode()) for name in ("amd64", "arm64"))
    name = f"{one.address}/app"
    assert cli("imagetools", "create", "--prefer-index=false", "-t", f"{name}:same", f"{name}:amd64").startswith(amd)
    cli("imagetools", "create", "-t", f"{name}:all", "--annotation", "index:org.example.a=b=c", f"{name}:amd64")
    cli("imagetools", "create", "--append", "-t", f"{name}:all", f"{name}:arm64")
    found = json.loads(cli("imagetools", "inspect", "--raw", f"{name}:all"))
    assert [each["digest"] for each in found["manifests"]] == [amd, arm]
    (tmp_path / "one.json").write_text(
        json.dumps({"digest": arm, "platform": {"os": "linux", "architecture": "riscv64"}})
    )
    made = json.loads(cli("imagetools", "create", "--dry-run", "-t", f"{name}:x", "-f", str(tmp_path / "one.json")))
    assert made["manifests"][0]["platform"]["architecture"] == "riscv64"
    assert "no such manifest" in cli.run("manifest", "inspect", f"{name}:x")[2]
    for words, text in (
        (["--annotation", "x", "-t", f"{name}:x", f"{name}:amd64"], "it is not KEY=VALUE"),
        (["-t", f"{name}:x", "-f", "/nonexistent"], "no descriptor of a manifest"),
        ([f"{name}:amd64"], "at least one tag"), (["-t", f"{name}:x"], "at least one source"),
        (["-t", f"{name}:x", f"{name}:none"], "no such manifest"),
    ):  # fmt: skip
        assert text in cli.run("imagetools", "create", *words)[2]


def test_s31_what_another_registry_sends_is_verified(one: Registry, cli: Cli) -> None:
    """Wrong bytes, too few, too many; a manifest that is another."""

    def refused(source: FakeRegistry) -> str:
        done, _, err = cli.run(
            "imagetools", "create", "--prefer-index=false", "-t", f"{one.address}/t:1", f"{source.host}/x"
        )
        assert done == 1
        return err

    with Elsewhere() as source:
        manifest = source.add_image([b"a tar of one layer" * 1000])
        digest = manifest["layers"][0]["digest"]
        data = source.blobs[digest]
        for wrong, text in (
            (data[:-1] + b"x", "the registry answered with sha256:"), (data + b"y", "has more than its"),
            (data[:-5], f"blob {digest} of"),
        ):  # fmt: skip
            source.blobs[digest] = wrong
            assert text in refused(source)
            assert one.client()("GET", f"/v2/t/blobs/{digest}").status == 404
            assert one.client()("GET", "/v2/t/manifests/1").status == 404
        source.blobs[digest] = data
        source.manifests["latest"] = ("application/vnd.oci.image.index.v1+json", source.manifests["latest"][1])
        assert "its Content-Type" in refused(source)
        source.hooks.append(("/manifests/", slow_down))
        assert "429 TOOMANYREQUESTS: slower (it asks to wait for 77 seconds)" in refused(source)


async def slow_down(_: web.Request) -> web.StreamResponse:
    document: dict[str, Any] = {"errors": [{"code": "TOOMANYREQUESTS", "message": "slower"}]}
    return web.json_response(document, status=429, headers={"Retry-After": "77"})


class Elsewhere(FakeRegistry):
    """A fake registry in a thread with a loop of its own."""

    def __enter__(self) -> Elsewhere:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self.__aenter__(), self._loop).result(10)
        return self

    def __exit__(self, *_: object) -> None:
        asyncio.run_coroutine_threadsafe(self.__aexit__(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()
