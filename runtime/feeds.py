"""Checks what a user feeds and brings it into the form kernels read.

A kernel reads dense row-major native-endian memory of the declared element type. An array that is
that already is read in place; a strided, misaligned or byte-swapped one is copied. Other dtypes are
an error, since a silent conversion hides a mistake; Python numbers and lists have no dtype of their
own and take the declared one where it holds them exactly.

A sequence is fed as a list, a map as a dictionary, an optional as its value or, where it holds
none, as None (or not at all).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..ir.errors import FeedError, quote
from ..ir.types import (
    DType,
    LooseTensor,
    MapType,
    OptionalType,
    SequenceType,
    TensorType,
    Type,
)

_DENSE = 0x1 | 0x100
"""NumPy's flags ``C_CONTIGUOUS`` and ``ALIGNED`` (``ndarraytypes.h``)."""


class Feeds:
    """The inputs of a program, ready to check feeds against."""

    def __init__(self, inputs: Sequence[tuple[str, int, Type]]) -> None:
        self.names = tuple(name for name, _, _ in inputs)
        self._types = {name: kind for name, _, kind in inputs}
        self._needed = {n for n, t in self._types.items() if not isinstance(t, OptionalType)}
        self._specs = [
            (name, kind.dtype.np if isinstance(kind, TensorType) else None)
            for name, _, kind in inputs
        ]

    def arrays(self, feeds: Mapping[str, Any]) -> list[Any]:
        """One dense array (or host value) per input, in order; raises ``FeedError``."""
        result = []
        for name, dtype in self._specs:
            value = feeds.get(name)
            if (
                type(value) is not np.ndarray
                or (value.dtype is not dtype and value.dtype != dtype)
                or value.flags.num & _DENSE != _DENSE
            ):
                value = self._convert(name, value, feeds)
            result.append(value)
        if len(feeds) != len(result) or len(self._needed) != len(result):
            if feeds.keys() - self._types.keys() or self._needed - feeds.keys():
                self._refuse_names(feeds)
        return result

    def in_order(self, values: Sequence[Any]) -> list[Any]:
        """As ``arrays``, for one value per input in order."""
        result = []
        for value, (name, dtype) in zip(values, self._specs, strict=True):
            if (
                type(value) is not np.ndarray
                or (value.dtype is not dtype and value.dtype != dtype)
                or value.flags.num & _DENSE != _DENSE
            ):
                value = self._convert(name, value, dict(zip(self.names, values)))
            result.append(value)
        return result

    def _refuse_names(self, feeds: Mapping[str, Any]) -> None:
        missing = [quote(n) for n in self.names if n in self._needed and feeds.get(n) is None]
        unknown = [quote(n) for n in feeds if n not in self._types]
        parts = [f"missing {', '.join(missing)}"] if missing else []
        parts += [f"unknown {', '.join(unknown)}"] if unknown else []
        takes = ", ".join(f"{quote(n)} {t}" for n, t in self._types.items()) or "nothing"
        raise FeedError(f"wrong feeds: {'; '.join(parts)}; the model takes {takes}")

    def _convert(self, name: str, value: Any, feeds: Mapping[str, Any]) -> Any:
        kind = self._types[name]
        if value is None and not isinstance(kind, OptionalType):
            self._refuse_names(feeds)
        if isinstance(kind, TensorType):
            return self._tensor(name, kind, value)
        return self._container(name, kind, value)

    def _container(self, name: str, kind: Type, value: Any) -> Any:
        """A host value: lists, dictionaries, None; what they hold is checked one by one."""
        if isinstance(kind, OptionalType):
            return None if value is None else self._container(name, kind.elem, value)
        if isinstance(kind, SequenceType):
            if not isinstance(value, (list, tuple)):
                raise FeedError(f"input {quote(name)} holds {kind}: give a list")
            return [self._container(name, kind.elem, v) for v in value]
        if isinstance(kind, MapType):
            if not isinstance(value, Mapping):
                raise FeedError(f"input {quote(name)} holds {kind}: give a dictionary")
            return {
                _scalar(name, kind.key, k): _scalar(name, kind.value, v) for k, v in value.items()
            }
        if isinstance(kind, LooseTensor):
            kind = TensorType(kind.dtype, tuple(np.shape(value)))
        array = self._tensor(name, kind, value)
        fits = array.ndim == kind.rank and all(
            d == n for d, n in zip(kind.shape, array.shape) if isinstance(d, int)
        )
        if not fits:
            raise FeedError(f"input {quote(name)} holds {kind}, got shape {list(array.shape)}")
        return array.copy()  # a result may be what the container holds

    def _tensor(self, name: str, kind: TensorType, value: Any) -> np.ndarray:
        if kind.dtype.kind == "s":
            return self._strings(name, kind, value)
        if isinstance(value, Mapping):
            raise FeedError(
                f"input {quote(name)} is {kind}, got a dictionary: feed arrays by name as keywords "
                "or through run(None, feeds)"
            )
        array = _as_array(name, kind, value)
        if array.dtype != kind.dtype.np:
            swapped = array.dtype.newbyteorder("=") == kind.dtype.np
            if not swapped:
                raise FeedError(f"input {quote(name)} is {kind}, got dtype {array.dtype}")
        # ascontiguousarray would turn a scalar into one dimension.
        return np.require(array, kind.dtype.np, ["C", "A"]).reshape(array.shape)

    def _strings(self, name: str, kind: TensorType, value: Any) -> np.ndarray:
        array = np.asarray(value)
        if array.dtype.kind not in "USO":
            raise FeedError(f"input {quote(name)} is {kind}, got dtype {array.dtype}")
        if array.ndim != kind.rank:
            raise FeedError(f"input {quote(name)} is {kind}, got shape {list(array.shape)}")
        return array.astype(object)


def _scalar(name: str, kind: DType, value: Any) -> Any:
    """One key or value of a map as the Python number or text of the declared type."""
    if kind.kind == "s":
        if isinstance(value, str):
            return value
        raise FeedError(f"input {quote(name)}: a map holds {quote(value)} where {kind} is declared")
    if isinstance(value, np.generic):
        value = value.item()
    return _as_array(name, TensorType(kind, ()), value).astype(kind.np).item()


def _as_array(name: str, kind: TensorType, value: Any) -> np.ndarray:
    """``value`` as an array of its own dtype; of the declared one if it has none."""
    if isinstance(value, (np.ndarray, np.generic)) or hasattr(value, "__array__"):
        return np.asarray(value)
    if hasattr(value, "__dlpack__"):
        return np.from_dlpack(value)
    try:
        own = np.asarray(value)
        array = own.astype(kind.dtype.np)
        exact = own.dtype == object or own.dtype.kind == "f" and kind.dtype.is_float
        if exact or own.size == 0 or np.array_equal(array.astype(own.dtype), own):
            return array
    except (ValueError, TypeError, OverflowError):
        pass
    raise FeedError(f"input {quote(name)} is {kind}, which cannot hold {quote(value)} exactly")
