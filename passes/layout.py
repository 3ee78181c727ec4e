"""Channels-last images from end to end.

Every convolution, transposed convolution and pool is computed channels-last, but for small pools
along lines that stand alone: two transposes would cost more than they do. The transposes this
takes are not inserted but carried along: a value may be known as ``Turned(v, perm)``, meaning
``transpose(v, perm)``, and each following op is computed on ``v`` in the order it has, as long as
the op can be (elementwise ops, joins, cuts, reductions, reshapes whose blocks of axes stay whole,
softmax, gathers, norms over groups of channels with the reshapes around them). Only where an op
needs the logical order is the transpose written down. A transpose that the model brings along is
carried, too. So a network of convolutions keeps one transpose at its entry and at most one at its
exit, and exporters' own channels-first/last conversions cancel.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from ..ir.builder import Builder, copy_node
from ..ir.dims import Dim, product
from ..ir.graph import Attrs, Graph, Node, Value
from ..ir.ops import OPS
from .evaluate import fold_tree
from .facts import Refusal, inverse, is_const, is_identity, moves_only_units, scalar_of
from .group_norms import group_norm, groups_as_rows
from .reshape_blocks import turned_reshape

IMAGE_OPS = frozenset({"conv", "conv_transpose", "pool"})
WIDTH = 32
"""Pixels of a line from which on a pool may go along it."""
TAPS = 9
"""Pixels of a window that are few."""
Perm = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Turned:
    """The value ``transpose(value, perm)``: logical axis ``i`` is axis ``perm[i]`` of ``value``."""

    value: Value
    perm: Perm


def to_channels_last(graph: Graph, fired: Counter[str] | None = None) -> Graph:
    """``graph`` with every image op channels-last; unchanged if it has none that is not."""
    if not any(needs_turn(n) for n in graph.nodes):
        return graph
    return _Layout(graph, fired if fired is not None else Counter()).run()


def needs_turn(node: Node) -> bool:
    """Whether the node is an image op in channels-first layout."""
    return node.op in IMAGE_OPS and node.attrs["layout"] == "first"


def images_are_last(graph: Graph) -> bool | str:
    """Postcondition: no image op is channels-first that would gain by being turned."""
    bad = next((n for n in graph.nodes if needs_turn(n) and not goes_along_lines(n)), None)
    return bad is None or f"{bad.op} is still channels-first"


def goes_along_lines(node: Node) -> bool:
    """Whether the node is a pool of few neighbors whose lines, as they are, fill vectors."""
    if node.op != "pool":
        return False
    a, width = node.attrs, node.out.shape[-1]
    taps = product(a["kernel"])
    return isinstance(width, int) and width >= WIDTH and isinstance(taps, int) and (
        taps <= TAPS and a["strides"][-1] == 1)


def _transparent(op: str) -> bool:
    """Ops that can be computed in any order of the axes."""
    return OPS[op].has("elementwise") or op in (
        "concat", "slice", "pad", "transpose", "reshape", "expand", "gelu", "reduce", "softmax",
    )  # fmt: skip


def leading_to_images(graph: Graph) -> frozenset[Value]:
    """Values from which an image op is reached through transparent ops."""
    found: set[Value] = set()
    for node in reversed(graph.nodes):
        if needs_turn(node):
            found.add(node.operands[0])
        elif _transparent(node.op) and any(v in found for v in node.outputs):
            found.update(v for v in node.operands if v.node.op != "const")
    return frozenset(found)


class _Layout:
    """One run over one graph."""

    def __init__(self, graph: Graph, fired: Counter[str]) -> None:
        self.graph, self.fired = graph, fired
        self.builder = Builder(graph.constants)
        self.known: dict[Value, Value | Turned] = {}
        self.rows: dict[Value, Turned] = {}
        """Values [N, G, C / G * pixels] that are reshapes of images, groups of channels in rows:
        the images. What a norm needs of them is computed on the images; that they are known plainly
        as well costs nothing where nobody asks."""
        self.wanted = leading_to_images(graph)

    def run(self) -> Graph:
        for v in self.graph.inputs:
            self.builder.adopt(v.node)
            self.known[v] = v
        for node in self.graph.nodes:
            if node.op == "input":
                continue
            self.builder.default_origin = node.origin
            outs = self.turned(node)
            if outs is None:
                outs = self.plainly(node)
            for old, new in zip(node.outputs, outs, strict=True):
                self.known[old] = new
        self.builder.default_origin = ()
        return self.builder.build([(name, self.plain(v)) for name, v in self.graph.outputs])

    # -- values in an order --------------------------------------------------------------------

    def plain(self, old: Value) -> Value:
        """The value in its logical order."""
        found = self.known[old]
        return found if isinstance(found, Value) else self.transpose(found.value, found.perm)

    def transpose(self, v: Value, perm: Perm) -> Value:
        if is_identity(perm):
            return v
        if moves_only_units(perm, v.shape):
            shape = tuple(v.shape[p] for p in perm)
            result = self.builder.op("reshape", v, shape=shape)
        else:
            result = self.builder.op("transpose", v, perm=perm)
        if is_const(v):
            try:
                return fold_tree(self.builder, result)
            except Refusal:
                pass
        assert isinstance(result, Value)
        return result

    def ordered(self, old: Value, perm: Perm) -> Value:
        """The array ``a`` with ``transpose(a, perm)`` equal to the value. A value of lower rank
        (broadcasting) gets leading axes of size 1 first."""
        found = self.known[old]
        back = inverse(perm)
        if isinstance(found, Turned):
            own = extended(found.perm, len(perm))
            value = self.with_rank(found.value, len(perm))
            return self.transpose(value, tuple(own[i] for i in back))
        value = self.with_rank(found, len(perm))
        return self.transpose(value, back)

    def with_rank(self, v: Value, rank: int) -> Value:
        if v.rank == rank:
            return v
        shape = (*(1,) * (rank - v.rank), *v.shape)
        result = self.builder.op("reshape", v, shape=shape)
        assert isinstance(result, Value)
        return fold_tree(self.builder, result) if is_const(v) else result

    def stands_alone(self, node: Node) -> bool:
        """Whether the node is a small pool between values in their logical order."""
        return goes_along_lines(node) and node.out not in self.wanted and isinstance(
            self.known[node.operands[0]], Value)

    # -- nodes ---------------------------------------------------------------------------------

    def plainly(self, node: Node) -> tuple[Value, ...]:
        inputs = tuple(None if v is None else self.plain(v) for v in node.inputs)
        if inputs == node.inputs:
            return self.builder.adopt(node).outputs
        return copy_node(self.builder, node, inputs)

    def turned(self, node: Node) -> tuple[Value | Turned, ...] | None:
        """The node's results computed in another order, or None where the logical order is
        needed (or nothing is turned)."""
        if needs_turn(node) and not self.stands_alone(node):
            return (self.image(node),)
        if node.op == "transpose":
            return self.model_transpose(node)
        if (image := self.in_rows(node)) is not None:
            return (image,)
        if not any(isinstance(self.known.get(v), Turned) for v in node.operands):
            return None
        if OPS[node.op].has("elementwise") or node.op == "gelu":
            return self.elementwise(node)
        handler = _HANDLERS.get(node.op)
        if handler is None:
            return None
        first = self.known[node.operands[0]]
        if node.op == "concat":
            return self.concat(node)
        if not isinstance(first, Turned):
            return None
        result = handler(self, node, first)
        return None if result is None else tuple(settle(r) for r in result)

    def make(
        self, node: Node, inputs: Sequence[Value | None], **attrs: object
    ) -> tuple[Value, ...]:
        """The node's op on other operands, with some attributes replaced."""
        merged = Attrs({**node.attrs, **attrs}.items())
        return self.builder.node(node.op, inputs, merged, node.origin).outputs

    def image(self, node: Node) -> Turned:
        self.fired[f"layout {node.op}"] += 1
        r = node.out.rank
        perm = channels_last(r)
        inputs: list[Value | None] = [self.ordered(node.operands[0], perm)]
        if node.op == "conv":
            w = self.plain(node.operands[1])
            inputs.append(self.transpose(w, (*range(2, r), 1, 0)))
        elif node.op == "conv_transpose":
            inputs.append(self.plain(node.operands[1]))
        return Turned(self.make(node, inputs, layout="last")[0], perm)

    def in_rows(self, node: Node) -> Turned | None:
        """Follows an image through a reshape to ``rows``, a norm and what it is scaled by, all of
        which is noted in ``rows``; answers the image where a reshape leads back to it."""
        if not node.operands or len(node.outputs) != 1:
            return None
        source, rest = node.operands[0], node.inputs[1:]
        rows, image = self.rows.get(source), self.known[source]
        if rows is None:
            if node.op == "reshape" and isinstance(image, Turned) and groups_as_rows(
                    source.shape, node.out.shape) and image.perm == channels_last(len(image.perm)):
                self.rows[node.out] = image
        elif node.op == "reshape":
            logical = tuple(rows.value.shape[p] for p in rows.perm)
            return rows if node.out.shape == logical else None
        elif node.op == "layer_norm" and node.attrs["axis"] == 2:
            operands, groups = [None if v is None else self.plain(v) for v in rest], source.shape[1]
            assert isinstance(groups, int)
            y = group_norm(self.builder, node, operands, rows.value, groups)
            if y is not None:
                self.fired["layout group norm"] += 1
                self.rows[node.out] = Turned(y, rows.perm)
        elif OPS[node.op].has("elementwise") and all(
                v is not None and v.rank == 0 and isinstance(self.known[v], Value) for v in rest):
            self.rows[node.out] = Turned(
                self.make(node, [rows.value, *map(self.plain, node.operands[1:])])[0], rows.perm)
        return None

    def model_transpose(self, node: Node) -> tuple[Value | Turned, ...] | None:
        source, q = self.known[node.operands[0]], node.attrs["perm"]
        if isinstance(source, Turned):
            perm = tuple(source.perm[i] for i in q)
            return (settle(Turned(source.value, perm)),)
        if is_const(source):
            return None
        return (settle(Turned(source, q)),)

    def elementwise(self, node: Node) -> tuple[Value | Turned, ...] | None:
        rank = node.out.rank
        turned = [v for v in node.operands if isinstance(self.known[v], Turned)]
        lead = next((v for v in turned if v.shape == node.out.shape), None)
        if lead is None:
            lead = max(turned, key=lambda v: v.rank)
        straight = [v for v in node.operands if v not in turned and not self.is_cheap(v, node.out)]
        if straight and node.out not in self.wanted:
            return None
        source = self.known[lead]
        assert isinstance(source, Turned)
        perm = extended(source.perm, rank)
        inputs = [v if v is None else self.operand(v, perm) for v in node.inputs]
        return (Turned(self.make(node, inputs)[0], perm),)

    def is_cheap(self, v: Value, out: Value) -> bool:
        """Whether turning the operand costs nothing that matters: a constant, one axis only."""
        return is_const(v) or sum(d != 1 for d in v.shape) <= 1 or v.rank < out.rank

    def operand(self, old: Value, perm: Perm) -> Value:
        """An elementwise operand in the order of the result, leading ones cut off constants."""
        known = self.known[old]
        if isinstance(known, Value) and known.rank == 0:
            return known
        v = self.ordered(old, perm)
        if is_const(v):
            shape = v.shape
            while shape and shape[0] == 1:
                shape = shape[1:]
            if len(shape) < v.rank - 1 or not shape:
                return fold_tree(self.builder, self.builder.op("reshape", v, shape=shape))
        return v

    def concat(self, node: Node) -> tuple[Value | Turned, ...] | None:
        turned = [s for v in node.operands if isinstance(s := self.known[v], Turned)]
        straight = len(node.operands) - len(turned)
        if straight > len(turned) and node.out not in self.wanted:
            return None
        perm = Counter(s.perm for s in turned).most_common(1)[0][0]
        inputs = [self.ordered(v, perm) for v in node.operands]
        return (Turned(self.make(node, inputs, axis=perm[node.attrs["axis"]])[0], perm),)


