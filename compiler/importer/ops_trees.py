"""Tree ensembles: the attribute lists of ai.onnx.ml as the tables of the op ``tree_ensemble``.

Both spellings are read: nodes numbered per tree with leaves among them (TreeEnsembleClassifier and
-Regressor), and interior nodes with separate leaves (TreeEnsemble). A set-membership test becomes a
chain of equality tests. Tables are checked here: every child exists and no walk can return.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from ...ir.errors import ModelError
from ...ir.graph import Value
from ...ir.ops.trees import COLUMN_MASK, MISSING_SHIFT, MODE_SHIFT, MODES, node_table
from ...ir.types import F32, F64
from .ops_ml import (
    binary_scores,
    choose,
    labels_of,
    post_transform,
    rows_of,
    threshold_label,
)
from .registry import lowering

if TYPE_CHECKING:
    from ..messages import NodeProto
    from .context import Ctx

_ML = "ai.onnx.ml"
LEAF = 6
"""Mode of a leaf, beside the numbers of ``MODES``."""
_MODES = {
    "BRANCH_LEQ": 0, "BRANCH_LT": 1, "BRANCH_GTE": 2, "BRANCH_GT": 3, "BRANCH_EQ": 4,
    "BRANCH_NEQ": 5, "LEAF": LEAF,
}  # fmt: skip
_MEMBER = 6
_EQUAL = 4


@dataclass(slots=True)
class Forest:
    """Tables under construction."""

    feature: list[int] = field(default_factory=list)
    value: list[float] = field(default_factory=list)
    left: list[int] = field(default_factory=list)
    right: list[int] = field(default_factory=list)
    mode: list[int] = field(default_factory=list)
    missing: list[bool] = field(default_factory=list)
    weights: dict[int, list[tuple[int, float]]] = field(default_factory=lambda: defaultdict(list))
    """Leaf -> (target, weight)."""
    roots: list[int] = field(default_factory=list)

    def add(
        self, feature: int, value: float, left: int, right: int, mode: int, missing: bool
    ) -> int:
        """Appends a node; returns its number."""
        for table, item in zip(
            (self.feature, self.value, self.left, self.right, self.mode, self.missing),
            (feature, value, left, right, mode, missing), strict=True,
        ):  # fmt: skip
            table.append(item)  # type: ignore[attr-defined]
        return len(self.mode) - 1

    def check(self, targets: int) -> None:
        """Raises ``ModelError`` unless every walk ends at a leaf and adds to a target."""
        n = len(self.mode)
        mode = np.array(self.mode, dtype=np.int64)
        inner = np.flatnonzero(mode != LEAF)
        for name in ("left", "right"):
            child = np.array(getattr(self, name), dtype=np.int64)[inner]
            if child.size and (child.min() < 0 or child.max() >= n):
                raise ModelError(f"a tree node refers to node {child.min()}..{child.max()} of {n}")
        if any(f < 0 for f in self.feature) or any(not 0 <= r < n for r in self.roots):
            raise ModelError("a tree node compares a negative feature, or a root does not exist")
        for entries in self.weights.values():
            for target, _ in entries:
                if not 0 <= target < targets:
                    raise ModelError(f"a leaf adds to target {target} of {targets}")
        self._check_ends(mode)

    def _check_ends(self, mode: np.ndarray) -> None:
        """Depth-first from the roots with a mark for nodes on the path (explicit stack)."""
        state = bytearray(len(mode))  # 0 new, 1 on the path, 2 done
        for root in self.roots:
            stack = [(root, False)]
            while stack:
                node, leaving = stack.pop()
                if leaving:
                    state[node] = 2
                elif state[node] == 1:
                    raise ModelError(f"tree node {node} is its own ancestor")
                elif state[node] == 0:
                    if mode[node] == LEAF:
                        state[node] = 2
                        continue
                    state[node] = 1
                    stack.append((node, True))
                    stack.append((self.left[node], False))
                    stack.append((self.right[node], False))

    def adjacent(self) -> Forest | None:
        """The same forest with the roots first, one after another, and then of every tree both
        children of a node side by side, in preorder; None where trees share nodes and would have to
        be copied."""
        number = {root: k for k, root in enumerate(self.roots)}
        if len(number) != len(self.roots):
            return None
        for root in self.roots:
            stack = [root]
            while stack:
                node = stack.pop()
                if self.mode[node] == LEAF:
                    continue
                for child in (self.left[node], self.right[node]):
                    if child in number:
                        return None
                    number[child] = len(number)
                stack.extend((self.right[node], self.left[node]))
        made = Forest(roots=list(range(len(self.roots))))
        for node in number:
            inner = self.mode[node] != LEAF
            made.add(
                self.feature[node], self.value[node], number[self.left[node]] if inner else 0,
                number[self.right[node]] if inner else 0, self.mode[node], self.missing[node],
            )  # fmt: skip
            if node in self.weights:
                made.weights[number[node]] = self.weights[node]
        return made

    def tables(self, real: Any) -> tuple[np.ndarray, ...]:
        """The op's tables; ``real`` is the NumPy type of thresholds and weights."""
        left, right = np.array(self.left, np.int32), np.array(self.right, np.int32)
        mode = np.array(self.mode, np.int32)
        code = np.array(self.feature, np.int32) | (mode << MODE_SHIFT)
        code |= np.array(self.missing, np.int32) << MISSING_SHIFT
        leaves = mode == LEAF
        code[leaves], left[leaves], right[leaves] = -1, 0, 0
        targets: list[int] = []
        weights: list[float] = []
        for node in sorted(self.weights):
            left[node], right[node] = len(targets), len(self.weights[node])
            targets.extend(t for t, _ in self.weights[node])
            weights.extend(w for _, w in self.weights[node])
        nodes = node_table(code, left, right, np.array(self.value, real))
        return (nodes, np.array(targets, np.int32), np.array(weights, real),
                np.array(self.roots, np.int32))  # fmt: skip


