"""From a file to a graph: stages, names, contexts, ONBUILD, progress, history, the image's configuration."""

from __future__ import annotations

import pytest

from dockyard.model.build import BuildOptions, NamedContext
from dockyard.model.oci import MAX_LAYERS, History, ImageConfig, RootFS
from dockyard.proto.dockerfile.errors import DockerfileError
from dockyard.proto.dockerfile.ops import (
    CopyOp,
    Exec,
    ExecMount,
    FetchUrl,
    Made,
    MakeDirectory,
    Scratch,
    SourceContext,
    SourceImage,
)
from dockyard.proto.dockerfile.parse import parse
from dockyard.proto.dockerfile.plan import bases, plan, unresolved
from tests.support.dockerfiles import LAYER, config, history, image, make, op, ops


def names(text: str, **options: object) -> list[str]:
    return [vertex.name for vertex in make(text, **options).vertices if vertex.name]


# Stages ----------------------------------------------------------------------------------------------------------


MULTI = """\
FROM debian AS base
RUN base
FROM base AS build
RUN build
FROM golang AS unused
RUN unused
FROM base
COPY --from=build /a /b
"""


def test_stages_that_are_not_needed_are_left_out() -> None:
    made = make(MULTI)
    assert [one.args[-1] for one in ops(made, Exec)] == ["base", "build"]
    assert [one.ref for one in ops(made, SourceImage)] == ["debian"]
    assert history(made) == ["RUN /bin/sh -c base # buildkit", "COPY /a /b # buildkit"]


@pytest.mark.parametrize(
    ("target", "commands"),
    [("base", ["base"]), ("BUILD", ["base", "build"]), ("2", ["unused"]), ("", ["base", "build"])],
)
def test_target(target: str, commands: list[str]) -> None:
    assert [one.args[-1] for one in ops(make(MULTI, target=target), Exec)] == commands


def test_unneeded_images_are_not_asked_for() -> None:
    dockerfile = parse(MULTI.encode())
    assert [ref.ref for ref in bases(dockerfile, BuildOptions(), {})] == ["debian"]
    assert [ref.ref for ref in bases(dockerfile, BuildOptions(), {}, every_stage=True)] == ["debian", "golang"]


def test_independent_stages_do_not_depend_on_each_other() -> None:
    made = make("FROM i AS a\nRUN a\nFROM i AS b\nRUN b\nFROM i\nCOPY --from=a /x /\nCOPY --from=b /y /")
    by_command = {v.op.args[-1]: v for v in made.vertices if isinstance(v.op, Exec)}
    assert by_command["a"].inputs == by_command["b"].inputs == (0,)  # one base image, once


def test_inputs_come_before_what_reads_them() -> None:
    made = make(MULTI)
    assert all(number < position for position, v in enumerate(made.vertices) for number in v.inputs)


def test_a_name_that_is_given_twice_means_the_later_but_before_it_the_earlier() -> None:
    made = make("FROM a AS x\nRUN one\nFROM x AS x\nRUN two\nFROM b\nCOPY --from=x /a /b")
    assert [one.args[-1] for one in ops(made, Exec)] == ["one", "two"]


def test_what_a_stage_inherits() -> None:
    text = (
        'FROM debian AS one\nARG a=1\nENV b=2\nUSER u\nWORKDIR /w\nSHELL ["s"]\nEXPOSE 1\nVOLUME /v\nLABEL l=1\n'
        "ONBUILD RUN trigger\nFROM one\nRUN x"
    )
    made = make(text)
    own = ops(made, Exec)[-1]
    assert (own.args, own.user, own.cwd) == (("s", "x"), "u", "/w")
    assert set(own.env) == {"PATH=/bin", "a=1", "b=2"}
    assert [one.args[-1] for one in ops(made, Exec)] == ["trigger", "x"]
    assert {"ExposedPorts", "Volumes", "Labels"} <= config(made).keys()
    assert "OnBuild" not in config(made)


def test_an_image_of_the_file_wins_over_one_of_a_registry() -> None:
    assert ops(make("FROM debian AS nginx\nFROM b\nCOPY --from=nginx /a /b"), SourceImage) == [
        SourceImage(ref="debian", platform="linux/amd64"),
        SourceImage(ref="b", platform="linux/amd64"),
    ]


