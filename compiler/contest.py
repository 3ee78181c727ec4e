"""Chooses among schedules by running them: what ``compile(..., measure=seconds)`` does.

A cost model ranks, it does not predict; so a few schedules are compiled and timed. All use the same
packed weights: where these lie in memory makes up to six percent of the time of one and the same
schedule, more than most schedules differ by. The contenders
are greedy fusion's, the search's, those of the published greedy rules, and the optima under other
cost models and under costs with noise: of all these the ones that share the fewest groups. First
their groups are timed one by one, in turns. Groups measured in different schedules may go together:
the proven optimum over all groups that were measured, at their measured times, is one contender
more. Of the schedule whose groups took the least time, the dearest contractions are timed in other
variants, in place, and the schedule with the fastest of each is another. Then whole calls are timed
in turns. The fastest wins if it beats greedy fusion by more than the noise of the machine; else
greedy fusion stays.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from statistics import median
from typing import Any

import numpy as np

from ..ir.graph import Graph
from ..ir.schedule import Schedule
from ..ir.target import Target
from ..ir.variants import Variant
from ..runtime.cache import ObjectCache
from ..runtime.constants import Key
from ..runtime.executable import Executable
from ..runtime.profile import profile
from ..search.choose import NARROW, Choice, Solver, objective_model
from ..search.cost import GroupCost, schedule_cost
from ..search.models import Bounds, CostModel, Roofline, facts
from ..search.models import model as model_of
from ..search.narrow import prove_narrow
from ..search.settings import RULES, Search
from ..search.space import Space, Survey
from ..search.symbols import counted
from ..search.variants import worth_timing
from .feeds import random_feeds
from .request import Clock, Stages

CONTENDERS = 6
"""Schedules that are compiled and timed, at most; the mixed one comes on top."""
NOISE = 0.01
"""Part of the time by which a schedule must be faster than greedy fusion's."""
KERNELS, VARIANTS = 8, 5
"""Distinct contractions, dearest first, that are timed in other variants, and variants of each."""
FASTER = 0.98
"""Part of the time of a group that another variant may take to replace it."""
_DRAWS, _SPREAD = 4, 0.25
"""Optima under noisy costs, and the spread of the logarithm of the noise."""
_BLOCK_S = 4e-3
"""Seconds of the calls of one contender in a row, about."""


@dataclass(slots=True, eq=False)
class Contender:
    """One schedule in the contest."""

    name: str
    schedule: Schedule
    chosen: tuple[int, ...]
    """Candidates it consists of."""
    executable: Executable | None = None
    blocks: list[float] = field(default_factory=list)
    """Seconds of a call, one per round."""

    @property
    def seconds(self) -> float:
        """Median over the rounds."""
        return median(self.blocks)


