"""Words for memory: typed pointers into buffers, loads and stores with conversion, parameters.

``x = ptr_f32(bufs, 2)`` is buffer 2 as float32 elements. Its number is also its alias tag (see
``aliasing``): buffers with different numbers are promised not to overlap where one of them is
written, so a buffer that is updated in place must be opened under one number. ``part`` opens a
piece of a buffer (a scratch tile) under a tag of its own. Indices count elements, are 64-bit and
must not overflow.

=====================================  ====================================================
``ptr_T(bufs, k)``                     buffer ``k`` (a literal) with elements of type ``T``
``part_T(p, byte_offset, tag)``        elements ``T`` from a byte offset on, other alias tag
``off(p, n)``                          pointer ``n`` elements further, same tag
``addr(p, n)``                         address of element ``n`` as int64
``ld(p, i)``                           element ``i`` as a register value
``st(p, i, v)``                        store ``v`` (of the element's register type)
``ldb(p, i)``, ``stb(p, i, v)``        the same for the element's bits, an unsigned integer
``prm(params, k)``                     size parameter ``k``, hoistable out of loops
``ccall("name", ...)``                  call of an external function (a micro-kernel)
=====================================  ====================================================

float16 and bfloat16 are stored in 16 bits and computed in float32: ``ld`` widens exactly, ``st``
rounds to nearest even. Processors without conversion instructions get integer code for float16
(the shift-and-multiply of F. Giesen, "half to float done quick", 2012). Booleans are bytes 0 and 1;
any other byte loads as true. Elements of fewer than 8 bits take a byte; the bits above are ignored
by loads and written as 0.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir

from . import machine_types as types
from .aliasing import mark
from .machine_types import Pointer
from .words import (
    BITS,
    F16,
    F32,
    F64,
    I8,
    I16,
    I32,
    I64,
    LLVM_VALUES,
    SMALL,
    STORED,
    VALUES,
    call,
    word,
)  # fmt: skip

WIDTHS = SMALL | {"f6e2m3": 6, "f6e3m2": 6, "f4e2m1": 4}
"""Element types of fewer than 8 bits and their width."""


def _literal(kind: types.Type, what: str) -> int:
    if not isinstance(kind, types.IntegerLiteral):
        raise types.TypingError(f"{what} must be a literal integer")
    return kind.literal_value


def _define_pointers(dtype: str) -> None:
    """Register ``ptr_<dtype>`` and ``part_<dtype>``."""

    def ptr(bufs: types.Type, k: types.Type) -> Any:
        if not isinstance(bufs, types.CPointer):
            return None

        def build(builder: ir.IRBuilder, signature: Any, values: list[Any]) -> Any:
            address = _parameter(builder, values)
            return builder.inttoptr(address, STORED[dtype].as_pointer())

        return types.pointer(dtype, _literal(k, "a buffer number"))(bufs, types.int64), build

    def part(p: types.Type, offset: types.Type, tag: types.Type) -> Any:
        if not isinstance(p, Pointer):
            return None

        def build(builder: ir.IRBuilder, signature: Any, values: list[Any]) -> Any:
            base = builder.bitcast(values[0], I8.as_pointer())
            return builder.bitcast(builder.gep(base, [values[1]]), STORED[dtype].as_pointer())

        result = types.pointer(dtype, _literal(tag, "an alias tag"))
        return result(p, types.int64, types.int64), build

    ptr.__name__, part.__name__ = f"ptr_{dtype}", f"part_{dtype}"
    ptr.__doc__ = f"Buffer ``k`` of ``bufs`` as {dtype} elements."
    part.__doc__ = f"{dtype} elements from ``offset`` bytes behind ``p``, under another alias tag."
    word(ptr)
    word(part)


for _dtype in STORED:
    _define_pointers(_dtype)


def _parameter(builder: ir.IRBuilder, values: list[Any]) -> Any:
    value = builder.load(builder.gep(values[0], [values[1]]))
    value.set_metadata("invariant.load", builder.module.add_metadata([]))
    return value


@word
def prm(params: types.Type, k: types.Type) -> Any:
    """Size parameter ``k`` as int64; never changes while the kernel runs."""

    def build(builder: ir.IRBuilder, signature: Any, values: list[Any]) -> Any:
        return _parameter(builder, values)

    if not isinstance(params, types.CPointer):
        return None
    return types.int64(params, types.int64), build


@word
def off(p: types.Type, n: types.Type) -> Any:
    """Pointer ``n`` elements behind ``p``."""

    def build(builder: ir.IRBuilder, signature: Any, values: list[Any]) -> Any:
        return builder.gep(values[0], [values[1]])

    return (p(p, types.int64), build) if isinstance(p, Pointer) else None


@word
def addr(p: types.Type, n: types.Type) -> Any:
    """Address of element ``n`` of ``p`` as int64."""

    def build(builder: ir.IRBuilder, signature: Any, values: list[Any]) -> Any:
        return builder.ptrtoint(builder.gep(values[0], [values[1]]), I64)

    return (types.int64(p, types.int64), build) if isinstance(p, Pointer) else None


@word
def ld(p: types.Type, i: types.Type) -> Any:
    """Element ``i`` of ``p`` as a register value."""
    if not isinstance(p, Pointer):
        return None

    def build(builder: ir.IRBuilder, signature: Any, values: list[Any]) -> Any:
        raw = builder.load(builder.gep(values[0], [values[1]]))
        return widen(builder, mark(builder, raw, p.tag), p.dtype)

    return VALUES[p.dtype](p, types.int64), build


@word
def ldm(p: types.Type, i: types.Type, c: types.Type, v: types.Type) -> Any:
    """Element ``i`` of ``p`` where ``c`` holds, else ``v``; nothing is read there."""
    if not isinstance(p, Pointer):
        return None
    wanted = VALUES[p.dtype]
    if types.unliteral(v) != wanted or types.unliteral(c) != types.boolean:
        raise types.TypingError(f"ldm of {p} takes bool and {wanted}, not {c} and {v}")

    def build(builder: ir.IRBuilder, signature: Any, values: list[Any]) -> Any:
        before = builder.block
        with builder.if_then(values[2]):
            raw = mark(builder, builder.load(builder.gep(values[0], [values[1]])), p.tag)
            loaded, inside = widen(builder, raw, p.dtype), builder.block
        result = builder.phi(loaded.type)
        result.add_incoming(values[3], before)
        result.add_incoming(loaded, inside)
        return result

    return wanted(p, types.int64, types.boolean, wanted), build


@word
def st(p: types.Type, i: types.Type, v: types.Type) -> Any:
    """Store ``v`` as element ``i`` of ``p``; ``v`` must have the element's register type."""
    if not isinstance(p, Pointer):
        return None
    wanted = VALUES[p.dtype]
    if types.unliteral(v) != wanted:
        raise types.TypingError(f"st to {p} takes {wanted}, not {v}")

    def build(builder: ir.IRBuilder, signature: Any, values: list[Any]) -> Any:
        raw = narrow(builder, values[2], p.dtype)
        store = builder.store(raw, builder.gep(values[0], [values[1]]))
        mark(builder, store, p.tag)

    return types.void(p, types.int64, wanted), build


