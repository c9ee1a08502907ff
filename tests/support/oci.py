"""Containers through an OCI runtime's command line: ours, or runc for comparison.

Owns: `Bundle` (a directory with config.json and a busybox root), `OciRuntime` (a runtime on a private root; everything
it was asked to make is taken away at the end), Docker's default configuration by `docker_config`.
Does not own: assertions.
"""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import tarfile
import tempfile
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

from dockyard.model.container import ContainerConfig, HostConfig
from dockyard.runtime.bundle import BundleInput, Bundler
from tests.support.busybox import rootfs_tar
from tests.support.leaks import CGROUPS

OURS = [sys.executable, "-c", "from dockyard.runtime.oci import main; main()"]
SECONDS = 300 if os.environ.get("DOCKYARD_TEST_VM") else 30


def unpack_root(target: Path) -> None:
    """The busybox image's root file system in `target`."""
    with tarfile.open(fileobj=io.BytesIO(rootfs_tar())) as tar:
        # Python 3.11.2, Debian's, has no filters yet, and does without what they would say.
        trust: dict[str, Any] = {"filter": "fully_trusted"} if hasattr(tarfile, "fully_trusted_filter") else {}
        tar.extractall(target, **trust)


class Bundle:
    """A bundle in `directory`: `config` is written anew before every use."""

    def __init__(self, directory: Path, config: dict[str, Any]) -> None:
        self.directory = directory
        self.config = config
        self.root = directory / "rootfs"
        if not self.root.exists():
            self.root.mkdir(parents=True)
            unpack_root(self.root)

    def write(self) -> Path:
        (self.directory / "config.json").write_text(json.dumps(self.config))
        return self.directory

    def sh(self, script: str) -> Bundle:
        """The same bundle with a shell script as its program."""
        self.config["process"]["args"] = ["/bin/sh", "-c", script]
        return self


class OciRuntime:
    """An OCI runtime on a private root directory and a private control group."""

    def __init__(self, command: list[str], root: Path) -> None:
        self.command = [*command, "--root", str(root)]
        self.root = root
        self.parent = f"dockyard-test-{uuid.uuid4().hex[:12]}"  # of all cgroups, so that leaks are seen
        self._ids: list[str] = []

    def __call__(self, *arguments: str, check: bool = True, **more: Any) -> subprocess.CompletedProcess[str]:
        """One command; its output as text. AssertionError with its stderr if it fails and `check`."""
        options: dict[str, Any] = {
            "capture_output": True,
            "text": True,
            "timeout": SECONDS,
            "stdin": subprocess.DEVNULL,
        }
        done = subprocess.run([*self.command, *arguments], check=False, **(options | more))
        if check:
            assert done.returncode == 0, f"{arguments}: {done.returncode}: {done.stderr}"
        return done

    def silently(self, *arguments: str) -> None:
        """A command whose container outlives it: it gets no pipe of ours, which would be waited for."""
        with tempfile.TemporaryFile() as errors:
            streams = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": errors}
            done = subprocess.run([*self.command, *arguments], check=False, timeout=SECONDS, **streams)  # type: ignore[call-overload]
            errors.seek(0)
            assert done.returncode == 0, f"{arguments}: {done.returncode}: {errors.read().decode()}"

    def new_id(self) -> str:
        self._ids.append(f"t{uuid.uuid4().hex[:12]}")
        return self._ids[-1]

    def _place(self, bundle: Bundle, identity: str) -> str:
        bundle.config["linux"]["cgroupsPath"] = f"/{self.parent}/{identity}"
        return str(bundle.write())

    def run(self, bundle: Bundle, *options: str, check: bool = True, **more: Any) -> subprocess.CompletedProcess[str]:
        """Run the bundle to its end."""
        identity = self.new_id()
        return self("run", "--bundle", self._place(bundle, identity), *options, identity, check=check, **more)

    def create(self, bundle: Bundle, *options: str) -> str:
        """A created container's ID. Its output goes to DEVNULL."""
        identity = self.new_id()
        directory = self._place(bundle, identity)
        self.silently("create", "--bundle", directory, *options, identity)
        return identity

    def started(self, bundle: Bundle, *options: str) -> str:
        """A running container's ID."""
        identity = self.create(bundle, *options)
        self("start", identity)
        return identity

    def state(self, identity: str) -> dict[str, Any]:
        document: dict[str, Any] = json.loads(self("state", identity).stdout)
        return document

    def exec(self, identity: str, *command: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        return self("exec", identity, *command, check=check)

    def exec_process(
        self, identity: str, process: dict[str, Any], check: bool = True
    ) -> subprocess.CompletedProcess[str]:
        """An exec of an OCI process object."""
        path = self.root.parent / f"process-{uuid.uuid4().hex[:8]}.json"
        path.write_text(json.dumps(process))
        return self("exec", "--process", str(path), identity, check=check)

    def close(self) -> None:
        """Take everything away that is still there."""
        for identity in self._ids:
            self("delete", "--force", identity, check=False)
        for directory in CGROUPS.glob(f"*/{self.parent}"):
            directory.rmdir()
        top = CGROUPS / self.parent
        if top.is_dir():
            top.rmdir()

    def left(self) -> list[str]:
        """Control groups, mounts and state of its containers that are still there."""
        found = [str(path) for path in CGROUPS.glob(f"*/{self.parent}/*/")]
        found += [str(path) for path in self.root.glob("*")]
        mounts = Path("/proc/self/mountinfo").read_text().splitlines()
        return found + [line for line in mounts if str(self.root.parent) in line]


def docker_config(
    bundler: Bundler, *, change: Callable[[dict[str, Any]], None] | None = None, **more: Any
) -> dict[str, Any]:
    """config.json of Docker's default container as our engine makes it, with our extensions and the filter in it.

    `more`: fields of BundleInput; `config`, `host` default to empty settings.
    """
    settings: dict[str, Any] = {"config": ContainerConfig(), "host": HostConfig()}
    settings |= {"id": "f" * 64, "name": "t", "args": ["/bin/true"], "hostname": "box"} | more
    bundle = bundler.make(BundleInput(**settings))
    config = bundle.config
    if bundle.seccomp_profile is not None:
        config["linux"]["seccomp"] = bundle.seccomp_profile
    if change is not None:
        change(config)
    return config
