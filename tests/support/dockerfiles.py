"""Dockerfiles in, plans out, without an engine: base images are made up."""

from __future__ import annotations

from typing import Any, TypeVar

from dockyard.model.build import BuildOptions
from dockyard.model.oci import ImageConfig, RootFS
from dockyard.proto.dockerfile.ops import Op, Plan
from dockyard.proto.dockerfile.parse import parse
from dockyard.proto.dockerfile.plan import bases, plan
from dockyard.proto.dockerignore import Ignore

LAYER = "sha256:" + "a" * 64
BASE_ENV = ["PATH=/bin"]

T = TypeVar("T", bound=Op)


def image(**config: Any) -> ImageConfig:
    """A base image of one layer with these fields of `config`."""
    return ImageConfig(
        os="linux",
        architecture="amd64",
        config={"Env": BASE_ENV, **config},
        rootfs=RootFS(diff_ids=[LAYER]),
    )


def make(text: str, images: dict[str, ImageConfig] | None = None, ignore: Ignore | None = None, **options: Any) -> Plan:
    """The plan of a Dockerfile. Images that `images` does not have are plain."""
    dockerfile = parse(text.encode())
    asked = BuildOptions(**options)
    configs: dict[tuple[str, str], ImageConfig] = {}
    while missing := bases(dockerfile, asked, configs):
        for ref in missing:
            configs[ref.key] = (images or {}).get(ref.ref) or image()
    return plan(dockerfile, asked, configs, ignore=ignore)


def ops(made: Plan, kind: type[T]) -> list[T]:
    """The operations of one kind, in order."""
    return [vertex.op for vertex in made.vertices if isinstance(vertex.op, kind)]


def op(made: Plan, kind: type[T]) -> T:
    """The only one of its kind."""
    (found,) = ops(made, kind)
    return found


def config(made: Plan) -> dict[str, Any]:
    return made.config.config or {}


def history(made: Plan) -> list[str]:
    return [entry.created_by for entry in made.made]
