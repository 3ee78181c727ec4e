"""Host functions on strings: normalization, n-gram counts, tokens, label tables, conversions."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from ..dim_values import substitute
from ..dims import Dim, Expr
from ..errors import ModelError
from ..types import DType, TensorType
from .base import OPS
from .host import host


def _objects(items: Sequence[Any], shape: tuple[int, ...]) -> np.ndarray:
    flat = np.empty(len(items), dtype=object)
    flat[:] = list(items)
    return flat.reshape(shape)


def _map(fn: Any, x: np.ndarray) -> np.ndarray:
    return _objects([fn(s) for s in x.ravel()], x.shape)


@host("string_normalizer")
def _normalize(args: Sequence[Any], params: Mapping[str, Any]) -> Sequence[Any]:
    """Removes stop words, then changes case; nothing left is one empty string."""
    x = args[0]
    if x.ndim not in (1, 2) or (x.ndim == 2 and x.shape[0] != 1):
        raise ModelError(f"StringNormalizer takes [C] or [1, C], got {list(x.shape)}")
    case, sensitive = params["case"], params["sensitive"]
    changes: dict[str, Callable[[str], str]] = {
        "LOWER": str.lower, "UPPER": str.upper, "NONE": str,
    }  # fmt: skip
    change = changes[case]
    fold = str if sensitive else (str.lower if case != "UPPER" else str.upper)
    stop = {fold(w) for w in params["stopwords"]}
    kept = [change(s) for s in x.ravel() if fold(s) not in stop] or [""]
    return [_objects(kept, (len(kept),) if x.ndim == 1 else (1, len(kept)))]


@host("tfidf")
def _tfidf(args: Sequence[Any], params: Mapping[str, Any]) -> Sequence[Any]:
    """Counts of the pool's n-grams with up to ``max_skip`` items left out between neighbors."""
    x = args[0]
    rows = x.reshape(1, -1) if x.ndim <= 1 else x
    pool = _pool(params)
    width = max(params["indexes"], default=-1) + 1
    out = np.zeros((rows.shape[0], width), dtype=np.float32)
    for r, row in enumerate(rows.tolist()):
        counts = _count(row, pool, params)
        for gram, number in counts.items():
            weight = params["weights"][gram] if params["weights"] else 1.0
            scale = {"TF": number, "IDF": weight, "TFIDF": number * weight}[params["mode"]]
            out[r, params["indexes"][gram]] = scale
    return [out[0] if x.ndim <= 1 else out]


def _pool(params: Mapping[str, Any]) -> dict[tuple[Any, ...], int]:
    """n-gram -> its number; ``starts`` delimits the n-grams of each length."""
    items, starts = params["pool"], params["starts"]
    found: dict[tuple[Any, ...], int] = {}
    number = 0
    for n, begin in enumerate(starts, start=1):
        end = starts[n] if n < len(starts) else len(items)
        for at in range(begin, end, n):
            found[tuple(items[at : at + n])] = number
            number += 1
    return found


def _count(
    row: Sequence[Any], pool: Mapping[tuple[Any, ...], int], params: Mapping[str, Any]
) -> Counter[int]:
    counts: Counter[int] = Counter()
    for n in range(params["min_length"], params["max_length"] + 1):
        for skip in range(1 if n == 1 else params["max_skip"] + 1):
            step = skip + 1
            for at in range(len(row) - (n - 1) * step):
                gram = pool.get(tuple(row[at : at + (n - 1) * step + 1 : step]))
                if gram is not None:
                    counts[gram] += 1
    return counts


@host("tokenizer")
def _tokenize(args: Sequence[Any], params: Mapping[str, Any]) -> Sequence[Any]:
    """Splits each string by separators or finds tokens by an expression, then pads."""
    x = args[0]
    rows = []
    for s in x.ravel():
        if params["expression"]:
            found = re.findall(params["expression"], s)
        else:
            found = [s]
            for sep in params["separators"]:
                parts = [re.split(sep, piece) if sep else list(piece) for piece in found]
                found = [piece for part in parts for piece in part]
        found = [t for t in found if len(t) >= params["least"] and t]
        rows.append(["\x02", *found, "\x03"] if params["mark"] else found)
    width = max((len(r) for r in rows), default=0)
    padded = [[*r, *[params["pad"]] * (width - len(r))] for r in rows]
    flat = [t for r in padded for t in r]
    return [_objects(flat, (*x.shape, width))]


