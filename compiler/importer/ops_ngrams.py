"""TfIdfVectorizer: how often each n-gram of a pool comes in a row of integers or strings.

Integers are counted by compiled loops: for every length n and number of skipped items, the shifted
copies of the row are compared with all n-grams of that length at once, and the matches are summed
over positions. Strings are counted on the host.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ...ir.dim_functions import dmax
from ...ir.errors import ModelError, quote
from ...ir.types import BOOL, F32, I64, TensorType
from .context import Ctx
from .ops_host import host_node
from .registry import lowering

if TYPE_CHECKING:
    from ...ir.dims import Dim
    from ...ir.graph import Value
    from ..messages import NodeProto


@dataclass(frozen=True, slots=True)
class _Grams:
    """The n-grams of one length."""

    items: np.ndarray
    """[count, n]"""
    columns: tuple[int, ...]
    """Column of the result of each."""
    weights: tuple[float, ...]


@lowering("TfIdfVectorizer")
def tfidf_vectorizer(ctx: Ctx, node: NodeProto) -> Value:
    """f32 [C] or [R, C]: counts, weights of what is there, or both multiplied."""
    x = ctx.input(0)
    mode = ctx.required("mode")
    if mode not in ("TF", "IDF", "TFIDF"):
        raise ModelError(f"mode {quote(mode)}: it is TF, IDF or TFIDF")
    if x.rank > 2:
        raise ModelError(f"TfIdfVectorizer takes a row or rows, got {x.type}")
    indexes = tuple(ctx.required("ngram_indexes"))
    width = max(indexes, default=-1) + 1
    if x.dtype.kind == "s":
        shape: tuple[Dim, ...] = (width,) if x.rank <= 1 else (x.shape[0], width)
        return host_node(ctx, "tfidf", [x], _params(ctx, mode), [TensorType(F32, shape)])[0]
    if len(set(indexes)) != len(indexes):
        ctx.fail("two n-grams share a column; give each its own index")
    rows = x if x.rank == 2 else ctx.b.op("reshape", x, shape=(1, x.tensor.numel()))
    counts = _counts(ctx, rows, _pool(ctx, indexes), width, mode)
    return counts if x.rank == 2 else ctx.b.op("reshape", counts, shape=(width,))


def _params(ctx: Ctx, mode: str) -> dict[str, object]:
    return {
        "mode": mode, "pool": tuple(ctx.attr("pool_strings") or ctx.attr("pool_int64s") or ()),
        "indexes": tuple(ctx.required("ngram_indexes")),
        "starts": tuple(ctx.required("ngram_counts")), "weights": tuple(ctx.attr("weights", ())),
        "min_length": ctx.required("min_gram_length"),
        "max_length": ctx.required("max_gram_length"), "max_skip": ctx.required("max_skip_count"),
    }  # fmt: skip


def _pool(ctx: Ctx, indexes: tuple[int, ...]) -> dict[int, _Grams]:
    """The n-grams by length; ``ngram_counts`` says where those of each length begin."""
    items, starts = tuple(ctx.attr("pool_int64s") or ()), tuple(ctx.required("ngram_counts"))
    weights = tuple(ctx.attr("weights", ())) or (1.0,) * len(indexes)
    found: dict[int, _Grams] = {}
    number = 0
    for n, begin in enumerate(starts, start=1):
        end = starts[n] if n < len(starts) else len(items)
        if not 0 <= begin <= end <= len(items) or (end - begin) % n:
            raise ModelError(f"ngram_counts {starts[:8]} do not cut a pool of {len(items)} items")
        count = (end - begin) // n
        if number + count > min(len(indexes), len(weights)):
            raise ModelError(f"there are {len(indexes)} indexes and {len(weights)} weights for at "
                             f"least {number + count} n-grams")
        part = slice(number, number + count)
        found[n] = _Grams(np.array(items[begin:end], np.int64).reshape(count, n), indexes[part],
                          weights[part])
        number += count
    return found


def _counts(ctx: Ctx, rows: Value, pool: dict[int, _Grams], width: int, mode: str) -> Value:
    """f32 [R, width]"""
    b, skips = ctx.b, ctx.required("max_skip_count")
    parts: list[Value] = []
    column = np.full(width, -1, np.int64)
    weight = np.ones(width, np.float32)
    held = 0
    for n in range(max(1, ctx.required("min_gram_length")), ctx.required("max_gram_length") + 1):
        grams = pool.get(n)
        if grams is None or not len(grams.items):
            continue
        column[list(grams.columns)] = held + np.arange(len(grams.items))
        weight[list(grams.columns)] = grams.weights
        held += len(grams.items)
        total = _matches(ctx, rows, grams.items, 1)
        for step in range(2, 1 if n == 1 else skips + 2):
            total = b.op("add", total, _matches(ctx, rows, grams.items, step))
        parts.append(total)
    parts.append(ctx.full((rows.shape[0], 1), 0, I64))
    column[column < 0] = held  # the zeros behind all counts
    every = parts[0] if len(parts) == 1 else b.op("concat", *parts, axis=1)
    found = b.op("gather", every, b.const(column), axis=1)
    if mode == "IDF":
        found = b.op("cast", found, to=BOOL)
    found = b.op("cast", found, to=F32)
    result: Value = found if mode == "TF" else b.op("mul", found, b.const(weight))
    return result


def _matches(ctx: Ctx, rows: Value, grams: np.ndarray, step: int) -> Value:
    """i64 [R, count]: positions of each row where the n-gram lies, every ``step``-th item taken."""
    b = ctx.b
    count, n = grams.shape
    wide = b.op("cast", rows, to=I64) if rows.dtype != I64 else rows
    size = dmax(rows.shape[1] - (n - 1) * step, 0)
    found: Value | None = None
    for k in range(n):
        items = b.op("slice", wide, starts=(0, k * step), sizes=(rows.shape[0], size), steps=(1, 1))
        items = b.op("reshape", items, shape=(rows.shape[0], 1, size))
        equal = b.op("eq", items, b.const(grams[:, k].reshape(count, 1)))
        found = equal if found is None else b.op("and", found, equal)
    assert found is not None
    result: Value = b.op("reduce", b.op("cast", found, to=I64), kind="sum", axes=(2,),
                         keepdims=False)
    return result
