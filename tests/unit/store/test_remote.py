"""Requests to registries: TLS, where credentials go, where nobody is led."""

from __future__ import annotations

import asyncio
import shutil
import ssl
from collections.abc import Callable, Coroutine
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from dockyard.model.errors import DockyardError, Forbidden, InvalidArgument, NotFound, Unauthorized, Unavailable
from dockyard.model.oci import Descriptor
from dockyard.proto.dockerconfig import Credentials
from dockyard.proto.registries import Place, RegistryRules
from dockyard.store.remote.errors import Temporary, TooManyRequests, explain
from dockyard.store.remote.repository import Repository
from dockyard.store.remote.session import Session, Shared, pause
from dockyard.store.remote.transport import Limits, Transport
from tests.support import certificates
from tests.support.fakeregistry import FakeRegistry

ME = Credentials("me", "secret")
QUICK = Limits(connect=2, silence=1, tries=2, delay=0.01)


def run(work: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(work())


class Ground:
    """A transport of its own; `session` for a fake registry."""

    def __init__(self, rules: RegistryRules | None = None, certificates: tuple[str, ...] = ()) -> None:
        self.transport = Transport(rules or RegistryRules(), QUICK, certificates)
        self.shared = Shared(self.transport)

    async def __aenter__(self) -> Ground:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.transport.close()

    def session(
        self, host: str, credentials: Credentials = ME, schemes: tuple[str, ...] = ("https", "http")
    ) -> Session:
        return Session(self.shared, Place(host, schemes), credentials)


# --- TLS --------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """ca, a server's certificate for 127.0.0.1, a client's."""
    return certificates.authority_in(tmp_path_factory.mktemp("tls"))


def server_context(authority: Path, ask_client: bool = False) -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(authority / "server.cert", authority / "server.key")
    if ask_client:
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(authority / "ca.crt")
    return context


def test_s39_tls_is_verified_and_a_private_authority_helps(authority: Path, tmp_path: Path) -> None:
    async def work() -> None:
        async with FakeRegistry(tls=server_context(authority)) as registry:
            async with Ground(certificates=(str(tmp_path),)) as ground:
                with pytest.raises(Forbidden, match="failed to verify certificate"):
                    # as a registry that is not on loopback is treated
                    async with ground.transport.exchange("GET", f"https://{registry.host}/v2/", {}):
                        pass
                assert not registry.log
            place = tmp_path / registry.host
            place.mkdir()
            shutil.copy(authority / "ca.crt", place / "ca.crt")
            async with Ground(certificates=(str(tmp_path),)) as ground:
                async with ground.transport.exchange("GET", f"https://{registry.host}/v2/", {}) as response:
                    assert response.status == 200

    run(work)


def test_client_certificates(authority: Path, tmp_path: Path) -> None:
    async def work() -> None:
        async with FakeRegistry(tls=server_context(authority, ask_client=True)) as registry:
            place = tmp_path / registry.host
            place.mkdir()
            shutil.copy(authority / "ca.crt", place / "ca.crt")
            shutil.copy(authority / "client.cert", place / "client.cert")
            async with Ground(certificates=(str(tmp_path),)) as ground:
                with pytest.raises(
                    InvalidArgument, match=r"missing key client.key for client certificate .*client.cert"
                ):
                    await ground.session(registry.host, schemes=("https",)).find()
            shutil.copy(authority / "client.key", place / "client.key")
            async with Ground(certificates=(str(tmp_path),)) as ground:
                await ground.session(registry.host, schemes=("https",)).find()

    run(work)


def test_insecure_registry_with_and_without_tls(authority: Path) -> None:
    async def work() -> None:
        async with Ground() as ground:
            async with FakeRegistry(tls=server_context(authority)) as registry:
                await ground.session(registry.host).find()
            async with FakeRegistry() as plain:
                await ground.session(plain.host).find()
                with pytest.raises(Forbidden, match="server gave HTTP response to HTTPS client"):
                    await ground.session(plain.host, schemes=("https",)).find(fresh=True)

    run(work)


# --- where credentials and requests go --------------------------------------------------------------------------------


def test_s39_nobody_is_led_to_local_addresses() -> None:
    async def work() -> None:
        async with Ground() as ground, FakeRegistry() as registry:
            port = registry.host.rpartition(":")[2]
            for host in (registry.host, f"localhost:{port}", f"[::ffff:127.0.0.1]:{port}"):
                with pytest.raises(Forbidden, match="leads to the local address"):
                    async with ground.transport.exchange("GET", f"http://{host}/v2/", {}, guarded=True):
                        pass
            assert not registry.log
        async with Ground(RegistryRules.make([], [], ["127.0.0.1"])) as ground, FakeRegistry() as registry:
            async with ground.transport.exchange("GET", f"http://{registry.host}/v2/", {}, guarded=True) as response:
                assert response.status == 200

    run(work)


def test_s39_a_redirect_of_a_registry_elsewhere_is_guarded() -> None:
    async def work() -> None:
        async with Ground() as ground, FakeRegistry() as registry, FakeRegistry("127.0.0.2") as inside:

            async def away(request: web.Request) -> web.StreamResponse:
                return web.Response(status=302, headers={"Location": f"http://{inside.host}/latest/meta-data"})

            registry.hooks.append(("/manifests/", away))
            session = ground.session(registry.host)
            session.local = False  # as if it were a registry of the internet
            with pytest.raises(Forbidden, match="local address"):
                await Repository(session, "x").manifest("latest", "manifest")
            assert not inside.log

    run(work)


def test_s38_no_downgrade_and_no_stranger_as_realm(authority: Path) -> None:
    async def work() -> None:
        async with Ground() as ground, FakeRegistry(tls=server_context(authority)) as registry:
            registry.token = "t"
            session = ground.session(registry.host)
            for realm, text in (
                ("http://auth.example/token", "without TLS"),
                ("https://evil.example/token", "unrelated token server"),
                ("file:///etc/passwd", "invalid token realm"),
                ("https://u:p@127.0.0.1/", "invalid token realm"),
            ):
                registry.realm = realm
                ground.shared.found.clear()
                with pytest.raises(DockyardError, match=text):
                    await Repository(ground.session(registry.host), "x").manifest("latest", "manifest")
            del session

    run(work)


def test_s38_credentials_never_reach_another_origin() -> None:
    """A stranger that asks for them after a redirect does not get them either."""

    async def work() -> None:
        async with Ground() as ground, FakeRegistry() as registry, FakeRegistry("127.0.0.2") as stranger:
            registry.user = stranger.user = ("me", "secret")

            async def away(request: web.Request) -> web.StreamResponse:
                return web.Response(status=307, headers={"Location": f"http://{stranger.host}{request.path}"})

            registry.hooks.append(("/manifests/", away))
            with pytest.raises(Unauthorized):
                await Repository(ground.session(registry.host), "x").manifest("latest", "manifest")
            assert all("Authorization" not in headers for headers in stranger.asked("/"))
            assert "Authorization" in registry.asked("/manifests/")[0]

    run(work)


def test_s38_netrc_and_cookies_are_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login root password hunter2\n")
    netrc.chmod(0o600)
    monkeypatch.setenv("NETRC", str(netrc))

    async def work() -> None:
        async with Ground() as ground, FakeRegistry() as registry:

            async def cookie(request: web.Request) -> web.StreamResponse:
                return web.json_response({}, headers={"Set-Cookie": "a=b; Path=/"})

            registry.hooks.append(("/v2/", cookie))
            session = ground.session(registry.host, Credentials())
            await session.find()
            await session.find(fresh=True)
            assert all("Authorization" not in h and "Cookie" not in h for h in registry.asked("/"))

    run(work)


def test_an_expired_token_is_replaced() -> None:
    async def work() -> None:
        async with Ground() as ground, FakeRegistry() as registry:
            registry.token, registry.realm = "first", f"http://{registry.host}/token"
            repository = Repository(ground.session(registry.host), "x")
            with pytest.raises(NotFound):
                await repository.manifest("latest", "manifest")
            registry.token = "second"
            with pytest.raises(NotFound):
                await repository.manifest("latest", "manifest")
            assert len(registry.asked("/token")) == 2

    run(work)


def test_token_that_never_helps_ends() -> None:
    async def work() -> None:
        async with Ground() as ground, FakeRegistry() as registry:
            registry.token, registry.realm = "right", f"http://{registry.host}/token"

            async def wrong(request: web.Request) -> web.StreamResponse:
                return web.json_response({"token": "wrong"})

            registry.hooks.append(("/token", wrong))
            with pytest.raises(Unauthorized, match="authentication required"):
                await Repository(ground.session(registry.host), "x").manifest("latest", "manifest")
            assert len(registry.asked("/token")) <= 2

    run(work)


def test_refresh_token() -> None:
    async def work() -> None:
        async with Ground() as ground, FakeRegistry() as registry:
            registry.token, registry.realm = "t", f"http://{registry.host}/token"
            bodies = []

            async def token(request: web.Request) -> web.StreamResponse:
                bodies.append((request.method, dict(await request.post())))
                return web.json_response({"access_token": "t"})

            registry.hooks.append(("/token", token))
            who = Credentials(identity_token="refresh")
            with pytest.raises(NotFound):
                await Repository(ground.session(registry.host, who), "x").manifest("latest", "manifest")
            ((method, form),) = bodies
            assert method == "POST" and form["grant_type"] == "refresh_token" and form["refresh_token"] == "refresh"

    run(work)


def test_tags_page_by_page() -> None:
    async def work() -> None:
        async with Ground() as ground, FakeRegistry() as registry:

            async def tags(request: web.Request) -> web.StreamResponse:
                if "last" in request.query:
                    return web.json_response({"tags": ["c"]})
                link = '<http://evil.example/v2/x/tags/list?last=b>; rel="next"'
                return web.json_response({"tags": ["a", "b"]}, headers={"Link": link})

            registry.hooks.append(("/tags/list", tags))
            assert await Repository(ground.session(registry.host), "x").tags("tags") == ["a", "b", "c"]

    run(work)


# --- errors -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "body", "kind", "text"),
    [
        (404, b'{"errors":[{"code":"MANIFEST_UNKNOWN","message":"manifest unknown"}]}', NotFound,
         "manifest unknown: manifest unknown"),
        (401, b"", Unauthorized, "unauthorized: authentication required"),
        (403, b'{"errors":[{"code":"DENIED","message":"no"}]}', Forbidden, "denied: no"),
        (429, b"", TooManyRequests, "toomanyrequests: x: the registry's rate limit is reached"),
        (429, b'{"errors":[{"code":"TOOMANYREQUESTS","message":"slow down"}]}', Unavailable,
         "toomanyrequests: slow down"),
        (503, b"<html>", Temporary, "x: received unexpected HTTP status: 503"),
        (400, b"\xff", InvalidArgument, "x: received unexpected HTTP status: 400"),
        (404, b'{"errors":[{"code":"A","message":"\x1b[31m\\u001b[31mred"}]}', NotFound, None),
    ],
)  # fmt: skip
def test_errors(status: int, body: bytes, kind: type[DockyardError], text: str | None) -> None:
    error = explain(status, body, "x")
    assert isinstance(error, kind)
    assert "\x1b" not in error.message
    if text is not None:
        assert error.message == text


