"""User namespaces in bundles, and what cannot be beside them."""

from __future__ import annotations

import pytest

from dockyard.model.container import ContainerConfig, HostConfig
from dockyard.model.errors import InvalidArgument
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
        (HostConfig(runtime="runc"), "need the runtime dockyard, not runc: use --userns=host"),
    ],
)
def test_what_cannot_be(bundler: Bundler, host: HostConfig, said: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        bundler.validate(ContainerConfig(), host)
    assert said in str(caught.value)
    host.userns_mode = "host"
    bundler.validate(ContainerConfig(), host)
    Bundler(HOST).validate(ContainerConfig(), host)


def test_a_mount_with_owners_of_its_own_is_refused_by_name(bundler: Bundler) -> None:
    with pytest.raises(InvalidArgument, match="mount /b: idmap cannot be with user namespaces"):
        bundler.make(spec(None, HostConfig(), mounts=[BundleMount("/b", source="/b", idmap="owner")]))


def test_s15_no_new_privileges_by_default() -> None:
    bundler = Bundler(HOST, no_new_privileges=True)
    assert bundler.make(spec()).config["process"]["noNewPrivileges"] is True
    own = spec(None, HostConfig(security_opt=["no-new-privileges=false"]))
    assert bundler.make(own).config["process"]["noNewPrivileges"] is False
    assert bundler.exec_process(spec(), ExecInput(["sh"]))["noNewPrivileges"] is True
