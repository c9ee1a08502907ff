"""Debian's docker-registry as the peer registry, on loopback in a network namespace.

Owns: starting, stopping, configuration with or without htpasswd. Does not own: what is asked of it.
"""

from __future__ import annotations

import shutil
import subprocess
import time
from pathlib import Path
from typing import Any, Self

from tests.support import netns

USER, PASSWORD = "dock", "secret"
_HASH = "$2b$05$abcdefghijklmnopqrstuuOQiyCxlgf/oeuTqixKmWdcYUh4Hjl0a"  # bcrypt of PASSWORD


def why_not() -> str | None:
    """Why it cannot be run here; None when it can."""
    return (
        None
        if shutil.which("docker-registry")
        else "docker-registry is not installed (apt-get install docker-registry)"
    )


class DebianRegistry:
    """One running registry; `host` is what images on it begin with. Use as a context manager."""

    def __init__(
        self, root: Path, namespace: str | None, port: int = 5000, *, auth: bool = False, token: str = ""
    ) -> None:
        """`token`: the inner part of `auth: {token: {…}}`."""
        self.root, self.namespace, self.port, self.auth = root, namespace, port, auth
        self.token = token
        self.host = f"127.0.0.1:{port}"
        self.process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.root.mkdir(parents=True, exist_ok=True)
        config = [
            "version: 0.1",
            "storage:",
            "  delete: {enabled: true}",
            f"  filesystem: {{rootdirectory: {self.root}/data}}",
            f"http: {{addr: {self.host}}}",
            "log: {accesslog: {disabled: true}, level: error}",
        ]
        if self.auth:
            (self.root / "htpasswd").write_text(f"{USER}:{_HASH}\n")
            config.append(f"auth: {{htpasswd: {{realm: test, path: {self.root}/htpasswd}}}}")
        if self.token:
            config.append(f"auth: {{token: {{{self.token}}}}}")
        (self.root / "config.yml").write_text("\n".join(config) + "\n")
        prefix = ["nsenter", f"--net={self.namespace}"] if self.namespace else []
        with open(self.root / "log", "wb") as log:
            self.process = subprocess.Popen(
                [*prefix, "docker-registry", "serve", str(self.root / "config.yml")],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            )  # fmt: skip
        end = time.monotonic() + 20
        while not self._answers():
            if self.process.poll() is not None or time.monotonic() > end:
                self.__exit__()
                raise RuntimeError(f"docker-registry does not start: {(self.root / 'log').read_text()[-2000:]}")
            time.sleep(0.05)
        return self

    def _answers(self) -> bool:
        try:
            netns.connect(self.namespace, "127.0.0.1", self.port, 1).close()
        except OSError:
            return False
        return True

    def __exit__(self, *_: Any) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()
