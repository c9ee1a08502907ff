"""NOTIFY_SOCKET: what a container says of itself by sd_notify(3) reaches who started it, as with runc."""

from __future__ import annotations

import os
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.oci import SECONDS, Bundle, OciRuntime
from tests.support.steps import eventually

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")

PLACE = "/run/notify/notify.sock"
TELL = 'echo "$NOTIFY_SOCKET" > /run/seen; [ -S "$NOTIFY_SOCKET" ] && stat -c %a "$NOTIFY_SOCKET" >> /run/seen; '


@pytest.fixture
def asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    """Who wants to be told."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(str(tmp_path / "asked"))
        sock.settimeout(SECONDS)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "asked"))
        yield sock


def say(pid: int, text: bytes) -> None:
    """As a program in the container would: by its own path."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.sendto(text, f"/proc/{pid}/root{PLACE}")


def test_start_waits_until_the_program_is_ready(ours: OciRuntime, bundle: Bundle, asked: socket.socket) -> None:
    identity = ours.create(bundle.sh(TELL + "sleep 1000"))
    pid = ours.state(identity)["pid"]
    with subprocess.Popen([*ours.command, "start", identity]) as starting:
        seen = Path(f"/proc/{pid}/root/run/seen")
        eventually(lambda: seen.exists() and seen.read_text().split() == [PLACE, "777"])
        say(pid, b"STATUS=half\nMAINPID=1\nFDSTORE=1")
        assert asked.recv(4096) == b"STATUS=half"
        assert starting.poll() is None, "it waits"
        say(pid, b"READY=1\nSTATUS=done")
        assert asked.recv(4096) == b"READY=1\nSTATUS=done\nMAINPID=%d" % pid
        assert starting.wait(SECONDS) == 0
    assert ours.exec(identity, "sh", "-c", "echo $NOTIFY_SOCKET").stdout == "\n", "an exec is not asked"


def test_start_does_not_wait_for_what_has_ended(ours: OciRuntime, bundle: Bundle, asked: socket.socket) -> None:
    ours("start", ours.create(bundle.sh("true")))
    asked.setblocking(False)
    with pytest.raises(BlockingIOError):
        asked.recv(4096)


def test_run_hands_on_as_long_as_the_program_runs(
    ours: OciRuntime, bundle: Bundle, asked: socket.socket, tmp_path: Path
) -> None:
    identity = ours.new_id()
    bundle.sh("echo begun; until [ -e /run/end ]; do sleep 0.05; done; exit 7").write()
    command = [*ours.command, "run", "--bundle", str(bundle.directory), "--pid-file", str(tmp_path / "pid"), identity]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as running:
        assert running.stdout is not None and running.stdout.readline() == b"begun\n"
        pid = int((tmp_path / "pid").read_text())
        say(pid, b"READY=1")
        assert asked.recv(4096) == b"READY=1\nMAINPID=%d" % running.pid, "it stays, and tells of the end"
        say(pid, b"STOPPING=1")
        assert asked.recv(4096) == b"STOPPING=1"
        Path(f"/proc/{pid}/root/run/end").touch()
        assert running.wait(SECONDS) == 7


def test_nobody_listens(ours: OciRuntime, bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", "@dockyard-nobody")
    identity = ours.create(bundle.sh("sleep 1000"))
    with subprocess.Popen([*ours.command, "start", identity], stderr=subprocess.PIPE, text=True) as starting:
        eventually(lambda: Path(f"/proc/{ours.state(identity)['pid']}/root{PLACE}").exists())
        say(ours.state(identity)["pid"], b"READY=1")
        assert "NOTIFY_SOCKET: Connection refused" in starting.communicate(timeout=SECONDS)[1]
        assert starting.returncode == 0, "the container runs"
