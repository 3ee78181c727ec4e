"""Attention as one kernel against the reference: masks, sizes, special values, threads."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from evonnx.ir import interp
from evonnx.ir.builder import Builder
from evonnx.ir.dims import sym
from evonnx.ir.graph import Graph, Value
from evonnx.ir.types import BOOL, F32, TensorType
from evonnx.search.legality import implementation

from .test_groups import TARGETS, array, check, run_as_one, tensor

N, Q, K = sym("N"), sym("Q"), sym("K")


def attention(b: Builder, q: Value, k: Value, v: Value, mask: Value | None = None,
              scale: float = 0.125, **more: Any) -> Value:
    made: Value = b.op("attention", q, k, v, mask, scale=scale, **more)
    return made


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("rows,keys,depth,columns", [
    (1, 1, 1, 1), (5, 7, 3, 2), (33, 31, 64, 64), (49, 49, 32, 32), (3, 300, 20, 80),
    (40, 515, 12, 17),
])
def test_sizes(rows: int, keys: int, depth: int, columns: int, target: str) -> None:
    b = Builder()
    q, k = tensor(b, "q", 2, 3, rows, depth), tensor(b, "k", 2, 3, keys, depth)
    y = attention(b, q, k, tensor(b, "v", 2, 3, keys, columns))
    feeds = {"q": array(2, 3, rows, depth) * 3, "k": array(2, 3, keys, depth),
             "v": array(2, 3, keys, columns)}
    assert check(y, b, feeds, target=target) == "attention"


@pytest.mark.parametrize("target", ["cpu", "generic"])
@pytest.mark.parametrize("rows,keys", [(0, 5), (5, 0), (1, 1), (37, 260), (64, 513)])
def test_unknown_sizes(rows: int, keys: int, target: str) -> None:
    b = Builder()
    q, k = tensor(b, "q", N, 2, Q, 16), tensor(b, "k", N, 2, K, 16)
    y = attention(b, q, k, tensor(b, "v", N, 2, K, 24), tensor(b, "m", N, 1, Q, K))
    feeds = {"q": array(2, 2, rows, 16), "k": array(2, 2, keys, 16), "v": array(2, 2, keys, 24),
             "m": array(2, 1, rows, keys)}
    assert check(y, b, feeds, target=target) == "attention"


def causal(rows: int, keys: int) -> np.ndarray:
    hidden = np.arange(keys)[None] > np.arange(rows)[:, None]
    return np.where(hidden, np.float32(-np.inf), np.float32(0))


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("shape", [(1, 1, 1, 300), (2, 1, 70, 300), (300,), (1, 3, 70, 1), (1, 1)])
def test_masks(shape: tuple[int, ...], target: str) -> None:
    b = Builder()
    q, k = tensor(b, "q", 2, 3, 70, 8), tensor(b, "k", 2, 3, 300, 8)
    y = attention(b, q, k, tensor(b, "v", 2, 3, 300, 9), tensor(b, "m", *shape))
    mask = array(*shape)
    mask[..., : shape[-1] // 2] = -np.inf  # a whole block of keys
    feeds = {"q": array(2, 3, 70, 8), "k": array(2, 3, 300, 8), "v": array(2, 3, 300, 9),
             "m": mask}
    assert check(y, b, feeds, target=target) == "attention"


@pytest.mark.parametrize("safe", [False, True])
def test_special_values(safe: bool) -> None:
    """Hidden keys, hidden queries, NaN, infinities and an overflow answer as the definition."""
    b = Builder()
    q, k, v = (tensor(b, n, 1, 300, 4) for n in "qkv")
    more = {"safe": True} if safe else {}
    y = attention(b, q, k, v, tensor(b, "m", 1, 300, 300), **more)
    feeds = {"q": array(1, 300, 4), "k": array(1, 300, 4), "v": array(1, 300, 4),
             "m": causal(300, 300)[None]}
    feeds["m"][0, 3] = -np.inf
    feeds["m"][0, 290] = -np.inf
    feeds["q"][0, 7, 1] = np.nan
    feeds["q"][0, 9, 1] = np.inf
    feeds["q"][0, 11], feeds["k"][0, 5] = 3e38, 10.0
    feeds["m"][0, 20, 5] = np.inf
    graph = b.build({"y": y})
    got, found = run_as_one(graph, feeds)
    want = interp.run(graph, feeds)
    assert found == "attention"
    np.testing.assert_allclose(got["y"], want["y"], rtol=1e-4, atol=1e-5)
    assert np.isnan(got["y"][0, 3]).all() != safe


@pytest.mark.parametrize("scale,masked", [(30.0, False), (30.0, True), (-2.0, True), (1.0, True)])
def test_large_scores_do_not_overflow(scale: float, masked: bool) -> None:
    b = Builder()
    q, k = tensor(b, "q", 1, 20, 8), tensor(b, "k", 1, 600, 8)
    mask = tensor(b, "m", 1, 20, 600) if masked else None
    y = attention(b, q, k, tensor(b, "v", 1, 600, 8), mask, scale=scale)
    feeds = {"q": array(1, 20, 8), "k": np.sort(array(1, 600, 8), axis=1), "v": array(1, 600, 8)}
    if masked:
        feeds["m"] = array(1, 20, 600) * 50
    assert check(y, b, feeds, tolerance=3e-4) == "attention"


def heads(b: Builder, x: Value, first: int, count: int = 4, size: int = 12) -> Value:
    n, s = x.shape[:2]
    part = b.op("slice", x, starts=(0, 0, first), sizes=(n, s, count * size), steps=(1, 1, 1))
    return b.op("transpose", b.op("reshape", part, shape=(n, s, count, size)), perm=(0, 2, 1, 3))


@pytest.mark.parametrize("masked", ["", "causal", "boolean"])
def test_heads_are_addresses(masked: str) -> None:
    """Slices of one product, heads turned and put back, and a computed mask, in one kernel."""
    b = Builder()
    x = tensor(b, "x", N, Q, 144)
    mask: Value | None = None
    feeds = {"x": array(2, 45, 144)}
    if masked == "boolean":
        flag = tensor(b, "m", N, 1, 1, Q, dtype=BOOL)
        feeds["m"] = np.arange(90).reshape(2, 1, 1, 45) % 3 > 0
        mask = b.op("select", flag, b.const(0.0, F32), b.const(-1e9, F32))
    if masked == "causal":
        i, j = (b.op("iota", shape=(Q, Q), axis=a, dtype=F32) for a in (0, 1))
        mask = b.op("select", b.op("lt", i, j), b.const(-np.inf, F32), b.const(0.0, F32))
    y = attention(b, heads(b, x, 0), heads(b, x, 48), heads(b, x, 96), mask)
    y = b.op("reshape", b.op("transpose", y, perm=(0, 2, 1, 3)), shape=(N, Q, 48))
    assert check(y, b, feeds) == "attention"


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("safe", [False, True])
def test_activation_behind(safe: bool, target: str) -> None:
    """Between heads that are put back and what comes next, as in LeViT."""
    b = Builder()
    x = tensor(b, "x", N, Q, 108)
    y = attention(b, *(heads(b, x, k * 36, 3) for k in range(3)), safe=safe)
    y = b.op("reshape", b.op("transpose", y, perm=(0, 2, 1, 3)), shape=(N, Q, 36))
    gate = b.op("min", b.op("relu", b.op("add", b.op("mul", y, b.const(0.2, F32)),
                                         b.const(0.5, F32))), b.const(1.0, F32))
    feeds = {"x": array(2, 45, 108)}
    feeds["x"][0, 3, 40], feeds["x"][1, :, 80] = np.nan, np.inf
    assert check(b.op("mul", y, gate), b, feeds, target=target) == "attention"


@pytest.mark.parametrize("along", [(2, 45, 36), (45, 1), (36,), ()])
def test_operands_behind(along: tuple[int, ...]) -> None:
    """What reads another operand is applied as rows are stored."""
    b = Builder()
    q = tensor(b, "q", 2, 45, 16)
    y = attention(b, q, tensor(b, "k", 2, 50, 16), tensor(b, "v", 2, 50, 36))
    y = b.op("relu", b.op("add", y, tensor(b, "r", *along)))
    feeds = {"q": array(2, 45, 16), "k": array(2, 50, 16), "v": array(2, 50, 36),
             "r": np.asarray(array(*along), np.float32)}
    assert check(y, b, feeds) == "attention"


def test_keys_stored_as_columns() -> None:
    b = Builder()
    q, k = tensor(b, "q", 2, 30, 20), tensor(b, "k", 2, 20, 40)
    y = attention(b, q, b.op("transpose", k, perm=(0, 2, 1)), tensor(b, "v", 2, 40, 8))
    feeds = {"q": array(2, 30, 20), "k": array(2, 20, 40), "v": array(2, 40, 8)}
    assert check(y, b, feeds) == "attention"


def test_shared_heads() -> None:
    """Four heads of queries share one of keys and values."""
    b = Builder()
    q, k = tensor(b, "q", 2, 4, 10, 8), tensor(b, "k", 2, 1, 12, 8)
    y = attention(b, q, k, tensor(b, "v", 1, 1, 12, 8))
    feeds = {"q": array(2, 4, 10, 8), "k": array(2, 1, 12, 8), "v": array(1, 1, 12, 8)}
    assert check(y, b, feeds) == "attention"


def test_same_bits_on_any_number_of_threads() -> None:
    b = Builder()
    q, k, v = (tensor(b, n, 6, 200, 64) for n in "qkv")
    graph = b.build({"y": attention(b, q, k, v)})
    feeds = {n: array(6, 200, 64) for n in "qkv"}
    one, two = (run_as_one(graph, feeds, threads=t)[0]["y"] for t in (1, 2))
    np.testing.assert_array_equal(one, two)


def refusal(graph: Graph) -> str:
    found, reason = implementation(
        graph, [n for n in graph.nodes if n.op not in ("input", "const")])
    assert found is None
    return reason


def test_refusals() -> None:
    b = Builder()
    q, k, v = (b.input(n, TensorType(F32, (2, 10, 8))) for n in "qkv")
    assert "where they lie" in refusal(b.build({"y": attention(b, q, b.op("exp", k), v)}))
    b = Builder()
    q, k, v = (b.input(n, TensorType(F32, (2, 10, 8))) for n in "qkv")
    y = b.op("softmax", attention(b, q, k, v), axis=2)
    assert "no kernel with another reduction" in refusal(b.build({"y": y}))
