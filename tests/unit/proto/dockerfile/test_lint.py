"""Docker's build checks: each rule where it must speak and where it must not."""

from __future__ import annotations

from typing import Any

import pytest

from dockyard.model.build import BuildOptions
from dockyard.model.oci import ImageConfig
from dockyard.proto.dockerfile import checks
from dockyard.proto.dockerfile.errors import DockerfileError
from dockyard.proto.dockerfile.lint import check
from dockyard.proto.dockerfile.parse import parse
from dockyard.proto.dockerfile.plan import bases
from dockyard.proto.dockerignore import Ignore
from tests.support.dockerfiles import image, make

Found = list[tuple[str, int, str]]


def look(
    text: str, *, ignore: str = "", images: dict[str, ImageConfig] | None = None, known: bool = True, **options: Any
) -> Found:
    """(rule, line, text) of every finding. `known` False: no base image is resolved."""
    dockerfile, asked = parse(text.encode()), BuildOptions(**options)
    configs: dict[tuple[str, str], ImageConfig] = {}
    try:
        while known and (missing := bases(dockerfile, asked, configs, every_stage=True)):
            configs |= {ref.key: (images or {}).get(ref.ref) or image() for ref in missing}
    except DockerfileError:
        pass  # the checks speak of files that cannot be built, too
    found, _ = check(dockerfile, asked, configs, ignore=Ignore.parse(ignore))
    return [(one.rule, one.range.first, one.text) for one in found]


