"""COPY and ADD: where files go, who owns them, what never leaves the context (S40 to S45)."""

from __future__ import annotations

import gzip
import hashlib
import http.server
import io
import os
import socket
import subprocess
import tarfile
import threading
import time
from collections.abc import Iterator
from contextlib import aclosing
from pathlib import Path

import pytest

from dockyard.engine import Engine
from dockyard.engine.builds import BuildFailed, BuildRequest
from dockyard.model.build import BuildOptions, BuildResult, NamedContext, VertexLog
from dockyard.model.errors import DockyardError, InvalidArgument
from tests.support.builds import File, build, chunks, context, files_of
from tests.support.engineground import IMAGE, Ground, fresh_ground, with_engine

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
FROM = f"FROM {IMAGE}\n"


@pytest.fixture
def ground() -> Iterator[Ground]:
    with fresh_ground() as ground:
        yield ground
        assert os.listdir(ground.data / "builds" / "contexts") == []


TREE = {
    "a.txt": b"a",
    "b.txt": b"b",
    "c.md": b"c",
    "dir/x.txt": b"x",
    "dir/sub/y.txt": File(b"y", 0o755),
    "dir/sub/z.md": b"z",
    "link": File(link="a.txt"),
    "dirlink": File(link="dir"),
    "empty": File(mode=0o700, kind=tarfile.DIRTYPE),
}

CASES = [
    # instruction, what is at /to afterwards (paths below it, or None: it is a file with this content)
    ("COPY a.txt /to", "a"),
    ("COPY a.txt /to/", {"a.txt": "a"}),
    ("COPY a.txt /to/new/name", {"new/name": "a"}),
    ("COPY *.txt /to/", {"a.txt": "a", "b.txt": "b"}),
    ("COPY [ab].txt c.md /to/", {"a.txt": "a", "b.txt": "b", "c.md": "c"}),
    ("COPY ?.md /to/", {"c.md": "c"}),
    ("COPY nothing*.xyz a.txt /to/", {"a.txt": "a"}),
    ("COPY dir /to", {"x.txt": "x", "sub/y.txt": "y", "sub/z.md": "z"}),
    ("COPY dir/ /to/", {"x.txt": "x", "sub/y.txt": "y", "sub/z.md": "z"}),
    ("COPY d*r /to/", {"x.txt": "x", "sub/y.txt": "y", "sub/z.md": "z"}),
    ("COPY dir/*/*.md /to/", {"z.md": "z"}),
    ("COPY dirlink/x.txt /to/", {"x.txt": "x"}),
    ("COPY link /to", "a"),
    ("COPY dirlink /to", {"x.txt": "x", "sub/y.txt": "y", "sub/z.md": "z"}),
    ("COPY --exclude=*.md --exclude=sub/y* dir /to/", {"x.txt": "x", "sub/z.md": "z"}),
    ("COPY --exclude=**/*.md dir /to/", {"x.txt": "x", "sub/y.txt": "y"}),
    ("COPY --parents dir/sub/y.txt /to/", {"dir/sub/y.txt": "y"}),
    ("COPY --parents ./dir/./sub/*.md /to/", {"sub/z.md": "z"}),
    ("COPY --parents **/*.md /to/", {"c.md": "c", "dir/sub/z.md": "z"}),
    ("COPY --link a.txt /to/", {"a.txt": "a"}),
    ('COPY ["a.txt", "/to/with space"]', {"with space": "a"}),
    ("COPY <<one <<two /to/\nfirst $HOME\none\nsecond\ntwo\n", {"one": "first", "two": "second"}),
    ('COPY <<"one" /to/file\nas $HOME\none\n', {"file": "as $HOME"}),
    ("ADD a.txt dir/x.txt /to/", {"a.txt": "a", "x.txt": "x"}),
]


def test_where_files_go(ground: Ground) -> None:
    async def body(engine: Engine) -> None:
        for instruction, expected in CASES:
            told = await build(engine, f"{FROM}{instruction}\n", TREE)
            found = files_of(engine, told.image, "to")
            contents = {
                path.removeprefix("to").lstrip("/"): text.split(" ", 2)[2]
                for path, text in found.items()
                if not path.endswith("/") and not text.startswith("->")
            }
            wanted = {"": expected} if isinstance(expected, str) else expected
            assert contents == wanted, instruction

    with_engine(ground, body)


