"""Words for arithmetic and comparison of single register values.

All are branch-free and made of operations that LLVM's loop vectorizer widens. None raises and none
has undefined behavior on any input:

- integer words wrap in their own width; division by zero gives 0, ``INT_MIN / -1`` gives
  ``INT_MIN``; a shift by the width or more gives 0 (-1 for a negative value shifted right);
- ``fmax`` and ``fmin`` propagate NaN (which zero wins is open); only ``radd``, ``rmul`` may be
  reassociated, and only they are meant for reductions.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir

from . import machine_types as types
from .lanes import Lane
from .words import (
    EMITTERS,
    F32,
    F64,
    I1,
    I64,
    call,
    same,
    same_float,
    same_integer,
    signed,
    simple,
    suffix,
    word,
)

_CONTRACT = ("contract",)
_REASSOCIATE = ("contract", "reassoc")


def _llvm(name: str) -> Any:
    """Code that calls the LLVM intrinsic ``llvm.<name>.<type>``."""

    def emit(builder: ir.IRBuilder, result: types.Type, *values: Any) -> Any:
        kind = values[0].type
        return call(builder, f"llvm.{name}.{suffix(kind)}", kind, list(values))

    return emit


def _method(name: str, *flags: str) -> Any:
    """Code that is the one llvmlite builder method ``name``."""

    def emit(builder: ir.IRBuilder, result: types.Type, *values: Any) -> Any:
        return getattr(builder, name)(*values, flags=flags)

    return emit


# --- floats ---------------------------------------------------------------------------------------

for _name, _flags, _doc in (
    ("fadd", _CONTRACT, "``a + b``"),
    ("fsub", _CONTRACT, "``a - b``"),
    ("fmul", _CONTRACT, "``a * b``"),
    ("fdiv", (), "``a / b``"),
):
    simple(_name, _doc, 2, same_float, _method(_name, *_flags))

simple("radd", "``acc + v`` in any order: for sums.", 2, same_float, _method("fadd", *_REASSOCIATE))
simple("rmul", "``acc * v`` in any order.", 2, same_float, _method("fmul", *_REASSOCIATE))
simple("fabs", "Absolute value.", 1, same_float, _llvm("fabs"))
simple("sqrt", "Square root.", 1, same_float, _llvm("sqrt"))
simple("copysign", "Magnitude of ``a`` with the sign of ``b``.", 2, same_float, _llvm("copysign"))


def round_even(b: ir.IRBuilder, x: Any) -> Any:
    """Nearest whole number, halves to even.

    Where the processor has no such instruction (SSE2), adding and subtracting the power of two
    whose last bit is worth 1 rounds; larger numbers, infinities and NaN are whole already.
    """
    kind = x.type
    if _rounds(b):
        return call(b, f"llvm.roundeven.{suffix(kind)}", kind, [x])
    limit = ir.Constant(kind, 2.0**23 if kind == F32 else 2.0**52)
    size = call(b, f"llvm.fabs.{suffix(kind)}", kind, [x])
    whole = b.fsub(b.fadd(size, limit), limit)
    chosen = b.select(b.fcmp_ordered("<", size, limit), whole, size)
    return call(b, f"llvm.copysign.{suffix(kind)}", kind, [chosen, x])


def _rounds(builder: ir.IRBuilder) -> bool:
    target = getattr(builder.module, "evonnx_target", None)
    return target is None or target.arch != "x86_64" or target.has("sse4.1")


def _rounding(name: str) -> Any:
    """Code of floor, ceil or trunc: one instruction, or a correction of ``round_even``."""

    def emit(b: ir.IRBuilder, _: types.Type, x: Any) -> Any:
        kind, short = x.type, suffix(x.type)
        if _rounds(b):
            return call(b, f"llvm.{name}.{short}", kind, [x])
        base = call(b, f"llvm.fabs.{short}", kind, [x]) if name == "trunc" else x
        near, one = round_even(b, base), ir.Constant(kind, 1.0)
        if name == "ceil":
            result = b.select(b.fcmp_ordered("<", near, base), b.fadd(near, one), near)
        else:
            result = b.select(b.fcmp_ordered(">", near, base), b.fsub(near, one), near)
        return call(b, f"llvm.copysign.{short}", kind, [result, x])

    return emit


def _emit_rint(builder: ir.IRBuilder, _: types.Type, x: Any) -> Any:
    return round_even(builder, x)


simple("floor", "Largest whole number not above.", 1, same_float, _rounding("floor"))
simple("ceil", "Smallest whole number not below.", 1, same_float, _rounding("ceil"))
simple("trunc", "Whole number toward zero.", 1, same_float, _rounding("trunc"))
simple("rint", "Nearest whole number, halves to even.", 1, same_float, _emit_rint)


def _emit_neg(builder: ir.IRBuilder, _: types.Type, value: Any) -> Any:
    if isinstance(value.type, ir.IntType):
        return builder.neg(value)
    return builder.fneg(value)


def _extreme(name: str) -> Any:
    def emit(builder: ir.IRBuilder, _: types.Type, a: Any, b: Any) -> Any:
        kind = a.type
        full = f"llvm.{name}.{suffix(kind)}"
        # nsz: the order of -0 and +0 would cost a second instruction and ONNX leaves it open.
        return call(builder, full, kind, [a, b], fastmath=("nsz",))

    return emit


simple("neg", "``-a`` of a float or an integer (wraps).", 1, same, _emit_neg)
simple("fmax", "Larger of two floats; NaN if one is NaN.", 2, same_float, _extreme("maximum"))
simple("fmin", "Smaller of two floats; NaN if one is NaN.", 2, same_float, _extreme("minimum"))


def _emit_fma(builder: ir.IRBuilder, _: types.Type, a: Any, b: Any, c: Any) -> Any:
    return builder.fadd(builder.fmul(a, b, flags=_CONTRACT), c, flags=_CONTRACT)


simple("fma", "``a * b + c``, rounded once where the target can.", 3, same_float, _emit_fma)


def _exponent(b: ir.IRBuilder, x: Any) -> Any:
    """Biased binary exponent of a positive float64, denormal numbers included."""
    tiny = b.fcmp_ordered("<", x, ir.Constant(F64, 2.0**-1022))
    normal = b.select(tiny, b.fmul(x, ir.Constant(F64, 2.0**54)), x)
    field = b.lshr(b.bitcast(normal, I64), ir.Constant(I64, 52))
    return b.sub(field, b.select(tiny, ir.Constant(I64, 54), ir.Constant(I64, 0)))


def _remainder_step(b: ir.IRBuilder, r: Any, y: Any) -> Any:
    """Exact ``r - n y 2^k`` for positive finite ``r >= y``, less than ``y 2^k``."""
    zero = ir.Constant(I64, 0)
    gap = b.sub(b.sub(_exponent(b, r), _exponent(b, y)), ir.Constant(I64, 50))
    gap = b.select(b.icmp_signed(">", gap, zero), gap, zero)
    half = b.ashr(gap, ir.Constant(I64, 1))
    divisor = y
    for part in (half, b.sub(gap, half)):  # 2^k alone may overflow
        biased = b.shl(b.add(part, ir.Constant(I64, 1023)), ir.Constant(I64, 52))
        divisor = b.fmul(divisor, b.bitcast(biased, F64))
    n = _rounding("trunc")(b, types.float64, b.fdiv(r, divisor))
    rest = call(b, "llvm.fma.f64", F64, [b.fneg(n), divisor, r])
    negative = b.fcmp_ordered("<", rest, ir.Constant(F64, 0.0))  # n was one too large
    return b.select(negative, b.fadd(rest, divisor), rest)


def _emit_frem(b: ir.IRBuilder, _: types.Type, a: Any, divisor: Any) -> Any:
    """C's ``fmod``, exact: a long division of 50 binary digits per step, as in every libm."""
    kind = a.type
    x, y = (b.fpext(v, F64) if kind == F32 else v for v in (a, divisor))
    zero, infinity = ir.Constant(F64, 0.0), ir.Constant(F64, float("inf"))
    size, limit = (call(b, "llvm.fabs.f64", F64, [v]) for v in (x, y))
    usable = b.and_(
        b.fcmp_ordered("<", size, infinity),
        b.and_(b.fcmp_ordered(">", limit, zero), b.fcmp_ordered("<", limit, infinity)),
    )
    safe = b.select(usable, size, zero)
    divide = b.select(usable, limit, ir.Constant(F64, 1.0))
    entry, loop, done = b.block, b.append_basic_block(), b.append_basic_block()
    b.cbranch(b.fcmp_ordered(">=", safe, divide), loop, done)
    b.position_at_end(loop)
    r = b.phi(F64)
    rest = _remainder_step(b, r, divide)
    r.add_incoming(safe, entry)
    r.add_incoming(rest, loop)
    b.cbranch(b.fcmp_ordered(">=", rest, divide), loop, done)
    b.position_at_end(done)
    result = b.phi(F64)
    result.add_incoming(safe, entry)
    result.add_incoming(rest, loop)
    # A finite x modulo infinity is x.
    whole = b.and_(b.fcmp_ordered("<", size, infinity), b.fcmp_ordered("==", limit, infinity))
    lost = b.select(whole, size, ir.Constant(F64, float("nan")))
    signed = call(b, "llvm.copysign.f64", F64, [b.select(usable, result, lost), x])
    return Lane(b, signed).to_f32().v if kind == F32 else signed