# -- single ops --------------------------------------------------------------------------------

def settle(v: Value | Turned) -> Value | Turned:
    """A turned value whose order is the logical one is a plain value."""
    return v.value if isinstance(v, Turned) and is_identity(v.perm) else v


def channels_last(rank: int) -> Perm:
    """The order of the logical axes [N, C, pixels...] of an image stored as [N, pixels..., C]."""
    return (0, rank - 1, *range(1, rank - 1))


def extended(perm: Perm, rank: int) -> Perm:
    """A permutation with untouched leading axes put in front."""
    k = rank - len(perm)
    return (*range(k), *(p + k for p in perm))


def _moved(perm: Perm, items: Sequence[Dim]) -> tuple[Dim, ...]:
    """A value per logical axis, put in physical order."""
    back = inverse(perm)
    return tuple(items[i] for i in back)


def _slice(run: _Layout, node: Node, x: Turned) -> tuple[Value | Turned, ...]:
    attrs = {k: _moved(x.perm, node.attrs[k]) for k in ("starts", "sizes", "steps")}
    return (Turned(run.make(node, [x.value], **attrs)[0], x.perm),)


def _pad(run: _Layout, node: Node, x: Turned) -> tuple[Value | Turned, ...]:
    attrs = {k: _moved(x.perm, node.attrs[k]) for k in ("lo", "hi")}
    value = run.plain(node.operands[1])
    return (Turned(run.make(node, [x.value, value], **attrs)[0], x.perm),)