def evaluate_forest(
    ctx: Ctx, x: Value, forest: Forest, targets: int, aggregate: str, wide: bool
) -> Value:
    """Scores [N, targets]; ``wide`` compares and adds in f64."""
    forest.check(targets)
    columns = x.shape[1]
    most = max(forest.feature, default=0)
    if most > COLUMN_MASK or (isinstance(columns, int) and most >= max(columns, 1)):
        raise ModelError(f"a tree compares feature {most} of {x.type}")
    ordered = forest.adjacent()
    forest = ordered or forest
    operands = [ctx.b.const(t) for t in forest.tables(np.float64 if wide else np.float32)]
    inner = {m for m in forest.mode if m != LEAF}
    result: Value = ctx.b.op(
        "tree_ensemble", x, *operands, targets=targets, aggregate=aggregate,
        compare=MODES[next(iter(inner))] if len(inner) == 1 else "mixed", nan=any(forest.missing),
        adjacent=ordered is not None,
    )  # fmt: skip
    return result


# -- nodes numbered per tree -----------------------------------------------------------------------


def _real_list(ctx: Ctx, name: str) -> Sequence[float]:
    """A list of floats that may be spelled as a tensor (for double precision)."""
    if ctx.has(f"{name}_as_tensor"):
        values: Sequence[float] = ctx.attr(f"{name}_as_tensor").reshape(-1).tolist()
        return values
    return ctx.attr(name, ())


