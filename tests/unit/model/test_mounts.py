"""The three notations of mounts."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dockyard.model.container import BindOptions, ImageOptions, Mount, TmpfsOptions, VolumeOptions
from dockyard.model.errors import InvalidArgument
from dockyard.model.idmaps import IDENTITY, parse_idmap
from dockyard.model.mounts import image_volume, parse_bind, parse_mount, parse_tmpfs


def test_a_bind() -> None:
    point = parse_bind("/src/../data:/x/:ro,rslave")
    assert (point.type, point.source, point.destination) == ("bind", "/data", "/x")
    assert (point.rw, point.propagation, point.mode, point.create_source) == (False, "rslave", "ro,rslave", True)


def test_a_named_and_an_anonymous_volume() -> None:
    named = parse_bind("data:/x:nocopy")
    assert (named.type, named.name, named.no_copy, named.anonymous) == ("volume", "data", True, False)
    anonymous = parse_bind("/x")
    assert (anonymous.type, anonymous.destination, anonymous.anonymous) == ("volume", "/x", True)


@pytest.mark.parametrize(
    ("spec", "text"),
    [
        (":/x", "invalid volume specification: ':/x'"),
        ("/a:", "invalid volume specification: '/a:'"),
        ("/a:/b:ro:rw", "invalid volume specification: '/a:/b:ro:rw'"),
        ("/a:b", "invalid mount path: 'b' mount path must be absolute"),
        ("/a:/", "destination can't be '/'"),
        ("/a:/x/..", "destination can't be '/'"),
        ("/a:/b:ro,rw", "invalid mode: ro,rw"),
        ("/a:/b:what", "invalid mode: what"),
        ("name:/b:rshared", 'invalid mount config for type "volume": field BindOptions must not be specified'),
        ("/a:/b:nocopy", 'invalid mount config for type "bind": field VolumeOptions must not be specified'),
        ("/a:/b:U,idmap", "options U and idmap exclude each other"),
        ("/etc:/b:U", "option U would give /etc of the host away"),
        ("/a:/b:idmap=uids=0-1", "invalid idmap 'uids=0-1'"),
        ("a/b:/c", "includes invalid characters for a local volume name"),
        ("./a:/c", "If you intended to pass a host directory, use absolute path"),
        ("a:/c", "volume name is too short"),
    ],
)
def test_bad_volume_specifications(spec: str, text: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        parse_bind(spec)
    assert text in str(caught.value)


@pytest.mark.parametrize(
    ("mount", "text"),
    [
        (Mount(target="/x", type="zip"), 'invalid mount config for type "zip": mount type unknown'),
        (
            Mount("/x", "", "volume", read_only=True),
            'invalid mount config for type "volume": must not set ReadOnly mode when using anonymous volumes',
        ),
        (Mount(target="/x", type="bind"), 'invalid mount config for type "bind": field Source must not be empty'),
        (Mount(target="/x", type="bind", source="rel"), "mount path must be absolute"),
        (Mount(type="tmpfs"), "field Target must not be empty"),
        (Mount(target="/", type="tmpfs"), "destination can't be '/'"),
        (Mount(target="/x", type="tmpfs", source="/a"), "field Source must not be specified"),
        (Mount(target="/x", type="volume", bind_options=BindOptions()), "field BindOptions must not be specified"),
        (Mount("/x", "/a", "bind", bind_options=BindOptions("odd")), "invalid propagation mode: odd"),
        (Mount(target="/x", type="volume", volume_options=VolumeOptions(subpath="a")), "must not set Subpath"),
        (Mount("/x", "vol", "volume", volume_options=VolumeOptions(subpath="../a")), "within the volume"),
        (Mount("/x", "vol", "volume", volume_options=VolumeOptions(subpath="/a")), "within the volume"),
        (Mount("/x", "img", "image", image_options=ImageOptions(subpath="a/../../b")), "within the image"),
        (Mount("/x", "", "image"), 'invalid mount config for type "image": field Source must not be empty'),
        (Mount("/x", "n", "npipe"), 'invalid mount config for type "npipe": mount type unknown'),
        (Mount("/x", "n", "cluster"), "swarm"),
        (Mount("/x", "../v", "volume"), 'create ../v: "../v" includes invalid characters for a local volume name'),
        (Mount("/x", "/a", "bind", bind_options=BindOptions(read_only_non_recursive=True)), "must be read-only"),
        (Mount("/x", "/a", "bind", bind_options=BindOptions(read_only_force_recursive=True)), "must be read-only"),
        (
            Mount("/x", "/a", "bind", True, bind_options=BindOptions("rslave", read_only_force_recursive=True)),
            "requires the propagation rprivate",
        ),
        (Mount("/x", "", "tmpfs", tmpfs_options=TmpfsOptions(size_bytes=-1)), "size must not be negative"),
        (Mount("/x", "", "tmpfs", tmpfs_options=TmpfsOptions(options=[["a", "b", "c"]])), "invalid option array"),
        (Mount("/x", "/a", "bind", consistency="odd"), "unknown consistency: odd"),
        (Mount("/x", "/etc", "bind", bind_options=BindOptions(chown=True)), "would give /etc"),
    ],
)
def test_bad_mounts(mount: Mount, text: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        parse_mount(mount)
    assert text in str(caught.value)


def test_a_tmpfs_mount_as_options() -> None:
    point = parse_mount(Mount(target="/t", type="tmpfs", tmpfs_options=TmpfsOptions(size_bytes=65536, mode=0o1770)))
    assert (point.destination, point.mode) == ("/t", "mode=1770,size=65536")
    assert parse_tmpfs("/run", "ro,size=1m").rw is False


def test_an_image_is_mounted_read_only_whatever_was_asked() -> None:
    point = parse_mount(Mount("/x", "alpine", "image", image_options=ImageOptions(subpath="usr//lib/.")))
    assert (point.rw, point.source, point.subpath) == (False, "alpine", "usr/lib")


def test_mappings_of_owners() -> None:
    assert parse_idmap("owner") is None
    found = parse_idmap("uids=0-1000-1#1-2000-65535")
    assert found is not None and found.gids == IDENTITY
    assert [tuple(r) for r in found.uids] == [(0, 1000, 1), (1, 2000, 65535)]


@pytest.mark.parametrize(
    "text", ["", "x", "uids=", "uids=0-0-0", "uids=0-1-2#1-9-1", "uids=1-0-2#9-1-1", "uids=4294967295-0-1",
             "uids=0-0-1;uids=0-0-1", "uids=a-b-c", "uids=0-0-4294967296", "@0-0-1"],
)  # fmt: skip
def test_bad_mappings(text: str) -> None:
    with pytest.raises(InvalidArgument, match="invalid idmap"):
        parse_idmap(text)


@pytest.mark.parametrize("target", ["", "/", "..", "/..", "../..", "//", "."])
def test_s35_an_images_volume_that_names_nothing_inside_is_no_mount(target: str) -> None:
    assert image_volume(target) is None


@given(st.text(alphabet="ab/.:~-_ ,", max_size=30))
def test_any_text_is_read_or_refused(spec: str) -> None:
    try:
        point = parse_bind(spec)
    except InvalidArgument:
        return
    assert point.destination.startswith("/") and ".." not in point.destination.split("/") and point.destination != "/"