def _expand(run: _Layout, node: Node, x: Turned) -> tuple[Value | Turned, ...]:
    shape = node.out.shape
    perm = extended(x.perm, len(shape))
    return (Turned(run.make(node, [x.value], shape=_moved(perm, shape))[0], perm),)


def _without(perm: Perm, axes: Sequence[int]) -> Perm:
    """The permutation that is left when logical ``axes`` go."""
    kept = [p for i, p in enumerate(perm) if i not in axes]
    order = sorted(kept)
    return tuple(order.index(p) for p in kept)


def _reduce(run: _Layout, node: Node, x: Turned) -> tuple[Value | Turned, ...]:
    axes = node.attrs["axes"]
    made = run.make(node, [x.value], axes=tuple(sorted(x.perm[a] for a in axes)))[0]
    keep = node.attrs["keepdims"]
    return (Turned(made, x.perm if keep else _without(x.perm, axes)),)


def _along_axis(run: _Layout, node: Node, x: Turned) -> tuple[Value | Turned, ...]:
    axis = node.attrs["axis"]
    made = run.make(node, [x.value], axis=x.perm[axis])
    drop = not node.attrs.get("keepdims", True)
    perm = _without(x.perm, (axis,)) if drop else x.perm
    return tuple(Turned(v, perm) for v in made)


