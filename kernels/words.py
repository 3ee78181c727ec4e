"""The registry of words: functions generated kernel source may call.

A word is a Python function that receives types (``machine_types``) and answers ``(signature,
build)``; ``build`` writes LLVM IR with llvmlite, as of a Numba ``@intrinsic``. Words live by
subject in other files of this package; ``load`` imports them all. ``frontend`` compiles them;
``plain_numba`` makes intrinsics of them, with which the same source works under ``numba.njit``.

Element types keep the IR's names (``ir.types``). In registers ``f16`` and ``bf16`` are float32
values, ``bool`` is a one-bit value, integers below 8 bits are bytes that hold their value, floats
of at most 8 bits are unsigned bytes that hold their code (see ``codes``), and complex numbers are
unsigned integers that hold their bits: they are moved, never computed with.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

from llvmlite import ir

from . import machine_types as types

Build = Callable[[ir.IRBuilder, types.Signature, "list[Any]"], Any]
"""(builder, signature, values) -> value, None for ``void``."""
Definition = Callable[..., "tuple[types.Signature, Build] | None"]
"""Types of the arguments -> signature and code; None where the word does not take these."""

WORDS: dict[str, Definition] = {}
"""Name -> what it is."""
EMITTERS: dict[str, Any] = {}
"""Name -> code ``(builder, result type, *values)``, which most words have for vectors too."""



class Value(NamedTuple):
    """The result of an expression."""

    llvm: Any
    kind: types.Type
    """Its type; of a constant the literal type."""

    @property
    def plain(self) -> types.Type:
        """Its type where it is no literal."""
        return types.unliteral(self.kind)


I1, I8, I16, I32, I64 = (ir.IntType(bits) for bits in (1, 8, 16, 32, 64))
F32, F64, F16 = ir.FloatType(), ir.DoubleType(), ir.HalfType()

CODES = ("f8e4m3fn", "f8e4m3fnuz", "f8e5m2", "f8e5m2fnuz", "f8e8m0", "f6e2m3", "f6e3m2", "f4e2m1")
"""Element types whose registers hold a code of at most 8 bits."""
SMALL = {"i2": 2, "u2": 2, "i4": 4, "u4": 4}
"""Integers below a byte and their width."""


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
    "u4": types.uint8, "c64": types.uint64, "c128": types.wide, **dict.fromkeys(CODES, types.uint8),
}  # fmt: skip
"""Element type -> type in a register."""

BITS: dict[int, types.Type] = {
    8: types.uint8, 16: types.uint16, 32: types.uint32, 64: types.uint64, 128: types.wide,
}  # fmt: skip
"""Width in memory -> the type of a register that holds an element's bits."""

LLVM_VALUES: dict[types.Type, ir.Type] = {
    types.float32: F32, types.float64: F64, types.boolean: I1,
    types.int8: I8, types.int16: I16, types.int32: I32, types.int64: I64,
    types.uint8: I8, types.uint16: I16, types.uint32: I32, types.uint64: I64,
    types.wide: ir.IntType(128),
}  # fmt: skip
"""Type in a register -> its LLVM type."""


def word(function: Definition) -> Definition:
    """Register ``function(*argument types) -> (signature, build)`` as a word."""
    WORDS[function.__name__] = function
    return function


def simple(
    name: str, doc: str, arity: int, pick: Callable[..., types.Type | None], emit: Any
) -> None:
    """Register the word ``name`` of ``arity`` arguments.

    ``pick(*types)`` is its result type or None where it does not apply, ``emit(builder, result
    type, *values)`` its code. Literal types arrive widened.
    """
    EMITTERS[name] = emit

    def type_it(*args: types.Type) -> tuple[types.Signature, Build] | None:
        plain = tuple(types.unliteral(a) for a in args)
        result = pick(*plain)
        if result is None:
            return None

        def build(builder: ir.IRBuilder, signature: types.Signature, values: list[Any]) -> Any:
            return emit(builder, signature.return_type, *values)

        return result(*plain), build

    def one(a: types.Type) -> Any:
        return type_it(a)

    def two(a: types.Type, b: types.Type) -> Any:
        return type_it(a, b)

    def three(a: types.Type, b: types.Type, c: types.Type) -> Any:
        return type_it(a, b, c)

    forms: dict[int, Definition] = {1: one, 2: two, 3: three}
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


@cache
def load() -> dict[str, Definition]:
    """All words, by name."""
    from . import casts, division, intrinsics, scalar, vectormath  # noqa: F401

    return WORDS
