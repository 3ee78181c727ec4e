"""Access maps against references: every element computed through the map is the reference's.

For each node of random graphs all points of the output and of the reduced axes are enumerated, the
index expressions are evaluated on them (inside bounds wherever the conditions hold), and what is
read is combined as the op's traits say. This is the ground that kernel lowering stands on.
"""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest

from evonnx.ir.access import AccessMap, Gathered, Region
from evonnx.ir.builder import Builder
from evonnx.ir.dim_values import evaluate
from evonnx.ir.dims import Expr, free_vars, var
from evonnx.ir.graph import Graph, Node
from evonnx.ir.interp import concrete_attr, concrete_type, run
from evonnx.ir.ops import OPS
from evonnx.ir.random_graphs import MAKERS, random_feeds, random_graph
from evonnx.ir.types import F32, TensorType

POINTS = 40_000

_ATOMS = {
    "floordiv": lambda a, b: a // b,
    "mod": lambda a, b: a % b,
    "max": lambda *xs: np.maximum.reduce(np.broadcast_arrays(*xs)),
    "min": lambda *xs: np.minimum.reduce(np.broadcast_arrays(*xs)),
    "bcast": lambda a, b: np.where(np.asarray(a) == 1, b, a),
}


def on_points(dim: Any, at: dict[str, Any]) -> Any:
    """A dimension evaluated by NumPy for all points at once."""
    if not isinstance(dim, Expr):
        return dim
    total: Any = 0
    for monomial, coef in dim.terms:
        term: Any = coef
        for atom, power in monomial:
            if atom.kind in ("sym", "var"):
                value = at[atom.name]
            else:
                value = _ATOMS[atom.kind](*(on_points(a, at) for a in atom.args))
            term = term * value**power
        total = total + term
    return total


def grid(extents: list[int]) -> list[np.ndarray]:
    return [g.ravel() for g in np.indices(extents)] if extents else []


def read(
    region: Region, operands: list[np.ndarray], at: dict[str, Any], points: int
) -> tuple[np.ndarray, np.ndarray]:
    """(values, valid) of one region on all points."""
    valid = np.ones(points, dtype=bool)
    for c in region.when:
        e = on_points(c.expr, at)
        valid &= (on_points(c.lo, at) <= e) & (e < on_points(c.hi, at))
    source = operands[region.operand]
    where = []
    for size, position in zip(source.shape, region.index, strict=True):
        if isinstance(position, Gathered):
            index = operands[position.operand]
            cell = tuple(
                np.broadcast_to(on_points(i, at), points).astype(np.int64) for i in position.index
            )
            got = (index[cell] if index.ndim else np.broadcast_to(index, points)).astype(np.int64)
            assert on_points(position.extent, at) == size
            got = np.where(got < 0, got + size, got)
        else:
            got = np.broadcast_to(on_points(position, at), points).astype(np.int64)
        inside = (got >= 0) & (got < size)
        assert inside[valid].all(), f"{region} leaves the axis of {size}"
        where.append(np.where(valid, got, 0))
    if not valid.any() or source.size == 0:
        return np.zeros(points, dtype=source.dtype), valid
    return np.broadcast_to(source[tuple(where)], points), valid


