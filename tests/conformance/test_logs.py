"""logs: streams, tail, since, until, timestamps, follow; json-file on disk."""

from __future__ import annotations

import json
import re
import time

import docker
import pytest

from tests.support import steps
from tests.support.engines import Engine
from tests.support.rawhttp import Connection, demultiplex

STAMP = re.compile(r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{9}Z (.*)$")


@pytest.fixture
def talker(api: Connection) -> str:
    """Ended, after ten lines on stdout and two on stderr."""
    identifier = steps.started(
        api, "sh", "-c", "for i in $(seq 10); do echo line $i; done; sleep 0.1; echo e1 >&2; echo e2 >&2"
    )
    steps.wait(api, identifier)
    return identifier


def test_both_streams(engine: Engine, api: Connection, talker: str) -> None:
    out, err = steps.logs(api, talker)
    assert out == "".join(f"line {number}\n" for number in range(1, 11))
    assert err == "e1\ne2\n"
    assert steps.logs(api, talker, stdout=False)[0] == ""
    assert steps.logs(api, talker, stderr=False)[1] == ""


@pytest.mark.dockyardd_only("20.10 gives none")
def test_content_type(engine: Engine, api: Connection, talker: str) -> None:
    kind = api.get(f"/containers/{talker}/logs", stdout=1).headers["content-type"]
    assert kind == "application/vnd.docker.multiplexed-stream"


def test_a_stream_must_be_chosen(engine: Engine, api: Connection, talker: str) -> None:
    answer = steps.expect(api.get(f"/containers/{talker}/logs"), 400)
    assert answer.message == "Bad parameters: you must choose at least one stream"


@pytest.mark.parametrize(("tail", "count"), [("0", 0), ("1", 1), ("3", 3), ("100", 10), ("all", 10), ("", 10)])
def test_tail(engine: Engine, api: Connection, talker: str, tail: str, count: int) -> None:
    out = steps.logs(api, talker, tail=tail, stderr=False)[0]
    everything = [f"line {number}" for number in range(1, 11)]
    # Docker counts the entries of both streams before it drops one of them: the last two are stderr's.
    expected = everything[10 - max(count - 2, 0) :] if tail.isdigit() and count < 10 else everything
    assert out.splitlines() in (expected, everything[10 - count :])


def test_tail_counts_lines_of_both(engine: Engine, api: Connection, talker: str) -> None:
    assert steps.logs(api, talker, tail=3) == ("line 10\n", "e1\ne2\n")


def test_timestamps(engine: Engine, api: Connection, talker: str) -> None:
    lines = steps.logs(api, talker, timestamps=True)[0].splitlines()
    assert all(STAMP.match(line) for line in lines)
    stamps = [line.split()[0] for line in lines]
    assert stamps == sorted(stamps)


def test_since_and_until(engine: Engine, api: Connection) -> None:
    identifier = steps.started(api, "sh", "-c", "echo early; sleep 0.4; echo late")
    steps.wait(api, identifier)
    stamps = [line.split()[0] for line in steps.logs(api, identifier, timestamps=True)[0].splitlines()]
    middle = f"{to_seconds(stamps[0]) + 0.2:.9f}"
    assert steps.logs(api, identifier, since=middle)[0] == "late\n"
    assert steps.logs(api, identifier, until=middle)[0] == "early\n"
    assert steps.logs(api, identifier, since="0", until="0")[0] == "early\nlate\n"


def to_seconds(stamp: str) -> float:
    whole, _, fraction = stamp.rstrip("Z").partition(".")
    return time.mktime(time.strptime(whole, "%Y-%m-%dT%H:%M:%S")) - time.timezone + float(f"0.{fraction}")


def test_cli_since_takes_durations(engine: Engine, api: Connection, talker: str) -> None:
    assert "line 1\n" in engine.docker("logs", "--since", "10m", talker).stdout.decode()
    assert engine.docker("logs", "--until", "10m", talker).stdout == b""
    assert engine.out("logs", "-n", "1", talker, check=True) == ""
    assert engine.docker("logs", "-n", "1", talker).stderr == b"e2\n"
    assert STAMP.match(engine.out("logs", "-t", "-n", "3", talker))


def test_follow_to_the_end(engine: Engine, api: Connection) -> None:
    identifier = steps.started(api, "sh", "-c", "for i in 1 2 3 4 5; do echo $i; sleep 0.1; done")
    with engine.api() as own:
        pieces = own.stream("GET", f"/containers/{identifier}/logs?follow=1&stdout=1")
        first = next(pieces)
        assert steps.inspect(api, identifier)["State"]["Running"]
        out, _ = demultiplex(first + b"".join(pieces))
    assert out == b"1\n2\n3\n4\n5\n"


def test_follow_with_tail(engine: Engine, api: Connection) -> None:
    identifier = steps.started(api, "sh", "-c", "seq 5; sleep 0.4; echo end")
    steps.eventually(lambda: steps.logs(api, identifier)[0].endswith("5\n"))
    process = engine.spawn("logs", "-f", "-n", "2", identifier)
    out, _ = process.communicate(timeout=15)
    assert out == b"4\n5\nend\n"


def test_follow_ends_when_the_container_is_removed(engine: Engine, api: Connection) -> None:
    identifier = steps.sleeper(api)
    process = engine.spawn("logs", "-f", identifier)
    time.sleep(0.2)
    steps.remove(api, identifier)
    process.communicate(timeout=15)
    assert process.returncode in (0, 1)


def test_follow_over_a_restart(engine: Engine, api: Connection) -> None:
    identifier = steps.started(api, "sh", "-c", "echo up; trap 'exit 0' TERM; while :; do sleep 0.05; done")
    steps.eventually(lambda: steps.logs(api, identifier)[0])
    api.post(f"/containers/{identifier}/restart", None, t=1)
    steps.eventually(lambda: steps.logs(api, identifier)[0] == "up\nup\n")


def test_terminal_output_is_raw(engine: Engine, api: Connection) -> None:
    identifier = steps.started(api, "sh", "-c", "echo out; echo err >&2", Tty=True)
    steps.wait(api, identifier)
    answer = api.get(f"/containers/{identifier}/logs", stdout=1, stderr=1)
    assert answer.body == b"out\r\nerr\r\n"


def test_long_lines_and_no_newline_at_the_end(engine: Engine, api: Connection) -> None:
    code, out, _ = steps.run(api, "sh", "-c", "head -c 100000 /dev/zero | tr '\\0' x; echo; printf tail")
    assert (code, out) == (0, "x" * 100_000 + "\ntail")
    identifier = api.get("/containers/json", all=True).json()[0]["Id"]
    assert steps.logs(api, identifier, tail=1)[0].endswith("tail")


def test_bytes_that_are_not_text(engine: Engine, api: Connection) -> None:
    identifier = steps.started(api, "printf", r"\377\376caf\303\251\000end\n")
    steps.wait(api, identifier)
    out, _ = demultiplex(api.get(f"/containers/{identifier}/logs", stdout=1).body)
    assert out in (b"\xef\xbf\xbd\xef\xbf\xbdcaf\xc3\xa9\0end\n", b"\xff\xfecaf\xc3\xa9\0end\n")


def test_json_file_on_disk(engine: Engine, api: Connection, talker: str) -> None:
    path = steps.inspect(api, talker)["LogPath"]
    assert path.endswith(f"{talker}-json.log")
    with open(path) as file:
        entries = [json.loads(line) for line in file]
    assert [entry["log"] for entry in entries if entry["stream"] == "stderr"] == ["e1\n", "e2\n"]
    assert all(STAMP.match(entry["time"] + " x") or "." in entry["time"] for entry in entries)


def test_rotation(engine: Engine) -> None:
    flags = ["--log-opt", "max-size=10k", "--log-opt", "max-file=2"]
    engine.docker("run", "--name", "much", *flags, "bb", "seq", "1", "3000")
    lines = engine.out("logs", "much").split()
    assert lines[-1] == "3000" and 50 < len(lines) < 3000
    assert lines == [str(number) for number in range(int(lines[0]), 3001)]


def test_errors(engine: Engine, api: Connection, talker: str) -> None:
    assert api.get("/containers/nobody/logs", stdout=1).message == "No such container: nobody"
    answer = api.get(f"/containers/{talker}/logs", stdout=1, since="yesterday")
    assert answer.status == (500 if engine.name == "dockerd" else 400)


def test_a_million_bytes_by_docker_py(client: docker.DockerClient) -> None:
    container = client.containers.run("bb", ["seq", "1", "150000"], detach=True)
    container.wait()
    assert container.logs() == b"".join(b"%d\n" % number for number in range(1, 150_001))
    assert container.logs(tail=1) == b"150000\n"
    assert list(container.logs(stream=True, follow=True, tail=2)) != []
