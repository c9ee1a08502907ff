"""The variables of a link, from settings alone."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from dockyard.engine import links
from dockyard.model.container import EndpointSettings
from dockyard.model.errors import Conflict, InvalidArgument, NotFound


def made(
    name: str, *, running: bool = True, given: list[str] | None = None, mode: str = "bridge", **config: Any
) -> Any:
    settings = {"env": None, "exposed_ports": None, "hostname": f"{name}-host", **config}
    return SimpleNamespace(
        name=name,
        running=running,
        config=SimpleNamespace(**settings),
        host=SimpleNamespace(links=given, network_mode=mode),
        id=f"id-of-{name}",
        status=SimpleNamespace(endpoints={"bridge": EndpointSettings(ip_address="10.0.0.2")}),
    )


def around(*containers: Any) -> Any:
    by_name = {container.name: container for container in containers}

    def find(ref: str) -> Any:
        return by_name.get(ref.lstrip("/"))

    def get(ref: str) -> Any:
        if find(ref) is None:
            raise NotFound(f"No such container: {ref}")
        return find(ref)

    return SimpleNamespace(registry=Registry(get, find, containers))


class Registry:
    def __init__(self, get: Any, find: Any, containers: Any) -> None:
        self.get, self.find, self.containers = get, find, containers

    def made_with_links(self) -> Any:
        return [container for container in self.containers if container.host.links]


def test_variables() -> None:
    db = made(
        "db", env=["A=1=2", "PATH=/bin", "HOME=/x", "NONE"], exposed_ports={"5432/tcp": {}, "53/udp": {}, "53/tcp": {}}
    )
    app = made("app", given=["db:my-db"])
    assert links.variables(around(db, app), app) == [
        "MY_DB_PORT=tcp://10.0.0.2:53",
        *("MY_DB_PORT_53_TCP=tcp://10.0.0.2:53", "MY_DB_PORT_53_TCP_ADDR=10.0.0.2", "MY_DB_PORT_53_TCP_PORT=53"),
        "MY_DB_PORT_53_TCP_PROTO=tcp",
        *("MY_DB_PORT_53_UDP=udp://10.0.0.2:53", "MY_DB_PORT_53_UDP_ADDR=10.0.0.2", "MY_DB_PORT_53_UDP_PORT=53"),
        "MY_DB_PORT_53_UDP_PROTO=udp",
        *("MY_DB_PORT_5432_TCP=tcp://10.0.0.2:5432", "MY_DB_PORT_5432_TCP_ADDR=10.0.0.2"),
        *("MY_DB_PORT_5432_TCP_PORT=5432", "MY_DB_PORT_5432_TCP_PROTO=tcp"),
        "MY_DB_NAME=/app/my-db",
        "MY_DB_ENV_A=1=2",
    ]


@pytest.mark.parametrize("text", ["db", "/db:/app/db", "db:db"])
def test_every_way_to_write_a_link(text: str) -> None:
    db, app = made("db"), made("app", given=[text])
    assert list(links.hosts(around(db), app)) == [("10.0.0.2", ["db", "db-host"])]


def test_one_that_does_not_run() -> None:
    db, app = made("db", running=False), made("app", given=["db:x"])
    assert links.variables(around(db), app) == [] and list(links.hosts(around(db), app)) == []
    with pytest.raises(Conflict, match="Cannot link to a non running container: /db AS /app/x"):
        links.check(around(db), app)


def test_one_that_is_gone() -> None:
    app = made("app", given=["db:x"])
    assert links.variables(around(), app) == []
    with pytest.raises(Conflict, match="Cannot link to a non running container: /db AS /app/x"):
        links.check(around(), app)


def test_a_new_containers_links_are_settled_by_id() -> None:
    db, guest, host = made("db"), made("guest", mode="container:db"), made("host", mode="host")
    ground = around(db, guest, host)
    assert links.resolve(ground, ["db:x", "/db:/app/y", "db"]) == ["id-of-db:x", "id-of-db:y", "id-of-db:db"]
    assert links.resolve(ground, ["guest:x"]) == ["id-of-db:x"], "its address is that of the container it has joined"
    with pytest.raises(InvalidArgument, match="could not get container for nope: No such container: nope"):
        links.resolve(ground, ["nope:x"])
    with pytest.raises(InvalidArgument, match="host type networking can't be used with links"):
        links.resolve(ground, ["host:x"])


def test_whom_links_name() -> None:
    db, app = made("db"), made("app", given=["db:x", "db:y", "gone:z"])
    ground = around(db, app)
    assert links.shown(ground, app) == [("db", "x"), ("db", "y"), ("gone", "z")]
    assert links.names_given(ground) == {"id-of-db": ["app/x", "app/y"]}
    assert list(links.linking(ground, db)) == [app] and not list(links.linking(ground, app))
    app.running = False
    assert not list(links.linking(ground, db))