def test_ten_thousand_stages() -> None:
    text = "FROM debian AS s0\n" + "".join(f"FROM s{n} AS s{n + 1}\n" for n in range(4999))
    assert ops(make(text), SourceImage) == [SourceImage(ref="debian", platform="linux/amd64")]


# Contexts --------------------------------------------------------------------------------------------------------


def test_the_build_context_is_there_only_if_it_is_read() -> None:
    assert ops(make("FROM a\nRUN x\nRUN --mount=type=cache,target=/c x"), SourceContext) == []
    assert ops(make("FROM a\nCOPY a /b\nADD c /d"), SourceContext) == [SourceContext(name="")]
    assert ops(make("FROM a\nRUN --mount=target=/c x"), SourceContext) == [SourceContext(name="")]


def test_named_contexts() -> None:
    contexts = {"src": NamedContext("directory", "./src"), "nginx": NamedContext("image", "local/nginx:9")}
    made = make("FROM nginx:latest\nCOPY --from=src /a /b\nRUN --mount=from=src,target=/s x", contexts=contexts)
    assert op(made, SourceImage).ref == "local/nginx:9"
    assert op(made, SourceContext).name == "src"


def test_a_named_context_stands_for_a_stage() -> None:
    contexts = {"deps": NamedContext("directory", "./deps")}
    made = make("FROM golang AS deps\nRUN never\nFROM a\nCOPY --from=deps /x /", contexts=contexts)
    assert ops(made, Exec) == []
    assert [one.ref for one in ops(made, SourceImage)] == ["a"]
    made = make("FROM golang AS deps\nRUN never\nFROM deps\nUSER x", contexts=contexts)
    assert isinstance(made.vertices[made.result].op, SourceContext)
    assert config(made)["WorkingDir"] == "/"


def test_a_context_in_oci_layout_and_one_of_a_platform() -> None:
    contexts = {"base": NamedContext("oci-layout", "dir:tag"), "x::linux/arm64": NamedContext("image", "arm/x")}
    (ref,) = bases(parse(b"FROM base"), BuildOptions(contexts=contexts), {})
    assert (ref.ref, ref.oci_layout) == ("oci-layout://dir:tag", True)
    (ref,) = bases(parse(b"FROM x"), BuildOptions(contexts=contexts), {}, "linux/arm64")
    assert ref.ref == "arm/x"
    (ref,) = bases(parse(b"FROM x"), BuildOptions(contexts=contexts), {})
    assert ref.ref == "x"


def test_scratch_is_never_overridden() -> None:
    made = make("FROM scratch\nCOPY a /", contexts={"scratch": NamedContext("image", "evil")})
    assert isinstance(made.vertices[made.base].op, Scratch)


def test_an_image_that_is_not_there() -> None:
    dockerfile = parse(b"FROM a AS build\nFROM b\nCOPY --from=biuld /a /b")
    missing = bases(dockerfile, BuildOptions(), {})
    error = unresolved(dockerfile, missing[-1], "not found")
    assert error.problem == "biuld: not found (did you mean build?)"
    assert (error.line, error.column) == (3, 13)


# ONBUILD ---------------------------------------------------------------------------------------------------------


def test_triggers_run_first_and_may_need_further_images() -> None:
    base = image(OnBuild=["COPY --from=tools /t /t", "RUN --mount=from=extra,target=/e trigger", "ENV a=$b"])
    dockerfile, options = parse(b"FROM base AS one\nENV b=1\nRUN own"), BuildOptions()
    (first,) = bases(dockerfile, options, {})
    configs = {first.key: base}
    assert [ref.ref for ref in bases(dockerfile, options, configs)] == ["tools", "extra"]
    made = make("FROM base AS one\nRUN own", {"base": base})
    assert [v.name for v in made.vertices if v.name.startswith("[")] == [
        "[one 1/4] FROM docker.io/library/base:latest",
        "[one 2/4] ONBUILD COPY --from=tools /t /t",
        "[one 3/4] ONBUILD RUN --mount=from=extra,target=/e trigger",
        "[one 4/4] RUN own",
    ]
    assert made.steps[0].triggers == 3
    assert [step.text for step in made.steps] == ["FROM base AS one", "RUN own"]


