"""The reference interpreter: feeds, symbols, float64 mode, memory, errors, special values."""

from __future__ import annotations

import math
import weakref
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from evonnx.ir.builder import Builder
from evonnx.ir.dims import sym
from evonnx.ir.erf import erf, erfc
from evonnx.ir.errors import EvonnxError, FeedError, ModelError
from evonnx.ir.graph import Graph
from evonnx.ir.interp import bind_feeds, expansion, run
from evonnx.ir.random_graphs import random_feeds, random_graph
from evonnx.ir.types import BF16, BOOL, F16, F32, F64, I8, I32, I64, STR, DType, TensorType

F = np.float32
INF, NAN = math.inf, math.nan


def unary(op: str, x: Any, dtype: Any = F, **attrs: Any) -> np.ndarray:
    array = np.asarray(x, dtype=dtype)
    b = Builder()
    v = b.input("x", TensorType(DType.of(array.dtype), array.shape))
    return run(b.build([("y", b.op(op, v, **attrs))]), {"x": array})["y"]


def binary(op: str, x: Any, y: Any, dtype: Any = F, dtype2: Any = None) -> np.ndarray:
    arrays = [np.asarray(x, dtype=dtype), np.asarray(y, dtype=dtype2 or dtype)]
    b = Builder()
    vs = [b.input(f"x{k}", TensorType(DType.of(a.dtype), a.shape)) for k, a in enumerate(arrays)]
    return run(b.build([("y", b.op(op, *vs))]), {f"x{k}": a for k, a in enumerate(arrays)})["y"]


# -- feeds ---------------------------------------------------------------------------------------


def signature() -> Graph:
    b = Builder()
    x = b.input("x", TensorType(F32, (sym("N"), 3)))
    y = b.input("y", TensorType(F32, (sym("N") * 2 + 1,)))
    return b.build([("a", b.op("relu", x)), ("b", b.op("neg", y)), ("n", b.dims((sym("N"),)))])


def test_feeds_bind_sizes() -> None:
    graph = signature()
    binding, _ = bind_feeds(graph, {"x": np.zeros((4, 3), F), "y": np.zeros(9, F)})
    assert binding == {"N": 4}
    out = run(graph, {"x": -np.ones((4, 3), F), "y": np.ones(9, F)})
    assert out["n"].tolist() == [4]
    assert out["a"].max() == 0


GOOD = {"x": np.zeros((4, 3), F), "y": np.zeros(9, F)}
WRONG: tuple[tuple[dict[str, Any], str], ...] = (
    ({"x": GOOD["x"]}, "nothing is fed to input 'y'"),
    ({**GOOD, "z": np.zeros(1)}, "no input 'z'"),
    ({**GOOD, "x": np.zeros((4, 3))}, "f64 was fed"),
    ({**GOOD, "x": np.zeros((4, 3), np.int64)}, "i64 was fed"),
    ({**GOOD, "x": np.zeros(4, F)}, "the fed shape is"),
    ({**GOOD, "x": np.zeros((4, 2), F)}, "axis 1 has size 2 instead of 3"),
    ({**GOOD, "y": np.zeros(7, F)}, "axis 0 has size 7 instead of 2\\*N \\+ 1 = 9"),
    ({**GOOD, "x": "text"}, "str was fed"),
    ({**GOOD, "x": np.zeros((4, 3), "M8[s]")}, "was fed"),
    ({**GOOD, 'x"\n' * 99: 1}, "no input"),
)


@pytest.mark.parametrize(("feeds", "message"), WRONG, ids=range(len(WRONG)))
def test_wrong_feeds(feeds: dict[str, Any], message: str) -> None:
    with pytest.raises(FeedError, match=message) as caught:
        run(signature(), feeds)
    assert len(str(caught.value)) < 400


