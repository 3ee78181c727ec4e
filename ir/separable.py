"""A depthwise convolution and the pointwise (1x1) one behind it in one kernel (together they are a
depthwise separable convolution: L. Sifre, 2014): where such a group is cut, and what makes it one.

The group is cut where its second contraction reads the left operand. Both halves are groups around
one contraction (``contraction``), each with what is computed behind it; the value between them lies
in scratch, a few lines of the image at a time, a row per pixel. So it may have no other reader, and
every row of the product has to be the channels of the pixel with the same number: a line of pixels
is then a block of rows. Nothing is computed twice.
"""

from __future__ import annotations

from dataclasses import dataclass

from .access import linear_index
from .builder import Builder, copy_node
from .contraction import ContractionSpace
from .dims import Dim, product
from .elements import Refused, is_reduction
from .graph import Graph, Node, Value
from .ops import lookup
from .tiles import SCRATCH_ROW, Space


@dataclass(frozen=True, slots=True)
class Halves:
    """The two parts of a group."""

    window: Graph
    """The depthwise convolution: the group's inputs, and one output, the value between."""
    product: Graph
    """The pointwise one: the group's inputs and, as the last, the value between; its outputs."""


@dataclass(frozen=True, slots=True)
class Lines:
    """The value between the halves."""

    count: Dim
    """Lines of pixels, of all images."""
    width: int
    """Pixels of a line."""
    channels: int
    """float32 elements of a pixel."""


class SeparableSpace:
    """A depthwise convolution and the pointwise one behind it. Raises ``Refused`` for groups of two
    contractions that are something else."""

    def __init__(self, graph: Graph) -> None:
        self.halves = cut(graph)
        self.window = ContractionSpace(Space(self.halves.window))
        self.product = ContractionSpace(Space(self.halves.product))
        self.lines = _lines_between(self.window)
        _check_rows(self.product, self.lines.channels)


def cut(graph: Graph) -> Halves:
    """The halves of a group that ``ir.groups.extract`` cut out, if the left operand of its second
    contraction is all that it takes from the first."""
    nodes = [n for n in graph.nodes if is_reduction(n)]
    if len(nodes) != 2 or not all(lookup(n.op).has("contraction") for n in nodes):
        raise Refused("no kernel holds these reductions")
    first, second = nodes
    between = second.operands[0]
    before = _needed(between)
    if first not in before:
        raise Refused("two contractions, neither of which is the left operand of the other")
    outside = [n for n in graph.nodes if n not in before]
    taken = {v for n in outside for v in n.operands if v.node in before
             and v.node.op not in ("input", "const")}
    if taken != {between} or not graph.output_values.isdisjoint(
            [v for n in before for v in n.outputs]):
        raise Refused("what lies between two contractions is needed besides")
    if second.operands.count(between) != 1 or graph.users(between) != (second,):
        raise Refused("what lies between two contractions is read at two places")
    window, known = _copied(graph, [n for n in graph.nodes if n in before], None)
    product, later = _copied(graph, outside, between)
    return Halves(window.build([("y0", known[between])]),
                  product.build([(name, later[v]) for name, v in graph.outputs]))


def _needed(value: Value) -> set[Node]:
    """Everything that a value is computed from."""
    found: set[Node] = set()
    stack = [value.node]
    while stack:
        node = stack.pop()
        if node not in found:
            found.add(node)
            stack.extend(v.node for v in node.operands)
    return found


def _copied(graph: Graph, nodes: list[Node], between: Value | None
            ) -> tuple[Builder, dict[Value, Value]]:
    """A builder with the inputs of a group, ``between`` as the last where there is one, its
    constants and a part of its nodes."""
    b = Builder(graph.constants)
    mapping = {v: b.input(f"x{k}", v.type) for k, v in enumerate(graph.inputs)}
    if between is not None:
        mapping[between] = b.input(f"x{len(graph.inputs)}", between.type)
    constants = [n for n in graph.nodes if n.op == "const"]
    for node in dict.fromkeys([*constants, *nodes]):
        if node.op != "input":
            operands = tuple(None if v is None else mapping[v] for v in node.inputs)
            mapping.update(zip(node.outputs, copy_node(b, node, operands), strict=True))
    return b, mapping


def _lines_between(s: ContractionSpace) -> Lines:
    """The lines that a depthwise convolution writes, channels of a pixel side by side."""
    if s.channel is None or not s.rows:
        raise Refused("two contractions, the first of which is no depthwise convolution")
    (_, index), = s.late.values()
    value = s.low.graph.outputs[0][1]
    axes = [*s.rows, s.channel]
    dense = linear_index(tuple(a.hi for a in axes), tuple(a.var for a in axes))
    if linear_index(value.shape, index) != dense:
        raise Refused("the channels of a pixel do not lie side by side between two contractions")
    width, channels = s.rows[-1].hi, s.channel.hi
    if not isinstance(width, int) or not isinstance(channels, int):
        raise Refused("lines of pixels between two contractions, of a size that is not known")
    if width * channels > SCRATCH_ROW:
        raise Refused(f"lines of {width * channels} elements between two contractions, more than "
                      f"{SCRATCH_ROW}: no cache holds one")
    return Lines(product(a.hi for a in s.rows[:-1]), width, channels)


def _check_rows(s: ContractionSpace, channels: int) -> None:
    """Refuses a second contraction whose rows are not the pixels in their order."""
    if s.bytes or not s.columns or s.batch or s.taps or s.body.conds or len(s.phases) > 1:
        raise Refused("two contractions, the second of which is no pointwise convolution")
    rows = linear_index(tuple(a.hi for a in s.rows), tuple(a.var for a in s.rows))
    place = linear_index(tuple(a.hi for a in s.run), tuple(a.var for a in s.run))
    where = (len(s.low.graph.inputs) - 1, rows * channels + place)
    if not s.direct or s.a.data != where or product(a.hi for a in s.run) != channels:
        raise Refused("two contractions, the second of which does not read whole pixels in order")
