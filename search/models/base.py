"""The cost-model protocol: what a model is told, what it answers.

A model turns the numbers of groups (``GroupFacts``) into costs on a machine (``Context``). It never
decides what is legal. ``costs`` takes many groups at once, since a search prices thousands;
``explain`` says of one group which bound binds. Models with several objectives also have ``parts``,
one column per objective, from which a multi-objective search builds its front.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from operator import attrgetter
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np

from ...ir.target import Target

SECONDS = "s"
"""The unit of models that predict time."""

FREE = ("view", "bind")
"""Implementations that do nothing at run time."""
MICRO = ("contract", "separable", "attention")
"""Implementations that multiply on micro-kernels."""


class Phase(NamedTuple):
    """Numbers of one loop nest, or of one micro-kernel with its calls, in all of its iterations."""

    fma: float = 0.0
    """Operations of micro-kernels, what pads a vector included; as many as take as long where sums
    are so few that additions wait for one another."""
    plain: float = 0.0
    """Operations of the innermost loop."""
    special: float = 0.0
    """Weighted operations of special functions in it."""
    loads: float = 0.0
    """Bytes that are read contiguously."""
    stores: float = 0.0
    """Bytes that are written contiguously."""
    apart: float = 0.0
    """Elements that are read or written one at a time, each for the price of a vector."""
    far: float = 0.0
    """Elements of which each is in a line of memory that has left the level-1 cache since its
    neighbor was used."""
    spilled: float = 0.0
    """Bytes that pass through the level-2 cache, since there are more of them than fit the nearer
    one: scratch, and lines of which one element at a time is written."""
    outer: float = 0.0
    """Operations outside the innermost loop."""
    entries: float = 0.0
    """Times the innermost loop, or a micro-kernel for one piece of its rows, is entered."""
    length: float = 0.0
    """Iterations of the innermost loop each time; 0: many."""
    scalar: float = 0.0
    """1 where the innermost loop is not vectorized."""
    sums: float = 0.0
    """1 where the innermost loop ends in a sum over the lanes of a vector."""

    def times(self, often: float) -> Phase:
        """The same so often, where that is a number of its own."""
        counts = ("fma", "plain", "special", "loads", "stores", "apart", "far", "spilled", "outer",
                  "entries")
        return self._replace(**{name: getattr(self, name) * often for name in counts})


@dataclass(frozen=True, slots=True)
class GroupFacts:
    """Numbers of one candidate group at given sizes, independent of any model."""

    implementation: str
    """One of ``ir.schedule.IMPLEMENTATIONS``."""
    flops: float = 0.0
    """C: scalar operations; a multiply-add counts two."""
    special: float = 0.0
    """Of these: operations of special functions (exp, log, tanh, erf, division, ...), weighted as
    the op table weights them."""
    constant: float = 0.0
    """Bytes of constants read."""
    inputs: float = 0.0
    """Bytes read from other groups."""
    outputs: float = 0.0
    """Bytes written."""
    over: float = 0.0
    """Of these: bytes that lie over an operand, whose lines come and go once."""
    tiles: float = 1.0
    """Size of the parallel tile space; 1 if unknown."""
    nodes: int = 1
    """Nodes of the group."""
    kernels: int = 1
    """Kernels of the group: 2 where an operand is packed first."""
    phases: tuple[Phase, ...] = ()
    """What the kernel runs, one after another. Empty: one phase does all the work and reads and
    writes everything once."""

    @property
    def executed(self) -> tuple[Phase, ...]:
        """The phases, or the one that stands for all."""
        if self.phases:
            return self.phases
        plain = self.flops - self.special
        contract = self.implementation in MICRO
        return (Phase(plain if contract else 0.0, 0.0 if contract else plain, self.special,
                      self.inputs + self.constant, self.outputs),)


@dataclass(frozen=True, slots=True)
class Context:
    """What is the same for all groups of a graph."""

    target: Target
    threads: int = 1
    """Threads one inference may use, at least 1."""
    constants: float = 0.0
    """Bytes of all constants of the model: they come round once per inference."""


@dataclass(frozen=True, slots=True)
class Explanation:
    """Why a group costs what it costs."""

    seconds: float
    """The cost, in the model's unit (seconds for models that predict time)."""
    bounds: Mapping[str, float] = field(default_factory=dict)
    """Named bounds in the same unit."""
    bound: str = ""
    """The one that binds: the largest; of equal ones the first."""
    advice: str = ""
    """What would move it."""

    def __str__(self) -> str:
        ranked = sorted(self.bounds.items(), key=lambda item: -item[1])
        shown = ", ".join(f"{name} {value:.3g}" for name, value in ranked if value > 0)
        return f"{self.seconds:.3g}: {self.bound} binds ({shown}); {self.advice}"


@runtime_checkable
class CostModel(Protocol):
    """A cost model; ``check.check_model`` tests what is said here."""

    @property
    def name(self) -> str:
        """Lower-case name it is registered under."""

    @property
    def unit(self) -> str:
        """``"s"`` for seconds, else a name for the model's own unit."""

    @property
    def objectives(self) -> tuple[str, ...]:
        """Names of what is minimized; more than one only with a method ``parts``."""

    def costs(self, groups: Sequence[GroupFacts], context: Context) -> np.ndarray:
        """f64[n]: finite, not negative, growing with operations and bytes; the answer for a group
        does not depend on the other groups."""

    def explain(self, group: GroupFacts, context: Context) -> Explanation:
        """The cost of one group, and what it is made of."""


@runtime_checkable
class MultiObjective(CostModel, Protocol):
    """A cost model with several objectives."""

    def parts(self, groups: Sequence[GroupFacts], context: Context) -> np.ndarray:
        """f64[n, objectives], one column per objective, same conditions as ``costs``."""


