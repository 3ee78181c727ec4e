"""Lowerings of random numbers: counter-based generators with a seed per node.

A model that gives no seed gets one from the node's name, so that a compiled model is a function:
the same on every run and machine. Nodes never share a stream.
"""

from __future__ import annotations

import hashlib
import struct
from typing import TYPE_CHECKING

from ...ir.errors import ModelError
from ...ir.types import F32, F64, I32, I64
from ..messages import NodeProto
from .ops_shape import reshape_to
from .registry import lowering

if TYPE_CHECKING:
    from ...ir.dims import Dim
    from ...ir.graph import Value
    from .context import Ctx


def node_seed(ctx: Ctx, node: NodeProto) -> int:
    """A seed from the attribute, where there is one, and the names of the node."""
    given = ctx.attr("seed")
    data = repr((node.name, list(node.output))).encode()
    if given is not None:
        data += struct.pack("<f", given)
    return int.from_bytes(hashlib.sha256(data).digest()[:8], "little") >> 1


def _draw(ctx: Ctx, node: NodeProto, shape: tuple[Dim, ...], like: Value | None) -> Value:
    default = F32 if like is None or not like.dtype.is_float else like.dtype
    dtype = ctx.attr_dtype("dtype", default)
    if not dtype.is_float:
        raise ModelError(f"random numbers of {dtype}")
    if "Normal" in node.op_type:
        return ctx.b.op(
            "random_normal", shape=shape, dtype=dtype, mean=ctx.attr("mean", 0.0),
            scale=ctx.attr("scale", 1.0), seed=node_seed(ctx, node),
        )  # fmt: skip
    return ctx.b.op(
        "random_uniform", shape=shape, dtype=dtype, low=ctx.attr("low", 0.0),
        high=ctx.attr("high", 1.0), seed=node_seed(ctx, node),
    )  # fmt: skip


@lowering("RandomNormal", "RandomUniform")
def random(ctx: Ctx, node: NodeProto) -> Value:
    shape = ctx.required("shape")
    if any(d < 0 for d in shape):
        raise ModelError(f"shape {list(shape)}")
    return _draw(ctx, node, shape, None)


@lowering("RandomNormalLike", "RandomUniformLike")
def random_like(ctx: Ctx, node: NodeProto) -> Value:
    x = ctx.input(0)
    return _draw(ctx, node, x.shape, x)


@lowering("Bernoulli")
def bernoulli(ctx: Ctx, node: NodeProto) -> Value:
    x = ctx.input(0)
    dtype = ctx.attr_dtype("dtype", x.dtype)
    draw = ctx.b.op("random_uniform", shape=x.shape, dtype=x.dtype, low=0.0, high=1.0,
                    seed=node_seed(ctx, node))  # fmt: skip
    return ctx.b.op("cast", ctx.b.op("lt", draw, x), to=dtype)


@lowering("Multinomial")
def multinomial(ctx: Ctx, node: NodeProto) -> Value:
    """Classes [B, sample_size] drawn by unnormalized log-probabilities [B, C]: the first class
    whose cumulative probability exceeds a uniform draw."""
    b, x, count = ctx.b, ctx.input(0), ctx.attr("sample_size", 1)
    dtype = ctx.attr_dtype("dtype", I32)
    if x.rank != 2 or count < 1 or dtype not in (I32, I64):
        raise ModelError(f"{count} samples of {x.type} as {dtype}")
    rows, classes = x.shape
    weights = b.op("softmax", ctx.as_dtype(x, F64), axis=1)
    below = b.op("cumulate", weights, kind="sum", axis=1, exclusive=False, reverse=False)
    draw = b.op("random_uniform", shape=(rows, count, 1), dtype=F64, low=0.0, high=1.0,
                seed=node_seed(ctx, node))  # fmt: skip
    passed = b.op("le", reshape_to(ctx, below, (rows, 1, classes)), draw)
    index = b.op("reduce", b.op("cast", passed, to=I64), kind="sum", axes=(2,), keepdims=False)
    last = b.op("sub", b.dims([classes], scalar=True), 1)
    return ctx.as_dtype(b.op("min", index, last), dtype)
