"""`dockyard image bootstrap`: a base image from a package mirror, the same each time, and it runs."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import time
import urllib.request
from pathlib import Path

import pytest

from tests.support import debian
from tests.support.engines import Engine

pytestmark = pytest.mark.dockyardd_only


def test_two_runs_give_the_same_image_and_it_runs(engine: Engine) -> None:
    begun = time.monotonic()
    first = debian.bootstrap(engine)
    once = time.monotonic() - begun
    engine.docker("rmi", debian.NAME)
    assert debian.bootstrap(engine) == first
    debian.keep(engine)
    assert once < 60
    image = json.loads(engine.out("image", "inspect", debian.NAME))[0]
    assert image["Id"] == first and image["Config"]["Cmd"] == ["bash"] and image["Created"] < "2100"
    assert image["Config"]["Labels"]["org.opencontainers.image.version"] == "bookworm"
    script = (
        "cat /etc/debian_version; ls /var/lib/apt/lists /var/cache/apt/archives; cat /etc/machine-id 2>/dev/null;"
        "find /var/log -type f -size +0 | grep -v '^/var/log/apt/'; dpkg --audit && echo sound"
    )
    said = engine.out("run", "--rm", debian.NAME, "bash", "-c", script).split()
    assert said[0].startswith("12.") and said[-1] == "sound"
    assert set(said[1:-1]) <= {"/var/lib/apt/lists:", "/var/cache/apt/archives:", "lock", "partial"}, said


KEYRING = "pool/main/u/ubuntu-keyring/ubuntu-keyring_2023.11.28.1_all.deb"
KEYRING_SHA256 = "36de43b15853ccae0028e9a767613770c704833f82586f28eb262f0311adb8a8"


def test_ubuntu_with_the_keys_of_its_archive(engine: Engine, tmp_path: Path) -> None:
    """As docs/images.md says; a mirror is named by DOCKYARD_TEST_UBUNTU_MIRROR."""
    mirror = os.environ.get("DOCKYARD_TEST_UBUNTU_MIRROR", "").rstrip("/")
    if not mirror:
        pytest.skip("DOCKYARD_TEST_UBUNTU_MIRROR names no mirror")
    try:
        with urllib.request.urlopen(f"{mirror}/{KEYRING}", timeout=10) as answer:
            package = answer.read(1 << 20)
    except OSError as error:
        pytest.skip(f"the mirror cannot be reached: {error}")
    assert hashlib.sha256(package).hexdigest() == KEYRING_SHA256
    (tmp_path / "keyring.deb").write_bytes(package)
    subprocess.run(["dpkg-deb", "-x", str(tmp_path / "keyring.deb"), str(tmp_path / "out")], check=True)
    keys = tmp_path / "out" / "usr" / "share" / "keyrings" / "ubuntu-archive-keyring.gpg"
    debian.bootstrap(engine, f"--keyring={keys}", f"--mirror={mirror}", name="ubuntu:24.04")
    said = engine.out(
        "run", "--rm", "--network=none", "ubuntu:24.04", "bash", "-c", ". /etc/os-release; echo $ID $VERSION_ID"
    )
    assert said == "ubuntu 24.04"
    engine.docker("rmi", "ubuntu:24.04")


def test_a_client_that_is_ended_leaves_nothing(engine: Engine, tmp_path: Path) -> None:
    environment = {**engine.environment(), "DOCKYARD_HOST": engine.url, "TMPDIR": str(tmp_path)}
    words = ["image", "bootstrap", "-t", "half:1", debian.NAME]
    running = subprocess.Popen([debian.DOCKYARD, *words], env=environment, stderr=subprocess.PIPE, text=True)
    assert running.stderr is not None
    first = running.stderr.readline()
    if "Making" not in first:
        running.wait()
        pytest.skip(first.strip())
    time.sleep(3)
    running.terminate()
    assert running.wait(30) == 130
    running.stderr.close()
    assert os.listdir(tmp_path) == [] and str(tmp_path) not in Path("/proc/self/mountinfo").read_text()
    assert engine.docker("image", "inspect", "half:1", check=False).returncode == 1


def test_a_kept_image_is_as_good(engine: Engine) -> None:
    debian.load(engine)
    assert engine.out("run", "--rm", debian.NAME, "perl", "-e", "print 6*7") == "42"
    engine.docker("rmi", debian.NAME)
