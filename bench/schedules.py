"""Schedules against each other: what a search promises, and what the machine says.

Each model is compiled with greedy fusion and with each search named; schedules that differ are
timed in one process and checked to give the same outputs. Two things make the times comparable:
all programs read the same packed weights, since where these lie in memory alone changes a program's
time by up to six percent; and blocks are short (``BLOCK``) and many, in turns, each compared with
greedy fusion's of the same round. Our own threads do not disturb one another, so no pause is
needed. ``again`` is greedy fusion's program once more, which shows the noise.
``measure:3`` stands for three seconds of ``compile(..., measure=3)``. Where the published greedy
rules are among the searches, the others are also compared with the best of them, model by model.
The rules as published know nothing of our kernels' variants: ``priority`` is its fusion with what
each kernel does unasked, ``priority+variants`` its fusion with the variants that our search would
take for its groups. ``@FILE`` is a schedule from a file, such as one of another version.

    python -m evonnx.bench.schedules efficientnet_b0 swin_tiny --search exact --search measure:3
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import click
import numpy as np

from ..compiler.api import Compiled
from ..ir.graph import Constants
from ..ir.schedule import Schedule
from ..runtime.constants import Key
from ..runtime.executable import Executable
from ..search.models import Context
from ..search.models import model as model_of
from ..search.settings import RULES
from ..search.space import constant_bytes
from ..search.symbols import sizes_of
from ..search.variants import with_variants
from .machine import describe
from .measure import interleave
from .models import feeds, get, path_of, select
from .stats import geomean, paired_ratio, relative_error, summarize
from .worker import copy_outputs

BLOCK, ROUNDS = 0.03, 40
"""Seconds of a block, and blocks of each schedule."""
AGAIN = "again"
"""Greedy fusion's program once more."""
CHOSEN = "+variants"
"""Behind a rule's name: with our choice of variants."""


@dataclass(frozen=True, slots=True)
class Row:
    """One search on one model."""

    model: str
    threads: int
    search: str
    cost_model: str
    groups: int
    predicted: float
    """Greedy's time over this one's on these threads, as the cost model sees them; a search itself
    counts on all cores."""
    proven: bool
    search_s: float
    """Seconds that compilation with the search took (kernels may come from the cache)."""
    ms: float
    """Median of the blocks."""
    gain: float
    """Greedy's time over this one's, median of the rounds; 1 where the schedules are equal."""
    same: bool
    """Whether the schedule is greedy's."""
    error: float
    """Largest difference from greedy's outputs, relative to their scale."""


def compare(name: str, threads: int, searches: tuple[str, ...], cost_model: str, budget: int,
            rounds: int) -> list[Row]:
    """Rows of one model; the first is greedy's."""
    path, inputs = path_of(get(name)), feeds(get(name))
    made: dict[str, Executable] = {}
    schedules: dict[str, Schedule] = {}
    outputs: dict[str, list[Any]] = {}
    found: dict[str, dict[str, Any]] = {}
    told: dict[str, float] = {}
    seconds: dict[str, float] = {}
    expect: dict[str, int] = {}
    packed: dict[Key, np.ndarray] = {}
    for search in ("none", *searches):
        start = time.perf_counter()
        compiled = compiled_by(path, search, threads, cost_model, expect, inputs, budget)
        facts = compiled.report().search
        seconds[search] = time.perf_counter() - start
        schedules[search], found[search] = compiled.schedule, facts
        compiled.executable.run_list(inputs)  # a report is for the sizes of the last call
        told[search] = compiled.report(cost_model).predicted_seconds or math.nan
        made[search] = shared(compiled.executable, packed)
        outputs[search] = copy_outputs(made[search].run_list(inputs))
    plain = schedules["none"].groups
    differ = [k for k in made if k in ("none", AGAIN) or schedules[k].groups != plain]
    calls = {k: partial(made[k].run_list, inputs) for k in differ}
    times = interleave(calls, rounds=rounds, seconds=BLOCK, pause=0.0) if len(differ) > 1 else {}
    rows = []
    for search, facts in found.items():
        same = search not in differ
        block = times.get(search) or times.get("none") or [float("nan")]
        rows.append(Row(
            name, threads, search, cost_model, len(schedules[search].groups),
            told["none"] / told[search],
            bool(facts.get("proven")), seconds[search], summarize(block).median * 1e3,
            1.0 if same or search == "none" else paired_ratio(times["none"], times[search]),
            same, relative_error(outputs[search], outputs["none"]),
        ))  # fmt: skip
    return rows


def compiled_by(path: Path, search: str, threads: int, cost_model: str, expect: dict[str, int],
                inputs: Mapping[str, np.ndarray], budget: int = 50_000) -> Compiled:
    """A model compiled with a search as this module names it, or with the schedule in a file
    (``@FILE``). ``expect``: sizes to search for, by symbol; those of ``inputs`` are added."""
    from .. import compile as compile_model

    name, _, measured = ("none" if search == AGAIN else search).partition(":")
    plain = name.removesuffix(CHOSEN)
    if name.startswith("@"):
        return compile_model(path, threads=threads, schedule=search[1:])
    how = {"search": "default", "measure": float(measured)} if measured else {"search": plain}
    compiled = compile_model(path, threads=threads, cost_model=cost_model, budget=budget,
                             expect=expect, **how)
    if plain != name:
        graph, machine = compiled.graph, compiled.executable.target
        context = Context(machine, machine.cores, constant_bytes(graph))
        chosen = with_variants(graph, compiled.schedule, sizes_of(graph, expect),
                               model_of(cost_model), context)
        compiled = compile_model(path, threads=threads, schedule=str(chosen))
    expect |= sizes_in(compiled.inputs, inputs)
    return compiled


