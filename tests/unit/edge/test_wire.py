"""Docker's names, and reading bodies as Go reads them."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest

from dockyard.edge.api import known, wire
from dockyard.edge.api.bodies import inspect_body, summary_body
from dockyard.edge.api.containers import CreateRequest
from dockyard.edge.api.routes import all_routes
from dockyard.engine.details import Ground
from dockyard.engine.execs import ExecConfig
from dockyard.model import container as model
from dockyard.model.errors import InvalidArgument
from tests.support.schema import definition, problems, specification
from tests.unit.edge.conftest import make_container

HostConfig, ContainerConfig = model.HostConfig, model.ContainerConfig

# Our struct -> the definition that has its fields. Fields that the description has forgotten or had before, and ours:
DEFINITIONS = {
    model.HealthConfig: ("HealthConfig", ()),
    ContainerConfig: ("ContainerConfig", ()),
    model.PortBinding: ("PortBinding", ()),
    model.RestartPolicy: ("RestartPolicy", ("OnUnhealthy",)),
    model.DeviceMapping: ("DeviceMapping", ()),
    model.DeviceRequest: ("DeviceRequest", ()),
    model.ThrottleDevice: ("ThrottleDevice", ()),
    model.Mount: ("Mount", ()),
    HostConfig: ("HostConfig", ("Cgroup", "OomScoreAdj", "MaximumRuntime")),
    model.EndpointIPAMConfig: ("EndpointIPAMConfig", ()),
    model.EndpointSettings: ("EndpointSettings", ()),
}

GROUND = Ground("overlay", ["/l/b", "/l/a"], "/c/fs", "/c/work", "/proc/7/root", ["/proc/kcore"], ["/proc/sys"])


def described(name: str) -> set[str]:
    """The fields of a definition, of all its parts."""
    found: set[str] = set()
    todo: list[dict[str, Any]] = [specification()["definitions"][name]]
    while todo:
        schema = todo.pop()
        found |= set(schema.get("properties", {}))
        todo += schema.get("allOf", []) + schema.get("anyOf", [])
        if "$ref" in schema:
            todo.append(specification()["definitions"][schema["$ref"].rpartition("/")[2]])
    return found


@pytest.mark.parametrize("struct", DEFINITIONS, ids=lambda struct: struct.__name__)
def test_every_name_is_one_of_the_description(struct: type[msgspec.Struct]) -> None:
    name, besides = DEFINITIONS[struct]
    ours = set(wire.wire_type(struct).__struct_encode_fields__)
    assert ours - described(name) - set(besides) == set()


def test_names_of_parts_without_a_definition_of_their_own() -> None:
    def names(struct: type[msgspec.Struct]) -> list[str]:
        return list(wire.wire_type(struct).__struct_encode_fields__)

    assert names(model.LogConfig) == ["Type", "Config"]
    assert names(model.Ulimit) == ["Name", "Soft", "Hard"]
    assert names(model.WeightDevice) == ["Path", "Weight"]
    assert names(model.TmpfsOptions) == ["SizeBytes", "Mode", "Options"]
    assert names(ExecConfig) == [
        "User", "Privileged", "Tty", "ConsoleSize", "AttachStdin", "AttachStdout", "AttachStderr", "DetachKeys", "Env",
        "WorkingDir", "Cmd", "Timeout",
    ]  # fmt: skip


def test_known_endpoints_are_those_of_the_description() -> None:
    described_endpoints = set(specification()["responses"])
    assert {f"{method} {path}" for method, path in known.known_endpoints()} >= described_endpoints
    assert len(list(known.known_endpoints())) == len(set(known.known_endpoints())) == 107


def test_every_known_endpoint_has_a_route() -> None:
    from dockyard.edge.routing import Router

    router = Router(all_routes())
    for method, path in known.known_endpoints():
        found = router.match(method, path.replace("{id}", "abc").replace("{name}", "abc"))
        assert found is not None, (method, path)


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b'{"Memory": 1, "memory": 2}', {"memory": 2}),
        (b'{"memory": 1, "Memory": 2, "MEMORY": 3}', {"memory": 3}),
        (b'{"Memory": 3, "memory": 2, "Memory": 4}', {"memory": 4}),
        (b'{"Memory": null, "NetworkMode": null, "RestartPolicy": null}', {}),
        (b'{"RestartPolicy": {"Name": "always", "maximumretrycount": 2}}',
         {"restart_policy": model.RestartPolicy("always", 2)}),
        (b'{"Mounts": [{"Type": "bind", "bindoptions": {"PROPAGATION": "rshared", "x": [1]}}]}',
         {"mounts": [model.Mount(type="bind", bind_options=model.BindOptions(propagation="rshared"))]}),
        (b'{"PortBindings": {"80/tcp": [{"hostport": "80"}], "81/tcp": null}}',
         {"port_bindings": {"80/tcp": [model.PortBinding("", "80")], "81/tcp": None}}),
        (b'{"Binds": null, "Dns": [], "Sysctls": {"a.B": "c"}}', {"binds": None, "dns": [], "sysctls": {"a.B": "c"}}),
        (b"null", {}),
    ],
)  # fmt: skip
def test_s48_bodies_are_read_as_go_reads_them(body: bytes, expected: dict[str, Any]) -> None:
    assert wire.decode(body, HostConfig) == HostConfig(**expected)


def test_one_string_for_a_list_of_one() -> None:
    config = wire.decode(b'{"Cmd": "ls", "Entrypoint": "/bin/sh", "ExposedPorts": {"80/tcp": {}}}', ContainerConfig)
    assert (config.cmd, config.entrypoint, config.exposed_ports) == (["ls"], ["/bin/sh"], {"80/tcp": {}})


@pytest.mark.parametrize(
    ("body", "text"),
    [
        (b"", "invalid JSON: got EOF while reading request body"),
        (b"  \n", "invalid JSON: got EOF while reading request body"),
        (b"{", "invalid JSON: unexpected EOF"),
        (b'{"a": 1} x', "unexpected content after JSON"),
        (b'{"a": }', "invalid JSON: invalid character '}' looking for beginning of value"),
        (b'{"Memory": "x"}', "invalid JSON: field Memory: expected integer, got string"),
        (b'{"memory": "x"}', "invalid JSON: field Memory: expected integer, got string"),
        (b'{"Binds": ["a", 1]}', "invalid JSON: field Binds[1]: expected string, got integer"),
        (b"[]", "invalid JSON: expected object, got array"),
        (b'{"Memory": NaN}', "invalid JSON: the body is not JSON"),
        (b"\xff\xfe", "invalid JSON: invalid character"),
        (b"[" * 100_000, "invalid JSON: exceeded max depth"),
        (b'{"Memory": 99999999999999999999999}', "invalid JSON: field Memory: "),
    ],
)
def test_bodies_that_are_wrong(body: bytes, text: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        wire.decode(body, HostConfig)
    assert caught.value.message.startswith(text)


@pytest.mark.parametrize("depth", [300, 990, 5000, 200_000])
@pytest.mark.parametrize("name", ["Image", "HostConfig", "Nonsense"])
def test_nesting_without_end(name: str, depth: int) -> None:
    for opening, closing in ("[", "]"), ('{"a":', "}"):
        body = f'{{"{name}": {opening * depth}1{closing * depth}}}'.encode()
        try:
            wire.decode(body, CreateRequest)
        except InvalidArgument as error:
            assert "max depth" in error.message or "expected" in error.message.lower()


def test_text_that_is_no_utf8_gets_replacement_characters() -> None:
    """As with Go. Half of a surrogate pair could be read, and never written again."""
    body = b'{"Image": "a\xff", "Env": ["\\ud800=\\udc00", "\\ud83d\\ude00"], "Labels": {"\\ud800": "\xed\xa0\x80"}}'
    found = wire.decode(body, CreateRequest)
    assert (found.image, found.env) == ("a\ufffd", ["\ufffd=\ufffd", "\U0001f600"])
    assert found.labels == {"\ufffd": "\ufffd" * 3}
    assert msgspec.json.encode(found.env)


def test_which_fields_a_body_has() -> None:
    body = b'{"IMAGE": "\xff", "HostConfig": {"Memory": 1, "memory": 2}, "x": null}'
    assert wire.fields(body) == {"image": "\ufffd", "hostconfig": {"Memory": 1, "memory": 2}, "x": None}
    assert wire.fields(b"[]") == {}


def test_a_round_trip_through_dockers_names() -> None:
    host = HostConfig(memory=5, ulimits=[model.Ulimit("nofile", 1, 2)], port_bindings={"1/udp": [model.PortBinding()]})
    assert wire.decode(wire.encode(wire.outgoing(host)), HostConfig) == host


def test_what_docker_leaves_out_when_empty() -> None:
    document = json.loads(wire.encode(wire.outgoing(HostConfig(init=False))))
    assert document["Init"] is False
    assert not {"Annotations", "StorageOpt", "Tmpfs", "Sysctls", "Runtime", "Mounts"} & set(document)
    document = json.loads(wire.encode(wire.outgoing(ContainerConfig(stop_timeout=0))))
    assert document["StopTimeout"] == 0
    assert {"Cmd", "Env", "OnBuild", "Labels", "Volumes"} <= set(document)
    assert not {"Healthcheck", "Shell", "MacAddress", "StopSignal", "ExposedPorts"} & set(document)


def test_a_create_request_is_flat() -> None:
    request = wire.decode(
        b'{"Image": "x", "HostConfig": {"Privileged": true}, "NetworkingConfig": {"EndpointsConfig": {"n": null}}}',
        CreateRequest,
    )
    assert request.host_config is not None and request.host_config.privileged
    assert request.networking_config is not None and request.networking_config.endpoints_config == {"n": None}


def test_inspect_and_list_are_as_described() -> None:
    container = make_container()
    # The engine fills these in at creation; a null MemorySwappiness is Docker's own deviation from its description.
    container.host.oom_kill_disable, container.host.cgroupns_mode = False, "private"
    container.host.log_config.type, container.host.memory_swappiness = "json-file", 60
    container.status.ports = {"80/tcp": [model.PortBinding("0.0.0.0", "8080")], "81/tcp": None}
    container.status.endpoints = {"bridge": model.EndpointSettings(ip_address="172.30.0.2", network_id="n")}
    body = json.loads(wire.encode(inspect_body(container, (1, 50), GROUND, None)))
    assert problems(body, definition("ContainerInspectResponse"), unknown=False) == []
    assert body["NetworkSettings"]["Ports"] == {"80/tcp": [{"HostIp": "0.0.0.0", "HostPort": "8080"}], "81/tcp": None}
    assert (body["Created"], body["Name"]) == ("2023-11-14T22:13:20.5Z", "/web")
    assert body["State"]["StartedAt"] == "0001-01-01T00:00:00Z"
    summary = json.loads(wire.encode(summary_body(container, (1, 50), 1_700_000_000 * 10**9, None)))
    assert problems(summary, definition("ContainerSummary")) == []
    assert summary["Command"] == "sh -c 'echo hello world'"
    assert summary["Ports"] == [
        {"IP": "0.0.0.0", "PrivatePort": 80, "Type": "tcp", "PublicPort": 8080}, {"PrivatePort": 81, "Type": "tcp"},
    ]  # fmt: skip


def test_inspect_tells_where_the_file_system_lies() -> None:
    body = json.loads(wire.encode(inspect_body(make_container(), (1, 50), GROUND, None)))
    data = {"LowerDir": "/l/b:/l/a", "UpperDir": "/c/fs", "WorkDir": "/c/work", "MergedDir": "/proc/7/root"}
    assert body["GraphDriver"] == {"Name": "overlay", "Data": data}
    assert (body["HostConfig"]["MaskedPaths"], body["HostConfig"]["ReadonlyPaths"]) == (["/proc/kcore"], ["/proc/sys"])
    other = GROUND._replace(driver="vfs", lower=[], upper=None, merged="", masked_paths=None, readonly_paths=None)
    body = json.loads(wire.encode(inspect_body(make_container(), (1, 50), other, None)))
    assert body["GraphDriver"] == {"Name": "vfs", "Data": None}
    assert body["HostConfig"]["MaskedPaths"] is body["HostConfig"]["ReadonlyPaths"] is None


def test_aliases_of_old_versions() -> None:
    container = make_container()
    container.spec.networks = {"front": model.EndpointSettings(aliases=["x"])}
    old = json.loads(wire.encode(inspect_body(container, (1, 44), GROUND, None)))
    new = json.loads(wire.encode(inspect_body(container, (1, 45), GROUND, None)))
    assert old["NetworkSettings"]["Networks"]["front"]["Aliases"] == ["x", "c" * 12]
    assert new["NetworkSettings"]["Networks"]["front"]["Aliases"] == ["x"]
