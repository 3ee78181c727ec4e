"""Reductions, sorting and matrix products in ONNX."""

from __future__ import annotations

from onnx import helper

from ...ir.graph import Node
from ...ir.types import BOOL, F32, I32
from .context import Exporter, onnx_dtype, writes

_REDUCE = {"sum": "ReduceSum", "prod": "ReduceProd", "max": "ReduceMax", "min": "ReduceMin",
           "mean": "ReduceMean"}  # fmt: skip


@writes("reduce")
def _reduce(e: Exporter, node: Node, xs: list[str]) -> str:
    attrs, t = node.attrs, node.out.dtype
    if not attrs["axes"]:
        return str(e.emit("Identity", xs[0]))
    x = e.cast(xs[0], I32) if t == BOOL else xs[0]
    axes = e.literal(list(attrs["axes"]))
    y = e.emit(_REDUCE[attrs["kind"]], x, axes, keepdims=int(attrs["keepdims"]))
    return e.cast(y, BOOL) if t == BOOL else str(y)


@writes("argmax", "argmin")
def _arg(e: Exporter, node: Node, xs: list[str]) -> str:
    attrs = node.attrs
    op = "ArgMax" if node.op == "argmax" else "ArgMin"
    return str(
        e.emit(op, xs[0], axis=attrs["axis"], keepdims=int(attrs["keepdims"]),
               select_last_index=int(attrs["select_last"]))
    )  # fmt: skip


@writes("cumulate")
def _cumulate(e: Exporter, node: Node, xs: list[str]) -> str:
    attrs = node.attrs
    if attrs["kind"] == "sum":
        return str(
            e.emit("CumSum", xs[0], e.literal(attrs["axis"]), exclusive=int(attrs["exclusive"]),
                   reverse=int(attrs["reverse"]))
        )  # fmt: skip
    return _running_product(e, node, xs[0])


def _running_product(e: Exporter, node: Node, x: str) -> str:
    """A ``Scan`` whose state is the product so far."""
    attrs, t = node.attrs, node.out.tensor
    axis = attrs["axis"]
    rest = [d for k, d in enumerate(t.shape) if k != axis]
    ones = e.emit("Expand", e.literal(1, t.dtype), e.dims(rest))
    state, item, after, out = (e.fresh(n) for n in ("product", "element", "product", "item"))
    body_nodes = [
        helper.make_node("Mul", [state, item], [after], name=e.fresh("Mul")),
        helper.make_node("Identity", [state if attrs["exclusive"] else after], [out],
                         name=e.fresh("Identity")),
    ]  # fmt: skip
    kind = onnx_dtype(t.dtype)
    shape = [d if isinstance(d, int) else None for d in rest]
    body = helper.make_graph(
        body_nodes, e.fresh("body"),
        [helper.make_tensor_value_info(n, kind, shape) for n in (state, item)],
        [helper.make_tensor_value_info(n, kind, shape) for n in (after, out)],
    )  # fmt: skip
    back = [int(attrs["reverse"])]
    return str(
        e.emit("Scan", ones, x, outputs=2, body=body, num_scan_inputs=1, scan_input_axes=[axis],
               scan_output_axes=[axis], scan_input_directions=back, scan_output_directions=back)[1]
    )  # fmt: skip


@writes("topk")
def _topk(e: Exporter, node: Node, xs: list[str]) -> list[str]:
    attrs = node.attrs
    return list(
        e.emit("TopK", xs[0], e.dim(attrs["k"]), outputs=2, axis=attrs["axis"],
               largest=int(attrs["largest"]), sorted=int(attrs["sorted"]))
    )  # fmt: skip


@writes("dot")
def _dot(e: Exporter, node: Node, xs: list[str]) -> str:
    a, b = node.operands
    attrs, out = node.attrs, node.out.dtype
    names = [x if v.dtype == out else e.cast(x, out) for x, v in zip(xs, (a, b), strict=True)]
    flips = (attrs["ta"], attrs["tb"])
    if any(flips) and a.rank == b.rank == 2 and out == F32:
        return str(e.emit("Gemm", *names, transA=int(flips[0]), transB=int(flips[1])))
    for k, (v, flip) in enumerate(zip((a, b), flips, strict=True)):
        if flip:
            names[k] = e.transpose(names[k], [*range(v.rank - 2), v.rank - 1, v.rank - 2])
    return str(e.emit("MatMul", *names))


@writes("det")
def _det(e: Exporter, node: Node, xs: list[str]) -> str:
    return str(e.emit("Det", xs[0]))


@writes("inverse")
def _inverse(e: Exporter, node: Node, xs: list[str]) -> str:
    """An operator of ONNX Runtime: ONNX itself has none."""
    return str(e.emit("Inverse", xs[0], domain="com.microsoft"))
