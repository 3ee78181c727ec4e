"""``python -m evonnx.bench.fuzz``: many graphs in processes of their own, and a summary."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from ...compiler.pipeline import rule_names
from ..machine import describe
from .campaign import Summary, outcome, run_many, save, shrunk
from .case import Outcome
from .corpus import from_text, to_text
from .generate import example


def _print(console: Console, total: Summary, base: int) -> None:
    states = ", ".join(f"{n} {k}" for k, n in total.status.most_common())
    console.print(f"{total.graphs} graphs from seed {base} under {total.bindings} bindings in "
                  f"{total.seconds:.0f} s: {states}")
    console.print("peers: " + ", ".join(f"{n} {k}" for k, n in total.peers.most_common()))
    console.print("ops: " + ", ".join(f"{k} {n}" for k, n in total.ops.most_common()))
    console.print("types: " + ", ".join(f"{k} {n}" for k, n in total.dtypes.most_common()))
    reached = len(set(rule_names()) & set(total.rules))
    console.print(f"rules: {reached} of {len(rule_names())} fired; not reached: "
                  + (", ".join(total.unreached()) or "none"))
    for text, n in total.unsupported.most_common(12):
        console.print(f"unsupported {n}x: {text}", markup=False)


@click.command()
@click.argument("count", type=click.IntRange(1), default=1000)
@click.option("--base", type=int, default=0, help="First seed.")
@click.option("--seed", type=int, default=None, help="This seed alone, shrunk if it fails.")
@click.option("--replay", type=click.Path(path_type=Path, exists=True), default=None,
              help="A saved example.")
@click.option("--minutes", type=float, default=float("inf"), help="Time after which to stop.")
@click.option("--workers", type=click.IntRange(1), default=2, help="Processes.")
@click.option("--peers/--no-peers", default=True, help="Whether to ask the peers.")
@click.option("--broken", is_flag=True, help="Break the models: each must be refused in words.")
@click.option("--save", "folder", type=click.Path(path_type=Path), default=None,
              help="Folder for failing examples, shrunk.")
@click.option("--out", type=click.Path(path_type=Path), default=None, help="File for the JSON.")
def main(count: int, base: int, seed: int | None, replay: Path | None, minutes: float,
         workers: int, peers: bool, broken: bool, folder: Path | None, out: Path | None) -> None:
    """Fuzzes COUNT graphs. Exit code 1 if any failed."""
    console = Console()
    if broken and seed is not None:
        count, base, workers = 1, seed, 1
    elif seed is not None or replay is not None:
        given = example(seed) if replay is None else from_text(replay.read_text("utf-8"))  # type: ignore[arg-type]
        found = outcome(given)
        console.print(f"{found.status} {found.detail}", markup=False)
        if found.failed:
            console.print(to_text(shrunk(given, found.status)), markup=False)
        sys.exit(found.failed)
    with Progress(TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(),
                  TimeRemainingColumn(), console=console, transient=True) as bar:
        shown = bar.add_task("graphs", total=count)
        failed = 0

        def seen(o: Outcome) -> None:
            nonlocal failed
            failed += o.failed
            if o.failed:
                bar.console.print(f"{o.status}: {o.detail}\n  again: python -m evonnx.bench.fuzz "
                                  f"--seed {o.seed}{' --broken' * broken}", markup=False)
            bar.update(shown, advance=1, description=f"graphs, {failed} failed")

        total = run_many(count, base, workers, peers, seen, minutes, broken)
    _print(console, total, base)
    if folder is not None and not broken:
        for o in total.failures:
            console.print(f"saved {save(o, folder)}", markup=False)
    if out is not None:
        content = {"machine": describe(), "base": base, **total.as_dict()}
        out.write_text(json.dumps(content, indent=1) + "\n")
    sys.exit(bool(total.failures))


if __name__ == "__main__":
    main()