def through_map(
    node: Node, operands: list[np.ndarray], out: np.ndarray, binding: dict[str, int]
) -> np.ndarray | None:
    """The node's result computed through its access map; None where there are too many points."""
    op = OPS[node.op]
    assert op.access is not None
    types = tuple(None if v is None else v.type for v in node.inputs)
    names = itertools.count()
    position = tuple(var(f"i{next(names)}", d) for d in node.out.shape)
    amap: AccessMap = op.access(types, node.attrs, position, lambda e: var(f"i{next(names)}", e))
    axes = [*position, *(v for v, _ in amap.reduced)]
    extents = [*out.shape, *(evaluate(e, binding) for _, e in amap.reduced)]
    points = int(np.prod(extents, dtype=np.int64))
    if points > POINTS:
        return None
    at: dict[str, Any] = dict(binding)
    for axis, values in zip(axes, grid(extents), strict=True):
        for name in free_vars(axis):
            at[name] = values
    reads = [read(r, operands, at, points) for r in amap.regions]
    inner = (out.size, points // out.size if out.size else 0)
    return combine(node, reads, inner, binding).reshape(out.shape)


def combine(
    node: Node, reads: list[Any], inner: tuple[int, int], binding: dict[str, int]
) -> np.ndarray:
    op = OPS[node.op]
    if op.has("elementwise"):
        flat = tuple(TensorType(t.dtype, (inner[0],)) for t in node.types)  # type: ignore[union-attr]
        attrs = {k: concrete_attr(v, binding) for k, v in node.attrs.items()}
        return op.reference([values for values, _ in reads], attrs, flat)[0]  # type: ignore[misc]
    if op.has("movement"):
        result, done = np.zeros_like(reads[0][0]), np.zeros(inner[0], dtype=bool)
        for values, valid in reads if node.op in ("pad", "concat") else reads[:1]:
            take = valid & ~done
            result = np.where(take, values, result)
            done |= take
        assert done.all(), "some element is read from nowhere"
        return result
    wide = [np.where(valid, v, 0).astype(np.float64) for v, valid in reads]
    if op.has("contraction"):
        return (wide[0] * wide[1]).reshape(inner).sum(axis=1)
    if op.has("attention"):
        return attend(node, wide, inner, binding)
    values, valid = reads[0][0].reshape(inner), reads[0][1].reshape(inner)
    kind = node.attrs["kind"]
    fold = {"max": np.maximum, "min": np.minimum, "prod": np.multiply}.get(kind, np.add)
    unit = {"max": -np.inf, "min": np.inf, "prod": 1.0}.get(kind, 0.0)
    folded = fold.reduce(np.where(valid, values, unit), axis=1)
    return folded / max(inner[1], 1) if kind == "mean" else folded


def attend(
    node: Node, reads: list[np.ndarray], inner: tuple[int, int], binding: dict[str, int]
) -> np.ndarray:
    depth = max(evaluate(node.operands[0].shape[-1], binding), 1)
    q, k, v, *mask = (r.reshape(inner[0], inner[1] // depth, depth) for r in reads)
    scores = (q * k).sum(axis=2) * node.attrs["scale"] + (mask[0][:, :, 0] if mask else 0)
    weights = np.exp(scores - scores.max(axis=1, keepdims=True))
    return (weights * v[:, :, 0]).sum(axis=1) / weights.sum(axis=1)


def check_graph(graph: Graph, seed: int, sizes: dict[str, int] | None = None) -> set[str]:
    """Checks every node that has an access map; returns the ops seen."""
    feeds = random_feeds(graph, seed, sizes)
    values: dict[Any, np.ndarray] = {}
    seen: set[str] = set()
    from evonnx.ir.interp import bind_feeds

    binding, arrays = bind_feeds(graph, feeds)
    values.update(zip(graph.inputs, arrays, strict=True))

    def observe(node: Node, results: tuple[np.ndarray, ...]) -> None:
        values.update(zip(node.outputs, results, strict=True))
        if node.op == "bind":
            binding[node.attrs["name"]] = int(results[0])
        op = OPS[node.op]
        if op.access is None or node.op == "iota":
            return
        operands = [values[v] for v in node.operands]
        got = through_map(node, operands, results[0], binding)
        if got is None or results[0].size == 0:
            return
        seen.add(node.op)
        np.testing.assert_allclose(
            got.astype(np.float64), results[0].astype(np.float64), rtol=2e-5, atol=2e-5,
            err_msg=f"{node!r} of {[concrete_type(v.type, binding) for v in node.operands]}",
        )  # fmt: skip

    run(graph, feeds, observe=observe)
    return seen


WITH_MAP = sorted(n for n, op in OPS.items() if op.access is not None and n not in ("iota",))


@pytest.mark.parametrize("symbolic", [False, True], ids=["static", "symbolic"])
def test_random_graphs(symbolic: bool) -> None:
    seen: set[str] = set()
    for seed in range(80):
        graph = random_graph(seed, 12, symbolic=symbolic)
        seen |= check_graph(graph, seed)
    rare = {"isinf", "bitnot", "bitcast", "acosh", "atanh"}
    assert seen >= set(WITH_MAP) - rare, set(WITH_MAP) - seen


@pytest.mark.parametrize("op", sorted(n for n in MAKERS if OPS.get(n) and OPS[n].access))
def test_one_op(op: str) -> None:
    """Chains of one op with reshapes and casts between, so that each op meets odd shapes."""
    seen: set[str] = set()
    for seed in range(12):
        ops = (op, op, op, "reshape", "cast", "transpose")
        seen |= check_graph(random_graph(seed, 8, symbolic=seed % 3 == 2, ops=ops), seed)
    assert op in seen or op == "iota"


MOVES = ("reshape", "transpose", "expand", "slice", "pad", "concat", "gather")


@pytest.mark.parametrize("symbolic", [False, True], ids=["static", "symbolic"])
def test_movement_of_movement(symbolic: bool) -> None:
    for seed in range(150):
        check_graph(random_graph(1000 + seed, 10, symbolic=symbolic, ops=MOVES), seed)


def test_sizes_of_one() -> None:
    """Symbols that turn out to be 1 broadcast, and loops of one step simplify."""
    for seed in range(60):
        check_graph(random_graph(seed, 10, symbolic=True), seed, {"N": 1, "S": 1})


def test_unknown_broadcast() -> None:
    """Two symbols of which one is 1 at run time."""
    from evonnx.ir.dims import sym

    b = Builder()
    x = b.input("x", TensorType(F32, (sym("N"), 3)))
    y = b.input("y", TensorType(F32, (sym("M"), 1)))
    graph = b.build([("z", b.op("add", x, y)), ("w", b.op("mul", b.op("sub", y, x), y))])
    for n, m in ((1, 4), (4, 1), (3, 3), (1, 1)):
        check_graph(graph, 0, {"N": n, "M": m})
