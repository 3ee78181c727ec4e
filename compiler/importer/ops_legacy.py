"""Versions of ONNX's operators that later ones replaced, each as a translation to its successor.

A lowering here states only what was different: operands that broadcast by attribute, operands
that were attributes, other defaults, other names. It checks and rearranges its operands and hands
them to the version that replaced it, at that version's opset; ``registry.lowering`` finds it by
the opset of the model. The attribute ``consumed_inputs`` (opset 1 to 5) was advice on reusing
memory and has no meaning. The sources are ONNX's schemas of each version.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ...ir.dims import Dim, product
from ...ir.errors import ModelError
from ...ir.types import I64, TensorType, Type
from ..messages import GraphProto, NodeProto, TensorProto
from .ops_control import scanned
from .ops_norm import as_rows, batch_normalized_in_training
from .ops_shape import reshape_to
from .registry import lowering

if TYPE_CHECKING:
    from ...ir.graph import Value
    from .context import Ctx, Region


def _others(ctx: Ctx, *without: str) -> dict[str, Any]:
    """The node's attributes except those named."""
    names = [a.name for a in ctx.node.attribute if a.name not in without]
    return {name: ctx.attr(name) for name in names if ctx.has(name)}


def _fits(d: Dim, e: Dim) -> bool:
    """Whether two sizes may be equal."""
    return d == e or not isinstance(d, int) or not isinstance(e, int)


# -- limited broadcasting (opset 1 to 6) -------------------------------------------------------


def _aligned(ctx: Ctx, a: Value, b: Value) -> Value:
    """``b`` shaped so that NumPy's broadcasting to ``a`` means what ``broadcast``, ``axis`` do.

    Without ``broadcast`` the shapes must be equal. With it ``b`` is one element, or its axes stand
    beside those of ``a`` from ``axis`` on (by default: beside the last ones). Sizes of 1 in ``b``
    are repeated, as exporters of that time relied on."""
    if not ctx.attr("broadcast", 0):
        if a.rank != b.rank or not all(map(_fits, a.shape, b.shape)):
            raise ModelError(f"{a.type} and {b.type} differ, and broadcast is not set")
        return b
    if all(d == 1 for d in b.shape) and b.rank <= a.rank:
        return reshape_to(ctx, b, ())
    axis = ctx.attr("axis", a.rank - b.rank)
    axis = axis + a.rank if axis < 0 else axis
    beside = a.shape[axis : axis + b.rank]
    if axis < 0 or len(beside) != b.rank or not all(
        _fits(d, e) or e == 1 for d, e in zip(beside, b.shape, strict=True)
    ):
        raise ModelError(f"{b.type} does not lie beside the axes of {a.type} from {axis} on")
    return reshape_to(ctx, b, (*b.shape, *(1,) * (a.rank - axis - b.rank)))


@lowering("Add", "Sub", "Mul", "Div", "Pow", "And", "Or", "Xor", "Equal", "Greater", "Less")
def limited_broadcast(ctx: Ctx, node: NodeProto) -> Value:
    a, b = ctx.input(0), ctx.input(1)
    result: Value = ctx.lower(node.op_type, a, _aligned(ctx, a, b), opset=7)
    return result


@lowering("Sum", "Max", "Min", "Mean")
def equal_shapes(ctx: Ctx, node: NodeProto) -> Value:
    parts = [ctx.input(i) for i in range(len(ctx.inputs))]
    for p in parts[1:]:
        if p.rank != parts[0].rank or not all(map(_fits, parts[0].shape, p.shape)):
            raise ModelError(f"{parts[0].type} and {p.type} differ; shapes must be equal")
    result: Value = ctx.lower(node.op_type, *parts, opset=8)
    return result


