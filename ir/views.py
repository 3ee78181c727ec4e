"""Pictures of a graph for people: a NetworkX graph, Graphviz DOT, and SVG without Graphviz.

The SVG is a layered drawing (Sugiyama, Tagawa, Toda 1981): nodes go to the layer of their longest
path from a source; long edges get a bend on every layer they cross; layers are ordered by sweeps of
the barycenter heuristic; coordinates move each node to the mean of its neighbors, kept apart by
isotonic regression (pool adjacent violators). Constants are drawn only on request: a weight per
convolution hides the network.

All text from the model is escaped; labels are cut.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING
from xml.sax.saxutils import escape

from .graph import Graph, Node
from .text import attr_text, namer

if TYPE_CHECKING:
    import networkx

Groups = Mapping[str, Iterable[Node]]
"""Name of each group -> its nodes."""

_LABEL = 44
"""Characters of a label's line."""
_COLORS = {
    "contraction": "#f6c6a8", "reduction": "#f4e3a1", "elementwise": "#cfe8cf",
    "movement": "#cfe0f4", "composite": "#e3d0f0", "control": "#f2b8c6", "source": "#e6e6e6",
}  # fmt: skip


def to_networkx(graph: Graph, constants: bool = True) -> networkx.MultiDiGraph:
    """The graph as a ``MultiDiGraph``: a node per IR node, named as in the text (``%3``).

    Nodes carry ``op``, ``node`` (the IR node), ``types``, ``origin`` and ``outputs`` (names of the
    graph's outputs among its values); edges carry ``operand`` (position), ``value`` and ``type``.
    """
    import networkx

    name = namer(graph)
    ends: dict[Node, list[str]] = {}
    for out, v in graph.outputs:
        ends.setdefault(v.node, []).append(out)
    result = networkx.MultiDiGraph()
    for node in _shown(graph, constants):
        result.add_node(
            name(node.out) if node.types else repr(node), op=node.op, node=node,
            types=tuple(str(t) for t in node.types), origin=node.origin,
            outputs=tuple(ends.get(node, ())),
        )  # fmt: skip
        for k, x in enumerate(node.inputs):
            if x is not None and (constants or x.op != "const"):
                result.add_edge(
                    name(x.node.out), name(node.out), operand=k, value=name(x), type=str(x.type)
                )
    return result


def _shown(graph: Graph, constants: bool) -> list[Node]:
    return [n for n in graph.nodes if constants or n.op != "const"]


def _cut(text: str) -> str:
    text = "".join(c if c.isprintable() else "?" for c in text)
    return text if len(text) <= _LABEL else text[: _LABEL - 1] + "…"


def _label(node: Node, name: str) -> list[str]:
    """Lines of a node's label: what it is, its main attributes, its types."""
    if node.op == "input":
        return [_cut(f"{name} input {json.dumps(node.attrs['name'])}"), _cut(_types(node))]
    plain = [
        f"{k}={attr_text(v)}" for k, v in node.attrs.items()
        if k != "digest" and not isinstance(v, Graph) and k not in ("shape", "values", "results")
    ]  # fmt: skip
    lines = [_cut(f"{name} {node.op}")]
    if plain:
        lines.append(_cut(", ".join(plain)))
    return [*lines, _cut(_types(node))]


def _types(node: Node) -> str:
    return ", ".join(str(t) for t in node.types)


def _color(node: Node) -> str:
    from .ops import OPS

    traits = OPS[node.op].traits if node.op in OPS else frozenset()
    return next((c for t, c in _COLORS.items() if t in traits), "#ffffff")


# -- DOT -----------------------------------------------------------------------------------------


