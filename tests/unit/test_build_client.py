"""`dockyard build` against a stand-in daemon: contexts in every form, what is sent, what comes out."""

from __future__ import annotations

import base64
import io
import json
import os
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from dockyard.edge.cli import http, main
from dockyard.edge.cli.building import output, watch
from dockyard.edge.cli.building.source import find, is_archive
from dockyard.edge.cli.errors import CliError
from tests.support import contexts
from tests.support.fakeapi import FakeApi, reply

Run = Callable[..., tuple[int, str, str]]
_IMAGE = "sha256:" + "ab" * 32


@pytest.fixture
def server(tmp_path: Path) -> Iterator[FakeApi]:
    running = FakeApi(tmp_path / "api.sock")
    yield running
    running.close()


@pytest.fixture
def run(server: FakeApi, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Run:
    """Runs one command line in this process: (exit code, stdout, stderr)."""
    monkeypatch.setenv("DOCKYARD_HOST", server.url)
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path / "config"))
    monkeypatch.delenv("SOURCE_DATE_EPOCH", raising=False)
    _serve(server)

    def one(*words: str) -> tuple[int, str, str]:
        code = main.run(list(words))
        out, err = capfd.readouterr()
        return code, out, err

    return one


def _serve(server: FakeApi, *messages: dict[str, Any], name: str = "Dockyard 0") -> None:
    """A daemon whose builds say `messages` (by default that all went well)."""
    told = messages or (
        {"id": "moby.image.id", "aux": {"ID": _IMAGE}},
        {"id": "dockyard.result", "aux": {"names": ["x:latest"]}},
    )

    def answer(method: str, path: str, body: bytes) -> bytes:
        where = urlsplit(path).path
        if where.endswith("/version"):
            return reply({"Platform": {"Name": name}})
        if where.endswith("/build/contexts"):
            return reply({"ID": f"c{len(body)}"}, "201 Created")
        data = b"".join(json.dumps(each).encode() + b"\r\n" for each in told)
        return b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n" + data

    server.answer = answer


def _asked(server: FakeApi, where: str = "/build") -> tuple[dict[str, str], bytes]:
    """The query and the body of the last request to `where`."""
    for _, path, body in reversed(server.asked):
        parts = urlsplit(path)
        if parts.path.partition("/v1.50")[2] == where:
            return {key: values[0] for key, values in parse_qs(parts.query).items()}, body
    raise AssertionError(server.asked)


def _names(body: bytes) -> list[str]:
    return tarfile.TarFile(fileobj=io.BytesIO(body)).getnames()


# -- where the context comes from -------------------------------------------------------------------------------------


def _packed(argument: str, file: str = "") -> tuple[list[str], str, dict[str, bytes]]:
    """(names in the tar, the Dockerfile's path in it, contents)."""
    source = find(argument, file)
    tar = tarfile.TarFile(fileobj=io.BytesIO(b"".join(source.body or ())))
    files = {m.name: f.read() for m in tar.getmembers() if m.isreg() and (f := tar.extractfile(m)) is not None}
    return tar.getnames(), source.dockerfile, files


def test_a_directory(tmp_path: Path) -> None:
    contexts.directory(tmp_path, "FROM x", {"a": "", "b.log": "", ".dockerignore": "*.log\nDockerfile\n"})
    names, dockerfile, _ = _packed(str(tmp_path))
    assert (names, dockerfile) == ([".dockerignore", "Dockerfile", "a"], "Dockerfile")


def test_a_dockerfile_with_an_ignore_file_of_its_own(tmp_path: Path) -> None:
    files: contexts.Files = {"d/web": "FROM x", "d/web.dockerignore": "a\n", ".dockerignore": "b\n", "a": "", "b": ""}
    contexts.directory(tmp_path, "", files)
    names, dockerfile, _ = _packed(str(tmp_path), str(tmp_path / "d/web"))
    assert (names, dockerfile) == ([".dockerignore", "b", "d", "d/web", "d/web.dockerignore"], "d/web")


def test_dockerfile_in_lower_case(tmp_path: Path) -> None:
    contexts.directory(tmp_path, "", {"dockerfile": "FROM x"})
    assert _packed(str(tmp_path))[1] == "dockerfile"


