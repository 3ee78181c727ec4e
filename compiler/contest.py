"""Chooses among schedules by running them: what ``compile(..., measure=seconds)`` does.

A cost model ranks, it does not predict. So the search goes on with measured times in place of
predicted ones, in *waves*. A wave is a few schedules that are compiled and timed together:

* the best one so far, which is the optimum over all groups that were measured, at their measured
  times, each structure in its fastest variant (``measured``);
* optima where groups that were not measured may be had for a little less than what the cost model,
  corrected by what was measured nearby, expects of them; of the model's doubts several are drawn;
* the best one again with other variants of the structures that take most of the time, several
  structures at once, since groups are timed one by one.

The first wave consists of the schedules of greedy fusion, of the search, of the published greedy
rules, and of optima under other cost models. All programs read the same packed weights: where these
lie in memory makes up to six percent of the time of one and the same schedule, more than most
schedules differ by.

Times of single groups do not say what lies in which cache when others run. So the last word is that
of whole calls in turns, of the schedules above and the best of the waves; who is surely slower than
another is not called any longer. The fastest wins if it beats greedy fusion by more than the noise
of the machine; else greedy fusion stays.

*Budget.* About ``seconds`` are spent measuring: ``CALLS`` of them on whole calls, the rest on waves
of ``WAVE_S`` each. Compilation comes on top, some seconds a wave, and is kept in the cache of
objects. Two seconds are one wave, the choice among rules and searches; from 20 on variants of all
kernels that matter have had their turn.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from statistics import median
from tempfile import TemporaryDirectory

import numpy as np

from ..ir.graph import Constants, Graph
from ..ir.schedule import Group, Schedule
from ..ir.target import Target
from ..ir.variants import Variant
from ..runtime.cache import ObjectCache
from ..runtime.constants import Key, prepare
from ..runtime.executable import Executable, Parts
from ..runtime.objects import build
from ..search.choose import BEAM, NARROW, Choice, objective_model
from ..search.cost import schedule_cost
from ..search.models import Bounds, CostModel, Roofline, facts
from ..search.models import model as model_of
from ..search.narrow import narrow_beam, prove_narrow, recombine
from ..search.settings import RULES, Search
from ..search.space import Survey
from ..search.symbols import counted
from ..search.variants import worth_timing
from .build import Lowered
from .feeds import random_feeds
from .measured import Measured
from .request import Clock, Stages
from .turns import PROBABLY, Contender, slower, time_calls, time_groups

NOISE = 0.003
"""Part of the time by which a schedule must be faster than greedy fusion's, surely or not."""
CALLS = 0.35
"""Part of the budget for whole calls."""
WAVE_S = 1.5
"""Seconds of measuring in a wave, about."""
TRIALS = 4
"""Variants of each structure that are timed in a wave."""
SHARE = 0.003
"""Part of the time from which on other variants of a structure are tried."""
DOUBTS, DOUBT = 2, 0.1
"""Optima of a wave under doubts about what was not measured; spread of the doubts' logarithm."""
HOPE = 0.98
"""Part of its expected time that something costs which was not measured."""
FINALISTS = 5
"""Schedules of the waves that take part in whole calls."""


