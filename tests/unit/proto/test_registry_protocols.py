"""The pure parts of the registry client: challenges, credentials, platforms, which host is what."""

from __future__ import annotations

import base64
import ipaddress
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dockyard.model.errors import InvalidArgument
from dockyard.model.oci import Descriptor, Platform
from dockyard.proto import dockerconfig, hostsfile, platforms, registries, wwwauth
from dockyard.proto.dockerconfig import Credentials
from dockyard.proto.registries import Place, RegistryRules, TLSFiles

AMD64 = Platform("amd64", "linux")


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (
            'Bearer realm="https://auth.docker.io/token",service="registry.docker.io",scope="repository:a/b:pull,push"',
            [("bearer", {"realm": "https://auth.docker.io/token", "service": "registry.docker.io",
                         "scope": "repository:a/b:pull,push"})],
        ),
        ('Basic realm="a \\"b\\" c"', [("basic", {"realm": 'a "b" c'})]),
        ("Basic", [("basic", {})]),
        ("Negotiate, Basic realm=x", [("negotiate", {}), ("basic", {"realm": "x"})]),
        ('Basic realm="x", Bearer realm="y",service=z', [("basic", {"realm": "x"}),
                                                       ("bearer", {"realm": "y", "service": "z"})]),
        ("Negotiate abc==, BEARER Realm=y", [("negotiate", {}), ("bearer", {"realm": "y"})]),
        ("", []),
    ],
)  # fmt: skip
def test_challenges(line: str, expected: list[tuple[str, dict[str, str]]]) -> None:
    assert [tuple(challenge) for challenge in wwwauth.parse([line])] == expected


@given(st.text(max_size=200))
def test_challenges_of_anything_end(text: str) -> None:
    wwwauth.parse([text])


def encoded(document: object) -> str:
    return base64.urlsafe_b64encode(json.dumps(document).encode()).decode()


def test_registry_auth_header() -> None:
    header = encoded({"username": "a", "password": "bäc", "serveraddress": "https://x:5000/v2/"})
    assert dockerconfig.decode_auth(header) == Credentials("a", "bäc", server="https://x:5000/v2/")
    assert dockerconfig.decode_auth(header.rstrip("=")).username == "a"
    hidden = encoded({"auth": base64.b64encode(b"me:se:cret").decode()})
    assert dockerconfig.decode_auth(hidden)[:2] == ("me", "se:cret")
    assert dockerconfig.decode_auth(encoded({"identitytoken": "t"})).identity_token == "t"
    for nobody in ("", encoded({}), encoded(None)):
        assert dockerconfig.decode_auth(nobody).empty
    for wrong in ("%%%", encoded([1]), base64.urlsafe_b64encode(b"{").decode()):
        with pytest.raises(InvalidArgument, match="X-Registry-Auth"):
            dockerconfig.decode_auth(wrong)


def test_registry_config_header() -> None:
    header = encoded({"https://index.docker.io/v1/": {"username": "hub"}, "r.example:5000": {"username": "r"}})
    configured = dockerconfig.decode_config(header)
    named = {dockerconfig.registry_of(server): entry.username for server, entry in configured.items()}
    assert named == {"docker.io": "hub", "r.example:5000": "r"}


def test_s38_credentials_are_not_shown() -> None:
    assert "secret" not in repr(Credentials("me", "secret", "secret", "secret"))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "linux/amd64"), ("linux", "linux/amd64"), ("arm64", "linux/arm64"), ("linux/aarch64", "linux/arm64"),
        ("linux/arm64/v8", "linux/arm64"), ("linux/x86_64", "linux/amd64"), ("linux/armhf", "linux/arm/v7"),
        ("linux/arm", "linux/arm/v7"), ("linux/arm/6", "linux/arm/v6"), ("Windows/AMD64", "windows/amd64"),
    ],
)  # fmt: skip
def test_platforms(text: str, expected: str) -> None:
    assert platforms.show(platforms.parse(text, AMD64)) == expected


