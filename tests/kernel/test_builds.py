"""Builds without an API: what steps make, what the cache knows again, what is left after failures."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import aclosing, nullcontext
from pathlib import Path
from typing import Any

import pytest

from dockyard.engine import Engine
from dockyard.engine.builds import BuildFailed, BuildRequest
from dockyard.model.build import BuildOptions, TypedSpec, VertexDone, VertexLog, VertexStarted, Warned
from dockyard.model.container import Ulimit
from dockyard.model.errors import DockyardError, Forbidden, InvalidArgument
from dockyard.model.oci import Platform
from dockyard.proto.filters import Filters
from tests.support import busybox, loopfs
from tests.support.builds import File, Outcome, build, chunks, context, files_of
from tests.support.engineground import IMAGE, Ground, alive, fresh_ground, with_engine
from tests.support.fakeregistry import FakeRegistry

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")


@pytest.fixture
def ground() -> Iterator[Ground]:
    with fresh_ground() as ground:
        yield ground
        assert os.listdir(ground.data / "builds" / "contexts") == []


Body = Callable[[Engine], Coroutine[Any, Any, None]]


def nothing_left(ground: Ground) -> None:
    """No container of a step, no layer without a row, no temporary directory."""
    assert os.listdir(ground.run / "containers") == []
    assert os.listdir(ground.data / "snapshots" / "overlay" / "c") == []
    assert os.listdir(ground.data / "content" / "ingest") == []


# --- what steps make --------------------------------------------------------------------------------------------------


def test_a_whole_dockerfile(ground: Ground) -> None:
    dockerfile = f"""\
