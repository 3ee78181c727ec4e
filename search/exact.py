"""The proven optimum: dynamic programming over the ideals of the graph, and exhaustive search.

An *ideal* (down-set) is a set of nodes that contains all predecessors of its members: what has been
computed when some groups are done. From an ideal every candidate whose members are missing and
whose outer predecessors are there leads to a larger ideal; the cheapest path from the empty ideal
to the whole graph is the cheapest partition into candidates that can be put in order. Ideals are
visited by size, so each is final when it is left.

Groups that do not depend on one another may run in any order, and the ideals on all these ways
would multiply. So only one order of each partition is followed: of the groups that are ready, the
one with the smallest first node. From an ideal, nodes that are ready are looked at in ascending
order; behind a node all of whose possible groups are ready now nothing else needs to be tried,
since its group would have come first. That keeps parallel branches from multiplying. A graph with
more than ``limit`` ideals left is refused.

Ideals are bit sets in rows of 64-bit words, found by Zobrist's hash and compared word by word, so
the proof does not rest on the hash.
"""
# ruff: noqa: SIM110  (compiled loops: Numba knows no generator expressions)

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numba import njit

from .problem import Problem

_jit = njit(cache=True, nogil=True, error_model="numpy")

_DONE, _WIDE = 0, 1


@dataclass(frozen=True, slots=True)
class Proof:
    """The optimum and what was looked at to prove it."""

    cost: float
    chosen: tuple[int, ...]
    """Candidates in a possible order."""
    ideals: int
    """Ideals visited."""
    transitions: int
    """Candidates tried from them."""


@_jit
def _has(row, v):  # type: ignore[no-untyped-def]
    return (row[v >> 6] >> np.uint64(v & 63)) & np.uint64(1) != 0


@_jit
def _lookup(row, key, rows, hashes, slots):  # type: ignore[no-untyped-def]
    """(number of the ideal or -1, slot)."""
    mask = np.uint64(len(slots) - 1)
    slot = key & mask
    while slots[slot] >= 0:
        k = slots[slot]
        if hashes[k] == key:
            same = True
            for w in range(len(row)):
                if rows[k, w] != row[w]:
                    same = False
                    break
            if same:
                return k, slot
        slot = (slot + np.uint64(1)) & mask
    return -1, slot


@_jit
def _ready(row, v, pred_ptr, preds):  # type: ignore[no-untyped-def]
    """Whether ``v`` is missing from the ideal and all its predecessors are there."""
    if _has(row, v):
        return False
    for e in range(pred_ptr[v], pred_ptr[v + 1]):
        if not _has(row, preds[e]):
            return False
    return True


@_jit
def _fits(row, g, member_ptr, members, outer_ptr, outer):  # type: ignore[no-untyped-def]
    """Whether the ideal lacks all members of ``g`` and has all they need from outside."""
    for e in range(outer_ptr[g], outer_ptr[g + 1]):
        if not _has(row, outer[e]):
            return False
    for e in range(member_ptr[g], member_ptr[g + 1]):
        if _has(row, members[e]):
            return False
    return True


@_jit
def _forced(row, v, holder_ptr, holders, member_ptr, members, outer_ptr, outer):  # type: ignore[no-untyped-def]
    """Whether every candidate that may still hold ``v`` is ready: its group must come first."""
    for e in range(holder_ptr[v], holder_ptr[v + 1]):
        g = holders[e]
        possible = True
        for m in range(member_ptr[g], member_ptr[g + 1]):
            if _has(row, members[m]):
                possible = False
                break
        if possible and not _fits(row, g, member_ptr, members, outer_ptr, outer):
            return False
    return True


@_jit
def _rehash(count, hashes, size):  # type: ignore[no-untyped-def]
    """The table of the first ``count`` ideals, with ``size`` slots."""
    slots = np.full(size, -1, np.int32)
    mask = np.uint64(size - 1)
    for k in range(count):
        slot = hashes[k] & mask
        while slots[slot] >= 0:
            slot = (slot + np.uint64(1)) & mask
        slots[slot] = k
    return slots


@_jit
def _none(count):  # type: ignore[no-untyped-def]
    return np.full(count, -1, np.int32)


@_jit
def _longer(numbers):  # type: ignore[no-untyped-def]
    return np.concatenate((numbers, _none(len(numbers))))


