"""Mounts of containers: copies into new volumes, volumes that are mounts, --volumes-from, image mounts, ownership."""

from __future__ import annotations

import io
import json
import os
import subprocess
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import docker
import pytest

from tests.support import busybox, steps
from tests.support.engines import Dockyardd, Engine
from tests.support.flagged import load_images
from tests.support.leaks import mounts
from tests.support.rawhttp import Connection

OURS = "dockerd 20.10 has no such thing"


def layer() -> bytes:
    """/data with owner, mode, a link and a hard link; /void, empty with a mode; /alias, a link to /data."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as tar:

        def add(name: str, kind: bytes, mode: int, data: bytes = b"", link: str = "", uid: int = 0) -> None:
            entry = tarfile.TarInfo(name)
            entry.type, entry.mode, entry.linkname, entry.size = kind, mode, link, len(data)
            entry.uid = entry.gid = uid
            tar.addfile(entry, io.BytesIO(data))

        add("data", tarfile.DIRTYPE, 0o2750, uid=1000)
        add("data/file", tarfile.REGTYPE, 0o640, b"from the image\n", uid=33)
        add("data/link", tarfile.SYMTYPE, 0o777, link="/etc/passwd")
        add("data/sub", tarfile.DIRTYPE, 0o755)
        add("data/sub/same", tarfile.LNKTYPE, 0o640, link="data/file", uid=33)
        add("void", tarfile.DIRTYPE, 0o711, uid=1000)
        add("alias", tarfile.SYMTYPE, 0o777, link="data")
    return out.getvalue()


@pytest.fixture(scope="module")
def image(engine: Engine) -> str:
    """`filled`: bb with the layer above, and VOLUME /data."""
    layers = [busybox.rootfs_tar(), layer()]
    archive = busybox.docker_archive(["filled:latest"], layers, {"Cmd": ["sh"], "Volumes": {"/data": {}}})
    engine.docker("load", "-q", input=archive)
    return "filled"


@pytest.fixture(autouse=True)
def no_volumes(engine: Engine) -> Iterator[None]:
    """No test leaves volumes behind for the next."""
    yield
    engine.remove_containers()
    for name in engine.out("volume", "ls", "-q").split():
        engine.docker("volume", "rm", name)


def refusal(api: Connection, host: dict[str, Any], status: tuple[int, ...] = (400, 500), **config: Any) -> str:
    """The text with which a container is refused; nothing is left of it."""
    answer = api.request("POST", "/containers/create", {"Image": "bb", "HostConfig": host, **config})
    assert answer.status in status, answer.body
    return answer.message


# --- what the image has there ---


LOOK = "stat -c '%n %a %u:%g' /data /data/file /data/sub; readlink /data/link; cat /data/sub/same; ls -i /data | wc -l"
EXPECTED = ["/data 2750 1000:1000", "/data/file 640 33:33", "/data/sub 755 0:0", "/etc/passwd", "from the image", "3"]


def test_a_new_volume_has_what_the_image_has(engine: Engine, image: str) -> None:
    assert engine.out("run", "--rm", image, "sh", "-c", LOOK).splitlines() == EXPECTED, "an anonymous one"
    assert engine.out("run", "--rm", "-v", "named:/data", image, "sh", "-c", LOOK).splitlines() == EXPECTED
    script = "rm /data/file; stat -c %h /data/sub/same"
    assert engine.out("run", "--rm", "-v", "named:/data", image, "sh", "-c", script) == "1", "hard links are kept"
    printed = engine.out("run", "--rm", "-v", "named:/data", image, "ls", "/data")
    assert printed.split() == ["link", "sub"], "a volume with content stays as it is"
    assert engine.out("run", "--rm", "-v", "bare:/data:nocopy", image, "ls", "/data") == ""
    assert engine.out("run", "--rm", "-v", "empty:/void", image, "stat", "-c", "%a %u", "/void") == "711 1000"


def test_a_volume_of_a_link_is_filled_from_where_it_leads(engine: Engine, image: str) -> None:
    assert engine.out("run", "--rm", "-v", "linked:/alias", image, "cat", "/alias/file") == "from the image"


@pytest.mark.dockyardd_only("dockerd mounts a directory over the file and fails at the start")
def test_no_volume_over_a_file(engine: Engine, api: Connection) -> None:
    text = refusal(api, {"Binds": ["onfile:/etc/passwd"]})
    assert text == "cannot mount volume over existing file, file exists /etc/passwd"


# --- which volumes stay ---


def test_rm_v_takes_anonymous_volumes_only(engine: Engine, image: str) -> None:
    engine.docker("create", "--name", "one", "-v", "mine:/mine", "-v", "/other", image, "true")
    assert len(engine.out("volume", "ls", "-q").split()) == 3
    engine.docker("create", "--name", "two", "--volumes-from", "one", image, "true")
    engine.docker("rm", "-v", "one")
    assert len(engine.out("volume", "ls", "-q").split()) == 3, "the other container has them"
    engine.docker("rm", "-v", "two")
    left = engine.out("volume", "ls", "-q").split()
    assert "mine" in left
    if engine.name == "dockyardd":  # dockerd forgets that a volume taken over is anonymous
        assert left == ["mine"]


def test_volumes_from(engine: Engine, api: Connection, tmp_path: Path) -> None:
    (tmp_path / "x").write_text("bound\n")
    words = ["-v", "shared:/data", "-v", f"{tmp_path}:/bound:ro"]
    engine.docker("run", "--name", "giver", *words, "bb", "sh", "-c", "echo given > /data/g")
    assert engine.out("run", "--rm", "--volumes-from", "giver", "bb", "cat", "/data/g", "/bound/x") == "given\nbound"
    printed = engine.out("run", "--rm", "--volumes-from", "giver:ro", "bb", "sh", "-c", "touch /data/n 2>&1; true")
    assert "Read-only" in printed
    printed = engine.out("run", "--rm", "--volumes-from", "giver", "-v", "other:/data", "bb", "ls", "/data")
    assert printed == "", "-v wins"
    engine.docker("run", "--name", "later", "-v", "/data", "bb", "touch", "/data/later")
    assert (
        engine.out("run", "--rm", "--volumes-from", "giver", "--volumes-from", "later", "bb", "ls", "/data") == "later"
    )
    assert refusal(api, {"VolumesFrom": ["nosuch"]}) == "No such container: nosuch"
    assert refusal(api, {"VolumesFrom": ["giver:odd"]}) == "invalid mode: odd"
    assert refusal(api, {"VolumesFrom": [""]}) == "volumes-from specification cannot be an empty string"


# --- volume create, ls, inspect, prune ---


def test_labels_options_filters_and_formats(engine: Engine, client: docker.DockerClient) -> None:
    engine.docker("volume", "create", "--label", "tier=db", "--label", "x", "labelled")
    made = client.volumes.create("byapi", driver="local", labels={"tier": "web"})
    assert made.attrs["Labels"] == {"tier": "web"} and made.attrs["Mountpoint"].endswith("/volumes/byapi/_data")
    assert engine.out("volume", "ls", "-q", "-f", "label=tier=db") == "labelled"
    assert engine.out("volume", "ls", "-q", "-f", "label=tier").split() == ["byapi", "labelled"]
    assert engine.out("volume", "ls", "-q", "-f", "driver=local", "-f", "name=by").split() == ["byapi"]
    assert engine.out("volume", "ls", "-q", "-f", "driver=other") == ""
    row = engine.out("volume", "ls", "--format", '{{.Name}}|{{.Driver}}|{{.Scope}}|{{.Label "tier"}}', "-f", "name=lab")
    assert row == "labelled|local|local|db"
    inspected = json.loads(engine.out("volume", "inspect", "labelled"))[0]
    assert inspected["Labels"] == {"tier": "db", "x": ""} and inspected["Options"] in (None, {})
    again = client.volumes.create("byapi", labels={"tier": "other"})
    assert again.attrs["Labels"] == {"tier": "web"}, "one that is there stays as it is"
    unnamed = client.volumes.create()
    assert len(unnamed.name) == 64


def test_prune_in_old_and_new(engine: Engine, api: Connection) -> None:
    engine.docker("volume", "create", "named")
    engine.docker("volume", "create", "--label", "keep=1", "kept")
    engine.docker("create", "--name", "user", "-v", "used:/x", "bb", "true")
    answer = api.request("POST", "/v1.40/volumes/prune", None, {"filters": {"label!": ["keep=1"]}}).json()
    assert answer["VolumesDeleted"] == ["named"], "older clients mean all volumes"
    assert set(engine.out("volume", "ls", "-q").split()) == {"kept", "used"}
    if engine.name == "dockyardd":
        anonymous = api.request("POST", "/volumes/create", {}).json()["Name"]
        assert api.request("POST", "/volumes/prune").json()["VolumesDeleted"] == [anonymous]
        answer = api.request("POST", "/volumes/prune", None, {"filters": {"all": ["true"]}}).json()
        assert answer["VolumesDeleted"] == ["kept"]


def test_sizes_and_users_in_system_df(engine: Engine, api: Connection) -> None:
    engine.docker("run", "--name", "user", "-v", "sized:/x", "bb", "sh", "-c", "head -c 100000 /dev/zero > /x/f")
    row = next(each for each in api.get("/system/df").json()["Volumes"] if each["Name"] == "sized")
    assert row["UsageData"] == {"RefCount": 1, "Size": 100000}


def test_events_of_a_volume(engine: Engine, api: Connection) -> None:
    since = f"{time.time():.9f}"
    engine.docker("run", "--rm", "-v", "told:/x:ro", "bb", "true")
    engine.docker("volume", "rm", "told")
    until = f"{time.time() + 0.01:.9f}"
    events = api.get("/events", since=since, until=until, filters={"type": ["volume"], "volume": ["told"]}).lines()
    found = {event["Action"]: event["Actor"]["Attributes"] for event in events}
    assert found.keys() == {"create", "mount", "unmount", "destroy"}
    assert found["mount"]["destination"] == "/x" and found["mount"]["read/write"] == "false"
    assert found["mount"]["container"] == found["unmount"]["container"] and found["create"] == {"driver": "local"}


def test_an_update_is_for_swarms(api: Connection, engine: Engine) -> None:
    if engine.name == "dockerd":
        pytest.skip("API 1.42")
    answer = api.request("PUT", "/volumes/any?version=1", {"Spec": {}})
    assert (answer.status, answer.message) == (
        503, "volume update only valid for cluster volumes, but swarm is unavailable",
    )  # fmt: skip


# --- volumes that are mounts ---


def below(engine: Engine) -> set[str]:
    """Volumes mounted where the engine is."""
    text = Path(f"/proc/{engine.pid}/mountinfo").read_text()
    points = {line.split()[4] for line in text.splitlines()}
    return {point for point in points if point.startswith(f"{engine.data_root}/volumes/")}


def test_a_tmpfs_volume_is_there_while_somebody_has_it(engine: Engine) -> None:
    words = ["-o", "type=tmpfs", "-o", "device=tmpfs", "-o", "o=size=1m,uid=1000"]
    engine.docker("volume", "create", *words, "quick")
    engine.docker("run", "-d", "--name", "one", "-v", "quick:/x", "bb", "sleep", "100")
    engine.docker("exec", "one", "sh", "-c", "echo shared > /x/f")
    assert len(below(engine)) == 1
    assert engine.out("run", "--rm", "-v", "quick:/x", "bb", "sh", "-c", "cat /x/f; stat -c %u /x") == "shared\n1000"
    assert "size=1024k" in engine.out("exec", "one", "grep", " /x ", "/proc/mounts")
    engine.docker("rm", "-f", "one")
    steps.eventually(lambda: not below(engine))
    assert engine.out("run", "--rm", "-v", "quick:/x", "bb", "ls", "/x") == "", "what was in it has gone with it"
    engine.docker("volume", "rm", "quick")


def test_a_volume_bound_elsewhere(engine: Engine, tmp_path: Path) -> None:
    (tmp_path / "x").write_text("there\n")
    words = ["-o", "type=none", "-o", "o=bind,ro", "-o", f"device={tmp_path}"]
    engine.docker("volume", "create", *words, "there")
    script = "cat /x/x; touch /x/y 2>&1 | grep -c Read-only"
    assert engine.out("run", "--rm", "-v", "there:/x", "bb", "sh", "-c", script) == "there\n1"
    steps.eventually(lambda: not below(engine))
    engine.docker("volume", "rm", "there")
    assert (tmp_path / "x").exists()


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"type": "none", "o": "bind", "device": "/no/such/directory"}, "flags: 0x1000: no such file or directory"),
        ({"type": "nosuchfs", "device": "x", "o": "a=b"}, "data: a=b: no such device"),
    ],
)
def test_a_mount_that_fails_is_told_at_the_start(engine: Engine, api: Connection, options: Any, text: str) -> None:
    engine.request("POST", "/volumes/create", {"Name": "broken", "DriverOpts": options})
    identifier = steps.create(api, "true", host={"Binds": ["broken:/x"]})
    answer = api.post(f"/containers/{identifier}/start")
    assert answer.status == 500 and answer.message.endswith(text), answer.message
    assert "error while mounting volume '" in answer.message and "failed to mount local volume: mount" in answer.message
    assert not below(engine)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"odd": "1"}, 'create v1: invalid option: "odd"'),
        ({"device": "/x"}, 'create v1: missing required option: "type"'),
        ({"type": "tmpfs"}, 'create v1: missing required option: "device"'),
        ({"size": "1m"}, "create v1: quota size requested but no quota support"),
    ],
)
def test_bad_driver_options(api: Connection, options: dict[str, str], text: str) -> None:
    answer = api.request("POST", "/volumes/create", {"Name": "v1", "DriverOpts": options})
    assert (answer.status, answer.message) == (400, text)


# --- bad mounts, by field ---


def mount(**fields: Any) -> dict[str, Any]:
    return {"Mounts": [{"Type": "bind", "Target": "/d", "Source": "/tmp", **fields}]}


REFUSED: list[tuple[dict[str, Any], str]] = [
    (
        {"Binds": ["/tmp:/d:z,nocopy"]},
        'invalid mount config for type "bind": field VolumeOptions must not be specified',
    ),
    ({"Binds": ["vv:/d:rshared"]}, 'invalid mount config for type "volume": field BindOptions must not be specified'),
    ({"Binds": ["/tmp:/d:z,Z"]}, "invalid mode: z,Z"),
    ({"Binds": ["/tmp:d"]}, "invalid mount path: 'd' mount path must be absolute"),
    ({"Binds": ["/tmp:/"]}, "invalid specification: destination can't be '/'"),
    ({"Binds": ["a:/d"]}, "create a: volume name is too short, names should be at least two alphanumeric characters"),
    ({"Binds": ["/tmp:/d", "/etc:/d"]}, "Duplicate mount point: /d"),
    ({"Binds": ["/tmp:/d"], "Tmpfs": {"/d": ""}}, "Duplicate mount point: /d"),
    ({"Binds": ["/tmp:/d"], **mount()}, "Duplicate mount point: /d"),
    ({"Tmpfs": {"d": ""}}, "invalid mount path: 'd' mount path must be absolute"),
    (mount(Type="odd"), 'invalid mount config for type "odd": mount type unknown'),
    (mount(Type="npipe"), 'invalid mount config for type "npipe": mount type unknown'),
    (mount(Target=""), 'invalid mount config for type "bind": field Target must not be empty'),
    (mount(Target="d"), "invalid mount path: 'd' mount path must be absolute"),
    (mount(Source=""), 'invalid mount config for type "bind": field Source must not be empty'),
    (mount(Source="tmp"), "invalid mount path: 'tmp' mount path must be absolute"),
    (mount(Source="/no/such"), 'invalid mount config for type "bind": bind source path does not exist: /no/such'),
    (mount(BindOptions={"Propagation": "odd"}), 'invalid mount config for type "bind": invalid propagation mode: odd'),
    (mount(VolumeOptions={}), 'invalid mount config for type "bind": field VolumeOptions must not be specified'),
    (mount(Type="tmpfs"), 'invalid mount config for type "tmpfs": field Source must not be specified'),
    (mount(Type="volume", Source="../up"), 'create ../up: "../up" includes invalid characters for a local volume name'),
    (
        {"VolumeDriver": "nosuch", "Binds": ["vv:/d"]},
        'error looking up volume plugin nosuch: plugin "nosuch" not found',
    ),
    ({"StorageOpt": {"odd": "1"}}, "Unknown option odd"),
    ({"StorageOpt": {"size": "1G"}}, "--storage-opt is supported only for overlay over xfs with 'pquota' mount option"),
]


@pytest.mark.parametrize(("host", "text"), REFUSED, ids=[text[-40:] for _, text in REFUSED])
def test_s26_what_is_refused(engine: Engine, api: Connection, host: dict[str, Any], text: str) -> None:
    if engine.name == "dockerd" and "nosuch" in text and "plugin" in text:
        pytest.skip("dockerd looks for a plugin for 15 s")
    assert text in refusal(api, host, (400, 404, 500))
    if engine.name == "dockyardd":
        assert engine.out("volume", "ls", "-q") == "" or "vv" in str(host)


NEWER: list[tuple[dict[str, Any], str]] = [
    (mount(BindOptions={"ReadOnlyNonRecursive": True}), "mount must be read-only to use ReadOnlyNonRecursive"),
    (mount(BindOptions={"ReadOnlyForceRecursive": True}), "mount must be read-only to use ReadOnlyForceRecursive"),
    (
        mount(ReadOnly=True, BindOptions={"ReadOnlyForceRecursive": True, "Propagation": "rslave"}),
        "ReadOnlyForceRecursive requires the propagation rprivate",
    ),
    (mount(Type="volume", Source="", VolumeOptions={"Subpath": "a"}), "must not set Subpath when using anonymous"),
    (mount(Type="volume", Source="vv", VolumeOptions={"Subpath": "../a"}), "subpath must be a relative path within"),
    (mount(Type="image", Source=""), 'invalid mount config for type "image": field Source must not be empty'),
    (mount(Type="image", Source="nosuch"), "No such image: nosuch"),
    (mount(Type="image", Source="bb", ImageOptions={"Subpath": "/etc"}), "subpath must be a relative path within"),
    (mount(Type="cluster", Source="x"), "cluster volumes need a swarm"),
    (mount(Consistency="odd"), "unknown consistency: odd"),
    (mount(Type="tmpfs", Source="", TmpfsOptions={"SizeBytes": -1}), "size must not be negative"),
    (mount(Type="tmpfs", Source="", TmpfsOptions={"Options": [["odd"]]}), 'invalid tmpfs option ["odd"]'),
    ({"Tmpfs": {"/d": "odd"}}, 'invalid tmpfs option ["odd"]'),
    (mount(BindOptions={"Chown": True, "IDMap": "owner"}), "options U and idmap exclude each other"),
    (mount(Source="/etc", BindOptions={"Chown": True}), "option U would give /etc of the host away"),
    (mount(BindOptions={"IDMap": "uids=odd"}), "invalid idmap 'uids=odd'"),
]


@pytest.mark.dockyardd_only(OURS)
@pytest.mark.parametrize(("host", "text"), NEWER, ids=[text[-40:] for _, text in NEWER])
def test_what_is_refused_of_newer_fields(api: Connection, host: dict[str, Any], text: str) -> None:
    assert text in refusal(api, host)


@pytest.mark.dockyardd_only("dockerd says nothing about labels")
def test_selinux_labels_are_ignored_with_a_warning(api: Connection) -> None:
    if os.path.isdir("/sys/fs/selinux"):
        pytest.skip("SELinux is enabled")
    made = api.request("POST", "/containers/create", {"Image": "bb", "HostConfig": {"Binds": ["/tmp:/d:Z"]}}).json()
    assert made["Warnings"] == ["SELinux is not supported: options z and Z have no effect on /d"]


# --- binds ---


@pytest.fixture
def nested(tmp_path: Path) -> Iterator[Path]:
    """A directory in which a tmpfs is mounted at `in`."""
    (tmp_path / "in").mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", tmp_path / "in"], check=True)
    (tmp_path / "in" / "f").write_text("x")
    yield tmp_path
    subprocess.run(["umount", tmp_path / "in"], check=True)


@pytest.mark.dockyardd_only("API 1.44")
def test_read_only_all_the_way_down_or_not(engine: Engine, api: Connection, nested: Path) -> None:
    script = "touch /d/a 2>/dev/null && echo outer; touch /d/in/a 2>/dev/null && echo inner; ls /d/in"

    def printed(read_only: bool, version: str = "v1.50", **options: bool) -> list[str]:
        mounts_ = mount(Source=str(nested), ReadOnly=read_only, BindOptions=options)
        body = {"Image": "bb", "Cmd": ["sh", "-c", script], "HostConfig": mounts_}
        identifier = api.request("POST", f"/{version}/containers/create", body).json()["Id"]
        steps.start(api, identifier)
        steps.wait(api, identifier)
        return steps.logs(api, identifier)[0].split()

    assert printed(True) == ["f"]
    assert printed(True, ReadOnlyForceRecursive=True) == ["f"]
    assert printed(True, NonRecursive=True) == [], "what is mounted below is not there"
    assert printed(True, ReadOnlyNonRecursive=True) == ["inner", "a", "f"]
    assert printed(True, "v1.43") == ["inner", "a", "f"], "older clients know no other"
    assert printed(False) == ["outer", "inner", "a", "f"]


@pytest.mark.dockyardd_only("API 1.42")
def test_a_source_is_made_when_asked_for(api: Connection, tmp_path: Path) -> None:
    source = tmp_path / "new" / "deep"
    identifier = steps.create(api, "true", host=mount(Source=str(source), BindOptions={"CreateMountpoint": True}))
    steps.start(api, identifier)
    assert steps.wait(api, identifier) == 0 and source.is_dir()


@pytest.mark.dockyardd_only("dockerd of the tests has a mount namespace of its own")
def test_propagation(engine: Engine, tmp_path: Path) -> None:
    """Mounts made on the host while it runs are seen with rslave and rshared; those made inside come out of rshared."""
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", tmp_path], check=True)
    try:
        subprocess.run(["mount", "--make-shared", tmp_path], check=True)
        for name in ("in", "out"):
            (tmp_path / name).mkdir()
        modes = ("rprivate", "rslave", "rshared")
        for mode in modes:
            words = ["-d", "--name", mode, "--privileged", "-v", f"{tmp_path}:/d:{mode}"]
            engine.docker("run", *words, "bb", "sleep", "100")
        subprocess.run(["mount", "-t", "tmpfs", "tmpfs", tmp_path / "in"], check=True)
        try:
            (tmp_path / "in" / "f").touch()
            assert [engine.out("exec", mode, "ls", "/d/in") for mode in modes] == ["", "f", "f"]
        finally:
            subprocess.run(["umount", tmp_path / "in"], check=True)
        seen = []
        for mode in modes:
            engine.docker("exec", mode, "mount", "-t", "tmpfs", "tmpfs", "/d/out")
            seen.append(str(tmp_path / "out") in mounts())
            engine.docker("exec", mode, "umount", "/d/out")
        assert seen == [False, False, True]
    finally:
        engine.remove_containers()
        subprocess.run(["umount", tmp_path], check=True)


# --- parts of volumes, images ---


@pytest.mark.dockyardd_only("API 1.45")
def test_a_part_of_a_volume(engine: Engine, api: Connection) -> None:
    script = "mkdir -p /v/a/b; echo deep > /v/a/b/f; ln -s /etc /v/out; ln -s ../../.. /v/a/up; ln -s a /v/in"
    engine.docker("run", "--rm", "-v", "parts:/v", "bb", "sh", "-c", script)

    def part(path: str) -> tuple[int, str]:
        body = mount(Type="volume", Source="parts", VolumeOptions={"Subpath": path})
        identifier = steps.create(api, "cat", "/d/b/f", host=body)
        answer = api.post(f"/containers/{identifier}/start")
        if answer.status != 204:
            return answer.status, answer.message
        steps.wait(api, identifier)
        return 204, steps.logs(api, identifier)[0].strip()

    assert part("a") == (204, "deep") and part("./in/") == (204, "deep")
    for path in ("out", "a/up", "nosuch"):
        status, text = part(path)
        assert status in (400, 500) and f"subpath {path} of" in text, text


@pytest.mark.dockyardd_only("API 1.48")
def test_an_image_as_a_mount(engine: Engine, api: Connection, image: str) -> None:
    engine.docker("tag", image, "mounted")
    script = "cat /d/data/file; touch /d/data/x 2>&1 | grep -c Read-only; cat /p/same; ls -d /d/bin/busybox"
    host = {
        "Mounts": [
            {"Type": "image", "Target": "/d", "Source": "mounted"},
            {"Type": "image", "Target": "/p", "Source": "mounted", "ImageOptions": {"Subpath": "alias/sub"}},
        ]
    }
    identifier = steps.create(api, "sh", "-c", script, host=host)
    steps.start(api, identifier)
    steps.wait(api, identifier)
    out = steps.logs(api, identifier)[0].splitlines()
    assert out == ["from the image", "1", "from the image", "/d/bin/busybox"]
    found = {each["Destination"]: each for each in steps.inspect(api, identifier)["Mounts"]}
    assert (found["/d"]["Type"], found["/d"]["Source"], found["/d"]["RW"]) == ("image", "mounted", False)
    engine.docker("rmi", "-f", "mounted", image)
    steps.start(api, identifier)
    assert steps.wait(api, identifier) == 0, "its layers stay while the container is there"
    engine.docker("load", "-q", input=busybox.docker_archive(
        ["filled:latest"], [busybox.rootfs_tar(), layer()], {"Cmd": ["sh"], "Volumes": {"/data": {}}}
    ))  # fmt: skip


# --- whose files these are ---


@pytest.mark.dockyardd_only("an extension")
@pytest.mark.parametrize("user", ["1000", "dock", "0"])
def test_given_to_the_containers_user(engine: Engine, tmp_path: Path, user: str) -> None:
    source = tmp_path / "src"
    (source / "sub").mkdir(parents=True)
    (source / "sub" / "f").write_text("x")
    (source / "link").symlink_to("/etc/passwd")
    os.chown(source / "sub", 33, 33)
    before = os.stat("/etc/passwd").st_uid
    script = "stat -c %u:%g /d /d/sub /d/sub/f; touch /d/sub/new 2>/dev/null; echo $?"
    out = engine.out("run", "--rm", "-u", user, "-v", f"{source}:/d:ro,U", "bb", "sh", "-c", script).split()
    wanted = "0:0" if user == "0" else "1000:0" if user == "1000" and out[0] == "1000:0" else "1000:1000"
    assert out == [wanted, wanted, wanted, "1"], "also behind a read-only mount"
    assert os.lstat(source / "link").st_uid == int(wanted.split(":")[0]) and os.stat("/etc/passwd").st_uid == before
    printed = engine.out("run", "--rm", "-u", user, "-v", "vol:/v:U", "bb", "sh", "-c", "touch /v/x && stat -c %u /v/x")
    assert printed == wanted.split(":")[0]


@pytest.mark.dockyardd_only("an extension")
def test_mapped_owners(engine: Engine, api: Connection, tmp_path: Path) -> None:
    """On disk the files are 1234's; the container's user sees them as its own, and what it makes is 1234's."""
    source = tmp_path / "src"
    source.mkdir()
    (source / "f").write_text("x")
    for path in (source, source / "f"):
        os.chown(path, 1234, 1235)
    script = "stat -c %u:%g /d /d/f; touch /d/new && stat -c %u:%g /d/new"
    out = engine.out("run", "--rm", "-v", f"{source}:/d:idmap", "bb", "sh", "-c", script)
    assert out.split() == ["0:0"] * 3
    assert (os.stat(source / "new").st_uid, os.stat(source / "new").st_gid) == (1234, 1235)
    out = engine.out("run", "--rm", "-u", "dock", "-v", f"{source}:/d:idmap", "bb", "stat", "-c", "%u:%g", "/d/f")
    assert out == "1000:1000"
    host = mount(Source=str(source), BindOptions={"IDMap": "uids=1234-7-1;gids=0-0-2000"})
    identifier = steps.create(api, "stat", "-c", "%u:%g", "/d/f", host=host)
    steps.start(api, identifier)
    steps.wait(api, identifier)
    assert steps.logs(api, identifier)[0].strip() == "7:1235"


