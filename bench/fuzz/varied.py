"""The same schedule with other kernels: random settings for every group that can have some."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from ...ir.graph import Graph
from ...ir.groups import extract
from ...ir.schedule import FUSED, Schedule
from ...ir.target import Target
from ...ir.variants import Variant, form_of, values

_ORDER = ("window", "winograd", "columns", "rows", "depth", "block", "unroll", "lines")
"""Settings in an order in which each narrows what the next may be."""
_MOST = 64
"""Of long ranges of numbers, those up to so many above the least are drawn."""


def varied(schedule: Schedule, graph: Graph, target: Target, rng: np.random.Generator,
           transforms: bool) -> Schedule | None:
    """``schedule`` with settings drawn by ``rng``; None where no group can have any. Winograd's
    method only with ``transforms``: what is not finite spreads further there."""
    groups = []
    every = zip(schedule.groups, schedule.written(graph), strict=True)
    for group, written in every:
        found: Variant = ()
        if group.implementation in FUSED:
            cut = extract(graph, [graph.nodes[i] for i in group.computed], written)
            constants = frozenset(k for k, v in enumerate(cut.inputs) if v.node.op == "const")
            form = form_of(cut.graph, group.implementation, constants)
            chosen: dict[str, int] = {}
            for name in _ORDER:
                allowed = values(form, target, chosen).get(name, ())
                if name == "winograd" and not transforms:
                    allowed = [v for v in allowed if v == 0]
                if len(allowed) and rng.random() < 0.6:
                    chosen[name] = int(allowed[int(rng.integers(min(len(allowed), _MOST)))])
            found = tuple(chosen.items())
        groups.append(replace(group, variant=found))
    return Schedule(schedule.graph, tuple(groups)) if any(g.variant for g in groups) else None
