"""com.microsoft: arithmetic, integer sums and array operators, in terms of ONNX's own."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from ...ir.errors import ModelError
from ...ir.graph import Value
from ...ir.types import F32, I32, I64, U8, U32, DType
from .ops_quant import dequantize, is_zero, quantize, quantized_matmul, requantize, scalar_if_one
from .ops_shape import cut, reshape_to
from .registry import lowering

if TYPE_CHECKING:
    from ..messages import NodeProto
    from .context import Ctx

_MS = "com.microsoft"
_OPSET = 18
"""Version of ONNX's operator that a like-named one of this domain is."""


def _alias(name: str, *attrs: str) -> Callable[[Ctx, NodeProto], Any]:
    def lower(ctx: Ctx, node: NodeProto) -> Any:
        given = {n: ctx.attr(n) for n in attrs if ctx.has(n)}
        return ctx.lower(name, *ctx.inputs, opset=_OPSET, **given)

    return lower


for _name, _attrs in (("GatherND", ()), ("Pad", ("mode",)), ("Trilu", ("upper",))):
    lowering(_name, domain=_MS)(_alias(_name, *_attrs))


@lowering("Range", domain=_MS)
def range_(ctx: Ctx, node: NodeProto) -> Value:
    start, limit, delta = ctx.input(0), ctx.input(1), ctx.optional(2)
    if delta is None:
        delta = ctx.b.const(np.ones((), start.dtype.np))
    scalars = (reshape_to(ctx, v, ()) for v in (start, limit, delta))
    result: Value = ctx.lower("Range", *scalars, opset=_OPSET)
    return result


@lowering("Unique", domain=_MS)
def unique(ctx: Ctx, node: NodeProto) -> tuple[Value | None, ...]:
    """(values in the order of their first appearance, class of each element, counts)."""
    values, _, classes, counts = ctx.lower(
        "Unique", ctx.input(0), n_outputs=4, opset=_OPSET, sorted=0)
    return values, classes, counts


@lowering("ExpandDims", domain=_MS)
def expand_dims(ctx: Ctx, node: NodeProto) -> Value:
    x = ctx.input(0)
    axis = ctx.axis(int(ctx.scalar(ctx.input(1), "axis")), x.rank + 1)
    return reshape_to(ctx, x, (*x.shape[:axis], 1, *x.shape[axis:]))


@lowering("TorchEmbedding", domain=_MS)
def torch_embedding(ctx: Ctx, node: NodeProto) -> Value:
    return ctx.b.op("gather", ctx.input(0), ctx.input(1), axis=0)


@lowering("UnfoldTensor", domain=_MS)
def unfold_tensor(ctx: Ctx, node: NodeProto) -> Value:
    """All windows of ``size`` along ``dim``, every ``step``; a window's elements go last."""
    b, x = ctx.b, ctx.input(0)
    axis = ctx.axis(ctx.attr("dim", -1), x.rank)
    size, step = ctx.required("size"), ctx.attr("step", 1)
    count = (x.shape[axis] - size) // step + 1
    starts = b.op("mul", b.op("iota", shape=(count, 1), axis=0, dtype=I64), step)
    at = b.op("add", starts, b.op("iota", shape=(1, size), axis=1, dtype=I64))
    windows = b.op("gather", x, at, axis=axis)
    perm = (*range(axis + 1), *range(axis + 2, x.rank + 1), axis + 1)
    return b.op("transpose", windows, perm=perm)


@lowering("IsAllFinite", domain=_MS)
def is_all_finite(ctx: Ctx, node: NodeProto) -> Value:
    """Whether no element of any operand is NaN or infinite (or one of them alone)."""
    b = ctx.b
    good: Value | None = None
    for k in range(len(ctx.inputs)):
        x = ctx.input(k)
        nan = b.op("isnan", x)
        infinite = b.op("isinf", x, positive=True, negative=True)
        bad = nan if ctx.attr("isnan_only", 0) else (
            infinite if ctx.attr("isinf_only", 0) else b.op("or", nan, infinite))  # fmt: skip
        fine = b.op("reduce", b.op("not", bad), kind="min", axes=tuple(range(x.rank)),
                    keepdims=False)  # fmt: skip
        good = fine if good is None else b.op("and", good, fine)
    assert good is not None
    return good


