"""The cost model of CONTRIBUTING.md, as it stands there, keeps every promise."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np

from evonnx.ir.target import Target
from evonnx.search.models import Context, Explanation, GroupFacts, check_model
from evonnx.search.models.base import FREE, binding

TEXT = (Path(__file__).resolve().parents[2] / "CONTRIBUTING.md").read_text(encoding="utf-8")


def test_the_recipe_works() -> None:
    part = TEXT[TEXT.index("## Add a cost model") :]
    code = re.search(r"```python\n(.*?)```", part, re.DOTALL)
    assert code is not None and len(code[1].splitlines()) <= 22
    names: dict[str, Any] = {"np": np, "Explanation": Explanation, "FREE": FREE, "binding": binding}
    exec(code[1], names)
    model = names["Serial"]()
    assert check_model(model) == []
    machine = Target("toy", "x86_64-unknown-linux-gnu", "x86-64", flops=1e9, dram_rate=1e8)
    group = GroupFacts("loops", flops=500, constant=20, inputs=50, outputs=30)
    assert model.costs([group], Context(machine)).tolist() == [500 / 1e9 + 100 / 1e8]
    assert model.explain(group, Context(machine)).bound == "memory"