def test_owners_and_modes(ground: Ground) -> None:
    async def body(engine: Engine) -> None:
        told = await build(
            engine,
            FROM
            + "COPY --chown=dock:staff a.txt /1\nCOPY --chown=33 a.txt /2\nCOPY --chown=7:8 dir /3/in\n"
            + "COPY --chmod=u=rw,go=r dir/sub/y.txt /4\nCOPY --chmod=4711 a.txt /5\nCOPY empty /6/\n"
            + "RUN chown -R 9:9 /3/in/sub\nFROM "
            + IMAGE
            + "\nCOPY --from=0 / /all/\nCOPY --from=0 --chown=root:root /3 /own\n",
            TREE,
        )
        found = files_of(engine, told.image, "all")
        assert found["all/1"] == "0644 1000:50 a" and found["all/2"] == "0644 33:33 a"
        assert found["all/3/"] == "0755 7:8" and found["all/3/in/x.txt"] == "0644 7:8 x"
        assert found["all/4"] == "0644 0:0 y" and found["all/5"] == "4711 0:0 a" and found["all/6/"] == "0755 0:0"
        assert found["all/3/in/sub/"] == "0755 9:9"
        assert files_of(engine, told.image, "own")["own/in/sub/"] == "0755 0:0"
        with pytest.raises(DockyardError, match="unable to find user nobody-here"):
            await build(engine, FROM + "COPY --chown=nobody-here a.txt /\n", TREE)

    with_engine(ground, body)


def test_what_is_there_already(ground: Ground) -> None:
    base = (
        FROM + "RUN mkdir -m 750 /have && chown 5:6 /have && echo old > /have/x.txt && echo mine > /have/mine && \\\n"
    )
    base += "ln -s /have /alias && ln -s ../../../have/deep /dangling && mkdir -m 700 /have/sub && \\\n"
    base += "ln -s /etc/passwd /have/l\n"

    async def body(engine: Engine) -> None:
        told = await build(engine, base + "COPY dir /alias/\nCOPY a.txt /dangling/file\nCOPY b.txt /have/l\n", TREE)
        found = files_of(engine, told.image, "have")
        assert (
            found["have/"] == "0750 5:6" and found["have/mine"] == "0644 0:0 mine" and found["have/x.txt"].endswith("x")
        )
        assert found["have/sub/"] == "0755 0:0" and found["have/deep/file"] == "0644 0:0 a"
        assert files_of(engine, told.image, "etc/passwd")["etc/passwd"] == "0644 0:0 b"  # of the image, not the host
        assert files_of(engine, told.image, "alias") == {"alias": "-> /have"}
        with pytest.raises(DockyardError, match="non-directory"):
            await build(engine, base + "COPY dir /have/mine\n", TREE)
        with pytest.raises(DockyardError, match="directory"):
            await build(engine, base + "RUN mkdir -p /t/x.txt\nCOPY dir /t\n", TREE)

    with_engine(ground, body)


def test_add_unpacks_archives(ground: Ground) -> None:
    inner = context({"in/one": b"1", "in/two": File(link="one"), "top": File(b"t", 0o750, uid=42)})

    async def body(engine: Engine) -> None:
        files: dict[str, bytes | str | File] = {
            "x.tar": inner,
            "x.tgz": gzip.compress(inner, mtime=0),
            "no.tar": b"no archive",
        }
        told = await build(
            engine, FROM + "ADD x.tar /1\nADD x.tgz no.tar /2/\nCOPY x.tar /3\nADD --chown=7:7 x.tar /4\n", files
        )
        one = files_of(engine, told.image, "1")
        assert one["1/in/one"] == "0644 0:0 1" and one["1/in/two"] == "-> one" and one["1/top"] == "0750 42:0 t"
        two = files_of(engine, told.image, "2")
        assert two["2/no.tar"].endswith("no archive") and two["2/top"] == "0750 42:0 t"
        assert "3" in files_of(engine, told.image, "3")
        assert files_of(engine, told.image, "4")["4/top"] == "0750 7:7 t"

    with_engine(ground, body)


def test_contents_of_other_stages_are_compared(ground: Ground) -> None:
    def dockerfile(salt: str) -> str:
        made = f"FROM {IMAGE} AS made\nRUN echo {salt} > /salt; echo same > /out\n"
        return f"{made}{FROM}COPY --from=made /out /out\nRUN cat /out\n"

    async def body(engine: Engine) -> None:
        await build(engine, dockerfile("1"))
        told = await build(engine, dockerfile("2"))
        assert len(told.cached()) == 2 and len(told.carried_out()) == 1  # only what made it has run again

    with_engine(ground, body)


