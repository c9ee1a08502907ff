"""SELinux labels of containers, where the kernel has SELinux: in CI in the virtual machine (tools.vm --selinux).

The policy is tests/data/selinux/policy.conf: the host may do everything, containers only with files of the types
container_file_t and container_ro_file_t and of their own categories.
"""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dockyard.linux import selinux
from dockyard.runtime.bundle import Bundler, Host
from tests.support import busybox, steps
from tests.support.engines import Dockyardd
from tests.support.oci import OURS, Bundle, OciRuntime, docker_config
from tests.support.rawhttp import Connection, Response, unix_dialer

pytestmark = [pytest.mark.vm, pytest.mark.skipif(not selinux.enabled(), reason="the kernel has no SELinux")]

CURRENT = "cat /proc/self/attr/current"
PROCESS = re.compile(r"system_u:system_r:container_t:(s0:c\d+,c\d+)")
FILE = "system_u:object_r:container_file_t:"
UNLABELLED = "system_u:object_r:file_t:s0"


class Labelling(Dockyardd):
    """Without a network, which is slow to make there."""

    def __init__(self) -> None:
        super().__init__(private_network=False)

    def command(self) -> list[str]:
        command = super().command()
        at = command.index("--bridge")
        return [*command[:at], *command[at + 4 :], "--bridge", "none", "--selinux-enabled"]


def _load(engine: Labelling, image: bytes) -> Response:
    with engine.api() as api:
        return api.request("POST", "/images/load", raw=image)


@pytest.fixture(scope="module")
def engine() -> Iterator[Labelling]:
    with Labelling() as running:
        image = busybox.docker_archive(["bb:latest"], [busybox.rootfs_tar({"seed/file": b"seed\n"})], {"Cmd": ["sh"]})
        steps.expect(_load(running, image), 200)
        yield running


class WithoutNetwork(Connection):
    """Containers get none unless they ask for one."""

    def request(self, method: str, path: str, body: Any = None, *more: Any, **named: Any) -> Response:
        if path == "/containers/create":
            body["HostConfig"] = {"NetworkMode": "none", **(body.get("HostConfig") or {})}
        return super().request(method, path, body, *more, **named)


@pytest.fixture
def api(engine: Labelling) -> Iterator[Connection]:
    with WithoutNetwork(unix_dialer(str(engine.socket_path), 600)) as connection:
        yield connection
    engine.remove_containers()


@pytest.fixture
def shared() -> Iterator[Path]:
    """A directory of the host's with a file in it, without labels; not below /tmp's own name."""
    place = Path(tempfile.mkdtemp(prefix="dyt-"))
    (place / "file").write_text("secret\n")
    place.chmod(0o777)
    yield place
    shutil.rmtree(place)


def label_of(container: dict[str, Any]) -> str:
    return selinux.process_context(int(container["State"]["Pid"]))


def reads(api: Connection, *binds: str, **host: Any) -> bool:
    """Whether a new container can read the file of a bind at /d."""
    code, out, _ = steps.run(api, "cat", "/d/file", host={"Binds": list(binds), **host})
    assert (code, out) in ((0, "secret\n"), (1, ""))
    return code == 0


def test_each_container_has_labels_of_its_own(engine: Labelling, api: Connection) -> None:
    assert selinux.enforcing()
    assert "name=selinux" in api.get("/info").json()["SecurityOptions"]
    levels = []
    for _ in range(2):
        container = steps.sleeper(api)
        seen = steps.inspect(api, container)
        found = PROCESS.fullmatch(seen["ProcessLabel"])
        assert found, seen["ProcessLabel"]
        assert seen["MountLabel"] == FILE + found[1]
        assert label_of(seen) == seen["ProcessLabel"]
        assert steps.exec_sh(api, container, CURRENT)[1].rstrip("\0") == seen["ProcessLabel"]
        privileged = steps.exec_sh(api, container, CURRENT, Privileged=True)[1]
        assert privileged.rstrip("\0") == seen["ProcessLabel"]  # as Docker's
        root = f"/proc/{seen['State']['Pid']}/root"
        for path in ("/", "/bin", "/dev", "/dev/shm", "/dev/pts", "/dev/mqueue", "/etc/hosts", "/proc/acpi"):
            if os.path.exists(root + path) and (path != "/proc/acpi" or os.path.isdir(root + path)):
                assert selinux.file_context(root + path) == seen["MountLabel"], path
        levels.append(found[1])
    assert levels[0] != levels[1]