def test_a_dockerfile_from_elsewhere_is_hidden(tmp_path: Path) -> None:
    root = contexts.directory(tmp_path / "c", "FROM inner", {"a": "", ".dockerignore": "x"})
    contexts.directory(tmp_path, "", {"other": "FROM outer"})
    names, dockerfile, files = _packed(str(root), str(tmp_path / "other"))
    assert dockerfile.startswith(".dockerfile.") and files[dockerfile] == b"FROM outer"
    assert names == [dockerfile, ".dockerignore", "Dockerfile", "a"]
    assert files[".dockerignore"].decode() == f"x\n{dockerfile}\n"


def test_a_dockerfile_that_a_link_leads_out_to_is_from_elsewhere(tmp_path: Path) -> None:
    contexts.directory(tmp_path, "", {"real": "FROM outer", "c/a": ""})
    (tmp_path / "c" / "Dockerfile").symlink_to("../real")
    _, dockerfile, files = _packed(str(tmp_path / "c"))
    assert files[dockerfile] == b"FROM outer" and dockerfile != "Dockerfile"
    assert files[".dockerignore"].decode() == f"{dockerfile}\n.dockerignore\n"


@pytest.fixture
def stdin(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[bytes], None]]:
    kept = os.dup(0)

    def feed(data: bytes) -> None:
        file = io.FileIO(os.memfd_create("stdin"), "r+")
        file.write(data)
        file.seek(0)
        os.dup2(file.fileno(), 0)

    yield feed
    os.dup2(kept, 0)
    os.close(kept)


def test_a_dockerfile_on_stdin(stdin: Callable[[bytes], None], tmp_path: Path) -> None:
    stdin(b"FROM x\n")
    assert _packed("-") == (["Dockerfile"], "", {"Dockerfile": b"FROM x\n"})
    stdin(b"FROM y\n")
    contexts.directory(tmp_path, "FROM x", {"a": ""})
    names, dockerfile, files = _packed(str(tmp_path), "-")
    assert files[dockerfile] == b"FROM y\n" and names[2:] == ["Dockerfile", "a"]


def test_a_tar_on_stdin_goes_as_it_is(stdin: Callable[[bytes], None]) -> None:
    data = contexts.tar("FROM x", {"big": b"x" * 100_000})
    stdin(data)
    source = find("-", "d/Dockerfile")
    assert b"".join(source.body or ()) == data and source.dockerfile == "d/Dockerfile"


def test_what_is_an_archive() -> None:
    import gzip

    old = tarfile.TarInfo("x").tobuf(tarfile.USTAR_FORMAT)
    v7 = bytearray(old)
    v7[257:265] = bytes(8)
    v7[148:156] = b"%06o\0 " % (sum(v7) - sum(v7[148:156]) + 8 * 32)
    assert all(map(is_archive, (old, bytes(v7), gzip.compress(b""), b"BZh9", b"\xfd7zXZ\0", b"\x28\xb5\x2f\xfd")))
    assert not any(map(is_archive, (b"", b"FROM x\n", b"#" * 512)))


@pytest.mark.parametrize(
    ("argument", "file", "said"),
    [
        ("nosuch", "", 'path "nosuch" not found'),
        ("Dockerfile", "", 'path "Dockerfile" is not a directory'),
        ("empty", "", "open Dockerfile: no such file or directory: empty has none"),
        (".", "nosuch", "nosuch: no such file or directory"),
        (".", "empty", "is a directory"),
        ("-", "-", "can't use stdin for both build context and dockerfile"),
    ],
)
def test_what_is_missing_is_named(
    argument: str, file: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    contexts.directory(tmp_path, "FROM x")
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CliError) as caught:
        find(argument, file)
    assert said in caught.value.message


# -- what is asked of the daemon --------------------------------------------------------------------------------------


