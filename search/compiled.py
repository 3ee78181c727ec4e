"""What the compiled parts of the search have in common: decorators and two instructions.

Indices that are unsigned spare the test for a negative one that Numba makes of every other, so
inner loops index with ``u8``; a signed number must not meet one in arithmetic, which would make
both a float.
"""

from __future__ import annotations

from numba import njit, types
from numba.extending import intrinsic

compiled = njit(cache=True, nogil=True, error_model="numpy")
# What runs once per place is inlined: a call would copy and count all arrays of the problem.
inlined = njit(cache=True, nogil=True, error_model="numpy", forceinline=True)


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
