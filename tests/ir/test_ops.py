"""The op table: every op is documented, has a meaning, and its parts agree with each other."""

from __future__ import annotations

import numpy as np
import pytest

from evonnx.ir.builder import Builder
from evonnx.ir.dim_values import evaluate
from evonnx.ir.dims import sym
from evonnx.ir.errors import ModelError
from evonnx.ir.interp import expansion, run
from evonnx.ir.ops import OPS
from evonnx.ir.random_graphs import MAKERS, random_feeds, random_graph
from evonnx.ir.types import F32, I32, I64, TensorType

TRAITS = {
    "elementwise", "movement", "gather", "reduction", "contraction", "window", "scan", "sort",
    "scatter", "source", "recurrent", "control", "dynamic", "composite", "host", "opaque",
    "commutative", "random", "view", "image", "trees", "attention", "phased",
}  # fmt: skip


@pytest.mark.parametrize("name", sorted(OPS))
def test_declaration_is_complete(name: str) -> None:
    op = OPS[name]
    assert op.name == name
    assert op.doc, "no line for people"
    assert op.traits, "no traits"
    assert op.traits <= TRAITS
    inside = op.has("control") or op.has("host") or name in ("input", "const")
    assert inside or op.reference or op.expand, "nothing says what it means"
    assert not (op.reference and op.expand), "two meanings"
    low, high = op.arity
    assert 0 <= low <= (low if high is None else high)
    assert len(set(op.attrs)) == len(op.attrs)
    if op.has("elementwise") or (op.has("movement") and not op.has("opaque")):
        assert op.access is not None


KERNELS_OF_THEIR_OWN = {"opaque", "control", "source", "dynamic", "host", "recurrent"}
"""Ops with these traits have tests in files of their own; random graphs hold all others."""


def test_random_graphs_know_every_op() -> None:
    names = {n.removeprefix("int_") for n in MAKERS}
    for op in set(OPS) - names - {"isinf", "bitnot", "bitcast"}:
        assert OPS[op].traits & KERNELS_OF_THEIR_OWN, op
    assert names <= set(OPS)


@pytest.mark.parametrize("name", sorted(MAKERS))
def test_each_maker_makes_its_op(name: str) -> None:
    graphs = [random_graph(seed, 6, symbolic=seed % 2 == 1, ops=(name,)) for seed in range(12)]
    op = name.removeprefix("int_")
    assert any(n.op == op for g in graphs for n in g.nodes)
    for seed, graph in enumerate(graphs):
        run(graph, random_feeds(graph, seed))


@pytest.mark.parametrize("seed", range(40))
def test_work_is_a_sum_over_sizes(seed: int) -> None:
    graph = random_graph(seed, 10, symbolic=bool(seed % 2))
    for node in graph.nodes:
        types = tuple(None if v is None else v.type for v in node.inputs)
        work = OPS[node.op].work(types, node.attrs, node.types)
        at = {"N": 3, "S": 4, **{f"count.{k}": 2 for k in range(20)}}
        assert evaluate(work.flops, at) >= 0
        assert evaluate(work.nbytes, at) >= 0


def test_contraction_work() -> None:
    b = Builder()
    x, w = b.input("x", TensorType(F32, (sym("N"), 8, 16))), b.input("w", TensorType(F32, (16, 32)))
    node = b.op("dot", x, w, ta=False, tb=False).node
    work = OPS["dot"].work((x.type, w.type), node.attrs, node.types)
    assert work.flops == sym("N") * (2 * 8 * 16 * 32)
    assert work.nbytes == sym("N") * (8 * 16 + 8 * 32) * 4 + 16 * 32 * 4


COMPOSITES = sorted(n for n, op in OPS.items() if op.expand)


@pytest.mark.parametrize("name", COMPOSITES)
def test_expansions_have_the_declared_type(name: str) -> None:
    for seed in range(20):
        graph = random_graph(seed, 5, symbolic=bool(seed % 2), ops=(name, "transpose", "add"))
        for node in graph.nodes:
            if node.op == name:
                body = expansion(node)
                assert tuple(v.type for _, v in body.outputs) == node.types


# -- composites against formulas written another way ---------------------------------------------


def one(op: str, *arrays: np.ndarray | None, **attrs: object) -> np.ndarray:
    b = Builder()
    feeds = {f"x{k}": a for k, a in enumerate(arrays) if a is not None}
    vs = [
        None if a is None else b.input(f"x{k}", TensorType(F32, a.shape))
        for k, a in enumerate(arrays)
    ]
    return run(b.build([("y", b.op(op, *vs, **attrs))]), feeds, float64=True)["y"]


def test_composites_mean_what_they_say() -> None:
    rng = np.random.default_rng(0)
    x, scale, bias = (rng.standard_normal(s).astype(np.float32) for s in ((2, 3, 8), (8,), (8,)))
    d = x.astype(np.float64)
    e = np.exp(d)
    np.testing.assert_allclose(one("softmax", x, axis=1), e / e.sum(1, keepdims=True), rtol=1e-12)
    np.testing.assert_allclose(
        one("log_softmax", x, axis=2), np.log(e / e.sum(2, keepdims=True)), rtol=1e-12
    )
    wanted = (d - d.mean(2, keepdims=True)) / np.sqrt(d.var(2, keepdims=True) + 1e-5)
    np.testing.assert_allclose(
        one("layer_norm", x, scale, bias, axis=2, eps=1e-5), wanted * scale + bias, rtol=1e-6
    )
    wanted = d / np.sqrt((d**2).mean(2, keepdims=True) + 1e-5)
    np.testing.assert_allclose(
        one("rms_norm", x, scale, axis=2, eps=1e-5), wanted * scale, rtol=1e-6
    )
    q, k, v = (rng.standard_normal((2, 4, 5)).astype(np.float32) for _ in range(3))
    mask = rng.standard_normal((4, 4)).astype(np.float32)
    scores = np.einsum("bic,bjc->bij", q.astype(float), k) * 0.5 + mask
    weights = np.exp(scores) / np.exp(scores).sum(-1, keepdims=True)
    np.testing.assert_allclose(
        one("attention", q, k, v, mask, scale=0.5), np.einsum("bij,bjc->bic", weights, v), rtol=1e-5
    )


