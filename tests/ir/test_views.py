"""Views: NetworkX, DOT and SVG of random graphs, with hostile names."""

from __future__ import annotations

import re
from xml.dom import minidom

import networkx
import numpy as np
import pytest

from evonnx.ir.builder import Builder
from evonnx.ir.graph import Graph
from evonnx.ir.random_graphs import random_graph
from evonnx.ir.types import F32, TensorType
from evonnx.ir.views import to_dot, to_networkx, to_svg

NASTY = '"]; evil [label="<script>&\\\n\u2028\0]]>'


def nasty() -> Graph:
    b = Builder()
    x = b.input(NASTY, TensorType(F32, (2,)))
    y = b.op("add", x, b.const(np.ones(2, np.float32)), origin=(NASTY,))
    return b.build([(NASTY + "y", y)])


@pytest.mark.parametrize("seed", range(20))
def test_networkx_has_every_edge(seed: int) -> None:
    graph = random_graph(seed, 15)
    view = to_networkx(graph)
    assert view.number_of_nodes() == len(graph.nodes)
    assert view.number_of_edges() == sum(len(n.operands) for n in graph.nodes)
    assert networkx.is_directed_acyclic_graph(view)
    assert {d["node"] for _, d in view.nodes(data=True)} == set(graph.nodes)
    outputs = [o for _, d in view.nodes(data=True) for o in d["outputs"]]
    assert sorted(outputs) == sorted(graph.output_names)
    hidden = to_networkx(graph, constants=False)
    assert not any(d["op"] == "const" for _, d in hidden.nodes(data=True))


STATEMENT = re.compile(
    r'\s*(n\d+|out\d+)( -> (n\d+|out\d+))?( \[(\w+=("([^"\\]|\\.)*"|\w+)(, )?)*\])?;\Z'
)


@pytest.mark.parametrize("seed", range(10))
def test_dot_is_well_formed(seed: int) -> None:
    graph = nasty() if seed == 0 else random_graph(seed, 15)
    groups = {NASTY: graph.nodes[:3], "second": graph.nodes[2:5]}
    for text in (to_dot(graph), to_dot(graph, groups, constants=True)):
        lines = text.splitlines()
        assert lines[0] == "digraph evonnx {"
        assert lines[-1] == "}"
        for line in lines[3:-1]:
            if not line.strip().startswith(("subgraph cluster_", "}", "label=")):
                assert STATEMENT.match(line), line
        assert text.count("{") - text.count("}") in (0, text.count("\\{") or 0) or "{" in NASTY
        defined = re.findall(r"^\s*(n\d+) \[", text, re.M)
        assert len(defined) == len(set(defined))


@pytest.mark.parametrize("seed", range(10))
def test_svg_is_well_formed_and_legible(seed: int) -> None:
    graph = nasty() if seed == 0 else random_graph(seed, 25)
    document = minidom.parseString(to_svg(graph, {"g": graph.nodes[:4]}, constants=True))
    size = [float(document.documentElement.getAttribute(k)) for k in ("width", "height")]
    frames = []
    for rect in document.getElementsByTagName("rect"):
        if rect.hasAttribute("rx"):
            x, y, w, h = (float(rect.getAttribute(k)) for k in ("x", "y", "width", "height"))
            assert 0 <= x < x + w <= size[0]
            assert 0 <= y < y + h <= size[1]
            frames.append((x, y, x + w, y + h))
    assert len(frames) == len(graph.nodes) + len(graph.outputs)
    for i, (x0, y0, x1, y1) in enumerate(frames):
        for a0, b0, a1, b1 in frames[:i]:
            assert x1 <= a0 or a1 <= x0 or y1 <= b0 or b1 <= y0, "boxes overlap"


def test_svg_of_an_empty_graph() -> None:
    minidom.parseString(to_svg(Builder().build([])))
    assert "digraph" in to_dot(Builder().build([]))
