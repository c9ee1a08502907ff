"""The engine without an API: containers, execs, logs, and what a new engine finds of an old one's containers."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import socket
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from dockyard.engine import Engine
from dockyard.engine.execs import ExecConfig
from dockyard.engine.logs import LogRequest
from dockyard.model.container import ContainerConfig, HostConfig, Mount, RestartPolicy
from dockyard.model.errors import Conflict, DockyardError, InvalidArgument, NotFound, NotModified
from dockyard.model.lifecycle import State
from dockyard.proto.filters import Filters
from dockyard.runtime import cgroups
from dockyard.runtime.link import StartFailed
from tests.support.engineground import (
    IMAGE,
    NO_NETWORK,
    Ground,
    alive,
    frame,
    fresh_ground,
    log_of,
    make,
    monitor_of,
    read_all,
    run,
    until,
    until_logged,
    with_engine,
)


@pytest.fixture
def ground() -> Iterator[Ground]:
    with fresh_ground() as made:
        yield made


# --- the life of a container ---


def test_a_run_from_creation_to_removal(ground: Ground) -> None:
    async def body(engine: Engine) -> None:
        heard = engine.events.subscribe(filters=Filters({"type": ["container"]}))
        created = await make(engine, "sh", "-c", "echo out; echo err >&2; exit 3", name="box")
        stream = await engine.containers.attach("box", stdout=True, stderr=True)
        ended = engine.containers.wait("box", "next-exit")
        await engine.containers.start("box")
        assert (await ended).code == 3
        assert sorted(await read_all(stream)) == sorted(frame(1, b"out\n") + frame(2, b"err\n"))
        status = engine.containers.get("box").status
        assert (status.state, status.exit_code, status.pid) == (State.EXITED, 3, 0)
        assert status.finished_at >= status.started_at > 0
        assert sorted(await log_of(engine, created)) == sorted(frame(1, b"out\n") + frame(2, b"err\n"))
        gone = engine.containers.wait("box", "removed")
        await engine.containers.remove("box")
        assert (await gone).code == 3
        actions = [(await anext(heard)) for _ in range(5)]
        assert [event.action for event in actions] == ["create", "attach", "start", "die", "destroy"]
        assert actions[3].attributes == {"execDuration": "0", "exitCode": "3", "image": IMAGE, "name": "box"}
        with pytest.raises(NotFound, match="No such container: box"):
            engine.containers.get("box")

    with_engine(ground, body)
    assert not ground.left()


def test_an_auto_removed_container_leaves_nothing(ground: Ground) -> None:
    async def body(engine: Engine) -> None:
        host = HostConfig(network_mode="none", auto_remove=True)
        container_id = await make(engine, "sh", "-c", "exit 7", host=host)
        gone = engine.containers.wait(container_id, "removed")
        await engine.containers.start(container_id)
        assert (await gone).code == 7

    with_engine(ground, body)
    assert not ground.left()


def test_many_at_once(ground: Ground) -> None:
    async def body(engine: Engine) -> None:
        async def one(number: int) -> int:
            host = HostConfig(network_mode="none", auto_remove=True)
            container_id = await make(engine, "sh", "-c", f"exit {number}", host=host)
            gone = engine.containers.wait(container_id, "removed")
            await engine.containers.start(container_id)
            return (await gone).code

        assert await asyncio.gather(*(one(number) for number in range(24))) == list(range(24))

    with_engine(ground, body)
    assert not ground.left()


@pytest.mark.parametrize(
    ("command", "code", "words"),
    [("nosuch", 127, "executable file not found in $PATH"), ("/etc/passwd", 126, "permission denied")],
)
def test_a_program_that_cannot_run(ground: Ground, command: str, code: int, words: str) -> None:
    async def body(engine: Engine) -> None:
        await make(engine, command, name="bad")
        with pytest.raises(StartFailed, match=words.replace("$", r"\$")) as caught:
            await engine.containers.start("bad")
        assert caught.value.exit_code == code
        status = engine.containers.get("bad").status
        assert (status.state, status.exit_code) == (State.CREATED, code)
        assert words in status.error
        await engine.containers.remove("bad")

    with_engine(ground, body)
    assert not ground.left()


def test_stop_kill_restart(ground: Ground) -> None:
    async def body(engine: Engine) -> None:
        await run(engine, "sh", "-c", "trap 'exit 5' TERM; echo ready; while :; do sleep 0.05; done", name="box")
        await until_logged(engine, "box", b"ready")
        with pytest.raises(NotModified):
            await engine.containers.start("box")
        await engine.containers.stop("box", timeout=5)
        assert engine.containers.get("box").status.exit_code == 5
        with pytest.raises(NotModified):
            await engine.containers.stop("box")
        with pytest.raises(Conflict, match=r"cannot kill container: box: container .* is not running"):
            await engine.containers.kill("box")
        await engine.containers.restart("box", timeout=0)
        await until_logged(engine, "box", b"ready", times=2)
        first = engine.containers.get("box").status.pid
        await engine.containers.restart("box", timeout=5)
        assert engine.containers.get("box").status.pid != first
        await engine.containers.kill("box", "SIGKILL")
        assert engine.containers.get("box").status.exit_code == 137

    with_engine(ground, body)


def test_a_stop_that_is_not_heard_kills_after_its_time(ground: Ground) -> None:
    async def body(engine: Engine) -> None:
        await run(engine, "sleep", "1000", name="deaf")  # PID 1 without a handler
        began = time.monotonic()
        await engine.containers.stop("deaf", timeout=1)
        assert 0.9 < time.monotonic() - began < 5
        assert engine.containers.get("deaf").status.exit_code == 137

    with_engine(ground, body)


def test_a_forced_removal_does_not_wait_for_a_stop(ground: Ground) -> None:
    async def body(engine: Engine) -> None:
        await run(engine, "sleep", "1000", name="deaf")
        stopping = asyncio.ensure_future(engine.containers.stop("deaf", timeout=60))
        await asyncio.sleep(0.1)
        began = time.monotonic()
        await engine.containers.remove("deaf", force=True)
        await stopping
        assert time.monotonic() - began < 10

    with_engine(ground, body)
    assert not ground.left()


def test_pause(ground: Ground) -> None:
    async def body(engine: Engine) -> None:
        await run(engine, "sleep", "1000", name="box")
        await engine.containers.pause("box")
        assert engine.containers.get("box").state is State.PAUSED
        for refused in (engine.containers.pause, engine.containers.start, engine.containers.remove):
            with pytest.raises(Conflict):
                await refused("box")
        with pytest.raises(Conflict, match="is paused, unpause the container before exec"):
            await engine.execs.create("box", ExecConfig(cmd=["true"]))
        await engine.containers.unpause("box")
        await engine.containers.pause("box")
        await engine.containers.kill("box")  # a frozen one is thawed to die
        assert engine.containers.get("box").status.exit_code == 137

    with_engine(ground, body)


def test_races_end_in_one_state(ground: Ground) -> None:
    async def body(engine: Engine) -> None:
        await make(engine, "sleep", "1000", name="box")
        calls = [engine.containers.start("box") for _ in range(6)]
        results = await asyncio.gather(*calls, return_exceptions=True)
        assert sum(result is None for result in results) == 1
        assert all(result is None or isinstance(result, NotModified) for result in results)
        removals = [engine.containers.remove("box", force=True) for _ in range(4)]
        results = await asyncio.gather(*removals, engine.containers.kill("box"), return_exceptions=True)
        assert sum(result is None for result in results[:4]) == 1
        assert all(result is None or isinstance(result, DockyardError) for result in results), results

    with_engine(ground, body)
    assert not ground.left()


def test_names(ground: Ground) -> None:
    async def body(engine: Engine) -> None:
        first = await make(engine, "true", name="box")
        await make(engine, "true", name="yet")
        with pytest.raises(Conflict) as caught:
            await make(engine, "true", name="box")
        assert str(caught.value) == (
            f'Conflict. The container name "/box" is already in use by container "{first}". '
            "You have to remove (or rename) that container to be able to reuse that name."
        )
        with pytest.raises(Conflict):
            await engine.containers.rename("yet", "box")
        await engine.containers.rename("box", "zed")
        assert engine.containers.get("/zed").id == engine.containers.get(first[:12]).id == first
        twins = await asyncio.gather(*(make(engine, "true", name="same") for _ in range(5)), return_exceptions=True)
        assert sum(isinstance(twin, str) for twin in twins) == 1
        assert await make(engine, "true", name="box")

    with_engine(ground, body)


def test_bad_creations_leave_nothing(ground: Ground) -> None:
    bad: list[tuple[ContainerConfig, HostConfig, type[Exception]]] = [
        (ContainerConfig(image="nosuch"), NO_NETWORK, NotFound),
        (ContainerConfig(image=IMAGE), HostConfig(binds=["/a:/x", "/b:/x"]), InvalidArgument),
        (ContainerConfig(image=IMAGE, volumes={"/v": {}}), HostConfig(cap_add=["NOSUCH"]), InvalidArgument),
        (ContainerConfig(image=IMAGE), HostConfig(mounts=[Mount("/x", "/no/such/dir", "bind")]), InvalidArgument),
        (ContainerConfig(image=IMAGE, volumes={"/v": {}}), HostConfig(pid_mode="container:none"), InvalidArgument),
        (ContainerConfig(image=IMAGE, entrypoint=[""]), NO_NETWORK, InvalidArgument),
    ]

    async def body(engine: Engine) -> None:
        for config, host, kind in bad:
            with pytest.raises(kind):
                await engine.containers.create(config, host, name="free")
        assert await make(engine, "true", name="free")
        await engine.containers.remove("free")

    with_engine(ground, body)
    assert not ground.left()
    assert not os.listdir(ground.data / "volumes")


def test_volumes_and_binds(ground: Ground) -> None:
    source = ground.data / "bound" / "new"

    async def body(engine: Engine) -> None:
        host = HostConfig(network_mode="none", binds=[f"{source}:/b", "named:/n", "/anon"], tmpfs={"/t": "size=1m"})
        await run(
            engine, "sh", "-c", "echo 1 > /b/f; echo 2 > /n/f; echo 3 > /anon/f; echo 4 > /t/f", name="box", host=host
        )
        await engine.containers.wait("box")
        assert engine.containers.get("box").status.exit_code == 0, await log_of(engine, "box")
        points = {point.destination: point for point in engine.containers.get("box").mounts}
        assert (source / "f").read_text() == "1\n"
        assert Path(points["/n"].source, "f").read_text() == "2\n"
        assert Path(points["/anon"].source, "f").read_text() == "3\n"
        await engine.containers.remove("box", volumes=True)
        assert os.listdir(ground.data / "volumes") == ["named"]

    with_engine(ground, body)


def test_a_mount_source_that_went_away_fails_the_start(ground: Ground) -> None:
    source = ground.data / "there"
    source.mkdir()

    async def body(engine: Engine) -> None:
        await make(
            engine, "true", name="box", host=HostConfig(network_mode="none", mounts=[Mount("/b", str(source), "bind")])
        )
        source.rmdir()
        with pytest.raises(InvalidArgument, match="bind source path does not exist"):
            await engine.containers.start("box")
        assert engine.containers.get("box").state is State.CREATED

    with_engine(ground, body)


# --- streams, execs, logs ---


def test_stdin_of_an_attached_container(ground: Ground) -> None:
    async def body(engine: Engine) -> None:
        await make(engine, "cat", name="box", open_stdin=True, stdin_once=True)
        stream = await engine.containers.attach("box", stdin=True, stdout=True, stderr=True)
        await engine.containers.start("box")
        loop = asyncio.get_running_loop()
        await loop.sock_sendall(stream, b"hello")
        stream.shutdown(socket.SHUT_WR)
        assert await read_all(stream) == frame(1, b"hello")
        assert (await engine.containers.wait("box")).code == 0

    with_engine(ground, body)


def test_s51_clients_that_attach_and_vanish_before_the_start(ground: Ground) -> None:
    async def body(engine: Engine) -> None:
        await make(engine, "true", name="box")
        before = len(os.listdir("/proc/self/fd"))
        for _ in range(200):
            (await engine.containers.attach("box", stdout=True)).close()
        assert len(os.listdir("/proc/self/fd")) <= before + 1
        await engine.containers.start("box")
        await engine.containers.wait("box")

    with_engine(ground, body)


def test_exec(ground: Ground) -> None:
    async def body(engine: Engine) -> None:
        await run(engine, "sleep", "1000", name="box", env=["A=1"])
        heard = engine.events.subscribe()
        config = ExecConfig(cmd=["sh", "-c", "echo $A $B; exit 4"], env=["B=2"], attach_stdout=True)
        exec_id = await engine.execs.create("box", config)
        assert engine.containers.get("box").exec_ids == [exec_id]
        stream = await engine.execs.start(exec_id)
        assert stream is not None
        assert await read_all(stream) == frame(1, b"1 2\n")
        actions = [await anext(heard) for _ in range(3)]
        command = "sh -c echo $A $B; exit 4"
        assert [event.action for event in actions] == [f"exec_create: {command}", f"exec_start: {command}", "exec_die"]
        assert actions[2].attributes["exitCode"] == "4"
        instance = engine.execs.get(exec_id)
        assert (instance.running, instance.exit_code) == (False, 4)
        with pytest.raises(Conflict):
            await engine.execs.start(exec_id)
        with pytest.raises(InvalidArgument, match="No exec command specified"):
            await engine.execs.create("box", ExecConfig())
        for command, code in (("nosuch", 127), ("/etc/passwd", 126)):
            exec_id = await engine.execs.create("box", ExecConfig(cmd=[command]))
            with pytest.raises(StartFailed, match="OCI runtime exec failed: exec failed: ") as caught:
                await engine.execs.start(exec_id)
            assert caught.value.exit_code == engine.execs.get(exec_id).exit_code == code
        await engine.containers.remove("box", force=True)
        with pytest.raises(NotFound, match="No such exec instance"):
            engine.execs.get(exec_id)

    with_engine(ground, body)


def test_a_followed_log_ends_with_its_container(ground: Ground) -> None:
    async def body(engine: Engine) -> None:
        await run(engine, "sh", "-c", "for i in 1 2 3; do echo $i; sleep 0.1; done; printf end", name="box", tty=True)
        assert await asyncio.wait_for(log_of(engine, "box", follow=True), 20) == b"1\r\n2\r\n3\r\nend"
        assert await log_of(engine, "box", tail=1) == b"end"
        with pytest.raises(InvalidArgument):
            engine.logs.read("box", LogRequest(stdout=False, stderr=False))

    with_engine(ground, body)


def test_top_shows_the_containers_processes(ground: Ground) -> None:
    async def body(engine: Engine) -> None:
        await run(engine, "sh", "-c", "sleep 998 & sleep 999", name="box")
        sleeping: list[str] = []
        for _ in range(200):  # a busy machine takes its time
            titles, processes = await engine.containers.top("box")
            assert titles[1] == "PID"
            sleeping = sorted(row[-1] for row in processes if row[-1] in ("sleep 998", "sleep 999"))
            if len(sleeping) == 2:
                break
            await asyncio.sleep(0.05)
        assert sleeping == ["sleep 998", "sleep 999"]
        await engine.containers.kill("box")
        with pytest.raises(Conflict):
            await engine.containers.top("box")

    with_engine(ground, body)


# --- restart policies ---


def test_on_failure_tries_so_often(ground: Ground) -> None:
    async def body(engine: Engine) -> None:
        host = HostConfig(network_mode="none", restart_policy=RestartPolicy("on-failure", 2))
        await make(engine, "sh", "-c", "echo again; exit 1", name="box", host=host)
        ended = engine.containers.wait("box", "next-exit")
        await engine.containers.start("box")
        await ended
        status = engine.containers.get("box").status
        while status.state is not State.EXITED:
            await asyncio.wait_for(engine.containers.wait("box", "not-running"), 20)
        assert (status.state, status.restart_count, status.exit_code) == (State.EXITED, 2, 1)
        assert await log_of(engine, "box") == frame(1, b"again\n") * 3

    with_engine(ground, body)


def test_a_stopped_one_stays_down(ground: Ground) -> None:
    async def body(engine: Engine) -> None:
        host = HostConfig(network_mode="none", restart_policy=RestartPolicy("always"))
        await run(engine, "true", name="box", host=host)
        for _ in range(200):
            if engine.containers.get("box").status.restart_count:
                break
            await asyncio.sleep(0.02)
        await engine.containers.stop("box", timeout=0)
        await asyncio.sleep(0.5)
        assert engine.containers.get("box").state is State.EXITED

    with_engine(ground, body)


# --- another engine on the same ground ---


def test_running_containers_are_found_again(ground: Ground) -> None:
    async def main() -> None:
        async with ground.engine() as engine:
            await run(engine, "sh", "-c", "while :; do echo tick; sleep 0.05; done", name="box")
            await run(engine, "sleep", "1000", name="frozen")
            await engine.containers.pause("frozen")
            pid = engine.containers.get("box").status.pid
        async with ground.engine() as engine:
            container = engine.containers.get("box")
            assert (container.state, container.status.pid) == (State.RUNNING, pid)
            assert engine.containers.get("frozen").state is State.PAUSED
            exec_id = await engine.execs.create("box", ExecConfig(cmd=["echo", "hi"], attach_stdout=True))
            stream = await engine.execs.start(exec_id)
            assert stream is not None and await read_all(stream) == frame(1, b"hi\n")
            await engine.containers.stop("box", timeout=0)
            assert container.status.exit_code == 137

    asyncio.run(main())


def test_what_ended_meanwhile_is_known_with_its_code_and_time(ground: Ground) -> None:
    async def main() -> None:
        async with ground.engine() as engine:
            container_id = await run(engine, "sh", "-c", "sleep 0.5; echo late; exit 9", name="box")
            auto = HostConfig(network_mode="none", auto_remove=True)
            await run(engine, "sleep", "0.5", name="auto", host=auto)
        await asyncio.sleep(1.5)
        back = time.time_ns()
        async with ground.engine() as engine:
            heard = engine.events.subscribe(since=0)
            status = engine.containers.get("box").status
            assert (status.state, status.exit_code) == (State.EXITED, 9)
            assert status.started_at < status.finished_at < back - 500_000_000
            assert await log_of(engine, "box") == frame(1, b"late\n")
            found = [await anext(heard) for _ in range(4)]
            assert (container_id, "die") in {(event.actor_id, event.action) for event in found}
            for _ in range(100):
                if len(engine.containers.list(all=True)) == 1:
                    break
                await asyncio.sleep(0.01)
            with pytest.raises(NotFound):
                engine.containers.get("auto")

    asyncio.run(main())


def test_a_start_that_was_not_written_is_adopted(ground: Ground) -> None:
    async def main() -> None:
        async with ground.engine() as engine:
            await run(engine, "sleep", "1000", name="box")
            pid = engine.containers.get("box").status.pid
        with contextlib.closing(sqlite3.connect(ground.data / "dockyard.db")) as connection:
            connection.execute("""UPDATE containers SET status = '{"state":"created"}', desired = '{}'""")
            connection.commit()
        async with ground.engine() as engine:
            status = engine.containers.get("box").status
            assert (status.state, status.pid) == (State.RUNNING, pid)
            assert "none" in status.endpoints

    asyncio.run(main())


def test_a_container_without_a_row_is_ended(ground: Ground) -> None:
    async def main() -> None:
        async with ground.engine() as engine:
            container_id = await run(engine, "sleep", "1000", name="box")
            pid = engine.containers.get("box").status.pid
        with contextlib.closing(sqlite3.connect(ground.data / "dockyard.db")) as connection:
            connection.execute("DELETE FROM containers")
            connection.commit()
        async with ground.engine():
            assert not alive(pid)
            assert not (ground.run / "containers" / container_id).exists()
            assert not (ground.data / "containers" / container_id).exists()

    asyncio.run(main())


def test_after_a_restart_of_the_host(ground: Ground) -> None:
    async def main() -> None:
        async with ground.engine() as engine:
            for name, policy in (("plain", "no"), ("always", "always"), ("stopped", "unless-stopped")):
                host = HostConfig(network_mode="none", restart_policy=RestartPolicy(policy))
                await run(engine, "sleep", "1000", name=name, host=host)
            await engine.containers.stop("stopped", timeout=0)
            running = [engine.containers.get(name) for name in ("plain", "always")]
            monitors = [monitor_of(ground, container.id) for container in running]
            for container in running:
                os.kill(container.status.pid, signal.SIGKILL)
            await asyncio.sleep(0)
            engine.context.closing = True  # it never hears of their end
        await until(lambda: not any(alive(pid) for pid in monitors))
        for directory in (ground.run / "containers").iterdir():
            shutil.rmtree(directory)  # the exec root is on a tmpfs
        with contextlib.closing(sqlite3.connect(ground.data / "dockyard.db")) as connection:
            connection.execute(
                """UPDATE containers SET status = json_set(status, '$.state', 'running'),
                   desired = json_set(desired, '$.running', json('true')) WHERE name != 'stopped'"""
            )
            connection.commit()
        async with ground.engine() as engine:
            status = engine.containers.get("plain").status
            assert (status.state, status.exit_code) == (State.EXITED, 255)
            assert engine.containers.get("stopped").state is State.EXITED
            for _ in range(200):
                if engine.containers.get("always").running:
                    break
                await asyncio.sleep(0.02)
            assert engine.containers.get("always").running

    asyncio.run(main())


def test_what_a_killed_monitor_has_left_does_not_stop_a_start(ground: Ground) -> None:
    """Its control groups: empty, under the container's name."""

    async def body(engine: Engine) -> None:
        box = await make(engine, "sleep", "1000", name="box")
        left = cgroups.open_cgroup(f"/dockyard/{box}")
        left.create()
        await engine.containers.start("box")
        assert engine.containers.get("box").running
        await engine.containers.remove("box", force=True)
        await until(lambda: not any(os.path.exists(place) for place in left.directories().values()))

    with_engine(ground, body)