@dataclass(frozen=True, slots=True)
class Phases:
    """One phase of each group as columns, f64[n] each; zeros where a group has fewer."""

    fma: np.ndarray
    plain: np.ndarray
    special: np.ndarray
    loads: np.ndarray
    stores: np.ndarray
    apart: np.ndarray
    far: np.ndarray
    spilled: np.ndarray
    outer: np.ndarray
    entries: np.ndarray
    length: np.ndarray
    scalar: np.ndarray
    sums: np.ndarray


@dataclass(frozen=True, slots=True)
class Batch:
    """Groups as columns, f64[n] each; ``contract`` and ``free`` are bool[n]."""

    flops: np.ndarray
    special: np.ndarray
    constant: np.ndarray
    inputs: np.ndarray
    outputs: np.ndarray
    over: np.ndarray
    tiles: np.ndarray
    nodes: np.ndarray
    kernels: np.ndarray
    contract: np.ndarray
    """Groups around a contraction micro-kernel."""
    free: np.ndarray
    """Groups that do nothing at run time."""
    phases: tuple[Phases, ...]
    """The first phases of all groups, the second ones, ..."""

    @classmethod
    def of(cls, groups: Sequence[GroupFacts]) -> Batch:
        """The columns of ``groups``."""
        columns = _columns([_numbers(g) for g in groups], 9)
        names = [g.implementation for g in groups]
        executed = [g.executed for g in groups]
        most = max((len(e) for e in executed), default=0)
        phases = []
        for k in range(most):
            some = [e[k] if k < len(e) else _NOTHING for e in executed]
            phases.append(Phases(*_columns(some, len(Phase._fields))))
        contract = np.array([n in MICRO for n in names], bool)
        free = np.array([n in FREE for n in names], bool)
        flops, special, constant, inputs, outputs, over, tiles, nodes, kernels = columns
        return cls(flops, special, constant, inputs, outputs, over, tiles, nodes, kernels,
                   contract, free, tuple(phases))

    @property
    def moved(self) -> np.ndarray:
        """f64[n]: bytes that other groups wrote or will read."""
        return self.inputs + self.outputs

    @property
    def held(self) -> np.ndarray:
        """f64[n]: bytes of memory that these take."""
        return self.moved - self.over


def _columns(rows: Sequence[Sequence[float]], width: int) -> list[np.ndarray]:
    flat = np.fromiter(chain.from_iterable(rows), np.float64, len(rows) * width)
    return list(flat.reshape(len(rows), width).T.copy())


_NOTHING = Phase()
_numbers = attrgetter("flops", "special", "constant", "inputs", "outputs", "over", "tiles",
                      "nodes", "kernels")  # fmt: skip


class Together:
    """Costs of groups that run side by side under one model, which must predict seconds.

    A search asks for thousands of pairs of a few distinct groups, so what a group takes on a share
    of the threads is asked of the model once."""

    def __init__(self, model: CostModel, context: Context) -> None:
        self.model, self.context = model, context
        target = context.target
        self._levels = (("l3", target.l3_rate, max(target.l3_rate, target.l3_rate_all)),
                        ("dram", target.dram_rate, max(target.dram_rate, target.dram_rate_all)))
        """Levels that cores share: name, bytes per second of one core, and of all of them."""
        self._alone: dict[tuple[int, int], tuple[GroupFacts, float, tuple[float, ...]]] = {}
        """By the identity of a group, which stays as the group is kept, and its threads: the group,
        its seconds, and the bytes that it moves at each level."""

    def seconds(self, groups: Sequence[GroupFacts], threads: Sequence[int]) -> float:
        """The cost of groups, each on its share of the threads: the longest of them, or what all of
        them together move at the levels that cores share, and one synchronization."""
        alone = [self._on(g, n) for g, n in zip(groups, threads, strict=True)]
        shared = [sum(moved[k] for _, _, moved in alone) / every
                  for k, (_, _, every) in enumerate(self._levels)]
        return max(*shared, *(seconds for _, seconds, _ in alone)) + self.context.target.sync_s

    def _on(self, group: GroupFacts, threads: int) -> tuple[GroupFacts, float, tuple[float, ...]]:
        found = self._alone.get((id(group), threads))
        if found is None:
            told = self.model.explain(group, replace(self.context, threads=threads))
            # A bound is bytes over the rate that the group's own threads reach.
            moved = tuple(told.bounds.get(level, 0.0) * min(one * threads, every)
                          for level, one, every in self._levels)
            found = self._alone[id(group), threads] = group, told.seconds, moved
        return found


def binding(bounds: Mapping[str, float]) -> str:
    """Name of the largest bound; of those equal up to rounding the first."""
    top = max(bounds.values(), default=0.0)
    return next((name for name, value in bounds.items() if value >= top * (1 - 1e-9)), "")


def sensitivity(model: CostModel, group: GroupFacts, context: Context) -> dict[str, float]:
    """Constants of the target that matter to a group: name -> part of its cost that goes away if
    the machine is twice as good there (rates and sizes doubled, times halved), largest first."""
    now = float(model.costs([group], context)[0])
    found: dict[str, float] = {}
    for name, better in context.target.improved(2.0):
        then = Context(better, context.threads, context.constants)
        gain = 1.0 - float(model.costs([group], then)[0]) / now if now > 0 else 0.0
        if gain > 1e-9:
            found[name] = gain
    return dict(sorted(found.items(), key=lambda item: -item[1]))


Factory = Callable[[], CostModel]
"""Makes a model with its default settings; a class without required arguments is one."""
