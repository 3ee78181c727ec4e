"""Many examples in processes of their own: outcomes, their sums, and failures made small.

Worker functions live here and not in ``__main__``, which spawned processes do not import.
"""

from __future__ import annotations

import os
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ...compiler.api import compile
from ...compiler.pipeline import rule_names
from ..pool import Dead, Pool
from .broken import limit_memory, run_broken
from .case import Outcome, run_case, watch_compilation
from .corpus import from_text, to_text
from .drawn import SEARCHED
from .generate import Example, example
from .shrink import shrink

LIMIT_S = 90.0
"""Seconds after which a graph counts as hung."""
RENEW = 300
"""Graphs after which a process is replaced: compiled code stays loaded while a process lives."""


def _open(base: int, cache: str, with_peers: bool) -> Callable[[int], Outcome]:
    """A worker's function: the outcome of seed ``base + task``."""
    warnings.simplefilter("ignore")
    os.environ["EVONNX_CACHE"] = cache
    watch_compilation()
    _warm(cache)

    def work(task: int) -> Outcome:
        return run_case(example(base + task), cache, with_peers)

    return work


def _open_broken(base: int, cache: str) -> Callable[[int], Outcome]:
    """A worker's function: the outcome of seed ``base + task``, its model broken."""
    warnings.simplefilter("ignore")
    os.environ["EVONNX_CACHE"] = cache
    _warm(cache)
    limit_memory()
    return lambda task: run_broken(base + task, cache)


def _open_one(text: str) -> Callable[[int], Outcome]:
    """A worker's function: the outcome of a saved example."""
    warnings.simplefilter("ignore")
    watch_compilation()
    _warm(False)
    return lambda task: run_case(from_text(text))


def _warm(cache: str | bool) -> None:
    """Has Numba compile what the searches run on, before the clock of a case does."""
    model = example(0).model
    for search in SEARCHED:
        compile(model, cache=cache, search=search, budget=20)
    compile(model, cache=cache, objective="peak")


@dataclass(slots=True)
class Summary:
    """Sums over a run."""

    graphs: int = 0
    seconds: float = 0.0
    status: Counter[str] = field(default_factory=Counter)
    peers: Counter[str] = field(default_factory=Counter)
    ops: Counter[str] = field(default_factory=Counter)
    dtypes: Counter[str] = field(default_factory=Counter)
    rules: Counter[str] = field(default_factory=Counter)
    bindings: int = 0
    unsupported: Counter[str] = field(default_factory=Counter)
    failures: list[Outcome] = field(default_factory=list)

    def add(self, o: Outcome) -> None:
        """Counts one outcome."""
        self.graphs += 1
        self.status[o.status] += 1
        self.bindings += o.bindings
        if o.peer:
            self.peers[o.peer] += 1
        for mine, theirs in ((self.ops, o.ops), (self.dtypes, o.dtypes), (self.rules, o.rules)):
            mine.update(theirs)
        if o.status == "unsupported":
            self.unsupported[o.detail.splitlines()[-1].strip()[:120]] += 1
        if o.failed:
            self.failures.append(o)

    def unreached(self) -> list[str]:
        """Rules that no graph reached."""
        return sorted(set(rule_names()) - set(self.rules))

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        plain = {k: dict(v.most_common()) for k, v in (
            ("status", self.status), ("peers", self.peers), ("ops", self.ops),
            ("dtypes", self.dtypes), ("rules", self.rules), ("unsupported", self.unsupported))}
        return {
            "graphs": self.graphs, "seconds": round(self.seconds, 1), "bindings": self.bindings,
            **plain, "unreached rules": self.unreached(),
            "failures": [{"seed": o.seed, "kind": o.status, "detail": o.detail}
                         for o in self.failures],
        }


def run_many(count: int, base: int = 0, workers: int = 2, with_peers: bool = True,
             seen: Callable[[Outcome], None] | None = None, minutes: float = np.inf,
             broken: bool = False) -> Summary:
    """Seeds ``base .. base + count - 1`` on ``workers`` processes with a cache of their own; the
    rest is left out after ``minutes``. ``broken``: their models are broken first."""
    total, start = Summary(), time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="evonnx-fuzz-") as cache:
        how: tuple[Any, tuple[Any, ...]] = (_open, (base, cache, with_peers))
        if broken:
            how = _open_broken, (base, cache)
        pool = Pool(workers, *how, LIMIT_S, RENEW)
        for task, answer in pool.run(count):
            if isinstance(answer, Dead):
                answer = Outcome(base + task, "hang" if answer.hung else "crash", answer.reason)
            total.add(answer)
            if seen is not None:
                seen(answer)
            if time.perf_counter() - start > minutes * 60:
                break
    total.seconds = time.perf_counter() - start
    return total


def outcome(given: Example) -> Outcome:
    """The outcome of an example in a process of its own, which may die."""
    for _, answer in Pool(1, _open_one, (to_text(given),), LIMIT_S).run(1):
        if isinstance(answer, Dead):
            return Outcome(given.seed, "hang" if answer.hung else "crash", answer.reason)
        return answer
    raise AssertionError("a pool answers every task")


def shrunk(given: Example, kind: str) -> Example:
    """The smallest example that fails in the same way."""
    if kind in ("crash", "hang"):
        return shrink(given, lambda e: outcome(e).status == kind, 40)
    watch_compilation()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return shrink(given, lambda e: run_case(e).status == kind)


def save(o: Outcome, folder: Path) -> Path:
    """Shrinks the failing example of an outcome and writes it; answers the file."""
    small = shrunk(example(o.seed), o.status)
    small.note = f"{o.status}: {o.detail}"
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{o.status}-{o.seed}.json"
    path.write_text(to_text(small), "utf-8")
    return path
