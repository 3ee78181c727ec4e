"""Two convolutions in one kernel as a choice: what it moves, who takes it, schedules by hand."""

from __future__ import annotations

import numpy as np
import pytest

from evonnx.compiler.options import schedule_of
from evonnx.ir.builder import Builder
from evonnx.ir.dims import Dim, sym
from evonnx.ir.errors import ScheduleError
from evonnx.ir.graph import Graph
from evonnx.ir.groups import extract
from evonnx.ir.schedule import Group, Schedule, print_schedule
from evonnx.ir.target import Target
from evonnx.ir.types import F32, TensorType
from evonnx.ir.variants import form_of, separable_tiling
from evonnx.search.choose import choose
from evonnx.search.cost import group_cost
from evonnx.search.greedy import Fuser, greedy
from evonnx.search.models import facts
from evonnx.search.settings import Search

WIDE = Target("wide", "x86_64-unknown-linux-gnu", "x86-64-v4", vector_bits=512, registers=32)


def block(side: int = 56, channels: int = 144, columns: int = 32, stride: int = 2,
          batch: Dim = 1) -> Graph:
    """A depthwise convolution with limits, and the pointwise one behind it."""
    b = Builder()
    same = dict.fromkeys(("dilations", "pads_lo", "pads_hi"), (1, 1))
    x = b.input("x", TensorType(F32, (batch, side, side, channels)))
    w = b.const(np.ones((3, 3, 1, channels), np.float32))
    y = b.op("relu", b.op("conv", x, w, groups=channels, layout="last", strides=(stride, stride),
                          **same))
    p = b.const(np.ones((1, 1, channels, columns), np.float32))
    same |= {"pads_lo": (0, 0), "pads_hi": (0, 0)}
    return b.build({"y": b.op("conv", y, p, groups=1, layout="last", strides=(1, 1), **same)})


def computed(graph: Graph) -> tuple[int, ...]:
    return tuple(k for k, n in enumerate(graph.nodes) if n.op not in ("input", "const"))


def test_it_moves_what_enters_and_leaves() -> None:
    graph = block()
    nodes = [graph.nodes[k] for k in computed(graph)]
    cost = group_cost(graph, "separable", nodes)
    assert cost.inputs == 4 * 56 * 56 * 144 and cost.outputs == 4 * 28 * 28 * 32
    parts = [group_cost(graph, "contract", part) for part in (nodes[:2], nodes[2:])]
    assert cost.flops == sum(p.flops for p in parts)
    between = 4 * 28 * 28 * 144
    assert sum(p.nbytes for p in parts) - cost.nbytes == 2 * between
    lines, _ = separable_tiling(form_of(_cut(graph), "separable", frozenset()), WIDE, {})
    assert facts(cost, {}, WIDE).tiles == -(-28 // lines)


def _cut(graph: Graph) -> Graph:
    return extract(graph, [graph.nodes[k] for k in computed(graph)]).graph


def test_lines_of_a_tile_fit_the_cache() -> None:
    form = form_of(_cut(block(112, 64, stride=1)), "separable", frozenset())
    for l2 in (1 << 17, 1 << 18, 1 << 20):
        target = Target("t", "x86_64-unknown-linux-gnu", "x86-64-v4", l2_bytes=l2)
        lines, _ = separable_tiling(form, target, {})
        assert lines == 1 or lines * 112 * 64 * 4 <= l2 // 2


def test_the_search_takes_it_where_it_pays() -> None:
    """Greedy fusion leaves it to the cost model, which sees bytes that go through caches."""
    graph = block()
    assert [g.implementation for g in greedy(graph).groups] == ["contract", "contract"]
    found = choose(graph, Fuser(graph), WIDE, Search("default"))
    assert [g.implementation for g in found.schedule.groups] == ["separable"]
    none = choose(graph, Fuser(graph), WIDE, Search("postdominator"))
    assert "separable" not in [g.implementation for g in none.schedule.groups]


def test_a_batch_counts_as_one_image() -> None:
    """One image of seven lines has too few to share; 32 images have enough."""
    for batch, expect, kernels in ((1, {}, 2), (sym("N"), {}, 2), (sym("N"), {"N": 32}, 1)):
        graph = block(7, 960, 160, 1, batch)
        found = choose(graph, Fuser(graph), WIDE, Search("default", threads=2, expect=expect))
        assert len(found.schedule.groups) == kernels


def test_schedules_by_hand() -> None:
    graph = block()
    group = Group(computed(graph), "separable", (("lines", 4),))
    text = print_schedule(Schedule(graph.digest, (group,)), graph)
    assert "separable" in text and "{lines=4}" in text
    assert schedule_of(text, graph, WIDE).groups == (group,)
    with pytest.raises(ScheduleError, match="lines=0 is none of its choices"):
        schedule_of(text.replace("lines=4", "lines=0"), graph, WIDE)
    with pytest.raises(ScheduleError, match="runs as separable, not as contract"):
        schedule_of(text.replace("= separable", "= contract"), graph, WIDE)
