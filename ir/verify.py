"""Invariants of a graph; an error shows the lines of IR around the fault.

Checked, in this order, for the graph and every region inside it: nodes unique and after what they
depend on; operands exist; ops known, arity, attribute names; constants in the table and of their
type; types equal to what inference says (where results do not depend on data); symbols defined
before they are used, and once; inputs and outputs named uniquely.
"""

from __future__ import annotations

from .dim_values import substitute
from .dims import Expr, free_symbols, is_static, sym
from .errors import EvonnxError, VerifyError
from .graph import Graph, Node, attr_regions, attr_symbols
from .ops import OPS
from .ops.base import OPTIONAL
from .types import DType, TensorType, type_symbols

_AROUND = 4
"""Lines shown before and after a fault."""


def verify(graph: Graph, *, outer: frozenset[str] = frozenset()) -> Graph:
    """``graph`` itself, if every invariant holds; else ``VerifyError``.

    ``outer`` are symbols that are defined around the graph (for regions)."""
    _signature(graph)
    seen: set[Node] = set()
    symbols, bound = _given(graph, outer)
    for node in graph.nodes:
        try:
            _node(graph, node, seen, symbols, bound)
        except EvonnxError as e:
            raise _shown(graph, node, str(e)) from e
        seen.add(node)
    for name, v in graph.outputs:
        if v.node not in seen or v.index >= len(v.node.types):
            raise _shown(graph, None, f"output {name!r} is not a value of the graph")
    return graph


def _given(graph: Graph, outer: frozenset[str]) -> tuple[set[str], set[str]]:
    """(symbols whose sizes the inputs determine or that ``outer`` gives, those that no ``bind``
    may define again: sizes of their own)."""
    sizes = [d for v in graph.inputs if isinstance(v.type, TensorType) for d in v.type.shape]
    plain = {n for d in sizes for n in free_symbols(d) if d == sym(n)} | outer
    known = set(plain)
    for d in sizes:
        for name in free_symbols(d) - known:
            slope = substitute(d, {name: 1}) - substitute(d, {name: 0})
            line = substitute(d, {name: 0}) + slope * sym(name)
            if free_symbols(d) - known == {name} and line == d and is_static(slope):
                known.add(name)
    return known, set(plain)


def _signature(graph: Graph) -> None:
    if len(graph.index) != len(graph.nodes):
        twice = next(n for i, n in enumerate(graph.nodes) if graph.index[n] != i)
        raise _shown(graph, twice, "this node is in the list twice")
    declared = [n for n in graph.nodes if n.op == "input"]
    if {v.node for v in graph.inputs} != set(declared) or len(graph.inputs) != len(declared):
        raise _shown(graph, None, "the graph's inputs are not exactly its input nodes")
    for names, what in ((graph.input_names, "input"), (graph.output_names, "output")):
        if len(set(names)) != len(names):
            twice_named = next(n for n in names if names.count(n) > 1)
            raise _shown(graph, None, f"two {what}s are called {twice_named!r}")


def _node(graph: Graph, node: Node, seen: set[Node], symbols: set[str], bound: set[str]) -> None:
    op = OPS.get(node.op)
    if op is None:
        raise VerifyError(f"there is no op {node.op!r} in the table")
    for k, v in enumerate(node.inputs):
        if v is None:
            continue
        if v.node not in seen:
            where = "later" if v.node in graph.index else "not in the graph"
            raise VerifyError(f"operand {k} is computed {where}")
        if not 0 <= v.index < len(v.node.types):
            raise VerifyError(f"operand {k} is output {v.index} of {len(v.node.types)}")
    for key, value in node.attrs.items():
        _attr(key, value)
    low, high = op.arity
    if len(node.inputs) < low or (high is not None and len(node.inputs) > high):
        raise VerifyError(f"{node.op} takes {op.arity} operands, got {len(node.inputs)}")
    if unknown := sorted(set(node.attrs) - set(op.attrs)):
        raise VerifyError(f"{node.op} has no attribute {', '.join(unknown)}")
    if missing := sorted(set(op.attrs) - set(node.attrs) - OPTIONAL):
        raise VerifyError(f"{node.op} lacks attribute {', '.join(missing)}")
    _types(graph, node)
    _symbols(node, symbols, bound)
    for region in attr_regions(node.attrs):
        verify(region, outer=frozenset(name for name, _ in node.attrs.get("symbols", ())))


