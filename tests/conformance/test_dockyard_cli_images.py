"""The `dockyard` client and registries: pull, push, login, manifests; beside the docker CLI where both can do it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support import busybox, debian_registry
from tests.support.debian_registry import PASSWORD, USER, DebianRegistry
from tests.support.engines import Engine, docker_cli
from tests.support.terminal import Terminal

DOCKYARD = str(Path(sys.executable).with_name("dockyard"))
_PORTS = {"dockerd": 5010, "dockyardd": 5020}


@pytest.fixture(scope="module")
def registry(engine: Engine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[DebianRegistry]:
    """Without log-in, where the engine is."""
    if reason := debian_registry.why_not():
        pytest.skip(reason)
    if engine.request("POST", "/images/nosuch/push", None, tag="x").status == 501:
        pytest.skip(f"{engine.name} does not push yet")
    place = tmp_path_factory.mktemp("registry")
    with DebianRegistry(place, engine.netns_path, _PORTS[engine.name]) as running:
        yield running


@pytest.fixture(scope="module")
def private(
    engine: Engine, registry: DebianRegistry, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[DebianRegistry]:
    """One that wants a log-in."""
    place = tmp_path_factory.mktemp("private")
    with DebianRegistry(place, engine.netns_path, registry.port + 1, auth=True) as running:
        yield running


class Client:
    """dockyard (or docker) with a folder of its own, where the engine is."""

    def __init__(self, engine: Engine, folder: Path) -> None:
        self.engine, self.folder = engine, folder
        self.environment = {**engine.environment(), "DOCKER_HOST": engine.url, "DOCKER_CONFIG": str(folder)}
        self.prefix = ["nsenter", f"--net={engine.netns_path}"] if engine.netns_path else []

    def run(self, *words: str, program: str = DOCKYARD, input: str = "") -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*self.prefix, program, *words], env=self.environment, input=input, capture_output=True, text=True,
            timeout=60, check=False,
        )  # fmt: skip

    def out(self, *words: str, **more: Any) -> str:
        done = self.run(*words, **more)
        assert done.returncode == 0, done
        return done.stdout

    @property
    def config(self) -> dict[str, Any]:
        values = json.loads((self.folder / "config.json").read_text())
        assert isinstance(values, dict)
        return values


@pytest.fixture
def client(engine: Engine, tmp_path: Path) -> Client:
    folder = tmp_path / "client"
    folder.mkdir()
    return Client(engine, folder)


@pytest.fixture
def image(engine: Engine, registry: DebianRegistry) -> Iterator[str]:
    """A small image under a name on the registry."""
    name = f"{registry.host}/team/app:1"
    layers = [busybox.layer_tar({"hello": b"hello" * 1000, f"for-{engine.name}": b"x"})]
    engine.docker("load", "-q", input=busybox.docker_archive([name], layers, {"Cmd": ["sh"]}))
    yield name
    engine.docker("rmi", "-f", name, check=False)


def test_push_pull_and_what_is_said(client: Client, image: str) -> None:
    before = json.loads(client.out("image", "inspect", image))[0]["Id"]
    pushed = client.out("push", image)
    assert f"The push refers to repository [{image.rpartition(':')[0]}]" in pushed
    assert "1: digest: sha256:" in pushed and "\x1b" not in pushed
    assert client.out("push", "-q", image) == f"{image}\n"
    client.out("rmi", image)
    pulled = client.out("pull", image)
    assert "Status: Downloaded newer image" in pulled and pulled.endswith(f"{image}\n")
    assert json.loads(client.out("image", "inspect", image))[0]["Id"] == before
    assert client.out("pull", "-q", image) == f"{image}\n"
    assert "Image is up to date" in client.out("pull", image)


def test_all_tags(client: Client, image: str) -> None:
    repository = image.rpartition(":")[0]
    client.out("tag", image, f"{repository}:2")
    client.out("push", "-q", "-a", repository)
    client.out("rmi", image, f"{repository}:2")
    client.out("pull", "-q", "-a", repository)
    assert {line.split()[1] for line in client.out("images", repository).splitlines()[1:]} >= {"1", "2"}
    client.run("rmi", f"{repository}:2")
    assert "tag can't be used with --all-tags/-a" in client.run("pull", "-a", image).stderr


def test_run_pulls_what_is_missing(client: Client, engine: Engine, registry: DebianRegistry) -> None:
    name = f"{registry.host}/bb:latest"
    client.out("tag", "bb", name)
    client.out("push", "-q", name)
    client.out("rmi", name)
    refused = client.run("run", "--rm", "--pull", "never", name, "true")
    assert refused.returncode == 125
    done = client.run("run", "--rm", name, "echo", "here")
    assert (done.returncode, done.stdout) == (0, "here\n")
    assert f"Unable to find image '{name}' locally" in done.stderr and "Pulling from" in done.stderr
    assert client.out("run", "--rm", "--pull", "always", "-q", name, "echo", "again") == "again\n"
    client.run("rmi", name)


def test_a_terminal_gets_lines_that_change_in_place(client: Client, image: str) -> None:
    client.out("push", "-q", image)
    client.out("rmi", image)
    with Terminal([*client.prefix, DOCKYARD, "pull", image], {**client.environment, "TERM": "xterm"}, 24, 200) as seen:
        seen.process.wait(30)
        while seen._read(0.2):
            if not seen._read(0):
                break
            if seen.seen.endswith(f"{image}\r\n".encode()):
                break
        text = seen.seen.decode()
    assert "\x1b[K" in text and "A\r" in text and "Pull complete" in text and text.endswith(f"{image}\r\n")


def test_pull_of_nothing_is_told(client: Client, registry: DebianRegistry) -> None:
    done = client.run("pull", f"{registry.host}/nosuch:1")
    assert done.returncode == 1 and "manifest unknown" in done.stderr
    assert client.run("pull", "UPPER").stderr.startswith("dockyard: invalid reference format")


# --- log-in -----------------------------------------------------------------------------------------------------------


def test_login_push_logout(client: Client, private: DebianRegistry, image: str) -> None:
    name = f"{private.host}/mine:1"
    client.out("tag", image, name)
    denied = client.run("push", name)
    assert denied.returncode == 1 and "no basic auth credentials" in denied.stderr + denied.stdout
    wrong = client.run("login", "-u", USER, "--password-stdin", private.host, input="wrong\n")
    assert wrong.returncode == 1 and not (client.folder / "config.json").exists()
    done = client.run("login", "-u", USER, "--password-stdin", private.host, input=f"{PASSWORD}\n")
    assert done.stdout.endswith("Login Succeeded\n") and "unencrypted" in done.stderr
    assert list(client.config["auths"]) == [private.host]
    assert (client.folder / "config.json").stat().st_mode & 0o777 == 0o600
    client.out("push", "-q", name)
    client.out("push", "-q", name, program=docker_cli())  # what we keep, docker reads
    assert "Authenticating with existing credentials" in client.out("login", private.host)
    client.out("rmi", name)
    client.out("pull", "-q", name)
    assert client.out("logout", private.host) == f"Removing login credentials for {private.host}\n"
    assert not client.config["auths"]
    assert client.run("pull", name).returncode == 1
    client.run("rmi", name)


def test_credentials_that_docker_kept(client: Client, private: DebianRegistry, image: str) -> None:
    client.out("login", "-u", USER, "--password-stdin", private.host, program=docker_cli(), input=PASSWORD)
    name = f"{private.host}/docker:1"
    client.out("tag", image, name)
    client.out("push", "-q", name)
    client.out("rmi", name)


def test_a_credential_helper_is_asked(client: Client, private: DebianRegistry, image: str, tmp_path: Path) -> None:
    helper = tmp_path / "docker-credential-drawer"
    drawer = tmp_path / "drawer"
    helper.write_text(
        f"#!/bin/sh\ncase $1 in\nstore) cat >{drawer};;\nget) read server; [ -e {drawer} ] && cat {drawer} || "
        f'{{ echo "credentials not found in native keychain"; exit 1; }};;\nerase) rm -f {drawer};;\nesac\n'
    )
    helper.chmod(0o755)
    client.environment["PATH"] = f"{tmp_path}:{os.environ['PATH']}"
    (client.folder / "config.json").write_text(json.dumps({"credHelpers": {private.host: "drawer"}, "mine": 1}))
    name = f"{private.host}/helped:1"
    client.out("tag", image, name)
    assert client.run("push", name).returncode == 1
    done = client.run("login", "-u", USER, "--password-stdin", private.host, input=PASSWORD)
    assert done.returncode == 0 and "unencrypted" not in done.stderr
    assert json.loads(drawer.read_text()) == {"ServerURL": private.host, "Username": USER, "Secret": PASSWORD}
    assert PASSWORD not in (client.folder / "config.json").read_text() and client.config["mine"] == 1
    client.out("push", "-q", name)
    client.out("logout", private.host)
    assert not drawer.exists()
    client.out("rmi", name)


# --- manifests --------------------------------------------------------------------------------------------------------


def test_manifest_lists(client: Client, image: str, registry: DebianRegistry, engine: Engine) -> None:
    client.out("push", "-q", image)
    raw = json.loads(client.out("manifest", "inspect", image))
    assert raw["schemaVersion"] == 2 and raw["config"]["digest"].startswith("sha256:")
    verbose = json.loads(client.out("manifest", "inspect", "-v", image))
    assert verbose["Ref"] == image and verbose["Descriptor"]["platform"]["os"] == "linux"
    target = f"{registry.host}/team/all:1"
    assert client.out("manifest", "create", target, image) == f"Created manifest list {target}\n"
    assert client.run("manifest", "create", target, image).returncode == 1
    client.out("manifest", "annotate", "--os-features", "sse4", target, image)
    digest = client.out("manifest", "push", "-p", target).split()[-1]
    shown = client.out("imagetools", "inspect", target)
    assert digest in shown and "Platform:  linux/amd64" in shown
    listed = json.loads(client.out("imagetools", "inspect", "--raw", target))
    (listed_image,) = listed["manifests"]
    assert listed_image["platform"] == {"architecture": "amd64", "os": "linux", "os.features": ["sse4"]}
    client.out("pull", "-q", target)
    again = f"{registry.host}/team/again:2"
    assert again in client.out("imagetools", "create", "-t", again, target)
    assert client.run("manifest", "inspect", f"{registry.host}/team/none").returncode == 1
    assert "no such manifest" in client.run("manifest", "inspect", f"{registry.host}/team/none").stderr
    client.out("rmi", target)


def test_manifests_behind_a_log_in(client: Client, private: DebianRegistry, image: str) -> None:
    name = f"{private.host}/locked:1"
    client.out("tag", image, name)
    client.out("login", "-u", USER, "--password-stdin", private.host, input=PASSWORD)
    client.out("push", "-q", name)
    assert json.loads(client.out("manifest", "inspect", name))["schemaVersion"] == 2
    client.out("logout", private.host)
    assert client.run("manifest", "inspect", name).returncode == 1
    client.out("rmi", name)
