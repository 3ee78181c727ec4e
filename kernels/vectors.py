"""Innermost loops as explicit vectors, what is left over under a mask.

LLVM's loop vectorizer leaves the rest of a row to vectors of four and to single elements, which for
rows of 49 or 197 elements costs more than the row, and it never sees more than one element of a
word. So the front end itself writes a loop over float32 that lie side by side as vectors of the
target's width, where the target has masked loads and stores (AVX-512): whole vectors, then one of
which only the first lanes count. Words are applied to whole vectors (``words.EMITTERS``).

``find`` looks at the names of a loop's body: *scalars* are the same in every lane, *indices* are
one more from lane to lane, *vectors* are float32 or truth values. What fits no kind leaves the loop
to LLVM. Scalars and indices are lowered as always, with the loop's variable that of the first
lane. A reduction has a vector of partial results; where there are fewer than ``CHAINS`` of them
and the row is long, each would wait for itself, and LLVM, which makes several, does better.
"""

from __future__ import annotations

import contextlib
import operator
from dataclasses import dataclass, field
from typing import Any

from llvmlite import ir
from numba.core import ir as numba_ir
from numba.core import types

from .aliasing import mark
from .intrinsics import Pointer
from .words import EMITTERS, F32, I1, I32, I64, call, constant, suffix

CHAINS = 4
"""Partial results that hide an addition's latency."""
FEW = 4
"""Vectors of a row of known length up to which there is no loop."""
_WORDS = frozenset(
    {"fabs", "sqrt", "neg", "copysign", "rint", "floor", "ceil", "trunc", "fmax", "fmin", "fma",
     "exp", "log", "tanh", "sigmoid", "erf", "erfc", "select", "eq", "ne", "lt", "le", "gt", "ge",
     "band", "bor", "bxor", "bnot", "isnan"}
)  # fmt: skip
"""Words that compute on vectors."""
_OPERATORS = {operator.add: "fadd", operator.sub: "fsub", operator.mul: "fmul",
              operator.truediv: "fdiv"}  # fmt: skip
_REDUCTIONS = {"radd": -0.0, "fmax": float("-inf"), "fmin": float("inf")}
"""Word that combines two partial results -> its neutral element."""
_LANE_TYPES = (types.float32, types.boolean)


@dataclass
class VectorLoop:
    """A loop whose body is computed on vectors."""

    head: int
    body: int
    """Offsets of the blocks."""
    exit: int
    bounds: tuple[Any, ...]
    """The variables ``stop`` or ``start, stop``."""
    statements: list[Any]
    kinds: dict[str, str] = field(default_factory=dict)
    """Name -> "scalar", "index" or "vector"."""
    reductions: dict[str, str] = field(default_factory=dict)
    """Name -> word that combines its partial results."""
    words: dict[str, str] = field(default_factory=dict)
    """Name -> word that computes it."""


class _Unfit(Exception):
    """The loop is left to LLVM."""


# -- which loops ---------------------------------------------------------------------------------


