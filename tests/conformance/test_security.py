"""The default container's confinement, seen from inside: statements S1 to S18 and what runc gives, compared."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import busybox, steps
from tests.support.engines import Engine
from tests.support.rawhttp import Connection

DOCKER_CAPABILITIES = 0x00000000A80425FB  # the 14 of Docker's default container


def status(text: str) -> dict[str, str]:
    return {name: value.strip() for name, _, value in (line.partition(":") for line in text.splitlines())}


@pytest.fixture
def box(api: Connection) -> str:
    return steps.started(api, "sleep", "1000")


def test_s2_no_descriptor_above_2(engine: Engine, api: Connection, box: str) -> None:
    assert set(steps.exec_sh(api, box, "ls /proc/1/fd")[1].split()) == {"0", "1", "2"}
    # the shell's own script descriptor and ls's directory are opened after exec
    script = "for fd in /proc/self/fd/*; do n=${fd##*/}; [ $n -gt 2 ] && readlink $fd; done; true"
    for line in steps.exec_sh(api, box, script)[1].splitlines():
        assert re.fullmatch(r"/proc/\d+/fd", line), line
    pid = steps.inspect(api, box)["State"]["Pid"]
    assert sorted(os.listdir(f"/proc/{pid}/fd")) == ["0", "1", "2"]


@pytest.mark.parametrize("directory", ["/proc/self/fd/7", "/proc/self/fd/9/../../..", "/proc/1/cwd/../.."])
def test_s3_working_directory_stays_inside(engine: Engine, api: Connection, directory: str) -> None:
    identifier = steps.create(api, "sh", "-c", "pwd; ls /; cat ../../../../etc/passwd", WorkingDir=directory)
    if api.post(f"/containers/{identifier}/start").status == 204:
        steps.wait(api, identifier)
        out = steps.logs(api, identifier)[0]
        assert "dock:x:1000" in out or "root:" not in out
        assert Path("/etc/passwd").read_text() not in out


def test_s11_s12_capabilities(engine: Engine, api: Connection, box: str) -> None:
    for text in (steps.sh(api, "cat /proc/self/status"), steps.exec_sh(api, box, "cat /proc/self/status")[1]):
        found = status(text)
        assert int(found["CapInh"], 16) == 0 and int(found["CapAmb"], 16) == 0
        for name in ("CapPrm", "CapEff", "CapBnd"):
            assert int(found[name], 16) & ~DOCKER_CAPABILITIES == 0, name
        assert int(found["CapEff"], 16) == DOCKER_CAPABILITIES
        assert found["Seccomp"] == "2"


def test_s12_no_capability_for_other_users(engine: Engine, api: Connection) -> None:
    found = status(steps.sh(api, "cat /proc/self/status", User="1000"))
    assert [int(found[name], 16) for name in ("CapInh", "CapPrm", "CapEff", "CapAmb")] == [0, 0, 0, 0]


MASKED = ("acpi", "kcore", "keys", "latency_stats", "timer_list", "timer_stats", "sched_debug", "scsi")


def test_s13_masked_and_read_only_paths(engine: Engine, api: Connection) -> None:
    script = "; ".join(
        f"if [ -d /proc/{name} ]; then ls /proc/{name} | wc -l; elif [ -e /proc/{name} ]; then wc -c < /proc/{name}; fi"
        for name in MASKED
    )
    assert set(steps.sh(api, script).split()) <= {"0"}
    assert steps.sh(api, "[ -d /sys/firmware ] && ls /sys/firmware | wc -l || echo 0").strip() == "0"
    for path in ("bus", "fs", "irq", "sys", "sysrq-trigger"):
        options = steps.sh(api, f"grep ' /proc/{path} ' /proc/mounts || true")
        assert not options or options.split()[3].startswith("ro"), path
    assert "Read-only" in steps.run(api, "sh", "-c", "echo x > /proc/sys/kernel/domainname")[2]
    assert " ro," in steps.sh(api, "grep ' /sys sysfs' /proc/mounts")


@pytest.mark.dockyardd_only("added to Docker's list after 20.10")
def test_s13_newer_masks(engine: Engine, api: Connection) -> None:
    for path in ("/proc/asound", "/proc/interrupts", "/sys/devices/virtual/powercap"):
        listed = steps.sh(api, f"if [ -d {path} ]; then ls {path}; elif [ -e {path} ]; then cat {path}; fi")
        assert listed == "", path


@pytest.fixture(scope="module")
def probe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A static program that tries system calls and prints `name errno`."""
    source = tmp_path_factory.mktemp("probe") / "probe.c"
    source.write_text(PROBE)
    binary = source.with_suffix("")
    done = subprocess.run(["gcc", "-static", "-O1", "-o", binary, source], capture_output=True, check=False)
    if done.returncode != 0:
        pytest.skip("no C compiler with a static libc on this machine")
    return binary


