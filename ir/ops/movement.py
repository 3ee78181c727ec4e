"""Ops that move elements without computing: views, slices, padding, joins, gathers, scatters."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from ..access import AccessMap, Cond, Gathered, Region, broadcast_index, reshape_index
from ..dim_functions import dmin, mod
from ..dims import Dim, product
from ..errors import ModelError
from ..types import TensorType
from .base import Attributes, OpDef, broadcast_shapes, register, sum_dims, tensor

_MOVE = frozenset({"movement"})
Index = tuple[Dim, ...]


# -- reshape, transpose, expand ----------------------------------------------------------------


def _infer_reshape(types: tuple[Any, ...], attrs: Attributes) -> tuple[Any, ...]:
    t = tensor(types[0], "reshape")
    old, new = t.numel(), product(attrs["shape"])
    if isinstance(old, int) and isinstance(new, int) and old != new:
        raise ModelError(f"reshape: {t} has {old} elements, {attrs['shape']} has {new}")
    return (t.with_shape(tuple(attrs["shape"])),)


def _access_reshape(types: Any, attrs: Attributes, index: Index, fresh: Any) -> AccessMap:
    return AccessMap((Region(0, reshape_index(types[0].shape, attrs["shape"], index)),))


def _ref_reshape(args: Any, attrs: Attributes, types: Any) -> tuple[Any, ...]:
    return (args[0].reshape(attrs["shape"]),)


def _infer_transpose(types: tuple[Any, ...], attrs: Attributes) -> tuple[Any, ...]:
    t = tensor(types[0], "transpose")
    if sorted(attrs["perm"]) != list(range(t.rank)):
        raise ModelError(f"transpose: {attrs['perm']} does not permute the axes of {t}")
    return (t.with_shape(tuple(t.shape[p] for p in attrs["perm"])),)


def _access_transpose(types: Any, attrs: Attributes, index: Index, fresh: Any) -> AccessMap:
    source: list[Dim] = [0] * len(index)
    for i, p in zip(index, attrs["perm"], strict=True):
        source[p] = i
    return AccessMap((Region(0, tuple(source)),))


def _infer_expand(types: tuple[Any, ...], attrs: Attributes) -> tuple[Any, ...]:
    t = tensor(types[0], "expand")
    shape = broadcast_shapes(t.shape, tuple(attrs["shape"]))
    return (t.with_shape(shape),)


def _access_expand(types: Any, attrs: Attributes, index: Index, fresh: Any) -> AccessMap:
    shape = broadcast_shapes(types[0].shape, tuple(attrs["shape"]))
    return AccessMap((Region(0, broadcast_index(types[0], shape, index)),))


def _ref_expand(args: Any, attrs: Attributes, types: Any) -> tuple[Any, ...]:
    shape = np.broadcast_shapes(args[0].shape, tuple(attrs["shape"]))
    return (np.asarray(np.broadcast_to(args[0], shape), order="C"),)


register(OpDef("reshape", (1, 1), _infer_reshape, _ref_reshape, _MOVE | {"view"}, _access_reshape,
               attrs=("shape",), doc="the same elements in row-major order, another shape"))
register(OpDef("transpose", (1, 1), _infer_transpose,
               lambda a, attrs, t: (np.asarray(a[0].transpose(attrs["perm"]), order="C"),),
               _MOVE, _access_transpose, attrs=("perm",), doc="permutes the axes"))
register(OpDef("expand", (1, 1), _infer_expand, _ref_expand, _MOVE, _access_expand,
               attrs=("shape",), doc="broadcasts to a shape (two-way, as ONNX Expand)"))


# -- slice, pad, concat ------------------------------------------------------------------------


def _infer_slice(types: tuple[Any, ...], attrs: Attributes) -> tuple[Any, ...]:
    t = tensor(types[0], "slice")
    if not len(attrs["starts"]) == len(attrs["sizes"]) == len(attrs["steps"]) == t.rank:
        raise ModelError(f"slice: starts, sizes and steps must cover every axis of {t}")
    for d, start, size, step in zip(t.shape, attrs["starts"], attrs["sizes"], attrs["steps"],
                                    strict=True):
        ints = all(isinstance(v, int) for v in (d, start, size))
        if step == 0 or (ints and size > 0 and not (
            0 <= start < d and 0 <= start + (size - 1) * step < d
        )):
            raise ModelError(f"slice: start {start} size {size} step {step} leaves axis of {d}")
    return (t.with_shape(tuple(attrs["sizes"])),)


def _access_slice(types: Any, attrs: Attributes, index: Index, fresh: Any) -> AccessMap:
    source = tuple(
        start + i * step
        for i, start, step in zip(index, attrs["starts"], attrs["steps"], strict=True)
    )
    return AccessMap((Region(0, source),))


def _ref_slice(args: Any, attrs: Attributes, types: Any) -> tuple[Any, ...]:
    cut = args[0]
    for axis, (start, size, step) in enumerate(
        zip(attrs["starts"], attrs["sizes"], attrs["steps"], strict=True)
    ):
        cut = np.take(cut, start + np.arange(max(size, 0)) * step, axis=axis)
    return (np.asarray(cut, order="C"),)


def _infer_pad(types: tuple[Any, ...], attrs: Attributes) -> tuple[Any, ...]:
    t = tensor(types[0], "pad")
    if not len(attrs["lo"]) == len(attrs["hi"]) == t.rank:
        raise ModelError(f"pad: lo and hi must cover every axis of {t}")
    if attrs["mode"] not in ("constant", "edge", "reflect", "wrap"):
        raise ModelError(f"pad: unknown mode {attrs['mode']!r}")
    for d, lo, hi in zip(t.shape, attrs["lo"], attrs["hi"], strict=True):
        if attrs["mode"] != "constant" and d == 0 and (lo, hi) != (0, 0):
            raise ModelError(f"pad: an empty axis of {t} has nothing to extend it with")
    return (t.with_shape(tuple(d + lo + hi for d, lo, hi in zip(
        t.shape, attrs["lo"], attrs["hi"], strict=True))),)


def _access_pad(types: Any, attrs: Attributes, index: Index, fresh: Any) -> AccessMap:
    t, mode = types[0], attrs["mode"]
    inner = tuple(i - lo for i, lo in zip(index, attrs["lo"], strict=True))
    padded = [not (lo == 0 and hi == 0) for lo, hi in zip(attrs["lo"], attrs["hi"], strict=True)]
    if mode == "constant":
        when = tuple(
            Cond(i, 0, d) for i, d, p in zip(inner, t.shape, padded, strict=True) if p
        )
        return AccessMap((Region(0, inner, when), Region(1, ())))
    folded = tuple(
        _fold_position(i, d, lo, mode) if p else i
        for i, d, lo, p in zip(inner, t.shape, attrs["lo"], padded, strict=True)
    )
    return AccessMap((Region(0, folded),))


def _fold_position(i: Dim, d: Dim, lo: Dim, mode: str) -> Dim:
    """Source position of padded position ``i`` (may be negative or beyond ``d``), without
    branches: every sub-expression stays non-negative, as expressions of sizes must."""
    from ..dim_functions import dmax

    if mode == "edge":
        return dmin(dmax(i, 0), d - 1)
    if mode == "wrap":
        return mod(i + lo * d, d)
    period = dmax(2 * (d - 1), 1)
    folded = mod(i + lo * period, period)
    return dmin(folded, dmax(period - folded, 0))


def _ref_pad(args: Any, attrs: Attributes, types: Any) -> tuple[Any, ...]:
    widths = list(zip(attrs["lo"], attrs["hi"], strict=True))
    if attrs["mode"] == "constant":
        return (np.pad(args[0], widths, constant_values=args[1]),)
    return (np.pad(args[0], widths, mode=attrs["mode"]),)


def _infer_concat(types: tuple[Any, ...], attrs: Attributes) -> tuple[Any, ...]:
    ts = [tensor(t, "concat") for t in types]
    axis, first = attrs["axis"], ts[0]
    if not 0 <= axis < first.rank:
        raise ModelError(f"concat: axis {axis} of {first}")
    for t in ts[1:]:
        if t.dtype != first.dtype or t.rank != first.rank:
            raise ModelError(f"concat: {first} and {t} do not match")
        for k in range(first.rank):
            a, b = first.shape[k], t.shape[k]
            if k != axis and isinstance(a, int) and isinstance(b, int) and a != b:
                raise ModelError(f"concat along {axis}: {first} and {t} do not match")
    shape = list(first.shape)
    for k in range(first.rank):
        shape[k] = next((t.shape[k] for t in ts if isinstance(t.shape[k], int)), shape[k])
    shape[axis] = sum_dims(t.shape[axis] for t in ts)
    return (first.with_shape(tuple(shape)),)


def _access_concat(types: Any, attrs: Attributes, index: Index, fresh: Any) -> AccessMap:
    axis, offset = attrs["axis"], 0
    regions: list[Region] = []
    for k, t in enumerate(types):
        i = index[axis] - offset
        at = (*index[:axis], i, *index[axis + 1 :])
        regions.append(Region(k, at, (Cond(i, 0, t.shape[axis]),)))
        offset = offset + t.shape[axis]
    return AccessMap(tuple(regions))


register(OpDef("slice", (1, 1), _infer_slice, _ref_slice, _MOVE, _access_slice,
               attrs=("starts", "sizes", "steps"), doc="start + i * step on every axis"))
register(OpDef("pad", (2, 2), _infer_pad, _ref_pad, _MOVE, _access_pad,
               attrs=("lo", "hi", "mode"), doc="surrounds with a value, edge, reflection or wrap"))
register(OpDef("concat", (1, None), _infer_concat,
               lambda a, attrs, t: (np.concatenate(a, axis=attrs["axis"]),),
               _MOVE, _access_concat, attrs=("axis",), doc="joins along an axis"))


# -- gathers -----------------------------------------------------------------------------------


def wrap_index(idx: np.ndarray, extent: int) -> np.ndarray:
    """Negative positions count from the end; raises ``IndexError`` out of range."""
    if idx.size and (idx.min() < -extent or idx.max() >= extent):
        raise IndexError(f"index {idx.min()}..{idx.max()} is out of range for size {extent}")
    return np.where(idx < 0, idx + extent, idx)


def _index_type(t: Any, op: str) -> TensorType:
    idx = tensor(t, op, "index")
    if not idx.dtype.is_integer:
        raise ModelError(f"{op}: indices must be integers, got {idx}")
    return idx


def _addresses(t: TensorType, axes: Iterable[int], out: TensorType, op: str) -> TensorType:
    """``out``, whose elements are looked up along ``axes`` of ``t``: an empty one has none."""
    count = out.numel()
    if isinstance(count, int) and count > 0 and any(t.shape[a] == 0 for a in axes):
        raise ModelError(f"{op}: {out} of {t}: an empty axis has no elements")
    return out


def _within(inner: TensorType, outer: TensorType, skip: int | None, op: str) -> None:
    """Raises where an axis of ``inner``, other than ``skip``, is longer than that of ``outer``."""
    for k, (d, e) in enumerate(zip(inner.shape, outer.shape, strict=True)):
        if k != skip and isinstance(d, int) and isinstance(e, int) and d > e:
            raise ModelError(f"{op}: axis {k} of {inner} is longer than that of {outer}")


def _same_sizes(a: Sequence[Dim], b: Sequence[Dim], what: str) -> None:
    if len(a) != len(b) or any(
        isinstance(d, int) and isinstance(e, int) and d != e for d, e in zip(a, b, strict=True)
    ):
        raise ModelError(what)


def _infer_gather(types: tuple[Any, ...], attrs: Attributes) -> tuple[Any, ...]:
    t, idx, axis = tensor(types[0], "gather"), _index_type(types[1], "gather"), attrs["axis"]
    if not 0 <= axis < t.rank:
        raise ModelError(f"gather: axis {axis} of {t}")
    out = t.with_shape((*t.shape[:axis], *idx.shape, *t.shape[axis + 1 :]))
    return (_addresses(t, (axis,), out, "gather"),)


def _access_gather(types: Any, attrs: Attributes, index: Index, fresh: Any) -> AccessMap:
    axis, r = attrs["axis"], types[1].rank
    at = index[axis : axis + r]
    where = Gathered(1, at, types[0].shape[axis])
    return AccessMap((
        Region(0, (*index[:axis], where, *index[axis + r :])),
        Region(1, at),
    ))


def _ref_gather(args: Any, attrs: Attributes, types: Any) -> tuple[Any, ...]:
    idx = wrap_index(args[1], args[0].shape[attrs["axis"]])
    return (np.take(args[0], idx.astype(np.int64), axis=attrs["axis"]),)


def _infer_gather_elements(types: tuple[Any, ...], attrs: Attributes) -> tuple[Any, ...]:
    t, idx = tensor(types[0], "gather_elements"), _index_type(types[1], "gather_elements")
    if t.rank != idx.rank or not 0 <= attrs["axis"] < t.rank:
        raise ModelError(f"gather_elements: {t} and index {idx}, axis {attrs['axis']}")
    _within(idx, t, attrs["axis"], "gather_elements")
    return (_addresses(t, (attrs["axis"],), t.with_shape(idx.shape), "gather_elements"),)


def _access_gather_elements(types: Any, attrs: Attributes, index: Index, fresh: Any) -> AccessMap:
    axis = attrs["axis"]
    where = Gathered(1, index, types[0].shape[axis])
    return AccessMap((
        Region(0, (*index[:axis], where, *index[axis + 1 :])),
        Region(1, index),
    ))


def _ref_gather_elements(args: Any, attrs: Attributes, types: Any) -> tuple[Any, ...]:
    data, idx = args
    idx = wrap_index(idx, data.shape[attrs["axis"]]).astype(np.int64)
    grid: list[np.ndarray] = list(np.indices(idx.shape, sparse=True))
    grid[attrs["axis"]] = idx
    return (data[tuple(grid)],)


def _infer_gather_nd(types: tuple[Any, ...], attrs: Attributes) -> tuple[Any, ...]:
    t, idx, b = tensor(types[0], "gather_nd"), _index_type(types[1], "gather_nd"), \
        attrs["batch_dims"]
    depth = idx.shape[-1] if idx.rank else None
    if not isinstance(depth, int) or b + depth > t.rank or b >= idx.rank:
        raise ModelError(f"gather_nd: {t}, indices {idx}, batch_dims {b}")
    _same_sizes(t.shape[:b], idx.shape[:b], f"gather_nd: {t}, indices {idx}, batch_dims {b}")
    out = t.with_shape((*idx.shape[:-1], *t.shape[b + depth :]))
    return (_addresses(t, range(b, b + depth), out, "gather_nd"),)


def _access_gather_nd(types: Any, attrs: Attributes, index: Index, fresh: Any) -> AccessMap:
    t, idx, b = types[0], types[1], attrs["batch_dims"]
    depth, lead = idx.shape[-1], idx.rank - 1
    at = index[:lead]
    where = tuple(Gathered(1, (*at, k), t.shape[b + k]) for k in range(depth))
    reads = [Region(0, (*index[:b], *where, *index[lead:]))]
    return AccessMap((*reads, *(Region(1, (*at, k)) for k in range(depth))))


def _nd_positions(idx: np.ndarray, shape: tuple[int, ...], b: int) -> tuple[np.ndarray, ...]:
    columns = [wrap_index(idx[..., k], shape[b + k]) for k in range(idx.shape[-1])]
    batch: list[np.ndarray] = list(np.indices(idx.shape[:b], sparse=True))
    batch = [g.reshape(g.shape + (1,) * (idx.ndim - 1 - b)) for g in batch]
    return (*batch, *(c.astype(np.int64) for c in columns))


def _ref_gather_nd(args: Any, attrs: Attributes, types: Any) -> tuple[Any, ...]:
    data, idx = args
    return (np.asarray(data[_nd_positions(idx, data.shape, attrs["batch_dims"])], order="C")
            .reshape(types[0].shape),)


_GATHER = frozenset({"movement", "gather"})
register(OpDef("gather", (2, 2), _infer_gather, _ref_gather, _GATHER, _access_gather,
               attrs=("axis",), doc="numpy.take along an axis"))
register(OpDef("gather_elements", (2, 2), _infer_gather_elements, _ref_gather_elements, _GATHER,
               _access_gather_elements, attrs=("axis",), doc="numpy.take_along_axis"))
register(OpDef("gather_nd", (2, 2), _infer_gather_nd, _ref_gather_nd, _GATHER, _access_gather_nd,
               attrs=("batch_dims",), doc="rows of indices address blocks of data"))


# -- scatters ----------------------------------------------------------------------------------

SCATTER_REDUCTIONS = ("none", "add", "mul", "max", "min")


def _check_scatter(types: tuple[Any, ...], attrs: Attributes, op: str) -> TensorType:
    t, idx, u = tensor(types[0], op), _index_type(types[1], op), tensor(types[2], op)
    if u.dtype != t.dtype or attrs["reduction"] not in SCATTER_REDUCTIONS:
        raise ModelError(f"{op}: data {t}, updates {u}, reduction {attrs['reduction']!r}")
    if op == "scatter_elements" and not (t.rank == idx.rank == u.rank):
        raise ModelError(f"{op}: ranks of {t}, {idx}, {u} differ")
    if op == "scatter_elements":
        _within(idx, t, attrs["axis"], op)
        _within(idx, u, None, op)
        return t
    depth = idx.shape[-1] if idx.rank else None
    if not isinstance(depth, int) or depth > t.rank:
        raise ModelError(f"{op}: indices {idx} of {t}")
    want = (*idx.shape[:-1], *t.shape[depth:])
    _same_sizes(u.shape, want, f"{op}: updates {u} for indices {idx} of {t}")
    return t


def _accumulate(out: np.ndarray, at: Any, updates: np.ndarray, how: str) -> None:
    with np.errstate(all="ignore"):
        if how == "none":
            out[at] = updates
        else:
            fn = {"add": np.add, "mul": np.multiply, "max": np.maximum, "min": np.minimum}[how]
            fn.at(out, at, updates)


def _ref_scatter_elements(args: Any, attrs: Attributes, types: Any) -> tuple[Any, ...]:
    data, idx, updates = args
    out = data.copy()
    idx = wrap_index(idx, data.shape[attrs["axis"]]).astype(np.int64)
    grid: list[np.ndarray] = list(np.indices(idx.shape, sparse=True))
    grid[attrs["axis"]] = idx
    cut = updates[tuple(slice(0, s) for s in idx.shape)]
    _accumulate(out, tuple(np.broadcast_arrays(*grid)) if grid else (), cut, attrs["reduction"])
    return (out,)


def _ref_scatter_nd(args: Any, attrs: Attributes, types: Any) -> tuple[Any, ...]:
    data, idx, updates = args
    out = data.copy()
    _accumulate(out, _nd_positions(idx, data.shape, 0), updates, attrs["reduction"])
    return (out,)


_SCATTER = frozenset({"scatter", "opaque"})
for _op, _ref in (("scatter_elements", _ref_scatter_elements), ("scatter_nd", _ref_scatter_nd)):
    _attrs = ("axis", "reduction") if _op == "scatter_elements" else ("reduction",)
    register(OpDef(
        _op, (3, 3),
        lambda types, attrs, op=_op: (_check_scatter(types, attrs, op),),  # type: ignore[misc]
        _ref, _SCATTER, attrs=_attrs,
        doc="a copy of data with updates written, or combined in index order",
    ))
