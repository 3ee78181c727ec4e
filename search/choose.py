"""Chooses the schedule of a graph: greedy fusion, then a search over the candidates around it.

``choose`` collects the candidate groups, prices them with a cost model at the sizes that are
expected or read off the graph (``symbols``), and searches the partitions. ``default`` and ``exact``
prove the optimum over all of them by dynamic programming over ideals, a strategy looks for it
within a budget of evaluations; ``default`` does not begin where no schedule could be noticeably
faster (``worth``). The schedules of greedy fusion and of the published rules (``rules``) are among
the candidates and are where strategies start, so the result is never worse than any of them under
the model that chose it, but for what ``default`` leaves to groups that have proved good (``LEAN``).
Groups are priced on one thread, whatever threads there are; then groups of the result that may run
side by side are offered as stages, on all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from math import inf
from typing import TYPE_CHECKING, Any

import numpy as np

from ..ir.collection import no_collection
from ..ir.graph import Graph
from ..ir.schedule import Schedule
from ..ir.target import Target
from .greedy import Fuser
from .models import CD, SECONDS, Context, CostModel
from .models import model as model_of
from .narrow import narrow_beam, prove_narrow, recombine
from .problem import Found, InfeasibleError, Problem, Proof
from .settings import RULES, Search
from .solutions import floor, peak
from .space import Space, Survey, constant_bytes
from .symbols import counted, sizes_of
from .worth import HARDLY, fusible, spare

if TYPE_CHECKING:
    from .peaks import Least
    from .strategies import Strategy

NARROW = 20_000
"""Ideals that are visited in plain Python at most, before anything is compiled for the search."""
IDEALS = 300_000
"""Ideals that a proof visits at most."""
BEAM = 10_000
"""Ideals that ``default`` follows in plain Python where the optimum cannot be proved: what searches
on compiled loops would cost a fresh installation half a minute to compile."""
QUICK = 20_000
"""Moves of ``default`` where the optimum under a memory limit cannot be proved."""
PATIENCE = 1000
"""Moves for each node with which the least peak is looked for where it cannot be proved, at least:
some 3 s for 1,000 nodes. A tenth of it ends a third higher where concatenations are dissolved."""
TRUSTED = "priority"
"""The rule whose groups ``default`` takes as it does those of greedy fusion."""
LEAN = 0.02
"""Part by which ``default`` wants seconds predicted for a group to be less than what the groups of
greedy fusion and of the rule ``priority`` take before it prefers it: what is closer, the cost model
cannot tell apart, and its errors favor large groups."""
_SHRINK = 0.97
"""Part of the peak that the next round of a search for less memory may need."""
_ROUNDS = 12
"""Part of the budget that the first round of such a search gets; one behind a round that failed
gets twice as much."""

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
    """Cost of the schedule's groups, in the model's unit: on one thread."""
    greedy: float = 0.0
    """Cost of greedy's schedule under the same model."""
    bound: float = 0.0
    """No partition into the candidates costs less."""
    proven: bool = False
    """Whether ``cost``, or the peak where that is the objective, is proven to be the least over the
    candidates."""
    candidates: int = 0
    evaluations: int = 0
    """Schedules scored by a strategy; ideals visited by a proof."""
    note: str = ""
    """What the search could not do, in words."""
    peak: float = 0.0
    """Bytes of the arena that the schedule needs by the model of the search, at most."""
    counted: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    """(size, why) that every symbol counted as; empty where nothing was priced."""

    @property
    def sizes(self) -> dict[str, int]:
        """Size that every symbol counted as."""
        return {name: size for name, (size, _) in self.counted.items()}

    def facts(self) -> dict[str, Any]:
        """Everything but the schedule, as plain values."""
        names = [f.name for f in fields(self) if f.name != "schedule"]
        return {name: getattr(self, name) for name in names} | {
            "counted": {name: list(told) for name, told in self.counted.items()}}


_GREEDY = Search()