def test_what_a_container_has_works(engine: Labelling, api: Connection) -> None:
    """Devices, tmpfs, shm, queues, the files of /etc, volumes with the image's content, a terminal, an init."""
    script = """set -e
echo x > /dev/null; echo x > /dev/shm/f; echo x > /t/f; head -c 4 /dev/urandom >/dev/null; ls /dev/mqueue
cat /etc/hosts /etc/resolv.conf /etc/hostname >/dev/null; echo x > /etc/new; mkdir /etc/dir; rm /etc/new
cat /seed/file; echo x > /seed/new; cat /proc/1/attr/current; cat /sys/kernel/mm/transparent_hugepage/enabled >/dev/null
"""
    host = {"Tmpfs": {"/t": ""}, "Binds": ["v1:/seed"], "Init": True, "SecurityOpt": ["no-new-privileges"]}
    code, out, err = steps.run(api, "sh", "-c", script, host=host)
    assert (code, err) == (0, ""), (out, err)
    assert out.startswith("seed\n") and PROCESS.search(out), out
    code, out, _ = steps.run(api, "sh", "-c", "cat /seed/file /seed/new", host={"Binds": ["v1:/seed"]})
    assert (code, out) == (0, "seed\nx\n")  # what one container wrote into a volume others can read
    terminal = steps.create(api, "sh", "-c", f"tty; echo x >/dev/console; {CURRENT}", Tty=True)
    steps.start(api, terminal)
    assert steps.wait(api, terminal) == 0
    said = api.get(f"/containers/{terminal}/logs", stdout=True).body.decode()
    assert "/dev/pts/0" in said and PROCESS.search(said)


def test_binds_of_the_host(api: Connection, shared: Path) -> None:
    assert not reads(api, f"{shared}:/d")
    assert reads(api, f"{shared}:/d", SecurityOpt=["label=disable"])
    assert reads(api, f"{shared}:/d", Privileged=True)
    assert reads(api, f"{shared}:/d", PidMode="host")
    assert reads(api, f"{shared}:/d:z") and reads(api, f"{shared}:/d")
    assert selinux.file_context(str(shared / "file")) == selinux.file_context(str(shared)) == FILE + "s0"
    own = steps.sleeper(api, host={"Binds": [f"{shared}:/d:ro,Z"]})
    assert selinux.file_context(str(shared / "file")) == steps.inspect(api, own)["MountLabel"]
    assert steps.exec_sh(api, own, "cat /d/file") == (0, "secret\n")
    assert not reads(api, f"{shared}:/d")
    sharing = steps.create(api, "cat", "/d/file", host={"Binds": [f"{shared}:/d"], "IpcMode": "host"})
    assert steps.inspect(api, sharing)["HostConfig"]["SecurityOpt"] == ["label=disable"]


def test_links_are_not_followed(api: Connection, shared: Path) -> None:
    outside = Path(tempfile.mkdtemp(prefix="dyt-"))
    (outside / "file").write_text("not yours\n")
    (shared / "link").symlink_to(outside / "file")
    (shared / "below").symlink_to(outside)
    (shared / "dir").mkdir()
    (shared / "dir" / "x").write_text("")
    assert reads(api, f"{shared}:/d:Z")
    assert selinux.file_context(str(outside)) == selinux.file_context(str(outside / "file")) == UNLABELLED
    assert selinux.file_context(str(shared / "link")).startswith(FILE)
    assert selinux.file_context(str(shared / "dir/x")).startswith(FILE)
    shutil.rmtree(outside)


@pytest.mark.parametrize(
    ("path", "text"),
    [("/etc", "SELinux relabeling of /etc is not allowed"), ("/usr/bin", "relabeling content in /usr is not allowed")],
)
def test_system_directories_keep_their_labels(api: Connection, path: str, text: str) -> None:
    container = steps.create(api, "true", host={"Binds": [f"{path}:/d:Z"]})
    answer = api.post(f"/containers/{container}/start")
    assert answer.status == 400
    assert answer.message == f"error setting label on mount source '{path}': {text}"
    assert selinux.file_context(path) == UNLABELLED


