"""Builds for several platforms, and what they state of themselves: one graph, an index, attestations, interpreters."""

from __future__ import annotations

import hashlib
import io
import json
import os
import struct
import subprocess
import tarfile
from collections.abc import Callable, Coroutine, Iterator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest

from dockyard.engine import Engine
from dockyard.engine.builds import emulation, exporting
from dockyard.model.build import BuildOptions, Planned, TypedSpec
from dockyard.model.errors import InvalidArgument
from dockyard.model.oci import Platform
from tests.support.builds import File, build, files_of
from tests.support.engineground import IMAGE, Ground, fresh_ground, with_engine
from tests.support.fakeregistry import FakeRegistry

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
BOTH = ("linux/arm64", "linux/amd64")
QEMU = Path("/usr/libexec/qemu-binfmt/aarch64-binfmt-P")
MISC = Path(emulation.DIRECTORY)
CROSS = f"""\
FROM --platform=$BUILDPLATFORM {IMAGE} AS tools
RUN echo once > /tool
FROM tools AS compiler
ARG TARGETARCH
RUN echo "for $TARGETARCH by $(cat /tool)" > /out
FROM scratch
COPY --from=compiler /out /out
"""
PROVENANCE = TypedSpec("provenance", {"mode": "min"})

Body = Callable[[Engine], Coroutine[Any, Any, None]]


@pytest.fixture
def ground() -> Iterator[Ground]:
    with fresh_ground() as ground:
        yield ground


def test_identical_steps_of_platforms_are_one(ground: Ground) -> None:
    async def body(engine: Engine) -> None:
        told = await build(engine, CROSS, platforms=BOTH, tags=("cross:1",), no_cache=True)
        done = told.carried_out()
        assert sum("RUN echo once" in name for name in done) == 1
        assert sum('RUN echo "for' in name for name in done) == 2
        (planned,) = [event for event in told.events if isinstance(event, Planned)]
        assert len({vertex.id for vertex in planned.vertices}) == len(planned.vertices)
        for name, architecture in (("linux", "amd64"), ("linux", "arm64")):
            image = engine.images.get_for("cross:1", Platform(architecture, name))
            assert files_of(engine, image.id)["out"].endswith(f"for {architecture} by once")
        again = await build(engine, CROSS, platforms=BOTH, tags=("cross:1",))
        assert again.result.digest == told.result.digest  # of the very same images
        assert engine.images.get(told.result.digest).id == told.image  # a build's --iidfile names the index

    with_engine(ground, body)


async def archive(engine: Engine, told: Any, kind: str) -> dict[str, bytes]:
    ((_, identifier, _),) = exporting.to_fetch(BuildOptions(outputs=(TypedSpec(kind),)), told.result)
    async with aclosing(engine.builds.output(identifier)) as chunks:
        data = b"".join([chunk async for chunk in chunks])
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        return {m.name: (tar.extractfile(m) or io.BytesIO()).read() for m in tar if m.isfile()}


def blob(members: dict[str, bytes], digest: str) -> bytes:
    data = members["blobs/sha256/" + digest.removeprefix("sha256:")]
    assert hashlib.sha256(data).hexdigest() == digest.removeprefix("sha256:")
    return data


def test_an_archive_has_the_index_whole(ground: Ground) -> None:
    async def body(engine: Engine) -> None:
        told = await build(engine, CROSS, platforms=BOTH, outputs=(TypedSpec("oci"),))
        members = await archive(engine, told, "oci")
        (top,) = json.loads(members["index.json"])["manifests"]
        assert top["digest"] == told.result.digest
        index = json.loads(blob(members, top["digest"]))
        assert [entry["platform"]["architecture"] for entry in index["manifests"]] == ["arm64", "amd64"]
        for entry in index["manifests"]:
            manifest = json.loads(blob(members, entry["digest"]))
            for part in [manifest["config"], *manifest["layers"]]:
                assert len(blob(members, part["digest"])) == part["size"]
        with pytest.raises(InvalidArgument, match="type=tar is for one platform"):
            await build(engine, CROSS, platforms=BOTH, outputs=(TypedSpec("tar"),))

    with_engine(ground, body)


# --- provenance -------------------------------------------------------------------------------------------------------