def test_sizes_from_linear_dims_only() -> None:
    b = Builder()
    y = b.input("y", TensorType(F32, (sym("N") * 3,)))
    graph = b.build([("y", b.op("neg", y)), ("n", b.dims((sym("N"),)))])
    assert run(graph, {"y": np.zeros(6, F)})["n"].tolist() == [2]
    with pytest.raises(EvonnxError):
        run(graph, {"y": np.zeros(7, F)})


# -- sizes from data -----------------------------------------------------------------------------


def test_bind_and_slice() -> None:
    b = Builder()
    x = b.input("x", TensorType(F32, (sym("N"),)))
    positions, count = b.op("nonzero", x)
    b.op("bind", count, name="k")
    cut = b.op("slice", positions, starts=(0, 0), sizes=(1, sym("k")), steps=(1, 1))
    graph = b.build([("p", cut), ("k2", b.dims((sym("k") * 2,)))])
    out = run(graph, {"x": np.array([0, 1, 0, 2, 3], F)})
    assert out["p"].tolist() == [[1, 3, 4]]
    assert out["k2"].tolist() == [6]


def test_loop_state_may_grow() -> None:
    body = Builder()
    body.input("i", TensorType(I64, ()))
    cond = body.input("c", TensorType(BOOL, ()))
    state = body.input("s", TensorType(F32, (sym("L"),)))
    scale = body.input("k", TensorType(F32, (sym("M"),)))
    grown = body.op("concat", state, body.op("mul", state, 2.0), axis=0)
    size = body.dims((sym("L"),), scalar=True)
    region = body.build([("c", cond), ("s", grown), ("n", size),
                         ("k", body.op("expand", scale, shape=(sym("M"),)))])  # fmt: skip
    b = Builder()
    x = b.input("x", TensorType(F32, (sym("N"),)))
    k = b.input("k", TensorType(F32, (sym("K"),)))
    trips = b.const(3)
    s, n, ks = b.op(
        "loop", trips, None, x, k, body=region, carried=1, symbols=(),
        results=((F32, (sym("out"),)), (I64, (3,)), (F32, (3, sym("K")))),
    )  # fmt: skip
    graph = b.build([("s", s), ("n", n), ("ks", ks), ("total", b.dims((sym("out"),)))])
    out = run(graph, {"x": np.ones(2, F), "k": np.ones(5, F)})
    assert out["s"].shape == (16,)
    assert out["s"].max() == 8
    assert out["n"].tolist() == [2, 4, 8]
    assert out["total"].tolist() == [16]


# -- modes ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(60))
def test_float64_agrees(seed: int) -> None:
    ops = ("add", "mul", "exp", "tanh", "softmax", "reduce", "dot", "conv", "pool", "layer_norm",
           "attention", "gelu", "reshape", "concat", "slice", "cast")  # fmt: skip
    graph = random_graph(seed, 8, symbolic=seed % 2 == 0, ops=ops)
    feeds = random_feeds(graph, seed)
    single, double = run(graph, feeds), run(graph, feeds, float64=True)
    for name, x in single.items():
        assert double[name].dtype == (np.float64 if x.dtype == F else x.dtype)
        if x.dtype == F:
            scale = np.abs(double[name]).max(initial=1e-3)
            assert np.abs(x - double[name]).max(initial=0) <= 2e-4 * scale


def test_float64_takes_either_float() -> None:
    graph = signature()
    feeds = {k: v.astype(np.float64) for k, v in GOOD.items()}
    assert run(graph, feeds, float64=True)["a"].dtype == np.float64


def test_float64_keeps_integers_and_widens_dtype_attributes() -> None:
    b = Builder()
    i = b.input("i", TensorType(I64, (3,)))
    graph = b.build([
        ("h", b.op("cast", i, to=F16)), ("j", b.op("cast", i, to=I8)),
        ("r", b.op("iota", shape=(4,), axis=0, dtype=BF16)),
    ])  # fmt: skip
    out = run(graph, {"i": np.array([1, 2, 300])}, float64=True)
    assert [x.dtype for x in out.values()] == [np.float64, np.int8, np.float64]
    assert out["j"].tolist() == [1, 2, 44]


