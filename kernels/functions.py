"""Source text of scalar functions, over the words of ``scalar`` and ``vectormath``.

What an element type is in a register is said in ``words``. Arithmetic of float16 and bfloat16 is
float32 arithmetic whose result is rounded, so that a number does not depend on what was fused with
what; floats of at most 8 bits are decoded before and encoded after. Values that are only moved keep
their bits.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ..ir.elements import Ex
from ..ir.errors import CompileError
from ..ir.ranges import of_element
from ..ir.types import BF16, BOOL, C128, F16, F32, F64, I64, U32, U64, DType

_FLOAT_FN = {
    "add": "{0} + {1}", "sub": "{0} - {1}", "mul": "{0} * {1}", "div": "{0} / {1}",
    "max": "fmax({0}, {1})", "min": "fmin({0}, {1})", "mod": "fmod({0}, {1})",
    "fmod": "ffmod({0}, {1})", "pow": "pow({0}, {1})", "neg": "neg({0})", "abs": "fabs({0})",
    "round": "rint({0})", "relu": "fmax({0}, {zero})", "reciprocal": "{one} / {0}",
}  # fmt: skip
_INT_FN = {
    "add": "iadd({0}, {1})", "sub": "isub({0}, {1})", "mul": "imul({0}, {1})",
    "div": "idiv({0}, {1})", "mod": "imod({0}, {1})", "fmod": "ifmod({0}, {1})",
    "pow": "ipow({0}, {1})", "max": "imax({0}, {1})", "min": "imin({0}, {1})",
    "neg": "neg({0})", "abs": "iabs({0})", "sign": "sign({0})", "relu": "imax({0}, {zero})",
    "bitand": "iand({0}, {1})", "bitor": "ior({0}, {1})", "bitxor": "ixor({0}, {1})",
    "bitnot": "inot({0})", "shl": "ishl({0}, {1})", "shr": "ishr({0}, {1})",
}  # fmt: skip
_BOOL_FN = {
    "and": "band({0}, {1})", "or": "bor({0}, {1})", "xor": "bxor({0}, {1})", "not": "bnot({0})",
    "max": "bor({0}, {1})", "min": "band({0}, {1})", "eq": "bnot(bxor({0}, {1}))",
}  # fmt: skip
_WHOLE = frozenset({"neg", "abs", "sign", "max", "min", "relu", "floor", "ceil", "round", "fmod"})
"""Functions of halves whose result is one: there is nothing to round."""
ACCUMULATE = {
    "f": {"sum": "radd", "prod": "rmul", "max": "fmax", "min": "fmin"},
    "i": {"sum": "iadd", "prod": "imul", "max": "imax", "min": "imin"},
    "u": {"sum": "iadd", "prod": "imul", "max": "imax", "min": "imin"},
    "b": {"max": "bor", "min": "band"},
}
"""Kind of an element type -> kind of a reduction -> the word that combines two values."""


def register_dtype(dtype: DType) -> str:
    """The type a value of ``dtype`` has in a register, or computes in."""
    return "f32" if dtype in (F16, BF16) or dtype.is_coded else dtype.name


def carried(ex: Ex) -> bool:
    """Whether the value is an element of memory, or a constant, that nothing was done to."""
    if ex.kind == "fn" and ex.data[0] in ("select", "bitcast"):
        return all(carried(a) for a in ex.args[ex.data[0] == "select":])
    return ex.kind in ("load", "const") or ex.kind == "guard" and all(map(carried, ex.args))


def as_bits(ex: Ex) -> Ex:
    """A carried value as the bits it is stored as: NaN and their payloads survive any move."""
    code = ex.dtype.code
    if ex.kind == "fn" and ex.data[0] == "bitcast":
        return as_bits(ex.args[0])
    if ex.kind == "fn":
        return Ex("fn", code, (ex.args[0], *map(as_bits, ex.args[1:])), ex.data)
    if ex.kind == "const":
        return Ex("const", code, (), int(np.asarray(ex.data).astype(ex.dtype.np).view(code.np)))
    return Ex(ex.kind, code, tuple(map(as_bits, ex.args)), ex.data)


def rounds(ex: Ex) -> bool:
    """Whether the result of a function has more digits in its register than its type."""
    if ex.dtype in (F16, BF16):
        return ex.data[0] not in _WHOLE
    return ex.dtype.is_coded or ex.dtype.is_integer and ex.dtype.bits < 8


def limited(ex: Ex) -> bool:
    """Whether a cast converts a float whose range is within int32 to an integer of at most 32 bits,
    as quantization does: nothing has to be limited then."""
    if not ex.dtype.is_integer or ex.dtype in (U32, I64, U64) or ex.args[0].dtype not in (F32, F64):
        return False
    return within_int32(ex.args[0])


def within_int32(ex: Ex) -> bool:
    """Whether the numbers that a float may be are within int32; NaN is none."""
    return of_element(ex).within(-(2.0**31), 2.0**31 - 128)


def pattern(ex: Ex) -> str:
    """Source of a constant that is held as its bits."""
    array = np.asarray(ex.data).astype(ex.dtype.np).reshape(1)
    words = array.view(U64.np if ex.dtype == C128 else ex.dtype.code.np)
    texts = [f"{DType.of(words.dtype)}({int(w)})" for w in words]
    return texts[0] if len(texts) == 1 else f"pair({', '.join(texts)})"


def arithmetic(ex: Ex, args: list[str], constant: Callable[[Ex], str]) -> str:
    """Source of a function of numbers in registers; ``constant`` names one that it needs."""
    name, attrs = ex.data
    source = ex.args[0].dtype
    if name in ("lt", "le", "eq") and source != BOOL:
        return f"{name}({args[0]}, {args[1]})"
    kind = F32 if source.is_coded else source
    if name == "isinf":
        if not any(attrs):
            return "bool_(0)"
        big = "inf" if attrs == (True, False) else "-inf" if attrs == (False, True) else ""
        if not big:
            return f"isinf({args[0]})"
        return f"eq({args[0]}, {constant(Ex('const', kind, (), float(big)))})"
    table = _BOOL_FN if source == BOOL else _FLOAT_FN if source.is_float else _INT_FN
    template = table.get(name)
    if template is None:
        if not source.is_float:
            raise CompileError(f"no scalar code for {name} of {source}")
        template = f"{name}({{0}})"
    if name == "pow" and ex.args[1].dtype != source:
        args = [args[0], f"{register_dtype(source)}({args[1]})"]
    extra = {}
    if "{zero}" in template:
        extra["zero"] = constant(Ex("const", kind, (), 0))
    if "{one}" in template:
        extra["one"] = constant(Ex("const", kind, (), 1))
    return template.format(*args, **extra)
