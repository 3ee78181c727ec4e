"""Adjoints of scalar functions, reductions and products: what ``gradient`` asks per op.

A rule takes a ``Backward`` (operands x, results y, adjoints g of the results) and answers one
adjoint per operand, None where nothing flows back. The formulas are the derivatives of calculus;
where a function has a kink (relu at 0) the derivative is that of the flat side, and where several
elements are the extreme they share the adjoint equally.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..ir.builder import Builder
from ..ir.dims import Dim, product
from ..ir.errors import UnsupportedError
from ..ir.graph import Attrs, Value


@dataclass(frozen=True, slots=True)
class Backward:
    """One op on the way back."""

    b: Builder
    attrs: Attrs
    xs: tuple[Value | None, ...]
    ys: tuple[Value, ...]
    gs: tuple[Value | None, ...]
    wants: tuple[bool, ...]
    """Which operands need an adjoint."""

    def x(self, k: int = 0) -> Value:
        """Operand ``k``."""
        value = self.xs[k]
        assert value is not None
        return value

    @property
    def y(self) -> Value:
        """The first result."""
        return self.ys[0]

    @property
    def g(self) -> Value:
        """Adjoint of the first result."""
        found = self.gs[0]
        return zeros_like(self.b, self.ys[0]) if found is None else found

    def op(self, name: str, *inputs: Any, **attrs: Any) -> Value:
        """One op with one result."""
        result: Value = self.b.op(name, *inputs, **attrs)
        return result


Rule = Callable[[Backward], Sequence[Value | None]]
RULES: dict[str, Rule] = {}
"""Op -> its adjoints."""


def rule(*names: str) -> Callable[[Rule], Rule]:
    """Registers the decorated rule."""

    def add(fn: Rule) -> Rule:
        for name in names:
            RULES[name] = fn
        return fn

    return add


def zeros_like(b: Builder, v: Value) -> Value:
    """Zeros of the type of ``v``."""
    result: Value = b.op("expand", b.const(np.zeros((), v.dtype.np)), shape=v.shape)
    return result


def reduced_to(b: Builder, g: Value, shape: tuple[Dim, ...]) -> Value:
    """The adjoint of broadcasting ``shape`` to that of ``g``: sums over the repeated axes."""
    skip = g.rank - len(shape)
    axes = list(range(skip))
    for k, d in enumerate(shape):
        if d == g.shape[skip + k]:
            continue
        if d != 1:
            raise UnsupportedError(f"whether {d} is broadcast to {g.shape[skip + k]} is not known")
        axes.append(skip + k)
    if axes:
        g = b.op("reduce", g, kind="sum", axes=tuple(axes), keepdims=True)
    return g if g.shape == shape else b.op("reshape", g, shape=shape)


# -- functions of one number ---------------------------------------------------------------------


def _square(w: Backward, v: Value) -> Value:
    return w.op("mul", v, v)


def _from_one(w: Backward, v: Value) -> Value:
    """1 - v."""
    return w.op("sub", w.b.const(1.0, v.dtype), v)


def _bell(w: Backward, c: float) -> Value:
    """The adjoint where the derivative is ``c e^(-x^2)``."""
    return w.op("mul", w.op("mul", w.g, c), w.op("exp", w.op("neg", _square(w, w.x()))))


_UNARY: dict[str, Callable[[Backward], Value]] = {
    "neg": lambda w: w.op("neg", w.g),
    "abs": lambda w: w.op("mul", w.g, w.op("sign", w.x())),
    "sqrt": lambda w: w.op("div", w.op("mul", w.g, 0.5), w.y),
    "exp": lambda w: w.op("mul", w.g, w.y),
    "log": lambda w: w.op("div", w.g, w.x()),
    "sin": lambda w: w.op("mul", w.g, w.op("cos", w.x())),
    "cos": lambda w: w.op("neg", w.op("mul", w.g, w.op("sin", w.x()))),
    "tan": lambda w: w.op("mul", w.g, w.op("add", _square(w, w.y), 1.0)),
    "asin": lambda w: w.op("div", w.g, w.op("sqrt", _from_one(w, _square(w, w.x())))),
    "acos": lambda w: w.op("neg", w.op("div", w.g, w.op("sqrt", _from_one(w, _square(w, w.x()))))),
    "atan": lambda w: w.op("div", w.g, w.op("add", _square(w, w.x()), 1.0)),
    "sinh": lambda w: w.op("mul", w.g, w.op("cosh", w.x())),
    "cosh": lambda w: w.op("mul", w.g, w.op("sinh", w.x())),
    "tanh": lambda w: w.op("mul", w.g, _from_one(w, _square(w, w.y))),
    "asinh": lambda w: w.op("div", w.g, w.op("sqrt", w.op("add", _square(w, w.x()), 1.0))),
    "acosh": lambda w: w.op("div", w.g, w.op("sqrt", w.op("sub", _square(w, w.x()), 1.0))),
    "atanh": lambda w: w.op("div", w.g, _from_one(w, _square(w, w.x()))),
    "erf": lambda w: _bell(w, 2.0 / math.sqrt(math.pi)),
    "erfc": lambda w: _bell(w, -2.0 / math.sqrt(math.pi)),
    "sigmoid": lambda w: w.op("mul", w.g, w.op("mul", w.y, _from_one(w, w.y))),
    "reciprocal": lambda w: w.op("neg", w.op("mul", w.g, _square(w, w.y))),
    "relu": lambda w: w.op("select", w.op("lt", w.b.const(0.0, w.x().dtype), w.x()), w.g, 0.0),
    "cast": lambda w: w.op("cast", w.g, to=w.x().dtype),
}  # fmt: skip
for _name, _derivative in _UNARY.items():
    RULES[_name] = lambda w, f=_derivative: (f(w),)  # type: ignore[misc]


# -- functions of two numbers --------------------------------------------------------------------


def _pair(w: Backward, a: Value | None, c: Value | None) -> tuple[Value | None, ...]:
    return tuple(
        None if v is None or not wanted else reduced_to(w.b, v, w.x(k).shape)
        for k, (v, wanted) in enumerate(zip((a, c), w.wants, strict=True))
    )


@rule("add")
def _add(w: Backward) -> Sequence[Value | None]:
    return _pair(w, w.g, w.g)


@rule("sub")
def _sub(w: Backward) -> Sequence[Value | None]:
    return _pair(w, w.g, w.op("neg", w.g))


@rule("mul")
def _mul(w: Backward) -> Sequence[Value | None]:
    return _pair(w, w.op("mul", w.g, w.x(1)), w.op("mul", w.g, w.x(0)))


@rule("div")
def _div(w: Backward) -> Sequence[Value | None]:
    share = w.op("div", w.g, w.x(1))
    return _pair(w, share, w.op("neg", w.op("mul", share, w.y)))


@rule("pow")
def _pow(w: Backward) -> Sequence[Value | None]:
    x, e = w.x(0), w.x(1)
    exponent = e if e.dtype == x.dtype else w.op("cast", e, to=x.dtype)
    below = w.op("pow", x, w.op("sub", exponent, 1.0))
    zero = w.b.const(0.0, x.dtype)
    slope = w.op("select", w.op("eq", exponent, zero), zero, w.op("mul", below, exponent))
    by_exponent = None
    if w.wants[1]:
        growth = w.op("mul", w.y, w.op("log", x))
        by_exponent = w.op("mul", w.g, w.op("select", w.op("eq", w.y, zero), zero, growth))
    return _pair(w, w.op("mul", w.g, slope), by_exponent)


@rule("max", "min")
def _extreme(w: Backward) -> Sequence[Value | None]:
    half = w.op("mul", w.g, 0.5)
    tie = w.op("eq", w.x(0), w.x(1))
    parts = []
    for x in (w.x(0), w.x(1)):
        won = w.op("select", w.op("eq", x, w.y), w.g, 0.0)
        parts.append(w.op("select", tie, half, won))
    return _pair(w, *parts)


@rule("mod", "fmod")
def _mod(w: Backward) -> Sequence[Value | None]:
    times = w.op("round", w.op("div", w.op("sub", w.x(0), w.y), w.x(1)))
    return _pair(w, w.g, w.op("neg", w.op("mul", w.g, times)))


@rule("select")
def _select(w: Backward) -> Sequence[Value | None]:
    kept = w.op("select", w.x(0), w.g, 0.0)
    other = w.op("select", w.op("not", w.x(0)), w.g, 0.0)
    return (None, reduced_to(w.b, kept, w.x(1).shape), reduced_to(w.b, other, w.x(2).shape))


# -- reductions ----------------------------------------------------------------------------------


def _spread(w: Backward, v: Value) -> Value:
    """A value of the reduced shape, over the shape before."""
    x = w.x()
    axes = w.attrs["axes"]
    kept = tuple(1 if k in axes else d for k, d in enumerate(x.shape))
    v = v if v.shape == kept else w.op("reshape", v, shape=kept)
    return w.op("expand", v, shape=x.shape)


@rule("reduce")
def _reduce(w: Backward) -> Sequence[Value | None]:
    kind, x, axes = w.attrs["kind"], w.x(), w.attrs["axes"]
    if kind == "sum":
        return (_spread(w, w.g),)
    if kind == "mean":
        count = w.b.dims([product(x.shape[a] for a in axes)], scalar=True)
        return (_spread(w, w.op("div", w.g, w.op("cast", count, to=x.dtype))),)
    if kind in ("max", "min"):
        hit = w.op("cast", w.op("eq", x, _spread(w, w.y)), to=x.dtype)
        shares = w.op("reduce", hit, kind="sum", axes=axes, keepdims=True)
        return (w.op("mul", hit, w.op("div", _spread(w, w.g), shares)),)
    return (_product(w),)


def _product(w: Backward) -> Value:
    """Every factor's adjoint is the product of the others: those before it times those after."""
    x, axes = w.x(), tuple(w.attrs["axes"])
    perm = (*(k for k in range(x.rank) if k not in axes), *axes)
    lead = tuple(x.shape[k] for k in perm[: x.rank - len(axes)])
    moved = w.op("transpose", x, perm=perm)
    rows = w.op("reshape", moved, shape=(*lead, product(x.shape[a] for a in axes)))
    parts = [w.op("cumulate", rows, kind="prod", axis=rows.rank - 1, exclusive=True, reverse=r)
             for r in (False, True)]  # fmt: skip
    others = w.op("reshape", w.op("mul", *parts), shape=moved.shape)
    back = tuple(perm.index(k) for k in range(x.rank))
    return w.op("mul", _spread(w, w.g), w.op("transpose", others, perm=back))