FROM {IMAGE} AS base
ARG WHO=world
ENV GREETING=hello
WORKDIR /srv/app
COPY --chown=dock:staff --chmod=0750 data/ ./
RUN echo "$GREETING $WHO" > greeting && id -u && pwd
USER dock
RUN id -un; touch /tmp/mine
FROM base AS unused
RUN exit 9
FROM base
COPY --from=base /srv/app/greeting /copied
LABEL a=b
CMD ["cat", "/copied"]
"""

    async def body(engine: Engine) -> None:
        files = {"data/one": b"1", "data/sub/two": File(b"2", 0o600), "data/link": File(link="sub/two")}
        told = await build(engine, dockerfile, files, tags=("made:1",), build_args={"WHO": "you"})
        assert "0\n/srv/app\n" in told.log and "dock\n" in told.log
        found = files_of(engine, told.image, "srv") | files_of(engine, told.image, "copied")
        assert found == {
            "copied": "0644 0:0 hello you",
            "srv/": "0755 0:0",
            "srv/app/": "0755 0:0",
            "srv/app/greeting": "0644 0:0 hello you",
            "srv/app/link": "-> sub/two",
            "srv/app/one": "0750 1000:50 1",
            "srv/app/sub/": "0750 1000:50",
            "srv/app/sub/two": "0750 1000:50 2",
        }
        image = engine.images.get("made:1")
        assert image.id == told.image and image.config.cmd == ["cat", "/copied"] and image.labels == {"a": "b"}
        assert image.config.working_dir == "/srv/app" and image.config.user == "dock"
        history = engine.images.history("made:1")
        assert sum(entry.size > 0 for entry in history) >= 3
        assert not [path for path in files_of(engine, told.image, "etc") if path.endswith(("hosts", "resolv.conf"))]
        nothing_left(ground)

    with_engine(ground, body)


def test_the_cache_knows_steps_again(ground: Ground) -> None:
    dockerfile = f"FROM {IMAGE}\nRUN echo a > /a\nCOPY one /one\nRUN cat /one > /b\n"

    async def again(engine: Engine, one: File, **options: Any) -> tuple[int, str]:
        told = await build(engine, dockerfile, {"one": one}, **options)
        return len(told.cached()), told.image

    images: list[str] = []

    async def first(engine: Engine) -> None:
        assert (await again(engine, File(b"1")))[0] == 0
        cached, image = await again(engine, File(b"1"))
        assert cached == 3
        assert await again(engine, File(b"1", mtime=5)) == (3, image)  # a time is nothing
        assert await again(engine, File(b"1", uid=77)) == (3, image)  # files of a context are root's
        assert (await again(engine, File(b"2")))[0] == 1
        assert (await again(engine, File(b"1", 0o600)))[0] == 1
        assert (await again(engine, File(b"1"), no_cache=True))[0] == 0
        cached, image = await again(engine, File(b"1"))
        assert cached == 3
        images.append(image)

    async def after_a_restart(engine: Engine) -> None:
        assert await again(engine, File(b"1")) == (3, images[0])
        for listed in engine.images.list():
            if IMAGE not in listed.names:
                await engine.images.remove(listed.image.id, force=True)
        cached, image = await again(engine, File(b"1"))  # the cache has its own hold on layers
        assert cached == 3 and "1" in files_of(engine, image, "one")["one"]

    with_engine(ground, first)
    with_engine(ground, after_a_restart)


def test_a_step_that_fails(ground: Ground) -> None:
    dockerfile = f"FROM {IMAGE}\nRUN echo kept > /kept\nRUN echo words; echo no >&2; exit 7\nRUN echo never\n"

    async def body(engine: Engine) -> None:
        told = Outcome()
        with pytest.raises(BuildFailed, match=r"returned a non-zero code: 7$") as caught:
            await build(engine, dockerfile, outcome=told)
        assert caught.value.exit_code == 7
        assert "words\n" in told.log
        assert [event.stream for event in told.events if isinstance(event, VertexLog) and b"no" in event.data] == [
            "stderr"
        ]
        assert [event.error for event in told.events if isinstance(event, VertexDone) and "code: 7" in event.error]
        nothing_left(ground)
        again = await build(engine, f"FROM {IMAGE}\nRUN echo kept > /kept\n")
        assert len(again.cached()) == 1
        with pytest.raises(BuildFailed, match="/no/such/program"):
            await build(engine, f'FROM {IMAGE}\nRUN ["/no/such/program"]\n')
        with pytest.raises(BuildFailed, match=r"COPY failed.*stat missing: file does not exist"):
            await build(engine, f"FROM {IMAGE}\nCOPY missing /\n")
        nothing_left(ground)

    with_engine(ground, body)


def test_independent_stages_run_side_by_side_and_the_first_failure_ends_the_rest(ground: Ground) -> None:
    stages = "".join(f"FROM {IMAGE} AS s{n}\nRUN sleep 1; echo {n} > /n{n}\n" for n in range(4))
    dockerfile = stages + f"FROM {IMAGE}\n" + "".join(f"COPY --from=s{n} /n{n} /\n" for n in range(4))
    failing = f"FROM {IMAGE} AS slow\nRUN sleep 60\nFROM {IMAGE} AS bad\nRUN sleep 0.3; exit 3\n"
    failing += f"FROM {IMAGE} AS ok\nRUN echo ok > /ok\nFROM {IMAGE}\nCOPY --from=slow / /s\nCOPY --from=bad / /b\n"
    failing += "COPY --from=ok /ok /\n"

    async def body(engine: Engine) -> None:
        told = await build(engine, dockerfile)
        runs = {vertex for vertex, name in told.names().items() if "sleep 1" in name}
        order = [
            type(e).__name__ for e in told.events if isinstance(e, VertexStarted | VertexDone) and e.vertex in runs
        ]
        assert order == ["VertexStarted"] * 4 + ["VertexDone"] * 4
        assert files_of(engine, told.image, "n3") == {"n3": "0644 0:0 3"}
        begun = time.monotonic()
        with pytest.raises(BuildFailed) as caught:
            await build(engine, failing)
        assert caught.value.exit_code == 3 and time.monotonic() - begun < 10
        nothing_left(ground)
        told = await build(engine, f"FROM {IMAGE} AS ok\nRUN echo ok > /ok\n")
        assert len(told.cached()) == 1

    with_engine(ground, body)


def test_builds_at_once_do_a_common_step_once(ground: Ground) -> None:
    dockerfile = f"FROM {IMAGE}\nRUN sleep 0.7; cat /proc/sys/kernel/random/uuid | tee /id\n"

    async def body(engine: Engine) -> None:
        first, second = await asyncio.gather(
            build(engine, dockerfile + "LABEL a=1\n"), build(engine, dockerfile + "LABEL a=2\n")
        )
        assert first.log == second.log and first.image != second.image
        assert files_of(engine, first.image, "id") == files_of(engine, second.image, "id")
        leaving = asyncio.ensure_future(build(engine, dockerfile.replace("0.7", "0.8")))
        staying = asyncio.ensure_future(build(engine, dockerfile.replace("0.7", "0.8")))
        await asyncio.sleep(0.4)
        leaving.cancel()
        assert (await staying).image
        with pytest.raises(asyncio.CancelledError):
            await leaving
        nothing_left(ground)

    with_engine(ground, body)


def test_who_stops_listening_ends_the_build(ground: Ground) -> None:
    async def body(engine: Engine) -> None:
        data = context({"Dockerfile": f"FROM {IMAGE}\nRUN echo up; sleep 60\n"})
        begun = time.monotonic()
        async with aclosing(engine.builds.build(BuildRequest(BuildOptions()), chunks(data))) as events:
            async for event in events:
                if isinstance(event, VertexLog):
                    break
        nothing_left(ground)
        task = asyncio.ensure_future(
            build(engine, f"FROM {IMAGE}\nRUN echo up; sleep 60\n", request={"build_id": "mine"})
        )
        await asyncio.sleep(0.5)
        await engine.builds.cancel("mine")
        await engine.builds.cancel("nobody")
        with pytest.raises((asyncio.CancelledError, DockyardError)):
            await task
        assert time.monotonic() - begun < 20
        nothing_left(ground)

    with_engine(ground, body)


# --- RUN --------------------------------------------------------------------------------------------------------------


def test_run_mounts(ground: Ground) -> None:
    dockerfile = f"""\
