"""Log drivers: options, files and rotation, tags, non-blocking mode, receivers elsewhere, reading back."""

from __future__ import annotations

import gzip
import json
import os
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import steps
from tests.support.engines import Engine
from tests.support.logreceivers import DatagramReceiver, StreamReceiver
from tests.support.rawhttp import Connection

STAMP = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{9}Z ")


def options(**given: str) -> list[str]:
    """`--log-opt` for each; _ stands for -."""
    return [word for name, value in given.items() for word in ("--log-opt", f"{name.replace('_', '-')}={value}")]


def run(engine: Engine, name: str, script: str, *flags: str) -> subprocess.CompletedProcess[bytes]:
    return engine.docker("run", "--name", name, "--network", "none", *flags, "bb", "sh", "-c", script)


@pytest.fixture
def place() -> Iterator[Path]:
    """A directory whose name is short enough for sockets."""
    path = Path(tempfile.mkdtemp(prefix="dyl-"))
    yield path
    shutil.rmtree(path)


def test_tag_labels_and_environment_come_with_each_record(engine: Engine, api: Connection) -> None:
    given = options(tag="{{.Name}}/{{.ID}}/{{.ImageName}}/{{.DaemonName}}", labels="team,absent", labels_regex="^re",
                    env="WHO", env_regex="^EX")  # fmt: skip
    settings = ["-l", "team=a b", "-l", "region=x", "-l", "other=1", "-e", "WHO=me", "-e", "EXTRA=2", "-e", "NOT=3"]
    run(engine, "tagged", "echo hi", *given, *settings)
    found = steps.inspect(api, "tagged")
    record = json.loads(Path(found["LogPath"]).read_text())
    assert record["attrs"] == {
        "tag": f"tagged/{found['Id'][:12]}/bb/docker", "team": "a b", "region": "x", "WHO": "me", "EXTRA": "2",
    }  # fmt: skip
    line = engine.out("logs", "--details", "-t", "tagged")
    details = f"EXTRA=2,WHO=me,region=x,tag=tagged%2F{found['Id'][:12]}%2Fbb%2Fdocker,team=a+b hi"
    assert STAMP.match(line) and STAMP.sub("", line).strip() == details


def test_rotated_files_are_compressed_and_read_back(engine: Engine, api: Connection) -> None:
    given = options(max_size="50k", max_file="3", compress="true")
    run(engine, "packed", "for i in 1 2 3 4 5; do seq ${i}000 ${i}999; sleep 0.25; done", *given)
    path = Path(steps.inspect(api, "packed")["LogPath"])
    assert steps.inspect(api, "packed")["HostConfig"]["LogConfig"] == {
        "Type": "json-file", "Config": {"max-size": "50k", "max-file": "3", "compress": "true"},
    }  # fmt: skip
    steps.eventually(lambda: path.with_name(f"{path.name}.2.gz").exists())
    with gzip.open(f"{path}.2.gz") as file:
        assert all(json.loads(line)["stream"] == "stdout" for line in file)
    lines = [int(line) for line in engine.out("logs", "packed").split()]
    wanted = [n for i in range(1, 6) for n in range(i * 1000, i * 1000 + 1000)]
    assert 1000 < len(lines) < 5000 and lines == wanted[-len(lines) :]
    assert engine.out("logs", "-n", str(len(lines) - 50), "packed").split() == [str(n) for n in lines[50:]]


def test_the_local_driver(engine: Engine, api: Connection) -> None:
    run(engine, "loc", "seq 3; sleep 0.2; echo bad >&2", "--log-driver", "local", *options(max_size="1m", max_file="2"))
    found = steps.inspect(api, "loc")
    assert (found["HostConfig"]["LogConfig"]["Type"], found["LogPath"]) == ("local", "")
    done = engine.docker("logs", "loc")
    assert (done.stdout, done.stderr) == (b"1\n2\n3\n", b"bad\n")
    assert engine.docker("logs", "-n", "1", "loc").stderr == b"bad\n"


def test_the_flags_of_logs(engine: Engine, api: Connection) -> None:
    run(engine, "talk", "echo one; sleep 1.2; echo two; sleep 0.1; echo three >&2")
    stamps = re.findall(r"\S+Z", engine.out("logs", "-t", "talk"))
    for flags, out, err in (
        (["--tail", "0"], "", ""),
        (["--tail", "all"], "one\ntwo\n", "three\n"),
        (["--tail", "2"], "two\n", "three\n"),
        (["--since", stamps[1]], "two\n", "three\n"),
        (["--until", stamps[0]], "one\n", ""),
        (["--since", stamps[1], "--until", stamps[1]], "two\n", ""),
        (["--since", "1h"], "one\ntwo\n", "three\n"),
        (["--since", str(int(time.time()) + 60)], "", ""),
        (["--until", "1h"], "", ""),
    ):
        done = engine.docker("logs", *flags, "talk")
        assert (done.stdout.decode(), done.stderr.decode()) == (out, err), flags