def test_values_are_dropped_after_their_last_use() -> None:
    b = Builder()
    v = b.input("x", TensorType(F32, (1000,)))
    for _ in range(20):
        v = b.op("neg", b.op("exp", v))
    graph = b.build([("y", v)])
    alive: list[weakref.ref[np.ndarray]] = []
    most = 0

    def observe(node: Any, results: tuple[np.ndarray, ...]) -> None:
        nonlocal most
        alive.append(weakref.ref(results[0]))
        most = max(most, sum(r() is not None for r in alive))

    run(graph, {"x": np.zeros(1000, F)}, observe=observe)
    assert most <= 3


def test_long_graphs_do_not_recurse() -> None:
    b = Builder()
    v = b.input("x", TensorType(F32, ()))
    for _ in range(20_000):
        v = b.op("add", b.op("neg", v), v)
    graph = b.build([("y", v)])
    assert run(graph, {"x": np.array(1.0, F)})["y"] == 0


def test_expansions_are_shared() -> None:
    b = Builder()
    y = b.op("softmax", b.input("x", TensorType(F32, (2, 3))), axis=1)
    assert expansion(y.node) is expansion(y.node)
    with pytest.raises(ModelError):
        expansion(b.op("neg", y).node)


# -- errors --------------------------------------------------------------------------------------


def test_errors_name_the_node() -> None:
    b = Builder()
    x, i = b.input("x", TensorType(F32, (3,))), b.input("i", TensorType(I64, (1,)))
    graph = b.build([("y", b.op("gather", x, i, axis=0, origin=("my gather\n",)))])
    run(graph, {"x": np.zeros(3, F), "i": np.array([-3])})
    for bad in (3, -4):
        with pytest.raises(ModelError, match=r"gather\(float32\[3\], int64\[1\]\) from 'my gather"):
            run(graph, {"x": np.zeros(3, F), "i": np.array([bad])})


def test_errors_in_regions_name_the_inner_node() -> None:
    body = Builder()
    x = body.input("x", TensorType(F32, (sym("N"),)))
    y = body.input("y", TensorType(F32, (sym("M"),)))
    region = body.build([("z", body.op("add", x, y))])
    b = Builder()
    c = b.input("c", TensorType(BOOL, ()))
    p, q = (b.input(n, TensorType(F32, (sym(n.upper()),))) for n in "pq")
    z = b.op("if", c, p, q, p, q, then=region, else_=region, split=2, symbols=(),
             results=((F32, (sym("R"),)),))  # fmt: skip
    graph = b.build([("z", z)])
    feeds = {"c": np.array(True), "p": np.zeros(3, F), "q": np.zeros(1, F)}
    assert run(graph, feeds)["z"].shape == (3,)
    with pytest.raises(ModelError, match="add"):
        run(graph, {**feeds, "q": np.zeros(2, F)})


def test_sizes_that_do_not_broadcast() -> None:
    b = Builder()
    x, y = (b.input(n, TensorType(F32, (sym(n),))) for n in "ab")
    graph = b.build([("z", b.op("add", x, y))])
    assert run(graph, {"a": np.zeros(3, F), "b": np.zeros(1, F)})["z"].shape == (3,)
    with pytest.raises(ModelError):
        run(graph, {"a": np.zeros(3, F), "b": np.zeros(2, F)})


# -- special values ------------------------------------------------------------------------------


def test_extrema_propagate_nan() -> None:
    assert np.isnan(binary("max", [NAN, 1, NAN], [1, NAN, NAN])).all()
    assert np.isnan(binary("min", [NAN, 1, NAN], [1, NAN, NAN])).all()
    assert np.isnan(unary("relu", [NAN])).all()
    assert np.isnan(unary("reduce", [1, NAN], kind="max", axes=(0,), keepdims=False))
    assert np.isnan(unary("softmax", [INF, 0], axis=0)[0])
    assert unary("relu", [-INF, INF, -0.0]).tolist() == [0, INF, 0]