def _attr(key: str, value: object) -> None:
    if isinstance(value, tuple):
        for v in value:
            _attr(key, v)
    elif value is not None and not isinstance(
        value, (int, float, str, bool, bytes, Expr, DType, Graph)
    ):
        raise VerifyError(f"attribute {key} holds a {type(value).__name__}")


def _types(graph: Graph, node: Node) -> None:
    """The declared types are those that inference gives."""
    op = OPS[node.op]
    if node.op == "input":
        if len(node.types) != 1:
            raise VerifyError("an input has one type")
        return
    if node.op == "const":
        _constant(graph, node)
        return
    if op.has("host"):
        return
    try:
        inferred = op.infer_types(node.inputs, node.attrs)
    except (KeyError, TypeError, ValueError, IndexError) as e:
        raise VerifyError(f"{node.op}: types cannot be inferred: {e}") from None
    if inferred != node.types:
        said, found = (", ".join(str(t) for t in ts) for ts in (node.types, inferred))
        raise VerifyError(f"the type says {said}, inference says {found}")


def _constant(graph: Graph, node: Node) -> None:
    digest = node.attrs.get("digest")
    t = node.types[0] if len(node.types) == 1 else None
    if not isinstance(digest, str) or not isinstance(t, TensorType) or not t.is_static:
        raise VerifyError("a constant has a digest and one tensor type of known sizes")
    if digest not in graph.constants:
        raise VerifyError(f"constant {digest[:16]} is not in the table")
    array = graph.constants.peek(digest)
    if array is not None and (array.shape != t.shape or DType.of(array.dtype) != t.dtype):
        raise VerifyError(f"constant {digest[:16]} is {array.dtype}{list(array.shape)}, not {t}")


def _symbols(node: Node, symbols: set[str], bound: set[str]) -> None:
    """Attributes use only symbols that are known; ``bind``, ops whose result sizes only the run
    decides, and region ops define new ones."""
    op = OPS[node.op]
    defines = op.has("control") or op.has("dynamic") or op.has("host")
    used = frozenset().union(
        *(attr_symbols(v) for k, v in node.attrs.items() if not (defines and k == "results"))
    )
    if unknown := sorted(used - symbols):
        raise VerifyError(f"symbol {unknown[0]} is used before it is defined")
    if node.op == "bind":
        name = node.attrs["name"]
        if name in bound:
            raise VerifyError(f"symbol {name} is defined twice")
        bound.add(name)
        symbols.add(name)
    if node.op == "input":
        return  # a ``bind`` below may define what its sizes mention
    for t in node.types:
        fresh = type_symbols(t) - symbols
        if fresh and not defines:
            raise VerifyError(f"symbol {min(fresh)} is used before it is defined")
        symbols |= fresh


def _shown(graph: Graph, node: Node | None, message: str) -> VerifyError:
    """``message`` with the lines around ``node``, which is marked."""
    from .text import namer, node_lines

    name = namer(graph)
    if node is None:
        outputs = ", ".join(f"{n!r} = {name(v)}" for n, v in graph.outputs)
        shown = message + f"\n    inputs: {', '.join(map(repr, graph.input_names))[:400]}"
        return VerifyError(f"{shown}\n    outputs: {outputs[:400]}")
    at = graph.index.get(node, 0)
    rows = []
    for k in range(max(at - _AROUND, 0), min(at + _AROUND + 1, len(graph.nodes))):
        mark = "--> " if graph.nodes[k] is node else "    "
        try:
            lines = list(node_lines(graph.nodes[k], name, graph.constants))
        except EvonnxError as e:
            lines = [f"{name(graph.nodes[k].out)} = {graph.nodes[k].op} ({e})"]
        rows.append(mark + lines[0][:300] + (" ..." if len(lines) > 1 else ""))
    return VerifyError(message + "\n" + "\n".join(rows))
