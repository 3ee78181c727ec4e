"""Constants as kernels want them: packed once, aligned, and mapped from the file where possible.

A transform is a named, registered function from an array to an array. ``ConstSpec.transform`` is
its name and arguments, or ``("chain", t1, t2, ...)``. An array that needs no transform and starts
at an address its elements may start at is used where it lies, so a weight that is memory-mapped
from a file stays a file page; small ones and misaligned ones are copied to aligned memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from ..ir.errors import CompileError, quote
from ..ir.graph import Constants
from ..ir.ops.trees import walked
from ..ir.types import DTYPES, TensorType, Type
from ..ir.winograd import Transforms
from ..kernels.micro.packing import pack_b
from .frame import aligned_empty, data_address
from .plan import ALIGN
from .program import ConstSpec, Program

Transform = Callable[..., np.ndarray]
"""(array, *arguments) -> array."""

TRANSFORMS: dict[str, Transform] = {}
"""Name -> transform."""

_FEW = 8
"""Constants to pack from which on several threads do it."""
_PACKERS = 4
_CACHED = 1 << 11
"""Elements of one pixel of a filter that are transformed at a time."""
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
    group: int = 1,
    winograd: int = 0,
) -> np.ndarray:
    """Element (outer, panel, k, lane) of ``[outer, panels, k, width]`` is read at ``offset`` plus
    (extent, stride) loops over ``outer``, ``column`` and ``inner``; see ``kernels.contract``.

    With ``group`` 4 the elements are bytes and four successive k (zeros behind the last) lie side
    by side, ``[outer, panels, ceil(k / 4), width, 4]``; each four are handed on as one float32."""
    flat = np.ascontiguousarray(array).reshape(-1)[offset:]
    extents = [e for e, _ in (*outer, *inner, column)]
    steps = [s * flat.itemsize for _, s in (*outer, *inner, column)]
    view = np.lib.stride_tricks.as_strided(flat, extents, steps, writeable=False)
    groups = int(np.prod([e for e, _ in outer], dtype=np.int64))
    depth = int(np.prod([e for e, _ in inner], dtype=np.int64))
    matrix = view.reshape(groups, depth, column[0])
    if group > 1:
        return _grouped(matrix, width, group)
    if winograd:
        matrix = _spread(matrix, winograd)
        depth = matrix.shape[1]
    whole, rest = divmod(column[0], width)
    packed = aligned_empty((groups, whole + (rest > 0), depth, width), array.dtype)
    body = matrix[:, :, : whole * width].reshape(groups, depth, whole, width)
    packed[:, :whole] = body.transpose(0, 2, 1, 3)
    if rest:
        packed[:, whole] = 0
        packed[:, whole, :, :rest] = matrix[:, :, whole * width :]
    return packed


@transform("walked_nodes")
def _walked_nodes(array: np.ndarray, compare: str, plain: bool) -> np.ndarray:
    """The nodes of a forest as its kernel walks them, four words each, as float32."""
    return walked(array, compare, plain).reshape(-1).view(np.float32)


@transform("joined")
def _joined(array: np.ndarray, *parts: tuple[Any, ...]) -> np.ndarray:
    """What several transforms make of the array, one after another."""
    return np.concatenate([apply(array, part).reshape(-1) for part in parts])


def _spread(matrix: np.ndarray, side: int) -> np.ndarray:
    """``G g G^T`` of Winograd's F(side x side, 3x3), computed in float64; the 3x3 lead in k of
    ``[outer, 9 * rest, columns]``. A few of ``rest`` at a time stay in the cache."""
    outer, depth, columns = matrix.shape
    rest = depth // 9
    g = matrix.reshape(outer, 3, 3, rest, columns)
    filters = np.array(Transforms(side).weights())
    size = len(filters)
    result = np.empty((outer, size, size, rest, columns), matrix.dtype)
    few = max(1, _CACHED // max(1, columns))
    for start in range(0, rest, few):
        part = g[:, :, :, start : start + few].astype(np.float64)
        both = np.tensordot(filters, part, (1, 1))
        result[:, :, :, start : start + few] = np.tensordot(filters, both, (1, 2)).transpose(
            2, 1, 0, 3, 4)
    return result.reshape(outer, size * size * rest, columns)


def _grouped(matrix: np.ndarray, width: int, group: int) -> np.ndarray:
    """Panels of ``[outer, k, columns]`` bytes, ``group`` successive k side by side."""
    outer, depth, columns = matrix.shape
    runs, panels = -(-depth // group), -(-columns // width)
    padded = np.zeros((outer, runs * group, panels * width), matrix.dtype)
    padded[:, :depth, :columns] = matrix
    split = padded.reshape(outer, runs, group, panels, width).transpose(0, 3, 1, 4, 2)
    packed = aligned_empty(split.shape, matrix.dtype)
    packed[...] = split
    return packed.reshape(outer, panels, runs, width * group).view(np.float32)


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
    kept = aligned_empty(array.shape, array.dtype)
    kept[...] = array
    return kept


Key = tuple[str, tuple[Any, ...] | None]
"""Digest and transform of a constant."""


def prepare(
    programs: Iterable[Program], table: Constants, threads: int = 1,
    known: Mapping[Key, np.ndarray] | None = None,
) -> dict[Key, np.ndarray]:
    """Every constant of the programs, packed; equal specs share one array. Those that are
    ``known``, of other programs of the same model, are used where they lie.

    ``threads`` many pack at a time: NumPy copies without the interpreter lock.
    """
    sized: dict[Key, tuple[int, ConstSpec]] = {}
    found: dict[Key, np.ndarray] = {}
    for program in programs:
        for b, spec in program.constants.items():
            key = spec.digest, spec.transform
            if known is not None and key in known:
                found[key] = known[key]
            else:
                sized.setdefault(key, (_bytes(program.buffers[b].type), spec))
    # The largest first: what packing takes besides is most while there is least.
    order = sorted(sized.items(), key=lambda entry: -entry[1][0])
    specs = {key: spec for key, (_, spec) in order}
    packed = sum(spec.transform is not None for spec in specs.values())
    if threads == 1 or packed < _FEW:
        return found | {key: _prepare(spec, table) for key, spec in specs.items()}
    from concurrent.futures import ThreadPoolExecutor  # slow to import

    with ThreadPoolExecutor(min(threads, _PACKERS), "evonnx-pack") as pool:
        arrays = pool.map(lambda spec: _prepare(spec, table), specs.values())
        return found | dict(zip(specs, arrays, strict=True))


def _bytes(kind: Type) -> int:
    """Bytes of a constant, as far as its type says them."""
    nbytes = kind.nbytes() if isinstance(kind, TensorType) and kind.dtype.kind != "s" else 0
    return nbytes if isinstance(nbytes, int) else 0


def _prepare(spec: ConstSpec, table: Constants) -> np.ndarray:
    array = table.read(spec.digest)
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