def test_label_options(api: Connection) -> None:
    options = [
        "label=level:s0:c1,c2",
        "label=type:container_init_t",
        "label=user:container_u",
        "label=role:container_r",
    ]
    container = steps.create(api, "sh", "-c", CURRENT, host={"SecurityOpt": options})
    seen = steps.inspect(api, container)
    assert seen["ProcessLabel"] == "container_u:container_r:container_init_t:s0:c1,c2"
    assert seen["MountLabel"] == "container_u:object_r:container_file_t:s0:c1,c2"
    steps.start(api, container)
    assert steps.wait(api, container) == 0
    assert steps.logs(api, container)[0].rstrip("\0") == seen["ProcessLabel"]
    files = steps.create(api, "true", host={"SecurityOpt": ["label=filetype:container_ro_file_t"]})
    assert ":container_ro_file_t:s0:c" in steps.inspect(api, files)["MountLabel"]
    for wrong, text in (
        ("label=type:nosuch_t", "the policy does not know it"),
        ("label=colour:red", 'Bad label option "colour"'),
        ("label=red", 'Bad label option "red"'),
    ):
        answer = api.post("/containers/create", {"Image": "bb", "HostConfig": {"SecurityOpt": [wrong]}})
        assert answer.status == 400 and text in answer.message, answer.message


def test_namespaces_of_another_container(api: Connection) -> None:
    first = steps.sleeper(api, host={"IpcMode": "shareable"})
    label = steps.inspect(api, first)["ProcessLabel"]
    steps.exec_sh(api, first, "echo here > /dev/shm/file")
    host = {"IpcMode": f"container:{first}", "PidMode": f"container:{first}", "NetworkMode": f"container:{first}"}
    code, out, err = steps.run(api, "sh", "-c", f"cat /dev/shm/file /etc/hosts >/dev/null && {CURRENT}", host=host)
    assert (code, out.rstrip("\0")) == (0, label), err


def test_files_in_and_out(engine: Labelling, api: Connection) -> None:
    """`docker cp`, commit and save: labels never travel with files."""
    container = steps.sleeper(api)
    tar = io.BytesIO()
    with tarfile.open(fileobj=tar, mode="w") as archive:
        member = tarfile.TarInfo("given")
        member.size = 2
        archive.addfile(member, io.BytesIO(b"x\n"))
    for state in ("running", "stopped"):
        place = f"/containers/{container}/archive"
        steps.expect(api.request("PUT", place, query={"path": "/etc"}, raw=tar.getvalue()), 200)
        got = steps.expect(api.request("GET", place, query={"path": "/etc/given"}), 200)
        assert b"x\n" in got.body and b"security.selinux" not in got.body
        if state == "running":
            assert steps.exec_sh(api, container, "cat /etc/given; echo own > /etc/own") == (0, "x\n")
            steps.expect(api.post(f"/containers/{container}/stop", None, t=1), 204)
    assert steps.inspect(api, container)["GraphDriver"]["Name"] == "overlay"
    steps.expect(api.post("/commit", {}, container=container, repo="made"), 201)
    assert b"selinux" not in steps.expect(api.get("/images/made/get"), 200).body
    assert steps.sh(api, "cat /etc/own /etc/given", Image="made") == "own\nx\n"


def test_a_restart_of_the_daemon_keeps_labels(engine: Labelling, api: Connection) -> None:
    kept = {}
    for options in (None, ["label=level:s0:c5,c6"]):
        container = steps.sleeper(api, host={"SecurityOpt": options})
        kept[container] = steps.inspect(api, container)["ProcessLabel"]
    api.close()
    engine.kill()
    engine.start()
    with WithoutNetwork(unix_dialer(str(engine.socket_path), 600)) as again:
        for container, label in kept.items():
            seen = steps.inspect(again, container)
            assert seen["ProcessLabel"] == label == label_of(seen)
            steps.expect(again.post(f"/containers/{container}/restart", None, t=0), 204)
            assert label_of(steps.inspect(again, container)) == label
        assert steps.inspect(again, steps.create(again, "true"))["ProcessLabel"] not in kept.values()


