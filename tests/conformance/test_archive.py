"""Files of containers: archive both ways, changes, export, by the API and by both clients."""

from __future__ import annotations

import base64
import bz2
import gzip
import io
import json
import lzma
import os
import stat
import subprocess
import sys
import tarfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import docker
import pytest

from tests.support import busybox
from tests.support.engines import Engine, docker_cli
from tests.support.rawhttp import Connection, Response

DOCKYARD = str(Path(sys.executable).with_name("dockyard"))
TAR = {"Content-Type": "application/x-tar"}
FORBIDDEN = {"dockerd": 500, "dockyardd": 403}
INVALID = {"dockerd": 500, "dockyardd": 400}


@pytest.fixture
def running(engine: Engine) -> str:
    """A container with files of every kind: /a/{b/h,l -> b,abs -> /a/b,gone -> nowhere,fifo}, a volume at /vol."""
    script = (
        "mkdir -p /a/b /vol; echo hello > /a/b/h; ln /a/b/h /a/b/same; ln -s b /a/l; ln -s /a/b /a/abs; "
        "ln -s /nowhere/x /a/gone; mkfifo /a/fifo; chown 33:50 /a/b/h; chmod 4750 /a/b/h; touch -d @1700000000 /a/b/h; "
        "ln -s /vol /to-vol; echo v > /vol/f; echo ready; exec sleep 1000"
    )
    engine.docker("run", "-d", "--name", "files", "-v", "/vol", "bb", "sh", "-c", script)
    _until(lambda: b"ready" in engine.docker("logs", "files").stdout)
    return "files"


def _until(condition: Callable[[], object], seconds: float = 15) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it does not come true"
        time.sleep(0.02)


def get(api: Connection, path: str, name: str = "files") -> Response:
    return api.request("GET", f"/containers/{name}/archive", query={"path": path})


def put(api: Connection, path: str, data: bytes, name: str = "files", **query: str) -> Response:
    return api.request("PUT", f"/containers/{name}/archive", query={"path": path, **query}, raw=data, headers=TAR)


def described(answer: Response) -> dict[str, Any]:
    """The path stat, without the times."""
    found: dict[str, Any] = json.loads(base64.b64decode(answer.headers["x-docker-container-path-stat"]))
    assert found.pop("mtime").startswith("20")
    return found


def members(data: bytes) -> dict[str, tarfile.TarInfo]:
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        return {each.name: each for each in tar.getmembers()}


