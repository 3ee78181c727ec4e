"""What each freedom of the search is worth: order, fusion, parallel groups and kernels, alone and
together.

``ablate`` solves one graph under restrictions and answers a record for each, to be drawn by
``figures.ablation``:

``order only``     every node is a group of its own, in any order (a sum does not see the order:
                   what it changes is memory)
``fusion only``    the nodes stay in the order of the program, which is cut best
``parallel only``  every node is a group of its own; two that are independent may run side by side
``kernels only``   every node is a group of its own, each in the best variant of its kernel
``joint``          order, fusion and variants, and then groups of the result side by side

Restricted problems are solved by proof, or by annealing where they are too wide; ``proven`` says
which. ``unfused`` is the cost of every node alone, one after the other.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

import numpy as np

from ..ir.target import Target
from ..search.evaluate import cut
from ..search.exact import prove
from ..search.greedy import Fuser
from ..search.models import CostModel
from ..search.models import model as model_of
from ..search.problem import Problem, make_problem
from ..search.run import search
from ..search.settings import Search
from ..search.space import Survey
from ..search.strategies import Annealing
from .options import machine_of
from .records import RECORD, Record, circumstances
from .study import optimized

if TYPE_CHECKING:
    from .study import Source

KINDS = ("order only", "fusion only", "parallel only", "kernels only", "joint")


def ablate(
    source: Source, cost_model: str | CostModel = "bounds", *, name: str = "graph",
    target: str | os.PathLike[str] | Target = "cpu", threads: int = 2,
    expect: Mapping[str, int] | None = None, ideals: int = 300_000, budget: int = 50_000,
    seed: int = 0,
) -> list[Record]:
    """A record per restriction. Groups run side by side only on several ``threads`` and under a
    model that predicts seconds. Raises what importing raises."""
    machine, model = machine_of(target), model_of(cost_model)
    graph = optimized(source, machine)
    how = Search("exact", model, threads=threads, expect=dict(expect or {}))
    survey = Survey(graph, Fuser(graph).run(), machine, how)
    space = survey.space(model, alone=False)
    alone = [survey.number[units] for units in survey.table.of.values()]
    unfused = float(space.problem.cost[alone].sum())

    def solve(problem: Problem) -> tuple[float, bool, tuple[int, ...]]:
        proof = prove(problem, ideals)
        if proof is not None:
            return proof.cost, True, proof.chosen
        first = np.arange(problem.nodes, dtype=np.int32)[None]
        found = search(problem, Annealing(), first, budget, seed)
        return found.cost, found.proven, found.chosen

    def beside(chosen: Iterable[int]) -> tuple[Problem, list[int]]:
        """The space with groups of a solution side by side, and the numbers of these."""
        stages = survey.stages(list(chosen), model) if model.unit == "s" else []
        wider = survey.space(model, stages).problem
        return wider, list(range(wider.candidates - len(stages), wider.candidates))

    wide, pairs = beside(alone)
    plain = _only(space.problem, range(len(survey.table.found)))
    program = cut(plain, np.arange(plain.nodes, dtype=np.int32))
    best = {k: float(space.problem.cost[v[0]]) for v in space.problem.variants for k in v}
    joint, _, groups = solve(space.problem)
    both, proven, _ = solve(beside(groups)[0])
    results = {
        "order only": solve(_only(space.problem, alone))[:2],
        "fusion only": (float(plain.cost[program].sum()), True),
        "parallel only": solve(_only(wide, [*alone, *pairs]))[:2],
        "kernels only": (sum(best[k] for k in alone), True),
        "joint": (min(joint, both), proven),
    }
    base = {"record": RECORD, "graph": name, "digest": graph.digest, "cost_model": model.name,
            "unit": model.unit, "target": machine.name, "threads": threads, "unfused": unfused,
            "greedy": space.greedy, "seed": seed, **circumstances()}  # fmt: skip
    return [{**base, "ablation": kind, "cost": cost, "proven": sure}
            for kind, (cost, sure) in results.items()]  # fmt: skip


def _only(problem: Problem, kept: Iterable[int]) -> Problem:
    """The problem of the candidates ``kept`` and of every unit alone, without memory."""
    numbers = {problem.group(k): k for k in kept}
    for k in range(problem.candidates):
        if len(problem.group(k)) == 1:
            numbers.setdefault(problem.group(k), k)
    return make_problem(problem.nodes, problem.edges, list(numbers),
                        problem.cost[list(numbers.values())])
