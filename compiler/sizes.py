"""What must hold between sizes when symbols are bound, so that no kernel leaves its buffers.

Static sizes were checked by type inference. Where a symbol is involved, inference assumes what the
op requires; here every such assumption becomes a check that the runtime makes once per set of
input shapes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from ..ir.dim_functions import dmax, dmin, known_ge
from ..ir.dims import Dim, Expr
from ..ir.graph import Graph, Node
from ..ir.interp import expansion
from ..ir.ops import lookup
from ..ir.ops.contraction import split_layout
from ..ir.types import TensorType
from ..runtime.program import SizeCheck

Assumed = tuple[str, Dim, Dim]
"""Relation, and the sizes between which it holds; see ``SizeCheck``."""


def _equal(a: Dim, b: Dim) -> Iterator[Assumed]:
    if a != b:
        yield "equal", a, b


def _at_most(a: Dim, b: Dim) -> Iterator[Assumed]:
    if not known_ge(b, a):
        yield "at_most", a, b


def _elementwise(node: Node, types: list[TensorType]) -> Iterator[Assumed]:
    out = node.out.shape
    for t in types:
        for a, b in zip(t.shape, out[len(out) - t.rank :], strict=True):
            if a not in (1, b):
                yield "broadcast", a, b


def _dot(node: Node, types: list[TensorType]) -> Iterator[Assumed]:
    k = types[0].shape[-2 if node.attrs["ta"] else -1]
    yield from _equal(types[1].shape[-1 if node.attrs["tb"] else -2], k)
    out = node.out.shape[:-2]
    for t in types:
        batch = t.shape[:-2]
        for a, b in zip(batch, out[len(out) - len(batch) :], strict=True):
            if a not in (1, b):
                yield "broadcast", a, b


def _reshape(node: Node, types: list[TensorType]) -> Iterator[Assumed]:
    yield from _equal(types[0].numel(), node.out.tensor.numel())


def _slice(node: Node, types: list[TensorType]) -> Iterator[Assumed]:
    """First and last position of every axis lie inside it (an empty slice may start at its end)."""
    attrs = node.attrs
    for d, start, size, step in zip(types[0].shape, attrs["starts"], attrs["sizes"],
                                    attrs["steps"], strict=True):
        if all(isinstance(v, int) for v in (d, start, size)):
            continue
        reach = (size - 1) * step
        if step > 0:
            yield from _at_most(start + reach + 1, dmax(d, start + 1 - step))
        else:
            yield from _at_most(start + 1, dmax(d, 1))
            yield from _at_most(0, start + reach + 1)


def _pad(node: Node, types: list[TensorType]) -> Iterator[Assumed]:
    """An axis that is extended by its own elements has one."""
    if node.attrs["mode"] != "constant":
        for d, lo, hi in zip(types[0].shape, node.attrs["lo"], node.attrs["hi"], strict=True):
            yield from _at_most(dmin(lo + hi, 1), d)


def _concat(node: Node, types: list[TensorType]) -> Iterator[Assumed]:
    for t in types:
        for k, (a, b) in enumerate(zip(t.shape, node.out.shape, strict=True)):
            if k != node.attrs["axis"]:
                yield from _equal(a, b)


def _pool(node: Node, types: list[TensorType]) -> Iterator[Assumed]:
    """A window is no larger than the padded image."""
    for d in node.out.shape:
        yield from _at_most(0, d)


def _conv(node: Node, types: list[TensorType]) -> Iterator[Assumed]:
    yield from _pool(node, types)
    x, w = types
    layout = node.attrs["layout"]
    _, _, c = split_layout(x.shape, layout)
    per_group = w.shape[1] if layout == "first" else w.shape[-2]
    yield from _equal(per_group * node.attrs["groups"], c)


def _addresses(node: Node, axes: Iterable[Dim]) -> Iterator[Assumed]:
    """An axis along which elements are looked up has one, unless there is nothing to look up."""
    for d in axes:
        if not known_ge(d, 1):
            yield from _at_most(dmin(node.out.tensor.numel(), 1), d)


def _gather(node: Node, types: list[TensorType]) -> Iterator[Assumed]:
    yield from _addresses(node, (types[0].shape[node.attrs["axis"]],))


def _gather_elements(node: Node, types: list[TensorType]) -> Iterator[Assumed]:
    yield from _inside(node, types)
    yield from _gather(node, types)


def _inside(node: Node, types: list[TensorType]) -> Iterator[Assumed]:
    """Indices reach no further than the data, along the axes that they do not address."""
    for k, (a, b) in enumerate(zip(types[1].shape, types[0].shape, strict=True)):
        if k != node.attrs["axis"]:
            yield from _at_most(a, b)


def _scatter_elements(node: Node, types: list[TensorType]) -> Iterator[Assumed]:
    yield from _inside(node, types)
    for a, b in zip(types[1].shape, types[2].shape, strict=True):
        yield from _at_most(a, b)


def _gather_nd(node: Node, types: list[TensorType]) -> Iterator[Assumed]:
    data, index = types
    lead, depth = node.attrs["batch_dims"], index.shape[-1]
    for a, b in zip(index.shape[:lead], data.shape, strict=False):
        yield from _equal(a, b)
    assert isinstance(depth, int)
    yield from _addresses(node, data.shape[lead : lead + depth])


def _scatter_nd(node: Node, types: list[TensorType]) -> Iterator[Assumed]:
    data, index, updates = types
    depth = index.shape[-1]
    if isinstance(depth, int):
        want = (*index.shape[:-1], *data.shape[depth:])
        for a, b in zip(updates.shape, want, strict=True):
            yield from _equal(a, b)


def _topk(node: Node, types: list[TensorType]) -> Iterator[Assumed]:
    yield from _at_most(node.attrs["k"], types[0].shape[node.attrs["axis"]])


_CHECKS: dict[str, Callable[[Node, list[TensorType]], Iterator[Assumed]]] = {
    "dot": _dot, "reshape": _reshape, "slice": _slice, "concat": _concat, "conv": _conv,
    "gather": _gather, "gather_elements": _gather_elements, "scatter_elements": _scatter_elements,
    "gather_nd": _gather_nd, "scatter_nd": _scatter_nd, "topk": _topk, "expand": _elementwise,
    "pad": _pad, "pool": _pool, "pool_argmax": _pool,
}  # fmt: skip


def size_checks(graph: Graph) -> list[SizeCheck]:
    """Every assumption about symbolic sizes that the graph's nodes make."""
    found: dict[Assumed, str] = {}
    for node in graph.nodes:
        for relation, a, b in _assumed(node):
            if isinstance(a, Expr) or isinstance(b, Expr):
                found.setdefault((relation, a, b), f"{node.op} {'/'.join(node.origin)}"[:120])
    return [SizeCheck(*assumed, text) for assumed, text in found.items()]


def _assumed(node: Node) -> Iterator[Assumed]:
    """What one node assumes; a composite assumes what its expansion does."""
    types = [v.type for v in node.operands if isinstance(v.type, TensorType)]
    check = _CHECKS.get(node.op)
    if check is not None:
        yield from check(node, types)
    elif lookup(node.op).expand is not None:
        if len(types) > 1 and not all(t.is_static for t in types):
            for inner in expansion(node).nodes:
                yield from _assumed(inner)
    elif lookup(node.op).has("elementwise") and len(types) > 1:
        yield from _elementwise(node, types)
