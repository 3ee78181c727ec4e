"""What the compiled parts of the search have in common: decorators and single instructions.

Numba counts references to every array that a function is given, atomically, and often cannot prove
that it need not: half of the time of an inner loop went there. A *leaf* allocates nothing and makes
no views of arrays (a slice is one), so it is compiled without counting.

Indices that are unsigned spare the test for a negative one that Numba makes of every other, so
inner loops index with ``u8``; a signed number must not meet one in arithmetic, which would make
both a float.
"""

from __future__ import annotations

from numba import njit, types
from numba.extending import intrinsic

compiled = njit(cache=True, nogil=True, error_model="numpy")
"""For functions that allocate."""
leaf = njit(cache=True, nogil=True, error_model="numpy", _nrt=False)
"""For functions that do not."""
inlined = njit(cache=True, nogil=True, error_model="numpy", _nrt=False, forceinline=True)
"""For leaves that run once per place: a call would copy all arrays of the problem."""


@intrinsic
def ones(typing, bits):  # type: ignore[no-untyped-def]
    """How many bits of a u8 are set: one instruction, which Numba has no name for."""

    def code(context, builder, signature, args):  # type: ignore[no-untyped-def]
        return builder.ctpop(args[0])

    return types.uint64(types.uint64), code


@intrinsic
def lowest(typing, bits):  # type: ignore[no-untyped-def]
    """Number of the lowest bit that is set in a u8, of which one is: one instruction."""

    def code(context, builder, signature, args):  # type: ignore[no-untyped-def]
        return builder.cttz(args[0], context.get_constant(types.boolean, True))

    return types.uint64(types.uint64), code


@intrinsic
def as_float(typing, bits):  # type: ignore[no-untyped-def]
    """The f8 with the bits of a u8."""

    def code(context, builder, signature, args):  # type: ignore[no-untyped-def]
        return builder.bitcast(args[0], context.get_value_type(types.float64))

    return types.float64(types.uint64), code


@intrinsic
def as_bits(typing, number):  # type: ignore[no-untyped-def]
    """The bits of an f8 as a u8."""

    def code(context, builder, signature, args):  # type: ignore[no-untyped-def]
        return builder.bitcast(args[0], context.get_value_type(types.uint64))

    return types.uint64(types.float64), code
