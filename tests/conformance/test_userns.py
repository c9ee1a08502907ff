"""`--userns-remap`: root in a container is nobody on the host, over the same layers and volumes as without.

A daemon of its own for this module, with the subordinate ids of a user of the system.
"""

from __future__ import annotations

import io
import os
import struct
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from dockyard.engine.runtimes import known
from tests.support import busybox, contexts, steps
from tests.support.engines import Engine
from tests.support.flagged import flagged
from tests.support.rawhttp import Connection

FIRST = 2_000_000
FILES = (Path("/etc/subuid"), Path("/etc/subgid"))
DOCKYARD = str(Path(sys.executable).with_name("dockyard"))


@pytest.fixture(scope="module")
def subordinates() -> Iterator[None]:
    """Ranges of the user `daemon`, whom nobody logs in as."""
    before = {path: path.read_bytes() if path.exists() else None for path in FILES}
    try:
        for path in FILES:
            path.write_bytes((before[path] or b"") + f"daemon:{FIRST}:65536\n".encode())
        yield
    finally:
        for path, content in before.items():
            path.unlink() if content is None else path.write_bytes(content)


@pytest.fixture(scope="module", params=["dockerd", "dockyardd"])
def remapped(request: pytest.FixtureRequest, subordinates: None) -> Iterator[Engine]:
    with flagged(request, "--userns-remap=daemon", bridge="dyt7", subnet="10.231.37.0/24") as made:
        yield made


@pytest.fixture
def ours(remapped: Engine) -> Engine:
    if remapped.name == "dockerd":
        pytest.skip("only here")
    return remapped


@pytest.fixture
def far(remapped: Engine) -> Iterator[Connection]:
    with remapped.api() as connection:
        yield connection
    remapped.remove_containers()


def of_process(pid: int, field: str) -> list[int]:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return list(map(int, line.split()[1:]))
    raise AssertionError(field)


@pytest.mark.vm
def test_root_inside_is_nobody_outside(remapped: Engine, far: Connection) -> None:
    box = steps.sleeper(far)
    pid = steps.inspect(far, box)["State"]["Pid"]
    assert of_process(pid, "Uid") == of_process(pid, "Gid") == [FIRST] * 4
    assert set(of_process(pid, "Groups")) <= {FIRST}
    assert Path(f"/proc/{pid}/uid_map").read_text().split() == ["0", str(FIRST), "65536"]
    code, said = steps.exec_sh(
        far, box, "id -u; grep -c . /proc/self/uid_map; sleep 100 & echo $!; touch /made; ls -n /made"
    )
    assert code == 0 and said.split()[0] == "0" and said.split()[5:7] == ["0", "0"], said
    assert "name=userns" in far.get("/info").json()["SecurityOptions"]
    for kind in ("user", "net", "ipc", "uts", "mnt", "pid"):
        assert os.readlink(f"/proc/{pid}/ns/{kind}") != os.readlink(f"/proc/self/ns/{kind}"), kind


def test_the_hosts_files_are_out_of_reach(remapped: Engine, far: Connection) -> None:
    ground = remapped.root / "ground"
    secret, shared = ground / "secret", ground / "shared"
    ground.mkdir(mode=0o755)
    secret.write_text("of the host's root\n")
    secret.chmod(0o600)
    shared.mkdir()
    shared.chmod(0o777)
    script = (
        "cat /host/secret; echo x > /host/secret; rm /host/secret; chown 0 /host; touch /host/shared/made; ls -ln /host"
    )
    _, out, err = steps.run(far, "sh", "-c", script, host={"Binds": [f"{ground}:/host"]})
    assert err.count("ermission denied") + err.count("not permitted") == 4 and "65534" in out, (out, err)
    assert secret.read_text() == "of the host's root\n"
    made = (shared / "made").stat()
    assert (made.st_uid, made.st_gid) == (FIRST, FIRST)


