"""The schedule as a Gantt chart: when each group runs, as predicted and as measured.

Stages follow one another; within a stage every group starts at once. Predicted times are a cost
model's, each group on its share of the threads, a stage as long as its longest group. Measured
times are the profile's: a group's alone, a stage's with all its groups side by side, which may be
longer than its longest group where they fight for memory or threads.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from xml.sax.saxutils import escape

from rich.table import Table

from .report import GroupLine, side_by_side
from .report_text import cells, duration, printed, shortened

if TYPE_CHECKING:
    from .profiling import Profile

_BAR = 30
"""Columns of a bar of the text."""
_ROW, _LEFT, _WIDTH = 18, 260, 720
"""Height of a row of the picture, width of its labels and of its bars."""
_PREDICTED, _MEASURED = "#9ecae1", "#e6550d"


@dataclass(frozen=True, slots=True)
class Span:
    """A time within a call, seconds."""

    start: float
    seconds: float

    @property
    def end(self) -> float:
        """When it ends."""
        return self.start + self.seconds


@dataclass(frozen=True, slots=True)
class Bar:
    """One group, or a stage of several."""

    name: str
    """``g3``, or ``stage 2``."""
    label: str
    """The ops of the group."""
    stage: int
    """Position of its stage in the call."""
    threads: int | None
    """Its share; None: not given, or a stage."""
    predicted: Span | None
    """None while sizes are unknown."""
    measured: Span | None
    """None without feeds."""


@dataclass(frozen=True)
class Gantt:
    """The chart. ``str()`` prints it, ``svg()`` draws it, ``to_dict()`` is for JSON."""

    bars: tuple[Bar, ...]
    """In the order of the schedule; a stage of several groups before these."""
    cost_model: str
    predicted: float | None
    """Seconds of all stages; None while sizes are unknown."""
    measured: float | None

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON, times in seconds."""
        return {"cost_model": self.cost_model, "predicted": self.predicted,
                "measured": self.measured, "bars": [asdict(b) for b in self.bars]}  # fmt: skip

    def __str__(self) -> str:
        table = Table(box=None, padding=(0, 1, 0, 0))
        for name in ("", "on", "predicted", "", "measured", "", "ops"):
            right = name in ("on", "predicted", "measured")
            table.add_column(name, justify="right" if right else "left", no_wrap=True)
        for b in self.bars:
            table.add_row(*cells((
                b.name, "" if b.threads is None else str(b.threads),
                _time(b.predicted), _line(b.predicted, self.predicted),
                _time(b.measured), _line(b.measured, self.measured), shortened(b.label, 30),
            )))  # fmt: skip
        table.add_row(*cells(("all", "", duration(self.predicted), "",
                              "" if self.measured is None else duration(self.measured), "",
                              f"predicted by {self.cost_model}")))  # fmt: skip
        return printed([table], 140)

    def svg(self) -> str:
        """The chart as an SVG picture, predicted above measured, on one scale."""
        total = max(self.predicted or 0.0, self.measured or 0.0) or 1.0
        width, height = _LEFT + _WIDTH + 10, _ROW * (len(self.bars) + 2)
        lines = [
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" '
            f'viewBox="0 0 {width} {height}" font-family="Helvetica,Arial,sans-serif" '
            'font-size="11">',
            f'<rect width="{width}" height="{height}" fill="#ffffff"/>',
        ]
        for k, bar in enumerate(self.bars):
            y = _ROW * k + 4
            text = escape(f"{bar.name} {bar.label}"[:42])
            lines.append(f'<text x="4" y="{y + 11}">{text}</text>')
            lines += _drawn(bar.predicted, total, y, _PREDICTED)
            lines += _drawn(bar.measured, total, y + 7, _MEASURED)
        y = _ROW * len(self.bars) + 18
        lines.append(f'<text x="4" y="{y}" fill="{_PREDICTED}">predicted by '
                     f'{escape(self.cost_model)}: {duration(self.predicted)}</text>')
        if self.measured is not None:
            lines.append(f'<text x="{_LEFT}" y="{y}" fill="{_MEASURED}">measured: '
                         f'{duration(self.measured)}</text>')
        return "\n".join([*lines, "</svg>", ""])

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes ``svg()`` to a file."""
        Path(path).write_text(self.svg(), encoding="utf-8")


def make_gantt(lines: Sequence[GroupLine], stages: Sequence[Sequence[int]], threads: int,
               cost_model: str, profile: Profile | None) -> Gantt:
    """The chart of a schedule: its groups with their estimates, its stages, and its profile."""
    known = all(g.estimate is not None for g in lines)
    measured = {} if profile is None else {g.number: g for g in profile.groups}
    bars: list[Bar] = []
    now_p = now_m = 0.0
    for position, stage in enumerate(stages):
        inner: list[Bar] = []
        longest = took = 0.0
        spans: Sequence[tuple[float, float] | None] = [None] * len(stage)
        if known:
            spans = side_by_side([lines[k] for k in stage], threads)
        for k, span in zip(stage, spans, strict=True):
            line, timed = lines[k], measured.get(k)
            predicted = real = None
            if span is not None:
                predicted = Span(now_p + span[0], span[1])
                longest = max(longest, sum(span))
            if profile is not None and timed is not None:
                real = Span(now_m, timed.seconds)
                took = profile.stages[timed.stage]
            inner.append(Bar(f"g{k}", line.ops, position, line.threads, predicted, real))
        if len(stage) > 1:
            bars.append(Bar(
                f"stage {lines[stage[0]].stage}", f"{len(stage)} groups side by side", position,
                None, Span(now_p, longest) if known else None,
                None if profile is None else Span(now_m, took),
            ))  # fmt: skip
        bars += inner
        now_p, now_m = now_p + longest, now_m + took
    return Gantt(tuple(bars), cost_model, now_p if known else None,
                 None if profile is None else now_m)  # fmt: skip


def _drawn(span: Span | None, total: float, y: int, color: str) -> list[str]:
    if span is None:
        return []
    x, width = (v / total * _WIDTH for v in (span.start, span.seconds))
    return [f'<rect x="{_LEFT + x:.2f}" y="{y}" width="{max(width, 0.5):.2f}" height="6" '
            f'fill="{color}"><title>{duration(span.seconds)}</title></rect>']  # fmt: skip


def _time(span: Span | None) -> str:
    return "" if span is None else duration(span.seconds)


def _line(span: Span | None, total: float | None) -> str:
    if span is None or not total:
        return ""
    first = min(int(span.start / total * _BAR), _BAR - 1)
    last = max(first + 1, min(round(span.end / total * _BAR), _BAR))
    return "." * first + "#" * (last - first) + "." * (_BAR - last)
