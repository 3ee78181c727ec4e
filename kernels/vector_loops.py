"""Which innermost loops become vectors (``vectors``), and what the names in them are.

*Scalars* are the same in every lane, *indices* are one more from lane to lane, *vectors* are
float32 or truth values. What fits no kind leaves the loop to LLVM; so does what one iteration
writes and another may read. A reduction has a vector of partial results; where there are fewer than
``CHAINS`` of them and the row is long, each would wait for itself, and LLVM, which makes several,
does better.

Scalars that are the same expression of the sums of ``ROWS`` rows are a *family*: one vector with a
row per lane (superword-level parallelism, S. Larsen and S. Amarasinghe, 2000).
"""

from __future__ import annotations

import operator
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from numba.core import ir as numba_ir
from numba.core import types

CHAINS = 4
"""Partial results that hide an addition's latency."""
ROWS = 4
"""Rows whose sums, and what follows from them, are computed as one vector."""
FEW = 4
"""Vectors of a row of known length up to which there is no loop."""
_WORDS = frozenset(
    {"fabs", "sqrt", "neg", "copysign", "rint", "floor", "ceil", "trunc", "fmax", "fmin", "fma",
     "exp", "log", "tanh", "sigmoid", "erf", "erfc", "select", "eq", "ne", "lt", "le", "gt", "ge",
     "band", "bor", "bxor", "bnot", "isnan"}
)  # fmt: skip
"""Words that compute on vectors."""
COMPARISONS = {operator.lt: "<", operator.le: "<=", operator.gt: ">", operator.ge: ">="}
"""Operator that compares an index with a scalar -> how LLVM calls it."""
_ACCESSES = ("ld", "ldm", "st")
OPERATORS = {operator.add: "fadd", operator.sub: "fsub", operator.mul: "fmul",
             operator.truediv: "fdiv"}  # fmt: skip
"""Operator of floats -> the word for it."""
REDUCTIONS = {"radd": -0.0, "fmax": float("-inf"), "fmin": float("inf")}
"""Word that combines two partial results -> its neutral element."""
LANE_TYPES = (types.float32, types.boolean)
"""What a vector has in its lanes."""


@dataclass(frozen=True)
class Family:
    """The same expression of several rows: one vector with a row per lane."""

    word: str
    """What computes it of the operands; "" of names as they are."""
    operands: tuple[Family, ...]
    names: tuple[str, ...]
    """The rows' names; one name where all have the same."""


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
    """Name -> word that combines its partial results; those of a kind follow one another."""
    terms: dict[str, str] = field(default_factory=dict)
    """Name of a reduction -> name of what is combined into it."""
    words: dict[str, str] = field(default_factory=dict)
    """Name -> word that computes it."""
    families: list[Family] = field(default_factory=list)
    """Scalars from outside that are computed together."""


class _Unfit(Exception):
    """The loop is left to LLVM; the message is the reason."""


# -- which loops ---------------------------------------------------------------------------------


