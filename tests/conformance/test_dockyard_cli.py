"""The `dockyard` client beside the docker CLI: the same command line gives the same output, exit code and request.

The rest of this suite runs with it in docker's place too: DOCKYARD_TEST_DOCKER_CLI=…/dockyard pytest …
"""

from __future__ import annotations

import json
import re
import shlex
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.engines import Engine, docker_cli
from tests.support.fakeapi import FakeApi, reply
from tests.support.terminal import Terminal

DOCKYARD = str(Path(sys.executable).with_name("dockyard"))


def dockyard(engine: Engine, *words: str, input: bytes | None = None) -> subprocess.CompletedProcess[bytes]:
    return run(engine, DOCKYARD, *words, input=input)


def run(engine: Engine, program: str, *words: str, input: bytes | None = None) -> subprocess.CompletedProcess[bytes]:
    stdin = subprocess.DEVNULL if input is None else None
    environment = engine.cli_environment()
    return subprocess.run(
        [program, *words], env=environment, capture_output=True, input=input, stdin=stdin, timeout=60, check=False
    )


def said(done: subprocess.CompletedProcess[bytes]) -> tuple[str, str, int]:
    """Output, errors and exit code, without what has to differ: the program's name, how long ago, widths."""
    err = done.stderr.decode().replace("See '", "Run '").replace("docker.io", "REGISTRY")
    err = re.sub(r"^(docker|dockyard): ", "", err, flags=re.M).replace("docker", "dockyard")
    out = re.sub(r"(Less than a|\d+|About an?) (second|minute|hour)s?( ago)?( +|\b)", "AGO ", done.stdout.decode())
    return re.sub(" {2,}", "  ", out), err, done.returncode


def both(engine: Engine, *words: str) -> tuple[tuple[str, str, int], tuple[str, str, int]]:
    return said(dockyard(engine, *words)), said(run(engine, docker_cli(), *words))


@pytest.fixture
def web(engine: Engine) -> str:
    """A running container with labels, a bind and ports."""
    engine.docker("volume", "create", "--label", "x=y", "looked")
    words = "-d --name web --label a=b --label com.x.y=z -v /etc:/mnt:ro -p 127.0.0.1:18480:80 -p 18482-18483:82-83/udp"
    return engine.out("run", *words.split(), "bb", "sleep", "600")


LOOKS = r"""
ps
ps -a --no-trunc
ps -as
ps -q
ps --format json
ps --format 'table {{.ID}}\t{{.Label "com.x.y"}}\t{{.Ports}}\t{{.Status}}'
ps --format '{{json .Labels}} {{.Labels}} {{.Mounts}} {{.Networks}}|{{.Size}}'
ps --format '{{join (split .Names ",") "/"}}|{{upper .State}}|{{pad .Image 1 2}}|{{truncate .Names 2}}'
ps --format '{{range $i, $p := split .Ports ","}}{{$i}}:{{println $p}}{{end}}'
ps --format '{{if eq .State "running"}}R{{else}}S{{end}}{{len .Names}}{{printf "%-10s|%q" .ID .Image}}'
ps --filter label=a=b --filter status=running
ps --filter nonsense
ps --filter nonsense=x
ps --format '{{.Names'
ps extra
images
images --digests --no-trunc
images -q
images --format json
images nosuch
history bb
history --no-trunc --human=false bb
history -q bb
network ls
network ls --format json --no-trunc
network inspect bridge
network inspect nosuch
volume ls
volume ls -q
volume ls --format json
volume ls --format 'table {{.Name}}\t{{.Mountpoint}}\t{{.Label "x"}}\t{{.Links}}|{{.Size}}'
volume ls -f nonsense=x
volume inspect looked --format '{{.Name}} {{.Driver}} {{json .Labels}} {{.Options}}'
volume inspect nosuch
inspect looked --format '{{.Name}}'
inspect web
inspect bb
inspect bridge --format '{{.Name}} {{.Driver}}'
inspect nosuch
inspect nosuch web --format '{{.Id}}'
inspect --type image web
inspect --type foo web
inspect web --format '{{json .Config.Labels}} {{range $k, $v := .Config.Labels}}{{$k}}={{$v}};{{end}}'
inspect web --format '{{.NetworkSettings.Ports}} {{.HostConfig.PortBindings}} {{.Config.Entrypoint}}'
inspect web --format '{{if .State.Health}}healthy{{end}}{{.Config.Cmd}} {{.HostConfig.Binds}}'
inspect web --format '{{.Nonsense}}'
inspect web --format '{{.Nonsense'
inspect -s web --format '{{.Name}}'
container inspect nosuch
image inspect nosuch
port web
port web 80
port web 82/udp
port web 99
top web -o pid,args
logs web
logs --since nonsense web
system df
system df --format '{{.Type}} {{.TotalCount}} {{.Active}}'
info --format '{{.ServerVersion}} {{.Driver}} {{.ContainersRunning}}'
version --format '{{.Server.Version}} {{range .Server.Components}}{{.Name}} {{end}}'
"""


