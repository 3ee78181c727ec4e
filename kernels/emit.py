"""The CPU emitter: a nest becomes readable Numba source over the words of ``intrinsics``.

Sizes become parameters: every stride, extent and divisor above a small bound is an argument, so
that repeated layers share one kernel and a new size compiles nothing. Statements are placed at the
outermost loop in which their operands are known (``scopes``), equal expressions once per scope.
The innermost loops become vectors (``vectors``, else LLVM); micro-kernels are called by name.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import numpy as np

from ..ir.access import Cond
from ..ir.axes import Axis
from ..ir.dim_functions import within
from ..ir.dims import Atom, Dim, Expr, free_vars, product
from ..ir.elements import Ex, parts, replaced
from ..ir.errors import CompileError
from ..ir.tiles import SHORT
from ..ir.types import BF16, BOOL, F16, F32, I32, I64, DType
from .functions import (
    ACCUMULATE,
    arithmetic,
    as_bits,
    carried,
    limited,
    pattern,
    register_dtype,
    rounds,
    within_int32,
)
from .nest import (
    Address,
    Claim,
    Domain,
    Loop,
    Nest,
    Nested,
    SetRows,
    Step,
    Store,
)  # fmt: skip
from .scopes import Writer, render

LITERAL = 2
"""Integers up to this magnitude are written into the source, larger ones become parameters."""

@dataclass(frozen=True, slots=True)
class Emitted:
    """A kernel's source and the sizes it is called with."""

    source: str
    params: tuple[Dim, ...]
    tiles: Dim
    """Number of parallel tiles."""
    scratch: Dim
    """Bytes of scratch per thread."""