def test_flags_reach_the_daemon(run: Run, server: FakeApi, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FROM_ENV", "e")
    monkeypatch.delenv("NOT_THERE", raising=False)
    root = contexts.directory(tmp_path / "c", "FROM x")
    more = contexts.directory(tmp_path / "more", "", {"f": "f"})
    code, _, err = run(
        "build", "-t", "a", "-t", "b:1", "--build-arg", "A=b=c", "--build-arg", "FROM_ENV", "--build-arg", "NOT_THERE",
        "--label", "l", "--no-cache", "--no-cache-filter=s,t", "--pull", "--platform", "linux/amd64,linux/arm64",
        "--add-host", "h=::1", "--ulimit", "nofile=1:2", "--target", "t", "--network", "none", "-m", "64m",
        "--cache-from", "i", "--cache-from", "type=local,src=x", "--cache-to=type=inline", "--provenance", "mode=max",
        "--allow", "network.host", "--annotation", "k=v", "--build-context", f"More={more}",
        "--build-context", "base=docker-image://y", "--output", "type=image,push=true", str(root),
    )  # fmt: skip
    assert (code, err.splitlines()[0]) == (0, "WARNING: --no-cache makes --cache-from without effect")
    query, body = _asked(server)
    assert _names(body) == ["Dockerfile"]
    assert {key: json.loads(query[key]) for key in query if query[key][0] in "[{"} == {
        "buildargs": {"A": "b=c", "FROM_ENV": "e"}, "labels": {"l": ""}, "nocachefilter": ["s", "t"],
        "ulimits": [{"Name": "nofile", "Soft": 1, "Hard": 2}], "cachefrom": ["i"],
        "cacheto": ["type=inline"], "attests": ["type=provenance,mode=max"], "allow": ["network.host"],
        "annotations": {"k": "v"}, "outputs": [{"Type": "image", "Attrs": {"push": "true"}}],
        "contexts": {"more": f"upload:c{len(_asked(server, '/build/contexts')[1])}", "base": "docker-image://y"},
    }  # fmt: skip
    plain = {key: value for key, value in query.items() if value[0] not in "[{"}
    assert plain == {
        "t": "a", "nocache": "1", "pull": "1", "platform": "linux/amd64,linux/arm64", "extrahosts": "h:::1",
        "target": "t", "networkmode": "none", "memory": "67108864", "rm": "1", "version": "2",
        "dockerfile": "Dockerfile",
    }  # fmt: skip


def test_s50_secrets_never_stand_in_the_url(
    run: Run, server: FakeApi, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    heads: list[str] = []
    monkeypatch.setenv("TOKEN", "from-environment")
    root = contexts.directory(tmp_path / "c", "FROM x")
    (tmp_path / "file").write_text("from-file")
    monkeypatch.setattr(http.Connection, "send", _noting(heads))
    code, out, err = run("build", "--secret", "id=TOKEN", "--secret", f"id=f,src={tmp_path / 'file'}", str(root))
    assert code == 0
    assert all("from-" not in path and "RnJv" not in path for _, path, _ in server.asked)
    header = next(value for value in heads if value)
    values = {k: base64.b64decode(v) for k, v in json.loads(base64.urlsafe_b64decode(header)).items()}
    assert values == {"TOKEN": b"from-environment", "f": b"from-file"}
    assert "from-" not in out + err


def _noting(heads: list[str]) -> Any:
    send = http.Connection.send

    def noted(self: Any, method: str, target: str, headers: Any = None, body: Any = None) -> None:
        heads.append((headers or {}).get("X-Build-Secrets", ""))
        send(self, method, target, headers, body)

    return noted


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--secret", "id=x,env=NOT_THERE_AT_ALL"], "the variable NOT_THERE_AT_ALL is not set"),
        (["--secret", "id=x,src=/nosuch"], "open /nosuch: no such file or directory"),
        (["--progress=loud"], "invalid value 'loud' for --progress"),
        (["--build-context=x=/nosuch"], "failed to get build context x: /nosuch is no directory"),
        (["--output=type=iso"], "type must be one of"),
        (["--build-arg==x"], "the name is missing"),
        (["--call=dance"], "must be one of build, check"),
    ],
)
def test_bad_flags_are_named(run: Run, server: FakeApi, words: list[str], said: str, tmp_path: Path) -> None:
    code, _, err = run("build", *words, str(contexts.directory(tmp_path / "c", "FROM x")))
    assert code == 1
    assert said in err
    assert not [path for _, path, _ in server.asked if path.endswith("/build")]