FROM {IMAGE} AS tools
RUN mkdir -p /t/sub && echo tool > /t/sub/tool && ln -s /t/sub /alias
FROM {IMAGE}
RUN --mount=type=bind,target=/ctx,rw cat /ctx/file && echo more > /ctx/file && cat /ctx/file && mkdir /ctx/new
RUN --mount=type=bind,source=file,target=/only cat /only; echo x > /only || echo refused
RUN --mount=type=bind,from=tools,source=/alias,target=/tools cat /tools/tool; touch /tools/x || echo read-only
RUN --mount=type=bind,from=tools,target=/whole,rw touch /whole/x && ls /whole/t/sub
RUN --mount=type=cache,id=c,target=/cache,uid=1000,mode=0770 ls -ld /cache; echo one >> /cache/log
RUN --mount=type=cache,id=c,target=/other cat /other/log
RUN --mount=type=cache,id=filled,from=tools,source=/t,target=/f cat /f/sub/tool && echo y > /f/sub/tool
RUN --mount=type=tmpfs,target=/scratch,size=65536 df -k /scratch | tail -1 && echo z > /scratch/z
RUN --mount=type=secret,id=key --mount=type=secret,id=key,env=KEY,target=/run/k ls -l /run/secrets/key && \\
 cat /run/secrets/key && test "$KEY" = value && df /run/secrets/key | grep -c tmpfs
