"""A study: strategies, cost models, machines, budgets and seeds on many graphs, as tidy records.

Every combination is one record (``Record``, a line of JSON). Graphs are imported, optimized and
turned into a scheduling problem once; nothing is compiled, so a study needs no machine but the one
it thinks about, and with a dataset (``search.dataset``) not even the model.

    records = evonnx.study(["m.onnx"], strategies=["genetic", Mine], seeds=range(30), out="s.jsonl")
    evonnx.figures(records, "figures")

Fields of a record: ``record`` (version), ``graph``, ``source`` (file or None), ``digest``,
``nodes``, ``candidates``; ``cost_model``, ``model`` and ``model_parameters`` (see ``Maker``),
``unit``; ``target`` and ``target_text``, ``threads``, ``expect``; ``strategy``, ``algorithm`` and
``parameters``, ``budget``, ``seed``; ``cost`` (in the unit), ``chosen`` (candidates in execution
order), ``objectives`` (the sums of a model of several objectives), ``peak`` (bytes alive
at most, 0 where nothing is known of values), ``evaluations``, ``seconds``,
``history`` ([evaluations, seconds, cost] per improvement), ``front`` (the objectives of what no
other found dominates, from strategies that look for it; of "exact" the true front of two
objectives, where it is small enough to be enumerated); what it is compared with: ``greedy``,
``greedy_objectives``, ``optimum`` (proven within ``ideals``, or None), ``bound`` and ``gap_to``,
which says whether the bound of ``gap`` is the "optimum" or only a "bound"; ``machine``, ``system``,
``versions`` and ``date``. Everything but the last four and the seconds is a function of the others:
``rerun`` makes a record anew.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..ir.errors import OptionError, quote
from ..ir.graph import Graph
from ..ir.target import Target
from ..search.dataset import SAMPLES, Dataset, load, survey
from ..search.exact import Proof, prove
from ..search.generate import generated
from ..search.models import CostModel, factory, models
from ..search.models import model as model_of
from ..search.narrow import true_front
from ..search.problem import Problem
from ..search.run import search as run
from ..search.solutions import floor, peak
from ..search.space import Space
from ..search.strategies import STRATEGIES, Strategy
from ..search.strategies import factory as strategy_factory
from ..search.strategies import strategies as registered
from .irfile import graph_or_file
from .options import machine_of
from .records import RECORD, Maker, Record, circumstances, makers
from .request import Request

if TYPE_CHECKING:
    import onnx

    Source = str | os.PathLike[str] | bytes | onnx.ModelProto | Graph | Dataset | Problem
    """A model (its file, bytes, protobuf, or a file of IR), a graph (used as it is), a dataset or
    its folder, or a scheduling problem."""

EXACT = "exact"
_WARM = 500


def study(
    graphs: Iterable[Source] | Mapping[str, Source],
    cost_models: Iterable[Any] | Mapping[str, Any] = ("bounds",),
    strategies: Iterable[Any] | Mapping[str, Any] = ("genetic", "swarm", "annealing", "random"),
    budgets: Iterable[int] = (20_000,),
    seeds: Iterable[int] = (0,),
    *,
    targets: Iterable[str | os.PathLike[str] | Target] | None = None,
    threads: int | None = None,
    expect: Mapping[str, int] | None = None,
    ideals: int = 300_000,
    out: str | os.PathLike[str] | None = None,
) -> list[Record]:
    """Runs every combination and answers the records, in order; ``out`` also gets them as lines of
    JSON, each as soon as it is known.

    ``strategies`` and ``cost_models`` are registered names, classes or factories without required
    arguments, or objects, which are copied for every run; "exact" is the proof of the optimum
    alone. A mapping gives graphs, strategies and models labels of one's own. ``targets`` are names,
    files or ``Target``s, also of machines that are not here; None is this one, and a dataset's own.
    ``ideals`` bounds the proof that every record is compared with (0: no proof). Raises
    ``OptionError`` for names that nobody registered and for one thing where several are asked for,
    and what importing a model raises."""
    for what, given in (("graphs", graphs), ("cost_models", cost_models),
                        ("strategies", strategies), ("budgets", budgets), ("seeds", seeds)):
        if isinstance(given, (str, os.PathLike)) or not isinstance(given, Iterable):
            raise OptionError(f"{what}: several, such as a list, not {quote(given)} alone")
    named = _named(graphs)
    chosen = _strategies(strategies)
    priced = _models(cost_models)
    places = None if targets is None else [machine_of(t) for t in targets]
    plan = [_whole("budgets", b, 1) for b in budgets], [_whole("seeds", s, 0) for s in seeds]
    _warm_up([m for m in chosen if m is not None])
    origin, records = circumstances(), []
    with open(os.devnull if out is None else out, "w", encoding="utf-8") as file:
        for name, source in named:
            for base, space in _spaces(name, source, priced, places, threads, expect or {}):
                proof = prove(space.problem, ideals) if ideals else None
                base["ideals"] = ideals
                for record in _records(space, proof, chosen, *plan):
                    records.append({**base, **record, **origin})
                    file.write(json.dumps(records[-1], allow_nan=False) + "\n")
                    file.flush()
    return records


def rerun(record: Record, source: Source | None = None, *, strategy: Any = None,
          cost_model: Any = None) -> Record:
    """The record made anew from its fields: the same cost, schedule and history, on any machine.

    ``source`` is wanted where the record names no file, ``strategy`` and ``cost_model`` where they
    are not registered: a file of records never says what code is run. Raises ``OptionError`` where
    one of them is missing or the source is another graph than the record's."""
    given = record["source"] if source is None else source
    if given is None:
        raise OptionError(f"the record of {quote(record['graph'])} names no file: give its source")
    if strategy is None:
        name = record["algorithm"]
        makes = {name: type(strategy_factory(name)())} if name in registered() else {}
        strategy = EXACT if name == EXACT else _again("strategy", name, record["parameters"], makes)
    if cost_model is None and record["model"] is not None:
        named = {k: type(model_of(k)) for k in models() if k == record["model"]}
        cost_model = _again("cost_model", record["model"], record["model_parameters"], named)
    target = None if record["target_text"] is None else [Target.parse(record["target_text"])]
    (made,) = study(
        {record["graph"]: given}, {record["cost_model"]: cost_model or "bounds"},
        {record["strategy"]: strategy}, (record["budget"] or 1,), (record["seed"] or 0,),
        targets=target, threads=record["threads"], expect=record["expect"],
        ideals=record["ideals"],
    )  # fmt: skip
    if made["digest"] != record["digest"]:
        raise OptionError(f"the source is not the graph of the record {quote(record['graph'])}: "
                          f"{made['digest'][:12]}, not {record['digest'][:12]}")
    return made


