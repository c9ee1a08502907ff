"""`dockyard build`."""

from __future__ import annotations

import os

from dockyard.edge.cli.building import session
from dockyard.edge.cli.building.packing import Packer
from dockyard.edge.cli.building.source import Source, find
from dockyard.edge.cli.call import Body, Call, complain, say
from dockyard.edge.cli.errors import CliError
from dockyard.edge.cli.flags import BYTES, INT, Flag, Kind, flag, many, value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

_CALLS = ("build", "check")
_FETCHED = ("docker", "local", "oci", "tar")  # outputs that come to the client


def _build(call: Call) -> int:
    try:
        return _dispatch(call)
    except CliError:
        raise
    except Exception as error:
        from dockyard.model.errors import DockyardError

        if isinstance(error, DockyardError):  # what reads the little languages of flags and files says what is wrong
            raise CliError(error.message) from None
        raise


def _dispatch(call: Call) -> int:
    _check_flags(call)
    argument = _argument(call)
    if call.on("check") or call.text("call") == "check":
        from dockyard.edge.cli.building.check import check

        return check(call, find(argument, call.text("file")))
    if call.on("watch"):
        return _watch(call, argument)
    _once(call, find(argument, call.text("file")), _named(call))
    return 0


def _argument(call: Call) -> str:
    if call.arguments:
        return call.arguments[0]
    raise CliError("a context is missing: a directory (usually .), a URL, or - for stdin")


def _check_flags(call: Call) -> None:
    if call.text("progress") not in session.MODES:
        words = ", ".join(session.MODES)
        raise CliError(f"invalid value {call.text('progress')!r} for --progress: must be one of {words}")
    if call.text("call") not in ("", *_CALLS):
        raise CliError(f"invalid value {call.text('call')!r} for --call: must be one of {', '.join(_CALLS)}")
    if call.texts("cache-from") and call.on("no-cache"):
        complain("WARNING: --no-cache makes --cache-from without effect")


def is_dockyard(call: Call) -> bool:
    """Whether the daemon has the additions of docs/build.md."""
    if call.api.version and call.api.server:
        return call.api.server.startswith("Dockyard")
    return str((call.api.get("/version").get("Platform") or {}).get("Name")).startswith("Dockyard")


def _named(call: Call) -> dict[str, str | Source]:
    """`--build-context`: a directory becomes a source, whatever else is said to the daemon as it is."""
    found: dict[str, str | Source] = {}
    for text in call.texts("build-context"):
        from dockyard.proto.buildspec import named_context

        name, target = named_context(text)
        if "://" in target or target.startswith("git@"):
            found[name] = target
            continue
        root = os.path.realpath(target)
        if not os.path.isdir(root):
            raise CliError(f"failed to get build context {name}: {target} is no directory")
        found[name] = _context_of(root)
    return found


def _context_of(root: str) -> Source:
    """A further directory: its own .dockerignore counts, a Dockerfile in it means nothing."""
    from dockyard.proto.dockerignore import Ignore

    path = os.path.join(root, ".dockerignore")
    rules = None
    if os.path.isfile(path):
        with open(path, encoding="utf-8", errors="surrogateescape") as file:
            rules = Ignore.parse(file.read())
    return Source("", Packer(root, rules), root=root, rules=rules)


def _outputs(call: Call) -> list[tuple[str, dict[str, str]]]:
    found: list[tuple[str, dict[str, str]]] = []
    for text in call.texts("output"):
        from dockyard.proto.buildspec import output

        found.append(output(text))
    if call.on("push"):
        found.append(("image", {"push": "true"}))
    return [(kind, fields) for kind, fields in found if kind != "docker" or fields.get("dest")]  # else: in the store


def _once(call: Call, source: Source, named: dict[str, str | Source]) -> session.Result:
    outputs = _outputs(call)
    if call.on("compress") and source.body is not None:
        source.body = _compressed(source.body)
    if not is_dockyard(call):
        if named or outputs:
            raise CliError("the daemon is no Dockyard: it takes neither named contexts nor outputs")
        result = session.run_classic(call, source)
    else:
        contexts = {
            name: each if isinstance(each, str) else session.upload(call, each.body or b"")
            for name, each in named.items()
        }
        wanted = [{"Type": kind, "Attrs": {k: v for k, v in a.items() if k != "dest"}} for kind, a in outputs]
        caches = _caches(call)
        result = session.run(call, source, contexts, wanted)
        if result.outputs:
            from dockyard.edge.cli.building.output import fetch

            for each in result.outputs:
                kind, attributes = outputs[int(each["index"])]
                if attributes.get("dest"):
                    fetch(call, str(each["id"]), kind, attributes["dest"], str(each.get("directory") or ""))
        for each in result.caches:
            from dockyard.edge.cli.building import cachedirectory

            cachedirectory.receive(call, str(each["id"]), caches[int(each["index"])])
    session.keep(call, result)
    if call.on("quiet") or call.text("progress") == "quiet":
        say(result.image)
    return result


def _caches(call: Call) -> list[dict[str, str]]:
    """The fields of each `--cache-to`."""
    if not call.texts("cache-to"):
        return []
    from dockyard.edge.cli.building import cachedirectory

    return cachedirectory.check(call)


