"""Winograd's transforms of pixels and of results (``ir.winograd``): channels are the vector lanes.

``pixels_text`` transforms what a square of outputs reads. Its ``(m + 2)^2`` pixels are reached
through a table of addresses, so borders (a row of zeros outside the image) and any layout of lines
and pixels are the caller's business; the transformed ones are stored a plane apart, as rows of as
many matrix products. ``results_text`` transforms the ``(m + 2)^2`` results of these products, a
plane apart as well, to the ``m x m`` outputs of the square.

Both are straight lines of code for a vector of channels: columns first, then rows, with what the
points ``+a`` and ``-a`` have in common computed once. The square between is larger than most
register files; the compiler spills a few of it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ...ir.target import Target
from ...ir.winograd import Transforms
from .irtext import SIZES, Carried, Code

ADDRESSES = 8
"""Addresses of a line of pixels in the table, more than there are pixels: whole vectors."""
_SIZE = SIZES["float"]


def pixels_parameters() -> list[tuple[str, str]]:
    """LLVM types and names: ``rows`` is a table ``[m + 2][ADDRESSES]`` of the addresses of pixels;
    ``plane`` counts the elements from one transformed pixel to the next."""
    return [("ptr noalias readonly", "rows"), ("i64", "channels"), ("ptr noalias", "dst"),
            ("i64", "plane")]  # fmt: skip


def results_parameters() -> list[tuple[str, str]]:
    """LLVM types and names: results are ``plane`` elements apart, outputs ``ldd``. Whole vectors
    are computed, as many as hold ``channels``."""
    return [("ptr noalias readonly", "src"), ("i64", "plane"), ("i64", "channels"),
            ("ptr noalias", "dst"), ("i64", "ldd")]  # fmt: skip


def pixels_text(name: str, target: Target, side: int) -> str:
    """LLVM IR of the transform of pixels for squares of ``side``; nothing beyond ``channels`` is
    read or written."""
    return _Writer(Code(name, pixels_parameters(), target), target, side).pixels()


def results_text(name: str, target: Target, side: int) -> str:
    """LLVM IR of the transform of results for squares of ``side``."""
    return _Writer(Code(name, results_parameters(), target), target, side).results()


@dataclass(frozen=True, slots=True)
class _Vector:
    """A value of the code, which arithmetic on it continues."""

    writer: _Writer
    value: str

    def _then(self, op: str, other: str) -> _Vector:
        text = f"{op} contract {self.writer.vector} {self.value}, {other}"
        return _Vector(self.writer, self.writer.code.let(text))

    def __add__(self, other: _Vector) -> _Vector:
        return self._then("fadd", other.value)

    def __sub__(self, other: _Vector) -> _Vector:
        return self._then("fsub", other.value)

    def __rmul__(self, factor: float) -> _Vector:
        return self._then("fmul", self.writer.factors[factor])


class _Writer:
    """Writes one of the functions: a loop over vectors of channels."""

    def __init__(self, code: Code, target: Target, side: int) -> None:
        self.code, self.transforms, self.width = code, Transforms(side), target.lanes(32)
        self.vector = f"<{self.width} x float>"
        self.factors = {f: code.number("float", self.width, f) for f in self.transforms.factors}

    def pixels(self) -> str:
        """The whole function."""
        code, t = self.code, self.transforms
        targets = self.square("%plane", t.size)

        def vector(first: str, mask: str | None = None) -> None:
            # Addresses are read where they are needed: so many would only wait on the stack.
            sources = [code.load("ptr", code.at("ptr", "%rows", i * ADDRESSES + j), 8)
                       for i in range(t.size) for j in range(t.size)]
            pixels = self.loaded([code.at("float", at, first) for at in sources], mask)
            self.store(t.pixels(pixels), targets(code.at("float", "%dst", first)), mask)

        def whole(first: str, _: Carried) -> Carried:
            vector(first)
            return []

        full = code.let(f"and i64 %channels, {-self.width}")
        left = code.let(f"sub nsw i64 %channels, {full}")
        code.loop(0, full, self.width, [], whole)
        code.branch(code.let(f"icmp ne i64 {left}, 0"),
                    lambda: vector(full, code.lane_mask(self.width, left)))
        return code.text()

    def results(self) -> str:
        """The whole function."""
        code, t = self.code, self.transforms
        sources, targets = self.square("%plane", t.size), self.square("%ldd", t.side)

        def vector(first: str, _: Carried) -> Carried:
            products = self.loaded(sources(code.at("float", "%src", first)))
            self.store(t.results(products), targets(code.at("float", "%dst", first)))
            return []

        code.loop(0, "%channels", self.width, [], vector)
        return code.text()

    def square(self, step: str, side: int) -> Callable[[str], list[str]]:
        """How the addresses of a square, its elements ``step`` apart, follow from the first: each
        is the start of a line and one of a few distances."""
        code = self.code
        distances = [code.let(f"mul nsw i64 {step}, {j}") for j in range(side + 1)]

        def addresses(first: str) -> list[str]:
            lines = [first]
            while len(lines) < side:
                lines.append(code.at("float", lines[-1], distances[side]))
            return [code.at("float", line, d) for line in lines for d in distances[:side]]

        return addresses

    def loaded(self, sources: Sequence[str], mask: str | None = None) -> list[list[_Vector]]:
        """The square of vectors at these addresses, under ``mask``."""
        code, size = self.code, self.transforms.size
        found = [_Vector(self, code.load(self.vector, at, _SIZE) if mask is None
                         else code.masked_load("float", self.width, at, mask)) for at in sources]
        return [found[k : k + size] for k in range(0, size**2, size)]

    def store(self, values: Sequence[_Vector], targets: Sequence[str], mask: str | None = None
              ) -> None:
        """Stores vectors at these addresses, under ``mask``."""
        code = self.code
        for at, vector in zip(targets, values, strict=True):
            if mask is None:
                code.store(self.vector, vector.value, at, _SIZE)
            else:
                code.masked_store("float", self.width, vector.value, at, mask)
