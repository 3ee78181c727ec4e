"""Innermost loops as explicit vectors, what is left over under a mask.

LLVM's loop vectorizer leaves the rest of a row to vectors of four and to single elements, which for
rows of 49 or 197 elements costs more than the row, and it never sees more than one element of a
word. So the front end itself writes loops over float32 that lie side by side (``vector_loops``) as
vectors of the target's width, where the target has masked loads and stores (AVX-512, AVX2): whole
vectors, then what is left with only the first lanes counting. Words are applied to whole vectors
(``words.EMITTERS``); scalars and indices are lowered as always, with the loop's variable that of
the first lane.

Loops that compute little go over ``MANY`` vectors at a time, operation by operation: lines that
follow one another are read and written together. What follows from the sums of several rows that
are worked on side by side (``jam``) is computed as one vector, so that they wait for one division
and one root instead of four.
"""

from __future__ import annotations

import ast
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from llvmlite import ir

from . import machine_types as types
from .aliasing import mark
from .machine_types import Pointer
from .vector_loops import (
    COMPARISONS,
    FEW,
    OPERATORS,
    REDUCTIONS,
    ROWS,
    Family,
    VectorLoop,
    families,
)
from .words import EMITTERS, F32, I1, I32, I64, Value, call, constant, suffix

if TYPE_CHECKING:
    from .frontend import Lowerer

MANY = 4
"""Vectors at a time of a loop that does little: memory is written faster by several neighboring
lines at a time (whole norms by a sixth on Zen 4)."""
FEWER = 2
"""The same where there are 16 registers."""
F32_BITS = 32
LIGHT = 32
"""Operations on vectors that are little."""
DEAR = frozenset({"exp", "log", "tanh", "sigmoid", "erf", "erfc"})
"""Words that leave no registers for several vectors."""


class _Copy(NamedTuple):
    """One of several vectors of iterations that are written together."""

    indices: dict[str, Value]
    """Of the names that are indices, of the first lane."""
    vectors: dict[str, Any]
    """By name."""