def _norm(run: _Layout, node: Node, x: Turned) -> tuple[Value | Turned, ...]:
    """A norm over the last axes as stored stays one; over others (the pixels of an image) it is
    written in core ops, which reduce any axes."""
    axis, rank = node.attrs["axis"], len(x.perm)
    if x.perm[axis:] == tuple(range(axis, rank)):
        rest = [None if v is None else run.plain(v) for v in node.inputs[1:]]
        return (Turned(run.make(node, [x.value, *rest])[0], x.perm),)
    b, axes = run.builder, tuple(sorted(x.perm[axis:]))
    if node.op == "layer_norm" and axis == 2 and x.perm == (0, rank - 2, rank - 1,
                                                           *range(1, rank - 2)):
        grouped = _grouped(run, node, x)
        if grouped is not None:
            return (grouped,)
    d = x.value
    if node.op == "layer_norm":
        d = b.op("sub", d, b.op("reduce", d, kind="mean", axes=axes, keepdims=True))
    square = b.op("reduce", b.op("mul", d, d), kind="mean", axes=axes, keepdims=True)
    deviation = b.op("sqrt", b.op("add", square, node.attrs["eps"]))
    y = b.op("mul", d, b.op("reciprocal", deviation))
    scale, *bias = (v for v in node.inputs[1:] if v is not None)
    known = run.known[scale]
    if isinstance(known, Turned) or scalar_of(b.constants, known) != 1:
        y = b.op("mul", y, run.operand(scale, x.perm))
    for v in bias:
        y = b.op("add", y, run.operand(v, x.perm))
    return (Turned(y, x.perm),)


def _grouped(run: _Layout, node: Node, x: Turned) -> Turned | None:
    """A norm over groups [N, G, C / G, pixels...] of an image stored channels-last."""
    *outer, groups, per = x.value.shape
    if not isinstance(groups, int) or not isinstance(per, int) or per == 1:
        return None
    image = run.builder.op("reshape", x.value, shape=(*outer, groups * per))
    rest = [None if v is None else run.plain(v) for v in node.inputs[1:]]
    y = group_norm(run.builder, node, rest, image, groups)
    if y is None:
        return None
    run.fired["layout group norm"] += 1
    return Turned(run.builder.op("reshape", y, shape=x.value.shape), x.perm)


def _gather(run: _Layout, node: Node, x: Turned) -> tuple[Value | Turned, ...]:
    axis, index = node.attrs["axis"], run.plain(node.operands[1])
    at, extra = x.perm[axis], index.rank - 1
    made = run.make(node, [x.value, index], axis=at)[0]

    def shifted(p: int) -> int:
        return p if p < at else p + extra

    perm = (
        *(shifted(p) for p in x.perm[:axis]),
        *range(at, at + index.rank),
        *(shifted(p) for p in x.perm[axis + 1 :]),
    )
    return (Turned(made, perm),)


def _reshape(run: _Layout, node: Node, x: Turned) -> tuple[Value | Turned, ...] | None:
    plan = turned_reshape(node.operands[0].shape, node.out.shape, x.perm)
    if plan is None:
        return None
    source = x.value
    if not is_identity(plan.before):
        if node.out not in run.wanted:
            return None
        source = run.transpose(x.value, plan.before)
    made = run.builder.op("reshape", source, shape=plan.shape)
    if moves_only_units(plan.perm, plan.shape):
        return (run.builder.op("reshape", made, shape=node.out.shape),)
    return (Turned(made, plan.perm),)


_HANDLERS = {
    "concat": _slice, "slice": _slice, "pad": _pad, "expand": _expand, "reduce": _reduce,
    "softmax": _along_axis, "log_softmax": _along_axis, "cumulate": _along_axis,
    "argmax": _along_axis, "argmin": _along_axis, "topk": _along_axis,
    "layer_norm": _norm, "rms_norm": _norm, "gather": _gather, "reshape": _reshape,
}  # fmt: skip
"""How single ops are computed on a turned first operand (``concat`` has a method)."""
