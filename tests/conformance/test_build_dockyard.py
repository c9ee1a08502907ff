"""What only our builder has, by `dockyard build`: mounts, secrets, named contexts, checks, concurrency, outputs."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
from pathlib import Path
from typing import Any

import docker
import pytest
import zstandard

from tests.conformance.test_build import cat, config, no_images_left, sleeping, wait_until
from tests.support import contexts, debian_registry
from tests.support.debian_registry import DebianRegistry
from tests.support.engines import Engine
from tests.support.rawhttp import Connection
from tests.support.terminal import Terminal

pytestmark = pytest.mark.dockyardd_only
DOCKYARD = str(Path(sys.executable).with_name("dockyard"))
__all__ = ["no_images_left"]


class Cli:
    """`dockyard` on an engine."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.environment = engine.cli_environment()

    def run(
        self, *words: str, input: bytes | None = None, timeout: float = 60, **more: Any
    ) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [DOCKYARD, *words],
            env=self.environment | more,
            capture_output=True,
            timeout=timeout,
            check=False,
            input=input or b"",
        )
        return subprocess.CompletedProcess(
            done.args, done.returncode, done.stdout.decode(errors="replace"), done.stderr.decode(errors="replace")
        )

    def build(self, *words: str, code: int = 0, **more: Any) -> str:
        """`dockyard build`; what it said on stderr."""
        done = self.run("build", "--progress=plain", *words, **more)
        assert done.returncode == code, done.stderr + done.stdout
        return done.stderr


@pytest.fixture
def cli(engine: Engine) -> Cli:
    return Cli(engine)


def test_progress_is_told_step_by_step(cli: Cli, tmp_path: Path) -> None:
    root = contexts.directory(tmp_path, "FROM bb AS one\nRUN echo said\nFROM one\nCOPY . /x\n", {"f": "f"})
    text = cli.build("-t", "p", str(root))
    assert "#1 [internal] send build context\n#1 transferring context: " in text
    assert "RUN echo said\n" in text and " said\n" in text and "DONE 0." in text
    again = cli.build(str(root))
    assert again.count(" CACHED\n") >= 2 and "said\n" not in again.replace("echo said\n", "")


def test_progress_on_a_terminal(cli: Cli, tmp_path: Path) -> None:
    root = contexts.directory(tmp_path, "FROM bb\nRUN echo $(( 40 + 2 )) words\n")
    with Terminal([DOCKYARD, "build", "--no-cache", str(root)], cli.environment) as terminal:
        terminal.expect(rb"RUN echo .* [0-9.]+s")
        terminal.expect(rb"\[\+\] Building [0-9.]+s \([0-9]/[0-9]\) FINISHED")
        assert terminal.finish() == 0


def test_a_failure_names_step_and_lines(cli: Cli, tmp_path: Path) -> None:
    root = contexts.directory(tmp_path, "FROM bb\nRUN echo fine\nRUN echo last words && \\\n    exit 9\n")
    text = cli.build(str(root), code=9)
    assert "last words\n------\nDockerfile:3\n" in text
    assert "   3 | >>> RUN echo last words && \\\n   4 | >>>     exit 9\n" in text
    assert "returned a non-zero code: 9" in text
    assert cli.build(str(root), code=9).count("CACHED") >= 1


def test_mounts_and_heredocs(cli: Cli, engine: Engine, tmp_path: Path) -> None:
    text = """FROM bb AS tools
RUN echo tool > /tool
FROM bb
RUN --mount=type=bind,from=tools,source=/tool,target=/t --mount=type=bind,target=/ctx \\
    --mount=type=tmpfs,target=/scratch --mount=type=cache,target=/cache \\
    cat /t /ctx/f > /got && echo x > /scratch/x && echo $(ls /cache) >> /cache/count && cp /cache/count /count
COPY <<EOF /from/heredoc
one $((1))
EOF
RUN <<-EOF
	set -e
	echo run > /heredoc
EOF
"""
    root = contexts.directory(tmp_path, text, {"f": "file"})
    cli.build("-t", "m", str(root))
    assert cat(engine, "m", "sh", "-c", "cat /got /heredoc; ls -d /ctx /scratch /t || true") == "tool\nfilerun"
    cli.build("-t", "m", "--no-cache", str(root))
    assert cat(engine, "m", "cat", "/count").split() == ["count"]  # the second run found what the first had left


