"""ping, version, info, the versions in paths, and endpoints that are not served."""

from __future__ import annotations

import docker
import pytest

from tests.support import schema, steps
from tests.support.engines import Engine
from tests.support.rawhttp import Connection


@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_ping(engine: Engine, api: Connection, method: str) -> None:
    answer = steps.expect(api.request(method, "/_ping"), 200)
    assert answer.body == (b"OK" if method == "GET" else b"")
    assert answer.headers["api-version"].startswith("1.")
    assert answer.headers["ostype"] == "linux"
    assert answer.headers["docker-experimental"] == "false"
    assert "no-cache" in answer.headers["cache-control"]
    assert answer.headers["content-type"].startswith("text/plain")
    assert "docker/" in answer.headers["server"].lower() or "dockyard/" in answer.headers["server"].lower()


@pytest.mark.dockyardd_only("20.10 leaves the choice of builder to the client")
def test_ping_says_classic_builder_and_newest_version(engine: Engine, api: Connection) -> None:
    headers = api.get("/_ping").headers
    assert headers["builder-version"] == "1"
    assert headers["api-version"] == "1.50"
    assert headers["swarm"] == "inactive"


def test_version(engine: Engine, api: Connection) -> None:
    version = steps.expect(api.get("/version"), 200).json()
    assert version["Os"] == "linux"
    assert version["MinAPIVersion"] in ("1.12", "1.24")
    assert version["KernelVersion"].split(".")[0].isdigit()
    assert any(component["Name"] == "Engine" for component in version["Components"])
    assert not schema.problems(version, schema.response_schema("GET /version"))


def test_info(engine: Engine, api: Connection) -> None:
    steps.create(api, "true")
    info = steps.expect(api.get("/info"), 200).json()
    assert (info["Containers"], info["ContainersRunning"], info["Images"] >= 1) == (1, 0, True)
    assert info["DockerRootDir"] == str(engine.data_root)
    assert info["OSType"] == "linux"
    assert info["NCPU"] >= 1 and info["MemTotal"] > 1 << 20
    assert info["LoggingDriver"] == "json-file"
    assert {"bridge", "host", "null"} <= set(info["Plugins"]["Network"])
    assert info["Swarm"]["LocalNodeState"] == "inactive"
    assert any(option.startswith("name=seccomp") for option in info["SecurityOptions"])


@pytest.mark.dockyardd_only("fields of 20.10 that 1.50 has dropped")
def test_info_has_the_fields_of_the_specification(engine: Engine, api: Connection) -> None:
    info = api.get("/info").json()
    whole = schema.response_schema("GET /info")
    assert not schema.problems(info, whole)
    optional = {
        *("ClusterStore", "ClusterAdvertise", "Isolation", "ProductLicense", "CDISpecDirs", "DiscoveredDevices"),
        *("Containerd", "FirewallBackend", "DefaultAddressPools", "KernelMemoryTCP", "BridgeNfIptables"),
        *("BridgeNfIp6tables", "DriverStatus", "InitCommit"),
    }
    assert not schema.absent(info, whole) - optional


def test_cli_version_and_info(engine: Engine) -> None:
    assert engine.out("version", "--format", "{{.Server.Os}}") == "linux"
    assert engine.out("info", "--format", "{{.DockerRootDir}}") == str(engine.data_root)
    text = engine.out("info")
    assert "Server Version:" in text and "Cgroup Driver:" in text
    assert "ERROR" not in text


def test_docker_py(client: docker.DockerClient) -> None:
    assert client.ping()
    assert client.version()["Os"] == "linux"
    assert client.info()["OSType"] == "linux"


@pytest.mark.parametrize("version", ["1.24", "1.30", "1.41"])
def test_versions_in_the_path(engine: Engine, api: Connection, version: str) -> None:
    assert api.get(f"/v{version}/_ping").status == 200
    assert api.get(f"/v{version}/version").status == 200
    assert api.get(f"/v{version}/containers/json").json() == []


def test_version_too_new_names_the_newest(engine: Engine, api: Connection) -> None:
    answer = steps.expect(api.get("/v1.99/version"), 400)
    newest = api.get("/version").json()["ApiVersion"]
    assert answer.message == f"client version 1.99 is too new. Maximum supported API version is {newest}"


def test_version_too_old_names_the_oldest(engine: Engine, api: Connection) -> None:
    answer = steps.expect(api.get("/v1.9/version"), 400)
    oldest = api.get("/version").json()["MinAPIVersion"]
    assert answer.message.startswith(f"client version 1.9 is too old. Minimum supported API version is {oldest}")


@pytest.mark.parametrize("path", ["/nowhere", "/v1.41/nowhere", "/containers/x/nowhere"])
def test_unknown_paths(engine: Engine, api: Connection, path: str) -> None:
    answer = steps.expect(api.get(path), 404)
    assert answer.message == "page not found"
    assert answer.headers["content-type"].startswith("application/json")


@pytest.mark.parametrize("path", ["/services", "/nodes", "/tasks", "/secrets", "/configs"])
def test_swarm_is_off(engine: Engine, api: Connection, path: str) -> None:
    answer = steps.expect(api.get(path), 503)
    assert answer.message == (
        'This node is not a swarm manager. Use "docker swarm init" or "docker swarm join" to connect this node to '
        "swarm and try again."
    )


def test_swarm_inspect_is_off(engine: Engine, api: Connection) -> None:
    assert steps.expect(api.get("/swarm"), 503).message.startswith("This node is not a swarm manager.")


def test_no_plugins(engine: Engine, api: Connection) -> None:
    assert steps.expect(api.get("/plugins"), 200).json() == []


@pytest.mark.dockyardd_only("dockerd serves it")
def test_endpoints_not_yet_served_name_themselves(engine: Engine, api: Connection) -> None:
    answer = api.post("/session")
    assert answer.status == 501
    assert "/session" in answer.message


def test_many_requests_on_one_connection(engine: Engine, api: Connection) -> None:
    for _ in range(50):
        assert api.get("/_ping").status == 200
    assert api.get("/containers/none/json").status == 404
    assert api.get("/_ping").status == 200


def test_long_request_line(engine: Engine, api: Connection) -> None:
    """Go's limit is 1 MiB: build arguments travel in the URL."""
    filters = {"label": [f"key{number}={'v' * 100}" for number in range(500)]}
    assert steps.expect(api.get("/containers/json", filters=filters), 200).json() == []


def test_large_headers(engine: Engine, api: Connection) -> None:
    assert api.request("GET", "/_ping", headers={"X-Registry-Auth": "a" * 50_000}).status == 200