@word
def claim(p: types.Type, i: types.Type) -> Any:
    """Ask for the cache line of element ``i`` of ``p``, which is written soon."""
    if not isinstance(p, Pointer):
        return None

    def build(builder: ir.IRBuilder, signature: Any, values: list[Any]) -> Any:
        at = builder.bitcast(builder.gep(values[0], [values[1]]), I8.as_pointer())
        flags = [ir.Constant(I32, flag) for flag in (1, 3, 1)]  # to write, keep near, data
        call(builder, "llvm.prefetch.p0", ir.VoidType(), [at, *flags])

    return types.void(p, types.int64), build


def _bits(dtype: str) -> types.Type:
    """Register type of the bits of an element."""
    stored = STORED[dtype]
    return BITS[stored.width if isinstance(stored, ir.IntType) else 64 if stored == F64 else 32]


@word
def ldb(p: types.Type, i: types.Type) -> Any:
    """The bits of element ``i`` of ``p``."""
    if not isinstance(p, Pointer):
        return None
    kind = _bits(p.dtype)

    def build(builder: ir.IRBuilder, signature: Any, values: list[Any]) -> Any:
        at = builder.bitcast(values[0], LLVM_VALUES[kind].as_pointer())
        return mark(builder, builder.load(builder.gep(at, [values[1]])), p.tag)

    return kind(p, types.int64), build


@word
def stb(p: types.Type, i: types.Type, v: types.Type) -> Any:
    """Store the bits ``v`` as element ``i`` of ``p``."""
    if not isinstance(p, Pointer):
        return None
    kind = _bits(p.dtype)
    if types.unliteral(v) != kind:
        raise types.TypingError(f"stb to {p} takes {kind}, not {v}")

    def build(builder: ir.IRBuilder, signature: Any, values: list[Any]) -> Any:
        at = builder.bitcast(values[0], LLVM_VALUES[kind].as_pointer())
        mark(builder, builder.store(values[2], builder.gep(at, [values[1]])), p.tag)

    return types.void(p, types.int64, kind), build


@word
def ccall(name: types.Type, *args: types.Type) -> Any:
    """Call the C function ``name`` (a literal), ``void`` of pointers, int64 and floats."""
    if not isinstance(name, types.StringLiteral):
        raise types.TypingError("ccall takes the function's name as a literal string")
    symbol, plain = name.literal_value, tuple(types.unliteral(a) for a in args)

    def build(builder: ir.IRBuilder, signature: Any, values: list[Any]) -> Any:
        _check_call(builder, symbol, len(values) - 1)
        call(builder, symbol, ir.VoidType(), values[1:])

    return types.void(name, *plain), build


