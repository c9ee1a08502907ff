"""Dockerfiles as public projects have them, with packages from Debian, PyPI and the npm registry: built and run.

They need the network, from RUN steps too (these have the host's). What cannot be reached skips its project.
"""

from __future__ import annotations

import concurrent.futures
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from pip._internal.models.index import PyPI

from tests.conformance.test_build_dockyard import Cli
from tests.support import debian
from tests.support.engines import Dockyardd, why_no_dockyardd

PROJECTS = Path(__file__).parents[1] / "data" / "projects"
NAMES = ("python", "c", "node")
AUTHORITIES = "/etc/ssl/certs/ca-certificates.crt"


@pytest.fixture(scope="module")
def builds(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Dockyardd, dict[str, str]]]:
    """An engine where the network is, and what each project's build said, or why there was none; all at once."""
    if request.config.getoption("--engine") == "dockerd":
        pytest.skip("for our engine only")
    if missing := why_no_dockyardd():
        pytest.skip(missing)
    registry = npm_registry()
    reasons = {"python": unreachable(PyPI.netloc), "c": "", "node": unreachable(urlsplit(registry).netloc)}
    with Dockyardd(private_network=False, bridge="dybp0", subnet="10.231.78.0/24") as running:
        debian.load(running)
        client = Cli(running)
        root = tmp_path_factory.mktemp("projects")

        def build(name: str) -> str:
            if reasons[name]:
                return f"skip: {reasons[name]}"
            shutil.copytree(PROJECTS / name, root / name)
            return client.build(
                "--network=host", "-t", name, "--secret", f"id=ca,src={AUTHORITIES}", "--build-arg",
                "PIP_CERT=/run/secrets/ca", "--build-arg", "NODE_EXTRA_CA_CERTS=/run/secrets/ca", "--build-arg",
                f"REGISTRY={registry}", str(root / name), timeout=280,
            )  # fmt: skip

        with concurrent.futures.ThreadPoolExecutor() as pool:
            said = dict(zip(NAMES, pool.map(build, NAMES), strict=True))
        yield running, said


def npm_registry() -> str:
    """The registry that this host's npm is set up for; "" where there is no npm."""
    if not shutil.which("npm"):
        return ""
    done = subprocess.run(["npm", "config", "get", "registry"], capture_output=True, text=True, timeout=30, check=False)
    return done.stdout.strip()


def unreachable(place: str) -> str:
    """Why nothing can be had of `host[:port]`; "" where it can."""
    if not place:
        return "npm is not installed"
    name, _, port = place.partition(":")
    try:
        socket.create_connection((name, int(port or 443)), 5).close()
    except OSError as error:
        return f"{place} cannot be reached: {error}"
    return ""


def built(builds: tuple[Dockyardd, dict[str, str]], name: str) -> Dockyardd:
    running, said = builds
    if said[name].startswith("skip: "):
        pytest.skip(said[name][6:])
    return running


def test_a_web_application_with_flask(builds: tuple[Dockyardd, dict[str, str]]) -> None:
    running = built(builds, "python")
    box = running.out("run", "-d", "--network=none", "python")
    asking = ["/venv/bin/python", "-c", "import urllib.request as r; print(r.urlopen('http://127.0.0.1:8000').read())"]
    end = time.monotonic() + 20
    while (done := running.docker("exec", box, *asking, check=False)).returncode:
        assert time.monotonic() < end, done
        time.sleep(0.1)
    assert done.stdout == b"b'hello from flask'\n"
    assert running.out("exec", box, "id", "-un") == "web"
    running.docker("rm", "-f", box)
    look = "ls -A /run/secrets /root/.cache 2>/dev/null; ls /var/cache/apt/archives/*.deb 2>/dev/null; ls /app"
    left = running.out("run", "--rm", "--network=none", "--user=root", "python", "sh", "-c", look)
    assert left == "app.py"  # nothing of caches and secrets


def test_a_program_in_c_alone_in_its_image(builds: tuple[Dockyardd, dict[str, str]]) -> None:
    running = built(builds, "c")
    assert running.out("run", "--rm", "--network=none", "c", "you") == "hello, you"
    layers = running.request("GET", "/images/c/json").json()["RootFS"]["Layers"]
    assert len(layers) == 1
    assert "[test" not in builds[1]["c"]  # the stage that nothing needs did not run


def test_an_application_with_express(builds: tuple[Dockyardd, dict[str, str]]) -> None:
    running = built(builds, "node")
    assert running.out("run", "--rm", "--network=none", "node") == "hello from express"


def test_a_rebuild_comes_from_the_cache(builds: tuple[Dockyardd, dict[str, str]], tmp_path: Path) -> None:
    running = built(builds, "c")
    root = shutil.copytree(PROJECTS / "c", tmp_path / "c")
    assert Cli(running).build("--network=host", str(root)).count("CACHED\n") >= 4
