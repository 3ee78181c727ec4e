"""A NumPy interpreter of nests: slow, exact about bounds, for tests.

It runs what the emitters would compile, element by element, with the scalar meaning of the op
table, so a difference from the reference interpreter is a fault of lowering and a difference from
compiled code a fault of emission. Every position is checked against its buffer. Addresses are
numbers (buffer, position) in one integer; micro-kernels are a few lines of NumPy each.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import product as cartesian
from typing import Any

import numpy as np

from ..ir.access import Cond
from ..ir.axes import Axis, name_of
from ..ir.dim_values import evaluate
from ..ir.dims import Dim, Expr
from ..ir.elements import Ex
from ..ir.errors import VerifyError
from ..ir.ops import lookup
from ..ir.types import TensorType
from ..ir.winograd import Transforms
from .micro.winograd import ADDRESSES
from .nest import Accumulate, Address, Call, Claim, Loop, Nest, Nested, SetRows, Step, Store

_SHIFT = 40
"""Bits of a position inside an address."""
_FOLD = {"sum": np.add, "prod": np.multiply, "max": np.maximum, "min": np.minimum}


class _Sizes(Mapping[str, int]):
    """Symbols, loop variables and, computed when asked for, gathered positions."""

    def __init__(self, machine: _Machine) -> None:
        self.machine = machine
        self.known: dict[str, int] = {}

    def __getitem__(self, name: str) -> int:
        gather = self.machine.nest.gathers.get(name)
        if gather is None:
            return self.known[name]
        extent = self.machine.size(gather.extent)
        at = int(self.machine.value(gather.value))
        return max(min(at + extent if at < 0 else at, extent - 1), 0)

    def __contains__(self, name: object) -> bool:
        return name in self.known or name in self.machine.nest.gathers

    def __iter__(self) -> Iterator[str]:
        return iter(self.known)

    def __len__(self) -> int:
        return len(self.known)


class _Machine:
    """State of one run."""

    def __init__(self, nest: Nest, arrays: Sequence[np.ndarray], binding: Mapping[str, int],
                 panel: int):
        self.nest, self.panel = nest, panel
        self.sizes = _Sizes(self)
        self.sizes.known.update(binding)
        self.locals: dict[str, Any] = {}
        self.buffers: list[np.ndarray] = []
        given = iter(arrays)
        for decl in nest.buffers:
            if decl.role != "scratch":
                self.buffers.append(next(given).reshape(-1))
                continue
            kind = np.float32 if decl.dtype.name in ("f16", "bf16") else decl.dtype.np
            self.buffers.append(np.zeros(self.size(decl.size), dtype=kind))

    def size(self, d: Dim) -> int:
        return evaluate(d, self.sizes)

    # -- values ----------------------------------------------------------------------------

    def at(self, buffer: int, position: Dim) -> int:
        """A checked position."""
        i = self.size(position)
        if not 0 <= i < self.buffers[buffer].size:
            raise VerifyError(f"b{buffer}[{position}] is element {i} of "
                              f"{self.buffers[buffer].size}")
        return i

    def holds(self, conds: tuple[Cond, ...]) -> bool:
        return all(self.size(c.lo) <= self.size(c.expr) < self.size(c.hi) for c in conds)

    def value(self, ex: Ex) -> Any:
        """The value of an expression as a 0-d array."""
        if ex.kind == "load":
            return np.asarray(self.buffers[ex.data[0]][self.at(*ex.data)])
        if ex.kind == "const":
            return np.asarray(ex.data).astype(ex.dtype.np)
        if ex.kind == "index":
            return np.asarray(self.size(ex.data)).astype(ex.dtype.np)
        if ex.kind == "local":
            return np.asarray(self.locals[ex.data])
        if ex.kind == "guard":
            return self.value(ex.args[0] if self.holds(ex.data) else ex.args[1])
        name, extra = ex.data
        definition = lookup(name)
        assert definition.reference is not None
        names = [k for k in definition.attrs if k != "to"]
        attrs = dict(zip(names, extra, strict=False)) | {"to": ex.dtype}
        args = [self.value(a) for a in ex.args]
        return definition.reference(args, attrs, (TensorType(ex.dtype, ()),))[0]

    # -- steps -----------------------------------------------------------------------------

    def loops(self, axes: tuple[Axis, ...]) -> Iterator[None]:
        """Runs through nested loops, setting their variables."""
        moving = [a for a in axes if isinstance(a.var, Expr)]
        if not moving:
            yield
            return
        first, rest = moving[0], tuple(moving[1:])
        for i in range(self.size(first.lo), self.size(first.hi)):
            self.sizes.known[name_of(first.var)] = i
            yield from self.loops(rest)

    def set_lets(self, lets: tuple[tuple[Dim, Dim], ...]) -> None:
        for variable, value in lets:
            self.sizes.known[name_of(variable)] = self.size(value)

    def step(self, step: Step) -> None:
        if isinstance(step, Loop):
            self.loop(step)
            return
        for _ in self.loops(step.axes):
            if isinstance(step, Nested):
                self.set_lets(step.lets)
                for child in step.steps:
                    self.step(child)
            elif isinstance(step, SetRows):
                where = Address(step.zeros, 0)
                if self.holds(step.conds):
                    where = step.address
                table = self.buffers[step.table]
                table[self.at(step.table, step.position)] = self.address(where)
            else:
                self.call(step)

    def loop(self, step: Loop) -> None:
        for name, ex in step.init:
            self.locals[name] = self.value(ex)
        for _ in self.loops(step.axes):
            if not self.holds(step.guard):
                continue
            for item in step.body:
                self.body(item)
        for name, ex in step.finish:
            self.locals[name] = self.value(ex)

    def body(self, item: Store | Accumulate | Claim) -> None:
        if isinstance(item, Claim):
            self.at(item.buffer, item.position)
            return
        value = self.value(item.value)
        if isinstance(item, Accumulate) and item.local:
            self.locals[item.local] = _FOLD[item.kind](self.locals[item.local], value)
            return
        target, i = self.buffers[item.buffer], self.at(item.buffer, item.position)
        if isinstance(item, Accumulate):
            value = _FOLD[item.kind](target[i], value)
        target[i] = value

    # -- micro-kernels ---------------------------------------------------------------------

    def argument(self, a: Address | Dim | Ex) -> Any:
        if isinstance(a, Ex):
            return self.value(a)
        return self.address(a) if isinstance(a, Address) else self.size(a)

    def address(self, a: Address) -> int:
        """Buffers count from 1 here, so that no address is 0. What is read there is checked."""
        return (a.buffer + 1 << _SHIFT) + self.size(a.position)

    def memory(self, address: int, count: int) -> np.ndarray:
        """``count`` elements from an address on, checked."""
        buffer, start = (address >> _SHIFT) - 1, address & ((1 << _SHIFT) - 1)
        found = self.buffers[buffer][start : start + count]
        if found.size != count:
            raise VerifyError(f"{count} elements from b{buffer}[{start}] leave the buffer")
        return found

    def call(self, step: Call) -> None:
        args = [self.argument(a) for a in step.args]
        gemm = re.fullmatch(r"mk_igemm_f32_(\d+)x\d+h?(?:of\d+)?(?:_bf16)?", step.name)
        table = re.fullmatch(r"mk_depthwise_(?:f32|[us]8z?)_(\d+)", step.name)
        window = re.fullmatch(r"mk_window_(?:f32|[us]8z?)_k(\d+)s(\d+)d(\d+)"
                              r"(?:g(\d+)to(\d+))?_(\d+)", step.name)
        block = re.fullmatch(r"mk_block_(?:f32|[us]8z?)_k(\d+)x(\d+)s(\d+)x(\d+)d(\d+)x(\d+)"
                             r"_(\d+)x(\d+)", step.name)
        square = re.fullmatch(r"mk_(pixels|results)_f32_(\d+)", step.name)
        if gemm:
            self.gemm(int(gemm[1]), self.panel, *args)
        elif table:
            self.depthwise(int(table[1]), *args)
        elif window:
            self.window(*(int(g or 1) for g in window.groups()), *args)
        elif block:
            self.block(*map(int, block.groups()), *args)
        elif square:
            (self.pixels if square[1] == "pixels" else self.results)(int(square[2]), *args)
        elif step.name == "mk_fetch":
            pass  # nothing is accessed
        elif step.name == "mk_turn_f32":
            self.turn(*args)
        else:
            raise VerifyError(f"the interpreter knows no micro-kernel {step.name}")

    def turn(self, src: int, lds: int, m: int, n: int, dst: int, ldd: int) -> None:
        """See ``micro.packing.turn_text``."""
        for i, j in np.ndindex(m, n):
            self.memory(dst + j * ldd + i, 1)[:] = self.memory(src + i * lds + j, 1)

    def pixels(self, side: int, rows: int, channels: int, dst: int, plane: int) -> None:
        """See ``micro.winograd.pixels_parameters``."""
        t = Transforms(side)
        table = self.memory(rows, t.size * ADDRESSES).reshape(t.size, ADDRESSES)
        square = [[self.memory(int(at), channels) for at in line[: t.size]] for line in table]
        for k, value in enumerate(t.pixels(square)):
            self.memory(dst + k * plane, channels)[:] = value

    def results(self, side: int, src: int, plane: int, channels: int, dst: int, ldd: int) -> None:
        """See ``micro.winograd.results_parameters``."""
        t = Transforms(side)
        square = [[self.memory(src + (i * t.size + j) * plane, channels) for j in range(t.size)]
                  for i in range(t.size)]
        for k, value in enumerate(t.results(square)):
            self.memory(dst + k * ldd, channels)[:] = value

    def gemm(self, mr: int, nr: int, rows: int, taps: int, first: int, klen: int, b: int,
             ahead: int, step: int, c: int, ldc: int, m: int, n: int, part: int, more: int,
             bias: int, res: int, ldr: int, lo: float, hi: float) -> None:
        """See ``micro.gemm.Tile``; ``nr`` is the width of a panel."""
        table = self.memory(rows, taps * mr).reshape(taps, mr)
        panel = self.memory(b, taps * klen * nr).reshape(taps, klen, nr)
        for r in range(min(m, mr)):
            a = np.stack([self.memory(int(table[t, r]) + first, klen) for t in range(taps)])
            value = np.einsum("tk,tkn->n", a, panel)[:n]
            if more:
                value = self.memory(part + r * nr, n) + value
            if bias:
                value = value + self.memory(bias, n)
            if res:
                value = value + self.memory(res + r * ldr, n)
            self.memory(c + r * ldc, n)[:] = np.minimum(np.maximum(value, lo), hi)

    def depthwise(self, mr: int, rows: int, taps: int, w: int, ldw: int, channels: int, out: int,
                  ldo: int, bias: int, lo: float, hi: float, zero: float = 0.0) -> None:
        """See ``micro.depthwise.table_parameters``."""
        table = self.memory(rows, taps * mr).reshape(taps, mr)
        for r in range(mr):
            total = np.zeros(channels, np.float32)
            for t in range(taps):
                pixel = self.memory(int(table[t, r]), channels).astype(np.float32) - zero
                total += pixel * self.memory(w + t * ldw, channels)
            self.finish(total, r, out, ldo, bias, lo, hi)

    def window(self, kw: int, stride: int, dilation: int, before: int, after: int, mr: int,
               pixels: int, x: int, ldx: int, ldy: int, kh: int, ldz: int, kd: int, left: int,
               right: int, outside: int, w: int, ldw: int, ldv: int, channels: int, out: int,
               ldo: int, bias: int, lo: float, hi: float, zero: float = 0.0) -> None:
        """See ``micro.depthwise.window_parameters``."""
        if pixels < mr:
            raise VerifyError(f"{pixels} pixels are fewer than the {mr} of the tile")
        for r in range(pixels):
            total = np.zeros(channels, np.float32)
            for kz, ky, kx in np.ndindex(kd, kh, kw):
                column = r * stride + kx * dilation
                inside = left <= column < right
                at = x + kz * ldz + ky * ldy + column * ldx
                pixel = self.memory(at if inside else outside, channels // after * before)
                own = np.repeat(pixel.reshape(-1, before).astype(np.float32) - zero, after, axis=0)
                for i in range(before):
                    tap = (ky * kw + kx) * before + i
                    total += own[:, i] * self.memory(w + kz * ldv + tap * ldw, channels)
            self.finish(total, r, out, ldo, bias, lo, hi)

    def block(self, kh: int, kw: int, down: int, across: int, dilation_y: int, dilation_x: int,
              lines: int, mr: int, pixels: int, x: int, ldx: int, ldy: int, top: int, bottom: int,
              ldz: int, kd: int, left: int, right: int, outside: int, w: int, ldw: int, ldv: int,
              channels: int, out: int, ldo: int, ldl: int, bias: int, lo: float, hi: float,
              zero: float = 0.0) -> None:
        """See ``micro.blocks.block_parameters``."""
        if pixels < mr:
            raise VerifyError(f"{pixels} pixels are fewer than the {mr} of the tile")
        for line, r in np.ndindex(lines, pixels):
            total = np.zeros(channels, np.float32)
            for kz, ky, kx in np.ndindex(kd, kh, kw):
                row, column = line * down + ky * dilation_y, r * across + kx * dilation_x
                if top <= row < bottom:
                    at = x + kz * ldz + row * ldy + column * ldx
                    inside = left <= column < right
                    pixel = self.memory(at if inside else outside, channels).astype(np.float32)
                    total += (pixel - zero) * self.memory(
                        w + kz * ldv + (ky * kw + kx) * ldw, channels)
            self.finish(total, r, out + line * ldl, ldo, bias, lo, hi)

    def finish(self, total: np.ndarray, r: int, out: int, ldo: int, bias: int, lo: float,
               hi: float) -> None:
        """Bias, limits and store of pixel ``r`` of the depthwise tiles."""
        value = total + self.memory(bias, total.size) if bias else total
        self.memory(out + r * ldo, total.size)[:] = np.minimum(np.maximum(value, lo), hi)


def run_nest(nest: Nest, arrays: Sequence[np.ndarray], binding: Mapping[str, int],
             panel: int = 8) -> None:
    """Runs every tile in order. ``arrays`` are the in and out buffers, in order, dense; results
    are written into them; ``panel`` is the width of packed panels. Raises ``VerifyError`` where a
    position leaves its buffer."""
    machine = _Machine(nest, arrays, binding, panel)
    with np.errstate(all="ignore"):
        for domain in nest.domains:
            axes = [a for a in domain.rows if isinstance(a.var, Expr)]
            for point in cartesian(*(range(machine.size(a.hi)) for a in axes)):
                for a, i in zip(axes, point, strict=True):
                    machine.sizes.known[name_of(a.var)] = i
                machine.set_lets(domain.lets)
                for step in domain.steps:
                    machine.step(step)
