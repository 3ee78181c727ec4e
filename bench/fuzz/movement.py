"""Makers of nodes that move elements: views, slices, joins, padding, gathering, scattering."""

from __future__ import annotations

from typing import Any

import numpy as np
from onnx import helper

from .sketch import BOOL, FLOATS, I32, I64, INTEGERS, Misfit, Sketch, Var, draw, np_of

ANY = (*FLOATS, *INTEGERS, BOOL)


def _some(s: Sketch, low: int = 0, high: int = 5, static: bool = False) -> Var:
    def fits(v: Var) -> bool:
        return v.static if static else v.known

    if s.flag(0.75):
        return s.floats(low, high, fits)
    return s.value(ANY, low, high, fits)


def transpose(s: Sketch) -> Any:
    """Transpose; sometimes its inverse follows."""
    x = _some(s, 2)
    perm = [int(p) for p in s.rng.permutation(x.rank)]
    y = s.op("Transpose", [x], bound=x.bound, perm=perm)
    if s.flag(0.25):
        y = s.op(s.choice(("Relu", "Neg", "Abs", "Identity")), [y], bound=x.bound)
        return s.op("Transpose", [y], bound=x.bound, perm=[perm.index(k) for k in range(x.rank)])
    return y


def reshape(s: Sketch) -> Any:
    """Reshape with literal sizes, 0 and -1; neighbors merged or one axis split."""
    x = _some(s, 1)
    shape: list[int] = []
    free = True
    for k in range(x.rank):
        d = x.shape[k]
        if not x.fixed(k):
            if k == len(shape) and s.flag(0.6):
                shape.append(0)
            elif free:
                shape.append(-1)
                free = False
            else:
                raise Misfit("two sizes are open")
            continue
        assert d is not None
        factors = [f for f in range(2, d) if d % f == 0]
        if factors and s.flag(0.4):
            f = s.choice(factors)
            shape += [f, d // f]
        elif shape and shape[-1] > 0 and d > 0 and s.flag(0.4):
            shape[-1] *= d
        else:
            shape.append(d)
    if s.flag(0.2):
        shape.insert(s.number(0, len(shape)), 1)
    if free and shape and 0 not in x.shape and s.flag(0.3):
        shape[s.number(0, len(shape) - 1)] = -1
    if len(shape) > 6:
        raise Misfit("too many axes")
    if any(d == 0 and x.fixed(min(k, x.rank - 1)) for k, d in enumerate(shape)):
        return s.op("Reshape", [x, s.ints(shape)], bound=x.bound, allowzero=1)
    return s.op("Reshape", [x, s.ints(shape)], bound=x.bound)


def reshape_by_shape(s: Sketch) -> Any:
    """The sizes of a value, picked and joined at run time, as another's shape."""
    x = s.floats(2, 4, lambda v: v.known)
    whole = s.op("Shape", [x], reuse=False)
    first = s.op("Gather", [whole, s.const(np.array(0, np.int64))], reuse=False, axis=0)
    head = s.op("Unsqueeze", [first, s.ints([0])], reuse=False)
    target = s.op("Concat", [head, s.ints([-1])], reuse=False, axis=0)
    # One-node inference cannot follow values: the shape is known to the maker.
    y = s.ops("Reshape", [x, s.const(np.array([0, -1]))], bound=x.bound, reuse=False)[0]
    s.nodes[-1].input[1] = target.name
    s.pool.append(y)
    return y


def flatten(s: Sketch) -> Any:
    """Flatten, Squeeze or Unsqueeze."""
    kind = s.choice(("Flatten", "Squeeze", "Unsqueeze"))
    x = _some(s, 1, 4)
    if kind == "Flatten":
        return s.op(kind, [x], bound=x.bound, axis=s.number(-x.rank, x.rank))
    if kind == "Squeeze":
        ones = [k for k in range(x.rank) if x.fixed(k) and x.shape[k] == 1]
        if not ones:
            raise Misfit("no axis of size 1")
        axes = [k - x.rank if s.flag(0.3) else k for k in ones if s.flag(0.7)] or ones
        return s.op(kind, [x, s.ints(axes)], bound=x.bound)
    count = s.number(1, 2)
    axes = sorted({s.number(0, x.rank + count - 1) for _ in range(count)})
    return s.op(kind, [x, s.ints(axes)], bound=x.bound)


def expand(s: Sketch) -> Any:
    """Expand to literal sizes, or to the shape of another value; Tile."""
    x = _some(s, 0, 4)
    if s.flag(0.3):
        repeats = [s.choice((1, 1, 2, 3)) for _ in range(x.rank)]
        return s.op("Tile", [x, s.ints(repeats)], bound=x.bound)
    shape = [s.choice((1, 2, 3, 5)) if d == 1 and x.fixed(k) else (int(d or 0) if x.fixed(k) else 1)
             for k, d in enumerate(x.shape)]
    shape = [1 if s.flag(0.2) else d for d in shape]
    lead = [s.choice((1, 2, 3))] if s.flag(0.4) and x.rank < 4 else []
    return s.op("Expand", [x, s.ints([*lead, *shape])], bound=x.bound)


def slice_(s: Sketch) -> Any:
    """Slice with any step, clamped and negative ends."""
    x = _some(s, 1)
    axes, starts, ends, steps = [], [], [], []
    for k in range(x.rank):
        if not s.flag(0.6):
            continue
        d = int(x.shape[k] or 0)
        step = s.choice((1, 1, 1, 2, 3, -1, -1, -2))
        low, high = sorted((s.number(-d - 1, d + 1), s.number(-d - 1, d + 1)))
        axes.append(k if s.flag(0.7) else k - x.rank)
        starts.append(low if step > 0 else s.choice((high, -1)))
        ends.append(s.choice((high, 2**31 - 1, 2**63 - 1)) if step > 0
                    else s.choice((low, -(2**31), -(2**63))))
        steps.append(step)
    if not axes:
        raise Misfit("no axis")
    kind = s.choice((I64, I64, I32))
    if kind == I32:
        starts, ends = ([int(np.clip(v, -(2**31), 2**31 - 1)) for v in p] for p in (starts, ends))
    parts = [s.ints(p, kind) for p in (starts, ends, axes, steps)]
    return s.op("Slice", [x, *parts], bound=x.bound)


def concat(s: Sketch) -> Any:
    """Concat of values that agree but for one axis, of slices, or of one value twice."""
    x = _some(s, 1)
    axis = s.number(0, x.rank - 1)

    def fits(v: Var) -> bool:
        return v.dtype == x.dtype and v.rank == x.rank and all(
            a[:axis] + a[axis + 1 :] == b[:axis] + b[axis + 1 :]
            for a, b in zip(v.shapes, x.shapes))

    found = [v for v in s.pool if fits(v)]
    parts = [x, *(s.choice(found) for _ in range(s.number(0, 3)))]
    s.rng.shuffle(parts)
    if s.flag(0.3) and x.static:
        shape = [int(d or 0) for d in x.shape]
        shape[axis] = s.choice((0, 1, 2, 5))
        law = "whole" if x.floating else "small"
        parts.append(s.const(draw(law, x.dtype, tuple(shape), s.rng)))
    return s.op("Concat", parts, bound=max(p.bound for p in parts),
                axis=axis if s.flag(0.7) else axis - x.rank)


def split(s: Sketch) -> Any:
    """Split, evenly or by given sizes."""
    x = _some(s, 1)
    axis = s.choice([k for k in range(x.rank) if x.fixed(k)])
    d = int(x.shape[axis] or 0)
    count = s.number(1, min(3, max(d, 1)))
    if s.flag(0.5):
        return s.ops("Split", [x], count, bound=x.bound, axis=axis, num_outputs=count)
    cuts = sorted(s.number(0, d) for _ in range(count - 1))
    sizes = np.diff([0, *cuts, d])
    return s.ops("Split", [x, s.ints(sizes.tolist())], count, bound=x.bound, axis=axis)


def pad(s: Sketch) -> Any:
    """Pad in every mode, negative widths among them."""
    x = _some(s, 1, 4)
    mode = s.choice(("constant", "constant", "edge", "reflect", "wrap"))
    lows, highs = [], []
    for k in range(x.rank):
        d = min(int(t[k] or 0) for t in x.shapes)
        most = 3 if mode == "constant" else 2 if mode == "edge" else min(2, d - 1)
        if d == 0 and mode != "constant":
            most = 0
        lows.append(s.number(0, max(most, 0)) if s.flag() else 0)
        highs.append(s.number(0, max(most, 0)) if s.flag() else 0)
        if mode == "constant" and d > 1 and s.flag(0.1):
            lows[-1] = -1
    operands: list[Var | None] = [x, s.ints([*lows, *highs])]
    if mode == "constant" and s.flag(0.6):
        value = s.choice((0.0, 1.0, 2.0)) if x.dtype == BOOL or not x.floating else s.choice(
            (0.0, -0.0, 1.5, -np.inf, np.nan if s.special else 0.5))
        operands.append(s.scalar(value, x))
    return s.op("Pad", operands, bound=x.bound if x.bound > 2 else np.inf, mode=mode)


def gather(s: Sketch) -> Any:
    """Gather, GatherElements, GatherND by constant or fed positions, negative ones among them."""
    kind = s.choice(("Gather", "Gather", "GatherElements", "GatherND"))
    x = _some(s, 1, 4)
    axes = [k for k in range(x.rank) if x.fixed(k) and x.shape[k]]
    index = s.choice((I64, I64, I32))
    if kind == "Gather":
        axis = s.choice(axes)
        d = int(x.shape[axis] or 1)
        if s.flag(0.3):  # evenly spaced: a slice
            step, count = s.choice((1, 1, 2)), s.number(1, d)
            where = s.ints(list(range(0, d, step))[:count], index)
        else:
            shape = s.shape_of_rank(s.number(0, 2), 12)
            where = s.fresh(index, shape, f"around:{d}", reuse=False)
        return s.op(kind, [x, where], bound=x.bound, axis=axis if s.flag(0.7) else axis - x.rank)
    if not x.static or 0 in x.shape:
        raise Misfit("sizes are open")
    sizes = [int(d or 0) for d in x.shape]
    if kind == "GatherElements":
        axis = s.choice(axes)
        shape = tuple(s.number(1, min(d, 5)) for d in sizes)
        where = s.fresh(index, shape, f"around:{sizes[axis]}", reuse=False)
        return s.op(kind, [x, where], bound=x.bound, axis=axis)
    batch = s.number(0, x.rank - 1) if s.flag(0.3) else 0
    depth = s.number(1, x.rank - batch)
    rows = (*sizes[:batch], *(s.number(1, 3) for _ in range(s.number(0, 2))))
    columns = [s.rng.integers(-d, d, rows) for d in sizes[batch : batch + depth]]
    where = s.const(np.stack(columns, -1).astype(np.int64))
    return s.op(kind, [x, where], bound=x.bound, batch_dims=batch)


def scatter(s: Sketch) -> Any:
    """ScatterElements and ScatterND; positions are distinct where their order would matter."""
    x = _some(s, 1, 4, static=True)
    if 0 in x.shape or x.dtype == BOOL:
        raise Misfit("nothing to scatter into")
    sizes = [int(d or 0) for d in x.shape]
    how = s.choice(("none", "none", "add", "mul", "max", "min")) if s.opset >= 18 else "none"
    law = "small" if not x.floating else s.choice(("normal", "whole"))
    if s.flag():
        axis = s.number(0, x.rank - 1)
        shape = [s.number(1, min(d, 4)) for d in sizes]
        if how == "none":  # every line its own permutation
            lines = [s.rng.permutation(sizes[axis])[: shape[axis]]
                     for _ in range(int(np.prod(shape)) // shape[axis])]
            where = np.moveaxis(np.array(lines).reshape(
                [d for k, d in enumerate(shape) if k != axis] + [shape[axis]]), -1, axis)
        else:
            where = s.rng.integers(-sizes[axis], sizes[axis], shape)
        return s.op("ScatterElements", [x, s.const(where.astype(np.int64)), s.const(
            draw(law, x.dtype, tuple(shape), s.rng))], axis=axis, reduction=how)
    depth = s.number(1, x.rank)
    total = int(np.prod(sizes[:depth]))
    count = s.number(1, min(total, 4))
    flat = (s.rng.permutation(total)[:count] if how == "none" else s.rng.integers(0, total, count))
    where = np.stack(np.unravel_index(flat, sizes[:depth]), -1).astype(np.int64)
    updates = draw(law, x.dtype, (count, *sizes[depth:]), s.rng)
    return s.op("ScatterND", [x, s.const(where), s.const(updates)], reduction=how)


def trilu(s: Sketch) -> Any:
    """Trilu, EyeLike, DepthToSpace, SpaceToDepth, ReverseSequence, OneHot."""
    kind = s.choice(("Trilu", "EyeLike", "DepthToSpace", "SpaceToDepth", "ReverseSequence",
                     "OneHot"))
    if kind == "Trilu":
        x = _some(s, 2)
        k = [s.const(np.array(s.number(-3, 3), np.int64))] if s.flag(0.6) else []
        return s.op(kind, [x, *k], bound=x.bound, upper=s.number(0, 1))
    if kind == "EyeLike":
        x = _some(s, 2, 2)
        more = {"dtype": s.choice((1, 7, 9, 10))} if s.flag() else {}
        return s.op(kind, [x], bound=1, k=s.number(-2, 2), **more)
    if kind == "ReverseSequence":
        x = _some(s, 2, 4)
        if not (x.fixed(0) and x.fixed(1)) or 0 in x.shape:
            raise Misfit("sizes are open")
        a, b = int(x.shape[0] or 0), int(x.shape[1] or 0)
        batch = s.number(0, 1)
        lengths = s.rng.integers(1, (b if batch == 0 else a) + 1, a if batch == 0 else b)
        return s.op(kind, [x, s.ints(lengths.tolist())], bound=x.bound, batch_axis=batch,
                    time_axis=1 - batch)
    if kind == "OneHot":
        depth = s.number(1, 5)
        where = s.fresh(s.choice((I64, I32)), s.shape_of_rank(s.number(0, 2), 40),
                        f"around:{depth}", reuse=False)
        pair = s.const(np.array([0.5, 2.0]).astype(np_of(s.real)))
        return s.op(kind, [where, s.const(np.array(depth, np.int64)), pair], bound=2,
                    axis=s.number(-1, where.rank))
    size = s.choice((2, 2, 3))
    x = s.floats(4, 4, lambda v: v.known and (
        v.fixed(1) and (v.shape[1] or 1) % size**2 == 0 if kind == "DepthToSpace"
        else all(v.fixed(k) and (v.shape[k] or 1) % size == 0 for k in (2, 3))))
    more = {"mode": s.choice(("DCR", "CRD"))} if kind == "DepthToSpace" else {}
    return s.op(kind, [x], bound=x.bound, blocksize=size, **more)


def make_range(s: Sketch) -> Any:
    """Range, ConstantOfShape and Shape: what models compute about sizes."""
    kind = s.choice(("Range", "ConstantOfShape", "Shape", "Size"))
    if kind in ("Shape", "Size"):
        x = _some(s, 0, 5)
        start = kind == "Shape" and s.flag(0.4)
        more: dict[str, Any] = {"start": s.number(-1, 1)} if start else {}
        return s.op(kind, [x], bound=1e4, **more)
    if kind == "Range":
        real = s.flag(0.4)
        kind_ = np.float32 if real else np.int64
        ends = [s.number(-3, 3), s.number(-5, 20), s.choice((1, 2, 3))]
        return s.op(kind, [s.const(np.array(v, kind_)) for v in ends], bound=20)
    shape = s.ints([s.number(0, 4) for _ in range(s.number(0, 3))])
    value = helper.make_tensor("value", s.choice((1, 7, 6, 9, 10)), [1], [1])
    return s.op(kind, [shape], bound=1, value=value)


MAKERS = {transpose: 6, reshape: 6, reshape_by_shape: 1, flatten: 3, expand: 3, slice_: 6,
          concat: 5, split: 3, pad: 4, gather: 5, scatter: 3, trilu: 2, make_range: 1}
"""Makers and how often they are drawn."""
