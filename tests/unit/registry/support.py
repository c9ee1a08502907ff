"""Registries as processes, and a client that sees every byte.

Owns: `Registry` (a `python -m dockyard.edge.registry serve` on a free port), `Client` (raw HTTP), small images.
"""

from __future__ import annotations

import hashlib
import http.client
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
OCI_INDEX = "application/vnd.oci.image.index.v1+json"
CONFIG = "application/vnd.oci.image.config.v1+json"
LAYER = "application/vnd.oci.image.layer.v1.tar"


def digest_of(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


class Answer:
    def __init__(self, status: int, headers: Mapping[str, str], body: bytes) -> None:
        self.status, self.headers, self.body = status, headers, body

    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def codes(self) -> list[str]:
        return [each["code"] for each in self.json()["errors"]]


class Client:
    """One connection, made anew after the server closed it. `headers` go with every request."""

    def __init__(self, address: str, headers: dict[str, str] | None = None) -> None:
        self.address, self.headers = address, headers or {}
        self._connection: http.client.HTTPConnection | None = None

    def __call__(self, method: str, path: str, body: Any = None, **headers: str) -> Answer:
        sent = {key.replace("_", "-"): value for key, value in headers.items()}
        if self._connection is None:
            self._connection = http.client.HTTPConnection(self.address, timeout=60)
        try:
            self._connection.request(method, path, body, self.headers | sent)
            found = self._connection.getresponse()
            answer = Answer(found.status, {k.lower(): v for k, v in found.getheaders()}, found.read())
        except BaseException:
            self.close()
            raise
        if found.will_close:
            self.close()
        return answer

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    # What tests do again and again

    def push_blob(self, repository: str, content: bytes) -> str:
        digest = digest_of(content)
        answer = self("POST", f"/v2/{repository}/blobs/uploads/?digest={digest}", content)
        assert answer.status == 201, (answer.status, answer.body)
        return digest

    def push(self, repository: str, reference: str, *layers: bytes, **more: Any) -> str:
        """A small image; `reference` "" pushes by digest. Returns the manifest's digest."""
        config = json.dumps({"architecture": "amd64", "os": "linux", "layers": len(layers)}).encode()
        for content in (config, *layers):
            self.push_blob(repository, content)
        manifest = image(config, *layers, **more)
        path = f"/v2/{repository}/manifests/{reference or digest_of(manifest)}"
        answer = self("PUT", path, manifest, Content_Type=OCI_MANIFEST)
        assert answer.status == 201, (answer.status, answer.body)
        return digest_of(manifest)


def descriptor(kind: str, content: bytes) -> dict[str, Any]:
    return {"mediaType": kind, "digest": digest_of(content), "size": len(content)}


def image(config: bytes, *layers: bytes, **more: Any) -> bytes:
    document = {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": descriptor(CONFIG, config),
        "layers": [descriptor(LAYER, layer) for layer in layers],
    }
    return json.dumps(document | more).encode()


class Registry:
    """A process that serves `settings` (the configuration file's content, but for `listen`), in a network namespace."""

    def __init__(self, folder: Path, settings: dict[str, Any], namespace: str | None = None) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self._prefix = ["nsenter", f"--net={namespace}"] if namespace else []
        self.config = folder / "registry.json"
        self.config.write_text(json.dumps({"listen": ["127.0.0.1:0"], "metrics": False} | settings))
        self.log = folder / "log"
        self._process: subprocess.Popen[str] | None = None
        self.address = ""

    @classmethod
    def on_files(cls, folder: Path, **settings: Any) -> Registry:
        return cls(folder, {"storage": {"filesystem": {"root": str(folder / "data")}}} | settings)

    def __enter__(self) -> Registry:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> Registry:
        with self.log.open("a") as log:
            self._process = subprocess.Popen(
                [*self._prefix, sys.executable, "-m", "dockyard.edge.registry", "serve", "--config", str(self.config)],
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                env=os.environ | {"NO_PROXY": "127.0.0.1"},
            )
        assert self._process.stdout is not None
        self.address = self._process.stdout.readline().strip()
        assert self.address, self.log.read_text()
        return self

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def kill(self) -> None:
        assert self._process is not None
        self._process.kill()
        self._end()

    def stop(self) -> None:
        if self._process is not None:
            self._process.terminate()
            self._end()

    def _end(self) -> None:
        assert self._process is not None
        assert self._process.stdout is not None
        self._process.wait(20)
        self._process.stdout.close()
        self._process = None

    def client(self, **headers: str) -> Client:
        return Client(self.address, {key.replace("_", "-"): value for key, value in headers.items()})

    def run(self, action: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        """`gc` or `check` on the same storage."""
        command = [sys.executable, "-m", "dockyard.edge.registry", action, "--config", str(self.config), *arguments]
        return subprocess.run(command, capture_output=True, text=True, timeout=60)