def test_empty_reductions_are_neutral() -> None:
    neutral = {"sum": 0, "prod": 1, "max": -INF, "min": INF, "mean": NAN}
    for kind, wanted in neutral.items():
        got = unary("reduce", np.zeros((2, 0)), kind=kind, axes=(1,), keepdims=False)
        np.testing.assert_array_equal(got, np.full(2, wanted, F))
    assert unary("reduce", np.zeros((0,), np.int32), np.int32, kind="max", axes=(0,),
                 keepdims=False) == np.iinfo(np.int32).min  # fmt: skip


def test_integer_division() -> None:
    a, b = [7, -7, 7, -7, 5, -(2**31)], [2, 2, -2, -2, 0, -1]
    assert binary("div", a, b, np.int32).tolist() == [3, -3, -3, 3, 0, -(2**31)]
    assert binary("mod", a, b, np.int32).tolist() == [1, 1, -1, -1, 0, 0]
    assert binary("fmod", a, b, np.int32).tolist() == [1, -1, 1, -1, 0, 0]
    assert binary("div", [200, 7], [3, 0], np.uint8).tolist() == [66, 0]


def test_integers_wrap() -> None:
    assert binary("add", [127], [1], np.int8).tolist() == [-128]
    assert binary("mul", [2**31], [2**33], np.int64).tolist() == [0]
    assert unary("neg", [1], np.uint8).tolist() == [255]
    assert unary("abs", [-128], np.int8).tolist() == [-128]
    assert binary("sub", [0], [1], np.uint64).tolist() == [2**64 - 1]
    assert binary("pow", [3, 2, -1, 2, 0, 1], [40, 64, 3, -1, 0, -5], np.int64).tolist() == [
        3**40 - 2**64 if 3**40 >= 2**63 else 3**40, 0, -1, 0, 1, 1]  # fmt: skip


def test_shifts() -> None:
    assert binary("shl", [1, 1, -1], [3, 32, 1], np.int32).tolist() == [8, 0, -2]
    assert binary("shr", [8, -8, 8], [1, 1, 32], np.int32).tolist() == [4, -4, 0]
    assert binary("shr", [255], [7], np.uint8).tolist() == [1]


def test_casts() -> None:
    x = [NAN, INF, -INF, 1e20, -1e20, 2.9, -2.9, 255.5]
    low, high = np.iinfo(np.int32).min, np.iinfo(np.int32).max
    assert unary("cast", x, to=I32).tolist() == [0, high, low, high, low, 2, -2, 255]
    # Narrower integers keep the low bits of the 32-bit number, as NumPy does on x86.
    assert unary("cast", x, to=I8).tolist() == [0, -1, 0, -1, 0, 2, -2, -1]
    assert unary("cast", x, to=BOOL).tolist() == [True] * 8
    assert unary("cast", [2**63, -(2.0**63), 9e18], np.float64, to=I64).tolist() == [
        2**63 - 1, -(2**63), 9 * 10**18]  # fmt: skip
    assert unary("cast", [300, -1], np.int64, to=DType.of(np.uint8)).tolist() == [44, 255]
    assert unary("cast", [1e-30, 70000], to=F16).tolist() == [0, INF]
    assert unary("cast", ["1.5", "-inf"], object, to=F32).tolist() == [1.5, -INF]


def test_half_precision_rounds_once() -> None:
    x = np.array([0.1, 3.0, 11.0], np.float16)
    np.testing.assert_array_equal(
        unary("exp", x, np.float16), np.exp(x.astype(np.float64)).astype(np.float16)
    )
    big = np.full(4096, 1.0, np.float16)
    assert unary("reduce", big, np.float16, kind="sum", axes=(0,), keepdims=False) == 4096
    y = np.array([1.0, 2.0], ml_dtypes.bfloat16)
    assert binary("div", y, y[::-1], ml_dtypes.bfloat16).tolist() == [0.5, 2.0]