def _again(what: str, name: str, parameters: Mapping[str, Any] | None, known: Mapping[str, Any]
           ) -> Any:
    if name not in known or parameters is None:
        raise OptionError(f"{quote(name)} is not registered, or its attributes do not tell its "
                          f"parameters: give rerun(record, {what}=...)")
    return known[name](**parameters)


def _strategies(given: Iterable[Any] | Mapping[str, Any]) -> list[Maker[Strategy] | None]:
    """A maker each; None is the proof."""
    pairs = list(given.items() if isinstance(given, Mapping) else ((None, g) for g in given))
    own: Any = {k: g for k, g in pairs if not _is_exact(g)}
    if not isinstance(given, Mapping):
        own = [g for _, g in pairs if not _is_exact(g)]
    names = {g for _, g in pairs if isinstance(g, str)} - {EXACT}
    known = {**STRATEGIES, **{n: strategy_factory(n) for n in names}}
    made: list[Maker[Strategy]] = makers(own, known, ("start", "ask", "tell"))
    rest = iter(made)
    return [None if _is_exact(g) else next(rest) for _, g in pairs]


def _models(given: Iterable[Any] | Mapping[str, Any]) -> list[Maker[CostModel]]:
    """A maker each; only the models that are asked for are loaded."""
    listed = given if isinstance(given, Mapping) else list(given)
    values = listed.values() if isinstance(listed, Mapping) else listed
    names = {g for g in values if isinstance(g, str)}
    names |= {n for g in values if (n := getattr(g, "name", None)) in models()}
    return makers(listed, {n: factory(n) for n in names}, ("costs", "explain"))


def _is_exact(given: object) -> bool:
    return isinstance(given, str) and given == EXACT


def _whole(what: str, value: object, low: int) -> int:
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < low:
        raise OptionError(f"{what}: whole numbers from {low}, not {quote(value)}")
    return int(value)


def _warm_up(strategies: Iterable[Maker[Strategy]]) -> None:
    """Runs everything once on a small problem: the seconds of a record hold no compilation."""
    small = generated(12, 0)
    for maker in strategies:
        run(small, maker.make(), np.arange(12, dtype=np.int32)[None], _WARM)


def _named(graphs: Iterable[Source] | Mapping[str, Source]) -> list[tuple[str, Source]]:
    if isinstance(graphs, Mapping):
        return list(graphs.items())
    found = []
    for number, source in enumerate(graphs):
        name = f"graph {number}"
        if isinstance(source, (str, os.PathLike)):
            name = Path(source).stem
        elif isinstance(source, Dataset):
            name = source.name
        found.append((name, source))
    return found


def dataset_of(source: Source, target: Target, threads: int = 1,
               expect: Mapping[str, int] | None = None, name: str = "graph") -> Dataset:
    """The dataset of a model or graph, or the one given. Raises what importing raises."""
    if isinstance(source, Dataset):
        return source
    if isinstance(source, (str, os.PathLike)) and (Path(source) / SAMPLES).is_file():
        return load(source)
    return survey(optimized(source, target), target, threads, expect, name)


