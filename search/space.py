"""From a graph to a scheduling problem: candidates, what they cost, and what they keep in memory.

*Memory.* A value occupies memory from the group that writes it to the last that reads it, through
views as well. Outputs of the model are memory of the caller's and are left out, as are inputs and
constants: what is planned here is the arena. A result that is written over an operand takes
nothing. Copies of a recomputed node count one by one even where they are one buffer, so that the
plan can only be smaller; where memory is what is minimized or limited, nothing is computed again.

*Stages.* Groups that do not depend on one another may run side by side, each on its share of the
threads. Such a set is one more candidate, priced by ``together``, so that searches and proofs weigh
it against everything else. Candidates for it come from a schedule that is already good: two groups
of it or more that are independent and near one another, where running side by side saves time.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple

import numpy as np

from ..ir.dim_values import estimate
from ..ir.dims import Dim
from ..ir.graph import Graph, Value
from ..ir.ops import lookup
from ..ir.schedule import KERNELS, Schedule
from ..ir.target import Target
from ..ir.types import TensorType
from ..ir.variants import values as settings
from .candidates import Candidate, Candidates, schedule_of
from .cost import GroupCost
from .judge import Judge
from .models import Context, CostModel, GroupFacts, facts
from .models import model as model_of
from .models.base import Together
from .overwriting import behind_views, surely
from .problem import MOST_NODES, Problem, make_problem
from .settings import Search
from .symbols import sizes_of
from .variants import better

QUICK_CHECKS, QUICK_EACH = 400, 8
"""Structures that ``default`` asks for, at most: in all, which takes under half a second, and per
distinct group of greedy fusion, which takes a small part of the time its kernel is compiled in."""
NEAR = 16
"""Groups behind one of a schedule that are tried side by side with it."""


class Stage(NamedTuple):
    """Candidates that run side by side."""

    parts: tuple[int, ...]
    """Numbers of the candidates."""
    threads: tuple[int, ...]
    """Share of each."""


@dataclass(frozen=True, slots=True)
class _Priced:
    """What a survey's candidates cost under one model."""

    model: CostModel
    costs: np.ndarray
    """f64[candidates]."""
    parts: np.ndarray
    """f64[candidates, objectives]."""
    together: Together


@dataclass(frozen=True)
class Space:
    """The schedules of a graph that a search can reach, priced."""

    problem: Problem
    candidates: tuple[Candidate | Stage, ...]
    """The candidates of the problem; empty for a problem without a graph."""
    chosen: tuple[int, ...]
    """Greedy's schedule: candidates in execution order."""
    greedy: float
    """Its cost."""
    model: str
    unit: str

    def vector(self, chosen: Sequence[int]) -> dict[str, float]:
        """The objectives of a solution by name; empty where there is only the cost."""
        names, parts = self.problem.objectives, self.problem.parts
        return dict(zip(names, parts[list(chosen)].sum(axis=0).tolist())) if len(names) > 1 else {}

    @property
    def start(self) -> np.ndarray:
        """i4[n]: the nodes in the order of greedy's schedule."""
        return self.order(self.chosen)

    def order(self, chosen: Sequence[int]) -> np.ndarray:
        """i4[n]: the nodes in the order of a solution."""
        return np.array([v for k in chosen for v in self.problem.group(k)], np.int32)

    def schedule(self, graph: Graph, chosen: Sequence[int]) -> Schedule:
        """A solution as a schedule of the graph."""
        plan: list[Candidate] = []
        stages: list[tuple[int, int] | None] = []
        for number, k in enumerate(chosen):
            found = self.candidates[k]
            if isinstance(found, Candidate):
                plan.append(found)
                stages.append(None)
                continue
            for part, share in zip(found.parts, found.threads, strict=True):
                plan.append(self.candidates[part])  # type: ignore[arg-type]  # stages do not nest
                stages.append((number, share))
        return schedule_of(graph, plan, stages)

    @classmethod
    def plain(cls, problem: Problem) -> Space:
        """A problem without a graph, started from one node per group in the given order."""
        alone = {members[0]: g for g, members in enumerate(problem.groups) if len(members) == 1}
        chosen = tuple(alone[v] for v in range(problem.nodes))
        return cls(problem, (), chosen, float(problem.cost[list(chosen)].sum()), "given", "")