@lowering("PRelu")
def prelu_per_channel(ctx: Ctx, node: NodeProto) -> Value:
    """The slope is one number for all, or one per channel (axis 1)."""
    x, slope = ctx.input(0), ctx.input(1)
    if slope.shape == (1,):
        slope = reshape_to(ctx, slope, ())
    elif slope.rank == 1 and x.rank > 1 and _fits(x.shape[1], slope.shape[0]):
        slope = reshape_to(ctx, slope, (slope.shape[0], *(1,) * (x.rank - 2)))
    elif slope.rank != x.rank or not all(map(_fits, x.shape, slope.shape)):
        raise ModelError(f"slope {slope.type} is not one number, nor one per channel of {x.type}")
    result: Value = ctx.lower("PRelu", x, slope, opset=7)
    return result


@lowering("Gemm")
def gemm_broadcast(ctx: Ctx, node: NodeProto) -> Value:
    a, w, c = (ctx.input(i) for i in range(3))
    if not ctx.attr("broadcast", 0) and a.rank == w.rank == 2:
        size = (a.shape[1 if ctx.attr("transA", 0) else 0],
                w.shape[0 if ctx.attr("transB", 0) else 1])  # fmt: skip
        if c.rank != 2 or not all(map(_fits, size, c.shape)):
            raise ModelError(f"{c.type} is not [{size[0]},{size[1]}], and broadcast is not set")
    result: Value = ctx.lower("Gemm", a, w, c, opset=7, **_others(ctx, "broadcast"))
    return result


# -- operands that were attributes -------------------------------------------------------------

_NOW_INPUTS: dict[str, tuple[int, dict[str, int]]] = {
    "Reshape": (5, {"shape": 1}),
    "Slice": (10, {"starts": 1, "ends": 2, "axes": 3}),
    "Pad": (11, {"pads": 1, "paddings": 1, "value": 2}),
    "Clip": (11, {"min": 1, "max": 2}),
    "TopK": (10, {"k": 1}),
    "Upsample": (9, {"scales": 1}),
}
"""Operator -> (opset that made inputs of attributes, attribute -> position of its input)."""
_LIKE_DATA = frozenset({"value", "min", "max"})
"""Attributes whose input has the type of the data."""


def _as_input(ctx: Ctx, name: str, value: Any) -> Value:
    if name in _LIKE_DATA:
        dtype = ctx.input(0).dtype.np
    else:
        dtype = np.dtype(np.float32 if name == "scales" else np.int64)
    array = np.asarray(value, dtype)
    return ctx.b.const(array.reshape(1) if name == "k" else array)


def _by_inputs(ctx: Ctx, op: str, given: dict[str, Any], **attrs: Any) -> Any:
    """The operator with ``given`` attributes as inputs, and ``attrs`` as they are."""
    opset, places = _NOW_INPUTS[op]
    inputs: list[Value | None] = [ctx.input(0)]
    for name, value in given.items():
        place = places[name]
        inputs.extend([None] * (place + 1 - len(inputs)))
        inputs[place] = _as_input(ctx, name, value)
    return ctx.lower(op, *inputs, opset=opset, n_outputs=ctx.n_outputs, **attrs)


@lowering("Reshape", "Slice", "Pad", "TopK")
@lowering("Upsample", since=7)
def attributes_as_inputs(ctx: Ctx, node: NodeProto) -> Any:
    op = node.op_type
    names = _NOW_INPUTS[op][1]
    given = {name: ctx.attr(name) for name in names if ctx.has(name)}
    if op == "Reshape" and not given:
        raise ModelError("required attribute shape is absent")
    return _by_inputs(ctx, op, given, **_others(ctx, "consumed_inputs", *names))


@lowering("Clip")
def clip_attributes(ctx: Ctx, node: NodeProto) -> Value:
    """Opset 1 has no bound where none is given, opset 6 the largest finite number: it makes
    infinity finite."""
    given = {name: ctx.attr(name) for name in ("min", "max") if ctx.has(name)}
    if ctx.opset >= 6:
        limits = np.finfo(ctx.input(0).dtype.np)
        given = {"min": limits.min, "max": limits.max} | given
    result: Value = _by_inputs(ctx, "Clip", given)
    return result


