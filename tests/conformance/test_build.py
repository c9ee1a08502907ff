"""Builds as Docker's clients ask for them: the docker CLI (classic), docker-py and the raw API, on both engines.

What only our builder has is in test_build_dockyard.py. Each test makes as few containers as it can.
"""

from __future__ import annotations

import gzip
import io
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import docker
import docker.errors
import pytest

from tests.support import contexts
from tests.support.engines import Engine
from tests.support.rawhttp import Connection


@pytest.fixture(autouse=True)
def no_images_left(engine: Engine) -> Iterator[None]:
    """Every name but `bb` goes, so that a later test's cache is its own (what is dangling may stay)."""
    yield
    with engine.api() as api:
        for image in api.get("/images/json").json():
            for name in image.get("RepoTags") or []:
                if not name.startswith(("bb:", "<none>")):
                    api.delete(f"/images/{name}", force=True)


def build(engine: Engine, *words: str, code: int = 0, input: bytes | None = None) -> str:
    """`docker build` with the classic builder; its output, both streams."""
    done = engine.docker("build", *words, input=input, check=False)
    text = done.stdout.decode() + done.stderr.decode()
    assert done.returncode == code, text
    return text


def config(engine: Engine, image: str) -> dict[str, Any]:
    found: dict[str, Any] = engine.request("GET", f"/images/{image}/json").json()
    return found


def cat(engine: Engine, image: str, *command: str) -> str:
    return engine.out("run", "--rm", "--network=none", image, *command)


EVERYTHING = r"""# escape=\
ARG BASE=bb
ARG UNSET
FROM $BASE AS first
ARG BASE
ARG WHO=nobody
ENV GREETING="hello ${WHO}" \
    PLAIN=a
ENV OLD style value
LABEL one=1 two="t w o"
LABEL who=$WHO
WORKDIR /work/${PLAIN}
WORKDIR sub
RUN echo "$GREETING base=$BASE unset=$UNSET" > said && echo out && echo err >&2
RUN ["sh", "-c", "echo exec-form $0", "x"]
COPY --chown=1000:50 file.txt dir ./
COPY ["with space", "renamed/"]
ADD archive.tar.gz /unpacked/
ADD file.txt /added
USER dock
RUN id -u > /tmp/uid
USER root
EXPOSE 80 90/udp 7000-7002
VOLUME ["/data", "/more"]
STOPSIGNAL SIGINT
HEALTHCHECK --interval=5s --retries=2 CMD true
SHELL ["/bin/sh", "-ec"]
RUN test "$0" = /bin/sh
ONBUILD RUN echo triggered > /triggered
MAINTAINER somebody <s@example.org>
CMD ["default", "words"]
ENTRYPOINT ["/bin/echo", "entry"]

FROM bb
COPY --from=first /work/a/sub /copied
COPY --from=0 /tmp/uid /copied/uid
RUN ls -ln /copied > /listing
"""


def everything(root: Path) -> Path:
    inner = contexts.tar(files={"in/archive": "packed"})
    return contexts.directory(
        root,
        EVERYTHING,
        {
            "file.txt": "content", "dir/a": "a", "dir/b/c": "c", "with space": "space",
            "archive.tar.gz": gzip.compress(inner), "ignored.log": "x", ".dockerignore": "*.log\n",
        },
    )  # fmt: skip


