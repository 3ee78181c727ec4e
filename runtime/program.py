"""A program: what the compiler hands to the runtime, as plain immutable data.

A ``Program`` is a list of buffers and a list of steps over them. All sizes are ``Dim``: one program
serves every binding of its symbols. Kernels appear as source text with their symbol, constants by
digest with the transform that packs them; nothing here is compiled, loaded or allocated.

Symbols get their values in this order: the dimensions of the inputs, then, step by step,
``BindStep`` (a scalar that a kernel computed) and the results of ``ControlStep`` and ``HostStep``
(a dimension that is a bare, not yet known symbol takes the size of the result). The bodies of a
control step are closed: the attribute ``symbols``, pairs (name inside, size outside), gives them
the sizes that their inputs do not define (see ``ir.ops.control``).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from ..ir.dims import Dim, Expr, free_symbols
from ..ir.errors import VerifyError, quote
from ..ir.types import TensorType, Type, type_symbols

ROLES = ("input", "output", "const", "arena")


@dataclass(frozen=True, slots=True)
class Buffer:
    """A dense row-major piece of memory, or a host value (strings, sequences)."""

    name: str
    """Label for people."""
    type: Type
    role: str
    """``input`` (fed), ``output`` (allocated per call), ``const`` (packed once), ``arena``
    (planned, reused). A view's own role is not looked at: its memory is that of ``view_of``."""
    view_of: int | None = None
    """Number of the buffer whose memory this one shares, or None."""
    offset: Dim = 0
    """Bytes from the start of ``view_of``."""


@dataclass(frozen=True, slots=True)
class KernelCode:
    """One kernel: generated source and the C symbol it is compiled under."""

    source: str
    symbol: str
    externs: tuple[str, ...] = ()
    """Symbols of the micro-kernels it calls."""


@dataclass(frozen=True, slots=True)
class ConstSpec:
    """Where a constant buffer comes from."""

    digest: str
    """Key in the table of constants."""
    transform: tuple[Any, ...] | None = None
    """Name of a registered packing and its arguments; None takes the array as it is."""


@dataclass(frozen=True, slots=True)
class KernelStep:
    """Run one kernel over all its tiles."""

    kernel: str
    """Key in ``Program.kernels``."""
    buffers: tuple[int, ...]
    """What the kernel sees as ``bufs``; the runtime appends the thread's scratch address."""
    params: tuple[Dim, ...]
    """Size parameters, int64."""
    tiles: Dim
    """Size of the flattened parallel tile space; 0 skips the step."""
    scratch_bytes: Dim = 0
    """Scratch each thread needs."""
    flops: Dim = 0
    """Scalar operations of the whole step."""
    nbytes: Dim = 0
    """Bytes the whole step moves."""
    label: str = ""
    """Provenance for people."""
    n_outputs: int | None = None
    """The last ``n_outputs`` of ``buffers`` are written, the others only read. None: unknown, all
    may be written (which costs barriers)."""
    group: int | None = None
    """Number of the group of the schedule it belongs to."""
    stage: int | None = None
    """Steps that follow one another with the same number run side by side, those of one group in
    order."""
    threads: int | None = None
    """Threads that work on it, at most those of the team; None: the runtime's choice."""
    rounds: Dim | None = None
    """Launches in a row, at least one, each of which may read what the last wrote; the number of
    the launch is one more parameter, behind the others. None: one launch, without a number."""

    @property
    def sizes(self) -> tuple[Dim, ...]:
        """All sizes that say how it is launched."""
        rounds = () if self.rounds is None else (self.rounds,)
        return (*self.params, self.tiles, self.scratch_bytes, self.flops, self.nbytes, *rounds)


@dataclass(frozen=True, slots=True)
class BindStep:
    """Give ``symbol`` the value of an int64 scalar, once everything before has run."""

    symbol: str
    buffer: int


@dataclass(frozen=True, slots=True)
class ControlStep:
    """``if``, ``loop`` or ``scan`` over body programs; see ``runtime.control``."""

    kind: str
    attrs: Mapping[str, Any]
    inputs: tuple[int | None, ...]
    outputs: tuple[int, ...]
    bodies: tuple[Program, ...]


