"""Strings, sequences and optionals.

Sequences that are built and taken apart within the graph leave no trace: a position in a sequence
whose elements are known nodes is that element. Everything else becomes a ``host`` step.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ...ir.dims import Dim
from ...ir.errors import ModelError
from ...ir.graph import Attrs, Value
from ...ir.ops.base import broadcast_shapes
from ...ir.ops.host import result_spec
from ...ir.types import (
    BOOL,
    F32,
    I64,
    STR,
    DType,
    LooseTensor,
    OptionalType,
    SequenceType,
    TensorType,
    Type,
)
from .containers import join_elements, map_sizes
from .registry import lowering
from .types import SizeNames, type_of

if TYPE_CHECKING:
    from ..messages import NodeProto
    from .context import Ctx


def host_node(
    ctx: Ctx,
    kind: str,
    inputs: Sequence[Value | None],
    params: Mapping[str, Any],
    types: Sequence[Type],
) -> tuple[Value, ...]:
    """Results of a host step."""
    attrs = Attrs({
        "kind": kind,
        "params": tuple(sorted(params.items())),
        "results": tuple(result_spec(t) for t in types),
    }.items())  # fmt: skip
    return ctx.b.node("host", tuple(inputs), attrs).outputs


# -- sequences ---------------------------------------------------------------------------------


def _items(v: Value) -> list[Value] | None:
    """Elements of a sequence that was built in this graph."""
    if v.node.op == "host" and v.node.attrs["kind"] == "sequence_construct":
        return list(v.node.operands)
    return None


def _sequence(ctx: Ctx, items: Sequence[Value], elem: Type | None = None) -> Value:
    """A sequence node; the element type keeps what all elements agree on."""
    for v in items:
        elem = v.type if elem is None else _common(ctx, elem, v.type)
    if elem is None:
        raise ModelError("a sequence needs an element type")
    return host_node(ctx, "sequence_construct", items, {}, [SequenceType(elem)])[0]


def _common(ctx: Ctx, a: Type, b: Type) -> Type:
    def size(d: Dim, e: Dim) -> Dim:
        return d if d == e else ctx.b.fresh("elem")

    return join_elements(ctx, a, b, size, "a sequence")


def _element(v: Value) -> Type:
    if not isinstance(v.type, SequenceType):
        raise ModelError(f"a sequence is needed, got {v.type}")
    return v.type.elem


def _ranked(ctx: Ctx, v: Value, what: str) -> TensorType:
    """What a container holds, as the type of a tensor; refuses tensors of any rank."""
    elem = v.type.elem if isinstance(v.type, (SequenceType, OptionalType)) else v.type
    if isinstance(elem, LooseTensor):
        ctx.fail(
            f"{what} of {v.type} has no rank that is known here; a model input can be given one"
            " in `shapes={name: (sizes or names)}`"
        )
    if not isinstance(elem, TensorType):
        raise ModelError(f"{what} of {v.type}: a tensor is needed")
    return elem


def _loose(ctx: Ctx, t: Type) -> Type:
    """An element of a container: each has symbolic sizes of its own."""
    return map_sizes(t, lambda d: d if isinstance(d, int) else ctx.b.fresh("elem"))


def _index(ctx: Ctx, v: Value | None, size: int, default: int) -> int | None:
    """A position if it is known now."""
    if v is None:
        return default
    found = ctx.constant(v)
    if found is None:
        return None
    k = int(found.reshape(-1)[0])
    if not -size <= k <= size:
        raise ModelError(f"position {k} of a sequence of {size}")
    return k + size if k < 0 else k


@lowering("SequenceConstruct")
def sequence_construct(ctx: Ctx, node: NodeProto) -> Value:
    """A sequence of the operands."""
    return _sequence(ctx, [ctx.input(k) for k in range(len(ctx.inputs))])


@lowering("SequenceEmpty")
def sequence_empty(ctx: Ctx, node: NodeProto) -> Value:
    """A sequence of nothing; what is inserted decides the shape of its elements."""
    return _sequence(ctx, [], LooseTensor(ctx.attr_dtype("dtype", F32), none=True))


@lowering("SequenceInsert")
def sequence_insert(ctx: Ctx, node: NodeProto) -> Value:
    """A sequence with one more element."""
    seq, value, at = ctx.input(0), ctx.input(1), ctx.optional(2)
    items = _items(seq)
    if items is not None:
        k = _index(ctx, at, len(items), len(items))
        if k is not None:
            items.insert(k, value)
            return _sequence(ctx, items)
    elem = _common(ctx, _element(seq), value.type)
    return host_node(ctx, "sequence_insert", [seq, value, at], {}, [SequenceType(elem)])[0]


@lowering("SequenceErase")
def sequence_erase(ctx: Ctx, node: NodeProto) -> Value:
    """A sequence without one element."""
    seq, at = ctx.input(0), ctx.optional(1)
    items = _items(seq)
    if items:
        k = _index(ctx, at, len(items), len(items) - 1)
        if k is not None and k < len(items):
            del items[k]
            return _sequence(ctx, items, None if items else _element(seq))
    return host_node(ctx, "sequence_erase", [seq, at], {}, [seq.type])[0]


@lowering("SequenceAt")
def sequence_at(ctx: Ctx, node: NodeProto) -> Value:
    """One element."""
    seq, at = ctx.input(0), ctx.input(1)
    items = _items(seq)
    if items:
        k = _index(ctx, at, len(items), 0)
        if k is not None and k < len(items):
            return items[k]
    elem = _loose(ctx, _element(seq))
    if isinstance(elem, (TensorType, LooseTensor)):
        elem = _loose(ctx, _ranked(ctx, seq, "an element"))
    return host_node(ctx, "sequence_at", [seq, at], {}, [elem])[0]


@lowering("SequenceLength")
def sequence_length(ctx: Ctx, node: NodeProto) -> Value:
    """How many elements there are."""
    seq = ctx.input(0)
    items = _items(seq)
    if items is not None:
        return ctx.b.const(len(items), I64)
    _element(seq)
    return host_node(ctx, "sequence_length", [seq], {}, [TensorType(I64, ())])[0]


@lowering("ConcatFromSequence")
def concat_from_sequence(ctx: Ctx, node: NodeProto) -> Value:
    """All elements joined along an axis, or stacked along a new one."""
    seq, new = ctx.input(0), bool(ctx.attr("new_axis", 0))
    elem = _ranked(ctx, seq, "the join")
    axis = ctx.axis(ctx.required("axis"), elem.rank + new)
    items = _items(seq)
    if items:
        if new:
            items = [
                ctx.b.op("reshape", v, shape=(*v.shape[:axis], 1, *v.shape[axis:])) for v in items
            ]
        return items[0] if len(items) == 1 else ctx.b.op("concat", *items, axis=axis)
    rank = elem.rank + new
    result = TensorType(elem.dtype, tuple(ctx.b.fresh("join") for _ in range(rank)))
    params = {"axis": axis, "new_axis": new}
    return host_node(ctx, "concat_from_sequence", [seq], params, [result])[0]


@lowering("SplitToSequence")
def split_to_sequence(ctx: Ctx, node: NodeProto) -> Value:
    """Pieces along an axis; pieces of known sizes are slices."""
    x, lengths = ctx.input(0), ctx.optional(1)
    axis = ctx.axis(ctx.attr("axis", 0), x.rank)
    keep = bool(ctx.attr("keepdims", 1)) or lengths is not None
    pieces = _pieces(ctx, x.shape[axis], lengths)
    if pieces is None:
        shape: list[Dim] = list(x.shape)
        shape[axis] = 1 if lengths is None else ctx.b.fresh("piece")
        elem = x.tensor.with_shape(tuple(shape if keep else shape[:axis] + shape[axis + 1 :]))
        params = {"axis": axis, "keepdims": keep}
        kind = "split_to_sequence"
        return host_node(ctx, kind, [x, lengths], params, [SequenceType(elem)])[0]
    items, at = [], 0
    for size in pieces:
        starts = tuple(at if k == axis else 0 for k in range(x.rank))
        sizes = tuple(size if k == axis else d for k, d in enumerate(x.shape))
        part = ctx.b.op("slice", x, starts=starts, sizes=sizes, steps=(1,) * x.rank)
        if not keep:
            part = ctx.b.op("reshape", part, shape=(*sizes[:axis], *sizes[axis + 1 :]))
        items.append(part)
        at += size
    return _sequence(ctx, items, None if items else x.tensor)


def _pieces(ctx: Ctx, size: Dim, lengths: Value | None) -> list[int] | None:
    if not isinstance(size, int) or size > 4096:
        return None
    if lengths is None:
        return [1] * size
    found = ctx.constant(lengths)
    if found is None:
        return None
    if found.ndim:
        pieces = [int(n) for n in found]
        if min(pieces, default=0) < 0 or sum(pieces) != size:
            raise ModelError(f"pieces of {pieces[:8]} of an axis of {size}")
        return pieces
    step = int(found)
    if step < 1:
        raise ModelError(f"pieces of {step}")
    return [min(step, size - at) for at in range(0, size, step)]


# -- optionals ---------------------------------------------------------------------------------


@lowering("Optional")
def optional(ctx: Ctx, node: NodeProto) -> Value:
    """A value that may be absent; one that is present is passed on as it is."""
    given = ctx.optional(0)
    if given is not None:
        return given
    declared = type_of(ctx.required("type"), ctx.b, SizeNames(), "optional", depth=1)
    if declared is None:
        raise ModelError("the optional's type is not one")
    return host_node(ctx, "optional", [], {}, [OptionalType(_emptied(declared))])[0]


def _emptied(t: Type) -> Type:
    """The type of what is not there: it agrees with a tensor of any rank."""
    if isinstance(t, SequenceType):
        return SequenceType(_emptied(t.elem))
    return LooseTensor(t.dtype, none=True) if isinstance(t, (TensorType, LooseTensor)) else t


def certain(ctx: Ctx, v: Value) -> Value:
    """The value of what may be an optional; a run in which it holds none is an error."""
    if not isinstance(v.type, OptionalType):
        return v
    elem = v.type.elem
    if isinstance(elem, LooseTensor):
        elem = _ranked(ctx, v, "the value")
    return host_node(ctx, "optional_get", [v], {}, [_loose(ctx, elem)])[0]


def _certain(v: Value) -> bool | None:
    """Whether the optional holds something, if that is known."""
    if not isinstance(v.type, OptionalType):
        return True
    empty = v.node.op == "host" and v.node.attrs["kind"] == "optional" and not v.node.operands
    return False if empty else None


@lowering("OptionalHasElement")
def optional_has_element(ctx: Ctx, node: NodeProto) -> Value:
    """Whether there is a value."""
    given = ctx.optional(0)
    known = False if given is None else _certain(given)
    if known is not None:
        return ctx.b.const(known)
    return host_node(ctx, "optional_has", [given], {}, [TensorType(BOOL, ())])[0]


@lowering("OptionalGetElement")
def optional_get_element(ctx: Ctx, node: NodeProto) -> Value:
    """The value; a run without one is an error."""
    given = ctx.input(0)
    if _certain(given) is False:
        raise ModelError("the optional holds nothing")
    return certain(ctx, given)


# -- strings -----------------------------------------------------------------------------------


def _strings(ctx: Ctx, k: int) -> Value:
    v = ctx.input(k)
    if v.dtype != STR:
        raise ModelError(f"strings are needed, got {v.type}")
    return v


_OWN_CASES = frozenset({"az", "lt", "tr"})
"""Languages with case rules of their own in Unicode's SpecialCasing.txt."""


