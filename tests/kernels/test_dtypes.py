"""Every element type in kernels: all conversions, bit patterns and moves against the references."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

from evonnx.ir.builder import Builder
from evonnx.ir.graph import Value
from evonnx.ir.interp import run as interpret
from evonnx.ir.target import Target
from evonnx.ir.types import BF16, BOOL, C64, C128, DTYPES, F16, F32, I32, DType, TensorType
from evonnx.kernels.emit import emit
from evonnx.kernels.lower import lower_loops

HERE = pytest.mark.parametrize("target", [Target.detect()], indirect=True, ids=["here"])
"""One target is enough where code does not differ between them."""
NUMBERS = [d for d in DTYPES.values() if d.kind in "biuf"]
BYTES = [d for d in NUMBERS if d.itemsize == 1]
WIDE = [d for d in NUMBERS if d.itemsize > 1]


def patterns(dtype: DType) -> np.ndarray:
    """Every element of a type of at most 16 bits, 65536 spread ones of a wider type."""
    bits = 8 * dtype.itemsize
    if dtype.kind == "b":
        return np.arange(2, dtype=np.uint8).view(np.bool_)
    if bits <= 16:
        return np.arange(1 << dtype.bits).astype(dtype.code.np).view(dtype.np)
    with np.errstate(all="ignore"):
        return _spread(dtype)


def _spread(dtype: DType) -> np.ndarray:
    """Random bits, numbers of all sizes, the halves and what lies between two of them."""
    bits = dtype.bits
    rng = np.random.default_rng(bits)
    raw = rng.integers(0, 1 << 63, 1 << 14, dtype=np.uint64) * np.uint64(2)
    parts = [(raw >> np.uint64(64 - bits)).astype(dtype.code.np).view(dtype.np)]
    near = np.concatenate([rng.standard_normal(1 << 13) * 10.0**k for k in (-40, -7, -3, 0, 2, 5)])
    halves = np.arange(1 << 16, dtype=np.uint16).view(np.float16)
    if dtype.is_float:
        edges = [1e-46, 2.0**-127, 1.5 * 2.0**-127, 2.0**-126, 2.0**127, 1.7e38, 2e38, 464.0, 448.1]
        parts += [near, halves, halves * np.float64(1.0009765625), edges, np.negative(edges)]
    else:
        parts += [np.clip(near, 0 if dtype.kind == "u" else -2.0**31, 2.0**31 - 1)]
    return np.concatenate([np.asarray(p).astype(dtype.np) for p in parts])


def agree(run: Any, build: Callable[[Builder, list[Value]], Sequence[Value]],
          arrays: Sequence[np.ndarray], nan: bool = True) -> None:
    """A group compiled as one kernel gives the interpreter's results, bit by bit; with ``nan`` any
    NaN is as good as another."""
    b = Builder()
    inputs = [b.input(f"x{k}", TensorType(DType.of(a.dtype), a.shape))
              for k, a in enumerate(arrays)]
    made = build(b, inputs)
    graph = b.build([(f"y{k}", v) for k, v in enumerate(made)])
    wanted = interpret(graph, {f"x{k}": a for k, a in enumerate(arrays)})
    emitted = emit(lower_loops(graph))
    results = [np.zeros(v.shape, v.dtype.np) for v in made]  # type: ignore[arg-type]
    run.kernel(emitted.source, [*arrays, *results], emitted.params, emitted.tiles)
    for k, (v, got) in enumerate(zip(made, results, strict=True)):
        want = wanted[f"y{k}"]
        same = _bytes(got) == _bytes(want)
        if nan and v.dtype.is_float:
            same |= (_isnan(got) & _isnan(want)).reshape(-1, 1)
        bad = np.flatnonzero(~same.all(axis=1))[:4]
        assert not bad.size, (str(v.node), got.reshape(-1)[bad], want.reshape(-1)[bad])


def _bytes(array: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(array).reshape(-1, 1).view(np.uint8)


def _isnan(array: np.ndarray) -> np.ndarray:
    with np.errstate(invalid="ignore"):
        return np.isnan(array.astype(np.float64))


@pytest.mark.parametrize("source", WIDE, ids=str)
def test_conversions_of_wide_types(run: Any, source: DType) -> None:
    agree(run, lambda b, xs: [b.op("cast", xs[0], to=to) for to in NUMBERS if to != source],
          [patterns(source)])


@pytest.mark.parametrize("source", BYTES, ids=str)
def test_conversions_of_bytes(run: Any, source: DType) -> None:
    agree(run, lambda b, xs: [b.op("cast", xs[0], to=to) for to in NUMBERS if to != source],
          [patterns(source)])


@pytest.mark.parametrize("width", [2, 4, 6, 8, 16, 32, 64])
def test_reinterpreted_bits(run: Any, width: int) -> None:
    """Between all types of one width, of loaded and of computed values."""
    kinds = [d for d in (*NUMBERS, C64) if d.bits == width]
    arrays = [patterns(d)[:4096] if d != C64 else complexes(C64) for d in kinds]
    size = min(a.size for a in arrays if a.dtype != bool)

    def build(b: Builder, xs: list[Value]) -> list[Value]:
        made = [b.op("bitcast", x, to=to) for x in xs for to in kinds if to != x.dtype]
        sums = [b.op("neg", x) for x in xs if x.dtype.kind in "if"]
        return made + [b.op("bitcast", x, to=to) for x in sums for to in kinds[:3]
                       if to not in (x.dtype, BOOL)]

    agree(run, build, [np.resize(a, size) for a in arrays])


def complexes(dtype: DType) -> np.ndarray:
    """Numbers with every kind of float in both parts."""
    parts = np.array([0.0, -0.0, 1.5, -2.25, np.inf, -np.inf, np.nan, 1e-40], np.float64)
    with np.errstate(all="ignore"):
        grid = np.zeros((8, 8), dtype.np)
        grid.real, grid.imag = parts[:, None], parts[None]
    return grid.reshape(-1)


@HERE
@pytest.mark.parametrize("dtype", [*NUMBERS, C64, C128], ids=str)
def test_moves_keep_every_bit(run: Any, dtype: DType) -> None:
    """Guards, selections, gathers and constants of any type: NaN keep their payloads."""
    x = np.resize(patterns(dtype) if dtype.kind != "c" else complexes(dtype), (4, 64))
    at = np.array([3, 0, -1], np.int64)

    def build(b: Builder, xs: list[Value]) -> list[Value]:
        v, index, flag = xs
        one = b.const(x[1, 5])
        padded = b.op("pad", b.op("transpose", v, perm=(1, 0)), one, lo=(1, 2), hi=(3, 0),
                      mode="constant")
        return [
            padded,
            b.op("concat", v, b.op("gather", v, index, axis=0), axis=0),
            b.op("select", flag, v, b.op("expand", one, shape=(4, 64))),
            b.op("slice", v, starts=(3, 60), sizes=(4, 5), steps=(-1, -3)),
        ]

    flags = np.array([[True], [False], [True], [False]])
    agree(run, build, [x, at, flags], nan=False)


@pytest.mark.parametrize("dtype", [F16, BF16], ids=str)
def test_halves_round_after_every_function(run: Any, dtype: DType) -> None:
    """A chain in one kernel gives what its parts give one by one."""
    rng = np.random.default_rng(5)
    x, y = (np.asarray(rng.standard_normal(4096) * 8).astype(dtype.np) for _ in range(2))

    def build(b: Builder, xs: list[Value]) -> list[Value]:
        v, w = xs
        total = b.op("add", b.op("mul", v, w), b.op("div", v, b.op("abs", w)))
        return [b.op("sqrt", b.op("abs", total)), b.op("cast", b.op("sub", total, v), to=F32),
                b.op("mod", v, w), b.op("floor", b.op("reciprocal", w)),
                b.op("cast", b.op("mul", b.op("mul", v, w), 100.0), to=I32)]

    agree(run, build, [x, y])


@pytest.mark.parametrize("dtype", [F16, BF16], ids=str)
def test_sums_of_halves_are_kept_in_float32(run: Any, dtype: DType) -> None:
    """4096 ones and small addends, which a sum in the type itself would lose."""
    rng = np.random.default_rng(6)
    rows = np.concatenate([np.ones((3, 4096)), np.full((3, 64), 2.0**-9)], 1).astype(dtype.np)
    a, w = (np.asarray(rng.integers(0, 3, s)).astype(dtype.np) for s in ((5, 1500), (1500, 7)))

    def build(kind: str) -> Callable[[Builder, list[Value]], list[Value]]:
        return lambda b, xs: [b.op("reduce", xs[0], kind=kind, axes=(1,), keepdims=False)]

    agree(run, build("sum"), [rows])
    agree(run, build("mean"), [rows])
    agree(run, lambda b, xs: [b.op("dot", *xs, ta=False, tb=False)], [a, w])
