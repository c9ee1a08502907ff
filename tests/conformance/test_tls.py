"""The API over TCP with TLS, for the clients that people have: docker, docker-py, curl, dockyard.

A daemon of its own for this module, which wants certificates of its clients.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from tests.support import certificates, steps
from tests.support.engines import Engine, docker_cli
from tests.support.flagged import flagged

HOST = "tcp://127.0.0.1:2376"
DOCKYARD = str(Path(sys.executable).with_name("dockyard"))


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The server's files, and `ca.pem`, `cert.pem`, `key.pem` of a client as docker looks for them."""
    place = certificates.authority_in(tmp_path_factory.mktemp("tls"))
    for name, wanted in (("ca.crt", "ca.pem"), ("client.cert", "cert.pem"), ("client.key", "key.pem")):
        (place / name).rename(place / wanted)
    (place / "ca.crt").symlink_to("ca.pem")
    return place


@pytest.fixture(scope="module", params=["dockerd", "dockyardd"])
def far(request: pytest.FixtureRequest, authority: Path) -> Iterator[Engine]:
    files = ("--tlscacert", "ca.pem", "--tlscert", "server.cert", "--tlskey", "server.key")
    flags = [word if word.startswith("--") else str(authority / word) for word in files]
    with flagged(request, "--host", HOST, "--tlsverify", *flags, bridge="dyt8", subnet="10.231.38.0/24") as made:
        yield made


@pytest.fixture(autouse=True)
def no_containers(far: Engine) -> Iterator[None]:
    yield
    far.remove_containers()


def run(
    engine: Engine, argv: Sequence[str], certificates_in: Path, input: bytes = b"", timeout: float = 60
) -> subprocess.CompletedProcess[bytes]:
    """A client in the engine's network namespace."""
    assert engine.namespace is not None
    settings = {"DOCKER_HOST": HOST, "DOCKER_TLS_VERIFY": "1", "DOCKER_CERT_PATH": str(certificates_in)}
    environment = engine.cli_environment() | settings
    for name in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"):  # else requests looks there, not where it is told
        environment.pop(name, None)
    argv = ["nsenter", f"--net={engine.namespace.path}", *argv]
    return subprocess.run(argv, input=input, capture_output=True, env=environment, timeout=timeout, check=False)


def clients(engine: Engine) -> list[str]:
    return [docker_cli(), DOCKYARD] if engine.name == "dockyardd" else [docker_cli()]


def test_an_answer_comes_after_the_end_of_standard_input(far: Engine, authority: Path) -> None:
    """The client says close_notify for its half; what the container says to that arrives."""
    for client in clients(far):
        for _ in range(3):
            done = run(far, [client, "run", "--rm", "-i", "bb", "sh", "-c", "cat; echo end"], authority, b"hello\n")
            assert (done.returncode, done.stdout) == (0, b"hello\nend\n"), (client, done)


def test_much_goes_both_ways(far: Engine, authority: Path) -> None:
    data = os.urandom(1 << 20) * 24
    done = run(far, [docker_cli(), "run", "--rm", "-i", "bb", "cat"], authority, data)
    assert done.returncode == 0 and done.stdout == data


def test_exec_logs_and_copies(far: Engine, authority: Path, tmp_path: Path) -> None:
    (tmp_path / "big").write_bytes(os.urandom(3 << 20))
    for number, client in enumerate(clients(far)):
        name = f"box{number}"
        assert (
            run(
                far, [client, "run", "-d", "--name", name, "bb", "sh", "-c", "echo said; sleep 60"], authority
            ).returncode
            == 0
        )
        done = run(far, [client, "exec", "-i", name, "wc", "-c"], authority, b"x" * 100_000)
        assert done.stdout.split() == [b"100000"], done
        assert run(far, [client, "exec", name, "sh", "-c", "exit 7"], authority).returncode == 7
        assert run(far, [client, "logs", name], authority).stdout == b"said\n"
        assert run(far, [client, "cp", str(tmp_path / "big"), f"{name}:/big"], authority).returncode == 0
        assert run(far, [client, "cp", f"{name}:/big", str(tmp_path / f"back{number}")], authority).returncode == 0
        assert (tmp_path / f"back{number}").read_bytes() == (tmp_path / "big").read_bytes()


