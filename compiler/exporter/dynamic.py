"""Ops whose result size depends on data: ONNX returns them cut, the IR padded and with a count."""

from __future__ import annotations

from ...ir.graph import Node
from ...ir.types import I64, TensorType
from .context import Exporter, writes


def _padded(e: Exporter, node: Node, k: int, name: str) -> str:
    t = node.types[k]
    assert isinstance(t, TensorType)
    return e.padded_to(name, t.shape, t.rank)


def _length(e: Exporter, name: str, axis: int) -> str:
    """Size of one axis as an int64 scalar."""
    return str(e.emit("Squeeze", e.emit("Shape", name, start=axis, end=axis + 1)))


@writes("nonzero")
def _nonzero(e: Exporter, node: Node, xs: list[str]) -> list[str]:
    found = e.emit("NonZero", xs[0])
    return [_padded(e, node, 0, found), _length(e, found, 1)]


@writes("unique")
def _unique(e: Exporter, node: Node, xs: list[str]) -> list[str]:
    _, first, inverse, counts = e.emit(
        "Unique", xs[0], outputs=4, axis=0, sorted=int(node.attrs["sorted"])
    )
    return [
        _padded(e, node, 0, first), inverse, _padded(e, node, 2, counts), _length(e, first, 0),
    ]  # fmt: skip


@writes("nms")
def _nms(e: Exporter, node: Node, xs: list[str]) -> list[str]:
    limit = e.reshape(xs[2], [1]) if xs[2] else ""
    if limit and node.inputs[2] is not None and node.inputs[2].dtype != I64:
        limit = e.cast(limit, I64)
    bounds = [e.reshape(x, [1]) if x else "" for x in xs[3:]]
    rows = e.emit(
        "NonMaxSuppression", xs[0], xs[1], limit, *bounds,
        center_point_box=int(node.attrs["center"]),
    )  # fmt: skip
    return [_padded(e, node, 0, rows), _length(e, rows, 0)]