@pytest.mark.parametrize("text", ["a/b/c/d", "/", "linux//v7", "a b"])
def test_no_platforms(text: str) -> None:
    with pytest.raises(InvalidArgument):
        platforms.parse(text, AMD64)


def offer(architecture: str, variant: str = "", os: str = "linux") -> Descriptor:
    return Descriptor(digest=f"{architecture}{variant}", platform=Platform(architecture, os, variant=variant))


def test_choice() -> None:
    offers = [offer("unknown", os="unknown"), offer("arm", "v5"), offer("arm", "v6"), offer("amd64"), offer("arm64")]
    expected = {"linux/arm/v7": "armv6", "linux/arm/v6": "armv6", "linux/arm/v5": "armv5", "linux/amd64": "amd64",
                "linux/arm64/v8": "arm64", "linux/amd64/v3": "amd64"}  # fmt: skip
    for wanted, digest in expected.items():
        found = platforms.choose(offers, platforms.parse(wanted, AMD64))
        assert found is not None and found.digest == digest
    assert platforms.choose(offers, platforms.parse("linux/s390x", AMD64)) is None
    plain = Descriptor(digest="plain")
    assert platforms.choose([plain, *offers], platforms.parse("", AMD64)) is offers[3]
    assert platforms.choose([plain], platforms.parse("", AMD64)) is plain


def test_mirrors() -> None:
    assert registries.parse_mirror("https://m.example/") == ("docker.io", "https://m.example")
    assert registries.parse_mirror("quay.io=http://m:5000/q/r") == ("quay.io", "http://m:5000/q/r")
    for wrong in ("m.example", "ftp://m", "https://", "https://a@m", "https://m?x=1", "quay.io=m"):
        with pytest.raises(InvalidArgument, match="invalid mirror"):
            registries.parse_mirror(wrong)
    rules = RegistryRules.make(["https://m.example", "quay.io=http://m:5000/q"], [])
    assert [place.host for place in registries.places(rules, "docker.io", False)] == [
        "m.example",
        "registry-1.docker.io",
    ]
    first, last = registries.places(rules, "quay.io", False)
    assert first == Place("m:5000", ("http",), "q", True) and last == Place("quay.io", ("https",))
    assert [place.host for place in registries.places(rules, "quay.io", False, mirrors=False)] == ["quay.io"]


def test_insecure_registries() -> None:
    rules = RegistryRules.make([], ["r.example:5000", "10.0.0.0/8", "plain", "fd00::/8"])
    for host in ("127.0.0.1:5000", "[::1]:5000", "127.9.9.9", "r.example:5000", "plain:99", "10.1.2.3", "[fd00::1]:5"):
        assert rules.is_insecure(host), host
    for host in ("r.example", "r.example:5001", "11.0.0.1", "docker.io", "[fe80::1]:5000"):
        assert not rules.is_insecure(host), host
    assert rules.is_insecure("named", [ipaddress.ip_address("10.9.9.9")])
    assert rules.is_insecure("localhost", [ipaddress.ip_address("::1")])
    for wrong in ("http://x", "10.0.0.0/99", "a b"):
        with pytest.raises(InvalidArgument, match="insecure registry"):
            RegistryRules.make([], [wrong])


def test_registries_that_get_foreign_layers() -> None:
    rules = RegistryRules.make([], [], [], ["r.example:5000", "10.0.0.0/8", "Plain"])
    assert all(rules.gets_foreign_layers(host) for host in ("r.example:5000", "10.1.2.3:5", "plain", "plain:5000"))
    assert not any(rules.gets_foreign_layers(host) for host in ("r.example", "11.0.0.1", "docker.io"))
    with pytest.raises(InvalidArgument, match="allow-nondistributable-artifacts registry"):
        RegistryRules.make([], [], [], ["https://x"])


# --- hosts.toml -------------------------------------------------------------------------------------------------------

