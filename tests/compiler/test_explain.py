"""``explain``: the rules and fusions tried at a node, and the first condition that failed."""

from __future__ import annotations

import numpy as np
import pytest

import evonnx
from evonnx.compiler.explain import Explanation
from evonnx.ir.builder import Builder
from evonnx.ir.graph import Graph
from evonnx.ir.schedule import Group, Schedule
from evonnx.ir.types import F32, TensorType


def two_products() -> Graph:
    """``(relu(x @ w) ) @ v`` with a scan behind it; every node has an origin of its own."""
    b = Builder()
    x = b.input("x", TensorType(F32, (8, 16)))
    w = b.const(np.ones((16, 16), np.float32))
    first = b.op("dot", x, w, origin=("encoder/first",), ta=False, tb=False)
    relu = b.op("relu", first, origin=("encoder/clamp",))
    second = b.op("dot", relu, w, origin=("decoder/second",), ta=False, tb=False)
    total = b.op("cumulate", second, origin=("decoder/total",), kind="sum", axis=0,
                 exclusive=False, reverse=False)  # fmt: skip
    return b.build({"y": total})


@pytest.fixture(scope="module")
def compiled() -> evonnx.Compiled:
    return evonnx.compile(two_products(), threads=1)


def test_a_fused_edge_and_a_refused_one(compiled: evonnx.Compiled) -> None:
    text = compiled.explain("encoder/clamp")
    lines = [line.strip() for line in text.splitlines()]
    assert "relu(" in lines[0] and 'from "encoder/clamp"' in lines[0]
    assert lines[1].startswith("group g0, run as contract, together with %")
    assert any(line.endswith("dot -> this: fused, in g0") for line in lines)
    refused = next(line for line in lines if line.startswith("this -> %"))
    assert "not fused: a contract group does not feed a contract group in one kernel" in refused


def test_rules_say_what_stopped_them(compiled: evonnx.Compiled) -> None:
    text = compiled.explain("decoder/second")
    assert "rules tried:" in text
    assert "canon/dot_transpose_b: needs transpose, found const" in text
    assert "rules: none is rooted in cumulate" in compiled.explain("decoder/total")


def test_a_step_of_its_own_and_the_ends(compiled: evonnx.Compiled) -> None:
    text = compiled.explain("cumulate")
    assert "alone" in text
    assert "not fused: cumulate is" in text
    assert "this -> an output of the model" in text
    assert "in no group: input" in compiled.explain(0)
    assert "-> this: in memory before the first step" in compiled.explain("encoder/first")


def test_every_way_to_name_a_node(compiled: evonnx.Compiled) -> None:
    node = next(n for n in compiled.graph.nodes if n.op == "relu")
    number = compiled.graph.index[node]
    texts = {compiled.explain(w) for w in (node, number, str(number), f"%{number}", "relu",
                                           "encoder/clamp")}  # fmt: skip
    assert len(texts) == 1


def test_unknown_nodes_get_near_names(compiled: evonnx.Compiled) -> None:
    with pytest.raises(evonnx.EvonnxError, match="near names: 'encoder/clamp'"):
        compiled.explain("encoder/clam")
    with pytest.raises(evonnx.EvonnxError, match=r"near names: .*'decoder/second'"):
        compiled.explain("SECOND")
    with pytest.raises(evonnx.EvonnxError, match="2 nodes are dot: say which by number"):
        compiled.explain("dot")
    with pytest.raises(evonnx.EvonnxError, match="there is no node 99: the nodes are 0 to"):
        compiled.explain(99)
    with pytest.raises(evonnx.EvonnxError, match=r"there are 'x', .* and the numbers 0 to"):
        compiled.explain("?!")
    stranger = two_products().nodes[-1]
    with pytest.raises(evonnx.EvonnxError, match="not one of the optimized graph's"):
        compiled.explain(stranger)


def test_a_node_that_was_rewritten_away() -> None:
    b = Builder()
    x = b.input("x", TensorType(F32, (4,)))
    back = b.op("neg", b.op("neg", x, origin=("there",)), origin=("back",))
    compiled = evonnx.compile(b.build({"y": b.op("exp", back, origin=("rise",))}), threads=1)
    with pytest.raises(evonnx.EvonnxError, match="'back' is not in the optimized graph any more"):
        compiled.explain("back")


def test_a_replayed_schedule_asks_legality(compiled: evonnx.Compiled) -> None:
    graph = compiled.graph
    number = {n.origin[0]: graph.index[n] for n in graph.nodes if n.op not in ("input", "const")}
    first, clamp = number["encoder/first"], number["encoder/clamp"]
    apart = Schedule(graph.digest, (
        Group((first,), "contract"), Group((clamp,), "loops"),
        *(g for g in compiled.schedule.groups if first not in g.nodes),
    ))  # fmt: skip
    replayed = evonnx.compile(two_products(), schedule=apart, threads=1)
    assert "legal, but the schedule keeps g0 and g1 apart" in replayed.explain("encoder/first")
    assert "not fused: cumulate is" in replayed.explain("decoder/second")


def test_a_path_around_is_seen() -> None:
    """exp -> dot -> add and exp -> add: merging exp and add would close a cycle."""
    b = Builder()
    x = b.input("x", TensorType(F32, (8, 8)))
    w = b.const(np.ones((8, 8), np.float32))
    rise = b.op("exp", x, origin=("rise",))
    dot = b.op("dot", rise, w, ta=False, tb=False, origin=("middle",))
    graph = b.build({"y": b.op("add", dot, rise, origin=("join",))})
    order = [graph.index[n] for n in graph.nodes if n.op not in ("input", "const")]
    how = {"dot": "contract"}
    alone = tuple(Group((i,), how.get(graph.nodes[i].op, "loops")) for i in order)
    about = Explanation(graph, Schedule(graph.digest, alone), None)
    nodes = {n.origin[0]: n for n in graph.nodes if n.origin and n.op != "input"}
    assert about.edge(nodes["rise"], nodes["join"]) == (
        "not fused: another group lies between the two")  # fmt: skip
    assert "apart" in about.edge(nodes["middle"], nodes["join"])


def test_one_name_for_many_nodes() -> None:
    b = Builder()
    x = b.input("x", TensorType(F32, (4,)))
    for k in range(12):
        x = b.op("add" if k % 2 else "mul", x, 1.5 + k, origin=("all",))
    text = evonnx.compile(b.build({"y": x}), threads=1, pipeline="").explain("all")
    assert text.count("group g0") == 8
    assert text.rstrip().splitlines()[-1].startswith("and nodes ")
