"""Movement of elements: chains merge, identities go, views are preferred to copies."""

from __future__ import annotations

import itertools
from typing import Any

from ...ir.builder import Builder
from ...ir.dim_functions import known_ge
from ...ir.dims import Dim
from ...ir.graph import Attrs, Value
from ..facts import Refusal, is_identity, moves_only_units, scalar_of
from ..reshape_blocks import turned_reshape
from ..rule import Answer, Match, Rule, attribute, broadcasts_into, term

# -- attributes --------------------------------------------------------------------------------


@attribute
def compose(p: tuple[int, ...], q: tuple[int, ...]) -> tuple[int, ...]:
    """The permutation of ``transpose(transpose(x, p), q)``."""
    return tuple(p[i] for i in q)


@attribute
def shape_of(v: Value) -> tuple[Dim, ...]:
    """The shape of a value."""
    return v.shape


@attribute
def permuted(shape: tuple[Any, ...], perm: tuple[int, ...]) -> tuple[Any, ...]:
    """One item per axis, in the order after a transpose."""
    return tuple(shape[p] for p in perm)


@attribute
def swapped(perm: tuple[int, ...]) -> tuple[int, ...]:
    """A permutation followed by an exchange of the last two axes."""
    return (*perm[:-2], perm[-1], perm[-2])


@attribute
def added(a: tuple[Dim, ...], b: tuple[Dim, ...]) -> tuple[Dim, ...]:
    """Sums axis by axis."""
    return tuple(x + y for x, y in zip(a, b, strict=True))


@attribute
def multiplied(a: tuple[Dim, ...], b: tuple[Dim, ...]) -> tuple[Dim, ...]:
    """Products axis by axis."""
    return tuple(x * y for x, y in zip(a, b, strict=True))


@attribute
def nested_starts(
    outer: tuple[Dim, ...], inner: tuple[Dim, ...], steps: tuple[Dim, ...]
) -> tuple[Dim, ...]:
    """Starts of a slice of a slice."""
    return tuple(i + o * s for o, i, s in zip(outer, inner, steps, strict=True))


@attribute
def negated(flag: bool) -> bool:
    """The other value of a flag."""
    return not flag


@attribute
def source_axes(axes: tuple[int, ...], perm: tuple[int, ...]) -> tuple[int, ...]:
    """The axes before a transpose that ``axes`` are after it."""
    return tuple(sorted(perm[a] for a in axes))


# -- conditions --------------------------------------------------------------------------------


def _same_shape(m: Match) -> Answer:
    return m["x"].shape == m.root.out.shape or "the shape changes"


def added_units(wide: tuple[Dim, ...], narrow: tuple[Dim, ...]) -> tuple[int, ...] | None:
    """Axes of size 1 of ``wide`` without which it is ``narrow``; None where there are no such."""
    units, rest = [], list(narrow)
    for axis, size in reversed(list(enumerate(wide))):
        if rest and rest[-1] == size:
            rest.pop()
        elif size == 1:
            units.append(axis)
        else:
            return None
    return None if rest else tuple(units)


@attribute
def without_units(shape: tuple[Dim, ...], wide: tuple[Dim, ...], narrow: tuple[Dim, ...]
                  ) -> tuple[Dim, ...]:
    """``shape``, which broadcasts to ``wide``, without the axes that ``narrow`` lacks."""
    units, before = added_units(wide, narrow) or (), len(wide) - len(shape)
    return tuple(size for axis, size in enumerate(shape, before) if axis not in units)


def _units_around(m: Match) -> Answer:
    wide, narrow = m["t"], m.root.out.shape
    if m["x"].shape != narrow or not added_units(wide, narrow):
        return "the reshapes do more than to add axes of size 1 and to drop them"
    return broadcasts_into(m["C"].shape, wide) or "the constant widens the value"


def _identity(m: Match) -> Answer:
    return is_identity(m["p"]) or "the axes move"


def _unit_moves(m: Match) -> Answer:
    if is_identity(m["p"]):
        return "nothing moves"
    return moves_only_units(m["p"], m["x"].shape) or "axes of more than one element move"


def _swaps_last_two(m: Match) -> Answer:
    p = m["p"]
    n = len(p)
    return p == (*range(n - 2), n - 1, n - 2) or f"{p} is not an exchange of the last two axes"


