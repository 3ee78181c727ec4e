"""Studies: tidy records, the textbook example, strategies of one's own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import evonnx
from evonnx.ir.errors import OptionError
from evonnx.ir.graph import Builder, Graph
from evonnx.ir.types import F32, TensorType
from evonnx.search.generate import generated
from evonnx.search.problem import make_problem
from evonnx.search.strategies import Random


def graph() -> Graph:
    b = Builder()
    x = b.input("x", TensorType(F32, (4, 8)))
    for _ in range(3):
        x = b.op("add", b.op("exp", b.op("neg", x)), x)
    return b.build({"y": x})


def test_records(tmp_path: Path) -> None:
    out = tmp_path / "study.jsonl"
    records = evonnx.study({"small": graph(), "made": generated(30, 1)},
                           cost_models=("bounds", "cd"), searches=("exact", "genetic", "random"),
                           budgets=(500, 2000), seeds=range(2), out=out)  # fmt: skip
    assert [json.loads(line) for line in out.read_text().splitlines()] == json.loads(
        json.dumps(records))
    assert len(records) == 3 * (1 + 2 * 2 * 2)  # two models on the graph, one given problem
    assert {r["graph"] for r in records} == {"small", "made"}
    assert {r["cost_model"] for r in records} == {"bounds", "cd", "given"}
    for r in records:
        assert r["optimum"] - 1e-12 <= r["cost"] <= r["greedy"] * (1 + 1e-12)
        assert r["gap"] == pytest.approx(r["cost"] / r["optimum"] - 1, abs=1e-9)
        costs = [c for _, _, c in r["history"]]
        assert costs == sorted(costs, reverse=True)
    again = evonnx.study([generated(30, 1)], searches=("genetic",), budgets=(500,))
    (same,) = [r for r in records if r["graph"] == "made" and r["search"] == "genetic"
               and r["budget"] == 500 and r["seed"] == 0]  # fmt: skip
    assert (again[0]["cost"], again[0]["evaluations"]) == (same["cost"], same["evaluations"])


def test_without_a_proof_the_gap_is_to_the_bound() -> None:
    (record,) = evonnx.study([generated(30, 1)], searches=("swarm",), ideals=0)
    assert record["optimum"] is None
    assert record["gap"] >= 0


def test_a_strategy_of_ones_own_and_wrong_names() -> None:
    class Mine(Random):
        """Another name for noise."""

    (record,) = evonnx.study([generated(20, 2)], searches=(Mine(),), budgets=(100,))
    assert record["search"] == "Mine"
    with pytest.raises(OptionError, match="magic"):
        evonnx.study([], searches=("magic",))


@pytest.mark.parametrize(("operations", "c", "d"), [
    (range(100, 551, 50), 3250, 6500), (range(200, 451, 50), 1950, 3900),
])  # fmt: skip
def test_the_textbook_example(operations: Any, c: float, d: float) -> None:
    """A chain of operators with C_i given and D_i = 2 C_i costs the plain sums, op by op: ten cost
    more than the six of the rewritten graph."""
    from evonnx.ir.target import Target
    from evonnx.search.models import CD, Context, GroupFacts

    facts = [GroupFacts("loops", flops=float(x), inputs=float(x), outputs=float(x))
             for x in operations]  # fmt: skip
    context = Context(Target.named("generic"))
    model = CD()
    assert model.objectives == ("C", "D")
    assert model.parts(facts, context).sum(axis=0).tolist() == [c, d]
    costs = model.costs(facts, context)
    edges = [(k, k + 1) for k in range(len(facts) - 1)]
    chain = make_problem(len(facts), edges, [(k,) for k in range(len(facts))], costs)
    (record,) = evonnx.study([chain], searches=("exact",))
    assert record["cost"] == pytest.approx(float(np.sum(costs)))
