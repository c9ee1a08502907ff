"""dockyardd's flags and file."""

from __future__ import annotations

from pathlib import Path

import pytest

from dockyard.configuration import (
    OPTIONS,
    Configuration,
    attributes,
    combine,
    load,
    parse_arguments,
    parse_file,
    without_effect,
)
from dockyard.engine.runtimes import OciRuntime
from dockyard.engine.system import Settings, engine_id
from dockyard.model.container import HostConfig, LogConfig, Ulimit
from dockyard.model.errors import InvalidArgument
from dockyard.proto import storageopts
from dockyard.proto.netplan import Pool
from dockyard.runtime.cgroups.facts import read_facts


def test_every_option_is_an_attribute_and_no_name_stands_twice() -> None:
    assert {option.target for option in OPTIONS} == set(attributes())
    flags = [flag for option in OPTIONS for flag in option.flags]
    assert len(flags) == len(set(flags))


def test_flags_as_dockerd_spells_them() -> None:
    given = parse_arguments(
        ["-H", "unix:///a", "--host=unix:///b", "-D", "--icc=false", "--add-runtime", "runc=/usr/bin/runc", "-lwarn",
         "--default-ulimit", "nofile=10:20", "--log-opt", "max-size=1m", "--mtu", "1400", "-b", "br9", "--label", "a=b"]
    ).given  # fmt: skip
    configuration = combine(given, {}, "x")
    assert configuration.hosts == ["unix:///a", "unix:///b"]
    assert (configuration.debug, configuration.icc, configuration.mtu) == (True, False, 1400)
    assert configuration.runtimes == {"runc": OciRuntime("/usr/bin/runc")}
    assert configuration.default_ulimits == [Ulimit("nofile", 10, 20)]
    assert (configuration.log_opts, configuration.bridge, configuration.labels) == ({"max-size": "1m"}, "br9", ["a=b"])


def test_the_file_has_dockers_keys() -> None:
    read = parse_file(
        '{"hosts": ["unix:///a"], "data-root": "/d", "default-ulimits": {"nofile": {"Name": "nofile", "Soft": 1, '
        '"Hard": 2}}, "runtimes": {"runc": {"path": "/r", "runtimeArgs": ["--debug"]}}, "log-opts": {"tag": "b"}, '
        '"live-restore": true}',
        "f",
    )
    configuration = combine({}, read, "f")
    assert (configuration.data_root, configuration.runtimes) == ("/d", {"runc": OciRuntime("/r", ("--debug",))})
    assert configuration.default_ulimits == [Ulimit("nofile", 1, 2)]


def test_a_key_in_both_places_is_refused_by_name() -> None:
    with pytest.raises(InvalidArgument, match=r"both as a flag and in the configuration file: bip: \(from flag: 1, "):
        combine({"bip": "1"}, {"bip": "2"}, "f")


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ('{"hostz": []}', "don't match any configuration option: hostz"),
        ('{"hosts": "unix:///a"}', "hosts: a list of strings is expected"),
        ('{"mtu": "9"}', "mtu: a whole number is expected"),
        ('{"debug": 1}', "debug: true or false is expected"),
        ("[]", "a JSON object is expected"),
        ("{", "file f: "),
    ],
)
def test_files_that_are_wrong(text: str, problem: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        parse_file(text, "f")
    assert problem in caught.value.message


@pytest.mark.parametrize(
    "given",
    [{"log_level": "loud"}, {"labels": ["x"]}, {"default_runtime": "nope"}, {"data_root": "relative"},
     {"bridge": "none", "bip": "10.0.0.1/24"}],
)  # fmt: skip
def test_values_that_cannot_be(given: dict[str, object]) -> None:
    with pytest.raises(InvalidArgument):
        combine(given, {}, "f")


def test_a_missing_file_matters_only_if_it_was_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidArgument, match="does not exist"):
        load(parse_arguments(["--config-file", str(tmp_path / "nope.json")]))
    (tmp_path / "empty.json").write_text("")
    assert load(parse_arguments(["--config-file", str(tmp_path / "empty.json")])) == Configuration()


def test_s46_only_an_explicit_false_opens_tcp() -> None:
    assert not combine({}, {}, "f").open_tcp_forced
    assert combine(parse_arguments(["--tls=false"]).given, {}, "f").open_tcp_forced