@pytest.mark.parametrize(
    ("driver", "given", "text"),
    [
        ("json-file", {"odd": "1"}, "unknown log opt 'odd' for json-file log driver"),
        ("local", {"labels": "a"}, "unknown log opt 'labels' for log driver local"),
        ("syslog", {"syslog_facility": "moon"}, "invalid syslog facility"),
        ("syslog", {"syslog_address": "http://h"}, "syslog-address should be in form proto://address, got http://h"),
        ("gelf", {}, "gelf-address is a required parameter"),
        ("fluentd", {"odd": "1"}, "unknown log opt 'odd' for fluentd log driver"),
        ("json-file", {"mode": "fast"}, "logger: logging mode not supported: fast"),
    ],
)
def test_bad_options_leave_nothing(engine: Engine, driver: str, given: dict[str, str], text: str) -> None:
    done = engine.docker("create", "--log-driver", driver, *options(**given), "bb", "true", check=False)
    assert text in done.stderr.decode()
    assert engine.out("ps", "-aq") == ""


@pytest.mark.dockyardd_only("20.10 lets logs grow without limit")
def test_logs_are_rotated_by_default(engine: Engine, api: Connection) -> None:
    run(engine, "much", "echo hi")
    found = steps.inspect(api, "much")
    assert found["HostConfig"]["LogConfig"] == {"Type": "json-file", "Config": {}}
    os.truncate(found["LogPath"], 100_000_000)  # a hole: as if so much had been written
    engine.docker("start", "-a", "much")
    assert os.path.exists(f"{found['LogPath']}.1") and os.path.getsize(found["LogPath"]) < 1000


def test_non_blocking_mode(engine: Engine, api: Connection) -> None:
    given = options(mode="non-blocking", max_buffer_size="8m")
    run(engine, "fast", "seq 2000; echo bad >&2; printf end", *given)
    done = engine.docker("logs", "fast")
    assert done.stdout.split() == [b"%d" % n for n in range(1, 2001)] + [b"end"]
    assert done.stderr == b"bad\n"


def test_syslog_over_a_unix_socket(engine: Engine, place: Path) -> None:
    receiver = DatagramReceiver(place / "log")
    given = options(syslog_address=f"unixgram://{place}/log", syslog_facility="local3", tag="{{.Name}}")
    run(engine, "sys", "echo hello; sleep 0.2; echo bad >&2", "--log-driver", "syslog", *given)
    out, err = receiver.take(2)
    assert re.fullmatch(rb"<158>\w{3} [ \d]\d \d\d:\d\d:\d\d sys\[\d+\]: hello\n", out)
    assert err.startswith(b"<155>") and err.endswith(b": bad\n")
    done = engine.docker("logs", "sys")
    receiver.stop()  # later: 20.10 connects once more to read the log
    assert (done.stdout, done.stderr) == (b"hello\n", b"bad\n"), "dual logging"


@pytest.mark.dockyardd_only("20.10 loses what it cannot send, and does not start without a receiver")
def test_what_a_container_that_is_gone_has_said_arrives_when_the_receiver_comes(
    engine: Engine, api: Connection, place: Path
) -> None:
    given = options(syslog_address=f"unix://{place}/log", syslog_format="rfc5424")
    out = engine.out("run", "--rm", "--network", "none", "--log-driver", "syslog", *given, "bb", "seq", "300")
    assert len(out.split()) == 300
    receiver = StreamReceiver(place / "log")
    steps.eventually(lambda: len(receiver.lines()) >= 300, seconds=20)
    assert [line.split()[-1] for line in receiver.lines()] == [str(n) for n in range(1, 301)]
    root = Path(api.get("/info").json()["DockerRootDir"]) / "shipping"
    steps.eventually(lambda: os.listdir(root) == ["lock"])
    receiver.stop()


@pytest.mark.dockyardd_only("20.10 does not have it")
def test_without_a_cache_a_log_cannot_be_read_back(engine: Engine, place: Path) -> None:
    receiver = DatagramReceiver(place / "log")
    given = options(syslog_address=f"unixgram://{place}/log", cache_disabled="true")
    run(engine, "nocache", "echo hello", "--log-driver", "syslog", *given)
    assert receiver.take(1)[0].endswith(b": hello\n")
    receiver.stop()
    done = engine.docker("logs", "nocache", check=False)
    assert b"configured logging driver does not support reading" in done.stderr
