"""The search engine by itself: gaps to proven optima, speeds, peak memory. No model is compiled.

Every part appends lines of JSON to a file, so that long studies can be run piece by piece; the
page is made of what is there. Seconds are process time of one thread.

    python -m evonnx.bench.search gaps --family towers --nodes 1000 --out lines.jsonl
    python -m evonnx.bench.search speed --out lines.jsonl
    python -m evonnx.bench.search genes --out lines.jsonl
    python -m evonnx.bench.search fronts --out lines.jsonl
    python -m evonnx.bench.search memory --out lines.jsonl
    python -m evonnx.bench.search page lines.jsonl
"""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import click
import numpy as np

from ..search.evaluate import Decoded, Genomes, decode, keys_of
from ..search.exact import prove
from ..search.generate import (
    FAMILIES,
    generated,
    inception,
    nasnet,
    order_only,
    randwire,
    two_objectives,
)
from ..search.moves import walk
from ..search.narrow import true_front
from ..search.peaks import least_peak
from ..search.problem import Problem, make_problem
from ..search.run import search
from ..search.strategies import Genetic, Nsga2, Strategy, Swarm, strategy
from ..search.strategies.base import Base
from .machine import describe

IDEALS = 300_000
"""Ideals of a proof that gaps are measured from."""


def contract(problem: Problem) -> float:
    """Greedy edge contraction: merges the two neighboring groups of an order that gain most, until
    none gain; the order is the given one."""
    cost = {problem.group(v[0]): float(problem.cost[v[0]]) for v in problem.variants}
    groups: list[tuple[int, ...]] = [(v,) for v in range(problem.nodes)]
    while True:
        gains = [(cost[a] + cost[b] - cost[c], k)
                 for k, (a, b) in enumerate(itertools.pairwise(groups))
                 if (c := tuple(sorted(a + b))) in cost]  # fmt: skip
        gain, k = max(gains, default=(0.0, 0))
        if gain <= 0:
            return sum(cost[g] for g in groups)
        groups[k : k + 2] = [tuple(sorted(groups[k] + groups[k + 1]))]


def timed(problem: Problem, name: str, seed: int, seconds: float, budget: int) -> dict[str, Any]:
    """One search, ended by process time or by evaluations."""
    began = time.process_time()

    def watch(done: int, best: float, bound: float) -> None:
        if time.process_time() - began > seconds:
            raise KeyboardInterrupt

    first = np.arange(problem.nodes, dtype=np.int32)[None]
    found = search(problem, strategy(name), first, budget, seed, watch)
    return {"cost": found.cost, "evaluations": found.evaluations,
            "seconds": time.process_time() - began}  # fmt: skip


def least(call: Callable[[], object], rounds: int = 7, seconds: float = 2.0) -> float:
    """Shortest process time of some calls, of fewer where they take more than ``seconds``."""
    call()
    found: list[float] = []
    while len(found) < rounds and sum(found) < seconds:
        began = time.process_time()
        call()
        found.append(time.process_time() - began)
    return min(found)


@click.group()
def main() -> None:
    """The search engine by itself."""


def _append(out: str, lines: list[dict[str, Any]]) -> None:
    with open(out, "a", encoding="utf-8") as file:
        for line in lines:
            file.write(json.dumps(line) + "\n")


@main.command()
@click.option("--family", type=click.Choice(list(FAMILIES)), default="network")
@click.option("--nodes", default=300)
@click.option("--seeds", default=30)
@click.option("--begin", default=0, help="First seed.")
@click.option("--seconds", default=2.0)
@click.option("--budget", default=0, help="Evaluations instead of seconds.")
@click.option("--most", default=6, help="Nodes of a candidate.")
@click.option("--strategies", default="genetic,swarm,annealing,beam,random")
@click.option("--out", required=True)
def gaps(family: str, nodes: int, seeds: int, begin: int, seconds: float, budget: int, most: int,
         strategies: str, out: str) -> None:
    """Distance from the proven optimum. Problems that are too wide for a proof are left out."""
    for name in strategies.split(","):  # what is compiled is compiled before
        timed(generated(12, 0), name, 0, 1e9, 2000)
    for seed in range(begin, begin + seeds):
        problem = generated(nodes, seed, most, edges=FAMILIES[family](nodes, seed))
        began = time.process_time()
        proof = prove(problem, IDEALS)
        if proof is None:
            click.echo(f"{family} {nodes}, seed {seed}: more than {IDEALS:,} ideals", err=True)
            continue
        spent = time.process_time() - began
        base = {"part": "gaps", "family": family, "nodes": nodes, "seed": seed,
                "limit": f"{budget} evaluations" if budget else f"{seconds:g} s"}  # fmt: skip
        lines = [{**base, "strategy": "exact", "gap": 0.0, "seconds": spent,
                  "evaluations": proof.ideals},
                 {**base, "strategy": "greedy", "gap": contract(problem) / proof.cost - 1,
                  "seconds": 0.0, "evaluations": 1}]  # fmt: skip
        for name in strategies.split(","):
            found = timed(problem, name, seed, 1e9 if budget else seconds, budget or 10**12)
            gap = found.pop("cost") / proof.cost - 1
            lines.append({**base, "strategy": name, "gap": gap, **found})
        _append(out, lines)