def test_what_a_program_may_do_as_before(remapped: Engine, far: Connection) -> None:
    script = """
        echo out > /dev/stdout && echo x > /dev/null && touch /dev/shm/x /tmp/y /t/z
        ls -n /t/z /dev/shm/x
        echo port > /www/index.html; httpd -h /www -p 127.0.0.1:80; wget -q -O - http://127.0.0.1/index.html
        cat /proc/sys/net/ipv4/ip_unprivileged_port_start
        su -s /bin/sh -c 'id -u' dock
        mknod /tmp/device c 1 3 || echo no device
    """
    out = steps.sh(
        far, script, host={"Tmpfs": {"/t": ""}, "Sysctls": {"kernel.shmmax": "65536", "net.ipv4.ip_forward": "1"}}
    )
    assert out.count(" 0        0 ") == 2 and "out" in out and "port" in out and "1000" in out, out
    assert "no device" in out
    found = steps.sh(far, "cat /proc/sys/kernel/shmmax", host={"Sysctls": {"kernel.shmmax": "65536"}})
    assert found.strip() == "65536"
    assert steps.sh(far, "id -u; id -g; id -G", User="1000:1001", host={"GroupAdd": ["44"]}).split()[:2] == [
        "1000",
        "1001",
    ]


def test_a_terminal(remapped: Engine, far: Connection) -> None:
    identifier = steps.create(far, "sh", "-c", "tty; ls -ln $(tty) /dev/console; echo x > $(tty)", Tty=True)
    steps.start(far, identifier)
    assert steps.wait(far, identifier) == 0
    text = far.get(f"/containers/{identifier}/logs", stdout=True).body.decode()
    assert "/dev/pts/0" in text and "x" in text and " 65534 " not in text, text


def test_what_cannot_be_together(remapped: Engine, far: Connection) -> None:
    for host, said in (
        ({"Privileged": True}, "privileged mode is incompatible with user namespaces"),
        ({"NetworkMode": "host"}, "cannot share the host's network namespace when user namespaces are enabled"),
        ({"PidMode": "host"}, "cannot share the host PID namespace when user namespaces are enabled"),
    ):
        answer = far.post("/containers/create", {"Image": "bb", "HostConfig": host})
        assert answer.status == 400 and said in answer.message, answer.message
        if remapped.name == "dockerd" and "Privileged" in host:
            continue  # its runc wants all capabilities, also those that this host may not have
        box = steps.started(far, "sleep", "100", host={**host, "UsernsMode": "host"})
        assert of_process(steps.inspect(far, box)["State"]["Pid"], "Uid") == [0] * 4


def test_an_id_that_has_no_place(ours: Engine, far: Connection) -> None:
    identifier = steps.create(far, "true", User="70000")
    answer = far.post(f"/containers/{identifier}/start")
    assert answer.status >= 400
    assert "user 70000 is not among the ids of the container's user namespace" in answer.message


def test_layers_and_volumes_are_those_of_the_others(ours: Engine, far: Connection, tmp_path: Path) -> None:
    """What is on disk has the numbers that are seen inside, so nothing is copied, and an image has no foreign ids."""
    box = steps.sleeper(far, host={"Binds": ["shared:/v"]})
    code, said = steps.exec_sh(
        far, box, "touch /v/of-root /of-root; touch /v/of-dock; chown 1000:1000 /v/of-dock; ls -n /v"
    )
    assert code == 0, said
    volume = Path(far.get("/volumes/shared").json()["Mountpoint"])
    assert [(volume / name).stat().st_uid for name in ("of-root", "of-dock")] == [0, 1000]
    host = {"Binds": ["shared:/v"], "UsernsMode": "host"}
    assert "1000     1000" in steps.sh(far, "cat /proc/self/uid_map; ls -n /v; echo x >> /v/of-root", host=host)
    archive = far.request("GET", f"/containers/{box}/archive", None, {"path": "/v"}).body
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        assert {member.name: member.uid for member in tar} == {"v": 0, "v/of-root": 0, "v/of-dock": 1000}
    (tmp_path / "given").write_text("given")
    ours.docker("cp", str(tmp_path / "given"), f"{box}:/given")
    assert " 0        0 " in steps.exec_sh(far, box, "ls -n /given")[1]
    image = far.post("/commit", {}, container=box, repo="made").json()["Id"]
    with tarfile.open(fileobj=io.BytesIO(far.get(f"/containers/{box}/export").body)) as tar:
        assert all(member.uid < 65536 for member in tar)
    out = steps.sh(far, "ls -n /of-root /given", Image=image, host={"UsernsMode": "host"})
    assert out.count(" 0        0 ") == 2
    ours.remove_containers()
    assert far.delete("/volumes/shared").status == 204


