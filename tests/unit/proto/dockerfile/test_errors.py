"""What people read when a Dockerfile is wrong: the problem, the place, the line, a caret, what was meant."""

from __future__ import annotations

from typing import Any

import pytest

from dockyard.model.errors import InvalidArgument
from dockyard.proto.dockerfile.errors import DockerfileError, closest
from dockyard.proto.dockerfile.parse import parse
from tests.support.dockerfiles import image, make

GOLDENS = {
    "FORM x": """\
dockerfile parse error on line 1: unknown instruction: FORM (did you mean FROM?)
Dockerfile:1:1
 1 | FORM x
   | ^^^^""",
    "FROM x\n\nRUN a \\\n  && b\n  cpoy a b": """\
dockerfile parse error on line 5: unknown instruction: cpoy (did you mean COPY?)
Dockerfile:5:3
 5 |   cpoy a b
   |   ^^^^""",
    "FROM x\nCOPY \\\n  --lnik \\\n  a b": """\
dockerfile parse error on line 2: unknown flag: --lnik (did you mean --link?)
Dockerfile:3:3
 3 |   --lnik \\
   |   ^^^^^^""",
    "FROM x\nRUN --mount=type=chache,target=/x y": """\
dockerfile parse error on line 2: unsupported mount type "chache" (did you mean cache?)
Dockerfile:2:18
 2 | RUN --mount=type=chache,target=/x y
   |                  ^^^^^^""",
    "FROM x\n\tENV a=${b": """\
syntax error: missing '}'
Dockerfile:2:8
 2 | \tENV a=${b
   | \t      ^^^""",
    "FROM x AS build\nFROM y\nCOPY --from=Biuld /a /b": """\
failed to parse stage name "Biuld": invalid reference format: repository name (library/Biuld) must be lowercase (did you mean build?)
Dockerfile:3:13
 3 | COPY --from=Biuld /a /b
   |             ^^^^^""",  # noqa: E501
    "FROM x\nEXPOSE 80/tpc": """\
invalid port: "80/tpc": invalid proto: tpc (did you mean tcp?)
Dockerfile:2:8
 2 | EXPOSE 80/tpc
   |        ^^^^^^""",
}


@pytest.mark.parametrize("text", GOLDENS)
def test_golden(text: str) -> None:
    with pytest.raises(DockerfileError) as raised:
        make(text)
    assert str(raised.value) == GOLDENS[text]


