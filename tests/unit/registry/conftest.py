"""Both storages: files, and S3 as moto's server speaks it on loopback."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.unit.registry.support import Client, Registry


@pytest.fixture(scope="session")
def s3_endpoint() -> Iterator[str]:
    moto = pytest.importorskip("moto.server")
    pytest.importorskip("obstore")
    server = moto.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


def make_bucket(endpoint: str) -> dict[str, Any]:
    """A new bucket, as the `s3` part of the storage's settings."""
    import boto3

    name = f"registry-{secrets.token_hex(4)}"
    keys = {"aws_access_key_id": "key", "aws_secret_access_key": "secret", "region_name": "us-east-1"}
    boto3.client("s3", endpoint_url=endpoint, **keys).create_bucket(Bucket=name)
    return {
        "bucket": name, "prefix": "some/where", "endpoint": endpoint, "access_key_id": "key",
        "secret_access_key": "secret",
    }  # fmt: skip


def make_storage(request: pytest.FixtureRequest, folder: Path) -> dict[str, Any]:
    if request.param == "files":
        return {"filesystem": {"root": str(folder / "data")}}
    return {"s3": make_bucket(request.getfixturevalue("s3_endpoint"))}


@pytest.fixture(params=["files", "s3"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> dict[str, Any]:
    """The `storage` part of the settings."""
    return make_storage(request, tmp_path)


@pytest.fixture
def registry(tmp_path: Path, storage: dict[str, Any]) -> Iterator[Registry]:
    with Registry(tmp_path / "registry", {"storage": storage}) as running:
        yield running


@pytest.fixture
def client(registry: Registry) -> Iterator[Client]:
    client = registry.client()
    yield client
    client.close()


@pytest.fixture(params=["files", "s3"], scope="module")
def lasting(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    """A registry for all tests of a module that do not mind what else is in it."""
    folder = tmp_path_factory.mktemp("lasting")
    with Registry(folder / "registry", {"storage": make_storage(request, folder)}) as running:
        yield running


@pytest.fixture
def visitor(lasting: Registry) -> Iterator[Client]:
    """A client of the `lasting` registry."""
    client = lasting.client()
    yield client
    client.close()
