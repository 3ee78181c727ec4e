"""If, Loop and Scan. ONNX subgraphs see the names around them, so a captured operand is not passed:
the region's input is the outer name. Sizes that a region takes from outside are computed there."""

from __future__ import annotations

from collections.abc import Sequence

from onnx import GraphProto, ValueInfoProto, helper

from ...ir.graph import Graph, Node, Value
from .context import Exporter, Scope, writes
from .model import value_info


def _region(
    e: Exporter, node: Node, region: Graph, own: int, captured: Sequence[str]
) -> GraphProto:
    """A subgraph whose first ``own`` inputs are its own and whose others are ``captured``."""
    outer = e.scope
    inner = Scope()
    for name, size in node.attrs["symbols"]:
        inner.symbols[name] = e.dim(size)
    e.scope = inner
    declared: list[ValueInfoProto] = []
    for v in region.inputs[:own]:
        inner.names[v] = e.fresh("state")
        declared.append(value_info(inner.names[v], v.type))
    inner.names.update(zip(region.inputs[own:], captured, strict=True))
    e.define([(v.type, inner.names[v]) for v in region.inputs], known=True)
    for each in region.nodes:
        if each.op != "input":
            e.write(each, region.constants)
    outputs = [_output(e, v) for _, v in region.outputs]
    e.scope = outer
    return helper.make_graph(inner.nodes, e.fresh("body"), declared, outputs)


def _output(e: Exporter, v: Value) -> ValueInfoProto:
    """A result of its own: ONNX wants each produced inside the subgraph, and once."""
    name = e.emit("Identity", e.scope.names[v])
    return value_info(name, v.type)


def _names(result: object) -> list[str]:
    return [result] if isinstance(result, str) else list(result)  # type: ignore[call-overload]


@writes("if")
def _if(e: Exporter, node: Node, xs: list[str]) -> list[str]:
    split = 1 + node.attrs["split"]
    then = _region(e, node, node.attrs["then"], 0, xs[1:split])
    other = _region(e, node, node.attrs["else_"], 0, xs[split:])
    count = len(node.types)
    return _names(e.emit("If", xs[0], outputs=count, then_branch=then, else_branch=other))


@writes("loop")
def _loop(e: Exporter, node: Node, xs: list[str]) -> list[str]:
    carried = node.attrs["carried"]
    body = _region(e, node, node.attrs["body"], 2 + carried, xs[2 + carried :])
    return _names(e.emit("Loop", *xs[: 2 + carried], outputs=len(node.types), body=body))


@writes("scan")
def _scan(e: Exporter, node: Node, xs: list[str]) -> list[str]:
    own = node.attrs["carried"] + node.attrs["sequences"]
    body = _region(e, node, node.attrs["body"], own, xs[own:])
    return _names(
        e.emit("Scan", *xs[:own], outputs=len(node.types), body=body,
               num_scan_inputs=node.attrs["sequences"])
    )  # fmt: skip