RUN <<EOT
echo first
echo second > /second
EOT
RUN <<-"EOT" cat > /third
\tas it is $HOME
EOT
"""

    async def body(engine: Engine) -> None:
        ids = frozenset({"key"})
        files = {"file": b"content\n"}
        told = await build(engine, dockerfile, files, request={"secrets": {"key": b"value"}}, secret_ids=ids)
        log = told.log
        assert "content\nmore\n" in log and "refused" in log and "tool\n" in log and "read-only" in log
        assert "drwxrwx---" in log and "one\n" in log and "first\n" in log
        assert files_of(engine, told.image, "second")["second"].endswith("second")
        assert files_of(engine, told.image, "third")["third"].endswith("as it is $HOME")
        for place in ("ctx", "only", "tools", "whole", "cache", "other", "f", "scratch", "run/secrets", "dev/pipes"):
            assert not files_of(engine, told.image, place), place
        again = await build(engine, dockerfile, files, secret_ids=ids)
        assert again.image == told.image  # a secret's value, or its absence, is nothing to the cache
        nothing_left(ground)

    with_engine(ground, body)


def test_s45_secrets_are_in_no_layer_history_cache_or_log(ground: Ground, monkeypatch: pytest.MonkeyPatch) -> None:
    secret = b"hunter2-8d1f"
    dockerfile = f"FROM {IMAGE}\nRUN --mount=type=secret,id=k --mount=type=secret,id=k,env=K wc -c /run/secrets/k\n"
    monkeypatch.setenv("DOCKYARD_TEST_SECRET", secret.decode())

    async def body(engine: Engine) -> None:
        request = {"secrets": {"k": secret}}
        told = await build(engine, dockerfile, request=request, secret_ids=frozenset({"k"}))
        assert secret.decode() not in repr(told.events)
        assert secret.decode() not in repr(BuildRequest(BuildOptions(), secrets={"k": secret}))
        told = await build(engine, f"FROM {IMAGE}\nRUN env\n", no_cache=True)
        assert secret.decode() not in told.log  # the daemon's environment is its own
        with pytest.raises(InvalidArgument, match="secret gone"):
            await build(engine, f"FROM {IMAGE}\nRUN --mount=type=secret,id=gone,required=true true\n")

    with_engine(ground, body)
    for path in (*ground.data.rglob("*"), *ground.run.rglob("*")):
        if path.is_file() and not path.is_symlink():
            assert secret not in path.read_bytes(), path


def test_cache_mounts_shared_private_and_locked(ground: Ground) -> None:
    def stage(name: str, sharing: str) -> str:
        run = "ls /c | wc -l; touch /c/$NAME; sleep 0.5; ls /c | wc -l"
        mount = f"--mount=type=cache,id=x,sharing={sharing},target=/c"
        return f"FROM {IMAGE} AS {name}\nENV NAME={name}\nRUN {mount} {run}\n"

    def whole(sharing: str) -> str:
        last = f"FROM {IMAGE}\nCOPY --from=a /etc/passwd /a\nCOPY --from=b /etc/passwd /b\n"
        return stage("a", sharing) + stage("b", sharing) + last

    async def body(engine: Engine) -> None:
        mounts = ground.data / "builds" / "mounts"
        await build(engine, whole("shared"))
        assert len(os.listdir(mounts)) == 1
        begun = time.monotonic()
        await build(engine, whole("locked"))
        assert time.monotonic() - begun > 1
        assert len(os.listdir(mounts)) == 1
        await build(engine, whole("private"))
        assert len(os.listdir(mounts)) == 2
        await build(engine, whole("private"), no_cache=True)
        assert len(os.listdir(mounts)) == 2

    with_engine(ground, body)


def test_s42_privileges_need_to_be_granted(ground: Ground) -> None:
    async def body(engine: Engine) -> None:
        for flag, entitlement in (("--security=insecure", "security.insecure"), ("--network=host", "network.host")):
            dockerfile = f"FROM {IMAGE}\nRUN {flag} grep CapEff /proc/self/status; readlink /proc/self/ns/net\n"
            with pytest.raises((Forbidden, InvalidArgument), match=entitlement):
                await build(engine, dockerfile)
            told = await build(engine, dockerfile, allow=frozenset({entitlement}))
            if entitlement == "network.host":
                assert os.readlink("/proc/self/ns/net") in told.log
            else:
                assert "00000000a80425fb" not in told.log
        nothing_left(ground)

    with_engine(ground, body)


def test_limits_of_a_build_reach_its_containers(ground: Ground) -> None:
    async def body(engine: Engine) -> None:
        told = await build(
            engine,
            f"FROM {IMAGE}\nRUN ulimit -n; df -k /dev/shm | tail -1; grep example /etc/hosts; hostname\n"
            "RUN cat /sys/fs/cgroup/memory/memory.limit_in_bytes /sys/fs/cgroup/memory.max 2>/dev/null || true\n",
            ulimits=(Ulimit("nofile", 77, 77),),
            shm_size=1 << 20,
            extra_hosts=("example.test:10.1.2.3",),
            memory=96 << 20,
        )
        assert "77\n" in told.log and " 1024 " in told.log and "10.1.2.3\texample.test" in told.log
        assert str(96 << 20) in told.log

    with_engine(ground, body)


def test_base_images_are_pulled(ground: Ground) -> None:
    async def body(engine: Engine) -> None:
        async with FakeRegistry() as registry:
            registry.add_image([busybox.rootfs_tar(), busybox.layer_tar({"version": b"1"})])
            dockerfile = f"FROM {registry.host}/team/base\nRUN cat /version\n"
            told = await build(engine, dockerfile)
            assert told.log == "1" and any("pulling" in name for name in told.names().values())
            registry.add_image([busybox.rootfs_tar(), busybox.layer_tar({"version": b"2"})])
            told = await build(engine, dockerfile)
            assert len(told.cached()) == 1  # what is here is taken
            told = await build(engine, dockerfile, pull=True)
            assert told.log == "2"
            with pytest.raises(DockyardError, match=r"team/nothing"):
                await build(engine, f"FROM {registry.host}/team/nothing:1\n")

    with_engine(ground, body)


# --- outputs ----------------------------------------------------------------------------------------------------------


def test_squash_and_a_reproducible_image(ground: Ground) -> None:
    dockerfile = f"""\