def test_a_trigger_may_copy_from_a_stage_of_the_file_that_uses_it() -> None:
    base = image(OnBuild=["COPY --from=build /a /b"])
    made = make("FROM debian AS build\nRUN make\nFROM base", {"base": base})
    assert [one.args[-1] for one in ops(made, Exec)] == ["make"]


@pytest.mark.parametrize(
    "trigger", ["FROM x", "ONBUILD RUN x", "MAINTAINER x", "", "RUN a\nRUN b", "NO x", "RUN <<E\n"]
)
def test_bad_triggers(trigger: str) -> None:
    with pytest.raises(DockerfileError) as raised:
        make("# a\n  FROM base", {"base": image(OnBuild=[trigger])})
    assert (raised.value.line, raised.value.column) == (2, 3)


# Progress --------------------------------------------------------------------------------------------------------


def test_names_of_vertices() -> None:
    assert names("FROM debian\nARG v=1\nCOPY a$v /\nRUN echo $v '$v' $HOME\nWORKDIR /x\nCMD c") == [
        "[1/4] FROM docker.io/library/debian:latest",
        "[internal] load build context",
        "[2/4] COPY a1 /",
        "[3/4] RUN echo 1 '$v' $HOME",
        "[4/4] WORKDIR /x",
    ]
    assert names(MULTI) == [
        "[base 1/2] FROM docker.io/library/debian:latest",
        "[base 2/2] RUN base",
        "[build 1/1] RUN build",
        "[stage-3 1/1] COPY --from=build /a /b",
    ]
    assert names("FROM scratch\nADD https://u:p@h/f /f") == [
        "[http] https://u:xxxxx@h/f",
        "[1/1] ADD https://u:p@h/f /f",
    ]
    assert names("FROM a\nRUN <<E\n\nmake it\nx\nE")[-1] == "[2/2] RUN <<E (make it...)"
    assert names("FROM a\nRUN x", platforms=("linux/amd64", "linux/arm64"))[-1] == "[linux/amd64 2/2] RUN x"


def test_steps_as_the_classic_builder_counts_them() -> None:
    made = make("ARG V=1\nFROM a:$V\nENV b=c\nRUN d \\\n  e\nCMD f")
    assert [(step.number, step.of, step.text, step.vertex) for step in made.steps] == [
        (1, 5, "ARG V=1", None),
        (2, 5, "FROM a:$V", 0),
        (3, 5, "ENV b=c", None),
        (4, 5, "RUN d   e", 1),
        (5, 5, "CMD f", None),
    ]


def test_ranges_of_vertices() -> None:
    made = make("FROM a\n\nRUN b \\\n c\nRUN <<E\nx\nE")
    assert [(v.range.first, v.range.last) for v in made.vertices] == [(1, 1), (3, 4), (5, 7)]


def test_no_cache() -> None:
    text = "FROM a AS one\nRUN x\nFROM one AS two\nRUN y\nFROM two\nRUN z"
    ignored = [v.ignore_cache for v in make(text, no_cache=True).vertices if isinstance(v.op, Exec)]
    assert ignored == [True, True, True]
    ignored = [v.ignore_cache for v in make(text, no_cache_filter=("TWO",)).vertices if isinstance(v.op, Exec)]
    assert ignored == [False, True, False]


# The image -------------------------------------------------------------------------------------------------------


