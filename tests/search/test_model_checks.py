"""Cost models: the conformance suite, broken models that fail it, the registry."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from importlib.metadata import EntryPoint
from typing import Any

import numpy as np
import pytest

from evonnx.ir.errors import OptionError
from evonnx.search import models
from evonnx.search.models import (
    CD,
    Bounds,
    Context,
    Explanation,
    GroupFacts,
    Roofline,
    check_model,
    model,
    register_model,
)

SHIPPED = [CD(), CD(2.0, 0.5), Roofline(), Bounds(), Bounds(power=8)]


@pytest.mark.parametrize("shipped", SHIPPED, ids=lambda m: m.name)
def test_shipped_models_keep_every_promise(shipped: Any) -> None:
    assert check_model(shipped) == []


class _Model:
    """A sound model to break: one nanosecond per operation and byte at the speed of the target."""

    name, unit, objectives = "sound", "s", ("time",)

    def cost(self, g: GroupFacts, context: Context) -> float:
        if g.implementation in ("view", "bind"):
            return 0.0
        return (g.flops + g.constant + g.inputs + g.outputs) / context.target.flops

    def costs(self, groups: Sequence[GroupFacts], context: Context) -> np.ndarray:
        return np.array([self.cost(g, context) for g in groups], np.float64)

    def explain(self, group: GroupFacts, context: Context) -> Explanation:
        cost = float(self.costs([group], context)[0])
        return Explanation(cost, {"all": cost, "half": cost / 2}, "all", "")


class _Short(_Model):
    def costs(self, groups: Sequence[GroupFacts], context: Context) -> np.ndarray:
        return super().costs(groups, context)[:-1]


class _Random(_Model):
    def __init__(self) -> None:
        self.rng = np.random.default_rng()

    def costs(self, groups: Sequence[GroupFacts], context: Context) -> np.ndarray:
        return super().costs(groups, context) * (1 + 1e-12 * self.rng.random(len(groups)))


class _Relative(_Model):
    def costs(self, groups: Sequence[GroupFacts], context: Context) -> np.ndarray:
        costs = super().costs(groups, context)
        return costs * (1.0 + float(costs.max(initial=0.0)))


class _Ordered(_Model):
    def costs(self, groups: Sequence[GroupFacts], context: Context) -> np.ndarray:
        return super().costs(groups, context) * (1 + np.arange(len(groups)))


class _Wrong(_Model):
    def explain(self, group: GroupFacts, context: Context) -> Explanation:
        return dataclasses.replace(super().explain(group, context), bound="half")


def _with_cost(cost: Any) -> Any:
    return type("_Broken", (_Model,), {"cost": lambda self, g, c: cost(_Model.cost(self, g, c), g)})


BROKEN = {
    "protocol": type("_Silent", (), {"name": "silent", "unit": "s"}),
    "shape": _Short,
    "finite": _with_cost(lambda cost, g: cost if g.flops < 1e9 else np.inf),
    "nonnegative": _with_cost(lambda cost, g: cost - 1e-3 if g.nodes > 1 else cost),
    "deterministic": _Random,
    "batch": _Relative,
    "permutation": _Ordered,
    "flops": _with_cost(lambda cost, g: cost / (1 + g.flops**2)),
    "bytes": _with_cost(lambda cost, g: cost / (1 + g.inputs**2)),
    "zero": _with_cost(lambda cost, g: cost + 1e-9),
    "unit": _with_cost(lambda cost, g: cost and cost + 1e-3),
    "explain": _Wrong,
}


def test_the_model_to_break_is_sound() -> None:
    assert check_model(_Model()) == []


@pytest.mark.parametrize("check", BROKEN)
def test_a_broken_model_fails_its_check(check: str) -> None:
    failures = {f.check: f.reason for f in check_model(BROKEN[check]())}
    assert check in failures
    assert failures[check]


def test_every_check_has_a_model_that_fails_it() -> None:
    from evonnx.search.models.check import _CHECKS

    assert BROKEN.keys() == {"protocol", *_CHECKS}


def test_a_model_that_raises_fails_with_what_it_raised() -> None:
    failures = check_model(_with_cost(lambda cost, g: 1 / 0)())
    assert "ZeroDivisionError" in failures[0].reason


# The registry --------------------------------------------------------------------------------


def test_models_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    assert [model(n).name for n in ("cd", "Roofline", "bounds")] == ["cd", "roofline", "bounds"]
    assert model().name == models.DEFAULT
    mine = _Model()
    assert model(mine) is mine
    with pytest.raises(OptionError, match="bounds, cd, roofline"):
        model("nonsense")
    with pytest.raises(OptionError, match="not int"):
        model(3)  # type: ignore[arg-type]
    assert set(models.REGISTRY.shipped) == models.SHIPPED.keys()
    monkeypatch.setattr(models.REGISTRY, "_known", {})
    register_model("Mine", _Model)
    assert isinstance(model("mine"), _Model)
    register_model("mine", _Model)
    with pytest.raises(OptionError, match="registered already"):
        register_model("cd", _Model)
    register_model("silent", BROKEN["protocol"])
    with pytest.raises(OptionError, match="lacks a part"):
        model("silent")


def test_models_of_installed_packages_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    point = EntryPoint("installed", f"{__name__}:_Model", models.REGISTRY.group)
    monkeypatch.setattr(EntryPoint, "load", lambda self: _Model)
    monkeypatch.setattr("evonnx.search.registry._entry_points", lambda group: [point])
    assert "installed" in models.models()
    assert isinstance(model("installed"), _Model)
