"""Solutions of the scheduling problem: an independent check, memory, canonical form, bounds.

The check looks at nodes one by one and shares nothing with the searches that find solutions.
"""

from __future__ import annotations

import hashlib
import heapq
from collections.abc import Sequence

import numpy as np

from .problem import Problem


def check_solution(problem: Problem, chosen: Sequence[int]) -> str:
    """Why the candidates ``chosen``, in this order, are no solution; "" if they are one."""
    place = [-1] * problem.nodes
    for k, candidate in enumerate(chosen):
        for v in problem.group(candidate):
            if place[v] >= 0:
                return f"node {v} is in two groups"
            place[v] = k
    if -1 in place:
        return f"node {place.index(-1)} is in no group"
    for before, after in problem.edges:
        if place[before] > place[after]:
            return f"node {after} runs before node {before}, which it needs"
    needed = peak(problem, chosen)
    if needed > problem.limit:
        return f"it needs {needed:.0f} bytes, the limit is {problem.limit:.0f}"
    return ""


def needs(problem: Problem, chosen: Sequence[int]) -> list[float]:
    """Bytes that each group of a solution needs: what is live before it and what it writes. Plain
    Python, the yardstick of the compiled evaluation."""
    f = problem.flat
    waiting = (np.diff(f.user_ptr) + f.kept).tolist()
    live, found = 0.0, []
    for candidate in chosen:
        found.append(live + float(f.written[candidate]))
        for v in problem.group(candidate):
            for w in range(f.value_ptr[v], f.value_ptr[v + 1]):
                live += float(f.nbytes[w]) if waiting[w] else 0.0
            for w in f.needs[f.need_ptr[v] : f.need_ptr[v + 1]].tolist():
                waiting[w] -= 1
                live -= 0.0 if waiting[w] else float(f.nbytes[w])
    return found


def peak(problem: Problem, chosen: Sequence[int]) -> float:
    """Bytes that a solution needs: the largest need of its groups."""
    return max(needs(problem, chosen), default=0.0)


def canonical(problem: Problem, chosen: Sequence[int]) -> tuple[int, ...]:
    """The one way to write down a schedule. Without values the order of groups does not matter to
    any objective: of the groups that are ready, that with the smallest first node comes first.
    With values the order is part of the schedule and stays."""
    if problem.remembers:
        return tuple(int(g) for g in chosen)
    owner = {v: k for k, g in enumerate(chosen) for v in problem.group(g)}
    arcs = {(owner[a], owner[b]) for a, b in problem.edges if owner[a] != owner[b]}
    waits = [0] * len(chosen)
    follow: list[list[int]] = [[] for _ in chosen]
    for a, b in arcs:
        waits[b] += 1
        follow[a].append(b)
    ready = [(problem.group(g)[0], k) for k, g in enumerate(chosen) if not waits[k]]
    heapq.heapify(ready)
    found = []
    while ready:
        _, k = heapq.heappop(ready)
        found.append(int(chosen[k]))
        for b in follow[k]:
            waits[b] -= 1
            if not waits[b]:
                heapq.heappush(ready, (problem.group(chosen[b])[0], b))
    return tuple(found)


def fingerprint(problem: Problem, chosen: Sequence[int]) -> str:
    """A digest of the canonical form: equal for equal schedules."""
    numbers = np.array(canonical(problem, chosen), np.int64)
    return hashlib.blake2b(numbers.tobytes(), digest_size=16).hexdigest()


def shares(problem: Problem) -> np.ndarray:
    """f8[n]: each candidate's cost is split evenly over its members; a node's cheapest share."""
    size = np.diff(problem.flat.member_ptr)
    share = np.repeat(problem.cost / size, size)
    least = np.full(problem.nodes, np.inf)
    np.minimum.at(least, problem.flat.members, share)
    return least


def floor(problem: Problem) -> float:
    """A lower bound of every solution: every node pays at least its cheapest share."""
    return float(shares(problem).sum())
