"""The nest: the small description between a group of nodes and its source.

A nest is a list of domains; a domain is a space of parallel tiles and, per tile, an ordered list of
steps. A step is a loop nest with a body of stores and accumulations over an expression DAG of loads
with affine (or gathered) positions and scalar functions, or a call of a micro-kernel. Emitters read
nests and nothing else; a nest carries no name of a model.

All positions are ``Dim`` expressions over loop variables and sizes, counted in elements of a dense
buffer.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

from ..ir.access import Cond
from ..ir.axes import Axis
from ..ir.dims import Dim
from ..ir.elements import Ex, Gather, map_dims
from ..ir.types import DType


@dataclass(frozen=True, slots=True)
class Store:
    """``buffer[position] = value``."""

    buffer: int
    position: Dim
    value: Ex


@dataclass(frozen=True, slots=True)
class Accumulate:
    """Combines ``value`` into a local scalar, or into ``buffer[position]`` where given."""

    kind: str
    """sum, prod, max or min."""
    value: Ex
    local: str = ""
    buffer: int = -1
    position: Dim = 0


@dataclass(frozen=True, slots=True)
class Claim:
    """Asks for the cache line of ``buffer[position]``, which is written soon."""

    buffer: int
    position: Dim


@dataclass(frozen=True, slots=True)
class Loop:
    """Nested loops around a body; ``guard`` skips the innermost body where it does not hold."""

    axes: tuple[Axis, ...]
    body: tuple[Store | Accumulate | Claim, ...]
    init: tuple[tuple[str, Ex], ...] = ()
    """Local scalars set before the loops (accumulators)."""
    finish: tuple[tuple[str, Ex], ...] = ()
    """Local scalars set after the loops (the mean of a sum)."""
    guard: tuple[Cond, ...] = ()
    independent: bool = False
    """Whether no iteration of the innermost loop touches what another one writes, though one buffer
    is written at several positions: then they need no comparison when the kernel runs."""


@dataclass(frozen=True, slots=True)
class Address:
    """The address of ``buffer[position]`` as an argument of a call."""

    buffer: int
    position: Dim


@dataclass(frozen=True, slots=True)
class Call:
    """Calls the micro-kernel with symbol ``name`` with addresses, sizes (0 for no address) and
    constants, inside ``axes``."""

    name: str
    args: tuple[Address | Dim | Ex, ...]
    axes: tuple[Axis, ...] = ()


@dataclass(frozen=True, slots=True)
class SetRows:
    """Fills a table of row addresses, ``table[k] = condition ? address : zeros``, for a
    micro-kernel that reads its rows indirectly."""

    axes: tuple[Axis, ...]
    table: int
    position: Dim
    address: Address
    conds: tuple[Cond, ...]
    zeros: int
    """Buffer of zeros that stands for padding."""
    fixed: bool = False
    """Whether its axes are as long in every layer: their lengths are written into the source."""


@dataclass(frozen=True, slots=True)
class Nested:
    """Steps inside sequential loops of one tile."""

    axes: tuple[Axis, ...]
    steps: tuple[Step, ...]
    lets: tuple[tuple[Dim, Dim], ...] = ()
    """(variable, value): positions computed once per iteration."""


Step = Loop | Call | SetRows | Nested


@dataclass(frozen=True, slots=True)
class Domain:
    """A space of parallel tiles. Tile ``t`` covers ``rows_per_tile`` consecutive points of the
    row-major space of ``rows``."""

    rows: tuple[Axis, ...]
    steps: tuple[Step, ...]
    rows_per_tile: Dim = 1
    lets: tuple[tuple[Dim, Dim], ...] = ()


@dataclass(frozen=True, slots=True)
class BufferDecl:
    """A buffer the kernel is called with: ``in``, ``out``, or a piece of the thread's scratch."""

    role: str
    dtype: DType
    size: Dim = 0
    """Elements (scratch only)."""


@dataclass(frozen=True, slots=True)
class Nest:
    """Everything an emitter needs to know about one group."""

    buffers: tuple[BufferDecl, ...]
    domains: tuple[Domain, ...]
    gathers: dict[str, Gather] = field(default_factory=dict)
    shared: bool = False
    """Whether short loops take their length as a parameter too: the work is in micro-kernels, and
    one source should serve as many layers as it can."""
    literals: frozenset[int] = frozenset()
    """Sizes that are numbers in the source, however large: widths of panels, short reduced rows."""
    masked: bool = False
    """Whether float32 that is read under conditions is read under masks: its loops become vectors
    then (``vector_loops``)."""
    unrolled: bool = False
    """Whether a shared nest keeps the lengths of short loops all the same (window loops)."""


def substitute_body(
    item: Store | Accumulate, fn: Callable[[Dim], Dim], memo: dict[Ex, Ex]
) -> Store | Accumulate:
    """A store or accumulation with its positions rewritten."""
    return replace(item, position=fn(item.position), value=map_dims(item.value, fn, memo))


def called(nest: Nest) -> tuple[str, ...]:
    """Symbols of the micro-kernels that a nest calls."""
    found: dict[str, None] = {}
    stack: list[Step] = [step for domain in nest.domains for step in domain.steps]
    while stack:
        step = stack.pop()
        if isinstance(step, Call):
            found[step.name] = None
        elif isinstance(step, Nested):
            stack.extend(step.steps)
    return tuple(found)