class _Finder:
    """Reads the blocks of a kernel."""

    def __init__(self, blocks: dict[int, Any], typemap: dict[str, Any], parallel: set[int],
                 width: int) -> None:
        self.blocks, self.types, self.parallel, self.width = blocks, typemap, parallel, width
        self.defined: dict[str, Any] = {}
        """Name -> what it is defined as; None where it is assigned more than once."""
        self.readers: dict[str, set[int]] = {}
        """Name -> offsets of the blocks that read it."""
        for offset, block in blocks.items():
            for statement in block.body:
                if isinstance(statement, numba_ir.Assign):
                    name = statement.target.name
                    self.defined[name] = None if name in self.defined else statement.value
                for var in _read(statement):
                    self.readers.setdefault(var, set()).add(offset)

    def resolve(self, var: Any) -> Any:
        """The expression, constant or global that a name stands for; None if several."""
        while isinstance(var, numba_ir.Var):
            var = self.defined.get(var.name)
        return var

    def loop(self, head: int) -> VectorLoop:
        """The loop at a head; raises ``_Unfit``."""
        branch = self.blocks[head].body[-1]
        step = next(self.blocks[head].find_exprs("iternext"), None)
        if step is None or not isinstance(branch, numba_ir.Branch):
            raise _Unfit
        body = self.blocks[branch.truebr]
        jump = body.body[-1]
        if not isinstance(jump, numba_ir.Jump) or jump.target not in self._heads(head):
            raise _Unfit
        made = self.resolve(self.resolve(step.value).value)
        if made is None or len(made.args) > 2 or made.op != "call":
            raise _Unfit
        loop = VectorLoop(head, branch.truebr, branch.falsebr, tuple(made.args), [])
        self._classify(loop, body.body[:-1])
        return loop

    def _heads(self, head: int) -> set[int]:
        """The head and the blocks that only jump there."""
        return {head} | {offset for offset, block in self.blocks.items()
                         if len(block.body) == 1 and isinstance(block.body[0], numba_ir.Jump)
                         and block.body[0].target == head}

    def _classify(self, loop: VectorLoop, statements: list[Any]) -> None:
        inside = {loop.head, loop.body}
        places: dict[int, set[str]] = {}  # alias tag -> names of the positions in it
        stored: set[int] = set()
        for statement in statements:
            if isinstance(statement, (numba_ir.Del, numba_ir.PopBlock)):
                continue
            if not isinstance(statement, numba_ir.Assign):
                raise _Unfit
            name, value = statement.target.name, statement.value
            loop.statements.append(statement)
            word, args = self._word(value)
            if word in _REDUCTIONS and args[0].name == name:
                self._reduction(loop, statements, statement, word)
                continue
            if self.defined[name] is None or self.readers.get(name, inside) - inside:
                raise _Unfit
            if word in ("ld", "st"):
                pointer = self.types[args[0].name]
                places.setdefault(pointer.tag, set()).add(args[1].name)
                stored |= {pointer.tag} if word == "st" else set()
            loop.words[name] = word
            loop.kinds[name] = self._kind(loop, value, word, args)
        shared = stored and loop.head not in self.parallel
        if shared and any(len(places[tag]) > 1 for tag in stored):
            raise _Unfit  # what one iteration writes, another one may read
        if any(self._scalar_load(loop, s.value, stored) for s in loop.statements):
            raise _Unfit
        if not stored and not loop.reductions:
            raise _Unfit
        if loop.reductions and len(loop.reductions) < CHAINS and not self._few(loop):
            raise _Unfit

    def _few(self, loop: VectorLoop) -> bool:
        ends = [self.resolve(b) for b in loop.bounds]
        return all(_is_number(e) for e in ends) and (
            len(range(*(e.value for e in ends))) <= FEW * self.width)

    def _scalar_load(self, loop: VectorLoop, value: Any, stored: set[int]) -> bool:
        """Whether one element of what the loop writes is read."""
        word, args = self._word(value)
        return word == "ld" and self.types[args[0].name].tag in stored and (
            self._of(loop, args[1]) == "scalar")

    def _word(self, value: Any) -> tuple[str, list[Any]]:
        """Name and operands of a call; "" of anything else."""
        if not isinstance(value, numba_ir.Expr) or value.op != "call":
            return "", []
        function = self.resolve(value.func)
        return (function.name if isinstance(function, numba_ir.Global) else ""), list(value.args)

    def _of(self, loop: VectorLoop, var: Any) -> str:
        if var.name in loop.reductions:
            raise _Unfit
        return loop.kinds.get(var.name, "scalar")

    def _reduction(self, loop: VectorLoop, statements: list[Any], at: Any, word: str) -> None:
        """A partial result: read and written by this statement alone."""
        name = at.target.name
        uses = sum(name in _read(s) or s.target.name == name for s in statements
                   if isinstance(s, numba_ir.Assign))
        fits = self.types[name] == types.float32 and self._of(loop, at.value.args[1]) == "vector"
        if uses != 1 or not fits or name in loop.reductions:
            raise _Unfit
        loop.reductions[name] = word

    def _kind(self, loop: VectorLoop, value: Any, word: str, args: list[Any]) -> str:
        """The kind of what a statement computes."""
        if isinstance(value, numba_ir.Var):
            first = self.resolve(value)
            if isinstance(first, numba_ir.Expr) and first.op == "pair_first" and (
                    self.resolve(first.value) in self.blocks[loop.head].find_exprs("iternext")):
                return "index"
            return self._of(loop, value)
        if not isinstance(value, numba_ir.Expr):
            return "scalar"
        operands = [self._of(loop, v) for v in (args if word else value.list_vars())]
        if word in ("st", "ld"):
            if operands[1] == "index" and self.types[args[0].name].dtype == "f32":
                return "vector"
            if word == "ld" and operands[1] == "scalar":
                return "scalar"
            raise _Unfit
        if all(kind == "scalar" for kind in operands):
            if word in ("stb", "claim", "ccall") or not word and value.op not in ("binop", "cast"):
                raise _Unfit
            return "scalar"
        kinds = {types.unliteral(self.types[v.name]) for v in (args or value.list_vars())}
        if word in _WORDS and kinds <= set(_LANE_TYPES) and "index" not in operands:
            return "vector"
        if value.op != "binop":
            raise _Unfit
        if kinds == {types.float32} and value.fn in _OPERATORS:
            return "vector"
        if kinds == {types.int64} and (value.fn is operator.add and "scalar" in operands
                                       or value.fn is operator.sub and operands[1] == "scalar"):
            return "index"
        raise _Unfit


