"""Schedules within a number of bytes: what ``compile(..., max_memory=bytes)`` does.

A call needs its packed weights, its outputs, the scratch of every thread, and the arena with all
that lives in between. The first three follow from the model; the arena from order and fusion. The
search knows the arena to within what lowering adds (operands packed on the way), so a program that
needs too much is scheduled again under a limit on the arena that is lower by as much, a few times.
What is promised is what the memory plan of the finished program says at the sizes expected.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from ..ir.dims import evaluate
from ..ir.errors import FeedError, LimitError
from ..ir.types import TensorType
from ..runtime.executable import Executable, Peak
from ..search.choose import choose
from ..search.greedy import Fuser
from ..search.problem import InfeasibleError
from ..search.space import sizes_of
from .request import Request, Stages

_ROUNDS = 4
"""Schedules that are tried."""


def within(request: Request, stages: Stages, executable: Executable,
           build: Callable[[Stages], Executable]) -> tuple[Stages, Executable]:
    """Stages and program of a schedule that keeps ``request.search.max_memory``: those given if
    they do. Raises ``LimitError`` with the least that was found."""
    limit = request.search.max_memory
    assert limit is not None
    assert stages.fuser is not None
    least = peak_of(stages, executable, request)
    arena = least.arena
    for _ in range(_ROUNDS):
        now = peak_of(stages, executable, request)
        if now.total < least.total:
            least = now
        if now.total <= limit:
            return stages, executable
        allowed = min(arena, now.arena) - (now.total - limit)
        if allowed < 0:
            break
        arena = allowed
        try:
            how = replace(request.search, memory=allowed)
            choice = choose(stages.graph, Fuser(stages.graph), request.target, how)
        except InfeasibleError as refusal:
            raise LimitError(_told(limit, least, str(refusal))) from None
        stages = replace(stages, choice=choice, schedule=choice.schedule)
        executable = build(stages)
    raise LimitError(_told(limit, least, "order and fusion change only the arena"))


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
