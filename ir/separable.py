"""A depthwise convolution in one kernel with the pointwise (1x1) ones around it: where such a group
is cut, and what makes it one.

A depthwise convolution and the pointwise one behind it are a depthwise separable convolution
(L. Sifre, 2014); with one before that widens its pixels they are an inverted residual block
(M. Sandler et al., "MobileNetV2: Inverted Residuals and Linear Bottlenecks", 2018). A group has one
neighbor or both. It is cut where a contraction reads the one before as its left operand. Each
part is a group around one contraction (``contraction``), with what is computed behind it; the value
between two parts lies in scratch, a few lines of an image at a time, and may have no other reader.

*Behind*, every row of the product has to be the channels of the pixel with the same number: a line
of pixels is then a block of rows, and nothing is computed twice.

*Before*, a few neighboring lines of windows need a few more lines of what they read: those at the
border of two tiles are computed in both. Pixels outside of the image are zeros to the windows,
whatever the first part would compute there. It is one that is computed by windows (``grids``), with
few channels before and whole vectors of them behind, so its weights stay as they lie.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

from .access import linear_index
from .axes import Axis, places
from .builder import Builder, copy_node
from .contraction import ContractionSpace
from .dim_functions import dmax, dmin
from .dim_values import substitute
from .dims import Dim, Expr, product
from .elements import Refused, is_reduction
from .graph import Graph, Node, Value
from .grids import FEW_CHANNELS, fan_of, find_grid
from .ops import lookup
from .tiles import SCRATCH_ROW, Space

VECTOR = 16
"""Channels of whole vectors on every machine."""


@dataclass(frozen=True, slots=True)
class Lines:
    """A value between two parts."""

    count: Dim
    """Lines of pixels, of all images."""
    width: int
    """Pixels of a line."""
    channels: int
    """float32 elements of a pixel."""


@dataclass(frozen=True, slots=True)
class Needed:
    """The lines that windows read, numbered through all images."""

    lines: Lines
    axes: tuple[Axis, ...]
    """Those that number the lines of windows."""
    first: Dim
    """First line inside the image that the windows of a line read, and the one behind the last."""
    end: Dim
    step: Dim
    """From a line of windows to the next one these are so many lines further, at most."""
    reach: int
    """Lines of one window, with those between."""

    def most(self, lines: int) -> Dim:
        """Lines that so many neighboring lines of windows need."""
        return (lines - 1) * self.step + self.reach

    def range(self, first: Dim, last: Dim) -> tuple[Dim, Dim]:
        """The first line that the windows of the lines ``first`` to ``last`` need, and the one
        behind the last."""
        return (substitute(self.first, places(self.axes, first)),
                substitute(self.end, places(self.axes, last)))


class SeparableSpace:
    """A depthwise convolution and its pointwise neighbors. Raises ``Refused`` for groups of several
    contractions that are something else."""

    def __init__(self, graph: Graph) -> None:
        spaces = [ContractionSpace(Space(part)) for part in cut(graph)]
        middle = next((k for k, s in enumerate(spaces) if s.channel is not None), None)
        if middle is None:
            raise Refused(f"{_NUMBERS[len(spaces)]} contractions, no depthwise convolution")
        if middle > 1 or len(spaces) > middle + 2:
            raise Refused("three contractions, the depthwise one of which is not the second")
        self.before = spaces[0] if middle else None
        """The pointwise convolution that computes what the windows read; its graph gives that."""
        self.window = spaces[middle]
        """The depthwise convolution. What is ``before`` is the last input of its graph."""
        self.product = spaces[-1] if len(spaces) > middle + 1 else None
        """The pointwise convolution behind it, whose last input it computes."""
        self.lines = _lines_of(self.window)
        """What the depthwise convolution computes."""
        self.needed = None if self.before is None else _needed_lines(self.window, self.before)
        if self.product is not None:
            _check_rows(self.product, self.lines.channels)


_NUMBERS = {2: "two", 3: "three"}


def cut(graph: Graph) -> list[Graph]:
    """The parts of a group that ``ir.groups.extract`` cut out, one per contraction: the group's
    inputs and, as the last, the value before; the value behind, or the group's outputs."""
    nodes = [n for n in graph.nodes if is_reduction(n)]
    if len(nodes) not in _NUMBERS or not all(lookup(n.op).has("contraction") for n in nodes):
        raise Refused("no kernel holds these reductions")
    parts: list[Graph] = []
    done: set[Node] = set()
    given: Value | None = None
    for first, second in pairwise(nodes):
        between = second.operands[0]
        before = _needed(between)
        if first not in before:
            raise Refused("two contractions, neither of which is the left operand of the other")
        _check_between(graph, second, before)
        b, known = _copied(graph, [n for n in graph.nodes if n in before - done], given)
        parts.append(b.build([("y0", known[between])]))
        done, given = before, between
    b, known = _copied(graph, [n for n in graph.nodes if n not in done], given)
    return [*parts, b.build([(name, known[v]) for name, v in graph.outputs])]