@rule("cumulate")
def _cumulate(w: Backward) -> Sequence[Value | None]:
    if w.attrs["kind"] != "sum":
        raise UnsupportedError("no derivative of a running product is known; of a sum it is")
    return (w.op("cumulate", w.g, **{**w.attrs, "reverse": not w.attrs["reverse"]}),)


# -- products ------------------------------------------------------------------------------------


@rule("dot")
def _dot(w: Backward) -> Sequence[Value | None]:
    a, c, ta, tb = w.x(0), w.x(1), w.attrs["ta"], w.attrs["tb"]
    g = w.g if w.g.dtype == a.dtype else w.op("cast", w.g, to=a.dtype)
    left = w.op("dot", c, g, ta=tb, tb=True) if ta else w.op("dot", g, c, ta=False, tb=not tb)
    right = w.op("dot", g, a, ta=True, tb=ta) if tb else w.op("dot", a, g, ta=not ta, tb=False)
    return _pair(w, left, right)


@rule("det")
def _det(w: Backward) -> Sequence[Value | None]:
    """Jacobi: d det(A) = det(A) tr(A^-1 dA)."""
    x = w.x()
    scale = w.op("reshape", w.op("mul", w.g, w.y), shape=(*x.shape[:-2], 1, 1))
    perm = (*range(x.rank - 2), x.rank - 1, x.rank - 2)
    return (w.op("mul", scale, w.op("transpose", w.op("inverse", x), perm=perm)),)


