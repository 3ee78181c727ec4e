"""Greedy fusion keeps a vector of neighboring columns of a product together."""

from __future__ import annotations

import numpy as np
import pytest

from evonnx.ir.builder import Builder
from evonnx.ir.types import F32, TensorType
from evonnx.search.greedy import Fuser


@pytest.mark.parametrize("parts,fused", [(32, False), (16, False), (8, True), (1, True)])
def test_a_reshape_that_cuts_columns_is_a_step_of_its_own(parts: int, fused: bool) -> None:
    """128 columns, turned and then split in parts of 4, 8, 16 and 128."""
    b = Builder()
    x = b.input("x", TensorType(F32, (64, 32)))
    w = b.const(np.ones((32, 128), np.float32))
    turned = b.op("transpose", b.op("dot", x, w, ta=False, tb=False), perm=(1, 0))
    graph = b.build({"y": b.op("reshape", turned, shape=(parts, 128 * 64 // parts))})
    fuser = Fuser(graph)
    schedule = fuser.run()
    ops = [{n.op for n in members} for members in schedule.members(graph)]
    assert ({"dot", "transpose", "reshape"} in ops) == fused
    if not fused:
        assert any("columns of the product" in reason for reason in fuser.refusals.values())
