"""The registry of words: functions generated kernel source may call, each a Numba ``@intrinsic``.

A word is a Python function that receives Numba types and answers ``(signature, build)``; ``build``
emits LLVM IR with llvmlite. Words live by subject in other files of this package; ``load`` imports
them all. Being real intrinsics they also work under plain ``numba.njit``.

Element types keep the IR's names (``ir.types``). In registers ``f16`` and ``bf16`` are float32
values, ``bool`` is a one-bit value, integers below 8 bits are bytes that hold their value, floats
of at most 8 bits are unsigned bytes that hold their code (see ``codes``), and complex numbers are
unsigned integers that hold their bits: they are moved, never computed with.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic, models, register_model

WORDS: dict[str, Any] = {}
"""Name -> intrinsic."""
EMITTERS: dict[str, Any] = {}
"""Name -> code ``(builder, result type, *values)``, which most words have for vectors too."""

I1, I8, I16, I32, I64 = (ir.IntType(bits) for bits in (1, 8, 16, 32, 64))
F32, F64, F16 = ir.FloatType(), ir.DoubleType(), ir.HalfType()

CODES = ("f8e4m3fn", "f8e4m3fnuz", "f8e5m2", "f8e5m2fnuz", "f8e8m0", "f6e2m3", "f6e3m2", "f4e2m1")
"""Element types whose registers hold a code of at most 8 bits."""
SMALL = {"i2": 2, "u2": 2, "i4": 4, "u4": 4}
"""Integers below a byte and their width."""


class Wide(types.Type):
    """The bits of a complex128: a register type of 128 bits that is only moved."""

    def __init__(self) -> None:
        super().__init__(name="wide")


@register_model(Wide)
class _WideModel(models.PrimitiveModel):
    def __init__(self, manager: Any, kind: Wide) -> None:
        super().__init__(manager, kind, ir.IntType(128))


WIDE = Wide()

STORED: dict[str, ir.Type] = {
    "f32": F32, "f64": F64, "f16": I16, "bf16": I16, "bool": I8,
    "i8": I8, "i16": I16, "i32": I32, "i64": I64, "u8": I8, "u16": I16, "u32": I32, "u64": I64,
    "c64": I64, "c128": ir.IntType(128), **dict.fromkeys((*CODES, *SMALL), I8),
}  # fmt: skip
"""Element type -> LLVM type in memory."""

VALUES: dict[str, types.Type] = {
    "f32": types.float32, "f64": types.float64, "f16": types.float32, "bf16": types.float32,
    "bool": types.boolean, "i8": types.int8, "i16": types.int16, "i32": types.int32,
    "i64": types.int64, "u8": types.uint8, "u16": types.uint16, "u32": types.uint32,
    "u64": types.uint64, "i2": types.int8, "i4": types.int8, "u2": types.uint8,
    "u4": types.uint8, "c64": types.uint64, "c128": WIDE, **dict.fromkeys(CODES, types.uint8),
}  # fmt: skip
"""Element type -> Numba type in a register."""

BITS: dict[int, types.Type] = {
    8: types.uint8, 16: types.uint16, 32: types.uint32, 64: types.uint64, 128: WIDE,
}  # fmt: skip
"""Width in memory -> the Numba type of a register that holds an element's bits."""

LLVM_VALUES: dict[types.Type, ir.Type] = {
    types.float32: F32, types.float64: F64, types.boolean: I1,
    types.int8: I8, types.int16: I16, types.int32: I32, types.int64: I64,
    types.uint8: I8, types.uint16: I16, types.uint32: I32, types.uint64: I64,
    WIDE: ir.IntType(128),
}  # fmt: skip
"""Numba type in a register -> its LLVM type."""

Build = Callable[[Any, ir.IRBuilder, Any, list[Any]], Any]


def word(function: Callable[..., Any]) -> Any:
    """Register ``function(typing context, *argument types) -> (signature, build)`` as a word."""
    WORDS[function.__name__] = made = intrinsic(prefer_literal=True)(function)
    return made


def simple(
    name: str, doc: str, arity: int, pick: Callable[..., types.Type | None], emit: Any
) -> None:
    """Register the word ``name`` of ``arity`` arguments.

    ``pick(*types)`` is its result type or None where it does not apply, ``emit(builder, result
    type, *values)`` its code. Literal types arrive widened.
    """
    EMITTERS[name] = emit

    def type_it(*args: types.Type) -> Any:
        plain = tuple(types.unliteral(a) for a in args)
        result = pick(*plain)
        if result is None:
            return None

        def build(_: Any, builder: ir.IRBuilder, signature: Any, values: list[Any]) -> Any:
            return emit(builder, signature.return_type, *values)

        return result(*plain), build

    # Numba reads the number of arguments off the function.
    def one(context: Any, a: types.Type) -> Any:
        return type_it(a)

    def two(context: Any, a: types.Type, b: types.Type) -> Any:
        return type_it(a, b)

    def three(context: Any, a: types.Type, b: types.Type, c: types.Type) -> Any:
        return type_it(a, b, c)

    forms: dict[int, Callable[..., Any]] = {1: one, 2: two, 3: three}
    define = forms[arity]
    define.__name__ = define.__qualname__ = name
    define.__doc__ = doc
    word(define)


def same_float(*args: types.Type) -> types.Type | None:
    """The common type if all are float32 or all are float64."""
    first = args[0]
    return first if first in (types.float32, types.float64) and set(args) == {first} else None


def same_integer(*args: types.Type) -> types.Type | None:
    """The common type if all are one integer type."""
    first = args[0]
    return first if isinstance(first, types.Integer) and set(args) == {first} else None


def same(*args: types.Type) -> types.Type | None:
    """The common type if all are one machine type."""
    return args[0] if args[0] in LLVM_VALUES and len(set(args)) == 1 else None


def signed(kind: types.Type) -> bool:
    """Whether this is a signed integer type."""
    return isinstance(kind, types.Integer) and bool(kind.signed)


def call(builder: ir.IRBuilder, name: str, result: ir.Type, args: list[Any], **options: Any) -> Any:
    """Call the function ``name`` (an LLVM intrinsic or an external), declared on first use."""
    module = builder.module
    function = module.globals.get(name)
    if function is None:
        kind = ir.FunctionType(result, [a.type for a in args])
        function = ir.Function(module, kind, name)
    return builder.call(function, args, **options)


def constant(kind: ir.Type, number: Any) -> ir.Constant:
    """A number as a constant, in all lanes of a vector type."""
    if not isinstance(kind, ir.VectorType):
        return ir.Constant(kind, number)
    made = ir.FormattedConstant(kind, "")
    made.constant = f"splat ({ir.Constant(kind.element, number)})"
    return made


def like(kind: ir.Type, element: ir.Type) -> ir.Type:
    """``element``, in as many lanes as ``kind`` has."""
    return ir.VectorType(element, kind.count) if isinstance(kind, ir.VectorType) else element


def suffix(kind: ir.Type) -> str:
    """How LLVM abbreviates a type in intrinsic names: ``f32``, ``i64``, ``v16f32``, ..."""
    if isinstance(kind, ir.VectorType):
        return f"v{kind.count}{suffix(kind.element)}"
    if kind == F32:
        return "f32"
    if kind == F64:
        return "f64"
    if kind == F16:
        return "f16"
    return f"i{kind.width}"


def load() -> dict[str, Any]:
    """All words, by name."""
    from . import casts, division, intrinsics, scalar, vectormath  # noqa: F401

    return WORDS
