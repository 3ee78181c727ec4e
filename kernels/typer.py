"""Types of a kernel's names: one forward pass over Numba's IR.

Numba infers types with a constraint network because a Python name may change its type and a loop
may feed a type back. In generated source a name keeps one type and is defined before it is used, in
program order, so the first definition decides and every later one is checked against it. How
operators and functions are typed is still asked of Numba's typing context, once per combination of
argument types in a process; words answer for themselves.
"""

from __future__ import annotations

import operator
from typing import Any

from numba.core import errors, types
from numba.core import ir as numba_ir
from numba.core.typing import signature as make_signature
from numba.core.typing.templates import _IntrinsicTemplate

POINTER = types.CPointer(types.int64)
ARGUMENTS = (POINTER, POINTER, types.int64, types.int64)
"""Types of ``bufs, params, begin, end``."""
_PAIR = types.Pair(types.int64, types.boolean)
_RANGE, _RANGE_ITERATOR = types.range_state64_type, types.range_iter64_type

_SIGNATURES: dict[tuple[Any, tuple[types.Type, ...]], Any] = {}
"""(function type or operator, argument types) -> signature."""
BUILDERS: dict[tuple[Any, tuple[types.Type, ...]], Any] = {}
"""(type of a word, argument types of its signature) -> its code generator."""


def infer(context: Any, func_ir: Any) -> tuple[dict[str, Any], dict[Any, Any]]:
    """Name -> type and call expression -> signature; raises Numba's ``TypingError``."""
    if func_ir.arg_count != len(ARGUMENTS):
        raise errors.TypingError("a kernel takes (bufs, params, begin, end)")
    typer = _Typer(context)
    for name, kind in zip(func_ir.arg_names, ARGUMENTS):
        typer.types[f"arg.{name}"] = kind
    for _, block in sorted(func_ir.blocks.items()):
        for statement in block.body:
            if isinstance(statement, numba_ir.Assign):
                typer.assign(statement)
    return typer.types, typer.signatures


class _Typer:
    def __init__(self, context: Any) -> None:
        self.context = context
        self.types: dict[str, types.Type] = {}
        self.signatures: dict[Any, Any] = {}

    def assign(self, statement: Any) -> None:
        """Type one assignment and check it against earlier ones of the same name."""
        name = statement.target.name
        try:
            kind = self._value(statement.value)
        except errors.TypingError as error:
            raise errors.TypingError(str(error), loc=statement.loc) from error
        if name[0] != "$":  # a name somebody wrote may be assigned again
            kind = types.unliteral(kind)
        known = self.types.setdefault(name, kind)
        if known != kind and types.unliteral(known) != types.unliteral(kind):
            message = f"name {name!r} changes its type from {known} to {kind}"
            raise errors.TypingError(message, loc=statement.loc)

    def _name(self, var: Any) -> types.Type:
        try:
            return self.types[var.name]
        except KeyError:
            raise errors.TypingError(f"name {var.name!r} is used before it is defined") from None

    def _value(self, value: Any) -> types.Type:
        if isinstance(value, numba_ir.Expr):
            return self._expression(value)
        if isinstance(value, numba_ir.Var):
            return self._name(value)
        if isinstance(value, numba_ir.Const):
            return self._constant(value.value)
        if isinstance(value, numba_ir.Arg):
            return self.types[f"arg.{value.name}"]
        if isinstance(value, (numba_ir.Global, numba_ir.FreeVar)):
            try:
                kind = self.context.resolve_value_type(value.value)
            except ValueError as error:
                raise errors.TypingError(f"{value.name!r}: {error}") from error
            return kind
        raise errors.TypingError(f"{value} in a kernel")

    def _constant(self, value: object) -> types.Type:
        if isinstance(value, (bool, int, str)):
            return types.literal(value)
        if isinstance(value, float):
            return types.float64
        if value is None:
            return types.none
        raise errors.TypingError(f"constant {value!r} in a kernel")

    def _expression(self, expr: Any) -> types.Type:
        op = expr.op
        if op == "call":
            if expr.kws or expr.vararg:
                raise errors.TypingError("words take positional arguments only")
            return self._call(expr, self._name(expr.func), expr.args)
        if op == "binop":
            return self._call(expr, expr.fn, (expr.lhs, expr.rhs))
        if op == "inplace_binop":
            return self._call(expr, expr.immutable_fn, (expr.lhs, expr.rhs))
        if op == "unary":
            return self._call(expr, expr.fn, (expr.value,))
        kind = self._name(expr.value) if op in _STEPS else None
        if op == "cast":
            return kind
        if op in _STEPS and _STEPS[op][0] == kind:
            result = _STEPS[op][1]
            if op in ("getiter", "iternext"):
                self.signatures[expr] = make_signature(result, kind)
            return result
        if op == "getiter":
            raise errors.TypingError("only range(...) can be iterated")
        raise errors.TypingError(f"{op} in a kernel: {expr}")

    def _call(self, expr: Any, function: Any, args: Any) -> types.Type:
        kinds = tuple(self._name(a) for a in args)
        key = (function, kinds)
        found = _SIGNATURES.get(key)
        if found is None:
            _SIGNATURES[key] = found = self._resolve(function, kinds)
        self.signatures[expr] = found
        return found.return_type

    def _resolve(self, function: Any, kinds: tuple[types.Type, ...]) -> Any:
        """Signature of a word, an operator or one of Numba's functions."""
        plain = tuple(types.unliteral(k) for k in kinds)
        templates: Any = getattr(function, "templates", ())
        if len(templates) == 1 and issubclass(templates[0], _IntrinsicTemplate):
            return _resolve_word(self.context, function, templates[0], kinds)
        found = self.context.resolve_function_type(function, plain, {})
        if found is None:
            shown = ", ".join(map(str, plain))
            name = getattr(function, "__name__", str(function))
            raise errors.TypingError(f"{name} does not take ({shown})")
        return found


_STEPS: dict[str, tuple[Any, Any]] = {
    "getiter": (_RANGE, _RANGE_ITERATOR),
    "iternext": (_RANGE_ITERATOR, _PAIR),
    "pair_first": (_PAIR, types.int64),
    "pair_second": (_PAIR, types.boolean),
    "cast": (None, None),
}
"""Expressions of one value: its type and the result's."""


def _resolve_word(context: Any, function: Any, template: Any, kinds: tuple[Any, ...]) -> Any:
    if not template.prefer_literal:
        kinds = tuple(types.unliteral(k) for k in kinds)
    shown = f"{template.key.__name__} does not take ({', '.join(map(str, kinds))})"
    try:
        typed = template._definition_func(context, *kinds)
    except TypeError as error:  # wrong number of arguments
        raise errors.TypingError(shown) from error
    if typed is None:
        raise errors.TypingError(shown)
    found, build = typed
    BUILDERS[function, found.args] = build
    return found


def is_literal_range(value: Any) -> bool:
    """Whether ``value`` is a literal integer constant of the IR."""
    return isinstance(value, numba_ir.Const) and type(value.value) is int


INPLACE = {getattr(operator, f"i{name}"): getattr(operator, name) for name in ("add", "sub", "mul")}
"""``a += b`` as the operator it stands for."""
