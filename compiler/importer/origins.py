"""Which inputs of the model a value or a size follows from.

Walks from values to their producers; a size that ``bind`` defines leads on to the value that it
is, an input of a region to the value around it that it captures.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from ...ir.builder import Builder
from ...ir.dims import Dim, Expr, free_symbols
from ...ir.graph import Value, attr_regions, node_symbols
from ...ir.ops import lookup
from ...ir.types import TensorType, Type, type_symbols
from ..needs import MAX_ELEMENTS

if TYPE_CHECKING:
    from .graphs import Importer

Place = tuple[Value, Builder]
"""A value and the builder it belongs to."""


def inputs_behind(
    importer: Importer, builder: Builder, wanted: Iterable[Value | Dim]
) -> tuple[str, ...]:
    """Names, in the model's order, of the small inputs that values and sizes in ``builder`` follow
    from; empty where they depend on anything else as well: a large input or its size, what a loop
    carries, random numbers."""
    found: dict[str, TensorType] = {}
    sizes: set[str] = set()
    made: set[str] = set()
    seen: set[Value] = set()
    stack: list[Place] = []

    def follow(symbols: Iterable[str]) -> None:
        for name in symbols:
            bound = importer.bound.get(name)
            if bound is None:
                sizes.add(name)
            else:
                stack.append(bound)

    for item in wanted:
        if isinstance(item, Value):
            stack.append((item, builder))
        elif isinstance(item, Expr):
            follow(free_symbols(item))
    while stack:
        v, b = stack.pop()
        if v in seen:
            continue
        seen.add(v)
        node = v.node
        if node.op == "input":
            outer = _outside(importer, v, b)
            if outer is not None:
                stack.append(outer)
            elif b in importer.regions or not _small(v.type):
                return ()
            else:
                found[node.attrs["name"]] = v.tensor
            continue
        if lookup(node.op).has("random"):
            return ()
        if attr_regions(node.attrs):
            made.update(*(type_symbols(t) for t in node.types))
        follow(node_symbols(node))
        stack.extend((o, b) for o in node.operands)
    known = made.union(*(type_symbols(t) for t in found.values()))
    names = (v.node.attrs["name"] for v in importer.main.inputs)
    return tuple(n for n in names if n in found) if sizes <= known else ()


def vectors_behind(importer: Importer, size: Dim) -> tuple[str, ...]:
    """Names of the integer vectors among the model's inputs whose lengths make up ``size``; empty
    where anything else does."""
    found: list[str] = []
    for symbol in free_symbols(size):
        names = [
            v.node.attrs["name"] for v in importer.main.inputs
            if isinstance(v.type, TensorType) and v.rank == 1 and v.dtype.is_integer
            and symbol in type_symbols(v.type)
        ]  # fmt: skip
        if not names or symbol in importer.bound:
            return ()
        found += names
    return tuple(dict.fromkeys(found))


def _outside(importer: Importer, value: Value, b: Builder) -> Place | None:
    """What a region's input captures from around it; None for any other input."""
    scope = importer.regions.get(b)
    if scope is None or scope.parent is None:
        return None
    outer = next((o for o, inner in scope.captures.items() if inner == value), None)
    return None if outer is None else (outer, scope.parent.b)


def _small(t: Type) -> bool:
    """Whether a program may be compiled for the value of an input of this type. A symbolic size
    is taken as small for vectors only; the feed itself is measured later."""
    if not isinstance(t, TensorType):
        return False
    count = t.numel()
    return count <= MAX_ELEMENTS if isinstance(count, int) else t.rank == 1