class _Told(Base):
    """A strategy, and the least cost of its own genomes: a search begins and ends with exact cuts,
    which genomes with cuts of their own must not be credited with."""

    whole = True

    def __init__(self, strategy: Strategy) -> None:
        self._made, self.best = strategy, np.inf

    def start(self, problem: Problem, first: np.ndarray, seed: int) -> None:
        self._made.left = self.left
        self._made.start(problem, first, seed)

    def ask(self) -> Genomes:
        self._made.left = self.left
        asked = self._made.ask()
        self.spent = self._made.spent
        return Genomes(asked) if isinstance(asked, np.ndarray) else asked

    def tell(self, genomes: Genomes, found: Decoded) -> None:
        self.best = min(self.best, float(found.costs.min()))
        self._made.tell(genomes, found)


ABLATED: dict[str, Callable[[], Strategy]] = {
    "cut genes, the given order": lambda: Genetic(genes=("cuts",)),
    "bias genes, the given order": lambda: Genetic(genes=("bias",)),
    "order and cut genes": lambda: Genetic(genes=("order", "cuts")),
    "order genes, exact cuts": lambda: Genetic(polish=0),
    "order and bias genes, exact cuts": lambda: Genetic(polish=0, genes=("order", "bias")),
    "order genes, exact cuts, moves": Genetic,
    "order and bias genes, exact cuts, moves": lambda: Genetic(genes=("order", "bias")),
    "swarm: order and cut genes": lambda: Swarm(genes=("order", "cuts")),
    "swarm: order genes, exact cuts": lambda: Swarm(polish=0),
    "swarm: order genes, exact cuts, moves": Swarm,
}
"""Parts of the genome and of the decoder, by what they leave."""


@main.command()
@click.option("--family", type=click.Choice(list(FAMILIES)), default="towers")
@click.option("--nodes", default=300)
@click.option("--seeds", default=10)
@click.option("--budget", default=20_000)
@click.option("--out", required=True)
def genes(family: str, nodes: int, seeds: int, budget: int, out: str) -> None:
    """What each gene is worth at equal evaluations: the distance from the proven optimum."""
    for seed in range(seeds):
        problem = generated(nodes, seed, edges=FAMILIES[family](nodes, seed))
        first = np.arange(nodes, dtype=np.int32)[None]
        proof = prove(problem, IDEALS)
        assert proof is not None
        given = float(decode(problem, keys_of(first)).costs[0])
        alone = sum(float(problem.cost[v[0]]) for v in problem.variants
                    if len(problem.group(v[0])) == 1)  # fmt: skip
        costs = {"every node alone": alone, "exact cuts, the given order": given}
        for name, make in ABLATED.items():
            told = _Told(make())
            search(problem, told, first, budget, seed)
            costs[name] = told.best
        base = {"part": "genes", "family": family, "nodes": nodes, "seed": seed, "budget": budget}
        _append(out, [{**base, "genes": k, "gap": c / proof.cost - 1} for k, c in costs.items()])


MULTIPLE: dict[str, Callable[[], Strategy]] = {
    "nsga2": Nsga2,
    "nsga2 without bias genes": lambda: Nsga2(bias=0.0),
    "pymoo-nsga2": lambda: strategy("pymoo-nsga2"),
}


