"""Inverted residual blocks as one group: what it moves, its tiles, the search and schedules by
hand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from evonnx.compiler.options import schedule_of
from evonnx.ir.builder import Builder
from evonnx.ir.graph import Graph
from evonnx.ir.groups import extract
from evonnx.ir.schedule import Group, Schedule, print_schedule
from evonnx.ir.target import Target
from evonnx.ir.types import F32, TensorType
from evonnx.ir.variants import form_of, lines_of_tile
from evonnx.search.choose import choose
from evonnx.search.cost import group_cost
from evonnx.search.greedy import Fuser, greedy
from evonnx.search.models import facts
from evonnx.search.settings import Search

from .test_separable import WIDE, computed


def block(side: int = 320, stride: int = 2, squeezed: bool = False) -> Graph:
    """A pixel of 16 channels as 96, a depthwise convolution, and 24 channels again; ``squeezed``
    with a global mean behind the windows instead."""
    b = Builder()
    one = dict.fromkeys(("strides", "dilations"), (1, 1)) | dict.fromkeys(
        ("pads_lo", "pads_hi"), (0, 0))
    x = b.input("x", TensorType(F32, (1, side, side, 16)))
    weights = [b.const(np.ones(shape, np.float32))
               for shape in ((1, 1, 16, 96), (3, 3, 1, 96), (1, 1, 96, 24))]
    y = b.op("relu", b.op("conv", x, weights[0], groups=1, layout="last", **one))
    same = one | {"strides": (stride, stride), "pads_lo": (1, 1), "pads_hi": (1, 1)}
    y = b.op("relu", b.op("conv", y, weights[1], groups=96, layout="last", **same))
    if squeezed:
        mean = b.op("reduce", y, kind="mean", axes=(1, 2), keepdims=True)
        y = b.op("mul", y, b.op("sigmoid", mean))
    return b.build({"y": b.op("conv", y, weights[2], groups=1, layout="last", **one)})


def parts(graph: Graph) -> list[list[int]]:
    found: list[list[int]] = []
    for k in computed(graph):
        if graph.nodes[k].op == "conv":
            found.append([])
        found[-1].append(k)
    return found


def test_it_moves_what_enters_and_leaves() -> None:
    graph = block(side=112)
    nodes = [graph.nodes[k] for k in computed(graph)]
    cost = group_cost(graph, "separable", nodes)
    assert cost.inputs == 4 * 112 * 112 * 16 and cost.outputs == 4 * 56 * 56 * 24
    alone = [group_cost(graph, "contract", [graph.nodes[k] for k in p]) for p in parts(graph)]
    assert cost.flops == sum(c.flops for c in alone)


def test_narrow_tiles_compute_lines_twice() -> None:
    """The model counts them: of three lines that a line of windows reads, the next one reads one
    again."""
    graph = block(side=112)
    cost = group_cost(graph, "separable", [graph.nodes[k] for k in computed(graph)])

    def products(lines: int) -> float:
        return facts(replace(cost, variant=(("lines", lines),)), {}, WIDE).phases[0].fma

    for lines, again in ((1, 55), (4, 13)):
        assert products(lines) / products(56) == pytest.approx(1 + again / 112)


def test_lines_of_a_tile_fit_the_cache() -> None:
    graph = block()
    form = form_of(extract(graph, [graph.nodes[k] for k in computed(graph)]).graph, "separable",
                   frozenset())
    for l2 in (1 << 18, 1 << 20, 1 << 22):
        target = Target("t", "x86_64-unknown-linux-gnu", "x86-64-v4", l2_bytes=l2)
        lines = lines_of_tile(form, target)
        assert lines == 1 or (2 * lines + 1) * 320 * 96 * 4 <= 1.5 * l2


def test_the_search_takes_it_where_images_are_large() -> None:
    """What lies between would leave the caches; where it does not, the line at the border of two
    tiles that is computed twice costs more."""
    graph = block()
    assert [g.implementation for g in greedy(graph).groups] == ["contract"] * 3
    found = choose(graph, Fuser(graph), WIDE, Search("default"))
    assert [g.implementation for g in found.schedule.groups] == ["separable"]
    small = block(side=28)
    found = choose(small, Fuser(small), WIDE, Search("default"))
    assert len(found.schedule.groups) > 1


def test_the_search_takes_the_first_two() -> None:
    """Where something else than a pointwise convolution follows."""
    graph = block(squeezed=True)
    found = choose(graph, Fuser(graph), WIDE, Search("default"))
    pair, = (g for g in found.schedule.groups if g.implementation == "separable")
    assert sum(graph.nodes[k].op == "conv" for k in pair.nodes) == 2


def test_schedules_by_hand() -> None:
    """The whole block, or its depthwise convolution with either neighbor."""
    graph = block(side=112)
    first, second, third = map(tuple, parts(graph))
    for groups in ((Group(first + second + third, "separable", (("lines", 4),)),),
                   (Group(first + second, "separable"), Group(third, "contract")),
                   (Group(first, "contract"), Group(second + third, "separable"))):
        text = print_schedule(Schedule(graph.digest, groups), graph)
        assert schedule_of(text, graph, WIDE).groups == groups
