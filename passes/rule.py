"""Rules as data, their matches, and the building of what replaces a match.

A rule is two expressions in the syntax of ``pattern.py`` and the conditions under which the law
holds. The result may also say ``fold(e)``, which must become a constant while compiling, and call
the functions that rule files register: ``@attribute`` functions compute attributes from attributes,
``@term`` functions build values. A refusal carries its reason wherever it happens.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any

import numpy as np

from ..ir.builder import Builder
from ..ir.dims import Dim
from ..ir.errors import EvonnxError, ParseError
from ..ir.graph import Attrs, Graph, Node, Value
from ..ir.ops import OPS
from ..ir.types import DType
from .evaluate import fold_tree
from .facts import Refusal, array_of, scalar_of
from .pattern import (
    ALIASES,
    OPERATORS,
    REDUCTIONS,
    Env,
    Matcher,
    Pattern,
    Trace,
    number_of,
    parse_expression,
    parse_pattern,
    plausible,
    root_ops,
)  # fmt: skip

Answer = bool | str
"""True, or the reason why not."""
Condition = Callable[["Match"], Answer]

ATTRIBUTES: dict[str, Callable[..., Any]] = {}
"""Functions of attributes that results may call."""
TERMS: dict[str, Callable[..., Value]] = {}
"""Functions that build values, called with the builder first."""


def attribute(fn: Callable[..., Any]) -> Callable[..., Any]:
    """Registers a function of attributes and values that computes an attribute."""
    ATTRIBUTES[fn.__name__] = fn
    return fn


def term(fn: Callable[..., Value]) -> Callable[..., Value]:
    """Registers a function (builder, operands...) that builds a value."""
    TERMS[fn.__name__] = fn
    return fn


@dataclass(frozen=True)
class Rule:
    """``pattern`` may be replaced by ``result`` where every condition of ``when`` holds."""

    name: str
    pattern: str
    result: str
    when: tuple[Condition, ...] = ()
    """Each answers True or a reason; the first that does not hold refuses the match."""
    shared: bool = False
    """Whether the rule also pays where the parts of the match are used elsewhere, too."""
    exact: bool = True
    """Whether both sides are equal bit by bit (NaN, infinities and the sign of zero included);
    else they are equal up to rounding."""
    sizes: str = ""
    """For the property test: shapes of the free names, ``"x[n,k] W[k,m]"``."""

    @cached_property
    def left(self) -> Pattern:
        return parse_pattern(self.pattern)

    @cached_property
    def right(self) -> ast.expr:
        return parse_expression(self.result)

    @property
    def roots(self) -> frozenset[str]:
        """Ops that a match can be rooted in."""
        return root_ops(self.left)

    def __str__(self) -> str:
        return f"{self.name}: {self.pattern}  ->  {self.result}"


@dataclass(frozen=True, eq=False)
class Match:
    """One place where a rule's pattern holds."""

    rule: Rule
    root: Node
    env: Env
    nodes: tuple[Node, ...]
    """Matched operations, the root first."""
    graph: Graph

    def __getitem__(self, name: str) -> Any:
        return self.env[name]

    def array(self, name: str) -> np.ndarray:
        """The array of a captured constant."""
        return array_of(self.graph.constants, self.env[name])

    def scalar(self, name: str) -> float | int | bool | None:
        """The number that a captured constant is, or None."""
        return scalar_of(self.graph.constants, self.env[name])

    def __str__(self) -> str:
        number = self.graph.index.get(self.root)
        return f"{self.rule.name} at %{number} {self.root!r}"


def find_at(
    rule: Rule, node: Node, graph: Graph, trace: Trace | None = None
) -> Match | None:
    """The match of ``rule`` rooted in ``node``, conditions not looked at; or None."""
    if len(node.types) != 1 or (trace is None and not plausible(rule.left, node)):
        return None
    found = Matcher(graph.constants, rule.exact, trace).match(rule.left, node.out)
    if found is None:
        return None
    env, nodes = found
    return Match(rule, node, env, nodes, graph)