def test_the_finished_configuration() -> None:
    base = ImageConfig(
        os="linux",
        architecture="amd64",
        created="2020-01-01T00:00:00Z",
        author="before",
        config={"Env": ["PATH=/p", "A=1"], "Cmd": ["sh"], "Labels": {"x": "1"}, "WorkingDir": "/w"},
        rootfs=RootFS(diff_ids=[LAYER]),
        history=[History(created_by="base", created="2020-01-01T00:00:00Z")],
    )
    made = make("FROM b\nENV A=2 B=$A\nRUN x\nWORKDIR y\nLABEL y=2", {"b": base}, labels={"z": "3"})
    directory, done = made.layers[1], "2024-01-01T00:00:00Z"
    final = made.image((LAYER, LAYER), frozenset(made.layers) - {directory}, done)
    assert final.config == {
        "Env": ["PATH=/p", "A=2", "B=1"],
        "Cmd": ["sh"],
        "Labels": {"x": "1", "y": "2", "z": "3"},
        "WorkingDir": "/w/y",
    }
    assert (final.created, final.author, final.rootfs.diff_ids) == (done, "before", [LAYER, LAYER])
    assert final.history == [
        History(created_by="base", created="2020-01-01T00:00:00Z"),
        History(created_by="ENV A=2 B=1", created=done, comment="buildkit.dockerfile.v0", empty_layer=True),
        History(created_by="RUN /bin/sh -c x # buildkit", created=done, comment="buildkit.dockerfile.v0"),
        History(created_by="WORKDIR /w/y", created=done, comment="buildkit.dockerfile.v0", empty_layer=True),
        History(created_by="LABEL y=2", created=done, comment="buildkit.dockerfile.v0", empty_layer=True),
    ]


def test_source_date_epoch() -> None:
    made = make("FROM a\nWORKDIR /x\nCOPY a b", build_args={"SOURCE_DATE_EPOCH": "86400"})
    assert made.epoch == op(made, CopyOp).epoch == op(made, MakeDirectory).epoch == 86400
    final = made.image((), frozenset(), "2024-01-01T00:00:00Z")
    assert final.created == "1970-01-02T00:00:00Z"
    assert {entry.created for entry in final.history or ()} == {"1970-01-02T00:00:00Z"}
    assert make("FROM a", source_date_epoch=0).image((), frozenset(), "x").created == "1970-01-01T00:00:00Z"
    assert make("ARG SOURCE_DATE_EPOCH=5\nFROM a").epoch == 5


def test_platform_of_the_image() -> None:
    assert (lambda c: (c.os, c.architecture, c.variant))(make("FROM a", platforms=("linux/arm/v6",)).config) == (
        "linux",
        "arm",
        "v6",
    )
    arm = ImageConfig(os="linux", architecture="arm64", config={})
    assert make("FROM a", {"a": arm}).config.architecture == "arm64"  # nobody asked for a platform
    assert make("FROM scratch", build_platform="linux/arm64").config.architecture == "arm64"


def test_path_is_always_set() -> None:
    bare = ImageConfig(os="linux", architecture="amd64", config=None)
    assert config(make("FROM a", {"a": bare}))["Env"][0].startswith("PATH=/usr/local/sbin:")


def test_too_many_layers() -> None:
    make("FROM a\n" + "RUN x\n" * (MAX_LAYERS - 1))
    with pytest.raises(DockerfileError, match="max depth exceeded") as raised:
        make("FROM a\n" + "RUN x\n" * MAX_LAYERS)
    assert raised.value.line == MAX_LAYERS + 1


def test_unused_build_arguments() -> None:
    given = {"a": "1", "typo": "2", "HTTP_PROXY": "3", "BUILDKIT_INLINE_CACHE": "1", "SOURCE_DATE_EPOCH": "4", "G": "5"}
    assert make("ARG G\nFROM x\nARG a", build_args=given).unused_args == ("typo",)


# Keys ------------------------------------------------------------------------------------------------------------


def test_keys_tell_apart_what_matters_and_nothing_else() -> None:
    def key(text: str, **options: object) -> bytes:
        made = make(text, **options)
        return made.vertices[made.result].op.key()

    assert key("FROM a\nRUN x") == key("FROM b\nENV PATH=/bin\n# c\nRUN   x")
    assert key("FROM a\nRUN x") != key("FROM a\nRUN y")
    assert key("FROM a\nRUN x") != key("FROM a\nENV e=1\nRUN x")
    assert key("FROM a\nRUN x", build_args={"HTTP_PROXY": "1"}) == key("FROM a\nRUN x")
    assert key("FROM a\nARG HTTP_PROXY\nRUN x", build_args={"HTTP_PROXY": "1"}) != key("FROM a\nRUN x")
    assert key("FROM a\nCOPY <<E /x\n1\nE") != key("FROM a\nCOPY <<E /x\n2\nE")
    assert FetchUrl(url="a", name="b").key() != MakeDirectory(path="a").key()


