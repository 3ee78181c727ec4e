"""Patterns: an expression in Python's syntax, read as maths, matched against the dataflow graph.

    x * 1                       commutative ops match either way round
    transpose(transpose(x, perm=p), perm=q)     attributes: a name captures, a literal must be equal
    conv(x, W, **a)             a capital is a constant; ``**a`` captures the other attributes
    (d := x - mean(x, axes=a)) * d              ``:=`` names a part; it is the same value everywhere
    prod(x, 0.5, erf(y) + 1)    a product in any order and grouping, numbers multiplied together
    unary(f, x), binary(f, x, y)                any elementwise op, captured as ``f``
    concat(*xs, axis=a)         all operands at once
    attention(q, k, v, maybe_m)                 a name that begins with "maybe" may be absent

The matcher keeps a stack of goals (pattern, value). Only commutative operands and products branch;
a branch copies the bindings, so there is no undo. Expressions are trees, values are nodes of a
graph: a part that occurs twice is compared by identity, which is enough because builders intern.
"""

from __future__ import annotations

import ast
import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any, TypeAlias

from ..ir.errors import ParseError
from ..ir.graph import Attrs, Constants, Node, Value
from ..ir.ops import OPS
from .facts import scalar_of
from .products import factors_of, strip_scale

TOLERANCE = 2e-6
"""Relative difference allowed between a number in an approximate rule and the constant found."""

Env = dict[str, Any]
"""Bindings: values, tuples of values, attributes, ``Attrs``."""


@dataclass(frozen=True)
class Var:
    """Any value; the same name is the same value."""

    name: str

    @property
    def optional(self) -> bool:
        """Names that begin with ``maybe`` also match an absent operand."""
        return self.name.startswith("maybe")


@dataclass(frozen=True)
class Const:
    """Any constant of the table."""

    name: str


@dataclass(frozen=True)
class Number:
    """A constant all of whose elements are this number (zero's sign counts for floats)."""

    value: float


@dataclass(frozen=True)
class Absent:
    """An operand that is not there."""


@dataclass(frozen=True)
class Apply:
    """One application of an op (of any of ``ops``)."""

    ops: frozenset[str]
    args: tuple[Pattern, ...]
    attrs: tuple[tuple[str, str, Any], ...] = ()
    """(attribute, "is" or "as", literal or name to capture it under)."""
    rest: str | None = None
    """Name for all attributes that ``attrs`` does not mention."""
    star: str | None = None
    """Name for the tuple of all operands."""
    capture: str | None = None
    """Name for the op itself and its attributes (``unary``, ``binary``)."""
    name: str | None = None
    commutative: bool = False


@dataclass(frozen=True)
class Product:
    """A product of parts in any order and grouping; ``number`` is the product of its numbers."""

    parts: tuple[Pattern, ...]
    number: float = 1.0
    name: str | None = None


Pattern: TypeAlias = "Var | Const | Number | Absent | Apply | Product"

_UNARY = frozenset(n for n, o in OPS.items() if o.has("elementwise") and o.arity == (1, 1))
_BINARY = frozenset(n for n, o in OPS.items() if o.has("elementwise") and o.arity == (2, 2))
CLASSES = {"unary": _UNARY, "binary": _BINARY}
OPERATORS: dict[type, tuple[str, dict[str, Any]]] = {
    ast.Add: ("add", {}), ast.Sub: ("sub", {}), ast.Mult: ("mul", {}), ast.Div: ("div", {}),
    ast.Pow: ("pow", {}), ast.MatMult: ("dot", {"ta": False, "tb": False}), ast.USub: ("neg", {}),
    ast.Lt: ("lt", {}), ast.LtE: ("le", {}), ast.Eq: ("eq", {}),
}  # fmt: skip
ALIASES = {"land": "and", "lor": "or", "lnot": "not"}
"""Spellings of ops whose names are Python's keywords."""
REDUCTIONS = {"mean": "mean", "total": "sum", "largest": "max"}
"""``mean(x, axes=a)`` is ``reduce(x, kind="mean", axes=a, keepdims=True)``."""


# -- reading -----------------------------------------------------------------------------------