# -- contractions against loops ------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(30))
def test_conv_transpose_is_the_gradient_of_conv(seed: int) -> None:
    """<conv(x, w), y> == <x, conv_transpose(y, w)> for every x and y."""
    rng = np.random.default_rng(seed)
    g, r = int(rng.integers(1, 3)), int(rng.integers(1, 3))
    c, m = g * int(rng.integers(1, 3)), g * int(rng.integers(1, 3))
    kernel, stride, dil = (rng.integers(1, 4, r).tolist() for _ in range(3))
    lo, hi = (rng.integers(0, 2, r).tolist() for _ in range(2))
    size = [(k - 1) * d + int(rng.integers(1, 6)) for k, d in zip(kernel, dil, strict=True)]
    b = Builder()
    w = b.const(rng.standard_normal((m, c // g, *kernel)))
    x = b.input("x", TensorType(w.dtype, (2, c, *size)))
    window = {"strides": stride, "dilations": dil, "pads_lo": lo, "pads_hi": hi, "groups": g,
              "layout": "first"}  # fmt: skip
    fwd = b.op("conv", x, w, **window)
    y = b.input("y", TensorType(w.dtype, fwd.shape))
    back_size = [
        (o - 1) * s + (k - 1) * d + 1 - a - e
        for o, s, k, d, a, e in zip(fwd.shape[2:], stride, kernel, dil, lo, hi, strict=True)
    ]
    extra = [n - f for n, f in zip(size, back_size, strict=True)]
    back = b.op("conv_transpose", y, w, output_padding=extra, **window)
    assert back.shape == x.shape
    graph = b.build([("f", fwd), ("b", back)])
    feeds = {"x": rng.standard_normal(x.shape), "y": rng.standard_normal(y.shape)}
    out = run(graph, feeds)
    np.testing.assert_allclose((out["f"] * feeds["y"]).sum(), (out["b"] * feeds["x"]).sum())


@pytest.mark.parametrize("layout", ["first", "last"])
def test_layouts_mean_the_same(layout: str) -> None:
    rng = np.random.default_rng(1)
    x, w = rng.standard_normal((2, 4, 6, 7)), rng.standard_normal((6, 2, 3, 2))
    attrs = {"strides": (2, 1), "dilations": (1, 2), "pads_lo": (1, 0), "pads_hi": (0, 2),
             "groups": 2}  # fmt: skip
    b = Builder()
    first = b.op("conv", b.const(x), b.const(w), layout="first", **attrs)
    last = b.op("conv", b.const(np.moveaxis(x, 1, -1)), b.const(np.moveaxis(w, (0, 1), (-1, -2))),
                layout="last", **attrs)  # fmt: skip
    out = run(b.build([("a", first), ("b", b.op("transpose", last, perm=(0, 3, 1, 2)))]), {})
    np.testing.assert_allclose(out["a"], out["b"])
    for n, i, j, m in ((0, 1, 2, 3), (1, 2, 6, 5)):  # two elements by the definition
        total = 0.0
        for a, c, p, q in np.ndindex(1, 2, 3, 2):
            y0, x0 = i * 2 + p - 1, j + 2 * q
            if 0 <= y0 < 6 and 0 <= x0 < 7:
                total += x[n, (m // 3) * 2 + c, y0, x0] * w[m, c, p, q] * (a == 0)
        np.testing.assert_allclose(out["a"][n, m, i, j], total)


# -- refusals ------------------------------------------------------------------------------------


def test_inference_refuses() -> None:
    b = Builder()
    x, i = b.input("x", TensorType(F32, (2, 3))), b.input("i", TensorType(I64, (2,)))
    j = b.input("j", TensorType(I32, (2,)))
    cases = [
        ("add", (x, i), {}), ("add", (i, j), {}), ("not", (x,), {}), ("exp", (i,), {}),
        ("dot", (x, x), {"ta": False, "tb": False}), ("reshape", (x,), {"shape": (5,)}),
        ("transpose", (x,), {"perm": (0, 0)}), ("gather", (x, x), {"axis": 0}),
        ("gather", (x, i), {"axis": 2}), ("concat", (x, i), {"axis": 0}),
        ("reduce", (x,), {"kind": "sum", "axes": (2,), "keepdims": True}),
        ("reduce", (x,), {"kind": "median", "axes": (0,), "keepdims": True}),
        ("slice", (x,), {"starts": (0, 2), "sizes": (2, 2), "steps": (1, 1)}),
        ("slice", (x,), {"starts": (0,), "sizes": (2,), "steps": (1,)}),
        ("pad", (x, 0.0), {"lo": (0,), "hi": (0,), "mode": "constant"}),
        ("select", (x, x, x), {}), ("expand", (x,), {"shape": (4, 3)}),
        ("bind", (i,), {"name": "k"}),
        ("topk", (x,), {"axis": 1, "k": 4, "largest": True, "sorted": True}),
        ("softmax", (i,), {"axis": 0}), ("softmax", (x,), {"axis": 2}),
    ]  # fmt: skip
    for op, operands, attrs in cases:
        with pytest.raises(ModelError):
            b.op(op, *operands, **attrs)
