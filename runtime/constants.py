"""Constants as kernels want them: packed once, aligned, and mapped from the file where possible.

A transform is a named, registered function from an array to an array. ``ConstSpec.transform`` is
its name and arguments, or ``("chain", t1, t2, ...)``. An array that needs no transform and starts
at an address its elements may start at is used where it lies, so a weight that is memory-mapped
from a file stays a file page; small ones and misaligned ones are copied to aligned memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from ..ir.errors import CompileError, quote
from ..ir.graph import Constants
from ..ir.types import DTYPES
from ..kernels.micro.packing import pack_b
from .frame import allocate, data_address
from .plan import ALIGN
from .program import ConstSpec, Program

Transform = Callable[..., np.ndarray]
"""(array, *arguments) -> array."""

TRANSFORMS: dict[str, Transform] = {}
"""Name -> transform."""

_SMALL = 1 << 20
"""Bytes below which a misaligned constant is copied to a cache line's start."""


def transform(name: str) -> Callable[[Transform], Transform]:
    """Registers the decorated function as the transform ``name``."""

    def add(function: Transform) -> Transform:
        if name in TRANSFORMS:
            raise RuntimeError(f"transform {name} is registered twice")
        TRANSFORMS[name] = function
        return function

    return add


@transform("pack_b")
def _pack_b(array: np.ndarray, nr: int) -> np.ndarray:
    """``[..., K, N]`` as panels ``[..., ceil(N / nr), K, nr]``; see ``kernels.micro.packing``."""
    if array.ndim == 2:
        return np.asarray(pack_b(array, nr))
    flat = array.reshape(-1, *array.shape[-2:])
    packed = np.stack([pack_b(matrix, nr) for matrix in flat])
    return packed.reshape(*array.shape[:-2], *packed.shape[1:])


@transform("transpose")
def _transpose(array: np.ndarray, perm: Sequence[int]) -> np.ndarray:
    return array.transpose(tuple(perm))


@transform("reshape")
def _reshape(array: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    return array.reshape(tuple(shape))


@transform("cast")
def _cast(array: np.ndarray, dtype: str) -> np.ndarray:
    return array.astype(DTYPES[dtype].np)


@transform("slice")
def _slice(array: np.ndarray, axis: int, start: int, stop: int) -> np.ndarray:
    return array[(slice(None),) * axis + (slice(start, stop),)]


@transform("pad")
def _pad(array: np.ndarray, axis: int, size: int) -> np.ndarray:
    """Zeros appended along ``axis`` up to ``size``."""
    missing = [(0, size - n if i == axis else 0) for i, n in enumerate(array.shape)]
    return np.pad(array, missing)


@transform("panels")
def _panels(
    array: np.ndarray,
    offset: int,
    outer: Sequence[tuple[int, int]],
    column: tuple[int, int],
    inner: Sequence[tuple[int, int]],
    width: int,
) -> np.ndarray:
    """Element (outer, panel, k, lane) of ``[outer, panels, k, width]`` is read at ``offset`` plus
    (extent, stride) loops over ``outer``, ``column`` and ``inner``; see ``kernels.contract``."""
    flat = np.ascontiguousarray(array).reshape(-1)[offset:]
    extents = [e for e, _ in (*outer, *inner, column)]
    steps = [s * flat.itemsize for _, s in (*outer, *inner, column)]
    view = np.lib.stride_tricks.as_strided(flat, extents, steps, writeable=False)
    groups = int(np.prod([e for e, _ in outer], dtype=np.int64))
    depth = int(np.prod([e for e, _ in inner], dtype=np.int64))
    matrix = view.reshape(groups, depth, column[0])
    whole, rest = divmod(column[0], width)
    packed = np.empty((groups, whole + (rest > 0), depth, width), array.dtype)
    body = matrix[:, :, : whole * width].reshape(groups, depth, whole, width)
    packed[:, :whole] = body.transpose(0, 2, 1, 3)
    if rest:
        packed[:, whole] = 0
        packed[:, whole, :, :rest] = matrix[:, :, whole * width :]
    return packed


def apply(array: np.ndarray, steps: tuple[Any, ...] | None) -> np.ndarray:
    """``array`` after ``steps``; raises ``CompileError`` for an unknown transform."""
    if steps is None:
        return array
    name, *arguments = steps
    if name == "chain":
        for step in arguments:
            array = apply(array, step)
        return array
    if name not in TRANSFORMS:
        raise CompileError(f"no transform {quote(name)}; known: chain, {', '.join(TRANSFORMS)}")
    return TRANSFORMS[name](array, *arguments)


def settle(array: np.ndarray, fresh: bool) -> np.ndarray:
    """``array`` dense and aligned, read in place where that is good enough.

    ``fresh``: nobody else holds it, so a copy costs no lasting memory."""
    array = np.asarray(array)
    address = data_address(array)
    dense = bool(array.flags.c_contiguous)
    if dense and array.flags.aligned and address % max(1, array.dtype.itemsize) == 0:
        if address % ALIGN == 0 or not (fresh or array.nbytes < _SMALL):
            return array
    raw, start = allocate(array.nbytes)
    kept = np.ndarray(array.shape, array.dtype, raw, start - data_address(raw))
    kept[...] = array
    return kept


def prepare(
    programs: Iterable[Program], table: Constants
) -> dict[tuple[str, tuple[Any, ...] | None], np.ndarray]:
    """Every constant of the programs, packed; equal specs share one array."""
    found: dict[tuple[str, tuple[Any, ...] | None], np.ndarray] = {}
    for program in programs:
        for spec in program.constants.values():
            key = (spec.digest, spec.transform)
            if key not in found:
                found[key] = _prepare(spec, table)
    return found


def _prepare(spec: ConstSpec, table: Constants) -> np.ndarray:
    array = table.get(spec.digest)
    if array.dtype == object:
        return array
    try:
        changed = apply(array, spec.transform)
    except (ValueError, IndexError) as error:
        raise CompileError(
            f"constant {spec.digest[:16]} {array.dtype}{list(array.shape)} does not fit transform "
            f"{spec.transform}: {error}"
        ) from error
    return settle(changed, fresh=spec.transform is not None)
