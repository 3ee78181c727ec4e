"""From a graph and its schedule to a program: lowers every group and wires the buffers.

Groups of equal structure are lowered once. Constants that a micro-kernel reads become packed
constants; other packed operands get a buffer and a packing step. Nothing here decides anything:
decisions are in the schedule.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from ..ir.errors import CompileError
from ..ir.graph import Graph, Node, Value
from ..ir.groups import OVERWRITING, extract, overwritable
from ..ir.schedule import Group, Schedule
from ..ir.target import Target
from ..ir.types import F32, TensorType
from ..kernels.group import GroupKernels, Kernel, group_kernels, opaque_kernel
from ..runtime.crew import Progress
from ..runtime.program import (
    BindStep,
    Buffer,
    ConstSpec,
    ControlStep,
    HostStep,
    KernelCode,
    KernelStep,
    Program,
    Step,
    side_by_side,
)  # fmt: skip
from ..search.cost import group_work
from .indices import index_ranges
from .reuse import in_place
from .sizes import size_checks

Lowered = dict[tuple[Any, ...], GroupKernels]
"""Kernels by structure, shared by all programs of one compilation."""
Region = Callable[[Graph], Program]
"""Compiles the region of a control op."""
Made = Callable[[KernelCode], None]
"""Is told of every new kernel at once."""


class ProgramBuilder:
    """Builds the program of one graph."""

    def __init__(self, graph: Graph, schedule: Schedule, target: Target, lowered: Lowered,
                 region: Region, made: Made) -> None:
        self.graph, self.schedule, self.target = graph, schedule, target
        self.lowered, self.region, self.made = lowered, region, made
        self.buffers: list[Buffer] = []
        self.of: dict[Value, int] = {}
        self.steps: list[Step] = []
        self.kernels: dict[str, KernelCode] = {}
        self.constants: dict[int, ConstSpec] = {}
        self.packed: dict[tuple[str, tuple[Any, ...]], int] = {}
        self.over: dict[int, tuple[int, ...]] = {}
        """Buffers that the kernel which writes one may overwrite with it."""

    def run(self, progress: Progress | None = None) -> Program:
        """Walks the schedule once; ``progress(stage, done, total)`` before each group."""
        inputs = tuple((v.node.attrs["name"], self.new(v, "input")) for v in self.graph.inputs)
        written = self.schedule.written(self.graph)
        for k, group in enumerate(self.schedule.groups):
            if progress is not None:
                progress("lower", k, len(self.schedule.groups))
            self.group(k, group, written[k])
        self.steps = _side_by_side(self.steps)
        outputs = tuple((name, self.buffer(v)) for name, v in self.graph.outputs)
        buffers = in_place(self.buffers, self.steps, [b for _, b in outputs], self.over)
        return Program(buffers, tuple(self.steps), inputs, outputs, self.kernels,
                       self.constants, tuple(size_checks(self.graph)), index_ranges(self.graph))

    # -- buffers ---------------------------------------------------------------------------

    def add(self, buffer: Buffer) -> int:
        self.buffers.append(buffer)
        return len(self.buffers) - 1

    def new(self, v: Value, role: str, view_of: int | None = None) -> int:
        """A buffer for a value."""
        self.of[v] = self.add(Buffer(f"v{len(self.buffers)}", v.type, role, view_of))
        return self.of[v]

    def buffer(self, v: Value) -> int:
        """The buffer of a value that was computed, or of a constant."""
        found = self.of.get(v)
        if found is None:
            if v.node.op != "const":
                raise CompileError(f"{v.node.op} is used before any group computes it")
            found = self.new(v, "const")
            self.constants[found] = ConstSpec(v.node.attrs["digest"])
        return found

    def result(self, v: Value) -> int:
        """A new buffer for a value a kernel writes."""
        return self.new(v, "output" if v in self.graph.output_values else "arena")

    # -- steps -----------------------------------------------------------------------------

    def group(self, number: int, group: Group, written: Sequence[Value]) -> None:
        """Steps of one group that gives the values ``written``."""
        first = len(self.steps)
        nodes = [self.graph.nodes[i] for i in group.computed]
        if group.implementation == "view":
            for n in nodes:
                self.new(n.out, "arena", self.buffer(n.operands[0]))
        elif group.implementation == "bind":
            self.of[nodes[0].out] = self.buffer(nodes[0].operands[0])
            self.steps.append(BindStep(nodes[0].attrs["name"], self.of[nodes[0].out]))
        elif group.implementation == "control":
            self.control(nodes[0])
        elif group.implementation == "host":
            self.host(nodes[0])
        elif group.implementation == "opaque":
            kernels = opaque_kernel(nodes[0], self.target)
            ins, outs = list(nodes[0].operands), list(nodes[0].outputs)
            self.launch(kernels, ins, outs, nodes)
        else:
            self.fused(group, nodes, written)
        for k in range(first, len(self.steps)):
            step = self.steps[k]
            if isinstance(step, KernelStep):
                self.steps[k] = replace(step, group=number, stage=group.stage,
                                        threads=group.threads)

    def fused(self, group: Group, nodes: list[Node], written: Sequence[Value]) -> None:
        cut = extract(self.graph, nodes, written)
        constants = frozenset(k for k, v in enumerate(cut.inputs) if v.node.op == "const")
        key = (cut.graph.digest, group.implementation, constants, group.variant)
        kernels = self.lowered.get(key)
        if kernels is None:
            kernels = group_kernels(cut.graph, group.implementation, self.target, constants,
                                    group.variant)
            self.lowered[key] = kernels
        self.launch(kernels, list(cut.inputs), list(cut.outputs), nodes)
        if group.implementation in OVERWRITING:
            over = bool(dict(group.variant).get("over"))
            for v in written:
                self.over[self.of[v]] = tuple(map(self.buffer, overwritable(nodes, written, over)))

    def launch(self, kernels: GroupKernels, ins: list[Value], outs: list[Value],
               nodes: list[Node]) -> None:
        """Kernel steps of a group."""
        used = {k for kernel in kernels.kernels for what, k in kernel.buffers if what == "in"}
        unread = kernels.packed_constant[0] if kernels.packed_constant else -1
        sources = {k: self.buffer(ins[k]) for k in used if k != unread}
        results = {k: self.result(v) for k, v in enumerate(outs)}
        packs = any(what == "packed" for k in kernels.kernels for what, _ in k.buffers)
        packed = self.pack(kernels, ins) if packs else -1
        if unread >= 0:
            sources[unread] = packed  # the kernel opens the operand but reads its packed copy
        flops, nbytes = group_work(nodes, ins, outs)
        label = " ".join(n.op for n in nodes)
        for kernel in kernels.kernels:
            table = {"in": sources, "out": results, "packed": {0: packed}}
            buffers = tuple(table[what][k] for what, k in kernel.buffers)
            if kernel.symbol not in self.kernels:
                code = KernelCode(kernel.source, kernel.symbol, kernel.externs)
                self.kernels[kernel.symbol] = code
                self.made(code)
            last = kernel is kernels.kernels[-1]
            self.steps.append(KernelStep(
                kernel.symbol, buffers, kernel.params, kernel.tiles, kernel.scratch,
                flops if last else 0, nbytes, label if last else f"pack {label}",
                _written(kernel), rounds=kernel.rounds))

    def pack(self, kernels: GroupKernels, ins: list[Value]) -> int:
        """The buffer of a packed operand."""
        size = (kernels.packed_elements,)
        if kernels.packed_constant is None:
            return self.add(Buffer(f"v{len(self.buffers)}", TensorType(F32, size), "arena"))
        k, recipes = kernels.packed_constant
        type_ = TensorType(recipes[0].dtype, size)
        parts = [p.spec for p in recipes]
        spec: tuple[Any, ...] = parts[0] if len(parts) == 1 else ("joined", *parts)
        digest = ins[k].node.attrs["digest"]
        found = self.packed.get((digest, spec))
        if found is None:
            found = self.add(Buffer(f"v{len(self.buffers)}", type_, "const"))
            self.packed[digest, spec] = found
            self.constants[found] = ConstSpec(digest, spec)
        return found

    def control(self, node: Node) -> None:
        """A step whose regions are programs of their own."""
        bodies = tuple(self.region(node.attrs[name]) for name in ("then", "else_", "body")
                       if name in node.attrs)
        attrs = {k: v for k, v in node.attrs.items() if not isinstance(v, Graph)}
        ins = tuple(None if v is None else self.buffer(v) for v in node.inputs)
        outs = tuple(self.new(v, "arena") for v in node.outputs)
        self.steps.append(ControlStep(node.op, attrs, ins, outs, bodies))

    def host(self, node: Node) -> None:
        ins = tuple(None if v is None else self.buffer(v) for v in node.inputs)
        outs = tuple(self.new(v, "arena") for v in node.outputs)
        self.steps.append(HostStep(node.attrs["kind"], dict(node.attrs["params"]), ins, outs))


def _written(kernel: Kernel) -> int:
    count = sum(what == "out" for what, _ in kernel.buffers)
    return count if count else 1


def _side_by_side(steps: list[Step]) -> list[Step]:
    """The steps of every stage in the order that lets threads take them up together: first what one
    thread does alone, then what many share. What many threads pack comes before the stage."""
    ordered: list[Step] = []
    for first, last in dict.fromkeys(side_by_side(steps)):
        stage = [s for s in steps[first : last + 1] if isinstance(s, KernelStep)]
        if first == last or len(stage) <= last - first:
            ordered += steps[first : last + 1]
            continue
        final = {s.group: s for s in stage}
        packing = [s for s in stage if s.threads != 1 and final[s.group] is not s]
        main = [s for s in stage if s.threads == 1 or final[s.group] is s]
        ordered += [replace(s, stage=None, threads=None) for s in packing]
        ordered += [s for s in main if s.threads == 1] + [s for s in main if s.threads != 1]
    return ordered


def build_program(graph: Graph, schedule: Schedule, target: Target, region: Region,
                  lowered: Lowered | None = None, progress: Progress | None = None,
                  made: Made = lambda code: None) -> Program:
    """The program of a scheduled graph; raises ``CompileError`` where a group cannot be lowered."""
    shared = {} if lowered is None else lowered
    return ProgramBuilder(graph, schedule, target, shared, region, made).run(progress)
