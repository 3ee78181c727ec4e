"""What passes ask about values again and again: scalar constants, arrays, private uses.

A *scalar constant* is a constant all of whose elements are equal; its value is looked up once per
digest and kept for as long as the table of constants lives.
"""

from __future__ import annotations

from weakref import WeakKeyDictionary

import numpy as np

from ..ir.dims import Dim
from ..ir.errors import EvonnxError
from ..ir.graph import Constants, Node, Value
from ..ir.types import TensorType

SCALAR_LIMIT = 65536
"""Constants with more elements are not examined for being all equal."""

_SCALARS: WeakKeyDictionary[Constants, dict[str, float | int | bool | None]] = WeakKeyDictionary()


class Refusal(EvonnxError):
    """A rewrite does not apply; the message is the reason. Never leaves the passes."""


def scalar_of(constants: Constants, value: Value | None) -> float | int | bool | None:
    """The number that every element of a constant equals, or None."""
    if value is None or value.node.op != "const":
        return None
    memo = _SCALARS.setdefault(constants, {})
    digest = value.node.attrs["digest"]
    if digest not in memo:
        memo[digest] = _uniform(constants, value)
    return memo[digest]


def _uniform(constants: Constants, value: Value) -> float | int | bool | None:
    t = value.type
    if not isinstance(t, TensorType) or t.dtype.kind not in "iubf" or t.dtype.bits < 8:
        return None
    count = t.numel()
    if not isinstance(count, int) or not 0 < count <= SCALAR_LIMIT:
        return None
    flat = constants.get(value.node.attrs["digest"]).reshape(-1)
    first = flat[0]
    if count > 1:
        raw = np.ascontiguousarray(flat).view(np.uint8).reshape(count, -1)
        if not np.array_equal(raw, np.broadcast_to(raw[0], raw.shape)):
            return None
    if t.dtype.kind == "b":
        return bool(first)
    return float(first) if t.dtype.is_float else int(first)


def array_of(constants: Constants, value: Value) -> np.ndarray:
    """The array of a constant, which is not kept in memory for it; raises ``Refusal`` for any other
    value."""
    if value.node.op != "const":
        raise Refusal(f"{value.node.op} is not a constant")
    return constants.read(value.node.attrs["digest"])


def is_const(value: Value | None) -> bool:
    """Whether the value is a constant of the table."""
    return value is not None and value.node.op == "const"


def inverse(perm: tuple[int, ...]) -> tuple[int, ...]:
    """The permutation that undoes ``perm``."""
    back = [0] * len(perm)
    for i, p in enumerate(perm):
        back[p] = i
    return tuple(back)


def is_identity(perm: tuple[int, ...]) -> bool:
    """Whether a permutation moves nothing."""
    return all(i == p for i, p in enumerate(perm))


def moves_only_units(perm: tuple[int, ...], shape: tuple[Dim, ...]) -> bool:
    """Whether a permutation of ``shape`` keeps the order of all axes whose size is not 1."""
    kept = [p for p in perm if shape[p] != 1]
    return kept == sorted(kept)


def describe(node: Node) -> str:
    """A node for messages: op, type and where it came from."""
    origin = f" from {node.origin[0]!r}" if node.origin else ""
    return f"{node.op} : {', '.join(str(t) for t in node.types)}{origin}"