def test_images_and_builds(far: Engine, authority: Path, tmp_path: Path) -> None:
    archive = tmp_path / "bb.tar"
    assert run(far, [docker_cli(), "save", "-o", str(archive), "bb"], authority).returncode == 0
    assert b"bb:latest" in run(far, [docker_cli(), "load", "-q", "-i", str(archive)], authority).stdout
    (tmp_path / "c").mkdir()
    (tmp_path / "c/Dockerfile").write_text("FROM bb\nCOPY data /copied\nRUN wc -c </copied >/size\n")
    (tmp_path / "c/data").write_bytes(os.urandom(2 << 20))
    build = ["env", "DOCKER_BUILDKIT=0", docker_cli(), "build", "-q", "-t", "made", str(tmp_path / "c")]
    done = run(far, build, authority)
    assert done.returncode == 0, done
    assert run(far, [docker_cli(), "run", "--rm", "made", "cat", "/size"], authority).stdout.split() == [b"2097152"]


def test_docker_py_and_curl(far: Engine, authority: Path) -> None:
    program = (
        "import docker, sys; client = docker.from_env(version='auto');"
        "print(client.containers.run('bb', 'echo from python', remove=True).decode(), end='');"
        "box = client.containers.run('bb', 'cat', detach=True, stdin_open=True);"
        "print(box.exec_run('echo in').output.decode(), end='')"
    )
    done = run(far, [sys.executable, "-c", program], authority)
    assert done.stdout == b"from python\nin\n", done.stderr.decode()
    if shutil.which("curl"):
        files = ["--cacert", f"{authority}/ca.pem", "--cert", f"{authority}/cert.pem", "--key", f"{authority}/key.pem"]
        for version in ("1.2", "1.3"):
            argv = ["curl", "-sS", f"--tlsv{version}", "--tls-max", version, *files, "https://127.0.0.1:2376/_ping"]
            assert run(far, argv, authority).stdout == b"OK"


def test_s46_a_client_without_a_certificate_is_refused(far: Engine, authority: Path, tmp_path: Path) -> None:
    argv = [docker_cli(), "--tls", "--tlscacert", f"{authority}/ca.pem", "version"]
    done = run(far, argv, tmp_path)
    # dockerd of Debian is made with an older Go, which says "bad certificate"
    assert done.returncode != 0 and re.search(b"tls: (certificate required|bad certificate)", done.stderr), done


def test_s46_a_certificate_of_another_authority_is_refused(far: Engine, authority: Path, tmp_path: Path) -> None:
    certificates.make_authority(tmp_path)
    argv = [docker_cli(), "--tlsverify", "--tlscacert", f"{authority}/ca.pem", "--tlscert", f"{tmp_path}/client.cert"]
    done = run(far, [*argv, "--tlskey", f"{tmp_path}/client.key", "version"], tmp_path)
    assert done.returncode != 0 and re.search(b"tls: (unknown certificate auth|bad certificate)", done.stderr), done


def test_a_client_that_speaks_plain_http_is_told(far: Engine, authority: Path, tmp_path: Path) -> None:
    argv = ["env", "-u", "DOCKER_TLS_VERIFY", docker_cli(), "version"]
    done = run(far, argv, tmp_path)
    assert done.returncode != 0 and b"Client sent an HTTP request to an HTTPS server" in done.stderr, done


def test_s49_a_browser_is_refused_over_tls_too(far: Engine, authority: Path) -> None:
    if far.name == "dockerd":
        pytest.skip("only here")
    if not shutil.which("curl"):
        pytest.skip("curl is not installed")
    files = ["--cacert", f"{authority}/ca.pem", "--cert", f"{authority}/cert.pem", "--key", f"{authority}/key.pem"]
    argv = ["curl", "-sS", "-H", "Origin: https://evil.example", *files, "https://127.0.0.1:2376/info"]
    assert b"requests from browsers are refused" in run(far, argv, authority).stdout


def test_certificates_are_read_again_at_sighup(far: Engine, authority: Path, tmp_path: Path) -> None:
    if far.name == "dockerd":
        pytest.skip("only here")
    assert far.process is not None
    before = {name: (authority / name).read_bytes() for name in ("server.cert", "server.key")}

    def serial() -> str:
        argv = [
            "sh",
            "-c",
            "openssl s_client -connect 127.0.0.1:2376 </dev/null 2>/dev/null | openssl x509 -noout -serial",
        ]
        return run(far, argv, authority).stdout.decode()

    first = serial()
    try:
        certificates.sign(authority, "server", "subjectAltName=IP:127.0.0.1")
        far.process.send_signal(signal.SIGHUP)
        steps.eventually(lambda: serial() != first)
        assert run(far, [docker_cli(), "version"], authority).returncode == 0
        (authority / "server.key").write_text("no key\n")
        far.process.send_signal(signal.SIGHUP)
        steps.eventually(lambda: "could not load X509 key pair" in far.log_tail())
        assert run(far, [docker_cli(), "version"], authority).returncode == 0
    finally:
        for name, content in before.items():
            (authority / name).write_bytes(content)
