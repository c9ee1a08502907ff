"""Every instruction and every flag of the Dockerfile language, one case each. docs/dockerfile.md names these cases."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import pytest

from dockyard.proto.dockerfile.ops import CopyOp, Exec, ExecMount, FetchGit, FetchUrl, MakeDirectory, Plan, SourceImage
from tests.support.dockerfiles import config, history, image, make, op, ops


class Case(NamedTuple):
    """`pick` of the plan of `text` (with `FROM base` before it unless it has a FROM) is `expected`."""

    text: str
    pick: Callable[[Plan], Any]
    expected: Any
    options: dict[str, Any] = {}


def mount(made: Plan) -> ExecMount:
    (only,) = op(made, Exec).mounts
    return only


def copied(made: Plan) -> CopyOp:
    return op(made, CopyOp)


def paths(made: Plan) -> list[str]:
    return [source.path for source in copied(made).sources]


def last(made: Plan) -> str:
    return history(made)[-1]


def target_name(made: Plan) -> tuple[str, ...]:
    """Which images the result rests on, and copies from."""
    return tuple(one.ref for one in ops(made, SourceImage))


CASES: dict[str, Case] = {
    # Parser directives
    "syntax": Case("# syntax=docker/dockerfile:1\nFROM base\nUSER x", last, "USER x"),
    "escape": Case("# escape=`\nFROM base\nRUN a `\n  b\nENV x=C:\\dir", last, "ENV x=C:\\dir"),
    "check": Case("# check=skip=JSONArgsRecommended\nFROM base\nCMD x", lambda p: p.warnings, ()),
    # FROM
    "FROM": Case("FROM debian:12", target_name, ("debian:12",)),
    "FROM digest": Case(f"FROM debian@sha256:{'1' * 64}", target_name, (f"debian@sha256:{'1' * 64}",)),
    "FROM scratch": Case("FROM scratch\nCOPY a /", lambda p: p.vertices[p.base].inputs, ()),
    "FROM AS": Case(
        "FROM debian AS one\nFROM one\nUSER x", lambda p: (target_name(p), last(p)), (("debian",), "USER x")
    ),
    "FROM --platform": Case("FROM --platform=linux/arm64 debian", lambda p: op(p, SourceImage).platform, "linux/arm64"),
    "FROM --platform=$BUILDPLATFORM": Case(
        "FROM --platform=$BUILDPLATFORM debian",
        lambda p: op(p, SourceImage).platform,
        "linux/amd64",
        {"platforms": ("linux/arm64",)},
    ),
    "FROM ARG": Case("ARG V=11\nFROM debian:$V", target_name, ("debian:12",), {"build_args": {"V": "12"}}),
    # ARG
    "ARG": Case("ARG a=1 b\nRUN x", lambda p: op(p, Exec).env, ("PATH=/bin", "a=1")),
    "ARG build argument": Case(
        "ARG a=1\nRUN x", lambda p: op(p, Exec).env, ("PATH=/bin", "a=2"), {"build_args": {"a": "2"}}
    ),
    "ARG global": Case("ARG V=1\nFROM base\nARG V\nRUN x", last, "RUN |1 V=1 /bin/sh -c x # buildkit"),
    "ARG global out of scope": Case("ARG V=1\nFROM base\nRUN x", last, "RUN /bin/sh -c x # buildkit"),
    "ARG predefined": Case(
        "RUN x",
        lambda p: (op(p, Exec).proxy, op(p, Exec).env, last(p)),
        (
            ("HTTP_PROXY=http://p", "http_proxy=http://p"),
            ("PATH=/bin",),
            "RUN /bin/sh -c x # buildkit",
        ),
        {"build_args": {"HTTP_PROXY": "http://p"}},
    ),
    "ARG platform": Case(
        "ARG TARGETPLATFORM\nARG TARGETOS\nARG TARGETARCH\nARG TARGETVARIANT\nARG BUILDPLATFORM\nARG BUILDARCH\nRUN x",
        lambda p: op(p, Exec).env[1:],
        (
            "TARGETPLATFORM=linux/arm/v7",
            "TARGETOS=linux",
            "TARGETARCH=arm",
            "TARGETVARIANT=v7",
            "BUILDPLATFORM=linux/amd64",
            "BUILDARCH=amd64",
        ),
        {"platforms": ("linux/arm/v7",)},
    ),
    "ARG TARGETSTAGE": Case(
        "FROM base AS one\nARG TARGETSTAGE\nRUN x", lambda p: op(p, Exec).env[-1], "TARGETSTAGE=one"
    ),
    # ENV
    "ENV": Case("ENV a=1 b='two words' c=x\\ y", lambda p: config(p)["Env"][1:], ["a=1", "b=two words", "c=x y"]),
    "ENV legacy": Case("ENV a b c=d", lambda p: config(p)["Env"][1:], ["a=b c=d"]),
    "ENV same instruction": Case(
        "ENV a=1\nENV a=2 b=$a\nENV c=$a", lambda p: config(p)["Env"][1:], ["a=2", "b=1", "c=2"]
    ),
    "ENV history": Case("ENV a=1 b=2", last, "ENV a=1 b=2"),
    # RUN
    "RUN shell form": Case("RUN echo $x && y", lambda p: op(p, Exec).args, ("/bin/sh", "-c", "echo $x && y")),
    "RUN exec form": Case('RUN ["a", "$b"]', lambda p: op(p, Exec).args, ("a", "$b")),
    "RUN here-document": Case("RUN <<EOF\na $b\nc\nEOF", lambda p: op(p, Exec).args, ("/bin/sh", "-c", "a $b\nc\n")),
    "RUN here-document with shebang": Case(
        "RUN <<EOF\n#!/usr/bin/python3\nprint()\nEOF",
        lambda p: (op(p, Exec).args, [(f.name, f.content, f.mode) for f in op(p, Exec).files]),
        (("/dev/pipes/EOF",), [("EOF", "#!/usr/bin/python3\nprint()\n", 0o755)]),
    ),
    "RUN here-documents for the shell": Case(
        "RUN <<A cat > x && <<-B cat\none\nA\n\ttwo\n\tB",
        lambda p: op(p, Exec).args[-1],
        "<<A cat > x && <<-B cat\none\nA\n\ttwo\nB",
    ),
    "RUN --mount=type=bind": Case(
        "RUN --mount=type=bind,source=a/../b,target=x,rw c",
        lambda p: (mount(p).source, mount(p).target, mount(p).read_only, p.vertices[p.result].inputs),
        ("/b", "/x", False, (0, 1)),
    ),
    "RUN --mount=type=bind,from": Case(
        "FROM debian AS one\nFROM base\nRUN --mount=from=one,target=/x c",
        lambda p: (mount(p).type, mount(p).read_only, p.vertices[p.result].inputs[mount(p).input or 0]),
        ("bind", True, 0),
    ),
    "RUN --mount=type=cache": Case(
        "RUN --mount=type=cache,target=/x,id=one,sharing=locked,mode=0700,uid=1,gid=2,ro c",
        lambda p: mount(p),
        ExecMount(type="cache", target="/x", id="one", sharing="locked", mode=0o700, uid=1, gid=2, read_only=True),
    ),
    "RUN --mount=type=cache,from": Case(
        "RUN --mount=type=cache,target=/x,from=debian,source=/etc c",
        lambda p: (mount(p).input, mount(p).source, mount(p).id),
        (1, "/etc", "/x"),
    ),
    "RUN --mount=type=tmpfs": Case(
        "RUN --mount=type=tmpfs,target=/x,size=1m c", lambda p: (mount(p).target, mount(p).size), ("/x", 1 << 20)
    ),
    "RUN --mount=type=secret": Case(
        "RUN --mount=type=secret,id=k,required,mode=0440,uid=3,gid=4 c",
        mount,
        ExecMount(
            type="secret", target="/run/secrets/k", id="k", required=True, mode=0o440, uid=3, gid=4, read_only=True
        ),
    ),
    "RUN --mount=type=secret,env": Case(
        "RUN --mount=type=secret,id=k,env=TOKEN c", lambda p: (mount(p).target, mount(p).env), ("", "TOKEN")
    ),
    "RUN --mount=type=secret,target": Case(
        "RUN --mount=type=secret,target=/etc/key c", lambda p: (mount(p).target, mount(p).id), ("/etc/key", "key")
    ),
    "RUN --mount=type=ssh": Case(
        "RUN --mount=type=ssh,mode=0666,required=true c",
        lambda p: (mount(p).id, mount(p).target, mount(p).mode, mount(p).required, op(p, Exec).env[-1]),
        ("default", "/run/buildkit/ssh_agent.0", 0o666, True, "SSH_AUTH_SOCK=/run/buildkit/ssh_agent.0"),
    ),
    "RUN --mount without target": Case("WORKDIR /w\nRUN --mount=type=bind c", lambda p: mount(p).target, "/w"),
    "RUN --mount variables": Case("ARG d=/x\nRUN --mount=type=tmpfs,target=$d/y c", lambda p: mount(p).target, "/x/y"),
    "RUN --network": Case("RUN --network=none c", lambda p: op(p, Exec).network, "none"),
    "RUN --network=host": Case(
        "RUN --network=host c", lambda p: op(p, Exec).network, "host", {"allow": frozenset({"network.host"})}
    ),
    "RUN --security": Case(
        "RUN --security=insecure c",
        lambda p: op(p, Exec).security,
        "insecure",
        {"allow": frozenset({"security.insecure"})},
    ),
    "RUN --device": Case(
        "RUN --device=vendor/x=y,required c",
        lambda p: op(p, Exec).devices,
        ("vendor/x=y,required",),
        {"allow": frozenset({"device"})},
    ),
    # COPY
    "COPY": Case(
        "COPY a ../b /x/", lambda p: (paths(p), copied(p).dest, copied(p).dest_directory), (["/a", "/b"], "/x", True)
    ),
    "COPY JSON form": Case('COPY ["a b", "c d"]', lambda p: (paths(p), copied(p).dest), (["/a b"], "/c d")),
    "COPY relative": Case(
        "WORKDIR /w\nCOPY a b", lambda p: (copied(p).dest, copied(p).dest_directory), ("/w/b", False)
    ),
    "COPY wildcard": Case("COPY a*.[ch] /x/", lambda p: (paths(p), copied(p).sources[0].pattern), (["/a*.[ch]"], True)),
    "COPY escaped wildcard": Case(
        "COPY arr[[]0].txt a\\\\[b /x/",
        lambda p: [(s.path, s.pattern) for s in copied(p).sources],
        [("/arr[[]0].txt", True), ("/a[b", False)],
    ),
    "COPY here-document": Case(
        "ARG v=1\nCOPY <<EOF <<'Q' /x/\n$v \"q\"\nEOF\n$v\nQ",
        lambda p: [(s.document.name, s.document.content) for s in copied(p).sources if s.document],
        [("EOF", '1 "q"\n'), ("Q", "$v\n")],
    ),
    "COPY --from stage": Case(
        "FROM debian AS one\nFROM base\nCOPY --from=one /a /b", lambda p: p.vertices[p.result].inputs, (1, 0)
    ),
    "COPY --from index": Case(
        "FROM debian\nFROM base\nCOPY --from=0 /a /b", lambda p: p.vertices[p.result].inputs, (1, 0)
    ),
    "COPY --from image": Case("COPY --from=nginx:1 /a /b", target_name, ("base", "nginx:1")),
    "COPY --chown": Case(
        "ARG u=1\nCOPY --chown=$u:grp a b",
        lambda p: (copied(p).chown, last(p)),
        ("1:grp", "COPY --chown=1:grp a b # buildkit"),
    ),
    "COPY --chmod octal": Case(
        "COPY --chmod=755 a b", lambda p: (copied(p).chmod, last(p)), ("0755", "COPY --chmod=755 a b # buildkit")
    ),
    "COPY --chmod symbolic": Case("COPY --chmod=u=rwX,go=rX a b", lambda p: copied(p).chmod, "u=rwX,go=rX"),
    "COPY --link": Case("COPY --link a b", lambda p: copied(p).link, True),
    "COPY --link=false": Case("COPY --link=false a b", lambda p: copied(p).link, False),
    "COPY --parents": Case(
        "COPY --parents a/./b/**/*.c /x/",
        lambda p: (copied(p).parents, paths(p), copied(p).sources[0].pivot),
        (True, ["/a/b/**/*.c"], 1),
    ),
    "COPY --exclude": Case("COPY --exclude=*.md --exclude=!x.md a b", lambda p: copied(p).excludes, ("*.md", "!x.md")),
    # ADD
    "ADD": Case("ADD a b /x/", lambda p: [s.unpack for s in copied(p).sources], ["auto", "auto"]),
    "ADD URL": Case(
        "ADD https://h/p/a%20b.tgz?x /d/",
        lambda p: (op(p, FetchUrl).url, op(p, FetchUrl).name, copied(p).sources[0].unpack),
        ("https://h/p/a%20b.tgz?x", "a b.tgz", None),
    ),
    "ADD git": Case(
        "ADD https://h/r.git#v1:sub /d",
        lambda p: op(p, FetchGit),
        FetchGit(url="https://h/r.git", ref="v1", subdir="sub"),
    ),
    "ADD git over ssh": Case("ADD git@h:u/r.git /d", lambda p: op(p, FetchGit).url, "git@h:u/r.git"),
    "ADD here-document": Case("ADD <<EOF /d\nx\nEOF", lambda p: copied(p).sources[0].document.content, "x\n"),  # type: ignore[union-attr]
    "ADD --keep-git-dir": Case(
        "ADD --keep-git-dir=true https://h/r.git /d", lambda p: op(p, FetchGit).keep_git_dir, True
    ),
    "ADD --checksum": Case(
        f"ADD --checksum=sha256:{'1' * 64} https://h/f /d", lambda p: op(p, FetchUrl).checksum, f"sha256:{'1' * 64}"
    ),
    "ADD --checksum of a commit": Case(
        "ADD --checksum=BE1F38E https://h/r.git /d", lambda p: op(p, FetchGit).checksum, "be1f38e"
    ),
    "ADD --chown": Case("ADD --chown=1:2 a b", lambda p: copied(p).chown, "1:2"),
    "ADD --chmod": Case("ADD --chmod=0640 a b", lambda p: copied(p).chmod, "0640"),
    "ADD --link": Case("ADD --link a b", lambda p: copied(p).link, True),
    "ADD --unpack": Case("ADD --unpack=true https://h/f.tgz /d/", lambda p: copied(p).sources[0].unpack, "always"),
    "ADD --unpack=false": Case("ADD --unpack=false f.tgz /d/", lambda p: copied(p).sources[0].unpack, None),
    "ADD --exclude": Case("ADD --exclude=*.o a b", lambda p: copied(p).excludes, ("*.o",)),
    # The configuration
    "CMD shell form": Case(
        "CMD a b", lambda p: (config(p)["Cmd"], last(p)), (["/bin/sh", "-c", "a b"], 'CMD ["/bin/sh" "-c" "a b"]')
    ),
    "CMD exec form": Case('CMD ["a","b"]', lambda p: (config(p)["Cmd"], last(p)), (["a", "b"], 'CMD ["a" "b"]')),
    "ENTRYPOINT exec form": Case(
        'ENTRYPOINT ["a"]', lambda p: (config(p)["Entrypoint"], last(p)), (["a"], 'ENTRYPOINT ["a"]')
    ),
    "ENTRYPOINT shell form": Case("ENTRYPOINT a", lambda p: config(p)["Entrypoint"], ["/bin/sh", "-c", "a"]),
    "ENTRYPOINT resets CMD": Case('FROM withcmd\nENTRYPOINT ["a"]', lambda p: "Cmd" in config(p), False),
    "ENTRYPOINT keeps CMD of the stage": Case(
        'FROM withcmd\nCMD ["b"]\nENTRYPOINT ["a"]', lambda p: config(p)["Cmd"], ["b"]
    ),
    "LABEL": Case(
        'ARG v=1\nLABEL a=$v "b c"="d\\\n e" f=\'$v\'',
        lambda p: (config(p)["Labels"], last(p)),
        ({"a": "1", "b c": "d e", "f": "$v"}, "LABEL a=1 b c=d e f=$v"),
    ),
    "EXPOSE": Case("EXPOSE 80", lambda p: (config(p)["ExposedPorts"], last(p)), ({"80/tcp": {}}, "EXPOSE [80/tcp]")),
    "EXPOSE range": Case("EXPOSE 80-82/udp", lambda p: list(config(p)["ExposedPorts"]), ["80/udp", "81/udp", "82/udp"]),
    "EXPOSE protocol": Case("EXPOSE 1/sctp 2/TCP", lambda p: list(config(p)["ExposedPorts"]), ["1/sctp", "2/tcp"]),
    "EXPOSE variable": Case(
        'ENV p="80 81"\nEXPOSE $p', lambda p: list(config(p)["ExposedPorts"]), ["80/tcp", "81/tcp"]
    ),
    "VOLUME": Case("VOLUME /a /b", lambda p: (config(p)["Volumes"], last(p)), ({"/a": {}, "/b": {}}, "VOLUME [/a /b]")),
    "VOLUME JSON form": Case('VOLUME ["/a b"]', lambda p: config(p)["Volumes"], {"/a b": {}}),
    "USER": Case(
        "ENV u=me\nUSER $u:staff\nRUN x", lambda p: (config(p)["User"], op(p, Exec).user), ("me:staff", "me:staff")
    ),
    "WORKDIR": Case(
        "USER u\nWORKDIR /a",
        lambda p: (config(p)["WorkingDir"], op(p, MakeDirectory), last(p)),
        ("/a", MakeDirectory(path="/a", user="u"), "WORKDIR /a"),
    ),
    "WORKDIR relative": Case("WORKDIR /a\nWORKDIR b/../c\nRUN x", lambda p: op(p, Exec).cwd, "/a/c"),
    "WORKDIR variable": Case("ENV d=/x\nWORKDIR $d/$UNSET/y", lambda p: config(p)["WorkingDir"], "/x/y"),
    "ONBUILD": Case("ONBUILD COPY . /x", lambda p: (config(p)["OnBuild"], history(p)), (["COPY . /x"], [])),
    "ONBUILD of the base": Case(
        "FROM onbuild\nRUN own",
        lambda p: ([one.args[-1] for one in ops(p, Exec)], "OnBuild" in config(p)),
        (["trigger", "own"], False),
    ),
    "ONBUILD here-document": Case(
        "FROM debian AS one\nONBUILD COPY <<E /x\n$h\nE\nFROM one",
        lambda p: copied(p).sources[0].document.content,  # type: ignore[union-attr]
        "\n",
    ),
    "STOPSIGNAL": Case(
        "STOPSIGNAL SIGINT", lambda p: (config(p)["StopSignal"], last(p)), ("SIGINT", "STOPSIGNAL SIGINT")
    ),
    "STOPSIGNAL number": Case("ARG s=9\nSTOPSIGNAL $s", lambda p: config(p)["StopSignal"], "9"),
    "SHELL": Case(
        'SHELL ["bash","-c"]\nRUN x\nCMD y',
        lambda p: (config(p)["Shell"], op(p, Exec).args, config(p)["Cmd"], history(p)[0]),
        (["bash", "-c"], ("bash", "-c", "x"), ["bash", "-c", "y"], "SHELL [bash -c]"),
    ),
    "MAINTAINER": Case(
        "MAINTAINER me <m@e>", lambda p: (p.config.author, last(p)), ("me <m@e>", "MAINTAINER me <m@e>")
    ),
    "HEALTHCHECK CMD": Case("HEALTHCHECK CMD a b", lambda p: config(p)["Healthcheck"], {"Test": ["CMD-SHELL", "a b"]}),
    "HEALTHCHECK CMD exec form": Case(
        'HEALTHCHECK CMD ["a","b"]', lambda p: config(p)["Healthcheck"], {"Test": ["CMD", "a", "b"]}
    ),
    "HEALTHCHECK NONE": Case(
        "HEALTHCHECK NONE",
        lambda p: (config(p)["Healthcheck"], last(p)[:25]),
        ({"Test": ["NONE"]}, "HEALTHCHECK {Test:[NONE] "),
    ),
    "HEALTHCHECK --interval": Case(
        "HEALTHCHECK --interval=1m30s CMD a", lambda p: config(p)["Healthcheck"]["Interval"], 90_000_000_000
    ),
    "HEALTHCHECK --timeout": Case(
        "HEALTHCHECK --timeout=3s CMD a", lambda p: config(p)["Healthcheck"]["Timeout"], 3_000_000_000
    ),
    "HEALTHCHECK --start-period": Case(
        "HEALTHCHECK --start-period=1s CMD a", lambda p: config(p)["Healthcheck"]["StartPeriod"], 1_000_000_000
    ),
    "HEALTHCHECK --start-interval": Case(
        "HEALTHCHECK --start-interval=500ms CMD a", lambda p: config(p)["Healthcheck"]["StartInterval"], 500_000_000
    ),
    "HEALTHCHECK --retries": Case(
        "HEALTHCHECK --interval=5m --retries=4 CMD a",
        lambda p: (config(p)["Healthcheck"]["Retries"], last(p)),
        (4, "HEALTHCHECK {Test:[CMD-SHELL a] Interval:5m0s Timeout:0s StartPeriod:0s StartInterval:0s Retries:4}"),
    ),
}

IMAGES = {"withcmd": image(Cmd=["old"]), "onbuild": image(OnBuild=["RUN trigger"])}


@pytest.mark.parametrize("name", CASES)
def test_conformance(name: str) -> None:
    case = CASES[name]
    text = case.text if "FROM " in case.text.upper() else f"FROM base\n{case.text}"
    assert case.pick(make(text, IMAGES, **case.options)) == case.expected
