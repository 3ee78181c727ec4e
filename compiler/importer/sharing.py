"""Which inputs really share a named size.

ONNX says that dimensions with one name have one size, but many files name dimensions carelessly
(two inputs called ``width`` of 256 and 8), and other runtimes do not look. So names are trusted
only where the model relies on them: the model is imported once with every occurrence a symbol of
its own; occurrences whose symbols meet in a node (operands, results or attributes) belong
together; the others stay apart. Sizes that do meet must agree, whatever they are called.
"""

from __future__ import annotations

from collections.abc import Callable, Collection

from ...ir.errors import EvonnxError
from ...ir.graph import Graph, node_symbols
from ...ir.types import type_symbols
from ..messages import GraphProto
from .types import Occurrence, SizeNames


def occurrences(graph: GraphProto, skip: Collection[str]) -> dict[str, list[Occurrence]]:
    """Where each size name occurs among the inputs, for names that occur in several inputs."""
    found: dict[str, list[Occurrence]] = {}
    for info in graph.input:
        if info.name in skip:
            continue
        for axis, d in enumerate(info.type.tensor_type.shape.dim):
            if d.dim_param:
                found.setdefault(d.dim_param, []).append((info.name, axis))
    return {p: at for p, at in found.items() if len({name for name, _ in at}) > 1}


def share(
    graph: GraphProto, skip: Collection[str], attempt: Callable[[SizeNames], Graph]
) -> dict[tuple[str, Occurrence], int]:
    """Group number of each occurrence of a name whose occurrences do not all belong together;
    empty where the names can be taken as they are."""
    named = occurrences(graph, skip)
    if not named:
        return {}
    apart = {(p, at): k for p, places in named.items() for k, at in enumerate(places)}
    sizes = SizeNames(groups=apart)
    try:
        imported = attempt(sizes)
    except EvonnxError:
        return {}  # the model needs its names to be understood
    result: dict[tuple[str, Occurrence], int] = {}
    for param, places in named.items():
        groups = _groups(imported, [sizes.symbol(param, at) for at in places])
        if len(set(groups)) > 1:
            result.update({(param, at): g for at, g in zip(places, groups, strict=True)})
    return result


def _groups(graph: Graph, symbols: list[str]) -> list[int]:
    """For each symbol the number of its group: symbols that meet in a node are together."""
    group = list(range(len(symbols)))
    number = {s: i for i, s in enumerate(symbols)}
    for node in graph.nodes:
        mentioned = set(node_symbols(node))
        for v in node.operands:
            mentioned |= type_symbols(v.type)
        if node.op == "input":
            continue
        meet = sorted({group[number[s]] for s in mentioned if s in number})
        for other in meet[1:]:
            group = [meet[0] if g == other else g for g in group]
    return group
