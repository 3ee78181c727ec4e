"""Random instances of rules, for property tests: a pattern is built as a graph on small tensors.

Free names become graph inputs (capitals: constants) of random small shapes, with the letters of
``Rule.sizes`` where given; captured attributes are drawn at random for the op they belong to. Most
draws are inconsistent or refused by a condition, so callers draw until enough instances are found.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np

from ..ir.builder import Builder
from ..ir.errors import EvonnxError
from ..ir.graph import Graph, Value
from ..ir.ops import OPS
from ..ir.types import BF16, BOOL, F16, F32, F64, I8, I32, I64, U8, DType
from .pattern import CLASSES, Absent, Apply, Const, Number, Pattern, Product, Var
from .rule import Match, Rule, find_at, refusal

DTYPES = (F32, F32, F32, F64, F16, BF16, I32, I64, U8, I8, BOOL)
_NUMBERS = (1.0, 2.0, 3.0, 4.0, 6.0, 0.5, 0.25, 1e-5, 1e-3, -1.0, 0.0, -2.5)
_EXTENTS = (1, 2, 3, 2, 3, 4, 5, 0)


class Unlucky(Exception):
    """A draw that does not make an instance."""


class Draw:
    """One attempt to build a rule's pattern."""

    def __init__(self, rule: Rule, rng: np.random.Generator, special: bool) -> None:
        self.rule, self.rng, self.special = rule, rng, special
        self.builder = Builder()
        self.feeds: dict[str, np.ndarray] = {}
        self.values: dict[str, Any] = {}
        self.attrs: dict[str, Any] = {}
        self.dtype = DTYPES[rng.integers(len(DTYPES))]
        self.letters: dict[str, int] = {}
        self.sizes = dict(re.findall(r"(\w+)\[([\w,]*)\]", rule.sizes))
        rank = int(rng.integers(0, 5))
        self.base = tuple(int(rng.choice(_EXTENTS)) for _ in range(rank))

    # -- leaves --------------------------------------------------------------------------------

    def pick(self, *options: Any) -> Any:
        return options[self.rng.integers(len(options))]

    def shape(self, name: str) -> tuple[int, ...]:
        if name in self.sizes:
            letters = [k for k in self.sizes[name].split(",") if k]
            shape = tuple(
                int(k) if k.isdigit() else self.letters.setdefault(k, self.extent(k))
                for k in letters
            )
            return () if name.isupper() and self.rng.random() < 0.2 else shape
        chance = self.rng.random()
        if name.isupper() and chance < 0.6:
            return ()
        if chance < 0.75:
            return self.base
        cut = self.base[int(self.rng.integers(0, len(self.base) + 1)) :]
        return tuple(1 if self.rng.random() < 0.3 else d for d in cut)

    def extent(self, letter: str) -> int:
        """A random size; ``k`` is a kernel's, which is never 0."""
        return self.pick(1, 2, 3) if letter == "k" else self.pick(*_EXTENTS)

    def array(self, shape: tuple[int, ...], dtype: DType, constant: bool) -> np.ndarray:
        if dtype == BOOL:
            return self.rng.random(shape) < 0.5
        if constant and self.rng.random() < 0.6:
            return np.full(shape, self.pick(*_NUMBERS)).astype(dtype.np)
        if dtype.is_integer:
            info = np.iinfo(dtype.np)
            low, high = (max(info.min, -6), 9) if constant else (info.min, info.max)
            drawn = self.rng.integers(low, high, shape, dtype=np.int64, endpoint=True)
            return drawn.astype(dtype.np)
        data = self.rng.standard_normal(shape) * self.pick(0.5, 1.0, 3.0)
        if self.special and not constant and data.size:
            odd = self.rng.random(shape) < 0.3
            data = np.where(odd, self.rng.choice([np.nan, np.inf, -np.inf, -0.0, 0.0], shape), data)
        with np.errstate(all="ignore"):
            return np.asarray(data).astype(dtype.np)

    def leaf(self, name: str, constant: bool, wanted: DType) -> Value | None:
        if name not in self.values:
            if name.startswith("maybe") and self.rng.random() < 0.5:
                self.values[name] = None
                return None
            array = self.array(self.shape(name), wanted, constant)
            if constant:
                self.values[name] = self.builder.const(array)
            else:
                from ..ir.types import TensorType

                self.feeds[name] = array
                self.values[name] = self.builder.input(name, TensorType(wanted, array.shape))
        found = self.values[name]
        assert found is None or isinstance(found, Value)
        return found

    # -- operations ----------------------------------------------------------------------------

    def build(self, pattern: Pattern, wanted: DType) -> Value | None:
        """A value of the pattern; names keep their first value."""
        name = getattr(pattern, "name", None)
        if isinstance(pattern, (Var, Const)):
            return self.leaf(pattern.name, isinstance(pattern, Const), wanted)
        if isinstance(pattern, Absent):
            return None
        if isinstance(pattern, Number):
            if wanted.kind == "u" and pattern.value < 0:
                raise Unlucky
            return self.builder.const(pattern.value, wanted)
        if name in self.values:
            return self.values[name]
        value = self.apply(pattern, wanted) if isinstance(pattern, Apply) else (
            self.product(pattern, wanted)
        )
        if name is not None:
            self.values[name] = value
        return value

    def product(self, pattern: Product, wanted: DType) -> Value:
        parts: list[Value | None] = [self.build(p, wanted) for p in pattern.parts]
        if pattern.number != 1.0:
            parts.append(self.builder.const(pattern.number, wanted))
        order = list(self.rng.permutation(len(parts)))
        result = parts[order[0]]
        for k in order[1:]:
            pair = (result, parts[k]) if self.rng.random() < 0.5 else (parts[k], result)
            result = self.builder.op("mul", *pair)
        assert isinstance(result, Value)
        return result

    def apply(self, pattern: Apply, wanted: DType) -> Value:
        op = self.pick(*sorted(pattern.ops))
        if pattern.capture is not None and pattern.capture in self.values:
            op = self.values[pattern.capture]
        elif pattern.capture is not None:
            self.values[pattern.capture] = op
        operand = self.operand_dtype(op, wanted)
        if pattern.star is not None:
            args: list[Value | None] = self.several(pattern.star, operand)
        else:
            args = []
            for k, part in enumerate(pattern.args):
                args.append(self.build(part, self.position_dtype(op, k, operand)))
        if pattern.commutative and self.rng.random() < 0.5:
            args.reverse()
        attrs = self.attributes(pattern, op, args)
        result = self.builder.op(op, *args, **attrs)
        if not isinstance(result, Value):
            raise Unlucky
        return result

    def operand_dtype(self, op: str, wanted: DType) -> DType:
        if op in ("eq", "lt", "le", "isnan", "isinf"):
            return self.dtype if self.dtype != BOOL or op == "eq" else F32
        return self.pick(*DTYPES) if op == "cast" else wanted

    def position_dtype(self, op: str, k: int, operand: DType) -> DType:
        if op == "select":
            return BOOL if k == 0 else operand
        if op in ("gather", "gather_elements", "scatter_elements") and k == 1:
            return I64
        return operand

    def several(self, name: str, dtype: DType) -> list[Value | None]:
        if name not in self.values:
            if not self.base:
                raise Unlucky
            axis = self.attrs.setdefault("axis!", int(self.rng.integers(len(self.base))))
            source = None
            made = []
            for k in range(int(self.rng.integers(1, 5))):
                extent = int(self.rng.choice(_EXTENTS))
                shape = (*self.base[:axis], extent, *self.base[axis + 1 :])
                if self.rng.random() < 0.4:  # neighboring slices of one value
                    total = (*self.base[:axis], 9, *self.base[axis + 1 :])
                    if source is None:
                        source = self.leaf_of(f"{name}.s", total, dtype)
                        self.letters["at!"] = 0
                    at = self.letters["at!"]
                    if at + extent <= 9:
                        starts = [at if i == axis else 0 for i in range(len(shape))]
                        self.letters["at!"] = at + extent
                        made.append(self.builder.op("slice", source, starts=starts, sizes=shape,
                                                    steps=(1,) * len(shape)))
                        continue
                made.append(self.leaf_of(f"{name}.{k}", shape, dtype))
            if self.rng.random() < 0.4:
                made = [self.builder.op("concat", *made, axis=axis), *made[:1]]
            self.values[name] = made
        return list(self.values[name])

    def leaf_of(self, name: str, shape: tuple[int, ...], dtype: DType) -> Value:
        from ..ir.types import TensorType

        self.feeds[name] = self.array(shape, dtype, False)
        return self.builder.input(name, TensorType(dtype, shape))

    def attributes(self, pattern: Apply, op: str, args: list[Value | None]) -> dict[str, Any]:
        if pattern.capture is not None and not OPS[op].attrs:
            return {}
        drawn = random_attributes(self, op, args)
        named: dict[str, Any] = {}
        for key, how, value in pattern.attrs:
            if how == "is":
                named[key] = value
            else:
                named[key] = self.attrs.setdefault(value, drawn.get(key))
        rest = {k: v for k, v in drawn.items() if k not in named}
        if pattern.rest is not None:
            rest = self.attrs.setdefault(pattern.rest, rest)
        return {k: v for k, v in {**rest, **named}.items() if v is not None}


