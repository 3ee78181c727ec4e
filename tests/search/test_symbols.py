"""What symbols count as: batches, images, sequences, signals, and sizes that models compute."""

from __future__ import annotations

import numpy as np
import onnx
import onnx.parser
import pytest

import evonnx
from evonnx.ir.builder import Builder
from evonnx.ir.dims import Dim, free_symbols, sym
from evonnx.ir.graph import Graph, Node, Value
from evonnx.ir.interp import run
from evonnx.ir.random_graphs import random_feeds, random_graph
from evonnx.ir.target import Target
from evonnx.ir.types import BOOL, F32, I64, TensorType, type_symbols
from evonnx.search.symbols import BATCH, COMPUTED, SAMPLES, SEQUENCE, SIDE, counted, sizes_of


def tensor(b: Builder, *shape: Dim, name: str = "x") -> Value:
    return b.input(name, TensorType(F32, shape))


def weights(b: Builder, *shape: int) -> Value:
    return b.const(np.ones(shape, np.float32))


def conv(b: Builder, x: Value, w: Value, stride: int = 1) -> Value:
    spatial = x.rank - 2
    return b.op("conv", x, w, strides=(stride,) * spatial, dilations=(1,) * spatial, groups=1,
                pads_lo=(1,) * spatial, pads_hi=(1,) * spatial, layout="last")


def sizes(b: Builder, y: Value) -> dict[str, int]:
    return sizes_of(b.build({"y": y}), {})


def test_an_image_has_a_batch_and_two_sides() -> None:
    b = Builder()
    x = conv(b, tensor(b, sym("B"), sym("H"), sym("W"), 3), weights(b, 3, 3, 3, 8), 2)
    pooled = b.op("reduce", x, kind="mean", axes=(1, 2), keepdims=False)
    y = b.op("softmax", b.op("dot", pooled, weights(b, 8, 5), ta=False, tb=False), axis=1)
    assert sizes(b, y) == {"B": BATCH, "H": SIDE, "W": SIDE}


def attention(b: Builder, tokens: Value, first: Dim, length: Dim) -> Value:
    """One head over embedded tokens, whose rows a product sees as one axis."""
    rows = b.op("reshape", b.op("gather", weights(b, 100, 16), tokens, axis=0),
                shape=(first * length, 16))
    q, k, v = (b.op("reshape", b.op("dot", rows, weights(b, 16, 16), ta=False, tb=False),
                    shape=(first, length, 16)) for _ in range(3))
    return b.op("attention", q, k, v, None, scale=0.25, safe=False)


def test_tokens_have_a_batch_and_a_length() -> None:
    b = Builder()
    ids = b.input("ids", TensorType(I64, (sym("B"), sym("S"))))
    assert sizes(b, attention(b, ids, sym("B"), sym("S"))) == {"B": BATCH, "S": SEQUENCE}


def test_rows_taken_in_the_order_of_the_batch_leave_it_one() -> None:
    """As ``mask[arange(B)[:, None], positions]``."""
    b = Builder()
    mask = b.input("mask", TensorType(BOOL, (sym("B"), sym("S"))))
    at = b.input("at", TensorType(I64, (sym("B"), sym("S"), 2)))
    assert sizes(b, b.op("gather_nd", mask, at, batch_dims=0)) == {"B": BATCH, "S": SEQUENCE}


def test_edges_of_graphs_are_no_batch() -> None:
    b = Builder()
    nodes = tensor(b, sym("N"), 16)
    ends = b.input("ends", TensorType(I64, (sym("E"), 1)))
    sent = b.op("gather_nd", nodes, ends, batch_dims=0)
    y = b.op("scatter_nd", nodes, ends, b.op("tanh", sent), reduction="add")
    assert sizes(b, y) == {"N": SEQUENCE, "E": SEQUENCE}


def test_steps_of_a_recurrence_are_no_batch() -> None:
    b = Builder()
    x = tensor(b, sym("T"), sym("B"), 1, 16)
    out, *_ = b.op("rnn", x, weights(b, 1, 16, 16), None, None, direction="forward", clip=None,
               activations=(("tanh", 0.0, 0.0),))
    assert sizes(b, out) == {"T": SEQUENCE, "B": BATCH}


def test_what_a_scan_runs_over_is_no_batch() -> None:
    model = onnx.parser.parse_model("""
        <ir_version: 8, opset_import: ["" : 17]>
        running (float[B, 4] start, float[T, B, 4] x) => (float[B, 4] last, float[T, B, 4] all) {
            last, all = Scan <num_scan_inputs: int = 1, body = step (float[B, 4] s, float[B, 4] e)
                => (float[B, 4] t, float[B, 4] u) { t = Add(s, e)  u = Tanh(t) }> (start, x)
        }""")
    graph = evonnx.compile(model, cache=False).graph
    assert sizes_of(graph, {}) == {"T": SEQUENCE, "B": BATCH}


