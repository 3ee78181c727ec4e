"""Lowerings of what training needs: Dropout, and the optimizers of ai.onnx.preview.training.

Dropout with a seed keeps exactly the elements that ONNX's reference keeps (the Mersenne Twister of
NumPy's ``RandomState``); without one it draws by a generator seeded by the node's name. Whether it
trains may be decided while the model runs. The optimizers are the update rules of ONNX's operator
documentation, for every tensor of the node in turn; what depends on the learning rate and the step
count alone is computed once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from ...ir.errors import ModelError
from ...ir.graph import Value
from ...ir.types import BOOL, F64, DType
from ..messages import NodeProto
from .ops_random import node_seed
from .ops_shape import reshape_to
from .registry import lowering

if TYPE_CHECKING:
    from .context import Ctx

_TRAINING = "ai.onnx.preview.training"


@lowering("Dropout", since=12)
def dropout(ctx: Ctx, node: NodeProto) -> tuple[Value, ...]:
    """(y, mask); outside training y is x and the mask holds everywhere."""
    x = ctx.input(0)
    training = ctx.optional(2)
    known = ctx.constant(training)
    off = training is None or (known is not None and not known.reshape(-1)[0])
    if training is not None and not off:
        return _dropped(ctx, x, None if known is not None else training)
    mask = x if not ctx.wants(1) else ctx.full(x.shape, True, BOOL)
    return (x, mask)


def _dropped(ctx: Ctx, x: Value, training: Value | None) -> tuple[Value, Value]:
    """y = x * mask / (1 - ratio); ``training`` is None where it is known to hold."""
    b = ctx.b
    given = ctx.optional(1)
    ratio = b.const(np.asarray(0.5, x.dtype.np)) if given is None else reshape_to(ctx, given, ())
    if ctx.has("seed"):
        draw = b.op("random_mersenne", shape=x.shape, dtype=F64, seed=int(ctx.attr("seed")))
    else:
        draw = b.op("random_uniform", shape=x.shape, dtype=F64, low=0.0, high=1.0,
                    seed=node_seed(ctx, ctx.node))  # fmt: skip
    mask = b.op("le", ctx.as_dtype(ratio, F64), draw)
    one = b.const(np.ones((), ratio.dtype.np))
    scale = b.op("div", one, b.op("sub", one, ratio))
    if training is not None:
        training = reshape_to(ctx, training, ())
        mask = b.op("or", b.op("not", training), mask)
        scale = b.op("select", training, scale, one)
    kept = b.op("mul", b.op("cast", mask, to=x.dtype), x)
    return b.op("mul", kept, ctx.as_dtype(scale, x.dtype)), mask


# -- optimizers ----------------------------------------------------------------------------------


def _tensors(ctx: Ctx, kinds: int) -> list[tuple[Value, ...]]:
    """The operands after learning rate and step, as one tuple of ``kinds`` per tensor."""
    count, rest = divmod(len(ctx.inputs) - 2, kinds)
    if rest or count < 1:
        raise ModelError(f"{len(ctx.inputs)} inputs: 2 and then {kinds} per tensor are needed")
    return [tuple(ctx.input(2 + k * count + i) for k in range(kinds)) for i in range(count)]


def _transposed(rows: Sequence[tuple[Value, ...]]) -> tuple[Value, ...]:
    """Results in ONNX's order: one kind for every tensor, then the next kind."""
    return tuple(v for kind in zip(*rows, strict=True) for v in kind)


def _number(ctx: Ctx, index: int, dtype: DType) -> Value:
    """Learning rate or step as a scalar."""
    return ctx.as_dtype(reshape_to(ctx, ctx.input(index), ()), dtype)


def _regularized(ctx: Ctx, x: Value, g: Value) -> Value:
    """g plus the gradient of the L2 penalty."""
    norm = float(ctx.attr("norm_coefficient", 0.0))
    return ctx.b.op("add", ctx.b.op("mul", x, norm), g) if norm else g


def _stepped(ctx: Ctx, kinds: int, step: Callable[..., tuple[Value, ...]]) -> tuple[Value, ...]:
    return _transposed([step(*tensors) for tensors in _tensors(ctx, kinds)])