def refusal(match: Match) -> str | None:
    """The first condition of the rule that does not hold, as a reason; None if all hold."""
    return shared_refusal(match) or condition_refusal(match)


def shared_refusal(match: Match) -> str | None:
    """The part that is used elsewhere, where the rule does not pay then; None if all is well. This
    depends on the whole graph, conditions only on what the root is computed from."""
    shared = None if match.rule.shared else shared_part(match)
    return None if shared is None else f"{shared.op} is used outside the match, too"


def condition_refusal(match: Match) -> str | None:
    """The first condition that does not hold, as a reason; None if all hold."""
    for condition in match.rule.when:
        try:
            answer = condition(match)
        except Refusal as e:
            answer = str(e)
        if answer is not True:
            return answer or f"{condition.__name__} does not hold"
    return None


def shared_part(match: Match) -> Node | None:
    """An inner node of the match that something else reads as well."""
    graph, inside = match.graph, set(match.nodes)
    for node in match.nodes[1:]:
        if node is match.root:
            continue
        if node.out in graph.output_values or any(u not in inside for u in graph.users(node.out)):
            return node
    return None


# -- building the result -----------------------------------------------------------------------

NewValue = Callable[[Value], Value]
"""Where a value of the old graph is in the new one."""


def build_result(match: Match, builder: Builder, new: NewValue) -> Value:
    """Builds the rule's result for a match; raises ``Refusal`` with the reason."""
    origin = _origin(match)
    builder.default_origin = origin
    try:
        value = _Writer(match, builder, new).value(match.rule.right)
    except EvonnxError as e:
        raise Refusal(str(e)) from None
    finally:
        builder.default_origin = ()
    if value.type != match.root.types[0]:
        raise Refusal(f"the type would change from {match.root.types[0]} to {value.type}")
    return value


def _origin(match: Match) -> tuple[str, ...]:
    names = dict.fromkeys(o for n in reversed(match.nodes) for o in n.origin)
    names[f"rule {match.rule.name}"] = None
    return tuple(names)


class _Writer:
    """Evaluates the result expression of one match."""

    def __init__(self, match: Match, builder: Builder, new: NewValue) -> None:
        self.match, self.builder, self.new = match, builder, new

    def value(self, tree: ast.expr) -> Value:
        """An expression in operand position."""
        result = self.any(tree)
        if not isinstance(result, Value):
            raise ParseError(f"{ast.unparse(tree)!r} is not a value in {self.match.rule}")
        return result

    def any(self, tree: ast.expr) -> Any:
        number = number_of(tree)
        if number is not None:
            return number
        if isinstance(tree, ast.Name):
            return self.name(tree.id)
        if isinstance(tree, ast.BinOp) and type(tree.op) in OPERATORS:
            return self.operator(tree.op, tree.left, tree.right)
        if isinstance(tree, ast.UnaryOp) and type(tree.op) in OPERATORS:
            return self.operator(tree.op, tree.operand)
        if isinstance(tree, ast.Compare):
            return self.operator(tree.ops[0], tree.left, tree.comparators[0])
        if isinstance(tree, ast.Call) and isinstance(tree.func, ast.Name):
            return self.call(tree, tree.func.id)
        return ast.literal_eval(tree)

    def name(self, name: str) -> Any:
        if name == "none":
            return None
        bound = self.match.env[name]
        if isinstance(bound, Value):
            return self.new(bound)
        if isinstance(bound, tuple) and any(isinstance(v, Value) for v in bound):
            return tuple(None if v is None else self.new(v) for v in bound)
        return bound

    def operator(self, op: ast.AST, *operands: ast.expr) -> Value:
        name, attrs = OPERATORS[type(op)]
        values = [self.any(o) for o in operands]
        like = next((v.dtype for v in values if isinstance(v, Value)), None)
        coerced = [v if isinstance(v, Value) else self.number(v, like) for v in values]
        result = self.builder.op(name, *coerced, **attrs)
        assert isinstance(result, Value)
        return result

    def number(self, value: Any, dtype: DType | None) -> Value:
        if dtype is None:
            raise ParseError(f"a number without a dtype in {self.match.rule}")
        return self.builder.const(value, dtype)

    def call(self, tree: ast.Call, name: str) -> Any:
        name = ALIASES.get(name, name)
        if name == "fold":
            return fold_tree(self.builder, self.value(tree.args[0]))
        args: list[Any] = []
        for a in tree.args:
            if isinstance(a, ast.Starred):
                args.extend(self.any(a.value))
            else:
                args.append(self.any(a))
        if name in ATTRIBUTES:
            return ATTRIBUTES[name](*args)
        if name in TERMS:
            return TERMS[name](self.builder, *args)
        attrs: dict[str, Any] = {}
        for keyword in tree.keywords:
            found = self.any(keyword.value)
            attrs.update(found if keyword.arg is None else {keyword.arg: found})
        if name in REDUCTIONS:
            attrs.update(kind=REDUCTIONS[name], keepdims=True)
            name = "reduce"
        if name in ("unary", "binary"):
            name, captured = args.pop(0)
            attrs.update(captured)
        if name not in OPS:
            raise ParseError(f"no op or function {name!r} in {self.match.rule}")
        result = self.builder.op(name, *args, **attrs)
        assert isinstance(result, Value)
        return result


