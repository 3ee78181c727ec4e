"""A study: searches, cost models, budgets and seeds on many graphs, as tidy records.

Every combination is one record (a dictionary of plain values, one line of JSON): what was searched,
how, what it cost, greedy's cost under the same model, the bound or the proven optimum, and the
improvements over time. Graphs are imported, optimized and turned into a scheduling problem once per
cost model; nothing is compiled, so a study needs no machine but the one it thinks about.

    for record in evonnx.study(["m.onnx"], searches=("genetic", "swarm"), seeds=range(30)): ...
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..ir.errors import OptionError
from ..ir.graph import Graph
from ..ir.target import Target
from ..search.choose import Space, space_of
from ..search.exact import Proof, prove
from ..search.greedy import Fuser
from ..search.models import CostModel
from ..search.problem import Problem
from ..search.run import search as run
from ..search.settings import SEARCHES, Search
from ..search.strategies import STRATEGIES, Strategy
from .options import target_of
from .request import Request

Source = str | os.PathLike[str] | Graph | Problem
"""A model file, a graph (used as it is), or a scheduling problem."""


def study(
    graphs: Iterable[Source] | Mapping[str, Source],
    *,
    cost_models: Sequence[str | CostModel] = ("bounds",),
    searches: Sequence[str | Strategy] = ("genetic", "swarm", "annealing", "random"),
    budgets: Sequence[int] = (20_000,),
    seeds: Iterable[int] = (0,),
    target: str | os.PathLike[str] | Target = "cpu",
    threads: int = 1,
    expect: Mapping[str, int] | None = None,
    ideals: int = 300_000,
    out: str | os.PathLike[str] | None = None,
) -> list[dict[str, Any]]:
    """Runs every combination and answers the records, in order; ``out`` also gets them as lines of
    JSON, each as soon as it is known.

    ``searches`` are names (``SEARCHES`` without "none") or strategies of one's own; ``ideals``
    bounds the proof of the optimum that every record is compared with (0: no proof). Raises
    ``OptionError`` for an unknown search, and what importing a model raises."""
    for s in searches:
        if isinstance(s, str) and s not in SEARCHES[1:]:
            raise OptionError(f"searches: of {', '.join(SEARCHES[1:])}, not {s!r}")
    named = graphs.items() if isinstance(graphs, Mapping) else (
        (_name(source, k), source) for k, source in enumerate(graphs))
    where, drawn = target_of(target), list(seeds)
    records = []
    with open(out, "w", encoding="utf-8") if out is not None else _Nowhere() as file:
        for name, source in named:
            for space in _spaces(source, cost_models, where, threads, dict(expect or {})):
                proof = prove(space.problem, ideals) if ideals else None
                base = {"graph": name, "nodes": space.problem.nodes,
                        "candidates": space.problem.candidates, "cost_model": space.model,
                        "target": where.name, "threads": threads, "greedy": space.greedy,
                        "optimum": None if proof is None else proof.cost}  # fmt: skip
                for record in _records(space, proof, searches, budgets, drawn):
                    records.append({**base, **record})
                    file.write(json.dumps(records[-1]) + "\n")
                    file.flush()
    return records


class _Nowhere:
    """A file that keeps nothing."""

    def __enter__(self) -> _Nowhere:
        return self

    def __exit__(self, *_: object) -> None:
        return None

    def write(self, text: str) -> None:
        """Drops ``text``."""

    def flush(self) -> None:
        """Nothing to do."""


def _name(source: Source, number: int) -> str:
    return Path(source).stem if isinstance(source, (str, os.PathLike)) else f"graph {number}"


def _spaces(source: Source, cost_models: Sequence[str | CostModel], target: Target, threads: int,
            expect: dict[str, int]) -> Iterator[Space]:
    if isinstance(source, Problem):
        yield Space.plain(source)
        return
    graph = source if isinstance(source, Graph) else Request(source, target).derive().graph
    greedy = Fuser(graph).run()
    for model in cost_models:
        yield space_of(graph, greedy, target, Search("exact", model, threads=threads,
                                                     expect=expect))


def _records(space: Space, proof: Proof | None, searches: Sequence[str | Strategy],
             budgets: Sequence[int], seeds: Sequence[int]) -> Iterator[dict[str, Any]]:
    for search in searches:
        if search == "exact":
            yield {"search": "exact", "budget": None, "seed": None, "seconds": None,
                   "cost": None if proof is None else proof.cost, "gap": 0.0 if proof else None,
                   "evaluations": 0 if proof is None else proof.ideals, "history": []}  # fmt: skip
            continue
        for budget in budgets:
            for seed in seeds:
                strategy = STRATEGIES[search]() if isinstance(search, str) else search
                began = time.perf_counter()
                found = run(space.problem, strategy, space.start[None], budget, seed)
                best = proof.cost if proof is not None else found.bound
                yield {"search": search if isinstance(search, str) else type(search).__name__,
                       "budget": budget, "seed": seed, "seconds": time.perf_counter() - began,
                       "cost": found.cost, "gap": found.cost / best - 1 if best > 0 else 0.0,
                       "evaluations": found.evaluations, "history": found.history}  # fmt: skip
