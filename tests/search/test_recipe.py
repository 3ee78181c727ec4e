"""The cost model and the strategy of CONTRIBUTING.md, as they stand there, keep every promise."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np

from evonnx.ir.target import Target
from evonnx.search.evaluate import decode, keys_of
from evonnx.search.generate import generated
from evonnx.search.models import Context, Explanation, GroupFacts, check_model
from evonnx.search.models.base import FREE, binding
from evonnx.search.run import search
from evonnx.search.strategies import Base

TEXT = (Path(__file__).resolve().parents[2] / "CONTRIBUTING.md").read_text(encoding="utf-8")


def recipe(heading: str, **names: Any) -> dict[str, Any]:
    """What the code under a heading defines."""
    part = TEXT[TEXT.index(heading) :]
    code = re.search(r"```python\n(.*?)```", part, re.DOTALL)
    assert code is not None and len(code[1].splitlines()) <= 22
    exec(code[1], names)
    return names


def test_a_strategy() -> None:
    names = recipe("## Add a search strategy", np=np, Base=Base, keys_of=keys_of)
    p = generated(40, 2)
    first = decode(p, np.random.default_rng(0).random((1, 40))).orders
    found = search(p, names["Shaken"](), first, 3000, 1)
    assert found.cost < decode(p, keys_of(first)).costs[0]
    assert search(p, names["Shaken"](), first, 3000, 1).chosen == found.chosen


def test_a_cost_model() -> None:
    names = recipe("## Add a cost model", np=np, Explanation=Explanation, FREE=FREE,
                   binding=binding)  # fmt: skip
    model = names["Serial"]()
    assert check_model(model) == []
    machine = Target("toy", "x86_64-unknown-linux-gnu", "x86-64", flops=1e9, dram_rate=1e8)
    group = GroupFacts("loops", flops=500, constant=20, inputs=50, outputs=30)
    assert model.costs([group], Context(machine)).tolist() == [500 / 1e9 + 100 / 1e8]
    assert model.explain(group, Context(machine)).bound == "memory"
