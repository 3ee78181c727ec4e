"""Decision trees: an ensemble as tables, evaluated for every row of a matrix.

``nodes`` holds one row of i32 words per node of the forest, so that a visit reads one cache line:

======  ======================================  ==========================================
word    inner node                              leaf
======  ======================================  ==========================================
0       column of x, mode << 24, missing << 27  -1
1       node that follows if the test holds     first entry of its weights
2       node that follows if it does not        number of its weights
last    the threshold's bits: word 3 of 4 as f32, words 4 and 5 of 6 as f64
======  ======================================  ==========================================

The test is ``x[column] <mode> threshold`` in the threshold's type; with ``missing`` a NaN passes
it. ``target`` (i32) and ``weight`` say, per weight, what a leaf adds to which output column;
``roots`` (i32) names the root of each tree. ``compare`` is the one mode of all inner nodes, or
"mixed"; ``nan`` says whether any node has ``missing``; ``adjacent`` whether the node that follows a
failed test is always the next one behind the node that follows a passed one, and both are behind
the node of the test.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ..errors import ModelError
from ..types import F32, F64, I32, DType, TensorType
from .base import Attributes, OpDef, Work, register, tensor

MODES = ("leq", "lt", "gte", "gt", "eq", "neq")
"""Tests by number."""
AGGREGATES = ("sum", "average", "min", "max")
MODE_SHIFT, MISSING_SHIFT, COLUMN_MASK = 24, 27, (1 << 24) - 1
WORDS = {4: F32, 6: F64}
"""Words per node -> type of the threshold."""


def threshold_type(words: Any) -> DType:
    """The threshold's type in a table with that many words per node."""
    found = WORDS.get(words)
    if found is None:
        raise ModelError(f"tree_ensemble: {words} words per node; 4 and 6 are known")
    return found


def node_table(
    code: np.ndarray, left: np.ndarray, right: np.ndarray, value: np.ndarray
) -> np.ndarray:
    """Words 0, 1 and 2 and thresholds (f32 or f64) as the table ``nodes``."""
    wide = value.dtype == np.float64
    table = np.zeros((len(code), 6 if wide else 4), dtype=np.int32)
    table[:, 0], table[:, 1], table[:, 2] = code, left, right
    if wide:
        table[:, 4:] = np.ascontiguousarray(value).view(np.int32).reshape(-1, 2)
    else:
        table[:, 3] = np.ascontiguousarray(value).view(np.int32)
    return table


WALKED_WORDS = 4
"""Words per node of ``walked``."""
MOST_WEIGHTS = (1 << 19) - 1
"""Weights of a leaf that ``walked`` can count."""


def walked(nodes: np.ndarray, compare: str, plain: bool) -> np.ndarray:
    """A table of ``adjacent`` nodes as ``[nodes + 1, 4]`` i32 for walks without branches.

    The node that follows one is ``word 3 / 2 + (the test failed)``; word 2 is its code, of which
    ``plain`` keeps the column only. An f64 threshold is words 0 and 1, an f32 threshold word 1. The
    threshold of a leaf is NaN, so that its test is known, and word 3 leads back to it; word 0 and
    the last bits of word 1 are the first entry and the number of its weights. Word 0 of one more
    row is the number of columns that x must have.

    Raises ``ModelError`` for a table in which a walk could leave the table or not end.
    """
    count = len(nodes)
    code, left, right = (nodes[:, k].astype(np.int64) for k in range(3))
    leaf = code < 0
    inner = ~leaf
    own = np.arange(count)
    if count >= 1 << 30:
        raise ModelError(f"tree_ensemble: {count} nodes")
    if ((right != left + 1) | (left <= own) | (right >= count))[inner].any():
        raise ModelError("tree_ensemble: nodes that follow one are not side by side behind it")
    if ((left < 0) | (right < 0) | (right > MOST_WEIGHTS))[leaf].any():
        raise ModelError(f"tree_ensemble: a leaf with more than {MOST_WEIGHTS} weights")
    table = np.zeros((count + 1, WALKED_WORDS), np.int32)
    body = table[:count]
    body[:, 1] = nodes[:, -1]
    if threshold_type(nodes.shape[1]) == F64:
        body[:, 0] = nodes[:, 4]
    column = np.where(leaf, 0, code & COLUMN_MASK)
    body[:, 2] = column if plain else np.where(leaf, 0, code)
    body[:, 3] = 2 * np.where(leaf, own - (compare != "neq"), left)
    body[leaf, 0] = left[leaf]
    body[leaf, 1] = (0x7FF80000 + right)[leaf]  # NaN as an f32 and as the upper half of an f64
    table[count, 0] = column.max(initial=-1) + 1
    return table