def test_each_instruction_end_to_end(engine: Engine, tmp_path: Path) -> None:
    root = everything(tmp_path)
    text = build(engine, "--target=first", "-t", "first", "-t", "second:tag", "--build-arg", "WHO=you", "--label",
                 "extra=yes", str(root))  # fmt: skip
    assert "Step 1/" in text and "Successfully tagged second:tag" in text
    found = config(engine, "first")
    assert found["Id"] == config(engine, "second:tag")["Id"]
    image = found["Config"]
    assert image["Env"][-3:] == ["GREETING=hello you", "PLAIN=a", "OLD=style value"]
    assert image["Labels"] == {"one": "1", "two": "t w o", "who": "you", "extra": "yes"}
    assert image["WorkingDir"] == "/work/a/sub"
    assert sorted(image["ExposedPorts"]) == ["7000/tcp", "7001/tcp", "7002/tcp", "80/tcp", "90/udp"]
    assert sorted(image["Volumes"]) == ["/data", "/more"]
    assert image["StopSignal"] == "SIGINT"
    assert image["Healthcheck"] == {"Test": ["CMD-SHELL", "true"], "Interval": 5_000_000_000, "Retries": 2}
    assert image["Shell"] == ["/bin/sh", "-ec"]
    assert image["OnBuild"] == ["RUN echo triggered > /triggered"]
    assert image["Cmd"] == ["default", "words"] and image["Entrypoint"] == ["/bin/echo", "entry"]
    assert found["Author"] == "somebody <s@example.org>"
    assert cat(engine, "first") == "entry default words"
    script = "cat said; ls -ln a file.txt b/c; cat renamed/* /unpacked/in/archive /added /tmp/uid; ls /work/a/sub /"
    listing = engine.out("run", "--rm", "--entrypoint=sh", "first", "-c", script)
    assert listing.startswith("hello you base=bb unset=\n")
    assert listing.count(" 1000     50 ") == 3
    assert "\nspace" in listing and "packed" in listing and "content1000" in listing.replace("\n", "")
    assert "ignored.log" not in listing


def test_stages_and_triggers(engine: Engine, tmp_path: Path) -> None:
    root = everything(tmp_path)
    build(engine, "-t", "last", str(root))
    assert cat(engine, "last", "cat", "/copied/said", "/copied/uid") == "hello nobody base=bb unset=\n1000"
    assert "1000     50" in cat(engine, "last", "cat", "/listing")
    build(engine, "-q", "-t", "trigger", "--target=first", str(root))
    text = build(engine, "-t", "child", "-", input=b"FROM trigger\nENTRYPOINT []\nCMD cat /triggered\n")
    assert "# Executing 1 build trigger" in text
    assert cat(engine, "child") == "triggered"
    assert config(engine, "child")["Config"].get("OnBuild") is None


def test_history_tells_each_instruction(engine: Engine) -> None:
    build(engine, "-t", "h", "-", input=b'FROM bb\nENV A=b\nRUN echo x > /x\nWORKDIR /w\nCMD ["y"]\n')
    steps = engine.request("GET", "/images/h/history").json()
    said = [each["CreatedBy"] for each in steps][:4]
    assert [bool(each["Size"]) for each in steps][:4] == [False, False, True, False]
    for text, word in zip(said, ('CMD ["y"]', "WORKDIR /w", "echo x > /x", "ENV A=b"), strict=True):
        assert word in text


# -- the cache --------------------------------------------------------------------------------------------------------


def test_the_cache_knows_content_and_mode_but_no_times(engine: Engine, tmp_path: Path) -> None:
    root = contexts.directory(tmp_path, "FROM bb\nCOPY a /a\nRUN cat /a\n", {"a": "one", "b": "unused"})
    assert "Using cache" not in build(engine, str(root))
    os.utime(root / "a", (1, 1))
    (root / "b").write_text("changed")
    assert build(engine, str(root)).count("Using cache") == 2
    (root / "a").chmod(0o755)
    assert build(engine, str(root)).count("Using cache") == 0
    (root / "a").write_text("two")
    assert build(engine, str(root)).count("Using cache") == 0
    assert build(engine, str(root)).count("Using cache") == 2
    assert build(engine, "--no-cache", str(root)).count("Using cache") == 0


def test_build_arguments_count_where_they_are_used(engine: Engine) -> None:
    text = b"FROM bb\nRUN echo before\nARG A\nRUN echo after\n"
    build(engine, "--build-arg=A=1", "-", input=text)
    assert build(engine, "--build-arg=A=1", "-", input=text).count("Using cache") >= 2
    said = build(engine, "--build-arg=A=2", "--build-arg=B=3", "-", input=text)
    assert "\nbefore\n" not in said and "\nafter\n" in said
    assert "[Warning] One or more build-args [B] were not consumed\n" in said


# -- how the context comes --------------------------------------------------------------------------------------------


