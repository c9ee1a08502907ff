"""Programs of the pages that use docker-py, run as they stand there. That of docs/embedding.md: `test_embedding`."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import docker
import pytest

from tests.conformance.test_build import no_images_left
from tests.support import contexts, pages
from tests.support.engines import Engine

pytestmark = pytest.mark.dockyardd_only("the pages are ours")
__all__ = ["no_images_left"]
SOCKET = "unix:///run/dockyard.sock"


def run(program: str, engine: Engine, directory: Path) -> str:
    done = subprocess.run(
        [sys.executable, "-c", program.replace(SOCKET, f"unix://{engine.socket_path}")],
        env=engine.cli_environment(),
        cwd=directory,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def programs(name: str) -> list[str]:
    """Blocks of Python: fenced as such, or indented ones that use docker-py's names."""
    found = pages.blocks(pages.ROOT / name)
    return [each.text for each in found if each.language == "python" or (each.indented and "client." in each.text)]


def test_the_readme(engine: Engine, client: docker.DockerClient, tmp_path: Path) -> None:
    (program,) = programs("README.md")
    assert SOCKET in program
    client.images.get("bb").tag("busybox")
    assert run(program, engine, tmp_path) == "b'hello\\n'\n"


def test_builds_with_docker_py(engine: Engine, client: docker.DockerClient, tmp_path: Path) -> None:
    """Each program of docs/build.md goes on from where the one before has ended."""
    parts = programs("docs/build.md")
    assert len(parts) == 2
    client.images.get("bb").tag("debian:12")
    (tmp_path / "lib.tar").write_bytes(contexts.tar("", {"word": b"from lib"}))
    first = "FROM base\nRUN --mount=type=secret,id=token cp /run/secrets/token /t\nCOPY --from=lib /word /word\n"
    (tmp_path / "Dockerfile").write_text(first)
    between = """
print(client.containers.run("app", ["cat", "/t", "/word"], remove=True).decode())
open("Dockerfile", "w").write("FROM debian:12\\nRUN cat /proc/sys/kernel/random/uuid >/u\\n")
"""
    after = """
again, _ = client.images.build(path=".", cache_from=[])
assert again.id == image.id
"""
    assert run(parts[0] + between + parts[1] + after, engine, tmp_path) == "the valuefrom lib\n"
