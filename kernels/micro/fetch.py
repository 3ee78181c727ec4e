"""Asking for the lines of a matrix before they are needed.

What an epilogue reads and writes beside its product are a few rows at a time, each a panel wide.
Such short pieces are no stream that a processor would foresee, and where they come from far, an
epilogue waits for each of them while the units that multiply rest. So the lines of a micro-tile's
rows are asked for before its products, which take about as long as lines take to come: into the
level-2 cache, as the nearer one has the strip of sums. Lines that will be written are asked for in
the same way; asked for to be written, they would come too near.
"""

from __future__ import annotations

from ...ir.target import Target
from .irtext import Carried, Code

LINE = 64
"""Bytes of a line."""
PARAMETERS = [("ptr", "at"), ("i64", "step"), ("i64", "m"), ("i64", "n")]
"""LLVM types and names of the arguments."""


def fetch_text(name: str, target: Target) -> str:
    """LLVM IR of ``fetch(at, step, m, n)``, for ``m`` rows, ``step`` bytes apart, of ``n`` bytes
    each. Nothing is accessed: any address is allowed."""
    code = Code(name, PARAMETERS, target)
    last = code.let("sub nsw i64 %n, 1")

    def row(i: str, _: Carried) -> Carried:
        first = code.at("i8", "%at", code.let(f"mul nsw i64 {i}, %step"))

        def line(at: str, _: Carried) -> Carried:
            code.prefetch(code.at("i8", first, at))
            return []

        code.loop(0, last, LINE, [], line)
        code.prefetch(code.at("i8", first, last))  # of a row that begins within a line
        return []

    code.loop(0, "%m", 1, [], row)
    return code.text()
