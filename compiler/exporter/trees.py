"""Tree ensembles as ``ai.onnx.ml.TreeEnsemble`` (version 5).

ONNX keeps inner nodes and leaves in separate lists and one weight per leaf; a leaf with several
weights becomes a leaf in as many copies of its tree.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from onnx import numpy_helper

from ...ir.graph import Node
from ...ir.ops.trees import LEAF, TABLES
from ...ir.types import DType
from .context import ML, Exporter, writes

_AGGREGATE = {"average": 0, "sum": 1, "min": 2, "max": 3}


class _Lists:
    """ONNX's lists, filled tree by tree."""

    def __init__(self, tables: dict[str, np.ndarray]) -> None:
        self.t = tables
        self.source: list[int] = []
        """Row of ``tables`` that each inner node comes from; -1 for one made up for a lone leaf."""
        self.yes: list[tuple[int, bool]] = []
        self.no: list[tuple[int, bool]] = []
        """(position, whether it is a leaf) of each inner node's two followers."""
        self.targets: list[int] = []
        self.weights: list[float] = []
        self.roots: list[int] = []

    def tree(self, root: int, copy: int) -> None:
        """Adds one tree; leaves carry their weight number ``copy``."""
        t = self.t
        order: list[int] = [root]
        place: dict[int, int] = {}
        for row in order:  # grows while it is walked
            if t["mode"][row] != LEAF:
                place[row] = len(self.source) + len(place)
                order += [int(t["left"][row]), int(t["right"][row])]
            if len(order) > 2 * len(t["mode"]) + 2:
                raise ValueError("the nodes of a tree form a cycle")
        leaves: dict[int, int] = {}

        def follow(row: int) -> tuple[int, bool]:
            if row in place:
                return place[row], False
            if row not in leaves:
                leaves[row] = len(self.targets)
                has = copy < t["count"][row]
                entry = int(t["start"][row]) + copy
                self.targets.append(int(t["target"][entry]) if has else 0)
                self.weights.append(float(t["weight"][entry]) if has else 0.0)
            return leaves[row], True

        self.roots.append(len(self.source))
        for row in place or [root]:
            alone = row not in place
            self.source.append(-1 if alone else row)
            self.yes.append(follow(row if alone else int(t["left"][row])))
            self.no.append(follow(row if alone else int(t["right"][row])))

    def column(self, name: str) -> list[Any]:
        """An entry of the tables per inner node."""
        return [0 if row < 0 else self.t[name][row].item() for row in self.source]


@writes("tree_ensemble")
def _tree_ensemble(e: Exporter, node: Node, xs: list[str]) -> str:
    tables: dict[str, np.ndarray] = {}
    for name, v in zip(TABLES, node.inputs[1:], strict=True):
        array = e.known(v)
        if array is None:
            return str(e.refuse(node, f"needs a constant table {name}"))
        tables[name] = array
    copies = max(int(tables["count"].max(initial=1)), 1)
    how = node.attrs["aggregate"]
    if copies > 1 and how != "sum":
        return str(e.refuse(node, f"has several weights per leaf and takes their {how}"))
    lists = _Lists(tables)
    for root in tables["roots"]:
        for copy in range(copies):
            lists.tree(int(root), copy)
    wide = np.result_type(tables["value"].dtype, tables["weight"].dtype)
    dtype = DType.of(wide)
    x = node.operands[0]

    def tensor(name: str, items: list[Any], kind: Any) -> Any:
        return numpy_helper.from_array(np.array(items, dtype=kind), name)

    y = e.emit(
        "TreeEnsemble", xs[0] if x.dtype == dtype else e.cast(xs[0], dtype), domain=ML,
        nodes_featureids=lists.column("feature"),
        nodes_splits=tensor("nodes_splits", lists.column("value"), wide),
        nodes_modes=tensor("nodes_modes", lists.column("mode"), np.uint8),
        nodes_missing_value_tracks_true=[int(m) for m in lists.column("missing")],
        nodes_truenodeids=[k for k, _ in lists.yes], nodes_trueleafs=[int(b) for _, b in lists.yes],
        nodes_falsenodeids=[k for k, _ in lists.no], nodes_falseleafs=[int(b) for _, b in lists.no],
        leaf_targetids=lists.targets, leaf_weights=tensor("leaf_weights", lists.weights, wide),
        tree_roots=lists.roots, n_targets=node.attrs["targets"],
        aggregate_function=_AGGREGATE[how], post_transform=0,
    )  # fmt: skip
    return str(y) if node.out.dtype == dtype else e.cast(y, node.out.dtype)