class Survey:
    """The candidates of a graph around some schedules and their numbers: what ``space`` prices."""

    def __init__(self, graph: Graph, greedy: Schedule, target: Target, how: Search,
                 judge: Judge | None = None) -> None:
        self.graph, self.greedy, self.target, self.how = graph, greedy, target, how
        judge = Judge(graph) if judge is None else judge
        checks = None
        if how.name == "default" and not how.lean:
            checks = min(QUICK_CHECKS, QUICK_EACH * distinct(graph, greedy, judge))
        self.table = Candidates(graph, [greedy], checks=checks, judge=judge,
                                recompute=not how.lean)
        self.every = Context(target, max(1, how.threads), constant_bytes(graph))
        """What stages, and variants of kernels, are priced on."""
        self.context = replace(self.every, threads=1)
        """What groups are priced on: of the threads that one leaves idle, the runtime makes use for
        what it does not depend on, so that what counts is the work."""
        self.sizes = sizes_of(graph, how.expect)
        self._last: _Priced | None = None
        self._numbers: dict[int, tuple[GroupCost, GroupFacts]] = {}
        """The numbers of groups by the identity of their cost, which stays as that is kept."""

    @cached_property
    def offered(self) -> list[tuple[tuple[int, ...], Candidate]]:
        """All candidates with their units: those of the table, then other variants of them. From
        here on the table does not grow."""
        plain = list(self.table.found.items())
        costs = list({id(c.cost): c.cost for _, c in plain}.values())  # one per structure
        model = model_of(self.how.model)
        other = better(costs, self.sizes, model, self.every)
        cheaper = {id(c): o for c, o in zip(costs, other, strict=True) if o is not None}
        found = plain + [(m, replace(c, cost=cheaper[id(c.cost)])) for m, c in plain
                         if id(c.cost) in cheaper]
        if self.how.lean:
            found += [(m, o) for m, c in plain if (o := self._over(m, c)) is not None]
        return found

    def _over(self, units: tuple[int, ...], found: Candidate) -> Candidate | None:
        """The candidate with the kernel that writes over its image, where it surely can."""
        product = None if found.cost.work is None else found.cost.work.product
        target = self.context.target
        if product is None or "over" not in settings(product.form, target) or surely(
                self.graph, self.table, units, found):
            return None
        other = replace(found, cost=replace(found.cost, variant=(("over", 1),)))
        return other if surely(self.graph, self.table, units, other) else None

    @cached_property
    def members(self) -> list[tuple[int, ...]]:
        """Units of each candidate."""
        return [m for m, _ in self.offered]

    @cached_property
    def number(self) -> dict[tuple[int, ...], int]:
        """Number of each candidate without settings by its units."""
        self.members  # noqa: B018  # the table is complete
        return {m: k for k, m in enumerate(self.table.found)}

    @cached_property
    def facts(self) -> list[GroupFacts]:
        """The numbers of each candidate."""
        known: dict[int, GroupFacts] = {}
        found = []
        for (_, c), over in zip(self.offered, self._overwrites, strict=True):
            numbers, key = self._counted(c.cost), id(c.cost)
            if over and key not in known:
                known[key] = replace(numbers, over=numbers.outputs)
            found.append(known[key] if over else numbers)
        return found

    def _counted(self, cost: GroupCost) -> GroupFacts:
        """The numbers of a group, counted once for all candidates of a structure: they share their
        cost."""
        known = self._numbers.get(id(cost))
        if known is None:
            numbers = facts(cost, self.sizes, self.target)
            known = self._numbers[id(cost)] = cost, numbers
        return known[1]

    @cached_property
    def _overwrites(self) -> list[bool]:
        """Whether each candidate surely writes its result over an operand."""
        return [surely(self.graph, self.table, units, c) for units, c in self.offered]

    def rule(self, name: str, more: bool = False) -> Schedule:
        """The schedule of a published greedy rule (``rules``); new groups become candidates. Where
        it may ask for ``more``, the table asks for as many structures again."""
        from .rules import RULES, Prices

        if more:
            self.table.ask_more()

        model = model_of("cd" if name == "score" else self.how.model)

        def price(some: Sequence[Candidate]) -> list[float]:
            numbers = [self._counted(c.cost) for c in some]
            found: np.ndarray = (model.parts(numbers, self.context)[:, 1]  # type: ignore[attr-defined]
                                 if name == "score" else model.costs(numbers, self.context))
            return found.tolist()

        return RULES[name](self.table, Prices(price))

    def space(self, model: CostModel | None = None, stages: Sequence[Stage] = (),
              alone: bool | None = None) -> Space:
        """The space priced by a model (None: the one of the settings), ``stages`` in it; ``alone``:
        on one thread (None: if there are no stages)."""
        priced = self._priced(model)
        model = priced.model
        costs, parts = priced.costs, priced.parts
        if stages or alone is False:
            costs, parts = self._costs(model, self.every)
        seconds = [self._side_by_side(s, priced) for s in stages]
        rows = ([parts[list(s.parts)].sum(axis=0) for s in stages]
                if len(model.objectives) > 1 else [[cost] for cost in seconds])
        members = [*self.members, *(self.joined(s.parts) for s in stages)]
        values, written = self._memory
        written = [*written, *(sum(written[k] for k in s.parts) for s in stages)]
        edges = {*self.table.edges, *((v[0], c) for v in values for c in v[2])}
        costs = np.append(costs, seconds)
        problem = make_problem(
            len(self.table.units), edges, members, costs, parts=np.vstack([parts, *rows]),
            objectives=model.objectives, values=values, written=written,
            limit=float("inf") if self.how.memory is None else self.how.memory)  # fmt: skip
        chosen = self.solution(self.greedy)
        return Space(problem, (*(c for _, c in self.offered), *stages), chosen,
                     float(sum(costs[k] for k in chosen)), model.name, model.unit)

    def _priced(self, model: CostModel | None) -> _Priced:
        """All candidates priced by a model (None: the one of the settings), once for all questions
        in a row about one model."""
        if model is None or self._last is None or self._last.model is not model:
            model = model_of(self.how.model) if model is None else model
            self._last = _Priced(model, *self._costs(model, self.context),
                                 Together(model, self.every))
        return self._last

    def _costs(self, model: CostModel, context: Context) -> tuple[np.ndarray, np.ndarray]:
        """``costs`` and ``parts`` of all candidates."""
        numbers, at = self._distinct
        costs = model.costs(numbers, context)
        parts = np.asarray(model.parts(numbers, context)  # type: ignore[attr-defined]
                           if len(model.objectives) > 1 else costs[:, None])
        return costs[at], parts[at]

    @cached_property
    def _distinct(self) -> tuple[list[GroupFacts], list[int]]:
        """The numbers of candidates, those of a structure once, and the place there of each."""
        every = {id(numbers): numbers for numbers in self.facts}
        place = {key: k for k, key in enumerate(every)}
        return list(every.values()), [place[id(numbers)] for numbers in self.facts]

    @cached_property
    def _memory(self) -> tuple[list[tuple[int, float, list[int], bool]], list[float]]:
        candidates = [c for _, c in self.offered]
        return memory(self.graph, self.table, self.sizes, candidates, self._overwrites)

    def solution(self, schedule: Schedule) -> tuple[int, ...]:
        """The candidates that a schedule consists of, in its order; stages are not looked at."""
        return tuple(self.number[units] for units in self.table.assigned(schedule))

    def joined(self, parts: Sequence[int]) -> tuple[int, ...]:
        """The units of several candidates."""
        return tuple(sorted(v for k in parts for v in self.members[k]))

    def stages(self, chosen: Sequence[int], model: CostModel | None = None) -> list[Stage]:
        """Groups of a solution that the model says run faster side by side: pairs, and what the
        pair of each group that saves most grows to while one more group saves more."""
        threads = self.every.threads
        if threads < 2:
            return []
        priced = self._priced(model)
        alone = priced.model.costs([self.facts[k] for k in chosen], self.every)
        costs = dict(zip(chosen, alone.tolist(), strict=True))
        kernels = [k for k in chosen
                   if self.facts[k].implementation in KERNELS and costs[k] > self.target.sync_s]
        found = []
        for place, first in enumerate(kernels):
            best, saves = Stage((first,), (threads,)), 0.0
            others = kernels[place + 1 : place + 1 + NEAR]
            while len(best.parts) < threads:
                wider = [s for k in others if (s := self._wider(best, k, costs)) is not None]
                gains = [(gain, s) for s in wider
                         if (gain := self._saved(s, costs, priced)) > saves]
                if not gains:
                    break
                if len(best.parts) == 1:
                    found += [s for _, s in gains]
                saves, best = max(gains, key=lambda known: known[0])
                if len(best.parts) > 2:
                    found.append(best)
                others = [s.parts[-1] for _, s in gains if s is not best]
        return found

    def _wider(self, stage: Stage, k: int, costs: Mapping[int, float]) -> Stage | None:
        """A stage with one group more, unless that depends on another of it."""
        parts = (*stage.parts, k)
        if sum(len(self.members[p]) for p in parts) > MOST_NODES:
            return None
        if not all(self.table.independent(self.members[p], self.members[k]) for p in stage.parts):
            return None
        return Stage(parts, shares(self.every.threads, [costs[p] for p in parts]))

    def _side_by_side(self, stage: Stage, priced: _Priced) -> float:
        """Seconds that a stage takes."""
        return priced.together.seconds([self.facts[k] for k in stage.parts], stage.threads)

    def _saved(self, stage: Stage, costs: Mapping[int, float], priced: _Priced) -> float:
        """Seconds by which groups are faster side by side than one after the other."""
        return sum(costs[k] for k in stage.parts) - self._side_by_side(stage, priced)