FROM {IMAGE}
RUN mkdir /a && echo 1 > /a/one && echo 2 > /a/two && ln /a/two /a/linked
RUN rm /a/one /www/index.html && rm -r /home && echo changed > /etc/group
COPY data /data/in
RUN rm -rf /a && mkdir /a && echo 3 > /a/three
"""
    files = {"data": b"d"}

    async def body(engine: Engine) -> None:
        plain = await build(engine, dockerfile, files)
        squashed = await build(engine, dockerfile, files, squash=True)
        layers = engine.context.snapshots.chain(engine.images.get(squashed.image).chain_id)
        assert len(layers) == 2
        assert files_of(engine, squashed.image) == files_of(engine, plain.image)
        assert "a/three" in files_of(engine, squashed.image) and "home/" not in files_of(engine, squashed.image)
        history = engine.images.history(squashed.image)
        assert history[0].comment.startswith("merge ")
        again = await build(engine, dockerfile, files, squash=True)
        assert again.image == squashed.image
        first = await build(engine, dockerfile, files, no_cache=True, source_date_epoch=1_700_000_000)
        second = await build(engine, dockerfile, files, no_cache=True, build_args={"SOURCE_DATE_EPOCH": "1700000000"})
        assert first.image == second.image and first.carried_out()
        image = engine.images.get(first.image)
        assert image.created == 1_700_000_000 * 10**9
        for layer in engine.context.snapshots.chain(image.chain_id)[:-1]:
            tree = engine.context.snapshots.tree_of(layer)
            for directory, names, others in os.walk(tree):
                for name in (*names, *others):
                    assert os.lstat(f"{directory}/{name}").st_mtime <= 1_700_000_000

    with_engine(ground, body)


@pytest.mark.parametrize("driver", ["btrfs", "vfs"])
def test_without_overlay(tmp_path: Path, driver: str) -> None:
    """The same steps, mounts and squashing where layers are whole trees."""
    dockerfile = f"""\