def test_s45_secrets_are_nowhere_but_in_the_step(cli: Cli, engine: Engine, tmp_path: Path) -> None:
    secret = "S3cr3t-" + os.urandom(8).hex()
    text = (
        "FROM bb\nRUN --mount=type=secret,id=token --mount=type=secret,id=env,env=FROM_ENV,required=true "
        "test -s /run/secrets/token && wc -c < /run/secrets/token > /size && echo ${#FROM_ENV} >> /size\n"
        "RUN ls -a / > /ls\n"
    )
    root = contexts.directory(tmp_path / "c", text)
    (tmp_path / "token").write_text(secret)
    said = cli.build(
        "-t", "s", "--secret", f"id=token,src={tmp_path / 'token'}", "--secret", "id=env,env=MY_TOKEN", str(root),
        MY_TOKEN=secret,
    )  # fmt: skip
    assert cat(engine, "s", "sh", "-c", "cat /size; ls /run || true") == "23\n23"
    assert "run" not in cat(engine, "s", "cat", "/ls")
    saved = engine.docker("save", "s").stdout
    history = engine.out("history", "--no-trunc", "s")
    encoded = base64.b64encode(secret.encode()).rstrip(b"=")
    log = engine.log_path.read_bytes()
    for place in (saved, said.encode(), history.encode(), log):
        assert secret.encode() not in place and encoded not in place
    hits = subprocess.run(["grep", "-rlF", secret, str(engine.data_root), str(engine.exec_root)], capture_output=True)
    assert hits.stdout == b""
    other = cli.build("-t", "s", "--secret", "id=token,env=T", "--secret", "id=env,env=T", str(root), T="another")
    assert other.count("CACHED") >= 2  # a secret's value does not count


def test_a_required_secret_that_is_missing(cli: Cli, tmp_path: Path) -> None:
    root = contexts.directory(tmp_path, "FROM bb\nRUN --mount=type=secret,id=nosuch,required cat /run/secrets/nosuch\n")
    assert "nosuch" in cli.build(str(root), code=1)


def test_named_contexts(cli: Cli, engine: Engine, tmp_path: Path) -> None:
    contexts.directory(tmp_path / "lib", "", {"l": "library", "skip": "x", ".dockerignore": "skip\n"})
    text = "FROM base AS b\nFROM bb\nCOPY --from=lib / /lib2/\nCOPY --from=b /www/index.html /page\n"
    root = contexts.directory(tmp_path / "c", text)
    cli.build(
        "-t", "n", "--build-context", f"lib={tmp_path / 'lib'}", "--build-context", "base=docker-image://bb", str(root)
    )
    assert cat(engine, "n", "ls", "/lib2") == "l"
    (tmp_path / "lib" / "l").write_text("changed")
    cli.build(
        "-t", "n", "--build-context", f"lib={tmp_path / 'lib'}", "--build-context", "base=docker-image://bb", str(root)
    )
    assert cat(engine, "n", "cat", "/lib2/l") == "changed"


def test_stages_run_side_by_side_and_unused_ones_not_at_all(cli: Cli, tmp_path: Path) -> None:
    stages = "".join(f"FROM bb AS s{n}\nRUN sleep 1 && echo {n} > /{n}\n" for n in range(4))
    copies = "".join(f"COPY --from=s{n} /{n} /{n}\n" for n in range(4))
    root = contexts.directory(tmp_path, f"{stages}FROM bb AS unused\nRUN false\nFROM bb\n{copies}")
    begun = time.monotonic()
    cli.build("--no-cache", str(root))
    assert time.monotonic() - begun < 3


def test_no_cache_for_one_stage(cli: Cli, tmp_path: Path) -> None:
    root = contexts.directory(
        tmp_path, "FROM bb AS a\nRUN echo a > /a\nFROM bb AS b\nRUN echo b\nCOPY --from=a /a /a\n"
    )
    cli.build(str(root))
    text = cli.build("--no-cache-filter=b", str(root))
    assert " b\n" in text.partition("RUN echo b")[2] and "#" in text
    assert text.count("CACHED") >= 1