@main.command()
@click.option("--family", type=click.Choice(list(FAMILIES)), default="towers")
@click.option("--nodes", default=24)
@click.option("--seeds", default=10)
@click.option("--budget", default=20_000)
@click.option("--out", required=True)
def fronts(family: str, nodes: int, seeds: int, budget: int, out: str) -> None:
    """Fronts of operations and bytes against the true ones: points found, and the part of the
    hypervolume (the nadir of both, 1 % farther, as its reference)."""
    for seed in range(seeds):
        problem = two_objectives(nodes, seed, edges=FAMILIES[family](nodes, seed))
        true = true_front(problem, IDEALS)
        assert true is not None
        first = np.arange(nodes, dtype=np.int32)[None]
        for name, make in MULTIPLE.items():
            found = {p.values for p in search(problem, make(), first, budget, seed).front}
            known = {p.values for p in true}
            far = np.max([*found, *known], axis=0) * 1.01
            part = hypervolume(found, far) / hypervolume(known, far)
            _append(out, [{"part": "fronts", "family": family, "nodes": nodes, "budget": budget,
                           "seed": seed, "strategy": name, "true": len(known),
                           "found": len(found & known), "volume": part}])  # fmt: skip


def hypervolume(points: Iterable[tuple[float, ...]], far: np.ndarray) -> float:
    """Area that points of two objectives dominate, up to ``far``."""
    area, edge = 0.0, float(far[1])
    for one, two in sorted(points):
        if two < edge:
            area, edge = area + (float(far[0]) - one) * (edge - two), two
    return area


def rates(family: str, nodes: int) -> list[dict[str, Any]]:
    """Proofs, decodes and re-cuts per second of a problem with three objectives and values; no row
    of proofs where it has too many ideals for one."""
    plain = generated(nodes, 0, edges=FAMILIES[family](nodes, 0))
    rng = np.random.default_rng(0)
    users: list[list[int]] = [[] for _ in range(nodes)]
    for a, b in plain.edges:
        users[a].append(b)
    groups = [plain.group(g) for g in range(plain.candidates)]
    values = [(v, float(rng.integers(1, 1000)), users[v], not users[v]) for v in range(nodes)]
    problem = make_problem(nodes, plain.edges, groups, plain.cost, objectives=("C", "D", "T"),
                           parts=rng.random((len(groups), 3)), values=values)  # fmt: skip
    keys, cuts = rng.random((50, nodes)), np.zeros((50, nodes), np.uint8)
    some, one = (rng.random((50, nodes)) < 0.2).astype(np.uint8), Genomes(keys[:1], cuts=cuts[:1])
    order = np.arange(nodes, dtype=np.int32)
    tight = problem.limited(float(decode(problem, keys_of(order[None])).peaks[0]))
    hot = float(plain.cost.mean()) / 10
    walks = order, 100_000, hot, hot / 50, 0
    measured: list[tuple[str, int, Callable[[], object]]] = [
        ("decodes, groups by cut genes, none set", 50,
         lambda: decode(problem, Genomes(keys, cuts=cuts))),
        ("decodes, groups by cut genes, a fifth set", 50,
         lambda: decode(problem, Genomes(keys, cuts=some))),
        ("decodes of one genome a call", 1, lambda: decode(problem, one)),
        ("decodes, exact cuts", 50, lambda: decode(problem, keys)),
        ("orders cut again exactly", walk(plain, *walks)[2], lambda: walk(plain, *walks)),
        ("orders cut again exactly, memory limited", walk(tight, *walks)[2],
         lambda: walk(tight, *walks)),
    ]  # fmt: skip
    if prove(plain, IDEALS) is not None:
        measured.insert(0, ("proofs of the optimum", 1, lambda: prove(plain)))
    return [{"part": "speed", "family": family, "nodes": nodes, "candidates": len(groups),
             "what": what, "per_second": count / least(call)}
            for what, count, call in measured]  # fmt: skip


@main.command()
@click.option("--nodes", default=1000)
@click.option("--out", required=True)
def speed(nodes: int, out: str) -> None:
    """Proofs, decodes and re-cuts per second, one thread."""
    for family in FAMILIES:
        _append(out, rates(family, nodes))


@main.command()
@click.option("--out", required=True)
def memory(out: str) -> None:
    """The least peak memory against that of the definition order."""
    graphs = {f"RandWire WS(32,4,.75) #{s}": randwire(1, s) for s in range(5)}
    graphs |= {f"RandWire WS(128,8,.75) #{s}": randwire(1, s, 128, 8) for s in range(3)}
    graphs |= {"Inception-like, 6 modules": inception(6), "NASNet-like, 6 cells": nasnet(6)}
    for name, wiring in graphs.items():
        problem = order_only(wiring)
        first = np.arange(problem.nodes, dtype=np.int32)[None]
        given = float(decode(problem, keys_of(first)).peaks[0])
        began = time.process_time()
        least = least_peak(problem, first, 400_000)
        _append(out, [{
            "part": "memory", "graph": name, "nodes": problem.nodes, "given": given,
            "found": least.peak, "seconds": time.process_time() - began,
            "proven": least.proven}])  # fmt: skip