@pytest.mark.parametrize("line", LOOKS.strip().splitlines())
def test_looks_the_same(engine: Engine, web: str, line: str) -> None:
    ours, dockers = both(engine, *shlex.split(line))
    assert ours == dockers


def test_events_look_the_same(engine: Engine, web: str) -> None:
    since, until = f"{time.time() - 3600:.0f}", f"{time.time():.9f}"
    line = ("events", "--since", since, "--until", until)
    for more in (
        (),
        ("--format", "{{.Type}} {{.Action}} {{.Actor.Attributes.name}} {{.Time}}"),
        ("--filter", "event=start"),
    ):
        ours, dockers = both(engine, *line, *more)
        assert ours == dockers and "start" in ours[0]
    events = [json.loads(each) for each in dockyard(engine, *line, "--format", "json").stdout.splitlines()]
    assert {each["Action"] for each in events} >= {"create", "start"}


FAILS = """
volume rm
volume rm nosuch
volume create ../up
volume create -d local -o odd=1 v1
volume prune extra
rm
rm nosuch nosuch2
stop nosuch
kill -s BOGUS web
kill nosuch
unpause web
wait nosuch
rename web
exec web nosuch-command
exec web /etc/passwd
exec web sh -c 'echo out; echo err >&2; exit 7'
exec -e A=b -w /tmp -u 5 web sh -c 'echo $A; pwd; id -u'
exec -d web nosuch-command
exec -it web sh
exec nosuch ls
exec web
start nosuch
start -a web nosuch
attach nosuch
tag nosuch x
tag bb UPPER
rmi nosuch
save -o /nonexistent/x.tar bb
load -i /nonexistent
import /nonexistent
run
run --nonsense bb
run -Z bb
run -m lots bb
run --name
run --rm bb nosuch-command
run --rm bb /etc/passwd
run --rm bb sh -c 'exit 42'
run --rm bb sh -c 'kill -9 $$'
run --rm -i bb cat
run --rm -a stderr bb ls / /nonexistent
run --rm -h a -t bb hostname
run --pull never nosuch
run --name web bb
run --name bad/name bb
run -it bb true
run -d -a stdout bb
run -p a:b bb
run -p 1.2.3:80:80 bb
run -v '' bb
run --mount foo bb
run --mount type=bind bb
run --mount type=bind,src=a,dst=/b,foo=x bb
run -e '' bb
run --env-file /nonexistent bb
run --label-file /nonexistent bb
run --ulimit x bb
run --link x:y:z bb
run --cpus x bb
run --restart always --rm bb
run --network nosuch bb
run --network=a --network=b,foo=d bb
run --device foo:bar:baz:x bb
run --add-host foo bb
run --dns foo bb
run --sysctl foo bb
run --security-opt foo bb
run --security-opt seccomp=/nonexistent bb
run --pull sometimes bb
run -a foo bb
run --pid foo bb
run --no-healthcheck --health-cmd x bb
create --cidfile /nonexistent/cid bb
create --name web bb
container prune
"""


