"""SCMP_ACT_NOTIFY: a listener is handed the filter and answers the container's calls."""

from __future__ import annotations

import array
import ctypes
import fcntl
import json
import os
import socket
import struct
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dockyard.linux import seccomp
from tests.support.oci import Bundle, OciRuntime

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")

_RECEIVE, _SEND = 0xC0502100, 0xC0182101  # SECCOMP_IOCTL_NOTIF_RECV, _SEND of linux/seccomp.h
_CALL = struct.Struct("=QIIiIQ6Q")  # struct seccomp_notif: id, pid, flags, nr, arch, instruction pointer, arguments
_ANSWER = struct.Struct("=QqiI")  # struct seccomp_notif_resp: id, val, error, flags


class Listener:
    """Takes connections; each call that it is asked about gets `errno`."""

    def __init__(self, path: Path, errno: int) -> None:
        self.states: list[dict[str, Any]] = []
        self.asked = 0
        self._errno = errno
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.bind(str(path))
        self._socket.listen()
        self._thread = threading.Thread(target=self._serve)
        self._answering: list[threading.Thread] = []
        self._thread.start()

    def _serve(self) -> None:
        while True:
            connection, _ = self._socket.accept()
            with connection:
                data, rights, _, _ = connection.recvmsg(65536, socket.CMSG_SPACE(4))
                if not data:
                    return
                while part := connection.recv(65536):
                    data += part
            self.states.append(json.loads(data))
            fd = array.array("i", rights[0][2])[0]
            self._answering.append(threading.Thread(target=self._answer, args=(fd,)))
            self._answering[-1].start()

    def _answer(self, fd: int) -> None:
        while True:
            call = bytearray(_CALL.size)
            try:
                fcntl.ioctl(fd, _RECEIVE, call)  # ENOENT: everybody who has the filter is gone
                self.asked += 1
                fcntl.ioctl(fd, _SEND, bytearray(_ANSWER.pack(_CALL.unpack(call)[0], 0, -self._errno, 0)))
            except OSError:
                os.close(fd)
                return

    def close(self, path: Path) -> None:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as last:
            last.connect(str(path))
        self._thread.join(10)
        for thread in self._answering:
            thread.join(10)
            assert not thread.is_alive()
        self._socket.close()


@pytest.fixture
def listener(bundle: Bundle, tmp_path: Path) -> Iterator[Listener]:
    path = tmp_path / "agent"
    assert ctypes.sizeof(ctypes.c_void_p) == 8
    bundle.config["linux"]["seccomp"] = {
        "defaultAction": "SCMP_ACT_ALLOW",
        "listenerPath": str(path),
        "listenerMetadata": "for the agent",
        "syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_NOTIFY"}],
    }
    found = Listener(path, 122)  # EDQUOT
    yield found
    found.close(path)


@pytest.mark.parametrize("no_new_privileges", [False, True])
def test_a_listener_answers_for_the_container_and_its_execs(
    ours: OciRuntime, bundle: Bundle, listener: Listener, no_new_privileges: bool
) -> None:
    bundle.config["process"]["noNewPrivileges"] = no_new_privileges
    bundle.config["annotations"] = {"a": "b"}
    if "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV" in seccomp.supported_flags():
        bundle.config["linux"]["seccomp"]["flags"] = ["SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV"]
    bundle.config["process"]["args"] = ["/bin/sh", "-c", "mkdir /made 2>/said; sleep 1000"]
    identity = ours.started(bundle)
    done = ours.exec(identity, "sh", "-c", "ls /proc/self/fd; mkdir /other", check=False)
    assert (done.returncode, done.stdout.split()) == (1, ["0", "1", "2", "3"])  # 3: the directory that ls reads
    assert "Quota exceeded" in done.stderr or "Disk quota exceeded" in done.stderr
    assert "uota exceeded" in (bundle.root / "said").read_text() and not (bundle.root / "made").exists()
    first, second = listener.states
    state = ours.state(identity)
    for told in (first, second):
        assert (told["ociVersion"], told["fds"]) == (bundle.config["ociVersion"], ["seccompFd"])
        assert told["metadata"] == "for the agent"
        assert (told["state"]["id"], told["state"]["bundle"]) == (identity, str(bundle.directory))
        assert told["state"]["annotations"] == {"a": "b"}
    assert (first["pid"], first["state"]["pid"], first["state"]["status"]) == (state["pid"], state["pid"], "creating")
    assert second["pid"] != state["pid"] and (second["state"]["pid"], second["state"]["status"]) == (
        state["pid"],
        "running",
    )
    ours("delete", "--force", identity)
    assert listener.asked == 2


def test_without_a_listener_there_is_no_container(ours: OciRuntime, bundle: Bundle, tmp_path: Path) -> None:
    bundle.config["linux"]["seccomp"] = {
        "defaultAction": "SCMP_ACT_ALLOW",
        "listenerPath": str(tmp_path / "nobody"),
        "syscalls": [{"names": ["mkdir"], "action": "SCMP_ACT_NOTIFY"}],
    }
    done = ours.run(bundle.sh("true"), check=False)
    assert done.returncode == 1 and "listenerPath" in done.stderr and "No such file" in done.stderr
    assert not ours.left()
    bundle.config["linux"]["seccomp"]["syscalls"] = []  # then the path is ignored
    ours.run(bundle.sh("true"))


@pytest.mark.parametrize(
    ("profile", "message"),
    [
        ({"syscalls": [{"names": ["mkdir"], "action": "SCMP_ACT_NOTIFY"}]}, "listenerPath: SCMP_ACT_NOTIFY needs one"),
        ({"listenerMetadata": "x"}, "listenerMetadata: cannot be set without listenerPath"),
        (
            {"defaultAction": "SCMP_ACT_NOTIFY", "listenerPath": "/x"},
            "defaultAction: SCMP_ACT_NOTIFY cannot be the default",
        ),
        (
            {"syscalls": [{"names": ["write"], "action": "SCMP_ACT_NOTIFY"}], "listenerPath": "/x"},
            "SCMP_ACT_NOTIFY cannot be had for write",
        ),
        ({"defaultErrnoRet": 2}, "defaultErrnoRet: SCMP_ACT_ALLOW has no errno"),
        ({"syscalls": [{"names": ["mkdir"], "action": "SCMP_ACT_LOG", "errnoRet": 3}]}, "SCMP_ACT_LOG has no errno"),
        ({"flags": ["SECCOMP_FILTER_FLAG_OTHER"]}, "flags: SECCOMP_FILTER_FLAG_OTHER is not supported"),
    ],
)
def test_what_a_filter_cannot_ask_for(ours: OciRuntime, bundle: Bundle, profile: dict[str, Any], message: str) -> None:
    bundle.config["linux"]["seccomp"] = {"defaultAction": "SCMP_ACT_ALLOW"} | profile
    done = ours.run(bundle.sh("true"), check=False)
    assert done.returncode == 1 and message in done.stderr, done.stderr