def test_mounts_made_inside_belong_to_the_container(ours: Engine, far: Connection) -> None:
    """CAP_SYS_ADMIN is that of its own namespaces; what the engine hides stays hidden."""
    script = """
        mount -t tmpfs x /tmp && hostname other && ip link set lo down
        umount /proc/sys; umount /proc/acpi; mount -o remount,rw /proc/sys
    """
    _, _, err = steps.run(
        far, "sh", "-c", script,
        host={"CapAdd": ["SYS_ADMIN", "NET_ADMIN"], "SecurityOpt": ["seccomp=unconfined", "apparmor=unconfined"]},
    )  # fmt: skip
    complaints = [line for line in err.splitlines() if line]
    assert len(complaints) == 3 and all("umount" in line or "mount:" in line for line in complaints), err


def test_what_is_hidden_stays_hidden_unless_asked(ours: Engine, far: Connection) -> None:
    """Only with systempaths=unconfined is there a procfs that a nested pid namespace's own may be mounted beside."""
    script = "unshare -p -f sh -c 'mount -t proc proc /tmp && echo mounted'; true"
    options = ["seccomp=unconfined", "apparmor=unconfined"]
    for more, said in (([], ""), (["systempaths=unconfined"], "mounted\n")):
        host = {"CapAdd": ["SYS_ADMIN"], "SecurityOpt": [*options, *more]}
        assert steps.run(far, "sh", "-c", script, host=host)[1] == said, more


def test_containers_that_share_namespaces(remapped: Engine, far: Connection) -> None:
    """What belongs to a namespace's user namespace works in the second container, too: raw sockets, signals, links."""
    box = steps.sleeper(far, host={"IpcMode": "shareable"})
    users = os.readlink(f"/proc/{steps.inspect(far, box)['State']['Pid']}/ns/user")
    script = "readlink /proc/self/ns/user; ping -c 1 127.0.0.1 && echo x > /dev/shm/made && readlink /proc/1/exe"
    modes = dict.fromkeys(("NetworkMode", "PidMode", "IpcMode"), f"container:{box}")
    out = steps.sh(far, script, host=modes)
    assert out.startswith(users) and "1 packets received" in out and out.endswith("/bin/busybox\n"), out
    assert steps.exec_sh(far, box, "ls -n /dev/shm/made")[1].split()[2:4] == ["0", "0"]
    if remapped.name == "dockyardd":  # dockerd's runc ends with "can't get final child's PID"
        other = steps.sleeper(far, host={"UsernsMode": "host"})
        assert "0    " in steps.sh(far, "cat /proc/self/uid_map", host={"NetworkMode": f"container:{other}"})


