"""Chooses the schedule of a graph: greedy fusion, then a search over the candidates around it.

``choose`` collects the candidate groups, prices them with a cost model at the sizes given (or
assumed), and searches the partitions: ``exact`` proves the optimum over all of them by dynamic
programming over ideals, a strategy looks for it within a budget of evaluations. Greedy's schedule
is among the candidates and is where strategies start, so the result is never worse than greedy
under the model that chose it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from ..ir.dims import Dim
from ..ir.graph import Graph
from ..ir.schedule import Schedule
from ..ir.target import Target
from ..ir.types import TensorType, type_symbols
from .candidates import Candidate, Candidates, schedule_of
from .greedy import Fuser
from .models import Context, CostModel, GroupFacts, facts
from .models import model as model_of
from .problem import Found, Problem, make_problem
from .settings import ASSUMED, Search

IDEALS = 300_000
"""Ideals that ``exact`` visits at most."""

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True, slots=True)
class Choice:
    """A schedule and how it was found."""

    schedule: Schedule
    search: str
    """What searched: ``none`` is greedy fusion alone."""
    model: str = ""
    """Cost model the search used."""
    unit: str = ""
    """Unit of its costs."""
    cost: float = 0.0
    """Cost of the schedule, in the model's unit."""
    greedy: float = 0.0
    """Cost of greedy's schedule under the same model."""
    bound: float = 0.0
    """No partition into the candidates costs less."""
    proven: bool = False
    """Whether ``cost`` is proven to be the least over the candidates."""
    candidates: int = 0
    evaluations: int = 0
    """Schedules scored by a strategy; ideals visited by ``exact``."""
    note: str = ""
    """What the search could not do, in words."""

    def facts(self) -> dict[str, Any]:
        """Everything but the schedule, as plain values."""
        names = [f.name for f in fields(self) if f.name != "schedule"]
        return {name: getattr(self, name) for name in names}


_GREEDY = Search()


def choose(
    graph: Graph, fuser: Fuser, target: Target, how: Search = _GREEDY,
    progress: Progress | None = None,
) -> Choice:
    """The schedule for ``graph``, good for the sizes that are expected and right for all.

    ``fuser`` gives greedy's schedule and keeps its reasons. Raises ``OptionError`` for a cost
    model that does not exist."""
    greedy = fuser.run()
    if how.name == "none" or not greedy.groups:
        return Choice(greedy, "none")
    space = space_of(graph, greedy, target, how)
    found, note = _solve(space, how, progress)
    chosen, cost = found.chosen, found.cost
    if cost >= space.greedy:  # equal under the model: the simple one
        chosen, cost = space.chosen, space.greedy
    schedule = schedule_of(graph, (space.candidates[k] for k in chosen))
    return Choice(schedule, how.name, space.model, space.unit, cost, space.greedy, found.bound,
                  found.proven, len(space.candidates), found.evaluations, note)


@dataclass(frozen=True)
class Space:
    """The schedules of a graph that a search can reach, priced."""

    problem: Problem
    candidates: tuple[Candidate, ...]
    """The candidates of the problem; empty for a problem without a graph."""
    chosen: tuple[int, ...]
    """Greedy's schedule: candidates in execution order."""
    greedy: float
    """Its cost."""
    model: str
    unit: str
    objectives: tuple[str, ...] = ()
    """Names of what a model of several objectives minimizes; empty for a model of one."""
    parts: np.ndarray | None = None
    """f64[candidates, objectives] where there are several."""

    def vector(self, chosen: Sequence[int]) -> dict[str, float]:
        """The objectives of a solution by name; empty where there is only the cost."""
        if self.parts is None:
            return {}
        return dict(zip(self.objectives, self.parts[list(chosen)].sum(axis=0).tolist()))

    @property
    def start(self) -> np.ndarray:
        """i4[n]: the nodes in the order of greedy's schedule."""
        return np.array([v for k in self.chosen for v in self.problem.group(k)], np.int32)

    @classmethod
    def plain(cls, problem: Problem) -> Space:
        """A problem without a graph, started from one node per group in the given order."""
        alone = {problem.group(g)[0]: g for g in range(problem.candidates)
                 if len(problem.group(g)) == 1}  # fmt: skip
        chosen = tuple(alone[v] for v in range(problem.nodes))
        return cls(problem, (), chosen, float(problem.cost[list(chosen)].sum()), "given", "")


def space_of(graph: Graph, greedy: Schedule, target: Target, how: Search) -> Space:
    """The candidates around ``greedy`` under the cost model of ``how``."""
    model = model_of(how.model)
    table = Candidates(graph, [greedy])
    members = list(table.found)
    costs = price(graph, table, model, target, how)
    problem = make_problem(len(table.units), table.edges, members, costs)
    number = {m: k for k, m in enumerate(members)}
    chosen = tuple(number[table.members(group)] for group in greedy.groups)
    return Space(problem, tuple(table.found.values()), chosen,
                 float(sum(costs[k] for k in chosen)), model.name, model.unit)


def _solve(space: Space, how: Search, progress: Progress | None) -> tuple[Found, str]:
    """The best solution, and what the search could not do."""
    from .exact import prove  # compiles with Numba, which greedy fusion does not need
    from .run import search
    from .strategies import strategy

    name, note = how.name, ""
    if name == "exact":
        proof = prove(space.problem, IDEALS)
        if proof is not None:
            return Found(proof.cost, proof.chosen, proof.ideals, proof.cost, proven=True), ""
        name = "annealing"
        note = f"more than {IDEALS} ideals: annealing instead, without a proof"

    def watch(done: int, cost: float, bound: float) -> None:
        if progress is not None:
            progress(f"search ({cost:.4g})", min(done, how.budget), how.budget)

    return search(space.problem, strategy(name), space.start[None], how.budget, how.seed,
                  watch), note


def price(graph: Graph, table: Candidates, model: CostModel, target: Target, how: Search
          ) -> np.ndarray:
    """f64[candidates]: what the model says each costs."""
    numbers, constants = counted(graph, table, how.expect)
    return model.costs(numbers, Context(target, max(1, how.threads), constants))


def counted(graph: Graph, table: Candidates, expect: Mapping[str, int]
            ) -> tuple[list[GroupFacts], float]:
    """The numbers of every candidate at the sizes expected (or assumed), and the bytes of all
    constants of the graph."""
    symbols = {s for n in graph.nodes for t in n.types for s in type_symbols(t)}
    known = {s: expect.get(s, ASSUMED) for s in symbols}
    numbers = [facts(c.cost, known) for c in table.found.values()]
    held: dict[str, Dim] = {}
    for node in graph.nodes:
        if node.op == "const" and isinstance(node.types[0], TensorType):
            held[node.attrs["digest"]] = node.types[0].nbytes()
    return numbers, float(sum(n for n in held.values() if isinstance(n, int)))
