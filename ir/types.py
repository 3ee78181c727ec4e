"""Element types and value types of the IR.

``DType`` is a named element type; ``TensorType`` adds a shape of ``Dim``; ``SequenceType``,
``OptionalType`` and ``MapType`` exist for ONNX's containers, ``LooseTensor`` for what they hold
where its rank is not one. All are immutable and compare by value.
"""

from __future__ import annotations

from dataclasses import dataclass

import ml_dtypes
import numpy as np

from .dims import Dim, free_symbols, product
from .errors import ParseError


@dataclass(frozen=True, slots=True)
class DType:
    """An element type: short name, NumPy dtype, width in bits and kind (f i u b c s)."""

    name: str
    np: np.dtype
    bits: int
    kind: str

    @property
    def itemsize(self) -> int:
        """Bytes of one element as stored (sub-byte types take a byte)."""
        return self.np.itemsize

    @property
    def is_float(self) -> bool:
        return self.kind == "f"

    @property
    def is_integer(self) -> bool:
        return self.kind in "iu"

    @property
    def is_coded(self) -> bool:
        """Whether this is a float of at most 8 bits: arithmetic leaves its code for float32."""
        return self.kind == "f" and self.bits <= 8

    @property
    def code(self) -> DType:
        """The unsigned integer type of equal storage, whose values are this type's bit patterns."""
        return _UNSIGNED[self.itemsize]

    def __str__(self) -> str:
        return self.name

    __repr__ = __str__

    @staticmethod
    def of(dtype: object) -> DType:
        """The ``DType`` of a NumPy dtype (or anything ``np.dtype`` accepts)."""
        found = _BY_NP.get(np.dtype(dtype))  # type: ignore[call-overload]
        if found is None:
            if np.dtype(dtype).kind in "USO":  # type: ignore[call-overload]
                return STR
            raise ParseError(f"no element type for NumPy dtype {dtype}")
        return found

    @staticmethod
    def named(name: str) -> DType:
        """The ``DType`` called ``name``; raises ``ParseError``."""
        if name not in DTYPES:
            raise ParseError(f"unknown element type {name[:40]!r}; known: {', '.join(DTYPES)}")
        return DTYPES[name]


def _dtype(name: str, np_type: object, bits: int, kind: str) -> DType:
    return DType(name, np.dtype(np_type), bits, kind)  # type: ignore[call-overload]


F32 = _dtype("f32", np.float32, 32, "f")
F64 = _dtype("f64", np.float64, 64, "f")
F16 = _dtype("f16", np.float16, 16, "f")
BF16 = _dtype("bf16", ml_dtypes.bfloat16, 16, "f")
F8E4M3FN = _dtype("f8e4m3fn", ml_dtypes.float8_e4m3fn, 8, "f")
F8E4M3FNUZ = _dtype("f8e4m3fnuz", ml_dtypes.float8_e4m3fnuz, 8, "f")
F8E5M2 = _dtype("f8e5m2", ml_dtypes.float8_e5m2, 8, "f")
F8E5M2FNUZ = _dtype("f8e5m2fnuz", ml_dtypes.float8_e5m2fnuz, 8, "f")
F8E8M0 = _dtype("f8e8m0", ml_dtypes.float8_e8m0fnu, 8, "f")
F6E2M3 = _dtype("f6e2m3", ml_dtypes.float6_e2m3fn, 6, "f")
F6E3M2 = _dtype("f6e3m2", ml_dtypes.float6_e3m2fn, 6, "f")
F4E2M1 = _dtype("f4e2m1", ml_dtypes.float4_e2m1fn, 4, "f")
I2 = _dtype("i2", ml_dtypes.int2, 2, "i")
U2 = _dtype("u2", ml_dtypes.uint2, 2, "u")
I4 = _dtype("i4", ml_dtypes.int4, 4, "i")
U4 = _dtype("u4", ml_dtypes.uint4, 4, "u")
I8 = _dtype("i8", np.int8, 8, "i")
I16 = _dtype("i16", np.int16, 16, "i")
I32 = _dtype("i32", np.int32, 32, "i")
I64 = _dtype("i64", np.int64, 64, "i")
U8 = _dtype("u8", np.uint8, 8, "u")
U16 = _dtype("u16", np.uint16, 16, "u")
U32 = _dtype("u32", np.uint32, 32, "u")
U64 = _dtype("u64", np.uint64, 64, "u")
BOOL = _dtype("bool", np.bool_, 8, "b")
C64 = _dtype("c64", np.complex64, 64, "c")
C128 = _dtype("c128", np.complex128, 128, "c")
STR = _dtype("str", np.object_, 64, "s")