@cache
def parse_pattern(text: str) -> Pattern:
    """The pattern that ``text`` spells; raises ``ParseError``."""
    return _Reader(text).read()


def parse_expression(text: str) -> ast.expr:
    """The syntax tree of one expression; raises ``ParseError``."""
    try:
        return ast.parse(text, mode="eval").body
    except SyntaxError as e:
        raise ParseError(f"not an expression: {text!r}: {e}") from None


def number_of(tree: ast.expr) -> float | None:
    """The number that a literal (maybe negated) spells, else None."""
    if isinstance(tree, ast.Constant) and isinstance(tree.value, (int, float)):
        return tree.value
    if isinstance(tree, ast.UnaryOp) and isinstance(tree.op, ast.USub):
        inner = number_of(tree.operand)
        return None if inner is None else (-0.0 if inner == 0 else -inner)
    if isinstance(tree, ast.Name) and tree.id == "inf":
        return math.inf
    return None


class _Reader:
    """Turns a syntax tree into a pattern; named parts are shared by name."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.named: dict[str, Pattern] = {}

    def read(self) -> Pattern:
        return self.pattern(parse_expression(self.text))

    def fail(self, what: str) -> ParseError:
        return ParseError(f"{what} in pattern {self.text!r}")

    def pattern(self, tree: ast.expr) -> Pattern:
        number = number_of(tree)
        if number is not None:
            return Number(number)
        if isinstance(tree, ast.Name):
            if tree.id in self.named:
                return self.named[tree.id]
            if tree.id == "none":
                return Absent()
            return Const(tree.id) if tree.id[0].isupper() else Var(tree.id)
        if isinstance(tree, ast.NamedExpr):
            return self.name_part(tree)
        if isinstance(tree, ast.BinOp) and type(tree.op) in OPERATORS:
            return self.operator(tree.op, (tree.left, tree.right))
        if isinstance(tree, ast.UnaryOp) and type(tree.op) in OPERATORS:
            return self.operator(tree.op, (tree.operand,))
        if isinstance(tree, ast.Compare) and len(tree.ops) == 1 and type(tree.ops[0]) in OPERATORS:
            return self.operator(tree.ops[0], (tree.left, tree.comparators[0]))
        if isinstance(tree, ast.Call) and isinstance(tree.func, ast.Name):
            return self.call(tree, tree.func.id)
        raise self.fail(f"cannot read {ast.unparse(tree)!r}")

    def name_part(self, tree: ast.NamedExpr) -> Pattern:
        inner = self.pattern(tree.value)
        if not isinstance(inner, (Apply, Product)):
            raise self.fail(f"{tree.target.id} must name an operation")
        values = {**inner.__dict__, "name": tree.target.id}
        named: Pattern = type(inner)(**values)
        self.named[tree.target.id] = named
        return named

    def operator(self, op: ast.AST, operands: tuple[ast.expr, ...]) -> Pattern:
        name, attrs = OPERATORS[type(op)]
        literal = tuple((k, "is", v) for k, v in attrs.items())
        return self.apply(frozenset({name}), tuple(self.pattern(o) for o in operands), literal)

    def apply(
        self, ops: frozenset[str], args: tuple[Pattern, ...], attrs: tuple[Any, ...], **more: Any
    ) -> Apply:
        commutative = len(args) == 2 and len(ops) == 1 and OPS[next(iter(ops))].has("commutative")
        return Apply(ops, args, attrs, commutative=commutative, **more)

    def call(self, tree: ast.Call, name: str) -> Pattern:
        name = ALIASES.get(name, name)
        if name == "prod":
            return self.product([self.pattern(a) for a in tree.args])
        attrs, rest = self.attributes(tree)
        if name in REDUCTIONS:
            attrs = (*attrs, ("kind", "is", REDUCTIONS[name]), ("keepdims", "is", True))
            name = "reduce"
        args, capture = list(tree.args), None
        if name in CLASSES:
            head = args.pop(0)
            if not isinstance(head, ast.Name):
                raise self.fail(f"{name} needs a name for its op")
            capture = head.id
        if len(args) == 1 and isinstance(args[0], ast.Starred):
            inner = args[0].value
            assert isinstance(inner, ast.Name)
            return self.apply(frozenset({name}), (), attrs, rest=rest, star=inner.id)
        if name not in OPS and name not in CLASSES:
            raise self.fail(f"no op {name!r}")
        ops = CLASSES.get(name) or frozenset({name})
        parts = tuple(self.pattern(a) for a in args)
        return self.apply(ops, parts, attrs, rest=rest, capture=capture)

    def attributes(self, tree: ast.Call) -> tuple[tuple[tuple[str, str, Any], ...], str | None]:
        attrs: list[tuple[str, str, Any]] = []
        rest = None
        for keyword in tree.keywords:
            value = keyword.value
            if keyword.arg is None:
                assert isinstance(value, ast.Name)
                rest = value.id
            elif isinstance(value, ast.Name):
                attrs.append((keyword.arg, "as", value.id))
            else:
                attrs.append((keyword.arg, "is", ast.literal_eval(value)))
        return tuple(attrs), rest

    def product(self, parts: list[Pattern]) -> Product:
        number = math.prod(p.value for p in parts if isinstance(p, Number))
        return Product(tuple(p for p in parts if not isinstance(p, Number)), number)


# -- matching ----------------------------------------------------------------------------------


@dataclass
class Trace:
    """Why a match failed: the reason found deepest in the pattern."""

    depth: int = -1
    reason: str = ""

    def note(self, depth: int, reason: str) -> None:
        if depth > self.depth:
            self.depth, self.reason = depth, reason


Goals: TypeAlias = "tuple[Any, Any, Any] | None"
"""A linked list of (pattern, value, rest)."""


@dataclass
class Matcher:
    """Matches one pattern; holds what does not change while it looks."""

    constants: Constants
    exact: bool = True
    trace: Trace | None = None

    def match(self, pattern: Pattern, value: Value) -> tuple[Env, tuple[Node, ...]] | None:
        """(bindings, matched nodes with the root first), or None."""
        return self._solve((pattern, value, None), {}, ())

    def _fail(self, seen: tuple[Node, ...], pattern: Pattern, value: Any) -> None:
        if self.trace is not None:
            found = value.node.op if isinstance(value, Value) else "nothing"
            self.trace.note(len(seen), f"needs {show(pattern)}, found {found}")

    def _solve(
        self, goals: Goals, env: Env, seen: tuple[Node, ...]
    ) -> tuple[Env, tuple[Node, ...]] | None:
        deferred: set[int] = set()
        while goals is not None:
            pattern, value, goals = goals
            kind = type(pattern)
            if kind is Apply:
                step = self._apply(pattern, value, goals, env, seen)
                if step is None:
                    self._fail(seen, pattern, value)
                    return None
                if step[0] == "done":
                    return step[1]
                goals, seen = step[1], step[2]
            elif kind is Product:
                if goals is not None and id(pattern) not in deferred and _unbound(pattern, env):
                    deferred.add(id(pattern))
                    goals = _append(goals, pattern, value)
                    continue
                return self._product(pattern, value, goals, env, seen)
            elif not self._leaf(pattern, value, env):
                self._fail(seen, pattern, value)
                return None
        return env, seen

    def _leaf(self, pattern: Pattern, value: Value | None, env: Env) -> bool:
        if isinstance(pattern, Absent):
            return value is None
        if value is None:
            return isinstance(pattern, Var) and pattern.optional and env.setdefault(
                pattern.name, None) is None
        if isinstance(pattern, Number):
            return self._equals(pattern.value, value)
        assert isinstance(pattern, (Var, Const))
        if isinstance(pattern, Const) and value.node.op != "const":
            return False
        bound = env.setdefault(pattern.name, value)
        return bound is value or bound == value

    def _equals(self, number: float, value: Value) -> bool:
        found = scalar_of(self.constants, value)
        if found is None:
            return False
        return close(number, found, value.dtype.np, self.exact)

    def _apply(
        self, pattern: Apply, value: Value | None, goals: Goals, env: Env, seen: tuple[Node, ...]
    ) -> Any:
        """None, ("done", result) after a branch, or ("on", goals, seen)."""
        if value is None:
            return None
        node = value.node
        if node.op not in pattern.ops or len(node.types) != 1:
            return None
        if pattern.name is not None:
            bound = env.setdefault(pattern.name, value)
            if bound != value:
                return None
        if not _attributes(pattern, node, env):
            return None
        inner = seen if node in seen else (*seen, node)
        if pattern.star is not None:
            if env.setdefault(pattern.star, node.inputs) != node.inputs:
                return None
            return "on", goals, inner
        if len(node.inputs) != len(pattern.args):
            return None
        if pattern.commutative:
            return self._commute(pattern, node, goals, env, inner)
        for part, operand in zip(reversed(pattern.args), reversed(node.inputs)):
            if not possible(part, operand):
                self._fail(inner, part, operand)
                return None
            goals = (part, operand, goals)
        return "on", goals, inner

    def _commute(
        self, pattern: Apply, node: Node, goals: Goals, env: Env, seen: tuple[Node, ...]
    ) -> Any:
        (p, q), (a, b) = pattern.args, node.inputs
        straight = possible(p, a) and possible(q, b)
        crossed = a != b and possible(p, b) and possible(q, a)
        if straight and crossed:
            result = self._solve((p, a, (q, b, goals)), dict(env), seen)
            if result is not None:
                return "done", result
        if not straight and not crossed:
            self._fail(seen, q if possible(p, a) else p, b)
            return None
        if crossed:
            a, b = b, a
        return "on", (p, a, (q, b, goals)), seen

    def _product(
        self, pattern: Product, value: Value, goals: Goals, env: Env, seen: tuple[Node, ...]
    ) -> tuple[Env, tuple[Node, ...]] | None:
        if pattern.name is not None and env.setdefault(pattern.name, value) != value:
            return None
        deep = [p for p in pattern.parts if isinstance(p, Apply)]
        plain = [p for p in pattern.parts if not isinstance(p, Apply)]
        if not deep and len(plain) == 1 and getattr(plain[0], "name", None) not in env:
            number, inner, nodes = strip_scale(self.constants, value)
            if not close(pattern.number, number, value.dtype.np, False) or number == 1.0:
                self._fail(seen, pattern, value)
                return None
            return self._solve((plain[0], inner, goals), env, _join(seen, nodes))
        number, factors, nodes = factors_of(self.constants, value)
        if len(factors) < len(deep):
            self._fail(seen, pattern, value)
            return None
        for chosen in itertools.permutations(range(len(factors)), len(deep)):
            if not all(possible(p, factors[i]) for p, i in zip(deep, chosen)):
                continue
            rest = [f for i, f in enumerate(factors) if i not in chosen]
            todo: Goals = (_Rest(tuple(plain), pattern.number), (number, rest), goals)
            for p, i in zip(deep, chosen):
                todo = (p, factors[i], todo)
            result = self._solve_rest(todo, dict(env), _join(seen, nodes))
            if result is not None:
                return result
        self._fail(seen, pattern, value)
        return None

    def _solve_rest(
        self, goals: Goals, env: Env, seen: tuple[Node, ...]
    ) -> tuple[Env, tuple[Node, ...]] | None:
        """Solves the parts of a product, then what is left of it against its plain parts."""
        before: list[tuple[Any, Any]] = []
        while goals is not None and not isinstance(goals[0], _Rest):
            before.append((goals[0], goals[1]))
            goals = goals[2]
        assert goals is not None
        rest, (number, left), after = goals
        todo: Goals = None
        for p, v in reversed(before):
            todo = (p, v, todo)
        solved = self._solve(todo, env, seen)
        if solved is None:
            return None
        env, seen = solved
        wanted = rest.number
        for part in rest.parts:
            bound = env.get(part.name)
            if bound is None:
                if not left or not self._leaf(part, left.pop(0), env):
                    return None
                continue
            scale, parts, _ = factors_of(self.constants, bound)
            wanted *= scale
            for factor in parts:
                if factor not in left:
                    return None
                left.remove(factor)
        like = seen[0].types[0]
        if left or not close(wanted, number, like.dtype.np, False):  # type: ignore[union-attr]
            return None
        return self._solve(after, env, seen)


@dataclass(frozen=True)
class _Rest:
    parts: tuple[Any, ...]
    number: float


def _append(goals: Goals, pattern: Pattern, value: Any) -> Goals:
    """The goal put behind all others."""
    items = []
    while goals is not None:
        items.append(goals[:2])
        goals = goals[2]
    last: Goals = (pattern, value, None)
    for p, v in reversed(items):
        last = (p, v, last)
    return last


def _unbound(pattern: Product, env: Env) -> bool:
    return any(isinstance(p, Var) and p.name not in env for p in pattern.parts)


def _join(seen: tuple[Node, ...], nodes: list[Node]) -> tuple[Node, ...]:
    return (*seen, *(n for n in nodes if n not in seen))


def possible(pattern: Pattern, value: Value | None) -> bool:
    """A cheap necessary condition for a match."""
    kind = type(pattern)
    if kind is Var:
        return value is not None or pattern.optional  # type: ignore[union-attr]
    if kind is Absent or value is None:
        return kind is Absent and value is None
    if kind is Apply:
        return value.node.op in pattern.ops  # type: ignore[union-attr]
    if kind is Product:
        return value.node.op in ("mul", "div", "neg")
    return value.node.op == "const"


def plausible(pattern: Pattern, node: Node) -> bool:
    """A cheap necessary condition for a match rooted in ``node``: the ops of the operands."""
    if not isinstance(pattern, Apply) or pattern.star is not None:
        return True
    parts, operands = pattern.args, node.inputs
    if len(parts) != len(operands):
        return False
    if pattern.commutative:
        (p, q), (a, b) = parts, operands
        return possible(p, a) and possible(q, b) or possible(p, b) and possible(q, a)
    return all(map(possible, parts, operands))


def _attributes(pattern: Apply, node: Node, env: Env) -> bool:
    attrs = node.attrs
    for key, how, wanted in pattern.attrs:
        found = attrs.get(key)
        if how == "is":
            if found != wanted or (isinstance(found, bool) != isinstance(wanted, bool)):
                return False
        elif wanted in env:
            if env[wanted] != found:
                return False
        else:
            env[wanted] = found
    if pattern.capture is not None:
        op = (node.op, attrs)
        if env.setdefault(pattern.capture, op) != op:
            return False
    if pattern.rest is not None:
        named = {key for key, _, _ in pattern.attrs}
        rest = Attrs((k, v) for k, v in attrs.items() if k not in named)
        if env.setdefault(pattern.rest, rest) != rest:
            return False
    return True


def close(wanted: float, found: float, dtype: Any, exact: bool) -> bool:
    """Whether a constant is the number of a rule: after rounding to the dtype for exact rules,
    within ``TOLERANCE`` (or the rounding of narrow floats) otherwise."""
    if isinstance(found, (bool, int)):
        return found == wanted
    rounded = float(dtype.type(wanted))
    if rounded == found:
        return found != 0 or math.copysign(1, rounded) == math.copysign(1, found)
    if exact or not math.isfinite(found):
        return False
    slack = max(TOLERANCE, 2.0**-8 if dtype.itemsize < 4 else 0.0)
    return abs(found - wanted) <= slack * abs(wanted)


# -- looking at patterns -----------------------------------------------------------------------


def root_ops(pattern: Pattern) -> frozenset[str]:
    """The ops a match can be rooted in."""
    if isinstance(pattern, Apply):
        return pattern.ops
    if isinstance(pattern, Product):
        return frozenset({"mul", "div", "neg"})
    raise ParseError("a pattern must be an operation")


def parts_of(pattern: Pattern) -> Iterator[Pattern]:
    """The pattern and everything in it, outermost first."""
    yield pattern
    inner = pattern.args if isinstance(pattern, Apply) else (
        pattern.parts if isinstance(pattern, Product) else ()
    )
    for part in inner:
        yield from parts_of(part)


def show(pattern: Pattern) -> str:
    """A pattern in a few words, for messages."""
    if isinstance(pattern, Apply):
        return "|".join(sorted(pattern.ops)) if len(pattern.ops) < 4 else "an elementwise op"
    if isinstance(pattern, Product):
        return "a product"
    if isinstance(pattern, Number):
        return f"the number {pattern.value}"
    if isinstance(pattern, Const):
        return f"a constant {pattern.name}"
    return "nothing" if isinstance(pattern, Absent) else f"any value {pattern.name}"
