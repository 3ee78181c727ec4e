"""Sequences, optionals and control flow around them, compiled, against ONNX Runtime.

Also what is fed and answered: lists, None, and what does not fit."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
import pytest

import evonnx
from evonnx.ir.errors import FeedError, ModelError, UnsupportedError
from evonnx.ir.interp import run

YES, NO = np.array(True), np.array(False)


def _f(*values: float) -> np.ndarray:
    return np.array(values, np.float32)


def _i(value: int) -> np.ndarray:
    return np.array(value, np.int64)


def _model(text: str) -> onnx.ModelProto:
    head = '<ir_version: 8, opset_import: ["": 18, "local": 1]>\n'
    return onnx.parser.parse_model(head + text)


def _same(got: Any, want: Any) -> None:
    if isinstance(want, list):
        assert isinstance(got, list)
        assert len(got) == len(want)
        for a, b in zip(got, want, strict=True):
            _same(a, b)
    elif want is None:
        assert got is None
    else:
        assert got.dtype == want.dtype
        if want.size or got.size:  # sizes of what no iteration made are not defined
            np.testing.assert_array_equal(got, want)


def check(lab: Any, text: str, *feeds: Mapping[str, Any]) -> None:
    """Compiled and interpreted results are ONNX Runtime's."""
    model = _model(text)
    compiled = evonnx.compile(model, cache=False)
    for given in feeds:
        want = lab.theirs(model, {k: v for k, v in given.items() if v is not None})
        got = compiled.run(None, given)
        meant = run(compiled.imported, given)
        for name, value in zip(compiled.output_names, got, strict=True):
            _same(value, want[name])
            _same(meant[name], want[name])


# -- control flow ------------------------------------------------------------------------------


def test_three_levels_capture_from_all_others(lab: Any) -> None:
    check(lab, """g (int64 n, float[K] x, bool c) => (float[K] y, float[A, B] z) {
      t = Constant<value: tensor = bool true {1}>()
      y, z = Loop(n, t, x) <body: graph = outer (int64 i, bool ci, float[K] s)
            => (bool co, float[K] so, float[K] o) {
        co = Identity(ci)
        so = If(c) <then_branch: graph = yes () => (float[K] r1) {
            r1 = Loop(i, ci, s) <body: graph = inner (int64 j, bool cj, float[K] q)
                  => (bool cjo, float[K] qo) {
              cjo = Identity(cj)  jf = Cast<to = 1>(j)  jx = Mul(jf, x)  qo = Add(q, jx) }>
          }, else_branch: graph = no () => (float[K] r2) { r2 = Mul(s, x) }>
        o = Sub(so, x) }>
    }""", *({"n": _i(n), "x": _f(1, 2, 3), "c": c} for n in (0, 1, 4) for c in (YES, NO)))


def test_condition_false_at_the_start_and_no_count(lab: Any) -> None:
    check(lab, """g (bool c, float[K] x) => (float[K] y, float[A, B] z) {
      y, z = Loop( , c, x) <body: graph = b (int64 i, bool ci, float[K] s)
            => (bool co, float[K] so, float[K] o) {
        so = Add(s, x)  m = ReduceSum<keepdims = 0>(so)  l = Constant<value = float {20}>()
        co = Less(m, l)  o = Identity(s) }>
    }""", {"c": NO, "x": _f(1, 2)}, {"c": YES, "x": _f(1, 2)})


def test_sizes_that_data_decides_in_every_iteration(lab: Any) -> None:
    check(lab, """g (int64 n, float[K] x) => (float[M] y, seq(float[N]) q) {
      t = Constant<value: tensor = bool true {1}>()  q0 = SequenceEmpty()
      y, q = Loop(n, t, x, q0) <body: graph = b (int64 i, bool ci, float[Q] s, seq(float[N]) qi)
            => (bool co, float[R] so, seq(float[N]) qo) {
        co = Identity(ci)  one = Constant<value = float {1}>()  less = Sub(s, one)
        zero = Constant<value = float {0}>()  k = Greater(less, zero)
        so = Compress<axis = 0>(less, k)  qo = SequenceInsert(qi, so) }>
    }""", *({"n": _i(n), "x": _f(1, 2, 5, 3.5)} for n in (0, 1, 3, 9)))


