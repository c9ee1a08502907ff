"""The query and the headers of `POST /build` as options, and what is refused."""

from __future__ import annotations

import base64
import json
from typing import Any
from urllib.parse import urlencode

import pytest
from aiohttp.test_utils import make_mocked_request

from dockyard.edge.api import build_options
from dockyard.edge.routing import Call
from dockyard.model.build import BuildOptions, NamedContext, TypedSpec
from dockyard.model.container import Ulimit
from dockyard.model.errors import InvalidArgument


def _call(api: tuple[int, int] = (1, 50), /, *, headers: dict[str, str] | None = None, **query: Any) -> Call:
    request = make_mocked_request("POST", "/build?" + urlencode(query, doseq=True), headers=headers or {})
    return Call(request, None, api, None, {}, {})  # type: ignore[arg-type]


def _options(api: tuple[int, int] = (1, 50), /, **query: Any) -> BuildOptions:
    return build_options.options(_call(api, **query), frozenset(), frozenset())


def test_nothing_asked_is_the_default() -> None:
    assert _options() == BuildOptions()


def test_what_the_docker_cli_always_sends_means_nothing() -> None:
    """docker build 20.10 and 28 send these for a plain `docker build .`."""
    empty = ("cgroupparent", "cpusetcpus", "cpusetmems", "target")
    zero = ("cpuperiod", "cpuquota", "cpushares", "memory", "memswap", "shmsize")
    query: dict[str, Any] = {
        "buildargs": "{}",
        "cachefrom": "[]",
        "labels": "{}",
        "networkmode": "default",
        "ulimits": "null",
    }
    query |= (
        {"dockerfile": "Dockerfile", "rm": "1", "version": "1"} | dict.fromkeys(empty, "") | dict.fromkeys(zero, "0")
    )
    assert _options(**query) == BuildOptions()


def test_every_parameter_of_docker() -> None:
    found = _options(
        t=["a", "b:1", "a:latest"], dockerfile="d/D", nocache="1", pull="1", rm="0", forcerm="1", memory="100",
        memswap="-1", cpushares="5", cpuperiod="6", cpuquota="7", cpusetcpus="0", cpusetmems="0-1",
        buildargs='{"A":"b","C":null}', shmsize="1000", squash="1", labels='{"l":"m"}', networkmode="none",
        target="s", platform="linux/arm64,linux/amd64", extrahosts=["h:1.2.3.4"], cgroupparent="/g",
        ulimits='[{"Name":"nofile","Soft":1,"Hard":2}]', cachefrom='["x/y:z"]', securityopt=["a=b"],
    )  # fmt: skip
    assert found == BuildOptions(
        tags=("a:latest", "b:1"), dockerfile="d/D", no_cache=True, pull=True, remove=False, force_remove=True,
        memory=100, memory_swap=-1, cpu_shares=5, cpu_period=6, cpu_quota=7, cpuset_cpus="0", cpuset_mems="0-1",
        build_args={"A": "b", "C": None}, shm_size=1000, squash=True, labels={"l": "m"}, network_mode="none",
        target="s", platforms=("linux/arm64", "linux/amd64"), extra_hosts=("h:1.2.3.4",), cgroup_parent="/g",
        ulimits=(Ulimit("nofile", 1, 2),), cache_from=(TypedSpec("registry", {"ref": "x/y:z"}),),
        security_opt=("a=b",),
    )  # fmt: skip