class Emitter(Writer):
    """Writes one kernel."""

    def __init__(self, nest: Nest) -> None:
        super().__init__()
        self.nest = nest
        self.params: list[Dim] = []
        self.scratch: Dim = 0
        self.loop_names: dict[str, str] = {}
        self.volatile: set[int] = set()
        self.divisors: dict[object, str] = {}

    # -- sizes and positions ---------------------------------------------------------------

    def param(self, size: Dim) -> str:
        """A size as a literal or as a parameter."""
        shared = self.nest.shared
        small = isinstance(size, int) and abs(size) <= (1 if shared else LITERAL)
        if small or size in self.nest.literals:
            return str(size)
        # Sizes that happen to be equal in one layer are not equal in the next one.
        key = ("param", len(self.params)) if shared else ("param", size)
        if key not in self.root.names:
            name = f"p{len(self.params)}"
            self.params.append(size)
            self.root.names[key] = name
        return self.root.names[key]

    def dim_vars(self, *dims: Dim) -> frozenset[str]:
        """Loop variables that positions depend on; gathered ones stand for what is read."""
        found: set[str] = set()
        for d in dims:
            for name in free_vars(d):
                gather = self.nest.gathers.get(name)
                found |= {name} if gather is None else self.ex_vars(gather.value)
        return frozenset(found)

    def dim(self, d: Dim) -> str:
        """Source of a position or size (int64)."""
        if not isinstance(d, Expr) or not free_vars(d):
            return self.param(d)
        key = ("dim", d)
        found = self.scope.find(key)
        if found is not None:
            return found
        groups: dict[tuple[tuple[Atom, int], ...], Dim] = {}
        for monomial, coef in d.terms:
            inner = tuple((a, p) for a, p in monomial if _moves(a))
            outer = tuple((a, p) for a, p in monomial if not _moves(a))
            factor: Dim = Expr(((outer, coef),)) if outer else coef
            groups[inner] = groups.get(inner, 0) + factor
        if len(groups) == 1 and () not in groups:
            (inner, factor), = groups.items()
            if factor == 1 and len(inner) == 1 and inner[0][1] == 1:
                return self.atom(inner[0][0])
        parts = [self.term(inner, factor) for inner, factor in groups.items() if factor != 0]
        text = " + ".join(parts).replace("+ 0 - ", "- ").replace("+ -", "- ")
        return self.define(key, text, self.dim_vars(d), "o")

    def term(self, inner: tuple[tuple[Atom, int], ...], factor: Dim) -> str:
        """``factor * inner`` where only ``inner`` moves with the loops."""
        if not inner:
            return self.param(factor)
        names = [self.atom(a) for a, p in inner for _ in range(p)]
        if factor == 1:
            return " * ".join(names)
        if factor == -1:
            return "0 - " + " * ".join(names)
        return " * ".join([*names, self.param(factor)])

    def atom(self, a: Atom) -> str:
        if a.kind == "var":
            if a.name in self.nest.gathers:
                return self.gathered(a.name)
            if a.name not in self.loop_names:
                raise CompileError(f"loop variable {a.name} is used outside its loop")
            return self.loop_names[a.name]
        variables = self.dim_vars(*a.args)
        if a.kind in ("max", "min"):
            # In an order that does not depend on sizes: equal kernels shall be of equal source.
            text, *others = sorted(self.dim(arg) for arg in a.args)
            for other in others:
                text = f"i{a.kind}({text}, {other})"
            return self.define(("atom", a), text, variables, "o")
        if a.kind not in ("floordiv", "mod"):
            raise CompileError(f"{a.kind} of loop variables cannot be emitted")
        if _nonnegative(a.args[0]) and not free_vars(a.args[1]):
            quotient, divisor = self.quotient(*a.args)
            if a.kind == "floordiv":
                return quotient
            text = f"{self.dim(a.args[0])} - {quotient} * {divisor}"
            return self.define(("atom", a), text, variables, "o")
        x, y = (self.dim(arg) for arg in a.args)
        text = f"imod({x}, {y})"
        if a.kind == "floordiv":
            text = f"idiv({x} - {text}, {y})"
        return self.define(("atom", a), text, variables, "o")

    def quotient(self, x: Dim, y: Dim) -> tuple[str, str]:
        """Names of ``x // y`` and ``y``: one division also gives the remainder."""
        key = ("quotient", x, y)
        if key not in self.divisors:
            self.divisors[key] = self.param(y)
        divisor = self.divisors[key]
        return self.define(key, f"idiv({self.dim(x)}, {divisor})", self.dim_vars(x), "o"), divisor

    def gathered(self, name: str) -> str:
        gather = self.nest.gathers[name]
        raw = self.value(gather.value)
        extent = self.param(gather.extent)
        variables = self.ex_vars(gather.value)
        wide = raw if gather.value.dtype == I64 else self.define(
            ("wide", raw), f"i64({raw})", variables, "g")
        text = f"imax(imin(select({wide} < 0, {wide} + {extent}, {wide}), {extent} - 1), 0)"
        return self.define(("gather", name), text, variables, "g")

    def cond(self, conds: tuple[Cond, ...]) -> str:
        tests: list[str] = []
        for c in conds:
            e = self.dim(c.expr)
            if within(c.expr, c.lo, c.expr + 1) is not True:
                tests.append(f"({e} >= {self.dim(c.lo)})")
            if within(c.expr, c.expr, c.hi) is not True:
                tests.append(f"({e} < {self.dim(c.hi)})")
        text = tests[0] if tests else "bool_(1)"
        for t in tests[1:]:
            text = f"band({text}, {t})"
        variables = self.dim_vars(*(d for c in conds for d in (c.expr, c.lo, c.hi)))
        return self.define(("cond", conds), text, variables, "c")

    # -- values ----------------------------------------------------------------------------

    def ex_vars(self, ex: Ex) -> frozenset[str]:
        """Loop variables (and per-tile locals) an expression depends on; gathers resolved."""
        found: set[str] = set()
        stack, seen = [ex], {ex}
        while stack:
            e = stack.pop()
            dims: tuple[Dim, ...] = ()
            if e.kind == "load":
                dims = (e.data[1],)
                if e.data[0] in self.volatile:
                    found |= self.scope.bound
            elif e.kind == "index":
                dims = (e.data,)
            elif e.kind == "guard":
                dims = tuple(d for c in e.data for d in (c.expr, c.lo, c.hi))
            elif e.kind == "local":
                found.add(f"@{e.data}")
            for d in dims:
                for v in free_vars(d):
                    if v in self.nest.gathers:
                        stack.append(self.nest.gathers[v].value)
                    else:
                        found.add(v)
            for a in e.args:
                if a not in seen:
                    seen.add(a)
                    stack.append(a)
        return frozenset(found)

    def value(self, ex: Ex) -> str:
        """Name of the register that holds ``ex``."""
        if ex.kind == "const":
            return self.constant(ex)
        if ex.kind == "local":
            return str(ex.data)
        key = ("ex", ex)
        found = self.scope.find(key)
        if found is not None:
            return found
        if ex.kind == "guard":
            return self.guarded(ex)
        variables = self.ex_vars(ex)
        if ex.kind == "load":
            buffer, position = ex.data
            load = "ld" if ex.dtype == self.nest.buffers[buffer].dtype else "ldb"
            text = f"{load}(b{buffer}, {self.dim(position)})"
            return self.define(key, text, variables, "v")
        if ex.kind == "index":
            kind = "bool_" if ex.dtype == BOOL else ex.dtype.name
            return self.define(key, f"{kind}({self.dim(ex.data)})", variables, "v")
        return self.define(key, self.function(ex), variables, "v")

    def constant(self, ex: Ex) -> str:
        value, kind = ex.data, register_dtype(ex.dtype)
        if ex.dtype.is_coded or ex.dtype.kind == "c":
            return self.define(("ex", ex), pattern(ex), frozenset(), "k")
        if ex.dtype.is_float:
            f = float(value)
            if math.isfinite(f):
                return self.define(("ex", ex), f"{kind}({f!r})", frozenset(), "k")
            width = 64 if kind == "f64" else 32
            bits = np.asarray(f, dtype=f"f{width // 8}").view(f"u{width // 8}")
            return self.define(("ex", ex), f"bits_{kind}({int(bits)})", frozenset(), "k")
        if ex.dtype == BOOL:
            return self.define(("ex", ex), f"bool_({int(bool(value))})", frozenset(), "k")
        if ex.dtype == I64 and -(1 << 63) <= int(value) < (1 << 63):
            return self.define(("ex", ex), f"i64({int(value)})", frozenset(), "k")
        return self.define(("ex", ex), f"{kind}({int(value)})", frozenset(), "k")

    def function(self, ex: Ex) -> str:
        """Source of a scalar function."""
        name = ex.data[0]
        if name == "bitcast":
            return self.bitcast(ex)
        if name == "round" and ex.dtype == F32:
            return f"rint({self.rounded(ex)})"
        if name == "cast" and _is_short(ex.dtype) and (text := self.nearest(ex.args[0])):
            return f"{ex.dtype.name}({text})"
        if name == "div" and (text := self.by_reciprocal(ex)):
            return text
        args = [self.value(a) for a in ex.args]
        if name == "select":
            return f"select({', '.join(args)})"
        if any(x.dtype.kind == "c" for x in (ex, *ex.args)):
            raise CompileError(f"no scalar code for {name} of complex numbers: they can be moved")
        args = [f"from_{e.dtype.name}({a})" if e.dtype.is_coded else a
                for a, e in zip(args, ex.args, strict=True)]
        if name == "cast" and limited(ex):
            return f"{ex.dtype.name}(whole({args[0]}))"
        if name == "cast":
            return f"{'bool_' if ex.dtype == BOOL else ex.dtype.name}({args[0]})"
        text = arithmetic(ex, args, self.constant)
        return f"{ex.dtype.name}({text})" if rounds(ex) else text

    def by_reciprocal(self, ex: Ex) -> str:
        """Source of a division by a root that is the same in all of the loop, as a product with
        its reciprocal; "" of another division."""
        divisor = ex.args[1]
        variables = self.ex_vars(divisor)
        if not _is_root(divisor) or self.home(variables) is self.home(self.ex_vars(ex)):
            return ""
        one = self.constant(Ex("const", F32, (), 1.0))
        text = f"{one} / {self.value(divisor)}"
        inverse = self.define(("reciprocal", divisor), text, variables, "v")
        return f"{self.value(ex.args[0])} * {inverse}"

    def nearest(self, ex: Ex) -> str:
        """Source of the low 16 bits of what is cast to so few: a rounded float32 within int32, or
        the sum of one, converted, and a constant; "" of another form."""
        if ex.kind != "fn":
            return ""
        if ex.data[0] == "round" and ex.dtype == F32 and within_int32(ex):
            return f"nearest({self.rounded(ex)})"
        if ex.dtype == I32 and ex.data[0] == "add" and ex.args[1].kind == "const":
            first = ex.args[0]
            if first.kind == "fn" and first.data[0] == "cast":
                text = self.nearest(first.args[0])
                return text and f"iadd({text}, {self.value(ex.args[1])})"
        return ""

    def rounded(self, ex: Ex) -> str:
        """Source of what a rounding rounds."""
        return self.nearly(ex.args[0])

    def nearly(self, ex: Ex) -> str:
        """Source of a number of which only the nearest whole one is used."""
        if _divides(ex):
            x, y = (self.value(a) for a in ex.args)
            return f"quotient({x}, {y})"
        if ex.kind == "fn" and ex.data[0] in ("max", "min") and ex.args[1].kind == "const":
            return arithmetic(ex, [self.nearly(ex.args[0]), self.value(ex.args[1])], self.constant)
        return self.value(ex)

    def bitcast(self, ex: Ex) -> str:
        """Source of a reinterpretation: to the bits as an unsigned integer, then from them."""
        inner, source, to = ex.args[0], ex.args[0].dtype, ex.dtype
        if source.is_float and not source.is_coded:
            moved = carried(inner)
            bits = self.value(as_bits(inner) if moved else inner)
            bits = bits if moved else f"code_{source.name}({bits})"
        else:  # a number of fewer bits than its register must not leave its sign behind
            bits = self.value(inner)
            bits = f"u{source.bits}({bits})" if source.kind in "ib" else bits
        if to.is_float and not to.is_coded:
            return f"bits_{to.name}({bits})"
        if to.is_coded or to.kind == "c":
            return f"{to.code}({bits})"
        return f"{'bool_' if to == BOOL else to.name}({bits})"

    def guarded(self, ex: Ex) -> str:
        """A value read only where its conditions hold."""
        variables = self.ex_vars(ex)
        if self.nest.masked and self.maskable(ex):
            return self.define(("ex", ex), self.under_mask(ex), variables, "v")
        condition = self.cond(ex.data)
        home = self.home(variables)
        name = self.fresh("v")
        home.names[("ex", ex)] = name
        with self.writing(home):
            for head, branch in ((f"if {condition}:", ex.args[0]), ("else:", ex.args[1])):
                with self.block(head, barrier=True):
                    self.line(f"{name} = {self.value(branch)}")
        return name

    def maskable(self, ex: Ex) -> bool:
        """Whether a guarded value is computed of float32 alone, without guards inside."""
        return all(
            e.dtype == F32 and e.kind in ("load", "const", "fn")
            and (e.kind != "load" or self.nest.buffers[e.data[0]].dtype == F32)
            for arg in ex.args for e in parts([arg]))

    def under_mask(self, ex: Ex) -> str:
        """Source of a guarded value whose loads are under a mask, all else is not."""
        value, other = ex.args
        condition = self.cond(ex.data)
        if value.kind == "load":
            buffer, position = value.data
            return f"ldm(b{buffer}, {self.dim(position)}, {condition}, {self.value(other)})"
        zero = Ex("const", F32, (), 0.0)
        memo = {e: Ex("guard", F32, (e, zero), ex.data) for e in parts([value]) if e.kind == "load"}
        return f"select({condition}, {self.value(replaced(value, memo))}, {self.value(other)})"

    # -- structure -------------------------------------------------------------------------

    def bound(self, axis: Axis) -> str:
        """The end of a loop. As a number it lets LLVM unroll: that of short loops, and of those
        that take all they can take at most."""
        size = axis.hi
        keep = self.nest.unrolled or not self.nest.shared
        if isinstance(size, int) and (size <= SHORT and keep or size == axis.most):
            return str(size)
        return f"imin({self.dim(size)}, {axis.most})" if axis.most else self.dim(size)

    @contextmanager
    def loops(self, axes: tuple[Axis, ...], independent: bool = False, fixed: bool = False
              ) -> Iterator[None]:
        """Opens ``for`` loops over the axes; the iterations of the last may be ``independent``.
        With ``fixed`` their lengths are literals."""
        with ExitStack() as stack:
            for axis in axes:
                if not isinstance(axis.var, Expr):
                    continue
                name, = free_vars(axis.var)
                loop = self.fresh("j")
                lo, hi = self.dim(axis.lo), str(axis.hi) if fixed else self.bound(axis)
                bounds = hi if lo == "0" else f"{lo}, {hi}"
                self.loop_names[name] = loop
                word = "each" if independent and axis is axes[-1] else "range"
                stack.enter_context(
                    self.block(f"for {loop} in {word}({bounds}):", frozenset((name,))))
            yield

    def run(self) -> Emitted:
        """Writes the kernel."""
        opened: dict[int, Dim] = {}
        scratch_index = sum(d.role != "scratch" for d in self.nest.buffers)
        for k, decl in enumerate(self.nest.buffers):
            if decl.role != "scratch":
                self.line(f"b{k} = ptr_{decl.dtype.name}(bufs, {k})")
                continue
            if not opened:
                self.line(f"s = ptr_u8(bufs, {scratch_index})")
            opened[k] = self.scratch
            self.line(f"b{k} = part_{decl.dtype.name}(s, {self.param(self.scratch)}, {k + 100})")
            size = decl.size * decl.dtype.itemsize
            self.scratch = self.scratch + (size + 63) // 64 * 64
        self.volatile = set(opened) | {
            k for k, d in enumerate(self.nest.buffers) if d.role == "out"}
        base: Dim = 0
        for domain in self.nest.domains:
            base = base + self.domain(domain, base)
        sizes = [f"    p{k} = prm(params, {k})\n" for k in range(len(self.params))]
        source = "def kernel(bufs, params, begin, end):\n" + "".join(sizes) + render(self.root)
        return Emitted(source, tuple(self.params), base, self.scratch)

    def domain(self, domain: Domain, base: Dim) -> Dim:
        """Writes one tile space; answers its number of tiles."""
        rows = product(a.hi for a in domain.rows)
        per = domain.rows_per_tile
        tiles: Dim = rows if per == 1 else (rows + per - 1) // per
        tile = self.fresh("t")
        start = "begin" if base == 0 else f"imax(begin, {self.param(base)})"
        only = len(self.nest.domains) == 1
        stop = "end" if only else f"imin(end, {self.param(base + tiles)})"
        with self.block(f"for {tile} in range({start}, {stop}):"):
            first = tile if base == 0 else f"({tile} - {self.param(base)})"
            if per == 1:
                self.rows(domain, first)
                return tiles
            low, row = self.fresh("r"), self.fresh("r")
            self.line(f"{low} = {first} * {self.param(per)}")
            high = f"imin({low} + {self.param(per)}, {self.param(rows)})"
            with self.block(f"for {row} in range({low}, {high}):"):
                self.rows(domain, row)
        return tiles

    def rows(self, domain: Domain, row: str) -> None:
        """Splits a row number into the domain's variables and writes the steps."""
        rest = row
        moving = [a for a in domain.rows if isinstance(a.var, Expr)]
        for k, axis in reversed(list(enumerate(moving))):
            name, = free_vars(axis.var)
            if k == 0:
                self.loop_names[name] = rest
                continue
            here, up = self.fresh("j"), self.fresh("r")
            extent = self.param(axis.hi)
            self.line(f"{up} = idiv({rest}, {extent})")
            self.line(f"{here} = {rest} - {up} * {extent}")
            self.loop_names[name], rest = here, up
        names = frozenset(n for a in moving for n in free_vars(a.var))
        self.scope.bound = self.scope.bound | names | {"row"}
        self.lets(domain.lets)
        for step in domain.steps:
            self.step(step)

    def lets(self, lets: tuple[tuple[Dim, Dim], ...]) -> None:
        for variable, value in lets:
            name, = free_vars(variable)
            here = self.fresh("j")
            self.line(f"{here} = {self.dim(value)}")
            self.loop_names[name] = here
            self.scope.bound = self.scope.bound | {name}

    def step(self, step: Step) -> None:
        """Writes one step at the current scope."""
        if isinstance(step, Loop):
            self.loop(step)
        elif isinstance(step, Nested):
            with self.loops(step.axes):
                self.lets(step.lets)
                for inner in step.steps:
                    self.step(inner)
        elif isinstance(step, SetRows):
            with self.loops(step.axes, fixed=step.fixed):
                where = self.address(step.address)
                if step.conds:
                    where = f"select({self.cond(step.conds)}, {where}, addr(b{step.zeros}, 0))"
                self.line(f"st(b{step.table}, {self.dim(step.position)}, {where})")
        else:
            with self.loops(step.axes):
                args = ", ".join(self.argument(a) for a in step.args)
                self.line(f'ccall("{step.name}", {args})')

    def argument(self, a: Address | Dim | Ex) -> str:
        if isinstance(a, Ex):
            return self.value(a)
        return self.address(a) if isinstance(a, Address) else self.dim(a)

    def address(self, a: Address) -> str:
        return f"addr(b{a.buffer}, {self.dim(a.position)})"

    def loop(self, step: Loop) -> None:
        for name, ex in step.init:
            self.line(f"{name} = {self.value(ex)}")
        needed = frozenset().union(
            *(free_vars(d) for c in step.guard for d in (c.expr, c.lo, c.hi)))
        known, split = self.scope.bound, 0
        while not needed <= known and split < len(step.axes):
            known = known | free_vars(step.axes[split].var)
            split += 1
        with self.loops(step.axes[:split]), ExitStack() as stack:
            if step.guard:
                stack.enter_context(self.block(f"if {self.cond(step.guard)}:", barrier=True))
            stack.enter_context(self.loops(step.axes[split:], step.independent))
            self.body(step)
        for name, ex in step.finish:
            self.line(f"{name} = {self.value(ex)}")
        self.scope.bound = self.scope.bound | {f"@{name}" for name, _ in step.init}

    def body(self, step: Loop) -> None:
        for item in step.body:
            if isinstance(item, Store):
                self.store(item)
                continue
            if isinstance(item, Claim):
                self.line(f"claim(b{item.buffer}, {self.dim(item.position)})")
                continue
            value = self.value(item.value)
            fn = ACCUMULATE[item.value.dtype.kind][item.kind]
            if item.local:
                self.line(f"{item.local} = {fn}({item.local}, {value})")
            else:
                at = self.dim(item.position)
                self.line(f"st(b{item.buffer}, {at}, {fn}(ld(b{item.buffer}, {at}), {value}))")

    def store(self, item: Store) -> None:
        """Writes one element; a value that was only moved goes as its bits."""
        value, word = item.value, "st"
        same = self.nest.buffers[item.buffer].dtype == value.dtype
        if same and value.dtype in (F16, BF16) and carried(value):
            value, word = as_bits(value), "stb"
        name = self.value(value)
        self.line(f"{word}(b{item.buffer}, {self.dim(item.position)}, {name})")


