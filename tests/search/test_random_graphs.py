"""Random graphs through the whole compiler, against the reference interpreter.

Every seed is compiled twice: as it is (kernels under the graph's own ops) and after the pipeline.
A result is right if it agrees with the interpreter in float64 or in the declared types, since
float32 may overflow and round where float64 does not.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

import evonnx
from evonnx.compiler.checking import error_of
from evonnx.compiler.feeds import random_feeds
from evonnx.ir import interp
from evonnx.ir.graph import Graph
from evonnx.ir.random_graphs import random_graph

AS_IT_IS = "fold,halves,wide_attention,conv_transpose"
SIZES = ({"N": 3, "S": 4}, {"N": 1, "S": 7})


def assert_right(graph: Graph, compiled: evonnx.Compiled, sizes: Mapping[str, int], seed: int
                 ) -> None:
    """One call of the compiled graph agrees with a run of the interpreter."""
    feeds = random_feeds({v.node.attrs["name"]: v.type for v in graph.inputs}, sizes, seed)
    try:
        wide = interp.run(graph, feeds, float64=True)
        narrow = interp.run(graph, feeds)
    except evonnx.EvonnxError as error:
        pytest.skip(f"the graph does not take these sizes: {error}")
    got = dict(zip(compiled.output_names, compiled.run(None, feeds), strict=True))
    for name, want in narrow.items():
        assert got[name].dtype == want.dtype
        error = min(error_of(got[name], want), error_of(got[name], wide[name]))
        assert error < 1e-4, f"{name}: {error:.2g} of scale\n{compiled.graph}"


def compile_both(graph: Graph, **options: Any) -> list[evonnx.Compiled]:
    return [evonnx.compile(graph, pipeline=spec, **options) for spec in (AS_IT_IS, None)]


ONCE_WRONG = (48, 229, 282, 418)
"""Seeds that found a defect."""


@pytest.mark.parametrize("seed", (*range(24), *ONCE_WRONG))
def test_static(seed: int) -> None:
    graph = random_graph(seed, 12)
    for compiled in compile_both(graph, threads=1 + seed % 2):
        assert_right(graph, compiled, {}, seed)


@pytest.mark.parametrize("seed", range(1000, 1016))
def test_symbolic(seed: int) -> None:
    graph = random_graph(seed, 10, symbolic=True)
    for compiled in compile_both(graph, threads=1):
        for sizes in SIZES:
            assert_right(graph, compiled, sizes, seed)
