"""Movement, gathers, scatters and sources in ONNX."""

from __future__ import annotations

from typing import Any

import numpy as np

from ...ir.dim_functions import known_ge
from ...ir.dims import Dim, product
from ...ir.graph import Node
from ...ir.ops import lookup
from ...ir.types import I32, I64
from .context import Exporter, onnx_dtype, writes

_LOWEST = np.iinfo(np.int64).min


@writes("reshape")
def _reshape(e: Exporter, node: Node, xs: list[str]) -> str:
    return e.reshape(xs[0], node.attrs["shape"])


@writes("transpose")
def _transpose(e: Exporter, node: Node, xs: list[str]) -> str:
    return str(e.emit("Transpose", xs[0], perm=list(node.attrs["perm"])))


@writes("expand")
def _expand(e: Exporter, node: Node, xs: list[str]) -> str:
    return str(e.emit("Expand", xs[0], e.dims(node.attrs["shape"])))


@writes("slice")
def _slice(e: Exporter, node: Node, xs: list[str]) -> str:
    attrs = node.attrs
    starts, steps = list(attrs["starts"]), list(attrs["steps"])
    if not starts:
        return str(e.emit("Identity", xs[0]))
    ends: list[str] = []
    for start, size, step in zip(starts, attrs["sizes"], steps, strict=True):
        end = start + size * step
        if not isinstance(end, int) and not known_ge(step, 0):
            name = e.dim(end)  # below 0 means "from the end" in ONNX
            below = e.emit("Less", name, e.literal([0]))
            ends.append(e.emit("Where", below, e.literal([_LOWEST]), name))
        else:
            below_zero = isinstance(end, int) and end < 0
            ends.append(e.literal([_LOWEST]) if below_zero else e.dim(end))
    stop = ends[0] if len(ends) == 1 else e.emit("Concat", *ends, axis=0)
    axes = e.literal(list(range(len(starts))))
    return str(e.emit("Slice", xs[0], e.dims(starts), stop, axes, e.dims(steps)))


@writes("pad")
def _pad(e: Exporter, node: Node, xs: list[str]) -> str:
    pads: list[Dim] = [*node.attrs["lo"], *node.attrs["hi"]]
    if not pads:
        return str(e.emit("Identity", xs[0]))
    value = xs[1] if node.attrs["mode"] == "constant" else ""
    return str(e.emit("Pad", xs[0], e.dims(pads), value, mode=node.attrs["mode"]))


@writes("concat")
def _concat(e: Exporter, node: Node, xs: list[str]) -> str:
    return str(e.emit("Concat", *xs, axis=node.attrs["axis"]))


# -- gathers and scatters ------------------------------------------------------------------------


def _indices(e: Exporter, node: Node, name: str, wide: bool) -> str:
    index = node.inputs[1]
    assert index is not None
    return name if index.dtype == I64 or (index.dtype == I32 and not wide) else e.cast(name, I64)


@writes("gather")
def _gather(e: Exporter, node: Node, xs: list[str]) -> str:
    index = _indices(e, node, xs[1], False)
    return str(e.emit("Gather", xs[0], index, axis=node.attrs["axis"]))


@writes("gather_elements")
def _gather_elements(e: Exporter, node: Node, xs: list[str]) -> str:
    index = _indices(e, node, xs[1], False)
    return str(e.emit("GatherElements", xs[0], index, axis=node.attrs["axis"]))


@writes("gather_nd")
def _gather_nd(e: Exporter, node: Node, xs: list[str]) -> str:
    index = _indices(e, node, xs[1], True)
    return str(e.emit("GatherND", xs[0], index, batch_dims=node.attrs["batch_dims"]))


@writes("scatter_elements")
def _scatter_elements(e: Exporter, node: Node, xs: list[str]) -> str:
    _, index, updates = node.inputs
    assert index is not None
    assert updates is not None
    values = xs[2]
    if updates.shape != index.shape:  # only the part that has indices is read
        axes = e.literal(list(range(updates.rank)))
        values = e.emit("Slice", values, e.literal([0] * updates.rank), e.dims(index.shape), axes)
    return str(
        e.emit("ScatterElements", xs[0], _indices(e, node, xs[1], False), values,
               axis=node.attrs["axis"], reduction=node.attrs["reduction"])
    )  # fmt: skip


@writes("scatter_nd")
def _scatter_nd(e: Exporter, node: Node, xs: list[str]) -> str:
    index = _indices(e, node, xs[1], True)
    return str(e.emit("ScatterND", xs[0], index, xs[2], reduction=node.attrs["reduction"]))


# -- sources -------------------------------------------------------------------------------------


@writes("dims")
def _dims(e: Exporter, node: Node, xs: list[str]) -> str:
    if not node.attrs["values"]:
        return e.literal(np.zeros(node.attrs["shape"], dtype=np.int64))
    return e.reshape(e.dims(node.attrs["values"]), node.attrs["shape"])


@writes("iota")
def _iota(e: Exporter, node: Node, xs: list[str]) -> str:
    shape, axis, dtype = node.attrs["shape"], node.attrs["axis"], node.attrs["dtype"]
    ramp = e.emit("Range", e.literal(0), e.count(shape[axis]), e.literal(1))
    ramp = ramp if dtype == I64 else e.cast(ramp, dtype)
    if len(shape) == 1:
        return str(ramp)
    column = e.reshape(ramp, [d if k == axis else 1 for k, d in enumerate(shape)])
    return str(e.emit("Expand", column, e.dims(shape)))


@writes("random_uniform", "random_normal", "random_mersenne")
def _random(e: Exporter, node: Node, xs: list[str]) -> str:
    """Seeded numbers are the same on every machine: they are written as a constant. Where the
    size is not known ONNX draws its own."""
    attrs, t = node.attrs, node.out.tensor
    count = product(t.shape)
    if isinstance(count, int) and count <= 1 << 24:
        reference = lookup(node.op).reference
        assert reference is not None
        return e.literal(reference((), attrs, (t,))[0], t.dtype)
    zeros = e.emit("ConstantOfShape", e.dims(t.shape))
    names = {"random_uniform": ("low", "high"), "random_normal": ("mean", "scale")}
    drawn: dict[str, Any] = {k: float(attrs[k]) for k in names.get(node.op, ())}
    op = "RandomNormalLike" if node.op == "random_normal" else "RandomUniformLike"
    return str(e.emit(op, zeros, dtype=onnx_dtype(t.dtype), seed=float(attrs["seed"]), **drawn))


@writes("bind")
def _bind(e: Exporter, node: Node, xs: list[str]) -> str:
    e.scope.symbols[node.attrs["name"]] = e.reshape(xs[0], [1])
    return xs[0]
