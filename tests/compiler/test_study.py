"""Studies: tidy records, the textbook example, strategies of one's own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import evonnx
from evonnx.compiler.records import best_by, median_interval, read_records
from evonnx.compiler.study import rerun
from evonnx.ir.builder import Builder
from evonnx.ir.errors import OptionError, ParseError
from evonnx.ir.graph import Graph
from evonnx.ir.text import print_graph
from evonnx.ir.types import F32, TensorType
from evonnx.search.generate import generated
from evonnx.search.models import CD
from evonnx.search.problem import Problem, make_problem
from evonnx.search.strategies import Genetic, Random


def graph() -> Graph:
    b = Builder()
    x = b.input("x", TensorType(F32, (4, 8)))
    for _ in range(3):
        x = b.op("add", b.op("exp", b.op("neg", x)), x)
    return b.build({"y": x})


def test_records(tmp_path: Path) -> None:
    out = tmp_path / "study.jsonl"
    records = evonnx.study({"small": graph(), "made": generated(30, 1)},
                           cost_models=("bounds", "cd"), strategies=("exact", "genetic", "random"),
                           budgets=(500, 2000), seeds=range(2), out=out)  # fmt: skip
    assert read_records(out) == json.loads(json.dumps(records))
    assert len(records) == 3 * (1 + 2 * 2 * 2)  # two models on the graph, one given problem
    assert {r["graph"] for r in records} == {"small", "made"}
    assert {r["cost_model"] for r in records} == {"bounds", "cd", "given"}
    for r in records:
        assert r["optimum"] - 1e-12 <= r["cost"] <= r["greedy"] * (1 + 1e-12)
        assert r["gap"] == pytest.approx(r["cost"] / r["optimum"] - 1, abs=1e-9)
        assert r["gap_to"] == "optimum"
        costs = [c for _, _, c in r["history"]]
        assert costs == sorted(costs, reverse=True)
        assert set(r["objectives"]) == ({"C", "D"} if r["cost_model"] == "cd" else set())
        if r["objectives"]:
            assert sum(r["objectives"].values()) == pytest.approx(r["cost"])
        assert {"numpy", "numba", "evonnx"} <= set(r["versions"])
        assert r["machine"]
        assert set(r) == set(records[0])  # tidy: every record has every field


def test_a_record_is_made_again_from_its_fields(tmp_path: Path) -> None:
    path = tmp_path / "small.ir"
    path.write_text(print_graph(graph()), encoding="utf-8")
    given: Any = {"cost_models": (CD(2.0, 0.5),), "budgets": (400,), "seeds": (7,),
                  "targets": ("h200",)}  # fmt: skip
    for strategy in (Genetic(size=20, rho=0.6), "swarm", "exact"):
        (record,) = evonnx.study([path], strategies=(strategy,), **given)
        again = rerun(json.loads(json.dumps(record)))
        changing = {"seconds", "history", "machine", "system", "versions", "date"}
        assert {k: v for k, v in again.items() if k not in changing} == {
            k: v for k, v in record.items() if k not in changing}
        assert [(e, c) for e, _, c in again["history"]] == [(e, c) for e, _, c in record["history"]]
    with pytest.raises(OptionError, match="not the graph of the record"):
        rerun(record, generated(20, 1))
    with pytest.raises(OptionError, match="not registered"):
        rerun({**record, "algorithm": "os:system"})
    with pytest.raises(OptionError, match="names no file"):
        rerun({**record, "source": None})


def test_without_a_proof_the_gap_is_to_the_bound() -> None:
    proof, record = evonnx.study([generated(30, 1)], strategies=("exact", "swarm"), ideals=0)
    assert record["optimum"] is None
    assert record["gap"] >= 0
    assert record["gap_to"] == "bound"
    assert proof["cost"] is None
    assert proof["gap"] is None


def test_several_targets() -> None:
    one, two = evonnx.study([graph()], strategies=("exact",), targets=("h200", "arm64-board"))
    assert (one["target"], two["target"]) == ("h200", "arm64-board")  # neither is here
    assert one["cost"] != two["cost"]
    assert one["digest"] == two["digest"]


class Forgetful(Random):
    """Noise of its own; remembers every start."""

    def __init__(self, batch: int = 8) -> None:
        super().__init__(batch)
        self.starts = 0

    def start(self, problem: Problem, first: np.ndarray, seed: int) -> None:
        super().start(problem, first, seed)
        self.starts += 1
        assert self.starts == 1, "left over from another run"


def test_names_classes_factories_and_objects() -> None:
    mine = Forgetful(4)
    given: list[Any] = ["random", Random(16), Forgetful, lambda: Forgetful(32), mine]
    records = evonnx.study([generated(20, 2)], seeds=range(2), budgets=(100,), strategies=given)
    assert [r["strategy"] for r in records[::2]] == [
        "random", "random(batch=16)", "Forgetful", "Forgetful(batch=32)", "Forgetful(batch=4)"]
    assert [r["parameters"] for r in records[::2]] == [{"batch": b} for b in (64, 16, 8, 32, 4)]
    assert mine.starts == 0  # it was copied for every run
    (renamed,) = evonnx.study([generated(20, 2)], strategies={"noise": Random}, budgets=(100,))
    assert (renamed["strategy"], renamed["algorithm"]) == ("noise", "random")


@pytest.mark.parametrize(("given", "reason"), [
    ({"strategies": ("magic",)}, "magic"), ({"strategies": (3,)}, "a name, a class"),
    ({"strategies": (dict,)}, "dict lacks start"), ({"cost_models": ("magic",)}, "magic"),
    ({"strategies": (Random(8), Random(8))}, "same label"), ({"budgets": (0,)}, "budgets"),
    ({"seeds": (-1,)}, "seeds"), ({"targets": ("magic",)}, "magic"),
])  # fmt: skip
def test_what_is_refused(given: dict[str, Any], reason: str) -> None:
    with pytest.raises(OptionError, match=reason):
        evonnx.study([generated(20, 2)], **given)


def test_damaged_records(tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    for text in ("{", "[]", '{"record": 0}'):
        path.write_text('{"record": 1}\n' + text + "\n", encoding="utf-8")
        with pytest.raises(ParseError, match="line 2"):
            read_records(path)


def test_what_is_told_of_records() -> None:
    record = {"history": [[10, 0.1, 5.0], [30, 0.4, 3.0]]}
    assert [best_by(record, x) for x in (10, 29, 30)] == [5.0, 5.0, 3.0]
    assert best_by(record, 0.3, "seconds") == 5.0
    assert np.isnan(best_by(record, 9))
    middle, low, high = median_interval([1.0, 2.0, 3.0, 4.0, 100.0])
    assert (low, middle, high) == (1.0, 3.0, 100.0)


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
    (record,) = evonnx.study([chain], strategies=("exact",))
    assert record["cost"] == pytest.approx(float(np.sum(costs)))


@pytest.mark.parametrize(("what", "given"), [
    ("graphs", "model.onnx"), ("cost_models", "bounds"), ("strategies", "genetic"),
    ("budgets", 100), ("seeds", 0)])
def test_one_thing_is_not_several(what: str, given: Any) -> None:
    with pytest.raises(OptionError, match=f"^{what}: several, such as a list, not '{given}' alone"):
        evonnx.study(**{"graphs": {"small": graph()}, what: given})