FROM {IMAGE} AS made
RUN mkdir /a && echo 1 > /a/one && ln /a/one /a/two && rm /www/index.html && chmod 700 /home
FROM {IMAGE}
COPY --from=made /a /copied
COPY --chown=dock data /data/in
WORKDIR /new/place
RUN --mount=from=made,source=/a,target=/m,rw cat /m/one && touch /m/three && rm /copied/two
RUN --mount=target=/ctx cat /ctx/data && ls /new && rm -r /home
"""

    def built(place: Path) -> dict[str, str]:
        ground, found = Ground(), {}
        shutil.rmtree(ground.data)
        ground.data, ground.driver = place / "data", driver

        async def body(engine: Engine) -> None:
            told = await build(engine, dockerfile, {"data": b"d"})
            assert "1\n" in told.log and "place\n" in told.log
            found.update(files_of(engine, told.image))
            assert len((await build(engine, dockerfile, {"data": b"d"})).cached()) == 6
            squashed = await build(engine, dockerfile, {"data": b"d"}, squash=True)
            assert files_of(engine, squashed.image) == found
            assert len(engine.context.snapshots.chain(engine.images.get(squashed.image).chain_id)) == 2
            assert os.listdir(ground.run / "containers") == []

        with_engine(ground, body)
        shutil.rmtree(ground.run)
        return found

    with loopfs.mounted("btrfs", tmp_path, 400) if driver == "btrfs" else nullcontext(tmp_path) as place:
        found = built(place)
    assert found["copied/one"] == "0644 0:0 1" and "copied/two" not in found and found["data/in"] == "0644 1000:1000 d"
    assert "www/index.html" in found and "home/" not in found and "new/place/" in found and "m/three" not in found


def test_a_cache_goes_from_host_to_host_through_a_registry(ground: Ground) -> None:
    dockerfile = f"""\
FROM {IMAGE} AS tool
RUN echo tool > /tool
FROM {IMAGE}
COPY data /data
RUN cat /proc/sys/kernel/random/uuid > /unique
COPY --from=tool /tool /tool
"""
    files = {"data": b"d"}
    everything = TypedSpec("registry", {"ref": "", "mode": "max"})

    def at(host: str, spec: TypedSpec = everything) -> TypedSpec:
        return TypedSpec(spec.type, {**spec.fields, "ref": f"{host}/team/cache:all"})

    async def there(host: str, elsewhere: Ground) -> None:
        async with elsewhere.engine() as other:
            told = await build(other, dockerfile, files, cache_from=(at(host),))
            assert not [event for event in told.events if isinstance(event, Warned)]
            assert len(told.cached()) == 4 and told.carried_out() == []
            unique.append(files_of(other, told.image, "unique")["unique"])
            images.append(told.image)
            await other.builds.prune(all=True)
            inlined = TypedSpec("registry", {"ref": f"{host}/team/app:1"})
            told = await build(other, dockerfile, files, cache_from=(inlined,), no_cache_filter=("tool",))
            assert len(told.cached()) == 3 and len(told.carried_out()) == 1  # inline tells of the result's steps only
            missing = TypedSpec("registry", {"ref": f"{host}/team/nothing:no"})
            told = await build(other, dockerfile + "RUN true\n", files, cache_from=(missing,))
            assert any("team/nothing" in event.text for event in told.events if isinstance(event, Warned))

    unique: list[str] = []
    images: list[str] = []

    async def body(engine: Engine) -> None:
        async with FakeRegistry() as registry:
            name = f"{registry.host}/team/app:1"
            push = TypedSpec("image", {"push": "true"})
            told = await build(engine, dockerfile, files, cache_to=(at(registry.host),))
            unique.append(files_of(engine, told.image, "unique")["unique"])
            images.append(told.image)
            inline = (TypedSpec("inline"),)
            await build(engine, dockerfile, files, cache_to=inline, tags=(name,), outputs=(push,))
            elsewhere = Ground()
            try:
                await there(registry.host, elsewhere)
            finally:
                shutil.rmtree(elsewhere.data)
                shutil.rmtree(elsewhere.run)

    with_engine(ground, body)
    assert unique[0] == unique[1] and images[0] == images[1]


def test_images_of_several_platforms(ground: Ground) -> None:
    dockerfile = f"""\
