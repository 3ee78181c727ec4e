"""ONNX tensors as NumPy arrays or constants of the table.

Declared sizes are checked before anything is allocated. Bytes are little-endian; elements of 2, 4
and 6 bits are packed without gaps, the low bits first (ONNX IR specification, "Tensors").
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ...ir.errors import LimitError, ModelError, UnsupportedError, quote
from ...ir.graph import Constants
from ...ir.types import (
    BF16,
    BOOL,
    C64,
    C128,
    F4E2M1,
    F6E2M3,
    F6E3M2,
    F8E4M3FN,
    F8E4M3FNUZ,
    F8E5M2,
    F8E5M2FNUZ,
    F8E8M0,
    F16,
    F32,
    F64,
    I2,
    I4,
    I8,
    I16,
    I32,
    I64,
    STR,
    U2,
    U4,
    U8,
    U16,
    U32,
    U64,
    DType,
    TensorType,
)  # fmt: skip
from ..messages import SparseTensorProto, TensorProto

if TYPE_CHECKING:
    from ..modelfile import Contents, ModelFile
    from .external import ExternalFiles

DTYPE_OF: dict[int, DType] = {
    TensorProto.FLOAT: F32, TensorProto.UINT8: U8, TensorProto.INT8: I8, TensorProto.UINT16: U16,
    TensorProto.INT16: I16, TensorProto.INT32: I32, TensorProto.INT64: I64,
    TensorProto.STRING: STR, TensorProto.BOOL: BOOL, TensorProto.FLOAT16: F16,
    TensorProto.DOUBLE: F64, TensorProto.UINT32: U32, TensorProto.UINT64: U64,
    TensorProto.COMPLEX64: C64, TensorProto.COMPLEX128: C128, TensorProto.BFLOAT16: BF16,
    TensorProto.FLOAT8E4M3FN: F8E4M3FN, TensorProto.FLOAT8E4M3FNUZ: F8E4M3FNUZ,
    TensorProto.FLOAT8E5M2: F8E5M2, TensorProto.FLOAT8E5M2FNUZ: F8E5M2FNUZ,
    TensorProto.UINT4: U4, TensorProto.INT4: I4,
    23: F4E2M1, 24: F8E8M0, 25: U2, 26: I2, 27: F6E2M3, 28: F6E3M2,  # older packages lack names
}  # fmt: skip
"""Element types by their ONNX number."""

MAX_BYTES = 1 << 38
"""Largest tensor a model may declare (256 GiB); more is a broken or hostile file."""

_PARALLEL_BYTES = 1 << 24
"""Digesting releases the interpreter lock: from this size on threads pay."""

_MAX_DENSE = 1 << 32
"""Bytes that a sparse tensor may take when dense: its size is not backed by data in the file."""

_INT32_FIELD = frozenset({"i32", "i16", "i8", "u16", "u8", "bool"})
"""Types that ``int32_data`` holds as numbers; others of at most 16 bits are there as bits."""


def dtype_of(number: int, what: str) -> DType:
    """The element type with ONNX's ``number``; ``what`` names the place in messages."""
    found = DTYPE_OF.get(number)
    if found is not None:
        return found
    if number in TensorProto.DataType.values() and number != TensorProto.UNDEFINED:
        name = TensorProto.DataType.Name(number)
        raise UnsupportedError(f"{what}: element type {name} is not supported")
    raise ModelError(f"{what}: there is no element type number {number}")


def check_size(type_: TensorType, what: str) -> None:
    """Raises ``LimitError`` for a static size beyond ``MAX_BYTES``. An axis of no elements does not
    make the others short: NumPy has no shape whose other axes are longer than memory."""
    size = TensorType(type_.dtype, tuple(d for d in type_.shape if d != 0)).nbytes()
    if isinstance(size, int) and size > MAX_BYTES:
        raise LimitError(
            f"{what} declares {type_}, {size} bytes; a tensor may take {MAX_BYTES} bytes"
        )


