"""What holds for every test: each graph that a test builds survives printing and parsing."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import settings

from evonnx.ir.builder import Builder
from evonnx.ir.graph import Graph
from evonnx.ir.parser import parse_graph
from evonnx.ir.text import print_graph

# The same examples in every run: a failure that was there yesterday is there today. Explore with
# HYPOTHESIS_PROFILE=random.
settings.register_profile("suite", derandomize=True, deadline=None)
settings.register_profile("random", deadline=None)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "suite"))

_PER_TEST, _NODES = 25, 400
"""Graphs checked per test, and the most nodes of a graph that is checked."""


def assert_text_law(graph: Graph) -> None:
    """``parse(print(g))`` has the digest and the text of ``g``."""
    text = print_graph(graph)
    again = parse_graph(text, graph.constants, verify=False)
    assert again.digest == graph.digest, text
    assert print_graph(again) == text


@pytest.fixture(scope="session")
def text_law() -> Callable[[Graph], None]:
    return assert_text_law


@pytest.fixture(autouse=True, scope="session")
def _own_compile_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Tests neither read nor fill the user's cache of compiled kernels; the processes of one run
    share theirs."""
    base = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        base = base.parent
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EVONNX_CACHE", str(base / "kernels"))
        yield


@pytest.fixture(autouse=True)
def _every_graph_round_trips(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    built: list[Graph] = []
    build = Builder.build

    def recording(self: Builder, *args: Any, **options: Any) -> Graph:
        graph = build(self, *args, **options)
        if len(built) < _PER_TEST and len(graph.nodes) <= _NODES:
            built.append(graph)
        return graph

    monkeypatch.setattr(Builder, "build", recording)
    yield
    monkeypatch.undo()
    for graph in built:
        assert_text_law(graph)
