"""What a build consists of, as values: the operations and the graph.

Owns: the operations that the executor carries out, `Vertex`, `Plan`, `BaseRef`. Does not own: how a Dockerfile becomes
a plan (`plan`), how operations are carried out (`engine.builds`).

An operation never contains an input's content: positions in `Vertex.inputs` stand for it, so that an operation's key
and its inputs' digests together are what the result depends on.
"""

from __future__ import annotations

from collections.abc import Set
from typing import Literal

import msgspec
from msgspec import Struct

from dockyard.model.oci import History, ImageConfig, RootFS
from dockyard.proto.dockerfile.instructions import Range, Warning
from dockyard.proto.times import SECOND, format_rfc3339


class Op(Struct, frozen=True, tag=True):
    """Base of the operations."""

    def key(self) -> bytes:
        """Canonical bytes of everything the operation's result depends on besides its inputs."""
        return msgspec.json.encode(self, order="deterministic")


class Scratch(Op, frozen=True):
    """The empty file system."""


class SourceImage(Op, frozen=True):
    """An image's file system. Its key is only a name: the cache must use the resolved image's chain."""

    ref: str
    platform: str  # "linux/amd64"


class SourceContext(Op, frozen=True):
    """The build context ("") or a named one that is a directory, git or http source, as a tree."""

    name: str


class HeredocFile(Struct, frozen=True):
    """`content` is complete (variables substituted)."""

    name: str
    content: str
    mode: int = 0o644


class ExecMount(Struct, frozen=True, kw_only=True):
    """A mount of one RUN. `target` is absolute and clean; `source` is a clean absolute path within the input."""

    type: Literal["bind", "cache", "secret", "ssh", "tmpfs"]
    target: str  # "" for a secret that is given as a variable only
    input: int | None = None  # bind, cache with from: position in Vertex.inputs (None: cache without from: empty)
    source: str = "/"
    read_only: bool = False  # bind: written changes are thrown away unless read-only (EROFS)
    id: str = ""  # cache: complete (with namespace); secret, ssh: the client's ID
    sharing: Literal["shared", "private", "locked"] = "shared"
    required: bool = False
    mode: int | None = None  # cache 0755, secret 0400, ssh 0600 unless given
    uid: int = 0
    gid: int = 0
    size: int = 0  # tmpfs, bytes; 0 = no limit
    env: str | None = None  # secret: the variable to set


class Exec(Op, frozen=True, kw_only=True):
    """RUN. `inputs[0]` is the root file system (written to); other inputs are read by `mounts`.

    `env` is complete ("K=V", with build arguments and PATH). `files` appear read-only below /dev/pipes.
    `proxy` and `ssh`/`secret` values are not part of the key.
    """

    args: tuple[str, ...]
    env: tuple[str, ...] = ()
    cwd: str = "/"
    user: str = ""
    mounts: tuple[ExecMount, ...] = ()
    network: Literal["default", "none", "host"] = "default"
    security: Literal["sandbox", "insecure"] = "sandbox"
    devices: tuple[str, ...] = ()
    files: tuple[HeredocFile, ...] = ()
    hostname: str = ""
    proxy: tuple[str, ...] = ()  # HTTP_PROXY=… for the process; neither in the key nor in the image
    epoch: int | None = None  # SOURCE_DATE_EPOCH, as in CopyOp

    def key(self) -> bytes:
        bare = msgspec.structs.replace(self, proxy=())
        return msgspec.json.encode(bare, order="deterministic")


class CopySource(Struct, frozen=True, kw_only=True):
    """What is copied: files matching `path` below input number `input`, or a here-document.

    `path` is a clean absolute path in the input, possibly with Go's wildcards (`*`, `?`, `[…]`, `\\`): `pattern` says
    whether they mean anything. `unpack`: None = no; "auto" = a local archive is unpacked (ADD), else copied;
    "always" = ADD --unpack=true: an archive is unpacked, also one that was fetched.
    `contents`: a directory's contents are copied (always for directories but with --parents).
    `pivot`: with --parents, the `/./` point: how many leading components of `path` are not recreated; `**` is a
    wildcard with --parents only, and only behind the pivot. A `path` without wildcards must exist, a pattern may match
    nothing.
    """

    input: int | None = None
    path: str = "/"
    pattern: bool = True
    unpack: Literal["auto", "always"] | None = None
    document: HeredocFile | None = None
    pivot: int = 0