def test_check_reports(cli: Cli, tmp_path: Path) -> None:
    root = contexts.directory(tmp_path, "from bb AS Upper\nRUN false\n")
    done = cli.run("build", "--check", str(root))
    assert done.returncode == 1
    assert "StageNameCasing" in done.stdout and ">>> from bb AS Upper" in done.stdout
    assert cli.run("build", "--check", "-", input=b"FROM bb\n").stdout == "Check complete, no warnings found.\n"


def test_metadata_and_quiet(cli: Cli, engine: Engine, tmp_path: Path) -> None:
    root = contexts.directory(tmp_path / "c", "FROM bb\nLABEL a=b\n")
    done = cli.run("build", "-q", "-t", "q:1", "--metadata-file", str(tmp_path / "m"), str(root))
    identifier = done.stdout.strip()
    assert identifier == config(engine, "q:1")["Id"] and done.stderr == ""
    metadata = json.loads((tmp_path / "m").read_text())
    assert metadata["containerimage.config.digest"] == identifier and "q:1" in metadata["image.name"]


def test_watching(cli: Cli, engine: Engine, tmp_path: Path) -> None:
    root = contexts.directory(tmp_path, "FROM bb\nCOPY f /f\n", {"f": "one", "x.log": "", ".dockerignore": "*.log\n"})
    process = subprocess.Popen(
        [DOCKYARD, "build", "--progress=plain", "--watch", "-t", "w", str(root)], env=cli.environment,
        stderr=subprocess.PIPE, stdout=subprocess.DEVNULL,
    )  # fmt: skip
    assert process.stderr is not None
    try:
        _read_until(process.stderr, b"Watching ")
        (root / "x.log").write_text("ignored")
        (root / "f").write_text("two")
        assert b"Changed: f\n" in _read_until(process.stderr, b"Watching ")
        assert cat(engine, "w", "cat", "/f") == "two"
        (root / "Dockerfile").write_text("FROM bb\nRUN false\n")
        assert b"ERROR: failed to build" in _read_until(process.stderr, b"Watching ")
    finally:
        process.send_signal(2)
        assert process.wait(10) == 130
        process.stderr.close()


def _read_until(stream: Any, text: bytes) -> bytes:
    data = b""
    while text not in data:
        line = stream.readline()
        assert line, data
        data += line
    return data


def test_interrupting_the_client_ends_the_build(cli: Cli, tmp_path: Path) -> None:
    root = contexts.directory(tmp_path, "FROM bb\nRUN sleep 4712\n")
    process = subprocess.Popen(
        [DOCKYARD, "build", "--no-cache", str(root)], env=cli.environment, stderr=subprocess.DEVNULL
    )
    wait_until(lambda: sleeping(4712))
    process.send_signal(2)
    assert process.wait(10) == 130
    wait_until(lambda: not sleeping(4712))


def test_cancelling_by_id(engine: Engine, api: Connection) -> None:
    body = contexts.tar("FROM bb\nRUN sleep 4713\n")
    with engine.api() as building:
        stream = building.stream("POST", "/build", None, {"nocache": "1", "buildid": "b1"}, raw=body)
        next(stream)
        wait_until(lambda: sleeping(4713))
        assert api.post("/build/cancel", id="b1").status == 200
        rest = b"".join(stream)
    assert not sleeping(4713)
    assert b"errorDetail" in rest and b"cancel" in rest


@pytest.mark.skipif(not all(map(shutil.which, ("ssh-agent", "ssh-add", "ssh-keygen"))), reason="openssh-client")
def test_ssh_keys_stay_at_the_client(cli: Cli, tmp_path: Path) -> None:
    """The step sees what the client's agent says of its key; the key itself is nowhere in the step."""
    key = tmp_path / "key"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "the key", "-f", key], check=True)
    program = shutil.which("ssh-add")
    assert program is not None
    libraries = re.findall(r"(/\S+) \(", subprocess.run(["ldd", program], capture_output=True, text=True).stdout)
    files: contexts.Files = {f"root{name}": Path(name).resolve().read_bytes() for name in [program, *libraries]}
    text = f"FROM bb\nCOPY root /\nRUN chmod 755 {program} {' '.join(libraries)}\nRUN --mount=type=ssh {program} -L\n"
    root = contexts.directory(tmp_path / "c", text, files)
    said = cli.build("--no-cache", "--ssh", f"default={key}", str(root))
    assert key.with_suffix(".pub").read_text().strip() in said
    assert not list(Path(tempfile.gettempdir()).glob("dockyard-ssh-*"))
    assert "no such file" in cli.build("--ssh", f"default={tmp_path / 'nosuch'}", str(root), code=1)


