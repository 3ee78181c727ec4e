"""Square matrices, a batch of them: determinants and inverses, by elimination with pivots."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..errors import ModelError
from ..types import TensorType
from .base import Attributes, OpDef, register, tensor


def _square(types: tuple[Any, ...], op: str) -> TensorType:
    t = tensor(types[0], op)
    if t.rank < 2 or not t.dtype.is_float:
        raise ModelError(f"{op}: square matrices of floats are needed, got {t}")
    n, m = t.shape[-2:]
    if isinstance(n, int) and isinstance(m, int) and n != m:
        raise ModelError(f"{op}: {t} does not hold square matrices")
    return t


def _infer_det(types: tuple[Any, ...], attrs: Attributes) -> tuple[Any, ...]:
    t = _square(types, "det")
    return (t.with_shape(t.shape[:-2]),)


def _infer_inverse(types: tuple[Any, ...], attrs: Attributes) -> tuple[Any, ...]:
    return (_square(types, "inverse"),)


def _ref_det(args: Any, attrs: Attributes, types: Any) -> tuple[Any, ...]:
    with np.errstate(all="ignore"):
        return (np.asarray(np.linalg.det(args[0].astype(np.float64))).astype(args[0].dtype),)


def _ref_inverse(args: Any, attrs: Attributes, types: Any) -> tuple[Any, ...]:
    x = args[0].astype(np.float64)
    out = np.full(x.shape, np.nan)
    for k in np.ndindex(x.shape[:-2]):
        try:
            out[k] = np.linalg.inv(x[k])
        except np.linalg.LinAlgError:
            continue  # a singular matrix has no inverse: all NaN
    return (out.astype(args[0].dtype),)


_OPAQUE = frozenset({"opaque"})
register(OpDef("det", (1, 1), _infer_det, _ref_det, _OPAQUE, doc="determinant of each matrix"))
register(OpDef("inverse", (1, 1), _infer_inverse, _ref_inverse, _OPAQUE,
               doc="inverse of each matrix; NaN where there is none"))