FROM --platform=$BUILDPLATFORM {IMAGE} AS compiler
ARG TARGETARCH
RUN echo "for $TARGETARCH" > /out
FROM scratch
COPY --from=compiler /out /out
"""

    async def body(engine: Engine) -> None:
        async with FakeRegistry() as registry:
            name = f"{registry.host}/team/app:1"
            both = ("linux/arm64", "linux/amd64")
            told = await build(engine, dockerfile, platforms=both, tags=("local:1",))
            named = engine.images.get("local:1")
            assert named.architecture == "amd64" and told.result.digest.startswith("sha256:")
            other = engine.images.get_for("local:1", Platform("arm64", "linux"))
            assert files_of(engine, named.id)["out"].endswith("for amd64")
            assert files_of(engine, other.id)["out"].endswith("for arm64") and other.architecture == "arm64"
            assert len(engine.images.variants(named)) == 2
            push = TypedSpec("image", {"push": "true"})
            told = await build(engine, dockerfile, platforms=both, tags=(name,), outputs=(push,))
            index = json.loads(registry.manifests["1"][1])
            assert [entry["platform"]["architecture"] for entry in index["manifests"]] == ["arm64", "amd64"]
            manifest = json.loads(registry.manifests[index["manifests"][0]["digest"]][1])
            assert manifest["layers"][0]["mediaType"].endswith("+gzip")
            assert told.result.digest == f"sha256:{hashlib.sha256(registry.manifests['1'][1]).hexdigest()}"
            with pytest.raises(DockyardError):
                await build(engine, f"FROM {IMAGE}\nRUN true\n", platforms=("linux/s390x",))

    with_engine(ground, body)


# --- the cache as something that takes space --------------------------------------------------------------------------


def test_prune_and_usage(ground: Ground) -> None:
    async def body(engine: Engine) -> None:
        cache = "--mount=type=cache,target=/c,id=big"
        await build(engine, f"FROM {IMAGE}\nRUN {cache} dd if=/dev/zero of=/c/f bs=1k count=300; echo x > /one\n")
        kept = await build(engine, f"FROM {IMAGE}\nRUN dd if=/dev/zero of=/kept bs=1k count=200\n", tags=("kept:1",))
        for listed in engine.images.list():
            if not listed.names:
                await engine.images.remove(listed.image.id)
        records = {
            record.description.partition("RUN ")[2][:5] or record.type: record for record in await engine.builds.usage()
        }
        mount = next(record for record in records.values() if record.type == "exec.cachemount")
        assert mount.size >= 300 << 10 and not mount.in_use and mount.usage_count >= 1
        shared = [record for record in records.values() if record.shared]
        assert len(shared) == 1 and shared[0].size == 200 << 10
        assert await engine.builds.prune(Filters({"id": ["nothing"]})) == ([], 0)
        assert await engine.builds.prune(Filters({"until": ["1h"]})) == ([], 0)
        assert await engine.builds.prune(maximum=10 << 20) == ([], 0)
        with pytest.raises(InvalidArgument):
            await engine.builds.prune(Filters({"color": ["red"]}))
        gone, freed = await engine.builds.prune(Filters({"type": ["exec.cachemount"]}))
        assert gone == [mount.id] and freed >= 300 << 10 and os.listdir(ground.data / "builds" / "mounts") == []
        gone, freed = await engine.builds.prune()
        assert len(gone) >= 1 and shared[0].id not in gone and freed == 2
        assert len((await build(engine, f"FROM {IMAGE}\nRUN dd if=/dev/zero of=/kept bs=1k count=200\n")).cached()) == 1
        slow = asyncio.ensure_future(build(engine, f"FROM {IMAGE}\nRUN {cache} echo started; sleep 1; touch /c/mine\n"))
        await asyncio.sleep(0.4)
        gone, _ = await engine.builds.prune(all=True)
        assert shared[0].id in gone
        assert (await slow).image  # what it uses was left alone
        assert len(os.listdir(ground.data / "builds" / "mounts")) == 1
        await engine.builds.prune(all=True)
        assert await engine.builds.usage() == [] and engine.images.get("kept:1").id == kept.image
        assert "kept" in files_of(engine, kept.image, "kept")

    with_engine(ground, body)


# --- crashes and full disks -------------------------------------------------------------------------------------------


def until_it_sleeps(ground: Ground) -> int:
    """The pid of the RUN that sleeps, once it does."""
    for _ in range(400):
        for state in (ground.run / "containers").glob("*/state.json"):
            try:
                pid = int(json.loads(state.read_bytes())["pid"])
                if b"1000" in Path(f"/proc/{pid}/cmdline").read_bytes():
                    return pid
            except (OSError, ValueError):
                continue  # it has just begun, or ended
        time.sleep(0.05)
    raise AssertionError("the step never slept")


def test_what_a_killed_daemon_leaves_of_a_build_is_swept(ground: Ground) -> None:
    """A child process is the daemon; it is killed in the middle of a RUN."""
    script = f"""\