def test_strings_as_state_item_and_result(lab: Any) -> None:
    text = """g (int64 n, bool c, string[K] x) => (string[M] y, string[P] w) {
      t = Constant<value: tensor = bool true {1}>()
      y = Loop(n, t, x) <body: graph = b (int64 i, bool ci, string[Q] s)
            => (bool co, string[R] so) { co = Identity(ci)  so = Concat<axis = 0>(s, x) }>
      w = If(c) <then_branch: graph = yes () => (string[N] a) { a = Concat<axis = 0>(x, x) },
                 else_branch: graph = no () => (string[N] b) { b = Identity(x) }>
    }"""
    words = np.array(["a", "b"], object)
    check(lab, text, *({"n": _i(n), "c": c, "x": words} for n in (0, 2) for c in (YES, NO)))


def test_stacked_strings() -> None:
    """ONNX Runtime 1.32 leaves all but the first item empty."""
    model = _model("""g (int64 n, string[K] x) => (string[A, B] z) {
      t = Constant<value: tensor = bool true {1}>()
      z = Loop(n, t) <body: graph = b (int64 i, bool ci) => (bool co, string[K] o) {
        co = Identity(ci)  o = Identity(x) }>
    }""")
    compiled, words = evonnx.compile(model, cache=False), np.array(["a", "b"], object)
    for n in (0, 3):
        (got,) = compiled.run(None, {"n": _i(n), "x": words})
        assert got.tolist() == [["a", "b"]] * n
        assert got.shape == (n, 2)


def test_functions_with_defaults_overrides_and_subgraphs() -> None:
    model = _model("""g (float[K] x, bool c) => (float[K] y, float[K] z, float[K] u) {
      y = local.f(x)  z = local.g<a: float = 5.0>(x, c)  u = local.h(x) }
    <domain: "local", opset_import: ["": 18, "local": 1]> f<a: float = 2.0, k: int = 3>(q) => (b) {
      c = Constant<value_float: float = @a>()  i = Constant<value_int: int = @k>()
      f = Cast<to = 1>(i)  d = Mul(q, c)  b = Add(d, f) }
    <domain: "local", opset_import: ["": 18, "local": 1]> g<a>(q, c) => (b) {
      b = If(c) <then_branch: graph = t () => (float[K] r) { r = local.f<a: float = @a>(q) },
                 else_branch: graph = e () => (float[K] r) {
                   k = Constant<value_float: float = @a>()  r = Sub(q, k) }> }
    <domain: "local", opset_import: ["": 18, "local": 1]> h(q, w) => (b, d) {
      b = Clip(q, w)  d = Identity(q) }
    """)
    compiled = evonnx.compile(model, cache=False)
    for c, z in ((YES, [8, 13]), (NO, [-4, -3])):
        got = compiled.run(None, {"x": _f(1, 2), "c": c})
        assert [a.tolist() for a in got] == [[5, 7], z, [1, 2]]


# -- sequences ---------------------------------------------------------------------------------


def test_sequence_operations(lab: Any) -> None:
    text = """g (seq(float[N]) x, int64 i) => (float[M] y, seq(float[N]) e, seq(float[N]) w,
                                               float[Q] j, int64 n) {
      y = SequenceAt(x, i)  e = SequenceErase(x, i)  w = SequenceInsert(x, y, i)
      j = ConcatFromSequence<axis = 0>(w)  n = SequenceLength(e) }"""
    check(lab, text, *({"x": [_f(1, 2), _f(3)], "i": _i(i)} for i in (1, 0, -2)))
    compiled = evonnx.compile(_model(text), cache=False)
    with pytest.raises(ModelError, match="position 5 of a sequence of 2"):
        compiled.run(None, {"x": [_f(1, 2), _f(3)], "i": _i(5)})


