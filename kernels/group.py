"""One scheduled group to the kernels that run it."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

from ..ir.contraction import ContractionSpace
from ..ir.dims import Dim
from ..ir.elements import Refused
from ..ir.errors import CompileError, UnsupportedError
from ..ir.graph import Graph, Node
from ..ir.separable import SeparableSpace
from ..ir.target import Target
from ..ir.tiles import Space
from ..ir.variants import (
    Variant,
    check_variant,
    contraction_form,
    form_of,
    in_windows,
    lines_of_tile,
    read_once,
    separable_form,
    separable_tiling,
    tiling,
)  # fmt: skip
from .attention import lower_attention
from .contract import Contraction, brief_weights, lower_contraction
from .contract_bytes import lower_byte_contraction
from .depthwise import lower_depthwise
from .depthwise_over import lower_depthwise_over
from .emit import Emitted, emit
from .lower import lower_loops
from .micro import igemm, igemm_i8
from .nest import called
from .opaque import OPAQUE
from .opaque.base import Recipe
from .separable import lower_lines, lower_separable
from .winograd import lower_winograd


@dataclass(frozen=True, slots=True)
class Kernel:
    """Source and call of one kernel."""

    source: str
    symbol: str
    params: tuple[Dim, ...]
    tiles: Dim
    scratch: Dim
    """Bytes per thread."""
    buffers: tuple[tuple[str, int], ...]
    """What it is called with, in order: ("in", k), ("out", k) or ("packed", 0)."""
    externs: tuple[str, ...] = ()
    """Symbols of the micro-kernels it calls."""
    rounds: Dim | None = None
    """Launches in a row, as of a ``KernelStep``."""


@dataclass(frozen=True, slots=True)
class GroupKernels:
    """All kernels of a group, in order, and its packed operand if it has one."""

    kernels: tuple[Kernel, ...]
    packed_elements: Dim = 0
    """float32 elements of the packed operand; 0 for none."""
    packed_constant: tuple[int, tuple[Recipe, ...]] | None = None
    """(input number, recipes of its parts) where the packed operand is a constant."""


def _kernel(emitted: Emitted, buffers: list[tuple[str, int]], externs: tuple[str, ...] = ()
            ) -> Kernel:
    symbol = "k_" + hashlib.sha256(emitted.source.encode()).hexdigest()[:24]
    return Kernel(emitted.source, symbol, emitted.params, emitted.tiles, emitted.scratch,
                  tuple(buffers), externs)


def group_kernels(
    graph: Graph, implementation: str, target: Target, constants: frozenset[int],
    variant: Variant = (),
) -> GroupKernels:
    """Kernels of a group that was cut out by ``ir.groups.extract``, written as ``variant`` says;
    ``constants`` are its inputs that are known when the model is loaded. Raises ``CompileError``
    naming the ops."""
    ins: list[tuple[str, int]] = [("in", k) for k in range(len(graph.inputs))]
    outs: list[tuple[str, int]] = [("out", k) for k in range(len(graph.outputs))]
    given = dict(variant)
    try:
        if variant:
            check_variant(form_of(graph, implementation, constants), target, variant)
        if implementation == "attention":
            a = lower_attention(graph, target)
            return GroupKernels((_kernel(emit(a.nest), [*ins, *outs], a.externs),))
        if implementation == "contract":
            return _contraction(graph, target, constants, ins, outs, given)
        if implementation == "separable":
            return _separable(graph, target, constants, ins, outs, given)
        nest = lower_loops(graph, bool(given.get("unroll", 1)), target.has("avx2"))
        return GroupKernels((_kernel(emit(nest), [*ins, *outs], called(nest)),))
    except Refused as refusal:
        ops = " ".join(n.op for n in graph.nodes if n.op not in ("input", "const"))
        raise CompileError(f"the group ({ops}) cannot be lowered: {refusal}") from refusal


def _contraction(graph: Graph, target: Target, constants: frozenset[int],
                 ins: list[tuple[str, int]], outs: list[tuple[str, int]],
                 given: Mapping[str, int]) -> GroupKernels:
    space = ContractionSpace(Space(graph))
    once = read_once(graph, constants)
    form = contraction_form(space, once)
    if space.channel is not None and given.get("over"):
        nest, externs = lower_depthwise_over(graph, target)
        return GroupKernels((_kernel(emit(nest), [*ins, *outs], externs),))
    if space.channel is not None or in_windows(form, target, given):
        nest, externs = lower_depthwise(graph, target, bool(given.get("window", 1)))
        return GroupKernels((_kernel(emit(nest), [*ins, *outs], externs),))
    plan = tiling(form, target, given)
    if space.bytes:
        tile = igemm_i8(target, plan.rows)
        c = lower_byte_contraction(graph, tile, once, plan)
    else:
        brief = brief_weights(space, once) is not None
        tile = igemm(target, mr=plan.rows, panel=plan.panel, brief=brief)
        c = (lower_winograd if plan.winograd else lower_contraction)(graph, tile, once, plan)
    return _packed(c, ins, outs)


def _separable(graph: Graph, target: Target, constants: frozenset[int],
               ins: list[tuple[str, int]], outs: list[tuple[str, int]],
               given: Mapping[str, int]) -> GroupKernels:
    space, once = SeparableSpace(graph), read_once(graph, constants)
    form = separable_form(space, once)
    if space.product is None:
        nest = lower_lines(space, target, given.get("lines") or lines_of_tile(form, target))
        return GroupKernels((_kernel(emit(nest), [*ins, *outs], called(nest)),))
    lines, plan = separable_tiling(form, target, given)
    brief = brief_weights(space.product, once) is not None
    tile = igemm(target, mr=plan.rows, panel=plan.panel, brief=brief)
    return _packed(lower_separable(space, tile, once, plan, lines), ins, outs)


def _packed(c: Contraction, ins: list[tuple[str, int]], outs: list[tuple[str, int]]
            ) -> GroupKernels:
    """The kernels of a contraction whose right operand is packed."""
    packed = ("packed", 0)
    main = _kernel(emit(c.nest), [*ins, packed, *outs], c.externs)
    if c.panels is not None:
        return GroupKernels((main,), c.packed_elements, c.panels)
    assert c.pack is not None
    first = _kernel(emit(c.pack), [*ins, packed], called(c.pack))
    return GroupKernels((first, main), c.packed_elements)


def opaque_kernel(node: Node, target: Target) -> GroupKernels:
    """The kernel of an op that is a kernel of its own."""
    make = OPAQUE.get(node.op)
    if make is None:
        types = ", ".join(str(v.type) for v in node.operands)
        raise UnsupportedError(
            f"op {node.op} ({types}) has no kernel; of static sizes it is lowered to ops that have"
        )
    k = make(node, target)
    buffers = [("in", i) for i in range(len(node.operands))]
    buffers += [("out", i) for i in range(len(node.types))]
    if k.packed is not None:
        buffers[k.packed.operand] = ("packed", 0)
    kernel = Kernel(k.source, k.symbol, k.params, k.tiles, k.scratch_bytes, tuple(buffers),
                    k.externs, k.rounds)
    if k.packed is None:
        return GroupKernels((kernel,))
    return GroupKernels((kernel,), k.packed.elements, (k.packed.operand, k.packed.panels))