def test_steps_of_builds(engine: Labelling, api: Connection) -> None:
    """A RUN has a label too, reaches what is mounted for it, and its layer carries none."""
    context = io.BytesIO()
    text = f"""FROM bb
RUN {CURRENT} > /label
RUN --mount=type=cache,target=/cache --mount=type=bind,target=/src,rw cat /src/Dockerfile > /cache/d && echo x > /src/y
RUN --mount=type=cache,target=/cache --mount=type=bind,from=bb,source=/seed,target=/seed cat /cache/d /seed/file > /r
RUN <<END
cat /label
END
"""
    with tarfile.open(fileobj=context, mode="w") as archive:
        member = tarfile.TarInfo("Dockerfile")
        member.size = len(text)
        archive.addfile(member, io.BytesIO(text.encode()))
    answer = steps.expect(
        api.request("POST", "/build", query={"t": "built", "networkmode": "none"}, raw=context.getvalue()), 200
    )
    assert all("error" not in line for line in answer.lines()), answer.lines()
    out = steps.sh(api, "cat /label; cat /r", Image="built")
    assert PROCESS.match(out) and out.endswith("seed\n"), out
    assert b"selinux" not in api.get("/images/built/get").body


def test_another_runtime(engine: Labelling, api: Connection) -> None:
    host = {"Runtime": "runc", "Tmpfs": {"/t": ""}}
    script = f"echo x > /t/f; echo x > /f; echo x > /dev/shm/f; {CURRENT}"
    code, out, err = steps.run(api, "sh", "-c", script, host=host)
    assert code == 0 and PROCESS.match(out), (out, err)


def test_the_oci_command(tmp_path: Path) -> None:
    """process.selinuxLabel, linux.mountLabel, exec --process-label; features says so."""
    runtime = OciRuntime(OURS, tmp_path / "ours")
    label, file = "system_u:system_r:container_t:s0:c7,c8", f"{FILE}s0:c7,c8"
    config = docker_config(Bundler(Host.probe()), process_label=label, mount_label=file)
    config["mounts"] = [mount for mount in config["mounts"] if mount["type"] != "cgroup"]
    bundle = Bundle(tmp_path / "bundle", config)
    for directory, names, files in os.walk(bundle.root):  # a runtime leaves the root's labels to who made it
        for name in (".", *names, *files):
            selinux.set_file(os.path.join(directory, name), file)
    try:
        said = runtime.run(bundle.sh(f"{CURRENT}; echo x > /dev/shm/f && ls -d /dev/shm/f")).stdout
        assert said.replace("\0", "\n").split() == [label, "/dev/shm/f"]
        identity = runtime.started(bundle.sh("sleep 1000"))
        assert runtime.exec(identity, "sh", "-c", CURRENT).stdout.rstrip("\0") == label
        other = label.replace("container_t", "container_init_t")
        said = runtime("exec", "--process-label", other, identity, "sh", "-c", CURRENT).stdout
        assert said.rstrip("\0") == other
        assert json.loads(runtime("features").stdout)["linux"]["selinux"] == {"enabled": True}
        config["process"]["selinuxLabel"] = "system_u:system_r:nosuch_t:s0"
        failed = runtime.run(bundle, check=False)
        assert failed.returncode and "label system_u:system_r:nosuch_t:s0: invalid argument" in failed.stderr
    finally:
        runtime.close()


def test_s6_an_exec_does_not_write_where_a_container_leads_it(api: Connection) -> None:
    """The container's /proc is a directory that it has made itself."""
    fake = "mount -t tmpfs t /proc && mkdir -p /proc/thread-self/attr /proc/self && ln -s thread-self/attr /proc/self"
    script = f"{fake} && cd /proc/thread-self/attr && touch exec keycreate && echo ready && sleep 1000"
    options = ["label=type:container_init_t", "seccomp=unconfined"]  # the policy lets that type mount
    container = steps.started(api, "sh", "-c", script, host={"CapAdd": ["SYS_ADMIN"], "SecurityOpt": options})
    steps.eventually(lambda: "ready" in steps.logs(api, container)[0])
    process = steps.expect(api.post(f"/containers/{container}/exec", {"Cmd": ["true"]}), 201).json()["Id"]
    answer = api.post(f"/exec/{process}/start", {"Detach": True})
    assert answer.status in (400, 500) and "keyring label" in answer.message, answer.message
    root = f"/proc/{steps.inspect(api, container)['State']['Pid']}/root"
    assert Path(root, "proc/thread-self/attr/keycreate").read_text() == ""
