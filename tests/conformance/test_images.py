"""Images: import, load, save, list, tag, remove, history, inspect; archives that are broken or hostile."""

from __future__ import annotations

import gzip
import io
import json
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import docker
import pytest

from tests.support import busybox, leaks, schema, steps
from tests.support.engines import Engine
from tests.support.rawhttp import Connection, Response


@pytest.fixture(autouse=True)
def only_bb(engine: Engine) -> Iterator[None]:
    """After each test the image `bb` is the only one, and still there."""
    yield
    engine.remove_containers()
    with engine.api() as api:
        for row in api.get("/images/json", all=True).json():
            for name in row["RepoTags"] or []:
                if name not in ("bb:latest", "<none>:<none>"):
                    api.delete(f"/images/{name}", force=True)
        api.post("/images/prune", None, filters={"dangling": ["true"]})
        assert api.get("/images/bb/json").status == 200
        assert [row["RepoTags"] for row in api.get("/images/json").json()] == [["bb:latest"]]


@pytest.fixture(scope="module")
def layers() -> list[bytes]:
    """A base and two small layers on it; the last one removes a file of the one before."""
    return [
        busybox.rootfs_tar(),
        busybox.layer_tar({"data/one": b"1", "data/two": b"2"}),
        busybox.layer_tar({"data/.wh.one": b"", "data/three": b"3"}),
    ]


def imported(api: Connection, data: bytes, **query: Any) -> Response:
    return api.request("POST", "/images/create", query={"fromSrc": "-", **query}, raw=data)


def loaded(api: Connection, data: bytes) -> Response:
    return api.request("POST", "/images/load", raw=data, headers={"Content-Type": "application/x-tar"})


def listed(api: Connection, **query: Any) -> list[str]:
    return sorted(name for row in api.get("/images/json", **query).json() for name in row["RepoTags"] or ["<none>"])


# -- import ---------------------------------------------------------------------------------------------------------


def test_import(engine: Engine, api: Connection) -> None:
    answer = steps.expect(imported(api, busybox.rootfs_tar(), repo="made", tag="1"), 200)
    identifier = answer.lines()[-1]["status"]
    assert identifier.startswith("sha256:")
    image = api.get("/images/made:1/json").json()
    assert (image["Id"], image["RepoTags"], image["Os"]) == (identifier, ["made:1"], "linux")
    assert len(image["RootFS"]["Layers"]) == 1
    assert steps.sh(api, "cat /www/index.html", Image="made:1").encode() == busybox.PAGE


def answers(engine: Engine, port: int) -> bool:
    try:
        engine.connect(port).close()
    except OSError:
        return False
    return True