@rule("inverse")
def _inverse(w: Backward) -> Sequence[Value | None]:
    inner = w.op("dot", w.y, w.g, ta=True, tb=False)
    return (w.op("neg", w.op("dot", inner, w.y, ta=False, tb=True)),)


# -- convolutions --------------------------------------------------------------------------------


def _plain_layout(w: Backward) -> tuple[Dim, ...]:
    """Spatial sizes of the image; rules are written for channels in front."""
    if w.attrs["layout"] != "first":
        raise UnsupportedError("derivatives are known of images with channels in front only")
    return w.x().shape[2:]


def _image_adjoint(w: Backward, g: Value, weights: Value) -> Value:
    """Adjoint of the image of a convolution: the transposed convolution of ``g``."""
    a = w.attrs
    extra = tuple(
        (d + lo + hi - ((k - 1) * dil + 1)) % s
        for d, k, s, dil, lo, hi in zip(
            _plain_layout(w), weights.shape[2:], a["strides"], a["dilations"], a["pads_lo"],
            a["pads_hi"], strict=True)
    )  # fmt: skip
    return w.op(
        "conv_transpose", g, weights, strides=a["strides"], dilations=a["dilations"],
        pads_lo=a["pads_lo"], pads_hi=a["pads_hi"], groups=a["groups"], layout="first",
        output_padding=extra,
    )  # fmt: skip