# -- random attributes per op ------------------------------------------------------------------


def _factorization(d: Draw, shape: tuple[int, ...]) -> tuple[int, ...]:
    total = int(np.prod(shape, dtype=np.int64))
    if total == 0 or d.rng.random() < 0.2:
        return shape
    result: list[int] = []
    while total > 1:
        divisors = [k for k in range(1, total + 1) if total % k == 0]
        result.append(int(d.rng.choice(divisors)))
        total //= result[-1]
    return tuple(result[:6]) if int(np.prod(result[:6])) * total == np.prod(shape) else shape


def _axes(d: Draw, rank: int) -> tuple[int, ...]:
    if rank and d.rng.random() < 0.6:  # mostly the last ones, as norms have it
        return tuple(range(int(d.rng.integers(0, rank)), rank))
    return tuple(k for k in range(rank) if d.rng.random() < 0.5)


def _axis(d: Draw, rank: int) -> int:
    return rank - 1 if rank and d.rng.random() < 0.5 else int(d.rng.integers(0, max(rank, 1)))


def _perm(d: Draw, rank: int) -> tuple[int, ...]:
    if rank >= 2 and d.rng.random() < 0.4:
        return (*range(rank - 2), rank - 1, rank - 2)
    return tuple(int(k) for k in d.rng.permutation(rank))


