"""Who may do what: htpasswd, bearer tokens, rules, modes, quotas."""

from __future__ import annotations

import base64
import time
from pathlib import Path
from typing import Any

import pytest

from tests.unit.registry.support import Registry, digest_of

bcrypt = pytest.importorskip("bcrypt")
jwt = pytest.importorskip("jwt")


def basic(name: str, password: str) -> str:
    return "Basic " + base64.b64encode(f"{name}:{password}".encode()).decode()


def htpasswd(folder: Path, **users: str) -> str:
    lines = [f"{name}:{bcrypt.hashpw(word.encode(), bcrypt.gensalt(4)).decode()}" for name, word in users.items()]
    (folder / "htpasswd").write_text("# users\n" + "\n".join(lines) + "\n")
    return str(folder / "htpasswd")


def test_passwords_and_rules(tmp_path: Path) -> None:
    rules = [
        {"repository": "*", "users": ["admin"], "actions": ["*"]},
        {"repository": "team/*", "users": ["*"], "actions": ["pull", "push"]},
        {"repository": "public/*", "users": ["anonymous", "*"], "actions": ["pull"]},
    ]
    auth = {"htpasswd": {"path": htpasswd(tmp_path, admin="a", ann="b")}, "rules": rules}
    with Registry.on_files(tmp_path / "r", auth=auth) as registry:
        nobody, admin = registry.client(), registry.client(Authorization=basic("admin", "a"))
        ann = registry.client(Authorization=basic("ann", "b"))
        answer = nobody("GET", "/v2/")
        assert answer.status == 401 and answer.codes == ["UNAUTHORIZED"]
        assert answer.headers["www-authenticate"] == 'Basic realm="Registry"'
        assert registry.client(Authorization=basic("ann", "wrong"))("GET", "/v2/").status == 401
        assert registry.client(Authorization=basic("none", "b"))("GET", "/v2/").status == 401
        assert registry.client(Authorization="Basic Og==")("GET", "/v2/").status == 401
        assert ann("GET", "/v2/").status == 200
        admin.push("public/x", "v1", b"one")
        secret = admin.push("private", "v1", b"secret")
        ann.push("team/x", "v1", b"one")
        assert nobody("GET", "/v2/public/x/manifests/v1").status == 200
        assert nobody("GET", "/v2/team/x/manifests/v1").status == 401
        assert ann("GET", "/v2/private/manifests/v1").codes == ["DENIED"]
        assert ann("DELETE", "/v2/team/x/manifests/v1").status == 403
        assert ann("POST", "/v2/public/x/blobs/uploads/").status == 403
        assert ann("GET", "/v2/_catalog").json()["repositories"] == ["public/x", "team/x"]
        assert [each["name"] for each in ann("GET", "/v1/search?q=").json()["results"]] == ["public/x", "team/x"]
        # a mount must not reach what may not be pulled
        for query in (f"mount={digest_of(b'secret')}&from=private", f"mount={digest_of(b'secret')}"):
            assert ann("POST", f"/v2/team/x/blobs/uploads/?{query}").status == 202, query
        assert secret
        htpasswd(tmp_path, admin="new")
        assert admin("GET", "/v2/").status == 401
        for each in (nobody, admin, ann):
            each.close()


def test_anonymous_pull(tmp_path: Path) -> None:
    auth = {"htpasswd": {"path": htpasswd(tmp_path, ann="b")}, "anonymous_pull": True}
    with Registry.on_files(tmp_path / "r", auth=auth) as registry:
        registry.client(Authorization=basic("ann", "b")).push("x", "v1", b"one")
        assert registry.client()("GET", "/v2/").status == 401  # so that docker login has something to try
        assert registry.client()("GET", "/v2/x/manifests/v1").status == 200
        assert registry.client()("PUT", "/v2/x/manifests/v1", b"{}").status == 401


