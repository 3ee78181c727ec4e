"""``evonnx study MODEL... -o FOLDER``: a study from a shell, with its datasets and figures.

The folder gets ``datasets/NAME/`` (what the search saw of each model), ``records.jsonl`` (made from
these datasets, so that anybody can make them again without the models) and ``figures/``.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .console import Progress, named_sizes, print_json, print_table, warn

if TYPE_CHECKING:
    from ..search.dataset import Dataset
    from .records import Record


@click.command()
@click.argument("models", nargs=-1, required=True, metavar="MODEL...",
                type=click.Path(exists=True, path_type=Path))
@click.option("-o", "--output", required=True, type=click.Path(file_okay=False, path_type=Path),
              help="Folder of the records, datasets and figures.")
@click.option("--strategy", "strategies", multiple=True, metavar="NAME",
              default=("exact", "genetic", "swarm", "annealing", "random"), show_default=True,
              help="exact, genetic, swarm, annealing, beam, nsga2, random, or any other that is "
              "registered or installed; repeatable.")
@click.option("--cost-model", "cost_models", multiple=True, default=("bounds",), metavar="NAME",
              show_default=True, help="Repeatable.")
@click.option("--budget", "budgets", multiple=True, type=click.IntRange(1), default=(50_000,),
              show_default=True, help="Evaluations; repeatable.")
@click.option("--seeds", type=click.IntRange(1), default=10, show_default=True,
              help="Runs of each, seeded 0, 1, ...")
@click.option("--target", default="cpu", show_default=True, metavar="NAME|FILE",
              help="Machine to schedule for; it need not be here.")
@click.option("--threads", type=click.IntRange(1), default=1, show_default=True)
@click.option("--expect", "expected", metavar="NAME=SIZE", multiple=True,
              help="Size of a symbolic dimension; repeatable.")
@click.option("--ideals", type=click.IntRange(0), default=300_000, show_default=True,
              help="Bound of the proof of the optimum; 0: none.")
@click.option("--measure", type=click.IntRange(0), default=0, show_default=True,
              help="Candidate groups to time on this machine, per model.")
@click.option("--figures/--no-figures", "drawn", default=True, help="Draw figures (matplotlib).")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def study(
    models: tuple[Path, ...], output: Path, strategies: tuple[str, ...],
    cost_models: tuple[str, ...], budgets: tuple[int, ...], seeds: int, target: str, threads: int,
    expected: tuple[str, ...], ideals: int, measure: int, drawn: bool, as_json: bool,
) -> None:  # fmt: skip
    """Search schedules for MODELs (files, IR text, folders of datasets) in every combination."""
    from ..search.dataset import SAMPLES, load
    from .options import machine_of
    from .samples import dataset
    from .study import study as run_study

    machine = machine_of(target)
    named: dict[str, Path] = {}
    held: list[Dataset] = []
    for path in models:
        name = path.stem
        while name in named:
            name += "'"
        with Progress(f"survey {path.name}"):
            if (path / SAMPLES).is_file():
                named[name] = path
                held.append(load(path))
                continue
            named[name] = output / "datasets" / name
            held.append(dataset(
                path, named[name], cost_models=cost_models, target=machine, threads=threads,
                expect=named_sizes("--expect", expected), measure=measure, name=name))
    output.mkdir(parents=True, exist_ok=True)
    with Progress("search"):
        records = run_study(named, cost_models, strategies, budgets, range(seeds), ideals=ideals,
                            out=output / "records.jsonl")  # fmt: skip
    files = _figures(records, held, cost_models, output / "figures") if drawn else []
    rows = summary(records)
    if as_json:
        print_json({"records": len(records), "file": output / "records.jsonl",
                    "figures": files, "rows": rows})  # fmt: skip
        return
    title = f"{len(records)} records in {output}, {len(files)} figures"
    print_table(title, list(rows[0]) if rows else [], [list(row.values()) for row in rows])


def summary(records: list[Record]) -> list[dict[str, Any]]:
    """A row per problem, strategy and budget: medians over the seeds."""
    from .figures import PROBLEM
    from .records import grouped, median_interval

    rows = []
    for (graph, model, *_, strategy, budget), held in grouped(
            records, *PROBLEM, "strategy", "budget").items():
        known = [r for r in held if r["cost"] is not None]
        middle, low, high = median_interval([100 * r["gap"] for r in known])
        cost = median_interval([r["cost"] for r in known])[0]
        seconds = [r["seconds"] for r in known if r["seconds"] is not None]
        rows.append({
            "graph": graph, "cost model": model, "strategy": strategy, "budget": budget or "",
            "runs": len(held), "cost": cost, "greedy/cost": held[0]["greedy"] / cost,
            "gap %": middle, "low": low, "high": high, "gap to": held[0]["gap_to"],
            "seconds": median_interval(seconds)[0] if seconds else "",
        })  # fmt: skip
    return rows


def _figures(records: list[Record], held: list[Dataset], models: tuple[str, ...], folder: Path
             ) -> list[Path]:  # fmt: skip
    """Draws what the records and datasets tell; without matplotlib nothing, and says so."""
    from ..ir.errors import OptionError
    from .figures import figures, memory_curves, schedule_rows

    rows = [row for data in held for model in models
            for row in schedule_rows(records, data, model)]  # fmt: skip
    curves = {f"{data.name}-{model}": memory_curves(records, data, model)
              for data in held for model in models}  # fmt: skip
    try:
        return figures(records, folder, rows, held[0].context.target, curves)
    except OptionError as error:
        warn(str(error))
        return []
