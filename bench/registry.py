"""Pull and push against Debian's docker-registry on loopback, each engine with one in its own network namespace.

Owns: starting and ending the registry, the image that is pulled, one timed pull and push. Does not own: how often.
"""

from __future__ import annotations

import argparse
import base64
import gzip
import hashlib
import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from bench.report import Row, table
from tests.support import steps
from tests.support.engines import Dockyardd, Engine, PeerDocker

HOST = "127.0.0.1:5067"
LAYERS, FILES, BYTES = 5, 1300, 40_000_000  # of each layer
_NOBODY = base64.urlsafe_b64encode(b"{}").decode()


def why_not() -> str:
    """Why the rows cannot be measured here; "" if they can."""
    return "" if shutil.which("docker-registry") else "docker-registry is not installed"


@contextmanager
def registry(engine: Engine) -> Iterator[None]:
    """A registry that `engine` reaches at HOST."""
    place = Path(tempfile.mkdtemp(prefix="dyt-reg-"))
    settings = {"version": 0.1, "log": {"level": "error"}, "http": {"addr": HOST},
                "storage": {"filesystem": {"rootdirectory": str(place / "data")}}}  # fmt: skip
    (place / "config.yml").write_text(json.dumps(settings))
    enter = ["nsenter", f"--net={engine.namespace.path}"] if engine.namespace else []
    process = subprocess.Popen(
        [*enter, "docker-registry", "serve", str(place / "config.yml")],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        time.sleep(1)
        yield
    finally:
        process.terminate()
        process.wait()
        shutil.rmtree(place, ignore_errors=True)


def image() -> bytes:
    """A docker-archive of about 200 MB in 5 layers, half of it noise and half of it text, as layers mostly are."""
    noise, text = os.urandom(1 << 20), b"the quick brown fox jumps over the lazy dog " * 40_000
    tars = []
    for number in range(LAYERS):
        out = io.BytesIO()
        with tarfile.open(fileobj=out, mode="w") as tar:
            for place in range(FILES):
                entry = tarfile.TarInfo(f"l{number}/d{place % 37}/f{place}")
                entry.size, entry.mtime = BYTES // FILES * (1 + place % 3) // 2, 1_700_000_000
                half = entry.size // 2
                start = place * 997 % 500_000
                tar.addfile(entry, io.BytesIO(noise[start : start + half] + text[start : start + entry.size - half]))
        tars.append(out.getvalue())
    config = {
        "architecture": "amd64", "os": "linux", "config": {},
        "rootfs": {"type": "layers", "diff_ids": ["sha256:" + hashlib.sha256(tar).hexdigest() for tar in tars]},
    }  # fmt: skip
    members = {"config.json": json.dumps(config).encode()}
    members |= {f"{number}.tar": tar for number, tar in enumerate(tars)}
    entry_ = {"Config": "config.json", "RepoTags": [f"{HOST}/bench:1"], "Layers": [f"{n}.tar" for n in range(LAYERS)]}
    members["manifest.json"] = json.dumps([entry_]).encode()
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return gzip.compress(out.getvalue(), 1)


def push(engine: Engine, archive: bytes, name: str) -> float:
    """Load the image, push it under a name that the registry does not know yet, forget it; only the push is timed."""
    with engine.api(300) as api:
        steps.expect(api.request("POST", "/images/load", raw=archive), 200)
        steps.expect(api.post(f"/images/{HOST}/bench:1/tag", None, repo=f"{HOST}/{name}", tag="1"), 201)
        begun = time.perf_counter()
        answer = api.request(
            "POST", f"/images/{HOST}/{name}/push", query={"tag": "1"}, headers={"X-Registry-Auth": _NOBODY}
        )
        seconds = time.perf_counter() - begun
        if "aux" not in steps.expect(answer, 200).lines()[-1]:
            raise AssertionError(answer.body)
        for one in (f"{HOST}/{name}:1", f"{HOST}/bench:1"):
            steps.expect(api.delete(f"/images/{one}", force=True), 200)
    return seconds


def pull(engine: Engine, name: str) -> float:
    """Pull, cold, and forget."""
    with engine.api(300) as api:
        begun = time.perf_counter()
        answer = api.request("POST", "/images/create", query={"fromImage": f"{HOST}/{name}", "tag": "1"})
        seconds = time.perf_counter() - begun
        if "Downloaded newer image" not in str(steps.expect(answer, 200).lines()[-1]):
            raise AssertionError(answer.body[-500:])
        steps.expect(api.delete(f"/images/{HOST}/{name}:1", force=True), 200)
    return seconds


def main() -> int:
    """`python -m bench.registry [--engine NAME] [--times N]`: only these rows, with both engines in turns."""
    parser = argparse.ArgumentParser(prog="python -m bench.registry", description=main.__doc__)
    parser.add_argument("--engine", choices=("both", "dockyardd", "dockerd"), default="both")
    parser.add_argument("--times", type=int, default=3)
    options = parser.parse_args()
    if missing := why_not():
        print(f"bench: {missing}")
        return 1
    kinds: list[type[Engine]] = [Dockyardd, PeerDocker]
    archive = image()
    rows = [Row("push of a 200 MB image, 5 layers", "s", goal=2), Row("pull of it, cold", "s", goal=4)]
    with ExitStack() as stack:
        engines = [stack.enter_context(kind()) for kind in kinds if options.engine in ("both", kind.name)]
        for turn in range(options.times):
            for engine in engines:
                with registry(engine):  # a new one each time: a push is cold only once
                    rows[0].add(engine.name, push(engine, archive, f"turn{turn}"))
                    time.sleep(2)  # what is deleted behind is no part of the pull
                    rows[1].add(engine.name, pull(engine, f"turn{turn}"))
                    time.sleep(2)
    print(f"\n{table(rows)}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
