"""Numba's front end, cut down to what generated kernels need: Python source to an LLVM module.

Generated source is a small, closed part of Python: assignments, ``for ... in range(...)``,
``while``, ``if``, 64-bit integer arithmetic for indices, float operators, and calls of the words of
``intrinsics``. For it the long road of ``njit`` (object-mode fallbacks, closure inlining, rewrites,
SSA with its re-verification, reference counting, Python wrappers, an optimization of every library
function) is not needed. What remains is bytecode analysis, type inference and lowering, with three
shortcuts, all local to this file:

- a name must keep one type throughout a kernel, so one forward pass types it (``typer``);
- words, ``range`` loops and arithmetic on equal machine types are lowered directly;
- no SSA and no liveness: a name with one definition is one LLVM value, others are stack slots,
  which LLVM turns into registers.

Together they bring a two-loop kernel from about 45 ms to a sixth of that.
"""

from __future__ import annotations

import operator
from typing import Any

from llvmlite import ir
from numba.core import bytecode, cpu, errors, funcdesc, interpreter, lowering, types
from numba.core import ir as numba_ir
from numba.core.callconv import create_error_model
from numba.core.compiler import Flags
from numba.core.targetconfig import ConfigStack
from numba.core.typing.context import BaseContext
from numba.core.typing.templates import RegistryLoader

from ..ir.collection import no_collection
from ..ir.errors import CompileError
from ..ir.target import Target
from . import words as vocabulary
from .aliasing import close_scopes, parallel_accesses
from .typer import BUILDERS, INPLACE, infer, is_literal_range
from .vector_loops import VectorLoop, find
from .vectors import VectorWriter

_I64 = ir.IntType(64)
_FLOATS = (types.float32, types.float64)
_ARITHMETIC = {
    operator.add: ("add", "fadd"),
    operator.sub: ("sub", "fsub"),
    operator.mul: ("mul", "fmul"),
    operator.truediv: ("", "fdiv"),
    operator.and_: ("and_", ""),
    operator.or_: ("or_", ""),
    operator.xor: ("xor", ""),
}
_COMPARISON = {
    operator.lt: "<", operator.le: "<=", operator.gt: ">", operator.ge: ">=",
    operator.eq: "==", operator.ne: "!=",
}  # fmt: skip


def lower_source(source: str, symbol: str, target: Target, layout: str) -> str:
    """LLVM IR text of ``def kernel(bufs, params, begin, end)`` under the C name ``symbol``.

    Raises ``CompileError`` with the source line where a word is misused or types do not fit.
    """
    lowerer = _lowered(source, symbol, target, layout)
    module = lowerer.module
    _wrap(module, lowerer.function, symbol, target)
    close_scopes(module)
    return str(module)


def loop_notes(source: str, target: Target, layout: str) -> dict[int, str]:
    """Line of each loop of a kernel source -> whether it becomes vectors, and else why not. Raises
    ``CompileError`` as ``lower_source`` does."""
    return _lowered(source, "kernel", target, layout).notes()


def _lowered(source: str, symbol: str, target: Target, layout: str) -> _Lower:
    function = _define(source)
    try:
        with no_collection():  # it takes half the time
            return _lower(function, target, layout)
    except (errors.NumbaError, NotImplementedError, LookupError, TypeError) as error:
        # Numba answers some unsupported constructs with plain Python errors.
        raise CompileError(f"kernel {symbol}: {error}\n{source}") from error


def _define(source: str) -> Any:
    """The Python function that ``source`` defines, its globals being the vocabulary."""
    namespace = {**vocabulary.load(), _EACH: range}
    # The source was written by our own emitter from a checked nest; no text of a model is in it.
    exec(compile(source, "<kernel>", "exec"), namespace)  # noqa: S102
    return namespace["kernel"]


class _Library:
    """Stands in for Numba's code library: makes modules, links nothing."""

    def __init__(self, target: Target, layout: str) -> None:
        self._target, self._layout = target, layout

    def create_ir_module(self, name: str) -> ir.Module:
        """An empty module for the target."""
        module = ir.Module(name)
        module.triple, module.data_layout = self._target.triple, self._layout
        module.evonnx_target = self._target
        return module

    def add_linking_library(self, library: Any) -> None:
        """Kernels call nothing of Numba's own."""


