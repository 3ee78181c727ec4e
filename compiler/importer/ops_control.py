"""If, Loop and Scan.

A condition or a small trip count that is known while importing leaves no control flow behind: the
branch, or the iterations, are lowered in place. Otherwise the subgraphs become regions. Where the
sizes of a result differ between branches, or from one iteration to the next, the result has a new
symbol in that place.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from ...ir.dims import Dim, free_symbols
from ...ir.errors import ModelError
from ...ir.graph import Attrs, Value
from ...ir.ops.host import result_spec
from ...ir.types import BOOL, I64, DType, OptionalType, TensorType, Type
from ..messages import GraphProto, NodeProto, ValueInfoProto
from .containers import join, map_sizes
from .ops_host import certain
from .registry import lowering

if TYPE_CHECKING:
    from .context import Ctx, Region

_UNROLLED_NODES = 256
"""Nodes up to which a loop with a known trip count is unrolled."""
_MAX_ROUNDS = 64

Result = tuple[Any, ...]
"""A result type as plain data, see ``ir.ops.host.result_spec``."""


def _outer(ctx: Ctx, t: Type, known: frozenset[str], prefix: str) -> Result:
    """A region's type as the surrounding graph sees it."""
    return result_spec(map_sizes(t, lambda d: _outer_dim(ctx, d, known, prefix)))


def _item(t: Type, what: str) -> TensorType:
    if not isinstance(t, TensorType):
        raise ModelError(f"{what} of type {t}: only tensors can be stacked")
    return t


def _scalar(ctx: Ctx, v: Value, dtype: DType) -> Value:
    """A one-element tensor as a scalar of the dtype."""
    if v.dtype != dtype and not (dtype == I64 and v.dtype.is_integer):
        raise ModelError(f"a scalar of {dtype} is needed, got {v.type}")
    v = ctx.as_dtype(v, dtype)
    return v if v.rank == 0 else ctx.b.op("reshape", v, shape=())


def _build(ctx: Ctx, op: str, inputs: Sequence[Value | None], **attrs: Any) -> tuple[Value, ...]:
    return ctx.b.node(op, tuple(inputs), Attrs({**attrs, "symbols": ()}.items())).outputs


def _outer_dim(ctx: Ctx, d: Dim, known: frozenset[str], prefix: str) -> Dim:
    """A region's size as the surrounding graph sees it."""
    return d if free_symbols(d) <= known else ctx.b.fresh(prefix)


# -- If ----------------------------------------------------------------------------------------


@lowering("If")
def if_(ctx: Ctx, node: NodeProto) -> tuple[Value, ...]:
    """Lowered in place where the condition is known."""
    then, else_ = ctx.required("then_branch"), ctx.required("else_branch")
    for graph in (then, else_):
        if len(graph.output) != ctx.n_outputs or graph.input:
            raise ModelError(
                f"a branch has {len(graph.input)} inputs and {len(graph.output)} outputs;"
                f" needed are none and {ctx.n_outputs}"
            )
    known = ctx.constant(ctx.input(0))
    if known is not None:
        if known.size != 1:
            raise ModelError(f"the condition must be one element, got {ctx.input(0).type}")
        return ctx.inline(then if bool(known.reshape(-1)[0]) else else_)
    taken = _by_squeeze(ctx, then, else_)
    if taken is not None:
        return ctx.inline(taken)
    cond = _scalar(ctx, ctx.input(0), BOOL)
    before = frozenset(ctx.b.taken)
    a, b = ctx.region(then), ctx.region(else_)
    results = tuple(
        _joined(ctx, x.type, y.type, before, cond)
        for (_, x), (_, y) in zip(a.graph.outputs, b.graph.outputs, strict=True)
    )
    return _build(ctx, "if", (cond, *a.captures, *b.captures), then=a.graph, else_=b.graph,
                  split=len(a.captures), results=results)  # fmt: skip


