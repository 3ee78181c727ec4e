"""Control flow: ``if``, ``loop`` and ``scan`` with regions.

A region is a closed ``Graph`` in an attribute. Values of the surrounding graph that it reads are
explicit operands, and sizes are explicit, too: the attribute ``symbols`` lists pairs (name inside,
size outside). Every other symbol that a region mentions is bound inside or is a size of one of its
inputs; those are defined anew by the shapes that arrive (the state of a loop may change its shape
from one iteration to the next). So a region can be optimized and run on its own.
The captured operands of ``if`` are those of the then branch (the first ``split`` of them), then
those of the else branch.

==========  ==========================================  =========================================
op          operands; region inputs                     region outputs; results
==========  ==========================================  =========================================
``if``      cond, captured...; captured...              values; values
``loop``    trips?, cond?, state..., captured...;       cond, state..., items...;
            i, cond, state..., captured...              state..., items stacked along a new axis 0
``scan``    state..., sequences..., captured...;        state..., items...;
            state..., elements..., captured...          state..., items stacked along a new axis 0
==========  ==========================================  =========================================

Result types are the attribute ``results`` (plain data, see ``host.result_spec``): what a region
computes may have sizes of its own, and those become new symbols outside, which the node defines.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import ModelError
from ..types import BOOL, I64, TensorType
from .base import Attributes, OpDef, Work, register, tensor
from .host import result_type

if TYPE_CHECKING:
    from ..graph import Graph

RunRegion = Callable[["Graph", Sequence[Any]], Sequence[Any]]
"""(region, arrays for its inputs) -> arrays of its outputs,."""


def _infer_results(types: tuple[Any, ...], attrs: Attributes) -> tuple[Any, ...]:
    return tuple(result_type(spec) for spec in attrs["results"])


def _match(op: str, what: str, region: Graph, inputs: Sequence[Any], outputs: int) -> None:
    if len(region.inputs) != len(inputs) or len(region.outputs) != outputs:
        raise ModelError(
            f"{op}: {what} takes {len(region.inputs)} values and gives {len(region.outputs)}, "
            f"but gets {len(inputs)} and must give {outputs}"
        )
    for v, t in zip(region.inputs, inputs, strict=True):
        own = v.type
        if t is None or not isinstance(own, TensorType) or not isinstance(t, TensorType):
            continue
        if own.dtype != t.dtype or own.rank != t.rank:
            raise ModelError(f"{op}: {what} expects {own} where it gets {t}")


def _infer_if(types: tuple[Any, ...], attrs: Attributes) -> tuple[Any, ...]:
    cond = tensor(types[0], "if")
    if cond.dtype != BOOL or cond.rank != 0:
        raise ModelError(f"if: the condition must be a bool scalar, got {cond}")
    split, count = 1 + attrs["split"], len(attrs["results"])
    _match("if", "the then branch", attrs["then"], types[1:split], count)
    _match("if", "the else branch", attrs["else_"], types[split:], count)
    return _infer_results(types, attrs)


def _infer_loop(types: tuple[Any, ...], attrs: Attributes) -> tuple[Any, ...]:
    own = (TensorType(I64, ()), TensorType(BOOL, ()))
    for t, wanted in zip(types[:2], own, strict=True):
        if t is not None and t != wanted:
            raise ModelError(f"loop: operand {t} must be {wanted}")
    _match("loop", "the body", attrs["body"], (*own, *types[2:]), 1 + len(attrs["results"]))
    return _infer_results(types, attrs)


def _infer_scan(types: tuple[Any, ...], attrs: Attributes) -> tuple[Any, ...]:
    carried, count = attrs["carried"], attrs["sequences"]
    elements = []
    for t in types[carried : carried + count]:
        t = tensor(t, "scan")
        if t.rank == 0:
            raise ModelError("scan: a sequence must have at least one axis")
        elements.append(t.with_shape(t.shape[1:]))
    inputs = (*types[:carried], *elements, *types[carried + count :])
    _match("scan", "the body", attrs["body"], inputs, len(attrs["results"]))
    return _infer_results(types, attrs)


# -- execution by the reference interpreter ------------------------------------------------------


def _run_if(args: Sequence[Any], attrs: Attributes, types: Any, run: RunRegion) -> tuple[Any, ...]:
    split = 1 + attrs["split"]
    if bool(np.asarray(args[0])):
        return tuple(run(attrs["then"], args[1:split]))
    return tuple(run(attrs["else_"], args[split:]))


def _run_loop(
    args: Sequence[Any], attrs: Attributes, types: Any, run: RunRegion
) -> tuple[Any, ...]:
    carried = attrs["carried"]
    trips = None if args[0] is None else int(args[0])
    alive = True if args[1] is None else bool(args[1])
    state = list(args[2 : 2 + carried])
    captured = list(args[2 + carried :])
    items: list[list[Any]] = [[] for _ in types[carried:]]
    i = 0
    while alive and (trips is None or i < trips):
        own = [np.asarray(i, np.int64), np.asarray(alive, np.bool_)]
        outs = run(attrs["body"], [*own, *state, *captured])
        alive, state = bool(outs[0]), list(outs[1 : 1 + carried])
        for kept, value in zip(items, outs[1 + carried :], strict=True):
            kept.append(value)
        i += 1
    return (*state, *_stack(items, types[carried:]))


def _run_scan(
    args: Sequence[Any], attrs: Attributes, types: Any, run: RunRegion
) -> tuple[Any, ...]:
    carried, count = attrs["carried"], attrs["sequences"]
    state = list(args[:carried])
    sequences, captured = args[carried : carried + count], list(args[carried + count :])
    items: list[list[Any]] = [[] for _ in types[carried:]]
    for i in range(len(sequences[0])):
        elements = [np.asarray(s[i], s.dtype, order="C") for s in sequences]
        outs = run(attrs["body"], [*state, *elements, *captured])
        state = list(outs[:carried])
        for kept, value in zip(items, outs[carried:], strict=True):
            kept.append(value)
    return (*state, *_stack(items, types[carried:]))


def _stack(items: list[list[Any]], types: Sequence[Any]) -> list[Any]:
    """Stacks the collected items; without any, sizes that nobody can know are 0."""
    out = []
    for kept, t in zip(items, types, strict=True):
        if kept:
            out.append(np.stack([np.asarray(k) for k in kept]))
        else:
            sizes = (d if isinstance(d, int) else 0 for d in t.shape[1:])
            out.append(np.zeros((0, *sizes), dtype=t.dtype.np))
    return out


CONTROL: dict[str, Callable[..., tuple[Any, ...]]] = {
    "if": _run_if,
    "loop": _run_loop,
    "scan": _run_scan,
}
"""Meaning of each control op: (operands, attributes and types with sizes as integers, run)."""


# -- declarations ------------------------------------------------------------------------------


def _work(operands: tuple[Any, ...], attrs: Attributes, results: tuple[Any, ...]) -> Work:
    """Operands and results once; the regions' own graphs say what runs inside."""
    nbytes: Any = 0
    for t in (*operands, *results):
        if isinstance(t, TensorType):
            nbytes = nbytes + t.nbytes()
    return Work(0, nbytes)


_CONTROL = frozenset({"control"})
register(OpDef("if", (1, None), _infer_if, None, _CONTROL, work_fn=_work,
               attrs=("then", "else_", "split", "symbols", "results"),
               doc="one of two regions, chosen by a bool scalar"))
register(OpDef("loop", (2, None), _infer_loop, None, _CONTROL, work_fn=_work,
               attrs=("body", "carried", "symbols", "results"),
               doc="repeats a region while its condition holds, at most `trips` times"))
register(OpDef("scan", (1, None), _infer_scan, None, _CONTROL, work_fn=_work,
               attrs=("body", "carried", "sequences", "symbols", "results"),
               doc="runs a region over the leading axis of sequences"))
