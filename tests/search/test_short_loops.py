"""Short innermost loops: what is unrolled into the loop around it is side by side if it goes on."""

from __future__ import annotations

import pytest

from evonnx.ir.builder import Builder
from evonnx.ir.target import Target
from evonnx.ir.types import F32, TensorType
from evonnx.search.choose import choose
from evonnx.search.greedy import Fuser
from evonnx.search.settings import Search


@pytest.mark.parametrize("groups,per", [(32, 2), (32, 4)])
def test_means_of_groups_of_channels_are_not_taken_where_pixels_are_shifted(
    groups: int, per: int
) -> None:
    b = Builder()
    c = groups * per
    x = b.input("x", TensorType(F32, (1, 56, 56, c)))
    moments = b.input("m", TensorType(F32, (1, 1, 1, groups, per)))
    mean = b.op("reduce", moments, kind="mean", axes=(4,), keepdims=True)
    wide = b.op("reshape", b.op("expand", mean, shape=(1, 1, 1, groups, per)), shape=(1, 1, 1, c))
    shifted = b.op("sub", x, wide)
    graph = b.build({"y": shifted})
    best = choose(graph, Fuser(graph), Target.named("generic"), Search("default", threads=1))
    members = next(nodes for g in best.schedule.groups if shifted.node in (
        nodes := [graph.nodes[k] for k in g.nodes]))
    assert mean.node not in members
