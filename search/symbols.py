"""What size every symbol of a graph counts as while schedules are priced.

A cost model needs numbers, and a model whose sizes are symbols has none before it is called. What
is not told (``expect``) is read off what the graph does with the axes that a symbol sizes:

============  ============  ===================================================================
a batch       ``BATCH``     nothing mixes along its axis: what is computed at one position needs
                            operands at no other; of several such axes of an input the first
image side    ``SIDE``      a convolution or pooling of two axes or more moves windows along it
samples       ``SAMPLES``   an input of floats has it and a batch, and nothing else: a signal
a sequence    ``SEQUENCE``  any other axis of an input: tokens, frames, nodes, a cache's entries
computed      ``COMPUTED``  no input has it: the model computes it while it runs
============  ============  ===================================================================

A batch is 1, since who waits for an answer has one question: with more, every core has work that
no call brings. Pictures are classified at 224, objects and lines of text detected from 320 on; a
signal is a second of speech. A sequence is short, since what is right for few rows is right for
many (in blocks of four rows all are whole), and not the other way round: the schedule for 32 is
within a percent of the best at any length from 8 to 512 (``bench/results``). Symbols of a shape
that would have no elements count twice as much, and so on.

Mixing is asked of the access maps (``ir.access``): a node mixes along an axis of an operand if it
reads it where it reduces, where memory says, or at positions that only a part of the result has (a
window, a concatenation, padding). What is read where memory says along a first axis that the result
has as well is taken for an ``arange``, and one number of several axes (a range, as quantization
needs it) for no relation. Of kernels without such a map it is known which axis they work along, and
that they leave the first one alone.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from functools import lru_cache
from itertools import count
from typing import NamedTuple

from ..ir.access import AccessMap, Gathered, Region
from ..ir.builder import Builder
from ..ir.dim_values import estimate
from ..ir.dims import Dim, free_symbols, free_vars, var
from ..ir.graph import Attrs, Graph, Node, attr_regions
from ..ir.ops import OpDef, lookup
from ..ir.ops.contraction import split_layout
from ..ir.types import TensorType, Type, type_symbols

BATCH, SIDE, SEQUENCE, SAMPLES, COMPUTED = 1, 256, 32, 1 << 14, 32
EXPECTED = "expected"
"""The role of a symbol whose size was told."""
_DOUBLED = 5
"""Times that the sizes are doubled, at most."""

Symbols = frozenset[str]
_NONE: Symbols = frozenset()


class Counted(NamedTuple):
    """What a symbol counts as, and why."""

    size: int
    role: str
    """``EXPECTED``, or what the graph says of its axes, in words."""


def symbols_of(graph: Graph) -> set[str]:
    """The symbols in the types of a graph's values."""
    return set().union(*(type_symbols(t) for t in _types(graph)))


def _types(graph: Graph) -> set[Type]:
    """The types of a graph's values that have symbols."""
    return {t for n in graph.nodes for t in n.types if type_symbols(t)}


def sizes_of(graph: Graph, expect: Mapping[str, int]) -> dict[str, int]:
    """A size for every symbol of the graph."""
    return {name: c.size for name, c in counted(graph, expect).items()}


def counted(graph: Graph, expect: Mapping[str, int]) -> dict[str, Counted]:
    """What every symbol of the graph counts as, by name: the size expected, or the one of its role
    (see the module)."""
    types, symbols = _types(graph), sorted(symbols_of(graph))
    open_ = [s for s in symbols if s not in expect]
    roles = _roles(graph) if open_ else {}
    found = {s: Counted(expect[s], EXPECTED) if s in expect
             else roles.get(s, Counted(COMPUTED, "computed by the model")) for s in symbols}
    dims = {d for t in types if isinstance(t, TensorType) for d in t.shape
            if not isinstance(d, int)}
    return _filled(found, dims, {s for s, c in found.items() if s in expect or c.size == BATCH})


def _filled(found: dict[str, Counted], dims: Collection[Dim], fixed: Collection[str]
            ) -> dict[str, Counted]:
    """Larger sizes, but for those of ``fixed``, where some of ``dims`` would have no elements."""
    tried = dict(found)
    for _ in range(_DOUBLED + 1):
        sizes = {s: c.size for s, c in tried.items()}
        short = _NONE.union(*(free_symbols(d) for d in dims if estimate(d, sizes) <= 0))
        if not short:
            return tried
        tried |= {s: tried[s]._replace(size=2 * tried[s].size) for s in short.difference(fixed)}
    return found


def _roles(graph: Graph) -> dict[str, Counted]:
    """What the symbols of the inputs count as."""
    mixed, sides = _uses(graph)
    inputs = [v.type for v in graph.inputs if isinstance(v.type, TensorType)]
    found: dict[str, Counted] = {}
    for t in inputs:
        for s in _ordered(t.shape):
            if s not in mixed:
                found[s] = Counted(BATCH, "a batch")
                break  # one of an input: what else nothing mixes along has any size
    for t in inputs:
        for s in _ordered(t.shape):
            if s in found:
                continue
            if s in sides:
                found[s] = Counted(SIDE, "the side of an image")
            elif all(_signal(other, s, found) for other in inputs if s in type_symbols(other)):
                found[s] = Counted(SAMPLES, "samples of a signal")
            else:
                found[s] = Counted(SEQUENCE, "the length of a sequence")
    return found


def _ordered(shape: Sequence[Dim]) -> list[str]:
    """Symbols of a shape, outermost first."""
    return list(dict.fromkeys(s for d in shape for s in sorted(free_symbols(d))))


