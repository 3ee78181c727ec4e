"""LSTM, GRU and RNN: the input projection becomes one matrix product, the recurrence one node.

``X W^T + b`` does not depend on the state, so it is computed for all steps and directions at once,
as a matrix of ``steps * rows`` by ``directions * gates * hidden``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ...ir.dims import Dim
from ...ir.errors import ModelError
from ...ir.graph import Value
from ...ir.ops.recurrent import ACTIVATIONS, DIRECTIONS
from .registry import lowering

if TYPE_CHECKING:
    from ..messages import NodeProto
    from .context import Ctx

_GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}
_DEFAULTS = {
    "LSTM": ("Sigmoid", "Tanh", "Tanh"), "GRU": ("Sigmoid", "Tanh"), "RNN": ("Tanh",),
}  # fmt: skip
_ALPHA_BETA: dict[str, tuple[float | None, float | None]] = {
    "affine": (1.0, 0.0), "leakyrelu": (0.01, None), "thresholdedrelu": (1.0, None),
    "scaledtanh": (1.0, 1.0), "hardsigmoid": (0.2, 0.5), "elu": (1.0, None),
}  # fmt: skip
"""Default parameters of the activations that have some; others consume none of the lists."""


def activations(ctx: Ctx, op: str, directions: int) -> tuple[tuple[str, float, float], ...]:
    """(name, alpha, beta) of every activation, direction by direction."""
    names = ctx.attr("activations") or _DEFAULTS[op] * directions
    if len(names) != len(_DEFAULTS[op]) * directions:
        raise ModelError(f"{len(names)} activations for {directions} directions of {op}")
    alphas = list(ctx.attr("activation_alpha", ()))
    betas = list(ctx.attr("activation_beta", ()))
    result = []
    for name in (n.lower() for n in names):
        if name not in ACTIVATIONS:
            ctx.fail(f"activation {name[:30]!r}; supported are {', '.join(ACTIVATIONS)}")
        alpha, beta = _ALPHA_BETA.get(name, (None, None))
        a = alphas.pop(0) if alpha is not None and alphas else alpha
        b = betas.pop(0) if beta is not None and betas else beta
        result.append((name, float(a or 0.0), float(b or 0.0)))
    return tuple(result)


def _columns(ctx: Ctx, x: Value, lo: Dim, size: Dim) -> Value:
    """Columns ``lo .. lo + size`` of a matrix."""
    result: Value = ctx.b.op("slice", x, starts=(0, lo), sizes=(x.shape[0], size), steps=(1, 1))
    return result


def project(ctx: Ctx, x: Value, w: Value, bias: Value | None) -> Value:
    """``x [T, B, I]`` times ``w [D, G*H, I]`` transposed plus ``bias [D, G*H]``, [T, B, D, G*H]."""
    b = ctx.b
    steps, rows, size = x.shape
    directions, columns, _ = w.shape
    flat = b.op("reshape", x, shape=(steps * rows, size))
    weights = b.op("reshape", w, shape=(directions * columns, w.shape[2]))
    y = b.op("dot", flat, weights, ta=False, tb=True)
    if bias is not None:
        y = b.op("add", y, b.op("reshape", bias, shape=(directions * columns,)))
    result: Value = b.op("reshape", y, shape=(steps, rows, directions, columns))
    return result


def split_bias(ctx: Ctx, op: str, bias: Value | None, hidden: Dim) -> tuple[Value | None, Any]:
    """(bias added to the projection [D, G*H], a GRU's own bias of the hidden gate or None)."""
    if bias is None:
        return None, None
    b, width = ctx.b, hidden * _GATES[op]
    own, rec = _columns(ctx, bias, 0, width), _columns(ctx, bias, width, width)
    if op != "GRU" or not ctx.attr("linear_before_reset", 0):
        return b.op("add", own, rec), None
    both = b.op("add", _columns(ctx, own, 0, 2 * hidden), _columns(ctx, rec, 0, 2 * hidden))
    kept = b.op("concat", both, _columns(ctx, own, 2 * hidden, hidden), axis=1)
    return kept, _columns(ctx, rec, 2 * hidden, hidden)


def direction_of(ctx: Ctx) -> tuple[str, int]:
    """(direction, number of directions)."""
    direction = ctx.attr("direction", "forward").lower()
    if direction not in DIRECTIONS:
        raise ModelError(f"direction {direction[:30]!r} is none of {', '.join(DIRECTIONS)}")
    return direction, 2 if direction == "bidirectional" else 1


def _transposed(ctx: Ctx, x: Value | None, perm: tuple[int, ...]) -> Value | None:
    return None if x is None else ctx.b.op("transpose", x, perm=perm)


def finish(ctx: Ctx, op: str, operands: tuple[Value | None, ...], **attrs: Any) -> Any:
    """The recurrent node's results in ONNX's layout."""
    outs = ctx.b.op(op.lower(), *operands, **attrs)
    last = outs[1:]
    if ctx.attr("layout", 0):
        y = ctx.b.op("transpose", outs[0], perm=(1, 0, 2, 3))
        last = tuple(ctx.b.op("transpose", o, perm=(1, 0, 2)) for o in last)
    else:
        y = ctx.b.op("transpose", outs[0], perm=(0, 2, 1, 3))
    return (y, *last)[: max(ctx.n_outputs, 1)]


@lowering("LSTM", "RNN")
@lowering("GRU", since=3)
def recurrent(ctx: Ctx, node: NodeProto) -> Any:
    """One layer; operands X, W, R, B, sequence_lens, initial_h (LSTM: initial_c, P)."""
    op = node.op_type
    x, w, r = ctx.input(0), ctx.input(1), ctx.input(2)
    direction, directions = direction_of(ctx)
    if x.rank != 3 or w.rank != 3 or r.rank != 3:
        raise ModelError(f"{op} needs three-dimensional X, W and R")
    if w.shape[0] != directions or r.shape[0] != directions:
        raise ModelError(f"{op} is {direction}, but W is {w.type} and R is {r.type}")
    hidden = r.shape[2]
    stated = ctx.attr("hidden_size", hidden)
    if isinstance(hidden, int) and stated != hidden:
        raise ModelError(f"hidden_size {stated}, but R is {r.type}")
    layout = ctx.attr("layout", 0)
    h0, c0 = ctx.optional(5), ctx.optional(6) if op == "LSTM" else None
    if layout:
        x = ctx.b.op("transpose", x, perm=(1, 0, 2))
        h0, c0 = _transposed(ctx, h0, (1, 0, 2)), _transposed(ctx, c0, (1, 0, 2))
    bias, rb = split_bias(ctx, op, ctx.optional(3), hidden)
    xw = project(ctx, x, w, bias)
    rt = ctx.b.op("transpose", r, perm=(0, 2, 1))
    clip = ctx.attr("clip")
    common = {
        "direction": direction, "activations": activations(ctx, op, directions),
        "clip": clip if clip else None,
    }  # fmt: skip
    lens = ctx.optional(4)
    if op == "LSTM":
        forget = bool(ctx.attr("input_forget", 0))
        operands = (xw, rt, lens, h0, c0, ctx.optional(7))
        return finish(ctx, op, operands, **common, input_forget=forget)
    if op == "GRU":
        before = bool(ctx.attr("linear_before_reset", 0))
        return finish(ctx, op, (xw, rt, rb, lens, h0), **common, linear_before_reset=before)
    return finish(ctx, op, (xw, rt, lens, h0), **common)
