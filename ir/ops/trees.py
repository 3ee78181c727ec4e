"""Decision trees: an ensemble as tables, evaluated for every row of a matrix.

Tables have one entry per node of the forest:

=============  =============================================================================
``feature``    i32, column of x that is compared
``value``      threshold; its dtype is the one of the comparison
``left``       i32, node that follows where the comparison holds
``right``      i32, node that follows where it does not
``mode``       u8, see ``MODES``
``missing``    bool, whether NaN follows ``left`` no matter what the comparison says
``start``      i32, leaves: first entry of the weights
``count``      i32, leaves: number of weights
``target``     i32, per weight: output column
``weight``     per weight: what the leaf adds
``roots``      i32, root node of each tree
=============  =============================================================================
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ..errors import ModelError
from ..types import BOOL, I32, U8, TensorType
from .base import Attributes, OpDef, Work, register, tensor

MODES = ("leq", "lt", "gte", "gt", "eq", "neq", "leaf")
"""Comparisons of ``x <mode> value``, by number."""
LEAF = 6
AGGREGATES = ("sum", "average", "min", "max")
TABLES = ("feature", "value", "left", "right", "mode", "missing", "start", "count", "target",
          "weight", "roots")  # fmt: skip


def _infer(types: tuple[Any, ...], attrs: Attributes) -> tuple[Any, ...]:
    x, *rest = (tensor(t, "tree_ensemble") for t in types)
    tables = dict(zip(TABLES, rest, strict=True))
    if x.rank != 2 or x.dtype.kind not in "fiu" or attrs["aggregate"] not in AGGREGATES:
        raise ModelError(f"tree_ensemble: rows {x}, aggregate {attrs['aggregate']!r}")
    for name, t in tables.items():
        floating = name in ("value", "weight")
        wanted = {"mode": U8, "missing": BOOL}.get(name, I32)
        if t.rank != 1 or (not t.dtype.is_float if floating else t.dtype != wanted):
            raise ModelError(f"tree_ensemble: table {name} is {t}")
    return (TensorType(tables["weight"].dtype, (x.shape[0], attrs["targets"])),)


def _walk(x: np.ndarray, root: int, t: dict[str, np.ndarray]) -> np.ndarray:
    """Leaf that each row of ``x`` reaches from ``root``."""
    rows = np.arange(x.shape[0])
    at = np.full(x.shape[0], root, dtype=np.int64)
    for _ in range(len(t["mode"]) + 1):
        mode = t["mode"][at]
        if (mode == LEAF).all():
            return at
        column = np.clip(t["feature"][at], 0, max(x.shape[1] - 1, 0))
        v = x[rows, column].astype(t["value"].dtype)
        bound = t["value"][at]
        with np.errstate(all="ignore"):
            tests = (v <= bound, v < bound, v >= bound, v > bound, v == bound, v != bound)
        hit = np.choose(np.minimum(mode, 5), tests) | (t["missing"][at] & np.isnan(v))
        at = np.where(mode == LEAF, at, np.where(hit, t["left"][at], t["right"][at]))
    raise ModelError("tree_ensemble: the nodes form a cycle")


def _reference(args: Any, attrs: Attributes, types: Any) -> tuple[Any, ...]:
    x, tables = args[0], dict(zip(TABLES, args[1:], strict=True))
    how, dtype = attrs["aggregate"], tables["weight"].dtype
    unit = {"min": np.inf, "max": -np.inf}.get(how, 0)
    out = np.full((x.shape[0], attrs["targets"]), unit, dtype=dtype)
    fold = {"min": np.minimum, "max": np.maximum}.get(how, np.add)
    for root in tables["roots"]:
        leaf = _walk(x, int(root), tables)
        for node in np.unique(leaf):
            rows = np.flatnonzero(leaf == node)
            first = tables["start"][node]
            for k in range(first, first + tables["count"][node]):
                column = tables["target"][k]
                out[rows, column] = fold(out[rows, column], tables["weight"][k])
    if how == "average":
        out = (out / dtype.type(max(len(tables["roots"]), 1))).astype(dtype)
    return (np.where(np.isinf(out), 0, out).astype(dtype) if unit else out,)


def _work(operands: tuple[Any, ...], attrs: Attributes, results: tuple[Any, ...]) -> Work:
    """About 12 steps down each tree, each reading one line of the tables."""
    x, roots = operands[0], operands[-1]
    visits = x.shape[0] * roots.numel() * 12
    return Work(visits * 4, x.nbytes() + results[0].nbytes() + visits * 64)


register(OpDef("tree_ensemble", (12, 12), _infer, _reference, frozenset({"opaque", "trees"}),
               attrs=("targets", "aggregate"), work_fn=_work,
               doc="sum (average, min, max) of the weights of the leaves that each row reaches"))
