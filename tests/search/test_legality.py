"""Legality: what may be one kernel, and the reason for what may not."""

from __future__ import annotations

import re
from collections.abc import Callable

import numpy as np
import pytest

from evonnx.ir.builder import Builder
from evonnx.ir.dims import sym
from evonnx.ir.graph import Graph, Value
from evonnx.ir.ops.host import result_spec
from evonnx.ir.types import BOOL, F32, F64, I64, TensorType
from evonnx.search import legality
from evonnx.search.legality import alone, implementation, legal

N = sym("N")


def whole(make: Callable[[Builder, Value], Value | tuple[Value, ...]], *shape: object
          ) -> tuple[str | None, str]:
    """How everything that ``make`` builds on x can run as one group."""
    b = Builder()
    x = b.input("x", TensorType(F32, tuple(shape)))  # type: ignore[arg-type]
    made = make(b, x)
    outs = made if isinstance(made, tuple) else (made,)
    graph = b.build([(f"y{k}", v) for k, v in enumerate(outs)])
    return implementation(graph, members(graph))


def members(graph: Graph) -> list:
    return [n for n in graph.nodes if n.op not in ("input", "const")]


def mean(b: Builder, x: Value) -> Value:
    return b.op("reduce", x, kind="mean", axes=(x.rank - 1,), keepdims=True)


def weight(b: Builder, rows: int, columns: int) -> Value:
    return b.const(np.ones((rows, columns), np.float32))


# What is legal -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "how"),
    [
        (lambda b, x: b.op("exp", b.op("neg", x)), "loops"),
        (lambda b, x: b.op("softmax", b.op("mul", x, 2.0), axis=1), "loops"),
        (lambda b, x: b.op("sub", x, mean(b, x)), "loops"),
        (lambda b, x: b.op("relu", b.op("dot", x, weight(b, 8, 4), ta=False, tb=False)),
         "contract"),
        (lambda b, x: b.op("reshape", x, shape=(N * 8,)), "view"),
        (lambda b, x: b.op("cumulate", x, kind="sum", axis=0, exclusive=False, reverse=False),
         "opaque"),
        (lambda b, x: b.op("transpose", b.op("exp", x), perm=(1, 0)), "loops"),
    ],
)  # fmt: skip
def test_how_a_group_runs(make: Callable[[Builder, Value], Value], how: str) -> None:
    assert whole(make, N, 8) == (how, "")


def test_regions_and_data_dependent_ops_are_steps_of_their_own() -> None:
    b = Builder()
    data = b.input("x", TensorType(F32, (N,)))
    graph = b.build({"y": b.op("nonzero", data)[1]})
    (node,) = members(graph)
    assert implementation(graph, [node]) == ("opaque", "")
    assert "a step of its own" in str(alone(node))
    then = Builder()
    region = then.build({"r": then.op("neg", then.input("x", TensorType(F32, (N,))))})
    b = Builder()
    flag, x = b.input("c", TensorType(BOOL, ())), b.input("x", TensorType(F32, (N,)))
    chosen = b.op("if", flag, x, x, then=region, else_=region, split=1, symbols=(("N", N),),
                  results=(result_spec(TensorType(F32, (N,))),))  # fmt: skip
    graph = b.build({"y": b.op("exp", chosen)})
    control, exp = members(graph)
    assert implementation(graph, [control]) == ("control", "")
    assert implementation(graph, [control, exp]) == (None, "if is control: a step of its own")


# What is not, and why ------------------------------------------------------------------------


def _scan(b: Builder, x: Value) -> Value:
    return b.op("cumulate", x, kind="sum", axis=0, exclusive=False, reverse=False)


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda b, x: b.op("neg", _scan(b, x)), "cumulate is "),
        (lambda b, x: b.op("dot", b.op("dot", x, weight(b, 8, 8), ta=False, tb=False),
                           weight(b, 8, 4), ta=False, tb=False), "two contractions"),
        (lambda b, x: b.op("softmax", b.op("dot", x, weight(b, 8, 4), ta=False, tb=False), axis=1),
         "contraction"),
        (lambda b, x: b.op("add", b.op("softmax", x, axis=1), b.op("softmax", x, axis=0)),
         "read at two positions|different tiles|another reduction's axis|does not cover"),
    ],
)  # fmt: skip
def test_why_a_group_cannot_be_one_kernel(
    make: Callable[[Builder, Value], Value], reason: str
) -> None:
    found, why = whole(make, 8, 8)
    assert found is None
    assert re.search(reason, why), why


def test_bounds_on_size(monkeypatch: pytest.MonkeyPatch) -> None:
    def chain(length: int) -> Callable[[Builder, Value], Value]:
        def make(b: Builder, x: Value) -> Value:
            for k in range(length):
                x = b.op("mul", x, 1.5 + k)
            return x

        return make

    def wide(count: int) -> Callable[[Builder, Value], Value]:
        def make(b: Builder, x: Value) -> Value:
            for k in range(count):
                x = b.op("add", x, b.input(f"w{k}", TensorType(F32, (4,))))
            return x

        return make

    most, operands = legality.MAX_NODES, legality.MAX_OPERANDS
    assert whole(chain(most), 4)[0] == "loops"
    assert whole(chain(most + 1), 4) == (None, f"{most + 1} nodes, more than {most}")
    assert whole(wide(operands - 1), 4)[0] == "loops"
    assert whole(wide(operands), 4) == (None, f"{operands + 1} operands, more than {operands}")


def test_legal_is_true_or_the_reason() -> None:
    b = Builder()
    x = b.input("x", TensorType(F64, (3, 3)))
    graph = b.build({"y": b.op("neg", _scan(b, b.op("exp", x)))})
    exp, scan, neg = members(graph)
    assert legal(graph, [exp]) is True
    assert legal(graph, [scan]) is True
    reason = legal(graph, [scan, neg])
    assert isinstance(reason, str) and "cumulate" in reason


def test_legality_never_looks_at_cost() -> None:
    """A huge and a tiny group of the same structure get the same answer."""
    make = lambda b, x: b.op("softmax", b.op("mul", x, 2.0), axis=1)  # noqa: E731
    assert whole(make, 2, 2) == whole(make, 100_000, 100_000)


def test_micro_kernels_do_not_gather_their_operands() -> None:
    """Found by a search: nothing greedy fuses computed rows, let alone gathered ones."""
    b = Builder()
    x, at = b.input("x", TensorType(F32, (40, 16))), b.input("at", TensorType(I64, (N,)))
    w = b.const(np.ones((16, 24), np.float32))
    rows = b.op("gather", x, at, axis=0)
    product = b.op("dot", b.op("mul", rows, rows), w, ta=False, tb=False)
    graph = b.build({"y": product})
    word, reason = implementation(graph, members(graph))
    assert word is None
    assert "gathered positions" in reason