simple("ffmod", "Remainder with the sign of ``a`` (C ``fmod``).", 2, same_float, _emit_frem)


def _emit_python_mod(builder: ir.IRBuilder, result: types.Type, a: Any, b: Any) -> Any:
    rest = _emit_frem(builder, result, a, b)
    zero = ir.Constant(rest.type, 0.0)
    mixed = builder.fcmp_ordered("<", builder.fmul(rest, b), zero)
    # Tiny operands: the product may underflow to -0, so compare signs of non-zero remainders.
    signs = builder.xor(builder.fcmp_ordered("<", rest, zero), builder.fcmp_ordered("<", b, zero))
    nonzero = builder.fcmp_ordered("!=", rest, zero)
    mixed = builder.or_(mixed, builder.and_(signs, nonzero))
    whole = call(builder, f"llvm.copysign.{suffix(rest.type)}", rest.type, [zero, b])
    exact = builder.fcmp_ordered("==", rest, zero)
    return builder.select(exact, whole, builder.select(mixed, builder.fadd(rest, b), rest))


simple("fmod", "Remainder with the sign of ``b`` (Python ``%``).", 2, same_float, _emit_python_mod)

# --- integers -------------------------------------------------------------------------------------

for _name, _builder, _doc in (
    ("iadd", "add", "``a + b``, wrapping."),
    ("isub", "sub", "``a - b``, wrapping."),
    ("imul", "mul", "``a * b``, wrapping."),
    ("iand", "and_", "Bitwise and."),
    ("ior", "or_", "Bitwise or."),
    ("ixor", "xor", "Bitwise exclusive or."),
):

    def _emit(builder: ir.IRBuilder, _: types.Type, a: Any, b: Any, method: str = _builder) -> Any:
        return getattr(builder, method)(a, b)

    simple(_name, _doc, 2, same_integer, _emit)