PROBE = r"""
#define _GNU_SOURCE
#include <errno.h>
#include <sched.h>
#include <stdio.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>
#define TRY(name, call) do { errno = 0; long r = (call); printf("%s %d\n", name, r < 0 ? errno : 0); } while (0)
int main(void) {
    TRY("af_alg", socket(38, SOCK_SEQPACKET, 0));
    TRY("af_vsock", socket(40, SOCK_STREAM, 0));
    TRY("af_inet", socket(AF_INET, SOCK_STREAM, 0));
    TRY("keyctl", syscall(SYS_keyctl, 0, -3, 0, 0, 0));
    TRY("add_key", syscall(SYS_add_key, "user", "x", "y", 1, -3));
    TRY("bpf", syscall(SYS_bpf, 0, 0, 0));
    TRY("userfaultfd", syscall(323, 0));
    TRY("io_uring_setup", syscall(425, 1, 0));
    TRY("unshare_user", unshare(CLONE_NEWUSER));
    TRY("unshare_net", unshare(CLONE_NEWNET));
    TRY("mount", syscall(SYS_mount, "x", "/tmp", "tmpfs", 0, 0));
    TRY("perf_event_open", syscall(SYS_perf_event_open, 0, 0, 0, 0, 0));
    TRY("clone3", syscall(435, 0, 0));
    TRY("unknown", syscall(9999));
    return 0;
}
"""


def probed(engine: Engine, probe: Path, *flags: str) -> dict[str, int]:
    text = engine.out("run", "--rm", "-v", f"{probe}:/probe:ro", *flags, "bb", "/probe")
    return {name: int(number) for name, number in (line.split() for line in text.splitlines())}


def test_s14_seccomp(engine: Engine, probe: Path) -> None:
    found = probed(engine, probe)
    assert found["af_inet"] == 0
    for name in ("keyctl", "add_key", "bpf", "unshare_user", "unshare_net", "mount", "perf_event_open"):
        assert found[name] == 1, f"{name}: errno {found[name]} instead of EPERM"
    assert found["clone3"] == 38 and found["unknown"] in (1, 38)


@pytest.mark.dockyardd_only("Docker denies these after 20.10")
def test_s14_seccomp_newer_denials(engine: Engine, probe: Path) -> None:
    found = probed(engine, probe)
    for name in ("af_alg", "af_vsock", "userfaultfd", "io_uring_setup"):
        assert found[name] in (1, 38, 97), f"{name}: errno {found[name]}"


def test_s15_no_new_privileges(engine: Engine, api: Connection, tmp_path: Path) -> None:
    (tmp_path / "id").write_bytes(busybox.find_busybox().read_bytes())
    (tmp_path / "id").chmod(0o4755)
    flags = ["--rm", "-u", "1000", "-v", f"{tmp_path}:/suid"]
    grep = ["grep", "-E", "^(Uid|NoNewPrivs)", "/proc/self/status"]
    engine_out = engine.out(
        "run", *flags, "--security-opt", "no-new-privileges", "bb", "/suid/id", "busybox", *grep, check=False
    )
    plain = status(engine.out("run", *flags, "--security-opt", "no-new-privileges", "bb", *grep))
    assert plain["NoNewPrivs"] == "1" and plain["Uid"].split() == ["1000"] * 4
    assert "euid=0" not in engine_out