def _covers_whole(m: Match) -> Answer:
    whole = all(s == 0 for s in m["a"]) and all(s == 1 for s in m["t"])
    return (whole and m["n"] == m["x"].shape) or "the slice leaves something out"


def _no_padding(m: Match) -> Answer:
    return all(w == 0 for w in (*m["l"], *m["h"])) or "there is padding"


def _inner_concats_are_private(m: Match) -> Answer:
    """Taking apart a concat that others need reads its operands twice and saves nothing."""
    for part in m["xs"]:
        users = m.graph.users(part)
        if part.node.op == "concat" and (len(users) > 1 or part in m.graph.output_values):
            return "an inner concat is used outside the match, too"
    return True


def _one_operand(m: Match) -> Answer:
    return len(m["xs"]) == 1 or "there are several operands"


def _no_expansion_needed(m: Match) -> Answer:
    x, y = m["x"], m["y"]
    result = m.root.out.shape
    if broadcasts_into(x.shape, result) and y.shape == result:
        return True
    return "the other operand does not have the result's shape"


def _order_kept(m: Match) -> Answer:
    if m["k"]:
        return "the reduced axes stay"
    left = [p for i, p in enumerate(m["p"]) if i not in m["a"]]
    return left == sorted(left) or "the remaining axes change their order"


def _same_mode(m: Match) -> Answer:
    return m["m"] == "constant" or "not padded by a value"


def _unit_axes(m: Match) -> Answer:
    shape = m["x"].shape
    if m["kd"] not in ("max", "min"):
        return "a sum over one element turns -0.0 into 0.0"
    return any(shape[a] == 1 for a in m["a"]) or "no reduced axis has size 1"


def _whole_rows(m: Match) -> Answer:
    x, i, u = m["x"], m.root.operands[1], m["u"]
    if x.rank == 0 or i.shape[1:] != x.shape[1:] or i.shape != u.shape:
        return "only a part of each row is written"
    return True


def _rows(m: Match) -> Answer:
    x, w = m["x"], m["W"]
    if w.rank != 2 or x.rank < 2:
        return "the constant is not one matrix"
    inner = w.shape[1 if m["t"] else 0]
    if x.shape[-1] != inner:
        return "the summed axis is split or merged"
    result = (*x.shape[:-1], w.shape[0 if m["t"] else 1])
    return result == m.root.out.shape or "the result has another shape"


def _row_vector(m: Match) -> Answer:
    return all(d == 1 for d in m["B"].shape[:-1]) or "the sum varies along the rows"


# -- terms -------------------------------------------------------------------------------------


@term
def slice_of_parts(b: Builder, parts: tuple[Value, ...], axis: int, starts: tuple[Dim, ...],
                   sizes: tuple[Dim, ...], steps: tuple[Dim, ...]) -> Value:  # fmt: skip
    """A slice of a concat as a slice of the only operand it touches, concats of concats too."""
    start, size, step = starts[axis], sizes[axis], steps[axis]
    if step != 1:
        raise Refusal("the slice has steps along the axis of the concat")
    offset: Dim = 0
    for part in parts:
        extent = part.shape[axis]
        if known_ge(start, offset) and known_ge(offset + extent, start + size):
            moved = (*starts[:axis], start - offset, *starts[axis + 1 :])
            if part.node.op == "concat":
                inner = part.node.attrs["axis"]
                return slice_of_parts(b, part.node.operands, inner, moved, sizes, steps)
            return b.op("slice", part, starts=moved, sizes=sizes, steps=steps)
        offset = offset + extent
    raise Refusal("the slice crosses the border of two operands")


@term
def only(b: Builder, parts: tuple[Value, ...]) -> Value:
    """The one operand of a list."""
    return parts[0]


@term
def reduced_rest(b: Builder, x: Value, kind: str, axes: tuple[int, ...]) -> Value:
    """A reduction with its axes of size 1 left out; all dimensions are kept."""
    rest = tuple(a for a in axes if x.shape[a] != 1)
    return b.op("reduce", x, kind=kind, axes=rest, keepdims=True) if rest else x


@term
def flat_concat(b: Builder, parts: tuple[Value, ...], axis: int) -> Value:
    """A concat whose operands along the same axis are taken apart, neighboring slices of one value
    are joined and empty operands dropped."""
    flat: list[Value] = []
    for part in parts:
        inner = part.node
        same = inner.op == "concat" and inner.attrs["axis"] == axis
        flat.extend(inner.operands if same else (part,))
    flat = [v for v in flat if v.shape[axis] != 0] or flat[:1]
    joined = [flat[0]]
    for v in flat[1:]:
        merged = _join(b, joined[-1], v, axis)
        if merged is None:
            joined.append(v)
        else:
            joined[-1] = merged
    if tuple(joined) == parts:
        raise Refusal("no operands can be joined")
    return joined[0] if len(joined) == 1 else b.op("concat", *joined, axis=axis)