def test_import_from_a_web_address(engine: Engine, tmp_path: Path) -> None:
    (tmp_path / "root.tar").write_bytes(busybox.rootfs_tar())
    argv = [sys.executable, "-m", "http.server", "--bind", "127.0.0.1", "8098", "--directory", str(tmp_path)]
    prefix = ["nsenter", f"--net={engine.netns_path}"] if engine.netns_path else []
    server = subprocess.Popen([*prefix, *argv], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        steps.eventually(lambda: answers(engine, 8098))
        address = "127.0.0.1:8098/root.tar"
        printed = engine.out("import", f"http://{address}", "made:web")
        assert printed.split()[-1].startswith("sha256:")
        assert engine.out("history", "--format", "{{.Comment}}", "made:web") == f"Imported from http://{address}"
        gone = engine.docker("import", f"http://{address}.gone", "made:gone", check=False)
        assert gone.returncode != 0 and b"404" in gone.stderr
    finally:
        server.kill()
        server.wait()
    down = engine.docker("import", f"http://{address}", "made:gone", check=False)
    assert down.returncode != 0 and b"dial tcp" in down.stderr
    assert engine.docker("image", "inspect", "made:gone", check=False).returncode != 0


@pytest.mark.parametrize("pack", [gzip.compress, bytes], ids=["gzip", "plain"])
def test_import_by_the_cli(engine: Engine, pack: Any) -> None:
    changes = [
        "-c",
        'CMD ["echo","from cmd"]',
        "-c",
        "ENV A=1",
        "-c",
        "WORKDIR /tmp",
        "-c",
        "EXPOSE 80",
        "-c",
        "LABEL x=y",
    ]
    engine.docker("import", "-m", "words", *changes, "-", "made:2", input=pack(busybox.rootfs_tar()))
    assert engine.out("run", "--rm", "made:2") == "from cmd"
    config = json.loads(engine.out("inspect", "made:2"))[0]["Config"]
    assert "A=1" in config["Env"] and config["WorkingDir"] == "/tmp"
    assert config["ExposedPorts"] == {"80/tcp": {}} and config["Labels"] == {"x": "y"}
    assert engine.out("history", "--format", "{{.Comment}}", "made:2") == "words"


def test_import_a_bad_change(engine: Engine, api: Connection) -> None:
    answer = imported(api, busybox.layer_tar({"x": b""}), repo="made", changes="RUN true")
    assert answer.status == 400 and "run is not a valid change command" in answer.message.lower()
    answer = imported(api, busybox.layer_tar({"x": b""}), repo="made", changes="STOPSIGNAL nope")
    assert answer.status == 400 and "signal" in answer.message.lower()
    assert api.get("/images/made/json").status == 404


# -- load and save --------------------------------------------------------------------------------------------------


def test_load_layers_and_whiteouts(engine: Engine, api: Connection, layers: list[bytes]) -> None:
    steps.expect(loaded(api, busybox.docker_archive(["stack:1", "stack:2"], layers, {"Cmd": ["ls", "/data"]})), 200)
    assert engine.out("run", "--rm", "stack:2").split() == ["three", "two"]
    image = api.get("/images/stack:1/json").json()
    assert image["RootFS"]["Layers"] == [f"sha256:{busybox.sha256(layer)}" for layer in layers]
    assert image["Id"] == f"sha256:{busybox.sha256(busybox.image_config(layers, {'Cmd': ['ls', '/data']}))}"
    assert sorted(image["RepoTags"]) == ["stack:1", "stack:2"]


def test_load_says_what_it_loaded(engine: Engine, layers: list[bytes]) -> None:
    done = engine.docker("load", input=gzip.compress(busybox.docker_archive(["stack:1"], layers, {}), 1))
    assert done.stdout == b"Loaded image: stack:1\n"


@pytest.mark.dockyardd_only("20.10 reads docker archives only")
@pytest.mark.parametrize("compress", [True, False], ids=["gzip", "plain"])
def test_load_an_oci_layout(engine: Engine, layers: list[bytes], compress: bool) -> None:
    done = engine.docker("load", input=busybox.oci_archive("oci:9", layers, {"Cmd": ["ls", "/data"]}, compress))
    assert b"oci:9" in done.stdout
    assert engine.out("run", "--rm", "oci:9").split() == ["three", "two"]


def test_save_and_load_keep_the_image(engine: Engine, api: Connection, layers: list[bytes]) -> None:
    engine.docker("load", input=busybox.docker_archive(["stack:1"], layers, {"Cmd": ["sh"], "Labels": {"a": "b"}}))
    engine.docker("tag", "stack:1", "stack:again")
    before = api.get("/images/stack:1/json").json()
    saved = engine.docker("save", "stack:1", "stack:again").stdout
    with tarfile.open(fileobj=io.BytesIO(saved)) as tar:
        names = tar.getnames()
        manifest = json.loads(tar.extractfile("manifest.json").read())  # type: ignore[union-attr]
    assert sorted(manifest[0]["RepoTags"]) == ["stack:1", "stack:again"]
    assert manifest[0]["Config"] in names and all(layer in names for layer in manifest[0]["Layers"])
    engine.docker("rmi", "stack:1", "stack:again")
    assert api.get(f"/images/{before['Id']}/json").status == 404
    engine.docker("load", input=saved)
    after = api.get("/images/stack:1/json").json()
    assert (after["Id"], after["RootFS"], after["Config"]) == (before["Id"], before["RootFS"], before["Config"])


@pytest.mark.dockyardd_only("20.10 saves no OCI layout")
def test_saved_archives_are_also_oci_layouts(engine: Engine) -> None:
    saved = engine.docker("save", "bb").stdout
    with tarfile.open(fileobj=io.BytesIO(saved)) as tar:
        index = json.loads(tar.extractfile("index.json").read())  # type: ignore[union-attr]
        digest = index["manifests"][0]["digest"]
        blob = tar.extractfile(f"blobs/sha256/{digest.removeprefix('sha256:')}")
        assert blob is not None and busybox.sha256(blob.read()) == digest.removeprefix("sha256:")


def test_save_by_id_has_no_names(engine: Engine, api: Connection) -> None:
    identifier = api.get("/images/bb/json").json()["Id"]
    with tarfile.open(fileobj=io.BytesIO(api.get(f"/images/{identifier}/get").body)) as tar:
        manifest = json.loads(tar.extractfile("manifest.json").read())  # type: ignore[union-attr]
    assert not manifest[0]["RepoTags"]


def test_save_of_nothing(engine: Engine, api: Connection) -> None:
    answer = api.get("/images/nothing/get")
    assert answer.status in (404, 500 if engine.name == "dockerd" else 404)
    assert "nothing" in answer.message


# -- names ----------------------------------------------------------------------------------------------------------


def test_tag_and_remove(engine: Engine, api: Connection) -> None:
    identifier = api.get("/images/bb/json").json()["Id"]
    assert api.post("/images/bb/tag", None, repo="one/two", tag="x").status == 201
    assert api.post("/images/bb/tag", None, repo="registry.example:5000/deep/name").status == 201
    assert listed(api) == ["bb:latest", "one/two:x", "registry.example:5000/deep/name:latest"]
    assert api.get(f"/images/{identifier[7:19]}/json").json()["Id"] == identifier
    assert api.delete("/images/one/two:x").json() == [{"Untagged": "one/two:x"}]
    answer = steps.expect(api.delete(f"/images/{identifier}"), 409)
    assert "must be forced" in answer.message
    assert engine.out("rmi", "registry.example:5000/deep/name").startswith("Untagged:")


@pytest.mark.parametrize("name", ["UPPER", "a//b", "-x", "x" * 256])
def test_invalid_references(engine: Engine, api: Connection, name: str) -> None:
    answer = steps.expect(api.post("/images/bb/tag", None, repo=name), bad_request(engine))
    assert "invalid reference format" in answer.message or "repository name must" in answer.message


def bad_request(engine: Engine) -> int:
    """20.10 says 500 here, newer ones 400."""
    return 500 if engine.name == "dockerd" else 400


def test_tag_errors(engine: Engine, api: Connection) -> None:
    assert api.post("/images/bb/tag", None, repo="ok", tag="not valid").status == bad_request(engine)
    assert api.post("/images/nothing/tag", None, repo="ok").message == "No such image: nothing:latest"
    assert api.post("/images/bb/tag", None, repo="a" * 64).status == bad_request(engine)


def test_moving_a_tag(engine: Engine, api: Connection, layers: list[bytes]) -> None:
    engine.docker("load", input=busybox.docker_archive(["mv:1"], layers[:2], {}))
    engine.docker("tag", "bb", "mv:1")
    assert api.get("/images/mv:1/json").json()["Id"] == api.get("/images/bb/json").json()["Id"]
    dangling = api.get("/images/json", filters={"dangling": ["true"]}).json()
    assert len(dangling) == 1 and dangling[0]["RepoTags"] in ([], ["<none>:<none>"])


def test_remove_deletes_with_the_last_name(engine: Engine, api: Connection, layers: list[bytes]) -> None:
    engine.docker("load", input=busybox.docker_archive(["gone:1"], layers[1:], {}))
    answer = steps.expect(api.delete("/images/gone:1"), 200).json()
    assert answer[0] == {"Untagged": "gone:1"}
    assert [next(iter(row)) for row in answer[1:]].count("Deleted") >= 1
    assert "No such image: gone:1" in api.get("/images/gone:1/json").message


@pytest.mark.dockyardd_only("20.10 knows no platforms here and removes the image")
def test_one_platform_is_not_removed_by_removing_all(engine: Engine, api: Connection) -> None:
    answer = api.delete("/images/bb", platforms='{"os":"linux","architecture":"arm64"}')
    assert answer.status == 501 and "single platforms" in answer.json()["message"]
    assert api.get("/images/bb/json").status == 200


def test_remove_an_image_in_use(engine: Engine, api: Connection, layers: list[bytes]) -> None:
    engine.docker("load", input=busybox.docker_archive(["used:1"], layers, {"Cmd": ["sleep", "1000"]}))
    stopped = steps.create(api, Image="used:1")
    answer = steps.expect(api.delete("/images/used:1"), 409)
    assert "conflict: unable to remove repository reference" in answer.message and stopped[:12] in answer.message
    steps.start(api, stopped)
    identifier = api.get("/images/used:1/json").json()["Id"]
    answer = steps.expect(api.delete(f"/images/{identifier}", force=True), 409)
    assert "cannot be forced" in answer.message and stopped[:12] in answer.message
    steps.remove(api, stopped)
    assert api.delete("/images/used:1").status == 200


def test_a_container_survives_the_loss_of_its_images_name(engine: Engine, api: Connection, layers: list[bytes]) -> None:
    engine.docker("load", input=busybox.docker_archive(["lost:1"], layers, {"Cmd": ["sleep", "1000"]}))
    identifier = steps.started(api, Image="lost:1")
    steps.expect(api.delete("/images/lost:1", force=True), 200)
    assert steps.exec_sh(api, identifier, "cat /data/three")[1] == "3"
    row = api.get("/containers/json").json()[0]
    assert row["Image"].startswith(row["ImageID"][:7]) or row["Image"] == "lost:1"


# -- looking --------------------------------------------------------------------------------------------------------


def test_list_filters(engine: Engine, api: Connection, layers: list[bytes]) -> None:
    engine.docker("load", input=busybox.docker_archive(["f/a:1", "f/b:1"], layers, {"Labels": {"kind": "test"}}))
    assert listed(api, filters={"reference": ["f/*"]}) == ["f/a:1", "f/b:1"]
    assert listed(api, filters={"reference": ["f/a"]}) == ["f/a:1"]
    assert listed(api, filters={"label": ["kind"]}) == ["f/a:1", "f/b:1"]
    assert listed(api, filters={"label": ["kind=other"]}) == []
    assert listed(api, filters={"dangling": ["true"]}) == []
    assert engine.out("images", "-q", "f/a") != ""
    assert engine.out("images", "--format", "{{.Repository}}:{{.Tag}}", "f/b") == "f/b:1"
    assert api.get("/images/json", filters={"nonsense": ["1"]}).status == 400


def test_inspect(engine: Engine, api: Connection) -> None:
    image = steps.expect(api.get("/images/bb/json"), 200).json()
    assert (image["Architecture"], image["Os"], image["Config"]["Cmd"]) == ("amd64", "linux", ["sh"])
    assert image["Config"]["Env"] == busybox.DEFAULT_ENV
    assert image["Created"] == "2024-05-06T07:08:09.123456789Z"
    assert image["Size"] > 1_000_000
    answer = steps.expect(api.get("/images/nothing/json"), 404)
    assert "No such image: nothing" in answer.message


@pytest.mark.dockyardd_only("20.10 has older fields")
def test_answers_follow_the_specification(engine: Engine, api: Connection) -> None:
    for operation, path in (
        ("GET /images/{name}/json", "/images/bb/json"),
        ("GET /images/json", "/images/json"),
        ("GET /images/{name}/history", "/images/bb/history"),
    ):
        value = api.get(path).json()
        assert not schema.problems(value, schema.response_schema(operation)), operation


def test_history(engine: Engine, api: Connection, layers: list[bytes]) -> None:
    engine.docker("load", input=busybox.docker_archive(["story:1"], layers, {}))
    rows = api.get("/images/story:1/history").json()
    assert [row["CreatedBy"] for row in rows] == ["layer 2", "layer 1", "layer 0"]
    assert rows[0]["Tags"] == ["story:1"] and rows[0]["Id"].startswith("sha256:")
    assert rows[1]["Id"] == "<missing>" and rows[2]["Size"] > 1_000_000
    assert len(engine.out("history", "-q", "story:1").split()) == 3


def test_docker_py(client: docker.DockerClient, engine: Engine, layers: list[bytes]) -> None:
    image = client.images.load(busybox.docker_archive(["py:1"], layers, {}))[0]
    assert image.tags == ["py:1"]
    assert image.tag("py", "2")
    assert b"".join(client.images.get("py:2").save(named=True))
    client.images.remove("py:1")
    with pytest.raises(docker.errors.ImageNotFound):
        client.images.get("py:1")


# -- broken and hostile ---------------------------------------------------------------------------------------------


def stored(engine: Engine) -> int:
    """Files under the data root, less the database's own and what is being deleted behind."""
    return sum(
        1 for name in leaks.files(engine.data_root) if "dockyard.db" not in name and not name.startswith("trash")
    )


def failed(answer: Response) -> str:
    """The text of a failed import or load: a status, or an error in the stream."""
    if answer.status != 200:
        return answer.message
    lines = answer.lines()
    assert "error" in lines[-1], lines
    return str(lines[-1]["error"])


def test_s30_truncated_archives_leave_nothing(engine: Engine, api: Connection, layers: list[bytes]) -> None:
    whole = busybox.docker_archive(["cut:1"], layers, {})
    before = stored(engine)
    for data in (whole[: len(whole) // 2], gzip.compress(whole, 1)[:100_000], b"abc"):
        answer = loaded(api, data)
        assert failed(answer) and answer.status == 200  # what docker-py's ImageLoadError is raised for
        assert api.get("/images/cut:1/json").status == 404
    rootfs = busybox.rootfs_tar()
    for data in (rootfs[: len(rootfs) // 2], gzip.compress(rootfs, 1)[:100_000], b"no tar at all" * 1000):
        assert failed(imported(api, data, repo="cut"))
        assert api.get("/images/cut/json").status == 404
    if engine.name == "dockyardd":
        steps.eventually(lambda: stored(engine) <= before)


def hostile_layers(victim: Path) -> dict[str, bytes]:
    """Tars that try to write outside the root, each by another way."""

    def made(*entries: tuple[str, bytes, str, bytes]) -> bytes:
        out = io.BytesIO()
        with tarfile.open(fileobj=out, mode="w") as tar:
            for name, kind, link, data in entries:
                entry = tarfile.TarInfo(name)
                entry.type, entry.linkname, entry.size = kind, link, len(data)
                tar.addfile(entry, io.BytesIO(data))
        return out.getvalue()

    up = "../" * 30
    inside = f"{up}{str(victim)[1:]}"
    return {
        "dotdot": made((f"{inside}/evil", tarfile.REGTYPE, "", b"x")),
        "absolute": made((f"{victim}/evil", tarfile.REGTYPE, "", b"x")),
        "symlink-parent": made(("l", tarfile.SYMTYPE, str(victim), b""), ("l/evil", tarfile.REGTYPE, "", b"x")),
        "symlink-up": made(("l", tarfile.SYMTYPE, inside, b""), ("l/evil", tarfile.REGTYPE, "", b"x")),
        "hardlink-out": made(("h", tarfile.LNKTYPE, f"{victim}/secret", b""), ("h", tarfile.REGTYPE, "", b"x")),
        "hardlink-up": made(("h", tarfile.LNKTYPE, f"{inside}/secret", b""), ("h", tarfile.REGTYPE, "", b"x")),
        "symlink-file": made(("s", tarfile.SYMTYPE, f"{victim}/secret", b""), ("s", tarfile.REGTYPE, "", b"x")),
        "whiteout-out": made(("l", tarfile.SYMTYPE, str(victim), b""), ("l/.wh.secret", tarfile.REGTYPE, "", b"")),
        "whiteout-up": made((f"{inside}/.wh.secret", tarfile.REGTYPE, "", b"")),
        "opaque-out": made(("l", tarfile.SYMTYPE, str(victim), b""), ("l/.wh..wh..opq", tarfile.REGTYPE, "", b"")),
        "whiteout-parent": made(("d/.wh...", tarfile.REGTYPE, "", b"")),
    }


@pytest.mark.parametrize("kind", sorted(hostile_layers(Path("/v"))))
def test_s28_s29_hostile_layers_write_nothing_outside(
    engine: Engine, api: Connection, tmp_path: Path, kind: str
) -> None:
    (tmp_path / "secret").write_text("unchanged")
    layer = hostile_layers(tmp_path)[kind]
    loaded(api, busybox.docker_archive(["hostile:1"], [busybox.rootfs_tar(), layer], {}))
    imported(api, layer, repo="hostile", tag="2")
    assert [path.name for path in tmp_path.iterdir()] == ["secret"]
    assert (tmp_path / "secret").read_text() == "unchanged"
    assert (tmp_path / "secret").stat().st_nlink == 1


def test_s31_a_layer_with_a_wrong_digest_is_refused(engine: Engine, api: Connection, layers: list[bytes]) -> None:
    config = busybox.image_config(layers, {})
    manifest = [{"Config": "c.json", "RepoTags": ["liar:1"], "Layers": ["a/layer.tar", "b/layer.tar", "c/layer.tar"]}]
    other = busybox.layer_tar({"data/other": b"not what was promised"})
    members = {"a/layer.tar": layers[0], "b/layer.tar": other, "c/layer.tar": layers[2], "c.json": config}
    answer = loaded(api, busybox.archive({**members, "manifest.json": json.dumps(manifest).encode()}))
    assert failed(answer)
    assert api.get("/images/liar:1/json").status == 404


@pytest.mark.parametrize(
    "manifest",
    [
        b"not json",
        b"[]",
        b"{}",
        b'[{"Config":"../../../etc/passwd","RepoTags":["x:1"],"Layers":[]}]',
        b'[{"Config":"none"}]',
    ],
    ids=["text", "empty", "object", "outside", "missing"],
)
def test_broken_manifests(engine: Engine, api: Connection, manifest: bytes) -> None:
    answer = loaded(api, busybox.archive({"manifest.json": manifest}))
    assert answer.status != 200 or manifest in (b"[]", b"{}") or failed(answer)
    assert listed(api) == ["bb:latest"]
    assert "Traceback" not in answer.body.decode()
