"""Kernel source to LLVM IR: a compiler of the small, closed part of Python that is generated.

Generated source is assignments, ``for ... in range(...)``, ``while``, ``if``, arithmetic of 64-bit
integers for indices, float operators, and calls of the words of ``intrinsics``. It is plain Numba
(``plain_numba``), but the long road of ``njit`` is not needed for it: bytecode and its data flow,
SSA, a network of type constraints, reference counting, wrappers. Here one pass over Python's own
syntax tree types every expression and lowers it at once:

- a name keeps one type and is defined before it is used, so its first definition decides;
- a name with one definition is one LLVM value, others are stack slots, which LLVM turns into
  registers. A use that the only definition does not dominate is found by LLVM's verifier;
- operands of an operator are both float32, both float64, or signed integers, of which Python's
  operators make int64, as Numba's do. For other types there are words.

Innermost loops over float32 are written as vectors (``vector_loops``, ``vectors``). A two-loop
kernel takes 2 ms; the same by ``njit`` 45, by Numba's bytecode analysis with our own typing and
lowering 7.
"""

from __future__ import annotations

import ast
import contextlib
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import cache
from typing import Any

from llvmlite import ir

from ..ir.collection import no_collection
from ..ir.errors import CompileError
from ..ir.target import Target
from . import machine_types as types
from . import words
from .aliasing import close_scopes, parallel_accesses
from .casts import convert
from .machine_types import TypingError
from .vector_loops import VectorLoop, find
from .vectors import VectorWriter
from .words import Value

_I64 = words.I64
_ARGUMENTS = {"bufs": types.int64_pointer, "params": types.int64_pointer, "begin": types.int64,
              "end": types.int64}  # fmt: skip
_SIGNATURE = ir.FunctionType(ir.VoidType(), (_I64.as_pointer(), _I64.as_pointer(), _I64, _I64))
_INTEGER: dict[type[ast.operator], str] = {
    ast.Add: "add", ast.Sub: "sub", ast.Mult: "mul",
    ast.BitAnd: "and_", ast.BitOr: "or_", ast.BitXor: "xor",
}  # fmt: skip
_WRAPS = ("and_", "or_", "xor")
"""Integer operations that take no flags; the others promise not to overflow."""
_FLOAT: dict[type[ast.operator], str] = {
    ast.Add: "fadd", ast.Sub: "fsub", ast.Mult: "fmul", ast.Div: "fdiv"
}
_COMPARISON: dict[type[ast.cmpop], str] = {
    ast.Lt: "<", ast.LtE: "<=", ast.Gt: ">", ast.GtE: ">=", ast.Eq: "==", ast.NotEq: "!="
}
_SHORT = 8
"""Iterations up to which a loop over literals is unrolled; see ``_vanishes``."""
_EACH = "each"
"""What ``range`` is called where the iterations are independent of one another."""


def lower_source(source: str, symbol: str, target: Target, layout: str) -> str:
    """LLVM IR text of ``def kernel(bufs, params, begin, end)`` under the C name ``symbol``.

    Raises ``CompileError`` with the source line where a word is misused or types do not fit.
    """
    with no_collection():  # it takes half the time
        module = _lowered(source, symbol, target, layout).module
        close_scopes(module)
        return str(module)


def loop_notes(source: str, target: Target, layout: str) -> dict[int, str]:
    """Line of each loop of a kernel source -> whether it becomes vectors, and else why not. Raises
    ``CompileError`` as ``lower_source`` does."""
    return _lowered(source, "kernel", target, layout).notes


def _lowered(source: str, symbol: str, target: Target, layout: str) -> Lowerer:
    module = ir.Module(symbol)
    module.triple, module.data_layout = target.triple, layout
    module.evonnx_target = target
    lowerer = Lowerer(module, symbol, target)
    try:
        lowerer.function(ast.parse(source))
    except (TypingError, TypeError) as error:
        where = f"kernel {symbol}, line {lowerer.line}"
        raise CompileError(f"{where}: {error}\n{source}") from error
    except SyntaxError as error:
        raise CompileError(f"kernel {symbol}: {error}\n{source}") from error
    return lowerer


