"""The pull-through cache, and webhooks: both against servers on loopback."""

from __future__ import annotations

import asyncio
import base64
import http.client
import json
import os
import threading
import time
from collections.abc import AsyncIterator, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from yarl import URL

from dockyard.registry.arriving import Arriving
from dockyard.registry.errors import RegistryError
from dockyard.registry.upstream import Upstream
from tests.unit.registry.conftest import make_bucket
from tests.unit.registry.support import OCI_MANIFEST, Registry, digest_of, image
from tests.unit.registry.test_access import basic, htpasswd


class Stub:
    """A server whose answers a function gives: (method, path, headers, body) → (status, headers, body or parts)."""

    def __init__(self) -> None:
        self.requests: list[tuple[str, str, dict[str, str], bytes]] = []
        self.answer: Any = lambda *_: (404, {}, b"")
        stub = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def _serve(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                request = (self.command, self.path, {k.lower(): v for k, v in self.headers.items()}, body)
                stub.requests.append(request)
                status, headers, content = stub.answer(*request)
                self.send_response(status)
                length = {"Content-Length": str(len(content))} if isinstance(content, bytes) else {}
                for key, value in (length | headers).items():
                    self.send_header(key, value)
                self.end_headers()
                for part in [content] if isinstance(content, bytes) else content:
                    if self.command != "HEAD":
                        self.wfile.write(part)

            do_GET = do_HEAD = do_POST = _serve

            def log_message(self, *_: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.port = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


@pytest.fixture
def stub() -> Iterator[Stub]:
    stub = Stub()
    yield stub
    stub.close()


def test_a_cache_of_a_registry_with_passwords(tmp_path: Path) -> None:
    layer = b"layer" * 100_000
    auth = {"htpasswd": {"path": htpasswd(tmp_path, ann="b")}}
    upstream = Registry.on_files(tmp_path / "up", auth=auth).start()
    owner = upstream.client(Authorization=basic("ann", "b"))
    digest = owner.push("a/b", "v1", layer)
    proxy = {"url": f"http://{upstream.address}", "username": "ann", "password": "b"}
    with Registry.on_files(tmp_path / "cache", proxy=proxy) as cache:
        client = cache.client()
        assert client("GET", "/v2/a/b/manifests/none").codes == ["MANIFEST_UNKNOWN"]
        assert client("HEAD", "/v2/a/b/manifests/v1").headers["docker-content-digest"] == digest
        assert client("GET", f"/v2/a/b/blobs/{digest_of(layer)}").body == layer
        assert client("GET", f"/v2/a/b/blobs/{digest_of(b'no')}").codes == ["BLOB_UNKNOWN"]
        assert client("POST", "/v2/a/b/blobs/uploads/").codes == ["UNSUPPORTED"]
        second = owner.push("a/b", "v1", layer, annotations={"second": "yes"})
        assert client("HEAD", "/v2/a/b/manifests/v1").headers["docker-content-digest"] == second
        owner.close()
        upstream.stop()
        assert client("HEAD", "/v2/a/b/manifests/v1").headers["docker-content-digest"] == second
        assert client("GET", f"/v2/a/b/manifests/{digest}").status == 200
        assert client("GET", f"/v2/a/b/blobs/{digest_of(layer)}").body == layer
        assert client("GET", "/v2/a/b/manifests/new").status == 502
        assert list((tmp_path / "cache" / "data" / "uploads").glob("*")) == []


@pytest.mark.parametrize("storage", ["files", "s3"])
def test_a_blob_is_served_while_it_is_fetched(
    tmp_path: Path, stub: Stub, storage: str, request: pytest.FixtureRequest
) -> None:
    """Also to one who comes later, and one upstream request is enough for all."""
    content = os.urandom(6_000_000)
    digest, half = digest_of(content), threading.Event()

    def parts() -> Iterator[bytes]:
        yield content[:4_000_000]
        assert half.wait(20)
        yield content[4_000_000:]

    def answer(method: str, path: str, *_: Any) -> Any:
        if not path.endswith(digest):
            return 404, {}, b""
        length = {"Content-Length": str(len(content))}
        return (200, length, b"") if method == "HEAD" else (200, length, parts())

    stub.answer = answer
    settings: dict[str, Any] = {"proxy": {"url": f"http://127.0.0.1:{stub.port}"}}
    if storage == "s3":
        settings["storage"] = {"s3": make_bucket(request.getfixturevalue("s3_endpoint"))}
    with Registry.on_files(tmp_path / "cache", **settings) as cache:
        assert cache.client()("HEAD", f"/v2/x/blobs/{digest}").headers["content-length"] == str(len(content))
        assert [method for method, *_ in stub.requests] == ["HEAD"]  # nothing is fetched for it
        first = http.client.HTTPConnection(cache.address, timeout=20)
        first.request("GET", f"/v2/x/blobs/{digest}")
        head = first.getresponse()
        assert head.getheader("content-length") == str(len(content))
        begun = head.read(3_000_000)  # upstream has not sent the rest
        later: list[bytes] = []
        thread = threading.Thread(target=lambda: later.append(cache.client()("GET", f"/v2/x/blobs/{digest}").body))
        thread.start()
        time.sleep(0.2)
        half.set()
        assert begun + head.read() == content
        thread.join(20)
        assert later == [content]
        stub.answer = lambda *_: (500, {}, b"")
        part = cache.client(Range="bytes=5-9")("GET", f"/v2/x/blobs/{digest}")
        assert (part.status, part.body) == (206, content[5:10])
        assert [method for method, *_ in stub.requests] == ["HEAD", "GET"]
        first.close()


@pytest.mark.parametrize("cause", ["wrong", "short"])
def test_s31_a_blob_that_turns_out_to_be_another_ends_early(tmp_path: Path, stub: Stub, cause: str) -> None:
    content = os.urandom(5_000_000)
    sent = content[:-1] + b"x" if cause == "wrong" else content[:4_000_000]
    stub.answer = lambda *_: (200, {"Content-Length": str(len(content)), "Connection": "close"}, iter([sent]))
    with Registry.on_files(tmp_path / "cache", proxy={"url": f"http://127.0.0.1:{stub.port}"}) as cache:
        with pytest.raises((http.client.IncompleteRead, ConnectionError)):
            cache.client()("GET", f"/v2/x/blobs/{digest_of(content)}")
        data = tmp_path / "cache" / "data"
        assert not [path for path in data.rglob("*") if path.is_file() and path.stat().st_size > 1000]


def test_a_client_that_is_slow_gets_the_rest_from_the_storage() -> None:
    async def main() -> None:
        arriving, passed = Arriving(behind=10), []

        async def source() -> AsyncIterator[bytes]:
            for part in (b"aaaa", b"bbbb", b"cccc", b"dddd"):
                yield part

        async def rest(start: int) -> AsyncIterator[bytes]:
            yield b"aaaabbbbccccdddd"[start:]

        arriving.start(16)
        listener = arriving.listen()
        assert listener is not None
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        chunks = listener.chunks(16, done, rest)
        async for part in arriving.tee(source()):  # faster than anybody reads
            passed.append(part)
        assert b"".join(passed) == b"aaaabbbbccccdddd" and arriving.listen() is None
        assert await anext(chunks) == b"aaaa"
        arriving.end()
        done.set_result(None)
        assert [part async for part in chunks] == [b"bbbb", b"ccccdddd"]

    asyncio.run(main())


def test_s31_wrong_bytes_from_upstream_are_not_kept(tmp_path: Path, stub: Stub) -> None:
    stub.answer = lambda *_: (200, {"Content-Type": OCI_MANIFEST}, b"wrong")
    with Registry.on_files(tmp_path / "r", proxy={"url": f"http://127.0.0.1:{stub.port}"}) as cache:
        client = cache.client()
        for _ in range(2):
            assert client("GET", f"/v2/a/blobs/{digest_of(b'right')}").status == 502
            assert client("GET", f"/v2/a/manifests/{digest_of(b'right')}").status == 502
            assert client("GET", "/v2/a/manifests/v1").status == 502
        files = [each for each in (tmp_path / "r" / "data").rglob("*") if each.is_file()]
        assert files == []


def test_s38_credentials_stay_with_upstream(tmp_path: Path, stub: Stub) -> None:
    foreign = Stub()
    raw = image(b"{}")

    def answer(method: str, path: str, headers: dict[str, str], body: bytes) -> tuple[int, dict[str, str], bytes]:
        if path.startswith("/token"):
            return 200, {}, json.dumps({"token": "secret-token", "expires_in": 60}).encode()
        if headers.get("authorization") != "Bearer secret-token":
            realm = f'Bearer realm="http://127.0.0.1:{stub.port}/token",service="s"'
            return 401, {"WWW-Authenticate": realm}, b""
        if "/blobs/" in path:
            return 307, {"Location": f"http://localhost:{foreign.port}{path}"}, b""
        return 200, {"Content-Type": OCI_MANIFEST}, raw

    stub.answer = answer
    foreign.answer = lambda *_: (200, {}, b"content")
    proxy = {"url": f"http://127.0.0.1:{stub.port}", "username": "ann", "password": "b"}
    try:
        with Registry.on_files(tmp_path / "r", proxy=proxy) as cache:
            client = cache.client()
            assert client("GET", "/v2/a/manifests/v1").body == raw
            assert client("GET", f"/v2/a/blobs/{digest_of(b'content')}").body == b"content"
        assert foreign.requests and all("authorization" not in each[2] for each in foreign.requests)
        tokens = [each for each in stub.requests if each[1].startswith("/token")]
        assert tokens[0][2]["authorization"] == basic("ann", "b") and "repository%3Aa%3Apull" in tokens[0][1].replace(
            ":", "%3A"
        )
    finally:
        foreign.close()


def test_s38_a_foreign_token_server_gets_nothing(tmp_path: Path, stub: Stub) -> None:
    foreign = Stub()
    realm = f'Bearer realm="http://localhost:{foreign.port}/token",service="s"'
    stub.answer = lambda *_: (401, {"WWW-Authenticate": realm}, b"")
    proxy = {"url": f"http://127.0.0.1:{stub.port}", "username": "ann", "password": "b"}
    try:
        with Registry.on_files(tmp_path / "r", proxy=proxy) as cache:
            answer = cache.client()("GET", "/v2/a/manifests/v1")
            assert answer.status == 502 and "localhost" in answer.json()["errors"][0]["message"]
        assert foreign.requests == []
        assert base64.b64encode(b"ann:b").decode() not in str(stub.requests)
    finally:
        foreign.close()


def test_webhooks_are_retried_until_they_are_taken(tmp_path: Path, stub: Stub) -> None:
    answers = iter([500, 503])
    stub.answer = lambda *_: (next(answers, 200), {}, b"")
    hook = {"name": "hook", "url": f"http://127.0.0.1:{stub.port}/x", "headers": {"X-Key": "k"}, "backoff": 0.05}
    with Registry.on_files(tmp_path / "r", notifications=[hook]) as registry:
        client = registry.client()
        digest = client.push("a/b", "v1", b"layer")
        client("GET", "/v2/a/b/manifests/v1")
        client("DELETE", "/v2/a/b/manifests/v1")
        deadline = time.monotonic() + 10
        while len(stub.requests) < 7 and time.monotonic() < deadline:
            time.sleep(0.05)
        time.sleep(0.1)
    events = [json.loads(each[3])["events"][0] for each in stub.requests[2:]]
    assert [each["action"] for each in events] == ["push", "push", "push", "pull", "delete"]
    assert events[0] == json.loads(stub.requests[0][3])["events"][0]  # the one that was refused twice
    target = events[2]["target"]
    assert (target["repository"], target["tag"], target["digest"]) == ("a/b", "v1", digest)
    assert stub.requests[0][2]["x-key"] == "k"
    assert list((tmp_path / "r" / "data" / "notifications").rglob("*-*")) == []


def test_s39_upstream_leads_nobody_inside() -> None:
    """A registry elsewhere must not redirect the cache to addresses of this network; one inside may."""

    async def main() -> None:
        upstream = Upstream("https://192.0.2.1", "", "", [])
        try:
            upstream._inward = False
            for inside in ("http://127.0.0.1/x", "http://10.1.2.3/x", "http://169.254.169.254/latest", "http://[::1]/"):
                with pytest.raises(RegistryError, match="redirects to the internal address"):
                    await upstream._check_address(URL(inside))
            upstream._inward = True
            await upstream._check_address(URL("http://10.1.2.3/x"))
        finally:
            await upstream.close()

    asyncio.run(main())