def _signal(t: TensorType, symbol: str, known: Mapping[str, Counted]) -> bool:
    """Whether ``t`` is of floats and has, beside an axis of a batch, that of ``symbol`` alone."""
    others = [d for d in t.shape if symbol not in free_symbols(d)]
    return t.dtype.is_float and bool(others) and all(
        d == 1 or any(s in known and known[s].size == BATCH for s in free_symbols(d))
        for d in others)


def _uses(graph: Graph) -> tuple[Symbols, Symbols]:
    """(symbols along which something is mixed, those of the sides of images)."""
    mixed: set[str] = set()
    sides: set[str] = set()
    for node in graph.nodes:
        types = tuple(None if v is None else v.type for v in node.inputs)
        if not any(t is not None and type_symbols(t) for t in types):
            continue
        if lookup(node.op).has("control"):
            regions = attr_regions(node.attrs)
            for inner, also in map(_uses, regions):
                mixed |= inner
                sides |= also
            mixed |= _run_over(types, regions)
            continue
        mixed |= _mixed(node.op, types, node.attrs, node.types)
        first = types[0]
        if lookup(node.op).has("image") and isinstance(first, TensorType) and first.rank >= 4:
            _, spatial, _ = split_layout(first.shape, node.attrs["layout"])
            sides.update(*map(free_symbols, spatial))
    return frozenset(mixed), frozenset(sides)


@lru_cache(maxsize=1 << 12)
def _mixed(op: str, types: tuple[Type | None, ...], attrs: Attrs, results: tuple[Type, ...]
           ) -> Symbols:
    """Symbols along whose axes a node mixes elements of its operands."""
    definition = lookup(op)
    if definition.access is None and definition.expand is not None:
        b = Builder()
        inputs = tuple(None if t is None else b.input(f"x{k}", t) for k, t in enumerate(types))
        expanded = b.build({"y": definition.expand(b, inputs, attrs)}).nodes
        return _NONE.union(*map(_of_node, expanded))
    first = results[0]
    if definition.access is None or not isinstance(first, TensorType):
        return _apart_from_kept(definition, types, attrs, results)
    if definition.has("elementwise") or _rearranged(definition, types, first):
        return _NONE
    number = count()
    index = tuple(var(f"w{next(number)}", d) for d in first.shape)
    reads = definition.access(types, attrs, index, lambda d: var(f"w{next(number)}", d))
    if first.numel() == 1 and sum(extent != 1 for _, extent in reads.reduced) > 1:
        return _NONE  # a range of everything
    return _read_apart(reads, types, first)


def _of_node(node: Node) -> Symbols:
    types = tuple(None if v is None else v.type for v in node.inputs)
    return _mixed(node.op, types, node.attrs, node.types) if types else _NONE


def _rearranged(definition: OpDef, types: Sequence[Type | None], result: TensorType) -> bool:
    """Whether a node gives the elements of its operand and no others, in any order."""
    first = types[0]
    return (definition.has("movement") and not definition.has("gather") and len(types) == 1
            and isinstance(first, TensorType) and first.numel() == result.numel())


def _read_apart(reads: AccessMap, types: Sequence[Type | None], result: TensorType) -> Symbols:
    """Symbols of the axes that are read at more than the position of the result. The first axis is
    not where positions are read from memory, as many as it has: those of an ``arange``, mostly."""
    reduced = frozenset().union(*(free_vars(v) for v, _ in reads.reduced))
    found: set[str] = set().union(*(free_symbols(extent) for _, extent in reads.reduced))
    operands = [t for t in types if t is not None]
    for region in reads.regions:
        t = operands[region.operand]
        if isinstance(t, TensorType):
            for k, (position, extent) in enumerate(zip(region.index, t.shape, strict=True)):
                if isinstance(position, Gathered) and k == 0 and result.shape[:1] == (extent,):
                    continue
                if free_symbols(extent) and not _in_place(position, region, reduced):
                    found |= free_symbols(extent)
    return frozenset(found)


def _in_place(position: Dim | Gathered, region: Region, reduced: frozenset[str]) -> bool:
    """Whether an axis is read at a position of the result: that of one of its axes, wherever it
    lies."""
    if isinstance(position, Gathered):
        return False
    names = free_vars(position)
    parts = frozenset().union(*(free_vars(c.expr) for c in region.when))
    return not names & (reduced | parts)


def _run_over(types: Sequence[Type | None], regions: Sequence[Graph]) -> Symbols:
    """Symbols of the axes that regions are run over: they see the operands without them."""
    inside = _NONE.union(*(type_symbols(t) for g in regions for n in g.nodes for t in n.types))
    return _NONE.union(*(type_symbols(t) for t in types if t is not None)) - inside


def _apart_from_kept(definition: OpDef, types: Sequence[Type | None], attrs: Attrs,
                     results: Sequence[Type]) -> Symbols:
    """Symbols of a kernel that only says which axis it works along: all but that of the first axis,
    which most leave alone; those of the steps of a recurrence, which leaves all others alone."""
    given = [t for t in types if t is not None]
    every = _NONE.union(*map(type_symbols, given))
    first = given[0] if given else None
    if not isinstance(first, TensorType) or not first.rank or attrs.get("axis") == 0:
        return every
    if definition.has("recurrent"):
        return free_symbols(first.shape[0])
    size = first.shape[0]
    if definition.has("scatter"):
        left = given[1].shape[:1] == (size,)  # type: ignore[union-attr]  # indices
    else:
        left = any(not isinstance(t, TensorType) or size in t.shape for t in results)
    return every - free_symbols(size) if left else every
