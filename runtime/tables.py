"""From a program and the values of its symbols to the driver's tables.

``PeriodTemplate`` holds, for one period, everything that does not depend on sizes: which size goes
into which word of which table. ``bind`` evaluates the period's sizes, plans its chunk of the arena,
and fills the tables with a few array operations, so that a new binding of a thousand steps costs a
millisecond or two. The finished ``Binding`` is immutable; calls share it. How steps become the
units and phases that threads share is decided in ``phases``.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..ir.errors import FeedError, LimitError, ModelError, quote
from ..ir.target import Target
from ..ir.types import TensorType
from .arena import Arena, Plan
from .driver import ROW_PARAMS, ROW_REFS, ROW_TILES, ROW_WORDS
from .phases import Shape, arrange, has_stages, share
from .plan import ALIGN, HostItem, Layout, Segment, aligned
from .program import RELATIONS, KernelStep, step_writes
from .ranges import Range
from .sizes import Sizes

_SLACK = 16
"""With symbolic sizes, planned sizes are rounded up by at most one part in this many, so that
neighbouring bindings (a growing sequence) share a plan."""
_PLANS = 8
"""Plans of a chunk that are kept."""


@dataclass(slots=True)
class Table:
    """The driver's table of one segment under one binding."""

    words: np.ndarray
    """Rows, then (base, offset) pairs, then parameters; int64. Rows hold absolute addresses of the
    other two parts."""
    address: int
    count: int
    parallel: bool
    """Whether any step is parallel."""
    scratch: int
    """Bytes of scratch per thread."""
    widest: int
    """Largest number of buffers of a step."""
    shape: Shape
    """Units and phases."""
    starts: np.ndarray | None = None
    """Where steps have several launches: the first row of each step, and the number of rows. None:
    each step is one row."""

    def rows_of(self, step: int) -> tuple[int, int]:
        """The first and the last row of a step."""
        if self.starts is None:
            return step, step
        return int(self.starts[step]), int(self.starts[step + 1]) - 1


@dataclass(frozen=True, slots=True)
class ArraySpec:
    """Where a buffer's array is: base slot, byte offset, dtype, shape."""

    slot: int
    offset: int
    dtype: np.dtype
    shape: tuple[int, ...]


@dataclass(slots=True, eq=False)
class Binding:
    """One period under one binding of its symbols."""

    values: tuple[int, ...]
    """Values of all symbols known at this period."""
    shapes: tuple[Any, ...]
    """Shapes of the inputs; None for host values."""
    tables: list[Table | None]
    """By item of the layout; None for items of other periods and host-level items."""
    chunk: int
    """Bytes of the arena chunk of this period."""
    bound: int
    """Bytes no plan of this chunk could be below."""
    allocate: list[tuple[int, int]]
    """(base slot, bytes) of the outputs whose size became known."""
    offsets: dict[int, int]
    """Arena offset, or absolute address, of every root known by now."""
    arrays: dict[int, ArraySpec]
    """Buffers that Python reads at this period."""
    sizes: list[int]
    parent: Binding | None
    """The period before."""
    shift: int
    """Bytes of address table at the start of a thread's private memory."""
    stride: int
    """Bytes of private memory per thread: address table, scratch, distance to the next."""
    parallel: bool
    """Whether a step of this period is split."""
    ranges: Sequence[Range] = ()
    """What the values of the inputs must keep to; of the first period only."""

    @property
    def nbytes(self) -> int:
        """About how many bytes this takes (numbers of 32 bytes, entries of 8 to 100)."""
        words = sum(t.words.nbytes for t in self.tables if t is not None)
        entries = 40 * len(self.sizes) + 100 * len(self.offsets) + 300 * len(self.arrays)
        return words + entries + 1024