@pytest.mark.parametrize("algorithm", ["RS256", "ES256"])
def test_tokens(tmp_path: Path, algorithm: str) -> None:
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec, rsa

    def new_key() -> Any:
        return (
            rsa.generate_private_key(65537, 2048) if algorithm == "RS256" else ec.generate_private_key(ec.SECP256R1())
        )

    key, other = new_key(), new_key()
    public = key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    (tmp_path / "key.pem").write_bytes(public)
    token = {"realm": "https://auth/token", "service": "reg", "issuer": "me", "keys": [str(tmp_path / "key.pem")]}

    def claims(*access: dict[str, Any], **more: Any) -> dict[str, Any]:
        document = {"iss": "me", "aud": "reg", "sub": "ann", "exp": time.time() + 60, "access": list(access)}
        return {key: value for key, value in (document | more).items() if value is not None}

    push = {"type": "repository", "name": "a/b", "actions": ["pull", "push"]}
    with Registry.on_files(tmp_path / "r", auth={"token": token}) as registry:

        def status(
            document: dict[str, Any], path: str = "/v2/a/b/tags/list", signer: Any = key, name: str = algorithm
        ) -> int:
            header = {"Authorization": "Bearer " + jwt.encode(document, signer, name)}
            return registry.client(**header)("GET", path).status

        answer = registry.client()("GET", "/v2/a/b/tags/list")
        challenge = 'Bearer realm="https://auth/token",service="reg"'
        assert answer.headers["www-authenticate"] == challenge + ',scope="repository:a/b:pull"'
        answer = registry.client()("POST", "/v2/a/b/blobs/uploads/")
        assert answer.headers["www-authenticate"] == challenge + ',scope="repository:a/b:pull,push"'
        assert registry.client()("GET", "/v2/").headers["www-authenticate"] == challenge
        good = claims(push)
        ann = registry.client(Authorization="Bearer " + jwt.encode(good, key, algorithm))
        ann.push("a/b", "v1", b"one")
        assert ann("GET", "/v2/").status == 200
        answer = ann("DELETE", "/v2/a/b/manifests/v1")
        assert answer.status == 401 and 'error="insufficient_scope"' in answer.headers["www-authenticate"]
        assert status(good) == 200
        assert status(good, "/v2/a/c/tags/list") == 401
        assert status(good, "/v2/_catalog") == 401
        assert status(claims({"type": "registry", "name": "catalog", "actions": ["*"]}), "/v2/_catalog") == 200
        assert status(good, signer=other) == 401
        for wrong in ({"exp": 1}, {"iss": "you"}, {"aud": "else"}, {"exp": None}, {"access": None}, {"access": "x"}):
            assert status(claims(push, **wrong)) == 401, wrong
        assert status(good, signer="public key as a secret of more than thirty-two bytes", name="HS256") == 401
        assert registry.client(Authorization="Bearer a.b.c")("GET", "/v2/").status == 401


def test_read_only(tmp_path: Path) -> None:
    with Registry.on_files(tmp_path / "r") as registry:
        digest = registry.client().push("a", "v1", b"one")
    with Registry.on_files(tmp_path / "r", read_only=True) as registry:
        client = registry.client()
        assert client("GET", "/v2/a/manifests/v1").status == 200
        for method, path in (
            ("POST", "/v2/a/blobs/uploads/"), ("PUT", "/v2/a/manifests/v2"), ("DELETE", f"/v2/a/manifests/{digest}"),
            ("DELETE", f"/v2/a/blobs/{digest}"), ("PATCH", "/v2/a/blobs/uploads/x"),
        ):  # fmt: skip
            answer = client(method, path)
            assert (answer.status, answer.codes) == (405, ["UNSUPPORTED"]), path


def test_quotas(tmp_path: Path) -> None:
    quotas = [{"repository": "small/*", "bytes": 1000}]
    with Registry.on_files(tmp_path / "r", quotas=quotas) as registry:
        client = registry.client()
        client.push_blob("small/x", b"x" * 600)
        client.push_blob("small/x", b"x" * 600)  # the same: counts once
        client.push_blob("small/y", b"y" * 600)
        for path in ("small/x", "small/x"):
            answer = client("POST", f"/v2/{path}/blobs/uploads/?digest={digest_of(b'z' * 600)}", b"z" * 600)
            assert (answer.status, answer.codes) == (403, ["DENIED"])
        answer = client("POST", f"/v2/small/x/blobs/uploads/?mount={digest_of(b'y' * 600)}&from=small/y")
        assert answer.status == 403
        location = client("POST", "/v2/small/x/blobs/uploads/").headers["location"]
        assert client("PATCH", location, iter([b"z" * 800, b"z" * 800])).status == 403
        assert client("GET", location).status == 404
        client.push_blob("large", b"z" * 6000)
        assert list((tmp_path / "r" / "data" / "uploads").iterdir()) == []


