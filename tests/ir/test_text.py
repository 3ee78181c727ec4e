"""The text format: the law, every kind of attribute, hostile strings, and errors that point."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evonnx.ir.builder import Builder
from evonnx.ir.dim_functions import bcast, dmax
from evonnx.ir.dims import sym
from evonnx.ir.errors import EvonnxError, ParseError, VerifyError
from evonnx.ir.graph import Attrs, Constants, Graph, Node, Value
from evonnx.ir.parser import parse_graph
from evonnx.ir.random_graphs import random_graph
from evonnx.ir.text import attr_text, print_graph
from evonnx.ir.types import (
    BOOL,
    DTYPES,
    F32,
    I64,
    STR,
    LooseTensor,
    MapType,
    OptionalType,
    SequenceType,
    TensorType,
)

Law = Callable[[Graph], None]
NASTY = (
    "", " ", '"', "'", "\\", "\n", "\r\n", "\t", "\0", "\x7f", "\x85", "\u2028", "é", "日本",
    "\ud800", "𝄞", "# from", "%3", "} return", '"); __import__("os").system("true") #',
    "{{x}}", "a" * 500, "graph {", "//", "N", "f32", "true",
)  # fmt: skip


def small() -> tuple[Builder, Value]:
    b = Builder()
    return b, b.input("x", TensorType(F32, (sym("N"), 4)))


@settings(max_examples=120, deadline=None)
@given(st.integers(0, 1 << 30), st.integers(1, 25), st.booleans())
def test_law_on_random_graphs(seed: int, nodes: int, symbolic: bool) -> None:
    graph = random_graph(seed, nodes, symbolic=symbolic)
    text = print_graph(graph)
    again = parse_graph(text, graph.constants)
    assert again.digest == graph.digest
    assert print_graph(again) == text
    assert [n.origin for n in again.nodes] == [n.origin for n in graph.nodes]


@pytest.mark.parametrize("name", NASTY, ids=range(len(NASTY)))
def test_names_are_data(name: str, text_law: Law) -> None:
    b = Builder()
    x = b.input(name, TensorType(F32, (2,)))
    y = b.op("neg", x, origin=(name, name + "2"))
    graph = b.build([(name + "y", y)])
    text = print_graph(graph)
    assert text.isascii()
    assert all(c == "\n" or c.isprintable() or c == "\x7f" for c in text)
    assert len(text.splitlines()) == 5
    text_law(graph)
    again = parse_graph(text)
    assert again.input_names == (name,)
    assert again.output_names == (name + "y",)


@given(st.text(max_size=30), st.text(max_size=30))
def test_any_string(name: str, origin: str) -> None:
    b = Builder()
    y = b.op("neg", b.input(name, TensorType(F32, ())), origin=(origin,))
    graph = b.build([("y", y)])
    again = parse_graph(print_graph(graph))
    assert again.digest == graph.digest
    assert again.nodes[1].origin == (origin,)


ATTRIBUTES: tuple[Any, ...] = (
    0, -1, 10**18, -(10**18), True, False, None, 0.0, -0.0, 1.5, -2.5e-7, 1e300, 1e16, 0.1,
    float("inf"), float("-inf"), float("nan"), 5e-324, "", "text", 'q"\n', b"", b"\x00\xff", (),
    (1,), (1, 2.0, "a", (True, None)), F32, I64, BOOL, sym("N"), sym("N") * 2 - 3, -sym("N"),
    sym("f32"), sym("true"), sym("inf"), sym("none"), sym("graph"), sym("max"), sym("x.1"),
    (sym("A") + 1) // 2, (sym("A") * sym("B")) % 7, dmax(sym("A"), sym("B") - 1),
    bcast(sym("A"), sym("B")), (sym("A") + sym("B")) ** 2 if False else sym("A") * sym("A"),
    (sym("N") // 3) * (sym("N") // 3), ((1,), (), ((),)), (F32, (sym("N"), 2)),
)  # fmt: skip


@pytest.mark.parametrize("value", ATTRIBUTES, ids=range(len(ATTRIBUTES)))
def test_attribute_kinds(value: Any, text_law: Law) -> None:
    node = Node("neg", (), Attrs([("value", value), ("k e y", 1)]), (TensorType(F32, ()),))
    graph = Graph([], [("y", node.out)], [node], Constants())
    text_law(graph)
    got = parse_graph(print_graph(graph), verify=False).nodes[0].attrs["value"]
    assert type(got) is type(value)
    assert repr(got) == repr(value)


def test_arrays_are_no_attributes() -> None:
    with pytest.raises(VerifyError):
        attr_text(np.zeros(2))


TYPES = (
    *(TensorType(d, (2,)) for d in DTYPES.values()), TensorType(F32, ()),
    TensorType(F32, (0, sym("N") * 2 + 1, (sym("H") - 1) // 2 + 1)),
    SequenceType(TensorType(F32, (sym("N"),))), OptionalType(SequenceType(TensorType(I64, ()))),
    SequenceType(LooseTensor(F32)), OptionalType(LooseTensor(I64, none=True)), MapType(STR, F32),
    SequenceType(MapType(I64, F32)),
)  # fmt: skip


def test_types(text_law: Law) -> None:
    nodes = [Node("neg", (), Attrs(), (t, t)) for t in TYPES] + [Node("neg", (), Attrs(), ())]
    graph = Graph([], [("y", Value(nodes[0], 1))], nodes, Constants())
    text_law(graph)


# -- constants -----------------------------------------------------------------------------------

F = np.float32
ARRAYS = (
    np.array(1.5, F), np.array([], F), np.zeros((2, 0, 3), np.int64), np.arange(6).reshape(2, 3),
    np.array([np.inf, -np.inf, np.nan, -0.0, 0.0, 1e-45, 3.4e38, 0.1, 1 / 3], F),
    np.array([-np.nan, 1.0], np.float64), np.array([0.1, 1e-320, 1e308, 2**53 + 2.0]),
    np.frombuffer(b"\x01\x00\xa0\x7f", F),  # a NaN with a payload: by digest
    np.array([0.1, 65504, 6e-8], np.float16), np.array([0.1, 3e38, -1], ml_dtypes.bfloat16),
    np.array([0.5, 448], ml_dtypes.float8_e4m3fn), np.array([-8, 7], ml_dtypes.int4),
    np.array([2**64 - 1, 0], np.uint64), np.array([-(2**63), 2**63 - 1], np.int64),
    np.array([255, 0], np.uint8), np.array([True, False]), np.array(True),
    np.array([1 + 2j, complex(-0.0, np.inf)], np.complex64), np.array(3j, np.complex128),
    np.array(['a"\n', "", "é"], object), np.array([b"\xff", b""], object),
    np.arange(17, dtype=F), np.arange(100, dtype=np.int8).reshape(10, 10),
)  # fmt: skip


@pytest.mark.parametrize("array", ARRAYS, ids=range(len(ARRAYS)))
def test_constants(array: np.ndarray, text_law: Law) -> None:
    b = Builder()
    graph = b.build([("c", b.const(array))])
    text_law(graph)
    text = print_graph(graph)
    inline = "@" not in text
    assert inline == (array.size <= 16 and array.tobytes() != b"\x01\x00\xa0\x7f")
    if inline:  # such a text needs no table
        alone = parse_graph(text)
        got = alone.constants.get(alone.nodes[0].attrs["digest"])
        assert got.dtype == array.dtype
        assert got.shape == array.shape
        assert got.tobytes() == array.tobytes() or array.dtype == object
        assert list(got.ravel()) == list(array.ravel()) or np.isnan(array.astype(complex)).any()


@settings(deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_every_float_reads_back(bits: int) -> None:
    array = np.array([bits], np.uint32).view(F)
    b = Builder()
    graph = b.build([("c", b.const(array))])
    again = parse_graph(print_graph(graph), graph.constants)
    assert again.digest == graph.digest


def test_missing_constant_is_named() -> None:
    b = Builder()
    graph = b.build([("c", b.const(np.arange(100)))])
    digest = graph.nodes[0].attrs["digest"]
    with pytest.raises(ParseError, match=digest[:16]):
        parse_graph(print_graph(graph))


def test_constant_added_under_a_foreign_digest(text_law: Law) -> None:
    table = Constants()
    table.add_lazy("ab" * 20, lambda: np.array([1.0, 2.0], F))
    b = Builder(table)
    graph = b.build([("c", b.const_ref("ab" * 20, TensorType(F32, (2,))))])
    assert f"@{'ab' * 20}" in print_graph(graph)
    text_law(graph)


# -- regions -------------------------------------------------------------------------------------


def nested(depth: int) -> Graph:
    b = Builder()
    x = b.input("x", TensorType(F32, (2,)))
    c = b.input("c", TensorType(BOOL, ()))
    if depth == 0:
        return b.build([("y", b.op("neg", x)), ("c", c)])
    body = nested(depth - 1)
    y, _ = b.op(
        "if", c, x, c, x, c, then=body, else_=body, split=2, symbols=(),
        results=((F32, (2,)), (BOOL, ())),
    )  # fmt: skip
    return b.build([("y", y), ("c", c)])


def test_regions(text_law: Law) -> None:
    for depth in (1, 2, 3):
        graph = nested(depth)
        text_law(graph)
        parse_graph(print_graph(graph))


def test_deep_nesting_is_refused() -> None:
    text = "graph { return }"
    for _ in range(3000):
        text = "graph { %0 = if() {then=" + text + "} : f32[] return }"
    with pytest.raises(ParseError, match="nested"):
        parse_graph(text, verify=False)
    with pytest.raises(ParseError, match="nested"):
        parse_graph("graph { %0 = neg() {a=" + "[" * 9000 + "]" * 9000 + "} : f32[] return }")
    with pytest.raises(ParseError, match="nested"):
        parse_graph("graph { %0 = neg() : " + "seq(" * 9000 + "f32[]" + ")" * 9000 + " return }")


def test_input_order_survives(text_law: Law) -> None:
    b = Builder()
    x, y = (b.input(n, TensorType(F32, ())) for n in "xy")
    out = b.op("sub", x, y)
    graph = Graph([y, x], [("z", out)], [x.node, y.node, out.node], b.constants)
    text_law(graph)
    assert parse_graph(print_graph(graph)).input_names == ("y", "x")


# -- errors --------------------------------------------------------------------------------------

GOOD = """graph {
  %0 = input("x") : f32[N, 4]
  %1 = softmax(%0) {axis=1} : f32[N, 4]
  %2,
  return "y" = %1
}
"""


def error(text: str) -> str:
    with pytest.raises(ParseError) as caught:
        parse_graph(text)
    return str(caught.value)


def test_caret_points() -> None:
    message = error(GOOD)
    assert message.startswith("line 4, column 5: expected '='")
    lines = message.splitlines()
    assert lines[1] == "    %2,"
    assert lines[2].index("^") == lines[1].index(",")


BROKEN = (
    "", "graph", "graph {", "graph { return", "graph { return } x", "graf { return }",
    "graph { %0 = input(\"x\") : f32[2 return }", 'graph { %0 = input("x) : f32[2] return }',
    'graph { %0 = input("x") : f31[2] return }', 'graph { %0 = input("x") : f32[2.5] return }',
    'graph { %0 = input("x") return }', "graph { %0 = neg(%1) : f32[] return }",
    "graph { %0 = neg(%0) : f32[] return }", 'graph { return "y" = %3 }',
    'graph { %0 = input("x") : f32[] %0 = input("z") : f32[] return }',
    'graph { %0 = input("x") : f32[] return "y" = %0:1 }',
    "graph { %0 = neg() {a=1, a=2} : f32[] return }", "graph { %0 = neg() {a} : f32[] return }",
    "graph { %0 = neg() {a=} : f32[] return }", "graph { %0 = neg() {a=[1} : f32[] return }",
    "graph { %0 = const([1, 2]) : f32[3] return }", "graph { %0 = const([300]) : u8[1] return }",
    "graph { %0 = const([1.5]) : i64[1] return }", 'graph { %0 = const(["a"]) : f32[1] return }',
    "graph { %0 = const([true]) : f32[1] return }", "graph { %0 = const([1]) : bool[1] return }",
    "graph { %0 = const([1]) : f32[N] return }", "graph { %0 = const(1) : f32[], f32[] return }",
    "graph { %0 = const(@12zz) : f32[] return }", 'graph { %0 = neg() {a=x"0"} : f32[] return }',
    'graph { %0 = input("\\q") : f32[] return }', "graph { %0 = neg() : f32[1//0] return }",
    "graph { %99999999999999999999:99999999999999 = neg() : f32[] return }",
    "graph { %0 = const([" + "1, " * 50 + "]) : f32[1000000000000] return }",
    "graph { %0 = neg() {a=" + "9" * 9999 + "} : f32[] return }", "graph { é = 1 }", "\0", "§" * 99,
)  # fmt: skip


@pytest.mark.parametrize("text", BROKEN, ids=range(len(BROKEN)))
def test_broken_text(text: str) -> None:
    message = error(text)
    assert re.match(r"line \d+, column \d+: ", message)
    assert len(message) < 700


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_damaged_text(data: st.DataObject) -> None:
    """Whatever is cut, doubled or swapped: an ``EvonnxError`` or a graph, nothing else."""
    graph = random_graph(data.draw(st.integers(0, 40)), 6, symbolic=True)
    text = print_graph(graph)
    for _ in range(data.draw(st.integers(1, 3))):
        i, j = sorted(data.draw(st.integers(0, len(text))) for _ in range(2))
        j = min(j, i + data.draw(st.integers(0, 12)))
        pieces = ["", text[i:j] * 2, "(", "]", "%1", "-", '"', "9", "N", "}"]
        new = data.draw(st.sampled_from(pieces))
        text = text[:i] + new + text[j:]
    with contextlib.suppress(EvonnxError):
        parse_graph(text, graph.constants)


@given(st.text(max_size=200))
def test_arbitrary_text(text: str) -> None:
    with pytest.raises(EvonnxError):
        parse_graph(text)