VIOLATIONS: dict[str, list[tuple[str, Found]]] = {
    "StageNameCasing": [
        (
            "FROM a AS Build",
            [("StageNameCasing", 1, "Stage name 'Build' should be lowercase")],
        )
    ],
    "FromAsCasing": [
        ("FROM a as b", [("FromAsCasing", 1, "'as' and 'FROM' keywords' casing do not match")]),
        ("from a AS b", [("FromAsCasing", 1, "'AS' and 'from' keywords' casing do not match")]),
    ],
    "NoEmptyContinuation": [("FROM a\nRUN b \\\n\n c", [("NoEmptyContinuation", 2, "Empty continuation line")])],
    "ConsistentInstructionCasing": [
        (
            "FROM a\nrun b\nRUN c",
            [
                (
                    "ConsistentInstructionCasing",
                    2,
                    "Command 'run' should match the case of the command majority (uppercase)",
                )
            ],
        ),
        (
            "from a\nrun b\nUser c",
            [
                (
                    "ConsistentInstructionCasing",
                    3,
                    "Command 'User' should match the case of the command majority (lowercase)",
                )
            ],
        ),
    ],
    "DuplicateStageName": [
        (
            "FROM a AS x\nFROM b AS x",
            [("DuplicateStageName", 2, 'Duplicate stage name "x", stage names should be unique')],
        )
    ],
    "ReservedStageName": [
        (
            "FROM a AS scratch\nFROM a AS context",
            [
                ("ReservedStageName", 1, 'Stage name should not use the same name as reserved stage "scratch"'),
                ("ReservedStageName", 2, 'Stage name should not use the same name as reserved stage "context"'),
            ],
        )
    ],
    "JSONArgsRecommended": [
        (
            "FROM a\nCMD b\nENTRYPOINT c",
            [
                (
                    "JSONArgsRecommended",
                    line,
                    f"JSON arguments recommended for {name} to prevent unintended behavior related to OS signals",
                )
                for line, name in ((2, "CMD"), (3, "ENTRYPOINT"))
            ],
        )
    ],
    "MaintainerDeprecated": [
        (
            "FROM a\nMAINTAINER b",
            [("MaintainerDeprecated", 2, "Maintainer instruction is deprecated in favor of using label")],
        )
    ],
    "UndefinedArgInFrom": [
        (
            "ARG VERSION=1\nFROM a:x$VERSOIN",
            [("UndefinedArgInFrom", 2, "FROM argument 'VERSOIN' is not declared (did you mean VERSION?)")],
        ),
        ("FROM a:1$v", [("UndefinedArgInFrom", 1, "FROM argument 'v' is not declared")]),
    ],
    "UndefinedVar": [
        ("FROM a\nCOPY $x /", [("UndefinedVar", 2, "Usage of undefined variable '$x'")]),
        (
            "FROM a\nENV PATH=$PAHT:/b",
            [("UndefinedVar", 2, "Usage of undefined variable '$PAHT' (did you mean $PATH?)")],
        ),
        ("FROM a\nARG b=$c", [("UndefinedVar", 2, "Usage of undefined variable '$c'")]),
        ("FROM a\nCOPY <<E /\n$x\nE", [("UndefinedVar", 2, "Usage of undefined variable '$x'")]),
    ],
    "WorkdirRelativePath": [
        (
            "FROM a\nWORKDIR b/",
            [
                (
                    "WorkdirRelativePath",
                    2,
                    'Relative workdir "b/" can have unexpected results if the base image changes',
                )
            ],
        )
    ],
    "InvalidDefaultArgInFrom": [
        (
            "ARG TAG\nFROM a:$TAG",
            [
                (
                    "InvalidDefaultArgInFrom",
                    2,
                    "Default value for ARG a:$TAG results in empty or invalid base image name",
                )
            ],
        )
    ],
    "FromPlatformFlagConstDisallowed": [
        (
            "FROM --platform=linux/amd64 a",
            [
                (
                    "FromPlatformFlagConstDisallowed",
                    1,
                    'FROM --platform flag should not use constant value "linux/amd64"',
                )
            ],
        )
    ],
    "CopyIgnoredFile": [
        (
            "FROM a\nCOPY ./secret /\nADD secret /",
            [
                ("CopyIgnoredFile", 2, 'Attempting to Copy file "secret" that is excluded by .dockerignore'),
                ("CopyIgnoredFile", 3, 'Attempting to Add file "secret" that is excluded by .dockerignore'),
            ],
        )
    ],
    "LegacyKeyValueFormat": [
        (
            "FROM a\nENV b c\nLABEL d e",
            [
                ("LegacyKeyValueFormat", 2, '"ENV key=value" should be used instead of legacy "ENV key value" format'),
                (
                    "LegacyKeyValueFormat",
                    3,
                    '"LABEL key=value" should be used instead of legacy "LABEL key value" format',
                ),
            ],
        )
    ],
    "RedundantTargetPlatform": [
        (
            f"FROM --platform={written} a",
            [
                (
                    "RedundantTargetPlatform",
                    1,
                    f"Setting platform to predefined {written} in FROM is redundant as this is the default behavior",
                )
            ],
        )
        for written in ("$TARGETPLATFORM", "${TARGETPLATFORM}")
    ],
    "SecretsUsedInArgOrEnv": [
        (
            "FROM a\nARG TOKEN\nENV my_password=x GIT_KEY=",
            [
                (
                    "SecretsUsedInArgOrEnv",
                    line,
                    f'Do not use ARG or ENV instructions for sensitive data ({kind} "{key}")',
                )
                for line, kind, key in ((2, "ARG", "TOKEN"), (3, "ENV", "my_password"), (3, "ENV", "GIT_KEY"))
            ],
        )
    ],
    "MultipleInstructionsDisallowed": [
        (
            'FROM a\nCMD ["b"]\nCMD ["c"]\nENTRYPOINT ["d"]\nENTRYPOINT ["e"]\nHEALTHCHECK NONE\nHEALTHCHECK CMD f',
            [
                (
                    "MultipleInstructionsDisallowed",
                    line,
                    f"Multiple {name} instructions should not be used in the same stage because only the last one will "
                    "be used",
                )
                for line, name in ((2, "CMD"), (4, "ENTRYPOINT"), (6, "HEALTHCHECK"))
            ],
        )
    ],
    "ExposeProtoCasing": [
        (
            "FROM a\nEXPOSE 80/TcP",
            [("ExposeProtoCasing", 2, "Defined protocol '80/TcP' in EXPOSE instruction should be lowercase")],
        )
    ],
    "ExposeInvalidFormat": [
        (
            "FROM a\nEXPOSE [::1]:80:80",
            [
                (
                    "ExposeInvalidFormat",
                    2,
                    "EXPOSE instruction should not define an IP address or host-port mapping, found '[::1]:80:80'",
                )
            ],
        )
    ],
    "InvalidDefinitionDescription": [
        (
            "# check=experimental=all\n# the version\nARG V=1\n# base\nFROM a AS b\n# x y\nARG c d",
            [
                (
                    "InvalidDefinitionDescription",
                    line,
                    f"Comment for {kind} should follow the format: `# {name} <description>`",
                )
                for line, kind, name in ((3, "ARG", "V"), (5, "FROM", "b"), (7, "ARG", "<arg_key>"))
            ],
        )
    ],
    "InvalidBaseImagePlatform": [
        (
            "FROM arm",
            [
                (
                    "InvalidBaseImagePlatform",
                    1,
                    'Base image arm was pulled with platform "linux/arm64", expected "linux/amd64" for current build',
                )
            ],
        )
    ],
}
IMAGES = {"arm": ImageConfig(os="linux", architecture="arm64", config={})}


@pytest.mark.parametrize("rule", checks.RULES)
def test_violations(rule: str) -> None:
    for text, expected in VIOLATIONS[rule]:
        assert look(text, ignore="secret\n", images=IMAGES) == expected


@pytest.mark.parametrize("rule", checks.RULES)
def test_each_rule_can_be_switched_off(rule: str) -> None:
    for text, _ in VIOLATIONS[rule]:
        skipped = f"# check=skip={rule}\n{text}".replace("\n# check=experimental=all", "")
        assert look(skipped, ignore="secret\n", images=IMAGES) == []
        assert look(f"# check=skip=all\n{text}".replace("\n# check=experimental=all", ""), images=IMAGES) == []