def test_options_without_effect_are_told() -> None:
    assert without_effect(Configuration()) == []
    given = parse_arguments(["--iptables=false", "--live-restore", "--insecure-registry", "x"]).given
    assert without_effect(combine(given, {}, "f")) == ["iptables"]


def test_containers_get_the_daemons_defaults() -> None:
    settings = Settings("/d", log_driver="none", log_opts={"a": "b"}, dns=["1.1.1.1"], cgroup_parent="/p")
    host = HostConfig()
    settings.fill_in(host)
    assert (host.log_config.type, host.log_config.config) == ("none", {"a": "b"})
    assert (host.dns, host.cgroup_parent, host.dns_search) == (["1.1.1.1"], "/p", None)
    host = HostConfig(dns=["9.9.9.9"], log_config=LogConfig("json-file"))
    settings.fill_in(host)
    assert (host.dns, host.log_config) == (["9.9.9.9"], LogConfig("json-file"))


def test_namespaces_shm_and_init_of_containers_that_say_nothing() -> None:
    flags = ["--init", "--default-ipc-mode=shareable", "--default-cgroupns-mode", "private", "--default-shm-size=1m"]
    read = combine(parse_arguments(flags).given, {}, "f")
    settings = Settings(
        "/d", init=read.init, ipc_mode=read.default_ipc_mode, cgroupns_mode=read.default_cgroupns_mode,
        shm_size=read.default_shm_size,
    )  # fmt: skip
    host = HostConfig()
    settings.fill_in(host)
    assert (host.init, host.ipc_mode, host.cgroupns_mode, host.shm_size) == (True, "shareable", "private", 1 << 20)
    host = HostConfig(init=False, ipc_mode="private", cgroupns_mode="host", shm_size=5)
    settings.fill_in(host)
    assert (host.init, host.ipc_mode, host.cgroupns_mode, host.shm_size) == (False, "private", "host", 5)
    host = HostConfig(privileged=True, runtime="runc")  # runc's containers have no init of ours
    settings.fill_in(host)
    assert (host.init, host.cgroupns_mode) == (None, "")  # `creation` knows what is right for privileged ones


@pytest.mark.parametrize(
    "flag",
    ["--default-ipc-mode=host", "--default-cgroupns-mode=x", "--default-shm-size=-1", "--host-gateway-ip=gate"],
)
def test_defaults_that_cannot_be_are_refused(flag: str) -> None:
    with pytest.raises((InvalidArgument, SystemExit)):
        combine(parse_arguments([flag]).given, {}, "f")


def test_sizes_in_the_file_are_numbers_or_text() -> None:
    for value in ('"64M"', "67108864"):
        assert combine({}, parse_file(f'{{"default-shm-size": {value}}}', "f"), "f").default_shm_size == 64 << 20


def test_what_dockerds_unit_passes_is_accepted() -> None:
    given = parse_arguments(["-H", "fd://", "--containerd=/run/containerd/containerd.sock"]).given
    assert without_effect(combine(given, {}, "f")) == ["containerd"]


def test_pools_options_and_figures() -> None:
    flags = ["--default-address-pool", "base=10.9.0.0/16,size=24", "--default-address-pool=size=28,base=10.8.0.0/24",
             "--storage-opt", "overlay2.size=1G", "--metrics-addr", "[::1]:9323", "--ip-masq=false",
             "--max-download-attempts", "2", "--oom-score-adjust=-500"]  # fmt: skip
    read = combine(parse_arguments(flags).given, {}, "f")
    assert read.default_address_pools == [Pool("10.9.0.0/16", 24), Pool("10.8.0.0/24", 28)]
    assert (read.storage_opts, read.metrics_addr, read.ip_masq) == (["overlay2.size=1G"], "[::1]:9323", False)
    assert (read.max_download_attempts, read.oom_score_adjust) == (2, -500)
    assert without_effect(read) == []
    text = """{"default-address-pools": [{"base": "10.9.0.0/16", "size": 24}], "storage-opts": ["overlay2.size=1G"],
        "metrics-addr": "127.0.0.1:1", "ip-masq": false, "max-download-attempts": 2, "oom-score-adjust": 5,
        "authorization-plugins": []}"""
    assert combine({}, parse_file(text, "f"), "f").default_address_pools == [Pool("10.9.0.0/16", 24)]


