"""`dockyard system check`: what is damaged in the store is found, told, and repaired where nothing can be lost."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import busybox, steps
from tests.support.engines import Dockyardd, Engine, why_no_dockyardd

DOCKYARD = str(Path(sys.executable).with_name("dockyard"))
DOCKERFILE = b"FROM bb\nRUN echo precious >/kept\nRUN echo more >/more\n"


@pytest.fixture(scope="module")
def stored(request: pytest.FixtureRequest) -> Iterator[Engine]:
    """A daemon of its own: what it keeps is damaged."""
    if missing := why_no_dockyardd() or (request.config.getoption("--engine") == "dockerd" and "dockerd only"):
        pytest.skip(missing)
    with Dockyardd(bridge="dyt9", subnet="10.231.39.0/24") as made:
        image = busybox.docker_archive(["bb:latest"], [busybox.rootfs_tar()], {"Cmd": ["sh"]})
        made.docker("load", "-q", input=image)
        yield made


def check(engine: Engine, *flags: str) -> tuple[int, str]:
    command = [DOCKYARD, "system", "check", *flags]
    done = subprocess.run(
        command, env=engine.cli_environment(), stdout=subprocess.PIPE, text=True, timeout=60, check=False
    )
    return done.returncode, done.stdout


def find(engine: Engine, name: str) -> Path:
    """A file of that name in a layer."""
    (found,) = engine.data_root.glob(f"snapshots/*/l/*/{name}")
    return found


def build(engine: Engine, tag: str) -> str:
    done = subprocess.run(
        [DOCKYARD, "build", "-q", "-t", tag, "-"], input=DOCKERFILE, env=engine.cli_environment(), check=True,
        capture_output=True, timeout=60,
    )  # fmt: skip
    return done.stdout.decode().strip()


def test_a_sound_store_is_sound(stored: Engine) -> None:
    build(stored, "made")
    code, said = check(stored)
    assert code == 0 and "nothing damaged" in said and "3 layers" in said, said
    assert check(stored, "--quick") == (0, "Checked what records name: nothing damaged\n")


def test_a_changed_file_is_found_and_what_cannot_be_relied_on_goes(stored: Engine) -> None:
    build(stored, "made:1")
    kept = find(stored, "kept")
    kept.write_bytes(b"Precious\n")  # of the same length: only its content tells
    stored.docker("run", "-d", "--name", "user", "made:1", "sleep", "100")
    assert check(stored, "--quick")[0] == 0
    code, said = check(stored)
    assert code == 1 and "the content of its files has changed" in said, said
    assert "  images: made:1\n  containers: user\n" in said

    code, said = check(stored, "--repair")  # a container needs it: only the build cache forgets it
    assert "steps of the build cache removed" in said and "image made:1 removed" not in said, said
    assert stored.out("exec", "user", "cat", "/more") == "more"

    stored.docker("rm", "-f", "user")
    code, said = check(stored, "--repair", "--format", "{{.Kind}} {{.Repaired}}")
    assert (code, said) == (0, "layer image made:1 removed\n")
    assert check(stored)[0] == 0
    build(stored, "made:1")
    assert stored.out("run", "--rm", "made:1", "cat", "/kept") == "precious"


def test_missing_files_layers_and_blobs(stored: Engine) -> None:
    identity = build(stored, "made:1")
    blob = stored.data_root / "content/blobs/sha256" / identity.partition(":")[2]
    content = blob.read_bytes()
    blob.write_bytes(content.replace(b"precious", b"Precious"))
    code, said = check(stored)
    assert code == 1 and f"blob {identity}: its content has the digest sha256:" in said and "images: made:1" in said
    blob.write_bytes(content)

    find(stored, "more").unlink()
    code, said = check(stored)
    assert code == 1 and "the layer's file 'more' is missing: No such file" in said, said
    shutil.rmtree(find(stored, "kept").parent)
    code, said = check(stored, "--quick")
    assert code == 1 and "its files are missing" in said and "images: made:1" in said, said
    code, said = check(stored, "--repair")
    assert code == 0 and "image made:1 removed" in said and "made" not in stored.out("images"), said
    assert stored.out("run", "--rm", "bb", "echo", "sound") == "sound"


def test_containers_and_volumes_are_told_about_and_not_touched(stored: Engine) -> None:
    stored.docker("volume", "create", "vol")
    stored.docker("create", "--name", "box", "-v", "vol:/v", "bb")
    with stored.api() as api:
        place = Path(api.get("/volumes/vol").json()["Mountpoint"])
        identity = steps.inspect(api, "box")["Id"]
    place.rename(place.with_name("elsewhere"))
    shutil.rmtree(stored.data_root / "containers" / identity)
    code, said = check(stored, "--repair")
    assert code == 1 and "volume vol: missing: its directory\n  containers: box\n" in said, said
    assert f"container {identity}: missing: its directory" in said and "repaired" not in said
    assert stored.out("volume", "ls", "-q") == "vol" and stored.out("ps", "-aq", "--no-trunc") == identity
    os.rename(place.with_name("elsewhere"), place)
    stored.docker("rm", "box")
    assert check(stored)[0] == 0
