"""A dataset: one graph's scheduling problem with the numbers of every candidate group.

It holds all that a cost model or a strategy ever sees of a model and a machine, so that either can
be tried without the one and the other: ``survey`` makes it of a graph, ``save`` and ``load`` move
it, ``space`` prices it with a cost model and is what a search runs on.

On disk it is a folder. ``samples.jsonl`` begins with a header, then comes a line per node and a
line per candidate: its nodes, its numbers (``GroupFacts``), what models predicted, and the seconds
measured or null. ``problem.npz`` holds edges, members, and the values that occupy memory, as
arrays; the header has its SHA-256. There is no pickle, and a search never runs on arrays as they
were read: the problem is built anew by ``make_problem``, which checks it. What is damaged, cut off
or of a later version is a ``ParseError`` that says where.
"""

from __future__ import annotations

import hashlib
import io
import json
import math
import os
import zipfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from ..ir.errors import ParseError, quote
from ..ir.graph import Graph
from ..ir.schedule import IMPLEMENTATIONS
from ..ir.target import Target
from .candidates import Candidates
from .greedy import Fuser
from .models import Context, CostModel, Explanation, GroupFacts, Phase, facts
from .models import model as model_of
from .overwriting import surely
from .problem import Problem, make_problem
from .solutions import check_solution
from .space import Space, constant_bytes, memory
from .symbols import sizes_of

FORMAT, VERSION = "evonnx dataset", 2
SAMPLES, ARRAYS = "samples.jsonl", "problem.npz"
"""Files of the folder."""
_HELD = {
    "member_ptr": np.int32, "members": np.int32, "maker": np.int32, "nbytes": np.float64,
    "kept": np.bool_, "user_ptr": np.int32, "users": np.int32, "written": np.float64,
}  # fmt: skip
"""Arrays of a problem that are saved, besides its edges; see ``problem.Flat``."""


@dataclass(frozen=True, eq=False)
class Dataset:
    """A scheduling problem and the numbers of its groups; see the module."""

    name: str
    digest: str
    """Content digest of the graph."""
    ops: tuple[str, ...]
    """Operator of each node of the problem."""
    problem: Problem
    """Nodes, edges and candidates; its costs are all zero until a model prices it."""
    groups: tuple[GroupFacts, ...]
    """The numbers of each candidate."""
    context: Context
    greedy: tuple[int, ...]
    """Greedy fusion's schedule: candidates in execution order."""
    predicted: Mapping[str, tuple[Explanation, ...]] = field(default_factory=dict)
    """What each model says of each candidate, by the model's name."""
    measured: np.ndarray = field(default_factory=lambda: np.empty(0))
    """f8[g]: seconds of each candidate, NaN where none were measured."""
    origin: Mapping[str, Any] = field(default_factory=dict)
    """Where it comes from: machine, versions, seed, sizes, how it was measured; plain values."""

    def __post_init__(self) -> None:
        if not len(self.measured):
            object.__setattr__(self, "measured", np.full(len(self.groups), np.nan))

    @classmethod
    def made(cls, name: str, edges: Iterable[tuple[int, int]],
             groups: Mapping[tuple[int, ...], GroupFacts], target: Target, threads: int = 1
             ) -> Dataset:
        """From numbers of one's own: (before, after) ``edges``, and the numbers of every candidate
        by its nodes, all single nodes among them, which are also the schedule to compare with.
        Raises ``ValueError`` as ``make_problem``."""
        members, edges = list(groups), set(edges)
        nodes = 1 + max((v for m in members for v in m), default=-1)
        problem = make_problem(nodes, edges, members, np.zeros(len(members)))
        text = repr((sorted(edges), sorted(groups.items(), key=lambda item: item[0])))
        place = {m: k for k, m in enumerate(members)}
        context = Context(target, threads, float(sum(groups[v,].constant for v in range(nodes))))
        return cls(name, hashlib.sha256(text.encode()).hexdigest(), ("given",) * nodes, problem,
                   tuple(groups.values()), context, tuple(place[v,] for v in range(nodes)))

    def on(self, target: Target | None = None, threads: int | None = None) -> Context:
        """The context with another machine, or number of threads."""
        known = self.context
        return replace(known, target=target or known.target, threads=threads or known.threads)

    def space(self, model: str | CostModel, context: Context | None = None) -> Space:
        """The problem priced by a model, for ``context`` or the dataset's own. Raises
        ``OptionError`` for a model that does not exist, ``ValueError`` for costs that are none."""
        found, where = model_of(model), context or self.context
        costs, parts, names = found.costs(self.groups, where), None, ()
        if len(found.objectives) > 1:
            parts = found.parts(self.groups, where)  # type: ignore[attr-defined]
            names = found.objectives  # type: ignore[assignment]
        priced = self.problem.priced(costs, parts, names)
        return Space(priced, (), self.greedy, float(priced.cost[list(self.greedy)].sum()),
                     found.name, found.unit)

    def explained(self, *models: str | CostModel) -> Dataset:
        """The dataset with what ``models`` predict of every candidate, bound by bound."""
        told = dict(self.predicted)
        for model in map(model_of, models):
            told[model.name] = tuple(model.explain(g, self.context) for g in self.groups)
        return replace(self, predicted=told)