class Contest:
    """The schedules of one graph against each other on this machine."""

    def __init__(self, stages: Stages, target: Target, how: Search, threads: int | None,
                 objects: ObjectCache | None, clock: Clock) -> None:
        self.graph: Graph = stages.graph
        self.stages, self.target, self.how, self.threads = stages, target, how, threads
        self.objects, self.clock = objects, clock
        assert stages.fuser is not None
        greedy = stages.fuser.schedule()
        self.survey = Survey(self.graph, greedy, target, how)
        self.rules = {name: self.survey.rule(name) for name in RULES}
        self.space = self.survey.space(objective_model(how))
        self.contenders = [Contender("greedy", greedy, self.space.chosen)]

    def run(self, seconds: float) -> Stages:
        """The stages with the schedule that won, and a note that says how."""
        self.clock.stage("contenders")
        self._gather()
        for c in self.contenders:
            self._build(c)
        self.clock.stage("measure")
        feeds = random_feeds(self.executable.inputs, self.survey.sizes)
        times = self._groups(feeds, seconds / 4)
        for more in (self._mixed(times), self._tuned(times, feeds, seconds / 4)):
            if more is not None:
                self._build(more)
                self.contenders.append(more)
        if len(self.contenders) == 1:
            return self._won(self.contenders[0], "no schedule differs from greedy fusion's")
        rounds = self._calls(feeds, seconds / 2)
        plain = self.contenders[0]
        best = min(self.contenders, key=lambda c: c.seconds)
        gain = median(a / b for a, b in zip(plain.blocks, best.blocks, strict=True))
        told = ", ".join(f"{c.name} {c.seconds * 1e3:.4g} ms" for c in self.contenders)
        if best is not plain and gain <= 1 + NOISE:
            return self._won(plain, f"nothing beats greedy fusion by more than {NOISE:.0%} in "
                                    f"{rounds} rounds: {told}")
        return self._won(best, f"measured, {rounds} rounds: {told}")

    @property
    def executable(self) -> Executable:
        """Greedy fusion's program."""
        found = self.contenders[0].executable
        assert found is not None
        return found

    # -- contenders ------------------------------------------------------------------------

    def _gather(self) -> None:
        """The schedule of the search, then of all others those that share the fewest groups."""
        others = [self._contender(name, s) for name, s in self.rules.items()]
        models: list[tuple[str, CostModel]] = [("roofline", Roofline()), ("soft", Bounds(4))]
        others += [self._optimum(name, self.survey.space(m)) for name, m in models]
        rng = np.random.default_rng([self.how.seed, 0xC0])
        for draw in range(_DRAWS):
            noise = np.exp(rng.normal(0.0, _SPREAD, len(self.space.problem.cost)))
            noisy = replace(self.space, problem=self.space.problem.priced(
                self.space.problem.cost * noise))
            others.append(self._optimum(f"noise {draw}", noisy))
        choice = self.stages.choice
        if choice is not None:
            others = [self._contender(choice.search, choice.schedule), *others]
        while others and len(self.contenders) < CONTENDERS:
            known = {str(c.schedule) for c in self.contenders}
            others = [c for c in others if str(c.schedule) not in known]
            if not others:
                break
            most = max(others, key=self._new)
            following = others[0] if len(self.contenders) == 1 else most
            others.remove(following)
            self.contenders.append(following)

    def _optimum(self, name: str, space: Space) -> Contender:
        found, _ = Solver(replace(self.how, name="default")).solve(space)
        return self._contender(name, space.schedule(self.graph, found.chosen))

    def _contender(self, name: str, schedule: Schedule) -> Contender:
        """A schedule with its candidates; without any where one of its groups is none of them (a
        copy that nobody reads is dropped from a schedule): its groups are not timed."""
        try:
            chosen = self.survey.solution(schedule)
        except KeyError:
            chosen = ()
        return Contender(name, schedule, chosen)

    def _new(self, other: Contender) -> int:
        """Groups of a schedule that no contender so far has in common with it, at least."""
        return min(len({*other.chosen} - {*c.chosen}) for c in self.contenders)

    def _build(self, c: Contender) -> None:
        from .api import program_of

        program = program_of(self.graph, c.schedule, self.target)
        known: dict[Key, np.ndarray] = {}
        for other in self.contenders:
            if other.executable is not None:
                known |= other.executable.parts.constants
        c.executable = Executable(program, self.graph.constants, self.target, self.threads,
                                  self.objects, known=known)

    # -- timing ----------------------------------------------------------------------------

    def _groups(self, feeds: Mapping[str, Any], seconds: float) -> dict[int, float]:
        """Seconds of every candidate that some contender has: the median of rounds."""
        times: dict[int, list[float]] = {}
        for c, spent in _profiled(self.contenders, feeds, seconds):
            for k, t in zip(c.chosen, spent):
                times.setdefault(k, []).append(t)
        return {k: median(t) for k, t in times.items()}

    def _tuned(self, times: Mapping[int, float], feeds: Mapping[str, Any], seconds: float
               ) -> Contender | None:
        """The schedule whose groups took the least time, with the fastest variants of its dearest
        contractions; None where none is faster."""
        base = min((c for c in self.contenders if c.chosen),
                   key=lambda c: sum(times[k] for k in c.chosen))
        options = self._options(base, times)
        trials = [base]
        for j in range(max(map(len, options.values()), default=0)):
            groups = tuple(replace(g, variant=options[n][j]) if j < len(options.get(n, ())) else g
                           for n, g in enumerate(base.schedule.groups))
            trials.append(Contender(f"variants {j}", replace(base.schedule, groups=groups), ()))
            self._build(trials[-1])
        spent: dict[str, list[list[float]]] = {c.name: [] for c in trials}
        for c, row in _profiled(trials, feeds, seconds):
            spent[c.name].append(row)
        typical = [[median(t) for t in zip(*spent[c.name], strict=True)] for c in trials]
        chosen = list(base.schedule.groups)
        for n in options:
            best = min(range(len(trials)), key=lambda j: typical[j][n])
            if typical[best][n] < FASTER * typical[0][n]:
                chosen[n] = trials[best].schedule.groups[n]
        if tuple(chosen) == base.schedule.groups:
            return None
        return Contender("tuned", replace(base.schedule, groups=tuple(chosen)), base.chosen)

    def _options(self, base: Contender, times: Mapping[int, float]) -> dict[int, list[Variant]]:
        """Other variants of the dearest contractions, by the number of the group; one that writes
        over its image saves memory that no other does."""
        alike: dict[int, list[int]] = {}
        costs: dict[int, GroupCost] = {}
        for n, k in enumerate(base.chosen):
            cost = self.survey.offered[k][1].cost
            if cost.implementation == "contract" and ("over", 1) not in cost.variant:
                alike.setdefault(id(cost), []).append(n)
                costs[id(cost)] = cost
        dearest = sorted(alike, key=lambda key: -sum(times[base.chosen[n]] for n in alike[key]))
        model, found = model_of(self.how.model), dict[int, list[Variant]]()
        for key in dearest[:KERNELS]:
            own = costs[key]
            others = worth_timing(replace(own, variant=()), self.survey.sizes, model,
                                  self.survey.every, VARIANTS)
            for n in alike[key]:
                found[n] = [v for v in ((), *others) if v != base.schedule.groups[n].variant]
        return found

    def _mixed(self, times: dict[int, float]) -> Contender | None:
        """The best schedule of measured groups, at measured times; None if it is a contender."""
        dear = 1.0 + 10.0 * sum(times.values())
        costs = [times.get(k, dear) for k in range(len(self.space.problem.cost))]
        proof = prove_narrow(self.space.problem.priced(costs), NARROW)
        if proof is None or proof.cost >= dear:
            return None
        schedule = self.space.schedule(self.graph, proof.chosen)
        if any(str(schedule) == str(c.schedule) for c in self.contenders):
            return None
        return Contender("mixed", schedule, proof.chosen)

    def _calls(self, feeds: Mapping[str, Any], seconds: float) -> int:
        """Times whole calls in turns; answers the number of rounds."""
        calls = {}
        for c in self.contenders:
            assert c.executable is not None
            c.executable.run_list(feeds)
            start = time.perf_counter()
            c.executable.run_list(feeds)
            calls[c.name] = max(1, round(_BLOCK_S / max(time.perf_counter() - start, 1e-6)))
        end = time.perf_counter() + seconds
        done = 0
        while done < 5 or time.perf_counter() < end:
            for c in _rotated(self.contenders, done):
                assert c.executable is not None
                start = time.perf_counter()
                for _ in range(calls[c.name]):
                    c.executable.run_list(feeds)
                c.blocks.append((time.perf_counter() - start) / calls[c.name])
            done += 1
        return done

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


def _profiled(contenders: Sequence[Contender], feeds: Mapping[str, Any], seconds: float
              ) -> Iterator[tuple[Contender, list[float]]]:
    """Rounds of (contender, seconds of each of its groups), in turns, for at least ``seconds``."""
    end = time.perf_counter() + seconds
    done = 0
    while done < 3 or time.perf_counter() < end:
        for c in _rotated(contenders, done):
            assert c.executable is not None
            spent = [0.0] * len(c.schedule.groups)
            for step in profile(c.executable, feeds, 2):
                if step.group is not None and not step.body:
                    spent[step.group] += step.seconds
            yield c, spent
        done += 1


def _rotated(contenders: Sequence[Contender], by: int) -> list[Contender]:
    by %= len(contenders)
    return [*contenders[by:], *contenders[:by]]