def _check_between(graph: Graph, second: Node, before: set[Node]) -> None:
    """Refuses a cut where the left operand of ``second`` is not all that is taken from what lies
    before it."""
    between = second.operands[0]
    taken = {v for n in graph.nodes if n not in before for v in n.operands if v.node in before
             and v.node.op not in ("input", "const")}
    if taken != {between} or not graph.output_values.isdisjoint(
            [v for n in before for v in n.outputs]):
        raise Refused("what lies between two contractions is needed besides")
    if second.operands.count(between) != 1 or graph.users(between) != (second,):
        raise Refused("what lies between two contractions is read at two places")


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


def _lines_of(s: ContractionSpace) -> Lines:
    """The lines that a depthwise convolution computes, channels of a pixel side by side."""
    if not s.rows or len(s.late) != 1:
        raise Refused("a depthwise convolution of single pixels, or of several results, with "
                      "another contraction")
    return _dense(s, s.channel)


def _dense(s: ContractionSpace, channel: Axis | None) -> Lines:
    """The result of a part as lines of pixels, whose channels lie side by side."""
    (_, index), = s.late.values()
    value = s.low.graph.outputs[0][1]
    axes = [*s.rows, *([] if channel is None else [channel])]
    dense = linear_index(tuple(a.hi for a in axes), tuple(a.var for a in axes))
    if channel is None or linear_index(value.shape, index) != dense:
        raise Refused("the channels of a pixel do not lie side by side between two contractions")
    width, channels = s.rows[-1].hi, channel.hi
    if not isinstance(width, int) or not isinstance(channels, int):
        raise Refused("lines of pixels between two contractions, of a size that is not known")
    if width * channels > SCRATCH_ROW:
        raise Refused(f"lines of {width * channels} elements between two contractions, more than "
                      f"{SCRATCH_ROW}: no cache holds one")
    return Lines(product(a.hi for a in s.rows[:-1]), width, channels)


def _needed_lines(s: ContractionSpace, before: ContractionSpace) -> Needed:
    """The lines of ``before`` that the windows of ``s`` read: images ``[N, H, W, C]``."""
    fan, node = fan_of(before), s.anchor
    if fan is None or before.batch or before.taps or before.body.conds or not before.rows:
        raise Refused("a contraction that is no pointwise convolution before another one")
    if fan.before > FEW_CHANNELS or fan.after % VECTOR:
        raise Refused(f"a convolution of {fan.before} to {fan.after} channels before a depthwise "
                      f"one: it is computed by windows up to {FEW_CHANNELS}, to whole vectors")
    image, a = node.operands[0].shape, node.attrs
    if node.op != "conv" or a["layout"] != "last" or len(image) != 4:
        raise Refused("windows over what a convolution computes that is no channels-last image")
    lines = _dense(before, before.columns[-1])
    index, (_, height, width, channels) = s.index[node], image
    (above, left), (below, right) = a["pads_lo"], a["pads_hi"]
    (tall, wide), (down, across) = node.operands[1].shape[:2], a["dilations"]
    reach, wide = (tall - 1) * down + 1, (wide - 1) * across + 1
    beside = (above, reach), (below, reach), (left, wide), (right, wide)
    if find_grid(before) is None or find_grid(s) is None or not all(
            isinstance(pad, int) and 0 <= pad < size for pad, size in beside):
        raise Refused("windows that may lie outside of the image, or on no grid, over what a "
                      "convolution computes")
    axes = tuple(x for x in s.rows[:-1] if isinstance(x.var, Expr))
    if (lines.width, lines.channels) != (width, channels) or index[2] != s.rows[-1].var or (
            tuple(i for i in index[:2] if isinstance(i, Expr)) != tuple(x.var for x in axes)):
        raise Refused("lines of windows in another order than those that they read")
    step = a["strides"][0]
    top = index[1] * step - above
    between = dmax(step, height - (node.out.shape[1] - 1) * step)  # two lines of two images
    return Needed(lines, axes, index[0] * height + dmax(top, 0),
                  index[0] * height + dmin(top + reach, height), between, reach)


def _check_rows(s: ContractionSpace, channels: int) -> None:
    """Refuses a second contraction whose rows are not the pixels in their order."""
    if s.bytes or not s.columns or s.batch or s.taps or s.body.conds or len(s.phases) > 1:
        raise Refused("two contractions, the second of which is no pointwise convolution")
    rows = linear_index(tuple(a.hi for a in s.rows), tuple(a.var for a in s.rows))
    place = linear_index(tuple(a.hi for a in s.run), tuple(a.var for a in s.run))
    where = (len(s.low.graph.inputs) - 1, rows * channels + place)
    if not s.direct or s.a.data != where or product(a.hi for a in s.run) != channels:
        raise Refused("two contractions, the second of which does not read whole pixels in order")