def test_named_contexts(ground: Ground) -> None:
    async def body(engine: Engine) -> None:
        received = await engine.builds.receive(chunks(context({"one": b"named"})))
        told = await build(
            engine,
            FROM + "COPY --from=other one /one\nRUN --mount=from=other,target=/o cat /o/one\n",
            contexts={"other": NamedContext("directory")},
            request={"contexts": {"other": received}},
        )
        assert files_of(engine, told.image, "one")["one"].endswith("named") and "named" in told.log
        with pytest.raises(DockyardError, match="no such build context"):
            await build(engine, FROM, request={"contexts": {"other": received}})

    with_engine(ground, body)


# --- hostile ----------------------------------------------------------------------------------------------------------


def test_links_and_dots_stay_in_the_context(ground: Ground, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("host")
    files: dict[str, bytes | str | File] = {
        "absolute": File(link=str(secret)),
        "up": File(link="../" * 30 + str(secret)),
        "upward": File(link="../../../../../../../.."),
        "etc": File(link="/etc"),
    }

    async def body(engine: Engine) -> None:
        for source in ("absolute", "up", f"upward{secret}", f"../../../..{secret}", "etc/passwd", f"/../..{secret}"):
            with pytest.raises(BuildFailed, match="file not found in build context"):
                await build(engine, FROM + f"COPY {source} /x\n", files)
        told = await build(engine, FROM + "COPY . /x\n", files)  # links among the files are copied as they are
        assert files_of(engine, told.image, "x")["x/etc"] == "-> /etc"
        with pytest.raises(InvalidArgument, match="outside"):
            await build(engine, FROM, {"../../escape": b"x"})
        with pytest.raises(InvalidArgument, match="device"):
            await build(engine, FROM, {"sda": File(kind=tarfile.BLKTYPE)})
        told = await build(
            engine,
            FROM + "RUN ln -s / /root-link && ln -s ../../../../.. /dots\nCOPY a /dots/root-link/a\n",
            {"a": b"1"},
        )
        assert files_of(engine, told.image, "a")["a"].endswith("1")

    with_engine(ground, body)
    assert secret.read_text() == "host" and not (tmp_path / "x").exists()


def test_s40_mounts_lead_nowhere_else(ground: Ground, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("host-file")
    race = f"for n in $(seq 400); do rm -rf /c/s; ln -s {tmp_path} /c/s; rm -f /c/s; mkdir /c/s; done"

    async def body(engine: Engine) -> None:
        made = f"FROM {IMAGE} AS made\nRUN ln -s {tmp_path} /out && ln -s {'../' * 20}{secret} /up\n"
        for mount in ("from=made,source=/out,target=/m", "from=made,source=/up,target=/m"):
            with pytest.raises(DockyardError, match="not found"):
                await build(engine, f"{made}{FROM}RUN --mount={mount} cat /m /m/secret\n")
        target = f"{FROM}RUN ln -s {tmp_path} /trap\nRUN --mount=type=tmpfs,target=/trap/deep touch /trap/deep/x\n"
        await build(engine, target)  # where the link leads to is made inside
        assert sorted(path.name for path in tmp_path.iterdir()) == ["secret"]
        cache = "--mount=type=cache,id=c,target=/c"
        await build(engine, f"{FROM}RUN {cache} ln -s {tmp_path} /c/link && ln -s / /c/root\n")
        for source in ("link", "root"):
            with pytest.raises(DockyardError):
                await build(engine, f"{FROM}RUN --mount=type=cache,id=c,source={source},target=/m cat /m/secret\n")
        racing = f"FROM {IMAGE} AS racer\nRUN {cache} {race}\n"
        readers = "".join(
            f"FROM {IMAGE} AS r{n}\nRUN --mount=type=cache,id=c,source=s,target=/m cat /m/secret; true {n}\n"
            for n in range(4)
        )
        last = (
            FROM
            + "COPY --from=racer /etc/passwd /p\n"
            + "".join(f"COPY --from=r{n} /etc/passwd /p{n}\n" for n in range(4))
        )
        for _ in range(2):
            try:
                told = await build(engine, racing + readers + last, no_cache=True)
            except DockyardError as error:
                assert "host-file" not in str(error)
            else:
                assert "host-file" not in told.log

    with_engine(ground, body)


def test_s43_s45_what_a_request_names_stays_where_it_belongs(ground: Ground, tmp_path: Path) -> None:
    (tmp_path / "Dockerfile").write_text(FROM + "RUN echo from-the-host\n")

    async def body(engine: Engine) -> None:
        for name in (
            f"{tmp_path}/Dockerfile",
            f"../../../../..{tmp_path}/Dockerfile",
            "link",
            "missing",
            "\0",
            "a" * 5000,
        ):
            with pytest.raises(DockyardError):
                told = await build(engine, FROM, {"link": File(link=f"{tmp_path}/Dockerfile")}, dockerfile=name)
                assert "from-the-host" not in told.log
        for identity in ("../../../etc", "/etc", "..", "x/../../y", "nothing"):
            with pytest.raises(DockyardError):
                await build(engine, FROM, request={"context_id": identity})
        cache = f"--mount=type=cache,id=../../../../..{tmp_path}/planted,target=/c"
        await build(engine, f"{FROM}RUN {cache} touch /c/x\n")
        assert not (tmp_path / "planted").exists()
        for body_ in (b"", b"\0" * 10240, b"garbage" * 1000, gzip.compress(b"x"), context({"a": b"1"})[:700]):
            with pytest.raises(DockyardError):
                await engine_build(engine, body_)
        assert await build(engine, FROM + "RUN true\n")  # the builder is none the worse

    with_engine(ground, body)


async def engine_build(engine: Engine, body: bytes) -> None:
    async for _ in engine.builds.build(BuildRequest(BuildOptions()), chunks(body)):
        pass


# --- from elsewhere ---------------------------------------------------------------------------------------------------


class _Web(http.server.BaseHTTPRequestHandler):
    asked: list[tuple[str, str]] = []
    content = b"from the web"

    def do_GET(self) -> None:
        _Web.asked.append((self.path, self.headers.get("If-None-Match", "")))
        if self.path == "/moved":
            self._head(302, {"Location": "/file"})
        elif self.path == "/loop":
            self._head(302, {"Location": "/loop"})
        elif self.path == "/etag":
            if self.headers.get("If-None-Match") == '"1"':
                self._head(304, {})
                return
            self._send({"ETag": '"1"'})
        elif self.path.startswith(("/file", "/a.tar")):
            self._send({"Last-Modified": "Tue, 14 Nov 2023 22:13:20 GMT"})
        elif self.path == "/huge":
            self._head(200, {"Content-Length": str(1 << 60)})
        else:
            self._head(404, {})

    def _head(self, status: int, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": "0", **headers}.items():
            self.send_header(name, value)
        self.end_headers()

    def _send(self, headers: dict[str, str]) -> None:
        self._head(200, {**headers, "Content-Length": str(len(self.content))})
        self.wfile.write(self.content)

    def log_message(self, format: str, *arguments: object) -> None:
        pass


@pytest.fixture
def web() -> Iterator[str]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Web)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()
    thread.join()


def test_add_of_urls(ground: Ground, web: str) -> None:
    digest = "sha256:" + hashlib.sha256(_Web.content).hexdigest()

    async def body(engine: Engine) -> None:
        _Web.asked.clear()
        dockerfile = (
            f"{FROM}ADD {web}/file /one/\nADD --chmod=644 --chown=7 {web}/moved /two\nADD {web}/etag /three/name\n"
        )
        told = await build(engine, dockerfile)
        assert files_of(engine, told.image, "one")["one/file"] == "0600 0:0 from the web"
        assert files_of(engine, told.image, "two")["two"] == "0644 7:7 from the web"
        again = await build(engine, dockerfile)
        assert again.image == told.image and ("/etag", '"1"') in _Web.asked
        before = len(_Web.asked)
        await build(engine, f"{FROM}ADD --checksum={digest} {web}/file /one/\n")
        assert len(_Web.asked) == before  # it is known what it is
        wrong = "sha256:" + "0" * 64
        for line, message in (
            (f"ADD --checksum={wrong} {web}/file /x", "digest mismatch"),
            (f"ADD {web}/missing /x", "404"),
            (f"ADD {web}/loop /x", "redirects"),
            (f"ADD {web}/huge /x", "room"),
            ("ADD http://127.0.0.1:1/x /x", "127.0.0.1:1"),
        ):
            with pytest.raises(DockyardError, match=message):
                await build(engine, f"{FROM}{line}\n")

    with_engine(ground, body)


def test_remote_contexts(ground: Ground, web: str) -> None:
    async def body(engine: Engine) -> None:
        _Web.content = context(
            {"Dockerfile": FROM + "COPY . /all\n", "one": b"1", "not": b"2", ".dockerignore": b"not\n"}
        )
        try:
            request = BuildRequest(BuildOptions(), remote=f"{web}/a.tar")
            async with aclosing(engine.builds.build(request)) as events:
                last = [event async for event in events][-1]
            assert isinstance(last, BuildResult)
            assert {"all/one", "all/Dockerfile"} <= set(files_of(engine, last.image_id, "all"))
            assert "all/not" not in files_of(engine, last.image_id, "all")
        finally:
            _Web.content = b"from the web"

    with_engine(ground, body)


@pytest.fixture
def repository(tmp_path: Path) -> Iterator[str]:
    """A git repository with a branch, a tag, a link and a submodule that names a local path, served by git-daemon."""
    work = tmp_path / "serve" / "repo"
    work.mkdir(parents=True)
    environment = {
        "PATH": os.environ["PATH"], "HOME": str(tmp_path), "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_AUTHOR_NAME": "t", "GIT_AUTHOR_EMAIL": "t@t", "GIT_COMMITTER_NAME": "t", "GIT_COMMITTER_EMAIL": "t@t",
    }  # fmt: skip

    def git(*arguments: str) -> None:
        subprocess.run(["git", *arguments], cwd=work, env=environment, check=True, capture_output=True)

    git("init", "-q", "-b", "main")
    (work / "Dockerfile").write_text(FROM + "COPY . /src\n")
    (work / "sub").mkdir()
    (work / "sub" / "file").write_text("in sub")
    (work / "sub" / "Dockerfile").write_text(FROM + "COPY file /f\n")
    os.symlink("/etc", work / "escape")
    os.symlink("sub", work / "alias")
    git("add", ".")
    git("commit", "-qm", "one")
    git("tag", "v1")
    git("checkout", "-qb", "other")
    (work / "sub" / "file").write_text("on other")
    git("commit", "-qam", "two")
    git("checkout", "-q", "main")
    port = _free_port()
    daemon = subprocess.Popen(
        ["git", "daemon", "--export-all", f"--base-path={work.parent}", f"--port={port}", "--listen=127.0.0.1",
         "--reuseaddr", str(work.parent)], env=environment, stderr=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip
    _until_listening(port)
    yield f"git://127.0.0.1:{port}/repo"
    os.killpg(daemon.pid, 15)
    daemon.wait()


def _free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def _until_listening(port: int) -> None:
    for _ in range(200):
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return
        except OSError:
            time.sleep(0.02)
    raise AssertionError("git daemon does not listen")


def test_s44_git_contexts_stay_in_the_checkout(ground: Ground, repository: str) -> None:
    async def remote(engine: Engine, url: str) -> str:
        async with aclosing(engine.builds.build(BuildRequest(BuildOptions(), remote=url))) as events:
            last = [event async for event in events][-1]
        assert isinstance(last, BuildResult)
        return last.image_id

    async def body(engine: Engine) -> None:
        image = await remote(engine, f"{repository}")
        found = files_of(engine, image, "src")
        assert found["src/sub/file"].endswith("in sub") and found["src/escape"] == "-> /etc"
        assert not [path for path in found if ".git" in path]
        assert files_of(engine, await remote(engine, f"{repository}#other:sub"), "f")["f"].endswith("on other")
        assert files_of(engine, await remote(engine, f"{repository}#v1:alias"), "f")["f"].endswith("in sub")
        for bad in (
            f"{repository}#main:escape", f"{repository}#main:/etc", f"{repository}#nosuch",
            f"{repository}#--upload-pack=touch${{IFS}}x", "git://--upload-pack=x/repo", "file:///etc",
        ):  # fmt: skip
            with pytest.raises(DockyardError):
                await remote(engine, bad)
        told = await build(
            engine, f"{FROM}ADD --keep-git-dir=true {repository}#main /git\nADD {repository}#main:sub /s/\n"
        )
        assert "git/.git/HEAD" in files_of(engine, told.image, "git")
        assert files_of(engine, told.image, "s")["s/file"].endswith("in sub")

    with_engine(ground, body)


def test_a_context_of_many_files(ground: Ground) -> None:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for number in range(3000):
            entry = tarfile.TarInfo(f"many/{number % 50}/{number}")
            entry.size = 500
            tar.addfile(entry, io.BytesIO(b"%0500d" % number))
        text = (FROM + "COPY many /many\nRUN find /many -type f | wc -l\n").encode()
        entry = tarfile.TarInfo("Dockerfile")
        entry.size = len(text)
        tar.addfile(entry, io.BytesIO(text))

    async def body(engine: Engine) -> None:
        async with aclosing(engine.builds.build(BuildRequest(BuildOptions()), chunks(out.getvalue()))) as events:
            logs = [event.data async for event in events if isinstance(event, VertexLog)]
        assert b"".join(logs) == b"3000\n"

    with_engine(ground, body)