def shares(threads: int, costs: Sequence[float]) -> tuple[int, ...]:
    """``threads`` among as many groups or fewer: one for each, and the rest one by one to the group
    that has the most to do for each of its threads."""
    given = [1] * len(costs)
    for _ in range(threads - len(costs)):
        given[max(range(len(costs)), key=lambda k: costs[k] / given[k])] += 1
    return tuple(given)


def space_of(graph: Graph, greedy: Schedule, target: Target, how: Search) -> Space:
    """The candidates around ``greedy`` under the cost model of ``how``."""
    return Survey(graph, greedy, target, how).space()


def distinct(graph: Graph, schedule: Schedule, judge: Judge) -> int:
    """Structures among the groups of a schedule that run as kernels."""
    every = zip(schedule.groups, schedule.members(graph), schedule.written(graph), strict=True)
    return len({judge.structure(nodes, written) for g, nodes, written in every
                if g.implementation in KERNELS})


def constant_bytes(graph: Graph) -> float:
    """Bytes of all constants of the graph, equal ones once."""
    held: dict[str, Dim] = {}
    for node in graph.nodes:
        if node.op == "const" and isinstance(node.types[0], TensorType):
            held[node.attrs["digest"]] = node.types[0].nbytes()
    return float(sum(n for n in held.values() if isinstance(n, int)))