def to_dot(graph: Graph, groups: Groups | None = None, constants: bool = False) -> str:
    """The graph as Graphviz DOT; each group is a cluster."""
    shown = _shown(graph, constants)
    name = namer(graph)
    ids = {n: f"n{k}" for k, n in enumerate(graph.nodes)}
    lines = [
        "digraph evonnx {",
        '  node [shape=box, style="rounded,filled", fontname="Helvetica", fontsize=10];',
        '  edge [fontname="Helvetica", fontsize=8, color="#666666"];',
    ]
    grouped: set[Node] = set()

    def line(node: Node) -> str:
        text = "\n".join(_label(node, name(node.out) if node.types else "%?"))
        return f'{ids[node]} [label={_quoted(text)}, fillcolor="{_color(node)}"];'

    for k, (title, members) in enumerate((groups or {}).items()):
        lines += [f"  subgraph cluster_{k} {{", f"    label={_quoted(_cut(title))};"]
        for node in members:
            if node in ids and node not in grouped and (constants or node.op != "const"):
                grouped.add(node)
                lines.append(f"    {line(node)}")
        lines.append("  }")
    lines += [f"  {line(n)}" for n in shown if n not in grouped]
    for node in shown:
        for operand in node.operands:
            if constants or operand.op != "const":
                lines.append(
                    f"  {ids[operand.node]} -> {ids[node]} [tooltip={_quoted(str(operand.type))}];"
                )
    for k, (out, v) in enumerate(graph.outputs):
        lines.append(f"  out{k} [label={_quoted(_cut(json.dumps(out)))}, shape=oval];")
        if constants or v.op != "const":
            lines.append(f"  {ids[v.node]} -> out{k};")
    return "\n".join([*lines, "}", ""])


def _quoted(text: str) -> str:
    """A DOT string: only backslash, quote and line ends are special inside."""
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n") + '"'


# -- SVG -----------------------------------------------------------------------------------------

_CHAR, _LINE, _PAD = 6.2, 13, 6
_GAP_X, _GAP_Y = 18.0, 34.0


class _Box:
    """A node of the drawing, or (without ``lines``) a bend of a long edge."""

    __slots__ = ("above", "below", "color", "height", "layer", "lines", "node", "width", "x", "y")

    def __init__(self, layer: int, lines: Sequence[str] = (), color: str = "#ffffff") -> None:
        self.layer, self.lines, self.color = layer, list(lines), color
        self.width = max((len(t) for t in lines), default=0) * _CHAR + 2 * _PAD if lines else 4.0
        self.height = len(lines) * _LINE + 2 * _PAD if lines else 4.0
        self.x = self.y = 0.0
        self.above: list[_Box] = []
        self.below: list[_Box] = []
        self.node: Node | None = None


def to_svg(graph: Graph, groups: Groups | None = None, constants: bool = False) -> str:
    """The graph as an SVG picture; nodes of one group get a frame of one color."""
    boxes, paths = _boxes(graph, constants)
    layers: list[list[_Box]] = [[] for _ in range(max((b.layer for b in boxes), default=-1) + 1)]
    for box in boxes:
        layers[box.layer].append(box)
    _order(layers)
    _place(layers)
    width = max((b.x + b.width / 2 for b in boxes), default=0.0) + _GAP_X
    height = max((b.y + b.height for b in boxes), default=0.0) + _GAP_X
    member = {n: k for k, ns in enumerate((groups or {}).values()) for n in ns}
    titles = list(groups or {})
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width:.0f}" height="{height:.0f}" '
        f'viewBox="0 0 {width:.0f} {height:.0f}" font-family="Helvetica,Arial,sans-serif" '
        f'font-size="10">',
        f'<rect width="{width:.0f}" height="{height:.0f}" fill="#ffffff"/>',
    ]
    lines += [_path(p) for p in paths]
    lines += [_drawn(b, member, titles) for b in boxes if b.lines]
    return "\n".join([*lines, "</svg>", ""])


def _boxes(graph: Graph, constants: bool) -> tuple[list[_Box], list[list[_Box]]]:
    """Boxes of nodes, outputs and bends; edges as chains of boxes from layer to layer."""
    name = namer(graph)
    layer: dict[Node, int] = {}
    box: dict[Node, _Box] = {}
    boxes: list[_Box] = []
    paths: list[list[_Box]] = []

    def connect(a: _Box, b: _Box) -> None:
        chain = [a, *(_Box(k) for k in range(a.layer + 1, b.layer)), b]
        boxes.extend(chain[1:-1])
        for upper, lower in pairwise(chain):
            upper.below.append(lower)
            lower.above.append(upper)
        paths.append(chain)

    for node in _shown(graph, constants):
        sources = [v.node for v in dict.fromkeys(node.operands) if v.node in layer]
        layer[node] = max((layer[s] + 1 for s in sources), default=0)
        label = _label(node, name(node.out) if node.types else "%?")
        made = _Box(layer[node], label, _color(node))
        made.node = node
        box[node] = made
        boxes.append(made)
        for source in dict.fromkeys(sources):
            connect(box[source], made)
    for out, v in graph.outputs:
        above = box.get(v.node)
        end = _Box(above.layer + 1 if above else 0, [_cut(f"output {json.dumps(out)}")], "#e6e6e6")
        boxes.append(end)
        if above is not None:
            connect(above, end)
    return boxes, paths