# --- kill ---


def test_a_daemon_killed_while_a_volume_is_filled(request: pytest.FixtureRequest) -> None:
    """Whenever it happens, the next container finds everything that the image has."""
    if request.config.getoption("--engine") == "dockerd":
        pytest.skip("kills dockyardd")
    files = {f"data/{number}": b"x" * 200 for number in range(400)}
    layers = [busybox.rootfs_tar(), busybox.layer_tar(files)]
    cut = 0
    with Dockyardd(bridge="dyv0", subnet="10.231.14.0/24") as engine:
        engine.docker("load", "-q", input=busybox.docker_archive(["many:latest"], layers, {"Cmd": ["sh"]}))
        for attempt in range(4):
            name = f"victim{attempt}"
            running = engine.spawn("create", "-v", f"{name}:/data", "many", "true")
            place = engine.data_root / "volumes" / name
            end = time.monotonic() + 10
            while not place.exists() and time.monotonic() < end:
                time.sleep(0.0005)
            time.sleep(0.008 * attempt)
            engine.kill()
            running.communicate(timeout=30)
            data = place / "_data"
            cut += not data.exists() or len(list(data.iterdir())) < 400
            engine.start()
            if data.exists():
                assert len(list(data.iterdir())) in (0, 400)
            assert engine.out("run", "--rm", "-v", f"{name}:/data", "many", "sh", "-c", "ls /data | wc -l") == "400"
            assert {entry.name for entry in place.iterdir()} == {"_data"}
    assert cut, "never in the middle: the test tests nothing"


