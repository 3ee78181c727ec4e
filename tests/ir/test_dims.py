"""Laws of symbolic dimensions: what simplification says holds for every binding of the symbols."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evonnx.ir.axes import Axis, places
from evonnx.ir.dim_functions import bcast, ceil_div, dmax, dmin, known_ge, within
from evonnx.ir.dim_parser import parse_dim
from evonnx.ir.dim_values import evaluate, substitute
from evonnx.ir.dims import Dim, Expr, free_symbols, product, sym, var
from evonnx.ir.errors import EvonnxError, ModelError, ParseError

NAMES = ("a", "b", "c", "N.1")
Pair = tuple[Dim, Callable[[dict[str, int]], int]]
"""A dimension, and the same formula on integers."""


def leaves() -> st.SearchStrategy[Pair]:
    symbols = st.sampled_from(NAMES).map(lambda n: (sym(n), lambda e, n=n: e[n]))
    numbers = st.integers(0, 7).map(lambda k: (k, lambda e, k=k: k))
    return symbols | numbers


def combine(children: st.SearchStrategy[Pair]) -> st.SearchStrategy[Pair]:
    def node(op: str, x: Pair, y: Pair) -> Pair:
        (a, f), (b, g) = x, y
        return {
            "+": lambda: (a + b, lambda e: f(e) + g(e)),
            "-": lambda: (a - b, lambda e: f(e) - g(e)),
            "*": lambda: (a * b, lambda e: f(e) * g(e)),
            "max": lambda: (dmax(a, b), lambda e: max(f(e), g(e))),
            "min": lambda: (dmin(a, b), lambda e: min(f(e), g(e))),
        }[op]()

    def divided(x: Pair, d: int, name: str | None, product: bool, how: str) -> Pair:
        a, f = x
        by: Dim = d if name is None else sym(name) * d + (0 if product else 1)
        rest = 0 if product else 1
        size = (lambda e: d) if name is None else (lambda e: e[name] * d + rest)
        if how == "//":
            return a // by, lambda e: f(e) // size(e)
        return a % by, lambda e: f(e) % size(e)

    binary = st.builds(node, st.sampled_from(["+", "-", "*", "max", "min"]), children, children)
    division = st.builds(
        divided, children, st.integers(1, 6), st.sampled_from([None, None, *NAMES]),
        st.booleans(), st.sampled_from(["//", "%"]),
    )  # fmt: skip
    return binary | division


formulas = st.recursive(leaves(), combine, max_leaves=9)
bindings = st.fixed_dictionaries({n: st.integers(0, 9) for n in NAMES})


@settings(max_examples=400, deadline=None)
@given(formulas, bindings)
def test_canonical_form_keeps_the_value(pair: Pair, at: dict[str, int]) -> None:
    dim, formula = pair
    try:
        wanted = formula(at)
    except ZeroDivisionError:
        return
    assert evaluate(dim, at) == wanted


@settings(max_examples=200, deadline=None)
@given(formulas)
def test_text_reads_back(pair: Pair) -> None:
    dim = pair[0]
    assert parse_dim(str(dim)) == dim
    assert str(parse_dim(str(dim))) == str(dim)


@settings(max_examples=200, deadline=None)
@given(formulas, formulas, bindings)
def test_substitution_commutes_with_evaluation(x: Pair, y: Pair, at: dict[str, int]) -> None:
    try:
        inner = y[1](at)
        x[1]({**at, "a": inner})
    except ZeroDivisionError:
        return
    if inner >= 0:
        changed = substitute(x[0], {"a": y[0]})
        assert evaluate(changed, at) == evaluate(x[0], {**at, "a": inner})
        assert free_symbols(changed) <= free_symbols(x[0]) | free_symbols(y[0])


sizes = st.recursive(
    leaves(),
    lambda c: st.builds(
        lambda x, y, k: {
            0: (x[0] + y[0], lambda e: x[1](e) + y[1](e)),
            1: (x[0] * y[0], lambda e: x[1](e) * y[1](e)),
            2: ((x[0] - 1) // 2 + 1, lambda e: (x[1](e) - 1) // 2 + 1),
            3: (ceil_div(x[0], 3), lambda e: -(-x[1](e) // 3)),
            4: (dmax(x[0] - y[0], 0), lambda e: max(x[1](e) - y[1](e), 0)),
            5: (x[0] % (sym("b") + 1), lambda e: x[1](e) % (e["b"] + 1)),
            6: (dmin(x[0] + 1, y[0]), lambda e: min(x[1](e) + 1, y[1](e))),
        }[k],
        c, c, st.integers(0, 6),
    ),
    max_leaves=6,
)  # fmt: skip


@settings(max_examples=300, deadline=None)
@given(sizes, sizes, bindings)
def test_known_order_holds(x: Pair, y: Pair, at: dict[str, int]) -> None:
    """What is claimed about formulas of sizes (window sizes among them) is never wrong."""
    if known_ge(x[0], y[0]):
        assert x[1](at) >= y[1](at)


# -- loop variables ------------------------------------------------------------------------------


def loops(draw: Any) -> tuple[list[Dim], list[Dim], dict[str, int]]:
    """Extents (constants, symbols, products), their variables, and a point inside the loops."""
    at = {n: draw(st.integers(1, 4)) for n in NAMES}
    choices = [1, 2, 3, 4, 6, sym("a"), sym("b"), sym("a") * 2, sym("a") * sym("b"), sym("c") + 1]
    extents = [draw(st.sampled_from(choices)) for _ in range(draw(st.integers(1, 4)))]
    variables = [var(f"i{k}", e) for k, e in enumerate(extents)]
    for k, e in enumerate(extents):
        at[f"i{k}"] = draw(st.integers(0, evaluate(e, at) - 1))
    return extents, variables, at


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_split_and_merge(data: st.DataObject) -> None:
    """Linear positions split and merged again come back, and every step has the right value."""
    extents, variables, at = loops(data.draw)
    linear: Dim = 0
    for e, v in zip(extents, variables, strict=True):
        linear = linear * e + v
    value = evaluate(linear, at)
    cut = data.draw(st.integers(0, len(extents)))
    by = product(extents[cut:])
    assert evaluate(linear // by, at) == value // evaluate(by, at)
    assert evaluate(linear % by, at) == value % evaluate(by, at)
    assert linear // by * by + linear % by == linear
    other = data.draw(st.sampled_from([2, 3, 5, sym("a"), sym("b"), sym("c") * 2, sym("a") + 1]))
    assert evaluate(linear // other, at) == value // evaluate(other, at)
    assert evaluate(linear % other, at) == value % evaluate(other, at)
    assert evaluate(linear // other * other + linear % other, at) == value


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_a_number_taken_apart_and_put_together_again(data: st.DataObject) -> None:
    """Row-major places of a number give it back, whatever the outermost extent."""
    sizes: list[Dim] = [data.draw(st.integers(2, 7)) for _ in range(data.draw(st.integers(1, 3)))]
    sizes.insert(0, data.draw(st.sampled_from([4, sym("a"), sym("a") * sym("b")])))
    number = var("r", product(sizes))
    axes = [Axis(var(f"k{k}", size), size) for k, size in enumerate(sizes)]
    found = places(axes, number)
    step = data.draw(st.sampled_from([1, 3, sym("c")]))
    together: Dim = 0
    for k, size in enumerate(sizes):
        together = together * size + found[f"k{k}"] * step
    assert together == number * step


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_within_never_lies(data: st.DataObject) -> None:
    extents, variables, at = loops(data.draw)
    d: Dim = data.draw(st.integers(-6, 6))
    for v in variables:
        d = d + v * data.draw(st.sampled_from([-2, -1, 0, 1, 1, 2, sym("a")]))
    how = data.draw(st.sampled_from(["", "//", "%", "max", "min"]))
    k = data.draw(st.sampled_from([2, 3, sym("a"), sym("b") + 1]))
    d = {"": lambda: d, "//": lambda: d // k, "%": lambda: d % k, "max": lambda: dmax(d, k),
         "min": lambda: dmin(d, k)}[how]()  # fmt: skip
    lo = data.draw(st.sampled_from([0, -1, 2, sym("a") - 1]))
    hi = data.draw(st.sampled_from([1, 4, 9, *extents, sym("a") * sym("b"), sym("c") + 2]))
    claim = within(d, lo, hi)
    if claim is not None:
        assert claim == (evaluate(lo, at) <= evaluate(d, at) < evaluate(hi, at))


def test_a_merge_is_seen_through() -> None:
    h, d = var("h", sym("H")), var("d", 64)
    assert (h * 64 + d) // 64 == h
    assert (h * 64 + d) % 64 == d
    x = var("x", sym("H") * 64)
    assert x // 64 * 64 + x % 64 == x
    n, m = sym("n"), sym("m")
    i, j = var("i", n), var("j", m)
    assert (i * m + j) // m == i
    assert (i * m + j) % m == j


# -- broadcasting --------------------------------------------------------------------------------


@settings(max_examples=300, deadline=None)
@given(st.lists(st.sampled_from([1, 4, sym("a"), sym("b"), sym("c")]), min_size=1, max_size=4),
       st.fixed_dictionaries({n: st.sampled_from([1, 4]) for n in "abc"}))  # fmt: skip
def test_broadcast(parts: list[Dim], at: dict[str, int]) -> None:
    size: Dim = 1
    for p in parts:
        size = bcast(size, p)
    assert evaluate(size, at) == max(evaluate(p, at) for p in parts)
    backwards: Dim = 1
    for p in reversed(parts):
        backwards = bcast(backwards, p)
    assert size == backwards
    assert bcast(size, parts[0]) == size


def test_broadcast_refuses() -> None:
    with pytest.raises(ModelError):
        bcast(2, 3)
    with pytest.raises(ModelError):
        evaluate(bcast(sym("a"), sym("b")), {"a": 2, "b": 3})


# -- text that is not a dimension ----------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    ["", "a b", "a +", "(a", "a)", "1.5", "a // ", "max()", "max(a", "é", "a[0]", "__import__('x')",
     "(" * 5000 + "a" + ")" * 5000, "-" * 5000 + "a", "a**b", "9" * 5000, "2**64**64",
     "(a+b+c+d+e+f+g+h)**60", "a // 0", "a % 0", "**"],
)  # fmt: skip
def test_bad_text(text: str) -> None:
    with pytest.raises(EvonnxError):
        parse_dim(text)


@given(st.text(alphabet="ab1290+-*/%(), .maxinbcst", max_size=40))
def test_random_text(text: str) -> None:
    try:
        dim = parse_dim(text)
    except EvonnxError:
        return
    assert isinstance(dim, (int, Expr))
    assert parse_dim(str(dim)) == dim


def test_names() -> None:
    for bad in ("", "1a", "a b", "a-b", "a\n"):
        with pytest.raises(ParseError):
            sym(bad)
