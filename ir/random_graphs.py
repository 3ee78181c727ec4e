"""Random well-typed graphs, for property tests and fuzzing.

``random_graph(seed)`` grows a graph node by node: it draws an op, draws operands that fit it from
the values made so far (making a constant where none fits), and adds it through the ``Builder``, so
every graph is valid by construction. Arguments of partial functions are clamped into their domain
first, which keeps most numbers finite. The same seed gives the same graph.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

import numpy as np

from .builder import Builder
from .dim_values import evaluate
from .dims import Dim, Expr, free_symbols, sym
from .errors import EvonnxError
from .graph import Graph, Value
from .types import BOOL, F32, I32, I64, DType, TensorType

_MOST = 1500
"""Largest number of elements of any value."""
_SIZES = {"N": 3, "S": 4}
"""Sizes of symbols that ``_MOST`` is judged by."""


class Sampler:
    """The graph under construction: the values made so far, and ways to draw from them."""

    def __init__(self, seed: int, symbolic: bool, dtype: DType) -> None:
        self.rng = np.random.default_rng(seed)
        self.b = Builder()
        self.symbolic = symbolic
        self.dtype = dtype
        """The element type of float values."""
        self.pool: list[Value] = []

    def number(self, low: int, high: int) -> int:
        """An integer in ``low..high``, both included."""
        return int(self.rng.integers(low, high + 1))

    def flag(self, chance: float = 0.5) -> bool:
        """True with the given chance."""
        return bool(self.rng.random() < chance)

    def choice(self, items: Any) -> Any:
        """One of ``items``."""
        return items[self.number(0, len(items) - 1)]

    def add(self, made: Any) -> None:
        """Puts what a maker returned into the pool."""
        for v in made if isinstance(made, tuple) else (made,):
            if v is not None and numel(v) <= _MOST:
                self.pool.append(v)

    def floats(self, rank: int | None = None, low: int = 0) -> Value:
        """A float value, of the given rank (or of at least ``low``)."""
        fits = [
            v for v in self.pool
            if v.dtype == self.dtype and v.rank >= low and rank in (None, v.rank)
        ]  # fmt: skip
        if fits and self.flag(0.9):
            return fits[max(self.number(0, len(fits) - 1), self.number(0, len(fits) - 1))]
        shape = tuple(
            self.number(1, 5) for _ in range(self.number(low, 4) if rank is None else rank)
        )
        return self.constant(shape)

    def of(self, *dtypes: DType, low: int = 0) -> Value:
        """A value of one of ``dtypes`` with at least ``low`` axes."""
        fits = [v for v in self.pool if v.dtype in dtypes and v.rank >= low]
        if fits and self.flag(0.9):
            return self.choice(fits)
        shape = tuple(self.number(1, 5) for _ in range(self.number(low, 3)))
        if BOOL in dtypes:
            return self.b.const(self.rng.integers(0, 2, shape).astype(bool))
        return self.b.const(self.rng.integers(-9, 10, shape).astype(self.choice(dtypes).np))

    def constant(self, shape: tuple[int, ...]) -> Value:
        """A constant of normal numbers."""
        return self.b.const(self.rng.standard_normal(shape).astype(np.float32), self.dtype)

    def indices(self, shape: tuple[int, ...], extent: int) -> Value:
        """Constant indices into an axis of ``extent``, negative ones among them."""
        dtype = self.choice((np.int64, np.int32))
        return self.b.const(self.rng.integers(-extent, extent, shape).astype(dtype))

    def like(self, v: Value) -> Value:
        """A value that broadcasts with ``v``: one of the pool, or a constant."""
        fits = [w for w in self.pool if w.dtype == v.dtype and _fits(w.shape, v.shape)]
        if fits and self.flag(0.6):
            return self.choice(fits)
        shape = [
            1 if not isinstance(d, int) or self.flag(0.3) else d
            for d in v.shape[self.number(0, 1) :]
        ]
        if v.dtype == BOOL:
            return self.b.const(self.rng.integers(0, 2, shape).astype(bool))
        if v.dtype.is_integer:
            return self.b.const(self.rng.integers(-9, 10, shape).astype(v.dtype.np))
        return self.constant(tuple(shape))


def numel(v: Value) -> int:
    """Elements of a value, with the sizes that the sampler assumes."""
    n = v.tensor.numel()
    names = free_symbols(n)
    return evaluate(n, {s: _SIZES.get(s, 4) for s in names})


def _fits(a: tuple[Dim, ...], b: tuple[Dim, ...]) -> bool:
    short, long = sorted((a, b), key=len)
    tail = long[len(long) - len(short) :]
    return all(x == y or x == 1 or y == 1 for x, y in zip(short, tail, strict=True))


Maker = Callable[[Sampler], Any]

# -- elementwise -------------------------------------------------------------------------------


def _clamped(s: Sampler, v: Value, low: float, high: float) -> Value:
    return s.b.op("min", s.b.op("max", v, low), high)


_DOMAIN: dict[str, tuple[float, float]] = {
    "exp": (-4, 4), "log": (0.1, 50), "sqrt": (0, 50), "reciprocal": (0.2, 50), "tan": (-1.2, 1.2),
    "asin": (-0.9, 0.9), "acos": (-0.9, 0.9), "atanh": (-0.9, 0.9), "acosh": (1.1, 50),
    "sinh": (-4, 4), "cosh": (-4, 4), "sin": (-20, 20), "cos": (-20, 20),
}  # fmt: skip


def _unary(op: str) -> Maker:
    def make(s: Sampler) -> Value:
        x = s.floats()
        return s.b.op(op, _clamped(s, x, *_DOMAIN[op]) if op in _DOMAIN else x)

    return make


def _binary(op: str) -> Maker:
    def make(s: Sampler) -> Value:
        a = s.floats()
        b = s.like(a)
        if op in ("div", "mod", "fmod", "pow"):
            b = _clamped(s, b, 0.5, 3)
        if op == "pow":
            a = _clamped(s, a, 0.1, 3)
        if op == "mul":
            a = _clamped(s, a, -1e3, 1e3)
        return s.b.op(op, *((a, b) if op in ("div", "mod", "fmod", "pow") or s.flag() else (b, a)))

    return make


def _integer(op: str) -> Maker:
    def make(s: Sampler) -> Value:
        a = s.of(I64, I32)
        b = s.like(a)
        if op in ("shl", "shr"):
            a, b = s.b.op("abs", a), s.b.op("bitand", b, 7)
        return s.b.op(op, a, b)

    return make


def _compare(op: str) -> Maker:
    def make(s: Sampler) -> Value:
        a = s.floats() if s.flag() else s.of(I64, I32)
        return s.b.op(op, a, s.like(a))

    return make


def _logical(op: str) -> Maker:
    def make(s: Sampler) -> Value:
        a = s.of(BOOL)
        return s.b.op(op, a) if op == "not" else s.b.op(op, a, s.like(a))

    return make


def _select(s: Sampler) -> Value:
    a = s.floats()
    c = s.of(BOOL)
    if not _fits(c.shape, a.shape):
        c = s.b.op("lt", a, 0.25)
    other = s.like(a)
    return s.b.op("select", c, a, other if _fits(c.shape, other.shape) and s.flag() else -1.0)


def _cast(s: Sampler) -> Value:
    x = s.choice(s.pool)
    to = s.choice((s.dtype, I64, I32, BOOL))
    if x.dtype == s.dtype and to != BOOL:
        x = _clamped(s, x, -1e3, 1e3)
    return s.b.op("cast", x, to=to)


def _isinf(s: Sampler) -> Value:
    return s.b.op("isinf", s.floats(), positive=s.flag(), negative=s.flag())


# -- movement ----------------------------------------------------------------------------------


def _reshape(s: Sampler) -> Value:
    x = s.choice(s.pool)
    shape = list(x.shape)
    if len(shape) > 1 and s.flag(0.6):
        k = s.number(0, len(shape) - 2)
        shape[k : k + 2] = [shape[k] * shape[k + 1]]
    if shape and s.flag():
        k = s.number(0, len(shape) - 1)
        d = shape[k]
        if isinstance(d, int):
            f = s.choice([f for f in range(1, d + 1) if d % f == 0] or [1])
            shape[k : k + 1] = [f, d // f]
    if len(shape) < 4 and s.flag(0.4):
        shape.insert(s.number(0, len(shape)), 1)
    return s.b.op("reshape", x, shape=shape)


def _transpose(s: Sampler) -> Value:
    x = s.floats(low=2)
    return s.b.op("transpose", x, perm=[int(p) for p in s.rng.permutation(x.rank)])


def _expand(s: Sampler) -> Value:
    x = s.floats()
    shape = [s.number(1, 3) if d == 1 else (1 if s.flag(0.3) else d) for d in x.shape]
    return s.b.op("expand", x, shape=([2] if s.flag(0.3) and x.rank < 4 else []) + shape)


def _slice(s: Sampler) -> Value:
    x = s.choice(s.pool)
    starts, sizes, steps = [], [], []
    for d in x.shape:
        start, size, step = 0, d, 1
        if isinstance(d, int) and d > 0 and s.flag(0.6):
            step = s.choice((1, 1, 2, 3, -1, -2))
            start = s.number(0, d - 1)
            room = (d - 1 - start if step > 0 else start) // abs(step) + 1
            size = s.number(min(1, room), room)
        elif not isinstance(d, int) and s.flag(0.3):
            start, size = (0, d - 1) if s.flag() else (1, d - 1)
        starts.append(start)
        sizes.append(size)
        steps.append(step)
    return s.b.op("slice", x, starts=starts, sizes=sizes, steps=steps)


def _pad(s: Sampler) -> Value:
    x = s.floats(low=1)
    mode = s.choice(("constant", "constant", "edge", "reflect", "wrap"))
    lo, hi = [], []
    for d in x.shape:
        most = 2 if mode == "constant" else min(2, d - 1) if isinstance(d, int) else 0
        lo.append(s.number(0, max(most, 0)) if s.flag() else 0)
        hi.append(s.number(0, max(most, 0)) if s.flag() else 0)
    fill = 0.5 if mode == "constant" else 0.0
    return s.b.op("pad", x, fill, lo=lo, hi=hi, mode=mode)


def _concat(s: Sampler) -> Value:
    x = s.floats(low=1)
    axis = s.number(0, x.rank - 1)
    fits = [
        v for v in s.pool
        if v.dtype == x.dtype and v.rank == x.rank
        and all(k == axis or a == b for k, (a, b) in enumerate(zip(v.shape, x.shape, strict=True)))
    ]  # fmt: skip
    parts = [x] + [s.choice(fits or [x]) for _ in range(s.number(0, 2))]
    return s.b.op("concat", *parts, axis=axis)


def _static_axis(s: Sampler, x: Value) -> int | None:
    axes = [k for k, d in enumerate(x.shape) if isinstance(d, int) and d > 0]
    return s.choice(axes) if axes else None


def _gather(s: Sampler) -> Value | None:
    x = s.floats(low=1)
    axis = _static_axis(s, x)
    if axis is None:
        return None
    shape = tuple(s.number(1, 3) for _ in range(s.number(0, min(2, 5 - x.rank))))
    return s.b.op("gather", x, s.indices(shape, x.shape[axis]), axis=axis)  # type: ignore[arg-type]


def _elements(op: str) -> Maker:
    def make(s: Sampler) -> Value | None:
        x = s.floats(low=1)
        axis = _static_axis(s, x)
        if axis is None or not x.tensor.is_static or 0 in x.shape:
            return None
        shape = tuple(s.number(1, int(d)) for d in x.shape)  # type: ignore[arg-type]
        idx = s.indices(shape, x.shape[axis])  # type: ignore[arg-type]
        if op == "gather_elements":
            return s.b.op(op, x, idx, axis=axis)
        how = s.choice(("none", "add", "mul", "max", "min"))
        if how == "none":  # the order of duplicates is not for every runtime to keep: one index
            idx = s.indices(tuple(1 if k == axis else d for k, d in enumerate(shape)),
                            x.shape[axis])  # type: ignore[arg-type]  # fmt: skip
        return s.b.op(op, x, idx, s.constant(idx.shape), axis=axis, reduction=how)  # type: ignore[arg-type]

    return make


def _nd(op: str) -> Maker:
    def make(s: Sampler) -> Value | None:
        x = s.floats(low=1)
        if not x.tensor.is_static or 0 in x.shape:
            return None
        sizes = [int(d) for d in x.shape]  # type: ignore[arg-type]
        batch = s.number(0, x.rank - 1) if op == "gather_nd" and s.flag(0.3) else 0
        depth = s.number(1, x.rank - batch)
        rows = (*sizes[:batch], s.number(1, 2 if op == "gather_nd" else 1))
        columns = [s.rng.integers(-d, d, rows) for d in sizes[batch : batch + depth]]
        idx = s.b.const(np.stack(columns, -1).astype(np.int64))
        if op == "gather_nd":
            return s.b.op(op, x, idx, batch_dims=batch)
        updates = s.constant((*rows, *sizes[depth:]))
        return s.b.op(op, x, idx, updates, reduction=s.choice(("none", "add", "mul", "max", "min")))

    return make


# -- reductions, contractions, windows -----------------------------------------------------------


def _axes(s: Sampler, rank: int) -> list[int]:
    return sorted(int(a) for a in s.rng.permutation(rank)[: s.number(1, rank)])


def _reduce(s: Sampler) -> Value:
    x = s.floats(low=1)
    kind = s.choice(("sum", "mean", "max", "min", "prod"))
    x = _clamped(s, x, -3, 3) if kind == "prod" else x
    return s.b.op("reduce", x, kind=kind, axes=_axes(s, x.rank), keepdims=s.flag())


def _arg(op: str) -> Maker:
    def make(s: Sampler) -> Value | None:
        x = s.floats(low=1)
        axis = _static_axis(s, x)
        if axis is None:
            return None
        return s.b.op(op, x, axis=axis, keepdims=s.flag(), select_last=s.flag())

    return make


def _cumulate(s: Sampler) -> Value:
    x = s.floats(low=1)
    return s.b.op("cumulate", x, kind="sum", axis=s.number(0, x.rank - 1), exclusive=s.flag(),
                  reverse=s.flag())  # fmt: skip


def _topk(s: Sampler) -> Any:
    x = s.floats(low=1)
    axis = _static_axis(s, x)
    if axis is None:
        return None
    size = x.shape[axis]
    return s.b.op("topk", x, axis=axis, k=s.number(1, int(size)), largest=s.flag(), sorted=True)  # type: ignore[arg-type]


def _dot(s: Sampler) -> Value:
    a = s.floats(low=2)
    ta, tb = s.flag(0.3), s.flag(0.3)
    inner, free = a.shape[-2 if ta else -1], s.number(1, 6)
    others = [v for v in s.pool if v.dtype == a.dtype and v.rank >= 2
              and v.shape[-1 if tb else -2] == inner
              and _fits(v.shape[:-2], a.shape[:-2])]  # fmt: skip
    if others and (s.flag() or not isinstance(inner, int)):
        return s.b.op("dot", a, s.choice(others), ta=ta, tb=tb)
    if not isinstance(inner, int):
        return s.b.op("dot", a, a, ta=False, tb=True)
    batch = tuple(d if isinstance(d, int) and s.flag() else 1 for d in a.shape[:-2])
    shape = (free, inner) if tb else (inner, free)
    lead = batch if s.flag(0.4) else ()
    return s.b.op("dot", a, s.constant((*lead, *shape)), ta=ta, tb=tb)


def _image(s: Sampler, layout: str) -> Value | None:
    fits = [v for v in s.pool if v.dtype == s.dtype and v.rank in (3, 4)
            and isinstance(v.shape[1 if layout == "first" else -1], int)
            and all(d in (sym("N"), sym("S")) if isinstance(d, Expr) else d > 0
                    for d in v.shape[1:])]  # fmt: skip
    return s.choice(fits) if fits else s.constant((s.number(1, 2), s.number(1, 4), s.number(3, 6)))


def _window(s: Sampler, x: Value, layout: str, pooling: bool) -> dict[str, Any] | None:
    spatial = x.shape[2:] if layout == "first" else x.shape[1:-1]
    r = len(spatial)
    kernel = [s.number(1, 3) for _ in range(r)]
    dilations = [s.number(1, 2) for _ in range(r)]
    lo, hi = ([s.number(0, (k - 1) if pooling else 2) for k in kernel] for _ in range(2))
    for d, k, dil, low, high in zip(spatial, kernel, dilations, lo, hi, strict=True):
        smallest = d if isinstance(d, int) else 1
        if smallest + low + high < (k - 1) * dil + 1:
            return None
    return {"kernel": kernel, "strides": [s.number(1, 2) for _ in range(r)], "dilations": dilations,
            "pads_lo": lo, "pads_hi": hi, "layout": layout}  # fmt: skip


def _conv(s: Sampler) -> Value | None:
    layout = s.choice(("first", "last"))
    x = _image(s, layout)
    attrs = None if x is None else _window(s, x, layout, False)
    if x is None or attrs is None:
        return None
    kernel = attrs.pop("kernel")
    c = int(x.shape[1 if layout == "first" else -1])  # type: ignore[arg-type]
    groups = s.choice([g for g in range(1, c + 1) if c % g == 0])
    m = groups * s.number(1, 3)
    shape = (m, c // groups, *kernel) if layout == "first" else (*kernel, c // groups, m)
    return s.b.op("conv", x, s.constant(shape), groups=groups, **attrs)


def _conv_transpose(s: Sampler) -> Value | None:
    layout = s.choice(("first", "last"))
    x = _image(s, layout)
    if x is None:
        return None
    c, r = int(x.shape[1 if layout == "first" else -1]), x.rank - 2  # type: ignore[arg-type]
    groups = s.choice([g for g in range(1, c + 1) if c % g == 0])
    kernel, strides = [s.number(1, 3) for _ in range(r)], [s.number(1, 3) for _ in range(r)]
    return s.b.op(
        "conv_transpose", x, s.constant((c, s.number(1, 3), *kernel)), groups=groups,
        strides=strides, dilations=[s.number(1, 2) for _ in range(r)], layout=layout,
        pads_lo=[0] * r, pads_hi=[0] * r,
        output_padding=[s.number(0, stride - 1) for stride in strides],
    )  # fmt: skip


def _pool(s: Sampler) -> Value | None:
    layout = s.choice(("first", "last"))
    x = _image(s, layout)
    attrs = None if x is None else _window(s, x, layout, True)
    return None if attrs is None else s.b.op("pool", x, kind=s.choice(("max", "sum")), **attrs)


# -- composites, sources, sizes from data --------------------------------------------------------


def _softmax(op: str) -> Maker:
    def make(s: Sampler) -> Value:
        x = s.floats(low=1)
        return s.b.op(op, _clamped(s, x, -20, 20), axis=s.number(0, x.rank - 1))

    return make


def _norm(op: str) -> Maker:
    def make(s: Sampler) -> Value | None:
        x = s.floats(low=1)
        axis = s.number(0, x.rank - 1)
        tail = x.shape[axis:]
        if not all(isinstance(d, int) for d in tail):
            return None
        x, scale = _clamped(s, x, -50, 50), s.constant(tail)  # type: ignore[arg-type]
        bias = s.constant(tail) if s.flag() else None  # type: ignore[arg-type]
        operands = (x, scale, bias) if op == "layer_norm" else (x, scale)
        return s.b.op(op, *operands, axis=axis, eps=1e-3)

    return make


def _gelu(s: Sampler) -> Value:
    return s.b.op("gelu", s.floats(), approximate=s.choice(("none", "tanh")))


def _attention(s: Sampler) -> Value:
    q = _clamped(s, s.floats(low=2), -4, 4)
    mask = s.constant((1, 1)) if s.flag() else None
    return s.b.op("attention", q, q, q, mask, scale=s.choice((1.0, 0.5)))


def _iota(s: Sampler) -> Value:
    shape = tuple(s.number(1, 5) for _ in range(s.number(1, 3)))
    return s.b.op("iota", shape=shape, axis=s.number(0, len(shape) - 1), dtype=s.choice((F32, I64)))


def _dims(s: Sampler) -> Value:
    x = s.choice(s.pool)
    return s.b.dims([*x.shape, x.tensor.numel() + 1])


def _nonzero(s: Sampler) -> Value | None:
    x = s.floats(low=1)
    positions, count = s.b.op("nonzero", s.b.op("lt", x, 0.0))
    name = str(s.b.fresh("count"))
    s.b.op("bind", count, name=name)
    rank = x.rank
    return s.b.op("slice", positions, starts=(0, 0), sizes=(rank, sym(name)), steps=(1, 1))


MAKERS: dict[str, Maker] = {
    **{op: _unary(op) for op in (
        "neg", "abs", "sign", "floor", "ceil", "round", "sqrt", "exp", "log", "sin", "cos", "tan",
        "asin", "acos", "atan", "sinh", "cosh", "tanh", "asinh", "acosh", "atanh", "erf",
        "erfc", "sigmoid", "reciprocal", "relu", "isnan")},
    **{op: _binary(op) for op in ("add", "sub", "mul", "div", "pow", "mod", "fmod", "max", "min")},
    **{f"int_{op}": _integer(op) for op in (
        "add", "sub", "mul", "div", "mod", "fmod", "max", "min", "bitand", "bitor", "bitxor",
        "shl", "shr")},
    **{op: _compare(op) for op in ("eq", "lt", "le")},
    **{op: _logical(op) for op in ("not", "and", "or", "xor")},
    "select": _select, "cast": _cast, "isinf": _isinf, "reshape": _reshape,
    "transpose": _transpose, "expand": _expand, "slice": _slice, "pad": _pad, "concat": _concat,
    "gather": _gather, "gather_elements": _elements("gather_elements"),
    "gather_nd": _nd("gather_nd"), "scatter_elements": _elements("scatter_elements"),
    "scatter_nd": _nd("scatter_nd"), "reduce": _reduce, "argmax": _arg("argmax"),
    "argmin": _arg("argmin"), "cumulate": _cumulate, "topk": _topk, "dot": _dot, "conv": _conv,
    "conv_transpose": _conv_transpose, "pool": _pool, "softmax": _softmax("softmax"),
    "log_softmax": _softmax("log_softmax"), "layer_norm": _norm("layer_norm"),
    "rms_norm": _norm("rms_norm"), "gelu": _gelu, "attention": _attention, "iota": _iota,
    "dims": _dims, "nonzero": _nonzero,
}  # fmt: skip
"""Name -> what adds such a node; the names are those of the op table, ``int_...`` on integers."""


# -- the graph ---------------------------------------------------------------------------------


def random_graph(
    seed: int,
    nodes: int = 10,
    *,
    symbolic: bool = False,
    ops: Collection[str] | None = None,
    dtype: DType = F32,
) -> Graph:
    """A graph grown by about ``nodes`` ops out of ``ops`` (names in ``MAKERS``; all of them by
    default); with ``symbolic`` some sizes of the inputs are the symbols N and S."""
    s = Sampler(seed, symbolic, dtype)
    for k in range(s.number(1, 3)):
        shape: list[Dim] = [s.number(1, 5) for _ in range(s.number(1, 4))]
        if symbolic:
            shape[0] = sym("N")
            if len(shape) > 2 and s.flag():
                shape[-1 if s.flag() else 1] = sym("S")
        s.add(s.b.input(f"x{k}", TensorType(dtype, tuple(shape))))
    if s.flag(0.3):
        s.add(s.b.input("i", TensorType(I64, (s.number(1, 4),))))
    names = sorted(MAKERS if ops is None else ops)
    for _ in range(nodes):
        try:
            s.add(MAKERS[s.choice(names)](s))
        except EvonnxError:
            continue  # operands that do not fit by chance
    used = {v for node in s.b.nodes for v in node.operands}
    ends = [v for v in s.pool if v not in used and v.op != "input"][-6:] or s.pool[-1:]
    return s.b.build([(f"y{k}", v) for k, v in enumerate(ends)])


def random_feeds(graph: Graph, seed: int, sizes: dict[str, int] | None = None) -> dict[str, Any]:
    """Feeds for ``graph``: normal numbers, integers of -9..9; symbols take random sizes of 2..5
    unless ``sizes`` gives them."""
    rng = np.random.default_rng(seed)
    names = sorted({n for v in graph.inputs for d in v.shape for n in free_symbols(d)})
    binding = {n: (sizes or {}).get(n, int(rng.integers(2, 6))) for n in names}
    feeds: dict[str, Any] = {}
    for v in graph.inputs:
        shape = tuple(evaluate(d, binding) for d in v.shape)
        if v.dtype.is_float:
            array: Any = rng.standard_normal(shape) * 2
        elif v.dtype.kind == "b":
            array = rng.integers(0, 2, shape)
        else:
            array = rng.integers(-9 if v.dtype.kind == "i" else 0, 10, shape)
        feeds[v.node.attrs["name"]] = np.asarray(array).astype(v.dtype.np)
    return feeds