def _safe_division(builder: ir.IRBuilder, kind: types.Type, a: Any, b: Any) -> tuple[Any, Any, Any]:
    """Quotient and remainder toward zero with a harmless divisor, and whether ``b`` is 0."""
    zero, one = ir.Constant(a.type, 0), ir.Constant(a.type, 1)
    is_zero = builder.icmp_unsigned("==", b, zero)
    divisor = builder.select(is_zero, one, b)
    if not signed(kind):
        quotient = builder.udiv(a, divisor)
        return quotient, builder.sub(a, builder.mul(quotient, divisor)), is_zero
    minus = builder.icmp_signed("==", b, ir.Constant(a.type, -1))
    quotient = builder.sdiv(a, builder.select(minus, one, divisor))
    quotient = builder.select(minus, builder.sub(zero, a), quotient)
    return quotient, builder.sub(a, builder.mul(quotient, divisor)), is_zero


def _emit_idiv(builder: ir.IRBuilder, kind: types.Type, a: Any, b: Any) -> Any:
    quotient, _, is_zero = _safe_division(builder, kind, a, b)
    return builder.select(is_zero, ir.Constant(a.type, 0), quotient)


def _emit_irem(builder: ir.IRBuilder, kind: types.Type, a: Any, b: Any) -> Any:
    _, rest, is_zero = _safe_division(builder, kind, a, b)
    return builder.select(is_zero, ir.Constant(a.type, 0), rest)


def _emit_imod(builder: ir.IRBuilder, kind: types.Type, a: Any, b: Any) -> Any:
    rest = _emit_irem(builder, kind, a, b)
    if not signed(kind):
        return rest
    zero = ir.Constant(a.type, 0)
    mixed = builder.icmp_signed("<", builder.xor(rest, b), zero)
    mixed = builder.and_(mixed, builder.icmp_signed("!=", rest, zero))
    return builder.select(mixed, builder.add(rest, b), rest)


