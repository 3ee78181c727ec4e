"""What a caller may say about the search: plain settings, light to import."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.metadata import entry_points
from typing import TYPE_CHECKING

from ..ir.errors import OptionError, quote

if TYPE_CHECKING:
    from .models import CostModel
    from .strategies import Strategy

SEARCHES = ("none", "default", "exact", "genetic", "swarm", "annealing", "beam", "random",
            "postdominator", "priority", "score")  # fmt: skip
"""Names of the searches. ``none`` is greedy fusion alone; ``default`` proves the optimum where that
is quick and anneals where it is not; the last three are greedy rules that others have published.
Strategies of installed packages (entry point group ``evonnx.strategies``) are known by their names
too."""
DEFAULT_SEARCH = "none"
"""The search of a compilation that names none."""
OBJECTIVES = ("time", "peak", "C", "D")
"""What may be minimized: the cost model's cost, the peak of memory, operations, bytes moved."""
ASSUMED = 32
"""Size that a symbol counts as where none is expected."""
RULES = SEARCHES[-3:]
BUDGET = 200_000
"""Evaluations of a strategy, if nothing else is said."""


@dataclass(frozen=True, slots=True)
class Search:
    """How a schedule is looked for."""

    name: str | Strategy = "none"
    """One of ``SEARCHES``, a registered strategy, or a strategy; ``none`` takes greedy fusion as it
    is."""
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
    objective: str = "time"
    """One of ``OBJECTIVES``."""
    memory: int | None = None
    """Bytes that the arena may take at the sizes expected; None: any number."""
    max_memory: int | None = None
    """Bytes that a call may take at the sizes expected, weights included; None: any number."""
    measure: float = 0.0
    """Seconds for which the best few schedules are timed on this machine; 0: none is."""

    def __post_init__(self) -> None:
        self._check_name()
        if self.objective not in OBJECTIVES:
            raise OptionError(f"objective: one of {', '.join(OBJECTIVES)}, not "
                              f"{quote(self.objective)}")
        if isinstance(self.measure, bool) or not 0 <= self.measure < float("inf"):
            raise OptionError(f"measure: a number of seconds, not {quote(self.measure)}")
        bounded = self.max_memory is not None or self.memory is not None
        if self.name in ("none", *RULES) and (bounded or self.objective != "time"):
            raise OptionError(f"search {self.label} takes no objective and no memory limit: say "
                              "default, exact or a strategy")
        if self.measure and (bounded or self.objective != "time"):
            raise OptionError("measure looks for the fastest schedule: it does not go with a "
                              "memory limit or another objective")
        limit = 1 if self.max_memory is None else self.max_memory
        for what, low, value in (("budget", 1, self.budget), ("seed", 0, self.seed),
                                 ("max_memory", 1, limit)):
            if isinstance(value, bool) or not isinstance(value, int) or value < low:
                raise OptionError(f"{what}: a whole number from {low}, not {quote(value)}")

    def _check_name(self) -> None:
        if not isinstance(self.name, str):
            if not hasattr(self.name, "ask"):
                raise OptionError(f"search: a name ({', '.join(SEARCHES)}) or a strategy with ask "
                                  f"and tell, not {type(self.name).__name__}")
            return
        known: tuple[str, ...] = SEARCHES
        if self.name not in known:
            known = (*SEARCHES, *(p.name.lower() for p in entry_points(group="evonnx.strategies")))
        if self.name not in known:
            raise OptionError(f"search: one of {', '.join(known)}, not {quote(self.name)}")

    def __str__(self) -> str:
        """All that the result depends on, for a cache key; a model that is not registered has no
        name that would say what it does."""
        if self.name == "none" and not self.measure:
            return self.label
        sizes = sorted(self.expect.items())
        return (f"{self.label} {self.model} {self.budget} {self.seed} {self.threads} {sizes} "
                f"{self.objective} {self.memory} {self.max_memory} {self.measure}")

    @property
    def label(self) -> str:
        """The name, or that of the strategy's class."""
        return self.name if isinstance(self.name, str) else type(self.name).__name__

    @property
    def named(self) -> bool:
        """Whether ``str`` says everything."""
        return self.name == "none" or isinstance(self.model, str) and isinstance(self.name, str)
