"""Tree ensembles as ``ai.onnx.ml.TreeEnsemble`` (version 5).

ONNX keeps inner nodes and leaves in separate lists and one weight per leaf; a leaf with several
weights becomes a leaf in as many copies of its tree.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from onnx import numpy_helper

from ...ir.errors import ModelError
from ...ir.graph import Node
from ...ir.ops.trees import COLUMN_MASK, MISSING_SHIFT, MODE_SHIFT, threshold_type
from ...ir.types import DType
from .context import ML, Exporter, writes

_AGGREGATE = {"average": 0, "sum": 1, "min": 2, "max": 3}


class _Lists:
    """ONNX's lists, filled tree by tree."""

    def __init__(self, nodes: np.ndarray, target: np.ndarray, weight: np.ndarray) -> None:
        self.nodes, self.target, self.weight = nodes, target, weight
        self.source: list[int] = []
        """Row of ``nodes`` that each inner node comes from; -1 for one made up for a lone leaf."""
        self.yes: list[tuple[int, bool]] = []
        self.no: list[tuple[int, bool]] = []
        """(position, whether it is a leaf) of each inner node's two followers."""
        self.targets: list[int] = []
        self.weights: list[float] = []
        self.roots: list[int] = []

    def tree(self, root: int, copy: int) -> None:
        """Adds one tree; leaves carry their weight number ``copy``."""
        nodes = self.nodes
        order: list[int] = [root]
        place: dict[int, int] = {}
        for row in order:  # grows while it is walked
            if nodes[row, 0] >= 0:
                place[row] = len(self.source) + len(place)
                order += [int(nodes[row, 1]), int(nodes[row, 2])]
            if len(order) > 2 * len(nodes) + 2:
                raise ModelError("tree_ensemble: the nodes form a cycle")
        leaves: dict[int, int] = {}

        def follow(row: int) -> tuple[int, bool]:
            if row in place:
                return place[row], False
            if row not in leaves:
                leaves[row] = len(self.targets)
                has = copy < nodes[row, 2]
                entry = int(nodes[row, 1]) + copy
                self.targets.append(int(self.target[entry]) if has else 0)
                self.weights.append(float(self.weight[entry]) if has else 0.0)
            return leaves[row], True

        self.roots.append(len(self.source))
        for row in place or [root]:
            alone = row not in place
            self.source.append(-1 if alone else row)
            self.yes.append(follow(row if alone else int(nodes[row, 1])))
            self.no.append(follow(row if alone else int(nodes[row, 2])))


@writes("tree_ensemble")
def _tree_ensemble(e: Exporter, node: Node, xs: list[str]) -> str:
    x = node.operands[0]
    tables = [e.known(v) for v in node.operands[1:]]
    if any(t is None for t in tables):
        return str(e.refuse(node, "needs constant tables"))
    nodes, target, weight, roots = (np.asarray(t) for t in tables)
    leaf = nodes[:, 0] < 0
    copies = max(int(nodes[leaf, 2].max(initial=1)), 1)
    how = node.attrs["aggregate"]
    if copies > 1 and how != "sum":
        return str(e.refuse(node, f"has several weights per leaf and takes their {how}"))
    lists = _Lists(nodes, target, weight)
    for root in roots:
        for copy in range(copies):
            lists.tree(int(root), copy)
    kind = threshold_type(nodes.shape[1]).np
    values = np.ascontiguousarray(nodes[:, 3 if nodes.shape[1] == 4 else 4 :]).view(kind)
    rows = np.array(lists.source, dtype=np.int64)
    codes = np.where(rows < 0, 0, nodes[rows, 0])
    wide = np.result_type(kind, weight.dtype)
    dtype = DType.of(wide)

    def tensor(name: str, items: Any, element: Any = wide) -> Any:
        return numpy_helper.from_array(np.asarray(items).astype(element), name)

    y = e.emit(
        "TreeEnsemble", xs[0] if x.dtype == dtype else e.cast(xs[0], dtype), domain=ML,
        nodes_featureids=(codes & COLUMN_MASK).tolist(),
        nodes_splits=tensor("nodes_splits", np.where(rows < 0, 0, values.reshape(-1)[rows])),
        nodes_modes=tensor("nodes_modes", (codes >> MODE_SHIFT) & 7, np.uint8),
        nodes_missing_value_tracks_true=((codes >> MISSING_SHIFT) & 1).tolist(),
        nodes_truenodeids=[k for k, _ in lists.yes], nodes_trueleafs=[int(b) for _, b in lists.yes],
        nodes_falsenodeids=[k for k, _ in lists.no], nodes_falseleafs=[int(b) for _, b in lists.no],
        leaf_targetids=lists.targets, leaf_weights=tensor("leaf_weights", lists.weights),
        tree_roots=lists.roots, n_targets=node.attrs["targets"],
        aggregate_function=_AGGREGATE[how], post_transform=0,
    )  # fmt: skip
    return str(y) if node.out.dtype == dtype else e.cast(y, node.out.dtype)
