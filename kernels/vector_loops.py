"""Which innermost loops become vectors (``vectors``), and what the expressions in them are.

*Scalars* are the same in every lane, *indices* are one more from lane to lane, *vectors* are
float32 or truth values. What fits no kind leaves the loop to LLVM; so does what one iteration
writes and another may read. A reduction has a vector of partial results; where there are fewer than
``CHAINS`` of them and the row is long, each would wait for itself, and LLVM, which makes several,
does better.

Scalars that are the same expression of the sums of ``ROWS`` rows are a *family*: one vector with a
row per lane (superword-level parallelism, S. Larsen and S. Amarasinghe, 2000).
"""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from llvmlite import ir

from . import machine_types as types
from .machine_types import Pointer
from .words import I64

if TYPE_CHECKING:
    from .frontend import Lowerer

CHAINS = 4
"""Partial results that hide an addition's latency."""
ROWS = 4
"""Rows whose sums, and what follows from them, are computed as one vector."""
FEW = 4
"""Vectors of a row of known length up to which there is no loop."""
_WORDS = frozenset(
    {"fabs", "sqrt", "neg", "copysign", "rint", "floor", "ceil", "trunc", "fmax", "fmin", "fma",
     "exp", "log", "tanh", "sigmoid", "erf", "erfc", "select", "eq", "ne", "lt", "le", "gt", "ge",
     "band", "bor", "bxor", "bnot", "isnan", "radd", "rmul"}
)  # fmt: skip
"""Words that compute on vectors."""
COMPARISONS: dict[type[ast.cmpop], str] = {ast.Lt: "<", ast.LtE: "<=", ast.Gt: ">", ast.GtE: ">="}
"""Operator that compares an index with a scalar -> how LLVM calls it."""
_ACCESSES = ("ld", "ldm", "st")
OPERATORS: dict[type[ast.operator], str] = {
    ast.Add: "fadd", ast.Sub: "fsub", ast.Mult: "fmul", ast.Div: "fdiv"
}
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
    """The rows' names, as far as they have some; of operands one name where all have the same."""


class Seen(NamedTuple):
    """What an expression is."""

    kind: str
    """"scalar", "index" or "vector"."""
    type: types.Type
    """Its type, in one lane."""


class _Unfit(Exception):
    """The loop is left to LLVM; the message is the reason."""