class _Interpreter(interpreter.Interpreter):
    """Bytecode to Numba's IR without the rewrites for ``with``, containers and keyword calls."""

    def post_process(self, peepholes: Any, func_ir: Any) -> Any:
        """Nothing to rewrite."""
        return func_ir


def _lower(function: Any, target: Target, layout: str) -> _Lower:
    identity = bytecode.FunctionIdentity.from_function(function)
    func_ir = _Interpreter(identity).interpret(bytecode.ByteCode(identity))
    flags = Flags()
    flags.error_model = "numpy"
    flags.fastmath = cpu.FastMathOptions({"contract"})
    flags.nrt = False
    typing_context, target_context = _contexts()
    with ConfigStack().enter(flags):
        context = target_context.subtarget(
            fastmath=flags.fastmath, error_model=create_error_model("numpy", target_context)
        )
        typemap, calltypes = infer(typing_context, func_ir)
        description = funcdesc.PythonFunctionDescriptor.from_specialized_function(
            func_ir, typemap, types.none, calltypes, inline=False, noalias=False,
            abi_tags=(), mangler=lambda name, argtypes, *, abi_tags=(), uid=None: "body",
        )  # fmt: skip
        library = _Library(target, layout)
        with context.push_code_library(library):
            lowerer = _Lower(context, library, description, func_ir)
            lowerer.lanes = target.lanes(32) if target.has("avx2") else 0
            lowerer.lower()
    return lowerer


class _TypingContext(BaseContext):
    """Types Python's operators, ``range`` and the words; knows no NumPy, lists, dicts, strings."""

    def load_additional_registries(self) -> None:
        """Nothing beyond the built-in registry, which the words are in too."""

    def install_registry(self, registry: Any) -> None:
        """Functions and globals, but no attributes: kernels have none, and theirs pull in NumPy."""
        if registry not in self._registries:
            self._registries[registry] = RegistryLoader(registry)
        loader = self._registries[registry]
        for template in loader.new_registrations("functions"):
            device = (getattr(template, "metadata", None) or {}).get("target") or "cpu"
            if device in ("cpu", "generic"):  # numba.cuda registers here as well
                self.insert_function(template(self))
        for value, kind in loader.new_registrations("globals"):
            existing = self._lookup_global(value)
            if existing is not None:
                self._remove_global(value)
                kind = existing.augment(kind)
            self.insert_global(value, kind)


class _TargetContext(cpu.CPUContext):
    """Lowers the same; Numba's runtime for allocated memory is never started."""

    def load_additional_registries(self) -> None:
        """The modules that register numbers and ranges when imported."""
        from numba.cpython import builtins, numbers, rangeobj  # noqa: F401


_CONTEXTS: list[Any] = []


def _contexts() -> tuple[Any, Any]:
    """Typing and target context, made and refreshed once: the words are registered by then.

    They are small ones of our own: filling Numba's full contexts takes longer than compiling a
    few kernels, and every operator would be typed against NumPy's universal functions first.
    """
    if not _CONTEXTS:
        typing_context = _TypingContext()
        target_context = _TargetContext(typing_context, "cpu")
        typing_context.refresh()
        target_context.refresh()
        _CONTEXTS.extend((typing_context, target_context))
    return _CONTEXTS[0], _CONTEXTS[1]


# --- lowering -------------------------------------------------------------------------------------


_SHORT = 8
_EACH = "each"
"""What ``range`` is called where the iterations are independent of one another."""


