"""The verifier: what it accepts, what it refuses, and that the error shows the lines around."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from evonnx.ir.builder import Builder
from evonnx.ir.dim_functions import dmin
from evonnx.ir.dims import sym
from evonnx.ir.errors import VerifyError
from evonnx.ir.graph import Attrs, Constants, Graph, Node, Value
from evonnx.ir.parser import parse_graph
from evonnx.ir.random_graphs import random_graph
from evonnx.ir.types import BOOL, F32, I64, TensorType
from evonnx.ir.verify import verify

T = TensorType(F32, (4,))


def node(op: str, *inputs: Value | None, types: Any = (T,), **attrs: Any) -> Node:
    return Node(op, inputs, Attrs(attrs.items()), types)


def graph(*nodes: Node, outputs: Any = None) -> Graph:
    inputs = [n.out for n in nodes if n.op == "input"]
    return Graph(inputs, outputs or [("y", nodes[-1].out)], nodes, Constants())


X = node("input", name="x")


@pytest.mark.parametrize("seed", range(40))
def test_random_graphs_are_valid(seed: int) -> None:
    g = random_graph(seed, 12, symbolic=bool(seed % 2))
    assert verify(g) is g


def refused(g: Graph, *parts: str) -> str:
    with pytest.raises(VerifyError) as caught:
        verify(g)
    for part in parts:
        assert part in str(caught.value)
    return str(caught.value)


def test_lines_around_the_fault() -> None:
    nodes = [X]
    for _ in range(12):
        nodes.append(node("neg", nodes[-1].out))
    nodes[6] = bad = node("sin", nodes[5].out, types=(TensorType(F32, (5,)),))
    nodes[7] = node("neg", bad.out, types=bad.types)
    for k in range(8, 13):
        nodes[k] = node("neg", nodes[k - 1].out, types=bad.types)
    message = refused(graph(*nodes), "the type says f32[5], inference says f32[4]")
    lines = message.splitlines()[1:]
    assert [line[:4] for line in lines] == ["    "] * 4 + ["--> "] + ["    "] * 4
    assert lines[4] == "--> %6 = sin(%5) : f32[5]"
    assert lines[0] == "    %2 = neg(%1) : f32[4]"


def test_order() -> None:
    a = node("neg", X.out)
    b = node("neg", a.out)
    refused(graph(X, b, a), "operand 0 is computed later")
    refused(graph(X, b), "operand 0 is computed not in the graph")
    refused(graph(X, a, a), "twice")


def test_operands_and_attributes() -> None:
    refused(graph(X, node("frobnicate", X.out)), "there is no op 'frobnicate'")
    refused(graph(X, node("add", X.out)), "add takes")
    refused(graph(X, node("neg", X.out, color=1)), "no attribute color")
    refused(graph(X, node("softmax", X.out)), "lacks attribute axis")
    refused(graph(X, node("neg", Value(X, 1))), "operand 0 is output 1 of 1")
    refused(graph(X, node("transpose", X.out, perm=7)), "types cannot be inferred")
    array = Node("neg", (X.out,), Attrs(), (T,))
    object.__setattr__(array, "attrs", Attrs([("perm", (1, frozenset()))]))
    refused(graph(X, array), "holds a frozenset")


def test_signature() -> None:
    other = node("input", name="x")
    refused(graph(X, other, node("neg", X.out)), "two inputs are called 'x'")
    y = node("neg", X.out)
    refused(graph(X, y, outputs=[("y", y.out), ("y", X.out)]), "two outputs are called 'y'")
    refused(graph(X, outputs=[("y", y.out)]), "output 'y' is not a value")
    refused(Graph([], [("y", y.out)], [X, y], Constants()), "not exactly its input nodes")


def test_constants() -> None:
    refused(graph(node("const", digest="ab" * 20)), "not in the table")
    table = Constants()
    digest = table.add(np.zeros(5, np.float32))
    c = node("const", digest=digest)
    with pytest.raises(VerifyError, match="is float32"):
        verify(Graph([], [("y", c.out)], [c], table))


def test_symbols() -> None:
    wide = TensorType(F32, (sym("N"), 4))
    refused(
        graph(X, node("expand", X.out, types=(wide,), shape=wide.shape)),
        "symbol N is used before it is defined",
    )
    scalar = node("input", types=(TensorType(I64, ()),), name="n")
    bind = node("bind", scalar.out, types=scalar.types, name="k")
    again = node("bind", scalar.out, types=scalar.types, name="k")
    refused(graph(scalar, bind, again), "symbol k is defined twice")
    late = node("dims", types=(TensorType(I64, (1,)),), values=(sym("k"),), shape=(1,))
    refused(graph(scalar, late, bind), "symbol k is used before")
    verify(graph(scalar, bind, late))


def test_a_bind_gives_a_size_that_the_inputs_leave_open() -> None:
    scalar = node("input", types=(TensorType(I64, ()),), name="n")
    bind = node("bind", scalar.out, types=scalar.types, name="N")
    x = node("input", types=(TensorType(F32, (dmin(sym("N"), 240),)),), name="x")
    verify(graph(scalar, bind, x))
    plain = node("input", types=(TensorType(F32, (sym("N"),)),), name="x")
    refused(graph(plain, scalar, bind), "defined twice")


def test_regions_are_verified() -> None:
    body = Builder()
    region = body.build([("y", body.op("neg", body.input("x", T)))])
    broken = Graph(
        region.inputs, region.outputs,
        [region.nodes[0], node("neg", region.inputs[0], types=(TensorType(F32, (5,)),))],
        region.constants,
    )  # fmt: skip
    broken = Graph(broken.inputs, [("y", broken.nodes[1].out)], broken.nodes, broken.constants)
    c = node("input", types=(TensorType(BOOL, ()),), name="c")
    common = {"symbols": (), "results": ((F32, (4,)),), "split": 1}
    good = node("if", c.out, X.out, X.out, then=region, else_=region, **common)
    verify(graph(X, c, good))
    bad = node("if", c.out, X.out, X.out, then=region, else_=broken, **common)
    message = refused(graph(X, c, bad), "inference says f32[4]")
    assert message.count("-->") == 2


def test_parsed_text_is_verified() -> None:
    with pytest.raises(VerifyError, match="-->"):
        parse_graph('graph { %0 = input("x") : f32[4] %1 = neg(%0) : f32[5] return "y" = %1 }')
