"""What a genome of the genetic algorithm and the swarm consists of: one vector of random keys.

``order``  a priority per node (list scheduling)
``bias``   a price per edge that is cut, added to the costs when the order is cut
``cuts``   one bit per node: a group ends behind it; replaces the exact cuts

The default is the order alone. The exact cuts choose the best groups for an order, so a bias or a
cut gene can only make its schedule dearer; nor is there a gene for variants of a candidate (the
exact cuts take the cheapest), for recomputation (copies of a node are nodes of the problem) or for
groups side by side (those are candidates). The others are there to measure that:
``python -m evonnx.bench.search genes``. Where the cuts are a heuristic, because the memory peak
has a weight, weights are genes of ``Nsga2``.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ...ir.errors import OptionError
from ..evaluate import Genomes, keys_of
from ..problem import Problem

GENES = ("order", "bias", "cuts")
NEUTRAL = 0.5
"""Value of a gene that is not one of the order and changes nothing."""
ACTIVE = 0.1
"""Part of a noise genome's bias that is not neutral."""


def checked(genes: Sequence[str]) -> tuple[str, ...]:
    """``genes``; raises ``OptionError`` for what is none, and for none at all."""
    wrong = [g for g in genes if g not in GENES]
    if wrong or not genes:
        raise OptionError(f"genes: of {', '.join(GENES)}, not {', '.join(wrong) or 'none'}")
    return tuple(genes)


class Layout:
    """Vectors f8[p, width] of the ``genes`` for a problem: n keys, then the others. Where the order
    is none of them it is the one ``given``, i4[n]."""

    def __init__(self, problem: Problem, genes: Sequence[str], given: np.ndarray) -> None:
        self._nodes = n = problem.nodes
        self._bias = len(problem.flat.preds) if "bias" in genes else 0
        self._cuts = n if "cuts" in genes else 0
        self._fixed = None if "order" in genes else keys_of(given[None])
        self._scale = float(problem.cost.mean()) if problem.candidates else 1.0
        self.width = n + self._bias + self._cuts

    def noise(self, rng: np.random.Generator, count: int) -> np.ndarray:
        """Random vectors."""
        found = rng.random((count, self.width))
        biased = found[:, self._nodes : self._nodes + self._bias]
        biased[rng.random(biased.shape) > ACTIVE] = NEUTRAL
        return found

    def vectors(self, orders: np.ndarray, rest: np.ndarray | None = None) -> np.ndarray:
        """Vectors of orders i4[p, n]; the genes behind the keys are ``rest``, or neutral."""
        if rest is None:
            rest = np.full((len(orders), self.width - self._nodes), NEUTRAL)
        return np.concatenate([keys_of(orders), rest], axis=1)

    def rest(self, vectors: np.ndarray) -> np.ndarray:
        """The genes behind the keys."""
        return vectors[:, self._nodes :]

    def genomes(self, vectors: np.ndarray) -> Genomes:
        """What is decoded."""
        n, b = self._nodes, self._nodes + self._bias
        keys = vectors[:, :n]
        if self._fixed is not None:
            keys = np.broadcast_to(self._fixed, keys.shape)
        bias = 2 * self._scale * (vectors[:, n:b] - NEUTRAL) if self._bias else None
        return Genomes(keys, bias, None,
                       (vectors[:, b:] > NEUTRAL).astype(np.uint8) if self._cuts else None)


RULES = ("place", "depth", "height", "readers", "cost")
"""Priority rules of list scheduling that ``priority_rules`` gives."""
COEFFICIENTS = (-1, 0, 1)
"""What a rule may be taken with: the strategy genes of grids and of Bayesian search."""


def priority_rules(problem: Problem, given: np.ndarray) -> np.ndarray:
    """f8[rules, n]: what each of ``RULES`` says of every node, as ranks in [0, 1): its place in the
    ``given`` order i4[n], the longest path that leads to it and that leads from it, the number of
    nodes that read it, and its cost as a group of its own."""
    n = problem.nodes
    place, depth, height, readers = np.zeros((4, n))
    place[given] = np.arange(n)
    for a, b in sorted(problem.edges, key=lambda edge: edge[1]):
        depth[b] = max(depth[b], depth[a] + 1)
        readers[a] += 1
    for a, b in sorted(problem.edges, reverse=True):
        height[a] = max(height[a], height[b] + 1)
    cost = np.full(n, np.inf)
    flat = problem.flat
    single = np.flatnonzero(np.diff(flat.member_ptr) == 1)
    np.minimum.at(cost, flat.members[flat.member_ptr[:-1][single]], problem.cost[single])
    found = np.stack([place, depth, height, readers, cost])
    ranks = np.stack([np.unique(row, return_inverse=True)[1] for row in found])
    result: np.ndarray = ranks / max(1, n)
    return result