def survey(graph: Graph, target: Target, threads: int = 1, expect: Mapping[str, int] | None = None,
           name: str = "graph", origin: Mapping[str, Any] | None = None,
          table: Candidates | None = None) -> Dataset:
    """The dataset of an optimized graph: greedy's schedule, the candidates around it (``table``, if
    they are known), and their numbers at the sizes that ``symbols`` counts."""
    greedy = Fuser(graph).run()
    table = Candidates(graph, [greedy]) if table is None else table
    sizes = sizes_of(graph, expect or {})
    overwrites = [surely(graph, table, units, c) for units, c in table.found.items()]
    numbers = [facts(c.cost.placed(over), sizes, target)
               for c, over in zip(table.found.values(), overwrites, strict=True)]
    constants = constant_bytes(graph)
    members = list(table.found)
    place = {m: k for k, m in enumerate(members)}
    values, written = memory(graph, table, sizes, list(table.found.values()), overwrites)
    edges = {*table.edges, *((v[0], c) for v in values for c in v[2])}
    problem = make_problem(len(table.units), edges, members, np.zeros(len(members)),
                           values=values, written=written)
    return Dataset(name, graph.digest, tuple(graph.nodes[k].op for k in table.units), problem,
                   tuple(numbers), Context(target, max(1, threads), constants),
                   tuple(place[table.members(g)] for g in greedy.groups), origin=origin or {})


def save(dataset: Dataset, folder: str | os.PathLike[str]) -> None:
    """Writes the dataset into ``folder``, which is made. Raises ``OSError``."""
    path = Path(folder)
    path.mkdir(parents=True, exist_ok=True)
    p = dataset.problem
    arrays = io.BytesIO()
    held = {name: getattr(p.flat, name) for name in _HELD}
    np.savez_compressed(arrays, edges=np.array(p.edges, np.int32).reshape(-1, 2), **held)
    (path / ARRAYS).write_bytes(arrays.getvalue())
    header = {
        "format": FORMAT, "version": VERSION, "name": dataset.name, "digest": dataset.digest,
        "nodes": p.nodes, "candidates": p.candidates,
        "limit": None if math.isinf(p.limit) else p.limit, "target": str(dataset.context.target),
        "threads": dataset.context.threads, "constants": dataset.context.constants,
        "greedy": list(dataset.greedy), "models": sorted(dataset.predicted),
        "arrays": hashlib.sha256(arrays.getvalue()).hexdigest(), "origin": dict(dataset.origin),
    }  # fmt: skip
    with open(path / SAMPLES, "w", encoding="utf-8") as file:
        for line in (header, *_nodes(dataset), *_samples(dataset)):
            file.write(json.dumps(line, allow_nan=False) + "\n")