def test_s1_children_of_the_monitor_are_born_outside_the_container(ground: Ground) -> None:
    """Else the container's root could see, kill or trace a process that runs on the host's files."""

    async def body(engine: Engine) -> None:
        await run(engine, "sleep", "1000", name="box")
        exec_id = await engine.execs.create(
            "box", ExecConfig(cmd=["readlink", "/proc/self/ns/pid"], attach_stdout=True)
        )
        stream = await engine.execs.start(exec_id)
        assert stream is not None
        said = await read_all(stream)
        box = engine.containers.get("box")
        inside = os.readlink(f"/proc/{box.status.pid}/ns/pid")
        assert said == frame(1, inside.encode() + b"\n"), "an exec is inside"
        monitor = monitor_of(ground, box.id)
        outside = os.readlink("/proc/self/ns/pid")
        assert os.readlink(f"/proc/{monitor}/ns/pid_for_children") == outside != inside

    with_engine(ground, body)


def test_a_lost_monitor_ends_its_container(ground: Ground) -> None:
    async def body(engine: Engine) -> None:
        await run(engine, "sleep", "1000", name="box")
        pid = engine.containers.get("box").status.pid
        monitor = monitor_of(ground, engine.containers.get("box").id)
        ended = engine.containers.wait("box")
        os.kill(monitor, signal.SIGKILL)
        result = await asyncio.wait_for(ended, 20)
        assert (result.code, result.error) == (137, "monitor lost")
        assert not alive(pid)

    with_engine(ground, body)


