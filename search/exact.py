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
since its group would have come first. That keeps parallel branches from multiplying.

Under a memory limit the order of groups matters, so all ideals are followed; what is live is a
function of the ideal, and a group that needs too much is no way. ``prove_peak`` looks for the least
peak first, by the same program with the largest need of a path for its length (a bottleneck path;
a peak that is known to be possible prunes it, as in SERENITY: Ahn et al., 2020), and then for the
least cost under that limit. A graph with more than ``limit`` ideals is refused.

Ideals are bit sets in rows of 64-bit words, found by Zobrist's hash and compared word by word, so
the proof does not rest on the hash.
"""
# ruff: noqa: SIM110  (compiled loops: Numba knows no generator expressions)

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import numpy as np
from numba import njit

from .problem import InfeasibleError, Problem, peak

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
    peak: float = 0.0
    """Bytes the solution needs; 0 where memory was not looked at."""


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
def _ready(f, row, v):  # type: ignore[no-untyped-def]
    """Whether ``v`` is missing from the ideal and all its predecessors are there."""
    if _has(row, v):
        return False
    for e in range(f.pred_ptr[v], f.pred_ptr[v + 1]):
        if not _has(row, f.preds[e]):
            return False
    return True


@_jit
def _fits(f, row, g, outer_ptr, outer):  # type: ignore[no-untyped-def]
    """Whether the ideal lacks all members of ``g`` and has all they need from outside."""
    for e in range(outer_ptr[g], outer_ptr[g + 1]):
        if not _has(row, outer[e]):
            return False
    for e in range(f.member_ptr[g], f.member_ptr[g + 1]):
        if _has(row, f.members[e]):
            return False
    return True


@_jit
def _forced(f, row, v, holder_ptr, holders, outer_ptr, outer):  # type: ignore[no-untyped-def]
    """Whether every candidate that may still hold ``v`` is ready: its group must come first."""
    for e in range(holder_ptr[v], holder_ptr[v + 1]):
        g = holders[e]
        possible = True
        for m in range(f.member_ptr[g], f.member_ptr[g + 1]):
            if _has(row, f.members[m]):
                possible = False
                break
        if possible and not _fits(f, row, g, outer_ptr, outer):
            return False
    return True


@_jit
def _growth(f, before, after, g):  # type: ignore[no-untyped-def]
    """Change of the live bytes when ``g`` leads from one ideal to another."""
    total = 0.0
    for e in range(f.member_ptr[g], f.member_ptr[g + 1]):
        v = f.members[e]
        for w in range(f.value_ptr[v], f.value_ptr[v + 1]):
            if _waits(f, after, w):
                total += f.nbytes[w]
        for d in range(f.need_ptr[v], f.need_ptr[v + 1]):
            w = f.needs[d]
            first = -1  # of several members that use a value the first one ends it
            for u in range(f.user_ptr[w], f.user_ptr[w + 1]):
                if _has(after, f.users[u]) and not _has(before, f.users[u]):
                    first = f.users[u]
                    break
            if first == v and _waits(f, before, w) and not _waits(f, after, w):
                total -= f.nbytes[w]
    return total


@_jit
def _waits(f, row, w):  # type: ignore[no-untyped-def]
    """Whether a value is produced in the ideal and needed outside of it."""
    if not _has(row, f.maker[w]):
        return False
    if f.kept[w]:
        return True
    for u in range(f.user_ptr[w], f.user_ptr[w + 1]):
        if not _has(row, f.users[u]):
            return True
    return False


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
def _ideals(f, limit, remembers, bottleneck, first_ptr,  # type: ignore[no-untyped-def]
            first, holder_ptr, holders, outer_ptr, outer):  # fmt: skip
    """(status, best f8[k], from i4[k], by i4[k], transitions, ideals, number of the whole one or
    -1). ``remembers``: memory counts; ``bottleneck``: the best is the least peak."""
    n = len(f.word)
    room, words = 1024, (n + 63) >> 6
    rows, hashes = np.zeros((room, words), np.uint64), np.zeros(room, np.uint64)
    best, live = np.full(room, math.inf), np.zeros(room)
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
                if not _ready(f, rows[at], v):
                    continue
                for e in range(first_ptr[v], first_ptr[v + 1]):
                    g = first[e]
                    if not _fits(f, rows[at], g, outer_ptr, outer):
                        continue
                    tried += 1
                    need = live[at] + f.written[g]
                    if remembers and need > f.limit:
                        continue
                    row[:] = rows[at]
                    key = hashes[at]
                    for m in range(f.member_ptr[g], f.member_ptr[g + 1]):
                        u = f.members[m]
                        row[u >> 6] |= np.uint64(1) << np.uint64(u & 63)
                        key ^= f.word[u]
                    k, slot = _lookup(row, key, rows, hashes, slots)
                    if k < 0:
                        if count == limit:
                            return _WIDE, best, origin, by, tried, count, -1
                        if count == room:
                            rows = np.concatenate((rows, np.zeros_like(rows)))
                            hashes = np.concatenate((hashes, np.zeros_like(hashes)))
                            best = np.concatenate((best, np.full(room, math.inf)))
                            live = np.concatenate((live, np.zeros(room)))
                            origin, by = _longer(origin), _longer(by)
                            following = _longer(following)
                            room *= 2
                        k = count
                        count += 1
                        rows[k], hashes[k], slots[slot] = row, key, k
                        if remembers:
                            live[k] = live[at] + _growth(f, rows[at], row, g)
                        grown = size + f.member_ptr[g + 1] - f.member_ptr[g]
                        following[k], heads[grown] = heads[grown], k
                        if 2 * count > len(slots):
                            slots = _rehash(count, hashes, 2 * len(slots))
                    total = max(best[at], need) if bottleneck else best[at] + f.cost[g]
                    if total < best[k]:
                        best[k], origin[k], by[k] = total, at, g
                if not remembers and _forced(f, rows[at], v, holder_ptr, holders, outer_ptr, outer):
                    break
            at = following[at]
    return _DONE, best, origin, by, tried, count, heads[n]


def prove(problem: Problem, limit: int = 1_000_000) -> Proof | None:
    """The optimum over all partitions into candidates that can be put in order, within the memory
    limit; None where the graph has more than ``limit`` ideals. Raises ``InfeasibleError`` where no
    solution needs as little memory as the problem's limit."""
    if not problem.remembers or problem.limit == math.inf:
        return _solve(problem, limit, False, False)
    proof = _solve(problem, limit, True, False)
    if proof is None or proof.chosen or not problem.nodes:
        return proof
    least = _solve(problem.limited(math.inf), limit, True, True)
    if least is None:
        return None
    raise InfeasibleError(problem.limit, least.peak, True)


