"""Strategies of the schedule search, by name; each is one file and one class.

A strategy is asked for genomes (priorities f8[p, n], see ``evaluate``) and told what they cost.
``STRATEGIES`` maps names to factories; a researcher's own is any object of the protocol
``base.Strategy``, handed to ``search.run.search``.
"""

from __future__ import annotations

from collections.abc import Callable

from .annealing import Annealing
from .base import Strategy
from .genetic import Genetic
from .sampling import Random
from .swarm import Swarm

STRATEGIES: dict[str, Callable[[], Strategy]] = {
    "genetic": Genetic,
    "swarm": Swarm,
    "annealing": Annealing,
    "random": Random,
}
"""Name -> factory with default parameters."""

__all__ = ["STRATEGIES", "Annealing", "Genetic", "Random", "Strategy", "Swarm"]