@dataclass(frozen=True, slots=True)
class HostStep:
    """A registered Python function on host values: strings, sequences, optionals."""

    kind: str
    attrs: Mapping[str, Any]
    inputs: tuple[int | None, ...]
    outputs: tuple[int, ...]


Step = KernelStep | BindStep | ControlStep | HostStep


RELATIONS = {
    "equal": "sizes {} and {} differ",
    "broadcast": "sizes {} and {} do not broadcast",
    "at_most": "size {} is larger than {}",
}
"""Relations between sizes, with what is said where they do not hold."""


@dataclass(frozen=True, slots=True)
class SizeCheck:
    """What must hold between two sizes at every binding."""

    relation: str
    """``equal``; ``broadcast``: ``a`` may also be 1; ``at_most``: ``a <= b``."""
    a: Dim
    b: Dim
    message: str
    """What assumes it, for people."""

    def __post_init__(self) -> None:
        if self.relation not in RELATIONS:
            raise VerifyError(f"size check: {quote(self.relation)} is not one of {[*RELATIONS]}")

    def holds(self, a: int, b: int) -> bool:
        """Whether these values of the sizes keep to it."""
        return a == b or self.relation == "broadcast" and a == 1 \
            or self.relation == "at_most" and a < b


@dataclass(frozen=True, slots=True)
class IndexRange:
    """Every element of an input, or of a column of its last axis, lies in ``[-extent, extent)``."""

    input: int
    """Number of the input."""
    column: int | None
    """Position along the input's last axis; None: all elements."""
    extent: Dim
    """Size of the axis that the elements are positions of."""
    message: str
    """What reads them, for people."""


@dataclass(frozen=True)
class Program:
    """A whole compiled model, or the body of a control step."""

    buffers: tuple[Buffer, ...]
    steps: tuple[Step, ...]
    inputs: tuple[tuple[str, int], ...]
    """(name, buffer) in the order of the signature."""
    outputs: tuple[tuple[str, int], ...]
    """(name, buffer) in the order of the signature."""
    kernels: Mapping[str, KernelCode] = field(default_factory=dict)
    constants: Mapping[int, ConstSpec] = field(default_factory=dict)
    """Buffer number -> where the constant comes from."""
    checks: tuple[SizeCheck, ...] = ()
    """What must hold between sizes at every binding."""
    ranges: tuple[IndexRange, ...] = ()
    """What must hold of the values of inputs at every call; sizes of inputs only."""
    patience: int = 0
    """How often a plan of the arena that is above its bound is tried to be made better."""

    @cached_property
    def roots(self) -> tuple[int, ...]:
        """For each buffer: the buffer that owns its memory."""
        found: list[int] = []
        for start in range(len(self.buffers)):
            at, seen = start, 0
            while (parent := self.buffers[at].view_of) is not None:
                if not 0 <= parent < len(self.buffers) or seen > len(self.buffers):
                    raise VerifyError(f"buffer {start} views {parent}: no such buffer, or a cycle")
                at, seen = parent, seen + 1
            found.append(at)
        return tuple(found)

    @cached_property
    def offsets(self) -> tuple[Dim, ...]:
        """For each buffer: byte offset into the memory of its root."""
        roots = self.roots
        found: list[Dim] = []
        for start in range(len(self.buffers)):
            at, total = start, self.buffers[start].offset
            while at != roots[start]:
                at = self.buffers[at].view_of  # type: ignore[assignment]
                total = total + self.buffers[at].offset
            found.append(total)
        return tuple(found)

    def walk(self) -> Iterator[Program]:
        """This program and all bodies inside it."""
        yield self
        for step in self.steps:
            if isinstance(step, ControlStep):
                for body in step.bodies:
                    yield from body.walk()

    def __str__(self) -> str:
        return print_program(self)


def step_reads(step: Step) -> tuple[int, ...]:
    """Buffers a step may read."""
    if isinstance(step, KernelStep):
        written = step.n_outputs or 0
        return step.buffers[: len(step.buffers) - written]
    if isinstance(step, BindStep):
        return (step.buffer,)
    return tuple(b for b in step.inputs if b is not None)


def step_writes(step: Step) -> tuple[int, ...]:
    """Buffers a step may write."""
    if isinstance(step, KernelStep):
        if step.n_outputs is None:
            return step.buffers
        return step.buffers[len(step.buffers) - step.n_outputs :]
    return () if isinstance(step, BindStep) else step.outputs


