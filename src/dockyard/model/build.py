"""What a build is asked to do, and what it tells while it does it.

Owns: `BuildOptions` (everything a client may say about a build, as values), the events of a build. Does not own: the
Dockerfile's language (`proto.dockerfile`), the context's bytes, the values of secrets (options name secrets by ID only,
so that options can be logged and hashed), how any of it is carried out (`engine.builds`).

Units as in `model.container`: sizes are bytes, periods microseconds. Platforms are texts ("linux/arm64"), normal form.
"""

from __future__ import annotations

from typing import Any, Final, Literal

from msgspec import Struct, field

from dockyard.model.container import Ulimit


class NamedContext(Struct, frozen=True):
    """A `--build-context NAME=…`. `kind` says what `value` is.

    directory: the client sends it (value: its own name for messages); image: a reference (`docker-image://`);
    git, http: a URL; oci-layout: what follows `oci-layout://`; target: a bake target's name.
    """

    kind: Literal["directory", "image", "git", "http", "oci-layout", "target"]
    value: str = ""


class TypedSpec(Struct, frozen=True):
    """`type=registry,ref=x,mode=max` of `--cache-from`, `--cache-to`, `--output`: the type and the other fields."""

    type: str
    fields: dict[str, str] = field(default_factory=dict)


class BuildOptions(Struct, frozen=True, kw_only=True):
    """One build. Defaults are what `docker build .` means."""

    dockerfile: str = "Dockerfile"  # its name, for messages
    target: str = ""  # a stage's name or index; "" = the last
    build_args: dict[str, str | None] = field(default_factory=dict)  # None: named without a value, as if not given
    labels: dict[str, str] = field(default_factory=dict)
    annotations: dict[str, str] = field(default_factory=dict)
    tags: tuple[str, ...] = ()
    platforms: tuple[str, ...] = ()  # () = the build platform
    build_platform: str = "linux/amd64"
    contexts: dict[str, NamedContext] = field(default_factory=dict)
    pull: bool = False
    no_cache: bool = False
    no_cache_filter: tuple[str, ...] = ()  # stage names
    cache_from: tuple[TypedSpec, ...] = ()
    cache_to: tuple[TypedSpec, ...] = ()
    outputs: tuple[TypedSpec, ...] = ()  # () = an image in the store
    source_date_epoch: int | None = None  # seconds; the build argument SOURCE_DATE_EPOCH sets it too
    squash: bool = False
    remove: bool = True  # --rm
    force_remove: bool = False  # --force-rm
    allow: frozenset[str] = frozenset()  # entitlements granted: network.host, security.insecure, device
    attestations: tuple[TypedSpec, ...] = ()  # provenance, sbom
    secret_ids: frozenset[str] = frozenset()  # which secrets the client offers; the values travel elsewhere
    ssh_ids: frozenset[str] = frozenset()
    check: bool = False  # lint only
    # of RUN
    network_mode: str = ""
    extra_hosts: tuple[str, ...] = ()  # "name:address"
    shm_size: int = 0
    ulimits: tuple[Ulimit, ...] = ()
    cgroup_parent: str = ""
    memory: int = 0
    memory_swap: int = 0
    cpu_shares: int = 0
    cpu_period: int = 0
    cpu_quota: int = 0
    cpuset_cpus: str = ""
    cpuset_mems: str = ""
    security_opt: tuple[str, ...] = ()
    isolation: str = ""


class BuildEvent(Struct, frozen=True, tag=True):
    """Base of what a build tells. `vertex` is a vertex's ID, unique in the build (over all platforms)."""


class VertexInfo(Struct, frozen=True):
    id: str
    name: str  # "[build 2/4] RUN make"
    inputs: tuple[str, ...] = ()
    stage: str = ""
    platform: str = ""
    first_line: int = 0  # of the Dockerfile, 1-based; 0: belongs to no line
    last_line: int = 0


class StepInfo(Struct, frozen=True):
    """One step as the classic builder counts them: "Step {number}/{of} : {text}"."""

    number: int
    of: int
    text: str  # "RUN make"
    vertex: str | None = None  # done when this vertex is; None: changes nothing but the configuration
    triggers: int = 0  # FROM: "# Executing n build trigger(s)"


class Planned(BuildEvent, frozen=True):
    """Before anything else: what there is to do."""

    vertices: tuple[VertexInfo, ...] = ()
    steps: tuple[StepInfo, ...] = ()


class VertexStarted(BuildEvent, frozen=True):
    vertex: str
    time_ns: int = 0


class VertexDone(BuildEvent, frozen=True):
    """`error` is "" for success. A cached vertex has no VertexStarted of its own."""

    vertex: str
    cached: bool = False
    error: str = ""
    time_ns: int = 0
    image_id: str = ""  # for the classic output's " ---> ", where the step made one


class VertexLog(BuildEvent, frozen=True):
    vertex: str
    data: bytes
    stream: Literal["stdout", "stderr"] = "stdout"
    time_ns: int = 0


class VertexProgress(BuildEvent, frozen=True):
    """`total` 0 = unknown."""

    vertex: str
    label: str = ""
    current: int = 0
    total: int = 0


UNUSED_ARGUMENT: Final = "UnconsumedBuildArg"  # the rule of build arguments that no ARG asks for


class Warned(BuildEvent, frozen=True):
    """A finding of the build checks or something else worth a line. `source`: the lines that it is about."""

    rule: str
    text: str
    detail: str = ""
    url: str = ""
    first_line: int = 0
    last_line: int = 0
    source: str = ""
    level: int = 1


class BuildResult(BuildEvent, frozen=True):
    """The last event of a build that succeeded; a build that fails raises instead."""

    image_id: str = ""  # "sha256:…" of the configuration; "" for outputs that make no image
    digest: str = ""  # of the manifest or index, where one was written
    names: tuple[str, ...] = ()
    platforms: dict[str, str] = field(default_factory=dict)  # of each platform ("linux/arm64") the image's ID
    metadata: dict[str, Any] = field(default_factory=dict)  # by buildx's names: containerimage.descriptor, …
    caches: tuple[tuple[int, str], ...] = ()  # of those of cache_to that the client keeps: number, ID to fetch it by
