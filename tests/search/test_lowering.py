"""What legality allows, lowering can do: every candidate of networks becomes kernels.

A search forms groups that greedy fusion never does, so each is lowered here, structure by structure
(nothing is compiled).
"""

from __future__ import annotations

from collections.abc import Callable

import onnx
import pytest

from evonnx.bench import dynamic_models as models
from evonnx.compiler.importer import import_model
from evonnx.compiler.pipeline import run_pipeline
from evonnx.ir.groups import extract
from evonnx.ir.schedule import KERNELS
from evonnx.ir.target import Target
from evonnx.kernels.group import group_kernels
from evonnx.search.candidates import Candidates
from evonnx.search.greedy import greedy

CASES: dict[str, Callable[[], onnx.ModelProto]] = {
    "cnn": models.cnn, "bert": lambda: models.bert(32, 1), "broadcasts": models.broadcasts,
}


@pytest.mark.parametrize("name", CASES)
def test_every_candidate_can_be_lowered(name: str) -> None:
    graph = run_pipeline(import_model(CASES[name]()))
    target = Target.named("generic")
    table = Candidates(graph, [greedy(graph)], most=6, checks=150)
    seen = set()
    for c in table.found.values():
        nodes = [graph.nodes[i] for i in c.nodes]
        key = table.judge.structure(nodes, c.written)
        if c.implementation not in KERNELS or c.implementation == "opaque" or key in seen:
            continue
        seen.add(key)
        cut = extract(graph, nodes, c.written)
        constants = frozenset(k for k, v in enumerate(cut.inputs) if v.node.op == "const")
        assert group_kernels(cut.graph, c.implementation, target, constants).kernels
    assert len(seen) > 4
