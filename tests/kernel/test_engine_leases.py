"""Leases and changes in place, on engines without an API."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from dockyard.engine import Engine
from dockyard.engine.execs import ExecConfig
from dockyard.engine.extensions import LEASE
from dockyard.engine.updating import Update
from dockyard.model.container import HostConfig, RestartPolicy
from dockyard.model.errors import Conflict, DockyardError, InvalidArgument, NotFound
from dockyard.model.lifecycle import State
from tests.support.engineground import Ground, fresh_ground, make, read_all, run, with_engine

MS = 1_000_000


@pytest.fixture
def ground() -> Iterator[Ground]:
    with fresh_ground() as made:
        yield made


def names(engine: Engine) -> set[str]:
    return {container.name for container in engine.containers.list(all=True)}


async def until_gone(engine: Engine, lease: str) -> None:
    for _ in range(500):
        try:
            engine.leases.get(lease)
        except NotFound:
            return
        await asyncio.sleep(0.01)
    raise AssertionError("the lease has not ended")


def test_everything_goes_with_its_lease(ground: Ground) -> None:
    async def body(engine: Engine) -> None:
        lease = (await engine.leases.create(60_000 * MS)).id
        label = {LEASE: lease}
        host = HostConfig(network_mode="none", binds=["made:/data", "kept:/kept"])
        await engine.volumes.create("kept", "", None, None)
        await engine.volumes.create("own", "", None, label)
        await run(engine, "sleep", "1000", name="up", host=host, labels=label, volumes={"/anonymous": {}})
        await make(engine, "true", name="down", labels=label)
        await make(engine, "true", name="other")
        found = engine.leases.belongings(engine.leases.get(lease))
        assert len(found["Containers"]) == 2 and set(found["Volumes"]) == {"own", "made"}
        removed = await engine.leases.end(lease)
        assert sorted(map(len, removed.values())) == [0, 2, 2]
        assert names(engine) == {"other"}
        assert [volume.name for volume in engine.context.volumes.list()] == ["kept"]
        with pytest.raises(NotFound, match="No such lease"):
            await engine.leases.renew(lease)
        with pytest.raises(InvalidArgument, match="no such lease"):
            await make(engine, "true", labels=label)
        told = [event.action for event in engine.events._ring if event.type == "lease"]
        assert told == ["create", "end"]
        await engine.volumes.remove("kept", force=False)

    with_engine(ground, body)


def test_time_renewal_and_holders(ground: Ground) -> None:
    async def body(engine: Engine) -> None:
        lease = await engine.leases.create(200 * MS)
        await make(engine, "true", name="box", labels={LEASE: lease.id})
        for _ in range(4):
            await asyncio.sleep(0.1)
            await engine.leases.renew(lease.id)
        with engine.leases.hold(lease.id), engine.leases.hold(lease.id):
            await asyncio.sleep(0.4)
            assert lease.expires_at == 0 and lease.holders == 2 and names(engine) == {"box"}
        assert lease.expires_at > 0 and names(engine) == {"box"}
        await until_gone(engine, lease.id)
        assert names(engine) == set()
        with pytest.raises(InvalidArgument, match="less than 100ms"):
            await engine.leases.create(MS)

    with_engine(ground, body)


def test_a_creation_at_the_leases_end_is_not_missed(ground: Ground) -> None:
    async def body(engine: Engine) -> None:
        for _ in range(5):
            lease = (await engine.leases.create(60_000 * MS)).id
            makings = [asyncio.ensure_future(make(engine, "true", labels={LEASE: lease})) for _ in range(4)]
            await asyncio.sleep(0)
            await engine.leases.end(lease)
            done = await asyncio.gather(*makings, return_exceptions=True)
            assert all(isinstance(each, str | InvalidArgument) for each in done)
            assert names(engine) == set()

    with_engine(ground, body)


def test_leases_outlive_the_daemon(ground: Ground) -> None:
    """One goes on with its whole time; one that was ending when the daemon was killed ends."""

    async def main() -> None:
        async with ground.engine() as engine:
            kept = await engine.leases.create(60_000 * MS)
            short = await engine.leases.create(300 * MS)
            cut = await engine.leases.create(60_000 * MS)
            for name, lease in (("kept", kept), ("short", short), ("cut", cut)):
                await run(engine, "sleep", "1000", name=name, labels={LEASE: lease.id})
            cut.row.ending = True
            await engine.context.leases._store.save(cut.row)
        async with ground.engine() as engine:
            await until_gone(engine, cut.id)
            assert names(engine) >= {"kept"} and "cut" not in names(engine)
            await until_gone(engine, short.id)
            assert names(engine) == {"kept"}
            assert engine.leases.get(kept.id).expires_at > 0

    asyncio.run(main())


def test_what_cannot_be_removed_is_tried_again(ground: Ground) -> None:
    async def body(engine: Engine) -> None:
        lease = (await engine.leases.create(60_000 * MS)).id
        await engine.volumes.create("shared", "", None, {LEASE: lease})
        stranger = HostConfig(network_mode="none", binds=["shared:/data"])
        await make(engine, "true", name="stranger", host=stranger)
        assert (await engine.leases.end(lease))["Volumes"] == []
        assert engine.leases.get(lease).row.ending
        await engine.containers.remove("stranger")
        await until_gone(engine, lease)
        assert not engine.context.volumes.list()

    with_engine(ground, body)


# --- changes in place ---


def test_update(ground: Ground) -> None:
    async def body(engine: Engine) -> None:
        name = await run(engine, "sleep", "1000", env=["A=1", "B=2"], labels={"x": "1", "y": "2"}, stop_timeout=0)
        container = engine.containers.get(name)
        change = Update(
            restart_policy=RestartPolicy("on-failure", 3),
            on_unhealthy=True,
            labels={"x": None, "z": "3"},
            env=["A=9", "C=3", "B"],
        )
        assert await engine.containers.update(name, change) == []
        assert container.host.restart_policy == RestartPolicy("on-failure", 3, True)
        assert container.labels == {"y": "2", "z": "3"}
        exec_id = await engine.execs.create(name, ExecConfig(cmd=["sh", "-c", "echo $A$B$C"], attach_stdout=True))
        stream = await engine.execs.start(exec_id)
        assert stream is not None and (await read_all(stream)).endswith(b"93\n")
        await engine.containers.update(name, Update(restart_policy=RestartPolicy("always")))
        assert container.host.restart_policy == RestartPolicy("always", 0, True)  # a client of Docker's says no more
        for wrong in (
            Update(restart_policy=RestartPolicy("sometimes")),
            Update(labels={LEASE: "x"}),
            Update(labels={"dockyard.max-runtime": "soon"}, env=["A=10"]),
            Update(env=["=x"]),
            Update(maximum_runtime=-1),
        ):
            with pytest.raises(InvalidArgument):
                await engine.containers.update(name, wrong)
        assert container.config.env == ["PATH=/bin", "A=9", "C=3"] or "A=9" in (container.config.env or [])
        await engine.containers.update(name, Update(restart_policy=RestartPolicy("no"), maximum_runtime=MS))
        for _ in range(500):
            if container.state is State.EXITED:
                break
            await asyncio.sleep(0.01)
        assert container.status.error == "maximum run time of 1ms exceeded"
        assert [event.action for event in engine.events._ring].count("update") == 3

    with_engine(ground, body)


def test_update_is_kept_and_refused_where_docker_refuses(ground: Ground) -> None:
    async def main() -> None:
        async with ground.engine() as engine:
            await make(engine, "true", name="box")
            auto = HostConfig(network_mode="none", auto_remove=True)
            await make(engine, "true", name="auto", host=auto)
            await engine.containers.update("box", Update(labels={"dockyard.max-runtime": "1h", "a": "b"}))
            with pytest.raises(Conflict, match="AutoRemove is enabled"):
                await engine.containers.update("auto", Update(restart_policy=RestartPolicy("always")))
            await engine.containers.remove("auto")
        async with ground.engine() as engine:
            container = engine.containers.get("box")
            assert container.labels["a"] == "b" and container.host.maximum_runtime == 3600 * 1000 * MS

    asyncio.run(main())


def test_labels_give_settings_but_an_images_labels_do_not(ground: Ground) -> None:
    async def body(engine: Engine) -> None:
        labels = {"dockyard.restart-on-unhealthy": "true", "dockyard.max-runtime": "90s"}
        host = engine.containers.get(await make(engine, "true", labels=labels)).host
        assert host.restart_policy.on_unhealthy and host.maximum_runtime == 90_000 * MS
        for wrong in ({"dockyard.restart-on-unhealthy": "maybe"}, {"dockyard.max-runtime": "-1s"}):
            with pytest.raises(DockyardError):
                await make(engine, "true", labels=wrong)

    with_engine(ground, body)
