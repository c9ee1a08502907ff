"""The client against a stand-in daemon: answers in every form, errors, exit codes, what `create` sends."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from dockyard.edge.cli import main, unknown
from dockyard.edge.cli.api import Api, json_values, quote
from dockyard.edge.cli.commands import install
from dockyard.edge.cli.completion import complete, glued
from dockyard.edge.cli.errors import ApiError, CliError, NotReachable, run_code
from dockyard.edge.cli.host import Host, find
from tests.support.fakeapi import FakeApi, reply


@pytest.fixture
def server(tmp_path: Path) -> Iterator[FakeApi]:
    running = FakeApi(tmp_path / "api.sock")
    yield running
    running.close()


@pytest.fixture
def run(
    server: FakeApi, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Callable[..., tuple[int, str, str]]:
    """Runs one command line in this process: (exit code, stdout, stderr)."""
    for name in ("DOCKER_HOST", "DOCKER_API_VERSION", "DOCKYARD_API_VERSION", "DOCKER_TLS_VERIFY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("DOCKYARD_HOST", server.url)

    def one(*words: str) -> tuple[int, str, str]:
        code = main.run(list(words))
        out, err = capfd.readouterr()
        return code, out, err

    return one


# -- addresses --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "environment", "text", "path", "name", "port"),
    [
        ([], {}, "unix:///run/dockyard.sock", "/run/dockyard.sock", "", 0),
        ([], {"DOCKER_HOST": "unix:///d"}, "unix:///d", "/d", "", 0),
        ([], {"DOCKER_HOST": "unix:///d", "DOCKYARD_HOST": "unix:///y"}, "unix:///y", "/y", "", 0),
        (["unix:///h"], {"DOCKYARD_HOST": "unix:///y"}, "unix:///h", "/h", "", 0),
        (["/run/x.sock"], {}, "unix:///run/x.sock", "/run/x.sock", "", 0),
        (["tcp://box"], {}, "tcp://box", "", "box", 2375),
        (["tcp://box:99"], {}, "tcp://box:99", "", "box", 99),
        (["tcp://[::1]:99"], {}, "tcp://[::1]:99", "", "::1", 99),
        (["tcp://box"], {"DOCKER_TLS_VERIFY": "1"}, "tcp://box", "", "box", 2376),
    ],
)
def test_address(given: list[str], environment: dict[str, str], text: str, path: str, name: str, port: int) -> None:
    host = find({"host": given}, environment)
    assert (host.text, host.path, host.name, host.port) == (text, path, name, port)


@pytest.mark.parametrize(
    "given", [["ssh://"], ["ssh://u:p@x"], ["ssh://@x"], ["ssh://x:y"], ["tcp://x:99999"], ["a", "b"], ["npipe:////x"]]
)
def test_an_address_that_is_not_understood(given: list[str]) -> None:
    with pytest.raises(CliError):
        find({"host": given}, {})


@pytest.mark.parametrize(
    ("given", "command"),
    [
        ("ssh://box", "ssh -o ConnectTimeout=30 -T -- box dockyard system dial-stdio"),
        ("ssh://me@box:99", "ssh -l me -p 99 -o ConnectTimeout=30 -T -- box dockyard system dial-stdio"),
        ("ssh://[::1]:99/", "ssh -p 99 -o ConnectTimeout=30 -T -- ::1 dockyard system dial-stdio"),
        ("ssh://box/a;b", "ssh -o ConnectTimeout=30 -T -- box dockyard -H 'unix:///a;b' system dial-stdio"),
        ("ssh://-oProxyCommand=x", "ssh -o ConnectTimeout=30 -T -- -oProxyCommand=x dockyard system dial-stdio"),
    ],
)
def test_an_address_through_ssh(given: str, command: str) -> None:
    assert " ".join(find({"host": [given]}, {}).command) == command


def test_a_daemon_through_ssh(
    server: FakeApi, run: Callable[..., tuple[int, str, str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a stand-in for ssh that runs the command here."""
    ssh = tmp_path / "ssh"
    ours = f"{sys.executable} -c 'from dockyard.edge.cli.main import main; main()'"
    skip = 'while [ "$1" != -- ]; do shift; done; shift 3'
    ssh.write_text(f'#!/bin/sh\n{skip}; DOCKYARD_HOST={server.url} exec {ours} "$@"\n')
    ssh.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    server.answer = lambda *_: reply([])
    assert run("-H", "ssh://box", "ps", "-q") == (0, "", "")
    ssh.write_text("#!/bin/sh\necho 'Permission denied (publickey).' >&2; exit 255\n")
    code, _, said = run("-H", "ssh://box", "ps")
    assert code == 1 and "Permission denied" in said and "no answer through ssh://box" in said
    monkeypatch.setenv("PATH", str(tmp_path / "nowhere"))
    assert "needs the command ssh" in run("-H", "ssh://box", "ps")[2]


