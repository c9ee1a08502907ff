"""An authority of a test's own and what it signs.

Owns: calling openssl. Does not own: who uses the certificates.
"""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

_NEW = ("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2")


def authority_in(place: Path) -> Path:
    """`make_authority`, for fixtures: skips where it cannot be made."""
    if not shutil.which("openssl"):
        pytest.skip("openssl is not installed")
    make_authority(place)
    return place


def make_authority(place: Path) -> None:
    """`ca.crt`; `server.cert`, `server.key` for 127.0.0.1 and localhost; `client.cert`, `client.key`."""
    authority = ("-keyout", "ca.key", "-out", "ca.crt", "-addext", "keyUsage=critical,keyCertSign")
    _openssl(place, *_NEW, "-subj", "/CN=ca", *authority)
    sign(place, "server", "subjectAltName=IP:127.0.0.1,DNS:localhost")
    sign(place, "client")


def sign(place: Path, name: str, *extensions: str) -> None:
    """`NAME.cert` and `NAME.key`, signed by the authority in `place`."""
    wanted = [
        word for extension in ("basicConstraints=critical,CA:FALSE", *extensions) for word in ("-addext", extension)
    ]
    _openssl(
        place, *_NEW, "-subj", f"/CN={name}", "-CA", "ca.crt", "-CAkey", "ca.key", "-keyout", f"{name}.key",
        "-out", f"{name}.cert", *wanted,
    )  # fmt: skip


def _openssl(place: Path, *arguments: str) -> None:
    subprocess.run(["openssl", *arguments], cwd=place, check=True, capture_output=True)