class VectorLoop:
    """A loop whose body is computed on vectors; raises ``_Unfit``."""

    def __init__(self, lower: Lowerer, statement: ast.For, bounds: Sequence[Any], parallel: bool
                 ) -> None:
        """``bounds``: the values of ``stop`` or of ``start, stop``."""
        if any(isinstance(line, (ast.For, ast.While, ast.If)) for line in statement.body):
            raise _Unfit("there are loops or branches in it")
        if len(bounds) > 2:
            raise _Unfit("its steps are not of 1")
        self._lower, self.body = lower, statement.body
        start, stop = bounds if len(bounds) == 2 else (ir.Constant(I64, 0), *bounds)
        self.bounds: tuple[Any, Any] = start, stop
        assert isinstance(statement.target, ast.Name)
        self.index = statement.target.id
        self.kinds: dict[str, Seen] = {self.index: Seen("index", types.int64)}
        """What the names are that the body defines."""
        self.reductions: dict[str, str] = {}
        """Name -> word that combines its partial results; those of a kind follow one another."""
        self._terms: dict[str, ast.expr] = {}
        """Name of a reduction -> what is combined into it."""
        self.seen: dict[ast.expr, Seen] = {}
        """What every expression is."""
        self._reads = Counter(_reads(self.body))
        self._places: dict[int, set[str]] = {}
        """Alias tag -> the positions in it, as text."""
        self._stored: set[int] = set()
        """Alias tags that are written."""
        self._single: set[int] = set()
        """Alias tags of which single elements are read."""
        self._local(self.index)
        for line in self.body:
            self._statement(line)
        if not parallel and any(len(self._places[tag]) > 1 for tag in self._stored):
            raise _Unfit("what one iteration writes, another one may read")
        if self._single & self._stored:
            raise _Unfit("one element of what it writes is read by all iterations")
        if not self._stored and not self.reductions:
            raise _Unfit("it writes nothing")
        self._sort()
        if self.reductions and len(self.reductions) < CHAINS and not self._few():
            raise _Unfit(f"each of fewer than {CHAINS} partial results would wait for itself")

    def _sort(self) -> None:
        """Reductions of terms that look alike follow one another."""
        places: dict[Any, int] = {}
        at = {name: places.setdefault((self.reductions[name], self._likeness(term)), len(places))
              for name, term in self._terms.items()}
        self.reductions = dict(sorted(self.reductions.items(), key=lambda item: at[item[0]]))

    def _likeness(self, node: ast.expr) -> Any:
        """What an expression looks like, through names, but for where it reads."""
        word, args = _operation(self._lower, node)
        if word:
            return (word, *map(self._likeness, args))
        return "ld" if _is_load(self._lower, node) else ast.dump(node)

    @property
    def words(self) -> list[str]:
        """The words and operators that compute vectors, each as often as it is written."""
        found = []
        for node, (kind, _) in self.seen.items():
            match node:
                case ast.Call(func=ast.Name(id=word)) if kind == "vector":
                    found.append(word)
                case ast.BinOp(op=op) if kind == "vector":
                    found.append(OPERATORS[type(op)])
                case ast.Compare() if kind == "vector":
                    found.append("compare")
        return found

    def _few(self) -> bool:
        start, stop = self.bounds
        known = isinstance(start, ir.Constant) and isinstance(stop, ir.Constant)
        return known and stop.constant - start.constant <= FEW * self._lower.lanes

    def _statement(self, line: ast.stmt) -> None:
        match line:
            case ast.Assign(
                targets=[ast.Name(id=name)],
                value=ast.Call(func=ast.Name(id=word), args=[ast.Name(id=before), value]),
            ) if before == name and word in REDUCTIONS:
                self._reduction(name, word, value)
            case ast.Assign(targets=[ast.Name(id=name)], value=value):
                self._local(name)
                self.kinds[name] = self._see(value)
            case ast.Expr(value=value):
                self._see(value)
            case _:
                raise _Unfit(f"there is a statement {ast.unparse(line)} in it")

    def _local(self, name: str) -> None:
        """Nothing else defines the name, and nothing outside the loop reads it."""
        if self._lower.definitions[name] > 1 or self._lower.reads[name] > self._reads[name]:
            raise _Unfit(f"{name} is assigned or read elsewhere, too")

    def _reduction(self, name: str, word: str, value: ast.expr) -> None:
        """A partial result: read and written by this statement alone."""
        writes = sum(isinstance(s, ast.Assign) and isinstance(s.targets[0], ast.Name)
                     and s.targets[0].id == name for s in self.body)
        before = self._lower.names.get(name)
        used = self._reads[name] == writes == 1 and name not in self.kinds
        fits = before is not None and before.kind is types.float32
        if not used or not fits or self._see(value) != ("vector", types.float32):
            raise _Unfit(f"the partial result {name} is no float32 or is used elsewhere, too")
        self.reductions[name], self._terms[name] = word, value

    def _see(self, node: ast.expr) -> Seen:
        """What an expression is."""
        self.seen[node] = found = self._looked_at(node)
        return found

    def _looked_at(self, node: ast.expr) -> Seen:
        match node:
            case ast.Name(id=name):
                if name in self.kinds:
                    return self.kinds[name]
                if name in self.reductions:
                    raise _Unfit(f"the partial result {name} is read in it")
                return Seen("scalar", self._lower.defined(name).kind)
            case ast.Constant() | ast.UnaryOp(op=ast.USub(), operand=ast.Constant()):
                return Seen("scalar", self._lower.value(node).kind)
            case ast.Call(func=ast.Name(id=word), args=args, keywords=[]):
                return self._word(word, args)
            case ast.BinOp(left=left, op=op, right=right):
                return self._operator(op, self._see(left), self._see(right))
            case ast.Compare(left=left, ops=[op], comparators=[right]):
                return self._comparison(op, self._see(left), self._see(right))
        raise _Unfit(f"there is an expression {ast.unparse(node)} in it")

    def _word(self, word: str, args: list[ast.expr]) -> Seen:
        operands = [self._see(a) for a in args]
        result = self._lower.typed(word, *(o.type for o in operands))[0].return_type
        kinds = [o.kind for o in operands]
        pointer = operands[0].type if operands else None
        if word in (*_ACCESSES, "ldb") and isinstance(pointer, Pointer):
            self._places.setdefault(pointer.tag, set()).add(
                f"{ast.dump(args[0])}[{ast.dump(args[1])}]")
            return Seen(self._access(word, pointer, kinds[1]), result)
        if all(kind == "scalar" for kind in kinds):
            if word in ("stb", "claim", "ccall"):
                raise _Unfit(f"{word} of scalars in it")
            return Seen("scalar", result)
        lanes = all(types.unliteral(o.type) in LANE_TYPES for o in operands)
        if word in _WORDS and lanes and "index" not in kinds:
            return Seen("vector", result)
        raise _no_vectors(word, *operands)

    def _access(self, word: str, pointer: Pointer, position: str) -> str:
        """The kind of a load or a store at a position of some kind."""
        if word == "st":
            self._stored.add(pointer.tag)
        if position == "index" and pointer.dtype == "f32" and word != "ldb":
            return "vector"
        if position == "scalar" and word in ("ld", "ldb"):
            self._single.add(pointer.tag)
            return "scalar"
        raise _Unfit(f"{word} of {pointer.dtype} at a position of kind {position}")

    def _operator(self, op: ast.operator, left: Seen, right: Seen) -> Seen:
        """``left op right``."""
        kinds, kind = (left.kind, right.kind), _common(left, right)
        if kinds == ("scalar", "scalar") and kind is not None:
            return Seen("scalar", kind)
        if kind is types.float32 and type(op) in OPERATORS:
            return Seen("vector", kind)
        if kind is types.int64 and (isinstance(op, ast.Add) and "scalar" in kinds
                                    or isinstance(op, ast.Sub) and right.kind == "scalar"):
            return Seen("index", kind)
        raise _no_vectors(type(op).__name__, left, right)

    def _comparison(self, op: ast.cmpop, left: Seen, right: Seen) -> Seen:
        """``left op right``, the truth of it."""
        kinds = {left.kind, right.kind}
        if kinds == {"scalar"}:
            return Seen("scalar", types.boolean)
        fits = kinds == {"index", "scalar"} and _common(left, right) is types.int64
        if fits and type(op) in COMPARISONS:
            return Seen("vector", types.boolean)
        raise _no_vectors(type(op).__name__, left, right)


