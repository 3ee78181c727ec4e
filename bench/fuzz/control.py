"""Makers of control flow (If, Loop, Scan) and of results whose size the data decides."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from onnx import helper

from .sketch import BOOL, F32, I32, I64, INTEGERS, Misfit, Sketch, Var, np_of


def _inner(s: Sketch, seen: list[Var], prefix: str) -> Sketch:
    """A sketch of a subgraph that sees some values of the outer one."""
    inner = Sketch(s.rng, s.opset, s.real, s.whole, s.special, s.sizes, s.symbols, s.bindings,
                   prefix=f"{s.prefix}{prefix}{len(s.nodes)}_")
    inner.pool = list(seen)
    return inner


def _grow(inner: Sketch, steps: int) -> None:
    from . import basic, movement, reduce

    makers: list[Callable[[Sketch], Any]] = [
        basic.unary, basic.binary, basic.activation, movement.transpose, movement.slice_,
        movement.concat, reduce.reduce, basic.where]
    for _ in range(steps):
        mark = inner.mark()
        try:
            inner.choice(makers)(inner)
        except Misfit:
            inner.rollback(mark)


def _graph(inner: Sketch, name: str, inputs: list[Any], outputs: list[Var]) -> Any:
    held = [helper.make_tensor(k, helper.np_dtype_to_tensor_dtype(a.dtype), a.shape,
                               a.reshape(-1).tolist()) for k, a in inner.held.items()]
    infos = [helper.make_tensor_value_info(
        v.name, v.dtype, [d if v.fixed(k) else None for k, d in enumerate(v.shape)])
        for v in outputs]
    return helper.make_graph(inner.nodes, name, inputs, infos, held)


def _result(inner: Sketch, like: Var) -> Var:
    """A value of the subgraph of the type of ``like``, computed inside."""
    made = [v for v in inner.pool if v.name.startswith(inner.prefix) and v.dtype == like.dtype
            and v.shapes == like.shapes and v.data is None]
    return inner.op("Identity", [made[-1] if made else like], bound=like.bound)


def if_(s: Sketch) -> Any:
    """If with two branches that read values of the outer graph."""
    x = s.floats(0, 3, lambda v: v.known)
    scalar = s.op("ReduceSum", [s.op("Cast", [x], to=F32)], reuse=False, keepdims=0)
    condition = s.op("Less", [scalar, s.const(np.array(s.rng.normal(), np.float32))], reuse=False)
    if s.flag(0.2):
        condition = s.const(np.array(s.flag()))
    branches, bound = {}, 0.0
    for name in ("then_branch", "else_branch"):
        inner = _inner(s, [x, *[v for v in s.pool if v.known][-4:]], name[0])
        _grow(inner, s.number(1, 3))
        y = _result(inner, x)
        branches[name] = _graph(inner, name, [], [y])
        bound = max(bound, y.bound)
    return _append(s, helper.make_node("If", [condition.name], [s.name("v")], **branches), [x])


def _append(s: Sketch, node: Any, like: list[Var]) -> list[Var]:
    """Adds a node whose results have the types of ``like``."""
    node.name = f"{node.op_type}_{node.output[0]}"
    s.nodes.append(node)
    return [s.add(Var(name, v.dtype, v.shapes)) for name, v in zip(node.output, like)]


def loop(s: Sketch) -> Any:
    """Loop with a carried state and, sometimes, a scanned result."""
    x = s.tame(s.floats(0, 3, lambda v: v.known), -50, 50)
    inner = _inner(s, [v for v in s.pool if v.known][-3:], "l")
    state = inner.add(Var(inner.name("s"), x.dtype, x.shapes, x.bound))
    step, going = inner.name("i"), inner.name("g")
    infos = [helper.make_tensor_value_info(step, I64, []),
             helper.make_tensor_value_info(going, BOOL, []),
             helper.make_tensor_value_info(
                 state.name, x.dtype, [d if x.fixed(k) else None for k, d in enumerate(x.shape)])]
    _grow(inner, s.number(1, 3))
    new = _result(inner, state)
    new = inner.op("Tanh", [new], bound=1)
    inner.nodes.append(helper.make_node("Identity", [going], [keep := inner.name("k")]))
    outputs = [Var(keep, BOOL, ((),) * s.bindings), new]
    scanned = s.flag(0.4)
    if scanned:
        outputs.append(inner.op("Identity", [new], bound=1))
    body = _graph(inner, "body", infos, outputs)
    trips = s.number(0 if not scanned else 1, 4)
    names = [s.name("v")] + ([s.name("v")] if scanned else [])
    node = helper.make_node("Loop", [s.const(np.array(trips, np.int64)).name, "", x.name], names,
                            body=body)
    stacked = Var("", x.dtype, tuple((trips, *t) for t in x.shapes))
    return _append(s, node, [x, stacked])


def scan(s: Sketch) -> Any:
    """Scan over the first axis with a running state."""
    x = s.tame(s.floats(2, 3, lambda v: v.known and all(0 not in t for t in v.shapes)), -50, 50)
    if not all(x.fixed(k) for k in range(1, x.rank)):
        raise Misfit("sizes are open")
    row = tuple(t[1:] for t in x.shapes)
    start = s.const(np.zeros(row[0], np_of(x.dtype)))  # type: ignore[arg-type]
    inner = _inner(s, [], "c")
    state = inner.add(Var(inner.name("s"), x.dtype, row, 50))
    item = inner.add(Var(inner.name("e"), x.dtype, row, x.bound))
    infos = [helper.make_tensor_value_info(v.name, x.dtype, list(row[0])) for v in (state, item)]
    total = inner.op("Add", [state, item], bound=100)
    _grow(inner, s.number(0, 2))
    new = inner.op("Tanh", [total], bound=1)
    out = inner.op("Identity", [_result(inner, item)])
    body = _graph(inner, "body", infos, [new, out])
    node = helper.make_node("Scan", [start.name, x.name], [s.name("v"), s.name("v")], body=body,
                            num_scan_inputs=1)
    return _append(s, node, [Var("", x.dtype, row), x])


def dynamic(s: Sketch) -> Any:
    """NonZero, Compress, Unique, and something behind them."""
    kind = s.choice(("NonZero", "Compress", "Unique"))
    if kind == "NonZero":
        x = s.value((BOOL, F32, *INTEGERS), 1, 3, lambda v: v.known)
        y = s.op(kind, [x], bound=50)
        return s.op("Cast", [y], bound=50, to=F32) if s.flag() else y
    x = s.floats(1, 3, lambda v: v.known)
    if kind == "Compress":
        axis = s.number(0, x.rank - 1)
        if not x.fixed(axis):
            raise Misfit("sizes are open")
        mask = s.fresh(BOOL, [int(x.shape[axis] or 0)], reuse=False)
        y = s.op(kind, [x, mask], bound=x.bound, axis=axis)
        return s.op(s.choice(("Relu", "Neg", "Tanh")), [y], bound=x.bound) if s.flag(0.7) else y
    if s.flag(0.3):  # equal floats must come from equal floats: a rounding would split them
        x = s.fresh(F32, s.shape_of_rank(s.number(1, 2), 200), "whole", reuse=False)
    else:
        x = s.value((I64, I32), 1, 2, lambda v: v.known and all(0 not in t for t in v.shapes))
    return s.ops(kind, [x], 4, bound=x.bound, sorted=1)


def misc(s: Sketch) -> Any:
    """Det, Bernoulli-free odds and ends: GridSample, MaxUnpool-free."""
    kind = s.choice(("GridSample", "Det", "NonMaxSuppression", "CenterCropPad", "Col2Im"))
    if kind == "Det":
        n = s.choice((1, 2, 3, 4))
        return s.op(kind, [s.fresh(s.real, [*s.shape_of_rank(s.number(0, 1), 20), n, n], "normal")])
    if kind == "CenterCropPad":
        x = s.floats(1, 3, lambda v: v.known)
        axes = [k for k in range(x.rank) if s.flag(0.7)] or [0]
        return s.op(kind, [x, s.ints([s.number(1, 9) for _ in axes])], bound=x.bound, axes=axes)
    if kind == "NonMaxSuppression":
        boxes = s.fresh(F32, [1, 6, 4], "unit", reuse=False)
        scores = s.fresh(F32, [1, 2, 6], "unit", reuse=False)
        return s.op(kind, [boxes, scores, s.const(np.array(3, np.int64)),
                           s.const(np.array(0.4, np.float32)), s.const(np.array(0.2, np.float32))])
    if kind == "Col2Im":
        x = s.fresh(s.real, [1, 12, 6], "normal")
        return s.op(kind, [x, s.ints([4, 3]), s.ints([2, 2])])
    x = s.floats(4, 4, lambda v: v.known and v.fixed(0) and all(0 not in t for t in v.shapes))
    grid = s.fresh(x.dtype, [int(x.shape[0] or 1), 3, 4, 2], "span:-1.2:1.2", reuse=False)
    return s.op(kind, [x, grid], bound=x.bound * 3, mode=s.choice(("linear", "nearest", "cubic")),
                padding_mode=s.choice(("zeros", "border", "reflection")),
                align_corners=s.number(0, 1))


MAKERS = {if_: 2, loop: 2, scan: 1, dynamic: 2, misc: 2}
"""Makers and how often they are drawn."""