def test_a_mounted_volume_outlives_the_daemon_but_not_its_containers(request: pytest.FixtureRequest) -> None:
    if request.config.getoption("--engine") == "dockerd":
        pytest.skip("kills dockyardd")
    with Dockyardd(bridge="dyv0", subnet="10.231.14.0/24") as engine:
        load_images(engine)
        engine.docker("volume", "create", "-o", "type=tmpfs", "-o", "device=tmpfs", "quick")
        for name in ("one", "two"):
            engine.docker("run", "-d", "--name", name, "-v", "quick:/x", "bb", "sleep", "100")
        engine.docker("exec", "one", "touch", "/x/kept")
        engine.kill()
        engine.start()
        engine.docker("rm", "-f", "one")
        assert engine.out("run", "--rm", "-v", "quick:/x", "bb", "ls", "/x") == "kept" and below(engine)
        pid = int(engine.out("inspect", "-f", "{{.State.Pid}}", "two"))
        engine.kill()
        os.kill(pid, 9)
        engine.start()
        assert not below(engine), "whose last container has ended meanwhile"
        assert engine.out("run", "--rm", "-v", "quick:/x", "bb", "ls", "/x") == ""


@pytest.mark.dockyardd_only("API 1.48")
def test_cp_sees_the_mounts_of_what_does_not_run(engine: Engine, api: Connection, image: str, tmp_path: Path) -> None:
    engine.docker("run", "--rm", "-v", "parts:/v", "bb", "sh", "-c", "mkdir /v/a; echo deep > /v/a/f")
    host = {
        "Mounts": [
            {"Type": "image", "Target": "/i", "Source": image, "ImageOptions": {"Subpath": "data"}},
            {"Type": "volume", "Target": "/p", "Source": "parts", "VolumeOptions": {"Subpath": "a"}},
        ]
    }
    steps.create(api, "true", name="resting", host=host)
    for source, text in (("/p/f", "deep\n"), ("/i/file", "from the image\n")):
        engine.docker("cp", f"resting:{source}", str(tmp_path / "out"))
        assert (tmp_path / "out").read_text() == text
