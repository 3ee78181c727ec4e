"""Arrays of any element type as plain bytes and back.

NumPy's own file formats know neither bfloat16 nor float8 nor text; here an array is its little-
endian bytes, row-major, and text is a JSON list of (kind, text). Dtype and shape are the caller's
to keep.
"""

from __future__ import annotations

import json

import numpy as np

from .types import DType


def array_bytes(array: np.ndarray) -> np.ndarray:
    """The elements as u8[n]: a view where the array is dense."""
    if array.dtype == object:
        items = [["b", x.hex()] if isinstance(x, bytes) else ["s", str(x)] for x in array.ravel()]
        return np.frombuffer(json.dumps(items).encode("utf-8"), np.uint8)
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8)


def array_of_bytes(raw: np.ndarray, dtype: DType, shape: tuple[int, ...]) -> np.ndarray:
    """The array that ``array_bytes`` made u8[n] of: a view, except for text. Raises ``ValueError``
    where bytes, dtype and shape do not go together."""
    if dtype.kind == "s":
        items = json.loads(raw.tobytes())
        array = np.empty(len(items), object)
        for index, (kind, text) in enumerate(items):
            array[index] = bytes.fromhex(text) if kind == "b" else str(text)
        return array.reshape(shape)
    return raw.view(dtype.np).reshape(shape)