def _check_call(builder: ir.IRBuilder, symbol: str, count: int) -> None:
    """A call with other arguments than the micro-kernel has would read what is on the stack."""
    from .micro import known, named

    target = getattr(builder.module, "evonnx_target", None)
    if target is None or not known(symbol):
        return
    wanted = named(symbol, target).arguments
    if count != len(wanted):
        raise types.TypingError(f"{symbol} takes {len(wanted)} arguments ({', '.join(wanted)}), "
                          f"not {count}")


def widen(builder: ir.IRBuilder, raw: Any, dtype: str) -> Any:
    """The register value of a stored element."""
    if dtype == "bool":
        return builder.icmp_unsigned("!=", raw, ir.Constant(I8, 0))
    if dtype == "bf16":
        return builder.bitcast(builder.shl(builder.zext(raw, I32), ir.Constant(I32, 16)), F32)
    if dtype == "f16":
        if _converts_half(builder):
            return builder.fpext(builder.bitcast(raw, F16), F32)
        return _half_to_float(builder, raw)
    return fit(builder, raw, dtype)


def fit(builder: ir.IRBuilder, value: Any, dtype: str) -> Any:
    """The low bits of a byte as a number of the type, if it has fewer than 8 of them."""
    if dtype not in WIDTHS:
        return value
    free = ir.Constant(I8, 8 - WIDTHS[dtype])
    shift = builder.ashr if dtype[0] == "i" else builder.lshr
    return shift(builder.shl(value, free), free)


def narrow(builder: ir.IRBuilder, value: Any, dtype: str) -> Any:
    """The stored element of a register value."""
    if dtype == "bool":
        return builder.zext(value, I8)
    if dtype == "bf16":
        return _float_to_bfloat(builder, value)
    if dtype == "f16":
        if _converts_half(builder):
            return builder.bitcast(builder.fptrunc(value, F16), I16)
        return _float_to_half(builder, value)
    if dtype in ("i2", "i4"):
        return builder.and_(value, ir.Constant(I8, (1 << SMALL[dtype]) - 1))
    return value


def _converts_half(builder: ir.IRBuilder) -> bool:
    """Whether the target converts float16 by instruction; unknown targets (njit) do not."""
    target = getattr(builder.module, "evonnx_target", None)
    return target is not None and (target.arch != "x86_64" or target.has("f16c"))


def _int(value: int) -> ir.Constant:
    return ir.Constant(I32, value)


def _half_to_float(b: ir.IRBuilder, raw: Any) -> Any:
    """Exact: shift into place, rebias the exponent by a multiplication, repair inf and NaN."""
    bits = b.zext(raw, I32)
    sign = b.shl(b.and_(bits, _int(0x8000)), _int(16))
    magnitude = b.bitcast(b.shl(b.and_(bits, _int(0x7FFF)), _int(13)), F32)
    scaled = b.bitcast(b.fmul(magnitude, ir.Constant(F32, 2.0**112)), I32)
    special = b.icmp_unsigned(">", b.and_(bits, _int(0x7FFF)), _int(0x7BFF))
    result = b.or_(scaled, b.select(special, _int(0x7F800000), _int(0)))
    return b.bitcast(b.or_(result, sign), F32)


def _float_to_half(b: ir.IRBuilder, value: Any) -> Any:
    """Round to nearest even; the addition of a suitable power of two rounds denormals."""
    bits = b.bitcast(value, I32)
    sign = b.and_(bits, _int(-0x80000000))
    magnitude = b.xor(bits, sign)
    # Denormal results: adding 0.5 aligns the last kept bit with the last bit of the sum.
    tiny = b.fadd(b.bitcast(magnitude, F32), ir.Constant(F32, 0.5))
    denormal = b.sub(b.bitcast(tiny, I32), _int(0x3F000000))
    odd = b.and_(b.lshr(magnitude, _int(13)), _int(1))
    normal = b.lshr(b.add(b.add(magnitude, _int((15 - 127 << 23) + 0xFFF)), odd), _int(13))
    is_nan = b.icmp_unsigned(">", magnitude, _int(0x7F800000))
    infinite = b.select(is_nan, _int(0x7E00), _int(0x7C00))
    small = b.icmp_unsigned("<", magnitude, _int(113 << 23))
    large = b.icmp_unsigned(">=", magnitude, _int(143 << 23))
    result = b.select(large, infinite, b.select(small, denormal, normal))
    return b.trunc(b.or_(result, b.lshr(sign, _int(16))), I16)


def _float_to_bfloat(b: ir.IRBuilder, value: Any) -> Any:
    """Round to nearest even by an integer addition; a NaN keeps its upper bits, made quiet."""
    bits = b.bitcast(value, I32)
    odd = b.and_(b.lshr(bits, _int(16)), _int(1))
    rounded = b.lshr(b.add(b.add(bits, _int(0x7FFF)), odd), _int(16))
    quiet = b.or_(b.lshr(bits, _int(16)), _int(0x40))
    return b.trunc(b.select(b.fcmp_unordered("uno", value, value), quiet, rounded), I16)