HOSTS = """
server = "https://real.example"
ca = "own.pem"

[host."https://one.example:5000"]
  capabilities = ["pull", "resolve"]
  ca = ["a.pem", "b.pem"]
  client = [["c.cert", "c.key"]]
[host."https://one.example:5000".header]
  x-tenant = ["7"]
[host."http://two.example/cache"]
  capabilities = ["pull"]
[host."https://three.example/v2/proxy"]
  override_path = true
  client = "both.pem"
  skip_verify = true
[host."https://pushed-to.example"]
  capabilities = ["push"]
[host."localhost:5000"]
"""


def test_hosts_toml() -> None:
    server, mirrors = hostsfile.parse(HOSTS, "r.example", "hosts.toml")
    assert server == Place("real.example", ("https",), tls=TLSFiles(("own.pem",)))
    one, two, three, four = mirrors
    assert one == Place(
        "one.example:5000", ("https",), mirror=True, namespace="r.example", headers=(("x-tenant", "7"),),
        tls=TLSFiles(("a.pem", "b.pem"), (("c.cert", "c.key"),)),
    )  # fmt: skip
    assert (two.schemes, two.root, two.resolve) == (("http",), "/cache/v2", False)
    assert (three.root, three.tls) == ("/v2/proxy", TLSFiles((), (("both.pem", ""),), True))
    assert (four.host, four.schemes) == ("localhost:5000", ("http",))
    assert hostsfile.parse("", "r.example", "x") == (None, [])
    rules = RegistryRules.make(["r.example=https://m.example"], [])
    asked = registries.places(rules, "r.example", False, server=server, others=mirrors)
    assert [place.host for place in asked] == [
        "m.example", "one.example:5000", "two.example", "three.example", "localhost:5000", "real.example"]  # fmt: skip
    assert registries.places(rules, "r.example", False, mirrors=False, server=server, others=mirrors) == [server]


@pytest.mark.parametrize(
    ("text", "cause"),
    [
        ("server = ", "Invalid value"), ("sever = 1", "unknown key 'sever'"), ("host = 3", "host is no table"),
        ('server = "ftp://x"', "is not http"), ('[host."https://a b"]', "is not http"),
        ('[host."https://a?x=1"]', "query"), ('[host.a]\nwhat = 1', "host 'a': unknown key 'what'"),
        ('[host.a]\ncapabilities = ["fly"]', "unknown capability 'fly'"), ("[host.a]\nca = 3", "ca is no list"),
        ('[host.a]\nskip_verify = "no"', "neither true nor false"), ("[host.a]\nclient = [[]]", "no certificate"),
        ('[host.a.header]\nx = "a\\nb"', "cannot be sent"),
    ],
)  # fmt: skip
def test_hosts_toml_that_is_wrong_is_named(text: str, cause: str) -> None:
    with pytest.raises(InvalidArgument, match=f"/certs.d/r/hosts.toml: .*{cause}"):
        hostsfile.parse(text, "r", "/certs.d/r/hosts.toml")


@pytest.mark.parametrize(
    ("registry", "realm", "related"),
    [
        ("registry-1.docker.io", "auth.docker.io", True), ("ghcr.io", "ghcr.io", True),
        ("registry.gitlab.com", "gitlab.com", True), ("127.0.0.1:5000", "127.0.0.1:5001", True),
        ("127.0.0.1:5000", "127.0.0.2:5000", False), ("r.example", "evil.test", False),
        ("a.co.uk", "b.co.uk", False), ("r.a.co.uk", "auth.a.co.uk", True), ("registry", "auth", False),
        ("docker.io.evil.test", "auth.docker.io", False), ("r.example", "trusted.test:1", True),
    ],
)  # fmt: skip
def test_s38_related_realms(registry: str, realm: str, related: bool) -> None:
    assert RegistryRules.make([], [], ["trusted.test:1"]).realm_gets_credentials(registry, realm) is related


@pytest.mark.parametrize("text", ["127.0.0.1", "::1", "169.254.169.254", "fe80::1", "0.0.0.0", "::ffff:127.0.0.1"])
def test_s39_local_addresses(text: str) -> None:
    assert registries.is_local(ipaddress.ip_address(text))
    assert not registries.is_local(ipaddress.ip_address("192.0.2.1"))
