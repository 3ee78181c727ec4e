"""Strategies of the schedule search: the protocol, the shipped ones, and the registry of names.

A strategy is asked for genomes (``evaluate.Genomes``) and told what they turned out to be; each is
one file and one class. ``strategy("genetic")`` makes a registered one. People's own are any object
of the protocol ``base.Strategy``, handed to ``search.run.search``; ``register_strategy`` or the
entry point group ``evonnx.strategies`` of an installed package gives them names, an entry being a
class (or function) without required arguments.
"""

from __future__ import annotations

from functools import partial
from importlib.metadata import entry_points

from ...ir.errors import OptionError, quote
from .annealing import Annealing
from .base import Base, Factory, Strategy
from .genetic import Genetic
from .nsga2 import Nsga2
from .optuna import SAMPLERS, Optuna
from .proofs import Beam, Exact, Exhaustive
from .pymoo import ALGORITHMS, Pymoo
from .sampling import Random
from .swarm import Swarm

ENTRY_POINTS = "evonnx.strategies"

STRATEGIES: dict[str, Factory] = {
    "genetic": Genetic,
    "swarm": Swarm,
    "annealing": Annealing,
    "beam": Beam,
    "nsga2": Nsga2,
    "random": Random,
}
"""Heuristic strategies: name -> factory with default parameters."""

_REGISTERED: dict[str, Factory] = {
    **STRATEGIES, "exact": Exact, "exhaustive": Exhaustive,
    **{f"pymoo-{name.lower()}": partial(Pymoo, name) for name in ALGORITHMS},
    **{f"optuna-{name}": partial(Optuna, name) for name in SAMPLERS},
}  # fmt: skip


def register_strategy(name: str, factory: Factory) -> None:
    """Makes ``strategy(name)`` answer ``factory()``. Raises ``OptionError`` if the name is taken by
    another factory."""
    if _REGISTERED.setdefault(name.lower(), factory) is not factory:
        raise OptionError(f"strategy {quote(name)} is registered already")


def strategies() -> tuple[str, ...]:
    """Names of all registered and installed strategies, in alphabetic order."""
    installed = {point.name.lower() for point in entry_points(group=ENTRY_POINTS)}
    return tuple(sorted(installed | _REGISTERED.keys()))


def factory(name: str) -> Factory:
    """What makes the strategy of that name. Raises ``OptionError`` for a name nobody registered."""
    found = _REGISTERED.get(name.lower())
    if found is None:
        for point in entry_points(group=ENTRY_POINTS):
            if point.name.lower() == name.lower():
                found = point.load()
    if found is None:
        known = ", ".join(strategies())
        raise OptionError(f"there is no strategy {quote(name)}: known are {known}")
    return found


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
    "ENTRY_POINTS", "STRATEGIES", "Annealing", "Base", "Beam", "Exact", "Exhaustive", "Factory",
    "Genetic", "Nsga2", "Optuna", "Pymoo", "Random", "Strategy", "Swarm", "factory",
    "register_strategy", "strategies", "strategy",
]  # fmt: skip
