"""Addresses that a hostile registry, or a client, names."""

from __future__ import annotations

import asyncio

import pytest

from dockyard.model.errors import InvalidArgument
from dockyard.proto.registries import RegistryRules
from dockyard.store.remote.addresses import absolute
from dockyard.store.remote.download import download
from dockyard.store.remote.errors import TooManyRequests, explain
from dockyard.store.remote.transport import Transport

NONE = [
    "", "https://", "http:///x", "https://host:99999/", "https://host:x/", "https://host:0/", "https://[::1/",
    "file:///etc/passwd", "javascript:1", "//", "gopher://host/", "https://host/" + "a" * 20_000, "sha256:zz", "http://[fe80::1%25eth0",
]  # fmt: skip


@pytest.mark.parametrize("text", NONE)
def test_what_is_no_address(text: str) -> None:
    assert absolute(text) is None


def test_addresses_as_they_are_seen_from_a_page() -> None:
    page = "https://registry:5000/v2/a/blobs/x"
    assert absolute("/elsewhere?x=1", page) == "https://registry:5000/elsewhere?x=1"
    assert absolute("http://[::1]:80/x", page) == "http://[::1]:80/x"
    assert absolute("https://other:99999/", page) is None
    assert absolute("ftp://other/", page) is None


@pytest.mark.parametrize("text", [*NONE, "http://user:hunter2@host:99999/x"])
def test_s50_a_download_from_nowhere_is_refused_without_what_it_has_of_passwords(text: str) -> None:
    async def work() -> None:
        await download(Transport(RegistryRules()), text, -1, limit=1)

    with pytest.raises(InvalidArgument) as caught:
        asyncio.run(work())
    assert "hunter2" not in caught.value.message


def test_an_exchange_with_nowhere() -> None:
    async def work() -> None:
        async with Transport(RegistryRules()).exchange("GET", "https://host:99999/v2/", {}):
            pass

    with pytest.raises(InvalidArgument, match="invalid address"):
        asyncio.run(work())


@pytest.mark.parametrize("after", ["²", "-1", "1e9", "9" * 40, "Sun, 06 Nov 1994 08:49:37 GMT", "\x00"])
def test_a_pause_that_is_no_number_of_seconds(after: str) -> None:
    error = explain(429, b"[" * 5000, "x", after)
    assert isinstance(error, TooManyRequests) and error.after is None