def _compressed(body: Iterable[bytes]) -> Iterator[bytes]:
    import zlib

    squeezer = zlib.compressobj(wbits=31)
    for piece in body:
        yield squeezer.compress(piece)
    yield squeezer.flush()


def _watch(call: Call, argument: str) -> int:
    """Build, wait for a change, build again, until the user has had enough."""
    from dockyard.edge.cli.building.watch import look, wait

    while True:
        source, named = find(argument, call.text("file")), _named(call)
        if not source.root:
            raise CliError("--watch needs a directory as context")
        sources = [source, *(each for each in named.values() if isinstance(each, Source))]
        before = [look(each) for each in sources]
        try:
            _once(call, source, named)
        except CliError as error:
            if error.message:
                complain(f"dockyard: {error.message}")
        complain(f"Watching {argument} for changes (Ctrl-C ends)")
        names = wait(sources, before)
        shown = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
        complain(f"Changed: {shown}")
        while not os.path.isdir(source.root):  # an editor, or git, may put a new one in its place
            wait([], [])


def _ulimit(text: str) -> object:
    from dockyard.edge.cli.container_flags import ULIMIT

    return ULIMIT.convert(text)


FLAGS: tuple[Flag, ...] = (
    many("--add-host", 'Add a custom host-to-IP mapping ("host:ip")'),
    many("--allow", "Allow extra privileged entitlement (network.host, security.insecure)"),
    many("--annotation", "Add annotation to the image"),
    many("--attest", "Attestation parameters (type=provenance,mode=max)"),
    many("--build-arg", "Set build-time variables"),
    many("--build-context", "Additional build contexts (name=path, name=docker-image://image, name=URL)"),
    value("--builder", "Accepted for docker's sake: the daemon is the builder", hidden=True),
    many("--cache-from", 'External cache sources ("user/app:cache", "type=local,src=path")'),
    many("--cache-to", 'Cache export destinations ("type=registry,ref=user/app:cache", "type=local,dest=path")'),
    value("--call", 'Set method for evaluating build ("check")', default="build", shown_default='"build"'),
    value("--cgroup-parent", 'Set the parent cgroup for the "RUN" instructions during build'),
    flag("--check", 'Shorthand for "--call=check"'),
    flag("--compress", "Compress the build context using gzip"),
    value("--cpu-period", "Limit the CPU CFS (Completely Fair Scheduler) period", INT),
    value("--cpu-quota", "Limit the CPU CFS (Completely Fair Scheduler) quota", INT),
    value("-c --cpu-shares", "CPU shares (relative weight)", INT),
    value("--cpuset-cpus", "CPUs in which to allow execution (0-3, 0,1)"),
    value("--cpuset-mems", "MEMs in which to allow execution (0-3, 0,1)"),
    flag("--disable-content-trust", "Accepted for docker's sake", default=True, hidden=True),
    value("-f --file", 'Name of the Dockerfile (default: "PATH/Dockerfile")', complete="file"),
    flag("--force-rm", "Accepted for docker's sake: a step's container never stays", hidden=True),
    value("--iidfile", "Write the image ID to a file", complete="file"),
    value("--isolation", "Container isolation technology (default)"),
    many("--label", "Set metadata for an image"),
    flag("--load", 'Shorthand for "--output=type=docker"'),
    value("-m --memory", "Memory limit", BYTES),
    value("--memory-swap", "Swap limit equal to memory plus swap: -1 to enable unlimited swap", BYTES),
    value("--metadata-file", "Write build result metadata to a file", complete="file"),
    value(
        "--network", 'Set the networking mode for the "RUN" instructions during build', complete="bridge host none",
        shown_default='"default"',
    ),
    flag("--no-cache", "Do not use cache when building the image"),
    many("--no-cache-filter", "Do not cache specified stages"),
    many("-o --output", 'Output destination ("type=local,dest=path")', complete="file"),
    many("--platform", "Set target platform for build"),
    value(
        "--progress", "Set type of progress output", default=os.environ.get("BUILDKIT_PROGRESS") or "auto",
        shown_default='"auto"', complete="auto plain tty rawjson quiet",
    ),
    value("--provenance", 'Shorthand for "--attest=type=provenance"'),
    flag("--pull", "Always attempt to pull all referenced images"),
    flag("--push", 'Shorthand for "--output=type=registry"'),
    flag("-q --quiet", "Suppress the build output and print image ID on success"),
    flag("--rm", "Remove intermediate containers after a successful build", default=True, hidden=True),
    value("--sbom", 'Shorthand for "--attest=type=sbom"'),
    many("--secret", 'Secret to expose to the build ("id=mysecret[,src=/local/secret]", "id=mysecret,env=VARIABLE")'),
    many("--security-opt", "Security options"),
    value("--shm-size", 'Shared memory size for build containers', BYTES),
    flag("--squash", "Squash newly built layers into a single new layer"),
    many("--ssh", 'SSH agent socket or keys to expose to the build ("default|<id>[=<socket>|<key>[,<key>]]")'),
    many("-t --tag", 'Image identifier ("[registry/]repository[:tag]")'),
    value("--target", "Set the target build stage to build"),
    many("--ulimit", "Ulimit options", Kind("ulimit", _ulimit)),
    flag("-w --watch", "Build again whenever something of the context changes"),
)  # fmt: skip
build = Body(_build, FLAGS)