def test_s16_a_number_is_never_a_name(engine: Engine, api: Connection) -> None:
    passwd = busybox.PASSWD + b"1000:x:0:0:trap:/:/bin/sh\n4444:x:0:0:trap:/:/bin/sh\n"
    layer = busybox.layer_tar({"etc/passwd": passwd})
    engine.docker("load", input=busybox.docker_archive(["trap:1"], [busybox.rootfs_tar(), layer], {}))
    try:
        for user in ("1000", "4444"):
            out = steps.sh(api, "id -u", Image="trap:1", User=user)
            assert out.strip() == user or engine.name == "dockerd"
    finally:
        engine.remove_containers()
        engine.docker("rmi", "-f", "trap:1")


@pytest.fixture
def odd_image(engine: Engine) -> Iterator[str]:
    yield "odd:1"
    engine.remove_containers()
    engine.docker("rmi", "-f", "odd:1", check=False)


@pytest.mark.dockyardd_only("20.10 hangs on a FIFO")
@pytest.mark.parametrize("kind", ["fifo", "symlink", "device", "big"])
def test_s17_odd_passwd_files(engine: Engine, api: Connection, odd_image: str, kind: str) -> None:
    """Neither hangs, nor reads the host, nor takes the memory: a number works, a name fails or is the image's own."""
    import io
    import tarfile

    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for name in ("etc/passwd", "etc/group"):
            entry = tarfile.TarInfo(name)
            if kind == "fifo":
                entry.type = tarfile.FIFOTYPE
            elif kind == "symlink":
                entry.type, entry.linkname = tarfile.SYMTYPE, "/" + "../" * 20 + name
            elif kind == "device":
                entry.type, entry.devmajor, entry.devminor = tarfile.CHRTYPE, 1, 5
            else:
                entry.size = 64 << 20
            tar.addfile(entry, io.BytesIO(b"x" * entry.size) if entry.size else None)
    engine.docker("load", input=busybox.docker_archive([odd_image], [busybox.rootfs_tar(), out.getvalue()], {}))
    number = steps.create(api, "awk", "/^Uid/ {print $2}", "/proc/self/status", Image=odd_image, User="7")
    if kind != "big" or api.post(f"/containers/{number}/start").status == 204:  # too big may be refused
        api.post(f"/containers/{number}/start")
        assert steps.wait(api, number) == 0 and steps.logs(api, number)[0].strip() == "7"
    identifier = steps.create(api, "id", Image=odd_image, User="daemon")
    assert api.post(f"/containers/{identifier}/start").status == 400


def test_own_namespaces_and_hidden_host(engine: Engine, api: Connection) -> None:
    names = ("mnt", "pid", "net", "ipc", "uts")
    inside = steps.sh(api, "; ".join(f"readlink /proc/self/ns/{name}" for name in names)).split()
    assert all(os.readlink(f"/proc/self/ns/{name}") not in inside for name in names)
    assert steps.sh(api, "echo $$; ls /proc | grep -c '^[0-9]'").split()[0] == "1"


@pytest.mark.dockyardd_only("with cgroup v1 Docker's default is the host's")
def test_s10_own_cgroup_namespace(engine: Engine, api: Connection) -> None:
    inside = steps.sh(api, "readlink /proc/self/ns/cgroup; cat /proc/self/cgroup")
    assert os.readlink("/proc/self/ns/cgroup") not in inside
    assert all(line.endswith(":/") for line in inside.splitlines()[1:])


def test_paths_to_be_hidden_and_protected_can_be_chosen(engine: Engine, api: Connection) -> None:
    script = "wc -c < /proc/version; touch /tmp/x 2>&1 | grep -o Read-only"
    paths = {"MaskedPaths": ["/proc/version"], "ReadonlyPaths": ["/tmp"]}
    assert steps.sh(api, script, host=paths).split() == ["0", "Read-only"]


def test_the_hosts_cgroup_namespace(engine: Engine, api: Connection) -> None:
    inside = steps.sh(api, "readlink /proc/self/ns/cgroup", host={"CgroupnsMode": "host"})
    assert inside.strip() == os.readlink("/proc/self/ns/cgroup")


