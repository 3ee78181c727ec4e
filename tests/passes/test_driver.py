"""The driver's steps, its stops, and its explanations."""

from __future__ import annotations

import numpy as np
import pytest

from evonnx.ir.builder import Builder
from evonnx.ir.dims import sym
from evonnx.ir.errors import ParseError
from evonnx.ir.graph import Graph
from evonnx.ir.types import F32, TensorType
from evonnx.passes.driver import apply, choose, explain, find, op_weight, rewrite
from evonnx.passes.pattern import parse_pattern
from evonnx.passes.registry import CANON, RULES
from evonnx.passes.rule import Match, Rule


def chain(length: int) -> Graph:
    b = Builder()
    x = b.input("x", TensorType(F32, (2, 3)))
    for _ in range(length):
        x = b.op("transpose", x, perm=(1, 0))
    return b.build({"y": x})


def test_matches_are_objects() -> None:
    graph = chain(5)
    matches = find(graph, [RULES["transpose_transpose"]])
    assert len(matches) == 4
    assert str(matches[0]).startswith("transpose_transpose at %2 transpose")
    chosen = choose(matches)
    assert len(chosen) == 2 and not set(chosen[0].nodes) & set(chosen[1].nodes)
    after, fired = apply(graph, chosen)
    assert fired == {"transpose_transpose": 2}
    assert op_weight(after) < op_weight(graph)


def test_long_chains_end() -> None:
    after, done = rewrite(chain(301), CANON)
    assert [n.op for n in after.nodes] == ["input", "transpose"] and not done.stopped
    assert done.count < 20


def test_nothing_to_do_returns_the_same_graph() -> None:
    graph = chain(1)
    assert rewrite(graph, CANON)[0] is graph


def test_untouched_nodes_are_shared() -> None:
    b = Builder()
    x = b.input("x", TensorType(F32, (2, 3)))
    y = b.op("exp", x)
    graph = b.build({"y": y, "z": b.op("mul", y, 1.0)})
    after, _ = rewrite(graph, CANON)
    assert graph.outputs[0][1].node in after.nodes
    assert after.outputs[1][1] == after.outputs[0][1]


def test_a_loop_is_stopped_by_name() -> None:
    there = Rule("there", "exp(x)", "log(x)", shared=True)
    back = Rule("back", "log(x)", "exp(x)", shared=True)
    b = Builder()
    graph = b.build({"y": b.op("exp", b.input("x", TensorType(F32, (2,))))})
    after, done = rewrite(graph, (there, back))
    assert after is graph and "there (1x)" in done.stopped


def test_a_rule_that_does_not_pay_leaves_the_others_their_turn() -> None:
    swap = Rule("swap", "exp(x)", "pow(x, 2)", shared=True)
    b = Builder()
    x = b.input("x", TensorType(F32, (2,)))
    graph = b.build({"y": b.op("exp", x), "z": b.op("neg", b.op("neg", x))})
    after, done = rewrite(graph, (swap, RULES["neg_neg"]))
    assert done.fired == {"neg_neg": 1} and "swap" in done.stopped
    assert [n.op for n in after.nodes] == ["input", "exp"]


def test_fuel() -> None:
    after, done = rewrite(chain(64), CANON, fuel=2)
    assert "2 sweeps did not reach a fixed point" in done.stopped
    assert "transpose_transpose" in done.stopped and len(after.nodes) < 65


def test_explanations() -> None:
    b = Builder()
    x = b.input("x", TensorType(F32, (2, 8)))
    shared = b.op("add", b.op("erf", b.op("div", x, 2.0)), 1.0)
    y = b.op("mul", b.op("mul", x, shared), 0.5)
    z = b.op("reshape", x, shape=(4, 4))
    graph = b.build({"y": y, "z": z})
    verdicts = dict(explain(y.node, graph, [RULES["gelu_erf"], RULES["mul_one"]]))
    assert verdicts["gelu_erf"] == "needs a product, found div"
    assert verdicts["mul_one"] == "needs the number 1, found const"
    assert dict(explain(z.node, graph, CANON))["reshape_same"] == "the shape changes"


def test_shared_parts_are_left_alone() -> None:
    b = Builder()
    x = b.input("x", TensorType(F32, (1, 2, 4, 4)))
    w = b.const(np.ones((2, 2, 1, 1), np.float32))
    y = b.op("conv", x, w, strides=(1, 1), dilations=(1, 1), pads_lo=(0, 0), pads_hi=(0, 0),
             groups=1, layout="first")  # fmt: skip
    z = b.op("mul", y, 2.0)
    graph = b.build({"y": y, "z": z})
    assert not find(graph, [RULES["conv_scale"]])
    assert dict(explain(z.node, graph, [RULES["conv_scale"]])) == {
        "conv_scale": "conv is used outside the match, too"
    }


def test_what_cannot_be_decided_means_no() -> None:
    b = Builder()
    n, m = sym("n"), sym("m")
    x = b.input("x", TensorType(F32, (n, 4)))
    y = b.input("y", TensorType(F32, (m, 4)))
    wide = b.op("expand", x, shape=(m, 4))  # n may be 1 or m
    graph = b.build({"z": b.op("add", wide, y)})
    assert rewrite(graph, CANON)[0] is graph


def test_selected_matches_only() -> None:
    b = Builder()
    x = b.input("x", TensorType(F32, (2,)))
    graph = b.build({"a": b.op("mul", x, 1.0), "b": b.op("neg", b.op("neg", x))})
    matches = [m for m in find(graph, CANON) if m.rule.name == "neg_neg"]
    after, _ = apply(graph, matches)
    assert sorted(n.op for n in after.nodes) == ["const", "input", "mul"]


@pytest.mark.parametrize(
    "text", ["x +", "frobnicate(x)", "x if y else z", "(a := x) + a", "mul(x, *y.z)", "x < y < z"]
)
def test_bad_patterns(text: str) -> None:
    with pytest.raises((ParseError, AssertionError)):
        parse_pattern(text)


def test_conditions_see_the_match() -> None:
    seen: list[Match] = []

    def look(m: Match) -> bool | str:
        seen.append(m)
        return "not today"

    rule = Rule("r", "exp(x)", "x", when=(look,))
    b = Builder()
    graph = b.build({"y": b.op("exp", b.input("x", TensorType(F32, (2,))))})
    assert not find(graph, [rule])
    assert seen[0]["x"] is not None
    assert explain(graph.outputs[0][1].node, graph, [rule]) == [("r", "not today")]
