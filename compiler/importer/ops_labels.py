"""ai.onnx.ml: labels, categories and maps.

Numbers are looked up in compiled code: a few keys by comparison with each of them, many by a
decision tree that is a binary search. Strings and maps are host steps.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ...ir.errors import ModelError
from ...ir.graph import Value
from ...ir.types import F32, F64, I64, STR, DType, MapType, SequenceType, TensorType
from .ops_host import host_node
from .ops_ml import labels_of, rows_of
from .ops_shape import reshape_to
from .ops_trees import LEAF, Forest, evaluate_forest
from .registry import lowering

if TYPE_CHECKING:
    from ..messages import NodeProto
    from .context import Ctx

_ML = "ai.onnx.ml"
_COMPARED = 32
"""Keys up to which each is compared with every element."""
_EXACT = 1 << 53
"""Integers below it are exact as f64, the type that a tree compares in."""
_DEFAULTS: dict[str, Any] = {"string": "_Unused", "int64": -1, "float": -0.0}
_KINDS = {"string": STR, "int64": I64, "float": F32}


# -- tables ------------------------------------------------------------------------------------


def _first(keys: Sequence[Any], values: Sequence[Any]) -> tuple[list[Any], list[Any]]:
    """The table without repeated keys: the first of them counts, as in ONNX Runtime."""
    seen: dict[Any, Any] = {}
    for key, value in zip(keys, values, strict=True):
        seen.setdefault("NaN" if key != key else key, (key, value))
    return [k for k, _ in seen.values()], [v for _, v in seen.values()]


def _host_lookup(
    ctx: Ctx, x: Value, keys: Sequence[Any], values: Sequence[Any], default: Any, dtype: DType
) -> Value:
    params = {"keys": tuple(keys), "values": tuple(values), "default": default, "dtype": dtype}
    return host_node(ctx, "label_encoder", [x], params, [TensorType(dtype, x.shape)])[0]


def look_up(
    ctx: Ctx, x: Value, keys: Sequence[Any], values: Sequence[Any], default: Any, dtype: DType
) -> Value:
    """The value whose key an element is, bit by bit in the case of NaN, or the default."""
    if len(keys) != len(values):
        raise ModelError(f"{len(keys)} keys and {len(values)} values")
    keys, values = _first(keys, values)
    if STR in (x.dtype, dtype) or not keys:
        return _host_lookup(ctx, x, keys, values, default, dtype)
    b = ctx.b
    table = np.array(keys, dtype=x.dtype.np)
    order = np.argsort(table, kind="stable")
    at = _position(ctx, x, table[order])
    near = b.op("gather", b.const(table[order]), at, axis=0)
    hit = b.op("eq", x, near)
    if x.dtype.is_float:
        hit = b.op("or", hit, b.op("and", b.op("isnan", x), b.op("isnan", near)))
    found = b.op("gather", b.const(np.array(values, dtype=dtype.np)[order]), at, axis=0)
    result: Value = b.op("select", hit, found, b.const(np.asarray(default, dtype=dtype.np)))
    return result


def _position(ctx: Ctx, x: Value, keys: np.ndarray) -> Value:
    """Positions, i64, at which the elements of ``x`` are in sorted ``keys`` if they are at all."""
    b = ctx.b
    wide = keys.dtype.kind in "iu" and max(abs(int(keys[0])), abs(int(keys[-1]))) >= _EXACT
    if len(keys) <= _COMPARED or wide:
        column = reshape_to(ctx, x, (*x.shape, 1))
        hits = b.op("eq", column, b.const(keys))
        if x.dtype.is_float:
            both = b.op("and", b.op("isnan", column), b.op("isnan", b.const(keys)))
            hits = b.op("or", hits, both)
        result: Value = b.op("argmax", hits, axis=hits.rank - 1, keepdims=False, select_last=False)
        return result
    forest = Forest(roots=[0])
    stack = [(0, len(keys), -1)]
    while stack:  # a node for the keys from low to high - 1; the parent's right child if >= 0
        low, high, parent = stack.pop()
        own = len(forest.mode)
        if parent >= 0:
            forest.right[parent] = own
        if high - low == 1:
            forest.add(0, 0.0, own, own, LEAF, False)
            forest.weights[own].append((0, float(low)))
            continue
        middle = (low + high) // 2
        forest.add(0, float(keys[middle - 1]), own + 1, own, 0, False)  # left child: the next node
        stack.append((middle, high, own))
        stack.append((low, middle, -1))
    flat = reshape_to(ctx, x, (x.tensor.numel(), 1))
    rank = evaluate_forest(ctx, flat, forest, 1, "sum", wide=True)
    return reshape_to(ctx, ctx.as_dtype(rank, I64), x.shape)


# -- operators ---------------------------------------------------------------------------------


@lowering("LabelEncoder", domain=_ML)
def label_encoder_1(ctx: Ctx, node: NodeProto) -> Value:
    """Strings to their positions in a list, or positions to strings."""
    x, strings = ctx.input(0), tuple(ctx.attr("classes_strings", ()))
    positions = range(len(strings))
    if x.dtype == STR:
        return look_up(ctx, x, strings, positions, ctx.attr("default_int64", -1), I64)
    return look_up(ctx, x, positions, strings, ctx.attr("default_string", "_Unused"), STR)


@lowering("LabelEncoder", domain=_ML, since=2)
def label_encoder(ctx: Ctx, node: NodeProto) -> Value:
    """Numbers to numbers in compiled code; strings on the host."""
    x = ctx.input(0)
    keys, key_type = _table(ctx, "keys")
    values, dtype = _table(ctx, "values")
    if key_type != x.dtype:
        raise ModelError(f"keys of {key_type} for {x.type}")
    kind = next((k for k, t in _KINDS.items() if t == dtype), "")
    default = ctx.attr(f"default_{kind}", _DEFAULTS.get(kind, 0)) if kind else 0
    if ctx.has("default_tensor"):
        default = ctx.attr("default_tensor").reshape(-1)[0]
    default = default.item() if isinstance(default, np.generic) else default
    return look_up(ctx, x, keys, values, default, dtype)


def _table(ctx: Ctx, what: str) -> tuple[tuple[Any, ...], DType]:
    """(entries, element type) of ``keys_*`` or ``values_*``."""
    for kind, dtype in _KINDS.items():
        if ctx.has(f"{what}_{kind}s"):
            return tuple(ctx.attr(f"{what}_{kind}s")), dtype
    if ctx.has(f"{what}_tensor"):
        array = ctx.attr(f"{what}_tensor")
        return tuple(array.reshape(-1).tolist()), DType.of(array.dtype)
    raise ModelError(f"LabelEncoder without {what}")


@lowering("CategoryMapper", domain=_ML)
def category_mapper(ctx: Ctx, node: NodeProto) -> Value:
    """Strings to integers, or integers to strings."""
    x = ctx.input(0)
    strings, ints = tuple(ctx.attr("cats_strings", ())), tuple(ctx.attr("cats_int64s", ()))
    if x.dtype == STR:
        return look_up(ctx, x, strings, ints, ctx.attr("default_int64", -1), I64)
    return look_up(ctx, x, ints, strings, ctx.attr("default_string", "_Unused"), STR)


@lowering("OneHotEncoder", domain=_ML)
def one_hot_encoder(ctx: Ctx, node: NodeProto) -> Value:
    """One column per category; an unknown one is a row of zeros, or, with ``zeros=0``, an error
    while the model runs."""
    b, x = ctx.b, ctx.input(0)
    cats = tuple(ctx.attr("cats_strings" if x.dtype == STR else "cats_int64s", ()))
    if not cats:
        raise ModelError(f"OneHotEncoder without categories of {x.dtype}")
    if x.dtype == STR:
        x = _host_lookup(ctx, x, *_first(cats, range(len(cats))), -1, I64)
        cats = tuple(range(len(cats)))
    column = reshape_to(ctx, ctx.as_dtype(x, I64), (*x.shape, 1))
    hits = b.op("eq", column, b.const(np.array(cats, np.int64)))
    y: Value = b.op("cast", hits, to=F32)
    if ctx.attr("zeros", 1):
        return y
    known = b.op("reduce", hits, kind="max", axes=(hits.rank - 1,), keepdims=False)
    axes = tuple(range(known.rank))
    every = b.op("not", b.op("reduce", b.op("not", known), kind="max", axes=axes, keepdims=False))
    message = "OneHotEncoder with zeros=0: an element is none of the categories"
    return host_node(ctx, "require", [y, every], {"message": message}, [y.type])[0]


@lowering("ZipMap", domain=_ML)
def zipmap(ctx: Ctx, node: NodeProto) -> Value:
    """Each row of scores as a dictionary from label to score (a host value)."""
    x = rows_of(ctx, ctx.input(0))
    labels = labels_of(ctx)
    if isinstance(x.shape[1], int) and x.shape[1] != len(labels):
        raise ModelError(f"{len(labels)} labels for {x.type}")
    row = MapType(STR if labels and isinstance(labels[0], str) else I64, F32)
    return host_node(ctx, "zipmap", [x], {"labels": labels}, [SequenceType(row)])[0]


def _map(ctx: Ctx) -> MapType:
    t = ctx.input(0).type
    if not isinstance(t, MapType):
        raise ModelError(f"a map is needed, got {t}")
    return t


@lowering("DictVectorizer", domain=_ML)
def dict_vectorizer(ctx: Ctx, node: NodeProto) -> Value:
    """The values of a map in the order of a vocabulary, [1, n] as ONNX Runtime has them; 0 (or an
    empty string) for a key that the map lacks."""
    t = _map(ctx)
    name = "string_vocabulary" if t.key == STR else "int64_vocabulary"
    keys = tuple(ctx.attr(name, ()))
    if not keys or t.value not in (I64, F32, F64, STR):
        raise ModelError(f"DictVectorizer of {t} without {name}, or to no type it knows")
    result = TensorType(t.value, (1, len(keys)))
    params = {"keys": keys, "dtype": t.value}
    return host_node(ctx, "dict_vectorizer", [ctx.input(0)], params, [result])[0]


@lowering("CastMap", domain=_ML)
def cast_map(ctx: Ctx, node: NodeProto) -> Value:
    """The values of a map as a tensor [1, n], in the order of the keys or at their positions."""
    t, form = _map(ctx), ctx.attr("map_form", "DENSE")
    to = {"TO_FLOAT": F32, "TO_STRING": STR, "TO_INT64": I64}.get(ctx.attr("cast_to", "TO_FLOAT"))
    if to is None or form not in ("DENSE", "SPARSE") or t.key != I64:
        raise ModelError(f"CastMap of {t}, map_form {form[:20]!r}")
    size = int(ctx.attr("max_map", 1)) if form == "SPARSE" else None
    width = ctx.b.fresh("entries") if size is None else size
    params = {"size": size, "dtype": to}
    return host_node(ctx, "cast_map", [ctx.input(0)], params, [TensorType(to, (1, width))])[0]
