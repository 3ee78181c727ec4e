"""Makers of the spellings that rewriting and fusion look for, and of near misses of them.

Every rule of the passes is invited by name somewhere here; the summary of a run lists the rules
that no graph reached.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from .basic import in_range
from .linear import _image
from .sketch import (
    BF16,
    BOOL,
    F16,
    F32,
    F64,
    I8,
    I16,
    I32,
    I64,
    INTEGERS,
    U8,
    UNSIGNED,
    Misfit,
    Sketch,
    Var,
    draw,
)


def _full(v: Var) -> bool:
    return v.known and all(0 not in t for t in v.shapes)


def _c(s: Sketch, value: float, like: Var) -> Var:
    """A constant of one number in one of the shapes it may have."""
    return s.scalar(value, like, s.choice(((), (), (1,), (1, 1))) if like.rank > 1 else ())


def _op(s: Sketch, kind: str, *operands: Var, **attrs: Any) -> Var:
    bound = max((v.bound for v in operands), default=np.inf) * 2 + 1
    return s.op(kind, list(operands), bound=bound, **attrs)


# -- identities of arithmetic --------------------------------------------------------------------

_SCALARS: tuple[tuple[str, Callable[[Sketch, Var], Any]], ...] = (
    ("add -0", lambda s, x: _op(s, "Add", x, _c(s, -0.0, x))),
    ("add 0", lambda s, x: _op(s, "Add", x, _c(s, 0.0, x))),
    ("sub 0", lambda s, x: _op(s, "Sub", x, _c(s, s.choice((0.0, -0.0)), x))),
    ("mul 1", lambda s, x: _op(s, "Mul", x, _c(s, 1, x))),
    ("mul 0", lambda s, x: _op(s, "Mul", x, _c(s, 0, x))),
    ("mul -1", lambda s, x: _op(s, "Mul", x, _c(s, -1, x))),
    ("div 1", lambda s, x: _op(s, "Div", x, _c(s, 1, x))),
    ("div 2^k", lambda s, x: _op(s, "Div", x, _c(s, 2.0 ** s.number(-5, 5), x))),
    ("div c", lambda s, x: _op(s, "Div", x, _c(s, s.choice((3.0, 0.7, -5.0)), x))),
    ("pow 1", lambda s, x: _op(s, "Pow", x, _c(s, 1, x))),
    ("pow 2", lambda s, x: _op(s, "Pow", s.tame(x, -30, 30), _c(s, 2, x))),
    ("pow 3", lambda s, x: _op(s, "Pow", s.tame(x, -30, 30), _c(s, 3, x))),
    ("neg neg", lambda s, x: _op(s, "Neg", _op(s, "Neg", x))),
    ("sub neg", lambda s, x: _op(s, "Sub", x, _op(s, "Neg", s.like(x)))),
    ("add neg", lambda s, x: _op(s, "Add", x, _op(s, "Neg", s.like(x)))),
    ("abs neg", lambda s, x: _op(s, "Abs", _op(s, "Neg", x))),
    ("abs abs", lambda s, x: _op(s, "Abs", _op(s, "Abs", x))),
    ("1 / x", lambda s, x: _op(s, "Div", _c(s, 1, x), _op(s, "Add", _op(s, "Abs", x),
                                                         _c(s, 0.1, x)))),
    ("add add", lambda s, x: _op(s, "Add", _op(s, "Add", x, _vector(s, x)), _vector(s, x))),
    ("mul mul", lambda s, x: _op(s, "Mul", _op(s, "Mul", x, _vector(s, x)), _vector(s, x))),
    ("max max", lambda s, x: _op(s, "Max", _op(s, "Max", x, _vector(s, x)), _vector(s, x))),
    ("min min", lambda s, x: _op(s, "Min", _op(s, "Min", x, _vector(s, x)), _vector(s, x))),
    ("max same", lambda s, x: _op(s, "Max", x, x)),
    ("min same", lambda s, x: _op(s, "Min", x, x)),
    ("max 0", lambda s, x: _op(s, "Max", x, _c(s, 0, x))),
    ("relu relu", lambda s, x: _op(s, "Relu", _op(s, "Relu", x))),
    ("floor floor", lambda s, x: _twice(s, "Floor", x)),
    ("ceil ceil", lambda s, x: _twice(s, "Ceil", x)),
    ("round round", lambda s, x: _twice(s, "Round", x)),
    ("sub same", lambda s, x: _op(s, "Sub", x, x)),
    ("select same", lambda s, x: _op(s, "Where", s.like(x, BOOL), x, x)),
    ("select not", lambda s, x: _op(s, "Where", _op(s, "Not", s.like(x, BOOL)), x, s.like(x))),
    ("select const", lambda s, x: _op(s, "Where", s.const(np.array(s.flag())), x, s.like(x))),
    ("expand left", lambda s, x: _expanded(s, x)),
)


def _vector(s: Sketch, x: Var) -> Var:
    """A constant along the last axis of ``x``, or one number."""
    if x.rank and x.fixed(x.rank - 1) and s.flag(0.6):
        law = ("special" if s.special and s.flag(0.3) else "normal") if x.floating else "small"
        return s.const(draw(law, x.dtype, (int(x.shape[-1] or 0),), s.rng))
    return _c(s, s.choice((2, 3, 1)) if not x.floating else s.choice((0.5, -1.25, 3.0)), x)


def _twice(s: Sketch, kind: str, x: Var) -> Var:
    return _op(s, kind, _op(s, kind, x))


def _expanded(s: Sketch, x: Var) -> Var:
    if not x.static:
        raise Misfit("sizes are open")
    shape = s.ints([int(d or 0) for d in x.shape])
    wide = _op(s, "Expand", s.like(x), shape)
    if s.flag(0.3):
        wide = _op(s, "Expand", wide, shape)
    return _op(s, s.choice(("Add", "Mul")), *s.choice(([wide, x], [x, wide])))


def identity(s: Sketch) -> Any:
    """One of the identities of arithmetic, on floats or integers."""
    _, make = s.choice(_SCALARS)
    x = s.floats() if s.flag(0.75) else s.value((I32, I64, I8))
    return make(s, x)


def logic(s: Sketch) -> Any:
    """Identities of boolean functions."""
    x = s.value((BOOL,))
    kind = s.choice(("not", "and", "or", "and true", "or false", "eq"))
    if kind == "not":
        return _twice(s, "Not", x)
    if kind in ("and", "or"):
        return _op(s, kind.title(), x, x)
    if kind == "eq":
        return _op(s, "Equal", x, s.const(np.array(True)))
    return _op(s, kind.split()[0].title(), x, s.const(np.array(kind == "and true")))


def casts(s: Sketch) -> Any:
    """Chains of conversions."""
    x = s.value((F32, F16, BF16, F64, *INTEGERS, BOOL))
    chain = [s.choice((F32, F64, F16, BF16)) for _ in range(2)] if x.floating else [
        s.choice((I8, I16, I32, I64, U8, F32, F64, F16, *UNSIGNED)) for _ in range(2)]
    if not x.floating and any(t in (F32, F64, F16) for t in chain[:1]):
        chain[1] = s.choice((F32, F64, F16))
    if x.floating and x.bound > 6e4:
        x = s.tame(x, -6e4, 6e4)
    for to in chain + ([x.dtype] if s.flag(0.4) and x.floating else []):
        x = s.op("Cast", [x], bound=x.bound, to=to)
    return x


# -- movement ------------------------------------------------------------------------------------


def moves(s: Sketch) -> Any:
    """Chains of transposes, reshapes, slices, pads that merge or cancel."""
    x = s.floats(2, 4, lambda v: v.known)
    kind = s.choice(("transposes", "unary", "binary", "units", "split and merge", "slices",
                     "slice of concat", "concat of slices", "pads", "reduce", "reshapes",
                     "none", "rows", "dot", "reduce units", "gather", "expand", "last"))
    rank = x.rank
    perm = [int(p) for p in s.rng.permutation(rank)]
    back = [perm.index(k) for k in range(rank)]
    if kind == "transposes":
        return _op(s, "Transpose", _op(s, "Transpose", x, perm=perm), perm=s.choice((back, perm)))
    if kind == "unary":
        y = _op(s, s.choice(("Tanh", "Relu", "Abs")), _op(s, "Transpose", x, perm=perm))
        return _op(s, "Transpose", y, perm=s.choice((back, perm)))
    if kind == "binary":
        y = s.value((x.dtype,), rank, rank, lambda v: v.shapes == x.shapes)
        pair = [_op(s, "Transpose", v, perm=perm) for v in (x, y)]
        return _op(s, "Transpose", _op(s, s.choice(("Add", "Mul", "Max")), *pair), perm=back)
    if kind == "pads":
        return _pads(s, x)
    if kind == "last":
        return _last(s, x)
    if kind == "none":
        return _op(s, "Transpose", x, perm=list(range(rank)))
    if kind == "reduce":
        y = _op(s, "Transpose", x, perm=perm)
        axes = [k for k in range(rank) if s.flag()]
        if not _full(x) or not axes:
            raise Misfit("nothing to reduce")
        return _op(s, s.choice(("ReduceMax", "ReduceSum")), y, s.ints(axes),
                   keepdims=s.number(0, 1))
    if not x.static:
        raise Misfit("sizes are open")
    return _static_moves(s, x, kind)


def _pads(s: Sketch, x: Var) -> Var:
    fill = s.scalar(s.choice((0.0, 1.5)), x)
    y = x
    for _ in range(2):
        width = [s.number(0, 2) if s.flag() else 0 for _ in range(2 * x.rank)]
        y = _op(s, "Pad", y, s.ints(width), fill)
    return _op(s, "Pad", y, s.ints([0] * 2 * x.rank)) if s.flag(0.3) else y


def _last(s: Sketch, x: Var) -> Var:
    """The last position of an axis, by its size."""
    axis = s.number(0, x.rank - 1)
    if any(t[axis] == 0 for t in x.shapes):
        raise Misfit("empty")
    if s.flag():  # a size that is known to be no zero
        x = _op(s, "Pad", x, s.ints([0] * x.rank + [int(k == axis) for k in range(x.rank)]))
    size = s.op("Shape", [x], reuse=False, start=axis, end=axis + 1)
    return _op(s, "Gather", x, s.op("Sub", [size, s.ints([1])], reuse=False), axis=axis)


def _static_moves(s: Sketch, x: Var, kind: str) -> Any:
    sizes = [int(d or 0) for d in x.shape]
    rank = len(sizes)
    if kind == "units":
        y = _op(s, "Unsqueeze", x, s.ints([s.number(0, rank)]))
        return _op(s, "Transpose", y, perm=s.choice(([*range(1, rank + 1), 0],
                                                     [rank, *range(rank)])))
    if kind == "reshapes":
        if 0 in sizes:
            raise Misfit("empty")
        y = _op(s, "Reshape", x, s.ints([-1]))
        return _op(s, "Reshape", y, s.ints(s.choice((sizes, sizes[::-1]))))
    if kind == "split and merge":
        y = _op(s, "Reshape", x, s.ints([*sizes[:-1], 1, sizes[-1]]))
        y = _op(s, "Transpose", y, perm=[int(p) for p in s.rng.permutation(rank + 1)])
        merged = [int(d or 0) for d in y.shape]
        k = s.number(0, rank - 1)
        merged[k : k + 2] = [merged[k] * merged[k + 1]]
        return _op(s, "Reshape", y, s.ints(merged))
    if kind in ("slices", "gather"):
        y = x
        for _ in range(2):
            y = _one_slice(s, y) if kind == "slices" or s.flag() else _one_gather(s, y)
        return y
    if kind == "slice of concat":
        axis = s.number(0, rank - 1)
        y = _op(s, "Concat", x, _op(s, "Neg", x), x, axis=axis)
        return [_one_slice(s, y, axis) for _ in range(s.number(1, 2))]
    if kind == "concat of slices":
        axis = s.number(0, rank - 1)
        cut = s.number(0, sizes[axis])
        ends = ([0], [cut]), ([cut], [sizes[axis]])
        parts = [_op(s, "Slice", x, s.ints(a), s.ints(b), s.ints([axis])) for a, b in ends]
        if s.flag(0.3):
            parts[0] = _op(s, "Concat", parts[0], axis=axis)
        parts = parts if s.flag(0.7) else parts[::-1]
        return _op(s, "Concat", *parts, *([x] if s.flag(0.3) else []), axis=axis)
    if kind == "reduce units":
        y = _op(s, "Unsqueeze", x, s.ints([axis := s.number(0, rank)]))
        return _op(s, s.choice(("ReduceMax", "ReduceSum", "ReduceMean", "ReduceMin")), y,
                   s.ints([axis]), keepdims=s.number(0, 1))
    if kind == "expand":
        y = _op(s, "Expand", x, s.ints(sizes))
        return _op(s, "Expand", y, s.ints([2, *sizes]))
    if 0 in sizes:
        raise Misfit("empty")
    return _rows(s, x, sizes) if kind == "rows" else _turned_dot(s, x, sizes)


def _one_slice(s: Sketch, x: Var, axis: int | None = None) -> Var:
    axis = s.number(0, x.rank - 1) if axis is None else axis
    d = int(x.shape[axis] or 0)
    step = s.choice((1, 1, 2, -1))
    low, high = sorted((s.number(0, d), s.number(0, d)))
    if s.flag(0.2):
        low, high, step = 0, d, 1
    ends = (low, high) if step > 0 else (high - 1, low - 1 - d)
    return _op(s, "Slice", x, s.ints(ends[:1]), s.ints(ends[1:]), s.ints([axis]), s.ints([step]))


def _one_gather(s: Sketch, x: Var) -> Var:
    axis = s.number(0, x.rank - 1)
    d = int(x.shape[axis] or 0)
    if not d:
        raise Misfit("empty")
    where = list(range(s.number(0, d - 1), d, s.choice((1, 2))))
    return _op(s, "Gather", x, s.ints(where[:: s.choice((1, -1))]), axis=axis)


def _rows(s: Sketch, x: Var, sizes: list[int]) -> Var:
    """A stack of matrices as rows, multiplied, and back."""
    free = s.choice((3, 8, 17))
    y = _op(s, "Reshape", s.tame(x, -1e3, 1e3), s.ints([-1, sizes[-1]]))
    y = _op(s, "MatMul", y, s.weight(x.dtype, [sizes[-1], free]))
    if s.flag():
        y = _op(s, "Add", y, s.weight(x.dtype, [free]))
    return _op(s, "Reshape", y, s.ints([*sizes[:-1], free]))


def _turned_dot(s: Sketch, x: Var, sizes: list[int]) -> Var:
    x = s.tame(x, -1e3, 1e3)
    swap = [*range(x.rank - 2), x.rank - 1, x.rank - 2]
    if s.flag():
        return _op(s, "MatMul", x, _op(s, "Transpose", x, perm=swap))
    w = s.weight(x.dtype, [*sizes[:-2], sizes[-2], 5])
    return _op(s, "MatMul", _op(s, "Transpose", x, perm=swap), w)


# -- affine ops around products --------------------------------------------------------------------


def affine_conv(s: Sketch) -> Any:
    """Scales and offsets per channel before and after a convolution."""
    x = s.tame(_image(s), -100, 100)
    r, c, m = x.rank - 2, int(x.shape[1] or 1), s.choice((2, 4, 16))
    groups = c if s.flag(0.2) else 1
    m = m * groups if groups > 1 else m

    def per(count: int) -> Var:
        shape = s.choice(([count] + [1] * r, [1, count] + [1] * r, [1] * (r + 1), []))
        return s.weight(x.dtype, shape)

    y = x
    before = s.choice(("", "", "Mul", "Add", "Div"))
    if before:
        y = _op(s, before, y, per(c))
    kernel = [s.choice((1, 2, 3)) for _ in range(r)]
    attrs: dict[str, Any] = {"pads": [1] * 2 * r} if s.flag(0.4) else {}
    w = s.weight(x.dtype, [m, c // groups, *kernel], 0.4)
    y = s.op("Conv", [y, w], group=groups, bound=y.bound * 50, **attrs)
    for _ in range(s.number(0, 3)):
        y = _op(s, s.choice(("Mul", "Add", "Sub", "Div")), y, per(m))
    return y


def affine_dot(s: Sketch) -> Any:
    """Scales and offsets per column before and after a product."""
    x = s.tame(s.floats(2, 3, _full), -100, 100)
    if not x.fixed(x.rank - 1):
        raise Misfit("sizes are open")
    k, m = int(x.shape[-1] or 1), s.choice((3, 8, 17))

    def per(count: int) -> Var:
        return s.weight(x.dtype, s.choice(([count], [1, count], [1], [])))

    y = x
    if s.flag():
        y = _op(s, s.choice(("Mul", "Add")), y, per(k))
    y = s.op("MatMul", [y, s.weight(x.dtype, [k, m], 0.5)], bound=y.bound * 50)
    for _ in range(s.number(1, 3)):
        y = _op(s, s.choice(("Mul", "Add", "Add")), y, per(m))
    return y


def siblings(s: Sketch) -> Any:
    """Products or convolutions that share their input."""
    image = s.flag(0.4)
    x = _image(s, 2) if image else s.tame(s.floats(2, 3, _full), -100, 100)
    if not image and not x.fixed(x.rank - 1):
        raise Misfit("sizes are open")
    results = []
    law = s.choice(("", "Relu", "Sigmoid", "Add"))
    for _ in range(s.number(2, 3)):
        m = s.choice((2, 4, 8, 17))
        shape = [m, int(x.shape[1] or 1), 1, 1] if image else [int(x.shape[-1] or 1), m]
        y = s.op("Conv" if image else "MatMul", [x, s.weight(x.dtype, shape, 0.5)],
                 bound=x.bound * 50)
        if law == "Add":
            y = _op(s, "Add", y, s.weight(x.dtype, [m, 1, 1] if image else [m]))
        elif law:
            y = _op(s, law, y)
        results.append(y)
    if s.flag(0.4):
        return s.op("Concat", results, axis=1 if image else -1)
    return results


# -- norms and activations in their parts ----------------------------------------------------------


def _mean(s: Sketch, x: Var, axes: list[int], count: int) -> Var:
    kind = s.choice(("mean", "mean", "quotient", "product"))
    if kind == "mean" or not count:
        return _op(s, "ReduceMean", x, s.ints(axes), keepdims=1)
    total = _op(s, "ReduceSum", x, s.ints(axes), keepdims=1)
    if kind == "quotient":
        return _op(s, "Div", total, _c(s, count, x))
    return _op(s, "Mul", total, _c(s, 1 / count, x))


def norm(s: Sketch) -> Any:
    """Layer norm and RMS norm in their parts, with and without scale and bias."""
    x = s.tame(s.floats(2, 4, _full), -100, 100)
    axes = list(range(s.choice((x.rank - 1, x.rank - 1, x.rank - 2)), x.rank))
    if s.flag(0.1):
        axes = [0]
    fixed = all(x.fixed(a) for a in axes)
    count = int(np.prod([x.shape[a] or 0 for a in axes])) if fixed else 0
    eps = s.scalar(s.choice((1e-5, 1e-3, 1e-2)), x)
    centered = s.flag(0.65)
    d = _op(s, "Sub", x, _mean(s, x, axes, count)) if centered else x
    square = _op(s, "Mul", d, d) if s.flag() else _op(s, "Pow", d, s.scalar(2, d))
    root = _op(s, "Sqrt", _op(s, "Add", _mean(s, square, axes, count), eps))
    if s.flag():
        y = _op(s, "Div", d, root)
    else:
        inverse = _op(s, "Reciprocal", root) if s.flag() else _op(s, "Div", _c(s, 1, x), root)
        y = _op(s, "Mul", d, inverse)
    shape = [int(x.shape[a] or 0) for a in axes] if fixed and axes[-1] == x.rank - 1 else []
    if s.flag(0.7):
        y = _op(s, "Mul", y, s.weight(x.dtype, shape))
        if s.flag(0.7):
            y = _op(s, "Add", y, s.weight(x.dtype, shape))
    return y


def softmax(s: Sketch) -> Any:
    """Softmax and log softmax in their parts."""
    x = s.tame(s.floats(1, 4, _full), -50, 50)
    axes = s.ints([s.number(-x.rank, x.rank - 1)])
    d = _op(s, "Sub", x, _op(s, "ReduceMax", x, axes, keepdims=1))
    e = _op(s, "Exp", d)
    total = _op(s, "ReduceSum", e, axes, keepdims=1)
    kind = s.choice(("softmax", "log", "shifted"))
    if kind == "shifted":
        return _op(s, "Sub", d, _op(s, "Log", total))
    y = s.op("Div", [e, total], bound=1)
    return _op(s, "Log", y) if kind == "log" else y


def gelu(s: Sketch) -> Any:
    """GELU and sigmoid in their parts, factors in any order."""
    x = s.tame(s.floats(), -20, 20)
    kind = s.choice(("erf", "tanh", "factored", "sigmoid", "sigmoid quotient", "half tanh",
                     "silu"))

    def times(*factors: Var) -> Var:
        order = list(factors)
        s.rng.shuffle(order)
        y = order[0]
        for f in order[1:]:
            y = s.op("Mul", [y, f], bound=1e3)
        return y

    def one_plus(v: Var) -> Var:
        return _op(s, "Add", *s.choice(([v, _c(s, 1, x)], [_c(s, 1, x), v])))

    if kind == "erf":
        inner = _op(s, "Div", x, _c(s, 2**0.5, x)) if s.flag() else times(x, _c(s, 0.5**0.5, x))
        return times(x, _c(s, 0.5, x), one_plus(_op(s, "Erf", inner)))
    if kind in ("tanh", "factored"):
        root, a = _c(s, (2 / np.pi) ** 0.5, x), _c(s, 0.044715, x)
        if kind == "tanh":
            cube = _op(s, "Pow", x, s.scalar(3, x)) if s.flag() else times(x, x, x)
            inner = times(root, _op(s, "Add", x, times(a, cube)))
        else:
            inner = times(root, x, one_plus(times(a, x, x)))
        return times(x, _c(s, 0.5, x), one_plus(_op(s, "Tanh", inner)))
    if kind == "half tanh":
        return times(_c(s, 0.5, x), one_plus(_op(s, "Tanh", times(_c(s, 0.5, x), x))))
    if kind == "silu":
        return times(x, s.op("Sigmoid", [x], bound=1))
    bottom = one_plus(_op(s, "Exp", _op(s, "Neg", x)))
    return _op(s, "Reciprocal", bottom) if kind == "sigmoid" else s.op(
        "Div", [_c(s, 1, x), bottom], bound=1)


def attention(s: Sketch) -> Any:
    """Attention in its parts: scales before or after, masks, transposed keys, safe rows."""
    heads = s.flag()
    b, n, m, d, e = (s.choice(t) for t in ((1, 2), (1, 3, 5), (2, 5, 16), (3, 4, 5, 8), (3, 8)))
    lead = [b, 2] if heads else [b]
    q, k, v = (s.fresh(s.real, [*lead, r, c], "normal") for r, c in ((n, d), (m, d), (m, e)))
    perm = [*range(len(lead)), len(lead) + 1, len(lead)]
    if s.flag(0.3):
        k = s.fresh(s.real, [*lead, d, m], "normal")
    else:
        if s.flag(0.3):
            k = _op(s, "Mul", k, _c(s, d**-0.25, k))
        k = _op(s, "Transpose", k, perm=perm)
    if s.flag(0.3):
        q = _op(s, "Mul", q, _c(s, d**-0.25, q))
    scores = s.op("MatMul", [q, k], bound=1e3)
    how = s.choice(("", "Mul", "Div"))
    if how:
        scores = _op(s, how, scores, _c(s, d ** (-0.5 if how == "Mul" else 0.5), q))
    safe = s.flag(0.3)
    if s.flag():
        shape = s.choice(([n, m], [*[1] * len(lead), n, m], [m], [1, m], [*lead, n, m]))
        mask = np.where(s.rng.random(shape) < 0.25, -np.inf if safe or s.flag(0.3) else -1e4, 0.0)
        mask[..., :1] = mask[..., :1] if safe else 0.0
        scores = _op(s, "Add", scores, s.const(mask.astype(draw("unit", q.dtype, (), s.rng).dtype)))
    weights = s.op("Softmax", [scores], bound=1, axis=-1)
    if safe:
        weights = s.op("Where", [_op(s, "IsNaN", weights), s.scalar(0, q), weights], bound=1)
    return s.op("MatMul", [weights, v], bound=12)


def attention_op(s: Sketch) -> Any:
    """The operator Attention, its operands scaled before: masks, causality, shared keys."""
    b, h, n, m, d = (s.choice(t) for t in ((1, 2), (1, 2, 4), (1, 3, 5), (2, 5, 16), (4, 5, 8)))
    shared = s.choice([g for g in (1, 2, 4) if h % g == 0])
    q = s.fresh(s.real, [b, h, n, d], "normal")
    k, v = (s.fresh(s.real, [b, shared, m, d], "normal") for _ in range(2))
    if s.flag():
        q = _op(s, "Mul", q, _c(s, 0.5, q))
    if s.flag():
        k = _op(s, "Mul", k, _c(s, 0.7, k))
    mask = []
    if s.flag(0.4):
        shape = s.choice(((n, m), (1, 1, n, m), (b, 1, n, m)))
        allowed = s.rng.random(shape) < 0.7
        mask = [s.const(allowed) if s.flag() else s.weight(q.dtype, shape)]
    attrs: dict[str, Any] = {"scale": s.choice((0.5, 0.25))} if s.flag(0.4) else {}
    if s.flag(0.3):
        attrs["is_causal"] = 1
    return s.op("Attention", [q, k, v, *mask], bound=12, **attrs)


def fake_quantized(s: Sketch) -> Any:
    """A product between a quantization and a dequantization."""
    x = s.fresh(F32, [s.choice((1, 3)), s.choice((4, 16, 17))], "normal")
    scale, zero = s.const(np.array(0.05, np.float32)), s.const(np.array(3, np.int8))
    q = s.op("QuantizeLinear", [in_range(s, x, -6, 6), scale, zero], bound=255)
    y = s.op("DequantizeLinear", [q, scale, zero], bound=20)
    w8 = s.const(draw("small", I8, (int(x.shape[1] or 1), 8), s.rng))
    unit, none = s.const(np.array(0.02, np.float32)), s.const(np.array(0, np.int8))
    w = s.op("DequantizeLinear", [w8, unit, none], bound=3)
    return s.op("MatMul", [y, w], bound=1e3)


MAKERS = {identity: 9, logic: 2, casts: 3, moves: 9, affine_conv: 3, affine_dot: 3, siblings: 2,
          norm: 6, softmax: 3, gelu: 6, attention: 8, attention_op: 2, fake_quantized: 1}
"""Makers and how often they are drawn."""