def side_by_side(steps: Sequence[Step]) -> list[tuple[int, int]]:
    """For each step: first and last position of the steps that may run at the same time because
    they are of one stage; its own position twice where it is of none."""
    found: list[tuple[int, int]] = []
    first = 0
    for last, step in enumerate(steps):
        following = steps[last + 1] if last + 1 < len(steps) else None
        number = stage_of(step)
        if number is None or following is None or stage_of(following) != number:
            found += [(first, last)] * (last + 1 - first)
            first = last + 1
    return found


def stage_of(step: Step) -> int | None:
    """The number of the step's stage; only kernels have one."""
    return step.stage if isinstance(step, KernelStep) else None


def bare_symbol(dim: Dim) -> str | None:
    """The name, if ``dim`` is one symbol and nothing else."""
    if isinstance(dim, Expr):
        names = free_symbols(dim)
        if len(names) == 1 and str(dim) == (name := next(iter(names))):
            return name
    return None


def input_symbols(program: Program) -> frozenset[str]:
    """Symbols that the shapes of the inputs define: those that are a whole dimension."""
    types = [program.buffers[b].type for _, b in program.inputs]
    dims = [d for t in types if isinstance(t, TensorType) for d in t.shape]
    return frozenset(name for d in dims if (name := bare_symbol(d)) is not None)


def print_program(program: Program, indent: str = "") -> str:
    """The program as text: buffers, steps, kernels by symbol, constants by digest."""
    return "\n".join(indent + line for line in _lines(program)) + "\n"


def _lines(program: Program) -> Iterator[str]:
    yield "program"
    for number, buffer in enumerate(program.buffers):
        yield "  " + _buffer_line(program, number, buffer)
    yield "  inputs " + ", ".join(f"{quote(name)}=%{b}" for name, b in program.inputs)
    for c in program.checks:
        yield f"  check {c.relation} {c.a}, {c.b}  # {c.message}"
    for r in program.ranges:
        column = "" if r.column is None else f"[..., {r.column}]"
        yield f"  range {quote(program.inputs[r.input][0])}{column} in {r.extent}  # {r.message}"
    for step in program.steps:
        yield "  " + step_line(step)
        if isinstance(step, ControlStep):
            for body in step.bodies:
                yield from ("    " + line for line in _lines(body))
    yield "  outputs " + ", ".join(f"{quote(name)}=%{b}" for name, b in program.outputs)


def _buffer_line(program: Program, number: int, buffer: Buffer) -> str:
    text = f"%{number} = {buffer.role} {buffer.type}"
    if buffer.view_of is not None:
        text = f"%{number} = view %{buffer.view_of} + {buffer.offset} : {buffer.type}"
    if (spec := program.constants.get(number)) is not None:
        text += f" @{spec.digest[:16]}"
        if spec.transform is not None:
            text += f" by {spec.transform[0]}({', '.join(map(str, spec.transform[1:]))})"
    return f"{text}  # {quote(buffer.name)}"


def step_line(step: Step) -> str:
    """One step as one line."""
    if isinstance(step, KernelStep):
        reads, writes = step_reads(step), step_writes(step)
        if step.n_outputs is None:
            reads = ()
        bufs = ", ".join(f"%{b}" for b in reads) + " -> " + ", ".join(f"%{b}" for b in writes)
        text = f"run {step.kernel}({bufs}) params=({', '.join(map(str, step.params))})"
        text += f" tiles={step.tiles}"
        if step.scratch_bytes != 0:
            text += f" scratch={step.scratch_bytes}"
        for name in ("stage", "threads", "rounds"):
            if (number := getattr(step, name)) is not None:
                text += f" {name}={number}"
        return text + (f"  # {quote(step.label)}" if step.label else "")
    if isinstance(step, BindStep):
        return f"bind {step.symbol} = %{step.buffer}"
    word = step.kind if isinstance(step, ControlStep) else f"host {step.kind}"
    ins = ", ".join("-" if b is None else f"%{b}" for b in step.inputs)
    outs = ", ".join(f"%{b}" for b in step.outputs)
    attrs = ", ".join(f"{k}={v!r}" for k, v in step.attrs.items())
    return f"{word}({ins}) -> {outs} {{{attrs}}}"