# --- lists ---


def test_filters_of_the_list(ground: Ground) -> None:
    async def body(engine: Engine) -> None:
        first = await make(engine, "true", name="first", labels={"tier": "db"})
        await run(engine, "sleep", "1000", name="second", labels={"tier": "web"})
        await run(engine, "sh", "-c", "exit 3", name="third")
        await engine.containers.wait("third")

        def names(**filters: str | list[str]) -> list[str]:
            wanted = {key.replace("_", "-"): [v] if isinstance(v, str) else v for key, v in filters.items()}
            return [container.name for container in engine.containers.list(Filters(wanted), all=True)]

        assert [container.name for container in engine.containers.list()] == ["second"]
        assert [container.name for container in engine.containers.list(limit=2)] == ["third", "second"]
        assert names() == ["third", "second", "first"]
        assert names(status="created") == names(id=first[:20]) == names(label="tier=db") == ["first"]
        assert names(label="tier") == ["second", "first"]
        assert names(exited="3") == ["third"]
        assert names(name="s") == ["second", "first"]
        assert names(name="^/th") == ["third"]
        assert names(before="second") == ["first"]
        assert names(since="second") == ["third"]
        assert names(ancestor=IMAGE) == names(network="none") == names(health="none") == names()
        assert names(ancestor="other") == names(volume="v") == names(publish="80") == names(is_task="true") == []
        for filters in ({"status": "odd"}, {"nosuch": "box"}, {"exited": "box"}, {"publish": "x"}, {"health": "box"}):
            with pytest.raises(InvalidArgument):
                engine.containers.list(Filters({key: [value] for key, value in filters.items()}))

    with_engine(ground, body)


def test_prune(ground: Ground) -> None:
    async def body(engine: Engine) -> None:
        keep = await make(engine, "true", labels={"keep": "1"})
        await make(engine, "true")
        await run(engine, "sleep", "1000", name="up")
        assert (await engine.containers.prune(Filters({"until": ["1h"]}))).ids == []
        assert len((await engine.containers.prune(Filters({"label!": ["keep"]}))).ids) == 1
        assert {container.id for container in engine.containers.list(all=True)} == {
            keep, engine.containers.get("up").id,
        }  # fmt: skip

    with_engine(ground, body)
