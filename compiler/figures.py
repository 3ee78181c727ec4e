"""Figures of a study, one small function each: records (or rows) in, a matplotlib figure out.

``figures`` draws all that the records have data for into a folder, as SVG files whose bytes depend
on the records only. Functions take any records with the fields they read (``study`` lists them), so
that a table filtered or made elsewhere can be drawn as well. Matplotlib is used without its global
state and only here: ``pip install 'evonnx[plots]'``.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..bench.stats import kendall
from ..ir.errors import OptionError, quote
from ..ir.target import Target
from ..search.dataset import Dataset, solution_groups
from ..search.solutions import needs
from .records import Record, best_by, grouped, median_interval
from .roofline_plot import roofs

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PROBLEM = ("graph", "cost_model", "target", "threads")
"""Fields that tell one scheduling problem from another."""
_WIDE, _HIGH, _COLUMNS = 5.0, 3.4, 3
_MOST_AXES = 12
_EMPTY = "none of the records has what this figure shows: {}"


def _grid(count: int) -> tuple[Figure, list[Axes]]:
    """A figure of ``count`` axes in rows of ``_COLUMNS``."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise OptionError("figures need matplotlib: pip install 'evonnx[plots]'") from None
    columns = min(_COLUMNS, max(1, count))
    rows = -(-max(1, count) // columns)
    figure = Figure(figsize=(_WIDE * columns, _HIGH * rows), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False).ravel().tolist()
    for spare in axes[count:]:
        spare.set_axis_off()
    return figure, axes[:count]


def _text(value: object) -> str:
    """A name as a label: a dollar sign begins no formula, an underscore hides no line."""
    return str(value).replace("$", r"\$").lstrip("_") or "-"


def _title(axes: Axes, values: Iterable[object]) -> None:
    told = [str(v) for v in values if v not in (None, "")]
    axes.set_title(_text(", ".join(told)), fontsize="medium")


def _runs(records: Iterable[Record]) -> list[Record]:
    """The records of strategies that drew something: those with a history."""
    found = [r for r in records if r.get("history")]
    if not found:
        raise OptionError(_EMPTY.format("runs of strategies"))
    return found


def anytime(records: Iterable[Record], by: str = "evaluations") -> Figure:
    """Best cost so far over "evaluations" or "seconds": median of the seeds and their quartiles
    per strategy, the optimum (or bound) and greedy's cost as lines; axes per problem, the first
    ``_MOST_AXES`` of them."""
    problems = list(grouped(_runs(records), *PROBLEM).items())[:_MOST_AXES]
    figure, cells = _grid(len(problems))
    for axes, (problem, held) in zip(cells, problems):
        for (label,), runs in grouped(held, "strategy").items():
            top = max(r["budget"] for r in runs)
            runs = [r for r in runs if r["budget"] == top]
            place = {"evaluations": 0, "seconds": 1}[by]
            steps = sorted({step[place] for r in runs for step in r["history"]})
            steps.append(max(r[by] for r in runs))
            costs = np.array([[best_by(r, x, by) for x in steps] for r in runs])
            known = ~np.isnan(costs).any(axis=0)
            at, costs = np.array(steps)[known], costs[:, known]
            low, middle, high = np.quantile(costs, (0.25, 0.5, 0.75), axis=0)
            (line,) = axes.step(at, middle, where="post", label=_text(label))
            axes.fill_between(at, low, high, step="post", alpha=0.2, color=line.get_color())
        one = held[0]
        low, high = axes.dataLim.intervaly  # greedy may be far above all of this
        low = min(low, one["bound"])
        room = max(0.05 * (high - low), 1e-3 * high)
        axes.axhline(one["bound"], color="black", linewidth=1, label=one["gap_to"])
        axes.axhline(one["greedy"], color="gray", linestyle=":",
                     label=f"greedy {one['greedy']:.4g}")  # fmt: skip
        axes.set_ylim(low - room, high + room)
        axes.set_xscale("log")
        axes.set_xlabel(by)
        axes.set_ylabel(_text(f"best cost [{one['unit'] or 'cost'}]"))
        _title(axes, problem)
        axes.legend(fontsize="x-small")
    return figure


def gaps(records: Iterable[Record], bins: int = 20) -> Figure:
    """Histogram of the gaps of all runs, a column per strategy side by side; gaps to a bound that
    is not the optimum are drawn apart, since they say less."""
    runs = _runs(records)
    kinds = grouped(runs, "gap_to")
    figure, cells = _grid(len(kinds))
    for axes, ((kind,), held) in zip(cells, kinds.items()):
        sets = grouped(held, "strategy")
        values = [[100 * r["gap"] for r in some] for some in sets.values()]
        top = max(max(v) for v in values)
        axes.hist(values, bins=np.linspace(0, max(top, 1e-9), bins + 1).tolist(),
                  label=[_text(label) for (label,) in sets])
        axes.set_xlabel(f"gap to the {kind} [%]")
        axes.set_ylabel("runs")
        axes.legend(fontsize="x-small")
    return figure


def race(records: Iterable[Record]) -> Figure:
    """Strategies against each other at equal evaluations and at equal seconds: the median over
    their runs of cost over the best cost any of them found on that problem, with its 95 % bootstrap
    interval. Evaluations are those of the smallest budget, seconds those of the fastest run that
    spent its budget. Problems on which all runs end at one cost decide nothing and are left out."""
    problems = grouped(_runs(records), *PROBLEM)
    deciding = [held for held in problems.values()
                if max(r["cost"] for r in held) > min(r["cost"] for r in held) * (1 + 1e-9)]
    figure, cells = _grid(2)
    for axes, by in zip(cells, ("evaluations", "seconds")):
        found: dict[str, list[float]] = {}
        for held in deciding:
            best, limit = min(r["cost"] for r in held), _equal(held, by)
            for r in held:
                found.setdefault(r["strategy"], []).append(best_by(r, limit, by) / best)
        rows = [(label, *median_interval([f for f in costs if not math.isnan(f)]))
                for label, costs in found.items()]
        rows.sort(key=lambda row: row[1])
        middle = np.array([row[1] for row in rows])
        spread = np.array([[row[1] - row[2] for row in rows], [row[3] - row[1] for row in rows]])
        if rows:
            axes.errorbar(middle, range(len(rows)), xerr=spread, fmt="o", capsize=3)
        axes.set_yticks(range(len(rows)), [_text(row[0]) for row in rows])
        axes.set_xlabel("cost over the best found (median, 95 % interval)")
        axes.set_title(f"at equal {by}, {len(deciding)} of {len(problems)} problems",
                       fontsize="medium")
    return figure


def _equal(runs: Sequence[Record], by: str) -> float:
    """What every run on a problem was given."""
    if by == "evaluations":
        return float(min(r["budget"] for r in runs))
    spent = [r["seconds"] for r in runs if r["evaluations"] >= r["budget"]]
    return float(min(spent or [max(r["seconds"] for r in runs)]))


def ablation(records: Iterable[Record]) -> Figure:
    """What each freedom of the search is worth: per graph a bar for each value of the field
    ``ablation`` ("order only", "fusion only", "parallel only", "joint"), as the part of the cost
    of ``unfused`` (every node alone) that is left; medians over seeds."""
    held = [r for r in records if r.get("ablation") and r["cost"] is not None]
    if not held:
        raise OptionError(_EMPTY.format("a field `ablation`"))
    graphs = grouped(held, "graph")
    kinds = [kind for (kind,) in grouped(held, "ablation")]
    figure, (axes,) = _grid(1)
    width = 0.8 / len(kinds)
    for k, kind in enumerate(kinds):
        heights = []
        for some in graphs.values():
            mine = [r["cost"] / r["unfused"] for r in some if r["ablation"] == kind]
            heights.append(float(np.median(mine)) if mine else math.nan)
        axes.bar(np.arange(len(graphs)) + (k - (len(kinds) - 1) / 2) * width, heights, width,
                 label=_text(kind))
    axes.set_xticks(range(len(graphs)), [_text(g) for (g,) in graphs], rotation=20, ha="right",
                    fontsize="small")
    axes.set_ylabel("cost, every node alone = 1")
    axes.legend(fontsize="x-small")
    return figure


def front(points: Mapping[str, Sequence[Sequence[float]]], objectives: Sequence[str] = ("C", "D"),
          truth: Sequence[Sequence[float]] = ()) -> Figure:
    """Fronts of two objectives, by label, against the true one: points that none other of the
    same front dominates, ``truth`` as a staircase."""
    figure, (axes,) = _grid(1)
    if len(truth):
        edge = nondominated(truth)
        axes.step(edge[:, 0], edge[:, 1], where="post", color="black", label="true front")
    for (label, found), marker in zip(points.items(), "ox^sDv*P" * len(points)):
        edge = nondominated(found)
        axes.plot(edge[:, 0], edge[:, 1], marker, linestyle="none", label=_text(label), alpha=0.7)
    axes.set_xlabel(_text(objectives[0]))
    axes.set_ylabel(_text(objectives[1]))
    axes.legend(fontsize="x-small")
    return figure


def nondominated(points: Sequence[Sequence[float]] | np.ndarray) -> np.ndarray:
    """f8[k, 2]: the points of two objectives that no other is as good as in both, once each, the
    first objective ascending."""
    edge: list[tuple[float, float]] = []
    for x, y in sorted({(float(a), float(b)) for a, b in points}):
        if not edge or y < edge[-1][1]:
            edge.append((x, y))
    return np.array(edge).reshape(-1, 2)


def roofline(groups: Iterable[Record], target: Target, threads: int = 1, time: str = "predicted"
             ) -> Figure:
    """Groups under the roofs of a machine: operations per second over operations per byte, a color
    per ``stage`` ("before", "after"), an area by time; ``time`` is "predicted" (a model whose unit
    is seconds) or "measured". Groups without operations or time have no place here."""
    rows = [g for g in groups if g.get(time) and g["flops"] and g["nbytes"]]
    if not rows:
        raise OptionError(_EMPTY.format(f"groups with operations and {time} seconds"))
    figure, (axes,) = _grid(1)
    longest = max(g[time] for g in rows)
    for (stage,), held in grouped(rows, "stage").items():
        total = sum(g[time] for g in held)
        axes.scatter([g["flops"] / g["nbytes"] for g in held],
                     [g["flops"] / g[time] / 1e9 for g in held],
                     s=[5 + 120 * g[time] / longest for g in held], alpha=0.5,
                     label=_text(f"{stage}: {len(held)} groups, {total:.3g} s"))
    reach = [g["flops"] / g["nbytes"] for g in rows]
    roofs(axes, target, threads, (min(reach) / 2, max(reach) * 2))
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel("operations per byte")
    axes.set_ylabel(f"GFLOP/s, {time}")
    _title(axes, (rows[0]["graph"], target.name))
    axes.legend(fontsize="x-small")
    return figure


def memory(curves: Mapping[str, Sequence[float]], limit: float | None = None) -> Figure:
    """Bytes alive while each group runs, a staircase per schedule with its peak in the legend, and
    a limit as a line."""
    figure, (axes,) = _grid(1)
    for label, alive in curves.items():
        peak = max(alive, default=0.0) / 2**20
        axes.step(range(len(alive)), np.asarray(alive) / 2**20, where="mid",
                  label=_text(f"{label}: peak {peak:.3g} MiB"))
    if limit is not None:
        axes.axhline(limit / 2**20, color="black", linewidth=1, label="limit")
    axes.set_xlabel("group")
    axes.set_ylabel("alive [MiB]")
    axes.legend(fontsize="x-small")
    return figure


def agreement(groups: Iterable[Record]) -> Figure:
    """Predicted against measured seconds of groups, axes per cost model, with Kendall's tau (over
    pairs whose measured times differ) and the line of equal times."""
    rows = [g for g in groups if g.get("measured") and g["predicted"]]
    if not rows:
        raise OptionError(_EMPTY.format("measured groups"))
    models = grouped(rows, "cost_model")
    figure, cells = _grid(len(models))
    for axes, ((model,), held) in zip(cells, models.items()):
        measured = [g["measured"] for g in held]
        predicted = [g["predicted"] for g in held]
        tau = kendall(measured, predicted)
        for (word,), some in grouped(held, "implementation").items():
            axes.plot([g["measured"] for g in some], [g["predicted"] for g in some], ".",
                      label=_text(word))  # fmt: skip
        if held[0]["unit"] == "s":
            ends = [min(measured + predicted), max(measured + predicted)]
            axes.plot(ends, ends, color="black", linewidth=0.8, label="equal")
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.set_xlabel("measured [s]")
        axes.set_ylabel(_text(f"predicted [{held[0]['unit']}]"))
        axes.set_title(_text(f"{model}: tau {tau:.2f} of {len(held)} groups"), fontsize="medium")
        axes.legend(fontsize="x-small")
    return figure


def memory_curves(records: Iterable[Record], data: Dataset, model: str) -> dict[str, list[float]]:
    """Bytes alive at each group of greedy's schedule and of the cheapest that the records have for
    a dataset under a model; empty where nothing is known of values."""
    if not data.problem.remembers:
        return {}
    best = _cheapest(records, data, model)
    found = {"greedy": needs(data.problem, data.greedy)}
    return found if best is None else {
        **found, best["strategy"]: needs(data.problem, best["chosen"])}  # fmt: skip


def _cheapest(records: Iterable[Record], data: Dataset, model: str) -> Record | None:
    mine = [r for r in records if r["digest"] == data.digest and r["cost_model"] == model
            and r["cost"] is not None]  # fmt: skip
    return min(mine, key=lambda r: r["cost"]) if mine else None


def schedule_rows(records: Iterable[Record], data: Dataset, model: str) -> list[Record]:
    """The groups of greedy's schedule ("before") and of the cheapest one that the records have for
    a dataset under a model ("after"), and every candidate that was measured ("candidates")."""
    rows = solution_groups(data, data.greedy, "before", model)
    best = _cheapest(records, data, model)
    if best is not None:
        rows += solution_groups(data, best["chosen"], "after", model)
    known = np.flatnonzero(~np.isnan(data.measured)).tolist()
    return rows + solution_groups(data, known, "candidates", model)


def figures(records: Sequence[Record], folder: str | os.PathLike[str],
            groups: Sequence[Record] = (), target: Target | None = None,
            curves: Mapping[str, Mapping[str, Sequence[float]]] | None = None) -> list[Path]:
    """Writes every figure that there is data for into ``folder`` and answers their files.

    ``groups`` are rows of ``search.dataset.solution_groups``, for the roofline (with ``target``)
    and the agreement of models with measurements; ``curves`` are ``memory_curves`` by graph.
    Raises ``OptionError`` without matplotlib, and for a file of records instead of records."""
    if isinstance(records, (str, os.PathLike)):
        raise OptionError("records: a list, which compiler.records.read_records reads from a file, "
                          f"not {quote(records)}")
    path = Path(folder)
    path.mkdir(parents=True, exist_ok=True)
    written = []
    drawn = [*_drawn(records, groups, target),
             *((f"memory-{_file(k)}", memory(c)) for k, c in (curves or {}).items() if c)]
    for name, figure in drawn:
        written.append(path / f"{name}.svg")
        write(figure, written[-1])
    return written


def _drawn(records: Sequence[Record], groups: Sequence[Record], target: Target | None
           ) -> Iterator[tuple[str, Figure]]:
    if any(r.get("history") for r in records):
        yield "anytime-evaluations", anytime(records)
        yield "anytime-seconds", anytime(records, "seconds")
        yield "gaps", gaps(records)
        yield "race", race(records)
    if any(r.get("ablation") for r in records):
        yield "ablation", ablation(records)
    for (graph, place, names), held in _fronts(records).items():
        points = {label: [tuple(p.values()) for r in some for p in (r["objectives"], *r["front"])]
                  for (label,), some in grouped(held, "strategy").items()}
        proven = any(r["strategy"] == "exact" and r["front"] for r in held)
        truth = points.pop("exact") if proven else ()
        told = [graph] if place is None else [graph, place]
        yield "-".join(["front", *map(_file, told)]), front(points, names, truth)
    timed = [g for g in groups if g["unit"] == "s" and g["stage"] != "candidates"]
    if target is not None:
        for (graph, model), held in grouped(timed, "graph", "cost_model").items():
            if any(g["predicted"] and g["flops"] and g["nbytes"] for g in held):
                yield (f"roofline-{_file(graph)}-{_file(model)}",
                       roofline(held, target, held[0]["threads"]))
    samples = [g for g in groups if g["stage"] == "candidates"]
    if samples:
        yield "agreement", agreement(samples)


def _fronts(records: Iterable[Record]) -> dict[tuple[Any, ...], list[Record]]:
    """Records of two objectives, by graph and target."""
    found: dict[tuple[Any, ...], list[Record]] = {}
    for r in records:
        if len(r.get("objectives", ())) == 2:
            found.setdefault((r["graph"], r["target"], tuple(r["objectives"])), []).append(r)
    return found


def _file(name: object) -> str:
    """A name as part of a file's name."""
    return "".join(c if c.isalnum() or c in "-_." else "_" for c in str(name))[:60]


def write(figure: Figure, path: str | os.PathLike[str]) -> None:
    """Writes a figure, in the format of the file's suffix; equal figures give equal bytes."""
    from matplotlib import rc_context

    with rc_context({"svg.hashsalt": "evonnx", "svg.fonttype": "none"}):
        figure.savefig(path, metadata={"Date": None} if str(path).endswith(".svg") else None)