def _nodes(dataset: Dataset) -> Iterator[dict[str, Any]]:
    return ({"node": k, "op": op} for k, op in enumerate(dataset.ops))


def _samples(dataset: Dataset) -> Iterator[dict[str, Any]]:
    for k, numbers in enumerate(dataset.groups):
        seconds = float(dataset.measured[k])
        yield {
            "candidate": k, "nodes": dataset.problem.group(k), "facts": asdict(numbers) | {
                "phases": [p._asdict() for p in numbers.phases]},
            "predicted": {m: asdict(told[k]) | {"bounds": dict(told[k].bounds)}
                          for m, told in sorted(dataset.predicted.items())},
            "measured": None if math.isnan(seconds) else seconds,
        }  # fmt: skip


def load(folder: str | os.PathLike[str]) -> Dataset:
    """Reads what ``save`` wrote. Raises ``ParseError`` for what is damaged or of another version,
    ``OSError`` for files that cannot be opened."""
    path = Path(folder)
    data = (path / ARRAYS).read_bytes()
    with open(path / SAMPLES, encoding="utf-8") as file:
        return _Reader(path / SAMPLES).dataset(file, data)


class _Reader:
    """Reads one file and knows the line it is at."""

    def __init__(self, path: Path) -> None:
        self._path, self._line = path, 0

    def dataset(self, file: Iterable[str], data: bytes) -> Dataset:
        """The whole dataset."""
        try:
            return self._dataset(self._objects(file), data)
        except (KeyError, TypeError, ValueError, IndexError, UnicodeDecodeError) as error:
            what = f"lacks {error}" if isinstance(error, KeyError) else str(error)
            raise ParseError(f"{quote(self._path)}, line {self._line}: {what}") from None

    def _objects(self, file: Iterable[str]) -> Iterator[dict[str, Any]]:
        for number, text in enumerate(file, 1):
            self._line = number
            found = json.loads(text)
            if not isinstance(found, dict):
                raise ValueError("the line is not a JSON object")
            yield found

    def _dataset(self, lines: Iterator[dict[str, Any]], data: bytes) -> Dataset:
        header = next(lines, None)
        if header is None or header.get("format") != FORMAT:
            raise ValueError(f"the file does not begin as an {FORMAT}")
        if header["version"] != VERSION:
            raise ValueError(f"version {header['version']!r}; this release reads {VERSION}")
        if hashlib.sha256(data).hexdigest() != header["arrays"]:
            raise ValueError(f"{ARRAYS} beside it is damaged or belongs to another dataset")
        nodes, count = int(header["nodes"]), int(header["candidates"])
        ops = tuple(str(self._next(lines, "node", k)["op"]) for k in range(nodes))
        samples = [self._next(lines, "candidate", k) for k in range(count)]
        if next(lines, None) is not None:
            raise ValueError("there are more lines than the header says")
        held = _arrays(data)
        members = _cut(held["members"], held["member_ptr"], "members")
        if [list(m) for m in members] != [s["nodes"] for s in samples]:
            raise ValueError(f"the candidates are not those of {ARRAYS}")
        users = _cut(held["users"], held["user_ptr"], "users")
        values = list(zip(held["maker"].tolist(), held["nbytes"].tolist(), users,
                          held["kept"].tolist(), strict=True))  # fmt: skip
        limit = math.inf if header["limit"] is None else float(header["limit"])
        problem = make_problem(
            nodes, [(a, b) for a, b in held["edges"].tolist()], members, np.zeros(count),
            values=values, written=held["written"], limit=limit)
        greedy = tuple(int(k) for k in header["greedy"])
        if any(not 0 <= k < count for k in greedy) or check_solution(problem, greedy):
            raise ValueError("greedy's schedule is none")
        context = Context(Target.parse(header["target"]), int(header["threads"]),
                          float(header["constants"]))  # fmt: skip
        told = {m: tuple(Explanation(**s["predicted"][m]) for s in samples)
                for m in header["models"]}  # fmt: skip
        measured = [math.nan if s["measured"] is None else float(s["measured"]) for s in samples]
        return Dataset(str(header["name"]), str(header["digest"]), ops, problem,
                       tuple(_facts(s["facts"]) for s in samples), context, greedy, told,
                       np.array(measured), dict(header["origin"]))  # fmt: skip

    def _next(self, lines: Iterator[dict[str, Any]], kind: str, number: int) -> dict[str, Any]:
        found = next(lines, None)
        if found is None:
            raise ValueError(f"the file ends before {kind} {number}")
        if found.get(kind) != number:
            raise ValueError(f"{kind} {number} is expected here")
        return found