def test_outputs(cli: Cli, tmp_path: Path) -> None:
    root = contexts.directory(
        tmp_path / "c",
        "FROM bb AS a\nRUN mkdir /o && echo x > /o/f && chmod 640 /o/f\nFROM scratch\nCOPY --from=a /o /\n",
    )
    cli.build("-o", str(tmp_path / "out"), str(root))
    assert (tmp_path / "out/f").read_text() == "x\n"
    cli.build("-o", f"type=tar,dest={tmp_path / 'out.tar'}", str(root))
    with tarfile.open(tmp_path / "out.tar") as archive:
        assert archive.getmember("f").mode == 0o640
    assert "x\n" in cli.run("build", "-q", "-o", "-", str(root)).stdout
    for kind in ("oci", "docker"):
        cli.build("-t", "arch:ive", "-o", f"type={kind},dest={tmp_path / kind}.tar", str(root))
        with tarfile.open(tmp_path / f"{kind}.tar") as archive:
            assert {"index.json", "oci-layout", "manifest.json"} <= set(archive.getnames())
            manifest = json.load(archive.extractfile("manifest.json") or io.BytesIO())
        assert manifest[0]["RepoTags"] == ["arch:ive"]


def test_outputs_of_several_layers(cli: Cli, tmp_path: Path) -> None:
    root = contexts.directory(tmp_path / "c", "FROM bb\nRUN echo x >/f && echo y >/gone\nRUN rm /gone && echo z >/g\n")
    cli.build("-o", str(tmp_path / "out"), str(root))
    assert [(tmp_path / "out" / name).read_text() for name in ("f", "g")] == ["x\n", "z\n"]
    assert (tmp_path / "out/bin/busybox").exists() and not (tmp_path / "out/gone").exists()
    cli.build("-o", f"type=tar,dest={tmp_path / 'out.tar'}", str(root))
    with tarfile.open(tmp_path / "out.tar") as archive:
        assert {"f", "g", "bin/busybox"} <= set(archive.getnames()) and "gone" not in archive.getnames()


CACHED = """FROM bb AS tool
RUN echo tool > /tool
FROM bb
COPY f /f
RUN cat /proc/sys/kernel/random/uuid > /unique
COPY --from=tool /tool /tool
"""


def blobs_of(directory: Path) -> dict[str, Path]:
    return {path.name: path for path in (directory / "blobs/sha256").iterdir()}


def manifest_of(directory: Path) -> dict[str, Any]:
    index = json.loads((directory / "index.json").read_text())
    (entry,) = index["manifests"]
    found: dict[str, Any] = json.loads(blobs_of(directory)[entry["digest"][7:]].read_text())
    return found


def test_a_cache_in_a_directory(cli: Cli, engine: Engine, tmp_path: Path) -> None:
    root = contexts.directory(tmp_path / "c", CACHED, {"f": "f"})
    cache = tmp_path / "a, cache"  # its name has to be quoted
    there = f'"dest={cache}"'
    cli.build("-t", "k", "--cache-to", f"type=local,mode=max,{there}", str(root))
    made = cat(engine, "k", "cat", "/unique")
    first = set(blobs_of(cache))
    for name, path in blobs_of(cache).items():
        assert hashlib.sha256(path.read_bytes()).hexdigest() == name
    engine.docker("rmi", "k")
    cli.run("builder", "prune", "-af")
    said = cli.build("-t", "k", "--cache-from", f'type=local,"src={cache}"', str(root))
    assert said.count(" CACHED\n") >= 4 and "WARN" not in said.upper(), said
    assert cat(engine, "k", "cat", "/unique") == made
    # mode=min: only what the image consists of; what the tag had before and nothing needs any more goes
    (root / "f").write_text("another")
    cli.build("--cache-to", f"type=local,{there}", str(root))
    steps = json.loads(blobs_of(cache)[manifest_of(cache)["config"]["digest"][7:]].read_text())["steps"]
    assert len(steps) == 3 and first - set(blobs_of(cache)), steps
    assert len(blobs_of(cache)) == len({each["digest"] for each in manifest_of(cache)["layers"]}) + 2
    cli.build("--cache-to", f"type=local,tag=other,{there}", str(root))
    assert len(json.loads((cache / "index.json").read_text())["manifests"]) == 2
    assert sorted(each.name for each in cache.iterdir()) == ["blobs", "index.json", "oci-layout"]