def _per_tree(ctx: Ctx, kind: str) -> Forest:
    """Reads ``nodes_*`` and the leaf lists ``<kind>_*``."""
    trees, ids = ctx.required("nodes_treeids"), ctx.required("nodes_nodeids")
    n = len(trees)
    modes, features = ctx.required("nodes_modes"), ctx.required("nodes_featureids")
    values = _real_list(ctx, "nodes_values")
    true, false = ctx.required("nodes_truenodeids"), ctx.required("nodes_falsenodeids")
    missing = ctx.attr("nodes_missing_value_tracks_true") or (0,) * n
    if any(len(t) != n for t in (ids, modes, features, values, true, false, missing)):
        raise ModelError(f"{n} tree nodes, but node lists of other lengths")
    number = {key: k for k, key in enumerate(zip(trees, ids, strict=True))}
    if len(number) != n:
        raise ModelError("two tree nodes have one number")
    forest = Forest()
    children: set[int] = set()
    for k in range(n):
        mode = _MODES.get(modes[k])
        if mode is None:
            ctx.fail(f"node mode {modes[k][:30]!r}; supported are {', '.join(_MODES)}")
        left = right = k
        if mode != LEAF:
            left, right = number.get((trees[k], true[k]), -1), number.get((trees[k], false[k]), -1)
            children.update((left, right))
        forest.add(features[k], values[k], left, right, mode, bool(missing[k]))
    seen: set[int] = set()
    for k in range(n):  # the root is the node that is nobody's child
        if k not in children and trees[k] not in seen:
            seen.add(trees[k])
            forest.roots.append(k)
    weights = _real_list(ctx, f"{kind}_weights")
    for tree, node, target, w in zip(
        ctx.required(f"{kind}_treeids"), ctx.required(f"{kind}_nodeids"),
        ctx.required(f"{kind}_ids"), weights, strict=True,
    ):  # fmt: skip
        at = number.get((tree, node))
        if at is None:
            raise ModelError(f"a weight belongs to node {node} of tree {tree}, which is missing")
        forest.weights[at].append((target, w))
    return forest


def _with_base(ctx: Ctx, y: Value, base: Sequence[float]) -> Value:
    return ctx.b.op("add", y, ctx.b.const(np.array(base, y.dtype.np))) if base else y


@lowering("TreeEnsembleRegressor", domain=_ML)
def tree_ensemble_regressor(ctx: Ctx, node: NodeProto) -> Value:
    """[N, F] to f32 [N, targets]."""
    x, targets = rows_of(ctx, ctx.input(0)), ctx.attr("n_targets", 1)
    forest = _per_tree(ctx, "target")
    how = ctx.attr("aggregate_function", "SUM").lower()
    if how not in ("sum", "average", "min", "max"):
        raise ModelError(f"aggregate_function {how[:20]!r}")
    y = evaluate_forest(ctx, x, forest, targets, how, x.dtype == F64)
    base = _real_list(ctx, "base_values")
    if base and len(base) not in (1, targets):
        raise ModelError(f"{len(base)} base values for {targets} targets")
    if len(base) == targets:
        y = _with_base(ctx, y, base)
    y = ctx.as_dtype(y, F32)
    transform = ctx.attr("post_transform", "NONE")
    if targets == 1 and transform != "PROBIT":
        return y  # runtimes transform a single score by PROBIT only
    return post_transform(ctx, y, transform)


@lowering("TreeEnsembleClassifier", domain=_ML)
def tree_ensemble_classifier(ctx: Ctx, node: NodeProto) -> tuple[Value, ...]:
    """(labels [N], f32 scores [N, K])."""
    b, x, labels = ctx.b, rows_of(ctx, ctx.input(0)), labels_of(ctx)
    forest = _per_tree(ctx, "class")
    count = len(labels)
    if count < 2:
        ctx.fail(f"a classifier with {count} labels; at least 2 are supported")
    transform = ctx.attr("post_transform", "NONE")
    y = evaluate_forest(ctx, x, forest, count, "sum", x.dtype == F64)
    used = {t for entries in forest.weights.values() for t, _ in entries}
    base = _real_list(ctx, "base_values")
    if base and len(base) not in (1, count):
        raise ModelError(f"{len(base)} base values for {count} classes")
    if len(used) == 1 and count == 2 and len(base) == 2:  # the standard does not say
        ctx.fail("two base values of a classifier whose leaves score one class; one is supported")
    positive = all(w >= 0 for entries in forest.weights.values() for _, w in entries)
    if count > 2 or len(used) != 1:
        y = ctx.as_dtype(_with_base(ctx, y, base if len(base) == count else ()), F32)
        return choose(ctx, y, labels), post_transform(ctx, y, transform)
    (column,) = used
    if column == 0:
        one = b.op("slice", y, starts=(0, 0), sizes=(y.shape[0], 1), steps=(1, 1))
        one = ctx.as_dtype(_with_base(ctx, one, base), F32)
        label = threshold_label(ctx, one, labels, positive)
        return label, binary_scores(ctx, one, transform, positive)
    y = ctx.as_dtype(_with_base(ctx, y, base if len(base) == count else ()), F32)
    one = b.op("slice", y, starts=(0, column), sizes=(y.shape[0], 1), steps=(1, 1))
    label = threshold_label(ctx, one, labels, positive)
    return label, post_transform(ctx, y, transform)