def arena_bytes(graph: Graph, v: Value, sizes: Mapping[str, int]) -> float:
    """Bytes that a value takes in the arena; outputs take none."""
    if not isinstance(v.type, TensorType) or v in graph.output_values:
        return 0.0
    size = v.type.nbytes()
    return float(size if isinstance(size, int) else estimate(size, sizes))


def memory(graph: Graph, table: Candidates, sizes: Mapping[str, int],
           candidates: Sequence[Candidate], overwrites: Sequence[bool]
           ) -> tuple[list[tuple[int, float, list[int], bool]], list[float]]:
    """(values as ``make_problem`` takes them, bytes that each of the ``candidates`` writes besides
    what ``overwrites`` an operand), the arena only."""
    values = []
    for node, units in table.of.items():
        if lookup(node.op).has("view"):
            continue
        size = sum(arena_bytes(graph, v, sizes) for v in node.outputs)
        for u in units if size else ():
            readers = behind_views(graph, table.readers(u))
            consumers = sorted({w for r in readers for w in table.of[r]})
            if consumers:
                values.append((u, size, consumers, False))
    written = [0.0 if c.implementation == "view" or over
               else sum(arena_bytes(graph, v, sizes) for v in c.written)
               for c, over in zip(candidates, overwrites, strict=True)]
    return values, written
