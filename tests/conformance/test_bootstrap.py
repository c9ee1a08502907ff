"""`dockyard image bootstrap`: a base image from a package mirror, the same each time, and it runs."""

from __future__ import annotations

import json
import time

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


def test_a_kept_image_is_as_good(engine: Engine) -> None:
    debian.load(engine)
    assert engine.out("run", "--rm", debian.NAME, "perl", "-e", "print 6*7") == "42"
    engine.docker("rmi", debian.NAME)
