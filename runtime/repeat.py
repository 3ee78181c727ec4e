"""Loops whose bodies are native: all iterations are one call of the driver.

The body of a ``loop`` or ``scan`` can be repeated without Python where it is one run of kernel
steps: no control flow or host functions inside, and no sizes but those that stay what they are (a
``BindStep`` may read what the body captures). Then one iteration differs from the next by addresses
only. Between two iterations the driver changes the base table: it moves on along sequences and
stacked items, and exchanges the memory that holds a state and the memory where the next one went.
A result that has no memory of its own (it is an input, or another result, too) is copied before.

``Repeated.run`` answers None where the sizes that arrive are of another kind (a state changes its
shape) or where there is nothing to do; then the iterations are called one by one, with the same
results.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from ..ir.errors import FeedError
from . import driver as native
from .frame import Frame, aligned_empty, data_address
from .plan import HostItem, Segment
from .program import BindStep, ControlStep
from .ranges import check_ranges
from .tables import ArraySpec, Binding

if TYPE_CHECKING:
    from .runner import Lease, Runner

_FIRST = 64
"""Iterations that items have memory for at first, where a loop may end early."""


@dataclass(slots=True)
class _Carried:
    """The memory of one state."""

    slot: int
    """Base slot where the body reads it."""
    places: tuple[np.ndarray, ...]
    """Where it is at the start; the second place, if it moves between two."""
    written: int | None = None
    """Base slot where the body writes it to the second place."""


@dataclass(slots=True)
class _Items:
    """What the iterations give, one after another along a new axis 0."""

    stacked: np.ndarray
    slot: int | None
    """Base slot where the body writes them; None: they are copied."""
    copy: int = -1
    """Number of the copy."""

    @property
    def step(self) -> int:
        """Bytes of one."""
        return self.stacked[:1].nbytes


@dataclass(slots=True)
class _Plan:
    """What one run works on."""

    frame: Frame
    states: list[_Carried] = field(default_factory=list)
    items: list[_Items] = field(default_factory=list)
    sequences: list[tuple[int, int]] = field(default_factory=list)
    """Base slot, and bytes from one element to the next."""
    copies: list[tuple[int, ...]] = field(default_factory=list)
    """As the driver reads them (``COPY_`` words)."""
    words: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    """The driver's ``REPEAT_`` words."""

    def copy(self, spec: ArraySpec, target: np.ndarray, step: int) -> int:
        """Has ``spec`` copied to ``target`` after each iteration; the number of the copy."""
        nbytes = target.nbytes if step == 0 else step
        self.copies.append((spec.slot, spec.offset, nbytes, data_address(target), step))
        return len(self.copies) - 1

    def finish(self, counter: int, condition: int) -> None:
        """Writes the words, but for the number of iterations."""
        adds = [*self.sequences, *((i.slot, i.step) for i in self.items if i.slot is not None)]
        swaps = [(s.slot, s.written) for s in self.states if s.written is not None]
        head = np.zeros(native.REPEAT_WORDS, np.int64)
        head[native.REPEAT_COUNTER], head[native.REPEAT_CONDITION] = counter, condition
        head[native.REPEAT_COPIES] = len(self.copies)
        head[native.REPEAT_ADDS], head[native.REPEAT_SWAPS] = len(adds), len(swaps)
        lists = [np.array(t, np.int64).reshape(-1) for t in (self.copies, adds, swaps)]
        self.words = np.concatenate([head, *lists])

    def widen(self, done: int, capacity: int) -> None:
        """Memory for ``capacity`` iterations, of which ``done`` are over."""
        for i in self.items:
            old = i.stacked
            i.stacked = aligned_empty((capacity, *old.shape[1:]), old.dtype)
            i.stacked[:done] = old[:done]
            following = data_address(i.stacked) + done * i.step
            if i.slot is not None:
                self.frame.bases[i.slot] = following
            else:
                at = native.REPEAT_WORDS + native.COPY_WORDS * i.copy + native.COPY_TARGET
                self.words[at] = following

    def state(self, k: int) -> np.ndarray:
        """State ``k`` now."""
        here = self.frame.bases[self.states[k].slot]
        return next(p for p in self.states[k].places if data_address(p) == here)

    def results(self, done: int, first: int) -> list[np.ndarray]:
        """States from number ``first`` on, and items, after ``done`` iterations."""
        states = [self.state(k) for k in range(first, len(self.states))]
        whole = (i.stacked for i in self.items)
        return [*states, *(a if len(a) == done else a[:done].copy() for a in whole)]


