"""Whatever a Dockerfile contains: a plan or a DockerfileError with a position in the file, soon, and nothing else."""

from __future__ import annotations

import time

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from dockyard.model.build import BuildOptions
from dockyard.model.errors import InvalidArgument
from dockyard.model.oci import ImageConfig
from dockyard.proto import buildcontext
from dockyard.proto.dockerfile.errors import DockerfileError, Problem
from dockyard.proto.dockerfile.lint import check
from dockyard.proto.dockerfile.parse import parse
from dockyard.proto.dockerfile.plan import bases, plan
from dockyard.proto.dockerfile.words import Rules, expand
from dockyard.proto.dockerignore import Ignore
from tests.support.dockerfiles import image
from tests.unit.proto.dockerfile.test_conformance import CASES

FUZZ = settings(max_examples=150, deadline=3000, suppress_health_check=[HealthCheck.too_slow])
CORPUS = [
    (case.text if "FROM " in case.text.upper() else f"FROM base\n{case.text}").encode() for case in CASES.values()
]
PIECES = [
    *(b"FROM a", b" AS b", b"RUN ", b"COPY ", b"ADD ", b"ENV ", b"ARG ", b"ONBUILD ", b"HEALTHCHECK ", b"CMD "),
    *(b"--from=", b"--mount=type=", b"cache", b",target=/", b"--chmod=", b"<<EOF", b"<<-'E'", b"\nEOF\n", b"\nE\n"),
    *(b"\\\n", b"\n", b" ", b"\t", b"#", b"# escape=`\n", b"$", b"${", b"}", b":-", b"##", b"//", b"'", b'"', b"\\"),
    *(b"[", b"]", b",", b"a", b"=", b"/", b"..", b"0", b"b", b"\r\n", b"\xff", b"\0", b"\xc3\xa4", b"https://h/x"),
]
TRIGGERS = ["COPY --from=b a /b", "RUN <<EOF\nx\nEOF", "ENV a=$b"]


def carry_through(data: bytes, triggers: list[str] | None = None) -> None:
    """Parse, resolve, plan and check. DockerfileError and InvalidArgument only."""
    dockerfile = parse(data)
    options = BuildOptions(build_args={"a": "1", "b": None}, allow=frozenset({"network.host", "device"}))
    configs: dict[tuple[str, str], ImageConfig] = {}
    check(dockerfile, options, configs)
    for _ in range(10):
        missing = bases(dockerfile, options, configs)
        if not missing:
            break
        configs |= {ref.key: image(OnBuild=triggers) for ref in missing}
    made = plan(dockerfile, options, configs, ignore=Ignore(["*.md"]))
    for position, vertex in enumerate(made.vertices):
        assert vertex.op.key()
        assert all(number < position for number in vertex.inputs)
    made.image((), frozenset(), "2024-01-01T00:00:00Z")


def holds(data: bytes, triggers: list[str] | None = None) -> None:
    try:
        carry_through(data, triggers)
    except DockerfileError as error:
        lines = data.count(b"\n") + 1
        assert 1 <= error.line <= lines
        assert error.column >= 1
        assert error.problem and len(str(error)) < 10_000
        assert all(character.isprintable() or character in "\n\t" for character in str(error).partition("\n")[2])


@FUZZ
@given(st.binary(max_size=300))
def test_random_bytes(data: bytes) -> None:
    holds(data)
    holds(b"FROM a\n" + data)


@FUZZ
@given(st.lists(st.sampled_from(PIECES), max_size=30))
@example([b"FROM a", b"\n", b"RUN ", b"<<EOF", b"<<EOF", b"\nEOF\n"])
@example([b"# escape=`\n", b"FROM a", b"\n", b"RUN ", b"a", b"`", b"\n"])
def test_pieces_of_the_language(pieces: list[bytes]) -> None:
    holds(b"".join(pieces), TRIGGERS)
    holds(b"FROM a AS b\n" + b"".join(pieces), TRIGGERS)


@FUZZ
@given(st.data())
def test_mutated_dockerfiles(data: st.DataObject) -> None:
    text = bytearray(data.draw(st.sampled_from(CORPUS)))
    for _ in range(data.draw(st.integers(1, 6))):
        at = data.draw(st.integers(0, len(text)))
        end = min(len(text), at + data.draw(st.integers(0, 4)))
        text[at:end] = data.draw(st.sampled_from(PIECES) | st.binary(max_size=3))
    holds(bytes(text))


