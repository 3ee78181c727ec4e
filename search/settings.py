"""What a caller may say about the search: plain settings, light to import."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.metadata import entry_points
from typing import TYPE_CHECKING

from ..ir.errors import OptionError, quote

if TYPE_CHECKING:
    from .models import CostModel

SEARCHES = ("none", "exact", "genetic", "swarm", "annealing", "beam", "random")
"""Names of the searches; ``none`` is greedy fusion alone. Strategies of installed packages (entry
point group ``evonnx.strategies``) are known by their names too."""
ASSUMED = 32
"""Size that a symbol counts as where none is expected."""
BUDGET = 200_000
"""Evaluations of a strategy, if nothing else is said."""


@dataclass(frozen=True, slots=True)
class Search:
    """How a schedule is looked for."""

    name: str = "none"
    """One of ``SEARCHES``; ``none`` takes greedy fusion as it is."""
    model: str | CostModel = "bounds"
    """Cost model, or its name."""
    budget: int = BUDGET
    """Evaluations of a strategy."""
    seed: int = 0
    threads: int = 1
    """Threads that the cost model counts on."""
    expect: Mapping[str, int] = field(default_factory=dict)
    """Sizes by symbol that the cost model counts on; a symbol that is not named counts as
    ``ASSUMED``."""

    def __post_init__(self) -> None:
        known: tuple[str, ...] = SEARCHES
        if self.name not in known:
            known = (*SEARCHES, *(p.name.lower() for p in entry_points(group="evonnx.strategies")))
        if self.name not in known:
            raise OptionError(f"search: one of {', '.join(known)}, not {quote(self.name)}")
        for what, low, value in (("budget", 1, self.budget), ("seed", 0, self.seed)):
            if isinstance(value, bool) or not isinstance(value, int) or value < low:
                raise OptionError(f"{what}: a whole number from {low}, not {quote(value)}")

    def __str__(self) -> str:
        """All that the result depends on, for a cache key; a model that is not registered has no
        name that would say what it does."""
        if self.name == "none":
            return self.name
        sizes = sorted(self.expect.items())
        return f"{self.name} {self.model} {self.budget} {self.seed} {self.threads} {sizes}"

    @property
    def named(self) -> bool:
        """Whether ``str`` says everything."""
        return self.name == "none" or isinstance(self.model, str)
