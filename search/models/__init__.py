"""Cost models: the protocol, the shipped ones, and the registry of names.

``model("bounds")`` makes a registered model. People's own are registered with ``register_model``,
or found by the entry point group ``evonnx.cost_models`` of an installed package, whose entries name
a class (or function) without required arguments. ``check.check_model`` tests any of them.
"""

from __future__ import annotations

from ...ir.errors import OptionError, quote
from ..registry import MODELS as REGISTRY
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
SHIPPED: dict[str, Factory] = {"bounds": Bounds, "cd": CD, "roofline": Roofline}
"""Shipped models, by the names that ``registry`` lists."""

register_model = REGISTRY.register
"""``(name, factory)``: makes ``model(name)`` answer ``factory()``."""
models = REGISTRY.names
"""Names of all that are registered or installed, in alphabetic order."""
factory = REGISTRY.factory
"""What makes the cost model of a name; raises ``OptionError`` for one nobody registered."""


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
    "CD", "DEFAULT", "SECONDS", "SHIPPED", "Bounds", "Context", "CostModel", "Explanation",
    "Factory", "Failure", "GroupFacts", "MultiObjective", "Phase", "Roofline", "check_model",
    "context_of", "facts", "facts_of", "factory", "model", "models", "register_model",
    "sensitivity",
]  # fmt: skip
