"""Cost models: the protocol, the shipped ones, and the registry of names.

``model("bounds")`` makes a registered model. People's own are registered with ``register_model``,
or found by the entry point group ``evonnx.cost_models`` of an installed package, whose entries name
a class (or function) without required arguments. ``check.check_model`` tests any of them.
"""

from __future__ import annotations

from importlib.metadata import entry_points

from ...ir.errors import OptionError, quote
from .base import (
    SECONDS,
    Context,
    CostModel,
    Explanation,
    Factory,
    GroupFacts,
    MultiObjective,
    Phase,
    sensitivity,
)  # fmt: skip
from .bounds import Bounds
from .cd import CD
from .check import Failure, check_model
from .counting import context_of, facts, facts_of
from .roofline import Roofline

DEFAULT = "bounds"
"""The model that chooses schedules and predicts times unless another is named."""
ENTRY_POINTS = "evonnx.cost_models"

_REGISTERED: dict[str, Factory] = {"bounds": Bounds, "cd": CD, "roofline": Roofline}


def register_model(name: str, factory: Factory) -> None:
    """Makes ``model(name)`` answer ``factory()``. Raises ``OptionError`` if the name is taken by
    another factory."""
    if _REGISTERED.setdefault(name.lower(), factory) is not factory:
        raise OptionError(f"cost model {quote(name)} is registered already")


def models() -> tuple[str, ...]:
    """Names of all registered and installed models, in alphabetic order."""
    installed = {point.name.lower() for point in entry_points(group=ENTRY_POINTS)}
    return tuple(sorted(installed | _REGISTERED.keys()))


def factory(name: str) -> Factory:
    """What makes the model of that name. Raises ``OptionError`` for a name nobody registered."""
    found = _REGISTERED.get(name.lower())
    if found is None:
        for point in entry_points(group=ENTRY_POINTS):
            if point.name.lower() == name.lower():
                found = point.load()
    if found is None:
        known = ", ".join(models())
        raise OptionError(f"there is no cost model {quote(name)}: known are {known}")
    return found


def model(name: str | CostModel = DEFAULT) -> CostModel:
    """The model of that name with its default settings; a model is answered as it is. Raises
    ``OptionError`` for a name nobody registered and for what is not a model."""
    if not isinstance(name, str):
        if not isinstance(name, CostModel):
            raise OptionError(f"cost model: a name or a CostModel, not {type(name).__name__}")
        return name
    made = factory(name)()
    if not isinstance(made, CostModel):
        raise OptionError(f"cost model {quote(name)}: {type(made).__name__} lacks a part of the "
                          "protocol (name, unit, objectives, costs, explain)")
    return made


__all__ = [
    "CD", "DEFAULT", "SECONDS", "Bounds", "Context", "CostModel", "Explanation", "Factory",
    "Failure", "GroupFacts", "MultiObjective", "Phase", "Roofline", "check_model", "context_of",
    "facts", "facts_of", "factory", "model", "models", "register_model", "sensitivity",
]  # fmt: skip
