"""Strategies of the schedule search: the protocol, the shipped ones, and the registry of names.

A strategy is asked for genomes (``evaluate.Genomes``) and told what they turned out to be; each is
one file and one class. ``strategy("genetic")`` makes a registered one. People's own are any object
of the protocol ``base.Strategy``, handed to ``search.run.search``; ``register_strategy`` or the
entry point group ``evonnx.strategies`` of an installed package gives them names, an entry being a
class (or function) without required arguments.
"""

from __future__ import annotations

from functools import partial

from ...ir.errors import OptionError, quote
from ..registry import STRATEGIES as REGISTRY
from .annealing import Annealing
from .base import Base, Factory, Strategy
from .genetic import Genetic
from .nsga2 import Nsga2
from .optuna import SAMPLERS, Optuna
from .proofs import Beam, Exact, Exhaustive
from .pymoo import ALGORITHMS, Pymoo
from .sampling import Random
from .swarm import Swarm

STRATEGIES: dict[str, Factory] = {
    "genetic": Genetic,
    "swarm": Swarm,
    "annealing": Annealing,
    "beam": Beam,
    "nsga2": Nsga2,
    "random": Random,
}
"""Heuristic strategies: name -> factory with default parameters."""

SHIPPED: dict[str, Factory] = {
    **STRATEGIES, "exact": Exact, "exhaustive": Exhaustive,
    **{f"pymoo-{name.lower()}": partial(Pymoo, name) for name in ALGORITHMS},
    **{f"optuna-{name}": partial(Optuna, name) for name in SAMPLERS},
    **{f"optuna-rules-{name}": partial(Optuna, name, over="rules") for name in ("tpe", "grid")},
}  # fmt: skip
"""All shipped strategies, by the names that ``registry`` lists."""

register_strategy = REGISTRY.register
"""``(name, factory)``: makes ``strategy(name)`` answer ``factory()``."""
strategies = REGISTRY.names
"""Names of all that are registered or installed, in alphabetic order."""
factory = REGISTRY.factory
"""What makes the strategy of a name; raises ``OptionError`` for one nobody registered."""


def strategy(name: str) -> Strategy:
    """The strategy of that name with its default parameters. Raises ``OptionError`` for a name
    nobody registered and for what is no strategy."""
    made = factory(name)()
    missing = [part for part in ("start", "ask", "tell") if not callable(getattr(made, part, None))]
    if missing:
        raise OptionError(f"strategy {quote(name)}: {type(made).__name__} lacks a part of the "
                          f"protocol ({', '.join(missing)})")
    return made


__all__ = [
    "SHIPPED", "STRATEGIES", "Annealing", "Base", "Beam", "Exact", "Exhaustive", "Factory",
    "Genetic", "Nsga2", "Optuna", "Pymoo", "Random", "Strategy", "Swarm", "factory",
    "register_strategy", "strategies", "strategy",
]  # fmt: skip