def _by_squeeze(ctx: Ctx, then: GraphProto, else_: GraphProto) -> GraphProto | None:
    """The branch that removes an axis, where the other one would keep it.

    Exporters write ``x.squeeze(axis)`` as ``If(size == 1) Squeeze else Identity``. A rank cannot
    depend on a size here, and what follows was exported for one rank, so the axis is taken as
    removed: the reshape that this becomes is checked when sizes are bound."""
    holds = _size_equality(ctx, ctx.input(0))
    if holds is None:
        return None
    chosen, other = (then, else_) if holds else (else_, then)
    kinds = [[n.op_type for n in g.node if n.op_type != "Constant"] for g in (chosen, other)]
    return chosen if kinds == [["Squeeze"], ["Identity"]] or kinds == [["Squeeze"], []] else None


def _size_equality(ctx: Ctx, cond: Value) -> bool | None:
    """Whether ``cond`` says that two sizes are equal (True) or different (False), else None."""
    holds = True
    while cond.node.op in ("reshape", "not", "cast"):
        holds = holds != (cond.node.op == "not")
        cond = cond.node.operands[0]
    if cond.node.op != "eq" or any(ctx.b.dims_value(v) is None for v in cond.node.operands):
        return None
    return holds


def _joined(ctx: Ctx, x: Type, y: Type, before: frozenset[str], cond: Value) -> Result:
    """The type of what either branch gives."""

    def size(d: Dim, e: Dim) -> Dim:
        return d if d == e and free_symbols(d) <= before else ctx.b.fresh("if")

    if isinstance(x, TensorType) and isinstance(y, TensorType) and x.rank != y.rank:
        ctx.need(
            f"the branches give {x} and {y}, of different ranks, and the condition depends on"
            " data or on a symbolic size; fix that size with `sizes={name: value}`", cond
        )  # fmt: skip
    return result_spec(join(ctx, x, y, size, "a result of If"))


# -- Loop --------------------------------------------------------------------------------------


@lowering("Loop")
def loop(ctx: Ctx, node: NodeProto) -> tuple[Value, ...]:
    """Operands M, cond, state...; the body takes i, cond, state... and gives cond, state, items."""
    body: GraphProto = ctx.required("body")
    trips, cond = ctx.optional(0), ctx.optional(1)
    state = [ctx.input(k) for k in range(2, len(ctx.inputs))]
    carried = len(state)
    if len(body.input) != 2 + carried or len(body.output) != 1 + ctx.n_outputs:
        raise ModelError(
            f"the body takes {len(body.input)} values and gives {len(body.output)}; needed are"
            f" {2 + carried} and {1 + ctx.n_outputs}"
        )
    if ctx.n_outputs < carried:
        raise ModelError(f"{carried} states, but only {ctx.n_outputs} outputs")
    alive = None if cond is None else ctx.constant(cond)
    count = None if trips is None else ctx.constant(trips)
    if (cond is None or alive is not None) and count is not None:
        sure = alive is None or bool(alive.reshape(-1)[0])
        found = _unrolled(ctx, body, int(count.reshape(-1)[0]), sure, state)
        if found is not None:
            return found
    limit = None if trips is None else _scalar(ctx, trips, I64)
    first = None if cond is None or (alive is not None and alive.all()) else (
        _scalar(ctx, cond, BOOL))
    own = (TensorType(I64, ()), TensorType(BOOL, ()))
    region, types, before = _fixed_point(
        ctx, lambda given: ctx.region(body, given), state, own, ()
    )
    outputs = [v.type for _, v in region.graph.outputs]
    going = outputs[0]
    if isinstance(going, TensorType) and (
            going.dtype != BOOL or any(isinstance(d, int) and d != 1 for d in going.shape)):
        raise ModelError(f"the condition that the body gives must be one bool, not {going}")
    results: list[Result] = [
        _outer(ctx, t, before, "loop") for t in types
    ]
    total = None
    if first is None and limit is not None and _always(region):
        total = ctx.dim(ctx.b.op("max", limit, 0))
    for t in outputs[1 + carried :]:
        item = _item(t, "an item of Loop")
        sizes = tuple(_outer_dim(ctx, d, before, "item") for d in item.shape)
        results.append((item.dtype, (ctx.b.fresh("trips") if total is None else total, *sizes)))
    made = _build(ctx, "loop", (limit, first, *state, *region.captures), body=region.graph,
                  carried=carried, results=tuple(results))  # fmt: skip
    return (*(_declared(ctx, v, body.output[1 + k]) for k, v in enumerate(made[:carried])),
            *made[carried:])  # fmt: skip