# Security --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("flag", "entitlement"),
    [("--network=host", "network.host"), ("--security=insecure", "security.insecure"), ("--device=a", "device")],
)
def test_s42_privilege_needs_a_grant(flag: str, entitlement: str) -> None:
    with pytest.raises(DockerfileError, match=entitlement):
        make(f"FROM a\nRUN {flag} x")
    with pytest.raises(DockerfileError, match=entitlement):  # a base image cannot grant it either
        make("FROM a", {"a": image(OnBuild=[f"RUN {flag} x"])})
    make(f"FROM a\nRUN {flag} x", allow=frozenset({entitlement}))


@pytest.mark.parametrize(
    "text",
    [
        "COPY ../../../etc/passwd /x",
        "COPY /../../etc/passwd /x",
        "COPY a/../../../etc/passwd ../../../x",
        "COPY --parents ../../a/./../../b /x",
        "WORKDIR ../../../x",
        "RUN --mount=source=../../etc,target=../../../x y",
        "RUN --mount=type=secret,id=../../etc/passwd y",
        "RUN --mount=type=secret,id=a,target=../../../x y",
        "RUN --mount=type=ssh,target=../../../x y",
        "RUN --mount=type=cache,id=../../x,target=/../../x y",
    ],
)
def test_s40_s43_paths_stay_inside(text: str) -> None:
    made = make(f"FROM a\n{text}")
    for vertex in made.vertices:
        found: list[str] = []
        if isinstance(vertex.op, CopyOp):
            found = [vertex.op.dest, *(source.path for source in vertex.op.sources)]
        elif isinstance(vertex.op, Exec):
            found = [vertex.op.cwd, *(path for m in vertex.op.mounts for path in (m.target, m.source))]
        elif isinstance(vertex.op, MakeDirectory):
            found = [vertex.op.path]
        for path in found:
            assert path.startswith("/") and ".." not in path.split("/"), path


@pytest.mark.parametrize("name", ["../../etc/passwd", "..", "a/b", "x" * 300])
def test_s43_names_of_documents_are_no_paths(name: str) -> None:
    with pytest.raises(DockerfileError, match="cannot be a path"):
        make(f"FROM a\nRUN <<{name}\n#!/bin/sh\n{name}")
    with pytest.raises(DockerfileError, match="cannot be a path"):
        make(f"FROM a\nCOPY <<{name} /x/\n\n{name}")


def test_s45_secrets_are_ids_only_and_the_host_s_environment_is_not_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOST_ONLY", "leak")
    made = make(
        "FROM a\nARG HOST_ONLY\nRUN --mount=type=secret,id=t,env=TOKEN echo $TOKEN $HOST_ONLY",
        build_args={"HOST_ONLY": None},
    )
    assert op(made, Exec).mounts == (
        ExecMount(type="secret", target="", id="t", env="TOKEN", mode=0o400, read_only=True),
    )
    assert made.vertices[made.result].name == "[2/2] RUN --mount=type=secret,id=t,env=TOKEN echo **** $HOST_ONLY"
    assert made.made[-1] == Made("RUN |1 HOST_ONLY= /bin/sh -c echo $TOKEN $HOST_ONLY # buildkit", made.result)
    assert b"leak" not in op(made, Exec).key()


def test_s45_values_that_grow_without_end_are_refused() -> None:
    doubling = "FROM a\nENV a=0123456789\n" + "ENV a=$a$a\n" * 60
    with pytest.raises(DockerfileError, match="longer than"):
        make(doubling)
    many = "FROM a\nENV a=" + "x" * 100_000 + "\n" + "".join(f"LABEL l{n}=$a\n" for n in range(2000))
    with pytest.raises(DockerfileError, match="more than 67108864 characters"):
        make(many)


def test_plan_wants_its_images() -> None:
    with pytest.raises(DockerfileError, match="is not resolved"):
        plan(parse(b"FROM a"), BuildOptions(), {})