DOCKERFILE = """\
FROM bb AS base
RUN mkdir /from && echo x > /from/f && chown 1000:50 /from/f
RUN echo y > /from/g
FROM bb
RUN cat /proc/self/uid_map; touch /of-root /of-dock; chown 1000:50 /of-dock; ls -n /etc/hosts
COPY --chown=1000:50 f /f
USER dock
RUN id -u; echo more >> /f; ls -n / /f
"""
MOUNTS = """\
RUN --mount=type=cache,target=/c,id=remapped,uid=1000 touch /c/root; echo cache $(stat -c %u /c /c/root)
RUN --mount=type=bind,target=/x --mount=type=bind,target=/y,rw echo bind $(stat -c %u /[xy]/f); echo b >> /y/f; cat /y/f
RUN --mount=type=bind,from=base,source=/from,target=/x,rw chown 7 /x/f && echo layers $(stat -c %u /x/f /x/g)
RUN --mount=type=bind,from=base,source=/from/f,target=/x,rw echo file $(stat -c %u /x) && echo z >> /x
RUN --mount=type=secret,id=s,uid=1000,mode=0440,target=/s echo secret $(stat -c %u:%g /s) $(cat /s)
RUN --mount=type=tmpfs,target=/t touch /t/f && echo tmpfs $(stat -c %u /t /t/f)
RUN <<X
echo document $(id -u)
X
"""


def test_builds_have_the_containers_ids(remapped: Engine, far: Connection, tmp_path: Path) -> None:
    root = contexts.directory(tmp_path, DOCKERFILE, {"f": "f"})
    out = remapped.docker("build", "--no-cache", "-t", "built", str(root)).stdout.decode()
    assert f"{FIRST}      65536" in out and "\n1000\n" in out, out
    assert out.count(" 1000     50 ") == 3 and " 0        0 " in out and " 65534    65534 " in out, out
    image = steps.sh(far, "ls -n /of-root /of-dock /f", Image="built")
    assert image.count(" 1000     50 ") == 2 and image.count(" 0        0 ") == 1, image


@pytest.mark.vm
def test_mounts_of_builds_belong_to_the_container(ours: Engine, far: Connection, tmp_path: Path) -> None:
    """Also where no idmapped mount helps: secrets lie on a tmpfs, which cannot be one before Linux 6.3."""
    root = contexts.directory(tmp_path, DOCKERFILE.replace("USER dock\nRUN", "RUN") + MOUNTS, {"f": "f"})
    (tmp_path / "secret").write_text("geheim")
    words = ("build", "--no-cache", "--progress=plain", "-t", "built", "--secret", f"id=s,src={tmp_path}/secret")
    done = subprocess.run([DOCKYARD, *words, str(root)], env=ours.cli_environment(), capture_output=True, check=False)
    said = done.stderr.decode()
    assert done.returncode == 0, said
    for line in (
        "cache 1000 0", "bind 0 0", "fb", "layers 7 0", "file 1000", "secret 1000:0 geheim", "tmpfs 0 0", "document 0",
    ):  # fmt: skip
        assert f" {line}\n" in said, (line, said)
    uids = steps.sh(far, "ls -n /of-root /of-dock", Image="built", host={"UsernsMode": "host"})
    assert uids.count(" 1000     50 ") == 1 and uids.count(" 0        0 ") == 1, uids


def test_a_build_that_goes_away_leaves_nothing(ours: Engine, far: Connection, tmp_path: Path) -> None:
    root = contexts.directory(tmp_path, "FROM bb\nRUN --mount=type=cache,target=/c echo begun; sleep 1000\n", {})
    client = ours.spawn("build", str(root))
    try:
        assert client.stdout is not None
        while client.stdout.readline() not in (b"begun\n", b""):
            continue
        assert of_mapped_users()
    finally:
        client.kill()
        client.wait()
    steps.eventually(lambda: not of_mapped_users() and not os.listdir(ours.exec_root / "containers"))


def of_mapped_users() -> list[str]:
    """Processes with the ids of our containers."""
    found = []
    for pid in filter(str.isdecimal, os.listdir("/proc")):
        try:
            if os.stat(f"/proc/{pid}").st_uid in range(FIRST, FIRST + 65536):
                found.append(pid)
        except FileNotFoundError:
            continue
    return found


