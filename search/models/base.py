"""The cost-model protocol: what a model is told, what it answers.

A model turns the numbers of groups (``GroupFacts``) into costs on a machine (``Context``). It never
decides what is legal. ``costs`` takes many groups at once, since a search prices thousands;
``explain`` says of one group which bound binds. Models with several objectives also have ``parts``,
one column per objective, from which a multi-objective search builds its front.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from operator import attrgetter
from typing import Protocol, runtime_checkable

import numpy as np

from ...ir.target import Target

SECONDS = "s"
"""The unit of models that predict time."""

FREE = ("view", "bind")
"""Implementations that do nothing at run time."""


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
    tiles: float = 1.0
    """Size of the parallel tile space; 1 if unknown."""
    nodes: int = 1
    """Nodes of the group."""
    loads: float = 0.0
    """Bytes that a contraction's inner loop loads into registers, again and again."""
    scalars: float = 0.0
    """Elements that lie apart and are read one at a time, each for the price of a vector."""
    loops: float = 0.0
    """Inner loops that are entered: one per reduction along the last axis and one for the results,
    at every position of a group with such reductions."""


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
class Batch:
    """Groups as columns, f64[n] each; ``contract`` and ``free`` are bool[n]."""

    flops: np.ndarray
    special: np.ndarray
    constant: np.ndarray
    inputs: np.ndarray
    outputs: np.ndarray
    tiles: np.ndarray
    nodes: np.ndarray
    loads: np.ndarray
    scalars: np.ndarray
    loops: np.ndarray
    contract: np.ndarray
    """Groups around a contraction micro-kernel."""
    free: np.ndarray
    """Groups that do nothing at run time."""

    @classmethod
    def of(cls, groups: Sequence[GroupFacts]) -> Batch:
        """The columns of ``groups``."""
        rows = [_numbers(g) for g in groups]
        table = np.array(rows, np.float64).reshape(len(groups), 10)
        flops, special, constant, inputs, outputs, tiles, nodes, loads, scalars, loops = (
            np.ascontiguousarray(table.T))
        names = [g.implementation for g in groups]
        return cls(flops, special, constant, inputs, outputs, tiles, nodes, loads, scalars,
                   loops, np.array([n == "contract" for n in names], bool),
                   np.array([n in FREE for n in names], bool))  # fmt: skip

    @property
    def moved(self) -> np.ndarray:
        """f64[n]: bytes that other groups wrote or will read."""
        return self.inputs + self.outputs


_numbers = attrgetter("flops", "special", "constant", "inputs", "outputs", "tiles", "nodes",
                      "loads", "scalars", "loops")  # fmt: skip


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