def _slice(d: Draw, shape: tuple[int, ...]) -> dict[str, Any]:
    if d.rng.random() < 0.2:
        return {"starts": (0,) * len(shape), "sizes": shape, "steps": (1,) * len(shape)}
    starts, sizes, steps = [], [], []
    for extent in shape:
        step = int(d.rng.choice([1, 1, 1, 2, -1]))
        start = int(d.rng.integers(0, max(extent, 1)))
        room = (extent - start + step - 1) // step if step > 0 else start // -step + 1
        starts.append(start)
        steps.append(step)
        sizes.append(int(d.rng.integers(0, max(room, 0) + 1)) if extent else 0)
    return {"starts": tuple(starts), "sizes": tuple(sizes), "steps": tuple(steps)}


def _window(d: Draw, rank: int) -> dict[str, Any]:
    r = max(rank - 2, 0)

    def draw(*options: int) -> tuple[int, ...]:
        return tuple(d.pick(*options) for _ in range(r))

    return {"strides": draw(1, 1, 2), "dilations": draw(1, 1, 2), "pads_lo": draw(0, 0, 1, 2),
            "pads_hi": draw(0, 0, 1, 2), "layout": "first"}  # fmt: skip


def _pad(d: Draw, rank: int) -> dict[str, Any]:
    widths = tuple(d.pick(0, 0, 1, 2) if k >= 2 or rank < 3 else 0 for k in range(2 * rank))
    lo, hi = widths[:rank], widths[rank:]
    if rank >= 3:
        hi = (0, 0, *hi[2:])
    if d.rng.random() < 0.2:
        lo = hi = (0,) * rank
    return {"lo": lo, "hi": hi, "mode": "constant"}