# --- words ----------------------------------------------------------------------------------------


@cache
def typed(name: str, *kinds: types.Type) -> tuple[types.Signature, words.Build]:
    """The word ``name`` for arguments of these types; raises ``TypingError``."""
    definition = words.load().get(name)
    if definition is None:
        raise TypingError(f"{name!r} is no word")
    shown = f"{name} does not take ({', '.join(map(str, kinds))})"
    try:
        answer = definition(*kinds)
    except TypeError as error:  # wrong number of arguments
        raise TypingError(shown) from error
    if answer is None:
        raise TypingError(shown)
    return answer


# --- statements -----------------------------------------------------------------------------------


class Lowerer:
    """Writes the LLVM function of one kernel."""

    typed = staticmethod(typed)

    def __init__(self, module: ir.Module, symbol: str, target: Target) -> None:
        self.module = module
        self.made = ir.Function(module, _SIGNATURE, symbol)
        self.made.attributes.add("nounwind")
        # llvmlite knows no string attributes; its attribute set is a plain set that prints them.
        set.add(self.made.attributes, f'"prefer-vector-width"="{target.vector_bits}"')
        self.slots = ir.IRBuilder(self.made.append_basic_block("entry"))
        """Writes the stack slots of names that are assigned more than once."""
        self.builder = ir.IRBuilder(self.made.append_basic_block("kernel"))
        self.names: dict[str, Value] = {}
        """What is defined: values, or addresses of stack slots."""
        self.definitions: Counter[str] = Counter()
        """How often each name is assigned."""
        self.meant: dict[str, ast.expr] = {}
        """What is assigned to each name that an assignment defines; the last one."""
        self.reductions: dict[str, str] = {}
        """Names that the vector loops so far reduced to, and the words that did."""
        self.reads: Counter[str] = Counter()
        """How often each name is read."""
        self.notes: dict[int, str] = {}
        """What became of the loops, by line."""
        self.lanes = target.lanes(32) if target.has("avx2") else 0
        """Of a vector of float32, where loads and stores can be masked; else 0."""
        self.line = 0

    def function(self, tree: ast.Module) -> None:
        """The kernel that a source defines."""
        (kernel,) = tree.body
        if not isinstance(kernel, ast.FunctionDef) or [a.arg for a in kernel.args.args] != list(
            _ARGUMENTS
        ):
            raise TypingError("a kernel takes (bufs, params, begin, end)")
        self.definitions.update(_ARGUMENTS)
        for node in ast.walk(kernel):
            match node:
                case ast.Name(id=name, ctx=ast.Store()):
                    self.definitions[name] += 1
                case ast.Name(id=name):
                    self.reads[name] += 1
                case ast.Assign(targets=[ast.Name(id=name)], value=value):
                    self.meant[name] = value
        for (name, kind), given in zip(_ARGUMENTS.items(), self.made.args, strict=True):
            self.define(name, given, kind)
        self.block(kernel.body)
        self.builder.ret_void()
        self.slots.branch(self.made.blocks[1])

    def block(self, statements: Sequence[ast.stmt]) -> None:
        """Statements, one after another."""
        for statement in statements:
            self.line = statement.lineno
            match statement:
                case ast.Assign(targets=[ast.Name(id=name)], value=value):
                    self.define(name, *self.value(value))
                case ast.Expr(value=value):
                    self.value(value)
                case ast.For(target=ast.Name(), orelse=[]):
                    self.loop(statement)
                case ast.If():
                    self.branch(statement)
                case ast.While(orelse=[]):
                    self.repeat(statement)
                case ast.AugAssign(target=ast.Name(id=name), op=op, value=value):
                    left = self.name(name)
                    self.define(name, *self.operator(op, left, self.value(value)))
                case ast.Pass():
                    pass
                case _:
                    raise TypingError(f"no statement of a kernel: {ast.unparse(statement)}")

    def define(self, name: str, llvm: Any, kind: types.Type) -> None:
        """``name = value``."""
        kind = types.unliteral(kind)
        known = self.names.get(name)
        if known is not None and known.kind is not kind:
            raise TypingError(f"name {name!r} changes its type from {known.kind} to {kind}")
        if llvm is None:
            raise TypingError(f"name {name!r} would have no value")
        if self.definitions[name] == 1:
            self.names[name] = Value(llvm, kind)
            return
        if known is None:
            self.names[name] = known = Value(self.slots.alloca(llvm.type, name=name), kind)
        self.builder.store(llvm, known.llvm)

    def loop(self, statement: ast.For) -> None:
        """``for name in range(...)``, or over ``each``."""
        match statement.iter:
            case ast.Call(func=ast.Name(id="range" | "each" as made), args=args) if (
                1 <= len(args) <= 3
            ):
                each = made == _EACH
                bounds = [self.index(self.value(a)) for a in args]
            case _:
                raise TypingError("only range(...) can be iterated")
        step = bounds[2] if len(bounds) == 3 else ir.Constant(_I64, 1)
        if isinstance(step, ir.Constant) and step.constant == 0:
            raise TypingError("a range needs a step other than 0")
        short = _vanishes(statement)
        found = self.vectors_of(statement, bounds, each, short)
        if isinstance(found, VectorLoop):
            self.notes[statement.lineno] = f"vectors of {self.lanes}"
            with self.marking(parallel=False):
                VectorWriter(self, found).write()
            return
        self.notes[statement.lineno] = f"left to LLVM: {found}"
        if len(bounds) == 1:
            bounds.insert(0, ir.Constant(_I64, 0))
        start, stop = bounds[:2]
        builder = self.builder
        before = builder.block
        head, body, end = (self.made.append_basic_block(n) for n in ("head", "body", "end"))
        builder.branch(head)
        builder.position_at_end(head)
        index = builder.phi(_I64)
        index.add_incoming(start, before)
        builder.cbranch(self.inside(index, stop, step), body, end)
        builder.position_at_end(body)
        with self.marking(self.parallel or each):
            self.define(statement.target.id, index, types.int64)  # type: ignore[attr-defined]
            self.block(statement.body)
        index.add_incoming(builder.add(index, step, flags=("nsw",)), builder.block)
        unrolled = [ir.MetaDataString(self.module, "llvm.loop.unroll.full")]
        self.again(head, [
            *([self.module.add_metadata(unrolled)] if short else []),
            *([parallel_accesses(self.module)] if each else []),
        ])  # fmt: skip
        builder.position_at_end(end)

    def vectors_of(self, statement: ast.For, bounds: Sequence[Any], each: bool, short: bool
                   ) -> VectorLoop | str:
        """A loop that becomes vectors, or why it does not."""
        if not self.lanes:
            return "the target has no vectors with masks"
        return "it is unrolled" if short else find(self, statement, bounds, each)

    @property
    def parallel(self) -> bool:
        """Whether accesses are marked as those of a loop whose iterations are independent."""
        return bool(getattr(self.module, "evonnx_parallel", False))

    @contextlib.contextmanager
    def marking(self, parallel: bool) -> Iterator[None]:
        """Accesses that are written meanwhile are marked so, or not."""
        around = self.parallel
        self.module.evonnx_parallel = parallel
        yield
        self.module.evonnx_parallel = around

    def inside(self, index: Any, stop: Any, step: Any) -> Any:
        """Whether an index is before the end of a range."""
        if isinstance(step, ir.Constant):
            return self.builder.icmp_signed("<" if step.constant > 0 else ">", index, stop)
        below, above = (self.builder.icmp_signed(sign, index, stop) for sign in "<>")
        up = self.builder.icmp_signed(">", step, ir.Constant(_I64, 0))
        return self.builder.select(up, below, above)

    def again(self, head: Any, wishes: Sequence[Any]) -> None:
        """Jumps back to the head of a loop; ``wishes`` are metadata of the loop."""
        jump = self.builder.branch(head)
        if wishes:
            # A loop's identifier is a node whose first operand is itself; one per loop, or they
            # would be merged.
            node = ir.values.MDValue(self.module, wishes, name=str(len(self.module.metadata)))
            node.operands = (node, *wishes)
            jump.set_metadata("llvm.loop", node)

    def repeat(self, statement: ast.While) -> None:
        """``while condition``."""
        head, body, end = (self.made.append_basic_block(n) for n in ("head", "body", "end"))
        self.builder.branch(head)
        self.builder.position_at_end(head)
        self.builder.cbranch(self.condition(statement.test), body, end)
        self.builder.position_at_end(body)
        self.block(statement.body)
        self.again(head, [])
        self.builder.position_at_end(end)

    def branch(self, statement: ast.If) -> None:
        """``if condition``, with ``elif`` and ``else``."""
        then, end = (self.made.append_basic_block(n) for n in ("then", "end"))
        other = self.made.append_basic_block("else") if statement.orelse else end
        self.builder.cbranch(self.condition(statement.test), then, other)
        for block, statements in ((then, statement.body), (other, statement.orelse)):
            if block is not end:
                self.builder.position_at_end(block)
                self.block(statements)
                self.builder.branch(end)
        self.builder.position_at_end(end)

    # -- expressions -----------------------------------------------------------------------

    def value(self, node: ast.expr) -> Value:
        """The value of an expression."""
        match node:
            case ast.Name(id=name):
                return self.name(name)
            case ast.Call(func=ast.Name(id=name), args=args, keywords=[]):
                return self.call(name, [self.value(a) for a in args])
            case ast.Constant(value=value):
                return _constant(value)
            case ast.BinOp(left=left, op=op, right=right):
                return self.operator(op, self.value(left), self.value(right))
            case ast.UnaryOp(op=ast.USub(), operand=operand):
                return self.negative(self.value(operand))
            case ast.Compare(left=left, ops=[op], comparators=[right]):
                return self.comparison(op, self.value(left), self.value(right))
        raise TypingError(f"no expression of a kernel: {ast.unparse(node)}")

    def defined(self, name: str) -> Value:
        """The value of a name that is defined once, else the address of its stack slot."""
        found = self.names.get(name)
        if found is None:
            raise TypingError(f"name {name!r} is used before it is defined")
        return found

    def name(self, name: str) -> Value:
        """The value of a name."""
        found = self.defined(name)
        if self.definitions[name] == 1:
            return found
        return Value(self.builder.load(found.llvm), found.kind)

    def call(self, name: str, args: Sequence[Value]) -> Value:
        """A word with its arguments."""
        signature, build = typed(name, *(a.kind for a in args))
        values = [a.llvm if a.kind is kind else self.fitting(a, kind)
                  for a, kind in zip(args, signature.args, strict=True)]
        return Value(build(self.builder, signature, values), signature.return_type)

    def fitting(self, value: Value, wanted: types.Type) -> Any:
        """A value as an argument of type ``wanted``: other signed integers become indices."""
        kind = value.plain
        if kind is types.unliteral(wanted):
            return value.llvm
        if wanted is types.int64 and words.signed(kind):
            return convert(self.builder, value.llvm, kind, types.int64)
        raise TypingError(f"{wanted} is wanted, not {kind}")

    def index(self, value: Value) -> Any:
        """A value as an index."""
        return self.fitting(value, types.int64)

    def operator(self, op: ast.operator, left: Value, right: Value) -> Value:
        """``left op right``."""
        kind, a, b = self.operands(left, right)
        name = (_INTEGER if kind is types.int64 else _FLOAT).get(type(op))
        if kind is None or name is None:
            raise _no_operator(op, left, right)
        known = [v.kind.literal_value for v in (left, right)
                 if isinstance(v.kind, types.IntegerLiteral)]
        if len(known) == 2:
            return _folded(name, *known)
        build = getattr(self.builder, name)
        if name in _WRAPS:
            return Value(build(a, b), kind)
        return Value(build(a, b, flags=("nsw" if kind is types.int64 else "contract",)), kind)

    def operands(self, left: Value, right: Value) -> tuple[types.Type | None, Any, Any]:
        """The type in which an operator works on two values, and these in it; None: in none."""
        kinds = (left.plain, right.plain)
        if kinds[0] is kinds[1] and kinds[0] in (types.int64, types.float32, types.float64):
            return kinds[0], left.llvm, right.llvm
        if all(words.signed(k) for k in kinds):
            return types.int64, self.index(left), self.index(right)
        return None, None, None

    def negative(self, value: Value) -> Value:
        """``-value``."""
        if isinstance(value.kind, types.IntegerLiteral):
            return _constant(-value.kind.literal_value)
        if value.kind is types.int64:
            return Value(self.builder.neg(value.llvm), value.kind)
        if value.kind in (types.float32, types.float64):
            return Value(self.builder.fneg(value.llvm), value.kind)
        raise TypingError(f"-{value.plain}: there is no such operator")

    def comparison(self, op: ast.cmpop, left: Value, right: Value) -> Value:
        """``left op right``; false with NaN, ``!=`` true."""
        kind, a, b = self.operands(left, right)
        sign = _COMPARISON.get(type(op))
        if kind is None or sign is None:
            raise _no_operator(op, left, right)
        if kind is types.int64:
            compare = self.builder.icmp_signed
        elif sign == "!=":
            compare = self.builder.fcmp_unordered
        else:
            compare = self.builder.fcmp_ordered
        return Value(compare(sign, a, b), types.boolean)

    def condition(self, node: ast.expr) -> Any:
        """The truth of an expression."""
        value = self.value(node)
        if value.plain is not types.boolean:
            raise TypingError(f"a condition is a boolean, not {value.plain}")
        return value.llvm