@main.command()
@click.argument("lines", type=click.Path(exists=True))
def page(lines: str) -> None:
    """Prints the page."""
    every = [json.loads(text) for text in Path(lines).read_text().splitlines()]
    machine = describe()
    print("# The search engine by itself\n")
    print(", ".join(f"{k}: {v}" for k, v in machine.items() if isinstance(v, (str, int))) + "\n")
    print("## Speed, one thread\n\n| graph | candidates | what | per second |\n|---|--:|---|--:|")
    for r in (r for r in every if r["part"] == "speed"):
        shown = f"{r['per_second']:,.0f}" if r["per_second"] > 50 else f"{r['per_second']:.2f}"
        print(f"| {r['family']} {r['nodes']} | {r['candidates']:,} | {r['what']} | {shown} |")
    print("\n## Gap to the proven optimum\n")
    print("| graphs | limit | strategy | seeds | median | p95 | worst | seconds | evaluations |")
    print("|---|---|---|--:|--:|--:|--:|--:|--:|")
    rows = [r for r in every if r["part"] == "gaps"]
    for key in sorted({(r["family"], r["nodes"], r["limit"]) for r in rows}):
        of_key = [r for r in rows if (r["family"], r["nodes"], r["limit"]) == key]
        names = sorted({r["strategy"] for r in of_key}, key=lambda n: np.median(
            [r["gap"] for r in of_key if r["strategy"] == n]))  # fmt: skip
        for name in names:
            some = [r for r in of_key if r["strategy"] == name]
            gap = np.array([r["gap"] for r in some]) * 100
            print(f"| {key[0]} {key[1]} | {key[2]} | {name} | {len(some)} | "
                  f"{np.median(gap):.2f} % | {np.percentile(gap, 95):.2f} % | {gap.max():.2f} % | "
                  f"{np.median([r['seconds'] for r in some]):.2f} | "
                  f"{np.median([r['evaluations'] for r in some]):,.0f} |")  # fmt: skip
    print("\n## Genes, gap to the proven optimum\n")
    print("| graphs | evaluations | genes | seeds | median | worst |\n|---|--:|---|--:|--:|--:|")
    rows = [r for r in every if r["part"] == "genes"]
    for row in dict.fromkeys(f"| {r['family']} {r['nodes']} | {r['budget']:,} | {r['genes']} |"
                             for r in rows):  # fmt: skip
        gap = np.array([r["gap"] for r in rows if row == (
            f"| {r['family']} {r['nodes']} | {r['budget']:,} | {r['genes']} |")]) * 100
        print(f"{row} {len(gap)} | {np.median(gap):.2f} % | {gap.max():.2f} % |")
    print("\n## Fronts of operations and bytes\n")
    print("| graphs | evaluations | strategy | seeds | points of the true fronts | found | least "
          "part of the hypervolume |\n|---|--:|---|--:|--:|--:|--:|")  # fmt: skip
    rows = [r for r in every if r["part"] == "fronts"]
    for key in dict.fromkeys((r["family"], r["nodes"], r["strategy"]) for r in rows):
        some = [r for r in rows if key == (r["family"], r["nodes"], r["strategy"])]
        print(f"| {key[0]} {key[1]} | {some[0]['budget']:,} | {key[2]} | {len(some)} | "
              f"{sum(r['true'] for r in some)} | {sum(r['found'] for r in some)} | "
              f"{min(r['volume'] for r in some):.4f} |")  # fmt: skip
    print("\n## Peak memory, order alone\n")
    print("| graph | nodes | definition order | found | ratio | | search s |")
    print("|---|--:|--:|--:|--:|---|--:|")
    for r in (r for r in every if r["part"] == "memory"):
        print(f"| {r['graph']} | {r['nodes']} | {r['given']:g} | {r['found']:g} | "
              f"{r['given'] / r['found']:.2f} | {'proven' if r['proven'] else 'not proven'} | "
              f"{r['seconds']:.1f} |")  # fmt: skip


if __name__ == "__main__":
    main()