@pytest.mark.parametrize(
    ("text", "problem", "line", "column"),
    [
        ("", "the Dockerfile cannot be empty", 1, 1),
        ("\n\t\n", "file with no instructions", 1, 1),
        ("# only a comment", "file with no instructions", 1, 1),
        ("ARG a", "dockerfile contains no stages to build", 1, 1),
        ("RUN a", "the first instruction must be FROM", 1, 1),
        ("FROM", "FROM requires either one or three arguments", 1, 1),
        ("FROM a b", "FROM requires either one or three arguments", 1, 8),
        ("FROM a ass b", '"ass" stands where AS is expected', 1, 8),
        ("FROM a AS 1", "name can't start with a number or contain symbols", 1, 11),
        ("FROM a AS b/c", "invalid name for build stage", 1, 11),
        ("FROM --platfrom=x a", "unknown flag: --platfrom (did you mean --platform?)", 1, 6),
        ("FROM --platform=$BULIDPLATFORM x", "(did you mean BUILDPLATFORM?)", 1, 17),
        ("FROM --platform=a/b/c/d x", "failed to parse platform", 1, 17),
        ("FROM $nothing", "base name ($nothing) should not be blank", 1, 6),
        ("FROM a:b:c", "invalid reference format", 1, 6),
        ("FROM Ab", "must be lowercase", 1, 6),
        ("FROM x\nENV", "ENV requires at least one argument", 2, 1),
        ("FROM x\nENV a", "ENV must have two arguments", 2, 5),
        ("FROM x\nENV a=1 b", "can't find = in \"b\"", 2, 9),
        ("FROM x\nENV =1", "ENV names can not be blank", 2, 5),
        ("FROM x\nLABEL =1", "LABEL names can not be blank", 2, 7),
        ("FROM x\nARG =1", "ARG names can not be blank", 2, 5),
        ("FROM x\nARG", "ARG requires at least one argument", 2, 1),
        ("FROM x\nCOPY", "COPY requires at least two arguments", 2, 1),
        ("FROM x\nCOPY a", "Destination could not be determined", 2, 6),
        ("FROM x\nADD a", "Destination could not be determined", 2, 5),
        ("FROM x\nCOPY <<A <<B\nA\nB", "COPY cannot accept a heredoc as a destination", 2, 10),
        ("FROM x\nCOPY --chmod=9 a b", "invalid chmod parameter: '9'", 2, 14),
        ("FROM x\nCOPY --chmod=u+q a b", "invalid chmod parameter: 'u+q'", 2, 14),
        ("FROM x\nCOPY --chmod=10000 a b", "between 0 and 07777", 2, 14),
        ("FROM x\nCOPY --chown=a:b:c a b", "invalid chownStr passed", 2, 14),
        ("FROM x\nCOPY --link=maybe a b", "expecting boolean value for flag --link, not: maybe", 2, 13),
        ("FROM x\nCOPY --link= a b", "missing a value on flag: --link", 2, 6),
        ("FROM x\nCOPY --from a b", "missing a value on flag: --from", 2, 6),
        ("FROM x\nCOPY --from=a --from=b c d", "duplicate flag specified: --from", 2, 15),
        ("FROM x\nCOPY --from=$a c d", "variable expansion is not supported for --from", 2, 13),
        ("FROM x\nCOPY --from=7 c d", "invalid stage index 7", 2, 13),
        ("FROM x\nCOPY --from=0 c d", "circular dependency detected on stage: stage-0", 2, 13),
        ("FROM x AS a\nCOPY --from=b c d\nFROM x AS b\nCOPY --from=a e f", "it needs to be defined before", 2, 13),
        ("FROM x\nCOPY https://h/x /y", "source can't be a URL for COPY", 2, 6),
        ("FROM x\nCOPY git@h:x /y", "source can't be a git ref for COPY", 2, 6),
        ("FROM x\nCOPY [a /y", "syntax error in pattern", 2, 6),
        ("FROM x\nCOPY --exclude=[a a /y", "syntax error in pattern", 2, 16),
        ("FROM x\nADD --checksum=x a /y", "checksum requires HTTP(S) or Git sources", 2, 16),
        ("FROM x\nADD --checksum=md5:1 https://h/a /y", "invalid digest", 2, 16),
        ("FROM x\nADD --checksum=xyz https://h/a.git /y", "it must be hexadecimal", 2, 16),
        ("FROM x\nADD https://h/ /y/", "cannot determine filename from url", 2, 5),
        ("FROM x\nRUN", "RUN requires at least one argument", 2, 1),
        ("FROM x\nRUN []", "RUN requires at least one argument", 2, 1),
        ("FROM x\nRUN [1]", "arrays must be comprised of strings only", 2, 5),
        ("FROM x\nRUN --mount=type=cache y", "invalid mount target", 2, 13),
        ("FROM x\nRUN --mount=type=bind,target=/ y", "invalid mount target", 2, 13),
        ("FROM x\nRUN --mount=type=bind,targt=/x y", "unexpected key 'targt'", 2, 23),
        ("FROM x\nRUN --mount=target y", "must be a key=value pair", 2, 13),
        ("FROM x\nRUN --mount=type=tmpfs,target=/x,size=big y", 'invalid value for size: "big"', 2, 39),
        ("FROM x\nRUN --mount=type=cache,target=/x,mode=9 y", 'invalid value "9" for mode', 2, 39),
        ("FROM x\nRUN --mount=type=cache,target=/x,uid=-1 y", 'invalid value "-1" for uid', 2, 38),
        ("FROM x\nRUN --mount=type=cache,target=/x,sharing=lock y", "(did you mean locked?)", 2, 42),
        ("FROM x\nRUN --mount=type=bind,target=/x,mode=1 y", "mode is not allowed for a mount of type bind", 2, 33),
        ("FROM x\nRUN --mount=type=secret y", "one of source, target required", 2, 13),
        ("FROM x\nRUN --mount=type=secret,id=a,source=b y", "both source and id can't be set", 2, 13),
        ("FROM x\nRUN --mount=from=$a,target=/x y", "'from' doesn't support variable expansion", 2, 18),
        ("FROM x\nRUN --network=hots y", '(did you mean host?)', 2, 15),
        ("FROM x\nRUN --security=x y", "invalid security mode", 2, 16),
        ("FROM x\nHEALTHCHECK", "HEALTHCHECK requires at least one argument", 2, 1),
        ("FROM x\nHEALTHCHECK CDM a", '(did you mean CMD?)', 2, 13),
        ("FROM x\nHEALTHCHECK CMD", "Missing command after HEALTHCHECK CMD", 2, 13),
        ("FROM x\nHEALTHCHECK NONE a", "HEALTHCHECK NONE takes no arguments", 2, 18),
        ("FROM x\nHEALTHCHECK --interval=1 CMD a", "--interval: invalid duration", 2, 24),
        ("FROM x\nHEALTHCHECK --interval=1us CMD a", "cannot be less than 1ms", 2, 24),
        ("FROM x\nHEALTHCHECK --timeout=-1s CMD a", "cannot be less than 1ms", 2, 23),
        ("FROM x\nHEALTHCHECK --retries=-1 CMD a", "--retries cannot be negative (-1)", 2, 23),
        ("FROM x\nHEALTHCHECK --retries=x CMD a", "--retries must be a number", 2, 23),
        ("FROM x\nEXPOSE", "EXPOSE requires at least one argument", 2, 1),
        ("FROM x\nEXPOSE 70000", "invalid containerPort: 70000", 2, 8),
        ("FROM x\nEXPOSE 9-8", "invalid containerPort: 9-8", 2, 8),
        ("FROM x\nEXPOSE host:1:1", "invalid IP address: host", 2, 8),
        ("FROM x\nVOLUME []", "VOLUME requires at least one argument", 2, 1),
        ('FROM x\nVOLUME [""]', "VOLUME specified can not be an empty string", 2, 1),
        ("FROM x\nUSER", "USER requires exactly one argument", 2, 1),
        ("FROM x\nWORKDIR", "WORKDIR requires exactly one argument", 2, 1),
        ("FROM x\nSTOPSIGNAL SIGTREM", "invalid signal: SIGTREM (did you mean SIGTERM?)", 2, 12),
        ("FROM x\nSTOPSIGNAL 0", "invalid signal: 0", 2, 12),
        ("FROM x\nSHELL bash -c", "SHELL requires the arguments to be in JSON form", 2, 7),
        ("FROM x\nSHELL []", "SHELL requires at least one argument", 2, 1),
        ("FROM x\nONBUILD", "ONBUILD requires at least one argument", 2, 1),
        ("FROM x\nONBUILD ONBUILD RUN a", "Chaining ONBUILD via `ONBUILD ONBUILD` isn't allowed", 2, 9),
        ("FROM x\nONBUILD FROM y", "FROM isn't allowed as an ONBUILD trigger", 2, 9),
        ("FROM x\nONBUILD MAINTAINER y", "MAINTAINER isn't allowed as an ONBUILD trigger", 2, 9),
        ("FROM x\nONBUILD RNU y", "unknown instruction: RNU (did you mean RUN?)", 2, 9),
        ("FROM x\nONBUILD COPY --form=y a b", "unknown flag: --form", 2, 14),
        ("FROM x\nCMD --x", "unknown flag: --x", 2, 5),
        ("# check=skpi=all\nFROM x", "invalid check option", 1, 9),
    ],
)  # fmt: skip
def test_bad_files(text: str, problem: str, line: int, column: int) -> None:
    with pytest.raises(DockerfileError) as raised:
        make(text)
    assert problem in raised.value.problem
    assert (raised.value.line, raised.value.column) == (line, column)