def test_s10_cgroups_are_read_only(engine: Engine, api: Connection) -> None:
    script = "for d in /sys/fs/cgroup/*/; do mkdir $d/x 2>/dev/null && echo $d; done; true"
    assert steps.sh(api, script) == ""


def test_private_dev(engine: Engine, api: Connection) -> None:
    listed = set(steps.sh(api, "ls /dev").split())
    expected = {"fd", "full", "mqueue", "null", "ptmx", "pts", "random", "shm", "stderr", "stdin", "stdout"}
    assert listed - {"console", "core"} == expected | {"tty", "urandom", "zero"}
    assert "not permitted" in steps.run(api, "sh", "-c", "mknod /tmp/d b 8 0 && cat /tmp/d")[2]


def test_the_null_device_is_the_containers(engine: Engine, api: Connection) -> None:
    """What is standard input of a container without one: root in there may change its mode and owner."""
    hosts = os.stat("/dev/null")
    script = "stat -L -c '%t:%T %d:%i' /proc/self/fd/0; chown 7 /proc/self/fd/0; chmod 640 /proc/self/fd/0"
    box = steps.started(api, "sh", "-c", f"{script}; sleep 1000")
    said = [steps.eventually(lambda: steps.logs(api, box)[0])]
    if engine.name == "dockyardd":  # runc leaves an exec'd process the host's
        said.append(steps.exec_sh(api, box, script)[1])
        steps.exec_sh(api, box, "rm /dev/null; mkfifo /dev/null")
        assert steps.exec_sh(api, box, "stat -L -c %F /proc/self/fd/0; cat")[1] == "fifo\n"
    for each in said:
        assert each.startswith("1:3 ") and f"{hosts.st_dev}:{hosts.st_ino}" not in each, each
    after = os.stat("/dev/null")
    assert (after.st_mode, after.st_uid) == (hosts.st_mode, hosts.st_uid)


def test_s36_state_is_closed_to_other_users(engine: Engine) -> None:
    assert engine.data_root.stat().st_mode & 0o066 == 0
    for path in engine.exec_root.rglob("*.sock"):
        assert path.stat().st_mode & 0o007 == 0 or path.parent.stat().st_mode & 0o077 == 0, path


def test_s46_the_socket_is_for_root_and_its_group(engine: Engine) -> None:
    mode = engine.socket_path.stat().st_mode
    assert mode & 0o777 == 0o660


@pytest.mark.dockyardd_only("its children are Go's")
def test_s47_no_abstract_sockets(engine: Engine) -> None:
    assert engine.token not in "".join(
        line for line in Path("/proc/net/unix").read_text().splitlines() if "@" in line.split()[-1]
    )


SEEN = (
    "grep -E '^(Sig(Q|Pnd|Blk|Ign|Cgt)|ShdPnd|Cap|NoNewPrivs|Seccomp:|Umask|Groups)' /proc/self/status; umask; "
    "env | sort; ulimit -a; cat /proc/self/limits; nice; cat /proc/self/oom_score_adj; cat /proc/self/loginuid; "
    "taskset -p $$ | cut -d: -f2; readlink /proc/self/cwd /proc/self/root; cat /proc/sys/kernel/hostname | wc -c"
)


@pytest.mark.dockyardd_only("compares with runc, which dockerd uses")
def test_what_the_container_sees_of_itself_equals_runc(engine: Engine, api: Connection) -> None:
    """Signals, masks, limits, environment, nice, affinity: nothing of Python or of the daemon is inherited."""
    import shutil
    import tempfile

    if not shutil.which("runc"):
        pytest.skip("runc is not installed")
    ours = steps.sh(api, SEEN)
    with tempfile.TemporaryDirectory(dir="/tmp", prefix="dyt-") as bundle:
        theirs = under_runc(Path(bundle))
    drop = re.compile(
        r"^(HOSTNAME=.*|\d+|.*Groups.*|Sig(Q|Ign).*|.*pending signals.*|.*(nofile|open files|locked).*)$", re.I
    )

    assert status(ours)["SigIgn"] == "0" * 16  # runc hands on what its caller ignores

    def comparable(text: str) -> list[str]:
        return [line.rstrip() for line in text.splitlines() if not drop.match(line.strip())]

    assert comparable(ours) == comparable(theirs)