class VectorWriter:
    """Writes one loop at the builder's position, with the front end's lowering for scalars."""

    def __init__(self, lower: Lowerer, loop: VectorLoop) -> None:
        self.lower, self.loop, self.width = lower, loop, lower.lanes
        self.b: ir.IRBuilder = lower.builder
        self.vector = ir.VectorType(F32, self.width)
        self.truths = ir.VectorType(I1, self.width)
        self.wide = self.width * F32_BITS == 512
        """Whether masks have registers of their own, and there are 32 of vectors."""
        self.many = MANY if self.wide else FEWER
        self.partial: dict[str, Any] = {}
        """Stack slots of partial results, which LLVM makes registers."""
        self.nans: dict[str, Any] = {}
        """Stack slots: lanes of a largest or smallest element that were NaN."""
        self.rows: dict[str, tuple[Any, int]] = {}
        """Name of a scalar from outside -> vector and lane that it is in."""

    def write(self) -> None:
        """The whole loop; the builder is left behind it."""
        for family in families(self.lower, self.loop):
            vector = self._of_rows(family)
            self.rows |= {name: (vector, k) for k, name in enumerate(family.names)}
        for name, word in self.loop.reductions.items():
            self._start(name, word)
        start, stop = self.loop.bounds
        if isinstance(start, ir.Constant) and isinstance(stop, ir.Constant):
            self._known(start.constant, stop.constant)
        else:
            self._unknown(start, stop)
        sums = [name for name, word in self.loop.reductions.items() if word == "radd"]
        for k in range(0, len(sums) - ROWS + 1, ROWS):
            self._finish_rows(sums[k:k + ROWS])
        rest = sums[len(sums) // ROWS * ROWS:]
        for name, word in self.loop.reductions.items():
            if word != "radd" or name in rest:
                self.lower.define(name, self._finished(name, word), types.float32)
        self.lower.reductions |= self.loop.reductions

    def _known(self, start: int, stop: int) -> None:
        whole, rest = divmod(max(stop - start, 0), self.width)
        end = start + whole * self.width
        if whole <= FEW:
            for at in range(start, end, self.width):
                self._body([ir.Constant(I64, at)])
        else:
            self._loop(ir.Constant(I64, start), ir.Constant(I64, end))
        if rest:
            self._body([ir.Constant(I64, end)],
                       ir.Constant(self.truths, [k < rest for k in range(self.width)]))

    def _unknown(self, start: Any, stop: Any) -> None:
        b = self.b
        size = b.sub(stop, start, flags=("nsw",))
        size = call(b, "llvm.smax.i64", I64, [size, ir.Constant(I64, 0)])
        block = self.width * (self.many if self._light() else 1)
        whole = b.sub(size, b.and_(size, ir.Constant(I64, block - 1)))
        end = b.add(start, whole, flags=("nsw",))
        loop, between, rest, after = (b.append_basic_block() for _ in range(4))
        b.cbranch(b.icmp_unsigned("!=", whole, ir.Constant(I64, 0)), loop, between)
        b.position_at_end(loop)
        self._loop(start, end, block // self.width)
        b.branch(between)
        b.position_at_end(between)
        b.cbranch(b.icmp_signed("<", end, stop), rest, after)
        b.position_at_end(rest)
        self._rest(end, stop, block > self.width)
        b.branch(after)
        b.position_at_end(after)

    def _rest(self, start: Any, stop: Any, several: bool) -> None:
        """What is left from ``start`` on, of one vector or ``several``, under a mask."""
        b, lanes = self.b, ir.Constant(I64, self.width)
        entry, loop, after = b.block, b.append_basic_block(), b.append_basic_block()
        b.branch(loop)
        b.position_at_end(loop)
        index = b.phi(I64)
        index.add_incoming(start, entry)
        left = b.sub(stop, index, flags=("nsw",))
        if several:
            left = call(b, "llvm.smin.i64", I64, [left, lanes])
        self._body([index], self._first_lanes(b.trunc(left, I32)))
        following = b.add(index, lanes, flags=("nsw",))
        if several:
            index.add_incoming(following, b.block)
            b.cbranch(b.icmp_signed("<", following, stop), loop, after)
        else:
            b.branch(after)
        b.position_at_end(after)

    def _first_lanes(self, count: Any) -> Any:
        """The mask of the first lanes, at least 1 of them."""
        b, one = self.b, ir.Constant(I32, 1)
        if self.wide:
            bits = b.sub(b.shl(one, count), one)
            return b.bitcast(b.trunc(bits, ir.IntType(self.width)), self.truths)
        lanes = ir.Constant(ir.VectorType(I32, self.width), list(range(self.width)))
        return b.icmp_signed(">", self._splat(count), lanes)

    def _light(self) -> bool:
        """Whether the loop does little but move memory."""
        work = self.loop.words
        return len(work) <= LIGHT and not DEAR.intersection(work)

    def _loop(self, start: Any, end: Any, many: int = 1) -> None:
        """Whole vectors from ``start`` to ``end``, ``many`` at a time, at least so many."""
        b = self.b
        entry, loop, after = b.block, b.append_basic_block(), b.append_basic_block()
        b.branch(loop)
        b.position_at_end(loop)
        index = b.phi(I64)
        self._body([index, *(b.add(index, ir.Constant(I64, k * self.width), flags=("nsw",))
                             for k in range(1, many))])
        following = b.add(index, ir.Constant(I64, many * self.width), flags=("nsw",))
        index.add_incoming(start, entry)
        index.add_incoming(following, b.block)
        b.cbranch(b.icmp_signed("<", following, end), loop, after)
        b.position_at_end(after)

    def _body(self, indices: Sequence[Any], mask: Any = None) -> None:
        """Vectors of iterations from each of ``indices`` on, of which those in ``mask`` count.
        Every operation is written for all of them before the next one."""
        name, loop, lower = self.loop.index, self.loop, self.lower
        copies = [_Copy({name: Value(index, types.int64)}, {}) for index in indices]
        for line in loop.body:
            match line:
                case ast.Assign(targets=[ast.Name(id=name)], value=value):
                    if name in loop.reductions:
                        assert isinstance(value, ast.Call)
                        for vector in self._vectors(value.args[1], copies, mask):
                            self._accumulate(name, vector, mask)
                    elif loop.kinds[name].kind == "vector":
                        for copy, vector in zip(copies, self._vectors(value, copies, mask)):
                            copy.vectors[name] = vector
                    elif loop.kinds[name].kind == "index":
                        for copy in copies:
                            copy.indices[name] = self._index(value, copy)
                    else:
                        lower.define(name, *lower.value(value))
                case ast.Expr(value=value):
                    if loop.seen[value].kind == "vector":
                        self._vectors(value, copies, mask)

    def _index(self, node: ast.expr, copy: _Copy) -> Value:
        """An expression that is an index, or a scalar, in one copy."""
        self.lower.names.update(copy.indices)
        return self.lower.value(node)

    def _vectors(self, node: ast.expr, copies: Sequence[_Copy], mask: Any) -> list[Any]:
        """An expression as a vector, in every copy."""
        if self.loop.seen[node].kind == "scalar":
            return [self._scalar(node)] * len(copies)
        match node:
            case ast.Name(id=name):
                return [copy.vectors[name] for copy in copies]
            case ast.BinOp(left=left, op=op, right=right):
                word, args = OPERATORS[type(op)], [left, right]
            case ast.Compare(left=left, ops=[op], comparators=[right]):
                return [self._compared(left, op, right, copy) for copy in copies]
            case ast.Call(func=ast.Name(id=word), args=args):
                if word in ("ld", "ldm", "st"):
                    return self._accesses(word, args, copies, mask)
            case _:
                raise AssertionError(f"{ast.dump(node)} in a vector loop")
        operands = zip(*(self._vectors(a, copies, mask) for a in args), strict=True)
        return [EMITTERS[word](self.b, types.float32, *values) for values in operands]

    def _scalar(self, node: ast.expr) -> Any:
        """A scalar in all lanes."""
        if isinstance(node, ast.Name) and node.id in self.rows:
            vector, k = self.rows[node.id]
            return self.b.shuffle_vector(vector, vector, _lanes([k] * self.width))
        return self._splat(self.lower.value(node).llvm)

    def _of_rows(self, family: Family) -> Any:
        """A vector with a row per lane. Reductions are in one already: LLVM sees that."""
        if family.word:
            operands = [self._of_rows(f) for f in family.operands]
            return EMITTERS[family.word](self.b, types.float32, *operands)
        scalars = [self.lower.name(name).llvm for name in family.names]
        if len(scalars) == 1:
            return self._splat(scalars[0], ROWS)
        vector = ir.Constant(ir.VectorType(scalars[0].type, ROWS), ir.Undefined)
        for k, scalar in enumerate(scalars):
            vector = self.b.insert_element(vector, scalar, ir.Constant(I32, k))
        return vector

    def _splat(self, scalar: Any, width: int = 0) -> Any:
        width = width or self.width
        kind = ir.VectorType(scalar.type, width)
        if isinstance(scalar, ir.Constant):
            return constant(kind, scalar.constant)
        b, none = self.b, ir.Constant(kind, ir.Undefined)
        first = b.insert_element(none, scalar, ir.Constant(I32, 0))
        return b.shuffle_vector(first, none, _lanes([0] * width))

    def _compared(self, left: ast.expr, op: ast.cmpop, right: ast.expr, copy: _Copy) -> Any:
        """An index, which is one more from lane to lane, compared with a scalar. Both are int64;
        their difference is brought within int32, where it still tells."""
        b, kind = self.b, ir.VectorType(I32, self.width)
        away = b.sub(self._index(left, copy).llvm, self._index(right, copy).llvm)
        for name, bound in (("smax", -(1 << 20)), ("smin", 1 << 20)):
            away = call(b, f"llvm.{name}.i64", I64, [away, ir.Constant(I64, bound)])
        step = -1 if self.loop.seen[left].kind == "index" else 1
        lanes = ir.Constant(kind, [step * k for k in range(self.width)])
        return b.icmp_signed(COMPARISONS[type(op)], self._splat(b.trunc(away, I32)), lanes)

    def _accesses(self, word: str, args: list[ast.expr], copies: Sequence[_Copy], mask: Any
                  ) -> list[Any]:
        """Loads or stores."""
        base = self.lower.value(args[0])
        assert isinstance(base.kind, Pointer)
        rest = [self._vectors(a, copies, mask) for a in args[2:]]
        accesses = []
        for k, copy in enumerate(copies):
            at = self.b.gep(base.llvm, [self._index(args[1], copy).llvm])
            at = self.b.bitcast(at, self.vector.as_pointer())
            access = self._access(word, at, [values[k] for values in rest], mask)
            accesses.append(mark(self.b, access, base.kind.tag))
        return accesses

    def _access(self, word: str, at: Any, values: list[Any], mask: Any) -> Any:
        """A load, or a store of the last of ``values``."""
        b, short, align = self.b, suffix(self.vector), ir.Constant(I32, 4)
        if word == "st" and mask is None:
            return b.store(values[-1], at, align=4)
        if word == "st":
            return call(b, f"llvm.masked.store.{short}.p0", ir.VoidType(),
                        [values[-1], at, align, mask])
        if word == "ld" and mask is None:
            return b.load(at, align=4)
        other = constant(self.vector, 0.0)
        if word == "ldm":
            there, other = values
            mask = there if mask is None else b.and_(there, mask)
        return call(b, f"llvm.masked.load.{short}.p0", self.vector, [at, align, mask, other])

    # -- reductions ------------------------------------------------------------------------

    def _slot(self, value: Any) -> Any:
        slot = self.lower.slots.alloca(value.type)
        self.b.store(value, slot)
        return slot

    def _start(self, name: str, word: str) -> None:
        before = self.lower.name(name).llvm
        vector = constant(self.vector, REDUCTIONS[word])
        vector = self.b.insert_element(vector, before, ir.Constant(I32, 0))
        self.partial[name] = self._slot(vector)
        if word != "radd":
            self.nans[name] = self._slot(self._kept(self.b.fcmp_unordered("uno", vector, vector)))

    def _kept(self, mask: Any) -> Any:
        """A mask as what stays in a register of a loop: all bits of a lane where there are no
        registers for masks."""
        return mask if self.wide else self.b.sext(mask, ir.VectorType(I32, self.width))

    def _accumulate(self, name: str, value: Any, mask: Any) -> None:
        b, slot = self.b, self.partial[name]
        before, word = b.load(slot), self.loop.reductions[name]
        if word == "radd":
            after = EMITTERS[word](b, types.float32, before, value)
        else:
            after = self._extreme(word, value, before)
            nan = b.fcmp_unordered("uno", value, value)
            nan = nan if mask is None else b.and_(nan, mask)
            b.store(b.or_(b.load(self.nans[name]), self._kept(nan)), self.nans[name])
        b.store(after if mask is None else b.select(mask, after, before), slot)

    def _extreme(self, word: str, value: Any, before: Any) -> Any:
        """The larger or smaller one, ``before`` where one is NaN: one instruction."""
        sign = ">" if word == "fmax" else "<"
        return self.b.select(self.b.fcmp_ordered(sign, value, before), value, before)

    def _finish_rows(self, names: list[str]) -> None:
        """The sums of ``ROWS`` rows: each in four lanes, then all of them transposed and added."""
        b, rows = self.b, []
        for name in names:
            vector, width = self.b.load(self.partial[name]), self.width
            while width > ROWS:
                width //= 2
                vector = self._added(vector, vector, range(width), range(width, 2 * width))
            rows.append(vector)
        pairs = [self._added(a, c, (0, 1, 4, 5), (2, 3, 6, 7)) for a, c in (rows[:2], rows[2:])]
        sums = self._added(pairs[0], pairs[1], (0, 2, 4, 6), (1, 3, 5, 7))
        for k, name in enumerate(names):
            total = b.extract_element(sums, ir.Constant(I32, k))
            self.lower.define(name, total, types.float32)

    def _added(self, a: Any, c: Any, low: Sequence[int], high: Sequence[int]) -> Any:
        """The sum of two shuffles of two vectors."""
        parts = [self.b.shuffle_vector(a, c, _lanes(at)) for at in (low, high)]
        return EMITTERS["radd"](self.b, types.float32, *parts)

    def _finished(self, name: str, word: str) -> Any:
        """All lanes as one number."""
        b, vector = self.b, self.b.load(self.partial[name])
        if word == "radd":
            full = f"llvm.vector.reduce.fadd.{suffix(self.vector)}"
            return call(b, full, F32, [ir.Constant(F32, -0.0), vector], fastmath=("reassoc",))
        width = self.width
        while width > 1:
            width //= 2
            halves = [_lanes(range(k, k + width)) for k in (0, width)]
            low, high = (b.shuffle_vector(vector, vector, half) for half in halves)
            vector = self._extreme(word, high, low)
        best = b.extract_element(vector, ir.Constant(I32, 0))
        nans = b.load(self.nans[name])
        nans = nans if self.wide else b.icmp_signed("<", nans, ir.Constant(nans.type, None))
        bits = ir.IntType(self.width)
        nan = b.icmp_unsigned("!=", b.bitcast(nans, bits), ir.Constant(bits, 0))
        return b.select(nan, ir.Constant(F32, float("nan")), best)


def _lanes(numbers: Sequence[int]) -> ir.Constant:
    """The mask of a shuffle."""
    return ir.Constant(ir.VectorType(I32, len(numbers)), list(numbers))
