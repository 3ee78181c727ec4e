"""The host op: values that no kernel can hold (strings, sequences, optionals, maps).

``host{kind, params, results}`` runs the Python function registered for ``kind`` on its operands:
NumPy arrays, object arrays of ``str``, lists for sequences, None for an absent optional. It is the
meaning for the interpreter and the implementation for the runtime at once; a compiled program
reports each such step. ``params`` is a tuple of (name, value); ``results`` are the result types as
plain data: (dtype, shape) for a tensor, ("map", key, value) for a map, ("any" or "no", dtype) for
tensors without a rank, and "seq" or "opt" followed by the items of what it holds.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from ..errors import ModelError, UnsupportedError, quote
from ..types import DType, LooseTensor, MapType, OptionalType, SequenceType, TensorType, Type
from .base import Attributes, OpDef, register

HostFunction = Callable[[Sequence[Any], Mapping[str, Any]], Sequence[Any]]
"""(operands, parameters) -> results."""

HOST: dict[str, HostFunction] = {}
"""Kind -> its function."""


def host(*kinds: str) -> Callable[[HostFunction], HostFunction]:
    """Registers the decorated function for one or several kinds."""

    def add(function: HostFunction) -> HostFunction:
        for kind in kinds:
            if kind in HOST:
                raise RuntimeError(f"host function {kind} is registered twice")
            HOST[kind] = function
        return function

    return add


def host_function(kind: str) -> HostFunction:
    """The function of a kind; raises ``UnsupportedError``."""
    found = HOST.get(kind)
    if found is None:
        known = ", ".join(sorted(HOST))
        raise UnsupportedError(f"no host function {quote(kind)}; known: {known}")
    return found


def result_spec(t: Type) -> tuple[Any, ...]:
    """A type as plain data for the attribute ``results``."""
    if isinstance(t, TensorType):
        return (t.dtype, t.shape)
    if isinstance(t, MapType):
        return ("map", t.key, t.value)
    if isinstance(t, LooseTensor):
        return ("no" if t.none else "any", t.dtype)
    return ("seq" if isinstance(t, SequenceType) else "opt", *result_spec(t.elem))


def result_type(spec: tuple[Any, ...]) -> Type:
    """The type that ``result_spec`` wrote down."""
    head, *rest = spec
    if isinstance(head, DType):
        return TensorType(head, tuple(rest[0]))
    if head == "map":
        return MapType(rest[0], rest[1])
    if head in ("any", "no"):
        return LooseTensor(rest[0], head == "no")
    return (SequenceType if head == "seq" else OptionalType)(result_type(tuple(rest)))


def _infer(types: tuple[Any, ...], attrs: Attributes) -> tuple[Any, ...]:
    host_function(attrs["kind"])
    return tuple(result_type(spec) for spec in attrs["results"])


def _reference(args: Any, attrs: Attributes, types: Any) -> tuple[Any, ...]:
    return tuple(host_function(attrs["kind"])(args, dict(attrs["params"])))


register(OpDef("host", (0, None), _infer, _reference, frozenset({"host"}),
               attrs=("kind", "params", "results"), doc="strings, sequences, maps: run by Python"))


# -- maps --------------------------------------------------------------------------------------


@host("zipmap")
def _zipmap(args: Sequence[Any], params: Mapping[str, Any]) -> Sequence[Any]:
    """Rows of scores as a list of dictionaries from label to score."""
    labels = params["labels"]
    if args[0].shape[1] != len(labels):
        raise ModelError(f"rows of {args[0].shape[1]} scores for {len(labels)} labels")
    return [[dict(zip(labels, row)) for row in args[0].tolist()]]


@host("labels")
def _labels(args: Sequence[Any], params: Mapping[str, Any]) -> Sequence[Any]:
    """Positions as the strings at these positions."""
    table = np.array(params["labels"], dtype=object)
    return [np.asarray(table[args[0]], dtype=object).reshape(args[0].shape)]


@host("dict_vectorizer")
def _vectorize(args: Sequence[Any], params: Mapping[str, Any]) -> Sequence[Any]:
    """Values in the order of the vocabulary; zero for a key that the map lacks."""
    dtype = params["dtype"]
    lacking = "" if dtype.kind == "s" else 0
    row = np.array([args[0].get(k, lacking) for k in params["keys"]], dtype=dtype.np)
    return [row.reshape(1, -1)]


@host("cast_map")
def _cast_map(args: Sequence[Any], params: Mapping[str, Any]) -> Sequence[Any]:
    """Values in the order of the keys, or (``size``) each at the position that its key is."""
    given, size, dtype = args[0], params["size"], params["dtype"]
    keys = sorted(given)
    if size is not None and keys and not 0 <= keys[0] <= keys[-1] < size:
        raise ModelError(f"a map with keys {keys[0]} to {keys[-1]} for {size} positions")
    kinds: dict[str, Callable[[Any], Any]] = {"s": _map_text, "f": float, "i": _whole}
    items = [kinds[dtype.kind](given[k]) for k in keys]
    if size is None:
        return [np.array(items, dtype=dtype.np).reshape(1, -1)]
    out = np.full(size, "" if dtype.kind == "s" else 0, dtype=dtype.np)
    out[keys] = items
    return [out.reshape(1, -1)]


def _whole(value: Any) -> int:
    """Toward zero; also of text with a fraction."""
    try:
        return int(value)
    except ValueError:
        return int(float(value))


def _map_text(value: Any) -> str:
    return value if isinstance(value, str) else f"{value:f}"


@host("require")
def _require(args: Sequence[Any], params: Mapping[str, Any]) -> Sequence[Any]:
    """The first operand, if the second holds."""
    if not bool(args[1]):
        raise ModelError(params["message"])
    return [args[0]]


# -- sequences and optionals -------------------------------------------------------------------


def _position(index: Any, size: int) -> int:
    k = int(np.asarray(index).reshape(-1)[0])
    if not -size <= k < size:
        raise ModelError(f"position {k} of a sequence of {size}")
    return k % size


@host("sequence_construct")
def _construct(args: Sequence[Any], params: Mapping[str, Any]) -> Sequence[Any]:
    return [[np.array(a) for a in args]]


@host("sequence_insert")
def _insert(args: Sequence[Any], params: Mapping[str, Any]) -> Sequence[Any]:
    items = list(args[0])
    at = len(items)
    if len(args) > 2 and args[2] is not None:
        k = int(np.asarray(args[2]).reshape(-1)[0])
        if not -at <= k <= at:
            raise ModelError(f"insertion at {k} into a sequence of {at}")
        at = k + at if k < 0 else k
    items.insert(at, np.array(args[1]))
    return [items]


@host("sequence_erase")
def _erase(args: Sequence[Any], params: Mapping[str, Any]) -> Sequence[Any]:
    items = list(args[0])
    at = -1 if len(args) < 2 or args[1] is None else args[1]
    del items[_position(at, len(items))]
    return [items]


@host("sequence_at")
def _at(args: Sequence[Any], params: Mapping[str, Any]) -> Sequence[Any]:
    return [np.array(args[0][_position(args[1], len(args[0]))])]


@host("sequence_length")
def _length(args: Sequence[Any], params: Mapping[str, Any]) -> Sequence[Any]:
    return [np.asarray(len(args[0]), dtype=np.int64)]


@host("concat_from_sequence")
def _concat(args: Sequence[Any], params: Mapping[str, Any]) -> Sequence[Any]:
    if not args[0]:
        raise ModelError("an empty sequence cannot be joined")
    join = np.stack if params["new_axis"] else np.concatenate
    return [np.ascontiguousarray(join(args[0], axis=params["axis"]))]


@host("split_to_sequence")
def _split(args: Sequence[Any], params: Mapping[str, Any]) -> Sequence[Any]:
    x, axis = args[0], params["axis"]
    size = x.shape[axis]
    if len(args) < 2 or args[1] is None:
        parts = np.split(x, size, axis=axis) if size else []
        return [[p if params["keepdims"] else np.squeeze(p, axis) for p in parts]]
    lengths = np.asarray(args[1])
    if lengths.ndim == 0:
        step = int(lengths)
        if step < 1:
            raise ModelError(f"pieces of {step}")
        bounds = list(range(step, size, step))
    else:
        if (lengths < 0).any() or int(lengths.sum()) != size:
            raise ModelError(f"pieces of {lengths.tolist()[:8]} of an axis of {size}")
        bounds = list(np.cumsum(lengths)[:-1])
    return [[np.ascontiguousarray(p) for p in np.split(x, bounds, axis=axis)]]


@host("optional")
def _optional(args: Sequence[Any], params: Mapping[str, Any]) -> Sequence[Any]:
    return [np.array(args[0]) if args and isinstance(args[0], np.ndarray) else (args or [None])[0]]


@host("optional_has")
def _has(args: Sequence[Any], params: Mapping[str, Any]) -> Sequence[Any]:
    return [np.asarray(bool(args) and args[0] is not None)]


@host("optional_get")
def _get(args: Sequence[Any], params: Mapping[str, Any]) -> Sequence[Any]:
    if args[0] is None:
        raise ModelError("the optional holds nothing")
    return [args[0]]