@pytest.mark.parametrize("line", FAILS.strip().splitlines())
def test_ends_the_same(engine: Engine, web: str, line: str) -> None:
    ours, dockers = both(engine, *shlex.split(line))
    assert ours == dockers


# -- what is sent -----------------------------------------------------------------------------------------------------

CREATES = """
i
i sh -c "a b"
-it i
-i -a stdout i
-a stdin -a stderr i
-p 80 -p 8080:80 -p 127.0.0.1:53:53/udp -p 127.0.0.1::22 -p 9000-9002:9000-9002 -p 7000-7005:70 i
-p [::1]:80:80 -p 10-12 --expose 99 --expose 100-102/udp -P i
-p target=80,published=8080,protocol=udp i
-v /a:/b -v vol:/c:ro -v ./x:/d -v /anon -v /a:/z:rw,rshared i
--mount type=bind,src=/a,dst=/b,ro --mount type=tmpfs,dst=/t,tmpfs-size=64m,tmpfs-mode=1777 i
--mount source=v,target=/v,volume-nocopy,volume-label=a=b,volume-driver=local,volume-opt=o=p,volume-opt=x=y i
--mount type=bind,src=./a,dst=/b,bind-recursive=readonly,readonly,bind-propagation=rprivate i
--mount type=image,src=img,dst=/b,image-subpath=x --mount type=volume,dst=/b,volume-subpath=x/y i
--tmpfs /run --tmpfs /tmp:size=1m,mode=700 --read-only i
--network none i
--network host i
--network container:abc i
--network n --ip 1.2.3.4 --ip6 fe80::1 --network-alias x --link a:b --mac-address 02:42:00:00:00:01 i
--network name=n1,alias=a1,alias=a2,ip=1.2.3.4,driver-opt=k=v,gw-priority=5 --network n2 i
--link a:b --link c i
--pid host --ipc host --uts host --userns host --cgroupns host i
--init i
--init=false i
--stop-signal SIGINT --stop-timeout 7 i
--add-host a:1.2.3.4 --add-host b=::1 --add-host c:host-gateway --add-host d:[::2] i
--dns 1.1.1.1 --dns-search x.y --dns-option ndots:2 --dns-opt rotate i
--cap-add NET_ADMIN --cap-add net_raw --cap-drop ALL --privileged i
--security-opt no-new-privileges --security-opt seccomp=unconfined --security-opt apparmor:unconfined i
--security-opt systempaths=unconfined --security-opt label=disable i
--restart always i
--restart on-failure:3 i
-m 512m --memory-swap 1g --memory-reservation=100m --memory-swappiness 10 --cpus 1.5 -c=12 --pids-limit 100 i
--memory-swap -1 --pids-limit -1 --cpu-period 1000 --cpu-quota 500 --oom-kill-disable --oom-score-adj 100 i
--ulimit nofile=10 --ulimit nproc=1:2 --shm-size 128m --cpuset-cpus 0,1 --cpuset-mems 0 i
--log-driver json-file --log-opt max-size=1m --log-opt max-file=3 i
--sysctl net.ipv4.ip_forward=1 --sysctl kernel.shmmax=100 i
--group-add 5 --group-add audio -u 1000:1000 -w /x -h host --domainname d i
--device /dev/null --device /dev/zero:/dev/z --device /dev/full:/dev/f:r --device /dev/tty:rw i
--device vendor.com/class=name --device-cgroup-rule "c 1:3 rwm" i
--gpus all i
--gpus '"device=1,2",capabilities=utility' i
--device-read-bps /dev/sda:1mb --device-write-iops /dev/sda:10 --blkio-weight 100 --blkio-weight-device /dev/sda:200 i
--annotation a=b --cgroup-parent /x --runtime crun --volume-driver d --volumes-from a:ro --storage-opt size=1G i
--health-cmd "a b" --health-interval 1m30s --health-retries 3 --health-timeout 5s --health-start-period 1s i
--no-healthcheck i
--entrypoint /bin/x i a
--entrypoint "" i a
--name foo --platform linux/amd64 --pull never --rm i
-e=A=b --rm=false -m=1g -lx=y i
"""