def _loops(func_ir: Any) -> tuple[set[int], set[int]]:
    """Blocks that head a ``range`` loop over literals with at most ``_SHORT`` trips in which there
    are only such loops, and those that head an ``each`` loop.

    Unrolled early, a window of a pooling or a small vector disappears, and the vectorizer sees the
    loop around it. Where another loop is inside, copies of it would be all that comes of it.
    """
    values: dict[str, Any] = {}
    for block in func_ir.blocks.values():
        for statement in block.find_insts(numba_ir.Assign):
            name = statement.target.name
            values[name] = None if name in values else statement.value

    def resolve(var: Any) -> Any:
        while isinstance(var, numba_ir.Var):
            var = values.get(var.name)
        return var

    short, independent = set(), set()
    for offset, block in func_ir.blocks.items():
        for expression in block.find_exprs("iternext"):
            iterator = resolve(expression.value)
            if not (isinstance(iterator, numba_ir.Expr) and iterator.op == "getiter"):
                continue
            made = resolve(iterator.value)
            if not (isinstance(made, numba_ir.Expr) and made.op == "call"):
                continue
            if resolve(made.func).name == _EACH:
                independent.add(offset)
            literals = [resolve(a) for a in made.args]
            if all(is_literal_range(c) for c in literals):
                if len(range(*(c.value for c in literals))) <= _SHORT:
                    short.add(offset)
    # The jump back from a long body goes to the prefix of the head's wide instruction.
    independent.update(offset for offset, block in func_ir.blocks.items()
                       if len(block.body) == 1 and isinstance(block.body[0], numba_ir.Jump)
                       and block.body[0].target in independent)
    return _innermost(func_ir.blocks, short), independent


def _innermost(blocks: dict[int, Any], short: set[int]) -> set[int]:
    """Those of some heads in whose loops no loop begins that is not one of these."""
    last: dict[int, int] = {}
    """Head -> the last block that jumps back to it."""
    for offset, block in blocks.items():
        jump = block.body[-1]
        if isinstance(jump, numba_ir.Jump) and jump.target <= offset:
            last[jump.target] = max(offset, last.get(jump.target, offset))
    while outer := {head for head in short if any(
            head < other <= last.get(head, head) for other in last.keys() - short)}:
        short = short - outer
    return short


