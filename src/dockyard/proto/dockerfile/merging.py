"""Plans for several platforms become one graph: what is the same for all is there once.

Owns: that. Does not own: one platform's plan (`plan`). Pure.
"""

from __future__ import annotations

from collections.abc import Sequence

from msgspec.structs import replace

from dockyard.proto.dockerfile.ops import Plan, Vertex


def merge(plans: Sequence[Plan]) -> list[Plan]:
    """The plans over one list of vertices, which all of them have. Stages FROM --platform=$BUILDPLATFORM that ask for
    no argument of the target are the same for each, and so are contexts."""
    if len(plans) == 1:
        return list(plans)
    vertices: list[Vertex] = []
    places: dict[Vertex, int] = {}
    maps: list[list[int]] = []
    for plan in plans:
        mapped: list[int] = []
        for vertex in plan.vertices:
            moved = replace(vertex, inputs=tuple(mapped[place] for place in vertex.inputs))
            if moved not in places:
                places[moved] = len(vertices)
                vertices.append(moved)
            mapped.append(places[moved])
        maps.append(mapped)
    return [_moved(plan, tuple(vertices), mapped) for plan, mapped in zip(plans, maps, strict=True)]


def _moved(plan: Plan, vertices: tuple[Vertex, ...], places: Sequence[int]) -> Plan:
    def at(place: int | None) -> int | None:
        return None if place is None else places[place]

    return replace(
        plan,
        vertices=vertices,
        result=places[plan.result],
        base=places[plan.base],
        layers=tuple(places[layer] for layer in plan.layers),
        made=tuple(replace(made, vertex=at(made.vertex)) for made in plan.made),
        steps=tuple(replace(step, vertex=at(step.vertex)) for step in plan.steps),
    )
