"""What is known of how an image was built, for its provenance attestation.

Owns: which provenance a build is asked for, the facts of one platform's build. Does not own: the statement's form
(`proto.slsa`), storing it (`platformindex`).

mode=min has no values of build arguments and no steps. mode=max has both, but never values of secrets (nobody here
knows them), of proxies, or of arguments and variables whose names say that they are secret.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, NamedTuple

from dockyard.engine.builds.ground import Session, Tree
from dockyard.model.build import BuildOptions
from dockyard.model.errors import InvalidArgument
from dockyard.proto import buildcontext, references, slsa
from dockyard.proto.dockerfile.evaluate import names_secret
from dockyard.proto.dockerfile.ops import CopyOp, Exec, FetchGit, FetchUrl, Op, Plan, SourceContext, SourceImage, Vertex
from dockyard.proto.dockerfile.scope import PROXIES
from dockyard.proto.slsa import Facts, Material
from dockyard.proto.times import format_rfc3339

_FIELDS: Final = ("builder-id", "disabled", "mode", "version")
_TRUE: Final = ("1", "t", "true", "yes")
_HIDDEN: Final = "*****"


class Asked(NamedTuple):
    complete: bool  # mode=max
    version: str
    builder: str


def asked(options: BuildOptions) -> Asked | None:
    """The provenance that a build shall have; of several wishes the last. InvalidArgument naming what cannot be."""
    found: Asked | None = None
    for spec in options.attestations:
        fields = spec.fields
        disabled = fields.get("disabled", "").lower() in _TRUE
        if spec.type == "sbom" and not disabled:
            raise InvalidArgument("attestation type=sbom: no SBOM is made here: scan the image afterwards")
        if spec.type != "provenance":
            continue
        for name in fields:
            if name not in _FIELDS:
                raise InvalidArgument(f"attestation type=provenance: unknown parameter {name[:100]!r}")
        mode, version = fields.get("mode", "min"), fields.get("version", slsa.VERSIONS[0])
        if mode not in ("min", "max"):
            raise InvalidArgument(f"attestation type=provenance: invalid mode {mode[:100]!r}: min or max is expected")
        if version not in slsa.VERSIONS:
            words = " or ".join(slsa.VERSIONS)
            raise InvalidArgument(
                f"attestation type=provenance: invalid version {version[:100]!r}: {words} is expected"
            )
        found = None if disabled else Asked(mode == "max", version, fields.get("builder-id", ""))
    return found


def subjects(session: Session, plan: Plan) -> list[str]:
    """What the image is called in statements about it."""
    names = [references.parse(tag).with_default_tag() for tag in session.options.tags]
    return [slsa.image_url(name.familiar_repository, name.tag, plan.platform) for name in names] or ["_"]


def facts(session: Session, plan: Plan, trees: Mapping[int, Tree], asked: Asked) -> Facts:
    options, clock = session.options, session.ground.context.clock
    places = _reachable(plan)
    contexts = _local_contexts(session, (plan.vertices[place].op for place in places))
    remote = session.request.remote
    return Facts(
        platform=plan.platform,
        builder=asked.builder,
        invocation=secrets.token_hex(13),
        started=format_rfc3339(session.started),
        finished=format_rfc3339(clock()),
        source=buildcontext.public(remote) if remote else "",
        source_digest={},
        dockerfile=options.dockerfile,
        arguments=_arguments(options) if asked.complete else {},
        contexts=[*contexts, *([] if remote else ["dockerfile"])],
        secrets=sorted(options.secret_ids) if asked.complete else [],
        ssh=sorted(options.ssh_ids) if asked.complete else [],
        steps=_steps(plan, places) if asked.complete else [],
        materials=[found for place in places if (found := _material(session, plan.vertices[place], trees[place]))],
        complete=not contexts,
    )


def _reachable(plan: Plan) -> list[int]:
    """The vertices that this platform's image comes from, in order."""
    wanted: set[int] = set()
    waiting = [plan.result]
    while waiting:
        place = waiting.pop()
        if place not in wanted:
            wanted.add(place)
            waiting += plan.vertices[place].inputs
    return sorted(wanted)


