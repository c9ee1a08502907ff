"""Builds as users run them: `dockyard build` against Docker's client, with the classic builder and with BuildKit.

Owns: the contexts, one timed build by each builder. Does not own: how often.

Docker's newer clients leave BuildKit to a plug-in (buildx); Debian's docker.io (20.10) has its client built in, and
dockerd the builder.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.support import contexts
from tests.support.engines import Engine, docker_cli

STEPS = "FROM bb\n" + "".join(f"RUN echo {number} > /file{number}\n" for number in range(20))
SLEEPS = (
    "".join(f"FROM bb AS s{n}\nRUN sleep 1\n" for n in range(4))
    + "FROM bb\n"
    + "".join(f"COPY --from=s{n} /etc/passwd /{n}\n" for n in range(4))
)
COPY = "FROM bb\nCOPY . /context/\n"
FILES = 20_000
BIG = 1_000_000_000  # bytes
_OURS = str(Path(sys.executable).with_name("dockyard"))


def buildkit_client() -> str | None:
    """A docker CLI that speaks to BuildKit without a plug-in, or None."""
    for path in ("/usr/bin/docker", docker_cli()):
        if Path(path).exists():
            text = subprocess.run([path, "--version"], capture_output=True, text=True, check=False).stdout
            if " 20.10." in text or " 19.03." in text:
                return path
    return None


@contextmanager
def context(dockerfile: str, files: int = 0, big: int = 0) -> Iterator[Path]:
    """A directory with a Dockerfile: `files` small files in 200 directories, or one of `big` bytes of noise."""
    root = Path(tempfile.mkdtemp(prefix="dyt-ctx-"))
    try:
        (root / "Dockerfile").write_text(dockerfile)
        for number in range(files):
            folder = root / f"d{number % 200}"
            if number < 200:
                folder.mkdir()
            (folder / f"f{number}").write_bytes(b"%d" % number * (1 + number % 400))
        if big:
            noise = os.urandom(1 << 20)
            with open(root / "big", "wb") as file:
                for number in range(big >> 20):
                    file.write(number.to_bytes(8, "little") + noise[8:])
        yield root
    finally:
        shutil.rmtree(root)


def build(engine: Engine, root: Path, *, cached: bool = False, buildkit: bool = False) -> float:
    """Seconds that one build takes. `buildkit`: which of dockerd's two builders; ours has one."""
    options = [] if cached else ["--no-cache"]
    environment = engine.cli_environment()
    if engine.name == "dockyardd":
        command = [_OURS, "build", "--progress=plain", *options, str(root)]
    elif buildkit:
        client = buildkit_client()
        assert client is not None
        command = [client, "build", "--progress=plain", *options, str(root)]
        environment["DOCKER_BUILDKIT"] = "1"
    else:
        command = [docker_cli(), "build", *options, str(root)]
        environment["DOCKER_BUILDKIT"] = "0"
    begun = time.perf_counter()
    done = subprocess.run(command, env=environment, capture_output=True, check=False)
    seconds = time.perf_counter() - begun
    if done.returncode:
        raise AssertionError(f"{command}: {done.stderr.decode(errors='replace')[-2000:]}")
    return seconds


def cached_request(engine: Engine) -> float:
    """`POST /build` of what has been built before; the first one of an engine is not timed."""
    body = contexts.tar(STEPS)
    with engine.api(120) as api:
        if "Using cache" not in contexts.stream(api.request("POST", "/build", raw=body).body):
            api.request("POST", "/build", raw=body)
        begun = time.perf_counter()
        answer = api.request("POST", "/build", raw=body)
        seconds = time.perf_counter() - begun
    if contexts.stream(answer.body).count("Using cache") != 20:
        raise AssertionError(answer.body[-2000:])
    return seconds


def forget(engine: Engine) -> None:
    """Everything that builds have left: their cache, images without a name (the classic builder's cache)."""
    for command in (["builder", "prune", "-af"], ["image", "prune", "-f"]):
        engine.docker(*command, timeout=300)