@lowering("Upsample")
def upsample_image(ctx: Ctx, node: NodeProto) -> Value:
    if ctx.input(0).rank != 4:
        raise ModelError(f"an image [N, C, H, W] is needed, got {ctx.input(0).type}")
    scales = (1.0, 1.0, ctx.required("height_scale"), ctx.required("width_scale"))
    result: Value = _by_inputs(ctx, "Upsample", {"scales": scales},
                               **_others(ctx, "height_scale", "width_scale"))  # fmt: skip
    return result


# -- operands and attributes of another form ---------------------------------------------------


@lowering("Tile")
def tile_along(ctx: Ctx, node: NodeProto) -> Value:
    """One axis is repeated; both numbers are tensors of the data's own type."""
    x = ctx.input(0)
    repeats = [1] * x.rank
    axis = ctx.axis(int(ctx.scalar(ctx.input(2), "axis")), x.rank)
    repeats[axis] = int(ctx.scalar(ctx.input(1), "tiles"))
    result: Value = ctx.lower("Tile", x, ctx.b.const(np.array(repeats, np.int64)), opset=6)
    return result


@lowering("Split")
def split_by_input(ctx: Ctx, node: NodeProto) -> Any:
    """The sizes are an attribute, or an operand of the data's own type."""
    attrs = _others(ctx)
    given = ctx.optional(1)
    if given is not None:
        if "split" in attrs:
            raise ModelError("the sizes are given twice, as an input and as an attribute")
        sizes = ctx.constant(given)
        if sizes is None:
            ctx.need("sizes must be constant; here they are computed while the model runs", given)
        attrs["split"] = [int(d) for d in sizes.reshape(-1)]
    return ctx.lower("Split", ctx.input(0), opset=2, n_outputs=ctx.n_outputs, **attrs)


@lowering("Concat")
def concat_default(ctx: Ctx, node: NodeProto) -> Value:
    parts = [ctx.input(i) for i in range(len(ctx.inputs))]
    result: Value = ctx.lower("Concat", *parts, axis=ctx.attr("axis", 1), opset=4)
    return result


@lowering("Cast")
def cast_by_name(ctx: Ctx, node: NodeProto) -> Value:
    name = ctx.required("to")
    if name not in TensorProto.DataType.keys():  # noqa: SIM118 - an enum, not a dictionary
        raise ModelError(f"there is no element type {name[:30]!r}")
    number = TensorProto.DataType.Value(name)
    result: Value = ctx.lower("Cast", ctx.input(0), to=number, opset=6)
    return result


@lowering("Selu")
def selu_rounded(ctx: Ctx, node: NodeProto) -> Value:
    """The defaults had five digits."""
    attrs = {"alpha": ctx.attr("alpha", 1.6732), "gamma": ctx.attr("gamma", 1.0507)}
    result: Value = ctx.lower("Selu", ctx.input(0), opset=6, **attrs)
    return result


@lowering("GRU")
def gru_direction(ctx: Ctx, node: NodeProto) -> Any:
    """The schema of opset 1 spelled the default direction "foward"."""
    attrs = _others(ctx, "output_sequence")
    if attrs.get("direction") == "foward":
        attrs["direction"] = "forward"
    return ctx.lower("GRU", *ctx.inputs, opset=3, n_outputs=ctx.n_outputs, **attrs)


@lowering("OneHot")
def one_hot_nonnegative(ctx: Ctx, node: NodeProto) -> Value:
    """A negative index does not count from the end: its whole row is off."""
    b = ctx.b
    index = ctx.as_dtype(ctx.input(0), I64)
    beyond = b.const(np.asarray(np.iinfo(np.int64).max))
    index = b.op("select", b.op("lt", index, 0), beyond, index)
    result: Value = ctx.lower("OneHot", index, ctx.input(1), ctx.input(2), opset=11, **_others(ctx))
    return result


