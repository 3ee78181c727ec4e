"""The arena of a model, scheduled in several ways: what order, fusion and rewriting save.

    python -m evonnx.bench.arenas randwire nasnet_mobile inception_v3

- *definition*: every operation in the order of the model's definition, each result in memory of its
  own but for views and what is done to the result of a convolution or product alone (bias,
  activation): what interpreters for small devices do, and what SERENITY (Ahn et al., 2020) compares
  with; planned only, not run;
- *operators*: every node of the optimized graph (scales folded into weights) is a step of its own,
  in the order of the model's definition; elementwise results are written over their operands where
  these are not needed any more, as every framework does for bias and activation;
- *fused*: greedy fusion in the definition's order, what ``compile`` starts from;
- *order*: the schedule of least peak memory of that graph;
- *peak*: ``compile(..., objective="peak")``, which may dissolve concatenations as well.

Bytes are those of the arena that the program allocates for its call: all intermediate values, no
inputs, outputs, weights or scratch. ``measured`` is what one call raised the resident set by in the
last case, outputs and scratch of the threads included, beside what is predicted for it.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from typing import Any

import click
import numpy as np

from .. import compile as compile_model
from ..compiler.api import Compiled
from ..ir.graph import Graph, Value
from ..ir.ops import lookup
from ..ir.schedule import Group, Schedule
from ..ir.target import Target
from ..runtime.arena import Arena, Plan
from ..runtime.executable import Peak, measure_peak
from ..search.choose import choose
from ..search.greedy import Fuser
from ..search.settings import Search
from .machine import headline
from .models import MODELS, feeds, path_of
from .run import resolve


def operators(graph: Graph) -> Schedule:
    """Every node alone, in the order of the graph."""
    judge = Fuser(graph).judge
    kinds = {k: judge.verdict([node]).implementation for k, node in enumerate(graph.nodes)
             if node.op not in ("input", "const")}  # fmt: skip
    return Schedule(graph.digest, tuple(
        Group((k,), kind) for k, kind in kinds.items() if kind is not None))


def definition(graph: Graph) -> Plan:
    """The arena of the definition's order, nothing in place; see the module."""
    home: dict[Value, Value] = {}
    lives: dict[Value, list[int]] = {}
    fused: set[Value] = set()
    nodes = [n for n in graph.nodes if n.op not in ("input", "const")]
    for k, node in enumerate(nodes):
        computed = [v for v in node.operands if v in home]
        for v in computed:
            lives[home[v]][1] = k
        alone = len(computed) == 1 and len(graph.users(computed[0])) == 1
        joins = alone and lookup(node.op).has("elementwise") and computed[0] in fused
        for v in node.outputs:
            if computed and (lookup(node.op).has("view") or joins and v.shape == computed[0].shape):
                home[v] = home[computed[0]]
            else:
                home[v] = v
                lives[v] = [k, k]
            if joins or node.op in ("conv", "dot"):
                fused.add(v)
    outer = {home[v] for v in graph.output_values if v in home}
    kept = [v for v in lives if v not in outer]
    sizes = np.array([v.tensor.nbytes() for v in kept], np.int64)
    return Arena([(lives[v][0], lives[v][1]) for v in kept]).place(sizes)


def peak_of(compiled: Compiled, given: Mapping[str, Any]) -> Peak:
    """The memory of one call with these arrays, which is made."""
    compiled.run(None, given)
    found = compiled.executable.last_call()
    assert found is not None
    return found[1]


def ways(name: str, given: Mapping[str, Any], threads: int, search: str
         ) -> Iterator[tuple[str, Compiled, str]]:
    """(what, program, how the schedule was found) of every way."""
    fused = compile_model(path_of(MODELS[name]), threads=threads, search="none")
    graph = fused.graph
    yield "operators", compile_model(
        graph, threads=threads, pipeline="", schedule=operators(graph)), "given"
    yield "fused", fused, "given"
    began = time.perf_counter()
    best = choose(graph, Fuser(graph), Target.detect(), Search(search, objective="peak"))
    seconds = time.perf_counter() - began
    how = "proven" if best.proven else "found"
    yield "order", compile_model(
        graph, threads=threads, pipeline="", schedule=best.schedule), f"{how}, {seconds:.1f} s"
    began = time.perf_counter()
    least = compile_model(path_of(MODELS[name]), threads=threads, search=search, objective="peak",
                          cache=False)
    facts = least.report().to_dict()["search"]
    how = "proven" if facts["proven"] else "found"
    yield "peak", least, f"{how}, {time.perf_counter() - began:.1f} s with kernels"


def difference(got: list[Any], want: list[Any]) -> float:
    """Largest difference of the outputs, relative to their scale."""
    return max(float(np.max(np.abs(a - b)) / max(np.max(np.abs(b)), 1e-30))
               for a, b in zip(got, want, strict=True))


@click.command(help=__doc__.splitlines()[0])
@click.argument("models", nargs=-1, required=True)
@click.option("--threads", default=2, show_default=True)
@click.option("--search", default="default", show_default=True)
def main(models: tuple[str, ...], threads: int, search: str) -> None:
    """Prints a Markdown table."""
    print(headline(threads))
    print("\n| model | way | steps | arena MB | bound MB | definition / this | operators / this | "
          "schedule | measured / predicted MB | difference |\n"
          "|---|---|--:|--:|--:|--:|--:|---|--:|--:|")
    for name in resolve(models):
        given, first, want, plain = feeds(MODELS[name]), 0, None, None
        for what, compiled, how in ways(name, given, threads, search):
            found = peak_of(compiled, given)
            first = first or found.arena
            if plain is None:
                plain = definition(compiled.graph)
                print(f"| {name} | definition | | {plain.peak / 1e6:.2f} | {plain.bound / 1e6:.2f} "
                      f"| | | given | | |")
            outputs = compiled.run(None, given)
            want = outputs if want is None else want
            grown = measure_peak(compiled.executable, given) or 0
            print(f"| {name} | {what} | {len(compiled.schedule.groups)} | {found.arena / 1e6:.2f} "
                  f"| {found.bound / 1e6:.2f} | {plain.peak / found.arena:.2f} "
                  f"| {first / found.arena:.2f} | {how} "
                  f"| {grown / 1e6:.2f} / {(found.total - found.constants) / 1e6:.2f} "
                  f"| {difference(outputs, want):.1e} |", flush=True)


if __name__ == "__main__":
    main()