class Repeated:
    """The body of one control step, for calls of all its iterations; made by ``repeated``."""

    def __init__(self, body: Runner, step: ControlStep) -> None:
        self._body = body
        self._counted = step.kind == "loop"
        """Whether the body has a counter (its first input) and a condition (its first state)."""
        self._first = int(self._counted)
        """Number of the first state among the body's inputs."""
        self._carried = int(step.attrs["carried"]) + self._first
        self._sequences = int(step.attrs.get("sequences", 0))
        self._changing = self._first + self._carried + self._sequences
        """Number of the first input that is captured."""
        self._inputs = [b for _, b, _ in body.layout.inputs]
        self._slots = [body.layout.roots[b].slot for b in self._inputs]
        self._outputs = [o.buffer for o in body.layout.outputs]
        self._written = [
            body.layout.roots[body.program.roots[o.buffer]].slot if self._owns(k) else None
            for k, o in enumerate(body.layout.outputs)
        ]
        """Base slot of every output that has memory of its own."""

    def _owns(self, k: int) -> bool:
        layout, roots = self._body.layout, self._body.program.roots
        o = layout.outputs[k]
        return o.mode == "own" and layout.roots[roots[o.buffer]].kind == "output"

    def _stays(self, k: int) -> bool:
        """Whether an iteration gives on state ``k`` as it got it."""
        return self._outputs[k] == self._inputs[self._first + k]

    def native(self) -> bool:
        """Whether the body can be repeated natively at all."""
        body, layout = self._body, self._body.layout
        if not layout.items or not isinstance(layout.items[-1], Segment):
            return False
        roots = body.program.roots
        fixed = {*self._inputs[self._changing :], *body.program.constants}
        for item in layout.items[:-1]:
            bind = body.program.steps[item.position] if isinstance(item, HostItem) else None
            if not isinstance(bind, BindStep) or roots[bind.buffer] not in fixed:
                return False
        if any(layout.roots[b].kind != "input" for b in self._inputs):
            return False
        states = set(self._inputs[self._first : self._first + self._carried])
        for k, o in enumerate(layout.outputs):
            if o.mode == "host" or layout.roots[roots[o.buffer]].kind == "dynamic":
                return False
            copied = k < self._carried and not self._owns(k) and not self._stays(k)
            if copied and roots[o.buffer] in states:  # may be overwritten before it is copied
                return False
        return True

    def run(
        self, inputs: Sequence[Any], env: Mapping[str, int], lease: Lease
    ) -> list[np.ndarray] | None:
        """States and stacked items for the operands of the control step, or None; see the module.

        Raises what a call of the body raises.
        """
        states, sequences, captured, trips = self._operands(inputs)
        if trips == 0 or (self._counted and not states[0]):
            return None
        body, counter = self._body, np.zeros((), np.int64)
        own = [counter] if self._counted else []
        # With the ellipsis an element of rank 0 is a view of the memory, not a number of its own.
        arrays = [*own, *states, *(s[0, ...] for s in sequences), *captured]
        binding = body.bound(arrays, env)
        if not self._in_range(binding, [*states, *sequences, *captured], trips):
            return None
        with body.framed(binding, arrays) as frame:
            at = body.after_binds(frame, binding)
            plan = _Plan(frame)
            # Items first: what is copied of a state must be before the state is overwritten.
            self._place_items(plan, at, trips)
            if not self._place_states(plan, at, states):
                return None
            plan.sequences = [
                (self._slots[self._first + self._carried + k], s.nbytes // len(s))
                for k, s in enumerate(sequences)
            ]
            # A condition that stays is not looked at: it was true at the start.
            looks = self._counted and not self._stays(0)
            plan.finish(data_address(counter), self._slots[self._first] if looks else 0)
            return plan.results(self._iterate(plan, at, trips, lease), self._first)

    def _operands(
        self, inputs: Sequence[Any]
    ) -> tuple[list[np.ndarray], list[np.ndarray], list[np.ndarray], int | None]:
        """States, sequences, what is captured, and the most iterations (None: no bound)."""
        if not self._counted:
            end = self._carried + self._sequences
            sequences = [np.ascontiguousarray(s) for s in inputs[self._carried : end]]
            return list(inputs[: self._carried]), sequences, list(inputs[end:]), len(sequences[0])
        alive = np.asarray(inputs[1] is None or bool(inputs[1]))
        trips = None if inputs[0] is None else max(0, int(inputs[0]))
        end = 1 + self._carried
        return [alive, *inputs[2:end]], [], list(inputs[end:]), trips

    def _in_range(self, binding: Binding, arrays: Sequence[np.ndarray], trips: int | None) -> bool:
        """Whether indices are in range in every iteration, as far as it can be known before."""
        ranges = binding.ranges
        if not ranges:
            return True
        first, carried = self._first, self._carried
        unknown = set(range(first, first + carried)) | ({0} if first and trips is None else set())
        if any(r.input in unknown for r in ranges):
            return False
        counters = [np.array([(trips or 1) - 1], np.int64)] * first
        try:
            check_ranges(ranges, [*counters, *arrays], self._body.names)
        except FeedError:
            return False  # the iteration that is at fault says so, if it is ever reached
        return True

    def _place_states(self, plan: _Plan, binding: Binding, states: Sequence[np.ndarray]) -> bool:
        """Memory of the states; False where one changes its shape."""
        bases = plan.frame.bases
        for k, state in enumerate(states):
            spec = binding.arrays[self._outputs[k]]
            if spec.shape != state.shape:
                return False
            slot, written = self._slots[self._first + k], self._written[k]
            here = aligned_empty(spec.shape, state.dtype)
            here[...] = state
            bases[slot] = data_address(here)
            places: tuple[np.ndarray, ...] = (here,)
            if written is not None:
                there = aligned_empty(spec.shape, state.dtype)
                bases[written] = data_address(there)
                places = (here, there)
            elif not self._stays(k):
                plan.copy(spec, here, 0)
            plan.states.append(_Carried(slot, places, written))
        return True

    def _place_items(self, plan: _Plan, binding: Binding, trips: int | None) -> None:
        capacity = _FIRST if trips is None else min(trips, _FIRST) if self._counted else trips
        for k in range(self._carried, len(self._outputs)):
            spec, slot = binding.arrays[self._outputs[k]], self._written[k]
            items = _Items(aligned_empty((capacity, *spec.shape), spec.dtype), slot)
            if slot is None:
                items.copy = plan.copy(spec, items.stacked, items.step)
            else:
                plan.frame.bases[slot] = data_address(items.stacked)
            plan.items.append(items)

    def _iterate(self, plan: _Plan, binding: Binding, trips: int | None, lease: Lease) -> int:
        """Calls the driver until the loop is over; answers the iterations done."""
        done, words = 0, plan.words
        while True:
            room = native.REPEAT_MOST
            if plan.items:
                capacity = len(plan.items[0].stacked)
                if done == capacity:
                    capacity = 2 * done if trips is None else min(2 * done, trips)
                    plan.widen(done, capacity)
                room = capacity - done
            asked = room if trips is None else min(room, trips - done)
            words[native.REPEAT_COUNT] = asked
            done += (more := self._body.launch_repeated(plan.frame, binding, words, lease))
            over = words[native.REPEAT_CONDITION] and not plan.state(0)
            if more < asked or done == trips or over:
                return done


def repeated(body: Runner, step: ControlStep) -> Repeated | None:
    """How the iterations of ``step`` run natively; None where its body is of another kind."""
    if step.kind not in ("loop", "scan"):
        return None
    found = Repeated(body, step)
    return found if found.native() else None