@lowering("RoiAlign")
def roi_align_without_shift(ctx: Ctx, node: NodeProto) -> Value:
    """Corners of regions lay on the corners of pixels."""
    operands = [ctx.input(i) for i in range(3)]
    mode = "output_half_pixel"
    result: Value = ctx.lower("RoiAlign", *operands, opset=16, coordinate_transformation_mode=mode,
                              **_others(ctx))  # fmt: skip
    return result


@lowering("GroupNormalization", since=18)
def group_normalization_per_group(ctx: Ctx, node: NodeProto) -> Value:
    """Scale and bias are one number per group; opset 21 has one per channel."""
    x, groups = ctx.input(0), ctx.required("num_groups")
    if x.rank < 2 or groups < 1:
        raise ModelError(f"num_groups {groups} of {x.type}")

    def per_channel(v: Value) -> Value:
        if v.rank != 1 or not _fits(v.shape[0], groups):
            raise ModelError(f"one number for each of {groups} groups is needed, got {v.type}")
        each = x.shape[1] // groups
        wide = ctx.b.op("expand", reshape_to(ctx, v, (groups, 1)), shape=(groups, each))
        return reshape_to(ctx, wide, (groups * each,))

    scale, bias = (per_channel(ctx.input(i)) for i in (1, 2))
    result: Value = ctx.lower("GroupNormalization", x, scale, bias, opset=21, **_others(ctx))
    return result


@lowering("Softmax", "LogSoftmax", "Hardmax")
def over_trailing_axes(ctx: Ctx, node: NodeProto) -> Value:
    """The operand is a matrix whose columns are all axes from ``axis`` on; where only one of
    them is not 1, that is the same as working along it."""
    x = ctx.input(0)
    axis = ctx.axis(ctx.attr("axis", 1), max(x.rank, 1))
    rows = x
    if product(x.shape[axis + 1 :]) != 1:
        rows, axis = reshape_to(ctx, x, (product(x.shape[:axis]), product(x.shape[axis:]))), 1
    return reshape_to(ctx, ctx.lower(node.op_type, rows, axis=axis, opset=13), x.shape)


# -- training or inference ---------------------------------------------------------------------


@lowering("Dropout")
@lowering("Dropout", since=7)
def dropout_by_attribute(ctx: Ctx, node: NodeProto) -> tuple[Value, ...]:
    """Before opset 7 it trains unless ``is_test`` is set; up to opset 11 it only infers. The mask
    has the data's type before opset 10."""
    x = ctx.input(0)
    ratio = ctx.b.const(np.asarray(ctx.attr("ratio", 0.5), np.float32))
    training = ctx.b.const(np.asarray(ctx.opset < 7 and not ctx.attr("is_test", 0)))
    made = ctx.lower("Dropout", x, ratio, training, opset=12, n_outputs=ctx.n_outputs)
    made = made if isinstance(made, tuple) else (made,)
    if ctx.wants(1) and ctx.opset < 10:
        made = (made[0], ctx.as_dtype(made[1], x.dtype))
    return tuple(made)


@lowering("BatchNormalization")
def batch_normalization_modes(ctx: Ctx, node: NodeProto) -> tuple[Value | None, ...]:
    """Before opset 7 it trains unless ``is_test`` is set; from then on, where outputs beside the
    first are named. ``spatial=0`` takes statistics per element of a row, not per channel."""
    more = any(ctx.wants(i) for i in range(1, 5))
    training = not ctx.attr("is_test", 0) if ctx.opset < 7 else more
    if more and not training:
        raise ModelError("outputs beside the first are for training, and is_test is set")
    x, stats = ctx.input(0), [ctx.input(i) for i in range(1, 5)]
    shape = stats[0].shape
    whole, x = x, as_rows(ctx, x)
    if not ctx.attr("spatial", 1):
        x = reshape_to(ctx, x, (x.shape[0], product(x.shape[1:])))
        stats = [reshape_to(ctx, v, (product(v.shape),)) for v in stats]
    if training:
        y, *rest = batch_normalized_in_training(ctx, x, stats)
        made = [reshape_to(ctx, y, whole.shape), *(reshape_to(ctx, v, shape) for v in rest)]
        return tuple(made[: ctx.n_outputs])
    attrs = _others(ctx, "consumed_inputs", "is_test", "spatial")
    y = ctx.lower("BatchNormalization", x, *stats, opset=14, **attrs)
    return (reshape_to(ctx, y, whole.shape),)


