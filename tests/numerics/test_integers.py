"""Integers wrap modulo 2^bits; what mathematics leaves open has a stated result and never traps."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import accumulate
from typing import Any

import numpy as np
import pytest
from onnx import helper

SIGNED = ("int8", "int16", "int32", "int64")
ALL = (*SIGNED, "uint8", "uint16", "uint32", "uint64")


def wrapped(value: int, dtype: np.dtype) -> int:
    """``value`` modulo 2^bits as a number of ``dtype``."""
    bits = 8 * dtype.itemsize
    value &= (1 << bits) - 1
    return value - (1 << bits) if dtype.kind == "i" and value >> (bits - 1) else value


def pairs(dtype: np.dtype) -> tuple[np.ndarray, np.ndarray]:
    """All pairs of the numbers at which something may go wrong."""
    info = np.iinfo(dtype)
    near = {info.min, info.min + 1, -7, -1, 0, 1, 2, 3, 7, info.max // 2 + 1, info.max - 1,
            info.max}  # fmt: skip
    values = np.array(sorted(v for v in near if info.min <= v), dtype)
    a, b = np.meshgrid(values, values)
    return a.ravel().copy(), b.ravel().copy()


def quotient(a: int, b: int) -> int:
    """Truncated; 0 for a divisor of 0."""
    return 0 if b == 0 else abs(a) // abs(b) * (1 if (a < 0) == (b < 0) else -1)


def power(a: int, b: int) -> int:
    """Modulo 2^64; a negative exponent truncates: 0 unless the base is 1 or -1 (0: 0)."""
    if b >= 0:
        return pow(a, b, 1 << 64)
    return {1: 1, -1: 1 if b % 2 == 0 else -1}.get(a, 0)


BINARY: dict[str, tuple[str, dict[str, Any], Callable[[int, int], int]]] = {
    "add": ("Add", {}, lambda a, b: a + b),
    "sub": ("Sub", {}, lambda a, b: a - b),
    "mul": ("Mul", {}, lambda a, b: a * b),
    "div": ("Div", {}, quotient),
    "mod": ("Mod", {}, lambda a, b: 0 if b == 0 else a % b),
    "fmod": ("Mod", {"fmod": 1}, lambda a, b: 0 if b == 0 else a - b * quotient(a, b)),
    "pow": ("Pow", {}, power),
    "max": ("Max", {}, max),
    "min": ("Min", {}, min),
}


@pytest.mark.parametrize("name", ALL)
def test_binary(lab: Any, name: str) -> None:
    """Wrap-around; x / 0 = x mod 0 = 0; INT_MIN / -1 = INT_MIN; no SIGFPE."""
    dtype = np.dtype(name)
    a, b = pairs(dtype)
    names = [k for k, (op, _, _) in BINARY.items() if lab.takes(op, name)]
    nodes = [helper.make_node(BINARY[k][0], ["a", "b"], [k], **BINARY[k][1]) for k in names]
    for k, got in zip(names, lab.run(nodes, {"a": a, "b": b}, names), strict=True):
        want = [wrapped(BINARY[k][2](int(x), int(y)), dtype) for x, y in zip(a, b)]
        np.testing.assert_array_equal(got, np.array(want, dtype), err_msg=k)
        assert got.dtype == dtype


@pytest.mark.parametrize("name", ALL)
def test_division_by_known_numbers(lab: Any, name: str) -> None:
    """Constant divisors take other code than computed ones, with the same results."""
    dtype = np.dtype(name)
    a, _ = pairs(dtype)
    divisors = [d for d in (0, 1, 2, 7, -1, np.iinfo(dtype).min, np.iinfo(dtype).max)
                if d >= np.iinfo(dtype).min]  # fmt: skip
    nodes, constants = [], {}
    for i, d in enumerate(divisors):
        constants[f"d{i}"] = np.array(d, dtype)
        nodes += [helper.make_node("Div", ["a", f"d{i}"], [f"q{i}"]),
                  helper.make_node("Mod", ["a", f"d{i}"], [f"r{i}"])]  # fmt: skip
    outputs = [n.output[0] for n in nodes]
    results = iter(lab.run(nodes, {"a": a}, outputs, constants))
    for d in divisors:
        want = [wrapped(quotient(int(x), int(d)), dtype) for x in a]
        np.testing.assert_array_equal(next(results), np.array(want, dtype), err_msg=f"/ {d}")
        want = [0 if d == 0 else int(x) % int(d) for x in a]
        np.testing.assert_array_equal(next(results), np.array(want, dtype), err_msg=f"% {d}")


@pytest.mark.parametrize("name", SIGNED)
def test_unary(lab: Any, name: str) -> None:
    """-INT_MIN = abs(INT_MIN) = INT_MIN."""
    dtype = np.dtype(name)
    a, _ = pairs(dtype)
    nodes = [helper.make_node(op, ["a"], [op]) for op in ("Neg", "Abs", "Sign")]
    neg, size, sign = lab.run(nodes, {"a": a}, ["Neg", "Abs", "Sign"])
    assert [int(v) for v in neg] == [wrapped(-int(x), dtype) for x in a]
    assert [int(v) for v in size] == [wrapped(abs(int(x)), dtype) for x in a]
    assert np.array_equal(sign, np.sign(a))


@pytest.mark.parametrize("name", ["uint8", "uint16", "uint32", "uint64"])
def test_shifts(lab: Any, name: str) -> None:
    """A shift by the width or more leaves 0."""
    dtype = np.dtype(name)
    bits = 8 * dtype.itemsize
    counts = [c for c in (0, 1, 7, 8, 15, 16, 31, 32, 63, 64, 65, 200, 255) if c <= 255]
    a, s = (v.ravel().copy() for v in np.meshgrid(np.unique(pairs(dtype)[0]),
                                                   np.array(counts, dtype)))  # fmt: skip
    nodes = [helper.make_node("BitShift", ["a", "s"], [d], direction=d) for d in ("LEFT", "RIGHT")]
    left, right = lab.run(nodes, {"a": a, "s": s}, ["LEFT", "RIGHT"])
    for x, n, up, down in zip(a, s, left, right):
        assert int(up) == (wrapped(int(x) << int(n), dtype) if n < bits else 0)
        assert int(down) == (int(x) >> int(n) if n < bits else 0)


SUMS: dict[str, Callable[[list[int]], list[int]]] = {
    "ReduceSum": lambda r: [sum(r)],
    "ReduceProd": lambda r: [math.prod(r)],
    "ReduceSumSquare": lambda r: [sum(x * x for x in r)],
    "ReduceMax": lambda r: [max(r)],
    "ReduceMin": lambda r: [min(r)],
    "CumSum": lambda r: list(accumulate(r)),
}


@pytest.mark.parametrize("name", ["int32", "int64", "uint32", "uint64"])
def test_sums_wrap(lab: Any, name: str) -> None:
    """Sums and products of many numbers wrap in their own type."""
    dtype = np.dtype(name)
    info = np.iinfo(dtype)
    row = [info.max, info.max, 3, info.min, info.max, 5, 7]
    nodes = [helper.make_node(op, ["a", "one" if op == "CumSum" else "axes"], [op])
             for op in SUMS]  # fmt: skip
    constants = {"one": np.array(1), "axes": np.array([1])}
    feeds = {"a": np.array([row] * 3, dtype)}
    for op, got in zip(SUMS, lab.run(nodes, feeds, list(SUMS), constants), strict=True):
        want = [wrapped(v, dtype) for v in SUMS[op](row)]
        assert [int(v) for v in got[1]] == want, op


@pytest.mark.parametrize("name", ["int32", "int64", "uint32", "uint64"])
def test_products_of_matrices_wrap(lab: Any, name: str) -> None:
    dtype = np.dtype(name)
    info = np.iinfo(dtype)
    rng = np.random.default_rng(1)
    a = rng.integers(info.min, info.max, (5, 9), dtype, endpoint=True)
    b = rng.integers(info.min, info.max, (9, 7), dtype, endpoint=True)
    (got,) = lab.run([helper.make_node("MatMul", ["a", "b"], ["y"])], {"a": a, "b": b}, ["y"])
    exact = a.astype(object) @ b.astype(object)
    want = [[wrapped(int(v), dtype) for v in row] for row in exact]
    np.testing.assert_array_equal(got, np.array(want, dtype))