@pytest.mark.parametrize(
    "text",
    [
        "FROM a AS b\nFROM b AS c",
        "FROM a\nRUN b \\\n# comment\n c",
        "from a as b\nrun c",
        "FROM scratch",
        'FROM a\nSHELL ["b"]\nCMD c',
        'FROM a AS b\nSHELL ["c"]\nFROM b\nCMD d',
        "ARG V=1\nFROM a:$V",
        "ARG V\nFROM a${V:-:1}",
        "ARG V\nFROM a:x$V",
        "FROM --platform=$BUILDPLATFORM a",
        "FROM --platform=linux/amd64 a AS tools-amd64",
        "FROM --platform=linux/amd64 a AS linux",
        "FROM a\nARG b\nCOPY $b /",
        "FROM a AS b\nARG c\nFROM b\nCOPY $c /",
        'FROM a\nRUN $x\nCMD ["$x"]',
        "FROM a\nENV b=$PATH",
        "FROM a AS b\nWORKDIR /c\nFROM b\nWORKDIR d",
        "FROM a\nWORKDIR /b\nWORKDIR c",
        "FROM a\nENV PUBLIC_KEY=b PASSWORD_FILE=c AUTH_VERSION=d sunflower=e monkey=f",
        'FROM a AS b\nCMD ["c"]\nFROM b\nCMD ["d"]',
        "FROM a\nEXPOSE 80/tcp 81-90/udp",
        "FROM a\n# no description\n\nARG b",
        "# V what it is\nARG V=1\nFROM a",
    ],
)
def test_nothing_to_find(text: str) -> None:
    assert look(f"# check=experimental=all\n{text}") == []


@pytest.mark.parametrize(
    ("text", "ignore", "lines"),
    [
        ("FROM a\nCOPY x /", "x", [2]),
        ("FROM a\nCOPY d/x /", "d", [2]),
        ("FROM a\nCOPY x /", "**\n!x", []),  # what exceptions mean can only be told by walking
        ("FROM a\nCOPY . /", ".*", []),
        ("FROM a\nCOPY . /", "*", [2]),
        ("FROM a AS b\nFROM a\nCOPY --from=b x /", "x", []),
        ("FROM a\nCOPY x /", "", []),
    ],
)
def test_ignored_files(text: str, ignore: str, lines: list[int]) -> None:
    assert [(rule, line) for rule, line, _ in look(text, ignore=ignore)] == [("CopyIgnoredFile", at) for at in lines]


def test_a_comment_switches_a_rule_off_for_one_instruction() -> None:
    text = "FROM a\n# check=skip=SecretsUsedInArgOrEnv // it is none\nENV TOKEN=b\nENV KEY=c"
    assert [line for _, line, _ in look(text)] == [4]


def test_error_true_breaks_the_build_and_an_argument_overrides_the_file() -> None:
    text = "# check=skip=MaintainerDeprecated;error=true\nFROM a\nMAINTAINER b\nCMD c"
    with pytest.raises(DockerfileError) as raised:
        make(text)
    assert raised.value.problem == "lint violation found for rules: JSONArgsRecommended"
    assert (raised.value.line, raised.value.column) == (4, 1)
    made = make(text, build_args={"BUILDKIT_DOCKERFILE_CHECK": "skip=JSONArgsRecommended"})
    assert [one.rule for one in made.warnings] == ["MaintainerDeprecated"]


def test_a_build_looks_at_the_stages_that_it_builds_and_check_at_all() -> None:
    text = "FROM a AS unused\nCOPY $x /\nFROM b\nCOPY $y /"
    assert [one.range.first for one in make(text).warnings] == [4]
    assert [line for _, line, _ in look(text)] == [2, 4]


def test_nothing_is_said_of_variables_of_an_unknown_base() -> None:
    assert look("FROM a\nCOPY $x /\nMAINTAINER b", known=False) == [
        ("MaintainerDeprecated", 3, "Maintainer instruction is deprecated in favor of using label")
    ]


def test_findings_come_even_if_the_file_cannot_be_built() -> None:
    dockerfile = parse(b"FROM a\nMAINTAINER b\nEXPOSE x")
    found, error = check(dockerfile, BuildOptions(), {})
    assert [one.rule for one in found] == ["MaintainerDeprecated"]
    assert error is not None and "invalid containerPort: x" in error.problem


def test_pages() -> None:
    assert checks.url("JSONArgsRecommended") == "https://docs.docker.com/go/dockerfile/rule/json-args-recommended/"
    assert checks.url("FromAsCasing") == "https://docs.docker.com/go/dockerfile/rule/from-as-casing/"