def test_every_parameter_of_ours() -> None:
    contexts = {
        "i": "docker-image://busybox", "g": "https://x.org/y.git#main:d", "h": "https://x.org/y.tar",
        "s": "git@x.org:y", "u": "upload:abc",
    }  # fmt: skip
    found = _options(
        contexts=json.dumps(contexts), nocachefilter='["a","b"]', cacheto='["type=local,dest=/x"]',
        outputs='[{"Type":"tar","Attrs":{}},{"Type":"moby","Attrs":{"type":"image","compression":"zstd"}}]',
        allow='["network.host"]', attests='["type=provenance,mode=max"]', annotations='{"a":"b"}', call="check",
    )  # fmt: skip
    assert found == BuildOptions(
        contexts={
            "i": NamedContext("image", "busybox"), "g": NamedContext("git", "https://x.org/y.git#main:d"),
            "h": NamedContext("http", "https://x.org/y.tar"), "s": NamedContext("git", "git@x.org:y"),
            "u": NamedContext("directory", "abc"),
        },
        no_cache_filter=("a", "b"), cache_to=(TypedSpec("local", {"dest": "/x"}),),
        outputs=(TypedSpec("tar"), TypedSpec("image", {"compression": "zstd"})), allow=frozenset({"network.host"}),
        attestations=(TypedSpec("provenance", {"mode": "max"}),), annotations={"a": "b"}, check=True,
    )  # fmt: skip
    assert build_options.uploads(_call(contexts=json.dumps(contexts))) == {"u": "abc"}


def test_older_versions_do_not_have_newer_parameters() -> None:
    given = {"platform": "linux/arm64", "target": "s", "outputs": '[{"Type":"tar"}]'}
    assert _options((1, 28), **given) == BuildOptions()
    assert _options((1, 29), **given).target == "s"
    assert _options((1, 32), **given).platforms == ("linux/arm64",)
    assert _options((1, 39), **given).outputs == ()
    assert _options((1, 40), **given).outputs == (TypedSpec("tar"),)


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ({"buildargs": "[]"}, "error reading build args"),
        ({"buildargs": '{"a":1}'}, "error reading build args"),
        ({"labels": "{"}, "error reading labels"),
        ({"ulimits": '[{"Name":1}]'}, "error reading ulimit settings"),
        ({"memory": "lots"}, 'invalid value "lots" for parameter memory'),
        ({"shmsize": "-1"}, "shmsize: it cannot be negative"),
        ({"t": "UPPER"}, "must be lowercase"),
        ({"t": "a@sha256:" + "0" * 64}, "build tag cannot contain a digest"),
        ({"isolation": "hyperv"}, "invalid isolation 'hyperv'"),
        ({"platform": "foobar"}, '"foobar": unknown operating system or architecture: invalid argument'),
        ({"allow": '["everything"]'}, "invalid entitlement 'everything'"),
        ({"call": "dance"}, "invalid value 'dance' for parameter call"),
        ({"outputs": '[{"Type":"iso"}]'}, "type 'iso' is none of"),
        ({"outputs": '[{"Type":"tar","Attrs":1}]'}, "Attrs of type 'tar' is not an object"),
        ({"attests": '["type=vex"]'}, "type=provenance or type=sbom is expected"),
        ({"contexts": '{"a":"/etc"}'}, "'a' is '/etc'"),
        ({"contexts": '{"":"upload:x"}'}, "a context has no name"),
        ({"cachefrom": '["type=,x=y"]'}, "type is missing"),
        ({"secrets": "x"}, "secrets do not belong into a URL"),
    ],
)
def test_what_cannot_be_is_named(query: dict[str, Any], said: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        _options(**query)
    assert said in caught.value.message


def _header(document: Any, encode: Any = base64.urlsafe_b64encode) -> dict[str, str]:
    return {"X-Build-Secrets": encode(json.dumps(document).encode()).decode()}


def test_secrets_come_in_a_header() -> None:
    value = bytes(range(256))
    for encode in (base64.urlsafe_b64encode, base64.b64encode):
        headers = _header({"token": encode(value).decode()}, encode)
        assert build_options.secrets(_call(headers=headers)) == {"token": value}
    assert build_options.secrets(_call()) == {}


@pytest.mark.parametrize(
    "headers",
    [{"X-Build-Secrets": "!"}, _header([]), _header({"a": 1}), _header({"a": "!!!"}), _header({"": "YQ"}),
     _header({"big": base64.b64encode(bytes(600_000)).decode()})],
)  # fmt: skip
def test_s50_a_bad_secret_is_not_repeated(headers: dict[str, str]) -> None:
    with pytest.raises(InvalidArgument) as caught:
        build_options.secrets(_call(headers=headers))
    assert headers["X-Build-Secrets"] not in caught.value.message
    assert "AAAA" not in caught.value.message