def _join(b: Builder, left: Value, right: Value, axis: int) -> Value | None:
    """Two slices of one value that touch along ``axis``, as one slice."""
    x, y = left.node, right.node
    if x.op != "slice" or y.op != "slice" or x.inputs != y.inputs:
        return None
    p, q = x.attrs, y.attrs
    touching = q["starts"][axis] == p["starts"][axis] + p["sizes"][axis]
    if not touching or p["steps"] != q["steps"] or p["steps"][axis] != 1:
        return None
    for k in range(left.rank):
        if k != axis and (p["starts"][k], p["sizes"][k]) != (q["starts"][k], q["sizes"][k]):
            return None
    sizes = list(p["sizes"])
    sizes[axis] = sizes[axis] + q["sizes"][axis]
    return b.op("slice", *x.inputs, starts=p["starts"], sizes=sizes, steps=p["steps"])


@term
def pick(b: Builder, x: Value, index: Value, axis: int) -> Value:
    """A gather at one constant position, or at evenly spaced ones, as a slice."""
    extent = x.shape[axis]
    first, count, step = _progression(b, index)
    if isinstance(first, int) and first < 0:
        first = first + extent
    last = first + (count - 1) * step
    inside = known_ge(first, 0) and known_ge(extent - 1, first)
    if not (inside and known_ge(last, 0) and known_ge(extent - 1, last)):
        raise Refusal(f"positions {first} to {last} may lie outside of {extent}")
    starts = [0] * x.rank
    starts[axis] = first
    sizes = [count if k == axis else d for k, d in enumerate(x.shape)]
    steps = [step if k == axis else 1 for k in range(x.rank)]
    cut = b.op("slice", x, starts=starts, sizes=sizes, steps=steps)
    shape = (*x.shape[:axis], *index.shape, *x.shape[axis + 1 :])
    return b.op("reshape", cut, shape=shape)


def _progression(b: Builder, index: Value) -> tuple[Any, int, int]:
    """(first, count, step) of an index tensor whose elements are evenly spaced."""
    values = b.dims_value(index)
    if values is None or values.size == 0 or values.size > 4096:
        raise Refusal("the positions are not known")
    flat = list(values.reshape(-1))
    if len(flat) == 1:
        return flat[0], 1, 1
    step = flat[1] - flat[0]
    if not isinstance(step, int) or step == 0:
        raise Refusal("the positions are not evenly spaced")
    if any(y - x != step for x, y in itertools.pairwise(flat)):
        raise Refusal("the positions are not evenly spaced")
    if any(isinstance(v, int) and v < 0 for v in flat):
        raise Refusal("several positions count from the end")
    return flat[0], len(flat), step


@term
def row_numbers(b: Builder, index: Value) -> Value:
    """Positions ``[n, ...]`` that are the same along all axes but the first, as ``[n, 1]``."""
    rows = index.shape[0]
    while any(d != 1 for d in index.shape[1:]):
        source = index.node.operands[0] if index.node.op in ("expand", "reshape") else None
        if source is None or source.rank == 0 or source.shape[0] != rows:
            raise Refusal("the positions may differ inside a row")
        if index.node.op == "expand" and source.rank != index.rank:
            raise Refusal("the positions are broadcast to more axes")
        index = source
    return index if index.rank == 2 else b.op("reshape", index, shape=(rows, 1))


@term
def turned_view(b: Builder, x: Value, middle: Value, perm: tuple[int, ...], shape: Any) -> Value:
    """A reshape of a transpose of a reshape that is a transpose, or the reshape of one."""
    turned = tuple(middle.shape[p] for p in perm)
    plan = turned_reshape(turned, shape, perm)
    if plan is None or not is_identity(plan.before):
        raise Refusal("the reshapes join or split what the transpose moves")
    if plan.shape != x.shape:
        raise Refusal("a reshape would be left before the transpose")
    return b.op("transpose", x, perm=plan.perm)


