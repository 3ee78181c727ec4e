"""Memory: results in place, and what the search predicts against what the program takes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import evonnx
from evonnx.compiler import build
from evonnx.compiler.feeds import random_feeds
from evonnx.compiler.pipeline import run_pipeline
from evonnx.ir.builder import Builder
from evonnx.ir.graph import Graph, Node, Value
from evonnx.ir.groups import overwritable
from evonnx.ir.interp import run
from evonnx.ir.random_graphs import random_graph
from evonnx.ir.schedule import Group, Schedule
from evonnx.ir.types import F32, F64, I32, TensorType
from evonnx.search.greedy import Fuser


def conv(b: Builder, x: Value, channels: int, kernel: int = 1, groups: int = 1) -> Value:
    """A channels-last convolution that keeps the image's size, with random weights."""
    rng = np.random.default_rng(channels * kernel + groups)
    inner = int(x.shape[-1]) // groups  # type: ignore[call-overload]
    w = b.const(rng.standard_normal((kernel, kernel, inner, channels)).astype(np.float32)
                / np.float32(kernel * inner**0.5))
    pads = (kernel // 2,) * 2
    made: Value = b.op("conv", x, w, strides=(1, 1), dilations=(1, 1), groups=groups, layout="last",
                       pads_lo=pads, pads_hi=pads)
    return made


def residuals(channels: int, kernel: int, groups: int, size: tuple[int, int]) -> Graph:
    """Three residual blocks behind one another."""
    b = Builder()
    x = b.input("x", TensorType(F32, (2, *size, channels)))
    y = b.op("tanh", x)
    for _ in range(3):
        y = b.op("add", conv(b, y, channels, kernel, groups), y)
        y = b.op("relu", y)
    return b.build({"y": b.op("neg", y)})


def arena(compiled: evonnx.Compiled) -> int:
    return compiled._executable.predicted_peak().arena


def without_reuse(graph: Graph, monkeypatch: pytest.MonkeyPatch, **how: object) -> evonnx.Compiled:
    with monkeypatch.context() as patch:
        patch.setattr(build, "in_place", lambda buffers, *_: tuple(buffers))
        return evonnx.compile(graph, cache=False, pipeline="", **how)  # type: ignore[arg-type]


@pytest.mark.parametrize(("channels", "kernel", "groups"), [
    (1, 1, 1), (37, 1, 1), (24, 3, 1), (64, 3, 1), (19, 3, 19), (32, 5, 32), (12, 3, 4),
])  # fmt: skip
@pytest.mark.parametrize("size", [(1, 1), (7, 5), (12, 13)])
def test_residuals_are_added_in_place(channels: int, kernel: int, groups: int,
                                      size: tuple[int, int], monkeypatch: pytest.MonkeyPatch
                                      ) -> None:
    """Bit by bit what separate buffers give, on every kind of convolution kernel."""
    graph = residuals(channels, kernel, groups, size)
    apart = without_reuse(graph, monkeypatch, search="none", threads=2)
    compiled = evonnx.compile(graph, pipeline="", search="none", threads=2)
    feeds = random_feeds(compiled.inputs)
    feeds["x"].reshape(-1)[::7] = np.nan
    feeds["x"].reshape(-1)[3::11] = np.inf
    for _ in range(2):
        assert np.array_equal(compiled(**feeds), apart(**feeds), equal_nan=True)
    want = run(graph, feeds)["y"]
    assert np.allclose(compiled(**feeds), want, rtol=1e-4, atol=1e-4, equal_nan=True)
    assert arena(compiled) <= arena(apart)


def test_a_chain_of_residuals_takes_two_buffers(monkeypatch: pytest.MonkeyPatch) -> None:
    """A convolution over channels and pixels cannot be in place, its sum with an operand can."""
    graph = residuals(16, 3, 1, (16, 16))
    one = 2 * 16 * 16 * 16 * 4
    each = evonnx.compile(graph, pipeline="", schedule=every_node_alone(graph))
    assert arena(each) == 2 * one
    assert arena(without_reuse(graph, monkeypatch, schedule=every_node_alone(graph))) == 3 * one


def every_node_alone(graph: Graph) -> Schedule:
    fuser = Fuser(graph)
    groups = []
    for k, node in enumerate(graph.nodes):
        if node.op not in ("input", "const"):
            kind = fuser.judge.verdict([node]).implementation
            assert kind is not None
            groups.append(Group((k,), kind))
    return Schedule(graph.digest, tuple(groups))


def test_what_may_be_overwritten() -> None:
    b = Builder()
    x, z = (b.input(name, TensorType(F32, (4, 6))) for name in "xz")
    row = b.input("row", TensorType(F32, (6,)))
    ints = b.input("i", TensorType(I32, (4, 6)))
    product = b.op("dot", x, b.op("transpose", z, perm=(1, 0)), ta=False, tb=False)
    summed = b.op("add", b.op("add", x, z), row)
    turned = b.op("add", x, b.op("reshape", b.op("transpose", x, perm=(1, 0)), shape=(4, 6)))
    wide = b.op("cast", x, to=F64)
    same = b.op("cast", ints, to=F32)
    b.build({"p": product, "s": summed, "t": turned, "w": wide, "i": same})

    def found(*values: Value) -> set[str]:
        members: list[Node] = []
        todo = [v.node for v in values]
        while todo:
            node = todo.pop()
            if node.op not in ("input", "const") and node not in members:
                members.insert(0, node)
                todo += [v.node for v in node.operands]
        return {v.node.attrs["name"] for v in overwritable(members, values)}

    assert found(summed) == {"x", "z"}
    assert found(product) == found(wide) == set()
    assert found(turned) == set()  # x is read elsewhere, too
    assert found(same) == {"i"}
    assert found(summed, same) == set()


def test_outputs_and_inputs_stay() -> None:
    b = Builder()
    x = b.input("x", TensorType(F32, (64,)))
    a = b.op("tanh", x)
    c = b.op("add", a, x)
    d = b.op("neg", c)
    graph = b.build({"a": a, "c": b.op("reshape", c, shape=(8, 8)), "d": b.op("exp", d)})
    compiled = evonnx.compile(graph, pipeline="", schedule=every_node_alone(graph))
    feeds = random_feeds(compiled.inputs)
    kept = feeds["x"].copy()
    got = compiled.run(None, feeds)
    for name, value in zip(graph_names(graph), got, strict=True):
        assert np.allclose(value, run(graph, feeds)[name])
    assert np.array_equal(feeds["x"], kept)


def graph_names(graph: Graph) -> list[str]:
    return [name for name, _ in graph.outputs]


@pytest.mark.parametrize("seed", range(12))
def test_random_graphs_node_by_node(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    graph = run_pipeline(random_graph(seed + 700))
    schedule = every_node_alone(graph)
    compiled = evonnx.compile(graph, pipeline="", schedule=schedule)
    apart = without_reuse(graph, monkeypatch, schedule=schedule)
    feeds = random_feeds(compiled.inputs)
    for got, want in zip(compiled.run(None, feeds), apart.run(None, feeds), strict=True):
        assert np.asarray(got).tobytes() == np.asarray(want).tobytes()
    after, before = (c._executable.last_call() for c in (compiled, apart))
    assert after is not None
    assert before is not None
    assert after[1].bound <= before[1].bound


@pytest.mark.parametrize("kernel", [1, 3])
def test_the_search_knows_what_is_in_place(kernel: int) -> None:
    """The arena is what the search said, to the padding of its buffers."""
    graph = residuals(16, kernel, 1, (16, 16))
    compiled = evonnx.compile(graph, pipeline="", objective="peak", search="exact", cache=False)
    choice = compiled._stages.choice
    assert choice is not None
    assert choice.peak == arena(compiled)


def separable(channels: int, size: int, blocks: int) -> Graph:
    """Depthwise and pointwise convolutions behind one another, each with a limit."""
    b = Builder()
    y = b.op("tanh", b.input("x", TensorType(F32, (1, size, size, channels))))
    for _ in range(blocks):
        y = b.op("relu", conv(b, y, channels, 3, channels))
        y = b.op("tanh", conv(b, y, channels))
    return b.build({"y": b.op("neg", y)})


def test_separable_convolutions_take_one_image() -> None:
    """Where memory is asked for each writes over what it reads; results are the bits of the same
    groups elsewhere."""
    graph = separable(40, 14, 3)
    image = 40 * 14 * 14 * 4
    default = evonnx.compile(graph, pipeline="", threads=2, cache=False)
    least = evonnx.compile(graph, pipeline="", threads=2, cache=False, objective="peak")
    assert arena(least) == image
    assert arena(default) >= 2 * image
    assert least._stages.choice is not None
    assert least._stages.choice.peak == image
    assert least._stages.choice.proven
    assert "over=1" in str(least.schedule)
    feeds = random_feeds(default.inputs)
    elsewhere = evonnx.compile(graph, pipeline="", threads=2, cache=False,
                               schedule=str(least.schedule).replace("over=1", "over=0"))
    for _ in range(2):
        assert np.array_equal(least(**feeds), elsewhere(**feeds))
    np.testing.assert_allclose(least(**feeds), default(**feeds), rtol=1e-4, atol=1e-6)
    needs = least.executable.predicted_peak().total
    assert needs < default.executable.predicted_peak().total
    limited = evonnx.compile(graph, pipeline="", threads=2, cache=False, max_memory=needs)
    assert limited.executable.predicted_peak().total <= needs
    np.testing.assert_allclose(limited(**feeds), default(**feeds), rtol=1e-4, atol=1e-6)


def cell(branches: int = 6) -> Graph:
    """Branches of one image, each of a large and a small convolution, concatenated for one."""
    b = Builder()
    x = b.input("x", TensorType(F32, (1, 16, 16, 8)))
    made = [b.op("relu", conv(b, x, 24 + k, 3)) for k in range(branches)]
    joined = b.op("concat", *made, axis=3)
    return b.build({"y": b.op("neg", conv(b, joined, 8))})


def test_a_limit_below_what_the_default_needs_is_met() -> None:
    """In the run as in the prediction, and what is promised is the program's own plan."""
    graph = cell()
    default = evonnx.compile(graph, pipeline="", threads=1, cache=False)
    least = evonnx.compile(graph, pipeline="", threads=1, cache=False, objective="peak")
    needs, reach = (c.executable.predicted_peak().total for c in (default, least))
    assert reach < needs
    assert not any(n.op == "concat" for n in least.graph.nodes)
    feeds = random_feeds(default.inputs)
    for limit in (reach, (reach + needs) // 2):
        compiled = evonnx.compile(graph, pipeline="", threads=1, cache=False, max_memory=limit)
        got = compiled(**feeds)
        found = compiled.executable.last_call()
        assert found is not None
        assert found[1].total <= limit
        assert found[1] == compiled.executable.predicted_peak()
        assert np.allclose(got, run(graph, feeds)["y"], rtol=1e-4, atol=1e-4)


def test_the_cache_keeps_how_a_schedule_within_a_limit_was_found(tmp_path: Path) -> None:
    """On a graph whose concatenations had to be dissolved: the report says so again."""
    graph = cell()
    least = evonnx.compile(graph, pipeline="", threads=1, cache=False, objective="peak")
    limit = least.executable.predicted_peak().total
    fresh, again = (evonnx.compile(graph, pipeline="", threads=1, cache=tmp_path, max_memory=limit)
                    for _ in range(2))
    one, two = fresh.report(), again.report()
    assert (one.program, two.program) == ("not in the cache", "cached")
    assert one.search
    assert two.search == one.search
    assert [p["pass"] for p in two.passes] == [p["pass"] for p in one.passes]
    assert two.nodes_after == one.nodes_after
    assert again.schedule == fresh.schedule


def test_a_limit_that_cannot_be_reached_names_what_can() -> None:
    graph = cell(3)
    least = evonnx.compile(graph, pipeline="", threads=1, cache=False, objective="peak")
    peak = least.executable.predicted_peak()
    with pytest.raises(evonnx.LimitError, match="the least found is ") as told:
        evonnx.compile(graph, pipeline="", threads=1, cache=False, max_memory=peak.constants + 1)
    reachable = int(str(told.value).split("the least found is ")[1].split()[0].replace(",", ""))
    assert peak.constants < reachable <= peak.total
    compiled = evonnx.compile(graph, pipeline="", threads=1, cache=False, max_memory=reachable)
    assert compiled.executable.predicted_peak().total <= reachable


def test_what_greedy_fusion_needs_is_always_enough() -> None:
    """A convolution that transposes its operand itself needs no arena, but more scratch and packed
    weights: the least arena is not the least memory."""
    b = Builder()
    x = b.op("transpose", b.input("x", TensorType(F32, (1, 17, 5, 12))), perm=(0, 2, 3, 1))
    graph = b.build({"y": b.op("transpose", conv(b, x, 16, 3), perm=(0, 3, 1, 2))})
    greedy = evonnx.compile(graph, pipeline="", threads=1, cache=False, search="none")
    needs = greedy.executable.predicted_peak().total
    for cost_model in ("bounds", "cd"):
        limited = evonnx.compile(graph, pipeline="", threads=1, cache=False, max_memory=needs,
                                 cost_model=cost_model)
        assert limited.executable.predicted_peak().total <= needs