# -- conditions that many rules share ----------------------------------------------------------


def floats(name: str) -> Condition:
    """The value is floating-point."""

    def holds(m: Match) -> Answer:
        return m[name].dtype.is_float or f"{name} is {m[name].dtype}, not floating-point"

    return holds


def integers(name: str) -> Condition:
    """The value is of an integer dtype."""

    def holds(m: Match) -> Answer:
        return m[name].dtype.is_integer or f"{name} is {m[name].dtype}, not an integer"

    return holds


def scalar(name: str) -> Condition:
    """The constant is one number."""

    def holds(m: Match) -> Answer:
        return m.scalar(name) is not None or f"{name} is not one number"

    return holds


def finite(name: str) -> Condition:
    """Every element of the constant is finite."""

    def holds(m: Match) -> Answer:
        array = m.array(name)
        return bool(np.isfinite(array).all()) or f"{name} is not finite everywhere"

    return holds


def fits(name: str, into: str) -> Condition:
    """The value broadcasts into the shape of another one without changing it."""

    def holds(m: Match) -> Answer:
        small, large = m[name].shape, m[into].shape
        return broadcasts_into(small, large) or f"{name} of {small} does not fit {large}"

    return holds


def broadcasts_into(small: tuple[Dim, ...], large: tuple[Dim, ...]) -> bool:
    """Whether ``small`` certainly broadcasts to ``large`` itself."""
    if len(small) > len(large):
        return False
    tail = large[len(large) - len(small) :]
    return all(a == 1 or a == b for a, b in zip(small, tail))


@cache
def index_rules(rules: tuple[Rule, ...]) -> dict[str, tuple[Rule, ...]]:
    """Rules by the op that their matches are rooted in."""
    table: dict[str, list[Rule]] = {}
    for rule in rules:
        for op in sorted(rule.roots):
            table.setdefault(op, []).append(rule)
    return {op: tuple(rs) for op, rs in table.items()}


def free_names(rule: Rule) -> Iterator[str]:
    """Names of the values and constants a rule's pattern binds."""
    from .pattern import Const, Var, parts_of

    yield from dict.fromkeys(p.name for p in parts_of(rule.left) if isinstance(p, (Var, Const)))


__all__ = [
    "Answer", "Attrs", "Condition", "Match", "Rule", "attribute", "broadcasts_into",
    "build_result", "condition_refusal", "find_at", "finite", "fits", "floats", "free_names",
    "index_rules",    "integers", "refusal", "scalar", "shared_part", "shared_refusal", "term",
]  # fmt: skip
