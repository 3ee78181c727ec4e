"""All sizes of a program as one Python function of the symbols' values.

Every distinct ``Dim`` becomes one expression over numbered symbols, every distinct atom (floor
division, modulo, max, min, broadcast) one local, so shared parts are computed once. The function
is written as Python source and compiled once per program: a new binding then costs tens of
nanoseconds per size, where walking the polynomials costs microseconds. Symbol names come from
models and never enter the source; they appear as positions of a tuple.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from ..ir.dims import Atom, Dim, Expr
from ..ir.errors import FeedError, ModelError

Evaluate = Callable[[Sequence[int]], list[int]]


def _bcast(a: int, b: int) -> int:
    if a == b or b == 1:
        return a
    if a == 1:
        return b
    raise FeedError(f"sizes {a} and {b} do not broadcast")


class Sizes:
    """A numbered set of ``Dim`` that are evaluated together.

    ``slot(dim)`` numbers a size; after the last one ``evaluate(values)`` gives all of them, in
    order, for the symbols' values in the order of ``symbols``.
    """

    def __init__(self, symbols: Iterable[str]) -> None:
        self.symbols = tuple(symbols)
        """Names of the symbols, in the order ``evaluate`` takes their values."""
        self._at = {name: i for i, name in enumerate(self.symbols)}
        self._slots: dict[Dim, int] = {}
        self._function: Evaluate | None = None

    def slot(self, dim: Dim) -> int:
        """Number of ``dim`` in the result of ``evaluate``."""
        found = self._slots.get(dim)
        if found is None:
            found = self._slots[dim] = len(self._slots)
            self._function = None
        return found

    def evaluate(self, values: Sequence[int]) -> list[int]:
        """All sizes, by slot. Raises ``FeedError`` where sizes do not broadcast and
        ``ModelError`` for a division by zero."""
        if self._function is None:
            self._function = self._compile()
        try:
            return self._function(values)
        except ZeroDivisionError:
            raise ModelError("a shape expression divides by zero") from None

    def _compile(self) -> Evaluate:
        if all(isinstance(d, int) for d in self._slots):
            constants = [int(d) for d in self._slots]  # type: ignore[arg-type]
            return lambda values: list(constants)
        writer = _Writer(self._at)
        results = [writer.dim(d) for d in self._slots]
        body = [f"    {line}" for line in writer.lines]
        source = "\n".join(["def f(s):", *body, "    return [" + ", ".join(results) + "]"])
        namespace: dict[str, Evaluate] = {"bcast": _bcast}  # type: ignore[dict-item]
        # The text consists of numbers, operators and names made here; see ``_Writer``.
        exec(compile(source, "<sizes>", "exec"), namespace)  # noqa: S102
        return namespace["f"]


class _Writer:
    """Python expressions of polynomials; ``lines`` define the atoms' locals."""

    def __init__(self, symbols: dict[str, int]) -> None:
        self.symbols = symbols
        self.lines: list[str] = []
        self._names: dict[Atom, str] = {}

    def dim(self, d: Dim) -> str:
        if not isinstance(d, Expr):
            return str(int(d))
        terms = []
        for monomial, coefficient in d.terms:
            factors = [self.atom(a) for a, power in monomial for _ in range(power)]
            if coefficient != 1 or not factors:
                factors.insert(0, str(int(coefficient)))
            terms.append("*".join(factors))
        return " + ".join(terms)

    def atom(self, a: Atom) -> str:
        name = self._names.get(a)
        if name is None:
            text = self._definition(a)
            name = f"a{len(self._names)}"
            self._names[a] = name
            self.lines.append(f"{name} = {text}")
        return name

    def _definition(self, a: Atom) -> str:
        if a.kind == "sym":
            if a.name not in self.symbols:
                raise ModelError(f"size {a.name} is not known here")
            return f"s[{self.symbols[a.name]}]"
        args = [f"({self.dim(x)})" for x in a.args]
        if a.kind in ("floordiv", "mod"):
            return (" // " if a.kind == "floordiv" else " % ").join(args)
        if a.kind in ("max", "min", "bcast"):
            return f"{a.kind}({', '.join(args)})"
        raise ModelError(f"a size may not depend on the loop variable {a.name}")