# -- Scan of a batch (opset 8) -----------------------------------------------------------------


@lowering("Scan")
def scan_batch(ctx: Ctx, node: NodeProto) -> tuple[Value, ...]:
    """Every row of the batch (axis 0) is scanned along axis 1, for as many steps as
    ``sequence_lens`` says: a scan over the rows whose body is a scan over the steps.

    Items after the end of a row, which ONNX leaves undefined, are 0."""
    body: GraphProto = ctx.required("body")
    count = ctx.required("num_scan_inputs")
    lens, operands = ctx.optional(0), [ctx.input(i) for i in range(1, len(ctx.inputs))]
    carried = len(operands) - count
    back = ctx.attr("directions", (0,) * count)
    if carried < 0 or count < 1 or len(body.input) != len(operands) or len(back) != count:
        raise ModelError(f"{len(operands)} operands, {count} of them sequences, for a body of"
                         f" {len(body.input)} inputs")  # fmt: skip
    if len(body.output) != ctx.n_outputs or any(v.rank < 2 for v in operands[carried:]):
        raise ModelError(f"the body gives {len(body.output)} values for {ctx.n_outputs} outputs")
    for k, reverse in enumerate(back):
        if reverse:
            operands[carried + k] = _reversed_rows(ctx, operands[carried + k], lens)
    rows = operands if lens is None else [*operands, ctx.as_dtype(lens, I64)]

    def region_of(types: Sequence[Type | None]) -> Region:
        def row(inner: Ctx, formals: list[Value]) -> list[Value]:
            length = formals[-1] if lens is not None else None
            return _scan_row(inner, body, formals[:carried],
                             formals[carried : len(operands)], length)  # fmt: skip

        return ctx.built_region(types, row)

    return tuple(scanned(ctx, region_of, [], rows))


def _reversed_rows(ctx: Ctx, x: Value, lens: Value | None) -> Value:
    """Each row of ``x`` backwards, from its own end."""
    if lens is None:
        lens = ctx.b.op("expand", ctx.b.dims([x.shape[1]], scalar=True), shape=(x.shape[0],))
    result: Value = ctx.lower("ReverseSequence", x, lens, batch_axis=0, time_axis=1, opset=10)
    return result


def _scan_row(
    ctx: Ctx, body: GraphProto, state: list[Value], sequences: list[Value], length: Value | None
) -> list[Value]:
    """The scan of one row; with a length, the state stays as it is from there on."""
    if length is None:
        return scanned(ctx, lambda types: ctx.region(body, types), state, sequences)
    carried = len(state)
    ramp = ctx.b.op("iota", shape=(sequences[0].shape[0],), axis=0, dtype=I64)

    def step(inner: Ctx, formals: list[Value]) -> list[Value]:
        b, old, end, at = inner.b, formals[:carried], formals[carried], formals[-1]
        alive = b.op("lt", at, end)
        new = inner.inline(body, [*old, *formals[carried + 1 : -1]])
        kept = [b.op("select", alive, n, o) for n, o in zip(new, old, strict=False)]
        items = [b.op("select", alive, n, _zero(inner, n)) for n in new[carried:]]
        return [*kept, end, *items]

    made = scanned(ctx, lambda types: ctx.built_region(types, step), [*state, length],
                   [*sequences, ramp])  # fmt: skip
    return [*made[:carried], *made[carried + 1 :]]


def _zero(ctx: Ctx, like: Value) -> Value:
    t = like.type
    if not isinstance(t, TensorType) or t.dtype.kind == "s":
        ctx.fail(f"an item of type {t} with sequence_lens; numbers are supported")
    return ctx.b.const(np.zeros((), t.dtype.np))