def test_credentials_and_proxies_of_config_json(run: Run, server: FakeApi, tmp_path: Path) -> None:
    folder = tmp_path / "config"
    folder.mkdir()
    auth = base64.b64encode(b"me:secret").decode()
    config = {"auths": {"r.example:5000": {"auth": auth}}, "proxies": {"default": {"httpProxy": "http://p:1"}}}
    (folder / "config.json").write_text(json.dumps(config))
    assert run("build", str(contexts.directory(tmp_path / "c", "FROM x")))[0] == 0
    arguments = json.loads(_asked(server)[0]["buildargs"])
    assert arguments == {"HTTP_PROXY": "http://p:1", "http_proxy": "http://p:1"}


def test_another_engine_gets_the_classic_request(run: Run, server: FakeApi, tmp_path: Path) -> None:
    root = contexts.directory(tmp_path / "c", "FROM x")
    _serve(server, {"stream": "Step 1/1 : FROM x\n"}, {"aux": {"ID": _IMAGE}}, name="Docker Engine")
    iid = tmp_path / "iid"
    code, _, err = run("build", "--iidfile", str(iid), str(root))
    assert (code, err, iid.read_text()) == (0, "Step 1/1 : FROM x\n", _IMAGE)
    assert "version" not in _asked(server)[0]
    code, _, err = run("build", "--cache-to=type=inline", str(root))
    assert code == 1 and "no Dockyard: it has no cacheto" in err
    code, _, err = run("build", "--secret=id=x,src=/etc/hostname", str(root))
    assert code == 1 and "takes no secrets" in err


# -- what comes out ---------------------------------------------------------------------------------------------------


def test_files_that_name_the_result(run: Run, tmp_path: Path) -> None:
    root = contexts.directory(tmp_path / "c", "FROM x")
    iid, metadata = tmp_path / "iid", tmp_path / "metadata"
    assert run("build", "-q", "--iidfile", str(iid), "--metadata-file", str(metadata), str(root)) == (
        0,
        f"{_IMAGE}\n",
        "",
    )
    assert iid.read_text() == _IMAGE
    assert json.loads(metadata.read_text()) == {"containerimage.config.digest": _IMAGE, "image.name": "x:latest"}


def test_a_failure_shows_step_and_lines(run: Run, server: FakeApi, tmp_path: Path) -> None:
    root = contexts.directory(tmp_path / "c", "FROM x\nRUN false\n")
    vertex = {"digest": "v", "name": "[2/2] RUN false", "line": 2, "lastLine": 2, "error": "exit code: 1"}
    log = {"vertex": "v", "data": base64.b64encode(b"last words\n").decode()}
    trace = {"id": "dockyard.trace", "aux": {"vertexes": [vertex], "logs": [log]}}
    _serve(server, trace, {"error": "it failed", "errorDetail": {"code": 3, "message": "it failed"}})
    code, _, err = run("build", "--iidfile", str(tmp_path / "iid"), str(root))
    assert code == 3
    assert " > [2/2] RUN false:\nlast words\n------\nDockerfile:2\n" in err
    assert "   2 | >>> RUN false\n" in err and err.endswith("ERROR: failed to build: it failed\n")
    assert not (tmp_path / "iid").exists()
    code, _, err = run("build", "-q", str(root))
    assert code == 3 and "it failed" in err and "[internal]" not in err


def test_raw_json_is_the_trace(run: Run, server: FakeApi, tmp_path: Path) -> None:
    _serve(server, {"id": "dockyard.trace", "aux": {"vertexes": [{"digest": "v", "name": "n"}]}})
    _, _, err = run("build", "--progress=rawjson", str(contexts.directory(tmp_path / "c", "FROM x")))
    assert {"vertexes": [{"digest": "v", "name": "n"}]} in [json.loads(line) for line in err.splitlines()]


def test_check_reports_and_fails(run: Run, server: FakeApi, tmp_path: Path) -> None:
    root = contexts.directory(tmp_path / "c", "FROM x AS Y\n", {"big": "x"})
    assert run("build", "--check", str(root)) == (0, "Check complete, no warnings found.\n", "")
    query, body = _asked(server)
    assert query["call"] == "check" and _names(body) == ["Dockerfile"]
    warning = {"rule": "StageNameCasing", "text": "Stage name 'Y' should be lowercase", "line": 1, "lastLine": 1}
    _serve(server, {"id": "dockyard.trace", "aux": {"warnings": [warning]}})
    code, out, _ = run("build", "--check", str(root))
    assert code == 1
    assert out.startswith("WARNING: StageNameCasing\nStage name 'Y' should be lowercase\nDockerfile:1\n")
    assert out.endswith("Check complete, 1 warning has been found!\n")


