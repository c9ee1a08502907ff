"""A token server as Docker's token specification describes it: for registries that ask for bearer tokens.

Owns: its key and certificate, one user, tokens that grant what is asked for. Does not own: the registries.
"""

from __future__ import annotations

import base64
import datetime
import json
import threading
import time
from contextlib import nullcontext
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Self
from urllib.parse import parse_qs, urlsplit

from tests.support import netns

USER, PASSWORD = "dock", "secret"
ISSUER, SERVICE = "the issuer", "the registry"


class TokenServer:
    """On loopback of a network namespace. Use as a context manager; `certificate` is a file."""

    def __init__(self, root: Path, namespace: str | None, port: int) -> None:
        from cryptography.hazmat.primitives.asymmetric import ec

        root.mkdir(parents=True, exist_ok=True)
        self.realm = f"http://127.0.0.1:{port}/token"
        self.certificate = root / "token.pem"
        self.asked: list[str] = []  # queries of those that got a token
        self._key = ec.generate_private_key(ec.SECP256R1())
        self.certificate.write_bytes(self._signed())
        with netns.entered(namespace) if namespace else nullcontext():
            self._server = ThreadingHTTPServer(("127.0.0.1", port), self._handler())
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def _signed(self) -> bytes:
        from cryptography import x509
        from cryptography.hazmat.primitives import hashes, serialization

        name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "token")])
        now = datetime.datetime.now(datetime.UTC)
        built = (
            x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(self._key.public_key())
            .serial_number(1).not_valid_before(now - datetime.timedelta(days=1))
            .not_valid_after(now + datetime.timedelta(days=1)).sign(self._key, hashes.SHA256())
        )  # fmt: skip
        return built.public_bytes(serialization.Encoding.PEM)

    def token(self, user: str, scopes: list[str]) -> str:
        import jwt

        from dockyard.edge.registry.access import _libtrust_id

        access = []
        for scope in scopes:
            kind, name, actions = scope.rsplit(":", 1)[0].partition(":")[0], *scope.partition(":")[2].rsplit(":", 1)
            access.append({"type": kind, "name": name, "actions": actions.split(",")})
        now = int(time.time())
        claims = {
            "iss": ISSUER, "aud": SERVICE, "sub": user, "exp": now + 300, "nbf": now - 10, "iat": now, "jti": str(now),
            "access": access,
        }  # fmt: skip
        return jwt.encode(claims, self._key, "ES256", headers={"kid": _libtrust_id(self._key.public_key())})

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        server = self
        allowed = "Basic " + base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                given = self.headers.get("Authorization", "")
                query = parse_qs(urlsplit(self.path).query)
                scopes = " ".join(query.get("scope", [])).split()
                if given and given != allowed:
                    return self._send(401, {"errors": [{"code": "UNAUTHORIZED", "message": "wrong password"}]})
                if given:
                    server.asked.append(self.path)
                token = server.token(USER, scopes) if given else server.token("", [])
                return self._send(200, {"token": token, "expires_in": 300})

            def _send(self, status: int, document: Any) -> None:
                data = json.dumps(document).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *_: Any) -> None:
                pass

        return Handler