@pytest.fixture
def fake(tmp_path: Path) -> Iterator[FakeApi]:
    running = FakeApi(tmp_path / "s")
    running.answer = lambda *_: reply({"Id": "abc", "Warnings": None}, "201 Created")
    yield running
    running.close()


def meant(value: Any) -> Any:
    """Without what means "not given": docker sends every field of its types."""
    if isinstance(value, dict):
        parts = {name: meant(each) for name, each in value.items()}
        return {n: e for n, e in parts.items() if n == "Init" or e not in (None, "", 0, -1, False, [], {}, [0, 0])}
    return [meant(each) for each in value] if isinstance(value, list) else value


def with_sorted_binds(body: Any) -> Any:
    """docker keeps its `-v` in a map: their order is chance."""
    host = body["HostConfig"]
    return {**body, "HostConfig": {**host, "Binds": sorted(host.get("Binds", []))}}


@pytest.mark.parametrize("line", CREATES.strip().splitlines())
def test_asks_the_same(fake: FakeApi, tmp_path: Path, line: str) -> None:
    asked = []
    for program in (DOCKYARD, docker_cli()):
        fake.asked.clear()
        environment = {"DOCKER_HOST": fake.url, "HOME": str(tmp_path), "PATH": "/usr/bin:/bin"}
        done = subprocess.run(
            [program, "create", *shlex.split(line)], env=environment, cwd=tmp_path, capture_output=True, check=False
        )
        assert done.stdout == b"abc\n", done
        [(method, path, body)] = fake.asked
        asked.append((method, path, with_sorted_binds(meant(json.loads(body)))))
    assert asked[0] == asked[1]


# -- streams and terminals --------------------------------------------------------------------------------------------


def test_input_and_both_outputs(engine: Engine) -> None:
    data = bytes(range(256)) * 8192
    assert dockyard(engine, "run", "--rm", "-i", "bb", "cat", input=data).stdout == data
    done = dockyard(engine, "run", "--rm", "bb", "sh", "-c", "echo out; echo err >&2; exit 3")
    assert (done.stdout, done.stderr, done.returncode) == (b"out\n", b"err\n", 3)


def test_a_command_that_reads_nothing_ends(engine: Engine) -> None:
    assert dockyard(engine, "run", "--rm", "-i", "bb", "true", input=bytes(3_000_000)).returncode == 0


def test_a_reader_that_goes_away(engine: Engine) -> None:
    words = shlex.join([DOCKYARD, "run", "--rm", "bb", "seq", "1", "300000"])
    script = f"set -o pipefail; {words} | head -1"
    done = subprocess.run(
        ["bash", "-c", script], env=engine.cli_environment(), capture_output=True, timeout=60, check=False
    )
    assert (done.stdout, done.stderr, done.returncode) == (b"1\n", b"", 141)


def terminal(engine: Engine, *words: str, rows: int = 24, columns: int = 80) -> Terminal:
    return Terminal([DOCKYARD, *words], engine.cli_environment(), rows, columns)


def test_terminal_with_size_and_resize(engine: Engine) -> None:
    with terminal(engine, "run", "--rm", "-it", "bb", "sh", rows=30, columns=90) as tty:
        tty.expect(b"[#$] ")
        tty.type(b"stty size\r")
        tty.expect(b"30 90\r\n")
        tty.resize(40, 100)
        time.sleep(0.3)
        tty.type(b"stty size\r")
        tty.expect(b"40 100\r\n")
        tty.type(b"exit 5\r")
        assert tty.finish() == 5


