"""The reference interpreter: what a graph means, computed by NumPy one node at a time.

Nodes run in the graph's order; a value is dropped after its last use. Sizes are bound to integers
as they become known: from the shapes of the feeds, from ``bind`` nodes, and from the shapes of
results whose size only the run decides. Before a node runs, the symbolic sizes in its attributes
and types are replaced by those integers, and what it returns is compared with its type. Composites
run as their expansion, region ops through the rule that they declare in ``ops.control.CONTROL``.

In float64 mode every floating-point value is a float64: feeds and constants are converted, and so
are the element types that attributes name. Integers and booleans stay as they are.

This is the yardstick for compiled code and is never a fallback for it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np

from .builder import Builder
from .dim_values import evaluate, substitute
from .dims import Dim, Expr, free_symbols, sym
from .errors import EvonnxError, FeedError, ModelError, quote
from .graph import Attrs, Constants, Graph, Node, Value
from .ops import lookup
from .types import F64, DType, OptionalType, TensorType, Type

Observer = Callable[[Node, tuple[Any, ...]], "Sequence[Any] | None"]
"""Called after each node of the graph that is run, with its results."""


def run(
    graph: Graph,
    feeds: Mapping[str, Any],
    *,
    float64: bool = False,
    observe: Observer | None = None,
) -> dict[str, Any]:
    """Results of ``graph`` by output name.

    ``feeds`` holds one array per input, of the declared dtype (any float in float64 mode) and a
    shape that fits the declared one. Results have the declared dtypes, or float64 for all floats
    in float64 mode. ``observe`` sees the nodes of ``graph``, not those inside regions or
    expansions; what it returns, if not None, replaces the node's results for those after it.
    Raises ``FeedError`` for feeds that do not fit, ``ModelError`` naming the node whose data
    breaks its contract (an index out of range, shapes that do not match).
    """
    binding, arrays = bind_feeds(graph, feeds, float64=float64)
    machine = _Machine(float64)
    results = machine.run(graph, arrays, binding, observe)
    return dict(zip(graph.output_names, results, strict=True))


# -- feeds -------------------------------------------------------------------------------------


def bind_feeds(
    graph: Graph, feeds: Mapping[str, Any], *, float64: bool = False
) -> tuple[dict[str, int], list[Any]]:
    """(symbol -> size, arrays in the order of the inputs); raises ``FeedError``."""
    names = graph.input_names
    if unknown := [n for n in feeds if n not in names]:
        raise FeedError(f"there is no input {_listed(unknown)}; the inputs are {_listed(names)}")
    missing = [n for n, v in zip(names, graph.inputs, strict=True)
               if n not in feeds and not isinstance(v.type, OptionalType)]  # fmt: skip
    if missing:
        raise FeedError(f"nothing is fed to input {_listed(missing)}")
    arrays = [_feed(v, feeds.get(v.node.attrs["name"]), float64) for v in graph.inputs]
    shaped = [
        (f"input {quote(v.node.attrs['name'])}", v.type, array.shape)
        for v, array in zip(graph.inputs, arrays, strict=True)
        if isinstance(v.type, TensorType)
    ]
    binding: dict[str, int] = {}
    bind_shapes(shaped, binding)
    for what, t, shape in shaped:
        _compare_shape(what, t, shape, binding)
    return binding, arrays


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(quote(n) for n in names[:8])
    return shown + (f" and {len(names) - 8} more" if len(names) > 8 else "") or "(none)"


def _feed(value: Value, given: Any, float64: bool) -> Any:
    name, t = value.node.attrs["name"], value.type
    if not isinstance(t, TensorType):
        return promote_all(given) if float64 else given
    array = np.asarray(given)
    if t.dtype.kind == "s" and array.dtype.kind in "USO":
        array = array.astype(object)
    try:
        dtype = DType.of(array.dtype)
    except EvonnxError:
        raise FeedError(f"input {quote(name)} is {t}, but {array.dtype} was fed") from None
    if dtype != t.dtype and not (float64 and dtype.is_float and t.dtype.is_float):
        raise FeedError(f"input {quote(name)} is {t}, but {dtype} was fed")
    if array.ndim != t.rank:
        raise FeedError(f"input {quote(name)} is {t}, but the fed shape is {list(array.shape)}")
    return promote(array) if float64 else array


def bind_shapes(
    shaped: Sequence[tuple[str, TensorType, tuple[int, ...]]], binding: dict[str, int]
) -> None:
    """Adds to ``binding`` every symbol that the actual shapes determine: sizes that are one
    symbol first, then sizes linear in one symbol that is still unknown."""
    sizes = [
        (dim, actual)
        for _, t, shape in shaped
        for dim, actual in zip(t.shape, shape, strict=True)
        if isinstance(dim, Expr)
    ]
    for dim, actual in sizes:
        names = free_symbols(dim)
        if len(names) == 1 and dim == sym(next(iter(names))):
            binding.setdefault(next(iter(names)), actual)
    for dim, actual in sizes:
        unknown = free_symbols(dim) - binding.keys()
        if len(unknown) == 1:
            _solve(dim, next(iter(unknown)), actual, binding)


def _solve(dim: Dim, name: str, actual: int, binding: dict[str, int]) -> None:
    """Binds ``name`` if ``dim`` is linear in it, which is the case where the size is unique."""
    known: dict[str, Dim] = dict(binding)
    line = substitute(dim, known)
    offset = substitute(line, {name: 0})
    slope = substitute(line, {name: 1}) - offset
    if not isinstance(offset, int) or not isinstance(slope, int) or slope == 0:
        return
    size, rest = divmod(actual - offset, slope)
    if line == offset + slope * sym(name) and rest == 0 and size >= 0:
        binding[name] = size


def _compare_shape(
    what: str, t: TensorType, shape: tuple[int, ...], binding: Mapping[str, int]
) -> None:
    for axis, (dim, actual) in enumerate(zip(t.shape, shape, strict=True)):
        if free_symbols(dim) <= binding.keys() and evaluate(dim, binding) != actual:
            wanted = f"{dim}" if isinstance(dim, int) else f"{dim} = {evaluate(dim, binding)}"
            raise FeedError(
                f"{what} is {t}, but the shape fed is {list(shape)}: axis {axis} has size "
                f"{actual} instead of {wanted}"
            )


def promote(array: Any) -> Any:
    """``array`` as float64 if it holds floats, as complex128 if complex; else unchanged."""
    if isinstance(array, np.ndarray) and array.dtype != object:
        kind = DType.of(array.dtype).kind
        if kind in "fc":
            return array.astype(np.float64 if kind == "f" else np.complex128)
    return array


def promote_all(value: Any) -> Any:
    """``promote`` for every array that a host value holds."""
    if isinstance(value, (list, tuple)):
        return [promote_all(v) for v in value]
    return promote(value)


# -- sizes -------------------------------------------------------------------------------------


def concrete_attr(value: Any, binding: Mapping[str, int]) -> Any:
    """An attribute value with symbolic sizes replaced by integers."""
    if isinstance(value, Expr):
        return evaluate(value, binding)
    if isinstance(value, tuple):
        return tuple(concrete_attr(v, binding) for v in value)
    return value


def concrete_type(t: Type, binding: Mapping[str, int]) -> Type:
    """A type with every size whose symbols are known replaced by an integer."""
    if not isinstance(t, TensorType) or t.is_static:
        return t
    return t.with_shape(
        tuple(evaluate(d, binding) if free_symbols(d) <= binding.keys() else d for d in t.shape)
    )


def _wide_attr(value: Any) -> Any:
    if isinstance(value, DType):
        return F64 if value.is_float else value
    if isinstance(value, tuple):
        return tuple(_wide_attr(v) for v in value)
    return value


def _wide_type(t: Type) -> Type:
    return t.with_dtype(F64) if isinstance(t, TensorType) and t.dtype.is_float else t


# -- expansion of composites -------------------------------------------------------------------

_EXPANSIONS: WeakKeyDictionary[Node, Graph] = WeakKeyDictionary()


def expansion(node: Node) -> Graph:
    """The body of a composite node as a graph: inputs ``a0, a1, ...`` (operands that are present,
    by position), one output ``y``. Cached for the life of the node."""
    found = _EXPANSIONS.get(node)
    if found is None:
        op = lookup(node.op)
        if op.expand is None:
            raise ModelError(f"{node.op} has no expansion")
        builder = Builder(Constants())
        operands = tuple(
            None if v is None else builder.input(f"a{i}", v.type) for i, v in enumerate(node.inputs)
        )
        found = builder.build([("y", op.expand(builder, operands, node.attrs))])
        _EXPANSIONS[node] = found
    return found


# -- the machine -------------------------------------------------------------------------------


class _Machine:
    """Runs graphs; holds what nested runs share: the mode and the converted constants."""

    def __init__(self, float64: bool) -> None:
        self.float64 = float64
        self.promoted: dict[str, np.ndarray] = {}
        """Small constants as float64, by digest: loop bodies read them again and again."""

    def constant(self, graph: Graph, digest: str) -> np.ndarray:
        """A constant of ``graph``, converted in float64 mode."""
        array = graph.constants.get(digest)
        if not self.float64:
            return array
        if array.nbytes > 1 << 16:
            return promote(array)
        if digest not in self.promoted:
            self.promoted[digest] = promote(array)
        return self.promoted[digest]

    def run(
        self,
        graph: Graph,
        args: Sequence[Any],
        binding: dict[str, int],
        observe: Observer | None = None,
    ) -> tuple[Any, ...]:
        """Outputs of ``graph`` on positional arguments; ``binding`` is extended in place."""
        values: dict[Value, Any] = dict(zip(graph.inputs, args, strict=True))
        drops = _last_uses(graph)
        for position, node in enumerate(graph.nodes):
            if node.op != "input":
                operands = [None if v is None else values[v] for v in node.inputs]
                results = self.node(graph, node, operands, binding)
                if observe is not None:
                    seen = observe(node, results)
                    results = results if seen is None else tuple(seen)
                values.update(zip(node.outputs, results, strict=True))
            for v in drops.get(position, ()):
                values.pop(v, None)
        return tuple(values[v] for _, v in graph.outputs)

    def node(
        self, graph: Graph, node: Node, operands: Sequence[Any], binding: dict[str, int]
    ) -> tuple[Any, ...]:
        """Results of one node, checked against its types."""
        if node.op == "const":
            return (self.constant(graph, node.attrs["digest"]),)
        try:
            results = self._apply(node, operands, binding)
            self._check(node, results, binding)
        except EvonnxError as e:
            if getattr(e, "evonnx_node", None) is not None:
                raise
            wrapped = type(e)(f"{_where(node, operands)}: {e}")
            wrapped.evonnx_node = node  # type: ignore[attr-defined]
            raise wrapped from e
        except (IndexError, ValueError, TypeError, OverflowError, ZeroDivisionError) as e:
            wrapped = ModelError(f"{_where(node, operands)}: {e}")
            wrapped.evonnx_node = node  # type: ignore[attr-defined]
            raise wrapped from e
        return results

    def _apply(
        self, node: Node, operands: Sequence[Any], binding: dict[str, int]
    ) -> tuple[Any, ...]:
        op = lookup(node.op)
        if node.op == "bind":
            binding[node.attrs["name"]] = int(operands[0])
            return (operands[0],)
        if op.expand is not None and op.reference is None:
            body = expansion(node)
            present = [x for x in operands if x is not None]
            return self.run(body, present, dict(binding))
        attrs = Attrs(
            (k, v if k == "results" else concrete_attr(v, binding)) for k, v in node.attrs.items()
        )  # `results` of a region op names sizes that its run defines; the types say the same
        types = tuple(concrete_type(t, binding) for t in node.types)
        if self.float64:
            attrs = Attrs((k, _wide_attr(v)) for k, v in attrs.items())
            types = tuple(_wide_type(t) for t in types)
        if op.has("control"):
            return self._control(node, operands, attrs, types)
        if op.reference is None:
            raise ModelError(f"{node.op} has no reference meaning")
        results = op.reference(operands, attrs, types)
        if self.float64 and op.has("host"):
            results = tuple(promote_all(x) for x in results)
        return tuple(np.asarray(x) if isinstance(x, np.generic) else x for x in results)

    def _control(
        self, node: Node, operands: Sequence[Any], attrs: Attrs, types: tuple[Type, ...]
    ) -> tuple[Any, ...]:
        from .ops.control import CONTROL

        outer: dict[str, int] = dict(attrs["symbols"])

        def run_region(region: Graph, args: Sequence[Any]) -> tuple[Any, ...]:
            return self.region(region, args, outer)

        return tuple(CONTROL[node.op](operands, attrs, types, run_region))

    def region(
        self, region: Graph, args: Sequence[Any], outer: Mapping[str, int]
    ) -> tuple[Any, ...]:
        """Outputs of a region: ``outer`` gives the sizes it takes from outside, the other
        symbols of its inputs follow from the arguments (a loop's state may change its size)."""
        shaped = [
            (f"region input {k}", v.type, np.shape(x))
            for k, (v, x) in enumerate(zip(region.inputs, args, strict=True))
            if isinstance(v.type, TensorType)
        ]
        for what, t, shape in shaped:
            if len(shape) != t.rank:
                raise ModelError(f"{what} is {t}, but the shape is {list(shape)}")
        binding = dict(outer)
        bind_shapes(shaped, binding)
        for what, t, shape in shaped:
            _compare_shape(what, t, shape, binding)
        return self.run(region, args, binding)

    def _check(self, node: Node, results: tuple[Any, ...], binding: dict[str, int]) -> None:
        if len(results) != len(node.types):
            raise ModelError(f"gives {len(results)} results, its type says {len(node.types)}")
        for k, (t, x) in enumerate(zip(node.types, results, strict=True)):
            if not isinstance(t, TensorType):
                continue
            wanted = _wide_type(t) if self.float64 else t
            assert isinstance(wanted, TensorType)
            if not isinstance(x, np.ndarray) or x.dtype != wanted.dtype.np or x.ndim != t.rank:
                got = f"{x.dtype}{list(x.shape)}" if isinstance(x, np.ndarray) else type(x).__name__
                raise ModelError(f"result {k} is {got} where the type says {wanted}")
            if not t.is_static:
                bind_shapes([(f"result {k}", t, x.shape)], binding)
            if any(
                free_symbols(d) <= binding.keys() and evaluate(d, binding) != n
                for d, n in zip(t.shape, x.shape, strict=True)
            ):
                raise ModelError(
                    f"result {k} has shape {list(x.shape)} where the type says "
                    f"{concrete_type(t, binding)}"
                )


def _last_uses(graph: Graph) -> dict[int, list[Value]]:
    """Position in the order -> values that nothing reads after it."""
    last: dict[Value, int] = {}
    for position, node in enumerate(graph.nodes):
        for v in (*node.outputs, *node.operands):
            last[v] = position
    for v in graph.output_values:
        last.pop(v, None)
    drops: dict[int, list[Value]] = {}
    for v, position in last.items():
        drops.setdefault(position, []).append(v)
    return drops


def _where(node: Node, operands: Sequence[Any]) -> str:
    shapes = ", ".join(
        "-" if x is None else f"{x.dtype}{list(x.shape)}" if isinstance(x, np.ndarray) else "host"
        for x in operands
    )
    origin = f" from {quote(node.origin[0])}" if node.origin else ""
    return f"{node.op}({shapes}){origin}"