def _constant(value: object) -> Value:
    if isinstance(value, bool):
        return Value(ir.Constant(words.I1, int(value)), types.literal(value))
    if isinstance(value, int):
        return Value(ir.Constant(_I64, value), types.literal(value))
    if isinstance(value, float):
        return Value(ir.Constant(words.F64, value), types.float64)
    if isinstance(value, str):
        return Value(None, types.literal(value))
    raise TypingError(f"constant {value!r} in a kernel")


def _no_operator(op: ast.operator | ast.cmpop, left: Value, right: Value) -> Exception:
    return TypingError(f"{left.plain} {type(op).__name__} {right.plain}: there is no such "
                              "operator")


def _folded(name: str, left: int, right: int) -> Value:
    """An integer operation on literals: a literal."""
    operation = {"add": int.__add__, "sub": int.__sub__, "mul": int.__mul__,
                 "and_": int.__and__, "or_": int.__or__, "xor": int.__xor__}[name]  # fmt: skip
    return _constant(operation(left, right))


def _vanishes(loop: ast.stmt) -> bool:
    """Whether a loop is a ``range`` over literals with at most ``_SHORT`` iterations, in which
    there are only such loops.

    Unrolled early, a window of a pooling or a small vector disappears, and the vectorizer sees the
    loop around it. Where another loop is inside, copies of it would be all that comes of it.
    """
    match loop:
        case ast.For(iter=ast.Call(func=ast.Name(id="range" | "each"), args=args)):
            bounds = [a.value for a in args
                      if isinstance(a, ast.Constant) and isinstance(a.value, int)]
            return (len(bounds) == len(args) and len(range(*bounds)) <= _SHORT
                    and all(_vanishes(inner) for statement in loop.body
                            for inner in ast.walk(statement)
                            if isinstance(inner, (ast.For, ast.While))))
    return False
