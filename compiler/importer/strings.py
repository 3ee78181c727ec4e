"""Operations on tensors of strings: what no kernel can run becomes a host step.

Lowerings build the same ops for strings as for numbers. Afterwards every op that reads or makes
strings is replaced by the host step ``string_op``, which runs the op's own reference; the sizes
that its attributes name are one more operand.
"""

from __future__ import annotations

from ...ir.builder import Builder, rebuild
from ...ir.dims import sym
from ...ir.graph import Attrs, Graph, Node, Value, attr_symbols
from ...ir.ops import lookup
from ...ir.ops.host import result_spec
from ...ir.types import TensorType

_KEPT = frozenset({"input", "const", "host", "bind"})


def _handles_strings(node: Node) -> bool:
    if node.op in _KEPT or lookup(node.op).has("control"):
        return False
    types = (*(v.type for v in node.operands), *node.types)
    return any(isinstance(t, TensorType) and t.dtype.kind == "s" for t in types)


def host_strings(graph: Graph) -> Graph:
    """The graph with every op on strings as a host step; ``graph`` itself if it has none."""
    if not any(map(_handles_strings, graph.nodes)):
        return graph
    return rebuild(graph, _step)


def _step(b: Builder, node: Node, inputs: tuple[Value | None, ...]) -> tuple[Value, ...] | None:
    if not _handles_strings(node):
        return None
    attrs = {k: v for k, v in node.attrs.items() if k not in ("results", "symbols")}
    names = tuple(sorted(frozenset().union(*map(attr_symbols, attrs.values()))))
    sizes = (b.dims([sym(n) for n in names]),) if names else ()
    params = (("attrs", tuple(sorted(attrs.items()))), ("op", node.op), ("sizes", names))
    host = Attrs({
        "kind": "string_op", "params": params,
        "results": tuple(result_spec(t) for t in node.types),
    }.items())  # fmt: skip
    return b.node("host", (*inputs, *sizes), host, node.origin, node.types).outputs