def prove_peak(problem: Problem, limit: int = 1_000_000, known: float = math.inf) -> Proof | None:
    """The least peak memory of any solution and, under it, the least cost; None where the graph has
    more than ``limit`` ideals. ``known``: bytes that some solution is known to need at most, which
    prunes the search. The problem's own limit does not count."""
    least = _solve(problem.limited(known), limit, True, True)
    if least is None or not problem.nodes:
        return least
    if not least.chosen:
        raise ValueError(f"no solution needs {known:.0f} bytes or less")
    cheap = _solve(problem.limited(least.peak), limit, True, False)
    if cheap is None:
        return None
    return Proof(cheap.cost, cheap.chosen, least.ideals + cheap.ideals,
                 least.transitions + cheap.transitions, least.peak)  # fmt: skip


def _solve(problem: Problem, limit: int, remembers: bool, bottleneck: bool) -> Proof | None:
    """A best path, with no groups where none leads to the whole graph; None if it is too wide."""
    if problem.nodes == 0:
        return Proof(0.0, (), 1, 0)
    status, best, origin, by, tried, count, whole = _ideals(
        problem.flat, limit, remembers, bottleneck, *_entries(problem))  # fmt: skip
    if status == _WIDE:
        return None
    if whole < 0:
        return Proof(math.inf, (), int(count), int(tried), math.inf)
    at, chosen = int(whole), []
    while origin[at] >= 0:
        chosen.append(int(by[at]))
        at = int(origin[at])
    chosen.reverse()
    cost = float(sum(problem.cost[g] for g in chosen)) if bottleneck else float(best[whole])
    needed = peak(problem, chosen) if problem.remembers else 0.0
    return Proof(cost, tuple(chosen), int(count), int(tried), needed)


def _entries(problem: Problem) -> tuple[np.ndarray, ...]:
    """As CSR: candidates by the first of their members, candidates by each of their members, and
    the outer predecessors of each candidate."""
    first: list[list[int]] = [[] for _ in range(problem.nodes)]
    holders: list[list[int]] = [[] for _ in range(problem.nodes)]
    needed = [problem.predecessors(v) for v in range(problem.nodes)]
    outer: list[list[int]] = []
    for g in range(problem.candidates):
        members = problem.group(g)
        first[members[0]].append(g)
        for v in members:
            holders[v].append(g)
        outer.append(sorted({u for v in members for u in needed[v]}.difference(members)))
    return (*_csr(first), *_csr(holders), *_csr(outer))


def _csr(lists: list[list[int]]) -> tuple[np.ndarray, np.ndarray]:
    ptr = np.cumsum([0, *(len(x) for x in lists)], dtype=np.int32)
    return ptr, np.array([v for x in lists for v in x], np.int32)


def exhaustive(problem: Problem, peaks: bool = False) -> float:
    """The optimum by trying every order of groups, for at most 16 nodes: the yardstick of the
    others, in plain Python, sharing no code with them. ``peaks``: the least peak memory, in bytes,
    instead of the least cost within the limit; infinity where there is no solution."""
    n = problem.nodes
    if n > 16:
        raise ValueError(f"exhaustive search is for at most 16 nodes, not {n}")
    f = problem.flat
    need = [sum(1 << u for u in problem.predecessors(v)) for v in range(n)]
    values = [(1 << int(f.maker[w]), sum(1 << u for u in f.users[a:b].tolist()), bool(f.kept[w]),
               float(f.nbytes[w]))
              for w, (a, b) in enumerate(itertools.pairwise(f.user_ptr.tolist()))]  # fmt: skip
    sets = []
    for g in range(problem.candidates):
        mask = sum(1 << v for v in problem.group(g))
        outer = 0
        for v in problem.group(g):
            outer |= need[v]
        sets.append((mask, outer & ~mask, float(problem.cost[g]), float(f.written[g])))
    limit = math.inf if peaks else problem.limit
    seen = {0: 0.0}
    for done in range(1 << n):
        if done not in seen:
            continue
        live = sum(size for maker, users, kept, size in values
                   if maker & done and (kept or users & ~done))  # fmt: skip
        for mask, outer, cost, written in sets:
            if mask & done == 0 and outer & ~done == 0 and live + written <= limit:
                total = max(seen[done], live + written) if peaks else seen[done] + cost
                if total < seen.get(done | mask, math.inf):
                    seen[done | mask] = total
    return seen.get((1 << n) - 1, math.inf)
