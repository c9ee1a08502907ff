"""Build contexts for tests: a directory of files, the tar of one, what a build printed."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path
from typing import Any

Files = dict[str, str | bytes]


def directory(root: Path, dockerfile: str = "", files: Files | None = None) -> Path:
    """Writes a context: name → content; `dockerfile` as `Dockerfile`, without common indentation."""
    for name, content in {**({"Dockerfile": dockerfile} if dockerfile else {}), **(files or {})}.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
    return root


def tar(dockerfile: str = "", files: Files | None = None) -> bytes:
    """The same as a tar."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for name, content in {**({"Dockerfile": dockerfile} if dockerfile else {}), **(files or {})}.items():
            data = content.encode() if isinstance(content, str) else content
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode, entry.mtime = len(data), 0o644, 1_700_000_000
            archive.addfile(entry, io.BytesIO(data))
    return out.getvalue()


def messages(body: bytes) -> list[dict[str, Any]]:
    """The JSON documents of an answer."""
    return [json.loads(line) for line in body.splitlines() if line.strip()]


def stream(body: bytes) -> str:
    """What a classic build said."""
    return "".join(str(message.get("stream", "")) for message in messages(body))
