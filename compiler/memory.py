"""Schedules within a number of bytes: what ``compile(..., max_memory=bytes)`` does.

A call needs its packed weights, its outputs, the scratch of every thread, and the arena with all
that lives in between. The first three follow from the model; the arena from order and fusion. The
search knows the arena to within what lowering adds (operands packed on the way), so a program that
needs too much is scheduled again under a limit on the arena that is lower by as much, a few times;
where that is not enough, concatenations are dissolved in their readers (``split_concats``) and the
terms of sums are put into another order (``order_sums``, or one that is searched) first. Greedy
fusion is what is tried last. What is promised is what the memory plan of the finished program says
at the sizes expected.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from math import inf

import numpy as np

from ..ir.dim_values import evaluate
from ..ir.errors import FeedError, LimitError
from ..ir.graph import Graph
from ..ir.types import TensorType
from ..passes.manager import PassReport
from ..passes.order_sums import in_order, sums_of
from ..runtime.executable import Executable, Peak
from ..runtime.plan import aligned
from ..search.choose import choose
from ..search.greedy import Fuser
from ..search.problem import InfeasibleError
from ..search.settings import Search
from ..search.symbols import sizes_of
from .pipeline import LEANER, run_pipeline
from .request import Progress, Request, Stages

_ROUNDS = 3
"""Schedules that are tried under limits on the arena."""


def lean_graphs(graph: Graph, how: Search) -> Iterator[tuple[Graph, list[PassReport], float]]:
    """Graphs that may need less memory, with what was done for them and the bytes of the arena that
    are enough where that is known (else infinity): concatenations dissolved and sums in the order
    of a list schedule, where that changes the graph; then sums in the order of a search
    (``search.sums``), where there are any."""
    passes: list[PassReport] = []
    lean = run_pipeline(graph, LEANER, passes)
    if lean is not graph:
        yield lean, passes, inf
    sums = sums_of(lean)
    if sums:
        from ..search.peaks import least_peak  # compiled by Numba
        from ..search.sums import FreeSums

        began = time.perf_counter()
        free = FreeSums(lean, sums, sizes_of(lean, how.expect))
        least = least_peak(free.problem, np.arange(free.problem.nodes), 0)
        ordered = in_order(lean, free.steps(least.chosen))
        seconds = time.perf_counter() - began
        yield ordered, [*passes, PassReport(
            "order_sums", seconds, len(lean.nodes), len(ordered.nodes),
            Counter({"searched sum": len(sums)}))], least.peak


def leaner(request: Request, stages: Stages, progress: Progress | None = None) -> Iterator[Stages]:
    """``stages`` of leaner graphs, each with the best schedule for it within the limit of the
    search, if there is one: the most promising first, and none behind one whose schedule needs no
    more than is enough. Where the peak is the objective, only those that need less than all before:
    of the others no more than the peak is looked for."""
    how = request.search
    least = None if stages.choice is None or how.objective != "peak" else int(stages.choice.peak)
    for graph, passes, enough in reversed(list(lean_graphs(stages.graph, how))):
        fuser = Fuser(graph)
        below = how if least is None else replace(how, memory=least - 1)
        try:
            choice = choose(graph, fuser, request.target, below, progress)
        except InfeasibleError as refused:
            needed = refused.peak
        else:
            needed = choice.peak
            least = None if least is None else int(needed)
            yield replace(stages, graph=graph, schedule=choice.schedule, fuser=fuser,
                          choice=choice, passes=(*stages.passes, *passes))
        if needed <= enough < inf:
            return


def within(request: Request, stages: Stages, executable: Executable,
           build: Callable[[Stages], Executable]) -> tuple[Stages, Executable]:
    """Stages and program of a schedule that keeps ``request.search.max_memory``: those given if
    they do, else others of the same graph, else of a leaner one. Raises ``LimitError`` with the
    least that was found."""
    least, why, found = _tightened(request, stages, executable, build)
    if found is not None:
        return found
    for other in leaner(request, stages):
        lean, reason, found = _tightened(request, other, build(other), build)
        if found is not None:
            return found
        if lean.total < least.total:
            least, why = lean, reason
    greedy = _greedy(request, stages)
    program = build(greedy)
    needed = peak_of(greedy, program, request)
    if needed.total <= (request.search.max_memory or 0):
        return greedy, program
    if needed.total < least.total:
        least, why = needed, "a smaller arena was found, but it needs more besides"
    raise LimitError(_told(request.search.max_memory or 0, least, why))


def _greedy(request: Request, stages: Stages) -> Stages:
    """Greedy fusion as it is: what needs the least arena may need more scratch and packed weights
    than that saves."""
    how = replace(request.search, name="none", objective="time", max_memory=None)
    choice = choose(stages.graph, Fuser(stages.graph), request.target, how)
    return replace(stages, choice=choice, schedule=choice.schedule)


def _tightened(request: Request, stages: Stages, executable: Executable,
               build: Callable[[Stages], Executable]
               ) -> tuple[Peak, str, tuple[Stages, Executable] | None]:
    """(least peak found, why not less, what keeps the limit or None) of schedules of one graph:
    fast ones under limits on the arena, in the end the one of least peak."""
    limit = request.search.max_memory
    assert limit is not None
    found = stages, executable
    least = now = peak_of(*found, request)
    arena = now.arena

    def attempt(how: Search) -> bool:
        """Tries another schedule; answers whether the limit may still be met with fast ones."""
        nonlocal found, least, now
        try:
            choice = choose(stages.graph, Fuser(stages.graph), request.target, how)
        except InfeasibleError:
            return False
        other = replace(stages, choice=choice, schedule=choice.schedule)
        program = build(other)
        now = peak_of(other, program, request)
        if now.total < least.total:
            least, found = now, (other, program)
        return True

    for _ in range(_ROUNDS):
        arena = min(arena, now.arena) - (now.total - limit)
        if least.total <= limit or arena < 0 or not attempt(replace(request.search, memory=arena)):
            break
    if least.total > limit:
        attempt(replace(request.search, objective="peak", max_memory=None))
    choice = found[0].choice
    proven = choice is not None and choice.proven and least.arena <= aligned(int(choice.peak))
    why = "has a smaller arena" if proven else "with a smaller arena was found"
    return least, f"no order and fusion {why}", found if least.total <= limit else None


def peak_of(stages: Stages, executable: Executable, request: Request) -> Peak:
    """The predicted peak of a call at the sizes expected."""
    sizes = sizes_of(stages.graph, request.search.expect)
    shapes = {}
    for name, kind in executable.inputs.items():
        if not isinstance(kind, TensorType):
            raise LimitError(f"max_memory: input {name!r} is a {kind}, whose size nobody knows")
        shapes[name] = tuple(d if isinstance(d, int) else evaluate(d, sizes) for d in kind.shape)
    try:
        return executable.predicted_peak(shapes)
    except FeedError as error:
        raise LimitError(f"max_memory: the sizes expected do not go together: {error}") from None


def _told(limit: int, least: Peak, why: str) -> str:
    return (f"max_memory {limit:,} bytes: the least found is {least.total:,} bytes (arena "
            f"{least.arena:,}, outputs {least.outputs:,}, scratch {least.scratch:,}, weights "
            f"{least.constants:,}); {why}")