def shared(executable: Executable, packed: dict[Key, np.ndarray]) -> Executable:
    """The executable on the packed constants in ``packed``, where its own are added."""
    own = {key: packed.setdefault(key, array) for key, array in executable.parts.constants.items()}
    return Executable(executable.program, Constants(), executable.target, executable.threads,
                      parts=replace(executable.parts, constants=own))


def sizes_in(types: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> dict[str, int]:
    """The sizes that inputs give to the symbols that are whole dimensions."""
    found: dict[str, int] = {}
    for name, type_ in types.items():
        for dim, size in zip(getattr(type_, "shape", ()), np.shape(arrays.get(name, ()))):
            if not isinstance(dim, int):
                found.setdefault(str(dim), int(size))
    return found


def markdown(rows: list[Row], machine: dict[str, Any]) -> str:
    """The rows as a page, largest loss first."""
    searches = sorted({r.search for r in rows} - {"none"})
    lines = ["# Searched schedules against greedy fusion", "",
             ", ".join(f"{k} {v}" for k, v in machine.items() if isinstance(v, str)), ""]
    for search in searches:
        mine = sorted((r for r in rows if r.search == search), key=lambda r: r.gain)
        changed = [r.gain for r in mine if not r.same]
        mean = geomean([r.gain for r in mine])
        lines += [f"## {search} ({mine[0].cost_model})", "",
                  f"geomean {mean:.3f} over {len(mine)} rows, {len(changed)} with another schedule",
                  "",
                  "| model | t | groups | predicted | measured | ms | proven | search s | error |",
                  "|---|---|---|---|---|---|---|---|---|"]
        lines += [f"| {r.model} | {r.threads} | {r.groups} | {r.predicted:.3f} | "
                  f"{'same schedule' if r.same else f'{r.gain:.3f}'} | {r.ms:.2f} | "
                  f"{'yes' if r.proven else 'no'} | {r.search_s:.2f} | {r.error:.1e} |"
                  for r in mine]
        lines.append("")
    return "\n".join([*lines, *_against_rules(rows, searches)])


def _against_rules(rows: list[Row], searches: Sequence[str]) -> list[str]:
    """Each search's speed over that of the best published rule, greedy fusion of our own aside:
    the rules with each kernel as it is unasked, and with our choice of variants."""
    lines: list[str] = []
    names = {rule + end for rule in RULES for end in ("", CHOSEN)}
    others = ["none", *(s for s in searches if s not in names)]
    for end, title in (("", "each kernel as it is unasked"), (CHOSEN, "our choice of variants")):
        best: dict[tuple[str, int], float] = {}
        for r in rows:
            if r.search in {rule + end for rule in RULES}:
                best[r.model, r.threads] = max(r.gain, best.get((r.model, r.threads), 0.0))
        if best:
            lines += [f"## Against the best of the published rules with {title}", "",
                      *_table(rows, others, best)]
    return lines


def _table(rows: list[Row], others: Sequence[str], best: Mapping[tuple[str, int], float]
           ) -> list[str]:
    lines = ["| model | t | " + " | ".join("greedy" if s == "none" else s for s in others) + " |",
             "|---|---|" + "---|" * len(others)]
    ratios: dict[str, list[float]] = {s: [] for s in others}
    for (model, threads), rule in sorted(best.items()):
        for s in others:
            ratios[s] += [r.gain / rule for r in rows
                          if (r.model, r.threads, r.search) == (model, threads, s)]
        lines.append(f"| {model} | {threads} | "
                     + " | ".join(f"{ratios[s][-1]:.3f}" for s in others) + " |")
    means = " | ".join(f"{geomean(ratios[s]):.3f} ({min(ratios[s]):.3f})" for s in others)
    return [*lines, f"| geomean (least) | | {means} |", ""]


@click.command()
@click.argument("models", nargs=-1, required=True)
@click.option("--search", "searches", multiple=True, default=("exact",), show_default=True)
@click.option("--cost-model", default="bounds", show_default=True)
@click.option("--budget", default=50_000, show_default=True)
@click.option("--threads", "counts", multiple=True, type=int, default=(2,), show_default=True)
@click.option("--rounds", default=ROUNDS, show_default=True)
@click.option("--out", type=click.Path(path_type=Path), help="Writes OUT.md and OUT.json.")
def main(models: tuple[str, ...], searches: tuple[str, ...], cost_model: str, budget: int,
         counts: tuple[int, ...], rounds: int, out: Path | None) -> None:
    """Compares searches on MODELS (names, or sizes as in bench.models)."""
    rows: list[Row] = []
    for model in select(models):
        for threads in counts:
            try:
                rows += compare(model.name, threads, searches, cost_model, budget, rounds)
            except Exception as error:
                click.echo(f"{model.name}: {type(error).__name__}: {error}", err=True)
                continue
            for r in rows[-len(searches):]:
                click.echo(f"{r.model} t={r.threads} {r.search}: predicted {r.predicted:.3f}, "
                           f"measured {'same' if r.same else f'{r.gain:.3f}'} ({r.ms:.2f} ms)")
    page = markdown(rows, describe())
    if out is None:
        click.echo(page)
    else:
        out.with_suffix(".md").write_text(page, encoding="utf-8")
        document = {"machine": describe(), "rows": [asdict(r) for r in rows]}
        out.with_suffix(".json").write_text(json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    main()