def test_a_damaged_cache_is_a_warning(cli: Cli, tmp_path: Path) -> None:
    root = contexts.directory(tmp_path / "c", "FROM bb\nRUN echo one > /1\nRUN echo two > /2\n")
    cache = tmp_path / "cache"
    cli.build("--cache-to", f"type=local,dest={cache}", str(root))

    def again() -> str:
        cli.run("image", "prune", "-f")
        cli.run("builder", "prune", "-af")
        return cli.build("--cache-from", f"type=local,src={cache}", str(root))

    top = blobs_of(cache)[manifest_of(cache)["layers"][-1]["digest"][7:]]
    data = top.read_bytes()
    top.write_bytes(data[:600] + b"X" + data[601:])
    said = again()
    assert top.name in said and "could not be fetched" in said and said.count(" CACHED\n") == 2, said  # FROM, first RUN
    top.unlink()
    said = again()
    assert top.name in said and "missing" in said, said
    blobs_of(cache)[manifest_of(cache)["config"]["digest"][7:]].write_text('{"layers":[],"steps":[]}')
    said = again()
    assert f"cache from {cache}: its list of steps is damaged" in said, said
    (cache / "index.json").write_text('{"manifests": 7}')
    assert f"cache from {cache}: its index.json" in again()
    shutil.rmtree(cache)
    assert f"local cache import at {cache} not found" in again()


def test_where_a_cache_cannot_be(cli: Cli, engine: Engine, api: Connection, tmp_path: Path) -> None:
    root = contexts.directory(tmp_path / "c", "FROM bb\nRUN echo never > /1\n")
    (tmp_path / "file").write_text("")
    for flag, text, says in (
        ("--cache-to", "type=local", "needs dest="),
        ("--cache-from", "type=local", "needs src="),
        ("--cache-to", f"type=local,dest={tmp_path / 'file'}", "is no directory"),
        ("--cache-to", f"type=local,mode=all,dest={tmp_path / 'd'}", "min or max"),
        ("--cache-to", "type=gha", "type=gha: inline, registry (with ref=), local are served"),
    ):
        said = cli.build(flag, text, str(root), code=1)
        assert says in said and "RUN echo never" not in said, said
    cli.build("--cache-to", "type=local,ignore-error=true,dest=/proc/nowhere", str(root))
    assert "/proc/nowhere" in cli.build("--cache-to", "type=local,dest=/proc/nowhere", str(root), code=1)
    for source in (str(tmp_path), "upload:" + "0" * 26, "upload:../../x"):
        asked = {"cachefrom": json.dumps([f"type=local,src={source}"])}
        status = api.request("POST", "/build", query=asked, raw=contexts.tar("FROM bb\n")).status
        assert status in (400, 404), source
    assert api.get("/build/outputs/cache:" + "0" * 32).status == 404


def test_a_cache_with_docker_py(client: docker.DockerClient, cli: Cli, tmp_path: Path) -> None:
    """As docs/build.md has it."""
    api = client.api
    root = contexts.directory(tmp_path / "c", "FROM bb\nRUN cat /proc/sys/kernel/random/uuid > /unique\n")
    api.params = {"cacheto": json.dumps(["type=local,mode=max"])}
    image, log = client.images.build(path=str(root))
    api.params = {}
    (name,) = [line["aux"]["id"] for line in log if line.get("id") == "dockyard.cache"]
    reply = api.get(api._url("/build/outputs/{0}", name), stream=True)
    (tmp_path / "cache.tar").write_bytes(reply.content)
    assert api.get(api._url("/build/outputs/{0}", name)).status_code == 404  # once
    client.images.remove(image.id)
    cli.run("builder", "prune", "-af")
    with open(tmp_path / "cache.tar", "rb") as tar:
        sent = api.post(api._url("/build/contexts"), data=tar).json()["ID"]
    again, _ = client.images.build(path=str(root), cache_from=[f"type=local,src=upload:{sent}"])
    assert again.id == image.id


