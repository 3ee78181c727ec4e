"""What decides the structure of a program but is known only when values are fed.

Axes, block shapes and ranks decide which loops a program has. Where a model computes them from
small inputs of its own, the importer says so by ``DependsOnFeeds``, and the program is compiled
once per value that is fed (``specialize.py``).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from ..ir.errors import UnsupportedError, quote
from ..ir.types import Type

MAX_ELEMENTS = 1024
"""Most elements of an input that a program may be compiled for the value of."""


REMEDY = ("a value as constants={name: array} (--const NAME=VALUE), a length or a rank as shapes="
          "{name: sizes or names}")  # fmt: skip
"""How to give ``compile`` ahead what a program depends on."""


@dataclass(frozen=True, slots=True)
class Need:
    """One input of the model that must be known before the program can be written."""

    input: str
    """Name of the input."""
    aspect: str
    """What of it: its ``value``; the ``length`` of a vector of sizes; or its ``rank``, where the
    model declares no shape."""
    node: str
    """Node that needs it, quoted; empty for a rank."""
    reason: str
    """Operator and what it needs the input for."""

    def __str__(self) -> str:
        where = f"{self.node}: " if self.node else ""
        return f"{self.aspect} of input {quote(self.input)}: {where}{self.reason}"


class DependsOnFeeds(UnsupportedError):
    """The program can be written only when what ``needs`` lists is known. ``evonnx.compile`` waits
    for the feeds; importing alone refuses."""

    def __init__(self, needs: Iterable[Need], inputs: Mapping[str, Type] | None = None,
                 outputs: tuple[str, ...] = ()) -> None:
        first: dict[tuple[str, str], Need] = {}
        for need in needs:
            first.setdefault((need.input, need.aspect), need)
        self.needs = tuple(first.values())
        """Each input once, with the first node that needs it."""
        self.inputs = dict(inputs or {})
        """Declared types of the model's inputs, in order; loose ones where the rank is open."""
        self.outputs = outputs
        """Names of the model's outputs."""
        shown = "\n".join(f"  {n}" for n in self.needs[:20])
        super().__init__(f"the program depends on what is fed; give it ahead, {REMEDY}:\n{shown}")


@dataclass(frozen=True, slots=True)
class Versions:
    """The programs that one model was compiled to."""

    needs: tuple[Need, ...]
    """What they depend on, as far as values that were fed have shown."""
    compiled: int
    """Programs compiled so far."""
    kept: int
    """Programs that are still at hand."""
    limit: int
    """Most that are kept."""