def test_file_capabilities(ours: Engine, far: Connection) -> None:
    """Those of an image hold in the user namespace, and do so without one."""
    tar = io.BytesIO()
    effective = struct.pack("<IIIII", 0x02000001, 1 << 13, 0, 0, 0)  # vfs_cap_data, revision 2: CAP_NET_RAW
    with (
        tarfile.open(fileobj=io.BytesIO(busybox.rootfs_tar())) as base,
        tarfile.open(fileobj=tar, mode="w", format=tarfile.PAX_FORMAT) as made,
    ):
        for member in base:
            made.addfile(member, base.extractfile(member) if member.isreg() else None)
            if member.name == "bin/busybox":
                member.name = "bin/busybox_raw"
                member.pax_headers = {"SCHILY.xattr.security.capability": effective.decode()}
                made.addfile(member, base.extractfile(member))
        foreign = tarfile.TarInfo("foreign")
        foreign.uid = foreign.gid = 70000
        made.addfile(foreign)
    ours.docker("import", "-", "capable", input=tar.getvalue())
    for mode in ("", "host"):
        script = "busybox_raw grep CapEff /proc/self/status; ls -n /foreign"
        out = steps.sh(far, script, Image="capable", User="33", host={"UsernsMode": mode})
        assert out.split()[1] == f"{1 << 13:016x}", (mode, out)
        assert (" 70000    70000 " if mode else " 65534    65534 ") in out


def test_binds_with_owners(ours: Engine, far: Connection, tmp_path: Path) -> None:
    """`:U` gives the files to the user's id on the host, `idmap` shows them as the user's and leaves them."""
    tmp_path.chmod(0o711)
    for name in ("given", "shown"):
        (tmp_path / name).mkdir()
        os.chown(tmp_path / name, 1234, 1234)
    host = {"Binds": [f"{tmp_path}/given:/given:U", f"{tmp_path}/shown:/shown:idmap"]}
    script = "stat -c %u:%g /given /shown; touch /given/f /shown/f"
    assert steps.sh(far, script, User="1000:1000", host=host).split() == ["1000:1000"] * 2
    owners = [(tmp_path / name).stat().st_uid for name in ("given", "given/f", "shown", "shown/f")]
    assert owners == [FIRST + 1000, FIRST + 1000, 1234, 1234]


def test_copied_in_with_an_id_that_has_no_place(ours: Engine, far: Connection) -> None:
    box = steps.sleeper(far)
    assert steps.exec_sh(far, box, "echo kept > /f")[0] == 0
    tar = io.BytesIO()
    with tarfile.open(fileobj=tar, mode="w") as made:
        entry = tarfile.TarInfo("f")
        entry.uid = 70000
        made.addfile(entry)
    failed = ours.docker("cp", "-", f"{box}:/", input=tar.getvalue(), check=False)
    assert b"Container ID 70000 cannot be mapped to a host ID" in failed.stderr
    assert steps.exec_sh(far, box, "cat /f")[1] == "kept\n"