def test_a_function_mapped_over_a_sequence(lab: Any) -> None:
    check(lab, """g (seq(float[N]) x, float[K] k) => (seq(float[N]) y) {
      y = SequenceMap(x, k) <body: graph = b (float[N] e, float[K] c) => (float[M] o) {
        o = Concat<axis = 0>(e, c) }> }""",
        {"x": [_f(1, 2), _f(3)], "k": _f(9)}, {"x": [], "k": _f(9)})  # fmt: skip


def test_an_empty_sequence_meets_a_full_one(lab: Any) -> None:
    check(lab, """g (bool c, float[K] x) => (seq(float[N]) y, int64 n) {
      y = If(c) <then_branch: graph = a () => (seq(float[N]) p) { p = SequenceConstruct(x, x) },
                 else_branch: graph = b () => (seq(float[N]) q) { q = SequenceEmpty() }>
      n = SequenceLength(y) }""", {"c": YES, "x": _f(1, 2)}, {"c": NO, "x": _f(1, 2)})


def test_sequences_of_scalars_and_of_strings(lab: Any) -> None:
    check(lab, """g (int64 n, string[K] x) => (float[A] z, seq(string[K]) w) {
      t = Constant<value: tensor = bool true {1}>()  q = SequenceEmpty()
      r = SequenceEmpty<dtype = 8>()
      s, w = Loop(n, t, q, r) <body: graph = b (int64 i, bool ci, seq(float) s, seq(string[K]) v)
            => (bool co, seq(float) so, seq(string[K]) vo) {
        co = Identity(ci)  j = Cast<to = 1>(i)  so = SequenceInsert(s, j)
        vo = SequenceInsert(v, x) }>
      z = ConcatFromSequence<axis = 0, new_axis = 1>(s) }""",
      {"n": _i(3), "x": np.array(["a"], object)})  # fmt: skip


def test_elements_of_any_rank(lab: Any) -> None:
    """Nothing is known of them, and nothing has to be to insert and to count."""
    model = _model("""g (seq(float[N]) x, float[K, K] v) => (seq(float[M]) y, int64 n) {
      y = SequenceInsert(x, v)  n = SequenceLength(y) }""")
    model.graph.input[0].type.sequence_type.elem_type.tensor_type.ClearField("shape")
    model.graph.output[0].type.sequence_type.elem_type.tensor_type.ClearField("shape")
    compiled = evonnx.compile(model, cache=False)
    given = [_f(1, 2), np.zeros((1, 2, 3), np.float32), np.float32(4)]
    (got, n) = compiled.run(None, {"x": given, "v": np.eye(2, dtype=np.float32)})
    assert [a.shape for a in got] == [(2,), (1, 2, 3), (), (2, 2)]
    assert int(n) == 4
    assert not np.shares_memory(got[0], given[0])


def test_the_rank_of_elements_can_be_given() -> None:
    model = _model("g (seq(float[N]) x, int64 i) => (float[M] y) { y = SequenceAt(x, i) }")
    model.graph.input[0].type.sequence_type.elem_type.tensor_type.ClearField("shape")
    with pytest.raises(UnsupportedError, match="no rank that is known"):
        evonnx.compile(model, cache=False)
    compiled = evonnx.compile(model, cache=False, shapes={"x": (2, "n")})
    feeds = {"x": [np.ones((2, 3), np.float32)], "i": _i(0)}
    assert compiled.run(None, feeds)[0].shape == (2, 3)
    with pytest.raises(FeedError, match="shape"):
        compiled.run(None, {**feeds, "x": [_f(1)]})


# -- optionals ---------------------------------------------------------------------------------


