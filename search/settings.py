"""What a caller may say about the search: plain settings, light to import."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ..ir.errors import OptionError, quote
from .registry import MODELS, STRATEGIES

if TYPE_CHECKING:
    from .models import CostModel
    from .strategies import Strategy

RULES = ("postdominator", "priority", "score")
"""Greedy rules that others have published; see ``rules``."""
SEARCHES = ("none", "default", "exact", *RULES)
"""Names of searches that are no strategies. ``none`` is greedy fusion alone; ``default`` proves the
optimum where that is quick and else follows the best beginnings, with candidates near greedy
fusion's and leaning to these; ``exact`` takes more candidates and more time."""
DEFAULT_SEARCH = "default"
"""The search of a compilation that names none."""
OBJECTIVES = ("time", "peak", "C", "D")
"""What may be minimized: the cost model's cost, the peak of memory, operations, bytes moved."""
BUDGET = 200_000
"""Evaluations of a strategy, if nothing else is said."""


def searches() -> tuple[str, ...]:
    """Names of all searches: ``SEARCHES``, and strategies that are shipped, registered with
    ``register_strategy`` or installed (entry point group ``evonnx.strategies``)."""
    return tuple(dict.fromkeys((*SEARCHES, *STRATEGIES.names())))


@dataclass(frozen=True, slots=True)
class Search:
    """How a schedule is looked for."""

    name: str | Strategy = "none"
    """One of ``searches()`` or a strategy; ``none`` takes greedy fusion as it is."""
    model: str | CostModel = "bounds"
    """Cost model, or its name."""
    budget: int = BUDGET
    """Evaluations of a strategy, at most; ideals that ``default`` follows where no proof ends."""
    seed: int = 0
    threads: int = 1
    """Threads that stages and variants of kernels are priced on: the cores of the target in a
    compilation, so that the schedule, and with it every bit of a result, is the same for any number
    of threads."""
    expect: Mapping[str, int] = field(default_factory=dict)
    """Sizes by symbol that the cost model counts on; what the others count as is read off the graph
    (``symbols``)."""
    objective: str = "time"
    """One of ``OBJECTIVES``."""
    memory: int | None = None
    """Bytes that the arena may take at the sizes expected; None: any number."""
    max_memory: int | None = None
    """Bytes that a call may take at the sizes expected, weights included; None: any number."""
    measure: float = 0.0
    """Seconds for which the best few schedules are timed on this machine; 0: none is."""

    @property
    def lean(self) -> bool:
        """Whether memory decides: it is what is minimized, or it is limited."""
        return self.objective == "peak" or self.memory is not None

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
        if isinstance(self.name, str):
            if self.name not in SEARCHES:
                STRATEGIES.check(self.name, SEARCHES)
        elif not hasattr(self.name, "ask"):
            raise OptionError(f"search: a name ({', '.join(searches())}) or a strategy with ask "
                              f"and tell, not {type(self.name).__name__}")

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
        """Whether ``str`` says everything: what a name stands for that is not shipped may change
        from one run to the next."""
        return self.name == "none" or (
            self.name in (*SEARCHES, *STRATEGIES.shipped) and self.model in MODELS.shipped)
