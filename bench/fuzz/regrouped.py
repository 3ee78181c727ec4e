"""Schedules drawn at random: other groups, siblings, nodes computed again, groups side by side.

Every candidate group gets a random cost, and the cheapest partition is taken: what a search might
choose under some cost model or other. Groups that do not depend on one another then form stages.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ...ir.graph import Graph
from ...ir.schedule import KERNELS, Schedule
from ...ir.target import Target
from ...search.greedy import Fuser
from ...search.narrow import prove_narrow
from ...search.settings import Search
from ...search.space import Stage, Survey

_IDEALS = 5000
_STAGES = 6


def regrouped(graph: Graph, target: Target, rng: np.random.Generator) -> Schedule | None:
    """A schedule of ``graph`` drawn by ``rng``; None where it would take too long to find one."""
    fuser = Fuser(graph)
    greedy = fuser.run()
    if not greedy.groups:
        return None
    survey = Survey(graph, greedy, target, Search("default", threads=2), fuser.judge)
    space = survey.space()
    proof = prove_narrow(space.problem.priced(_costs(len(space.candidates), rng)), _IDEALS)
    if proof is None:
        return None
    stages = _stages(survey, proof.chosen, rng)
    if stages:
        space = survey.space(stages=stages)
        costs = _costs(len(space.candidates), rng)
        costs[list(proof.chosen)] *= 1e-3  # the same groups, but some of them side by side
        costs[-len(stages) :] *= 1e-4
        proof = prove_narrow(space.problem.priced(costs), _IDEALS) or proof
    return space.schedule(graph, proof.chosen)


def _costs(count: int, rng: np.random.Generator) -> np.ndarray:
    return np.asarray(rng.exponential(1.0, count) + 1e-6)


def _stages(survey: Survey, chosen: Sequence[int], rng: np.random.Generator) -> list[Stage]:
    """Pairs of groups that may run side by side."""
    kernels = [k for k in chosen if survey.facts[k].implementation in KERNELS]
    found = []
    for place, a in enumerate(kernels):
        for b in kernels[place + 1 :]:
            one, other = survey.members[a], survey.members[b]
            if len(one) + len(other) <= 48 and survey.table.independent(one, other):
                found.append(Stage((a, b), (1, 1)))
    return [found[k] for k in rng.permutation(len(found))[:_STAGES]]