def test_no_daemon_is_one_useful_sentence(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    assert main.run(["-H", "unix:///nonexistent.sock", "ps"]) == 1
    message = capfd.readouterr().err
    assert message.startswith("dockyard: cannot connect to the daemon at unix:///nonexistent.sock")
    assert "systemctl start dockyard" in message and message.count("\n") == 1
    monkeypatch.setenv("DOCKER_HOST", "tcp://127.0.0.1:1")
    monkeypatch.delenv("DOCKYARD_HOST", raising=False)
    assert main.run(["ps"]) == 1
    message = capfd.readouterr().err
    assert "tcp://127.0.0.1:1 (DOCKER_HOST) (Connection refused)" in message and "systemctl" not in message
    assert main.run(["-H", "unix:///nonexistent.sock", "run", "x"]) == 125


def test_permission_denied_says_what_to_do() -> None:
    from dockyard.edge.cli import http

    error = http._unreachable(Host("unix:///s", "/s"), PermissionError(13, "Permission denied"))
    assert isinstance(error, NotReachable)
    assert error.message.startswith("permission denied while connecting to the daemon at unix:///s: run as root")


# -- answers ----------------------------------------------------------------------------------------------------------


def test_answers_by_length_by_chunks_and_by_end(server: FakeApi) -> None:
    api = Api(find({"host": [server.url]}, {}), {})
    for answer in (
        b"HTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\n[1,2,3]",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\n[1,\r\n4;x=y\r\n2,3]\r\n0\r\nTrailer: x\r\n\r\n",
        b"HTTP/1.0 200 OK\r\nConnection: close\r\n\r\n[1,2,3]",
    ):
        server.answer = lambda *_, answer=answer: answer  # type: ignore[misc]
        assert api.get("/x") == [1, 2, 3]
    assert {path for _, path, _ in server.asked} == {"/v1.50/x"}


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (reply({"message": "No such thing: x"}, "404 Not Found"), "Error response from daemon: No such thing: x"),
        (b"HTTP/1.1 500 Oops\r\nContent-Length: 5\r\n\r\nplain", "Error response from daemon: plain"),
        (b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n", "Error response from daemon: 503 Busy"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n<x>", "the daemon's answer is not JSON: b'<x>'"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 30\r\n\r\n[1,", "closed the connection in the middle of its answer"),
        (b"SSH-2.0 hello\r\n", "does not speak HTTP"),
        (b"", "closed the connection without an answer"),
    ],
)
def test_bad_answers_are_sentences(server: FakeApi, answer: bytes, message: str) -> None:
    api = Api(find({"host": [server.url]}, {}), {})
    server.answer = lambda *_: answer.replace(b"Content-Length: 30", b"content-length: 30")
    with pytest.raises(CliError) as caught:
        api.get("/x")
    assert message in caught.value.message


def test_queries_are_quoted(server: FakeApi) -> None:
    api = Api(find({"host": [server.url]}, {}), {})
    api.get("/x", {"a": True, "b": False, "c": None, "d": {"k": ["v w"]}, "e": ["1", "2"], "f": "ü&="})
    assert server.asked[0][1] == "/v1.50/x?a=1&d=%7B%22k%22%3A%20%5B%22v%20w%22%5D%7D&e=1&e=2&f=%C3%BC%26%3D"
    assert quote("a/b:c@d ?", b"/:@") == "a/b:c@d%20%3F"


def test_json_values_may_be_cut_anywhere() -> None:
    text = '{"a": "ü"}\r\n{"b": [1, 2]}  {"c": {}}'.encode()
    for size in range(1, len(text)):
        chunks = [text[i : i + size] for i in range(0, len(text), size)]
        assert list(json_values(chunks)) == [{"a": "ü"}, {"b": [1, 2]}, {"c": {}}]


def test_the_version_is_the_older_one(server: FakeApi) -> None:
    server.api_version = "1.9"
    assert Api(find({"host": [server.url]}, {}), {}).version == "1.9"
    assert Api(find({"host": [server.url]}, {}), {"DOCKER_API_VERSION": "1.30"}).version == "1.30"
    server.api_version = "1.99"
    assert Api(find({"host": [server.url]}, {}), {}).version == "1.50"


# -- commands ---------------------------------------------------------------------------------------------------------


def test_exit_codes_and_messages(run: Callable[..., tuple[int, str, str]], server: FakeApi) -> None:
    assert run("ps", "--bogus") == (
        125,
        "",
        "dockyard: unknown flag: --bogus\n\nUsage:  dockyard ps [OPTIONS]\n\n"
        "Run 'dockyard ps --help' for more information\n",
    )
    assert run("rm")[0] == 1
    assert run("bogus") == (1, "", "dockyard: unknown command: dockyard bogus\n\n"
                                   "Run 'dockyard --help' for more information\n")  # fmt: skip
    for typed, meant in ("inspct", "inspect"), ("rnu", "run"), ("imgaes", "images"), ("volume crate", "volume create"):
        assert f"Did you mean 'dockyard {meant}'" in run(*typed.split())[2]
    for absent in unknown.ABSENT:
        assert unknown.ABSENT[absent] in run(*absent.split())[2]
    assert run("-c", "other", "ps")[2] == (
        "dockyard: context other: there are no contexts; name the daemon with -H or DOCKYARD_HOST\n"
    )
    assert run("--log-level=frob", "ps")[2] == "dockyard: unable to parse logging level: frob\n"
    server.answer = lambda *_: reply({"message": "No such container: x"}, "404 Not Found")
    assert run("stop", "x", "y") == (1, "", "dockyard: Error response from daemon: No such container: x\n" * 2)
    assert run("run", "--rm", "-p", "a:b", "x")[0] == 125
    assert run("--version")[1].startswith("Dockyard version ")


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ApiError(400, 'exec: "x": executable file not found in $PATH'), 127),
        (ApiError(400, 'exec: "/x": stat /x: no such file or directory'), 127),
        (ApiError(400, 'exec: "/etc/passwd": permission denied'), 126),
        (ApiError(409, "name in use"), 125),
        (CliError("open /x: no such file or directory"), 125),
        (NotReachable("permission denied"), 125),
    ],
)
def test_exit_code_of_run(error: CliError, code: int) -> None:
    assert run_code(error) == code


