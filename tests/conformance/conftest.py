"""One daemon for each engine and session; every test leaves it without containers, every module without leftovers."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import docker
import pytest

from tests.support import leaks
from tests.support.engines import Dockyardd, Engine, PeerDocker, why_no_dockyardd, why_no_peer
from tests.support.flagged import load_images
from tests.support.rawhttp import Connection


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "engine" in metafunc.fixturenames:
        wanted = metafunc.config.getoption("--engine")
        names = ["dockerd", "dockyardd"] if wanted == "both" else [wanted]
        if metafunc.definition.get_closest_marker("dockyardd_only") and "dockerd" in names:
            names.remove("dockerd")
        metafunc.parametrize("engine", names, indirect=True, scope="session")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """With `--engine dockerd` only what asks that engine: the rest belongs to the run that asks ours. With `--before`
    or `--from` one part of the files: together they are all."""
    mine = [item for item in items if Path(__file__).parent in item.path.parents]
    before, since = config.getoption("before"), config.getoption("since")
    other = [item for item in mine if (before and item.path.name >= before) or item.path.name < since]
    if config.getoption("--engine") == "dockerd":
        other += [item for item in mine if "[dockerd" not in item.name]
    if other:
        config.hook.pytest_deselected(items=list(dict.fromkeys(other)))
        items[:] = [item for item in items if item not in set(other)]


@pytest.fixture(scope="session")
def engine(request: pytest.FixtureRequest) -> Iterator[Engine]:
    """The daemon under test, with the image `bb` (busybox; Cmd sh)."""
    missing = why_no_peer() if request.param == "dockerd" else why_no_dockyardd()
    if missing:
        pytest.skip(f"{request.param}: {missing}")
    with PeerDocker() if request.param == "dockerd" else Dockyardd() as running:
        load_images(running)
        yield running


@pytest.fixture(autouse=True)
def clean(request: pytest.FixtureRequest) -> Iterator[None]:
    """Skips what the engine is too old for; after the test no container is left; a daemon that died is told and
    started again."""
    if "engine" not in request.fixturenames:
        yield
        return
    running: Engine = request.getfixturevalue("engine")
    marker = request.node.get_closest_marker("api")
    if marker and running.name == "dockerd" and api_version(running) < tuple(map(int, marker.args[0].split("."))):
        pytest.skip(f"dockerd is too old for API {marker.args[0]}")
    yield
    if not running.alive:
        tail = running.log_tail()
        running.start()
        running.remove_containers()
        pytest.fail(f"{running.name} died during the test\n{tail}")
    running.remove_containers()


def api_version(engine: Engine) -> tuple[int, ...]:
    return tuple(map(int, engine.request("GET", "/version").json()["ApiVersion"].split(".")))


@pytest.fixture(autouse=True, scope="module")
def nothing_left(request: pytest.FixtureRequest) -> Iterator[None]:
    """After a module nothing of its containers is on the machine: mounts, cgroups, links, rules, processes; its volumes
    and build cache are taken away."""
    if "engine" not in request.fixturenames:
        yield
        return
    running: Engine = request.getfixturevalue("engine")
    if running.name != "dockyardd":
        yield
        running.remove_stores()
        return
    since = time.time()
    ground = leaks.Ground(str(running.root), running.netns_path)
    before = leaks.snapshot(ground)
    yield
    running.remove_containers()
    running.remove_stores()
    ids = frozenset(created_since(running, since))
    after = leaks.Ground(ground.root, ground.netns, ids)
    left = leaks.settle(lambda: leaks.snapshot(after).left(before))
    assert not left, "left behind:\n" + "\n".join(left)


def created_since(engine: Engine, since: float) -> list[str]:
    """IDs of every container made since then, from the engine's events."""
    query = {"since": f"{since:.9f}", "until": f"{time.time():.9f}", "filters": {"event": ["create"]}}
    with engine.api() as api:
        return [event["Actor"]["ID"] for event in api.get("/events", **query).lines() if event["Type"] == "container"]


@pytest.fixture
def api(engine: Engine) -> Iterator[Connection]:
    """A raw HTTP connection to the engine."""
    with engine.api() as connection:
        yield connection


@pytest.fixture
def client(engine: Engine) -> Iterator[docker.DockerClient]:
    """docker-py on the engine."""
    made = engine.client()
    yield made
    made.close()


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    """A failure shows the last lines of the daemon's log."""
    outcome = yield
    report = outcome.get_result()  # type: ignore[attr-defined]
    running = getattr(item, "funcargs", {}).get("engine")
    if report.failed and isinstance(running, Engine):
        report.sections.append((f"{running.name} log", running.log_tail(25)))