def test_detach_and_attach_again(engine: Engine) -> None:
    with terminal(engine, "run", "--name", "dt", "-it", "bb", "sh") as tty:
        tty.expect(b"[#$] ")
        tty.type(b"\x10\x11")
        assert tty.finish() == 0
    assert engine.out("inspect", "-f", "{{.State.Running}}", "dt") == "true"
    with terminal(engine, "attach", "--detach-keys", "ctrl-a,x", "dt") as tty:
        tty.type(b"echo a''gain\r")
        tty.expect(b"again\r\n")
        tty.type(b"\x01x")
        tty.expect(b"read escape sequence")
        assert tty.finish() == 1
    with terminal(engine, "attach", "dt") as tty:
        tty.type(b"exit 9\r")
        assert tty.finish() == 9


def test_exec_on_a_terminal_passes_control_c_on(engine: Engine, web: str) -> None:
    with terminal(engine, "exec", "-it", "web", "sh") as tty:
        tty.expect(b"[#$] ")
        tty.type(b"sleep 60\r")
        time.sleep(0.5)
        tty.type(b"\x03")
        tty.expect(b"[#$] ")
        tty.type(b"exit 6\r")
        assert tty.finish() == 6


def test_signals_go_to_the_container(engine: Engine) -> None:
    trap = "trap 'echo got; exit 3' INT; echo ready; while :; do sleep 0.1; done"
    with terminal(engine, "run", "--rm", "bb", "sh", "-c", trap) as tty:
        tty.expect(b"ready")
        tty.type(b"\x03")
        tty.expect(b"got")
        assert tty.finish() == 3


def test_without_proxy_control_c_ends_the_client_only(engine: Engine) -> None:
    with terminal(engine, "run", "--sig-proxy=false", "--name", "np", "bb", "sh", "-c", "echo ready; sleep 60") as tty:
        tty.expect(b"ready")
        tty.type(b"\x03")
        assert tty.finish() == 130
        assert b"Traceback" not in tty.seen
    assert engine.out("inspect", "-f", "{{.State.Running}}", "np") == "true"


def test_logs_follow_until_control_c(engine: Engine, web: str) -> None:
    engine.out("run", "-d", "--name", "talks", "bb", "sh", "-c", "echo line; sleep 60")
    with terminal(engine, "logs", "-f", "talks") as tty:
        tty.expect(b"line")
        tty.type(b"\x03")
        assert tty.finish() == 130


# -- images -----------------------------------------------------------------------------------------------------------


def test_save_load_import_and_remove(engine: Engine, tmp_path: Path) -> None:
    archive = tmp_path / "bb.tar"
    assert dockyard(engine, "save", "-o", str(archive), "bb").returncode == 0
    assert said(dockyard(engine, "load", "-i", str(archive)))[0] == "Loaded image: bb:latest\n"
    streamed = dockyard(engine, "save", "bb").stdout
    assert dockyard(engine, "load", "-q", input=streamed).stdout == b"Loaded image: bb:latest\n"
    container = engine.out("create", "bb", "true")
    (tmp_path / "empty.tar").write_bytes(bytes(10240))
    done = dockyard(engine, "import", "-c", 'CMD ["x"]', str(tmp_path / "empty.tar"), "im/ported:1")
    assert done.stdout.startswith(b"sha256:"), done
    assert engine.out("inspect", "-f", "{{json .Config.Cmd}}", "im/ported:1") == '["x"]'
    assert dockyard(engine, "tag", "im/ported:1", "other").returncode == 0
    assert dockyard(engine, "rmi", "other").stdout == b"Untagged: other:latest\n"
    assert b"Deleted: sha256:" in dockyard(engine, "rmi", "im/ported:1").stdout
    assert dockyard(engine, "rm", container).returncode == 0


# -- time -------------------------------------------------------------------------------------------------------------


def test_version_answers_in_four_times_dockers_time(engine: Engine) -> None:
    times: dict[str, list[float]] = {DOCKYARD: [], docker_cli(): []}
    for _ in range(15):
        for program, taken in times.items():
            start = time.perf_counter()
            assert run(engine, program, "version").returncode == 0
            taken.append(time.perf_counter() - start)
    ours, dockers = (statistics.median(taken) for taken in times.values())
    assert ours <= 4 * dockers, f"{ours * 1000:.1f} ms against {dockers * 1000:.1f} ms"
