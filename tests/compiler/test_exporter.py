"""Export to ONNX: checked models whose results in ONNX Runtime are the interpreter's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from evonnx.compiler import exporter
from evonnx.compiler.exporter import export_model, to_onnx
from evonnx.compiler.exporter.context import WRITERS
from evonnx.compiler.importer import import_model
from evonnx.compiler.importer.strings import host_strings
from evonnx.ir.builder import Builder
from evonnx.ir.dim_functions import bcast, dmax, dmin
from evonnx.ir.dims import Dim, sym
from evonnx.ir.errors import ModelError, UnsupportedError
from evonnx.ir.graph import Graph
from evonnx.ir.interp import run
from evonnx.ir.ops import OPS
from evonnx.ir.ops.trees import MISSING_SHIFT, MODE_SHIFT, node_table
from evonnx.ir.random_graphs import MAKERS, random_feeds, random_graph
from evonnx.ir.types import BOOL, C64, DTYPES, F32, F64, I32, I64, STR, U8, U32, TensorType

ort = pytest.importorskip("onnxruntime")
F = np.float32


def in_runtime(model: onnx.ModelProto | Path, feeds: dict[str, Any]) -> list[np.ndarray]:
    ort.set_default_logger_severity(4)
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    source = str(model) if isinstance(model, Path) else model.SerializeToString()
    session = ort.InferenceSession(source, options, providers=["CPUExecutionProvider"])
    return session.run(None, feeds)


def agree(graph: Graph, feeds: dict[str, Any], tolerance: float = 1e-3) -> onnx.ModelProto:
    model = to_onnx(graph)
    assert [i.name for i in model.graph.input] == list(graph.input_names)
    assert [o.name for o in model.graph.output] == list(graph.output_names)
    wanted = run(graph, feeds)
    for (name, want), got in zip(wanted.items(), in_runtime(model, feeds), strict=True):
        assert got.shape == want.shape, name
        assert got.dtype == want.dtype, name
        if want.dtype == object:
            assert got.tolist() == want.tolist()
        else:
            np.testing.assert_allclose(
                got.astype(np.float64), want.astype(np.float64), rtol=tolerance, atol=tolerance,
                err_msg=name,
            )  # fmt: skip
    return model


@pytest.mark.parametrize("symbolic", [False, True], ids=["static", "symbolic"])
def test_random_graphs(symbolic: bool) -> None:
    for seed in range(60):
        graph = random_graph(seed, 12, symbolic=symbolic)
        agree(graph, random_feeds(graph, seed))


@pytest.mark.parametrize("op", sorted(MAKERS))
def test_each_op(op: str) -> None:
    for seed in range(6):
        graph = random_graph(500 + seed, 4, symbolic=seed % 2 == 1, ops=(op, "transpose"))
        agree(graph, random_feeds(graph, seed))


def test_every_op_has_a_writer() -> None:
    missing = {n for n, op in OPS.items() if n not in WRITERS and op.expand is None}
    assert missing <= {"input", "const"}


# -- sizes ---------------------------------------------------------------------------------------

N, M = sym("N"), sym("M")
SIZES: tuple[Dim, ...] = (
    N * 3 + M - 2, N * M, N // 2, (N - 7) // 3, (N + M) % 4, dmax(N, M), dmin(N - 1, 5), N * N,
    (N * M + 1) // (M + 1), dmax(N - M, 0) + 2, (N - 9) % 5, -N, 7,
)  # fmt: skip


@pytest.mark.parametrize("n", [1, 4, 9])
@pytest.mark.parametrize("m", [1, 4])
def test_arithmetic_of_sizes(n: int, m: int) -> None:
    b = Builder()
    x = b.input("x", TensorType(F32, (N, 2)))
    y = b.input("y", TensorType(F32, (2 * M + 1,)))
    sizes = (*SIZES, bcast(N, M)) if n == 1 or m == 1 or n == m else SIZES
    one = b.dims((N * 2,), scalar=True)
    kept = [("a", b.op("neg", x)), ("b", b.op("neg", y))]
    graph = b.build([("d", b.dims(sizes)), ("s", one), *kept])
    agree(graph, {"x": np.zeros((n, 2), F), "y": np.zeros(2 * m + 1, F)})


def test_slices_with_symbolic_ends() -> None:
    b = Builder()
    x = b.input("x", TensorType(F32, (N,)))
    backwards = b.op("slice", x, starts=(N - 1,), sizes=(N,), steps=(-1,))
    every_other = b.op("slice", x, starts=(N - 1,), sizes=((N + 1) // 2,), steps=(-2,))
    tail = b.op("slice", x, starts=(N // 2,), sizes=(N - N // 2,), steps=(1,))
    none = b.op("slice", x, starts=(N,), sizes=(0,), steps=(1,))
    graph = b.build([("a", backwards), ("b", every_other), ("c", tail), ("d", none)])
    for n in (1, 2, 5):
        agree(graph, {"x": np.arange(n, dtype=F)})


def test_sizes_from_data() -> None:
    b = Builder()
    x = b.input("x", TensorType(F32, (N, 2)))
    first, inverse, counts, count = b.op("unique", x, sorted=True)
    b.op("bind", count, name="k")
    rows = b.op("slice", first, starts=(0,), sizes=(sym("k"),), steps=(1,))
    graph = b.build([
        ("rows", b.op("gather", x, rows, axis=0)), ("inverse", inverse), ("counts", counts),
        ("double", b.dims((sym("k") * 2,))), ("ramp", b.op("iota", shape=(sym("k"), 2), axis=0,
                                                           dtype=F32)),
    ])  # fmt: skip
    agree(graph, {"x": np.array([[1, 2], [0, 1], [1, 2], [0, 0], [0, 1]], F)})


@pytest.mark.parametrize("center", [False, True])
def test_box_selection(center: bool) -> None:
    rng = np.random.default_rng(0)
    b = Builder()
    boxes = b.input("boxes", TensorType(F32, (2, N, 4)))
    scores = b.input("scores", TensorType(F32, (2, 3, N)))
    rows, count = b.op("nms", boxes, scores, b.const(4), b.const(F(0.4)), b.const(F(0.2)),
                       center=center, limit=4)  # fmt: skip
    graph = b.build([("rows", rows), ("count", count)])
    low = rng.random((2, 20, 2))
    given = np.concatenate([low, rng.random((2, 20, 2)) * 0.5 + (0 if center else low)], -1)
    agree(graph, {"boxes": given.astype(F), "scores": rng.random((2, 3, 20)).astype(F)})


# -- images and recurrent layers -------------------------------------------------------------------


def test_pads_that_operators_do_not_take() -> None:
    b = Builder()
    x = b.input("x", TensorType(F32, (1, 2, 6, N)))
    w = b.const(np.random.default_rng(0).standard_normal((2, 2, 3, 3)).astype(F))
    common = {"strides": (1, 2), "dilations": (1, 1), "layout": "first"}
    window = {**common, "kernel": (2, 3)}
    graph = b.build([
        ("crop", b.op("conv", x, w, pads_lo=(-1, 2), pads_hi=(1, -1), groups=1, **common)),
        ("wide", b.op("conv", x, w, pads_lo=(0, N), pads_hi=(1, 0), groups=1, **common)),
        ("max", b.op("pool", x, kind="max", pads_lo=(3, 0), pads_hi=(0, 4), **window)),
        ("sum", b.op("pool", x, kind="sum", pads_lo=(3, 0), pads_hi=(0, 4), **window)),
        ("back", b.op("conv_transpose", x, w, pads_lo=(-1, 1), pads_hi=(2, -2), groups=1,
                      output_padding=(0, 3), **common)),
    ])  # fmt: skip
    agree(graph, {"x": np.random.default_rng(1).standard_normal((1, 2, 6, 7)).astype(F)})


ACTIVATIONS = (
    ("sigmoid", 0.0, 0.0), ("tanh", 0.0, 0.0), ("relu", 0.0, 0.0), ("hardsigmoid", 0.3, 0.4),
    ("elu", 0.5, 0.0), ("softsign", 0.0, 0.0), ("leakyrelu", 0.1, 0.0), ("affine", 0.5, 0.1),
    ("scaledtanh", 0.7, 0.9), ("softplus", 0.0, 0.0), ("thresholdedrelu", 0.2, 0.0),
)  # fmt: skip


@pytest.mark.parametrize("op", ["lstm", "gru", "rnn"])
@pytest.mark.parametrize("direction", ["forward", "reverse", "bidirectional"])
@pytest.mark.parametrize("plain", [True, False])
def test_recurrent(op: str, direction: str, plain: bool) -> None:
    rng = np.random.default_rng([len(op), len(direction), plain])
    gates = {"lstm": 4, "gru": 3, "rnn": 1}[op]
    d, h, t, rows = 2 if direction == "bidirectional" else 1, 5, 6, 3
    per = {"lstm": 3, "gru": 2, "rnn": 1}[op] * d

    def random(*shape: int) -> np.ndarray:
        return rng.standard_normal(shape).astype(F)

    b = Builder()
    xw = b.input("xw", TensorType(F32, (N, rows, d, gates * h)))
    r = b.const(random(d, h, gates * h))
    state = [b.input("h0", TensorType(F32, (d, rows, h)))]
    lens = b.input("lens", TensorType(I32, (rows,)))
    optional: dict[str, list[Any]] = {
        "lstm": [lens, state[0], b.const(random(d, rows, h)), b.const(random(d, 3 * h))],
        "gru": [b.const(random(d, h)), lens, state[0]], "rnn": [lens, state[0]],
    }  # fmt: skip
    names = [ACTIVATIONS[int(k)] for k in rng.integers(0, len(ACTIVATIONS), per)]
    if plain:
        names = [("sigmoid", 0.0, 0.0), *[("tanh", 0.0, 0.0)] * 2][3 - per // d :] * d
    extra = {"lstm": {"input_forget": not plain}, "gru": {"linear_before_reset": not plain},
             "rnn": {}}[op]  # fmt: skip
    outs = b.op(
        op, xw, r, *([None] * len(optional[op]) if plain else optional[op]), direction=direction,
        activations=tuple(names), clip=None if plain else 2.0, **extra,
    )  # fmt: skip
    keep = [("s", b.op("neg", state[0])), ("l", b.op("neg", lens))]
    graph = b.build([*keep, *((f"y{k}", v) for k, v in enumerate(outs))])
    feeds = {"xw": random(t, rows, d, gates * h), "h0": random(d, rows, h),
             "lens": np.array([6, 2, 4], np.int32)}  # fmt: skip
    agree(graph, feeds, 1e-4)


@pytest.mark.parametrize("direction", ["forward", "bidirectional"])
def test_quantized_lstm(direction: str) -> None:
    rng = np.random.default_rng(5)
    d, h, t, rows = 1 + (direction == "bidirectional"), 6, 5, 2
    b = Builder()
    xw = b.input("xw", TensorType(F32, (N, rows, d, 4 * h)))
    r = b.const(rng.integers(-127, 128, (d, h, 4 * h)).astype(np.int8))
    scale = b.const((rng.random((d, 4 * h)) * 0.01).astype(F))
    zero = b.const(np.zeros((d, 4 * h), np.int8))
    h0, c0 = (b.const(rng.standard_normal((d, rows, h)).astype(F)) for _ in range(2))
    peep = b.const(rng.standard_normal((d, 3 * h)).astype(F))
    acts = (("sigmoid", 0.0, 0.0), ("tanh", 0.0, 0.0), ("hardsigmoid", 0.2, 0.5)) * d
    outs = b.op("qlstm", xw, r, scale, zero, None, h0, c0, peep, direction=direction,
                activations=acts, clip=1.5, input_forget=False)  # fmt: skip
    graph = b.build([(f"y{k}", v) for k, v in enumerate(outs)])
    agree(graph, {"xw": rng.standard_normal((t, rows, d, 4 * h)).astype(F)}, 1e-2)


# -- regions -------------------------------------------------------------------------------------


def test_if_captures_values_and_sizes() -> None:
    inner = Builder()
    x = inner.input("x", TensorType(F32, (sym("P"),)))
    then = inner.build([("y", inner.op("expand", x, shape=(sym("Q"), sym("P"))))])
    inner = Builder()
    x = inner.input("x", TensorType(F32, (sym("P"),)))
    z = inner.op("reshape", inner.op("neg", x), shape=(1, sym("P")))
    other = inner.build([("y", z)])
    b = Builder()
    c, v = b.input("c", TensorType(BOOL, ())), b.input("v", TensorType(F32, (N,)))
    y = b.op("if", c, v, v, then=then, else_=other, split=1, symbols=(("Q", N * 2),),
             results=((F32, (sym("R"), N)),))  # fmt: skip
    graph = b.build([("y", y), ("r", b.dims((sym("R"),)))])
    for c_value in (True, False):
        agree(graph, {"c": np.array(c_value), "v": np.arange(3, dtype=F)})


@pytest.mark.parametrize("trips", [1, 4])
def test_loop_with_growing_state(trips: int) -> None:
    body = Builder()
    i = body.input("i", TensorType(I64, ()))
    body.input("c", TensorType(BOOL, ()))
    s = body.input("s", TensorType(F32, (sym("L"),)))
    k = body.input("k", TensorType(F32, ()))
    last = body.op("reshape", body.op("cast", i, to=F32), shape=(1,))
    grown = body.op("concat", s, body.op("mul", last, k), axis=0)
    small = body.op("lt", i, 2)
    region = body.build([("c", small), ("s", grown), ("n", body.dims((sym("L"),), scalar=True)),
                         ("k", k)])  # fmt: skip
    b = Builder()
    x, scale = b.input("x", TensorType(F32, (N,))), b.input("scale", TensorType(F32, ()))
    s, n, ks = b.op(
        "loop", b.const(trips), None, x, scale, body=region, carried=1, symbols=(),
        results=((F32, (sym("out"),)), (I64, (sym("T"),)), (F32, (sym("T"),))),
    )  # fmt: skip
    graph = b.build([("s", s), ("n", n), ("k", ks), ("t", b.dims((sym("T"), sym("out"))))])
    agree(graph, {"x": np.ones(2, F), "scale": np.array(3, F)})


def test_scan() -> None:
    body = Builder()
    s = body.input("s", TensorType(F32, (2,)))
    x = body.input("x", TensorType(F32, (2,)))
    w = body.input("w", TensorType(F32, (2,)))
    new = body.op("tanh", body.op("add", body.op("mul", s, w), x))
    region = body.build([("s", new), ("y", new)])
    b = Builder()
    xs, w = b.input("xs", TensorType(F32, (N, 2))), b.input("w", TensorType(F32, (2,)))
    s, ys = b.op("scan", b.const(np.zeros(2, F)), xs, w, body=region, carried=1, sequences=1,
                 symbols=(), results=((F32, (2,)), (F32, (N, 2))))  # fmt: skip
    agree(b.build([("s", s), ("ys", ys)]), {"xs": np.ones((5, 2), F), "w": np.ones(2, F)})


@pytest.mark.parametrize("exclusive", [False, True])
@pytest.mark.parametrize("reverse", [False, True])
def test_running_product(exclusive: bool, reverse: bool) -> None:
    b = Builder()
    x = b.input("x", TensorType(F32, (N, 4, 2)))
    y = b.op("cumulate", x, kind="prod", axis=1, exclusive=exclusive, reverse=reverse)
    agree(b.build([("y", y)]), {"x": np.random.default_rng(0).random((3, 4, 2)).astype(F)})


# -- scalars -------------------------------------------------------------------------------------


def test_integers_divide_by_zero_and_shift_far() -> None:
    b = Builder()
    for dtype in (I32, I64, U8, U32):
        b.input(f"a{dtype}", TensorType(dtype, (6,)))
        b.input(f"b{dtype}", TensorType(dtype, (6,)))
    results = []
    for k in range(0, 8, 2):
        x, y = b.inputs[k : k + 2]
        ops = ("div", "mod") if x.dtype != U8 else ()  # not in the runtime for bytes
        results += [b.op(op, x, y) for op in (*ops, "shl", "shr")]
    graph = b.build([(f"y{k}", v) for k, v in enumerate(results)])
    feeds = {}
    for v in graph.inputs:
        values = [5, -7, 9, -1, 100, 3] if v.node.attrs["name"][0] == "a" else [2, 2, 0, 40, 7, 1]
        feeds[v.node.attrs["name"]] = np.array(values).astype(v.dtype.np)
    agree(graph, feeds)


def test_windows_and_matrices() -> None:
    rng = np.random.default_rng(3)
    b = Builder()
    x, m = b.input("x", TensorType(F32, (2, 3, 7, 6))), b.input("m", TensorType(F32, (2, 3, 3)))
    rois = b.const(np.array([[0, 1, 2, 5, 6], [1, 0, 0, 3, 3]], F))
    at = b.op("pool_argmax", x, kernel=(2, 3), strides=(2, 1), dilations=(1, 1), pads_lo=(1, 0),
              pads_hi=(0, 1), column_major=True)  # fmt: skip
    pooled = b.op("max_roi_pool", x, rois, pooled=(2, 2), scale=0.5)
    graph = b.build([("at", at), ("pooled", pooled), ("det", b.op("det", m)),
                     ("inverse", b.op("inverse", m))])  # fmt: skip
    model = to_onnx(graph)
    assert {i.domain for i in model.opset_import} == {"", "com.microsoft"}
    feeds = {"x": rng.standard_normal((2, 3, 7, 6)).astype(F),
             "m": rng.standard_normal((2, 3, 3)).astype(F)}  # fmt: skip
    again = run(import_model(model), feeds)
    for name, want in run(graph, feeds).items():
        np.testing.assert_allclose(again[name], want, rtol=1e-5)


def test_random_numbers_are_written_as_constants() -> None:
    b = Builder()
    y = b.op("random_normal", shape=(3, 4), dtype=F32, mean=0.0, scale=1.0, seed=3)
    agree(b.build([("y", y)]), {}, 0)


def test_double_precision() -> None:
    ops = ("add", "mul", "exp", "softmax", "reduce", "dot", "layer_norm", "reshape", "slice")
    for seed in range(15):
        graph = random_graph(seed, 8, dtype=F64, ops=ops)
        agree(graph, random_feeds(graph, seed), 1e-9)


# -- trees and host values -------------------------------------------------------------------------


@pytest.mark.parametrize("per_leaf", [1, 3])
@pytest.mark.parametrize("dtype", [F32, F64])
def test_trees(per_leaf: int, dtype: Any) -> None:
    """Two random trees of three levels and one lone leaf."""
    rng = np.random.default_rng(per_leaf)
    rows: list[list[Any]] = []
    target: list[int] = []
    weight: list[float] = []

    def grow(level: int) -> int:
        k = len(rows)
        if level == 0:
            rows.append([-1, len(weight), per_leaf, 0.0])
            target.extend(int(x) for x in rng.integers(0, 2, per_leaf))
            weight.extend(rng.standard_normal(per_leaf).tolist())
            return k
        mode, missing = int(rng.integers(4)), int(rng.integers(2))
        code = int(rng.integers(4)) | mode << MODE_SHIFT | missing << MISSING_SHIFT
        rows.append([code, 0, 0, float(rng.normal())])
        rows[k][1:3] = grow(level - 1), grow(level - 1)
        return k

    roots = [grow(3), grow(3), grow(0)]
    code, left, right, value = (np.array(c) for c in zip(*rows, strict=True))
    nodes = node_table(code, left, right, value.astype(dtype.np))
    b = Builder()
    x = b.input("x", TensorType(dtype, (N, 4)))
    ints = (b.const(np.array(a, np.int32)) for a in (target, roots))
    tables = [b.const(nodes), next(ints), b.const(np.array(weight).astype(dtype.np)), next(ints)]
    y = b.op("tree_ensemble", x, *tables, targets=2, aggregate="sum", compare="mixed", nan=True)
    graph = b.build([("y", y)])
    feeds = rng.standard_normal((20, 4)).astype(dtype.np)
    feeds[3, 1] = feeds[5, 2] = np.nan
    agree(graph, {"x": feeds}, 1e-5)


def host(b: Builder, kind: str, operands: list[Any], result: Any, **params: Any) -> Any:
    return b.op("host", *operands, kind=kind, params=tuple(params.items()), results=(result,))


def test_sequences_and_strings() -> None:
    b = Builder()
    x, y = b.input("x", TensorType(F32, (2, 3))), b.input("y", TensorType(F32, (2, 3)))
    s, i = b.input("s", TensorType(STR, (3,))), b.input("i", TensorType(I64, (2,)))
    items = host(b, "sequence_construct", [x, y], ("seq", F32, (2, 3)))
    longer = host(b, "sequence_insert", [items, x], ("seq", F32, (2, 3)))
    graph = b.build([
        ("at", host(b, "sequence_at", [longer, b.const(-2)], (F32, (2, 3)))),
        ("n", host(b, "sequence_length", [longer], (I64, ()))),
        ("cat", host(b, "concat_from_sequence", [longer], (F32, (6, 3)), axis=0, new_axis=False)),
        ("eq", host(b, "string_equal", [s, s], (BOOL, (3,)))),
        ("join", host(b, "string_concat", [s, s], (STR, (3,)))),
        ("label", host(b, "labels", [i], (STR, (2,)), labels=("a", 'b"\n', "c"))),
        ("match", host(b, "regex_full_match", [s], (BOOL, (3,)), pattern="[a-c]+")),
        ("code", host(b, "label_encoder", [s], (I64, (3,)), keys=("ab", "x"), values=(3, 4),
                      default=-1, dtype=I64)),
    ])  # fmt: skip
    rng = np.random.default_rng(0)
    feeds = {n: rng.standard_normal((2, 3)).astype(F) for n in "xy"}
    agree(graph, {**feeds, "s": np.array(["ab", "é", "x"], object), "i": np.array([2, 1])})


def test_maps() -> None:
    b = Builder()
    x = b.input("x", TensorType(F32, (2, 3)))
    graph = b.build([
        ("a", host(b, "zipmap", [x], ("seq", "map", STR, F32), labels=("p", "q", "r"))),
        ("b", host(b, "zipmap", [x], ("seq", "map", I64, F32), labels=(7, 8, 9))),
    ])  # fmt: skip
    feeds = {"x": np.arange(6, dtype=F).reshape(2, 3)}
    wanted = run(graph, feeds)
    for want, got in zip(wanted.values(), in_runtime(to_onnx(graph), feeds), strict=True):
        assert got == want


def test_coupled_probabilities() -> None:
    b = Builder()
    graph = b.build([("p", b.op("couple", b.input("r", TensorType(F32, (N, 6))), classes=4))])
    agree(graph, {"r": np.random.default_rng(1).uniform(0.05, 0.95, (9, 6)).astype(F)}, 1e-5)


def test_empty_containers_and_ops_on_strings() -> None:
    b = Builder()
    x, s = b.input("x", TensorType(F32, (2,))), b.input("s", TensorType(STR, (N, 2)))
    none = host(b, "optional", [], ("opt", "no", F32))
    empty = host(b, "sequence_construct", [], ("seq", "no", F32))
    graph = b.build([
        ("has", host(b, "optional_has", [none], (BOOL, ()))),
        ("n", host(b, "sequence_length", [host(b, "sequence_insert", [empty, x],
                                               ("seq", F32, (2,)))], (I64, ()))),
        ("t", b.op("transpose", b.op("concat", s, s, axis=1), perm=(1, 0))),
    ])  # fmt: skip
    feeds = {"x": np.ones(2, F), "s": np.array([["a", "b"], ["c", "d"], ["e", "f"]], object)}
    agree(host_strings(graph), feeds)


# -- signature, files, refusals --------------------------------------------------------------------


def test_signature_is_kept() -> None:
    b = Builder()
    x = b.input('in: "x"\n', TensorType(F32, (N, M + 1)))
    y = b.input("neg_0", TensorType(F32, (2,)))
    z = b.op("neg", x, origin=('node "one"\n',))
    graph = b.build([('in: "x"\n', x), ("out", z), ("again", z), ("c", b.const(F(1))), ("y", y)])
    model = agree(graph, {'in: "x"\n': np.ones((2, 3), F), "neg_0": np.ones(2, F)})
    assert "node" in next(n.doc_string for n in model.graph.node if n.op_type == "Neg")
    dims = model.graph.input[0].type.tensor_type.shape.dim
    assert [d.dim_param for d in dims] == ["N", "M + 1"]
    names = [o for n in model.graph.node for o in n.output]
    assert len(set(names)) == len(names)


def test_an_output_cannot_take_the_name_of_another_input() -> None:
    b = Builder()
    x = b.input("x", TensorType(F32, (2,)))
    with pytest.raises(ModelError, match="'x'"):
        to_onnx(b.build([("x", b.op("neg", x))]))


def test_refusal_names_the_node() -> None:
    b = Builder()
    r = b.input("r", TensorType(F32, (1, sym("H"), sym("H"))))
    xw = b.input("xw", TensorType(F32, (3, 2, 1, sym("H"))))
    outs = b.op("rnn", xw, r, None, None, direction="forward", clip=None,
                activations=(("tanh", 0.0, 0.0),), origin=("my layer",))  # fmt: skip
    with pytest.raises(UnsupportedError, match="my layer") as caught:
        to_onnx(b.build([("y", outs[0])]))
    assert caught.value.gaps[0].op == "rnn"


def test_types_survive(tmp_path: Path) -> None:
    b = Builder()
    values = [np.array([1, 2]).astype(t.np) for t in (C64, I32, U8, BOOL)]
    values.append(np.array(["a", "é\n"], dtype=object))
    graph = b.build([(f"y{k}", b.const(v)) for k, v in enumerate(values)])
    model = onnx.load(export_model(graph, tmp_path / "m.onnx"))
    for got, want in zip(model.graph.initializer, values, strict=True):
        assert onnx.numpy_helper.to_array(got).astype(want.dtype).tolist() in (
            want.tolist(), [s.encode() if isinstance(s, str) else s for s in want.tolist()]
        )  # fmt: skip


def test_narrow_types_survive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Constants of every width, packed inside the model and beside it, conversions without
    saturation, and reinterpreted bits; the opset is the first that knows them."""
    b = Builder()
    names = ("i2", "u2", "i4", "u4", "f4e2m1", "f8e8m0", "f8e4m3fn", "f8e5m2fnuz")
    kinds = [DTYPES[n] for n in names]
    x = b.input("x", TensorType(F32, (64,)))
    outputs = []
    for k in kinds:
        codes = (np.arange(2048) % (1 << k.bits)).astype(np.uint8)
        outputs.append((f"c_{k}", b.const(codes.view(k.np))))
        if k.is_coded:
            outputs.append((f"x_{k}", b.op("cast", x, to=k)))
    outputs.append(("bits", b.op("bitcast", x, to=I32)))
    graph = b.build(outputs)
    feeds = {"x": np.geomspace(1e-3, 1e5, 64).astype(F)}
    wanted = run(graph, feeds)
    for limit in (1 << 31, 1000):
        monkeypatch.setattr(exporter.model, "_EXTERNAL_ABOVE", limit)
        path = export_model(graph, tmp_path / f"m{limit}.onnx")
        assert onnx.load(path, load_external_data=False).opset_import[0].version == 26
        again = run(import_model(path), feeds)
        for name, want in wanted.items():
            assert again[name].dtype == want.dtype
            assert again[name].tobytes() == want.tobytes(), name


def test_external_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    b = Builder()
    rng = np.random.default_rng(0)
    x = b.input("x", TensorType(F32, (2, 64)))
    big, other = (b.const(rng.standard_normal((64, 64)).astype(F)) for _ in range(2))
    y = b.op("dot", b.op("dot", x, big, ta=False, tb=False), other, ta=False, tb=False)
    graph = b.build([("y", b.op("add", y, b.const(F(1))))])
    monkeypatch.setattr(exporter.model, "_EXTERNAL_ABOVE", 10_000)
    path = export_model(graph, tmp_path / "big.onnx")
    assert path.stat().st_size < 4000
    assert (tmp_path / "big.onnx.data").stat().st_size >= 2 * 64 * 64 * 4
    feeds = random_feeds(graph, 0)
    np.testing.assert_allclose(in_runtime(path, feeds)[0], run(graph, feeds)["y"], rtol=1e-4)