@term
def padded_conv(b: Builder, x: Value, w: Value, zero: Value, lo: Any, hi: Any, a: Attrs) -> Value:
    """A convolution that pads by itself what was padded with zeros before."""
    if scalar_of(b.constants, zero) != 0:
        raise Refusal("the padding is not zero")
    attrs = {**a, **_window_pads(lo, hi, a)}
    return b.op("conv", x, w, **attrs)


@term
def padded_pool(b: Builder, x: Value, fill: Value, lo: Any, hi: Any, a: Attrs) -> Value:
    """A pool that pads by itself what was padded with its neutral element before."""
    from ...ir.ops.reduction import identity

    neutral = identity(a["kind"], x.dtype)
    if scalar_of(b.constants, fill) != neutral:
        raise Refusal("the padding is not neutral")
    return b.op("pool", x, **{**a, **_window_pads(lo, hi, a)})


def _window_pads(lo: Any, hi: Any, a: Attrs) -> dict[str, Any]:
    spatial = slice(2, None) if a["layout"] == "first" else slice(1, -1)
    others = [k for k in range(len(lo)) if k not in range(len(lo))[spatial]]
    if any(lo[k] != 0 or hi[k] != 0 for k in others):
        raise Refusal("batch or channels are padded")
    widths = (*lo[spatial], *hi[spatial])
    if not all(isinstance(w, int) and w >= 0 for w in widths):
        raise Refusal("the padding is negative or not known")
    return {
        "pads_lo": added(a["pads_lo"], lo[spatial]),
        "pads_hi": added(a["pads_hi"], hi[spatial]),
    }


@term
def same_pad(b: Builder, x: Value, v: Value, lo: Any, hi: Any) -> Value:
    """Two paddings by the same value as one."""
    if not all(isinstance(w, int) and w >= 0 for w in (*lo, *hi)):
        raise Refusal("a padding is negative or not known")
    return b.op("pad", x, v, lo=lo, hi=hi, mode="constant")


