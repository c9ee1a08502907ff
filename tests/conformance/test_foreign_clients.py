"""What clients other than the docker CLI and docker-py hold on to: fields that are null or a list, texts, handshakes.

Each test names the client that fell over it. docs/clients.md tells of the clients themselves.
"""

from __future__ import annotations

import asyncio
import time

import aiohttp
import docker
import pytest

from tests.support import busybox, steps
from tests.support.engines import Engine
from tests.support.rawhttp import Connection

NOTHING = {"label": ["no.such.label=at-all"]}


@pytest.mark.parametrize(
    ("kind", "field", "empty"),
    [
        ("containers", "ContainersDeleted", None),
        ("images", "ImagesDeleted", None),
        ("networks", "NetworksDeleted", None),
        ("volumes", "VolumesDeleted", []),
    ],
)
def test_aiodocker_asks_what_a_prune_without_work_says(api: Connection, kind: str, field: str, empty: object) -> None:
    """A list for volumes, null for everything else."""
    answer = api.request("POST", f"/v1.41/{kind}/prune", None, {"filters": NOTHING}).json()
    assert answer[field] == empty
    assert answer.get("SpaceReclaimed", 0) == 0


def test_aiodocker_asks_what_a_build_prune_without_work_says(api: Connection) -> None:
    api.post("/build/prune", None, all=True)
    assert api.post("/build/prune", None).json() == {"CachesDeleted": None, "SpaceReclaimed": 0}


def test_aiodocker_reads_the_text_of_an_unknown_platform(api: Connection) -> None:
    context = busybox.archive({"Dockerfile": b"FROM bb\n"})
    answer = api.request("POST", "/v1.41/build", None, {"platform": "foo"}, raw=context)
    assert answer.status == 400
    assert "unknown operating system or architecture: invalid argument" in answer.json()["message"]


def test_skopeo_podman_and_buildah_ask_in_api_1_22(engine: Engine, api: Connection) -> None:
    """`docker-daemon:` of containers/image: inspect, save, load. What came after 1.22 is not taken from them."""
    assert api.get("/v1.22/images/bb/json").json()["RepoTags"] == ["bb:latest"]
    saved = api.get("/v1.22/images/bb/get")
    assert saved.status == 200
    assert saved.headers["content-type"] == "application/x-tar"
    loaded = api.request("POST", "/v1.22/images/load", None, {"quiet": "1"}, raw=saved.body)
    assert b"bb:latest" in loaded.body


def test_a_websockets_only_subprotocol_is_agreed_to(engine: Engine, api: Connection) -> None:
    """Browsers and node's ws give up when none of those that they offered comes back."""
    identifier = steps.started(api, "cat", OpenStdin=True)

    async def main() -> str | None:
        connector = aiohttp.UnixConnector(str(engine.socket_path))
        async with aiohttp.ClientSession(connector=connector, headers={"Origin": "http://localhost"}) as session:
            url = f"http://localhost/v1.41/containers/{identifier}/attach/ws?stream=1&stdin=1&stdout=1"
            async with session.ws_connect(url, protocols=("chat",)) as socket:
                return socket.protocol

    assert asyncio.run(main()) == "chat"


def test_statistics_end_with_their_container(client: docker.DockerClient) -> None:
    """At once, not with the next reading: aiodocker leaves the stream to its end and complains of a connection left
    open. The best of three: a busy machine takes its time to remove."""
    took = []
    for _ in range(3):
        container = client.containers.run("bb", ["true"], detach=True)
        container.wait()
        readings = container.stats(stream=True)
        next(readings)
        next(readings)
        since = time.monotonic()
        container.remove(force=True)
        list(readings)
        took.append(time.monotonic() - since)
        if took[-1] < 0.6:
            break
    assert min(took) < 0.6, took
