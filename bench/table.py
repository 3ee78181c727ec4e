"""Writes results as a terminal table, Markdown and JSON; losing rows come first."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.table import Table

from .engines import OURS, PEERS
from .jobs import EngineResult, Result
from .reference import FALLBACK
from .stats import geomean

HEADER = (
    "model", "t", "evonnx ms", "onnxruntime ms", "openvino ms", "ratio", "error", "peer error",
    "cold s", "cached s", "peak MB", "note",
)  # fmt: skip

LEGEND = (
    "ratio: best peer / evonnx, median over rounds; above 1 evonnx is faster. error: largest "
    "difference from the float64 reference over the output's scale (¹: reference is ONNX Runtime "
    "in float32; ²: from the interpreter in the declared types, for models that round on purpose), "
    "peer error: the smallest among the peers. ms: median of block medians ± half of "
    "the interquartile range. cold, cached: import and compile in a fresh process with an empty "
    "and a filled cache. peak: predicted / measured."
)


def order(results: Sequence[Result]) -> list[Result]:
    """Rows that failed, then rows by rising ratio."""

    def key(result: Result) -> tuple[int, float]:
        ours = result.engines.get(OURS)
        if result.error or ours is None or ours.error:
            return (0, 0.0)
        return (1, result.ratio if result.ratio is not None else math.inf)

    return sorted(results, key=key)


def milliseconds(entry: EngineResult | None) -> str:
    """Median with half the interquartile range, or a dash."""
    if entry is None or entry.median is None or entry.low is None or entry.high is None:
        return "-"
    return f"{entry.median * 1e3:.3g} ±{(entry.high - entry.low) * 500:.1g}"


def _error(value: float | None) -> str:
    return "-" if value is None else ("0" if value == 0 else f"{value:.1e}")


def _errors(entry: EngineResult | None) -> str:
    """Error against float64 and, where it is large, against the declared types."""
    if entry is None:
        return "-"
    narrow = "" if entry.narrow is None else f" (²{_error(entry.narrow)})"
    return _error(entry.difference) + narrow


def _seconds(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def _megabytes(value: int | None) -> str:
    return "-" if value is None else f"{value / 1e6:.1f}"


def _note(result: Result) -> str:
    """Everything that went wrong in this row."""
    parts = [result.error]
    for entry in result.engines.values():
        parts += [f"{entry.name}: {text}" for text in (entry.error, entry.note) if text]
    if result.reference_note and result.reference_note != "asked for":
        parts.append(f"reference: {result.reference_note}")
    if result.cold is not None and result.cold.error:
        parts.append(f"cold start: {result.cold.error}")
    return "; ".join(part for part in parts if part)


def row(result: Result) -> list[str]:
    """Cells of one result, in the order of :data:`HEADER`."""
    ours = result.engines.get(OURS)
    peers = [result.engines.get(name) for name in PEERS]
    mark = "¹" if result.reference == FALLBACK else ""
    others = [
        peer
        for peer in peers
        if peer is not None and peer.difference is not None
        and not (mark and peer.name == "onnxruntime")  # it is the reference
    ]  # fmt: skip
    nearest = min(others, key=lambda peer: peer.difference or 0.0, default=None)
    difference = None if ours is None else ours.difference
    cold = result.cold
    peak = "-"
    if cold is not None:
        peak = f"{_megabytes(cold.predicted_peak)} / {_megabytes(cold.measured_peak)}"
    return [
        result.name,
        str(result.threads),
        milliseconds(ours),
        *(milliseconds(peer) for peer in peers),
        "-" if result.ratio is None else f"{result.ratio:.2f}",
        _errors(ours) + (mark if difference is not None else ""),
        _errors(nearest),
        _seconds(None if cold is None else cold.cold),
        _seconds(None if cold is None else cold.cached),
        peak,
        _note(result),
    ]


def geomeans(results: Sequence[Result]) -> dict[int, tuple[float, int, int]]:
    """Per number of threads: geometric mean of ratios, rows with a ratio, rows in all."""
    means = {}
    for threads in sorted({result.threads for result in results}):
        rows = [result for result in results if result.threads == threads]
        ratios = [result.ratio for result in rows if result.ratio is not None]
        mean = geomean(ratios)
        if mean is not None:
            means[threads] = (mean, len(ratios), len(rows))
    return means


def geomean_lines(results: Sequence[Result]) -> list[str]:
    """One sentence per number of threads."""
    lines = [
        f"geomean of best peer / evonnx at {threads} thread{'s' if threads > 1 else ''}: "
        f"{mean:.3f} over {count} of {total} rows"
        for threads, (mean, count, total) in geomeans(results).items()
    ]
    return lines or ["geomean: no row has a ratio"]


def terminal(results: Sequence[Result]) -> Table:
    """Table for the terminal."""
    table = Table(*HEADER)
    for result in order(results):
        style = None
        if result.error or result.ratio is None:
            style = "red"
        elif result.ratio < 1:
            style = "yellow"
        table.add_row(*row(result), style=style)
    return table


def markdown(results: Sequence[Result], machine: dict[str, Any], settings: dict[str, Any]) -> str:
    """The whole report as Markdown."""

    def line(cells: Sequence[str]) -> str:
        return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"

    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    head = [
        f"# Benchmark of {machine['date']}",
        "",
        f"{machine['cpu']} ({' '.join(machine['isa'])}), {machine['cpus']} CPUs, "
        f"{machine['memory']}, {machine['system']}, Python {machine['python']}.",
        f"{versions}.",
        "Settings: " + ", ".join(f"{key} {value}" for key, value in settings.items()) + ".",
        "",
        LEGEND,
        "",
    ]
    body = [line(HEADER), line(["---"] * len(HEADER)), *(line(row(r)) for r in order(results))]
    return "\n".join([*head, *body, "", *geomean_lines(results), ""])


def document(
    results: Sequence[Result], machine: dict[str, Any], settings: dict[str, Any]
) -> dict[str, Any]:
    """The whole report as plain data, losing rows first."""
    return {
        "machine": machine,
        "settings": settings,
        "geomean": {str(t): mean for t, (mean, _, _) in geomeans(results).items()},
        "results": [result.to_json() for result in order(results)],
    }


def write(
    folder: Path, stem: str, results: Sequence[Result], machine: dict[str, Any],
    settings: dict[str, Any],
) -> tuple[Path, Path]:  # fmt: skip
    """Writes ``stem.json`` and ``stem.md`` into ``folder``; returns both paths."""
    folder.mkdir(parents=True, exist_ok=True)
    data, text = folder / f"{stem}.json", folder / f"{stem}.md"
    data.write_text(json.dumps(document(results, machine, settings), indent=1) + "\n")
    text.write_text(markdown(results, machine, settings))
    return data, text