def _declared(ctx: Ctx, v: Value, info: ValueInfoProto) -> Value:
    """A loop's last state, which has the type that the body declares: a state may enter as an
    optional and leave as its value."""
    optional = info.type.WhichOneof("value") == "optional_type"
    return v if optional or not isinstance(v.type, OptionalType) else certain(ctx, v)


def _unrolled(
    ctx: Ctx, body: GraphProto, count: int, alive: bool, state: list[Value]
) -> tuple[Value, ...] | None:
    """The iterations one after the other, if they are few and certain."""
    b = ctx.b
    carried = len(state)
    if not alive or count <= 0:
        return tuple(state) if ctx.n_outputs == carried else None
    if count * max(len(body.node), 1) > _UNROLLED_NODES or not _surely_continues(body):
        return None
    items: list[list[Value]] = [[] for _ in range(ctx.n_outputs - carried)]
    for i in range(count):
        outs = ctx.inline(body, [b.const(i, I64), b.const(True), *state])
        state = list(outs[1 : 1 + carried])
        for kept, value in zip(items, outs[1 + carried :], strict=True):
            kept.append(b.op("reshape", value, shape=(1, *value.shape)))
    stacked = [k[0] if len(k) == 1 else b.op("concat", *k, axis=0) for k in items]
    return (*state, *stacked)


def _always(region: Region) -> bool:
    """Whether the region's condition is the one it got, or a constant True."""
    value = region.graph.outputs[0][1]
    if value.node.op == "const":
        return bool(region.graph.constants.get(value.node.attrs["digest"]).all())
    return value == region.graph.inputs[1]


def _surely_continues(body: GraphProto) -> bool:
    """Whether the condition that the body gives is the one it got, or a constant True."""
    name = body.output[0].name
    maker = {o: n for n in body.node for o in n.output}
    for _ in range(len(body.node) + 1):
        if name == body.input[1].name:
            return True
        node = maker.get(name)
        if node is None:
            return any(t.name == name and _true(t) for t in body.initializer)
        if node.op_type == "Identity":
            name = node.input[0]
        elif node.op_type == "Constant":
            return any(a.name == "value" and _true(a.t) for a in node.attribute)
        else:
            return False
    return False


def _true(tensor: Any) -> bool:
    from .tensors import to_array

    return bool(to_array(tensor).all())


def _fixed_point(
    ctx: Ctx,
    region_of: Callable[[Sequence[Type | None]], Region],
    state: list[Value],
    before_state: Sequence[Type],
    after_state: Sequence[Type],
) -> tuple[Region, list[Type], frozenset[str]]:
    """(region, state types, symbols known before): sizes of the state that an iteration changes
    become symbols of the region, until the body gives back the types that it takes."""
    before = frozenset(ctx.b.taken)
    types = [v.type for v in state]
    first = 1 if before_state else 0  # a loop's body gives its condition first
    for _ in range(_MAX_ROUNDS):
        region = region_of([*before_state, *types, *after_state])
        given = [v.type for _, v in region.graph.outputs][first : first + len(types)]
        wider = [_wider(ctx, t, g, before) for t, g in zip(types, given, strict=True)]
        if wider == types:
            return region, types, before
        types = wider
    raise ModelError(f"the sizes of the state do not settle within {_MAX_ROUNDS} rounds")


def _wider(ctx: Ctx, t: Type, given: Type, before: frozenset[str]) -> Type:
    """``t`` with a symbol of its own in every place where ``given`` differs."""

    def size(d: Dim, e: Dim) -> Dim:
        return d if d == e or not free_symbols(d) <= before else ctx.b.fresh("state")

    return join(ctx, t, given, size, "a state of a loop")