@pytest.mark.parametrize(
    ("downloads", "tries", "asked"), [(1, None, 1), (0, None, 2), (3, None, 3), (1, 2, 1), (3, 2, 2)]
)
def test_a_download_is_tried_as_often_as_is_allowed(downloads: int, tries: int | None, asked: int) -> None:
    async def work() -> None:
        async with Ground() as ground, FakeRegistry() as registry:
            ground.transport.limits = replace(QUICK, downloads=downloads)

            async def broken(_request: web.Request) -> web.StreamResponse:
                return web.Response(status=503)

            registry.hooks.append(("/blobs/", broken))
            repository = Repository(ground.session(registry.host), "x")
            with pytest.raises(Temporary):
                async for _ in repository.blob(
                    Descriptor(digest=f"sha256:{'0' * 64}", size=5), 0, "layer", None, tries
                ):
                    pass
            assert len(registry.asked("/blobs/")) == asked

    run(work)


def test_pauses() -> None:
    assert [pause(Temporary("x"), attempt, 5, 0.5) for attempt in range(5)] == [0.5, 1.0, 2.0, 4.0, None]
    assert pause(Temporary("x", 7), 0, 5, 0.5) == 7
    assert pause(TooManyRequests("x"), 0, 5, 0.5) is None
    assert pause(TooManyRequests("x", 3), 0, 5, 0.5) == 3
    assert pause(TooManyRequests("x", 3600), 0, 5, 0.5) is None