def test_an_empty_name_reaches_no_other_endpoint(run: Callable[..., tuple[int, str, str]], server: FakeApi) -> None:
    for words in (["rm", "-f", ""], ["stop", " "], ["logs", ""], ["inspect", ""]):
        assert run(*words)[0] == 1
    assert server.asked == []


def test_unexpected_failures_have_no_traceback(run: Callable[..., tuple[int, str, str]], server: FakeApi) -> None:
    server.answer = lambda *_: reply([{"unexpected": 1}])
    code, out, err = run("ps")
    assert (code, out) == (1, "")
    assert err == "dockyard: the client failed: KeyError: 'Command' (-D shows where)\n"


def test_a_full_disk_is_told(server: FakeApi, run: Callable[..., tuple[int, str, str]]) -> None:
    server.answer = lambda *_: reply([])
    script = Path(shutil.which("dockyard") or Path(os.sys.executable).with_name("dockyard"))  # type: ignore[attr-defined]
    with open("/dev/full", "w") as full:
        done = subprocess.run([script, "-H", server.url, "ps"], stdout=full, stderr=subprocess.PIPE, check=False)
    assert done.returncode == 1 and b"Traceback" not in done.stderr


CREATED = {"Id": "abc", "Warnings": ["careful"]}


def created(run: Callable[..., tuple[int, str, str]], server: FakeApi, *words: str) -> dict[str, Any]:
    server.answer = lambda *_: reply(CREATED, "201 Created")
    code, out, err = run("create", *words)
    assert (code, out, err) == (0, "abc\n", "WARNING: careful\n")
    body = json.loads(server.asked[-1][2])
    assert isinstance(body, dict)
    return body


