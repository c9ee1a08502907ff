"""`--userns-remap`: root in a container is nobody on the host, over the same layers and volumes as without.

A daemon of its own for this module, with the subordinate ids of a user of the system.
"""

from __future__ import annotations

import io
import os
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conformance.conftest import load_images
from tests.support import steps
from tests.support.engines import Dockyardd, Engine, PeerDocker, why_no_dockyardd, why_no_peer
from tests.support.rawhttp import Connection

FIRST = 2_000_000
FILES = (Path("/etc/subuid"), Path("/etc/subgid"))


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
    wanted = request.config.getoption("--engine")
    missing = why_no_peer() if request.param == "dockerd" else why_no_dockyardd()
    if missing or wanted not in ("both", request.param):
        pytest.skip(missing or f"{wanted} only")
    made = PeerDocker() if request.param == "dockerd" else Dockyardd(bridge="dyt7", subnet="10.231.37.0/24")
    try:
        made.start("--userns-remap=daemon")
        load_images(made)
        yield made
    finally:
        made.close()


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


@pytest.mark.vm
def test_writable_control_groups_are_the_containers(ours: Engine, far: Connection) -> None:
    if not Path("/sys/fs/cgroup/cgroup.controllers").exists():
        pytest.skip("control groups are given away on cgroup v2 only")
    script = "mkdir /sys/fs/cgroup/mine && echo $$ > /sys/fs/cgroup/mine/cgroup.procs && cat /proc/self/cgroup"
    options = ["writable-cgroups=true", "apparmor=unconfined"]
    assert steps.sh(far, script, host={"SecurityOpt": options}).strip().endswith("/mine")


def test_the_engines_next_life(ours: Engine, far: Connection) -> None:
    """A daemon without the option finds a container that has ids of its own."""
    box = steps.sleeper(far)
    ours.stop()
    ours.start()
    with ours.api() as api:
        assert steps.exec_sh(api, box, "id -u; cat /proc/self/uid_map")[1].split() == ["0", "0", str(FIRST), "65536"]
        assert "name=userns" not in api.get("/info").json()["SecurityOptions"]
        assert steps.sh(api, "cat /proc/self/uid_map").split()[1] == "0"
        assert "etc/passwd" in steps.exec_sh(api, box, "ls /etc/passwd")[1]
    ours.stop()
    ours.start("--userns-remap=daemon")