@pytest.mark.parametrize(
    ("text", "options", "problem"),
    [
        ("FROM x AS build", {"target": "biuld"}, 'target stage "biuld" could not be found (did you mean build?)'),
        ("FROM x", {"target": "1"}, 'target stage "1" could not be found'),
        ("FROM x", {"build_args": {"SOURCE_DATE_EPOCH": "soon"}}, 'invalid SOURCE_DATE_EPOCH: "soon"'),
        ("FROM x", {"source_date_epoch": -1}, "invalid SOURCE_DATE_EPOCH: -1"),
        ("FROM x", {"platforms": ("a/b/c/d",)}, "platform specifier component"),
    ],
)
def test_bad_options(text: str, options: dict[str, Any], problem: str) -> None:
    with pytest.raises(InvalidArgument) as raised:
        make(text, **options)
    assert problem in str(raised.value)


def test_a_bad_trigger_is_blamed_on_the_from() -> None:
    with pytest.raises(DockerfileError) as raised:
        make("# x\nFROM bad", {"bad": image(OnBuild=["COPY a"])})
    assert "in the base image's trigger ONBUILD COPY a: COPY requires at least two arguments" in raised.value.problem
    assert (raised.value.line, raised.value.column) == (2, 1)


def test_long_lines_and_control_characters_are_shown_safely() -> None:
    with pytest.raises(DockerfileError) as raised:
        parse(b"FROM x\nRUN --mount=type=bad\x1b[31m,target=/x " + b"y" * 100_000)
    text = str(raised.value)
    assert len(text) < 1000
    assert "\x1b" not in text


@pytest.mark.parametrize(
    ("word", "options", "expected"),
    [
        ("biuld", ["build", "base"], "build"),
        ("RUNN", ["RUN", "USER"], "RUN"),
        ("x", ["y"], ""),
        ("completely", ["different"], ""),
        ("same", ["same"], ""),
        ("BULIDPLATFORM", ["BUILDPLATFORM", "TARGETPLATFORM"], "BUILDPLATFORM"),
        ("a" * 10_000, ["a" * 9_999], ""),
    ],
)
def test_did_you_mean(word: str, options: list[str], expected: str) -> None:
    assert closest(word, options) == expected