@_jit
def _ideals(n, limit, pred_ptr, preds, member_ptr,  # type: ignore[no-untyped-def]
            members, first_ptr, first, holder_ptr, holders, outer_ptr,
            outer, cost, word):  # fmt: skip
    """(status, best f8[k], from i4[k], by i4[k], transitions, ideals, number of the whole one)."""
    room, words = 1024, (n + 63) >> 6
    rows, hashes = np.zeros((room, words), np.uint64), np.zeros(room, np.uint64)
    best = np.full(room, math.inf)
    origin, by, following = _none(room), _none(room), _none(room)
    heads = _none(n + 1)  # first ideal of each size; ``following`` chains the others
    slots = _rehash(1, hashes, 4 * room)
    best[0], heads[0] = 0.0, 0
    count, tried = 1, 0
    row = np.zeros(words, np.uint64)
    for size in range(n):
        at = heads[size]
        while at >= 0:
            for v in range(n):
                if not _ready(rows[at], v, pred_ptr, preds):
                    continue
                for f in range(first_ptr[v], first_ptr[v + 1]):
                    g = first[f]
                    if not _fits(rows[at], g, member_ptr, members, outer_ptr, outer):
                        continue
                    tried += 1
                    row[:] = rows[at]
                    key = hashes[at]
                    for e in range(member_ptr[g], member_ptr[g + 1]):
                        m = members[e]
                        row[m >> 6] |= np.uint64(1) << np.uint64(m & 63)
                        key ^= word[m]
                    k, slot = _lookup(row, key, rows, hashes, slots)
                    if k < 0:
                        if count == limit:
                            return _WIDE, best, origin, by, tried, count, -1
                        if count == room:
                            rows = np.concatenate((rows, np.zeros_like(rows)))
                            hashes = np.concatenate((hashes, np.zeros_like(hashes)))
                            best = np.concatenate((best, np.full(room, math.inf)))
                            origin, by = _longer(origin), _longer(by)
                            following = _longer(following)
                            room *= 2
                        k = count
                        count += 1
                        rows[k], hashes[k], slots[slot] = row, key, k
                        grown = size + member_ptr[g + 1] - member_ptr[g]
                        following[k], heads[grown] = heads[grown], k
                        if 2 * count > len(slots):
                            slots = _rehash(count, hashes, 2 * len(slots))
                    total = best[at] + cost[g]
                    if total < best[k]:
                        best[k], origin[k], by[k] = total, at, g
                if _forced(rows[at], v, holder_ptr, holders, member_ptr, members, outer_ptr, outer):
                    break
            at = following[at]
    return _DONE, best, origin, by, tried, count, heads[n]


def prove(problem: Problem, limit: int = 1_000_000) -> Proof | None:
    """The optimum over all partitions into candidates that can be put in order; None where the
    graph has more than ``limit`` ideals."""
    p = problem
    n = p.nodes
    if n == 0:
        return Proof(0.0, (), 1, 0)
    first_ptr, first, holder_ptr, holders, outer_ptr, outer = _entries(problem)
    status, best, origin, by, tried, count, whole = _ideals(
        n, limit, p.pred_ptr, p.preds, p.member_ptr, p.members, first_ptr, first, holder_ptr,
        holders, outer_ptr, outer, p.cost, p.word)  # fmt: skip
    if status == _WIDE:
        return None
    at = int(whole)
    cost, chosen = float(best[at]), []
    while origin[at] >= 0:
        chosen.append(int(by[at]))
        at = int(origin[at])
    return Proof(cost, tuple(reversed(chosen)), int(count), int(tried))


def _entries(problem: Problem) -> tuple[np.ndarray, ...]:
    """As CSR: candidates by the first of their members, candidates by each of their members, and
    the outer predecessors of each candidate."""
    first: list[list[int]] = [[] for _ in range(problem.nodes)]
    holders: list[list[int]] = [[] for _ in range(problem.nodes)]
    outer: list[list[int]] = []
    for g in range(problem.candidates):
        members = problem.group(g)
        inside = set(members)
        first[members[0]].append(g)
        for v in members:
            holders[v].append(g)
        outer.append(sorted({
            int(u) for v in members
            for u in problem.preds[problem.pred_ptr[v] : problem.pred_ptr[v + 1]]
            if int(u) not in inside
        }))  # fmt: skip
    return (*_csr(first), *_csr(holders), *_csr(outer))


def _csr(lists: list[list[int]]) -> tuple[np.ndarray, np.ndarray]:
    ptr = np.cumsum([0, *(len(x) for x in lists)], dtype=np.int32)
    return ptr, np.array([v for x in lists for v in x], np.int32)


def exhaustive(problem: Problem) -> float:
    """The optimum by trying every order of groups, for at most 16 nodes: the yardstick of the
    others, in plain Python, sharing no code with them."""
    n = problem.nodes
    if n > 16:
        raise ValueError(f"exhaustive search is for at most 16 nodes, not {n}")
    need = [0] * n
    for v in range(n):
        for u in problem.preds[problem.pred_ptr[v] : problem.pred_ptr[v + 1]]:
            need[v] |= 1 << int(u)
    sets = []
    for g in range(problem.candidates):
        mask = sum(1 << v for v in problem.group(g))
        outer = 0
        for v in problem.group(g):
            outer |= need[v]
        sets.append((mask, outer & ~mask, float(problem.cost[g])))
    seen = {0: 0.0}
    for done in range(1 << n):
        if done not in seen:
            continue
        for mask, outer, cost in sets:
            if mask & done == 0 and outer & ~done == 0:
                total = seen[done] + cost
                if total < seen.get(done | mask, math.inf):
                    seen[done | mask] = total
    return seen[(1 << n) - 1]