def tar(*entries: tuple[str, bytes | None] | tarfile.TarInfo) -> bytes:
    """A tar of files (name, content) and directories (name, None), or of entries as they are given."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for each in entries:
            if isinstance(each, tarfile.TarInfo):
                archive.addfile(each)
                continue
            entry = tarfile.TarInfo(each[0])
            entry.mtime, entry.mode = busybox.MTIME, 0o755 if (each[1] or b"#!").startswith(b"#!") else 0o644
            entry.type = tarfile.REGTYPE if each[1] is not None else tarfile.DIRTYPE
            entry.size = len(each[1] or b"")
            archive.addfile(entry, io.BytesIO(each[1] or b""))
    return out.getvalue()


def link(name: str, target: str, kind: bytes = tarfile.SYMTYPE) -> tarfile.TarInfo:
    entry = tarfile.TarInfo(name)
    entry.type, entry.linkname = kind, target
    return entry


def inside(engine: Engine, script: str, name: str = "files") -> str:
    return engine.docker("exec", name, "sh", "-c", script).stdout.decode()


# --- out -------------------------------------------------------------------------------------------------------------


def test_what_lies_at_a_path(engine: Engine, api: Connection, running: str) -> None:
    directory = 1 << 31
    for path, name, mode, target in (
        ("/a/b/h", "h", 1 << 23 | 0o750, ""),
        ("a/b", "b", directory | 0o755, ""),
        ("/a/b/", "b", directory | 0o755, ""),
        ("/a/b/.", ".", directory | 0o755, ""),
        ("/a/l", "l", 1 << 27 | 0o777, "/a/b"),
        ("/a/abs", "abs", 1 << 27 | 0o777, "/a/b"),
        ("/a/gone", "gone", 1 << 27 | 0o777, "/nowhere/x"),
        ("/a/l/", "l", directory | 0o755, ""),
        ("/a/l/h", "h", 1 << 23 | 0o750, ""),
        ("/a/fifo", "fifo", 1 << 25 | 0o644, ""),
        ("/to-vol/f", "f", 0o644, ""),
        ("/", "/", directory | 0o755, ""),
        ("/../../a/b/../b/h", "h", 1 << 23 | 0o750, ""),
    ):
        looked = api.request("HEAD", f"/containers/{running}/archive", query={"path": path})
        assert looked.status == 200, path
        found = described(looked)
        assert {key: found[key] for key in ("name", "mode", "linkTarget")} == {
            "name": name, "mode": mode, "linkTarget": target,
        }, path  # fmt: skip
        assert described(get(api, path)) == found
    assert described(get(api, "/a/b/h"))["size"] == 6


def test_the_tar_of_a_path(engine: Engine, api: Connection, running: str) -> None:
    answer = get(api, "/a")
    assert answer.headers["content-type"] == "application/x-tar"
    found = members(answer.body)
    assert set(found) == {"a", "a/b", "a/b/h", "a/b/same", "a/l", "a/abs", "a/gone", "a/fifo"}
    file = found["a/b/h"]
    assert (file.mode & 0o7777, file.uid, file.gid, file.size, file.mtime) == (0o4750, 33, 50, 6, 1700000000)
    assert found["a/b/same"].islnk() and found["a/b/same"].linkname == "a/b/h"
    assert found["a/l"].issym() and found["a/l"].linkname == "b" and found["a/fifo"].isfifo()
    assert set(members(get(api, "/a/l").body)) == {"l"}
    assert set(members(get(api, "/a/l/").body)) == {"l", "l/h", "l/same"}
    assert set(members(get(api, "/a/b/.").body)) == {".", "./h", "./same"}
    assert {"/bin/busybox", "/vol/f"} <= set(members(get(api, "/").body))


def test_what_is_not_there_is_told_by_name(engine: Engine, api: Connection, running: str) -> None:
    missing = get(api, "/nope/x")
    assert (missing.status, missing.message) == (404, "Could not find the file /nope/x in container files")
    assert api.request("HEAD", "/containers/files/archive", query={"path": "/nope"}).status == 404
    assert put(api, "/nope", tar(("f", b""))).status == 404
    not_directory = get(api, "/a/b/h/")
    assert not_directory.status == INVALID[engine.name] and "not a directory" in not_directory.message
    empty = get(api, "")
    assert empty.status == 400 and empty.message.startswith("bad parameter: path")
    assert get(api, "/", name="nosuch").message == "No such container: nosuch"


def test_a_stopped_container_has_the_same_files(engine: Engine, api: Connection, running: str) -> None:
    before = {path: get(api, path).body for path in ("/a", "/to-vol/f", "/etc/hosts")}
    engine.docker("kill", running)
    assert {path: get(api, path).body for path in before} == before
    assert put(api, "/vol", tar(("late", b"1"))).status == 200
    assert put(api, "/a", tar(("late", b"2"))).status == 200
    engine.docker("create", "--name", "never", "-v", "/new/place", "-v", "files-named:/vol", "bb")
    assert put(api, "/new/place", tar(("x", b"x")), name="never").status == 200
    assert set(members(get(api, "/new", name="never").body)) == {"new", "new/place", "new/place/x"}
    engine.docker("start", running)
    assert inside(engine, "cat /vol/late /a/late") == "12"


def test_a_volume_that_is_a_mount_is_there_while_it_is_looked_into(
    engine: Engine, api: Connection, tmp_path: Path
) -> None:
    (tmp_path / "f").write_text("mounted")
    options = ["-o", "type=none", "-o", "o=bind", "-o", f"device={tmp_path}"]
    engine.docker("volume", "create", *options, "elsewhere")
    engine.docker("create", "--name", "files", "-v", "elsewhere:/vol", "bb")
    assert members(get(api, "/vol").body)["vol/f"].size == 7
    assert put(api, "/vol", tar(("g", b"x"))).status == 200
    assert (tmp_path / "g").read_text() == "x"
    engine.docker("rm", "files")
    engine.docker("volume", "rm", "elsewhere")
    assert sorted(each.name for each in tmp_path.iterdir()) == ["f", "g"]


@pytest.mark.dockyardd_only
def test_a_tmpfs_is_seen_and_the_kernels_own_file_systems_are_not(engine: Engine, api: Connection) -> None:
    engine.docker("run", "-d", "--name", "files", "--tmpfs", "/t", "bb", "sh", "-c", "echo x > /t/f; exec sleep 1000")
    _until(lambda: get(api, "/t/f").status == 200)
    assert put(api, "/t", tar(("g", b"y"))).status == 200
    assert inside(engine, "cat /t/f /t/g") == "x\ny"
    assert get(api, "/proc/cpuinfo").status == 404
    assert put(api, "/proc/sys/kernel", tar(("core_pattern", b"|/bad"))).status in (400, 403)
    whole = members(get(api, "/").body)
    assert "/proc" in whole and not any(name.startswith(("/proc/", "/sys/")) for name in whole)
    assert "/dev/null" in whole and whole["/dev/null"].ischr()


# --- in --------------------------------------------------------------------------------------------------------------


def test_a_tar_is_unpacked_where_the_container_sees_it(engine: Engine, api: Connection, running: str) -> None:
    device = tarfile.TarInfo("dev")
    device.type, device.devmajor, device.devminor, device.mode = tarfile.CHRTYPE, 1, 3, 0o600
    owned = tarfile.TarInfo("owned")
    owned.type, owned.uid, owned.gid, owned.mode, owned.mtime = tarfile.DIRTYPE, 33, 50, 0o1770, 1600000000
    archive = tar(("x/y/z", b"deep"), owned, link("s", "x"), link("h", "x/y/z", tarfile.LNKTYPE), device)
    assert put(api, "/tmp", archive).status == 200
    assert inside(engine, "cd /tmp; cat s/y/z h; stat -c '%a %u %g %Y' owned; stat -c %F dev") == (
        "deepdeep1770 33 50 1600000000\ncharacter special file\n"
    )
    assert put(api, "/to-vol", tar(("through", b"a link"))).status == 200
    assert put(api, "/a", tar(("l/below", b"b"))).status == 200
    assert inside(engine, "cat /vol/through /a/b/below") == "a linkb"
    for compressed in (gzip.compress, bz2.compress, lzma.compress):
        assert put(api, "/tmp", compressed(tar(("c", compressed.__module__.encode())))).status == 200
        assert inside(engine, "cat /tmp/c") == compressed.__module__


def test_what_lies_in_the_way(engine: Engine, api: Connection, running: str) -> None:
    assert put(api, "/a", tar(("b/h", b"replaced"))).status == 200
    assert inside(engine, "cat /a/b/h; cat /a/b/same") == "replacedhello\n"
    for archive, text in (
        (tar(("b", b"file")), 'cannot overwrite directory "/a/b" with non-directory "/a"'),
        (tar(("fifo", None)), 'cannot overwrite non-directory "/a/fifo" with directory "/a"'),
    ):
        refused = put(api, "/a", archive, noOverwriteDirNonDir="true")
        assert refused.status == INVALID[engine.name] and text in refused.message
    assert put(api, "/a", tar(("b", b"file"), ("fifo", None))).status == 200
    assert inside(engine, "cat /a/b; ls -d /a/fifo/") == "file/a/fifo/\n"
    refused = put(api, "/a/b", tar(("x", b"")))
    assert refused.status == INVALID[engine.name] and "extraction point is not a directory" in refused.message


@pytest.mark.dockyardd_only
def test_everything_may_belong_to_the_containers_user(engine: Engine, api: Connection) -> None:
    """By the container's own user database; dockerd 20.10 asks the host's, and knows no "user:group"."""
    engine.docker("run", "-d", "--name", "files", "--user", "1000:50", "bb", "sleep", "1000")
    assert put(api, "/tmp", tar(("mine", b""), ("d", None)), copyUIDGID="true").status == 200
    assert put(api, "/tmp", tar(("roots", b""))).status == 200
    owners = inside(engine, "stat -c '%n %u:%g' /tmp/mine /tmp/d /tmp/roots")
    assert owners == "/tmp/mine 1000:50\n/tmp/d 1000:50\n/tmp/roots 0:0\n"


def test_what_is_read_only_is_refused(engine: Engine, api: Connection, tmp_path: Path) -> None:
    options = ["--read-only", "-v", f"{tmp_path}:/ro:ro", "-v", "/rw"]
    engine.docker("run", "-d", "--name", "files", *options, "bb", "sleep", "1000")
    engine.docker("create", "--name", "stopped", *options, "bb")
    for name in ("files", "stopped"):
        for path, text in (
            ("/tmp", "container rootfs is marked read-only"),
            ("/ro", "mounted volume is marked read-only"),
        ):
            refused = put(api, path, tar(("x", b"")), name=name)
            assert (refused.status, refused.message) == (FORBIDDEN[engine.name], text), (name, path)
        assert put(api, "/rw", tar(("x", b"")), name=name).status == 200
    assert not list(tmp_path.iterdir())


@pytest.mark.dockyardd_only
def test_a_mounted_file_gets_new_content_and_a_mount_is_never_torn_out(
    engine: Engine, api: Connection, running: str
) -> None:
    for state in ("running", "stopped"):
        assert put(api, "/etc", tar(("hosts", b"1.2.3.4 %s\n" % state.encode()))).status == 200
        assert members(get(api, "/etc/hosts").body)["hosts"].size == len(f"1.2.3.4 {state}\n")
        refused = put(api, "/", tar(("vol", b"a file instead of a volume")))
        assert refused.status == 500 and "busy" in refused.message
        assert members(get(api, "/vol").body).keys() == {"vol", "vol/f"}
        if state == "running":
            assert "/etc/hosts" in inside(engine, "cat /proc/mounts")
            engine.docker("kill", running)


@pytest.mark.dockyardd_only
def test_a_full_disk_leaves_the_container_running_and_nothing_half(engine: Engine, api: Connection) -> None:
    engine.docker("run", "-d", "--name", "files", "--tmpfs", "/small:size=1m", "bb", "sleep", "1000")
    refused = put(api, "/small", tar(("fits", b"x"), ("does-not", bytes(2 << 20))))
    assert refused.status == 500 and "no space left on device" in refused.message and "does-not" in refused.message
    assert inside(engine, "ls -A /small") == "fits\n"


@pytest.mark.dockyardd_only
def test_archives_that_break_off_or_are_none(engine: Engine, api: Connection, running: str) -> None:
    whole = tar(("cut", bytes(100_000)))
    for data in (whole[:50_000], gzip.compress(whole)[:100], b"no tar at all" * 100):
        refused = put(api, "/tmp", data)
        assert refused.status == 400, refused
    assert inside(engine, "ls -A /tmp") == ""


@pytest.mark.dockyardd_only
def test_a_client_that_goes_away_ends_the_worker(engine: Engine, running: str) -> None:
    inside(engine, "head -c 50000000 /dev/zero > /a/big")
    for _ in range(3):
        api = engine.api()
        chunks = api.stream("GET", f"/containers/{running}/archive", query={"path": "/a/big"})
        next(chunks)
        chunks.close()
        api.close()
    with engine.api() as api:
        api.send_head(
            "PUT", f"/containers/{running}/archive?path=/tmp", None, {**TAR, "Content-Length": "999999"}, b"x"
        )
    _until(lambda: not _workers(engine))
    assert inside(engine, "ls -A /tmp") == ""


def _workers(engine: Engine) -> list[int]:
    """Processes of this engine that work for a request."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and (entry / "comm").read_text() == "dockyard-work\n":
                log = os.readlink(entry / "fd" / "1")
                found += [int(entry.name)] if log.startswith(str(engine.root)) else []
        except OSError:
            continue
    return found


