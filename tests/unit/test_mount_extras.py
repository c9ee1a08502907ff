"""Mounts beyond the plain ones, as pure values: the OCI form, `--mount` texts, driver options, swapped owners."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dockyard.model.container import HostConfig
from dockyard.model.errors import InvalidArgument
from dockyard.model.mounts import label_options, parse_bind, parse_volumes_from
from dockyard.proto import mountspec, volumeopts
from dockyard.runtime.bundle.mounts import BundleMount, DefaultMounts, without_extensions
from dockyard.runtime.owners import exchange


def entry(mount: BundleMount) -> dict[str, Any]:
    return DefaultMounts().make(HostConfig(), [mount], shm_source="", writable_cgroups=False)[-1]


def test_mapped_owners_are_the_specifications_mappings() -> None:
    found = entry(BundleMount("/d", "/s", idmap="uids=1000-0-1"))
    assert found["options"][-1] == "idmap" and "dockyard" not in found
    assert found["uidMappings"] == [{"containerID": 1000, "hostID": 0, "size": 1}]
    assert found["gidMappings"] == [{"containerID": 0, "hostID": 0, "size": (1 << 32) - 1}]
    without_extensions([found])


@pytest.mark.parametrize(
    ("mount", "own"),
    [
        (BundleMount("/d", "/s", idmap="owner"), {"idmap": "owner"}),
        (BundleMount("/d", "/s", chown=True, subpath="a"), {"chown": True, "subpath": "a"}),
        (BundleMount("/d", "img", type="image", image={"type": "x"}), {"image": {"type": "x"}, "subpath": ""}),
    ],
)  # fmt: skip
def test_what_only_our_runtime_can_do(mount: BundleMount, own: dict[str, Any]) -> None:
    found = entry(mount)
    assert found["dockyard"] == own
    with pytest.raises(InvalidArgument, match=r"mount /d: .* works with the runtime dockyard only"):
        without_extensions([found])


@given(st.integers(0, 70_000), st.integers(0, 70_000), st.integers(0, 100_000))
def test_two_owners_change_places_and_nobody_else(one: int, other: int, third: int) -> None:
    def seen(disk: int) -> int:
        return next(to + disk - first for first, to, size in exchange(one, other) if first <= disk < first + size)

    assert (seen(one), seen(other)) == (other, one)
    assert third in (one, other) or seen(third) == third


@pytest.mark.parametrize(
    ("text", "options"),
    [
        ("type=bind,src=/a,dst=/b,chown", {"BindOptions": {"Chown": True}}),
        ("type=bind,src=/a,dst=/b,U=true", {"BindOptions": {"Chown": True}}),
        ("src=v,dst=/b,idmap", {"VolumeOptions": {"IDMap": "owner"}}),
        ("type=bind,src=/a,dst=/b,idmap=uids=1-2-3", {"BindOptions": {"IDMap": "uids=1-2-3"}}),
        ("type=tmpfs,dst=/b,tmpfs-opt=noexec,tmpfs-opt=nr_inodes=5", {
            "TmpfsOptions": {"Options": [["noexec"], ["nr_inodes", "5"]]}
        }),
        ("type=image,src=i,dst=/b,image-subpath=x", {"ImageOptions": {"Subpath": "x"}}),
    ],
)  # fmt: skip
def test_options_of_mount(text: str, options: dict[str, Any]) -> None:
    found = mountspec.parse_mount(text, "/")
    assert {name: value for name, value in found.items() if name.endswith("Options")} == options


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("type=tmpfs,dst=/b,chown", "cannot use 'chown' or 'idmap' with mount type 'tmpfs'"),
        ("type=bind,src=/a,dst=/b,ro,bind-recursive=readonly", "requires 'bind-propagation=rprivate'"),
    ],
)
def test_what_mount_refuses(text: str, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        mountspec.parse_mount(text, "/")


def test_volumes_from() -> None:
    assert parse_volumes_from("web") == ("web", "")
    assert parse_volumes_from("web:ro,z") == ("web", "ro,z")
    for bad in ("", "web:odd", "web:ro,rw", "web:ro,ro", "web:nocopy", "web:rshared"):
        with pytest.raises(InvalidArgument):
            parse_volumes_from(bad)


def test_labels_that_are_asked_for() -> None:
    assert label_options([parse_bind("/a:/b:ro,Z"), parse_bind("/a:/c"), parse_bind("vol:/d:z")]) == ["/b", "/d"]


@pytest.mark.parametrize(
    ("options", "mount", "host"),
    [
        ({}, None, ""),
        ({"size": "1G"}, None, ""),
        ({"type": "", "device": "", "o": ""}, None, ""),
        ({"type": "tmpfs", "device": "tmpfs", "o": "size=1m"}, ("tmpfs", "tmpfs", "size=1m"), ""),
        ({"type": "nfs", "device": ":/x", "o": "addr=nas,rw"}, ("nfs", ":/x", "addr=192.0.2.7,rw"), "nas"),
        ({"type": "nfs4", "device": ":/x", "o": "ro,addr=nas"}, ("nfs4", ":/x", "ro,addr=192.0.2.7"), "nas"),
        ({"type": "cifs", "device": "//nas/s", "o": "vers=3"}, ("cifs", "//nas/s", "vers=3,addr=192.0.2.7"), "nas"),
        ({"type": "cifs", "device": "//nas/s"}, ("cifs", "//nas/s", "addr=192.0.2.7"), "nas"),
    ],
)  # fmt: skip
def test_what_a_volume_mounts(options: dict[str, str], mount: tuple[str, str, str] | None, host: str) -> None:
    volumeopts.check(options)
    found = volumeopts.mount_of(options)
    assert (found.host if found else "") == host
    if found is not None and found.host:
        found = volumeopts.with_address(found, "192.0.2.7")
    assert (found[:3] if found else None) == mount


@pytest.mark.parametrize("options", [{"x": "1"}, {"device": "/x"}, {"type": "t"}, {"o": "ro"}, {"size": "x"},
                                     {"type": "tmpfs", "device": "tmpfs", "size": "1m"}])  # fmt: skip
def test_bad_driver_options(options: dict[str, str]) -> None:
    with pytest.raises(InvalidArgument):
        volumeopts.check(options)
