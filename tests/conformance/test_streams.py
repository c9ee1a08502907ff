"""attach, start -a -i, run -i and -t: what goes in and comes out, half-close, terminals, detach keys, resize."""

from __future__ import annotations

import time

import pytest

from tests.support import steps
from tests.support.engines import Engine, docker_cli
from tests.support.rawhttp import Connection, demultiplex, frames
from tests.support.terminal import Terminal


def terminal(engine: Engine, *arguments: str, rows: int = 24, columns: int = 80) -> Terminal:
    return Terminal([docker_cli(), *arguments], engine.cli_environment(), rows, columns)


def test_run_separates_stdout_and_stderr(engine: Engine) -> None:
    done = engine.docker("run", "bb", "sh", "-c", "echo out; echo err >&2; exit 3", check=False)
    assert (done.stdout, done.stderr, done.returncode) == (b"out\n", b"err\n", 3)


def test_run_i_passes_input_to_its_end(engine: Engine) -> None:
    assert engine.docker("run", "-i", "--rm", "bb", "cat", input=b"one\ntwo").stdout == b"one\ntwo"
    assert engine.docker("run", "-i", "--rm", "bb", "wc", "-c", input=b"").stdout == b"0\n"


def test_run_i_passes_a_megabyte_unchanged(engine: Engine) -> None:
    data = bytes(range(256)) * 8192
    assert engine.docker("run", "-i", "--rm", "bb", "cat", input=data).stdout == data


def test_run_without_i_has_no_input(engine: Engine) -> None:
    assert engine.docker("run", "--rm", "bb", "wc", "-c", input=b"lost").stdout == b"0\n"


@pytest.mark.parametrize("upgrade", [True, False])
def test_attach_by_hijack(engine: Engine, api: Connection, upgrade: bool) -> None:
    identifier = steps.create(
        api, "sh", "-c", "read line; echo got $line; echo err >&2", OpenStdin=True, StdinOnce=True, AttachStdin=True
    )
    query = {"stream": 1, "stdin": 1, "stdout": 1, "stderr": 1}
    with engine.api() as own, own.hijack(f"/containers/{identifier}/attach", None, query, upgrade) as stream:
        assert stream.status == (101 if upgrade else 200)
        kind = stream.headers["content-type"]
        assert kind in ("application/vnd.docker.raw-stream", "application/vnd.docker.multiplexed-stream")
        if upgrade:
            assert stream.headers["upgrade"] == "tcp" and stream.headers["connection"].lower() == "upgrade"
        steps.start(api, identifier)
        stream.send(b"hello\n")
        assert demultiplex(stream.read_all()) == (b"got hello\n", b"err\n")


def test_half_close_is_the_end_of_input(engine: Engine, api: Connection) -> None:
    identifier = steps.create(api, "wc", "-c", OpenStdin=True, StdinOnce=True, AttachStdin=True)
    query = {"stream": 1, "stdin": 1, "stdout": 1}
    with engine.api() as own, own.hijack(f"/containers/{identifier}/attach", None, query) as stream:
        steps.start(api, identifier)
        stream.send(b"12345")
        stream.close_write()
        assert demultiplex(stream.read_all())[0] == b"5\n"


def test_input_typed_while_the_log_is_sent_arrives(engine: Engine, api: Connection) -> None:
    identifier = steps.started(api, "sh", "-c", "seq 20000; cat", OpenStdin=True, StdinOnce=True)
    steps.eventually(lambda: "20000\n" in steps.logs(api, identifier, tail=1)[0])
    query = {"logs": 1, "stream": 1, "stdin": 1, "stdout": 1}
    with engine.api() as own, own.hijack(f"/containers/{identifier}/attach", None, query) as stream:
        stream.send(b"typed")
        stream.close_write()
        assert demultiplex(stream.read_all())[0].endswith(b"19999\n20000\ntyped")


def test_attach_with_logs_replays(engine: Engine, api: Connection) -> None:
    identifier = steps.started(api, "sh", "-c", "echo before; sleep 100")
    steps.eventually(lambda: steps.logs(api, identifier)[0])
    query = {"logs": 1, "stream": 0, "stdout": 1}
    with engine.api() as own, own.hijack(f"/containers/{identifier}/attach", None, query) as stream:
        assert demultiplex(stream.read_all())[0] == b"before\n"


