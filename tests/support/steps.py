"""The steps that tests repeat over the raw API: create, start, wait, read what was printed.

Each checks the status it relies on, so that a test fails where the fault is.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.support.engines import SLOW
from tests.support.rawhttp import Connection, Response, demultiplex

IMAGE = "bb:latest"


def expect(answer: Response, *statuses: int) -> Response:
    """The answer, when its status is one of those. AssertionError naming what came instead."""
    if answer.status not in statuses:
        raise AssertionError(f"status {answer.status} instead of {statuses}: {answer.message}")
    return answer


def create(api: Connection, *command: str, name: str | None = None, host: Any = None, **config: Any) -> str:
    """A container of the test image; `config` in Docker's spelling, `host` its HostConfig. Returns the ID."""
    body = {"Image": IMAGE, "Cmd": list(command) or None, **config}
    if host is not None:
        body["HostConfig"] = host
    query = {"name": name} if name else None
    return str(expect(api.request("POST", "/containers/create", body, query), 201).json()["Id"])


def start(api: Connection, identifier: str) -> None:
    expect(api.post(f"/containers/{identifier}/start"), 204)


def started(api: Connection, *command: str, **more: Any) -> str:
    """A running container."""
    identifier = create(api, *command, **more)
    start(api, identifier)
    return identifier


def sleeper(api: Connection, **more: Any) -> str:
    """A running container that ends with 0 as soon as it is told to: its trap is set when this returns (before that,
    PID 1 ignores SIGTERM)."""
    identifier = started(api, "sh", "-c", "trap 'exit 0' TERM; while :; do sleep 1000 & wait $!; done", **more)
    pid = inspect(api, identifier)["State"]["Pid"]
    eventually(lambda: catches(pid, signal.SIGTERM))
    return identifier


def catches(pid: int, number: int) -> bool:
    """Has the process a handler for the signal?"""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("SigCgt:"):
            return bool(int(line.split()[1], 16) >> (number - 1) & 1)
    return False


def wait(api: Connection, identifier: str, **query: Any) -> int:
    return int(expect(api.post(f"/containers/{identifier}/wait", None, **query), 200).json()["StatusCode"])


def inspect(api: Connection, identifier: str) -> dict[str, Any]:
    found: dict[str, Any] = expect(api.get(f"/containers/{identifier}/json"), 200).json()
    return found


def logs(api: Connection, identifier: str, **query: Any) -> tuple[str, str]:
    """(stdout, stderr) of a container without a terminal."""
    options = {"stdout": True, "stderr": True} | query
    out, err = demultiplex(expect(api.get(f"/containers/{identifier}/logs", **options), 200).body)
    return out.decode(), err.decode()


def run(api: Connection, *command: str, **more: Any) -> tuple[int, str, str]:
    """Run to the end: (exit code, stdout, stderr). The container stays, stopped."""
    identifier = create(api, *command, **more)
    start(api, identifier)
    code = wait(api, identifier)
    return (code, *logs(api, identifier))


def sh(api: Connection, script: str, **more: Any) -> str:
    """What a shell script in a new container prints; it must end with 0."""
    code, out, err = run(api, "sh", "-c", script, **more)
    assert code == 0, f"exit code {code}: {out}{err}"
    return out


def exec_sh(api: Connection, identifier: str, script: str, **config: Any) -> tuple[int, str]:
    """(exit code, stdout + stderr) of a shell script in a running container."""
    body = {"Cmd": ["sh", "-c", script], "AttachStdout": True, "AttachStderr": True, **config}
    process = expect(api.post(f"/containers/{identifier}/exec", body), 201).json()["Id"]
    with api.hijack(f"/exec/{process}/start", {"Detach": False, "Tty": False}) as stream:
        out, err = demultiplex(stream.read_all())
    code = eventually(lambda: expect(api.get(f"/exec/{process}/json"), 200).json()["ExitCode"], lambda c: c is not None)
    return code, (out + err).decode()


def remove(api: Connection, identifier: str) -> None:
    expect(api.delete(f"/containers/{identifier}", force=True, v=True), 204)


def eventually(look: Callable[[], Any], true: Callable[[Any], bool] = bool, seconds: float = 10.0) -> Any:
    """The first value of `look()` that satisfies `true`. AssertionError with the last value when time is over."""
    end = time.monotonic() + seconds * SLOW
    while not true(value := look()):
        if time.monotonic() > end:
            raise AssertionError(f"still {value!r} after {seconds} s")
        time.sleep(0.02)
    return value