# -- Scan --------------------------------------------------------------------------------------


@lowering("Scan", since=9)
def scan(ctx: Ctx, node: NodeProto) -> tuple[Value, ...]:
    """Sequences along any axis and direction are turned to axis 0, forward."""
    body: GraphProto = ctx.required("body")
    count = ctx.required("num_scan_inputs")
    carried = len(ctx.inputs) - count
    if carried < 0 or count < 1 or len(body.input) != len(ctx.inputs):
        raise ModelError(f"{len(ctx.inputs)} operands, {count} of them sequences, for a body of"
                         f" {len(body.input)} inputs")  # fmt: skip
    state = [ctx.input(k) for k in range(carried)]
    axes = ctx.attr("scan_input_axes", (0,) * count)
    back = ctx.attr("scan_input_directions", (0,) * count)
    sequences = [
        _leading(ctx, ctx.input(carried + k), axes[k], bool(back[k])) for k in range(count)
    ]
    if len(body.output) != ctx.n_outputs:
        raise ModelError(f"the body gives {len(body.output)} values for {ctx.n_outputs} outputs")
    outs = scanned(ctx, lambda types: ctx.region(body, types), state, sequences)
    out_axes = ctx.attr("scan_output_axes", (0,) * (len(outs) - carried))
    out_back = ctx.attr("scan_output_directions", (0,) * (len(outs) - carried))
    for k in range(carried, len(outs)):
        outs[k] = _placed(ctx, outs[k], out_axes[k - carried], bool(out_back[k - carried]))
    return tuple(outs)


def scanned(
    ctx: Ctx,
    region_of: Callable[[Sequence[Type | None]], Region],
    state: list[Value],
    sequences: list[Value],
) -> list[Value]:
    """The last states, then the stacked items, of a scan along axis 0 of the sequences.

    ``region_of`` makes the body for given types of the states and elements."""
    carried = len(state)
    length = next((s.shape[0] for s in sequences if isinstance(s.shape[0], int)),
                  sequences[0].shape[0])  # fmt: skip
    elements = [s.tensor.with_shape(s.shape[1:]) for s in sequences]
    region, types, before = _fixed_point(ctx, region_of, state, (), elements)
    outputs = [v.type for _, v in region.graph.outputs]
    results: list[Result] = [
        _outer(ctx, t, before, "scan") for t in types
    ]
    for t in outputs[carried:]:
        item = _item(t, "an item of Scan")
        sizes = tuple(_outer_dim(ctx, d, before, "item") for d in item.shape)
        results.append((item.dtype, (length, *sizes)))
    return list(_build(ctx, "scan", (*state, *sequences, *region.captures), body=region.graph,
                       carried=carried, sequences=len(sequences),
                       results=tuple(results)))  # fmt: skip


def reversed_along(ctx: Ctx, x: Value, axis: int) -> Value:
    """``x`` with one axis running backwards."""
    size = x.shape[axis]
    starts = tuple(size - 1 if k == axis else 0 for k in range(x.rank))
    steps = tuple(-1 if k == axis else 1 for k in range(x.rank))
    result: Value = ctx.b.op("slice", x, starts=starts, sizes=x.shape, steps=steps)
    return result


def _leading(ctx: Ctx, x: Value, axis: int, back: bool) -> Value:
    """The scanned axis first, forward."""
    axis = ctx.axis(axis, x.rank)
    if back:
        x = reversed_along(ctx, x, axis)
    if axis:
        x = ctx.b.op("transpose", x, perm=(axis, *(k for k in range(x.rank) if k != axis)))
    return x


def _placed(ctx: Ctx, x: Value, axis: int, back: bool) -> Value:
    """Stacked items with their new axis where the model wants it."""
    axis = ctx.axis(axis, x.rank)
    if back:
        x = reversed_along(ctx, x, 0)
    if axis:
        perm = list(range(1, x.rank))
        perm.insert(axis, 0)
        x = ctx.b.op("transpose", x, perm=tuple(perm))
    return x