def attestation(members: dict[str, bytes], digest: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """(descriptor of the image, its statement) of an archive with one platform."""
    index = json.loads(blob(members, digest))
    image, stated = index["manifests"]
    assert stated["platform"] == {"architecture": "unknown", "os": "unknown"}
    assert stated["annotations"] == {
        "vnd.docker.reference.digest": image["digest"],
        "vnd.docker.reference.type": "attestation-manifest",
    }
    manifest = json.loads(blob(members, stated["digest"]))
    (layer,) = manifest["layers"]
    assert layer["mediaType"] == "application/vnd.in-toto+json"
    statement = json.loads(blob(members, layer["digest"]))
    assert layer["annotations"] == {"in-toto.io/predicate-type": statement["predicateType"]}
    assert json.loads(blob(members, manifest["config"]["digest"]))["rootfs"]["diff_ids"] == [layer["digest"]]
    return image, statement


def test_s50_provenance_states_how_and_keeps_secrets(ground: Ground) -> None:
    dockerfile = (
        f"FROM {IMAGE}\nARG WHO\nARG API_TOKEN\n"
        'RUN --mount=type=secret,id=pw test "$(cat /run/secrets/pw)" = "hunter2" && echo $WHO > /who\n'
    )
    more: dict[str, Any] = {
        "build_args": {"WHO": "args-are-not-in-min", "API_TOKEN": "t0ken-value", "HTTPS_PROXY": "http://me:pr0xy@h:1"},
        "request": {"secrets": {"pw": b"hunter2"}},
        "secret_ids": frozenset({"pw"}),
        "tags": ("stated:1",),
    }

    async def body(engine: Engine) -> None:
        told = await build(engine, dockerfile, attestations=(PROVENANCE,), **more)
        image, statement = attestation(await archive(engine, told, "oci"), told.result.digest)
        assert statement["subject"] == [
            {
                "name": "pkg:docker/stated@1?platform=linux%2Famd64",
                "digest": {"sha256": image["digest"].removeprefix("sha256:")},
            }
        ]
        assert statement["predicateType"] == "https://slsa.dev/provenance/v0.2"
        predicate = statement["predicate"]
        assert predicate["invocation"]["environment"] == {"platform": "linux/amd64"}
        assert predicate["materials"][0]["uri"].startswith("pkg:docker/") and predicate["materials"][0]["digest"]
        assert "args-are-not-in-min" not in json.dumps(statement) and "buildConfig" not in predicate
        assert predicate["metadata"]["buildStartedOn"] <= predicate["metadata"]["buildFinishedOn"]
        most = TypedSpec("provenance", {"mode": "max", "version": "v1"})
        told = await build(engine, dockerfile, attestations=(most,), **more)
        _, statement = attestation(await archive(engine, told, "oci"), told.result.digest)
        assert statement["predicateType"] == "https://slsa.dev/provenance/v1"
        definition = statement["predicate"]["buildDefinition"]
        parameters = definition["externalParameters"]["request"]
        assert parameters["args"]["build-arg:WHO"] == "args-are-not-in-min"
        assert parameters["secrets"] == [{"id": "pw"}]
        steps = definition["internalParameters"]["buildConfig"]["llbDefinition"]
        assert any("RUN" in step["op"]["name"] for step in steps)
        assert told.result.metadata["buildx.build.provenance"] == statement["predicate"]
        for word in ('hunter2"', "t0ken-value", "pr0xy"):
            assert word not in json.dumps(definition).replace('= \\"hunter2\\"', "")

    with_engine(ground, body)


def test_attestations_and_annotations_are_pushed(ground: Ground) -> None:
    async def body(engine: Engine) -> None:
        async with FakeRegistry() as registry:
            name = f"{registry.host}/team/app:1"
            told = await build(
                engine, CROSS, platforms=BOTH, tags=(name,), outputs=(TypedSpec("image", {"push": "true"}),),
                attestations=(PROVENANCE,), annotations={"a": "b", "index:c": "d", "manifest[linux/arm64]:e": "f"},
            )  # fmt: skip
            index = json.loads(registry.manifests["1"][1])
            assert f"sha256:{hashlib.sha256(registry.manifests['1'][1]).hexdigest()}" == told.result.digest
            assert index["annotations"] == {"c": "d"} and len(index["manifests"]) == 4
            found = [json.loads(registry.manifests[entry["digest"]][1]) for entry in index["manifests"]]
            assert [each.get("annotations") for each in found[:2]] == [{"a": "b", "e": "f"}, {"a": "b"}]
            for entry, about in zip(index["manifests"][2:], index["manifests"][:2], strict=True):
                assert entry["annotations"]["vnd.docker.reference.digest"] == about["digest"]

    with_engine(ground, body)


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"attestations": (TypedSpec("sbom"),)}, "type=sbom: no SBOM"),
    ({"attestations": (TypedSpec("provenance", {"mode": "medium"}),)}, "invalid mode 'medium'"),
    ({"attestations": (TypedSpec("provenance", {"version": "v9"}),)}, "invalid version 'v9'"),
    ({"attestations": (TypedSpec("provenance", {"moed": "min"}),)}, "unknown parameter 'moed'"),
    ({"annotations": {"descriptor:a": "b"}}, "invalid annotation 'descriptor:a'"),
    (
        {"platforms": ("linux/s390x",)},
        r"RUN true \(line 2\): this host \(linux/.*\) cannot run programs for linux/s390x",
    ),
]