# --- changes and export ----------------------------------------------------------------------------------------------


def test_changes_and_export(engine: Engine, api: Connection, client: docker.DockerClient) -> None:
    script = (
        "mkdir -p /n/m; echo x > /n/m/f; rm /etc/group; echo 1 >> /etc/passwd; chmod 700 /www; rm -r /home; "
        "mkdir /home; echo v > /vol/f; echo t > /tm/f; touch /tmp/.wh.no; exec true"
    )
    engine.docker("run", "--name", "files", "-v", "/vol", "--tmpfs", "/tm", "bb", "sh", "-c", script)
    changes = {(each["Path"], each["Kind"]) for each in client.api.diff("files")}
    assert changes == {
        ("/n", 1), ("/n/m", 1), ("/n/m/f", 1), ("/etc", 0), ("/etc/group", 2), ("/etc/passwd", 0), ("/www", 0),
        ("/home", 0), ("/home/dock", 2), ("/vol", 1), ("/tm", 1), ("/tmp", 0), ("/tmp/.wh.no", 1),
    }  # fmt: skip
    answer = api.get("/containers/files/export")
    assert answer.status == 200 and answer.headers["content-type"] == "application/octet-stream"
    found = members(answer.body)
    assert {"n/m/f", "bin/busybox", "etc/passwd", "vol", "tm", "proc", "tmp/.wh.no"} <= set(found)
    assert not {"etc/group", "home/dock", "vol/f", "tm/f"} & set(found)
    engine.docker("create", "--name", "untouched", "bb")
    assert not client.api.diff("untouched")
    assert b"C /etc\n" in engine.docker("diff", "files").stdout