@host("label_encoder")
def _encode(args: Sequence[Any], params: Mapping[str, Any]) -> Sequence[Any]:
    """Looks every element up in a table; NaN is a key like any other."""
    table = dict(zip(params["keys"], params["values"], strict=True))
    nan = next((v for k, v in table.items() if isinstance(k, float) and k != k), None)
    default = params["default"]

    def look(key: Any) -> Any:
        if nan is not None and key != key:
            return nan
        return table.get(key, default)

    items = [look(k) for k in args[0].ravel().tolist()]
    if params["dtype"].kind == "s":
        return [_objects(items, args[0].shape)]
    return [np.array(items, dtype=params["dtype"].np).reshape(args[0].shape)]


@host("cast_string")
def _cast(args: Sequence[Any], params: Mapping[str, Any]) -> Sequence[Any]:
    """Numbers to text as C prints the shortest that reads back, and text to numbers."""
    x, to = args[0], params["dtype"]
    if to.kind == "s":
        return [_map(_text, x)]
    try:
        numbers = [float(s) if to.is_float else int(s) for s in x.ravel()]
    except ValueError as error:
        raise ModelError(f"text that is no number: {error}") from None
    return [np.array(numbers, dtype=to.np).reshape(x.shape)]


def _text(v: Any) -> str:
    if isinstance(v, (bool, np.bool_)):
        return "1" if v else "0"
    if isinstance(v, (float, np.floating)):
        if np.isnan(v):
            return "NaN"
        if np.isinf(v):
            return "INF" if v > 0 else "-INF"
        return np.format_float_positional(v, trim="-")
    return str(v)


@host("string_concat")
def _join(args: Sequence[Any], params: Mapping[str, Any]) -> Sequence[Any]:
    a, b = np.broadcast_arrays(args[0], args[1])
    return [_objects([s + t for s, t in zip(a.ravel(), b.ravel(), strict=True)], a.shape)]


@host("string_split")
def _split(args: Sequence[Any], params: Mapping[str, Any]) -> Sequence[Any]:
    """Pieces padded with empty strings, and how many there are of each string."""
    x, limit = args[0], params["limit"]
    sep = params["delimiter"] or None
    pieces = [s.split(sep, -1 if limit is None else limit) for s in x.ravel()]
    width = max((len(p) for p in pieces), default=0)
    flat = [t for p in pieces for t in (*p, *[""] * (width - len(p)))]
    counts = np.array([len(p) for p in pieces], dtype=np.int64).reshape(x.shape)
    return [_objects(flat, (*x.shape, width)), counts]


@host("regex_full_match")
def _match(args: Sequence[Any], params: Mapping[str, Any]) -> Sequence[Any]:
    try:
        pattern = re.compile(params["pattern"])
    except re.error as error:
        raise ModelError(f"the pattern is no regular expression: {error}") from None
    hits = [pattern.fullmatch(s) is not None for s in args[0].ravel()]
    return [np.array(hits, dtype=bool).reshape(args[0].shape)]


@host("string_equal")
def _equal(args: Sequence[Any], params: Mapping[str, Any]) -> Sequence[Any]:
    return [np.asarray(np.equal(args[0], args[1]), dtype=bool)]


@host("string_op")
def _any_op(args: Sequence[Any], params: Mapping[str, Any]) -> Sequence[Any]:
    """An op of the table, by its reference; the last operand holds the sizes in its attributes."""
    op, names = OPS[params["op"]], params["sizes"]
    binding: dict[str, Dim] = {}
    if names:
        *args, sizes = args
        binding = dict(zip(names, sizes.tolist(), strict=True))
    attrs = {k: _sized(v, binding) for k, v in params["attrs"]}
    types = tuple(None if a is None else TensorType(DType.of(a.dtype), a.shape) for a in args)
    made = () if op.has("dynamic") else op.infer(types, attrs)
    assert op.reference is not None
    results = op.reference(args, attrs, made)
    return [np.asarray(r, object if isinstance(r, str) else None) for r in results]


def _sized(value: Any, binding: Mapping[str, Dim]) -> Any:
    if isinstance(value, Expr):
        return substitute(value, binding)
    return tuple(_sized(v, binding) for v in value) if isinstance(value, tuple) else value