def test_a_build_is_pushed(cli: Cli, engine: Engine, tmp_path: Path) -> None:
    if reason := debian_registry.why_not():
        pytest.skip(reason)
    with DebianRegistry(tmp_path / "registry", engine.netns_path, 5046) as registry:
        name = f"{registry.host}/built:1"
        text = cli.build("-t", name, "--push", "-", input=b"FROM bb\nLABEL pushed=1\n")
        assert f"pushing {name}\n" in text
        engine.docker("rmi", "-f", name)
        engine.docker("pull", "-q", name)
        assert config(engine, name)["Config"]["Labels"] == {"pushed": "1"}
    assert "ERROR" in cli.build("-t", name, "--push", "-", input=b"FROM bb\nLABEL pushed=1\n", code=1)
    assert "needs a name" in cli.build("--push", "-", input=b"FROM bb\n", code=1)


# -- the same by plain POST /build ------------------------------------------------------------------------------------


def test_docker_py_has_what_only_buildkit_had(client: docker.DockerClient, cli: Cli, tmp_path: Path) -> None:
    """docs/build.md, "With docker-py": its own methods, with a header and parameters of its session."""
    text = 'FROM bb\nRUN --mount=type=secret,id=t test "$(cat /run/secrets/t)" = secret\nCOPY --from=lib / /lib2\n'
    root = contexts.directory(tmp_path, text)
    api = client.api
    uploaded = api.post(api._url("/build/contexts"), data=contexts.tar("", {"l": "l"})).json()["ID"]
    secrets = json.dumps({"t": base64.b64encode(b"secret").decode()}).encode()
    api.headers["X-Build-Secrets"] = base64.b64encode(secrets).decode()
    api.params = {"contexts": json.dumps({"lib": f"upload:{uploaded}"}), "nocachefilter": '["0"]'}
    image, _ = client.images.build(path=str(root))
    api.params = {}
    assert client.containers.run(image, "cat /lib2/l", remove=True) == b"l"


@pytest.mark.parametrize("size", [1, 3 << 20])  # taken in whole, and by a worker while it arrives
def test_a_body_compressed_with_zstd(engine: Engine, api: Connection, size: int) -> None:
    body = zstandard.compress(contexts.tar("FROM bb\nCOPY x /x\n", {"x": os.urandom(size)}))
    answer = api.request("POST", "/build", query={"t": "zstd"}, raw=body)
    assert answer.status == 200 and "Successfully tagged zstd" in contexts.stream(answer.body)
    assert cat(engine, "zstd", "stat", "-c", "%s", "/x") == str(size)
    cut = api.request("POST", "/build", raw=body[: len(body) // 2])
    assert cut.status == 400 and b"build context: " in cut.body, cut.body


def test_version_two_is_a_trace(api: Connection) -> None:
    answer = api.request("POST", "/build", query={"version": "2"}, raw=contexts.tar("FROM bb\nRUN echo traced\n"))
    messages = contexts.messages(answer.body)
    documents = [each["aux"] for each in messages if each["id"] == "dockyard.trace"]
    vertexes = [vertex for each in documents for vertex in each.get("vertexes", ())]
    assert [v["name"] for v in vertexes if v.get("completed") and "RUN" in v["name"]]
    logs = b"".join(base64.b64decode(log["data"]) for each in documents for log in each.get("logs", ()))
    assert logs in (b"traced\n", b"")
    assert messages[-2]["id"] == "moby.image.id" and messages[-1]["id"] == "dockyard.result"


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ({"version": "3"}, "invalid builder version '3'"),
        ({"contexts": '{"lib":"upload:nosuch"}'}, "nosuch"),
        ({"ssh": '["default"]'}, "session"),
        ({"secret": "id=x"}, "X-Build-Secrets"),
        ({"allow": '["all"]'}, "invalid entitlement"),
    ],
)
def test_bad_requests_are_named(api: Connection, query: dict[str, str], said: str) -> None:
    answer = api.request("POST", "/build", query=query, raw=contexts.tar("FROM bb\nCOPY --from=lib / /\n"))
    assert answer.status in (400, 404)
    assert said in answer.message