def test_what_was_copied_is_told_in_events(engine: Engine, api: Connection, running: str) -> None:
    since = time.time()
    get(api, "/a")
    put(api, "/tmp", tar(("f", b"")))
    api.get("/containers/files/export")
    query = {"since": f"{since:.9f}", "until": f"{time.time():.9f}", "filters": {"type": ["container"]}}
    actions = [event["Action"] for event in api.get("/events", **query).lines()]
    assert actions == ["archive-path", "extract-to-dir", "export"]


# --- the clients -----------------------------------------------------------------------------------------------------


def _cp(engine: Engine, program: str, *words: str, input: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    environment = engine.cli_environment()
    return subprocess.run([program, "cp", *words], env=environment, input=input, capture_output=True, timeout=60)


def _picture(top: Path) -> dict[str, tuple[Any, ...]]:
    """What lies beneath a directory: kind, mode, link or content of everything."""
    found: dict[str, tuple[Any, ...]] = {}
    for directory, directories, files in os.walk(top):
        for name in (*directories, *files):
            path = Path(directory, name)
            mode = path.lstat().st_mode
            what = os.readlink(path) if stat.S_ISLNK(mode) else path.read_bytes() if stat.S_ISREG(mode) else b""
            found[str(path.relative_to(top))] = (stat.S_IFMT(mode), what)
    return found


def _seed(top: Path) -> None:
    """What the table of docker's documentation tells apart, as sources and as destinations."""
    (top / "dir/sub").mkdir(parents=True)
    (top / "dir/file").write_text("in dir")
    (top / "dir/sub/deep").write_text("deep")
    (top / "dir/link").symlink_to("file")
    (top / "file").write_text("file")
    (top / "link-file").symlink_to("file")
    (top / "link-dir").symlink_to("dir")
    (top / "link-none").symlink_to("made-by-link")
    (top / "dst").mkdir()
    (top / "dst/file").write_text("old")
    (top / "other").write_text("other")
    (top / "link-dst").symlink_to("dst")
    (top / "link-other").symlink_to("other")


TARGETS = ("dst", "other", "new", "new/", "link-other", "link-none")
TABLE: list[tuple[str, str, list[str]]] = [(source, target, []) for source in ("file", "dir") for target in TARGETS]
TABLE += [(source, target, []) for source in ("dir/.", "link-file", "link-dir/") for target in ("dst", "other", "new")]
TABLE += [("link-dir", "dst", ["-L"]), ("link-dir", "new", ["-L"]), ("link-file", "dst/", ["-L"])]
TABLE += [("missing", "new", []), ("dir/", "link-dst", []), ("file", "no/such", [])]


@pytest.mark.dockyardd_only
@pytest.mark.parametrize("way", ["in", "out"])
def test_cp_does_what_dockers_does_in_every_case(engine: Engine, tmp_path: Path, way: str) -> None:
    """Each case once by either client: same exit code, same files."""
    engine.docker("run", "-d", "--name", "files", "-v", f"{tmp_path}:/h", "bb", "sleep", "1000")
    wrong = []
    for number, (source, target, flags) in enumerate(TABLE):
        results = []
        for program in (docker_cli(), DOCKYARD):
            here, there = (tmp_path / f"{number}-{Path(program).name}-{side}" for side in ("from", "to"))
            for side in (here, there):
                side.mkdir()
                _seed(side)
            if way == "in":
                words = [f"{here}/{source}", f"files:/h/{there.name}/{target}"]
            else:
                words = [f"files:/h/{here.name}/{source}", f"{there}/{target}"]
            done = _cp(engine, program, *flags, *words)
            results.append((done.returncode, _picture(there), done.stderr))
        if results[0][:2] != results[1][:2]:
            wrong.append((source, target, flags, results))
    assert not wrong, wrong[:3]


def test_cp_through_stdin_and_stdout_with_owners(engine: Engine, running: str, tmp_path: Path) -> None:
    out = _cp(engine, DOCKYARD, "files:/a/b", "-")
    assert set(members(out.stdout)) == {"b", "b/h", "b/same"}
    done = _cp(engine, DOCKYARD, "-", "files:/tmp", input=out.stdout)
    assert done.returncode == 0 and not done.stderr
    set_user_id = "4" if engine.name == "dockyardd" else ""  # dockerd 20.10 loses it
    assert inside(engine, "stat -c '%u %g %a' /tmp/b/h") == f"33 50 {set_user_id}750\n"
    (tmp_path / "mine").write_text("x")
    os.chown(tmp_path / "mine", 33, 50)
    assert _cp(engine, DOCKYARD, str(tmp_path / "mine"), "files:/tmp").returncode == 0
    assert inside(engine, "stat -c '%u %g' /tmp/mine") == "33 50\n"
    assert _cp(engine, DOCKYARD, "-a", "files:/tmp/mine", str(tmp_path / "back")).returncode == 0
    assert (tmp_path / "back").stat().st_uid == 33
    for words, text in (
        (("a", "b"), "must specify at least one container source"),
        (("a:/x", "b:/y"), "copying between containers is not supported"),
        (("-", "files:/a/b/h"), 'destination "files:/a/b/h" must be a directory'),
        (("files:/nope", "."), "Could not find the file /nope in container files"),
        (("files:/a/b", "/nope/x/y"), 'invalid output path: directory "/nope/x" does not exist'),
        (("files:/a/b", "/dev/null"), "must be a directory or a regular file: got a device"),
        ((str(tmp_path), "files:/a/fifo"), "must be a directory or a regular file: got an irregular file"),
    ):
        done = _cp(engine, DOCKYARD, *words)
        assert done.returncode == 1 and text in done.stderr.decode(), (words, done)


@pytest.mark.dockyardd_only
def test_the_client_shows_changes_and_exports(engine: Engine, running: str, tmp_path: Path) -> None:
    def client(*words: str) -> bytes:
        environment = engine.cli_environment()
        return subprocess.run([DOCKYARD, *words], env=environment, capture_output=True, timeout=60, check=True).stdout

    assert client("diff", "files") == engine.docker("diff", "files").stdout
    client("export", "-o", str(tmp_path / "x.tar"), "files")
    assert set(members((tmp_path / "x.tar").read_bytes())) == set(members(engine.docker("export", "files").stdout))
    assert [each.name for each in tmp_path.iterdir()] == ["x.tar"]


# --- statements ------------------------------------------------------------------------------------------------------


@pytest.fixture
def outside(tmp_path: Path) -> Iterator[Path]:
    """A directory of the host that no container may reach: a file with a secret, and nothing else afterwards."""
    place = tmp_path / "outside"
    place.mkdir()
    (place / "secret").write_text("of the host")
    yield place
    assert [each.name for each in place.iterdir()] == ["secret"]
    assert (place / "secret").read_text() == "of the host"


SWAP = "while :; do mv {0} {0}1; ln -s {1} {0}; rm {0}; mv {0}1 {0}; done"


@pytest.mark.dockyardd_only
def test_s20_a_busy_container_that_swaps_components_for_links(engine: Engine, outside: Path) -> None:
    """tests/kernel/test_files.py does the ten thousand tries."""
    script = f"mkdir -p /w/d; echo mine > /w/d/secret; {SWAP.format('/w/d', outside)}"
    engine.docker("run", "-d", "--name", "files", "bb", "sh", "-c", script)
    codes = set()
    with engine.api() as api:
        end = time.monotonic() + 1.5
        while time.monotonic() < end:
            for path in ("/w/d/secret", "/w", "/w/d/"):
                answer = get(api, path)
                assert b"of the host" not in answer.body
                codes.add(answer.status)
            codes.add(put(api, "/w/d", tar(("evil", b"x"))).status)
            codes.add(put(api, "/w", tar(("d/evil", b"x"), ("d/secret", b"x"))).status)
    assert {200, 404} <= codes <= {200, 400, 404, 500}


@pytest.mark.dockyardd_only
def test_s21_a_swapped_mount_target_does_not_redirect(engine: Engine, api: Connection, outside: Path) -> None:
    """One container's volume is the ground of another one's mount, which is made for `cp` while that does not run."""
    engine.docker("volume", "create", "ground")
    engine.docker("create", "--name", "files", "-v", "ground:/g", "-v", "/g/sub", "bb")
    engine.docker(
        "run",
        "-d",
        "--name",
        "busy",
        "-v",
        "ground:/g",
        "bb",
        "sh",
        "-c",
        f"mkdir -p /g/sub; {SWAP.format('/g/sub', outside)}",
    )
    end = time.monotonic() + 1
    while time.monotonic() < end:
        assert b"of the host" not in get(api, "/g/sub").body
        put(api, "/g/sub", tar(("evil", b"x")))
        put(api, "/g/sub/", tar(("evil", b"x")))


def test_s22_mount_points_through_absolute_links_work(engine: Engine, api: Connection) -> None:
    engine.docker("create", "--name", "base", "bb")
    assert put(api, "/var", tar(link("run", "/run")), name="base").status == 200
    assert put(api, "/", tar(("run", None)), name="base").status == 200
    engine.docker("commit", "base", "links:1")
    engine.docker("create", "--name", "files", "-v", "/var/run/data", "links:1", "sleep", "1000")
    assert put(api, "/var/run/data", tar(("f", b"through"))).status == 200
    assert members(get(api, "/run/data/f").body)["f"].size == 7
    engine.docker("start", "files")
    assert inside(engine, "cat /var/run/data/f") == "through"
    engine.docker("rm", "-f", "files", "base")
    engine.docker("rmi", "links:1")


@pytest.mark.dockyardd_only
def test_s23_no_program_of_the_container_unpacks(engine: Engine, api: Connection) -> None:
    names = [
        f"{where}/{name}" for where in ("bin", "usr/bin") for name in ("unpigz", "xz", "gzip", "bzip2", "zstd", "tar")
    ]
    engine.docker("create", "--name", "files", "bb")
    trap = b"#!/bin/sh\ntouch /tmp/ran\n"
    entries = [tarfile.TarInfo(name) for name in names]
    for entry in entries:
        entry.mode = 0o755
    assert put(api, "/", tar(*((name, trap) for name in names))).status == 200
    for compressed in (gzip.compress, lzma.compress, bz2.compress):
        assert put(api, "/tmp", compressed(tar(("f", b"x")))).status == 200
    assert set(members(get(api, "/tmp").body)) == {"tmp", "tmp/f"}


def test_s24_paths_that_climb_stay_inside(engine: Engine, api: Connection, running: str, outside: Path) -> None:
    climbing = "../" * 20 + str(outside).lstrip("/")
    assert get(api, f"{climbing}/secret").status == 404
    assert put(api, climbing, tar(("evil", b""))).status == 404
    for name in (f"{climbing}/evil", f"x/{climbing}/evil"):
        assert put(api, "/www", tar((name, b"x"))).status == INVALID[engine.name]
    put(api, "/tmp", tar(link("out", str(outside)), ("out/evil", b"x")))
    put(api, "/tmp", tar(link("up", climbing), ("up/evil", b"x")))
    put(api, "/tmp", tar(link("hard", f"{climbing}/secret", tarfile.LNKTYPE), ("hard", b"x")))
    assert "of the host" not in inside(engine, "cat /tmp/hard /tmp/*/secret 2>/dev/null; true")


def test_s25_a_file_replaced_by_a_link_is_not_followed(
    engine: Engine, api: Connection, running: str, outside: Path
) -> None:
    inside(engine, f"rm /vol/f; ln -s {outside}/secret /vol/f; ln -s {outside} /vol/d")
    for state in ("running", "stopped"):
        found = members(get(api, "/vol").body)
        assert found["vol/f"].issym() and found["vol/d"].issym(), state
        assert get(api, "/vol/d/secret").status == 404
        if state == "running":
            engine.docker("kill", running)
    assert put(api, "/vol", tar(("f", b"replaced"))).status == 200


@pytest.mark.dockyardd_only
def test_s27_looking_at_a_crafted_image_runs_nothing_of_it(engine: Engine, api: Connection) -> None:
    """`top`, `cp`, `diff`, `export` of a container whose image has traps where helpers and Python's files may lie."""
    trap = b"#!/bin/sh\ntouch /ran\n"
    source = Path(sys.modules["tests.support.engines"].__file__ or "").parents[2] / "src/dockyard/store/reading.py"
    engine.docker("create", "--name", "base", "bb")
    assert (
        put(api, "/", tar(("bin/ps", trap), (str(source).lstrip("/"), b"# coding: evil\n")), name="base").status == 200
    )
    engine.docker("commit", "base", "crafted:1")
    engine.docker("run", "-d", "--name", "files", "crafted:1", "sleep", "1000")
    assert api.get("/containers/files/top").status == 200
    assert get(api, "/etc/passwd").status == 200 and get(api, "/etc/passwd/").status == 400
    assert put(api, "/tmp", b"no tar").status == 400
    assert api.get("/containers/files/changes").status == 200
    assert "ran" not in members(api.get("/containers/files/export").body)
    engine.docker("rm", "-f", "files", "base")
    engine.docker("rmi", "crafted:1")


def test_many_at_once(engine: Engine, running: str) -> None:
    """Copies both ways beside each other; all are whole."""
    errors: list[object] = []

    def work(number: int) -> None:
        with engine.api() as api:
            data = bytes([number]) * 200_000
            sent = put(api, "/tmp", tar((f"f{number}", data)))
            back = get(api, f"/tmp/f{number}")
            with tarfile.open(fileobj=io.BytesIO(back.body)) as archive:
                file = archive.extractfile(f"f{number}")
                if sent.status != 200 or file is None or file.read() != data:
                    errors.append((number, sent, back.status))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors


def test_the_working_directory_is_there_before_the_first_start(engine: Engine, api: Connection) -> None:
    """Made for root where the image lacks it."""
    engine.docker(
        "create", "--name", "files", "-w", "/tmp/deep/er", "-u", "33", "bb", "ls", "-ldn", "new", "/tmp/deep/er"
    )
    engine.docker("cp", "-", "files:/tmp/deep/er", input=tar(("new", b"x")))
    assert engine.out("diff", "files").split("\n") == ["C /tmp", "A /tmp/deep", "A /tmp/deep/er", "A /tmp/deep/er/new"]
    words = [line.split() for line in engine.out("start", "-a", "files").split("\n")]
    assert {(line[0], line[2], line[-1]) for line in words} == {
        ("drwxr-xr-x", "0", "/tmp/deep/er"), ("-rw-r--r--", "0", "new"),
    }  # fmt: skip