DTYPES: dict[str, DType] = {
    d.name: d
    for d in (
        F32, F64, F16, BF16, F8E4M3FN, F8E4M3FNUZ, F8E5M2, F8E5M2FNUZ, F8E8M0, F6E2M3, F6E3M2,
        F4E2M1, I2, U2, I4, U4, I8, I16, I32, I64, U8, U16, U32, U64, BOOL, C64, C128, STR,
    )
}  # fmt: skip
_UNSIGNED = {1: U8, 2: U16, 4: U32, 8: U64}
_BY_NP: dict[np.dtype, DType] = {d.np: d for d in DTYPES.values()}


@dataclass(frozen=True, slots=True)
class TensorType:
    """A dense tensor, row-major: element type and shape."""

    dtype: DType
    shape: tuple[Dim, ...]

    @property
    def rank(self) -> int:
        return len(self.shape)

    @property
    def is_static(self) -> bool:
        """Whether every dimension is a plain integer."""
        return all(isinstance(d, int) for d in self.shape)

    def numel(self) -> Dim:
        """Number of elements."""
        return product(self.shape)

    def nbytes(self) -> Dim:
        """Bytes of the dense row-major buffer."""
        return self.numel() * self.dtype.itemsize

    def with_dtype(self, dtype: DType) -> TensorType:
        return TensorType(dtype, self.shape)

    def with_shape(self, shape: tuple[Dim, ...]) -> TensorType:
        return TensorType(self.dtype, shape)

    def __str__(self) -> str:
        return f"{self.dtype}[{', '.join(str(d) for d in self.shape)}]"

    __repr__ = __str__


@dataclass(frozen=True, slots=True)
class LooseTensor:
    """What a container of tensors holds where that has no rank of its own: tensors of any rank, or
    none at all (the elements of an empty sequence). Never the type of a value by itself."""

    dtype: DType
    none: bool = False
    """Whether there is no such tensor: a container of any others is one of these as well."""

    def __str__(self) -> str:
        return f"{'no' if self.none else 'any'} {self.dtype}"

    __repr__ = __str__


@dataclass(frozen=True, slots=True)
class MapType:
    """ONNX's map from integers or strings to numbers or strings; host values only."""

    key: DType
    value: DType

    def __str__(self) -> str:
        return f"map({self.key}, {self.value})"

    __repr__ = __str__


@dataclass(frozen=True, slots=True)
class SequenceType:
    """ONNX's sequence of values of one type; host values only."""

    elem: Type

    def __str__(self) -> str:
        return f"seq({self.elem})"


@dataclass(frozen=True, slots=True)
class OptionalType:
    """ONNX's optional value; host values only."""

    elem: Type

    def __str__(self) -> str:
        return f"opt({self.elem})"


Type = TensorType | SequenceType | OptionalType | MapType | LooseTensor


_NO_SYMBOLS: frozenset[str] = frozenset()


def type_symbols(t: Type) -> frozenset[str]:
    """Names of all symbols in the type's shape. Sizes of a container's elements differ from one
    element to the next: symbols there are placeholders and name nothing."""
    if isinstance(t, TensorType):
        sizes = [d for d in t.shape if not isinstance(d, int)]
        return frozenset().union(*map(free_symbols, sizes)) if sizes else _NO_SYMBOLS
    return _NO_SYMBOLS