@pytest.mark.parametrize(
    "body", [b"", b"\0" * 100, b"\x1f\x8bnonsense", os.urandom(2000), contexts.tar("FROM bb")[:700]]
)
def test_s45_bodies_that_are_no_context(api: Connection, body: bytes) -> None:
    answer = api.request("POST", "/build", raw=body)
    assert answer.status in (400, 500)
    assert answer.message
    assert api.get("/_ping").status == 200


def test_the_builders_disk_usage(cli: Cli, engine: Engine) -> None:
    cli.run("builder", "prune", "-af")
    cli.build("-", input=b"FROM bb\nRUN head -c 100000 /dev/zero > /zeros\n")
    records = engine.request("GET", "/system/df", type="build-cache").json()["BuildCache"]
    assert [each for each in records if "zeros" in each["Description"] and each["Size"] >= 100_000]
    assert "regular" in cli.run("builder", "df").stdout
    gone = cli.run("builder", "prune", "-f", "--filter", "until=1h").stdout
    assert gone.endswith("Total reclaimed space: 0B\n")
    assert "Deleted build cache objects:" in cli.run("builder", "prune", "-af").stdout
    assert engine.request("GET", "/system/df").json()["BuildCache"] == []


def test_several_platforms_and_provenance(cli: Cli, tmp_path: Path) -> None:
    root = contexts.directory(
        tmp_path, "FROM scratch\nARG TARGETARCH\nCOPY $TARGETARCH /arch\n", {"arm64": "1", "amd64": "2"}
    )
    iid, metadata, archive = (str(tmp_path / name) for name in ("iid", "metadata", "archive"))
    cli.build(
        "--platform=linux/arm64,linux/amd64", "--provenance=mode=max", "--annotation=index:made=here",
        "-t", "several:1", f"--iidfile={iid}", f"--metadata-file={metadata}", "-o", f"type=oci,dest={archive}",
        str(root),
    )  # fmt: skip
    told = json.loads(Path(metadata).read_text())
    assert told["containerimage.digest"] == Path(iid).read_text() == told["containerimage.descriptor"]["digest"]
    assert "containerimage.config.digest" not in told
    assert told["buildx.build.provenance/linux/arm64"]["buildType"] == "https://mobyproject.org/buildkit@v1"
    shown = json.loads(cli.run("image", "inspect", Path(iid).read_text()).stdout)
    assert shown[0]["Architecture"] == "amd64" and shown[0]["RepoTags"] == ["several:1"]
    with tarfile.open(archive) as tar:
        blobs = {member.name: tar.extractfile(member).read() for member in tar if member.isfile()}  # type: ignore[union-attr]
    index = json.loads(blobs["blobs/sha256/" + told["containerimage.digest"].removeprefix("sha256:")])
    kinds = [(entry.get("annotations") or {}).get("vnd.docker.reference.type", "image") for entry in index["manifests"]]
    assert kinds == ["image", "image", "attestation-manifest", "attestation-manifest"]
    assert index["annotations"] == {"made": "here"}
    cli.engine.docker("rmi", "several:1")
    cli.build("--platform=linux/arm64,linux/amd64", "-o", str(tmp_path / "files"), str(root))
    files = {str(path.relative_to(tmp_path / "files")) for path in (tmp_path / "files").rglob("*")}
    assert files == {"linux_amd64", "linux_amd64/arch", "linux_arm64", "linux_arm64/arch"}
    assert (tmp_path / "files/linux_arm64/arch").read_text() == "1"
    text = cli.build("--sbom=true", str(root), code=1)
    assert "no SBOM is made here" in text


def test_cache_mounts_leave_and_come(cli: Cli, tmp_path: Path) -> None:
    root = contexts.directory(
        tmp_path, "FROM bb\nRUN --mount=type=cache,id=kept,target=/c cat /c/*; echo of-this-step > /c/f\n"
    )
    tar = str(tmp_path / "mount.tar")
    cli.build(str(root))
    assert cli.run("builder", "export", "kept", "-o", tar).returncode == 0
    done = cli.run("builder", "export", "nosuchmount")
    assert done.returncode == 1 and "no such cache mount: nosuchmount" in done.stderr
    cli.run("builder", "prune", "-af")
    assert cli.run("builder", "import", "kept", "-i", tar).returncode == 0
    assert " of-this-step\n" in cli.build(str(root))
    done = cli.run("builder", "import", "kept", input=b"x" * 2000)
    assert done.returncode == 1 and done.stderr
