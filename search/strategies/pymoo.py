"""pymoo's algorithms as strategies (Blank and Deb, "pymoo: Multi-Objective Optimization in Python",
2020), for comparison: the same keys, decoder and budget as ours.

Needs the extra ``search``. Genetic algorithm and particle swarm minimize the cost, NSGA-II the
objectives.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ...ir.errors import OptionError
from ..evaluate import Decoded, Genomes
from ..problem import Problem
from .base import Base, keys_of
from .nsga2 import Archive

ALGORITHMS = ("GA", "PSO", "NSGA2")


class Pymoo(Base):
    """One of ``ALGORITHMS`` with ``size`` genomes and pymoo's defaults; ``objectives`` as those of
    ``Nsga2``. Raises ``OptionError`` for another algorithm, and where pymoo is not installed."""

    def __init__(self, algorithm: str = "GA", size: int = 100, objectives: Sequence[str] = ()
                 ) -> None:
        if algorithm not in ALGORITHMS:
            raise OptionError(f"pymoo: of {', '.join(ALGORITHMS)}, not {algorithm}")
        self.algorithm, self.size, self.objectives = algorithm, size, tuple(objectives)
        self.whole = algorithm == "NSGA2"

    def start(self, problem: Problem, first: np.ndarray, seed: int) -> None:
        """See ``Strategy``."""
        try:
            from pymoo.algorithms.moo.nsga2 import NSGA2
            from pymoo.algorithms.soo.nonconvex.ga import GA
            from pymoo.algorithms.soo.nonconvex.pso import PSO
            from pymoo.core.problem import Problem as Space
            from pymoo.core.termination import NoTermination
        except ImportError as error:
            raise OptionError("pymoo is not installed: pip install evonnx[search]") from error
        make: Any = {"GA": GA, "PSO": PSO, "NSGA2": NSGA2}[self.algorithm]
        rng = np.random.default_rng([seed, 0x9300])
        size = min(self.size, max(len(first), self.left))
        given = keys_of(first)[:size]
        noise = rng.random((size - len(given), problem.nodes))
        self._archive = Archive(problem, self.objectives)
        count = len(self._archive.columns) if self.whole else 1
        self._space = Space(n_var=problem.nodes, n_obj=count, xl=0.0, xu=1.0)
        self._made = make(pop_size=size, sampling=np.concatenate([given, noise]))
        self._made.setup(self._space, termination=NoTermination(), seed=seed, verbose=False)

    def ask(self) -> Genomes:
        """pymoo's next population."""
        self._asked = self._made.ask()
        return Genomes(np.asarray(self._asked.get("X"), np.float64))

    def tell(self, genomes: Genomes, found: Decoded) -> None:
        """Costs, or objectives, for pymoo."""
        from pymoo.core.evaluator import Evaluator
        from pymoo.problems.static import StaticProblem

        values = found.costs[:, None]
        if self.whole:
            values = self._archive.add(found)
        Evaluator().eval(StaticProblem(self._space, F=values), self._asked)
        self._made.tell(infills=self._asked)

    @property
    def front(self) -> tuple[Any, ...]:
        """What no other dominates; empty for the algorithms with one objective."""
        return self._archive.front if self.whole else ()
