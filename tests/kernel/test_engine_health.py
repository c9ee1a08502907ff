"""Health checks, restart on unhealthy, time-outs of execs and run times, on the real kernel."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from dockyard.engine import Engine
from dockyard.engine.container import Container
from dockyard.engine.execs import ExecConfig
from dockyard.model.container import HealthConfig, HostConfig, RestartPolicy
from dockyard.model.errors import Conflict
from dockyard.model.lifecycle import State
from dockyard.proto.filters import Filters
from tests.support.engineground import (
    Ground,
    alive,
    fresh_ground,
    log_of,
    read_all,
    run,
    until,
    with_engine,
)

MS = 1_000_000


@pytest.fixture
def ground() -> Iterator[Ground]:
    with fresh_ground() as made:
        yield made


def check(*test: str, interval: int = 50, retries: int = 2, **more: int) -> HealthConfig:
    """Intervals in ms."""
    more = {name: value * MS for name, value in more.items()}
    return HealthConfig(test=list(test), interval=interval * MS, retries=retries, **more)


def status_of(container: Container) -> str:
    health = container.status.health
    return health.status if health is not None else "none"


def actions(engine: Engine, container: Container) -> list[str]:
    return [event.action for event in engine.events._ring if event.actor_id == container.id]


def test_from_starting_over_healthy_to_unhealthy(ground: Ground) -> None:
    async def body(engine: Engine) -> None:
        script = "echo looking; test -e /ok"
        name = await run(engine, "sleep", "1000", healthcheck=check("CMD-SHELL", script, timeout=2000))
        container = engine.containers.get(name)
        assert status_of(container) == "starting"
        assert engine.containers.list(Filters({"health": ["starting"]})) == [container]
        await until(lambda: status_of(container) == "unhealthy")
        assert container.status.health is not None
        assert container.status.health.failing_streak == 2
        first = container.status.health.log[0]
        assert (first.exit_code, first.output) == (1, "looking\n") and first.start < first.end
        stream = await engine.execs.start(await engine.execs.create(name, ExecConfig(cmd=["touch", "/ok"])))
        assert stream is not None
        await read_all(stream)
        await until(lambda: status_of(container) == "healthy")
        assert container.status.health.failing_streak == 0
        assert engine.containers.list(Filters({"health": ["healthy"]})) == [container]
        told = actions(engine, container)
        assert [action for action in told if action.startswith("health")] == [
            "health_status: unhealthy", "health_status: healthy",
        ]  # fmt: skip
        assert f"exec_create: /bin/sh -c {script}" in told and "exec_die" in told
        await engine.containers.stop(name, timeout=0)
        assert status_of(container) == "unhealthy"  # as Docker
        count = len(actions(engine, container))
        await asyncio.sleep(0.2)
        assert len(actions(engine, container)) == count
        assert len(engine.execs._execs) == 1  # that of the test: probes are not kept

    with_engine(ground, body)


def test_a_probe_that_hangs_is_ended_with_all_that_it_started(ground: Ground) -> None:
    async def body(engine: Engine) -> None:
        script = "echo begun; (setsid sleep 4321 &) ; sleep 4321"
        name = await run(engine, "sleep", "1000", healthcheck=check("CMD-SHELL", script, retries=1, timeout=150))
        container = engine.containers.get(name)
        await until(lambda: status_of(container) == "unhealthy")
        assert container.status.health is not None
        result = container.status.health.log[0]
        assert (result.exit_code, result.output) == (-1, "Health check exceeded timeout (150ms): begun\n")
        assert 140 * MS < result.end - result.start < 2000 * MS
        assert container.handle is not None
        engine.health.close()  # no probe begins any more

        async def commands() -> list[bytes]:
            assert container.handle is not None
            return [Path(f"/proc/{pid}/cmdline").read_bytes() for pid in await container.handle.pids() if alive(pid)]

        for _ in range(200):
            if not any(b"4321" in line for line in await commands()):
                break
            await asyncio.sleep(0.02)
        assert not any(b"4321" in line for line in await commands())

    with_engine(ground, body)


def test_a_probe_that_cannot_run_or_talks_too_much(ground: Ground) -> None:
    async def body(engine: Engine) -> None:
        missing = await run(engine, "sleep", "1000", healthcheck=check("CMD", "/no/such", retries=1))
        chatty = await run(engine, "sleep", "1000", healthcheck=check("CMD-SHELL", "yes | head -c 100000"))
        one, other = (engine.containers.get(ref) for ref in (missing, chatty))
        await until(lambda: status_of(one) == "unhealthy" and status_of(other) == "healthy")
        assert one.status.health is not None and other.status.health is not None
        assert one.status.health.log[0].exit_code == -1 and "/no/such" in one.status.health.log[0].output
        assert other.status.health.log[0].output == "y\n" * 2048 + "..."

    with_engine(ground, body)


def test_health_goes_on_with_the_next_daemon(ground: Ground) -> None:
    async def main() -> None:
        async with ground.engine() as engine:
            name = await run(engine, "sleep", "1000", healthcheck=check("CMD-SHELL", "test ! -e /bad", retries=1))
            await until(lambda: status_of(engine.containers.get(name)) == "healthy")
            await asyncio.sleep(0.1)
        async with ground.engine() as engine:
            container = engine.containers.get(name)
            assert status_of(container) == "healthy"
            stream = await engine.execs.start(await engine.execs.create(name, ExecConfig(cmd=["touch", "/bad"])))
            assert stream is not None
            await read_all(stream)
            await until(lambda: status_of(container) == "unhealthy")

    asyncio.run(main())


def test_restart_on_unhealthy(ground: Ground) -> None:
    async def body(engine: Engine) -> None:
        host = HostConfig(network_mode="none", restart_policy=RestartPolicy("no", 2, True))
        name = await run(
            engine, "sh", "-c", "echo up; trap 'exit 0' TERM; while :; do sleep 0.02; done",
            host=host, healthcheck=check("CMD", "false"),
        )  # fmt: skip
        container = engine.containers.get(name)
        status = container.status
        await until(lambda: container.running and status.restart_count == 2 and status_of(container) == "unhealthy", 20)
        await asyncio.sleep(0.3)
        assert container.running  # it has been tried often enough
        assert (await log_of(engine, name)).count(b"up\n") == 3
        told = actions(engine, container)
        assert told.count("die") == 2 and told.count("start") == 3 and "stop" not in told

    with_engine(ground, body)


# --- execs ---


@pytest.mark.vm
def test_an_exec_is_killed_with_all_that_it_started(ground: Ground) -> None:
    async def body(engine: Engine) -> None:
        name = await run(engine, "sleep", "1000")
        container = engine.containers.get(name)
        script = (
            "(setsid sh -c 'trap : TERM; sleep 4322' &); trap 'echo got' USR1; echo ready; while :; do sleep 0.05; done"
        )
        config = ExecConfig(cmd=["sh", "-c", script], attach_stdout=True)
        exec_id = await engine.execs.create(name, config)
        with pytest.raises(Conflict, match="is not running"):
            await engine.execs.kill(exec_id)
        stream = await engine.execs.start(exec_id)
        assert stream is not None
        loop = asyncio.get_running_loop()
        assert b"ready" in await loop.sock_recv(stream, 100)
        await engine.execs.kill(exec_id, "USR1")
        assert b"got" in await loop.sock_recv(stream, 100)
        assert container.handle is not None
        before = await container.handle.pids()
        assert len(before) >= 3
        await engine.execs.kill(exec_id)
        await read_all(stream)
        instance = engine.execs.get(exec_id)
        await until(lambda: not instance.running)
        assert (instance.running, instance.exit_code, instance.timed_out) == (False, 137, False)
        await until(lambda: [pid for pid in before if alive(pid)] == [container.status.pid])
        with pytest.raises(Conflict, match="is not running"):
            await engine.execs.kill(exec_id)
        assert "exec_kill" in actions(engine, container) and container.running

    with_engine(ground, body)


def test_an_exec_ends_at_its_time_also_without_a_daemon(ground: Ground) -> None:
    async def main() -> None:
        async with ground.engine() as engine:
            name = await run(engine, "sleep", "1000")
            config = ExecConfig(cmd=["sh", "-c", "(setsid sleep 4323 &); exec sleep 4323"], timeout=200 * MS)
            exec_id = await engine.execs.create(name, config)
            assert await engine.execs.start(exec_id, detach=True) is None
            await until(lambda: not engine.execs.get(exec_id).running)
            assert (engine.execs.get(exec_id).exit_code, engine.execs.get(exec_id).timed_out) == (137, True)
            longer = ExecConfig(cmd=["sh", "-c", "(setsid sleep 4324 &); exec sleep 4324"], timeout=900 * MS)
            await engine.execs.start(await engine.execs.create(name, longer), detach=True)
            await asyncio.sleep(0.1)  # the subshell has gone
            handle = engine.containers.get(name).handle
            assert handle is not None
            pids = [pid for pid in await handle.pids() if pid != handle.started["pid"]]
            assert pids and all(alive(pid) for pid in pids)
        await asyncio.sleep(1.2)
        assert not any(alive(pid) for pid in pids)
        async with ground.engine() as engine:
            assert engine.containers.get(name).running

    asyncio.run(main())


@pytest.mark.vm
def test_execs_leave_no_control_groups(ground: Ground) -> None:
    async def body(engine: Engine) -> None:
        name = await run(engine, "sleep", "1000")
        for script in ("true", "(sleep 0.3 &)", "true", "exec /no/such"):
            with contextlib.suppress(Exception):
                await engine.execs.start(await engine.execs.create(name, ExecConfig(cmd=["sh", "-c", script])))
        await asyncio.sleep(0.5)
        stream = await engine.execs.start(await engine.execs.create(name, ExecConfig(cmd=["true"])))
        assert stream is not None
        await read_all(stream)
        await asyncio.sleep(0.05)
        root = Path("/sys/fs/cgroup")
        assert not [*root.glob(f"*/dockyard/{name}/exec-*"), *root.glob(f"dockyard/{name}/exec-*")]

    with_engine(ground, body)


# --- run times ---


def test_maximum_runtime(ground: Ground) -> None:
    async def body(engine: Engine) -> None:
        host = HostConfig(network_mode="none", maximum_runtime=300 * MS, restart_policy=RestartPolicy("always"))
        script = "trap 'echo told; exit 3' TERM; while :; do sleep 0.02; done"
        name = await run(engine, "sh", "-c", script, host=host)
        container = engine.containers.get(name)
        result = await asyncio.wait_for(engine.containers.wait(name, "next-exit"), 10)
        assert result.code == 3 and result.error == "maximum run time of 300ms exceeded"
        await asyncio.sleep(0.3)
        assert (container.state, container.status.error) == (State.EXITED, result.error)
        assert "max_runtime" in actions(engine, container)
        await engine.containers.start(name)
        assert container.status.error == ""

    with_engine(ground, body)


def test_maximum_runtime_counts_over_a_restart_of_the_daemon(ground: Ground) -> None:
    async def main() -> None:
        async with ground.engine() as engine:
            host = HostConfig(network_mode="none", maximum_runtime=500 * MS)
            name = await run(engine, "sleep", "1000", host=host, stop_timeout=0)
        await asyncio.sleep(0.6)
        async with ground.engine() as engine:
            container = engine.containers.get(name)
            await until(lambda: container.state is State.EXITED, 5)
            assert container.status.error == "maximum run time of 500ms exceeded"

    asyncio.run(main())


# --- the daemon's start ---


def reboot(ground: Ground, pids: list[int]) -> None:
    """What a new daemon finds when the host has been restarted: rows as they were, no process, no exec root."""
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):  # it has gone with the pid namespace that it shared
            os.kill(pid, 9)
        while alive(pid):
            time.sleep(0.01)
    time.sleep(0.1)  # the monitors have written their records
    shutil.rmtree(ground.run / "containers")


def test_after_a_reboot_those_needed_come_first(ground: Ground) -> None:
    """Networks, pid namespaces and volumes of others; `on-failure` counts a reboot as a failure."""

    async def main() -> None:
        names = ("base", "joined", "third", "plain", "stopped", "enough")
        async with ground.engine() as engine:
            base = await run(engine, "sleep", "1000", name="base", host=policy("always", volume=True))
            joined = await run(engine, "sleep", "1000", name="joined", host=policy("on-failure", 3, network=base))
            await run(engine, "sleep", "1000", name="third", host=policy("unless-stopped", pid=joined, volumes="base"))
            await run(engine, "sleep", "1000", name="plain", host=policy("no"))
            await run(engine, "sleep", "1000", name="stopped", host=policy("unless-stopped"))
            await engine.containers.stop("stopped", timeout=0)
            await run(engine, "false", name="enough", host=policy("on-failure", 1))
            await until(lambda: engine.containers.get("enough").state is State.EXITED)
            pids = [engine.containers.get(name).status.pid for name in ("base", "joined", "third", "plain")]
            await asyncio.sleep(0.1)  # their rows are written
        reboot(ground, pids)
        async with ground.engine() as engine:
            found = {name: engine.containers.get(name) for name in names}
            await until(lambda: all(found[name].running for name in ("base", "joined", "third")))
            started = [event.actor_id for event in engine.events._ring if event.action == "start"]
            assert started == [found[name].id for name in ("base", "joined", "third")]
            assert {name for name in names if not found[name].running} == {"plain", "stopped", "enough"}
            assert [found[name].status.exit_code for name in ("plain", "stopped", "enough")] == [255, 137, 1]
            network = {os.readlink(f"/proc/{found[name].status.pid}/ns/net") for name in ("base", "joined")}
            assert len(network) == 1
            assert found["enough"].status.restart_count == 1 and found["base"].status.restart_count == 0

    asyncio.run(main())


def policy(
    name: str, count: int = 0, *, network: str = "", pid: str = "", volumes: str = "", volume: bool = False
) -> HostConfig:
    return HostConfig(
        network_mode=f"container:{network}" if network else "none",
        pid_mode=f"container:{pid}" if pid else "",
        volumes_from=[volumes] if volumes else None,
        restart_policy=RestartPolicy(name, count),
        binds=["/data"] if volume else None,
    )


def test_one_that_waits_for_its_restart_is_started_by_the_next_daemon(ground: Ground) -> None:
    async def main() -> None:
        async with ground.engine() as engine:
            name = await run(
                engine, "sh", "-c", "test -e /ok && exec sleep 1000; touch /ok; exit 1", host=policy("on-failure", 5)
            )
            await until(lambda: engine.containers.get(name).state is State.RESTARTING)
            await asyncio.sleep(0.03)
        async with ground.engine() as engine:
            container = engine.containers.get(name)
            await until(lambda: container.running)
            assert container.status.restart_count == 1

    asyncio.run(main())


# --- memory ---


@pytest.mark.vm
def test_out_of_memory_is_told_of_a_child(ground: Ground) -> None:
    """Each time, while the first process goes on (cgroup v1: by an eventfd, v2: by inotify); not at the end again."""

    async def body(engine: Engine) -> None:
        script = "tail /dev/zero; sleep 0.3; tail /dev/zero; exec sleep 1000"
        host = HostConfig(network_mode="none", memory=16 << 20, memory_swap=16 << 20)
        name = await run(engine, "sh", "-c", script, host=host)
        container = engine.containers.get(name)
        await until(lambda: actions(engine, container).count("oom") == 2)
        assert container.running
        await engine.containers.kill(name)
        await until(lambda: not container.running)
        assert actions(engine, container).count("oom") == 2 and container.status.oom_killed

    with_engine(ground, body)