def test_tls(tmp_path: Path) -> None:
    import http.client
    import ssl
    import subprocess

    certificate, key = str(tmp_path / "c.pem"), str(tmp_path / "k.pem")
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout", key,
         "-out", certificate, "-days", "2", "-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1"],
        check=True, capture_output=True,
    )  # fmt: skip
    with Registry.on_files(tmp_path / "r", tls={"certificate": certificate, "key": key}) as registry:
        context = ssl.create_default_context(cafile=certificate)
        connection = http.client.HTTPSConnection(registry.address, context=context, timeout=20)
        content = b"x" * 3_000_000
        connection.request("POST", f"/v2/a/blobs/uploads/?digest={digest_of(content)}", content)
        answer = connection.getresponse()
        assert (answer.status, answer.read()) == (201, b"")
        connection.request("GET", f"/v2/a/blobs/{digest_of(content)}")
        assert connection.getresponse().read() == content
        connection.close()


def test_metrics(tmp_path: Path) -> None:
    pytest.importorskip("prometheus_client")
    with Registry.on_files(tmp_path / "r", metrics=True) as registry:
        client = registry.client()
        client.push_blob("a", b"12345")
        text = client("GET", "/metrics").body.decode()
        assert "dockyard_registry_blob_received_bytes_total 5.0" in text
        assert 'dockyard_registry_answers_total{method="POST",operation="uploads",status="201"} 1.0' in text


def test_tokens_by_a_key_set(tmp_path: Path) -> None:
    """JWKS: the key is chosen by its id; an id that the set does not have, or has with another key, is not taken."""
    import json

    from cryptography.hazmat.primitives.asymmetric import ec, rsa

    first, second = ec.generate_private_key(ec.SECP256R1()), rsa.generate_private_key(65537, 2048)
    stranger = ec.generate_private_key(ec.SECP256R1())
    keys = [
        json.loads(jwt.algorithms.ECAlgorithm.to_jwk(first.public_key())) | {"kid": "one", "use": "sig"},
        json.loads(jwt.algorithms.RSAAlgorithm.to_jwk(second.public_key())) | {"kid": "two", "alg": "RS256"},
    ]
    (tmp_path / "jwks.json").write_text(json.dumps({"keys": keys}))
    token = {"realm": "https://auth/token", "service": "reg", "issuer": "me", "jwks": str(tmp_path / "jwks.json")}
    access = [{"type": "repository", "name": "a/b", "actions": ["pull", "push"]}]
    claims = {"iss": "me", "aud": "reg", "sub": "ann", "exp": time.time() + 60, "access": access}
    with Registry.on_files(tmp_path / "r", auth={"token": token}) as registry:

        def status(signer: Any, name: str, kid: str | None) -> int:
            text = jwt.encode(claims, signer, name, headers={"kid": kid} if kid else None)
            return registry.client(Authorization=f"Bearer {text}")("GET", "/v2/a/b/blobs/" + digest_of(b"x")).status

        assert status(first, "ES256", "one") == status(second, "RS256", "two") == 404  # that is: let in
        assert status(first, "ES256", None) == 404
        assert status(first, "ES256", "two") == status(stranger, "ES256", "one") == 401
        assert status(stranger, "ES256", "three") == status(stranger, "ES256", None) == 401
    (tmp_path / "jwks.json").write_text("{}")
    with pytest.raises(AssertionError, match=r"auth\.token"):  # it does not start, and says why
        Registry.on_files(tmp_path / "r", auth={"token": token}).start()