@pytest.mark.parametrize("runtime", ["runc", "crun"])
def test_other_runtimes(ours: Engine, far: Connection, tmp_path: Path, runtime: str) -> None:
    if runtime not in known({}):
        pytest.skip(f"{runtime} is not installed")
    tmp_path.chmod(0o711)
    (shared := tmp_path / "shared").mkdir(mode=0o700)  # nobody but root of the host gets there by name
    os.chown(shared, 1234, 1234)
    (tmp_path / "file").write_text("file\n")
    mounts = [{"Type": "image", "Source": "bb", "Target": "/i"}, {"Type": "volume", "Source": "rv", "Target": "/v"}]
    binds = [f"{shared}:/shared:idmap", f"{tmp_path}/file:/file:ro"]
    host = {"Runtime": runtime, "Mounts": mounts, "Binds": binds, "Tmpfs": {"/t": ""}, "IpcMode": "shareable"}
    box = steps.sleeper(far, host=host, User="1000:1000")
    assert of_process(steps.inspect(far, box)["State"]["Pid"], "Uid") == [FIRST + 1000] * 4
    script = "id -u; cat /file; stat -c %u /shared /v /i /etc/hosts / /dev/shm; touch /shared/f; echo out > /dev/stdout"
    assert steps.exec_sh(far, box, script) == (0, "1000\nfile\n1000\n0\n0\n0\n0\n0\nout\n")
    assert (shared / "f").stat().st_uid == 1234
    assert steps.exec_sh(far, box, "touch /v/f /t/f /f; ls -n /v/f; ping -c 1 127.0.0.1", User="0")[0] == 0
    assert ours.docker("exec", "-t", box, "sh", "-c", "echo x > $(tty); tty").stdout.startswith(b"x\r\n/dev/pts/")
    volume = Path(far.get("/volumes/rv").json()["Mountpoint"])
    assert (volume / "f").stat().st_uid == 0
    beside = {"Runtime": runtime, "NetworkMode": f"container:{box}", "IpcMode": f"container:{box}"}
    assert "1 packets received" in steps.sh(far, "ping -c 1 127.0.0.1; echo x > /dev/shm/x", host=beside)
    answer = far.post("/containers/create", {"Image": "bb", "HostConfig": {"Runtime": runtime, "Privileged": True}})
    assert answer.status == 400 and "privileged mode is incompatible" in answer.message
    answer = far.post(f"/containers/{steps.create(far, 'true', User='70000', host={'Runtime': runtime})}/start")
    assert "user 70000 is not among the ids of the container's user namespace" in answer.message
    ours.remove_containers()
    assert far.delete("/volumes/rv").status == 204
    assert str(ours.root) not in Path("/proc/self/mountinfo").read_text()


@pytest.mark.vm
def test_writable_control_groups_are_the_containers(ours: Engine, far: Connection) -> None:
    if not Path("/sys/fs/cgroup/cgroup.controllers").exists():
        pytest.skip("control groups are given away on cgroup v2 only")
    script = "mkdir /sys/fs/cgroup/mine && echo $$ > /sys/fs/cgroup/mine/cgroup.procs && cat /proc/self/cgroup"
    options = ["writable-cgroups=true", "apparmor=unconfined"]
    for user in ("", "1000"):
        assert steps.sh(far, script, host={"SecurityOpt": options}, User=user).strip().endswith("/mine")
    code, _, err = steps.run(far, "sh", "-c", "echo 1 > /sys/fs/cgroup/pids.max", host={"SecurityOpt": options})
    assert code and "ermission denied" in err


def test_the_engines_next_life(ours: Engine, far: Connection, tmp_path: Path) -> None:
    """A daemon without the option finds a container that has ids of its own, and build cache that is as good as its."""
    mounted = "RUN --mount=type=cache,target=/c,id=lives,uid=1000 "
    begins = f"FROM bb\nRUN touch /kept\n{mounted}"
    first = contexts.directory(tmp_path / "first", f"{begins}touch /c/root\n")
    second = contexts.directory(tmp_path / "second", f"{begins}echo owners $(stat -c %u /c /c/root)\n")
    ours.docker("build", str(first))
    box = steps.sleeper(far)
    ours.stop()
    ours.start()
    with ours.api() as api:
        assert steps.exec_sh(api, box, "id -u; cat /proc/self/uid_map")[1].split() == ["0", "0", str(FIRST), "65536"]
        assert "name=userns" not in api.get("/info").json()["SecurityOptions"]
        assert steps.sh(api, "cat /proc/self/uid_map").split()[1] == "0"
        said = ours.docker("build", str(second)).stdout
        assert b"Using cache" in said and b"owners 1000 0\n" in said, said
        assert "etc/passwd" in steps.exec_sh(api, box, "ls /etc/passwd")[1]
    ours.stop()
    ours.start("--userns-remap=daemon")
