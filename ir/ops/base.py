"""``OpDef``, the registry, and the helpers that op declarations share."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

from ..access import AccessMap, FreshVar
from ..dim_functions import bcast
from ..dims import Dim, product
from ..errors import ModelError, VerifyError
from ..types import TensorType, Type

if TYPE_CHECKING:
    from ..builder import Builder
    from ..graph import Value

Attributes = Mapping[str, Any]
Infer = Callable[[tuple[Any, ...], Attributes], tuple[Type, ...]]
"""(operand types, None where absent; attributes) -> result types; raises ``ModelError``."""
Reference = Callable[[Sequence[Any], Attributes, tuple[Type, ...]], tuple[Any, ...]]
"""(operand arrays; attributes with all sizes as ints; result types) -> result arrays."""
Access = Callable[[tuple[Any, ...], Attributes, tuple[Dim, ...], FreshVar], AccessMap]
"""(operand types; attributes; output position; fresh loop variables) -> reads."""
Expand = Callable[["Builder", tuple[Any, ...], Attributes], "Value"]
"""Builds the op from core ops."""


@dataclass(frozen=True, slots=True)
class Work:
    """What one execution costs: ``flops`` scalar operations (C), ``nbytes`` moved (D)."""

    flops: Dim
    nbytes: Dim


@dataclass(frozen=True, slots=True)
class OpDef:
    """One op of the IR."""

    name: str
    arity: tuple[int, int | None]
    """Smallest and largest number of operands (None: any)."""
    infer: Infer
    """Result types from operand types."""
    reference: Reference | None
    """NumPy meaning; None for ops the interpreter treats itself (sources, regions)."""
    traits: frozenset[str]
    """elementwise, movement, gather, reduction, contraction, window, scan, sort, scatter, source,
    recurrent, control, dynamic, composite, host, opaque (own kernel), commutative, random; phased:
    outputs a stride apart read alike, those between them other elements of the constants."""
    access: Access | None = None
    """Access map; None where only whole operands describe what is read (opaque kernels)."""
    flops_per_element: int = 1
    """Scalar operations per output element (per reduced element for reductions)."""
    expand: Expand | None = None
    """Composites: the same value in core ops."""
    doc: str = ""
    """One line for people."""
    attrs: tuple[str, ...] = field(default=())
    """Names of the attributes; all but those in ``OPTIONAL`` are required."""
    work_fn: Callable[[tuple[Any, ...], Attributes, tuple[Any, ...]], Work] | None = None
    """C and D where the general rule does not fit (recurrences, trees)."""

    def has(self, trait: str) -> bool:
        return trait in self.traits

    def infer_types(self, inputs: tuple[Any, ...], attrs: Attributes) -> tuple[Type, ...]:
        """Result types for operand values; checks arity, attribute names and that no size is
        negative."""
        low, high = self.arity
        if len(inputs) < low or (high is not None and len(inputs) > high):
            raise ModelError(f"{self.name} takes {self.arity} operands, got {len(inputs)}")
        unknown = set(attrs) - set(self.attrs)
        if unknown:
            raise VerifyError(f"{self.name} has no attribute {sorted(unknown)}")
        found = self.infer(tuple(None if v is None else v.type for v in inputs), attrs)
        for t in found:
            if isinstance(t, TensorType) and any(isinstance(d, int) and d < 0 for d in t.shape):
                raise ModelError(f"{self.name}: the result would be {t}")
        return found

    def work(self, operands: tuple[Any, ...], attrs: Attributes, results: tuple[Type, ...]) -> Work:
        """C and D of one execution with operands and results in memory."""
        if self.work_fn is not None:
            return self.work_fn(operands, attrs, results)
        tensors = [t for t in (*operands, *results) if isinstance(t, TensorType)]
        nbytes: Dim = 0
        for t in tensors:
            nbytes = nbytes + t.nbytes()
        first = next((t for t in results if isinstance(t, TensorType)), None)
        if first is None or self.has("movement") or self.has("source"):
            return Work(0, nbytes)
        points = first.numel()
        if self.access is not None and not self.has("elementwise"):
            counter = iter(range(1_000_000))
            from ..dims import var

            position = tuple(var(f"w{next(counter)}", d) for d in first.shape)
            amap = self.access(operands, attrs, position, lambda e: var(f"w{next(counter)}", e))
            points = points * product(e for _, e in amap.reduced)
        elif self.access is None:
            points = points + sum_dims(
                t.numel() for t in operands if isinstance(t, TensorType)
            )
        return Work(points * self.flops_per_element, nbytes)


OPTIONAL = frozenset({"acc", "safe"})
"""Attributes that may be left out: the accumulator's dtype, attention's care for empty rows."""

OPS: dict[str, OpDef] = {}
"""The table."""


def register(op: OpDef) -> OpDef:
    """Adds a declaration; a name is declared once."""
    if op.name in OPS:
        raise VerifyError(f"op {op.name} is declared twice")
    OPS[op.name] = op
    return op


def lookup(name: str) -> OpDef:
    """The declaration of ``name``; raises ``VerifyError``."""
    found = OPS.get(name)
    if found is None:
        raise VerifyError(f"there is no op {name!r} in the table")
    return found


def sum_dims(dims: Any) -> Dim:
    """Sum of sizes."""
    total: Dim = 0
    for d in dims:
        total = total + d
    return total


@lru_cache(maxsize=1 << 12)
def broadcast_shapes(*shapes: tuple[Dim, ...]) -> tuple[Dim, ...]:
    """NumPy broadcasting of symbolic shapes; raises ``ModelError``."""
    rank = max((len(s) for s in shapes), default=0)
    result: list[Dim] = []
    for axis in range(rank):
        size: Dim = 1
        for s in shapes:
            k = axis - (rank - len(s))
            if k >= 0:
                try:
                    size = bcast(size, s[k])
                except ModelError as e:
                    raise ModelError(f"shapes {shapes} do not broadcast: {e}") from None
        result.append(size)
    return tuple(result)


def tensor(t: Any, op: str, what: str = "operand") -> TensorType:
    """``t`` as a tensor type, or a ``ModelError`` that says which operand is not one."""
    if not isinstance(t, TensorType):
        raise ModelError(f"{op}: {what} must be a tensor, got {t}")
    return t


def exact(fn: Callable[..., np.ndarray]) -> Callable[..., np.ndarray]:
    """Runs a NumPy function with its floating-point warnings off: IEEE results are the contract."""

    def quiet(*args: Any) -> np.ndarray:
        with np.errstate(all="ignore"):
            return fn(*args)

    return quiet