class _Lower(lowering.Lower):
    """Numba's lowering without Python objects, reference counts and debug information."""

    lanes = 0
    """Of a vector of float32, where loads and stores can be masked; else 0."""

    def lower(self) -> None:
        self.genlower = None
        self._short_loops, self._independent = _loops(self.func_ir)
        self._vector_loops: dict[int, VectorLoop] = {}
        self._left: dict[int, str] = {}
        if self.lanes:
            self._vector_loops, self._left = find(
                self.blocks, self.fndesc.typemap, self._short_loops, self._independent, self.lanes)
        self._replaced = {loop.body for loop in self._vector_loops.values()}
        self._bodies = self._bodies_of(self._independent)
        self._offsets = {id(block): offset for offset, block in self.blocks.items()}
        self._offset = 0
        self.lower_normal_function(self.fndesc)

    def notes(self) -> dict[int, str]:
        """Line of a loop -> what became of it."""
        if not self.lanes:
            return {block.loc.line: "left to LLVM: the target has no vectors with masks"
                    for block in self.blocks.values()
                    if next(block.find_exprs("iternext"), None) is not None}
        notes = {self.blocks[head].loc.line: f"left to LLVM: {reason}"
                 for head, reason in self._left.items()}
        return notes | {self.blocks[head].loc.line: f"vectors of {self.lanes}"
                        for head in self._vector_loops}

    def _find_singly_assigned_variable(self) -> None:
        """Names defined by one statement live in LLVM values; the others in stack slots.

        A use that its only definition does not dominate (a loop's variable after the loop) is found
        by LLVM's verifier.
        """
        count: dict[str, int] = {}
        for block in self.blocks.values():
            for statement in block.body:
                if isinstance(statement, numba_ir.Assign):
                    name = statement.target.name
                    count[name] = count.get(name, 0) + 1
        self._singly_assigned_vars = {name for name, times in count.items() if times == 1}
        self._blk_local_varmap: dict[str, Any] = {}

    def lower_block(self, block: Any) -> None:
        self._offset = self._offsets[id(block)]
        if self._offset in self._replaced:
            self.builder.unreachable()
            return
        if loop := self._vector_loops.get(self._offset):
            self.module.evonnx_parallel = False
            VectorWriter(self, loop, self.lanes).write()
            self.builder.branch(self.blkmap[loop.exit])
            return
        self.module.evonnx_parallel = self._offset in self._bodies
        for statement in block.body:
            self.loc = statement.loc
            self.lower_inst(statement)

    def lower_inst(self, inst: Any) -> None:
        if isinstance(inst, numba_ir.Assign):
            value = self.lower_assign(self.typeof(inst.target.name), inst)
            self.storevar(value, inst.target.name)
        elif isinstance(inst, numba_ir.Jump):
            branch = self.builder.branch(self.blkmap[inst.target])
            if inst.target <= self._offset:
                wishes = []
                if inst.target in self._short_loops:
                    wishes.append(self.module.add_metadata(
                        [ir.MetaDataString(self.module, "llvm.loop.unroll.full")]))
                if inst.target in self._independent:
                    wishes.append(parallel_accesses(self.module))
                if wishes:
                    branch.set_metadata("llvm.loop", self._loop_identifier(wishes))
        elif isinstance(inst, (numba_ir.Del, numba_ir.PopBlock)):
            pass
        elif isinstance(inst, (numba_ir.Branch, numba_ir.Return)):
            super().lower_inst(inst)
        else:
            raise errors.UnsupportedError(f"statement {inst} in a kernel", loc=self.loc)

    def _loop_identifier(self, wishes: list[Any]) -> Any:
        """A loop identifier with what is wished for; one per loop, or they would be merged."""
        # It is a node whose first operand is the node itself.
        node = ir.values.MDValue(self.module, wishes, name=str(len(self.module.metadata)))
        node.operands = (node, *wishes)
        return node

    def _bodies_of(self, heads: set[int]) -> set[int]:
        """Offsets of the blocks of innermost loops: from behind the head to the jump back."""
        found: set[int] = set()
        for offset, block in self.blocks.items():
            last = block.body[-1]
            if isinstance(last, numba_ir.Jump) and last.target in heads and last.target < offset:
                found.update(o for o in self.blocks if last.target < o <= offset)
        return found

    @property
    def local_values(self) -> dict[str, Any]:
        """LLVM values of the names that one statement defines, as far as they are lowered."""
        return self._blk_local_varmap

    def storevar(self, value: Any, name: str, argidx: Any = None) -> None:
        if name in self._singly_assigned_vars:
            self._blk_local_varmap[name] = value
        else:
            self._alloca_var(name, self.typeof(name))
            self.builder.store(value, self.varmap[name])

    def alloca_lltype(self, name: str, lltype: Any, datamodel: Any = None) -> Any:
        with self.builder.goto_entry_block():
            return self.builder.alloca(lltype, name=name)

    def lower_assign(self, ty: Any, inst: Any) -> Any:
        value = inst.value
        if isinstance(value, numba_ir.Const) and type(value.value) is int:
            return ir.Constant(_I64, value.value)
        is_global = isinstance(value, numba_ir.Global)
        if is_global and isinstance(ty, types.Function) or isinstance(ty, types.StringLiteral):
            return self.context.get_dummy_value()
        if isinstance(value, numba_ir.Var):
            source = self.typeof(value.name)
            if types.unliteral(source) == types.unliteral(ty):
                return self.loadvar(value.name)
        return super().lower_assign(ty, inst)

    def lower_expr(self, resty: Any, expr: Any) -> Any:
        if expr.op == "call":
            fnty = self.typeof(expr.func.name)
            signature = self.fndesc.calltypes[expr]
            build = BUILDERS.get((fnty, signature.args))
            if build is not None:
                arguments = [self._argument(v, t) for v, t in zip(expr.args, signature.args)]
                return build(self.context, self.builder, signature, arguments)
            if signature == types.boolean(types.boolean):  # what `if x:` becomes
                return self._argument(expr.args[0], types.boolean)
            if signature.return_type == types.range_state64_type:
                return self._range([self._argument(v, types.int64) for v in expr.args])
        elif expr.op == "getiter" and resty == types.range_iter64_type:
            return self._start(self.loadvar(expr.value.name))
        elif expr.op == "iternext" and resty == types.Pair(types.int64, types.boolean):
            return self._next(self.loadvar(expr.value.name))
        elif expr.op in ("pair_first", "pair_second"):
            index = 0 if expr.op == "pair_first" else 1
            return self.builder.extract_value(self.loadvar(expr.value.name), index)
        return super().lower_expr(resty, expr)

    def _argument(self, var: Any, wanted: Any) -> Any:
        have = self.typeof(var.name)
        if have == wanted or types.unliteral(have) == types.unliteral(wanted):
            return self.loadvar(var.name)
        return self._cast_var(var, wanted)

    def lower_binop(self, resty: Any, expr: Any, op: Any) -> Any:
        op = INPLACE.get(op, op)
        left, right = (types.unliteral(self.typeof(v.name)) for v in (expr.lhs, expr.rhs))
        index = 0 if left == types.int64 else 1 if left in _FLOATS else None
        if index is None or left != right:
            return super().lower_binop(resty, expr, op)
        a, b = self.loadvar(expr.lhs.name), self.loadvar(expr.rhs.name)
        if op in _COMPARISON and index == 0:
            return self.builder.icmp_signed(_COMPARISON[op], a, b)
        if op in _COMPARISON:
            unordered = op is operator.ne
            compare = self.builder.fcmp_unordered if unordered else self.builder.fcmp_ordered
            return compare(_COMPARISON[op], a, b)
        method = _ARITHMETIC.get(op, ("", ""))[index]
        if not method:
            return super().lower_binop(resty, expr, op)
        if index == 1:
            flags: tuple[str, ...] = ("contract",)
        else:
            flags = () if method.endswith(("_", "xor")) else ("nsw",)
        keywords = {"flags": flags} if flags else {}  # bit operations take none
        return getattr(self.builder, method)(a, b, **keywords)

    # A range is the struct (start, stop, step); its iterator (pointer to the next index, stop,
    # step, unused), the layouts of Numba's own data models.

    def _range(self, bounds: list[Any]) -> Any:
        if len(bounds) == 1:
            bounds = [ir.Constant(_I64, 0), *bounds]
        if len(bounds) == 2:
            bounds = [*bounds, ir.Constant(_I64, 1)]
        state = ir.Constant(self.context.get_value_type(types.range_state64_type), ir.Undefined)
        for index, bound in enumerate(bounds):
            state = self.builder.insert_value(state, bound, index)
        return state

    def _start(self, state: Any) -> Any:
        builder = self.builder
        with builder.goto_entry_block():
            slot = builder.alloca(_I64)
        builder.store(builder.extract_value(state, 0), slot)
        kind = self.context.get_value_type(types.range_iter64_type)
        iterator = builder.insert_value(ir.Constant(kind, ir.Undefined), slot, 0)
        iterator = builder.insert_value(iterator, builder.extract_value(state, 1), 1)
        return builder.insert_value(iterator, builder.extract_value(state, 2), 2)

    def _next(self, iterator: Any) -> Any:
        builder = self.builder
        slot, stop, step = (builder.extract_value(iterator, i) for i in range(3))
        index = builder.load(slot)
        up = builder.icmp_signed(">", step, ir.Constant(_I64, 0))
        below = builder.icmp_signed("<", index, stop)
        above = builder.icmp_signed(">", index, stop)
        valid = builder.select(up, below, above)
        builder.store(builder.add(index, step, flags=("nsw",)), slot)
        kind = self.context.get_value_type(types.Pair(types.int64, types.boolean))
        pair = builder.insert_value(ir.Constant(kind, ir.Undefined), index, 0)
        return builder.insert_value(pair, valid, 1)


def _wrap(module: ir.Module, body: ir.Function, symbol: str, target: Target) -> None:
    """Add ``void symbol(i64*, i64*, i64, i64)`` around Numba's calling convention."""
    body.linkage = "internal"
    body.attributes.add("alwaysinline")
    pointer = _I64.as_pointer()
    kind = ir.FunctionType(ir.VoidType(), (pointer, pointer, _I64, _I64))
    outer = ir.Function(module, kind, symbol)
    outer.attributes.add("nounwind")
    # llvmlite knows no string attributes; its attribute set is a plain set that prints them.
    set.add(outer.attributes, f'"prefer-vector-width"="{target.vector_bits}"')
    builder = ir.IRBuilder(outer.append_basic_block())
    hidden = [builder.alloca(arg.type.pointee) for arg in body.args[:2]]
    builder.call(body, [*hidden, *outer.args])
    builder.ret_void()