def _is_short(dtype: DType) -> bool:
    """Whether it is an integer of 8 or 16 bits."""
    return dtype.is_integer and 8 <= dtype.bits <= 16


def _divides(ex: Ex) -> bool:
    """Whether a float32 is divided by a constant."""
    return ex.kind == "fn" and ex.data[0] == "div" and ex.dtype == F32 and (
        ex.args[1].kind == "const")


def _is_root(ex: Ex) -> bool:
    """Whether a float32 is a square root, or at least or else a moderate number. Neither it nor
    its reciprocal is denormal, so multiplying by that differs from dividing by one rounding, and
    not for zero, infinity and NaN. A number alone is none: quantizers divide by theirs."""
    if ex.kind != "fn" or ex.dtype != F32:
        return False
    if ex.data[0] == "sqrt":
        return True
    terms = ex.args[-2:]
    return ex.data[0] in ("max", "select") and any(map(_is_root, terms)) and all(
        _is_root(a) or _is_moderate(a) for a in terms)


def _is_moderate(ex: Ex) -> bool:
    """Whether a float32 is a number far from being denormal, as its reciprocal is."""
    return ex.kind == "const" and ex.dtype == F32 and 2.0**-100 < ex.data < 2.0**100


def _moves(a: Atom) -> bool:
    return a.kind == "var" or any(free_vars(x) for x in a.args)


def _nonnegative(d: Dim) -> bool:
    return isinstance(d, Expr) and all(c >= 0 for _, c in d.terms)


def emit(nest: Nest) -> Emitted:
    """Numba source of a nest, its parameters, tile count and scratch size."""
    return Emitter(nest).run()