def test_forms_of_the_context(engine: Engine, tmp_path: Path) -> None:
    text = "FROM bb\nCOPY . /c\nRUN ls -aR /c\n"
    files: contexts.Files = {"sub/f": "x", "other/Dockerfile": text, ".dockerignore": "other\n"}
    root = contexts.directory(tmp_path / "c", text, files)
    outside = contexts.directory(tmp_path / "out", text) / "Dockerfile"
    for said in (
        build(engine, "--no-cache", "-f", str(outside), str(root)),
        build(engine, "--no-cache", "-f", "-", str(root), input=text.encode()),
    ):
        listing = said.partition("/c/sub")[0]
        assert "\nDockerfile\n" in listing and ".dockerfile" not in listing and "other" not in listing
    assert "/c/sub:" in build(engine, "--no-cache", "-", input=contexts.tar(text, files))
    assert "/c/sub:" in build(engine, "--no-cache", "-", input=gzip.compress(contexts.tar(text, files)))
    assert "/c/sub:" in build(engine, "-f", "other/Dockerfile", "-", input=contexts.tar("", files))


@pytest.mark.parametrize("compress", ["identity", "gzip", "bzip2", "xz"])
def test_bodies_in_every_compression(api: Connection, compress: str) -> None:
    import bz2
    import lzma

    squeeze: dict[str, Callable[[bytes], bytes]] = {
        "identity": bytes, "gzip": gzip.compress, "bzip2": bz2.compress, "xz": lzma.compress,
    }  # fmt: skip
    body = squeeze[compress](contexts.tar("FROM bb\nCOPY x /\n", {"x": "x"}))
    headers = {"Content-Type": "application/x-tar"}
    answer = api.request("POST", "/build", query={"q": "1"}, raw=body, headers=headers)
    assert answer.status == 200
    assert contexts.stream(answer.body).startswith("sha256:"), answer.body


