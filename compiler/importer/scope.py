"""Names in scope, and the order of nodes.

Each graph, subgraph and function body is a scope. A subgraph that becomes a region has a builder
of its own: a name found outside it is captured, that is, becomes an input of the region, except
for constants and sizes, which are written again inside. Nodes out of order are sorted by
depth-first search with an explicit stack; a cycle is reported by the names of its nodes.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from ...ir.builder import Builder
from ...ir.dims import Dim, sym
from ...ir.errors import EvonnxError, ModelError, quote
from ...ir.graph import Value, node_symbols
from ...ir.types import I64, TensorType, type_symbols
from ..messages import GraphProto, NodeProto
from .context import node_name
from .model import subgraphs

_MAX_SIZE_VECTOR = 64


class Poisoned(EvonnxError):
    """A value is unknown because the node that makes it could not be lowered (gap listing)."""


@dataclass(slots=True)
class Scope:
    """Values by name; ``parent`` is None for the main graph and for function bodies."""

    b: Builder
    parent: Scope | None = None
    values: dict[str, Value | None] = field(default_factory=dict)
    """None marks a name whose node could not be lowered."""
    captures: dict[Value, Value] = field(default_factory=dict)
    """Outer value -> region input, in the order of the region's inputs."""

    def find(self, name: str) -> Value:
        """The value called ``name`` as this scope sees it; raises ``ModelError``."""
        chain = [self]
        while name not in chain[-1].values:
            parent = chain[-1].parent
            if parent is None:
                raise ModelError(f"there is no value {quote(name)}")
            chain.append(parent)
        value = chain[-1].values[name]
        if value is None:
            raise Poisoned(f"value {quote(name)} is unknown")
        for inner, outer in zip(reversed(chain[:-1]), reversed(chain[1:]), strict=True):
            if inner.b is not outer.b:
                value = inner._capture(value, outer.b, name)
        return value

    def known(self, name: str) -> bool:
        """Whether ``find`` would find the name."""
        scope: Scope | None = self
        while scope is not None:
            if name in scope.values:
                return True
            scope = scope.parent
        return False

    def _capture(self, value: Value, outer: Builder, name: str) -> Value:
        found = self.captures.get(value)
        if found is not None:
            return found
        if value.node.op == "const":
            return self.b.const_ref(value.node.attrs["digest"], value.tensor)
        t = value.type
        if isinstance(t, TensorType) and t.dtype == I64 and t.rank <= 1:
            n = t.numel()
            if isinstance(n, int) and n <= _MAX_SIZE_VECTOR:
                sizes = outer.dims_value(value)
                if sizes is not None:
                    return self.b.dims(list(sizes.reshape(-1)), scalar=t.rank == 0)
        inner = self.b.input(f"{name[:60]}#{len(self.captures)}", t)
        self.captures[value] = inner
        return inner

    def close(self, outer_symbols: Iterable[str], outer: Builder, outputs: Sequence[Value]) -> None:
        """Binds, inside, every symbol of the surrounding graph that the region mentions and its
        inputs do not give, so that the region is a graph of its own."""
        given = {
            str(d) for v in self.b.inputs if isinstance(v.type, TensorType) for d in v.type.shape
        }
        bound = {n.attrs["name"] for n in self.b.nodes if n.op == "bind"}
        used: set[str] = set()
        for v in outputs:
            used |= type_symbols(v.type)
        for node in self.b.nodes:
            used |= node_symbols(node)
        for name in sorted((used & set(outer_symbols)) - given - bound):
            symbol: Dim = sym(name)
            size = outer.dims([symbol], scalar=True)
            inner = self.captures.get(size)
            if inner is None:
                inner = self.b.input(f"size.{name}#{len(self.captures)}", size.type)
                self.captures[size] = inner
            self.b.op("bind", inner, name=name)


def free_names(node: NodeProto) -> set[str]:
    """Names that the node's subgraphs, at any depth, take from around them."""
    used: set[str] = set()
    stack: list[tuple[GraphProto, frozenset[str]]] = [(g, frozenset()) for g in subgraphs(node)]
    while stack:
        graph, around = stack.pop()
        own = {v.name for v in graph.input} | {t.name for t in graph.initializer}
        own |= {t.values.name for t in graph.sparse_initializer}
        reads = {o.name for o in graph.output}
        for n in graph.node:
            own.update(n.output)
            reads.update(n.input)
        inner = around | own
        used |= reads - inner
        stack.extend((g, inner) for n in graph.node for g in subgraphs(n))
    used.discard("")
    return used


def ordered(nodes: Sequence[NodeProto], scope: Scope) -> list[NodeProto]:
    """The nodes in topological order (as they stand, where that is one already).

    Raises ``ModelError`` for a name that is made twice, is not made at all, or for a cycle."""
    producer: dict[str, int] = {}
    for i, node in enumerate(nodes):
        for name in node.output:
            if name and (name in producer or name in scope.values):
                raise ModelError(
                    f"value {quote(name)} is made twice, the second time by node {node_name(node)}"
                )
            if name:
                producer[name] = i
    reads = [_reads(node) for node in nodes]
    in_order = True
    for i, names in enumerate(reads):
        for name in names:
            at = producer.get(name)
            if at is None:
                if not scope.known(name):
                    raise ModelError(
                        f"node {node_name(nodes[i])} reads {quote(name)}, which is neither an"
                        " input, an initializer nor the output of a node"
                    )
            elif at >= i:
                in_order = False
    return list(nodes) if in_order else _sorted(nodes, reads, producer)


def _reads(node: NodeProto) -> list[str]:
    names = [name for name in node.input if name]
    if any(a.type in (5, 10) for a in node.attribute):  # GRAPH, GRAPHS
        names.extend(sorted(free_names(node)))
    return names


def _sorted(
    nodes: Sequence[NodeProto], reads: list[list[str]], producer: dict[str, int]
) -> list[NodeProto]:
    state = [0] * len(nodes)  # 0 new, 1 on the path, 2 done
    order: list[int] = []
    for root in range(len(nodes)):
        if state[root]:
            continue
        path = [(root, iter(reads[root]))]
        state[root] = 1
        while path:
            i, names = path[-1]
            step = next(
                (producer[n] for n in names if n in producer and state[producer[n]] < 2), None
            )
            if step is None:
                state[i] = 2
                order.append(i)
                path.pop()
            elif state[step] == 1:
                _report_cycle([j for j, _ in path], step, nodes)
            else:
                state[step] = 1
                path.append((step, iter(reads[step])))
    return [nodes[i] for i in order]


def _report_cycle(path: list[int], start: int, nodes: Sequence[NodeProto]) -> None:
    loop = path[path.index(start) :]
    shown = " -> ".join(node_name(nodes[i]) for i in [*loop[:8], loop[0]])
    more = f" (and {len(loop) - 8} more)" if len(loop) > 8 else ""
    raise ModelError(f"the graph has a cycle: {shown}{more}")