def random_attributes(d: Draw, op: str, args: list[Value | None]) -> dict[str, Any]:
    """Attributes for ``op`` on these operands, drawn at random; empty for ops without any."""
    shape: tuple[Any, ...] = args[0].shape if args and args[0] is not None else ()
    rank = len(shape)
    table: dict[str, Callable[[], dict[str, Any]]] = {
        "reshape": lambda: {"shape": _factorization(d, shape)},
        "transpose": lambda: {"perm": _perm(d, rank)},
        "expand": lambda: {"shape": tuple(d.pick(s, s, 3) if s == 1 else s for s in shape)},
        "slice": lambda: _slice(d, shape),
        "pad": lambda: _pad(d, rank),
        "concat": lambda: {"axis": d.attrs.get("axis!", 0)},
        "gather": lambda: {"axis": _axis(d, rank)},
        "scatter_elements": lambda: {"axis": 0,
                                     "reduction": d.pick("none", "add", "mul", "max", "min")},
        "dims": lambda: {"values": d.pick((0,), (1,), (0, 1), (2, 1, 0)), "shape": None},
        "reduce": lambda: {"kind": d.pick("max", "min", "sum", "mean", "prod"),
                           "axes": _axes(d, rank), "keepdims": bool(d.rng.random() < 0.5)},
        "cast": lambda: {"to": d.pick(*DTYPES)},
        "isinf": lambda: {"positive": True, "negative": True},
        "dot": lambda: {"ta": d.pick(False, True), "tb": d.pick(False, True)},
        "conv": lambda: {**_window(d, rank), "groups": 1},
        "pool": lambda: {**_window(d, rank), "kind": d.pick("max", "sum"),
                         "kernel": tuple(d.pick(1, 2, 3) for _ in range(rank - 2))},
        "softmax": lambda: {"axis": _axis(d, rank)},
        "log_softmax": lambda: {"axis": _axis(d, rank)},
        "layer_norm": lambda: {"axis": _axis(d, rank), "eps": 1e-5},
        "rms_norm": lambda: {"axis": _axis(d, rank), "eps": 1e-5},
        "gelu": lambda: {"approximate": d.pick("none", "tanh")},
        "attention": lambda: {"scale": d.pick(1.0, 0.5, 0.125)},
    }  # fmt: skip
    drawn = table[op]() if op in table else {}
    if op == "dims":
        drawn["shape"] = (len(drawn["values"]),)
    return drawn


def instance(
    rule: Rule, rng: np.random.Generator, special: bool = False
) -> tuple[Graph, dict[str, np.ndarray], Match] | None:
    """A graph whose output matches the rule, feeds for it, and the match; None for an unlucky
    draw. ``special`` mixes NaN, infinities and signed zeros into the feeds."""
    draw = Draw(rule, rng, special)
    try:
        root = draw.build(rule.left, draw.dtype)
    except (EvonnxError, Unlucky, KeyError, IndexError, ValueError, OverflowError):
        return None
    if root is None:
        return None
    graph = draw.builder.build([("y", root)])
    match = find_at(rule, graph.outputs[0][1].node, graph)
    if match is None or refusal(match) is not None:
        return None
    return graph, draw.feeds, match


__all__ = ["CLASSES", "instance", "random_attributes"]