def _order(layers: list[list[_Box]]) -> None:
    """Orders each layer by the mean position of its neighbors, sweeping down and up."""
    for sweep in range(8):
        down = sweep % 2 == 0
        for row in layers if down else layers[::-1]:
            position = {}
            for k, b in enumerate(row):
                near = b.above if down else b.below
                position[b] = sum(n.x for n in near) / len(near) if near else float(k)
            row.sort(key=position.__getitem__)
            for k, b in enumerate(row):
                b.x = float(k)


def _place(layers: list[list[_Box]]) -> None:
    """Coordinates: boxes near the mean of their neighbors, apart from each other."""
    y = _GAP_X
    for row in layers:
        x = 0.0
        for b in row:
            b.x, b.y = x + b.width / 2, y
            x += b.width + _GAP_X
        y += max((b.height for b in row), default=0.0) + _GAP_Y
    for sweep in range(10):
        for row in layers if sweep % 2 == 0 else layers[::-1]:
            wanted = []
            for b in row:
                near = (*b.above, *b.below)
                wanted.append(sum(n.x for n in near) / len(near) if near else b.x)
            for b, at in zip(row, _apart(row, wanted), strict=True):
                b.x = at
    left = min((b.x - b.width / 2 for row in layers for b in row), default=0.0)
    for row in layers:
        for b in row:
            b.x += _GAP_X - left


def _apart(row: Sequence[_Box], wanted: Sequence[float]) -> list[float]:
    """The positions nearest to ``wanted`` (least squares) that keep the row's boxes apart."""
    offsets, total = [], 0.0
    for k, b in enumerate(row):
        if k:
            total += (row[k - 1].width + b.width) / 2 + _GAP_X
        offsets.append(total)
    blocks: list[list[float]] = []  # [sum, count]: pooled runs of equal shifted position
    for at, offset in zip(wanted, offsets, strict=True):
        blocks.append([at - offset, 1.0])
        while len(blocks) > 1 and blocks[-2][0] / blocks[-2][1] > blocks[-1][0] / blocks[-1][1]:
            last = blocks.pop()
            blocks[-1][0] += last[0]
            blocks[-1][1] += last[1]
    shifted = [s / n for s, n in blocks for _ in range(int(n))]
    return [at + offset for at, offset in zip(shifted, offsets, strict=True)]


def _path(chain: Sequence[_Box]) -> str:
    """One edge as a smooth line through its bends."""
    x, y = chain[0].x, chain[0].y + chain[0].height
    d = [f"M{x:.1f} {y:.1f}"]
    for b in chain[1:]:
        middle = (y + b.y) / 2
        d.append(f"C{x:.1f} {middle:.1f} {b.x:.1f} {middle:.1f} {b.x:.1f} {b.y:.1f}")
        if not b.lines:
            d.append(f"L{b.x:.1f} {b.y + b.height:.1f}")
        x, y = b.x, b.y + b.height
    return f'<path d="{" ".join(d)}" fill="none" stroke="#888888"/>'


def _drawn(b: _Box, member: Mapping[Node, int], titles: Sequence[str]) -> str:
    group = None if b.node is None else member.get(b.node)
    stroke, wide = "#555555", 1
    if group is not None:
        stroke, wide = f"hsl({group * 137 % 360},70%,40%)", 3
    left = b.x - b.width / 2
    parts = [
        f'<rect x="{left:.1f}" y="{b.y:.1f}" width="{b.width:.1f}" height="{b.height:.1f}" '
        f'rx="4" fill="{b.color}" stroke="{stroke}" stroke-width="{wide}"/>'
    ]
    tips = [] if b.node is None else [*b.node.origin]
    tips += [] if group is None else [f"group {titles[group]}"]
    if tips:
        parts.append(f"<title>{escape(_cut(' '.join(tips)))}</title>")
    for k, text in enumerate(b.lines):
        at = b.y + _PAD + (k + 1) * _LINE - 3
        weight = ' font-weight="bold"' if k == 0 else ""
        parts.append(
            f'<text x="{b.x:.1f}" y="{at:.1f}" text-anchor="middle"{weight}>{escape(text)}</text>'
        )
    return f"<g>{''.join(parts)}</g>"