def check_program(program: Program, known: frozenset[str] = frozenset()) -> None:
    """Raises ``VerifyError``, showing the lines around, where the program breaks an invariant.

    Buffer numbers exist; views are acyclic and (where sizes are static) inside their parents;
    constants and inputs are never written; what is read was written before; sizes use only symbols
    that are defined by then; kernels exist. ``known`` are symbols given from outside (bodies).
    """
    _check_buffers(program)
    defined = set(known | input_symbols(program))
    written = {b for _, b in program.inputs} | set(program.constants)
    for position, step in enumerate(program.steps):
        reason = _step_fault(program, step, defined, written)
        if reason:
            raise VerifyError(_around(program, position, reason))
        written |= {program.roots[b] for b in step_writes(step)}
        if isinstance(step, BindStep):
            defined.add(step.symbol)
        elif isinstance(step, (ControlStep, HostStep)):
            for b in step.outputs:
                defined |= type_symbols(program.buffers[b].type)
        if isinstance(step, ControlStep):
            for body in step.bodies:
                check_program(body, frozenset(name for name, _ in step.attrs.get("symbols", ())))
    for name, b in program.outputs:
        if program.roots[b] not in written:
            raise VerifyError(f"output {quote(name)} (buffer {b}) is never written")


def _check_buffers(program: Program) -> None:
    count = len(program.buffers)
    for number, buffer in enumerate(program.buffers):
        if buffer.role not in ROLES:
            raise VerifyError(f"buffer {number} has role {buffer.role!r}, not one of {ROLES}")
        root = program.roots[number]
        if program.buffers[root].role == "const" and root not in program.constants:
            raise VerifyError(f"constant buffer {root} has no ConstSpec")
        if buffer.view_of is not None:
            parent = program.buffers[buffer.view_of]
            if not (isinstance(buffer.type, TensorType) and isinstance(parent.type, TensorType)):
                raise VerifyError(f"buffer {number} views a host value")
            excess = buffer.offset + buffer.type.nbytes() - parent.type.nbytes()
            if isinstance(excess, int) and excess > 0:
                raise VerifyError(f"buffer {number} ends {excess} bytes behind {buffer.view_of}")
    fed = [b for _, b in program.inputs]
    for what, numbers in (("input", fed), ("output", [b for _, b in program.outputs])):
        if bad := [b for b in numbers if not 0 <= b < count]:
            raise VerifyError(f"{what} refers to buffer {bad[0]} of {count}")
    if bad := [r.input for r in program.ranges if not 0 <= r.input < len(fed)]:
        raise VerifyError(f"a range is that of input {bad[0]} of {len(fed)}")
    for number, buffer in enumerate(program.buffers):
        if buffer.role == "input" and buffer.view_of is None and number not in fed:
            raise VerifyError(f"input buffer {number} belongs to no input")


def _step_fault(program: Program, step: Step, defined: set[str], written: set[int]) -> str | None:
    """Why a step is not valid here, or None."""
    touched = (*step_reads(step), *step_writes(step))
    if any(not 0 <= b < len(program.buffers) for b in touched):
        return "no such buffer"
    unknown_writes = isinstance(step, KernelStep) and step.n_outputs is None
    if not unknown_writes:
        for b in step_writes(step):
            role = program.buffers[program.roots[b]].role
            if role in ("const", "input"):
                return f"buffer {b} is {role} memory and must not be written"
        for b in step_reads(step):
            if program.roots[b] not in written:
                return f"buffer {b} is read before anything wrote it"
    if isinstance(step, KernelStep):
        if step.kernel not in program.kernels:
            return f"there is no kernel {step.kernel!r}"
        used = frozenset().union(*(free_symbols(d) for d in step.sizes))
        for b in step.buffers:
            used |= type_symbols(program.buffers[b].type) | free_symbols(program.offsets[b])
        if missing := sorted(used - defined):
            return f"size {missing[0]} is not known yet"
    return None


def _around(program: Program, position: int, reason: str) -> str:
    shown = [f"program: {reason}"]
    for i in range(max(0, position - 3), min(len(program.steps), position + 3)):
        mark = "->" if i == position else "  "
        shown.append(f" {mark} {i:4d}  {step_line(program.steps[i])}")
    return "\n".join(shown)