@lowering("Adagrad", domain=_TRAINING)
def adagrad(ctx: Ctx, node: NodeProto) -> tuple[Value, ...]:
    """(x, h) with h += g^2 and x -= r / (1 + t * decay) * g / (sqrt(h) + eps)."""
    b = ctx.b
    decay, eps = float(ctx.attr("decay_factor", 0.0)), float(ctx.attr("epsilon", 1e-6))

    def step(x: Value, g: Value, h: Value) -> tuple[Value, ...]:
        rate, count = _number(ctx, 0, x.dtype), _number(ctx, 1, x.dtype)
        rate = b.op("div", rate, b.op("add", b.op("mul", count, decay), 1.0))
        g = _regularized(ctx, x, g)
        total = b.op("add", h, b.op("mul", g, g))
        root = b.op("add", b.op("sqrt", total), eps)
        return b.op("sub", x, b.op("div", b.op("mul", g, rate), root)), total

    return _stepped(ctx, 3, step)


@lowering("Adam", domain=_TRAINING)
def adam(ctx: Ctx, node: NodeProto) -> tuple[Value, ...]:
    """(x, v, h): running means of g and g^2, with bias correction from the second step on."""
    b = ctx.b
    alpha, beta = float(ctx.attr("alpha", 0.9)), float(ctx.attr("beta", 0.999))
    eps, after = (float(ctx.attr(n, d)) for n, d in
                  (("epsilon", 1e-6), ("norm_coefficient_post", 0.0)))  # fmt: skip

    def rate(dtype: DType) -> Value:
        """r * sqrt(1 - beta^t) / (1 - alpha^t), or r at t = 0, in double precision."""
        r, t = _number(ctx, 0, F64), _number(ctx, 1, F64)
        one = b.const(np.float64(1))
        top = b.op("sqrt", b.op("sub", one, b.op("pow", b.const(np.float64(beta)), t)))
        bottom = b.op("sub", one, b.op("pow", b.const(np.float64(alpha)), t))
        corrected = b.op("div", b.op("mul", r, top), bottom)
        first = b.op("le", t, b.const(np.float64(0)))
        return ctx.as_dtype(b.op("select", first, r, corrected), dtype)

    def step(x: Value, g: Value, v: Value, h: Value) -> tuple[Value, ...]:
        g = _regularized(ctx, x, g)
        mean = b.op("add", b.op("mul", v, alpha), b.op("mul", g, 1.0 - alpha))
        square = b.op("add", b.op("mul", h, beta), b.op("mul", b.op("mul", g, g), 1.0 - beta))
        root = b.op("add", b.op("sqrt", square), eps)
        y = b.op("sub", x, b.op("mul", b.op("div", mean, root), rate(x.dtype)))
        return (b.op("mul", y, 1.0 - after) if after else y), mean, square

    return _stepped(ctx, 4, step)


@lowering("Momentum", domain=_TRAINING)
def momentum(ctx: Ctx, node: NodeProto) -> tuple[Value, ...]:
    """(x, v) with v = alpha * v + beta * g (beta 1 at the first step); x -= r * v, or by
    Nesterov's rule x -= r * (g + alpha * v)."""
    b, mode = ctx.b, ctx.required("mode")
    alpha, beta = float(ctx.required("alpha")), float(ctx.required("beta"))
    if mode not in ("standard", "nesterov"):
        raise ModelError(f"mode {mode[:20]!r}")

    def step(x: Value, g: Value, v: Value) -> tuple[Value, ...]:
        g = _regularized(ctx, x, g)
        t = _number(ctx, 1, F64)
        later = b.op("lt", b.const(np.float64(0)), t)
        factor = b.op("select", later, b.const(np.asarray(beta, x.dtype.np)),
                      b.const(np.ones((), x.dtype.np)))  # fmt: skip
        new = b.op("add", b.op("mul", v, alpha), b.op("mul", g, factor))
        move = new if mode == "standard" else b.op("add", g, b.op("mul", new, alpha))
        return b.op("sub", x, b.op("mul", move, _number(ctx, 0, x.dtype))), new

    return _stepped(ctx, 3, step)
