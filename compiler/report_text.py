"""A ``Report`` as text for people: a few lines of totals, then passes and the costliest groups.

Names come from models and are data: they are shown as plain text, never as rich markup.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from io import StringIO
from typing import Any

from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

from ..ir.schedule import shown as settings
from ..search.symbols import EXPECTED
from .console import plain
from .needs import Versions
from .report import Amount, GroupLine, Report

WIDTH = 132
"""Columns of printed tables."""
GROUPS = 20
"""Groups that are listed, the costliest first."""


_ORIGINS = {"cached": "from the cache", "loaded": "loaded from an artefact"}


def render(report: Report) -> str:
    """The report as text of at most ``WIDTH`` columns."""
    parts: list[RenderableType] = [_totals(report)]
    if not _open(report):
        parts += [_passes(report), _groups(report)]
    return printed(parts)


def printed(parts: Sequence[RenderableType], width: int = WIDTH) -> str:
    """Tables as text of at most ``width`` columns."""
    out = StringIO()
    console = Console(file=out, width=width, color_system=None, force_terminal=False,
                      markup=False, highlight=False)  # fmt: skip
    for part in parts:
        console.print(part)
    lines = (line.rstrip() for line in out.getvalue().splitlines())
    return "\n".join(lines).rstrip() + "\n"


def quantity(value: float | None, unit: str = "") -> str:
    """A number with a metric prefix: 1234567 -> ``1.23 M``."""
    if value is None:
        return "?"
    for factor, prefix in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= factor:
            return f"{value / factor:.3g} {prefix}{unit}"
    return f"{value:.3g} {unit}".rstrip()


def duration(seconds: float | None) -> str:
    """Seconds as s, ms or us."""
    if seconds is None:
        return "?"
    for factor, unit in ((1.0, "s"), (1e-3, "ms")):
        if seconds >= factor:
            return f"{seconds / factor:.3g} {unit}"
    return f"{seconds / 1e-6:.3g} us"


def cells(values: Sequence[str]) -> list[Text]:
    """Plain text, one line each."""
    return [Text(plain(v).replace("\n", " ")) for v in values]


def _amount(a: Amount, unit: str) -> str:
    if a.value is None:
        return a.formula if len(a.formula) <= 40 else a.formula[:37] + "..."
    return quantity(a.value, unit)


def _totals(r: Report) -> Table:
    table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    table.add_column()
    table.add_column(overflow="fold")
    for name, text in _total_rows(r):
        table.add_row(*cells((name, text)))
    return table


def _total_rows(r: Report) -> list[tuple[str, str]]:
    peak, memory = r.memory.predicted, r.memory
    target = ("target", f"{r.target}, {r.threads} thread{'s' if r.threads > 1 else ''}")
    if _open(r):
        return [target, *_version_rows(r.versions), ("program", r.program)]
    rows = [
        target,
        ("stages", ", ".join(f"{k} {duration(v)}" for k, v in r.seconds.items())),
        ("nodes", f"{r.nodes_before} imported, {r.nodes_after} after the passes, "
                  f"{len(r.groups)} groups"),
        ("C", f"{_amount(r.before[0], 'op')} before, {_amount(r.after[0], 'op')} after"),
        ("D", f"{_amount(r.before[1], 'B')} before, {_amount(r.after[1], 'B')} after"),
        ("time", f"{duration(r.predicted_seconds)} predicted ({r.cost_model})"),
    ]
    if r.search:
        rows.append(("search", _search(r.search)))
        if counted := r.search.get("counted"):
            rows.append(("", _counted(counted)))
    if r.sizes:
        rows.append(("sizes", ", ".join(f"{k} = {v}" for k, v in r.sizes.items())))
    if peak is not None:
        rows.append(("memory", f"{quantity(peak.total, 'B')} predicted peak: constants "
                               f"{quantity(peak.constants, 'B')}, arena {quantity(peak.arena, 'B')}"
                               f", scratch {quantity(peak.scratch, 'B')}, outputs "
                               f"{quantity(peak.outputs, 'B')}"))
    if memory.held is not None:
        rows.append(("", f"{quantity(memory.held, 'B')} held after the last call"))
    if memory.measured is not None:
        rows.append(("", f"{quantity(memory.measured, 'B')} measured peak (resident)"))
    if r.bindings is not None and r.bindings.made:
        kept = r.bindings
        rows.append(("bindings", f"{kept.count} kept of at most {kept.most}, "
                                 f"{quantity(kept.nbytes, 'B')} of at most "
                                 f"{quantity(kept.most_bytes, 'B')}; {kept.made} made, "
                                 f"{kept.dropped} dropped"))
    reasons = "; ".join(f"{n} {why}" for why, n in r.cache_reasons.items())
    rows += [
        *_version_rows(r.versions),
        ("program", _ORIGINS.get(r.program) or f"compiled ({r.program})"),
        ("kernels", f"{r.kernels} objects, {r.cache_hits} from the cache, {r.cache_misses} compiled"
                    + (f" by {r.compiled_by} ({reasons})" if reasons else "")),
        ("dtypes", ", ".join(f"{k} {v}" for k, v in r.dtypes.items())),
        ("host", ", ".join(r.host) if r.host else "nothing runs on the host"),
    ]
    return rows


def _open(r: Report) -> bool:
    """Whether no program is compiled yet, since it depends on what is fed."""
    return r.versions is not None and r.versions.compiled == 0


def _version_rows(v: Versions | None) -> list[tuple[str, str]]:
    if v is None:
        return []
    counts = f"{v.compiled} compiled, {v.kept} kept of at most {v.limit}; one for each"
    return [("versions", counts), *(("", str(need)) for need in v.needs)]


def _search(found: Mapping[str, Any]) -> str:
    if found["search"] == "none":
        return "none: greedy fusion"
    cost, greedy = found["cost"], found["greedy"]
    gain = f", {(1 - cost / greedy) * 100:.2g} % below greedy" if greedy > cost else ", as greedy"
    proof = "proven best" if found["proven"] else f"bound {found['bound']:.4g}"
    note = f"; {found['note']}" if found["note"] else ""
    return (f"{found['search']}: {cost:.4g} {found['unit']} under {found['model']}{gain}, {proof} "
            f"of {found['candidates']} candidates, {found['evaluations']} evaluations{note}")


def _counted(found: Mapping[str, Sequence[Any]]) -> str:
    """What every symbol counted as, and how to say otherwise."""
    told = ", ".join(f"{name} as {size} ({why})" for name, (size, why) in found.items())
    told = f"counted {told}"
    first = next((n for n, (_, why) in found.items() if why != EXPECTED), None)
    return told if first is None else f"{told}; compile(expect={{{first!r}: ...}}) says otherwise"


def _passes(r: Report) -> Table:
    table = Table(title="passes", title_justify="left", box=None, padding=(0, 2, 0, 0))
    for name in ("pass", "time", "nodes", "fired"):
        table.add_column(name, overflow="fold", justify="right" if name == "time" else "left")
    for entry in r.passes:
        fired = ", ".join(f"{k} {v}" for k, v in entry["fired"].items())
        if refused := entry.get("refused"):
            fired += ("; " if fired else "") + f"refused {sum(refused.values())} matches"
        if stopped := entry.get("stopped"):
            fired += f"; stopped: {stopped}"
        table.add_row(*cells((entry["pass"], duration(entry["seconds"]), entry["nodes"], fired)))
    return table


def _groups(r: Report) -> Table:
    def weight(g: GroupLine) -> tuple[float, int]:
        return (-(g.estimate.seconds if g.estimate is not None else 0.0), g.number)

    shown = sorted(r.groups, key=weight)[:GROUPS]
    title = "groups" if len(shown) == len(r.groups) else (
        f"groups ({len(shown)} costliest of {len(r.groups)})")
    columns = {"": False, "as": False, "C": True, "D": True, "time": True, "bound": False,
               "ops": False, "from": False}  # fmt: skip
    return listing(title, columns, ((
        f"g{g.number}", f"{g.implementation} {settings(g.variant)}".strip(),
        _amount(g.flops, ""), _amount(g.nbytes, "B"),
        "?" if g.estimate is None else duration(g.estimate.seconds),
        "?" if g.estimate is None else g.estimate.bound, g.ops, " ".join(g.origin),
    ) for g in shown))  # fmt: skip


def listing(title: str, columns: Mapping[str, bool], rows: Iterable[Sequence[str]]) -> Table:
    """A table of one line a row. ``columns``: name -> whether it holds numbers, which lean right;
    where the lines are too long, only the last two columns are cut."""
    lines = [cells(row) for row in rows]
    widths = [max((line[k].cell_len for line in lines), default=0) for k in range(len(columns))]
    widths = [max(pair) for pair in zip(widths, map(len, columns), strict=True)]
    room = WIDTH - sum(w + 2 for w in widths[:-2]) - 4
    first = min(widths[-2], max(room // 2, room - widths[-1]))
    widths[-2:] = first, min(widths[-1], room - first)
    table = Table(title=title, title_justify="left", box=None, padding=(0, 2, 0, 0))
    for (name, number), width in zip(columns.items(), widths, strict=True):
        table.add_column(name, justify="right" if number else "left", no_wrap=True,
                         overflow="ellipsis", width=width)  # fmt: skip
    for line in lines:
        table.add_row(*line)
    return table


def shortened(text: str, limit: int) -> str:
    """``text``, cut to ``limit`` characters."""
    return text if len(text) <= limit else text[: limit - 3] + "..."
