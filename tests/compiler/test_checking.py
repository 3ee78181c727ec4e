"""``check=True``: silent where everything is right, and naming what is not where it is not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import evonnx
from evonnx.compiler.checking import check_compiled, chosen_feeds, error_of, wrong_part
from evonnx.ir.builder import Builder
from evonnx.ir.dims import sym
from evonnx.ir.graph import Graph
from evonnx.ir.types import F32, I64, STR, TensorType
from evonnx.kernels import emit as emit_module
from evonnx.passes import registry
from evonnx.passes.manager import GraphPass, RulePass
from evonnx.passes.rule import Rule

N, M = sym("N"), sym("M")


def chain(*shape: Any) -> Graph:
    """``(-exp(x)) @ w`` then a scan, of x[.., 8]."""
    b = Builder()
    x = b.input("x", TensorType(F32, (*shape, 8)))
    w = b.const(np.linspace(-1, 1, 32, dtype=np.float32).reshape(8, 4))
    y = b.op("neg", b.op("exp", x, origin=("rise",)), origin=("flip",))
    dot = b.op("dot", y, w, origin=("product",), ta=False, tb=False)
    return b.build({"y": dot, "z": b.op("cumulate", y, origin=("total",), kind="sum", axis=0,
                                        exclusive=False, reverse=False)})  # fmt: skip


# What passes ---------------------------------------------------------------------------------


def test_right_models_pass() -> None:
    evonnx.compile(chain(3), threads=1, check=True)
    evonnx.compile(chain(N), threads=2, check=True)
    evonnx.compile(chain(N), threads=1, check={"x": np.ones((5, 8), np.float32)})
    with pytest.raises(evonnx.FeedError, match="fed to input 'x'"):
        evonnx.compile(chain(N), threads=1, check={})


def test_float32_may_overflow_where_float64_does_not() -> None:
    b = Builder()
    x = b.input("x", TensorType(F32, (4,)))
    graph = b.build({"y": b.op("mul", b.op("exp", x), b.op("exp", b.op("neg", x)))})
    big = np.array([0.5, 95.0, -95.0, np.nan], np.float32)
    evonnx.compile(graph, threads=1, check={"x": big})


def test_sizes_are_found_that_a_model_accepts() -> None:
    b = Builder()
    x, y = b.input("x", TensorType(F32, (N, 6))), b.input("y", TensorType(F32, (M, 6)))
    same = b.op("add", b.op("reshape", x, shape=(M, N, 6)), y)  # only N = M*N does: M = 1
    feeds, want = chosen_feeds(b.build({"z": same}))
    assert feeds["y"].shape == (1, 6)
    assert want["z"].dtype == np.float64


def test_sizes_may_not_be_found() -> None:
    b = Builder()
    x = b.input("x", TensorType(F32, (N, 7)))
    y = b.op("reshape", x, shape=(1001, 1001))
    with pytest.raises(evonnx.FeedError, match=r"at any of the sizes tried for N; .*check=\{name"):
        chosen_feeds(b.build({"y": y}))


# What fails ----------------------------------------------------------------------------------


def _pass_that(change: Callable[[Graph], Graph]) -> GraphPass:
    return GraphPass("canon", lambda graph, fired, options: change(graph))


def _double_last(graph: Graph) -> Graph:
    """``graph`` with its first output doubled: what a broken rewrite does."""
    b = Builder(graph.constants)
    for node in graph.nodes:
        b.adopt(node)
    (name, v), *rest = graph.outputs
    return b.build([(name, b.op("mul", v, 2.0, origin=("broken",))), *rest])


def test_a_wrong_pass_is_named_with_its_node(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(registry.PASSES, "canon", _pass_that(_double_last))
    with pytest.raises(evonnx.CheckError) as caught:
        evonnx.compile(chain(3), threads=1, check=True, pipeline="fold,canon,recognize")
    said = str(caught.value)
    assert said.startswith("pass 'canon' changes output 'y' by 1 of its scale")
    assert "first node that differs: " in said and 'from "broken"' in said and "mul(" in said


def test_a_wrong_rule_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """The law ``abs(x) = x``, which is none."""
    step = RulePass("canon", (*registry.CANON, Rule("abs_gone", "abs(x)", "x")))
    monkeypatch.setitem(registry.PASSES, "canon", step)
    b = Builder()
    x = b.input("x", TensorType(F32, (4,)))
    gone = b.op("abs", b.op("neg", b.op("neg", x)), origin=("size",))
    graph = b.build({"y": b.op("exp", gone)})
    with pytest.raises(evonnx.CheckError, match=r"pass 'canon' changes .*; rule abs_gone;"):
        evonnx.compile(graph, threads=1, check=True, pipeline="fold,canon")


def test_a_pass_that_breaks_the_graph(monkeypatch: pytest.MonkeyPatch) -> None:
    def misfit(graph: Graph) -> Graph:
        b = Builder(graph.constants)
        x = b.input("x", TensorType(F32, (5, 8)))
        return b.build({"y": b.op("neg", x), "z": x})

    monkeypatch.setitem(registry.PASSES, "canon", _pass_that(misfit))
    with pytest.raises(evonnx.CheckError, match="pass 'canon' makes a graph that cannot be run"):
        evonnx.compile(chain(3), threads=1, check=True, pipeline="canon")


def test_a_wrong_kernel_is_named_by_its_group(monkeypatch: pytest.MonkeyPatch, tmp_path: Any
                                              ) -> None:
    """The emitter writes cosines for exponentials: the group with exp is to blame, not others."""
    emit = emit_module.emit

    def wrong(nest: Any) -> Any:
        import dataclasses

        done = emit(nest)
        return dataclasses.replace(done, source=done.source.replace("exp(", "cos("))

    monkeypatch.setattr("evonnx.kernels.group.emit", wrong)
    with pytest.raises(evonnx.CheckError) as caught:
        evonnx.compile(chain(3), threads=1, check=True, cache=tmp_path)
    said = str(caught.value)
    assert "differs by" in said
    assert "first: group g0 " in said and "from rise" in said


def test_a_wrong_memory_plan_is_told_from_a_wrong_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    compiled = evonnx.compile(chain(3), threads=1)
    run = compiled.executable.run
    monkeypatch.setattr(compiled.executable, "run", lambda feeds: {
        name: array + 1 if name == "z" else array for name, array in run(feeds).items()})
    with pytest.raises(evonnx.CheckError, match=r"output 'z' .*: the memory plan or the threads"):
        check_compiled(compiled, None)


def folded_step() -> Graph:
    """``exp(round(x * (1 / 3) * m))``: folding rounds 1/3 to float32, and where m is 3 rather than
    1 the product sits on an edge that it tips over."""
    b = Builder()
    x = b.input("x", TensorType(F32, (1000,)))
    one, three = (b.const(np.full(1000, k, np.float32)) for k in (1, 3))
    edges = b.const(np.where(np.arange(1000) == 7, 3, 1).astype(np.float32))
    tipped = b.op("mul", b.op("mul", x, b.op("div", one, three)), edges)
    return b.build({"y": b.op("exp", b.op("round", tipped))})


def test_a_flipped_rounding_is_no_fault() -> None:
    """A quantized network: an element on the edge of a step may fall to either side, and the next
    layer makes much of it."""
    b = Builder()
    x = b.input("x", TensorType(F32, (1000,)))
    step = b.op("round", b.op("mul", b.op("exp", x), np.float32(10)))
    wide = b.op("mul", b.op("cumulate", step, kind="sum", axis=0, exclusive=False, reverse=False),
                b.op("cast", b.op("exp", step), to=F32))  # fmt: skip
    graph = b.build({"y": wide})
    edge = np.full(1000, 1.0, np.float32)
    edge[3] = np.log(np.float32(1.25))  # 12.5, or next to it
    evonnx.compile(graph, threads=1, check={"x": edge})
    smooth = 3 * np.linspace(-2, 2, 1000, dtype=np.float32)
    smooth[7] = 2.5
    evonnx.compile(folded_step(), threads=1, check={"x": smooth})
    assert wrong_part(np.array([1.0, 2, 3, 9]), np.array([1.0, 2, 3, 4])) == 0.25
    assert wrong_part(np.array([1.0, np.nan, np.inf]), np.array([1.0, np.nan, np.inf])) == 0
    assert wrong_part(np.ones(2), np.ones(3)) == 1
    assert wrong_part(np.ones(0), np.ones(0)) == 0


# The measure ---------------------------------------------------------------------------------


def test_errors_are_relative_to_the_scale() -> None:
    want = np.array([0.0, 1000.0])
    assert error_of(np.array([1.0, 1000.0]), want) == pytest.approx(1e-3)
    assert error_of(np.zeros((0, 3)), np.zeros((0, 3))) == 0.0
    assert error_of(np.zeros(2), np.zeros((2, 1))) == np.inf
    inf, nan = np.inf, np.nan
    assert error_of(np.array([nan, inf, 1]), np.array([nan, inf, 1])) == 0
    assert error_of(np.array([nan, 1.0]), np.array([1.0, 1.0])) == inf
    assert error_of(np.array([-inf, 1.0]), np.array([inf, 1.0])) == inf
    assert error_of(np.array([1j, 1]), np.array([1j, 1])) == 0
    assert error_of(np.array([1j, 1]), np.array([-1j, 1])) == 2
    text = np.array(["a", "b"], dtype=object)
    assert error_of(text, text.copy()) == 0
    assert error_of(text, np.array(["a", "c"], dtype=object)) == inf
    assert error_of([np.ones(2)], [np.ones(2)]) == 0
    assert error_of([np.ones(2)], [np.ones(2), np.ones(1)]) == inf
    odds = [{"cat": 0.25, "dog": 0.75}]
    assert error_of([{"cat": 0.25001, "dog": 0.75}], odds) == 0
    assert error_of([{"cat": 0.35, "dog": 0.75}], odds) == inf
    assert error_of([{"dog": 0.75, "cow": 0.25}], odds) == inf
    assert error_of({"cat": 1}, None) == inf


def test_integers_and_strings_can_be_fed() -> None:
    inputs = {"i": TensorType(I64, (N,)), "s": TensorType(STR, (2,))}
    b = Builder()
    i = b.input("i", inputs["i"])
    b.input("s", inputs["s"])
    feeds, want = chosen_feeds(b.build({"y": b.op("add", i, 1)}))
    assert want["y"].tolist() == (feeds["i"] + 1).tolist()
