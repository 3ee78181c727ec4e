"""Makers of reductions, scans, sorts, softmax and norms."""

from __future__ import annotations

from typing import Any

import numpy as np

from .sketch import FLOATS, I32, I64, INTEGERS, Misfit, Sketch, Var, allowed, np_of


def _full(v: Var) -> bool:
    return v.known and all(0 not in t for t in v.shapes)


def reduce(s: Sketch) -> Any:
    """The Reduce family over any axes."""
    kind = s.choice(("Sum", "Sum", "Mean", "Mean", "Max", "Min", "Prod", "L1", "L2", "SumSquare",
                     "LogSum", "LogSumExp"))
    name = f"Reduce{kind}"
    types = sorted(allowed(name, s.opset) & {*FLOATS, *INTEGERS})
    if kind.startswith("Log"):  # of integers, peers take the logarithm of a whole sum
        types = [t for t in types if t in FLOATS]
    empty = kind in ("Sum", "Prod", "L1", "L2", "SumSquare") and s.flag(0.5)
    x = s.floats(0, 5, None if empty else _full) if s.flag(0.8) else s.value(
        types, 0, 5, lambda v: v.known and _full(v))
    if x.floating and kind in ("Prod", "LogSumExp", "SumSquare", "L2"):
        x = s.tame(x, -3, 3)
    if kind == "LogSum" and x.floating:
        x = s.op("Add", [s.op("Abs", [x], bound=x.bound), s.scalar(0.1, x)], bound=x.bound + 1)
    axes = sorted(int(a) for a in s.rng.permutation(x.rank)[: s.number(0, x.rank)])
    if s.flag(0.5) and x.rank:
        axes = list(range(s.number(0, x.rank - 1), x.rank))
    axes = [a - x.rank if s.flag(0.3) else a for a in axes]
    keep = s.number(0, 1)
    operands = [x, s.ints(axes)] if axes or s.flag(0.5) else [x]
    more: dict[str, Any] = {} if axes else {"noop_with_empty_axes": s.number(0, 1)}
    count = max((int(np.prod([d or 0 for d in t])) for t in x.shapes), default=1)
    bound = {"Sum": x.bound * count, "L1": x.bound * count, "Mean": x.bound, "Max": x.bound,
             "Min": x.bound}.get(kind, np.inf)
    return s.op(name, operands, bound=bound, keepdims=keep, **more)


def _ordered(s: Sketch, x: Var) -> Var:
    """``x`` without NaN, whose place in an order ONNX leaves open."""
    if not x.floating or (np.isfinite(x.bound) and not s.special):
        return x
    return s.op("Where", [s.op("IsNaN", [x]), s.scalar(0.25, x), x], bound=x.bound)


def arg(s: Sketch) -> Any:
    """ArgMax and ArgMin."""
    x = _ordered(s, s.floats(1, 4, _full) if s.flag(0.8) else s.value(INTEGERS, 1, 4, _full))
    return s.op(s.choice(("ArgMax", "ArgMin")), [x], axis=s.number(-x.rank, x.rank - 1),
                keepdims=s.number(0, 1), select_last_index=s.number(0, 1))


def topk(s: Sketch) -> Any:
    """TopK."""
    x = _ordered(s, s.floats(1, 4, _full) if s.flag(0.8) else s.value(INTEGERS, 1, 4, _full))
    axis = s.choice([k for k in range(x.rank) if x.fixed(k)])
    k = s.number(0, int(x.shape[axis] or 0))
    return s.ops("TopK", [x, s.ints([k])], 2, bound=x.bound, axis=axis, largest=s.number(0, 1),
                 sorted=1)


def cumulate(s: Sketch) -> Any:
    """CumSum."""
    x = s.floats(1, 4, lambda v: v.known) if s.flag(0.8) else s.value((I32, I64), 1, 4)
    axis = s.const(np.array(s.number(-x.rank, x.rank - 1), s.choice((np.int64, np.int32))))
    return s.op("CumSum", [x, axis], bound=x.bound * 40, exclusive=s.number(0, 1),
                reverse=s.number(0, 1))


def softmax(s: Sketch) -> Any:
    """Softmax, LogSoftmax, Hardmax."""
    x = s.floats(1, 4, _full)
    if not (s.special and s.flag(0.3)):
        x = s.tame(x, -60, 60)
    kind = s.choice(("Softmax", "Softmax", "LogSoftmax", "Hardmax"))
    x = _ordered(s, x) if kind == "Hardmax" else x
    return s.op(kind, [x], bound=1 if kind != "LogSoftmax" else np.inf,
                axis=s.number(-x.rank, x.rank - 1))


def norm(s: Sketch) -> Any:
    """LayerNormalization, RMSNormalization, InstanceNormalization, GroupNormalization,
    BatchNormalization, LpNormalization, MeanVarianceNormalization, LRN."""
    kind = s.choice(("LayerNormalization", "LayerNormalization", "RMSNormalization",
                     "InstanceNormalization", "GroupNormalization", "BatchNormalization",
                     "LpNormalization", "MeanVarianceNormalization", "LRN"))
    x = s.tame(s.floats(1, 4, _full), -1e3, 1e3)
    if kind in ("LayerNormalization", "RMSNormalization"):
        axis = s.number(0, x.rank - 1)
        if not all(x.fixed(k) for k in range(axis, x.rank)):
            raise Misfit("sizes are open")
        shape = [int(d or 0) for d in x.shape[axis:]]
        parts = [s.weight(x.dtype, shape)]
        if kind[0] == "L" and s.flag(0.6):
            parts.append(s.weight(x.dtype, shape))
        return s.op(kind, [x, *parts], axis=axis if s.flag() else axis - x.rank,
                    epsilon=s.choice((1e-5, 1e-3, 0.1)))
    if kind == "LpNormalization":
        return s.op(kind, [x], bound=1, axis=s.number(-x.rank, x.rank - 1), p=s.number(1, 2))
    if kind == "MeanVarianceNormalization":
        axes = [k for k in range(x.rank) if s.flag()] or [x.rank - 1]
        return s.op(kind, [x], axes=axes)
    if x.rank < 3 or not x.fixed(1):
        raise Misfit("no image")
    c = int(x.shape[1] or 0)
    if kind == "LRN":
        if x.rank != 4:
            raise Misfit("LRN takes images")
        return s.op(kind, [x], size=s.choice((1, 3, 5)), alpha=0.01, beta=0.6, bias=1.2)
    if kind == "BatchNormalization":
        parts = [s.weight(x.dtype, [c]) for _ in range(3)]
        positive = np.abs(s.rng.standard_normal(c)) + 0.3
        parts.append(s.const(positive.astype(np_of(x.dtype))))
        return s.op(kind, [x, *parts], epsilon=1e-3)
    groups = s.choice([g for g in range(1, c + 1) if c % g == 0])
    more: dict[str, Any] = {"num_groups": groups} if kind[0] == "G" else {}
    size = groups if kind[0] == "G" and s.opset < 21 else c
    return s.op(kind, [x, s.weight(x.dtype, [size]), s.weight(x.dtype, [size])], epsilon=1e-3,
                **more)


MAKERS = {reduce: 10, arg: 3, topk: 2, cumulate: 2, softmax: 4, norm: 5}
"""Makers and how often they are drawn."""