def _infer(types: tuple[Any, ...], attrs: Attributes) -> tuple[Any, ...]:
    x, nodes, target, weight, roots = (tensor(t, "tree_ensemble") for t in types)
    if x.rank != 2 or x.dtype.kind not in "fiu" or attrs["aggregate"] not in AGGREGATES:
        raise ModelError(f"tree_ensemble: rows {x}, aggregate {attrs['aggregate']!r}")
    if nodes.rank != 2 or nodes.dtype != I32 or attrs["compare"] not in (*MODES, "mixed"):
        raise ModelError(f"tree_ensemble: nodes {nodes}, compare {attrs['compare']!r}")
    threshold_type(nodes.shape[1])
    for t in (target, roots):
        if t.rank != 1 or t.dtype != I32:
            raise ModelError(f"tree_ensemble: table {t} must be a vector of i32")
    if weight.rank != 1 or weight.dtype not in (F32, F64):
        raise ModelError(f"tree_ensemble: weights {weight}")
    return (TensorType(weight.dtype, (x.shape[0], attrs["targets"])),)


def _walk(x: np.ndarray, root: int, nodes: np.ndarray, value: np.ndarray) -> np.ndarray:
    """Leaf that each row of ``x`` reaches from ``root``."""
    rows = np.arange(x.shape[0])
    at = np.full(x.shape[0], root, dtype=np.int64)
    for _ in range(len(nodes) + 1):
        code = nodes[at, 0].astype(np.int64)
        if (code < 0).all():
            return at
        kept = np.maximum(code, 0)
        v = x[rows, np.minimum(kept & COLUMN_MASK, x.shape[1] - 1)].astype(value.dtype)
        bound = value[at]
        with np.errstate(all="ignore"):
            tests = (v <= bound, v < bound, v >= bound, v > bound, v == bound, v != bound)
        hit = np.choose(np.minimum((kept >> MODE_SHIFT) & 7, 5), tests)
        hit |= ((kept >> MISSING_SHIFT) & 1).astype(bool) & np.isnan(v)
        at = np.where(code < 0, at, np.where(hit, nodes[at, 1], nodes[at, 2]))
    raise ModelError("tree_ensemble: the nodes form a cycle")


def _reference(args: Any, attrs: Attributes, types: Any) -> tuple[Any, ...]:
    x, nodes, target, weight, roots = args
    value = np.ascontiguousarray(nodes[:, 4:] if nodes.shape[1] == 6 else nodes[:, 3:])
    value = value.view(threshold_type(nodes.shape[1]).np).reshape(-1)
    how, dtype = attrs["aggregate"], weight.dtype
    unit = {"min": np.inf, "max": -np.inf}.get(how, 0)
    out = np.full((x.shape[0], attrs["targets"]), unit, dtype=dtype)
    fold = {"min": np.minimum, "max": np.maximum}.get(how, np.add)
    for root in roots if x.shape[1] else ():
        leaf = _walk(x, int(root), nodes, value)
        for node in np.unique(leaf):
            rows = np.flatnonzero(leaf == node)
            for k in range(nodes[node, 1], nodes[node, 1] + nodes[node, 2]):
                out[rows, target[k]] = fold(out[rows, target[k]], weight[k])
    if how == "average":
        out = (out / dtype.type(max(len(roots), 1))).astype(dtype)
    return (np.where(np.isinf(out), 0, out).astype(dtype) if unit else out,)


def _work(operands: tuple[Any, ...], attrs: Attributes, results: tuple[Any, ...]) -> Work:
    """About 12 steps down each tree, each reading one line of the tables."""
    x, roots = operands[0], operands[-1]
    visits = x.shape[0] * roots.numel() * 12
    return Work(visits * 4, x.nbytes() + results[0].nbytes() + visits * 64)


register(OpDef("tree_ensemble", (5, 5), _infer, _reference, frozenset({"opaque", "trees"}),
               attrs=("targets", "aggregate", "compare", "nan", "adjacent"), work_fn=_work,
               doc="sum (average, min, max) of the weights of the leaves that each row reaches"))