def test_what_cannot_be_is_refused_by_name(ground: Ground) -> None:
    async def body(engine: Engine) -> None:
        for options, words in REFUSED:
            with pytest.raises(InvalidArgument, match=words):
                await build(engine, "FROM scratch\nRUN true\n", **options)
        assert not await engine.builds.usage()

    with_engine(ground, body)


# --- programs of other machines ---------------------------------------------------------------------------------------


def arm64_program() -> bytes:
    """A program that makes the directory /made and ends: its machine code, in the smallest ELF file that runs."""
    path = b"/made\0"
    code = [
        0x92800000 | 99 << 5,  # mov x0, #-100 (AT_FDCWD)
        0x10000000 | 7 << 5 | 1,  # adr x1, path (28 bytes on: immhi is in words)
        0xD2800000 | 0o755 << 5 | 2,  # mov x2, #0755
        0xD2800000 | 34 << 5 | 8,  # mov x8, #34 (mkdirat)
        0xD4000001,  # svc #0
        0xD2800000 | 93 << 5 | 8,  # mov x8, #93 (exit)
        0xD2800000,  # mov x0, #0
        0xD4000001,  # svc #0
    ]
    text = b"".join(struct.pack("<I", word) for word in code) + path
    base, head = 0x400000, 64 + 56
    elf = b"\x7fELF\x02\x01\x01" + bytes(9)
    elf += struct.pack("<HHIQQQIHHHHHH", 2, 183, 1, base + head, 64, 0, 0, 64, 56, 1, 0, 0, 0)
    size = head + len(text)
    return elf + struct.pack("<IIQQQQQQ", 1, 5, 0, base, base, size, size, 0x10000) + text


@pytest.fixture
def interpreter() -> Iterator[None]:
    """An interpreter for arm64: the host's, or qemu's for as long as the test runs."""
    if emulation.can_run("linux/arm64"):
        yield
        return
    if not QEMU.exists():
        pytest.skip("no programs for arm64 here: qemu-user-static is not installed")
    mounted = not (MISC / "register").exists()
    if mounted and subprocess.run(["mount", "-t", "binfmt_misc", "none", MISC], check=False).returncode:
        pytest.skip("no programs for arm64 here: binfmt_misc cannot be mounted")
    name = f"dockyard-test-{os.getpid()}"
    magic = "\\x7fELF\\x02\\x01\\x01" + "\\x00" * 9 + "\\x02\\x00\\xb7\\x00"
    try:
        (MISC / "register").write_text(f":{name}:M::{magic}::{QEMU}:OPF")
        yield
    finally:
        if (MISC / name).exists():
            (MISC / name).write_text("-1")
        if mounted:
            subprocess.run(["umount", MISC], check=True)


def test_run_for_another_machine(ground: Ground, interpreter: None) -> None:
    assert emulation.can_run("linux/arm64")
    dockerfile = 'FROM scratch\nCOPY make /make\nRUN ["/make"]\n'

    async def body(engine: Engine) -> None:
        told = await build(engine, dockerfile, {"make": File(arm64_program(), 0o755)}, platforms=("linux/arm64",))
        assert engine.images.get(told.image).architecture == "arm64"
        assert files_of(engine, told.image)["made/"] == "0755 0:0"

    with_engine(ground, body)