RULES: tuple[Rule, ...] = (
    # a reshape to the shape that is there
    Rule("reshape_same", "reshape(x, shape=s)", "x", when=(_same_shape,)),
    # the last of two reshapes decides
    Rule("reshape_reshape", "reshape(reshape(x), shape=s)", "reshape(x, shape=s)", shared=True),
    # axes of size 1 around an elementwise operation with a constant
    Rule("reshape_units_binary", "reshape(binary(f, reshape(x, shape=t), C), shape=s)",
         "binary(f, x, fold(reshape(C, shape=without_units(shape_of(C), t, s))))",
         when=(_units_around,), sizes="x[a,b] C[a,1,b] t[a,1,b] s[a,b]"),
    # a transpose that moves nothing
    Rule("transpose_same", "transpose(x, perm=p)", "x", when=(_identity,)),
    # moving only axes of size 1 keeps the order of the elements
    Rule("transpose_units", "transpose(x, perm=p)", "reshape(x, shape=permuted(shape_of(x), p))",
         when=(_unit_moves,)),
    # transposes compose
    Rule("transpose_transpose", "transpose(transpose(x, perm=p), perm=q)",
         "transpose(x, perm=compose(p, q))", shared=True),
    # f(x^p)^q = f(x^pq)
    Rule("transpose_unary", "transpose(unary(f, transpose(x, perm=p)), perm=q)",
         "unary(f, transpose(x, perm=compose(p, q)))"),
    # f(x^p, y^p)^q = f(x^pq, y^pq)
    Rule("transpose_binary",
         "transpose(binary(f, transpose(x, perm=p), transpose(y, perm=p)), perm=q)",
         "binary(f, transpose(x, perm=compose(p, q)), transpose(y, perm=compose(p, q)))",
         sizes="x[a,b,c] y[a,b,c]"),
    # split, transposed and merged again: a transpose
    Rule("reshape_transpose_reshape",
         "reshape(transpose((y := reshape(x)), perm=p), shape=s)", "turned_view(x, y, p, s)",
         sizes="x[a,b,c]"),
    # (x as rows) A, back in the shape of x: a product of stacks with one matrix needs no rows
    Rule("reshape_dot", "reshape(dot(reshape(x), W, ta=False, tb=t, **a), shape=s)",
         "dot(x, W, ta=False, tb=t, **a)", when=(_rows,), sizes="x[a,b,k] W[k,m]"),
    # the same with a row vector added
    Rule("reshape_dot_add", "reshape(dot((y := reshape(x)), W, ta=False, tb=t, **a) + B, shape=s)",
         "dot(x, W, ta=False, tb=t, **a) + B", when=(_rows, _row_vector),
         sizes="x[a,b,k] W[k,m] B[m]"),
    # a b with b stored transposed
    Rule("dot_transpose_b", "dot(x, transpose(y, perm=p), ta=s, tb=t, **a)",
         "dot(x, y, ta=s, tb=negated(t), **a)", when=(_swaps_last_two,), shared=True),
    # a b with a stored transposed
    Rule("dot_transpose_a", "dot(transpose(x, perm=p), y, ta=s, tb=t, **a)",
         "dot(x, y, ta=negated(s), tb=t, **a)", when=(_swaps_last_two,), shared=True),
    # a broadcast to the shape that is there
    Rule("expand_same", "expand(x, shape=s)", "x", when=(_same_shape,)),
    # the outer of two broadcasts decides
    Rule("expand_expand", "expand(expand(x), shape=s)", "expand(x, shape=s)", shared=True),
    # elementwise ops broadcast by themselves
    Rule("binary_expand_left", "binary(f, expand(x), y)", "binary(f, x, y)",
         when=(_no_expansion_needed,), shared=True),
    Rule("binary_expand_right", "binary(f, y, expand(x))", "binary(f, y, x)",
         when=(_no_expansion_needed,), shared=True),
    # a slice of everything
    Rule("slice_all", "slice(x, starts=a, sizes=n, steps=t)", "x", when=(_covers_whole,)),
    # a slice of a slice
    Rule("slice_slice", "slice(slice(x, starts=a, steps=s), starts=c, sizes=n, steps=t)",
         "slice(x, starts=nested_starts(c, a, s), sizes=n, steps=multiplied(s, t))", shared=True),
    # a slice of one operand of a concat
    Rule("slice_concat", "slice(concat(*xs, axis=k), starts=a, sizes=n, steps=t)",
         "slice_of_parts(xs, k, a, n, t)", shared=True),
    # a concat of one
    Rule("concat_one", "concat(*xs, axis=k)", "only(xs)", when=(_one_operand,)),
    # concats along one axis merge, slices side by side join, empty operands go
    Rule("concat_flat", "concat(*xs, axis=k)", "flat_concat(xs, k)", shared=True,
         when=(_inner_concats_are_private,)),
    # no padding at all
    Rule("pad_none", "pad(x, v, lo=l, hi=h)", "x", when=(_no_padding,)),
    # two paddings by one value
    Rule("pad_pad", "pad(pad(x, v, lo=l, hi=h, mode=m), v, lo=a, hi=c, mode=m)",
         "same_pad(x, v, added(l, a), added(h, c))", when=(_same_mode,), shared=True,
         sizes="x[a,b] v[]"),
    # zeros around the image are the convolution's own padding
    Rule("conv_pad", "conv(pad(x, Z, lo=l, hi=h, mode='constant'), w, **a)",
         "padded_conv(x, w, Z, l, h, a)", sizes="x[n,c,h,w] w[m,c,k,k] Z[]"),
    # neutral elements around the image are the pool's own padding
    Rule("pool_pad", "pool(pad(x, Z, lo=l, hi=h, mode='constant'), **a)",
         "padded_pool(x, Z, l, h, a)", sizes="x[n,c,h,w] Z[]"),
    # a gather at known, evenly spaced positions is a slice
    Rule("gather_slice", "gather(x, I, axis=k)", "pick(x, I, k)"),
    Rule("gather_dims", "gather(x, (y := dims()), axis=k)", "pick(x, y, k)"),
    # positions that are the same for all of a row address whole rows
    Rule("scatter_rows", "scatter_elements(x, expand(i), u, axis=0, reduction=r)",
         "scatter_nd(x, row_numbers(i), u, reduction=r)", when=(_whole_rows,), shared=True,
         sizes="x[a,b] i[c,1] u[c,b]"),
    # a reduction does not care for the order of the axes
    Rule("reduce_transpose", "reduce(transpose(x, perm=p), kind=kd, axes=a, keepdims=k)",
         "reduce(x, kind=kd, axes=source_axes(a, p), keepdims=k)", when=(_order_kept,),
         exact=False, shared=True),
    # the largest of one element
    Rule("reduce_units", "reduce(x, kind=kd, axes=a, keepdims=True)",
         "reduced_rest(x, kd, a)",
         when=(_unit_axes,)),
)