simple("idiv", "Quotient toward zero; 0 for ``b == 0``.", 2, same_integer, _emit_idiv)
simple("ifmod", "Remainder with the sign of ``a``; 0 for ``b == 0``.", 2, same_integer, _emit_irem)
simple("imod", "Remainder with the sign of ``b``; 0 for ``b == 0``.", 2, same_integer, _emit_imod)


simple(
    "qdiv", "Quotient of indices, ``a >= 0`` and ``b > 0`` promised: nothing is checked.", 2,
    same_integer, _method("udiv"),
)  # fmt: skip
simple(
    "qmod", "Remainder of indices, ``a >= 0`` and ``b > 0`` promised: nothing is checked.", 2,
    same_integer, _method("urem"),
)  # fmt: skip


def _emit_ishl(builder: ir.IRBuilder, _: types.Type, a: Any, b: Any) -> Any:
    width = ir.Constant(a.type, a.type.width)
    fits = builder.icmp_unsigned("<", b, width)
    zero = ir.Constant(a.type, 0)
    return builder.select(fits, builder.shl(a, builder.select(fits, b, zero)), zero)


def _emit_ishr(builder: ir.IRBuilder, kind: types.Type, a: Any, b: Any) -> Any:
    last = ir.Constant(a.type, a.type.width - 1)
    fits = builder.icmp_unsigned("<=", b, last)
    if signed(kind):
        return builder.ashr(a, builder.select(fits, b, last))
    zero = ir.Constant(a.type, 0)
    return builder.select(fits, builder.lshr(a, builder.select(fits, b, zero)), zero)


def _integer_extreme(name: str) -> Any:
    def emit(builder: ir.IRBuilder, kind: types.Type, a: Any, b: Any) -> Any:
        sign = "s" if signed(kind) else "u"
        return call(builder, f"llvm.{sign}{name}.{suffix(a.type)}", a.type, [a, b])

    return emit


def _emit_iabs(builder: ir.IRBuilder, kind: types.Type, a: Any) -> Any:
    if not signed(kind):
        return a
    return call(builder, f"llvm.abs.{suffix(a.type)}", a.type, [a, ir.Constant(I1, 0)])


def _emit_invert(builder: ir.IRBuilder, _: types.Type, a: Any) -> Any:
    return builder.not_(a)


def _emit_hidden(builder: ir.IRBuilder, _: types.Type, a: Any) -> Any:
    """No instruction: an empty piece of assembly that takes and gives a register."""
    return builder.asm(ir.FunctionType(a.type, [a.type]), "", "=r,0", [a], False)


def _emit_ipow(builder: ir.IRBuilder, kind: types.Type, a: Any, b: Any) -> Any:
    """Square and multiply over all bits of the exponent, wrapping; a negative one gives 0, 1, -1.

    That is the value of the real power truncated toward zero (0 to a negative power gives 0).
    """
    one, zero = ir.Constant(a.type, 1), ir.Constant(a.type, 0)
    entry = builder.block
    loop, done = builder.append_basic_block(), builder.append_basic_block()
    builder.branch(loop)
    builder.position_at_end(loop)
    result, base, exponent = (builder.phi(a.type) for _ in range(3))
    odd = builder.trunc(exponent, I1)
    product = builder.select(odd, builder.mul(result, base), result)
    square, rest = builder.mul(base, base), builder.lshr(exponent, one)
    for phi, first, again in ((result, one, product), (base, a, square), (exponent, b, rest)):
        phi.add_incoming(first, entry)
        phi.add_incoming(again, loop)
    builder.cbranch(builder.icmp_unsigned("==", rest, zero), done, loop)
    builder.position_at_end(done)
    if not signed(kind):
        return product
    unit = builder.or_(
        builder.icmp_signed("==", a, one), builder.icmp_signed("==", a, ir.Constant(a.type, -1))
    )
    lost = builder.and_(builder.icmp_signed("<", b, zero), builder.not_(unit))
    return builder.select(lost, zero, product)


simple("ishl", "Left shift by ``b``, taken as unsigned.", 2, same_integer, _emit_ishl)
simple("ishr", "Right shift by ``b``: arithmetic if signed.", 2, same_integer, _emit_ishr)
simple("imax", "Larger of two integers.", 2, same_integer, _integer_extreme("max"))
simple("imin", "Smaller of two integers.", 2, same_integer, _integer_extreme("min"))
simple("iabs", "Absolute value; the smallest integer stays.", 1, same_integer, _emit_iabs)
simple("inot", "Bitwise complement.", 1, same_integer, _emit_invert)
simple("hidden", "``a``; LLVM does not see that it is: vectors are not made across it.", 1,
       same_integer, _emit_hidden)
