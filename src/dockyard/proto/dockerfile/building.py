"""A stage while its instructions are gone through: environment, configuration, file system so far.

Owns: `Building` (the mutable state of one stage), `Vertices` (the graph as it grows), the limits of a plan's size.
Does not own: what each instruction does to it (`evaluate`, `evaluate_run`, `evaluate_copy`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from msgspec import structs

from dockyard.model.container import ContainerConfig
from dockyard.model.errors import InvalidArgument
from dockyard.model.oci import MAX_LAYERS, ImageConfig, Platform, config_document, run_config
from dockyard.proto import platforms
from dockyard.proto.dockerfile import scope
from dockyard.proto.dockerfile.checks import Checks
from dockyard.proto.dockerfile.errors import Problem, closest
from dockyard.proto.dockerfile.graph import Graph, Node, label
from dockyard.proto.dockerfile.instructions import Instruction
from dockyard.proto.dockerfile.ops import Made, Op, Vertex
from dockyard.proto.dockerfile.words import Rules, expand

DEFAULT_PATH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
DEFAULT_SHELL: Final = ("/bin/sh", "-c")
MAX_TEXT: Final = 64 << 20  # characters that the variables and the history of one plan may come to
_MAX_NAME: Final = 1000  # characters of a vertex' name
_ENTRY: Final = 64  # what an inherited entry counts as: bytes that it takes
_DISPLAY: Final = Rules(keep_quotes=True, keep_unset=True)


class Budget:
    """What a plan may still come to: `ENV a=$a$a` doubles with every line."""

    def __init__(self) -> None:
        self._left = MAX_TEXT

    def spend(self, text: str) -> str:
        self.spend_size(len(text))
        return text

    def spend_size(self, size: int) -> None:
        self._left -= size
        if self._left < 0:
            raise Problem(f"the variables and the history of the file come to more than {MAX_TEXT} characters")


class Vertices:
    """The graph as it grows. What is the same everywhere (contexts, base images) is in it once."""

    def __init__(self) -> None:
        self.all: list[Vertex] = []
        self._shared: dict[Op, int] = {}

    def add(self, vertex: Vertex) -> int:
        self.all.append(vertex)
        return len(self.all) - 1

    def share(self, vertex: Vertex) -> int:
        found = self._shared.get(vertex.op)
        if found is None:
            found = self._shared[vertex.op] = self.add(vertex)
        return found

    def rename(self, position: int, name: str) -> None:
        vertex = self.all[position]
        if not vertex.name:
            self.all[position] = structs.replace(vertex, name=name)


class Building:
    """One stage. `env`: what variables are worth (ENV and ARG); `image_env`: what the image will have of it."""

    def __init__(self, graph: Graph, node: Node, checks: Checks, vertices: Vertices, budget: Budget) -> None:
        self.graph, self.node, self.checks, self.vertices, self.budget = graph, node, checks, vertices, budget
        self.rules = Rules(graph.dockerfile.escape)
        self.label = label(node.stage)
        self.ignore_cache = _ignores_cache(graph, node)
        self.env: dict[str, str] = {}
        self.args: dict[str, str | None] = {}
        self.image_env: dict[str, str] = {}
        self.labels: dict[str, str] = {}
        self.exposed: dict[str, object] = {}
        self.volumes: dict[str, object] = {}
        self.on_build: list[str] = []
        self.config = ContainerConfig()
        self.image = ImageConfig()
        self.author = ""
        self.unknown = False  # the base image is not known: nothing can be said about its variables
        self.vertex = -1
        self.base = -1
        self.layers: list[int] = []
        self.made: list[Made] = []
        self.workdir_set = False
        self.in_trigger = False  # the instruction comes from the base image's ONBUILD
        self.placed: dict[str, Instruction] = {}  # CMD, ENTRYPOINT, HEALTHCHECK of this very stage
        self.ends: list[int | None] = []  # per instruction of its own (not of triggers): the vertex it made
        self._numbered: list[tuple[int, str, bool]] = []

    # Beginnings -------------------------------------------------------------------------------------------------

    def from_image(self, image: ImageConfig, what: str) -> None:
        """On an image. InvalidArgument if its configuration is none."""
        self.image = structs.replace(image, created=None)
        self.author = image.author
        config = run_config(image, what)
        self.config = config
        self.image_env = dict(entry.partition("=")[::2] for entry in config.env or ())
        self.labels = dict(config.labels or {})
        self.exposed = dict(config.exposed_ports or {})
        self.volumes = dict(config.volumes or {})
        self._begin()

    def from_nothing(self, platform: str) -> None:
        parsed = platforms.parse(platform, Platform("amd64", "linux"))
        self.image = ImageConfig(architecture=parsed.architecture, os=parsed.os, variant=parsed.variant)
        self.config = ContainerConfig(working_dir="/")
        self._begin()

    def from_stage(self, other: Building) -> None:
        """On another stage. Problem."""
        entries = len(other.env) + len(other.image_env) + len(other.labels) + len(other.exposed) + len(other.volumes)
        self.budget.spend_size(_ENTRY * entries + len(other.made))
        self.image, self.author, self.unknown = other.image, other.author, other.unknown
        self.config = structs.replace(other.config)
        self.image_env, self.labels = dict(other.image_env), dict(other.labels)
        self.exposed, self.volumes = dict(other.exposed), dict(other.volumes)
        self.env, self.args = dict(other.env), dict(other.args)
        self.vertex, self.base = other.vertex, other.base
        self.layers, self.made = list(other.layers), list(other.made)
        self.workdir_set = other.workdir_set

    def _begin(self) -> None:
        self.image_env.setdefault("PATH", DEFAULT_PATH)
        self.env = dict(self.image_env)
        self.config.on_build = None

    # Words ------------------------------------------------------------------------------------------------------

    def expand(self, text: str, instruction: Instruction) -> str:
        """A word with its variables resolved. Problem."""
        return self._expanded(text, instruction, self.rules)

    def expand_document(self, text: str, instruction: Instruction) -> str:
        """A here-document: quotes are characters like others, and the escape character is always the backslash."""
        return self._expanded(text, instruction, Rules(ignore_quotes=True))

    def expand_words(self, text: str, instruction: Instruction) -> list[str]:
        result = expand(text, self.env, self.rules)
        self.budget.spend(result.text)
        self._report_undefined(result.unset, instruction)
        return result.words

    def _expanded(self, text: str, instruction: Instruction, rules: Rules) -> str:
        if "$" not in text and rules is not self.rules:
            result_text = expand(text, {}, rules).text
            return self.budget.spend(result_text)
        result = expand(text, self.env, rules)
        self._report_undefined(result.unset, instruction)
        return self.budget.spend(result.text)

    def _report_undefined(self, names: set[str], instruction: Instruction) -> None:
        if self.unknown:
            return
        for name in sorted(names - self.args.keys() - scope.NOT_ENVIRONMENT):
            meant = closest(name, self.env)
            hint = f" (did you mean ${meant}?)" if meant else ""
            self.checks.report("UndefinedVar", f"Usage of undefined variable '${name}'{hint}", instruction)

    # Results ----------------------------------------------------------------------------------------------------

    @property
    def cwd(self) -> str:
        return self.config.working_dir or "/"

    @property
    def shell(self) -> tuple[str, ...]:
        return tuple(self.config.shell or DEFAULT_SHELL)

    def record(self, created_by: str, vertex: int | None = None) -> None:
        """An entry of history."""
        self.made.append(Made(self.budget.spend(created_by), vertex))

    def number(self, vertex: int, text: str, *, trigger: bool = False) -> None:
        """Give a vertex its number in the stage ("[build 2/4] …"); the numbers are known when the stage is done."""
        self._numbered.append((vertex, text[:_MAX_NAME], trigger))

    def display(self, text: str, masked: Mapping[str, str] | None = None) -> str:
        """An instruction as progress shows it: variables resolved where they are known, its keyword in capitals."""
        text = text[:_MAX_NAME]
        try:
            text = expand(text, self.env | dict(masked or {}), _DISPLAY).text
        except Problem:
            pass
        keyword, _, rest = self.budget.spend(text).partition(" ")
        return f"{keyword.upper()} {rest}"[:_MAX_NAME]

    def step(self, op: Op, inputs: tuple[int, ...], instruction: Instruction, name: str) -> int:
        """A vertex on top of the stage so far, whose result the stage goes on with."""
        position = self.vertices.add(
            Vertex(
                op=op,
                inputs=(self.vertex, *inputs),
                range=instruction.range,
                stage=self.label,
                platform=self.node.platform,
                ignore_cache=self.ignore_cache,
            )
        )
        self.number(position, name, trigger=self.in_trigger)
        self.vertex = position
        self.layers.append(position)
        below = len(self.image.rootfs.diff_ids or ())
        if below + len(self.layers) > MAX_LAYERS:
            raise Problem(f"max depth exceeded: the image would have more than {MAX_LAYERS} layers")
        return position

    def name_vertices(self, *, several: bool, with_platform: bool) -> None:
        total = len(self._numbered)
        width = len(str(total))
        prefix = (f"{self.node.platform} " if with_platform else "") + (f"{self.label} " if several else "")
        for number, (vertex, text, trigger) in enumerate(self._numbered, 1):
            onbuild = "ONBUILD " if trigger else ""
            self.vertices.rename(vertex, f"[{prefix}{number:>{width}}/{total}] {onbuild}{text}")

    def finished(self) -> ImageConfig:
        """The configuration as far as it is known before anything has run: without history and layers of its own."""
        config = structs.replace(
            self.config,
            env=[f"{key}={value}" for key, value in self.image_env.items()],
            labels=dict(self.labels) or None,
            exposed_ports=dict(sorted(self.exposed.items())) or None,
            volumes=dict(sorted(self.volumes.items())) or None,
            on_build=list(self.on_build) or None,
        )
        return structs.replace(self.image, config=config_document(config), author=self.author)


def _ignores_cache(graph: Graph, node: Node) -> bool:
    if graph.options.no_cache:
        return True
    wanted = {name.lower() for name in graph.options.no_cache_filter}
    return bool({node.stage.name.lower(), label(node.stage)} & wanted)


def as_problem(error: InvalidArgument, at: str = "") -> Problem:
    return Problem(error.message, at=at)
