"""Every rule, on random instances of its pattern: both sides mean the same."""

from __future__ import annotations

import zlib
from dataclasses import replace

import numpy as np
import pytest

from evonnx.ir.errors import ModelError
from evonnx.ir.graph import Graph
from evonnx.ir.interp import run
from evonnx.ir.verify import verify
from evonnx.passes.driver import apply, op_weight
from evonnx.passes.facts import Refusal
from evonnx.passes.instantiate import instance
from evonnx.passes.registry import RULES
from evonnx.passes.rule import build_result

WANTED, ATTEMPTS = 12, 6000


def same_bits(a: np.ndarray, b: np.ndarray) -> bool:
    """Equal element by element: NaN equals NaN, and zeros have signs."""
    if a.dtype != b.dtype or a.shape != b.shape:
        return False
    if a.dtype.kind in "fV" or a.dtype.name == "bfloat16":
        a, b = a.astype(np.float64), b.astype(np.float64)
        equal = (a == b) & (np.signbit(a) == np.signbit(b)) | (np.isnan(a) & np.isnan(b))
        return bool(equal.all())
    return bool((a == b).all())


def near(a: np.ndarray, b: np.ndarray, special: bool, dtype: str) -> bool:
    """Equal up to the rounding of constants of ``dtype``."""
    slack = {"f16": 2e-2, "bf16": 1e-1}.get(dtype, 1e-5)
    if a.shape != b.shape or (np.isnan(a) != np.isnan(b)).any():
        return False
    scale = max(1.0, float(np.abs(a[np.isfinite(a)]).max(initial=0.0)))
    if special:  # infinities and NaN in the same places
        return bool(((a == b) | ~np.isinf(a) & ~np.isinf(b) | np.isnan(a)).all())
    return bool(np.allclose(a, b, rtol=slack, atol=slack * scale, equal_nan=True))


@pytest.mark.parametrize("name", sorted(RULES))
def test_rule(name: str) -> None:
    rule = RULES[name]
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    found = 0
    refusals: list[str] = []
    for attempt in range(ATTEMPTS):
        special = bool(attempt % 2)
        drawn = instance(rule, rng, special)
        if drawn is None:
            continue
        graph, feeds, match = drawn
        after, fired = apply(graph, [match])
        if not fired:
            from evonnx.ir.builder import Builder

            try:
                build_result(match, Builder(graph.constants), lambda v: v)
            except Refusal as e:
                refusals.append(str(e))
            continue
        verify(after)
        assert op_weight(after) < op_weight(graph), f"{rule} does not lower the measure"
        if rule.shared:  # ... not even where all parts of the match are used elsewhere
            outputs = [(f"y{k}", n.out) for k, n in enumerate(match.nodes)]
            kept = Graph(graph.inputs, outputs, graph.nodes, graph.constants)
            again, _ = apply(kept, [replace(match, graph=kept)])
            assert op_weight(again) < op_weight(kept), f"{rule} does not pay with shared parts"
        wide = not rule.exact
        feeds = {v.node.attrs["name"]: feeds[v.node.attrs["name"]] for v in graph.inputs}
        try:
            want = run(graph, feeds, float64=wide)["y"]
        except ModelError:  # shapes or types that only the composite's expansion rejects
            continue
        got = run(after, feeds, float64=wide)["y"]
        dtype = graph.outputs[0][1].dtype.name
        equal = near(want, got, special, dtype) if wide else same_bits(want, got)
        text = f"before {graph.nodes}\n{want}\nafter {after.nodes}\n{got}"
        assert equal, f"{rule}\nfeeds {feeds}\n{text}"
        found += 1
        if found >= WANTED:
            return
    assert found > 0, f"{rule} was never instantiated; refusals {set(refusals)}"