@lowering("ComplexMul", "ComplexMulConj", domain=_MS)
def complex_mul(ctx: Ctx, node: NodeProto) -> Value:
    """A * B, or A * conj(B), of numbers whose parts are the last axis."""
    b, parts = ctx.b, []
    for k in (0, 1):
        x = ctx.input(k)
        if not x.rank or x.shape[-1] != 2:
            raise ModelError(f"complex numbers [..., 2] are needed, got {x.type}")
        parts.append([cut(ctx, x, x.rank - 1, i, 1) for i in (0, 1)])
    (ar, ai), (br, bi) = parts
    if node.op_type == "ComplexMulConj":
        bi = b.op("neg", bi)
    real = b.op("sub", b.op("mul", ar, br), b.op("mul", ai, bi))
    imaginary = b.op("add", b.op("mul", ar, bi), b.op("mul", ai, br))
    return b.op("concat", real, imaginary, axis=real.rank - 1)


@lowering("Inverse", domain=_MS)
def inverse(ctx: Ctx, node: NodeProto) -> Value:
    return ctx.b.op("inverse", ctx.input(0))


@lowering("CDist", domain=_MS)
def cdist(ctx: Ctx, node: NodeProto) -> Value:
    """Squared or plain Euclidean distances of the rows of A [M, N] and B [K, N]."""
    b, x, y = ctx.b, ctx.input(0), ctx.input(1)
    metric = ctx.attr("metric", "sqeuclidean")
    if metric not in ("sqeuclidean", "euclidean"):
        ctx.fail(f"metric {metric[:20]!r} is not supported; sqeuclidean and euclidean are")
    (m, n), k = x.shape, y.shape[0]
    d = b.op("sub", reshape_to(ctx, x, (m, 1, n)), reshape_to(ctx, y, (1, k, n)))
    total = b.op("reduce", b.op("mul", d, d), kind="sum", axes=(2,), keepdims=False)
    return total if metric == "sqeuclidean" else b.op("sqrt", total)


@lowering("MurmurHash3", domain=_MS)
def murmur_hash(ctx: Ctx, node: NodeProto) -> Value:
    """MurmurHash3_x86_32 (A. Appleby) of the bytes of every number."""
    b, x = ctx.b, ctx.input(0)
    if x.dtype.kind == "s":
        ctx.fail("MurmurHash3 of strings is not supported; of integers of 32 bits it is")
    if x.dtype not in (I32, U32):
        ctx.fail(f"MurmurHash3 of {x.dtype} is not supported; of integers of 32 bits it is")

    def const(value: int) -> Value:
        result: Value = b.const(np.uint32(value))
        return result

    def rotated(v: Value, by: int) -> Value:
        result: Value = b.op("bitor", b.op("shl", v, const(by)), b.op("shr", v, const(32 - by)))
        return result

    def mixed(h: Value, shift: int, factor: int) -> Value:
        h = b.op("bitxor", h, b.op("shr", h, const(shift)))
        return b.op("mul", h, const(factor)) if factor else h

    k = b.op("mul", ctx.as_dtype(x, U32), const(0xCC9E2D51))
    k = b.op("mul", rotated(k, 15), const(0x1B873593))
    h = rotated(b.op("bitxor", k, const(ctx.attr("seed", 0) & 0xFFFFFFFF)), 13)
    h = b.op("add", b.op("mul", h, const(5)), const(0xE6546B64))
    h = b.op("bitxor", h, const(4))
    for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35), (16, 0)):
        h = mixed(h, shift, factor)
    return h if ctx.attr("positive", 1) else b.op("cast", h, to=I32)


# -- integers and quantized numbers --------------------------------------------------------------


@lowering("MatMulInteger16", domain=_MS)
def matmul_integer_16(ctx: Ctx, node: NodeProto) -> Value:
    """Exact product of 16-bit integers with 32-bit sums."""
    dtype = U32 if ctx.input(0).dtype.kind == ctx.input(1).dtype.kind == "u" else I32
    wide = [ctx.as_dtype(ctx.input(k), dtype) for k in (0, 1)]
    result: Value = ctx.lower("MatMul", *wide)
    return result


@lowering("MulInteger", domain=_MS)
def mul_integer(ctx: Ctx, node: NodeProto) -> Value:
    """(A - zero) * (B - zero) as i32."""
    b, parts = ctx.b, []
    for k in (0, 2):
        x, zero = ctx.as_dtype(ctx.input(k), I32), ctx.optional(k + 1)
        if zero is not None and not is_zero(ctx, zero):
            x = b.op("sub", x, ctx.as_dtype(scalar_if_one(ctx, zero), I32))
        parts.append(x)
    return b.op("mul", *parts)


