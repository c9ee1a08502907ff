"""docker-py's own tests of builds and images, as they come with its sources, against our engine.

The last source distribution that carries them is 5.0.3. It is looked for in `.cache/` and fetched by pip otherwise; the
library itself is the one installed here. The images that the tests pull come from a registry on loopback, which the
daemon takes for a mirror of Docker Hub. docs/build.md lists what is left out, and why.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conformance.conftest import load_images
from tests.support import debian_registry
from tests.support.debian_registry import DebianRegistry
from tests.support.engines import Dockyardd, why_no_dockyardd

VERSION = "5.0.3"
CACHE = Path(__file__).parents[2] / ".cache"
FILES = ("api_build_test.py", "models_images_test.py")
IMAGES = ("busybox:latest", "alpine:latest", "alpine:3.10", "hello-world:latest")
PORT = 5044
LEFT_OUT = {
    "test_pull_with_sha": "pulls by the digest of an image that only Docker Hub has",
    "test_pull_multiple": "pulls all tags, which our engine does not ask a mirror for",
    "test_build_with_network_mode": "needs networks that users make",
    "test_load_error": "expects status 200 for an archive that is none",
}


def sources() -> Path:
    """The source distribution. Skips where it cannot be had."""
    name = f"docker-{VERSION}.tar.gz"
    if (CACHE / name).exists():
        return CACHE / name
    CACHE.mkdir(exist_ok=True)
    pip = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--no-binary", ":all:", "--no-build-isolation"]
    try:
        done = subprocess.run(
            [*pip, "-d", str(CACHE), f"docker=={VERSION}"], capture_output=True, text=True, timeout=60, check=False
        )
    except subprocess.TimeoutExpired:
        pytest.skip("pip download takes more than a minute")
    if not (CACHE / name).exists():
        pytest.skip(f"docker-py {VERSION} cannot be fetched: {done.stderr.strip()[-200:]}")
    return CACHE / name


@pytest.fixture(scope="module")
def mirrored(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Dockyardd]:
    """A daemon with the images, and a mirror of Docker Hub that has them."""
    if request.config.getoption("--engine") == "dockerd":
        pytest.skip("for our engine only")
    for reason in (why_no_dockyardd(), debian_registry.why_not()):
        if reason:
            pytest.skip(reason)
    running = Dockyardd()
    running.config_file.write_text(json.dumps({"registry-mirrors": [f"http://127.0.0.1:{PORT}"]}))
    with DebianRegistry(tmp_path_factory.mktemp("mirror"), running.netns_path, PORT), running:
        load_images(running)
        for name in IMAGES:
            running.docker("tag", "bb", name)
            running.docker("tag", "bb", f"127.0.0.1:{PORT}/library/{name}")
            running.docker("push", "-q", f"127.0.0.1:{PORT}/library/{name}")
        yield running


def test_the_tests_of_docker_py(mirrored: Dockyardd, tmp_path: Path) -> None:
    with tarfile.open(sources()) as archive:
        wanted = [member for member in archive.getmembers() if f"docker-{VERSION}/tests/" in member.name]
        archive.extractall(tmp_path, wanted, filter="data")
    work = tmp_path / "work"  # beside the library's sources, which must not be imported
    shutil.move(tmp_path / f"docker-{VERSION}" / "tests", work / "tests")
    (work / "paramiko.py").write_text('"""helpers.py imports it for tests of ssh, which are not run."""\n')
    first = run(mirrored, work, [])
    if first.returncode:  # some read a container's log the moment it has started: they get a second chance
        again = run(mirrored, work, ["--last-failed"])
        assert again.returncode == 0, again.stdout[-6000:]
    assert " passed" in first.stdout


def run(engine: Dockyardd, work: Path, options: list[str]) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pytest", "-q", "--tb=short", "-o", "addopts=", "-k"]
    command += [" and ".join(f"not {name}" for name in LEFT_OUT), *options]
    files = [f"tests/integration/{name}" for name in FILES]
    environment = {**engine.cli_environment(), "PYTHONPATH": str(work), "DOCKER_TEST_API_VERSION": "1.41"}
    return subprocess.run(
        ["nsenter", f"--net={engine.netns_path}", *command, *files], cwd=work, env=environment, capture_output=True,
        text=True, timeout=280, check=False,
    )  # fmt: skip