def test_a_signal_has_as_many_samples_as_frames_need() -> None:
    b = Builder()
    x = tensor(b, sym("B"), sym("N"))
    whole = b.op("slice", x, starts=(0, 0), sizes=(sym("B"), sym("N") // 160 * 160), steps=(1, 1))
    frames = b.op("reshape", whole, shape=(sym("B"), sym("N") // 160, 160))
    y = b.op("reduce", b.op("softmax", frames, axis=1), kind="sum", axes=(1,), keepdims=False)
    assert sizes(b, y) == {"B": BATCH, "N": SAMPLES}


@pytest.mark.parametrize("kind", ["max", "mean"])
def test_a_range_of_everything_relates_nothing(kind: str) -> None:
    b = Builder()
    x = tensor(b, sym("B"), 16)
    assert sizes(b, b.op("sub", x, b.op("reduce", x, kind=kind, axes=(0, 1), keepdims=False))) == {
        "B": BATCH}
    b = Builder()
    x = tensor(b, sym("N"), 16)
    assert sizes(b, b.op("sub", x, b.op("reduce", x, kind=kind, axes=(0,), keepdims=True))) == {
        "N": SEQUENCE}


def test_what_the_model_computes_is_its_own() -> None:
    model = onnx.parser.parse_model("""
        <ir_version: 8, opset_import: ["" : 17]>
        found (float[B, 8] x) => (int64[2, K] y) { y = NonZero(x) }""")
    found = counted(evonnx.compile(model, cache=False).graph, {})
    computed = [c.size for c in found.values() if c.role == "computed by the model"]
    assert computed == [COMPUTED]


def window(size: int) -> Graph:
    b = Builder()
    x = tensor(b, sym("B"), sym("S"), 4)
    cut = b.op("slice", x, starts=(0, size, 0), sizes=(sym("B"), sym("S") - size, 4),
               steps=(1, 1, 1))
    return b.build({"y": b.op("softmax", cut, axis=1)})


def test_sizes_double_until_every_shape_has_elements() -> None:
    assert sizes_of(window(SEQUENCE - 1), {}) == {"B": 1, "S": SEQUENCE}
    assert sizes_of(window(SEQUENCE), {}) == {"B": 1, "S": 2 * SEQUENCE}
    assert sizes_of(window(3 * SEQUENCE), {"B": 7}) == {"B": 7, "S": 4 * SEQUENCE}
    assert sizes_of(window(3 * SEQUENCE), {"S": 9}) == {"B": 1, "S": 9}


def test_report_and_explanation_say_what_was_counted() -> None:
    b = Builder()
    x = conv(b, tensor(b, sym("B"), sym("H"), 64, 16), weights(b, 3, 3, 16, 32))
    graph = b.build({"y": b.op("relu", x)})
    compiled = evonnx.compile(graph, expect={"H": 48}, target=Target.named("generic"))
    told = " ".join(str(compiled.report()).split())
    assert "counted B as 1 (a batch), H as 48 (expected); compile(expect={'B': ...})" in told
    counts = compiled.report().to_dict()["search"]["counted"]
    assert counts == {"B": [1, "a batch"], "H": [48, "expected"]}
    assert "at B = 1, H = 48:" in compiled.explain("conv")


ROWWISE = ("add", "mul", "tanh", "select", "reduce", "dot", "conv", "pool", "transpose", "reshape",
           "concat", "pad", "softmax", "layer_norm", "attention", "cumulate", "argmax", "topk")


def of_everything(node: Node) -> bool:
    """Whether a node takes one number of several axes, which counts as no relation."""
    return node.op in ("reduce", "layer_norm") and len(node.operands[0].shape) > 1 and (
        node.attrs.get("axis", 1) == 0 or len(node.attrs.get("axes", ())) == node.operands[0].rank)


@pytest.mark.parametrize("first", range(0, 240, 60))
def test_a_batch_is_computed_row_by_row(first: int) -> None:
    """Random graphs: where N is a batch, each row of a result is that of the same row fed alone."""
    batches = 0
    for seed in range(first, first + 60):
        graph = random_graph(seed, 6, symbolic=True, ops=ROWWISE)
        if counted(graph, {}).get("N", (0, ""))[1] != "a batch" or any(map(of_everything,
                                                                             graph.nodes)):
            continue
        feeds = random_feeds(graph, seed, {"N": 3, "S": 4})
        axes = {name: [k for k, d in enumerate(v.shape) if d == sym("N")]
                for name, v in graph.outputs}
        plain = [name for name, v in graph.outputs if len(axes[name]) == 1 and not any(
            "N" in free_symbols(d) for d in v.shape if d != sym("N"))]
        together = run(graph, feeds)
        for row in range(3):
            given = {v.node.attrs["name"]: v.shape[:1] == (sym("N"),) for v in graph.inputs}
            alone = run(graph, {n: x[row:row + 1] if given[n] else x for n, x in feeds.items()})
            for name in plain:
                k, = axes[name]
                batches += 1
                np.testing.assert_allclose(np.take(together[name], [row], k), alone[name],
                                           rtol=1e-4, atol=1e-4)
    assert batches > 30


@pytest.mark.parametrize("first", range(0, 200, 100))
def test_every_symbol_of_a_graph_has_a_size(first: int) -> None:
    for seed in range(first, first + 100):
        graph = random_graph(seed, 10, symbolic=True)
        found = counted(graph, {})
        symbols = {s for n in graph.nodes for t in n.types for s in type_symbols(t)}
        assert found.keys() == symbols and all(c.size >= 1 for c in found.values())
