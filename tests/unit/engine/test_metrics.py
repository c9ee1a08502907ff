"""Figures for Prometheus: counting, timing, and the text that its own library reads back."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from dockyard.engine import metrics
from dockyard.engine.bridges import BridgeOptions, choose_bridge
from dockyard.engine.system import Counts
from dockyard.proto.netplan import Pool
from dockyard.store.networks import NetworkRow


def engine(**host: str) -> Any:
    """As much of an engine as is asked."""
    facts = {
        "architecture": "x86_64",
        "kernel": "6",
        "operating_system": "Os",
        "os_version": "1",
        "memory": 2**34,
        **host,
    }
    system = SimpleNamespace(
        host=SimpleNamespace(**facts), id="id", version="1", settings=SimpleNamespace(storage_driver="overlay"),
        counts=lambda: Counts(6, 1, 2, 3), cpus=lambda: 4, listeners=lambda: 5,
    )  # fmt: skip
    context = SimpleNamespace(metrics=metrics.Metrics())
    return SimpleNamespace(context=context, system=system, events=SimpleNamespace(published=7))


def read(text: str) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_a_histogram_is_read_back() -> None:
    fake = engine()
    for seconds in (0.001, 0.005, 0.02, 60.0):
        fake.context.metrics.containers.observe("start", seconds)
    found = read(metrics.text(fake))
    name = "engine_daemon_container_actions_seconds"
    bounds = {
        dict(labels)["le"]: value for (each, labels), value in found.items()
        if each == f"{name}_bucket" and dict(labels)["action"] == "start"
    }  # fmt: skip
    assert (bounds["0.005"], bounds["0.01"], bounds["0.025"], bounds["10"], bounds["+Inf"]) == (2, 2, 3, 3, 4)
    start = frozenset({("action", "start")})
    assert (found[f"{name}_count", start], found[f"{name}_sum", start]) == (4, pytest.approx(60.026))
    states = [found["engine_daemon_container_states_containers", frozenset({("state", state)})]
              for state in ("running", "paused", "stopped")]  # fmt: skip
    assert states == [1, 2, 3]
    assert found["engine_daemon_events_total", frozenset()] == 7


def test_hostile_names_stay_in_their_quotes() -> None:
    system = 'a"b\\c\nengine_daemon_events_total 9'
    found = read(metrics.text(engine(operating_system=system)))
    (labels,) = [dict(labels) for name, labels in found if name == "engine_daemon_engine_info"]
    assert labels["os"] == system and found["engine_daemon_events_total", frozenset()] == 7


def test_what_fails_is_not_timed() -> None:
    fake = engine()

    @metrics.timed("commit")
    async def work(_context: Any, fail: bool) -> int:
        if fail:
            raise ValueError
        return 3

    async def main() -> None:
        assert await work(fake.context, fail=False) == 3
        with pytest.raises(ValueError):
            await work(fake.context, True)

    asyncio.run(main())
    name = "engine_daemon_container_actions_seconds_count"
    assert read(metrics.text(fake))[name, frozenset({("action", "commit")})] == 1


def test_a_range_of_before_stays_unless_it_is_of_no_pool() -> None:
    row = NetworkRow("1", "bridge", "bridge", 0, bridge="br9", subnet="172.20.0.0/16", gateway="172.20.0.1", owned=True)
    nothing: dict[str, Any] = {"networks": [], "bridges": {}}

    def chosen(survey: dict[str, Any], *pools: Pool) -> str:
        return choose_bridge(BridgeOptions(name="br9", pools=pools), row, False, survey, []).subnet

    assert chosen(nothing) == "172.20.0.0/16"
    assert chosen(nothing, Pool("172.16.0.0/12", 16)) == "172.20.0.0/16"
    assert chosen(nothing, Pool("10.9.0.0/16", 24)) == "10.9.0.0/24"
    there = {
        "networks": [],
        "bridges": {"br9": {"mac": "02:42:ac:14:00:01", "mtu": 1500, "addresses": ["172.20.0.1/16"]}},
    }
    assert chosen(there, Pool("10.9.0.0/16", 24)) == "172.20.0.0/16", "containers may be using it"
