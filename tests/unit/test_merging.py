"""Plans of several platforms as one graph."""

from __future__ import annotations

from dockyard.model.build import BuildOptions
from dockyard.proto.dockerfile.merging import merge
from dockyard.proto.dockerfile.ops import Exec, Plan
from dockyard.proto.dockerfile.parse import parse
from dockyard.proto.dockerfile.plan import plan

TEXT = b"""\
FROM --platform=$BUILDPLATFORM scratch AS same
RUN ["/same"]
FROM --platform=$BUILDPLATFORM scratch AS differs
ARG TARGETARCH
RUN ["/differs"]
FROM scratch
COPY --from=same /a /a
COPY --from=differs /b /b
RUN ["/target"]
"""
BOTH = ("linux/amd64", "linux/arm64")


def plans() -> list[Plan]:
    options = BuildOptions(platforms=BOTH)
    return merge([plan(parse(TEXT), options, {}, platform) for platform in BOTH])


def programs(found: Plan) -> list[str]:
    return [vertex.op.args[0] for vertex in found.vertices if isinstance(vertex.op, Exec)]


def test_what_is_the_same_is_there_once() -> None:
    first, second = plans()
    assert first.vertices == second.vertices
    assert sorted(programs(first)) == ["/differs", "/differs", "/same", "/target", "/target"]
    assert first.result != second.result and (first.platform, second.platform) == BOTH
    for vertex, place in ((vertex, place) for place, vertex in enumerate(first.vertices)):
        assert all(other < place for other in vertex.inputs)


def test_each_plan_refers_to_its_own() -> None:
    for found in plans():
        assert found.vertices[found.result].platform == found.platform
        assert [found.vertices[place].platform for place in found.layers][-1] == found.platform
        texts = {step.text: step.vertex for step in found.steps if step.text.startswith("RUN")}
        for text, place in texts.items():
            assert place is not None and text in found.vertices[place].name
        assert texts['RUN ["/target"]'] == found.result


def test_one_plan_stays_as_it_is() -> None:
    alone = plan(parse(TEXT), BuildOptions(), {}, "")
    assert merge([alone]) == [alone]
