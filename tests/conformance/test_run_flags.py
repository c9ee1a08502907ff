"""Every flag of `docker run` that this engine serves, by the docker CLI, seen from inside the container."""

from __future__ import annotations

import json
import os
import re
import socket
from pathlib import Path

import pytest

from tests.support import steps
from tests.support.engines import Engine
from tests.support.rawhttp import Connection


def sh(engine: Engine, *flags: str, script: str) -> str:
    """What a script prints in a container run with these flags."""
    return engine.out("run", "--rm", *flags, "bb", "sh", "-c", script)


def test_detached_prints_the_id(engine: Engine) -> None:
    assert re.fullmatch("[0-9a-f]{64}", engine.out("run", "-d", "bb", "true"))


def test_rm_leaves_nothing(engine: Engine) -> None:
    engine.docker("run", "--rm", "bb", "true")
    steps.eventually(lambda: engine.out("ps", "-aq") == "")


def test_environment(engine: Engine, tmp_path: Path) -> None:
    listing = tmp_path / "env"
    listing.write_text("# comment\nFROM_FILE=1 2\nEMPTY=\n")
    printed = sh(engine, "-e", "A=1", "-e", "B=two words", "--env-file", str(listing), script="env").splitlines()
    assert {"A=1", "B=two words", "FROM_FILE=1 2", "EMPTY=", "HOME=/root"} <= set(printed)
    names = {line.partition("=")[0] for line in printed}
    assert names <= {"A", "B", "FROM_FILE", "EMPTY", "HOME", "PATH", "HOSTNAME", "PWD", "SHLVL"}


def test_working_directory(engine: Engine) -> None:
    assert sh(engine, "-w", "/tmp", script="pwd") == "/tmp"
    assert sh(engine, "-w", "/made/for/it", script="pwd; stat -c %U .") == "/made/for/it\nroot"


@pytest.mark.parametrize(
    ("user", "shown"),
    [
        ("1000", "uid=1000(dock) gid=1000(dock) groups=50(staff),1000(dock)"),
        ("dock", "uid=1000(dock) gid=1000(dock) groups=50(staff),1000(dock)"),
        ("www:staff", "uid=33(www) gid=50(staff) groups=50(staff)"),
        ("4321:1234", "uid=4321 gid=1234 groups=1234"),
        ("4321", "uid=4321 gid=0(root) groups=0(root)"),
    ],
)
def test_user(engine: Engine, user: str, shown: str) -> None:
    printed = sh(engine, "-u", user, script="id")
    head, _, groups = printed.rpartition(" groups=")
    wanted, _, wanted_groups = shown.rpartition(" groups=")
    assert head == wanted
    assert set(groups.split(",")) >= set(wanted_groups.split(","))


def test_user_sets_home(engine: Engine) -> None:
    assert sh(engine, "-u", "dock", script="echo $HOME") == "/home/dock"


def test_group_add(engine: Engine) -> None:
    assert set(sh(engine, "--group-add", "staff", "--group-add", "777", script="id -G").split()) >= {"0", "50", "777"}


def test_hostname_and_domain(engine: Engine) -> None:
    assert sh(engine, "-h", "web.example", script="hostname; cat /etc/hostname") == "web.example\nweb.example"
    identifier = engine.out("run", "-d", "bb", "hostname")
    assert engine.out("wait", identifier) == "0"
    assert engine.out("logs", identifier) == identifier[:12]


def test_entrypoint(engine: Engine) -> None:
    assert engine.out("run", "--rm", "--entrypoint", "echo", "bb", "a", "b") == "a b"
    assert engine.out("run", "--rm", "--entrypoint", "id", "bb").startswith("uid=0")


def test_labels(engine: Engine, api: Connection) -> None:
    engine.docker("run", "-d", "--name", "lab", "--label", "a=1", "--label", "empty", "bb", "true")
    labels = steps.inspect(api, "lab")["Config"]["Labels"]
    assert (labels["a"], labels["empty"]) == ("1", "")


