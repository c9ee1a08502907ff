"""User namespaces in bundles, and what cannot be beside them."""

from __future__ import annotations

import pytest

from dockyard.model.container import ContainerConfig, HostConfig
from dockyard.model.errors import InvalidArgument
from dockyard.model.idmaps import IdMap, Range
from dockyard.runtime.bundle import BundleMount, Bundler, ExecInput
from dockyard.runtime.remap import Remap
from tests.support.oci_schema import check_config
from tests.unit.test_bundle import HOST, mount, spec

RANGE = [{"containerID": 0, "hostID": 100000, "size": 65536}]


@pytest.fixture
def bundler() -> Bundler:
    return Bundler(HOST, remap=Remap(RANGE, RANGE))


def test_the_mapping_is_ocis(bundler: Bundler) -> None:
    mounts = [BundleMount("/v", source="/data/v", remap=True), BundleMount("/b", source="/b")]
    bundle = bundler.make(spec(None, HostConfig(), mounts=mounts))
    check_config(bundle.config)
    linux = bundle.config["linux"]
    assert {"type": "user"} in linux["namespaces"]
    assert linux["uidMappings"] == linux["gidMappings"] == RANGE
    assert mount(bundle, "/v")["dockyard"] == {"remap": True} and "dockyard" not in mount(bundle, "/b")
    host = bundler.make(spec(None, HostConfig(userns_mode="host"), mounts=mounts)).config
    assert "uidMappings" not in host["linux"] and not any("dockyard" in each for each in host["mounts"])


@pytest.mark.parametrize(
    ("host", "said"),
    [
        (HostConfig(privileged=True), "privileged mode is incompatible with user namespaces."),
        (HostConfig(network_mode="host"), "cannot share the host's network namespace when user namespaces are enabled"),
        (HostConfig(pid_mode="host"), "cannot share the host PID namespace when user namespaces are enabled"),
    ],
)
def test_what_cannot_be(bundler: Bundler, host: HostConfig, said: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        bundler.validate(ContainerConfig(), host)
    assert said in str(caught.value)
    host.userns_mode = "host"
    bundler.validate(ContainerConfig(), host)
    Bundler(HOST).validate(ContainerConfig(), host)


def test_mapped_owners_of_a_mount_are_told_with_the_hosts_ids(bundler: Bundler) -> None:
    """What `seen` names is a number inside; what is left as it is stays the host's, who is nobody inside."""
    volume = BundleMount("/v", source="/v", idmap="owner", remap=True)
    mounts = [BundleMount("/b", source="/b", idmap="uids=5-0-1#6-100-2"), volume]
    bundle = bundler.make(spec(None, HostConfig(), mounts=mounts))
    uids = [{"containerID": 5, "hostID": 100000, "size": 1}, {"containerID": 6, "hostID": 100100, "size": 2}]
    assert mount(bundle, "/b")["uidMappings"] == uids
    assert mount(bundle, "/b")["gidMappings"] == [{"containerID": 0, "hostID": 0, "size": (1 << 32) - 1}]
    assert mount(bundle, "/v")["dockyard"] == {"idmap": "owner"}  # not mapped twice
    with pytest.raises(InvalidArgument, match="ids 65535 to 65536 are not all among those of the user namespace"):
        bundler.make(spec(None, HostConfig(), mounts=[BundleMount("/b", source="/b", idmap="uids=0-65535-2")]))


def test_a_range_of_owners_over_several_ranges_of_ids() -> None:
    remap = Remap(
        [{"containerID": 0, "hostID": 500, "size": 10}, {"containerID": 10, "hostID": 900, "size": 10}], RANGE
    )
    found = remap.through(IdMap((Range(0, 5, 10),)))
    assert found.uids == (Range(0, 505, 5), Range(5, 900, 5)) and found.gids == IdMap().gids
    assert remap.outside(12, 7) == (902, 100007)
    with pytest.raises(InvalidArgument, match="user 20 is not among the ids"):
        remap.outside(20, 0)


def test_who_shares_namespaces_shares_the_user_namespace(bundler: Bundler) -> None:
    joins = {"network": "/proc/7/ns/net", "user": "/proc/7/ns/user"}
    host = HostConfig(network_mode="container:x")
    namespaces = bundler.make(spec(None, host, joins=joins)).config["linux"]["namespaces"]
    assert {"type": "user", "path": "/proc/7/ns/user"} in namespaces
    host.userns_mode = "host"
    assert not any(
        entry["type"] == "user" for entry in bundler.make(spec(None, host, joins=joins)).config["linux"]["namespaces"]
    )


def test_s15_no_new_privileges_by_default() -> None:
    bundler = Bundler(HOST, no_new_privileges=True)
    assert bundler.make(spec()).config["process"]["noNewPrivileges"] is True
    own = spec(None, HostConfig(security_opt=["no-new-privileges=false"]))
    assert bundler.make(own).config["process"]["noNewPrivileges"] is False
    assert bundler.exec_process(spec(), ExecInput(["sh"]))["noNewPrivileges"] is True