class _Finder:
    """Reads the blocks of a kernel."""

    def __init__(self, blocks: dict[int, Any], typemap: dict[str, Any], parallel: set[int],
                 width: int) -> None:
        self.blocks, self.types, self.parallel, self.width = blocks, typemap, parallel, width
        self.defined: dict[str, Any] = {}
        """Name -> what it is defined as; None where it is assigned more than once."""
        self.times: Counter[str] = Counter()
        """Name -> assignments."""
        self.readers: dict[str, set[int]] = {}
        """Name -> offsets of the blocks that read it."""
        for offset, block in blocks.items():
            for statement in block.body:
                if isinstance(statement, numba_ir.Assign):
                    name = statement.target.name
                    self.times[name] += 1
                    self.defined[name] = None if name in self.defined else statement.value
                for var in _read(statement):
                    self.readers.setdefault(var, set()).add(offset)

    def resolve(self, var: Any) -> Any:
        """The expression, constant or global that a name stands for; None if several."""
        while isinstance(var, numba_ir.Var):
            var = self.defined.get(var.name)
        return var

    def loop(self, head: int) -> VectorLoop:
        """The ``range`` loop at a head; raises ``_Unfit``."""
        branch = self.blocks[head].body[-1]
        step = next(self.blocks[head].find_exprs("iternext"))
        body = self.blocks[branch.truebr]
        jump = body.body[-1]
        if not isinstance(jump, numba_ir.Jump) or jump.target not in self._heads(head):
            raise _Unfit("there are loops or branches in it")
        made = self.resolve(self.resolve(step.value).value)
        if made is None or len(made.args) > 2 or made.op != "call":
            raise _Unfit("its steps are not of 1")
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
                raise _Unfit(f"there is a statement {statement} in it")
            name, value = statement.target.name, statement.value
            loop.statements.append(statement)
            word, args = self._word(value)
            if word in REDUCTIONS and args[0].name == name:
                self._reduction(loop, statements, statement, word)
                continue
            if self.defined[name] is None or self.readers.get(name, inside) - inside:
                raise _Unfit(f"{name} is assigned or read elsewhere, too")
            if word in _ACCESSES:
                pointer = self.types[args[0].name]
                places.setdefault(pointer.tag, set()).add(args[1].name)
                stored |= {pointer.tag} if word == "st" else set()
            loop.words[name] = word
            loop.kinds[name] = self._kind(loop, value, word, args)
        shared = stored and loop.head not in self.parallel
        if shared and any(len(places[tag]) > 1 for tag in stored):
            raise _Unfit("what one iteration writes, another one may read")
        if any(self._scalar_load(loop, s.value, stored) for s in loop.statements):
            raise _Unfit("one element of what it writes is read by all iterations")
        if not stored and not loop.reductions:
            raise _Unfit("it writes nothing")
        self._sort(loop)
        if loop.reductions and len(loop.reductions) < CHAINS and not self._few(loop):
            raise _Unfit(f"each of fewer than {CHAINS} partial results would wait for itself")

    def _sort(self, loop: VectorLoop) -> None:
        """Reductions of terms that look alike follow one another."""
        places: dict[Any, int] = {}
        at = {name: places.setdefault((loop.reductions[name], self._shape(term, {})), len(places))
              for name, term in loop.terms.items()}
        loop.reductions = dict(sorted(loop.reductions.items(), key=lambda item: at[item[0]]))

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
            raise _Unfit(f"the partial result {var.name} is read in it")
        return loop.kinds.get(var.name, "scalar")

    def _reduction(self, loop: VectorLoop, statements: list[Any], at: Any, word: str) -> None:
        """A partial result: read and written by this statement alone."""
        name = at.target.name
        uses = sum(name in _read(s) or s.target.name == name for s in statements
                   if isinstance(s, numba_ir.Assign))
        fits = self.types[name] == types.float32 and self._of(loop, at.value.args[1]) == "vector"
        if uses != 1 or not fits or name in loop.reductions:
            raise _Unfit(f"the partial result {name} is no float32 or is used elsewhere, too")
        loop.reductions[name] = word
        loop.terms[name] = at.value.args[1].name

    def _kind(self, loop: VectorLoop, value: Any, word: str, args: list[Any]) -> str:
        """The kind of what a statement computes."""
        if isinstance(value, numba_ir.Var):
            return "index" if self._is_variable(loop, value) else self._of(loop, value)
        if not isinstance(value, numba_ir.Expr):
            return "scalar"
        variables = args if word else value.list_vars()
        operands = [self._of(loop, v) for v in variables]
        if word in _ACCESSES:
            return self._kind_of_access(word, args, operands)
        if all(kind == "scalar" for kind in operands):
            if word in ("stb", "claim", "ccall") or not word and value.op not in ("binop", "cast"):
                raise _Unfit(f"{word or value.op} of scalars in it")
            return "scalar"
        kinds = {types.unliteral(self.types[v.name]) for v in variables}
        if word in _WORDS and kinds <= set(LANE_TYPES) and "index" not in operands:
            return "vector"
        if value.op == "binop":
            return self._kind_of_operator(value.fn, kinds, operands)
        of = ", ".join(sorted(map(str, kinds)))
        raise _Unfit(f"{word or value.op} of {of} ({', '.join(operands)}) has no vectors")

    def _is_variable(self, loop: VectorLoop, value: Any) -> bool:
        """Whether a name is the loop's variable."""
        first = self.resolve(value)
        return isinstance(first, numba_ir.Expr) and first.op == "pair_first" and (
            self.resolve(first.value) in self.blocks[loop.head].find_exprs("iternext"))

    def _kind_of_access(self, word: str, args: list[Any], operands: list[str]) -> str:
        """The kind of a load or a store."""
        dtype = self.types[args[0].name].dtype
        if operands[1] == "index" and dtype == "f32":
            return "vector"
        if word == "ld" and operands[1] == "scalar":
            return "scalar"
        raise _Unfit(f"{word} of {dtype} at a position of kind {operands[1]}")

    def _kind_of_operator(self, function: Any, kinds: set[Any], operands: list[str]) -> str:
        """The kind of ``a + b`` and the like, not both of them scalars."""
        if kinds == {types.float32} and function in OPERATORS:
            return "vector"
        if kinds == {types.int64} and operands.count("index") == operands.count("scalar") == 1:
            if function is operator.add or function is operator.sub and operands[1] == "scalar":
                return "index"
            if function in COMPARISONS:
                return "vector"
        of = ", ".join(sorted(map(str, kinds)))
        raise _Unfit(f"{function.__name__} of {of} ({', '.join(operands)}) has no vectors")

    # -- families --------------------------------------------------------------------------

    def families(self, loop: VectorLoop, reductions: dict[str, str]) -> list[Family]:
        """The families of scalars that a loop reads and that come from ``reductions``."""
        alike: dict[Any, dict[str, None]] = {}
        for statement in loop.statements:
            for name in sorted(_read(statement) - loop.kinds.keys() - loop.reductions.keys()):
                shape = self._shape(name, reductions)
                if self.types[name] == types.float32 and _sums(shape):
                    alike.setdefault(shape, {})[name] = None
        found = []
        for names in alike.values():
            rows = list(names)
            for k in range(0, len(rows) - ROWS + 1, ROWS):
                family = self._family(tuple(rows[k:k + ROWS]), reductions)
                found += [family] if family.word else []
        return found

    def _shape(self, name: str, reductions: dict[str, str]) -> Any:
        """What an expression looks like but for the reductions in it."""
        if name in reductions and self.times[name] == 2:  # the start, and the loop
            return (reductions[name],)
        word, args = self._operation(name)
        if not word:
            return ("ld",) if self._word(self.resolve(self.defined.get(name)))[0] == "ld" else name
        return (word, *(self._shape(a, reductions) for a in args))

    def _operation(self, name: str) -> tuple[str, list[str]]:
        """Word and operands of a name that computes on floats and truth values; else ""."""
        value = self.resolve(self.defined.get(name))
        word, args = self._word(value)
        if isinstance(value, numba_ir.Expr) and value.op == "binop" and value.fn in OPERATORS:
            word, args = OPERATORS[value.fn], [value.lhs, value.rhs]
        fits = word in _WORDS or word in OPERATORS.values()
        fits = fits and all(types.unliteral(self.types[a.name]) in LANE_TYPES for a in args)
        return (word, [a.name for a in args]) if fits else ("", [])

    def _family(self, names: tuple[str, ...], reductions: dict[str, str]) -> Family:
        if len(set(names)) == 1:
            return Family("", (), names[:1])
        operations = [self._operation(name) for name in names]
        if names[0] in reductions or not operations[0][0]:
            return Family("", (), names)
        rows = zip(*(args for _, args in operations), strict=True)
        return Family(operations[0][0], tuple(self._family(r, reductions) for r in rows), names)


def _sums(shape: Any) -> bool:
    """Whether a sum is in an expression of a shape."""
    return isinstance(shape, tuple) and (shape == ("radd",) or any(map(_sums, shape)))


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
         width: int) -> tuple[dict[int, VectorLoop], dict[int, str]]:
    """Head -> loop that is computed on vectors of ``width``; head -> why a loop is left to LLVM.
    ``short`` are heads of loops that are unrolled for the one around them, ``parallel`` of those
    whose iterations are independent."""
    finder, left = _Finder(blocks, typemap, parallel, width), {}
    found: dict[int, VectorLoop] = {}
    for head, block in blocks.items():
        if next(block.find_exprs("iternext"), None) is None:
            continue
        try:
            if head in short:
                raise _Unfit("it is unrolled")
            found[head] = finder.loop(head)
        except _Unfit as reason:
            left[head] = str(reason)
    reductions = {name: word for loop in found.values() for name, word in loop.reductions.items()}
    for loop in found.values():
        loop.families = finder.families(loop, reductions)
    return found, left