def optimized(source: Any, target: Target) -> Graph:
    """A model after the whole pipeline; a graph is answered as it is."""
    if isinstance(source, Graph):
        return source
    if isinstance(source, (str, os.PathLike)):
        source = graph_or_file(Path(source))
    return Request(source, target).derive().graph


def _spaces(name: str, source: Source, priced: Sequence[Maker[CostModel]],
            places: Sequence[Target] | None, threads: int | None, expect: Mapping[str, int]
            ) -> Iterator[tuple[Record, Space]]:
    """Every problem of one source, and what its records have in common."""
    path = str(source) if isinstance(source, (str, os.PathLike)) else None
    base: Record = {"record": RECORD, "graph": name, "source": path}
    if isinstance(source, Problem):
        yield {**base, **_sizes(source, _digest(source)), "cost_model": "given", "model": None,
               "model_parameters": None, "unit": "", "target": None, "target_text": None,
               "threads": None, "expect": {}}, Space.plain(source)  # fmt: skip
        return
    data = dataset_of(source, (places or [Target.detect()])[0], threads or 1, expect, name)
    for target in places or [data.context.target]:
        context = data.on(target, threads)
        for maker in priced:
            yield {**base, **_sizes(data.problem, data.digest), "cost_model": maker.label,
                   "model": maker.algorithm, "model_parameters": maker.parameters,
                   "unit": maker.make().unit, "target": target.name, "target_text": str(target),
                   "threads": context.threads, "expect": dict(expect),
                   }, data.space(maker.make(), context)  # fmt: skip


def _sizes(problem: Problem, digest: str) -> Record:
    return {"digest": digest, "nodes": problem.nodes, "candidates": problem.candidates}


def _digest(problem: Problem) -> str:
    """Content digest of a problem without a graph."""
    h, f = hashlib.sha256(), problem.flat
    for array in (f.pred_ptr, f.preds, f.member_ptr, f.members, f.cost, f.parts, f.maker, f.nbytes,
                  f.kept, f.user_ptr, f.users, f.written, np.float64(f.limit)):  # fmt: skip
        h.update(np.ascontiguousarray(array).tobytes())
    return h.hexdigest()


def _records(space: Space, proof: Proof | None, strategies: Sequence[Maker[Strategy] | None],
             budgets: Sequence[int], seeds: Sequence[int]) -> Iterator[Record]:
    optimum = None if proof is None else proof.cost
    base = {"greedy": space.greedy, "greedy_objectives": space.vector(space.chosen),
            "optimum": optimum}  # fmt: skip
    for maker in strategies:
        if maker is None:
            yield {**base, "strategy": EXACT, "algorithm": EXACT, "parameters": {}, "budget": None,
                   "seed": None, **_proven(space, proof)}  # fmt: skip
            continue
        for budget in budgets:
            for seed in seeds:
                strategy = maker.make()
                began = time.perf_counter()
                found = run(space.problem, strategy, space.start[None], budget, seed)
                seconds = time.perf_counter() - began
                against = (found.bound, "bound") if optimum is None else (optimum, "optimum")
                yield {**base, "strategy": maker.label, "algorithm": maker.algorithm,
                       "parameters": maker.parameters, "budget": budget, "seed": seed,
                       **_outcome(space, found.chosen, found.cost), **_gap(found.cost, *against),
                       "evaluations": found.evaluations, "seconds": seconds,
                       "history": [list(step) for step in found.history],
                       "front": [dict(zip(space.problem.objectives, p.parts))
                                 for p in found.front]}  # fmt: skip


def _proven(space: Space, proof: Proof | None) -> Record:
    """The proof as a record; without one its cost is None."""
    if proof is None:
        return {"cost": None, "chosen": [], "objectives": {}, "peak": None,
                "bound": floor(space.problem),
                "gap": None, "gap_to": "bound", "evaluations": 0, "seconds": None,
                "history": [], "front": []}  # fmt: skip
    front = true_front(space.problem) or ()
    return {**_outcome(space, proof.chosen, proof.cost), **_gap(proof.cost, proof.cost, "optimum"),
            "evaluations": proof.ideals, "seconds": None, "history": [],
            "front": [dict(zip(space.problem.objectives, p.parts)) for p in front]}  # fmt: skip


def _outcome(space: Space, chosen: Sequence[int], cost: float) -> Record:
    return {"cost": cost, "chosen": [int(k) for k in chosen], "objectives": space.vector(chosen),
            "peak": peak(space.problem, chosen)}  # fmt: skip


def _gap(cost: float, bound: float, kind: str) -> Record:
    return {"bound": bound, "gap": cost / bound - 1 if bound > 0 else 0.0, "gap_to": kind}