def test_bind_mounts(engine: Engine, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("from the host\n")
    assert sh(engine, "-v", f"{tmp_path}:/mnt", script="cat /mnt/file; echo back > /mnt/new") == "from the host"
    assert (tmp_path / "new").read_text() == "back\n"
    script = "echo no > /mnt/x 2>/dev/null || echo refused; cat /mnt/file"
    assert sh(engine, "-v", f"{tmp_path}:/mnt:ro", script=script) == "refused\nfrom the host"
    assert not (tmp_path / "x").exists()


def test_bind_of_a_single_file(engine: Engine, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("one\n")
    assert sh(engine, "-v", f"{tmp_path}/file:/etc/one.conf", script="cat /etc/one.conf") == "one"


def test_bind_by_volume_makes_the_source(engine: Engine, tmp_path: Path) -> None:
    sh(engine, "-v", f"{tmp_path}/made:/mnt", script="touch /mnt/here")
    assert (tmp_path / "made" / "here").exists()


def test_mount_bind(engine: Engine, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("by mount\n")
    flag = f"type=bind,source={tmp_path},target=/mnt,readonly"
    assert sh(engine, "--mount", flag, script="cat /mnt/file; touch /mnt/x 2>&1 | grep -c Read-only") == "by mount\n1"


def test_mount_bind_needs_its_source(engine: Engine, tmp_path: Path) -> None:
    done = engine.docker("run", "--mount", f"type=bind,source={tmp_path}/no,target=/mnt", "bb", "true", check=False)
    assert done.returncode == 125
    assert b"bind source path does not exist" in done.stderr and f"{tmp_path}/no".encode() in done.stderr
    assert engine.out("ps", "-aq") == ""


@pytest.mark.vm
def test_submounts_of_a_bind_are_seen(engine: Engine) -> None:
    assert sh(engine, "-v", "/sys:/mnt", script="test -d /mnt/fs/cgroup && ls /mnt/fs/cgroup | wc -l") != "0"


@pytest.mark.vm
def test_bind_propagation(engine: Engine, api: Connection, tmp_path: Path) -> None:
    engine.docker("run", "-d", "--name", "prop", "-v", f"{tmp_path}:/mnt:rprivate", "bb", "sleep", "100")
    mount = steps.inspect(api, "prop")["Mounts"][0]
    assert (mount["Type"], mount["Source"], mount["Destination"], mount["RW"], mount["Propagation"]) == (
        *("bind", str(tmp_path), "/mnt", True, "rprivate"),
    )


@pytest.mark.vm
def test_tmpfs(engine: Engine) -> None:
    assert "size=1024k" in sh(engine, "--tmpfs", "/scratch:size=1m,mode=700", script="grep /scratch /proc/mounts")
    flag = "type=tmpfs,target=/scratch,tmpfs-size=2097152,tmpfs-mode=0711"
    printed = sh(engine, "--mount", flag, script="grep /scratch /proc/mounts; stat -c %a /scratch")
    assert "size=2048k" in printed and printed.endswith("711")
    printed = sh(engine, "--tmpfs", "/scratch", script="grep /scratch /proc/mounts")
    assert all(option in printed for option in ("nosuid", "nodev", "noexec"))
    identifier = engine.out("create", "--tmpfs", "/scratch", "--mount", "type=tmpfs,target=/other", "bb")
    with engine.api() as api:
        body = steps.inspect(api, identifier)
    assert body["HostConfig"]["Tmpfs"] == {"/scratch": ""}
    assert [each["Destination"] for each in body["Mounts"]] == ["/other"], "Mounts tells of --mount's only"


@pytest.mark.vm
def test_a_tmpfs_without_a_mode_is_for_everybody_or_as_what_it_covers(engine: Engine) -> None:
    flags = ["--user", "1000", "--tmpfs", "/new/cache", "--mount", "type=tmpfs,target=/other", "--tmpfs", "/etc"]
    script = "touch /new/cache/mine; stat -c %a /new /new/cache /other /etc"
    identifier = engine.out("create", *flags, "bb", "sh", "-c", script)
    assert engine.out("start", "-a", identifier).split() == ["755", "1777", "1777", "755"]
    if engine.name == "dockyardd":  # Docker's has the mode of the mount point that the first start has made
        assert engine.out("start", "-a", identifier).split() == ["755", "1777", "1777", "755"], "the second start"


@pytest.mark.vm
def test_read_only(engine: Engine) -> None:
    script = "touch /x 2>&1 | grep -c Read-only; touch /dev/shm/ok /proc/self/comm && echo fine"
    assert sh(engine, "--read-only", script=script) == "1\nfine"


@pytest.mark.vm
def test_shm_size(engine: Engine) -> None:
    assert "size=65536k" in sh(engine, script="grep /dev/shm /proc/mounts")
    assert "size=8192k" in sh(engine, "--shm-size", "8m", script="grep /dev/shm /proc/mounts")


def test_network_none(engine: Engine) -> None:
    assert sh(engine, "--network", "none", script="ls /sys/class/net; ip -o addr | grep -c 'inet 127.0.0.1'") == "lo\n1"


def test_network_host(engine: Engine) -> None:
    inside = sh(engine, "--network", "host", script="readlink /proc/self/ns/net; hostname")
    assert inside.splitlines() == [
        engine.in_network("readlink", "/proc/self/ns/net").stdout.strip(),
        socket.gethostname(),
    ]


def test_network_of_another_container(engine: Engine) -> None:
    engine.docker("run", "-d", "--name", "base", "bb", "sleep", "100")
    there = engine.out("exec", "base", "readlink", "/proc/self/ns/net")
    assert sh(engine, "--network", "container:base", script="readlink /proc/self/ns/net") == there
    done = engine.docker("run", "--network", "container:nobody", "bb", "true", check=False)
    assert done.returncode == 125 and b"nobody" in done.stderr


@pytest.mark.vm
@pytest.mark.parametrize("kind", ["pid", "ipc", "uts"])
def test_namespaces_of_the_host(engine: Engine, kind: str) -> None:
    assert sh(engine, f"--{kind}", "host", script=f"readlink /proc/self/ns/{kind}") == os.readlink(
        f"/proc/self/ns/{kind}"
    )
    assert sh(engine, script=f"readlink /proc/self/ns/{kind}") != os.readlink(f"/proc/self/ns/{kind}")


@pytest.mark.vm
@pytest.mark.parametrize("kind", ["pid", "ipc"])
def test_namespaces_of_another_container(engine: Engine, kind: str) -> None:
    base = ["--ipc", "shareable"] if kind == "ipc" else []
    engine.docker("run", "-d", "--name", "base", *base, "bb", "sleep", "100")
    there = engine.out("exec", "base", "readlink", f"/proc/self/ns/{kind}")
    assert sh(engine, f"--{kind}", "container:base", script=f"readlink /proc/self/ns/{kind}") == there


@pytest.mark.vm
def test_shared_memory_has_its_limit_in_both_containers(engine: Engine) -> None:
    engine.docker("run", "-d", "--name", "base", "--ipc", "shareable", "--shm-size", "1m", "bb", "sleep", "100")
    fill = "echo said >/dev/shm/word; dd if=/dev/zero of=/dev/shm/fill bs=64k 2>/dev/null; stat -c %s /dev/shm/fill"
    assert int(sh(engine, "--ipc", "container:base", script=fill)) <= 1 << 20
    assert engine.out("exec", "base", "cat", "/dev/shm/word") == "said"


@pytest.mark.vm
def test_init(engine: Engine) -> None:
    printed = sh(engine, "--init", script="cat /proc/1/comm; cat /proc/$$/stat | cut -d' ' -f1")
    first, own = printed.split()
    assert first in ("docker-init", "tini", "dockyard-init", "init", "catatonit") and own != "1"
    title = sh(engine, "--init", script="tr '\\0' ' ' < /proc/1/cmdline").strip()
    program, _, arguments = title.partition(" ")
    assert program.rpartition("/")[2] in ("docker-init", "dockyard-init") and arguments.startswith("-- sh -c tr"), title


def test_init_reaps_orphans_and_passes_signals(engine: Engine) -> None:
    script = "(sleep 0.05 &) ; trap 'exit 4' TERM; echo up; while :; do sleep 0.05; done"
    identifier = engine.out("run", "-d", "--init", "bb", "sh", "-c", script)
    steps.eventually(lambda: engine.out("logs", identifier))
    steps.eventually(lambda: " Z " not in engine.out("exec", identifier, "ps", "-o", "pid,stat,comm"))
    engine.docker("kill", "-s", "TERM", identifier)
    assert engine.out("wait", identifier) == "4"


def test_stop_signal_and_timeout(engine: Engine, api: Connection) -> None:
    script = "trap 'exit 3' QUIT; echo up; while :; do sleep 0.05; done"
    engine.docker(
        "run", "-d", "--name", "sig", "--stop-signal", "QUIT", "--stop-timeout", "3", "bb", "sh", "-c", script
    )
    steps.eventually(lambda: engine.out("logs", "sig"))
    config = steps.inspect(api, "sig")["Config"]
    assert (config["StopSignal"], config["StopTimeout"]) == ("QUIT", 3)
    engine.docker("stop", "sig")
    assert steps.inspect(api, "sig")["State"]["ExitCode"] == 3


def test_cidfile(engine: Engine, tmp_path: Path) -> None:
    cidfile = tmp_path / "cid"
    identifier = engine.out("run", "-d", "--cidfile", str(cidfile), "bb", "true")
    assert cidfile.read_text() == identifier


@pytest.mark.vm
def test_resources(engine: Engine, api: Connection) -> None:
    flags = ["--memory", "64m", "--cpus", "0.5", "--pids-limit", "50", "--cpu-shares", "512"]
    identifier = engine.out("run", "-d", *flags, "bb", "sleep", "100")
    pid = steps.inspect(api, identifier)["State"]["Pid"]
    assert cgroup_value(pid, "memory", "memory.limit_in_bytes", "memory.max") == str(64 << 20)
    assert cgroup_value(pid, "pids", "pids.max", "pids.max") == "50"
    quota = cgroup_value(pid, "cpu", "cpu.cfs_quota_us", "cpu.max")
    assert quota in ("50000", "50000 100000")


def cgroup_value(pid: int, controller: str, v1: str, v2: str) -> str:
    """A limit of a process's cgroup, whichever version holds the controller."""
    for line in Path(f"/proc/{pid}/cgroup").read_text().splitlines():
        _, names, path = line.split(":", 2)
        if controller in names.split(","):
            return Path(f"/sys/fs/cgroup/{controller}{path}/{v1}").read_text().strip()
    path = Path(f"/proc/{pid}/cgroup").read_text().strip().removeprefix("0::")
    return Path(f"/sys/fs/cgroup{path}/{v2}").read_text().strip()


@pytest.mark.vm
def test_out_of_memory_is_told(engine: Engine, api: Connection) -> None:
    script = "head -c 200m /dev/zero | tail -c 150m >/dev/null; echo $?"
    identifier = engine.out(
        "run", "-d", "--memory", "32m", "--memory-swap", "32m", "bb", "sh", "-c", f"exec sh -c '{script}'"
    )
    engine.docker("wait", identifier)
    state = steps.inspect(api, identifier)["State"]
    assert state["OOMKilled"] or "137" in engine.out("logs", identifier)


@pytest.mark.vm
def test_ulimit(engine: Engine) -> None:
    assert sh(engine, "--ulimit", "nofile=100:200", script="ulimit -n; ulimit -Hn") == "100\n200"


@pytest.mark.vm
def test_sysctl(engine: Engine) -> None:
    assert (
        sh(
            engine,
            "--sysctl",
            "net.ipv4.ip_unprivileged_port_start=99",
            script="cat /proc/sys/net/ipv4/ip_unprivileged_port_start",
        )
        == "99"
    )


@pytest.mark.vm
def test_devices(engine: Engine) -> None:
    assert (
        sh(engine, "--device", "/dev/loop-control:/dev/lc:r", script="stat -c %F /dev/lc") == "character special file"
    )


@pytest.mark.vm
def test_capabilities(engine: Engine) -> None:
    assert bit(sh(engine, "--cap-add", "SYS_TIME", script="grep CapEff /proc/self/status"), 25)
    assert not bit(sh(engine, "--cap-drop", "CHOWN", script="grep CapEff /proc/self/status"), 0)
    assert sh(engine, "--cap-drop", "ALL", script="grep CapEff /proc/self/status").split()[1] == "0" * 16


def bit(line: str, number: int) -> bool:
    return bool(int(line.split()[1], 16) >> number & 1)


@pytest.mark.vm
def test_privileged(engine: Engine) -> None:
    needs_all_capabilities(engine)
    script = "grep -E 'CapEff|Seccomp:' /proc/self/status; ls /dev | wc -l; touch /proc/sys/kernel/domainname && echo w"
    caps, seccomp, devices, writable = sh(engine, "--privileged", script=script).splitlines()
    assert bit(caps, 21) and seccomp.split()[1] == "0" and int(devices) > 20 and writable == "w"


def needs_all_capabilities(engine: Engine) -> None:
    """runc gives up where the host itself lacks a capability; we give what there is."""
    if engine.name == "dockerd" and not bit(host_capabilities(), 24):
        pytest.skip("this host lacks CAP_SYS_RESOURCE: runc cannot run privileged containers")


def host_capabilities() -> str:
    return next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("CapEff"))


@pytest.mark.vm
def test_no_new_privileges(engine: Engine) -> None:
    assert (
        sh(engine, "--security-opt", "no-new-privileges", script="grep NoNewPrivs /proc/self/status").split()[1] == "1"
    )


@pytest.mark.vm
def test_seccomp_unconfined(engine: Engine) -> None:
    printed = sh(engine, "--security-opt", "seccomp=unconfined", script="grep Seccomp: /proc/self/status")
    assert printed.split()[1] == "0"


def test_dns_and_hosts(engine: Engine) -> None:
    flags = [
        "--dns",
        "192.0.2.53",
        "--dns-search",
        "example.test",
        "--dns-option",
        "ndots:3",
        "--add-host",
        "db:192.0.2.7",
    ]
    printed = sh(engine, *flags, script="cat /etc/resolv.conf /etc/hosts")
    assert re.search(r"^nameserver 192\.0\.2\.53$", printed, re.M)
    assert re.search(r"^search example\.test$", printed, re.M) and re.search(r"^options.*ndots:3", printed, re.M)
    assert re.search(r"^192\.0\.2\.7\s+db$", printed, re.M)
    assert re.search(r"^127\.0\.0\.1\s+localhost", printed, re.M)


def test_hosts_has_the_container(engine: Engine) -> None:
    printed = sh(engine, "-h", "me", script="grep -w me /etc/hosts; hostname -i").splitlines()
    assert printed[0].split() == [printed[1].strip(), "me"]


def test_restart_policy_on_failure(engine: Engine, api: Connection) -> None:
    engine.docker("run", "-d", "--name", "again", "--restart", "on-failure:2", "bb", "sh", "-c", "echo x; exit 1")
    steps.eventually(
        lambda: (i := steps.inspect(api, "again"))["RestartCount"] == 2 and i["State"]["Status"] == "exited"
    )
    assert engine.out("logs", "again").split() == ["x", "x", "x"]


def test_rm_and_restart_exclude_each_other(engine: Engine) -> None:
    done = engine.docker("run", "--rm", "--restart", "always", "bb", "true", check=False)
    assert done.returncode == 125 and b"onflicting options" in done.stderr


def test_log_driver_none(engine: Engine) -> None:
    engine.docker("run", "--name", "quiet", "--log-driver", "none", "bb", "echo", "x")
    done = engine.docker("logs", "quiet", check=False)
    assert done.returncode == 1 and b"configured logging driver does not support reading" in done.stderr


def test_inspect_gives_back_what_was_asked(engine: Engine) -> None:
    flags = ["-e", "A=1", "-w", "/tmp", "-u", "33", "--read-only", "--memory", "32m", "-p", "127.0.0.1:8099:80"]
    engine.docker("create", "--name", "asked", *flags, "bb", "sleep", "7")
    found = json.loads(engine.out("inspect", "asked"))[0]
    config, host = found["Config"], found["HostConfig"]
    assert (found["Path"], found["Args"], config["Cmd"]) == ("sleep", ["7"], ["sleep", "7"])
    assert "A=1" in config["Env"] and (config["WorkingDir"], config["User"]) == ("/tmp", "33")
    assert (host["ReadonlyRootfs"], host["Memory"]) == (True, 32 << 20)
    assert host["PortBindings"] == {"80/tcp": [{"HostIp": "127.0.0.1", "HostPort": "8099"}]}
    assert config["ExposedPorts"] == {"80/tcp": {}}
    assert found["Image"].startswith("sha256:") and config["Image"] == "bb"
