"""Sixteen u2 in one register, for loops that do the same to sixteen genomes at once.

An array of *packs* is u2[16 * n], pack k in its elements 16 * k to 16 * k + 15. These are words for
compiled code; LLVM makes one instruction of each where the processor has vectors of 256 bits, and
two where it has 128.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic, models, register_model

PACK = 16
"""Numbers in a pack."""

_NUMBERS = ir.VectorType(ir.IntType(16), PACK)


class _Pack(types.Type):
    """A pack in a register."""

    def __init__(self) -> None:
        super().__init__(name="pack")


@register_model(_Pack)
class _PackModel(models.PrimitiveModel):
    def __init__(self, manager: Any, kind: _Pack) -> None:
        super().__init__(manager, kind, _NUMBERS)


_pack = _Pack()


def _place(context: Any, builder: ir.IRBuilder, kind: types.Type, array: Any, k: Any) -> Any:
    """The address of pack ``k`` of an array."""
    data = context.make_array(kind)(context, builder, array).data
    first = builder.gep(data, [builder.mul(k, ir.Constant(k.type, PACK))])
    return builder.bitcast(first, _NUMBERS.as_pointer())


@intrinsic
def load(typing, array, k):  # type: ignore[no-untyped-def]
    """Pack ``k``, a u8, of an array of packs."""

    def code(context, builder, signature, args):  # type: ignore[no-untyped-def]
        place = _place(context, builder, signature.args[0], *args)
        return builder.load(place, align=2)

    return _pack(array, types.uint64), code


@intrinsic
def store(typing, array, k, pack):  # type: ignore[no-untyped-def]
    """Writes pack ``k``, a u8, of an array of packs."""

    def code(context, builder, signature, args):  # type: ignore[no-untyped-def]
        place = _place(context, builder, signature.args[0], *args[:2])
        builder.store(args[2], place, align=2)
        return context.get_dummy_value()

    return types.void(array, types.uint64, _pack), code


@intrinsic
def zeros(typing):  # type: ignore[no-untyped-def]
    """A pack of zeros."""
    return _pack(), lambda context, builder, signature, args: ir.Constant(_NUMBERS, None)


@intrinsic
def larger(typing, one, two):  # type: ignore[no-untyped-def]
    """The larger number of each two."""

    def code(context, builder, signature, args):  # type: ignore[no-untyped-def]
        return builder.select(builder.icmp_unsigned(">", *args), *args)

    return _pack(_pack, _pack), code


@intrinsic
def where_same(typing, one, two, pack):  # type: ignore[no-untyped-def]
    """The numbers of ``pack`` where ``one`` and ``two`` are equal, else 0."""

    def code(context, builder, signature, args):  # type: ignore[no-untyped-def]
        return builder.select(builder.icmp_unsigned("==", *args[:2]), args[2],
                              ir.Constant(_NUMBERS, None))  # fmt: skip

    return _pack(_pack, _pack, _pack), code


@intrinsic
def where_differs(typing, one, two, other):  # type: ignore[no-untyped-def]
    """The numbers of ``one`` where it differs from ``two``, else those of ``other``."""

    def code(context, builder, signature, args):  # type: ignore[no-untyped-def]
        return builder.select(builder.icmp_unsigned("!=", *args[:2]), args[0], args[2])

    return _pack(_pack, _pack, _pack), code


@intrinsic
def even(typing, pack):  # type: ignore[no-untyped-def]
    """The numbers without their lowest bits."""

    def code(context, builder, signature, args):  # type: ignore[no-untyped-def]
        return builder.and_(args[0], ir.Constant(_NUMBERS, [0xFFFE] * PACK))

    return _pack(_pack), code


@intrinsic
def differ(typing, one, two):  # type: ignore[no-untyped-def]
    """1 where some of the numbers differ, else 0, as a u8."""

    def code(context, builder, signature, args):  # type: ignore[no-untyped-def]
        every = builder.bitcast(builder.icmp_unsigned("!=", *args), ir.IntType(PACK))
        some = builder.icmp_unsigned("!=", every, ir.Constant(every.type, 0))
        return builder.zext(some, ir.IntType(64))

    return types.uint64(_pack, _pack), code