def _axes(ctx: Ctx, rank: int) -> tuple[int, ...]:
    return tuple(sorted({ctx.axis(a, rank) for a in ctx.required("axes")})) or tuple(range(rank))


@lowering("ReduceSumInteger", domain=_MS)
def reduce_sum_integer(ctx: Ctx, node: NodeProto) -> Value:
    x = ctx.input(0)
    wide = ctx.as_dtype(x, U32 if x.dtype.kind == "u" else I32)
    return ctx.b.op("reduce", wide, kind="sum", axes=_axes(ctx, x.rank),
                    keepdims=bool(ctx.required("keepdims")))  # fmt: skip


def _scalar(ctx: Ctx, k: int) -> Value | None:
    v = ctx.optional(k)
    return None if v is None else scalar_if_one(ctx, v)


def _real(ctx: Ctx, k: int) -> Value:
    """Operand ``k`` (quantized, scale, zero point) as real numbers."""
    scale = _scalar(ctx, k + 1)
    assert scale is not None
    return dequantize(ctx, ctx.input(k), scale, _scalar(ctx, k + 2))


def _store(ctx: Ctx, y: Value, k: int, dtype: DType) -> Value:
    scale = scalar_if_one(ctx, ctx.input(k))
    return quantize(ctx, y, scale, _scalar(ctx, k + 1), dtype)


@lowering("QLinearReduceMean", domain=_MS)
def qlinear_reduce_mean(ctx: Ctx, node: NodeProto) -> Value:
    """data, scale, zero, reduced scale, reduced zero."""
    x = ctx.input(0)
    y = ctx.b.op("reduce", _real(ctx, 0), kind="mean", axes=_axes(ctx, x.rank),
                 keepdims=bool(ctx.required("keepdims")))  # fmt: skip
    return _store(ctx, y, 3, x.dtype)


@lowering("QLinearWhere", domain=_MS)
def qlinear_where(ctx: Ctx, node: NodeProto) -> Value:
    """condition, then X, Y and Z each with scale and zero point."""
    y = ctx.b.op("select", ctx.input(0), _real(ctx, 1), _real(ctx, 4))
    return _store(ctx, y, 7, ctx.input(1).dtype)


@lowering("QGemm", domain=_MS)
def qgemm(ctx: Ctx, node: NodeProto) -> Value:
    """alpha * (A - zero)(B - zero) + C: A, scale, zero, B, scale, zero, C, y scale, y zero."""
    b = ctx.b
    a, w = ctx.input(0), ctx.input(3)
    if a.rank != 2 or w.rank != 2:
        raise ModelError(f"matrices are needed, got {a.type} and {w.type}")
    a = b.op("transpose", a, perm=(1, 0)) if ctx.attr("transA", 0) else a
    w = b.op("transpose", w, perm=(1, 0)) if ctx.attr("transB", 0) else w
    total = quantized_matmul(ctx, a, w, ctx.optional(2), ctx.optional(5))
    bias = ctx.optional(6)
    if bias is not None:  # its scale is alpha * a_scale * b_scale
        total = b.op("add", total, bias)
    scales = (scalar_if_one(ctx, ctx.input(k)) for k in (1, 4))
    factor = b.op("mul", b.op("mul", *scales), float(ctx.attr("alpha", 1.0)))
    scale = _scalar(ctx, 7)
    if scale is None:
        return b.op("mul", b.op("cast", total, to=F32), factor)
    zero = ctx.optional(8)
    return requantize(ctx, total, b.op("div", factor, scale), b.const(0, U8) if zero is None
                      else zero)  # fmt: skip


@lowering("SparseToDenseMatMul", domain=_MS)
def sparse_matmul(ctx: Ctx, node: NodeProto) -> Value:
    """The product of a sparse matrix, which is a constant here, with a dense one."""
    b, a, w = ctx.b, ctx.input(0), ctx.input(1)
    y = b.op("dot", a, w, ta=bool(ctx.attr("transA", 0)), tb=bool(ctx.attr("transB", 0)))
    alpha = float(ctx.attr("alpha", 1.0))
    return y if alpha == 1.0 else b.op("mul", y, alpha)