def choose(
    graph: Graph, fuser: Fuser, target: Target, how: Search = _GREEDY,
    progress: Progress | None = None,
) -> Choice:
    """The schedule for ``graph``, good for the sizes that are expected and right for all.

    ``fuser`` gives greedy's schedule and keeps its reasons. Raises ``OptionError`` for a search or
    a cost model that does not exist, ``InfeasibleError`` where no schedule keeps the memory
    limit."""
    with no_collection():
        return _choose(graph, fuser, target, how, progress)


def _choose(graph: Graph, fuser: Fuser, target: Target, how: Search, progress: Progress | None
            ) -> Choice:
    greedy = fuser.run()
    if how.name == "none" or not greedy.groups:
        return Choice(greedy, "none")
    told = counted(graph, how.expect)
    how = replace(how, expect={name: c.size for name, c in told.items()})  # read off once
    return replace(_searched(graph, fuser, greedy, target, how, progress), counted=told)


def _searched(graph: Graph, fuser: Fuser, greedy: Schedule, target: Target, how: Search,
              progress: Progress | None) -> Choice:
    """The choice of a search other than ``none``."""
    if how.name == "default" and (settled := _settled(graph, fuser, greedy, target, how)):
        return settled
    survey = Survey(graph, greedy, target, how, fuser.judge)
    if how.name in RULES:
        return _by_rule(survey, how)
    solver = Solver(how, progress)
    # Before the table is complete.
    ruled = {name: survey.rule(name, more=name == TRUSTED) for name in RULES}
    known = {name: survey.solution(schedule) for name, schedule in ruled.items()}
    solver.also, solver.trusted = list(known.values()), known[TRUSTED]
    model = objective_model(how)
    space = survey.space(model)
    found, note = solver.solve(space)
    chosen, cost = found.chosen, found.cost
    fits = peak(space.problem, space.chosen) <= space.problem.limit
    if how.objective != "peak" and fits and cost >= space.greedy:  # equal: the simple one
        chosen, cost = space.chosen, space.greedy
    plan, solution = space, chosen
    if model.unit == SECONDS and how.objective == "time":
        plan, solution = _side_by_side(survey, space, chosen, model)
    return Choice(plan.schedule(graph, solution), how.label, space.model, space.unit, cost,
                  space.greedy, found.bound, found.proven, len(space.candidates),
                  found.evaluations, note, peak(plan.problem, solution))


def _side_by_side(survey: Survey, space: Space, chosen: tuple[int, ...], model: CostModel
                  ) -> tuple[Space, tuple[int, ...]]:
    """The groups of a solution of ``space``, in stages where the model says that pays: a space and
    its solution."""
    stages = survey.stages(chosen, model)
    if not stages:
        return space, chosen
    wider = survey.space(model, stages)
    leaning, alone = wider.problem.cost.copy(), len(space.candidates)
    leaning[alone:] *= 1.0 + LEAN
    pays = [k for k, s in enumerate(stages, alone) if leaning[k] < leaning[list(s.parts)].sum()]
    solutions = [chosen, pays]  # the parts of others one after another are no slower
    joined = recombine(wider.problem.priced(leaning), solutions, NARROW)
    if joined is None or peak(wider.problem, joined) > wider.problem.limit:
        return space, chosen
    return wider, joined


def _settled(graph: Graph, fuser: Fuser, greedy: Schedule, target: Target, how: Search
             ) -> Choice | None:
    """Greedy's schedule where a search for time could not pay, with the reason; else None."""
    model = model_of(how.model)
    if how.objective != "time" or how.memory is not None or model.unit != SECONDS:
        return None
    if fusible(graph) < 2:
        return Choice(greedy, how.label, model.name, model.unit, note="nothing to fuse")
    context = Context(target, 1, constant_bytes(graph))
    cost, saved = spare(fuser, greedy, model, context, sizes_of(graph, how.expect))
    if saved >= HARDLY:
        return None
    return Choice(greedy, how.label, model.name, model.unit, cost, cost, max(cost - saved, 0.0),
                  note="no schedule can be a microsecond faster")