@pytest.fixture(scope="module")
def web(engine: Engine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A web server beside the engine: a Dockerfile, a tar, a git repository (as files: git's "dumb" protocol)."""
    root = tmp_path_factory.mktemp("web")
    text = "FROM bb\nCOPY . /c\nRUN ls /c\n"
    contexts.directory(
        root, "", {"plain": "FROM bb\nLABEL plain=1\n", "c.tar.gz": gzip.compress(contexts.tar(text, {"in-tar": ""}))}
    )
    work = contexts.directory(root / "work", text, {"in-git": "", "sub/Dockerfile": text, "sub/in-sub": ""})
    (work / "sub" / "out").symlink_to("../../../../etc")
    identity = ["-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "init.defaultBranch=main"]
    for command in (["init", "-q"], ["add", "."], ["commit", "-qm", "first"], ["branch", "other"]):
        subprocess.run(["git", *identity, *command], cwd=work, check=True)
    subprocess.run(["git", "clone", "-q", "--bare", str(work), str(root / "r.git")], check=True)
    subprocess.run(["git", "update-server-info"], cwd=root / "r.git", check=True)
    prefix = ["nsenter", f"--net={engine.netns_path}"] if engine.netns_path else []
    command = [*prefix, sys.executable, "-m", "http.server", "--bind", "127.0.0.1", "8099", "--directory", str(root)]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    wait_until(lambda: answers(engine, 8099))
    yield "http://127.0.0.1:8099"
    server.terminate()
    server.wait()


def answers(engine: Engine, port: int) -> bool:
    try:
        engine.connect(port).close()
    except OSError:
        return False
    return True


@pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")
def test_remote_contexts(engine: Engine, web: str) -> None:
    """The docker CLI fetches them itself; docker-py leaves that to the daemon."""
    assert "Successfully tagged plain:latest" in remote(engine, f"{web}/plain", t="plain")
    assert config(engine, "plain")["Config"]["Labels"] == {"plain": "1"}
    assert "Successfully built" in remote(engine, f"{web}/plain", dockerfile="baz"), "its name is of no interest"
    assert "\nin-tar\n" in remote(engine, f"{web}/c.tar.gz")
    assert "\nin-git\n" in remote(engine, f"{web}/r.git#main")
    assert "\nin-sub\n" in remote(engine, f"{web}/r.git#other:sub")


def remote(engine: Engine, url: str, **query: str) -> str:
    """What a build of a remote context said; its error, if there is one, last."""
    answer = engine.request("POST", "/build", None, remote=url, nocache="1", **query)
    if answer.status != 200:
        return f"error: {answer.message}"
    last = contexts.messages(answer.body)[-1]
    return contexts.stream(answer.body) + (f"error: {last['error']}" if "error" in last else "")


@pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")
@pytest.mark.parametrize(
    "where",
    [
        "/r.git#--upload-pack=touch",
        "/r.git#main:sub/out",
        "/r.git#nosuch",
        "/nosuch.git",
        "/nosuch",
    ],
)
def test_s44_remote_contexts_that_are_refused(engine: Engine, web: str, where: str) -> None:
    assert "error: " in remote(engine, f"{web}{where}")


@pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")
def test_s44_a_directory_above_the_checkout_is_the_checkout(engine: Engine, web: str) -> None:
    """BuildKit's reading; the classic builder refuses it."""
    said = remote(engine, f"{web}/r.git#main:../..")
    assert "error: " in said or "\nin-git\nsub\n" in said


# -- what goes wrong --------------------------------------------------------------------------------------------------


def test_a_run_that_fails(engine: Engine) -> None:
    text = b"FROM bb\nRUN echo first\nRUN echo last words; exit 7\nRUN echo never\n"
    said = build(engine, "-t", "x", "-", input=text, code=7)
    assert "The command '/bin/sh -c echo last words; exit 7' returned a non-zero code: 7" in said
    assert "last words" in said and "never\n" not in said.replace("RUN echo never\n", "")
    assert engine.docker("image", "inspect", "x", check=False).returncode == 1
    assert "Using cache" in build(engine, "-", input=text, code=7)


@pytest.mark.parametrize(
    ("dockerfile", "options", "said"),
    [
        ("FROM bb\nCOPY missing /x\n", {}, "missing"),
        ("FROM bb\nRUN x\n", {"target": "nosuch"}, "nosuch"),
        ("FROM bb\nCOPY --from=nosuchimage:nosuchtag /x /y\n", {}, "nosuchimage"),
        ("FORM bb\n", {}, "FORM"),
        ("FROM bb\nEXPOSE x\n", {}, "x"),
        ("RUN true\n", {}, "no build stage in current context"),
        ("FROM bb\nHEALTHCHECK\n", {}, "HEALTHCHECK"),
        ("FROM\n", {}, "FROM"),
        ("", {}, "Dockerfile"),
        ("FROM bb\n", {"dockerfile": "nosuch/Dockerfile"}, "nosuch/Dockerfile"),
        ("FROM bb\n", {"t": "BAD:::"}, "invalid reference format"),
        ("FROM bb\n", {"buildargs": "{"}, "error reading build args"),
    ],
)
def test_bad_input_is_named(api: Connection, dockerfile: str, options: dict[str, str], said: str) -> None:
    answer = api.request("POST", "/build", query=options, raw=contexts.tar(dockerfile, {"x": "x"}))
    if answer.status == 200:
        last = contexts.messages(answer.body)[-1]
        assert last["error"] == last["errorDetail"]["message"]
        text = last["error"]
    else:
        assert answer.status in (400, 404, 500, 503)
        text = answer.message
    assert said.lower() in text.lower()


def test_s45_a_client_that_goes_away_ends_the_build(engine: Engine) -> None:
    body = contexts.tar("FROM bb\nRUN echo begun && sleep 4711\n")
    with engine.api() as gone:
        answer = gone.stream("POST", "/build", None, {"nocache": "1", "rm": "1", "forcerm": "1"}, raw=body)
        while b"begun\\n" not in next(answer):
            pass
        wait_until(lambda: sleeping(4711))
        answer.close()
    wait_until(lambda: not sleeping(4711))
    assert engine.request("GET", "/_ping").status == 200


def wait_until(true: Callable[[], bool], seconds: float = 15) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end
        time.sleep(0.02)


def sleeping(seconds: int) -> bool:
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if entry.read_bytes() == b"sleep\0%d\0" % seconds:
                return True
        except OSError:
            continue
    return False


# -- what is left behind ----------------------------------------------------------------------------------------------


def test_files_that_name_the_result(engine: Engine, tmp_path: Path) -> None:
    file = tmp_path / "iid"
    text = b"FROM bb\nLABEL a=b\n"
    build(engine, "--iidfile", str(file), "-t", "x", "-", input=text)
    assert file.read_text() == config(engine, "x")["Id"]
    assert engine.docker("build", "-q", "-", input=text).stdout.decode().strip() == file.read_text()


def test_a_build_that_fails_writes_no_iidfile(engine: Engine, tmp_path: Path) -> None:
    build(engine, "--iidfile", str(tmp_path / "iid"), "-", input=b"FROM bb\nRUN false\n", code=1)
    assert not (tmp_path / "iid").exists()


def test_events_of_a_build(engine: Engine) -> None:
    since = time.time()
    build(engine, "-t", "ev", "-", input=b"FROM bb\nLABEL ev=1\n")
    query = {"since": f"{since:.9f}", "until": f"{time.time():.9f}", "filters": {"type": ["image"]}}
    with engine.api() as api:
        events = api.get("/events", **query).lines()
    assert ("tag", "ev:latest") in [(e["Action"], e["Actor"]["Attributes"].get("name")) for e in events]


def test_no_container_of_a_build_stays(engine: Engine) -> None:
    build(engine, "-", input=b"FROM bb\nRUN echo one\nRUN echo two\n")
    assert engine.request("GET", "/containers/json", all=True).json() == []


# -- docker-py --------------------------------------------------------------------------------------------------------


def test_docker_py(client: docker.DockerClient, tmp_path: Path) -> None:
    root = contexts.directory(
        tmp_path, "FROM bb\nARG A\nCOPY . /c\nRUN echo $A > /a\n", {"x": "x", "y.log": "y", ".dockerignore": "*.log"}
    )
    image, logs = client.images.build(
        path=str(root), tag="py:1", buildargs={"A": "v"}, labels={"l": "m"}, rm=True, nocache=True, gzip=True,
        extra_hosts={"there": "10.0.0.9"}, container_limits={"memory": 128 << 20}, shmsize=32 << 20,
        network_mode="none",
    )  # fmt: skip
    assert any("Successfully built" in each.get("stream", "") for each in logs)
    assert image.tags == ["py:1"] and image.labels == {"l": "m"}
    listing = client.containers.run(image, ["sh", "-c", "cat /a; ls /c"], remove=True)
    assert listing.split() == [b"v", b"Dockerfile", b"x"]
    made, _ = client.images.build(fileobj=io.BytesIO(b"FROM bb\nENV Z=1\n"))
    assert "Z=1" in made.attrs["Config"]["Env"]
    packed = io.BytesIO(contexts.tar("FROM bb\nCOPY f /f\n", {"f": "f"}))
    made, _ = client.images.build(fileobj=packed, custom_context=True, encoding="")
    assert client.containers.run(made, "cat /f", remove=True) == b"f"


def test_docker_py_tells_a_failure(client: docker.DockerClient) -> None:
    with pytest.raises(docker.errors.BuildError, match="returned a non-zero code: 3") as caught:
        client.images.build(fileobj=io.BytesIO(b"FROM bb\nRUN echo said; exit 3\n"))
    assert any(each.get("stream") == "said\n" for each in caught.value.build_log)


# -- the cache's size -------------------------------------------------------------------------------------------------


def test_pruning_and_disk_usage(engine: Engine) -> None:
    build(engine, "-", input=b"FROM bb\nRUN head -c 100000 /dev/zero > /zeros\n")
    text = engine.out("system", "df")
    assert "Build Cache" in text
    assert "Total reclaimed space:" in engine.out("builder", "prune", "-af")
    usage = engine.request("GET", "/system/df").json()
    assert usage["BuildCache"] in ([], None)
    answer = engine.request("POST", "/build/prune", filters={"nosuch": ["x"]})
    assert answer.status in (400, 500) and "nosuch" in answer.message
    for label in ("label=x", "label!=x"):
        engine.docker("system", "prune", "-f", "--filter", label)
    since = time.time()
    assert json.loads(engine.request("POST", "/build/prune").body)["SpaceReclaimed"] == 0
    query = {"since": f"{since:.9f}", "until": f"{time.time():.9f}", "filters": {"type": ["builder"]}}
    with engine.api() as api:
        assert [event["Action"] for event in api.get("/events", **query).lines()] == ["prune"]


def test_cancelling_a_build_that_is_not_there(engine: Engine) -> None:
    assert engine.request("POST", "/build/cancel").status in (400, 500)
