"""The pull-through cache, and webhooks: both against servers on loopback."""

from __future__ import annotations

import base64
import json
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from tests.unit.registry.support import OCI_MANIFEST, Registry, digest_of, image
from tests.unit.registry.test_access import basic, htpasswd


class Stub:
    """A server whose answers a function gives: (method, path, headers, body) → (status, headers, body)."""

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
                for key, value in ({"Content-Length": str(len(content))} | headers).items():
                    self.send_header(key, value)
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(content)

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