def objective_model(how: Search) -> CostModel:
    """The cost model that prices the objective of the settings; for the peak it breaks ties."""
    if how.objective == "C":
        return CD(1.0, 0.0)
    if how.objective == "D":
        return CD(0.0, 1.0)
    return model_of(how.model)


def _by_rule(survey: Survey, how: Search) -> Choice:
    schedule = survey.rule(how.label)
    space = survey.space()
    chosen = survey.solution(schedule)
    cost = float(sum(space.problem.cost[k] for k in chosen))
    return Choice(schedule, how.label, space.model, space.unit, cost, space.greedy,
                  candidates=len(space.candidates), peak=peak(space.problem, chosen))


class Solver:
    """Solves problems as the settings say."""

    def __init__(self, how: Search, progress: Progress | None = None) -> None:
        self.how, self.progress = how, progress
        self.also: list[tuple[int, ...]] = []
        """Known solutions besides greedy's: where strategies start, and not to be worse than."""
        self.trusted: tuple[int, ...] = ()
        """One whose groups ``default`` takes as it does greedy's."""
        self.strategy = _strategy(how)

    def solve(self, space: Space) -> tuple[Found, str]:
        """The best solution, and what the search could not do."""
        if self.how.objective == "peak":
            return self._least_memory(space)
        if self.strategy is not None:
            return self._search(space, self.strategy, self.how.budget), ""
        if self.how.name == "default" and space.problem.limit == inf:
            factors = _leaning(space, self.trusted)
            leaning = space.problem.priced(space.problem.cost * factors)
            proof = prove_narrow(leaning, NARROW)
            if proof is not None:
                return _leant(proof, space, float(factors.max(initial=1.0))), ""
            beam = narrow_beam(leaning, min(BEAM, self.how.budget))
            return (_followed(beam, leaning, [space.chosen, *self.also], space),
                    "too many ideals for a proof: the best of each size followed")
        proof = prove_narrow(space.problem, NARROW)
        provable = self.how.name == "exact" or space.problem.limit < inf
        if proof is None and provable:
            from .exact import prove  # compiled by Numba, which takes seconds the first time

            proof = prove(space.problem, IDEALS)
        if proof is not None:
            return _proven(proof), ""
        budget = self.how.budget if self.how.name == "exact" else min(QUICK, self.how.budget)
        within = () if space.problem.limit == inf else self._within(space)
        return (self._search(space, _named("annealing"), budget, within),
                "too many ideals for a proof: annealing instead")

    def _within(self, space: Space) -> tuple[tuple[int, ...], ...]:
        """A solution within the memory limit, if one is found at once; raises ``InfeasibleError``
        with the least peak where none can exist."""
        from .descend import Descent
        from .peaks import PROOF

        found, final, _ = Descent(space.problem).within(space.problem.limit, PROOF)
        if found is None and final:
            least = self._least_peak(space)
            raise InfeasibleError(space.problem.limit, least.peak, least.proven)
        return () if found is None else (found,)

    def _least_peak(self, space: Space) -> Least:
        """The least peak of any order, whatever the limit and the cost."""
        from .peaks import least_peak

        moves = max(self.how.budget, PATIENCE * space.problem.nodes)
        given = np.arange(space.problem.nodes, dtype=np.int32)
        starts = np.stack([space.start, given, *map(space.order, self.also)])
        return least_peak(space.problem, starts, moves, self.how.seed)

    def _least_memory(self, space: Space) -> tuple[Found, str]:
        """The least peak, then the least cost under it; raises ``InfeasibleError`` where that is
        above the limit."""
        if self.strategy is None:
            from .exact import prove

            least = self._least_peak(space)
            if least.peak > space.problem.limit:
                raise InfeasibleError(space.problem.limit, least.peak, least.proven)
            note = "" if least.proven else (
                "too wide for a proof: the least peak found, not proven; no schedule needs less "
                f"than {least.bound:,.0f} bytes")
            proof = prove(space.problem.limited(least.peak), IDEALS)
            if proof is not None:
                return replace(_proven(proof), proven=least.proven), note
            cost = float(sum(space.problem.cost[k] for k in least.chosen))
            note = note or "the least peak is proven, the least cost under it is not"
            return (Found(cost, least.chosen, least.evaluations, floor(space.problem),
                          least.proven, peak=least.peak), note)
        known = min(peak(space.problem, space.chosen), space.problem.limit)
        share = max(1, self.how.budget // _ROUNDS)
        within = replace(space, problem=space.problem.limited(known))  # greedy's order keeps it
        best = self._search(within, self.strategy, share)
        spent = best.evaluations
        while spent < self.how.budget and best.peak > 0:
            share = min(share, self.how.budget - spent)
            tighter = replace(space, problem=space.problem.limited(best.peak * _SHRINK))
            try:
                best = self._search(tighter, self.strategy, share)
                spent += best.evaluations
            except InfeasibleError:
                spent, share = spent + share, 2 * share
        best.evaluations = spent
        return best, "the least peak is not proven"

    def _search(self, space: Space, strategy: Strategy, budget: int,
                more: Sequence[tuple[int, ...]] = ()) -> Found:
        from .run import search

        def watch(done: int, cost: float, bound: float) -> None:
            if self.progress is not None:
                gap = f", {cost / bound - 1:.1%} above the bound" if bound > 0 else ""
                self.progress(f"search ({cost:.4g}{gap})", min(done, budget), budget)

        starts = [space.start, *map(space.order, [*self.also, *more])]
        return search(space.problem, strategy, np.stack(starts), budget, self.how.seed, watch)


def _leaning(space: Space, trusted: tuple[int, ...]) -> np.ndarray:
    """Factors on the costs of the candidates, 1 for greedy's groups, and hardly more for those of
    the ``trusted`` solution: of equal schedules the one most like greedy's is the cheapest."""
    more = LEAN if space.unit == SECONDS else 1e-9
    factors = np.full(len(space.problem.cost), 1.0 + more)
    factors[list(trusted)] = 1.0 + 1e-9
    factors[list(space.chosen)] = 1.0
    return factors


def _leant(proof: Proof, space: Space, most: float) -> Found:
    """The proven optimum of leaning costs: no schedule costs less than that over ``most``."""
    cost = float(sum(space.problem.cost[k] for k in proof.chosen))
    bound = min(proof.cost / most, cost)
    proven = cost <= bound * (1 + 1e-8)
    return Found(cost, proof.chosen, proof.ideals, bound, proven, peak=proof.peak)


def _followed(found: Found, leaning: Problem, known: Sequence[tuple[int, ...]], space: Space
              ) -> Found:
    """The best that the groups of what a search of leaning costs found and of known solutions make
    together, at the costs that are meant."""
    solutions = [found.chosen, *known]
    joined = recombine(leaning, solutions, NARROW)
    chosen = min(solutions if joined is None else [joined, *solutions],
                 key=lambda s: float(leaning.cost[list(s)].sum()))
    cost = float(sum(space.problem.cost[k] for k in chosen))
    return replace(found, chosen=chosen, cost=cost, bound=min(floor(space.problem), cost))


def _proven(proof: Proof) -> Found:
    return Found(proof.cost, proof.chosen, proof.ideals, proof.cost, proven=True, peak=proof.peak)


def _strategy(how: Search) -> Strategy | None:
    """The strategy of the settings; None where a proof is looked for."""
    if not isinstance(how.name, str):
        return how.name
    return None if how.name in ("default", "exact") else _named(how.name)


def _named(name: str) -> Strategy:
    from .strategies import strategy

    return strategy(name)