def test_create_sends_nothing_that_was_not_asked(run: Callable[..., tuple[int, str, str]], server: FakeApi) -> None:
    body = created(run, server, "busybox", "sh", "-c", "x")
    assert body == {
        "AttachStdout": True,
        "AttachStderr": True,
        "Image": "busybox",
        "Cmd": ["sh", "-c", "x"],
        "HostConfig": {"NetworkMode": "default", "RestartPolicy": {"Name": "no", "MaximumRetryCount": 0}},
        "NetworkingConfig": {"EndpointsConfig": {}},
    }


def test_proxies_of_the_config_go_into_containers(
    run: Callable[..., tuple[int, str, str]], server: FakeApi, tmp_path: Path
) -> None:
    file = tmp_path / "config.json"
    file.write_text(json.dumps({"proxies": {"default": {"httpProxy": "http://p:1", "noProxy": "x"}}}))
    server.answer = lambda *_: reply({"Id": "abc"}, "201 Created")
    assert run("--config", str(tmp_path), "create", "-e", "no_proxy=", "-e", "A=b", "i") == (0, "abc\n", "")
    env = json.loads(server.asked[-1][2])["Env"]
    assert env == ["no_proxy=", "A=b", "HTTP_PROXY=http://p:1", "http_proxy=http://p:1", "NO_PROXY=x"]
    file.write_text("{")
    code, _, said = run("--config", str(tmp_path), "create", "i")
    assert code == 0 and said.startswith("WARNING: ") and str(file) in said
    assert "Env" not in json.loads(server.asked[-1][2])


def test_create_puts_flags_where_the_api_has_them(
    run: Callable[..., tuple[int, str, str]], server: FakeApi, tmp_path: Path
) -> None:
    (tmp_path / "env").write_text("A=1\n")
    words = (
        f"-it --name n --platform linux/amd64 --env-file {tmp_path}/env -e B=2 -l x=y -h host -u 1:2 -w /w "
        "--stop-timeout 0 --entrypoint /e -p 127.0.0.1:80:80 --expose 81/udp -v /a:/b -v /anon --tmpfs /t:size=1m "
        "--cap-add net_admin --cap-drop ALL -m 1g --cpus 1.5 --pids-limit -1 --init=false --ulimit nofile=1:2 "
        "--security-opt systempaths=unconfined --restart on-failure:3 --network n1 --ip 1.2.3.4 --network-alias al "
        "--health-cmd true --health-interval 1m --log-driver none --sysctl net.x=1 --device /dev/null:r --rm=false i"
    )
    body = created(run, server, *words.split())
    host = body["HostConfig"]
    assert server.asked[-1][1] == "/v1.50/containers/create?name=n&platform=linux%2Famd64"
    assert body["Env"] == ["A=1", "B=2"] and body["Labels"] == {"x": "y"} and body["StopTimeout"] == 0
    assert (body["Tty"], body["OpenStdin"], body["StdinOnce"], body["AttachStdin"]) == (True, True, True, True)
    assert body["Entrypoint"] == ["/e"] and body["ExposedPorts"] == {"80/tcp": {}, "81/udp": {}}
    assert body["Volumes"] == {"/anon": {}} and host["Binds"] == ["/a:/b"] and host["Tmpfs"] == {"/t": "size=1m"}
    assert body["Healthcheck"] == {"Test": ["CMD-SHELL", "true"], "Interval": 60_000_000_000}
    assert host["PortBindings"] == {"80/tcp": [{"HostIp": "127.0.0.1", "HostPort": "80"}]}
    assert host["CapAdd"] == ["CAP_NET_ADMIN"] and host["CapDrop"] == ["ALL"]
    assert (host["Memory"], host["NanoCpus"], host["PidsLimit"], host["Init"]) == (1 << 30, 1_500_000_000, -1, False)
    assert host["MaskedPaths"] == [] and host["ReadonlyPaths"] == []
    assert host["RestartPolicy"] == {"Name": "on-failure", "MaximumRetryCount": 3}
    assert host["Ulimits"] == [{"Name": "nofile", "Soft": 1, "Hard": 2}]
    assert host["Devices"] == [{"PathOnHost": "/dev/null", "PathInContainer": "/dev/null", "CgroupPermissions": "r"}]
    assert host["NetworkMode"] == "n1" and body["NetworkingConfig"]["EndpointsConfig"] == {
        "n1": {"IPAMConfig": {"IPv4Address": "1.2.3.4"}, "Aliases": ["al"]}
    }
    assert host["LogConfig"] == {"Type": "none"} and host["Sysctls"] == {"net.x": "1"} and "AutoRemove" not in host


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        ("--restart always --rm i", "conflicting options: cannot specify both --restart and --rm"),
        ("--restart on-failure:x i", "invalid restart policy format: maximum retry count must be an integer"),
        ("--no-healthcheck --health-cmd x i", "--no-healthcheck conflicts with --health-* options"),
        ("--health-retries -1 i", "--health-retries cannot be negative"),
        ("--pid foo i", "--pid: invalid PID mode"),
        ("--memory-swappiness 101 i", "invalid value: 101. Valid memory swappiness range is 0-100"),
        ("--device a:b:c:d i", "bad format for path: a:b:c:d"),
        ("--device /dev/a:/b:x i", "bad mode specified: x"),
        ("--security-opt foo i", 'Invalid --security-opt: "foo"'),
        ("--env-file /nonexistent i", "open /nonexistent: no such file or directory"),
        ("--network a --network a i", 'network "a" is specified multiple times'),
        ("--network host --network a i", "conflicting options: cannot attach both"),
        ("--network name=a,ip=1.2.3.4 --ip 1.2.3.5 i", "cannot specify both --ip and per-network ip"),
        ("--pull sometimes i", "invalid pull option: 'sometimes'"),
        ("UPPER", "must be lowercase"),
        ("-p 80-82:90-91 i", "invalid ranges specified"),
        ("--log-driver none --log-opt a=b i", "invalid logging opts for driver none"),
    ],
)
def test_create_refuses_before_it_asks(
    run: Callable[..., tuple[int, str, str]], server: FakeApi, words: str, complaint: str
) -> None:
    code, out, err = run("create", *words.split())
    assert (code, out) == (1, "") and complaint in err, err
    assert server.asked == []