def under_runc(bundle: Path) -> str:
    """The same script in a container of runc's own with Docker's settings."""
    import json
    import tarfile
    from io import BytesIO

    rootfs = bundle / "rootfs"
    rootfs.mkdir()
    with tarfile.open(fileobj=BytesIO(busybox.rootfs_tar())) as tar:
        tar.extractall(rootfs, filter="tar")
    subprocess.run(["runc", "spec"], cwd=bundle, check=True)
    config = json.loads((bundle / "config.json").read_text())
    names = [
        *("CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FSETID", "CAP_FOWNER", "CAP_MKNOD", "CAP_NET_RAW", "CAP_SETGID"),
        *("CAP_SETUID", "CAP_SETFCAP", "CAP_SETPCAP", "CAP_NET_BIND_SERVICE", "CAP_SYS_CHROOT", "CAP_KILL"),
        "CAP_AUDIT_WRITE",
    ]
    config["process"] |= {
        "terminal": False,
        "args": ["sh", "-c", SEEN],
        "env": [*busybox.DEFAULT_ENV, "HOSTNAME=x", "HOME=/root"],
        "noNewPrivileges": False,
        "capabilities": dict.fromkeys(("bounding", "effective", "permitted"), names),
        "rlimits": [],
    }
    config["root"]["readonly"] = False
    config["linux"]["seccomp"] = {
        "defaultAction": "SCMP_ACT_ALLOW",
        "syscalls": [{"names": ["bpf"], "action": "SCMP_ACT_ERRNO"}],
    }
    (bundle / "config.json").write_text(json.dumps(config))
    name = bundle.name
    done = subprocess.run(
        ["runc", "--root", str(bundle / "state"), "run", "--bundle", str(bundle), name],
        capture_output=True,
        text=True,
        check=False,
        stdin=subprocess.DEVNULL,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.dockyardd_only("the interpreter is what is at stake")
def test_s1_the_interpreter_cannot_be_overwritten(engine: Engine, api: Connection) -> None:
    """A container that keeps trying to write to what executes its exec'd processes (CVE-2019-5736)."""
    script = (
        "while :; do for p in /proc/[0-9]*; do "
        "exe=$(readlink $p/exe 2>/dev/null); case $exe in *python*) echo seen $exe; "
        "(echo broken > $p/exe) 2>&1 && echo WRITTEN;; esac; done; done"
    )
    box = steps.started(api, "sh", "-c", script)
    for _ in range(20):
        steps.exec_sh(api, box, "true")
    api.post(f"/containers/{box}/kill")
    assert "WRITTEN" not in "".join(steps.logs(api, box))


@pytest.mark.dockyardd_only("the interpreter is what is at stake")
def test_s18_nothing_of_python_is_read_from_the_image(engine: Engine, api: Connection, odd_image: str) -> None:
    """Poisoned library paths in the image: run and exec fail or work as if they were not there."""
    poison = b"raise SystemExit('poisoned')\n"
    paths = {
        f"usr/lib/python3.{minor}/{name}.py"
        for minor in (11, 12, 13)
        for name in ("os", "encodings/__init__", "socket")
    }
    source = str(Path(__file__).parents[2] / "src" / "dockyard" / "runtime" / "init.py")[1:]
    files = dict.fromkeys(paths, poison) | {
        source: b"# coding: evil\n" + poison,
        "etc/nsswitch.conf": b"passwd: evil\n",
    }
    layers = [busybox.rootfs_tar(), busybox.layer_tar(files)]
    engine.docker("load", input=busybox.docker_archive([odd_image], layers, {}))
    box = steps.started(api, "sleep", "1000", Image=odd_image)
    assert steps.exec_sh(api, box, "echo fine", User="dock") == (0, "fine\n")
    identifier = steps.create(api, "no-such-program", Image=odd_image)
    answer = api.post(f"/containers/{identifier}/start")
    assert answer.status == 400 and "poisoned" not in answer.message and "executable file not found" in answer.message
