"""Specs, reports, conditions, regions; the whole pipeline on random graphs."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Sequence

import numpy as np
import pytest

from evonnx.compiler.pipeline import PIPELINE, explain, run_pipeline
from evonnx.ir.builder import Builder
from evonnx.ir.errors import CompileError, OptionError
from evonnx.ir.graph import Graph
from evonnx.ir.interp import run
from evonnx.ir.random_graphs import random_feeds, random_graph
from evonnx.ir.types import BOOL, F32, TensorType
from evonnx.ir.verify import verify
from evonnx.passes.manager import GraphPass, PassReport, parse_spec, run_steps
from evonnx.passes.registry import PASSES

MOVING = (
    "reshape", "transpose", "expand", "slice", "pad", "concat", "gather", "reduce", "dot", "conv",
    "conv_transpose", "pool", "add", "mul", "relu", "neg", "softmax", "layer_norm", "sub", "div",
    "select", "max",
)  # fmt: skip
EVERYTHING = ",".join(
    ("fold", "canon", "recognize", "fuse_affine", "expand:attention", "siblings", "conv_transpose",
     "layout", "canon", "fold", "dce")
)  # fmt: skip


def test_specs() -> None:
    steps = parse_spec("fold, canon ,expand:softmax+gelu,", PASSES)
    assert steps == [("fold", ()), ("canon", ()), ("expand", ("softmax", "gelu"))]
    with pytest.raises(OptionError, match="no pass 'fly'; there are fold"):
        parse_spec("fold,fly", PASSES)
    graph = random_graph(1)
    with pytest.raises(OptionError, match="no option"):
        run_pipeline(graph, "expand:relu")
    with pytest.raises(OptionError, match="has no options"):
        run_pipeline(graph, "canon:fast")
    assert run_pipeline(graph, "") is graph


def test_reports_and_progress() -> None:
    reports: list[PassReport] = []
    stages: list[tuple[str, int, int]] = []
    seen: list[str] = []
    run_pipeline(random_graph(3), "fold,canon", reports, lambda *s: stages.append(s),
                 after=lambda name, g: seen.append(name))  # fmt: skip
    assert [r.name for r in reports] == ["fold", "canon"] == seen
    assert all(r.seconds >= 0 and r.nodes_after for r in reports)
    assert stages == [("pass fold", 0, 2), ("pass canon", 1, 2), ("passes", 2, 2)]
    assert set(reports[0].as_dict()) >= {"pass", "seconds", "nodes", "fired"}


def test_a_broken_result_names_the_pass() -> None:
    def wrong(graph: Graph, fired: Counter[str], options: Sequence[str]) -> Graph:
        return Graph(graph.inputs, graph.outputs, graph.nodes[::-1], graph.constants)

    passes = {"wrong": GraphPass("wrong", wrong)}
    with pytest.raises(CompileError, match="pass wrong made a broken graph"):
        run_steps(random_graph(2), [("wrong", ())], passes, verify=verify)


def test_conditions_are_asked() -> None:
    before = GraphPass("p", lambda g, f, o: g, pre=(lambda g: "no inputs wanted",))
    with pytest.raises(CompileError, match="before pass p: no inputs wanted"):
        run_steps(random_graph(2), [("p", ())], {"p": before})
    after = GraphPass("p", lambda g, f, o: g, post=(lambda g: False,))
    with pytest.raises(CompileError, match="after pass p: a condition does not hold"):
        run_steps(random_graph(2), [("p", ())], {"p": after}, verify=verify)


def branches(condition: object = None) -> Graph:
    """An ``if`` whose branches have something to simplify; a known condition if given."""
    regions = []
    for op in ("exp", "abs"):
        r = Builder()
        v = r.input("v", TensorType(F32, (2,)))
        regions.append(r.build({"y": r.op("mul", r.op(op, v), 1.0)}))
    b = Builder()
    x = b.input("x", TensorType(F32, (2,)))
    c = b.input("c", TensorType(BOOL, ())) if condition is None else b.const(np.bool_(condition))
    y = b.op("if", c, x, x, then=regions[0], else_=regions[1], split=1, symbols=(),
             results=((F32, (2,)),))  # fmt: skip
    return b.build({"y": y})


def test_regions_are_rewritten() -> None:
    graph = branches()
    after = verify(run_pipeline(graph, "canon", verify=True))
    node = next(n for n in after.nodes if n.op == "if")
    assert [n.op for n in node.attrs["then"].nodes] == ["input", "exp"]
    for c in (True, False):
        feeds = {"x": np.array([1, -2], np.float32), "c": np.array(c)}
        np.testing.assert_array_equal(run(graph, feeds)["y"], run(after, feeds)["y"])


def test_a_known_branch_is_taken() -> None:
    after = verify(run_pipeline(branches(False), "fold,canon"))
    assert [n.op for n in after.nodes] == ["input", "abs"]


def test_explain_names_pass_rule_and_reason() -> None:
    b = Builder()
    y = b.op("reshape", b.input("x", TensorType(F32, (2, 2))), shape=(4,))
    graph = b.build({"y": y})
    assert ("canon", "reshape_same", "the shape changes") in explain(y.node, graph)


def same(graph: Graph, after: Graph, feeds: dict[str, np.ndarray]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        want, got = run(graph, feeds, float64=True), run(after, feeds, float64=True)
    for name, a in want.items():
        assert a.shape == got[name].shape and a.dtype == got[name].dtype
        if a.dtype.kind == "f":
            scale = max(1.0, float(np.abs(a[np.isfinite(a)]).max(initial=0)))
            np.testing.assert_allclose(got[name], a, rtol=1e-5, atol=1e-6 * scale)
        else:
            np.testing.assert_array_equal(got[name], a)


@pytest.mark.parametrize("spec", [None, EVERYTHING])
def test_random_graphs(spec: str | None) -> None:
    for seed in range(40):
        graph = random_graph(seed, nodes=25, symbolic=seed % 2 == 0,
                             ops=MOVING if seed % 3 else None)  # fmt: skip
        reports: list[PassReport] = []
        after = run_pipeline(graph, spec, reports, verify=True)
        assert not any(r.stopped for r in reports), (seed, [r.stopped for r in reports])
        same(graph, after, random_feeds(graph, seed))


def test_each_pass_alone() -> None:
    for name in dict.fromkeys(step.partition(":")[0] for step in PIPELINE):
        for seed in range(100, 112):
            graph = random_graph(seed, nodes=20, ops=MOVING)
            same(graph, run_pipeline(graph, name, verify=True), random_feeds(graph, seed))