@pytest.mark.parametrize("op", ["floor", "ceil", "round", "sqrt", "exp", "log", "tanh", "erf",
                                "erfc", "sigmoid", "sin", "abs", "sign", "atan",
                                "reciprocal"])  # fmt: skip
def test_unary_limits(op: str) -> None:
    limits = {"sqrt": (INF, NAN), "exp": (INF, 0), "log": (INF, NAN), "tanh": (1, -1),
              "erf": (1, -1), "erfc": (0, 2), "sigmoid": (1, 0), "sin": (NAN, NAN),
              "abs": (INF, INF), "sign": (1, -1), "atan": (F(math.pi / 2), F(-math.pi / 2)),
              "reciprocal": (0, -0.0),
              "floor": (INF, -INF), "ceil": (INF, -INF), "round": (INF, -INF)}[op]  # fmt: skip
    got = unary(op, [INF, -INF, NAN])
    np.testing.assert_array_equal(got, np.array([*limits, NAN], F))


def test_round_is_half_to_even() -> None:
    assert unary("round", [0.5, 1.5, 2.5, -0.5]).tolist() == [0, 2, 2, 0]


def test_erf_is_accurate() -> None:
    x = np.concatenate([np.linspace(-7, 7, 4001), [1e-300, 5e-324, -0.0, 0.46875, 4.0, 30.0]])
    want = np.array([math.erf(v) for v in x])
    np.testing.assert_allclose(erf(x), want, rtol=1.5e-15, atol=0)
    assert erf(np.array(0.5)).shape == ()
    complement = np.array([math.erfc(v) for v in x])
    np.testing.assert_allclose(erfc(x), complement, rtol=1.5e-15, atol=0)
    far = np.linspace(7, 28, 2001)  # to the last denormal number
    want = np.array([math.erfc(v) for v in far])
    np.testing.assert_allclose(erfc(far), want, rtol=4e-15, atol=1e-323)


def test_isinf_signs() -> None:
    x = [INF, -INF, NAN, 0]
    assert unary("isinf", x, positive=True, negative=False).tolist() == [True, False, False, False]
    assert unary("isinf", x, positive=False, negative=True).tolist() == [False, True, False, False]


def test_topk_order() -> None:
    b = Builder()
    x = b.input("x", TensorType(F32, (6,)))
    values, index = b.op("topk", x, axis=0, k=4, largest=True, sorted=True)
    graph = b.build([("v", values), ("i", index)])
    out = run(graph, {"x": np.array([1, 3, NAN, 3, -INF, 2], F)})
    assert out["i"].tolist() == [2, 1, 3, 5]


def test_zero_dimensional_values_stay_arrays() -> None:
    none = {"starts": (), "sizes": (), "steps": ()}
    cases = {"expand": {"shape": ()}, "transpose": {"perm": ()}, "reshape": {"shape": ()},
             "slice": none}  # fmt: skip
    for op, attrs in cases.items():
        assert unary(op, 1.0, **attrs).shape == ()


def test_strings_pass_through() -> None:
    b = Builder()
    x = b.input("x", TensorType(STR, (2,)))
    graph = b.build([("y", b.op("reshape", x, shape=(2, 1)))])
    assert run(graph, {"x": np.array(["a", "b"])})["y"].tolist() == [["a"], ["b"]]


def test_random_numbers_are_fixed() -> None:
    b = Builder()
    graph = b.build([
        ("u", b.op("random_uniform", shape=(1000,), dtype=F64, low=-1.0, high=3.0, seed=7)),
        ("n", b.op("random_normal", shape=(1000,), dtype=F64, mean=1.0, scale=2.0, seed=7)),
    ])  # fmt: skip
    a, c = run(graph, {}), run(graph, {})
    assert all((a[k] == c[k]).all() for k in a)
    assert -1 <= a["u"].min() < a["u"].max() <= 3
    assert abs(a["n"].mean() - 1) < 0.3
    assert abs(a["n"].std() - 2) < 0.3