def test_outputs_are_fetched(run: Run, server: FakeApi, tmp_path: Path) -> None:
    _serve(server, {"id": "dockyard.output", "aux": {"index": 0, "id": "o1"}})
    answer = server.answer
    data = contexts.tar("", {"d/f": "content"})
    head = f"HTTP/1.1 200 OK\r\nContent-Length: {len(data)}\r\n\r\n".encode()
    server.answer = lambda m, p, b: head + data if "/build/outputs/o1" in p else answer(m, p, b)
    root = contexts.directory(tmp_path / "c", "FROM x")
    assert run("build", "-o", str(tmp_path / "out"), str(root))[0] == 0
    assert (tmp_path / "out/d/f").read_text() == "content"
    assert json.loads(_asked(server)[0]["outputs"]) == [{"Type": "local", "Attrs": {}}]
    assert run("build", "-o", f"type=tar,dest={tmp_path / 'o.tar'}", str(root))[0] == 0
    assert (tmp_path / "o.tar").read_bytes() == data


def _tar(*members: tarfile.TarInfo) -> list[bytes]:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for member in members:
            archive.addfile(member, io.BytesIO(bytes(member.size)))
    return [out.getvalue()]


def _member(name: str, kind: bytes = tarfile.REGTYPE, link: str = "") -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.type, member.linkname = kind, link
    return member


@pytest.mark.parametrize(
    "members",
    [
        [_member("../x")],
        [_member("a/../../x")],
        [_member("l", tarfile.SYMTYPE, "/tmp"), _member("l/x")],
        [_member("l", tarfile.SYMTYPE, ".."), _member("l/x")],
        [_member("h", tarfile.LNKTYPE, "../secret")],
    ],
)
def test_s43_an_output_does_not_lead_out_of_its_directory(members: list[tarfile.TarInfo], tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("s")
    with pytest.raises((CliError, tarfile.TarError)):
        output.unpack(_tar(*members), str(tmp_path / "out"))
    assert sorted(os.listdir(tmp_path)) == ["out", "secret"]


def test_an_output_may_have_links_and_replaces_files(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "f").symlink_to("/etc/passwd")
    output.unpack(
        _tar(_member("/f"), _member("l", tarfile.SYMTYPE, "/abs"), _member("dev", tarfile.CHRTYPE)),
        str(tmp_path / "out"),
    )
    assert not (tmp_path / "out/f").is_symlink()
    assert os.readlink(tmp_path / "out/l") == "/abs"
    assert not (tmp_path / "out/dev").exists()


# -- watching ---------------------------------------------------------------------------------------------------------


def test_watching_sees_what_counts(tmp_path: Path) -> None:
    root = contexts.directory(
        tmp_path, "FROM x", {"a": "1", "x.log": "", "d/b": "", ".dockerignore": "*.log\nDockerfile\n"}
    )
    source = find(str(root), "")
    before = watch.look(source)
    assert sorted(before) == [".dockerignore", "Dockerfile", "a", "d/b"]
    (root / "x.log").write_text("ignored")
    assert watch.changed(before, watch.look(source)) == []
    (root / "a").write_text("22")
    (root / "d/b").unlink()
    (root / "new").write_text("")
    assert watch.changed(before, watch.look(source)) == ["a", "d/b", "new"]


def test_waiting_ends_when_changes_have_ended(tmp_path: Path) -> None:
    root = contexts.directory(tmp_path, "FROM x", {"a": "1"})
    source = find(str(root), "")
    steps: Iterator[Callable[[], object]] = iter([
        lambda: (root / "a").write_text("22"), lambda: (root / "b").write_text(""), lambda: None,
    ])  # fmt: skip
    assert watch.wait([source], [watch.look(source)], lambda _: next(steps)()) == ["a", "b"]