@lowering("StringNormalizer")
def string_normalizer(ctx: Ctx, node: NodeProto) -> Value:
    """Drops stop words and changes case by Unicode's rules, which all but a few locales share."""
    x = _strings(ctx, 0)
    params = {
        "case": ctx.attr("case_change_action", "NONE"),
        "sensitive": bool(ctx.attr("is_case_sensitive", 0)),
        "stopwords": ctx.attr("stopwords", ()),
    }  # fmt: skip
    if params["case"] not in ("NONE", "LOWER", "UPPER"):
        raise ModelError(f"case_change_action {params['case'][:20]!r}")
    locale = ctx.attr("locale", "en_US")
    if params["case"] != "NONE" and locale[:2].lower() in _OWN_CASES:
        ctx.fail(f"the case rules of locale {locale[:20]!r} are not supported; Unicode's are")
    size = ctx.b.fresh("words")
    shape = (size,) if x.rank == 1 else (1, size)
    return host_node(ctx, "string_normalizer", [x], params, [TensorType(STR, shape)])[0]


@lowering("Tokenizer", domain="com.microsoft")
def tokenizer(ctx: Ctx, node: NodeProto) -> Value:
    """Tokens of each string, padded to the longest row."""
    x = _strings(ctx, 0)
    params = {
        "separators": ctx.attr("separators", ()), "expression": ctx.attr("tokenexp", ""),
        "least": ctx.attr("mincharnum", 1), "mark": bool(ctx.attr("mark", 0)),
        "pad": ctx.attr("pad_value", "#"),
    }  # fmt: skip
    shape = (*x.shape, ctx.b.fresh("tokens"))
    return host_node(ctx, "tokenizer", [x], params, [TensorType(STR, shape)])[0]


