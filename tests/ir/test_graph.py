"""Graphs and their builder: interning, order, digest, rebuilding, symbols, constants."""

from __future__ import annotations

import numpy as np
import pytest

from evonnx.ir.builder import Builder, copy_node, rebuild
from evonnx.ir.dims import sym
from evonnx.ir.errors import ModelError, VerifyError
from evonnx.ir.graph import Attrs, Constants, Graph, Node
from evonnx.ir.random_graphs import random_graph
from evonnx.ir.types import F32, F64, I64, TensorType
from evonnx.ir.verify import verify

T = TensorType(F32, (sym("N"), 4))


def test_equal_nodes_are_one() -> None:
    b = Builder()
    x = b.input("x", T)
    assert b.op("add", x, 1.0) == b.op("add", x, 1.0, origin=("elsewhere",))
    assert b.op("add", x, 1.0) != b.op("add", x, 2.0)
    assert b.op("softmax", x, axis=0) != b.op("softmax", x, axis=1)
    assert b.op("add", x, 0.0) != b.op("add", x, -0.0)


def test_attributes_compare_by_type_and_bits() -> None:
    values = [
        1,
        True,
        1.0,
        "1",
        b"1",
        None,
        (1,),
        ((1,),),
        0.0,
        -0.0,
        sym("f32"),
        F32,
        float("nan"),
    ]
    for i, a in enumerate(values):
        for k, c in enumerate(values):
            same = Attrs([("a", a)]) == Attrs([("a", c)])
            assert same == (i == k)
    assert hash(Attrs([("a", 1), ("b", 2)])) == hash(Attrs([("b", 2), ("a", 1)]))
    with pytest.raises(VerifyError):
        Builder().op("iota", shape=np.zeros(3), axis=0, dtype=I64)


@pytest.mark.parametrize("seed", range(30))
def test_order_users_and_dead_nodes(seed: int) -> None:
    graph = random_graph(seed, 15, symbolic=bool(seed % 2))
    position = {n: k for k, n in enumerate(graph.nodes)}
    for node in graph.nodes:
        for v in node.operands:
            assert position[v.node] < position[node]
            assert node in graph.users(v)
    alive = {v.node for _, v in graph.outputs} | {v.node for v in graph.inputs}
    for node in reversed(graph.nodes):
        read = any(graph.users(v) for v in node.outputs)
        assert node in alive or read or node.op == "bind"


@pytest.mark.parametrize("seed", range(30))
def test_rebuilding_changes_nothing(seed: int) -> None:
    graph = random_graph(seed, 15, symbolic=bool(seed % 2))
    again = rebuild(graph, lambda builder, node, inputs: None)
    assert again.digest == graph.digest
    copied = rebuild(graph, copy_node)
    assert copied.digest == graph.digest
    verify(copied)


@pytest.mark.parametrize("seed", range(20))
def test_digest_sees_everything_but_provenance(seed: int) -> None:
    graph = random_graph(seed, 10)
    node = graph.nodes[-1]

    def replaced(new: Node) -> Graph:
        swap = {v: new.outputs[v.index] for v in node.outputs}
        outputs = [(n, swap.get(v, v)) for n, v in graph.outputs]
        return Graph(graph.inputs, outputs, [*graph.nodes[:-1], new], graph.constants)

    same = Node(node.op, node.inputs, node.attrs, node.types, ("other", "origin"))
    assert replaced(same).digest == graph.digest
    assert replaced(same) == graph
    changes = [
        Node("frob", node.inputs, node.attrs, node.types),
        Node(node.op, node.inputs, Attrs([*node.attrs.items(), ("zz", 1)]), node.types),
        Node(node.op, (*node.inputs, None), node.attrs, node.types),
        Node(node.op, node.inputs, node.attrs, (*node.types[:-1], TensorType(F64, (7, 7)))),
    ]
    digests = {replaced(n).digest for n in changes} | {graph.digest}
    assert len(digests) == len(changes) + 1
    renamed = [(n + "'", v) for n, v in graph.outputs]
    assert Graph(graph.inputs, renamed, graph.nodes, graph.constants).digest not in digests


def test_long_graphs() -> None:
    b = Builder()
    v = b.input("x", T)
    for _ in range(30_000):
        v = b.op("neg", v)
    graph = b.build([("y", v)])
    assert len(graph.nodes) == 30_001
    assert rebuild(graph, copy_node).digest == graph.digest


def test_symbols_defined_by_data_come_first() -> None:
    b = Builder()
    x = b.input("x", TensorType(F32, (5,)))
    positions, count = b.op("nonzero", x)
    cut = b.op("slice", positions, starts=(0, 0), sizes=(1, sym("k")), steps=(1, 1))
    b.op("bind", count, name="k")
    graph = b.build([("y", cut)])
    ops = [n.op for n in graph.nodes]
    assert ops.index("bind") < ops.index("slice")
    assert graph.symbol_definers["k"].op == "bind"
    verify(graph)


def test_fresh_symbols() -> None:
    b = Builder()
    b.input("x", TensorType(F32, (sym("n.0"), 3)))
    made = {str(b.fresh("n")) for _ in range(5)}
    assert len(made) == 5
    assert "n.0" not in made
    for text in ("", "9", "a b", "é", "x-y", '"', "N"):
        assert str(b.fresh(text))


def test_constants_are_content_addressed() -> None:
    table = Constants()
    a = table.add(np.arange(4, dtype=np.int64))
    assert table.add(np.array([0, 1, 2, 3])) == a
    others = [
        np.arange(4, dtype=np.int32), np.arange(4).reshape(2, 2), np.arange(4).astype(np.float64),
        np.array(["0", "1"], object), np.array(["01"], object), np.array(3), np.array([3]),
    ]  # fmt: skip
    assert len({table.add(x) for x in others} | {a}) == len(others) + 1
    assert table.add(np.asfortranarray(np.arange(6).reshape(2, 3))) == table.add(
        np.arange(6).reshape(2, 3)
    )
    with pytest.raises(ValueError, match="read-only"):
        table.get(a)[0] = 5
    assert table.get(table.add(np.array(3))).shape == ()
    with pytest.raises(VerifyError):
        table.get("ab" * 20)


def test_lazy_constants_load_once() -> None:
    calls = []
    table = Constants()
    table.add_lazy("cd" * 20, lambda: calls.append(1) or np.zeros(3))  # type: ignore[func-returns-value]
    assert table.peek("cd" * 20) is None
    table.get("cd" * 20)
    table.get("cd" * 20)
    assert calls == [1]
    assert len(table) == len(set(table)) == 1
    copy = Constants()
    copy.update(table)
    assert "cd" * 20 in copy


def test_numbers_become_constants_of_the_operand_dtype() -> None:
    b = Builder()
    x = b.input("x", TensorType(F64, (2,)))
    assert b.op("mul", 2, x).dtype == F64
    assert b.op("mul", x, 2).node.inputs[1].dtype == F64
    with pytest.raises(ModelError):
        b.op("add", x, b.const(np.float32(1)))