import asyncio, sys
from tests.support.builds import build
from tests.support.engineground import Ground
from pathlib import Path
ground = Ground.__new__(Ground)
ground.data, ground.run, ground.driver = Path(sys.argv[1]), Path(sys.argv[2]), ""
async def main():
    async with ground.engine() as engine:
        text = "FROM {IMAGE}\\nRUN echo done > /first\\nRUN --mount=type=secret,id=k sleep 1000\\n"
        await build(engine, text, request=dict(secrets=dict(k=b"forgotten-secret")), secret_ids=frozenset({{"k"}}))
asyncio.run(main())
"""
    daemon = subprocess.Popen([sys.executable, "-c", script, str(ground.data), str(ground.run)])
    places = ground.data / "snapshots" / "overlay" / "c"
    try:
        pid = until_it_sleeps(ground)
        assert alive(pid)
    finally:
        daemon.kill()
        daemon.wait()
    assert os.listdir(places) and alive(pid)

    async def body(engine: Engine) -> None:
        assert not alive(pid)
        nothing_left(ground)
        assert len((await build(engine, f"FROM {IMAGE}\nRUN echo done > /first\n")).cached()) == 1
        assert not [name for name in os.listdir("/dev/shm") if "dockyard-secrets" in name]

    with_engine(ground, body)


def test_a_full_disk_leaves_nothing(tmp_path: Path) -> None:
    place = tmp_path / "disk"
    place.mkdir()
    with loopfs.mounted("ext4", place, 96) as disk:
        ground = Ground()
        shutil.rmtree(ground.data)
        ground.data = disk / "data"

        async def body(engine: Engine) -> None:
            before = sorted(os.listdir(ground.data / "snapshots" / "overlay" / "l"))
            with pytest.raises((BuildFailed, DockyardError)):
                await build(engine, f"FROM {IMAGE}\nRUN dd if=/dev/zero of=/big bs=1M count=200\n")
            with pytest.raises(DockyardError):
                await build(engine, f"FROM {IMAGE}\nCOPY big /big\n", {"big": b"x" * (100 << 20)})
            nothing_left(ground)
            assert sorted(os.listdir(ground.data / "snapshots" / "overlay" / "l")) == before
            assert os.listdir(ground.data / "builds" / "contexts") == []
            engine.context.layout.drain()
            assert (await build(engine, f"FROM {IMAGE}\nRUN echo small > /small\n")).image

        with_engine(ground, body)
        shutil.rmtree(ground.run)