@lowering("StringConcat")
def string_concat(ctx: Ctx, node: NodeProto) -> Value:
    """Pairs of strings joined, with broadcasting."""
    x, y = _strings(ctx, 0), _strings(ctx, 1)
    shape = broadcast_shapes(x.shape, y.shape)
    return host_node(ctx, "string_concat", [x, y], {}, [TensorType(STR, shape)])[0]


@lowering("StringSplit")
def string_split(ctx: Ctx, node: NodeProto) -> tuple[Value, ...]:
    """(pieces padded with empty strings, number of pieces)."""
    x = _strings(ctx, 0)
    params = {"delimiter": ctx.attr("delimiter", ""), "limit": ctx.attr("maxsplit")}
    shape = (*x.shape, ctx.b.fresh("pieces"))
    types = [TensorType(STR, shape), TensorType(I64, x.shape)]
    return host_node(ctx, "string_split", [x], params, types)


@lowering("RegexFullMatch")
def regex_full_match(ctx: Ctx, node: NodeProto) -> Value:
    """Whether whole strings match."""
    x = _strings(ctx, 0)
    params = {"pattern": ctx.attr("pattern", "")}
    return host_node(ctx, "regex_full_match", [x], params, [TensorType(BOOL, x.shape)])[0]


def equal_strings(ctx: Ctx, a: Value, b: Value) -> Value:
    """Whether strings are equal, with broadcasting."""
    result = TensorType(BOOL, broadcast_shapes(a.shape, b.shape))
    return host_node(ctx, "string_equal", [a, b], {}, [result])[0]


def cast_strings(ctx: Ctx, x: Value, to: DType) -> Value:
    """Numbers to text or text to numbers."""
    if to.kind not in "sfiu" and x.dtype.kind == "s":
        ctx.fail(f"conversion from {x.dtype} to {to} is not supported")
    return host_node(ctx, "cast_string", [x], {"dtype": to}, [TensorType(to, x.shape)])[0]