def test_two_attached_clients_see_the_same(engine: Engine, api: Connection) -> None:
    identifier = steps.create(api, "sh", "-c", "for i in 1 2 3; do echo $i; done")
    query = {"stream": 1, "stdout": 1}
    with engine.api() as one, engine.api() as two:
        first = one.hijack(f"/containers/{identifier}/attach", None, query)
        second = two.hijack(f"/containers/{identifier}/attach", None, query)
        steps.start(api, identifier)
        with first, second:
            assert demultiplex(first.read_all())[0] == demultiplex(second.read_all())[0] == b"1\n2\n3\n"


def test_stdin_stays_open_without_stdin_once(engine: Engine, api: Connection) -> None:
    identifier = steps.started(api, "cat", OpenStdin=True, StdinOnce=False)
    query = {"stream": 1, "stdin": 1, "stdout": 1}
    for word in (b"one\n", b"two\n"):
        with engine.api() as own, own.hijack(f"/containers/{identifier}/attach", None, query) as stream:
            stream.send(word)
            assert word in stream.read_until(word)
    assert steps.inspect(api, identifier)["State"]["Running"]


def test_attach_to_a_terminal_is_raw(engine: Engine, api: Connection) -> None:
    identifier = steps.create(api, "sh", "-c", "echo raw", Tty=True)
    query = {"stream": 1, "stdout": 1}
    with engine.api() as own, own.hijack(f"/containers/{identifier}/attach", None, query) as stream:
        assert stream.headers["content-type"] == "application/vnd.docker.raw-stream"
        steps.start(api, identifier)
        assert stream.read_all() == b"raw\r\n"


def test_attach_errors(engine: Engine, api: Connection) -> None:
    identifier = steps.started(api, "sleep", "100")
    api.post(f"/containers/{identifier}/pause")
    answer = api.post(f"/containers/{identifier}/attach", None, stream=1, stdout=1)
    assert answer.status == 409 and "paused" in answer.message
    assert api.post("/containers/nobody/attach", None, stream=1).status == 404


def test_cli_attach_gives_the_exit_code(engine: Engine, api: Connection) -> None:
    identifier = steps.started(api, "sh", "-c", "read line; exit $line", OpenStdin=True, StdinOnce=True)
    done = engine.docker("attach", identifier, input=b"4\n", check=False)
    assert done.returncode == 4


def test_cli_start_attached(engine: Engine) -> None:
    identifier = engine.out("create", "-i", "bb", "sh", "-c", "echo begin; cat; exit 6")
    done = engine.docker("start", "-a", "-i", identifier, input=b"typed\n", check=False)
    assert (done.stdout, done.returncode) == (b"begin\ntyped\n", 6)


def test_signals_are_proxied(engine: Engine, api: Connection) -> None:
    script = "trap 'echo term; exit 9' TERM; echo up; while :; do sleep 0.05; done"
    process = engine.spawn("run", "--name", "proxied", "bb", "sh", "-c", script)
    assert process.stdout is not None and process.stdout.readline() == b"up\n"
    process.terminate()
    out, _ = process.communicate(timeout=15)
    assert (out, process.returncode) == (b"term\n", 9)


def test_cli_run_it(engine: Engine) -> None:
    with terminal(engine, "run", "-it", "--rm", "bb", rows=31, columns=97) as tty:
        tty.expect(rb"/ # ")
        tty.type(b"tty\n")
        tty.expect(rb"/dev/(pts/0|console)")
        steps.eventually(lambda: size_seen(tty) == (31, 97))
        tty.resize(40, 120)
        steps.eventually(lambda: size_seen(tty) == (40, 120))
        tty.type(b"exit 5\n")
        assert tty.finish() == 5


def size_seen(tty: Terminal) -> tuple[int, int]:
    tty.type(b"stty size\n")
    match = tty.expect(rb"(\d+) (\d+)\r\n")
    return int(match[1]), int(match[2])


def test_ctrl_c_reaches_the_program(engine: Engine) -> None:
    with terminal(
        engine, "run", "-it", "--rm", "bb", "sh", "-c", "trap 'exit 8' INT; echo up; while :; do sleep 0.05; done"
    ) as tty:
        tty.expect(rb"up")
        tty.type(b"\x03")
        assert tty.finish() == 8