def from_bytes(raw: Any, type_: TensorType) -> np.ndarray:
    """The array of a static ``type_`` in little-endian bytes; a view where the layout allows."""
    dtype = type_.dtype
    if dtype.bits < 8:
        codes = unpack(np.frombuffer(raw, np.uint8), dtype.bits)[: type_.numel()]
        return codes.view(dtype.np).reshape(type_.shape)  # type: ignore[arg-type]
    flat = np.frombuffer(raw, dtype.np)
    if sys.byteorder == "big":
        flat = flat.byteswap()
    return flat.reshape(type_.shape)  # type: ignore[arg-type]


def unpack(packed: np.ndarray, bits: int) -> np.ndarray:
    """Bytes (u8[n]) as a stream of ``bits``-bit codes, the low bits first; u8."""
    stream = np.unpackbits(packed, bitorder="little")
    whole = stream[: stream.size // bits * bits].reshape(-1, bits)
    return np.packbits(whole, axis=1, bitorder="little").reshape(-1)


def tensor_type(proto: TensorProto) -> TensorType:
    """Declared type of a tensor; raises ``ModelError`` or ``LimitError``."""
    what = f"tensor {quote(proto.name)}"
    dims = tuple(proto.dims)
    if any(d < 0 for d in dims):
        raise ModelError(f"{what} declares the shape {dims}")
    type_ = TensorType(dtype_of(proto.data_type, what), dims)
    check_size(type_, what)
    return type_


def to_array(proto: TensorProto, files: ExternalFiles | None = None) -> np.ndarray:
    """The array of a tensor; raises ``ModelError`` where data and shape do not agree."""
    type_ = tensor_type(proto)
    if proto.data_location == TensorProto.EXTERNAL:
        if files is None:
            raise ModelError(f"tensor {quote(proto.name)}: external data is not allowed here")
        _, load = files.tensor(proto.name, external_entries(proto), type_)
        return load()
    return _inline(proto, type_)


def external_entries(proto: TensorProto) -> dict[str, str]:
    """Key-value pairs of ``external_data``; a repeated key is a ``ModelError``."""
    entries: dict[str, str] = {}
    for pair in proto.external_data:
        if pair.key in entries:
            raise ModelError(f"tensor {quote(proto.name)}: repeated key {quote(pair.key)}")
        entries[pair.key] = pair.value
    return entries


def _inline(proto: TensorProto, type_: TensorType) -> np.ndarray:
    dtype, n = type_.dtype, type_.numel()
    assert isinstance(n, int)
    what = f"tensor {quote(proto.name)}"
    if dtype == STR:
        if len(proto.string_data) != n:
            raise ModelError(f"{what} is {type_} but holds {len(proto.string_data)} strings")
        items = [s.decode("utf-8", "surrogateescape") for s in proto.string_data]
        out = np.empty(n, dtype=object)
        out[:] = items
        return out.reshape(type_.shape)  # type: ignore[arg-type]
    if proto.HasField("raw_data"):
        raw = proto.raw_data
        _check_stored(len(raw), type_, what)
        return from_bytes(raw, type_)
    return _typed_field(proto, type_, n, what)


def _check_stored(size: int, type_: TensorType, what: str) -> None:
    if type_.dtype == STR:
        raise ModelError(f"{what} is {type_} but holds raw bytes")
    stored = (type_.numel() * type_.dtype.bits + 7) // 8
    if size != stored:
        raise ModelError(f"{what} is {type_}, {stored} bytes, but holds {size} bytes")


def _typed_field(proto: TensorProto, type_: TensorType, n: int, what: str) -> np.ndarray:
    dtype = type_.dtype
    if dtype in (F32, C64):
        flat = np.array(proto.float_data, dtype=np.float32)
        flat = flat.view(np.complex64) if dtype == C64 and flat.size % 2 == 0 else flat
    elif dtype in (F64, C128):
        flat = np.array(proto.double_data, dtype=np.float64)
        flat = flat.view(np.complex128) if dtype == C128 and flat.size % 2 == 0 else flat
    elif dtype == I64:
        flat = np.array(proto.int64_data, dtype=np.int64)
    elif dtype in (U32, U64):
        flat = np.array(proto.uint64_data, dtype=np.uint64).astype(dtype.np)
    else:
        wide = np.array(proto.int32_data, dtype=np.int32)
        if dtype.bits < 8:
            packed = (n * dtype.bits + 7) // 8
            if wide.size != packed:
                raise ModelError(f"{what} is {type_}, {packed} bytes, but holds {wide.size}")
            return from_bytes(wide.astype(np.uint8).tobytes(), type_)
        if dtype.name in _INT32_FIELD:
            flat = wide.astype(dtype.np)
        else:
            flat = wide.astype(dtype.code.np).view(dtype.np)
    if flat.size != n or flat.dtype != dtype.np:
        raise ModelError(f"{what} is {type_} but holds {flat.size} elements")
    return flat.reshape(type_.shape)  # type: ignore[arg-type]


def load_constants(
    protos: Sequence[TensorProto],
    constants: Constants,
    files: ExternalFiles,
    left_out: Mapping[int, tuple[ModelFile, Contents]],
) -> list[tuple[str, TensorType]]:
    """Puts tensors into the table; (digest, type) of each. ``left_out``: where the data of those
    lie whose protos lack it, by position. Large data in files stays there until it is used; large
    inline data is digested on several threads."""
    from .external import eager

    found: list[tuple[str, TensorType]] = []
    arrays: list[tuple[int, np.ndarray]] = []
    for i, proto in enumerate(protos):
        if i in left_out:
            type_ = tensor_type(proto)
            found.append((_add_left_out(proto, type_, constants, *left_out[i]), type_))
            continue
        if proto.data_location == TensorProto.EXTERNAL:
            type_ = tensor_type(proto)
            if not eager(type_):
                digest, load = files.tensor(proto.name, external_entries(proto), type_)
                found.append((constants.add_lazy(digest, load), type_))
                continue
        array = to_array(proto, files)
        found.append(("", TensorType(DType.of(array.dtype), array.shape)))
        arrays.append((i, array))
    total = sum(a.nbytes for _, a in arrays)
    if total < _PARALLEL_BYTES:
        digests = [Constants.digest_of(a) for _, a in arrays]
    else:
        from concurrent.futures import ThreadPoolExecutor  # slow to import

        with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
            digests = list(pool.map(Constants.digest_of, (a for _, a in arrays)))
    for (i, array), digest in zip(arrays, digests, strict=True):
        found[i] = (constants.add(array, digest), found[i][1])
    return found


def _add_left_out(
    proto: TensorProto, type_: TensorType, constants: Constants, file: ModelFile,
    contents: Contents,
) -> str:  # fmt: skip
    """Puts a tensor into the table whose bytes the file has; its digest."""
    _check_stored(contents.size, type_, f"tensor {quote(proto.name)}")
    if type_.dtype.bits < 8:  # unpacked, its digest is another one
        return constants.add(from_bytes(file.read(contents), type_))
    digest = constants.digest_of_bytes(file.digests[contents], type_.dtype, type_.shape)
    return constants.add_lazy(digest, lambda: from_bytes(file.read(contents), type_))


def sparse_to_array(proto: SparseTensorProto, files: ExternalFiles | None = None) -> np.ndarray:
    """The dense array of a sparse tensor (COO: linear or per-axis positions)."""
    values = to_array(proto.values, files)
    where = to_array(proto.indices, files)
    what = f"sparse tensor {quote(proto.values.name)}"
    dims = tuple(proto.dims)
    if any(d < 0 for d in dims) or values.ndim != 1:
        raise ModelError(f"{what} declares shape {dims} and values of shape {values.shape}")
    type_ = TensorType(DType.of(values.dtype), dims)
    check_size(type_, what)
    if type_.nbytes() > _MAX_DENSE:  # type: ignore[operator]
        raise LimitError(f"{what} is {type_} when dense; a sparse tensor may take {_MAX_DENSE}")
    dense = np.zeros(dims, dtype=values.dtype)
    if where.dtype != np.int64 or where.shape not in ((values.size,), (values.size, len(dims))):
        raise ModelError(f"{what}: positions of shape {where.shape} for {values.size} values")
    limit = np.array(dims if where.ndim == 2 else [dense.size], dtype=np.int64)
    if where.size and ((where < 0).any() or (where >= limit).any()):
        raise ModelError(f"{what}: a position lies outside the shape {dims}")
    if where.ndim == 2:
        dense[tuple(where.T)] = values
    else:
        dense.reshape(-1)[where] = values
    return dense