simple("ipow", "``a`` to the power ``b``, wrapping.", 2, same_integer, _emit_ipow)

# --- comparisons, logic, choice -------------------------------------------------------------------


def _comparison(sign: str) -> Any:
    def emit(builder: ir.IRBuilder, kind: types.Type, a: Any, b: Any) -> Any:
        if not isinstance(a.type, ir.IntType):
            compare = builder.fcmp_unordered if sign == "!=" else builder.fcmp_ordered
            return compare(sign, a, b)
        return builder.icmp_signed(sign, a, b)

    return emit


def _unsigned_comparison(sign: str) -> Any:
    def emit(builder: ir.IRBuilder, _: types.Type, a: Any, b: Any) -> Any:
        return builder.icmp_unsigned(sign, a, b)

    return emit


def _define_comparison(name: str, sign: str) -> None:
    ordered, unsigned = _comparison(sign), _unsigned_comparison(sign)

    def define(a: types.Type, b: types.Type) -> Any:
        kind = same(types.unliteral(a), types.unliteral(b))
        if kind is None:
            return None
        emit = ordered if isinstance(kind, types.Float) or signed(kind) else unsigned

        def build(builder: ir.IRBuilder, signature: Any, values: list[Any]) -> Any:
            return emit(builder, kind, *values)

        return types.boolean(kind, kind), build

    EMITTERS[name] = ordered
    define.__name__ = name
    define.__doc__ = f"``a {sign} b`` of equal types; false with NaN (``ne``: true)."
    word(define)


for _name, _sign in (
    ("eq", "=="), ("ne", "!="), ("lt", "<"), ("le", "<="), ("gt", ">"), ("ge", ">=")
):  # fmt: skip
    _define_comparison(_name, _sign)


def _booleans(*args: types.Type) -> types.Type | None:
    return types.boolean if set(args) == {types.boolean} else None


for _name, _builder in (("band", "and_"), ("bor", "or_"), ("bxor", "xor")):

    def _logic(builder: ir.IRBuilder, _: types.Type, a: Any, b: Any, method: str = _builder) -> Any:
        return getattr(builder, method)(a, b)

    simple(_name, f"Logical {_name[1:]} of booleans.", 2, _booleans, _logic)
simple("bnot", "Logical not.", 1, _booleans, _emit_invert)


def _pick_select(c: types.Type, a: types.Type, b: types.Type) -> types.Type | None:
    return same(a, b) if c == types.boolean else None


def _emit_select(builder: ir.IRBuilder, _: types.Type, c: Any, a: Any, b: Any) -> Any:
    return builder.select(c, a, b)


simple(
    "select", "``a`` where ``c`` holds, else ``b``; both are evaluated.", 3,
    _pick_select, _emit_select,
)  # fmt: skip


def _float_test(*args: types.Type) -> types.Type | None:
    return types.boolean if same_float(*args) else None


def _emit_isnan(builder: ir.IRBuilder, _: types.Type, a: Any) -> Any:
    return builder.fcmp_unordered("uno", a, a)


def _emit_isinf(builder: ir.IRBuilder, _: types.Type, a: Any) -> Any:
    size = call(builder, f"llvm.fabs.{suffix(a.type)}", a.type, [a])
    return builder.fcmp_ordered("==", size, ir.Constant(a.type, float("inf")))


simple("isnan", "Whether ``a`` is NaN.", 1, _float_test, _emit_isnan)
simple("isinf", "Whether ``a`` is plus or minus infinity.", 1, _float_test, _emit_isinf)


def _emit_sign(builder: ir.IRBuilder, kind: types.Type, a: Any) -> Any:
    """-1, 0 or 1; NaN stays NaN."""
    zero = ir.Constant(a.type, 0)
    if isinstance(a.type, ir.IntType):
        positive = builder.icmp_unsigned("!=", a, zero)
        one = ir.Constant(a.type, 1)
        result = builder.select(positive, one, zero)
        if not signed(kind):
            return result
        negative = builder.icmp_signed("<", a, zero)
        return builder.select(negative, ir.Constant(a.type, -1), result)
    unit = call(builder, f"llvm.copysign.{suffix(a.type)}", a.type, [ir.Constant(a.type, 1.0), a])
    return builder.select(builder.fcmp_unordered("ueq", a, zero), a, unit)


simple("sign", "-1, 0 or 1 in the type of ``a``; NaN stays NaN.", 1, same, _emit_sign)