def _local_contexts(session: Session, ops: Iterable[Op]) -> list[str]:
    """Contexts that only the client has; a URL's can be had again."""
    options, found = session.options, set[str]()
    for op in ops:
        if not isinstance(op, SourceContext):
            continue
        named = options.contexts.get(op.name)
        if not session.request.remote if named is None else named.kind == "directory":
            found.add(op.name or "context")
    return sorted(found)


def _arguments(options: BuildOptions) -> dict[str, str]:
    """Build arguments and labels as BuildKit names them."""
    found = {
        f"build-arg:{name}": _HIDDEN if names_secret(name) else value
        for name, value in sorted(options.build_args.items())
        if value is not None and name.upper() not in PROXIES
    }
    found |= {f"label:{name}": value for name, value in sorted(options.labels.items())}
    return found | ({"target": options.target} if options.target else {})


# --- materials --------------------------------------------------------------------------------------------------------


def _material(session: Session, vertex: Vertex, tree: Tree) -> Material | None:
    op = vertex.op
    if isinstance(op, SourceImage):
        return _image(session, op)
    digest = tree.record.digest if tree.record is not None else ""
    if isinstance(op, FetchUrl):
        return Material(buildcontext.public(op.url), _digest(digest or op.checksum))
    if isinstance(op, FetchGit):
        return Material(buildcontext.public(op.url) + (f"#{op.ref}" if op.ref else ""), _digest(digest or op.checksum))
    return None


def _digest(text: str) -> dict[str, str]:
    kind, colon, value = text.partition(":")
    if not colon:
        return {"sha1": text} if text else {}
    return {kind: value}


def _image(session: Session, op: SourceImage) -> Material:
    """A base image by the digest that its registry knows it by; one that is only here, by its own."""
    reference = references.parse(op.ref)
    image = session.images[op.ref, op.platform]
    known = [references.from_complete(name) for name in image.record.digests]
    digests = [name.digest for name in known if name.repository == reference.repository]
    url = slsa.image_url(reference.familiar_repository, reference.with_default_tag().tag, op.platform)
    return Material(url, _digest((digests or [image.record.manifest or image.id])[0]))


# --- steps ------------------------------------------------------------------------------------------------------------


def _steps(plan: Plan, places: Sequence[int]) -> list[dict[str, Any]]:
    numbers = {place: number for number, place in enumerate(places)}
    return [
        {
            "id": f"step{number}",
            "op": {"name": plan.vertices[place].name, **_operation(plan.vertices[place].op)},
            "inputs": [f"step{numbers[other]}:0" for other in plan.vertices[place].inputs],
        }
        for place, number in numbers.items()
    ]


def _operation(op: Op) -> dict[str, Any]:
    if isinstance(op, Exec):
        meta = {"args": list(op.args), "env": [_variable(text) for text in op.env], "cwd": op.cwd, "user": op.user}
        mounts = [{"type": mount.type, "dest": mount.target, "id": mount.id} for mount in op.mounts]
        return {"exec": {"meta": meta, "mounts": mounts, "network": op.network}}
    if isinstance(op, CopyOp):
        names = [source.path if source.document is None else f"<<{source.document.name}" for source in op.sources]
        return {"file": {"sources": names, "dest": op.dest, "chown": op.chown, "chmod": op.chmod}}
    if isinstance(op, SourceImage):
        return {"source": {"identifier": f"docker-image://{op.ref}"}}
    if isinstance(op, FetchUrl | FetchGit):
        return {"source": {"identifier": buildcontext.public(op.url)}}
    if isinstance(op, SourceContext):
        return {"source": {"identifier": f"local://{op.name or 'context'}"}}
    return {type(op).__name__: {}}


def _variable(text: str) -> str:
    name, _, value = text.partition("=")
    return f"{name}={_HIDDEN if names_secret(name) else value}"