def _common(left: Seen, right: Seen) -> types.Type | None:
    """The type of two operands; None where they have none in common."""
    a, b = (types.unliteral(v.type) for v in (left, right))
    return a if a is b and a in (types.int64, types.float32, types.float64) else None


def _no_vectors(what: str, *operands: Seen) -> _Unfit:
    of = ", ".join(f"{o.type} ({o.kind})" for o in operands)
    return _Unfit(f"{what} of {of} has no vectors")


def _reads(statements: Sequence[ast.stmt]) -> list[str]:
    """Names that are read, each as often as it is."""
    return [n.id for s in statements for n in ast.walk(s)
            if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Load)]


def find(lower: Lowerer, statement: ast.For, bounds: Sequence[Any], parallel: bool
         ) -> VectorLoop | str:
    """The loop, if it is to be computed on vectors of ``lower.lanes``; else why it is left to LLVM.
    ``bounds`` are its values of ``stop`` or ``start, stop`` (and ``step``); ``parallel``: its
    iterations are independent."""
    try:
        return VectorLoop(lower, statement, bounds, parallel)
    except _Unfit as reason:
        return str(reason)


# -- families --------------------------------------------------------------------------------------


def families(lower: Lowerer, loop: VectorLoop) -> list[Family]:
    """The families of scalars that a loop reads and that come from sums of loops before it."""
    alike: dict[Any, dict[str, ast.expr]] = {}
    for line in loop.body:
        for name in sorted({*_reads([line])} - loop.kinds.keys() - loop.reductions.keys()):
            shape = _shape(lower, node := ast.Name(name))
            if _sums(shape) and lower.names[name].kind is types.float32:
                alike.setdefault(shape, {})[name] = node
    found = []
    for nodes in alike.values():
        rows = list(nodes.values())
        for k in range(0, len(rows) - ROWS + 1, ROWS):
            family = _family(lower, rows[k:k + ROWS])
            found += [family] if family.word else []
    return found


def _shape(lower: Lowerer, node: ast.expr) -> Any:
    """What an expression looks like, through names, but for the sums in it; None where it is more
    than words on floats and truth values that do not change."""
    name = node.id if isinstance(node, ast.Name) else ""
    if name:
        if name not in lower.names or lower.names[name].kind not in LANE_TYPES:
            return None
        if _is_result(lower, name):
            return (lower.reductions[name],)
        if lower.definitions[name] != 1:
            return None
    word, args = _operation(lower, node)
    shapes = [_shape(lower, a) for a in args]
    if word and None not in shapes:
        return (word, *shapes)
    return ("ld",) if name and _is_load(lower, node) else name or None


def _sums(shape: Any) -> bool:
    """Whether a sum is in an expression of a shape."""
    return isinstance(shape, tuple) and (shape == ("radd",) or any(map(_sums, shape)))


def _is_result(lower: Lowerer, name: str) -> bool:
    """Whether a name is what a loop before reduced to: assigned there, and to start with."""
    return name in lower.reductions and lower.definitions[name] == 2


def _is_load(lower: Lowerer, node: ast.expr) -> bool:
    """Whether a name is an element that is loaded."""
    match lower.meant.get(node.id) if isinstance(node, ast.Name) else None:
        case ast.Call(func=ast.Name(id="ld")):
            return lower.definitions[node.id] == 1  # type: ignore[attr-defined]
    return False


def _operation(lower: Lowerer, node: ast.expr) -> tuple[str, list[ast.expr]]:
    """Word and operands of an expression, or of what a name stands for that is defined once; else
    ""."""
    if isinstance(node, ast.Name):
        meant = lower.meant.get(node.id) if lower.definitions[node.id] == 1 else None
    else:
        meant = node
    match meant:
        case ast.Call(func=ast.Name(id=word), args=args) if word in _WORDS:
            return word, args
        case ast.BinOp(left=left, op=op, right=right) if type(op) in OPERATORS:
            return OPERATORS[type(op)], [left, right]
    return "", []


def _family(lower: Lowerer, rows: Sequence[ast.expr]) -> Family:
    """Expressions of one shape."""
    names = tuple(row.id for row in rows if isinstance(row, ast.Name))
    operations = [_operation(lower, row) for row in rows]
    if len(names) == len(rows) and (len(set(names)) == 1 or not operations[0][0]):
        return Family("", (), names[:1] if len(set(names)) == 1 else names)
    operands = zip(*(args for _, args in operations), strict=True)
    return Family(operations[0][0], tuple(_family(lower, r) for r in operands), names)
