"""How the daemon keeps images: as deep as may be, and without the blobs that a registry has."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.support import busybox, debian_registry
from tests.support.debian_registry import DebianRegistry
from tests.support.engines import Dockyardd, Engine

pytestmark = pytest.mark.dockyardd_only


@pytest.mark.vm
def test_an_image_of_128_layers_runs(engine: Engine) -> None:
    layers = [busybox.rootfs_tar()]
    layers += [busybox.layer_tar({f"f{number}": b"", "last": b"%d" % number}) for number in range(1, 128)]
    engine.docker("load", "-q", input=busybox.docker_archive(["deep:1"], layers, {"Cmd": ["sh"]}))
    assert engine.out("run", "--rm", "deep:1", "sh", "-c", "cat last; echo; ls / | grep -c ^f") == "127\n127"
    engine.docker("rmi", "deep:1")


def test_discarded_blobs_take_no_space_and_are_not_missed(tmp_path: Path) -> None:
    if reason := debian_registry.why_not():
        pytest.skip(reason)
    with Dockyardd(bridge="dyt8", subnet="10.231.18.0/24") as running:
        with DebianRegistry(tmp_path / "registry", running.netns_path, 5030) as registry:
            name = f"{registry.host}/team/kept:1"
            layers = [busybox.rootfs_tar(), busybox.layer_tar({"more": b"more" * 10_000})]
            running.docker("load", "-q", input=busybox.docker_archive([name], layers, {"Cmd": ["sh"]}))
            running.docker("push", "-q", name)
            running.docker("rmi", name)
            running.docker("pull", "-q", name)
            usual = blobs(running)
            running.docker("rmi", name)
            running.stop()
            running.start("--discard-blobs")
            running.docker("pull", "-q", name)
            image = json.loads(running.out("image", "inspect", name))[0]
            assert blobs(running) < 20_000 < usual
            assert running.out("run", "--rm", name, "wc", "-c", "/more") == "40000 /more"
            running.docker("tag", name, f"{registry.host}/other:1")
            running.docker("push", "-q", f"{registry.host}/other:1")
            saved = running.docker("save", name).stdout
            running.docker("rmi", name, f"{registry.host}/other:1")
            running.docker("load", "-q", input=saved)
            assert json.loads(running.out("image", "inspect", name))[0]["Id"] == image["Id"]


def blobs(engine: Engine) -> int:
    size = engine.request("GET", "/system/df").json()["BlobsSize"]
    assert isinstance(size, int)
    return size