def test_detach_keys(engine: Engine, api: Connection) -> None:
    with terminal(engine, "run", "-it", "--name", "left", "bb") as tty:
        tty.expect(rb"/ # ")
        tty.type(b"\x10\x11")
        assert tty.finish() == 0
    assert steps.inspect(api, "left")["State"]["Running"]
    with terminal(engine, "attach", "--detach-keys", "ctrl-a,d", "left") as tty:
        tty.type(b"echo a$((1+1))b\n")
        tty.expect(rb"a2b")
        tty.type(b"\x01d")
        tty.expect(rb"read escape sequence")
        tty.finish()
    assert steps.inspect(api, "left")["State"]["Running"]


def test_detach_keys_of_the_api(engine: Engine, api: Connection) -> None:
    identifier = steps.create(api, "cat", Tty=True, OpenStdin=True)
    query = {"stream": 1, "stdin": 1, "stdout": 1, "detachKeys": "ctrl-x,y"}
    with engine.api() as own, own.hijack(f"/containers/{identifier}/attach", None, query) as stream:
        steps.start(api, identifier)
        stream.send(b"ab\n")
        stream.read_until(b"ab\r\nab\r\n")
        stream.send(b"\x18y")
        stream.read_all()
    assert steps.inspect(api, identifier)["State"]["Running"]
    wanted = {"event": ["detach"], "container": [identifier]}
    events = api.get("/events", since=str(time.time() - 5), until=str(time.time()), filters=wanted)
    assert [event["Actor"]["ID"] for event in events.lines()] == [identifier]


def test_invalid_detach_keys(engine: Engine, api: Connection) -> None:
    identifier = steps.started(api, "cat", Tty=True, OpenStdin=True)
    query = {"stream": 1, "stdin": 1, "detachKeys": "ctrl-nonsense"}
    answer = steps.expect(api.request("POST", f"/containers/{identifier}/attach", None, query), 400)
    assert "ctrl-nonsense" in answer.message


def test_resize(engine: Engine, api: Connection) -> None:
    identifier = steps.started(api, "sh", "-c", "while :; do stty size; sleep 0.05; done", Tty=True)
    assert api.post(f"/containers/{identifier}/resize", None, h=33, w=101).status == 200
    steps.eventually(lambda: "33 101" in api.get(f"/containers/{identifier}/logs", stdout=1).body.decode())


def test_resize_errors(engine: Engine, api: Connection) -> None:
    identifier = steps.create(api, "true", Tty=True)
    answer = api.post(f"/containers/{identifier}/resize", None, h=10, w=10)
    assert answer.status == 409 and "is not running" in answer.message
    assert api.post(f"/containers/{identifier}/resize", None, h="x", w=10).status == 400


def test_console_size_at_creation(engine: Engine, api: Connection) -> None:
    if engine.name == "dockerd":
        pytest.skip("20.10 has ConsoleSize on Windows only")
    identifier = steps.started(api, "stty", "size", Tty=True, host={"ConsoleSize": [45, 130]})
    steps.wait(api, identifier)
    assert api.get(f"/containers/{identifier}/logs", stdout=1).body == b"45 130\r\n"


def test_output_is_complete_and_in_order(engine: Engine, api: Connection) -> None:
    identifier = steps.create(api, "sh", "-c", "seq 1 100000")
    with (
        engine.api() as own,
        own.hijack(f"/containers/{identifier}/attach", None, {"stream": 1, "stdout": 1}) as stream,
    ):
        steps.start(api, identifier)
        out, _ = demultiplex(stream.read_all())
    assert out == b"".join(b"%d\n" % number for number in range(1, 100_001))


def test_a_client_that_does_not_read_stops_no_other(engine: Engine, api: Connection) -> None:
    """The program may block (Docker's does); the daemon and other containers may not."""
    identifier = steps.create(api, "sh", "-c", "seq 1 1000000")
    with engine.api() as own, own.hijack(f"/containers/{identifier}/attach", None, {"stream": 1, "stdout": 1}):
        steps.start(api, identifier)
        time.sleep(0.3)
        assert steps.run(api, "echo", "alive") == (0, "alive\n", "")


def test_frames_are_well_formed(engine: Engine, api: Connection) -> None:
    identifier = steps.create(api, "sh", "-c", "printf a; printf b >&2; dd if=/dev/zero bs=100000 count=3 2>/dev/null")
    with (
        engine.api() as own,
        own.hijack(f"/containers/{identifier}/attach", None, {"stream": 1, "stdout": 1, "stderr": 1}) as stream,
    ):
        steps.start(api, identifier)
        found = frames(stream.read_all())
    assert {kind for kind, _ in found} == {1, 2}
    assert sum(len(data) for kind, data in found if kind == 1) == 300_001
