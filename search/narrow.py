"""The proven optimum of narrow graphs in plain Python: what ``exact`` does, nothing to compile.

The same dynamic program over ideals as ``exact``, which explains it, with sets as long integers. A
network is narrow: most have a few ideals per node, and Python visits some ten thousand of them in
the time that a just-in-time compiler needs to start. So this is what a compilation asks first; and
as it shares no code with ``exact``, each is a test of the other.
"""

from __future__ import annotations

from collections.abc import Iterator

from .problem import Problem, Proof


def prove_narrow(problem: Problem, limit: int = 20_000) -> Proof | None:
    """The optimum over all partitions into candidates that can be put in order; None where the
    graph has more than ``limit`` ideals, or a memory limit (then the order matters, and ``exact``
    has to look at all ideals)."""
    if problem.limit < float("inf"):
        return None
    n = problem.nodes
    table = _Table(problem)
    costs = problem.cost.tolist()
    best: list[dict[int, tuple[float, int, int]]] = [{} for _ in range(n + 1)]
    best[0][0] = (0.0, 0, -1)
    ready: dict[int, int] = {0: table.sources}
    visited = tried = 0
    for size in range(n):
        visited += len(best[size])
        if visited > limit:
            return None
        for ideal, (cost, _, _) in best[size].items():
            now = ready.pop(ideal)
            for g in table.following(ideal, now):
                tried += 1
                total = cost + costs[g]
                after = ideal | table.members[g]
                level = best[size + table.sizes[g]]
                known = level.get(after)
                if known is None:
                    ready[after] = table.ready(after, now, g)
                if known is None or total < known[0]:
                    level[after] = (total, ideal, g)
    whole = (1 << n) - 1
    chosen = []
    at = whole
    while at:
        _, before, g = best[at.bit_count()][at]
        chosen.append(g)
        at = before
    return Proof(best[n][whole][0], tuple(reversed(chosen)), visited + 1, tried)


class _Table:
    """A problem as sets of bits."""

    def __init__(self, problem: Problem) -> None:
        n = problem.nodes
        self.needs = [sum(1 << u for u in problem.predecessors(v)) for v in range(n)]
        self.sources = sum(1 << v for v in range(n) if not self.needs[v])
        self.users: list[list[int]] = [[] for _ in range(n)]
        for before, after in problem.edges:
            self.users[before].append(after)
        self.members: list[int] = []
        self.sizes: list[int] = []
        self.outer: list[int] = []
        self.first: list[list[int]] = [[] for _ in range(n)]
        """Candidates by the first of their members."""
        self.holders: list[list[int]] = [[] for _ in range(n)]
        """Candidates by each of their members."""
        self.behind: list[int] = []
        """Nodes that use a result of each candidate."""
        for g in range(problem.candidates):
            group = problem.group(g)
            mask = sum(1 << v for v in group)
            outer = behind = 0
            for v in group:
                outer |= self.needs[v]
                self.holders[v].append(g)
                for w in self.users[v]:
                    behind |= 1 << w
            self.first[group[0]].append(g)
            self.members.append(mask)
            self.sizes.append(len(group))
            self.outer.append(outer & ~mask)
            self.behind.append(behind & ~mask)

    def following(self, ideal: int, ready: int) -> Iterator[int]:
        """Candidates that may come next, of independent ones only the one with the first node."""
        while ready:
            v = (ready & -ready).bit_length() - 1
            ready &= ready - 1
            for g in self.first[v]:
                if not (self.outer[g] & ~ideal or self.members[g] & ideal):
                    yield g
            if all(self.members[g] & ideal or not self.outer[g] & ~ideal for g in self.holders[v]):
                return  # all groups that can hold v are possible now: one of them comes first

    def ready(self, after: int, before: int, g: int) -> int:
        """The nodes that are ready behind an ideal that grew by a candidate."""
        found, behind = before & ~self.members[g], self.behind[g] & ~after
        while behind:
            low = behind & -behind
            behind ^= low
            if not self.needs[low.bit_length() - 1] & ~after:
                found |= low
        return found