def test_optionals_that_are_fed(lab: Any) -> None:
    check(lab, """g (optional(float[N]) x, optional(seq(float[N])) q)
          => (float[M] y, bool h, int64 n) {
      h = OptionalHasElement(x)  k = OptionalHasElement(q)
      y = If(h) <then_branch: graph = t () => (float[N] a) { a = OptionalGetElement(x) },
                 else_branch: graph = e () => (float[N] b) { b = Constant<value = float[1] {7}>() }>
      n = If(k) <then_branch: graph = t2 () => (int64 c) {
                   s = OptionalGetElement(q)  c = SequenceLength(s) },
                 else_branch: graph = e2 () => (int64 d) { d = Constant<value = int64 {-1}>() }>
    }""", *({"x": x, "q": q} for x in (_f(1, 2), None) for q in ([_f(1), _f(2, 3)], [], None)))


def test_an_absent_optional_may_be_left_out() -> None:
    compiled = evonnx.compile(
        _model("g (optional(float[N]) x) => (bool h) { h = OptionalHasElement(x) }"), cache=False)
    assert not compiled.run(None, {})[0]
    assert compiled.run(None, {"x": _f(1)})[0]
    with pytest.raises(FeedError, match="unknown"):
        compiled.run(None, {"y": _f(1)})


def test_optionals_that_are_answered(lab: Any) -> None:
    check(lab, """g (bool c, float[K] x) => (optional(float[K]) y) {
      y = If(c) <then_branch: graph = t () => (optional(float[K]) a) { a = Optional(x) },
                 else_branch: graph = e () => (optional(float[K]) b) {
                   b = Optional<type = float[2]>() }> }""",
          {"c": YES, "x": _f(1, 2)}, {"c": NO, "x": _f(1, 2)})  # fmt: skip


def test_a_state_that_starts_absent(lab: Any) -> None:
    head = """g (int64 n, float[K] x) => (optional(float[K]) y) {
      t = Constant<value: tensor = bool true {1}>()  o = Optional<type = float[2]>()
      y = Loop(n, t, o) <body: graph = b (int64 i, bool ci, optional(float[K]) s)
            => (bool co, optional(float[K]) so) { co = Identity(ci)  so = Optional(x) }> }"""
    check(lab, head, {"n": _i(0), "x": _f(1, 2)}, {"n": _i(2), "x": _f(1, 2)})


def test_getting_what_is_absent_is_an_error() -> None:
    text = "g (optional(float[N]) x) => (float[M] y) { y = OptionalGetElement(x) }"
    compiled = evonnx.compile(_model(text), cache=False)
    assert compiled.run(None, {"x": _f(1, 2)})[0].tolist() == [1, 2]
    with pytest.raises(ModelError, match="holds nothing"):
        compiled.run(None, {"x": None})


# -- feeds that do not fit ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("declared", "bad"),
    [("seq(float[N])", _f(1)), ("seq(float[N])", [np.zeros(2)]), ("seq(float[2])", [_f(1, 2, 3)]),
     ("seq(float[N])", [np.zeros((1, 1), np.float32)]), ("seq(string[N])", [_f(1)]),
     ("optional(float[2])", _f(1)), ("optional(seq(float[N]))", _f(1)), ("seq(float[N])", None)],
)  # fmt: skip
def test_feeds_that_do_not_fit(declared: str, bad: Any) -> None:
    model = _model(f"g ({declared} x) => ({declared} y) {{ y = Identity(x) }}")
    compiled = evonnx.compile(model, cache=False)
    with pytest.raises(FeedError, match="'x'"):
        compiled.run(None, {"x": bad})


def test_tensors_of_different_types_are_an_error() -> None:
    text = """g (float[K] x, int64[K] v) => (seq(float[K]) y) {
      q = SequenceConstruct(x)  y = SequenceInsert(q, v) }"""
    with pytest.raises(ModelError, match="a sequence is f32"):
        evonnx.compile(_model(text), cache=False)