class CopyOp(Op, frozen=True, kw_only=True):
    """COPY and ADD. `inputs[0]` is the file system that is added to; sources name the others.

    `dest` is absolute and clean; `dest_directory`: it ended with a slash (or must be a directory because there are
    several sources). `chown` "user:group" by names or numbers ("" = 0:0), `chmod` octal ("0755") or symbolic ("u+x").
    With `link` the layer depends on no base: neither its content nor its cache key (chown by name is then looked up in
    nothing and must be numeric or is looked up in the base as Docker does).
    """

    sources: tuple[CopySource, ...]
    dest: str
    dest_directory: bool = False
    chown: str = ""
    chmod: str = ""
    link: bool = False
    parents: bool = False
    excludes: tuple[str, ...] = ()
    epoch: int | None = None  # SOURCE_DATE_EPOCH: modification times are at most this


class FetchUrl(Op, frozen=True, kw_only=True):
    """ADD https://…: one file named `name` in an otherwise empty tree, mode 0600 unless chmod, owner as given."""

    url: str
    name: str
    checksum: str = ""  # "sha256:…"


class FetchGit(Op, frozen=True, kw_only=True):
    """ADD of a git repository: its checkout as a tree. Checked values: nothing of it begins with "-"."""

    url: str
    ref: str = ""
    subdir: str = ""
    keep_git_dir: bool = False
    checksum: str = ""  # a commit's hash (prefix)
    submodules: bool = True


class MakeDirectory(Op, frozen=True, kw_only=True):
    """WORKDIR: the directory and its parents, mode 0755, if it is not there. Nothing changed: no layer."""

    path: str
    user: str = ""
    epoch: int | None = None


class Vertex(Struct, frozen=True, kw_only=True):
    """One node. `inputs` are positions in `Plan.vertices`, always smaller than this one's own."""

    op: Op
    inputs: tuple[int, ...] = ()
    name: str = ""  # "[build 2/4] RUN make"
    range: Range = Range()
    stage: str = ""
    platform: str = ""
    ignore_cache: bool = False


class Step(Struct, frozen=True):
    """A step as the classic builder numbers them ("Step number/of : text")."""

    number: int
    of: int
    text: str
    vertex: int | None = None  # None: configuration only
    triggers: int = 0


class Made(Struct, frozen=True):
    """One entry of history that this build adds; with a vertex it may be a layer."""

    created_by: str
    vertex: int | None = None
    comment: str = "buildkit.dockerfile.v0"


class Plan(Struct, frozen=True, kw_only=True):
    """`result`: the vertex whose file system the image has (a Scratch vertex for an empty one).

    `config` has the base image's rootfs and history, this build's additions are `made`: which of them are layers is
    known only when they are built. `base`: the vertex of the base image (or Scratch): the result is the base's layers
    and then those of `layers`, in order.
    """

    vertices: tuple[Vertex, ...]
    result: int
    base: int
    layers: tuple[int, ...]
    config: ImageConfig
    made: tuple[Made, ...] = ()
    steps: tuple[Step, ...] = ()
    epoch: int | None = None
    platform: str = ""
    stage: str = ""
    warnings: tuple[Warning, ...] = ()  # of the build checks, those of the stages that are built
    unused_args: tuple[str, ...] = ()  # build arguments that no ARG asks for

    def image(self, diff_ids: tuple[str, ...], with_layer: Set[int], created: str) -> ImageConfig:
        """The finished configuration.

        `diff_ids`: of all layers, the base's included. `with_layer`: the vertices of `layers` that made one.
        `created`: RFC 3339; the epoch's moment takes its place where SOURCE_DATE_EPOCH is set.
        """
        if self.epoch is not None:
            created = format_rfc3339(self.epoch * SECOND) if self.epoch else "1970-01-01T00:00:00Z"
        history = [
            History(
                created=created,
                created_by=made.created_by,
                comment=made.comment,
                empty_layer=made.vertex not in with_layer,
            )
            for made in self.made
        ]
        return msgspec.structs.replace(
            self.config,
            created=created,
            rootfs=RootFS(diff_ids=list(diff_ids)),
            history=[*(self.config.history or ()), *history],
        )


class BaseRef(Struct, frozen=True):
    """An image that must be resolved before the plan can be made. It is its own key in `configs`."""

    ref: str  # as written, variables resolved: "debian:12", or "oci-layout://…"
    platform: str
    range: Range = Range()
    oci_layout: bool = False
    hint: str = ""  # " (did you mean build?)" for the message if there is no such image

    @property
    def key(self) -> tuple[str, str]:
        return self.ref, self.platform
