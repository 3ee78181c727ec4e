"""The softmax of one block of keys: scores of a panel become weights, a query per lane.

``weigh(w, n, lanes, factor, top, total, gain, more)`` turns the scores ``w[n, panel]`` into
``2^(factor (score - top))``, where ``top`` is the largest score of a lane so far, this block
included. Per lane it updates ``top`` and ``total``, the sum of weights relative to ``top``, and
writes ``gain``, what sums relative to the old ``top`` are scaled by; without ``more`` there are no
sums before, and ``gain`` is not written. Whole vectors are computed, as many as hold ``lanes``. A
``top`` of -inf counts as 0, so that a score of -inf always weighs 0; NaN becomes NaN.

The exponential knows that its argument is not above 0, and that what is far below does not count:
``2^t = 2^n p(t - n)`` with ``n`` the integer nearest to ``t >= -127``. Adding a large number rounds
``t`` and leaves the biased exponent in the low bits, which a shift puts in place; the one of ``n =
-127`` is that of 0. ``p`` has degree 5 and ``p(0) = 1`` (our own minimax fit, relative error
1.7e-7 in float32). The rounding of ``t`` costs a weight relatively ``2^-24 abs t ln 2``, never more
than 2.2e-8 of the largest one.
"""

from __future__ import annotations

from collections.abc import Callable

from ...ir.target import Target
from .irtext import Carried, Code

LOG2E = 1.4426950408889634
POWER_SHIFT = 1.5 * 2.0**23 + 127.0
"""Added to ``t`` it leaves an integer, ``127 + n`` in its last 8 bits."""
POWER = (1.0, 0.6931470036506653, 0.24022242426872253, 0.05550733581185341, 0.009671512991189957,
         0.001326472731307149)  # fmt: skip
"""Coefficients of ``p``, from the constant one on."""
_ROWS = 4
"""Rows that are under way at a time."""


def parameters() -> list[tuple[str, str]]:
    """LLVM types and names of the arguments."""
    return [("ptr", "w"), ("i64", "n"), ("i64", "lanes"), ("float", "factor"), ("ptr", "top"),
            ("ptr", "total"), ("ptr", "gain"), ("i64", "more")]  # fmt: skip


def softmax_text(name: str, target: Target, panel: int) -> str:
    """LLVM IR of ``weigh`` for panels of ``panel`` lanes."""
    return _Writer(name, target, panel).text()


class _Writer:
    """Writes the kernel: a loop over vectors of lanes, and in it two over rows."""

    def __init__(self, name: str, target: Target, panel: int) -> None:
        self.width, self.panel = target.lanes(32), panel
        self.vector = f"<{self.width} x float>"
        self.code = Code(name, parameters(), target)

    def text(self) -> str:
        """The whole function."""
        code = self.code
        self.main = code.let(f"and i64 %n, {-_ROWS}")
        self.factor = code.splat("float", self.width, "%factor")
        self.again = code.let("icmp ne i64 %more, 0")
        code.loop(0, "%lanes", self.width, [], self._lanes)
        return code.text()

    def _number(self, value: float) -> str:
        return self.code.number("float", self.width, value)

    def _op(self, op: str, a: str, b: str) -> str:
        return self.code.let(f"{op} {self.vector} {a}, {b}")

    def _pick(self, condition: str, a: str, b: str) -> str:
        kind = f"<{self.width} x i1>"
        return self.code.let(f"select {kind} {condition}, {self.vector} {a}, {self.vector} {b}")

    def _larger(self, a: str, b: str) -> str:
        return self._pick(self._op("fcmp ogt", a, b), a, b)

    def _at(self, base: str, lane: str) -> str:
        return self.code.at("float", base, lane)

    def _load(self, place: str) -> str:
        return self.code.load(self.vector, place, 4)

    def _lanes(self, lane: str, _: Carried) -> Carried:
        """One vector of lanes from ``lane`` on."""
        code = self.code
        column = self._at("%w", lane)
        tops = self._rows(column, self._number(float("-inf")),
                          lambda place, top: self._larger(top, self._load(place)))
        top = self._folded(tops, self._larger)
        before = code.when(self.again, [self.vector], [self._number(float("-inf"))],
                           lambda: [self._load(self._at("%top", lane))])[0]  # fmt: skip
        top = self._larger(before, top)
        code.store(self.vector, top, self._at("%top", lane), 4)
        none = self._op("fcmp oeq", top, self._number(float("-inf")))
        self.shift = self._pick(none, "zeroinitializer", top)

        def weight(place: str, total: str) -> str:
            value = self._power(self._load(place))
            code.store(self.vector, value, place, 4)
            return self._op("fadd", total, value)

        total = self._folded(self._rows(column, "zeroinitializer", weight),
                             lambda a, b: self._op("fadd", a, b))

        def scaled() -> Carried:
            gain = self._power(before)
            code.store(self.vector, gain, self._at("%gain", lane), 4)
            old = self._load(self._at("%total", lane))
            return [code.multiply_add(self.vector, total, old, gain)]

        total = code.when(self.again, [self.vector], [total], scaled)[0]
        code.store(self.vector, total, self._at("%total", lane), 4)
        return []

    def _rows(self, column: str, start: str, step: Callable[[str, str], str]) -> Carried:
        """``step(place, value)`` for every row of a vector of lanes; the last values of as many
        chains as rows are under way."""
        code = self.code

        def rows(count: int) -> Callable[[str, Carried], Carried]:
            def body(row: str, values: Carried) -> Carried:
                places = [code.at("float", column, code.let(
                    f"mul nsw i64 {code.let(f'add nsw i64 {row}, {r}')}, {self.panel}"))
                    for r in range(count)]  # fmt: skip
                return [*map(step, places, values), *values[count:]]

            return body

        chains = code.loop(0, self.main, _ROWS, [(self.vector, start)] * _ROWS, rows(_ROWS))
        carried = [(self.vector, value) for value in chains]
        return code.loop(self.main, "%n", 1, carried, rows(1))

    def _folded(self, values: Carried, pair: Callable[[str, str], str]) -> str:
        """All values as one, by pairs."""
        while len(values) > 1:
            values = [pair(a, b) for a, b in zip(values[::2], values[1::2])]
        return values[0]

    def _power(self, score: str) -> str:
        """The weight of a score."""
        code, ints = self.code, f"<{self.width} x i32>"
        t = self._op("fmul", self._op("fsub", score, self.shift), self.factor)
        least = self._number(-127.0)
        t = self._pick(self._op("fcmp olt", t, least), least, t)  # NaN stays NaN
        shifted = self._op("fadd", t, self._number(POWER_SHIFT))
        r = self._op("fsub", t, self._op("fsub", shifted, self._number(POWER_SHIFT)))
        bits = code.let(f"bitcast {self.vector} {shifted} to {ints}")
        bits = code.let(f"shl {ints} {bits}, {code.splat('i32', self.width, '23')}")
        scale = code.let(f"bitcast {ints} {bits} to {self.vector}")
        power = self._number(POWER[-1])
        for coefficient in reversed(POWER[:-1]):
            power = code.multiply_add(self.vector, self._number(coefficient), power, r)
        return self._op("fmul", power, scale)