@pytest.mark.parametrize(
    ("flags", "problem"),
    [
        (["--authorization-plugin", "opa"], "opa: authorization plugins are not supported"),
        (["--default-address-pool", "base=10.9.0.0,size=24"], 'invalid base pool "10.9.0.0": invalid CIDR address'),
        (["--default-address-pool", "base=fd00::/48,size=64"], 'invalid base pool "fd00::/48"'),
        (["--default-address-pool", "base=10.9.0.0/16,size=8"], "invalid pools size: 8"),
        (["--default-address-pool", "base=10.9.0.0/16"], "invalid pools size: 0"),
        (["--max-download-attempts", "0"], "invalid max download attempts: 0"),
        (["--max-concurrent-downloads", "0"], "invalid max concurrent downloads: 0"),
        (["--oom-score-adjust", "1001"], "invalid oom-score-adjust: 1001"),
        (["--metrics-addr", "9323"], "invalid metrics-addr '9323'"),
        (["--metrics-addr", "::1:9323"], "invalid metrics-addr '::1:9323'"),
        (["--metrics-addr", "a:70000"], "invalid metrics-addr"),
        (["--storage-opt", "dm.basesize=10G"], "unknown option dm.basesize"),
        (["--storage-opt", "overlay2.size"], "Unable to parse key/value option: overlay2.size"),
        (["--storage-opt", "overlay2.size=much"], "storage-opt overlay2.size: invalid size: 'much'"),
    ],
)
def test_what_cannot_be_is_refused_by_name(flags: list[str], problem: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        combine(parse_arguments(flags).given, {}, "f")
    assert problem in caught.value.message


@pytest.mark.parametrize("value", ["10.9.0.0/16", "base=10.9.0.0/16,size=x", "base=10.9.0.0/16,bits=3"])
def test_a_pool_has_base_and_size(value: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse_arguments(["--default-address-pool", value])
    assert "default-address-pool" in capsys.readouterr().err


def test_a_size_is_for_one_driver() -> None:
    options = storageopts.parse(["overlay2.size=10m", "overlay2.override_kernel_check=1"])
    assert storageopts.container_size(options, "overlay") == 10 << 20
    with pytest.raises(InvalidArgument, match=r"unknown option overlay2\.size for the storage driver btrfs"):
        storageopts.container_size(options, "btrfs")
    assert storageopts.container_size(storageopts.parse(["btrfs.size=1g"]), "btrfs") == 1 << 30
    assert storageopts.container_size({}, "vfs") == 0


def test_cgroup_facts(tmp_path: Path) -> None:
    (tmp_path / "v1" / "memory").mkdir(parents=True)
    (tmp_path / "v1" / "memory" / "memory.limit_in_bytes").touch()
    (tmp_path / "v1" / "cpuset").mkdir()
    (tmp_path / "v1" / "cpuset" / "cpuset.mems").write_text("0-1\n")
    facts = read_facts(str(tmp_path / "v1"))
    assert facts.mems == "0-1"
    assert (facts.version, facts.memory_limit, facts.swap_limit, facts.pids_limit) == (1, True, False, False)
    (tmp_path / "v2").mkdir()
    (tmp_path / "v2" / "cgroup.controllers").write_text("cpu pids\n")
    (tmp_path / "v2" / "cgroup.subtree_control").write_text("cpu pids\n")
    (tmp_path / "v2" / "dockyard").mkdir()
    for name in ("cgroup.procs", "cpu.max", "pids.max"):
        (tmp_path / "v2" / "dockyard" / name).touch()
    facts = read_facts(str(tmp_path / "v2"))
    assert (facts.version, facts.cpu_quota, facts.memory_limit, facts.pids_limit) == (2, True, False, True)


def test_the_engines_id_belongs_to_its_data_root() -> None:
    assert engine_id("/a") == engine_id("/a/") != engine_id("/b")


@pytest.mark.parametrize("words", [["--frob"], ["x"], ["--mtu", "q"], ["--validate=x"]])
def test_a_bad_flag_is_told_in_short(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        parse_arguments(words)
    said = capsys.readouterr().err
    assert ended.value.code == 1 and said.startswith("dockyardd: ") and said.count("\n") == 2
    assert words[0].partition("=")[0] in said


def test_help_tells_defaults(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse_arguments(["--help"])
    said = " ".join(capsys.readouterr().out.split())
    assert "--data-root VALUE directory of everything that is kept (default /var/lib/dockyard)" in said