def _weights_adjoint(w: Backward, image: Value, g: Value, like: Value) -> Value:
    """Adjoint of the weights [M, C/G, K]: a convolution of the image by ``g``, whose strides and
    dilations are exchanged and whose batch is summed over as channels."""
    a, groups = w.attrs, w.attrs["groups"]
    n, c, *sizes = image.shape
    rows = w.op("reshape", image, shape=(n, groups, c // groups, *sizes))
    rest = tuple(range(3, rows.rank))
    rows = w.op("transpose", rows, perm=(2, 1, 0, *rest))
    rows = w.op("reshape", rows, shape=(c // groups, groups * n, *sizes))
    swap = (1, 0, *range(2, image.rank))
    found = w.op(
        "conv", rows, w.op("transpose", g, perm=swap), strides=a["dilations"],
        dilations=a["strides"], pads_lo=a["pads_lo"], pads_hi=a["pads_hi"], groups=groups,
        layout="first",
    )  # fmt: skip
    sizes = [*found.shape[:2], *like.shape[2:]]
    found = w.op("slice", found, starts=(0,) * image.rank, sizes=sizes, steps=(1,) * image.rank)
    return w.op("transpose", found, perm=swap)


@rule("conv")
def _conv(w: Backward) -> Sequence[Value | None]:
    return (_image_adjoint(w, w.g, w.x(1)) if w.wants[0] else None,
            _weights_adjoint(w, w.x(0), w.g, w.x(1)) if w.wants[1] else None)  # fmt: skip


@rule("conv_transpose")
def _conv_transpose(w: Backward) -> Sequence[Value | None]:
    x, weights, a = w.x(0), w.x(1), w.attrs
    _plain_layout(w)
    image = None
    if w.wants[0]:
        names = ("strides", "dilations", "pads_lo", "pads_hi", "groups", "layout")
        image = w.op("conv", w.g, weights, **{k: a[k] for k in names})
        image = w.op("slice", image, starts=(0,) * x.rank, sizes=x.shape, steps=(1,) * x.rank)
    return (image, _weights_adjoint(w, w.g, x, weights) if w.wants[1] else None)


@rule("pool")
def _pool(w: Backward) -> Sequence[Value | None]:
    x, a = w.x(), w.attrs
    sizes = _plain_layout(w)
    n, c = x.shape[:2]
    if a["kind"] == "max":
        names = ("kernel", "strides", "dilations", "pads_lo", "pads_hi")
        at = w.op("pool_argmax", x, column_major=False, **{k: a[k] for k in names})
        flat = (product(x.shape),)
        moved = [w.op("reshape", v, shape=(product(v.shape),)) for v in (at, w.g)]
        empty = w.op("reshape", zeros_like(w.b, x), shape=flat)
        filled = w.op("scatter_elements", empty, *moved, axis=0, reduction="add")
        return (w.op("reshape", filled, shape=x.shape),)
    rows = w.op("reshape", w.g, shape=(n * c, 1, *w.g.shape[2:]))
    ones = w.b.const(np.ones((1, 1, *a["kernel"]), x.dtype.np))
    wide = Backward(w.b, Attrs({**a, "groups": 1}.items()),
                    (w.op("reshape", x, shape=(n * c, 1, *sizes)),), (), (), ())  # fmt: skip
    return (w.op("reshape", _image_adjoint(wide, rows, ones), shape=x.shape),)