class Contest:
    """The schedules of one graph against each other on this machine."""

    def __init__(self, stages: Stages, target: Target, how: Search, threads: int | None,
                 objects: ObjectCache | None, clock: Clock) -> None:
        self.graph: Graph = stages.graph
        self.stages, self.target, self.how, self.threads = stages, target, how, threads
        self.objects, self.clock = objects, clock
        assert stages.fuser is not None
        greedy = stages.fuser.schedule()
        wide = replace(how, name="exact") if how.name in ("default", *RULES) else how
        self.survey = Survey(self.graph, greedy, target, wide, stages.fuser.judge)
        self.rules = {name: self.survey.rule(name) for name in RULES}
        self.space = self.survey.space(objective_model(how))
        self.measured = Measured(self.survey, self.space)
        self.contenders = [self._contender("greedy", greedy)]
        """Those of the first wave."""
        self.best: list[Contender] = []
        """The best one of each wave."""
        self.feeds: dict[str, np.ndarray] = {}
        self._packed: dict[Key, np.ndarray] = {}
        self._lowered: Lowered = {}
        self._tried: dict[int, set[Variant]] = {}
        """Variants by structure, timed or refused."""

    def run(self, seconds: float) -> Stages:
        """The stages with the schedule that won, and a note that says how."""
        if self.objects is not None:
            return self._run(seconds)
        with TemporaryDirectory() as folder:  # waves share most of their kernels
            self.objects = ObjectCache(folder)
            return self._run(seconds)

    def _run(self, seconds: float) -> Stages:
        self.clock.stage("contenders")
        self._gather()
        self._build(self.contenders)
        self.feeds = random_feeds(self.contenders[0].program.inputs, self.survey.sizes)
        left = seconds * (1 - CALLS)
        wave, number = self.contenders, 0
        while wave:
            self._build(wave)
            self.clock.stage("measure")
            left -= time_groups(wave, self.feeds, min(WAVE_S, left), self.measured)
            self._forget()
            if left < WAVE_S / 2:
                break
            self.clock.stage("contenders")
            number += 1
            wave = self._wave(number)
        return self._decided(self._finalists(), seconds * CALLS)

    # -- contenders ------------------------------------------------------------------------

    def _gather(self) -> None:
        """The first wave: the search's schedule, the rules', and optima under other models."""
        choice = self.stages.choice
        others = [] if choice is None else [self._contender(choice.search, choice.schedule)]
        others += [self._contender(name, s) for name, s in self.rules.items()]
        models: list[tuple[str, CostModel]] = [("roofline", Roofline()), ("soft", Bounds(4))]
        for name, model in models:
            chosen = self._optimum(self.survey.space(model).problem.cost)
            others.append(self._contender(name, self.space.schedule(self.graph, chosen)))
        chosen = self._optimum(self.space.problem.cost)
        others.append(self._contender("predicted", self.space.schedule(self.graph, chosen)))
        for c in others:
            self._add(self.contenders, c)

    def _add(self, to: list[Contender], c: Contender) -> bool:
        """Adds a contender unless an equal one is there."""
        new = all(c.schedule.groups != other.schedule.groups for other in to)
        if new:
            to.append(c)
        return new

    def _optimum(self, prices: np.ndarray) -> tuple[int, ...]:
        """The best solution at these prices that is found."""
        problem = self.space.problem.priced(prices)
        proof = prove_narrow(problem, NARROW)
        if proof is not None:
            return proof.chosen
        found = [tuple(narrow_beam(problem, BEAM).chosen)]
        known = [tuple(k for k in c.places if k is not None)
                 for c in (*self.contenders, *self.best) if None not in c.places]
        joined = recombine(problem, [*known, *found], NARROW)
        found += known if joined is None else [joined]
        return min(found, key=lambda chosen: float(prices[list(chosen)].sum()))

    def _contender(self, name: str, schedule: Schedule) -> Contender:
        return Contender(name, schedule, self.measured.places(schedule))

    def _champion(self, name: str) -> Contender:
        """The optimum over all groups that were measured, at their measured times."""
        chosen = self._optimum(self.measured.prices())
        return self._contender(name, self.measured.schedule(chosen))

    def _wave(self, number: int) -> list[Contender]:
        """The schedules of one wave; none where there is nothing new to try."""
        base = self._champion(f"wave {number}")
        wave, new = [base], False
        rng = np.random.default_rng([self.how.seed, number])
        structures = max(self.measured.structures) + 1
        for draw in range(1 + DOUBTS):
            doubt = np.exp(rng.normal(0.0, DOUBT, structures)) if draw else None
            chosen = self._optimum(self.measured.prices(HOPE, doubt))
            found = self._contender("", self.measured.schedule(chosen))
            if self._is_new(found):
                new |= self._add(wave, found)
        trials = self._trials(base)
        if not new and not trials and any(base.schedule.groups == c.schedule.groups
                                          for c in (*self.contenders, *self.best)):
            return []
        self.best.append(base)
        return wave + trials

    def _is_new(self, c: Contender) -> bool:
        """Whether some group of a contender was never measured."""
        times, structures = self.measured.times, self.measured.structures
        return any(k is not None and group.variant not in times.get(structures[k], {})
                   for k, group in zip(c.places, c.schedule.groups, strict=True))

    def _trials(self, base: Contender) -> list[Contender]:
        """A schedule with other variants of the structures that take most of its time."""
        trials: list[list[Group]] = []
        for structure, at in self._heavy(base).items():
            for j, variant in enumerate(self._options(structure, base, at[0])):
                if j == len(trials):
                    trials.append(list(base.schedule.groups))
                for n in at:
                    trials[j][n] = replace(trials[j][n], variant=variant)
        return [Contender(f"variants {j}", replace(base.schedule, groups=tuple(groups)),
                          base.places) for j, groups in enumerate(trials)]

    def _heavy(self, base: Contender) -> dict[int, list[int]]:
        """Numbers of the groups of a schedule by structure, of the structures that take more than
        ``SHARE`` of its time."""
        prices = self.measured.prices()
        groups: dict[int, list[int]] = {}
        spent: dict[int, float] = {}
        for n, k in enumerate(base.places):
            if k is not None:
                structure = self.measured.structures[k]
                groups.setdefault(structure, []).append(n)
                spent[structure] = spent.get(structure, 0.0) + float(prices[k])
        least = SHARE * sum(spent.values())
        return {s: at for s, at in groups.items() if spent[s] > least}

    def _options(self, structure: int, base: Contender, group: int) -> list[Variant]:
        """Variants of a structure that were not timed, for a group of a schedule; where it writes
        over its image it saves memory that no other does, and there are none."""
        own, k = base.schedule.groups[group].variant, base.places[group]
        assert k is not None
        if ("over", 1) in own:
            return []
        tried = self._tried.setdefault(structure, set())
        tried |= {own, *self.measured.times.get(structure, {})}
        cost = replace(self.survey.offered[k][1].cost, variant=own)
        found = worth_timing(cost, self.survey.sizes, model_of(self.how.model), self.survey.every,
                             tried, TRIALS)
        tried |= set(found)
        return found

    def _build(self, contenders: Sequence[Contender]) -> None:
        """Compiles what is not compiled yet, all kernels together."""
        from .api import program_of

        todo = [c for c in contenders if c.executable is None]
        programs = [program_of(self.graph, c.schedule, self.target, lowered=self._lowered)
                    for c in todo]
        walks = [list(p.walk()) for p in programs]
        code = build([p for walk in walks for p in walk], self.target, self.objects)
        for c, program, walk in zip(todo, programs, walks, strict=True):
            own = prepare(walk, self.graph.constants, known=self._packed)
            self._packed |= own
            c.executable = Executable(program, Constants(), self.target, self.threads,
                                      self.objects, parts=Parts(code, own, {}))

    def _forget(self) -> None:
        """Lets go of programs that are not called again, and of weights packed for them alone."""
        for c in self.best[: 1 - FINALISTS]:
            c.executable = None
        kept = [c.executable for c in (*self.contenders, *self.best)]
        self._packed = {key: array for program in kept if program is not None
                        for key, array in program.parts.constants.items()}

    # -- the last word ---------------------------------------------------------------------

    def _finalists(self) -> list[Contender]:
        """Greedy fusion, the search's schedule and the rules', and the best of the waves."""
        finalists = list(self.contenders)
        champion = self._champion("measured")
        self._add(finalists, champion)
        for c in reversed(self.best[-FINALISTS + 1:]):
            self._add(finalists, c)
        self._build(finalists)
        return finalists

    def _decided(self, finalists: list[Contender], seconds: float) -> Stages:
        """The winner of whole calls."""
        if len(finalists) == 1:
            return self._won(finalists[0], "no schedule differs from greedy fusion's")
        rounds = time_calls(finalists, self.feeds, seconds)
        plain = finalists[0]
        gains = {c: median(a / b for a, b in zip(plain.blocks, c.blocks, strict=True))
                 for c in finalists if len(c.blocks) == rounds}
        best = max(gains, key=gains.__getitem__)
        told = ", ".join(f"{c.name} {c.seconds * 1e3:.4g} ms" for c in finalists)
        if best is not plain and (gains[best] <= 1 + NOISE or not slower(plain, best, PROBABLY)):
            return self._won(plain, "nothing clearly beats greedy fusion by more than "
                                    f"{NOISE:.1%} in {rounds} rounds: {told}")
        return self._won(best, f"measured, {rounds} rounds: {told}")

    def _won(self, winner: Contender, note: str) -> Stages:
        costs = self.space.problem.cost
        before = self.stages.choice
        numbers = [facts(c, self.survey.sizes, self.target)
                   for c in schedule_cost(self.graph, winner.schedule)]
        model = model_of(self.how.model)
        cost = float(model.costs(numbers, self.survey.context).sum())
        choice = Choice(
            winner.schedule, f"measure {winner.name}", self.space.model, self.space.unit, cost,
            self.space.greedy, 0.0 if before is None else before.bound, False,
            len(costs), 0 if before is None else before.evaluations, note,
            counted=counted(self.graph, self.how.expect),
        )  # fmt: skip
        return replace(self.stages, schedule=winner.schedule, choice=choice)
