"""What the command line prints: JSON, tables, progress and errors.

Results go to standard output, everything else (progress, warnings, errors) to standard error, so
that output can be piped. Text from a model is data: it never reaches rich as markup (``Text``
objects only), and control characters in it, which could drive a terminal, are shown as escapes.
"""

from __future__ import annotations

import json
import math
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from rich.progress import Progress as RichProgress

PROGRESS_AFTER = 1.0
"""Seconds of work before a progress bar appears."""


def plain(text: object) -> str:
    """``text`` with control characters (line ends and tabs excepted) as visible escapes."""
    return "".join(
        c if c.isprintable() or c in "\n\t" else c.encode("unicode_escape").decode("ascii")
        for c in str(text)
    )


def jsonable(value: Any) -> Any:
    """``value`` as what JSON can say: containers and numbers converted, NaN and infinities text."""
    if isinstance(value, Mapping):
        return {str(k): jsonable(v) for k, v in value.items()}
    if isinstance(value, str) or value is None or isinstance(value, bool):
        return value
    if isinstance(value, Iterable) and not hasattr(value, "item"):
        return [jsonable(v) for v in value]
    if hasattr(value, "tolist"):  # NumPy arrays and scalars
        return jsonable(value.tolist())
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    return value if isinstance(value, int) else str(value)


def print_json(value: Any) -> None:
    """Writes ``value`` to standard output as indented, strictly valid JSON."""
    click.echo(json.dumps(jsonable(value), indent=2, allow_nan=False))


def print_table(title: str, header: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Writes a table to standard output; every cell is plain text, numbers lean right."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    cells = [list(row) for row in rows]
    table = Table(title=Text(plain(title)), title_justify="left")
    for index, name in enumerate(header):
        numeric = bool(cells) and all(isinstance(row[index], (int, float)) for row in cells)
        table.add_column(Text(name), justify="right" if numeric else "left", overflow="fold")
    for row in cells:
        table.add_row(*(Text(plain(_cell(cell))) for cell in row))
    console = Console(highlight=False, markup=False)
    if not console.is_terminal:  # a pipe has no width: never fold what a script may read
        console = Console(highlight=False, markup=False, width=400)
        table.box = None
    console.print(table)


def _cell(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def warn(message: str) -> None:
    """Writes one line to standard error."""
    click.echo(plain(message), err=True)


class Progress:
    """Shows ``stage, done, total`` calls of a long computation, once it has taken over a second.

    On a terminal a bar with the elapsed time; elsewhere one line per stage. The bar is started
    by a timer, so that a single long stage shows as well. Use as a context manager and call it.
    """

    def __init__(self, label: str) -> None:
        self._label = label
        self._stage = ""
        self._began = time.monotonic()
        self._bar: RichProgress | None = None
        self._task: Any = None
        self._state = (0, 0)
        self._lock = threading.Lock()
        self._timer = threading.Timer(PROGRESS_AFTER, self._start)
        self._timer.daemon = True

    def __enter__(self) -> Progress:
        self._timer.start()
        return self

    def __call__(self, stage: str, done: int, total: int) -> None:
        """Reports that ``done`` of ``total`` steps of ``stage`` are behind us (0: unknown)."""
        with self._lock:
            new_stage, self._stage = stage != self._stage, stage
            self._state = (done, total)
            if self._bar is not None:
                self._show()
            elif new_stage and time.monotonic() - self._began > PROGRESS_AFTER:
                self._line()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:  # fmt: skip
        self._timer.cancel()
        with self._lock:
            if self._bar is not None:
                self._bar.stop()
                self._bar = None

    def _start(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
        from rich.progress import Progress as RichProgress

        console = Console(stderr=True)
        with self._lock:
            if self._timer.finished.is_set():  # cancelled while we waited for the lock
                return
            if not console.is_terminal:
                self._line()
                return
            self._bar = RichProgress(
                TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(),
                TimeElapsedColumn(), console=console, transient=True,
            )  # fmt: skip
            self._task = self._bar.add_task(self._label, total=None)
            self._show()
            self._bar.start()

    def _show(self) -> None:
        done, total = self._state
        assert self._bar is not None
        self._bar.update(
            self._task, completed=done, total=total or None,
            description=plain(f"{self._label}: {self._stage}" if self._stage else self._label),
        )  # fmt: skip

    def _line(self) -> None:
        elapsed = time.monotonic() - self._began
        warn(f"{self._label}: {self._stage or 'working'} ({elapsed:.0f} s)")


def named_sizes(option: str, texts: tuple[str, ...]) -> dict[str, int]:
    """``NAME=SIZE`` values of ``option`` as a mapping."""
    sizes = {}
    for text in texts:
        name, _, size = text.rpartition("=")
        if not name or not size.isdecimal():
            raise click.UsageError(f"{option} wants NAME=SIZE, not {text!r}")
        sizes[name] = int(size)
    return sizes