def test_cidfile(run: Callable[..., tuple[int, str, str]], server: FakeApi, tmp_path: Path) -> None:
    path = tmp_path / "cid"
    created(run, server, "--cidfile", str(path), "i")
    assert path.read_text() == "abc"
    assert "container ID file found" in run("create", "--cidfile", str(path), "i")[2]
    path.unlink()
    server.answer = lambda *_: reply({"message": "no"}, "500 No")
    assert run("create", "--cidfile", str(path), "i")[0] == 1
    assert not path.exists()


def test_a_missing_image_is_pulled_or_told(run: Callable[..., tuple[int, str, str]], server: FakeApi) -> None:
    missing = reply({"message": "No such image: i:latest"}, "404 Not Found")
    unserved = reply({"message": "POST /images/create is not served"}, "501 Not Implemented")
    server.answer = lambda _, path, __: unserved if "/images/create" in path else missing
    code, _, err = run("run", "i")
    assert code == 125
    assert err.startswith("Unable to find image 'i:latest' locally\ndockyard: Error response from daemon: POST /images")
    server.asked.clear()
    assert run("run", "--pull", "never", "i")[0] == 125
    assert [path for _, path, _ in server.asked] == ["/v1.50/containers/create"]


def test_save_leaves_no_half_file(run: Callable[..., tuple[int, str, str]], server: FakeApi, tmp_path: Path) -> None:
    path = tmp_path / "out.tar"
    server.answer = lambda *_: b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nhalf"
    assert run("save", "-o", str(path), "i")[0] == 1
    assert [file.name for file in tmp_path.iterdir()] == ["api.sock"]
    server.answer = lambda *_: b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nfull"
    assert run("save", "-o", str(path), "i")[0] == 0
    assert path.read_bytes() == b"full" and path.stat().st_mode & 0o777 == 0o600