class _SegmentTemplate:
    """Numbered sizes of one segment's table."""

    def __init__(
        self, shape: Layout, segment: Segment, sizes: Sizes, addresses: Mapping[str, int]
    ) -> None:
        program = shape.program
        steps = [program.steps[i] for i in range(segment.first, segment.last)]
        kernels = [s for s in steps if isinstance(s, KernelStep)]
        count = len(kernels)
        self.steps = kernels
        self.count = count
        self.rows = np.zeros((count, ROW_WORDS), np.int64)
        slots: list[int] = []
        params: list[int] = []
        self.ref_roots: list[int] = []
        ref_offsets: list[int] = []
        ref_bytes: list[int] = []
        self.accesses: list[list[tuple[int, bool]]] = []
        """Per step: (reference number, written) of every buffer that can change."""
        for row, step in zip(self.rows, kernels):
            symbol = program.kernels[step.kernel].symbol
            row[:4] = (addresses[symbol], len(step.buffers), len(slots) * 2, len(params))
            params += [sizes.slot(d) for d in step.params]
            written = set(step_writes(step))
            touched: list[tuple[int, bool]] = []
            for b in step.buffers:
                root = shape.roots[program.roots[b]]
                if root.kind == "host":
                    raise ModelError(f"kernel {step.kernel} is given the host value {b}")
                if root.kind not in ("const", "input"):
                    touched.append((len(slots), b in written))
                slots.append(root.slot)
                self.ref_roots.append(program.roots[b])
                ref_offsets.append(sizes.slot(program.offsets[b]))
                kind = program.buffers[b].type
                assert isinstance(kind, TensorType)
                ref_bytes.append(sizes.slot(kind.nbytes()))
            self.accesses.append(touched)
        self.slots = np.array(slots, np.int64)
        self.ref_offsets = np.array(ref_offsets, np.int64)
        self.ref_bytes = np.array(ref_bytes, np.int64)
        self.params = np.array(params, np.int64)
        per_step = ("tiles", "scratch_bytes", "flops", "nbytes")
        self.step_sizes = np.array(
            [[sizes.slot(getattr(s, name)) for s in kernels] for name in per_step], np.int64
        ).reshape(len(per_step), count)
        self.widest = max((len(s.buffers) for s in kernels), default=0)
        self.given = np.array([s.threads or 0 for s in kernels], np.int64)
        self.staged = has_stages(kernels)
        self.rounds = (
            None if all(s.rounds is None for s in kernels)
            else [None if s.rounds is None else sizes.slot(s.rounds) for s in kernels]
        )
        """Size slots of the steps' numbers of launches; None where no step numbers them."""

    def fill(
        self, values: np.ndarray, offsets: Mapping[int, int], target: Target, threads: int
    ) -> Table:
        """The table for evaluated sizes and the roots' offsets."""
        tiles, scratch, flops, nbytes = values[self.step_sizes]
        given, accesses, steps = self.given, self.accesses, self.steps
        launches, params, starts = self.rows, values[self.params], None
        if self.rounds is not None:
            counts, launches, params = self._launches(values)
            starts = np.concatenate([[0], counts.cumsum()])
            of = np.repeat(np.arange(self.count), counts)
            tiles, given, flops, nbytes = (a[of] for a in (
                tiles, given, flops // counts, nbytes // counts))
            accesses, steps = [accesses[i] for i in of], [steps[i] for i in of]
        count = len(launches)
        rows = count * ROW_WORDS
        refs = len(self.slots) * 2
        words = np.zeros(rows + refs + len(params) + 1, np.int64)
        address = int(words.ctypes.data)
        table = words[:rows].reshape(count, ROW_WORDS)
        table[:] = launches
        table[:, ROW_REFS] = table[:, ROW_REFS] * 8 + (address + rows * 8)
        table[:, ROW_PARAMS] = table[:, ROW_PARAMS] * 8 + (address + (rows + refs) * 8)
        table[:, ROW_TILES] = tiles
        pairs = words[rows : rows + refs].reshape(-1, 2)
        pairs[:, 0] = self.slots
        low = np.array([offsets.get(r, 0) for r in self.ref_roots], np.int64)
        low += values[self.ref_offsets]
        pairs[:, 1] = low
        words[rows + refs : -1] = params
        shares = share(tiles, flops, nbytes, target, threads, given)
        shape = Shape()
        if any(shares) or self.staged and threads > 1:
            high = (low + values[self.ref_bytes]).tolist()
            spans = list(zip(self.slots.tolist(), low.tolist(), high))
            touched = [[(*spans[r], w) for r, w in step] for step in accesses]
            shape = arrange(table, shares, touched, steps)
        return Table(
            words, address, count, shape.phases > 0, int(scratch.max(initial=0)),
            self.widest, shape, starts,
        )  # fmt: skip

    def _launches(self, values: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Launches of each step, the rows of all of them, and all parameters: a launch with a
        number has its own."""
        assert self.rounds is not None
        counts = np.array([1 if k is None else max(1, values[k]) for k in self.rounds], np.int64)
        rows = np.repeat(self.rows, counts, axis=0)
        given, parts = values[self.params], []
        at = end = 0
        for row, slot, count, step in zip(self.rows, self.rounds, counts, self.steps):
            first, size = row[ROW_PARAMS], len(step.params)
            block = np.tile(given[first : first + size], (count, 1))
            if slot is not None:
                block = np.column_stack([block, np.arange(count)])
            rows[at : at + count, ROW_PARAMS] = end + block.shape[1] * np.arange(count)
            parts.append(block.reshape(-1))
            at, end = at + count, end + block.size
        return counts, rows, np.concatenate(parts)


class PeriodTemplate:
    """What ``bind`` needs of one period."""

    def __init__(self, shape: Layout, period: int, addresses: Mapping[str, int]) -> None:
        program = shape.program
        self.shape = shape
        self.period = period
        self.sizes = Sizes(shape.symbols[: shape.known[period]])
        self.dynamic = bool(self.sizes.symbols)
        self.arena: list[tuple[int, int, int, int]] = []
        """(root, size slot, first step, last step) of every buffer of the chunk."""
        self.outputs: list[tuple[int, int]] = []  # base slot, size slot
        for number, root in shape.roots.items():
            kind = program.buffers[number].type
            if root.period != period or root.first < 0 or root.kind not in ("arena", "output"):
                continue
            assert isinstance(kind, TensorType)
            nbytes = self.sizes.slot(kind.nbytes())
            if root.kind == "arena":
                self.arena.append((number, nbytes, root.first, root.last))
            else:
                self.outputs.append((root.slot, nbytes))
        self.segments = [
            _SegmentTemplate(shape, item, self.sizes, addresses)
            if isinstance(item, Segment) and item.period == period
            else None
            for item in shape.items
        ]
        self.readable = {b: self._spec(b) for b in self._read_by_python()}
        self.checks = [
            (c, self.sizes.slot(c.a), self.sizes.slot(c.b))
            for c in program.checks
            if max(shape.period_of(c.a), shape.period_of(c.b)) == period
        ]
        self.ranges = [
            (r, self.sizes.slot(r.extent)) for r in (program.ranges if period == 0 else ())
        ]
        self._input_dims = [
            (k, axis, self.sizes.slot(dim), dim)
            for k, (_, _, kind) in enumerate(shape.inputs)
            if isinstance(kind, TensorType)
            for axis, dim in enumerate(kind.shape)
            if shape.period_of(dim) == period
        ]
        """(input, axis, slot, dim): what dimensions of inputs must be, as far as known now."""
        self._places = Arena([(first, last) for _, _, first, last in self.arena])
        self._arena_slots = np.array([slot for _, slot, _, _ in self.arena], np.int64)
        self._plans: OrderedDict[bytes, Plan] = OrderedDict()

    def _read_by_python(self) -> list[int]:
        """Buffers that host-level items of this period, or the end of the call, look at."""
        found: list[int] = []
        program = self.shape.program
        for item in self.shape.items:
            if isinstance(item, HostItem) and item.period == self.period:
                step = program.steps[item.position]
                found += [step.buffer] if hasattr(step, "buffer") else []
                found += [b for b in getattr(step, "inputs", ()) if b is not None]
        if self.period == self.shape.periods - 1:
            found += [o.buffer for o in self.shape.outputs]
        return [
            b for b in dict.fromkeys(found) if self.shape.roots[program.roots[b]].kind != "host"
        ]

    def _spec(self, b: int) -> tuple[int, int, np.dtype, list[int]]:
        program = self.shape.program
        kind = program.buffers[b].type
        assert isinstance(kind, TensorType)
        slot = self.shape.roots[program.roots[b]].slot
        dims = [self.sizes.slot(d) for d in kind.shape]
        return slot, self.sizes.slot(program.offsets[b]), kind.dtype.np, dims

    def _check_inputs(self, sizes: list[int], shapes: Sequence[Any]) -> None:
        for k, axis, slot, dim in self._input_dims:
            got = shapes[k][axis]
            if got != sizes[slot]:
                name, _, kind = self.shape.inputs[k]
                value = "" if isinstance(dim, int) else f" = {sizes[slot]}"
                raise FeedError(
                    f"input {quote(name)} axis {axis} has size {got}, expected {dim}{value} "
                    f"(the model's input is {kind})"
                )

    def bind(
        self,
        values: Sequence[int],
        shapes: tuple[Any, ...],
        parent: Binding | None,
        constants: Mapping[int, int],
        target: Target,
        threads: int,
    ) -> Binding:
        """The period under ``values`` of its symbols, for inputs of ``shapes``.

        Raises ``FeedError`` where a size check fails and ``LimitError`` for an absurd size.
        """
        sizes = self.sizes.evaluate(values)
        if max(map(abs, sizes), default=0) >= 1 << 62:
            raise LimitError("a size of the model does not fit 64 bits")
        self._check_inputs(sizes, shapes)
        for check, a, b in self.checks:
            if not check.holds(sizes[a], sizes[b]):
                text = RELATIONS[check.relation].format(sizes[a], sizes[b])
                raise FeedError(f"{text}: {check.message}")
        array = np.array(sizes, np.int64)
        needed = array[self._arena_slots]
        if needed.min(initial=0) < 0:
            number = self.arena[int(needed.argmin())][0]
            raise FeedError(f"buffer {number} has a negative size for these inputs")
        offsets = dict(parent.offsets) if parent is not None else dict(constants)
        plan = self._plan(needed)
        offsets |= {number: at for (number, _, _, _), at in zip(self.arena, plan.offsets)}
        program = self.shape.program
        tables = [
            None if t is None else t.fill(array, offsets, target, threads) for t in self.segments
        ]
        present = [t for t in tables if t is not None]
        shift = aligned(8 * (max((t.widest for t in present), default=0) + 1))
        # Threads write their address tables all the time: two lines apart, never shared.
        scratch = aligned(max((t.scratch for t in present), default=0))
        return Binding(
            values=tuple(values),
            shapes=shapes,
            tables=tables,
            chunk=plan.peak,
            bound=plan.bound,
            allocate=[(slot, sizes[size]) for slot, size in self.outputs],
            offsets=offsets,
            arrays={
                b: ArraySpec(
                    slot, offsets.get(program.roots[b], 0) + sizes[offset], dtype,
                    tuple(sizes[d] for d in dims),
                )
                for b, (slot, offset, dtype, dims) in self.readable.items()
            },
            sizes=sizes,
            ranges=[Range(r.input, r.column, sizes[k], r.message) for r, k in self.ranges],
            parent=parent,
            shift=shift,
            stride=shift + scratch + 2 * ALIGN,
            parallel=any(t.parallel for t in present),
        )  # fmt: skip

    def _plan(self, sizes: np.ndarray) -> Plan:
        """The plan of the chunk, one of the last if sizes are about the same."""
        if self.dynamic:
            digits = np.frexp(np.maximum(sizes, 1).astype(np.float64))[1]  # as int.bit_length
            step = np.int64(1) << np.maximum(6, digits - _SLACK.bit_length()).astype(np.int64)
            sizes = np.where(sizes < 4096, sizes, -(-sizes // step) * step)
        sizes = -(-sizes // ALIGN) * ALIGN
        key = sizes.tobytes()
        found = self._plans.get(key)
        if found is None:
            found = self._plans[key] = self._places.place(
                sizes, self.shape.program.patience)
            while len(self._plans) > _PLANS:
                self._plans.popitem(last=False)
        return found
