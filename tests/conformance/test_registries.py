"""An engine, our registry and Debian's: images go in every direction and stay the same; log-in password, token."""

from __future__ import annotations

import gzip
import hashlib
import json
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.support import busybox, debian_registry, tokenserver
from tests.support.debian_registry import PASSWORD, USER, DebianRegistry
from tests.support.engines import Engine
from tests.support.tokenserver import TokenServer
from tests.unit.registry.support import Registry

pytestmark = [
    pytest.mark.skipif(shutil.which("skopeo") is None, reason="skopeo is not installed"),
    pytest.mark.skipif(bool(debian_registry.why_not()), reason="docker-registry is not installed"),
]
PORTS = {"dockerd": 5030, "dockyardd": 5040}
MANIFEST, INDEX = "application/vnd.oci.image.manifest.v1+json", "application/vnd.oci.image.index.v1+json"


def digest_of(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


@pytest.fixture(scope="module")
def hosts(engine: Engine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """Ours and theirs, where the engine is."""
    port, place = PORTS[engine.name], tmp_path_factory.mktemp("registries")
    storage = {"filesystem": {"root": str(place / "ours")}}
    settings = {"listen": [f"127.0.0.1:{port}"], "storage": storage}
    with (
        Registry(place / "one", settings, engine.netns_path) as ours,
        DebianRegistry(place / "two", engine.netns_path, port + 1) as theirs,
    ):
        yield {"ours": ours.address, "theirs": theirs.host}


Skopeo = Callable[..., str]


@pytest.fixture(scope="module")
def skopeo(engine: Engine) -> Skopeo:
    prefix = ["nsenter", f"--net={engine.netns_path}"] if engine.netns_path else []

    def run(*words: str) -> str:
        command = [*prefix, "skopeo", "--insecure-policy", *words]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run


def copy(skopeo: Skopeo, source: str, target: str, *flags: str) -> None:
    tls = [f"--{side}-tls-verify=false" for side, name in (("src", source), ("dest", target)) if "docker://" in name]
    skopeo("copy", "-q", *tls, *flags, source, target)


def digest_at(skopeo: Skopeo, name: str) -> str:
    return digest_of(skopeo("inspect", "--raw", "--tls-verify=false", f"docker://{name}").encode())


def layout(place: Path) -> str:
    """An OCI layout with an index for amd64 and arm64, as skopeo names it."""
    blobs = place / "blobs" / "sha256"
    blobs.mkdir(parents=True)

    def put(data: bytes, kind: str, **more: Any) -> dict[str, Any]:
        (blobs / digest_of(data)[7:]).write_bytes(data)
        return {"mediaType": kind, "digest": digest_of(data), "size": len(data), **more}

    entries = []
    for architecture in ("amd64", "arm64"):
        tar = busybox.rootfs_tar({"architecture": architecture.encode()})
        config = {"architecture": architecture, "os": "linux", "config": {"Cmd": ["cat", "/architecture"]},
                  "rootfs": {"type": "layers", "diff_ids": [digest_of(tar)]}}  # fmt: skip
        manifest = {
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": put(json.dumps(config).encode(), "application/vnd.oci.image.config.v1+json"),
            "layers": [put(gzip.compress(tar, 1, mtime=0), "application/vnd.oci.image.layer.v1.tar+gzip")],
        }
        platform = {"architecture": architecture, "os": "linux"}
        entries.append(put(json.dumps(manifest).encode(), MANIFEST, platform=platform))
    index = json.dumps({"schemaVersion": 2, "mediaType": INDEX, "manifests": entries}).encode()
    top = put(index, INDEX, annotations={"org.opencontainers.image.ref.name": "multi"})
    (place / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [top]}))
    (place / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
    return f"oci:{place}:multi"


def test_every_direction(engine: Engine, hosts: dict[str, str], skopeo: Skopeo, tmp_path: Path) -> None:
    ours, theirs = hosts["ours"], hosts["theirs"]
    archive = tmp_path / "image.tar"
    archive.write_bytes(busybox.docker_archive(["bb:1"], [busybox.rootfs_tar({"hello": b"hi\n"})], {"Cmd": ["sh"]}))
    sources = [("oci", f"docker-archive:{archive}", ("--format=oci",)),
               ("s2", f"docker-archive:{archive}", ("--format=v2s2",)),
               ("multi", layout(tmp_path / "layout"), ("--all",))]  # fmt: skip
    for kind, source, flags in sources:
        for first, second in ((ours, theirs), (theirs, ours)):
            # skopeo into one, from there into the other, and back under a third name
            name = f"{kind}-{'ours' if first == ours else 'theirs'}"
            copy(skopeo, source, f"docker://{first}/{name}:1", *flags)
            digest = digest_at(skopeo, f"{first}/{name}:1")
            copy(skopeo, f"docker://{first}/{name}:1", f"docker://{second}/{name}:1", "--all")
            copy(skopeo, f"docker://{second}/{name}:1", f"docker://{first}/back/{name}:1", "--all")
            for place in (f"{second}/{name}:1", f"{first}/back/{name}:1"):
                assert digest_at(skopeo, place) == digest, (kind, place)
            # the engine gets the same from both, and looks at the same
            pulled = f"{second}/{name}:1"
            assert f"Digest: {digest}" in engine.out("pull", pulled)
            found = engine.request("GET", f"/distribution/{pulled}/json").json()
            assert found["Descriptor"]["digest"] == digest
            platforms = {each["architecture"] for each in found["Platforms"] or ()}
            if kind != "oci" or engine.name == "dockyardd":  # dockerd 20.10 looks into schema 2 only
                assert platforms == ({"amd64", "arm64"} if kind == "multi" else {"amd64"})
            image = json.loads(engine.out("image", "inspect", pulled))[0]
            assert f"{second}/{name}@{digest}" in image["RepoDigests"]
            if kind == "multi":
                assert engine.out("run", "--rm", "--network=none", pulled) == "amd64"
            if engine.name == "dockyardd":
                push_on(engine, skopeo, pulled, f"{first}/pushed/{name}:2")
            engine.docker("rmi", "-f", image["Id"])


def push_on(engine: Engine, skopeo: Skopeo, pulled: str, target: str) -> None:
    """What was pulled from one registry is pushed to the other: the same manifest (of an index, the engine's)."""
    expected = (digests_in_index(skopeo, pulled) or [digest_at(skopeo, pulled)])[0]
    engine.docker("tag", pulled, target)
    assert expected in engine.out("push", target)
    assert expected in (digest_at(skopeo, target), *digests_in_index(skopeo, target))
    engine.docker("rmi", target)
    assert "Status:" in engine.out("pull", target)


def digests_in_index(skopeo: Skopeo, name: str) -> list[str]:
    raw = json.loads(skopeo("inspect", "--raw", "--tls-verify=false", f"docker://{name}"))
    return [each["digest"] for each in raw.get("manifests", [])]


def test_an_engine_s_own_image_goes_round(engine: Engine, hosts: dict[str, str], skopeo: Skopeo) -> None:
    """Pushed by the docker CLI, taken on by skopeo, found by a search, pulled again: the same."""
    ours, theirs = hosts["ours"], hosts["theirs"]
    for first, second in ((ours, theirs), (theirs, ours)):
        name = f"{first}/team/engine-{engine.name}:1"
        rootfs = busybox.rootfs_tar({"first": first.encode()})  # `bb` may have been loaded with its layers uncompressed
        engine.docker("load", "-q", input=busybox.docker_archive([name], [rootfs], {"Cmd": ["sh"]}))
        pushed = engine.out("push", name)
        digest = next(word for word in pushed.split() if word.startswith("sha256:"))
        assert digest_at(skopeo, name) == digest
        copy(skopeo, f"docker://{name}", f"docker://{second}/taken/on:1")
        engine.docker("rmi", name)
        assert f"Digest: {digest}" in engine.out("pull", f"{second}/taken/on:1")
        engine.docker("rmi", f"{second}/taken/on:1")
    found = engine.out("search", "--format", "{{.Name}}", f"{ours}/engine")
    assert found.split() == [f"{ours}/team/engine-{engine.name}"] or found.split() == [f"team/engine-{engine.name}"]
    assert engine.out("search", "--format", "{{.Name}}", f"{ours}/nothing-of-this-name") == ""


@contextmanager
def guarded(engine: Engine, place: Path, kind: str) -> Iterator[list[str]]:
    """Both registries with authorization; their hosts."""
    port = PORTS[engine.name] + 5
    settings: dict[str, Any] = {
        "listen": [f"127.0.0.1:{port}"], "storage": {"filesystem": {"root": str(place / "ours")}}
    }  # fmt: skip
    with ExitStack() as stack:
        if kind == "htpasswd":
            bcrypt = pytest.importorskip("bcrypt")
            line = f"{USER}:{bcrypt.hashpw(PASSWORD.encode(), bcrypt.gensalt(4)).decode()}"
            (place / "htpasswd").write_text(line + "\n")
            settings["auth"] = {"htpasswd": {"path": str(place / "htpasswd")}}
            theirs = DebianRegistry(place / "theirs", engine.netns_path, port + 1, auth=True)
        else:
            pytest.importorskip("jwt")
            server = stack.enter_context(TokenServer(place / "token", engine.netns_path, port + 2))
            issuer, service = tokenserver.ISSUER, tokenserver.SERVICE
            settings["auth"] = {"token": {"realm": server.realm, "service": service, "issuer": issuer,
                                          "keys": [str(server.certificate)]}}  # fmt: skip
            token = f"realm: '{server.realm}', service: {service}, issuer: {issuer}, "
            token += f"rootcertbundle: {server.certificate}"
            theirs = DebianRegistry(place / "theirs", engine.netns_path, port + 1, token=token)
        ours = stack.enter_context(Registry(place / "one", settings, engine.netns_path))
        stack.enter_context(theirs)
        yield [ours.address, theirs.host]


@pytest.mark.parametrize("kind", ["htpasswd", "token"])
def test_log_in_and_out(engine: Engine, tmp_path: Path, kind: str) -> None:
    with guarded(engine, tmp_path, kind) as hosts:
        for host in hosts:
            name = f"{host}/mine/bb:1"
            engine.docker("tag", "bb", name)
            refused = engine.docker("push", name, check=False)
            assert refused.returncode == 1, (host, refused)
            wrong = engine.docker("login", "-u", USER, "--password-stdin", host, input=b"wrong", check=False)
            assert wrong.returncode == 1 and b"unauthorized" in wrong.stderr.lower(), wrong
            done = engine.docker("login", "-u", USER, "--password-stdin", host, input=PASSWORD.encode())
            assert b"Login Succeeded" in done.stdout
            assert "digest: sha256:" in engine.out("push", name)
            engine.docker("rmi", name)
            assert "Downloaded newer image" in engine.out("pull", name) or engine.name == "dockerd"
            engine.docker("rmi", name)
            engine.docker("logout", host)
            refused = engine.docker("pull", name, check=False)
            said = (refused.stderr + refused.stdout).decode()
            assert refused.returncode == 1 and ("pull access denied" in said or "no basic auth" in said), said