def _arrays(data: bytes) -> dict[str, np.ndarray]:
    """The arrays by name, of the types that they are saved with."""
    try:
        with np.load(io.BytesIO(data), allow_pickle=False) as file:
            held = {name: file[name] for name in ("edges", *_HELD)}
    except zipfile.BadZipFile as error:
        raise ValueError(f"{ARRAYS}: {error}") from None
    for name, array in held.items():
        shape = (len(array), 2) if name == "edges" else (len(array),)
        if array.dtype != _HELD.get(name, np.int32) or array.shape != shape:
            raise ValueError(f"{ARRAYS}: {name} is {array.dtype}{list(array.shape)}")
    return held


def _cut(items: np.ndarray, ptr: np.ndarray, what: str) -> list[tuple[int, ...]]:
    """The parts of an array that begin at the places ``ptr``; its last is the end."""
    if not len(ptr) or ptr[0] != 0 or ptr[-1] != len(items) or (np.diff(ptr) < 0).any():
        raise ValueError(f"{ARRAYS}: there are places in {what} that are none")
    return [tuple(part.tolist()) for part in np.split(items, ptr[1:-1])] if len(ptr) > 1 else []


def _facts(values: Mapping[str, Any]) -> GroupFacts:
    word = values["implementation"]
    if word not in IMPLEMENTATIONS:
        raise ValueError(f"there is no implementation {word!r}")
    numbers = _numbers({k: v for k, v in values.items() if k not in ("implementation", "phases")})
    phases = tuple(Phase(**_numbers(p)) for p in values["phases"])
    counts = {k: int(numbers[k]) for k in ("nodes", "kernels")}
    return GroupFacts(word, **{**numbers, **counts, "phases": phases})


def _numbers(values: Mapping[str, Any]) -> dict[str, Any]:
    numbers = {k: float(v) for k, v in values.items()}
    if any(not math.isfinite(v) or v < 0 for v in numbers.values()):
        raise ValueError("the numbers of a group are finite and not negative")
    return numbers


def measured_pairs(dataset: Dataset, model: str | CostModel) -> tuple[np.ndarray, np.ndarray]:
    """(measured, predicted) f8[k] of the candidates that were measured."""
    known = np.flatnonzero(~np.isnan(dataset.measured))
    costs = model_of(model).costs([dataset.groups[k] for k in known], dataset.context)
    return dataset.measured[known], costs


def solution_groups(dataset: Dataset, chosen: Sequence[int], stage: str, model: str | CostModel
                    ) -> list[dict[str, Any]]:
    """The groups of a schedule as tidy records: C and D, what the model predicts in its unit on the
    dataset's threads, and the measured seconds, each under the label ``stage``."""
    found = model_of(model)
    costs = found.costs([dataset.groups[k] for k in chosen], dataset.context)
    records = []
    for k, cost in zip(chosen, costs.tolist(), strict=True):
        g, seconds = dataset.groups[k], float(dataset.measured[k])
        records.append({
            "graph": dataset.name, "threads": dataset.context.threads, "stage": stage,
            "candidate": k,
            "ops": " ".join(dataset.ops[v] for v in dataset.problem.group(k)),
            "implementation": g.implementation, "flops": g.flops,
            "nbytes": g.constant + g.inputs + g.outputs, "cost_model": found.name,
            "unit": found.unit, "predicted": cost,
            "measured": None if math.isnan(seconds) else seconds,
        })  # fmt: skip
    return records
