"""Symbolic evaluation of shape arithmetic: what it says is what the interpreter computes."""

from __future__ import annotations

import numpy as np
import pytest

from evonnx.ir.builder import Builder
from evonnx.ir.dim_values import evaluate
from evonnx.ir.dims import Dim, sym
from evonnx.ir.errors import EvonnxError, ModelError
from evonnx.ir.graph import Value
from evonnx.ir.interp import run
from evonnx.ir.shapes import partial_value
from evonnx.ir.types import BOOL, F32, I32, I64, TensorType

N, M = sym("N"), sym("M")


def grow(seed: int) -> tuple[Builder, list[Value]]:
    """Random integer arithmetic on sizes."""
    rng = np.random.default_rng(seed)
    b = Builder()
    x = b.input("x", TensorType(F32, (N, M, (N - 1) // 2 + 1)))
    unknown = b.input("u", TensorType(I64, (3,)))
    pool = [b.dims(x.shape), b.dims((M, N * 2, 7)), b.const(np.array([2, 0, 1])), unknown,
            b.dims((N,), scalar=True), b.const(np.array(-1)),
            b.const(np.array([1, 2, 3]))]  # fmt: skip

    def pick(*dtypes: object) -> Value:
        fits = [v for v in pool if v.dtype in (dtypes or (I64,))]
        return fits[int(rng.integers(len(fits)))]

    for _ in range(14):
        op = str(rng.choice(OPS))
        try:
            v = pick()
            if op in ("eq", "lt", "le", "add", "sub", "mul", "div", "mod", "max", "min"):
                pool.append(b.op(op, v, pick()))
            elif op == "select":
                pool.append(b.op("select", pick(BOOL), v, pick()))
            elif op in ("and", "or"):
                pool.append(b.op(op, pick(BOOL), pick(BOOL)))
            elif op == "not":
                pool.append(b.op(op, pick(BOOL)))
            elif op in ("neg", "abs", "sign", "relu"):
                pool.append(b.op(op, v))
            elif op == "cast":
                pool.append(b.op("cast", v, to=(BOOL, I64)[int(rng.integers(2))]))
            elif op == "concat":
                pool.append(b.op("concat", v, pick(), axis=0))
            elif op == "slice":
                k = int(rng.integers(v.shape[0]))  # type: ignore[arg-type]
                step = int(rng.choice((1, -1)))
                pool.append(b.op("slice", v, starts=(k,), sizes=(1,), steps=(step,)))
            elif op == "gather":
                k = int(rng.integers(-v.shape[0], v.shape[0]))  # type: ignore[operator]
                pool.append(b.op("gather", v, b.const(np.array(k)), axis=0))
            elif op == "reduce":
                kind = str(rng.choice(("sum", "prod", "max", "min")))
                pool.append(b.op("reduce", v, kind=kind, axes=(0,), keepdims=bool(rng.integers(2))))
            elif op == "cumulate":
                pool.append(b.op("cumulate", v, kind="sum", axis=0, exclusive=False, reverse=False))
            elif op == "reshape":
                pool.append(b.op("reshape", v, shape=(1, *v.shape)))
            elif op == "expand":
                pool.append(b.op("expand", v, shape=(3,)))
            else:
                pool.append(b.op("iota", shape=(3,), axis=0, dtype=I64))
        except (EvonnxError, IndexError, ValueError, TypeError):
            continue
    return b, [v for v in pool if v.dtype in (I64, BOOL)]


OPS = ("eq", "lt", "le", "add", "sub", "mul", "div", "mod", "max", "min", "select", "and", "or",
       "not", "neg", "abs", "sign", "relu", "cast", "concat", "slice", "gather", "reduce",
       "cumulate", "reshape", "expand", "iota")  # fmt: skip


@pytest.mark.parametrize("block", range(10))
def test_symbolic_values_are_right(block: int) -> None:
    decided = 0
    for seed in range(block * 40, block * 40 + 40):
        b, values = grow(seed)
        symbolic = [partial_value(v, b.constants, b.dims_memo) for v in values]
        graph = b.build([(f"y{k}", v) for k, v in enumerate(values)])
        for n, m in ((1, 1), (4, 3), (7, 2), (2, 9)):
            feeds = {"x": np.zeros((n, m, (n - 1) // 2 + 1), np.float32),
                     "u": np.array([n - 3, 0, m])}  # fmt: skip
            try:
                actual = run(graph, {k: feeds[k] for k in graph.input_names})
            except EvonnxError:
                continue
            for k, found in enumerate(symbolic):
                if found is None:
                    continue
                want = actual[f"y{k}"]
                assert found.shape == want.shape
                for got, exact in zip(found.ravel(), want.ravel(), strict=True):
                    if got is not None:
                        decided += 1
                        assert value_at(got, n, m) in (int(exact), None), (seed, k, values[k])
    assert decided > 500


def value_at(d: Dim, n: int, m: int) -> int | None:
    """None where the expression divides by a size that is 0 here."""
    try:
        return evaluate(d, {"N": n, "M": m})
    except ModelError as e:
        return None if "divides by zero" in str(e) else -(10**9)


def value_of(make: object, *sizes: Dim) -> list[Dim] | None:
    b = Builder()
    b.input("x", TensorType(F32, (N, M, *sizes)))
    found = b.dims_value(make(b, b.dims(sizes)))  # type: ignore[operator]
    return None if found is None else list(found.ravel())


def test_division_truncates() -> None:
    got = value_of(lambda b, d: b.op("div", b.op("sub", d, 5), 2), N)
    assert got is not None
    for n in range(12):
        assert evaluate(got[0], {"N": n}) == int((n - 5) / 2)
    assert value_of(lambda b, d: b.op("div", d, 2), N * 4 + 2) == [N * 2 + 1]


def test_a_size_is_never_minus_one() -> None:
    """Exporters ask ``shape == -1`` before they expand; window sizes are sizes, too."""
    for size in (N, N * M, N + 3, (N - 3) // 2 + 1, ((N - 1) // 2 - 4) // 3 + 1):
        assert value_of(lambda b, d: b.op("eq", d, -1), size) == [0]
    assert value_of(lambda b, d: b.op("eq", d, 1), N) is None
    assert value_of(lambda b, d: b.op("lt", d, 0), N) == [0]


def test_data_and_large_tensors_are_unknown() -> None:
    b = Builder()
    x = b.input("x", TensorType(I32, (3,)))
    assert b.dims_value(b.op("add", x, x)) is None
    big = b.op("iota", shape=(100_000,), axis=0, dtype=I64)
    assert b.dims_value(big) is None