def test_load_streams_the_file(run: Callable[..., tuple[int, str, str]], server: FakeApi, tmp_path: Path) -> None:
    data = os.urandom(700_000)
    (tmp_path / "in.tar").write_bytes(data)
    server.answer = lambda *_: reply({"stream": "Loaded image: x\n"})
    assert run("load", "-i", str(tmp_path / "in.tar")) == (0, "Loaded image: x\n", "")
    assert server.asked[-1][2] == data
    server.answer = lambda *_: reply({"errorDetail": {"message": "broken tar"}, "error": "broken tar"})
    assert run("load", "-i", str(tmp_path / "in.tar")) == (1, "", "dockyard: broken tar\n")


# -- install and completion -------------------------------------------------------------------------------------------


def test_units() -> None:
    units = install.units("/opt/my dir/bin/dockyardd", "root")
    service = units["dockyard.service"].splitlines()
    for line in ("Type=notify", "KillMode=process", "Delegate=yes", "TasksMax=infinity", "LimitNOFILE=infinity"):
        assert line in service
    assert 'ExecStart="/opt/my dir/bin/dockyardd" -H fd://' in service
    assert "ListenStream=/run/dockyard.sock" in units["dockyard.socket"]


def test_install_writes_below_root_and_says_what_to_run(
    run: Callable[..., tuple[int, str, str]], tmp_path: Path
) -> None:
    code, out, _ = run("system", "install", "--root", str(tmp_path), "--prefix", "/usr")
    folder = tmp_path / "etc/systemd/system"
    assert code == 0 and f"systemctl --root={tmp_path} enable dockyard.socket" in out
    assert "ExecStart=/usr/bin/dockyardd -H fd://" in (folder / "dockyard.service").read_text()
    assert sorted(file.name for file in folder.iterdir()) == ["dockyard.service", "dockyard.socket"]


@pytest.mark.skipif(os.path.isdir("/run/systemd/system"), reason="systemd runs here: the command would write to /etc")
def test_install_refuses_without_systemd(run: Callable[..., tuple[int, str, str]]) -> None:
    code, _, err = run("system", "install")
    assert code == 1 and "systemd does not run here" in err


def completions(words: str, incomplete: str = "") -> list[str]:
    return [each.value for each in complete(words.split(), incomplete)]


@pytest.mark.parametrize(
    ("pieces", "incomplete", "expected"),
    [
        ("rmi", "", (["rmi"], "", 0)),
        ("rmi busy", ":", (["rmi"], "busy:", 5)),
        ("rmi busy :", "1", (["rmi"], "busy:1", 5)),
        ("rmi busy : 1", "", (["rmi", "busy:1"], "", 0)),
        ("rmi host : 5000/busy :", "1", (["rmi"], "host:5000/busy:1", 15)),
        ("run --network", "=", (["run"], "--network=", 10)),
        ("run --network = bridge -e A = b", "bu", (["run", "--network=bridge", "-e", "A=b"], "bu", 0)),
    ],
)
def test_words_that_bash_has_broken(pieces: str, incomplete: str, expected: tuple[list[str], str, int]) -> None:
    assert glued(pieces.split(), incomplete) == expected


def test_completion(run: Callable[..., tuple[int, str, str]], server: FakeApi) -> None:
    assert "run" in completions("") and completions("", "run") == ["run"]
    assert completions("container", "st") == ["start", "stats", "stop"]
    assert completions("run", "--netw") == ["--network", "--network-alias"]
    assert completions("run", "--pull=") == ["--pull=always", "--pull=missing", "--pull=never"]
    assert completions("run --pull", "a") == ["always"]
    assert completions("run image", "--") == []  # the container's own flags
    server.answer = lambda *_: reply([{"Names": ["/web"]}, {"Names": ["/db"]}])
    assert completions("logs") == ["db", "web"] and completions("stop a", "w") == ["web"]
    assert completions("logs a") == []  # takes one
    server.answer = lambda *_: reply([{"RepoTags": ["busy:latest", "busy:1"]}, {"RepoTags": ["<none>:<none>"]}])
    assert completions("run") == ["busy", "busy:1", "busy:latest"]
    server.answer = lambda *_: reply({"message": "broken"}, "500 No")
    assert completions("logs") == []


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_scripts(run: Callable[..., tuple[int, str, str]], shell: str) -> None:
    code, out, _ = run("completion", shell)
    assert code == 0 and f"_DOCKYARD_COMPLETE={shell}_complete" in out
