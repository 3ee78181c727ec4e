"""Exports the dataset of a model: every candidate group, its numbers, predictions and seconds.

``dataset`` surveys the optimized graph (``search.dataset``), lets cost models explain every
candidate, and on request times some of them on this machine: a candidate is cut out as a graph of
its own, constants included, compiled with the implementation it has in the problem, and run on
random inputs at the expected sizes; its time is that of its kernel steps alone, the least of
several rounds. Candidates of equal structure are equal code, so one of them is timed for all. The
groups of greedy's schedule come first, then others drawn with the seed.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from ..ir.errors import EvonnxError, OptionError
from ..ir.graph import Graph
from ..ir.groups import cut_out
from ..ir.schedule import Group, Schedule
from ..ir.target import Target
from ..search.candidates import Candidates
from ..search.dataset import Dataset, save, survey
from ..search.greedy import Fuser
from ..search.models import CostModel
from ..search.models.base import FREE
from ..search.symbols import sizes_of
from .options import machine_of
from .records import circumstances
from .study import optimized

if TYPE_CHECKING:
    from .study import Source

_ROUNDS = 7


def dataset(
    source: Source, folder: str | os.PathLike[str] | None = None, *,
    cost_models: Sequence[str | CostModel] = ("bounds", "roofline", "cd"),
    target: str | os.PathLike[str] | Target = "cpu", threads: int = 1,
    expect: Mapping[str, int] | None = None, measure: int = 0, seed: int = 0, name: str = "graph",
) -> Dataset:
    """The dataset of a model, written into ``folder`` if one is given.

    ``measure`` distinct candidates are timed on this machine (a second each, about, since each is
    compiled); what could not be timed is counted by reason in ``origin``. Raises what importing
    raises, ``OptionError`` for a model that does not exist, and for measurements on a machine that
    is not this one."""
    machine = machine_of(target)
    if measure and not machine.runs_here():
        raise OptionError(f"measure: target {machine.name} is not this machine")
    graph = optimized(source, machine)
    table = Candidates(graph, [Fuser(graph).run()])
    made = survey(graph, machine, threads, expect, name, table=table).explained(*cost_models)
    sizes = sizes_of(graph, expect or {})
    origin = {**circumstances(), "seed": seed, "expect": dict(expect or {}), "sizes": sizes}
    made = replace(made, origin=origin)
    if measure:
        made = _timed(made, table, measure, seed, sizes)
    if folder is not None:
        save(made, folder)
    return made


def _timed(data: Dataset, table: Candidates, count: int, seed: int, sizes: Mapping[str, int]
           ) -> Dataset:
    """The dataset with ``count`` distinct candidates of ``table``, which it was made of, timed."""
    graph, found = table.graph, list(table.found.values())
    members = [tuple(graph.nodes[i] for i in c.nodes) for c in found]
    others = np.random.default_rng([seed, 0xDA7A]).permutation(len(members)).tolist()
    alike: dict[Any, list[int]] = {}
    for k in dict.fromkeys([*data.greedy, *others]):
        if data.groups[k].implementation not in FREE:
            alike.setdefault(table.judge.structure(members[k], found[k].written), []).append(k)
    measured = data.measured.copy()
    failed: dict[str, int] = {}
    for same in list(alike.values())[:count]:
        facts = data.groups[same[0]]
        try:
            alone = cut_out(graph, members[same[0]], found[same[0]].written)
            seconds = seconds_of(alone, facts.implementation,
                                 data.context.target, data.context.threads, sizes, seed)
        except EvonnxError as error:
            reason = f"{type(error).__name__}: {error}"[:200]
            failed[reason] = failed.get(reason, 0) + 1
            continue
        measured[same] = seconds
    told = {"measured": min(count, len(alike)) - sum(failed.values()), "not_measured": failed,
            "how": f"kernel steps of the group alone, warm, least of {_ROUNDS} rounds"}
    return replace(data, measured=measured, origin={**data.origin, **told})


def seconds_of(alone: Graph, implementation: str, target: Target, threads: int,
               sizes: Mapping[str, int], seed: int = 0) -> float:
    """Seconds of a group that is a graph of its own, warm. Raises ``EvonnxError`` where it cannot
    be run."""
    from ..runtime.profile import profile
    from .api import compile as compile_model
    from .feeds import random_feeds

    group = Group(tuple(k for k, n in enumerate(alone.nodes) if n.op not in ("input", "const")),
                  implementation)
    compiled = compile_model(alone, schedule=str(Schedule(alone.digest, (group,))), pipeline="",
                             target=target, threads=threads)
    feeds = random_feeds(compiled.inputs, sizes, seed)
    compiled.run(None, feeds)
    return float(sum(step.seconds for step in profile(compiled.executable, feeds, _ROUNDS)))
