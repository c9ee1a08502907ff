"""`python -m bench`: both engines at the same time on this machine, in turns, the same requests.

Each engine has a network namespace, a data root and an address range of its own. The work is done in blocks that take
turns, so that what else the machine does falls on both. `--quick` does a tenth of the runs; `--engine dockerd` or
`dockyardd` asks one alone.
"""

from __future__ import annotations

import argparse
import gzip
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from bench import builds, files, logs, registry, registry_server, scale, traces, volumes, watching, work
from bench.report import Row, table, write_json
from tests.support import busybox, steps
from tests.support.engines import Dockyardd, Engine, PeerDocker, docker_cli, why_no_dockyardd, why_no_peer
from tests.support.rawhttp import Connection

BLOCKS = 4
RUNS = {"dockyardd": 200, "dockerd": 32}
GONE_RUNS = {"dockyardd": 20, "dockerd": 4}


class Bench:
    """The engines that run, how often each is asked, the rows so far."""

    def __init__(self, engines: list[Engine], share: float) -> None:
        self.engines, self.share = engines, share
        self.rows: list[Row] = []

    def runs(self, engine: Engine, table_of: dict[str, int] | None = None) -> int:
        return max(BLOCKS, round((table_of or RUNS)[engine.name] * self.share))

    def row(self, title: str, unit: str, goal: float | None = None, limit: float | None = None) -> Row:
        self.rows.append(Row(title, unit, goal, limit))
        return self.rows[-1]

    @contextmanager
    def told(self, what: str) -> Iterator[None]:
        begun = time.monotonic()
        print(f"bench: {what} …", end="", flush=True)
        yield
        print(f" {time.monotonic() - begun:.1f} s", flush=True)

    def in_turns(self, row: Row, one: Callable[[Engine], Callable[[], float]], scale: float = 1000.0) -> None:
        """`one(engine)` makes what is then called again and again; blocks of the engines take turns."""
        with self.told(row.title):
            works = {engine.name: one(engine) for engine in self.engines}
            for engine in self.engines:
                works[engine.name]()  # warm
            for _ in range(BLOCKS):
                for engine in self.engines:
                    for _ in range(self.runs(engine) // BLOCKS):
                        row.add(engine.name, works[engine.name]() * scale)

    def few(self, row: Row, one: Callable[[Engine], float], times: int, scale: float) -> None:
        with self.told(row.title):
            for _ in range(times):
                for engine in self.engines:
                    row.add(engine.name, one(engine) * scale)


def containers(bench: Bench, apis: dict[str, Connection]) -> None:
    for title, settings, goal in (
        ("create+start+wait+remove, no network", work.NO_NETWORK, 15),
        ("the same on the bridge", work.BRIDGE, 12),
        ("the same with a published port", work.PORT, 12),
    ):
        row = bench.row(title, "ms", goal=goal)
        bench.in_turns(row, lambda engine, s=settings: lambda: work.run(apis[engine.name], s))
        gone = bench.row("   … and all of it is gone after", "ms")
        with bench.told("until process, mounts, cgroup, links and rules are gone"):
            for engine in bench.engines:
                seen = traces.Traces(engine, apis[engine.name])
                for _ in range(bench.runs(engine, GONE_RUNS)):
                    gone.add(engine.name, traces.gone_after(seen, apis[engine.name], settings) * 1000)


def execs(bench: Bench, apis: dict[str, Connection]) -> None:
    boxes = {engine.name: steps.started(apis[engine.name], "sleep", "100000") for engine in bench.engines}
    row = bench.row("exec echo", "ms", goal=6)
    bench.in_turns(row, lambda engine: lambda: work.execute(apis[engine.name], engine.api, boxes[engine.name]))
    for engine in bench.engines:
        steps.remove(apis[engine.name], boxes[engine.name])


def new_volumes(bench: Bench, apis: dict[str, Connection]) -> None:
    archive = volumes.archive()
    for engine in bench.engines:
        steps.expect(apis[engine.name].request("POST", "/images/load", raw=archive), 200)
    for title, target in (("empty", "/root"), (f"filled with {volumes.FILES} files of the image", "/data")):
        row = bench.row(f"create+start+wait+remove with a new volume, {title}", "ms", goal=5)
        bench.in_turns(row, lambda engine, at=target: lambda: volumes.run(apis[engine.name], at))  # type: ignore[misc]


def memory(bench: Bench) -> None:
    idle = bench.row("daemon, zygote, spares idle, PSS", "MB", limit=60)
    with bench.told(idle.title):
        time.sleep(1)
        for engine in bench.engines:
            weights = traces.daemon_pss(engine)
            idle.add(engine.name, sum(weights.values()) / 1e6)
            for name, weight in weights.items():
                print(f"\n       {weight / 1e6:7.1f} MB  {name}", end="")
    helper = bench.row("helper per container, private", "MB", limit=0.6)
    with bench.told(helper.title):
        for engine in bench.engines:
            helper.add(engine.name, traces.helper_memory(engine) / 1e6)


def archives(bench: Bench) -> bytes:
    """Import, load and save of some 200 MB; returns the archive."""
    data = work.import_tar()
    title = f"import of a {len(data) / 1e6:.0f} MB tar, {work.IMPORT_FILES} files"
    bench.few(bench.row(title, "s", goal=4), lambda engine: work.import_image(engine, data), 2, 1.0)
    packed = registry.image()
    plain, name = gzip.decompress(packed), f"{registry.HOST}/bench:1"
    loads = bench.row(f"load of a {len(plain) / 1e6:.0f} MB archive, {registry.LAYERS} layers", "s", goal=4)
    bench.few(loads, lambda engine: work.load_image(engine, plain, name), 3, 1.0)
    zipped = bench.row("load of it gzipped", "s", goal=4)
    bench.few(zipped, lambda engine: work.load_image(engine, packed, name), 2, 1.0)
    saves = bench.row("save of it", "s", goal=2)
    bench.few(saves, lambda engine: work.save_image(engine, plain, name), 3, 1.0)
    return packed


def copies(bench: Bench, apis: dict[str, Connection]) -> None:
    """Files out of a container and into it, images and copies made of it."""
    boxes = {engine.name: steps.started(apis[engine.name], "sleep", "100000") for engine in bench.engines}

    def of(engine: Engine) -> tuple[Connection, str]:
        return apis[engine.name], boxes[engine.name]

    few, data = max(2, round(6 * bench.share)), files.tree()
    row = bench.row("fork of an untouched container (dockerd: commit, create)", "ms", goal=5, limit=20)
    bench.few(row, lambda engine: files.fork(engine, *of(engine)), 3 * few, 1000)
    row = bench.row("cp of /etc/passwd out", "ms", goal=2)
    bench.few(row, lambda engine: files.get(*of(engine), "/etc/passwd", 1024), 3 * few, 1000)
    row = bench.row(f"cp of {len(data) / 1e6:.0f} MB in, {files.FILES} files", "s")
    bench.few(row, lambda engine: files.put(*of(engine), data), few, 1.0)
    row = bench.row("cp of them out", "s")
    bench.few(row, lambda engine: files.get(*of(engine), "/tmp/tree", files.BYTES), few, 1.0)
    row = bench.row("commit of them", "s")
    bench.few(row, lambda engine: files.commit(*of(engine)), few, 1.0)
    row = bench.row("fork of them (dockerd: commit, create)", "s")
    bench.few(row, lambda engine: files.fork(engine, *of(engine)), few, 1.0)
    for engine in bench.engines:
        steps.remove(*of(engine))


def registries(bench: Bench, archive: bytes) -> None:
    """Push of an image that is new to the registry, then pulls of it, cold each time."""
    if missing := registry.why_not():
        print(f"bench: without push and pull: {missing}", flush=True)
        return
    pushes = bench.row("push of a 200 MB image, 5 layers, to docker-registry", "s", goal=2)
    pulls = bench.row("pull of it, cold", "s", goal=4)
    with ExitStack() as stack:
        for engine in bench.engines:
            stack.enter_context(registry.registry(engine))
        # A registry that has a blob under any name is not sent it again by mounts: one push, the first, is cold.
        bench.few(pushes, lambda engine: registry.push(engine, archive, "first"), 1, 1.0)
        bench.few(pulls, lambda engine: registry.pull(engine, "first"), max(2, round(4 * bench.share)), 1.0)
        memory = bench.row("   … the most memory meanwhile, PSS of daemon and workers", "MB", limit=150)
        bench.few(memory, lambda engine: _peak_of_pull(engine), 1, 1e-6)
    with bench.told("our registry beside docker-registry"):
        bench.rows += registry_server.measured(quick=bench.share < 1)


def building(bench: Bench) -> None:
    """Each piece of work by our client and Docker's; dockerd's classic builder, then its BuildKit."""
    kinds = [("classic", False)] + ([("BuildKit", True)] if builds.buildkit_client() else [])
    times = max(1, round(3 * bench.share))
    for title, dockerfile, goals, more in (
        ("20 RUN steps", builds.STEPS, (12, 10), {}),
        ("4 stages of sleep 1", builds.SLEEPS, (None, None), {}),
        ("context of 20,000 files, COPY", builds.COPY, (2, 2), {"files": builds.FILES}),
        ("context of 1 GB, COPY", builds.COPY, (2, 2), {"big": builds.BIG}),
    ):
        with builds.context(dockerfile, **more) as root:
            for (kind, buildkit), goal in zip(kinds, goals, strict=False):
                row = bench.row(f"build: {title}, against {kind}", "s", goal=goal, limit=None if goal else 1.5)
                bench.few(row, partial(_built, root=root, buildkit=buildkit), 1 if more else times, 1.0)
    cached(bench, kinds)


def cached(bench: Bench, kinds: list[tuple[str, bool]]) -> None:
    """A build of which nothing has changed: by the API, and by clients, whose own start is most of it."""
    row = bench.row("build: 20 RUN steps, cached, API, against classic", "ms", goal=2)
    bench.few(row, builds.cached_request, max(3, round(20 * bench.share)), 1000.0)
    with builds.context(builds.STEPS) as root:
        for kind, buildkit in kinds:
            row = bench.row(f"build: the same by clients, against {kind}", "ms", goal=2 if buildkit else None)
            for engine in bench.engines:
                builds.build(engine, root, cached=True, buildkit=buildkit)
            again = partial(builds.build, root=root, cached=True, buildkit=buildkit)
            bench.few(row, again, max(3, round(10 * bench.share)), 1000.0)


def _built(engine: Engine, root: Path, buildkit: bool) -> float:
    seconds = builds.build(engine, root, buildkit=buildkit)
    builds.forget(engine)
    return seconds


def _peak_of_pull(engine: Engine) -> float:
    with traces.Peak(engine) as peak:
        registry.pull(engine, "first")
    return peak.bytes


def container_logs(bench: Bench) -> None:
    """A million lines written and read; a log of 1 GB searched."""
    times = max(2, round(4 * bench.share))
    row = bench.row("a container writes a million lines", "s", goal=2.5)
    bench.few(row, logs.write, times, 1.0)
    boxes = {engine.name: logs.written(engine)[0] for engine in bench.engines}
    row = bench.row("reading them back", "s", goal=8)
    bench.few(row, lambda engine: logs.read(engine, boxes[engine.name]), times, 1.0)
    for engine in bench.engines:
        logs.remove(engine, boxes[engine.name])
        boxes[engine.name] = logs.big(engine)
    row = bench.row("the last 10 lines of a log of 1 GB", "ms", limit=20)
    bench.few(row, lambda engine: logs.tail(engine, boxes[engine.name]), times, 1000)
    row = bench.row("its last second, by --since", "ms", limit=50)
    bench.few(row, lambda engine: logs.since(engine, boxes[engine.name]), times, 1000)
    for engine in bench.engines:
        logs.remove(engine, boxes[engine.name])


def watched(bench: Bench) -> None:
    row = bench.row("stats of 100 containers, every second", "% CPU", limit=1.0)
    bench.few(row, watching.stats, 1, 1.0)


def many(bench: Bench, apis: Apis) -> None:
    """Two hundred containers, and a container with fifty ports."""
    with bench.told(f"{scale.CONTAINERS} containers for lists"):
        for engine in bench.engines:
            scale.make(apis[engine.name])
    for title, path, query in (
        (f"list of {scale.CONTAINERS} containers", "/containers/json", {"all": True}),
        ("list of those that run, of none", "/containers/json", {}),
        ("system df of them", "/system/df", {}),
    ):
        listed = partial(_listed, apis, path=path, query=query)
        bench.few(bench.row(title, "ms"), listed, 5, 1000.0)
    bench.few(bench.row("prune of them", "s"), lambda engine: scale.pruned(apis[engine.name]), 1, 1.0)
    bench.few(bench.row(f"start and removal of one with {scale.PORTS} ports", "s"), scale.ports, 1, 1.0)


def _listed(apis: Apis, engine: Engine, *, path: str, query: dict[str, Any]) -> float:
    return scale.listed(apis[engine.name], path, **query)


def client(bench: Bench) -> None:
    """Ours against Docker's own client, both asking the first engine."""
    ours = Path(sys.executable).with_name("dockyard")
    row = bench.row("`dockyard version` against `docker version`", "ms", goal=0.25)
    engine = bench.engines[0]
    with bench.told(row.title):
        for _ in range(max(3, round(20 * bench.share))):
            if ours.exists() and engine.name == "dockyardd":
                row.add("dockyardd", work.client_version(engine, str(ours)) * 1000)
            row.add("dockerd", work.client_version(engine, docker_cli()) * 1000)


Apis = dict[str, Connection]


def _bursts(bench: Bench, apis: Apis) -> None:
    bench.few(bench.row("40 runs on the bridge, 8 at a time", "s", goal=12), work.burst, 3, 1.0)
    row = bench.row("200 × _ping on one connection", "ms")
    bench.few(row, lambda engine: work.pings(apis[engine.name]), 5, 1000.0)


SECTIONS: dict[str, Callable[[Bench, Apis], None]] = {
    "memory": lambda bench, apis: memory(bench),
    "containers": containers,
    "execs": execs,
    "bursts": _bursts,
    "files": copies,
    "volumes": new_volumes,
    "logs": lambda bench, apis: container_logs(bench),
    "stats": lambda bench, apis: watched(bench),
    "scale": many,
    "images": lambda bench, apis: registries(bench, archives(bench)),
    "builds": lambda bench, apis: building(bench),
    "client": lambda bench, apis: client(bench),
}


def engines_wanted(name: str) -> list[Engine]:
    """The engines that can run here; says why one cannot."""
    found: list[Engine] = []
    for kind, missing in ((Dockyardd, why_no_dockyardd()), (PeerDocker, why_no_peer())):
        if name not in ("both", kind.name):
            continue
        if missing:
            print(f"bench: without {kind.name}: {missing}", flush=True)
        else:
            found.append(kind())
    return found


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a tenth of the runs")
    parser.add_argument("--engine", choices=("both", "dockyardd", "dockerd"), default="both")
    parser.add_argument("--only", nargs="+", choices=SECTIONS, default=list(SECTIONS), help="these parts")
    parser.add_argument("--json", type=Path, default=Path(".cache/bench.json"), help="where the figures go")
    options = parser.parse_args()
    engines = engines_wanted(options.engine)
    if not engines:
        return 1
    with ExitStack() as stack:
        image = busybox.docker_archive(["bb:latest"], [busybox.rootfs_tar()], {"Cmd": ["sh"]})
        versions = {}
        for engine in engines:
            stack.enter_context(engine)
            with engine.api() as api:
                steps.expect(api.request("POST", "/images/load", raw=image), 200)
                versions[engine.name] = api.get("/version").json()["Version"]
        bench = Bench(engines, 0.1 if options.quick else 1.0)
        apis = {engine.name: engine.api() for engine in bench.engines}
        for name in options.only:
            SECTIONS[name](bench, apis)
    print(f"\n{', '.join(f'{name} {version}' for name, version in versions.items())}; medians\n\n{table(bench.rows)}\n")
    write_json(bench.rows, options.json, versions)
    print(f"figures: {options.json}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