def _read(statement: Any) -> set[str]:
    """Names that a statement reads."""
    if isinstance(statement, numba_ir.Assign):
        value = statement.value
        if isinstance(value, numba_ir.Var):
            return {value.name}
        return {v.name for v in value.list_vars()} if isinstance(value, numba_ir.Expr) else set()
    return {v.name for v in statement.list_vars()} - set(
        [statement.target.name] if isinstance(statement, numba_ir.Del) else [])


def _is_number(value: Any) -> bool:
    return isinstance(value, numba_ir.Const) and type(value.value) is int


def find(blocks: dict[int, Any], typemap: dict[str, Any], short: set[int], parallel: set[int],
         width: int) -> dict[int, VectorLoop]:
    """Head -> loop that is computed on vectors of ``width``. ``short`` are heads of loops that are
    unrolled for the one around them, ``parallel`` of those whose iterations are independent."""
    finder, found = _Finder(blocks, typemap, parallel, width), {}
    for head in blocks.keys() - short:
        with contextlib.suppress(_Unfit):
            found[head] = finder.loop(head)
    return found


# -- code ----------------------------------------------------------------------------------------


class VectorWriter:
    """Writes one loop at the builder's position, with the front end's lowering for scalars."""

    def __init__(self, lower: Any, loop: VectorLoop, width: int) -> None:
        self.lower, self.loop, self.width = lower, loop, width
        self.b: ir.IRBuilder = lower.builder
        self.vector = ir.VectorType(F32, width)
        self.truths = ir.VectorType(I1, width)
        self.partial: dict[str, Any] = {}
        """Stack slots of partial results, which LLVM makes registers."""
        self.nans: dict[str, Any] = {}
        """Stack slots: lanes of a largest or smallest element that were NaN."""

    def write(self) -> None:
        """The whole loop; the builder is left behind it."""
        for name, word in self.loop.reductions.items():
            self._start(name, word)
        ends = [self.lower.loadvar(v.name) for v in self.loop.bounds]
        start, stop = ends if len(ends) == 2 else (ir.Constant(I64, 0), ends[0])
        if isinstance(start, ir.Constant) and isinstance(stop, ir.Constant):
            self._known(start.constant, stop.constant)
        else:
            self._unknown(start, stop)
        for name, word in self.loop.reductions.items():
            self.lower.storevar(self._finished(name, word), name)

    def _known(self, start: int, stop: int) -> None:
        whole, rest = divmod(max(stop - start, 0), self.width)
        end = start + whole * self.width
        if whole <= FEW:
            for at in range(start, end, self.width):
                self._body(ir.Constant(I64, at), None)
        else:
            self._loop(ir.Constant(I64, start), ir.Constant(I64, end))
        if rest:
            self._body(ir.Constant(I64, end),
                       ir.Constant(self.truths, [k < rest for k in range(self.width)]))

    def _unknown(self, start: Any, stop: Any) -> None:
        b, lanes = self.b, ir.Constant(I64, self.width)
        size = b.sub(stop, start, flags=("nsw",))
        size = call(b, "llvm.smax.i64", I64, [size, ir.Constant(I64, 0)])
        rest = b.and_(size, ir.Constant(I64, self.width - 1))
        whole = b.sub(size, rest)
        end = b.add(start, whole, flags=("nsw",))
        loop, between, tail, after = (b.append_basic_block() for _ in range(4))
        b.cbranch(b.icmp_unsigned(">=", size, lanes), loop, between)
        b.position_at_end(loop)
        self._loop(start, end)
        b.branch(between)
        b.position_at_end(between)
        b.cbranch(b.icmp_unsigned("!=", rest, ir.Constant(I64, 0)), tail, after)
        b.position_at_end(tail)
        ones = ir.IntType(self.width)
        bits = b.sub(b.shl(ir.Constant(I32, 1), b.trunc(rest, I32)), ir.Constant(I32, 1))
        self._body(end, b.bitcast(b.trunc(bits, ones), self.truths))
        b.branch(after)
        b.position_at_end(after)

    def _loop(self, start: Any, end: Any) -> None:
        """Whole vectors from ``start`` to ``end``, at least one."""
        b = self.b
        entry, loop, after = b.block, b.append_basic_block(), b.append_basic_block()
        b.branch(loop)
        b.position_at_end(loop)
        index = b.phi(I64)
        self._body(index, None)
        following = b.add(index, ir.Constant(I64, self.width), flags=("nsw",))
        index.add_incoming(start, entry)
        index.add_incoming(following, b.block)
        b.cbranch(b.icmp_signed("<", following, end), loop, after)
        b.position_at_end(after)

    def _body(self, index: Any, mask: Any) -> None:
        """One vector of iterations from ``index`` on, of which those in ``mask`` count."""
        values: dict[str, Any] = {}
        for statement in self.loop.statements:
            name, value = statement.target.name, statement.value
            if name in self.loop.reductions:
                self._accumulate(name, self._value(value.args[1], values), mask)
            elif self.loop.kinds[name] == "vector":
                values[name] = self._vector(self.loop.words[name], value, values, mask)
            elif isinstance(value, numba_ir.Var) and value.name not in self.loop.kinds and (
                    self.loop.kinds[name] == "index"):
                self.lower.storevar(index, name)
            else:
                self.lower.lower_inst(statement)

    def _value(self, var: Any, values: dict[str, Any]) -> Any:
        """A name as a vector."""
        if var.name in values:
            return values[var.name]
        kind = self.lower.typeof(var.name)
        scalar = self.lower.loadvar(var.name)
        if types.unliteral(kind) not in _LANE_TYPES:
            raise AssertionError(f"{var.name} of type {kind} in a vector loop")
        return self._splat(scalar)

    def _splat(self, scalar: Any) -> Any:
        kind = ir.VectorType(scalar.type, self.width)
        if isinstance(scalar, ir.Constant):
            return constant(kind, scalar.constant)
        b, none = self.b, ir.Constant(kind, ir.Undefined)
        first = b.insert_element(none, scalar, ir.Constant(I32, 0))
        return b.shuffle_vector(first, none, constant(ir.VectorType(I32, self.width), 0))

    def _vector(self, word: str, value: Any, values: dict[str, Any], mask: Any) -> Any:
        if isinstance(value, numba_ir.Var):
            return self._value(value, values)
        if value.op == "binop":
            word, args = _OPERATORS[value.fn], [value.lhs, value.rhs]
        else:
            args = list(value.args)
        if word in ("ld", "st"):
            return self._access(word, args, values, mask)
        return EMITTERS[word](self.b, types.float32, *(self._value(a, values) for a in args))

    def _access(self, word: str, args: list[Any], values: dict[str, Any], mask: Any) -> Any:
        """A load or a store."""
        b, pointer = self.b, self.lower.typeof(args[0].name)
        assert isinstance(pointer, Pointer)
        at = b.gep(self.lower.loadvar(args[0].name), [self.lower.loadvar(args[1].name)])
        at = b.bitcast(at, self.vector.as_pointer())
        short, align = suffix(self.vector), ir.Constant(I32, 4)
        if word == "ld":
            if mask is None:
                return mark(b, b.load(at, align=4), pointer.tag)
            zero = constant(self.vector, 0.0)
            loaded = call(b, f"llvm.masked.load.{short}.p0", self.vector, [at, align, mask, zero])
            return mark(b, loaded, pointer.tag)
        value = self._value(args[2], values)
        if mask is None:
            return mark(b, b.store(value, at, align=4), pointer.tag)
        kind = ir.VoidType()
        stored = call(b, f"llvm.masked.store.{short}.p0", kind, [value, at, align, mask])
        return mark(b, stored, pointer.tag)

    # -- reductions ------------------------------------------------------------------------

    def _slot(self, value: Any) -> Any:
        slot = self.lower.alloca_lltype("", value.type)
        self.b.store(value, slot)
        return slot

    def _start(self, name: str, word: str) -> None:
        before = self.lower.loadvar(name)
        vector = constant(self.vector, _REDUCTIONS[word])
        vector = self.b.insert_element(vector, before, ir.Constant(I32, 0))
        self.partial[name] = self._slot(vector)
        if word != "radd":
            self.nans[name] = self._slot(self.b.fcmp_unordered("uno", vector, vector))

    def _accumulate(self, name: str, value: Any, mask: Any) -> None:
        b, slot = self.b, self.partial[name]
        before, word = b.load(slot), self.loop.reductions[name]
        if word == "radd":
            after = EMITTERS[word](b, types.float32, before, value)
        else:
            after = self._extreme(word, value, before)
            nan = b.fcmp_unordered("uno", value, value)
            nan = nan if mask is None else b.and_(nan, mask)
            b.store(b.or_(b.load(self.nans[name]), nan), self.nans[name])
        b.store(after if mask is None else b.select(mask, after, before), slot)

    def _extreme(self, word: str, value: Any, before: Any) -> Any:
        """The larger or smaller one, ``before`` where one is NaN: one instruction."""
        sign = ">" if word == "fmax" else "<"
        return self.b.select(self.b.fcmp_ordered(sign, value, before), value, before)

    def _finished(self, name: str, word: str) -> Any:
        """All lanes as one number."""
        b, vector = self.b, self.b.load(self.partial[name])
        if word == "radd":
            full = f"llvm.vector.reduce.fadd.{suffix(self.vector)}"
            return call(b, full, F32, [ir.Constant(F32, -0.0), vector], fastmath=("reassoc",))
        width = self.width
        while width > 1:
            width //= 2
            halves = [ir.Constant(ir.VectorType(I32, width), list(range(k, k + width)))
                      for k in (0, width)]
            low, high = (b.shuffle_vector(vector, vector, half) for half in halves)
            vector = self._extreme(word, high, low)
        best = b.extract_element(vector, ir.Constant(I32, 0))
        bits = ir.IntType(self.width)
        nan = b.icmp_unsigned("!=", b.bitcast(b.load(self.nans[name]), bits), ir.Constant(bits, 0))
        return b.select(nan, ir.Constant(F32, float("nan")), best)
