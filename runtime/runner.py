"""Runs one program: binds its symbols, takes a frame, drives segments and host-level steps.

A ``Runner`` is made once per program and once per body of a control step. ``run`` is re-entrant:
each call has a frame of its own, and the only shared state is the table of bindings. A call of a
program without host-level steps is one lookup, one native call, and the arrays around it.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from operator import attrgetter
from typing import Any

import numpy as np

from ..ir.dim_values import evaluate
from ..ir.dims import free_symbols
from ..ir.errors import FeedError, quote
from ..ir.ops.control import CONTROL
from ..ir.target import Target
from ..ir.types import TensorType, Type
from .bindings import Bindings, Kept
from .driver import Driver
from .frame import Block, Direct, Frame, data_address
from .host import HostFunction, lookup
from .plan import HostItem, Layout, Segment, layout
from .program import ControlStep, HostStep, Program, Step, bare_symbol
from .ranges import check_ranges
from .repeat import repeated
from .tables import Binding, PeriodTemplate
from .team import Holder, Team

_shape = attrgetter("shape")
Lend = Callable[[], "Lease"]
"""Makes the lease of one call."""

_FRAMES = 8
"""Idle frames a runner keeps."""


class Lease:
    """The right of one call to use the team, taken when first needed and given back at the end."""

    __slots__ = ("__weakref__", "_held", "_holder", "_team")

    def __init__(self, team: Team | None) -> None:
        self._team = team
        self._holder: Holder | None = None
        self._held = False

    def take(self) -> Team | None:
        """The team, or None if another call has it (then for the whole of this call)."""
        if not self._held and self._team is not None:
            self._holder = holder = weakref.ref(self)
            if self._team.acquire(holder):
                self._held = True
            else:
                self._team = None
        return self._team

    def give_back(self) -> None:
        """Lets the next call have the team."""
        if self._holder is not None and self._team is not None:
            self._team.release(self._holder)

    def __enter__(self) -> Lease:
        return self

    def __exit__(self, *_: object) -> None:
        self.give_back()


_ALONE = Lease(None)
_REGIONS = {"if": ("then", "else_"), "loop": ("body",), "scan": ("body",)}
"""Names of the bodies of control steps among their attributes."""


@dataclass(frozen=True, slots=True)
class Machine:
    """What all runners of one executable share."""

    driver: Driver
    target: Target
    threads: int
    addresses: Mapping[str, int]
    """Address of every kernel, by C symbol."""
    constants: Mapping[tuple[str, tuple[Any, ...] | None], np.ndarray]
    """Packed constants by (digest, transform)."""


@dataclass(frozen=True, slots=True)
class _HostCall:
    """A host step made ready for the bindings of a frame."""

    function: HostFunction
    attrs: Mapping[str, Any]
    inputs: list[Any]
    """Operands; None stands for those that are fetched, too."""
    fetched: list[tuple[int, int]]
    """Position and buffer of operands that lie elsewhere in every call."""
    values: int
    """Buffer of the result, if that is one host value; else -1."""


class Runner:
    """Runs calls of one program; see the module."""

    def __init__(self, program: Program, machine: Machine) -> None:
        self.program = program
        self.machine = machine
        self.layout: Layout = layout(program)
        self._constants = {
            b: machine.constants[spec.digest, spec.transform]
            for b, spec in program.constants.items()
        }
        self._addresses = {b: data_address(a) for b, a in self._constants.items()}
        self._periods = [
            PeriodTemplate(self.layout, k, machine.addresses) for k in range(self.layout.periods)
        ]
        self._host = {
            i: lookup(step.kind)
            for i, step in enumerate(program.steps)
            if isinstance(step, HostStep)
        }
        self._bodies = {
            i: tuple(type(self)(body, machine) for body in step.bodies)
            for i, step in enumerate(program.steps)
            if isinstance(step, ControlStep)
        }
        self._regions = {
            i: {**step.attrs, **dict(zip(_REGIONS[step.kind], self._bodies[i], strict=True))}
            for i, step in enumerate(program.steps)
            if isinstance(step, ControlStep)
        }
        """Attributes of control steps, their bodies as runners."""
        self.loops = {
            i: found
            for i, bodies in self._bodies.items()
            if isinstance(step := program.steps[i], ControlStep)
            and (found := repeated(bodies[0], step)) is not None
        }
        """Control steps whose iterations are one native call."""
        roots = self.layout.roots
        self._input_roots = [b for _, b, _ in self.layout.inputs]
        self.names = [name for name, _, _ in self.layout.inputs]
        self._input_slots = [roots[b].slot for b in self._input_roots]
        self._host_inputs = frozenset(b for b in self._input_roots if roots[b].kind == "host")
        self._sources = [
            (o.buffer, o.mode, o.mode == "own" and roots[program.roots[o.buffer]].kind == "output")
            for o in self.layout.outputs
        ]
        """Buffer and mode of every output, and whether its memory is an output's of a frame."""
        self._attached = [r.slot for r in roots.values() if r.kind in ("input", "dynamic")]
        self.direct = (
            len(self.layout.items) == 1
            and isinstance(self.layout.items[0], Segment)
            and not self.layout.given
            and all(roots[b].kind == "input" for b in self._input_roots)
            and all(own for _, _, own in self._sources)
        )
        """Whether a call is one native call that writes all outputs where the caller reads them."""
        self._lends = bool(self._bodies) or self.layout.periods > 1
        """Whether it shows only later if a call has steps that are split."""
        self._call = machine.driver.run
        self._bindings = Bindings()
        self._frames: list[Frame] = []

    # -- a call ----------------------------------------------------------------------------

    def run(
        self,
        arrays: Sequence[Any],
        env: Mapping[str, int] | None = None,
        lease: Lease | None = None,
        lend: Lend | None = None,
    ) -> list[Any]:
        """Outputs, in the order of the program, for dense arrays of the right dtypes.

        ``env`` gives the symbols that come from outside. ``lend`` makes the lease where there is
        none, if a step may be split. Raises ``FeedError`` where shapes do not fit. The arrays
        returned share no memory with the inputs or with later calls.
        """
        if self.direct:
            return self.run_direct(arrays, lease, lend)
        binding = self.bound(arrays, env)
        if binding.ranges:
            check_ranges(binding.ranges, arrays, self.names)
        frame = self._frame()
        try:
            frame.enter(0, binding, self.machine.threads)
            if lend is None or not (binding.parallel or self._lends):
                return self._general(frame, binding, arrays, lease or _ALONE)
            with lend() as lent:
                return self._general(frame, binding, arrays, lent)
        finally:
            if len(self._frames) < _FRAMES:
                self._frames.append(frame)

    def bound(self, arrays: Sequence[Any], env: Mapping[str, int] | None) -> Binding:
        """The binding of the first period for these inputs; raises ``FeedError``."""
        shapes = tuple([getattr(a, "shape", None) for a in arrays])
        given = tuple([env[s] for s in self.layout.given]) if env else ()
        latest = self._bindings.latest
        if latest is not None and latest.shapes == shapes and latest.parent is None and not given:
            return latest
        return self._bindings.get((shapes, given)) or self._bind(shapes, given)

    def _frame(self) -> Frame:
        try:
            return self._frames.pop()
        except IndexError:
            return Frame(self.layout.slots)

    def run_direct(
        self, arrays: Sequence[Any], lease: Lease | None = None,
        lend: Lend | None = None,
    ) -> list[Any]:
        """``run`` where ``direct``, written for few Python operations. ``lend`` makes the lease,
        which is given back, only where a step is split."""
        shapes = tuple(map(_shape, arrays))
        binding = self._bindings.latest
        if binding is None or binding.shapes != shapes:
            binding = self._bindings.get((shapes, ())) or self._bind(shapes, ())
        if binding.ranges:
            check_ranges(binding.ranges, arrays, self.names)
        try:
            frame = self._frames.pop()
        except IndexError:
            frame = Frame(self.layout.slots)
        try:
            frame.enter(0, binding, self.machine.threads)
            bases = frame.bases
            for slot, array in zip(self._input_slots, arrays):
                bases[slot] = data_address(array)
            direct = frame.direct
            if direct is None or direct.binding is not binding:
                direct = self._ready(frame, binding)
            if not direct.parallel:
                self._call(direct.address)
            elif lend is None:
                self._launch(direct.block, lease)
            else:
                with lend() as lent:
                    self._launch(direct.block, lent)
            return frame.taken(direct)
        finally:
            if len(self._frames) < _FRAMES:
                self._frames.append(frame)

    def _ready(self, frame: Frame, binding: Binding) -> Direct:
        """What stays the same for all direct calls of a binding on a frame."""
        table = binding.tables[0]
        assert table is not None
        specs = [binding.arrays[o.buffer] for o in self.layout.outputs]
        outputs = [(s.slot, s.shape, s.dtype) for s in specs]
        block = frame.block(binding, table)
        frame.direct = direct = Direct(binding, block, block.address, table.parallel, outputs)
        return direct

    def _native(self, frame: Frame, binding: Binding, item: int, lease: Lease) -> None:
        """One segment: one native call."""
        block = frame.ready.get(item)
        if block is None:
            table = binding.tables[item]
            if table is None:
                raise AssertionError("a segment was reached before its sizes were known")
            frame.ready[item] = block = frame.block(binding, table)
        self._launch(block, lease)

    def _launch(self, block: Block, lease: Lease | None) -> None:
        if lease is not None and block.table.parallel and (team := lease.take()) is not None:
            team.run(block)
        else:
            self._call(block.address)

    # -- all iterations of a loop, see `repeat` --------------------------------------------

    @contextmanager
    def framed(self, binding: Binding, arrays: Sequence[Any]) -> Iterator[Frame]:
        """A frame that has entered ``binding`` and holds the inputs; its outputs may be moved."""
        frame = self._frame()
        try:
            frame.enter(0, binding, self.machine.threads)
            for b, array in zip(self._input_roots, arrays):
                frame.attach(self.layout.roots[b].slot, array)
            yield frame
        finally:
            frame.leave(self._attached)
            frame.restore()
            if len(self._frames) < _FRAMES:
                self._frames.append(frame)

    def after_binds(self, frame: Frame, binding: Binding) -> Binding:
        """The last binding of a program that has nothing but ``BindStep`` between segments."""
        period = 0
        for item in self.layout.items:
            if isinstance(item, HostItem) and item.defines:
                period += 1
                binding = self._next(frame, binding, period, item)
        return binding

    def launch_repeated(
        self, frame: Frame, binding: Binding, words: np.ndarray, lease: Lease
    ) -> int:
        """The last segment again and again as the driver's ``REPEAT_`` words say; how often."""
        table = binding.tables[-1]
        assert table is not None
        block = frame.block(binding, table)
        if table.parallel and (team := lease.take()) is not None:
            return team.repeat(block, words)
        done: int = self.machine.driver.repeat(0, block.address, data_address(words))
        return done

    def _general(
        self, frame: Frame, binding: Binding, arrays: Sequence[Any], lease: Lease
    ) -> list[Any]:
        try:
            for b, slot, array in zip(self._input_roots, self._input_slots, arrays):
                if b in self._host_inputs:
                    frame.objects[b] = array
                else:
                    frame.attach(slot, array)
            period = 0
            for number, item in enumerate(self.layout.items):
                if isinstance(item, Segment):
                    self._native(frame, binding, number, lease)
                    continue
                if (position := item.position) in self._host:
                    self._host_step(frame, binding, number, position)
                elif position in self._bodies:
                    self._control_step(frame, binding, number, position, lease)
                if item.defines:
                    period += 1
                    binding = self._next(frame, binding, period, item)
            return [
                frame.output(binding.arrays[b]) if own else self._output(frame, binding, b, mode)
                for b, mode, own in self._sources
            ]
        finally:
            frame.leave(self._attached)

    def _next(self, frame: Frame, binding: Binding, period: int, item: HostItem) -> Binding:
        """The binding of the period that ``item`` starts."""
        values: list[int] = []
        for symbol, b, axis in item.defines:
            if axis < 0:
                value = int(self._value(frame, binding, b)[()])
                if value < 0:
                    raise FeedError(f"the model computed the negative size {symbol} = {value}")
            else:
                value = int(frame.objects[b].shape[axis])
            values.append(value)
        key = (binding, *values)
        found = self._bindings.get(key)
        if found is None:
            made = self._periods[period].bind(
                (*binding.values, *values), binding.shapes, binding, self._addresses,
                self.machine.target, self.machine.threads,
            )  # fmt: skip
            found = self._bindings.put(key, made)
        frame.enter(period, found, self.machine.threads)
        return found

    def _value(self, frame: Frame, binding: Binding, b: int) -> Any:
        """What buffer ``b`` holds: an array without a copy, or a host value."""
        root = self.program.roots[b]
        if self.layout.roots[root].kind == "host":
            return self._constants[b] if b in self._constants else frame.objects.get(b)
        spec = binding.arrays[b]
        if root in self._constants:
            owner = self._constants[root].reshape(-1).view(np.uint8)
            return np.ndarray(spec.shape, spec.dtype, owner, spec.offset - self._addresses[root])
        return frame.array(spec)

    def _output(self, frame: Frame, binding: Binding, b: int, mode: str) -> Any:
        value = self._value(frame, binding, b)
        return value.copy() if mode == "copy" else value

    # -- host-level steps ------------------------------------------------------------------

    def _host_step(self, frame: Frame, binding: Binding, item: int, position: int) -> None:
        call: _HostCall | None = frame.ready.get(item)
        if call is None:
            frame.ready[item] = call = self._ready_host(frame, binding, position)
        inputs = call.inputs
        if call.fetched:
            inputs = inputs.copy()
            for k, b in call.fetched:
                inputs[k] = self._value(frame, binding, b)
        outputs = call.function(inputs, call.attrs)
        if call.values >= 0 and len(outputs) == 1:
            frame.objects[call.values] = outputs[0]
        else:
            self._store_all(frame, self.program.steps[position], outputs, inputs)

    def _ready_host(self, frame: Frame, binding: Binding, position: int) -> _HostCall:
        """What stays the same for all calls of a host step under the bindings of a frame."""
        step = self.program.steps[position]
        assert isinstance(step, HostStep)
        inputs: list[Any] = []
        fetched = []
        for k, b in enumerate(step.inputs):
            stays = b is None or self._stays(frame, binding, b)
            inputs.append(None if b is None or not stays else self._value(frame, binding, b))
            if b is not None and not stays:
                fetched.append((k, b))
        hosted = [b for b in step.outputs if self._is_host(b)]
        values = hosted[0] if len(hosted) == len(step.outputs) == 1 else -1
        return _HostCall(self._host[position], step.attrs, inputs, fetched, values)

    def _stays(self, frame: Frame, binding: Binding, b: int) -> bool:
        """Whether ``_value`` of a buffer is the same in all calls of a binding on a frame: it is a
        constant or lies in an arena."""
        root = self.program.roots[b]
        if self.layout.roots[root].kind == "host":
            return b in self._constants
        return root in self._constants or binding.arrays[b].slot in frame.held

    def _is_host(self, b: int) -> bool:
        """Whether a buffer holds a host value, which memory is not planned for."""
        kind = self.program.buffers[b].type
        return self.layout.roots[b].kind == "host" or not isinstance(kind, TensorType)

    def _store_all(
        self, frame: Frame, step: Step, outputs: Sequence[Any], near: Sequence[Any]
    ) -> None:
        """Keeps the results of a host-level step; what may share memory with ``near`` is copied."""
        assert isinstance(step, (ControlStep, HostStep))
        if len(outputs) != len(step.outputs):
            raise AssertionError(f"{step.kind} gave {len(outputs)} of {len(step.outputs)} values")
        for b, value in zip(step.outputs, outputs):
            self._store(frame, b, value, near, step.kind)

    def _store(self, frame: Frame, b: int, value: Any, near: Sequence[Any], what: str) -> None:
        if self._is_host(b):
            frame.objects[b] = value
            return
        kind = self.program.buffers[b].type
        assert isinstance(kind, TensorType)
        array = np.asarray(value)
        if array.dtype != kind.dtype.np or array.ndim != kind.rank:
            raise AssertionError(f"{what} gave {array.dtype}{list(array.shape)} for {kind}")
        shared = any(isinstance(i, np.ndarray) and np.may_share_memory(array, i) for i in near)
        if shared or not array.flags.c_contiguous:
            array = array.copy()
        frame.objects[b] = array
        frame.attach(self.layout.roots[b].slot, array)

    def _control_step(
        self, frame: Frame, binding: Binding, item: int, position: int, lease: Lease
    ) -> None:
        """``if``, ``loop`` or ``scan``: the op's own definition, run on compiled bodies."""
        step = self.program.steps[position]
        assert isinstance(step, ControlStep)
        inputs = [None if b is None else self._value(frame, binding, b) for b in step.inputs]
        sized = frame.ready.get(item)
        if sized is None:
            known = dict(zip(self.layout.symbols, binding.values))
            env = {name: evaluate(dim, known) for name, dim in step.attrs.get("symbols", ())}
            types = tuple(_sized(self.program.buffers[b].type, known) for b in step.outputs)
            frame.ready[item] = sized = env, types
        env, types = sized
        loop = self.loops.get(position)
        outputs: Sequence[Any] | None = None
        if loop is not None:
            outputs = loop.run(inputs, env, lease)
        if outputs is None:

            def run(body: Any, arrays: Sequence[Any]) -> Sequence[Any]:
                result: Sequence[Any] = body.run(arrays, env, lease)
                return result

            outputs = CONTROL[step.kind](inputs, self._regions[position], types, run)
        # What a branch returns is memory of its own.
        self._store_all(frame, step, outputs, () if step.kind == "if" else inputs)

    # -- bindings --------------------------------------------------------------------------

    def _bind(self, shapes: tuple[Any, ...], given: tuple[int, ...]) -> Binding:
        """Checks shapes against the inputs' types and binds period 0."""
        env = dict(zip(self.layout.given, given, strict=True))
        env |= self._match(shapes)
        first = self._periods[0]
        values = [env[s] for s in first.sizes.symbols]
        binding = first.bind(
            values, shapes, None, self._addresses, self.machine.target, self.machine.threads
        )
        return self._bindings.put((shapes, given), binding)

    def _match(self, shapes: tuple[Any, ...]) -> dict[str, int]:
        """Symbols that are a whole dimension of an input, with the sizes that arrived."""
        found: dict[str, int] = {}
        where: dict[str, str] = {}
        for (name, _, kind), shape in zip(self.layout.inputs, shapes, strict=True):
            if not isinstance(kind, TensorType):
                continue
            if shape is None or len(shape) != kind.rank:
                got = "no tensor" if shape is None else f"shape {list(shape)}"
                raise FeedError(f"input {quote(name)} is {kind}, got {got}")
            for axis, (dim, size) in enumerate(zip(kind.shape, shape)):
                symbol = bare_symbol(dim)
                if symbol is None:
                    continue
                if found.setdefault(symbol, size) != size:
                    raise FeedError(
                        f"input {quote(name)} axis {axis} has size {size}, but {symbol} is "
                        f"{found[symbol]} by {where[symbol]}"
                    )
                where.setdefault(symbol, f"input {quote(name)} axis {axis}")
        return found

    def binding(self, shapes: Sequence[tuple[int, ...]]) -> Binding:
        """The binding for input shapes, without running; raises ``FeedError``."""
        key = tuple(tuple(s) for s in shapes)
        return self._bindings.get((key, ())) or self._bind(key, ())

    def recent(self) -> list[Binding]:
        """The bindings of the call that came last, period by period; empty before the first."""
        return self._bindings.chain()

    def kept(self) -> Kept:
        """What is kept for sizes seen before, the bodies' included."""
        own = self._bindings.kept()
        for bodies in self._bodies.values():
            for runner in bodies:
                own += runner.kept()
        return own

    @property
    def frame_bytes(self) -> int:
        """Bytes the idle frames hold, the bodies' included."""
        own = sum(f.nbytes for f in self._frames)
        return own + sum(r.frame_bytes for rs in self._bodies.values() for r in rs)

    def trim(self) -> None:
        """Frees the memory of idle frames and forgets bindings."""
        self._frames.clear()
        self._bindings.clear()
        for bodies in self._bodies.values():
            for runner in bodies:
                runner.trim()


def _sized(t: Type, known: Mapping[str, int]) -> Type:
    """A tensor of strings with the sizes that are known; other types as they are, since memory
    has its sizes from the binding."""
    if not isinstance(t, TensorType) or t.dtype.kind != "s":
        return t
    return t.with_shape(tuple(
        evaluate(d, known) if free_symbols(d) <= known.keys() else d for d in t.shape
    ))