# -- interior nodes and leaves apart ---------------------------------------------------------------


def _flat(ctx: Ctx) -> Forest:
    """Reads the attributes of TreeEnsemble (ai.onnx.ml 5)."""
    features = ctx.required("nodes_featureids")
    n = len(features)
    splits = ctx.required("nodes_splits").reshape(-1).tolist()
    modes = ctx.required("nodes_modes").reshape(-1).tolist()
    sides = [
        (ctx.required(f"nodes_{s}nodeids"), ctx.required(f"nodes_{s}leafs"))
        for s in ("true", "false")
    ]
    missing = ctx.attr("nodes_missing_value_tracks_true") or (0,) * n
    lists = [splits, modes, missing, *(t for side in sides for t in side)]
    if any(len(t) != n for t in lists) or any(not 0 <= m <= _MEMBER for m in modes):
        raise ModelError(f"{n} tree nodes, but node lists of other lengths, or an unknown mode")
    targets = ctx.required("leaf_targetids")
    weights = ctx.required("leaf_weights").reshape(-1).tolist()
    if len(targets) != len(weights):
        raise ModelError(f"{len(targets)} leaf targets and {len(weights)} leaf weights")

    def child(side: int, k: int) -> int:
        node, leaf = sides[side][0][k], sides[side][1][k]
        if not 0 <= node < (len(targets) if leaf else n):
            raise ModelError(f"tree node {k} refers to {'leaf' if leaf else 'node'} {node}")
        return node + n if leaf else node

    forest = Forest(roots=list(ctx.required("tree_roots")))
    for k in range(n):
        mode = _EQUAL if modes[k] == _MEMBER else modes[k]
        forest.add(features[k], splits[k], child(0, k), child(1, k), mode, bool(missing[k]))
    for k, (target, w) in enumerate(zip(targets, weights, strict=True)):
        leaf = forest.add(0, 0.0, n + k, n + k, LEAF, False)
        forest.weights[leaf].append((target, w))
    _expand_members(ctx, forest, [k for k in range(n) if modes[k] == _MEMBER])
    return forest


def _expand_members(ctx: Ctx, forest: Forest, members: Sequence[int]) -> None:
    """Set tests as chains of equality tests; sets are separated by NaN in ``membership_values``."""
    if not members:
        return
    sets: list[list[float]] = [[]]
    for v in ctx.required("membership_values").reshape(-1).tolist():
        if v != v:
            sets.append([])
        else:
            sets[-1].append(v)
    if not sets[-1]:
        sets.pop()
    if len(sets) != len(members):
        raise ModelError(f"{len(sets)} membership sets for {len(members)} nodes")
    for node, values in zip(members, sets, strict=True):
        if not values:
            raise ModelError(f"tree node {node} tests membership in an empty set")
        forest.value[node] = values[0]
        otherwise, at = forest.right[node], node
        for v in values[1:]:
            forest.right[at] = forest.add(
                forest.feature[node], v, forest.left[node], otherwise, _EQUAL, False
            )
            at = forest.right[at]


@lowering("TreeEnsemble", domain=_ML, since=5)
def tree_ensemble(ctx: Ctx, node: NodeProto) -> Value:
    """[N, F] to [N, targets] in the element type of x."""
    x, targets = rows_of(ctx, ctx.input(0)), ctx.attr("n_targets", 1)
    forest = _flat(ctx)
    how = ctx.attr("aggregate_function", 1)
    transform = ctx.attr("post_transform", 0)
    if not 0 <= how <= 3 or not 0 <= transform <= 4:
        raise ModelError(f"aggregate_function {how}, post_transform {transform}")
    name = ("average", "sum", "min", "max")[how]
    y = evaluate_forest(ctx, x, forest, targets, name, x.dtype == F64)
    if x.dtype.is_float:
        y = ctx.as_dtype(y, x.dtype)
    names = ("NONE", "SOFTMAX", "LOGISTIC", "SOFTMAX_ZERO", "PROBIT")
    return post_transform(ctx, y, names[transform])