@FUZZ
@given(st.text(max_size=60), st.text(max_size=20))
def test_random_triggers_and_words(trigger: str, value: str) -> None:
    holds(b"FROM a", [trigger])
    for rules in (Rules(), Rules("`"), Rules(keep_quotes=True, keep_unset=True), Rules(ignore_quotes=True)):
        try:
            expand(trigger, {"a": value, "b": ""}, rules)
        except Problem:
            pass


@FUZZ
@given(st.text(max_size=40), st.text(alphabet="ab/.", max_size=20))
def test_random_patterns_and_contexts(text: str, path: str) -> None:
    try:
        ignore = Ignore.parse(text)
        assert ignore.excluded(path) in (True, False)
        ignore.prunable(path)
    except InvalidArgument:
        pass
    for candidate in (text, f"https://{text}", f"https://h/x.git#{text}", f"git@h:{text}", f"ssh://{text}"):
        try:
            context = buildcontext.parse(candidate)
        except InvalidArgument:
            continue
        if context.git:  # S44
            parts = (context.git.url, context.git.ref, context.git.subdir)
            assert not any(part.startswith("-") for part in parts)
            assert ".." not in context.git.subdir.split("/")


HUGE = {
    "a line of 2 MB": b"FROM a\nRUN " + b"x " * 1_000_000,
    "many quotes": b"FROM a\nENV a=" + b"'\"" * 400_000,
    "one word of 1 MB": b"FROM a\nENV a=" + b"x" * 1_000_000,
    "nested substitutions": b"FROM a\nENV a=" + b"${a:-" * 400_000,
    "deep JSON": b"FROM a\nRUN " + b"[" * 1_000_000,
    "a long list": b"FROM a\nCMD [" + b'"a",' * 500_000 + b'"a"]',
    "many continuations": b"FROM a\nRUN x" + b"\\\n y" * 500_000,
    "many blank continuations": b"FROM a\nRUN x \\\n" + b"\n" * 2_000_000 + b"y",
    "many comments": b"# a\n" * 500_000 + b"FROM a",
    "many documents": b"FROM a\nRUN " + b"<<E " * 3000 + b"\n" + b"E\n" * 3000,
    "a document without end": b"FROM a\nRUN <<E\n" + b"x\n" * 1_000_000,
    "many flags": b"FROM a\nCOPY " + b"--exclude=a " * 30_000 + b"a b",
    "many mounts": b"FROM a\nRUN " + b"--mount=type=tmpfs,target=/a " * 15_000 + b"x",
    "many ports": b"FROM a\n" + b"EXPOSE 0-65535\n" * 60,
    "many stages": b"".join(b"FROM a AS s%d\n" % n for n in range(5_000)) + b"FROM s1",
    "many variables": b"FROM a\n" + b"".join(b"ENV v%d=$v%d\n" % (n, n - 1) for n in range(9_000)),
    "variables that many stages inherit": b"FROM a AS s\n"
    + b"".join(b"ENV variable%d=%d\n" % (n, n) for n in range(4000))
    + b"".join(b"FROM s AS s%d\nRUN x\n" % n for n in range(2900)),
    "undefined variables": b"FROM a\n" + b"".join(b"ENV a%d=1\nENV b=$c%d\n" % (n, n) for n in range(500)),
    "many sources": b"FROM a\nCOPY " + b"a " * 30_000 + b"/b",
    "many globs": b"FROM a\nENV a=" + b"a" * 100_000 + b"\nENV b=${a##" + b"*a" * 1000 + b"c}",
    "a long unknown instruction": b"x" * 1_000_000,
    "a long stage name": b"FROM a AS " + b"x" * 1_000_000 + b"\nFROM b\nCOPY --from=" + b"y" * 1_000_000 + b" a b",
    "carriage returns": b"\r" * 1_000_000 + b"FROM a",
}


@pytest.mark.parametrize("name", HUGE)
def test_huge_files_end_soon(name: str) -> None:
    started = time.monotonic()
    holds(HUGE[name])
    assert time.monotonic() - started < 20  # alone: below a second each
